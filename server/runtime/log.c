/* SPDX-License-Identifier: Apache-2.0
 *
 * A line is formatted on the stack and written by one write(2), which keeps lines of several
 * threads whole up to PIPE_BUF without a lock. Values from outside are quoted: a name with a line
 * break in it must not be able to forge a line. */
#include "server/runtime/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static abl_log_level level_min = ABL_LOG_INFO;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void abl_log_set_level(abl_log_level level) {
    level_min = level;
}

bool abl_log_parse_level(const char *text, abl_log_level *ret_level) {
    for (size_t i = 0; i < ABL_COUNT_OF(level_names); i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (abl_log_level)i;
            return true;
        }
    }
    return false;
}

/* What vsnprintf() wanted, cut to what there was room for. */
static size_t clamp(int wanted, size_t room) {
    return wanted < 0 ? 0 : ((size_t)wanted < room ? (size_t)wanted : room - 1);
}

void abl_log(abl_log_level level, const char *event, const char *format, ...) {
    if (level < level_min) {
        return;
    }
    struct timespec now;
    struct tm utc;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    char line[ABL_LOG_LINE_BYTES];
    size_t length = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    length += clamp(snprintf(line + length, sizeof line - length, ".%03ldZ level=%s event=%s",
                             now.tv_nsec / 1000000, level_names[level], event),
                    sizeof line - length);
    if (format[0] != '\0' && length + 2 < sizeof line) {
        line[length++] = ' ';
        va_list arguments;
        va_start(arguments, format);
        length += clamp(vsnprintf(line + length, sizeof line - length, format, arguments),
                        sizeof line - length);
        va_end(arguments);
    }
    line[length++] = '\n'; /* in place of the NUL, for which there was room */
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
}

const char *abl_log_quote(char *buffer, size_t buffer_bytes, const char *text) {
    size_t length = 0;
    buffer[length++] = '"';
    for (const char *at = text; *at != '\0' && length + 7 < buffer_bytes; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte == '"' || byte == '\\') {
            buffer[length++] = '\\';
            buffer[length++] = *at;
        } else if (byte < 0x20 || byte == 0x7f) {
            length += (size_t)snprintf(buffer + length, buffer_bytes - length, "\\x%02x", byte);
        } else {
            buffer[length++] = *at;
        }
    }
    buffer[length++] = '"';
    buffer[length] = '\0';
    return buffer;
}
