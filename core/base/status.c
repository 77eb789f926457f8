/* SPDX-License-Identifier: Apache-2.0
 *
 * Failures carry their words by value: no heap, so that running out of memory can be told, and no
 * thread-local "last error", because ours cross from an executor to the loop.
 *
 * A message may quote a name that came from outside and may be cut short, and it ends in protobuf
 * strings and on terminals: whatever is not UTF-8, and control characters, become '?'. */
#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>

const char *abl_code_name(abl_code code) {
    switch (code) {
#define X(name, number)                                                                            \
    case ABL_CODE_##name:                                                                          \
        return #name;
        ABL_CODE_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

/* Bytes of the UTF-8 sequence at `text`; 0 when there is none (RFC 3629: overlong forms and
 * surrogates are none). */
static size_t sequence_bytes(const char *text) {
    unsigned char first = (unsigned char)text[0];
    unsigned char second_min = 0x80;
    unsigned char second_max = 0xbf;
    size_t bytes = 0;
    if (first < 0x80) {
        return 1;
    } else if (first >= 0xc2 && first < 0xe0) {
        bytes = 2;
    } else if (first >= 0xe0 && first < 0xf0) {
        bytes = 3;
        second_min = (first == 0xe0) ? 0xa0 : 0x80;
        second_max = (first == 0xed) ? 0x9f : 0xbf;
    } else if (first >= 0xf0 && first < 0xf5) {
        bytes = 4;
        second_min = (first == 0xf0) ? 0x90 : 0x80;
        second_max = (first == 0xf4) ? 0x8f : 0xbf;
    }
    for (size_t i = 1; i < bytes; i++) {
        unsigned char next = (unsigned char)text[i]; /* the NUL, too, ends a sequence early */
        if (next < ((i == 1) ? second_min : 0x80) || next > ((i == 1) ? second_max : 0xbf)) {
            return 0;
        }
    }
    return bytes;
}

static void make_printable(char *text) {
    while (*text != '\0') {
        size_t bytes = sequence_bytes(text);
        unsigned char first = (unsigned char)*text;
        if (bytes == 0 || first == 0x7f || (first < 0x20 && first != '\n' && first != '\t')) {
            *text = '?';
            bytes = 1;
        }
        text += bytes;
    }
}

abl_code abl_fail(abl_status *ret_status, abl_code code, const char *reason, const char *format,
                  ...) {
    if (ret_status != NULL) {
        ret_status->code = code;
        ret_status->reason = reason;
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(ret_status->message, sizeof ret_status->message, format, arguments);
        va_end(arguments);
        make_printable(ret_status->message);
    }
    return code;
}

abl_code abl_fail_oom(abl_status *ret_status) {
    return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "OUT_OF_HOST_MEMORY",
                    "the daemon is out of host memory; unload a model or retry with less");
}
