/* SPDX-License-Identifier: Apache-2.0
 *
 * Scores of every prune algorithm against AutoCircuit's (tiny models) and the float64 reference's
 * (SmolLM2): the whole grid of grad functions, answer functions and mask values, edge attribution,
 * exact single-edge patching, and that a repeat is bit for bit the same. */
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/metric/sweep.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOL_SCORES_RELATIVE 2e-5 /* of the largest |score| of the set (goldens/README.md) */
#define TOL_NOISE 1e-6           /* scores that are zero but for rounding */
/* Where AutoCircuit's own float32 is off by more than half of that, its share comes on top; ours is
 * held to 2e-5 of the truth, or less, by float64_golden.c. p (1 - p) of a sure answer, at mask 0,
 * goes with the exponential of a logit; the mse of logits to ids of hundreds is the small rest of a
 * sum that cancels, and worst at masks between 0 and 1. All else keeps to 2e-5. */
#define TOL_PROB_CLEAN (TOL_SCORES_RELATIVE + 1.5e-5)
#define TOL_LOGIT_MSE_CLEAN (TOL_SCORES_RELATIVE + 3.1e-5)
#define TOL_LOGIT_MSE_BETWEEN (TOL_SCORES_RELATIVE + 8.5e-5)
#define TOL_EXACT_RELATIVE 5e-5
#define TOL_SMOLLM2 1e-4
#define TOL_SMOLLM2_ZERO 1e-3

/* ---- tiny models: the recorded grid ---------------------------------------------------------- */

static const char *text_of(const json_t *config, const char *key, const char *otherwise) {
    const char *text = json_string_value(json_object_get(config, key));
    return text == NULL ? otherwise : text;
}

static int index_of(const char *(*name_of)(int), const char *name) {
    for (int i = 0; name_of(i) != NULL; i++) {
        if (strcmp(name_of(i), name) == 0) {
            return i;
        }
    }
    return -1;
}

static const char *grad_name(int i) {
    return abl_grad_function_name((abl_grad_function)i);
}

static const char *answer_name(int i) {
    return abl_answer_function_name((abl_answer_function)i);
}

static const char *ablation_name(int i) {
    return abl_ablation_name((abl_ablation)i);
}

/* What a recorded configuration asks for; false when it is something that is not built here. */
static bool options_of(const char *key, const json_t *config, abl_prune_options *options) {
    const char *function = text_of(config, "function", key);
    options->ablation = ABL_ABLATION_RESAMPLE;
    if (strcmp(function, "mask_gradient_prune_scores") == 0) {
        int ablation = index_of(ablation_name, text_of(config, "ablation_type", "RESAMPLE"));
        if (ablation < 0) {
            return false;
        }
        options->ablation = (abl_ablation)ablation;
        options->ablate_by_clean = strcmp(text_of(config, "clean_corrupt", ""), "clean") == 0;
        options->algorithm = ABL_PRUNE_MASK_GRADIENT;
        options->grad_function =
            (abl_grad_function)index_of(grad_name, text_of(config, "grad_function", ""));
        options->answer_function =
            (abl_answer_function)index_of(answer_name, text_of(config, "answer_function", ""));
        options->mask_value = (float)json_number_value(json_object_get(config, "mask_val"));
        options->integrated_grad_samples =
            (int32_t)json_integer_value(json_object_get(config, "integrated_grad_samples"));
        return true;
    }
    options->algorithm = ABL_PRUNE_EAP;
    options->grad_function = ABL_GRAD_LOGIT;
    options->answer_function = json_is_false(json_object_get(config, "answer_diff"))
                                   ? ABL_ANSWER_AVG_VAL
                                   : ABL_ANSWER_AVG_DIFF;
    return strcmp(key, "eap") == 0 || strcmp(key, "eap_answer_val") == 0;
}

/* AutoCircuit's eap writes the sum over positions at every position; ours are the positions'
 * own. */
