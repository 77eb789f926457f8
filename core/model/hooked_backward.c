/* SPDX-License-Identifier: Apache-2.0
 *
 * hooked.c read backwards, line by line: for each `y = f(at(POINT, x))` there, here
 * `grad_x = at(POINT, f'(grad_y))`, where `at` keeps the gradient at what the point gave, which is
 * what TransformerLens's backward hooks see, and takes it through the interventions.
 *
 * In a patched pass an input is resid + sum of mask * (ablated - current): the callbacks take the
 * gradient at the input to the stream's and collect, for each source, minus mask times it; a
 * source's share is complete when the pass has come back to it. */
#include "core/model/hooked_internal.h"

#include "core/base/assert.h"
#include "core/base/mem.h"

/* `firing`: as hooked.c's intervene(). */
static abl_tensor *at_firing(abl_hooked_pass *p, abl_hook_point point, int layer, int firing,
                             abl_tensor *grad) {
    const size_t count = p->options->interventions.count;
    abl_captures_keep_gradient(p->captures, p->scope, point, layer, grad);
    if (count == 0) {
        return grad;
    }
    abl_hook_layout layout = abl_hook_layout_of(p->config, point, &p->shape);
    return abl_interventions_backward(p->scope, p->options->interventions,
                                      (abl_hook){.point = point, .layer = layer}, &layout, grad,
                                      p->saved + (size_t)firing * count);
}

static abl_tensor *at(abl_hooked_pass *p, abl_hook_point point, int layer, abl_tensor *grad) {
    return at_firing(p, point, layer, 0, grad);
}

static abl_tensor *transposed(abl_hooked_pass *p, const abl_tensor *w) {
    return abl_tensor_transpose(p->scope, w, 0, 1);
}

static abl_tensor *sum_heads(abl_hooked_pass *p, const abl_tensor *grad) {
    const int64_t heads[] = {2};
    return abl_tensor_sum(p->scope, grad, heads, 1, false);
}

/* ---- Norms ------------------------------------------------------------------------------- */

static abl_tensor *norm_point(abl_hooked_pass *p, const abl_hooked_norm_place *place,
                              abl_hook_point point, abl_tensor *grad) {
    return at_firing(p, point, place->layer, place->firing, grad);
}

/* From the gradient at what the norm gave to the one at x:
 *   y = gain n + bias, n = centred / scale, scale = sqrt(mean(centred^2) + eps)
 *   d scale = - sum(d n * n) / scale
 *   d centred = d n / scale + d raw_scale * centred / (width raw_scale)
 * and a layer norm's x loses the mean again. */
static abl_tensor *norm_backward(abl_hooked_pass *p, const abl_hooked_norm_place *place,
                                 const abl_hooked_norm *saved, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    bool rms = p->config->norm == ABL_NORM_RMS;
    const int64_t last[] = {-1};
    abl_tensor *bias = NULL;
    abl_tensor *gain = abl_hooked_gain(p, place, &bias);
    if (p->config->norm == ABL_NORM_NONE) {
        return grad;
    }
    grad = rms ? grad : norm_point(p, place, place->normalized, grad);
    grad = gain == NULL ? grad : abl_tensor_mul(scope, grad, gain);
    grad = rms ? norm_point(p, place, place->normalized, grad) : grad;
    abl_tensor *along = abl_tensor_sum(scope, abl_tensor_mul(scope, grad, saved->n), last, 1, true);
    abl_tensor *at_scale = abl_tensor_neg(scope, abl_tensor_div(scope, along, saved->scale));
    at_scale = norm_point(p, place, place->scale, at_scale);
    abl_tensor *factor = abl_tensor_scale(scope, abl_tensor_div(scope, at_scale, saved->raw_scale),
                                          1.0 / (double)p->config->d_model);
    grad = abl_tensor_add(scope, abl_tensor_div(scope, grad, saved->scale),
                          abl_tensor_mul(scope, saved->centred, factor));
    return rms ? grad : abl_tensor_sub(scope, grad, abl_tensor_mean(scope, grad, last, 1, true));
}

