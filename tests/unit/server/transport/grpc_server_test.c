/* SPDX-License-Identifier: Apache-2.0
 *
 * The server runs on a thread of its own (which so becomes the loop thread); the test's thread is
 * the client, through gRPC C core. Nothing sleeps for luck: counters are waited for with a limit,
 * and the limit fails the test. */
#include "server/transport/grpc_server.h"

#include "core/base/limits.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "server/transport/health.h"
#include "server/transport/reflection.h"
#include "tests/support/echo_service.h"
#include "tests/support/grpc_client.h"
#include "tests/unit/unit.h"

#include <grpc/support/alloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct fixture {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t ready;
    int port;
    uint64_t grace_ms;
    abl_loop *loop;
    abl_grpc_server *server;
    abl_health *health;
    abl_reflection *reflection;
    abl_service services[4];
    echo_service echo;
    abl_mail stop_mail;
    grpc_client client;
} fixture;

static abl_code guard(abl_call *call, void *user_data, abl_status *ret_status) {
    (void)user_data;
    const char *token = abl_call_metadata(call, "x-refuse");
    return token == NULL ? ABL_CODE_OK
                         : abl_fail(ret_status, ABL_CODE_UNAUTHENTICATED, "REFUSED", "%s", token);
}

static void on_stopped(void *user_data) {
    fixture *f = user_data;
    abl_grpc_server_destroy(f->server);
    abl_loop_stop(f->loop);
}

static void on_stop(abl_mail *mail) {
    fixture *f = (fixture *)(void *)((char *)mail - offsetof(fixture, stop_mail));
    abl_health_drain(f->health);
    abl_grpc_server_shutdown(f->server, f->grace_ms, on_stopped, f);
}

static void *server_main(void *argument) {
    fixture *f = argument;
    assert_int_equal(abl_loop_create(&f->loop, NULL), ABL_CODE_OK);
    f->health = abl_health_create(f->services, 4);
    assert_int_equal(abl_reflection_create(abl_proto_descriptors, abl_proto_descriptors_bytes,
                                           &f->reflection, NULL),
                     ABL_CODE_OK);
    f->services[0] = echo_service_table(&f->echo);
    f->services[1] = abl_health_service(f->health);
    f->services[2] = abl_reflection_service_v1(f->reflection);
    f->services[3] = abl_reflection_service_v1alpha(f->reflection);
    abl_grpc_options options = {.loop = f->loop,
                                .services = f->services,
                                .service_count = 4,
                                .listen = "127.0.0.1:0",
                                .message_bytes_max = 1 << 20,
                                .guard_cb = guard};
    abl_status status = {0};
    if (abl_grpc_server_create(&options, &f->server, &status) != ABL_CODE_OK) {
        (void)fprintf(stderr, "%s\n", status.message);
        abort();
    }
    (void)pthread_mutex_lock(&f->mutex);
    f->port = abl_grpc_server_port(f->server);
    (void)pthread_cond_signal(&f->ready);
    (void)pthread_mutex_unlock(&f->mutex);
    abl_loop_run(f->loop);
    abl_health_destroy(f->health);
    abl_reflection_destroy(f->reflection);
    abl_loop_destroy(f->loop);
    return NULL;
}

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    f->grace_ms = 10000;
    (void)pthread_mutex_init(&f->mutex, NULL);
    (void)pthread_cond_init(&f->ready, NULL);
    (void)pthread_create(&f->thread, NULL, server_main, f);
    (void)pthread_mutex_lock(&f->mutex);
    while (f->port == 0) {
        (void)pthread_cond_wait(&f->ready, &f->mutex);
    }
    (void)pthread_mutex_unlock(&f->mutex);
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%d", f->port);
    grpc_client_init(&f->client, target);
    *state = f;
    return 0;
}

static void ask_to_stop(fixture *f) {
    f->stop_mail.deliver_cb = on_stop;
    abl_loop_post(f->loop, &f->stop_mail);
}

static int tear_down(void **state) {
    fixture *f = *state;
    if (f->stop_mail.deliver_cb == NULL) {
        ask_to_stop(f);
    }
    (void)pthread_join(f->thread, NULL);
    grpc_client_finish(&f->client);
    (void)pthread_mutex_destroy(&f->mutex);
    (void)pthread_cond_destroy(&f->ready);
    free(f);
    return 0;
}

