/* patcher.h -- what masked passes over one graph share: folded projections and the arena of source
 * differences, made once and used for every mask; internal to core/.
 *
 * OWNERSHIP  abl_patcher_create() hands it to the caller; it borrows model and graph.
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PATCH_PATCHER_H
#define ABLATE_CORE_PATCH_PATCHER_H

#include "core/patch/folded.h"
#include "core/patch/mask_function.h"
#include "core/patch/patch.h"
#include "core/patch/sources.h"

ABL_BEGIN_DECLS

typedef struct abl_patcher abl_patcher;

ABL_MUST_CHECK abl_code abl_patcher_create(const abl_model *model, const abl_graph *graph,
                                           abl_patcher **ret_patcher, abl_status *ret_status);
void abl_patcher_destroy(abl_patcher *patcher); /* NULL is allowed */
/* As abl_patch_forward(); options->model and ->graph are the patcher's. The mask is taken as it is
 * (mask_function is not applied) and must be finite. */
ABL_MUST_CHECK abl_code abl_patcher_run(abl_patcher *patcher, const abl_patch_options *options,
                                        float *ret_logits, abl_status *ret_status);

/* The same under a sample of the mask: through the mask function and dropout. */
ABL_MUST_CHECK abl_code abl_patcher_run_sampled(abl_patcher *patcher,
                                                const abl_patch_options *options, float *ret_logits,
                                                abl_status *ret_status);

/* What abl_patch_forward() fails with, before any work. */
ABL_MUST_CHECK abl_code abl_patch_check(const abl_patch_options *options, abl_status *ret_status);
/* How the options' mask becomes the one that mixes. */
abl_mask_sample_options abl_patch_mask_function(const abl_patch_options *options);
/* The options with that mask in the place of theirs, drawn where something is to be drawn;
 * *ret_sample, which it may be, is the caller's to finish. */
ABL_MUST_CHECK abl_code abl_patch_sample(const abl_patch_options *options,
                                         abl_patch_options *ret_plain, abl_mask_sample *ret_sample,
                                         abl_status *ret_status);

ABL_END_DECLS
#endif
