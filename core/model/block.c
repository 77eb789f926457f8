/* SPDX-License-Identifier: Apache-2.0
 *
 * The mathematics of one block, an operation a line. A decoder block is, with x the residual:
 *
 *   q, k, v = norm1(x) Wqkv + b        attention: z_h = softmax(q_h k_g^T / sqrt(d)) v_g,  g = h /
 *   G x      += sum_h z_h W_O,h + b_O
 *   x      += act(norm2(x) W_in + b) W_out + b_out          gated: (act(gate) * up) W_out
 *
 * Biases that a family lacks are NULL and cost nothing. Nothing here decides what is captured. */
#include "core/model/block.h"

#include "core/base/assert.h"
#include "core/model/model_internal.h"

#include <math.h>

/* Columns of the unembedding in one product: the block of the weight and of the logits then stay in
 * cache between the product's passes (about 1.6x on a vocabulary of 50k). */
#define UNEMBED_COLUMNS 3144

abl_tensor_norm_kind abl_model_norm_kind(const abl_model *model) {
    switch (model->config.norm) {
    case ABL_NORM_LAYER:
        return ABL_TENSOR_NORM_LAYER;
    case ABL_NORM_RMS:
        return ABL_TENSOR_NORM_RMS;
    case ABL_NORM_NONE:
        break;
    }
    return ABL_TENSOR_NORM_NONE;
}

abl_tensor_act abl_model_act(const abl_model *model) {
    switch (model->config.activation) {
    case ABL_ACTIVATION_GELU:
        return ABL_TENSOR_ACT_GELU;
    case ABL_ACTIVATION_GELU_NEW:
        return ABL_TENSOR_ACT_GELU_NEW;
    case ABL_ACTIVATION_RELU:
        return ABL_TENSOR_ACT_RELU;
    case ABL_ACTIVATION_SILU:
        return ABL_TENSOR_ACT_SILU;
    }
    return ABL_TENSOR_ACT_GELU;
}

double abl_model_attn_scale(const abl_model *model) {
    double divisor = model->config.attn_divisor;
    return 1.0 / (divisor > 0 ? divisor : sqrt((double)model->config.d_head));
}

abl_tensor_sees abl_model_sees(const abl_model *model) {
    switch (model->config.attention) {
    case ABL_ATTENTION_CAUSAL:
        return ABL_TENSOR_SEES_PAST;
    case ABL_ATTENTION_BIDIRECTIONAL:
        return ABL_TENSOR_SEES_ALL;
    case ABL_ATTENTION_SELF:
        break;
    }
    return ABL_TENSOR_SEES_SELF;
}

abl_tensor *abl_block_in_float32(abl_scope *scope, abl_tensor *weight) {
    return (weight == NULL)
               ? NULL
               : abl_tensor_to_dtype(scope, abl_scope_borrow(scope, weight), ABL_DTYPE_F32);
}

int64_t abl_block_widened_bytes(const abl_model *model) {
    const abl_model_config *c = &model->config;
    if (model->dtype == ABL_DTYPE_F32) {
        return 0;
    }
    const int64_t widths[] = {(c->n_heads + 2LL * c->n_kv_heads) * c->d_head,
                              (c->gated ? 2LL : 1LL) * c->d_mlp, c->d_vocab_out};
    int64_t widest = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(widths); i++) {
        widest = (widths[i] > widest) ? widths[i] : widest;
    }
    return widest * c->d_model * (int64_t)sizeof(float);
}

/* ---- Embedding --------------------------------------------------------------------------- */

abl_tensor *abl_block_tokens(abl_scope *scope, const int32_t *tokens, int64_t batch, int64_t seq) {
    const int64_t shape[] = {batch, seq};
    abl_tensor *ids = abl_tensor_from_host(scope, ABL_DTYPE_I32, 2, shape, tokens);
    return abl_tensor_to_dtype(scope, ids, ABL_DTYPE_I64);
}

