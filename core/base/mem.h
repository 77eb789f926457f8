/* mem.h -- the only door to the heap: counted, so that a test can fail the n-th allocation.
 *
 * OWNERSHIP  What these return is ended with abl_free().
 * THREADS    Any thread.
 * ERRORS     NULL when there is no memory; say so with abl_fail_oom().
 */
#ifndef ABLATE_CORE_BASE_MEM_H
#define ABLATE_CORE_BASE_MEM_H

#include "core/base/compiler.h"

#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

ABL_MUST_CHECK void *abl_malloc(size_t bytes);
/* NULL when count * bytes overflows, too. */
ABL_MUST_CHECK void *abl_calloc(size_t count, size_t bytes);
/* As realloc() of count * bytes, overflow checked; on NULL the old block is still the caller's. */
ABL_MUST_CHECK void *abl_realloc_array(void *block, size_t count, size_t bytes);
ABL_MUST_CHECK char *abl_strdup(const char *text);
ABL_MUST_CHECK char *abl_strndup(const char *text, size_t length_max);
void abl_free(void *block);

/* For ABL_CLEANUP(abl_freep): frees what the variable points to. */
void abl_freep(void *pointer_to_pointer);

/* Tests only: the n-th allocation from now fails, once (0: none). Calling thread only. */
void abl_mem_fail_after(uint64_t n);
/* Tests only: allocations made by the calling thread since it started. */
uint64_t abl_mem_count(void);

ABL_END_DECLS
#endif
