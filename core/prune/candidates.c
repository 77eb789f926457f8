// SPDX-License-Identifier: Apache-2.0
/* Exact single-edge patches (ALGORITHMS: exact single-edge patch), many in one pass.
 *
 * Patching s -> dest changes nothing below dest's layer, and there only one head's q, k or v (the
 * heads of a group, for a native key or value head). So from one clean run, with its residuals, z,
 * and the differences of all sources kept, candidates of one destination go through in one batch:
 *
 *     x_c    = residual + D[s_c]       (candidate, batch, pos, d_model)
 *     w_c    = norm(x_c) W'_j + b'_j   one head's projection; the rest is the clean run's
 *     mid_c  = mid + (z'_c - z) W_O    of the affected heads
 *     then the layer's MLP and the layers above, as a plain pass of candidates * batch prompts,
 *     whose last block computes the last position only.
 *
 * An MLP's candidates start at its norm, Resid End's at the last one, and those of a simple graph's
 * stream at the stream itself. A chunk may mix destinations
 * and layers: its candidates join the batch as the pass reaches their layer.
 *
 * Tokens that clean and corrupt prompts share at their start have no differences: those positions
 * are the clean run's in every candidate, so passes compute the positions behind them only, and
 * attend to the clean run's keys and values before, which begin with the batch's prefix. */
#include "core/prune/candidates.h"

#include "core/model/prefix.h"
#include "core/prune/rows.h"

