/* loss.h -- the loss that attribution attributes: a value on the host, a gradient on the device.
 *
 * loss = - mean over rows of the answer function of f(logits), f being the grad function, at the
 * last position; ABL_ANSWER_MSE is the mean squared error itself.
 *
 * OWNERSHIP  Tensors are borrowed from the scope.
 * THREADS    The device's executor thread only.
 * ERRORS     Sticky in the scope.
 */
#ifndef ABLATE_CORE_METRIC_LOSS_H
#define ABLATE_CORE_METRIC_LOSS_H

#include "core/data/dataset.h"
#include "core/metric/metric.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

typedef struct abl_loss {
    abl_grad_function grad_function;
    abl_answer_function answer_function;
} abl_loss;

/* Rows that the loss cannot be computed for.
 *   INVALID_ARGUMENT  ANSWERS_MISSING, ANSWER_COUNT_INVALID (mse: exactly one) */
ABL_MUST_CHECK abl_code abl_loss_check(abl_loss loss, const abl_batch *batch,
                                       abl_status *ret_status);

/* d loss / d logits. When it is nonzero in a few columns only: columns (rows, n) I64 and grad
 * (rows, n), unused ones with grad 0; else columns NULL and grad (rows, vocab). */
typedef struct abl_loss_gradient {
    abl_tensor *columns;
    abl_tensor *grad;
} abl_loss_gradient;

abl_loss_gradient abl_loss_backward(abl_scope *scope, abl_loss loss, const abl_batch *batch,
                                    const abl_tensor *logits);

/* The same, always (rows, vocab). */
abl_tensor *abl_loss_backward_dense(abl_scope *scope, abl_loss loss, const abl_batch *batch,
                                    const abl_tensor *logits);

/* The answers' columns, each row's answers first: (rows, n) on the host, ragged rows padded with
 * weight 0, so that loss = sum of weight * f(logit). Arrays of rows * abl_loss_columns_width(). */
int32_t abl_loss_columns_width(abl_loss loss, const abl_batch *batch);
void abl_loss_columns(abl_loss loss, const abl_batch *batch, int32_t width, int64_t *ret_columns,
                      float *ret_weights);

/* The value, from host logits (rows, vocab). */
double abl_loss_value(abl_loss loss, const abl_batch *batch, const float *logits, int32_t vocab);

ABL_END_DECLS
#endif
