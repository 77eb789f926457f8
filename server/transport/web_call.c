/* SPDX-License-Identifier: Apache-2.0
 *
 * One gRPC-web call. Its response is a body without a known length, which libmicrohttpd asks for
 * piece by piece; what the service sends waits as chunks:
 *
 *     service ── send, finish ──> chunks[0..2] ── abl_web_call_read ──> libmicrohttpd ──> socket
 *
 * The reader is asked for more only when the socket has taken what it gave before, so being asked
 * again with no chunk left means that the last send was taken: on_sent_cb, which may give the next
 * chunk at once. With nothing to give, the connection is suspended until a send resumes it.
 *
 * libmicrohttpd does not look at the socket of a suspended connection, so a client that leaves
 * would not be noticed: a duplicate of the descriptor is watched for the hang-up.
 *
 * A deadline is answered here, without waiting for the service: it still owes its finish, which
 * then writes nothing. */
#include "server/transport/web_internal.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/transport/web_frame.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

static const abl_method unknown_method = {.path = "(unknown)"};

/* ---- life ---- */

static void describe_peer(web_call *call) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(call->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info == NULL ? NULL : info->client_addr;
    char text[INET6_ADDRSTRLEN] = "";
    if (address != NULL && address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        (void)inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
        (void)snprintf(call->peer, sizeof call->peer, "ipv4:%s:%u", text, ntohs(v4->sin_port));
    } else if (address != NULL && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
        (void)snprintf(call->peer, sizeof call->peer, "ipv6:[%s]:%u", text, ntohs(v6->sin6_port));
    }
}

web_call *abl_web_call_create(abl_web_server *server, struct MHD_Connection *connection,
                              bool text) {
    web_call *call = abl_calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    call->base.ops = &abl_web_call_ops;
    call->base.method = &unknown_method;
    call->base.peer = call->peer;
    call->base.client = call->peer;
    call->base.deadline_ms = ABL_DEADLINE_NONE;
    call->server = server;
    call->connection = connection;
    call->text = text;
    describe_peer(call);
    call->next = server->calls;
    call->link = &server->calls;
    if (call->next != NULL) {
        call->next->link = &call->next;
    }
    server->calls = call;
    server->call_count++;
    return call;
}

static void drop_chunks(web_call *call) {
    for (size_t i = 0; i < call->chunk_count; i++) {
        abl_message_release(&call->chunks[i].message);
    }
    call->chunk_count = 0;
}

/* ---- the client's hang-up ---- */

struct web_hangup {
    uv_poll_t poll;
    int descriptor; /* a duplicate: libmicrohttpd's epoll has the original */
    web_call *call;
};

static void on_hangup(uv_poll_t *poll, int error, int events) {
    (void)error;
    (void)events;
    struct web_hangup *hangup = poll->data;
    (void)uv_poll_stop(poll);
    abl_web_call_abort(hangup->call);
}

static void hangup_closed(uv_handle_t *handle) {
    struct web_hangup *hangup = handle->data;
    (void)close(hangup->descriptor);
    abl_free(hangup);
}

/* Without it (no memory, no descriptor) the call runs on until it writes. */
static void watch_hangup(web_call *call) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(call->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct web_hangup *hangup = info == NULL ? NULL : abl_calloc(1, sizeof *hangup);
    if (hangup == NULL) {
        return;
    }
    hangup->descriptor = dup(info->connect_fd);
    if (hangup->descriptor < 0 || uv_poll_init(abl_loop_uv(call->server->options.loop),
                                               &hangup->poll, hangup->descriptor) != 0) {
        if (hangup->descriptor >= 0) {
            (void)close(hangup->descriptor);
        }
        abl_free(hangup);
        return;
    }
    hangup->poll.data = hangup;
    hangup->call = call;
    call->hangup = hangup;
    (void)uv_poll_start(&hangup->poll, UV_DISCONNECT, on_hangup);
}

static void stop_watching(web_call *call) {
    if (call->hangup != NULL) {
        (void)uv_poll_stop(&call->hangup->poll);
        uv_close((uv_handle_t *)&call->hangup->poll, hangup_closed);
        call->hangup = NULL;
    }
}

