/* sweep.h -- which circuits to run over which prompts: what RunCircuits and EvaluateCircuits share.
 *
 * OWNERSHIP  Texts point into the message; sizes live in the arena.
 * THREADS    Pure functions of their arguments, arenas apart.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_CONVERT_SWEEP_H
#define ABLATE_SERVER_CONVERT_SWEEP_H

#include "ablate/v1/evaluate.pb-c.h"
#include "core/metric/metric.h"
#include "server/convert/common.h"

ABL_BEGIN_DECLS

typedef struct abl_sweep_request {
    const char *job_id;
    const char *dataset_id;  /* NULL: the job's own */
    const char *ablation_id; /* a resident one; NULL: none */
    /* as asked; abl_convert_sweep_sizes() settles them */
    const int64_t *sizes;
    size_t size_count;
    const Ablate__V1__EdgeCounts *counts; /* NULL: the sizes as they are; none: LOGARITHMIC */
    abl_patch_type patch_type;
    abl_ablation ablation;
    bool reverse_clean_corrupt;
    bool signed_scores;
    int32_t batch_size;   /* 0: the job's */
    int32_t prompt_count; /* 0: all */
    bool tail_divergence;
} abl_sweep_request;

/* All that can be said without the job; `message` may be NULL.
 *   INVALID_ARGUMENT    SWEEP_MISSING, JOB_MISSING, BATCH_SIZE_INVALID, PROMPT_COUNT_INVALID
 *   RESOURCE_EXHAUSTED  CIRCUIT_COUNT, BATCH_TOO_BIG */
ABL_MUST_CHECK abl_code abl_convert_sweep(const Ablate__V1__CircuitSweep *message,
                                          abl_sweep_request *ret_request, abl_status *ret_status);

/* The sizes for a graph of edge_count edges that have these scores, ascending.
 *   INVALID_ARGUMENT    CIRCUIT_SIZE_INVALID  outside 0..edge_count, or no size is left
 *   INVALID_ARGUMENT    EDGE_COUNTS_CONFLICT  a rule and a list of sizes
 *   RESOURCE_EXHAUSTED  CIRCUIT_COUNT */
ABL_MUST_CHECK abl_code abl_convert_sweep_sizes(const abl_sweep_request *request,
                                                const float *scores, int64_t edge_count,
                                                abl_arena *arena, int64_t **ret_sizes,
                                                int32_t *ret_count, abl_status *ret_status);

/* What to measure, in both numberings: core's and the protocol's. */
typedef struct abl_sweep_metrics {
    abl_metric metrics[ABL_METRIC_COUNT];
    Ablate__V1__Metric names[ABL_METRIC_COUNT];
    int32_t count;
} abl_sweep_metrics;

/* None: KL_DIV, ANSWER_DIFF and CORRECT_ANSWER_PERCENT.
 *   INVALID_ARGUMENT  METRIC_UNKNOWN, METRIC_COUNT */
ABL_MUST_CHECK abl_code abl_convert_metrics(const Ablate__V1__Metric *metrics, size_t count,
                                            abl_sweep_metrics *ret_metrics, abl_status *ret_status);

ABL_END_DECLS
#endif
