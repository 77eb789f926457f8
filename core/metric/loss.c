// SPDX-License-Identifier: Apache-2.0
/* All losses but mse are linear in f(logits): loss = sum over rows and columns of w f(l), where w
 * is -1 / (rows * answers) at an answer and +1 / (rows * wrong) at a wrong answer (avg_diff only).
 * So with G the matrix of w (zero elsewhere) and p = softmax(l), the gradients are
 *
 *     logit      G                                (sparse: a few columns a row)
 *     prob       p * (G - sum_v p G)
 *     logprob    G - p * sum_v G
 *     logit_exp  G * p                            (the denominator's gradient is stopped)
 *     mse        2 (f(l) - answer) / (rows * vocab) in the place of G
 *
 * A row's mean over its answers comes first, then the mean over rows; where every row has as many
 * answers that is AutoCircuit's mean over all, and where they differ it is its list branch. */
#include "core/metric/loss.h"

#include "core/base/assert.h"
#include "core/base/mem.h"

#include <math.h>
#include <string.h>

const char *abl_grad_function_name(abl_grad_function function) {
    static const char *const NAMES[] = {"logit", "prob", "logprob", "logit_exp"};
    return (unsigned)function < ABL_COUNT_OF(NAMES) ? NAMES[function] : NULL;
}

const char *abl_answer_function_name(abl_answer_function function) {
    static const char *const NAMES[] = {"avg_diff", "avg_val", "mse"};
    return (unsigned)function < ABL_COUNT_OF(NAMES) ? NAMES[function] : NULL;
}

static int32_t answer_count(const abl_batch *batch, int32_t row) {
    return batch->answer_offsets[row + 1] - batch->answer_offsets[row];
}

static int32_t wrong_count(const abl_batch *batch, int32_t row) {
    return batch->wrong_answer_offsets[row + 1] - batch->wrong_answer_offsets[row];
}

abl_code abl_loss_check(abl_loss loss, const abl_batch *batch, abl_status *ret_status) {
    for (int32_t row = 0; row < batch->size; row++) {
        int32_t answers = answer_count(batch, row);
        bool needs_wrong = loss.answer_function == ABL_ANSWER_AVG_DIFF;
        if (answers < 1 || (needs_wrong && wrong_count(batch, row) < 1)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWERS_MISSING",
                            "prompt %d has no %s; answer function %s needs at least one",
                            batch->first + row, answers < 1 ? "answers" : "wrong answers",
                            abl_answer_function_name(loss.answer_function));
        }
        if (loss.answer_function == ABL_ANSWER_MSE && answers != 1) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWER_COUNT_INVALID",
                            "prompt %d has %d answers; answer function mse takes exactly one",
                            batch->first + row, answers);
        }
    }
    return ABL_CODE_OK;
}

int32_t abl_loss_columns_width(abl_loss loss, const abl_batch *batch) {
    int32_t width = 0;
    for (int32_t row = 0; row < batch->size; row++) {
        int32_t columns = answer_count(batch, row);
        if (loss.answer_function == ABL_ANSWER_AVG_DIFF) {
            columns += wrong_count(batch, row);
        }
        width = columns > width ? columns : width;
    }
    return width;
}

void abl_loss_columns(abl_loss loss, const abl_batch *batch, int32_t width, int64_t *ret_columns,
                      float *ret_weights) {
    memset(ret_columns, 0, (size_t)batch->size * (size_t)width * sizeof *ret_columns);
    memset(ret_weights, 0, (size_t)batch->size * (size_t)width * sizeof *ret_weights);
    for (int32_t row = 0; row < batch->size; row++) {
        int64_t *columns = ret_columns + (size_t)row * (size_t)width;
        float *weights = ret_weights + (size_t)row * (size_t)width;
        int32_t answers = answer_count(batch, row);
        int32_t wrong = loss.answer_function == ABL_ANSWER_AVG_DIFF ? wrong_count(batch, row) : 0;
        for (int32_t i = 0; i < answers; i++) {
            columns[i] = batch->answers[batch->answer_offsets[row] + i];
            weights[i] = (float)(-1.0 / ((double)batch->size * answers));
        }
        for (int32_t i = 0; i < wrong; i++) {
            columns[answers + i] = batch->wrong_answers[batch->wrong_answer_offsets[row] + i];
            weights[answers + i] = (float)(1.0 / ((double)batch->size * wrong));
        }
    }
}

