/* SPDX-License-Identifier: Apache-2.0
 *
 * What the daemon says about itself. Everything here is read, nothing is computed. */
#include "ablate/v1/admin.pb-c.h"
#include "core/base/limits.h"
#include "core/model/config.h"
#include "server/convert/common.h"
#include "server/service/rpc.h"

#include <string.h>

static char *family_names[] = {
#define X(name, text) (char[]){text},
    ABL_FAMILY_MAP(X)
#undef X
};

static bool add_devices(abl_rpc *rpc, Ablate__V1__GetServerInfoResponse *response) {
    abl_server *server = rpc->server;
    response->devices = abl_rpc_alloc(rpc, server->device_count * sizeof *response->devices);
    for (size_t i = 0; response->devices != NULL && i < server->device_count; i++) {
        Ablate__V1__DeviceInfo *info = abl_rpc_alloc(rpc, sizeof *info);
        if (info == NULL) {
            return false;
        }
        abl_executor_stats stats = abl_executor_get_stats(server->devices[i].executor);
        ablate__v1__device_info__init(info);
        info->name = server->devices[i].name;
        info->queue_length = (int32_t)(stats.waiting[ABL_TASK_CLASS_INTERACTIVE] +
                                       stats.waiting[ABL_TASK_CLASS_JOB]);
        bool cpu = server->devices[i].device.type == ABL_DEVICE_CPU;
        info->thread_count = cpu ? abl_backend_threads() : 0;
        response->devices[response->n_devices++] = info;
    }
    return response->devices != NULL;
}

static bool add_roots(abl_rpc *rpc, Ablate__V1__GetServerInfoResponse *response) {
    const abl_model_roots *roots = &rpc->server->options.roots;
    response->model_roots = abl_rpc_alloc(rpc, (roots->count + 1) * sizeof(char *));
    for (size_t i = 0; response->model_roots != NULL && i < roots->count; i++) {
        response->model_roots[response->n_model_roots++] =
            abl_convert_text(rpc->arena, roots->paths[i]);
    }
    response->hub_cache =
        abl_convert_text(rpc->arena, roots->hub_cache == NULL ? "" : roots->hub_cache);
    return response->model_roots != NULL;
}

static void get_server_info(abl_rpc *rpc, const ProtobufCMessage *request) {
    (void)request;
    abl_server *server = rpc->server;
    Ablate__V1__GetServerInfoResponse response = ABLATE__V1__GET_SERVER_INFO_RESPONSE__INIT;
    Ablate__V1__ResidentBytes bytes = ABLATE__V1__RESIDENT_BYTES__INIT;
    Ablate__V1__Limits limits = ABLATE__V1__LIMITS__INIT;
    if (!add_devices(rpc, &response) || !add_roots(rpc, &response)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    bytes.weights = abl_registry_bytes(server->registry, ABL_OBJECT_MODEL);
    bytes.graphs = abl_registry_bytes(server->registry, ABL_OBJECT_GRAPH);
    bytes.datasets = abl_registry_bytes(server->registry, ABL_OBJECT_DATASET);
    bytes.ablations = abl_registry_bytes(server->registry, ABL_OBJECT_ABLATION);
    bytes.jobs = abl_registry_bytes(server->registry, ABL_OBJECT_JOB);
    bytes.kv_caches = abl_registry_bytes(server->registry, ABL_OBJECT_KV_CACHE);
    bytes.activations = abl_registry_bytes(server->registry, ABL_OBJECT_ACTIVATIONS);
    limits.message_bytes = ABL_MESSAGE_BYTES_MAX;
    limits.batch = ABL_BATCH_MAX;
    limits.seq = ABL_SEQ_MAX;
    limits.dataset_bytes = ABL_DATASET_BYTES_MAX < ABL_MESSAGE_BYTES_MAX ? ABL_DATASET_BYTES_MAX
                                                                         : ABL_MESSAGE_BYTES_MAX;
    limits.jobs = (int32_t)server->options.jobs_max;
    limits.chunk_bytes = ABL_CHUNK_BYTES;
    limits.kv_cache_bytes = server->options.kv_cache_bytes;
    response.version = abl_convert_text(rpc->arena, ABLATE_VERSION);
    response.protocol = abl_convert_text(rpc->arena, "ablate.v1");
    response.resident_bytes = &bytes;
    response.uptime_ms = (int64_t)(abl_time_us() / 1000 - server->started_ms);
    response.backend = abl_convert_text(rpc->arena, abl_backend_version());
    response.blas = abl_convert_text(rpc->arena, abl_backend_blas_name());
    response.instance_id = server->instance_id;
    response.draining = server->draining;
    response.model_count = (int32_t)abl_registry_count(server->registry, ABL_OBJECT_MODEL);
    response.graph_count = (int32_t)abl_registry_count(server->registry, ABL_OBJECT_GRAPH);
    response.dataset_count = (int32_t)abl_registry_count(server->registry, ABL_OBJECT_DATASET);
    response.kv_cache_count = (int32_t)abl_registry_count(server->registry, ABL_OBJECT_KV_CACHE);
    response.activations_count =
        (int32_t)abl_registry_count(server->registry, ABL_OBJECT_ACTIVATIONS);
    response.ablation_count = (int32_t)abl_registry_count(server->registry, ABL_OBJECT_ABLATION);
    response.active_job_count = (int32_t)server->active_jobs;
    response.limits = &limits;
    response.families = family_names;
    response.n_families = ABL_COUNT_OF(family_names);
    response.http_address = server->http_address;
    response.dashboard_built = server->dashboard_built;
    limits.memory_budget_bytes = (int64_t)server->options.memory_budget;
    abl_server_memory(&response.memory_total_bytes, &response.memory_available_bytes);
    abl_rpc_reply(rpc, &response.base);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.AdminService/GetServerInfo", get_server_info, get_server_info),
};

abl_service abl_admin_service(abl_server *server) {
    return (abl_service){"ablate.v1.AdminService", methods, ABL_COUNT_OF(methods), server};
}
