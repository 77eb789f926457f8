/* SPDX-License-Identifier: Apache-2.0
 *
 * Hugging Face runs the patterns of tokenizer.json with Oniguruma (Ruby syntax, Unicode 14); this
 * runs them with PCRE2 (UTF and UCP, JIT). A pattern is first rewritten item by item, so that what
 * the two engines read differently becomes explicit, and what is not known to mean the same in both
 * is refused at load, with its place, instead of giving other ids at some rare string:
 *
 *     \s            \p{White_Space}      PCRE2's own \s takes U+180E, too
 *     \w            [...]                PCRE2's own \w lacks the marks; Oniguruma's has six No
 *     \p{Han}       \p{sc:Han}           PCRE2 would take script extensions
 *     ^ $           as they are          both match at lines, hence PCRE2_MULTILINE
 *     {n,m}+        refused              possessive in one, a repeat of a repeat in the other
 *     [[..] [&&..]  refused              sets in one, characters in the other
 *
 * Both backtrack in the same order, so a match that both find is the same match. Verified for each
 * code point on each of \s \w \d \p{L} \p{N}; characters newer than Unicode 14 follow PCRE2's
 * tables, as in Hugging Face they follow those of the Oniguruma that it was built with. */
#include "core/tokenizer/regex.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#include <string.h>
#include <time.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Backtracking steps in one find; a pattern of a real tokenizer needs a few a byte at most. */
#define REGEX_STEPS_MAX(text_bytes) (1000000U + 8U * (uint32_t)(text_bytes))
/* The time of a run is looked at once in so many finds. */
#define REGEX_FINDS_A_LOOK 64
#define REGEX_HEAP_KIB_MAX (64 * 1024)
/* The longest thing that one byte of a pattern is rewritten to. */
#define REGEX_GROWTH_MAX 64

#define WORD_CLASS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE"

struct abl_regex {
    pcre2_code *code;
};

/* The state of a rewrite: what is read, how far, and what was written. */
typedef struct regex_rewrite {
    abl_text pattern;
    size_t at;
    char *out; /* pattern.size * REGEX_GROWTH_MAX bytes */
    size_t out_size;
    abl_status *ret_status;
} regex_rewrite;

static void rewrite_put(regex_rewrite *rewrite, const char *text, size_t size) {
    ABL_ASSERT(rewrite->out_size + size <= rewrite->pattern.size * REGEX_GROWTH_MAX);
    memcpy(rewrite->out + rewrite->out_size, text, size);
    rewrite->out_size += size;
}

static void rewrite_puts(regex_rewrite *rewrite, const char *text) {
    rewrite_put(rewrite, text, strlen(text));
}

static bool rewrite_sees(const regex_rewrite *rewrite, const char *text) {
    size_t size = strlen(text);
    return rewrite->pattern.size - rewrite->at >= size &&
           memcmp(rewrite->pattern.data + rewrite->at, text, size) == 0;
}

static abl_code rewrite_refuse(const regex_rewrite *rewrite, const char *what) {
    return abl_fail(rewrite->ret_status, ABL_CODE_UNIMPLEMENTED, "TOKENIZER_UNSUPPORTED",
                    "tokenizer.json: a pattern has %s at byte %zu, which this tokenizer does not "
                    "support",
                    what, rewrite->at);
}

/* \p{..} and \P{..}: general categories as they are, some scripts by their plain property. */
static abl_code rewrite_property(regex_rewrite *rewrite) {
    static const char *const categories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc",
                                             "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
                                             "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",
                                             "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co"};
    static const char *const scripts[] = {"Han",   "Hiragana", "Katakana", "Hangul", "Latin",
                                          "Greek", "Cyrillic", "Arabic",   "Hebrew", "Thai"};
    const char *data = rewrite->pattern.data + rewrite->at;
    size_t left = rewrite->pattern.size - rewrite->at;
    const char *close = memchr(data, '}', left);
    if (left < 3 || data[2] != '{' || close == NULL) {
        return rewrite_refuse(rewrite, "a \\p without {..}");
    }
    bool negated = (data[1] == 'P') != (data[3] == '^');
    const char *name = data + 3 + (data[3] == '^' ? 1 : 0);
    size_t size = close > name ? (size_t)(close - name) : 0;
    const char *prefix = NULL;
    for (size_t i = 0; i < ABL_COUNT_OF(categories) && prefix == NULL; i++) {
        prefix =
            strlen(categories[i]) == size && memcmp(categories[i], name, size) == 0 ? "" : NULL;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(scripts) && prefix == NULL; i++) {
        prefix = strlen(scripts[i]) == size && memcmp(scripts[i], name, size) == 0 ? "sc:" : NULL;
    }
    if (prefix == NULL) {
        return rewrite_refuse(rewrite, "an unknown \\p{..}");
    }
    rewrite_puts(rewrite, negated ? "\\P{" : "\\p{");
    rewrite_puts(rewrite, prefix);
    rewrite_put(rewrite, name, size);
    rewrite_puts(rewrite, "}");
    rewrite->at += (size_t)(close - data) + 1;
    return ABL_CODE_OK;
}

