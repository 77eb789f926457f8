/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTP port: libmicrohttpd without threads of its own. It keeps its sockets in one epoll
 * descriptor, which the loop watches; each time it is ready, and when a timeout of the library is
 * due, MHD_run() handles what there is. Resuming a connection makes nothing ready (the library's
 * channel for that exists with threads of its own only), so it asks for a turn by the timer.
 *
 * A request's way: who asks (Host and Origin), then by method and path
 *
 *     OPTIONS                 preflight
 *     POST grpc-web           a call (web_call.c); its errors travel in trailers, HTTP says 200
 *     GET, HEAD /metrics      text of a callback
 *     GET, HEAD other         a file of the table, held in memory: no path ever reaches a disk
 *
 * The library's access handler comes first with the headers alone, then with each piece of the
 * body, then once more without: only the first and the last time may a response be queued. So an
 * early refusal is given at the first, and the verdict on a body at the last.
 *
 * Rejected: h2o (no releases), libwebsockets (hangs up on bodies without a length), serving files
 * from a folder (path traversal is best avoided by having no paths). */
#include "server/transport/web_internal.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/transport/web_frame.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <uv.h>

#define CONNECTION_BYTES ((size_t)128 << 10) /* buffers of one; a write is about half of it */
#define IDLE_SECONDS 60u /* and for a client that left in the middle of its request */

static const char builtin_index[] =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Ablate</title></head>"
    "<body><h1>Ablate</h1><p>The daemon is running. This port speaks gRPC-web; "
    "<a href=\"/metrics\">/metrics</a> is for Prometheus.</p></body></html>\n";

/* ---- responses ---- */

static const char *header_of(struct MHD_Connection *connection, const char *key) {
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, key);
}

static bool origin_allowed(const abl_web_server *server, struct MHD_Connection *connection) {
    const char *origin = header_of(connection, "Origin");
    return origin == NULL ||
           abl_web_origin_allowed(origin, header_of(connection, "Host"), server->options.origins,
                                  server->options.origin_count);
}

static void add_common_headers(const abl_web_server *server, struct MHD_Connection *connection,
                               struct MHD_Response *response) {
    const char *origin = header_of(connection, "Origin");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    (void)MHD_add_response_header(response, "Vary", "Origin");
    if (origin != NULL && origin_allowed(server, connection)) {
        (void)MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
        (void)MHD_add_response_header(response, "Access-Control-Expose-Headers",
                                      "grpc-status,grpc-message,grpc-status-details-bin");
    }
}

static enum MHD_Result queue(const abl_web_server *server, struct MHD_Connection *connection,
                             unsigned status, struct MHD_Response *response,
                             const char *content_type) {
    if (response == NULL) {
        return MHD_NO;
    }
    add_common_headers(server, connection, response);
    if (content_type != NULL) {
        (void)MHD_add_response_header(response, "Content-Type", content_type);
    }
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response); /* the connection holds it */
    return result;
}

/* `text` is static. */
static enum MHD_Result refuse(const abl_web_server *server, struct MHD_Connection *connection,
                              unsigned status, const char *text) {
    return queue(server, connection, status,
                 MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                 MHD_RESPMEM_PERSISTENT),
                 "text/plain; charset=utf-8");
}

/* ---- routes ---- */

static enum MHD_Result answer_preflight(const abl_web_server *server,
                                        struct MHD_Connection *connection) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (response != NULL) {
        (void)MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST");
        (void)MHD_add_response_header(
            response, "Access-Control-Allow-Headers",
            "content-type,x-grpc-web,x-user-agent,grpc-timeout,authorization,ablate-client,"
            "ablate-user");
        (void)MHD_add_response_header(response, "Access-Control-Max-Age", "7200");
    }
    return queue(server, connection, MHD_HTTP_NO_CONTENT, response, NULL);
}

