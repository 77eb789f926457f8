// SPDX-License-Identifier: Apache-2.0
/* Topology, canonical order and names, by properties that need no recorded data: the golden test
 * compares whole listings with AutoCircuit's. */
#include "tests/unit/unit.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/graph/graph.h"

#include <stdio.h>
#include <string.h>

static abl_graph *graph_of(abl_graph_options options) {
    abl_graph *graph = NULL;
    abl_status status = {0};
    assert_int_equal(abl_graph_create(&options, &graph, &status), ABL_CODE_OK);
    return graph;
}

static const abl_graph_options TINY = {.layer_count = 2, .head_count = 4, .kv_head_count = 2};

static int64_t edges_of(abl_graph_options options) {
    abl_graph *graph = graph_of(options);
    int64_t count = abl_graph_edge_count(graph);
    abl_graph_destroy(graph);
    return count;
}

static void edge_counts_equal_the_published_ones(void **state) {
    (void)state;
    abl_graph_options gpt2 = {.layer_count = 12, .head_count = 12, .kv_head_count = 12};
    assert_int_equal(edges_of(gpt2), 32491); /* the MIB benchmark's own file */
    abl_graph_options smol = {.layer_count = 30, .head_count = 9, .kv_head_count = 3};
    assert_int_equal(edges_of(smol), 70651);
    smol.gqa = ABL_GQA_EXPANDED;
    assert_int_equal(edges_of(smol), 123211);
    abl_graph_options llama = {.layer_count = 32, .head_count = 32, .kv_head_count = 8};
    assert_int_equal(edges_of(llama), 805681);
    llama.gqa = ABL_GQA_EXPANDED;
    assert_int_equal(edges_of(llama), 1592881);
}

static void edge_count_follows_the_formula(void **state) {
    (void)state;
    for (int layers = 1; layers < 5; layers++) {
        for (int kv = 1; kv <= 4; kv *= 2) {
            int64_t heads = 4;
            int64_t expected = 1 + layers * (heads + 1);
            for (int64_t l = 0; l < layers; l++) {
                int64_t below = 1 + l * (heads + 1);
                expected += (heads + 2 * kv) * below + below + heads;
            }
            abl_graph_options options = {
                .layer_count = layers, .head_count = 4, .kv_head_count = kv};
            assert_int_equal(edges_of(options), expected);
        }
    }
}

static void every_index_names_one_edge_and_back_in_both_dialects(void **state) {
    (void)state;
    abl_graph_options variants[] = {TINY, TINY, TINY, TINY, TINY, TINY, TINY, TINY, TINY, TINY};
    for (size_t v = 6; v < ABL_COUNT_OF(variants); v++) {
        variants[v].simple = true;
    }
    variants[7].seq_len = 3;
    variants[8].parallel_attn_mlp = true;
    variants[9].attn_only = true;
    variants[1].seq_len = 3;
    variants[2].joined_qkv = true;
    variants[3].gqa = ABL_GQA_EXPANDED;
    variants[4].parallel_attn_mlp = true;
    variants[5].attn_only = true;
    for (size_t v = 0; v < ABL_COUNT_OF(variants); v++) {
        abl_graph *graph = graph_of(variants[v]);
        for (int64_t i = 0; i < abl_graph_edge_count(graph); i++) {
            abl_edge edge = abl_graph_edge_at(graph, i);
            assert_int_equal(abl_graph_edge_index(graph, edge), i);
            for (int dialect = 0; dialect < 2; dialect++) {
                char name[ABL_NAME_BYTES_MAX + 1];
                size_t length = abl_graph_format_edge(graph, edge, (abl_edge_dialect)dialect, name,
                                                      sizeof name);
                abl_edge parsed = {0};
                abl_status status = {0};
                assert_int_equal(abl_graph_parse_edge(graph, name, length, &parsed, &status),
                                 ABL_CODE_OK);
                assert_int_equal(abl_graph_edge_index(graph, parsed), i);
            }
            const abl_graph_src *src = abl_graph_src_at(graph, edge.src);
            const abl_graph_dest *dest = abl_graph_dest_at(graph, edge.dest);
            assert_true(src->layer < dest->layer);
            assert_true(!variants[v].simple || src->layer + 1 == dest->layer);
        }
        abl_graph_destroy(graph);
    }
}

