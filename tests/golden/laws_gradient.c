/* SPDX-License-Identifier: Apache-2.0
 *
 * The laws of gradients, which laws_golden.c names and runs: agree, ig, reader, linear. */
#include "core/base/mem.h"
#include "core/patch/backward.h"
#include "tests/golden/laws.h"

#include <stdio.h>
#include <string.h>

/* Of the losses here each column's weight is known, so the gradient is written as it stands. */
static abl_tensor *loss_gradient(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const laws_subject *s = user_data;
    abl_loss_gradient gradient = abl_loss_backward(scope, s->loss, &s->batch, logits);
    const int64_t shape[] = {LAWS_PROMPTS, abl_model_get_config(s->model)->d_vocab_out};
    float dense[LAWS_PROMPTS * 1024] = {0};
    float weights[LAWS_PROMPTS * 8];
    int64_t columns[LAWS_PROMPTS * 8];
    int32_t width = abl_loss_columns_width(s->loss, &s->batch);
    abl_loss_columns(s->loss, &s->batch, width, columns, weights);
    golden_check(s->title, "agree: a sparse loss", gradient.columns != NULL);
    for (int row = 0; row < LAWS_PROMPTS; row++) {
        for (int32_t i = 0; i < width; i++) {
            dense[row * shape[1] + columns[row * width + i]] += weights[row * width + i];
        }
    }
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, shape, dense);
}

void laws_agree(const laws_subject *s, abl_ablation ablation) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    abl_sources *ablated = laws_ablation(s, ablation);
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    float *gradient = abl_calloc((size_t)edges, sizeof *gradient);
    const abl_patch_options options = {.model = s->model,
                                       .graph = s->graph,
                                       .tokens = s->batch.clean,
                                       .batch = LAWS_PROMPTS,
                                       .seq = LAWS_SEQ,
                                       .mask = mask,
                                       .ablated = ablated};
    abl_status status;
    laws_subject copy = *s;
    golden_must(abl_patch_backward(&options, loss_gradient, &copy, NULL, gradient, &status),
                &status);
    float *scores = laws_scores(s, ABL_PRUNE_EAP, ablation);
    char what[64];
    (void)snprintf(what, sizeof what, "agree: eap, %s", abl_ablation_name(ablation));
    golden_compare_floats(s->title, what, gradient, (size_t)edges, scores, (size_t)edges,
                          2e-5 * edges_max_abs(gradient, edges) + 1e-7);
    abl_free(scores);
    abl_free(gradient);
    abl_free(mask);
    abl_sources_destroy(ablated);
}

/* EAP-IG's scores are means over the prompts. */
static float *ig_scores_of(const laws_subject *s, abl_eap_ig_method method, int32_t steps) {
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_EAP_IG,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = LAWS_PROMPTS, .batch_size = LAWS_PROMPTS},
        .answer_function = s->loss.answer_function,
        .eap_ig = {.method = method, .steps = steps}};
    float *scores = edges_scores(&options);
    for (int64_t i = 0; i < abl_graph_edge_count(s->graph); i++) {
        scores[i] *= LAWS_PROMPTS;
    }
    return scores;
}

void laws_ig(const laws_subject *s) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    float *eap = laws_scores(s, ABL_PRUNE_EAP, ABL_ABLATION_RESAMPLE);
    const double tolerance = 2e-5 * edges_max_abs(eap, edges) + 1e-6;
    laws_subject back = *s;
    back.dataset = edges_reversed(s->dataset, LAWS_PROMPTS);
    float *there = laws_scores(&back, ABL_PRUNE_EAP, ABL_ABLATION_RESAMPLE);
    float *both = ig_scores_of(s, ABL_EAP_IG_CLEAN_CORRUPTED, 0);
    for (int64_t i = 0; i < edges; i++) {
        there[i] = (eap[i] - there[i]) / 2;
    }
    golden_compare_floats(s->title, "ig: both ends", there, (size_t)edges, both, (size_t)edges,
                          tolerance + 2e-5 * edges_max_abs(there, edges));
    if (s->linear) {
        float *inputs = ig_scores_of(s, ABL_EAP_IG_INPUTS, 3);
        golden_compare_floats(s->title, "ig: inputs of a linear network", eap, (size_t)edges,
                              inputs, (size_t)edges, tolerance);
        abl_free(inputs);
    }
    abl_free(both);
    abl_free(there);
    abl_dataset_destroy(back.dataset);
    abl_free(eap);
}

