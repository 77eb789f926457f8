/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon without its transports and its command line: tests make one, too. Devices are found
 * once, at the start; each gets an executor, whose thread is the only one to touch its tensors. */
#include "server/service/server.h"

#include "core/base/mem.h"
#include "server/runtime/job.h"
#include "server/runtime/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* OpenMP's thread count belongs to the thread that sets it, so each executor sets its own. */
static void executor_thread_init(void *user_data) {
    const abl_server *server = user_data;
    abl_backend_init(server->options.threads);
}

static abl_code add_device(abl_server *server, abl_device device, abl_status *ret_status) {
    abl_device_slot *slot = &server->devices[server->device_count];
    slot->device = device;
    if (device.type == ABL_DEVICE_CUDA) {
        (void)snprintf(slot->name, sizeof slot->name, "cuda:%d", device.index);
    } else {
        (void)snprintf(slot->name, sizeof slot->name, "cpu");
    }
    const abl_executor_options options = {.loop = server->loop,
                                          .name = slot->name,
                                          .thread_init_cb = executor_thread_init,
                                          .user_data = server};
    abl_code code = abl_executor_create(&options, &slot->executor, ret_status);
    if (code == ABL_CODE_OK) {
        server->device_count++;
    }
    return code;
}

static void make_instance_id(abl_server *server) {
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) {
        number = abl_time_us(); /* another at the next start is what matters */
    }
    (void)snprintf(server->instance_id, sizeof server->instance_id, "%016" PRIx64, number);
}

abl_code abl_server_create(const abl_server_options *options, abl_server **ret_server,
                           abl_status *ret_status) {
    abl_server *server = abl_calloc(1, sizeof *server);
    if (server == NULL) {
        return abl_fail_oom(ret_status);
    }
    server->options = *options;
    server->loop = options->loop;
    server->started_ms = abl_time_us() / 1000;
    make_instance_id(server);
    server->registry = abl_registry_create();
    server->metrics = abl_metrics_create();
    server->idle_timer = abl_timer_create(options->loop, abl_server_end_idle_graphs, server);
    abl_code code =
        server->registry == NULL || server->metrics == NULL || server->idle_timer == NULL
            ? abl_fail_oom(ret_status)
            : add_device(server, (abl_device){ABL_DEVICE_CPU, 0}, ret_status);
    int cuda_count = abl_device_cuda_count();
    for (int i = 0; i < cuda_count && i + 1 < ABL_DEVICE_COUNT_MAX && code == ABL_CODE_OK; i++) {
        code = add_device(server, (abl_device){ABL_DEVICE_CUDA, i}, ret_status);
    }
    if (code == ABL_CODE_OK && abl_server_slot(server, options->default_device) == NULL) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DEVICE_UNAVAILABLE",
                        "--device: this machine has no such device (%d CUDA devices)", cuda_count);
    }
    if (code != ABL_CODE_OK) {
        abl_server_stop(server);
        abl_server_free(server);
        return code;
    }
    *ret_server = server;
    return ABL_CODE_OK;
}

void abl_server_stop(abl_server *server) {
    abl_timer_destroy(server->idle_timer);
    server->idle_timer = NULL;
    for (size_t i = 0; i < server->device_count; i++) {
        abl_executor_destroy(server->devices[i].executor);
        server->devices[i].executor = NULL;
    }
}

void abl_server_free(abl_server *server) {
    if (server != NULL) {
        abl_registry_destroy(server->registry);
        abl_metrics_destroy(server->metrics);
        abl_free(server);
    }
}

void abl_server_drain(abl_server *server) {
    server->draining = true;
    for (abl_object *object = abl_registry_first(server->registry, ABL_OBJECT_JOB); object != NULL;
         object = object->next) {
        abl_job_cancel((abl_job *)object, "the daemon was told to stop");
    }
}

