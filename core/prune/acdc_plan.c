// SPDX-License-Identifier: Apache-2.0
/* Plans are loops over a graph's edges in bytes: microseconds beside the passes that they spare.
 *
 * Liveness goes down the graph once: a source is live when a kept edge leads from it to a live
 * destination, a destination when the source that it feeds is. By position: the end is live at the
 * last one only; keys and values at a position feed their heads at that one and all behind (at all
 * positions, without a causal mask).
 *
 * Changes go up: units of a block whose rows read a changed source are recomputed whole, so all
 * their heads count as changed, be they live or not; what is dead as a whole is left alone and
 * never counted. */
#include "core/prune/acdc_plan.h"

#include "core/base/mem.h"

#include <string.h>

/* ---- the map --------------------------------------------------------------------------------- */

static void map_fill(abl_acdc_plan *plan) {
    const abl_graph *graph = plan->graph;
    for (int32_t b = 0; b < plan->block_count; b++) {
        abl_acdc_block *block = &plan->blocks[b];
        block->row_dest = block->head_src = block->mlp_dest = block->mlp_src = -1;
    }
    for (int32_t s = abl_graph_src_count(graph) - 1; s >= 0; s--) {
        const abl_graph_src *src = abl_graph_src_at(graph, s);
        if (src->kind == ABL_NODE_HEAD) {
            plan->blocks[src->block].head_src = s; /* the first one stays */
        } else if (src->kind == ABL_NODE_MLP) {
            plan->blocks[src->block].mlp_src = s;
        }
    }
    for (int32_t d = abl_graph_dest_count(graph) - 1; d >= 0; d--) {
        const abl_graph_dest *dest = abl_graph_dest_at(graph, d);
        if (dest->kind == ABL_NODE_HEAD) {
            plan->blocks[dest->block].row_dest = d;
        } else if (dest->kind == ABL_NODE_MLP) {
            plan->blocks[dest->block].mlp_dest = d;
        } else {
            plan->end_dest = d;
        }
    }
}

static bool arrays_alloc(abl_acdc_plan *plan) {
    const abl_graph *graph = plan->graph;
    size_t blocks = (size_t)plan->block_count;
    size_t rows = (size_t)plan->row_count;
    size_t positions = (size_t)plan->positions;
    size_t sources = (size_t)abl_graph_src_count(graph);
    plan->blocks = abl_calloc(blocks, sizeof *plan->blocks);
    plan->removed = abl_calloc((size_t)abl_graph_edge_count(graph), 1);
    plan->live_src = abl_calloc(sources * positions, 1);
    plan->live_dest = abl_calloc((size_t)abl_graph_dest_count(graph) * positions, 1);
    plan->group_of = abl_calloc(blocks * rows, sizeof *plan->group_of);
    plan->mixes = abl_calloc(blocks * (rows + 1) + 1, sizeof *plan->mixes);
    plan->changed = abl_calloc(sources, 1);
    plan->slot_of_src = abl_calloc(sources, sizeof *plan->slot_of_src);
    bool ok = plan->blocks != NULL && plan->removed != NULL && plan->live_src != NULL &&
              plan->live_dest != NULL && plan->group_of != NULL && plan->mixes != NULL &&
              plan->changed != NULL && plan->slot_of_src != NULL;
    for (size_t b = 0; ok && b < blocks; b++) {
        plan->blocks[b].units = abl_calloc((size_t)plan->unit_count, sizeof(int32_t));
        plan->blocks[b].row_mix = abl_calloc(rows, sizeof(int32_t));
        ok = plan->blocks[b].units != NULL && plan->blocks[b].row_mix != NULL;
    }
    return ok;
}

abl_acdc_plan *abl_acdc_plan_create(const abl_graph *graph, bool causal) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    abl_acdc_plan *plan = abl_calloc(1, sizeof *plan);
    if (plan == NULL) {
        return NULL;
    }
    bool native = !o->joined_qkv && o->gqa == ABL_GQA_NATIVE;
    plan->graph = graph;
    plan->block_count = o->layer_count;
    plan->unit_count = native ? o->kv_head_count : o->head_count;
    plan->unit_heads = o->head_count / plan->unit_count;
    plan->row_count = o->joined_qkv ? o->head_count : o->head_count + 2 * plan->unit_count;
    plan->positions = abl_graph_seq_count(graph);
    plan->joined = o->joined_qkv;
    plan->parallel = o->parallel_attn_mlp;
    plan->causal = causal;
    if (!arrays_alloc(plan)) {
        abl_acdc_plan_destroy(plan);
        return NULL;
    }
    map_fill(plan);
    abl_acdc_plan_reset(plan);
    return plan;
}

