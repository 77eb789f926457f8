/* SPDX-License-Identifier: Apache-2.0
 *
 * A mask is replaced, never written: the new one is built on the pool from the one that is set now,
 * and takes its place on the loop. If another call has set one meanwhile, the work is done again
 * from that one, so two calls that each set some edges both keep what they set. */
#include "server/convert/mask.h"
#include "ablate/v1/mask.pb-c.h"
#include "core/base/limits.h"
#include "server/service/captures.h"
#include "server/service/module_stream.h"
#include "server/service/rpc.h"
#include "server/service/run_pass.h"
#include "server/service/use_scores.h"

#include <string.h>

/* ---- replacing ---------------------------------------------------------------------------- */

typedef struct mask_change {
    abl_step (*build_cb)(abl_rpc *rpc); /* on the pool: built, from current */
    void (*reply_cb)(abl_rpc *rpc);     /* on the loop: built is set */
    abl_resident_graph *graph;
    abl_values *current;
    abl_values *built;
    const Ablate__V1__SetPatchMaskRequest *request;
    abl_values *scores; /* of the request's circuit's job, or NULL */
    int32_t batch_size; /* SetMaskBatchSize */
} mask_change;

static void change_end(abl_rpc *rpc) {
    mask_change *state = rpc->state;
    abl_values_unref(state->scores);
    abl_values_unref(state->current);
    abl_values_unref(state->built);
}

static void change_done(abl_rpc *rpc);

static void change_start(abl_rpc *rpc) {
    mask_change *state = rpc->state;
    state->current = abl_values_ref(state->graph->mask);
    abl_rpc_pool(rpc, state->build_cb, change_done);
}

/* The built mask takes its place, unless somebody was faster: then nothing is left of it. */
static void change_done(abl_rpc *rpc) {
    mask_change *state = rpc->state;
    if (state->current != state->graph->mask) {
        abl_values_unref(state->built);
        abl_values_unref(state->current);
        state->built = NULL;
        state->current = NULL;
        change_start(rpc);
        return;
    }
    abl_resident_graph_set_mask(state->graph, abl_values_ref(state->built));
    state->reply_cb(rpc);
}

/* ---- setting ------------------------------------------------------------------------------ */

static abl_step set_build(abl_rpc *rpc) {
    mask_change *state = rpc->state;
    state->built = abl_values_create(state->current->count);
    if (state->built == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return ABL_STEP_DONE;
    }
    state->built->batch = state->current->batch;
    (void)!abl_convert_mask(state->request, state->graph->graph, state->current, state->scores,
                            state->built, &rpc->status);
    return ABL_STEP_DONE;
}

static void set_reply(abl_rpc *rpc) {
    const mask_change *state = rpc->state;
    Ablate__V1__SetPatchMaskResponse response = ABLATE__V1__SET_PATCH_MASK_RESPONSE__INIT;
    response.masked_edge_count = state->built->nonzero_count;
    abl_rpc_reply(rpc, &response.base);
}

