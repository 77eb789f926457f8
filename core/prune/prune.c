// SPDX-License-Identifier: Apache-2.0
/* What all prune algorithms share: names, the checks of options, the scores, counting steps. */
#include "core/prune/prune.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "core/patch/folded.h"
#include "core/patch/hooked.h"
#include "core/prune/algorithm.h"

#include <stdio.h>
#include <string.h>

typedef struct algorithm_entry {
    const char *name;
    const abl_prune_vtable *vtable;
} algorithm_entry;

static const algorithm_entry ALGORITHMS[ABL_PRUNE_ALGORITHM_COUNT] = {
    [ABL_PRUNE_EAP] = {"eap", &abl_prune_eap},
    [ABL_PRUNE_MASK_GRADIENT] = {"mask_gradient", &abl_prune_mask_gradient},
    [ABL_PRUNE_GROUND_TRUTH] = {"ground_truth", &abl_prune_ground_truth},
    [ABL_PRUNE_RANDOM] = {"random", &abl_prune_random},
    [ABL_PRUNE_ACTIVATION_MAGNITUDE] = {"activation_magnitude", &abl_prune_activation_magnitude},
    [ABL_PRUNE_EAP_IG] = {"eap_ig", &abl_prune_eap_ig},
    [ABL_PRUNE_SUBNETWORK_PROBING] = {"subnetwork_probing", &abl_prune_subnetwork_probing},
    [ABL_PRUNE_CIRCUIT_PROBING] = {"circuit_probing", &abl_prune_circuit_probing},
    [ABL_PRUNE_ACDC] = {"acdc", &abl_prune_acdc},
};

const char *abl_prune_algorithm_name(abl_prune_algorithm algorithm) {
    bool known = (unsigned)algorithm < ABL_PRUNE_ALGORITHM_COUNT;
    return known ? ALGORITHMS[algorithm].name : NULL;
}

static abl_code options_check(const abl_prune_options *o, abl_status *ret_status) {
    if ((unsigned)o->algorithm >= ABL_PRUNE_ALGORITHM_COUNT ||
        (unsigned)o->grad_function >= ABL_GRAD_FUNCTION_COUNT ||
        (unsigned)o->answer_function >= ABL_ANSWER_FUNCTION_COUNT ||
        (unsigned)o->exact_metric > ABL_EXACT_MSE || (unsigned)o->ablation >= ABL_ABLATION_COUNT) {
        return abl_fail(
            ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
            "algorithm %d, grad function %d, answer function %d, exact metric %d, ablation "
            "%d: not all of them exist",
            (int)o->algorithm, (int)o->grad_function, (int)o->answer_function, (int)o->exact_metric,
            (int)o->ablation);
    }
    abl_code code = abl_graph_check_model(o->graph, o->model, ret_status);
    if (code != ABL_CODE_OK || o->algorithm == ABL_PRUNE_RANDOM) {
        return code; /* random looks at no prompt */
    }
    code = abl_batches_check_model(&o->batches, o->graph, o->model, ret_status);
    return code == ABL_CODE_OK ? abl_prune_check_hooks(o, &o->batches, ret_status) : code;
}

abl_code abl_prune_create(const abl_prune_options *options, abl_prune **ret_prune,
                          abl_status *ret_status) {
    ABL_ASSERT(options != NULL && options->model != NULL && options->graph != NULL);
    abl_code code = options_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_prune *prune = abl_calloc(1, sizeof *prune);
    if (prune == NULL) {
        return abl_fail_oom(ret_status);
    }
    prune->options = *options;
    prune->vtable = ALGORITHMS[options->algorithm].vtable;
    prune->edge_count = abl_graph_edge_count(options->graph);
    if (options->algorithm != ABL_PRUNE_RANDOM) {
        prune->batch_count = abl_batches_count(&options->batches);
    }
    prune->scores = abl_calloc((size_t)prune->edge_count, sizeof *prune->scores);
    code =
        prune->scores == NULL ? abl_fail_oom(ret_status) : prune->vtable->open(prune, ret_status);
    if (code != ABL_CODE_OK) {
        abl_prune_destroy(prune);
        return code;
    }
    prune->progress.batch_count = prune->batch_count;
    if (prune->ablator != NULL) {
        prune->progress.total += abl_ablator_steps_left(prune->ablator);
    }
    *ret_prune = prune;
    return ABL_CODE_OK;
}

