// SPDX-License-Identifier: Apache-2.0
#include "core/base/mem.h"
#include "core/patch/mask_function.h"
#include "tests/unit/unit.h"

#include <math.h>

enum { DRAWS = 200000 };

static const double TEMPERATURE = 2.0 / 3.0;

/* A share of DRAWS differs from its chance by 5 standard deviations at most. */
#define SHARE_TOLERANCE (5 * 0.5 / sqrt((double)DRAWS))

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static abl_mask_sample sample_of(const abl_mask_sample_options *options) {
    abl_mask_sample sample;
    assert_int_equal(abl_mask_sample_init(options, &sample, NULL), ABL_CODE_OK);
    return sample;
}

/* One edge's mask, drawn DRAWS times. */
static abl_mask_sample draws_of(float *mask, abl_mask_function function, uint64_t seed) {
    return sample_of(&(abl_mask_sample_options){.function = function,
                                                .seed = seed,
                                                .mask = mask,
                                                .mask_rows = 1,
                                                .edges = 1,
                                                .rows = DRAWS});
}

static double share_below(const abl_mask_sample *sample, double limit) {
    int64_t count = 0;
    for (int64_t i = 0; i < sample->rows; i++) {
        count += (double)sample->values[i] <= limit;
    }
    return (double)count / (double)sample->rows;
}

/* P(value <= x) = sigmoid(2/3 logit((x + 0.1) / 1.2) - mask), with steps at 0 and at 1. */
static void hard_concrete_has_its_distribution(void **state) {
    (void)state;
    static const float masks[] = {-3, -1.5F, 0, 1.6094379F, 4};
    for (size_t m = 0; m < ABL_COUNT_OF(masks); m++) {
        float mask = masks[m];
        abl_mask_sample sample = draws_of(&mask, ABL_MASK_HARD_CONCRETE, 17 + m);
        for (int i = 0; i < 20; i++) {
            double x = i / 20.0;
            double s = (x + 0.1) / 1.2;
            double chance = sigmoid(TEMPERATURE * log(s / (1 - s)) - (double)mask);
            assert_true(fabs(share_below(&sample, x) - chance) < SHARE_TOLERANCE);
        }
        double open = 1 - share_below(&sample, 1 - 1e-6); /* exactly 1 */
        assert_true(fabs(open - sigmoid((double)mask - TEMPERATURE * log(11))) < SHARE_TOLERANCE);
        assert_true(share_below(&sample, 1) == 1);
        abl_mask_sample_finish(&sample);
    }
}

static void draws_are_uniform_and_those_of_rows_independent(void **state) {
    (void)state;
    int64_t tenths[10] = {0};
    double product = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        float u = abl_mask_uniform(5, i);
        assert_true(u > 0 && u < 1);
        tenths[(int)(u * 10)]++;
        product += ((double)u - 0.5) * ((double)abl_mask_uniform(5, i + 1) - 0.5);
    }
    for (int i = 0; i < 10; i++) {
        assert_true(fabs((double)tenths[i] / DRAWS - 0.1) < SHARE_TOLERANCE);
    }
    assert_true(fabs(product / DRAWS * 12) < 5 / sqrt((double)DRAWS)); /* the correlation */
    assert_true(abl_mask_uniform(5, 0) != abl_mask_uniform(6, 0));
    assert_true(abl_mask_uniform(5, 7) == abl_mask_uniform(5, 7));
}

static void dropout_drops_its_share_and_keeps_the_mean(void **state) {
    (void)state;
    float *mask = abl_calloc(DRAWS, sizeof *mask);
    for (int64_t i = 0; i < DRAWS; i++) {
        mask[i] = 0.5F;
    }
    const abl_mask_sample_options options = {
        .dropout = 0.3F, .seed = 3, .mask = mask, .mask_rows = 1, .edges = DRAWS, .rows = 4};
    abl_mask_sample sample = sample_of(&options);
    assert_int_equal(sample.rows, 1); /* nothing else is drawn: one sample for all rows */
    int64_t dropped = 0;
    for (int64_t i = 0; i < DRAWS; i++) {
        dropped += sample.values[i] == 0;
        assert_true(sample.values[i] == 0 || fabs((double)sample.values[i] - 0.5 / 0.7) < 1e-6);
        assert_true((sample.values[i] == 0) == (sample.slopes[i] == 0));
    }
    assert_true(fabs((double)dropped / DRAWS - 0.3) < SHARE_TOLERANCE);
    abl_mask_sample_finish(&sample);
    abl_free(mask);
}