static void maybe_free(web_call *call) {
    bool service_holds = call->started && !call->base.finished;
    if (call->connection != NULL || service_holds) {
        return;
    }
    abl_web_server *server = call->server;
    drop_chunks(call);
    stop_watching(call);
    abl_timer_destroy(call->deadline);
    abl_arena_destroy(call->texts);
    server->body_bytes -= call->body_room;
    abl_free(call->body);
    *call->link = call->next;
    if (call->next != NULL) {
        call->next->link = call->link;
    }
    server->call_count--;
    server->started_count -= call->started;
    abl_free(call);
    abl_web_server_call_ended(server);
}

void abl_web_call_http_done(web_call *call) {
    stop_watching(call);
    call->aborted = true; /* nothing is queued any more */
    call->suspended = false;
    if (call->started) {
        abl_call_cancel(&call->base); /* nothing, unless the service is still at it */
    }
    call->connection = NULL;
    maybe_free(call);
}

void abl_web_call_resume(web_call *call) {
    if (call->suspended && call->connection != NULL) {
        call->suspended = false;
        MHD_resume_connection(call->connection);
        abl_web_server_kick(call->server);
    }
}

void abl_web_call_abort(web_call *call) {
    call->aborted = true;
    abl_web_call_resume(call);
    if (call->started) {
        abl_call_cancel(&call->base); /* may free the call, if HTTP has let go of it */
    }
}

/* ---- the response ---- */

/* Queues bytes as they go over the wire: as they are, or in base64 with their header. */
static void push_chunk(web_call *call, const uint8_t *header, abl_message message) {
    if (call->connection == NULL || call->aborted) {
        abl_message_release(&message);
        return;
    }
    ABL_ASSERT(call->chunk_count < WEB_CHUNK_MAX);
    web_chunk chunk = {.message = message,
                       .header_bytes = header == NULL ? 0 : ABL_WEB_FRAME_HEADER_BYTES};
    if (header != NULL) {
        memcpy(chunk.header, header, chunk.header_bytes);
    }
    if (call->text) {
        size_t bytes = chunk.header_bytes + message.bytes;
        ABL_CLEANUP(abl_freep) uint8_t *joined = abl_malloc(bytes);
        uint8_t *encoded = abl_malloc(ABL_BASE64_BYTES(bytes));
        if (joined == NULL || encoded == NULL) {
            abl_free(encoded);
            abl_message_release(&message);
            call->aborted = true; /* a frame is missing: the stream cannot go on */
            abl_web_call_resume(call);
            return;
        }
        memcpy(joined, chunk.header, chunk.header_bytes);
        if (message.bytes > 0) {
            memcpy(joined + chunk.header_bytes, message.data, message.bytes);
        }
        abl_message_release(&message);
        abl_base64_encode(joined, bytes, (char *)encoded);
        chunk = (web_chunk){.message = abl_message_own(encoded, ABL_BASE64_BYTES(bytes))};
    }
    call->chunks[call->chunk_count++] = chunk;
    abl_web_call_resume(call);
}

static void push_message(web_call *call, abl_message message) {
    uint8_t header[ABL_WEB_FRAME_HEADER_BYTES];
    abl_web_frame_header(header, message.bytes);
    push_chunk(call, header, message);
}

static void push_trailers(web_call *call, const abl_status *status) {
    call->ended = true;
    size_t bytes = 0;
    uint8_t *trailers = abl_web_trailers(status, &bytes);
    if (trailers == NULL) {
        call->aborted = true;
        abl_web_call_resume(call);
        return;
    }
    push_chunk(call, NULL, abl_message_own(trailers, bytes));
}