static abl_tensor *norm1_backward(abl_hooked_pass *p, int layer, int which, abl_tensor *grad) {
    const abl_hooked_norm_place place = abl_hooked_norm_at(ABL_BLOCK_NORM_1, layer, which);
    return norm_backward(p, &place, &p->layers[layer].norm1[which], grad);
}

/* ---- The scalar -------------------------------------------------------------------------- */

static abl_tensor *ints(abl_hooked_pass *p, const int64_t *values, int64_t count) {
    return abl_tensor_from_host(p->scope, ABL_DTYPE_I64, 1, &count, values);
}

/* The mean of minus the log probability of the next token: probabilities less one at the target. */
static abl_tensor *loss_backward(abl_hooked_pass *p) {
    abl_scope *scope = p->scope;
    const abl_forward_options *o = p->options;
    const int64_t vocab = p->config->d_vocab_out;
    const int64_t rows = o->batch * (o->seq - 1);
    ABL_CLEANUP(abl_freep) int64_t *targets = abl_calloc((size_t)rows, 2 * sizeof *targets);
    if (targets == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    int64_t *flat = targets + rows; /* of each target in (rows, vocab) */
    for (int64_t i = 0; i < rows; i++) {
        targets[i] = o->tokens[i / (o->seq - 1) * o->seq + i % (o->seq - 1) + 1];
        flat[i] = i * vocab + targets[i];
    }
    abl_tensor *logits = abl_tensor_slice(scope, p->all_logits, 1, 0, o->seq - 1);
    logits = abl_tensor_reshape(scope, logits, 2, (const int64_t[]){rows, vocab});
    abl_tensor *picked =
        abl_tensor_gather(scope, logits, 1, abl_tensor_unsqueeze(scope, ints(p, targets, rows), 1));
    abl_tensor *norm = abl_tensor_logsumexp(scope, logits, -1);
    abl_tensor *each = abl_tensor_sub(scope, norm, abl_tensor_squeeze(scope, picked, 1));
    p->captures->result->scalar =
        abl_tensor_item(scope, abl_tensor_mean(scope, each, NULL, 0, false));
    const int64_t all[] = {o->batch, o->seq, vocab};
    const int64_t shape[] = {o->batch, o->seq - 1, vocab};
    abl_tensor *probabilities = abl_tensor_contiguous(scope, abl_tensor_softmax(scope, logits, -1));
    abl_tensor_index_add_(scope, abl_tensor_view(scope, probabilities, 1, (const int64_t[]){-1}), 0,
                          ints(p, flat, rows),
                          abl_tensor_full(scope, ABL_DTYPE_F32, 1, &rows, -1.0));
    abl_tensor *grad = abl_tensor_zeros(scope, ABL_DTYPE_F32, 3, all);
    abl_tensor_add_(scope, abl_tensor_slice(scope, grad, 1, 0, o->seq - 1),
                    abl_tensor_view(scope, probabilities, 3, shape), 1.0 / (double)rows);
    return grad;
}

/* A weighted sum of logits at the last position. */
static abl_tensor *logit_sum_backward(abl_hooked_pass *p) {
    abl_scope *scope = p->scope;
    const abl_forward_options *o = p->options;
    const abl_scalar *scalar = &o->scalar;
    const int64_t shape[] = {o->batch, scalar->width};
    const int64_t all[] = {o->batch, o->seq, p->config->d_vocab_out};
    abl_tensor *columns = abl_tensor_from_host(scope, ABL_DTYPE_I64, 2, shape, scalar->columns);
    abl_tensor *weights = abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, shape, scalar->weights);
    abl_tensor *last = abl_tensor_select(scope, p->all_logits, 1, o->seq - 1);
    abl_tensor *each = abl_tensor_mul(scope, abl_tensor_gather(scope, last, 1, columns), weights);
    p->captures->result->scalar =
        abl_tensor_item(scope, abl_tensor_sum(scope, each, NULL, 0, false));
    abl_tensor *grad = abl_tensor_zeros(scope, ABL_DTYPE_F32, 3, all);
    for (int64_t row = 0; row < o->batch; row++) {
        abl_tensor *one = abl_tensor_select(scope, grad, 0, row);
        abl_tensor_index_add_(scope, abl_tensor_select(scope, one, 0, o->seq - 1), 0,
                              abl_tensor_select(scope, columns, 0, row),
                              abl_tensor_select(scope, weights, 0, row));
    }
    return grad;
}

