/* grpc_internal.h -- what grpc_server.c and grpc_call.c share; nobody else includes it.
 *
 * OWNERSHIP  A call is freed when its references are gone: one of the service, ended by the
 *            completion of SEND_STATUS, and one of each batch that is under way.
 * THREADS    The loop thread only, but for `ok` of a tag, which the queue's thread writes before it
 *            posts the tag.
 * ERRORS     None.
 */
#ifndef ABLATE_SERVER_TRANSPORT_GRPC_INTERNAL_H
#define ABLATE_SERVER_TRANSPORT_GRPC_INTERNAL_H

#include "core/base/arena.h"
#include "server/transport/grpc_server.h"

#include <grpc/grpc.h>

typedef struct grpc_tag {
    abl_mail mail;
    bool ok;
} grpc_tag;

/* A registered method, or the fallback (method NULL) for paths that are none. */
typedef struct grpc_slot {
    abl_grpc_server *server;
    const abl_method *method;
    void *user_data;
    void *registered;
    size_t armed; /* calls asked for and not yet here */
} grpc_slot;

typedef struct grpc_server_call {
    abl_call base; /* first: an abl_call * is a grpc_server_call * */
    abl_grpc_server *server;
    grpc_slot *slot;
    grpc_call *grpc;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details; /* of the fallback only */
    grpc_byte_buffer *payload; /* the request, or the message just received */
    grpc_slice request;        /* its bytes, in one piece */
    size_t counted_bytes;      /* of the server's request_bytes */
    char *peer;
    abl_arena *texts; /* NUL-terminated metadata values that were asked for */

    unsigned references;
    int close_cancelled;
    bool headers_sent;
    bool finish_waits; /* a send is under way; finish goes out behind it */
    bool recv_ended;
    grpc_byte_buffer *outgoing; /* of the send or finish under way */
    grpc_byte_buffer *last;     /* of the finish that waits */
    grpc_status_code status;
    grpc_slice status_text;
    grpc_metadata trailing; /* grpc-status-details-bin */
    size_t trailing_count;

    grpc_tag request_tag;
    grpc_tag close_tag;
    grpc_tag send_tag;
    grpc_tag recv_tag;
    grpc_tag status_tag;
} grpc_server_call;

extern const abl_call_ops abl_grpc_call_ops;

/* A call that waits to be matched with a client's; NULL: no memory. */
grpc_server_call *abl_grpc_call_create(grpc_slot *slot);
/* For one that never started. */
void abl_grpc_call_destroy(grpc_server_call *call);
/* Takes a call that has just arrived to its service, or to an error. */
void abl_grpc_call_begin(grpc_server_call *call);

/* Of grpc_server.c. */
bool abl_grpc_server_is_draining(const abl_grpc_server *server);
bool abl_grpc_server_admit_bytes(abl_grpc_server *server, size_t bytes);
bool abl_grpc_server_is_full(const abl_grpc_server *server);
void abl_grpc_server_call_ended(abl_grpc_server *server, size_t request_bytes);
abl_code abl_grpc_server_guard(abl_grpc_server *server, abl_call *call, abl_status *ret_status);
abl_loop *abl_grpc_server_loop(const abl_grpc_server *server);

#endif
