/* SPDX-License-Identifier: Apache-2.0 */
/* Which nodes a masked pass leaves out, on a graph of two blocks with two heads:
 * sources 0 Resid Start, 1 A0.0, 2 A0.1, 3 MLP 0, 4 A1.0, 5 A1.1, 6 MLP 1. */
#include "core/patch/idle.h"

#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <string.h>

#define SOURCES 7

typedef struct fixture {
    abl_graph *graph;
    float *mask;
    int64_t count;
    abl_idle idle;
} fixture;

static int setup(void **state) {
    fixture *f = abl_calloc(1, sizeof *f);
    const abl_graph_options options = {.layer_count = 2, .head_count = 2, .kv_head_count = 1};
    assert_int_equal(abl_graph_create(&options, &f->graph, NULL), ABL_CODE_OK);
    f->count = abl_graph_edge_count(f->graph);
    f->mask = abl_calloc((size_t)f->count, sizeof *f->mask);
    for (int64_t i = 0; i < f->count; i++) {
        f->mask[i] = 1;
    }
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    abl_idle_finish(&f->idle);
    abl_graph_destroy(f->graph);
    abl_free(f->mask);
    abl_free(f);
    return 0;
}

/* The circuit gets this edge. */
static void keep(fixture *f, const char *source, const char *dest) {
    abl_edge edge = {0};
    assert_int_equal(abl_graph_find_src(f->graph, source, strlen(source), &edge.src, NULL),
                     ABL_CODE_OK);
    assert_int_equal(abl_graph_find_dest(f->graph, dest, strlen(dest), &edge.dest, NULL),
                     ABL_CODE_OK);
    f->mask[abl_graph_edge_index(f->graph, edge)] = 0;
}

static void check(fixture *f, bool run, const char *idle) {
    const abl_idle_options options = {.graph = f->graph, .mask = f->mask, .planes = 1, .run = run};
    abl_idle_finish(&f->idle);
    assert_int_equal(abl_idle_init(&options, &f->idle, NULL), ABL_CODE_OK);
    for (int i = 0; i < SOURCES; i++) {
        assert_int_equal(f->idle.sources[i], idle[i] == '1');
    }
}

static void everything_is_idle_where_everything_is_ablated(void **state) {
    check(*state, true, "0111111");
    check(*state, false, "0111111");
}

static void nothing_is_idle_where_nothing_is_ablated(void **state) {
    fixture *f = *state;
    memset(f->mask, 0, (size_t)f->count * sizeof *f->mask);
    check(f, true, "0000000");
    assert_memory_equal(f->idle.mask, f->mask, (size_t)f->count * sizeof *f->mask);
}

static void a_path_to_the_end_is_computed_and_nothing_else(void **state) {
    fixture *f = *state;
    keep(f, "Resid Start", "A0.1.Q");
    keep(f, "A0.1", "MLP 1");
    keep(f, "MLP 1", "Resid End");
    check(f, true, "0101110");
}

static void what_does_not_reach_the_end_is_idle(void **state) {
    fixture *f = *state;
    keep(f, "Resid Start", "MLP 0");
    keep(f, "MLP 0", "A1.0.Q");
    check(f, true, "0111111");
    check(f, false, "0111111");
}

static void what_nothing_live_reaches_is_idle_only_where_the_ablation_is_a_run(void **state) {
    fixture *f = *state;
    keep(f, "MLP 0", "A1.0.Q");
    keep(f, "A1.0", "Resid End");
    check(f, true, "0111111");
    check(f, false, "0110011"); /* a mean is not what MLP 0 makes of means */
}

static void a_shared_key_head_is_read_by_all_its_query_heads(void **state) {
    fixture *f = *state;
    keep(f, "Resid Start", "A1.0.K"); /* key head 0, of both query heads */
    keep(f, "A1.1", "Resid End");
    check(f, true, "0111101");
    keep(f, "A1.0", "Resid End");
    check(f, true, "0111001");
}

static void edges_of_idle_nodes_count_as_ablated(void **state) {
    fixture *f = *state;
    keep(f, "Resid Start", "MLP 0");
    keep(f, "Resid Start", "Resid End");
    check(f, true, "0111111");
    int64_t kept = 0;
    for (int64_t i = 0; i < f->count; i++) {
        kept += f->idle.mask[i] != 1.0F;
    }
    assert_int_equal(kept, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(everything_is_idle_where_everything_is_ablated),
        TEST(nothing_is_idle_where_nothing_is_ablated),
        TEST(a_path_to_the_end_is_computed_and_nothing_else),
        TEST(what_does_not_reach_the_end_is_idle),
        TEST(what_nothing_live_reaches_is_idle_only_where_the_ablation_is_a_run),
        TEST(a_shared_key_head_is_read_by_all_its_query_heads),
        TEST(edges_of_idle_nodes_count_as_ablated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
