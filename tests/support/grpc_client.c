/* SPDX-License-Identifier: Apache-2.0
 *
 * Each step is one batch and one wait for it: nothing here is fast, and nothing is hidden. */
#include "tests/support/grpc_client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool condition, const char *what) {
    if (!condition) {
        (void)fprintf(stderr, "grpc_client: %s\n", what);
        abort();
    }
}

void grpc_client_init(grpc_client *client, const char *target) {
    grpc_init();
    grpc_arg unlimited = {.type = GRPC_ARG_INTEGER,
                          .key = (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
                          .value.integer = -1};
    grpc_arg own = {.type = GRPC_ARG_INTEGER,
                    .key = (char *)(uintptr_t)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
                    .value.integer = 1};
    grpc_arg entries[] = {unlimited, own};
    grpc_channel_args arguments = {.num_args = 2, .args = entries};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    client->channel = grpc_channel_create(target, credentials, &arguments);
    grpc_channel_credentials_release(credentials);
    client->queue = grpc_completion_queue_create_for_pluck(NULL);
    must(client->channel != NULL, "no channel");
}

void grpc_client_finish(grpc_client *client) {
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_shutdown(client->queue);
    grpc_completion_queue_destroy(client->queue);
    grpc_shutdown();
}

static gpr_timespec deadline_after(int64_t timeout_ms) {
    return timeout_ms == 0 ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
                           : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                          gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

static void start_batch(grpc_stream *stream, const grpc_op *ops, size_t count, void *tag) {
    grpc_call_error error = grpc_call_start_batch(stream->call, ops, count, tag, NULL);
    must(error == GRPC_CALL_OK, "batch refused");
}

static bool wait_for(grpc_stream *stream, void *tag) {
    grpc_event event = grpc_completion_queue_pluck(stream->client->queue, tag,
                                                   gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    must(event.type == GRPC_OP_COMPLETE, "no completion");
    return event.success != 0;
}

static bool run_batch(grpc_stream *stream, const grpc_op *ops, size_t count) {
    start_batch(stream, ops, count, stream->call);
    return wait_for(stream, stream->call);
}

static grpc_call *call_create(grpc_client *client, const char *path, int64_t timeout_ms) {
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *call =
        grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
                                 method, NULL, deadline_after(timeout_ms), NULL);
    grpc_slice_unref(method); /* the call has a reference of its own */
    return call;
}

grpc_stream grpc_stream_open(grpc_client *client, const char *path, int64_t timeout_ms) {
    grpc_stream stream = {.client = client};
    stream.call = call_create(client, path, timeout_ms);
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA,
                  .flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                           GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET};
    (void)run_batch(&stream, &op, 1);
    stream.headers = gpr_malloc(sizeof *stream.headers);
    grpc_metadata_array_init(stream.headers);
    op = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA}; /* core holds messages back until then */
    op.data.recv_initial_metadata.recv_initial_metadata = stream.headers;
    start_batch(&stream, &op, 1, stream.headers);
    return stream;
}

