// SPDX-License-Identifier: Apache-2.0
/* d loss / d mask at any mask (ALGORITHMS: forward with any edge mask, and its backward).
 *
 * Forward, as patcher.c: x = M A, where A is the arena
 *     slot 0: all ablated | slot 1: residual | slot 2 + s: D[s] = ablated[s] - current[s]
 * and M has a row for each destination (mix.h); here every destination has an input of its own. So
 *     d loss / d mask[j, s] = <g_j, D[s]>        g_j being the gradient at destination j's input,
 * one product of the stack of g with the stack of D. And with a second arena of A's shape
 *     G += M^T g
 * collects in slot 1 the gradient at the residual stream, and in slot 2 + s that at D[s], which is
 * minus what it adds to the gradient at s's output: a source's gradient is G[1] - G[2 + s], once
 * all that reads it has been through. Both hold for every shape of mask (mix.c).
 *
 * g_j without autograd, from the projection with the norm folded in, is gradient.c's closed form
 * with an xhat and an rstd for each destination:
 *     u_j = rstd_j * dqkv_j     e_j = <u_j, qkv_j - b'_j>     g_j = u_j W'_j^T - xhat_j e_j / d
 * A joined graph's head has one input for q, k and v: one xhat, and the sum of the three.
 *
 * Memory: two arenas (2 + sources, T, d_model), and every layer's stack of xhat (heads, T,
 * d_model), which costs less to keep than to make anew.
 *
 * Simple graphs are simple.c's; what is here of them is the mask's function. */
#include "core/patch/backward.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/model/prefix.h"
#include "core/patch/folded.h"
#include "core/patch/hooked.h"
#include "core/patch/mask_function.h"
#include "core/patch/mix.h"
#include "core/patch/patcher.h"
#include "core/patch/simple.h"
#include "core/patch/sources.h"

#include <string.h>

struct abl_backward {
    const abl_model *model;
    const abl_model_config *config;
    const abl_graph *graph;
    abl_folded *folded;
    abl_scope *scope; /* of the arenas; NULL before the first run */
    abl_differences differences;
    abl_tensor *gradients; /* the arena G */
};

typedef struct saved_layer {
    abl_tensor *matrix; /* (planes, rows, 2 + sources): M */
    abl_tensor *xhat;   /* (rows, batch, pos, d_model) before q, k, v */
    abl_tensor *rstd;   /* (rows, batch, pos, 1) */
    abl_tensor *qkv;    /* (batch, pos, heads, d_head), before rotation */
    abl_tensor *q;      /* rotated */
    abl_tensor *k;
    abl_tensor *v;
    abl_tensor *pattern;
    abl_tensor *mlp_matrix;
    abl_tensor *mlp_xhat;
    abl_tensor *mlp_rstd;
    abl_mlp_saved mlp;
} saved_layer;

typedef struct pass {
    abl_backward *owner;
    const abl_model *model;
    const abl_model_config *config;
    const abl_folded *folded;
    const abl_patch_options *options;
    const abl_sources *ablated; /* NULL: zero */
    abl_scope *scope;
    saved_layer *layers;
    abl_mix_shape shape;
    const float *values; /* the mask that mixes, (mask_batch, edges) */
    float *gradient;     /* at `values`: written */
    int64_t parts;       /* projections that read one row: 3 in a joined graph, else 1 */
    int64_t rows;        /* of a layer's mask: heads of the projection, over parts */
} pass;

/* ---- forward --------------------------------------------------------------------------------- */

static const abl_graph_module *module_of(const pass *p, int layer, bool mlp) {
    return abl_graph_block_module(p->owner->graph, layer, mlp);
}

static const abl_graph_module *module_end(const pass *p) {
    return abl_graph_module_at(p->owner->graph, abl_graph_module_count(p->owner->graph) - 1);
}

static int64_t head_slot(const pass *p, int layer) {
    return ABL_SLOT_SOURCES + abl_graph_block_src(p->owner->graph, layer);
}

static abl_mask_rows rows_of(const pass *p, const abl_graph_module *module, int64_t rows) {
    return (abl_mask_rows){.values = p->values + module->edge_offset,
                           .positions = p->shape.mask_batch * p->shape.positions,
                           .stride = abl_graph_edges_per_position(p->owner->graph),
                           .row_count = (int32_t)rows,
                           .column_count = module->src_count};
}

