/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the recorded cases that are about edges. Arrays are stored by destination module, in the
 * shape of its patch mask, which is a dense block of the flat array (core/graph/scores.h). */
#include "tests/golden/edges.h"

#include "core/base/mem.h"
#include "core/graph/scores.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const edges_variant EDGES_VARIANTS[] = {
    {.name = "proc_fact_qkv"},
    {.name = "proc_fact_qkv_seq", .seq = true},
    {.name = "proc_fact_noqkv", .joined_qkv = true},
    {.name = "proc_fact_noqkv_seq", .joined_qkv = true, .seq = true},
    {.name = "raw_fact_qkv", .raw = true},
    {.name = "proc_unfact", .simple = true},
    {.name = "proc_unfact_seq", .seq = true, .simple = true},
};
const size_t EDGES_VARIANT_COUNT = ABL_COUNT_OF(EDGES_VARIANTS);
const char *const EDGES_MODELS[2] = {"tiny-ioi", "tiny-rand"};
const char *const EDGES_SMOLLM2[4] = {"ioi_ABBA_template_0", "greaterthan_4", "capital_cities",
                                      "docstring"};

static void *need(void *block) {
    if (block == NULL) {
        (void)fprintf(stderr, "golden: no memory\n");
        exit(2);
    }
    return block;
}

abl_graph *edges_graph(const abl_model *model, const edges_variant *variant, int seq_len) {
    const abl_model_config *c = abl_model_get_config(model);
    const abl_graph_options options = {.layer_count = c->n_layers,
                                       .head_count = c->n_heads,
                                       .kv_head_count = c->n_kv_heads,
                                       .parallel_attn_mlp = c->parallel_attn_mlp,
                                       .simple = variant->simple,
                                       .joined_qkv = variant->joined_qkv,
                                       .seq_len = variant->seq ? seq_len : 0};
    abl_graph *graph = NULL;
    abl_status status;
    golden_must(abl_graph_create(&options, &graph, &status), &status);
    return graph;
}

/* ---- datasets -------------------------------------------------------------------------------- */

/* Two recorded (8, n) integer arrays, one after the other. */
static int32_t *two_halves(const abl_safetensors *set, const char *name) {
    char test_name[64];
    (void)snprintf(test_name, sizeof test_name, "test_%s", name);
    const abl_safetensors_tensor *train = golden_tensor(set, name);
    const abl_safetensors_tensor *test = golden_tensor(set, test_name);
    int32_t *a = golden_ints(train);
    int32_t *b = golden_ints(test);
    int32_t *all = need(abl_calloc(train->elements + test->elements, sizeof *all));
    memcpy(all, a, train->elements * sizeof *a);
    memcpy(all + train->elements, b, test->elements * sizeof *b);
    abl_free(a);
    abl_free(b);
    return all;
}

static abl_dataset *dataset_create(const abl_dataset_tokens *tokens) {
    abl_dataset *dataset = NULL;
    abl_status status;
    golden_must(abl_dataset_create_tokens(tokens, &dataset, &status), &status);
    return dataset;
}

/* Prompts with an answer and a wrong one, of a token each; takes the four arrays, abl_calloc'd. */
static abl_dataset *dataset_of_pairs(int32_t *clean, int32_t *corrupt, int32_t *answers,
                                     int32_t *wrong, int32_t prompts, int32_t seq) {
    int32_t *offsets = need(abl_calloc((size_t)prompts + 1, sizeof *offsets));
    for (int32_t i = 0; i <= prompts; i++) {
        offsets[i] = i;
    }
    abl_dataset *dataset = dataset_create(&(abl_dataset_tokens){.clean = clean,
                                                                .corrupt = corrupt,
                                                                .prompt_count = prompts,
                                                                .seq_len = seq,
                                                                .answers = answers,
                                                                .answer_offsets = offsets,
                                                                .wrong_answers = wrong,
                                                                .wrong_answer_offsets = offsets});
    abl_free(clean);
    abl_free(corrupt);
    abl_free(answers);
    abl_free(wrong);
    abl_free(offsets);
    return dataset;
}

abl_dataset *edges_abba(const char *model_name) {
    abl_safetensors *set =
        golden_open_tensors(golden_path("cases/%s/a_logits.safetensors", model_name));
    int32_t *clean = two_halves(set, "tokens_clean");
    int32_t *corrupt = two_halves(set, "tokens_corrupt");
    int32_t *answers = two_halves(set, "answers");
    int32_t *wrong = two_halves(set, "wrong_answers");
    abl_dataset *dataset = dataset_of_pairs(clean, corrupt, answers, wrong, 16, 16);
    abl_safetensors_close(set);
    return dataset;
}