static enum MHD_Result answer_metrics(const abl_web_server *server,
                                      struct MHD_Connection *connection) {
    size_t bytes = 0;
    char *text = server->options.metrics_cb(server->options.metrics_user_data, &bytes);
    if (text == NULL) {
        return refuse(server, connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "no metrics now\n");
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(bytes, text, abl_free);
    if (response == NULL) {
        abl_free(text);
    }
    return queue(server, connection, MHD_HTTP_OK, response, "text/plain; version=0.0.4");
}

static enum MHD_Result answer_file(const abl_web_server *server, struct MHD_Connection *connection,
                                   const char *path) {
    abl_web_file index = {.path = "/index.html",
                          .content_type = "text/html; charset=utf-8",
                          .data = (const uint8_t *)builtin_index,
                          .bytes = sizeof builtin_index - 1};
    if (strcmp(path, "/") == 0) {
        path = "/index.html";
    }
    const abl_web_file *found = NULL;
    for (size_t i = 0; i < server->options.file_count && found == NULL; i++) {
        found = strcmp(server->options.files[i].path, path) == 0 ? &server->options.files[i] : NULL;
    }
    if (found == NULL && strcmp(path, index.path) == 0) {
        found = &index;
    }
    if (found == NULL) {
        return refuse(server, connection, MHD_HTTP_NOT_FOUND,
                      "nothing here: the dashboard is at /, metrics are at /metrics\n");
    }
    unsigned status = 0;
    struct MHD_Response *response =
        abl_web_file_response(found, header_of(connection, "Accept-Encoding"),
                              header_of(connection, "If-None-Match"), &status);
    return queue(server, connection, status, response, found->content_type);
}

static enum MHD_Result answer_get(const abl_web_server *server, struct MHD_Connection *connection,
                                  const char *path) {
    bool is_metrics = strcmp(path, "/metrics") == 0 && server->options.metrics_cb != NULL;
    return is_metrics ? answer_metrics(server, connection) : answer_file(server, connection, path);
}

static const char *media_type_of(const web_call *call) {
    return call->text ? "application/grpc-web-text+proto" : "application/grpc-web+proto";
}

static enum MHD_Result answer_call(web_call *call, const char *path) {
    abl_web_server *server = call->server;
    struct MHD_Connection *connection = call->connection;
    if (call->body_too_big) {
        return refuse(server, connection, MHD_HTTP_CONTENT_TOO_LARGE,
                      "the message is over the size limit\n");
    }
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, CONNECTION_BYTES / 2, abl_web_call_read, call, NULL);
    if (response == NULL) {
        return MHD_NO;
    }
    abl_web_call_begin(call, path);
    return queue(server, connection, MHD_HTTP_OK, response, media_type_of(call));
}

/* ---- who asks ---- */

static bool is_local_socket(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    if (info == NULL ||
        getsockname(info->connect_fd, (struct sockaddr *)(void *)&address, &length) != 0) {
        return true; /* the stricter answer */
    }
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&address;
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)&address;
    return address.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

/* A page of elsewhere whose name was pointed at 127.0.0.1 sends that name. */
static bool host_is_plausible(struct MHD_Connection *connection) {
    const char *host = header_of(connection, "Host");
    return host == NULL || abl_web_host_is_local(host) || !is_local_socket(connection);
}

/* ---- libmicrohttpd's callbacks ---- */

/* The media type of a POST: 0 none of ours, 1 binary, 2 text. */
static int grpc_web_kind(struct MHD_Connection *connection) {
    static const char text[] = "application/grpc-web-text";
    static const char binary[] = "application/grpc-web";
    const char *type = header_of(connection, "Content-Type");
    if (type == NULL) {
        return 0;
    }
    bool is_text = strncasecmp(type, text, sizeof text - 1) == 0;
    size_t length = is_text ? sizeof text - 1 : sizeof binary - 1;
    if (!is_text && strncasecmp(type, binary, length) != 0) {
        return 0;
    }
    type += length;
    bool known =
        *type == '\0' || *type == ';' || *type == ' ' || strncasecmp(type, "+proto", 6) == 0;
    return !known ? 0 : is_text ? 2 : 1;
}