static void wait_until(const int *counter, int value) {
    for (int i = 0; i < 2000; i++) {
        if (__atomic_load_n(counter, __ATOMIC_SEQ_CST) >= value) {
            return;
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    fail_msg("waited 10 s for a counter to reach %d; it is %d", value, *counter);
}

static void assert_reason(const grpc_reply *reply, const char *reason) {
    Google__Rpc__Status *status =
        google__rpc__status__unpack(NULL, reply->details_bytes, reply->details);
    assert_non_null(status);
    assert_int_equal(status->code, reply->status);
    assert_int_equal(status->n_details, 1);
    assert_string_equal(status->details[0]->type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(
        NULL, status->details[0]->value.len, status->details[0]->value.data);
    assert_non_null(info);
    assert_string_equal(info->reason, reason);
    assert_string_equal(info->domain, "ablate");
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__status__free_unpacked(status, NULL);
}

static void assert_echo_works(fixture *f) {
    grpc_reply reply = grpc_client_unary(&f->client, "/test.Echo/Echo", "hello", 5, 10000);
    assert_int_equal(reply.status, ABL_CODE_OK);
    assert_string_equal((char *)reply.message, "hello");
    grpc_reply_finish(&reply);
}

static void a_unary_call_is_answered(void **state) {
    fixture *f = *state;
    for (int i = 0; i < 100; i++) {
        assert_echo_works(f);
    }
    grpc_reply reply = grpc_client_unary(&f->client, "/test.Echo/Echo", "", 0, 10000);
    assert_int_equal(reply.status, ABL_CODE_OK);
    assert_int_equal(reply.message_bytes, 0);
    grpc_reply_finish(&reply);
}

static void a_failure_carries_its_reason_and_words(void **state) {
    fixture *f = *state;
    const char words[] = "caf\xc3\xa9 at 100%";
    grpc_reply reply =
        grpc_client_unary(&f->client, "/test.Echo/Fail", words, sizeof words - 1, 10000);
    assert_int_equal(reply.status, ABL_CODE_FAILED_PRECONDITION);
    assert_string_equal(reply.text, words);
    assert_reason(&reply, "TEST_REASON");
    grpc_reply_finish(&reply);
}

static void bytes_that_are_no_text_do_not_break_an_error(void **state) {
    fixture *f = *state;
    grpc_reply reply = grpc_client_unary(&f->client, "/test.Echo/Fail", "a\xff\xfez", 4, 10000);
    assert_int_equal(reply.status, ABL_CODE_FAILED_PRECONDITION);
    assert_string_equal(reply.text, "a??z");
    assert_reason(&reply, "TEST_REASON");
    grpc_reply_finish(&reply);
}

static void an_unknown_method_is_unimplemented(void **state) {
    fixture *f = *state;
    grpc_reply reply = grpc_client_unary(&f->client, "/test.Echo/Nothing", "x", 1, 10000);
    assert_int_equal(reply.status, ABL_CODE_UNIMPLEMENTED);
    assert_non_null(strstr(reply.text, "/test.Echo/Nothing"));
    assert_reason(&reply, "METHOD_UNKNOWN");
    grpc_reply_finish(&reply);
}

static void a_message_over_the_limit_is_refused_and_the_server_lives(void **state) {
    fixture *f = *state;
    size_t bytes = (1 << 20) + 1;
    char *big = calloc(bytes, 1);
    grpc_reply reply = grpc_client_unary(&f->client, "/test.Echo/Echo", big, bytes, 10000);
    assert_int_equal(reply.status, ABL_CODE_RESOURCE_EXHAUSTED);
    grpc_reply_finish(&reply);
    reply = grpc_client_unary(&f->client, "/test.Echo/Echo", big, 1 << 20, 10000);
    assert_int_equal(reply.status, ABL_CODE_OK);
    assert_int_equal(reply.message_bytes, 1 << 20);
    grpc_reply_finish(&reply);
    free(big);
    assert_echo_works(f);
}

static void a_call_without_a_message_is_refused(void **state) {
    fixture *f = *state;
    grpc_stream stream = grpc_stream_open(&f->client, "/test.Echo/Echo", 10000);
    (void)grpc_stream_send_end(&stream);
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_INVALID_ARGUMENT);
    assert_reason(&reply, "REQUEST_MISSING");
    grpc_reply_finish(&reply);
}

static grpc_stream open_count(fixture *f, const char *request, int64_t timeout_ms) {
    grpc_stream stream = grpc_stream_open(&f->client, "/test.Echo/Count", timeout_ms);
    (void)grpc_stream_send(&stream, request, strlen(request));
    (void)grpc_stream_send_end(&stream);
    return stream;
}

static void a_stream_arrives_whole_and_in_order(void **state) {
    fixture *f = *state;
    grpc_stream stream = open_count(f, "200 70000", 20000);
    for (int i = 0; i < 200; i++) {
        size_t bytes = 0;
        unsigned char *message = grpc_stream_receive(&stream, &bytes);
        assert_non_null(message);
        assert_int_equal(bytes, 70000);
        assert_int_equal(message[0], i);
        assert_int_equal(message[69999], i);
        gpr_free(message);
    }
    size_t bytes = 0;
    assert_null(grpc_stream_receive(&stream, &bytes));
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_OK);
    wait_until(&f->echo.released, 200);
}

static void a_stalled_reader_stalls_the_service_and_a_cancel_frees_it(void **state) {
    fixture *f = *state;
    grpc_stream stream = open_count(f, "1000 1000000", 0);
    wait_until(&f->echo.sent, 1);
    int before = -1;
    int now = 0;
    while (now != before) { /* until a tenth of a second brings no further message */
        before = now;
        (void)nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        now = __atomic_load_n(&f->echo.sent, __ATOMIC_SEQ_CST);
    }
    assert_in_range(now, 1, 200);
    assert_echo_works(f);
    grpc_stream_cancel(&stream);
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_CANCELLED);
    wait_until(&f->echo.cancelled, 1);
    assert_echo_works(f);
}

