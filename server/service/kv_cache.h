/* kv_cache.h -- KV caches in use: found, made, kept within the budget, put in front of datasets.
 *
 * The caches' shelf in the registry is the cache of caches: looked up by tokens and model, evicted
 * by last use. Whoever runs over a dataset carries an abl_kv_use through the threads of its rpc:
 *
 *   loop      abl_kv_use_init()   what was asked for
 *   worker    abl_kv_use_choose() which prefix, once the prompts are tokens
 *   loop      abl_kv_use_find()   the cache, or room for it
 *   executor  abl_kv_use_apply()  made where it was not found; the dataset cut to its tails
 *   loop      abl_kv_use_keep()   listed where it was made; counted
 *
 * With nothing asked for each of them does nothing.
 *
 * OWNERSHIP  A use lives with its rpc; abl_kv_use_finish() gives back what was not kept. Caches are
 *            pinned to the rpc.
 * THREADS    As said.
 * ERRORS     A failure is left in the status given.
 */
#ifndef ABLATE_SERVER_SERVICE_KV_CACHE_H
#define ABLATE_SERVER_SERVICE_KV_CACHE_H

#include "core/data/dataset.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

typedef struct abl_kv_use {
    abl_resident_model *model;
    const abl_resident_graph *graph; /* whose caches may be used; NULL: none */
    bool tail_divergence;
    abl_resident_kv_cache *named; /* by the request; pinned to the rpc, of the model. NULL: none */
    const int32_t *tokens;        /* the prefix, borrowed from the dataset; length 0: no prefix */
    int64_t length;
    abl_resident_kv_cache *cache; /* NULL: not found */
    abl_prefix *made;             /* not kept yet */
} abl_kv_use;

/*   INVALID_ARGUMENT  TAIL_DIVERGENCE  with a graph that names KV caches */
ABL_MUST_CHECK abl_code abl_kv_use_init(abl_kv_use *use, abl_resident_model *model,
                                        const abl_resident_graph *graph, bool tail_divergence,
                                        abl_status *ret_status);
/* The cache that the request names. False: the rpc's status says why.
 *   NOT_FOUND            KV_CACHE_UNKNOWN
 *   FAILED_PRECONDITION  PREFIX_MODEL_MISMATCH */
ABL_MUST_CHECK bool abl_kv_use_name(abl_rpc *rpc, abl_kv_use *use, const char *kv_cache_id);
/*   INVALID_ARGUMENT  PREFIX_NOT_SHARED  no prefix, or none of the graph's: names the first prompt
 *                                        and position that differ
 *   INVALID_ARGUMENT  TAIL_EMPTY         all prompts are the same */
ABL_MUST_CHECK abl_code abl_kv_use_choose(abl_kv_use *use, const abl_dataset *dataset,
                                          abl_status *ret_status);
/*   RESOURCE_EXHAUSTED  KV_CACHE_BUDGET  larger than all that can make room */
ABL_MUST_CHECK abl_code abl_kv_use_find(abl_rpc *rpc, abl_kv_use *use);
/* *dataset becomes its tails. *ret_prefix NULL: whole prompts. */
ABL_MUST_CHECK abl_code abl_kv_use_apply(abl_kv_use *use, abl_dataset **dataset,
                                         const abl_prefix **ret_prefix, abl_status *ret_status);
/*   RESOURCE_EXHAUSTED  KV_CACHE_BUDGET, TOO_MANY_KV_CACHES */
ABL_MUST_CHECK abl_code abl_kv_use_keep(abl_rpc *rpc, abl_kv_use *use);
void abl_kv_use_finish(abl_kv_use *use);

/* The longest cache of the model, of at most so many tokens, that all prompts begin with and go on
 * behind; NULL: none. */
abl_resident_kv_cache *abl_kv_cache_longest(abl_server *server, const abl_resident_model *model,
                                            const int32_t *tokens, int64_t rows, int64_t seq,
                                            int64_t length_max);
/* The cache with this id, pinned to the rpc, if it is of this model. NULL: the rpc's status says
 * why; errors as abl_kv_use_name(). */
abl_resident_kv_cache *abl_kv_cache_named(abl_rpc *rpc, const abl_resident_model *model,
                                          const char *kv_cache_id);
/* One more use. */
void abl_kv_cache_hit(abl_server *server, abl_resident_kv_cache *cache);
/* Ends the caches of a model that is about to be unloaded, if only they keep it. */
void abl_kv_cache_drop(abl_server *server, const abl_object *model);

/* CacheService's. */
void abl_rpc_create_kv_cache(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_list_kv_caches(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_delete_kv_cache(abl_rpc *rpc, const ProtobufCMessage *message);

ABL_END_DECLS
#endif
