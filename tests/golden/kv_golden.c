/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes behind a shared prefix against AutoCircuit's tail_divergence (case f_kv_prefix): the same
 * prompts whole ("full") and as tails behind a KV cache ("tail"), token specific ("_seq") and not.
 * Every array of the case is compared, and at the end counted: one that no run here explains is a
 * failure. (That tails and whole prompts agree: tests/unit/core/model/prefix_test.c.)
 *
 * The compact set has the runs behind a cache only ("tail", and the scores of "tail_seq"). */
#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "core/patch/circuits.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOL_LOGITS 1e-4
#define TOL_SCORES_RELATIVE 2e-5

typedef struct subject {
    char run[16]; /* "tail_seq" */
    const edges_case *c;
    abl_model *model;
    abl_graph *graph;
    abl_batches batches;
    size_t compared; /* arrays of the case, of all runs */
} subject;

/* ---- data ------------------------------------------------------------------------------------ */

/* Cuts the prefix off the batches' prompts, and puts it in front. */
static void batches_cut(abl_batches *batches, const abl_model *model, int32_t length,
                        abl_dataset **ret_tail, abl_prefix **ret_prefix) {
    abl_status status;
    golden_must(abl_dataset_create_tail(batches->dataset, length, ret_tail, &status), &status);
    abl_batch first = abl_batches_at(batches, 0);
    golden_must(abl_prefix_create(model, first.clean, length, ret_prefix, &status), &status);
    batches->dataset = *ret_tail;
    batches->prefix = *ret_prefix;
}

/* ---- runs ------------------------------------------------------------------------------------ */

/* The recorded array of this run; NULL when the compact set leaves it out. */
static const abl_safetensors_tensor *recorded(subject *s, const char *name, char key[96]) {
    (void)snprintf(key, 96, "%s/%s", s->run, name);
    const abl_safetensors_tensor *found = abl_safetensors_find(s->c->set, key);
    s->compared += found != NULL ? 1 : 0;
    return found;
}

static void compare_tokens(subject *s, const char *name, bool clean) {
    char key[96];
    const abl_safetensors_tensor *expected = recorded(s, name, key);
    if (expected == NULL) {
        return;
    }
    abl_batches all = s->batches;
    all.batch_size = all.count;
    abl_batch batch = abl_batches_at(&all, 0);
    int32_t *ids = golden_ints(expected);
    bool same =
        expected->elements == (uint64_t)batch.size * (uint64_t)batch.seq_len &&
        memcmp(ids, clean ? batch.clean : batch.corrupt, expected->elements * sizeof *ids) == 0;
    golden_check(s->c->title, key, same);
    abl_free(ids);
}

static float *circuit_logits(const abl_circuits_options *options, size_t *ret_count) {
    abl_circuits *circuits = NULL;
    abl_status status;
    golden_must(abl_circuits_create(options, &circuits, &status), &status);
    float *all = NULL;
    bool finished = false;
    while (!finished) {
        abl_circuits_result result;
        golden_must(abl_circuits_step(circuits, &result, &finished, &status), &status);
        if (result.circuit < 0) {
            continue; /* a pass for the mean */
        }
        size_t row = (size_t)result.vocab_size;
        if (all == NULL) {
            *ret_count = row * (size_t)options->batches.count;
            all = abl_calloc(*ret_count, sizeof *all);
        }
        memcpy(all + row * (size_t)result.batch.first, result.logits,
               (size_t)result.logit_count * sizeof *all);
    }
    abl_circuits_destroy(circuits);
    return all;
}

/* The unpatched run of either prompts: no edge is in the circuit that EDGE_PATCH ablates. */
static void compare_plain(subject *s, const char *name, bool clean) {
    char key[96];
    const abl_safetensors_tensor *expected = recorded(s, name, key);
    if (expected == NULL) {
        return;
    }
    const abl_edge_set none = {.edges = NULL, .count = 0};
    const abl_circuits_options options = {.model = s->model,
                                          .graph = s->graph,
                                          .batches = s->batches,
                                          .patch_type = ABL_PATCH_EDGE,
                                          .reverse_clean_corrupt = clean,
                                          .sets = &none,
                                          .circuit_count = 1};
    size_t count = 0;
    float *logits = circuit_logits(&options, &count);
    golden_compare(s->c->title, key, expected, logits, count, TOL_LOGITS);
    abl_free(logits);
}

