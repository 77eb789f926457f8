/* safetensors_set.h -- what a set is made of, for safetensors.c and safetensors_header.c only.
 *
 * OWNERSHIP  Names and arrays are in the set's arena; it unmaps the shards that it has mapped.
 * THREADS    One at a time, until the set is open.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_MODEL_SAFETENSORS_SET_H
#define ABLATE_CORE_MODEL_SAFETENSORS_SET_H

#include "core/base/arena.h"
#include "core/model/safetensors.h"

#include <stdbool.h>

ABL_BEGIN_DECLS

#define ABL_SAFETENSORS_INVALID "SAFETENSORS_INVALID"
#define ABL_SAFETENSORS_TOO_BIG "SAFETENSORS_TOO_BIG"
#define ABL_SAFETENSORS_STRING_BYTES_MAX ((size_t)ABL_TENSOR_COUNT_MAX * (ABL_NAME_BYTES_MAX + 1))

typedef struct abl_safetensors_shard {
    const char *name;     /* in the index; "" for a single file */
    const char *path;     /* in the arena */
    const uint8_t *bytes; /* the whole file */
    size_t bytes_count;
    bool mapped; /* ours to unmap */
} abl_safetensors_shard;

typedef struct abl_safetensors_entry {
    abl_safetensors_tensor tensor;
    uint64_t begin; /* within the shard's data */
    bool indexed;   /* the index names it; unused for a single file */
} abl_safetensors_entry;

struct abl_safetensors {
    abl_arena *arena;
    const char *source;
    abl_safetensors_shard *shards;
    size_t shard_count;
    abl_safetensors_entry *entries; /* sorted by name once open */
    size_t entry_count;
    size_t entry_capacity;
    uint64_t bytes;
};

/* Checks the file's header and appends its tensors to the set, ordered by offset. */
ABL_MUST_CHECK abl_code abl_safetensors_parse_shard(abl_safetensors *set, size_t shard_index,
                                                    abl_status *ret_status);

ABL_END_DECLS
#endif