static void sum_positions(const abl_graph *graph, float *scores) {
    int64_t per = abl_graph_edges_per_position(graph);
    for (int64_t i = 0; i < per; i++) {
        double sum = 0;
        for (int32_t t = 0; t < abl_graph_seq_count(graph); t++) {
            sum += (double)scores[t * per + i];
        }
        for (int32_t t = 0; t < abl_graph_seq_count(graph); t++) {
            scores[t * per + i] = (float)sum;
        }
    }
}

static double tolerance_of(const abl_prune_options *options, double largest) {
    if (options->algorithm == ABL_PRUNE_MASK_GRADIENT && options->mask_value == 1.0F) {
        return TOL_NOISE;
    }
    const bool clean = options->mask_value == 0 && options->integrated_grad_samples == 0;
    const bool mse = options->answer_function == ABL_ANSWER_MSE;
    double relative = TOL_SCORES_RELATIVE;
    if (mse && options->grad_function == ABL_GRAD_PROB) {
        return relative * largest + TOL_NOISE; /* probabilities are nothing beside ids */
    }
    if (mse && options->grad_function == ABL_GRAD_LOGIT) {
        relative = clean ? TOL_LOGIT_MSE_CLEAN : TOL_LOGIT_MSE_BETWEEN;
    } else if (clean && options->grad_function == ABL_GRAD_PROB) {
        relative = TOL_PROB_CLEAN;
    }
    bool rest = abl_graph_options_of(options->graph)->simple;
    return relative * largest + (rest ? EDGES_TOL_REST : 0);
}

/* Run by other programs of this folder. */
static const char *const ELSEWHERE[] = {"act_mag"};

/* AutoCircuit's ground truth is the official circuit: 1 for its edges. */
static void compare_official(const edges_case *c, const char *key, const json_t *config,
                             const abl_graph *graph) {
    float *expected = edges_flat(graph, c->set, key);
    int64_t official_count = 0;
    int64_t *official = edges_list(json_object_get(config, "official_edges"), &official_count);
    size_t count = (size_t)abl_graph_edge_count(graph);
    float *scores = abl_calloc(count, sizeof *scores);
    for (int64_t i = 0; i < official_count; i++) {
        scores[official[i]] = 1;
    }
    golden_compare_floats(c->title, key, expected, count, scores, count, 0);
    abl_free(scores);
    abl_free(official);
    abl_free(expected);
}

/* Whether AutoCircuit itself failed. */
static bool is_error(const edges_case *c, const char *key) {
    return json_object_get(json_object_get(c->json, "errors"), key) != NULL;
}

/* AutoCircuit's eap fails on simple graphs (KeyError, as recorded); ours is what it is elsewhere,
 * the mask gradient at 0. */
static void compare_simple_eap(const edges_case *c, const char *key, abl_prune_options options) {
    if (!abl_graph_options_of(options.graph)->simple || strcmp(key, "eap") != 0) {
        return;
    }
    options.algorithm = ABL_PRUNE_EAP;
    options.mask_value = 0.7F; /* which eap does not look at */
    float *expected = edges_flat(options.graph, c->set, "mg_logit_avg_diff_m0");
    float *scores = edges_scores(&options);
    int64_t count = abl_graph_edge_count(options.graph);
    golden_compare_floats(c->title, "eap, which fails there", expected, (size_t)count, scores,
                          (size_t)count, tolerance_of(&options, edges_max_abs(expected, count)));
    abl_free(expected);
    abl_free(scores);
}

