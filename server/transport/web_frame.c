/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything of gRPC-web that can be tested without a socket. The bytes come from the network, so
 * nothing here trusts a length, and nothing here asserts on input. */
#include "server/transport/web_frame.h"

#include "core/base/mem.h"
#include "server/transport/status_map.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- frames ---- */

void abl_web_frame_header(uint8_t *ret_header, size_t message_bytes) {
    ret_header[0] = 0;
    for (int i = 0; i < 4; i++) {
        ret_header[1 + i] = (uint8_t)(message_bytes >> (24 - 8 * i));
    }
}

abl_code abl_web_frame_parse(const uint8_t *body, size_t body_bytes, const uint8_t **ret_message,
                             size_t *ret_message_bytes, abl_status *ret_status) {
    if (body_bytes < ABL_WEB_FRAME_HEADER_BYTES) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MALFORMED_FRAME",
                        "a gRPC-web body begins with a header of 5 bytes; this one has %zu",
                        body_bytes);
    }
    size_t length = 0;
    for (int i = 1; i < ABL_WEB_FRAME_HEADER_BYTES; i++) {
        length = length << 8 | body[i];
    }
    if (body[0] == 0x01) {
        return abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "COMPRESSION_UNSUPPORTED",
                        "compressed requests are not accepted; send identity");
    }
    if (body[0] != 0 || length != body_bytes - ABL_WEB_FRAME_HEADER_BYTES) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MALFORMED_FRAME",
                        "a request is one data frame; flags are 0x%02x, the frame says %zu bytes, "
                        "%zu follow",
                        body[0], length, body_bytes - ABL_WEB_FRAME_HEADER_BYTES);
    }
    *ret_message = body + ABL_WEB_FRAME_HEADER_BYTES;
    *ret_message_bytes = length;
    return ABL_CODE_OK;
}

uint8_t *abl_web_trailers(const abl_status *status, size_t *ret_bytes) {
    char message[sizeof status->message] = "";
    size_t message_bytes =
        status == NULL ? 0 : abl_status_message_utf8(status, message, sizeof message);
    size_t details_bytes = 0;
    ABL_CLEANUP(abl_freep)
    uint8_t *details = status == NULL ? NULL : abl_status_pack_details(status, &details_bytes);
    size_t room = 128 + 3 * message_bytes + ABL_BASE64_BYTES(details_bytes);
    uint8_t *frame = abl_malloc(ABL_WEB_FRAME_HEADER_BYTES + room);
    if (frame == NULL) {
        return NULL;
    }
    char *text = (char *)frame + ABL_WEB_FRAME_HEADER_BYTES;
    size_t length =
        (size_t)snprintf(text, room, "grpc-status:%d\r\n", status == NULL ? 0 : (int)status->code);
    if (message_bytes > 0) {
        length += (size_t)snprintf(text + length, room - length, "grpc-message:");
        length += abl_percent_encode(message, message_bytes, text + length, room - length);
        length += (size_t)snprintf(text + length, room - length, "\r\n");
    }
    if (details != NULL) {
        length += (size_t)snprintf(text + length, room - length, ABL_STATUS_DETAILS_KEY ":");
        abl_base64_encode(details, details_bytes, text + length);
        length += ABL_BASE64_BYTES(details_bytes);
        memcpy(text + length, "\r\n", 2);
        length += 2;
    }
    abl_web_frame_header(frame, length);
    frame[0] = 0x80;
    *ret_bytes = ABL_WEB_FRAME_HEADER_BYTES + length;
    return frame;
}

/* ---- encodings ---- */

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void abl_base64_encode(const uint8_t *data, size_t bytes, char *ret_text) {
    for (size_t i = 0; i < bytes; i += 3) {
        size_t left = bytes - i;
        unsigned group = (unsigned)data[i] << 16;
        group |= left > 1 ? (unsigned)data[i + 1] << 8 : 0;
        group |= left > 2 ? (unsigned)data[i + 2] : 0;
        *ret_text++ = base64_digits[group >> 18];
        *ret_text++ = base64_digits[group >> 12 & 63];
        *ret_text++ = (char)(left > 1 ? base64_digits[group >> 6 & 63] : '=');
        *ret_text++ = (char)(left > 2 ? base64_digits[group & 63] : '=');
    }
}