/* The first visit of a POST: a refusal now, or a call to collect the body. */
static enum MHD_Result begin_post(abl_web_server *server, struct MHD_Connection *connection,
                                  void **request) {
    int kind = grpc_web_kind(connection);
    if (kind == 0) {
        return refuse(server, connection, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                      "POST takes application/grpc-web or application/grpc-web-text\n");
    }
    const char *length = header_of(connection, "Content-Length");
    size_t limit = server->message_bytes_max + ABL_WEB_FRAME_HEADER_BYTES;
    if (length != NULL &&
        strtoull(length, NULL, 10) > (kind == 2 ? ABL_BASE64_BYTES(limit) + 4 : limit)) {
        return refuse(server, connection, MHD_HTTP_CONTENT_TOO_LARGE,
                      "the message is over the size limit\n");
    }
    web_call *call = abl_web_call_create(server, connection, kind == 2);
    if (call == NULL) {
        return MHD_NO;
    }
    *request = call;
    return MHD_YES;
}

/* What *request is while a request without a call is under way; its address is all of it. */
static char no_call;

static enum MHD_Result on_access(void *user_data, struct MHD_Connection *connection,
                                 const char *path, const char *method, const char *version,
                                 const char *data, size_t *data_bytes, void **request) {
    (void)version;
    abl_web_server *server = user_data;
    bool is_post = strcmp(method, "POST") == 0;
    if (*request == NULL) {
        *request = &no_call;
        if (!abl_web_client_is_known(server, connection)) {
            return refuse(server, connection, MHD_HTTP_FORBIDDEN,
                          "this daemon asks for a client certificate of its authority\n");
        }
        if (!host_is_plausible(connection)) {
            return refuse(server, connection, MHD_HTTP_MISDIRECTED_REQUEST,
                          "this address is reached as localhost only\n");
        }
        if (!origin_allowed(server, connection)) {
            return refuse(server, connection, MHD_HTTP_FORBIDDEN,
                          "pages of this origin may not call here\n");
        }
        return is_post ? begin_post(server, connection, request) : MHD_YES;
    }
    if (*request != &no_call) {
        web_call *call = *request;
        if (*data_bytes > 0) {
            size_t bytes = *data_bytes;
            *data_bytes = 0;
            return abl_web_call_take_body(call, data, bytes) ? MHD_YES : MHD_NO;
        }
        return answer_call(call, path);
    }
    if (*data_bytes > 0) {
        *data_bytes = 0; /* a body nobody asked for */
        return MHD_YES;
    }
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) {
        return answer_get(server, connection, path);
    }
    if (strcmp(method, "OPTIONS") == 0) {
        return answer_preflight(server, connection);
    }
    return refuse(server, connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET, HEAD, POST, OPTIONS\n");
}

static void on_completed(void *user_data, struct MHD_Connection *connection, void **request,
                         enum MHD_RequestTerminationCode how) {
    (void)user_data;
    (void)connection;
    (void)how;
    if (*request != NULL && *request != &no_call) {
        abl_web_call_http_done(*request);
    }
    *request = NULL;
}

/* ---- the library on the loop ---- */

static void on_timer(void *user_data);

static void run(abl_web_server *server) {
    server->kicked = false;
    (void)MHD_run(server->daemon);
    unsigned MHD_LONG_LONG timeout_ms = 0;
    if (server->kicked) {
        abl_timer_start(server->timer, 0, 0);
    } else if (MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES) {
        abl_timer_start(server->timer, timeout_ms, 0);
    } else {
        abl_timer_stop(server->timer);
    }
}

void abl_web_server_kick(abl_web_server *server) {
    server->kicked = true;
    abl_timer_start(server->timer, 0, 0);
}

