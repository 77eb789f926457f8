/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights and embeddings leave the daemon here: one tensor, brought to the host on its device's
 * executor, then sent in pieces as fast as the client takes them. */
#include "core/model/parameters.h"

#include "ablate/v1/model.pb-c.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "server/convert/prompts.h"
#include "server/service/model_rpcs.h"

#include <string.h>

/* ---- ListParameters ----------------------------------------------------------------------- */

void abl_rpc_list_parameters(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListParametersRequest *request =
        (const Ablate__V1__ListParametersRequest *)message;
    Ablate__V1__ListParametersResponse response = ABLATE__V1__LIST_PARAMETERS_RESPONSE__INIT;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_MODEL, request->model_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    const abl_model *model = ((abl_resident_model *)object)->model;
    size_t count = abl_parameter_list(model, NULL, 0);
    abl_parameter *list = abl_rpc_alloc(rpc, count * sizeof *list);
    Ablate__V1__Parameter *messages = abl_rpc_alloc(rpc, count * sizeof *messages);
    response.parameters = abl_rpc_alloc(rpc, count * sizeof *response.parameters);
    if (list == NULL || messages == NULL || response.parameters == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    (void)abl_parameter_list(model, list, count);
    for (size_t i = 0; i < count; i++) {
        ablate__v1__parameter__init(&messages[i]);
        messages[i].name = list[i].name;
        messages[i].shape = list[i].shape;
        messages[i].n_shape = (size_t)list[i].rank;
        messages[i].is_zero = list[i].zeros;
        response.parameters[i] = &messages[i];
    }
    response.n_parameters = count;
    abl_rpc_reply(rpc, &response.base);
}

/* ---- one tensor, to the host and out ------------------------------------------------------ */

typedef struct tensor_state {
    const abl_resident_model *model;
    abl_device_slot *slot;
    abl_chunk_source view; /* data NULL: nothing is left to send */
    int64_t shape[ABL_TENSOR_RANK_MAX];
    size_t offset;
    uint8_t *host;
    /* GetParameter */
    abl_parameter parameter;
    const int32_t *columns; /* of the last dimension, borrowed from the request */
    size_t column_count;    /* 0: all of it */
    /* InputToEmbed */
    abl_prompts prompts;
    abl_token_batch batch;
    bool tokens_sent;
} tensor_state;

static void tensor_end(abl_rpc *rpc) {
    abl_free(((tensor_state *)rpc->state)->host);
}

/* The state of such a call; NULL: the rpc has failed. */
static tensor_state *tensor_start(abl_rpc *rpc, const char *model_id) {
    tensor_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object = state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_MODEL, model_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return NULL;
    }
    state->model = (abl_resident_model *)object;
    state->slot = abl_server_slot(rpc->server, abl_model_device(state->model->model));
    rpc->state = state;
    rpc->end_cb = tensor_end;
    return state;
}

/* On the executor: copies the tensor to the host, as what is to be sent. */
static void tensor_fetch(abl_rpc *rpc, abl_scope *scope, const char *name,
                         const abl_tensor *tensor) {
    tensor_state *state = rpc->state;
    if (abl_scope_status(scope, &rpc->status) != ABL_CODE_OK) {
        return;
    }
    uint64_t bytes = abl_tensor_bytes(tensor);
    if (abl_server_admit(rpc->server, ABL_HOST, bytes, "ask for less", &rpc->status) !=
        ABL_CODE_OK) {
        return;
    }
    state->host = abl_malloc((size_t)bytes);
    if (state->host == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return;
    }
    abl_tensor_to_host(scope, tensor, state->host, (size_t)bytes);
    if (abl_scope_status(scope, &rpc->status) != ABL_CODE_OK) {
        return;
    }
    state->view = (abl_chunk_source){.name = name,
                                     .dtype = abl_convert_dtype(abl_tensor_dtype(tensor)),
                                     .shape = state->shape,
                                     .rank = (size_t)abl_tensor_rank(tensor),
                                     .data = state->host,
                                     .bytes = (size_t)bytes};
    for (int i = 0; i < abl_tensor_rank(tensor); i++) {
        state->shape[i] = abl_tensor_size(tensor, i);
    }
}

/* The next piece; the caller wraps and sends it before anything else. */
static void tensor_take(tensor_state *state, int64_t *shape, Ablate__V1__TensorChunk *ret_chunk) {
    abl_convert_chunk(&state->view, state->offset, shape, ret_chunk, &state->offset);
    if (ret_chunk->is_last) {
        state->view.data = NULL;
    }
}

/* ---- GetParameter ------------------------------------------------------------------------- */

static abl_step parameter_work(abl_rpc *rpc) {
    tensor_state *state = rpc->state;
    abl_scope *scope = abl_scope_create(state->slot->device);
    if (scope == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return ABL_STEP_DONE;
    }
    const abl_tensor *tensor = abl_parameter_tensor(scope, state->model->model, &state->parameter);
    if (state->column_count > 0) {
        const int64_t count = (int64_t)state->column_count;
        const abl_tensor *columns =
            abl_tensor_from_host(scope, ABL_DTYPE_I32, 1, &count, state->columns);
        tensor = abl_tensor_index_select(scope, tensor, state->parameter.rank - 1, columns);
    }
    tensor_fetch(rpc, scope, state->parameter.name, tensor);
    abl_scope_destroy(scope);
    return ABL_STEP_DONE;
}