static void compare_circuits(subject *s) {
    static const struct {
        const char *name;
        abl_patch_type type;
        abl_ablation ablation;
    } RUNS[] = {
        {"circuit/TREE_PATCH/RESAMPLE", ABL_PATCH_TREE, ABL_ABLATION_RESAMPLE},
        {"circuit/TREE_PATCH/ZERO", ABL_PATCH_TREE, ABL_ABLATION_ZERO},
        {"circuit/TREE_PATCH/TOKENWISE_MEAN_CORRUPT", ABL_PATCH_TREE,
         ABL_ABLATION_TOKENWISE_MEAN_CORRUPT},
        {"circuit/EDGE_PATCH/RESAMPLE", ABL_PATCH_EDGE, ABL_ABLATION_RESAMPLE},
        {"circuit/EDGE_PATCH/ZERO", ABL_PATCH_EDGE, ABL_ABLATION_ZERO},
        {"circuit/EDGE_PATCH/TOKENWISE_MEAN_CORRUPT", ABL_PATCH_EDGE,
         ABL_ABLATION_TOKENWISE_MEAN_CORRUPT},
    };
    abl_edge_set set;
    int64_t *edges = edges_list(json_object_get(s->c->json, "circuit_edges"), &set.count);
    set.edges = edges;
    for (size_t i = 0; i < ABL_COUNT_OF(RUNS); i++) {
        char key[96];
        const abl_safetensors_tensor *expected = recorded(s, RUNS[i].name, key);
        if (expected == NULL) {
            continue;
        }
        const abl_circuits_options options = {.model = s->model,
                                              .graph = s->graph,
                                              .batches = s->batches,
                                              .patch_type = RUNS[i].type,
                                              .ablation = RUNS[i].ablation,
                                              .sets = &set,
                                              .circuit_count = 1};
        size_t count = 0;
        float *logits = circuit_logits(&options, &count);
        golden_compare(s->c->title, key, expected, logits, count, TOL_LOGITS);
        abl_free(logits);
    }
    abl_free(edges);
}

static void compare_scores(subject *s, const char *name, abl_prune_algorithm algorithm) {
    static const double tau = 1e-2;
    char key[96];
    (void)snprintf(key, sizeof key, "%s/%s", s->run, name);
    float *expected = edges_flat(s->graph, s->c->set, key);
    if (expected == NULL) {
        return; /* eap is not recorded token specifically; the compact set has no full run */
    }
    s->compared += (size_t)abl_graph_module_count(s->graph);
    const abl_prune_options options = {.algorithm = algorithm,
                                       .model = s->model,
                                       .graph = s->graph,
                                       .batches = s->batches,
                                       .exact_metric = ABL_EXACT_KL_DIV, /* ACDC's */
                                       .acdc = {.taus = &tau, .tau_count = 1}};
    size_t count = (size_t)abl_graph_edge_count(s->graph);
    float *scores = edges_scores(&options);
    double largest = algorithm == ABL_PRUNE_ACDC ? tau : edges_max_abs(expected, (int64_t)count);
    golden_compare_floats(s->c->title, key, expected, count, scores, count,
                          TOL_SCORES_RELATIVE * largest);
    abl_free(scores);
    abl_free(expected);
}

static void run_case(subject *s) {
    const json_t *about = json_object_get(s->c->json, s->run);
    int64_t edges = json_integer_value(json_object_get(about, "n_edges"));
    golden_check(s->c->title, s->run, edges == abl_graph_edge_count(s->graph));
    compare_tokens(s, "tokens_clean", true);
    compare_tokens(s, "tokens_corrupt", false);
    compare_plain(s, "logits_clean", true);
    compare_plain(s, "logits_corrupt", false);
    compare_circuits(s);
    compare_scores(s, "mg_logit_avg_diff_m0", ABL_PRUNE_MASK_GRADIENT);
    compare_scores(s, "eap", ABL_PRUNE_EAP);
    compare_scores(s, "acdc_kl_1e-2", ABL_PRUNE_ACDC);
}

