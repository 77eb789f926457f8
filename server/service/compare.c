/* SPDX-License-Identifier: Apache-2.0
 *
 * CompareScores and MeasureRoc: arithmetic on scores that are there, so it is done on the pool, and
 * no device waits for it. */
#include "ablate/v1/evaluate.pb-c.h"
#include "core/base/mem.h"
#include "core/metric/similarity.h"
#include "server/convert/scores.h"
#include "server/service/evaluate_rpcs.h"
#include "server/service/use_scores.h"

#include <math.h>

/* Two sets of scores over one graph's edges; the second may be missing. */
typedef struct compare_state {
    const ProtobufCMessage *request;
    const abl_graph *graph;
    abl_values *scores;
    abl_values *other;
} compare_state;

static void compare_end(abl_rpc *rpc) {
    compare_state *state = rpc->state;
    abl_values_unref(state->scores);
    abl_values_unref(state->other);
}

/* NULL: the rpc has failed, and is to be ended so. */
static compare_state *compare_open(abl_rpc *rpc, const ProtobufCMessage *request,
                                   const char *job_id, const char *other_job_id) {
    compare_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_job *job = state == NULL ? NULL : abl_use_scores(rpc, job_id, NULL);
    if (job == NULL) {
        return NULL;
    }
    state->request = request;
    state->graph = job->graph->graph;
    state->scores = abl_values_ref(job->scores);
    rpc->state = state;
    rpc->end_cb = compare_end;
    if (other_job_id != NULL) {
        abl_job *other = abl_use_scores(rpc, other_job_id, state->graph);
        if (other == NULL) {
            return NULL;
        }
        state->other = abl_values_ref(other->scores);
    }
    return state;
}

/* What the worker left in rpc->response; it fails when there is none. */
static void compare_done(abl_rpc *rpc) {
    if (rpc->response == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, rpc->response);
}

/* ---- CompareScores ------------------------------------------------------------------------ */

static bool overlaps_fill(abl_rpc *rpc, const abl_overlap *overlaps, const int64_t *sizes,
                          int32_t count, Ablate__V1__CompareScoresResponse *response) {
    Ablate__V1__CircuitOverlap *messages =
        abl_arena_alloc(rpc->arena, (size_t)count * sizeof *messages);
    response->overlaps = abl_arena_alloc(rpc->arena, (size_t)count * sizeof(void *));
    if (messages == NULL || response->overlaps == NULL) {
        return false;
    }
    response->n_overlaps = (size_t)count;
    for (int32_t i = 0; i < count; i++) {
        ablate__v1__circuit_overlap__init(&messages[i]);
        messages[i].edge_count = sizes[i];
        messages[i].first_count = overlaps[i].a;
        messages[i].second_count = overlaps[i].b;
        messages[i].common_count = overlaps[i].common;
        messages[i].similarity = overlaps[i].similarity;
        messages[i].jaccard = overlaps[i].jaccard;
        response->overlaps[i] = &messages[i];
    }
    return true;
}

