/* backward.h -- d loss / d mask at any mask, for any loss of the last position's logits.
 *
 * One forward pass under the mask, as abl_patch_forward(), and one backward pass through it, by
 * hand. The gradient is that of the mask as the options give it, so through the mask function: the
 * draws of a random one are those of the forward pass (same seed).
 *
 * OWNERSHIP  Options are borrowed for the call; what the callback gets and gives belongs to the
 *            scope.
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PATCH_BACKWARD_H
#define ABLATE_CORE_PATCH_BACKWARD_H

#include "core/model/forward.h"
#include "core/patch/patch.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

typedef abl_logits_loss_cb abl_patch_loss_cb;

/* ret_logits (batch, vocab) may be NULL. ret_gradient has the mask's shape, and is overwritten.
 * options->out_slice must be ABL_OUT_SLICE_LAST; a mask must be given.
 *   INVALID_ARGUMENT, RESOURCE_EXHAUSTED  as abl_patch_forward()
 *   INVALID_ARGUMENT  MASK_MISSING, SLICE_INVALID */
ABL_MUST_CHECK abl_code abl_patch_backward(const abl_patch_options *options,
                                           abl_patch_loss_cb loss_cb, void *user_data,
                                           float *ret_logits, float *ret_gradient,
                                           abl_status *ret_status);
int64_t abl_patch_backward_bytes(const abl_patch_options *options); /* working memory, at most */

/* For many passes over one graph: folded weights and arenas are made once. It borrows model and
 * graph; options->model and ->graph of every run must be those. */
typedef struct abl_backward abl_backward;

/*   INVALID_ARGUMENT    GRAPH_MODEL_MISMATCH
 *   RESOURCE_EXHAUSTED  OUT_OF_DEVICE_MEMORY, OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_backward_create(const struct abl_model *model, const abl_graph *graph,
                                            abl_backward **ret_backward, abl_status *ret_status);
void abl_backward_destroy(abl_backward *backward); /* NULL is allowed */
/* As abl_patch_backward(). */
ABL_MUST_CHECK abl_code abl_backward_run(abl_backward *backward, const abl_patch_options *options,
                                         abl_patch_loss_cb loss_cb, void *user_data,
                                         float *ret_logits, float *ret_gradient,
                                         abl_status *ret_status);

ABL_END_DECLS
#endif
