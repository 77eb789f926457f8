/* faithfulness.h -- what subnetwork probing trains a circuit to keep: a value and its gradient at
 * the circuit's logits; internal to core/prune.
 *
 * OWNERSHIP  Tensors are borrowed from the scope.
 * THREADS    The device's executor thread only; the check from any.
 * ERRORS     Sticky in the scope.
 */
#ifndef ABLATE_CORE_PRUNE_FAITHFULNESS_H
#define ABLATE_CORE_PRUNE_FAITHFULNESS_H

#include "core/prune/prune.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

/* Rows that the target cannot be computed for.
 *   INVALID_ARGUMENT  ANSWERS_MISSING, ANSWER_COUNT_INVALID */
ABL_MUST_CHECK abl_code abl_faithfulness_check(abl_faithfulness target, const abl_batch *batch,
                                               abl_status *ret_status);
/* Whether it compares with the unpatched model's logits on the clean prompts. */
bool abl_faithfulness_needs_clean(abl_faithfulness target);

/* logits and clean (rows, vocab); clean may be NULL where it is not needed. Returns d value /
 * d logits, and the value. */
abl_tensor *abl_faithfulness_backward(abl_scope *scope, abl_faithfulness target,
                                      const abl_batch *batch, const abl_tensor *clean,
                                      const abl_tensor *logits, double *ret_value);

/* The percentage of the clean run's difference that is kept: mean and deviation over rows. */
void abl_faithfulness_percent(const abl_batch *batch, const float *clean, const float *logits,
                              int64_t vocab, float *ret_mean, float *ret_deviation);

ABL_END_DECLS
#endif
