/* SPDX-License-Identifier: Apache-2.0 */
#include "core/prune/acdc_plan.h"

#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

/* Two blocks of two heads: sources are Resid Start 0, heads 1 2, MLP 3, heads 4 5, MLP 6. */
enum { START, A00, A01, MLP0, A10, A11, MLP1 };

typedef struct fixture {
    abl_graph *graph;
    abl_acdc_plan *plan;
} fixture;

static fixture make(const abl_graph_options *options, bool causal) {
    fixture f = {.graph = NULL};
    assert_int_equal(abl_graph_create(options, &f.graph, NULL), ABL_CODE_OK);
    f.plan = abl_acdc_plan_create(f.graph, causal);
    assert_non_null(f.plan);
    return f;
}

static fixture make_small(int32_t seq_len) {
    const abl_graph_options options = {
        .layer_count = 2, .head_count = 2, .kv_head_count = 2, .seq_len = seq_len};
    return make(&options, true);
}

static void finish(fixture *f) {
    abl_acdc_plan_destroy(f->plan);
    abl_graph_destroy(f->graph);
}

/* Removes an edge by name, "A0.0->MLP 0", at every position or at the one that it names. */
static void cut(fixture *f, const char *name) {
    abl_edge edge;
    assert_int_equal(abl_graph_parse_edge(f->graph, name, strlen(name), &edge, NULL), ABL_CODE_OK);
    for (int32_t t = 0; t < abl_graph_seq_count(f->graph); t++) {
        if (edge.seq == ABL_SEQ_EVERY || edge.seq == t) {
            f->plan->removed[abl_graph_edge_index(f->graph, (abl_edge){t, edge.dest, edge.src})] =
                1;
        }
    }
}

static const char *name_of(const fixture *f, int32_t dest) {
    return abl_graph_dest_at(f->graph, dest)->name;
}

static int32_t dest_of(const fixture *f, const char *name) {
    int32_t dest = -1;
    assert_int_equal(abl_graph_find_dest(f->graph, name, strlen(name), &dest, NULL), ABL_CODE_OK);
    return dest;
}

static bool live_at(const fixture *f, const char *name, int32_t position) {
    return f->plan->live_dest[dest_of(f, name) * f->plan->positions + position] != 0;
}

static void nodes_without_a_kept_path_to_the_end_are_dead(void **state) {
    (void)state;
    fixture f = make_small(0);
    assert_true(abl_acdc_plan_is_live(f.plan, dest_of(&f, "A1.0.Q")));
    cut(&f, "A1.0->Resid End");
    abl_acdc_plan_liveness(f.plan);
    assert_true(abl_acdc_plan_is_live(f.plan, dest_of(&f, "A1.0.Q"))); /* by MLP 1 */
    cut(&f, "A1.0->MLP 1");
    abl_acdc_plan_liveness(f.plan);
    assert_false(abl_acdc_plan_is_live(f.plan, dest_of(&f, "A1.0.Q")));
    assert_false(abl_acdc_plan_is_live(f.plan, dest_of(&f, "A1.0.V")));
    assert_true(abl_acdc_plan_is_live(f.plan, dest_of(&f, "A1.1.V")));
    finish(&f);
}

static void only_the_last_position_of_the_end_is_live_and_keys_live_before_it(void **state) {
    (void)state;
    fixture f = make_small(3);
    assert_false(live_at(&f, "Resid End", 1));
    assert_true(live_at(&f, "Resid End", 2));
    assert_false(live_at(&f, "MLP 1", 0));
    assert_false(live_at(&f, "A1.0.Q", 1));
    assert_true(live_at(&f, "A1.0.K", 0));
    assert_true(live_at(&f, "A0.0.Q", 1)); /* by a key above */
    finish(&f);
}

