// SPDX-License-Identifier: Apache-2.0
/* Effects are reduced on the device to one number a row (divergences), or read as the answers'
 * logits (losses), and finished in double on the host: a run's value does not depend on which runs
 * it was computed with. */
#include "core/prune/effect.h"

#include "core/base/mem.h"
#include "core/prune/algorithm.h"

abl_code abl_effect_check(abl_exact_metric metric, abl_loss loss, const abl_batch *batch,
                          abl_status *ret_status) {
    return metric == ABL_EXACT_LOSS ? abl_loss_check(loss, batch, ret_status) : ABL_CODE_OK;
}

/* ---- divergences ----------------------------------------------------------------------------- */

/* rows (count, batch) on the device, to the mean over each run's rows times `scale`. */
static void row_means(abl_scope *scope, const abl_effect *effect, const abl_tensor *rows,
                      int64_t count, double scale, double *ret_means) {
    const int64_t batch = effect->batch.size;
    ABL_CLEANUP(abl_freep) float *host = abl_calloc((size_t)(count * batch), sizeof *host);
    if (host == NULL) {
        abl_scope_fail_oom(scope);
        return;
    }
    abl_tensor_to_floats(scope, rows, host, (size_t)(count * batch));
    for (int64_t k = 0; k < count; k++) {
        ret_means[k] = 0;
        for (int64_t row = 0; row < batch; row++) {
            ret_means[k] += (double)host[k * batch + row] * scale / (double)batch;
        }
    }
}

static void effect_mse(abl_scope *scope, const abl_effect *effect, const abl_tensor *logits,
                       int64_t count, double *ret_effects) {
    abl_tensor *d = abl_tensor_sub(scope, logits, effect->clean);
    double scale = 1.0 / (double)abl_model_get_config(effect->model)->d_vocab_out;
    row_means(scope, effect, abl_tensor_dot(scope, d, d), count, scale, ret_effects);
}

/* ---- losses ---------------------------------------------------------------------------------- */

/* Whether a loss reads the answers' columns alone: it does not normalize over the vocabulary. */
static bool is_by_columns(const abl_effect *effect) {
    return effect->metric == ABL_EXACT_LOSS && effect->loss.grad_function == ABL_GRAD_LOGIT &&
           effect->loss.answer_function != ABL_ANSWER_MSE;
}

