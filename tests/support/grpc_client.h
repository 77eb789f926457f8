/* grpc_client.h -- a blocking gRPC client for tests and benches, over raw bytes.
 *
 * OWNERSHIP  A reply's memory is ended with grpc_reply_finish().
 * THREADS    One thread a client.
 * ERRORS     The call's own status; anything else about the machinery aborts the test.
 */
#ifndef ABLATE_TESTS_SUPPORT_GRPC_CLIENT_H
#define ABLATE_TESTS_SUPPORT_GRPC_CLIENT_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct grpc_client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
} grpc_client;

typedef struct grpc_reply {
    int status;
    char text[512];              /* the status message */
    unsigned char details[1024]; /* grpc-status-details-bin */
    size_t details_bytes;
    unsigned char *message; /* of a unary call; NULL: none came */
    size_t message_bytes;
} grpc_reply;

/* One call of any shape, driven step by step. */
typedef struct grpc_stream {
    grpc_client *client;
    grpc_call *call;
    grpc_metadata_array *headers;
} grpc_stream;

void grpc_client_init(grpc_client *client, const char *target);
void grpc_client_finish(grpc_client *client);

grpc_reply grpc_client_unary(grpc_client *client, const char *path, const void *request,
                             size_t request_bytes, int64_t timeout_ms);
void grpc_reply_finish(grpc_reply *reply);

/* `timeout_ms` 0: no deadline. */
grpc_stream grpc_stream_open(grpc_client *client, const char *path, int64_t timeout_ms);
bool grpc_stream_send(grpc_stream *stream, const void *message, size_t bytes);
bool grpc_stream_send_end(grpc_stream *stream);
/* The next message, to be freed by gpr_free(); NULL: there is none any more. */
unsigned char *grpc_stream_receive(grpc_stream *stream, size_t *ret_bytes);
void grpc_stream_cancel(grpc_stream *stream);
/* Waits for the status and closes the stream. */
grpc_reply grpc_stream_close(grpc_stream *stream);

#endif
