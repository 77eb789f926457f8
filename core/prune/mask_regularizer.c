// SPDX-License-Identifier: Apache-2.0
/* The second term of the loss of AutoCircuit 1.0.1's prune_algos/subnetwork_probing.py, and of
 * metrics/completeness_metrics/train_same_under_knockouts.py. The circuit's size, n, is that of a
 * sample of its masks drawn anew:
 *
 *     n / edges                or, with a circuit size, relu(n - size) / size
 *     + avoid_lambda * mean over avoided edges of sigmoid(their masks' odds), the sign such that
 *       being in the circuit costs
 *
 * Of knockouts n counts what is knocked out, in samples of hard_concrete whatever their function,
 * as AutoCircuit has it. */
#include "core/prune/mask_regularizer.h"

#include <math.h>

#define AVOID_SHIFT_TEMPERATURE (2.0 / 3.0)

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* Adds the penalty for avoided edges, and its gradient times lambda. */
static double avoid(const abl_mask_regularizer *r, const float *mask, float *gradient) {
    const abl_mask_training_options *own = r->options;
    const double lambda = (double)own->regularize_lambda;
    const double weight = (own->tree_optimisation ? -1.0 : 1.0) * (double)own->avoid_lambda /
                          (double)own->avoid_edge_count;
    const double shift =
        own->mask_function == ABL_MASK_HARD_CONCRETE ? AVOID_SHIFT_TEMPERATURE * log(0.1 / 1.1) : 0;
    double sum = 0;
    for (int64_t i = 0; i < own->avoid_edge_count; i++) {
        int64_t edge = r->avoid_edges[i];
        double penalty = (double)mask[edge];
        double slope = 1;
        if (own->mask_function != ABL_MASK_NONE) {
            penalty = sigmoid(penalty - shift);
            slope = penalty * (1 - penalty);
        }
        sum += weight * penalty;
        gradient[edge] += (float)(lambda * weight * slope);
    }
    return sum;
}

abl_code abl_mask_regularize(const abl_mask_regularizer *r, const float *mask, float *gradient,
                             float *ret_value, abl_status *ret_status) {
    const abl_mask_training_options *own = r->options;
    const int64_t edges = r->edge_count;
    const double lambda = (double)own->regularize_lambda;
    const abl_mask_sample_options function = {
        .function = own->knockouts_of != NULL ? ABL_MASK_HARD_CONCRETE : own->mask_function,
        .seed = r->seed,
        .draws = r->draws,
        .mask = mask,
        .mask_rows = 1,
        .edges = edges,
        .rows = 1};
    abl_mask_sample sample;
    abl_code code = abl_mask_sample_init(&function, &sample, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    double size = 0;
    for (int64_t i = 0; i < edges; i++) {
        size += (double)sample.values[i];
    }
    size = own->tree_optimisation ? (double)edges - size : size;
    bool active = true;
    double unit = (double)edges;
    if (r->circuit_size > 0) {
        unit = (double)r->circuit_size;
        active = size > unit;
        size = active ? size - unit : 0;
    }
    const float factor =
        active ? (float)((own->tree_optimisation ? -lambda : lambda) / unit) : 0.0F;
    for (int64_t i = 0; i < edges; i++) {
        gradient[i] += factor * sample.slopes[i];
    }
    abl_mask_sample_finish(&sample);
    double value = size / unit;
    if (own->avoid_edge_count > 0) {
        value += avoid(r, mask, gradient);
    }
    *ret_value = (float)(lambda * value);
    return ABL_CODE_OK;
}