/* x (count, batch, d_model), before the final norm -> each run's loss. */
static void loss_by_columns(abl_scope *scope, const abl_effect *effect, const abl_tensor *x,
                            int64_t count, double *ret_losses) {
    const abl_model_weights *weights = abl_model_get_weights(effect->model);
    const int64_t batch = effect->batch.size;
    const int64_t width = abl_model_get_config(effect->model)->d_model;
    int32_t n = abl_loss_columns_width(effect->loss, &effect->batch);
    ABL_CLEANUP(abl_freep) int64_t *columns = abl_calloc((size_t)(batch * n), sizeof *columns);
    ABL_CLEANUP(abl_freep) float *factors = abl_calloc((size_t)(batch * n), sizeof *factors);
    ABL_CLEANUP(abl_freep) float *logits = abl_calloc((size_t)(count * batch * n), sizeof *logits);
    if (columns == NULL || factors == NULL || logits == NULL) {
        abl_scope_fail_oom(scope);
        return;
    }
    abl_loss_columns(effect->loss, &effect->batch, n, columns, factors);
    abl_tensor *ids =
        abl_tensor_from_host(scope, ABL_DTYPE_I64, 1, (const int64_t[]){batch * n}, columns);
    abl_tensor *w = abl_tensor_index_select(scope, weights->unembed, 1, ids);
    w = abl_tensor_view(scope, abl_tensor_contiguous(scope, w), 3,
                        (const int64_t[]){width, batch, n});
    w = abl_tensor_permute(scope, w, 3, (const int64_t[]){1, 0, 2}); /* (batch, d, n) */
    abl_tensor *y =
        abl_block_norm_forward(scope, effect->model, 0, ABL_BLOCK_NORM_FINAL, x, NULL, NULL);
    abl_tensor *by_row = abl_tensor_permute(scope, y, 3, (const int64_t[]){1, 0, 2});
    abl_tensor *out = abl_tensor_matmul(scope, by_row, w); /* (batch, count, n) */
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

static void loss_by_logits(abl_scope *scope, const abl_effect *effect, const abl_tensor *logits,
                           int64_t count, double *ret_losses) {
    const int32_t vocab = (int32_t)abl_model_get_config(effect->model)->d_vocab_out;
    const size_t per = (size_t)effect->batch.size * (size_t)vocab;
    ABL_CLEANUP(abl_freep) float *host = abl_calloc((size_t)count * per, sizeof *host);
    if (host == NULL) {
        abl_scope_fail_oom(scope);
        return;
    }
    abl_tensor_to_floats(scope, logits, host, (size_t)count * per);
    for (int64_t k = 0; k < count; k++) {
        ret_losses[k] = abl_loss_value(effect->loss, &effect->batch, host + (size_t)k * per, vocab);
    }
}

/* ---- effects --------------------------------------------------------------------------------- */

void abl_effect_of_logits(abl_scope *scope, const abl_effect *effect, const abl_tensor *logits,
                          int64_t count, double *ret_effects) {
    if (effect->metric == ABL_EXACT_KL_DIV) {
        row_means(scope, effect, abl_tensor_kl(scope, effect->clean, logits), count, 1.0,
                  ret_effects);
        return;
    }
    if (effect->metric == ABL_EXACT_MSE) {
        effect_mse(scope, effect, logits, count, ret_effects);
        return;
    }
    loss_by_logits(scope, effect, logits, count, ret_effects);
    for (int64_t k = 0; k < count; k++) {
        ret_effects[k] -= effect->clean_loss;
    }
}

void abl_effect_of(abl_scope *scope, const abl_effect *effect, const abl_tensor *x, int64_t count,
                   double *ret_effects) {
    if (!is_by_columns(effect)) {
        abl_effect_of_logits(scope, effect, abl_block_unembed(scope, effect->model, x, NULL, NULL),
                             count, ret_effects);
        return;
    }
    loss_by_columns(scope, effect, x, count, ret_effects);
    for (int64_t k = 0; k < count; k++) {
        ret_effects[k] -= effect->clean_loss;
    }
}

/* ---- the clean run --------------------------------------------------------------------------- */

abl_effect abl_effect_make(const abl_prune_options *options, const abl_batch *batch) {
    return (abl_effect){.model = options->model,
                        .metric = options->exact_metric,
                        .loss = abl_prune_loss(options),
                        .batch = *batch};
}

void abl_effect_open(abl_scope *scope, abl_effect *effect, const abl_tensor *end) {
    abl_tensor *last = abl_tensor_select(scope, end, 1, effect->batch.seq_len - 1);
    abl_tensor *x = abl_tensor_unsqueeze(scope, abl_tensor_contiguous(scope, last), 0);
    if (is_by_columns(effect)) {
        loss_by_columns(scope, effect, x, 1, &effect->clean_loss);
        return;
    }
    abl_effect_open_logits(scope, effect, abl_block_unembed(scope, effect->model, x, NULL, NULL));
}

void abl_effect_open_logits(abl_scope *scope, abl_effect *effect, abl_tensor *logits) {
    switch (effect->metric) {
    case ABL_EXACT_LOSS:
        loss_by_logits(scope, effect, logits, 1, &effect->clean_loss);
        break;
    case ABL_EXACT_KL_DIV:
        effect->clean = abl_tensor_log_softmax(scope, logits, 2);
        break;
    case ABL_EXACT_MSE:
        effect->clean = logits;
        break;
    }
}
