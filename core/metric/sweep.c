// SPDX-License-Identifier: Apache-2.0
/* A faithfulness curve: circuits.c runs the circuits, this averages metrics over rows. A step is
 * one circuit on one batch; its values go into that circuit's running sums, so rows of the table
 * are means over the prompts seen so far. Percent metrics are ratios of two such sums. */
#include "core/metric/sweep.h"

#include "core/base/assert.h"
#include "core/base/mem.h"

#include <math.h>

typedef struct row_sums {
    int64_t edge_count;
    int32_t rows;
    double sums[ABL_METRIC_COUNT];
    double clean_sums[ABL_METRIC_COUNT]; /* for metrics that are ratios of sums */
    double means[ABL_METRIC_COUNT];      /* Welford's running mean, and the next */
    double squares[ABL_METRIC_COUNT];    /* sum of squared distances from it */
} row_sums;

struct abl_sweep {
    abl_sweep_options options;
    abl_circuits *circuits;
    row_sums *rows;
    int32_t row_count;
    double *values; /* one batch's, a row each */
    int64_t steps_done;
    int64_t rows_done; /* circuits on a batch */
};

static abl_code options_check(const abl_sweep_options *o, abl_status *ret_status) {
    if (o->metric_count < 1 || o->metric_count > ABL_METRIC_COUNT) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "METRIC_COUNT",
                        "%d metrics were asked for; there must be 1 to %d", o->metric_count,
                        ABL_METRIC_COUNT);
    }
    if (o->circuits.out_slice != ABL_OUT_SLICE_LAST) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SLICE_INVALID",
                        "metrics are of the last position; out_slice must be last_seq");
    }
    const abl_batches *batches = &o->circuits.batches;
    for (int32_t i = 0; i < o->metric_count; i++) {
        for (int32_t j = 0; j < abl_batches_count(batches); j++) {
            abl_batch batch = abl_batches_at(batches, j);
            abl_code code = abl_metric_check(o->metrics[i], &batch, ret_status);
            if (code != ABL_CODE_OK) {
                return code;
            }
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_sweep_create(const abl_sweep_options *options, abl_sweep **ret_sweep,
                          abl_status *ret_status) {
    abl_circuits *circuits = NULL; /* first: it checks graph, model and batches */
    abl_code code = abl_circuits_create(&options->circuits, &circuits, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_sweep *sweep = NULL;
    code = options_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        goto fail;
    }
    sweep = abl_calloc(1, sizeof *sweep);
    if (sweep == NULL) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    sweep->options = *options;
    sweep->row_count = abl_circuits_count(circuits);
    sweep->rows = abl_calloc((size_t)sweep->row_count, sizeof *sweep->rows);
    sweep->values = abl_calloc((size_t)options->circuits.batches.batch_size, sizeof *sweep->values);
    if (sweep->rows == NULL || sweep->values == NULL) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    sweep->circuits = circuits;
    *ret_sweep = sweep;
    return ABL_CODE_OK;
fail:
    abl_circuits_destroy(circuits);
    abl_sweep_destroy(sweep);
    return code;
}

void abl_sweep_destroy(abl_sweep *sweep) {
    if (sweep == NULL) {
        return;
    }
    abl_circuits_destroy(sweep->circuits);
    abl_free(sweep->rows);
    abl_free(sweep->values);
    abl_free(sweep);
}

static double sum_of(const double *values, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return sum;
}

/* Welford's update: `row->rows` values are in already. */
static void deviations_add(row_sums *row, int32_t index, const double *values, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        double delta = values[i] - row->means[index];
        row->means[index] += delta / (row->rows + i + 1);
        row->squares[index] += delta * (values[i] - row->means[index]);
    }
}

/* Adds one metric of one batch to a row. */
static abl_code metric_add(abl_sweep *sweep, int32_t index, const abl_metric_input *input,
                           row_sums *row, abl_status *ret_status) {
    abl_metric metric = sweep->options.metrics[index];
    abl_metric base = abl_metric_ratio_of(metric);
    bool ratio = base != ABL_METRIC_COUNT;
    const int32_t size = input->batch->size;
    abl_code code = abl_metric_rows(ratio ? base : metric, input, sweep->values, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    row->sums[index] += sum_of(sweep->values, size);
    deviations_add(row, index, sweep->values, size);
    if (ratio) {
        abl_metric_input clean = *input;
        clean.logits = input->clean;
        code = abl_metric_rows(base, &clean, sweep->values, ret_status);
        row->clean_sums[index] += code == ABL_CODE_OK ? sum_of(sweep->values, size) : 0;
    }
    return code;
}

static abl_code references(abl_sweep *sweep, abl_metric_input *input, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int32_t i = 0; code == ABL_CODE_OK && i < sweep->options.metric_count; i++) {
        abl_metric metric = sweep->options.metrics[i];
        if (abl_metric_needs_corrupt(metric) && input->corrupt == NULL) {
            code = abl_circuits_unpatched(sweep->circuits, true, &input->corrupt, ret_status);
        } else if (abl_metric_needs_clean(metric) && input->clean == NULL) {
            code = abl_circuits_unpatched(sweep->circuits, false, &input->clean, ret_status);
        }
    }
    return code;
}

/* A circuit's pass over a batch: its metrics into its row. */
static abl_code row_add(abl_sweep *sweep, const abl_circuits_result *result, int32_t *ret_row,
                        abl_status *ret_status) {
    abl_metric_input input = {
        .batch = &result->batch, .logits = result->logits, .vocab_size = result->vocab_size};
    abl_code code = references(sweep, &input, ret_status);
    int32_t at = (int32_t)(sweep->rows_done % sweep->row_count); /* circuits.c: batches outside */
    row_sums *row = &sweep->rows[at];
    for (int32_t i = 0; code == ABL_CODE_OK && i < sweep->options.metric_count; i++) {
        code = metric_add(sweep, i, &input, row, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    row->edge_count = result->edge_count;
    row->rows += result->batch.size;
    sweep->rows_done++;
    *ret_row = at;
    return ABL_CODE_OK;
}

abl_code abl_sweep_step(abl_sweep *sweep, abl_sweep_progress *ret_progress,
                        abl_status *ret_status) {
    abl_circuits_result result;
    bool finished = false;
    abl_code code = abl_circuits_step(sweep->circuits, &result, &finished, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    sweep->steps_done++;
    *ret_progress = (abl_sweep_progress){.steps_done = sweep->steps_done,
                                         .steps_total = abl_circuits_step_count(sweep->circuits),
                                         .row = -1,
                                         .finished = finished};
    return result.circuit < 0 ? ABL_CODE_OK
                              : row_add(sweep, &result, &ret_progress->row, ret_status);
}

int32_t abl_sweep_row_count(const abl_sweep *sweep) {
    return sweep->row_count;
}

abl_sweep_row abl_sweep_row_at(const abl_sweep *sweep, int32_t index) {
    ABL_ASSERT(index >= 0 && index < sweep->row_count);
    const row_sums *row = &sweep->rows[index];
    abl_sweep_row out = {.edge_count = row->edge_count, .rows = row->rows};
    for (int32_t i = 0; i < sweep->options.metric_count; i++) {
        bool ratio = abl_metric_ratio_of(sweep->options.metrics[i]) != ABL_METRIC_COUNT;
        out.values[i] = row->rows == 0 ? NAN
                        : ratio        ? 100 * row->sums[i] / row->clean_sums[i]
                                       : row->sums[i] / row->rows;
        out.stds[i] = ratio || row->rows < 2 ? 0 : sqrt(row->squares[i] / (row->rows - 1));
    }
    return out;
}
