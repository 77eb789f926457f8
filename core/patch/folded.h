/* folded.h -- each layer's q, k, v projection as destinations see it; internal to core/patch and
 * core/prune.
 *
 * Every destination head has its own input, hence its own norm: qkv_j = norm(x_j) W_j + b_j. Heads
 * are those of the graph: with an expanded graph over grouped weights, or one with joined q, k and
 * v, each query head gets its own copy of its group's K and V columns. Backward passes want the
 * norm's gain (and centring) folded into W, so that the norm is xhat; forward ones do not care, and
 * then the model's own weights are borrowed as they are. What is folded here is float32; the rest
 * has the model's dtype, and products bring it to float32.
 *
 * OWNERSHIP  abl_folded_create() hands it to the caller; it borrows the model.
 * THREADS    The device's executor thread only; checks and abl_folded_bytes() on any.
 * ERRORS     Fallible calls return a code and fill *ret_status; others are sticky in the scope.
 */
#ifndef ABLATE_CORE_PATCH_FOLDED_H
#define ABLATE_CORE_PATCH_FOLDED_H

#include "core/data/dataset.h"
#include "core/graph/graph.h"
#include "core/model/block.h"

ABL_BEGIN_DECLS

typedef struct abl_folded_layer {
    abl_tensor *w; /* (d_model, heads * d_head); any strides */
    abl_tensor *b; /* (heads * d_head); NULL when all zero */
} abl_folded_layer;

typedef struct abl_folded {
    const abl_model *model;
    bool fold; /* the norm is xhat; else the model's, with its gain */
    int32_t layer_count;
    int32_t q_heads;
    int32_t kv_heads; /* K's, and V's */
    int32_t heads;    /* q_heads + 2 * kv_heads */
    int32_t d_head;
    abl_folded_layer *layers;
} abl_folded;

/* What the model has in the form asked for is borrowed; the rest is computed once.
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY, OUT_OF_DEVICE_MEMORY */
ABL_MUST_CHECK abl_code abl_folded_create(const abl_model *model, const abl_graph *graph, bool fold,
                                          abl_folded **ret_folded, abl_status *ret_status);
void abl_folded_destroy(abl_folded *folded); /* NULL is allowed */
/* Bytes that it holds beyond the model's, at most. */
int64_t abl_folded_bytes(const abl_model *model, const abl_graph *graph, bool fold);

/* The norm that goes before: x (..., d_model), contiguous or not. */
abl_tensor *abl_folded_norm(abl_scope *scope, const abl_folded *folded, int layer,
                            const abl_tensor *x);

/* The normed input (batch, pos, d_model) of all heads: (batch, pos, heads, d_head). */
abl_tensor *abl_folded_project(abl_scope *scope, const abl_folded *folded, int layer,
                               const abl_tensor *xhat);
/* The views of such a projection. */
abl_qkv abl_folded_views(abl_scope *scope, const abl_folded *folded, const abl_tensor *qkv);

/*   INVALID_ARGUMENT  GRAPH_MODEL_MISMATCH  another number of layers or heads */
ABL_MUST_CHECK abl_code abl_graph_check_model(const abl_graph *graph, const abl_model *model,
                                              abl_status *ret_status);
/* abl_batches_check(), and that model and graph can take these prompts.
 *   INVALID_ARGUMENT  TOKEN_OUT_OF_RANGE  an id, also of an answer, outside the vocabulary
 *   INVALID_ARGUMENT  SEQ_INVALID         longer than the model's context
 *   INVALID_ARGUMENT  SEQ_LEN_MISMATCH    not as long as the graph's positions */
ABL_MUST_CHECK abl_code abl_batches_check_model(const abl_batches *batches, const abl_graph *graph,
                                                const abl_model *model, abl_status *ret_status);

ABL_END_DECLS
#endif
