/* SPDX-License-Identifier: Apache-2.0
 *
 * Subnetwork probing and circuit probing against AutoCircuit: the training curves, the gradients of
 * the whole loss at recorded masks, and the final scores. Adam divides a gradient by its own size,
 * so a gradient that is rounding noise moves its mask by a whole step: curves and gradients are
 * compared, and of the final scores how many edges agree. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/prune/mask_training.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOL_CURVE_RELATIVE 1e-4 /* of the curve's largest value */
#define TOL_GRADIENT_RELATIVE 2e-5
#define TOL_SCORE 1e-3        /* a step of Adam is 0.1 */
#define SCORES_AGREE_MIN 0.99 /* of all edges */

/* ---- prescribed draws ------------------------------------------------------------------------ */

typedef struct draws {
    const edges_subject *s;
    const edges_case *c;
    const json_t *order; /* of modules in the regularizer */
    bool half;           /* u = 0.5 everywhere */
    bool recorded;       /* in the case, else by the golden ratio */
    float *values;
} draws;

static double frac(double x) {
    return x - floor(x);
}

/* Module m's draws, `offset` being its first element's number in the concatenation. */
static void module_write(const draws *d, int32_t m, float *row, const float *recorded,
                         int64_t offset) {
    const int64_t count = abl_scores_module_shape(d->s->graph, m).count;
    float *tensor = abl_calloc((size_t)count, sizeof *tensor);
    for (int64_t i = 0; i < count; i++) {
        tensor[i] = d->half            ? 0.5F
                    : recorded != NULL ? recorded[offset + i]
                                       : (float)frac((double)(offset + i + 1) * 0.6180339887498949);
    }
    abl_scores_write_module(d->s->graph, row, m, tensor);
    abl_free(tensor);
}

static float *recorded_draws(const draws *d, int64_t step, const char *name) {
    char key[128];
    (void)snprintf(key, sizeof key, "u/%d/%s", (int)step, name);
    return d->recorded ? edges_floats(golden_tensor(d->c->set, key)) : NULL;
}

static int32_t module_index(const abl_graph *graph, const char *name) {
    int32_t index = 0;
    abl_status status;
    golden_must(abl_graph_find_module(graph, name, strlen(name), &index, &status), &status);
    return index;
}

static const float *prescribe(void *user_data, int64_t step, int32_t batch, bool regularizer) {
    draws *d = user_data;
    const abl_graph *graph = d->s->graph;
    const int64_t edges = abl_graph_edge_count(graph);
    abl_free(d->values);
    d->values = abl_calloc((size_t)(edges * batch), sizeof *d->values);
    if (regularizer) {
        float *recorded = recorded_draws(d, step, "regularizer");
        int64_t offset = 0;
        size_t i = 0;
        json_t *name = NULL;
        json_array_foreach(d->order, i, name) {
            int32_t m = module_index(graph, json_string_value(name));
            module_write(d, m, d->values, recorded, offset);
            offset += abl_scores_module_shape(graph, m).count;
        }
        abl_free(recorded);
        return d->values;
    }
    for (int32_t m = 0; m < abl_graph_module_count(graph); m++) {
        float *recorded = recorded_draws(d, step, abl_graph_module_at(graph, m)->name);
        for (int32_t row = 0; row < batch; row++) {
            module_write(d, m, d->values + row * edges, recorded,
                         row * abl_scores_module_shape(graph, m).count);
        }
        abl_free(recorded);
    }
    return d->values;
}

/* ---- runs ------------------------------------------------------------------------------------ */