static void compare_config(const edges_case *c, const char *key, const json_t *config,
                           abl_prune_options options) {
    for (size_t i = 0; i < ABL_COUNT_OF(ELSEWHERE); i++) {
        if (strcmp(ELSEWHERE[i], key) == 0) {
            return;
        }
    }
    if (strcmp(key, "ground_truth") == 0) {
        compare_official(c, key, config, options.graph);
        return;
    }
    if (is_error(c, key)) {
        compare_simple_eap(c, key, options);
        return;
    }
    float *expected = edges_flat(options.graph, c->set, key);
    if (expected == NULL || !options_of(key, config, &options)) {
        golden_check(c->title, key, false); /* recorded, and not understood here */
        return;
    }
    float *scores = edges_scores(&options);
    int64_t count = abl_graph_edge_count(options.graph);
    bool summed =
        options.algorithm == ABL_PRUNE_EAP && abl_graph_options_of(options.graph)->seq_len != 0;
    if (summed) {
        sum_positions(options.graph, scores);
    }
    golden_compare_floats(c->title, key, expected, (size_t)count, scores, (size_t)count,
                          tolerance_of(&options, edges_max_abs(expected, count)));
    abl_free(expected);
    abl_free(scores);
}

static void case_scores(const char *model_name, const edges_variant *variant, abl_model *model,
                        const abl_dataset *dataset) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "d_scores_%s", variant->name)) {
        return;
    }
    abl_graph *graph = edges_graph(model, variant, abl_dataset_seq_len(dataset));
    abl_prune_options options = {
        .model = model,
        .graph = graph,
        .batches = {.dataset = dataset, .first = 0, .count = 8, .batch_size = 4}};
    const char *key = NULL;
    json_t *config = NULL;
    json_object_foreach(json_object_get(c.json, "configs"), key, config) {
        compare_config(&c, key, config, options);
    }
    abl_graph_destroy(graph);
    edges_case_close(&c);
}

/* Exact scores of all edges against one masked pass an edge, whose mask has a single 1: two ways to
 * compute the same number that share little code. */
static void check_exact(const char *model_name, const edges_variant *variant, abl_model *model,
                        const abl_dataset *dataset, abl_ablation ablation, const char *what) {
    abl_graph *graph = edges_graph(model, variant, abl_dataset_seq_len(dataset));
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_GROUND_TRUTH,
        .model = model,
        .graph = graph,
        .ablation = ablation,
        .batches = {.dataset = dataset, .first = 0, .count = 4, .batch_size = 4}};
    int64_t count = abl_graph_edge_count(graph);
    int64_t stride = count / 60 + 1;
    abl_edge_set sets[ABL_CIRCUIT_COUNT_MAX] = {{0}};
    int64_t edges[ABL_CIRCUIT_COUNT_MAX] = {0};
    int32_t set_count = 1; /* set 0: no edge, the clean run */
    for (int64_t edge = 0; edge < count; edge += stride) {
        edges[set_count] = edge;
        sets[set_count] = (abl_edge_set){.edges = &edges[set_count], .count = 1};
        set_count++;
    }
    if (count > 200) { /* of small graphs all edges, as a user would; of others only those */
        options.edges = &edges[1];
        options.edge_count = set_count - 1;
    }
    float *exact = edges_scores(&options);
    /* EDGE_PATCH ablates the set; reversed, its input is clean and its ablation corrupt. */
    const abl_sweep_options sweep_options = {.circuits = {.model = model,
                                                          .graph = graph,
                                                          .batches = options.batches,
                                                          .patch_type = ABL_PATCH_EDGE,
                                                          .ablation = ablation,
                                                          .reverse_clean_corrupt = true,
                                                          .sets = sets,
                                                          .circuit_count = set_count},
                                             .metrics = {ABL_METRIC_ANSWER_DIFF},
                                             .metric_count = 1};
    abl_sweep *sweep = NULL;
    abl_status status;
    golden_must(abl_sweep_create(&sweep_options, &sweep, &status), &status);
    abl_sweep_progress progress = {0};
    while (!progress.finished) {
        golden_must(abl_sweep_step(sweep, &progress, &status), &status);
    }
    float expected[ABL_CIRCUIT_COUNT_MAX] = {0};
    float actual[ABL_CIRCUIT_COUNT_MAX] = {0};
    double clean = abl_sweep_row_at(sweep, 0).values[0];
    for (int32_t i = 1; i < set_count; i++) {
        expected[i] = (float)(clean - abl_sweep_row_at(sweep, i).values[0]);
        actual[i] = exact[edges[i]];
    }
    char title[96];
    (void)snprintf(title, sizeof title, "%s/%s", model_name, variant->name);
    char name[96];
    (void)snprintf(name, sizeof name, "exact against one-hot masks, %s", what);
    golden_compare_floats(title, name, expected, (size_t)set_count, actual, (size_t)set_count,
                          TOL_EXACT_RELATIVE * (1 + edges_max_abs(expected, set_count)));
    abl_sweep_destroy(sweep);
    abl_free(exact);
    abl_graph_destroy(graph);
}

