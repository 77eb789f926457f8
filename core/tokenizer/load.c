/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json to an abl_tokenizer. The file is as untrusted as a prompt: every key is checked
 * for its type, every id for its range, and what would make Hugging Face tokenize in a way that
 * this code does not is refused by name, never ignored.
 *
 * The file writes tokens in byte-level characters, a printable character for each byte (U+0120 for
 * a space). Here they become bytes at once. A token with any other character (an added one such as
 * U+FF5C, mostly) stands for its own UTF-8, as in Hugging Face's decoder, and no word can be it, so
 * it is not indexed.
 *
 * Two tables live while loading: `names`, the texts as the file writes them (borrowed from the JSON
 * tree), which merges refer to; and tokenizer->texts, the bytes, which stays. */
#include "core/tokenizer/internal.h"

#include "core/base/mem.h"
#include "core/json/json.h"
#include "core/tokenizer/pipeline.h"

#include <jansson.h>
#include <string.h>

typedef struct loader {
    abl_tokenizer *tokenizer;
    json_t *root;
    json_t *model;
    json_t *vocab;
    json_t *added; /* NULL: the key is missing */
    abl_table names;
    int32_t id_end;
    size_t pool_used;
    char *joined; /* room to put the two halves of a merge together */
    size_t joined_capacity;
    abl_status *ret_status;
} loader;

/* Unused ids that any file may have, however few tokens it has. */
#define LOAD_GAPS_MAX 65536

#define LOAD_INVALID(load, ...)                                                                    \
    abl_fail((load)->ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKENIZER_INVALID",                   \
             "tokenizer.json: " __VA_ARGS__)
#define LOAD_UNSUPPORTED(load, ...)                                                                \
    abl_fail((load)->ret_status, ABL_CODE_UNIMPLEMENTED, "TOKENIZER_UNSUPPORTED",                  \
             "tokenizer.json: " __VA_ARGS__)

/* The byte that a byte-level character stands for; -1: it is none. Printable Latin-1 stands for
 * itself; the other 68 bytes, in order, are U+0100 and on. */
static int byte_of_character(uint32_t codepoint) {
    if ((codepoint >= 0x21 && codepoint <= 0x7E) || (codepoint >= 0xA1 && codepoint <= 0xAC) ||
        (codepoint >= 0xAE && codepoint <= 0xFF)) {
        return (int)codepoint;
    }
    if (codepoint < 0x100 || codepoint > 0x143) {
        return -1;
    }
    uint32_t rank = codepoint - 0x100;
    return (int)(rank <= 0x20 ? rank : rank <= 0x42 ? rank - 0x21 + 0x7F : 0xAD);
}

/* Writes the bytes of a token that the file spells `name`; false: it is its own UTF-8. */
static bool token_bytes(const char *name, size_t size, char *bytes, size_t *ret_size) {
    size_t written = 0;
    for (size_t at = 0; at < size;) {
        size_t length = abl_utf8_length(name + at, size - at, NULL);
        int byte = length == 0 ? -1 : byte_of_character(abl_utf8_decode(name + at, length));
        if (byte < 0) {
            memcpy(bytes, name, size);
            *ret_size = size;
            return false;
        }
        bytes[written++] = (char)byte;
        at += length;
    }
    *ret_size = written;
    return true;
}

static abl_code load_parse(loader *load, const char *json, size_t size) {
    abl_code code = abl_json_parse(json, size, "tokenizer.json", "TOKENIZER_INVALID", &load->root,
                                   load->ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    load->model = json_object_get(load->root, "model");
    load->vocab = json_object_get(load->model, "vocab");
    load->added = json_object_get(load->root, "added_tokens");
    if (!json_is_object(load->model)) {
        return LOAD_INVALID(load, "the object 'model' is missing");
    }
    const json_t *type = json_object_get(load->model, "type");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0)) {
        return LOAD_UNSUPPORTED(load, "model.type is not BPE, the only one supported");
    }
    if (!json_is_object(load->vocab)) {
        return LOAD_INVALID(load, "the object 'model.vocab' is missing");
    }
    if (load->added != NULL && !json_is_null(load->added) && !json_is_array(load->added)) {
        return LOAD_INVALID(load, "'added_tokens' is not an array");
    }
    return ABL_CODE_OK;
}

/* Absent, null, false, zero and "" are all "off"; anything else changes ids. */
static abl_code load_check_off(loader *load, const char *key, bool number) {
    const json_t *value = json_object_get(load->model, key);
    bool off = value == NULL || json_is_null(value) || json_is_false(value) ||
               (number && json_is_number(value) && json_number_value(value) == 0.0) ||
               (json_is_string(value) && json_string_length(value) == 0);
    return off ? ABL_CODE_OK
               : LOAD_UNSUPPORTED(load, "model.%s is set; only null is supported", key);
}

