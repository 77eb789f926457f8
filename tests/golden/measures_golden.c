/* SPDX-License-Identifier: Apache-2.0
 *
 * Completeness and ROC points against AutoCircuit's own same_under_knockout and measure_task_roc
 * (tests/golden/generate/measures.py). The numbers are committed, so they are read from this tree
 * whatever $ABLATE_GOLDENS says. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/metric/completeness.h"
#include "core/metric/similarity.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <stdio.h>
#include <string.h>

#define TOL_KL_RELATIVE 1e-5
#define TOL_RATE 1e-12 /* squared */

typedef struct subject {
    char title[64];
    abl_model *model;
    const abl_graph *graph;
    const abl_dataset *dataset;
    const float *scores;
    const float *negated;
} subject;

static abl_completeness_result completeness(const subject *s, int64_t size, float threshold) {
    const abl_completeness_options options = {
        .circuits = {.model = s->model,
                     .graph = s->graph,
                     .batches = {.dataset = s->dataset, .first = 8, .count = 8, .batch_size = 4},
                     .scores = s->scores},
        .circuit_size = size,
        .knockouts = s->negated,
        .knockout_threshold = threshold};
    abl_completeness *run = NULL;
    abl_status status;
    golden_must(abl_completeness_create(&options, &run, &status), &status);
    bool finished = false;
    while (!finished) {
        golden_must(abl_completeness_step(run, &finished, &status), &status);
    }
    abl_completeness_result result = abl_completeness_read(run);
    abl_completeness_destroy(run);
    return result;
}

/* [size, threshold, actual size, knockouts, kl, knockout kl] */
static void compare_completeness(const subject *s, const json_t *row) {
    double recorded[6];
    for (size_t i = 0; i < 6; i++) {
        recorded[i] = json_number_value(json_array_get(row, i));
    }
    abl_completeness_result ours = completeness(s, (int64_t)recorded[0], (float)recorded[1]);
    char what[96];
    (void)snprintf(what, sizeof what, "completeness at %g edges, threshold %g", recorded[0],
                   recorded[1]);
    golden_check(s->title, what,
                 (double)ours.circuit_size == recorded[2] &&
                     (double)ours.knockout_count == recorded[3]);
    const float expected[] = {(float)recorded[4], (float)recorded[5]};
    const float actual[] = {(float)ours.kl, (float)ours.knockout_kl};
    golden_compare_floats(s->title, what, expected, 2, actual, 2,
                          TOL_KL_RELATIVE * (1 + edges_max_abs(expected, 2)));
}

static void compare_roc(const subject *s, const json_t *recorded) {
    const int64_t count = abl_graph_edge_count(s->graph);
    uint8_t *in_reference = abl_calloc((size_t)count, 1);
    size_t index = 0;
    json_t *name = NULL;
    json_array_foreach(json_object_get(recorded, "reference"), index, name) {
        abl_edge edge;
        abl_status status;
        const char *text = json_string_value(name);
        golden_must(abl_graph_parse_edge(s->graph, text, strlen(text), &edge, &status), &status);
        in_reference[abl_graph_edge_index(s->graph, edge)] = 1;
    }
    const abl_edge_counts_options defaults = {.values = s->scores};
    int64_t sizes[512];
    int32_t size_count = 0;
    abl_point points[514];
    double area = 0;
    abl_status status;
    golden_must(abl_edge_counts(&defaults, count, sizes, 512, &size_count, &status), &status);
    golden_must(abl_similarity_roc(s->scores, count, in_reference, sizes, size_count, points, &area,
                                   &status),
                &status);
    const json_t *curve = json_object_get(recorded, "points");
    bool equal = json_array_size(curve) == (size_t)size_count + 2;
    for (size_t i = 0; equal && i < json_array_size(curve); i++) {
        const json_t *point = json_array_get(curve, i);
        double x = json_number_value(json_array_get(point, 0)) - points[i].x;
        double y = json_number_value(json_array_get(point, 1)) - points[i].y;
        equal = x * x < TOL_RATE && y * y < TOL_RATE;
    }
    golden_check(s->title, "ROC points", equal);
    golden_check(s->title, "ROC area between chance and certainty", area > 0.5 && area < 1);
    abl_free(in_reference);
}

static void case_measures(const char *model_name) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/measures/%s.json", ABLATE_GOLDEN_DATA, model_name);
    json_t *json = golden_open_json(path);
    abl_dataset *dataset = edges_abba(model_name);
    abl_model *model = golden_open_model(model_name, abl_model_processing_tl());
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_EAP, /* the mask gradient at 0 */
        .model = model,
        .graph = graph,
        .batches = {.dataset = dataset, .count = 8, .batch_size = 4}};
    float *scores = edges_scores(&options);
    const int64_t count = abl_graph_edge_count(graph);
    float *negated = abl_calloc((size_t)count, sizeof *negated);
    for (int64_t i = 0; i < count; i++) {
        negated[i] = -scores[i];
    }
    subject s = {
        .model = model, .graph = graph, .dataset = dataset, .scores = scores, .negated = negated};
    (void)snprintf(s.title, sizeof s.title, "%s/measures", model_name);
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(json_object_get(json, "completeness"), index, row) {
        compare_completeness(&s, row);
    }
    compare_roc(&s, json_object_get(json, "roc"));
    abl_free(scores);
    abl_free(negated);
    abl_graph_destroy(graph);
    abl_model_unref(model);
    abl_dataset_destroy(dataset);
    json_decref(json);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < 2; i++) {
        case_measures(EDGES_MODELS[i]);
    }
    return golden_finish();
}