static void case_batch8(const char *model_name, abl_model *model, const abl_dataset *dataset) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "d_scores_batch8")) {
        return;
    }
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_EAP,
        .model = model,
        .graph = graph,
        .batches = {.dataset = dataset, .first = 0, .count = 8, .batch_size = 8}};
    size_t count = (size_t)abl_graph_edge_count(graph);
    static const char *const KEYS[] = {"mg_logit_avg_diff_m0", "eap"};
    float *scores = edges_scores(&options);
    for (size_t i = 0; i < ABL_COUNT_OF(KEYS); i++) {
        float *expected = edges_flat(graph, c.set, KEYS[i]);
        double tolerance = TOL_SCORES_RELATIVE * edges_max_abs(expected, (int64_t)count);
        golden_compare_floats(c.title, KEYS[i], expected, count, scores, count, tolerance);
        abl_free(expected);
    }
    float *again = edges_scores(&options);
    golden_check(c.title, "eap twice: the same bits",
                 memcmp(scores, again, count * sizeof *scores) == 0);
    abl_free(again);
    abl_free(scores);
    abl_graph_destroy(graph);
    edges_case_close(&c);
}

/* ---- SmolLM2 --------------------------------------------------------------------------------- */

static void compare_smollm2(const char *title, const abl_safetensors *set, const char *name,
                            const abl_prune_options *options, double tolerance) {
    if (abl_safetensors_find(set, name) == NULL) {
        return; /* zero ablation is recorded for some tasks only */
    }
    float *scores = edges_scores(options);
    golden_compare(title, name, golden_tensor(set, name), scores,
                   (size_t)abl_graph_edge_count(options->graph), tolerance);
    abl_free(scores);
}

/* A grouped edge's score is the sum of its ungrouped edges' scores. */
static void compare_expanded(const char *title, const abl_safetensors *set,
                             abl_prune_options options) {
    const abl_graph *native = options.graph;
    abl_graph_options expanded = *abl_graph_options_of(native);
    expanded.gqa = ABL_GQA_EXPANDED;
    abl_graph *graph = NULL;
    abl_status status;
    golden_must(abl_graph_create(&expanded, &graph, &status), &status);
    options.graph = graph;
    float *scores = edges_scores(&options);
    size_t count = (size_t)abl_graph_edge_count(native);
    float *grouped = abl_calloc(count, sizeof *grouped);
    abl_scores_group(graph, scores, native, grouped);
    golden_compare(title, "eap.resample, expanded and grouped", golden_tensor(set, "eap.resample"),
                   grouped, count, TOL_SMOLLM2);
    abl_free(grouped);
    abl_free(scores);
    abl_graph_destroy(graph);
}