static void without_a_causal_mask_values_behind_a_live_query_live_too(void **state) {
    (void)state;
    /* The end reads A1.0 at the last position, whose value at position 0 reads A0.0 there: so A0.0
     * is live at position 0, and its value at position 1 is seen without a mask only. */
    const abl_graph_options options = {
        .layer_count = 2, .head_count = 1, .kv_head_count = 1, .seq_len = 2};
    for (int causal = 0; causal < 2; causal++) {
        fixture f = make(&options, causal != 0);
        for (int32_t d = 0; d < abl_graph_dest_count(f.graph); d++) {
            char name[64];
            (void)snprintf(name, sizeof name, "A0.0->%s[1]", name_of(&f, d));
            if (abl_graph_dest_at(f.graph, d)->src_count > 1) {
                cut(&f, name); /* all that reads A0.0 at position 1 */
            }
        }
        abl_acdc_plan_liveness(f.plan);
        assert_true(live_at(&f, "A0.0.V", 0));
        assert_int_equal(live_at(&f, "A0.0.V", 1), causal == 0);
        finish(&f);
    }
}

static void with_nothing_removed_all_inputs_move_with_the_stream(void **state) {
    (void)state;
    fixture f = make_small(0);
    abl_acdc_plan_attention(f.plan, 0, (const int32_t[]){1}, 1);
    assert_int_equal(f.plan->slot_count, 0);
    assert_int_equal(f.plan->mix_count, 4); /* MLP 0, all rows of block 1 at once, MLP 1, end */
    for (int32_t m = 0; m < f.plan->mix_count; m++) {
        assert_true(f.plan->mixes[m].from_stream);
        assert_false(f.plan->mixes[m].has_terms);
    }
    assert_string_equal(name_of(&f, f.plan->stream_dest), "Resid End");
    assert_int_equal(f.plan->blocks[1].unit_count, 2);
    assert_false(f.plan->changed[A00]);
    assert_true(f.plan->changed[A01]);
    finish(&f);
}

static void changes_stop_where_no_edge_is_kept(void **state) {
    (void)state;
    fixture f = make_small(0);
    cut(&f, "A0.1->MLP 0");
    cut(&f, "A0.1->A1.0.Q");
    cut(&f, "A0.1->A1.0.K");
    cut(&f, "A0.1->A1.0.V");
    cut(&f, "A0.1->A1.1.K");
    cut(&f, "A0.1->A1.1.V");
    for (int32_t row = 0; row < f.plan->row_count; row++) {
        f.plan->group_of[f.plan->row_count + row] = row + 1;
    }
    abl_acdc_plan_regroup(f.plan, 1);
    abl_acdc_plan_liveness(f.plan);
    abl_acdc_plan_attention(f.plan, 0, (const int32_t[]){1}, 1);
    assert_int_equal(f.plan->blocks[0].mlp_mix, -1);
    assert_false(f.plan->changed[MLP0]);
    assert_int_equal(f.plan->blocks[1].unit_count, 1); /* head 1, by its query alone */
    assert_int_equal(f.plan->blocks[1].units[0], 1);
    assert_int_equal(f.plan->blocks[1].row_mix[0], -1);
    assert_true(f.plan->blocks[1].row_mix[1] >= 0);
    assert_false(f.plan->changed[A10]);
    assert_true(f.plan->changed[A11]);
    finish(&f);
}

