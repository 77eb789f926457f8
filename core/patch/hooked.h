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

#include "core/patch/patch.h"

ABL_BEGIN_DECLS

/* The pass of `options` with the captures and gradients of `hooks`, whose model, tokens, batch,
 * seq, prefix, out_slice, interventions and patch are taken from `options`. Heads have inputs of
 * their own, so ln1's points have a head axis; but in a simple graph they read the stream. Fails as
 * abl_patch_forward() and abl_forward(). */
ABL_MUST_CHECK abl_code abl_patch_hooked(const abl_patch_options *options,
                                         const abl_forward_options *hooks,
                                         abl_forward_result *ret_result, abl_status *ret_status);
/* Working memory and results, at most. */
uint64_t abl_patch_hooked_bytes(const abl_patch_options *options, const abl_forward_options *hooks);

/* ---- for those whose options may have interventions ------------------------------------------ */

/* That the interventions can be done in such a pass, or in one and its gradient, before there is
 * one: their hook points fire, and what they name is there. Fails as abl_forward(). */
ABL_MUST_CHECK abl_code abl_patch_hooked_check(const abl_patch_options *options, bool gradient,
                                               abl_status *ret_status);
/* abl_patcher_run() and abl_backward_run() by this pass: the mask is taken as it is. */
ABL_MUST_CHECK abl_code abl_patch_hooked_logits(const abl_patch_options *options, float *ret_logits,
                                                abl_status *ret_status);

typedef struct abl_patch_hooked_loss {
    abl_logits_loss_cb loss_cb;
    void *user_data;
    const abl_sources *current; /* `current` is this run's, and the mask 0; NULL: the pass's own */
} abl_patch_hooked_loss;

/* ret_logits (batch, vocab) may be NULL; ret_gradient has the mask's shape, and is overwritten. */
ABL_MUST_CHECK abl_code abl_patch_hooked_gradient(const abl_patch_options *options,
                                                  const abl_patch_hooked_loss *loss,
                                                  float *ret_logits, float *ret_gradient,
                                                  abl_status *ret_status);
/* What sources emit in a run of the options' tokens without a mask: abl_sources_run(), under the
 * options' interventions. */
ABL_MUST_CHECK abl_code abl_patch_hooked_sources(const abl_patch_options *options, bool residuals,
                                                 abl_sources **ret_sources, abl_status *ret_status);
int64_t abl_patch_hooked_run_bytes(const abl_patch_options *options,
                                   bool gradient); /* working memory */

ABL_END_DECLS
#endif
