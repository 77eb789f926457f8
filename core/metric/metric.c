// SPDX-License-Identifier: Apache-2.0
/* Metrics of one batch's logits, a value a row, in double on the host: a row is one vocabulary,
 * read once or twice, beside a forward pass that made it. */
#include "core/metric/metric.h"

#include "core/base/assert.h"

#include <math.h>
#include <string.h>

static const char *const NAMES[ABL_METRIC_COUNT] = {
    [ABL_METRIC_CLEAN_KL_DIV] = "clean_kl_div",
    [ABL_METRIC_CORRUPT_KL_DIV] = "corrupt_kl_div",
    [ABL_METRIC_ANSWER_DIFF] = "answer_diff",
    [ABL_METRIC_ANSWER_DIFF_PERCENT] = "answer_diff_percent",
    [ABL_METRIC_ANSWER_VALUE] = "answer_value",
    [ABL_METRIC_WRONG_ANSWER_VALUE] = "wrong_answer_value",
    [ABL_METRIC_ANSWER_PROB] = "answer_prob",
    [ABL_METRIC_ANSWER_LOGPROB] = "answer_logprob",
    [ABL_METRIC_ANSWER_PROB_DIFF] = "answer_prob_diff",
    [ABL_METRIC_ANSWER_LOGPROB_DIFF] = "answer_logprob_diff",
    [ABL_METRIC_CORRECT_PERCENT] = "correct_percent",
    [ABL_METRIC_CORRECT_OVER_WRONG_PERCENT] = "correct_over_wrong_percent",
    [ABL_METRIC_MSE] = "mse",
    [ABL_METRIC_ANSWER_PROB_DIFF_PERCENT] = "answer_prob_diff_percent",
    [ABL_METRIC_ANSWER_LOGPROB_DIFF_PERCENT] = "answer_logprob_diff_percent",
    [ABL_METRIC_ANSWER_DIFF_PERCENT_BY_ROW] = "answer_diff_percent_by_row",
};

const char *abl_metric_name(abl_metric metric) {
    return (unsigned)metric < ABL_METRIC_COUNT ? NAMES[metric] : NULL;
}

abl_code abl_metric_find(const char *name, size_t length, abl_metric *ret_metric,
                         abl_status *ret_status) {
    for (int i = 0; i < ABL_METRIC_COUNT; i++) {
        if (strlen(NAMES[i]) == length && memcmp(NAMES[i], name, length) == 0) {
            *ret_metric = (abl_metric)i;
            return ABL_CODE_OK;
        }
    }
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "METRIC_UNKNOWN",
                    "there is no metric '%.*s'; there are clean_kl_div, corrupt_kl_div, "
                    "answer_diff, answer_diff_percent, answer_value, wrong_answer_value, "
                    "answer_prob, answer_logprob, answer_prob_diff, answer_logprob_diff, "
                    "correct_percent, correct_over_wrong_percent, mse, answer_prob_diff_percent, "
                    "answer_logprob_diff_percent and answer_diff_percent_by_row",
                    length > 60 ? 60 : (int)length, name);
}

bool abl_metric_needs_corrupt(abl_metric metric) {
    return metric == ABL_METRIC_CORRUPT_KL_DIV;
}

abl_metric abl_metric_ratio_of(abl_metric metric) {
    return metric == ABL_METRIC_ANSWER_DIFF_PERCENT           ? ABL_METRIC_ANSWER_DIFF
           : metric == ABL_METRIC_ANSWER_PROB_DIFF_PERCENT    ? ABL_METRIC_ANSWER_PROB_DIFF
           : metric == ABL_METRIC_ANSWER_LOGPROB_DIFF_PERCENT ? ABL_METRIC_ANSWER_LOGPROB_DIFF
                                                              : ABL_METRIC_COUNT;
}

/* The difference whose share of the clean run's a metric is; COUNT: it is no share. */
static abl_metric share_of(abl_metric metric) {
    return metric == ABL_METRIC_ANSWER_DIFF_PERCENT_BY_ROW ? ABL_METRIC_ANSWER_DIFF
                                                           : abl_metric_ratio_of(metric);
}

