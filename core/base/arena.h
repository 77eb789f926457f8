/* arena.h -- memory that ends together: one arena a request, reset when the call ends.
 *
 * OWNERSHIP  The arena owns all it handed out, until abl_arena_reset() or _destroy().
 * THREADS    One thread at a time.
 * ERRORS     NULL when the ceiling (bytes_max) or the heap is exhausted; the arena stays usable.
 */
#ifndef ABLATE_CORE_BASE_ARENA_H
#define ABLATE_CORE_BASE_ARENA_H

#include "core/base/compiler.h"

#include <stddef.h>

ABL_BEGIN_DECLS

typedef struct abl_arena abl_arena;

/* NULL when there is no memory. The arena never holds more than bytes_max in all. */
ABL_MUST_CHECK abl_arena *abl_arena_create(size_t bytes_max);
void abl_arena_destroy(abl_arena *arena);
void abl_arena_reset(abl_arena *arena);

/* Zeroed, aligned for any type. */
ABL_MUST_CHECK void *abl_arena_alloc(abl_arena *arena, size_t bytes);
ABL_MUST_CHECK char *abl_arena_strndup(abl_arena *arena, const char *text, size_t length);
ABL_MUST_CHECK char *abl_arena_printf(abl_arena *arena, const char *format, ...) ABL_PRINTF(2, 3);

size_t abl_arena_bytes(const abl_arena *arena);

ABL_END_DECLS
#endif
