// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/unit.h"

#include "core/base/limits.h"
#include "core/graph/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static abl_graph *graph_of(abl_graph_options options) {
    abl_graph *graph = NULL;
    assert_int_equal(abl_graph_create(&options, &graph, NULL), ABL_CODE_OK);
    return graph;
}

static void top_ranks_by_magnitude_and_breaks_ties_by_index(void **state) {
    (void)state;
    const float values[] = {1, -3, NAN, 3, 0, -0.5F, 3};
    int64_t indices[8];
    int64_t count = 0;
    assert_int_equal(abl_scores_top(values, 7, NULL, 20, indices, &count, NULL), ABL_CODE_OK);
    const int64_t expected[] = {1, 3, 6, 0, 5, 4, 2};
    assert_int_equal(count, 7);
    assert_memory_equal(indices, expected, sizeof expected);
    assert_int_equal(abl_scores_top(values, 7, NULL, 2, indices, &count, NULL), ABL_CODE_OK);
    assert_int_equal(count, 2);
    assert_memory_equal(indices, expected, 2 * sizeof expected[0]);
    const uint8_t eligible[] = {1, 0, 1, 0, 1, 1, 0};
    assert_int_equal(abl_scores_top(values, 7, eligible, 2, indices, &count, NULL), ABL_CODE_OK);
    assert_int_equal(count, 2);
    assert_int_equal(indices[0], 0);
    assert_int_equal(indices[1], 5);
}

static void top_agrees_with_a_full_sort(void **state) {
    (void)state;
    enum { N = 5000 };
    static float values[N];
    static int64_t whole[N];
    static int64_t part[N];
    uint32_t seed = 7;
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525U + 1013904223U;
        values[i] = (float)((int)(seed >> 20) - 2048); /* many ties */
    }
    int64_t count = 0;
    assert_int_equal(abl_scores_top(values, N, NULL, N, whole, &count, NULL), ABL_CODE_OK);
    for (int i = 1; i < N; i++) {
        float a = fabsf(values[whole[i - 1]]);
        float b = fabsf(values[whole[i]]);
        assert_true(a > b || (a == b && whole[i - 1] < whole[i]));
    }
    for (int64_t k = 1; k < N; k = k * 3 + 1) {
        assert_int_equal(abl_scores_top(values, N, NULL, k, part, &count, NULL), ABL_CODE_OK);
        assert_int_equal(count, k);
        assert_memory_equal(part, whole, (size_t)k * sizeof part[0]);
    }
}

