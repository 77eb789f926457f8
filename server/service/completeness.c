/* SPDX-License-Identifier: Apache-2.0
 *
 * MeasureCompleteness: a run of core's completeness for each size of the sweep, one after the
 * other, a pass a step. A row is sent when everything is done, as in EvaluateCircuits. */
#include "core/metric/completeness.h"

#include "ablate/v1/evaluate.pb-c.h"
#include "core/base/limits.h"
#include "server/service/evaluate_rpcs.h"
#include "server/service/sweep.h"
#include "server/service/use_scores.h"

#include <math.h>

typedef struct completeness_state {
    abl_sweep_run run; /* first: sweep.h */
    abl_values *knockouts;
    float threshold;
    abl_completeness *current; /* the executor's */
    abl_completeness_result *rows;
    int32_t done;
    int32_t sent;
} completeness_state;

static void completeness_end(abl_rpc *rpc) {
    completeness_state *state = rpc->state;
    abl_values_unref(state->knockouts);
    abl_sweep_run_end(&state->run);
}

static void completeness_work_end(abl_rpc *rpc) {
    completeness_state *state = rpc->state;
    abl_completeness_destroy(state->current);
    state->current = NULL;
}

static bool completeness_open(abl_rpc *rpc, completeness_state *state) {
    const abl_completeness_options options = {.circuits = state->run.circuits,
                                              .circuit_size =
                                                  state->run.circuits.sizes[state->done],
                                              .knockouts = state->knockouts->values,
                                              .knockout_threshold = state->threshold};
    return abl_server_admit(rpc->server, state->run.slot->device,
                            (uint64_t)abl_completeness_bytes_estimate(&options),
                            "use a smaller sweep.batch_size", &rpc->status) == ABL_CODE_OK &&
           abl_completeness_create(&options, &state->current, &rpc->status) == ABL_CODE_OK;
}

static abl_step completeness_work(abl_rpc *rpc) {
    completeness_state *state = rpc->state;
    bool finished = false;
    if ((state->current == NULL && !completeness_open(rpc, state)) ||
        abl_completeness_step(state->current, &finished, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    abl_metrics_work(rpc->server->metrics, 1, 0);
    if (!finished) {
        return ABL_STEP_AGAIN;
    }
    state->rows[state->done++] = abl_completeness_read(state->current);
    completeness_work_end(rpc);
    return state->done < state->run.circuits.circuit_count ? ABL_STEP_AGAIN : ABL_STEP_DONE;
}

static void completeness_next(abl_rpc *rpc) {
    completeness_state *state = rpc->state;
    if (state->sent == state->done) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    const abl_completeness_result *row = &state->rows[state->sent++];
    Ablate__V1__MeasureCompletenessResponse response =
        ABLATE__V1__MEASURE_COMPLETENESS_RESPONSE__INIT;
    response.done_count = state->sent;
    response.total_count = state->done;
    response.edge_count = row->circuit_size;
    response.knockout_count = row->knockout_count;
    response.kl_div = row->kl;
    response.knockout_kl_div = row->knockout_kl;
    abl_rpc_send(rpc, &response.base);
}

static void completeness_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, completeness_next);
}

static bool completeness_prepare(abl_rpc *rpc, completeness_state *state,
                                 const Ablate__V1__MeasureCompletenessRequest *request) {
    if (isnan(request->knockout_threshold)) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "THRESHOLD_INVALID",
                       "knockout_threshold is not a number; scores are compared with it");
        return false;
    }
    if (request->sweep != NULL &&
        request->sweep->patch_type == ABLATE__V1__PATCH_TYPE__PATCH_TYPE_EDGE_PATCH) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PATCH_TYPE_INVALID",
                       "sweep.patch_type is EDGE_PATCH; completeness is of circuits whose "
                       "complement is ablated, TREE_PATCH");
        return false;
    }
    if (!abl_sweep_run_prepare(rpc, &state->run, request->sweep)) {
        return false;
    }
    abl_job *job = abl_use_scores(rpc, request->knockout_job_id, state->run.graph->graph);
    if (job == NULL) {
        return false;
    }
    state->knockouts = abl_values_ref(job->scores);
    state->threshold = request->knockout_threshold;
    state->rows =
        abl_rpc_alloc(rpc, (size_t)state->run.circuits.circuit_count * sizeof *state->rows);
    return state->rows != NULL;
}

void abl_evaluate_completeness(abl_rpc *rpc, const ProtobufCMessage *message) {
    completeness_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = completeness_end;
    rpc->work_end_cb = completeness_work_end;
    if (!completeness_prepare(rpc, state,
                              (const Ablate__V1__MeasureCompletenessRequest *)message)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_sweep_run_start(rpc, completeness_work, completeness_done);
}
