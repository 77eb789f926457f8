/* log.h -- what the daemon says about itself: one line an event, key=value, on standard error.
 *
 *   2026-11-23T11:52:49.123Z level=info event=listening grpc=127.0.0.1:50051 http=127.0.0.1:8080
 *
 * OWNERSHIP  Nothing is kept.
 * THREADS    Any thread; a line is written whole. The level is set once, before threads start.
 * ERRORS     A line that cannot be written is lost; one over ABL_LOG_LINE_BYTES is cut short.
 */
#ifndef ABLATE_SERVER_RUNTIME_LOG_H
#define ABLATE_SERVER_RUNTIME_LOG_H

#include "core/base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

#define ABL_LOG_LINE_BYTES 1024
#define ABL_LOG_OWNER_BYTES 160 /* for abl_log_quote() of an rpc's owner */

typedef enum abl_log_level {
    ABL_LOG_DEBUG = 0,
    ABL_LOG_INFO,
    ABL_LOG_WARN,
    ABL_LOG_ERROR,
} abl_log_level;

void abl_log_set_level(abl_log_level level);
/* "debug", "info", "warn", "error"; false for anything else. */
bool abl_log_parse_level(const char *text, abl_log_level *ret_level);

/* `event` is one word; `format` gives " key=value" pairs, separated by spaces, or "" for none. */
void abl_log(abl_log_level level, const char *event, const char *format, ...) ABL_PRINTF(3, 4);

/* A value that may hold anything, as "quoted \"text\"", control bytes escaped; returns `buffer`. */
const char *abl_log_quote(char *buffer, size_t buffer_bytes, const char *text);

ABL_END_DECLS
#endif