/* The caller's, of the last position's logits. */
static abl_tensor *callback_backward(abl_hooked_pass *p) {
    abl_scope *scope = p->scope;
    const abl_forward_options *o = p->options;
    const int64_t all[] = {o->batch, o->seq, p->config->d_vocab_out};
    abl_tensor *last = abl_tensor_select(scope, p->all_logits, 1, o->seq - 1);
    abl_tensor *given =
        abl_scope_failed(scope)
            ? NULL
            : o->scalar.loss_cb(scope, abl_tensor_contiguous(scope, last), o->scalar.loss_data);
    abl_tensor *grad = abl_tensor_zeros(scope, ABL_DTYPE_F32, 3, all);
    abl_tensor_copy_into(scope, abl_tensor_select(scope, grad, 1, o->seq - 1), given);
    return grad;
}

static abl_tensor *scalar_backward(abl_hooked_pass *p) {
    switch (p->options->scalar.kind) {
    case ABL_SCALAR_LOGIT_SUM:
        return logit_sum_backward(p);
    case ABL_SCALAR_CALLBACK:
        return callback_backward(p);
    case ABL_SCALAR_LOSS:
        break;
    }
    return loss_backward(p);
}

static abl_tensor *end_backward(abl_hooked_pass *p) {
    const abl_hooked_norm_place place = abl_hooked_norm_at(ABL_BLOCK_NORM_FINAL, -1, 0);
    abl_tensor *grad = at(p, ABL_HOOK_UNEMBED, -1, scalar_backward(p));
    grad = abl_block_unembed_backward_normed(p->scope, p->model, grad);
    return norm_backward(p, &place, &p->norm_final, grad);
}

/* ---- MLP --------------------------------------------------------------------------------- */

/* From the gradient at the MLP's output to the one at the stream before it. */
static abl_tensor *mlp_backward(abl_hooked_pass *p, int layer, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    const abl_block_weights *block = abl_model_get_block(p->model, layer);
    abl_hooked_layer *saved = &p->layers[layer];
    abl_tensor_act act = abl_model_act(p->model);
    if (p->patch != NULL) {
        grad = abl_tensor_add(scope, grad,
                              p->patch->mlp_backward_cb(p->patch->user_data, scope, layer));
    }
    grad = at(p, ABL_HOOK_MLP_OUT, layer, grad);
    grad = abl_tensor_linear(scope, grad, transposed(p, block->w_out), NULL);
    grad = at(p, ABL_HOOK_MLP_POST, layer, grad);
    if (p->config->gated) {
        const int64_t d_mlp = p->config->d_mlp;
        const int64_t shape[] = {p->options->batch, p->options->seq, 2 * d_mlp};
        abl_tensor *both = abl_tensor_empty(scope, ABL_DTYPE_F32, 3, shape);
        abl_tensor_gate_backward(scope, act, grad, saved->mlp_pre, saved->mlp_up, both);
        abl_tensor *pre = abl_tensor_slice(scope, both, -1, 0, d_mlp);
        abl_tensor *up = abl_tensor_slice(scope, both, -1, d_mlp, 2 * d_mlp);
        const abl_tensor *parts[] = {at(p, ABL_HOOK_MLP_PRE, layer, pre),
                                     at(p, ABL_HOOK_MLP_PRE_LINEAR, layer, up)};
        grad = abl_tensor_cat(scope, parts, 2, 2);
    } else {
        grad = abl_tensor_activate_backward(scope, act, grad, saved->mlp_pre);
        grad = at(p, ABL_HOOK_MLP_PRE, layer, grad);
    }
    grad = abl_tensor_linear(scope, grad, transposed(p, block->w_in), NULL);
    const abl_hooked_norm_place place = abl_hooked_norm_at(ABL_BLOCK_NORM_2, layer, 0);
    grad = at(p, ABL_HOOK_MLP_IN, layer, norm_backward(p, &place, &saved->norm2, grad));
    return !abl_forward_patches_inputs(p->patch)
               ? grad
               : p->patch->mlp_input_backward_cb(p->patch->user_data, scope, layer, grad);
}

