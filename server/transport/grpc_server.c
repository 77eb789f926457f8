/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC C core with one completion queue. A thread of ours waits on the queue and does one thing
 * with an event: it posts the tag to the loop. Everything else, every grpc_call_start_batch too,
 * happens on the loop thread, so no state here needs a lock.
 *
 *     client ─> libgrpc's threads ─> completion queue ─> our thread ─ mailbox ─> loop: service
 *
 * Rejected: core's callback queue (it polls nothing from C on Linux), running services on the
 * queue's thread (saves well under 0.1 ms and costs the one-writer rule), a second queue (no gain
 * measured on two cores).
 *
 * A call is asked for before it comes: each method keeps SLOT_COUNT requests armed, and the
 * fallback as many for paths that are no method. Core queues what comes when none is armed.
 *
 * The end has an order that core insists on. Draining refuses new calls ourselves, so that clients
 * get a reason; when the last call is gone (or cancelled, after the grace), core is shut down; the
 * queue may be shut down only when core has said so, no call is live and no armed request is
 * pending; then the thread ends, is joined, and the queue destroyed. */
#include "server/transport/grpc_server.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/transport/grpc_internal.h"
#include "server/transport/tsan.h"

#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SLOT_COUNT 4
#define FLUSH_MS 200 /* for the last bytes of finished calls, and for clients to hang up */

struct abl_grpc_server {
    abl_loop *loop;
    abl_guard_cb guard_cb;
    void *guard_user_data;
    grpc_server *server;
    grpc_completion_queue *queue;
    pthread_t thread;
    int port;
    grpc_slot *slots; /* slot_count of them; the last is the fallback */
    size_t slot_count;
    size_t armed; /* in all slots */
    size_t live_calls;
    size_t request_bytes;

    /* Certificates that core has not fetched yet; it fetches on threads of its own. */
    _Atomic(grpc_ssl_server_certificate_config *) certificates;

    bool draining;
    bool core_stopping;
    bool core_stopped;
    bool queue_stopping;
    bool thread_ended;
    grpc_tag stop_tag;
    abl_mail ended_mail;
    abl_timer *grace;
    void (*done_cb)(void *user_data);
    void *done_user_data;
};

/* ---- the queue's thread ---- */

static void *thread_main(void *argument) {
    abl_grpc_server *server = argument;
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (event.type != GRPC_OP_COMPLETE) {
            break; /* GRPC_QUEUE_SHUTDOWN: it is empty, too */
        }
        grpc_tag *tag = event.tag;
        ABL_TSAN_ACQUIRE(tag);
        tag->ok = event.success != 0;
        abl_loop_post(server->loop, &tag->mail);
    }
    abl_loop_post(server->loop, &server->ended_mail);
    return NULL;
}

/* ---- arming ---- */

static void on_request(abl_mail *mail);

static void slot_arm(grpc_slot *slot) {
    abl_grpc_server *server = slot->server;
    while (!server->core_stopping && slot->armed < SLOT_COUNT) {
        grpc_server_call *call = abl_grpc_call_create(slot);
        if (call == NULL) {
            return; /* tried again at the end of the next call */
        }
        call->request_tag.mail.deliver_cb = on_request;
        ABL_TSAN_RELEASE(&call->request_tag);
        grpc_call_error error =
            slot->method == NULL
                ? grpc_server_request_call(server->server, &call->grpc, &call->details,
                                           &call->metadata, server->queue, server->queue,
                                           &call->request_tag)
                : grpc_server_request_registered_call(
                      server->server, slot->registered, &call->grpc, &call->deadline,
                      &call->metadata, slot->method->client_stream ? NULL : &call->payload,
                      server->queue, server->queue, &call->request_tag);
        ABL_ASSERT(error == GRPC_CALL_OK);
        slot->armed++;
        server->armed++;
    }
}