static void on_timer(void *user_data) {
    run(user_data);
}

static void on_ready(uv_poll_t *poll, int error, int events) {
    (void)error;
    (void)events;
    run(poll->data);
}

static void free_handle(uv_handle_t *handle) {
    abl_free(handle);
}

static bool parse_listen(const char *listen, struct sockaddr_storage *ret_address) {
    const char *colon = strrchr(listen, ':');
    char host[INET6_ADDRSTRLEN + 2];
    char *end = NULL;
    unsigned long port = colon == NULL ? 0 : strtoul(colon + 1, &end, 10);
    if (colon == NULL || end == colon + 1 || *end != '\0' || port > 65535 ||
        (size_t)(colon - listen) >= sizeof host) {
        return false;
    }
    size_t length = (size_t)(colon - listen);
    bool v6 = length > 2 && listen[0] == '[' && listen[length - 1] == ']';
    memcpy(host, listen + v6, length - 2 * (size_t)v6);
    host[length - 2 * (size_t)v6] = '\0';
    return v6 ? uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)(void *)ret_address) == 0
              : uv_ip4_addr(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, (int)port,
                            (struct sockaddr_in *)(void *)ret_address) == 0;
}

static struct MHD_OptionItem tls_option(enum MHD_OPTION option, const char *pem) {
    return (struct MHD_OptionItem){.option = option, .ptr_value = (void *)(uintptr_t)pem};
}

static abl_code listen_on(abl_web_server *server, const char *listen, const abl_tls_options *tls,
                          abl_status *ret_status) {
    struct sockaddr_storage address = {0};
    if (!parse_listen(listen, &address)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "LISTEN_INVALID",
                        "'%.100s' is not an address and port, as 127.0.0.1:8080 or [::1]:8080",
                        listen);
    }
    struct MHD_OptionItem secure[4] = {{.option = MHD_OPTION_END}};
    if (tls != NULL) {
        secure[0] = tls_option(MHD_OPTION_HTTPS_MEM_CERT, tls->certificate);
        secure[1] = tls_option(MHD_OPTION_HTTPS_MEM_KEY, tls->key);
        secure[2] = tls->client_ca == NULL ? secure[3]
                                           : tls_option(MHD_OPTION_HTTPS_MEM_TRUST, tls->client_ca);
    }
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
    flags |= tls == NULL ? 0u : (unsigned)MHD_USE_TLS;
    flags |= address.ss_family == AF_INET6 ? (unsigned)MHD_USE_IPv6 : 0u;
    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_access, server, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_NOTIFY_CONNECTION,
        abl_web_on_connection, server, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)ABL_CONNECTION_COUNT_MAX, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, MHD_OPTION_ARRAY, secure,
        MHD_OPTION_END);
    if (server->daemon == NULL) {
        return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "LISTEN_FAILED",
                        "cannot listen on '%.100s': the address is taken, or not this machine's",
                        listen);
    }
    server->port = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
    return ABL_CODE_OK;
}

/* The handle on the library's epoll descriptor. */
static abl_code watch(abl_web_server *server, abl_status *ret_status) {
    int descriptor = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    uv_poll_t *poll = abl_calloc(1, sizeof *poll);
    if (poll == NULL) {
        return abl_fail_oom(ret_status);
    }
    int error = uv_poll_init(abl_loop_uv(server->options.loop), poll, descriptor);
    if (error != 0) {
        abl_free(poll);
        return abl_fail(ret_status, ABL_CODE_INTERNAL, "LISTEN_FAILED",
                        "cannot watch the HTTP port: %s", uv_strerror(error));
    }
    poll->data = server;
    server->poll = poll;
    (void)uv_poll_start(poll, UV_READABLE, on_ready);
    return ABL_CODE_OK;
}

/* ---- life ---- */

static void on_stop(abl_mail *mail);
static void on_grace_over(void *user_data);

