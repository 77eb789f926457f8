/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward answers in one message. RunWithCache streams what was captured (tensor_stream.h), or
 * keeps it and names the handle. */
#include "ablate/v1/run.pb-c.h"
#include "core/base/mem.h"
#include "server/convert/model.h"
#include "server/service/activations.h"
#include "server/service/captures.h"
#include "server/service/run_circuits.h"
#include "server/service/run_pass.h"
#include "server/service/tensor_stream.h"

#include <string.h>

static abl_step forward_work(abl_rpc *rpc) {
    abl_pass_run(rpc, rpc->state);
    return ABL_STEP_DONE;
}

static void forward_end(abl_rpc *rpc) {
    abl_pass_end(rpc, rpc->state);
}

/* Tokens of each prompt that a KV cache covered. */
static int64_t prefix_length(const abl_pass *pass) {
    return pass->kv_cache == NULL ? 0 : abl_prefix_length(pass->kv_cache->prefix);
}

static bool add_top(abl_rpc *rpc, const abl_pass *pass, Ablate__V1__ForwardResponse *response) {
    int64_t vocab = pass->logit_shape[pass->logit_rank - 1];
    abl_top_request top = {.logits = pass->logits,
                           .rows = pass->logit_count / vocab,
                           .vocab = vocab,
                           .k = pass->request.top_k < vocab ? pass->request.top_k : (int32_t)vocab,
                           .pos_count = pass->logit_rank == 2 ? 1 : pass->logit_shape[1]};
    if (pass->out_slice != ABL_OUT_SLICE_ALL) {
        top.pos_first = pass->out_slice == ABL_OUT_SLICE_LAST ? pass->batch.seq - 1 : 1;
    }
    top.pos_first += prefix_length(pass);
    response->top = abl_convert_top(&top, rpc->arena);
    if (response->top == NULL) {
        return false;
    }
    response->n_top = (size_t)top.rows;
    const abl_tokenizer *tokenizer = abl_model_tokenizer(pass->model->model);
    for (size_t i = 0; tokenizer != NULL && i < response->n_top; i++) {
        for (size_t j = 0; j < response->top[i]->n_tokens; j++) {
            Ablate__V1__TopToken *token = response->top[i]->tokens[j];
            char *text = NULL;
            size_t bytes = 0;
            abl_status ignored;
            if (abl_tokenizer_decode(tokenizer, &token->id, 1, NULL, &text, &bytes, &ignored) ==
                ABL_CODE_OK) {
                token->text = abl_convert_text(rpc->arena, text);
                abl_free(text);
            }
        }
    }
    return true;
}

static abl_step top_work(abl_rpc *rpc) {
    abl_pass *pass = rpc->state;
    Ablate__V1__ForwardResponse *response = abl_rpc_alloc(rpc, sizeof *response);
    if (response == NULL) {
        return ABL_STEP_DONE;
    }
    ablate__v1__forward_response__init(response);
    if (!add_top(rpc, pass, response)) {
        (void)abl_fail_oom(&rpc->status);
    }
    abl_free(pass->logits); /* the response takes their place */
    pass->logits = NULL;
    rpc->response = &response->base;
    return ABL_STEP_DONE;
}

static void reply_with(abl_rpc *rpc, Ablate__V1__ForwardResponse *response) {
    abl_pass *pass = rpc->state;
    response->provenance =
        abl_convert_provenance(rpc->arena, pass->model, pass->graph, pass->hooks.of_graph);
    response->elapsed_ms = pass->elapsed_ms;
    response->prefix_length = (int32_t)prefix_length(pass);
    if (pass->kv_cache != NULL) {
        response->kv_cache_id = pass->kv_cache->object.id;
    }
    if (response->provenance == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response->base);
}

static void top_done(abl_rpc *rpc) {
    reply_with(rpc, (Ablate__V1__ForwardResponse *)rpc->response);
}

