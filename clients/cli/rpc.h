/* rpc.h -- a channel to `ablated` and calls over it: unary and server streams.
 *
 * OWNERSHIP  abl_rpc_create() hands the channel to the caller, abl_rpc_destroy() ends it. A message
 *            given to a callback is borrowed until the callback returns.
 * THREADS    One thread; gRPC's own threads stay inside.
 * ERRORS     Calls return the code and fill *ret_error.
 *
 * Ctrl-C (after abl_rpc_catch_interrupt()) cancels the call in progress, which tells the server; a
 * second Ctrl-C ends the process at once.
 */
#ifndef ABLATE_CLI_RPC_H
#define ABLATE_CLI_RPC_H

#include "core/base/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_rpc abl_rpc;

typedef struct abl_rpc_options {
    const char *host;        /* "127.0.0.1:50051", "https://lab.example:50051" */
    const char *token;       /* bearer token; NULL: none */
    const char *authorities; /* with https, PEM texts: who signed the server's certificate; */
    const char *client_certificate; /* ours, and its key; NULL: the system's authorities, none */
    const char *client_key;
    int64_t timeout_ms; /* of each call; 0: none */
} abl_rpc_options;

/* Why a call failed, in the server's words or ours. */
typedef struct abl_rpc_error {
    abl_code code;
    bool unreachable;   /* no server answered: nothing ran, or the connection was lost */
    char reason[64];    /* of the server's ErrorInfo; "" where there is none */
    char message[1024]; /* for people */
} abl_rpc_error;

/* One RPC: ABL_RPC("PruneService", "GetJob", get_job). */
typedef struct abl_rpc_method {
    const char *path;
    const ProtobufCMessageDescriptor *response;
} abl_rpc_method;
#define ABL_RPC(service, method, snake)                                                            \
    { "/ablate.v1." service "/" method, &ablate__v1__##snake##_response__descriptor }

ABL_MUST_CHECK abl_code abl_rpc_create(const abl_rpc_options *options, abl_rpc **ret_rpc,
                                       abl_rpc_error *ret_error);
void abl_rpc_destroy(abl_rpc *rpc);
const char *abl_rpc_host(const abl_rpc *rpc);

/* Receives each message of a response; false stops the call, which is then no error. */
typedef bool (*abl_rpc_message_cb)(const ProtobufCMessage *message, void *user_data);

/* Sends one request and receives all messages of the response: a stream, or just one. */
ABL_MUST_CHECK abl_code abl_rpc_stream(abl_rpc *rpc, const abl_rpc_method *method,
                                       const ProtobufCMessage *request, abl_rpc_message_cb cb,
                                       void *user_data, abl_rpc_error *ret_error);

/* A unary call. *ret_response is the caller's, ended with abl_rpc_free(). */
ABL_MUST_CHECK abl_code abl_rpc_unary(abl_rpc *rpc, const abl_rpc_method *method,
                                      const ProtobufCMessage *request,
                                      ProtobufCMessage **ret_response, abl_rpc_error *ret_error);
/* A copy that outlives the callback; NULL: no memory. */
ABL_MUST_CHECK ProtobufCMessage *abl_rpc_copy(const ProtobufCMessage *message);
void abl_rpc_free(ProtobufCMessage *message); /* NULL is allowed */
void abl_rpc_freep(void *pointer_to_message); /* for ABL_CLEANUP */

/* Calls a listing method page by page; the request and response have `page_size`, `page_token`
 * and `next_page_token`. */
ABL_MUST_CHECK abl_code abl_rpc_pages(abl_rpc *rpc, const abl_rpc_method *method,
                                      ProtobufCMessage *request, abl_rpc_message_cb cb,
                                      void *user_data, abl_rpc_error *ret_error);

abl_code abl_rpc_fail(abl_rpc_error *ret_error, abl_code code, const char *reason,
                      const char *format, ...) ABL_PRINTF(4, 5);

void abl_rpc_catch_interrupt(void);
bool abl_rpc_interrupted(void);
/* Waits; false: interrupted meanwhile. */
bool abl_rpc_pause(double seconds);
/* Makes calls possible again after an interrupt, to tidy up on the server. */
void abl_rpc_forget_interrupt(void);

ABL_END_DECLS
#endif