static void a_deadline_cancels_the_call_on_both_sides(void **state) {
    fixture *f = *state;
    grpc_reply reply = grpc_client_unary(&f->client, "/test.Echo/Hang", "x", 1, 200);
    assert_int_equal(reply.status, ABL_CODE_DEADLINE_EXCEEDED);
    wait_until(&f->echo.cancelled, 1);
    grpc_reply_finish(&reply);
}

static void a_client_that_goes_away_cancels_its_calls(void **state) {
    fixture *f = *state;
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%d", f->port);
    grpc_client other;
    grpc_client_init(&other, target);
    grpc_stream stream = grpc_stream_open(&other, "/test.Echo/Hang", 0);
    (void)grpc_stream_send(&stream, "x", 1);
    (void)grpc_stream_send_end(&stream);
    wait_until(&f->echo.started, 1);
    grpc_call_unref(stream.call); /* as a client that dies: nothing is said */
    grpc_client_finish(&other);
    wait_until(&f->echo.cancelled, 1);
}

static void a_client_stream_is_received_message_by_message(void **state) {
    fixture *f = *state;
    grpc_stream stream = grpc_stream_open(&f->client, "/test.Echo/Sum", 20000);
    char block[10000] = {0};
    for (int i = 0; i < 100; i++) {
        assert_true(grpc_stream_send(&stream, block, sizeof block));
    }
    assert_true(grpc_stream_send(&stream, block, 0)); /* empty is not the end */
    assert_true(grpc_stream_send(&stream, block, 1));
    assert_true(grpc_stream_send_end(&stream));
    size_t bytes = 0;
    unsigned char *message = grpc_stream_receive(&stream, &bytes);
    assert_non_null(message);
    assert_string_equal((char *)message, "1000001");
    gpr_free(message);
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_OK);
}

static void both_sides_may_stream(void **state) {
    fixture *f = *state;
    grpc_stream stream = grpc_stream_open(&f->client, "/test.Echo/Chat", 20000);
    for (int i = 0; i < 20; i++) {
        assert_true(grpc_stream_send(&stream, &i, sizeof i));
        size_t bytes = 0;
        unsigned char *message = grpc_stream_receive(&stream, &bytes);
        assert_non_null(message);
        assert_memory_equal(message, &i, sizeof i);
        gpr_free(message);
    }
    assert_true(grpc_stream_send_end(&stream));
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_OK);
}