static void close_all(abl_web_server *server) {
    if (server->poll != NULL) {
        (void)uv_poll_stop(server->poll);
        uv_close((uv_handle_t *)server->poll, free_handle);
        server->poll = NULL;
    }
    abl_timer_destroy(server->timer);
    abl_timer_destroy(server->grace);
    server->timer = NULL;
    server->grace = NULL;
    if (server->daemon != NULL) {
        MHD_stop_daemon(server->daemon);
        server->daemon = NULL;
    }
    abl_web_credentials_destroy(server->credentials);
    server->credentials = NULL;
}

abl_code abl_web_server_create(const abl_web_options *options, abl_web_server **ret_server,
                               abl_status *ret_status) {
    ABL_ASSERT_LOOP_THREAD();
    abl_web_server *server = abl_calloc(1, sizeof *server);
    if (server == NULL) {
        return abl_fail_oom(ret_status);
    }
    server->options = *options;
    server->asks_clients = options->tls != NULL && options->tls->client_ca != NULL;
    server->message_bytes_max =
        options->message_bytes_max == 0 ? ABL_MESSAGE_BYTES_MAX : options->message_bytes_max;
    server->stop_mail.deliver_cb = on_stop;
    server->timer = abl_timer_create(options->loop, on_timer, server);
    server->grace = abl_timer_create(options->loop, on_grace_over, server);
    abl_code code = server->timer == NULL || server->grace == NULL
                        ? abl_fail_oom(ret_status)
                        : listen_on(server, options->listen, options->tls, ret_status);
    code = code != ABL_CODE_OK ? code : watch(server, ret_status);
    if (code != ABL_CODE_OK) {
        close_all(server);
        abl_free(server);
        return code;
    }
    server->options.listen = NULL;
    server->options.tls = NULL;
    *ret_server = server;
    return ABL_CODE_OK;
}

int abl_web_server_port(const abl_web_server *server) {
    return server->port;
}

/* Stops by mail: we may be deep inside MHD_run() now. */
void abl_web_server_call_ended(abl_web_server *server) {
    bool over = server->started_count == 0 || (server->forced && server->service_count == 0);
    if (server->draining && over && !server->stopping) {
        server->stopping = true;
        abl_loop_post(server->options.loop, &server->stop_mail);
    }
}

/* Ends every call's connection, and cancels those that still run. */
static void abort_all(abl_web_server *server) {
    for (web_call *call = server->calls; call != NULL;) {
        if (call->aborted) {
            call = call->next;
        } else {
            abl_web_call_abort(call); /* may end others */
            call = server->calls;
        }
    }
}

static void on_stop(abl_mail *mail) {
    abl_web_server *server =
        (abl_web_server *)(void *)((char *)mail - offsetof(abl_web_server, stop_mail));
    abort_all(server);
    (void)MHD_run(server->daemon); /* the library refuses to stop with suspended connections */
    close_all(server);
    ABL_ASSERT(server->call_count == 0);
    if (server->done_cb != NULL) {
        server->done_cb(server->done_user_data);
    }
}

static void on_grace_over(void *user_data) {
    abl_web_server *server = user_data;
    server->forced = true;
    abort_all(server);
    abl_web_server_call_ended(server);
}

void abl_web_server_shutdown(abl_web_server *server, uint64_t grace_ms,
                             void (*done_cb)(void *user_data), void *user_data) {
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(!server->draining);
    server->draining = true;
    server->done_cb = done_cb;
    server->done_user_data = user_data;
    MHD_socket listener = MHD_quiesce_daemon(server->daemon);
    if (listener != MHD_INVALID_SOCKET) {
        (void)close(listener);
    }
    abl_timer_start(server->grace, grace_ms, 0);
    abl_web_server_call_ended(server);
}

void abl_web_server_destroy(abl_web_server *server) {
    if (server == NULL) {
        return;
    }
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(server->daemon == NULL); /* shut it down, and wait for done_cb */
    abl_free(server);
}
