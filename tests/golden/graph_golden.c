/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs against AutoCircuit's listings: nodes with their modules, layers and indices, edges in
 * canonical order with their place in the patch masks, mask shapes, circuit sizes; and SmolLM2's
 * grouped-query graph against the reference's. Everything here is exact. */
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "tests/golden/edges.h"

#include <stdio.h>
#include <string.h>

static bool text_is(const json_t *object, const char *key, const char *text) {
    const char *value = json_string_value(json_object_get(object, key));
    return value != NULL && strcmp(value, text) == 0;
}

/* A recorded integer, or null where ours is -1. */
static bool int_is(const json_t *object, const char *key, int64_t value) {
    const json_t *recorded = json_object_get(object, key);
    return json_is_null(recorded) ? value == -1 : json_integer_value(recorded) == value;
}

static bool srcs_equal(const abl_graph *graph, const json_t *list) {
    bool equal = json_array_size(list) == (size_t)abl_graph_src_count(graph);
    for (int32_t i = 0; equal && i < abl_graph_src_count(graph); i++) {
        const abl_graph_src *src = abl_graph_src_at(graph, i);
        const json_t *recorded = json_array_get(list, (size_t)i);
        equal = text_is(recorded, "name", src->name) &&
                text_is(recorded, "module_name", src->module_name) &&
                int_is(recorded, "layer", src->layer) && int_is(recorded, "head_idx", src->head) &&
                int_is(recorded, "src_idx", src->index);
    }
    return equal;
}

static bool dests_equal(const abl_graph *graph, const json_t *list) {
    bool equal = json_array_size(list) == (size_t)abl_graph_dest_count(graph);
    for (int32_t i = 0; equal && i < abl_graph_dest_count(graph); i++) {
        const abl_graph_dest *dest = abl_graph_dest_at(graph, i);
        const json_t *recorded = json_array_get(list, (size_t)i);
        equal = text_is(recorded, "name", dest->name) &&
                text_is(recorded, "module_name", abl_graph_module_at(graph, dest->module)->name) &&
                int_is(recorded, "layer", dest->layer) &&
                int_is(recorded, "head_idx", dest->head) &&
                int_is(recorded, "min_src_idx", dest->src_begin);
    }
    return equal;
}

/* [name, module, [head?, src]] in canonical order, one position's. */
static bool edges_equal(const abl_graph *graph, const json_t *list) {
    int64_t per = abl_graph_edges_per_position(graph);
    bool equal = json_array_size(list) == (size_t)per;
    for (int64_t i = 0; equal && i < per; i++) {
        abl_edge edge = abl_graph_edge_at(graph, i);
        edge.seq = abl_graph_options_of(graph)->seq_len == 0 ? 0 : ABL_SEQ_EVERY;
        const abl_graph_dest *dest = abl_graph_dest_at(graph, edge.dest);
        const abl_graph_module *module = abl_graph_module_at(graph, dest->module);
        char name[ABL_NAME_BYTES_MAX + 1];
        (void)abl_graph_format_edge(graph, edge, ABL_DIALECT_AUTOCIRCUIT, name, sizeof name);
        const json_t *recorded = json_array_get(list, (size_t)i);
        const json_t *place = json_array_get(recorded, 2);
        size_t rank = json_array_size(place);
        equal = strcmp(json_string_value(json_array_get(recorded, 0)), name) == 0 &&
                strcmp(json_string_value(json_array_get(recorded, 1)), module->name) == 0 &&
                rank == (module->has_heads ? 2U : 1U) &&
                json_integer_value(json_array_get(place, rank - 1)) == edge.src - dest->src_begin &&
                (rank == 1 || json_integer_value(json_array_get(place, 0)) == dest->head);
    }
    return equal;
}

static bool shapes_equal(const abl_graph *graph, const json_t *shapes) {
    bool equal = json_object_size(shapes) == (size_t)abl_graph_module_count(graph);
    for (int32_t m = 0; equal && m < abl_graph_module_count(graph); m++) {
        const json_t *recorded = json_object_get(shapes, abl_graph_module_at(graph, m)->name);
        abl_scores_shape shape = abl_scores_module_shape(graph, m);
        equal = json_array_size(recorded) == (size_t)shape.rank;
        for (int32_t i = 0; equal && i < shape.rank; i++) {
            equal = json_integer_value(json_array_get(recorded, (size_t)i)) == shape.dims[i];
        }
    }
    return equal;
}

