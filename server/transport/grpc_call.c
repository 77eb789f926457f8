/* SPDX-License-Identifier: Apache-2.0
 *
 * One gRPC call as batches on the completion queue. The batches of a call:
 *
 *     RECV_CLOSE_ON_SERVER            from the start; completes with `cancelled` set when the
 *                                     client cancels or leaves, or at the deadline: on_cancel_cb
 *     [HEADERS +] SEND_MESSAGE        one at a time; completion means that flow control took it,
 *                                     which is the backpressure: on_sent_cb
 *     RECV_MESSAGE                    one at a time, for client streams: on_message_cb
 *     [HEADERS +] [MESSAGE +] STATUS  the end; waits for a SEND_MESSAGE under way, because core
 *                                     allows one message op at a time
 *
 * Each batch holds a reference on the call; the service's own goes with the completion of STATUS.
 * A unary answer is one batch, so one write.
 *
 * Messages are sent without a copy when they are large: the slice refers to the service's memory,
 * and core runs our release function on a thread of its own. Small ones are copied, which is
 * cheaper than the allocation and the hop. */
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/transport/grpc_internal.h"
#include "server/transport/status_map.h"
#include "server/transport/tsan.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <string.h>

#define COPY_BYTES_MAX ((size_t)4 << 10)

static const abl_method unknown_method = {.path = "(unknown)"};

static grpc_server_call *of_tag(abl_mail *mail, size_t offset) {
    return (grpc_server_call *)(void *)((char *)mail - offset);
}
#define CALL_OF(mail_pointer, tag) of_tag(mail_pointer, offsetof(grpc_server_call, tag))

/* ---- life ---- */

grpc_server_call *abl_grpc_call_create(grpc_slot *slot) {
    grpc_server_call *call = abl_calloc(1, sizeof *call);
    if (call != NULL) {
        call->server = slot->server;
        call->slot = slot;
        call->base.ops = &abl_grpc_call_ops;
        call->base.method = slot->method == NULL ? &unknown_method : slot->method;
        call->request = grpc_empty_slice();
        call->status_text = grpc_empty_slice();
        grpc_metadata_array_init(&call->metadata);
        grpc_call_details_init(&call->details);
    }
    return call;
}

void abl_grpc_call_destroy(grpc_server_call *call) {
    grpc_slice_unref(call->request);
    grpc_slice_unref(call->status_text);
    if (call->trailing_count > 0) {
        grpc_slice_unref(call->trailing.value);
    }
    grpc_byte_buffer_destroy(call->payload);
    grpc_byte_buffer_destroy(call->outgoing);
    grpc_byte_buffer_destroy(call->last);
    grpc_metadata_array_destroy(&call->metadata); /* its slices are the call's */
    if (call->slot->method == NULL) {
        grpc_call_details_destroy(&call->details);
    }
    if (call->grpc != NULL) {
        grpc_call_unref(call->grpc);
    }
    gpr_free(call->peer);
    abl_arena_destroy(call->texts);
    abl_free(call);
}

static void call_unref(grpc_server_call *call) {
    ABL_ASSERT(call->references > 0);
    call->references--;
    if (call->references == 0) {
        abl_grpc_server *server = call->server;
        size_t bytes = call->counted_bytes;
        abl_grpc_call_destroy(call);
        abl_grpc_server_call_ended(server, bytes);
    }
}

/* ---- batches ---- */

static void start_batch(grpc_server_call *call, const grpc_op *ops, size_t count, grpc_tag *tag,
                        void (*deliver_cb)(abl_mail *mail)) {
    tag->mail.deliver_cb = deliver_cb;
    call->references++;
    ABL_TSAN_RELEASE(tag);
    grpc_call_error error = grpc_call_start_batch(call->grpc, ops, count, tag, NULL);
    ABL_ASSERT(error == GRPC_CALL_OK); /* only a batch that we may not start fails */
}

static void on_close(abl_mail *mail) {
    grpc_server_call *call = CALL_OF(mail, close_tag.mail);
    if (call->close_cancelled != 0) {
        abl_call_cancel(&call->base);
    }
    call_unref(call);
}

/* Owned by the slice: core releases it on a thread of its own, maybe after the call's end. */
static void release_slice(void *user_data) {
    abl_message *message = user_data;
    ABL_TSAN_ACQUIRE(message);
    abl_message_release(message);
    abl_free(message);
}

