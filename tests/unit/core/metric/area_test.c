/* SPDX-License-Identifier: Apache-2.0
 *
 * Areas that can be done in the head. */
#include "core/metric/area.h"

#include "tests/unit/unit.h"

#include <math.h>

#define assert_near(actual, expected) assert_true(fabs((actual) - (expected)) < 1e-9)

static const abl_axes LINEAR = {false, false, 0};

static void a_trapezoid_is_its_area_in_any_order(void **state) {
    (void)state;
    abl_point points[] = {{10, 2}, {0, 0}, {4, 2}};
    assert_near(abl_area_trapezoid(points, 3), 4 + 12);
    assert_true(points[0].x == 0 && points[1].x == 4);
    assert_true(isnan(abl_area_trapezoid(points, 1)));
}

static void auc_is_above_the_value_at_0_and_never_0(void **state) {
    (void)state;
    abl_point rising[] = {{0, 1}, {10, 3}};
    assert_near(abl_area_auc(rising, 2, LINEAR), 10);
    abl_point falling[] = {{0, 3}, {10, 1}};
    assert_near(abl_area_auc(falling, 2, LINEAR), 1e-3);
    abl_point no_origin[] = {{1, 1}, {10, 3}};
    assert_true(isnan(abl_area_auc(no_origin, 2, LINEAR)));
}

static void a_logarithmic_x_axis_has_no_0(void **state) {
    (void)state;
    const abl_axes axes = {.log_x = true};
    abl_point points[] = {{0, 0}, {1, 2}, {100, 2}};
    assert_near(abl_area_auc(points, 3, axes), 2 * 2);
}

/* Faithfulness from 0 to 1 in a straight line over the share of edges. */
static void a_straight_line_has_half_the_area_on_either_side(void **state) {
    (void)state;
    abl_point points[] = {{0, -4}, {1e-9, -4}, {50, 1}, {100, 6}};
    double cpr = 0;
    double cmd = 0;
    abl_area_faithfulness(points, 4, 100, &cpr, &cmd);
    assert_near(cpr, 0.5);
    assert_near(cmd, 0.5);
}

static void what_lies_above_the_model_counts_for_cpr_and_against_cmd(void **state) {
    (void)state;
    abl_point points[] = {{0, 0}, {1, 2}, {100, 1}};
    double cpr = 0;
    double cmd = 0;
    abl_area_faithfulness(points, 3, 100, &cpr, &cmd);
    assert_near(cpr, 0.99 * 1.5);
    assert_near(cmd, 0.99 * 0.5);
    abl_area_faithfulness(points, 2, 100, &cpr, &cmd); /* without the whole model */
    assert_true(isnan(cpr) && isnan(cmd));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trapezoid_is_its_area_in_any_order),
        cmocka_unit_test(auc_is_above_the_value_at_0_and_never_0),
        cmocka_unit_test(a_logarithmic_x_axis_has_no_0),
        cmocka_unit_test(a_straight_line_has_half_the_area_on_either_side),
        cmocka_unit_test(what_lies_above_the_model_counts_for_cpr_and_against_cmd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