static abl_code load_id(loader *load, const json_t *value, const char *where, int32_t *ret_id) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return LOAD_INVALID(load, "an id in %s is not a whole number of 0 or more", where);
    }
    if (json_integer_value(value) > ABL_TOKEN_ID_MAX) {
        return abl_fail(load->ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOKENIZER_TOO_BIG",
                        "tokenizer.json: %s has the id %lld; the largest allowed is %d", where,
                        (long long)json_integer_value(value), ABL_TOKEN_ID_MAX);
    }
    *ret_id = (int32_t)json_integer_value(value);
    if (*ret_id >= load->id_end) {
        load->id_end = *ret_id + 1;
    }
    return ABL_CODE_OK;
}

/* Checks every id and token text, and so learns how much room the tables and the pool need. */
static abl_code load_measure(loader *load) {
    const char *name = NULL;
    json_t *value = NULL;
    size_t index = 0;
    int32_t id = 0;
    json_object_foreach(load->vocab, name, value) {
        abl_code code = load_id(load, value, "model.vocab", &id);
        if (code != ABL_CODE_OK) {
            return code;
        }
        load->tokenizer->pool_size += strlen(name);
    }
    if (json_array_size(load->added) > ABL_ADDED_TOKEN_COUNT_MAX) {
        return abl_fail(load->ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOKENIZER_TOO_BIG",
                        "tokenizer.json: %zu added_tokens; at most %d are allowed",
                        json_array_size(load->added), ABL_ADDED_TOKEN_COUNT_MAX);
    }
    json_array_foreach(load->added, index, value) {
        abl_code code = load_id(load, json_object_get(value, "id"), "added_tokens", &id);
        if (code != ABL_CODE_OK) {
            return code;
        }
        const json_t *content = json_object_get(value, "content");
        size_t size = json_string_length(content);
        if (!json_is_string(content) || size == 0 || size > ABL_ADDED_TOKEN_BYTES_MAX) {
            return LOAD_INVALID(load, "added_tokens[%zu].content is not a text of 1 to %d bytes",
                                index, ABL_ADDED_TOKEN_BYTES_MAX);
        }
        load->tokenizer->pool_size += size;
    }
    size_t count = json_object_size(load->vocab) + json_array_size(load->added);
    if (count == 0) {
        return LOAD_INVALID(load, "there is no token");
    }
    if ((size_t)load->id_end > 4 * count + LOAD_GAPS_MAX) { /* memory goes with the largest id */
        return abl_fail(load->ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOKENIZER_TOO_BIG",
                        "tokenizer.json: %zu tokens have ids up to %d, which leaves too many gaps",
                        count, load->id_end - 1);
    }
    return ABL_CODE_OK;
}

/* Sets the text of an id in both tables. */
static abl_code load_token(loader *load, int32_t id, const char *name, size_t size, bool in_vocab) {
    abl_tokenizer *tokenizer = load->tokenizer;
    abl_text *text = &tokenizer->texts.items[id];
    if (text->data != NULL) {
        return LOAD_INVALID(load, "two tokens have the id %d", id);
    }
    text->data = tokenizer->pool + load->pool_used;
    bool bytes = token_bytes(name, size, tokenizer->pool + load->pool_used, &text->size);
    load->pool_used += text->size;
    load->names.items[id] = (abl_text){.data = name, .size = size};
    (void)abl_table_index(&load->names, id); /* new: keys of an object differ */
    if (!in_vocab) {
        return ABL_CODE_OK;
    }
    if (bytes && size > 0) { /* new, too: names and bytes are one to one */
        (void)abl_table_index(&tokenizer->texts, id);
    }
    if (bytes && text->size == 1) {
        tokenizer->bpe.byte_ids[(unsigned char)text->data[0]] = id;
    }
    return ABL_CODE_OK;
}

static abl_code load_vocab(loader *load) {
    abl_tokenizer *tokenizer = load->tokenizer;
    size_t count = json_object_size(load->vocab);
    size_t names_max = count + json_array_size(load->added);
    abl_code code = abl_table_init(&load->names, load->id_end, names_max, load->ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_table_init(&tokenizer->texts, load->id_end, count, load->ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    tokenizer->pool = abl_malloc(tokenizer->pool_size);
    tokenizer->flags = abl_calloc((size_t)load->id_end, 1);
    if (tokenizer->pool == NULL || tokenizer->flags == NULL) {
        return abl_fail_oom(load->ret_status);
    }
    const char *name = NULL;
    const json_t *id = NULL;
    void *at = json_object_iter(load->vocab);
    for (; at != NULL && code == ABL_CODE_OK; at = json_object_iter_next(load->vocab, at)) {
        name = json_object_iter_key(at);
        id = json_object_iter_value(at);
        code = load_token(load, (int32_t)json_integer_value(id), name, strlen(name), true);
    }
    return code;
}

/* Both forms: "a b" and ["a", "b"]. False: neither. */
static bool merge_halves(const json_t *merge, abl_text halves[2]) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *half = json_array_get(merge, i);
            halves[i] =
                (abl_text){.data = json_string_value(half), .size = json_string_length(half)};
        }
        return halves[0].data != NULL && halves[1].data != NULL;
    }
    const char *text = json_string_value(merge);
    const char *space = text == NULL ? NULL : strchr(text, ' ');
    if (space == NULL || strchr(space + 1, ' ') != NULL) {
        return false;
    }
    halves[0] = (abl_text){.data = text, .size = (size_t)(space - text)};
    halves[1] = (abl_text){.data = space + 1, .size = strlen(space + 1)};
    return true;
}

