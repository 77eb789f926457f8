/* SPDX-License-Identifier: Apache-2.0
 *
 * The e_metrics cases of AutoCircuit: every metric of sweeps over circuit sizes, their areas, the
 * percentages row by row, logits of some circuits, thresholds, and similarities of scores; and the
 * g_helpers cases: scores made from a value, from edges and from masks. Completeness is held to
 * laws; measures_golden has its numbers. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/metric/completeness.h"
#include "core/metric/similarity.h"
#include "core/metric/sweep.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOL_LOGITS 1e-4
#define TOL_METRIC_RELATIVE 1e-4 /* of the curve's largest value, and at least this */
/* AutoCircuit's 8 ratios of one small difference to another, in float32. */
#define TOL_RATIO_RELATIVE 2e-4
#define TOL_AREA_RELATIVE 1e-6 /* of areas of the recorded curve: the same arithmetic */
#define TOL_KL_ROUNDING 2e-6 /* a KL divergence that is zero but for rounding, and its logarithm */

static const struct {
    abl_metric metric;
    const char *key;
} METRICS[] = {
    {ABL_METRIC_CLEAN_KL_DIV, "Clean KL Div"},
    {ABL_METRIC_CORRUPT_KL_DIV, "Corrupt KL Div"},
    {ABL_METRIC_ANSWER_PROB, "Answer Prob"},
    {ABL_METRIC_ANSWER_VALUE, "Answer Logit"},
    {ABL_METRIC_WRONG_ANSWER_VALUE, "Wrong Answer Logit"},
    {ABL_METRIC_ANSWER_LOGPROB, "Answer Logprob"},
    {ABL_METRIC_ANSWER_DIFF, "Logit Diff"},
    {ABL_METRIC_ANSWER_PROB_DIFF, "Prob Diff"},
    {ABL_METRIC_ANSWER_LOGPROB_DIFF, "Logprob Diff"},
    {ABL_METRIC_ANSWER_DIFF_PERCENT, "Logit Diff Percent"},
    {ABL_METRIC_ANSWER_PROB_DIFF_PERCENT, "Prob Diff Percent"},
    {ABL_METRIC_ANSWER_LOGPROB_DIFF_PERCENT, "LogProb Diff Percent"},
    {ABL_METRIC_CORRECT_PERCENT, "Correct Answer Percent"},
    {ABL_METRIC_CORRECT_OVER_WRONG_PERCENT, "Correct Answer Greater Than Incorrect Percent"},
    {ABL_METRIC_ANSWER_DIFF_PERCENT_BY_ROW, NULL}, /* recorded apart */
};
#define METRIC_COUNT (sizeof METRICS / sizeof METRICS[0])
#define BY_ROW (METRIC_COUNT - 1)

static void fill(float *values, int64_t count, float value) {
    for (int64_t i = 0; i < count; i++) {
        values[i] = value;
    }
}

/* ---- curves ---------------------------------------------------------------------------------- */

/* A recorded curve, [[edges, value], ...]; ends with abl_free(). */
static abl_point *curve_read(const json_t *recorded, size_t *ret_count) {
    size_t count = json_array_size(recorded);
    abl_point *points = abl_calloc(count + 1, sizeof *points);
    for (size_t i = 0; i < count; i++) {
        const json_t *point = json_array_get(recorded, i);
        points[i].x = json_number_value(json_array_get(point, 0));
        points[i].y = json_number_value(json_array_get(point, 1));
    }
    *ret_count = count;
    return points;
}

typedef enum curve_value { CURVE_VALUE, CURVE_STD } curve_value;

static void compare_curve(const edges_case *c, const char *name, const json_t *recorded,
                          const abl_sweep *sweep, size_t metric, curve_value which,
                          double relative) {
    size_t count = 0;
    abl_point *points = curve_read(recorded, &count);
    float *expected = abl_calloc(count + 1, sizeof *expected);
    float *actual = abl_calloc(count + 1, sizeof *actual);
    bool sizes_equal = (size_t)abl_sweep_row_count(sweep) == count;
    for (size_t i = 0; sizes_equal && i < count; i++) {
        abl_sweep_row row = abl_sweep_row_at(sweep, (int32_t)i);
        sizes_equal = (double)row.edge_count == points[i].x;
        expected[i] = (float)points[i].y;
        actual[i] = (float)(which == CURVE_STD ? row.stds[metric] : row.values[metric]);
    }
    double largest = edges_max_abs(expected, (int64_t)count);
    golden_compare_floats(c->title, name, expected, count, actual, sizes_equal ? count : 0,
                          relative * (largest > 1 ? largest : 1));
    abl_free(expected);
    abl_free(actual);
    abl_free(points);
}

