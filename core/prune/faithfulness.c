// SPDX-License-Identifier: Apache-2.0
/* AutoCircuit's six targets, l being the circuit's logits, c the clean run's:
 *     kl_div              mean over rows of KL(clean || circuit)   (softmax(l) - softmax(c)) / rows
 *     mse                 as the answer function of that name
 *     answer              -mean answer logit
 *     wrong_answer        -mean wrong-answer logit
 *     correct_percent     share of rows whose answer has the largest logit; no gradient
 *     logit_diff_percent  mean of |100 - 100 d(l) / d(c)|, d being a row's answer difference
 * The value of the first is made on the device; the others look at a few columns on the host. */
#include "core/prune/faithfulness.h"

#include "core/base/mem.h"
#include "core/metric/loss.h"

#include <math.h>

const char *abl_faithfulness_name(abl_faithfulness target) {
    static const char *const NAMES[] = {
        "kl_div",    "mse", "answer", "wrong_answer", "correct_percent", "logit_diff_percent",
        "logit_diff"};
    return (unsigned)target < ABL_COUNT_OF(NAMES) ? NAMES[target] : NULL;
}

static abl_loss loss_of(abl_faithfulness target) {
    abl_loss loss = {.grad_function = ABL_GRAD_LOGIT, .answer_function = ABL_ANSWER_AVG_VAL};
    if (target == ABL_FAITHFULNESS_MSE) {
        loss.answer_function = ABL_ANSWER_MSE;
    } else if (target == ABL_FAITHFULNESS_LOGIT_DIFF_PERCENT) {
        loss.answer_function = ABL_ANSWER_AVG_DIFF;
    }
    return loss;
}

/* wrong_answer is answer with the wrong ones in the answers' place. */
static abl_batch batch_for(abl_faithfulness target, const abl_batch *batch) {
    abl_batch view = *batch;
    if (target == ABL_FAITHFULNESS_WRONG_ANSWER) {
        view.answers = batch->wrong_answers;
        view.answer_offsets = batch->wrong_answer_offsets;
    }
    return view;
}

abl_code abl_faithfulness_check(abl_faithfulness target, const abl_batch *batch,
                                abl_status *ret_status) {
    if (target == ABL_FAITHFULNESS_KL_DIV) {
        return ABL_CODE_OK;
    }
    for (int32_t row = 0; row < batch->size && target == ABL_FAITHFULNESS_WRONG_ANSWER; row++) {
        if (batch->wrong_answer_offsets[row + 1] == batch->wrong_answer_offsets[row]) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWERS_MISSING",
                            "prompt %d has no wrong answers; faithfulness target wrong_answer "
                            "needs at least one",
                            batch->first + row);
        }
    }
    for (int32_t row = 0; row < batch->size && target == ABL_FAITHFULNESS_CORRECT_PERCENT; row++) {
        int32_t answers = batch->answer_offsets[row + 1] - batch->answer_offsets[row];
        if (answers != 1) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWER_COUNT_INVALID",
                            "prompt %d has %d answers; faithfulness target correct_percent takes "
                            "exactly one",
                            batch->first + row, answers);
        }
    }
    abl_batch view = batch_for(target, batch);
    return abl_loss_check(loss_of(target), &view, ret_status);
}

bool abl_faithfulness_needs_clean(abl_faithfulness target) {
    return target == ABL_FAITHFULNESS_KL_DIV || target == ABL_FAITHFULNESS_LOGIT_DIFF_PERCENT;
}

static abl_tensor *kl_div(abl_scope *scope, const abl_batch *batch, const abl_tensor *clean,
                          const abl_tensor *logits, double *ret_value) {
    abl_tensor *logp = abl_tensor_log_softmax(scope, clean, 1);
    abl_tensor *rows = abl_tensor_kl(scope, logp, logits);
    *ret_value = abl_tensor_item(scope, abl_tensor_mean(scope, rows, NULL, 0, false));
    abl_tensor *grad = abl_tensor_softmax(scope, logits, 1);
    abl_tensor_add_(scope, grad, abl_tensor_exp(scope, logp), -1);
    abl_tensor_scale_(scope, grad, 1.0 / (double)batch->size);
    return grad;
}