/* The recorded edges, one by one. */
static void compare_exact(const char *title, const abl_safetensors *set, const char *kind,
                          abl_prune_options options, double tolerance) {
    char key[64];
    (void)snprintf(key, sizeof key, "exact.%s.edges", kind);
    const abl_safetensors_tensor *recorded = abl_safetensors_find(set, key);
    if (recorded == NULL) {
        return;
    }
    int32_t *ids = golden_ints(recorded);
    int64_t *edges = abl_calloc(recorded->elements, sizeof *edges);
    for (uint64_t i = 0; i < recorded->elements; i++) {
        edges[i] = ids[i];
    }
    options.algorithm = ABL_PRUNE_GROUND_TRUTH;
    options.ablation = strcmp(kind, "zero") == 0 ? ABL_ABLATION_ZERO : ABL_ABLATION_RESAMPLE;
    options.edges = edges;
    options.edge_count = (int64_t)recorded->elements;
    float *scores = edges_scores(&options);
    float *picked = abl_calloc(recorded->elements, sizeof *picked);
    for (uint64_t i = 0; i < recorded->elements; i++) {
        picked[i] = scores[edges[i]];
    }
    (void)snprintf(key, sizeof key, "exact.%s.effect", kind);
    golden_compare(title, key, golden_tensor(set, key), picked, recorded->elements, tolerance);
    abl_free(picked);
    abl_free(scores);
    abl_free(edges);
    abl_free(ids);
}

static void case_smollm2(const edges_subject *s, const abl_safetensors *set) {
    char title[96];
    (void)snprintf(title, sizeof title, "smollm2-135m/%s", s->model_name);
    int32_t count = abl_dataset_prompt_count(s->dataset);
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_EAP,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = count, .batch_size = count}};
    compare_smollm2(title, set, "eap.resample", &options, TOL_SMOLLM2);
    compare_expanded(title, set, options);
    compare_exact(title, set, "resample", options, TOL_SMOLLM2);
    compare_exact(title, set, "zero", options, TOL_SMOLLM2_ZERO);
    options.ablation = ABL_ABLATION_ZERO;
    compare_smollm2(title, set, "eap.zero", &options, TOL_SMOLLM2_ZERO);
    options.ablation = ABL_ABLATION_RESAMPLE;
    options.algorithm = ABL_PRUNE_MASK_GRADIENT;
    options.integrated_grad_samples = 4;
    compare_smollm2(title, set, "mask_ig.resample.n4", &options, TOL_SMOLLM2);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refuses(const abl_prune_options *options, const char *reason) {
    abl_prune *prune = NULL;
    abl_status status = {.reason = ""};
    abl_code code = abl_prune_create(options, &prune, &status);
    golden_check("refused", reason,
                 code != ABL_CODE_OK && prune == NULL && strcmp(status.reason, reason) == 0 &&
                     status.message[0] != '\0');
    abl_prune_destroy(prune);
}

static abl_dataset *one_prompt(int32_t id, bool wrong) {
    const int32_t ids[] = {1, id};
    const int32_t answer[] = {id};
    const int32_t offsets[] = {0, 1};
    const abl_dataset_tokens tokens = {.clean = ids,
                                       .prompt_count = 1,
                                       .seq_len = 2,
                                       .answers = answer,
                                       .answer_offsets = offsets,
                                       .wrong_answers = wrong ? answer : NULL,
                                       .wrong_answer_offsets = wrong ? offsets : NULL};
    abl_dataset *dataset = NULL;
    abl_status status;
    golden_must(abl_dataset_create_tokens(&tokens, &dataset, &status), &status);
    return dataset;
}

