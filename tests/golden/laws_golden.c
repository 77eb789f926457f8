/* SPDX-License-Identifier: Apache-2.0
 *
 * Laws that need no recording, on every family and every shape of graph:
 *
 *   ends       an empty mask is the clean run and a full one the corrupt run, bit for bit (the
 *              latter to rounding where a graph ungroups keys and values: its products are wider)
 *   means      every mean ablation serves every family: an empty mask is the clean run, and a full
 *              one of a linear network gives the mean of the corrupt logits
 *   repeat     the same request twice gives the same bits
 *   agree      EAP's closed form is the gradient at any mask, taken at mask 0
 *   reader     scores into a reader sum to the reader's own score: the slope of the loss when all
 *              its edges are ablated together
 *   exact      exact scores are single-edge masks, one at a time
 *   acdc       what changes above an edge has the effect of a whole masked pass, trial by trial
 *   linear     on a linear network attribution is exact, and what flows into the end, or out of the
 *              start, sums to the loss's difference, or, in a simple graph, into any node, since
 *              all of the network goes through each; AutoCircuit's micro model, also by hand
 *
 * Slopes are central differences, so they are asked of smooth networks only: Tracr's ReLUs sit on
 * their kinks. tests/e2e/test_families.py has the readers of all families, by the gradient at their
 * hooks. */
#include "core/base/mem.h"
#include "core/metric/loss.h"
#include "core/model/forward.h"
#include "core/patch/backward.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PROMPTS = 3, SEQ = 4 };

typedef struct subject {
    const char *family;
    bool smooth;
    bool linear;
    abl_model *model;
    abl_graph *graph;
    abl_dataset *dataset;
    abl_batch batch;
    abl_loss loss;
    char title[64];
} subject;

static const struct {
    const char *path;
    bool smooth;
    bool linear;
} FAMILIES[] = {
    {"models/tiny-rand", true, false},
    {"families/llama", true, false},
    {"families/gpt-neox", true, false},
    {"families/gpt-neox-seq", true, false},
    {"families/hooked-parallel", true, false},
    {"families/hooked-grouped", true, false},
    {"families/attn-only", true, false},
    {"families/tracr-reverse", false, false},
    {"families/tracr-xproportion", false, false},
    {"families/micro", true, true},
};

/* ---- what is asked --------------------------------------------------------------------------- */

static float *logits_of(const subject *s, const int32_t *tokens, const float *mask,
                        const abl_sources *ablated) {
    const abl_patch_options options = {.model = s->model,
                                       .graph = s->graph,
                                       .tokens = tokens,
                                       .batch = PROMPTS,
                                       .seq = SEQ,
                                       .mask = mask,
                                       .ablated = ablated};
    float *logits = abl_calloc((size_t)abl_patch_logit_count(&options), sizeof *logits);
    abl_status status;
    golden_must(abl_patch_forward(&options, logits, &status), &status);
    return logits;
}

static double loss_of(const subject *s, const float *mask, const abl_sources *ablated) {
    float *logits = logits_of(s, s->batch.clean, mask, ablated);
    double loss =
        abl_loss_value(s->loss, &s->batch, logits, abl_model_get_config(s->model)->d_vocab_out);
    abl_free(logits);
    return loss;
}

static abl_sources *ablation_of(const subject *s, abl_ablation ablation) {
    abl_sources *sources = NULL;
    abl_status status;
    if (ablation != ABL_ABLATION_ZERO) {
        golden_must(
            abl_sources_create(s->model, NULL, s->batch.corrupt, PROMPTS, SEQ, &sources, &status),
            &status);
    }
    return sources;
}

static float *scores_of(const subject *s, abl_prune_algorithm algorithm, abl_ablation ablation) {
    const abl_prune_options options = {
        .algorithm = algorithm,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = PROMPTS, .batch_size = PROMPTS},
        .ablation = ablation,
        .grad_function = s->loss.grad_function,
        .answer_function = s->loss.answer_function};
    return edges_scores(&options);
}

static double largest_of(const float *values, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)values[i]));
    }
    return largest;
}

/* ---- the laws -------------------------------------------------------------------------------- */

static bool is_ungrouped(const subject *s) {
    const abl_graph_options *o = abl_graph_options_of(s->graph);
    return o->kv_head_count != o->head_count && o->joined_qkv;
}