void laws_reader(const laws_subject *s, abl_ablation ablation) {
    const double step = 1.0 / 64;
    const int32_t readers = abl_graph_dest_count(s->graph);
    const int64_t per = abl_graph_edges_per_position(s->graph);
    abl_sources *ablated = laws_ablation(s, ablation);
    float *scores = laws_scores(s, ABL_PRUNE_EAP, ablation);
    float *sums = abl_calloc((size_t)readers, sizeof *sums);
    float *slopes = abl_calloc((size_t)readers, sizeof *slopes);
    float *mask = abl_calloc((size_t)abl_graph_edge_count(s->graph), sizeof *mask);
    for (int32_t reader = 0; reader < readers; reader++) {
        const abl_graph_dest *dest = abl_graph_dest_at(s->graph, reader);
        double losses[2];
        double sum = 0;
        for (int side = 0; side < 2; side++) {
            for (int32_t t = 0; t < abl_graph_seq_count(s->graph); t++) {
                for (int64_t i = 0; i < dest->src_count; i++) {
                    int64_t edge = t * per + dest->edge_offset + i;
                    mask[edge] = (float)(side == 0 ? -step : step);
                    sum += side == 0 ? (double)scores[edge] : 0;
                }
            }
            losses[side] = laws_loss(s, mask, ablated);
        }
        memset(mask, 0, (size_t)abl_graph_edge_count(s->graph) * sizeof *mask);
        sums[reader] = (float)sum;
        slopes[reader] = (float)((losses[1] - losses[0]) / (2 * step));
    }
    char what[64];
    (void)snprintf(what, sizeof what, "reader: %s", abl_ablation_name(ablation));
    golden_compare_floats(s->title, what, slopes, (size_t)readers, sums, (size_t)readers,
                          5e-3 * edges_max_abs(slopes, readers) + 1e-4);
    abl_free(mask);
    abl_free(slopes);
    abl_free(sums);
    abl_free(scores);
    abl_sources_destroy(ablated);
}

/* Sum of the scores of edges with that source (-1: any) and destination (-1: any). */
static float sum_of(const laws_subject *s, const float *scores, int32_t src, int32_t dest) {
    double sum = 0;
    for (int64_t i = 0; i < abl_graph_edge_count(s->graph); i++) {
        abl_edge edge = abl_graph_edge_at(s->graph, i);
        if ((src < 0 || edge.src == src) && (dest < 0 || edge.dest == dest)) {
            sum += (double)scores[i];
        }
    }
    return (float)sum;
}

void laws_linear(const laws_subject *s) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    const int32_t end = abl_graph_dest_count(s->graph) - 1;
    float *eap = laws_scores(s, ABL_PRUNE_EAP, ABL_ABLATION_RESAMPLE);
    float *exact = laws_scores(s, ABL_PRUNE_GROUND_TRUTH, ABL_ABLATION_RESAMPLE);
    golden_compare_floats(s->title, "linear: attribution is exact", exact, (size_t)edges, eap,
                          (size_t)edges, 1e-5 * edges_max_abs(exact, edges));
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    for (int64_t i = 0; i < edges; i++) {
        mask[i] = 1;
    }
    abl_sources *corrupt = laws_ablation(s, ABL_ABLATION_RESAMPLE);
    const float difference = (float)(laws_loss(s, mask, corrupt) - laws_loss(s, NULL, NULL));
    const float sums[] = {sum_of(s, eap, -1, end), sum_of(s, eap, 0, -1)};
    const bool simple = abl_graph_options_of(s->graph)->simple;
    for (int32_t node = 0; simple && node <= end; node++) {
        const float sum = sum_of(s, eap, -1, node);
        golden_compare_floats(s->title, "linear: into a node", &difference, 1, &sum, 1, 1e-4);
    }
    if (!simple) {
        golden_compare_floats(s->title, "linear: into the end, out of the start", &difference, 1,
                              sums, 2, 1e-4);
    }
    abl_sources_destroy(corrupt);
    abl_free(mask);
    abl_free(exact);
    abl_free(eap);
}

