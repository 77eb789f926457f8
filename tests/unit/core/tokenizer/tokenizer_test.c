/* SPDX-License-Identifier: Apache-2.0
 *
 * Small tokenizers written out here, so that each id can be followed by eye. Agreement with Hugging
 * Face on real tokenizers and random strings is tests/golden/test_tokenizer.py. */
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define VOCAB                                                                                      \
    "{\"a\":0,\"b\":1,\"c\":2,\"1\":3,\"2\":4,\"\\u0120\":5,\"ab\":6,\"bc\":7,\"abc\":8,"          \
    "\"\\u0120a\":9,\"12\":10,\"aa\":11,\"\\u00c3\":12,\"\\u00a9\":13,\"\\u0130\":14,"             \
    "\"cab\":15}"
#define MERGES "[\"b c\",\"a b\",\"a bc\",\"\\u0120 a\",\"1 2\",\"a a\"]"
#define ADDED(id, content, flags)                                                                  \
    "{\"id\":" #id ",\"content\":\"" content "\"," flags "\"special\":true}"
/* A file of those parts. */
#define FILE_OF(added, normalizer, pre_tokenizer, model_more)                                      \
    "{\"added_tokens\":[" added "],\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre_tokenizer \
    ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB           \
    ",\"merges\":" MERGES model_more "}}"
#define SEQUENCE(first) "{\"type\":\"Sequence\",\"pretokenizers\":[" first "," BYTE_LEVEL "]}"
#define SPLIT(pattern, behavior, invert)                                                           \
    "{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behavior "\",\"invert\":" invert \
    "}"

static const char PLAIN[] = FILE_OF("", "null", BYTE_LEVEL, "");