static void ties_enlarge_a_circuit_and_size_zero_is_empty(void **state) {
    (void)state;
    const float values[] = {1, -2, 2, 0.5F, -2};
    const int64_t sizes[] = {0, 1, 3, 4, 5};
    float thresholds[5];
    assert_int_equal(abl_scores_thresholds(values, 5, sizes, 5, thresholds, NULL), ABL_CODE_OK);
    assert_true(isinf(thresholds[0]));
    const int64_t expected[] = {0, 3, 3, 4, 5};
    for (int i = 0; i < 5; i++) {
        uint8_t in[5];
        assert_int_equal(abl_scores_circuit(values, 5, thresholds[i], in), expected[i]);
        int64_t sum = 0;
        for (int j = 0; j < 5; j++) {
            sum += in[j];
        }
        assert_int_equal(sum, expected[i]);
    }
    const int64_t too_big = 6;
    abl_status status = {0};
    assert_int_equal(abl_scores_thresholds(values, 5, &too_big, 1, thresholds, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "CIRCUIT_SIZE_INVALID");
}

static void module_tensors_partition_the_flat_array(void **state) {
    (void)state;
    abl_graph *graph = graph_of(
        (abl_graph_options){.layer_count = 2, .head_count = 4, .kv_head_count = 2, .seq_len = 3});
    int64_t n = abl_graph_edge_count(graph);
    float *values = calloc((size_t)n, sizeof *values);
    float *copy = calloc((size_t)n, sizeof *copy);
    float *tensor = calloc((size_t)n, sizeof *tensor);
    for (int64_t i = 0; i < n; i++) {
        values[i] = (float)i;
    }
    int64_t total = 0;
    for (int32_t m = 0; m < abl_graph_module_count(graph); m++) {
        abl_scores_shape shape = abl_scores_module_shape(graph, m);
        assert_int_equal(shape.dims[0], 3);
        assert_int_equal(shape.rank, abl_graph_module_at(graph, m)->has_heads ? 3 : 2);
        total += shape.count;
        abl_scores_read_module(graph, values, m, tensor);
        abl_scores_write_module(graph, copy, m, tensor);
    }
    assert_int_equal(total, n);
    assert_memory_equal(values, copy, (size_t)n * sizeof *values);
    /* Element [seq 1, head 2, src 0] of the second block's q is that edge's value. */
    int32_t module = -1;
    assert_int_equal(abl_graph_find_module(graph, "blocks.1.hook_q_input", 21, &module, NULL), 0);
    abl_scores_read_module(graph, values, module, tensor);
    abl_edge edge = {0};
    assert_int_equal(abl_graph_parse_edge(graph, "Resid Start->A1.2.Q[1]", 22, &edge, NULL), 0);
    int32_t src_count = abl_graph_module_at(graph, module)->src_count;
    assert_int_equal(tensor[(1 * 4 + 2) * src_count], abl_graph_edge_index(graph, edge));
    free(values);
    free(copy);
    free(tensor);
    abl_graph_destroy(graph);
}

static void grouped_scores_are_sums_over_the_group(void **state) {
    (void)state;
    abl_graph_options options = {.layer_count = 2, .head_count = 4, .kv_head_count = 2};
    abl_graph *native = graph_of(options);
    options.gqa = ABL_GQA_EXPANDED;
    abl_graph *expanded = graph_of(options);
    float *from = calloc((size_t)abl_graph_edge_count(expanded), sizeof *from);
    float *to = calloc((size_t)abl_graph_edge_count(native), sizeof *to);
    for (int64_t i = 0; i < abl_graph_edge_count(expanded); i++) {
        from[i] = 1;
    }
    abl_scores_group(expanded, from, native, to);
    for (int64_t i = 0; i < abl_graph_edge_count(native); i++) {
        abl_dest_role role = abl_graph_dest_at(native, abl_graph_edge_at(native, i).dest)->role;
        assert_true(to[i] == (role == ABL_DEST_K || role == ABL_DEST_V ? 2.0F : 1.0F));
    }
    free(from);
    free(to);
    abl_graph_destroy(native);
    abl_graph_destroy(expanded);
}

static void sizes_equal(const abl_edge_counts_options *options, int64_t edges,
                        const int64_t *expected, int32_t expected_count) {
    int64_t sizes[64];
    int32_t count = 0;
    abl_status status = {0};
    assert_int_equal(abl_edge_counts(options, edges, sizes, 64, &count, &status), ABL_CODE_OK);
    assert_int_equal(count, expected_count);
    assert_memory_equal(sizes, expected, (size_t)count * sizeof sizes[0]);
}

#define SIZES_EQUAL(options, edges, ...)                                                           \
    do {                                                                                           \
        const int64_t sizes_expected[] = {__VA_ARGS__};                                            \
        sizes_equal(options, edges, sizes_expected, (int32_t)ABL_COUNT_OF(sizes_expected));        \
    } while (0)

static void circuit_sizes_are_autocircuits(void **state) {
    (void)state;
    abl_edge_counts_options options = {.kind = ABL_EDGE_COUNTS_ALL};
    SIZES_EQUAL(&options, 4, 0, 1, 2, 3, 4);
    options.kind = ABL_EDGE_COUNTS_LOGARITHMIC;
    SIZES_EQUAL(&options, 110, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90,
                100, 110);
    options.true_edge_count = 13;
    SIZES_EQUAL(&options, 30, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 20, 30);
    const abl_edge_count list[] = {{1, false}, {5, false}, {7, false}};
    options =
        (abl_edge_counts_options){.kind = ABL_EDGE_COUNTS_LIST, .list = list, .list_count = 3};
    SIZES_EQUAL(&options, 110, 0, 1, 5, 7, 110);
    options.list_count = 2;
    SIZES_EQUAL(&options, 110, 1, 5);
    const abl_edge_count mixed[] = {{0, false}, {0.5, true}, {20, false}, {110, false}};
    options = (abl_edge_counts_options){.kind = ABL_EDGE_COUNTS_LIST,
                                        .list = mixed,
                                        .list_count = 4,
                                        .zero = ABL_EDGE_COUNTS_END_REMOVE,
                                        .all = ABL_EDGE_COUNTS_END_REMOVE};
    SIZES_EQUAL(&options, 110, 20, 55);
    const float tied[] = {2, 0, -2, 1, 0, 1, -1};
    options = (abl_edge_counts_options){.kind = ABL_EDGE_COUNTS_GROUPS, .values = tied};
    SIZES_EQUAL(&options, 7, 0, 2, 5, 7);
    const float binary[] = {1, 0, 0, -1, 0, 0};
    options = (abl_edge_counts_options){.kind = ABL_EDGE_COUNTS_DEFAULT, .values = binary};
    SIZES_EQUAL(&options, 6, 2);
}

static void bad_circuit_sizes_are_refused(void **state) {
    (void)state;
    const abl_edge_count bad[] = {{111, false}, {-1, false}, {1.5, true}, {NAN, true}};
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        abl_edge_counts_options options = {
            .kind = ABL_EDGE_COUNTS_LIST, .list = &bad[i], .list_count = 1};
        int64_t sizes[8];
        int32_t count = 0;
        abl_status status = {0};
        assert_int_equal(abl_edge_counts(&options, 110, sizes, 8, &count, &status),
                         ABL_CODE_INVALID_ARGUMENT);
        assert_string_equal(status.reason, "CIRCUIT_SIZE_INVALID");
    }
    abl_edge_counts_options all = {.kind = ABL_EDGE_COUNTS_ALL};
    int64_t sizes[8];
    int32_t count = 0;
    abl_status status = {0};
    assert_int_equal(abl_edge_counts(&all, 110, sizes, 8, &count, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "CIRCUIT_COUNT");
}

static void scores_by_value_put_the_largest_first_and_keep_ties(void **state) {
    (void)state;
    static const float values[] = {-3, 0.5F, -0.0F, 7, 0.0F, 0.5F, -1e30F, 1e-40F};
    float ranked[8];
    assert_int_equal(abl_scores_by_value(values, 8, ranked, NULL), ABL_CODE_OK);
    static const int best_first[] = {3, 1, 7, 2, 0, 6};
    for (int i = 1; i < 6; i++) {
        assert_true(ranked[best_first[i - 1]] > ranked[best_first[i]]);
    }
    assert_true(ranked[1] == ranked[5] && ranked[2] == ranked[4] && ranked[6] > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_ranks_by_magnitude_and_breaks_ties_by_index),
        cmocka_unit_test(top_agrees_with_a_full_sort),
        cmocka_unit_test(ties_enlarge_a_circuit_and_size_zero_is_empty),
        cmocka_unit_test(module_tensors_partition_the_flat_array),
        cmocka_unit_test(grouped_scores_are_sums_over_the_group),
        cmocka_unit_test(circuit_sizes_are_autocircuits),
        cmocka_unit_test(bad_circuit_sizes_are_refused),
        cmocka_unit_test(scores_by_value_put_the_largest_first_and_keep_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
