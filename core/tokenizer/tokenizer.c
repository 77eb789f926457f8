/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoding is a pipeline whose stages are those of Hugging Face, in its order:
 *
 *     text ─ added tokens (normalized: false) ─ NFC ─ added tokens (normalized: true)
 *          ─ splits ─ ByteLevel ─ BPE ─> ids
 *
 * Each stage hands what it did not use to the next as soon as it has it, so the only arrays are
 * those of one call (abl_encoder) and they grow with the text, which has a ceiling.
 *
 * Most words are tokens. ABL_TOKEN_WHOLE says, computed once at load, that BPE turns the bytes of a
 * token into that token; such a word is one look-up. That is exact, unlike looking any word up in
 * the vocabulary: a vocabulary may hold tokens that no merge makes. A cache of words, as Hugging
 * Face has, would make encoding write to the shared tokenizer, for less than this gives. */
#include "core/tokenizer/internal.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/tokenizer/nfc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void file_closep(FILE **file) {
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

/* The whole file, at most ABL_TOKENIZER_BYTES_MAX of it. */
static abl_code file_read(const char *path, char **ret_bytes, size_t *ret_size,
                          abl_status *ret_status) {
    ABL_CLEANUP(file_closep) FILE *file = fopen(path, "rbe");
    if (file == NULL) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "TOKENIZER_FILE_MISSING",
                        "cannot open '%s': %s", path, strerror(errno));
    }
    struct stat info;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode)) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "TOKENIZER_FILE_MISSING",
                        "'%s' is not a plain file", path);
    }
    if (info.st_size > ABL_TOKENIZER_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOKENIZER_TOO_BIG",
                        "'%s' has %lld bytes; at most %d are allowed", path,
                        (long long)info.st_size, ABL_TOKENIZER_BYTES_MAX);
    }
    size_t size = (size_t)info.st_size;
    char *bytes = abl_malloc(size);
    if (bytes == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (fread(bytes, 1, size, file) != size) {
        abl_free(bytes);
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "TOKENIZER_FILE_MISSING",
                        "cannot read all of '%s'", path);
    }
    *ret_bytes = bytes;
    *ret_size = size;
    return ABL_CODE_OK;
}

static int32_t bos_choose(const abl_tokenizer *tokenizer, const abl_tokenizer_options *options) {
    static const char *const usual[] = {"<|endoftext|>", "<|begin_of_text|>", "<s>"};
    int32_t id = options->bos_token == NULL ? ABL_TOKEN_NONE
                                            : abl_tokenizer_find(tokenizer, options->bos_token,
                                                                 strlen(options->bos_token));
    size_t size = 0;
    if (id < 0 && options->bos_id_known &&
        abl_tokenizer_token_text(tokenizer, options->bos_id, &size) != NULL) {
        id = options->bos_id;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(usual) && id < 0; i++) {
        abl_text text = {.data = usual[i], .size = strlen(usual[i])};
        id = abl_added_find(&tokenizer->raw, text);
        id = id >= 0 ? id : abl_added_find(&tokenizer->normalized, text);
    }
    return id;
}

abl_code abl_tokenizer_create(const abl_tokenizer_options *options, abl_tokenizer **ret_tokenizer,
                              abl_status *ret_status) {
    ABL_ASSERT(options != NULL && ret_tokenizer != NULL);
    ABL_ASSERT(options->path != NULL || options->bytes != NULL || options->byte_count == 0);
    ABL_CLEANUP(abl_freep) char *read = NULL;
    const char *bytes = options->bytes;
    size_t size = options->byte_count;
    if (options->path != NULL) {
        abl_code code = file_read(options->path, &read, &size, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        bytes = read;
    }
    if (size > ABL_TOKENIZER_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOKENIZER_TOO_BIG",
                        "tokenizer.json has %zu bytes; at most %d are allowed", size,
                        ABL_TOKENIZER_BYTES_MAX);
    }
    abl_tokenizer *tokenizer = abl_calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_code code = abl_tokenizer_load(tokenizer, bytes, size, ret_status);
    if (code != ABL_CODE_OK) {
        abl_tokenizer_destroy(tokenizer);
        return code;
    }
    tokenizer->bos_id = bos_choose(tokenizer, options);
    *ret_tokenizer = tokenizer;
    return ABL_CODE_OK;
}

void abl_tokenizer_destroy(abl_tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    abl_table_finish(&tokenizer->texts);
    abl_free(tokenizer->pool);
    abl_free(tokenizer->flags);
    abl_bpe_finish(&tokenizer->bpe);
    abl_added_finish(&tokenizer->raw);
    abl_added_finish(&tokenizer->normalized);
    abl_regex_destroy(tokenizer->word);
    abl_regex_destroy(tokenizer->byte_level);
    for (size_t i = 0; i < tokenizer->split_count; i++) {
        abl_regex_destroy(tokenizer->splits[i].regex);
        abl_free(tokenizer->splits[i].literal);
    }
    abl_free(tokenizer);
}

