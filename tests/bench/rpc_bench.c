/* SPDX-License-Identifier: Apache-2.0
 *
 * What a unary call costs over doing the same in process. Without arguments the bench starts a
 * server of its own with an echo method, and calls that method both ways in turn: over gRPC (one
 * connection, one call at a time, loopback) and straight through the method table. With a host:port
 * and a method's path it measures that method of a running daemon, with an empty request.
 *
 *     rpc_bench [HOST:PORT /package.Service/Method]
 *
 * Prints one JSON object; times in ms. The difference of the medians is the cost. */
#include "server/transport/grpc_server.h"
#include "tests/support/echo_service.h"
#include "tests/support/grpc_client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WARM_UP_COUNT 500
#define CALL_COUNT 5000
#define REQUEST_BYTES 64

typedef struct own_server {
    pthread_t thread;
    int port; /* atomic */
    abl_loop *loop;
    abl_grpc_server *server;
    abl_service services[1];
    echo_service echo;
    abl_mail stop_mail;
} own_server;

static void on_stopped(void *user_data) {
    own_server *own = user_data;
    abl_grpc_server_destroy(own->server);
    abl_loop_stop(own->loop);
}

static void on_stop(abl_mail *mail) {
    own_server *own = (own_server *)(void *)((char *)mail - offsetof(own_server, stop_mail));
    abl_grpc_server_shutdown(own->server, 1000, on_stopped, own);
}

static void *server_main(void *argument) {
    own_server *own = argument;
    own->services[0] = echo_service_table(&own->echo);
    abl_status status = {0};
    abl_grpc_options options = {
        .services = own->services, .service_count = 1, .listen = "127.0.0.1:0"};
    if (abl_loop_create(&own->loop, &status) != ABL_CODE_OK) {
        abort();
    }
    options.loop = own->loop;
    if (abl_grpc_server_create(&options, &own->server, &status) != ABL_CODE_OK) {
        (void)fprintf(stderr, "rpc_bench: %s\n", status.message);
        exit(1);
    }
    own->stop_mail.deliver_cb = on_stop;
    __atomic_store_n(&own->port, abl_grpc_server_port(own->server), __ATOMIC_SEQ_CST);
    abl_loop_run(own->loop);
    abl_loop_destroy(own->loop);
    return NULL;
}

static void own_server_start(own_server *own) {
    (void)pthread_create(&own->thread, NULL, server_main, own);
    while (__atomic_load_n(&own->port, __ATOMIC_SEQ_CST) == 0) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static double now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b) {
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static void measure_rpc(const char *target, const char *path, double *ret_ms) {
    grpc_client client;
    grpc_client_init(&client, target);
    char request[REQUEST_BYTES] = "";
    size_t bytes = strcmp(path, "/test.Echo/Echo") == 0 ? sizeof request : 0;
    for (int i = -WARM_UP_COUNT; i < CALL_COUNT; i++) {
        double start = now_ms();
        grpc_reply reply = grpc_client_unary(&client, path, request, bytes, 10000);
        if (i >= 0) {
            ret_ms[i] = now_ms() - start;
        }
        if (reply.status != 0) {
            (void)fprintf(stderr, "rpc_bench: %s: status %d: %s\n", path, reply.status, reply.text);
            exit(1);
        }
        grpc_reply_finish(&reply);
    }
    grpc_client_finish(&client);
}

/* ---- the same method without a transport ---- */

static void drop_finish(abl_call *call, const abl_message *last, const abl_status *status) {
    (void)call;
    (void)status;
    if (last != NULL) {
        abl_message dropped = *last;
        abl_message_release(&dropped);
    }
}

static void measure_in_process(double *ret_ms) {
    static const abl_call_ops ops = {.finish = drop_finish};
    abl_loop *loop = NULL; /* services run on a loop's thread only */
    echo_service echo = {0};
    abl_service service = echo_service_table(&echo);
    const uint8_t request[REQUEST_BYTES] = {0};
    if (abl_loop_create(&loop, NULL) != ABL_CODE_OK) {
        abort();
    }
    for (int i = 0; i < CALL_COUNT; i++) {
        double start = now_ms();
        void *user_data = NULL;
        const abl_method *method = abl_services_find(&service, 1, "/test.Echo/Echo", &user_data);
        abl_call call = {
            .ops = &ops, .method = method, .request = request, .request_bytes = sizeof request};
        method->start_cb(&call, user_data);
        ret_ms[i] = now_ms() - start;
    }
    abl_loop_destroy(loop);
}

int main(int argc, char **argv) {
    static double rpc_ms[CALL_COUNT];
    static double direct_ms[CALL_COUNT];
    const char *path = argc == 3 ? argv[2] : "/test.Echo/Echo";
    own_server own = {0};
    char target[64] = "";
    if (argc != 3) {
        own_server_start(&own);
        (void)snprintf(target, sizeof target, "127.0.0.1:%d", own.port);
    }
    measure_rpc(argc == 3 ? argv[1] : target, path, rpc_ms);
    measure_in_process(direct_ms);
    if (argc != 3) {
        abl_loop_post(own.loop, &own.stop_mail);
        (void)pthread_join(own.thread, NULL);
    }
    qsort(rpc_ms, CALL_COUNT, sizeof *rpc_ms, compare);
    qsort(direct_ms, CALL_COUNT, sizeof *direct_ms, compare);
    (void)printf("{\"method\": \"%s\", \"calls\": %d, \"rpc_p50_ms\": %.4f, \"rpc_p99_ms\": %.4f, "
                 "\"in_process_p50_ms\": %.4f, \"overhead_p50_ms\": %.4f}\n",
                 path, CALL_COUNT, rpc_ms[CALL_COUNT / 2], rpc_ms[CALL_COUNT * 99 / 100],
                 direct_ms[CALL_COUNT / 2], rpc_ms[CALL_COUNT / 2] - direct_ms[CALL_COUNT / 2]);
    return 0;
}