/* The area of the recorded curve must be the recorded area: that is the arithmetic alone. */
static void compare_area(const edges_case *c, const char *name, const json_t *curve,
                         const json_t *recorded, abl_metric metric, bool own_axes) {
    size_t count = 0;
    abl_point *points = curve_read(curve, &count);
    abl_axes axes = {false, false, 0};
    if (own_axes) {
        axes = abl_metric_axes(metric);
        const json_t *y_min = json_object_get(recorded, "y_min");
        golden_check(c->title, "the metric's axes are AutoCircuit's",
                     axes.log_x == json_is_true(json_object_get(recorded, "log_x")) &&
                         axes.log_y == json_is_true(json_object_get(recorded, "log_y")) &&
                         axes.y_min == json_number_value(y_min));
    }
    float expected = (float)json_number_value(json_object_get(recorded, "value"));
    float actual = (float)abl_area_auc(points, (int32_t)count, axes);
    golden_compare_floats(c->title, name, &expected, 1, &actual, 1,
                          TOL_AREA_RELATIVE * fmax(1, fabs((double)expected)));
    abl_free(points);
}

static void compare_metric(const edges_case *c, const char *sweep_name, const json_t *recorded,
                           const abl_sweep *sweep, size_t i) {
    const char *key = METRICS[i].key;
    const json_t *curve = json_object_get(json_object_get(recorded, "metrics"), key);
    const json_t *areas = json_object_get(recorded, "auc");
    char name[160];
    (void)snprintf(name, sizeof name, "%s %s", sweep_name, key);
    compare_curve(c, name, curve, sweep, i, CURVE_VALUE, TOL_METRIC_RELATIVE);
    (void)snprintf(name, sizeof name, "%s %s AUC", sweep_name, key);
    compare_area(c, name, curve, json_object_get(areas, key), METRICS[i].metric, true);
    char linear[96];
    (void)snprintf(linear, sizeof linear, "%s (linear axes)", key);
    (void)snprintf(name, sizeof name, "%s %s AUC, linear", sweep_name, key);
    compare_area(c, name, curve, json_object_get(areas, linear), METRICS[i].metric, false);
}

static abl_ablation ablation_of(const char *name) {
    for (int i = 0; i < ABL_ABLATION_COUNT; i++) {
        if (strcmp(abl_ablation_name((abl_ablation)i), name) == 0) {
            return (abl_ablation)i;
        }
    }
    return ABL_ABLATION_COUNT;
}

static abl_circuits_options circuits_of(const edges_subject *s, const char *sweep_name,
                                        const float *scores) {
    return (abl_circuits_options){
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .first = 8, .count = 8, .batch_size = 4},
        .patch_type = strncmp(sweep_name, "EDGE", 4) == 0 ? ABL_PATCH_EDGE : ABL_PATCH_TREE,
        .ablation = ablation_of(strchr(sweep_name, '/') + 1),
        .scores = scores};
}

static abl_sweep *sweep_run(const abl_sweep_options *options) {
    abl_sweep *sweep = NULL;
    abl_status status;
    golden_must(abl_sweep_create(options, &sweep, &status), &status);
    abl_sweep_progress progress = {0};
    while (!progress.finished) {
        golden_must(abl_sweep_step(sweep, &progress, &status), &status);
    }
    return sweep;
}

static void case_sweep(const edges_case *c, const edges_subject *s, const char *name,
                       const float *scores, const json_t *recorded) {
    int64_t count = 0;
    int64_t *sizes = edges_list(json_object_get(c->json, "edge_counts"), &count);
    abl_sweep_options options = {.circuits = circuits_of(s, name, scores),
                                 .metric_count = (int32_t)METRIC_COUNT};
    options.circuits.sizes = sizes;
    options.circuits.circuit_count = (int32_t)count;
    for (size_t i = 0; i < METRIC_COUNT; i++) {
        options.metrics[i] = METRICS[i].metric;
    }
    abl_sweep *sweep = sweep_run(&options);
    for (size_t i = 0; i < BY_ROW; i++) {
        compare_metric(c, name, recorded, sweep, i);
    }
    const json_t *by_row = json_object_get(recorded, "logit_diff_percent_mean_of_ratios");
    char title[160];
    (void)snprintf(title, sizeof title, "%s percent by row, mean", name);
    compare_curve(c, title, json_object_get(by_row, "mean"), sweep, BY_ROW, CURVE_VALUE,
                  TOL_RATIO_RELATIVE);
    (void)snprintf(title, sizeof title, "%s percent by row, std", name);
    compare_curve(c, title, json_object_get(by_row, "std"), sweep, BY_ROW, CURVE_STD,
                  TOL_RATIO_RELATIVE);
    abl_sweep_destroy(sweep);
    abl_free(sizes);
}

