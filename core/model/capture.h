/* capture.h -- which tensors of a pass somebody wants, and the keeping of them; internal.
 *
 * OWNERSHIP  abl_captures_plan() fills the caller's struct; abl_captures_finish() ends it. Entries
 *            are kept in the pass's result, which owns them.
 * THREADS    On the executor of the model's device.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_MODEL_CAPTURE_H
#define ABLATE_CORE_MODEL_CAPTURE_H

#include "core/model/forward.h"

ABL_BEGIN_DECLS

typedef struct abl_captures {
    const abl_forward_options *options;
    bool *wanted; /* (2, n_layers + 1, points): activations, then gradients; row 0 of each: outside
                     the layers, row l + 1: layer l */
    size_t wanted_count;
    bool gradients; /* does the pass go back? */
    int64_t seq;
    abl_forward_result *result;
} abl_captures;

/*   those of abl_hook_parse(), and FAILED_PRECONDITION HOOK_CANNOT_FIRE behind stop_at_layer
 *   INVALID_ARGUMENT  POSITIONS_INVALID  a position that is not there */
ABL_MUST_CHECK abl_code abl_captures_plan(const abl_forward_options *options,
                                          abl_forward_result *result, abl_captures *ret_captures,
                                          abl_status *ret_status);
void abl_captures_finish(abl_captures *captures);

bool abl_captures_want(const abl_captures *captures, abl_hook_point point, int layer);
bool abl_captures_want_gradient(const abl_captures *captures, abl_hook_point point, int layer);
/* Keeps what was wanted, at the wanted positions; NULL is ignored: the scope says why. */
void abl_captures_keep(abl_captures *captures, abl_scope *scope, abl_hook_point point, int layer,
                       abl_tensor *tensor);
void abl_captures_keep_gradient(abl_captures *captures, abl_scope *scope, abl_hook_point point,
                                int layer, abl_tensor *tensor);

ABL_END_DECLS
#endif
