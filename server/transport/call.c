/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract of call.h, checked in one place for all transports: a service that sends twice at
 * once, or finishes twice, is our own bug and aborts here, whichever transport carries the call. */
#include "server/transport/call.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "server/runtime/loop.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

abl_message abl_message_own(uint8_t *block, size_t bytes) {
    return (abl_message){.data = block, .bytes = bytes, .release_cb = abl_free, .user_data = block};
}

void abl_message_release(abl_message *message) {
    if (message->release_cb != NULL) {
        message->release_cb(message->user_data);
    }
    *message = (abl_message){0};
}

void abl_call_send(abl_call *call, abl_message message) {
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(!call->finished && !call->send_pending && call->method->server_stream);
    if (call->cancelled) {
        abl_message_release(&message);
        return;
    }
    call->send_pending = true;
    call->ops->send(call, message);
}

void abl_call_finish(abl_call *call, const abl_message *last, const abl_status *status) {
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(!call->finished);
    call->finished = true;
    bool ok = status == NULL || status->code == ABL_CODE_OK;
    if (last != NULL && (!ok || call->cancelled)) {
        abl_message dropped = *last;
        abl_message_release(&dropped);
        last = NULL;
    }
    call->ops->finish(call, last, ok ? NULL : status);
}

void abl_call_fail(abl_call *call, abl_code code, const char *reason, const char *format, ...) {
    char message[sizeof((abl_status *)NULL)->message];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    abl_status status = {0};
    (void)abl_fail(&status, code, reason, "%s", message); /* makes it printable */
    abl_call_finish(call, NULL, &status);
}

void abl_call_recv(abl_call *call) {
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(!call->finished && !call->recv_pending && call->method->client_stream);
    if (!call->cancelled) {
        call->recv_pending = true;
        call->ops->recv(call);
    }
}

const char *abl_call_metadata(abl_call *call, const char *key) {
    return call->ops->metadata(call, key);
}

void abl_call_cancel(abl_call *call) {
    ABL_ASSERT_LOOP_THREAD();
    if (call->cancelled || call->finished) {
        return;
    }
    call->cancelled = true;
    if (call->on_cancel_cb != NULL) {
        call->on_cancel_cb(call);
    }
}

const abl_method *abl_services_find(const abl_service *services, size_t service_count,
                                    const char *path, void **ret_user_data) {
    for (size_t i = 0; i < service_count; i++) {
        for (size_t j = 0; j < services[i].method_count; j++) {
            if (strcmp(services[i].methods[j].path, path) == 0) {
                *ret_user_data = services[i].user_data;
                return &services[i].methods[j];
            }
        }
    }
    return NULL;
}
