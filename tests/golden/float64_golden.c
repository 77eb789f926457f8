/* SPDX-License-Identifier: Apache-2.0
 *
 * Mask gradients against AutoCircuit's in float64: how far our own float32 is from the truth, which
 * comparing two float32 programs cannot tell. Off by, in shares of the largest score, at mask 0
 * unless it says otherwise:
 *
 *                        AutoCircuit's float32    ours
 *     prob, avg_diff     1.5e-5                   6e-6 to 1.2e-5
 *     prob, mse          7.6e-3                   6e-6
 *     logprob, avg_val   1.1e-5                   3e-6 to 6e-6
 *     logit, mse         3.1e-5                   9e-7
 *       at 0.7, ig10     8.5e-5, 6.1e-5           4e-6, 2e-6
 *     others             2e-6                     2e-6
 *
 * The gradient of a sure answer's probability, p (1 - p), is made in float64 and goes with the
 * exponential of a logit: what is left is the logits' own rounding, which kernels differ in. The
 * targets of mse are ids, hundreds, the same for all of the vocabulary, over which the unembedding
 * sums to 0: their share goes before the product (abl_block_unembed_backward_normed). */
#include "core/base/mem.h"
#include "tests/golden/edges.h"

#include <stdio.h>

typedef struct gradient {
    const char *key; /* in the file */
    abl_grad_function grad_function;
    abl_answer_function answer_function;
    double tolerance; /* of the largest |score|; goldens/README.md suggests 2e-5 */
    float mask_value;
    int32_t samples;
} gradient;

static const gradient GRADIENTS[] = {
    {"logit_avg_diff", ABL_GRAD_LOGIT, ABL_ANSWER_AVG_DIFF, 5e-6, 0, 0},
    {"logit_mse", ABL_GRAD_LOGIT, ABL_ANSWER_MSE, 5e-6, 0, 0},
    {"logit_mse_m0.7", ABL_GRAD_LOGIT, ABL_ANSWER_MSE, 1e-5, 0.7F, 0},
    {"logit_mse_ig10", ABL_GRAD_LOGIT, ABL_ANSWER_MSE, 5e-6, 0, 10},
    {"prob_avg_diff", ABL_GRAD_PROB, ABL_ANSWER_AVG_DIFF, 2e-5, 0, 0},
    {"prob_mse", ABL_GRAD_PROB, ABL_ANSWER_MSE, 2e-5, 0, 0},
    {"logprob_avg_diff", ABL_GRAD_LOGPROB, ABL_ANSWER_AVG_DIFF, 5e-6, 0, 0},
    {"logprob_avg_val", ABL_GRAD_LOGPROB, ABL_ANSWER_AVG_VAL, 2e-5, 0, 0},
    {"logit_exp_avg_diff", ABL_GRAD_LOGIT_EXP, ABL_ANSWER_AVG_DIFF, 5e-6, 0, 0},
};

int main(void) {
    golden_init("float64_golden");
    abl_safetensors *set = golden_open_tensors(ABLATE_GOLDEN_DATA "/float64/tiny-ioi.safetensors");
    abl_model *model = golden_open_model("tiny-ioi", abl_model_processing_tl());
    abl_dataset *dataset = edges_abba("tiny-ioi");
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    const int64_t count = abl_graph_edge_count(graph);
    for (size_t i = 0; i < ABL_COUNT_OF(GRADIENTS); i++) {
        const gradient *g = &GRADIENTS[i];
        const abl_prune_options options = {
            .algorithm = ABL_PRUNE_MASK_GRADIENT,
            .model = model,
            .graph = graph,
            .grad_function = g->grad_function,
            .answer_function = g->answer_function,
            .mask_value = g->mask_value,
            .integrated_grad_samples = g->samples,
            .batches = {.dataset = dataset, .count = 8, .batch_size = 4}};
        float *scores = edges_scores(&options);
        float *expected = edges_flat(graph, set, g->key);
        golden_check("float64/tiny-ioi", g->key, expected != NULL);
        golden_compare_floats("float64/tiny-ioi", g->key, expected, (size_t)count, scores,
                              (size_t)count, g->tolerance * edges_max_abs(expected, count));
        abl_free(expected);
        abl_free(scores);
    }
    abl_graph_destroy(graph);
    abl_dataset_destroy(dataset);
    abl_model_unref(model);
    abl_safetensors_close(set);
    return golden_finish();
}
