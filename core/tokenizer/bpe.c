/* SPDX-License-Identifier: Apache-2.0
 *
 * A word starts as a doubly linked list of one symbol a byte. A heap holds the merges that the list
 * allows; the one of least rank, and among equals the leftmost, is applied, and the two pairs that
 * its result forms are pushed:
 *
 *     symbols   l <-> o <-> w <-> e <-> r          heap  (rank of "er", 3) (rank of "lo", 0) ...
 *               l <-> o <-> w <-> er               the candidate (w,e) is now stale
 *
 * A candidate is not taken out of the heap when one of its symbols changes. It is recognized as
 * stale when popped: its left symbol is gone, or the pair that stands there now does not merge into
 * the candidate's id. Each merge pushes at most two, so a word of n bytes costs O(n log n) and at
 * most 3n candidates; scanning for the best pair again after each merge would be O(n^2), and a
 * prompt may hold a megabyte without a space. */
#include "core/tokenizer/bpe.h"

#include "core/base/assert.h"
#include "core/base/mem.h"

#include <string.h>

#define BPE_PAIR_NONE UINT64_MAX

static uint64_t bpe_pair(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static abl_bpe_merge *bpe_slot(const abl_bpe *bpe, uint64_t pair) {
    uint64_t hash = (pair ^ bpe->seed) * 0xFF51AFD7ED558CCDU;
    hash = (hash ^ hash >> 32) * 0xC4CEB9FE1A85EC53U;
    for (size_t at = (hash ^ hash >> 29) & bpe->merge_mask;; at = (at + 1) & bpe->merge_mask) {
        abl_bpe_merge *slot = &bpe->merges[at];
        if (slot->pair == pair || slot->pair == BPE_PAIR_NONE) {
            return slot;
        }
    }
}

abl_code abl_bpe_init(abl_bpe *bpe, size_t merge_count, abl_status *ret_status) {
    size_t slot_count = 16;
    while (slot_count < merge_count * 2) {
        slot_count *= 2;
    }
    *bpe = (abl_bpe){.merge_mask = slot_count - 1, .seed = abl_hash_seed()};
    memset(bpe->byte_ids, 0xFF, sizeof bpe->byte_ids); /* every id -1 */
    bpe->merges = abl_calloc(slot_count, sizeof *bpe->merges);
    if (bpe->merges == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < slot_count; i++) {
        bpe->merges[i].pair = BPE_PAIR_NONE;
    }
    return ABL_CODE_OK;
}

void abl_bpe_finish(abl_bpe *bpe) {
    abl_free(bpe->merges);
    bpe->merges = NULL;
}

void abl_bpe_set_merge(abl_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    ABL_ASSERT(left >= 0 && right >= 0 && id >= 0);
    uint64_t pair = bpe_pair(left, right);
    *bpe_slot(bpe, pair) = (abl_bpe_merge){.pair = pair, .rank = rank, .id = id};
}

void abl_bpe_scratch_finish(abl_bpe_scratch *scratch) {
    abl_free(scratch->symbols);
    abl_free(scratch->heap);
    *scratch = (abl_bpe_scratch){0};
}

static bool candidate_before(const abl_bpe_candidate *a, const abl_bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

/* The heap has room: abl_bpe_encode() made it for every push that a word can need. */
static void heap_push(abl_bpe_scratch *scratch, abl_bpe_candidate candidate) {
    ABL_ASSERT(scratch->heap_count < scratch->heap_capacity);
    size_t at = scratch->heap_count++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!candidate_before(&candidate, &scratch->heap[parent])) {
            break;
        }
        scratch->heap[at] = scratch->heap[parent];
        at = parent;
    }
    scratch->heap[at] = candidate;
}

static abl_bpe_candidate heap_pop(abl_bpe_scratch *scratch) {
    abl_bpe_candidate top = scratch->heap[0];
    abl_bpe_candidate last = scratch->heap[--scratch->heap_count];
    size_t count = scratch->heap_count;
    size_t at = 0;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count &&
            candidate_before(&scratch->heap[child + 1], &scratch->heap[child])) {
            child++;
        }
        if (!candidate_before(&scratch->heap[child], &last)) {
            break;
        }
        scratch->heap[at] = scratch->heap[child];
        at = child;
    }
    if (count > 0) {
        scratch->heap[at] = last;
    }
    return top;
}

/* Pushes the pair whose left symbol is `at`, if it merges. */
static void bpe_consider(const abl_bpe *bpe, abl_bpe_scratch *scratch, int32_t at) {
    const abl_bpe_symbol *left = &scratch->symbols[at];
    if (left->next < 0) {
        return;
    }
    const abl_bpe_merge *merge = bpe_slot(bpe, bpe_pair(left->id, scratch->symbols[left->next].id));
    if (merge->pair != BPE_PAIR_NONE) {
        heap_push(scratch, (abl_bpe_candidate){.rank = merge->rank, .at = at, .id = merge->id});
    }
}

static void bpe_apply(const abl_bpe *bpe, abl_bpe_scratch *scratch, abl_bpe_candidate candidate) {
    abl_bpe_symbol *symbols = scratch->symbols;
    abl_bpe_symbol *left = &symbols[candidate.at];
    if (left->id < 0 || left->next < 0) {
        return;
    }
    abl_bpe_symbol *right = &symbols[left->next];
    const abl_bpe_merge *merge = bpe_slot(bpe, bpe_pair(left->id, right->id));
    if (merge->pair == BPE_PAIR_NONE || merge->id != candidate.id) {
        return;
    }
    left->id = candidate.id;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) {
        symbols[left->next].previous = candidate.at;
    }
    if (left->previous >= 0) {
        bpe_consider(bpe, scratch, left->previous);
    }
    bpe_consider(bpe, scratch, candidate.at);
}

static abl_code bpe_reserve(abl_bpe_scratch *scratch, size_t size, abl_status *ret_status) {
    void *symbols = scratch->symbols;
    abl_code code =
        abl_grow(&symbols, &scratch->symbol_capacity, size, sizeof *scratch->symbols, ret_status);
    scratch->symbols = symbols;
    if (code == ABL_CODE_OK) {
        void *heap = scratch->heap;
        code =
            abl_grow(&heap, &scratch->heap_capacity, 3 * size, sizeof *scratch->heap, ret_status);
        scratch->heap = heap;
    }
    return code;
}

abl_code abl_bpe_encode(const abl_bpe *bpe, abl_bpe_scratch *scratch, const char *word, size_t size,
                        abl_ids *ids, abl_status *ret_status) {
    ABL_ASSERT(size <= INT32_MAX / 4);
    abl_code code = bpe_reserve(scratch, size, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    int32_t count = 0;
    for (size_t i = 0; i < size; i++) {
        int32_t id = bpe->byte_ids[(unsigned char)word[i]];
        if (id >= 0) {
            scratch->symbols[count] =
                (abl_bpe_symbol){.id = id, .previous = count - 1, .next = count + 1};
            count++;
        }
    }
    if (count == 0) {
        return ABL_CODE_OK;
    }
    scratch->symbols[count - 1].next = -1;
    scratch->heap_count = 0;
    for (int32_t i = 0; i < count; i++) {
        bpe_consider(bpe, scratch, i);
    }
    while (scratch->heap_count > 0) {
        bpe_apply(bpe, scratch, heap_pop(scratch));
    }
    /* The first symbol is never swallowed: only right neighbours are. */
    for (int32_t i = 0; i >= 0 && code == ABL_CODE_OK; i = scratch->symbols[i].next) {
        code = abl_ids_add(ids, scratch->symbols[i].id, ret_status);
    }
    return code;
}