abl_tensor *abl_block_embed(abl_scope *scope, const abl_model *model, abl_dtype dtype,
                            const abl_tensor *tokens, int64_t pos_start, abl_tensor **ret_embed,
                            abl_tensor **ret_pos) {
    if (tokens == NULL) {
        return NULL;
    }
    const abl_model_weights *weights = &model->weights;
    abl_tensor *embed = abl_tensor_embed(scope, weights->embed, tokens);
    embed = abl_tensor_to_dtype(scope, embed, dtype);
    abl_tensor *positions = NULL;
    abl_tensor *sum = embed;
    if (weights->pos_embed != NULL) {
        int64_t pos_end = pos_start + abl_tensor_size(tokens, 1);
        positions = abl_tensor_slice(scope, weights->pos_embed, 0, pos_start, pos_end);
        positions = abl_tensor_to_dtype(scope, positions, dtype);
        sum = abl_tensor_add(scope, embed, positions);
    }
    if (ret_embed != NULL) {
        *ret_embed = embed;
    }
    if (ret_pos != NULL) {
        *ret_pos = positions;
    }
    return sum;
}

/* ---- Norms ------------------------------------------------------------------------------- */

static void norm_weights(const abl_model *model, int layer, abl_block_norm which,
                         abl_tensor **ret_w, abl_tensor **ret_b) {
    switch (which) {
    case ABL_BLOCK_NORM_1:
        *ret_w = abl_model_get_block(model, layer)->ln1_w;
        *ret_b = abl_model_get_block(model, layer)->ln1_b;
        return;
    case ABL_BLOCK_NORM_2:
        *ret_w = abl_model_get_block(model, layer)->ln2_w;
        *ret_b = abl_model_get_block(model, layer)->ln2_b;
        return;
    case ABL_BLOCK_NORM_FINAL:
        *ret_w = model->weights.ln_final_w;
        *ret_b = model->weights.ln_final_b;
        return;
    }
}

abl_tensor *abl_block_norm_forward(abl_scope *scope, const abl_model *model, int layer,
                                   abl_block_norm which, const abl_tensor *x, abl_tensor **ret_xhat,
                                   abl_tensor **ret_rstd) {
    abl_tensor *w = NULL;
    abl_tensor *b = NULL;
    norm_weights(model, layer, which, &w, &b);
    return abl_tensor_norm(scope, abl_model_norm_kind(model), x, w, b, model->config.norm_eps,
                           ret_xhat, ret_rstd);
}

abl_tensor *abl_block_norm_backward(abl_scope *scope, const abl_model *model, int layer,
                                    abl_block_norm which, const abl_tensor *grad,
                                    const abl_tensor *xhat, const abl_tensor *rstd) {
    abl_tensor *w = NULL;
    abl_tensor *b = NULL;
    norm_weights(model, layer, which, &w, &b);
    const abl_tensor *at_xhat = (w == NULL) ? grad : abl_tensor_mul(scope, grad, w);
    return abl_tensor_norm_backward(scope, abl_model_norm_kind(model), at_xhat, xhat, rstd);
}

/* ---- Attention --------------------------------------------------------------------------- */

abl_qkv abl_block_qkv_views(abl_scope *scope, const abl_model *model, const abl_tensor *qkv) {
    if (qkv == NULL) {
        return (abl_qkv){.q = NULL};
    }
    const abl_model_config *c = &model->config;
    const int64_t all = c->n_heads + 2LL * c->n_kv_heads;
    const int64_t shape[] = {abl_tensor_size(qkv, 0), abl_tensor_size(qkv, 1), all, c->d_head};
    abl_tensor *heads = abl_tensor_view(scope, qkv, 4, shape);
    const int64_t k_start = c->n_heads;
    const int64_t v_start = c->n_heads + c->n_kv_heads;
    return (abl_qkv){.q = abl_tensor_slice(scope, heads, 2, 0, k_start),
                     .k = abl_tensor_slice(scope, heads, 2, k_start, v_start),
                     .v = abl_tensor_slice(scope, heads, 2, v_start, all)};
}