static double mean_of(const float *logits, const int32_t *ids, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += (double)logits[ids[i]] / count;
    }
    return sum;
}

/* A row's mean answer logit less its mean wrong-answer logit. */
static double row_diff(const abl_batch *batch, int32_t row, const float *logits, int64_t vocab) {
    const float *l = logits + row * vocab;
    int32_t answers = batch->answer_offsets[row];
    int32_t wrong = batch->wrong_answer_offsets[row];
    return mean_of(l, batch->answers + answers, batch->answer_offsets[row + 1] - answers) -
           mean_of(l, batch->wrong_answers + wrong, batch->wrong_answer_offsets[row + 1] - wrong);
}

void abl_faithfulness_percent(const abl_batch *batch, const float *clean, const float *logits,
                              int64_t vocab, float *ret_mean, float *ret_deviation) {
    double sum = 0;
    double squares = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t row = 0; row < batch->size; row++) {
            double percent =
                100 * row_diff(batch, row, logits, vocab) / row_diff(batch, row, clean, vocab);
            if (pass == 0) {
                sum += percent / batch->size;
            } else {
                squares += (percent - sum) * (percent - sum);
            }
        }
    }
    *ret_mean = (float)sum;
    *ret_deviation = (float)sqrt(squares / (batch->size - 1)); /* NAN for one row */
}

/* The value, and what each row's gradient of -d(l) is scaled by. */
static double diff_percent(const abl_batch *batch, const float *clean, const float *logits,
                           int64_t vocab, float *ret_factors) {
    double value = 0;
    for (int32_t row = 0; row < batch->size; row++) {
        double target = row_diff(batch, row, clean, vocab);
        double rest = 100 - 100 * row_diff(batch, row, logits, vocab) / target;
        value += fabs(rest) / batch->size;
        ret_factors[row] = (float)((rest > 0 ? 100 : rest < 0 ? -100 : 0) / target);
    }
    return value;
}

static double correct(const abl_batch *batch, const float *logits, int64_t vocab) {
    int32_t count = 0;
    for (int32_t row = 0; row < batch->size; row++) {
        const float *l = logits + row * vocab;
        int64_t best = 0;
        for (int64_t i = 1; i < vocab; i++) {
            best = l[i] > l[best] ? i : best;
        }
        count += best == batch->answers[batch->answer_offsets[row]] ? 1 : 0;
    }
    return (double)count / batch->size;
}

abl_tensor *abl_faithfulness_backward(abl_scope *scope, abl_faithfulness target,
                                      const abl_batch *batch, const abl_tensor *clean,
                                      const abl_tensor *logits, double *ret_value) {
    if (logits == NULL || abl_scope_failed(scope)) {
        return NULL;
    }
    if (target == ABL_FAITHFULNESS_KL_DIV) {
        return kl_div(scope, batch, clean, logits, ret_value);
    }
    const int64_t vocab = abl_tensor_size(logits, 1);
    const size_t count = (size_t)(batch->size * vocab);
    ABL_CLEANUP(abl_freep) float *host = abl_calloc(2 * count, sizeof *host);
    ABL_CLEANUP(abl_freep) float *factors = abl_calloc((size_t)batch->size, sizeof *factors);
    if (host == NULL || factors == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    abl_tensor_to_floats(scope, logits, host, count);
    if (target == ABL_FAITHFULNESS_CORRECT_PERCENT) {
        *ret_value = correct(batch, host, vocab);
        return abl_tensor_zeros(scope, ABL_DTYPE_F32, 2, (const int64_t[]){batch->size, vocab});
    }
    abl_batch view = batch_for(target, batch);
    abl_tensor *grad = abl_loss_backward_dense(scope, loss_of(target), &view, logits);
    if (target != ABL_FAITHFULNESS_LOGIT_DIFF_PERCENT) {
        *ret_value = abl_loss_value(loss_of(target), &view, host, (int32_t)vocab);
        return grad;
    }
    abl_tensor_to_floats(scope, clean, host + count, count);
    *ret_value = diff_percent(batch, host + count, host, vocab, factors);
    const int64_t rows[] = {batch->size, 1};
    return abl_tensor_mul(scope, grad,
                          abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, rows, factors));
}
