// SPDX-License-Identifier: Apache-2.0
/* A dataset is four arrays of token ids: clean and corrupt prompts as dense (prompt, position)
 * matrices, answers and wrong answers as ragged rows. Batches are views into them, so cutting a
 * dataset costs nothing. dataset_json.c fills the arrays from text; this file from ids.
 *
 * The hash is over counts, ids and offsets as little-endian 32-bit numbers, each array preceded by
 * its length: two datasets are equal exactly when a model cannot tell them apart. Labels and words
 * are for people and are left out. */
#include "core/data/dataset_internal.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

abl_dataset *abl_dataset_alloc(int32_t prompt_count) {
    abl_dataset *dataset = abl_calloc(1, sizeof *dataset);
    if (dataset == NULL) {
        return NULL;
    }
    dataset->prompt_count = prompt_count;
    dataset->answers.offsets = abl_calloc((size_t)prompt_count + 1, sizeof(int32_t));
    dataset->wrong_answers.offsets = abl_calloc((size_t)prompt_count + 1, sizeof(int32_t));
    if (dataset->answers.offsets == NULL || dataset->wrong_answers.offsets == NULL) {
        abl_dataset_destroy(dataset);
        return NULL;
    }
    return dataset;
}

abl_code abl_ragged_add(abl_ragged *ragged, int32_t prompt, int32_t id, abl_status *ret_status) {
    int32_t count = ragged->offsets[prompt + 1];
    if (count < ragged->offsets[prompt]) {
        count = ragged->offsets[prompt]; /* the prompt's first */
    }
    if (count == ragged->capacity) {
        int32_t capacity = count < 64 ? 64 : count + count / 2;
        int32_t *ids = abl_realloc_array(ragged->ids, (size_t)capacity, sizeof *ids);
        if (ids == NULL) {
            return abl_fail_oom(ret_status);
        }
        ragged->ids = ids;
        ragged->capacity = capacity;
    }
    ragged->ids[count] = id;
    ragged->offsets[prompt + 1] = count + 1;
    return ABL_CODE_OK;
}

void abl_dataset_destroy(abl_dataset *dataset) {
    if (dataset == NULL) {
        return;
    }
    for (int32_t i = 0; i < dataset->label_count; i++) {
        abl_free(dataset->labels[i]);
    }
    for (int32_t i = 0; i < dataset->word_count; i++) {
        abl_free(dataset->words[i]);
    }
    abl_free(dataset->labels);
    abl_free(dataset->words);
    abl_free(dataset->word_positions);
    abl_free(dataset->clean);
    abl_free(dataset->corrupt);
    abl_free(dataset->answers.ids);
    abl_free(dataset->answers.offsets);
    abl_free(dataset->wrong_answers.ids);
    abl_free(dataset->wrong_answers.offsets);
    abl_free(dataset);
}

/* ---- the hash -------------------------------------------------------------------------------- */

static void digest_freep(EVP_MD_CTX **digest) {
    EVP_MD_CTX_free(*digest);
}

static bool digest_ids(EVP_MD_CTX *digest, const int32_t *ids, size_t count) {
    uint64_t length = count;
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(length >> (8 * i));
    }
    bool ok = EVP_DigestUpdate(digest, bytes, sizeof bytes) == 1;
    for (size_t i = 0; ok && i < count; i++) {
        uint32_t id = (uint32_t)ids[i];
        for (int j = 0; j < 4; j++) {
            bytes[j] = (unsigned char)(id >> (8 * j));
        }
        ok = EVP_DigestUpdate(digest, bytes, 4) == 1;
    }
    return ok;
}

static bool digest_ragged(EVP_MD_CTX *digest, const abl_ragged *ragged, int32_t prompt_count) {
    return digest_ids(digest, ragged->offsets, (size_t)prompt_count + 1) &&
           digest_ids(digest, ragged->ids, (size_t)ragged->offsets[prompt_count]);
}