/* \uHHHH and \x{H..} */
static abl_code rewrite_codepoint(regex_rewrite *rewrite) {
    const char *data = rewrite->pattern.data + rewrite->at;
    size_t left = rewrite->pattern.size - rewrite->at;
    bool braced = data[1] == 'x' && left > 2 && data[2] == '{';
    const char *digits = data + (braced ? 3 : 2);
    size_t most = left - (size_t)(digits - data);
    size_t count = 0;
    while (count < most && count < 6 && strchr("0123456789abcdefABCDEF", digits[count]) != NULL &&
           digits[count] != '\0' && (braced || count < 4)) {
        count++;
    }
    bool ends = braced ? count > 0 && count < most && digits[count] == '}' : count == 4;
    if (!ends || (data[1] == 'x' && !braced)) {
        return rewrite_refuse(rewrite, "a byte escape");
    }
    rewrite_puts(rewrite, "\\x{");
    rewrite_put(rewrite, digits, count);
    rewrite_puts(rewrite, "}");
    rewrite->at += (size_t)(digits - data) + count + (braced ? 1 : 0);
    return ABL_CODE_OK;
}

static abl_code rewrite_escape(regex_rewrite *rewrite, bool in_class) {
    char letter =
        rewrite->at + 1 < rewrite->pattern.size ? rewrite->pattern.data[rewrite->at + 1] : '\0';
    const char *text = NULL;
    switch (letter) {
    case 'p':
    case 'P':
        return rewrite_property(rewrite);
    case 'x':
    case 'u':
        return rewrite_codepoint(rewrite);
    case 's':
        text = "\\p{White_Space}";
        break;
    case 'S':
        text = "\\P{White_Space}";
        break;
    case 'd':
        text = "\\p{Nd}";
        break;
    case 'D':
        text = "\\P{Nd}";
        break;
    case 'w':
        text = in_class ? WORD_CLASS : "[" WORD_CLASS "]";
        break;
    case 'W':
        text = in_class ? NULL : "[^" WORD_CLASS "]";
        break;
    case 'r':
        text = "\\r";
        break;
    case 'n':
        text = "\\n";
        break;
    case 't':
        text = "\\t";
        break;
    default:
        break;
    }
    if (text != NULL) {
        rewrite_puts(rewrite, text);
    } else if (letter != '\0' && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", letter) != NULL) {
        rewrite_put(rewrite, rewrite->pattern.data + rewrite->at, 2);
    } else {
        return rewrite_refuse(rewrite, "an escape");
    }
    rewrite->at += 2;
    return ABL_CODE_OK;
}

