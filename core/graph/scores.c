// SPDX-License-Identifier: Apache-2.0
/* One number per edge.
 *
 * Ranks compare |value| as the bits of a non-negative float, which order as the floats do; a NaN is
 * mapped below zero. One 64-bit key per edge, (bits << 32) | (~index), then makes "higher |value|,
 * then lower index" a plain integer comparison without ties, so selection needs no stable sort.
 * Edge counts stay below 2^32 (ABL_EDGE_COUNT_MAX), so an index fits its half.
 *
 * Partial selection: a bounded heap of k keys costs O(n log k) in the worst case and O(n) in the
 * usual one, where few values beat the current k-th. It is what a job's running top-k needs after
 * every batch. Thresholds at many ranks sort all keys once. */
#include "core/graph/scores.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(ABL_EDGE_COUNT_MAX < (1LL << 32), "an edge index must fit half a key");

static uint64_t key_of(float value, int64_t index) {
    float magnitude = fabsf(value);
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    bits = isnan(value) ? 0 : bits + 1; /* +1: a NaN ranks below 0 */
    return ((uint64_t)bits << 32) | (uint32_t) ~(uint32_t)index;
}

static int64_t key_index(uint64_t key) {
    return (int64_t)(uint32_t) ~(uint32_t)key;
}

static int key_compare_descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* ---- modules --------------------------------------------------------------------------------- */

abl_scores_shape abl_scores_module_shape(const abl_graph *graph, int32_t module_index) {
    const abl_graph_module *module = abl_graph_module_at(graph, module_index);
    abl_scores_shape shape = {.count = 1};
    if (abl_graph_options_of(graph)->seq_len != 0) {
        shape.dims[shape.rank++] = abl_graph_seq_count(graph);
    }
    if (module->has_heads) {
        shape.dims[shape.rank++] = module->dest_count;
    }
    shape.dims[shape.rank++] = module->src_count;
    for (int32_t i = 0; i < shape.rank; i++) {
        shape.count *= shape.dims[i];
    }
    return shape;
}

void abl_scores_read_module(const abl_graph *graph, const float *values, int32_t module_index,
                            float *ret_tensor) {
    const abl_graph_module *module = abl_graph_module_at(graph, module_index);
    size_t block = (size_t)module->dest_count * (size_t)module->src_count;
    int64_t stride = abl_graph_edges_per_position(graph);
    for (int32_t seq = 0; seq < abl_graph_seq_count(graph); seq++) {
        memcpy(ret_tensor + (size_t)seq * block, values + seq * stride + module->edge_offset,
               block * sizeof *values);
    }
}

void abl_scores_write_module(const abl_graph *graph, float *values, int32_t module_index,
                             const float *tensor) {
    const abl_graph_module *module = abl_graph_module_at(graph, module_index);
    size_t block = (size_t)module->dest_count * (size_t)module->src_count;
    int64_t stride = abl_graph_edges_per_position(graph);
    for (int32_t seq = 0; seq < abl_graph_seq_count(graph); seq++) {
        memcpy(values + seq * stride + module->edge_offset, tensor + (size_t)seq * block,
               block * sizeof *values);
    }
}

void abl_scores_group(const abl_graph *expanded, const float *expanded_values,
                      const abl_graph *native, float *ret_native_values) {
    ABL_ASSERT(abl_graph_module_count(expanded) == abl_graph_module_count(native));
    ABL_ASSERT(abl_graph_seq_count(expanded) == abl_graph_seq_count(native));
    int64_t count = abl_graph_edge_count(native);
    memset(ret_native_values, 0, (size_t)count * sizeof *ret_native_values);
    for (int32_t seq = 0; seq < abl_graph_seq_count(native); seq++) {
        for (int32_t i = 0; i < abl_graph_module_count(native); i++) {
            const abl_graph_module *from = abl_graph_module_at(expanded, i);
            const abl_graph_module *to = abl_graph_module_at(native, i);
            int32_t group = from->dest_count / to->dest_count;
            const float *in =
                expanded_values + from->edge_offset + seq * abl_graph_edges_per_position(expanded);
            float *out =
                ret_native_values + to->edge_offset + seq * abl_graph_edges_per_position(native);
            for (int64_t head = 0; head < from->dest_count; head++) {
                for (int64_t src = 0; src < to->src_count; src++) {
                    out[head / group * to->src_count + src] += in[head * from->src_count + src];
                }
            }
        }
    }
}