static void forward_done(abl_rpc *rpc) {
    abl_pass *pass = rpc->state;
    pass->elapsed_ms = (double)rpc->work_us / 1000.0;
    if (abl_captures_publish(rpc, &pass->hooks, pass->graph) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (pass->request.top_k > 0) { /* sorting a vocabulary is no work for the loop */
        abl_rpc_pool(rpc, top_work, top_done);
        return;
    }
    Ablate__V1__ForwardResponse response = ABLATE__V1__FORWARD_RESPONSE__INIT;
    Ablate__V1__Tensor logits = ABLATE__V1__TENSOR__INIT;
    logits.dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32;
    logits.shape = pass->logit_shape;
    logits.n_shape = pass->logit_rank;
    logits.data.data = (uint8_t *)pass->logits;
    logits.data.len = (size_t)pass->logit_count * sizeof(float);
    response.logits = &logits;
    reply_with(rpc, &response);
}

static void forward_run(abl_rpc *rpc) {
    abl_pass *pass = rpc->state;
    abl_rpc_run(rpc, pass->slot, ABL_TASK_CLASS_INTERACTIVE, forward_work, forward_done);
}

static void forward(abl_rpc *rpc, const ProtobufCMessage *message) {
    abl_pass *pass = abl_rpc_alloc(rpc, sizeof *pass);
    if (pass == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = pass;
    rpc->end_cb = forward_end;
    if (abl_convert_forward((const Ablate__V1__ForwardRequest *)message, rpc->arena, &pass->request,
                            &rpc->status) != ABL_CODE_OK ||
        !abl_pass_prepare(rpc, pass)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    pass->logit_bytes_max = pass->request.top_k > 0 ? 0 : ABL_REPLY_BYTES_MAX - 4096;
    abl_pass_start(rpc, forward_run);
}

typedef struct cache_state {
    abl_pass pass;
    abl_tensor_stream stream; /* of the activations */
    abl_chunk_source logits;  /* they come after them; data NULL: none, or all sent */
    size_t offset;
    char *activations_id; /* kept under this handle; NULL: not */
    bool summary_sent;
} cache_state;

static void cache_end(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    abl_tensor_stream_end(&state->stream);
    abl_pass_end(rpc, &state->pass);
}

static abl_step cache_work(abl_rpc *rpc) {
    abl_pass_run(rpc, &((cache_state *)rpc->state)->pass);
    return ABL_STEP_DONE;
}

static abl_step cache_fetch(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    abl_tensor_stream_fetch(&state->stream, state->pass.slot->device, &rpc->status);
    return ABL_STEP_DONE;
}

static void cache_send_summary(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    Ablate__V1__RunWithCacheResponse response = ABLATE__V1__RUN_WITH_CACHE_RESPONSE__INIT;
    response.provenance = abl_convert_provenance(rpc->arena, state->pass.model, state->pass.graph,
                                                 state->pass.hooks.of_graph);
    if (response.provenance == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    response.scalar = state->pass.result.scalar;
    if (state->activations_id != NULL) {
        response.activations_id = state->activations_id;
    }
    response.prefix_length = (int32_t)prefix_length(&state->pass);
    if (state->pass.kv_cache != NULL) {
        response.kv_cache_id = state->pass.kv_cache->object.id;
    }
    state->summary_sent = true;
    abl_rpc_send(rpc, &response.base);
}

static void cache_send(abl_rpc *rpc, Ablate__V1__TensorChunk *chunk) {
    Ablate__V1__RunWithCacheResponse response = ABLATE__V1__RUN_WITH_CACHE_RESPONSE__INIT;
    response.chunk = chunk;
    abl_rpc_send(rpc, &response.base); /* packs, and may end the rpc */
}

static void cache_next(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    Ablate__V1__TensorChunk chunk;
    if (abl_tensor_stream_next(&state->stream, &chunk)) {
        cache_send(rpc, &chunk);
    } else if (abl_tensor_stream_more(&state->stream)) {
        abl_rpc_run(rpc, state->pass.slot, ABL_TASK_CLASS_INTERACTIVE, cache_fetch, abl_rpc_pump);
    } else if (state->logits.data != NULL) {
        int64_t shape[ABL_TENSOR_RANK_MAX];
        abl_convert_chunk(&state->logits, state->offset, shape, &chunk, &state->offset);
        state->logits.data = chunk.is_last ? NULL : state->logits.data;
        cache_send(rpc, &chunk);
    } else if (!state->summary_sent) {
        cache_send_summary(rpc);
    } else {
        abl_rpc_finish_ok(rpc);
    }
}

/* What the pass captured to the stream, or to where it is kept. */
static bool cache_plan(abl_rpc *rpc, cache_state *state) {
    abl_forward_result *result = &state->pass.result;
    if (state->pass.request.keep_on_server) {
        abl_resident_activations *kept = abl_activations_keep(rpc, state->pass.model, result);
        state->activations_id = kept == NULL ? NULL : abl_convert_text(rpc->arena, kept->object.id);
        return kept != NULL;
    }
    abl_cache_entry **entries = abl_rpc_alloc(rpc, result->entry_count * sizeof *entries + 1);
    for (size_t i = 0; entries != NULL && i < result->entry_count; i++) {
        entries[i] = &result->entries[i];
    }
    state->stream =
        (abl_tensor_stream){.entries = entries, .count = result->entry_count, .release = true};
    return entries != NULL;
}

static void cache_done(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    if (abl_captures_publish(rpc, &state->pass.hooks, state->pass.graph) != ABL_CODE_OK ||
        !cache_plan(rpc, state)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->logits = (abl_chunk_source){.name = "logits",
                                       .dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32,
                                       .shape = state->pass.logit_shape,
                                       .rank = state->pass.logit_rank,
                                       .data = state->pass.logits,
                                       .bytes = (size_t)state->pass.logit_count * sizeof(float)};
    abl_rpc_stream(rpc, cache_next);
}

static void cache_run(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    abl_rpc_run(rpc, state->pass.slot, ABL_TASK_CLASS_INTERACTIVE, cache_work, cache_done);
}

static void run_with_cache(abl_rpc *rpc, const ProtobufCMessage *message) {
    cache_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = cache_end;
    if (abl_convert_run_with_cache((const Ablate__V1__RunWithCacheRequest *)message, rpc->arena,
                                   &state->pass.request, &rpc->status) != ABL_CODE_OK ||
        !abl_pass_prepare(rpc, &state->pass)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_pass_start(rpc, cache_run);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.RunService/Forward", forward, forward),
    ABL_RPC_STREAM("/ablate.v1.RunService/RunWithCache", run_with_cache, run_with_cache),
    ABL_RPC_STREAM("/ablate.v1.RunService/RunCircuits", run_circuits, abl_rpc_run_circuits),
    ABL_RPC_UNARY("/ablate.v1.RunService/AddHook", add_hook, abl_rpc_add_hook),
    ABL_RPC_UNARY("/ablate.v1.RunService/ListHooks", list_hooks, abl_rpc_list_hooks),
    ABL_RPC_UNARY("/ablate.v1.RunService/RemoveHook", remove_hook, abl_rpc_remove_hook),
    ABL_RPC_UNARY("/ablate.v1.RunService/ResetHooks", reset_hooks, abl_rpc_reset_hooks),
};

abl_service abl_run_service(abl_server *server) {
    return (abl_service){"ablate.v1.RunService", methods, ABL_COUNT_OF(methods), server};
}