/* ---- the gradient ---------------------------------------------------------------------------- */

/* G as (rows, n) columns and weights on the device; each row's columns are counted from `stride`
 * times its number. */
static abl_loss_gradient sparse_weights(abl_scope *scope, abl_loss loss, const abl_batch *batch,
                                        int64_t stride) {
    int32_t width = abl_loss_columns_width(loss, batch);
    size_t count = (size_t)batch->size * (size_t)width;
    ABL_CLEANUP(abl_freep) int64_t *columns = abl_calloc(count, sizeof *columns);
    ABL_CLEANUP(abl_freep) float *weights = abl_calloc(count, sizeof *weights);
    if (columns == NULL || weights == NULL) {
        abl_scope_fail_oom(scope);
        return (abl_loss_gradient){.columns = NULL};
    }
    abl_loss_columns(loss, batch, width, columns, weights);
    for (size_t i = 0; i < count; i++) {
        columns[i] += (int64_t)(i / (size_t)width) * stride;
    }
    const int64_t shape[] = {batch->size, width};
    return (abl_loss_gradient){
        .columns = abl_tensor_from_host(scope, ABL_DTYPE_I64, 2, shape, columns),
        .grad = abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, shape, weights)};
}

/* G spread over the vocabulary; an id that occurs twice gets both weights. */
static abl_tensor *dense_weights(abl_scope *scope, abl_loss loss, const abl_batch *batch,
                                 int64_t vocab) {
    const int64_t flat[] = {-1};
    abl_loss_gradient sparse = sparse_weights(scope, loss, batch, vocab);
    abl_tensor *dense =
        abl_tensor_zeros(scope, ABL_DTYPE_F32, 1, (const int64_t[]){batch->size * vocab});
    abl_tensor_index_add_(scope, dense, 0, abl_tensor_view(scope, sparse.columns, 1, flat),
                          abl_tensor_view(scope, sparse.grad, 1, flat));
    return abl_tensor_view(scope, dense, 2, (const int64_t[]){batch->size, vocab});
}

/* 2 (f(l) - answer) / (rows * vocab) */
static abl_tensor *mse_weights(abl_scope *scope, const abl_batch *batch, const abl_tensor *values) {
    ABL_CLEANUP(abl_freep) float *targets = abl_calloc((size_t)batch->size, sizeof *targets);
    if (targets == NULL || values == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (int32_t row = 0; row < batch->size; row++) {
        targets[row] = (float)batch->answers[batch->answer_offsets[row]];
    }
    abl_tensor *target =
        abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, (const int64_t[]){batch->size, 1}, targets);
    return abl_tensor_scale(scope, abl_tensor_sub(scope, values, target),
                            2.0 / (double)abl_tensor_count(values));
}

abl_loss_gradient abl_loss_backward(abl_scope *scope, abl_loss loss, const abl_batch *batch,
                                    const abl_tensor *logits) {
    bool mse = loss.answer_function == ABL_ANSWER_MSE;
    if (logits == NULL) {
        return (abl_loss_gradient){.columns = NULL};
    }
    if (loss.grad_function == ABL_GRAD_LOGIT && !mse) {
        return sparse_weights(scope, loss, batch, 0);
    }
    /* In float64: p (1 - p) of a sure answer is a difference of almost equals. */
    abl_tensor *l = abl_tensor_to_dtype(scope, abl_tensor_clone(scope, logits), ABL_DTYPE_F64);
    abl_tensor *p = loss.grad_function == ABL_GRAD_LOGIT ? NULL : abl_tensor_softmax(scope, l, 1);
    abl_tensor *g = NULL;
    if (mse) {
        const abl_tensor *values = loss.grad_function == ABL_GRAD_LOGIT ? l
                                   : loss.grad_function == ABL_GRAD_LOGPROB
                                       ? abl_tensor_log_softmax(scope, l, 1)
                                       : p;
        g = mse_weights(scope, batch, values);
    } else {
        g = abl_tensor_to_dtype(
            scope, dense_weights(scope, loss, batch, abl_tensor_size(logits, 1)), ABL_DTYPE_F64);
    }
    const int64_t last[] = {1};
    switch (loss.grad_function) {
    case ABL_GRAD_PROB:
        g = abl_tensor_softmax_backward(scope, g, p, 1);
        break;
    case ABL_GRAD_LOGPROB:
        g = abl_tensor_sub(scope, g,
                           abl_tensor_mul(scope, p, abl_tensor_sum(scope, g, last, 1, true)));
        break;
    case ABL_GRAD_LOGIT_EXP:
        g = abl_tensor_mul(scope, g, p);
        break;
    case ABL_GRAD_LOGIT:
    case ABL_GRAD_FUNCTION_COUNT:
        break;
    }
    return (abl_loss_gradient){.grad = abl_tensor_to_dtype(scope, g, abl_tensor_dtype(logits))};
}