/* Takes the message in any case; NULL: no memory. */
static grpc_byte_buffer *to_byte_buffer(abl_message message) {
    grpc_slice slice = grpc_empty_slice();
    abl_message *held = message.bytes <= COPY_BYTES_MAX ? NULL : abl_calloc(1, sizeof *held);
    if (held != NULL) {
        *held = message;
        ABL_TSAN_RELEASE(held); /* nothing here reads it from now on */
        /* The cast drops a const that core keeps. */
        slice = grpc_slice_new_with_user_data((void *)(uintptr_t)message.data, message.bytes,
                                              release_slice, held);
    } else {
        slice = grpc_slice_from_copied_buffer((const char *)message.data, message.bytes);
        abl_message_release(&message);
    }
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static size_t add_headers(grpc_server_call *call, grpc_op *ops) {
    if (call->headers_sent) {
        return 0;
    }
    call->headers_sent = true;
    ops[0] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    return 1;
}

static size_t add_message(grpc_server_call *call, grpc_op *ops, grpc_byte_buffer *message) {
    if (message == NULL) {
        return 0;
    }
    call->outgoing = message;
    ops[0] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
    ops[0].data.send_message.send_message = message;
    return 1;
}

static void on_status_sent(abl_mail *mail) {
    grpc_server_call *call = CALL_OF(mail, status_tag.mail);
    call_unref(call); /* the service's */
    call_unref(call); /* the batch's */
}

static void start_finish(grpc_server_call *call) {
    grpc_op ops[3];
    size_t count = add_headers(call, ops);
    count += add_message(call, ops + count, call->last);
    call->last = NULL;
    grpc_op *status = &ops[count++];
    *status = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    status->data.send_status_from_server.status = call->status;
    status->data.send_status_from_server.status_details = &call->status_text;
    status->data.send_status_from_server.trailing_metadata_count = call->trailing_count;
    status->data.send_status_from_server.trailing_metadata = &call->trailing;
    start_batch(call, ops, count, &call->status_tag, on_status_sent);
}

static void on_sent(abl_mail *mail) {
    grpc_server_call *call = CALL_OF(mail, send_tag.mail);
    grpc_byte_buffer_destroy(call->outgoing);
    call->outgoing = NULL;
    call->base.send_pending = false;
    if (call->finish_waits) {
        call->finish_waits = false;
        start_finish(call);
    } else if (call->send_tag.ok && !call->base.cancelled && !call->base.finished &&
               call->base.on_sent_cb != NULL) {
        call->base.on_sent_cb(&call->base);
    }
    call_unref(call);
}

static void on_received(abl_mail *mail) {
    grpc_server_call *call = CALL_OF(mail, recv_tag.mail);
    call->base.recv_pending = false;
    grpc_byte_buffer *received = call->payload;
    call->payload = NULL;
    bool live = !call->base.cancelled && !call->base.finished && !call->recv_ended;
    if (live && call->base.on_message_cb != NULL) {
        if (received == NULL) {
            call->recv_ended = true;
            call->base.on_message_cb(&call->base, NULL, 0);
        } else {
            grpc_byte_buffer_reader reader;
            ABL_ASSERT(grpc_byte_buffer_reader_init(&reader, received) == 1);
            grpc_slice bytes = grpc_byte_buffer_reader_readall(&reader);
            grpc_byte_buffer_reader_destroy(&reader);
            call->base.on_message_cb(&call->base, GRPC_SLICE_START_PTR(bytes),
                                     GRPC_SLICE_LENGTH(bytes));
            grpc_slice_unref(bytes);
        }
    }
    grpc_byte_buffer_destroy(received);
    call_unref(call);
}

/* ---- the operations of call.h ---- */

static void op_send(abl_call *base, abl_message message) {
    grpc_server_call *call = (grpc_server_call *)(void *)base;
    grpc_op ops[2];
    size_t count = add_headers(call, ops);
    count += add_message(call, ops + count, to_byte_buffer(message));
    start_batch(call, ops, count, &call->send_tag, on_sent);
}

static void op_finish(abl_call *base, const abl_message *last, const abl_status *status) {
    grpc_server_call *call = (grpc_server_call *)(void *)base;
    call->last = last == NULL ? NULL : to_byte_buffer(*last);
    if (status != NULL) {
        call->status = (grpc_status_code)status->code;
        char text[sizeof status->message];
        size_t length = abl_status_message_utf8(status, text, sizeof text);
        call->status_text = grpc_slice_from_copied_buffer(text, length);
        size_t bytes = 0;
        uint8_t *details = abl_status_pack_details(status, &bytes);
        if (details != NULL) {
            call->trailing.key = grpc_slice_from_static_string(ABL_STATUS_DETAILS_KEY);
            call->trailing.value = grpc_slice_from_copied_buffer((const char *)details, bytes);
            call->trailing_count = 1;
            abl_free(details);
        }
    }
    if (base->send_pending) {
        call->finish_waits = true;
    } else {
        start_finish(call);
    }
}

static void op_recv(abl_call *base) {
    grpc_server_call *call = (grpc_server_call *)(void *)base;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->payload;
    start_batch(call, &op, 1, &call->recv_tag, on_received);
}

static const char *op_metadata(abl_call *base, const char *key) {
    grpc_server_call *call = (grpc_server_call *)(void *)base;
    for (size_t i = 0; i < call->metadata.count; i++) {
        const grpc_metadata *entry = &call->metadata.metadata[i];
        if (grpc_slice_str_cmp(entry->key, key) != 0) {
            continue;
        }
        if (call->texts == NULL) {
            call->texts = abl_arena_create((size_t)4 * ABL_METADATA_BYTES_MAX);
        }
        return call->texts == NULL
                   ? NULL
                   : abl_arena_strndup(call->texts,
                                       (const char *)GRPC_SLICE_START_PTR(entry->value),
                                       GRPC_SLICE_LENGTH(entry->value));
    }
    return NULL;
}

const abl_call_ops abl_grpc_call_ops = {
    .send = op_send, .finish = op_finish, .recv = op_recv, .metadata = op_metadata};

/* ---- the beginning ---- */

static uint64_t deadline_ms(const grpc_server_call *call) {
    gpr_timespec deadline = call->deadline;
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) {
        return ABL_DEADLINE_NONE;
    }
    gpr_timespec left = gpr_time_sub(gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC),
                                     gpr_now(GPR_CLOCK_MONOTONIC));
    int32_t left_ms = gpr_time_to_millis(left);
    return abl_loop_now_ms(abl_grpc_server_loop(call->server)) +
           (uint64_t)(left_ms < 0 ? 0 : left_ms);
}

