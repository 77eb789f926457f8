/* mask_training.h -- masks trained to ablate what does not matter: Adam on every edge's mask, an
 * optimizer step a batch. What subnetwork probing is, and circuit probing is made of; internal to
 * core/prune.
 *
 * OWNERSHIP  abl_mask_training_create() hands it to the caller; it borrows the prune's options
 *            until abl_mask_training_destroy(), and copies what they borrow.
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PRUNE_MASK_TRAINING_H
#define ABLATE_CORE_PRUNE_MASK_TRAINING_H

#include "core/prune/algorithm.h"

ABL_BEGIN_DECLS

typedef struct abl_mask_training abl_mask_training;

/*   INVALID_ARGUMENT    ALGORITHM_OPTIONS_INVALID, EDGE_INDEX_INVALID, ANSWERS_MISSING,
 *                       ANSWER_COUNT_INVALID, SPLIT_INVALID (the validation prompts)
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_mask_training_create(const abl_prune_options *options,
                                                 abl_mask_training **ret_training,
                                                 abl_status *ret_status);
void abl_mask_training_destroy(abl_mask_training *training); /* NULL is allowed */
int64_t abl_mask_training_bytes_estimate(const abl_prune_options *options);

/* Steps before the first optimizer step, which make the ablations; then epochs times batches. */
int64_t abl_mask_training_prepare_count(const abl_mask_training *training);
int64_t abl_mask_training_step_count(const abl_mask_training *training);
bool abl_mask_training_is_finished(const abl_mask_training *training);
/* One of either; tells the prune about it: curve, scores, progress.
 *   FAILED_PRECONDITION  TRAINING_DIVERGED  masks that are not finite any more */
ABL_MUST_CHECK abl_code abl_mask_training_step(abl_mask_training *training, abl_prune *prune,
                                               abl_status *ret_status);
/* From the start, for another circuit size; what was computed of the prompts is kept, and the curve
 * goes on. */
ABL_MUST_CHECK abl_code abl_mask_training_restart(abl_mask_training *training, int64_t circuit_size,
                                                  abl_status *ret_status);
/* An edge's mask's distance from that of the least important edge; of knockouts, the mask. */
void abl_mask_training_scores(const abl_mask_training *training, float *ret_scores);
/* For tests: the masks, which may be written between steps, and the last step's gradient of the
 * whole loss. */
float *abl_mask_training_masks(abl_mask_training *training);
const float *abl_mask_training_gradient(const abl_mask_training *training);

ABL_END_DECLS
#endif
