// SPDX-License-Identifier: Apache-2.0
/* AutoCircuit's dataset file, untrusted.
 *
 * jansson parses (UTF-8 checked, nesting bounded, embedded NULs and duplicate keys refused); then
 * each prompt is checked and tokenized in file order, and the first thing wrong is reported with
 * the prompt's index and the field. Prompts and answers are text, or token ids as AutoCircuit's
 * own pre-tokenized files have them; ids are taken as they are, without a BOS. Keys that are not
 * ours are ignored, for other tools keep notes in these files. */
#include "core/data/dataset_internal.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/json/json.h"
#include "core/tokenizer/tokenizer.h"

#include <jansson.h>
#include <string.h>

#define TEXT_SHOWN_MAX 60 /* of a prompt or answer in a message */

typedef struct reader {
    const abl_dataset_options *options;
    int32_t bos_id; /* -1: none is prepended */
    int32_t seq_len_max;
    bool structure_only; /* no tokenizer: text counts as one token, lengths are not compared */
    abl_dataset *dataset;
} reader;

/* A field that is wrong, in one form: where, then what. */
static abl_code field_fail(abl_status *ret_status, const char *field, int32_t prompt,
                           const char *what) {
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                    "prompts[%d].%s %s", prompt, field, what);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static abl_code id_read(const reader *in, const json_t *json, const char *field, int32_t prompt,
                        int32_t *ret_id, abl_status *ret_status) {
    int32_t end = in->options->vocab_size > 0 ? in->options->vocab_size : INT32_MAX;
    json_int_t value = json_integer_value(json);
    if (!json_is_integer(json)) {
        return field_fail(ret_status, field, prompt, "mixes token ids with something else");
    }
    if (value < 0 || value >= end) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE",
                        "prompts[%d].%s has token id %lld; ids are 0 to %d", prompt, field,
                        (long long)value, end - 1);
    }
    *ret_id = (int32_t)value;
    return ABL_CODE_OK;
}

/* The ids of a text, an abl_free() array. A tokenizer's own failure gets the field's name. */
static abl_code text_encode(const reader *in, const char *text, size_t bytes, const char *field,
                            int32_t prompt, int32_t **ret_ids, size_t *ret_count,
                            abl_status *ret_status) {
    if (in->structure_only) {
        *ret_ids = abl_calloc(1, sizeof **ret_ids);
        *ret_count = 1;
        return *ret_ids == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    }
    if (in->options->tokenizer == NULL) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "TOKENIZER_MISSING",
                        "prompts[%d].%s is text, but the model has no tokenizer; give token ids",
                        prompt, field);
    }
    abl_status inner = {0};
    abl_code code =
        abl_tokenizer_encode(in->options->tokenizer, text, bytes, ret_ids, ret_count, &inner);
    if (code != ABL_CODE_OK) {
        return abl_fail(ret_status, code, inner.reason, "prompts[%d].%s: %s", prompt, field,
                        inner.message);
    }
    return ABL_CODE_OK;
}