static int32_t ids_max(const int32_t *ids, size_t count, int32_t max) {
    for (size_t i = 0; i < count; i++) {
        max = ids[i] > max ? ids[i] : max;
    }
    return max;
}

abl_code abl_dataset_seal(abl_dataset *dataset, abl_status *ret_status) {
    ABL_CLEANUP(digest_freep) EVP_MD_CTX *digest = EVP_MD_CTX_new();
    size_t tokens = (size_t)dataset->prompt_count * (size_t)dataset->seq_len;
    dataset->id_max = ids_max(dataset->corrupt, tokens, ids_max(dataset->clean, tokens, 0));
    int32_t max =
        ids_max(dataset->answers.ids, (size_t)dataset->answers.offsets[dataset->prompt_count], -1);
    dataset->answer_id_max =
        ids_max(dataset->wrong_answers.ids,
                (size_t)dataset->wrong_answers.offsets[dataset->prompt_count], max);
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int byte_count = 0;
    bool ok = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
              digest_ids(digest, &dataset->seq_len, 1) &&
              digest_ids(digest, dataset->clean, tokens) &&
              digest_ids(digest, dataset->corrupt, tokens) &&
              digest_ragged(digest, &dataset->answers, dataset->prompt_count) &&
              digest_ragged(digest, &dataset->wrong_answers, dataset->prompt_count) &&
              EVP_DigestFinal_ex(digest, bytes, &byte_count) == 1;
    if (!ok) {
        return abl_fail_oom(ret_status); /* sha256 has no other way to fail */
    }
    for (unsigned int i = 0; i < byte_count && 2 * i + 2 < sizeof dataset->hash; i++) {
        (void)snprintf(&dataset->hash[(size_t)2 * i], 3, "%02x", bytes[i]);
    }
    return ABL_CODE_OK;
}

/* ---- from token ids -------------------------------------------------------------------------- */

static abl_code ids_check(const int32_t *ids, size_t count, int32_t row_length, int32_t vocab_size,
                          const char *field, abl_status *ret_status) {
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (vocab_size > 0 && ids[i] >= vocab_size)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE",
                            "%s of prompt %zu: token id %d at position %zu; ids are 0 to %d", field,
                            i / (size_t)row_length, ids[i], i % (size_t)row_length,
                            vocab_size > 0 ? vocab_size - 1 : INT32_MAX);
        }
    }
    return ABL_CODE_OK;
}

/* Copies ragged ids; `count_min` 1 asks for at least one a prompt. */
static abl_code ragged_copy(abl_ragged *to, const int32_t *ids, const int32_t *offsets,
                            const abl_dataset_tokens *tokens, int32_t count_min, const char *field,
                            abl_status *ret_status) {
    for (int32_t i = 0; ids != NULL && i < tokens->prompt_count; i++) {
        if (offsets[i] < 0 || offsets[i + 1] - offsets[i] < count_min ||
            offsets[i + 1] - offsets[i] > ABL_ANSWER_COUNT_MAX) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                            "%s of prompt %d: %lld ids; there must be %d to %d", field, i,
                            (long long)offsets[i + 1] - offsets[i], count_min,
                            ABL_ANSWER_COUNT_MAX);
        }
        abl_code code = ids_check(ids + offsets[i], (size_t)(offsets[i + 1] - offsets[i]),
                                  ABL_ANSWER_COUNT_MAX, tokens->vocab_size, field, ret_status);
        for (int32_t j = offsets[i]; code == ABL_CODE_OK && j < offsets[i + 1]; j++) {
            code = abl_ragged_add(to, i, ids[j], ret_status);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
        to->offsets[i + 1] = to->offsets[i] + offsets[i + 1] - offsets[i];
    }
    return ABL_CODE_OK;
}

