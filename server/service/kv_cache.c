/* SPDX-License-Identifier: Apache-2.0
 *
 * A cache is what its tokens and its model say, so looking for one is comparing tokens along the
 * shelf: some hundred comparisons that mostly end at the first token, beside a pass over a model.
 *
 * Bytes are admitted on the loop before a cache is made, and again when it is kept: two that are
 * made at the same time are both admitted, and the later one finds out. If the same cache was kept
 * meanwhile, ours stays unlisted: whoever made it holds the last reference. Eviction takes caches
 * that no graph, job or call holds on to, the one used longest ago first. */
#include "server/service/kv_cache.h"

#include "core/base/mem.h"
#include "server/convert/kv_cache.h"
#include "server/convert/prompts.h"
#include "server/runtime/log.h"
#include "server/service/listing.h"

#include <stdio.h>
#include <string.h>

/* ---- the shelf ---------------------------------------------------------------------------- */

static abl_resident_kv_cache *first_cache(const abl_server *server) {
    return (abl_resident_kv_cache *)abl_registry_first(server->registry, ABL_OBJECT_KV_CACHE);
}

static abl_resident_kv_cache *next_cache(const abl_resident_kv_cache *cache) {
    return (abl_resident_kv_cache *)cache->object.next;
}

/* Whether each of the rows begins with the cache's tokens. */
static bool is_shared(const abl_resident_kv_cache *cache, const int32_t *tokens, int64_t rows,
                      int64_t seq) {
    int64_t length = abl_prefix_length(cache->prefix);
    bool shared = length <= seq;
    for (int64_t row = 0; shared && row < rows; row++) {
        shared = memcmp(abl_prefix_tokens(cache->prefix), tokens + row * seq,
                        (size_t)length * sizeof *tokens) == 0;
    }
    return shared;
}

static abl_resident_kv_cache *find_exact(const abl_server *server, const abl_resident_model *model,
                                         const int32_t *tokens, int64_t length) {
    for (abl_resident_kv_cache *cache = first_cache(server); cache != NULL;
         cache = next_cache(cache)) {
        if (cache->object.needs[0] == &model->object &&
            abl_prefix_length(cache->prefix) == length && is_shared(cache, tokens, 1, length)) {
            return cache;
        }
    }
    return NULL;
}

abl_resident_kv_cache *abl_kv_cache_longest(abl_server *server, const abl_resident_model *model,
                                            const int32_t *tokens, int64_t rows, int64_t seq,
                                            int64_t length_max) {
    abl_resident_kv_cache *longest = NULL;
    for (abl_resident_kv_cache *cache = first_cache(server); cache != NULL;
         cache = next_cache(cache)) {
        int64_t length = abl_prefix_length(cache->prefix);
        if (cache->object.needs[0] == &model->object && length < seq && length <= length_max &&
            (longest == NULL || length > abl_prefix_length(longest->prefix)) &&
            is_shared(cache, tokens, rows, seq)) {
            longest = cache;
        }
    }
    return longest;
}

static void used_now(abl_server *server, abl_resident_kv_cache *cache) {
    cache->last_use = ++server->kv_cache_uses;
    cache->last_use_ms = abl_time_ms();
}

abl_resident_kv_cache *abl_kv_cache_named(abl_rpc *rpc, const abl_resident_model *model,
                                          const char *kv_cache_id) {
    abl_object *cache = abl_rpc_use(rpc, ABL_OBJECT_KV_CACHE, kv_cache_id);
    if (cache != NULL && !abl_object_needs(cache, &model->object)) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "PREFIX_MODEL_MISMATCH",
                       "kv_cache_id: %s is of %s, and this is about %s; a KV cache fits the model "
                       "that computed it alone",
                       cache->id, cache->needs[0]->id, model->object.id);
        return NULL;
    }
    return (abl_resident_kv_cache *)cache;
}

void abl_kv_cache_hit(abl_server *server, abl_resident_kv_cache *cache) {
    cache->hits++;
    used_now(server, cache);
}