static void set_patch_mask(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__SetPatchMaskRequest *request =
        (const Ablate__V1__SetPatchMaskRequest *)message;
    mask_change *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL || abl_convert_mask_check(request, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->build_cb = set_build;
    state->reply_cb = set_reply;
    state->request = request;
    state->graph = (abl_resident_graph *)object;
    rpc->state = state;
    rpc->end_cb = change_end;
    if (request->mask_case == ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK_CIRCUIT) {
        const abl_job *job = abl_use_scores(rpc, request->circuit->job_id, state->graph->graph);
        if (job == NULL) {
            abl_rpc_fail_status(rpc);
            return;
        }
        state->scores = abl_values_ref(job->scores);
    }
    change_start(rpc);
}

static void reset_patch_mask(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ResetPatchMaskRequest *request =
        (const Ablate__V1__ResetPatchMaskRequest *)message;
    Ablate__V1__ResetPatchMaskResponse response = ABLATE__V1__RESET_PATCH_MASK_RESPONSE__INIT;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_resident_graph *graph = (abl_resident_graph *)object;
    abl_values *zeros = abl_values_create(graph->mask->count);
    if (zeros == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    zeros->batch = graph->mask->batch;
    abl_resident_graph_set_mask(graph, zeros);
    abl_rpc_reply(rpc, &response.base);
}

/* ---- rows for prompts, and what the mask goes through ------------------------------------- */

static void set_mask_function(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__SetMaskFunctionRequest *request =
        (const Ablate__V1__SetMaskFunctionRequest *)message;
    Ablate__V1__SetMaskFunctionResponse response = ABLATE__V1__SET_MASK_FUNCTION_RESPONSE__INIT;
    abl_mask_function function = ABL_MASK_NONE;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL ||
        abl_convert_mask_function_checked(request, &function, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_resident_graph *graph = (abl_resident_graph *)object;
    graph->mask_function = function;
    graph->mask_dropout = request->dropout_p;
    abl_rpc_reply(rpc, &response.base);
}

/* Every row is the first one of the mask that there was. */
static abl_step resize_build(abl_rpc *rpc) {
    mask_change *state = rpc->state;
    const int64_t edges = abl_graph_edge_count(state->graph->graph);
    const int64_t rows = state->batch_size == 0 ? 1 : state->batch_size;
    if (abl_server_admit(rpc->server, ABL_HOST, (uint64_t)(rows * edges) * sizeof(float),
                         "use a smaller batch_size", &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    state->built = abl_values_create(rows * edges);
    if (state->built == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return ABL_STEP_DONE;
    }
    state->built->batch = state->batch_size;
    for (int64_t row = 0; row < rows; row++) {
        memcpy(state->built->values + row * edges, state->current->values,
               (size_t)edges * sizeof(float));
    }
    for (int64_t i = 0; i < rows * edges; i++) {
        state->built->nonzero_count += state->built->values[i] != 0.0F;
    }
    return ABL_STEP_DONE;
}

static void resize_reply(abl_rpc *rpc) {
    const mask_change *state = rpc->state;
    Ablate__V1__SetMaskBatchSizeResponse response = ABLATE__V1__SET_MASK_BATCH_SIZE_RESPONSE__INIT;
    response.masked_edge_count = state->built->nonzero_count;
    abl_rpc_reply(rpc, &response.base);
}

static void set_mask_batch_size(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__SetMaskBatchSizeRequest *request =
        (const Ablate__V1__SetMaskBatchSizeRequest *)message;
    mask_change *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (request->batch_size < 0 || request->batch_size > ABL_BATCH_MAX) {
        abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "MASK_BATCH_INVALID",
                     "batch_size is %d; it must be 0 (one mask for all prompts) to %d",
                     request->batch_size, ABL_BATCH_MAX);
        return;
    }
    state->build_cb = resize_build;
    state->reply_cb = resize_reply;
    state->graph = (abl_resident_graph *)object;
    state->batch_size = request->batch_size;
    rpc->state = state;
    rpc->end_cb = change_end;
    change_start(rpc);
}

/* ---- reading ------------------------------------------------------------------------------ */

static void get_end(abl_rpc *rpc) {
    abl_module_stream_finish(rpc->state);
}

static void get_next(abl_rpc *rpc) {
    Ablate__V1__GetPatchMaskResponse response = ABLATE__V1__GET_PATCH_MASK_RESPONSE__INIT;
    abl_module_stream_send(rpc, rpc->state, &response.chunk, &response.base);
}

static void get_patch_mask(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetPatchMaskRequest *request =
        (const Ablate__V1__GetPatchMaskRequest *)message;
    abl_module_stream *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_resident_graph *graph = (abl_resident_graph *)object;
    abl_module_stream_init(state, graph->graph, graph->mask); /* as it is when the call begins */
    rpc->state = state;
    rpc->end_cb = get_end;
    abl_rpc_stream(rpc, get_next);
}

/* ---- gradients ---------------------------------------------------------------------------- */

typedef struct backward_state {
    abl_pass pass; /* first: run_pass.c's */
    abl_module_stream stream;
} backward_state;

static void backward_end(abl_rpc *rpc) {
    backward_state *state = rpc->state;
    abl_module_stream_finish(&state->stream);
    abl_pass_end(rpc, &state->pass);
}

static abl_step backward_work(abl_rpc *rpc) {
    abl_pass_run(rpc, rpc->state);
    return ABL_STEP_DONE;
}

static void backward_next(abl_rpc *rpc) {
    backward_state *state = rpc->state;
    Ablate__V1__MaskBackwardResponse response = ABLATE__V1__MASK_BACKWARD_RESPONSE__INIT;
    abl_module_stream_send(rpc, &state->stream, &response.chunk, &response.base);
}

static void backward_done(abl_rpc *rpc) {
    backward_state *state = rpc->state;
    if (abl_captures_publish(rpc, &state->pass.hooks, state->pass.graph) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_module_stream_init(&state->stream, state->pass.graph->graph, state->pass.mask_gradient);
    abl_rpc_stream(rpc, backward_next);
}

static void backward_start(abl_rpc *rpc) {
    backward_state *state = rpc->state;
    abl_rpc_run(rpc, state->pass.slot, ABL_TASK_CLASS_INTERACTIVE, backward_work, backward_done);
}

static void mask_backward(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__MaskBackwardRequest *request =
        (const Ablate__V1__MaskBackwardRequest *)message;
    backward_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = backward_end;
    if (abl_convert_mask_backward(request, rpc->arena, &state->pass.request, &rpc->status) !=
            ABL_CODE_OK ||
        !abl_pass_prepare(rpc, &state->pass)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (state->pass.out_slice != ABL_OUT_SLICE_LAST) {
        abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "SLICE_INVALID",
                     "forward.out_slice must be OUT_SLICE_LAST_SEQ, whose logits the gradient is "
                     "at");
        return;
    }
    state->pass.logits_gradient = request->logits_gradient;
    abl_pass_start(rpc, backward_start);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.MaskService/SetPatchMask", set_patch_mask, set_patch_mask),
    ABL_RPC_STREAM("/ablate.v1.MaskService/GetPatchMask", get_patch_mask, get_patch_mask),
    ABL_RPC_UNARY("/ablate.v1.MaskService/ResetPatchMask", reset_patch_mask, reset_patch_mask),
    ABL_RPC_UNARY("/ablate.v1.MaskService/SetMaskFunction", set_mask_function, set_mask_function),
    ABL_RPC_UNARY("/ablate.v1.MaskService/SetMaskBatchSize", set_mask_batch_size,
                  set_mask_batch_size),
    ABL_RPC_STREAM("/ablate.v1.MaskService/MaskBackward", mask_backward, mask_backward),
};

abl_service abl_mask_service(abl_server *server) {
    return (abl_service){"ablate.v1.MaskService", methods, ABL_COUNT_OF(methods), server};
}