static void case_refusals(abl_model *model, const abl_dataset *dataset) {
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    abl_graph *by_position = edges_graph(model, &EDGES_VARIANTS[1], 5);
    abl_dataset *outside = one_prompt(1000, true);
    abl_dataset *no_wrong = one_prompt(3, false);
    const int64_t bad_edge = abl_graph_edge_count(graph);
    const abl_prune_options good = {.model = model,
                                    .graph = graph,
                                    .batches = {.dataset = dataset, .count = 4, .batch_size = 4}};
    abl_prune_options o = good;
    o.algorithm = ABL_PRUNE_ALGORITHM_COUNT;
    refuses(&o, "ALGORITHM_OPTIONS_INVALID");
    o = good;
    o.algorithm = ABL_PRUNE_MASK_GRADIENT;
    o.mask_value = NAN;
    refuses(&o, "ALGORITHM_OPTIONS_INVALID");
    o.mask_value = 0;
    o.integrated_grad_samples = -1;
    refuses(&o, "ALGORITHM_OPTIONS_INVALID");
    o = good;
    o.graph = by_position;
    refuses(&o, "SEQ_LEN_MISMATCH");
    o = good;
    o.batches.count = 1000;
    refuses(&o, "SPLIT_INVALID");
    o.batches = (abl_batches){.dataset = outside, .count = 1, .batch_size = 1};
    refuses(&o, "TOKEN_OUT_OF_RANGE");
    o.batches.dataset = no_wrong;
    refuses(&o, "ANSWERS_MISSING");
    o = good;
    o.algorithm = ABL_PRUNE_GROUND_TRUTH;
    o.edges = &bad_edge;
    o.edge_count = 1;
    refuses(&o, "EDGE_INDEX_INVALID");
    abl_graph_options other = *abl_graph_options_of(graph);
    other.layer_count++;
    abl_graph *deeper = NULL;
    abl_status status;
    golden_must(abl_graph_create(&other, &deeper, &status), &status);
    o = good;
    o.graph = deeper;
    refuses(&o, "GRAPH_MODEL_MISMATCH");
    abl_graph_destroy(deeper);
    abl_dataset_destroy(no_wrong);
    abl_dataset_destroy(outside);
    abl_graph_destroy(by_position);
    abl_graph_destroy(graph);
}

/* The baseline: a seed gives the same scores again, in [0, 1); another seed, others. */
static void case_random(abl_model *model) {
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    size_t count = (size_t)abl_graph_edge_count(graph);
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_RANDOM, .model = model, .graph = graph, .seed = 1};
    float *first = edges_scores(&options);
    float *again = edges_scores(&options);
    options.seed = 2;
    float *other = edges_scores(&options);
    bool inside = true;
    for (size_t i = 0; i < count; i++) {
        inside = inside && first[i] >= 0 && first[i] < 1;
    }
    golden_check("random", "in [0, 1)", inside);
    golden_check("random", "a seed repeats", memcmp(first, again, count * sizeof *first) == 0);
    golden_check("random", "seeds differ", memcmp(first, other, count * sizeof *first) != 0);
    abl_free(first);
    abl_free(again);
    abl_free(other);
    abl_graph_destroy(graph);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        abl_dataset *dataset = edges_abba(EDGES_MODELS[i]);
        abl_model *models[] = {golden_open_model(EDGES_MODELS[i], abl_model_processing_tl()),
                               golden_open_model(EDGES_MODELS[i], abl_model_processing_hf())};
        abl_dataset *late =
            edges_prompts(golden_path("prompts/ioi_late.json"), models[0], ABL_BOS_PREPEND);
        golden_check(EDGES_MODELS[i], "the late prompts share 11 tokens",
                     abl_dataset_shared_prefix(late, 0, 4) == 11);
        for (size_t v = 0; v < EDGES_VARIANT_COUNT; v++) {
            abl_model *model = models[EDGES_VARIANTS[v].raw ? 1 : 0];
            case_scores(EDGES_MODELS[i], &EDGES_VARIANTS[v], model, dataset);
            check_exact(EDGES_MODELS[i], &EDGES_VARIANTS[v], model, dataset, ABL_ABLATION_RESAMPLE,
                        "resample");
            check_exact(EDGES_MODELS[i], &EDGES_VARIANTS[v], model, dataset, ABL_ABLATION_ZERO,
                        "zero");
            check_exact(EDGES_MODELS[i], &EDGES_VARIANTS[v], model, late, ABL_ABLATION_RESAMPLE,
                        "resample behind a shared prefix");
        }
        case_batch8(EDGES_MODELS[i], models[0], dataset);
        case_refusals(models[0], dataset);
        case_random(models[0]);
        abl_model_unref(models[0]);
        abl_model_unref(models[1]);
        abl_dataset_destroy(late);
        abl_dataset_destroy(dataset);
    }
    edges_each_smollm2(case_smollm2);
    return golden_finish();
}