static abl_tokenizer *tokenizer_of(const char *json) {
    abl_tokenizer *tokenizer = NULL;
    abl_status status = {0};
    const abl_tokenizer_options options = {.bytes = json, .byte_count = strlen(json)};
    if (abl_tokenizer_create(&options, &tokenizer, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    return tokenizer;
}

/* The ids of a text, as "1 2 3". */
static const char *ids_of(const abl_tokenizer *tokenizer, const char *text) {
    static char line[512];
    int32_t *ids = NULL;
    size_t count = 0;
    abl_status status = {0};
    if (abl_tokenizer_encode(tokenizer, text, strlen(text), &ids, &count, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    line[0] = '\0';
    for (size_t i = 0, at = 0; i < count && at < sizeof line - 16; i++) {
        at += (size_t)snprintf(line + at, sizeof line - at, i == 0 ? "%d" : " %d", ids[i]);
    }
    abl_free(ids);
    return line;
}

static void expect_ids(const char *json, const char *text, const char *ids) {
    abl_tokenizer *tokenizer = tokenizer_of(json);
    assert_string_equal(ids_of(tokenizer, text), ids);
    abl_tokenizer_destroy(tokenizer);
}

static void merges_apply_by_rank_and_then_from_the_left(void **state) {
    (void)state;
    expect_ids(PLAIN, "abc", "8");        /* bc is ranked before ab */
    expect_ids(PLAIN, "aaa", "11 0");     /* equal ranks: the left one */
    expect_ids(PLAIN, "cab", "2 6");      /* in the vocabulary, but no merge makes it */
    expect_ids(PLAIN, "ab abc", "6 5 8"); /* "a bc" comes before "_ a" */
    expect_ids(PLAIN, "", "");
}

static void both_forms_of_merges_read_alike(void **state) {
    (void)state;
    expect_ids("{\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":{\"vocab\":" VOCAB
               ",\"merges\":[[\"b\",\"c\"],[\"a\",\"b\"],[\"a\",\"bc\"]]}}",
               "abcab", "8 6");
}

static void a_version_line_among_merges_has_no_rank(void **state) {
    (void)state;
    expect_ids("{\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":{\"vocab\":" VOCAB
               ",\"merges\":[\"#version: 0.2\",\"b c\",\"a b\"]}}",
               "abc", "0 7");
}

static void a_byte_without_a_token_is_lost(void **state) {
    (void)state;
    expect_ids(PLAIN, "axb", "6");
}

static void ignore_merges_takes_a_word_that_is_a_token(void **state) {
    (void)state;
    expect_ids(FILE_OF("", "null", BYTE_LEVEL, ",\"ignore_merges\":true"), "cab", "15");
}

static void bytes_beyond_ascii_are_found(void **state) {
    (void)state;
    expect_ids(PLAIN, "\xC3\xA9\x0E", "12 13"); /* U+0130 stands for 0x8E, not for 0x0E */
}

static void added_tokens_are_found_verbatim_and_the_longest_wins(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(
        FILE_OF(ADDED(16, "<x>", "") "," ADDED(17, "<x>y", ""), "null", BYTE_LEVEL, ""));
    assert_string_equal(ids_of(tokenizer, "a<x>b<x>yc<x"), "0 16 1 17 2");
    assert_true(abl_tokenizer_token_is_special(tokenizer, 17));
    assert_false(abl_tokenizer_token_is_special(tokenizer, 3));
    assert_false(abl_tokenizer_token_is_special(tokenizer, 99));
    abl_tokenizer_destroy(tokenizer);
}

static void added_tokens_take_white_space_as_asked(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(
        FILE_OF(ADDED(16, "<l>", "\"lstrip\":true,") "," ADDED(17, "<r>", "\"rstrip\":true,"),
                "null", BYTE_LEVEL, ""));
    assert_string_equal(ids_of(tokenizer, "a \xE2\x80\x83<l> b"), "0 16 5 1");
    assert_string_equal(ids_of(tokenizer, "a <r> \n b"), "0 5 17 1");
    assert_string_equal(ids_of(tokenizer, "<r>  <l>"), "17 16");
    abl_tokenizer_destroy(tokenizer);
}

static void a_single_word_token_is_none_inside_a_word(void **state) {
    (void)state;
    abl_tokenizer *tokenizer =
        tokenizer_of(FILE_OF(ADDED(16, "cc", "\"single_word\":true,"), "null", BYTE_LEVEL, ""));
    assert_string_equal(ids_of(tokenizer, "cc"), "16");
    assert_string_equal(ids_of(tokenizer, "acc"), "0 2 2");
    assert_string_equal(ids_of(tokenizer, "\xC3\xA9"
                                          "cc"),
                        "12 13 2 2");
    assert_string_equal(ids_of(tokenizer, "a cc a"), "0 5 16 9");
    abl_tokenizer_destroy(tokenizer);
}

static void a_normalized_token_is_found_in_the_composed_text(void **state) {
    (void)state;
    expect_ids(FILE_OF(ADDED(16, "e\\u0301", "\"normalized\":true,"), "{\"type\":\"NFC\"}",
                       BYTE_LEVEL, ""),
               "a\xC3\xA9", "0 16");
    expect_ids(FILE_OF("", "{\"type\":\"NFC\"}", BYTE_LEVEL, ""), "e\xCC\x81", "12 13");
}

static void digits_stand_alone(void **state) {
    (void)state;
    expect_ids(PLAIN, "12", "10");
    expect_ids(
        FILE_OF("", "null", SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}"), ""),
        "a12", "0 3 4");
    expect_ids(
        FILE_OF("", "null", SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":false}"), ""),
        "a12", "0 10");
}

static void a_prefix_space_is_put_before_each_piece(void **state) {
    (void)state;
    expect_ids(FILE_OF(ADDED(16, "<x>", ""), "null",
                       "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", ""),
               "a<x>a a", "9 16 9 9");
}

static void splits_behave_as_their_names_say(void **state) {
    (void)state;
    /* The words decide what merges: "a", "b" and "c" would be 8 together. */
    expect_ids(FILE_OF("", "null", SEQUENCE(SPLIT("{\"String\":\"b\"}", "Isolated", "false")), ""),
               "abc", "0 1 2");
    expect_ids(FILE_OF("", "null", SEQUENCE(SPLIT("{\"String\":\"b\"}", "Removed", "false")), ""),
               "abc", "0 2");
    expect_ids(FILE_OF("", "null", SEQUENCE(SPLIT("{\"String\":\"b\"}", "Removed", "true")), ""),
               "abc", "1");
    expect_ids(FILE_OF("", "null",
                       SEQUENCE(SPLIT("{\"String\":\"b\"}", "MergedWithPrevious", "false")), ""),
               "abc", "6 2");
    expect_ids(
        FILE_OF("", "null", SEQUENCE(SPLIT("{\"String\":\"b\"}", "MergedWithNext", "false")), ""),
        "abc", "0 7");
    expect_ids(
        FILE_OF("", "null", SEQUENCE(SPLIT("{\"Regex\":\"[ab]\"}", "Contiguous", "false")), ""),
        "abc", "6 2");
}

static void white_space_is_that_of_unicode(void **state) {
    (void)state;
    const char *json =
        FILE_OF("", "null", SEQUENCE(SPLIT("{\"Regex\":\"\\\\s\"}", "Removed", "false")), "");
    expect_ids(json,
               "a\xC2\xA0"
               "b\xE3\x80\x80"
               "c",
               "0 1 2");
    /* U+180E was white space once, and still is to PCRE2's own \s; its last byte is token 14. */
    expect_ids(json,
               "a\xE1\xA0\x8E"
               "b",
               "0 14 1");
}

static void decoding_gives_the_bytes_back(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(
        FILE_OF(ADDED(16, "<x>", "") "," ADDED(17, "\\uff5c", ""), "null", BYTE_LEVEL, ""));
    const int32_t ids[] = {16, 9, 12, 13, 17};
    char *text = NULL;
    size_t size = 0;
    abl_status status = {0};
    assert_int_equal(abl_tokenizer_decode(tokenizer, ids, 5, NULL, &text, &size, &status), 0);
    assert_string_equal(text, "<x> a\xC3\xA9\xEF\xBD\x9C");
    assert_int_equal(size, strlen(text));
    abl_free(text);
    const abl_decode_options skip = {.skip_special = true};
    assert_int_equal(abl_tokenizer_decode(tokenizer, ids, 4, &skip, &text, &size, &status), 0);
    assert_string_equal(text, " a\xC3\xA9");
    abl_free(text);
    const char *token = abl_tokenizer_token_text(tokenizer, 9, &size);
    assert_non_null(token);
    assert_memory_equal(token, " a", 2);
    assert_int_equal(size, 2);
    assert_null(abl_tokenizer_token_text(tokenizer, 18, &size));
    assert_null(abl_tokenizer_token_text(tokenizer, -1, &size));
    abl_tokenizer_destroy(tokenizer);
}

static void half_a_character_decodes_to_a_replacement_or_to_its_byte(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(PLAIN);
    const int32_t ids[] = {0, 12, 1};
    const abl_decode_options exact = {.exact_bytes = true};
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(abl_tokenizer_decode(tokenizer, ids, 3, NULL, &text, &size, NULL), 0);
    assert_string_equal(text, "a\xEF\xBF\xBD"
                              "b");
    abl_free(text);
    assert_int_equal(abl_tokenizer_decode(tokenizer, ids, 3, &exact, &text, &size, NULL), 0);
    assert_string_equal(text, "a\xC3"
                              "b");
    abl_free(text);
    abl_tokenizer_destroy(tokenizer);
}

static void an_unknown_id_is_refused_by_number(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(PLAIN);
    const int32_t ids[] = {0, 4000};
    char *text = NULL;
    size_t size = 0;
    abl_status status = {0};
    assert_int_equal(abl_tokenizer_decode(tokenizer, ids, 2, NULL, &text, &size, &status),
                     ABL_CODE_OUT_OF_RANGE);
    assert_string_equal(status.reason, "TOKEN_UNKNOWN");
    assert_non_null(strstr(status.message, "4000"));
    assert_null(text);
    abl_tokenizer_destroy(tokenizer);
}

static void finding_a_token_is_exact(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(FILE_OF(ADDED(16, "<x>", ""), "null", BYTE_LEVEL, ""));
    assert_int_equal(abl_tokenizer_find(tokenizer, " a", 2), 9);
    assert_int_equal(abl_tokenizer_find(tokenizer, "<x>", 3), 16);
    assert_int_equal(abl_tokenizer_find(tokenizer, "cab", 3), 15);
    assert_int_equal(abl_tokenizer_find(tokenizer, "ba", 2), ABL_TOKEN_NONE);
    assert_int_equal(abl_tokenizer_find(tokenizer, "", 0), ABL_TOKEN_NONE);
    assert_int_equal(abl_tokenizer_id_end(tokenizer), 17);
    assert_true(abl_tokenizer_bytes(tokenizer) > 1000);
    abl_tokenizer_destroy(tokenizer);
}

static void the_bos_is_the_first_that_exists(void **state) {
    (void)state;
    const char *json =
        FILE_OF(ADDED(16, "<|endoftext|>", "") "," ADDED(17, "<b>", ""), "null", BYTE_LEVEL, "");
    const abl_tokenizer_options cases[] = {
        {.bos_token = "<b>", .bos_id_known = true, .bos_id = 3},
        {.bos_token = "<missing>", .bos_id_known = true, .bos_id = 3},
        {.bos_id_known = true, .bos_id = 18},
        {0},
    };
    const int32_t expected[] = {17, 3, 16, 16};
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        abl_tokenizer_options options = cases[i];
        options.bytes = json;
        options.byte_count = strlen(json);
        abl_tokenizer *tokenizer = NULL;
        assert_int_equal(abl_tokenizer_create(&options, &tokenizer, NULL), ABL_CODE_OK);
        assert_int_equal(abl_tokenizer_bos_id(tokenizer), expected[i]);
        abl_tokenizer_destroy(tokenizer);
    }
    abl_tokenizer *tokenizer = tokenizer_of(PLAIN);
    assert_int_equal(abl_tokenizer_bos_id(tokenizer), ABL_TOKEN_NONE);
    abl_tokenizer_destroy(tokenizer);
}

static void text_that_is_not_utf8_is_refused_with_its_place(void **state) {
    (void)state;
    static const char *const bad[] = {"ab\xFF", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\x80",
                                      "ab\xF4\x90\x80\x80"};
    abl_tokenizer *tokenizer = tokenizer_of(PLAIN);
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        abl_status status = {0};
        assert_int_equal(
            abl_tokenizer_encode(tokenizer, bad[i], strlen(bad[i]), &ids, &count, &status),
            ABL_CODE_INVALID_ARGUMENT);
        assert_string_equal(status.reason, "TEXT_NOT_UTF8");
        assert_non_null(strstr(status.message, "byte 2"));
        assert_null(ids);
    }
    abl_tokenizer_destroy(tokenizer);
}

static void the_longest_text_is_one_word_and_one_byte_more_is_refused(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = tokenizer_of(PLAIN);
    char *text = abl_malloc(ABL_TEXT_BYTES_MAX + 1);
    assert_non_null(text);
    memset(text, 'a', ABL_TEXT_BYTES_MAX + 1);
    int32_t *ids = NULL;
    size_t count = 0;
    abl_status status = {0};
    assert_int_equal(
        abl_tokenizer_encode(tokenizer, text, ABL_TEXT_BYTES_MAX, &ids, &count, &status), 0);
    assert_int_equal(count, ABL_TEXT_BYTES_MAX / 2);
    abl_free(ids);
    assert_int_equal(
        abl_tokenizer_encode(tokenizer, text, ABL_TEXT_BYTES_MAX + 1, &ids, &count, &status),
        ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "TEXT_TOO_LONG");
    abl_free(text);
    abl_tokenizer_destroy(tokenizer);
}

/* What the text of so many 'a' gives with a pattern. */
static void expect_limit(const char *json, size_t size, const char *words) {
    abl_tokenizer *tokenizer = tokenizer_of(json);
    char *text = abl_malloc(size);
    assert_non_null(text);
    memset(text, 'a', size);
    int32_t *ids = NULL;
    size_t count = 0;
    abl_status status = {0};
    assert_int_equal(abl_tokenizer_encode(tokenizer, text, size, &ids, &count, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "REGEX_LIMIT");
    assert_non_null(strstr(status.message, words));
    abl_free(text);
    abl_tokenizer_destroy(tokenizer);
}

static void a_pattern_that_backtracks_without_end_is_stopped(void **state) {
    (void)state;
    expect_limit(FILE_OF("", "null",
                         SEQUENCE(SPLIT("{\"Regex\":\"(?:a|aa|a+)+[bc]\"}", "Isolated", "false")),
                         ""),
                 401, "too long");
}

static void many_slow_finds_are_stopped_as_one_is(void **state) {
    (void)state;
    /* Each find tries every way to split the 18 before it gives the one a. */
    expect_limit(
        FILE_OF("", "null",
                SEQUENCE(SPLIT("{\"Regex\":\"(?=(?:a|aa){18}[bc])a|a\"}", "Isolated", "false")),
                ""),
        ABL_TEXT_BYTES_MAX, "ms");
}

typedef struct refusal {
    const char *json;
    abl_code code;
    const char *words; /* in the message */
} refusal;

#define INVALID ABL_CODE_INVALID_ARGUMENT
#define MODEL(vocab, merges, more)                                                                 \
    "{\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":{\"vocab\":" vocab ",\"merges\":" merges more "}" \
    "}"
#define PRE(pre_tokenizer)                                                                         \
    "{\"pre_tokenizer\":" pre_tokenizer ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}"

static const refusal refusals[] = {
    {"", INVALID, "line 1"},
    {"{", INVALID, "line 1"},
    {"[]", INVALID, "'model'"},
    {"{\"model\":{}}", INVALID, "'model.vocab'"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", ABL_CODE_UNIMPLEMENTED, "BPE"},
    {"{\"model\":{\"vocab\":{\"\xFF\":0}}}", INVALID, "byte 0xff"},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", INVALID, "'model.merges'"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", ABL_CODE_UNIMPLEMENTED, "pre_tokenizer"},
    {MODEL("{\"a\":0,\"b\":0}", "[]", ""), INVALID, "two tokens have the id 0"},
    {MODEL("{\"a\":0,\"a\":1}", "[]", ""), INVALID, "duplicate"},
    {MODEL("{}", "[]", ""), INVALID, "no token"},
    {MODEL("{\"a\":-1}", "[]", ""), INVALID, "model.vocab"},
    {MODEL("{\"a\":1.0}", "[]", ""), INVALID, "model.vocab"},
    {MODEL("{\"a\":\"0\"}", "[]", ""), INVALID, "model.vocab"},
    {MODEL("{\"a\":2000000000}", "[]", ""), ABL_CODE_RESOURCE_EXHAUSTED, "2000000000"},
    {MODEL("{\"a\":9223372036854775807}", "[]", ""), ABL_CODE_RESOURCE_EXHAUSTED, "largest"},
    {MODEL("{\"a\":4000000}", "[]", ""), ABL_CODE_RESOURCE_EXHAUSTED, "gaps"},
    {MODEL("{\"a\":99999999999999999999}", "[]", ""), INVALID, "line 1"},
    {MODEL("{\"a\":0,\"b\":1}", "[\"a b\"]", ""), INVALID, "model.merges[0]: what it merges to"},
    {MODEL("{\"a\":0,\"b\":1}", "[\"a x\"]", ""), INVALID, "its right token"},
    {MODEL("{\"a\":0,\"b\":1}", "[\"x a\"]", ""), INVALID, "its left token"},
    {MODEL("{\"a\":0}", "[\"a\"]", ""), INVALID, "model.merges[0]"},
    {MODEL("{\"a\":0}", "[\"a a a\"]", ""), INVALID, "model.merges[0]"},
    {MODEL("{\"a\":0}", "[[\"a\"]]", ""), INVALID, "model.merges[0]"},
    {MODEL("{\"a\":0}", "[[\"a\",1]]", ""), INVALID, "model.merges[0]"},
    {MODEL("{\"a\":0}", "[7]", ""), INVALID, "model.merges[0]"},
    {MODEL("{\"a\":0}", "{}", ""), INVALID, "'model.merges'"},
    {MODEL("{\"a\":0}", "[]", ",\"dropout\":0.1"), ABL_CODE_UNIMPLEMENTED, "dropout"},
    {MODEL("{\"a\":0}", "[]", ",\"byte_fallback\":true"), ABL_CODE_UNIMPLEMENTED, "byte_fallback"},
    {MODEL("{\"a\":0}", "[]", ",\"unk_token\":\"a\""), ABL_CODE_UNIMPLEMENTED, "unk_token"},
    {MODEL("{\"a\":0}", "[]", ",\"end_of_word_suffix\":\"</w>\""), ABL_CODE_UNIMPLEMENTED,
     "end_of_word_suffix"},
    {MODEL("{\"a\":0}", "[]", ",\"continuing_subword_prefix\":\"##\""), ABL_CODE_UNIMPLEMENTED,
     "continuing_subword_prefix"},
    {FILE_OF("7", "null", BYTE_LEVEL, ""), INVALID, "added_tokens"},
    {FILE_OF("{\"id\":16}", "null", BYTE_LEVEL, ""), INVALID, "added_tokens[0].content"},
    {FILE_OF(ADDED(16, "", ""), "null", BYTE_LEVEL, ""), INVALID, "added_tokens[0].content"},
    {FILE_OF(ADDED(3, "<x>", ""), "null", BYTE_LEVEL, ""), INVALID, "its place gives it 16"},
    {FILE_OF(ADDED(16, "a", ""), "null", BYTE_LEVEL, ""), INVALID, "its place gives it 0"},
    {FILE_OF(ADDED(16, "<x>", "") "," ADDED(17, "<x>", ""), "null", BYTE_LEVEL, ""), INVALID,
     "two added tokens"},
    {FILE_OF("", "{\"type\":\"NFKC\"}", BYTE_LEVEL, ""), ABL_CODE_UNIMPLEMENTED, "NFC"},
    {FILE_OF("", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}", BYTE_LEVEL,
             ""),
     ABL_CODE_UNIMPLEMENTED, "normalizers[0]"},
    {PRE("{\"type\":\"Whitespace\"}"), ABL_CODE_UNIMPLEMENTED, "pre_tokenizer"},
    {PRE("{\"type\":\"ByteLevel\"}"), INVALID, "add_prefix_space"},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[]}"), ABL_CODE_UNIMPLEMENTED, "pre_tokenizer"},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL
         ",{\"type\":\"Digits\",\"individual_digits\":true}]}"),
     ABL_CODE_UNIMPLEMENTED, "ends with ByteLevel"},
    {PRE(SEQUENCE("{\"type\":\"Punctuation\"}")), ABL_CODE_UNIMPLEMENTED, "pretokenizers[0]"},
    {PRE(SEQUENCE("{\"type\":\"Digits\"}")), INVALID, "individual_digits"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"a\"}", "Shredded", "false"))), INVALID, "behavior"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"a\"}", "Isolated", "1"))), INVALID, "invert"},
    {PRE(SEQUENCE(SPLIT("{}", "Isolated", "false"))), INVALID, "pattern"},
    {PRE(SEQUENCE(SPLIT("{\"String\":\"\"}", "Isolated", "false"))), INVALID, "pattern"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"(a\"}", "Isolated", "false"))), INVALID, "regular"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"a{2}+\"}", "Isolated", "false"))), ABL_CODE_UNIMPLEMENTED,
     "byte 1"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"[a&&b]\"}", "Isolated", "false"))), ABL_CODE_UNIMPLEMENTED,
     "set"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"\\\\p{Wavy}\"}", "Isolated", "false"))),
     ABL_CODE_UNIMPLEMENTED, "\\p"},
    {PRE(SEQUENCE(SPLIT("{\"Regex\":\"(?<n>a)\"}", "Isolated", "false"))), ABL_CODE_UNIMPLEMENTED,
     "group"},
};