/* (batch, pos, heads * d_head) cut into heads. */
static abl_tensor *as_heads(abl_scope *scope, const abl_tensor *x, int64_t heads, int64_t d_head) {
    if (x == NULL) {
        return NULL;
    }
    const int64_t shape[] = {abl_tensor_size(x, 0), abl_tensor_size(x, 1), heads, d_head};
    return abl_tensor_view(scope, x, 4, shape);
}

static abl_tensor *optional_slice(abl_scope *scope, const abl_tensor *x, int64_t start,
                                  int64_t end) {
    return (x == NULL) ? NULL : abl_tensor_slice(scope, x, 0, start, end);
}

/* Queries of the last q_pos positions only; keys and values of all. */
static abl_qkv qkv_last(abl_scope *scope, const abl_model *model, const abl_block_weights *block,
                        const abl_tensor *normed, int64_t q_pos) {
    const abl_model_config *c = &model->config;
    const int64_t q_end = (int64_t)c->n_heads * c->d_head;
    const int64_t v_end = q_end + 2LL * c->n_kv_heads * c->d_head;
    const int64_t pos = abl_tensor_size(normed, 1);
    abl_tensor *q_in = abl_tensor_slice(scope, normed, 1, pos - q_pos, pos);
    abl_tensor *w_q = abl_tensor_slice(scope, block->w_qkv, 1, 0, q_end);
    abl_tensor *w_kv = abl_tensor_slice(scope, block->w_qkv, 1, q_end, v_end);
    abl_tensor *q =
        abl_tensor_linear(scope, q_in, w_q, optional_slice(scope, block->b_qkv, 0, q_end));
    abl_tensor *kv =
        abl_tensor_linear(scope, normed, w_kv, optional_slice(scope, block->b_qkv, q_end, v_end));
    abl_tensor *kv_heads = as_heads(scope, kv, 2LL * c->n_kv_heads, c->d_head);
    return (abl_qkv){.q = as_heads(scope, q, c->n_heads, c->d_head),
                     .k = abl_tensor_slice(scope, kv_heads, 2, 0, c->n_kv_heads),
                     .v = abl_tensor_slice(scope, kv_heads, 2, c->n_kv_heads, 2LL * c->n_kv_heads)};
}

abl_qkv abl_block_qkv(abl_scope *scope, const abl_model *model, int layer, const abl_tensor *normed,
                      int64_t q_pos) {
    if (normed == NULL) {
        return (abl_qkv){.q = NULL};
    }
    const abl_block_weights *block = abl_model_get_block(model, layer);
    if (q_pos > 0 && q_pos < abl_tensor_size(normed, 1)) {
        return qkv_last(scope, model, block, normed, q_pos);
    }
    return abl_block_qkv_views(scope, model,
                               abl_tensor_linear(scope, normed, block->w_qkv, block->b_qkv));
}

abl_tensor *abl_block_head_weights(abl_scope *scope, const abl_model *model, int layer, int which,
                                   abl_tensor **ret_bias) {
    ABL_ASSERT(which >= 0 && which <= 2);
    const abl_model_config *c = &model->config;
    const abl_block_weights *block = abl_model_get_block(model, layer);
    const int64_t starts[] = {0, c->n_heads, (int64_t)c->n_heads + c->n_kv_heads};
    const int64_t heads = (which == 0) ? c->n_heads : c->n_kv_heads;
    const int64_t begin = starts[which] * c->d_head;
    const int64_t end = begin + heads * c->d_head;
    if (ret_bias != NULL) {
        abl_tensor *bias = optional_slice(scope, block->b_qkv, begin, end);
        *ret_bias = (bias == NULL)
                        ? NULL
                        : abl_tensor_view(scope, bias, 2, (const int64_t[]){heads, c->d_head});
    }
    abl_tensor *w = abl_tensor_slice(scope, block->w_qkv, 1, begin, end);
    w = abl_tensor_view(scope, w, 3, (const int64_t[]){c->d_model, heads, c->d_head});
    return abl_tensor_permute(scope, w, 3, (const int64_t[]){1, 0, 2});
}

