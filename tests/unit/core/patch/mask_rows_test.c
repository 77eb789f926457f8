// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/unit.h"

#include "core/patch/mask_rows.h"

static void equal_rows_share_a_mix_and_uniform_ones_need_none(void **state) {
    (void)state;
    const float values[] = {0,          0, 0, /**/ 1, 0, 1, /**/ 1, 1, 1,
                            /**/ -0.0F, 0, 0, 1,      0, 1, /**/ 0, 0, 0.5F};
    abl_mask_rows rows = {.values = values, .positions = 1, .row_count = 6, .column_count = 3};
    int32_t group[6];
    int32_t first[6];
    assert_int_equal(abl_mask_rows_group(&rows, group, first), 2);
    const int32_t expected[] = {ABL_MASK_ROW_ZERO, 0, ABL_MASK_ROW_ONE, ABL_MASK_ROW_ZERO, 0, 1};
    assert_memory_equal(group, expected, sizeof expected);
    assert_int_equal(first[0], 1);
    assert_int_equal(first[1], 5);
}

static void rows_are_equal_only_if_they_are_at_every_position(void **state) {
    (void)state;
    /* Two positions, 5 apart, of two rows with two columns. */
    const float values[] = {1, 1, 1, 1, 9, /**/ 1, 1, 1, 0};
    abl_mask_rows rows = {
        .values = values, .positions = 2, .stride = 5, .row_count = 2, .column_count = 2};
    int32_t group[2];
    int32_t first[2];
    assert_int_equal(abl_mask_rows_group(&rows, group, first), 1);
    assert_int_equal(group[0], ABL_MASK_ROW_ONE);
    assert_int_equal(group[1], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_rows_share_a_mix_and_uniform_ones_need_none),
        cmocka_unit_test(rows_are_equal_only_if_they_are_at_every_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
