/* SPDX-License-Identifier: Apache-2.0 */
/* json.c -- see json.h. protobuf-c keeps a descriptor of every message, so one walk over the fields
 * serves them all. No message of the protocol is recursive, so neither depth nor stack can grow. */
#include "clients/cli/json.h"

#include "core/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *real_of(double value) {
    if (isnan(value)) {
        return json_string("NaN");
    }
    if (isinf(value)) {
        return json_string(value > 0 ? "Infinity" : "-Infinity");
    }
    return json_real(value);
}

/* The shortest decimal that gives the float back, so that 0.1f reads 0.1. */
static json_t *float_of(float value) {
    double shown = (double)value;
    for (int digits = 6; digits < 9 && isfinite(value); digits++) {
        char text[32];
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
        shown = strtod(text, NULL);
        if ((float)shown == value) {
            break;
        }
        shown = (double)value;
    }
    return real_of(shown);
}

static json_t *bytes_of(const ProtobufCBinaryData *bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = (bytes->len + 2) / 3 * 4;
    ABL_CLEANUP(abl_freep) char *text = abl_malloc(length + 1);
    if (text == NULL) {
        return NULL;
    }
    char *next = text;
    for (size_t i = 0; i < bytes->len; i += 3) {
        size_t left = bytes->len - i;
        uint32_t word = (uint32_t)bytes->data[i] << 16 |
                        (left > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0) |
                        (left > 2 ? (uint32_t)bytes->data[i + 2] : 0);
        *next++ = digits[word >> 18 & 63];
        *next++ = digits[word >> 12 & 63];
        *next++ = left > 1 ? digits[word >> 6 & 63] : '=';
        *next++ = left > 2 ? digits[word & 63] : '=';
    }
    return json_stringn(text, length);
}

static json_t *enum_of(const ProtobufCFieldDescriptor *field, int number) {
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(field->descriptor, number);
    return value == NULL ? json_integer(number) : json_string(value->name);
}

static json_t *string_of(const char *text) {
    json_t *value = json_string(text == NULL ? "" : text);
    return value != NULL ? value : json_string("\xEF\xBF\xBD"); /* not UTF-8 */
}

static json_t *value_of(const ProtobufCFieldDescriptor *field, const void *data) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)data);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_integer(*(const int64_t *)data);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)data);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return json_integer((json_int_t) * (const uint64_t *)data);
    case PROTOBUF_C_TYPE_FLOAT:
        return float_of(*(const float *)data);
    case PROTOBUF_C_TYPE_DOUBLE:
        return real_of(*(const double *)data);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)data);
    case PROTOBUF_C_TYPE_ENUM:
        return enum_of(field, *(const int *)data);
    case PROTOBUF_C_TYPE_STRING:
        return string_of(*(const char *const *)data);
    case PROTOBUF_C_TYPE_BYTES:
        return bytes_of(data);
    case PROTOBUF_C_TYPE_MESSAGE:
        return abl_json_of(*(const ProtobufCMessage *const *)data);
    }
    return NULL;
}

static size_t element_bytes(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return 4;
    case PROTOBUF_C_TYPE_ENUM:
        return sizeof(int);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    }
    return sizeof(void *);
}

static json_t *array_of(const ProtobufCFieldDescriptor *field, const char *data, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; array != NULL && i < count; i++) {
        if (json_array_append_new(array, value_of(field, data + i * element_bytes(field->type))) !=
            0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* True: this member of a oneof is not the one that was given, or the message is absent. */
static bool is_absent(const ProtobufCFieldDescriptor *field, const char *message) {
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
        *(const uint32_t *)(const void *)(message + field->quantifier_offset) != field->id) {
        return true;
    }
    return field->label != PROTOBUF_C_LABEL_REPEATED && field->type == PROTOBUF_C_TYPE_MESSAGE &&
           *(const void *const *)(const void *)(message + field->offset) == NULL;
}

json_t *abl_json_of(const ProtobufCMessage *message) {
    json_t *object = json_object();
    const char *base = (const char *)message;
    for (unsigned i = 0; object != NULL && i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (is_absent(field, base)) {
            continue;
        }
        const void *data = base + field->offset;
        json_t *value = NULL;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t count = *(const size_t *)(const void *)(base + field->quantifier_offset);
            value = array_of(field, *(const char *const *)data, count);
        } else {
            value = value_of(field, data);
        }
        if (json_object_set_new(object, field->name, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}
