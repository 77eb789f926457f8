/* SPDX-License-Identifier: Apache-2.0
 *
 * jansson 2.14 does not survive a failed allocation in its lexer: it reports "invalid token", or
 * returns a value in which a string lacks its last bytes. So its allocations come from here, and a
 * thread-local flag remembers that one failed: then the answer is RESOURCE_EXHAUSTED whatever
 * jansson said or returned. The allocators are
 * process-wide; they end in malloc and free, so values made before the switch are freed alike. */
#include "core/json/json.h"

#include "core/base/assert.h"
#include "core/base/mem.h"

#include <pthread.h>
#include <stdbool.h>

static _Thread_local bool allocation_failed;
static pthread_once_t allocators_once = PTHREAD_ONCE_INIT;

static void *json_malloc(size_t bytes) {
    void *block = abl_malloc(bytes);
    if (block == NULL) {
        allocation_failed = true;
    }
    return block;
}

static void allocators_install(void) {
    json_set_alloc_funcs(json_malloc, abl_free);
}

abl_code abl_json_parse(const char *text, size_t text_bytes, const char *source, const char *reason,
                        json_t **ret_value, abl_status *ret_status) {
    ABL_ASSERT(text != NULL && source != NULL && reason != NULL && ret_value != NULL);
    (void)pthread_once(&allocators_once, allocators_install);
    allocation_failed = false;
    json_error_t error;
    json_t *value = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &error);
    if (allocation_failed) {
        json_decref(value);
        return abl_fail_oom(ret_status);
    }
    if (value != NULL) {
        *ret_value = value;
        return ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                    "%s: not valid JSON at line %d, column %d: %s", source, error.line,
                    error.column, error.text);
}

void abl_json_decrefp(json_t **value) {
    json_decref(*value);
}

const char *abl_json_type_text(const json_t *value) {
    if (value == NULL) {
        return "absent";
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}
