/* SPDX-License-Identifier: Apache-2.0
 *
 * Dataset files through the real tokenizers: AutoCircuit's own files give its token ids, with and
 * without a BOS, and the task files of SmolLM2 give the reference's. The hash says so as well: the
 * same prompts by ids and by text are one dataset. */
#include "core/base/mem.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/golden/edges.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first rows of `read` are those of `recorded`, answers included. */
static bool starts_with(const abl_dataset *read, const abl_dataset *recorded) {
    int32_t count = abl_dataset_prompt_count(recorded);
    if (abl_dataset_prompt_count(read) < count ||
        abl_dataset_seq_len(read) != abl_dataset_seq_len(recorded)) {
        return false;
    }
    abl_batches batches = {.dataset = read, .count = count, .batch_size = count};
    abl_batch a = abl_batches_at(&batches, 0);
    batches.dataset = recorded;
    abl_batch b = abl_batches_at(&batches, 0);
    size_t bytes = (size_t)count * (size_t)a.seq_len * sizeof(int32_t);
    bool equal = memcmp(a.clean, b.clean, bytes) == 0 && memcmp(a.corrupt, b.corrupt, bytes) == 0;
    for (int32_t i = 0; i < count; i++) {
        for (int32_t j = 0; equal && j < b.answer_offsets[i + 1] - b.answer_offsets[i]; j++) {
            equal = a.answers[a.answer_offsets[i] + j] == b.answers[b.answer_offsets[i] + j];
        }
        for (int32_t j = 0; equal && j < b.wrong_answer_offsets[i + 1] - b.wrong_answer_offsets[i];
             j++) {
            equal = a.wrong_answers[a.wrong_answer_offsets[i] + j] ==
                    b.wrong_answers[b.wrong_answer_offsets[i] + j];
        }
    }
    return equal;
}

static void case_abba(const char *model_name) {
    abl_model *model = golden_open_model(model_name, abl_model_processing_hf());
    abl_dataset *recorded = edges_abba(model_name);
    const char *path = golden_path("prompts/ioi_abba.json");
    abl_dataset *with_bos = edges_prompts(path, model, ABL_BOS_PREPEND);
    abl_dataset *without = edges_prompts(path, model, ABL_BOS_NEVER);
    golden_check(model_name, "ioi_abba: token ids", starts_with(with_bos, recorded));
    golden_check(model_name, "ioi_abba: 32 prompts", abl_dataset_prompt_count(with_bos) == 32);
    golden_check(model_name, "ioi_abba: one token less without BOS",
                 abl_dataset_seq_len(without) + 1 == abl_dataset_seq_len(with_bos));
    int32_t position = -1;
    const char *word = abl_dataset_word(with_bos, 0, &position);
    golden_check(model_name, "ioi_abba: words moved by the BOS",
                 strcmp(word, "IO") == 0 && position == 3);
    golden_check(model_name, "ioi_abba: labels",
                 abl_dataset_seq_label_count(with_bos) == 16 &&
                     strcmp(abl_dataset_seq_label(with_bos, 0), "<|BOS|>") == 0);
    abl_dataset_destroy(without);
    abl_dataset_destroy(with_bos);
    abl_dataset_destroy(recorded);
    abl_model_unref(model);
}

static void case_smollm2(void) {
    const char *first = golden_path("cases/smollm2-135m/%s/golden.safetensors", EDGES_SMOLLM2[0]);
    const char *dir = golden_has(first) ? golden_smollm2_dir() : NULL;
    if (dir == NULL) {
        return;
    }
    abl_model *model = golden_open_model(dir, abl_model_processing_hf());
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_SMOLLM2); i++) {
        char title[96];
        (void)snprintf(title, sizeof title, "smollm2-135m/%s", EDGES_SMOLLM2[i]);
        abl_dataset *recorded = edges_smollm2(EDGES_SMOLLM2[i]);
        /* inputs.json is a dataset file of just these prompts, with their ids beside them. */
        abl_dataset *read =
            edges_prompts(golden_path("cases/smollm2-135m/%s/inputs.json", EDGES_SMOLLM2[i]), model,
                          ABL_BOS_NEVER);
        golden_check(title, "the reference's token ids, by hash",
                     strcmp(abl_dataset_hash(read), abl_dataset_hash(recorded)) == 0);
        abl_dataset_destroy(read);
        abl_dataset_destroy(recorded);
    }
    abl_model_unref(model);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        case_abba(EDGES_MODELS[i]);
    }
    case_smollm2();
    return golden_finish();
}