/* Copies what is left of the first chunk; drops the chunk when nothing is. */
static size_t write_chunk(web_call *call, char *buffer, size_t room) {
    web_chunk *chunk = &call->chunks[0];
    size_t copied = 0;
    if (chunk->written < chunk->header_bytes) {
        size_t part = chunk->header_bytes - chunk->written;
        part = part < room ? part : room;
        memcpy(buffer, chunk->header + chunk->written, part);
        chunk->written += part;
        copied += part;
    }
    size_t done = chunk->written - chunk->header_bytes; /* of the message, if the header is out */
    if (chunk->written >= chunk->header_bytes && done < chunk->message.bytes && copied < room) {
        size_t part = chunk->message.bytes - done;
        part = part < room - copied ? part : room - copied;
        memcpy(buffer + copied, chunk->message.data + done, part);
        chunk->written += part;
        copied += part;
    }
    if (chunk->written == chunk->header_bytes + chunk->message.bytes) {
        abl_message_release(&chunk->message);
        call->chunk_count--;
        memmove(call->chunks, call->chunks + 1, call->chunk_count * sizeof *chunk);
    }
    return copied;
}

ssize_t abl_web_call_read(void *user_data, uint64_t position, char *buffer, size_t room) {
    web_call *call = user_data;
    (void)position;
    for (;;) {
        if (call->aborted) {
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        size_t copied = 0;
        while (call->chunk_count > 0 && copied < room) {
            copied += write_chunk(call, buffer + copied, room - copied);
        }
        if (copied > 0) {
            return (ssize_t)copied;
        }
        if (call->ended) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        if (!call->base.send_pending) {
            call->suspended = true;
            MHD_suspend_connection(call->connection);
            return 0;
        }
        call->base.send_pending = false;
        if (call->base.on_sent_cb != NULL) {
            call->base.on_sent_cb(&call->base);
        }
    }
}

/* ---- the operations of call.h ---- */

static void op_send(abl_call *base, abl_message message) {
    push_message((web_call *)(void *)base, message);
}

static void op_finish(abl_call *base, const abl_message *last, const abl_status *status) {
    web_call *call = (web_call *)(void *)base;
    call->server->service_count--;
    abl_timer_destroy(call->deadline);
    call->deadline = NULL;
    if (call->ended) { /* the deadline has answered */
        if (last != NULL) {
            abl_message dropped = *last;
            abl_message_release(&dropped);
        }
    } else {
        if (last != NULL) {
            push_message(call, *last);
        }
        push_trailers(call, status);
    }
    abl_web_server *server = call->server;
    if (call->connection == NULL) {
        maybe_free(call);
    } else {
        abl_web_server_call_ended(server);
    }
}

static void op_recv(abl_call *base) {
    (void)base; /* client streams are refused before they start */
}

static const char *op_metadata(abl_call *base, const char *key) {
    web_call *call = (web_call *)(void *)base;
    const char *value = call->connection == NULL
                            ? NULL
                            : MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, key);
    if (value == NULL) {
        return NULL;
    }
    if (call->texts == NULL) {
        call->texts = abl_arena_create((size_t)4 * ABL_METADATA_BYTES_MAX);
    }
    return call->texts == NULL ? NULL : abl_arena_strndup(call->texts, value, strlen(value));
}

const abl_call_ops abl_web_call_ops = {
    .send = op_send, .finish = op_finish, .recv = op_recv, .metadata = op_metadata};

/* ---- the request ---- */

bool abl_web_call_take_body(web_call *call, const char *data, size_t bytes) {
    abl_web_server *server = call->server;
    size_t limit = server->message_bytes_max + ABL_WEB_FRAME_HEADER_BYTES;
    limit = call->text ? ABL_BASE64_BYTES(limit) + 4 : limit;
    if (call->body_too_big || call->body_refused || bytes > limit - call->body_bytes) {
        call->body_too_big = call->body_too_big || !call->body_refused;
        call->body_bytes = 0;
        server->body_bytes -= call->body_room;
        call->body_room = 0;
        abl_free(call->body);
        call->body = NULL;
        return true; /* read on, so that the answer can be given */
    }
    size_t wanted = call->body_bytes + bytes;
    if (wanted > call->body_room) {
        size_t room = wanted < limit / 2 ? 2 * wanted : limit;
        size_t budget = (size_t)ABL_REQUEST_BYTES_TOTAL_MAX - server->body_bytes;
        uint8_t *grown =
            room - call->body_room > budget ? NULL : abl_realloc_array(call->body, room, 1);
        if (grown == NULL) {
            call->body_refused = true;
            return true;
        }
        server->body_bytes += room - call->body_room;
        call->body = grown;
        call->body_room = room;
    }
    memcpy(call->body + call->body_bytes, data, bytes);
    call->body_bytes = wanted;
    return true;
}

