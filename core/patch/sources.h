/* sources.h -- what a run's sources emitted, in the compact form that patching needs; internal to
 * core/patch and core/prune.
 *
 * An attention head's output is z_h W_O,h, linear in z: so a run is kept as z (one residual's width
 * a layer) and the difference of two runs' heads is (z' - z)_h W_O,h, one product, instead of one
 * residual's width a head. For 12 heads that is a twelfth of the memory, and half the products.
 *
 * OWNERSHIP  Tensors in it are kept (the sources own them).
 * THREADS    The device's executor thread only.
 * ERRORS     As tensor.h: sticky in scopes.
 */
#ifndef ABLATE_CORE_PATCH_SOURCES_H
#define ABLATE_CORE_PATCH_SOURCES_H

#include "core/model/block.h"
#include "core/patch/patch.h"

ABL_BEGIN_DECLS

struct abl_sources {
    int32_t batch; /* 1 serves any batch: operations broadcast it */
    int32_t seq;
    int32_t prefix_length; /* tokens of the prefix that the run stood behind */
    int32_t layer_count;
    bool run;                        /* what the model emitted in one run, not a mean of runs */
    const struct abl_prefix *prefix; /* of that run: compared, never looked at */
    abl_tensor *start;               /* (batch, pos, d_model): Resid Start */
    abl_tensor **z;                  /* a layer: (batch, pos, head, d_head) */
    abl_tensor **change;  /* a layer: what interventions at hook_result added to the heads' outputs,
                             (batch, pos, head, d_model); NULL: nothing */
    abl_tensor **mlp_out; /* a layer: (batch, pos, d_model); NULL where blocks have no MLP */
    abl_tensor **pre;     /* a layer: the residual before it; NULL when not asked for */
    abl_tensor **mid;     /* a layer: after attention; likewise */
    abl_tensor *end;      /* the last residual; likewise */
};

/* Its tensors one after another, for what treats them all alike: start, then z, change, mlp_out,
 * pre, mid, and end. Residuals are not counted when they were not asked for; others may be NULL. */
int32_t abl_sources_tensor_count(const abl_sources *sources);
abl_tensor *abl_sources_tensor_at(const abl_sources *sources, int32_t index);
abl_tensor **abl_sources_slot_at(abl_sources *sources, int32_t index);
/* One without tensors; NULL when there is no memory. */
abl_sources *abl_sources_alloc(int32_t batch, int32_t seq, int32_t layer_count, bool residuals);
/* Of the same run, but for the number of rows. */
abl_sources *abl_sources_alloc_like(const abl_sources *like, int32_t rows);

/* Every source's own output, (sources, batch, pos, d_model), Resid Start first; constant axes are
 * views of one element. Borrowed from the scope. */
abl_tensor *abl_sources_expand(abl_scope *scope, const abl_model *model, const abl_sources *sources,
                               int32_t batch);

/* As abl_sources_create(); residuals only when asked for. */
ABL_MUST_CHECK abl_code abl_sources_run(const abl_model *model, const struct abl_prefix *prefix,
                                        const int32_t *tokens, int32_t batch, int32_t seq,
                                        bool residuals, abl_sources **ret_sources,
                                        abl_status *ret_status);

/* What a destination would read if every one of its sources were ablated: the other run's
 * residual, or under ZERO (sources NULL) the attention biases so far. Borrowed from the scope;
 * NULL means all zeros. `mid`: after layer's attention; layer may be the layer count: Resid End. */
abl_tensor *abl_sources_residual(abl_scope *scope, const abl_model *model,
                                 const abl_sources *sources, int layer, bool mid);

/* The source differences of one pass, ablated - current, filled as the pass proceeds: an arena of
 * (2 + sources, batch, pos, d_model). Slot 0 is for what a destination reads when all its sources
 * are ablated, slot 1 for the residual, so that the input under any mask is one product with a row
 * (0, 1, mask) or, the same thing from the other end, (1, 0, mask - 1). */
#define ABL_SLOT_ABLATED 0
#define ABL_SLOT_RESIDUAL 1
#define ABL_SLOT_SOURCES 2 /* Resid Start, then each block's heads and its MLP */

typedef struct abl_differences {
    abl_scope *scope; /* of the arena; outlives the pass */
    abl_tensor *arena;
    int64_t batch;
    int64_t seq;
    int64_t width;
} abl_differences;

void abl_differences_start(abl_differences *differences, const abl_sources *ablated,
                           const abl_tensor *start);
void abl_differences_heads(abl_scope *scope, abl_differences *differences, const abl_model *model,
                           const abl_sources *ablated, int layer, int64_t slot,
                           const abl_tensor *z);
void abl_differences_mlp(abl_scope *scope, abl_differences *differences, const abl_sources *ablated,
                         int layer, int64_t slot, const abl_tensor *mlp_out);
/* Of the residual before a layer, or after its attention: a source in simple graphs. */
void abl_differences_residual(abl_scope *scope, abl_differences *differences,
                              const abl_sources *ablated, int layer, bool mid, int64_t slot,
                              const abl_tensor *resid);

/* abl_sources_residual() as (batch, pos, d_model), zeros where that is NULL. */
abl_tensor *abl_differences_ablated(abl_scope *scope, const abl_differences *differences,
                                    const abl_model *model, const abl_sources *ablated, int layer,
                                    bool mid);
/* Fills slots 0 and 1 for the destinations of this point of the pass. */
void abl_differences_fill(abl_scope *scope, abl_differences *differences, const abl_model *model,
                          const abl_sources *ablated, int layer, bool mid, const abl_tensor *resid);

ABL_END_DECLS
#endif
