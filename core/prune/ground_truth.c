// SPDX-License-Identifier: Apache-2.0
/* Ground truth: the loss with exactly one edge ablated, minus the clean loss (ALGORITHMS: exact
 * single-edge patch).
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
 * An MLP's candidates start at its norm, Resid End's at the last one. A chunk may mix destinations
 * and layers: its candidates join the batch as the pass reaches their layer. The loss needs the
 * answers' columns of the unembedding only, unless it normalizes over the vocabulary.
 *
 * A step is one chunk of candidates: at most candidate_count_max, by default as many as make about
 * TOKENS_PER_CHUNK tokens, where products are at their best and temporaries still small. */
#include "core/prune/algorithm.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/metric/loss.h"
#include "core/patch/folded.h"
#include "core/patch/sources.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS_PER_CHUNK 2048
#define CANDIDATES_MAX 256

typedef struct ground_truth {
    int64_t *edges; /* ascending; NULL: all */
    int64_t edge_count;
    int64_t at; /* the next of them, in the current batch */
    abl_folded *folded;

    /* of the current batch */
    abl_scope *batch_scope; /* NULL: not prepared */
    abl_sources *clean;
    abl_differences differences;
    abl_tensor *clean_logp; /* for KL */
    double clean_loss;

    /* of the current layer */
    abl_scope *layer_scope;
    int32_t layer; /* -1: none */
    abl_qkv qkv;   /* the clean run's, rotated, the graph's heads */
} ground_truth;

typedef struct candidate {
    abl_edge edge;
    int64_t index; /* of the edge */
} candidate;

/* The candidates of one step, by destination; and a window on those of one destination (at one
 * position, where the graph has them), which most functions are about. */
typedef struct chunk {
    abl_prune *prune;
    ground_truth *state;
    const abl_model *model;
    const abl_model_config *config;
    abl_scope *scope;
    abl_batch batch;
    int64_t seq;
    int64_t width;
    candidate all[CANDIDATES_MAX];
    int64_t all_count;

    int64_t begin; /* the window: candidates begin .. begin + count */
    int64_t count;
    int64_t rows; /* count * batch */
    const abl_graph_dest *dest;
    int32_t position; /* -1: all */
} chunk;

/* ---- open, close ----------------------------------------------------------------------------- */

static int edge_compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static abl_loss loss_of(const abl_prune_options *options) {
    return (abl_loss){.grad_function = options->grad_function,
                      .answer_function = options->answer_function};
}

static abl_code edges_copy(abl_prune *prune, ground_truth *state, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    if (o->edges == NULL) {
        state->edge_count = prune->edge_count;
        return ABL_CODE_OK;
    }
    if (o->edge_count < 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                        "the list of edges is empty; leave it out to score all of them");
    }
    state->edges = abl_calloc((size_t)o->edge_count, sizeof *state->edges);
    if (state->edges == NULL) {
        return abl_fail_oom(ret_status);
    }
    memcpy(state->edges, o->edges, (size_t)o->edge_count * sizeof *state->edges);
    qsort(state->edges, (size_t)o->edge_count, sizeof *state->edges, edge_compare);
    for (int64_t i = 0; i < o->edge_count; i++) {
        int64_t edge = state->edges[i];
        if (edge < 0 || edge >= prune->edge_count) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                            "edge %lld; this graph has edges 0 to %lld", (long long)edge,
                            (long long)prune->edge_count - 1);
        }
        if (state->edge_count == 0 || state->edges[state->edge_count - 1] != edge) {
            state->edges[state->edge_count++] = edge;
        }
    }
    return ABL_CODE_OK;
}

