// SPDX-License-Identifier: Apache-2.0
/* d loss / d mask at a uniform mask value a, exactly, from one forward and one backward of the
 * plain model's size (ALGORITHMS: edge attribution and mask gradient).
 *
 * At a uniform mask all destinations of a layer read the same input,
 *     x = (1 - a) resid + a ablated_resid,
 * so the forward is the fused one. With D[s] = ablated[s] - current[s] and g_j the loss's gradient
 * at destination j's input, score[j, s] = <D[s], g_j>: for a layer, one product of the stack of g_j
 * (heads, T d_model) with the stack of D (sources, T d_model).
 *
 * g_j without autograd. The projection with the norm folded in is qkv_j = xhat W'_j + b'_j; then,
 * from u_j = rstd * dqkv_j (T, d_head),
 *     G_j = u_j W'_j^T                        one batched product over heads
 *     e_j = <u_j, qkv_j - b'_j>               which equals <xhat, G_j>, at d_head's cost
 *     g_j = G_j - xhat e_j / d_model          (W' is centred, so no mean term; RMS has none)
 * and g_j = G_j in a model without norms.
 * The gradient at the residual stream collects (1 - a) g over all destinations.
 *
 * With a blend (EAP-IG) one place emits a constant instead of what it computes: its own backward is
 * left out, and the differences D are those of the two whole runs.
 *
 * Memory: the arena of differences (2 + sources, T, d_model), one layer's stack of G, and per layer
 * what its backward needs. Temporaries are rewound layer by layer. */
#include "core/prune/gradient.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"

typedef struct saved_layer {
    abl_tensor *xhat; /* (batch, pos, d_model) before q, k, v */
    abl_tensor *rstd; /* (batch, pos, 1) */
    abl_tensor *qkv;  /* (batch, pos, heads, d_head), before rotation */
    abl_tensor *q;    /* rotated; k and v with the prefix's in front */
    abl_tensor *k;
    abl_tensor *v;
    abl_tensor *pattern;
    abl_tensor *mlp_xhat;
    abl_tensor *mlp_rstd;
    abl_mlp_saved mlp;
} saved_layer;

typedef struct pass {
    const abl_gradient_options *options;
    const abl_model *model;
    const abl_model_config *config;
    const abl_folded *folded;
    abl_scope *scope;
    abl_differences differences;
    saved_layer *layers;
    float *scores;
    float *block; /* host memory for one layer's scores */
    int64_t batch;
    int64_t seq;
    int64_t width; /* d_model */
    double keep;   /* 1 - a */
    bool by_position;
} pass;

/* ---- forward --------------------------------------------------------------------------------- */

/* What every destination at this point reads. */
static abl_tensor *input_of(pass *p, int layer, bool mid, abl_tensor *resid) {
    double a = 1.0 - p->keep;
    if (a == 0.0) {
        return resid;
    }
    abl_tensor *ablated = abl_sources_residual(p->scope, p->model, p->options->ablated, layer, mid);
    return ablated == NULL ? abl_tensor_scale(p->scope, resid, p->keep)
                           : abl_tensor_lerp(p->scope, resid, ablated, a);
}

/* Whether a blend takes the place of what this part of a layer would emit. */
static bool blended(const pass *p, abl_blend_place place, int layer) {
    const abl_blend *blend = p->options->blend;
    return blend != NULL && blend->place == place &&
           (place == ABL_BLEND_START || blend->layer == layer);
}

/* share * clean + (1 - share) * ablated; ablated NULL is zero. */
static abl_tensor *blend_of(pass *p, const abl_tensor *clean, const abl_tensor *ablated) {
    const double share = p->options->blend->share;
    return ablated == NULL ? abl_tensor_scale(p->scope, clean, share)
                           : abl_tensor_lerp(p->scope, ablated, clean, share);
}

/* The slot in the arena of a layer's first head. */
static int64_t head_slot(const pass *p, int layer) {
    return ABL_SLOT_SOURCES + abl_graph_block_src(p->options->graph, layer);
}

/* z (batch, pos, head, d_head), what is needed to come back from it kept. */
static abl_tensor *heads_forward(pass *p, int layer, abl_tensor *resid) {
    abl_scope *scope = p->scope;
    saved_layer *saved = &p->layers[layer];
    abl_tensor *x = input_of(p, layer, false, resid);
    (void)abl_tensor_norm(scope, abl_model_norm_kind(p->model), x, NULL, NULL, p->config->norm_eps,
                          &saved->xhat, &saved->rstd);
    saved->qkv = abl_folded_project(scope, p->folded, layer, saved->xhat);
    abl_qkv qkv = abl_folded_views(scope, p->folded, saved->qkv);
    qkv = abl_prefix_qkv(scope, p->model, p->options->batch->prefix, layer, qkv);
    saved->q = qkv.q;
    saved->k = qkv.k;
    saved->v = qkv.v;
    return abl_block_attention(scope, p->model, saved->q, saved->k, saved->v, NULL,
                               &saved->pattern);
}

