// SPDX-License-Identifier: Apache-2.0
/* ACDC (Conmy et al. 2023), deciding as AutoCircuit does: edges are tried one by one, those of the
 * highest destinations first; an edge is removed for good when removing it makes the effect grow by
 * less than tau beyond the effect of what is removed already. Only the first batch is used.
 *
 * Speculation with exact decisions. Most edges are removed, so trial k of a group assumes that the
 * k - 1 before it were: all trials of a group go through the model at once, and are then walked in
 * order. The first edge that is kept ends the walk: its own decision stands, for everything before
 * it was as assumed; the trials behind it are thrown away and their edges tried again. A group
 * doubles after a walk to its end and else becomes twice the walk that was reached.
 *
 * Several taus are runs of their own. A score is the smallest tau that removed the edge, inf where
 * none did.
 *
 * The order is an input, for AutoCircuit's own within a layer is a set's. An explicit list may
 * leave edges out (they are kept) and must go down the layers: what lies below the edges in hand is
 * clean, and so is never computed again. */
#include "core/prune/acdc.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#include <math.h>
#include <string.h>

typedef struct acdc_run {
    const abl_acdc_vtable *vtable;
    abl_acdc_evaluator *evaluator; /* NULL: before the first step */
    int64_t *order;
    int64_t count; /* of edges to decide, for each tau */
    int64_t at;    /* the next of them */
    abl_acdc_tau *taus;
    int32_t tau_count;
    int32_t tau;     /* in hand */
    double *effects; /* of this tau's trials */
    int32_t group;   /* trials worth making at once, by how the last walks went */
    int64_t trial_count;
    int64_t pass_count;
    int64_t decision_count;
    abl_acdc_decision decisions[ABL_ACDC_DECISIONS_KEPT]; /* number i is at i modulo that */
} acdc_run;

#define GROUP_START 8

/* ---- the order ------------------------------------------------------------------------------- */

static int32_t layer_of(const abl_graph *graph, int64_t edge) {
    return abl_graph_dest_at(graph, abl_graph_edge_at(graph, edge).dest)->layer;
}

/* All edges, by descending layer of the destination, else in canonical order. */
static void order_fill(const abl_graph *graph, int64_t *order) {
    int32_t dest_count = abl_graph_dest_count(graph);
    int32_t top = 0;
    for (int32_t d = 0; d < dest_count; d++) {
        int32_t layer = abl_graph_dest_at(graph, d)->layer;
        top = layer > top ? layer : top;
    }
    int64_t at = 0;
    for (int32_t layer = top; layer >= 0; layer--) {
        for (int32_t seq = 0; seq < abl_graph_seq_count(graph); seq++) {
            for (int32_t d = 0; d < dest_count; d++) {
                const abl_graph_dest *dest = abl_graph_dest_at(graph, d);
                for (int32_t s = 0; dest->layer == layer && s < dest->src_count; s++) {
                    order[at++] = seq * abl_graph_edges_per_position(graph) + dest->edge_offset + s;
                }
            }
        }
    }
}

/* An explicit order: in range, each edge once, down the layers. */
static abl_code order_check(const abl_graph *graph, const int64_t *order, int64_t count,
                            abl_status *ret_status) {
    int64_t edge_count = abl_graph_edge_count(graph);
    ABL_CLEANUP(abl_freep) uint8_t *seen = abl_calloc((size_t)edge_count, 1);
    if (seen == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t edge = order[i];
        if (edge < 0 || edge >= edge_count) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                            "edges[%lld] is edge %lld; this graph has edges 0 to %lld",
                            (long long)i, (long long)edge, (long long)edge_count - 1);
        }
        if (seen[edge] != 0) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ORDER_INVALID",
                            "edges[%lld] is edge %lld, which comes earlier, too", (long long)i,
                            (long long)edge);
        }
        seen[edge] = 1;
        if (i > 0 && layer_of(graph, edge) > layer_of(graph, order[i - 1])) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ORDER_INVALID",
                            "edges[%lld] is an edge to layer %d, behind one to layer %d; "
                            "destinations must go down the layers",
                            (long long)i, layer_of(graph, edge), layer_of(graph, order[i - 1]));
        }
    }
    return ABL_CODE_OK;
}