static void a_bad_file_is_refused_with_words(void **state) {
    (void)state;
    for (size_t i = 0; i < ABL_COUNT_OF(refusals); i++) {
        const refusal *wanted = &refusals[i];
        abl_tokenizer *tokenizer = NULL;
        abl_status status = {0};
        const abl_tokenizer_options options = {.bytes = wanted->json,
                                               .byte_count = strlen(wanted->json)};
        abl_code code = abl_tokenizer_create(&options, &tokenizer, &status);
        if (code != wanted->code || strstr(status.message, wanted->words) == NULL) {
            fail_msg("%s\ngives %s: %s", wanted->json, abl_code_name(code), status.message);
        }
        assert_null(tokenizer);
    }
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    static char json[200001];
    memset(json, '[', sizeof json - 1);
    abl_tokenizer *tokenizer = NULL;
    const abl_tokenizer_options options = {.bytes = json, .byte_count = sizeof json - 1};
    assert_int_equal(abl_tokenizer_create(&options, &tokenizer, NULL), INVALID);
}

static void a_missing_file_is_not_found(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = NULL;
    abl_status status = {0};
    const char *paths[] = {"/nonexistent/tokenizer.json", "/"};
    for (size_t i = 0; i < ABL_COUNT_OF(paths); i++) {
        const abl_tokenizer_options options = {.path = paths[i]};
        assert_int_equal(abl_tokenizer_create(&options, &tokenizer, &status), ABL_CODE_NOT_FOUND);
        assert_string_equal(status.reason, "TOKENIZER_FILE_MISSING");
    }
}