abl_dataset *edges_reversed(const abl_dataset *dataset, int32_t prompts) {
    const abl_batches batches = {.dataset = dataset, .count = prompts, .batch_size = prompts};
    const abl_batch batch = abl_batches_at(&batches, 0);
    return dataset_create(
        &(abl_dataset_tokens){.clean = batch.corrupt,
                              .corrupt = batch.clean,
                              .prompt_count = prompts,
                              .seq_len = batch.seq_len,
                              .answers = batch.answers,
                              .answer_offsets = batch.answer_offsets,
                              .wrong_answers = batch.wrong_answers,
                              .wrong_answer_offsets = batch.wrong_answer_offsets});
}

abl_dataset *edges_made_up(const abl_model_config *config, int32_t prompts, int32_t seq) {
    const size_t count = (size_t)(prompts * seq);
    int32_t *clean = need(abl_calloc(count, sizeof *clean));
    int32_t *corrupt = need(abl_calloc(count, sizeof *corrupt));
    int32_t *answers = need(abl_calloc((size_t)prompts, sizeof *answers));
    int32_t *wrong = need(abl_calloc((size_t)prompts, sizeof *wrong));
    uint32_t state = 12345;
    for (int32_t i = 0; i < prompts * seq; i++) {
        state = state * 1664525U + 1013904223U;
        clean[i] = (int32_t)((state >> 8) % (uint32_t)config->d_vocab);
        state = state * 1664525U + 1013904223U;
        corrupt[i] = (int32_t)((state >> 8) % (uint32_t)config->d_vocab);
        corrupt[i] = i % seq == 0 ? clean[i] : corrupt[i];
    }
    for (int32_t i = 0; i < prompts; i++) {
        answers[i] = i % config->d_vocab_out;
        wrong[i] = (i + 1) % config->d_vocab_out;
    }
    return dataset_of_pairs(clean, corrupt, answers, wrong, prompts, seq);
}

abl_dataset *edges_prompts_of(const json_t *json, const abl_model *model, abl_bos_policy bos) {
    char *text = json_dumps(json, JSON_PRESERVE_ORDER);
    const abl_dataset_options options = {.tokenizer = abl_model_tokenizer(model),
                                         .bos = bos,
                                         .vocab_size = abl_model_get_config(model)->d_vocab,
                                         .seq_len_max = abl_model_get_config(model)->n_ctx};
    abl_dataset *dataset = NULL;
    abl_status status;
    golden_must(abl_dataset_create_json(text, strlen(text), &options, &dataset, &status), &status);
    abl_free(text); /* jansson allocates through core/base/mem.h */
    return dataset;
}

abl_dataset *edges_prompts(const char *path, const abl_model *model, abl_bos_policy bos) {
    json_t *json = golden_open_json(path);
    abl_dataset *dataset = edges_prompts_of(json, model, bos);
    json_decref(json);
    return dataset;
}

/* A list of lists of ids, end to end; *ret_offsets has one entry more than rows. */
static int32_t *rows_read(const json_t *rows, int32_t **ret_offsets) {
    size_t total = 0;
    size_t count = json_array_size(rows);
    for (size_t i = 0; i < count; i++) {
        total += json_array_size(json_array_get(rows, i));
    }
    int32_t *ids = need(abl_calloc(total + 1, sizeof *ids));
    int32_t *offsets = need(abl_calloc(count + 1, sizeof *offsets));
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(rows, i);
        offsets[i + 1] = offsets[i] + (int32_t)json_array_size(row);
        for (size_t j = 0; j < json_array_size(row); j++) {
            ids[offsets[i] + (int32_t)j] = (int32_t)json_integer_value(json_array_get(row, j));
        }
    }
    *ret_offsets = offsets;
    return ids;
}

