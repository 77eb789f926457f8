/* simple.h -- passes over a simple graph under a mask, and the gradient at the mask; internal to
 * core/. patcher.c and backward.c hand simple graphs on to here.
 *
 * OWNERSHIP  Options are borrowed for the call.
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PATCH_SIMPLE_H
#define ABLATE_CORE_PATCH_SIMPLE_H

#include "core/patch/backward.h"
#include "core/patch/patch.h"

ABL_BEGIN_DECLS

/* As abl_patch_forward(); the mask is taken as it is (mask_function is not applied), and `ablated`
 * has its residuals, which are sources here. */
ABL_MUST_CHECK abl_code abl_simple_forward(const abl_patch_options *options, float *ret_logits,
                                           abl_status *ret_status);
/* As abl_patch_backward(), of the mask as it is: ret_gradient is (mask_batch, edges). */
ABL_MUST_CHECK abl_code abl_simple_backward(const abl_patch_options *options,
                                            abl_patch_loss_cb loss_cb, void *user_data,
                                            float *ret_logits, float *ret_gradient,
                                            abl_status *ret_status);
/* Working memory at most, of a pass or of a pass and its backward. */
int64_t abl_simple_bytes(const abl_patch_options *options, bool backward);

/* Where the sources of a block are among the graph's, and so their edges among a position's: a
 * source of a simple graph has exactly one edge, in the same order. */
typedef struct abl_simple_block {
    int32_t stream; /* Resid Start, or the Resid Post before */
    int32_t heads;  /* the first of them */
    int32_t mid;    /* -1: the block has none */
    int32_t mlp;    /* likewise */
} abl_simple_block;

abl_simple_block abl_simple_block_at(const abl_graph *graph, int32_t block);

ABL_END_DECLS
#endif