/* Logits of every fourth circuit, where they are recorded. */
static void case_logits(const edges_case *c, const edges_subject *s, const char *sweep_name,
                        const float *scores) {
    int64_t count = 0;
    int64_t *sizes = edges_list(json_object_get(c->json, "edge_counts"), &count);
    abl_circuits_options options = circuits_of(s, sweep_name, scores);
    options.sizes = sizes;
    options.circuit_count = (int32_t)count;
    abl_circuits *circuits = NULL;
    abl_status status;
    golden_must(abl_circuits_create(&options, &circuits, &status), &status);
    bool finished = false;
    while (!finished) {
        abl_circuits_result result;
        golden_must(abl_circuits_step(circuits, &result, &finished, &status), &status);
        char key[128];
        (void)snprintf(key, sizeof key, "logits/%s/%lld", sweep_name,
                       (long long)(result.circuit < 0 ? -1 : result.edge_count));
        const abl_safetensors_tensor *recorded = abl_safetensors_find(c->set, key);
        if (recorded != NULL) {
            float *all = edges_floats(recorded);
            size_t at = (size_t)(result.batch.first - 8) * (size_t)result.vocab_size;
            (void)snprintf(key + strlen(key), sizeof key - strlen(key), " rows %d..",
                           result.batch.first);
            golden_compare_floats(c->title, key, all + at, (size_t)result.logit_count,
                                  result.logits, (size_t)result.logit_count, TOL_LOGITS);
            abl_free(all);
        }
    }
    abl_circuits_destroy(circuits);
    abl_free(sizes);
}

/* ---- thresholds, similarities, areas of examples --------------------------------------------- */

static double number_of(const json_t *value) {
    const char *text = json_string_value(value);
    return text == NULL               ? json_number_value(value)
           : strcmp(text, "nan") == 0 ? (double)NAN
                                      : (double)INFINITY;
}

static void case_thresholds(const edges_case *c, const edges_subject *s, const float *scores) {
    const char *key = NULL;
    json_t *value = NULL;
    bool equal = true;
    json_object_foreach(json_object_get(c->json, "thresholds"), key, value) {
        int64_t size = strtoll(key, NULL, 10);
        float threshold = 0;
        abl_status status;
        golden_must(abl_scores_thresholds(scores, abl_graph_edge_count(s->graph), &size, 1,
                                          &threshold, &status),
                    &status);
        equal = equal && threshold == (float)number_of(value);
    }
    golden_check(c->title, "thresholds, bit for bit", equal);
}

/* A recorded list of sizes, whole or by its ends and length. */
static bool sizes_are(const json_t *recorded, const int64_t *sizes, int64_t count) {
    const json_t *first = json_is_array(recorded) ? recorded : json_object_get(recorded, "first");
    const json_t *last = json_object_get(recorded, "last");
    int64_t length = json_is_array(recorded) ? (int64_t)json_array_size(recorded)
                                             : json_integer_value(json_object_get(recorded, "len"));
    bool equal = first != NULL && count == length;
    for (size_t i = 0; equal && i < json_array_size(first); i++) {
        equal = sizes[i] == json_integer_value(json_array_get(first, i));
    }
    const int64_t tail = (int64_t)json_array_size(last);
    for (int64_t i = 0; equal && i < tail; i++) {
        equal = sizes[count - tail + i] == json_integer_value(json_array_get(last, (size_t)i));
    }
    return equal;
}

