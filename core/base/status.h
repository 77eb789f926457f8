/* status.h -- how a call says that it failed: a code to branch on, words for a person.
 *
 * OWNERSHIP  The caller owns the abl_status; nothing in it is on the heap.
 * THREADS    A status belongs to one call; it may be copied between threads by value.
 * ERRORS     Fallible calls return the code and fill *ret_status; on success they leave it alone.
 *
 * The codes are gRPC's canonical ones, by number, so the transport needs no table.
 * `reason` is UPPER_SNAKE_CASE and stable: programs match on it, never on the message.
 */
#ifndef ABLATE_CORE_BASE_STATUS_H
#define ABLATE_CORE_BASE_STATUS_H

#include "core/base/compiler.h"

ABL_BEGIN_DECLS

#define ABL_CODE_MAP(X)                                                                            \
    X(OK, 0)                                                                                       \
    X(CANCELLED, 1)                                                                                \
    X(UNKNOWN, 2)                                                                                  \
    X(INVALID_ARGUMENT, 3)                                                                         \
    X(DEADLINE_EXCEEDED, 4)                                                                        \
    X(NOT_FOUND, 5)                                                                                \
    X(ALREADY_EXISTS, 6)                                                                           \
    X(PERMISSION_DENIED, 7)                                                                        \
    X(RESOURCE_EXHAUSTED, 8)                                                                       \
    X(FAILED_PRECONDITION, 9)                                                                      \
    X(ABORTED, 10)                                                                                 \
    X(OUT_OF_RANGE, 11)                                                                            \
    X(UNIMPLEMENTED, 12)                                                                           \
    X(INTERNAL, 13)                                                                                \
    X(UNAVAILABLE, 14)                                                                             \
    X(DATA_LOSS, 15)                                                                               \
    X(UNAUTHENTICATED, 16)

typedef enum abl_code {
#define X(name, number) ABL_CODE_##name = number,
    ABL_CODE_MAP(X)
#undef X
} abl_code;

typedef struct abl_status {
    abl_code code;
    const char *reason; /* static storage; "" when OK */
    char message[480];  /* what was wrong, with what, what would be right; cut, never missing */
} abl_status;

/* The canonical name of a code, "INVALID_ARGUMENT"; "UNKNOWN" for a number that is none. */
const char *abl_code_name(abl_code code);

/* Fills *ret_status (NULL is allowed) and returns `code`, so that a failure is one statement.
 * `reason` must have static storage. */
abl_code abl_fail(abl_status *ret_status, abl_code code, const char *reason, const char *format,
                  ...) ABL_PRINTF(4, 5);

/* The failure of an allocation on the host: RESOURCE_EXHAUSTED, OUT_OF_HOST_MEMORY. */
abl_code abl_fail_oom(abl_status *ret_status);

ABL_END_DECLS
#endif
