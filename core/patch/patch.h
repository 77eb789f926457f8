/* patch.h -- the forward pass under any edge mask.
 *
 * Each destination reads x + sum over its sources of mask * (ablated - current), before its norm:
 * mask 0 keeps the current activation, 1 replaces it by the ablation, values are not clamped.
 * `current` is what the sources emit in this very pass. The residual stream itself is never
 * patched, only the private copy that feeds a destination (Resid End is the stream); but in a
 * simple graph the destinations are the stream, and what they read goes on.
 *
 * OWNERSHIP  As each call says; options are borrowed for the call.
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PATCH_PATCH_H
#define ABLATE_CORE_PATCH_PATCH_H

#include "core/data/dataset.h"
#include "core/graph/graph.h"
#include "core/model/forward.h"
#include "core/patch/ablation.h"

ABL_BEGIN_DECLS

struct abl_model;

typedef enum abl_patch_type {
    ABL_PATCH_TREE = 0, /* input clean, ablations from corrupt, edges OUTSIDE the circuit ablated */
    ABL_PATCH_EDGE,     /* input corrupt, ablations from clean, edges IN the circuit ablated */
} abl_patch_type;

typedef enum abl_mask_function {
    ABL_MASK_NONE = 0,
    ABL_MASK_SIGMOID,
    ABL_MASK_HARD_CONCRETE, /* random, from `seed`: mask_function.h says how */
    ABL_MASK_FUNCTION_COUNT,
} abl_mask_function;

typedef struct abl_patch_options {
    struct abl_model *model;
    const abl_graph *graph;
    const struct abl_prefix *prefix;
    const int32_t *tokens; /* (batch, seq) */
    int32_t batch;
    int32_t seq;        /* a graph with positions needs exactly its seq_len */
    const float *mask;  /* (mask_batch, edges), canonical order, 1 = ablated; NULL: all 0 */
    int32_t mask_batch; /* 0, 1: one mask for all rows; else `batch`: a mask a row */
    abl_mask_function mask_function;
    float mask_dropout;      /* [0, 1): the chance that a value is dropped (the rest is scaled) */
    uint64_t seed;           /* of what hard_concrete and dropout draw */
    const float *mask_draws; /* hard_concrete's u itself, (batch, edges); NULL: from the seed */
    const abl_sources *ablated;      /* one row, or as many as batch; as long as seq; NULL: ZERO */
    abl_interventions interventions; /* with any, the pass goes by hooked.h: slower, and exact */
    abl_out_slice out_slice;
} abl_patch_options;

/* Writes the logits, (batch, vocab) for one position or (batch, positions, vocab); their count is
 * abl_patch_logit_count().
 *   INVALID_ARGUMENT  MASK_NOT_FINITE, MASK_BATCH_MISMATCH, BATCH_INVALID,
 *                     TOKEN_OUT_OF_RANGE
 *   RESOURCE_EXHAUSTED  OUT_OF_DEVICE_MEMORY, OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_patch_forward(const abl_patch_options *options, float *ret_logits,
                                          abl_status *ret_status);
int64_t abl_patch_logit_count(const abl_patch_options *options);
int64_t abl_patch_bytes_estimate(const abl_patch_options *options); /* working memory, at most */

ABL_END_DECLS
#endif