static abl_tensor *attention_forward(pass *p, int layer, abl_tensor *resid) {
    const abl_blend *blend = p->options->blend;
    const abl_sources *ablated = p->options->ablated;
    abl_tensor *z =
        blended(p, ABL_BLEND_HEADS, layer)
            ? blend_of(p, blend->clean->z[layer], ablated == NULL ? NULL : ablated->z[layer])
            : heads_forward(p, layer, resid);
    abl_differences_heads(p->scope, &p->differences, p->model, ablated, layer, head_slot(p, layer),
                          blend == NULL ? z : blend->clean->z[layer]);
    return abl_block_attn_out(p->scope, p->model, layer, z);
}

static abl_tensor *mlp_forward(pass *p, int layer, abl_tensor *resid) {
    bool mid = !p->config->parallel_attn_mlp;
    saved_layer *saved = &p->layers[layer];
    const abl_blend *blend = p->options->blend;
    const abl_sources *ablated = p->options->ablated;
    if (blended(p, ABL_BLEND_MLP, layer)) {
        abl_tensor *clean = blend->clean->mlp_out[layer];
        abl_differences_mlp(p->scope, &p->differences, ablated, layer,
                            head_slot(p, layer) + p->config->n_heads, clean);
        return blend_of(p, clean, ablated == NULL ? NULL : ablated->mlp_out[layer]);
    }
    abl_tensor *x = input_of(p, layer, mid, resid);
    abl_tensor *normed = abl_block_norm_forward(p->scope, p->model, layer, ABL_BLOCK_NORM_2, x,
                                                &saved->mlp_xhat, &saved->mlp_rstd);
    abl_tensor *out = abl_block_mlp(p->scope, p->model, layer, normed, &saved->mlp);
    abl_differences_mlp(p->scope, &p->differences, ablated, layer,
                        head_slot(p, layer) + p->config->n_heads,
                        blend == NULL ? out : blend->clean->mlp_out[layer]);
    return out;
}