/* Makes room for so many bytes more. */
static abl_code make_room(abl_server *server, int64_t length, int64_t bytes,
                          abl_status *ret_status) {
    const int64_t budget = server->options.kv_cache_bytes;
    while (bytes <= budget &&
           abl_registry_bytes(server->registry, ABL_OBJECT_KV_CACHE) + bytes > budget) {
        abl_resident_kv_cache *oldest = NULL;
        for (abl_resident_kv_cache *cache = first_cache(server); cache != NULL;
             cache = next_cache(cache)) {
            bool older = oldest == NULL || cache->last_use < oldest->last_use;
            oldest = older && cache->object.hold_count == 0 ? cache : oldest;
        }
        abl_status ignored;
        if (oldest == NULL) {
            break;
        }
        abl_log(ABL_LOG_INFO, "kv_cache_evicted", "id=%s bytes=%lld hits=%lld", oldest->object.id,
                (long long)oldest->object.bytes, (long long)oldest->hits);
        (void)!abl_registry_remove(server->registry, &oldest->object, &ignored);
        server->kv_cache_evictions++;
    }
    int64_t held = abl_registry_bytes(server->registry, ABL_OBJECT_KV_CACHE);
    if (bytes <= budget && held + bytes <= budget) {
        return ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "KV_CACHE_BUDGET",
                    "the KV cache of these %lld tokens takes %.2f MiB; all may take %.2f MiB "
                    "(ablated --kv-cache-mib), and %.2f MiB are in use by graphs, jobs and calls",
                    (long long)length, (double)bytes / (1 << 20), (double)budget / (1 << 20),
                    bytes > budget ? 0.0 : (double)held / (1 << 20));
}

void abl_kv_cache_drop(abl_server *server, const abl_object *model) {
    size_t idle = 0;
    for (abl_resident_kv_cache *cache = first_cache(server); cache != NULL;
         cache = next_cache(cache)) {
        bool unused = !abl_registry_in_use(server->registry, &cache->object);
        idle += cache->object.needs[0] == model && unused ? 1 : 0;
    }
    if (model->call_count > 0 || abl_registry_user_count(server->registry, model) > idle) {
        return; /* others keep the model: it will not be unloaded */
    }
    for (abl_resident_kv_cache *cache = first_cache(server); cache != NULL;) {
        abl_resident_kv_cache *next = next_cache(cache);
        abl_status ignored;
        if (cache->object.needs[0] == model) {
            (void)!abl_registry_remove(server->registry, &cache->object, &ignored);
        }
        cache = next;
    }
}

/* Lists a cache of `made`, which it takes over; unlisted if another was quicker. NULL: the rpc's
 * status says why. Pinned to the rpc. */
static abl_resident_kv_cache *keep(abl_rpc *rpc, abl_resident_model *model, abl_prefix **made) {
    abl_server *server = rpc->server;
    int64_t length = abl_prefix_length(*made);
    bool there = find_exact(server, model, abl_prefix_tokens(*made), length) != NULL;
    if (!there && make_room(server, length, abl_prefix_bytes(*made), &rpc->status) != ABL_CODE_OK) {
        return NULL;
    }
    abl_resident_kv_cache *cache = abl_resident_kv_cache_create(*made);
    if (cache == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return NULL;
    }
    *made = NULL;
    cache->created_ms = abl_time_ms();
    used_now(server, cache);
    abl_rpc_pin(rpc, &cache->object);
    abl_object *needs[] = {&model->object};
    abl_code code = there ? ABL_CODE_OK
                          : abl_registry_add(server->registry, &cache->object, needs,
                                             ABL_COUNT_OF(needs), &rpc->status);
    if (there || code != ABL_CODE_OK) {
        abl_object_unref(&cache->object); /* the pin holds it */
    } else {
        abl_log(ABL_LOG_INFO, "kv_cache_created", "id=%s model=%s tokens=%lld bytes=%lld",
                cache->object.id, model->object.id, (long long)length,
                (long long)cache->object.bytes);
    }
    return code == ABL_CODE_OK ? cache : NULL;
}

/* ---- in front of a dataset ---------------------------------------------------------------- */

abl_code abl_kv_use_init(abl_kv_use *use, abl_resident_model *model,
                         const abl_resident_graph *graph, bool tail_divergence,
                         abl_status *ret_status) {
    bool named = graph != NULL && abl_resident_graph_kv_cache(graph, 0) != NULL;
    if (named && tail_divergence) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAIL_DIVERGENCE",
                        "tail_divergence is set, and graph %s names KV caches, which say the "
                        "prefix already; leave it unset, or use a graph without kv_cache_ids",
                        graph->object.id);
    }
    *use = (abl_kv_use){
        .model = model, .graph = named ? graph : NULL, .tail_divergence = tail_divergence};
    return ABL_CODE_OK;
}

bool abl_kv_use_name(abl_rpc *rpc, abl_kv_use *use, const char *kv_cache_id) {
    use->named = abl_kv_cache_named(rpc, use->model, kv_cache_id);
    return use->named != NULL;
}