void abl_acdc_plan_destroy(abl_acdc_plan *plan) {
    if (plan == NULL) {
        return;
    }
    for (int32_t b = 0; plan->blocks != NULL && b < plan->block_count; b++) {
        abl_free(plan->blocks[b].units);
        abl_free(plan->blocks[b].row_mix);
    }
    abl_free(plan->blocks);
    abl_free(plan->removed);
    abl_free(plan->live_src);
    abl_free(plan->live_dest);
    abl_free(plan->group_of);
    abl_free(plan->mixes);
    abl_free(plan->changed);
    abl_free(plan->slot_of_src);
    abl_free(plan);
}

void abl_acdc_plan_reset(abl_acdc_plan *plan) {
    memset(plan->removed, 0, (size_t)abl_graph_edge_count(plan->graph));
    memset(plan->group_of, 0,
           (size_t)plan->block_count * (size_t)plan->row_count * sizeof *plan->group_of);
    abl_acdc_plan_liveness(plan);
}

int32_t abl_acdc_plan_row(const abl_acdc_plan *plan, const abl_graph_dest *dest) {
    return dest->index - plan->blocks[dest->block].row_dest;
}

int32_t abl_acdc_plan_unit(const abl_acdc_plan *plan, int32_t row) {
    int32_t heads = plan->unit_count * plan->unit_heads;
    return row < heads ? row / plan->unit_heads : (row - heads) % plan->unit_count;
}

int32_t abl_acdc_plan_row_at(const abl_acdc_plan *plan, abl_acdc_role role, int32_t head) {
    int32_t heads = plan->unit_count * plan->unit_heads;
    return plan->joined || role == ABL_ACDC_Q ? head
           : role == ABL_ACDC_K               ? heads + head
                                              : heads + plan->unit_count + head;
}

/* ---- edges ----------------------------------------------------------------------------------- */

static bool sees(const abl_graph_dest *dest, int32_t src) {
    return src >= dest->src_begin && src < dest->src_begin + dest->src_count;
}

static bool is_removed(const abl_acdc_plan *plan, const abl_graph_dest *dest, int32_t src,
                       int32_t position) {
    int64_t edge = position * abl_graph_edges_per_position(plan->graph) + dest->edge_offset +
                   (src - dest->src_begin);
    return plan->removed[edge] != 0;
}

/* ---- liveness -------------------------------------------------------------------------------- */

static uint8_t *live_of_dest(abl_acdc_plan *plan, int32_t dest) {
    return plan->live_dest + (int64_t)dest * plan->positions;
}

static uint8_t *live_of_src(abl_acdc_plan *plan, int32_t src) {
    return plan->live_src + (int64_t)src * plan->positions;
}

static void src_liveness(abl_acdc_plan *plan, int32_t src) {
    uint8_t *live = live_of_src(plan, src);
    memset(live, 0, (size_t)plan->positions);
    for (int32_t d = abl_graph_dest_count(plan->graph) - 1; d >= 0; d--) {
        const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, d);
        const uint8_t *reader = live_of_dest(plan, d);
        for (int32_t t = 0; sees(dest, src) && t < plan->positions; t++) {
            live[t] |= reader[t] != 0 && !is_removed(plan, dest, src, t);
        }
    }
}

/* A row is live at a position when a head that it feeds is: there, and for keys and values at any
 * position behind. */
static void row_liveness(abl_acdc_plan *plan, const abl_acdc_block *block, int32_t row) {
    int32_t heads = plan->unit_count * plan->unit_heads;
    int32_t unit = abl_acdc_plan_unit(plan, row);
    bool query = row < heads && !plan->joined;
    int32_t begin = row < heads ? row : unit * plan->unit_heads;
    int32_t end = row < heads ? row + 1 : begin + plan->unit_heads;
    uint8_t *live = live_of_dest(plan, block->row_dest + row);
    memset(live, 0, (size_t)plan->positions);
    for (int32_t head = begin; head < end; head++) {
        const uint8_t *feeds = live_of_src(plan, block->head_src + head);
        uint8_t behind = !plan->causal && memchr(feeds, 1, (size_t)plan->positions) != NULL;
        for (int32_t t = plan->positions - 1; t >= 0; t--) {
            behind |= feeds[t];
            live[t] |= query ? feeds[t] : behind;
        }
    }
}