/* What a node of the stream reads and writes, in each kind of block. */
static void a_simple_graph_is_the_stream_node_by_node(void **state) {
    (void)state;
    static const struct {
        bool parallel;
        bool attn_only;
        int32_t srcs;
        int32_t dests;
        const char *edges[8]; /* some of them, and the first and the last in order */
    } CASES[] = {
        {false,
         false,
         14,
         4,
         {"Resid Start->Resid Mid 0", "A0.3->Resid Mid 0", "Resid Mid 0->Resid Post 0",
          "MLP 0->Resid Post 0", "Resid Post 0->Resid Mid 1", "A1.0->Resid Mid 1",
          "Resid Mid 1->Resid End", "MLP 1->Resid End"}},
        {true,
         false,
         12,
         2,
         {"Resid Start->Resid Post 0", "A0.0->Resid Post 0", "A0.3->Resid Post 0",
          "MLP 0->Resid Post 0", "Resid Post 0->Resid End", "A1.0->Resid End", "A1.3->Resid End",
          "MLP 1->Resid End"}},
        {false,
         true,
         10,
         2,
         {"Resid Start->Resid Post 0", "A0.0->Resid Post 0", "A0.1->Resid Post 0",
          "A0.3->Resid Post 0", "Resid Post 0->Resid End", "A1.0->Resid End", "A1.1->Resid End",
          "A1.3->Resid End"}},
    };
    for (size_t c = 0; c < ABL_COUNT_OF(CASES); c++) {
        abl_graph_options options = TINY;
        options.simple = true;
        options.parallel_attn_mlp = CASES[c].parallel;
        options.attn_only = CASES[c].attn_only;
        abl_graph *graph = graph_of(options);
        assert_int_equal(abl_graph_src_count(graph), CASES[c].srcs);
        assert_int_equal(abl_graph_dest_count(graph), CASES[c].dests);
        assert_int_equal(abl_graph_edge_count(graph), CASES[c].srcs); /* each is read once */
        int64_t last = -1;
        for (size_t i = 0; i < ABL_COUNT_OF(CASES[c].edges); i++) {
            const char *name = CASES[c].edges[i];
            abl_edge edge = {0};
            abl_status status = {0};
            assert_int_equal(abl_graph_parse_edge(graph, name, strlen(name), &edge, &status),
                             ABL_CODE_OK);
            int64_t index = abl_graph_edge_index(graph, edge);
            assert_true(index > last && (i > 0 || index == 0));
            last = index;
        }
        assert_int_equal(last, CASES[c].srcs - 1);
        assert_false(abl_graph_has_dialect(graph, ABL_DIALECT_MIB));
        abl_graph_destroy(graph);
    }
}