abl_dataset *edges_smollm2(const char *task) {
    json_t *json = golden_open_json(golden_path("cases/smollm2-135m/%s/inputs.json", task));
    const json_t *ids = json_object_get(json, "token_ids");
    int32_t *offsets[4];
    int32_t *clean = rows_read(json_object_get(ids, "clean"), &offsets[0]);
    int32_t *corrupt = rows_read(json_object_get(ids, "corrupt"), &offsets[1]);
    int32_t *answers = rows_read(json_object_get(ids, "answers"), &offsets[2]);
    int32_t *wrong = rows_read(json_object_get(ids, "wrong_answers"), &offsets[3]);
    abl_dataset *dataset = dataset_create(&(abl_dataset_tokens){
        .clean = clean,
        .corrupt = corrupt,
        .prompt_count = (int32_t)json_array_size(json_object_get(ids, "clean")),
        .seq_len = offsets[0][1],
        .answers = answers,
        .answer_offsets = offsets[2],
        .wrong_answers = wrong,
        .wrong_answer_offsets = offsets[3]});
    int32_t *const blocks[] = {clean, corrupt, answers, wrong};
    for (size_t i = 0; i < 4; i++) {
        abl_free(blocks[i]);
        abl_free(offsets[i]);
    }
    json_decref(json);
    return dataset;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

float *edges_floats(const abl_safetensors_tensor *tensor) {
    float *values = need(abl_malloc(tensor->bytes + 1));
    memcpy(values, tensor->data, tensor->bytes);
    return values;
}

float *edges_flat(const abl_graph *graph, const abl_safetensors *set, const char *prefix) {
    float *flat = need(abl_calloc((size_t)abl_graph_edge_count(graph), sizeof *flat));
    for (int32_t m = 0; m < abl_graph_module_count(graph); m++) {
        char name[160];
        (void)snprintf(name, sizeof name, "%s/%s", prefix, abl_graph_module_at(graph, m)->name);
        if (abl_safetensors_find(set, name) == NULL && m == 0) {
            abl_free(flat);
            return NULL;
        }
        const abl_safetensors_tensor *tensor = golden_tensor(set, name);
        if ((int64_t)tensor->elements != abl_scores_module_shape(graph, m).count) {
            (void)fprintf(stderr, "golden: %s has another shape than the graph's module\n", name);
            exit(2);
        }
        float *values = edges_floats(tensor);
        abl_scores_write_module(graph, flat, m, values);
        abl_free(values);
    }
    return flat;
}

double edges_max_abs(const float *values, int64_t count) {
    double max = 0;
    for (int64_t i = 0; i < count; i++) {
        max = fabs((double)values[i]) > max ? fabs((double)values[i]) : max;
    }
    return max;
}

int64_t *edges_list(const json_t *list, int64_t *ret_count) {
    size_t count = json_array_size(list);
    int64_t *values = need(abl_calloc(count + 1, sizeof *values));
    for (size_t i = 0; i < count; i++) {
        values[i] = json_integer_value(json_array_get(list, i));
    }
    *ret_count = (int64_t)count;
    return values;
}

/* ---- cases ----------------------------------------------------------------------------------- */

bool edges_case_open(edges_case *opened, const char *model_name, const char *format, ...) {
    char name[64];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(name, sizeof name, format, args);
    va_end(args);
    *opened = (edges_case){.set = NULL};
    (void)snprintf(opened->title, sizeof opened->title, "%s/%s", model_name, name);
    const char *path = golden_path("cases/%s/%s.json", model_name, name);
    if (!golden_has(path)) {
        return false;
    }
    opened->json = golden_open_json(path);
    path = golden_path("cases/%s/%s.safetensors", model_name, name);
    if (access(path, R_OK) == 0) {
        opened->set = golden_open_tensors(path);
    }
    return true;
}

void edges_case_close(edges_case *opened) {
    abl_safetensors_close(opened->set);
    json_decref(opened->json);
}

abl_prune *edges_run(const abl_prune_options *options) {
    abl_prune *prune = NULL;
    abl_status status;
    golden_must(abl_prune_create(options, &prune, &status), &status);
    abl_prune_progress progress = {0};
    while (!progress.finished) {
        golden_must(abl_prune_step(prune, &progress, &status), &status);
    }
    return prune;
}

float *edges_scores(const abl_prune_options *options) {
    abl_prune *prune = edges_run(options);
    size_t bytes = (size_t)abl_graph_edge_count(options->graph) * sizeof(float);
    float *scores = abl_malloc(bytes);
    memcpy(scores, abl_prune_scores(prune), bytes);
    abl_prune_destroy(prune);
    return scores;
}

void edges_each_variant(void (*visit_cb)(const edges_subject *s, const edges_variant *variant)) {
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        const char *name = EDGES_MODELS[i];
        abl_dataset *dataset = edges_abba(name);
        abl_model *models[] = {golden_open_model(name, abl_model_processing_tl()),
                               golden_open_model(name, abl_model_processing_hf())};
        for (size_t v = 0; v < EDGES_VARIANT_COUNT; v++) {
            const edges_variant *variant = &EDGES_VARIANTS[v];
            abl_model *model = models[variant->raw ? 1 : 0];
            abl_graph *graph = edges_graph(model, variant, abl_dataset_seq_len(dataset));
            const edges_subject s = {name, model, graph, dataset};
            visit_cb(&s, variant);
            abl_graph_destroy(graph);
        }
        abl_model_unref(models[0]);
        abl_model_unref(models[1]);
        abl_dataset_destroy(dataset);
    }
}

void edges_each_smollm2(void (*visit_cb)(const edges_subject *s, const abl_safetensors *set)) {
    const char *first = golden_path("cases/smollm2-135m/%s/golden.safetensors", EDGES_SMOLLM2[0]);
    const char *dir = golden_has(first) ? golden_smollm2_dir() : NULL;
    if (dir == NULL) {
        return;
    }
    abl_model *model = golden_open_model(dir, abl_model_processing_hf());
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_SMOLLM2); i++) {
        const char *task = EDGES_SMOLLM2[i];
        abl_safetensors *set =
            golden_open_tensors(golden_path("cases/smollm2-135m/%s/golden.safetensors", task));
        abl_dataset *dataset = edges_smollm2(task);
        const edges_subject s = {task, model, graph, dataset};
        visit_cb(&s, set);
        abl_dataset_destroy(dataset);
        abl_safetensors_close(set);
    }
    abl_graph_destroy(graph);
    abl_model_unref(model);
}
