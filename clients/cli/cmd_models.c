/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_models.c -- `ablate models ...`: what is resident, what could be, load, unload. */
#include "clients/cli/cli.h"

#include <string.h>

static const char *dtype_name(Ablate__V1__DType dtype, char *buffer, size_t size) {
    return abl_cli_enum_name(&ablate__v1__dtype__descriptor, (int)dtype, "DTYPE_", buffer, size);
}

static const char *processing_name(const Ablate__V1__WeightProcessing *p) {
    if (p == NULL) {
        return "hf";
    }
    int count = p->fold_ln + p->center_writing_weights + p->center_unembed + p->fold_value_biases;
    return count == 0 ? "hf" : (count == 4 ? "tl" : "mixed");
}

static void model_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListModelsResponse *list = (const Ablate__V1__ListModelsResponse *)page;
    for (size_t i = 0; i < list->n_models; i++) {
        const Ablate__V1__Model *model = list->models[i];
        char bytes[24];
        char dtype[32];
        abl_text_bytes(bytes, sizeof bytes, model->weight_bytes);
        abl_table_add(table, "%s", model->model_id);
        abl_table_add(table, "%s", model->name);
        abl_table_add(table, "%s", model->config == NULL ? "" : model->config->family);
        abl_table_add(table, "%s", processing_name(model->processing));
        abl_table_add(table, "%s", dtype_name(model->dtype, dtype, sizeof dtype));
        abl_table_add(table, "%s", model->device);
        abl_table_add(table, "%s", bytes);
        abl_table_add(table, "%d", model->graph_count);
    }
}

int abl_cmd_models_list(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("ModelService", "ListModels", list_models);
    static const abl_column columns[] = {
        {"id", false, false},      {"name", false, true},   {"family", false, false},
        {"weights", false, false}, {"dtype", false, false}, {"device", false, false},
        {"size", true, false},     {"graphs", true, false},
    };
    Ablate__V1__ListModelsRequest request = ABLATE__V1__LIST_MODELS_REQUEST__INIT;
    return abl_cli_list(cli, &method, &request.base, columns, ABL_COUNT_OF(columns), model_rows,
                        "no model is resident; `ablate models files` lists what can be loaded");
}

static void file_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListModelFilesResponse *list =
        (const Ablate__V1__ListModelFilesResponse *)page;
    for (size_t i = 0; i < list->n_models; i++) {
        char bytes[24];
        abl_text_bytes(bytes, sizeof bytes, list->models[i]->file_bytes);
        abl_table_add(table, "%s", list->models[i]->name);
        abl_table_add(table, "%s", list->models[i]->family);
        abl_table_add(table, "%s", bytes);
        abl_table_add(table, "%s", list->models[i]->problem);
    }
}

int abl_cmd_models_files(abl_cli *cli) {
    static const abl_rpc_method method =
        ABL_RPC("ModelService", "ListModelFiles", list_model_files);
    static const abl_column columns[] = {
        {"name", false, true},
        {"family", false, false},
        {"size", true, false},
        {"problem", false, true},
    };
    Ablate__V1__ListModelFilesRequest request = ABLATE__V1__LIST_MODEL_FILES_REQUEST__INIT;
    return abl_cli_list(cli, &method, &request.base, columns, ABL_COUNT_OF(columns), file_rows,
                        "the daemon's model roots hold no model; `python3 -m ablate.models fetch "
                        "smollm2-135m` gets one");
}

static void row(abl_table *table, const char *key, const char *value) {
    abl_table_add(table, "%s", key);
    abl_table_add(table, "%s", value);
}

static void number_row(abl_table *table, const char *key, int64_t value) {
    abl_table_add(table, "%s", key);
    abl_table_add(table, "%lld", (long long)value);
}

static const char *or_none(const char *text) {
    return text[0] == '\0' ? "none" : text;
}

static void config_rows(abl_table *table, const Ablate__V1__ModelConfig *config) {
    row(table, "family", config->family);
    number_row(table, "n_layers", config->n_layers);
    number_row(table, "n_heads", config->n_heads);
    number_row(table, "n_key_value_heads", config->n_key_value_heads);
    number_row(table, "d_model", config->d_model);
    number_row(table, "d_head", config->d_head);
    number_row(table, "d_mlp", config->d_mlp);
    number_row(table, "d_vocab", config->d_vocab);
    if (config->d_vocab_out != config->d_vocab) {
        number_row(table, "d_vocab_out", config->d_vocab_out);
    }
    number_row(table, "n_ctx", config->n_ctx);
    number_row(table, "n_params", config->n_params);
    number_row(table, "parameters", config->parameter_count);
    row(table, "act_fn", config->attn_only ? "none: attention only" : config->act_fn);
    row(table, "normalization", or_none(config->normalization_type));
    row(table, "positions", config->positional_embedding_type);
    if (config->rotary_dim != 0) {
        number_row(table, "rotary_dim", config->rotary_dim);
    }
    row(table, "attention", config->attention_dir);
    row(table, "blocks",
        config->parallel_attn_mlp ? "attention and MLP in parallel" : "in sequence");
}

