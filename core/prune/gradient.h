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

/* EAP-IG: the pass leaves the clean run at one place, where a fixed blend of the clean run and the
 * ablation is emitted, through which no gradient flows. */
typedef enum abl_blend_place {
    ABL_BLEND_START = 0, /* Resid Start */
    ABL_BLEND_HEADS,     /* all heads of a block */
    ABL_BLEND_MLP,       /* a block's MLP */
} abl_blend_place;

typedef struct abl_blend {
    const abl_sources *clean; /* differences are ablated - clean, whatever this pass emits */
    abl_blend_place place;
    int32_t layer; /* of HEADS and MLP */
    double share;  /* share * clean + (1 - share) * ablated */
} abl_blend;

typedef struct abl_gradient_options {
    const abl_model *model;
    const abl_graph *graph;
    const abl_folded *folded;
    abl_loss loss;
    const abl_batch *batch;
    const abl_sources *ablated; /* NULL: ZERO; residuals are needed when mask_value is not 0 */
    float mask_value;
    const abl_blend *blend; /* NULL: none; else mask_value is 0 */
} abl_gradient_options;

/* Adds this batch's gradients to `scores` (canonical order). */
ABL_MUST_CHECK abl_code abl_gradient_add(const abl_gradient_options *options, float *scores,
                                         abl_status *ret_status);
/* Working memory at most, without the ablated sources and the folded weights. */
int64_t abl_gradient_bytes(const abl_model_config *config, const abl_graph *graph, int64_t batch,
                           int64_t seq);

ABL_END_DECLS
#endif
