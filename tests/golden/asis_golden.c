/* SPDX-License-Identifier: Apache-2.0
 *
 * The "asis" cases: AutoCircuit with separate_qkv=False on a model from its own load_tl_model,
 * whose flags leave hook_attn_in out of the computation (use_split_qkv_input goes before
 * use_attn_in in TransformerLens). So there a mask at blocks.*.hook_attn_in does nothing,
 * mask_gradient fails on an assertion and eap on a key. Here such a graph works as it reads (the
 * noqkv cases of the other programs); what is tested is that it differs by nothing else:
 *
 *   - every recorded output is ours once the masks at hook_attn_in are 0;
 *   - with those masks as given ours is another output;
 *   - where AutoCircuit fails ours has the scores that it has itself with the flags put right. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/patch/ablation.h"
#include "core/patch/patch.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOL_LOGITS 1e-4
#define TOL_SCORES_RELATIVE 2e-5
#define TOL_NOISE 1e-6
#define DIFFERS 1e-2 /* logits are of order 1 to 10 */

typedef struct subject {
    const char *model_name;
    abl_model *model;
    const abl_graph *graph;
    const abl_dataset *dataset;
    double largest; /* difference that masks at hook_attn_in made, over a case */
} subject;

typedef struct run {
    float *mask;
    bool clean; /* the input; the ablation is of the other prompts */
    abl_ablation ablation;
} run;

/* The mask's values at hook_attn_in, put to 0: in place. Whether any was not. */
static bool inert_clear(const abl_graph *graph, float *mask) {
    bool any = false;
    for (int64_t i = 0; i < abl_graph_edge_count(graph); i++) {
        abl_edge edge = abl_graph_edge_at(graph, i);
        if (abl_graph_dest_at(graph, edge.dest)->role == ABL_DEST_QKV) {
            any = any || mask[i] != 0.0F;
            mask[i] = 0;
        }
    }
    return any;
}

/* Rows 0..7 in two batches: (8, vocab). Ends with abl_free(). */
static float *logits_of(const subject *s, const run *r) {
    const abl_batches batches = {.dataset = s->dataset, .count = 8, .batch_size = 4};
    const abl_ablator_options options = {.of = {.model = s->model,
                                                .ablation = r->ablation,
                                                .batches = batches,
                                                .clean = !r->clean,
                                                .residuals = true}};
    size_t per_batch = 4 * (size_t)abl_model_get_config(s->model)->d_vocab;
    float *logits = abl_calloc(2 * per_batch, sizeof *logits);
    abl_status status;
    abl_ablator *ablator = NULL;
    golden_must(abl_ablator_create(&options, &ablator, &status), &status);
    while (abl_ablator_steps_left(ablator) > 0) {
        golden_must(abl_ablator_step(ablator, &status), &status);
    }
    for (int32_t i = 0; i < 2; i++) {
        abl_batch batch = abl_batches_at(&batches, i);
        abl_patch_options patch = {.model = s->model,
                                   .graph = s->graph,
                                   .tokens = r->clean ? batch.clean : batch.corrupt,
                                   .batch = batch.size,
                                   .seq = batch.seq_len,
                                   .mask = r->mask};
        golden_must(abl_ablator_batch(ablator, &batch, &patch.ablated, &status), &status);
        golden_must(abl_patch_forward(&patch, logits + (size_t)i * per_batch, &status), &status);
    }
    abl_ablator_destroy(ablator);
    return logits;
}

/* The recorded logits are those without the masks at hook_attn_in. */
static void compare(subject *s, const edges_case *c, const abl_safetensors_tensor *expected,
                    const run *r) {
    float *as_given = logits_of(s, r);
    bool any = inert_clear(s->graph, r->mask);
    float *logits = logits_of(s, r);
    golden_compare(c->title, expected->name, expected, logits, expected->elements, TOL_LOGITS);
    for (size_t i = 0; any && i < expected->elements; i++) {
        double difference = fabs((double)as_given[i] - (double)logits[i]);
        s->largest = difference > s->largest ? difference : s->largest;
    }
    abl_free(logits);
    abl_free(as_given);
}

static void difference_check(const subject *s, const edges_case *c) {
    golden_check(c->title, "masks at hook_attn_in do something here", s->largest > DIFFERS);
}

/* ---- c_circuits ------------------------------------------------------------------------------ */

/* TREE_PATCH ablates what is outside of the circuit, EDGE_PATCH what is in it. */
static void mask_of_patch(float *mask, int64_t count, bool tree) {
    for (int64_t i = 0; tree && i < count; i++) {
        mask[i] = 1.0F - mask[i];
    }
}