/* ---- ranks ----------------------------------------------------------------------------------- */

/* Restores the min-heap below `at` after its key was replaced. */
static void heap_sift_down(uint64_t *heap, int64_t count, int64_t at) {
    uint64_t key = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= key) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

abl_code abl_scores_top(const float *values, int64_t count, const uint8_t *eligible, int64_t k,
                        int64_t *ret_indices, int64_t *ret_count, abl_status *ret_status) {
    ABL_ASSERT(k >= 0 && count >= 0 && count <= ABL_EDGE_COUNT_MAX);
    if (k > count) {
        k = count;
    }
    if (k == 0) {
        *ret_count = 0;
        return ABL_CODE_OK;
    }
    ABL_CLEANUP(abl_freep) uint64_t *heap = abl_calloc((size_t)k, sizeof *heap);
    if (heap == NULL) {
        return abl_fail_oom(ret_status);
    }
    int64_t held = 0;
    for (int64_t i = 0; i < count; i++) {
        if (eligible != NULL && eligible[i] == 0) {
            continue;
        }
        uint64_t key = key_of(values[i], i);
        if (held < k) {
            heap[held++] = key;
            if (held == k) {
                for (int64_t at = k / 2 - 1; at >= 0; at--) {
                    heap_sift_down(heap, k, at);
                }
            }
        } else if (key > heap[0]) {
            heap[0] = key;
            heap_sift_down(heap, k, 0);
        }
    }
    qsort(heap, (size_t)held, sizeof *heap, key_compare_descending);
    for (int64_t i = 0; i < held; i++) {
        ret_indices[i] = key_index(heap[i]);
    }
    *ret_count = held;
    return ABL_CODE_OK;
}

/* All keys, best first; NULL when there is no memory. End with abl_free(). */
static uint64_t *keys_sorted(const float *values, int64_t count) {
    uint64_t *keys = abl_calloc((size_t)count + 1, sizeof *keys);
    if (keys != NULL) {
        for (int64_t i = 0; i < count; i++) {
            keys[i] = key_of(values[i], i);
        }
        qsort(keys, (size_t)count, sizeof *keys, key_compare_descending);
    }
    return keys;
}

static abl_code size_check(int64_t size, int64_t count, abl_status *ret_status) {
    if (size < 0 || size > count) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                        "a circuit of %lld edges was asked for; this graph has %lld",
                        (long long)size, (long long)count);
    }
    return ABL_CODE_OK;
}