static abl_batch all_prompts(const abl_dataset *dataset) {
    int32_t count = abl_dataset_prompt_count(dataset);
    const abl_batches all = {.dataset = dataset, .count = count, .batch_size = count};
    return abl_batches_at(&all, 0);
}

/* Whether the dataset's prompts, clean and corrupt, begin with the prefix. */
static abl_code check_dataset(const abl_prefix *prefix, const abl_dataset *dataset,
                              abl_status *ret_status) {
    abl_batch all = all_prompts(dataset);
    abl_code code = abl_prefix_check_prompts(prefix, "clean prompts", all.clean, all.size,
                                             all.seq_len, ret_status);
    return code != ABL_CODE_OK ? code
                               : abl_prefix_check_prompts(prefix, "corrupt prompts", all.corrupt,
                                                          all.size, all.seq_len, ret_status);
}

/* The longest of the graph's caches that fits, or why the first does not. */
static abl_code choose_of_graph(abl_kv_use *use, const abl_dataset *dataset,
                                abl_status *ret_status) {
    abl_batch all = all_prompts(dataset);
    for (size_t i = 0; abl_resident_graph_kv_cache(use->graph, i) != NULL; i++) {
        abl_resident_kv_cache *cache = abl_resident_graph_kv_cache(use->graph, i);
        int64_t length = abl_prefix_length(cache->prefix);
        if (length > use->length && length < all.seq_len &&
            is_shared(cache, all.clean, all.size, all.seq_len) &&
            is_shared(cache, all.corrupt, all.size, all.seq_len)) {
            use->cache = cache;
            use->length = length;
        }
    }
    if (use->cache != NULL) {
        return ABL_CODE_OK;
    }
    return check_dataset(abl_resident_graph_kv_cache(use->graph, 0)->prefix, dataset, ret_status);
}

abl_code abl_kv_use_choose(abl_kv_use *use, const abl_dataset *dataset, abl_status *ret_status) {
    if (use->named != NULL) {
        use->cache = use->named;
        use->length = abl_prefix_length(use->named->prefix);
        return check_dataset(use->named->prefix, dataset, ret_status);
    }
    if (use->graph != NULL) {
        return choose_of_graph(use, dataset, ret_status);
    }
    if (!use->tail_divergence) {
        return ABL_CODE_OK;
    }
    int32_t prompt = -1;
    int32_t length = abl_dataset_common_prefix(dataset, &prompt);
    if (length == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_NOT_SHARED",
                        "tail_divergence is set, and prompt %d of the dataset differs from prompt "
                        "0 at position 0: there is no prefix that all share",
                        prompt);
    }
    if (length == abl_dataset_seq_len(dataset)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAIL_EMPTY",
                        "tail_divergence is set, and all prompts of the dataset are the same %d "
                        "tokens: nothing is left behind the prefix",
                        length);
    }
    use->tokens = all_prompts(dataset).clean;
    use->length = length;
    return ABL_CODE_OK;
}

abl_code abl_kv_use_find(abl_rpc *rpc, abl_kv_use *use) {
    if (use->length == 0 || use->cache != NULL) {
        return ABL_CODE_OK; /* the graph's: held by it */
    }
    use->cache = find_exact(rpc->server, use->model, use->tokens, use->length);
    if (use->cache != NULL) {
        abl_rpc_pin(rpc, &use->cache->object);
        return ABL_CODE_OK;
    }
    return make_room(rpc->server, use->length, abl_prefix_bytes_of(use->model->model, use->length),
                     &rpc->status);
}

abl_code abl_kv_use_apply(abl_kv_use *use, abl_dataset **dataset, const abl_prefix **ret_prefix,
                          abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    if (use->length > 0 && use->cache == NULL) {
        code =
            abl_prefix_create(use->model->model, use->tokens, use->length, &use->made, ret_status);
    }
    if (code != ABL_CODE_OK || use->length == 0) {
        return code;
    }
    abl_dataset *tail = NULL;
    code = abl_dataset_create_tail(*dataset, (int32_t)use->length, &tail, ret_status);
    if (code == ABL_CODE_OK) {
        abl_dataset_destroy(*dataset);
        *dataset = tail;
        use->tokens = NULL; /* went with the dataset */
        *ret_prefix = use->cache != NULL ? use->cache->prefix : use->made;
    }
    return code;
}