static void a_trained_tokenizer_gives_the_recorded_ids(void **state) {
    (void)state;
    abl_tokenizer *tokenizer = NULL;
    abl_status status = {0};
    const abl_tokenizer_options options = {.path = ABLATE_SOURCE_DIR
                                           "/tests/golden/data/models/tiny-ioi/tokenizer.json"};
    if (abl_tokenizer_create(&options, &tokenizer, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    assert_string_equal(
        ids_of(tokenizer, "When Mary and John went to the store, John gave a drink to"),
        "398 479 266 532 305 263 260 405 12 532 293 259 372 263");
    assert_string_equal(ids_of(tokenizer, "<|endoftext|>H\xC3\xA9llo  w\xC3\xB6rld 123\n\n"),
                        "0 40 128 103 513 221 264 128 115 82 76 68 690 199 199");
    assert_int_equal(abl_tokenizer_bos_id(tokenizer), 0);
    abl_tokenizer_destroy(tokenizer);
}

/* Everything that create, encode and decode allocate, PCRE2's share included. Not jansson's: when
 * its lexer cannot grow a buffer it blames the text, or drops a character and goes on (2.14). */
static abl_code use_everything(abl_status *ret_status) {
    static const char json[] = FILE_OF(
        ADDED(16, "<x>", "\"single_word\":true,") "," ADDED(17, "e\\u0301", "\"normalized\":true,"),
        "{\"type\":\"NFC\"}",
        SEQUENCE(SPLIT("{\"Regex\":\"[ab]\"}", "Contiguous",
                       "false") "," SPLIT("{\"String\":\"1\"}", "Isolated", "false")),
        "");
    static const char text[] = "abc 12 <x> e\xCC\x81 cab";
    const abl_tokenizer_options options = {.bytes = json, .byte_count = sizeof json - 1};
    abl_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    char *decoded = NULL;
    size_t size = 0;
    abl_code code = abl_tokenizer_create(&options, &tokenizer, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &count, ret_status);
    }
    if (code == ABL_CODE_OK) {
        const int32_t half[] = {12};
        code = abl_tokenizer_decode(tokenizer, half, 1, NULL, &decoded, &size, ret_status);
    }
    abl_free(ids);
    abl_free(decoded);
    abl_tokenizer_destroy(tokenizer);
    return code;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    uint64_t before = abl_mem_count();
    assert_int_equal(use_everything(NULL), ABL_CODE_OK);
    uint64_t count = abl_mem_count() - before;
    assert_true(count > 30);
    uint64_t refused = 0;
    for (uint64_t n = 1; n <= count; n++) {
        abl_status status = {0};
        abl_mem_fail_after(n);
        abl_code code = use_everything(&status);
        abl_mem_fail_after(0);
        if (code != ABL_CODE_OK) {
            assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
            assert_string_equal(status.reason, "OUT_OF_HOST_MEMORY");
            refused++;
        }
    }
    assert_true(refused > count / 2); /* the rest: PCRE2's JIT compiler, which it does without */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_apply_by_rank_and_then_from_the_left),
        cmocka_unit_test(both_forms_of_merges_read_alike),
        cmocka_unit_test(a_version_line_among_merges_has_no_rank),
        cmocka_unit_test(a_byte_without_a_token_is_lost),
        cmocka_unit_test(ignore_merges_takes_a_word_that_is_a_token),
        cmocka_unit_test(bytes_beyond_ascii_are_found),
        cmocka_unit_test(added_tokens_are_found_verbatim_and_the_longest_wins),
        cmocka_unit_test(added_tokens_take_white_space_as_asked),
        cmocka_unit_test(a_single_word_token_is_none_inside_a_word),
        cmocka_unit_test(a_normalized_token_is_found_in_the_composed_text),
        cmocka_unit_test(digits_stand_alone),
        cmocka_unit_test(a_prefix_space_is_put_before_each_piece),
        cmocka_unit_test(splits_behave_as_their_names_say),
        cmocka_unit_test(white_space_is_that_of_unicode),
        cmocka_unit_test(decoding_gives_the_bytes_back),
        cmocka_unit_test(half_a_character_decodes_to_a_replacement_or_to_its_byte),
        cmocka_unit_test(an_unknown_id_is_refused_by_number),
        cmocka_unit_test(finding_a_token_is_exact),
        cmocka_unit_test(the_bos_is_the_first_that_exists),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_with_its_place),
        cmocka_unit_test(the_longest_text_is_one_word_and_one_byte_more_is_refused),
        cmocka_unit_test(a_pattern_that_backtracks_without_end_is_stopped),
        cmocka_unit_test(many_slow_finds_are_stopped_as_one_is),
        cmocka_unit_test(a_bad_file_is_refused_with_words),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(a_missing_file_is_not_found),
        cmocka_unit_test(a_trained_tokenizer_gives_the_recorded_ids),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