static void case_graph(const char *model_name, const edges_variant *variant,
                       const abl_graph *graph) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "b_graph_%s", variant->name)) {
        return;
    }
    golden_check(c.title, "edge count", int_is(c.json, "n_edges", abl_graph_edge_count(graph)));
    golden_check(c.title, "sources", srcs_equal(graph, json_object_get(c.json, "srcs")));
    golden_check(c.title, "destinations", dests_equal(graph, json_object_get(c.json, "dests")));
    golden_check(c.title, "edges in canonical order",
                 edges_equal(graph, json_object_get(c.json, "edges")));
    golden_check(c.title, "mask shapes",
                 shapes_equal(graph, json_object_get(c.json, "patch_mask_shapes")));
    edges_case_close(&c);
}

/* ---- helpers: edges by name to module tensors ------------------------------------------------ */

/* Recorded shapes and sums of each module's tensor against those of flat values. */
static void compare_tensors(const edges_case *c, const char *key, const abl_graph *graph,
                            const float *values) {
    const json_t *recorded = json_object_get(json_object_get(c->json, "out"), key);
    bool equal = json_object_size(recorded) == (size_t)abl_graph_module_count(graph);
    for (int32_t m = 0; equal && m < abl_graph_module_count(graph); m++) {
        const json_t *module = json_object_get(recorded, abl_graph_module_at(graph, m)->name);
        const json_t *dims = json_object_get(module, "shape");
        abl_scores_shape shape = abl_scores_module_shape(graph, m);
        float *tensor = abl_calloc((size_t)shape.count, sizeof *tensor);
        abl_scores_read_module(graph, values, m, tensor);
        double sum = 0;
        for (int64_t i = 0; i < shape.count; i++) {
            sum += (double)tensor[i];
        }
        equal = json_array_size(dims) == (size_t)shape.rank &&
                sum == json_number_value(json_object_get(module, "sum"));
        for (int32_t i = 0; equal && i < shape.rank; i++) {
            equal = json_integer_value(json_array_get(dims, (size_t)i)) == shape.dims[i];
        }
        abl_free(tensor);
    }
    golden_check(c->title, key, equal);
}

static void compare_arrays(const edges_case *c, const char *key, const abl_graph *graph,
                           const float *values) {
    float *expected = edges_flat(graph, c->set, key);
    size_t count = (size_t)abl_graph_edge_count(graph);
    golden_compare_floats(c->title, key, expected, count, values, count, 0);
    abl_free(expected);
}

/* A name is an edge at every position; the recorded lookups say where in its module it is. */
static bool name_set(const edges_case *c, const abl_graph *graph, const char *name,
                     const abl_edge *picked, float *values) {
    abl_edge edge = {0};
    abl_status status;
    golden_must(abl_graph_parse_edge(graph, name, strlen(name), &edge, &status), &status);
    bool every = edge.seq == ABL_SEQ_EVERY;
    for (edge.seq = 0; edge.seq < abl_graph_seq_count(graph); edge.seq++) {
        values[abl_graph_edge_index(graph, edge)] = 1;
    }
    const json_t *place = json_object_get(json_object_get(c->json, "edge_name_dict_lookup"), name);
    const abl_graph_dest *dest = abl_graph_dest_at(graph, edge.dest);
    size_t rank = json_array_size(place);
    bool heads = abl_graph_module_at(graph, dest->module)->has_heads;
    return every == (abl_graph_options_of(graph)->seq_len != 0) && edge.dest == picked->dest &&
           edge.src == picked->src && rank == 1U + (every ? 1U : 0U) + (heads ? 1U : 0U) &&
           json_integer_value(json_array_get(place, rank - 1)) == edge.src - dest->src_begin &&
           (!heads || json_integer_value(json_array_get(place, rank - 2)) == dest->head);
}

