/* circuits.h -- run_circuits: a list of circuits over batches, one forward pass a step.
 *
 * Circuits are the edges with |score| >= the threshold of each size (ties enlarge), or edge sets
 * given as such. A step runs one circuit on one batch; batches are the outer loop, so that a
 * batch's ablations are computed once.
 *
 * OWNERSHIP  abl_circuits_create() hands the run to the caller; it borrows model, graph, dataset
 *            and score arrays until abl_circuits_destroy().
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PATCH_CIRCUITS_H
#define ABLATE_CORE_PATCH_CIRCUITS_H

#include "core/patch/patch.h"

ABL_BEGIN_DECLS

typedef struct abl_circuits abl_circuits;

/* One edge set: ascending or not, duplicates count once. */
typedef struct abl_edge_set {
    const int64_t *edges;
    int64_t count;
} abl_edge_set;

typedef struct abl_circuits_options {
    struct abl_model *model;
    const abl_graph *graph;
    abl_batches batches;
    abl_patch_type patch_type;
    abl_ablation ablation;
    const abl_sources *resident; /* made before, and used instead: abl_ablator_options */
    int32_t resident_first;
    bool reverse_clean_corrupt; /* swaps the two inputs */
    abl_out_slice out_slice;
    abl_interventions interventions; /* of every pass, those that ablate included; borrowed */
    const float *scores; /* (edges), canonical order, with sizes: circuits by score ... */
    const int64_t *sizes;
    const abl_edge_set *sets; /* ... or, scores NULL, circuits as sets */
    int32_t circuit_count;    /* of sizes, or of sets */
} abl_circuits_options;

typedef struct abl_circuits_result {
    int32_t circuit;    /* index into sizes or sets; -1: a pass for the mean over the dataset,
                           which comes before the circuits: nothing else is in the result */
    int64_t edge_count; /* actual: ties included */
    int32_t batch_index;
    abl_batch batch;
    const float *logits; /* borrowed until the next step; shape as abl_patch_forward() */
    int64_t logit_count;
    int32_t vocab_size;
} abl_circuits_result;

/*   INVALID_ARGUMENT  CIRCUIT_SIZE_INVALID, CIRCUIT_COUNT, EDGE_INDEX_INVALID, BATCH_SIZE_INVALID,
 *                     SPLIT_INVALID, ABLATION_SHAPE, GRAPH_MODEL_MISMATCH, SEQ_LEN_MISMATCH,
 *                     SCORES_NOT_FINITE */
ABL_MUST_CHECK abl_code abl_circuits_create(const abl_circuits_options *options,
                                            abl_circuits **ret_circuits, abl_status *ret_status);
/* One forward pass. *ret_finished: this was the last one. Not to be called after that, nor after
 * a failure. */
ABL_MUST_CHECK abl_code abl_circuits_step(abl_circuits *circuits, abl_circuits_result *ret_result,
                                          bool *ret_finished, abl_status *ret_status);
void abl_circuits_destroy(abl_circuits *circuits); /* NULL is allowed */

/* Circuits that are equal, by ties, are run once: how many distinct ones there are. */
int32_t abl_circuits_count(const abl_circuits *circuits);
int64_t abl_circuits_step_count(const abl_circuits *circuits);
int64_t abl_circuits_bytes_estimate(const abl_circuits_options *options);

/* For those built on it (core/metric): the unpatched model's logits of the current batch. */
ABL_MUST_CHECK abl_code abl_circuits_unpatched(abl_circuits *circuits, bool corrupt,
                                               const float **ret_logits, abl_status *ret_status);

ABL_END_DECLS
#endif
