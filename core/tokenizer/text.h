/* text.h -- spans of bytes, UTF-8, and a hash table from texts to ids. Private to core/tokenizer.
 *
 * OWNERSHIP  A table owns its arrays, never the bytes of its texts: whoever sets them keeps them.
 * THREADS    One thread while it is filled; any thread may read afterwards.
 * ERRORS     RESOURCE_EXHAUSTED when there is no memory; nothing else fails.
 */
#ifndef ABLATE_CORE_TOKENIZER_TEXT_H
#define ABLATE_CORE_TOKENIZER_TEXT_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* Bytes, borrowed; data NULL: there is no such text. */
typedef struct abl_text {
    const char *data;
    size_t size;
} abl_text;

/* A list of ids that grows. */
typedef struct abl_ids {
    int32_t *items;
    size_t count;
    size_t capacity;
} abl_ids;

ABL_MUST_CHECK abl_code abl_ids_add(abl_ids *ids, int32_t id, abl_status *ret_status);

/* Grows *block (capacity items of item_bytes) so that it holds `count`; at least doubles it. */
ABL_MUST_CHECK abl_code abl_grow(void **block, size_t *capacity, size_t count, size_t item_bytes,
                                 abl_status *ret_status);

/* The length of the valid UTF-8 sequence that `data` begins with; 0 when it begins with none, and
 * then *ret_bad (NULL is allowed) is how many bytes one U+FFFD stands for (Unicode's "maximal
 * subpart"). size must not be 0. */
size_t abl_utf8_length(const char *data, size_t size, size_t *ret_bad);

/* The code point of a valid sequence. */
uint32_t abl_utf8_decode(const char *data, size_t length);

/* Writes a code point; returns how many of the 4 bytes it took. */
size_t abl_utf8_encode(uint32_t codepoint, char bytes[4]);

/* The offset of the first byte that is not UTF-8; `size` when all is. */
size_t abl_utf8_check(const char *data, size_t size);

typedef struct abl_table_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
} abl_table_slot;

/* id -> text for ids 0 .. id_end-1, and text -> id for those that were indexed. */
typedef struct abl_table {
    abl_text *items;
    int32_t id_end;
    abl_table_slot *slots;
    size_t slot_mask;
    uint64_t seed;
} abl_table;

ABL_MUST_CHECK abl_code abl_table_init(abl_table *table, int32_t id_end, size_t indexed_max,
                                       abl_status *ret_status);
void abl_table_finish(abl_table *table);

/* Makes items[id] findable by its text. False: another id has the same text. */
bool abl_table_index(abl_table *table, int32_t id);

/* The id of a text, or -1. */
int32_t abl_table_find(const abl_table *table, const char *data, size_t size);

/* A seed that whoever wrote the file cannot know, so that no file makes every probe collide. */
uint64_t abl_hash_seed(void);

ABL_END_DECLS
#endif
