/* SPDX-License-Identifier: Apache-2.0
 *
 * Activation magnitude against AutoCircuit's recorded scores, and EAP-IG's three methods against
 * autograd on TransformerLens in float64 (tests/golden/generate/eap_ig.py) and, on SmolLM2, against
 * its float64 reference. EAP-IG's numbers are committed, so they are read from this tree whatever
 * $ABLATE_GOLDENS says. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOL_SCORES_RELATIVE 2e-5 /* of the largest |score| of the set (goldens/README.md) */
#define TOL_NOISE 1e-6           /* scores that are zero but for rounding */
#define TOL_SMOLLM2 1e-4

static void compare_flat(const char *title, const char *what, const abl_graph *graph,
                         const float *expected, const float *scores, double noise) {
    int64_t count = abl_graph_edge_count(graph);
    golden_compare_floats(title, what, expected, (size_t)count, scores, (size_t)count,
                          TOL_SCORES_RELATIVE * edges_max_abs(expected, count) + noise);
}

/* ---- activation magnitude -------------------------------------------------------------------- */

/* AutoCircuit gives every destination the first n sources, whichever its n sources are. In a simple
 * graph, where destinations read from min_src_idx on, all later destinations so repeat the values
 * of block 0. Ours give each edge its own source; this is what AutoCircuit makes of the same
 * means. */
static float *as_first_sources(const abl_graph *graph, const float *scores) {
    const int64_t count = abl_graph_edge_count(graph);
    float *means = abl_calloc((size_t)abl_graph_src_count(graph), sizeof *means);
    float *out = abl_calloc((size_t)count, sizeof *out);
    for (int64_t i = 0; i < count; i++) {
        means[abl_graph_edge_at(graph, i).src] = scores[i];
    }
    for (int64_t i = 0; i < count; i++) {
        abl_edge edge = abl_graph_edge_at(graph, i);
        out[i] = means[edge.src - abl_graph_dest_at(graph, edge.dest)->src_begin];
    }
    abl_free(means);
    return out;
}

static void case_act_mag(const char *model_name, const edges_variant *variant, abl_model *model,
                         const abl_dataset *dataset) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "d_scores_%s", variant->name)) {
        return;
    }
    abl_graph *graph = edges_graph(model, variant, abl_dataset_seq_len(dataset));
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_ACTIVATION_MAGNITUDE,
        .model = model,
        .graph = graph,
        .batches = {.dataset = dataset, .first = 0, .count = 8, .batch_size = 4}};
    float *expected = edges_flat(graph, c.set, "act_mag");
    float *scores = edges_scores(&options);
    float *first = as_first_sources(graph, scores); /* in a factorized graph: the same */
    if (expected != NULL) { /* processed weights are centred: their scores are noise about 1e-10 */
        compare_flat(c.title, variant->simple ? "act_mag, of the first sources" : "act_mag", graph,
                     expected, first, variant->raw ? 0 : TOL_NOISE);
    }
    abl_free(first);
    abl_free(expected);
    abl_free(scores);
    abl_graph_destroy(graph);
    edges_case_close(&c);
}

/* The difference in numbers, on raw weights, where the means are no noise: an edge's score is that
 * of its source, the first block's edges agree with AutoCircuit's way, and later ones do not. */
static void case_act_mag_sources(const char *model_name, abl_model *raw,
                                 const abl_dataset *dataset) {
    const edges_variant simple = {.name = "raw_unfact", .raw = true, .simple = true};
    abl_graph *graph = edges_graph(raw, &simple, 0);
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_ACTIVATION_MAGNITUDE,
        .model = raw,
        .graph = graph,
        .batches = {.dataset = dataset, .first = 0, .count = 8, .batch_size = 4}};
    float *ours = edges_scores(&options);
    float *theirs = as_first_sources(graph, ours);
    double in_block_0 = 0;
    double after = 0;
    for (int64_t i = 0; i < abl_graph_edge_count(graph); i++) {
        const abl_graph_dest *dest = abl_graph_dest_at(graph, abl_graph_edge_at(graph, i).dest);
        double difference = fabs((double)ours[i] - (double)theirs[i]);
        double *largest = dest->src_begin == 0 ? &in_block_0 : &after;
        *largest = fmax(*largest, difference);
    }
    char what[96];
    (void)snprintf(what, sizeof what, "act_mag of own sources: %.3g from AutoCircuit's in block 0",
                   in_block_0);
    golden_check(model_name, what, in_block_0 == 0);
    (void)snprintf(what, sizeof what, "act_mag of own sources: %.3g from AutoCircuit's after it",
                   after);
    golden_check(model_name, what, after > 1e-4);
    abl_free(ours);
    abl_free(theirs);
    abl_graph_destroy(graph);
}

