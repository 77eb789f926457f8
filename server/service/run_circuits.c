/* SPDX-License-Identifier: Apache-2.0
 *
 * RunCircuits answers circuit by circuit, and core runs batch by batch, so that a batch's ablations
 * are computed once for all circuits. The logits of all circuits are therefore collected in host
 * memory first, which admission counts, and each circuit's are let go when they have been sent. */
#include "server/service/run_circuits.h"

#include "ablate/v1/run.pb-c.h"
#include "core/base/mem.h"
#include "server/service/sweep.h"

#include <string.h>

typedef struct circuit_logits {
    int64_t edge_count; /* actual: ties included */
    float *logits;      /* (prompts, d_vocab_out) */
} circuit_logits;

typedef struct circuits_state {
    abl_sweep_run run;      /* first: sweep.h */
    abl_circuits *circuits; /* the executor's */
    circuit_logits *results;
    int32_t count;
    int32_t filled; /* circuit of the next step */
    int64_t steps_done;
    int64_t shape[2];
    size_t bytes; /* of one circuit's logits */
    int32_t sent; /* circuits */
    size_t offset;
} circuits_state;

static void circuits_drop(void *circuits) {
    abl_circuits_destroy(circuits);
}

static void circuits_end(abl_rpc *rpc) {
    circuits_state *state = rpc->state;
    abl_server_drop(state->run.slot, circuits_drop, state->circuits);
    for (int32_t i = 0; state->results != NULL && i < state->count; i++) {
        abl_free(state->results[i].logits);
    }
    abl_free(state->results);
    abl_sweep_run_end(&state->run);
}

static void circuits_work_end(abl_rpc *rpc) {
    circuits_state *state = rpc->state;
    if (!state->run.progress.paused) {
        abl_circuits_destroy(state->circuits);
        state->circuits = NULL;
    }
}

static bool circuits_open(abl_rpc *rpc, circuits_state *state) {
    if (abl_circuits_create(&state->run.circuits, &state->circuits, &rpc->status) != ABL_CODE_OK) {
        return false;
    }
    int32_t count = abl_circuits_count(state->circuits);
    state->shape[0] = state->run.circuits.batches.count;
    state->shape[1] = abl_model_get_config(state->run.model->model)->d_vocab_out;
    /* prompts, vocabulary and circuits have limits whose product fits 64 bits */
    state->bytes = (size_t)(state->shape[0] * state->shape[1]) * sizeof(float);
    if (!abl_sweep_run_admit(rpc, &state->run, (uint64_t)state->bytes * (uint64_t)count)) {
        return false;
    }
    state->results = abl_calloc((size_t)count, sizeof *state->results);
    if (state->results == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return false;
    }
    state->count = count;
    for (int32_t i = 0; i < count; i++) {
        state->results[i].logits = abl_malloc(state->bytes);
        if (state->results[i].logits == NULL) {
            (void)abl_fail_oom(&rpc->status);
            return false;
        }
    }
    return true;
}

static abl_step circuits_work(abl_rpc *rpc) {
    circuits_state *state = rpc->state;
    if (state->circuits == NULL && !circuits_open(rpc, state)) {
        return ABL_STEP_DONE;
    }
    abl_circuits_result result;
    bool finished = false;
    state->run.progress.paused = false;
    if (abl_circuits_step(state->circuits, &result, &finished, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    if (result.circuit >= 0) { /* not a pass for a mean over the dataset */
        circuit_logits *into = &state->results[state->filled];
        into->edge_count = result.edge_count;
        memcpy(into->logits + (int64_t)result.batch.first * result.vocab_size, result.logits,
               (size_t)result.logit_count * sizeof(float));
        state->filled = (state->filled + 1) % state->count; /* circuits.c: batches outside */
    }
    abl_metrics_work(rpc->server->metrics, 1, 0);
    state->steps_done++;
    return abl_progress_step(&state->run.progress, state->steps_done,
                             abl_circuits_step_count(state->circuits));
}

static void circuits_next(abl_rpc *rpc) {
    circuits_state *state = rpc->state;
    Ablate__V1__RunCircuitsResponse response = ABLATE__V1__RUN_CIRCUITS_RESPONSE__INIT;
    if (!abl_sweep_run_next(rpc, state->sent == state->count, &response.progress, &response.base)) {
        return;
    }
    circuit_logits *from = &state->results[state->sent];
    const abl_chunk_source source = {.name = "logits",
                                     .dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32,
                                     .shape = state->shape,
                                     .rank = ABL_COUNT_OF(state->shape),
                                     .data = from->logits,
                                     .bytes = state->bytes};
    Ablate__V1__TensorChunk chunk;
    int64_t shape[ABL_COUNT_OF(state->shape)];
    abl_convert_chunk(&source, state->offset, shape, &chunk, &state->offset);
    response.edge_count = from->edge_count;
    response.chunk = &chunk;
    float *finished = NULL;
    if (chunk.is_last) {
        finished = from->logits;
        from->logits = NULL;
        state->sent++;
        state->offset = 0;
    }
    abl_rpc_send(rpc, &response.base); /* packs, and may end the rpc */
    abl_free(finished);
}

static void circuits_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, circuits_next);
}

void abl_rpc_run_circuits(abl_rpc *rpc, const ProtobufCMessage *message) {
    circuits_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = circuits_end;
    rpc->work_end_cb = circuits_work_end;
    if (!abl_sweep_run_prepare(rpc, &state->run,
                               ((const Ablate__V1__RunCircuitsRequest *)message)->sweep)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_sweep_run_start(rpc, circuits_work, circuits_done);
}