static void maybe_stop_queue(abl_grpc_server *server) {
    if (server->core_stopped && server->live_calls == 0 && server->armed == 0 &&
        !server->queue_stopping) {
        server->queue_stopping = true;
        grpc_server_destroy(server->server);
        server->server = NULL;
        grpc_completion_queue_shutdown(server->queue);
    }
}

static void on_request(abl_mail *mail) {
    grpc_server_call *call =
        (grpc_server_call *)(void *)((char *)mail - offsetof(grpc_server_call, request_tag.mail));
    grpc_slot *slot = call->slot;
    abl_grpc_server *server = slot->server;
    slot->armed--;
    server->armed--;
    if (!call->request_tag.ok) { /* core is stopping */
        abl_grpc_call_destroy(call);
        maybe_stop_queue(server);
        return;
    }
    server->live_calls++;
    slot_arm(slot);
    abl_grpc_call_begin(call);
}

/* ---- what calls ask of the server ---- */

bool abl_grpc_server_is_draining(const abl_grpc_server *server) {
    return server->draining;
}

bool abl_grpc_server_is_full(const abl_grpc_server *server) {
    return server->live_calls > ABL_CALL_COUNT_MAX;
}

bool abl_grpc_server_admit_bytes(abl_grpc_server *server, size_t bytes) {
    if (bytes > (size_t)ABL_REQUEST_BYTES_TOTAL_MAX - server->request_bytes) {
        return false;
    }
    server->request_bytes += bytes;
    return true;
}

abl_code abl_grpc_server_guard(abl_grpc_server *server, abl_call *call, abl_status *ret_status) {
    return server->guard_cb == NULL ? ABL_CODE_OK
                                    : server->guard_cb(call, server->guard_user_data, ret_status);
}

abl_loop *abl_grpc_server_loop(const abl_grpc_server *server) {
    return server->loop;
}

static void maybe_stop_core(abl_grpc_server *server);

void abl_grpc_server_call_ended(abl_grpc_server *server, size_t request_bytes) {
    server->live_calls--;
    server->request_bytes -= request_bytes;
    if (server->armed < server->slot_count * SLOT_COUNT) {
        for (size_t i = 0; i < server->slot_count; i++) {
            slot_arm(&server->slots[i]);
        }
    }
    maybe_stop_core(server);
    maybe_stop_queue(server);
}

/* ---- create ---- */

static void quiet_log(gpr_log_func_args *arguments) {
    (void)arguments;
}

/* Failures come to our callers as statuses; core's own lines only on request. */
static void quieten_core(void) {
    if (getenv("GRPC_VERBOSITY") == NULL) {
        gpr_set_log_function(quiet_log);
    }
}

static grpc_server *core_create(size_t message_bytes_max) {
    grpc_arg entries[] = {
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
         .value.integer = (int)message_bytes_max},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_MAX_METADATA_SIZE,
         .value.integer = ABL_METADATA_BYTES_MAX},
        /* A second daemon on the same port must fail, not share it. */
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_ALLOW_REUSEPORT,
         .value.integer = 0},
        /* No compressed requests: 16 KiB can unfold to 16 MiB. */
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
         .value.integer = 1},
        /* Dead peers are found in a minute and a half; live ones may ping us each 10 s. */
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_KEEPALIVE_TIME_MS,
         .value.integer = 60000},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
         .value.integer = 30000},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
         .value.integer = 10000},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS,
         .value.integer = 1},
    };
    grpc_channel_args arguments = {.num_args = ABL_COUNT_OF(entries), .args = entries};
    return grpc_server_create(&arguments, NULL);
}

/* Core asserts that there are roots, even where it asks clients for nothing. */
static grpc_ssl_server_certificate_config *certificates_of(const abl_tls_options *tls) {
    const grpc_ssl_pem_key_cert_pair pair = {.private_key = tls->key,
                                             .cert_chain = tls->certificate};
    return grpc_ssl_server_certificate_config_create(
        tls->client_ca != NULL ? tls->client_ca : tls->certificate, &pair, 1);
}