abl_tensor *abl_loss_backward_dense(abl_scope *scope, abl_loss loss, const abl_batch *batch,
                                    const abl_tensor *logits) {
    if (logits == NULL) {
        return NULL;
    }
    bool sparse = loss.grad_function == ABL_GRAD_LOGIT && loss.answer_function != ABL_ANSWER_MSE;
    return sparse ? dense_weights(scope, loss, batch, abl_tensor_size(logits, 1))
                  : abl_loss_backward(scope, loss, batch, logits).grad;
}

/* ---- the value ------------------------------------------------------------------------------- */

typedef struct row_norm {
    double max;
    double log_sum; /* log of the sum of exp(l - max) */
} row_norm;

static row_norm row_norm_of(const float *logits, int32_t vocab) {
    row_norm norm = {.max = -INFINITY};
    for (int32_t i = 0; i < vocab; i++) {
        norm.max = logits[i] > norm.max ? logits[i] : norm.max;
    }
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) {
        sum += exp(logits[i] - norm.max);
    }
    norm.log_sum = log(sum);
    return norm;
}

static double apply(abl_grad_function function, double logit, row_norm norm) {
    switch (function) {
    case ABL_GRAD_LOGPROB:
        return logit - norm.max - norm.log_sum;
    case ABL_GRAD_PROB:
    case ABL_GRAD_LOGIT_EXP:
        return exp(logit - norm.max - norm.log_sum);
    case ABL_GRAD_LOGIT:
    case ABL_GRAD_FUNCTION_COUNT:
        break;
    }
    return logit;
}

static double row_mse(abl_loss loss, const float *logits, int32_t vocab, row_norm norm,
                      double target) {
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) {
        double d = apply(loss.grad_function, logits[i], norm) - target;
        sum += d * d;
    }
    return sum / vocab;
}

double abl_loss_value(abl_loss loss, const abl_batch *batch, const float *logits, int32_t vocab) {
    double total = 0;
    for (int32_t row = 0; row < batch->size; row++) {
        const float *l = logits + (size_t)row * (size_t)vocab;
        row_norm norm = {0};
        if (loss.grad_function != ABL_GRAD_LOGIT) {
            norm = row_norm_of(l, vocab);
        }
        const int32_t *answers = batch->answers + batch->answer_offsets[row];
        if (loss.answer_function == ABL_ANSWER_MSE) {
            total += row_mse(loss, l, vocab, norm, answers[0]) / batch->size;
            continue;
        }
        double mean = 0;
        int32_t count = answer_count(batch, row);
        for (int32_t i = 0; i < count; i++) {
            mean += apply(loss.grad_function, l[answers[i]], norm) / count;
        }
        count = loss.answer_function == ABL_ANSWER_AVG_DIFF ? wrong_count(batch, row) : 0;
        for (int32_t i = 0; i < count; i++) {
            int32_t id = batch->wrong_answers[batch->wrong_answer_offsets[row] + i];
            mean -= apply(loss.grad_function, l[id], norm) / count;
        }
        total -= mean / batch->size;
    }
    return total;
}
