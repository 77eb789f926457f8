/* hooked.h -- a patched pass hook point by hook point: captures, gradients and interventions in a
 * pass whose edges are ablated.
 *
 * What a destination reads is patched first and then its hook point fires; what a source emits goes
 * through its hook point first and is `current` then. So an intervention at a destination's input
 * acts on the patched input, and one at a source's output on what the edges carry, too; one at the
 * stream elsewhere moves every later input by what it moved the stream, as in AutoCircuit.
 *
 * OWNERSHIP  As abl_forward().
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PATCH_HOOKED_H
#define ABLATE_CORE_PATCH_HOOKED_H

#include "core/model/forward.h"
#include "core/patch/patch.h"

ABL_BEGIN_DECLS

/* The pass of `options` with the captures, gradients and interventions of `hooks`, whose model,
 * tokens, batch, seq, out_slice and patch are taken from `options`. Heads have inputs of their own,
 * so ln1's points have a head axis; but in a simple graph they read the stream. Fails as
 * abl_patch_forward() and abl_forward(). */
ABL_MUST_CHECK abl_code abl_patch_hooked(const abl_patch_options *options,
                                         const abl_forward_options *hooks,
                                         abl_forward_result *ret_result, abl_status *ret_status);
/* Working memory and results, at most. */
uint64_t abl_patch_hooked_bytes(const abl_patch_options *options, const abl_forward_options *hooks);

ABL_END_DECLS
#endif