static abl_tensor *forward(pass *p) {
    const abl_batch *batch = p->options->batch;
    abl_tensor *ids = abl_block_tokens(p->scope, batch->clean, batch->size, batch->seq_len);
    const abl_blend *blend = p->options->blend;
    const abl_sources *ablated = p->options->ablated;
    abl_tensor *resid = abl_block_embed(p->scope, p->model, ABL_DTYPE_F32, ids,
                                        abl_prefix_length(batch->prefix), NULL, NULL);
    abl_differences_start(&p->differences, ablated, resid);
    if (blended(p, ABL_BLEND_START, 0)) {
        resid = blend_of(p, blend->clean->start, ablated == NULL ? NULL : ablated->start);
    }
    for (int layer = 0; layer < p->config->n_layers && !abl_scope_failed(p->scope); layer++) {
        size_t mark = abl_scope_mark(p->scope);
        abl_tensor *attn_out = attention_forward(p, layer, resid);
        abl_tensor *mid = abl_tensor_add(p->scope, resid, attn_out);
        bool parallel = p->config->parallel_attn_mlp;
        resid = p->config->attn_only
                    ? mid
                    : abl_tensor_add(p->scope, mid, mlp_forward(p, layer, parallel ? resid : mid));
        saved_layer *s = &p->layers[layer];
        abl_tensor *const survivors[] = {resid,       s->xhat,     s->rstd,    s->qkv,
                                         s->q,        s->k,        s->v,       s->pattern,
                                         s->mlp_xhat, s->mlp_rstd, s->mlp.pre, s->mlp.up};
        abl_scope_rewind(p->scope, mark, survivors, ABL_COUNT_OF(survivors));
        s->mlp.post = NULL;
    }
    return resid;
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* Adds host values (rows, n), laid out as consecutive destinations, at one position. */
static void block_add(pass *p, const abl_graph_module *module, int64_t seq, const float *values,
                      int64_t rows) {
    float *out =
        p->scores + module->edge_offset + seq * abl_graph_edges_per_position(p->options->graph);
    for (int64_t i = 0; i < rows * module->src_count; i++) {
        out[i] += values[i];
    }
}

/* joined_qkv: a head's q, k and v read one input, so their gradients add. values (3 heads, n). */
static void rows_join(float *values, int64_t heads, int64_t src_count) {
    for (int64_t i = 0; i < heads * src_count; i++) {
        values[i] += values[i + heads * src_count] + values[i + 2 * heads * src_count];
    }
}

/* g (rows, batch, pos, d_model), D's first n sources -> scores of `module` and those after it. */
static void score(pass *p, const abl_graph_module *module, const abl_tensor *g, int64_t rows) {
    abl_scope *scope = p->scope;
    const int64_t n = module->src_count;
    const int64_t positions = p->by_position ? p->seq : 1;
    bool joined = module->role == ABL_DEST_QKV;
    abl_tensor *d =
        abl_tensor_slice(scope, p->differences.arena, 0, ABL_SLOT_SOURCES, ABL_SLOT_SOURCES + n);
    abl_tensor *out =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 3, (const int64_t[]){positions, rows, n});
    if (!p->by_position) {
        const int64_t inner = p->batch * p->seq * p->width;
        abl_tensor *a = abl_tensor_view(scope, g, 2, (const int64_t[]){rows, inner});
        abl_tensor *b = abl_tensor_view(scope, d, 2, (const int64_t[]){n, inner});
        abl_tensor_gemm_into(scope, abl_tensor_select(scope, out, 0, 0), a,
                             abl_tensor_transpose(scope, b, 0, 1), 0, 1);
    } else {
        for (int64_t row = 0; row < p->batch; row++) {
            abl_tensor *a = abl_tensor_select(scope, g, 1, row); /* (rows, pos, d) */
            abl_tensor *b = abl_tensor_select(scope, d, 1, row); /* (n, pos, d) */
            a = abl_tensor_permute(scope, a, 3, (const int64_t[]){1, 0, 2});
            b = abl_tensor_permute(scope, b, 3, (const int64_t[]){1, 2, 0});
            abl_tensor_gemm_into(scope, out, a, b, row == 0 ? 0 : 1, 1);
        }
    }
    abl_tensor_to_floats(scope, out, p->block, (size_t)(positions * rows * n));
    for (int64_t seq = 0; !abl_scope_failed(scope) && seq < positions; seq++) {
        float *values = p->block + seq * rows * n;
        if (joined) {
            rows_join(values, module->dest_count, n);
        }
        block_add(p, module, seq, values, joined ? module->dest_count : rows);
    }
}

/* ---- backward -------------------------------------------------------------------------------- */

static const abl_graph_module *module_of(const pass *p, int layer, bool mlp) {
    return abl_graph_block_module(p->options->graph, layer, mlp);
}

/* Adds keep * g to the gradient at the residual stream, in place. */
static void collect(pass *p, abl_tensor *grad, const abl_tensor *g) {
    if (p->keep != 0.0) {
        abl_tensor_add_(p->scope, grad, g, p->keep);
    }
}

static void mlp_backward(pass *p, int layer, abl_tensor *grad_out, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    saved_layer *saved = &p->layers[layer];
    abl_tensor *g = abl_block_mlp_backward(scope, p->model, layer, grad_out, &saved->mlp);
    g = abl_block_norm_backward(scope, p->model, layer, ABL_BLOCK_NORM_2, g, saved->mlp_xhat,
                                saved->mlp_rstd);
    abl_tensor *one = abl_tensor_unsqueeze(scope, g, 0);
    score(p, module_of(p, layer, true), one, 1);
    collect(p, grad, g);
}

/* The gradient at the projection, before rotation, times rstd: u (batch, pos, heads, d_head). */
static abl_tensor *projection_backward(pass *p, int layer, const abl_tensor *grad_out) {
    abl_scope *scope = p->scope;
    const abl_model_config *c = p->config;
    saved_layer *saved = &p->layers[layer];
    const int64_t shape[] = {p->batch, p->seq, p->folded->heads, p->folded->d_head};
    abl_tensor *w_o = abl_model_get_block(p->model, layer)->w_o;
    abl_tensor *dz =
        abl_tensor_linear(scope, grad_out, abl_tensor_transpose(scope, w_o, 0, 1), NULL);
    dz = abl_tensor_view(scope, dz, 4, (const int64_t[]){p->batch, p->seq, c->n_heads, c->d_head});
    abl_tensor *dqkv = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, shape);
    abl_qkv views = abl_folded_views(scope, p->folded, dqkv);
    const abl_attention_grads out = {.q = views.q, .k = views.k, .v = views.v};
    const abl_qkv qkv = {.q = saved->q, .k = saved->k, .v = saved->v};
    abl_block_attention_backward(scope, p->model, dz, &qkv, saved->pattern, &out);
    abl_prefix_unrotate_(scope, p->model, p->options->batch->prefix, views);
    abl_tensor_mul_(scope, dqkv, abl_tensor_unsqueeze(scope, saved->rstd, 3));
    return dqkv;
}

