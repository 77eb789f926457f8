/* training_prompts.h -- the prompts that masks are trained on, or validated with, and what is kept
 * of them from epoch to epoch; internal to core/prune.
 *
 * OWNERSHIP  abl_training_prompts_close() releases what an open one holds, and takes one of zeros;
 *            the options are borrowed until then.
 * THREADS    The device's executor thread only; the options' functions from any.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PRUNE_TRAINING_PROMPTS_H
#define ABLATE_CORE_PRUNE_TRAINING_PROMPTS_H

#include "core/patch/ablation.h"
#include "core/prune/algorithm.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

typedef struct abl_training_prompts {
    abl_batches batches;
    int32_t batch_count; /* 0: there are none */
    abl_ablator *ablator;
    abl_tensor **clean; /* a batch: the clean run's logits (rows, vocab); NULL until needed */
} abl_training_prompts;

/* Checks that the model takes the batches, and the target their answers. What failed is to be
 * closed, too.
 *   INVALID_ARGUMENT    ANSWERS_MISSING, ANSWER_COUNT_INVALID, SPLIT_INVALID, and what hooks refuse
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_training_prompts_open(abl_training_prompts *prompts,
                                                  const abl_prune_options *options,
                                                  const abl_batches *batches,
                                                  abl_status *ret_status);
void abl_training_prompts_close(abl_training_prompts *prompts);

/* Which prompt a pass is of: the clean one, or the corrupt one. */
bool abl_training_input_is_clean(const abl_mask_training_options *options);
/* What ablated edges carry. */
abl_ablator_options abl_training_ablator(const abl_prune_options *options,
                                         const abl_batches *batches);

ABL_END_DECLS
#endif