static void check_labels(const edges_case *c, const abl_dataset *dataset, const char *run) {
    const json_t *labels = json_object_get(json_object_get(c->json, run), "seq_labels");
    bool same = (int32_t)json_array_size(labels) == abl_dataset_seq_label_count(dataset);
    for (int32_t i = 0; same && i < abl_dataset_seq_label_count(dataset); i++) {
        same = strcmp(json_string_value(json_array_get(labels, (size_t)i)),
                      abl_dataset_seq_label(dataset, i)) == 0;
    }
    char what[64];
    (void)snprintf(what, sizeof what, "%s/seq_labels", run);
    golden_check(c->title, what, same);
}

/* Words move with the cut, unlike AutoCircuit's, which are recorded as in whole prompts. */
static void check_words(const edges_case *c, const abl_dataset *dataset, const char *run,
                        int32_t cut) {
    const char *name = NULL;
    json_t *position = NULL;
    int32_t expected = 0;
    bool same = true;
    json_object_foreach(json_object_get(json_object_get(c->json, run), "word_idxs"), name,
                        position) {
        int64_t at = json_integer_value(position) - cut;
        bool found = at < 0;
        expected += found ? 0 : 1;
        for (int32_t i = 0; i < abl_dataset_word_count(dataset) && !found; i++) {
            int32_t there = -1;
            const char *word = abl_dataset_word(dataset, i, &there);
            found = strcmp(word, name) == 0 && there == at;
        }
        same = same && found;
    }
    char what[64];
    (void)snprintf(what, sizeof what, "%s/word_idxs", run);
    golden_check(c->title, what, same && expected == abl_dataset_word_count(dataset));
}

static void case_kv_prefix(const char *model_name) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "f_kv_prefix")) {
        return;
    }
    abl_model *model = golden_open_model(model_name, abl_model_processing_tl());
    abl_dataset *dataset =
        edges_prompts(golden_path("prompts/ioi_late.json"), model, ABL_BOS_PREPEND);
    int32_t shared = abl_dataset_common_prefix(dataset, NULL);
    const json_t *cut = json_object_get(json_object_get(c.json, "tail"), "diverge_idx");
    golden_check(c.title, "tail/diverge_idx", shared == json_integer_value(cut));
    size_t compared = 0;
    for (int i = 0; i < 4; i++) {
        const edges_variant *variant = &EDGES_VARIANTS[i % 2]; /* proc_fact_qkv, and by position */
        abl_dataset *tail = NULL;
        abl_prefix *prefix = NULL;
        subject s = {
            .c = &c, .model = model, .batches = {.dataset = dataset, .count = 8, .batch_size = 4}};
        (void)snprintf(s.run, sizeof s.run, "%s%s", i < 2 ? "full" : "tail",
                       variant->seq ? "_seq" : "");
        if (!golden_is_full() && json_object_get(c.json, s.run) == NULL) {
            continue; /* the compact set leaves it out */
        }
        if (i >= 2) {
            batches_cut(&s.batches, model, shared, &tail, &prefix);
        }
        s.graph = edges_graph(model, variant, abl_dataset_seq_len(s.batches.dataset));
        check_labels(&c, s.batches.dataset, s.run);
        check_words(&c, s.batches.dataset, s.run, i < 2 ? 0 : shared);
        run_case(&s);
        compared += s.compared;
        abl_graph_destroy(s.graph);
        abl_dataset_destroy(tail);
        abl_prefix_destroy(prefix);
    }
    golden_check(c.title, "every array was compared", compared == abl_safetensors_count(c.set));
    abl_dataset_destroy(dataset);
    abl_model_unref(model);
    edges_case_close(&c);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        case_kv_prefix(EDGES_MODELS[i]);
    }
    return golden_finish();
}