abl_tensor *abl_block_rotate(abl_scope *scope, const abl_model *model, abl_tensor *x,
                             int64_t pos_start, bool inverse) {
    const abl_model_weights *weights = &model->weights;
    if (weights->rope_cos == NULL || x == NULL) {
        return x;
    }
    int64_t pos_end = pos_start + abl_tensor_size(x, 1);
    return abl_tensor_rope(
        scope, x, abl_tensor_slice(scope, weights->rope_cos, 0, pos_start, pos_end),
        abl_tensor_slice(scope, weights->rope_sin, 0, pos_start, pos_end), inverse);
}

abl_tensor *abl_block_attention(abl_scope *scope, const abl_model *model, const abl_tensor *q,
                                const abl_tensor *k, const abl_tensor *v, abl_tensor **ret_scores,
                                abl_tensor **ret_pattern) {
    return abl_tensor_attention(scope, abl_model_sees(model), q, k, v, abl_model_attn_scale(model),
                                ret_scores, ret_pattern);
}

void abl_block_attention_backward(abl_scope *scope, const abl_model *model,
                                  const abl_tensor *grad_z, const abl_qkv *qkv,
                                  const abl_tensor *pattern, const abl_attention_grads *out_grads) {
    abl_tensor_attention_backward(scope, abl_model_sees(model), grad_z, qkv->q, qkv->k, qkv->v,
                                  pattern, abl_model_attn_scale(model), out_grads);
}

abl_tensor *abl_block_attn_out(abl_scope *scope, const abl_model *model, int layer,
                               const abl_tensor *z) {
    if (z == NULL) {
        return NULL;
    }
    const abl_model_config *c = &model->config;
    const abl_block_weights *block = abl_model_get_block(model, layer);
    const int64_t width = (int64_t)c->n_heads * c->d_head;
    int64_t shape[ABL_DIMENSION_COUNT_MAX];
    int rank = abl_tensor_rank(z) - 1;
    for (int i = 0; i < rank; i++) {
        shape[i] = abl_tensor_size(z, i);
    }
    shape[rank - 1] = width;
    return abl_tensor_linear(scope, abl_tensor_reshape(scope, z, rank, shape), block->w_o,
                             block->b_o);
}

abl_tensor *abl_block_head_results(abl_scope *scope, const abl_model *model, int layer,
                                   const abl_tensor *z, abl_tensor *out) {
    if (z == NULL) {
        return NULL;
    }
    const abl_model_config *c = &model->config;
    const abl_block_weights *block = abl_model_get_block(model, layer);
    int64_t shape[ABL_DIMENSION_COUNT_MAX];
    int rank = abl_tensor_rank(z);
    for (int i = 0; i < rank; i++) {
        shape[i] = abl_tensor_size(z, i);
    }
    shape[rank - 1] = c->d_model;
    if (out == NULL) {
        out = abl_tensor_empty(scope, abl_tensor_dtype(z), rank, shape);
    }
    /* As one batched product over heads: (H, rows, d_head) (H, d_head, D). */
    abl_tensor *w_o =
        abl_tensor_view(scope, block->w_o, 3, (const int64_t[]){c->n_heads, c->d_head, c->d_model});
    abl_tensor *rows =
        abl_tensor_reshape(scope, z, 3, (const int64_t[]){-1, c->n_heads, c->d_head});
    rows = abl_tensor_permute(scope, rows, 3, (const int64_t[]){1, 0, 2});
    abl_tensor *by_head =
        abl_tensor_view(scope, out, 3, (const int64_t[]){-1, c->n_heads, c->d_model});
    by_head = abl_tensor_permute(scope, by_head, 3, (const int64_t[]){1, 0, 2});
    abl_tensor_gemm_into(scope, by_head, rows, w_o, 0, 1);
    return out;
}

/* ---- MLP --------------------------------------------------------------------------------- */