/* edge_counts_util with the case's scores, and with ten edges of 1; graph_golden has the rest. */
static void case_edge_counts(const edges_case *c, const edges_subject *s, const float *scores) {
    const int64_t count = abl_graph_edge_count(s->graph);
    const int32_t capacity = (int32_t)count + 2;
    float *binary = abl_calloc((size_t)count, sizeof *binary);
    int64_t *sizes = abl_calloc((size_t)capacity, sizeof *sizes);
    fill(binary, 10, 1);
    const struct {
        const char *key;
        abl_edge_counts_options options;
    } cases[] = {
        {"ALL", {.kind = ABL_EDGE_COUNTS_ALL}},
        {"LOGARITHMIC", {.kind = ABL_EDGE_COUNTS_LOGARITHMIC}},
        {"GROUPS", {.kind = ABL_EDGE_COUNTS_GROUPS, .values = scores}},
        {"default", {.values = NULL}},
        {"default_with_scores", {.values = scores}},
        {"GROUPS_binary10", {.kind = ABL_EDGE_COUNTS_GROUPS, .values = binary}},
        {"default_binary10", {.values = binary}},
    };
    const json_t *recorded = json_object_get(c->json, "edge_counts_util");
    abl_status status = {.reason = ""};
    int32_t found = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        golden_must(abl_edge_counts(&cases[i].options, count, sizes, capacity, &found, &status),
                    &status);
        char what[96];
        (void)snprintf(what, sizeof what, "edge_counts_util %s, with scores", cases[i].key);
        golden_check(c->title, what,
                     sizes_are(json_object_get(recorded, cases[i].key), sizes, found));
    }
    const abl_edge_counts_options groupless = {.kind = ABL_EDGE_COUNTS_GROUPS};
    abl_code code = abl_edge_counts(&groupless, count, sizes, capacity, &found, &status);
    golden_check(c->title, "edge_counts_util GROUPS_without_scores, an assertion there",
                 code == ABL_CODE_INVALID_ARGUMENT &&
                     strcmp(status.reason, "CIRCUIT_SIZE_INVALID") == 0);
    abl_free(binary);
    abl_free(sizes);
}

/* The four sets of scores that were compared. */
#define SCORED_COUNT 4
static const char *const SCORED[SCORED_COUNT] = {"eap", "logprob", "act_mag", "tied"};

static void similarity_check(const edges_case *c, float *const *scored, int64_t edge_count,
                             const char *size_name, const json_t *recorded) {
    int64_t size = strtoll(size_name, NULL, 10);
    bool equal = true;
    for (int a = 0; a < SCORED_COUNT; a++) {
        for (int b = a; b < SCORED_COUNT; b++) {
            const json_t *value = json_object_get(json_object_get(recorded, SCORED[a]), SCORED[b]);
            abl_overlap overlap;
            abl_status status;
            golden_must(abl_similarity_overlaps(scored[a], scored[b], edge_count, &size, 1,
                                                &overlap, &status),
                        &status);
            double expected = number_of(value);
            bool same = isnan(expected) ? isnan(overlap.similarity)
                                        : fabs(overlap.similarity - expected) < 1e-8;
            if (!same) {
                (void)printf("%s: %s and %s at %s: %g, recorded %g\n", c->title, SCORED[a],
                             SCORED[b], size_name, overlap.similarity, expected);
            }
            equal = equal && same && value != NULL;
        }
    }
    char what[64];
    (void)snprintf(what, sizeof what, "similarities at %s edges", size_name);
    golden_check(c->title, what, equal);
}

static void case_similarities(const edges_case *c, const edges_subject *s, const float *eap,
                              const edges_case *scores_case) {
    abl_prune_options options = {.algorithm = ABL_PRUNE_MASK_GRADIENT,
                                 .model = s->model,
                                 .graph = s->graph,
                                 .batches = {.dataset = s->dataset, .count = 8, .batch_size = 4},
                                 .grad_function = ABL_GRAD_LOGPROB,
                                 .answer_function = ABL_ANSWER_AVG_VAL};
    int64_t count = abl_graph_edge_count(s->graph);
    float *copy = abl_malloc((size_t)count * sizeof *copy);
    memcpy(copy, eap, (size_t)count * sizeof *copy);
    float *const scored[SCORED_COUNT] = {copy, edges_scores(&options),
                                         edges_flat(s->graph, scores_case->set, "act_mag"),
                                         edges_flat(s->graph, c->set, "tied")};
    golden_check(c->title, "act_mag and tied scores are recorded",
                 scored[2] != NULL && scored[3] != NULL);
    const char *size = NULL;
    json_t *recorded = NULL;
    json_object_foreach(json_object_get(c->json, "prune_score_similarities"), size, recorded) {
        similarity_check(c, scored, count, size, recorded);
    }
    for (int i = 0; i < SCORED_COUNT; i++) {
        abl_free(scored[i]);
    }
}