abl_code abl_scores_thresholds(const float *values, int64_t count, const int64_t *sizes,
                               int32_t size_count, float *ret_thresholds, abl_status *ret_status) {
    ABL_ASSERT(count >= 0 && count <= ABL_EDGE_COUNT_MAX);
    for (int32_t i = 0; i < size_count; i++) {
        abl_code code = size_check(sizes[i], count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    ABL_CLEANUP(abl_freep) uint64_t *keys = keys_sorted(values, count);
    if (keys == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int32_t i = 0; i < size_count; i++) {
        ret_thresholds[i] = sizes[i] == 0 ? INFINITY : fabsf(values[key_index(keys[sizes[i] - 1])]);
    }
    return ABL_CODE_OK;
}

/* Bits that order as the value does; the zeros are one, and a NaN is below everything. */
static uint32_t signed_bits(float value) {
    if (isnan(value)) {
        return 0;
    }
    float plain = value == 0.0F ? 0.0F : value;
    uint32_t bits;
    memcpy(&bits, &plain, sizeof bits);
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

abl_code abl_scores_by_value(const float *values, int64_t count, float *ret_values,
                             abl_status *ret_status) {
    ABL_CLEANUP(abl_freep) uint64_t *keys = abl_calloc((size_t)count + 1, sizeof *keys);
    if (keys == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int64_t i = 0; i < count; i++) {
        keys[i] = ((uint64_t)signed_bits(values[i]) << 32) | (uint32_t)i;
    }
    qsort(keys, (size_t)count, sizeof *keys, key_compare_descending);
    /* Normal floats whose bits count down: neighbours differ, and none is subnormal. */
    uint32_t bits = 0x00800000U + (uint32_t)count;
    for (int64_t i = 0; i < count; i++) {
        bits -= i > 0 && (keys[i] >> 32) != (keys[i - 1] >> 32);
        memcpy(&ret_values[(uint32_t)keys[i]], &bits, sizeof bits);
    }
    return ABL_CODE_OK;
}

int64_t abl_scores_circuit(const float *values, int64_t count, float threshold,
                           uint8_t *ret_in_circuit) {
    int64_t in_count = 0;
    for (int64_t i = 0; i < count; i++) {
        bool in = fabsf(values[i]) >= threshold;
        in_count += in;
        if (ret_in_circuit != NULL) {
            ret_in_circuit[i] = in;
        }
    }
    return in_count;
}

/* ---- circuit sizes --------------------------------------------------------------------------- */

typedef struct size_list {
    int64_t *sizes;
    int32_t count;
    int32_t capacity;
} size_list;

static abl_code size_add(size_list *list, int64_t size, abl_status *ret_status) {
    if (list->count == list->capacity) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "CIRCUIT_COUNT",
                        "more than %d circuit sizes; ask for fewer, as with LOGARITHMIC",
                        list->capacity);
    }
    list->sizes[list->count++] = size;
    return ABL_CODE_OK;
}

static bool size_has(const size_list *list, int64_t size) {
    for (int32_t i = 0; i < list->count; i++) {
        if (list->sizes[i] == size) {
            return true;
        }
    }
    return false;
}

/* The first occurrence, as Python's list.remove(). */
static void size_remove(size_list *list, int64_t size) {
    for (int32_t i = 0; i < list->count; i++) {
        if (list->sizes[i] == size) {
            memmove(&list->sizes[i], &list->sizes[i + 1],
                    (size_t)(list->count - i - 1) * sizeof *list->sizes);
            list->count--;
            return;
        }
    }
}

static abl_code add_range(size_list *list, int64_t edge_count, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int64_t size = 0; code == ABL_CODE_OK && size <= edge_count; size++) {
        code = size_add(list, size, ret_status);
    }
    return code;
}

static abl_code add_logarithmic(size_list *list, int64_t edge_count, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int64_t step = 1; code == ABL_CODE_OK && step < edge_count; step *= 10) {
        for (int64_t size = step; code == ABL_CODE_OK && size < 10 * step && size < edge_count;
             size += step) {
            code = size_add(list, size, ret_status);
        }
    }
    return code;
}

/* Sizes at which |value| changes, from the keys of all edges, best first. */
static abl_code add_groups(size_list *list, const uint64_t *keys, int64_t edge_count,
                           abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int64_t i = 0; code == ABL_CODE_OK && i < edge_count; i++) {
        if (i + 1 == edge_count || keys[i] >> 32 != keys[i + 1] >> 32) {
            code = size_add(list, i + 1, ret_status);
        }
    }
    return code;
}

static abl_code add_list(size_list *list, const abl_edge_counts_options *options,
                         int64_t edge_count, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int32_t i = 0; code == ABL_CODE_OK && i < options->list_count; i++) {
        double value = options->list[i].value;
        if (options->list[i].is_fraction) {
            value *= (double)edge_count;
        }
        if (!(value > -1 && value < (double)edge_count + 1)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                            "circuit size number %d is %g; sizes are 0 to %lld edges, or fractions "
                            "of them from 0 to 1",
                            i, options->list[i].value, (long long)edge_count);
        }
        code = size_check((int64_t)value, edge_count, ret_status);
        if (code == ABL_CODE_OK) {
            code = size_add(list, (int64_t)value, ret_status);
        }
    }
    return code;
}

