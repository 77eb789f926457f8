/* SPDX-License-Identifier: Apache-2.0
 *
 * EvaluateCircuits. A row is a mean over all prompts, and core runs batch by batch, so no row is
 * final before the last batch: until then progress is sent, and then the rows, smallest first. They
 * are copied when the sweep ends, because the sweep ends on the device's thread. */
#include "ablate/v1/evaluate.pb-c.h"
#include "core/base/mem.h"
#include "core/metric/area.h"
#include "core/metric/sweep.h"
#include "server/service/evaluate_rpcs.h"
#include "server/service/sweep.h"

typedef struct evaluate_state {
    abl_sweep_run run; /* first: sweep.h */
    abl_sweep_metrics metrics;
    abl_sweep *sweep; /* the executor's */
    abl_sweep_row *rows;
    int32_t count;
    int32_t sent;
} evaluate_state;

static void sweep_drop(void *sweep) {
    abl_sweep_destroy(sweep);
}

static void evaluate_end(abl_rpc *rpc) {
    evaluate_state *state = rpc->state;
    abl_server_drop(state->run.slot, sweep_drop, state->sweep);
    abl_free(state->rows);
    abl_sweep_run_end(&state->run);
}

static void evaluate_work_end(abl_rpc *rpc) {
    evaluate_state *state = rpc->state;
    if (!state->run.progress.paused) {
        abl_sweep_destroy(state->sweep);
        state->sweep = NULL;
    }
}

static bool evaluate_open(abl_rpc *rpc, evaluate_state *state) {
    abl_sweep_options options = {.circuits = state->run.circuits,
                                 .metric_count = state->metrics.count};
    for (int32_t i = 0; i < state->metrics.count; i++) {
        options.metrics[i] = state->metrics.metrics[i];
    }
    return abl_sweep_run_admit(rpc, &state->run, 0) &&
           abl_sweep_create(&options, &state->sweep, &rpc->status) == ABL_CODE_OK;
}

static void copy_rows(abl_rpc *rpc, evaluate_state *state) {
    int32_t count = abl_sweep_row_count(state->sweep);
    state->rows = abl_calloc((size_t)count, sizeof *state->rows);
    if (state->rows == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return;
    }
    state->count = count;
    for (int32_t i = 0; i < count; i++) {
        state->rows[i] = abl_sweep_row_at(state->sweep, i);
    }
}

static abl_step evaluate_work(abl_rpc *rpc) {
    evaluate_state *state = rpc->state;
    if (state->sweep == NULL && !evaluate_open(rpc, state)) {
        return ABL_STEP_DONE;
    }
    abl_sweep_progress progress;
    state->run.progress.paused = false;
    if (abl_sweep_step(state->sweep, &progress, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    abl_metrics_work(rpc->server->metrics, 1, 0);
    if (progress.finished) {
        copy_rows(rpc, state);
    }
    return abl_progress_step(&state->run.progress, progress.steps_done, progress.steps_total);
}

static void area_fill(const evaluate_state *state, int32_t metric, abl_point *points,
                      Ablate__V1__MetricArea *area) {
    for (int32_t i = 0; i < state->count; i++) {
        points[i] = (abl_point){(double)state->rows[i].edge_count, state->rows[i].values[metric]};
    }
    const abl_axes linear = {.log_x = false};
    ablate__v1__metric_area__init(area);
    area->metric = state->metrics.names[metric];
    area->auc = abl_area_auc(points, state->count, abl_metric_axes(state->metrics.metrics[metric]));
    area->auc_linear = abl_area_auc(points, state->count, linear);
    area->trapezoid = abl_area_trapezoid(points, state->count);
    abl_area_faithfulness(points, state->count,
                          (double)abl_graph_edge_count(state->run.graph->graph), &area->cpr,
                          &area->cmd);
}

/* The areas of all metrics, in the memory of the message; false: no memory. */
static bool areas_add(abl_rpc *rpc, const evaluate_state *state,
                      Ablate__V1__EvaluateCircuitsResponse *response) {
    size_t count = (size_t)state->metrics.count;
    abl_point *points = abl_rpc_scratch(rpc, (size_t)state->count * sizeof *points);
    Ablate__V1__MetricArea *areas = abl_rpc_scratch(rpc, count * sizeof *areas);
    response->areas = abl_rpc_scratch(rpc, count * sizeof *response->areas);
    if (points == NULL || areas == NULL || response->areas == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        area_fill(state, (int32_t)i, points, &areas[i]);
        response->areas[i] = &areas[i];
    }
    response->n_areas = count;
    return true;
}

static void evaluate_next(abl_rpc *rpc) {
    evaluate_state *state = rpc->state;
    Ablate__V1__EvaluateCircuitsResponse response = ABLATE__V1__EVALUATE_CIRCUITS_RESPONSE__INIT;
    if (!abl_sweep_run_next(rpc, state->sent == state->count, &response.progress, &response.base)) {
        return;
    }
    const abl_sweep_row *row = &state->rows[state->sent++];
    Ablate__V1__MetricValue values[ABL_METRIC_COUNT];
    Ablate__V1__MetricValue *list[ABL_METRIC_COUNT];
    for (int32_t i = 0; i < state->metrics.count; i++) {
        ablate__v1__metric_value__init(&values[i]);
        values[i].metric = state->metrics.names[i];
        values[i].value = row->values[i];
        values[i].std = row->stds[i];
        list[i] = &values[i];
    }
    response.done_count = state->sent;
    response.total_count = state->count;
    response.edge_count = row->edge_count;
    response.values = list;
    response.n_values = (size_t)state->metrics.count;
    if (state->sent == state->count && !areas_add(rpc, state, &response)) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_send(rpc, &response.base);
}

static void evaluate_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, evaluate_next);
}

static void evaluate_circuits(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__EvaluateCircuitsRequest *request =
        (const Ablate__V1__EvaluateCircuitsRequest *)message;
    evaluate_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = evaluate_end;
    rpc->work_end_cb = evaluate_work_end;
    if (abl_convert_metrics(request->metrics, request->n_metrics, &state->metrics, &rpc->status) !=
            ABL_CODE_OK ||
        !abl_sweep_run_prepare(rpc, &state->run, request->sweep)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_sweep_run_start(rpc, evaluate_work, evaluate_done);
}

static const abl_method methods[] = {
    ABL_RPC_STREAM("/ablate.v1.EvaluateService/EvaluateCircuits", evaluate_circuits,
                   evaluate_circuits),
    ABL_RPC_STREAM("/ablate.v1.EvaluateService/MeasureCompleteness", measure_completeness,
                   abl_evaluate_completeness),
    ABL_RPC_UNARY("/ablate.v1.EvaluateService/MeasureRoc", measure_roc, abl_evaluate_roc),
    ABL_RPC_UNARY("/ablate.v1.EvaluateService/CompareScores", compare_scores, abl_evaluate_compare),
};

abl_service abl_evaluate_service(abl_server *server) {
    return (abl_service){"ablate.v1.EvaluateService", methods, ABL_COUNT_OF(methods), server};
}