static void a_second_server_on_the_same_port_is_refused(void **state) {
    fixture *f = *state;
    abl_loop *loop = NULL;
    assert_int_equal(abl_loop_create(&loop, NULL), ABL_CODE_OK);
    char listen[64];
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%d", f->port);
    abl_grpc_options options = {
        .loop = loop, .services = f->services, .service_count = 1, .listen = listen};
    abl_grpc_server *server = NULL;
    abl_status status = {0};
    assert_int_equal(abl_grpc_server_create(&options, &server, &status), ABL_CODE_UNAVAILABLE);
    assert_string_equal(status.reason, "LISTEN_FAILED");
    assert_non_null(strstr(status.message, listen));
    abl_loop_destroy(loop);
    assert_echo_works(f);
}

/* ---- health ---- */

static grpc_reply check(fixture *f, const char *name) {
    unsigned char request[128] = {0x0a, (unsigned char)strlen(name)};
    memcpy(request + 2, name, strlen(name));
    return grpc_client_unary(&f->client, "/grpc.health.v1.Health/Check", request, 2 + strlen(name),
                             10000);
}

static void health_knows_the_services_and_no_others(void **state) {
    fixture *f = *state;
    const char *const known[] = {"", "test.Echo", "grpc.health.v1.Health"};
    for (size_t i = 0; i < ABL_COUNT_OF(known); i++) {
        grpc_reply reply = check(f, known[i]);
        assert_int_equal(reply.status, ABL_CODE_OK);
        assert_int_equal(reply.message_bytes, 2);
        assert_int_equal(reply.message[1], 1);
        grpc_reply_finish(&reply);
    }
    grpc_reply reply = check(f, "test.Ech");
    assert_int_equal(reply.status, ABL_CODE_NOT_FOUND);
    grpc_reply_finish(&reply);
    reply = grpc_client_unary(&f->client, "/grpc.health.v1.Health/Check", "\x0a\x7f", 2, 10000);
    assert_int_equal(reply.status, ABL_CODE_INVALID_ARGUMENT);
    assert_reason(&reply, "MALFORMED_MESSAGE");
    grpc_reply_finish(&reply);
}

static int receive_state(grpc_stream *stream) {
    size_t bytes = 0;
    unsigned char *message = grpc_stream_receive(stream, &bytes);
    int serving = message == NULL ? -1 : message[1];
    gpr_free(message);
    return serving;
}

static void a_watch_is_told_of_the_drain_and_ends(void **state) {
    fixture *f = *state;
    grpc_stream stream = grpc_stream_open(&f->client, "/grpc.health.v1.Health/Watch", 20000);
    (void)grpc_stream_send(&stream, "", 0);
    (void)grpc_stream_send_end(&stream);
    assert_int_equal(receive_state(&stream), 1);
    grpc_stream unknown = grpc_stream_open(&f->client, "/grpc.health.v1.Health/Watch", 20000);
    (void)grpc_stream_send(&unknown, "\x0a\x01x", 3);
    (void)grpc_stream_send_end(&unknown);
    assert_int_equal(receive_state(&unknown), 3);
    ask_to_stop(f);
    assert_int_equal(receive_state(&stream), 2);
    assert_int_equal(receive_state(&stream), -1);
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_UNAVAILABLE);
    reply = grpc_stream_close(&unknown);
    assert_int_equal(reply.status, ABL_CODE_UNAVAILABLE);
}

/* ---- drain ---- */

static void draining_refuses_new_calls_and_lets_old_ones_end(void **state) {
    fixture *f = *state;
    grpc_stream running = grpc_stream_open(&f->client, "/test.Echo/Chat", 20000);
    assert_true(grpc_stream_send(&running, "a", 1));
    size_t bytes = 0;
    gpr_free(grpc_stream_receive(&running, &bytes));
    ask_to_stop(f);
    grpc_reply reply = {0};
    for (int i = 0; i < 1000 && reply.status != ABL_CODE_UNAVAILABLE; i++) {
        reply = grpc_client_unary(&f->client, "/test.Echo/Echo", "x", 1, 10000);
        grpc_reply_finish(&reply);
    }
    assert_int_equal(reply.status, ABL_CODE_UNAVAILABLE);
    assert_reason(&reply, "DRAINING");
    reply = check(f, "");
    assert_int_equal(reply.status, ABL_CODE_OK);
    assert_int_equal(reply.message[1], 2);
    grpc_reply_finish(&reply);
    assert_true(grpc_stream_send(&running, "b", 1));
    unsigned char *message = grpc_stream_receive(&running, &bytes);
    assert_string_equal((char *)message, "b");
    gpr_free(message);
    (void)grpc_stream_send_end(&running);
    reply = grpc_stream_close(&running);
    assert_int_equal(reply.status, ABL_CODE_OK);
}

