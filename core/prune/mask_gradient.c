// SPDX-License-Identifier: Apache-2.0
/* The mask gradient at one value, summed over points (integrated gradients), and edge attribution
 * patching, which is the gradient at mask 0. A step is one batch at one mask value; the batch's
 * ablation is computed once and kept over its points. */
#include "core/prune/algorithm.h"

#include "core/base/mem.h"
#include "core/patch/backward.h"
#include "core/prune/gradient.h"

typedef struct mask_gradient {
    abl_folded *folded;
    int32_t point_count;
    int32_t point; /* of the current batch */
    bool integrated;
} mask_gradient;

/* At mask 0 no destination reads any of the ablation's residual; in a simple graph it is what
 * sources emit. */
static bool residuals_needed(const abl_prune_options *o) {
    bool integrated = o->algorithm == ABL_PRUNE_MASK_GRADIENT && o->integrated_grad_samples > 0;
    return integrated || o->mask_value != 0.0F || abl_graph_options_of(o->graph)->simple;
}

static abl_code open_points(abl_prune *prune, int32_t point_count, bool integrated,
                            abl_status *ret_status) {
    abl_code code = abl_prune_check_answers(prune, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    mask_gradient *state = abl_calloc(1, sizeof *state);
    if (state == NULL) {
        return abl_fail_oom(ret_status);
    }
    state->point_count = point_count;
    state->integrated = integrated;
    prune->state = state;
    prune->progress.total = (int64_t)prune->batch_count * point_count;
    return abl_prune_ablate(prune, residuals_needed(&prune->options), ret_status);
}

static abl_code eap_open(abl_prune *prune, abl_status *ret_status) {
    prune->options.mask_value = 0;
    return open_points(prune, 1, false, ret_status);
}

static abl_code mask_gradient_open(abl_prune *prune, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    if (!(o->mask_value >= -100 && o->mask_value <= 100)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "mask_value is %g; it must be a number from -100 to 100, and usually is 0 "
                        "to 1",
                        (double)o->mask_value);
    }
    if (o->integrated_grad_samples < 0 || o->integrated_grad_samples > 1000) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "integrated_grad_samples is %d; it must be 0 (use mask_value) to 1000",
                        o->integrated_grad_samples);
    }
    bool integrated = o->integrated_grad_samples > 0;
    return open_points(prune, integrated ? o->integrated_grad_samples + 1 : 1, integrated,
                       ret_status);
}

static float point_value(const abl_prune *prune, const mask_gradient *state) {
    return state->integrated ? (float)state->point / (float)prune->options.integrated_grad_samples
                             : prune->options.mask_value;
}

/* Whether gradient.c's closed form does not do: not in a simple graph, nor where somebody
 * intervenes. */
static bool by_mask(const abl_prune_options *o) {
    return abl_graph_options_of(o->graph)->simple || o->interventions.count > 0;
}

/* abl_gradient_add() where there is no closed form: the gradient at a mask that happens to be
 * uniform. */
static abl_code by_mask_add(abl_prune *prune, const abl_batch *batch, const abl_sources *ablated,
                            float mask_value, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    ABL_CLEANUP(abl_freep)
    float *mask = abl_calloc((size_t)prune->edge_count, sizeof *mask);
    ABL_CLEANUP(abl_freep)
    float *gradient = abl_calloc((size_t)prune->edge_count, sizeof *gradient);
    if (mask == NULL || gradient == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int64_t i = 0; i < prune->edge_count; i++) {
        mask[i] = mask_value;
    }
    abl_patch_options patch = abl_prune_pass(o, batch);
    patch.mask = mask;
    patch.ablated = ablated;
    abl_prune_batch_loss of = {.loss = abl_prune_loss(o), .batch = batch};
    abl_code code =
        abl_patch_backward(&patch, abl_prune_loss_gradient, &of, NULL, gradient, ret_status);
    for (int64_t i = 0; code == ABL_CODE_OK && i < prune->edge_count; i++) {
        prune->scores[i] += gradient[i];
    }
    return code;
}

static abl_code step(abl_prune *prune, abl_status *ret_status) {
    mask_gradient *state = prune->state;
    const abl_prune_options *o = &prune->options;
    abl_code code = ABL_CODE_OK;
    if (state->folded == NULL && !by_mask(o)) {
        code = abl_folded_create(o->model, o->graph, true, &state->folded, ret_status);
    }
    abl_batch batch = abl_batches_at(&o->batches, prune->progress.batch);
    const abl_sources *ablated = NULL;
    if (code == ABL_CODE_OK) {
        code = abl_prune_ablated(prune, &batch, &ablated, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_gradient_options gradient = {.model = o->model,
                                     .graph = o->graph,
                                     .folded = state->folded,
                                     .loss = abl_prune_loss(o),
                                     .batch = &batch,
                                     .ablated = ablated,
                                     .mask_value = point_value(prune, state)};
    code = by_mask(o) ? by_mask_add(prune, &batch, ablated, gradient.mask_value, ret_status)
                      : abl_gradient_add(&gradient, prune->scores, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    prune->progress.done++;
    state->point++;
    prune->progress.batch_finished = state->point == state->point_count;
    if (prune->progress.batch_finished) {
        state->point = 0;
    }
    return ABL_CODE_OK;
}

static void close(abl_prune *prune) {
    mask_gradient *state = prune->state;
    if (state == NULL) {
        return;
    }
    abl_folded_destroy(state->folded);
    abl_free(state);
    prune->state = NULL;
}

static int64_t bytes_estimate(const abl_prune_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    int64_t batch = abl_batches_rows_max(&options->batches);
    int64_t seq = abl_dataset_seq_len(options->batches.dataset);
    if (options->interventions.count > 0) {
        return abl_prune_hooked_bytes(options, true) +
               abl_prune_ablated_bytes(options, residuals_needed(options)) +
               8 * abl_graph_edge_count(options->graph);
    }
    return abl_gradient_bytes(c, options->graph, batch, seq) +
           abl_prune_ablated_bytes(options, residuals_needed(options)) +
           abl_folded_bytes(options->model, options->graph, true) +
           4 * abl_graph_edge_count(options->graph);
}

const abl_prune_vtable abl_prune_eap = {
    .open = eap_open, .step = step, .close = close, .bytes_estimate = bytes_estimate};
const abl_prune_vtable abl_prune_mask_gradient = {
    .open = mask_gradient_open, .step = step, .close = close, .bytes_estimate = bytes_estimate};