bool abl_metric_needs_clean(abl_metric metric) {
    return metric == ABL_METRIC_CLEAN_KL_DIV || metric == ABL_METRIC_MSE ||
           share_of(metric) != ABL_METRIC_COUNT;
}

static bool needs_wrong(abl_metric metric) {
    return metric == ABL_METRIC_ANSWER_DIFF || metric == ABL_METRIC_WRONG_ANSWER_VALUE ||
           metric == ABL_METRIC_ANSWER_PROB_DIFF || metric == ABL_METRIC_ANSWER_LOGPROB_DIFF ||
           metric == ABL_METRIC_CORRECT_OVER_WRONG_PERCENT || share_of(metric) != ABL_METRIC_COUNT;
}

static bool needs_answers(abl_metric metric) {
    return metric != ABL_METRIC_CLEAN_KL_DIV && metric != ABL_METRIC_CORRUPT_KL_DIV &&
           metric != ABL_METRIC_MSE;
}

/* ---- one row --------------------------------------------------------------------------------- */

/* log of the sum of exp. */
static double log_sum_exp(const float *logits, int32_t count) {
    double max = -INFINITY;
    for (int32_t i = 0; i < count; i++) {
        max = (double)logits[i] > max ? (double)logits[i] : max;
    }
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += exp((double)logits[i] - max);
    }
    return max + log(sum);
}

/* KL(reference || logits), nats; below zero only by rounding. */
static double kl_div(const float *reference, const float *logits, int32_t count) {
    double reference_lse = log_sum_exp(reference, count);
    double lse = log_sum_exp(logits, count);
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        double logp = (double)reference[i] - reference_lse;
        sum += exp(logp) * (logp - ((double)logits[i] - lse));
    }
    return sum > 0 ? sum : 0;
}

static double mean_square_error(const float *a, const float *b, int32_t count) {
    double sum = 0;
    for (int32_t i = 0; i < count; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sum / count;
}

typedef enum value_kind { VALUE_LOGIT, VALUE_PROB, VALUE_LOGPROB } value_kind;

typedef struct id_range {
    const int32_t *ids;
    int32_t count;
} id_range;

static double mean_value(const float *logits, id_range range, value_kind kind, double lse) {
    double sum = 0;
    for (int32_t i = 0; i < range.count; i++) {
        double logit = (double)logits[range.ids[i]];
        sum += kind == VALUE_LOGIT ? logit : kind == VALUE_PROB ? exp(logit - lse) : logit - lse;
    }
    return sum / range.count;
}

static int32_t best_of(const float *logits, id_range range) {
    int32_t best = range.ids[0];
    for (int32_t i = 1; i < range.count; i++) {
        best = logits[range.ids[i]] > logits[best] ? range.ids[i] : best;
    }
    return best;
}

static bool beats_all(const float *logits, int32_t id, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        if (logits[i] > logits[id] || (logits[i] == logits[id] && i < id)) {
            return false;
        }
    }
    return true;
}

static bool beats(const float *logits, int32_t id, id_range others) {
    for (int32_t i = 0; i < others.count; i++) {
        if (logits[others.ids[i]] > logits[id]) {
            return false;
        }
    }
    return true;
}

