/* mask_function.h -- what a mask goes through before it mixes, and the slope of that; internal to
 * core/.
 *
 *   none           the mask
 *   sigmoid        1 / (1 + exp(-mask))
 *   hard_concrete  clamp(1.2 s - 0.1, 0, 1) with s = sigmoid((log u - log(1 - u) + mask) / (2/3))
 *                  and u uniform in [1e-4, 1 - 1e-4]: a sample of the stretched concrete
 *                  distribution, exactly 0 and exactly 1 with chances that the mask decides
 *
 * Then dropout: 0 with that chance, else scaled so that the mean stays. Draws are of every element,
 * from a counter and the seed alone: the same seed gives the same sample.
 *
 * OWNERSHIP  abl_mask_sample_init() fills the caller's struct; abl_mask_sample_finish() ends it.
 * THREADS    Any thread.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PATCH_MASK_FUNCTION_H
#define ABLATE_CORE_PATCH_MASK_FUNCTION_H

#include "core/patch/patch.h"

ABL_BEGIN_DECLS

typedef struct abl_mask_sample_options {
    abl_mask_function function;
    float dropout; /* [0, 1) */
    uint64_t seed;
    const float *draws; /* u of hard_concrete, as many as the sample has values; NULL: by seed */
    const float *mask;  /* (mask_rows, edges); NULL: zeros */
    int64_t mask_rows;  /* 1, or `rows` */
    int64_t edges;
    int64_t rows; /* samples wanted; where nothing is drawn mask_rows of them are made */
} abl_mask_sample_options;

typedef struct abl_mask_sample {
    float *values; /* (rows, edges) */
    float *slopes; /* likewise: d value / d mask */
    int64_t rows;  /* as made: 1, or a row each */
} abl_mask_sample;

ABL_MUST_CHECK abl_code abl_mask_sample_init(const abl_mask_sample_options *options,
                                             abl_mask_sample *ret_sample, abl_status *ret_status);
void abl_mask_sample_finish(abl_mask_sample *sample); /* all zeros is allowed */

/* From the gradient at the values (sample->rows, edges), overwritten, to that at the mask
 * (mask_rows, edges): times the slope, summed over the rows that share a mask. */
void abl_mask_sample_backward(const abl_mask_sample_options *options, const abl_mask_sample *sample,
                              float *values_gradient, float *ret_gradient);

/* A number in (0, 1) for each (seed, counter); and a seed for each (seed, step). */
float abl_mask_uniform(uint64_t seed, uint64_t counter);
uint64_t abl_mask_seed(uint64_t seed, uint64_t step);

ABL_END_DECLS
#endif