/* A prompt, text or ids, with its BOS: an abl_free() array. */
static abl_code prompt_encode(const reader *in, const json_t *json, const char *field,
                              int32_t prompt, int32_t **ret_ids, size_t *ret_count,
                              abl_status *ret_status) {
    if (!json_is_string(json) && !json_is_array(json)) {
        return field_fail(ret_status, field, prompt, "is neither a string nor a list of token ids");
    }
    size_t count = json_array_size(json);
    bool bos = json_is_string(json) && in->bos_id >= 0;
    ABL_CLEANUP(abl_freep) int32_t *text_ids = NULL;
    if (json_is_string(json)) {
        abl_code code = text_encode(in, json_string_value(json), json_string_length(json), field,
                                    prompt, &text_ids, &count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    count += bos;
    if (count == 0) {
        return field_fail(ret_status, field, prompt, "has no tokens");
    }
    if (count > (size_t)in->seq_len_max) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "PROMPT_TOO_LONG",
                        "prompts[%d].%s has %zu tokens; the limit is %d", prompt, field, count,
                        in->seq_len_max);
    }
    ABL_CLEANUP(abl_freep) int32_t *ids = abl_calloc(count, sizeof *ids);
    if (ids == NULL) {
        return abl_fail_oom(ret_status);
    }
    ids[0] = in->bos_id;
    for (size_t i = bos; i < count; i++) {
        abl_code code = ABL_CODE_OK;
        if (text_ids != NULL) {
            ids[i] = text_ids[i - bos];
        } else {
            code = id_read(in, json_array_get(json, i), field, prompt, &ids[i], ret_status);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    *ret_ids = ids;
    ids = NULL; /* the caller's now */
    *ret_count = count;
    return ABL_CODE_OK;
}

/* ---- prompts --------------------------------------------------------------------------------- */

static abl_code matrices_alloc(reader *in, size_t seq_len, abl_status *ret_status) {
    abl_dataset *dataset = in->dataset;
    size_t count = (size_t)dataset->prompt_count * seq_len;
    dataset->seq_len = (int32_t)seq_len;
    dataset->clean = abl_calloc(count, sizeof(int32_t));
    dataset->corrupt = abl_calloc(count, sizeof(int32_t));
    return dataset->clean == NULL || dataset->corrupt == NULL ? abl_fail_oom(ret_status)
                                                              : ABL_CODE_OK;
}

static abl_code prompt_read(reader *in, const json_t *object, const char *field, int32_t prompt,
                            bool corrupt, abl_status *ret_status) {
    abl_dataset *dataset = in->dataset;
    ABL_CLEANUP(abl_freep) int32_t *ids = NULL;
    size_t count = 0;
    const json_t *json = json_object_get(object, field);
    abl_code code = prompt_encode(in, json, field, prompt, &ids, &count, ret_status);
    if (in->structure_only) {
        return code;
    }
    if (code == ABL_CODE_OK && dataset->clean == NULL) {
        code = matrices_alloc(in, count, ret_status);
        dataset->has_bos = json_is_string(json) && in->bos_id >= 0;
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (count != (size_t)dataset->seq_len) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_LENGTHS_DIFFER",
                        "prompts[%d].%s has %zu tokens, prompts[0].clean has %d; all prompts must "
                        "have one length",
                        prompt, field, count, dataset->seq_len);
    }
    int32_t *matrix = corrupt ? dataset->corrupt : dataset->clean;
    memcpy(matrix + (size_t)prompt * count, ids, count * sizeof *ids);
    return ABL_CODE_OK;
}

static abl_code answer_read(const reader *in, const json_t *json, const char *field, int32_t prompt,
                            int32_t *ret_id, abl_status *ret_status) {
    if (!json_is_string(json)) {
        return id_read(in, json, field, prompt, ret_id, ret_status);
    }
    ABL_CLEANUP(abl_freep) int32_t *ids = NULL;
    size_t count = 0;
    abl_code code = text_encode(in, json_string_value(json), json_string_length(json), field,
                                prompt, &ids, &count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (count != 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWER_NOT_ONE_TOKEN",
                        "prompts[%d].%s: '%.*s' is %zu tokens; an answer must be one (a leading "
                        "space often belongs to it)",
                        prompt, field, TEXT_SHOWN_MAX, json_string_value(json), count);
    }
    *ret_id = ids[0];
    return ABL_CODE_OK;
}

static abl_code answers_read(reader *in, const json_t *object, const char *field, int32_t prompt,
                             abl_ragged *answers, size_t count_min, abl_status *ret_status) {
    const json_t *list = json_object_get(object, field);
    size_t count = json_array_size(list);
    if (!json_is_array(list)) {
        return field_fail(ret_status, field, prompt, "is not a list");
    }
    if (count < count_min) {
        return field_fail(ret_status, field, prompt, "is empty; there must be at least one");
    }
    if (count > ABL_ANSWER_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "ANSWER_COUNT",
                        "prompts[%d].%s has %zu entries; the limit is %d", prompt, field, count,
                        ABL_ANSWER_COUNT_MAX);
    }
    answers->offsets[prompt + 1] = answers->offsets[prompt];
    for (size_t i = 0; i < count; i++) {
        int32_t id = 0;
        abl_code code = answer_read(in, json_array_get(list, i), field, prompt, &id, ret_status);
        if (code == ABL_CODE_OK) {
            code = abl_ragged_add(answers, prompt, id, ret_status);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    return ABL_CODE_OK;
}

static abl_code pair_read(reader *in, const json_t *object, int32_t prompt,
                          abl_status *ret_status) {
    static const char *const FIELDS[] = {"clean", "corrupt", "answers", "wrong_answers"};
    if (!json_is_object(object)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                        "prompts[%d] is not an object with clean, corrupt, answers and "
                        "wrong_answers",
                        prompt);
    }
    for (size_t i = 0; i < ABL_COUNT_OF(FIELDS); i++) {
        if (json_object_get(object, FIELDS[i]) == NULL) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_KEY_MISSING",
                            "prompts[%d] has no '%s'; it must have clean, corrupt, answers and "
                            "wrong_answers",
                            prompt, FIELDS[i]);
        }
    }
    abl_dataset *dataset = in->dataset;
    abl_code code = prompt_read(in, object, FIELDS[0], prompt, false, ret_status);
    if (code == ABL_CODE_OK) {
        code = prompt_read(in, object, FIELDS[1], prompt, true, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = answers_read(in, object, FIELDS[2], prompt, &dataset->answers, 1, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = answers_read(in, object, FIELDS[3], prompt, &dataset->wrong_answers, 0, ret_status);
    }
    return code;
}

/* ---- labels and words ------------------------------------------------------------------------ */

static abl_code labels_read(reader *in, const json_t *list, abl_status *ret_status) {
    abl_dataset *dataset = in->dataset;
    if (list == NULL || json_is_null(list)) {
        return ABL_CODE_OK;
    }
    size_t bos = dataset->has_bos;
    size_t count = json_array_size(list) + bos;
    if (in->structure_only && (!json_is_array(list) || count > ABL_SEQ_MAX)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                        "seq_labels must be a list of strings, one a token of a prompt");
    }
    if (!in->structure_only && (!json_is_array(list) || count != (size_t)dataset->seq_len)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                        "seq_labels must be a list of %zu strings, one a token of a prompt%s",
                        (size_t)dataset->seq_len - bos, bos == 0 ? "" : " (the BOS has its own)");
    }
    dataset->labels = abl_calloc(count + 1, sizeof *dataset->labels);
    if (dataset->labels == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *label = i < bos ? NULL : json_array_get(list, i - bos);
        if (i >= bos && !json_is_string(label)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                            "seq_labels[%zu] is not a string", i - bos);
        }
        char *copy = abl_strdup(i < bos ? "<|BOS|>" : json_string_value(label));
        if (copy == NULL) {
            return abl_fail_oom(ret_status);
        }
        dataset->labels[dataset->label_count++] = copy;
    }
    return ABL_CODE_OK;
}