/* The inputs (rows, batch, pos, d_model) of a module's destinations, and of those behind it with
 * as many sources. */
static abl_tensor *inputs(pass *p, const abl_graph_module *module, int64_t rows, int layer,
                          bool mid, const abl_tensor *resid, abl_tensor **ret_matrix) {
    abl_scope *scope = p->scope;
    abl_differences *d = &p->owner->differences;
    abl_differences_fill(scope, d, p->model, p->ablated, layer, mid, resid);
    abl_mask_rows mask = rows_of(p, module, rows);
    *ret_matrix = abl_mix_matrix(scope, &mask, NULL, (int32_t)rows);
    abl_tensor *stack =
        abl_tensor_slice(scope, d->arena, 0, 0, ABL_SLOT_SOURCES + module->src_count);
    const int64_t sizes[] = {rows, p->shape.batch, p->shape.seq, p->shape.width};
    abl_tensor *x = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, sizes);
    abl_mix_apply(scope, &p->shape, x, *ret_matrix, stack, 0, 1);
    return x;
}

/* Part `part` of w, (d_model, heads * d_head), as (rows, d_model, d_head). */
static abl_tensor *part_weights(pass *p, int layer, int64_t part) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    abl_tensor *w = abl_tensor_view(scope, f->layers[layer].w, 3,
                                    (const int64_t[]){p->shape.width, f->heads, f->d_head});
    w = abl_tensor_slice(scope, w, 1, part * p->rows, (part + 1) * p->rows);
    return abl_tensor_permute(scope, w, 3, (const int64_t[]){1, 0, 2});
}

/* The same part of (T, heads, d_head) as (rows, T, d_head). */
static abl_tensor *part_heads(pass *p, const abl_tensor *x, int64_t part) {
    abl_scope *scope = p->scope;
    abl_tensor *view =
        abl_tensor_view(scope, x, 3, (const int64_t[]){-1, p->folded->heads, p->folded->d_head});
    view = abl_tensor_slice(scope, view, 1, part * p->rows, (part + 1) * p->rows);
    return abl_tensor_permute(scope, view, 3, (const int64_t[]){1, 0, 2});
}

static abl_tensor *project(pass *p, int layer, const abl_tensor *xhat) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    const int64_t tokens = p->shape.batch * p->shape.seq;
    abl_tensor *qkv =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 4,
                         (const int64_t[]){p->shape.batch, p->shape.seq, f->heads, f->d_head});
    abl_tensor *x =
        abl_tensor_view(scope, xhat, 3, (const int64_t[]){p->rows, tokens, p->shape.width});
    for (int64_t part = 0; part < p->parts; part++) {
        abl_tensor_gemm_into(scope, part_heads(p, qkv, part), x, part_weights(p, layer, part), 0,
                             1);
    }
    if (f->layers[layer].b != NULL) {
        abl_tensor_add_(
            scope, qkv,
            abl_tensor_view(scope, f->layers[layer].b, 2, (const int64_t[]){f->heads, f->d_head}),
            1);
    }
    return qkv;
}

static abl_tensor *attention_forward(pass *p, int layer, const abl_tensor *resid) {
    abl_scope *scope = p->scope;
    saved_layer *saved = &p->layers[layer];
    abl_tensor *x =
        inputs(p, module_of(p, layer, false), p->rows, layer, false, resid, &saved->matrix);
    (void)abl_tensor_norm(scope, abl_model_norm_kind(p->model), x, NULL, NULL, p->config->norm_eps,
                          &saved->xhat, &saved->rstd);
    saved->qkv = project(p, layer, saved->xhat);
    abl_qkv qkv = abl_folded_views(scope, p->folded, saved->qkv);
    qkv = abl_prefix_qkv(scope, p->model, p->options->prefix, layer, qkv);
    saved->q = qkv.q;
    saved->k = qkv.k;
    saved->v = qkv.v;
    abl_tensor *z =
        abl_block_attention(scope, p->model, saved->q, saved->k, saved->v, NULL, &saved->pattern);
    abl_differences_heads(scope, &p->owner->differences, p->model, p->ablated, layer,
                          head_slot(p, layer), z);
    return abl_block_attn_out(scope, p->model, layer, z);
}

