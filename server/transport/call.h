/* call.h -- one RPC as a service sees it, whatever carries it: gRPC, gRPC-web or a test.
 *
 * OWNERSHIP  The transport owns the call; the service borrows it from start_cb until
 *            abl_call_finish() returns, and must not touch it afterwards. The request bytes, peer,
 *            client and metadata values live exactly as long as the call. A message passed to
 *            send or finish is the transport's from then on, on every path.
 * THREADS    The loop thread only, callbacks included. One exception: the release_cb of a
 *            message may run on any thread, later.
 * ERRORS     A service answers with abl_call_finish(), exactly once, also after a cancellation.
 *
 * The life of a call:
 *
 *   start_cb -> [recv -> on_message_cb]*  [send -> on_sent_cb]*  finish
 *            \-> on_cancel_cb at any time before finish, at most once: the client left, cancelled,
 *                or its deadline passed (the three look alike). `cancelled` is set before it. What
 *                is sent later is dropped, no on_sent_cb or on_message_cb follows, and finish is
 *                still owed.
 */
#ifndef ABLATE_SERVER_TRANSPORT_CALL_H
#define ABLATE_SERVER_TRANSPORT_CALL_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* Bytes with the means to end them: release_cb(user_data), on any thread, exactly once. */
typedef struct abl_message {
    const uint8_t *data;
    size_t bytes;
    void (*release_cb)(void *user_data); /* NULL: static bytes, nothing to release */
    void *user_data;
} abl_message;

/* A message that is one abl_malloc block, released by abl_free(). */
abl_message abl_message_own(uint8_t *block, size_t bytes);
void abl_message_release(abl_message *message);

typedef struct abl_call abl_call;

/* One RPC of a service; constant tables of these are all that a transport knows of services. */
typedef struct abl_method {
    const char *path; /* "/ablate.v1.ModelService/GetModel" */
    bool client_stream;
    bool server_stream;
    bool while_draining; /* may start while the server drains: health, and little else */
    void (*start_cb)(abl_call *call, void *user_data);
    const void *detail; /* start_cb's own: what sets this method apart from others that it starts */
} abl_method;

typedef struct abl_service {
    const char *name; /* "ablate.v1.ModelService": health and reflection speak of it so */
    const abl_method *methods;
    size_t method_count;
    void *user_data; /* handed to each start_cb */
} abl_service;

/* For transports only; services use the functions below. */
typedef struct abl_call_ops {
    void (*send)(abl_call *call, abl_message message);
    void (*finish)(abl_call *call, const abl_message *last, const abl_status *status);
    void (*recv)(abl_call *call);
    const char *(*metadata)(abl_call *call, const char *key);
} abl_call_ops;

#define ABL_DEADLINE_NONE UINT64_MAX

struct abl_call {
    /* set by the transport, read by the service */
    const abl_call_ops *ops;
    const abl_method *method;
    const uint8_t *request; /* the one request message; NULL and 0 for a client stream */
    size_t request_bytes;
    uint64_t deadline_ms; /* on the clock of abl_loop_now_ms(); ABL_DEADLINE_NONE: none */
    const char *peer;     /* "ipv4:127.0.0.1:40312", for logs */
    const char *client;   /* who asks, for fairness and ownership; the peer, unless a guard said */
    bool cancelled;

    /* set by the service, in start_cb or later; each may be NULL */
    void (*on_sent_cb)(abl_call *call);   /* the last send was taken by flow control: send more */
    void (*on_cancel_cb)(abl_call *call); /* see above; it may call abl_call_finish() itself */
    /* One message of a client stream, borrowed until the callback returns; NULL and 0: the client
     * has sent its last one. (An empty message has a non-NULL pointer.) A client that broke off can
     * look the same for a moment before on_cancel_cb, so what a stream builds up must say itself
     * how long it is. */
    void (*on_message_cb)(abl_call *call, const uint8_t *message, size_t bytes);
    void *user;

    /* the transport's own */
    bool send_pending;
    bool recv_pending;
    bool finished;
};

/* Decides whether a call may start; runs before start_cb. On a failure the transport finishes the
 * call with *ret_status and start_cb never runs. It may set call->client to text that outlives
 * the call. The seam for bearer tokens and quotas. */
typedef abl_code (*abl_guard_cb)(abl_call *call, void *user_data, abl_status *ret_status);

/* Sends one message of a server stream. At most one is outstanding: wait for on_sent_cb, which is
 * the backpressure. on_sent_cb never runs inside abl_call_send(). */
void abl_call_send(abl_call *call, abl_message message);

/* Ends the call: with `last` (NULL: no message) and OK, or with a failure. `status` NULL means
 * OK; `last` is dropped unless OK. Allowed while a send is outstanding: it goes out behind it. */
void abl_call_finish(abl_call *call, const abl_message *last, const abl_status *status);

/* Shorthand: finish with this failure. Formats as abl_fail() does. */
void abl_call_fail(abl_call *call, abl_code code, const char *reason, const char *format, ...)
    ABL_PRINTF(4, 5);

/* Asks for the next message of a client stream. At most one is outstanding; on_message_cb answers,
 * never from inside abl_call_recv(), and not again after the end of the stream. */
void abl_call_recv(abl_call *call);

/* The value of a request header (lower-case key), or NULL. Lives as long as the call: copy it. */
const char *abl_call_metadata(abl_call *call, const char *key);

/* For transports: marks the call cancelled and tells the service, once, unless it has finished. */
void abl_call_cancel(abl_call *call);

/* For transports: the method at this path, and its service's user_data; NULL: there is none. */
const abl_method *abl_services_find(const abl_service *services, size_t service_count,
                                    const char *path, void **ret_user_data);

ABL_END_DECLS
#endif