static abl_code load_merge(loader *load, size_t index, const json_t *merge, uint32_t rank) {
    abl_text halves[2];
    if (!merge_halves(merge, halves)) {
        return LOAD_INVALID(load, "model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", index);
    }
    size_t size = halves[0].size + halves[1].size;
    void *joined = load->joined;
    abl_code code = abl_grow(&joined, &load->joined_capacity, size + 1, 1, load->ret_status);
    load->joined = joined;
    if (code != ABL_CODE_OK) {
        return code;
    }
    memcpy(load->joined, halves[0].data, halves[0].size);
    memcpy(load->joined + halves[0].size, halves[1].data, halves[1].size);
    int32_t left = abl_table_find(&load->names, halves[0].data, halves[0].size);
    int32_t right = abl_table_find(&load->names, halves[1].data, halves[1].size);
    int32_t id = abl_table_find(&load->names, load->joined, size);
    if (left < 0 || right < 0 || id < 0) {
        return LOAD_INVALID(load, "model.merges[%zu]: %s is not in the vocabulary", index,
                            left < 0    ? "its left token"
                            : right < 0 ? "its right token"
                                        : "what it merges to");
    }
    abl_bpe_set_merge(&load->tokenizer->bpe, left, right, rank, id);
    return ABL_CODE_OK;
}