static abl_tensor *mlp_forward(pass *p, int layer, const abl_tensor *resid) {
    abl_scope *scope = p->scope;
    bool mid = !p->config->parallel_attn_mlp;
    saved_layer *saved = &p->layers[layer];
    abl_tensor *x = inputs(p, module_of(p, layer, true), 1, layer, mid, resid, &saved->mlp_matrix);
    abl_tensor *normed = abl_block_norm_forward(scope, p->model, layer, ABL_BLOCK_NORM_2,
                                                abl_tensor_select(scope, x, 0, 0), &saved->mlp_xhat,
                                                &saved->mlp_rstd);
    abl_tensor *out = abl_block_mlp(scope, p->model, layer, normed, &saved->mlp);
    abl_differences_mlp(scope, &p->owner->differences, p->ablated, layer,
                        head_slot(p, layer) + p->config->n_heads, out);
    return out;
}

static abl_tensor *forward(pass *p) {
    abl_scope *scope = p->scope;
    abl_tensor *ids = abl_block_tokens(scope, p->options->tokens, p->shape.batch, p->shape.seq);
    abl_tensor *resid = abl_block_embed(scope, p->model, ABL_DTYPE_F32, ids,
                                        abl_prefix_length(p->options->prefix), NULL, NULL);
    p->owner->differences.scope = scope;
    abl_differences_start(&p->owner->differences, p->ablated, resid);
    for (int layer = 0; layer < p->config->n_layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        abl_tensor *mid = abl_tensor_add(scope, resid, attention_forward(p, layer, resid));
        bool parallel = p->config->parallel_attn_mlp;
        resid = p->config->attn_only
                    ? mid
                    : abl_tensor_add(scope, mid, mlp_forward(p, layer, parallel ? resid : mid));
        saved_layer *s = &p->layers[layer];
        abl_tensor *const survivors[] = {
            resid, s->matrix,  s->xhat,       s->rstd,     s->qkv,      s->q,       s->k,
            s->v,  s->pattern, s->mlp_matrix, s->mlp_xhat, s->mlp_rstd, s->mlp.pre, s->mlp.up};
        abl_scope_rewind(scope, mark, survivors, ABL_COUNT_OF(survivors));
        s->mlp.post = NULL;
    }
    return resid;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Writes products (planes, rows, sources) of planes that are `stride` positions apart, the first at
 * `plane`, to the gradient. */
static void gradient_write(pass *p, const abl_graph_module *module, const abl_tensor *products,
                           int64_t plane, int64_t stride) {
    const int64_t per = abl_graph_edges_per_position(p->owner->graph);
    abl_mix_products_write(p->scope, products, p->gradient + module->edge_offset + plane * per,
                           stride * per);
}

/* From the gradients g (rows, batch, pos, d_model) at a module's inputs: those at its mask, and
 * G += M^T g. */
static void inputs_backward(pass *p, const abl_graph_module *module, const abl_tensor *matrix,
                            const abl_tensor *g) {
    abl_scope *scope = p->scope;
    const int64_t n = ABL_SLOT_SOURCES + module->src_count;
    abl_tensor *stack =
        abl_tensor_slice(scope, p->owner->differences.arena, 0, ABL_SLOT_SOURCES, n);
    gradient_write(p, module, abl_mix_products(scope, &p->shape, g, stack), 0, 1);
    abl_tensor *into = abl_tensor_slice(scope, p->owner->gradients, 0, 0, n);
    abl_mix_apply(scope, &p->shape, into, abl_tensor_transpose(scope, matrix, 1, 2), g, 1, 1);
}

static abl_tensor *residual_gradient(pass *p) {
    return abl_tensor_select(p->scope, p->owner->gradients, 0, ABL_SLOT_RESIDUAL);
}

/* `behind` is the gradient at the stream after the MLP's output is added. */
static void mlp_backward(pass *p, int layer, const abl_tensor *behind) {
    abl_scope *scope = p->scope;
    saved_layer *saved = &p->layers[layer];
    int64_t slot = head_slot(p, layer) + p->config->n_heads;
    abl_tensor *g =
        abl_tensor_sub(scope, behind, abl_tensor_select(scope, p->owner->gradients, 0, slot));
    g = abl_block_mlp_backward(scope, p->model, layer, g, &saved->mlp);
    g = abl_block_norm_backward(scope, p->model, layer, ABL_BLOCK_NORM_2, g, saved->mlp_xhat,
                                saved->mlp_rstd);
    inputs_backward(p, module_of(p, layer, true), saved->mlp_matrix,
                    abl_tensor_unsqueeze(scope, g, 0));
}

/* The gradient at z (batch, pos, head, d_head), each head's from its own output's. */
static abl_tensor *heads_backward(pass *p, int layer, const abl_tensor *behind) {
    abl_scope *scope = p->scope;
    const int64_t heads = p->config->n_heads;
    const int64_t d_head = p->config->d_head;
    const int64_t tokens = p->shape.batch * p->shape.seq;
    const int64_t slot = head_slot(p, layer);
    abl_tensor *out = abl_tensor_slice(scope, p->owner->gradients, 0, slot, slot + heads);
    abl_tensor_sub_into(scope, out, behind, out); /* nobody reads these slots again */
    abl_tensor *w_o = abl_tensor_view(scope, abl_model_get_block(p->model, layer)->w_o, 3,
                                      (const int64_t[]){heads, d_head, p->shape.width});
    abl_tensor *dz =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 3, (const int64_t[]){tokens, heads, d_head});
    abl_tensor_gemm_into(
        scope, abl_tensor_permute(scope, dz, 3, (const int64_t[]){1, 0, 2}),
        abl_tensor_view(scope, out, 3, (const int64_t[]){heads, tokens, p->shape.width}),
        abl_tensor_transpose(scope, w_o, 1, 2), 0, 1);
    return abl_tensor_view(scope, dz, 4,
                           (const int64_t[]){p->shape.batch, p->shape.seq, heads, d_head});
}

