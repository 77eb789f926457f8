// SPDX-License-Identifier: Apache-2.0
/* Two walks over the edges. From the end backwards: a source is needed when a destination of a
 * needed node reads it with a mask other than 1 (Resid End is needed). Forwards, where the ablation
 * is a run: a node is live when one of its destinations reads a live source with a mask other than
 * 1 (Resid Start is live). What is not both is idle. Sources have the index of their place in the
 * stream, and destinations come by layer, so one walk each way settles it. */
#include "core/patch/idle.h"

#include "core/base/mem.h"

#include <string.h>

/* The sources that a destination's node is: a key or value head of a grouped model belongs to all
 * the query heads that read it. Resid End is none. */
static void node_sources(const abl_graph *graph, const abl_graph_dest *dest, int32_t *ret_begin,
                         int32_t *ret_end) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    *ret_begin = *ret_end = 0;
    if (dest->kind == ABL_NODE_RESID_END) {
        return;
    }
    int32_t first = abl_graph_block_src(graph, dest->block);
    int32_t group = 1;
    if (dest->kind == ABL_NODE_MLP) {
        first += o->head_count;
    } else {
        bool key_value = dest->role == ABL_DEST_K || dest->role == ABL_DEST_V;
        bool native = o->gqa == ABL_GQA_NATIVE && !o->joined_qkv;
        group = key_value && native ? o->head_count / o->kv_head_count : 1;
        first += dest->head * group;
    }
    *ret_begin = first;
    *ret_end = first + group;
}

static bool any_of(const uint8_t *flags, int32_t begin, int32_t end) {
    return memchr(flags + begin, 1, (size_t)(end - begin)) != NULL;
}

static void needed_walk(const abl_idle_options *o, uint8_t *needed) {
    const int64_t stride = abl_graph_edges_per_position(o->graph);
    for (int32_t i = abl_graph_dest_count(o->graph) - 1; i >= 0; i--) {
        const abl_graph_dest *dest = abl_graph_dest_at(o->graph, i);
        int32_t begin = 0;
        int32_t end = 0;
        node_sources(o->graph, dest, &begin, &end);
        if (end > begin && !any_of(needed, begin, end)) {
            continue;
        }
        for (int64_t plane = 0; plane < o->planes; plane++) {
            const float *row = o->mask + plane * stride + dest->edge_offset;
            for (int32_t s = 0; s < dest->src_count; s++) {
                needed[s] |= row[s] != 1.0F;
            }
        }
    }
}

/* Turns needed into needed and live. */
static void live_walk(const abl_idle_options *o, uint8_t *needed, uint8_t *live) {
    const int64_t stride = abl_graph_edges_per_position(o->graph);
    live[0] = 1; /* Resid Start */
    for (int32_t i = 0; i < abl_graph_dest_count(o->graph); i++) {
        const abl_graph_dest *dest = abl_graph_dest_at(o->graph, i);
        int32_t begin = 0;
        int32_t end = 0;
        node_sources(o->graph, dest, &begin, &end);
        bool reads = false;
        for (int64_t plane = 0; plane < o->planes && !reads; plane++) {
            const float *row = o->mask + plane * stride + dest->edge_offset;
            for (int32_t s = 0; s < dest->src_count && !reads; s++) {
                reads = row[s] != 1.0F && live[s];
            }
        }
        for (int32_t s = begin; s < end && reads; s++) {
            live[s] = needed[s];
        }
    }
}

static void mask_fill(const abl_idle_options *o, const abl_idle *idle) {
    const int64_t stride = abl_graph_edges_per_position(o->graph);
    for (int32_t i = 0; i < abl_graph_dest_count(o->graph); i++) {
        const abl_graph_dest *dest = abl_graph_dest_at(o->graph, i);
        bool unread = abl_idle_dest(idle, dest);
        for (int64_t plane = 0; plane < o->planes; plane++) {
            const float *from = o->mask + plane * stride + dest->edge_offset;
            float *to = idle->mask + plane * stride + dest->edge_offset;
            for (int32_t s = 0; s < dest->src_count; s++) {
                to[s] = unread || idle->sources[s] ? 1.0F : from[s];
            }
        }
    }
}

abl_code abl_idle_init(const abl_idle_options *options, abl_idle *ret_idle,
                       abl_status *ret_status) {
    const size_t count = (size_t)abl_graph_src_count(options->graph);
    const size_t edges = (size_t)(options->planes * abl_graph_edges_per_position(options->graph));
    ABL_CLEANUP(abl_freep) uint8_t *live = abl_calloc(count, 1);
    abl_idle idle = {.graph = options->graph,
                     .sources = abl_calloc(count, 1),
                     .mask = abl_calloc(edges, sizeof *idle.mask),
                     .planes = options->planes};
    if (live == NULL || idle.sources == NULL || idle.mask == NULL) {
        abl_idle_finish(&idle);
        return abl_fail_oom(ret_status);
    }
    needed_walk(options, idle.sources);
    if (options->run) {
        live_walk(options, idle.sources, live);
    }
    const uint8_t *computed = options->run ? live : idle.sources;
    for (size_t s = 0; s < count; s++) {
        idle.sources[s] = s != 0 && !computed[s];
    }
    mask_fill(options, &idle);
    *ret_idle = idle;
    return ABL_CODE_OK;
}

void abl_idle_finish(abl_idle *idle) {
    abl_free(idle->sources);
    abl_free(idle->mask);
    *idle = (abl_idle){0};
}

bool abl_idle_dest(const abl_idle *idle, const abl_graph_dest *dest) {
    int32_t begin = 0;
    int32_t end = 0;
    node_sources(idle->graph, dest, &begin, &end);
    return end > begin && memchr(idle->sources + begin, 0, (size_t)(end - begin)) == NULL;
}
