/* SPDX-License-Identifier: Apache-2.0
 *
 * The stages around the BPE model, from their JSON. A pre-tokenizer is read as a list of splits
 * with ByteLevel at its end: that is what the byte-level families use, and with ByteLevel last the
 * splits see the text itself, never byte-level characters. */
#include "core/tokenizer/pipeline.h"

#include "core/base/mem.h"
#include "core/tokenizer/nfc.h"

#include <string.h>

/* GPT-2's pattern, which ByteLevel has built in. */
#define PIPELINE_BYTE_LEVEL                                                                        \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Digits asks Rust's char::is_numeric(), which knows Unicode 15; the patterns know 14. */
#define PIPELINE_DIGIT "[\\p{N}\\x{11F50}-\\x{11F59}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}]"

#define PIPELINE_INVALID(...)                                                                      \
    abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKENIZER_INVALID",                           \
             "tokenizer.json: " __VA_ARGS__)
#define PIPELINE_UNSUPPORTED(...)                                                                  \
    abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "TOKENIZER_UNSUPPORTED",                          \
             "tokenizer.json: " __VA_ARGS__)

static bool is_type(const json_t *part, const char *type) {
    const char *value = json_string_value(json_object_get(part, "type"));
    return value != NULL && strcmp(value, type) == 0;
}

/* A required flag. */
static abl_code read_flag(const json_t *part, const char *key, bool *ret_flag,
                          abl_status *ret_status) {
    const json_t *value = json_object_get(part, key);
    if (!json_is_boolean(value)) {
        return PIPELINE_INVALID("a part of pre_tokenizer lacks the boolean '%s'", key);
    }
    *ret_flag = json_is_true(value);
    return ABL_CODE_OK;
}

static abl_code load_normalizer(abl_tokenizer *tokenizer, const json_t *normalizer,
                                abl_status *ret_status) {
    if (normalizer == NULL || json_is_null(normalizer)) {
        return ABL_CODE_OK;
    }
    if (is_type(normalizer, "NFC")) {
        tokenizer->nfc = true;
        return ABL_CODE_OK;
    }
    size_t index = 0;
    const json_t *part = NULL;
    const json_t *parts = json_object_get(normalizer, "normalizers");
    if (!is_type(normalizer, "Sequence") || !json_is_array(parts)) {
        return PIPELINE_UNSUPPORTED("normalizer is neither null nor NFC");
    }
    json_array_foreach(parts, index, part) {
        if (!is_type(part, "NFC")) {
            return PIPELINE_UNSUPPORTED("normalizer.normalizers[%zu] is not NFC", index);
        }
        tokenizer->nfc = true; /* again and again changes nothing */
    }
    return ABL_CODE_OK;
}

static abl_code load_byte_level(abl_tokenizer *tokenizer, const json_t *part,
                                abl_status *ret_status) {
    bool use_regex = true; /* older files lack the key */
    abl_code code = read_flag(part, "add_prefix_space", &tokenizer->add_prefix_space, ret_status);
    if (code == ABL_CODE_OK && json_object_get(part, "use_regex") != NULL) {
        code = read_flag(part, "use_regex", &use_regex, ret_status);
    }
    if (code != ABL_CODE_OK || !use_regex) {
        return code;
    }
    abl_text pattern = {.data = PIPELINE_BYTE_LEVEL, .size = strlen(PIPELINE_BYTE_LEVEL)};
    return abl_regex_create(pattern, &tokenizer->byte_level, ret_status);
}