static abl_step compare_work(abl_rpc *rpc) {
    compare_state *state = rpc->state;
    const Ablate__V1__CompareScoresRequest *request =
        (const Ablate__V1__CompareScoresRequest *)state->request;
    const abl_edge_counts_options defaults = {.kind = ABL_EDGE_COUNTS_LOGARITHMIC};
    const float *a = state->scores->values;
    const float *b = state->other->values;
    const int64_t count = state->scores->count;
    int64_t *sizes = NULL;
    int32_t size_count = 0;
    abl_correlations correlations;
    if (abl_convert_sizes(request->edge_counts, request->n_edge_counts, &defaults, count,
                          rpc->arena, &sizes, &size_count, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    abl_overlap *overlaps = abl_arena_alloc(rpc->arena, (size_t)size_count * sizeof *overlaps);
    Ablate__V1__CompareScoresResponse *response = abl_arena_alloc(rpc->arena, sizeof *response);
    if (overlaps == NULL || response == NULL ||
        abl_similarity_overlaps(a, b, count, sizes, size_count, overlaps, &rpc->status) !=
            ABL_CODE_OK ||
        abl_similarity_correlations(a, b, count, &correlations, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    ablate__v1__compare_scores_response__init(response);
    response->spearman = correlations.spearman;
    response->pearson = correlations.pearson;
    rpc->response =
        overlaps_fill(rpc, overlaps, sizes, size_count, response) ? &response->base : NULL;
    return ABL_STEP_DONE;
}

void abl_evaluate_compare(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__CompareScoresRequest *request =
        (const Ablate__V1__CompareScoresRequest *)message;
    if (compare_open(rpc, message, request->job_id, request->other_job_id) == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_pool(rpc, compare_work, compare_done);
}

/* ---- MeasureRoc --------------------------------------------------------------------------- */

static bool points_fill(abl_rpc *rpc, const abl_point *points, size_t count,
                        Ablate__V1__MeasureRocResponse *response) {
    Ablate__V1__RocPoint *messages = abl_arena_alloc(rpc->arena, count * sizeof *messages);
    response->points = abl_arena_alloc(rpc->arena, count * sizeof(void *));
    if (messages == NULL || response->points == NULL) {
        return false;
    }
    response->n_points = count;
    for (size_t i = 0; i < count; i++) {
        ablate__v1__roc_point__init(&messages[i]);
        messages[i].false_positive_rate = points[i].x;
        messages[i].true_positive_rate = points[i].y;
        response->points[i] = &messages[i];
    }
    return true;
}

static abl_code roc_measure(abl_rpc *rpc, const compare_state *state, uint8_t *in_reference,
                            Ablate__V1__MeasureRocResponse *response) {
    const Ablate__V1__MeasureRocRequest *request =
        (const Ablate__V1__MeasureRocRequest *)state->request;
    const int64_t count = state->scores->count;
    const abl_edge_counts_options defaults = {.values = state->scores->values};
    int64_t *sizes = NULL;
    int32_t size_count = 0;
    abl_code code = abl_convert_sizes(request->edge_counts, request->n_edge_counts, &defaults,
                                      count, rpc->arena, &sizes, &size_count, &rpc->status);
    if (code == ABL_CODE_OK) {
        code = abl_convert_reference(request, state->graph, state->other, in_reference,
                                     &response->reference_edge_count, &rpc->status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_point *points = abl_arena_alloc(rpc->arena, ((size_t)size_count + 2) * sizeof *points);
    if (points == NULL) {
        return abl_fail_oom(&rpc->status);
    }
    code = abl_similarity_roc(state->scores->values, count, in_reference, sizes, size_count, points,
                              &response->area, &rpc->status);
    if (code == ABL_CODE_OK && !points_fill(rpc, points, (size_t)size_count + 2, response)) {
        code = abl_fail_oom(&rpc->status);
    }
    return code;
}

static abl_step roc_work(abl_rpc *rpc) {
    compare_state *state = rpc->state;
    Ablate__V1__MeasureRocResponse *response = abl_arena_alloc(rpc->arena, sizeof *response);
    uint8_t *in_reference = abl_calloc((size_t)state->scores->count + 1, 1);
    if (response != NULL && in_reference != NULL) {
        ablate__v1__measure_roc_response__init(response);
        if (roc_measure(rpc, state, in_reference, response) == ABL_CODE_OK) {
            rpc->response = &response->base;
        }
    }
    abl_free(in_reference);
    return ABL_STEP_DONE;
}

void abl_evaluate_roc(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__MeasureRocRequest *request = (const Ablate__V1__MeasureRocRequest *)message;
    if (request->reference_case == ABLATE__V1__MEASURE_ROC_REQUEST__REFERENCE__NOT_SET) {
        abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "REFERENCE_MISSING",
                     "neither edges nor reference_job_id is given; give one");
        return;
    }
    const bool by_job =
        request->reference_case == ABLATE__V1__MEASURE_ROC_REQUEST__REFERENCE_REFERENCE_JOB_ID;
    if (compare_open(rpc, message, request->job_id, by_job ? request->reference_job_id : NULL) ==
        NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_pool(rpc, roc_work, compare_done);
}
