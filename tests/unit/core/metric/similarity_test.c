/* SPDX-License-Identifier: Apache-2.0
 *
 * Six edges, whose ranks and ties can be seen. */
#include "core/metric/similarity.h"

#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

#define assert_near(actual, expected) assert_true(fabs((actual) - (expected)) < 1e-9)

#define N 6
static const float A[N] = {6, -5, 4, 3, 2, 1};
static const float B[N] = {-6, 1, 5, 4, 3, 2};
static const float TIED[N] = {2, -2, 2, 1, 1, 0};

static void circuits_overlap_in_the_edges_that_both_have(void **state) {
    (void)state;
    const int64_t sizes[] = {0, 2, 6};
    abl_overlap overlaps[3];
    assert_int_equal(abl_similarity_overlaps(A, B, N, sizes, 3, overlaps, NULL), ABL_CODE_OK);
    assert_true(isnan(overlaps[0].similarity) && isnan(overlaps[0].jaccard));
    assert_int_equal(overlaps[1].common, 1); /* 0, 1 and 0, 2 */
    assert_near(overlaps[1].similarity, 0.5);
    assert_near(overlaps[1].jaccard, 1.0 / 3);
    assert_near(overlaps[2].similarity, 1);
}

static void ties_make_a_circuit_larger_and_the_similarity_no_number(void **state) {
    (void)state;
    const int64_t size = 2;
    abl_overlap overlap;
    assert_int_equal(abl_similarity_overlaps(A, TIED, N, &size, 1, &overlap, NULL), ABL_CODE_OK);
    assert_int_equal(overlap.a, 2);
    assert_int_equal(overlap.b, 3);
    assert_true(isnan(overlap.similarity));
    assert_near(overlap.jaccard, 2.0 / 3);
    const int64_t bad = 7;
    abl_status status = {0};
    assert_int_equal(abl_similarity_overlaps(A, B, N, &bad, 1, &overlap, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "CIRCUIT_SIZE_INVALID");
}

static void correlations_are_of_ranks_and_of_values(void **state) {
    (void)state;
    abl_correlations c;
    assert_int_equal(abl_similarity_correlations(A, A, N, &c, NULL), ABL_CODE_OK);
    assert_near(c.spearman, 1);
    assert_near(c.pearson, 1);
    /* ranks of A 0..5, of B 0 5 1 2 3 4: differences 0 4 1 1 1 1, their squares 20 */
    assert_int_equal(abl_similarity_correlations(A, B, N, &c, NULL), ABL_CODE_OK);
    assert_near(c.spearman, 1 - 6.0 * 20 / (N * (N * N - 1)));
    assert_true(c.pearson < 0);
    static const float constant[N] = {1, 1, 1, 1, 1, 1};
    assert_int_equal(abl_similarity_correlations(A, constant, N, &c, NULL), ABL_CODE_OK);
    assert_true(isnan(c.spearman) && isnan(c.pearson));
}

static void a_perfect_ranking_has_area_1_and_its_reverse_0(void **state) {
    (void)state;
    static const uint8_t top[N] = {1, 1, 0, 0, 0, 0};
    static const uint8_t bottom[N] = {0, 0, 0, 0, 1, 1};
    const int64_t sizes[] = {0, 1, 2, 4};
    abl_point points[6];
    double area = -1;
    assert_int_equal(abl_similarity_roc(A, N, top, sizes, 4, points, &area, NULL), ABL_CODE_OK);
    assert_near(area, 1);
    assert_near(points[2].y, 0.5); /* after (0, 0) and size 0 */
    assert_true(points[3].x == 0 && points[3].y == 1);
    assert_true(points[4].x == 0.5 && points[4].y == 1);
    assert_true(points[5].x == 1 && points[5].y == 1);
    assert_int_equal(abl_similarity_roc(A, N, bottom, NULL, 0, points, &area, NULL), ABL_CODE_OK);
    assert_near(area, 0);
}

/* One group of three with one of the two in it, then one of two with the other: the curve goes
 * (0, 0), (2/4, 1/2), (3/4, 1), (1, 1). */
static void ties_are_crossed_in_a_straight_line(void **state) {
    (void)state;
    static const uint8_t reference[N] = {0, 1, 0, 1, 0, 0};
    const int64_t inside_a_tie = 2;
    abl_point points[3];
    double area = -1;
    assert_int_equal(abl_similarity_roc(TIED, N, reference, &inside_a_tie, 1, points, &area, NULL),
                     ABL_CODE_OK);
    assert_true(points[1].x == 0.5 && points[1].y == 0.5);
    assert_near(area, 0.5 * 0.25 + 0.25 * 0.75 + 0.25);
}

static void a_reference_needs_edges_inside_and_outside(void **state) {
    (void)state;
    abl_point points[2];
    double area = -1;
    abl_status status = {0};
    for (int value = 0; value < 2; value++) {
        uint8_t reference[N];
        memset(reference, value, sizeof reference);
        assert_int_equal(abl_similarity_roc(A, N, reference, NULL, 0, points, &area, &status),
                         ABL_CODE_INVALID_ARGUMENT);
        assert_string_equal(status.reason, "REFERENCE_TRIVIAL");
        assert_near(area, -1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(circuits_overlap_in_the_edges_that_both_have),
        cmocka_unit_test(ties_make_a_circuit_larger_and_the_similarity_no_number),
        cmocka_unit_test(correlations_are_of_ranks_and_of_values),
        cmocka_unit_test(a_perfect_ranking_has_area_1_and_its_reverse_0),
        cmocka_unit_test(ties_are_crossed_in_a_straight_line),
        cmocka_unit_test(a_reference_needs_edges_inside_and_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