static void parameter_next(abl_rpc *rpc) {
    tensor_state *state = rpc->state;
    if (state->view.data == NULL) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    Ablate__V1__GetParameterResponse response = ABLATE__V1__GET_PARAMETER_RESPONSE__INIT;
    Ablate__V1__TensorChunk chunk;
    int64_t shape[ABL_TENSOR_RANK_MAX];
    tensor_take(state, shape, &chunk);
    response.chunk = &chunk;
    abl_rpc_send(rpc, &response.base);
}

static void parameter_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, parameter_next);
}

/* The columns asked for are there. */
static abl_code parameter_columns(tensor_state *state,
                                  const Ablate__V1__GetParameterRequest *request,
                                  abl_status *ret_status) {
    const int64_t width = state->parameter.shape[state->parameter.rank - 1];
    if (request->n_columns > ABL_PARAMETER_COLUMN_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PARAMETER_COLUMNS",
                        "columns: %zu of them, at most %d in one call", request->n_columns,
                        ABL_PARAMETER_COLUMN_COUNT_MAX);
    }
    for (size_t i = 0; i < request->n_columns; i++) {
        if (request->columns[i] < 0 || request->columns[i] >= width) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PARAMETER_COLUMNS",
                            "columns: %d is not from 0 to %lld, the columns of '%s'",
                            request->columns[i], (long long)(width - 1), request->name);
        }
    }
    state->columns = request->columns;
    state->column_count = request->n_columns;
    return ABL_CODE_OK;
}

void abl_rpc_get_parameter(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetParameterRequest *request =
        (const Ablate__V1__GetParameterRequest *)message;
    tensor_state *state = tensor_start(rpc, request->model_id);
    if (state == NULL) {
        return;
    }
    if (abl_convert_name("name", request->name, ABL_NAME_BYTES_MAX - 1, &rpc->status) !=
            ABL_CODE_OK ||
        abl_parameter_find(state->model->model, request->name, &state->parameter, &rpc->status) !=
            ABL_CODE_OK ||
        parameter_columns(state, request, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_INTERACTIVE, parameter_work, parameter_done);
}

/* ---- InputToEmbed ------------------------------------------------------------------------- */

static abl_step embed_work(abl_rpc *rpc) {
    tensor_state *state = rpc->state;
    const abl_model *model = state->model->model;
    if (abl_prompts_tokens("prompts", &state->prompts, model, state->model->bos_default, rpc->arena,
                           &state->batch, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    const abl_forward_options options = {.model = model,
                                         .tokens = state->batch.tokens,
                                         .batch = state->batch.batch,
                                         .seq = state->batch.seq,
                                         .stop_at_layer = 0};
    abl_forward_result result;
    if (abl_server_admit(rpc->server, state->slot->device, abl_forward_bytes(&options),
                         "use a smaller batch", &rpc->status) != ABL_CODE_OK ||
        abl_forward(&options, &result, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    abl_scope *scope = abl_scope_create(state->slot->device);
    if (scope == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else {
        tensor_fetch(rpc, scope, "residual", result.residual);
    }
    abl_scope_destroy(scope);
    abl_forward_result_finish(&result);
    return ABL_STEP_DONE;
}

static void embed_next(abl_rpc *rpc) {
    tensor_state *state = rpc->state;
    Ablate__V1__InputToEmbedResponse response = ABLATE__V1__INPUT_TO_EMBED_RESPONSE__INIT;
    if (state->view.data != NULL) {
        Ablate__V1__TensorChunk chunk;
        int64_t shape[ABL_TENSOR_RANK_MAX];
        tensor_take(state, shape, &chunk);
        response.chunk = &chunk;
        abl_rpc_send(rpc, &response.base);
        return;
    }
    if (state->tokens_sent) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    int64_t shape[] = {state->batch.batch, state->batch.seq};
    Ablate__V1__Tensor tokens = ABLATE__V1__TENSOR__INIT;
    tokens.dtype = ABLATE__V1__DTYPE__DTYPE_INT32;
    tokens.shape = shape;
    tokens.n_shape = 2;
    tokens.data.len = (size_t)(shape[0] * shape[1]) * sizeof(int32_t);
    tokens.data.data = abl_rpc_scratch(rpc, tokens.data.len);
    if (tokens.data.data == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    memcpy(tokens.data.data, state->batch.tokens, tokens.data.len);
    response.tokens = &tokens;
    state->tokens_sent = true;
    abl_rpc_send(rpc, &response.base);
}

static void embed_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, embed_next);
}

void abl_rpc_input_to_embed(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__InputToEmbedRequest *request =
        (const Ablate__V1__InputToEmbedRequest *)message;
    tensor_state *state = tensor_start(rpc, request->model_id);
    if (state == NULL) {
        return;
    }
    if (abl_convert_prompts("prompts", request->prompts, rpc->arena, &state->prompts,
                            &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_INTERACTIVE, embed_work, embed_done);
}
