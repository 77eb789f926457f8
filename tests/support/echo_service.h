/* echo_service.h -- a service that exercises every shape of call, for tests of the transports.
 *
 * OWNERSHIP  The caller owns the echo_service; its calls end before it.
 * THREADS    The loop thread; the atomics may be read from any.
 * ERRORS     Fail answers with the error it is told.
 *
 *   Echo   unary          the request's bytes
 *   Fail   unary          FAILED_PRECONDITION, reason TEST_REASON, message: the request's bytes
 *   Hang   unary          ends only by cancellation, with CANCELLED
 *   Count  server stream  request "<n> <bytes>": n messages of so many bytes, message i full of i
 *   Sum    client stream  the number of bytes received, as text
 *   Chat   both           each message back
 */
#ifndef ABLATE_TESTS_SUPPORT_ECHO_SERVICE_H
#define ABLATE_TESTS_SUPPORT_ECHO_SERVICE_H

#include "server/transport/call.h"

typedef struct echo_service {
    int started;   /* calls; atomic */
    int cancelled; /* of Hang and Count; atomic */
    int sent;      /* messages of Count that flow control took; atomic */
    int released;  /* messages of Count; atomic */
} echo_service;

abl_service echo_service_table(echo_service *service);

#endif