static double row_value(abl_metric metric, const abl_metric_input *in, int32_t row) {
    size_t at = (size_t)row * (size_t)in->vocab_size;
    const float *logits = in->logits + at;
    const abl_batch *b = in->batch;
    id_range answers = {b->answers + b->answer_offsets[row],
                        b->answer_offsets[row + 1] - b->answer_offsets[row]};
    id_range wrong = {b->wrong_answers + b->wrong_answer_offsets[row],
                      b->wrong_answer_offsets[row + 1] - b->wrong_answer_offsets[row]};
    bool normalized = metric == ABL_METRIC_ANSWER_PROB || metric == ABL_METRIC_ANSWER_LOGPROB ||
                      metric == ABL_METRIC_ANSWER_PROB_DIFF ||
                      metric == ABL_METRIC_ANSWER_LOGPROB_DIFF;
    double lse = normalized ? log_sum_exp(logits, in->vocab_size) : 0;
    switch (metric) {
    case ABL_METRIC_CLEAN_KL_DIV:
        return kl_div(in->clean + at, logits, in->vocab_size);
    case ABL_METRIC_CORRUPT_KL_DIV:
        return kl_div(in->corrupt + at, logits, in->vocab_size);
    case ABL_METRIC_ANSWER_DIFF:
        return mean_value(logits, answers, VALUE_LOGIT, 0) -
               mean_value(logits, wrong, VALUE_LOGIT, 0);
    case ABL_METRIC_ANSWER_DIFF_PERCENT:
    case ABL_METRIC_ANSWER_PROB_DIFF_PERCENT:
    case ABL_METRIC_ANSWER_LOGPROB_DIFF_PERCENT:
    case ABL_METRIC_ANSWER_DIFF_PERCENT_BY_ROW: {
        abl_metric_input clean = *in;
        clean.logits = in->clean;
        return 100 * row_value(share_of(metric), in, row) /
               row_value(share_of(metric), &clean, row);
    }
    case ABL_METRIC_ANSWER_VALUE:
        return mean_value(logits, answers, VALUE_LOGIT, 0);
    case ABL_METRIC_WRONG_ANSWER_VALUE:
        return mean_value(logits, wrong, VALUE_LOGIT, 0);
    case ABL_METRIC_ANSWER_PROB:
        return mean_value(logits, answers, VALUE_PROB, lse);
    case ABL_METRIC_ANSWER_LOGPROB:
        return mean_value(logits, answers, VALUE_LOGPROB, lse);
    case ABL_METRIC_ANSWER_PROB_DIFF:
        return mean_value(logits, answers, VALUE_PROB, lse) -
               mean_value(logits, wrong, VALUE_PROB, lse);
    case ABL_METRIC_ANSWER_LOGPROB_DIFF:
        return mean_value(logits, answers, VALUE_LOGPROB, lse) -
               mean_value(logits, wrong, VALUE_LOGPROB, lse);
    case ABL_METRIC_CORRECT_PERCENT:
        return beats_all(logits, best_of(logits, answers), in->vocab_size) ? 100 : 0;
    case ABL_METRIC_CORRECT_OVER_WRONG_PERCENT:
        return beats(logits, best_of(logits, answers), wrong) ? 100 : 0;
    case ABL_METRIC_MSE:
        return mean_square_error(in->clean + at, logits, in->vocab_size);
    case ABL_METRIC_COUNT:
        break;
    }
    return NAN;
}

abl_code abl_metric_check(abl_metric metric, const abl_batch *batch, abl_status *ret_status) {
    for (int32_t row = 0; row < batch->size; row++) {
        bool answers = batch->answer_offsets[row] < batch->answer_offsets[row + 1];
        bool wrong = batch->wrong_answer_offsets[row] < batch->wrong_answer_offsets[row + 1];
        if ((needs_answers(metric) && !answers) || (needs_wrong(metric) && !wrong)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "METRIC_NEEDS_WRONG_ANSWERS",
                            "metric %s needs %s, and prompt %d has none", NAMES[metric],
                            answers ? "wrong answers" : "answers", batch->first + row);
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_metric_rows(abl_metric metric, const abl_metric_input *input, double *ret_rows,
                         abl_status *ret_status) {
    ABL_ASSERT((unsigned)metric < ABL_METRIC_COUNT);
    ABL_ASSERT(!abl_metric_needs_clean(metric) || input->clean != NULL);
    ABL_ASSERT(!abl_metric_needs_corrupt(metric) || input->corrupt != NULL);
    abl_code code = abl_metric_check(metric, input->batch, ret_status);
    for (int32_t row = 0; code == ABL_CODE_OK && row < input->batch->size; row++) {
        ret_rows[row] = row_value(metric, input, row);
    }
    return code;
}
