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

static bool same_ids(const json_t *list, const int32_t *ids, int64_t count) {
    bool same = (int64_t)json_array_size(list) == count;
    for (int64_t i = 0; same && i < count; i++) {
        same = json_integer_value(json_array_get(list, (size_t)i)) == ids[i];
    }
    return same;
}

/* Recorded batches of rows of token ids. */
static bool same_tokens(const json_t *recorded, const abl_batches *batches) {
    bool same = (int32_t)json_array_size(recorded) == abl_batches_count(batches);
    for (int32_t b = 0; same && b < abl_batches_count(batches); b++) {
        abl_batch batch = abl_batches_at(batches, b);
        const json_t *rows = json_array_get(recorded, (size_t)b);
        same = (int32_t)json_array_size(rows) == batch.size;
        for (int32_t row = 0; same && row < batch.size; row++) {
            same = same_ids(json_array_get(rows, (size_t)row),
                            batch.clean + (int64_t)row * batch.seq_len, batch.seq_len);
        }
    }
    return same;
}

static bool same_answers(const json_t *recorded, const abl_batches *batches, bool wrong) {
    bool same = true;
    for (int32_t b = 0; same && b < abl_batches_count(batches); b++) {
        abl_batch batch = abl_batches_at(batches, b);
        const int32_t *answers = wrong ? batch.wrong_answers : batch.answers;
        const int32_t *offsets = wrong ? batch.wrong_answer_offsets : batch.answer_offsets;
        for (int32_t row = 0; same && row < batch.size; row++) {
            const json_t *list = json_array_get(json_array_get(recorded, (size_t)b), (size_t)row);
            same = same_ids(list, answers + offsets[row], offsets[row + 1] - offsets[row]);
        }
    }
    return same;
}

/* Labels, words, and the tokens that clean and corrupt share: AutoCircuit's diverge_idx. */
static void check_described(const char *title, const json_t *recorded, const abl_dataset *dataset,
                            const abl_batches *batches) {
    const json_t *labels = json_object_get(recorded, "seq_labels");
    bool same = (int32_t)json_array_size(labels) == abl_dataset_seq_label_count(dataset);
    for (int32_t i = 0; same && i < abl_dataset_seq_label_count(dataset); i++) {
        same = strcmp(json_string_value(json_array_get(labels, (size_t)i)),
                      abl_dataset_seq_label(dataset, i)) == 0;
    }
    golden_check(title, "labels", same);
    const json_t *words = json_object_get(recorded, "word_idxs");
    same = (int32_t)json_object_size(words) == abl_dataset_word_count(dataset);
    for (int32_t i = 0; same && i < abl_dataset_word_count(dataset); i++) {
        int32_t position = -1;
        const char *word = abl_dataset_word(dataset, i, &position);
        same = json_integer_value(json_object_get(words, word)) == position;
    }
    golden_check(title, "words", same);
    same = json_integer_value(json_object_get(recorded, "seq_len")) == abl_dataset_seq_len(dataset);
    const json_t *shared = json_object_get(recorded, "batch_diverge_idx");
    for (int32_t b = 0; same && b < abl_batches_count(batches); b++) {
        abl_batch batch = abl_batches_at(batches, b);
        same = json_integer_value(json_array_get(shared, (size_t)b)) ==
               abl_dataset_shared_prefix(dataset, batch.first, batch.size);
    }
    golden_check(title, "length, shared tokens of each batch", same);
}

/* AutoCircuit's loaders: its shuffled order, its split, its batches without an incomplete last. */
static void case_g_dataset(const char *model_name) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "g_dataset")) {
        return;
    }
    abl_model *model = golden_open_model(model_name, abl_model_processing_hf());
    json_t *file = golden_open_json(golden_path("prompts/ioi_abba.json"));
    json_t *shuffled = json_array();
    size_t i = 0;
    json_t *index = NULL;
    json_array_foreach(json_object_get(c.json, "default_shuffle_seed42_order"), i, index) {
        const json_t *prompts = json_object_get(file, "prompts");
        (void)json_array_append(shuffled,
                                json_array_get(prompts, (size_t)json_integer_value(index)));
    }
    abl_dataset *plain = edges_prompts(golden_path("prompts/ioi_abba.json"), model, ABL_BOS_NEVER);
    (void)json_object_set_new(file, "prompts", shuffled);
    abl_dataset *dataset = edges_prompts_of(file, model, ABL_BOS_PREPEND);
    const json_t *recorded = json_object_get(c.json, "batch_size_4_6_train_test_10_14");
    abl_batches train = {.dataset = dataset, .count = 10, .batch_size = 4, .drop_last = true};
    abl_batches test = {
        .dataset = dataset, .first = 10, .count = 14, .batch_size = 6, .drop_last = true};
    golden_check(c.title, "training batches",
                 same_tokens(json_object_get(recorded, "train_clean_tokens"), &train));
    golden_check(c.title, "test batches",
                 same_tokens(json_object_get(recorded, "test_clean_tokens"), &test));
    golden_check(c.title, "answers",
                 same_answers(json_object_get(recorded, "train_answers"), &train, false) &&
                     same_answers(json_object_get(recorded, "train_wrong_answers"), &train, true));
    check_described(c.title, recorded, dataset, &train);
    recorded = json_object_get(c.json, "no_bos");
    abl_batches first = {.dataset = plain, .count = 4, .batch_size = 4};
    golden_check(c.title, "without BOS", same_tokens(json_object_get(recorded, "clean"), &first));
    check_described(c.title, recorded, plain, &first);
    abl_dataset_destroy(plain);
    abl_dataset_destroy(dataset);
    json_decref(file);
    abl_model_unref(model);
    edges_case_close(&c);
}

/* inputs.json is a dataset file of just these prompts, with their ids beside them. */
static void case_smollm2(const edges_subject *s, const abl_safetensors *set) {
    (void)set;
    char title[96];
    (void)snprintf(title, sizeof title, "smollm2-135m/%s", s->model_name);
    abl_dataset *read = edges_prompts(
        golden_path("cases/smollm2-135m/%s/inputs.json", s->model_name), s->model, ABL_BOS_NEVER);
    golden_check(title, "the reference's token ids, by hash",
                 strcmp(abl_dataset_hash(read), abl_dataset_hash(s->dataset)) == 0);
    abl_dataset_destroy(read);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        case_abba(EDGES_MODELS[i]);
        case_g_dataset(EDGES_MODELS[i]);
    }
    edges_each_smollm2(case_smollm2);
    return golden_finish();
}
