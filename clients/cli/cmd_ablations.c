/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_ablations.c -- `ablate ablations ...`: what ablated edges carry, kept on the server. */
#include "ablate/v1/cache.pb-c.h"
#include "clients/cli/cli.h"

typedef struct creation {
    abl_cli *cli;
    abl_progress progress;
    int code;
} creation;

static const char *type_name(int type, char *buffer, size_t size) {
    return abl_cli_enum_name(&ablate__v1__ablation_type__descriptor, type, "ABLATION_TYPE_", buffer,
                             size);
}

static bool on_progress(const ProtobufCMessage *message, void *user_data) {
    creation *making = user_data;
    const Ablate__V1__CreateAblationResponse *part =
        (const Ablate__V1__CreateAblationResponse *)message;
    if (making->cli->json) {
        making->code = abl_cli_put_json(making->cli, abl_json_of(message), true);
        return making->code == ABL_EXIT_OK;
    }
    if (part->ablation == NULL) {
        char tail[64];
        (void)snprintf(tail, sizeof tail, "%d of %d passes", part->done_count, part->total_count);
        abl_progress_show(&making->progress,
                          part->total_count > 0 ? (double)part->done_count / part->total_count : -1,
                          "ablation", tail, false);
        return true;
    }
    abl_progress_finish(&making->progress);
    char type[48];
    char bytes[24];
    abl_text_bytes(bytes, sizeof bytes, part->ablation->bytes);
    abl_cli_say(making->cli, "%s of %d prompts, %d tokens, %s, as %s",
                type_name((int)part->ablation->type, type, sizeof type),
                part->ablation->prompt_count, part->ablation->seq_len, bytes,
                part->ablation->ablation_id);
    return true;
}

static int create(abl_cli *cli, Ablate__V1__CreateAblationRequest *request) {
    static const abl_rpc_method method = ABL_RPC("CacheService", "CreateAblation", create_ablation);
    creation making = {.cli = cli};
    abl_rpc_error error = {0};
    abl_progress_init(&making.progress, stderr, cli->json);
    abl_code code = abl_rpc_stream(cli->rpc, &method, &request->base, on_progress, &making, &error);
    abl_progress_finish(&making.progress);
    return code != ABL_CODE_OK ? abl_cli_failed(cli, &error) : making.code;
}

int abl_cmd_ablations_create(abl_cli *cli) {
    const abl_args *args = cli->args;
    if (!args->given[ABL_OPTION_DATASET]) {
        return abl_cli_usage(cli, "ablations create needs --dataset: a file in AutoCircuit's JSON, "
                                  "or the id of an uploaded one");
    }
    int code = ABL_EXIT_ERROR;
    Ablate__V1__GetModelResponse *model = abl_cli_model(cli, &code);
    if (model == NULL) {
        return code;
    }
    ABL_CLEANUP(abl_freep) char *dataset_id = abl_cli_dataset(cli, &code);
    if (dataset_id != NULL) {
        Ablate__V1__CreateAblationRequest request = ABLATE__V1__CREATE_ABLATION_REQUEST__INIT;
        request.model_id = model->model->model_id;
        request.source_case = ABLATE__V1__CREATE_ABLATION_REQUEST__SOURCE_DATASET_ID;
        request.dataset_id = dataset_id;
        /* The choices of --ablation, from 1, are AblationType's numbers. */
        request.type = args->given[ABL_OPTION_ABLATION]
                           ? (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION]
                           : ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_TOKENWISE_MEAN_CORRUPT;
        request.from_clean = args->given[ABL_OPTION_CLEAN];
        request.batch_size = (int32_t)args->count[ABL_OPTION_BATCH_SIZE];
        request.prompt_count = (int32_t)args->count[ABL_OPTION_PROMPTS];
        request.bos = (Ablate__V1__BosPolicy)args->count[ABL_OPTION_BOS];
        request.tail_divergence = args->given[ABL_OPTION_TAIL];
        code = create(cli, &request);
    }
    abl_rpc_free(&model->base);
    return code;
}

static void ablation_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListAblationsResponse *list = (const Ablate__V1__ListAblationsResponse *)page;
    for (size_t i = 0; i < list->n_ablations; i++) {
        const Ablate__V1__ResidentAblation *ablation = list->ablations[i];
        char type[48];
        char bytes[24];
        abl_text_bytes(bytes, sizeof bytes, ablation->bytes);
        abl_table_add(table, "%s", ablation->ablation_id);
        abl_table_add(table, "%s", type_name((int)ablation->type, type, sizeof type));
        abl_table_add(table, "%s", ablation->provenance->model);
        abl_table_add(table, "%d", ablation->prompt_count);
        abl_table_add(table, "%d", ablation->seq_len);
        abl_table_add(table, "%s", bytes);
        abl_table_add(table, "%zu", ablation->n_job_ids);
    }
}

int abl_cmd_ablations_list(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("CacheService", "ListAblations", list_ablations);
    static const abl_column columns[] = {{"id", false, false},    {"type", false, true},
                                         {"model", false, true},  {"prompts", true, false},
                                         {"tokens", true, false}, {"size", true, false},
                                         {"jobs", true, false}};
    Ablate__V1__ListAblationsRequest request = ABLATE__V1__LIST_ABLATIONS_REQUEST__INIT;
    return abl_cli_list(cli, &method, &request.base, columns, ABL_COUNT_OF(columns), ablation_rows,
                        "no resident ablations; `ablate ablations create` makes one");
}

int abl_cmd_ablations_delete(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("CacheService", "DeleteAblation", delete_ablation);
    Ablate__V1__DeleteAblationRequest request = ABLATE__V1__DELETE_ABLATION_REQUEST__INIT;
    request.ablation_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    abl_cli_say(cli, "%s is deleted", request.ablation_id);
    return ABL_EXIT_OK;
}