static void a_simple_graph_refuses_what_it_has_not(void **state) {
    (void)state;
    abl_graph_options options = TINY;
    options.simple = true;
    abl_graph *graph = graph_of(options);
    static const struct {
        const char *name;
        const char *reason;
    } CASES[] = {
        {"A0.0->MLP 0", "DESTINATION_UNKNOWN"},
        {"A0.0->A1.0.Q", "DESTINATION_UNKNOWN"},
        {"A0.0->Resid Mid 2", "DESTINATION_UNKNOWN"},
        {"A0.0->Resid Post 1", "DESTINATION_UNKNOWN"}, /* which is Resid End */
        {"A0.0->Resid Mid 00", "DESTINATION_UNKNOWN"},
        {"Resid Post 1->Resid End", "SOURCE_UNKNOWN"},
        {"Resid Mid 2->Resid End", "SOURCE_UNKNOWN"},
        {"A0.0->Resid Post 0", "EDGE_NOT_IN_GRAPH"},
        {"Resid Start->Resid End", "EDGE_NOT_IN_GRAPH"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(CASES); i++) {
        abl_edge edge = {0};
        abl_status status = {0};
        assert_int_not_equal(
            abl_graph_parse_edge(graph, CASES[i].name, strlen(CASES[i].name), &edge, &status),
            ABL_CODE_OK);
        assert_string_equal(status.reason, CASES[i].reason);
    }
    abl_graph_destroy(graph);
    graph = graph_of(TINY);
    abl_edge edge = {0};
    abl_status status = {0};
    assert_int_equal(abl_graph_parse_edge(graph, "A0.0->Resid Mid 0", 17, &edge, &status),
                     ABL_CODE_NOT_FOUND);
    assert_int_equal(abl_graph_parse_edge(graph, "Resid Mid 0->MLP 1", 18, &edge, &status),
                     ABL_CODE_NOT_FOUND);
    abl_graph_destroy(graph);
}

static void an_edge_exists_exactly_where_the_source_is_below(void **state) {
    (void)state;
    abl_graph_options options = TINY;
    for (int parallel = 0; parallel < 2; parallel++) {
        options.parallel_attn_mlp = parallel != 0;
        abl_graph *graph = graph_of(options);
        for (int32_t d = 0; d < abl_graph_dest_count(graph); d++) {
            for (int32_t s = 0; s < abl_graph_src_count(graph); s++) {
                bool below = abl_graph_src_at(graph, s)->layer < abl_graph_dest_at(graph, d)->layer;
                abl_edge edge = {.dest = d, .src = s};
                abl_status status = {0};
                assert_int_equal(abl_graph_check_edge(graph, edge, &status),
                                 below ? ABL_CODE_OK : ABL_CODE_INVALID_ARGUMENT);
                assert_true(below || strcmp(status.reason, "EDGE_NOT_IN_GRAPH") == 0);
            }
        }
        abl_graph_destroy(graph);
    }
}

static void both_dialects_name_the_same_edge(void **state) {
    (void)state;
    abl_graph *graph =
        graph_of((abl_graph_options){.layer_count = 12, .head_count = 12, .kv_head_count = 12});
    static const char *const PAIRS[][2] = {
        {"A9.9->A11.10.Q", "a9.h9->a11.h10<q>"},
        {"MLP 3->A5.0.K", "m3->a5.h0<k>"},
        {"Resid Start->MLP 0", "input->m0"},
        {"A9.9->Resid End", "a9.h9->logits"},
        {"A0.0->MLP 0", "a0.h0->m0"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(PAIRS); i++) {
        abl_edge a = {0};
        abl_edge b = {0};
        assert_int_equal(abl_graph_parse_edge(graph, PAIRS[i][0], strlen(PAIRS[i][0]), &a, NULL),
                         ABL_CODE_OK);
        assert_int_equal(abl_graph_parse_edge(graph, PAIRS[i][1], strlen(PAIRS[i][1]), &b, NULL),
                         ABL_CODE_OK);
        assert_memory_equal(&a, &b, sizeof a);
        char text[64];
        (void)abl_graph_format_edge(graph, a, ABL_DIALECT_AUTOCIRCUIT, text, sizeof text);
        assert_string_equal(text, PAIRS[i][0]);
        (void)abl_graph_format_edge(graph, a, ABL_DIALECT_MIB, text, sizeof text);
        assert_string_equal(text, PAIRS[i][1]);
    }
    abl_graph_destroy(graph);
}

static void bad_names_are_refused_with_what_exists(void **state) {
    (void)state;
    abl_graph *graph = graph_of(TINY);
    static const struct {
        const char *name;
        const char *reason;
        const char *says;
    } CASES[] = {
        {"A0.0", "EDGE_NAME_MALFORMED", "A9.9->A11.10.Q"},
        {"", "EDGE_NAME_MALFORMED", "edge name"},
        {"A0.0->MLP 0[", "EDGE_NAME_MALFORMED", "edge name"},
        {"A2.0->MLP 0", "SOURCE_UNKNOWN", "'A1.3'"},
        {"A0.4->MLP 0", "SOURCE_UNKNOWN", "'A1.3'"},
        {"A00.1->MLP 0", "SOURCE_UNKNOWN", "'MLP 1'"},
        {"A0.1.Q->MLP 0", "SOURCE_UNKNOWN", "Resid Start"},
        {"Resid End->MLP 0", "SOURCE_UNKNOWN", "Resid Start"},
        {"A0.99999999999999999999->MLP 0", "SOURCE_UNKNOWN", "A1.3"},
        {"A0.0->A1.0", "DESTINATION_UNKNOWN", "'A1.3.Q'"},
        {"A0.0->A1.2.K", "DESTINATION_UNKNOWN", "'A1.1.V'"},
        {"A0.0->a1.h2<z>", "DESTINATION_UNKNOWN", "Resid End"},
        {"A0.0->Resid Start", "DESTINATION_UNKNOWN", "Resid End"},
        {"A0.0->MLP 2", "DESTINATION_UNKNOWN", "'MLP 1'"},
        {"A0.0->A0.0.Q", "EDGE_NOT_IN_GRAPH", "not below"},
        {"MLP 1->A1.0.Q", "EDGE_NOT_IN_GRAPH", "layer 4"},
        {"A0.0->MLP 0[1]", "EDGE_POSITION_INVALID", "one value for all"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(CASES); i++) {
        abl_edge edge = {.seq = -7};
        abl_status status = {0};
        abl_code code =
            abl_graph_parse_edge(graph, CASES[i].name, strlen(CASES[i].name), &edge, &status);
        assert_int_not_equal(code, ABL_CODE_OK);
        assert_string_equal(status.reason, CASES[i].reason);
        if (strstr(status.message, CASES[i].says) == NULL) {
            fail_msg("'%s': '%s' does not say '%s'", CASES[i].name, status.message, CASES[i].says);
        }
        assert_int_equal(edge.seq, -7);
    }
    abl_graph_destroy(graph);
}

static void a_name_without_a_position_means_every_position(void **state) {
    (void)state;
    abl_graph_options options = TINY;
    options.seq_len = 5;
    abl_graph *graph = graph_of(options);
    abl_edge edge = {0};
    abl_status status = {0};
    assert_int_equal(abl_graph_parse_edge(graph, "A0.0->MLP 0", 11, &edge, &status), ABL_CODE_OK);
    assert_int_equal(edge.seq, ABL_SEQ_EVERY);
    assert_int_equal(abl_graph_parse_edge(graph, "A0.0->MLP 0[4]", 14, &edge, &status),
                     ABL_CODE_OK);
    assert_int_equal(edge.seq, 4);
    assert_int_equal(abl_graph_parse_edge(graph, "A0.0->MLP 0[5]", 14, &edge, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "EDGE_POSITION_INVALID");
    abl_graph_destroy(graph);
}

static void modules_carry_their_destinations_as_dense_blocks(void **state) {
    (void)state;
    abl_graph *graph = graph_of(TINY);
    int64_t edges = 0;
    for (int32_t m = 0; m < abl_graph_module_count(graph); m++) {
        const abl_graph_module *module = abl_graph_module_at(graph, m);
        assert_int_equal(module->edge_offset, edges);
        for (int32_t i = 0; i < module->dest_count; i++) {
            const abl_graph_dest *dest = abl_graph_dest_at(graph, module->dest_begin + i);
            assert_int_equal(dest->module, m);
            assert_int_equal(dest->edge_offset, edges);
            assert_int_equal(dest->head, module->has_heads ? i : -1);
            edges += module->src_count;
        }
        int32_t found = -1;
        assert_int_equal(
            abl_graph_find_module(graph, module->name, strlen(module->name), &found, NULL),
            ABL_CODE_OK);
        assert_int_equal(found, m);
    }
    assert_int_equal(edges, abl_graph_edges_per_position(graph));
    assert_string_equal(abl_graph_module_at(graph, 0)->name, "blocks.0.hook_q_input");
    assert_string_equal(abl_graph_module_at(graph, abl_graph_module_count(graph) - 1)->name,
                        "blocks.1.hook_resid_post");
    abl_graph_destroy(graph);
}

static void impossible_options_are_refused(void **state) {
    (void)state;
    abl_graph_options bad[] = {TINY, TINY, TINY, TINY, TINY};
    bad[0].layer_count = 0;
    bad[1].kv_head_count = 3;
    bad[2].seq_len = -1;
    bad[3].head_count = ABL_HEAD_COUNT_MAX + 1;
    bad[4].head_count = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        abl_graph *graph = NULL;
        abl_status status = {0};
        assert_int_not_equal(abl_graph_create(&bad[i], &graph, &status), ABL_CODE_OK);
        assert_null(graph);
        assert_true(status.message[0] != '\0');
    }
    abl_graph_options huge = {
        .layer_count = 64, .head_count = 64, .kv_head_count = 64, .seq_len = 8192};
    abl_graph *graph = NULL;
    abl_status status = {0};
    assert_int_equal(abl_graph_create(&huge, &graph, &status), ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "GRAPH_TOO_BIG");
}

static void a_failed_allocation_is_a_clean_failure(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        abl_graph *graph = NULL;
        abl_status status = {0};
        abl_mem_fail_after(n);
        abl_code code = abl_graph_create(&TINY, &graph, &status);
        abl_mem_fail_after(0);
        if (code == ABL_CODE_OK) {
            abl_graph_destroy(graph);
            assert_true(n > 1);
            return;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
        assert_null(graph);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(edge_counts_equal_the_published_ones),
        cmocka_unit_test(edge_count_follows_the_formula),
        cmocka_unit_test(every_index_names_one_edge_and_back_in_both_dialects),
        cmocka_unit_test(an_edge_exists_exactly_where_the_source_is_below),
        cmocka_unit_test(a_simple_graph_is_the_stream_node_by_node),
        cmocka_unit_test(a_simple_graph_refuses_what_it_has_not),
        cmocka_unit_test(both_dialects_name_the_same_edge),
        cmocka_unit_test(bad_names_are_refused_with_what_exists),
        cmocka_unit_test(a_name_without_a_position_means_every_position),
        cmocka_unit_test(modules_carry_their_destinations_as_dense_blocks),
        cmocka_unit_test(impossible_options_are_refused),
        cmocka_unit_test(a_failed_allocation_is_a_clean_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