bool grpc_stream_send(grpc_stream *stream, const void *message, size_t bytes) {
    grpc_slice slice = grpc_slice_from_copied_buffer(message, bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = buffer;
    bool ok = run_batch(stream, &op, 1);
    grpc_byte_buffer_destroy(buffer);
    return ok;
}

bool grpc_stream_send_end(grpc_stream *stream) {
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    return run_batch(stream, &op, 1);
}

static unsigned char *take_bytes(grpc_byte_buffer *buffer, size_t *ret_bytes) {
    if (buffer == NULL) {
        return NULL;
    }
    grpc_byte_buffer_reader reader;
    must(grpc_byte_buffer_reader_init(&reader, buffer) == 1, "unreadable reply");
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    *ret_bytes = GRPC_SLICE_LENGTH(slice);
    unsigned char *bytes = gpr_malloc(*ret_bytes + 1);
    memcpy(bytes, GRPC_SLICE_START_PTR(slice), *ret_bytes);
    bytes[*ret_bytes] = '\0';
    grpc_slice_unref(slice);
    grpc_byte_buffer_destroy(buffer);
    return bytes;
}

unsigned char *grpc_stream_receive(grpc_stream *stream, size_t *ret_bytes) {
    grpc_byte_buffer *received = NULL;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &received;
    (void)run_batch(stream, &op, 1);
    return take_bytes(received, ret_bytes);
}

void grpc_stream_cancel(grpc_stream *stream) {
    (void)grpc_call_cancel(stream->call, NULL);
}

/* Waits for the status; with a request it is the whole of a unary call, in one batch. */
static grpc_reply finish(grpc_stream *stream, grpc_byte_buffer *request) {
    grpc_reply reply = {0};
    grpc_metadata_array headers;
    grpc_metadata_array trailers;
    grpc_metadata_array_init(&headers);
    grpc_metadata_array_init(&trailers);
    grpc_status_code status = GRPC_STATUS_UNKNOWN;
    grpc_slice text = grpc_empty_slice();
    grpc_byte_buffer *received = NULL;
    grpc_op ops[6] = {{.op = GRPC_OP_RECV_STATUS_ON_CLIENT}};
    ops[0].data.recv_status_on_client.trailing_metadata = &trailers;
    ops[0].data.recv_status_on_client.status = &status;
    ops[0].data.recv_status_on_client.status_details = &text;
    size_t count = 1;
    if (request != NULL) {
        ops[1] = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA};
        ops[1].data.recv_initial_metadata.recv_initial_metadata = &headers;
        ops[2] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
        ops[3] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
        ops[3].data.send_message.send_message = request;
        ops[4] = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
        ops[5] = (grpc_op){.op = GRPC_OP_RECV_MESSAGE};
        ops[5].data.recv_message.recv_message = &received;
        count = 6;
    }
    (void)run_batch(stream, ops, count);
    if (stream->headers != NULL) {
        (void)wait_for(stream, stream->headers);
        grpc_metadata_array_destroy(stream->headers);
        gpr_free(stream->headers);
    }
    reply.status = (int)status;
    reply.message = take_bytes(received, &reply.message_bytes);
    size_t length = GRPC_SLICE_LENGTH(text) < sizeof reply.text - 1 ? GRPC_SLICE_LENGTH(text)
                                                                    : sizeof reply.text - 1;
    memcpy(reply.text, GRPC_SLICE_START_PTR(text), length);
    for (size_t i = 0; i < trailers.count; i++) {
        grpc_slice value = trailers.metadata[i].value;
        if (grpc_slice_str_cmp(trailers.metadata[i].key, "grpc-status-details-bin") == 0 &&
            GRPC_SLICE_LENGTH(value) <= sizeof reply.details) {
            reply.details_bytes = GRPC_SLICE_LENGTH(value);
            memcpy(reply.details, GRPC_SLICE_START_PTR(value), reply.details_bytes);
        }
    }
    grpc_slice_unref(text);
    grpc_metadata_array_destroy(&headers);
    grpc_metadata_array_destroy(&trailers);
    grpc_call_unref(stream->call);
    return reply;
}

grpc_reply grpc_stream_close(grpc_stream *stream) {
    return finish(stream, NULL);
}

grpc_reply grpc_client_unary(grpc_client *client, const char *path, const void *request,
                             size_t request_bytes, int64_t timeout_ms) {
    grpc_stream stream = {.client = client};
    stream.call = call_create(client, path, timeout_ms);
    grpc_slice slice = grpc_slice_from_copied_buffer(request, request_bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    grpc_reply reply = finish(&stream, buffer);
    grpc_byte_buffer_destroy(buffer);
    return reply;
}

void grpc_reply_finish(grpc_reply *reply) {
    gpr_free(reply->message);
    reply->message = NULL;
}
