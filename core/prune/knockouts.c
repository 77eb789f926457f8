// SPDX-License-Identifier: Apache-2.0
/* The loss of AutoCircuit 1.0.1's metrics/completeness_metrics/train_same_under_knockouts.py; there
 * autograd differentiates both passes at once, here each has its closed form, the other's logits
 * being what they are. With c the circuit's and m the model's logits, p their probabilities, d a
 * mean answer difference:
 *
 *     kl_div       -mean over rows of KL(m || c)
 *                      by c: -(p(c) - p(m)) / rows
 *                      by m: -p(m) (log p(m) - log p(c) - KL of the row) / rows
 *     logit_diff   -(d(m) - d(c))
 *
 * The loss is linear in neither, so the gradient by one side needs the logits of the other: who
 * trains runs the model, then the circuit forth and back, then the model back. */
#include "core/prune/knockouts.h"

#include "core/base/mem.h"
#include "core/metric/loss.h"

#define INVALID "ALGORITHM_OPTIONS_INVALID"

static const abl_loss DIFFERENCE = {.grad_function = ABL_GRAD_LOGIT,
                                    .answer_function = ABL_ANSWER_AVG_DIFF}; /* is -d */

abl_code abl_knockouts_check(const abl_mask_training_options *options, abl_status *ret_status) {
    const bool differs = options->faithfulness_target == ABL_FAITHFULNESS_LOGIT_DIFF;
    if (options->knockouts_of == NULL) {
        return differs ? abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                                  "faithfulness_target is logit_diff, which only knockouts are "
                                  "trained for")
                       : ABL_CODE_OK;
    }
    if (options->mask_function == ABL_MASK_NONE) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "knockouts need a mask function: without one nothing bounds their masks");
    }
    if (!differs && options->faithfulness_target != ABL_FAITHFULNESS_KL_DIV) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "knockouts are trained for the faithfulness targets kl_div and logit_diff");
    }
    if (options->circuit_size == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "knockouts need a circuit_size: how many edges may be knocked out for "
                        "nothing");
    }
    if (options->tree_optimisation || options->avoid_edge_count > 0 ||
        options->validation_count > 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "knockouts take no tree_optimisation, avoid_edges or validation prompts");
    }
    return ABL_CODE_OK;
}

abl_code abl_knockouts_check_batch(const abl_mask_training_options *options, const abl_batch *batch,
                                   abl_status *ret_status) {
    return options->faithfulness_target == ABL_FAITHFULNESS_LOGIT_DIFF
               ? abl_loss_check(DIFFERENCE, batch, ret_status)
               : ABL_CODE_OK;
}

/* d loss / d logits of the pass that `logits` are of, the other's being constant. */
static abl_tensor *kl_div(abl_scope *scope, const abl_tensor *logits, const abl_tensor *other,
                          abl_knockouts_loss *loss) {
    const abl_tensor *model = loss->of_model ? logits : other;
    const abl_tensor *circuit = loss->of_model ? other : logits;
    abl_tensor *logp = abl_tensor_log_softmax(scope, model, 1);
    abl_tensor *rows = abl_tensor_kl(scope, logp, circuit);
    loss->value = -abl_tensor_item(scope, abl_tensor_mean(scope, rows, NULL, 0, false));
    abl_tensor *grad = NULL;
    if (loss->of_model) {
        grad = abl_tensor_sub(scope, logp, abl_tensor_log_softmax(scope, circuit, 1));
        grad = abl_tensor_sub(scope, abl_tensor_unsqueeze(scope, rows, 1), grad);
        abl_tensor_mul_(scope, grad, abl_tensor_exp(scope, logp));
    } else {
        grad = abl_tensor_exp(scope, logp);
        abl_tensor_add_(scope, grad, abl_tensor_softmax(scope, circuit, 1), -1);
    }
    abl_tensor_scale_(scope, grad, 1.0 / (double)loss->batch->size);
    return grad;
}

static abl_tensor *logit_diff(abl_scope *scope, const abl_tensor *logits,
                              abl_knockouts_loss *loss) {
    const int64_t vocab = abl_tensor_size(logits, 1);
    const size_t count = (size_t)(loss->batch->size * vocab);
    ABL_CLEANUP(abl_freep) float *host = abl_calloc(count, sizeof *host);
    if (host == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    abl_tensor_to_floats(scope, logits, host, count);
    const double sign = loss->of_model ? 1 : -1;
    loss->value = sign * (abl_loss_value(DIFFERENCE, loss->batch, host, (int32_t)vocab) -
                          abl_loss_value(DIFFERENCE, loss->batch, loss->other, (int32_t)vocab));
    abl_tensor *grad = abl_loss_backward_dense(scope, DIFFERENCE, loss->batch, logits);
    return abl_tensor_scale(scope, grad, sign);
}

abl_tensor *abl_knockouts_backward(abl_scope *scope, const abl_tensor *logits,
                                   abl_knockouts_loss *loss) {
    if (logits == NULL || abl_scope_failed(scope)) {
        return NULL;
    }
    if (loss->target == ABL_FAITHFULNESS_LOGIT_DIFF) {
        return logit_diff(scope, logits, loss);
    }
    const int64_t shape[] = {loss->batch->size, abl_tensor_size(logits, 1)};
    return kl_div(scope, logits, abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, shape, loss->other),
                  loss);
}
