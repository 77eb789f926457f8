/* SPDX-License-Identifier: Apache-2.0
 *
 * CacheService: one table over the files that keep a kind of tensor each. */
#include "ablate/v1/cache.pb-c.h"
#include "server/service/ablation.h"
#include "server/service/activations.h"
#include "server/service/kv_cache.h"
#include "server/service/rpc.h"

static const abl_method methods[] = {
    ABL_RPC_STREAM("/ablate.v1.CacheService/CreateAblation", create_ablation,
                   abl_rpc_create_ablation),
    ABL_RPC_UNARY("/ablate.v1.CacheService/ListAblations", list_ablations, abl_rpc_list_ablations),
    ABL_RPC_STREAM("/ablate.v1.CacheService/GetAblation", get_ablation, abl_rpc_get_ablation),
    ABL_RPC_UNARY("/ablate.v1.CacheService/DeleteAblation", delete_ablation,
                  abl_rpc_delete_ablation),
    ABL_RPC_UNARY("/ablate.v1.CacheService/CreateKvCache", create_kv_cache,
                  abl_rpc_create_kv_cache),
    ABL_RPC_UNARY("/ablate.v1.CacheService/ListKvCaches", list_kv_caches, abl_rpc_list_kv_caches),
    ABL_RPC_UNARY("/ablate.v1.CacheService/DeleteKvCache", delete_kv_cache,
                  abl_rpc_delete_kv_cache),
    ABL_RPC_UNARY("/ablate.v1.CacheService/ListActivations", list_activations,
                  abl_rpc_list_activations),
    ABL_RPC_STREAM("/ablate.v1.CacheService/GetActivations", get_activations,
                   abl_rpc_get_activations),
    ABL_RPC_UNARY("/ablate.v1.CacheService/DeleteActivations", delete_activations,
                  abl_rpc_delete_activations),
};

abl_service abl_cache_service(abl_server *server) {
    return (abl_service){"ablate.v1.CacheService", methods, ABL_COUNT_OF(methods), server};
}