static abl_edge_counts_kind default_kind(const uint64_t *keys, int64_t edge_count) {
    if (keys != NULL) {
        int64_t groups = edge_count > 0 ? 1 : 0;
        for (int64_t i = 1; i < edge_count; i++) {
            groups += keys[i] >> 32 != keys[i - 1] >> 32;
        }
        if (groups < 100 && 2 * groups < edge_count) {
            return ABL_EDGE_COUNTS_GROUPS;
        }
    }
    return edge_count > 200 ? ABL_EDGE_COUNTS_LOGARITHMIC : ABL_EDGE_COUNTS_ALL;
}

static int size_compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Adds or removes 0 or n, by the caller's choice or by the length of the list so far. */
static abl_code set_end(size_list *list, int64_t size, abl_edge_counts_end end, bool is_long,
                        abl_status *ret_status) {
    bool wanted = end == ABL_EDGE_COUNTS_END_DEFAULT ? is_long : end == ABL_EDGE_COUNTS_END_ADD;
    if (wanted && !size_has(list, size)) {
        return size_add(list, size, ret_status);
    }
    if (!wanted) {
        size_remove(list, size);
    }
    return ABL_CODE_OK;
}

static abl_code counts_add(const abl_edge_counts_options *options, const uint64_t *keys,
                           int64_t edge_count, size_list *list, abl_status *ret_status) {
    abl_edge_counts_kind kind =
        options->kind == ABL_EDGE_COUNTS_DEFAULT ? default_kind(keys, edge_count) : options->kind;
    abl_code code = ABL_CODE_OK;
    switch (kind) {
    case ABL_EDGE_COUNTS_DEFAULT:
    case ABL_EDGE_COUNTS_ALL:
        code = add_range(list, edge_count, ret_status);
        break;
    case ABL_EDGE_COUNTS_LOGARITHMIC:
        code = add_logarithmic(list, edge_count, ret_status);
        break;
    case ABL_EDGE_COUNTS_GROUPS:
        code = add_groups(list, keys, edge_count, ret_status);
        break;
    case ABL_EDGE_COUNTS_LIST:
        code = add_list(list, options, edge_count, ret_status);
        break;
    }
    bool is_long = list->count > 2;
    if (code == ABL_CODE_OK) {
        code = set_end(list, 0, options->zero, is_long, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = set_end(list, edge_count, options->all, is_long, ret_status);
    }
    int64_t true_count = options->true_edge_count;
    if (code == ABL_CODE_OK && true_count != 0 && !size_has(list, true_count)) {
        code = size_check(true_count, edge_count, ret_status);
        if (code == ABL_CODE_OK) {
            code = size_add(list, true_count, ret_status);
        }
    }
    return code;
}

abl_code abl_edge_counts(const abl_edge_counts_options *options, int64_t edge_count,
                         int64_t *ret_sizes, int32_t capacity, int32_t *ret_count,
                         abl_status *ret_status) {
    if (options->kind == ABL_EDGE_COUNTS_GROUPS && options->values == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                        "circuit sizes by GROUPS are groups of equal scores; give the scores");
    }
    bool ranked =
        options->kind == ABL_EDGE_COUNTS_GROUPS || options->kind == ABL_EDGE_COUNTS_DEFAULT;
    ABL_CLEANUP(abl_freep) uint64_t *keys = NULL;
    if (ranked && options->values != NULL) {
        keys = keys_sorted(options->values, edge_count);
        if (keys == NULL) {
            return abl_fail_oom(ret_status);
        }
    }
    size_list list = {.sizes = ret_sizes, .capacity = capacity};
    abl_code code = counts_add(options, keys, edge_count, &list, ret_status);
    if (code == ABL_CODE_OK) {
        qsort(list.sizes, (size_t)list.count, sizeof *list.sizes, size_compare);
        *ret_count = list.count;
    }
    return code;
}
