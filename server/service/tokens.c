/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizing a megabyte takes a while, so all of it happens on the pool; a tokenizer is immutable
 * and needs no device.
 *
 * A proto string holds valid UTF-8 and, in protobuf-c, no NUL. So a token's text shows what is
 * neither as U+FFFD; token_bytes has the exact bytes. */
#include "ablate/v1/model.pb-c.h"
#include "core/base/mem.h"
#include "server/convert/prompts.h"
#include "server/service/model_rpcs.h"

#include <stdlib.h>
#include <string.h>

typedef struct tokens_state {
    const abl_resident_model *model;
    const ProtobufCMessage *request;
    ProtobufCMessage *response;
} tokens_state;

static void tokens_done(abl_rpc *rpc) {
    abl_rpc_reply(rpc, ((tokens_state *)rpc->state)->response);
}

static void tokens_start(abl_rpc *rpc, const char *model_id, const ProtobufCMessage *request,
                         abl_step (*work_cb)(abl_rpc *rpc)) {
    tokens_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *model = state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_MODEL, model_id);
    if (model == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->model = (abl_resident_model *)model;
    state->request = request;
    rpc->state = state;
    abl_rpc_pool(rpc, work_cb, tokens_done);
}

/* The ids of one text in the rpc's arena. */
static abl_code encode(abl_rpc *rpc, const char *text, bool prepend, int32_t **ret_ids,
                       size_t *ret_count) {
    const tokens_state *state = rpc->state;
    int32_t *ids = NULL;
    size_t count = 0;
    abl_code code =
        abl_convert_encode(state->model->model, text, prepend, &ids, &count, &rpc->status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    int32_t *copy = abl_rpc_alloc(rpc, count * sizeof *copy);
    if (copy != NULL) {
        memcpy(copy, ids, count * sizeof *copy);
        *ret_ids = copy;
        *ret_count = count;
    }
    abl_free(ids);
    return copy == NULL ? rpc->status.code : ABL_CODE_OK;
}

static abl_step to_tokens_work(abl_rpc *rpc) {
    tokens_state *state = rpc->state;
    const Ablate__V1__ToTokensRequest *request =
        (const Ablate__V1__ToTokensRequest *)state->request;
    Ablate__V1__ToTokensResponse *response = abl_rpc_alloc(rpc, sizeof *response);
    bool prepend = false;
    if (request->n_texts == 0) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PROMPTS_MISSING",
                       "texts is empty; give at least one text");
    }
    if (response == NULL || rpc->status.code != ABL_CODE_OK ||
        abl_convert_bos(state->model->model, request->bos, state->model->bos_default, &prepend,
                        &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    ablate__v1__to_tokens_response__init(response);
    response->tokens = abl_rpc_alloc(rpc, request->n_texts * sizeof *response->tokens);
    Ablate__V1__TokenIds *lists = abl_rpc_alloc(rpc, request->n_texts * sizeof *lists);
    if (response->tokens == NULL || lists == NULL) {
        return ABL_STEP_DONE;
    }
    for (size_t i = 0; i < request->n_texts; i++) {
        ablate__v1__token_ids__init(&lists[i]);
        if (encode(rpc, request->texts[i], prepend, &lists[i].ids, &lists[i].n_ids) !=
            ABL_CODE_OK) {
            return ABL_STEP_DONE;
        }
        response->tokens[response->n_tokens++] = &lists[i];
    }
    state->response = &response->base;
    return ABL_STEP_DONE;
}

void abl_rpc_to_tokens(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ToTokensRequest *request = (const Ablate__V1__ToTokensRequest *)message;
    tokens_start(rpc, request->model_id, message, to_tokens_work);
}

/* Ids to text that a proto string can hold. */
static char *decode(abl_rpc *rpc, const int32_t *ids, size_t count) {
    const tokens_state *state = rpc->state;
    char *text = NULL;
    size_t bytes = 0;
    abl_code code = abl_tokenizer_decode(abl_model_tokenizer(state->model->model), ids, count, NULL,
                                         &text, &bytes, &rpc->status);
    if (code != ABL_CODE_OK) {
        return NULL;
    }
    size_t nul_count = 0;
    for (size_t i = 0; i < bytes; i++) {
        nul_count += text[i] == '\0' ? 1 : 0;
    }
    char *copy = abl_rpc_alloc(rpc, bytes + 2 * nul_count + 1);
    char *to = copy;
    for (size_t i = 0; copy != NULL && i < bytes; i++) {
        if (text[i] == '\0') {
            memcpy(to, "\xef\xbf\xbd", 3);
            to += 3;
        } else {
            *to++ = text[i];
        }
    }
    abl_free(text);
    return copy;
}

static bool check_ids(abl_rpc *rpc, const Ablate__V1__TokenIds *tokens) {
    const tokens_state *state = rpc->state;
    const abl_tokenizer *tokenizer = abl_model_tokenizer(state->model->model);
    if (tokenizer == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "TOKENIZER_MISSING",
                       "this model has no tokenizer.json, so its tokens have no text");
        return false;
    }
    for (size_t i = 0; i < tokens->n_ids; i++) {
        size_t bytes = 0;
        if (abl_tokenizer_token_text(tokenizer, tokens->ids[i], &bytes) == NULL) {
            (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE",
                           "tokens.ids[%zu] is %d, which is no token; ids are 0 to %d", i,
                           tokens->ids[i], abl_tokenizer_id_end(tokenizer) - 1);
            return false;
        }
    }
    return true;
}

