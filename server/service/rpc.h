/* rpc.h -- one call inside a service: its message, its memory, the work it waits for, its answer.
 *
 * OWNERSHIP  An abl_rpc lives from the call's start until one of the calls marked "ends the rpc";
 *            afterwards it must not be touched. What it allocates ends with it.
 * THREADS    The loop thread; work_cb runs on an executor or on the pool, and then the rpc is that
 *            thread's alone: arena, state and status included.
 * ERRORS     A failure becomes the call's status.
 *
 * A handler answers at once, or hands work on and answers in the done callback, or streams:
 *
 *   abl_rpc_reply(rpc, &response.base)                       unary, ends the rpc
 *   abl_rpc_run(rpc, slot, class, work_cb, done_cb)          a step or more on a device
 *   abl_rpc_pool(rpc, work_cb, done_cb)                      blocking work without tensors
 *   abl_rpc_stream(rpc, next_cb)                             next_cb sends one message, or ends
 *
 * A client that leaves is dealt with here: running work is cancelled and ends as it ends, then the
 * rpc ends with CANCELLED and done_cb never runs; a stream ends at once. end_cb runs in every case.
 */
#ifndef ABLATE_SERVER_SERVICE_RPC_H
#define ABLATE_SERVER_SERVICE_RPC_H

#include "core/base/arena.h"
#include "server/runtime/executor.h"
#include "server/runtime/resident.h"
#include "server/service/server.h"
#include "server/transport/call.h"

#include <protobuf-c/protobuf-c.h>

ABL_BEGIN_DECLS

typedef struct abl_rpc abl_rpc;

typedef struct abl_rpc_handler {
    const ProtobufCMessageDescriptor *request; /* NULL: a client stream, handled by hand */
    void (*handle_cb)(abl_rpc *rpc, const ProtobufCMessage *request);
} abl_rpc_handler;

/* A row of a service's table: the path, the request as the generated code names it ("get_model"),
 * and the handler. */
#define ABL_RPC_UNARY(path, request, handle_cb) ABL_RPC_ROW(path, false, request, handle_cb)
#define ABL_RPC_STREAM(path, request, handle_cb) ABL_RPC_ROW(path, true, request, handle_cb)
#define ABL_RPC_ROW(path_, streams, request, handle_cb)                                            \
    {                                                                                              \
        .path = path_, .server_stream = streams, .start_cb = abl_rpc_start,                        \
        .detail = &(const abl_rpc_handler) {                                                       \
            &ablate__v1__##request##_request__descriptor, handle_cb                                \
        }                                                                                          \
    }
#define ABL_RPC_CLIENT_STREAM(path_, handle_cb)                                                    \
    {                                                                                              \
        .path = path_, .client_stream = true, .start_cb = abl_rpc_start,                           \
        .detail = &(const abl_rpc_handler) {                                                       \
            NULL, handle_cb                                                                        \
        }                                                                                          \
    }

#define ABL_RPC_PIN_MAX 8

struct abl_rpc {
    abl_server *server;
    abl_call *call;
    const abl_rpc_handler *handler;
    const char *client; /* who asks, for fairness: metadata `ablate-client`, else the peer */
    const char *owner;  /* who asks, for people: metadata `ablate-user`, else `client` */
    uint64_t id;        /* in the log */
    uint64_t start_us;

    abl_arena *arena;           /* the request, and whatever the handler makes */
    void *state;                /* the handler's own, usually in the arena */
    ProtobufCMessage *response; /* the handler's own, from a worker to its done callback */
    abl_status status;          /* of the work: anything but OK fails the call instead of done_cb */
    void (*end_cb)(abl_rpc *rpc);      /* may be NULL: gives back what is not in the arena */
    void (*work_end_cb)(abl_rpc *rpc); /* may be NULL: ends, on the executor, what abl_rpc_run()'s
                                          work made there; set before it, runs once a run */

    /* rpc.c's own */
    void (*next_cb)(abl_rpc *rpc);
    abl_step (*work_cb)(abl_rpc *rpc);
    void (*done_cb)(abl_rpc *rpc);
    abl_executor *executor;
    abl_task task;
    abl_work pool;
    uint64_t submit_us;
    uint64_t waited_us; /* for the device, until the first step */
    uint64_t work_us;   /* time inside work_cb */
    bool working;
    bool sending;
    abl_arena *scratch; /* one outgoing message */
    abl_hold pins[ABL_RPC_PIN_MAX];
    size_t pin_count;
};

/* start_cb of every method; `user_data` is the abl_server. */
void abl_rpc_start(abl_call *call, void *user_data);

/* Zeroed; on NULL the rpc has failed with OUT_OF_HOST_MEMORY in its status: return from the
 * handler through abl_rpc_fail_status(). */
ABL_MUST_CHECK void *abl_rpc_alloc(abl_rpc *rpc, size_t bytes);
/* For the response message being built: ends when it has been sent. */
ABL_MUST_CHECK void *abl_rpc_scratch(abl_rpc *rpc, size_t bytes);

/* Finds an object and holds on to it, as a user, until the rpc ends. NULL: the rpc's status says
 * why. */
ABL_MUST_CHECK abl_object *abl_rpc_use(abl_rpc *rpc, abl_object_kind kind, const char *id);
void abl_rpc_pin(abl_rpc *rpc, abl_object *object);

/* Removes an object that the request names, and answers. `response` is of the Delete rpc's type.
 * Ends the rpc. */
void abl_rpc_delete(abl_rpc *rpc, abl_object_kind kind, const char *id,
                    const ProtobufCMessage *response);

/* Each ends the rpc. */
void abl_rpc_reply(abl_rpc *rpc, const ProtobufCMessage *response);
void abl_rpc_finish_ok(abl_rpc *rpc);
void abl_rpc_fail_status(abl_rpc *rpc); /* with rpc->status */
void abl_rpc_fail(abl_rpc *rpc, abl_code code, const char *reason, const char *format, ...)
    ABL_PRINTF(4, 5);

/* Work; work_cb on an executor runs again as long as it answers ABL_STEP_AGAIN. May end the rpc
 * (queue full). */
void abl_rpc_run(abl_rpc *rpc, abl_device_slot *slot, abl_task_class task_class,
                 abl_step (*work_cb)(abl_rpc *rpc), void (*done_cb)(abl_rpc *rpc));
void abl_rpc_pool(abl_rpc *rpc, abl_step (*work_cb)(abl_rpc *rpc), void (*done_cb)(abl_rpc *rpc));

/* From now on next_cb is called whenever a message may be sent; it sends one, ends the rpc, starts
 * work, or returns without either and is called again by abl_rpc_pump(). Calls it once. */
void abl_rpc_stream(abl_rpc *rpc, void (*next_cb)(abl_rpc *rpc));
/* There may be something to send now. */
void abl_rpc_pump(abl_rpc *rpc);
/* Sends one message of a stream. May end the rpc (no memory). */
void abl_rpc_send(abl_rpc *rpc, const ProtobufCMessage *message);

ABL_END_DECLS
#endif