abl_tensor *abl_block_mlp(abl_scope *scope, const abl_model *model, int layer,
                          const abl_tensor *normed, abl_mlp_saved *ret_saved) {
    const abl_model_config *c = &model->config;
    const abl_block_weights *block = abl_model_get_block(model, layer);
    abl_tensor_act act = abl_model_act(model);
    abl_tensor *pre = NULL;
    abl_tensor *up = NULL;
    abl_tensor *post = NULL;
    if (c->gated) {
        pre = abl_tensor_linear(scope, normed, block->w_in, block->b_in);
        up = abl_tensor_slice(scope, pre, -1, c->d_mlp, 2LL * c->d_mlp);
        pre = abl_tensor_slice(scope, pre, -1, 0, c->d_mlp);
        post = abl_tensor_gate(scope, act, pre, up);
    } else {
        post = abl_tensor_linear_activate(scope, act, normed, block->w_in, block->b_in,
                                          ret_saved != NULL ? &pre : NULL);
    }
    if (ret_saved != NULL) {
        *ret_saved = (abl_mlp_saved){.pre = pre, .up = up, .post = post};
    }
    return abl_tensor_linear(scope, post, block->w_out, block->b_out);
}

abl_tensor *abl_block_mlp_backward(abl_scope *scope, const abl_model *model, int layer,
                                   const abl_tensor *grad, const abl_mlp_saved *saved) {
    const abl_model_config *c = &model->config;
    const abl_block_weights *block = abl_model_get_block(model, layer);
    abl_tensor_act act = abl_model_act(model);
    abl_tensor *w_out_t = abl_tensor_transpose(scope, block->w_out, 0, 1);
    abl_tensor *w_in_t = abl_tensor_transpose(scope, block->w_in, 0, 1);
    abl_tensor *grad_post = abl_tensor_linear(scope, grad, w_out_t, NULL);
    if (grad_post == NULL) {
        return NULL;
    }
    abl_tensor *grad_pre = NULL;
    if (c->gated) {
        int64_t shape[ABL_DIMENSION_COUNT_MAX];
        int rank = abl_tensor_rank(grad_post);
        for (int i = 0; i < rank; i++) {
            shape[i] = abl_tensor_size(grad_post, i);
        }
        shape[rank - 1] = 2LL * c->d_mlp;
        grad_pre = abl_tensor_empty(scope, abl_tensor_dtype(grad_post), rank, shape);
        abl_tensor_gate_backward(scope, act, grad_post, saved->pre, saved->up, grad_pre);
    } else {
        grad_pre = abl_tensor_activate_backward(scope, act, grad_post, saved->pre);
    }
    return abl_tensor_linear(scope, grad_pre, w_in_t, NULL);
}

/* ---- Unembedding ------------------------------------------------------------------------- */

abl_tensor *abl_block_unembed(abl_scope *scope, const abl_model *model, const abl_tensor *residual,
                              abl_tensor **ret_xhat, abl_tensor **ret_rstd) {
    const abl_model_weights *weights = &model->weights;
    abl_tensor *normed =
        abl_block_norm_forward(scope, model, 0, ABL_BLOCK_NORM_FINAL, residual, ret_xhat, ret_rstd);
    return abl_block_unembed_normed(scope, model, normed, weights->unembed, weights->b_unembed);
}

abl_tensor *abl_block_unembed_normed(abl_scope *scope, const abl_model *model,
                                     const abl_tensor *normed, const abl_tensor *unembed,
                                     const abl_tensor *bias) {
    if (normed == NULL) {
        return NULL;
    }
    const int64_t vocab = model->config.d_vocab_out;
    int64_t shape[ABL_DIMENSION_COUNT_MAX];
    int rank = abl_tensor_rank(normed);
    for (int i = 0; i < rank; i++) {
        shape[i] = abl_tensor_size(normed, i);
    }
    shape[rank - 1] = vocab;
    const int64_t rows_shape[] = {-1, model->config.d_model};
    const int64_t flat_shape[] = {-1, vocab};
    abl_tensor *rows = abl_tensor_reshape(scope, normed, 2, rows_shape);
    abl_tensor *logits = abl_tensor_empty(scope, abl_tensor_dtype(normed), rank, shape);
    abl_tensor *flat = abl_tensor_view(scope, logits, 2, flat_shape);
    for (int64_t start = 0; start < vocab; start += UNEMBED_COLUMNS) {
        int64_t end = (start + UNEMBED_COLUMNS < vocab) ? start + UNEMBED_COLUMNS : vocab;
        abl_tensor_linear_into(scope, abl_tensor_slice(scope, flat, 1, start, end), rows,
                               abl_tensor_slice(scope, unembed, 1, start, end),
                               optional_slice(scope, bias, start, end));
    }
    return abl_tensor_to_dtype(scope, logits, ABL_DTYPE_F32);
}

