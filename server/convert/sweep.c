/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers that an enumeration does not have never come here: wire.c refuses them. Sizes are sorted,
 * because a curve is read from its smallest circuit on, and rows are sent in that order. */
#include "server/convert/sweep.h"

#include "core/base/limits.h"
#include "core/graph/scores.h"

#include <stdlib.h>
#include <string.h>

abl_code abl_convert_sweep(const Ablate__V1__CircuitSweep *message, abl_sweep_request *ret_request,
                           abl_status *ret_status) {
    if (message == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SWEEP_MISSING",
                        "sweep is missing: say which circuits of which job's scores to run");
    }
    if (message->job_id[0] == '\0') {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "JOB_MISSING",
                        "sweep.job_id is empty; give the job whose scores rank the edges");
    }
    if (message->n_edge_counts > ABL_CIRCUIT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "CIRCUIT_COUNT",
                        "sweep.edge_counts has %zu sizes; at most %d are taken",
                        message->n_edge_counts, ABL_CIRCUIT_COUNT_MAX);
    }
    if (message->batch_size < 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_SIZE_INVALID",
                        "sweep.batch_size is %d; it must be 0 (the job's) to %d",
                        message->batch_size, ABL_BATCH_MAX);
    }
    if (message->batch_size > ABL_BATCH_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "BATCH_TOO_BIG",
                        "sweep.batch_size is %d; at most %d prompts make a batch",
                        message->batch_size, ABL_BATCH_MAX);
    }
    if (message->prompt_count < 0 || message->prompt_count > ABL_PROMPT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_COUNT_INVALID",
                        "sweep.prompt_count is %d; it must be 0 (all) to the number of prompts in "
                        "the dataset, at most %d",
                        message->prompt_count, ABL_PROMPT_COUNT_MAX);
    }
    *ret_request = (abl_sweep_request){
        .job_id = message->job_id,
        .dataset_id = message->dataset_id[0] == '\0' ? NULL : message->dataset_id,
        .sizes = message->edge_counts,
        .size_count = message->n_edge_counts,
        .patch_type = abl_convert_patch_type(message->patch_type),
        .ablation = abl_convert_ablation_type(message->ablation_type),
        .reverse_clean_corrupt = message->reverse_clean_corrupt != 0,
        .signed_scores = message->signed_scores != 0,
        .batch_size = message->batch_size,
        .prompt_count = message->prompt_count,
        .tail_divergence = message->tail_divergence != 0,
    };
    return ABL_CODE_OK;
}

