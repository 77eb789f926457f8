/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void abl_assert_failed(const char *condition, const char *file, int line) {
    (void)fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, condition);
    abort();
}