/* ---- EAP-IG ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    abl_eap_ig_method method;
    int32_t steps;
} METHODS[] = {
    {"inputs_n5", ABL_EAP_IG_INPUTS, 5},
    {"inputs_n1", ABL_EAP_IG_INPUTS, 1},
    {"activations_n3", ABL_EAP_IG_ACTIVATIONS, 3},
    {"clean_corrupted", ABL_EAP_IG_CLEAN_CORRUPTED, 0},
};

static abl_prune_options eap_ig_options(abl_model *model, const abl_graph *graph,
                                        const abl_dataset *dataset, size_t method) {
    return (abl_prune_options){.algorithm = ABL_PRUNE_EAP_IG,
                               .model = model,
                               .graph = graph,
                               .batches = {.dataset = dataset, .count = 8, .batch_size = 4},
                               .eap_ig = {METHODS[method].method, METHODS[method].steps}};
}

static void case_eap_ig(const char *model_name, abl_model *model, const abl_dataset *dataset) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/eap_ig/%s.safetensors", ABLATE_GOLDEN_DATA, model_name);
    abl_safetensors *set = golden_open_tensors(path);
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    char title[96];
    (void)snprintf(title, sizeof title, "%s/eap_ig", model_name);
    for (size_t i = 0; i < ABL_COUNT_OF(METHODS); i++) {
        abl_prune_options options = eap_ig_options(model, graph, dataset, i);
        float *expected = edges_flat(graph, set, METHODS[i].name);
        golden_check(title, "recorded", expected != NULL);
        float *scores = edges_scores(&options);
        compare_flat(title, METHODS[i].name, graph, expected, scores, 0);
        abl_free(scores);
        abl_free(expected);
    }
    abl_graph_destroy(graph);
    abl_safetensors_close(set);
}

/* Algebra: token-specific scores add up over positions to those without positions, and joined ones
 * are the sums of q's, k's and v's. */
static void case_positions(const char *model_name, abl_model *model, const abl_dataset *dataset) {
    abl_graph *plain = edges_graph(model, &EDGES_VARIANTS[0], 0);
    abl_graph *by_position = edges_graph(model, &EDGES_VARIANTS[1], abl_dataset_seq_len(dataset));
    int64_t per = abl_graph_edges_per_position(plain);
    for (size_t i = 0; i < ABL_COUNT_OF(METHODS); i++) {
        abl_prune_options options = eap_ig_options(model, plain, dataset, i);
        float *expected = edges_scores(&options);
        options.graph = by_position;
        float *scores = edges_scores(&options);
        float *sums = abl_calloc((size_t)per, sizeof *sums);
        for (int64_t j = 0; j < abl_graph_edge_count(by_position); j++) {
            sums[j % per] += scores[j];
        }
        char title[96];
        (void)snprintf(title, sizeof title, "%s/eap_ig %s", model_name, METHODS[i].name);
        compare_flat(title, "positions add up", plain, expected, sums, 0);
        abl_free(sums);
        abl_free(scores);
        abl_free(expected);
    }
    abl_graph_destroy(by_position);
    abl_graph_destroy(plain);
}

/* clean_corrupted's first point is the clean run: twice it less the other end is eap over the
 * prompts; and activations under zero ablation run to the end. */