static void a_mix_takes_the_shorter_of_kept_and_removed(void **state) {
    (void)state;
    fixture f = make_small(0);
    cut(&f, "A0.0->Resid End");
    abl_acdc_plan_attention(f.plan, 0, (const int32_t[]){0, 1}, 2);
    const abl_acdc_mix *end = &f.plan->mixes[f.plan->end_mix];
    assert_true(end->from_stream);
    assert_true(end->has_terms);
    assert_int_equal(f.plan->slot_count, 1);
    assert_int_equal(f.plan->slot_of_src[A00], 0);
    assert_true(abl_acdc_plan_factor(f.plan, end, A00, 0) == -1.0F);
    assert_true(abl_acdc_plan_factor(f.plan, end, A01, 0) == 0.0F);

    cut(&f, "A0.1->Resid End");
    cut(&f, "MLP 0->Resid End");
    cut(&f, "A1.0->Resid End");
    abl_acdc_plan_attention(f.plan, 0, (const int32_t[]){0, 1}, 2);
    end = &f.plan->mixes[f.plan->end_mix];
    assert_false(end->from_stream);
    assert_int_equal(f.plan->slot_of_src[A11], 0); /* slots go up with the sources */
    assert_int_equal(f.plan->slot_of_src[MLP1], 1);
    assert_int_equal(abl_acdc_plan_slots_below(f.plan, MLP1), 1);
    assert_true(abl_acdc_plan_factor(f.plan, end, A11, 0) == 1.0F);
    assert_true(abl_acdc_plan_factor(f.plan, end, A10, 0) == 0.0F);
    finish(&f);
}

static void rows_of_equal_masks_join_unless_they_are_as_they_were(void **state) {
    (void)state;
    fixture f = make_small(0);
    int32_t *group_of = f.plan->group_of + f.plan->row_count; /* block 1 */
    cut(&f, "MLP 0->A1.0.Q");
    cut(&f, "MLP 0->A1.1.K");
    cut(&f, "A0.0->A1.1.V");
    group_of[0] = 1;
    group_of[3] = 4;
    group_of[5] = 6;
    abl_acdc_plan_regroup(f.plan, 1);
    assert_int_equal(group_of[0], 1);
    assert_int_equal(group_of[3], 1);
    assert_int_equal(group_of[5], 6);
    assert_int_equal(group_of[1], 0);
    finish(&f);
}

static void in_parallel_blocks_the_mlp_does_not_see_its_heads(void **state) {
    (void)state;
    const abl_graph_options options = {
        .layer_count = 2, .head_count = 2, .kv_head_count = 2, .parallel_attn_mlp = true};
    fixture f = make(&options, true);
    abl_acdc_plan_attention(f.plan, 0, (const int32_t[]){0}, 1);
    assert_int_equal(f.plan->blocks[0].mlp_mix, -1);
    assert_true(f.plan->blocks[1].mlp_mix >= 0);
    assert_true(f.plan->changed[A10]);
    finish(&f);
}

static void native_key_heads_change_all_queries_that_read_them(void **state) {
    (void)state;
    const abl_graph_options options = {.layer_count = 2, .head_count = 4, .kv_head_count = 2};
    fixture f = make(&options, true);
    assert_int_equal(f.plan->unit_heads, 2);
    assert_int_equal(abl_acdc_plan_row_at(f.plan, ABL_ACDC_K, 1), 5);
    assert_int_equal(abl_acdc_plan_unit(f.plan, 3), 1);
    assert_int_equal(abl_acdc_plan_unit(f.plan, 7), 1);
    abl_acdc_plan_attention(f.plan, 0, (const int32_t[]){1}, 1);
    assert_false(f.plan->changed[2]);
    assert_true(f.plan->changed[3]);
    assert_true(f.plan->changed[4]);
    finish(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_without_a_kept_path_to_the_end_are_dead),
        cmocka_unit_test(only_the_last_position_of_the_end_is_live_and_keys_live_before_it),
        cmocka_unit_test(without_a_causal_mask_values_behind_a_live_query_live_too),
        cmocka_unit_test(with_nothing_removed_all_inputs_move_with_the_stream),
        cmocka_unit_test(changes_stop_where_no_edge_is_kept),
        cmocka_unit_test(a_mix_takes_the_shorter_of_kept_and_removed),
        cmocka_unit_test(rows_of_equal_masks_join_unless_they_are_as_they_were),
        cmocka_unit_test(in_parallel_blocks_the_mlp_does_not_see_its_heads),
        cmocka_unit_test(native_key_heads_change_all_queries_that_read_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
