/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight processing as TransformerLens does it, in its order: fold the norms, center what writes to
 * the residual stream, center the unembedding, fold the value biases. None changes the function
 * (the unembedding's centering shifts all logits alike); they change what single weights mean.
 *
 * A norm's gain and bias go into the matrix that reads it: (xhat * w + b) W = xhat (w * W) + b W.
 * xhat of a layer norm has mean 0, so the rows' mean of w * W can be taken out, too. An RMS norm
 * has neither bias nor mean: only the gain is folded, and nothing that writes is centred. */
#include "core/model/model_internal.h"

#define MEAN_DIMS(dim) ((const int64_t[]){dim}), 1

/* w minus its mean over a dimension; NULL stays NULL. */
static abl_tensor *centred(abl_scope *scope, abl_tensor *w, int64_t dim) {
    if (w == NULL) {
        return NULL;
    }
    return abl_tensor_sub(scope, w, abl_tensor_mean(scope, w, MEAN_DIMS(dim), true));
}

/* vector (in) times w (in, out), added to `bias` (out), which may be NULL. */
static abl_tensor *plus_product(abl_scope *scope, abl_tensor *bias, const abl_tensor *vector,
                                const abl_tensor *w) {
    abl_tensor *row = abl_tensor_unsqueeze(scope, vector, 0);
    return abl_tensor_squeeze(scope, abl_tensor_linear(scope, row, w, bias), 0);
}

void abl_model_fold_norm(abl_scope *scope, const abl_model *model, abl_tensor **norm_w,
                         abl_tensor **norm_b, abl_tensor **w, abl_tensor **bias) {
    if (*norm_b != NULL) {
        *bias = plus_product(scope, *bias, *norm_b, *w);
    }
    if (*norm_w != NULL) {
        *w = abl_tensor_mul(scope, *w, abl_tensor_unsqueeze(scope, *norm_w, 1));
    }
    if (model->config.norm == ABL_NORM_LAYER) {
        *w = centred(scope, *w, 0);
    }
    *norm_w = NULL;
    *norm_b = NULL;
}

/* The value biases reach the residual stream unchanged, for a pattern's rows sum to 1: each head
 * adds b_V W_O whatever it attends to. So b_O may carry them. */
static void fold_value_biases(abl_scope *scope, const abl_model *model, abl_block_weights *block) {
    const abl_model_config *c = &model->config;
    if (block->b_qkv == NULL) {
        return;
    }
    int64_t start = (int64_t)(c->n_heads + c->n_kv_heads) * c->d_head;
    int64_t end = start + (int64_t)c->n_kv_heads * c->d_head;
    int64_t group = c->n_heads / c->n_kv_heads;
    /* Each key head's bias once for every query head that reads it. */
    abl_tensor *own = abl_tensor_clone(scope, block->b_qkv); /* it may be the mapped file */
    abl_tensor *b_v = abl_tensor_slice(scope, own, 0, start, end);
    b_v = abl_tensor_view(scope, b_v, 3, (const int64_t[]){c->n_kv_heads, 1, c->d_head});
    b_v = abl_tensor_expand(scope, b_v, 3, (const int64_t[]){-1, group, -1});
    b_v = abl_tensor_reshape(scope, b_v, 1, (const int64_t[]){(int64_t)c->n_heads * c->d_head});
    block->b_o = plus_product(scope, block->b_o, b_v, block->w_o);
    abl_tensor_fill_(scope, abl_tensor_slice(scope, own, 0, start, end), 0);
    block->b_qkv = own;
}

void abl_model_process_block(abl_scope *scope, const abl_model *model, abl_block_weights *block) {
    abl_model_processing processing = model->processing;
    if (processing.fold_norm) {
        abl_model_fold_norm(scope, model, &block->ln1_w, &block->ln1_b, &block->w_qkv,
                            &block->b_qkv);
        abl_model_fold_norm(scope, model, &block->ln2_w, &block->ln2_b, &block->w_in, &block->b_in);
    }
    if (processing.center_writing && model->config.norm == ABL_NORM_LAYER) {
        block->w_o = centred(scope, block->w_o, 1);
        block->b_o = centred(scope, block->b_o, 0);
        block->w_out = centred(scope, block->w_out, 1);
        block->b_out = centred(scope, block->b_out, 0);
    }
    if (processing.fold_value_biases) {
        fold_value_biases(scope, model, block);
    }
}

void abl_model_process_ends(abl_scope *scope, const abl_model *model, abl_model_weights *weights) {
    abl_model_processing processing = model->processing;
    if (processing.fold_norm) {
        abl_model_fold_norm(scope, model, &weights->ln_final_w, &weights->ln_final_b,
                            &weights->unembed, &weights->b_unembed);
    }
    if (processing.center_writing && model->config.norm == ABL_NORM_LAYER) {
        weights->embed = centred(scope, weights->embed, 1);
        weights->pos_embed = centred(scope, weights->pos_embed, 1);
    }
    if (processing.center_unembed) {
        weights->unembed = centred(scope, weights->unembed, 1);
        weights->b_unembed = centred(scope, weights->b_unembed, 0);
    }
}