/* "logits/TREE_PATCH/RESAMPLE/rand50pc", or with "reverse" in front. */
static void compare_set(subject *s, const edges_case *c, const abl_safetensors_tensor *expected) {
    const char *const name = strrchr(expected->name, '/') + 1;
    const json_t *list = json_object_get(json_object_get(c->json, "edge_sets"), name);
    bool tree = strstr(expected->name, "TREE_PATCH") != NULL;
    bool reverse = strncmp(expected->name, "reverse/", 8) == 0;
    if (list == NULL || strstr(expected->name, "/RESAMPLE/") == NULL) {
        golden_check(c->title, expected->name, false); /* recorded, and not understood here */
        return;
    }
    int64_t edges = abl_graph_edge_count(s->graph);
    run r = {.mask = abl_calloc((size_t)edges, sizeof *r.mask), .clean = tree != reverse};
    int64_t count = 0;
    int64_t *set = edges_list(list, &count);
    for (int64_t i = 0; i < count; i++) {
        r.mask[set[i]] = 1;
    }
    mask_of_patch(r.mask, edges, tree);
    compare(s, c, expected, &r);
    abl_free(set);
    abl_free(r.mask);
}

/* "tied_logits/<edges>": TREE_PATCH, the edges whose score is of that rank at least. */
static void compare_tied(subject *s, const edges_case *c, const abl_safetensors_tensor *expected) {
    int64_t edges = abl_graph_edge_count(s->graph);
    float *scores = edges_flat(s->graph, c->set, "tied_scores");
    char *end = NULL;
    const int64_t size = strtoll(strrchr(expected->name, '/') + 1, &end, 10);
    float threshold = 0;
    abl_status status;
    golden_must(abl_scores_thresholds(scores, edges, &size, 1, &threshold, &status), &status);
    run r = {.mask = abl_calloc((size_t)edges, sizeof *r.mask), .clean = true};
    int64_t actual = 0;
    for (int64_t i = 0; i < edges; i++) {
        r.mask[i] = fabsf(scores[i]) >= threshold ? 1 : 0;
        actual += r.mask[i] == 1.0F;
    }
    golden_check(c->title, "the size of a circuit with ties", actual == size);
    mask_of_patch(r.mask, edges, true);
    compare(s, c, expected, &r);
    abl_free(r.mask);
    abl_free(scores);
}

static void case_circuits(subject *s) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "c_circuits_proc_fact_noqkv_asis")) {
        return;
    }
    s->largest = 0;
    for (size_t i = 0; i < abl_safetensors_count(c.set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(c.set, i);
        if (strncmp(tensor->name, "tied_logits/", 12) == 0) {
            compare_tied(s, &c, tensor);
        } else if (strncmp(tensor->name, "tied_scores/", 12) != 0) {
            compare_set(s, &c, tensor);
        }
    }
    difference_check(s, &c);
    edges_case_close(&c);
}

/* ---- c_fraction ------------------------------------------------------------------------------ */

static abl_ablation ablation_in(const char *name) {
    for (int i = ABL_ABLATION_COUNT - 1; i >= 0; i--) {
        if (strstr(name, abl_ablation_name((abl_ablation)i)) != NULL) {
            return (abl_ablation)i;
        }
    }
    return ABL_ABLATION_COUNT;
}

/* "logits/u01/clean_ZERO", and "/sigmoid" behind it. */
static void compare_fraction(subject *s, const edges_case *c,
                             const abl_safetensors_tensor *expected) {
    const char *const kind = expected->name + strlen("logits/");
    char key[32];
    (void)snprintf(key, sizeof key, "mask/%.*s", (int)strcspn(kind, "/"), kind);
    run r = {.mask = edges_flat(s->graph, c->set, key),
             .clean = strstr(kind, "/clean_") != NULL,
             .ablation = ablation_in(kind)};
    if (r.mask == NULL || r.ablation == ABL_ABLATION_COUNT) {
        golden_check(c->title, expected->name, false);
        abl_free(r.mask);
        return;
    }
    bool sigmoid = strstr(kind, "/sigmoid") != NULL;
    for (int64_t i = 0; sigmoid && i < abl_graph_edge_count(s->graph); i++) {
        r.mask[i] = 1.0F / (1.0F + expf(-r.mask[i])); /* here: sigmoid(0) would ablate */
    }
    compare(s, c, expected, &r);
    abl_free(r.mask);
}