static void the_end_of_the_grace_cancels_what_still_runs(void **state) {
    fixture *f = *state;
    f->grace_ms = 100;
    grpc_stream stream = grpc_stream_open(&f->client, "/test.Echo/Hang", 0);
    (void)grpc_stream_send(&stream, "x", 1);
    (void)grpc_stream_send_end(&stream);
    wait_until(&f->echo.started, 1);
    ask_to_stop(f);
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_not_equal(reply.status, ABL_CODE_OK);
    wait_until(&f->echo.cancelled, 1);
}

/* ---- reflection ---- */

static Grpc__Reflection__V1__ServerReflectionResponse *ask(grpc_stream *stream, int tag,
                                                           const char *text) {
    unsigned char request[256] = {(unsigned char)(tag << 3 | 2), (unsigned char)strlen(text)};
    memcpy(request + 2, text, strlen(text));
    assert_true(grpc_stream_send(stream, request, 2 + strlen(text)));
    size_t bytes = 0;
    unsigned char *message = grpc_stream_receive(stream, &bytes);
    assert_non_null(message);
    Grpc__Reflection__V1__ServerReflectionResponse *response =
        grpc__reflection__v1__server_reflection_response__unpack(NULL, bytes, message);
    assert_non_null(response);
    gpr_free(message);
    return response;
}

static void reflect_over(fixture *f, const char *path) {
    grpc_stream stream = grpc_stream_open(&f->client, path, 20000);
    Grpc__Reflection__V1__ServerReflectionResponse *response = ask(&stream, 7, "");
    assert_non_null(response->list_services_response);
    bool has_health = false;
    for (size_t i = 0; i < response->list_services_response->n_service; i++) {
        has_health |= strcmp(response->list_services_response->service[i]->name,
                             "grpc.health.v1.Health") == 0;
    }
    assert_true(has_health);
    grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
    const char *const symbols[] = {"grpc.health.v1.Health", "grpc.health.v1.Health.Check",
                                   "grpc.health.v1.HealthCheckResponse.ServingStatus",
                                   "google.rpc.Status", "google.rpc.ErrorInfo.MetadataEntry"};
    for (size_t i = 0; i < ABL_COUNT_OF(symbols); i++) {
        response = ask(&stream, 4, symbols[i]);
        /* The enumerator's own name is wider than a line: 4 is its field's number. */
        assert_int_equal((int)response->message_response_case, 4);
        assert_int_equal(response->file_descriptor_response->n_file_descriptor_proto,
                         i == 3 ? 2 : 1); /* Status imports Any */
        grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
    }
    response = ask(&stream, 3, "google/rpc/status.proto");
    assert_int_equal(response->file_descriptor_response->n_file_descriptor_proto, 2);
    grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
    response = ask(&stream, 4, "no.such.Thing");
    assert_int_equal(response->error_response->error_code, ABL_CODE_NOT_FOUND);
    grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
    (void)grpc_stream_send_end(&stream);
    grpc_reply reply = grpc_stream_close(&stream);
    assert_int_equal(reply.status, ABL_CODE_OK);
}

static void reflection_answers_in_both_versions(void **state) {
    reflect_over(*state, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    reflect_over(*state, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_unary_call_is_answered),
        TEST(a_failure_carries_its_reason_and_words),
        TEST(bytes_that_are_no_text_do_not_break_an_error),
        TEST(an_unknown_method_is_unimplemented),
        TEST(a_message_over_the_limit_is_refused_and_the_server_lives),
        TEST(a_call_without_a_message_is_refused),
        TEST(a_stream_arrives_whole_and_in_order),
        TEST(a_stalled_reader_stalls_the_service_and_a_cancel_frees_it),
        TEST(a_deadline_cancels_the_call_on_both_sides),
        TEST(a_client_that_goes_away_cancels_its_calls),
        TEST(a_client_stream_is_received_message_by_message),
        TEST(both_sides_may_stream),
        TEST(a_second_server_on_the_same_port_is_refused),
        TEST(health_knows_the_services_and_no_others),
        TEST(a_watch_is_told_of_the_drain_and_ends),
        TEST(draining_refuses_new_calls_and_lets_old_ones_end),
        TEST(the_end_of_the_grace_cancels_what_still_runs),
        TEST(reflection_answers_in_both_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
