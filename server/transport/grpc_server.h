/* grpc_server.h -- services over gRPC (HTTP/2), by gRPC C core.
 *
 * OWNERSHIP  create/destroy. The services and their methods must outlive the server.
 * THREADS    The loop thread only. One thread of its own waits on the completion queue.
 * ERRORS     A failed create leaves nothing behind. Clients see UNIMPLEMENTED METHOD_UNKNOWN for
 *            unknown methods, UNAVAILABLE DRAINING while the server drains, RESOURCE_EXHAUSTED for
 *            messages over the limit and TOO_MANY_CALLS.
 *
 * Its end, in this order: shutdown, its done_cb, destroy.
 */
#ifndef ABLATE_SERVER_TRANSPORT_GRPC_SERVER_H
#define ABLATE_SERVER_TRANSPORT_GRPC_SERVER_H

#include "server/runtime/loop.h"
#include "server/transport/call.h"
#include "server/transport/tls.h"

ABL_BEGIN_DECLS

typedef struct abl_grpc_server abl_grpc_server;

typedef struct abl_grpc_options {
    abl_loop *loop;
    const abl_service *services;
    size_t service_count;
    const char *listen;       /* "127.0.0.1:50051", "[::1]:0"; port 0: any free one */
    size_t message_bytes_max; /* one received message; 0: ABL_MESSAGE_BYTES_MAX */
    abl_guard_cb guard_cb;    /* NULL: every call may start */
    void *guard_user_data;
    const abl_tls_options *tls; /* NULL: plain text; borrowed for the call */
} abl_grpc_options;

/*   UNAVAILABLE       LISTEN_FAILED  the address is taken or not ours
 *   INVALID_ARGUMENT  TLS_INVALID    certificate and key do not make credentials */
ABL_MUST_CHECK abl_code abl_grpc_server_create(const abl_grpc_options *options,
                                               abl_grpc_server **ret_server,
                                               abl_status *ret_status);

/* The port that is listened on. */
int abl_grpc_server_port(const abl_grpc_server *server);

/* For connections that come from now on; those there are go on. The server was made with TLS, and
 * asks for clients' certificates if it did then. `tls` is borrowed for the call: checked texts. */
void abl_grpc_server_renew_tls(abl_grpc_server *server, const abl_tls_options *tls);

/* Refuses new calls (UNAVAILABLE) and waits for those that run; after grace_ms cancels them. Each
 * still owes its finish. done_cb runs when all is over. To be called once. */
void abl_grpc_server_shutdown(abl_grpc_server *server, uint64_t grace_ms,
                              void (*done_cb)(void *user_data), void *user_data);

/* After done_cb. NULL is allowed. */
void abl_grpc_server_destroy(abl_grpc_server *server);

ABL_END_DECLS
#endif
