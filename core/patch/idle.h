/* idle.h -- which nodes of a masked pass need not be computed; internal to core/patch.
 *
 * A source is idle when it may be taken to emit its own ablation: because nothing that reaches the
 * end reads anything else of it, or because all that it reads is ablated and the ablation is a run
 * of the model, in which it emitted just that. Its difference is 0 then, so its edges may have any
 * mask: here 1, so that destinations which only differ in idle sources read one input. A small
 * circuit leaves most of a model idle.
 *
 * OWNERSHIP  abl_idle_init() fills the caller's struct; end it with abl_idle_finish().
 * THREADS    Any thread.
 * ERRORS     RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY
 */
#ifndef ABLATE_CORE_PATCH_IDLE_H
#define ABLATE_CORE_PATCH_IDLE_H

#include "core/graph/graph.h"

ABL_BEGIN_DECLS

typedef struct abl_idle {
    const abl_graph *graph; /* factorized */
    uint8_t *sources;       /* one byte a source: 1 is idle */
    float *mask; /* (planes, edges of a position): 1 where the source, or the reader, is */
    int64_t planes;
} abl_idle;

typedef struct abl_idle_options {
    const abl_graph *graph;
    const float *mask; /* (planes, edges of a position) */
    int64_t planes;    /* batch rows of masks times positions */
    bool run;          /* the ablation is a run of this model behind this prefix */
} abl_idle_options;

ABL_MUST_CHECK abl_code abl_idle_init(const abl_idle_options *options, abl_idle *ret_idle,
                                      abl_status *ret_status);
void abl_idle_finish(abl_idle *idle); /* zeroed is allowed */

/* Whether a destination need not read: its node is idle. */
bool abl_idle_dest(const abl_idle *idle, const abl_graph_dest *dest);

ABL_END_DECLS
#endif