static abl_code rewrite_class(regex_rewrite *rewrite) {
    size_t start = rewrite->at;
    bool negated = rewrite_sees(rewrite, "[^");
    rewrite_puts(rewrite, negated ? "[^" : "[");
    rewrite->at += negated ? 2 : 1;
    if (rewrite_sees(rewrite, "]")) {
        return rewrite_refuse(rewrite, "an empty class");
    }
    while (rewrite->at < rewrite->pattern.size) {
        const char *byte = rewrite->pattern.data + rewrite->at;
        abl_code code = ABL_CODE_OK;
        if (*byte == ']') {
            rewrite_puts(rewrite, "]");
            rewrite->at++;
            return ABL_CODE_OK;
        }
        if (*byte == '[' || rewrite_sees(rewrite, "&&")) {
            code = rewrite_refuse(rewrite, "a set inside a class");
        } else if (*byte == '\\') {
            code = rewrite_escape(rewrite, true);
        } else {
            rewrite_put(rewrite, byte, 1);
            rewrite->at++;
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    rewrite->at = start;
    return rewrite_refuse(rewrite, "a class without end");
}

static abl_code rewrite_group(regex_rewrite *rewrite) {
    static const char *const openings[] = {
        "(?:", "(?i:", "(?-i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    const char *opening = rewrite_sees(rewrite, "(?") || rewrite_sees(rewrite, "(*") ? NULL : "(";
    for (size_t i = 0; i < ABL_COUNT_OF(openings) && opening == NULL; i++) {
        opening = rewrite_sees(rewrite, openings[i]) ? openings[i] : NULL;
    }
    if (opening == NULL) {
        return rewrite_refuse(rewrite, "a kind of group");
    }
    rewrite_puts(rewrite, opening);
    rewrite->at += strlen(opening);
    return ABL_CODE_OK;
}

/* {n}, {n,} and {n,m}, greedy or lazy. */
static abl_code rewrite_repeat(regex_rewrite *rewrite) {
    const char *data = rewrite->pattern.data + rewrite->at;
    size_t left = rewrite->pattern.size - rewrite->at;
    const char *close = memchr(data, '}', left);
    size_t size = close == NULL ? 0 : (size_t)(close - data) + 1;
    bool ok = size > 2 && size < 14 && data[1] >= '0' && data[1] <= '9' &&
              (size == left || data[size] != '+');
    for (size_t i = 1, commas = 0; ok && i + 1 < size; i++) {
        commas += data[i] == ',' ? 1 : 0;
        ok = commas < 2 && ((data[i] >= '0' && data[i] <= '9') || data[i] == ',');
    }
    if (!ok) {
        return rewrite_refuse(rewrite, "a repeat in braces");
    }
    rewrite_put(rewrite, data, size);
    rewrite->at += size;
    return ABL_CODE_OK;
}

static abl_code rewrite_all(regex_rewrite *rewrite) {
    abl_code code = ABL_CODE_OK;
    while (rewrite->at < rewrite->pattern.size && code == ABL_CODE_OK) {
        switch (rewrite->pattern.data[rewrite->at]) {
        case '\\':
            code = rewrite_escape(rewrite, false);
            break;
        case '[':
            code = rewrite_class(rewrite);
            break;
        case '(':
            code = rewrite_group(rewrite);
            break;
        case '{':
            code = rewrite_repeat(rewrite);
            break;
        default:
            rewrite_put(rewrite, rewrite->pattern.data + rewrite->at, 1);
            rewrite->at++;
            break;
        }
    }
    return code;
}

static void *regex_malloc(size_t bytes, void *user_data) {
    (void)user_data;
    return abl_malloc(bytes);
}

static void regex_free(void *block, void *user_data) {
    (void)user_data;
    abl_free(block);
}

static abl_code regex_compile(abl_regex *regex, const char *pattern, size_t size,
                              abl_status *ret_status) {
    pcre2_general_context *general = pcre2_general_context_create(regex_malloc, regex_free, NULL);
    pcre2_compile_context *context = pcre2_compile_context_create(general);
    int error = PCRE2_ERROR_NOMEMORY;
    PCRE2_SIZE offset = 0;
    if (general != NULL && context != NULL) {
        (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        regex->code =
            pcre2_compile((PCRE2_SPTR)pattern, size,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                          &offset, context);
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    if (regex->code != NULL) {
        (void)pcre2_jit_compile(regex->code,
                                PCRE2_JIT_COMPLETE); /* without it: slower, not wrong */
        return ABL_CODE_OK;
    }
    if (error == PCRE2_ERROR_NOMEMORY || error == PCRE2_ERROR_HEAP_FAILED) {
        return abl_fail_oom(ret_status);
    }
    char words[128] = "";
    (void)pcre2_get_error_message(error, (PCRE2_UCHAR *)words, sizeof words);
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKENIZER_INVALID",
                    "tokenizer.json: a pattern is not a regular expression: %s", words);
}

abl_code abl_regex_create(abl_text pattern, abl_regex **ret_regex, abl_status *ret_status) {
    if (pattern.size == 0 || pattern.size > ABL_REGEX_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKENIZER_INVALID",
                        "tokenizer.json: a pattern has %zu bytes; 1 to %d are allowed",
                        pattern.size, ABL_REGEX_BYTES_MAX);
    }
    regex_rewrite rewrite = {.pattern = pattern, .ret_status = ret_status};
    rewrite.out = abl_malloc(pattern.size * REGEX_GROWTH_MAX);
    abl_regex *regex = abl_calloc(1, sizeof *regex);
    abl_code code =
        rewrite.out == NULL || regex == NULL ? abl_fail_oom(ret_status) : rewrite_all(&rewrite);
    if (code == ABL_CODE_OK) {
        code = regex_compile(regex, rewrite.out, rewrite.out_size, ret_status);
    }
    abl_free(rewrite.out);
    if (code != ABL_CODE_OK) {
        abl_regex_destroy(regex);
        return code;
    }
    *ret_regex = regex;
    return ABL_CODE_OK;
}

void abl_regex_destroy(abl_regex *regex) {
    if (regex != NULL) {
        pcre2_code_free(regex->code);
        abl_free(regex);
    }
}

size_t abl_regex_bytes(const abl_regex *regex) {
    size_t code_bytes = 0;
    size_t jit_bytes = 0;
    (void)pcre2_pattern_info(regex->code, PCRE2_INFO_SIZE, &code_bytes);
    (void)pcre2_pattern_info(regex->code, PCRE2_INFO_JITSIZE, &jit_bytes);
    return sizeof *regex + code_bytes + jit_bytes;
}

static abl_code run_start(abl_regex_run *run, abl_status *ret_status) {
    pcre2_general_context *general = pcre2_general_context_create(regex_malloc, regex_free, NULL);
    if (general != NULL) {
        run->match_context = pcre2_match_context_create(general);
        run->match_data = pcre2_match_data_create(1, general);
        pcre2_general_context_free(general);
    }
    if (run->match_context == NULL || run->match_data == NULL) {
        abl_regex_run_finish(run);
        return abl_fail_oom(ret_status);
    }
    (void)pcre2_set_heap_limit(run->match_context, REGEX_HEAP_KIB_MAX);
    return ABL_CODE_OK;
}

static uint64_t thread_ms(void) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Finds are bounded one by one, but a text may need as many as it has bytes. */
static abl_code run_check_time(abl_regex_run *run, abl_status *ret_status) {
    if (run->find_count++ % REGEX_FINDS_A_LOOK != 0) {
        return ABL_CODE_OK;
    }
    uint64_t now_ms = thread_ms();
    run->start_ms = run->find_count == 1 ? now_ms : run->start_ms;
    if (now_ms - run->start_ms > ABL_REGEX_MS_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "REGEX_LIMIT",
                        "the tokenizer's pattern takes more than %d ms on this text",
                        ABL_REGEX_MS_MAX);
    }
    return ABL_CODE_OK;
}

void abl_regex_run_finish(abl_regex_run *run) {
    pcre2_match_data_free(run->match_data);
    pcre2_match_context_free(run->match_context);
    *run = (abl_regex_run){0};
}

abl_code abl_regex_find(const abl_regex *regex, abl_regex_run *run, abl_text text, size_t from,
                        bool *ret_found, size_t *ret_start, size_t *ret_end,
                        abl_status *ret_status) {
    abl_code code = run->match_data == NULL ? run_start(run, ret_status) : ABL_CODE_OK;
    code = code == ABL_CODE_OK ? run_check_time(run, ret_status) : code;
    if (code != ABL_CODE_OK) {
        return code;
    }
    (void)pcre2_set_match_limit(run->match_context, REGEX_STEPS_MAX(text.size));
    int found = pcre2_match(regex->code, (PCRE2_SPTR)text.data, text.size, from, PCRE2_NO_UTF_CHECK,
                            run->match_data, run->match_context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) { /* the interpreter's stack is on the heap */
        found = pcre2_match(regex->code, (PCRE2_SPTR)text.data, text.size, from,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, run->match_data, run->match_context);
    }
    if (found == PCRE2_ERROR_NOMEMORY) {
        return abl_fail_oom(ret_status);
    }
    if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "REGEX_LIMIT",
                        "the tokenizer's pattern backtracks too long on this text (PCRE2 error %d)",
                        found);
    }
    *ret_found = found >= 0;
    if (found >= 0) {
        const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(run->match_data);
        *ret_start = offsets[0];
        *ret_end = offsets[1];
    }
    return ABL_CODE_OK;
}