/* ---- Attention --------------------------------------------------------------------------- */

/* From the gradient at the attention's output to the one at z. */
static abl_tensor *results_backward(abl_hooked_pass *p, int layer, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    const abl_model_config *c = p->config;
    const int64_t z_shape[] = {p->options->batch, p->options->seq, c->n_heads, c->d_head};
    abl_tensor *w_o = abl_model_get_block(p->model, layer)->w_o;
    abl_tensor *emitted =
        p->patch == NULL ? NULL : p->patch->heads_backward_cb(p->patch->user_data, scope, layer);
    if (!abl_hooked_by_head(p, layer) && emitted == NULL) {
        grad = abl_tensor_linear(scope, grad, transposed(p, w_o), NULL);
        return abl_tensor_view(scope, grad, 4, z_shape);
    }
    grad = abl_tensor_expand(scope, abl_tensor_unsqueeze(scope, grad, 2), 4,
                             (const int64_t[]){-1, -1, c->n_heads, -1});
    grad = emitted == NULL ? grad : abl_tensor_add(scope, grad, emitted);
    grad = at(p, ABL_HOOK_RESULT, layer, grad);
    abl_tensor *w =
        abl_tensor_view(scope, w_o, 3, (const int64_t[]){c->n_heads, c->d_head, c->d_model});
    return abl_hooked_head_products(p->scope, grad, abl_tensor_transpose(scope, w, 1, 2));
}

/* (batch, kv head, query head of it, pos, d_head), summed over a group, as k and v are laid out. */
static abl_tensor *ungrouped_sum(abl_hooked_pass *p, const abl_tensor *x) {
    const int64_t group[] = {2};
    abl_tensor *sum = abl_tensor_sum(p->scope, x, group, 1, false);
    return abl_tensor_contiguous(
        p->scope, abl_tensor_permute(p->scope, sum, 4, (const int64_t[]){0, 2, 1, 3}));
}

/* From the gradient at z to those at what attention read. */
static abl_qkv mix_backward(abl_hooked_pass *p, int layer, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    const abl_model_config *c = p->config;
    const abl_hooked_layer *saved = &p->layers[layer];
    const int64_t batch = p->options->batch;
    const int64_t seq = p->options->seq;
    const int64_t kv = p->shape.kv_heads;
    const int64_t keys = p->shape.prefix + seq;
    const int64_t heads_shape[] = {batch, c->n_heads, seq, keys};
    const int64_t group_shape[] = {batch, kv, c->n_heads / kv, seq, keys};
    const int64_t z_shape[] = {batch, seq, c->n_heads, c->d_head};
    abl_tensor *z = abl_hooked_grouped(p, grad);
    abl_tensor *pattern = abl_tensor_reshape(scope, saved->pattern, 5, group_shape);
    abl_qkv out = {.v = ungrouped_sum(
                       p, abl_tensor_matmul(scope, abl_tensor_transpose(scope, pattern, 3, 4), z))};
    abl_tensor *g = abl_tensor_matmul(
        scope, z, abl_tensor_transpose(scope, abl_hooked_keys(p, saved->v), 3, 4));
    g = at(p, ABL_HOOK_PATTERN, layer, abl_tensor_reshape(scope, g, 4, heads_shape));
    g = abl_tensor_softmax_backward(scope, g, saved->softmaxed, -1);
    g = at(p, ABL_HOOK_ATTN_SCORES, layer, g);
    g = abl_tensor_scale(scope, g, abl_model_attn_scale(p->model));
    g = abl_tensor_reshape(scope, g, 5, group_shape);
    abl_tensor *q = abl_tensor_matmul(scope, g, abl_hooked_keys(p, saved->k));
    q = abl_tensor_permute(scope, q, 5, (const int64_t[]){0, 3, 1, 2, 4});
    out.q = abl_tensor_reshape(scope, q, 4, z_shape);
    out.k = ungrouped_sum(p, abl_tensor_matmul(scope, abl_tensor_transpose(scope, g, 3, 4),
                                               abl_hooked_grouped(p, saved->q)));
    return out;
}