static abl_code load_digits(abl_split *split, const json_t *part, abl_status *ret_status) {
    bool individual = false;
    abl_code code = read_flag(part, "individual_digits", &individual, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    split->behavior = individual ? ABL_SPLIT_ISOLATED : ABL_SPLIT_CONTIGUOUS;
    abl_text pattern = {.data = PIPELINE_DIGIT, .size = strlen(PIPELINE_DIGIT)};
    return abl_regex_create(pattern, &split->regex, ret_status);
}

static abl_code load_split(abl_split *split, const json_t *part, abl_status *ret_status) {
    static const char *const behaviors[] = {
        [ABL_SPLIT_REMOVED] = "Removed",
        [ABL_SPLIT_ISOLATED] = "Isolated",
        [ABL_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [ABL_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [ABL_SPLIT_CONTIGUOUS] = "Contiguous",
    };
    abl_code code = read_flag(part, "invert", &split->invert, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const char *behavior = json_string_value(json_object_get(part, "behavior"));
    size_t known = 0;
    while (behavior != NULL && known < ABL_COUNT_OF(behaviors) &&
           strcmp(behavior, behaviors[known]) != 0) {
        known++;
    }
    if (behavior == NULL || known == ABL_COUNT_OF(behaviors)) {
        return PIPELINE_INVALID("a Split in pre_tokenizer has no known 'behavior'");
    }
    split->behavior = (abl_split_behavior)known;
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    if (json_is_string(regex)) {
        abl_text text = {.data = json_string_value(regex), .size = json_string_length(regex)};
        return abl_regex_create(text, &split->regex, ret_status);
    }
    split->literal_size = json_string_length(literal);
    if (split->literal_size == 0 || split->literal_size > ABL_REGEX_BYTES_MAX) {
        return PIPELINE_INVALID("a Split in pre_tokenizer has no pattern of 1 to %d bytes",
                                ABL_REGEX_BYTES_MAX);
    }
    split->literal = abl_strdup(json_string_value(literal));
    return split->literal == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
}

static abl_code load_pre_tokenizer(abl_tokenizer *tokenizer, const json_t *pre_tokenizer,
                                   abl_status *ret_status) {
    if (is_type(pre_tokenizer, "ByteLevel")) {
        return load_byte_level(tokenizer, pre_tokenizer, ret_status);
    }
    const json_t *parts = json_object_get(pre_tokenizer, "pretokenizers");
    size_t count = json_array_size(parts);
    if (!is_type(pre_tokenizer, "Sequence") || count == 0 || count > ABL_PRE_TOKENIZER_COUNT_MAX ||
        !is_type(json_array_get(parts, count - 1), "ByteLevel")) {
        return PIPELINE_UNSUPPORTED("pre_tokenizer is neither ByteLevel nor a Sequence of at most "
                                    "%d that ends with ByteLevel",
                                    ABL_PRE_TOKENIZER_COUNT_MAX);
    }
    abl_code code = ABL_CODE_OK;
    for (size_t i = 0; i + 1 < count && code == ABL_CODE_OK; i++) {
        const json_t *part = json_array_get(parts, i);
        abl_split *split = &tokenizer->splits[tokenizer->split_count++];
        if (is_type(part, "Digits")) {
            code = load_digits(split, part, ret_status);
        } else if (is_type(part, "Split")) {
            code = load_split(split, part, ret_status);
        } else {
            code = PIPELINE_UNSUPPORTED("pre_tokenizer.pretokenizers[%zu] is neither Digits nor "
                                        "Split, which alone may stand before ByteLevel",
                                        i);
        }
    }
    return code == ABL_CODE_OK
               ? load_byte_level(tokenizer, json_array_get(parts, count - 1), ret_status)
               : code;
}

abl_code abl_pipeline_load(abl_tokenizer *tokenizer, const json_t *root, abl_status *ret_status) {
    const json_t *decoder = json_object_get(root, "decoder");
    if (decoder != NULL && !json_is_null(decoder) && !is_type(decoder, "ByteLevel")) {
        return PIPELINE_UNSUPPORTED("decoder is not ByteLevel");
    }
    abl_code code = load_normalizer(tokenizer, json_object_get(root, "normalizer"), ret_status);
    return code == ABL_CODE_OK
               ? load_pre_tokenizer(tokenizer, json_object_get(root, "pre_tokenizer"), ret_status)
               : code;
}

abl_code abl_added_add_normalized(abl_tokenizer *tokenizer, abl_text text, abl_added_token token,
                                  abl_status *ret_status) {
    if (!tokenizer->nfc) {
        return abl_added_add(&tokenizer->normalized, text, token, ret_status);
    }
    ABL_CLEANUP(abl_freep) char *composed = NULL;
    size_t size = 0;
    abl_code code = abl_nfc(text.data, text.size, &composed, &size, ret_status);
    return code == ABL_CODE_OK
               ? abl_added_add(&tokenizer->normalized, (abl_text){.data = composed, .size = size},
                               token, ret_status)
               : code;
}