static void law_ends(const subject *s) {
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const size_t count = PROMPTS * (size_t)abl_model_get_config(s->model)->d_vocab_out;
    abl_sources *corrupt = ablation_of(s, ABL_ABLATION_RESAMPLE);
    float *mask = abl_calloc(edges, sizeof *mask);
    float *plain = logits_of(s, s->batch.clean, NULL, NULL);
    float *empty = logits_of(s, s->batch.clean, mask, corrupt);
    golden_check(s->title, "ends: an empty mask is the clean run, bit for bit",
                 memcmp(plain, empty, count * sizeof *plain) == 0);
    for (size_t i = 0; i < edges; i++) {
        mask[i] = 1;
    }
    float *other = logits_of(s, s->batch.corrupt, NULL, NULL);
    float *full = logits_of(s, s->batch.clean, mask, corrupt);
    golden_compare_floats(s->title, "ends: a full mask is the corrupt run", other, count, full,
                          count, is_ungrouped(s) ? 1e-6 : 0);
    golden_check(s->title, "ends: the two runs differ",
                 memcmp(other, plain, count * sizeof *other) != 0);
    abl_forward_result result;
    abl_status status;
    const abl_forward_options options = {.model = s->model,
                                         .tokens = s->batch.clean,
                                         .batch = PROMPTS,
                                         .seq = SEQ,
                                         .out_slice = ABL_OUT_SLICE_LAST,
                                         .stop_at_layer = -1};
    golden_must(abl_forward(&options, &result, &status), &status);
    size_t forward_count = 0;
    float *forward = golden_floats_of(result.logits, &forward_count);
    golden_compare_floats(s->title, "ends: the plain pass", plain, count, forward, forward_count,
                          2e-6 * (1 + largest_of(plain, (int64_t)count)));
    abl_forward_result_finish(&result);
    abl_free(forward);
    abl_free(full);
    abl_free(other);
    abl_free(empty);
    abl_free(plain);
    abl_free(mask);
    abl_sources_destroy(corrupt);
}

static void law_means(const subject *s) {
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const size_t width = (size_t)abl_model_get_config(s->model)->d_vocab_out;
    float *mask = abl_calloc(edges, sizeof *mask);
    float *plain = logits_of(s, s->batch.clean, NULL, NULL);
    float *corrupt = logits_of(s, s->batch.corrupt, NULL, NULL);
    for (int kind = ABL_ABLATION_TOKENWISE_MEAN_CLEAN; kind < ABL_ABLATION_COUNT; kind++) {
        abl_sources *mean = NULL;
        abl_status status;
        const abl_patch_options run = {
            .model = s->model, .tokens = s->batch.corrupt, .batch = PROMPTS, .seq = SEQ};
        golden_must(abl_ablation_create(&run, (abl_ablation)kind, &mean, &status), &status);
        char what[96];
        (void)snprintf(what, sizeof what, "means: an empty mask, %s",
                       abl_ablation_name((abl_ablation)kind));
        memset(mask, 0, edges * sizeof *mask);
        float *empty = logits_of(s, s->batch.clean, mask, mean);
        golden_check(s->title, what, memcmp(plain, empty, PROMPTS * width * sizeof *plain) == 0);
        for (size_t i = 0; i < edges; i++) {
            mask[i] = 1;
        }
        float *full = logits_of(s, s->batch.clean, mask, mean);
        float *expected = abl_calloc(width, sizeof *expected);
        for (size_t i = 0; i < PROMPTS * width; i++) {
            expected[i % width] += corrupt[i] / (float)PROMPTS;
        }
        if (s->linear && kind != ABL_ABLATION_BATCH_ALL_TOK_MEAN) {
            (void)snprintf(what, sizeof what, "means: a full mask, %s",
                           abl_ablation_name((abl_ablation)kind));
            golden_compare_floats(s->title, what, expected, width, full, PROMPTS * width, 1e-4);
        } else {
            /* To rounding: a BLAS may sum the last rows of a product in another order. */
            golden_compare_floats(s->title, "means: a full mask gives every row the same", full,
                                  width, full, PROMPTS * width, 2e-6);
        }
        abl_free(expected);
        abl_free(full);
        abl_free(empty);
        abl_sources_destroy(mean);
    }
    abl_free(corrupt);
    abl_free(plain);
    abl_free(mask);
}

