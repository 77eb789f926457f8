// SPDX-License-Identifier: Apache-2.0
/* Masked passes over simple (unfactorized) graphs. The destinations are the residual stream itself,
 * Resid Mid and Resid Post, so what they read goes on as the stream; and each source has one edge:
 *
 *     mid  = b_O + (x + m_x (x' - x)) + sum_h (z_h + m_h (z'_h - z_h)) W_O,h
 *     post =       (mid + m_mid (mid' - mid)) + (mlp + m_mlp (mlp' - mlp))
 *
 * with x the stream, the primed values the ablation's, m the mask. So a pass is the plain one with
 * each source moved towards its ablation just before it is added, and heads are moved as z, a
 * twelfth (for 12 heads) of their outputs' size. A move is s (1 - m) + s' m: exact at 0 and at 1,
 * nothing cancels between, so that an empty mask is the plain pass and a full one the ablation's,
 * bit for bit. Blocks without an MLP, or with both halves in parallel, have no Resid Mid: one sum
 * of all.
 *
 * Backward, g being the gradient at a destination, s one of its sources:
 *     d loss / d m_s = <s' - s, g>, for a head <z'_h - z_h, (g W_O^T)_h>
 *     gradient at s  = (1 - m_s) g
 * and the rest is the plain block's backward. Products of every token are kept, (batch, pos,
 * edges), and summed at the end over what shares a mask: rows, positions, both or neither.
 *
 * The mask goes to the device once a pass; moved() looks at the host's copy to skip what stays. */
#include "core/patch/simple.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/block.h"
#include "core/model/prefix.h"
#include "core/patch/sources.h"

typedef struct saved_layer {
    abl_tensor *stream; /* (batch, pos, d_model): x */
    abl_tensor *xhat;
    abl_tensor *rstd;
    abl_tensor *q; /* rotated; k and v with a prefix's in front */
    abl_tensor *k;
    abl_tensor *v;
    abl_tensor *pattern;
    abl_tensor *z;
    abl_tensor *mid; /* NULL where the block has none */
    abl_tensor *mlp_xhat;
    abl_tensor *mlp_rstd;
    abl_mlp_saved mlp;
    abl_tensor *mlp_out;
} saved_layer;

typedef struct pass {
    const abl_patch_options *options;
    const abl_model *model;
    const abl_model_config *config;
    const abl_sources *ablated; /* NULL: zeros */
    abl_scope *scope;
    saved_layer *layers; /* NULL: nothing is kept for a backward */
    abl_tensor *mask;    /* (mask_batch, positions, edges) */
    abl_tensor *keep;    /* 1 - mask */
    int64_t mask_batch;
    int64_t positions;    /* of the mask */
    int64_t edges;        /* a position */
    abl_tensor *products; /* (batch, pos, edges), of the backward */
} pass;

abl_simple_block abl_simple_block_at(const abl_graph *graph, int32_t block) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    const bool has_mid = !o->attn_only && !o->parallel_attn_mlp;
    const int32_t count = 1 + o->head_count + (has_mid ? 1 : 0) + (o->attn_only ? 0 : 1);
    const int32_t stream = block * count;
    const int32_t after_heads = stream + 1 + o->head_count;
    return (abl_simple_block){.stream = stream,
                              .heads = stream + 1,
                              .mid = has_mid ? after_heads : -1,
                              .mlp = o->attn_only ? -1 : after_heads + (has_mid ? 1 : 0)};
}

/* ---- the mask -------------------------------------------------------------------------------- */