/* ---- AutoCircuit's micro model, by hand ------------------------------------------------------ */

/* Blocks multiply by (1, 2) and by (3, 4) and add: x -> (5 x0, 7 x1) each, so the end is (25 x0,
 * 49 x1). The prompt (1, 1) is corrupted to (0, 1): every source moves along the first number only,
 * the start by -1, A0.0 by -1, A0.1 by -3, and behind block 0 the stream by -5, A1.0 by -5, A1.1 by
 * -15. The loss is minus the first logit, so an edge's score is what its source moves, times what
 * the path from its destination to the end multiplies by: 1 for the end, 1 or 3 for A1.*, and 5 for
 * A0.0, 15 for A0.1, whose outputs block 1 multiplies by 5. */
void laws_micro_by_hand(abl_model *model) {
    static const struct {
        const char *edge;
        float score;
    } BY_HAND[] = {
        {"Resid Start->A0.0", 5}, {"Resid Start->A0.1", 15}, {"Resid Start->A1.0", 1},
        {"A0.0->A1.0", 1},        {"A0.1->A1.0", 3},         {"Resid Start->A1.1", 3},
        {"A0.0->A1.1", 3},        {"A0.1->A1.1", 9},         {"Resid Start->Resid End", 1},
        {"A0.0->Resid End", 1},   {"A0.1->Resid End", 3},    {"A1.0->Resid End", 5},
        {"A1.1->Resid End", 15}};
    static const int32_t clean[] = {0};
    static const int32_t corrupt[] = {1};
    static const int32_t offsets[] = {0, 1};
    static const int32_t answers[] = {0};
    const abl_dataset_tokens tokens = {.clean = clean,
                                       .corrupt = corrupt,
                                       .prompt_count = 1,
                                       .seq_len = 1,
                                       .answers = answers,
                                       .answer_offsets = offsets};
    const abl_graph_options options = {.layer_count = 2,
                                       .head_count = 2,
                                       .kv_head_count = 2,
                                       .attn_only = true,
                                       .joined_qkv = true};
    laws_subject s = {.family = "micro", .model = model};
    abl_status status;
    golden_must(abl_graph_create(&options, &s.graph, &status), &status);
    golden_must(abl_dataset_create_tokens(&tokens, &s.dataset, &status), &status);
    golden_check("micro", "by hand: 13 edges", abl_graph_edge_count(s.graph) == 13);
    for (int algorithm = ABL_PRUNE_EAP; algorithm <= ABL_PRUNE_GROUND_TRUTH; algorithm += 2) {
        const abl_prune_options prune_options = {
            .algorithm = (abl_prune_algorithm)algorithm,
            .model = model,
            .graph = s.graph,
            .batches = {.dataset = s.dataset, .count = 1, .batch_size = 1},
            .answer_function = ABL_ANSWER_AVG_VAL};
        abl_prune *prune = NULL;
        abl_prune_progress progress = {.finished = false};
        golden_must(abl_prune_create(&prune_options, &prune, &status), &status);
        while (!progress.finished) {
            golden_must(abl_prune_step(prune, &progress, &status), &status);
        }
        for (size_t i = 0; i < ABL_COUNT_OF(BY_HAND); i++) {
            abl_edge edge;
            golden_must(abl_graph_parse_edge(s.graph, BY_HAND[i].edge, strlen(BY_HAND[i].edge),
                                             &edge, &status),
                        &status);
            const float *score = &abl_prune_scores(prune)[abl_graph_edge_index(s.graph, edge)];
            golden_compare_floats("micro", BY_HAND[i].edge, &BY_HAND[i].score, 1, score, 1, 0);
        }
        abl_prune_destroy(prune);
    }
    abl_dataset_destroy(s.dataset);
    abl_graph_destroy(s.graph);
}
