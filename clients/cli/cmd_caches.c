/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_caches.c -- `ablate caches ...`: KV caches of what many prompts begin with. */
#include "clients/cli/cli.h"

#include "ablate/v1/cache.pb-c.h"

#include <time.h>

int abl_cmd_caches_create(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("CacheService", "CreateKvCache", create_kv_cache);
    int code = ABL_EXIT_OK;
    Ablate__V1__GetModelResponse *model = abl_cli_model(cli, &code);
    if (model == NULL) {
        return code;
    }
    abl_cli_prompt prefix;
    abl_cli_prompt_init(&prefix, cli->args->operands[0], cli->args->count[ABL_OPTION_BOS]);
    Ablate__V1__CreateKvCacheRequest request = ABLATE__V1__CREATE_KV_CACHE_REQUEST__INIT;
    request.model_id = model->model->model_id;
    request.prompts = &prefix.prompts;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    abl_rpc_free(&model->base);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    const Ablate__V1__CreateKvCacheResponse *made =
        (const Ablate__V1__CreateKvCacheResponse *)response;
    char bytes[24];
    abl_text_bytes(bytes, sizeof bytes, made->kv_cache->bytes);
    abl_cli_say(cli, "%s: %zu tokens, %s%s", made->kv_cache->kv_cache_id, made->kv_cache->n_tokens,
                bytes, made->created ? "" : "; it was there already");
    return ABL_EXIT_OK;
}

static void cache_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListKvCachesResponse *list = (const Ablate__V1__ListKvCachesResponse *)page;
    for (size_t i = 0; i < list->n_kv_caches; i++) {
        const Ablate__V1__KvCache *cache = list->kv_caches[i];
        char bytes[24];
        char used[24];
        abl_text_bytes(bytes, sizeof bytes, cache->bytes);
        abl_text_duration(used, sizeof used,
                          (double)((int64_t)time(NULL) * 1000 - cache->last_use_ms));
        abl_table_add(table, "%s", cache->kv_cache_id);
        abl_table_add(table, "%s", cache->model_id);
        abl_table_add(table, "%zu", cache->n_tokens);
        abl_table_add(table, "%s", bytes);
        abl_table_add(table, "%lld", (long long)cache->hits);
        abl_table_add(table, "%s ago", used);
        abl_table_add(table, "%zu", cache->n_user_ids + (size_t)cache->call_count);
    }
}

int abl_cmd_caches_list(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("CacheService", "ListKvCaches", list_kv_caches);
    static const abl_column columns[] = {
        {"id", false, false},   {"model", false, true}, {"tokens", true, false},
        {"size", true, false},  {"hits", true, false},  {"last use", true, false},
        {"users", true, false},
    };
    Ablate__V1__ListKvCachesRequest request = ABLATE__V1__LIST_KV_CACHES_REQUEST__INIT;
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *model = NULL;
    if (cli->args->given[ABL_OPTION_MODEL]) {
        int code = ABL_EXIT_OK;
        Ablate__V1__GetModelResponse *found = abl_cli_model(cli, &code);
        if (found == NULL) {
            return code;
        }
        model = &found->base;
        request.model_id = found->model->model_id;
    }
    return abl_cli_list(
        cli, &method, &request.base, columns, ABL_COUNT_OF(columns), cache_rows,
        "no KV caches; `ablate caches create PREFIX` keeps one, and --tail-divergence "
        "makes its own");
}

int abl_cmd_caches_delete(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("CacheService", "DeleteKvCache", delete_kv_cache);
    Ablate__V1__DeleteKvCacheRequest request = ABLATE__V1__DELETE_KV_CACHE_REQUEST__INIT;
    request.kv_cache_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    abl_cli_say(cli, "%s is deleted", request.kv_cache_id);
    return ABL_EXIT_OK;
}