static abl_code words_read(reader *in, json_t *object, abl_status *ret_status) {
    abl_dataset *dataset = in->dataset;
    if (object == NULL || json_is_null(object)) {
        return ABL_CODE_OK;
    }
    if (!json_is_object(object)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                        "word_idxs is not an object of token positions");
    }
    size_t count = json_object_size(object);
    dataset->words = abl_calloc(count + 1, sizeof *dataset->words);
    dataset->word_positions = abl_calloc(count + 1, sizeof *dataset->word_positions);
    if (dataset->words == NULL || dataset->word_positions == NULL) {
        return abl_fail_oom(ret_status);
    }
    const char *key = NULL;
    json_t *value = NULL;
    int32_t positions = in->structure_only ? ABL_SEQ_MAX : dataset->seq_len;
    json_object_foreach(object, key, value) {
        json_int_t position = json_integer_value(value) + (dataset->has_bos ? 1 : 0);
        if (!json_is_integer(value) || position < 0 || position >= positions) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                            "word_idxs['%.*s'] is not a position of a prompt, 0 to %d",
                            TEXT_SHOWN_MAX, key, positions - 1 - (dataset->has_bos ? 1 : 0));
        }
        char *copy = abl_strdup(key);
        if (copy == NULL) {
            return abl_fail_oom(ret_status);
        }
        dataset->word_positions[dataset->word_count] = (int32_t)position;
        dataset->words[dataset->word_count++] = copy;
    }
    return ABL_CODE_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static abl_code root_read(reader *in, json_t *root, abl_status *ret_status) {
    json_t *prompts = json_object_get(root, "prompts");
    if (prompts == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_KEY_MISSING",
                        "the dataset has no 'prompts'; it must be an object with a list of them");
    }
    size_t count = json_array_size(prompts);
    if (!json_is_array(prompts)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_FIELD_INVALID",
                        "'prompts' is not a list");
    }
    if (count == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DATASET_EMPTY",
                        "'prompts' is empty; there must be at least one");
    }
    if (count > ABL_PROMPT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "PROMPT_COUNT",
                        "the dataset has %zu prompts; the limit is %d", count,
                        ABL_PROMPT_COUNT_MAX);
    }
    in->dataset = abl_dataset_alloc((int32_t)count);
    if (in->dataset == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_code code = ABL_CODE_OK;
    for (size_t i = 0; code == ABL_CODE_OK && i < count; i++) {
        code = pair_read(in, json_array_get(prompts, i), (int32_t)i, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = labels_read(in, json_object_get(root, "seq_labels"), ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = words_read(in, json_object_get(root, "word_idxs"), ret_status);
    }
    return code;
}

static abl_code json_read(reader *in, const char *json, size_t json_bytes, abl_status *ret_status) {
    if (json_bytes > ABL_DATASET_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "DATASET_TOO_BIG",
                        "the dataset has %zu bytes; the limit is %d", json_bytes,
                        ABL_DATASET_BYTES_MAX);
    }
    ABL_CLEANUP(abl_json_decrefp) json_t *root = NULL;
    abl_code code =
        abl_json_parse(json, json_bytes, "the dataset", "DATASET_NOT_JSON", &root, ret_status);
    return code == ABL_CODE_OK ? root_read(in, root, ret_status) : code;
}

abl_code abl_dataset_create_json(const char *json, size_t json_bytes,
                                 const abl_dataset_options *options, abl_dataset **ret_dataset,
                                 abl_status *ret_status) {
    ABL_ASSERT(json != NULL && options != NULL && ret_dataset != NULL);
    reader in = {.options = options, .bos_id = ABL_TOKEN_NONE};
    in.seq_len_max = options->seq_len_max > 0 && options->seq_len_max < ABL_SEQ_MAX
                         ? options->seq_len_max
                         : ABL_SEQ_MAX;
    if (options->bos == ABL_BOS_PREPEND && options->tokenizer != NULL) {
        in.bos_id = abl_tokenizer_bos_id(options->tokenizer);
    }
    abl_code code = json_read(&in, json, json_bytes, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_dataset_seal(in.dataset, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_dataset_destroy(in.dataset);
        return code;
    }
    *ret_dataset = in.dataset;
    return ABL_CODE_OK;
}

abl_code abl_dataset_check_json(const char *json, size_t json_bytes, abl_dataset_info *ret_info,
                                abl_status *ret_status) {
    ABL_ASSERT(json != NULL && ret_info != NULL);
    static const abl_dataset_options none;
    reader in = {.options = &none,
                 .bos_id = ABL_TOKEN_NONE,
                 .seq_len_max = ABL_SEQ_MAX,
                 .structure_only = true};
    abl_code code = json_read(&in, json, json_bytes, ret_status);
    if (code == ABL_CODE_OK) {
        *ret_info = (abl_dataset_info){.prompt_count = in.dataset->prompt_count,
                                       .seq_labels = in.dataset->labels,
                                       .seq_label_count = in.dataset->label_count};
        in.dataset->labels = NULL; /* the caller's now */
        in.dataset->label_count = 0;
    }
    abl_dataset_destroy(in.dataset);
    return code;
}

void abl_dataset_info_finish(abl_dataset_info *info) {
    for (int32_t i = 0; i < info->seq_label_count; i++) {
        abl_free(info->seq_labels[i]);
    }
    abl_free(info->seq_labels);
    *info = (abl_dataset_info){0};
}
