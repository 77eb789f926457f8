/* block.h -- the pieces that a forward pass is made of, for core/model, core/patch and core/prune.
 *
 * OWNERSHIP  Weights are borrowed from the model. Results are borrowed from the scope (tensor.h).
 * THREADS    On the executor of the model's device.
 * ERRORS     Sticky in the scope.
 *
 * Shapes: T stands for any leading dimensions, usually (batch, pos). Canonical weights are logical
 * [in, out] matrices of any strides (row major from GPT-2 files, column major from Linear ones):
 *
 *   w_qkv (d_model, (H + 2K) d_head)   columns: H queries' heads, K keys', K values'
 *   w_o   (H d_head, d_model)          rows: heads
 *   w_in  (d_model, d_mlp), gated (d_model, 2 d_mlp): columns of the gate, then of the linear part
 *
 * Folded norms (processing fold_norm, or norm_plain) have NULL gains and biases here, and a norm is
 * then xhat; of a model without norms xhat is x.
 */
#ifndef ABLATE_CORE_MODEL_BLOCK_H
#define ABLATE_CORE_MODEL_BLOCK_H

#include "core/model/config.h"
#include "core/model/model.h"
#include "core/tensor/tensor.h"

#include <stdbool.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_block_weights {
    abl_tensor *ln1_w; /* (d_model); NULL when folded, as for the next */
    abl_tensor *ln1_b;
    abl_tensor *w_qkv;
    abl_tensor *b_qkv; /* NULL when the model has none, as for the other biases */
    abl_tensor *w_o;
    abl_tensor *b_o;
    abl_tensor *ln2_w;
    abl_tensor *ln2_b;
    abl_tensor *w_in; /* NULL with attn_only, as for the rest */
    abl_tensor *b_in;
    abl_tensor *w_out; /* (d_mlp, d_model) */
    abl_tensor *b_out;
} abl_block_weights;

typedef struct abl_model_weights {
    abl_tensor *embed;     /* (d_vocab, d_model) */
    abl_tensor *pos_embed; /* (n_ctx, d_model); NULL unless positions are learned */
    abl_block_weights *blocks;
    abl_tensor *ln_final_w;
    abl_tensor *ln_final_b;
    abl_tensor *unembed;   /* (d_model, d_vocab_out); a view of `embed` when tied */
    abl_tensor *b_unembed; /* (d_vocab_out); NULL unless the file or folding has one */
    abl_tensor *rope_cos;  /* (n_ctx, rotary_dim / 2) float32; NULL without rope */
    abl_tensor *rope_sin;
} abl_model_weights;

const abl_model_weights *abl_model_get_weights(const abl_model *model);
const abl_block_weights *abl_model_get_block(const abl_model *model, int layer);
abl_tensor_norm_kind abl_model_norm_kind(const abl_model *model);
abl_tensor_act abl_model_act(const abl_model *model);
/* What the scores are multiplied by: 1 / sqrt(d_head) unless the config says otherwise. */
double abl_model_attn_scale(const abl_model *model);
abl_tensor_sees abl_model_sees(const abl_model *model);

/* A weight, or a vector of them, as something else than a product's operand or a summand reads it:
 * in float32, which 16 bits would round. Itself where that is its dtype; NULL stays NULL. */
abl_tensor *abl_block_in_float32(abl_scope *scope, abl_tensor *weight);
/* What a pass in float32 takes more with weights of 16 bits: the largest of them, widened for a
 * product. 0 for a float32 model. */
int64_t abl_block_widened_bytes(const abl_model *model);

/* Host tokens (batch, pos) to the device: I64. */
abl_tensor *abl_block_tokens(abl_scope *scope, const int32_t *tokens, int64_t batch, int64_t seq);
/* Tokens (batch, pos) to Resid Start (batch, pos, d_model), positions pos_start.. added. Its dtype,
 * the model's or float32, is that of the whole pass: products bring weights to it. The parts, where
 * asked for: token embedding; position embedding (pos, d_model), NULL unless learned. */
abl_tensor *abl_block_embed(abl_scope *scope, const abl_model *model, abl_dtype dtype,
                            const abl_tensor *tokens, int64_t pos_start, abl_tensor **ret_embed,
                            abl_tensor **ret_pos);

typedef enum abl_block_norm {
    ABL_BLOCK_NORM_1,     /* before q, k, v */
    ABL_BLOCK_NORM_2,     /* before the MLP */
    ABL_BLOCK_NORM_FINAL, /* before the unembedding; layer is ignored */
} abl_block_norm;
/* x (T, d_model) to the input of the projections. ret_xhat, ret_rstd as in abl_tensor_norm(). */
abl_tensor *abl_block_norm_forward(abl_scope *scope, const abl_model *model, int layer,
                                   abl_block_norm which, const abl_tensor *x, abl_tensor **ret_xhat,
                                   abl_tensor **ret_rstd);
/* Gradient at the norm's output to the gradient at its input. */
abl_tensor *abl_block_norm_backward(abl_scope *scope, const abl_model *model, int layer,
                                    abl_block_norm which, const abl_tensor *grad,
                                    const abl_tensor *xhat, const abl_tensor *rstd);

