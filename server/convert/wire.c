/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk is recursive over message types, which is safe because no public message contains
 * itself: the depth is that of the .proto files, not of the input. It judges only what protobuf-c
 * does not; a field that arrives with another wire type than declared is left to the unpacking,
 * and an unknown field is skipped, so that newer clients can talk to us. */
#include "server/convert/wire.h"

#include "core/base/limits.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct cursor {
    const uint8_t *at;
    const uint8_t *end;
} cursor;

/* Where in the message the walk is, for messages to people. */
typedef struct place place;
struct place {
    const place *parent;
    const char *field;
};

static size_t place_write(const place *where, char *text, size_t text_bytes) {
    size_t length = 0;
    if (where->parent != NULL) {
        length = place_write(where->parent, text, text_bytes);
        if (length > 0 && length + 1 < text_bytes) {
            text[length++] = '.';
        }
    }
    int wanted = snprintf(text + length, text_bytes - length, "%s", where->field);
    size_t room = text_bytes - length - 1;
    return length + (wanted < 0 ? 0 : ((size_t)wanted < room ? (size_t)wanted : room));
}

static abl_code malformed(abl_status *ret_status, const place *where, const char *what) {
    char path[128];
    (void)place_write(where, path, sizeof path);
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED",
                    "the request's bytes are not its message: %s at '%s'", what, path);
}

static bool read_varint(cursor *in, uint64_t *ret_value) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        uint8_t byte = *in->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* The length of the UTF-8 sequence at `text`, or 0: RFC 3629, so no surrogates, nothing overlong,
 * nothing above U+10FFFF. */
static size_t utf8_sequence(const uint8_t *text, size_t bytes) {
    uint8_t lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t length = lead >= 0xf0 ? 4 : (lead >= 0xe0 ? 3 : 2);
    if (lead < 0xc2 || lead > 0xf4 || bytes < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    bool surrogate = lead == 0xed && text[1] > 0x9f;
    bool above = lead == 0xf4 && text[1] > 0x8f;
    return overlong || surrogate || above ? 0 : length;
}

size_t abl_wire_utf8_prefix(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        size_t length = utf8_sequence(text + at, bytes - at);
        if (length == 0) {
            break;
        }
        at += length;
    }
    return at;
}

static abl_code check_text(const place *where, const uint8_t *text, size_t bytes,
                           abl_status *ret_status) {
    char path[128];
    if (bytes > ABL_TEXT_BYTES_MAX) {
        (void)place_write(where, path, sizeof path);
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TEXT_TOO_LONG",
                        "%s has %zu bytes; at most %d are taken", path, bytes, ABL_TEXT_BYTES_MAX);
    }
    if (bytes > 0 && memchr(text, 0, bytes) != NULL) {
        (void)place_write(where, path, sizeof path);
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TEXT_HAS_NUL",
                        "%s has a NUL byte in it; text must not", path);
    }
    size_t prefix = abl_wire_utf8_prefix(text, bytes);
    if (prefix != bytes) {
        (void)place_write(where, path, sizeof path);
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TEXT_NOT_UTF8",
                        "%s is not UTF-8 from byte %zu on", path, prefix);
    }
    return ABL_CODE_OK;
}

static abl_code check_enum(const place *where, const ProtobufCEnumDescriptor *descriptor,
                           uint64_t value, abl_status *ret_status) {
    int number = (int)(uint32_t)value;
    if (value <= INT32_MAX && protobuf_c_enum_descriptor_get_value(descriptor, number) != NULL) {
        return ABL_CODE_OK;
    }
    char path[128];
    (void)place_write(where, path, sizeof path);
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ENUM_UNKNOWN",
                    "%s is %d, which is no %s this daemon knows", path, number,
                    descriptor->short_name);
}

static abl_code check_message(const ProtobufCMessageDescriptor *descriptor, const place *parent,
                              cursor in, abl_status *ret_status);