/* Core asks at the start, and before each handshake. */
static grpc_ssl_certificate_config_reload_status
fetch_certificates(void *user_data, grpc_ssl_server_certificate_config **ret_config) {
    abl_grpc_server *server = user_data;
    grpc_ssl_server_certificate_config *config = atomic_exchange(&server->certificates, NULL);
    if (config == NULL) {
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    *ret_config = config; /* core's now */
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

static void certificates_replace(abl_grpc_server *server,
                                 grpc_ssl_server_certificate_config *config) {
    config = atomic_exchange(&server->certificates, config);
    if (config != NULL) {
        grpc_ssl_server_certificate_config_destroy(config);
    }
}

void abl_grpc_server_renew_tls(abl_grpc_server *server, const abl_tls_options *tls) {
    ABL_ASSERT_LOOP_THREAD();
    certificates_replace(server, certificates_of(tls));
}

static grpc_server_credentials *credentials_of(abl_grpc_server *server,
                                               const abl_tls_options *tls) {
    if (tls == NULL) {
        return grpc_insecure_server_credentials_create();
    }
    certificates_replace(server, certificates_of(tls));
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            tls->client_ca == NULL ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                   : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
            fetch_certificates, server));
}

static abl_code listen_on(abl_grpc_server *server, const abl_grpc_options *options,
                          abl_status *ret_status) {
    grpc_server_credentials *credentials = credentials_of(server, options->tls);
    if (credentials == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "certificate and key do not make server credentials");
    }
    server->port = grpc_server_add_http2_port(server->server, options->listen, credentials);
    grpc_server_credentials_release(credentials);
    if (server->port <= 0) {
        return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "LISTEN_FAILED",
                        "cannot listen on '%s': the address is taken, or not this machine's",
                        options->listen);
    }
    return ABL_CODE_OK;
}

static abl_code register_methods(abl_grpc_server *server, const abl_grpc_options *options,
                                 abl_status *ret_status) {
    size_t count = 1; /* the fallback */
    for (size_t i = 0; i < options->service_count; i++) {
        count += options->services[i].method_count;
    }
    server->slots = abl_calloc(count, sizeof *server->slots);
    if (server->slots == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < options->service_count; i++) {
        const abl_service *service = &options->services[i];
        for (size_t j = 0; j < service->method_count; j++) {
            const abl_method *method = &service->methods[j];
            grpc_slot *slot = &server->slots[server->slot_count++];
            *slot =
                (grpc_slot){.server = server, .method = method, .user_data = service->user_data};
            slot->registered = grpc_server_register_method(
                server->server, method->path, NULL,
                method->client_stream ? GRPC_SRM_PAYLOAD_NONE
                                      : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER,
                0);
            ABL_ASSERT(slot->registered != NULL); /* a path twice in our own tables */
        }
    }
    server->slots[server->slot_count++] = (grpc_slot){.server = server};
    return ABL_CODE_OK;
}

static void on_thread_ended(abl_mail *mail);

/* Undoes a create that failed before the server ran; core wants to be shut down all the same. */
static void abandon(abl_grpc_server *server) {
    if (server->server != NULL) {
        grpc_server_shutdown_and_notify(server->server, server->queue, NULL);
        (void)grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        grpc_server_destroy(server->server);
    }
    if (server->queue != NULL) {
        grpc_completion_queue_shutdown(server->queue);
        while (grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL)
                   .type != GRPC_QUEUE_SHUTDOWN) {
        }
        grpc_completion_queue_destroy(server->queue);
    }
    certificates_replace(server, NULL);
    grpc_shutdown();
    abl_timer_destroy(server->grace);
    abl_free(server->slots);
    abl_free(server);
}

static void on_grace_over(void *user_data);

