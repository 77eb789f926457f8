/* SPDX-License-Identifier: Apache-2.0
 *
 * Failures carry their words by value: no heap, so that running out of memory can be told, and no
 * thread-local "last error", because ours cross from an executor to the loop. */
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

abl_code abl_fail(abl_status *ret_status, abl_code code, const char *reason, const char *format,
                  ...) {
    if (ret_status != NULL) {
        ret_status->code = code;
        ret_status->reason = reason;
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(ret_status->message, sizeof ret_status->message, format, arguments);
        va_end(arguments);
    }
    return code;
}

abl_code abl_fail_oom(abl_status *ret_status) {
    return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "OUT_OF_HOST_MEMORY",
                    "the daemon is out of host memory; unload a model or retry with less");
}