static void case_fraction(subject *s) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "c_fraction_proc_fact_noqkv_asis")) {
        return;
    }
    s->largest = 0;
    for (size_t i = 0; i < abl_safetensors_count(c.set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(c.set, i);
        if (strncmp(tensor->name, "mask/", 5) != 0) {
            compare_fraction(s, &c, tensor);
        }
    }
    difference_check(s, &c);
    edges_case_close(&c);
}

/* ---- d_scores -------------------------------------------------------------------------------- */

static void compare_scores(const subject *s, const char *title, const char *what,
                           const abl_prune_options *options, const float *expected, double noise) {
    size_t count = (size_t)abl_graph_edge_count(s->graph);
    float *scores = edges_scores(options);
    golden_compare_floats(title, what, expected, count, scores, count,
                          TOL_SCORES_RELATIVE * edges_max_abs(expected, (int64_t)count) + noise);
    abl_free(scores);
}

/* What AutoCircuit fails to compute, against what it has with the flags put right. */
static void compare_failure(const subject *s, const edges_case *c, const edges_case *right,
                            const char *key, const json_t *config, abl_prune_options options) {
    char what[96];
    (void)snprintf(what, sizeof what, "%s, which fails there", key);
    bool eap = strcmp(key, "eap") == 0;
    options.algorithm = eap ? ABL_PRUNE_EAP : ABL_PRUNE_MASK_GRADIENT;
    options.mask_value = (float)json_number_value(json_object_get(config, "mask_val"));
    options.integrated_grad_samples =
        (int32_t)json_integer_value(json_object_get(config, "integrated_grad_samples"));
    float *expected = edges_flat(s->graph, right->set, eap ? "mg_logit_avg_diff_m0" : key);
    if (expected == NULL) {
        golden_check(c->title, what, !golden_is_full());
        return;
    }
    /* At mask 1 everything is rounding: goldens/README.md. */
    compare_scores(s, c->title, what, &options, expected,
                   options.mask_value == 1.0F ? TOL_NOISE : 0);
    abl_free(expected);
}

static void case_scores(const subject *s) {
    edges_case c;
    edges_case right;
    if (!edges_case_open(&c, s->model_name, "d_scores_proc_fact_noqkv_asis")) {
        return;
    }
    if (!edges_case_open(&right, s->model_name, "d_scores_proc_fact_noqkv")) {
        edges_case_close(&c);
        return;
    }
    abl_prune_options options = {.model = s->model,
                                 .graph = s->graph,
                                 .batches = {.dataset = s->dataset, .count = 8, .batch_size = 4}};
    const char *key = NULL;
    json_t *config = NULL;
    json_object_foreach(json_object_get(c.json, "configs"), key, config) {
        float *expected = edges_flat(s->graph, c.set, key);
        if (json_object_get(json_object_get(c.json, "errors"), key) != NULL) {
            compare_failure(s, &c, &right, key, config, options);
        } else if (strcmp(key, "act_mag") == 0) { /* processed weights: noise about 1e-10 */
            options.algorithm = ABL_PRUNE_ACTIVATION_MAGNITUDE;
            compare_scores(s, c.title, key, &options, expected, TOL_NOISE);
        } else if (strcmp(key, "ground_truth") == 0) { /* 1 for the edges of the official circuit */
            int64_t count = 0;
            int64_t *official = edges_list(json_object_get(config, "official_edges"), &count);
            size_t edges = (size_t)abl_graph_edge_count(s->graph);
            float *scores = abl_calloc(edges, sizeof *scores);
            for (int64_t i = 0; i < count; i++) {
                scores[official[i]] = 1;
            }
            golden_compare_floats(c.title, key, expected, edges, scores, edges, 0);
            abl_free(scores);
            abl_free(official);
        } else {
            golden_check(c.title, key, false);
        }
        abl_free(expected);
    }
    edges_case_close(&right);
    edges_case_close(&c);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    const edges_variant joined = {.name = "proc_fact_noqkv", .joined_qkv = true};
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        abl_dataset *dataset = edges_abba(EDGES_MODELS[i]);
        abl_model *model = golden_open_model(EDGES_MODELS[i], abl_model_processing_tl());
        abl_graph *graph = edges_graph(model, &joined, 0);
        subject s = {
            .model_name = EDGES_MODELS[i], .model = model, .graph = graph, .dataset = dataset};
        case_circuits(&s);
        case_fraction(&s);
        case_scores(&s);
        abl_graph_destroy(graph);
        abl_model_unref(model);
        abl_dataset_destroy(dataset);
    }
    return golden_finish();
}