abl_code abl_encode_word(abl_encoder *encoder, abl_text word) {
    const abl_tokenizer *tokenizer = encoder->tokenizer;
    int32_t id = abl_table_find(&tokenizer->texts, word.data, word.size);
    if (id >= 0 && (tokenizer->ignore_merges || (tokenizer->flags[id] & ABL_TOKEN_WHOLE) != 0)) {
        return abl_ids_add(&encoder->ids, id, encoder->ret_status);
    }
    return abl_bpe_encode(&tokenizer->bpe, &encoder->bpe, word.data, word.size, &encoder->ids,
                          encoder->ret_status);
}

typedef abl_code (*encode_rest)(abl_encoder *encoder, abl_text rest);

/* Appends the ids of the added tokens in the text, and hands what lies between to `rest`. Written
 * after Hugging Face's find_matches(), whose search goes on where the bare token ended: with rstrip
 * the next token may begin inside the white space that was taken. */
static abl_code encode_around(abl_encoder *encoder, const abl_added *added, abl_text text,
                              encode_rest rest) {
    size_t used = 0;
    size_t start = 0;
    size_t end = 0;
    for (size_t at = 0;; at = end) {
        const abl_added_token *token = abl_added_search(added, text, at, &start, &end);
        if (token == NULL) {
            break;
        }
        abl_code code = ABL_CODE_OK;
        bool touches = false;
        if (token->single_word) {
            code = abl_touches_word(encoder, text, start, end, &touches);
        }
        if (code == ABL_CODE_OK && touches) {
            continue;
        }
        size_t left = token->lstrip ? abl_white_space_before(text, start) : start;
        left = token->lstrip && left < used ? used : left;
        if (code == ABL_CODE_OK && used < left) {
            code = rest(encoder, (abl_text){.data = text.data + used, .size = left - used});
        }
        if (code == ABL_CODE_OK) {
            code = abl_ids_add(&encoder->ids, token->id, encoder->ret_status);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
        used = token->rstrip ? abl_white_space_after(text, end) : end;
    }
    return used < text.size
               ? rest(encoder, (abl_text){.data = text.data + used, .size = text.size - used})
               : ABL_CODE_OK;
}

static abl_code encode_normalized(abl_encoder *encoder, abl_text text) {
    const abl_tokenizer *tokenizer = encoder->tokenizer;
    if (!tokenizer->nfc) {
        return encode_around(encoder, &tokenizer->normalized, text, abl_encode_piece);
    }
    ABL_CLEANUP(abl_freep) char *composed = NULL;
    size_t size = 0;
    abl_code code = abl_nfc(text.data, text.size, &composed, &size, encoder->ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    return encode_around(encoder, &tokenizer->normalized,
                         (abl_text){.data = composed, .size = size}, abl_encode_piece);
}

abl_code abl_tokenizer_encode(const abl_tokenizer *tokenizer, const char *text, size_t text_bytes,
                              int32_t **ret_ids, size_t *ret_count, abl_status *ret_status) {
    ABL_ASSERT(tokenizer != NULL && (text != NULL || text_bytes == 0));
    if (text_bytes > ABL_TEXT_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TEXT_TOO_LONG",
                        "the text has %zu bytes; at most %d are allowed", text_bytes,
                        ABL_TEXT_BYTES_MAX);
    }
    size_t valid = abl_utf8_check(text, text_bytes);
    if (valid != text_bytes) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TEXT_NOT_UTF8",
                        "the text is not UTF-8 at byte %zu", valid);
    }
    abl_encoder encoder = {.tokenizer = tokenizer, .ret_status = ret_status};
    void *items = NULL; /* room for every usual prompt, and never NULL */
    abl_code code =
        abl_grow(&items, &encoder.ids.capacity, text_bytes / 4 + 1, sizeof(int32_t), ret_status);
    encoder.ids.items = items;
    if (code == ABL_CODE_OK) {
        code = encode_around(&encoder, &tokenizer->raw,
                             (abl_text){.data = text, .size = text_bytes}, encode_normalized);
    }
    if (code == ABL_CODE_OK) {
        *ret_ids = encoder.ids.items;
        *ret_count = encoder.ids.count;
        encoder.ids.items = NULL;
    }
    abl_encoder_finish(&encoder);
    return code;
}

/* Replaces what is not UTF-8, as Rust's String::from_utf8_lossy does. `out` has 3 * size bytes. */
static size_t utf8_repair(const char *data, size_t size, char *out) {
    size_t written = 0;
    for (size_t at = 0; at < size;) {
        size_t bad = 0;
        size_t length = abl_utf8_length(data + at, size - at, &bad);
        if (length != 0) {
            memcpy(out + written, data + at, length);
            written += length;
            at += length;
        } else {
            written += abl_utf8_encode(0xFFFD, out + written);
            at += bad;
        }
    }
    return written;
}

