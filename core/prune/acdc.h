/* acdc.h -- between ACDC's decisions and the ways to try a removal; internal to core/prune.
 *
 * acdc.c walks the edges and decides; an evaluator says what the output would be. Trials come
 * several at a time: trial k removes edges[0..k] beside what is removed for good.
 *
 *   acdc_delta.c   from the kept state at the edges' layer, by what changes above it
 *   acdc_masked.c  by whole masked passes: any graph; slow
 *
 * OWNERSHIP  create() hands the evaluator to the caller; it borrows the prune and the effect's
 *            batch until destroy().
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code and fill *ret_status; after a failure only destroy.
 */
#ifndef ABLATE_CORE_PRUNE_ACDC_H
#define ABLATE_CORE_PRUNE_ACDC_H

#include "core/prune/algorithm.h"
#include "core/prune/effect.h"

ABL_BEGIN_DECLS

#define ABL_ACDC_TRIALS_MAX 128

typedef struct abl_acdc_evaluator {
    const struct abl_acdc_vtable *vtable;
} abl_acdc_evaluator;

typedef struct abl_acdc_vtable {
    /* For the first batch, whose ablation is `ablated`: it stays as long as the prune. */
    abl_code (*create)(abl_prune *prune, const abl_batch *batch, const abl_sources *ablated,
                       abl_acdc_evaluator **ret_evaluator, abl_status *ret_status);
    void (*destroy)(abl_acdc_evaluator *evaluator); /* NULL is allowed */
    /* No edge is removed any more: a tau starts. */
    abl_code (*reset)(abl_acdc_evaluator *evaluator, abl_status *ret_status);
    /* Whether removing the edge cannot change the output, as things stand and for as long as its
     * destination's layer is being decided. */
    bool (*is_inert)(abl_acdc_evaluator *evaluator, int64_t edge);
    /* Tries the first *ret_tried, at least 1, of `count` edges of destinations in one layer. */
    abl_code (*try_edges)(abl_acdc_evaluator *evaluator, const int64_t *edges, int32_t count,
                          double *ret_effects, int32_t *ret_tried, abl_status *ret_status);
    /* The first `count` edges of the last try are removed for good. */
    abl_code (*commit)(abl_acdc_evaluator *evaluator, int32_t count, abl_status *ret_status);
    /* An inert edge is removed for good; behind the commit of trials around it. */
    void (*remove)(abl_acdc_evaluator *evaluator, int64_t edge);
    int64_t (*bytes_estimate)(const abl_prune_options *options);
} abl_acdc_vtable;

extern const abl_acdc_vtable abl_acdc_delta;
extern const abl_acdc_vtable abl_acdc_masked;

/* Tries `count` edges with abl_acdc_masked, each by itself: nothing else is removed. */
ABL_MUST_CHECK abl_code abl_acdc_masked_each(abl_acdc_evaluator *evaluator, const int64_t *edges,
                                             int32_t count, double *ret_effects, int32_t *ret_tried,
                                             abl_status *ret_status);

ABL_END_DECLS
#endif
