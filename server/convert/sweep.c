/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers that an enumeration does not have never come here: wire.c refuses them. Sizes are sorted,
 * because a curve is read from its smallest circuit on, and rows are sent in that order. */
#include "server/convert/sweep.h"

#include "core/base/limits.h"
#include "core/graph/scores.h"
#include "server/convert/ablation.h"

#include <math.h>

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
    bool resident = message->ablation_id[0] != '\0';
    if (resident && abl_convert_ablation_alone("sweep.ablation_type", message->ablation_type,
                                               ret_status) != ABL_CODE_OK) {
        return ABL_CODE_INVALID_ARGUMENT;
    }
    *ret_request = (abl_sweep_request){
        .ablation_id = resident ? message->ablation_id : NULL,
        .counts = message->sizes,
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

/* The sizes as they are. */
static abl_code sizes_copy(const abl_sweep_request *request, int64_t edge_count, int64_t *sizes,
                           int32_t *ret_count, abl_status *ret_status) {
    for (size_t i = 0; i < request->size_count; i++) {
        sizes[i] = request->sizes[i];
        if (sizes[i] < 0 || sizes[i] > edge_count) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                            "sweep.edge_counts[%zu] is %lld; it must be 0 to %lld, the edges of "
                            "the job's graph",
                            i, (long long)sizes[i], (long long)edge_count);
        }
    }
    qsort(sizes, request->size_count, sizeof *sizes, compare_sizes);
    *ret_count = (int32_t)request->size_count;
    return ABL_CODE_OK;
}

_Static_assert((int)ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_LIST ==
                   (int)ABL_EDGE_COUNTS_LIST,
               "the rules are in the same order");
_Static_assert((int)ABLATE__V1__EDGE_COUNTS_END__EDGE_COUNTS_END_REMOVE ==
                   (int)ABL_EDGE_COUNTS_END_REMOVE,
               "the ends are in the same order");

static abl_edge_counts_kind kind_of(const Ablate__V1__EdgeCounts *counts, size_t listed) {
    switch (counts->kind) {
    case ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_UNSPECIFIED:
        return listed > 0 ? ABL_EDGE_COUNTS_LIST : ABL_EDGE_COUNTS_LOGARITHMIC;
    case ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_AUTOMATIC:
        return ABL_EDGE_COUNTS_DEFAULT;
    case ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_ALL:
    case ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_LOGARITHMIC:
    case ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_GROUPS:
    case ABLATE__V1__EDGE_COUNTS_KIND__EDGE_COUNTS_KIND_LIST:
    case _ABLATE__V1__EDGE_COUNTS_KIND_IS_INT_SIZE:
    default:
        return (abl_edge_counts_kind)counts->kind;
    }
}

/* The list, whole numbers and shares, that the rules are about. */
static abl_code list_make(const abl_sweep_request *request, abl_edge_count *list,
                          int32_t *ret_count, abl_status *ret_status) {
    const Ablate__V1__EdgeCounts *counts = request->counts;
    int32_t count = 0;
    for (size_t i = 0; i < request->size_count; i++) {
        list[count++] = (abl_edge_count){.value = (double)request->sizes[i]};
    }
    for (size_t i = 0; i < counts->n_shares; i++) {
        double share = counts->shares[i];
        if (!(share >= 0 && share <= 1)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                            "sweep.sizes.shares[%zu] is %g; a share of all edges is 0 to 1", i,
                            share);
        }
        list[count++] = (abl_edge_count){.value = share, .is_fraction = true};
    }
    *ret_count = count;
    return ABL_CODE_OK;
}

/* By AutoCircuit's rules. */
static abl_code sizes_by_rule(const abl_sweep_request *request, const float *scores,
                              int64_t edge_count, abl_arena *arena, int64_t *sizes,
                              int32_t *ret_count, abl_status *ret_status) {
    static const Ablate__V1__EdgeCounts none = ABLATE__V1__EDGE_COUNTS__INIT;
    abl_sweep_request full = *request;
    full.counts = request->counts == NULL ? &none : request->counts;
    size_t listed = full.size_count + full.counts->n_shares;
    abl_edge_counts_options options = {.kind = kind_of(full.counts, listed),
                                       .values = scores,
                                       .true_edge_count = full.counts->true_edge_count,
                                       .zero = (abl_edge_counts_end)full.counts->zero,
                                       .all = (abl_edge_counts_end)full.counts->all};
    if (listed > 0 && options.kind != ABL_EDGE_COUNTS_LIST) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_COUNTS_CONFLICT",
                        "sweep.sizes.kind is a rule, and sizes are listed, too (%zu); give one or "
                        "the other",
                        listed);
    }
    if (listed > ABL_CIRCUIT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "CIRCUIT_COUNT",
                        "%zu sizes are listed; at most %d are taken", listed,
                        ABL_CIRCUIT_COUNT_MAX);
    }
    abl_edge_count *list = abl_arena_alloc(arena, (listed + 1) * sizeof *list);
    if (list == NULL) {
        return abl_fail_oom(ret_status);
    }
    options.list = list;
    abl_code code = list_make(&full, list, &options.list_count, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_edge_counts(&options, edge_count, sizes, ABL_CIRCUIT_COUNT_MAX, ret_count,
                               ret_status);
    }
    if (code == ABL_CODE_OK && *ret_count == 0) {
        return abl_fail(
            ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
            "sweep.sizes leaves no circuit to run: of one or two sizes, 0 and all edges "
            "are taken out unless sizes.zero and sizes.all say ADD");
    }
    return code;
}

abl_code abl_convert_sweep_sizes(const abl_sweep_request *request, const float *scores,
                                 int64_t edge_count, abl_arena *arena, int64_t **ret_sizes,
                                 int32_t *ret_count, abl_status *ret_status) {
    int64_t *sizes = abl_arena_alloc(arena, ABL_CIRCUIT_COUNT_MAX * sizeof *sizes);
    if (sizes == NULL) {
        return abl_fail_oom(ret_status);
    }
    int32_t count = 0;
    abl_code code =
        request->counts == NULL && request->size_count > 0
            ? sizes_copy(request, edge_count, sizes, &count, ret_status)
            : sizes_by_rule(request, scores, edge_count, arena, sizes, &count, ret_status);
    if (code == ABL_CODE_OK) {
        *ret_sizes = sizes;
        *ret_count = count;
    }
    return code;
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