static void case_area_examples(const edges_case *c) {
    size_t index = 0;
    json_t *example = NULL;
    json_array_foreach(json_object_get(c->json, "auc_examples"), index, example) {
        size_t count = 0;
        abl_point *points = curve_read(json_object_get(example, "points"), &count);
        const abl_axes axes = {.log_x = json_is_true(json_object_get(example, "log_x")),
                               .log_y = json_is_true(json_object_get(example, "log_y")),
                               .y_min = json_number_value(json_object_get(example, "y_min"))};
        float expected = (float)json_number_value(json_object_get(example, "value"));
        float actual = (float)abl_area_auc(points, (int32_t)count, axes);
        char name[48];
        (void)snprintf(name, sizeof name, "auc_examples %zu", index);
        golden_compare_floats(c->title, name, &expected, 1, &actual, 1, 1e-4);
        abl_free(points);
    }
}

/* ---- what has no recording ------------------------------------------------------------------- */

static void laws_of_completeness(const edges_subject *s, const char *title, const float *scores) {
    const int64_t count = abl_graph_edge_count(s->graph);
    float *never = abl_calloc((size_t)count, sizeof *never);
    abl_completeness_options options = {.circuits = circuits_of(s, "TREE/RESAMPLE", scores),
                                        .circuit_size = count / 4,
                                        .knockouts = never,
                                        .knockout_threshold = 1};
    abl_completeness_result results[3];
    for (int i = 0; i < 3; i++) { /* nothing knocked out; everything; the model as its circuit */
        options.knockout_threshold = i == 1 ? 0 : 1;
        options.circuit_size = i == 2 ? count : count / 4;
        abl_completeness *run = NULL;
        abl_status status;
        golden_must(abl_completeness_create(&options, &run, &status), &status);
        bool finished = false;
        while (!finished) {
            golden_must(abl_completeness_step(run, &finished, &status), &status);
        }
        results[i] = abl_completeness_read(run);
        abl_completeness_destroy(run);
    }
    golden_check(title, "completeness: without knockouts both divergences are one",
                 results[0].kl == results[0].knockout_kl && results[0].kl > 0 &&
                     results[0].knockout_count == 0);
    golden_check(title, "completeness: a circuit that loses everything is the empty one",
                 results[1].knockout_count == results[1].circuit_size &&
                     results[1].kl == results[0].kl && results[1].knockout_kl >= 0);
    golden_check(title, "completeness: the model is complete",
                 fabs(results[2].kl) < TOL_KL_ROUNDING &&
                     fabs(results[2].knockout_kl) < TOL_KL_ROUNDING);
    abl_free(never);
}

/* ---- g_helpers ------------------------------------------------------------------------------- */

static double recorded_sum(const json_t *helpers, const char *call, const char *module) {
    const json_t *entry = json_object_get(json_object_get(helpers, call), module);
    return json_is_object(entry) ? json_number_value(json_object_get(entry, "sum")) : (double)NAN;
}

/* Every module's sum, as recorded of a call whose arrays are not. */
static bool sums_are(const abl_graph *graph, const json_t *helpers, const char *call,
                     const float *values) {
    bool equal = true;
    for (int32_t m = 0; m < abl_graph_module_count(graph); m++) {
        abl_scores_shape shape = abl_scores_module_shape(graph, m);
        float *tensor = abl_calloc((size_t)shape.count + 1, sizeof *tensor);
        abl_scores_read_module(graph, values, m, tensor);
        double sum = 0;
        for (int64_t i = 0; i < shape.count; i++) {
            sum += (double)tensor[i];
        }
        equal = equal && sum == recorded_sum(helpers, call, abl_graph_module_at(graph, m)->name);
        abl_free(tensor);
    }
    return equal;
}

/* 1 at the named edges: at every position, as a name without one means. */
static void set_by_name(const abl_graph *graph, const json_t *names, bool by_order, float *values) {
    size_t index = 0;
    json_t *name = NULL;
    json_array_foreach(names, index, name) {
        abl_edge edge;
        abl_status status;
        const char *text = json_string_value(name);
        golden_must(abl_graph_parse_edge(graph, text, strlen(text), &edge, &status), &status);
        bool every = edge.seq == ABL_SEQ_EVERY;
        int32_t end = every ? abl_graph_seq_count(graph) : edge.seq + 1;
        for (edge.seq = every ? 0 : edge.seq; edge.seq < end; edge.seq++) {
            values[abl_graph_edge_index(graph, edge)] = by_order ? (float)index + 0.5F : 1;
        }
    }
}

