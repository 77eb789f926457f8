// SPDX-License-Identifier: Apache-2.0
/* run_circuits. First, for ablations that are means over the dataset, that mean, a pass a step.
 * Then batches are the outer loop: a batch's ablation, and the unpatched model's logits that
 * metrics compare with, are computed once for all circuits. Sizes whose thresholds are equal (ties)
 * are one circuit and are run once. A circuit's mask is written anew for every pass: that is
 * one walk over the edges, nothing beside the pass itself. */
#include "core/patch/circuits.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/patch/hooked.h"
#include "core/patch/patcher.h"

#include <math.h>
#include <string.h>

typedef struct circuit {
    int32_t index;   /* of sizes, or of sets */
    float threshold; /* by score */
    int64_t edge_count;
} circuit;

struct abl_circuits {
    abl_circuits_options options;
    abl_patcher *patcher;
    circuit *circuits;
    int32_t circuit_count;
    int64_t edge_count;
    int32_t batch_index; /* of the next step */
    int32_t at;          /* circuit of the next step */
    abl_ablator *ablator;
    int32_t prepare_count; /* steps before the first circuit: a mean over the dataset */
    float *mask;
    float *logits;
    float *unpatched[2]; /* clean, corrupt; NULL until asked for */
    int32_t unpatched_batch[2];
    int32_t last_batch; /* of the last step */
};

/* ---- create ---------------------------------------------------------------------------------- */

static abl_code sets_check(const abl_circuits_options *o, abl_status *ret_status) {
    int64_t edge_count = abl_graph_edge_count(o->graph);
    for (int32_t i = 0; i < o->circuit_count; i++) {
        for (int64_t j = 0; j < o->sets[i].count; j++) {
            int64_t edge = o->sets[i].edges[j];
            if (edge < 0 || edge >= edge_count) {
                return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                                "circuit %d names edge %lld; this graph has edges 0 to %lld", i,
                                (long long)edge, (long long)edge_count - 1);
            }
        }
    }
    return ABL_CODE_OK;
}

static abl_code scores_check(const abl_circuits_options *o, abl_status *ret_status) {
    int64_t edge_count = abl_graph_edge_count(o->graph);
    for (int64_t i = 0; i < edge_count; i++) {
        if (isnan(o->scores[i])) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SCORES_NOT_FINITE",
                            "the score of edge %lld is not a number", (long long)i);
        }
    }
    return ABL_CODE_OK;
}