/* e (heads, T, 1): how much each head's gradient lies along xhat. */
static abl_tensor *along_xhat(pass *p, int layer, const abl_tensor *u) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    const abl_tensor *qkv = p->layers[layer].qkv;
    if (f->layers[layer].b != NULL) {
        abl_tensor *b =
            abl_tensor_view(scope, f->layers[layer].b, 2, (const int64_t[]){f->heads, f->d_head});
        qkv = abl_tensor_sub(scope, qkv, b);
    }
    abl_tensor *e = abl_tensor_dot(scope, u, qkv);
    e = abl_tensor_view(scope, e, 3, (const int64_t[]){p->batch * p->seq, f->heads, 1});
    return abl_tensor_permute(scope, e, 3, (const int64_t[]){1, 0, 2});
}

static void attention_backward(pass *p, int layer, abl_tensor *grad_out, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->folded;
    const int64_t rows = p->batch * p->seq;
    abl_tensor *u = projection_backward(p, layer, grad_out);
    abl_tensor *by_head =
        abl_tensor_view(scope, u, 3, (const int64_t[]){rows, f->heads, f->d_head});
    by_head = abl_tensor_permute(scope, by_head, 3, (const int64_t[]){1, 0, 2});
    abl_tensor *w = abl_tensor_view(scope, f->layers[layer].w, 3,
                                    (const int64_t[]){p->width, f->heads, f->d_head});
    w = abl_tensor_permute(scope, w, 3, (const int64_t[]){1, 2, 0});
    abl_tensor *g =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 3, (const int64_t[]){f->heads, rows, p->width});
    abl_tensor_gemm_into(scope, g, by_head, w, 0, 1);
    if (p->config->norm != ABL_NORM_NONE) {
        abl_tensor *xhat =
            abl_tensor_view(scope, p->layers[layer].xhat, 3, (const int64_t[]){1, rows, p->width});
        abl_tensor_addcmul_(scope, g, xhat, along_xhat(p, layer, u), -1.0 / (double)p->width);
    }
    abl_tensor *stack =
        abl_tensor_view(scope, g, 4, (const int64_t[]){f->heads, p->batch, p->seq, p->width});
    score(p, module_of(p, layer, false), stack, f->heads);
    const int64_t over_heads[] = {0};
    collect(p, grad, abl_tensor_sum(scope, stack, over_heads, 1, false));
}

/* Resid End at the last position: scores it and starts the gradient at the stream. */
static abl_tensor *end_backward(pass *p, abl_tensor *resid) {
    abl_scope *scope = p->scope;
    const abl_graph *graph = p->options->graph;
    abl_tensor *x = input_of(p, p->config->n_layers, false, resid);
    x = abl_tensor_contiguous(scope, abl_tensor_select(scope, x, 1, p->seq - 1));
    abl_tensor *xhat = NULL;
    abl_tensor *rstd = NULL;
    abl_tensor *logits = abl_block_unembed(scope, p->model, x, &xhat, &rstd);
    abl_loss_gradient loss = abl_loss_backward(scope, p->options->loss, p->options->batch, logits);
    abl_tensor *g = loss.columns != NULL
                        ? abl_block_unembed_backward_columns(scope, p->model, loss.columns,
                                                             loss.grad, xhat, rstd)
                        : abl_block_unembed_backward(scope, p->model, loss.grad, xhat, rstd);
    abl_tensor *d =
        abl_tensor_select(scope,
                          abl_tensor_slice(scope, p->differences.arena, 0, ABL_SLOT_SOURCES,
                                           ABL_SLOT_SOURCES + abl_graph_src_count(graph)),
                          2, p->seq - 1); /* (sources, batch, d) */
    const int64_t n = abl_graph_src_count(graph);
    const int64_t inner = p->batch * p->width;
    abl_tensor *scores =
        abl_tensor_matmul(scope, abl_tensor_reshape(scope, d, 2, (const int64_t[]){n, inner}),
                          abl_tensor_reshape(scope, g, 2, (const int64_t[]){inner, 1}));
    abl_tensor_to_floats(scope, scores, p->block, (size_t)n);
    if (!abl_scope_failed(scope)) {
        block_add(p, abl_graph_module_at(graph, abl_graph_module_count(graph) - 1),
                  p->by_position ? p->seq - 1 : 0, p->block, 1);
    }
    abl_tensor *grad =
        abl_tensor_zeros(scope, ABL_DTYPE_F32, 3, (const int64_t[]){p->batch, p->seq, p->width});
    abl_tensor_add_(scope, abl_tensor_select(scope, grad, 1, p->seq - 1), g, p->keep);
    return grad;
}

