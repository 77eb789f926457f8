/* SPDX-License-Identifier: Apache-2.0
 *
 * How much our own numbers move with what must not matter, the batch size: case `tolerance` has
 * what AutoCircuit's moved by, and how far its fp32 is from fp64. Ours may move by ten times the
 * latter, which is rounding, and no more. Scores are sums over batches, so they are divided by
 * their number; at mask 1 everything is replaced and the scores are rounding themselves. */
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "tests/golden/edges.h"

#include <stdio.h>

#define ROUNDING_FACTOR 10

typedef struct scored {
    const char *name; /* in the case */
    abl_prune_algorithm algorithm;
    abl_grad_function grad_function;
    float mask_value;
    int32_t samples;
} scored;

static const scored SCORED[] = {
    {"scores eap / n_batches", ABL_PRUNE_EAP, ABL_GRAD_LOGIT, 0, 0},
    {"scores m0.7 / n_batches", ABL_PRUNE_MASK_GRADIENT, ABL_GRAD_LOGIT, 0.7F, 0},
    {"scores m1 / n_batches", ABL_PRUNE_MASK_GRADIENT, ABL_GRAD_LOGIT, 1, 0},
    {"scores ig10 / n_batches", ABL_PRUNE_MASK_GRADIENT, ABL_GRAD_LOGIT, 0, 10},
    {"scores prob / n_batches", ABL_PRUNE_MASK_GRADIENT, ABL_GRAD_PROB, 0, 0},
};

static double tolerance_of(const json_t *json, const char *name) {
    const json_t *row = json_object_get(json_object_get(json, "fp64 vs bs4"), name);
    return ROUNDING_FACTOR * json_number_value(json_object_get(row, "max_abs"));
}

static float *scores_of(const scored *what, abl_prune_options options, int32_t batch_size) {
    options.algorithm = what->algorithm;
    options.grad_function = what->grad_function;
    options.mask_value = what->mask_value;
    options.integrated_grad_samples = what->samples;
    options.batches.batch_size = batch_size;
    float *scores = edges_scores(&options);
    const int32_t batches = abl_batches_count(&options.batches);
    for (int64_t i = 0; i < abl_graph_edge_count(options.graph); i++) {
        scores[i] /= (float)batches;
    }
    return scores;
}

/* The last position's logits of the first eight prompts, `batch_size` at a time. */
static float *logits_of(const abl_model *model, const abl_dataset *dataset, int32_t batch_size) {
    const int64_t vocab = abl_model_get_config(model)->d_vocab;
    abl_batches batches = {.dataset = dataset, .count = 8, .batch_size = batch_size};
    float *logits = abl_calloc((size_t)(8 * vocab), sizeof *logits);
    for (int32_t i = 0; i < abl_batches_count(&batches); i++) {
        abl_batch batch = abl_batches_at(&batches, i);
        const abl_forward_options options = {.model = model,
                                             .tokens = batch.clean,
                                             .batch = batch.size,
                                             .seq = batch.seq_len,
                                             .out_slice = ABL_OUT_SLICE_LAST,
                                             .stop_at_layer = -1};
        abl_forward_result result;
        abl_status status;
        golden_must(abl_forward(&options, &result, &status), &status);
        size_t count = 0;
        float *part = golden_floats_of(result.logits, &count);
        for (size_t j = 0; j < count; j++) {
            logits[(size_t)i * (size_t)batch_size * (size_t)vocab + j] = part[j];
        }
        abl_free(part);
        abl_forward_result_finish(&result);
    }
    return logits;
}

static void case_model(const char *model_name) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "tolerance")) {
        return;
    }
    abl_model *model = golden_open_model(model_name, abl_model_processing_tl());
    abl_dataset *dataset = edges_abba(model_name);
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    const size_t edges = (size_t)abl_graph_edge_count(graph);
    const size_t logits = 8 * (size_t)abl_model_get_config(model)->d_vocab;
    static const int32_t SIZES[] = {1, 8};
    for (size_t i = 0; i < ABL_COUNT_OF(SIZES); i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "clean logits, batches of %d and 4", SIZES[i]);
        float *four = logits_of(model, dataset, 4);
        float *other = logits_of(model, dataset, SIZES[i]);
        golden_compare_floats(c.title, name, four, logits, other, logits,
                              tolerance_of(c.json, "clean logits"));
        abl_free(four);
        abl_free(other);
        for (size_t k = 0; k < ABL_COUNT_OF(SCORED); k++) {
            const abl_prune_options options = {
                .model = model, .graph = graph, .batches = {.dataset = dataset, .count = 8}};
            four = scores_of(&SCORED[k], options, 4);
            other = scores_of(&SCORED[k], options, SIZES[i]);
            (void)snprintf(name, sizeof name, "%s, batches of %d and 4", SCORED[k].name, SIZES[i]);
            golden_compare_floats(c.title, name, four, edges, other, edges,
                                  tolerance_of(c.json, SCORED[k].name));
            abl_free(four);
            abl_free(other);
        }
    }
    abl_graph_destroy(graph);
    abl_dataset_destroy(dataset);
    abl_model_unref(model);
    edges_case_close(&c);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        case_model(EDGES_MODELS[i]);
    }
    return golden_finish();
}