static int32_t *ids_copy(const int32_t *ids, size_t count) {
    int32_t *copy = abl_calloc(count, sizeof *copy);
    if (copy != NULL) {
        memcpy(copy, ids, count * sizeof *copy);
    }
    return copy;
}

static abl_code tokens_check(const abl_dataset_tokens *tokens, abl_status *ret_status) {
    if (tokens->prompt_count < 1 || tokens->seq_len < 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_EMPTY",
                        "%d prompts of %d tokens; there must be at least one of each",
                        tokens->prompt_count, tokens->seq_len);
    }
    if (tokens->prompt_count > ABL_PROMPT_COUNT_MAX || tokens->seq_len > ABL_SEQ_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "PROMPT_COUNT",
                        "%d prompts of %d tokens; the limits are %d and %d", tokens->prompt_count,
                        tokens->seq_len, ABL_PROMPT_COUNT_MAX, ABL_SEQ_MAX);
    }
    size_t count = (size_t)tokens->prompt_count * (size_t)tokens->seq_len;
    abl_code code =
        ids_check(tokens->clean, count, tokens->seq_len, tokens->vocab_size, "clean", ret_status);
    if (code == ABL_CODE_OK && tokens->corrupt != NULL) {
        code = ids_check(tokens->corrupt, count, tokens->seq_len, tokens->vocab_size, "corrupt",
                         ret_status);
    }
    return code;
}

