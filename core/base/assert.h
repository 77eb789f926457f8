/* assert.h -- a broken promise between our own functions ends the process, in release builds too.
 * Bad input is never a broken promise: it is an abl_status. Untrusted bytes must not reach one. */
#ifndef ABLATE_CORE_BASE_ASSERT_H
#define ABLATE_CORE_BASE_ASSERT_H

#include "core/base/compiler.h"

ABL_BEGIN_DECLS

__attribute__((noreturn)) void abl_assert_failed(const char *condition, const char *file, int line);

#define ABL_ASSERT(condition)                                                                      \
    ((condition) ? (void)0 : abl_assert_failed(#condition, __FILE__, __LINE__))

ABL_END_DECLS
#endif
