/* SPDX-License-Identifier: Apache-2.0
 *
 * A mask is replaced, never written: the new one is built on the pool from the one that is set now,
 * and takes its place on the loop. If another call has set one meanwhile, the work is done again
 * from that one, so two calls that each set some edges both keep what they set. */
#include "server/convert/mask.h"
#include "ablate/v1/mask.pb-c.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "server/runtime/job.h"
#include "server/service/rpc.h"

#include <string.h>

/* ---- setting ------------------------------------------------------------------------------ */

typedef struct set_state {
    const Ablate__V1__SetPatchMaskRequest *request;
    abl_resident_graph *graph;
    abl_values *scores; /* of the circuit's job, or NULL */
    abl_values *current;
    abl_values *built;
} set_state;

static void set_end(abl_rpc *rpc) {
    set_state *state = rpc->state;
    abl_values_unref(state->scores);
    abl_values_unref(state->current);
    abl_values_unref(state->built);
}

static bool same_topology(const abl_graph_options *a, const abl_graph_options *b) {
    return a->layer_count == b->layer_count && a->head_count == b->head_count &&
           a->kv_head_count == b->kv_head_count && a->parallel_attn_mlp == b->parallel_attn_mlp &&
           a->attn_only == b->attn_only && a->simple == b->simple &&
           a->joined_qkv == b->joined_qkv && a->seq_len == b->seq_len && a->gqa == b->gqa;
}

/* The scores that a circuit is cut from; false: the status says why. */
static bool find_scores(abl_rpc *rpc, set_state *state) {
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_JOB, state->request->circuit->job_id);
    if (object == NULL) {
        return false;
    }
    const abl_job *job = (const abl_job *)object;
    if (!abl_job_ended(job) || job->scores == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "SCORES_NOT_READY",
                       "job %s is %s and has %s; wait for it to end, or stop it", object->id,
                       abl_job_state_name(job->state),
                       job->scores == NULL ? "no scores" : "scores that change");
        return false;
    }
    if (!same_topology(abl_graph_options_of(job->graph->graph),
                       abl_graph_options_of(state->graph->graph))) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "GRAPH_MISMATCH",
                       "the scores of job %s are over a graph with other options than %s",
                       object->id, state->graph->object.id);
        return false;
    }
    state->scores = abl_values_ref(job->scores);
    return true;
}

static abl_step set_work(abl_rpc *rpc) {
    set_state *state = rpc->state;
    state->built = abl_values_create(state->current->count);
    if (state->built == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return ABL_STEP_DONE;
    }
    (void)!abl_convert_mask(state->request, state->graph->graph, state->current, state->scores,
                            state->built, &rpc->status);
    return ABL_STEP_DONE;
}

static void set_start(abl_rpc *rpc);

static void set_done(abl_rpc *rpc) {
    set_state *state = rpc->state;
    if (state->current != state->graph->mask) { /* somebody was faster */
        abl_values_unref(state->built);
        abl_values_unref(state->current);
        state->built = NULL;
        set_start(rpc);
        return;
    }
    Ablate__V1__SetPatchMaskResponse response = ABLATE__V1__SET_PATCH_MASK_RESPONSE__INIT;
    response.masked_edge_count = state->built->nonzero_count;
    abl_resident_graph_set_mask(state->graph, abl_values_ref(state->built));
    abl_rpc_reply(rpc, &response.base);
}

static void set_start(abl_rpc *rpc) {
    set_state *state = rpc->state;
    state->current = abl_values_ref(state->graph->mask);
    abl_rpc_pool(rpc, set_work, set_done);
}

static void set_patch_mask(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__SetPatchMaskRequest *request =
        (const Ablate__V1__SetPatchMaskRequest *)message;
    set_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL || abl_convert_mask_check(request, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->request = request;
    state->graph = (abl_resident_graph *)object;
    rpc->state = state;
    rpc->end_cb = set_end;
    if (request->mask_case == ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK_CIRCUIT &&
        !find_scores(rpc, state)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    set_start(rpc);
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
    abl_resident_graph_set_mask(graph, zeros);
    abl_rpc_reply(rpc, &response.base);
}

/* ---- reading ------------------------------------------------------------------------------ */

typedef struct get_state {
    const abl_graph *graph;
    abl_values *mask; /* as it was when the call began */
    int32_t module;   /* being sent */
    float *tensor;    /* its values; NULL: not fetched */
    abl_scores_shape shape;
    abl_chunk_source source;
    size_t offset;
} get_state;

static void get_end(abl_rpc *rpc) {
    get_state *state = rpc->state;
    abl_values_unref(state->mask);
    abl_free(state->tensor);
}

static bool get_fetch(get_state *state) {
    state->shape = abl_scores_module_shape(state->graph, state->module);
    size_t bytes = (size_t)state->shape.count * sizeof(float);
    state->tensor = abl_malloc(bytes + 1); /* never of 0 bytes */
    if (state->tensor == NULL) {
        return false;
    }
    abl_scores_read_module(state->graph, state->mask->values, state->module, state->tensor);
    state->source = (abl_chunk_source){
        .name = abl_graph_module_at(state->graph, state->module)->name,
        .dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32,
        .shape = state->shape.dims,
        .rank = (size_t)state->shape.rank,
        .data = state->tensor,
        .bytes = bytes,
    };
    state->offset = 0;
    return true;
}

static void get_next(abl_rpc *rpc) {
    get_state *state = rpc->state;
    if (state->module == abl_graph_module_count(state->graph)) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    if (state->tensor == NULL && !get_fetch(state)) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    Ablate__V1__GetPatchMaskResponse response = ABLATE__V1__GET_PATCH_MASK_RESPONSE__INIT;
    Ablate__V1__TensorChunk chunk;
    int64_t shape[ABL_TENSOR_RANK_MAX];
    abl_convert_chunk(&state->source, state->offset, shape, &chunk, &state->offset);
    response.chunk = &chunk;
    float *sent = NULL;
    if (chunk.is_last) {
        sent = state->tensor;
        state->tensor = NULL;
        state->module++;
    }
    abl_rpc_send(rpc, &response.base); /* packs, and may end the rpc */
    abl_free(sent);
}

static void get_patch_mask(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetPatchMaskRequest *request =
        (const Ablate__V1__GetPatchMaskRequest *)message;
    get_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_resident_graph *graph = (abl_resident_graph *)object;
    state->graph = graph->graph;
    state->mask = abl_values_ref(graph->mask);
    rpc->state = state;
    rpc->end_cb = get_end;
    abl_rpc_stream(rpc, get_next);
}

static const abl_method methods[] = {
    {"/ablate.v1.MaskService/SetPatchMask", false, false, false, abl_rpc_start},
    {"/ablate.v1.MaskService/GetPatchMask", false, true, false, abl_rpc_start},
    {"/ablate.v1.MaskService/ResetPatchMask", false, false, false, abl_rpc_start},
};
static const abl_rpc_handler handlers[] = {
    {&ablate__v1__set_patch_mask_request__descriptor, set_patch_mask},
    {&ablate__v1__get_patch_mask_request__descriptor, get_patch_mask},
    {&ablate__v1__reset_patch_mask_request__descriptor, reset_patch_mask},
};

abl_service abl_mask_service(abl_server *server) {
    static abl_rpc_table table = {NULL, methods, handlers, ABL_COUNT_OF(methods)};
    table.server = server;
    return (abl_service){"ablate.v1.MaskService", methods, ABL_COUNT_OF(methods), &table};
}