/* The gradient at the normed input of q, k or v, one a head. */
static abl_tensor *project_backward(abl_hooked_pass *p, int layer, int which,
                                    const abl_tensor *grad) {
    if (grad == NULL) {
        return NULL;
    }
    abl_tensor *w = abl_hooked_head_weights(p, layer, which, abl_tensor_size(grad, 2), NULL);
    return abl_hooked_head_products(p->scope, grad, abl_tensor_transpose(p->scope, w, 1, 2));
}

/* Gradients at inputs of heads, (batch, pos, heads, d_model), to the one at the stream. */
static abl_tensor *inputs_backward(abl_hooked_pass *p, int layer, abl_tensor *grad) {
    return !abl_forward_patches_inputs(p->patch)
               ? sum_heads(p, grad)
               : p->patch->heads_input_backward_cb(p->patch->user_data, p->scope, layer, grad);
}

static abl_tensor *projection_backward(abl_hooked_pass *p, int layer, abl_qkv grad) {
    abl_scope *scope = p->scope;
    switch (p->layers[layer].inputs) {
    case ABL_INPUTS_SPLIT: {
        abl_tensor *q = norm1_backward(p, layer, 0, project_backward(p, layer, 0, grad.q));
        abl_tensor *k = norm1_backward(p, layer, 1, project_backward(p, layer, 1, grad.k));
        abl_tensor *v = norm1_backward(p, layer, 2, project_backward(p, layer, 2, grad.v));
        const abl_tensor *parts[] = {at(p, ABL_HOOK_Q_INPUT, layer, q),
                                     at(p, ABL_HOOK_K_INPUT, layer, k),
                                     at(p, ABL_HOOK_V_INPUT, layer, v)};
        return inputs_backward(p, layer, abl_tensor_cat(scope, parts, 3, 2));
    }
    case ABL_INPUTS_JOINED: {
        abl_tensor *sum = abl_tensor_add(scope, project_backward(p, layer, 0, grad.q),
                                         project_backward(p, layer, 1, grad.k));
        sum = abl_tensor_add(scope, sum, project_backward(p, layer, 2, grad.v));
        sum = norm1_backward(p, layer, 0, sum);
        return inputs_backward(p, layer, at(p, ABL_HOOK_ATTN_IN, layer, sum));
    }
    case ABL_INPUTS_SHARED:
        break;
    }
    const abl_model_config *c = p->config;
    const int64_t width = (c->n_heads + 2LL * c->n_kv_heads) * c->d_head;
    const abl_tensor *parts[] = {grad.q, grad.k, grad.v};
    abl_tensor *all = abl_tensor_cat(scope, parts, 3, 2);
    all = abl_tensor_reshape(scope, all, 3,
                             (const int64_t[]){p->options->batch, p->options->seq, width});
    abl_tensor *w_qkv = abl_model_get_block(p->model, layer)->w_qkv;
    return norm1_backward(p, layer, 0, abl_tensor_linear(scope, all, transposed(p, w_qkv), NULL));
}

