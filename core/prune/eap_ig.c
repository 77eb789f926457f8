// SPDX-License-Identifier: Apache-2.0
/* Integrated gradients after EAP-IG 2.0 (Hanna et al. 2024, arXiv:2403.17806, and its repository):
 *
 *     score[edge] = mean over points of < ablated - clean at the source, g at the destination >
 *
 * with g the loss's gradient in a pass that leaves the clean run at one place, where it emits
 * share * clean + (1 - share) * ablated, a constant. The first factor is the same at all points.
 *
 *     inputs           place: Resid Start;              shares 0, 1/n, ..., (n - 1)/n
 *     activations      places: Resid Start, then each block's heads together and its MLP;
 *                      at each of them shares 1/n, 2/n, ..., 1
 *     clean-corrupted  place: Resid Start;              shares 1 and 0
 *
 * Scale: EAP-IG's, with its batch-mean losses: summed over batches, then divided by the number of
 * PROMPTS and of points. (eap is summed only: inputs at share 1 is eap divided by the prompts.)
 * Sign: the loss's, -(answer - wrong answer), as everywhere here and there.
 *
 * In a simple graph a source may be a node of the stream and its reader is the next one: the same
 * formula, node attribution with integrated gradients (MIB's NAP-IG), by the hooked pass.
 *
 * A step is one batch at one point. The two runs are made at a batch's first point and shared: n
 * points cost two passes forward and n forward and back, less than n + 1 times eap's two and one.*/
#include "core/prune/algorithm.h"

#include "core/base/mem.h"
#include "core/patch/hooked.h"
#include "core/prune/gradient.h"

typedef struct eap_ig {
    abl_folded *folded;
    abl_sources *clean;       /* of the current batch */
    float *sums;              /* scores times prompts and points */
    int32_t places_per_layer; /* heads, and the MLP where there is one */
    int32_t place_count;
    int32_t point_count; /* in all */
    int32_t point;       /* of the current batch */
} eap_ig;

const char *abl_eap_ig_method_name(abl_eap_ig_method method) {
    static const char *const names[] = {"inputs", "activations", "clean_corrupted"};
    return (unsigned)method < ABL_COUNT_OF(names) ? names[method] : NULL;
}

/* Its sources are the stream's nodes, too, so runs keep their residuals. */
static bool is_simple(const abl_prune_options *options) {
    return abl_graph_options_of(options->graph)->simple;
}

static abl_code options_check(const abl_prune *prune, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    if ((unsigned)o->eap_ig.method > ABL_EAP_IG_CLEAN_CORRUPTED) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "eap_ig has no method %d", (int)o->eap_ig.method);
    }
    bool stepped = o->eap_ig.method != ABL_EAP_IG_CLEAN_CORRUPTED;
    if (stepped && (o->eap_ig.steps < 1 || o->eap_ig.steps > ABL_EAP_IG_STEPS_MAX)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "eap_ig.steps is %d; it must be 1 to %d", o->eap_ig.steps,
                        ABL_EAP_IG_STEPS_MAX);
    }
    if (o->eap_ig.method != ABL_EAP_IG_ACTIVATIONS && o->ablation != ABL_ABLATION_RESAMPLE) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "eap_ig goes from the corrupt prompt's input to the clean one's, so its "
                        "ablation must be RESAMPLE; only its method ACTIVATIONS takes others");
    }
    return abl_prune_check_answers(prune, ret_status);
}