static abl_code ground_truth_open(abl_prune *prune, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    bool loss = prune->options.exact_metric == ABL_EXACT_LOSS;
    for (int32_t i = 0; loss && code == ABL_CODE_OK && i < prune->batch_count; i++) {
        abl_batch batch = abl_batches_at(&prune->options.batches, i);
        code = abl_loss_check(loss_of(&prune->options), &batch, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    ground_truth *state = abl_calloc(1, sizeof *state);
    prune->scored = abl_calloc((size_t)prune->edge_count, 1);
    prune->state = state;
    if (state == NULL || prune->scored == NULL) {
        return abl_fail_oom(ret_status);
    }
    state->layer = -1;
    code = edges_copy(prune, state, ret_status);
    prune->options.edges = NULL; /* was borrowed for create */
    prune->progress.total = state->edge_count * prune->batch_count;
    return code;
}

static void batch_close(ground_truth *state) {
    abl_scope_destroy(state->layer_scope);
    abl_scope_destroy(state->batch_scope);
    abl_sources_destroy(state->clean);
    state->layer_scope = NULL;
    state->batch_scope = NULL;
    state->clean = NULL;
    state->layer = -1;
}

static void ground_truth_close(abl_prune *prune) {
    ground_truth *state = prune->state;
    if (state == NULL) {
        return;
    }
    batch_close(state);
    abl_folded_destroy(state->folded);
    abl_free(state->edges);
    abl_free(state);
    prune->state = NULL;
}

/* ---- losses ---------------------------------------------------------------------------------- */

/* y (candidates, batch, d_model), after the final norm -> each candidate's loss, by the answers'
 * columns alone. */
static void loss_by_columns(chunk *c, abl_loss loss, const abl_tensor *y, int64_t count,
                            double *ret_losses) {
    abl_scope *scope = c->scope;
    const abl_model_weights *weights = abl_model_get_weights(c->model);
    const int64_t batch = c->batch.size;
    int32_t n = abl_loss_columns_width(loss, &c->batch);
    ABL_CLEANUP(abl_freep) int64_t *columns = abl_calloc((size_t)(batch * n), sizeof *columns);
    ABL_CLEANUP(abl_freep) float *factors = abl_calloc((size_t)(batch * n), sizeof *factors);
    ABL_CLEANUP(abl_freep) float *logits = abl_calloc((size_t)(count * batch * n), sizeof *logits);
    if (columns == NULL || factors == NULL || logits == NULL) {
        abl_status status;
        (void)abl_fail_oom(&status);
        abl_scope_fail(scope, &status);
        return;
    }
    abl_loss_columns(loss, &c->batch, n, columns, factors);
    abl_tensor *ids =
        abl_tensor_from_host(scope, ABL_DTYPE_I64, 1, (const int64_t[]){batch * n}, columns);
    abl_tensor *w = abl_tensor_index_select(scope, weights->unembed, 1, ids);
    w = abl_tensor_view(scope, abl_tensor_contiguous(scope, w), 3,
                        (const int64_t[]){c->width, batch, n});
    w = abl_tensor_permute(scope, w, 3, (const int64_t[]){1, 0, 2}); /* (batch, d, n) */
    abl_tensor *by_row = abl_tensor_permute(scope, y, 3, (const int64_t[]){1, 0, 2});
    abl_tensor *out = abl_tensor_matmul(scope, by_row, w); /* (batch, candidates, n) */
    if (weights->b_unembed != NULL) {
        abl_tensor *bias = abl_tensor_index_select(scope, weights->b_unembed, 0, ids);
        out = abl_tensor_add(scope, out,
                             abl_tensor_view(scope, bias, 3, (const int64_t[]){batch, 1, n}));
    }
    abl_tensor_to_floats(scope, out, logits, (size_t)(count * batch * n));
    for (int64_t k = 0; k < count; k++) {
        ret_losses[k] = 0;
        for (int64_t row = 0; row < batch; row++) {
            for (int32_t i = 0; i < n; i++) {
                ret_losses[k] +=
                    (double)factors[row * n + i] * (double)logits[(row * count + k) * n + i];
            }
        }
    }
}

static void loss_by_kl(chunk *c, const abl_tensor *logits, int64_t count, double *ret_losses) {
    abl_scope *scope = c->scope;
    const int64_t batch = c->batch.size;
    ABL_CLEANUP(abl_freep) float *rows = abl_calloc((size_t)(count * batch), sizeof *rows);
    if (rows == NULL) {
        abl_status status;
        (void)abl_fail_oom(&status);
        abl_scope_fail(scope, &status);
        return;
    }
    const int64_t one[] = {1, batch, c->config->d_vocab};
    abl_tensor *kl =
        abl_tensor_kl(scope, abl_tensor_view(scope, c->state->clean_logp, 3, one), logits);
    abl_tensor_to_floats(scope, kl, rows, (size_t)(count * batch));
    for (int64_t k = 0; k < count; k++) {
        ret_losses[k] = 0;
        for (int64_t row = 0; row < batch; row++) {
            ret_losses[k] += (double)rows[k * batch + row] / (double)batch;
        }
    }
}

/* x (candidates, batch, d_model), the last position of Resid End. */
static void losses_of(chunk *c, const abl_tensor *x, int64_t count, double *ret_losses) {
    abl_scope *scope = c->scope;
    abl_loss loss = loss_of(&c->prune->options);
    bool kl = c->prune->options.exact_metric == ABL_EXACT_KL_DIV;
    bool sparse = loss.grad_function == ABL_GRAD_LOGIT && loss.answer_function != ABL_ANSWER_MSE;
    if (!kl && sparse) {
        loss_by_columns(
            c, loss,
            abl_block_norm_forward(scope, c->model, 0, ABL_BLOCK_NORM_FINAL, x, NULL, NULL), count,
            ret_losses);
        return;
    }
    abl_tensor *logits = abl_block_unembed(scope, c->model, x, NULL, NULL);
    if (kl) {
        loss_by_kl(c, logits, count, ret_losses);
        return;
    }
    const size_t per = (size_t)c->batch.size * (size_t)c->config->d_vocab;
    ABL_CLEANUP(abl_freep) float *host = abl_calloc((size_t)count * per, sizeof *host);
    if (host == NULL) {
        abl_status status;
        (void)abl_fail_oom(&status);
        abl_scope_fail(scope, &status);
        return;
    }
    abl_tensor_to_floats(scope, logits, host, (size_t)count * per);
    for (int64_t k = 0; k < count; k++) {
        ret_losses[k] = abl_loss_value(loss, &c->batch, host + (size_t)k * per, c->config->d_vocab);
    }
}

/* ---- a batch --------------------------------------------------------------------------------- */

static void differences_fill(chunk *c, const abl_sources *ablated) {
    ground_truth *state = c->state;
    abl_scope *scope = state->batch_scope;
    int64_t slots = ABL_SLOT_SOURCES + abl_graph_src_count(c->prune->options.graph);
    state->differences = (abl_differences){
        .scope = scope,
        .arena = abl_tensor_empty(scope, ABL_DTYPE_F32, 4,
                                  (const int64_t[]){slots, c->batch.size, c->seq, c->width}),
        .batch = c->batch.size,
        .seq = c->seq,
        .width = c->width};
    abl_differences_start(&state->differences, ablated, state->clean->start);
    for (int layer = 0; layer < c->config->n_layers && !abl_scope_failed(scope); layer++) {
        int64_t slot = ABL_SLOT_SOURCES + 1 + (int64_t)layer * (c->config->n_heads + 1);
        size_t mark = abl_scope_mark(scope);
        abl_differences_heads(scope, &state->differences, c->model, ablated, layer, slot,
                              state->clean->z[layer]);
        abl_differences_mlp(scope, &state->differences, ablated, layer, slot + c->config->n_heads,
                            state->clean->mlp_out[layer]);
        abl_scope_rewind(scope, mark, NULL, 0);
    }
}

static void clean_loss(chunk *c) {
    ground_truth *state = c->state;
    abl_scope *scope = state->batch_scope;
    abl_tensor *last = abl_tensor_select(scope, state->clean->end, 1, c->seq - 1);
    last = abl_tensor_unsqueeze(scope, abl_tensor_contiguous(scope, last), 0);
    if (c->prune->options.exact_metric == ABL_EXACT_KL_DIV) {
        abl_tensor *logits = abl_block_unembed(scope, c->model, last, NULL, NULL);
        state->clean_logp = abl_tensor_log_softmax(scope, logits, 2);
        state->clean_loss = 0; /* KL of the clean run with itself */
        return;
    }
    losses_of(c, last, 1, &state->clean_loss);
}

static abl_code batch_open(chunk *c, abl_status *ret_status) {
    ground_truth *state = c->state;
    const abl_prune_options *o = &c->prune->options;
    abl_code code = ABL_CODE_OK;
    if (state->folded == NULL) {
        code = abl_folded_create(c->model, o->graph, false, &state->folded, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_sources_run(c->model, c->batch.clean, c->batch.size, c->batch.seq_len, true,
                               &state->clean, ret_status);
    }
    abl_sources *ablated = NULL;
    if (code == ABL_CODE_OK && o->ablation == ABL_ABLATION_RESAMPLE) {
        code = abl_sources_run(c->model, c->batch.corrupt, c->batch.size, c->batch.seq_len, false,
                               &ablated, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    state->batch_scope = abl_scope_create(abl_model_device(c->model));
    if (state->batch_scope == NULL) {
        abl_sources_destroy(ablated);
        return abl_fail_oom(ret_status);
    }
    c->scope = state->batch_scope;
    differences_fill(c, ablated);
    clean_loss(c);
    code = abl_scope_status(state->batch_scope, ret_status);
    abl_sources_destroy(ablated);
    return code;
}

/* The clean q, k, v of a layer, kept while its destinations are candidates. */
static abl_code layer_open(chunk *c, int32_t layer, abl_status *ret_status) {
    ground_truth *state = c->state;
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
    state->qkv = abl_folded_views(scope, state->folded, qkv);
    state->qkv.q = abl_block_rotate(scope, c->model, state->qkv.q, 0, false);
    state->qkv.k = abl_block_rotate(scope, c->model, state->qkv.k, 0, false);
    abl_code code = abl_scope_status(scope, ret_status);
    if (code == ABL_CODE_OK) {
        state->layer = layer;
    }
    return code;
}

/* ---- candidates ------------------------------------------------------------------------------ */

/* x (batch, pos, d) over candidates: (candidates, batch, pos, d) of one memory. */
static abl_tensor *over_candidates(chunk *c, const abl_tensor *x) {
    abl_tensor *one = abl_tensor_unsqueeze(c->scope, x, 0);
    return abl_tensor_expand(c->scope, one, 4, (const int64_t[]){c->count, -1, -1, -1});
}

/* The candidates' differences (candidates, batch, pos, d), positions begin..seq. */
static abl_tensor *candidate_differences(chunk *c, int64_t begin) {
    abl_scope *scope = c->scope;
    abl_tensor *arena = c->state->differences.arena;
    const candidate *window = &c->all[c->begin];
    bool consecutive = window[c->count - 1].edge.src - window[0].edge.src == c->count - 1;
    abl_tensor *d = NULL;
    if (consecutive) {
        int64_t slot = ABL_SLOT_SOURCES + window[0].edge.src;
        d = abl_tensor_slice(scope, arena, 0, slot, slot + c->count);
    } else {
        int64_t slots[CANDIDATES_MAX];
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
static abl_tensor *inputs(chunk *c, const abl_tensor *resid, int64_t begin) {
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
static abl_tensor *as_rows(chunk *c, const abl_tensor *x) {
    if (x == NULL) {
        return NULL;
    }
    return abl_tensor_reshape(c->scope, x, 3,
                              (const int64_t[]){c->rows, abl_tensor_size(x, 2), c->width});
}

/* One head's projection of normed (rows, pos, d): (rows, pos, 1, d_head). `head` counts through the
 * graph's q, k and v heads. */
static abl_tensor *project_head(chunk *c, int layer, const abl_tensor *normed, int64_t head) {
    abl_scope *scope = c->scope;
    const abl_folded *f = c->state->folded;
    int64_t from = head * f->d_head;
    abl_tensor *bias = f->layers[layer].b;
    abl_tensor *w = abl_tensor_linear(
        scope, normed, abl_tensor_slice(scope, f->layers[layer].w, 1, from, from + f->d_head),
        bias == NULL ? NULL : abl_tensor_slice(scope, bias, 0, from, from + f->d_head));
    return abl_tensor_unsqueeze(scope, w, 2);
}

/* Clean heads begin..end of x (batch, pos, head, d_head), the last `positions` of them, over the
 * candidates: (rows, positions, heads, d_head). */
static abl_tensor *clean_heads(chunk *c, const abl_tensor *x, int64_t begin, int64_t end,
                               int64_t positions) {
    abl_scope *scope = c->scope;
    x = abl_tensor_slice(scope, x, 2, begin, end);
    x = abl_tensor_slice(scope, x, 1, c->seq - positions, c->seq);
    x = abl_tensor_unsqueeze(scope, x, 0);
    x = abl_tensor_expand(scope, x, 5, (const int64_t[]){c->count, -1, -1, -1, -1});
    return abl_tensor_reshape(
        scope, x, 4, (const int64_t[]){c->rows, positions, end - begin, c->state->folded->d_head});
}

/* z of the heads that the candidates affect, heads begin..end, the last `positions`. */
static abl_tensor *patched_z(chunk *c, int layer, const abl_tensor *normed, int64_t begin,
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
    abl_tensor *q = NULL;
    abl_tensor *k = NULL;
    abl_tensor *v = NULL;
    if (role == ABL_DEST_Q || joined) {
        abl_tensor *from = abl_tensor_size(normed, 1) == positions
                               ? abl_tensor_slice(scope, normed, 1, 0, positions)
                               : abl_tensor_slice(scope, normed, 1, q_start, c->seq);
        q = abl_block_rotate(scope, c->model, project_head(c, layer, from, h), q_start, false);
    } else {
        q = clean_heads(c, clean->q, begin, end, positions);
    }
    if (role == ABL_DEST_K || joined) {
        k = abl_block_rotate(scope, c->model, project_head(c, layer, normed, f->q_heads + h), 0,
                             false);
    } else {
        k = clean_heads(c, clean->k, kv, kv + 1, c->seq);
    }
    if (role == ABL_DEST_V || joined) {
        v = project_head(c, layer, normed, f->q_heads + f->kv_heads + h);
    } else {
        v = clean_heads(c, clean->v, kv, kv + 1, c->seq);
    }
    return abl_tensor_attention(scope, q, k, v, abl_model_attn_scale(c->model), NULL, NULL);
}

/* The residual after attention in each candidate of an attention destination: (rows, positions,
 * d). */
static abl_tensor *patched_attention(chunk *c, int layer, int64_t positions) {
    abl_scope *scope = c->scope;
    const abl_folded *f = c->state->folded;
    const abl_sources *clean = c->state->clean;
    bool q_only = c->dest->role == ABL_DEST_Q;
    abl_tensor *x = as_rows(c, inputs(c, clean->pre[layer], q_only ? c->seq - positions : 0));
    abl_tensor *normed = abl_folded_norm(scope, f, layer, x);
    /* The query heads that change: one, or all that read a native key or value head. */
    int64_t group = f->q_heads / f->kv_heads;
    bool shared = c->dest->role == ABL_DEST_K || c->dest->role == ABL_DEST_V;
    int64_t begin = shared ? c->dest->head * group : c->dest->head;
    int64_t end = begin + (shared ? group : 1);
    abl_tensor *z = patched_z(c, layer, normed, begin, end, positions);
    abl_tensor *dz =
        abl_tensor_sub(scope, z, clean_heads(c, clean->z[layer], begin, end, positions));
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

static abl_tensor *last_of(chunk *c, abl_tensor *x, int64_t positions) {
    int64_t all = x == NULL ? positions : abl_tensor_size(x, 1);
    return all == positions ? x : abl_tensor_slice(c->scope, x, 1, all - positions, all);
}

static abl_tensor *mlp_of(chunk *c, int layer, const abl_tensor *x) {
    abl_tensor *normed =
        abl_block_norm_forward(c->scope, c->model, layer, ABL_BLOCK_NORM_2, x, NULL, NULL);
    return abl_block_mlp(c->scope, c->model, layer, normed, NULL);
}

/* The residual after the destination's layer: (rows, positions, d). */
static abl_tensor *patched_layer(chunk *c, int layer, int64_t positions) {
    abl_scope *scope = c->scope;
    const abl_sources *clean = c->state->clean;
    bool parallel = c->config->parallel_attn_mlp;
    int64_t begin = c->seq - positions;
    if (c->dest->role != ABL_DEST_MLP) {
        abl_tensor *mid = patched_attention(c, layer, positions);
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
static abl_tensor *plain_block(chunk *c, int layer, abl_tensor *resid, int64_t positions) {
    abl_scope *scope = c->scope;
    abl_tensor *normed =
        abl_block_norm_forward(scope, c->model, layer, ABL_BLOCK_NORM_1, resid, NULL, NULL);
    abl_qkv qkv = abl_block_qkv(scope, c->model, layer, normed, positions);
    abl_tensor *q = abl_block_rotate(scope, c->model, qkv.q, c->seq - positions, false);
    abl_tensor *k = abl_block_rotate(scope, c->model, qkv.k, 0, false);
    abl_tensor *z =
        abl_tensor_attention(scope, q, k, qkv.v, abl_model_attn_scale(c->model), NULL, NULL);
    resid = last_of(c, resid, positions);
    abl_tensor *mid = abl_tensor_add(scope, resid, abl_block_attn_out(scope, c->model, layer, z));
    abl_tensor *mlp = mlp_of(c, layer, c->config->parallel_attn_mlp ? resid : mid);
    return abl_tensor_add(scope, mid, mlp);
}

/* Moves the window to the next destination's candidates; false at the end. */
static bool window_next(chunk *c) {
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
static abl_tensor *rows_join(chunk *c, abl_tensor *above, abl_tensor *more) {
    if (above == NULL || more == NULL) {
        return above == NULL ? more : above;
    }
    const abl_tensor *const parts[] = {above, more};
    return abl_tensor_cat(c->scope, parts, 2, 0);
}

/* Every candidate through the layers, each from its destination's on: the last position of Resid
 * End, (candidates, batch, d). */
static abl_tensor *patched_end(chunk *c) {
    abl_scope *scope = c->scope;
    int32_t layers = c->config->n_layers;
    abl_tensor *resid = NULL;
    bool more = window_next(c);
    for (int layer = c->dest->block; layer < layers && !abl_scope_failed(scope); layer++) {
        int64_t positions = layer + 1 == layers ? 1 : c->seq;
        size_t mark = abl_scope_mark(scope);
        if (resid != NULL) {
            resid = plain_block(c, layer, resid, positions);
        }
        for (; more && c->dest->block == layer && !abl_scope_failed(scope); more = window_next(c)) {
            abl_status status;
            if (c->dest->role != ABL_DEST_MLP && layer_open(c, layer, &status) != ABL_CODE_OK) {
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

/* ---- a step ---------------------------------------------------------------------------------- */

static int candidate_compare(const void *a, const void *b) {
    const candidate *x = a;
    const candidate *y = b;
    if (x->edge.dest != y->edge.dest) {
        return x->edge.dest < y->edge.dest ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

/* The next candidates, by destination, hence by layer. */
static void chunk_fill(chunk *c) {
    const abl_prune_options *o = &c->prune->options;
    ground_truth *state = c->state;
    int64_t tokens = (int64_t)c->batch.size * c->seq;
    int64_t most = o->candidate_count_max > 0 ? o->candidate_count_max : TOKENS_PER_CHUNK / tokens;
    most = most < 1 ? 1 : most > CANDIDATES_MAX ? CANDIDATES_MAX : most;
    while (c->all_count < most && state->at + c->all_count < state->edge_count) {
        int64_t at = state->at + c->all_count;
        int64_t index = state->edges == NULL ? at : state->edges[at];
        c->all[c->all_count++] =
            (candidate){.edge = abl_graph_edge_at(o->graph, index), .index = index};
    }
    qsort(c->all, (size_t)c->all_count, sizeof c->all[0], candidate_compare);
}

static abl_code chunk_run(chunk *c, abl_status *ret_status) {
    double losses[CANDIDATES_MAX] = {0};
    c->scope = abl_scope_create(abl_model_device(c->model));
    if (c->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_tensor *end = patched_end(c);
    losses_of(c, end, c->all_count, losses);
    abl_code code = abl_scope_status(c->scope, ret_status);
    abl_scope_destroy(c->scope);
    for (int64_t i = 0; code == ABL_CODE_OK && i < c->all_count; i++) {
        c->prune->scores[c->all[i].index] += (float)(losses[i] - c->state->clean_loss);
        c->prune->scored[c->all[i].index] = 1;
    }
    return code;
}

static abl_code ground_truth_step(abl_prune *prune, abl_status *ret_status) {
    ground_truth *state = prune->state;
    const abl_prune_options *o = &prune->options;
    chunk c = {.prune = prune,
               .state = state,
               .model = o->model,
               .config = abl_model_get_config(o->model),
               .batch = abl_batches_at(&o->batches, prune->progress.batch)};
    c.seq = c.batch.seq_len;
    c.width = c.config->d_model;
    abl_code code = ABL_CODE_OK;
    if (state->batch_scope == NULL) {
        code = batch_open(&c, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    chunk_fill(&c);
    code = chunk_run(&c, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    state->at += c.all_count;
    prune->progress.done += c.all_count;
    if (state->at == state->edge_count) {
        state->at = 0;
        prune->progress.batch_finished = true;
        batch_close(state);
    }
    return ABL_CODE_OK;
}

static int64_t ground_truth_bytes(const abl_prune_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    int64_t seq = abl_dataset_seq_len(options->batches.dataset);
    int64_t batch = options->batches.batch_size < options->batches.count
                        ? options->batches.batch_size
                        : options->batches.count;
    int64_t tokens = batch * seq;
    int64_t candidates = TOKENS_PER_CHUNK / tokens < 1 ? 1 : TOKENS_PER_CHUNK / tokens;
    int64_t arena = (ABL_SLOT_SOURCES + (int64_t)abl_graph_src_count(options->graph)) * c->d_model;
    int64_t runs = 2LL * c->n_layers * ((int64_t)c->n_heads * c->d_head + 3LL * c->d_model);
    int64_t pass =
        8LL * c->d_model + 4LL * c->d_mlp + 4LL * c->n_heads * c->d_head + 3LL * c->n_heads * seq;
    return 4 * (tokens * (arena + runs) + candidates * tokens * pass +
                3 * candidates * batch * c->d_vocab + 2 * abl_graph_edge_count(options->graph)) +
           abl_folded_bytes(options->model, options->graph, false);
}

const abl_prune_vtable abl_prune_ground_truth = {.open = ground_truth_open,
                                                 .step = ground_truth_step,
                                                 .close = ground_truth_close,
                                                 .bytes_estimate = ground_truth_bytes};