/* The keys and values of a prefix have no gradient; and what is unrotated is written to. */
static abl_qkv own_part(abl_hooked_pass *p, abl_qkv grad) {
    const int64_t first = p->shape.prefix;
    const int64_t end = first + p->options->seq;
    return (abl_qkv){
        .q = abl_tensor_clone(p->scope, grad.q),
        .k = abl_tensor_clone(p->scope, abl_tensor_slice(p->scope, grad.k, 1, first, end)),
        .v = abl_tensor_slice(p->scope, grad.v, 1, first, end)};
}

static abl_tensor *attention_backward(abl_hooked_pass *p, int layer, abl_tensor *grad) {
    grad = at(p, ABL_HOOK_ATTN_OUT, layer, grad);
    grad = at(p, ABL_HOOK_Z, layer, results_backward(p, layer, grad));
    abl_qkv g = mix_backward(p, layer, grad);
    if (p->config->positional == ABL_POSITIONAL_ROPE) {
        g.q = at(p, ABL_HOOK_ROT_Q, layer, g.q);
        g.k = at(p, ABL_HOOK_ROT_K, layer, g.k);
    }
    g = own_part(p, g);
    abl_prefix_unrotate_(p->scope, p->model, p->options->prefix, g);
    g.v = at(p, ABL_HOOK_V, layer, g.v);
    g.k = at(p, ABL_HOOK_K, layer, g.k);
    g.q = at(p, ABL_HOOK_Q, layer, g.q);
    return projection_backward(p, layer, g);
}

/* ---- The whole --------------------------------------------------------------------------- */

/* run_node()'s backward. */
static abl_tensor *node_backward(abl_hooked_pass *p, abl_hook_point point, int layer,
                                 abl_tensor *grad) {
    const abl_forward_patch *patch = p->patch;
    bool mid = point == ABL_HOOK_RESID_MID;
    abl_tensor *emitted =
        patch == NULL || patch->node_emitted_backward_cb == NULL
            ? NULL
            : patch->node_emitted_backward_cb(patch->user_data, p->scope, layer, mid);
    grad = emitted == NULL ? grad : abl_tensor_add(p->scope, grad, emitted);
    grad = at(p, point, layer, grad);
    return patch == NULL ? grad
                         : patch->node_backward_cb(patch->user_data, p->scope, layer, mid, grad);
}

static abl_tensor *block_backward(abl_hooked_pass *p, int layer, abl_tensor *grad) {
    abl_scope *scope = p->scope;
    grad = node_backward(p, ABL_HOOK_RESID_POST, layer, grad);
    abl_tensor *from_mlp = p->config->attn_only ? NULL : mlp_backward(p, layer, grad);
    if (p->config->attn_only) {
        grad = abl_tensor_add(scope, grad, attention_backward(p, layer, grad));
    } else if (p->config->parallel_attn_mlp) {
        abl_tensor *from_attention = attention_backward(p, layer, grad);
        grad = abl_tensor_add(scope, abl_tensor_add(scope, grad, from_mlp), from_attention);
    } else {
        grad = node_backward(p, ABL_HOOK_RESID_MID, layer, abl_tensor_add(scope, grad, from_mlp));
        grad = abl_tensor_add(scope, grad, attention_backward(p, layer, grad));
    }
    if (p->patch != NULL && layer == 0) {
        grad = abl_tensor_add(scope, grad, p->patch->start_backward_cb(p->patch->user_data, scope));
    }
    return at(p, ABL_HOOK_RESID_PRE, layer, grad);
}

void abl_hooked_backward(abl_hooked_pass *p) {
    abl_tensor *grad = end_backward(p);
    const int last = p->config->n_layers - 1;
    for (int layer = last; layer >= 0 && !abl_forward_ends(p->options, p->scope, layer); layer--) {
        size_t mark = abl_scope_mark(p->scope);
        grad = block_backward(p, layer, grad);
        abl_scope_rewind(p->scope, mark, &grad, 1);
    }
    if (abl_model_get_weights(p->model)->pos_embed != NULL) {
        (void)at(p, ABL_HOOK_POS_EMBED, -1, grad);
    }
    (void)at(p, ABL_HOOK_EMBED, -1, grad);
}
