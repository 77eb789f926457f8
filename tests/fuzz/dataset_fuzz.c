// SPDX-License-Identifier: Apache-2.0
/* A dataset file from anyone. The tokenizer is a stand-in with one token a byte, so that the fuzzer
 * spends its time in the reader of datasets; tokenizer.json has a target of its own. Invariants
 * beyond "no crash": a dataset that was accepted can be cut into batches and read to the end. */
#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/data/dataset.h"
#include "core/tokenizer/tokenizer.h"

struct abl_tokenizer {
    int unused;
};

abl_code abl_tokenizer_encode(const abl_tokenizer *tokenizer, const char *text, size_t text_bytes,
                              int32_t **ret_ids, size_t *ret_count, abl_status *ret_status) {
    (void)tokenizer;
    int32_t *ids = abl_calloc(text_bytes + 1, sizeof *ids);
    if (ids == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < text_bytes; i++) {
        ids[i] = (unsigned char)text[i];
    }
    *ret_ids = ids;
    *ret_count = text_bytes;
    return ABL_CODE_OK;
}

int32_t abl_tokenizer_bos_id(const abl_tokenizer *tokenizer) {
    (void)tokenizer;
    return 256;
}

static int64_t read_all(const abl_dataset *dataset) {
    abl_batches batches = {
        .dataset = dataset, .count = abl_dataset_prompt_count(dataset), .batch_size = 3};
    abl_status status;
    ABL_ASSERT(abl_batches_check(&batches, &status) == ABL_CODE_OK);
    int64_t sum = 0;
    for (int32_t b = 0; b < abl_batches_count(&batches); b++) {
        abl_batch batch = abl_batches_at(&batches, b);
        for (int64_t i = 0; i < (int64_t)batch.size * batch.seq_len; i++) {
            sum += batch.clean[i] + batch.corrupt[i];
        }
        for (int32_t i = batch.answer_offsets[0]; i < batch.answer_offsets[batch.size]; i++) {
            sum += batch.answers[i];
        }
        for (int32_t i = batch.wrong_answer_offsets[0]; i < batch.wrong_answer_offsets[batch.size];
             i++) {
            sum += batch.wrong_answers[i];
        }
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const abl_tokenizer TOKENIZER = {0};
    abl_dataset_options options = {.tokenizer = &TOKENIZER,
                                   .bos = size % 2 == 0 ? ABL_BOS_NEVER : ABL_BOS_PREPEND,
                                   .vocab_size = 257};
    abl_dataset *dataset = NULL;
    abl_status status = {0};
    abl_code code = abl_dataset_create_json((const char *)data, size, &options, &dataset, &status);
    if (code == ABL_CODE_OK) {
        ABL_ASSERT(read_all(dataset) >= 0);
        abl_dataset_destroy(dataset);
    } else {
        ABL_ASSERT(status.reason != NULL && status.message[0] != '\0' && dataset == NULL);
    }
    return 0;
}