abl_code abl_dataset_create_tokens(const abl_dataset_tokens *tokens, abl_dataset **ret_dataset,
                                   abl_status *ret_status) {
    ABL_ASSERT(tokens != NULL && tokens->clean != NULL);
    ABL_ASSERT((tokens->answers == NULL) == (tokens->answer_offsets == NULL));
    ABL_ASSERT((tokens->wrong_answers == NULL) == (tokens->wrong_answer_offsets == NULL));
    abl_code code = tokens_check(tokens, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_dataset *dataset = abl_dataset_alloc(tokens->prompt_count);
    if (dataset == NULL) {
        return abl_fail_oom(ret_status);
    }
    size_t count = (size_t)tokens->prompt_count * (size_t)tokens->seq_len;
    dataset->seq_len = tokens->seq_len;
    dataset->clean = ids_copy(tokens->clean, count);
    dataset->corrupt = ids_copy(tokens->corrupt == NULL ? tokens->clean : tokens->corrupt, count);
    if (dataset->clean == NULL || dataset->corrupt == NULL) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    code = ragged_copy(&dataset->answers, tokens->answers, tokens->answer_offsets, tokens, 1,
                       "answers", ret_status);
    if (code == ABL_CODE_OK) {
        code = ragged_copy(&dataset->wrong_answers, tokens->wrong_answers,
                           tokens->wrong_answer_offsets, tokens, 0, "wrong_answers", ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_dataset_seal(dataset, ret_status);
    }
    if (code != ABL_CODE_OK) {
        goto fail;
    }
    *ret_dataset = dataset;
    return ABL_CODE_OK;
fail:
    abl_dataset_destroy(dataset);
    return code;
}

/* ---- reading --------------------------------------------------------------------------------- */

int32_t abl_dataset_prompt_count(const abl_dataset *dataset) {
    return dataset->prompt_count;
}

int32_t abl_dataset_seq_len(const abl_dataset *dataset) {
    return dataset->seq_len;
}

int32_t abl_dataset_id_max(const abl_dataset *dataset) {
    return dataset->id_max;
}

int32_t abl_dataset_answer_id_max(const abl_dataset *dataset) {
    return dataset->answer_id_max;
}

bool abl_dataset_has_bos(const abl_dataset *dataset) {
    return dataset->has_bos;
}

int32_t abl_dataset_shared_prefix(const abl_dataset *dataset, int32_t first, int32_t count) {
    ABL_ASSERT(first >= 0 && count >= 0 && first + count <= dataset->prompt_count);
    int32_t shared = dataset->seq_len;
    for (int32_t i = first; i < first + count; i++) {
        const int32_t *clean = dataset->clean + (size_t)i * (size_t)dataset->seq_len;
        const int32_t *corrupt = dataset->corrupt + (size_t)i * (size_t)dataset->seq_len;
        int32_t same = 0;
        while (same < shared && clean[same] == corrupt[same]) {
            same++;
        }
        shared = same;
    }
    return shared;
}

int32_t abl_dataset_common_prefix(const abl_dataset *dataset, int32_t *ret_prompt) {
    int32_t shared = dataset->seq_len;
    int32_t prompt = -1;
    for (int32_t i = 0; i < dataset->prompt_count; i++) {
        size_t at = (size_t)i * (size_t)dataset->seq_len;
        int32_t same = 0;
        while (same < shared && dataset->clean[same] == dataset->clean[at + (size_t)same] &&
               dataset->clean[same] == dataset->corrupt[at + (size_t)same]) {
            same++;
        }
        prompt = same < shared ? i : prompt;
        shared = same;
    }
    if (ret_prompt != NULL) {
        *ret_prompt = prompt;
    }
    return shared;
}

const char *abl_dataset_hash(const abl_dataset *dataset) {
    return dataset->hash;
}

int32_t abl_dataset_seq_label_count(const abl_dataset *dataset) {
    return dataset->label_count;
}

const char *abl_dataset_seq_label(const abl_dataset *dataset, int32_t index) {
    ABL_ASSERT(index >= 0 && index < dataset->label_count);
    return dataset->labels[index];
}

int32_t abl_dataset_word_count(const abl_dataset *dataset) {
    return dataset->word_count;
}

const char *abl_dataset_word(const abl_dataset *dataset, int32_t index, int32_t *ret_position) {
    ABL_ASSERT(index >= 0 && index < dataset->word_count);
    *ret_position = dataset->word_positions[index];
    return dataset->words[index];
}

/* ---- tails ----------------------------------------------------------------------------------- */

static int32_t *rows_cut(const abl_dataset *dataset, const int32_t *ids, int32_t cut) {
    size_t left = (size_t)(dataset->seq_len - cut);
    int32_t *to = abl_calloc((size_t)dataset->prompt_count * left, sizeof *to);
    for (int32_t i = 0; to != NULL && i < dataset->prompt_count; i++) {
        memcpy(to + (size_t)i * left, ids + (size_t)i * (size_t)dataset->seq_len + cut,
               left * sizeof *to);
    }
    return to;
}

static bool ragged_clone(abl_ragged *to, const abl_ragged *from, int32_t prompt_count) {
    int32_t count = from->offsets[prompt_count];
    memcpy(to->offsets, from->offsets, ((size_t)prompt_count + 1) * sizeof *to->offsets);
    to->ids = abl_calloc((size_t)count + 1, sizeof *to->ids);
    to->capacity = count + 1;
    if (to->ids != NULL && count > 0) {
        memcpy(to->ids, from->ids, (size_t)count * sizeof *to->ids);
    }
    return to->ids != NULL;
}

static bool names_cut(abl_dataset *to, const abl_dataset *from, int32_t cut) {
    to->labels = abl_calloc((size_t)from->label_count + 1, sizeof *to->labels);
    to->words = abl_calloc((size_t)from->word_count + 1, sizeof *to->words);
    to->word_positions = abl_calloc((size_t)from->word_count + 1, sizeof *to->word_positions);
    bool ok = to->labels != NULL && to->words != NULL && to->word_positions != NULL;
    for (int32_t i = cut; ok && i < from->label_count; i++) {
        to->labels[to->label_count] = abl_strdup(from->labels[i]);
        ok = to->labels[to->label_count++] != NULL;
    }
    for (int32_t i = 0; ok && i < from->word_count; i++) {
        if (from->word_positions[i] >= cut) {
            to->word_positions[to->word_count] = from->word_positions[i] - cut;
            to->words[to->word_count] = abl_strdup(from->words[i]);
            ok = to->words[to->word_count++] != NULL;
        }
    }
    return ok;
}

abl_code abl_dataset_create_tail(const abl_dataset *dataset, int32_t cut, abl_dataset **ret_tail,
                                 abl_status *ret_status) {
    ABL_ASSERT(cut >= 0);
    if (cut >= dataset->seq_len) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAIL_EMPTY",
                        "the prompts have %d tokens, and a prefix of %d leaves nothing of them",
                        dataset->seq_len, cut);
    }
    abl_dataset *tail = abl_dataset_alloc(dataset->prompt_count);
    if (tail == NULL) {
        return abl_fail_oom(ret_status);
    }
    tail->seq_len = dataset->seq_len - cut;
    tail->has_bos = dataset->has_bos && cut == 0;
    tail->clean = rows_cut(dataset, dataset->clean, cut);
    tail->corrupt = rows_cut(dataset, dataset->corrupt, cut);
    bool ok = tail->clean != NULL && tail->corrupt != NULL &&
              ragged_clone(&tail->answers, &dataset->answers, dataset->prompt_count) &&
              ragged_clone(&tail->wrong_answers, &dataset->wrong_answers, dataset->prompt_count) &&
              names_cut(tail, dataset, cut);
    abl_code code = ok ? abl_dataset_seal(tail, ret_status) : abl_fail_oom(ret_status);
    if (code != ABL_CODE_OK) {
        abl_dataset_destroy(tail);
        return code;
    }
    *ret_tail = tail;
    return ABL_CODE_OK;
}