abl_code abl_server_guard(abl_call *call, void *user_data, abl_status *ret_status) {
    const abl_server *server = user_data;
    if (server->draining && !call->method->while_draining) {
        return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "DRAINING",
                        "the daemon is shutting down; connect to another or try again later");
    }
    return ABL_CODE_OK;
}

abl_device_slot *abl_server_slot(abl_server *server, abl_device device) {
    for (size_t i = 0; i < server->device_count; i++) {
        if (server->devices[i].device.type == device.type &&
            server->devices[i].device.index == device.index) {
            return &server->devices[i];
        }
    }
    return NULL;
}

abl_code abl_server_device(abl_server *server, const char *name, abl_device_slot **ret_slot,
                           abl_status *ret_status) {
    if (name[0] == '\0') {
        *ret_slot = abl_server_slot(server, server->options.default_device);
        return ABL_CODE_OK;
    }
    char there[160] = "";
    size_t length = 0;
    for (size_t i = 0; i < server->device_count; i++) {
        abl_device_slot *slot = &server->devices[i];
        if (strcmp(name, slot->name) == 0 ||
            (strcmp(name, "cuda") == 0 && strcmp(slot->name, "cuda:0") == 0)) {
            *ret_slot = slot;
            return ABL_CODE_OK;
        }
        if (length + 20 < sizeof there) {
            length += (size_t)snprintf(there + length, sizeof there - length, "%s%s",
                                       i == 0 ? "" : ", ", slot->name);
        }
    }
    bool known = strncmp(name, "cuda", 4) == 0;
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT,
                    known ? "DEVICE_UNAVAILABLE" : "DEVICE_UNKNOWN",
                    "device '%.32s' is not on this machine; there is %s", name, there);
}

typedef struct dropper {
    abl_task task;
    void (*destroy_cb)(void *object);
    void *object;
} dropper;

static abl_step drop_run(abl_task *task) {
    (void)task;
    return ABL_STEP_DONE;
}

static void drop_end(abl_task *task) {
    dropper *drop = (dropper *)task;
    drop->destroy_cb(drop->object);
}

static void drop_done(abl_task *task) {
    abl_free(task);
}

void abl_server_drop(const abl_device_slot *slot, void (*destroy_cb)(void *object), void *object) {
    dropper *drop = object == NULL ? NULL : abl_calloc(1, sizeof *drop);
    abl_status status;
    if (drop != NULL) {
        *drop = (dropper){.task = {.task_class = ABL_TASK_CLASS_INTERACTIVE,
                                   .client = "(release)",
                                   .run_cb = drop_run,
                                   .end_cb = drop_end,
                                   .done_cb = drop_done},
                          .destroy_cb = destroy_cb,
                          .object = object};
        if (abl_executor_submit(slot->executor, &drop->task, &status) == ABL_CODE_OK) {
            return;
        }
        abl_free(drop);
    }
    if (object != NULL) {
        destroy_cb(object); /* late, on the wrong thread, but not never */
    }
}