static void on_deadline(void *user_data) {
    web_call *call = user_data;
    abl_status status = {0};
    (void)abl_fail(&status, ABL_CODE_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED",
                   "the call's deadline passed");
    if (!call->ended) {
        push_trailers(call, &status);
    }
    abl_call_cancel(&call->base); /* may free the call */
}

static abl_code take_deadline(web_call *call, abl_status *ret_status) {
    const char *text = op_metadata(&call->base, "grpc-timeout");
    uint64_t timeout_ms = 0;
    if (text == NULL) {
        return ABL_CODE_OK;
    }
    if (!abl_web_timeout_parse(text, &timeout_ms)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TIMEOUT_INVALID",
                        "grpc-timeout '%.40s' is not up to eight digits and one of H M S m u n",
                        text);
    }
    call->deadline = abl_timer_create(call->server->options.loop, on_deadline, call);
    if (call->deadline == NULL) {
        return abl_fail_oom(ret_status);
    }
    call->base.deadline_ms = abl_loop_now_ms(call->server->options.loop) + timeout_ms;
    abl_timer_start(call->deadline, timeout_ms, 0);
    return ABL_CODE_OK;
}

static abl_code take_message(web_call *call, abl_status *ret_status) {
    if (call->body_refused) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_REQUEST_BYTES",
                        "the requests under way hold %d MiB, which is the most; retry later",
                        ABL_REQUEST_BYTES_TOTAL_MAX >> 20);
    }
    if (call->text && call->body_bytes > 0 &&
        !abl_base64_decode(call->body, call->body_bytes, &call->body_bytes)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MALFORMED_FRAME",
                        "the body of application/grpc-web-text is not base64");
    }
    return abl_web_frame_parse(call->body, call->body_bytes, &call->base.request,
                               &call->base.request_bytes, ret_status);
}

/* Finds the method and lays the request out. */
static abl_code admit(web_call *call, const char *path, void **ret_user_data,
                      abl_status *ret_status) {
    const abl_web_options *options = &call->server->options;
    const abl_method *method =
        abl_services_find(options->services, options->service_count, path, ret_user_data);
    if (call->server->draining && (method == NULL || !method->while_draining)) {
        return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "DRAINING",
                        "the daemon is shutting down and takes no new calls");
    }
    if (method == NULL) {
        return abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "METHOD_UNKNOWN",
                        "no method '%.200s' here", path);
    }
    call->base.method = method;
    if (method->client_stream) {
        return abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "CLIENT_STREAM_UNSUPPORTED",
                        "gRPC-web cannot stream requests; call '%.200s' over gRPC", path);
    }
    if (call->server->service_count > ABL_CALL_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_CALLS",
                        "%d calls are under way, which is the most; retry later",
                        ABL_CALL_COUNT_MAX);
    }
    abl_code code = options->guard_cb == NULL
                        ? ABL_CODE_OK
                        : options->guard_cb(&call->base, options->guard_user_data, ret_status);
    code = code != ABL_CODE_OK ? code : take_message(call, ret_status);
    return code != ABL_CODE_OK ? code : take_deadline(call, ret_status);
}

void abl_web_call_begin(web_call *call, const char *path) {
    call->started = true;
    call->server->started_count++;
    call->server->service_count++;
    void *user_data = NULL;
    abl_status status = {0};
    if (admit(call, path, &user_data, &status) != ABL_CODE_OK) {
        abl_call_finish(&call->base, NULL, &status);
        return;
    }
    watch_hangup(call);
    call->base.method->start_cb(&call->base, user_data);
}
