/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward answers in one message. RunWithCache streams: the captured tensors stay on the device and
 * come to the host one at a time, each when the one before has been sent, so a slow client holds
 * one tensor of host memory and the loop never copies from a device. */
#include "ablate/v1/run.pb-c.h"
#include "core/base/mem.h"
#include "server/convert/model.h"
#include "server/service/run_circuits.h"
#include "server/service/run_pass.h"

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
    response->provenance = abl_convert_provenance(rpc->arena, pass->model, pass->graph);
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
    size_t entry;      /* the next to fetch */
    bool logits_taken; /* they come after the entries */
    bool summary_sent;
    abl_chunk_source view; /* what is being sent; data NULL: nothing */
    int64_t shape[ABL_TENSOR_RANK_MAX];
    size_t offset;
    uint8_t *host; /* view.data, if it was fetched */
} cache_state;

static void cache_end(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    abl_free(state->host);
    abl_pass_end(rpc, &state->pass);
}

static abl_step cache_work(abl_rpc *rpc) {
    abl_pass_run(rpc, &((cache_state *)rpc->state)->pass);
    return ABL_STEP_DONE;
}

/* Brings the next tensor to the host, and lets the device's go. */
static abl_step cache_fetch(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    abl_cache_entry *entry = &state->pass.result.entries[state->entry];
    uint64_t bytes = abl_tensor_bytes(entry->tensor);
    state->host = abl_malloc((size_t)bytes);
    abl_scope *scope = abl_scope_create(state->pass.slot->device);
    if (state->host == NULL || scope == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else {
        abl_tensor_to_host(scope, entry->tensor, state->host, (size_t)bytes);
        (void)!abl_scope_status(scope, &rpc->status);
    }
    abl_scope_destroy(scope);
    state->view = (abl_chunk_source){.name = entry->name,
                                     .dtype = abl_convert_dtype(abl_tensor_dtype(entry->tensor)),
                                     .shape = state->shape,
                                     .rank = (size_t)abl_tensor_rank(entry->tensor),
                                     .data = state->host,
                                     .bytes = (size_t)bytes};
    for (size_t i = 0; i < state->view.rank; i++) {
        state->shape[i] = abl_tensor_size(entry->tensor, (int)i);
    }
    abl_tensor_release(entry->tensor);
    entry->tensor = NULL;
    state->entry++;
    state->offset = 0;
    return ABL_STEP_DONE;
}

static void cache_send_summary(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    Ablate__V1__RunWithCacheResponse response = ABLATE__V1__RUN_WITH_CACHE_RESPONSE__INIT;
    response.provenance = abl_convert_provenance(rpc->arena, state->pass.model, state->pass.graph);
    if (response.provenance == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    state->summary_sent = true;
    abl_rpc_send(rpc, &response.base);
}

static void cache_next(abl_rpc *rpc) {
    cache_state *state = rpc->state;
    if (state->view.data != NULL) {
        Ablate__V1__RunWithCacheResponse response = ABLATE__V1__RUN_WITH_CACHE_RESPONSE__INIT;
        Ablate__V1__TensorChunk chunk;
        int64_t shape[ABL_TENSOR_RANK_MAX];
        abl_convert_chunk(&state->view, state->offset, shape, &chunk, &state->offset);
        response.chunk = &chunk;
        bool last = chunk.is_last != 0;
        uint8_t *host = last ? state->host : NULL;
        if (last) {
            state->view.data = NULL;
            state->host = NULL;
        }
        abl_rpc_send(rpc, &response.base); /* packs, and may end the rpc */
        abl_free(host);
        return;
    }
    if (state->entry < state->pass.result.entry_count) {
        abl_rpc_run(rpc, state->pass.slot, ABL_TASK_CLASS_INTERACTIVE, cache_fetch, abl_rpc_pump);
        return;
    }
    if (!state->logits_taken && state->pass.logits != NULL) {
        state->logits_taken = true;
        state->offset = 0;
        state->view = (abl_chunk_source){.name = "logits",
                                         .dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32,
                                         .shape = state->pass.logit_shape,
                                         .rank = state->pass.logit_rank,
                                         .data = state->pass.logits,
                                         .bytes = (size_t)state->pass.logit_count * sizeof(float)};
        cache_next(rpc);
        return;
    }
    if (!state->summary_sent) {
        cache_send_summary(rpc);
        return;
    }
    abl_rpc_finish_ok(rpc);
}

static void cache_done(abl_rpc *rpc) {
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
    {"/ablate.v1.RunService/Forward", false, false, false, abl_rpc_start},
    {"/ablate.v1.RunService/RunWithCache", false, true, false, abl_rpc_start},
    {"/ablate.v1.RunService/RunCircuits", false, true, false, abl_rpc_start},
};
static const abl_rpc_handler handlers[] = {
    {&ablate__v1__forward_request__descriptor, forward},
    {&ablate__v1__run_with_cache_request__descriptor, run_with_cache},
    {&ablate__v1__run_circuits_request__descriptor, abl_rpc_run_circuits},
};

abl_service abl_run_service(abl_server *server) {
    static abl_rpc_table table = {NULL, methods, handlers, ABL_COUNT_OF(methods)};
    table.server = server;
    return (abl_service){"ablate.v1.RunService", methods, ABL_COUNT_OF(methods), &table};
}