/* u (T, parts, rows, d_head): the gradient at the projection, before rotation, times rstd. */
static abl_tensor *projection_backward(pass *p, int layer, const abl_tensor *dz) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    saved_layer *saved = &p->layers[layer];
    const int64_t tokens = p->shape.batch * p->shape.seq;
    abl_tensor *dqkv =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 4,
                         (const int64_t[]){p->shape.batch, p->shape.seq, f->heads, f->d_head});
    abl_qkv views = abl_folded_views(scope, f, dqkv);
    const abl_attention_grads out = {.q = views.q, .k = views.k, .v = views.v};
    const abl_qkv qkv = {.q = saved->q, .k = saved->k, .v = saved->v};
    abl_block_attention_backward(scope, p->model, dz, &qkv, saved->pattern, &out);
    abl_prefix_unrotate_(scope, p->model, p->options->prefix, views);
    abl_tensor *u =
        abl_tensor_view(scope, dqkv, 4, (const int64_t[]){tokens, p->parts, p->rows, f->d_head});
    abl_tensor *rstd =
        abl_tensor_view(scope, saved->rstd, 4, (const int64_t[]){1, p->rows, tokens, 1});
    abl_tensor_mul_(scope, u, abl_tensor_permute(scope, rstd, 4, (const int64_t[]){2, 0, 1, 3}));
    return u;
}

/* e (rows, T, 1): how much each row's gradient lies along its xhat. */
static abl_tensor *along_xhat(pass *p, int layer, const abl_tensor *u) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    const int64_t over_parts[] = {1};
    abl_tensor *qkv = abl_tensor_view(scope, p->layers[layer].qkv, 4,
                                      (const int64_t[]){-1, p->parts, p->rows, f->d_head});
    if (f->layers[layer].b != NULL) {
        abl_tensor *b = abl_tensor_view(scope, f->layers[layer].b, 3,
                                        (const int64_t[]){p->parts, p->rows, f->d_head});
        qkv = abl_tensor_sub(scope, qkv, b);
    }
    abl_tensor *e = abl_tensor_sum(scope, abl_tensor_dot(scope, u, qkv), over_parts, 1, false);
    return abl_tensor_unsqueeze(scope, abl_tensor_transpose(scope, e, 0, 1), 2);
}