static int base64_value(uint8_t digit) {
    if (digit >= 'A' && digit <= 'Z') {
        return digit - 'A';
    }
    if (digit >= 'a' && digit <= 'z') {
        return digit - 'a' + 26;
    }
    if (digit >= '0' && digit <= '9') {
        return digit - '0' + 52;
    }
    return digit == '+' ? 62 : digit == '/' ? 63 : -1;
}

bool abl_base64_decode(uint8_t *text, size_t length, size_t *ret_bytes) {
    size_t written = 0;
    for (size_t i = 0; i < length; i += 4) {
        size_t digits = length - i < 4 ? length - i : 4;
        while (digits > 0 && text[i + digits - 1] == '=') {
            digits--;
        }
        if (digits < 2) {
            return false; /* one digit is less than a byte */
        }
        unsigned group = 0;
        for (size_t j = 0; j < digits; j++) {
            int value = base64_value(text[i + j]);
            if (value < 0) {
                return false;
            }
            group |= (unsigned)value << (18 - 6 * j);
        }
        for (size_t j = 0; j + 1 < digits; j++) {
            text[written++] = (uint8_t)(group >> (16 - 8 * j));
        }
    }
    *ret_bytes = written;
    return true;
}

size_t abl_percent_encode(const char *text, size_t length, char *ret_text, size_t room) {
    size_t written = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        bool plain = byte >= 0x20 && byte <= 0x7e && byte != '%';
        if (written + (plain ? 1 : 3) >= room) {
            break;
        }
        if (plain) {
            ret_text[written++] = (char)byte;
        } else {
            ret_text[written++] = '%';
            ret_text[written++] = "0123456789ABCDEF"[byte >> 4];
            ret_text[written++] = "0123456789ABCDEF"[byte & 15];
        }
    }
    ret_text[written] = '\0';
    return written;
}

bool abl_web_timeout_parse(const char *text, uint64_t *ret_ms) {
    uint64_t value = 0;
    size_t digits = 0;
    while (text[digits] >= '0' && text[digits] <= '9' && digits < 9) {
        value = value * 10 + (uint64_t)(text[digits] - '0');
        digits++;
    }
    if (digits == 0 || digits > 8 || text[digits] == '\0' || text[digits + 1] != '\0') {
        return false;
    }
    switch (text[digits]) {
    case 'H':
        *ret_ms = value * 3600000;
        return true;
    case 'M':
        *ret_ms = value * 60000;
        return true;
    case 'S':
        *ret_ms = value * 1000;
        return true;
    case 'm':
        *ret_ms = value;
        return true;
    case 'u':
        *ret_ms = (value + 999) / 1000;
        return true;
    case 'n':
        *ret_ms = (value + 999999) / 1000000;
        return true;
    default:
        return false;
    }
}

/* ---- who may call ---- */

/* The host part's length of "host:port" or "[v6]:port". */
static size_t host_length(const char *host) {
    const char *end = host[0] == '[' ? strchr(host, ']') : NULL;
    return end != NULL ? (size_t)(end - host) + 1 : strcspn(host, ":");
}

bool abl_web_host_is_local(const char *host) {
    static const char suffix[] = ".localhost";
    size_t length = host_length(host);
    size_t suffix_length = sizeof suffix - 1;
    if ((length == 9 && strncasecmp(host, "localhost", 9) == 0) ||
        (length == 5 && strncmp(host, "[::1]", 5) == 0) ||
        (length > suffix_length &&
         strncasecmp(host + length - suffix_length, suffix, suffix_length) == 0)) {
        return true;
    }
    /* 127.x.x.x and nothing but an address: 127.evil.example is a name like any other. */
    size_t dots = 0;
    for (size_t i = 0; i < length; i++) {
        dots += host[i] == '.';
        if (host[i] != '.' && (host[i] < '0' || host[i] > '9')) {
            return false;
        }
    }
    return dots == 3 && strncmp(host, "127.", 4) == 0;
}

bool abl_web_origin_allowed(const char *origin, const char *host, const char *const *origins,
                            size_t origin_count) {
    for (size_t i = 0; i < origin_count; i++) {
        if (strcmp(origins[i], "*") == 0 || strcasecmp(origins[i], origin) == 0) {
            return true;
        }
    }
    const char *scheme_end = strstr(origin, "://");
    if (scheme_end == NULL) {
        return false; /* "null": a sandboxed page, or a file */
    }
    const char *origin_host = scheme_end + 3;
    return abl_web_host_is_local(origin_host) ||
           (host != NULL && strcasecmp(origin_host, host) == 0);
}
