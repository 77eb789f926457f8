/* json.h -- JSON text from outside, parsed with every limit on and failures told apart.
 *
 * OWNERSHIP  What abl_json_parse() returns is the caller's: json_decref(), or ABL_CLEANUP.
 * THREADS    Any thread.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_JSON_JSON_H
#define ABLATE_CORE_JSON_JSON_H

#include "core/base/status.h"

#include <jansson.h>
#include <stddef.h>

ABL_BEGIN_DECLS

/* Parses all of `text`. Refuses duplicate keys, text that is not UTF-8, NUL in strings, numbers
 * beyond 64 bits, and nesting deeper than jansson's 2048. A failure is INVALID_ARGUMENT with the
 * caller's `reason` (static storage) and says `source`, line and column; or RESOURCE_EXHAUSTED.
 * jansson's allocations go through core/base/mem.h from the first call on. */
ABL_MUST_CHECK abl_code abl_json_parse(const char *text, size_t text_bytes, const char *source,
                                       const char *reason, json_t **ret_value,
                                       abl_status *ret_status);

/* For ABL_CLEANUP: releases the value that the variable points to. */
void abl_json_decrefp(json_t **value);

/* "a string", "null", ...: what a value is, in the words of messages; "absent" for NULL. */
const char *abl_json_type_text(const json_t *value);

ABL_END_DECLS
#endif