static float *mask_make(const subject *s) {
    int64_t edges = abl_graph_edge_count(s->graph);
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    for (int64_t i = 0; i < edges; i++) {
        mask[i] = (float)(i * 37 % 11) / 10.0F;
    }
    return mask;
}

static void law_repeat(const subject *s) {
    const size_t bytes = (size_t)abl_graph_edge_count(s->graph) * sizeof(float);
    const size_t count = PROMPTS * (size_t)abl_model_get_config(s->model)->d_vocab_out;
    abl_sources *corrupt = ablation_of(s, ABL_ABLATION_RESAMPLE);
    float *mask = mask_make(s);
    float *one = logits_of(s, s->batch.clean, mask, corrupt);
    float *two = logits_of(s, s->batch.clean, mask, corrupt);
    golden_check(s->title, "repeat: a masked pass, bit for bit",
                 memcmp(one, two, count * sizeof *one) == 0);
    abl_free(one);
    abl_free(two);
    for (int algorithm = ABL_PRUNE_EAP; algorithm <= ABL_PRUNE_GROUND_TRUTH; algorithm++) {
        one = scores_of(s, (abl_prune_algorithm)algorithm, ABL_ABLATION_RESAMPLE);
        two = scores_of(s, (abl_prune_algorithm)algorithm, ABL_ABLATION_RESAMPLE);
        char what[64];
        (void)snprintf(what, sizeof what, "repeat: %s, bit for bit",
                       abl_prune_algorithm_name((abl_prune_algorithm)algorithm));
        golden_check(s->title, what, memcmp(one, two, bytes) == 0);
        abl_free(one);
        abl_free(two);
    }
    abl_free(mask);
    abl_sources_destroy(corrupt);
}

/* Of the losses here each column's weight is known, so the gradient is written as it stands. */
static abl_tensor *loss_gradient(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const subject *s = user_data;
    abl_loss_gradient gradient = abl_loss_backward(scope, s->loss, &s->batch, logits);
    const int64_t shape[] = {PROMPTS, abl_model_get_config(s->model)->d_vocab_out};
    float dense[PROMPTS * 1024] = {0};
    float weights[PROMPTS * 8];
    int64_t columns[PROMPTS * 8];
    int32_t width = abl_loss_columns_width(s->loss, &s->batch);
    abl_loss_columns(s->loss, &s->batch, width, columns, weights);
    golden_check(s->title, "agree: a sparse loss", gradient.columns != NULL);
    for (int row = 0; row < PROMPTS; row++) {
        for (int32_t i = 0; i < width; i++) {
            dense[row * shape[1] + columns[row * width + i]] += weights[row * width + i];
        }
    }
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, shape, dense);
}

static void law_agree(const subject *s, abl_ablation ablation) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    abl_sources *ablated = ablation_of(s, ablation);
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    float *gradient = abl_calloc((size_t)edges, sizeof *gradient);
    const abl_patch_options options = {.model = s->model,
                                       .graph = s->graph,
                                       .tokens = s->batch.clean,
                                       .batch = PROMPTS,
                                       .seq = SEQ,
                                       .mask = mask,
                                       .ablated = ablated};
    abl_status status;
    subject copy = *s;
    golden_must(abl_patch_backward(&options, loss_gradient, &copy, NULL, gradient, &status),
                &status);
    float *scores = scores_of(s, ABL_PRUNE_EAP, ablation);
    char what[64];
    (void)snprintf(what, sizeof what, "agree: eap, %s", abl_ablation_name(ablation));
    golden_compare_floats(s->title, what, gradient, (size_t)edges, scores, (size_t)edges,
                          2e-5 * largest_of(gradient, edges) + 1e-7);
    abl_free(scores);
    abl_free(gradient);
    abl_free(mask);
    abl_sources_destroy(ablated);
}