static abl_code eap_ig_open(abl_prune *prune, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    abl_code code = options_check(prune, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    eap_ig *state = abl_calloc(1, sizeof *state);
    prune->state = state;
    if (state == NULL) {
        return abl_fail_oom(ret_status);
    }
    state->sums = abl_calloc((size_t)prune->edge_count, sizeof *state->sums);
    bool everywhere = o->eap_ig.method == ABL_EAP_IG_ACTIVATIONS;
    const abl_model_config *config = abl_model_get_config(o->model);
    state->places_per_layer = config->attn_only ? 1 : 2;
    state->place_count = everywhere ? 1 + state->places_per_layer * config->n_layers : 1;
    state->point_count =
        o->eap_ig.method == ABL_EAP_IG_CLEAN_CORRUPTED ? 2 : state->place_count * o->eap_ig.steps;
    prune->progress.total = (int64_t)prune->batch_count * state->point_count;
    return state->sums == NULL ? abl_fail_oom(ret_status)
                               : abl_prune_ablate(prune, is_simple(o), ret_status);
}

static abl_blend blend_at(const abl_prune *prune, const eap_ig *state) {
    const int32_t steps = prune->options.eap_ig.steps;
    abl_blend blend = {.clean = state->clean, .place = ABL_BLEND_START};
    switch (prune->options.eap_ig.method) {
    case ABL_EAP_IG_INPUTS:
        blend.share = (double)state->point / steps;
        break;
    case ABL_EAP_IG_CLEAN_CORRUPTED:
        blend.share = state->point == 0 ? 1 : 0;
        break;
    case ABL_EAP_IG_ACTIVATIONS:
        blend.share = (double)(state->point % steps + 1) / steps;
        int32_t place = state->point / steps - 1;
        if (place >= 0) {
            blend.place = place % state->places_per_layer == 0 ? ABL_BLEND_HEADS : ABL_BLEND_MLP;
            blend.layer = place / state->places_per_layer;
        }
        break;
    }
    return blend;
}

/* The clean run of the batch, at its first point, and what ablates it. */
static abl_code runs_make(abl_prune *prune, eap_ig *state, const abl_batch *batch,
                          const abl_sources **ret_ablated, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    if (state->point == 0) {
        abl_sources_destroy(state->clean);
        state->clean = NULL;
        const abl_patch_options pass = abl_prune_pass(&prune->options, batch);
        code =
            abl_patch_hooked_sources(&pass, is_simple(&prune->options), &state->clean, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_prune_ablated(prune, batch, ret_ablated, ret_status);
    }
    return code;
}

/* ---- with the graph's hooks ---------------------------------------------------------------- */

/* The hook point of the blend's place: where it is emitted, behind all else that is done there. */
static abl_hook hook_of(const abl_blend *blend) {
    switch (blend->place) {
    case ABL_BLEND_HEADS:
        return (abl_hook){.point = ABL_HOOK_RESULT, .layer = blend->layer};
    case ABL_BLEND_MLP:
        return (abl_hook){.point = ABL_HOOK_MLP_OUT, .layer = blend->layer};
    case ABL_BLEND_START:
        break;
    }
    return (abl_hook){.point = ABL_HOOK_RESID_PRE, .layer = 0};
}

/* What a run emits there; NULL: zero. Heads' outputs are (batch, pos, head, d_model). */
static abl_tensor *emitted(abl_scope *scope, const abl_model *model, const abl_sources *run,
                           const abl_blend *blend) {
    if (run == NULL || blend->place == ABL_BLEND_START) {
        return run == NULL ? NULL : run->start;
    }
    if (blend->place == ABL_BLEND_MLP) {
        return run->mlp_out[blend->layer];
    }
    abl_tensor *out =
        abl_block_head_results(scope, model, blend->layer, run->z[blend->layer], NULL);
    abl_tensor *change = run->change[blend->layer];
    return change == NULL ? out : abl_tensor_add(scope, out, change);
}

/* The graph's interventions, and behind them the blend, which is all there is at its point. */
static size_t list_with(abl_interventions list, const abl_blend *blend, abl_tensor *cached,
                        abl_intervention *items) {
    const abl_hook hook = hook_of(blend);
    size_t count = 0;
    for (size_t i = 0; i < list.count; i++) {
        const abl_hook at = list.items[i].hook;
        if (at.point != hook.point || at.layer != hook.layer) {
            items[count++] = list.items[i];
        }
    }
    items[count++] = (abl_intervention){.hook = hook, .op = ABL_OP_PATCH, .cached = cached};
    return count;
}

/* abl_gradient_add() by hooked.h's pass: the blend is an intervention, through which no gradient
 * goes, and the differences are the clean run's. */
static abl_code hooked_add(abl_prune *prune, eap_ig *state, const abl_batch *batch,
                           const abl_sources *ablated, const abl_blend *blend,
                           abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    ABL_CLEANUP(abl_freep)
    float *gradient = abl_calloc((size_t)prune->edge_count, 2 * sizeof *gradient);
    ABL_CLEANUP(abl_freep)
    abl_intervention *items = abl_calloc(o->interventions.count + 1, sizeof *items);
    abl_scope *scope = abl_scope_create(abl_model_device(o->model));
    if (gradient == NULL || items == NULL || scope == NULL) {
        abl_scope_destroy(scope);
        return abl_fail_oom(ret_status);
    }
    abl_tensor *clean = emitted(scope, o->model, state->clean, blend);
    abl_tensor *other = emitted(scope, o->model, ablated, blend);
    abl_tensor *cached = other == NULL ? abl_tensor_scale(scope, clean, blend->share)
                                       : abl_tensor_lerp(scope, other, clean, blend->share);
    abl_patch_options pass = abl_prune_pass(o, batch);
    pass.mask = gradient + prune->edge_count; /* all 0 */
    pass.ablated = ablated;
    abl_code code = abl_scope_status(scope, ret_status);
    if (code == ABL_CODE_OK) {
        pass.interventions = (abl_interventions){
            .items = items, .count = list_with(o->interventions, blend, cached, items)};
        abl_prune_batch_loss of = {.loss = abl_prune_loss(o), .batch = batch};
        const abl_patch_hooked_loss loss = {
            .loss_cb = abl_prune_loss_gradient, .user_data = &of, .current = state->clean};
        code = abl_patch_hooked_gradient(&pass, &loss, NULL, gradient, ret_status);
    }
    for (int64_t i = 0; code == ABL_CODE_OK && i < prune->edge_count; i++) {
        state->sums[i] += gradient[i];
    }
    abl_scope_destroy(scope);
    return code;
}

/* ---- a step -------------------------------------------------------------------------------- */

static abl_code eap_ig_step(abl_prune *prune, abl_status *ret_status) {
    eap_ig *state = prune->state;
    const abl_prune_options *o = &prune->options;
    abl_code code = ABL_CODE_OK;
    const bool hooked = o->interventions.count > 0 || is_simple(o);
    if (state->folded == NULL && !hooked) {
        code = abl_folded_create(o->model, o->graph, true, &state->folded, ret_status);
    }
    abl_batch batch = abl_batches_at(&o->batches, prune->progress.batch);
    const abl_sources *ablated = NULL;
    if (code == ABL_CODE_OK) {
        code = runs_make(prune, state, &batch, &ablated, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_blend blend = blend_at(prune, state);
    abl_gradient_options gradient = {.model = o->model,
                                     .graph = o->graph,
                                     .folded = state->folded,
                                     .loss = abl_prune_loss(o),
                                     .batch = &batch,
                                     .ablated = ablated,
                                     .blend = &blend};
    code = hooked ? hooked_add(prune, state, &batch, ablated, &blend, ret_status)
                  : abl_gradient_add(&gradient, state->sums, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const double scale = 1.0 / ((double)o->batches.count * state->point_count);
    for (int64_t i = 0; i < prune->edge_count; i++) {
        prune->scores[i] = (float)((double)state->sums[i] * scale);
    }
    prune->progress.done++;
    state->point = (state->point + 1) % state->point_count;
    prune->progress.batch_finished = state->point == 0;
    return ABL_CODE_OK;
}

static void eap_ig_close(abl_prune *prune) {
    eap_ig *state = prune->state;
    if (state == NULL) {
        return;
    }
    abl_folded_destroy(state->folded);
    abl_sources_destroy(state->clean);
    abl_free(state->sums);
    abl_free(state);
    prune->state = NULL;
}

static int64_t eap_ig_bytes_estimate(const abl_prune_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    int64_t batch = abl_batches_rows_max(&options->batches);
    int64_t seq = abl_dataset_seq_len(options->batches.dataset);
    int64_t run = 4 * batch * seq *
                  (c->d_model + c->n_layers * ((int64_t)c->n_heads * c->d_head + c->d_model));
    const bool simple = is_simple(options);
    if (options->interventions.count > 0 || simple) {
        const int64_t residuals = simple ? 4 * batch * seq * c->d_model * (2 * c->n_layers + 1) : 0;
        return abl_prune_hooked_bytes(options, true) + 2 * run + residuals +
               abl_prune_ablated_bytes(options, simple) + 16 * abl_graph_edge_count(options->graph);
    }
    return abl_gradient_bytes(c, options->graph, batch, seq) + run +
           abl_prune_ablated_bytes(options, false) +
           abl_folded_bytes(options->model, options->graph, true) +
           8 * abl_graph_edge_count(options->graph);
}

const abl_prune_vtable abl_prune_eap_ig = {.open = eap_ig_open,
                                           .step = eap_ig_step,
                                           .close = eap_ig_close,
                                           .bytes_estimate = eap_ig_bytes_estimate};