abl_tensor *abl_block_unembed_backward(abl_scope *scope, const abl_model *model,
                                       const abl_tensor *grad_logits, const abl_tensor *xhat,
                                       const abl_tensor *rstd) {
    abl_tensor *grad = abl_block_unembed_backward_normed(scope, model, grad_logits);
    return abl_block_norm_backward(scope, model, 0, ABL_BLOCK_NORM_FINAL, grad, xhat, rstd);
}

abl_tensor *abl_block_unembed_backward_normed(abl_scope *scope, const abl_model *model,
                                              const abl_tensor *grad_logits) {
    if (grad_logits == NULL) {
        return NULL;
    }
    /* What all logits' gradients share meets an unembedding whose sum over them is 0, if it was
     * centred and not narrowed since. In mse it is a hundred times the rest, so it goes before the
     * product, which would round it. */
    if (model->processing.center_unembed && model->dtype == ABL_DTYPE_F32) {
        const int64_t last[] = {abl_tensor_rank(grad_logits) - 1};
        grad_logits =
            abl_tensor_sub(scope, grad_logits, abl_tensor_mean(scope, grad_logits, last, 1, true));
    }
    abl_tensor *unembed_t = abl_tensor_transpose(scope, model->weights.unembed, 0, 1);
    return abl_tensor_linear(scope, grad_logits, unembed_t, NULL);
}

abl_tensor *abl_block_unembed_backward_columns(abl_scope *scope, const abl_model *model,
                                               const abl_tensor *columns, const abl_tensor *grad,
                                               const abl_tensor *xhat, const abl_tensor *rstd) {
    if (columns == NULL || grad == NULL) {
        return NULL;
    }
    /* rows (n, D) of the transposed unembedding a row, weighted and summed: (rows, 1, n) (rows, n,
     * D). */
    abl_tensor *unembed_t = abl_tensor_transpose(scope, model->weights.unembed, 0, 1);
    abl_tensor *picked = abl_tensor_embed(scope, unembed_t, columns);
    abl_tensor *weighted = abl_tensor_matmul(scope, abl_tensor_unsqueeze(scope, grad, 1), picked);
    return abl_block_norm_backward(scope, model, 0, ABL_BLOCK_NORM_FINAL,
                                   abl_tensor_squeeze(scope, weighted, 1), xhat, rstd);
}

/* ---- Folding ----------------------------------------------------------------------------- */

void abl_block_fold_qkv(abl_scope *scope, const abl_model *model, int layer, abl_tensor **ret_w,
                        abl_tensor **ret_b) {
    abl_block_weights folded = *abl_model_get_block(model, layer);
    if (!model->processing.fold_norm) {
        folded.ln1_w = abl_block_in_float32(scope, folded.ln1_w);
        folded.ln1_b = abl_block_in_float32(scope, folded.ln1_b);
        folded.w_qkv = abl_block_in_float32(scope, folded.w_qkv);
        folded.b_qkv = abl_block_in_float32(scope, folded.b_qkv);
        abl_model_fold_norm(scope, model, &folded.ln1_w, &folded.ln1_b, &folded.w_qkv,
                            &folded.b_qkv);
    }
    *ret_w = folded.w_qkv;
    *ret_b = folded.b_qkv;
}