/* The clean q, k, v of a layer, kept while its destinations are candidates. */
static abl_code layer_open(abl_candidates *c, int32_t layer, abl_status *ret_status) {
    abl_exact_run *state = c->state;
    if (state->layer == layer) {
        return ABL_CODE_OK;
    }
    abl_scope_destroy(state->layer_scope);
    state->layer = -1;
    state->layer_scope = abl_scope_create(abl_model_device(c->model));
    if (state->layer_scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_scope *scope = state->layer_scope;
    abl_tensor *normed = abl_folded_norm(scope, state->folded, layer, state->clean->pre[layer]);
    abl_tensor *qkv = abl_folded_project(scope, state->folded, layer, normed);
    state->qkv = abl_prefix_qkv(scope, c->model, c->batch.prefix, layer,
                                abl_folded_views(scope, state->folded, qkv));
    abl_code code = abl_scope_status(scope, ret_status);
    if (code == ABL_CODE_OK) {
        state->layer = layer;
    }
    return code;
}

/* ---- candidates ------------------------------------------------------------------------------ */

/* x (batch, pos, d) over candidates: (candidates, batch, pos, d) of one memory. */
static abl_tensor *over_candidates(abl_candidates *c, const abl_tensor *x) {
    abl_tensor *one = abl_tensor_unsqueeze(c->scope, x, 0);
    return abl_tensor_expand(c->scope, one, 4, (const int64_t[]){c->count, -1, -1, -1});
}

/* The candidates' differences (candidates, batch, pos, d), positions begin..seq. */
static abl_tensor *candidate_differences(abl_candidates *c, int64_t begin) {
    abl_scope *scope = c->scope;
    abl_tensor *arena = c->state->differences.arena;
    const abl_candidate *window = &c->all[c->begin];
    bool consecutive = window[c->count - 1].edge.src - window[0].edge.src == c->count - 1;
    abl_tensor *d = NULL;
    if (consecutive) {
        int64_t slot = ABL_SLOT_SOURCES + window[0].edge.src;
        d = abl_tensor_slice(scope, arena, 0, slot, slot + c->count);
    } else {
        int64_t slots[ABL_CANDIDATES_MAX];
        for (int64_t i = 0; i < c->count; i++) {
            slots[i] = ABL_SLOT_SOURCES + window[i].edge.src;
        }
        d = abl_tensor_index_select(
            scope, arena, 0,
            abl_tensor_from_host(scope, ABL_DTYPE_I64, 1, (const int64_t[]){c->count}, slots));
    }
    return begin == 0 ? d : abl_tensor_slice(scope, d, 2, begin, c->seq);
}

/* What the destination reads in each candidate: (candidates, batch, positions, d), positions from
 * `begin` to the end. */
static abl_tensor *inputs(abl_candidates *c, const abl_tensor *resid, int64_t begin) {
    abl_scope *scope = c->scope;
    if (begin > 0) {
        resid = abl_tensor_slice(scope, resid, 1, begin, c->seq);
    }
    abl_tensor *base = over_candidates(c, resid);
    abl_tensor *d = candidate_differences(c, begin);
    if (c->position < 0) {
        return abl_tensor_add(scope, base, d);
    }
    abl_tensor *x = abl_tensor_clone(scope, base);
    if (c->position >= begin) {
        int64_t at = c->position - begin;
        abl_tensor_add_(scope, abl_tensor_select(scope, x, 2, at),
                        abl_tensor_select(scope, d, 2, at), 1);
    }
    return x;
}

/* (candidates, batch, pos, d) seen as (candidates * batch, pos, d). */
static abl_tensor *as_rows(abl_candidates *c, const abl_tensor *x) {
    if (x == NULL) {
        return NULL;
    }
    return abl_tensor_reshape(c->scope, x, 3,
                              (const int64_t[]){c->rows, abl_tensor_size(x, 2), c->width});
}

/* The last `positions` of x (rows, pos, ...). */
static abl_tensor *last_of(abl_candidates *c, const abl_tensor *x, int64_t positions) {
    int64_t all = x == NULL ? positions : abl_tensor_size(x, 1);
    return abl_tensor_slice(c->scope, x, 1, all - positions, all);
}

/* One head's projection of normed (rows, pos, d): (rows, pos, 1, d_head). `head` counts through the
 * graph's q, k and v heads. */
static abl_tensor *project_head(abl_candidates *c, int layer, const abl_tensor *normed,
                                int64_t head) {
    abl_scope *scope = c->scope;
    const abl_folded *f = c->state->folded;
    int64_t from = head * f->d_head;
    abl_tensor *bias = f->layers[layer].b;
    abl_tensor *w = abl_tensor_linear(
        scope, normed, abl_tensor_slice(scope, f->layers[layer].w, 1, from, from + f->d_head),
        bias == NULL ? NULL : abl_tensor_slice(scope, bias, 0, from, from + f->d_head));
    return abl_tensor_unsqueeze(scope, w, 2);
}

/* Clean heads begin..end of x (batch, pos, head, d_head), positions `from`..`to`, over the
 * candidates: (rows, to - from, heads, d_head). */
static abl_tensor *clean_heads(abl_candidates *c, const abl_tensor *x, int64_t begin, int64_t end,
                               int64_t from, int64_t to) {
    x = abl_tensor_slice(c->scope, x, 2, begin, end);
    return abl_rows_repeat(c->scope, abl_tensor_slice(c->scope, x, 1, from, to), c->count);
}

/* The candidates' own keys or values of one head, behind the clean run's. */
static abl_tensor *behind_clean(abl_candidates *c, const abl_tensor *clean, int64_t head,
                                abl_tensor *x) {
    abl_tensor *prefix = abl_tensor_slice(c->scope, clean, 2, head, head + 1);
    int64_t front = abl_prefix_length(c->batch.prefix) + c->state->from;
    prefix = abl_tensor_slice(c->scope, prefix, 1, 0, front);
    return abl_rows_behind(c->scope, prefix, x);
}

/* z of the heads that the candidates affect, heads begin..end, the last `positions`. */
static abl_tensor *patched_z(abl_candidates *c, int layer, const abl_tensor *normed, int64_t begin,
                             int64_t end, int64_t positions) {
    abl_scope *scope = c->scope;
    const abl_folded *f = c->state->folded;
    const abl_qkv *clean = &c->state->qkv;
    abl_dest_role role = c->dest->role;
    bool joined = role == ABL_DEST_QKV;
    int64_t h = c->dest->head;
    int64_t group = f->q_heads / f->kv_heads;
    int64_t kv = begin / group;
    int64_t q_start = c->seq - positions;
    int64_t length = abl_prefix_length(c->batch.prefix);
    abl_tensor *q = NULL;
    abl_tensor *k = NULL;
    abl_tensor *v = NULL;
    if (role == ABL_DEST_Q || joined) {
        q = project_head(c, layer, last_of(c, normed, positions), h);
        q = abl_block_rotate(scope, c->model, q, length + q_start, false);
    } else {
        q = clean_heads(c, clean->q, begin, end, q_start, c->seq);
    }
    if (role == ABL_DEST_K || joined) {
        k = project_head(c, layer, normed, f->q_heads + h);
        k = abl_block_rotate(scope, c->model, k, length + c->state->from, false);
        k = behind_clean(c, clean->k, h, k);
    } else {
        k = clean_heads(c, clean->k, kv, kv + 1, 0, length + c->seq);
    }
    if (role == ABL_DEST_V || joined) {
        v = project_head(c, layer, normed, f->q_heads + f->kv_heads + h);
        v = behind_clean(c, clean->v, h, v);
    } else {
        v = clean_heads(c, clean->v, kv, kv + 1, 0, length + c->seq);
    }
    return abl_block_attention(scope, c->model, q, k, v, NULL, NULL);
}

/* The residual after attention in each candidate of an attention destination: (rows, positions,
 * d). */
static abl_tensor *patched_attention(abl_candidates *c, int layer, int64_t positions) {
    abl_scope *scope = c->scope;
    const abl_folded *f = c->state->folded;
    const abl_sources *clean = c->state->clean;
    bool q_only = c->dest->role == ABL_DEST_Q;
    abl_tensor *x =
        as_rows(c, inputs(c, clean->pre[layer], q_only ? c->seq - positions : c->state->from));
    abl_tensor *normed = abl_folded_norm(scope, f, layer, x);
    /* The query heads that change: one, or all that read a native key or value head. */
    int64_t group = f->q_heads / f->kv_heads;
    bool shared = c->dest->role == ABL_DEST_K || c->dest->role == ABL_DEST_V;
    int64_t begin = shared ? c->dest->head * group : c->dest->head;
    int64_t end = begin + (shared ? group : 1);
    abl_tensor *z = patched_z(c, layer, normed, begin, end, positions);
    abl_tensor *dz = abl_tensor_sub(
        scope, z, clean_heads(c, clean->z[layer], begin, end, c->seq - positions, c->seq));
    dz = abl_tensor_reshape(scope, dz, 3,
                            (const int64_t[]){c->rows, positions, (end - begin) * f->d_head});
    abl_tensor *w_o = abl_tensor_slice(scope, abl_model_get_block(c->model, layer)->w_o, 0,
                                       begin * f->d_head, end * f->d_head);
    abl_tensor *moved = abl_tensor_linear(scope, dz, w_o, NULL);
    abl_tensor *mid = abl_tensor_slice(scope, clean->mid[layer], 1, c->seq - positions, c->seq);
    mid = abl_tensor_add(
        scope, over_candidates(c, mid),
        abl_tensor_view(scope, moved, 4,
                        (const int64_t[]){c->count, c->batch.size, positions, c->width}));
    return as_rows(c, mid);
}

static abl_tensor *mlp_of(abl_candidates *c, int layer, const abl_tensor *x) {
    abl_tensor *normed =
        abl_block_norm_forward(c->scope, c->model, layer, ABL_BLOCK_NORM_2, x, NULL, NULL);
    return abl_block_mlp(c->scope, c->model, layer, normed, NULL);
}

/* The residual after the destination's layer: (rows, positions, d). */
static abl_tensor *patched_layer(abl_candidates *c, int layer, int64_t positions) {
    abl_scope *scope = c->scope;
    const abl_sources *clean = c->state->clean;
    bool parallel = c->config->parallel_attn_mlp;
    int64_t begin = c->seq - positions;
    if (c->dest->role == ABL_DEST_POST) {
        return as_rows(c, inputs(c, clean->pre[layer + 1], begin));
    }
    if (c->dest->role == ABL_DEST_MID) {
        abl_tensor *mid = as_rows(c, inputs(c, clean->mid[layer], begin));
        return abl_tensor_add(scope, mid, mlp_of(c, layer, mid));
    }
    if (c->dest->role != ABL_DEST_MLP) {
        abl_tensor *mid = patched_attention(c, layer, positions);
        if (c->config->attn_only) {
            return mid;
        }
        if (!parallel) {
            return abl_tensor_add(scope, mid, mlp_of(c, layer, mid));
        }
        abl_tensor *out = abl_tensor_slice(scope, clean->mlp_out[layer], 1, begin, c->seq);
        return abl_tensor_add(scope, mid, as_rows(c, over_candidates(c, out)));
    }
    abl_tensor *x = inputs(c, parallel ? clean->pre[layer] : clean->mid[layer], begin);
    abl_tensor *out = mlp_of(c, layer, as_rows(c, x));
    abl_tensor *mid = abl_tensor_slice(scope, clean->mid[layer], 1, begin, c->seq);
    out = abl_tensor_view(scope, out, 4,
                          (const int64_t[]){c->count, c->batch.size, positions, c->width});
    return as_rows(c, abl_tensor_add(scope, over_candidates(c, mid), out));
}

/* A plain block over the candidates; the last `positions` of its output. */
static abl_tensor *plain_block(abl_candidates *c, int layer, abl_tensor *resid, int64_t positions) {
    abl_scope *scope = c->scope;
    abl_tensor *normed =
        abl_block_norm_forward(scope, c->model, layer, ABL_BLOCK_NORM_1, resid, NULL, NULL);
    abl_qkv qkv = abl_block_qkv(scope, c->model, layer, normed, positions);
    int64_t from = c->state->from;
    if (from == 0) {
        qkv = abl_prefix_qkv(scope, c->model, c->batch.prefix, layer, qkv);
    } else {
        int64_t length = abl_prefix_length(c->batch.prefix);
        qkv.q = abl_block_rotate(scope, c->model, qkv.q, length + c->seq - positions, false);
        qkv.k = abl_block_rotate(scope, c->model, qkv.k, length + from, false);
        qkv.k = abl_rows_behind(scope, c->state->prefix[layer].k, qkv.k);
        qkv.v = abl_rows_behind(scope, c->state->prefix[layer].v, qkv.v);
    }
    abl_tensor *z = abl_block_attention(scope, c->model, qkv.q, qkv.k, qkv.v, NULL, NULL);
    resid = last_of(c, resid, positions);
    abl_tensor *mid = abl_tensor_add(scope, resid, abl_block_attn_out(scope, c->model, layer, z));
    if (c->config->attn_only) {
        return mid;
    }
    abl_tensor *mlp = mlp_of(c, layer, c->config->parallel_attn_mlp ? resid : mid);
    return abl_tensor_add(scope, mid, mlp);
}

/* Moves the window to the next destination's candidates; false at the end. */
static bool window_next(abl_candidates *c) {
    c->begin += c->count;
    c->count = 0;
    if (c->begin == c->all_count) {
        return false;
    }
    const abl_graph *graph = c->prune->options.graph;
    abl_edge first = c->all[c->begin].edge;
    while (c->begin + c->count < c->all_count &&
           c->all[c->begin + c->count].edge.dest == first.dest &&
           c->all[c->begin + c->count].edge.seq == first.seq) {
        c->count++;
    }
    c->rows = c->count * c->batch.size;
    c->dest = abl_graph_dest_at(graph, first.dest);
    c->position = abl_graph_options_of(graph)->seq_len == 0 ? -1 : first.seq;
    return true;
}

/* `above` (rows, pos, d) and `more` behind it; either may be NULL. */
static abl_tensor *rows_join(abl_candidates *c, abl_tensor *above, abl_tensor *more) {
    if (above == NULL || more == NULL) {
        return above == NULL ? more : above;
    }
    const abl_tensor *const parts[] = {above, more};
    return abl_tensor_cat(c->scope, parts, 2, 0);
}

abl_tensor *abl_candidates_end(abl_candidates *c) {
    abl_scope *scope = c->scope;
    int32_t layers = c->config->n_layers;
    abl_tensor *resid = NULL;
    bool more = window_next(c);
    for (int layer = c->dest->block; layer < layers && !abl_scope_failed(scope); layer++) {
        int64_t positions = layer + 1 == layers ? 1 : c->seq - c->state->from;
        size_t mark = abl_scope_mark(scope);
        if (resid != NULL) {
            resid = plain_block(c, layer, resid, positions);
        }
        for (; more && c->dest->block == layer && !abl_scope_failed(scope); more = window_next(c)) {
            abl_status status;
            if (c->dest->kind == ABL_NODE_HEAD && layer_open(c, layer, &status) != ABL_CODE_OK) {
                abl_scope_fail(scope, &status);
            }
            resid = rows_join(c, resid, patched_layer(c, layer, positions));
        }
        abl_scope_rewind(scope, mark, &resid, 1);
    }
    for (; more; more = window_next(c)) { /* what is left reads Resid End itself */
        resid = rows_join(c, resid, as_rows(c, inputs(c, c->state->clean->end, c->seq - 1)));
    }
    const int64_t shape[] = {c->all_count, c->batch.size, c->width};
    return resid == NULL ? NULL : abl_tensor_reshape(scope, resid, 3, shape);
}
