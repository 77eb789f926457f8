/* SPDX-License-Identifier: Apache-2.0
 *
 * A list of blocks, each a bump allocator; the newest block is first. A request that does not fit
 * the rest of the newest block gets a new one of at least BLOCK_BYTES, so a large request costs its
 * own size and small ones share. The ceiling counts whole blocks: it bounds what hostile input can
 * make the daemon hold, whatever the shape of its messages. */
#include "core/base/arena.h"

#include "core/base/mem.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)16 << 10)

typedef struct block block;
struct block {
    block *next;
    size_t used;
    size_t capacity;
    max_align_t data[];
};

struct abl_arena {
    block *blocks;
    size_t bytes;
    size_t bytes_max;
};

abl_arena *abl_arena_create(size_t bytes_max) {
    abl_arena *arena = abl_calloc(1, sizeof *arena);
    if (arena != NULL) {
        arena->bytes_max = bytes_max;
    }
    return arena;
}

void abl_arena_reset(abl_arena *arena) {
    while (arena->blocks != NULL) {
        block *next = arena->blocks->next;
        abl_free(arena->blocks);
        arena->blocks = next;
    }
    arena->bytes = 0;
}

void abl_arena_destroy(abl_arena *arena) {
    if (arena != NULL) {
        abl_arena_reset(arena);
        abl_free(arena);
    }
}

static block *arena_grow(abl_arena *arena, size_t bytes) {
    size_t capacity = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    size_t room = arena->bytes_max - arena->bytes;
    if (capacity > room) {
        capacity = bytes; /* near the ceiling a block holds just what is asked for */
    }
    if (capacity > room) {
        return NULL;
    }
    block *fresh = abl_malloc(sizeof *fresh + capacity);
    if (fresh != NULL) {
        *fresh = (block){.next = arena->blocks, .capacity = capacity};
        arena->blocks = fresh;
        arena->bytes += capacity;
    }
    return fresh;
}

void *abl_arena_alloc(abl_arena *arena, size_t bytes) {
    size_t rounded = 0;
    if (__builtin_add_overflow(bytes == 0 ? 1 : bytes, sizeof(max_align_t) - 1, &rounded)) {
        return NULL;
    }
    rounded -= rounded % sizeof(max_align_t);
    block *current = arena->blocks;
    if (current == NULL || current->capacity - current->used < rounded) {
        current = arena_grow(arena, rounded);
        if (current == NULL) {
            return NULL;
        }
    }
    char *memory = (char *)current->data + current->used;
    current->used += rounded;
    memset(memory, 0, rounded);
    return memory;
}

char *abl_arena_strndup(abl_arena *arena, const char *text, size_t length) {
    char *copy = abl_arena_alloc(arena, length + 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return copy;
}

char *abl_arena_printf(abl_arena *arena, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : abl_arena_alloc(arena, (size_t)length + 1);
    if (text != NULL) {
        va_start(arguments, format);
        (void)vsnprintf(text, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    return text;
}

size_t abl_arena_bytes(const abl_arena *arena) {
    return arena->bytes;
}
