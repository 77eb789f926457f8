/* mask_regularizer.h -- what the size of a circuit, or of knockouts, costs while masks are trained,
 * and what avoided edges do (AutoCircuit's subnetwork_probing_prune_scores); internal to
 * core/prune.
 *
 * OWNERSHIP  The struct's pointers are borrowed for the call.
 * THREADS    Any thread.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PRUNE_MASK_REGULARIZER_H
#define ABLATE_CORE_PRUNE_MASK_REGULARIZER_H

#include "core/patch/mask_function.h"
#include "core/prune/prune.h"

ABL_BEGIN_DECLS

typedef struct abl_mask_regularizer {
    const abl_mask_training_options *options;
    const int64_t *avoid_edges; /* as many as the options say */
    int64_t circuit_size;       /* that costs nothing; 0: none */
    int64_t edge_count;
    uint64_t seed;
    const float *draws; /* (edges), instead of the seed's; NULL: by the seed */
} abl_mask_regularizer;

/* The value, regularize_lambda included; its gradient at the masks is added to `gradient`, (edges).
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_mask_regularize(const abl_mask_regularizer *r, const float *mask,
                                            float *gradient, float *ret_value,
                                            abl_status *ret_status);

ABL_END_DECLS
#endif