static bool describe_tokens(abl_rpc *rpc, Ablate__V1__ToStrTokensResponse *response) {
    const tokens_state *state = rpc->state;
    const abl_tokenizer *tokenizer = abl_model_tokenizer(state->model->model);
    size_t count = response->n_ids;
    response->str_tokens = abl_rpc_alloc(rpc, count * sizeof *response->str_tokens);
    response->token_bytes = abl_rpc_alloc(rpc, count * sizeof *response->token_bytes);
    if (response->str_tokens == NULL || response->token_bytes == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        const char *exact = abl_tokenizer_token_text(tokenizer, response->ids[i], &bytes);
        memcpy(&response->token_bytes[i].data, &exact, sizeof exact); /* packing reads only */
        response->token_bytes[i].len = bytes;
        response->str_tokens[i] = decode(rpc, &response->ids[i], 1);
        if (response->str_tokens[i] == NULL) {
            return false;
        }
    }
    response->n_str_tokens = count;
    response->n_token_bytes = count;
    return true;
}

static abl_step to_str_tokens_work(abl_rpc *rpc) {
    tokens_state *state = rpc->state;
    const Ablate__V1__ToStrTokensRequest *request =
        (const Ablate__V1__ToStrTokensRequest *)state->request;
    Ablate__V1__ToStrTokensResponse *response = abl_rpc_alloc(rpc, sizeof *response);
    if (response == NULL) {
        return ABL_STEP_DONE;
    }
    ablate__v1__to_str_tokens_response__init(response);
    bool prepend = false;
    switch ((int)request->input_case) {
    case ABLATE__V1__TO_STR_TOKENS_REQUEST__INPUT_TEXT:
        if (abl_convert_bos(state->model->model, request->bos, state->model->bos_default, &prepend,
                            &rpc->status) != ABL_CODE_OK ||
            encode(rpc, request->text, prepend, &response->ids, &response->n_ids) != ABL_CODE_OK) {
            return ABL_STEP_DONE;
        }
        break;
    case ABLATE__V1__TO_STR_TOKENS_REQUEST__INPUT_TOKENS:
        if (!check_ids(rpc, request->tokens)) {
            return ABL_STEP_DONE;
        }
        response->ids = request->tokens->ids;
        response->n_ids = request->tokens->n_ids;
        break;
    default:
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PROMPTS_MISSING",
                       "give text or tokens");
        return ABL_STEP_DONE;
    }
    if (describe_tokens(rpc, response)) {
        state->response = &response->base;
    }
    return ABL_STEP_DONE;
}

void abl_rpc_to_str_tokens(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ToStrTokensRequest *request = (const Ablate__V1__ToStrTokensRequest *)message;
    tokens_start(rpc, request->model_id, message, to_str_tokens_work);
}

static abl_step to_string_work(abl_rpc *rpc) {
    tokens_state *state = rpc->state;
    const Ablate__V1__ToStringRequest *request =
        (const Ablate__V1__ToStringRequest *)state->request;
    Ablate__V1__ToStringResponse *response = abl_rpc_alloc(rpc, sizeof *response);
    static const Ablate__V1__TokenIds none = ABLATE__V1__TOKEN_IDS__INIT;
    const Ablate__V1__TokenIds *tokens = request->tokens == NULL ? &none : request->tokens;
    if (response == NULL || !check_ids(rpc, tokens)) {
        return ABL_STEP_DONE;
    }
    ablate__v1__to_string_response__init(response);
    response->text = decode(rpc, tokens->ids, tokens->n_ids);
    if (response->text != NULL) {
        state->response = &response->base;
    }
    return ABL_STEP_DONE;
}

void abl_rpc_to_string(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ToStringRequest *request = (const Ablate__V1__ToStringRequest *)message;
    tokens_start(rpc, request->model_id, message, to_string_work);
}
