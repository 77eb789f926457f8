/* SPDX-License-Identifier: Apache-2.0
 *
 * Trainings of knockouts against AutoCircuit's train_same_under_knockout_prune_scores
 * (tests/golden/generate/knockouts.py, which prescribes the draws): curves, and of the final masks
 * how many agree, for Adam makes a whole step of a gradient that is rounding. The numbers are
 * committed, so they are read from this tree whatever $ABLATE_GOLDENS says. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOL_CURVE_RELATIVE 1e-4 /* of the curve's largest value */
#define TOL_MASK 1e-3           /* a step of Adam is 0.1 */
#define MASKS_AGREE_MIN 0.99
#define MASK_OUTSIDE (-99.0F)
#define RATIO 0.6180339887498949

typedef struct subject {
    const abl_graph *graph;
    const json_t *order; /* of modules in the regularizer */
    float *draws;
} subject;

/* Lists by module as one flat array, which ends with abl_free(). */
static float *flat(const abl_graph *graph, const json_t *modules) {
    float *values = abl_calloc((size_t)abl_graph_edge_count(graph), sizeof *values);
    for (int32_t m = 0; m < abl_graph_module_count(graph); m++) {
        const json_t *list = json_object_get(modules, abl_graph_module_at(graph, m)->name);
        const size_t count = (size_t)abl_scores_module_shape(graph, m).count;
        if (json_array_size(list) != count) {
            golden_check("knockouts", "modules are as large as AutoCircuit's", false);
        }
        float *tensor = abl_calloc(count, sizeof *tensor);
        for (size_t i = 0; i < count; i++) {
            tensor[i] = (float)json_number_value(json_array_get(list, i));
        }
        abl_scores_write_module(graph, values, m, tensor);
        abl_free(tensor);
    }
    return values;
}

/* Module m's draws in a tensor that starts with element `first` of what is drawn. */
static void draw(const abl_graph *graph, int32_t m, int64_t first, float *row) {
    const int64_t count = abl_scores_module_shape(graph, m).count;
    float *tensor = abl_calloc((size_t)count, sizeof *tensor);
    for (int64_t i = 0; i < count; i++) {
        double x = (double)(first + i + 1) * RATIO;
        tensor[i] = (float)(x - floor(x));
    }
    abl_scores_write_module(graph, row, m, tensor);
    abl_free(tensor);
}

static const float *prescribe(void *user_data, int64_t step, int32_t batch, bool regularizer) {
    (void)step;
    subject *s = user_data;
    const int64_t edges = abl_graph_edge_count(s->graph);
    abl_free(s->draws);
    s->draws = abl_calloc((size_t)(edges * batch), sizeof *s->draws);
    int64_t first = 0;
    for (int32_t i = 0; i < abl_graph_module_count(s->graph); i++) {
        int32_t m = i;
        if (regularizer) { /* all modules in one tensor */
            const char *name = json_string_value(json_array_get(s->order, (size_t)i));
            abl_status status;
            golden_must(abl_graph_find_module(s->graph, name, strlen(name), &m, &status), &status);
        }
        const int64_t count = abl_scores_module_shape(s->graph, m).count;
        for (int32_t row = 0; row < batch; row++) {
            draw(s->graph, m, regularizer ? first : row * count, s->draws + row * edges);
        }
        first += count;
    }
    return s->draws;
}

static double number(const json_t *json, const char *key) {
    return json_number_value(json_object_get(json, key));
}

static void compare_curve(const char *title, const json_t *curves, const char *name,
                          const abl_training_point *points, int64_t count) {
    const json_t *recorded = json_object_get(curves, name);
    float *expected = abl_calloc((size_t)count, sizeof *expected);
    float *actual = abl_calloc((size_t)count, sizeof *actual);
    for (int64_t i = 0; i < count; i++) {
        expected[i] = (float)json_number_value(json_array_get(recorded, (size_t)i));
        actual[i] = strcmp(name, "Loss") == 0             ? points[i].loss
                    : strcmp(name, "Regularization") == 0 ? points[i].regularization
                                                          : points[i].faithfulness;
    }
    golden_compare_floats(title, name, expected, json_array_size(recorded), actual, (size_t)count,
                          TOL_CURVE_RELATIVE * edges_max_abs(expected, count));
    abl_free(expected);
    abl_free(actual);
}