/* new_prune_scores, circuit_prune_scores and patch masks: edges to the arrays that they are in. */
static void case_helpers(const char *model_name, const edges_variant *variant,
                         const abl_graph *graph) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "g_helpers_%s", variant->name)) {
        return;
    }
    size_t edges = (size_t)abl_graph_edge_count(graph);
    float *constant = abl_calloc(edges, sizeof *constant);
    float *objects = abl_calloc(edges, sizeof *objects);
    float *graded = abl_calloc(edges, sizeof *graded);
    float *named = abl_calloc(edges, sizeof *named);
    int64_t count = 0;
    int64_t *picked = edges_list(json_object_get(c.json, "picked_edges"), &count);
    const json_t *names = json_object_get(c.json, "picked_names");
    bool found = count > 0;
    for (int64_t i = 0; i < count; i++) {
        objects[picked[i]] = 1;
        graded[picked[i]] = (float)i + 0.5F;
        abl_edge edge = abl_graph_edge_at(graph, picked[i]);
        const char *name = json_string_value(json_array_get(names, (size_t)i));
        found = name_set(&c, graph, name, &edge, named) && found;
    }
    golden_check(c.title, "edge_name_dict", found);
    compare_tensors(&c, "new_prune_scores()", graph, constant);
    for (size_t i = 0; i < edges; i++) {
        constant[i] = 2.5F;
    }
    compare_tensors(&c, "new_prune_scores(init_val=2.5)", graph, constant);
    compare_tensors(&c, "circuit_prune_scores(edges=Edge list)", graph, objects);
    compare_tensors(&c, "circuit_prune_scores(edges, bool=True)", graph, objects);
    compare_tensors(&c, "circuit_prune_scores(edges=names)", graph, named);
    compare_tensors(&c, "circuit_prune_scores(edge_dict={Edge: k+0.5})", graph, graded);
    compare_tensors(&c, "current_patch_masks_as_prune_scores() after patch_mode(edges=names)",
                    graph, named);
    compare_arrays(&c, "edges_obj", graph, objects);
    compare_arrays(&c, "edges_names", graph, named);
    compare_arrays(&c, "edge_dict_obj", graph, graded);
    compare_arrays(&c, "masks_after_patch_mode", graph, named);
    abl_free(picked);
    abl_free(named);
    abl_free(graded);
    abl_free(objects);
    abl_free(constant);
    edges_case_close(&c);
}

/* ---- circuit sizes --------------------------------------------------------------------------- */

static void compare_sizes(const char *title, const json_t *recorded, const char *key,
                          const abl_edge_counts_options *options, int64_t edge_count) {
    const json_t *list = json_object_get(recorded, key);
    if (!json_is_array(list)) {
        return; /* too long to be recorded whole, or AutoCircuit's own error */
    }
    int64_t sizes[4096];
    int32_t count = 0;
    abl_status status;
    golden_must(abl_edge_counts(options, edge_count, sizes, 4096, &count, &status), &status);
    bool equal = (size_t)count == json_array_size(list);
    for (int32_t i = 0; equal && i < count; i++) {
        equal = sizes[i] == json_integer_value(json_array_get(list, (size_t)i));
    }
    char what[96];
    (void)snprintf(what, sizeof what, "edge_counts_util %s", key);
    golden_check(title, what, equal);
}

static void case_sizes(const char *model_name, const edges_variant *variant,
                       const abl_graph *graph) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "e_metrics_%s", variant->name)) {
        return;
    }
    int64_t n = abl_graph_edge_count(graph);
    const json_t *recorded = json_object_get(c.json, "edge_counts_util");
    float *tied = edges_flat(graph, c.set, "tied");
    const abl_edge_count ints[] = {{1, false}, {5, false}, {7, false}};
    const abl_edge_count fractions[] = {{0.1, true}, {0.25, true}, {0.5, true}};
    const abl_edge_count mixed[] = {{0, false}, {0.5, true}, {20, false}, {(double)n, false}};
    const struct {
        const char *key;
        abl_edge_counts_options options;
    } cases[] = {
        {"LOGARITHMIC", {.kind = ABL_EDGE_COUNTS_LOGARITHMIC}},
        {"ALL", {.kind = ABL_EDGE_COUNTS_ALL}},
        {"list_int", {.kind = ABL_EDGE_COUNTS_LIST, .list = ints, .list_count = 3}},
        {"list_two", {.kind = ABL_EDGE_COUNTS_LIST, .list = ints, .list_count = 2}},
        {"list_float", {.kind = ABL_EDGE_COUNTS_LIST, .list = fractions, .list_count = 3}},
        {"list_mixed_no_zero_all",
         {.kind = ABL_EDGE_COUNTS_LIST,
          .list = mixed,
          .list_count = 4,
          .zero = ABL_EDGE_COUNTS_END_REMOVE,
          .all = ABL_EDGE_COUNTS_END_REMOVE}},
        {"log_true13", {.kind = ABL_EDGE_COUNTS_LOGARITHMIC, .true_edge_count = 13}},
        {"GROUPS_tied", {.kind = ABL_EDGE_COUNTS_GROUPS, .values = tied}},
        {"default_tied", {.values = tied}},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        compare_sizes(c.title, recorded, cases[i].key, &cases[i].options, n);
    }
    abl_free(tied);
    edges_case_close(&c);
}

