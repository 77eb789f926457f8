/* ablation.h -- what an edge's source is replaced by: the kinds of ablation, made from prompts.
 *
 * Whatever its kind, an ablation is one abl_sources (NULL: zeros), for the compact form is linear:
 * the mean of runs is the mean of their tensors. Means have one row, which serves every row of a
 * batch. A build makes one over a dataset, a pass a step, with one batch's memory and a running
 * mean; an ablator gives each batch its own, and has the build for kinds over the dataset.
 *
 * OWNERSHIP  abl_..._create() hands the object to the caller; it borrows model, dataset and
 *            resident sources until abl_..._destroy().
 * THREADS    The device's executor thread only; names from any.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PATCH_ABLATION_H
#define ABLATE_CORE_PATCH_ABLATION_H

#include "core/data/dataset.h"
#include "core/graph/graph.h"
#include "core/model/intervene.h"

ABL_BEGIN_DECLS

struct abl_model;
struct abl_prefix;        /* core/model/prefix.h: what tokens stand behind; NULL: nothing */
struct abl_patch_options; /* patch.h */

typedef enum abl_ablation {
    ABL_ABLATION_RESAMPLE = 0, /* the other prompt's activations, same row */
    ABL_ABLATION_ZERO,
    ABL_ABLATION_TOKENWISE_MEAN_CLEAN, /* for each position, the mean over all clean prompts */
    ABL_ABLATION_TOKENWISE_MEAN_CORRUPT,
    ABL_ABLATION_TOKENWISE_MEAN_CLEAN_AND_CORRUPT,
    ABL_ABLATION_BATCH_TOKENWISE_MEAN, /* over the rows of this batch of the other prompt */
    ABL_ABLATION_BATCH_ALL_TOK_MEAN,   /* over its rows and positions */
} abl_ablation;

#define ABL_ABLATION_COUNT 7

/* AutoCircuit's name, "TOKENWISE_MEAN_CLEAN"; NULL for none. */
const char *abl_ablation_name(abl_ablation ablation);
/* One mean over all prompts, which the other batches share. */
bool abl_ablation_is_over_dataset(abl_ablation ablation);

/* The source outputs that ablate, resident on the model's device. */
typedef struct abl_sources abl_sources;

/* Runs the model on tokens (batch, seq) and keeps every source's output, with residuals.
 *   RESOURCE_EXHAUSTED  OUT_OF_DEVICE_MEMORY, OUT_OF_HOST_MEMORY
 *   INVALID_ARGUMENT    TOKEN_OUT_OF_RANGE, BATCH_INVALID */
ABL_MUST_CHECK abl_code abl_sources_create(struct abl_model *model, const struct abl_prefix *prefix,
                                           const int32_t *tokens, int32_t batch, int32_t seq,
                                           abl_sources **ret_sources, abl_status *ret_status);
void abl_sources_destroy(abl_sources *sources); /* NULL is allowed */
int64_t abl_sources_bytes(const abl_sources *sources);
int32_t abl_sources_rows(const abl_sources *sources); /* 1 serves any batch */
int32_t abl_sources_seq(const abl_sources *sources);
int32_t abl_sources_prefix_length(const abl_sources *sources); /* tokens in front, not among seq */
/* Every source's own output, (sources, rows, seq, d_model), Resid Start first, to host memory. */
ABL_MUST_CHECK abl_code abl_sources_read(const struct abl_model *model, const abl_sources *sources,
                                         float *ret_values, size_t count, abl_status *ret_status);

/* From prompts in hand, the run's tokens behind its prefix and under its interventions (the rest of
 * the options is not looked at): RESAMPLE theirs row by row, any mean over all of them. ZERO has
 * nothing to make. As abl_sources_create(). */
ABL_MUST_CHECK abl_code abl_ablation_create(const struct abl_patch_options *run,
                                            abl_ablation ablation, abl_sources **ret_sources,
                                            abl_status *ret_status);

/* ---- over a dataset -------------------------------------------------------------------------- */

typedef struct abl_ablation_options {
    struct abl_model *model;
    abl_ablation ablation;
    abl_batches batches;
    bool clean; /* the prompts that ablate are the clean ones; for TOKENWISE_MEAN_* the kind says */
    bool residuals; /* kept too: for destinations whose sources are all ablated (sources.h) */
    /* What ablates is emitted under these, too; with any, the graph whose runs have them. */
    abl_interventions interventions;
    const abl_graph *graph;
} abl_ablation_options;

/* An ablation over all batches in the making: means have one row (BATCH_* ones too: the dataset is
 * their batch), RESAMPLE a row for each prompt. ZERO has nothing to make. */
typedef struct abl_ablation_build abl_ablation_build;

/*   INVALID_ARGUMENT    BATCH_SIZE_INVALID, SPLIT_INVALID, TOKEN_OUT_OF_RANGE, SEQ_INVALID
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_ablation_build_create(const abl_ablation_options *options,
                                                  abl_ablation_build **ret_build,
                                                  abl_status *ret_status);
void abl_ablation_build_destroy(abl_ablation_build *build); /* NULL is allowed */
int32_t abl_ablation_build_step_count(const abl_ablation_build *build);
int32_t abl_ablation_build_steps_done(const abl_ablation_build *build);
/* One pass over one batch; not after the last one, nor after a failure. */
ABL_MUST_CHECK abl_code abl_ablation_build_step(abl_ablation_build *build, abl_status *ret_status);
/* All steps are done: the ablation, once. */
abl_sources *abl_ablation_build_take(abl_ablation_build *build);
/* What the ablation takes, plus the pass that makes it, at most. */
int64_t abl_ablation_build_bytes_estimate(const abl_ablation_options *options);

/* ---- for batches ----------------------------------------------------------------------------- */

typedef struct abl_ablator abl_ablator;

typedef struct abl_ablator_options {
    abl_ablation_options of;
    /* Made before, and used whatever the kind says: one row, or a row for each of the dataset's
     * prompts from resident_first on; with residuals. NULL: none. */
    const abl_sources *resident;
    int32_t resident_first;
} abl_ablator_options;

/* As abl_ablation_build_create(), and
 *   INVALID_ARGUMENT  ABLATION_SHAPE  the resident one has another length, or lacks rows */
ABL_MUST_CHECK abl_code abl_ablator_create(const abl_ablator_options *options,
                                           abl_ablator **ret_ablator, abl_status *ret_status);
void abl_ablator_destroy(abl_ablator *ablator); /* NULL is allowed */
/* Passes that come before the first batch's ablation: 0 but for means over the dataset. */
int32_t abl_ablator_steps_left(const abl_ablator *ablator);
/* One of them. */
ABL_MUST_CHECK abl_code abl_ablator_step(abl_ablator *ablator, abl_status *ret_status);
/* The ablation of a batch of the options' batches, borrowed until the next call; NULL is ZERO. No
 * step is left. */
ABL_MUST_CHECK abl_code abl_ablator_batch(abl_ablator *ablator, const abl_batch *batch,
                                          const abl_sources **ret_ablated, abl_status *ret_status);
/* What it holds at a time, at most. */
int64_t abl_ablator_bytes_estimate(const abl_ablator_options *options);

ABL_END_DECLS
#endif
