// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/unit.h"

#include "core/metric/metric.h"

#include <math.h>
#include <string.h>

/* Two rows over a vocabulary of four; row 0 has one answer and two wrong ones, row 1 two and
 * one. */
static const int32_t ANSWERS[] = {0, 1, 2};
static const int32_t ANSWER_OFFSETS[] = {0, 1, 3};
static const int32_t WRONG[] = {1, 2, 3};
static const int32_t WRONG_OFFSETS[] = {0, 2, 3};
static const float LOGITS[] = {3, 1, 2, 0, /**/ 0, 1, 2, 4};
static const float CLEAN[] = {1, 0, 0, 0, /**/ 0, 2, 2, 1};

static abl_batch batch_of(void) {
    return (abl_batch){.size = 2,
                       .seq_len = 1,
                       .answers = ANSWERS,
                       .answer_offsets = ANSWER_OFFSETS,
                       .wrong_answers = WRONG,
                       .wrong_answer_offsets = WRONG_OFFSETS};
}

static void rows_equal(abl_metric metric, const float *logits, double first, double second) {
    abl_batch batch = batch_of();
    abl_metric_input input = {
        .batch = &batch, .logits = logits, .clean = CLEAN, .corrupt = CLEAN, .vocab_size = 4};
    double rows[2] = {0};
    abl_status status = {0};
    assert_int_equal(abl_metric_rows(metric, &input, rows, &status), ABL_CODE_OK);
    if (fabs(rows[0] - first) > 1e-9 || fabs(rows[1] - second) > 1e-9) {
        fail_msg("%s: %.12g %.12g, expected %.12g %.12g", abl_metric_name(metric), rows[0], rows[1],
                 first, second);
    }
}

static void metrics_are_what_they_say(void **state) {
    (void)state;
    rows_equal(ABL_METRIC_ANSWER_DIFF, LOGITS, 3 - 1.5, 1.5 - 4);
    rows_equal(ABL_METRIC_ANSWER_DIFF_PERCENT, LOGITS, 150, -250);
    rows_equal(ABL_METRIC_ANSWER_VALUE, LOGITS, 3, 1.5);
    rows_equal(ABL_METRIC_WRONG_ANSWER_VALUE, LOGITS, 1.5, 4);
    double z0 = exp(3) + exp(1) + exp(2) + 1;
    double z1 = 1 + exp(1) + exp(2) + exp(4);
    rows_equal(ABL_METRIC_ANSWER_PROB, LOGITS, exp(3) / z0, (exp(1) + exp(2)) / 2 / z1);
    rows_equal(ABL_METRIC_ANSWER_LOGPROB, LOGITS, 3 - log(z0), 1.5 - log(z1));
    rows_equal(ABL_METRIC_ANSWER_LOGPROB_DIFF, LOGITS, 1.5, -2.5);
    rows_equal(ABL_METRIC_CORRECT_PERCENT, LOGITS, 100, 0);
    rows_equal(ABL_METRIC_CORRECT_OVER_WRONG_PERCENT, LOGITS, 100, 0);
    rows_equal(ABL_METRIC_CORRECT_PERCENT, CLEAN, 100, 100);
    rows_equal(ABL_METRIC_MSE, LOGITS, (4 + 1 + 4 + 0) / 4.0, (0 + 1 + 0 + 9) / 4.0);
}

static void a_run_diverges_from_itself_by_nothing(void **state) {
    (void)state;
    rows_equal(ABL_METRIC_CLEAN_KL_DIV, CLEAN, 0, 0);
    rows_equal(ABL_METRIC_CORRUPT_KL_DIV, CLEAN, 0, 0);
    rows_equal(ABL_METRIC_ANSWER_DIFF_PERCENT, CLEAN, 100, 100);
    rows_equal(ABL_METRIC_MSE, CLEAN, 0, 0);
}

static void names_are_found_and_unknown_ones_refused(void **state) {
    (void)state;
    for (int i = 0; i < ABL_METRIC_COUNT; i++) {
        const char *name = abl_metric_name((abl_metric)i);
        abl_metric found = ABL_METRIC_COUNT;
        assert_int_equal(abl_metric_find(name, strlen(name), &found, NULL), ABL_CODE_OK);
        assert_int_equal(found, i);
    }
    assert_null(abl_metric_name(ABL_METRIC_COUNT));
    abl_metric found = ABL_METRIC_COUNT;
    abl_status status = {0};
    assert_int_equal(abl_metric_find("kl", 2, &found, &status), ABL_CODE_NOT_FOUND);
    assert_non_null(strstr(status.message, "clean_kl_div"));
}

static void a_row_without_wrong_answers_is_refused_where_they_are_needed(void **state) {
    (void)state;
    static const int32_t none[] = {0, 2, 2};
    abl_batch batch = batch_of();
    batch.wrong_answer_offsets = none;
    abl_status status = {0};
    assert_int_equal(abl_metric_check(ABL_METRIC_ANSWER_DIFF, &batch, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "METRIC_NEEDS_WRONG_ANSWERS");
    assert_non_null(strstr(status.message, "prompt 1"));
    assert_int_equal(abl_metric_check(ABL_METRIC_ANSWER_VALUE, &batch, &status), ABL_CODE_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_are_what_they_say),
        cmocka_unit_test(a_run_diverges_from_itself_by_nothing),
        cmocka_unit_test(names_are_found_and_unknown_ones_refused),
        cmocka_unit_test(a_row_without_wrong_answers_is_refused_where_they_are_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