static void attention_backward(pass *p, int layer, const abl_tensor *behind) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    const int64_t tokens = p->shape.batch * p->shape.seq;
    const int64_t sizes[] = {p->rows, tokens, p->shape.width};
    abl_tensor *u = projection_backward(p, layer, heads_backward(p, layer, behind));
    abl_tensor *by_head =
        abl_tensor_view(scope, u, 3, (const int64_t[]){tokens, f->heads, f->d_head});
    abl_tensor *g = abl_tensor_empty(scope, ABL_DTYPE_F32, 3, sizes);
    for (int64_t part = 0; part < p->parts; part++) {
        abl_tensor *w = abl_tensor_transpose(scope, part_weights(p, layer, part), 1, 2);
        abl_tensor_gemm_into(scope, g, part_heads(p, by_head, part), w, part == 0 ? 0 : 1, 1);
    }
    if (p->config->norm != ABL_NORM_NONE) {
        abl_tensor_addcmul_(scope, g, abl_tensor_view(scope, p->layers[layer].xhat, 3, sizes),
                            along_xhat(p, layer, u), -1.0 / (double)p->shape.width);
    }
    inputs_backward(
        p, module_of(p, layer, false), p->layers[layer].matrix,
        abl_tensor_view(scope, g, 4,
                        (const int64_t[]){p->rows, p->shape.batch, p->shape.seq, p->shape.width}));
}

/* Resid End at the last position: its input (1, batch, 1, d_model), the logits, and back. */
static void end(pass *p, const abl_tensor *resid, abl_patch_loss_cb loss_cb, void *user_data,
                float *ret_logits) {
    abl_scope *scope = p->scope;
    abl_differences *d = &p->owner->differences;
    const abl_graph_module *module = module_end(p);
    const int64_t n = ABL_SLOT_SOURCES + module->src_count;
    abl_mix_shape one = p->shape;
    one.seq = one.positions = 1;
    abl_differences_fill(scope, d, p->model, p->ablated, p->config->n_layers, false, resid);
    abl_mask_rows mask = rows_of(p, module, 1);
    mask.values += (p->shape.positions - 1) * mask.stride;
    mask.stride *= p->shape.positions;
    mask.positions = p->shape.mask_batch;
    abl_tensor *matrix = abl_mix_matrix(scope, &mask, NULL, 1);
    abl_tensor *stack = abl_tensor_contiguous(
        scope, abl_tensor_slice(scope, d->arena, 2, p->shape.seq - 1, p->shape.seq));
    abl_tensor *x = abl_tensor_empty(scope, ABL_DTYPE_F32, 4,
                                     (const int64_t[]){1, p->shape.batch, 1, p->shape.width});
    abl_mix_apply(scope, &one, x, matrix, stack, 0, 1);

    abl_tensor *xhat = NULL;
    abl_tensor *rstd = NULL;
    x = abl_tensor_view(scope, x, 2, (const int64_t[]){p->shape.batch, p->shape.width});
    abl_tensor *logits = abl_block_unembed(scope, p->model, x, &xhat, &rstd);
    if (ret_logits != NULL) {
        abl_tensor_to_floats(scope, logits, ret_logits,
                             (size_t)(p->shape.batch * p->config->d_vocab_out));
    }
    abl_tensor *g = abl_scope_failed(scope) ? NULL : loss_cb(scope, logits, user_data);
    g = abl_block_unembed_backward(scope, p->model, g, xhat, rstd);
    g = abl_tensor_view(scope, g, 4, (const int64_t[]){1, p->shape.batch, 1, p->shape.width});

    abl_tensor *sources = abl_tensor_slice(scope, stack, 0, ABL_SLOT_SOURCES, n);
    gradient_write(p, module, abl_mix_products(scope, &one, g, sources), p->shape.positions - 1,
                   p->shape.positions);
    abl_tensor_fill_(scope, p->owner->gradients, 0);
    abl_mix_apply(scope, &one, stack, abl_tensor_transpose(scope, matrix, 1, 2), g, 0, 1);
    abl_tensor_copy_into(
        scope, abl_tensor_slice(scope, p->owner->gradients, 2, p->shape.seq - 1, p->shape.seq),
        stack);
}

