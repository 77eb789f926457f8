/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients at any mask (core/patch/backward.h) against AutoCircuit's: at a uniform mask, which the
 * closed form of core/prune does another way, and an own mask for each prompt. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/metric/loss.h"
#include "core/patch/backward.h"
#include "tests/golden/edges.h"

#include <stdio.h>
#include <string.h>

#define TOL_SCORES_RELATIVE 2e-5 /* of the largest |score| of the set (goldens/README.md) */
#define TOL_LOGITS 1e-4

static abl_tensor *avg_diff(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const abl_batch *batch = user_data;
    return abl_loss_backward_dense(scope, (abl_loss){0}, batch, logits);
}

/* Adds d loss / d mask of one batch at `value` everywhere, rows * edges of it; the loss is -the
 * logit difference. The logits must be those of a forward pass. */
static void batch_gradient(const edges_subject *s, abl_batch batch, float value, bool zero,
                           int32_t rows, float *gradient) {
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const size_t count = edges * (size_t)rows;
    const size_t vocab = (size_t)abl_model_get_config(s->model)->d_vocab;
    float *mask = abl_calloc(count, sizeof *mask);
    float *own = abl_calloc(count, sizeof *own);
    float *logits = abl_calloc(2 * vocab * (size_t)batch.size, sizeof *logits);
    for (size_t i = 0; i < count; i++) {
        mask[i] = value;
    }
    abl_status status;
    abl_sources *ablated = NULL;
    golden_must(abl_sources_create(s->model, NULL, batch.corrupt, batch.size, batch.seq_len,
                                   &ablated, &status),
                &status);
    const abl_patch_options options = {.model = s->model,
                                       .graph = s->graph,
                                       .tokens = batch.clean,
                                       .batch = batch.size,
                                       .seq = batch.seq_len,
                                       .mask = mask,
                                       .mask_batch = rows,
                                       .ablated = zero ? NULL : ablated};
    float *patched = logits + vocab * (size_t)batch.size;
    golden_must(abl_patch_backward(&options, avg_diff, &batch, logits, own, &status), &status);
    golden_must(abl_patch_forward(&options, patched, &status), &status);
    golden_compare_floats(s->model_name, "logits of the backward pass", patched,
                          vocab * (size_t)batch.size, logits, vocab * (size_t)batch.size,
                          TOL_LOGITS);
    for (size_t i = 0; i < count; i++) {
        gradient[i] += own[i];
    }
    abl_sources_destroy(ablated);
    abl_free(mask);
    abl_free(own);
    abl_free(logits);
}

static void compare(const char *title, const char *key, const float *expected, const float *actual,
                    size_t count, double rest) {
    golden_compare_floats(title, key, expected, count, actual, count,
                          TOL_SCORES_RELATIVE * edges_max_abs(expected, (int64_t)count) + rest);
}

/* ---- d_scores: a uniform mask ---------------------------------------------------------------- */

static void case_uniform(const edges_subject *s, const char *variant) {
    static const struct {
        const char *key;
        float value;
        bool zero;
    } RUNS[] = {{"mg_logit_avg_diff_m0", 0, false},
                {"mg_logit_avg_diff_m0.7", 0.7F, false},
                {"mg_logit_avg_diff_m0_ZERO", 0, true}};
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "d_scores_%s", variant)) {
        return;
    }
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const abl_batches batches = {.dataset = s->dataset, .count = 8, .batch_size = 4};
    for (size_t i = 0; i < ABL_COUNT_OF(RUNS); i++) {
        float *expected = edges_flat(s->graph, c.set, RUNS[i].key);
        if (expected == NULL) {
            continue;
        }
        for (int32_t rows = 1; rows <= 4; rows += 3) { /* the sum of the rows' masks' is the same */
            float *gradient = abl_calloc(edges * (size_t)rows, sizeof *gradient);
            for (int32_t b = 0; b < 2; b++) {
                batch_gradient(s, abl_batches_at(&batches, b), RUNS[i].value, RUNS[i].zero, rows,
                               gradient);
            }
            for (size_t j = edges; j < edges * (size_t)rows; j++) {
                gradient[j % edges] += gradient[j];
            }
            bool simple = abl_graph_options_of(s->graph)->simple;
            compare(c.title, RUNS[i].key, expected, gradient, edges, simple ? EDGES_TOL_REST : 0);
            abl_free(gradient);
        }
        abl_free(expected);
    }
    edges_case_close(&c);
}

/* ---- d_scores_batch8: a mask a prompt -------------------------------------------------------- */

static void case_per_instance(const edges_subject *s) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "d_scores_batch8")) {
        return;
    }
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const abl_batches batches = {.dataset = s->dataset, .count = 4, .batch_size = 4};
    float *gradient = abl_calloc(edges * 4, sizeof *gradient);
    float *expected = abl_calloc(edges * 4, sizeof *expected);
    batch_gradient(s, abl_batches_at(&batches, 0), 0, false, 4, gradient);
    for (int32_t m = 0; m < abl_graph_module_count(s->graph); m++) {
        char key[128];
        (void)snprintf(key, sizeof key, "per_instance_first_batch_of_4/%s",
                       abl_graph_module_at(s->graph, m)->name);
        float *values = edges_floats(golden_tensor(c.set, key));
        for (size_t row = 0; row < 4; row++) {
            abl_scores_write_module(s->graph, expected + row * edges, m,
                                    values +
                                        row * (size_t)abl_scores_module_shape(s->graph, m).count);
        }
        abl_free(values);
    }
    compare(c.title, "per_instance_first_batch_of_4", expected, gradient, edges * 4, 0);
    abl_free(gradient);
    abl_free(expected);
    edges_case_close(&c);
}

static void check_variant(const edges_subject *s, const edges_variant *variant) {
    case_uniform(s, variant->name);
    if (variant == &EDGES_VARIANTS[0]) {
        case_per_instance(s);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    edges_each_variant(check_variant);
    return golden_finish();
}
