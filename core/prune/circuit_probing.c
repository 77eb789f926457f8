// SPDX-License-Identifier: Apache-2.0
/* A training for each circuit size, ascending. When one ends, the edges of the circuit of that size
 * that no smaller circuit has get a score: the number of sizes not below it, so that smaller means
 * higher. */
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/prune/mask_training.h"

#include <stdlib.h>
#include <string.h>

typedef struct circuit_probing {
    abl_mask_training *training;
    int64_t *sizes; /* ascending */
    int32_t size_count;
    int32_t at;     /* the size that is trained for */
    float *trained; /* that training's scores */
} circuit_probing;

static int size_compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static abl_code sizes_check(const abl_prune *prune, abl_status *ret_status) {
    const int32_t count = prune->options.circuit_probing.size_count;
    if (count < 1 || count > ABL_CIRCUIT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "%d circuit_sizes were given; there must be 1 to %d", count,
                        ABL_CIRCUIT_COUNT_MAX);
    }
    const double steps = (double)count * prune->options.subnetwork_probing.epochs *
                         abl_batches_count(&prune->options.batches);
    if (steps > ABL_TRAINING_STEP_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "circuit_sizes times epochs times batches are %.0f steps; the most is %d",
                        steps, ABL_TRAINING_STEP_COUNT_MAX);
    }
    return ABL_CODE_OK;
}

static abl_code sizes_sort(const abl_prune *prune, circuit_probing *state, abl_status *ret_status) {
    const size_t count = (size_t)prune->options.circuit_probing.size_count;
    state->sizes = abl_calloc(count, sizeof *state->sizes);
    state->trained = abl_calloc((size_t)prune->edge_count, sizeof *state->trained);
    if (state->sizes == NULL || state->trained == NULL) {
        return abl_fail_oom(ret_status);
    }
    memcpy(state->sizes, prune->options.circuit_probing.sizes, count * sizeof *state->sizes);
    qsort(state->sizes, count, sizeof *state->sizes, size_compare);
    state->size_count = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        if (state->sizes[i] < 1 || state->sizes[i] > prune->edge_count ||
            (i > 0 && state->sizes[i] == state->sizes[i - 1])) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                            "circuit_sizes has %lld; sizes are different, and 1 to %lld, the edges "
                            "of this graph",
                            (long long)state->sizes[i], (long long)prune->edge_count);
        }
    }
    return ABL_CODE_OK;
}

static abl_code open(abl_prune *prune, abl_status *ret_status) {
    abl_code code = sizes_check(prune, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    circuit_probing *state = abl_calloc(1, sizeof *state);
    prune->state = state;
    if (state == NULL) {
        return abl_fail_oom(ret_status);
    }
    code = sizes_sort(prune, state, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    prune->options.subnetwork_probing.circuit_size = state->sizes[0];
    code = abl_mask_training_create(&prune->options, &state->training, ret_status);
    if (code == ABL_CODE_OK) {
        prune->progress.total = abl_mask_training_prepare_count(state->training) +
                                state->size_count * abl_mask_training_step_count(state->training);
    }
    return code;
}

static abl_code circuit_score(abl_prune *prune, circuit_probing *state, abl_status *ret_status) {
    float threshold = 0;
    abl_mask_training_scores(state->training, state->trained);
    abl_code code = abl_scores_thresholds(state->trained, prune->edge_count,
                                          &state->sizes[state->at], 1, &threshold, ret_status);
    for (int64_t i = 0; code == ABL_CODE_OK && i < prune->edge_count; i++) {
        if (state->trained[i] >= threshold && prune->scores[i] == 0.0F) {
            prune->scores[i] = (float)(state->size_count - state->at);
        }
    }
    return code;
}

static abl_code step(abl_prune *prune, abl_status *ret_status) {
    circuit_probing *state = prune->state;
    abl_code code = abl_mask_training_step(state->training, prune, ret_status);
    if (code != ABL_CODE_OK || !abl_mask_training_is_finished(state->training)) {
        return code;
    }
    code = circuit_score(prune, state, ret_status);
    state->at++;
    if (code == ABL_CODE_OK && state->at < state->size_count) {
        code = abl_mask_training_restart(state->training, state->sizes[state->at], ret_status);
    }
    return code;
}

static void close(abl_prune *prune) {
    circuit_probing *state = prune->state;
    if (state == NULL) {
        return;
    }
    abl_mask_training_destroy(state->training);
    abl_free(state->sizes);
    abl_free(state->trained);
    abl_free(state);
    prune->state = NULL;
}

const abl_prune_vtable abl_prune_circuit_probing = {
    .open = open, .step = step, .close = close, .bytes_estimate = abl_mask_training_bytes_estimate};