static abl_code order_open(const abl_prune *prune, acdc_run *run, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    run->count = o->edges == NULL ? prune->edge_count : o->edge_count;
    if (run->count < 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ORDER_INVALID",
                        "the list of edges is empty; leave it out to decide all edges");
    }
    if (o->edges != NULL) {
        abl_code code = order_check(o->graph, o->edges, run->count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    run->order = abl_calloc((size_t)run->count, sizeof *run->order);
    run->effects = abl_calloc((size_t)run->count, sizeof *run->effects);
    if (run->order == NULL || run->effects == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (o->edges == NULL) {
        order_fill(o->graph, run->order);
    } else {
        memcpy(run->order, o->edges, (size_t)run->count * sizeof *run->order);
    }
    return ABL_CODE_OK;
}

/* ---- open, close ----------------------------------------------------------------------------- */

static abl_code taus_open(const abl_prune_options *o, acdc_run *run, abl_status *ret_status) {
    int32_t count = o->acdc.tau_count;
    if (count < 1 || count > ABL_TAU_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAUS_INVALID",
                        "%d taus were given; there must be 1 to %d", count, ABL_TAU_COUNT_MAX);
    }
    run->taus = abl_calloc((size_t)count, sizeof *run->taus);
    if (run->taus == NULL) {
        return abl_fail_oom(ret_status);
    }
    run->tau_count = count;
    for (int32_t i = 0; i < count; i++) {
        double tau = o->acdc.taus[i];
        if (!isfinite(tau) || (float)tau <= 0 || isinf((float)tau)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAUS_INVALID",
                            "taus[%d] is %g; each must be a positive, finite number", i, tau);
        }
        if (i > 0 && (float)tau <= (float)o->acdc.taus[i - 1]) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAUS_INVALID",
                            "taus[%d] is %g, behind %g; they must ascend", i, tau,
                            o->acdc.taus[i - 1]);
        }
        run->taus[i] = (abl_acdc_tau){.tau = tau, .margin_min = INFINITY};
    }
    return ABL_CODE_OK;
}

static const abl_acdc_vtable *evaluator_of(const abl_prune_options *o) {
    bool masked = o->acdc.whole_passes || abl_graph_options_of(o->graph)->simple ||
                  o->interventions.count > 0;
    return masked ? &abl_acdc_masked : &abl_acdc_delta;
}