static double number_of(const json_t *config, const char *key, double otherwise) {
    const json_t *value = json_object_get(config, key);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static abl_faithfulness target_of(const json_t *config) {
    const char *name = json_string_value(json_object_get(config, "faithfulness_target"));
    for (int i = 0; name != NULL && i < ABL_FAITHFULNESS_COUNT; i++) {
        if (strcmp(abl_faithfulness_name((abl_faithfulness)i), name) == 0) {
            return (abl_faithfulness)i;
        }
    }
    return ABL_FAITHFULNESS_KL_DIV;
}

static abl_prune_options options_of(const edges_subject *s, const json_t *config, int32_t epochs,
                                    draws *d) {
    const char *function = json_string_value(json_object_get(config, "mask_fn"));
    bool concrete = function != NULL && strncmp(function, "hard_concrete", 13) == 0;
    return (abl_prune_options){
        .algorithm = ABL_PRUNE_SUBNETWORK_PROBING,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = 8, .batch_size = 4},
        .ablation = ABL_ABLATION_TOKENWISE_MEAN_CORRUPT,
        .subnetwork_probing = {
            .learning_rate = (float)number_of(config, "learning_rate", 0.1),
            .epochs = epochs,
            .regularize_lambda = (float)number_of(config, "regularize_lambda", 10),
            .mask_function = concrete           ? ABL_MASK_HARD_CONCRETE
                             : function == NULL ? ABL_MASK_NONE
                                                : ABL_MASK_SIGMOID,
            .init_value = (float)number_of(config, "init_val", (double)ABL_MASK_INIT_DEFAULT),
            .tree_optimisation = json_is_true(json_object_get(config, "tree_optimisation")),
            .circuit_size = (int64_t)number_of(config, "circuit_size", 0),
            .faithfulness_target = target_of(config),
            .avoid_lambda = 1,
            .validation_count = json_is_true(json_object_get(config, "val")) ? 8 : 0,
            .draws_cb = concrete ? prescribe : NULL,
            .draws_data = d}};
}

/* How many of the recorded final scores are ours. */
static void compare_scores(const edges_subject *s, const edges_case *c, const char *key,
                           const float *scores, double tolerance) {
    float *expected = edges_flat(s->graph, c->set, key);
    if (expected == NULL) {
        return;
    }
    const int64_t edges = abl_graph_edge_count(s->graph);
    int64_t agree = 0;
    for (int64_t i = 0; i < edges; i++) {
        agree += fabs((double)(expected[i] - scores[i])) <= tolerance ? 1 : 0;
    }
    char what[96];
    (void)snprintf(what, sizeof what, "%s: %.1f%% of scores", key,
                   100.0 * (double)agree / (double)edges);
    golden_check(c->title, what, (double)agree >= SCORES_AGREE_MIN * (double)edges);
    abl_free(expected);
}

static void compare_curve(const edges_case *c, const char *key, const char *name,
                          const json_t *recorded, const float *actual, size_t count) {
    float *expected = abl_calloc(count + 1, sizeof *expected);
    for (size_t i = 0; i < count; i++) {
        expected[i] = (float)json_number_value(json_array_get(recorded, i));
    }
    char what[96];
    (void)snprintf(what, sizeof what, "%s %s", key, name);
    golden_compare_floats(c->title, what, expected, json_array_size(recorded), actual, count,
                          TOL_CURVE_RELATIVE * edges_max_abs(expected, (int64_t)count));
    abl_free(expected);
}

static void compare_curves(const edges_case *c, const char *key, const json_t *curves,
                           const abl_training_point *points, int64_t count) {
    float *values = abl_calloc((size_t)count, sizeof *values);
    const char *name = NULL;
    json_t *recorded = NULL;
    json_object_foreach((json_t *)(uintptr_t)curves, name, recorded) {
        if (json_array_size(recorded) == 0) {
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            values[i] = strcmp(name, "Loss") == 0             ? points[i].loss
                        : strcmp(name, "Regularization") == 0 ? points[i].regularization
                        : strncmp(name, "Val ", 4) == 0       ? points[i].validation
                                                              : points[i].faithfulness;
        }
        compare_curve(c, key, name, recorded, values, (size_t)count);
    }
    abl_free(values);
}

static void run(const edges_subject *s, const edges_case *c, const char *key,
                const json_t *recorded) {
    const json_t *config = json_object_get(recorded, "config");
    draws d = {.s = s,
               .c = c,
               .order = json_object_get(recorded, "param_order"),
               .half = strstr(key, "u05") != NULL,
               .recorded = strcmp(key, "tree_hc_random") == 0};
    json_t *random_config = NULL;
    int32_t epochs = (int32_t)number_of(c->json, "epochs", 5);
    if (d.recorded) {
        if (abl_safetensors_find(c->set, "u/0/regularizer") == NULL) {
            return; /* too large to be recorded, for this model */
        }
        d.order = json_object_get(recorded, "patch_masks_dict_order");
        config = random_config = json_pack("{s:s, s:b, s:f}", "mask_fn", "hard_concrete",
                                           "tree_optimisation", 1, "regularize_lambda", 0.5);
        epochs = 1;
    }
    abl_prune_options options = options_of(s, config, epochs, &d);
    int64_t *avoid =
        edges_list(json_object_get(config, "avoid"), &options.subnetwork_probing.avoid_edge_count);
    options.subnetwork_probing.avoid_edges = avoid;
    abl_prune *prune = edges_run(&options);
    int64_t count = 0;
    const abl_training_point *points = abl_prune_curve(prune, &count);
    compare_curves(c, key, json_object_get(recorded, "curves"), points, count);
    compare_scores(s, c, key, abl_prune_scores(prune), TOL_SCORE);
    abl_prune_destroy(prune);
    abl_free(d.values);
    abl_free(avoid);
    json_decref(random_config);
}