static abl_code options_check(const abl_circuits_options *o, abl_status *ret_status) {
    abl_code code = abl_graph_check_model(o->graph, o->model, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_batches_check_model(&o->batches, o->graph, o->model, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (o->circuit_count < 1 || o->circuit_count > ABL_CIRCUIT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_COUNT",
                        "%d circuits were asked for; there must be 1 to %d", o->circuit_count,
                        ABL_CIRCUIT_COUNT_MAX);
    }
    ABL_ASSERT(o->scores != NULL ? o->sizes != NULL : o->sets != NULL);
    return o->scores != NULL ? scores_check(o, ret_status) : sets_check(o, ret_status);
}

/* The mask of a set: 1 where in it. Returns how many edges it has. */
static int64_t set_write(const abl_edge_set *set, float *mask, int64_t edge_count) {
    memset(mask, 0, (size_t)edge_count * sizeof *mask);
    int64_t count = 0;
    for (int64_t i = 0; i < set->count; i++) {
        count += mask[set->edges[i]] == 0.0F;
        mask[set->edges[i]] = 1;
    }
    return count;
}

static abl_code circuits_fill(abl_circuits *circuits, abl_status *ret_status) {
    const abl_circuits_options *o = &circuits->options;
    if (o->scores == NULL) {
        for (int32_t i = 0; i < o->circuit_count; i++) {
            int64_t count = set_write(&o->sets[i], circuits->mask, circuits->edge_count);
            circuits->circuits[i] = (circuit){.index = i, .edge_count = count};
        }
        circuits->circuit_count = o->circuit_count;
        return ABL_CODE_OK;
    }
    ABL_CLEANUP(abl_freep)
    float *thresholds = abl_calloc((size_t)o->circuit_count, sizeof *thresholds);
    if (thresholds == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_code code = abl_scores_thresholds(o->scores, circuits->edge_count, o->sizes,
                                          o->circuit_count, thresholds, ret_status);
    for (int32_t i = 0; code == ABL_CODE_OK && i < o->circuit_count; i++) {
        bool seen = false;
        for (int32_t j = 0; j < circuits->circuit_count; j++) {
            seen = seen || circuits->circuits[j].threshold == thresholds[i];
        }
        if (!seen) {
            circuits->circuits[circuits->circuit_count++] =
                (circuit){.index = i,
                          .threshold = thresholds[i],
                          .edge_count = abl_scores_circuit(o->scores, circuits->edge_count,
                                                           thresholds[i], NULL)};
        }
    }
    return code;
}

/* TREE_PATCH runs the clean prompt and ablates by the corrupt one; EDGE_PATCH the other way. */
static bool input_is_clean(const abl_circuits_options *o) {
    return (o->patch_type == ABL_PATCH_TREE) != o->reverse_clean_corrupt;
}

static abl_ablator_options ablator_options(const abl_circuits_options *o) {
    return (abl_ablator_options){.of = {.model = o->model,
                                        .ablation = o->ablation,
                                        .batches = o->batches,
                                        .clean = !input_is_clean(o),
                                        .residuals = true,
                                        .interventions = o->interventions,
                                        .graph = o->graph},
                                 .resident = o->resident,
                                 .resident_first = o->resident_first};
}

static abl_patch_options patch_options(const abl_circuits *circuits, const abl_batch *batch) {
    const abl_circuits_options *o = &circuits->options;
    return (abl_patch_options){.model = o->model,
                               .graph = o->graph,
                               .prefix = batch->prefix,
                               .batch = batch->size,
                               .seq = batch->seq_len,
                               .interventions = o->interventions,
                               .out_slice = o->out_slice};
}

/* That the interventions can be done in each batch: the last may be smaller. */
static abl_code interventions_check(const abl_circuits *circuits, abl_status *ret_status) {
    const abl_batches *batches = &circuits->options.batches;
    abl_code code = ABL_CODE_OK;
    for (int32_t i = 0; code == ABL_CODE_OK && i < abl_batches_count(batches); i++) {
        abl_batch batch = abl_batches_at(batches, i);
        abl_patch_options patch = patch_options(circuits, &batch);
        code = abl_patch_hooked_check(&patch, false, ret_status);
    }
    return code;
}

static abl_code buffers_alloc(abl_circuits *circuits, abl_status *ret_status) {
    const abl_circuits_options *o = &circuits->options;
    abl_batch batch = abl_batches_at(&o->batches, 0);
    abl_patch_options patch = patch_options(circuits, &batch);
    circuits->edge_count = abl_graph_edge_count(o->graph);
    circuits->circuits = abl_calloc((size_t)o->circuit_count, sizeof *circuits->circuits);
    circuits->mask = abl_calloc((size_t)circuits->edge_count, sizeof *circuits->mask);
    circuits->logits = abl_calloc((size_t)abl_patch_logit_count(&patch), sizeof *circuits->logits);
    bool ok = circuits->circuits != NULL && circuits->mask != NULL && circuits->logits != NULL;
    return ok ? ABL_CODE_OK : abl_fail_oom(ret_status);
}

abl_code abl_circuits_create(const abl_circuits_options *options, abl_circuits **ret_circuits,
                             abl_status *ret_status) {
    ABL_ASSERT(options->model != NULL && options->graph != NULL);
    abl_code code = options_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_circuits *circuits = abl_calloc(1, sizeof *circuits);
    if (circuits == NULL) {
        return abl_fail_oom(ret_status);
    }
    circuits->options = *options;
    circuits->unpatched_batch[0] = circuits->unpatched_batch[1] = -1;
    code = interventions_check(circuits, ret_status);
    if (code == ABL_CODE_OK) {
        code = buffers_alloc(circuits, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = circuits_fill(circuits, ret_status);
    }
    if (code == ABL_CODE_OK) {
        const abl_ablator_options ablator = ablator_options(options);
        code = abl_ablator_create(&ablator, &circuits->ablator, ret_status);
    }
    if (code == ABL_CODE_OK) {
        circuits->prepare_count = abl_ablator_steps_left(circuits->ablator);
    }
    if (code != ABL_CODE_OK) {
        abl_circuits_destroy(circuits);
        return code;
    }
    *ret_circuits = circuits;
    return ABL_CODE_OK;
}

void abl_circuits_destroy(abl_circuits *circuits) {
    if (circuits == NULL) {
        return;
    }
    abl_patcher_destroy(circuits->patcher);
    abl_ablator_destroy(circuits->ablator);
    abl_free(circuits->circuits);
    abl_free(circuits->mask);
    abl_free(circuits->logits);
    abl_free(circuits->unpatched[0]);
    abl_free(circuits->unpatched[1]);
    abl_free(circuits);
}

int32_t abl_circuits_count(const abl_circuits *circuits) {
    return circuits->circuit_count;
}

int64_t abl_circuits_step_count(const abl_circuits *circuits) {
    return circuits->prepare_count +
           (int64_t)circuits->circuit_count * abl_batches_count(&circuits->options.batches);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void mask_write(abl_circuits *circuits, const circuit *c) {
    const abl_circuits_options *o = &circuits->options;
    bool tree = o->patch_type == ABL_PATCH_TREE;
    if (o->scores == NULL) {
        (void)set_write(&o->sets[c->index], circuits->mask, circuits->edge_count);
        for (int64_t i = 0; tree && i < circuits->edge_count; i++) {
            circuits->mask[i] = 1.0F - circuits->mask[i];
        }
        return;
    }
    for (int64_t i = 0; i < circuits->edge_count; i++) {
        bool in = fabsf(o->scores[i]) >= c->threshold;
        circuits->mask[i] = in != tree ? 1.0F : 0.0F;
    }
}

static abl_code patcher_prepare(abl_circuits *circuits, abl_status *ret_status) {
    if (circuits->patcher != NULL) {
        return ABL_CODE_OK;
    }
    return abl_patcher_create(circuits->options.model, circuits->options.graph, &circuits->patcher,
                              ret_status);
}

abl_code abl_circuits_step(abl_circuits *circuits, abl_circuits_result *ret_result,
                           bool *ret_finished, abl_status *ret_status) {
    const abl_circuits_options *o = &circuits->options;
    ABL_ASSERT(circuits->batch_index < abl_batches_count(&o->batches));
    if (abl_ablator_steps_left(circuits->ablator) > 0) {
        *ret_result = (abl_circuits_result){.circuit = -1};
        *ret_finished = false;
        return abl_ablator_step(circuits->ablator, ret_status);
    }
    const circuit *c = &circuits->circuits[circuits->at];
    abl_batch batch = abl_batches_at(&o->batches, circuits->batch_index);
    const abl_sources *ablated = NULL;
    abl_code code = patcher_prepare(circuits, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_ablator_batch(circuits->ablator, &batch, &ablated, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    bool tree = o->patch_type == ABL_PATCH_TREE;
    bool plain = (tree ? circuits->edge_count - c->edge_count : c->edge_count) == 0;
    if (!plain) {
        mask_write(circuits, c);
    }
    abl_patch_options patch = patch_options(circuits, &batch);
    patch.tokens = input_is_clean(o) ? batch.clean : batch.corrupt;
    patch.mask = plain ? NULL : circuits->mask; /* nothing is ablated: the model itself */
    patch.ablated = ablated;
    code = abl_patcher_run(circuits->patcher, &patch, circuits->logits, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    *ret_result = (abl_circuits_result){.circuit = c->index,
                                        .edge_count = c->edge_count,
                                        .batch_index = circuits->batch_index,
                                        .batch = batch,
                                        .logits = circuits->logits,
                                        .logit_count = abl_patch_logit_count(&patch),
                                        .vocab_size = abl_model_get_config(o->model)->d_vocab_out};
    circuits->last_batch = circuits->batch_index;
    circuits->at++;
    if (circuits->at == circuits->circuit_count) {
        circuits->at = 0;
        circuits->batch_index++;
    }
    *ret_finished = circuits->batch_index == abl_batches_count(&o->batches);
    return ABL_CODE_OK;
}

abl_code abl_circuits_unpatched(abl_circuits *circuits, bool corrupt, const float **ret_logits,
                                abl_status *ret_status) {
    const abl_circuits_options *o = &circuits->options;
    int which = corrupt ? 1 : 0;
    abl_batch batch = abl_batches_at(&o->batches, circuits->last_batch);
    abl_patch_options patch = patch_options(circuits, &batch);
    patch.tokens = corrupt ? batch.corrupt : batch.clean;
    if (circuits->unpatched[which] == NULL) {
        abl_batch first = abl_batches_at(&o->batches, 0); /* none is larger */
        abl_patch_options largest = patch_options(circuits, &first);
        circuits->unpatched[which] =
            abl_calloc((size_t)abl_patch_logit_count(&largest), sizeof(float));
        if (circuits->unpatched[which] == NULL) {
            return abl_fail_oom(ret_status);
        }
    }
    if (circuits->unpatched_batch[which] != circuits->last_batch) {
        abl_code code = patcher_prepare(circuits, ret_status);
        if (code == ABL_CODE_OK) {
            code =
                abl_patcher_run(circuits->patcher, &patch, circuits->unpatched[which], ret_status);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
        circuits->unpatched_batch[which] = circuits->last_batch;
    }
    *ret_logits = circuits->unpatched[which];
    return ABL_CODE_OK;
}

int64_t abl_circuits_bytes_estimate(const abl_circuits_options *options) {
    const abl_batches *batches = &options->batches;
    abl_patch_options patch = {.model = options->model,
                               .graph = options->graph,
                               .prefix = batches->prefix,
                               .batch = abl_batches_rows_max(batches),
                               .seq = abl_dataset_seq_len(batches->dataset),
                               .interventions = options->interventions,
                               .out_slice = options->out_slice};
    const abl_ablator_options ablator = ablator_options(options);
    return abl_patch_bytes_estimate(&patch) + abl_ablator_bytes_estimate(&ablator) +
           12 * abl_patch_logit_count(&patch);
}
