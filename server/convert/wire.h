/* wire.h -- from the bytes of a request to a message that can be trusted to be well formed.
 *
 * protobuf-c accepts what the language of the .proto files forbids: strings that are not UTF-8 or
 * that a NUL cuts short unseen, and numbers that an enumeration does not have. So the bytes are
 * walked once, by the message's own descriptor, before they are unpacked.
 *
 * OWNERSHIP  The message lives in the arena; nothing of the bytes is kept.
 * THREADS    Any thread; the arena one at a time.
 * ERRORS     INVALID_ARGUMENT    MESSAGE_MALFORMED  not this message; says where
 *            INVALID_ARGUMENT    TEXT_NOT_UTF8, TEXT_HAS_NUL, ENUM_UNKNOWN  name the field
 *            RESOURCE_EXHAUSTED  TEXT_TOO_LONG      a string over ABL_TEXT_BYTES_MAX
 *            RESOURCE_EXHAUSTED  MESSAGE_TOO_BIG    unpacked, it does not fit the arena
 */
#ifndef ABLATE_SERVER_CONVERT_WIRE_H
#define ABLATE_SERVER_CONVERT_WIRE_H

#include "core/base/arena.h"
#include "core/base/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* What the unpacked form of `message_bytes` bytes may take, other memory of its request included:
 * small submessages cost many times their bytes, hostile ones a hundred times. */
size_t abl_wire_arena_bytes(size_t message_bytes);

ABL_MUST_CHECK abl_code abl_wire_check(const ProtobufCMessageDescriptor *descriptor,
                                       const uint8_t *data, size_t bytes, abl_status *ret_status);

/* Checks and unpacks. */
ABL_MUST_CHECK abl_code abl_wire_unpack(const ProtobufCMessageDescriptor *descriptor,
                                        const uint8_t *data, size_t bytes, abl_arena *arena,
                                        ProtobufCMessage **ret_message, abl_status *ret_status);

/* The number of bytes of `text` that are UTF-8 from its start: `bytes` when all of it is. */
size_t abl_wire_utf8_prefix(const uint8_t *text, size_t bytes);

ABL_END_DECLS
#endif