static void slopes_are_those_of_the_values(void **state) {
    (void)state;
    static const float at[] = {-2, -0.7F, 0.01F, 0.4F, 1.3F, 2.5F};
    enum { EDGES = ABL_COUNT_OF(at), ROWS = 50 };
    const float step = 1e-3F;
    for (int function = 0; function < ABL_MASK_FUNCTION_COUNT; function++) {
        float low[EDGES];
        float high[EDGES];
        for (int i = 0; i < EDGES; i++) {
            low[i] = at[i] - step;
            high[i] = at[i] + step;
        }
        abl_mask_sample_options options = {.function = (abl_mask_function)function,
                                           .dropout = 0.2F,
                                           .seed = 11,
                                           .mask = at,
                                           .mask_rows = 1,
                                           .edges = EDGES,
                                           .rows = ROWS};
        abl_mask_sample here = sample_of(&options);
        options.mask = low;
        abl_mask_sample below = sample_of(&options);
        options.mask = high;
        abl_mask_sample above = sample_of(&options);
        for (int64_t i = 0; i < here.rows * EDGES; i++) {
            bool edge = below.slopes[i] == 0 || above.slopes[i] == 0; /* a corner of the clamp */
            double slope = ((double)above.values[i] - (double)below.values[i]) / (2e-3);
            assert_true(edge || fabs(slope - (double)here.slopes[i]) < 2e-3);
        }
        abl_mask_sample_finish(&here);
        abl_mask_sample_finish(&below);
        abl_mask_sample_finish(&above);
    }
}

static void a_gradient_is_the_sum_over_the_rows_that_share_a_mask(void **state) {
    (void)state;
    const float mask[] = {0.1F, -0.4F, 2};
    const abl_mask_sample_options options = {.function = ABL_MASK_HARD_CONCRETE,
                                             .seed = 1,
                                             .mask = mask,
                                             .mask_rows = 1,
                                             .edges = 3,
                                             .rows = 5};
    abl_mask_sample sample = sample_of(&options);
    assert_int_equal(sample.rows, 5);
    float gradient[15];
    float result[3];
    double expected[3] = {0};
    for (int i = 0; i < 15; i++) {
        gradient[i] = (float)(i - 7);
        expected[i % 3] += (double)gradient[i] * (double)sample.slopes[i];
    }
    abl_mask_sample_backward(&options, &sample, gradient, result);
    for (int i = 0; i < 3; i++) {
        assert_true(fabs((double)result[i] - expected[i]) < 1e-4);
    }
    abl_mask_sample_finish(&sample);
}

static void prescribed_draws_are_used_as_they_are(void **state) {
    (void)state;
    const float mask[] = {1.6094379F, 0};
    const float half[] = {0.5F, 0.5F, 0.5F, 0.5F};
    abl_mask_sample sample =
        sample_of(&(abl_mask_sample_options){.function = ABL_MASK_HARD_CONCRETE,
                                             .draws = half,
                                             .mask = mask,
                                             .mask_rows = 1,
                                             .edges = 2,
                                             .rows = 2});
    for (int row = 0; row < 2; row++) {
        double s = sigmoid((double)mask[0] / TEMPERATURE);
        assert_true(fabs((double)sample.values[row * 2] - fmin(1.2 * s - 0.1, 1)) < 1e-6);
        assert_true(fabs((double)sample.values[row * 2 + 1] - 0.5) < 1e-6);
    }
    abl_mask_sample_finish(&sample);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hard_concrete_has_its_distribution),
        cmocka_unit_test(draws_are_uniform_and_those_of_rows_independent),
        cmocka_unit_test(dropout_drops_its_share_and_keeps_the_mean),
        cmocka_unit_test(slopes_are_those_of_the_values),
        cmocka_unit_test(a_gradient_is_the_sum_over_the_rows_that_share_a_mask),
        cmocka_unit_test(prescribed_draws_are_used_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