abl_code abl_grpc_server_create(const abl_grpc_options *options, abl_grpc_server **ret_server,
                                abl_status *ret_status) {
    ABL_ASSERT_LOOP_THREAD();
    abl_grpc_server *server = abl_calloc(1, sizeof *server);
    if (server == NULL) {
        return abl_fail_oom(ret_status);
    }
    quieten_core();
    grpc_init();
    server->loop = options->loop;
    server->guard_cb = options->guard_cb;
    server->guard_user_data = options->guard_user_data;
    server->ended_mail.deliver_cb = on_thread_ended;
    server->grace = abl_timer_create(options->loop, on_grace_over, server);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    server->server = core_create(options->message_bytes_max == 0 ? ABL_MESSAGE_BYTES_MAX
                                                                 : options->message_bytes_max);
    grpc_server_register_completion_queue(server->server, server->queue, NULL);
    abl_code code = server->grace == NULL ? abl_fail_oom(ret_status)
                                          : register_methods(server, options, ret_status);
    if (code == ABL_CODE_OK) {
        code = listen_on(server, options, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abandon(server);
        return code;
    }
    int error = pthread_create(&server->thread, NULL, thread_main, server);
    if (error != 0) {
        abandon(server);
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "THREAD_REFUSED",
                        "no thread for the completion queue (error %d)", error);
    }
    (void)pthread_setname_np(server->thread, "grpc-queue");
    grpc_server_start(server->server);
    for (size_t i = 0; i < server->slot_count; i++) {
        slot_arm(&server->slots[i]);
    }
    *ret_server = server;
    return ABL_CODE_OK;
}

int abl_grpc_server_port(const abl_grpc_server *server) {
    return server->port;
}

/* ---- the end ---- */

static void on_core_stopped(abl_mail *mail) {
    abl_grpc_server *server =
        (abl_grpc_server *)(void *)((char *)mail - offsetof(abl_grpc_server, stop_tag.mail));
    server->core_stopped = true;
    abl_timer_stop(server->grace);
    maybe_stop_queue(server);
}

static void stop_core(abl_grpc_server *server) {
    if (!server->core_stopping) {
        server->core_stopping = true;
        server->stop_tag.mail.deliver_cb = on_core_stopped;
        ABL_TSAN_RELEASE(&server->stop_tag);
        grpc_server_shutdown_and_notify(server->server, server->queue, &server->stop_tag);
    }
}

static void maybe_stop_core(abl_grpc_server *server) {
    if (server->draining && !server->core_stopping && server->live_calls == 0) {
        stop_core(server);
        abl_timer_start(server->grace, FLUSH_MS, 0);
    }
}

static void on_grace_over(void *user_data) {
    abl_grpc_server *server = user_data;
    stop_core(server);
    if (server->server != NULL) {
        grpc_server_cancel_all_calls(server->server);
    }
}

void abl_grpc_server_shutdown(abl_grpc_server *server, uint64_t grace_ms,
                              void (*done_cb)(void *user_data), void *user_data) {
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(!server->draining);
    server->draining = true;
    server->done_cb = done_cb;
    server->done_user_data = user_data;
    abl_timer_start(server->grace, grace_ms, 0);
    maybe_stop_core(server);
}

static void on_thread_ended(abl_mail *mail) {
    abl_grpc_server *server =
        (abl_grpc_server *)(void *)((char *)mail - offsetof(abl_grpc_server, ended_mail));
    (void)pthread_join(server->thread, NULL);
    grpc_completion_queue_destroy(server->queue);
    server->thread_ended = true;
    if (server->done_cb != NULL) {
        server->done_cb(server->done_user_data);
    }
}

void abl_grpc_server_destroy(abl_grpc_server *server) {
    if (server == NULL) {
        return;
    }
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(server->thread_ended); /* shut it down, and wait for done_cb */
    abl_timer_destroy(server->grace);
    abl_free(server->slots);
    certificates_replace(server, NULL);
    abl_free(server);
    grpc_shutdown();
}