static abl_code acdc_open(abl_prune *prune, abl_status *ret_status) {
    abl_prune_options *o = &prune->options;
    abl_batch first = abl_batches_at(&o->batches, 0);
    abl_code code = abl_effect_check(o->exact_metric, abl_prune_loss(o), &first, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    acdc_run *run = abl_calloc(1, sizeof *run);
    prune->state = run;
    prune->scored = abl_calloc((size_t)prune->edge_count, 1);
    if (run == NULL || prune->scored == NULL) {
        return abl_fail_oom(ret_status);
    }
    run->vtable = evaluator_of(o);
    run->group = GROUP_START;
    code = taus_open(o, run, ret_status);
    if (code == ABL_CODE_OK) {
        code = order_open(prune, run, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_prune_ablate(prune, true, ret_status);
    }
    o->acdc.taus = NULL; /* were borrowed for create */
    o->edges = NULL;
    for (int64_t i = 0; i < prune->edge_count; i++) {
        prune->scores[i] = INFINITY;
    }
    prune->batch_count = run->tau_count;
    prune->progress.total = run->count * run->tau_count;
    return code;
}

static void acdc_close(abl_prune *prune) {
    acdc_run *run = prune->state;
    if (run == NULL) {
        return;
    }
    if (run->evaluator != NULL) {
        run->vtable->destroy(run->evaluator);
    }
    abl_free(run->order);
    abl_free(run->effects);
    abl_free(run->taus);
    abl_free(run);
    prune->state = NULL;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* The edges of one step: inert ones need no trial. */
typedef struct acdc_group {
    int64_t edges[ABL_ACDC_TRIALS_MAX]; /* to try */
    double effects[ABL_ACDC_TRIALS_MAX];
    int32_t count;
    int32_t tried;
    int64_t length; /* in the order, inert ones included */
} acdc_group;

static abl_code evaluator_open(abl_prune *prune, acdc_run *run, abl_status *ret_status) {
    abl_batch batch = abl_batches_at(&prune->options.batches, 0);
    const abl_sources *ablated = NULL;
    abl_code code = abl_prune_ablated(prune, &batch, &ablated, ret_status);
    if (code == ABL_CODE_OK) {
        code = run->vtable->create(prune, &batch, ablated, &run->evaluator, ret_status);
    }
    return code == ABL_CODE_OK ? run->vtable->reset(run->evaluator, ret_status) : code;
}

static void group_fill(const abl_prune *prune, const acdc_run *run, acdc_group *group) {
    const abl_graph *graph = prune->options.graph;
    int32_t most = run->group;
    int32_t asked = prune->options.candidate_count_max;
    most = asked > 0 && asked < most ? asked : most;
    int32_t layer = layer_of(graph, run->order[run->at]);
    while (run->at + group->length < run->count) {
        int64_t edge = run->order[run->at + group->length];
        if (layer_of(graph, edge) != layer) {
            break;
        }
        bool inert = run->vtable->is_inert(run->evaluator, edge);
        if (!inert && group->count == most) {
            break;
        }
        if (!inert) {
            group->edges[group->count++] = edge;
        }
        group->length++;
    }
}

static void removed(abl_prune *prune, const acdc_run *run, int64_t edge) {
    float tau = (float)run->taus[run->tau].tau;
    prune->scores[edge] = tau < prune->scores[edge] ? tau : prune->scores[edge];
}

/* Decides edge after edge, up to the first that is kept though it was assumed to go, or that was
 * not tried. */
static abl_code walk(abl_prune *prune, acdc_run *run, const acdc_group *group,
                     abl_status *ret_status) {
    abl_acdc_tau *tau = &run->taus[run->tau];
    const int64_t begin = run->at;
    int32_t trial = 0;
    int32_t gone = 0;
    bool kept = false;
    for (int64_t i = 0; i < group->length && !kept; i++) {
        int64_t edge = run->order[run->at];
        bool tried = trial < group->count && group->edges[trial] == edge;
        if (tried && trial == group->tried) {
            break;
        }
        double effect = tried ? group->effects[trial] : tau->effect;
        double margin = fabs(effect - tau->effect - tau->tau);
        kept = !(effect - tau->effect < tau->tau);
        tau->margin_min = margin < tau->margin_min ? margin : tau->margin_min;
        run->effects[run->at++] = effect;
        run->decisions[run->decision_count++ % ABL_ACDC_DECISIONS_KEPT] =
            (abl_acdc_decision){.edge = edge, .tau = tau->tau, .effect = effect, .removed = !kept};
        tau->decided++;
        prune->scored[edge] = 1;
        prune->progress.done++;
        trial += tried;
        if (kept) {
            break;
        }
        removed(prune, run, edge);
        tau->effect = effect;
        tau->removed++;
        gone += tried;
    }
    bool whole = !kept && trial == group->count;
    if (trial > 0) { /* a walk of inert edges says nothing of the next */
        int32_t worth = whole ? 2 * run->group : 2 * trial;
        run->group = worth > ABL_ACDC_TRIALS_MAX ? ABL_ACDC_TRIALS_MAX : worth;
    }
    abl_code code = gone > 0 ? run->vtable->commit(run->evaluator, gone, ret_status) : ABL_CODE_OK;
    int32_t next = 0;
    for (int64_t i = begin; code == ABL_CODE_OK && i < run->at; i++) {
        if (next < group->count && group->edges[next] == run->order[i]) {
            next++;
        } else {
            run->vtable->remove(run->evaluator, run->order[i]);
        }
    }
    return code;
}

static abl_code acdc_step(abl_prune *prune, abl_status *ret_status) {
    acdc_run *run = prune->state;
    abl_code code = ABL_CODE_OK;
    if (run->evaluator == NULL) {
        code = evaluator_open(prune, run, ret_status);
    } else if (run->at == run->count) {
        run->at = 0;
        run->tau++;
        run->group = GROUP_START;
        code = run->vtable->reset(run->evaluator, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    acdc_group group = {.count = 0};
    group_fill(prune, run, &group);
    if (group.count > 0) {
        code = run->vtable->try_edges(run->evaluator, group.edges, group.count, group.effects,
                                      &group.tried, ret_status);
        run->trial_count += group.tried;
        run->pass_count++;
    }
    if (code == ABL_CODE_OK) {
        code = walk(prune, run, &group, ret_status);
    }
    prune->progress.batch_finished = code == ABL_CODE_OK && run->at == run->count;
    return code;
}

bool abl_prune_acdc_report(const abl_prune *prune, abl_acdc_report *ret_report) {
    if (prune->options.algorithm != ABL_PRUNE_ACDC) {
        return false;
    }
    const acdc_run *run = prune->state;
    *ret_report = (abl_acdc_report){.taus = run->taus,
                                    .tau_count = run->tau_count,
                                    .tau = run->tau,
                                    .order = run->order,
                                    .order_count = run->count,
                                    .effects = run->effects,
                                    .trial_count = run->trial_count,
                                    .pass_count = run->pass_count,
                                    .decision_count = run->decision_count};
    return true;
}

void abl_prune_acdc_decisions(const abl_prune *prune, int64_t first, int32_t count,
                              abl_acdc_decision *ret_decisions) {
    ABL_ASSERT(prune->options.algorithm == ABL_PRUNE_ACDC);
    const acdc_run *run = prune->state;
    ABL_ASSERT(first >= 0 && first >= run->decision_count - ABL_ACDC_DECISIONS_KEPT);
    ABL_ASSERT(first + count <= run->decision_count);
    for (int32_t i = 0; i < count; i++) {
        ret_decisions[i] = run->decisions[(first + i) % ABL_ACDC_DECISIONS_KEPT];
    }
}

static int64_t acdc_bytes(const abl_prune_options *o) {
    int64_t count = o->edges == NULL ? abl_graph_edge_count(o->graph) : o->edge_count;
    return evaluator_of(o)->bytes_estimate(o) + abl_prune_ablated_bytes(o, true) +
           (int64_t)sizeof(acdc_run) + count * (int64_t)(sizeof(int64_t) + sizeof(double)) +
           6 * abl_graph_edge_count(o->graph);
}

const abl_prune_vtable abl_prune_acdc = {
    .open = acdc_open, .step = acdc_step, .close = acdc_close, .bytes_estimate = acdc_bytes};