/* ---- gradients at recorded masks ------------------------------------------------------------- */

static void gradients(const edges_subject *s, const edges_case *c, const char *key,
                      const json_t *recorded) {
    char name[96];
    (void)snprintf(name, sizeof name, "grad/%s/0/%s", key, abl_graph_module_at(s->graph, 0)->name);
    if (abl_safetensors_find(c->set, name) == NULL) {
        return;
    }
    draws d = {.s = s, .c = c, .order = json_object_get(recorded, "param_order")};
    const abl_prune_options options = options_of(s, json_object_get(recorded, "config"), 5, &d);
    abl_mask_training *training = NULL;
    struct abl_prune prune = {.options = options};
    abl_status status;
    golden_must(abl_mask_training_create(&options, &training, &status), &status);
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const int64_t prepare = abl_mask_training_prepare_count(training);
    for (int64_t step = -prepare; step < 10; step++) {
        (void)snprintf(name, sizeof name, "trace/%s/%d", key, (int)step);
        float *mask = edges_flat(s->graph, c->set, name);
        if (mask != NULL) {
            memcpy(abl_mask_training_masks(training), mask, edges * sizeof *mask);
        }
        golden_must(abl_mask_training_step(training, &prune, &status), &status);
        if (mask != NULL) {
            (void)snprintf(name, sizeof name, "grad/%s/%d", key, (int)step);
            float *expected = edges_flat(s->graph, c->set, name);
            golden_compare_floats(c->title, name, expected, edges,
                                  abl_mask_training_gradient(training), edges,
                                  TOL_GRADIENT_RELATIVE * edges_max_abs(expected, (int64_t)edges));
            abl_free(expected);
        }
        abl_free(mask);
    }
    abl_mask_training_destroy(training);
    abl_free(d.values);
}

/* ---- circuit probing ------------------------------------------------------------------------- */

static void circuit_probing(const edges_subject *s, const edges_case *c, const char *key,
                            const json_t *recorded) {
    const json_t *config = json_object_get(recorded, "config");
    draws d = {.s = s, .c = c, .order = json_object_get(recorded, "param_order")};
    abl_prune_options options = options_of(s, config, (int32_t)number_of(config, "epochs", 0), &d);
    options.algorithm = ABL_PRUNE_CIRCUIT_PROBING;
    if (json_object_get(config, "init_val") == NULL) {
        options.subnetwork_probing.init_value = -ABL_MASK_INIT_DEFAULT; /* its own default */
    }
    int64_t count = 0;
    int64_t *sizes = edges_list(json_object_get(config, "circuit_sizes"), &count);
    options.circuit_probing.sizes = sizes;
    options.circuit_probing.size_count = (int32_t)count;
    abl_prune *prune = edges_run(&options);
    compare_scores(s, c, key, abl_prune_scores(prune), 0);
    abl_prune_destroy(prune);
    abl_free(sizes);
    abl_free(d.values);
}

static void check_variant(const edges_subject *s, const edges_variant *variant) {
    edges_case c;
    bool recorded_for = variant == &EDGES_VARIANTS[0] || variant == &EDGES_VARIANTS[1];
    if (!recorded_for ||
        !edges_case_open(&c, s->model_name, "d_subnetwork_probing_%s", variant->name)) {
        return;
    }
    const char *key = NULL;
    json_t *recorded = NULL;
    json_object_foreach(json_object_get(c.json, "runs"), key, recorded) {
        if (strncmp(key, "circuit_probing", 15) == 0) {
            circuit_probing(s, &c, key, recorded);
        } else {
            run(s, &c, key, recorded);
            gradients(s, &c, key, recorded);
        }
    }
    edges_case_close(&c);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    edges_each_variant(check_variant);
    return golden_finish();
}
