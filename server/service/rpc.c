/* SPDX-License-Identifier: Apache-2.0
 *
 * At any moment an rpc is in one of three hands: the loop's (a handler runs, or a stream waits to
 * be woken), a worker's (`working`), or the transport's (`sending`). A cancellation is acted on at
 * once in the first and the last; a worker's rpc is only flagged, because its memory is the
 * worker's until the done callback brings it back. That is the whole of the concurrency here. */
#include "server/service/rpc.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "server/convert/wire.h"
#include "server/runtime/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SCRATCH_BYTES_MAX ((size_t)64 << 20)

static void rpc_end(abl_rpc *rpc, const abl_message *last, const abl_status *status);

/* What the metadata `key` calls the client, if that is fit to print; else `otherwise`. */
static const char *named_or(abl_rpc *rpc, const char *key, const char *otherwise) {
    const char *named = abl_call_metadata(rpc->call, key);
    bool fit = named != NULL && named[0] != '\0' && strlen(named) <= ABL_OWNER_BYTES_MAX;
    for (const char *at = named; fit && *at != '\0'; at++) {
        fit = *at >= 0x20 && *at <= 0x7e;
    }
    const char *name = fit ? named : otherwise;
    const char *copy = abl_arena_strndup(rpc->arena, name, strlen(name));
    return copy != NULL ? copy : "";
}

static void call_cancelled(abl_call *call) {
    abl_rpc *rpc = call->user;
    if (rpc->working) {
        for (size_t i = 0; i < rpc->pin_count; i++) {
            abl_hold_cancel(&rpc->pins[i]);
        }
        if (rpc->executor != NULL) {
            abl_executor_cancel(rpc->executor, &rpc->task);
        }
        return;
    }
    abl_rpc_fail(rpc, ABL_CODE_CANCELLED, "CALL_CANCELLED", "the client left");
}

static void call_sent(abl_call *call) {
    abl_rpc *rpc = call->user;
    rpc->sending = false;
    abl_rpc_pump(rpc);
}