static abl_code load_merges(loader *load) {
    const json_t *merges = json_object_get(load->model, "merges");
    size_t index = 0;
    const json_t *merge = NULL;
    uint32_t rank = 0;
    json_array_foreach(merges, index, merge) {
        const char *text = json_string_value(merge);
        if (text != NULL && strncmp(text, "#version", 8) == 0) {
            continue; /* the first line of merges.txt, kept by some converters */
        }
        abl_code code = load_merge(load, index, merge, rank++);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    return ABL_CODE_OK;
}

static abl_code load_model(loader *load) {
    abl_bpe *bpe = &load->tokenizer->bpe;
    const json_t *merges = json_object_get(load->model, "merges");
    if (!json_is_array(merges)) {
        return LOAD_INVALID(load, "the array 'model.merges' is missing");
    }
    abl_code code = abl_bpe_init(bpe, json_array_size(merges), load->ret_status);
    code = code == ABL_CODE_OK ? load_vocab(load) : code;
    code = code == ABL_CODE_OK ? load_merges(load) : code;
    code = code == ABL_CODE_OK ? load_check_off(load, "dropout", true) : code;
    code = code == ABL_CODE_OK ? load_check_off(load, "continuing_subword_prefix", false) : code;
    code = code == ABL_CODE_OK ? load_check_off(load, "end_of_word_suffix", false) : code;
    /* These two speak of bytes that no token covers: where there are none, they do nothing. */
    bool covered = true;
    for (size_t i = 0; i < ABL_COUNT_OF(bpe->byte_ids); i++) {
        covered = covered && bpe->byte_ids[i] >= 0;
    }
    if (!covered) {
        code = code == ABL_CODE_OK ? load_check_off(load, "byte_fallback", false) : code;
        code = code == ABL_CODE_OK ? load_check_off(load, "unk_token", false) : code;
    }
    load->tokenizer->ignore_merges = json_is_true(json_object_get(load->model, "ignore_merges"));
    return code;
}

/* Hugging Face gives an added token the id of the vocabulary, or the next after all others,
 * whatever the file says. Where the file says something else, ids would depend on whom one asks. */
static abl_code load_added_id(loader *load, const json_t *token, int32_t *largest,
                              int32_t *ret_id) {
    const char *name = json_string_value(json_object_get(token, "content"));
    size_t size = json_string_length(json_object_get(token, "content"));
    int32_t stated = (int32_t)json_integer_value(json_object_get(token, "id"));
    int32_t id = abl_table_find(&load->names, name, size);
    bool in_vocab = id >= 0;
    if (in_vocab && (load->tokenizer->flags[id] & ABL_TOKEN_ADDED) != 0) {
        return LOAD_INVALID(load, "two added tokens have the text of id %d", id);
    }
    if (!in_vocab) {
        int32_t vocab_size = (int32_t)json_object_size(load->vocab);
        id = *largest >= vocab_size ? *largest + 1 : vocab_size;
    }
    if (id != stated) {
        return LOAD_INVALID(load, "an added token has the id %d, but its place gives it %d", stated,
                            id);
    }
    *largest = id > *largest ? id : *largest;
    *ret_id = id;
    abl_code code = in_vocab ? ABL_CODE_OK : load_token(load, id, name, size, false);
    load->tokenizer->flags[id] |= ABL_TOKEN_ADDED;
    return code;
}

static abl_code load_added_token(loader *load, const json_t *token, int32_t id) {
    abl_tokenizer *tokenizer = load->tokenizer;
    abl_text text = {.data = json_string_value(json_object_get(token, "content")),
                     .size = json_string_length(json_object_get(token, "content"))};
    abl_added_token added = {
        .id = id,
        .single_word = json_is_true(json_object_get(token, "single_word")),
        .lstrip = json_is_true(json_object_get(token, "lstrip")),
        .rstrip = json_is_true(json_object_get(token, "rstrip")),
    };
    if (added.single_word && tokenizer->word == NULL) {
        abl_code code = abl_regex_create((abl_text){.data = "\\w", .size = 2}, &tokenizer->word,
                                         load->ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    if (!json_is_true(json_object_get(token, "normalized"))) {
        return abl_added_add(&tokenizer->raw, text, added, load->ret_status);
    }
    return abl_added_add_normalized(tokenizer, text, added, load->ret_status);
}

/* In two passes, special tokens first: of two tokens with one text, that one is found. */
static abl_code load_added(loader *load) {
    abl_tokenizer *tokenizer = load->tokenizer;
    abl_code code = abl_added_init(&tokenizer->raw, load->ret_status);
    code = code == ABL_CODE_OK ? abl_added_init(&tokenizer->normalized, load->ret_status) : code;
    int32_t largest = -1;
    for (size_t i = 0; i < json_array_size(load->added) && code == ABL_CODE_OK; i++) {
        int32_t id = 0;
        const json_t *token = json_array_get(load->added, i);
        code = load_added_id(load, token, &largest, &id);
        if (code == ABL_CODE_OK && json_is_true(json_object_get(token, "special"))) {
            tokenizer->flags[id] |= ABL_TOKEN_SPECIAL;
        }
    }
    for (int special = 1; special >= 0; special--) {
        for (size_t i = 0; i < json_array_size(load->added) && code == ABL_CODE_OK; i++) {
            const json_t *token = json_array_get(load->added, i);
            if (json_is_true(json_object_get(token, "special")) == (special != 0)) {
                code = load_added_token(load, token,
                                        (int32_t)json_integer_value(json_object_get(token, "id")));
            }
        }
    }
    return code;
}

/* Finds the tokens that are what BPE makes of their own bytes; tokenizer.c says what for. */
static abl_code load_whole(loader *load) {
    abl_tokenizer *tokenizer = load->tokenizer;
    abl_ids ids = {0};
    abl_bpe_scratch scratch = {0};
    abl_code code = ABL_CODE_OK;
    for (int32_t id = 0; id < load->id_end && code == ABL_CODE_OK; id++) {
        const abl_text *text = &tokenizer->texts.items[id];
        if (text->data == NULL || text->size > ABL_ADDED_TOKEN_BYTES_MAX ||
            abl_table_find(&tokenizer->texts, text->data, text->size) != id) {
            continue;
        }
        ids.count = 0;
        code = abl_bpe_encode(&tokenizer->bpe, &scratch, text->data, text->size, &ids,
                              load->ret_status);
        if (code == ABL_CODE_OK && ids.count == 1 && ids.items[0] == id) {
            tokenizer->flags[id] |= ABL_TOKEN_WHOLE;
        }
    }
    abl_bpe_scratch_finish(&scratch);
    abl_free(ids.items);
    return code;
}

abl_code abl_tokenizer_load(abl_tokenizer *tokenizer, const char *json, size_t size,
                            abl_status *ret_status) {
    loader load = {.tokenizer = tokenizer, .ret_status = ret_status};
    abl_code code = load_parse(&load, json, size);
    code = code == ABL_CODE_OK ? load_measure(&load) : code;
    code = code == ABL_CODE_OK ? load_model(&load) : code;
    code = code == ABL_CODE_OK ? abl_pipeline_load(tokenizer, load.root, ret_status) : code;
    code = code == ABL_CODE_OK ? load_added(&load) : code;
    code = code == ABL_CODE_OK ? load_whole(&load) : code;
    abl_table_finish(&load.names);
    abl_free(load.joined);
    json_decref(load.root);
    return code;
}