static void layers_backward(pass *p) {
    for (int layer = p->config->n_layers - 1; layer >= 0 && !abl_scope_failed(p->scope); layer--) {
        size_t mark = abl_scope_mark(p->scope);
        /* In a parallel block attention and MLP both write to the stream behind it. */
        abl_tensor *behind = residual_gradient(p);
        if (p->config->parallel_attn_mlp) {
            behind = abl_tensor_clone(p->scope, behind);
        }
        if (!p->config->attn_only) {
            mlp_backward(p, layer, behind);
        }
        attention_backward(p, layer, behind);
        abl_scope_rewind(p->scope, mark, NULL, 0);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

abl_code abl_backward_create(const abl_model *model, const abl_graph *graph,
                             abl_backward **ret_backward, abl_status *ret_status) {
    abl_code code = abl_graph_check_model(graph, model, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_backward *backward = abl_calloc(1, sizeof *backward);
    if (backward == NULL) {
        return abl_fail_oom(ret_status);
    }
    backward->model = model;
    backward->config = abl_model_get_config(model);
    backward->graph = graph;
    *ret_backward = backward;
    return ABL_CODE_OK;
}

void abl_backward_destroy(abl_backward *backward) {
    if (backward == NULL) {
        return;
    }
    abl_scope_destroy(backward->scope);
    abl_folded_destroy(backward->folded);
    abl_free(backward);
}

/* Folded weights, and arenas of this batch's shape; the last ones when those fit. */
static abl_code arenas_prepare(abl_backward *b, int64_t batch, int64_t seq,
                               abl_status *ret_status) {
    abl_differences *d = &b->differences;
    if (b->folded == NULL) {
        abl_code code = abl_folded_create(b->model, b->graph, true, &b->folded, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    if (b->scope != NULL && d->batch == batch && d->seq == seq) {
        return ABL_CODE_OK;
    }
    abl_scope_destroy(b->scope);
    b->scope = abl_scope_create(abl_model_device(b->model));
    if (b->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    const int64_t shape[] = {ABL_SLOT_SOURCES + abl_graph_src_count(b->graph), batch, seq,
                             b->config->d_model};
    *d = (abl_differences){.arena = abl_tensor_empty(b->scope, ABL_DTYPE_F32, 4, shape),
                           .batch = batch,
                           .seq = seq,
                           .width = b->config->d_model};
    b->gradients = abl_tensor_empty(b->scope, ABL_DTYPE_F32, 4, shape);
    abl_code code = abl_scope_status(b->scope, ret_status);
    if (code != ABL_CODE_OK) {
        abl_scope_destroy(b->scope);
        b->scope = NULL;
    }
    return code;
}

/* The gradient at the sample's values. */
static abl_code values_backward(abl_backward *backward, const abl_patch_options *o,
                                const abl_mask_sample *sample, abl_patch_loss_cb loss_cb,
                                void *user_data, float *ret_logits, float *ret_gradient,
                                abl_status *ret_status) {
    const abl_graph_options *g = abl_graph_options_of(backward->graph);
    abl_patch_options plain = *o;
    plain.mask = sample->values;
    plain.mask_batch = (int32_t)sample->rows;
    if (o->interventions.count > 0) {
        const abl_patch_hooked_loss loss = {.loss_cb = loss_cb, .user_data = user_data};
        return abl_patch_hooked_gradient(&plain, &loss, ret_logits, ret_gradient, ret_status);
    }
    if (g->simple) {
        return abl_simple_backward(&plain, loss_cb, user_data, ret_logits, ret_gradient,
                                   ret_status);
    }
    pass p = {.owner = backward,
              .model = backward->model,
              .config = backward->config,
              .folded = backward->folded,
              .options = o,
              .ablated = o->ablated,
              .shape = {.batch = o->batch,
                        .seq = o->seq,
                        .width = backward->config->d_model,
                        .mask_batch = sample->rows,
                        .positions = g->seq_len != 0 ? o->seq : 1},
              .values = sample->values,
              .gradient = ret_gradient,
              .parts = g->joined_qkv ? 3 : 1};
    p.rows = p.folded->heads / p.parts;
    p.layers = abl_calloc((size_t)p.config->n_layers, sizeof *p.layers);
    p.scope = abl_scope_create(abl_model_device(p.model));
    abl_code code = ABL_CODE_OK;
    if (p.layers == NULL || p.scope == NULL) {
        code = abl_fail_oom(ret_status);
    } else {
        abl_tensor *resid = forward(&p);
        end(&p, resid, loss_cb, user_data, ret_logits);
        layers_backward(&p);
        code = abl_scope_status(p.scope, ret_status);
    }
    abl_scope_destroy(p.scope);
    abl_free(p.layers);
    return code;
}

abl_code abl_backward_run(abl_backward *backward, const abl_patch_options *o,
                          abl_patch_loss_cb loss_cb, void *user_data, float *ret_logits,
                          float *ret_gradient, abl_status *ret_status) {
    ABL_ASSERT(o->model == backward->model && o->graph == backward->graph);
    abl_code code = abl_patch_check(o, ret_status);
    if (code == ABL_CODE_OK && o->mask == NULL) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_MISSING",
                        "a gradient at a mask needs one");
    }
    if (code == ABL_CODE_OK && o->out_slice != ABL_OUT_SLICE_LAST) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SLICE_INVALID",
                        "gradients at masks are of the last position's logits");
    }
    bool own = o->interventions.count == 0 && !abl_graph_options_of(o->graph)->simple;
    if (code == ABL_CODE_OK && own) {
        code = arenas_prepare(backward, o->batch, o->seq, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    const abl_mask_sample_options function = abl_patch_mask_function(o);
    abl_mask_sample sample;
    code = abl_mask_sample_init(&function, &sample, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    float *gradient = abl_calloc((size_t)(sample.rows * function.edges), sizeof *gradient);
    code = gradient == NULL ? abl_fail_oom(ret_status)
                            : values_backward(backward, o, &sample, loss_cb, user_data, ret_logits,
                                              gradient, ret_status);
    if (code == ABL_CODE_OK) {
        abl_mask_sample_backward(&function, &sample, gradient, ret_gradient);
    }
    abl_mask_sample_finish(&sample);
    abl_free(gradient);
    return code;
}

abl_code abl_patch_backward(const abl_patch_options *options, abl_patch_loss_cb loss_cb,
                            void *user_data, float *ret_logits, float *ret_gradient,
                            abl_status *ret_status) {
    abl_backward *backward = NULL;
    abl_code code = abl_backward_create(options->model, options->graph, &backward, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_backward_run(backward, options, loss_cb, user_data, ret_logits, ret_gradient,
                                ret_status);
    }
    abl_backward_destroy(backward);
    return code;
}

int64_t abl_patch_backward_bytes(const abl_patch_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    const abl_graph_options *o = abl_graph_options_of(options->graph);
    if (options->interventions.count > 0) {
        return abl_patch_hooked_run_bytes(options, true);
    }
    if (o->simple) {
        return abl_simple_bytes(options, true) + abl_block_widened_bytes(options->model);
    }
    const int64_t tokens = (int64_t)options->batch * options->seq;
    bool expanded = o->joined_qkv || o->gqa == ABL_GQA_EXPANDED;
    int64_t heads = c->n_heads + 2LL * (expanded ? c->n_heads : c->n_kv_heads);
    int64_t rows = o->joined_qkv ? c->n_heads : heads;
    int64_t arenas = 2 * (ABL_SLOT_SOURCES + (int64_t)abl_graph_src_count(options->graph));
    int64_t saved = (rows + 2) * (c->d_model + 1) + 3 * heads * c->d_head +
                    (c->gated ? 2LL : 1LL) * c->d_mlp + (int64_t)c->n_heads * options->seq;
    int64_t layer = (2 * rows + 12) * c->d_model + 6 * heads * c->d_head + 6LL * c->d_mlp +
                    3LL * c->n_heads * options->seq;
    /* The mask's planes: sampled values, slopes and gradients, and the matrices of all layers. */
    int64_t masks = 5LL * options->batch * abl_graph_edge_count(options->graph);
    return 4 * (tokens * (arenas * c->d_model + c->n_layers * saved + layer) + masks +
                6LL * options->batch * c->d_vocab_out) +
           abl_folded_bytes(options->model, options->graph, true) +
           abl_block_widened_bytes(options->model);
}