void abl_server_memory(int64_t *ret_total, int64_t *ret_available) {
    *ret_total = 0;
    *ret_available = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    long long kib = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemTotal: %lld kB", &kib) == 1) {
            *ret_total = kib * 1024;
        } else if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) {
            *ret_available = kib * 1024;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

static uint64_t free_bytes(abl_device device) {
    if (device.type != ABL_DEVICE_CPU) {
        return abl_device_bytes_free(device);
    }
    int64_t total = 0;
    int64_t available = 0;
    abl_server_memory(&total, &available);
    return total == 0 ? UINT64_MAX : (uint64_t)available;
}

/* The host's memory may be overcommitted by who sets a budget; a device's cannot. */
abl_code abl_server_admit(const abl_server *server, abl_device device, uint64_t bytes,
                          const char *advice, abl_status *ret_status) {
    const uint64_t budget = server->options.memory_budget;
    bool on_host = device.type == ABL_DEVICE_CPU;
    uint64_t limit = budget == 0 || !on_host ? free_bytes(device) : budget;
    char whose[48] = "are free";
    if (budget != 0 && budget <= limit) {
        limit = budget;
        (void)snprintf(whose, sizeof whose, "are allowed (--memory-budget-mib)");
    } else if (!on_host) {
        (void)snprintf(whose, sizeof whose, "are free on cuda:%d", device.index);
    }
    if (bytes <= limit) {
        return ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "ESTIMATE_TOO_BIG",
                    "this needs about %.1f MiB of working memory, and %.1f MiB %s; %s",
                    (double)bytes / (1 << 20), (double)limit / (1 << 20), whose, advice);
}

static const char *const kind_labels[ABL_OBJECT_KIND_COUNT] = {
    "weights", "graphs", "datasets", "kv_caches", "activations", "ablations", "jobs"};

static size_t add_gauges(abl_server *server, abl_gauge *gauges) {
    size_t count = 0;
    for (int kind = 0; kind < ABL_OBJECT_KIND_COUNT; kind++) {
        gauges[count] = (abl_gauge){
            .name = "ablate_resident_bytes",
            .help = "Bytes of resident objects, by kind.",
            .value = (double)abl_registry_bytes(server->registry, (abl_object_kind)kind)};
        (void)snprintf(gauges[count].labels, sizeof gauges[count].labels, "{kind=\"%s\"}",
                       kind_labels[kind]);
        count++;
    }
    int64_t hits = 0;
    for (abl_object *object = abl_registry_first(server->registry, ABL_OBJECT_KV_CACHE);
         object != NULL; object = object->next) {
        hits += ((abl_resident_kv_cache *)object)->hits;
    }
    gauges[count++] = (abl_gauge){.name = "ablate_kv_cache_hits",
                                  .help = "Uses of the KV caches that are resident.",
                                  .value = (double)hits};
    gauges[count++] = (abl_gauge){.name = "ablate_kv_cache_evictions",
                                  .help = "KV caches that made room for others, so far.",
                                  .value = (double)server->kv_cache_evictions};
    for (size_t i = 0; i < server->device_count; i++) {
        abl_executor_stats stats = abl_executor_get_stats(server->devices[i].executor);
        gauges[count] = (abl_gauge){.name = "ablate_queue_length",
                                    .help = "Tasks that wait for a device.",
                                    .value = (double)(stats.waiting[ABL_TASK_CLASS_INTERACTIVE] +
                                                      stats.waiting[ABL_TASK_CLASS_JOB])};
        (void)snprintf(gauges[count].labels, sizeof gauges[count].labels, "{device=\"%s\"}",
                       server->devices[i].name);
        count++;
    }
    size_t states[ABL_JOB_STATE_COUNT] = {0};
    for (abl_object *object = abl_registry_first(server->registry, ABL_OBJECT_JOB); object != NULL;
         object = object->next) {
        states[((abl_job *)object)->state]++;
    }
    for (int state = ABL_JOB_QUEUED; state < ABL_JOB_STATE_COUNT; state++) {
        gauges[count] = (abl_gauge){.name = "ablate_prune_jobs",
                                    .help = "Jobs that are kept, by state.",
                                    .value = (double)states[state]};
        (void)snprintf(gauges[count].labels, sizeof gauges[count].labels, "{state=\"%s\"}",
                       abl_job_state_name((abl_job_state)state));
        count++;
    }
    return count;
}

char *abl_server_metrics_text(void *user_data, size_t *ret_bytes) {
    abl_server *server = user_data;
    abl_gauge gauges[ABL_OBJECT_KIND_COUNT + 2 + ABL_DEVICE_COUNT_MAX + ABL_JOB_STATE_COUNT];
    size_t count = add_gauges(server, gauges);
    return abl_metrics_text(server->metrics, gauges, count, ret_bytes);
}