static void law_reader(const subject *s, abl_ablation ablation) {
    const double step = 1.0 / 64;
    const int32_t readers = abl_graph_dest_count(s->graph);
    const int64_t per = abl_graph_edges_per_position(s->graph);
    abl_sources *ablated = ablation_of(s, ablation);
    float *scores = scores_of(s, ABL_PRUNE_EAP, ablation);
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
            losses[side] = loss_of(s, mask, ablated);
        }
        memset(mask, 0, (size_t)abl_graph_edge_count(s->graph) * sizeof *mask);
        sums[reader] = (float)sum;
        slopes[reader] = (float)((losses[1] - losses[0]) / (2 * step));
    }
    char what[64];
    (void)snprintf(what, sizeof what, "reader: %s", abl_ablation_name(ablation));
    golden_compare_floats(s->title, what, slopes, (size_t)readers, sums, (size_t)readers,
                          5e-3 * largest_of(slopes, readers) + 1e-4);
    abl_free(mask);
    abl_free(slopes);
    abl_free(sums);
    abl_free(scores);
    abl_sources_destroy(ablated);
}

static void law_exact(const subject *s, abl_ablation ablation) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    const int64_t every = 1 + edges / 150;
    abl_sources *ablated = ablation_of(s, ablation);
    float *scores = scores_of(s, ABL_PRUNE_GROUND_TRUTH, ablation);
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    float *brute = abl_calloc((size_t)edges, sizeof *brute);
    float *picked = abl_calloc((size_t)edges, sizeof *picked);
    double clean = loss_of(s, NULL, NULL);
    size_t count = 0;
    for (int64_t i = 0; i < edges; i += every) {
        mask[i] = 1;
        brute[count] = (float)(loss_of(s, mask, ablated) - clean);
        picked[count++] = scores[i];
        mask[i] = 0;
    }
    char what[64];
    (void)snprintf(what, sizeof what, "exact: %s", abl_ablation_name(ablation));
    golden_compare_floats(s->title, what, brute, count, picked, count,
                          2e-5 * (1 + largest_of(scores, edges)));
    abl_free(picked);
    abl_free(brute);
    abl_free(mask);
    abl_free(scores);
    abl_sources_destroy(ablated);
}

/* The last tau's effects, one a trial, and its smallest margin; end with abl_free(). */
static float *acdc_effects(const subject *s, abl_ablation ablation, double tau, bool whole,
                           int32_t most, float *ret_scores, double *ret_margin) {
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_ACDC,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = PROMPTS, .batch_size = PROMPTS},
        .ablation = ablation,
        .exact_metric = ABL_EXACT_MSE,
        .candidate_count_max = most,
        .acdc = {.taus = &tau, .tau_count = 1, .whole_passes = whole}};
    abl_prune *prune = edges_run(&options);
    abl_acdc_report report = {.taus = NULL};
    size_t count = (size_t)abl_graph_edge_count(s->graph);
    float *effects = abl_calloc(count, sizeof *effects);
    if (!abl_prune_acdc_report(prune, &report)) {
        golden_check(s->title, "acdc reports", false);
    }
    for (size_t i = 0; i < count; i++) {
        effects[i] = (float)report.effects[i];
    }
    memcpy(ret_scores, abl_prune_scores(prune), count * sizeof *ret_scores);
    *ret_margin = report.taus[0].margin_min;
    abl_prune_destroy(prune);
    return effects;
}

/* At taus that remove all, most and few of the edges. */
static void law_acdc(const subject *s, abl_ablation ablation) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    float *one = abl_calloc((size_t)edges, sizeof *one);
    float *other = abl_calloc((size_t)edges, sizeof *other);
    double taus[] = {1e30, 0, 0};
    for (size_t i = 0; i < ABL_COUNT_OF(taus); i++) {
        double margin = 0;
        float *whole = acdc_effects(s, ablation, taus[i], true, 1, one, &margin);
        double scale = largest_of(whole, edges);
        taus[1] = i == 0 ? 0.02 * scale : taus[1];
        taus[2] = i == 0 ? 1e-3 * scale : taus[2];
        for (int32_t most = 0; most < 4; most += 3) {
            float *fast = acdc_effects(s, ablation, taus[i], false, most, other, &margin);
            char what[96];
            (void)snprintf(what, sizeof what, "acdc: %s, tau %.3g, %d at a time",
                           abl_ablation_name(ablation), taus[i], most);
            golden_compare_floats(s->title, what, whole, (size_t)edges, fast, (size_t)edges,
                                  4e-5 * scale);
            golden_check(s->title, "acdc: the same edges",
                         memcmp(one, other, (size_t)edges * sizeof *one) == 0);
            abl_free(fast);
        }
        abl_free(whole);
    }
    abl_free(one);
    abl_free(other);
}