void abl_acdc_plan_liveness(abl_acdc_plan *plan) {
    uint8_t *end = live_of_dest(plan, plan->end_dest);
    memset(end, 0, (size_t)plan->positions);
    end[plan->positions - 1] = 1;
    for (int32_t b = plan->block_count - 1; b >= 0; b--) {
        const abl_acdc_block *block = &plan->blocks[b];
        if (block->mlp_src >= 0) {
            src_liveness(plan, block->mlp_src);
            memcpy(live_of_dest(plan, block->mlp_dest), live_of_src(plan, block->mlp_src),
                   (size_t)plan->positions);
        }
        for (int32_t head = 0; head < plan->unit_count * plan->unit_heads; head++) {
            src_liveness(plan, block->head_src + head);
        }
        for (int32_t row = 0; row < plan->row_count; row++) {
            row_liveness(plan, block, row);
        }
    }
}

bool abl_acdc_plan_is_live(const abl_acdc_plan *plan, int32_t dest) {
    const uint8_t *live = plan->live_dest + (int64_t)dest * plan->positions;
    return memchr(live, 1, (size_t)plan->positions) != NULL;
}

/* ---- groups ---------------------------------------------------------------------------------- */

static bool rows_equal(const abl_acdc_plan *plan, const abl_acdc_block *block, int32_t a,
                       int32_t b) {
    const abl_graph_dest *x = abl_graph_dest_at(plan->graph, block->row_dest + a);
    const abl_graph_dest *y = abl_graph_dest_at(plan->graph, block->row_dest + b);
    for (int32_t t = 0; t < plan->positions; t++) {
        const uint8_t *removed = plan->removed + t * abl_graph_edges_per_position(plan->graph);
        if (memcmp(removed + x->edge_offset, removed + y->edge_offset, (size_t)x->src_count) != 0) {
            return false;
        }
    }
    return true;
}

void abl_acdc_plan_regroup(abl_acdc_plan *plan, int32_t b) {
    int32_t *group_of = plan->group_of + (int64_t)b * plan->row_count;
    for (int32_t row = 1; row < plan->row_count; row++) {
        for (int32_t other = 0; group_of[row] != 0 && other < row; other++) {
            if (group_of[other] != 0 && group_of[other] != group_of[row] &&
                rows_equal(plan, &plan->blocks[b], row, other)) {
                group_of[row] = group_of[other];
                break;
            }
        }
    }
}

/* ---- plans ----------------------------------------------------------------------------------- */

static void plan_start(abl_acdc_plan *plan) {
    memset(plan->changed, 0, (size_t)abl_graph_src_count(plan->graph));
    plan->mix_count = 0;
    plan->end_mix = -1;
    plan->stream_dest = -1;
    for (int32_t b = 0; b < plan->block_count; b++) {
        abl_acdc_block *block = &plan->blocks[b];
        block->unit_count = 0;
        block->mlp_mix = -1;
        block->mix_begin = block->mix_end = 0;
    }
    for (int32_t s = 0; s < abl_graph_src_count(plan->graph); s++) {
        plan->slot_of_src[s] = -1;
    }
}

/* How a destination's input changes; -1: not at all. Sources that it needs are marked by slot 0. */
static int32_t mix_add(abl_acdc_plan *plan, int32_t d) {
    const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, d);
    int32_t kept = 0;
    int32_t removed = 0;
    for (int32_t s = dest->src_begin; s < dest->src_begin + dest->src_count; s++) {
        bool some_kept = false;
        bool some_removed = false;
        for (int32_t t = 0; plan->changed[s] != 0 && t < plan->positions; t++) {
            bool gone = is_removed(plan, dest, s, t);
            some_kept = some_kept || !gone;
            some_removed = some_removed || gone;
        }
        kept += some_kept;
        removed += some_removed;
    }
    if (kept == 0) {
        return -1;
    }
    abl_acdc_mix *mix = &plan->mixes[plan->mix_count];
    *mix = (abl_acdc_mix){.dest = d, .row = -1, .from_stream = (removed < kept)};
    mix->has_terms = !mix->from_stream || removed > 0;
    for (int32_t s = dest->src_begin; mix->has_terms && s < dest->src_begin + dest->src_count;
         s++) {
        for (int32_t t = 0; plan->changed[s] != 0 && t < plan->positions; t++) {
            if (is_removed(plan, dest, s, t) == mix->from_stream) {
                plan->slot_of_src[s] = 0;
            }
        }
    }
    plan->stream_dest = mix->from_stream ? d : plan->stream_dest;
    return plan->mix_count++;
}

