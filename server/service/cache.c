/* SPDX-License-Identifier: Apache-2.0
 *
 * CacheService: one table over the files that keep a kind of tensor each. */
#include "ablate/v1/cache.pb-c.h"
#include "server/service/ablation.h"
#include "server/service/activations.h"
#include "server/service/kv_cache.h"
#include "server/service/rpc.h"

static const abl_method methods[] = {
    {"/ablate.v1.CacheService/CreateAblation", false, true, false, abl_rpc_start},
    {"/ablate.v1.CacheService/ListAblations", false, false, false, abl_rpc_start},
    {"/ablate.v1.CacheService/GetAblation", false, true, false, abl_rpc_start},
    {"/ablate.v1.CacheService/DeleteAblation", false, false, false, abl_rpc_start},
    {"/ablate.v1.CacheService/CreateKvCache", false, false, false, abl_rpc_start},
    {"/ablate.v1.CacheService/ListKvCaches", false, false, false, abl_rpc_start},
    {"/ablate.v1.CacheService/DeleteKvCache", false, false, false, abl_rpc_start},
    {"/ablate.v1.CacheService/ListActivations", false, false, false, abl_rpc_start},
    {"/ablate.v1.CacheService/GetActivations", false, true, false, abl_rpc_start},
    {"/ablate.v1.CacheService/DeleteActivations", false, false, false, abl_rpc_start},
};
static const abl_rpc_handler handlers[] = {
    {&ablate__v1__create_ablation_request__descriptor, abl_rpc_create_ablation},
    {&ablate__v1__list_ablations_request__descriptor, abl_rpc_list_ablations},
    {&ablate__v1__get_ablation_request__descriptor, abl_rpc_get_ablation},
    {&ablate__v1__delete_ablation_request__descriptor, abl_rpc_delete_ablation},
    {&ablate__v1__create_kv_cache_request__descriptor, abl_rpc_create_kv_cache},
    {&ablate__v1__list_kv_caches_request__descriptor, abl_rpc_list_kv_caches},
    {&ablate__v1__delete_kv_cache_request__descriptor, abl_rpc_delete_kv_cache},
    {&ablate__v1__list_activations_request__descriptor, abl_rpc_list_activations},
    {&ablate__v1__get_activations_request__descriptor, abl_rpc_get_activations},
    {&ablate__v1__delete_activations_request__descriptor, abl_rpc_delete_activations},
};

abl_service abl_cache_service(abl_server *server) {
    static abl_rpc_table table = {NULL, methods, handlers, ABL_COUNT_OF(methods)};
    table.server = server;
    return (abl_service){"ablate.v1.CacheService", methods, ABL_COUNT_OF(methods), &table};
}