/* Sum of the scores of edges with that source (-1: any) and destination (-1: any). */
static float sum_of(const subject *s, const float *scores, int32_t src, int32_t dest) {
    double sum = 0;
    for (int64_t i = 0; i < abl_graph_edge_count(s->graph); i++) {
        abl_edge edge = abl_graph_edge_at(s->graph, i);
        if ((src < 0 || edge.src == src) && (dest < 0 || edge.dest == dest)) {
            sum += (double)scores[i];
        }
    }
    return (float)sum;
}

static void law_linear(const subject *s) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    const int32_t end = abl_graph_dest_count(s->graph) - 1;
    float *eap = scores_of(s, ABL_PRUNE_EAP, ABL_ABLATION_RESAMPLE);
    float *exact = scores_of(s, ABL_PRUNE_GROUND_TRUTH, ABL_ABLATION_RESAMPLE);
    golden_compare_floats(s->title, "linear: attribution is exact", exact, (size_t)edges, eap,
                          (size_t)edges, 1e-5 * largest_of(exact, edges));
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    for (int64_t i = 0; i < edges; i++) {
        mask[i] = 1;
    }
    abl_sources *corrupt = ablation_of(s, ABL_ABLATION_RESAMPLE);
    const float difference = (float)(loss_of(s, mask, corrupt) - loss_of(s, NULL, NULL));
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
static void micro_by_hand(abl_model *model) {
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
    subject s = {.family = "micro", .model = model};
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

/* ---- all of it ------------------------------------------------------------------------------- */

static void all_laws(subject *s, const char *variant, abl_graph_options options) {
    const abl_model_config *c = abl_model_get_config(s->model);
    options.layer_count = c->n_layers;
    options.head_count = c->n_heads;
    options.kv_head_count = c->n_kv_heads;
    options.parallel_attn_mlp = c->parallel_attn_mlp;
    options.attn_only = c->attn_only;
    abl_status status;
    golden_must(abl_graph_create(&options, &s->graph, &status), &status);
    (void)snprintf(s->title, sizeof s->title, "%s %s", s->family, variant);
    law_ends(s);
    law_means(s);
    law_repeat(s);
    for (int ablation = ABL_ABLATION_RESAMPLE; ablation <= ABL_ABLATION_ZERO; ablation++) {
        law_agree(s, (abl_ablation)ablation);
        law_exact(s, (abl_ablation)ablation);
        law_acdc(s, (abl_ablation)ablation);
        if (s->smooth) {
            law_reader(s, (abl_ablation)ablation);
        }
    }
    law_acdc(s, ABL_ABLATION_BATCH_TOKENWISE_MEAN); /* one row for all prompts */
    if (s->linear) {
        law_linear(s);
    }
    abl_graph_destroy(s->graph);
}

int main(void) {
    golden_init("laws_golden");
    for (size_t i = 0; i < ABL_COUNT_OF(FAMILIES); i++) {
        char path[2048];
        (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/%s", FAMILIES[i].path);
        subject s = {.family = strrchr(path, '/') + 1,
                     .smooth = FAMILIES[i].smooth,
                     .linear = FAMILIES[i].linear,
                     .model = golden_open_model(path, abl_model_processing_hf())};
        const abl_model_config *config = abl_model_get_config(s.model);
        s.dataset = edges_made_up(config, PROMPTS, SEQ);
        const abl_batches batches = {.dataset = s.dataset, .count = PROMPTS, .batch_size = PROMPTS};
        s.batch = abl_batches_at(&batches, 0);
        s.loss.answer_function = config->d_vocab_out > 1 ? ABL_ANSWER_AVG_DIFF : ABL_ANSWER_AVG_VAL;
        all_laws(&s, "qkv", (abl_graph_options){.seq_len = 0});
        all_laws(&s, "joined", (abl_graph_options){.joined_qkv = true});
        all_laws(&s, "qkv by position", (abl_graph_options){.seq_len = SEQ});
        all_laws(&s, "simple", (abl_graph_options){.simple = true});
        all_laws(&s, "simple by position", (abl_graph_options){.simple = true, .seq_len = SEQ});
        if (s.linear) {
            micro_by_hand(s.model);
        }
        abl_dataset_destroy(s.dataset);
        abl_model_unref(s.model);
    }
    return golden_finish();
}
