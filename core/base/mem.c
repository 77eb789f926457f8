/* SPDX-License-Identifier: Apache-2.0
 *
 * Counting is per thread: a torture test fails the n-th allocation of the code that it runs, and
 * threads of libraries beside it neither shift n nor fail. */
#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local uint64_t allocation_count;
static _Thread_local uint64_t failing_count; /* the value of allocation_count that fails */

static int must_fail(void) {
    allocation_count++;
    return failing_count != 0 && allocation_count == failing_count;
}

void *abl_malloc(size_t bytes) {
    return must_fail() ? NULL : malloc(bytes == 0 ? 1 : bytes);
}

void *abl_calloc(size_t count, size_t bytes) {
    return must_fail() ? NULL : calloc(count == 0 ? 1 : count, bytes == 0 ? 1 : bytes);
}

void *abl_realloc_array(void *block, size_t count, size_t bytes) {
    size_t total = 0;
    if (must_fail() || __builtin_mul_overflow(count, bytes, &total)) {
        return NULL;
    }
    return realloc(block, total == 0 ? 1 : total);
}

char *abl_strndup(const char *text, size_t length_max) {
    size_t length = strnlen(text, length_max);
    char *copy = abl_malloc(length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

char *abl_strdup(const char *text) {
    return abl_strndup(text, strlen(text));
}

void abl_free(void *block) {
    free(block);
}

void abl_freep(void *pointer_to_pointer) {
    void *block = NULL;
    memcpy(&block, pointer_to_pointer, sizeof block);
    free(block);
}

void abl_mem_fail_after(uint64_t n) {
    failing_count = (n == 0) ? 0 : allocation_count + n;
}

uint64_t abl_mem_count(void) {
    return allocation_count;
}