/* ---- batches --------------------------------------------------------------------------------- */

abl_code abl_batches_check(const abl_batches *batches, abl_status *ret_status) {
    if (batches->batch_size < 1 || batches->batch_size > ABL_BATCH_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_SIZE_INVALID",
                        "batch_size is %d; it must be 1 to %d", batches->batch_size, ABL_BATCH_MAX);
    }
    int32_t total = batches->dataset->prompt_count;
    if (batches->first < 0 || batches->count < 1 || batches->count > total ||
        batches->first > total - batches->count) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SPLIT_INVALID",
                        "%d prompts from number %d were asked for; the dataset has %d",
                        batches->count, batches->first, total);
    }
    if (abl_batches_count(batches) == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SPLIT_INVALID",
                        "%d prompts make no whole batch of %d, and the incomplete one is dropped",
                        batches->count, batches->batch_size);
    }
    return ABL_CODE_OK;
}

int32_t abl_batches_count(const abl_batches *batches) {
    int32_t whole = batches->count / batches->batch_size;
    bool rest = !batches->drop_last && batches->count % batches->batch_size != 0;
    return whole + (rest ? 1 : 0);
}

int32_t abl_batches_rows_max(const abl_batches *batches) {
    return batches->batch_size < batches->count ? batches->batch_size : batches->count;
}

abl_batch abl_batches_at(const abl_batches *batches, int32_t index) {
    ABL_ASSERT(index >= 0 && index < abl_batches_count(batches));
    const abl_dataset *dataset = batches->dataset;
    int32_t start = index * batches->batch_size;
    int32_t left = batches->count - start;
    int32_t first = batches->first + start;
    size_t at = (size_t)first * (size_t)dataset->seq_len;
    return (abl_batch){.first = first,
                       .size = left < batches->batch_size ? left : batches->batch_size,
                       .seq_len = dataset->seq_len,
                       .clean = dataset->clean + at,
                       .corrupt = dataset->corrupt + at,
                       .answers = dataset->answers.ids,
                       .answer_offsets = dataset->answers.offsets + first,
                       .wrong_answers = dataset->wrong_answers.ids,
                       .wrong_answer_offsets = dataset->wrong_answers.offsets + first,
                       .prefix = batches->prefix};
}
