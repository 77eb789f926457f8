/* adam.h -- Adam (Kingma and Ba 2015) on an array in host memory: betas 0.9 and 0.999, epsilon
 * 1e-8, as torch's; internal to core/prune.
 *
 * OWNERSHIP  abl_adam_init() fills the caller's struct; abl_adam_finish() ends it.
 * THREADS    One at a time.
 * ERRORS     RESOURCE_EXHAUSTED (OUT_OF_HOST_MEMORY) from init; a step cannot fail.
 */
#ifndef ABLATE_CORE_PRUNE_ADAM_H
#define ABLATE_CORE_PRUNE_ADAM_H

#include "core/base/status.h"

#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_adam {
    int64_t count;
    int64_t step;
    float learning_rate;
    float *mean;     /* (count): of the gradients */
    float *variance; /* (count): of them, uncentred */
} abl_adam;

ABL_MUST_CHECK abl_code abl_adam_init(abl_adam *adam, int64_t count, float learning_rate,
                                      abl_status *ret_status);
void abl_adam_finish(abl_adam *adam); /* all zeros is allowed */
/* One step down `gradient` (count), on `values` (count). */
void abl_adam_step(abl_adam *adam, const float *gradient, float *values);

ABL_END_DECLS
#endif