static void compare_masks(const char *title, const subject *s, const uint8_t *in_circuit,
                          const json_t *recorded, const float *actual) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    float *expected = flat(s->graph, recorded);
    int64_t trained = 0;
    int64_t agree = 0;
    bool outside = true;
    for (int64_t i = 0; i < edges; i++) {
        bool same = fabs((double)(expected[i] - actual[i])) <= TOL_MASK;
        trained += in_circuit[i];
        agree += in_circuit[i] != 0 && same ? 1 : 0;
        outside = outside && (in_circuit[i] != 0 ||
                              (expected[i] == MASK_OUTSIDE && actual[i] == MASK_OUTSIDE));
    }
    golden_check(title, "masks of the circuit", (double)agree >= MASKS_AGREE_MIN * (double)trained);
    golden_check(title, "masks outside of it", outside);
    abl_free(expected);
}

static void case_run(subject *s, const abl_prune_options *base, const json_t *json, const char *key,
                     const json_t *run) {
    const json_t *config = json_object_get(run, "config");
    const char *target = json_string_value(json_object_get(config, "faithfulness_target"));
    abl_prune_options options = *base;
    abl_mask_training_options *t = &options.subnetwork_probing;
    bool sigmoid = json_object_get(config, "mask_fn") != NULL;
    *t = (abl_mask_training_options){
        .learning_rate = (float)number(json, "learning_rate"),
        .epochs = (int32_t)number(json, "epochs"),
        .regularize_lambda = (float)number(config, "regularize_lambda"),
        .mask_function = sigmoid ? ABL_MASK_SIGMOID : ABL_MASK_HARD_CONCRETE,
        .init_value = ABL_MASK_INIT_DEFAULT,
        .circuit_size = (int64_t)number(json, "circuit_size") / 5,
        .faithfulness_target =
            target == NULL ? ABL_FAITHFULNESS_KL_DIV : ABL_FAITHFULNESS_LOGIT_DIFF,
        .avoid_lambda = 1,
        .knockouts_of = base->subnetwork_probing.knockouts_of,
        .draws_cb = prescribe,
        .draws_data = s};
    char title[96];
    (void)snprintf(title, sizeof title, "tiny-rand/knockouts/%s", key);
    abl_prune *prune = edges_run(&options);
    int64_t count = 0;
    const abl_training_point *points = abl_prune_curve(prune, &count);
    const json_t *curves = json_object_get(run, "curves");
    compare_curve(title, curves, "Loss", points, count);
    compare_curve(title, curves, "Regularization", points, count);
    compare_curve(title, curves, target == NULL ? "kl_div" : target, points, count);
    compare_masks(title, s, t->knockouts_of, json_object_get(run, "masks"),
                  abl_prune_scores(prune));
    abl_prune_destroy(prune);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    json_t *json = golden_open_json(ABLATE_GOLDEN_DATA "/knockouts/tiny-rand.json");
    abl_dataset *dataset = edges_abba("tiny-rand");
    abl_model *model = golden_open_model("tiny-rand", abl_model_processing_tl());
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    const int64_t edges = abl_graph_edge_count(graph);
    subject s = {.graph = graph, .order = json_object_get(json, "order")};
    float *scores = flat(graph, json_object_get(json, "scores"));
    uint8_t *in_circuit = abl_calloc((size_t)edges, 1);
    const int64_t size = (int64_t)number(json, "circuit_size");
    float threshold = 0;
    abl_status status;
    golden_must(abl_scores_thresholds(scores, edges, &size, 1, &threshold, &status), &status);
    (void)abl_scores_circuit(scores, edges, threshold, in_circuit);
    const abl_prune_options base = {
        .algorithm = ABL_PRUNE_SUBNETWORK_PROBING,
        .model = model,
        .graph = graph,
        .batches = {.dataset = dataset, .first = 8, .count = 8, .batch_size = 4},
        .subnetwork_probing = {.knockouts_of = in_circuit}};
    const char *key = NULL;
    json_t *run = NULL;
    json_object_foreach(json_object_get(json, "runs"), key, run) {
        case_run(&s, &base, json, key, run);
    }
    abl_free(s.draws);
    abl_free(scores);
    abl_free(in_circuit);
    abl_graph_destroy(graph);
    abl_model_unref(model);
    abl_dataset_destroy(dataset);
    json_decref(json);
    return golden_finish();
}