static void case_helpers(const edges_subject *s, const char *variant) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "g_helpers_%s", variant)) {
        return;
    }
    const int64_t count = abl_graph_edge_count(s->graph);
    const json_t *helpers = json_object_get(c.json, "out");
    const json_t *names = json_object_get(c.json, "picked_names");
    float *values = abl_calloc((size_t)count, sizeof *values);
    golden_check(c.title, "new_prune_scores()",
                 sums_are(s->graph, helpers, "new_prune_scores()", values));
    fill(values, count, 2.5F);
    golden_check(c.title, "new_prune_scores(init_val=2.5)",
                 sums_are(s->graph, helpers, "new_prune_scores(init_val=2.5)", values));
    fill(values, count, 0.25F);
    golden_check(c.title, "current_patch_masks_as_prune_scores",
                 sums_are(s->graph, helpers,
                          "current_patch_masks_as_prune_scores() after set_all_masks(0.25)",
                          values));
    int64_t picked_count = 0;
    int64_t *picked = edges_list(json_object_get(c.json, "picked_edges"), &picked_count);
    for (int weighted = 0; weighted < 2; weighted++) { /* by Edge: at its position alone */
        const char *key = weighted ? "edge_dict_obj" : "edges_obj";
        fill(values, count, 0);
        for (int64_t i = 0; i < picked_count; i++) {
            values[picked[i]] = weighted ? (float)i + 0.5F : 1;
        }
        float *expected = edges_flat(s->graph, c.set, key);
        golden_compare_floats(c.title, key, expected, (size_t)count, values, (size_t)count, 0);
        abl_free(expected);
    }
    fill(values, count, 0);
    for (int64_t i = 0; i < picked_count; i++) {
        values[picked[i]] = 1;
    }
    golden_check(c.title, "circuit_prune_scores(edges, bool=True)",
                 sums_are(s->graph, helpers, "circuit_prune_scores(edges, bool=True)", values));
    fill(values, count, 0);
    set_by_name(s->graph, names, false, values);
    static const char *const by_name[] = {"edges_names", "masks_after_patch_mode"};
    for (size_t i = 0; i < 2; i++) {
        float *expected = edges_flat(s->graph, c.set, by_name[i]);
        golden_compare_floats(c.title, by_name[i], expected, (size_t)count, values, (size_t)count,
                              0);
        abl_free(expected);
    }
    abl_free(picked);
    abl_free(values);
    edges_case_close(&c);
}

/* ---------------------------------------------------------------------------------------------- */

static void case_metrics(const edges_subject *s, const char *variant) {
    edges_case c;
    edges_case scores_case;
    if (!edges_case_open(&c, s->model_name, "e_metrics_%s", variant)) {
        return;
    }
    if (edges_case_open(&scores_case, s->model_name, "d_scores_%s", variant)) {
        float *scores = edges_flat(s->graph, scores_case.set, "mg_logit_avg_diff_m0");
        const char *name = NULL;
        json_t *recorded = NULL;
        json_object_foreach(json_object_get(c.json, "sweeps"), name, recorded) {
            case_sweep(&c, s, name, scores, recorded);
            case_logits(&c, s, name, scores);
        }
        case_thresholds(&c, s, scores);
        case_edge_counts(&c, s, scores);
        case_similarities(&c, s, scores, &scores_case);
        laws_of_completeness(s, c.title, scores);
        abl_free(scores);
        edges_case_close(&scores_case);
    }
    case_area_examples(&c);
    edges_case_close(&c);
}

static bool recorded_for(const char *variant) {
    static const char *const names[] = {"proc_fact_qkv", "proc_fact_qkv_seq", "proc_unfact"};
    for (size_t i = 0; i < ABL_COUNT_OF(names); i++) {
        if (strcmp(names[i], variant) == 0) {
            return true;
        }
    }
    return false;
}

static void check_variant(const edges_subject *s, const edges_variant *variant) {
    if (recorded_for(variant->name)) {
        case_metrics(s, variant->name);
        case_helpers(s, variant->name);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    edges_each_variant(check_variant);
    return golden_finish();
}
