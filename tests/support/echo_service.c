/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/echo_service.h"

#include "core/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct echo_state {
    echo_service *service;
    size_t left;
    size_t bytes;
    unsigned char fill;
} echo_state;

static void add(int *counter) {
    (void)__atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
}

static abl_message copy_of(const void *data, size_t bytes) {
    uint8_t *block = abl_malloc(bytes);
    if (bytes > 0) {
        memcpy(block, data, bytes);
    }
    return abl_message_own(block, bytes);
}

static void start_echo(abl_call *call, void *user_data) {
    add(&((echo_service *)user_data)->started);
    abl_message answer = copy_of(call->request, call->request_bytes);
    abl_call_finish(call, &answer, NULL);
}

static void start_fail(abl_call *call, void *user_data) {
    add(&((echo_service *)user_data)->started);
    abl_call_fail(call, ABL_CODE_FAILED_PRECONDITION, "TEST_REASON", "%.*s",
                  (int)call->request_bytes, (const char *)call->request);
}

static void end_state(abl_call *call, const abl_message *last, bool cancelled) {
    echo_state *state = call->user;
    if (cancelled) {
        add(&state->service->cancelled);
        abl_free(state);
        abl_call_fail(call, ABL_CODE_CANCELLED, "CANCELLED", "the client left");
    } else {
        abl_free(state);
        abl_call_finish(call, last, NULL);
    }
}

static void on_cancel(abl_call *call) {
    end_state(call, NULL, true);
}

static echo_state *new_state(abl_call *call, void *user_data) {
    echo_state *state = abl_calloc(1, sizeof *state);
    state->service = user_data;
    call->user = state;
    call->on_cancel_cb = on_cancel;
    add(&state->service->started);
    return state;
}

static void start_hang(abl_call *call, void *user_data) {
    (void)new_state(call, user_data);
}

typedef struct counted_block {
    echo_service *service;
    uint8_t data[];
} counted_block;

static void release_counted(void *user_data) {
    counted_block *block = user_data;
    add(&block->service->released);
    abl_free(block);
}

static void count_next(abl_call *call) {
    echo_state *state = call->user;
    if (state->left == 0) {
        end_state(call, NULL, false);
        return;
    }
    counted_block *block = abl_malloc(sizeof *block + state->bytes);
    block->service = state->service;
    memset(block->data, state->fill++, state->bytes);
    state->left--;
    abl_call_send(call, (abl_message){.data = block->data,
                                      .bytes = state->bytes,
                                      .release_cb = release_counted,
                                      .user_data = block});
}

static void on_count_sent(abl_call *call) {
    add(&((echo_state *)call->user)->service->sent);
    count_next(call);
}

static void start_count(abl_call *call, void *user_data) {
    echo_state *state = new_state(call, user_data);
    char text[64] = {0};
    size_t length = call->request_bytes < sizeof text ? call->request_bytes : sizeof text - 1;
    memcpy(text, call->request, length);
    char *end = NULL;
    state->left = strtoul(text, &end, 10);
    state->bytes = strtoul(end, NULL, 10);
    call->on_sent_cb = on_count_sent;
    count_next(call);
}

static void on_sum_message(abl_call *call, const uint8_t *message, size_t bytes) {
    echo_state *state = call->user;
    if (message != NULL) {
        state->bytes += bytes;
        abl_call_recv(call);
        return;
    }
    char text[32];
    int length = snprintf(text, sizeof text, "%zu", state->bytes);
    abl_message answer = copy_of(text, (size_t)length);
    end_state(call, &answer, false);
}

static void start_sum(abl_call *call, void *user_data) {
    (void)new_state(call, user_data);
    call->on_message_cb = on_sum_message;
    abl_call_recv(call);
}

static void on_chat_message(abl_call *call, const uint8_t *message, size_t bytes) {
    if (message == NULL) {
        end_state(call, NULL, false);
    } else {
        abl_call_send(call, copy_of(message, bytes));
    }
}

static void start_chat(abl_call *call, void *user_data) {
    (void)new_state(call, user_data);
    call->on_message_cb = on_chat_message;
    call->on_sent_cb = abl_call_recv;
    abl_call_recv(call);
}

abl_service echo_service_table(echo_service *service) {
    static const abl_method methods[] = {
        {.path = "/test.Echo/Echo", .start_cb = start_echo},
        {.path = "/test.Echo/Fail", .start_cb = start_fail},
        {.path = "/test.Echo/Hang", .start_cb = start_hang},
        {.path = "/test.Echo/Count", .server_stream = true, .start_cb = start_count},
        {.path = "/test.Echo/Sum", .client_stream = true, .start_cb = start_sum},
        {.path = "/test.Echo/Chat",
         .client_stream = true,
         .server_stream = true,
         .start_cb = start_chat},
    };
    return (abl_service){.name = "test.Echo",
                         .methods = methods,
                         .method_count = ABL_COUNT_OF(methods),
                         .user_data = service};
}