typedef struct abl_qkv {
    abl_tensor *q; /* (batch, pos, H, d_head): views of one projection, before rotation */
    abl_tensor *k; /* (batch, pos, K, d_head) */
    abl_tensor *v;
} abl_qkv;
/* normed (batch, pos, d_model), one fused product; q only for the last `q_pos` positions (0: all).
 */
abl_qkv abl_block_qkv(abl_scope *scope, const abl_model *model, int layer, const abl_tensor *normed,
                      int64_t q_pos);
/* Cuts (batch, pos, (H + 2K) d_head) into its three views. */
abl_qkv abl_block_qkv_views(abl_scope *scope, const abl_model *model, const abl_tensor *qkv);
/* Views of the fused weights: which 0 q, 1 k, 2 v. w (heads, d_model, d_head), b (heads, d_head) or
 * NULL. */
abl_tensor *abl_block_head_weights(abl_scope *scope, const abl_model *model, int layer, int which,
                                   abl_tensor **ret_bias);
/* x (batch, pos, heads, d_head), whose first position is `pos_start`; x itself without rope. */
abl_tensor *abl_block_rotate(abl_scope *scope, const abl_model *model, abl_tensor *x,
                             int64_t pos_start, bool inverse);
/* abl_tensor_attention() and its backward with the model's scale and mask, on rotated q and k. */
abl_tensor *abl_block_attention(abl_scope *scope, const abl_model *model, const abl_tensor *q,
                                const abl_tensor *k, const abl_tensor *v, abl_tensor **ret_scores,
                                abl_tensor **ret_pattern);
void abl_block_attention_backward(abl_scope *scope, const abl_model *model,
                                  const abl_tensor *grad_z, const abl_qkv *qkv,
                                  const abl_tensor *pattern, const abl_attention_grads *out_grads);
/* z (T, H, d_head) to the attention's output (T, d_model), b_O included. */
abl_tensor *abl_block_attn_out(abl_scope *scope, const abl_model *model, int layer,
                               const abl_tensor *z);
/* z (T, H, d_head) to each head's output, without b_O: writes (T, H, d_model). `out` may be a view
 * of any strides, as (H, T, d_model) permuted; NULL makes one, (T, H, d_model). Returns it. */
abl_tensor *abl_block_head_results(abl_scope *scope, const abl_model *model, int layer,
                                   const abl_tensor *z, abl_tensor *out);

typedef struct abl_mlp_saved {
    abl_tensor *pre;  /* (T, d_mlp) before the activation (the gate's part, when gated) */
    abl_tensor *up;   /* (T, d_mlp) the linear part; NULL unless gated */
    abl_tensor *post; /* (T, d_mlp) what w_out reads */
} abl_mlp_saved;
/* normed (T, d_model) to the MLP's output, biases included; not with attn_only. Without ret_saved
 * (NULL) nothing that is not needed is kept. */
abl_tensor *abl_block_mlp(abl_scope *scope, const abl_model *model, int layer,
                          const abl_tensor *normed, abl_mlp_saved *ret_saved);
/* Gradient at the MLP's output to the gradient at `normed`. */
abl_tensor *abl_block_mlp_backward(abl_scope *scope, const abl_model *model, int layer,
                                   const abl_tensor *grad, const abl_mlp_saved *saved);

/* Residual (T, d_model) to float32 logits (T, d_vocab_out): the final norm, then the unembedding in
 * blocks of columns. */
abl_tensor *abl_block_unembed(abl_scope *scope, const abl_model *model, const abl_tensor *residual,
                              abl_tensor **ret_xhat, abl_tensor **ret_rstd);
/* The second half alone: what the final norm gave, times any (d_model, d_vocab_out) matrix. */
abl_tensor *abl_block_unembed_normed(abl_scope *scope, const abl_model *model,
                                     const abl_tensor *normed, const abl_tensor *unembed,
                                     const abl_tensor *bias);
/* Gradient at the logits (T, d_vocab_out) to the gradient at the residual. */
abl_tensor *abl_block_unembed_backward(abl_scope *scope, const abl_model *model,
                                       const abl_tensor *grad_logits, const abl_tensor *xhat,
                                       const abl_tensor *rstd);
/* Its first half alone: (..., d_vocab_out) to the gradient at what the final norm gave. */
abl_tensor *abl_block_unembed_backward_normed(abl_scope *scope, const abl_model *model,
                                              const abl_tensor *grad_logits);
/* The whole for logits that matter in a few columns only: `columns` (rows, n) I64 and `grad` (rows,
 * n) for a residual of (rows, d_model). */
abl_tensor *abl_block_unembed_backward_columns(abl_scope *scope, const abl_model *model,
                                               const abl_tensor *columns, const abl_tensor *grad,
                                               const abl_tensor *xhat, const abl_tensor *rstd);

/* The projection of layer `layer` with its norm folded in and, for layer norms, centred over
 * d_model: w' (d_model, (H + 2K) d_head), b' such that qkv = xhat w' + b'. Borrowed from the model
 * when the processing did it at load, else computed in the scope, in float32. *ret_b NULL when all
 * zero. */
void abl_block_fold_qkv(abl_scope *scope, const abl_model *model, int layer, abl_tensor **ret_w,
                        abl_tensor **ret_b);

ABL_END_DECLS
#endif