static int compare_sizes(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left;
    int64_t b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

abl_code abl_convert_sweep_sizes(const abl_sweep_request *request, int64_t edge_count,
                                 abl_arena *arena, int64_t **ret_sizes, int32_t *ret_count,
                                 abl_status *ret_status) {
    size_t room = request->size_count != 0 ? request->size_count : ABL_CIRCUIT_COUNT_MAX;
    int64_t *sizes = abl_arena_alloc(arena, room * sizeof *sizes);
    if (sizes == NULL) {
        return abl_fail_oom(ret_status);
    }
    int32_t count = (int32_t)request->size_count;
    if (count == 0) {
        const abl_edge_counts_options options = {.kind = ABL_EDGE_COUNTS_LOGARITHMIC};
        abl_code code =
            abl_edge_counts(&options, edge_count, sizes, ABL_CIRCUIT_COUNT_MAX, &count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    } else {
        for (int32_t i = 0; i < count; i++) {
            sizes[i] = request->sizes[i];
            if (sizes[i] < 0 || sizes[i] > edge_count) {
                return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                                "sweep.edge_counts[%d] is %lld; it must be 0 to %lld, the edges of "
                                "the job's graph",
                                i, (long long)sizes[i], (long long)edge_count);
            }
        }
        qsort(sizes, (size_t)count, sizeof *sizes, compare_sizes);
    }
    *ret_sizes = sizes;
    *ret_count = count;
    return ABL_CODE_OK;
}

/* By the protocol's number; 0 is no metric. */
static const abl_metric METRICS[] = {
    [ABLATE__V1__METRIC__METRIC_KL_DIV] = ABL_METRIC_CLEAN_KL_DIV,
    [ABLATE__V1__METRIC__METRIC_ANSWER_DIFF] = ABL_METRIC_ANSWER_DIFF,
    [ABLATE__V1__METRIC__METRIC_ANSWER_DIFF_PERCENT] = ABL_METRIC_ANSWER_DIFF_PERCENT,
    [ABLATE__V1__METRIC__METRIC_ANSWER_VALUE] = ABL_METRIC_ANSWER_VALUE,
    [ABLATE__V1__METRIC__METRIC_CORRECT_ANSWER_PERCENT] = ABL_METRIC_CORRECT_PERCENT,
    [ABLATE__V1__METRIC__METRIC_CORRECT_ANSWER_GREATER_THAN_INCORRECT_PERCENT] =
        ABL_METRIC_CORRECT_OVER_WRONG_PERCENT,
    [ABLATE__V1__METRIC__METRIC_CORRUPT_KL_DIV] = ABL_METRIC_CORRUPT_KL_DIV,
    [ABLATE__V1__METRIC__METRIC_WRONG_ANSWER_VALUE] = ABL_METRIC_WRONG_ANSWER_VALUE,
    [ABLATE__V1__METRIC__METRIC_ANSWER_PROB] = ABL_METRIC_ANSWER_PROB,
    [ABLATE__V1__METRIC__METRIC_ANSWER_LOGPROB] = ABL_METRIC_ANSWER_LOGPROB,
    [ABLATE__V1__METRIC__METRIC_ANSWER_PROB_DIFF] = ABL_METRIC_ANSWER_PROB_DIFF,
    [ABLATE__V1__METRIC__METRIC_ANSWER_LOGPROB_DIFF] = ABL_METRIC_ANSWER_LOGPROB_DIFF,
    [ABLATE__V1__METRIC__METRIC_ANSWER_PROB_DIFF_PERCENT] = ABL_METRIC_ANSWER_PROB_DIFF_PERCENT,
    [ABLATE__V1__METRIC__METRIC_ANSWER_LOGPROB_DIFF_PERCENT] =
        ABL_METRIC_ANSWER_LOGPROB_DIFF_PERCENT,
    [ABLATE__V1__METRIC__METRIC_ANSWER_DIFF_PERCENT_BY_ROW] = ABL_METRIC_ANSWER_DIFF_PERCENT_BY_ROW,
    [ABLATE__V1__METRIC__METRIC_MSE] = ABL_METRIC_MSE,
};
_Static_assert(ABL_COUNT_OF(METRICS) == ABL_METRIC_COUNT + 1, "every metric has a number");

abl_code abl_convert_metrics(const Ablate__V1__Metric *metrics, size_t count,
                             abl_sweep_metrics *ret_metrics, abl_status *ret_status) {
    static const Ablate__V1__Metric defaults[] = {
        ABLATE__V1__METRIC__METRIC_KL_DIV, ABLATE__V1__METRIC__METRIC_ANSWER_DIFF,
        ABLATE__V1__METRIC__METRIC_CORRECT_ANSWER_PERCENT};
    if (count == 0) {
        metrics = defaults;
        count = ABL_COUNT_OF(defaults);
    }
    if (count > ABL_METRIC_COUNT) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "METRIC_COUNT",
                        "metrics has %zu entries; at most %d are taken", count, ABL_METRIC_COUNT);
    }
    abl_sweep_metrics converted = {.count = (int32_t)count};
    for (size_t i = 0; i < count; i++) {
        converted.names[i] = metrics[i];
        if ((int)metrics[i] < 1 || (int)metrics[i] >= (int)ABL_COUNT_OF(METRICS)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "METRIC_UNKNOWN",
                            "metrics[%zu] is %d, which is no metric; Metric has 1 to %d", i,
                            (int)metrics[i], ABL_METRIC_COUNT);
        }
        converted.metrics[i] = METRICS[(int)metrics[i]];
    }
    *ret_metrics = converted;
    return ABL_CODE_OK;
}