/* ---- SmolLM2: no model is needed ------------------------------------------------------------- */

static void case_smollm2(void) {
    const char *path = golden_path("cases/smollm2-135m/edges.json");
    if (!golden_has(path)) {
        return;
    }
    json_t *json = golden_open_json(path);
    abl_graph_options options = {.layer_count = 30, .head_count = 9, .kv_head_count = 3};
    abl_graph *graph = NULL;
    abl_status status;
    golden_must(abl_graph_create(&options, &graph, &status), &status);
    golden_check("smollm2-135m/edges", "edge count",
                 int_is(json, "n_edges", abl_graph_edge_count(graph)));
    const json_t *srcs = json_object_get(json, "srcs");
    bool equal = json_array_size(srcs) == (size_t)abl_graph_src_count(graph);
    for (int32_t i = 0; equal && i < abl_graph_src_count(graph); i++) {
        equal = strcmp(json_string_value(json_array_get(srcs, (size_t)i)),
                       abl_graph_src_at(graph, i)->name) == 0;
    }
    golden_check("smollm2-135m/edges", "sources", equal);
    const json_t *dests = json_object_get(json, "dests");
    equal = json_array_size(dests) == (size_t)abl_graph_dest_count(graph);
    for (int32_t i = 0; equal && i < abl_graph_dest_count(graph); i++) {
        const abl_graph_dest *dest = abl_graph_dest_at(graph, i);
        const json_t *recorded = json_array_get(dests, (size_t)i);
        equal = text_is(recorded, "name", dest->name) &&
                int_is(recorded, "n_in", dest->src_count) &&
                int_is(recorded, "offset", dest->edge_offset);
    }
    golden_check("smollm2-135m/edges", "destinations and offsets", equal);
    abl_graph_destroy(graph);
    options.gqa = ABL_GQA_EXPANDED;
    golden_must(abl_graph_create(&options, &graph, &status), &status);
    golden_check("smollm2-135m/edges", "123,211 edges expanded",
                 abl_graph_edge_count(graph) == 123211);
    abl_graph_destroy(graph);
    json_decref(json);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        abl_model *model = golden_open_model(EDGES_MODELS[i], abl_model_processing_hf());
        for (size_t v = 0; v < EDGES_VARIANT_COUNT; v++) {
            abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[v], 16);
            case_graph(EDGES_MODELS[i], &EDGES_VARIANTS[v], graph);
            if (v < 2 || strcmp(EDGES_VARIANTS[v].name, "proc_unfact") == 0) {
                case_helpers(EDGES_MODELS[i], &EDGES_VARIANTS[v], graph);
            }
            if (v < 2) {
                case_sizes(EDGES_MODELS[i], &EDGES_VARIANTS[v], graph);
            }
            abl_graph_destroy(graph);
        }
        /* asis_golden.c says what that is. */
        const edges_variant asis = {.name = "proc_fact_noqkv_asis", .joined_qkv = true};
        abl_graph *graph = edges_graph(model, &asis, 16);
        case_graph(EDGES_MODELS[i], &asis, graph);
        abl_graph_destroy(graph);
        abl_model_unref(model);
    }
    case_smollm2();
    return golden_finish();
}
