/* web_frame.h -- the gRPC-web protocol without any I/O: frames, text mode, trailers, timeouts, and
 * who may call.
 *
 * OWNERSHIP  Blocks that are returned are the caller's, ended with abl_free().
 * THREADS    Any; pure functions.
 * ERRORS     A code with a status, or false. All input here is untrusted.
 *
 *   frame     one byte of flags, four of length (big endian), the payload
 *   request   one frame with flags 0
 *   response  a frame a message, then one with flags 0x80 whose payload is HTTP/1 header lines
 *   text      the same bytes in base64; each write is encoded, and padded, on its own
 */
#ifndef ABLATE_SERVER_TRANSPORT_WEB_FRAME_H
#define ABLATE_SERVER_TRANSPORT_WEB_FRAME_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

#define ABL_WEB_FRAME_HEADER_BYTES 5

/* Writes the header of a data frame. */
void abl_web_frame_header(uint8_t *ret_header, size_t message_bytes);

/* The message of a body that is one data frame, borrowed from the body.
 *   INVALID_ARGUMENT  MALFORMED_FRAME         not one whole data frame
 *   UNIMPLEMENTED     COMPRESSION_UNSUPPORTED the frame says that it is compressed */
ABL_MUST_CHECK abl_code abl_web_frame_parse(const uint8_t *body, size_t body_bytes,
                                            const uint8_t **ret_message, size_t *ret_message_bytes,
                                            abl_status *ret_status);

/* The trailers frame of a status; NULL status: OK. NULL: no memory. */
ABL_MUST_CHECK uint8_t *abl_web_trailers(const abl_status *status, size_t *ret_bytes);

#define ABL_BASE64_BYTES(bytes) (((bytes) + 2) / 3 * 4)
/* Writes ABL_BASE64_BYTES(bytes) characters, padded, without a NUL. */
void abl_base64_encode(const uint8_t *data, size_t bytes, char *ret_text);
/* Decodes in place one or more padded runs; the last may lack its padding. False: not base64. */
ABL_MUST_CHECK bool abl_base64_decode(uint8_t *text, size_t length, size_t *ret_bytes);

/* Writes `text` with all but printable ASCII, and '%', as %XX, NUL-terminated; cut at the end of
 * room. Returns the length. */
size_t abl_percent_encode(const char *text, size_t length, char *ret_text, size_t room);

/* A grpc-timeout header, "250m": at most eight digits and a unit of H M S m u n, rounded up to ms.
 * False: it is none. */
ABL_MUST_CHECK bool abl_web_timeout_parse(const char *text, uint64_t *ret_ms);

/* Whether a page of `origin` may call a server that it knows as `host` (the Host header, or NULL):
 * the same origin, a page of this machine, or one that is listed ("*" lists all). */
bool abl_web_origin_allowed(const char *origin, const char *host, const char *const *origins,
                            size_t origin_count);

/* Whether a Host header names this machine: localhost, *.localhost, 127.x.x.x, [::1]; any port. */
bool abl_web_host_is_local(const char *host);

ABL_END_DECLS
#endif