static void case_consistency(const char *model_name, abl_model *model, const abl_dataset *dataset) {
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    int64_t count = abl_graph_edge_count(graph);
    abl_prune_options both = eap_ig_options(model, graph, dataset, 3);
    abl_prune_options corrupt_end = eap_ig_options(model, graph, dataset, 1);
    abl_prune_options eap = both;
    eap.algorithm = ABL_PRUNE_EAP;
    float *a = edges_scores(&both);
    float *b = edges_scores(&corrupt_end);
    float *c = edges_scores(&eap);
    for (int64_t i = 0; i < count; i++) {
        a[i] = 2 * a[i] - b[i];
        c[i] /= 8;
    }
    compare_flat(model_name, "2 clean_corrupted - inputs_n1 = eap / prompts", graph, c, a, 0);
    abl_prune_options zero = eap_ig_options(model, graph, dataset, 2);
    zero.ablation = ABL_ABLATION_ZERO;
    float *d = edges_scores(&zero);
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        finite = finite && isfinite(d[i]);
    }
    golden_check(model_name, "activations under zero ablation are finite",
                 finite && edges_max_abs(d, count) > 0);
    float *again = edges_scores(&zero);
    golden_check(model_name, "twice: the same bits",
                 memcmp(d, again, (size_t)count * sizeof *d) == 0);
    abl_free(again);
    abl_free(d);
    abl_free(c);
    abl_free(b);
    abl_free(a);
    abl_graph_destroy(graph);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refuses(const abl_prune_options *options, const char *what) {
    abl_prune *prune = NULL;
    abl_status status = {.reason = ""};
    abl_code code = abl_prune_create(options, &prune, &status);
    golden_check("refused", what,
                 code == ABL_CODE_INVALID_ARGUMENT && prune == NULL &&
                     strcmp(status.reason, "ALGORITHM_OPTIONS_INVALID") == 0);
    abl_prune_destroy(prune);
}

static void case_refusals(abl_model *model, const abl_dataset *dataset) {
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    abl_prune_options o = eap_ig_options(model, graph, dataset, 0);
    o.eap_ig.steps = 0;
    refuses(&o, "no steps");
    o.eap_ig.steps = ABL_EAP_IG_STEPS_MAX + 1;
    refuses(&o, "too many steps");
    o = eap_ig_options(model, graph, dataset, 0);
    o.ablation = ABL_ABLATION_ZERO;
    refuses(&o, "inputs under zero ablation");
    o.eap_ig.method = ABL_EAP_IG_CLEAN_CORRUPTED;
    refuses(&o, "clean-corrupted under zero ablation");
    o.eap_ig.method = (abl_eap_ig_method)7;
    refuses(&o, "no such method");
    abl_graph_destroy(graph);
}

/* ---- SmolLM2 --------------------------------------------------------------------------------- */

static void case_smollm2(const edges_subject *s, const abl_safetensors *set) {
    if (abl_safetensors_find(set, "eap_ig.n5.k0-4") == NULL) {
        return;
    }
    char title[96];
    (void)snprintf(title, sizeof title, "smollm2/%s", s->model_name);
    size_t count = (size_t)abl_graph_edge_count(s->graph);
    abl_prune_options options = eap_ig_options(s->model, s->graph, s->dataset, 0);
    int32_t prompts = abl_dataset_prompt_count(s->dataset);
    options.batches = (abl_batches){.dataset = s->dataset, .count = prompts, .batch_size = prompts};
    float *scores = edges_scores(&options);
    for (size_t j = 0; j < count; j++) {
        scores[j] *= (float)prompts; /* the reference's loss is a mean, and no more */
    }
    golden_compare(title, "eap_ig.n5.k0-4", golden_tensor(set, "eap_ig.n5.k0-4"), scores, count,
                   TOL_SMOLLM2);
    abl_free(scores);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        abl_dataset *dataset = edges_abba(EDGES_MODELS[i]);
        abl_model *models[] = {golden_open_model(EDGES_MODELS[i], abl_model_processing_tl()),
                               golden_open_model(EDGES_MODELS[i], abl_model_processing_hf())};
        for (size_t v = 0; v < EDGES_VARIANT_COUNT; v++) {
            case_act_mag(EDGES_MODELS[i], &EDGES_VARIANTS[v], models[EDGES_VARIANTS[v].raw ? 1 : 0],
                         dataset);
        }
        case_act_mag_sources(EDGES_MODELS[i], models[1], dataset);
        case_eap_ig(EDGES_MODELS[i], models[0], dataset);
        case_positions(EDGES_MODELS[i], models[0], dataset);
        case_consistency(EDGES_MODELS[i], models[0], dataset);
        case_refusals(models[0], dataset);
        abl_model_unref(models[0]);
        abl_model_unref(models[1]);
        abl_dataset_destroy(dataset);
    }
    edges_each_smollm2(case_smollm2);
    return golden_finish();
}
