/* candidates.h -- single-edge patches that go through the model together; internal to core/prune.
 *
 * OWNERSHIP  The run owns what it keeps of a batch and of a layer; ground_truth.c opens and closes.
 * THREADS    The device's executor thread only.
 * ERRORS     Sticky in the candidates' scope.
 */
#ifndef ABLATE_CORE_PRUNE_CANDIDATES_H
#define ABLATE_CORE_PRUNE_CANDIDATES_H

#include "core/patch/folded.h"
#include "core/patch/sources.h"
#include "core/prune/algorithm.h"
#include "core/prune/effect.h"

ABL_BEGIN_DECLS

#define ABL_CANDIDATES_MAX 256

typedef struct abl_exact_run {
    int64_t *edges; /* ascending; NULL: all */
    int64_t edge_count;
    int64_t at; /* the next of them, in the current batch */
    abl_folded *folded;

    /* of the current batch */
    abl_scope *batch_scope; /* NULL: not prepared */
    abl_sources *clean;
    abl_differences differences;
    abl_effect effect;
    int64_t from;    /* positions below it are the clean run's in every candidate */
    abl_qkv *prefix; /* a layer: its keys, rotated, and values up to there; NULL when from is 0 */
    struct abl_acdc_evaluator *masked; /* instead of the rest, with the graph's hooks */

    /* of the current layer */
    abl_scope *layer_scope;
    int32_t layer; /* -1: none */
    abl_qkv qkv;   /* the clean run's, rotated, the graph's heads */
} abl_exact_run;

typedef struct abl_candidate {
    abl_edge edge;
    int64_t index; /* of the edge */
} abl_candidate;

/* The candidates of one step, by destination; and a window on those of one destination (at one
 * position, where the graph has them), which most functions are about. */
typedef struct abl_candidates {
    abl_prune *prune;
    abl_exact_run *state;
    const abl_model *model;
    const abl_model_config *config;
    abl_scope *scope;
    abl_batch batch;
    int64_t seq;
    int64_t width;
    abl_candidate all[ABL_CANDIDATES_MAX];
    int64_t all_count;
    int64_t taken; /* edges that they are of, those without a difference included */

    int64_t begin; /* the window: candidates begin .. begin + count */
    int64_t count;
    int64_t rows; /* count * batch */
    const abl_graph_dest *dest;
    int32_t position; /* -1: all */
} abl_candidates;

/* Every candidate through the layers, each from its destination's on: the last position of Resid
 * End, (candidates, batch, d_model). `all` is filled, by destination; the window is at its
 * start. */
abl_tensor *abl_candidates_end(abl_candidates *candidates);

ABL_END_DECLS
#endif