static abl_code pass_open(pass *p, const abl_patch_options *o, abl_status *ret_status) {
    const int64_t seq_len = abl_graph_options_of(o->graph)->seq_len;
    *p = (pass){.options = o,
                .model = o->model,
                .config = abl_model_get_config(o->model),
                .ablated = o->ablated,
                .mask_batch = o->mask_batch > 1 ? o->mask_batch : 1,
                .positions = seq_len != 0 ? o->seq : 1,
                .edges = abl_graph_edges_per_position(o->graph)};
    ABL_ASSERT(seq_len == 0 || seq_len == o->seq);
    ABL_ASSERT(p->ablated == NULL || p->ablated->pre != NULL);
    p->scope = abl_scope_create(abl_model_device(o->model));
    if (p->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (o->mask != NULL) {
        const int64_t shape[] = {p->mask_batch, p->positions, p->edges};
        p->mask = abl_tensor_from_host(p->scope, ABL_DTYPE_F32, 3, shape, o->mask);
        p->keep = abl_tensor_add_scalar(p->scope, abl_tensor_neg(p->scope, p->mask), 1);
    }
    return abl_scope_status(p->scope, ret_status);
}

/* Whether all of the mask is `value` for sources begin .. begin + count. */
static bool mask_is(const pass *p, int32_t begin, int32_t count, float value) {
    for (int64_t plane = 0; plane < p->mask_batch * p->positions; plane++) {
        const float *row = p->options->mask + plane * p->edges + begin;
        for (int32_t i = 0; i < count; i++) {
            if (row[i] != value) {
                return false;
            }
        }
    }
    return true;
}

/* The columns of some sources, to multiply (batch, pos, d_model), or (batch, pos, head, d_head). */
static abl_tensor *columns(pass *p, const abl_tensor *of, int32_t begin, int32_t count,
                           bool heads) {
    abl_tensor *x = abl_tensor_slice(p->scope, of, 2, begin, begin + count);
    return heads ? abl_tensor_unsqueeze(p->scope, x, 3) : x;
}

/* Sources `begin` on, moved towards their ablation as the mask says. */
static abl_tensor *moved(pass *p, int32_t begin, int32_t count, abl_tensor *x,
                         const abl_tensor *ablated) {
    abl_scope *scope = p->scope;
    if (p->mask == NULL || x == NULL || mask_is(p, begin, count, 0)) {
        return x;
    }
    const int rank = abl_tensor_rank(x);
    if (ablated != NULL && mask_is(p, begin, count, 1)) {
        int64_t shape[4] = {0};
        for (int i = 0; i < rank; i++) {
            shape[i] = abl_tensor_size(x, i);
        }
        return abl_tensor_contiguous(scope, abl_tensor_expand(scope, ablated, rank, shape));
    }
    abl_tensor *out = abl_tensor_mul(scope, x, columns(p, p->keep, begin, count, rank == 4));
    if (ablated != NULL) {
        abl_tensor_addcmul_(scope, out, ablated, columns(p, p->mask, begin, count, rank == 4), 1);
    }
    return out;
}

/* What ablates a source: a tensor of the ablation's, or NULL for zeros. */
#define ABLATED(p, field) ((p)->ablated == NULL ? NULL : (p)->ablated->field)

/* ---- forward --------------------------------------------------------------------------------- */

/* x and the heads, moved: (batch, pos, d_model). */
static abl_tensor *attention(pass *p, int layer, const abl_simple_block *at, saved_layer *saved,
                             abl_tensor *x) {
    abl_scope *scope = p->scope;
    abl_tensor *normed = abl_block_norm_forward(scope, p->model, layer, ABL_BLOCK_NORM_1, x,
                                                &saved->xhat, &saved->rstd);
    abl_qkv qkv = abl_block_qkv(scope, p->model, layer, normed, 0);
    qkv = abl_prefix_qkv(scope, p->model, p->options->prefix, layer, qkv);
    saved->stream = x;
    saved->q = qkv.q;
    saved->k = qkv.k;
    saved->v = qkv.v;
    saved->z = abl_block_attention(scope, p->model, saved->q, saved->k, saved->v, NULL,
                                   p->layers == NULL ? NULL : &saved->pattern);
    abl_tensor *z = moved(p, at->heads, p->config->n_heads, saved->z, ABLATED(p, z[layer]));
    abl_tensor *out = abl_block_attn_out(scope, p->model, layer, z);
    return abl_tensor_add(scope, moved(p, at->stream, 1, x, ABLATED(p, pre[layer])), out);
}

/* The MLP's output, moved. */
static abl_tensor *mlp(pass *p, int layer, const abl_simple_block *at, saved_layer *saved,
                       abl_tensor *x) {
    abl_scope *scope = p->scope;
    abl_tensor *normed = abl_block_norm_forward(scope, p->model, layer, ABL_BLOCK_NORM_2, x,
                                                &saved->mlp_xhat, &saved->mlp_rstd);
    saved->mlp_out =
        abl_block_mlp(scope, p->model, layer, normed, p->layers == NULL ? NULL : &saved->mlp);
    return moved(p, at->mlp, 1, saved->mlp_out, ABLATED(p, mlp_out[layer]));
}

/* One block: the stream after it. */
static abl_tensor *block_forward(pass *p, int layer, saved_layer *saved, abl_tensor *x) {
    const abl_simple_block at = abl_simple_block_at(p->options->graph, layer);
    abl_tensor *sum = attention(p, layer, &at, saved, x);
    if (at.mlp < 0) {
        return sum;
    }
    saved->mid = at.mid < 0 ? NULL : sum;
    abl_tensor *out = mlp(p, layer, &at, saved, at.mid < 0 ? x : sum);
    if (at.mid >= 0) {
        sum = moved(p, at.mid, 1, sum, ABLATED(p, mid[layer]));
    }
    return abl_tensor_add(p->scope, sum, out);
}

static abl_tensor *forward(pass *p) {
    abl_scope *scope = p->scope;
    const abl_patch_options *o = p->options;
    abl_tensor *ids = abl_block_tokens(scope, o->tokens, o->batch, o->seq);
    abl_tensor *x = abl_block_embed(scope, p->model, ABL_DTYPE_F32, ids,
                                    abl_prefix_length(o->prefix), NULL, NULL);
    for (int layer = 0; layer < p->config->n_layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        saved_layer passing = {.stream = NULL};
        saved_layer *s = p->layers == NULL ? &passing : &p->layers[layer];
        x = block_forward(p, layer, s, x);
        abl_tensor *const survivors[] = {
            x,    s->stream, s->xhat,     s->rstd,     s->q,       s->k,      s->v,      s->pattern,
            s->z, s->mid,    s->mlp_xhat, s->mlp_rstd, s->mlp.pre, s->mlp.up, s->mlp_out};
        abl_scope_rewind(scope, mark, survivors, p->layers == NULL ? 1 : ABL_COUNT_OF(survivors));
    }
    return x;
}

abl_code abl_simple_forward(const abl_patch_options *options, float *ret_logits,
                            abl_status *ret_status) {
    pass p;
    abl_code code = pass_open(&p, options, ret_status);
    if (code == ABL_CODE_OK) {
        abl_tensor *x = forward(&p);
        if (options->out_slice == ABL_OUT_SLICE_LAST) {
            x = abl_tensor_select(p.scope, x, 1, options->seq - 1);
        } else if (options->out_slice == ABL_OUT_SLICE_NOT_FIRST) {
            x = abl_tensor_slice(p.scope, x, 1, 1, options->seq);
        }
        abl_tensor *logits = abl_block_unembed(p.scope, p.model, x, NULL, NULL);
        abl_tensor_to_floats(p.scope, logits, ret_logits, (size_t)abl_patch_logit_count(options));
        code = abl_scope_status(p.scope, ret_status);
    }
    abl_scope_destroy(p.scope);
    return code;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Keeps <ablated - x, g> of sources `begin` on; the gradient that goes on to them. */
static abl_tensor *source_backward(pass *p, int32_t begin, int32_t count, const abl_tensor *x,
                                   const abl_tensor *ablated, const abl_tensor *g) {
    abl_scope *scope = p->scope;
    if (x == NULL || g == NULL) {
        return NULL;
    }
    const bool heads = abl_tensor_rank(x) == 4;
    abl_tensor *d = ablated == NULL ? abl_tensor_neg(scope, x) : abl_tensor_sub(scope, ablated, x);
    abl_tensor *products = abl_tensor_dot(scope, d, g);
    products = heads ? products : abl_tensor_unsqueeze(scope, products, 2);
    abl_tensor_copy_into(scope, abl_tensor_slice(scope, p->products, 2, begin, begin + count),
                         products);
    return abl_tensor_mul(scope, g, columns(p, p->keep, begin, count, heads));
}

/* From the gradient at an attention's sum, through its heads, to that at what it reads. */
static abl_tensor *heads_backward(pass *p, int layer, const abl_simple_block *at,
                                  const abl_tensor *g) {
    abl_scope *scope = p->scope;
    const abl_model_config *c = p->config;
    const saved_layer *s = &p->layers[layer];
    const abl_block_weights *weights = abl_model_get_block(p->model, layer);
    const int64_t batch = p->options->batch;
    const int64_t seq = p->options->seq;
    const int64_t all = c->n_heads + 2LL * c->n_kv_heads;
    abl_tensor *dz =
        abl_tensor_linear(scope, g, abl_tensor_transpose(scope, weights->w_o, 0, 1), NULL);
    dz = abl_tensor_view(scope, dz, 4, (const int64_t[]){batch, seq, c->n_heads, c->d_head});
    dz = source_backward(p, at->heads, c->n_heads, s->z, ABLATED(p, z[layer]), dz);
    if (layer == 0) {
        return NULL; /* nothing below has an edge */
    }
    abl_tensor *dqkv =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 3, (const int64_t[]){batch, seq, all * c->d_head});
    abl_qkv views = abl_block_qkv_views(scope, p->model, dqkv);
    const abl_attention_grads out = {.q = views.q, .k = views.k, .v = views.v};
    const abl_qkv qkv = {.q = s->q, .k = s->k, .v = s->v};
    abl_block_attention_backward(scope, p->model, dz, &qkv, s->pattern, &out);
    abl_prefix_unrotate_(scope, p->model, p->options->prefix, views);
    abl_tensor *w_t = abl_tensor_transpose(scope, weights->w_qkv, 0, 1);
    return abl_block_norm_backward(scope, p->model, layer, ABL_BLOCK_NORM_1,
                                   abl_tensor_linear(scope, dqkv, w_t, NULL), s->xhat, s->rstd);
}

static abl_tensor *mlp_backward(pass *p, int layer, const abl_simple_block *at,
                                const abl_tensor *g) {
    const saved_layer *s = &p->layers[layer];
    g = source_backward(p, at->mlp, 1, s->mlp_out, ABLATED(p, mlp_out[layer]), g);
    g = abl_block_mlp_backward(p->scope, p->model, layer, g, &s->mlp);
    return abl_block_norm_backward(p->scope, p->model, layer, ABL_BLOCK_NORM_2, g, s->mlp_xhat,
                                   s->mlp_rstd);
}

/* From the gradient at the stream after a block to that before it. */
static abl_tensor *block_backward(pass *p, int layer, abl_tensor *g) {
    abl_scope *scope = p->scope;
    const saved_layer *s = &p->layers[layer];
    const abl_simple_block at = abl_simple_block_at(p->options->graph, layer);
    abl_tensor *from_mlp = at.mlp < 0 ? NULL : mlp_backward(p, layer, &at, g);
    if (at.mid >= 0) {
        g = source_backward(p, at.mid, 1, s->mid, ABLATED(p, mid[layer]), g);
        g = abl_tensor_add(scope, g, from_mlp);
        from_mlp = NULL;
    }
    abl_tensor *from_heads = heads_backward(p, layer, &at, g);
    g = source_backward(p, at.stream, 1, s->stream, ABLATED(p, pre[layer]), g);
    if (layer == 0) {
        return g;
    }
    g = abl_tensor_add(scope, g, from_heads);
    return from_mlp == NULL ? g : abl_tensor_add(scope, g, from_mlp);
}

/* The last position's loss: the gradient at the stream, zero at the other positions. */
static abl_tensor *end_backward(pass *p, const abl_tensor *x, abl_patch_loss_cb loss_cb,
                                void *user_data, float *ret_logits) {
    abl_scope *scope = p->scope;
    const abl_patch_options *o = p->options;
    abl_tensor *last = abl_tensor_select(scope, x, 1, o->seq - 1);
    last = abl_tensor_contiguous(scope, last);
    abl_tensor *xhat = NULL;
    abl_tensor *rstd = NULL;
    abl_tensor *logits = abl_block_unembed(scope, p->model, last, &xhat, &rstd);
    if (ret_logits != NULL) {
        abl_tensor_to_floats(scope, logits, ret_logits, (size_t)abl_patch_logit_count(o));
    }
    abl_tensor *grad = abl_scope_failed(scope) ? NULL : loss_cb(scope, logits, user_data);
    grad = abl_block_unembed_backward(scope, p->model, grad, xhat, rstd);
    const int64_t shape[] = {o->batch, o->seq, p->config->d_model};
    abl_tensor *g = abl_tensor_zeros(scope, ABL_DTYPE_F32, 3, shape);
    abl_tensor_copy_into(scope, abl_tensor_select(scope, g, 1, o->seq - 1), grad);
    return g;
}

/* The products of all tokens that share a mask, summed. */
static void products_sum(pass *p, float *ret_gradient) {
    int64_t dims[2];
    size_t count = 0;
    if (p->mask_batch == 1) {
        dims[count++] = 0;
    }
    if (p->positions == 1) {
        dims[count++] = 1;
    }
    abl_tensor *sum =
        count == 0 ? p->products : abl_tensor_sum(p->scope, p->products, dims, count, false);
    abl_tensor_to_floats(p->scope, sum, ret_gradient,
                         (size_t)(p->mask_batch * p->positions * p->edges));
}

static void backward(pass *p, abl_patch_loss_cb loss_cb, void *user_data, float *ret_logits,
                     float *ret_gradient) {
    const abl_patch_options *o = p->options;
    p->products =
        abl_tensor_zeros(p->scope, ABL_DTYPE_F32, 3, (const int64_t[]){o->batch, o->seq, p->edges});
    abl_tensor *g = end_backward(p, forward(p), loss_cb, user_data, ret_logits);
    for (int layer = p->config->n_layers - 1; layer >= 0 && !abl_scope_failed(p->scope); layer--) {
        size_t mark = abl_scope_mark(p->scope);
        g = block_backward(p, layer, g);
        abl_scope_rewind(p->scope, mark, &g, 1);
    }
    products_sum(p, ret_gradient);
}

abl_code abl_simple_backward(const abl_patch_options *options, abl_patch_loss_cb loss_cb,
                             void *user_data, float *ret_logits, float *ret_gradient,
                             abl_status *ret_status) {
    ABL_ASSERT(options->mask != NULL && options->out_slice == ABL_OUT_SLICE_LAST);
    pass p;
    abl_code code = pass_open(&p, options, ret_status);
    if (code == ABL_CODE_OK) {
        p.layers = abl_calloc((size_t)p.config->n_layers, sizeof *p.layers);
        code = p.layers == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    }
    if (code == ABL_CODE_OK) {
        backward(&p, loss_cb, user_data, ret_logits, ret_gradient);
        code = abl_scope_status(p.scope, ret_status);
    }
    abl_scope_destroy(p.scope);
    abl_free(p.layers);
    return code;
}

int64_t abl_simple_bytes(const abl_patch_options *options, bool backward) {
    const abl_model_config *c = abl_model_get_config(options->model);
    const int64_t tokens = (int64_t)options->batch * options->seq;
    const int64_t heads = c->n_heads + 2LL * c->n_kv_heads;
    const int64_t edges = abl_graph_edges_per_position(options->graph);
    int64_t layer = 10LL * c->d_model + 3 * heads * c->d_head + 6LL * c->d_mlp +
                    3LL * c->n_heads * options->seq;
    int64_t saved = 5LL * c->d_model + 2 * heads * c->d_head + (c->gated ? 2LL : 1LL) * c->d_mlp +
                    (int64_t)c->n_heads * options->seq;
    int64_t behind =
        abl_prefix_pass_floats(options->prefix, c, c->n_kv_heads, options->batch, options->seq) *
        (backward ? c->n_layers : 1);
    int64_t masks = 3LL * options->batch * abl_graph_edge_count(options->graph);
    return 4 * (tokens * (layer + (backward ? c->n_layers * saved + 2 * edges : 0)) + behind +
                masks + (backward ? 6 : 2) * abl_patch_logit_count(options));
}