static void backward(pass *p, abl_tensor *resid) {
    abl_tensor *grad = end_backward(p, resid);
    for (int layer = p->config->n_layers - 1; layer >= 0 && !abl_scope_failed(p->scope); layer--) {
        size_t mark = abl_scope_mark(p->scope);
        /* In a parallel block attention and MLP both write to the stream behind it. */
        abl_tensor *behind = p->config->parallel_attn_mlp ? abl_tensor_clone(p->scope, grad) : grad;
        if (!p->config->attn_only && !blended(p, ABL_BLEND_MLP, layer)) {
            mlp_backward(p, layer, behind, grad);
        }
        if (!blended(p, ABL_BLEND_HEADS, layer)) {
            attention_backward(p, layer, behind, grad);
        }
        abl_scope_rewind(p->scope, mark, NULL, 0);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static abl_code pass_open(pass *p, abl_status *ret_status) {
    const abl_graph *graph = p->options->graph;
    int64_t n = abl_graph_src_count(graph);
    int64_t positions = p->by_position ? p->seq : 1;
    p->layers = abl_calloc((size_t)p->config->n_layers, sizeof *p->layers);
    p->block = abl_calloc((size_t)(positions * p->folded->heads * n), sizeof *p->block);
    p->scope = abl_scope_create(abl_model_device(p->model));
    if (p->layers == NULL || p->block == NULL || p->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    p->differences =
        (abl_differences){.scope = p->scope,
                          .arena = abl_tensor_empty(
                              p->scope, ABL_DTYPE_F32, 4,
                              (const int64_t[]){ABL_SLOT_SOURCES + n, p->batch, p->seq, p->width}),
                          .batch = p->batch,
                          .seq = p->seq,
                          .width = p->width};
    return abl_scope_status(p->scope, ret_status);
}

abl_code abl_gradient_add(const abl_gradient_options *options, float *scores,
                          abl_status *ret_status) {
    const abl_batch *batch = options->batch;
    pass p = {.options = options,
              .model = options->model,
              .config = abl_model_get_config(options->model),
              .folded = options->folded,
              .scores = scores,
              .batch = batch->size,
              .seq = batch->seq_len,
              .keep = 1.0 - (double)options->mask_value,
              .by_position = abl_graph_options_of(options->graph)->seq_len != 0};
    p.width = p.config->d_model;
    ABL_ASSERT(options->blend == NULL || options->mask_value == 0.0F);
    ABL_ASSERT(!p.by_position || abl_graph_seq_count(options->graph) == batch->seq_len);
    abl_code code = pass_open(&p, ret_status);
    if (code == ABL_CODE_OK) {
        abl_tensor *resid = forward(&p);
        backward(&p, resid);
        code = abl_scope_status(p.scope, ret_status);
    }
    abl_scope_destroy(p.scope);
    abl_free(p.layers);
    abl_free(p.block);
    return code;
}

int64_t abl_gradient_bytes(const abl_model_config *c, const abl_graph *graph, int64_t batch,
                           int64_t seq) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    int64_t tokens = batch * seq;
    bool expanded = o->joined_qkv || o->gqa == ABL_GQA_EXPANDED;
    int64_t heads = c->n_heads + 2LL * (expanded ? c->n_heads : c->n_kv_heads);
    int64_t differences = (ABL_SLOT_SOURCES + (int64_t)abl_graph_src_count(graph)) * c->d_model;
    int64_t saved = 2LL * c->d_model + 2 * heads * c->d_head + (c->gated ? 2LL : 1LL) * c->d_mlp +
                    (int64_t)c->n_heads * seq;
    int64_t stack = (heads + 8) * c->d_model + 4LL * heads * c->d_head + 6LL * c->d_mlp +
                    3LL * c->n_heads * seq;
    int64_t positions = o->seq_len != 0 ? seq : 1;
    int64_t scores = 2 * positions * heads * abl_graph_src_count(graph);
    int64_t logits = 4 * batch * c->d_vocab_out;
    return 4 * (tokens * (differences + c->n_layers * saved + stack) + scores + logits);
}
