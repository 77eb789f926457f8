/* sweep.h -- a metric for each circuit of a list of sizes, over a dataset: a faithfulness curve.
 *
 * OWNERSHIP  abl_sweep_create() hands the sweep to the caller; it borrows model, graph, dataset
 *            and score arrays until abl_sweep_destroy().
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_METRIC_SWEEP_H
#define ABLATE_CORE_METRIC_SWEEP_H

#include "core/metric/metric.h"
#include "core/patch/circuits.h"

ABL_BEGIN_DECLS

typedef struct abl_sweep abl_sweep;

typedef struct abl_sweep_options {
    abl_circuits_options circuits; /* slice must be ABL_OUT_SLICE_LAST */
    abl_metric metrics[ABL_METRIC_COUNT];
    int32_t metric_count;
} abl_sweep_options;

/* The rows of the table so far; complete when finished. */
typedef struct abl_sweep_row {
    int64_t edge_count;
    int32_t rows;                    /* prompts in the means */
    double values[ABL_METRIC_COUNT]; /* in the order of options.metrics */
    double stds[ABL_METRIC_COUNT];   /* sample standard deviations over prompts; 0 where a metric
                                        is a ratio of sums, and for one prompt */
} abl_sweep_row;

typedef struct abl_sweep_progress {
    int64_t steps_done;
    int64_t steps_total;
    int32_t row; /* the row that this step changed; -1: none, a pass for the mean ablation */
    bool finished;
} abl_sweep_progress;

/* As abl_circuits_create(), and
 *   INVALID_ARGUMENT  METRIC_NEEDS_WRONG_ANSWERS, METRIC_COUNT */
ABL_MUST_CHECK abl_code abl_sweep_create(const abl_sweep_options *options, abl_sweep **ret_sweep,
                                         abl_status *ret_status);
/* One circuit on one batch, or before those a pass for the mean that ablates. */
ABL_MUST_CHECK abl_code abl_sweep_step(abl_sweep *sweep, abl_sweep_progress *ret_progress,
                                       abl_status *ret_status);
int32_t abl_sweep_row_count(const abl_sweep *sweep);
abl_sweep_row abl_sweep_row_at(const abl_sweep *sweep, int32_t index);
void abl_sweep_destroy(abl_sweep *sweep); /* NULL is allowed */

ABL_END_DECLS
#endif