void abl_rpc_start(abl_call *call, void *user_data) {
    abl_rpc *rpc = abl_calloc(1, sizeof *rpc);
    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(call->request_bytes));
    if (rpc == NULL || arena == NULL) {
        abl_free(rpc);
        abl_arena_destroy(arena);
        abl_call_fail(call, ABL_CODE_RESOURCE_EXHAUSTED, "OUT_OF_HOST_MEMORY",
                      "the daemon has no memory for another call");
        return;
    }
    rpc->server = user_data;
    rpc->call = call;
    rpc->handler = call->method->detail;
    rpc->arena = arena;
    rpc->id = ++rpc->server->call_serial;
    rpc->start_us = abl_time_us();
    rpc->client = named_or(rpc, "ablate-client", call->client != NULL ? call->client : call->peer);
    rpc->owner = named_or(rpc, "ablate-user", rpc->client);
    call->user = rpc;
    call->on_cancel_cb = call_cancelled;
    call->on_sent_cb = call_sent;
    abl_metrics_request_start(rpc->server->metrics, call->method->path + 1);
    ProtobufCMessage *request = NULL;
    if (rpc->handler->request != NULL &&
        abl_wire_unpack(rpc->handler->request, call->request, call->request_bytes, arena, &request,
                        &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->handler->handle_cb(rpc, request);
}

static void log_end(const abl_rpc *rpc, abl_code code, const abl_status *status) {
    double elapsed_ms = (double)(abl_time_us() - rpc->start_us) / 1000.0;
    char client[ABL_LOG_OWNER_BYTES];
    (void)abl_log_quote(client, sizeof client, rpc->owner);
    if (code == ABL_CODE_OK) {
        abl_log(ABL_LOG_DEBUG, "request", "id=%llu rpc=%s code=OK ms=%.3f client=%s",
                (unsigned long long)rpc->id, rpc->call->method->path + 1, elapsed_ms, client);
        return;
    }
    char message[400];
    (void)abl_log_quote(message, sizeof message, status->message);
    abl_log(code == ABL_CODE_INTERNAL ? ABL_LOG_ERROR : ABL_LOG_INFO, "request",
            "id=%llu rpc=%s code=%s reason=%s ms=%.3f client=%s message=%s",
            (unsigned long long)rpc->id, rpc->call->method->path + 1, abl_code_name(code),
            status->reason, elapsed_ms, client, message);
}

static void rpc_end(abl_rpc *rpc, const abl_message *last, const abl_status *status) {
    ABL_ASSERT(!rpc->working);
    abl_code code = status == NULL ? ABL_CODE_OK : status->code;
    log_end(rpc, code, status);
    abl_metrics_request_end(rpc->server->metrics, rpc->call->method->path + 1, code,
                            (double)(abl_time_us() - rpc->start_us) / 1e6);
    rpc->call->on_sent_cb = NULL;
    rpc->call->on_cancel_cb = NULL;
    rpc->call->on_message_cb = NULL;
    abl_call_finish(rpc->call, last, status);
    if (rpc->end_cb != NULL) {
        rpc->end_cb(rpc);
    }
    for (size_t i = 0; i < rpc->pin_count; i++) {
        abl_hold_finish(&rpc->pins[i]);
    }
    abl_arena_destroy(rpc->scratch);
    abl_arena_destroy(rpc->arena);
    abl_free(rpc);
}

void *abl_rpc_alloc(abl_rpc *rpc, size_t bytes) {
    void *memory = abl_arena_alloc(rpc->arena, bytes);
    if (memory == NULL) {
        (void)abl_fail_oom(&rpc->status);
    }
    return memory;
}

void *abl_rpc_scratch(abl_rpc *rpc, size_t bytes) {
    if (rpc->scratch == NULL) {
        rpc->scratch = abl_arena_create(SCRATCH_BYTES_MAX);
    }
    void *memory = rpc->scratch == NULL ? NULL : abl_arena_alloc(rpc->scratch, bytes);
    if (memory == NULL) {
        (void)abl_fail_oom(&rpc->status);
    }
    return memory;
}

void abl_rpc_pin(abl_rpc *rpc, abl_object *object) {
    ABL_ASSERT(rpc->pin_count < ABL_RPC_PIN_MAX);
    abl_hold_init(&rpc->pins[rpc->pin_count++], object);
}

abl_object *abl_rpc_use(abl_rpc *rpc, abl_object_kind kind, const char *id) {
    abl_object *object = NULL;
    if (abl_registry_find(rpc->server->registry, kind, id, &object, &rpc->status) != ABL_CODE_OK) {
        return NULL;
    }
    abl_rpc_pin(rpc, object);
    return object;
}

void abl_rpc_delete(abl_rpc *rpc, abl_object_kind kind, const char *id,
                    const ProtobufCMessage *response) {
    abl_object *object = NULL;
    if (abl_registry_find(rpc->server->registry, kind, id, &object, &rpc->status) != ABL_CODE_OK ||
        abl_registry_remove(rpc->server->registry, object, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    char event[32];
    (void)snprintf(event, sizeof event, "%s_deleted", abl_object_kind_name(kind));
    abl_log(ABL_LOG_INFO, event, "id=%s", id); /* it was found: an id of ours */
    abl_rpc_reply(rpc, response);
}

/* The packed message, or a status. */
static abl_code pack(abl_rpc *rpc, const ProtobufCMessage *message, abl_message *ret_message) {
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > ABL_REPLY_BYTES_MAX) {
        return abl_fail(&rpc->status, ABL_CODE_RESOURCE_EXHAUSTED, "MESSAGE_TOO_BIG",
                        "the answer would have %zu bytes, over the %d that one message may; ask "
                        "for less at once",
                        bytes, ABL_REPLY_BYTES_MAX);
    }
    uint8_t *block = abl_malloc(bytes);
    if (block == NULL) {
        return abl_fail_oom(&rpc->status);
    }
    (void)protobuf_c_message_pack(message, block);
    *ret_message = abl_message_own(block, bytes);
    return ABL_CODE_OK;
}

void abl_rpc_reply(abl_rpc *rpc, const ProtobufCMessage *response) {
    abl_message message;
    if (pack(rpc, response, &message) != ABL_CODE_OK) {
        rpc_end(rpc, NULL, &rpc->status);
        return;
    }
    rpc_end(rpc, &message, NULL);
}

void abl_rpc_finish_ok(abl_rpc *rpc) {
    rpc_end(rpc, NULL, NULL);
}

void abl_rpc_fail_status(abl_rpc *rpc) {
    ABL_ASSERT(rpc->status.code != ABL_CODE_OK);
    abl_status status = rpc->status; /* the rpc ends before its transport has read it */
    rpc_end(rpc, NULL, &status);
}

void abl_rpc_fail(abl_rpc *rpc, abl_code code, const char *reason, const char *format, ...) {
    abl_status status = {.code = code, .reason = reason};
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(status.message, sizeof status.message, format, arguments);
    va_end(arguments);
    rpc_end(rpc, NULL, &status);
}

/* The rpc is back from a worker. */
static void work_done(abl_rpc *rpc) {
    rpc->working = false;
    if (rpc->call->cancelled) {
        abl_rpc_fail(rpc, ABL_CODE_CANCELLED, "CALL_CANCELLED", "the client left");
        return;
    }
    if (rpc->status.code == ABL_CODE_OK && rpc->executor != NULL &&
        abl_task_cancelled(&rpc->task)) {
        (void)abl_fail(&rpc->status, ABL_CODE_UNAVAILABLE, "DRAINING",
                       "the daemon is shutting down");
    }
    if (rpc->status.code != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->done_cb(rpc);
}

static abl_rpc *rpc_of_task(abl_task *task) {
    return (abl_rpc *)(void *)((char *)task - offsetof(abl_rpc, task));
}

static abl_rpc *rpc_of_pool(abl_work *work) {
    return (abl_rpc *)(void *)((char *)work - offsetof(abl_rpc, pool));
}

static abl_step task_run(abl_task *task) {
    abl_rpc *rpc = rpc_of_task(task);
    uint64_t start_us = abl_time_us();
    if (rpc->waited_us == 0) {
        rpc->waited_us = start_us - rpc->submit_us;
    }
    abl_step step = rpc->work_cb(rpc);
    rpc->work_us += abl_time_us() - start_us;
    return step;
}

static void task_end(abl_task *task) {
    abl_rpc *rpc = rpc_of_task(task);
    if (rpc->work_end_cb != NULL) {
        rpc->work_end_cb(rpc);
    }
}

static void task_done(abl_task *task) {
    abl_rpc *rpc = rpc_of_task(task);
    abl_metrics_queue_wait(rpc->server->metrics, (double)rpc->waited_us / 1e6);
    work_done(rpc);
}

static void pool_run(abl_work *work) {
    abl_rpc *rpc = rpc_of_pool(work);
    (void)rpc->work_cb(rpc);
}

static void pool_done(abl_work *work) {
    work_done(rpc_of_pool(work));
}

void abl_rpc_run(abl_rpc *rpc, abl_device_slot *slot, abl_task_class task_class,
                 abl_step (*work_cb)(abl_rpc *rpc), void (*done_cb)(abl_rpc *rpc)) {
    rpc->work_cb = work_cb;
    rpc->done_cb = done_cb;
    rpc->executor = slot->executor;
    rpc->task = (abl_task){.task_class = task_class,
                           .client = rpc->client,
                           .run_cb = task_run,
                           .end_cb = task_end,
                           .done_cb = task_done};
    rpc->submit_us = abl_time_us();
    rpc->waited_us = 0;
    if (abl_executor_submit(rpc->executor, &rpc->task, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->working = true;
}

void abl_rpc_pool(abl_rpc *rpc, abl_step (*work_cb)(abl_rpc *rpc), void (*done_cb)(abl_rpc *rpc)) {
    rpc->work_cb = work_cb;
    rpc->done_cb = done_cb;
    rpc->executor = NULL;
    rpc->pool = (abl_work){.work_cb = pool_run, .done_cb = pool_done};
    if (abl_loop_work(rpc->server->loop, &rpc->pool, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->working = true;
}

void abl_rpc_stream(abl_rpc *rpc, void (*next_cb)(abl_rpc *rpc)) {
    rpc->next_cb = next_cb;
    abl_rpc_pump(rpc);
}

void abl_rpc_pump(abl_rpc *rpc) {
    if (!rpc->sending && !rpc->working && !rpc->call->cancelled && rpc->next_cb != NULL) {
        rpc->next_cb(rpc);
    }
}

void abl_rpc_send(abl_rpc *rpc, const ProtobufCMessage *message) {
    ABL_ASSERT(!rpc->sending);
    abl_message packed;
    abl_code code = pack(rpc, message, &packed);
    if (rpc->scratch != NULL) {
        abl_arena_reset(rpc->scratch);
    }
    if (code != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->sending = true;
    abl_call_send(rpc->call, packed);
}