/* Lays the request out in one piece. */
static abl_code take_request(grpc_server_call *call, abl_status *ret_status) {
    if (call->base.method->client_stream) {
        return ABL_CODE_OK;
    }
    if (call->payload == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "REQUEST_MISSING",
                        "the call ended without a request message");
    }
    if (!abl_grpc_server_admit_bytes(call->server, grpc_byte_buffer_length(call->payload))) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_REQUEST_BYTES",
                        "the requests under way hold %d MiB, which is the most; retry later",
                        ABL_REQUEST_BYTES_TOTAL_MAX >> 20);
    }
    call->counted_bytes = grpc_byte_buffer_length(call->payload);
    grpc_byte_buffer_reader reader;
    if (grpc_byte_buffer_reader_init(&reader, call->payload) != 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MALFORMED_MESSAGE",
                        "the request message cannot be read");
    }
    call->request = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(call->payload);
    call->payload = NULL;
    call->base.request = GRPC_SLICE_START_PTR(call->request);
    call->base.request_bytes = GRPC_SLICE_LENGTH(call->request);
    return ABL_CODE_OK;
}

static abl_code admit(grpc_server_call *call, abl_status *ret_status) {
    if (abl_grpc_server_is_draining(call->server) && !call->base.method->while_draining) {
        return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "DRAINING",
                        "the daemon is shutting down and takes no new calls");
    }
    if (call->slot->method == NULL) {
        char *path = grpc_slice_to_c_string(call->details.method);
        abl_code code =
            abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "METHOD_UNKNOWN",
                     "no method '%.200s' here; server reflection lists those there are", path);
        gpr_free(path);
        return code;
    }
    if (abl_grpc_server_is_full(call->server)) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_CALLS",
                        "%d calls are under way, which is the most; retry later",
                        ABL_CALL_COUNT_MAX);
    }
    abl_code code = abl_grpc_server_guard(call->server, &call->base, ret_status);
    return code != ABL_CODE_OK ? code : take_request(call, ret_status);
}

void abl_grpc_call_begin(grpc_server_call *call) {
    call->references = 1;
    call->peer = grpc_call_get_peer(call->grpc);
    call->base.peer = call->peer == NULL ? "" : call->peer;
    call->base.client = call->base.peer;
    if (call->slot->method == NULL) {
        call->deadline = call->details.deadline;
    }
    call->base.deadline_ms = deadline_ms(call);
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &call->close_cancelled;
    start_batch(call, &op, 1, &call->close_tag, on_close);
    abl_status status = {0};
    if (admit(call, &status) != ABL_CODE_OK) {
        abl_call_finish(&call->base, NULL, &status);
        return;
    }
    call->base.method->start_cb(&call->base, call->slot->user_data);
}