abl_code abl_prune_step(abl_prune *prune, abl_prune_progress *ret_progress,
                        abl_status *ret_status) {
    ABL_ASSERT(!prune->progress.finished);
    if (prune->progress.batch_finished) {
        prune->progress.batch_finished = false;
        prune->progress.batch++;
    }
    abl_code code = ABL_CODE_OK;
    if (prune->ablator != NULL && abl_ablator_steps_left(prune->ablator) > 0) {
        code = abl_ablator_step(prune->ablator, ret_status);
        prune->progress.done++;
    } else {
        code = prune->vtable->step(prune, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    prune->progress.finished = prune->progress.done == prune->progress.total;
    *ret_progress = prune->progress;
    return ABL_CODE_OK;
}

const float *abl_prune_scores(const abl_prune *prune) {
    return prune->scores;
}

const abl_training_point *abl_prune_curve(const abl_prune *prune, int64_t *ret_count) {
    *ret_count = prune->curve_count;
    return prune->curve;
}

const uint8_t *abl_prune_scored(const abl_prune *prune) {
    return prune->scored;
}

void abl_prune_destroy(abl_prune *prune) {
    if (prune == NULL) {
        return;
    }
    if (prune->vtable != NULL) {
        prune->vtable->close(prune);
    }
    abl_ablator_destroy(prune->ablator);
    abl_free(prune->scores);
    abl_free(prune->scored);
    abl_free(prune);
}

/* ---- for algorithms -------------------------------------------------------------------------- */

abl_patch_options abl_prune_pass(const abl_prune_options *options, const abl_batch *batch) {
    return (abl_patch_options){.model = options->model,
                               .graph = options->graph,
                               .prefix = batch->prefix,
                               .tokens = batch->clean,
                               .batch = batch->size,
                               .seq = batch->seq_len,
                               .interventions = options->interventions,
                               .out_slice = ABL_OUT_SLICE_LAST};
}

abl_loss abl_prune_loss(const abl_prune_options *options) {
    return (abl_loss){.grad_function = options->grad_function,
                      .answer_function = options->answer_function};
}

abl_code abl_prune_check_answers(const abl_prune *prune, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int32_t i = 0; code == ABL_CODE_OK && i < prune->batch_count; i++) {
        abl_batch batch = abl_batches_at(&prune->options.batches, i);
        code = abl_loss_check(abl_prune_loss(&prune->options), &batch, ret_status);
    }
    return code;
}

abl_tensor *abl_prune_loss_gradient(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const abl_prune_batch_loss *of = user_data;
    return abl_loss_backward_dense(scope, of->loss, of->batch, logits);
}

int64_t abl_prune_hooked_bytes(const abl_prune_options *options, bool gradient) {
    const abl_batches *batches = &options->batches;
    const abl_batch largest = {.prefix = batches->prefix,
                               .size = abl_batches_rows_max(batches),
                               .seq_len = abl_dataset_seq_len(batches->dataset)};
    const abl_patch_options pass = abl_prune_pass(options, &largest);
    return abl_patch_hooked_run_bytes(&pass, gradient);
}

static bool goes_back(abl_prune_algorithm algorithm) {
    return algorithm == ABL_PRUNE_EAP || algorithm == ABL_PRUNE_MASK_GRADIENT ||
           algorithm == ABL_PRUNE_EAP_IG || algorithm == ABL_PRUNE_SUBNETWORK_PROBING ||
           algorithm == ABL_PRUNE_CIRCUIT_PROBING;
}

abl_code abl_prune_check_hooks(const abl_prune_options *options, const abl_batches *batches,
                               abl_status *ret_status) {
    for (int32_t i = 0; i < abl_batches_count(batches); i++) {
        abl_batch batch = abl_batches_at(batches, i);
        const abl_patch_options pass = abl_prune_pass(options, &batch);
        abl_status inner = {0};
        abl_code code = abl_patch_hooked_check(&pass, goes_back(options->algorithm), &inner);
        if (code != ABL_CODE_OK) {
            return abl_fail(ret_status, code, inner.reason,
                            "%s, with the graph's hooks: %.400s (prompts %d to %d)",
                            abl_prune_algorithm_name(options->algorithm), inner.message,
                            batch.first, batch.first + batch.size - 1);
        }
    }
    return ABL_CODE_OK;
}

static abl_ablator_options ablator_options(const abl_prune_options *o, bool residuals) {
    return (abl_ablator_options){.of = {.model = o->model,
                                        .ablation = o->ablation,
                                        .batches = o->batches,
                                        .clean = o->ablate_by_clean,
                                        .residuals = residuals,
                                        .interventions = o->interventions,
                                        .graph = o->graph},
                                 .resident = o->resident,
                                 .resident_first = o->resident_first};
}

abl_code abl_prune_ablate(abl_prune *prune, bool residuals, abl_status *ret_status) {
    const abl_ablator_options options = ablator_options(&prune->options, residuals);
    return abl_ablator_create(&options, &prune->ablator, ret_status);
}

abl_code abl_prune_ablated(abl_prune *prune, const abl_batch *batch,
                           const abl_sources **ret_ablated, abl_status *ret_status) {
    return abl_ablator_batch(prune->ablator, batch, ret_ablated, ret_status);
}

int64_t abl_prune_ablated_bytes(const abl_prune_options *options, bool residuals) {
    const abl_ablator_options ablator = ablator_options(options, residuals);
    return abl_ablator_bytes_estimate(&ablator);
}

int64_t abl_prune_bytes_estimate(const abl_prune_options *options) {
    ABL_ASSERT((unsigned)options->algorithm < ABL_PRUNE_ALGORITHM_COUNT);
    /* Behind a prefix, its keys and values beside every row's own, for all layers of a gradient. */
    const abl_batches *batches = &options->batches;
    int64_t behind = 0;
    if (batches->prefix != NULL) {
        const abl_model_config *c = abl_model_get_config(options->model);
        behind = abl_prefix_pass_floats(batches->prefix, c, c->n_heads,
                                        (int64_t)batches->batch_size * c->n_layers,
                                        abl_dataset_seq_len(batches->dataset));
    }
    return ALGORITHMS[options->algorithm].vtable->bytes_estimate(options) + 4 * behind +
           abl_block_widened_bytes(options->model);
}