static int show_model(const abl_cli *cli, const Ablate__V1__Model *model) {
    static const abl_column columns[] = {{"model", false, true}, {"", false, true}};
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    char bytes[24];
    char dtype[32];
    abl_text_bytes(bytes, sizeof bytes, model->weight_bytes);
    row(table, "id", model->model_id);
    row(table, "name", model->name);
    if (model->config != NULL) {
        config_rows(table, model->config);
    }
    row(table, "weights", processing_name(model->processing));
    row(table, "dtype", dtype_name(model->dtype, dtype, sizeof dtype));
    row(table, "device", model->device);
    row(table, "size", bytes);
    row(table, "sha256", model->hash);
    number_row(table, "graphs", model->graph_count);
    row(table, "tokenizer", model->has_tokenizer ? "yes" : "no");
    row(table, "BOS in front", model->default_prepend_bos ? "yes" : "no");
    abl_table_wrap(table);
    return abl_cli_print_table(cli, table);
}

int abl_cmd_models_load(abl_cli *cli) {
    int code = ABL_EXIT_OK;
    Ablate__V1__GetModelResponse *response = abl_cli_load(cli, cli->args->operands[0], &code);
    if (response == NULL) {
        return code;
    }
    if (cli->json) {
        code = abl_cli_print_json(cli, &response->base);
    } else {
        char bytes[24];
        abl_text_bytes(bytes, sizeof bytes, response->model->weight_bytes);
        abl_cli_say(cli, "%s is resident as %s: %s on %s", response->model->name,
                    response->model->model_id, bytes, response->model->device);
    }
    abl_rpc_free(&response->base);
    return code;
}

int abl_cmd_models_unload(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("ModelService", "UnloadModel", unload_model);
    Ablate__V1__UnloadModelRequest request = ABLATE__V1__UNLOAD_MODEL_REQUEST__INIT;
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_freep) char *id = abl_cli_model_id(cli, cli->args->operands[0], &code);
    if (id == NULL) {
        return code;
    }
    request.model_id = id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    char bytes[24];
    abl_text_bytes(bytes, sizeof bytes,
                   ((const Ablate__V1__UnloadModelResponse *)response)->freed_bytes);
    abl_cli_say(cli, "%s is unloaded: %s are free again", request.model_id, bytes);
    return ABL_EXIT_OK;
}

static void hook_rows(abl_table *table, const Ablate__V1__ListHookPointsResponse *list) {
    for (size_t i = 0; i < list->n_hook_points; i++) {
        const Ablate__V1__HookPoint *hook = list->hook_points[i];
        char shape[256] = "";
        for (size_t k = 0; k < hook->n_shape; k++) {
            size_t length = strlen(shape);
            (void)snprintf(shape + length, sizeof shape - length, "%s%s", k == 0 ? "" : ", ",
                           hook->shape[k]);
        }
        abl_table_add(table, "%s", hook->name);
        abl_table_add(table, "%s", hook->bridge_name);
        abl_table_add(table, "[%s]", shape);
    }
}

static int show_hooks(abl_cli *cli, char *model_id) {
    static const abl_rpc_method method =
        ABL_RPC("ModelService", "ListHookPoints", list_hook_points);
    static const abl_column columns[] = {
        {"hook point", false, true}, {"bridge name", false, true}, {"shape", false, true}};
    Ablate__V1__ListHookPointsRequest request = ABLATE__V1__LIST_HOOK_POINTS_REQUEST__INIT;
    request.model_id = model_id;
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    hook_rows(table, (const Ablate__V1__ListHookPointsResponse *)response);
    return abl_cli_print_table(cli, table);
}

static void parameter_rows(abl_table *table, const Ablate__V1__ListParametersResponse *list) {
    for (size_t i = 0; i < list->n_parameters; i++) {
        const Ablate__V1__Parameter *parameter = list->parameters[i];
        char shape[80] = "";
        for (size_t k = 0; k < parameter->n_shape; k++) {
            size_t length = strlen(shape);
            (void)snprintf(shape + length, sizeof shape - length, "%s%lld", k == 0 ? "" : ", ",
                           (long long)parameter->shape[k]);
        }
        abl_table_add(table, "%s", parameter->name);
        abl_table_add(table, "[%s]%s", shape, parameter->is_zero ? " zeros" : "");
    }
}

static int show_parameters(abl_cli *cli, char *model_id) {
    static const abl_rpc_method method = ABL_RPC("ModelService", "ListParameters", list_parameters);
    static const abl_column columns[] = {{"parameter", false, true}, {"shape", false, true}};
    Ablate__V1__ListParametersRequest request = ABLATE__V1__LIST_PARAMETERS_REQUEST__INIT;
    request.model_id = model_id;
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    parameter_rows(table, (const Ablate__V1__ListParametersResponse *)response);
    return abl_cli_print_table(cli, table);
}

int abl_cmd_models_show(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("ModelService", "GetModel", get_model);
    Ablate__V1__GetModelRequest request = ABLATE__V1__GET_MODEL_REQUEST__INIT;
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_freep) char *id = abl_cli_model_id(cli, cli->args->operands[0], &code);
    if (id == NULL) {
        return code;
    }
    request.model_id = id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL) {
        return code;
    }
    const Ablate__V1__GetModelResponse *got = (const Ablate__V1__GetModelResponse *)response;
    if (cli->args->given[ABL_OPTION_HOOKS]) {
        return show_hooks(cli, got->model->model_id);
    }
    if (cli->args->given[ABL_OPTION_PARAMETERS]) {
        return show_parameters(cli, got->model->model_id);
    }
    return cli->json ? abl_cli_print_json(cli, response) : show_model(cli, got->model);
}
