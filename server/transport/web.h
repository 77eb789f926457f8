/* web.h -- the HTTP port: services over gRPC-web, /metrics, and static files.
 *
 * OWNERSHIP  create/destroy. Services, files and origins must outlive the server.
 * THREADS    The loop thread only, and no thread of its own.
 * ERRORS     A failed create leaves nothing behind. An RPC's failure travels in its trailers;
 *            everything before an RPC starts (path, type, size, origin) is an HTTP status.
 *
 * HTTP/1.1, libmicrohttpd on the loop, over TLS if asked for. Where clients need a certificate, one
 * without gets as far as a 403 that says so: a browser shows that, and not a failed handshake.
 * Who may call: pages of the same origin, pages of this
 * machine (localhost), origins on the list, and programs that send no Origin. A connection that
 * came over loopback must also name a loopback host, so that a page of elsewhere whose name was
 * pointed at 127.0.0.1 is refused.
 *
 * Its end, in this order: shutdown, its done_cb, destroy.
 */
#ifndef ABLATE_SERVER_TRANSPORT_WEB_H
#define ABLATE_SERVER_TRANSPORT_WEB_H

#include "server/runtime/loop.h"
#include "server/transport/call.h"
#include "server/transport/tls.h"

ABL_BEGIN_DECLS

typedef struct abl_web_server abl_web_server;

/* A static file, held in memory. "/" serves "/index.html". What has a gzip is sent as that to
 * clients that accept it. */
typedef struct abl_web_file {
    const char *path; /* "/assets/app.js" */
    const char *content_type;
    const uint8_t *data;
    size_t bytes;
    const uint8_t *gzip; /* the same, compressed; NULL with 0 bytes: there is none */
    size_t gzip_bytes;
    const char *tag; /* names the content: letters and digits, at most 64; NULL: no ETag */
} abl_web_file;

typedef struct abl_web_options {
    abl_loop *loop;
    const abl_service *services;
    size_t service_count;
    const char *listen;       /* "127.0.0.1:8080", "[::1]:0"; port 0: any free one */
    size_t message_bytes_max; /* one received message; 0: ABL_MESSAGE_BYTES_MAX */
    abl_guard_cb guard_cb;    /* NULL: every call may start */
    void *guard_user_data;
    const char *const *origins; /* "https://lab.example:8443"; "*" allows every page */
    size_t origin_count;
    const abl_web_file *files;
    size_t file_count;
    /* The text of GET /metrics, an abl_malloc block ended by the server; NULL: 500. */
    char *(*metrics_cb)(void *user_data, size_t *ret_bytes);
    void *metrics_user_data;
    const abl_tls_options *tls; /* NULL: plain text; borrowed for the call */
} abl_web_options;

/*   UNAVAILABLE       LISTEN_FAILED   the address is taken or not ours
 *   INVALID_ARGUMENT  LISTEN_INVALID  not an address and port */
ABL_MUST_CHECK abl_code abl_web_server_create(const abl_web_options *options,
                                              abl_web_server **ret_server, abl_status *ret_status);

/* The port that is listened on. */
int abl_web_server_port(const abl_web_server *server);

/* For connections that come from now on; those there are go on. The server was made with TLS, and
 * asks for clients' certificates if it did then. `tls` is borrowed for the call.
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY
 *   INVALID_ARGUMENT    TLS_INVALID  in GnuTLS's words */
ABL_MUST_CHECK abl_code abl_web_server_renew_tls(abl_web_server *server, const abl_tls_options *tls,
                                                 abl_status *ret_status);

/* Stops listening, refuses new calls (UNAVAILABLE) and waits for those that run; after grace_ms
 * cancels them. Each still owes its finish. done_cb runs when all is over. To be called once. */
void abl_web_server_shutdown(abl_web_server *server, uint64_t grace_ms,
                             void (*done_cb)(void *user_data), void *user_data);

/* After done_cb. NULL is allowed. */
void abl_web_server_destroy(abl_web_server *server);

ABL_END_DECLS
#endif