abl_code abl_kv_use_keep(abl_rpc *rpc, abl_kv_use *use) {
    if (use->length == 0) {
        return ABL_CODE_OK;
    }
    if (use->cache == NULL) {
        use->cache = keep(rpc, use->model, &use->made);
    } else {
        abl_kv_cache_hit(rpc->server, use->cache);
    }
    return use->cache == NULL ? rpc->status.code : ABL_CODE_OK;
}

void abl_kv_use_finish(abl_kv_use *use) {
    abl_prefix_destroy(use->made);
    use->made = NULL;
}

/* ---- the rpcs ----------------------------------------------------------------------------- */

typedef struct create_state {
    abl_kv_use use;
    abl_prompts prompts;
} create_state;

static void create_end(abl_rpc *rpc) {
    abl_kv_use_finish(&((create_state *)rpc->state)->use);
}

static void create_reply(abl_rpc *rpc, bool created) {
    const create_state *state = rpc->state;
    Ablate__V1__CreateKvCacheResponse response = ABLATE__V1__CREATE_KV_CACHE_RESPONSE__INIT;
    response.kv_cache = abl_convert_kv_cache(rpc->arena, rpc->server->registry, state->use.cache);
    response.created = created;
    if (response.kv_cache == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

static abl_step create_work(abl_rpc *rpc) {
    abl_kv_use *use = &((create_state *)rpc->state)->use;
    (void)!abl_prefix_create(use->model->model, use->tokens, use->length, &use->made, &rpc->status);
    return ABL_STEP_DONE;
}

static void create_done(abl_rpc *rpc) {
    abl_kv_use *use = &((create_state *)rpc->state)->use;
    /* Another call may have made the same meanwhile; then its is the one to name. */
    use->cache = find_exact(rpc->server, use->model, use->tokens, use->length);
    bool created = use->cache == NULL;
    if (abl_kv_use_keep(rpc, use) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    create_reply(rpc, created);
}

static abl_step tokenize_work(abl_rpc *rpc) {
    create_state *state = rpc->state;
    const abl_model *model = state->use.model->model;
    abl_token_batch batch;
    if (abl_prompts_tokens("prompts", &state->prompts, model, state->use.model->bos_default,
                           rpc->arena, &batch, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    int32_t n_ctx = abl_model_get_config(model)->n_ctx;
    if (batch.seq >= n_ctx) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "TAIL_EMPTY",
                       "prompts: %lld tokens are this model's whole context of %d; a prefix must "
                       "leave room for a tail",
                       (long long)batch.seq, n_ctx);
    }
    state->use.tokens = batch.tokens;
    state->use.length = batch.seq;
    return ABL_STEP_DONE;
}

static void tokenize_done(abl_rpc *rpc) {
    abl_kv_use *use = &((create_state *)rpc->state)->use;
    if (abl_kv_use_find(rpc, use) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (use->cache != NULL) {
        abl_kv_cache_hit(rpc->server, use->cache);
        create_reply(rpc, false);
        return;
    }
    abl_rpc_run(rpc, abl_server_slot(rpc->server, abl_model_device(use->model->model)),
                ABL_TASK_CLASS_INTERACTIVE, create_work, create_done);
}

void abl_rpc_create_kv_cache(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__CreateKvCacheRequest *request =
        (const Ablate__V1__CreateKvCacheRequest *)message;
    create_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *model =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_MODEL, request->model_id);
    if (model == NULL || abl_convert_kv_cache_prompt(request, rpc->arena, &state->prompts,
                                                     &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->use.model = (abl_resident_model *)model;
    rpc->state = state;
    rpc->end_cb = create_end;
    abl_rpc_pool(rpc, tokenize_work, tokenize_done);
}

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__KvCache *item = abl_convert_kv_cache(rpc->scratch, rpc->server->registry,
                                                     (abl_resident_kv_cache *)(uintptr_t)object);
    return item == NULL ? NULL : &item->base;
}

void abl_rpc_list_kv_caches(abl_rpc *rpc, const ProtobufCMessage *request) {
    Ablate__V1__ListKvCachesResponse response = ABLATE__V1__LIST_KV_CACHES_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_KV_CACHE, .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, request, &response.base);
}

void abl_rpc_delete_kv_cache(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__DeleteKvCacheRequest *request =
        (const Ablate__V1__DeleteKvCacheRequest *)message;
    Ablate__V1__DeleteKvCacheResponse response = ABLATE__V1__DELETE_KV_CACHE_RESPONSE__INIT;
    abl_rpc_delete(rpc, ABL_OBJECT_KV_CACHE, request->kv_cache_id, &response.base);
}
