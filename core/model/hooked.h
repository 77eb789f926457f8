/* hooked.h -- the pass in which every hook point is a tensor of its own: what may be intervened in,
 * patched, and differentiated; internal.
 *
 * OWNERSHIP  What it captures goes to the captures' result.
 * THREADS    On the executor of the model's device.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_MODEL_HOOKED_H
#define ABLATE_CORE_MODEL_HOOKED_H

#include "core/model/capture.h"

ABL_BEGIN_DECLS

/* Whether the fused pass of forward.c does not do. */
bool abl_hooked_is_needed(const abl_captures *captures);
/* What abl_hooked_run() fails with before any work. */
ABL_MUST_CHECK abl_code abl_hooked_check(abl_captures *captures, abl_status *ret_status);
/* Fills the captures' result: logits or residual, entries, scalar. */
ABL_MUST_CHECK abl_code abl_hooked_run(abl_captures *captures, abl_status *ret_status);

ABL_END_DECLS
#endif