/* A length-delimited field: text, a submessage, or packed enumeration values. */
static abl_code check_delimited(const ProtobufCFieldDescriptor *field, const place *where,
                                cursor in, abl_status *ret_status) {
    switch ((int)field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return check_text(where, in.at, (size_t)(in.end - in.at), ret_status);
    case PROTOBUF_C_TYPE_MESSAGE:
        return check_message(field->descriptor, where, in, ret_status);
    case PROTOBUF_C_TYPE_ENUM:
        while (in.at < in.end) {
            uint64_t value = 0;
            if (!read_varint(&in, &value)) {
                return malformed(ret_status, where, "a packed value is cut short");
            }
            abl_code code = check_enum(where, field->descriptor, value, ret_status);
            if (code != ABL_CODE_OK) {
                return code;
            }
        }
        return ABL_CODE_OK;
    default:
        return ABL_CODE_OK;
    }
}

/* One field behind its tag: `in` moves past its value. */
static abl_code check_field(const ProtobufCFieldDescriptor *field, const place *where,
                            unsigned wire_type, cursor *in, abl_status *ret_status) {
    uint64_t value = 0;
    size_t skip = 0;
    switch (wire_type) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        if (!read_varint(in, &value)) {
            return malformed(ret_status, where, "a number is cut short");
        }
        return field != NULL && field->type == PROTOBUF_C_TYPE_ENUM
                   ? check_enum(where, field->descriptor, value, ret_status)
                   : ABL_CODE_OK;
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        if (!read_varint(in, &value) || value > (uint64_t)(in->end - in->at)) {
            return malformed(ret_status, where, "a length goes past the end");
        }
        cursor inner = {in->at, in->at + value};
        in->at += value;
        return field != NULL ? check_delimited(field, where, inner, ret_status) : ABL_CODE_OK;
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        skip = 8;
        break;
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        skip = 4;
        break;
    default:
        return malformed(ret_status, where, "an unknown wire type");
    }
    if ((size_t)(in->end - in->at) < skip) {
        return malformed(ret_status, where, "a number is cut short");
    }
    in->at += skip;
    return ABL_CODE_OK;
}

static abl_code check_message(const ProtobufCMessageDescriptor *descriptor, const place *parent,
                              cursor in, abl_status *ret_status) {
    while (in.at < in.end) {
        uint64_t tag = 0;
        place here = {parent, "(unknown field)"};
        if (!read_varint(&in, &tag) || tag >> 3 == 0 || tag > UINT32_MAX) {
            here.field = "(tag)";
            return malformed(ret_status, &here, "no field tag");
        }
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
        if (field != NULL) {
            here.field = field->name;
        }
        abl_code code = check_field(field, &here, (unsigned)(tag & 7), &in, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_wire_check(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                        size_t bytes, abl_status *ret_status) {
    if (bytes == 0) {
        return ABL_CODE_OK; /* and `data` may be NULL */
    }
    return check_message(descriptor, NULL, (cursor){data, data + bytes}, ret_status);
}

/* protobuf-c answers NULL for bytes that are wrong and for memory that is not there alike. */
typedef struct unpacking {
    abl_arena *arena;
    bool refused; /* an allocation was */
} unpacking;

static void *arena_alloc(void *user_data, size_t bytes) {
    unpacking *self = user_data;
    void *block = abl_arena_alloc(self->arena, bytes);
    self->refused = self->refused || block == NULL;
    return block;
}

static void arena_free(void *user_data, void *block) {
    (void)user_data; /* the arena ends as a whole */
    (void)block;
}

size_t abl_wire_arena_bytes(size_t message_bytes) {
    return ((size_t)1 << 20) + 16 * message_bytes;
}

abl_code abl_wire_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                         size_t bytes, abl_arena *arena, ProtobufCMessage **ret_message,
                         abl_status *ret_status) {
    abl_code code = abl_wire_check(descriptor, data, bytes, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    unpacking memory = {.arena = arena};
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &memory};
    static const uint8_t none[1];
    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &allocator, bytes, bytes == 0 ? none : data);
    if (message != NULL) {
        *ret_message = message;
        return ABL_CODE_OK;
    }
    if (memory.refused) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "MESSAGE_TOO_BIG",
                        "the request's %zu bytes unpack to more than %zu; send fewer or larger "
                        "parts",
                        bytes, abl_wire_arena_bytes(bytes));
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED",
                    "the request's %zu bytes are not a %s", bytes, descriptor->short_name);
}
