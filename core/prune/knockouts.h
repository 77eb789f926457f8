/* knockouts.h -- how far a circuit and the whole model come apart when both lose the same edges:
 * what the training of knockouts makes larger (AutoCircuit's
 * train_same_under_knockout_prune_scores; the loop is mask_training.c's); internal to core/prune.
 *
 * OWNERSHIP  Tensors are borrowed from the scope, the struct's pointers for the call.
 * THREADS    The device's executor thread only; the checks from any.
 * ERRORS     Sticky in the scope; fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PRUNE_KNOCKOUTS_H
#define ABLATE_CORE_PRUNE_KNOCKOUTS_H

#include "core/prune/prune.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

/* Options that go with no knockouts, or not without them.
 *   INVALID_ARGUMENT  ALGORITHM_OPTIONS_INVALID */
ABL_MUST_CHECK abl_code abl_knockouts_check(const abl_mask_training_options *options,
                                            abl_status *ret_status);
/* Rows that the target cannot be computed for.
 *   INVALID_ARGUMENT  ANSWERS_MISSING */
ABL_MUST_CHECK abl_code abl_knockouts_check_batch(const abl_mask_training_options *options,
                                                  const abl_batch *batch, abl_status *ret_status);

typedef struct abl_knockouts_loss {
    abl_faithfulness target;
    const abl_batch *batch;
    const float *other; /* (rows, vocab): the logits of the pass that `logits` are not of */
    bool of_model;      /* `logits` are the whole model's; else the circuit's */
    double value;       /* returned: of the loss, negative as they come apart */
} abl_knockouts_loss;

/* d loss / d logits, (rows, vocab). */
abl_tensor *abl_knockouts_backward(abl_scope *scope, const abl_tensor *logits,
                                   abl_knockouts_loss *loss);

ABL_END_DECLS
#endif
