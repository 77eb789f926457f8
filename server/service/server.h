/* server.h -- what the services of one daemon share: its options, its devices, its objects.
 *
 * OWNERSHIP  abl_server_create() hands the server to the caller; end it after the transports, when
 *            no call is left. The options' texts are copied.
 * THREADS    The loop thread only, except the constant options.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_SERVICE_SERVER_H
#define ABLATE_SERVER_SERVICE_SERVER_H

#include "core/model/dir.h"
#include "core/tensor/tensor.h"
#include "server/runtime/clock.h"
#include "server/runtime/executor.h"
#include "server/runtime/metrics.h"
#include "server/runtime/registry.h"
#include "server/transport/call.h"

ABL_BEGIN_DECLS

#define ABL_DEVICE_COUNT_MAX 17

typedef struct abl_server_options {
    abl_loop *loop;
    abl_model_roots roots; /* borrowed: must outlive the server */
    const char *state_dir; /* uploads are staged below it; NULL: UploadModel is refused */
    abl_device default_device;
    int threads;            /* compute threads of the CPU; 0: libtorch's default */
    uint64_t memory_budget; /* bytes of working memory one request may take; 0: what is free */
    size_t jobs_max;        /* jobs that wait or run */
    int64_t kv_cache_bytes; /* of all KV caches together */
} abl_server_options;

typedef struct abl_device_slot {
    abl_device device;
    abl_executor *executor;
    char name[16]; /* "cpu", "cuda:0" */
} abl_device_slot;

typedef struct abl_load abl_load; /* service/load.c: a load that runs, and who waits for it */

typedef struct abl_server {
    abl_server_options options;
    abl_loop *loop;
    abl_registry *registry;
    abl_metrics *metrics;
    abl_device_slot devices[ABL_DEVICE_COUNT_MAX];
    size_t device_count;
    abl_timer *idle_timer; /* graph.c: looks for graphs that nobody used for long */
    abl_load *loads;
    uint64_t call_serial;
    uint64_t kv_cache_uses; /* kv_cache.c: the clock of last uses */
    uint64_t kv_cache_evictions;
    uint64_t started_ms;
    char instance_id[17]; /* 16 random hexadecimal digits: names this run of the daemon */
    size_t active_jobs;
    bool draining;
    char http_address[80]; /* "http://127.0.0.1:8080", or "" */
    bool dashboard_built;  /* and what is there is the dashboard */
} abl_server;

/* Starts an executor for the CPU and for each CUDA device.
 *   INVALID_ARGUMENT  DEVICE_UNAVAILABLE  options.default_device is not here */
ABL_MUST_CHECK abl_code abl_server_create(const abl_server_options *options,
                                          abl_server **ret_server, abl_status *ret_status);
/* Joins the executors; calls must have ended. The loop must run once more afterwards, then
 * abl_server_free(). */
void abl_server_stop(abl_server *server);
void abl_server_free(abl_server *server); /* NULL is allowed */

/* New calls are refused from now on, and jobs told to stop after their step. */
void abl_server_drain(abl_server *server);
/* For transports: refuses calls while draining (health excepted). `user_data` is the server. */
abl_code abl_server_guard(abl_call *call, void *user_data, abl_status *ret_status);
/* For the HTTP port's /metrics. `user_data` is the server. */
char *abl_server_metrics_text(void *user_data, size_t *ret_bytes);

/* "cpu", "cuda", "cuda:1"; "" is the default device.
 *   INVALID_ARGUMENT  DEVICE_UNKNOWN, DEVICE_UNAVAILABLE  naming those there are */
ABL_MUST_CHECK abl_code abl_server_device(abl_server *server, const char *name,
                                          abl_device_slot **ret_slot, abl_status *ret_status);
abl_device_slot *abl_server_slot(abl_server *server, abl_device device);

/* Of this machine, in bytes; 0: cannot be told. */
void abl_server_memory(int64_t *ret_total, int64_t *ret_available);

/* Whether work that takes `bytes` of the device's memory may start; ABL_HOST is this machine's own.
 * From that device's executor, or for the host from any thread.
 *   RESOURCE_EXHAUSTED  ESTIMATE_TOO_BIG  with both sizes; `advice` says how to need less */
#define ABL_HOST ((abl_device){ABL_DEVICE_CPU, 0})
ABL_MUST_CHECK abl_code abl_server_admit(const abl_server *server, abl_device device,
                                         uint64_t bytes, const char *advice,
                                         abl_status *ret_status);

/* Deletes the graphs whose idle time-out is over. `user_data` is the server. */
void abl_server_end_idle_graphs(void *user_data);

/* Ends what a device's executor made, on that executor; here and now when it takes no more. NULL
 * objects are allowed. */
void abl_server_drop(const abl_device_slot *slot, void (*destroy_cb)(void *object), void *object);

/* The services, for the transports' tables; `server` is theirs to keep. */
abl_service abl_admin_service(abl_server *server);
abl_service abl_model_service(abl_server *server);
abl_service abl_graph_service(abl_server *server);
abl_service abl_mask_service(abl_server *server);
abl_service abl_run_service(abl_server *server);
abl_service abl_dataset_service(abl_server *server);
abl_service abl_prune_service(abl_server *server);
abl_service abl_evaluate_service(abl_server *server);
abl_service abl_cache_service(abl_server *server);

ABL_END_DECLS
#endif