static abl_code decode_size(const abl_tokenizer *tokenizer, const int32_t *ids, size_t count,
                            size_t *ret_size, abl_status *ret_status) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = 0;
        if (abl_tokenizer_token_text(tokenizer, ids[i], &size) == NULL) {
            return abl_fail(ret_status, ABL_CODE_OUT_OF_RANGE, "TOKEN_UNKNOWN",
                            "no token has the id %d (at index %zu); ids end at %d", ids[i], i,
                            tokenizer->texts.id_end - 1);
        }
        total += size;
        if (total > ABL_TEXT_BYTES_MAX) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TEXT_TOO_LONG",
                            "the text of these %zu ids is over %d bytes", count,
                            ABL_TEXT_BYTES_MAX);
        }
    }
    *ret_size = total;
    return ABL_CODE_OK;
}

abl_code abl_tokenizer_decode(const abl_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              const abl_decode_options *options, char **ret_text, size_t *ret_bytes,
                              abl_status *ret_status) {
    ABL_ASSERT(tokenizer != NULL && (ids != NULL || count == 0));
    const abl_decode_options none = {0};
    options = options == NULL ? &none : options;
    size_t size = 0;
    abl_code code = decode_size(tokenizer, ids, count, &size, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    ABL_CLEANUP(abl_freep) char *text = abl_malloc(size + 1);
    if (text == NULL) {
        return abl_fail_oom(ret_status);
    }
    size_t written = 0;
    for (size_t i = 0; i < count; i++) {
        const abl_text *token = &tokenizer->texts.items[ids[i]];
        if (!options->skip_special || !abl_tokenizer_token_is_special(tokenizer, ids[i])) {
            memcpy(text + written, token->data, token->size);
            written += token->size;
        }
    }
    if (!options->exact_bytes && abl_utf8_check(text, written) != written) {
        char *repaired = abl_malloc(3 * written + 1);
        if (repaired == NULL) {
            return abl_fail_oom(ret_status);
        }
        written = utf8_repair(text, written, repaired);
        abl_free(text);
        text = repaired;
    }
    text[written] = '\0';
    *ret_text = text;
    *ret_bytes = written;
    text = NULL;
    return ABL_CODE_OK;
}

const char *abl_tokenizer_token_text(const abl_tokenizer *tokenizer, int32_t id,
                                     size_t *ret_bytes) {
    if (id < 0 || id >= tokenizer->texts.id_end || tokenizer->texts.items[id].data == NULL) {
        return NULL;
    }
    *ret_bytes = tokenizer->texts.items[id].size;
    return tokenizer->texts.items[id].data;
}

bool abl_tokenizer_token_is_special(const abl_tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->texts.id_end &&
           (tokenizer->flags[id] & ABL_TOKEN_SPECIAL) != 0;
}

int32_t abl_tokenizer_find(const abl_tokenizer *tokenizer, const char *text, size_t text_bytes) {
    abl_text wanted = {.data = text, .size = text_bytes};
    int32_t id = abl_added_find(&tokenizer->raw, wanted);
    id = id >= 0 ? id : abl_added_find(&tokenizer->normalized, wanted);
    return id >= 0 ? id : abl_table_find(&tokenizer->texts, text, text_bytes);
}

int32_t abl_tokenizer_bos_id(const abl_tokenizer *tokenizer) {
    return tokenizer->bos_id;
}

int32_t abl_tokenizer_id_end(const abl_tokenizer *tokenizer) {
    return tokenizer->texts.id_end;
}

size_t abl_tokenizer_bytes(const abl_tokenizer *tokenizer) {
    size_t bytes = sizeof *tokenizer + tokenizer->pool_size;
    bytes += (size_t)tokenizer->texts.id_end * (sizeof(abl_text) + 1);
    bytes += (tokenizer->texts.slot_mask + 1) * sizeof(abl_table_slot);
    bytes += (tokenizer->bpe.merge_mask + 1) * sizeof(abl_bpe_merge);
    const abl_added *sets[] = {&tokenizer->raw, &tokenizer->normalized};
    for (size_t i = 0; i < ABL_COUNT_OF(sets); i++) {
        bytes += sets[i]->node_capacity * sizeof(abl_added_node);
        bytes += sets[i]->token_capacity * sizeof(abl_added_token);
    }
    bytes += tokenizer->word != NULL ? abl_regex_bytes(tokenizer->word) : 0;
    bytes += tokenizer->byte_level != NULL ? abl_regex_bytes(tokenizer->byte_level) : 0;
    for (size_t i = 0; i < tokenizer->split_count; i++) {
        const abl_split *split = &tokenizer->splits[i];
        bytes += split->regex != NULL ? abl_regex_bytes(split->regex) : split->literal_size;
    }
    return bytes;
}
