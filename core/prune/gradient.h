/* gradient.h -- d loss / d mask for every edge at a uniform mask value, in closed form; internal.
 *
 * OWNERSHIP  abl_gradient_create() hands it to the caller; it borrows model and graph.
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_PRUNE_GRADIENT_H
#define ABLATE_CORE_PRUNE_GRADIENT_H

#include "core/metric/loss.h"
#include "core/patch/folded.h"
#include "core/patch/sources.h"

ABL_BEGIN_DECLS

typedef struct abl_gradient_options {
    const abl_model *model;
    const abl_graph *graph;
    const abl_folded *folded;
    abl_loss loss;
    const abl_batch *batch;
    const abl_sources *ablated; /* NULL: ZERO; residuals are needed when mask_value is not 0 */
    float mask_value;
} abl_gradient_options;

/* Adds this batch's gradients to `scores` (canonical order). */
ABL_MUST_CHECK abl_code abl_gradient_add(const abl_gradient_options *options, float *scores,
                                         abl_status *ret_status);
/* Working memory at most, without the ablated sources and the folded weights. */
int64_t abl_gradient_bytes(const abl_model_config *config, const abl_graph *graph, int64_t batch,
                           int64_t seq);

ABL_END_DECLS
#endif