static void units_change(abl_acdc_plan *plan, abl_acdc_block *block) {
    for (int32_t i = 0; i < block->unit_count; i++) {
        memset(plan->changed + block->head_src + block->units[i] * plan->unit_heads, 1,
               (size_t)plan->unit_heads);
    }
}

static void plan_attention(abl_acdc_plan *plan, int32_t b) {
    abl_acdc_block *block = &plan->blocks[b];
    const int32_t *group_of = plan->group_of + (int64_t)b * plan->row_count;
    block->mix_begin = plan->mix_count;
    for (int32_t row = 0; row < plan->row_count; row++) {
        block->row_mix[row] = -1;
        if (!abl_acdc_plan_is_live(plan, block->row_dest + row)) {
            continue;
        }
        for (int32_t m = block->mix_begin; m < plan->mix_count; m++) {
            if (plan->mixes[m].group == group_of[row]) {
                block->row_mix[row] = m;
            }
        }
        if (block->row_mix[row] < 0) {
            int32_t mix = mix_add(plan, block->row_dest + row);
            if (mix >= 0) {
                plan->mixes[mix].group = group_of[row];
                plan->mixes[mix].row = row;
            }
            block->row_mix[row] = mix;
        }
    }
    block->mix_end = plan->mix_count;
    for (int32_t unit = 0; unit < plan->unit_count; unit++) {
        bool changes = false;
        for (int32_t row = 0; row < plan->row_count; row++) {
            changes =
                changes || (block->row_mix[row] >= 0 && abl_acdc_plan_unit(plan, row) == unit);
        }
        if (changes) {
            block->units[block->unit_count++] = unit;
        }
    }
    if (!plan->parallel) {
        units_change(plan, block);
    }
}

static void plan_mlp(abl_acdc_plan *plan, int32_t b) {
    abl_acdc_block *block = &plan->blocks[b];
    if (block->mlp_dest >= 0 && abl_acdc_plan_is_live(plan, block->mlp_dest)) {
        block->mlp_mix = mix_add(plan, block->mlp_dest);
        plan->changed[block->mlp_src] = block->mlp_mix >= 0;
    }
    if (plan->parallel) { /* what attention changed is not seen by the MLP beside it */
        units_change(plan, block);
    }
}

/* The blocks above b, the end, and slots in the order of the sources. */
static void plan_above(abl_acdc_plan *plan, int32_t b) {
    for (int32_t above = b + 1; above < plan->block_count; above++) {
        plan_attention(plan, above);
        plan_mlp(plan, above);
    }
    plan->end_mix = mix_add(plan, plan->end_dest);
    plan->slot_count = 0;
    for (int32_t s = 0; s < abl_graph_src_count(plan->graph); s++) {
        if (plan->slot_of_src[s] == 0) {
            plan->slot_of_src[s] = plan->slot_count++;
        }
    }
}

void abl_acdc_plan_attention(abl_acdc_plan *plan, int32_t b, const int32_t *units,
                             int32_t unit_count) {
    abl_acdc_block *block = &plan->blocks[b];
    plan_start(plan);
    memcpy(block->units, units, (size_t)unit_count * sizeof *units);
    block->unit_count = unit_count;
    units_change(plan, block);
    if (!plan->parallel) {
        plan_mlp(plan, b);
    }
    plan_above(plan, b);
}

void abl_acdc_plan_mlp(abl_acdc_plan *plan, int32_t b) {
    plan_start(plan);
    plan->changed[plan->blocks[b].mlp_src] = 1;
    plan_above(plan, b);
}

void abl_acdc_plan_end(abl_acdc_plan *plan) {
    plan_start(plan);
    plan->slot_count = 0;
}

int32_t abl_acdc_plan_slots_below(const abl_acdc_plan *plan, int32_t src) {
    int32_t count = 0;
    for (int32_t s = 0; s < src; s++) {
        count += plan->slot_of_src[s] >= 0;
    }
    return count;
}

float abl_acdc_plan_factor(const abl_acdc_plan *plan, const abl_acdc_mix *mix, int32_t src,
                           int32_t position) {
    const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, mix->dest);
    if (!sees(dest, src) || plan->changed[src] == 0) {
        return 0;
    }
    bool gone = is_removed(plan, dest, src, position);
    return mix->from_stream ? (gone ? -1.0F : 0.0F) : (gone ? 0.0F : 1.0F);
}
