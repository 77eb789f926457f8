/* bpe.h -- byte pair encoding of one word. Private to core/tokenizer.
 *
 * OWNERSHIP  The caller owns both structs and ends them with their _finish().
 * THREADS    A model is read by any thread once filled; a scratch belongs to one call.
 * ERRORS     RESOURCE_EXHAUSTED when there is no memory; nothing else fails.
 */
#ifndef ABLATE_CORE_TOKENIZER_BPE_H
#define ABLATE_CORE_TOKENIZER_BPE_H

#include "core/tokenizer/text.h"

ABL_BEGIN_DECLS

typedef struct abl_bpe_merge {
    uint64_t pair; /* left id << 32 | right id; BPE_PAIR_NONE: a free slot */
    uint32_t rank; /* the lower, the earlier */
    int32_t id;    /* what the two become */
} abl_bpe_merge;

typedef struct abl_bpe {
    abl_bpe_merge *merges; /* a hash table, open addressing */
    size_t merge_mask;
    uint64_t seed;
    int32_t byte_ids[256]; /* -1: no token is this one byte, and a word loses it */
} abl_bpe;

ABL_MUST_CHECK abl_code abl_bpe_init(abl_bpe *bpe, size_t merge_count, abl_status *ret_status);
void abl_bpe_finish(abl_bpe *bpe);
/* A pair given again takes the later rank, as in Hugging Face. */
void abl_bpe_set_merge(abl_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);

typedef struct abl_bpe_symbol {
    int32_t id; /* -1: swallowed by its left neighbour */
    int32_t previous;
    int32_t next;
} abl_bpe_symbol;

typedef struct abl_bpe_candidate {
    uint32_t rank;
    int32_t at; /* the left symbol */
    int32_t id; /* what the pair would become */
} abl_bpe_candidate;

/* Room that words of one call share. */
typedef struct abl_bpe_scratch {
    abl_bpe_symbol *symbols;
    size_t symbol_capacity;
    abl_bpe_candidate *heap;
    size_t heap_count;
    size_t heap_capacity;
} abl_bpe_scratch;

void abl_bpe_scratch_finish(abl_bpe_scratch *scratch);

/* Appends the ids of the word. */
ABL_MUST_CHECK abl_code abl_bpe_encode(const abl_bpe *bpe, abl_bpe_scratch *scratch,
                                       const char *word, size_t size, abl_ids *ids,
                                       abl_status *ret_status);

ABL_END_DECLS
#endif
