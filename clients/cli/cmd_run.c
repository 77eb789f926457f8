/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_run.c -- `ablate tokens` and `ablate forward`: what the model makes of a text. */
#include "clients/cli/cli.h"

#include <math.h>

#define TOP_DEFAULT 10

int abl_cmd_tokens(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("ModelService", "ToStrTokens", to_str_tokens);
    static const abl_column columns[] = {
        {"position", true, false}, {"id", true, false}, {"token", false, true}};
    int code = ABL_EXIT_OK;
    Ablate__V1__GetModelResponse *model = abl_cli_model(cli, &code);
    if (model == NULL) {
        return code;
    }
    Ablate__V1__ToStrTokensRequest request = ABLATE__V1__TO_STR_TOKENS_REQUEST__INIT;
    request.model_id = model->model->model_id;
    request.input_case = ABLATE__V1__TO_STR_TOKENS_REQUEST__INPUT_TEXT;
    request.text = cli->args->operands[0];
    request.bos = (Ablate__V1__BosPolicy)cli->args->count[ABL_OPTION_BOS];
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    abl_rpc_free(&model->base);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    const Ablate__V1__ToStrTokensResponse *tokens =
        (const Ablate__V1__ToStrTokensResponse *)response;
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    for (size_t i = 0; i < tokens->n_ids && i < tokens->n_str_tokens; i++) {
        abl_table_add(table, "%zu", i);
        abl_table_add(table, "%d", tokens->ids[i]);
        abl_table_add(table, "|%s|", tokens->str_tokens[i]); /* so that spaces can be seen */
    }
    return abl_cli_print_table(cli, table);
}

void abl_cli_prompt_init(abl_cli_prompt *one, char *text, int64_t bos) {
    ablate__v1__prompts__init(&one->prompts);
    ablate__v1__text_prompts__init(&one->text);
    one->items[0] = text;
    one->text.prompts = one->items;
    one->text.n_prompts = 1;
    one->text.bos = (Ablate__V1__BosPolicy)bos;
    one->prompts.input_case = ABLATE__V1__PROMPTS__INPUT_TEXT;
    one->prompts.text = &one->text;
}

static int print_top(const abl_cli *cli, const Ablate__V1__ForwardResponse *response) {
    static const abl_column columns[] = {
        {"rank", true, false},  {"token", false, true},       {"id", true, false},
        {"logit", true, false}, {"probability", true, false},
    };
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    if (response->n_top == 0) {
        return abl_cli_error(cli, "the server answered without tokens");
    }
    const Ablate__V1__TopTokens *top = response->top[0];
    for (size_t i = 0; i < top->n_tokens; i++) {
        const Ablate__V1__TopToken *token = top->tokens[i];
        abl_table_add(table, "%zu", i + 1);
        abl_table_add(table, "|%s|", token->text);
        abl_table_add(table, "%d", token->id);
        abl_table_add(table, "%.4f", (double)token->logit);
        abl_table_add(table, "%.2f%%", 100 * exp((double)token->logprob));
    }
    return abl_cli_print_table(cli, table);
}

/* --graph runs under the graph's mask; --corrupt or --ablation says what ablated edges carry. */
static int forward(abl_cli *cli, Ablate__V1__ForwardRequest *request) {
    static const abl_rpc_method method = ABL_RPC("RunService", "Forward", forward);
    const abl_args *args = cli->args;
    ABL_CLEANUP(abl_freep) char *corrupt_text = NULL;
    abl_cli_prompt clean;
    abl_cli_prompt corrupt;
    Ablate__V1__Ablation ablation = ABLATE__V1__ABLATION__INIT;
    abl_cli_prompt_init(&clean, args->operands[0], args->count[ABL_OPTION_BOS]);
    request->prompts = &clean.prompts;
    request->out_slice = ABLATE__V1__OUT_SLICE__OUT_SLICE_LAST_SEQ;
    request->top_k =
        args->given[ABL_OPTION_TOP] ? (int32_t)args->count[ABL_OPTION_TOP] : TOP_DEFAULT;
    ABL_CLEANUP(abl_freep) char *ablation_id = NULL;
    if (args->given[ABL_OPTION_ABLATION_ID]) {
        ablation_id = abl_strdup(args->text[ABL_OPTION_ABLATION_ID]);
        ablation.ablation_id = ablation_id;
        request->ablation = &ablation;
    }
    if (args->given[ABL_OPTION_CORRUPT] || args->given[ABL_OPTION_ABLATION]) {
        ablation.type = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
        request->ablation = &ablation;
    }
    if (args->given[ABL_OPTION_CORRUPT]) {
        corrupt_text = abl_strdup(args->text[ABL_OPTION_CORRUPT]);
        abl_cli_prompt_init(&corrupt, corrupt_text, args->count[ABL_OPTION_BOS]);
        ablation.prompts = &corrupt.prompts;
    }
    abl_cli_interventions set = {.count = 0};
    int code = abl_cli_read_interventions(cli, &set);
    if (code != ABL_EXIT_OK) {
        return code;
    }
    request->interventions = set.items;
    request->n_interventions = set.count;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request->base, &code);
    abl_interventions_free(&set);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    return print_top(cli, (const Ablate__V1__ForwardResponse *)response);
}

int abl_cmd_forward(abl_cli *cli) {
    const abl_args *args = cli->args;
    Ablate__V1__ForwardRequest request = ABLATE__V1__FORWARD_REQUEST__INIT;
    if (args->given[ABL_OPTION_TOP] && args->count[ABL_OPTION_TOP] == 0) {
        return abl_cli_usage(cli, "--top must be at least 1");
    }
    if (args->given[ABL_OPTION_CORRUPT] && !args->given[ABL_OPTION_GRAPH]) {
        return abl_cli_usage(cli, "--corrupt needs --graph: only a graph's mask ablates edges");
    }
    if (args->given[ABL_OPTION_GRAPH]) {
        ABL_CLEANUP(abl_freep) char *graph = abl_strdup(args->text[ABL_OPTION_GRAPH]);
        request.target_case = ABLATE__V1__FORWARD_REQUEST__TARGET_GRAPH_ID;
        request.graph_id = graph;
        return forward(cli, &request);
    }
    int code = ABL_EXIT_OK;
    Ablate__V1__GetModelResponse *model = abl_cli_model(cli, &code);
    if (model == NULL) {
        return code;
    }
    request.target_case = ABLATE__V1__FORWARD_REQUEST__TARGET_MODEL_ID;
    request.model_id = model->model->model_id;
    code = forward(cli, &request);
    abl_rpc_free(&model->base);
    return code;
}
