/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds on to a cache is read off the registry, as the refusal to delete it is. */
#include "server/convert/kv_cache.h"

#define USER_ID_COUNT_MAX 100

static bool add_users(abl_arena *arena, const abl_registry *registry,
                      const abl_resident_kv_cache *cache, Ablate__V1__KvCache *message) {
    message->user_ids = abl_arena_alloc(arena, USER_ID_COUNT_MAX * sizeof *message->user_ids);
    if (message->user_ids == NULL) {
        return false;
    }
    for (int kind = 0; kind < ABL_OBJECT_KIND_COUNT; kind++) {
        for (abl_object *user = abl_registry_first(registry, (abl_object_kind)kind);
             user != NULL && message->n_user_ids < USER_ID_COUNT_MAX; user = user->next) {
            if (abl_object_needs(user, &cache->object)) {
                message->user_ids[message->n_user_ids++] = abl_convert_text(arena, user->id);
            }
        }
    }
    return true;
}

Ablate__V1__KvCache *abl_convert_kv_cache(abl_arena *arena, const abl_registry *registry,
                                          const abl_resident_kv_cache *cache) {
    Ablate__V1__KvCache *message = abl_arena_alloc(arena, sizeof *message);
    size_t length = (size_t)abl_prefix_length(cache->prefix);
    int32_t *tokens = abl_arena_alloc(arena, length * sizeof *tokens);
    if (message == NULL || tokens == NULL) {
        return NULL;
    }
    ablate__v1__kv_cache__init(message);
    for (size_t i = 0; i < length; i++) {
        tokens[i] = abl_prefix_tokens(cache->prefix)[i];
    }
    message->kv_cache_id = abl_convert_text(arena, cache->object.id);
    message->model_id = abl_convert_text(arena, cache->object.needs[0]->id);
    message->tokens = tokens;
    message->n_tokens = length;
    message->bytes = cache->object.bytes;
    message->hits = cache->hits;
    message->created_ms = cache->created_ms;
    message->last_use_ms = cache->last_use_ms;
    message->call_count = (int32_t)cache->object.call_count;
    return add_users(arena, registry, cache, message) ? message : NULL;
}

abl_code abl_convert_kv_cache_prompt(const Ablate__V1__CreateKvCacheRequest *message,
                                     abl_arena *arena, abl_prompts *ret_prompts,
                                     abl_status *ret_status) {
    abl_prompts prompts;
    abl_code code = abl_convert_prompts("prompts", message->prompts, arena, &prompts, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (prompts.batch != 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "KV_CACHE_PROMPTS",
                        "prompts has %lld prompts; a KV cache is of one prefix, so give one: it "
                        "serves batches of any size",
                        (long long)prompts.batch);
    }
    *ret_prompts = prompts;
    return ABL_CODE_OK;
}
