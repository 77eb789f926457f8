/* status_map.h -- an abl_status as the wire carries it.
 *
 * OWNERSHIP  Packed bytes are the caller's, ended with abl_free().
 * THREADS    Any; pure functions.
 * ERRORS     Packing fails only for want of memory: the code and message still go out then.
 */
#ifndef ABLATE_SERVER_TRANSPORT_STATUS_MAP_H
#define ABLATE_SERVER_TRANSPORT_STATUS_MAP_H

#include "core/base/status.h"

#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

#define ABL_STATUS_DETAILS_KEY "grpc-status-details-bin"
#define ABL_ERROR_DOMAIN "ablate"

/* A google.rpc.Status that holds one google.rpc.ErrorInfo {reason, domain}. NULL: no memory, or
 * nothing to say (no reason). */
ABL_MUST_CHECK uint8_t *abl_status_pack_details(const abl_status *status, size_t *ret_bytes);

/* Copies the message so that it is valid UTF-8 and has no NUL: a truncated character at the end is
 * cut, and a stray byte becomes '?'. Returns the length. */
size_t abl_status_message_utf8(const abl_status *status, char *ret_text, size_t text_bytes_max);

ABL_END_DECLS
#endif
