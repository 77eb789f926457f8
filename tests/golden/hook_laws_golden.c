/* SPDX-License-Identifier: Apache-2.0
 *
 * Laws of a graph's hooks, in every run of the graph, that need no recording; on every family and
 * every shape of graph:
 *
 *   nothing    hooks that change nothing: every algorithm and every sweep has the numbers that it
 *              has without hooks, by its own, faster way
 *   zero       a zero hook on a head is that head's edges ablated with ZERO; and where the other
 *              prompt's run has the hook, too, the head's edges carry the same, and score 0
 *   exact      exact scores under hooks are single-edge masks under them, one at a time
 *   reference  what a sweep compares with has the hooks
 *
 * Gradients through each operation: tests/unit/core/patch/backward_test.c. */
#include "core/base/mem.h"
#include "core/metric/loss.h"
#include "core/patch/circuits.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PROMPTS = 3, SEQ = 4 };

typedef struct subject {
    abl_model *model;
    const abl_model_config *config;
    abl_graph *graph;
    abl_dataset *dataset;
    abl_batch batch;
    abl_answer_function answer_function;
    int64_t edges;
    char title[64];
} subject;

static const char *const FAMILIES[] = {"models/tiny-rand",         "families/llama",
                                       "families/gpt-neox",        "families/gpt-neox-seq",
                                       "families/hooked-parallel", "families/hooked-grouped",
                                       "families/attn-only",       "families/micro"};

static const int32_t FIRST[] = {0};
static const abl_index_list HEAD_0 = {FIRST, 1};

static double largest_of(const float *values, size_t count) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) {
        largest = isfinite(values[i]) ? fmax(largest, fabs((double)values[i])) : largest;
    }
    return largest;
}

static abl_prune_options options_of(const subject *s, abl_prune_algorithm algorithm,
                                    abl_ablation ablation, abl_interventions list) {
    static const double tau = 1e30; /* removes all: each trial has an effect */
    return (abl_prune_options){
        .algorithm = algorithm,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = PROMPTS, .batch_size = 2}, /* 2, then 1 */
        .ablation = ablation,
        .interventions = list,
        .answer_function = s->answer_function,
        .exact_metric = algorithm == ABL_PRUNE_ACDC ? ABL_EXACT_MSE : ABL_EXACT_LOSS,
        .acdc = {.taus = &tau, .tau_count = 1},
        .eap_ig = {.steps = 2},
        .subnetwork_probing = {.learning_rate = 1e-6F, /* so that rounding takes no other step */
                               .epochs = 2,
                               .mask_function = ABL_MASK_SIGMOID,
                               .init_value = 1,
                               .tree_optimisation = true,
                               .avoid_lambda = 1}};
}

static float *logits_of(const subject *s, const float *mask, const abl_sources *ablated,
                        abl_interventions list) {
    const abl_patch_options options = {.model = s->model,
                                       .graph = s->graph,
                                       .tokens = s->batch.clean,
                                       .batch = PROMPTS,
                                       .seq = SEQ,
                                       .mask = mask,
                                       .ablated = ablated,
                                       .interventions = list};
    float *logits = abl_calloc((size_t)abl_patch_logit_count(&options), sizeof *logits);
    abl_status status;
    golden_must(abl_patch_forward(&options, logits, &status), &status);
    return logits;
}

/* ---- nothing --------------------------------------------------------------------------------- */

/* What a finished prune has to show: its scores, ACDC's effects, or a training's faithfulness. */
static float *shown_by(const abl_prune_options *options, size_t *ret_count) {
    abl_prune *prune = edges_run(options);
    abl_acdc_report report;
    int64_t points = 0;
    const abl_training_point *curve = abl_prune_curve(prune, &points);
    *ret_count = points > 0 ? (size_t)points : (size_t)abl_graph_edge_count(options->graph);
    float *shown = abl_calloc(*ret_count, sizeof *shown);
    bool acdc = abl_prune_acdc_report(prune, &report);
    for (size_t i = 0; i < *ret_count; i++) {
        shown[i] = points > 0 ? curve[i].faithfulness
                   : acdc     ? (float)report.effects[i]
                              : abl_prune_scores(prune)[i];
    }
    abl_prune_destroy(prune);
    return shown;
}

static void compare_prunes(const subject *s, const char *name, abl_prune_options options,
                           abl_interventions list) {
    size_t count = 0;
    float *want = shown_by(&options, &count);
    options.interventions = list;
    float *have = shown_by(&options, &count);
    char what[96];
    (void)snprintf(what, sizeof what, "nothing: %s, %s", name, abl_ablation_name(options.ablation));
    golden_compare_floats(s->title, what, want, count, have, count,
                          2e-6 + 4e-4 * largest_of(want, count));
    abl_free(want);
    abl_free(have);
}

/* All logits of a sweep over three sizes, one after another, then the unpatched ones. */
static float *sweep_of(const subject *s, abl_patch_type type, abl_ablation ablation,
                       abl_interventions list, size_t *ret_count) {
    const size_t vocab = (size_t)s->config->d_vocab_out;
    const int64_t sizes[] = {0, s->edges / 3, s->edges};
    float *scores = abl_calloc((size_t)s->edges, sizeof *scores);
    for (int64_t i = 0; i < s->edges; i++) {
        scores[i] = (float)((i * 7919) % 1009) + (float)i / (float)s->edges;
    }
    const abl_circuits_options options = {
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = PROMPTS, .batch_size = 2},
        .patch_type = type,
        .ablation = ablation,
        .interventions = list,
        .scores = scores,
        .sizes = sizes,
        .circuit_count = ABL_COUNT_OF(sizes)};
    abl_circuits *circuits = NULL;
    abl_status status;
    golden_must(abl_circuits_create(&options, &circuits, &status), &status);
    const size_t most = (ABL_COUNT_OF(sizes) + 2) * PROMPTS * vocab;
    float *all = abl_calloc(most, sizeof *all);
    size_t count = 0;
    for (bool finished = false; !finished;) {
        abl_circuits_result result;
        golden_must(abl_circuits_step(circuits, &result, &finished, &status), &status);
        if (result.circuit >= 0) {
            memcpy(all + count, result.logits, (size_t)result.logit_count * sizeof *all);
            count += (size_t)result.logit_count;
        }
    }
    for (int corrupt = 0; corrupt < 2; corrupt++) { /* of the last batch, which has one prompt */
        const float *logits = NULL;
        golden_must(abl_circuits_unpatched(circuits, corrupt == 1, &logits, &status), &status);
        memcpy(all + count, logits, vocab * sizeof *all);
        count += vocab;
    }
    abl_circuits_destroy(circuits);
    abl_free(scores);
    *ret_count = count;
    return all;
}

static void law_nothing(const subject *s, abl_ablation ablation) {
    static const struct {
        abl_prune_algorithm algorithm;
        int detail; /* of integrated gradients the points, of EAP-IG the method */
        const char *name;
    } all[] = {{ABL_PRUNE_EAP, 0, "eap"},
               {ABL_PRUNE_MASK_GRADIENT, 0, "mask_gradient at 0.4"},
               {ABL_PRUNE_MASK_GRADIENT, 3, "mask_gradient, 4 points"},
               {ABL_PRUNE_GROUND_TRUTH, 0, "ground_truth"},
               {ABL_PRUNE_ACTIVATION_MAGNITUDE, 0, "activation_magnitude"},
               {ABL_PRUNE_ACDC, 0, "acdc"},
               {ABL_PRUNE_SUBNETWORK_PROBING, 0, "subnetwork_probing"},
               {ABL_PRUNE_EAP_IG, ABL_EAP_IG_ACTIVATIONS, "eap_ig activations"},
               {ABL_PRUNE_EAP_IG, ABL_EAP_IG_INPUTS, "eap_ig inputs"},
               {ABL_PRUNE_EAP_IG, ABL_EAP_IG_CLEAN_CORRUPTED, "eap_ig clean_corrupted"}};
    const abl_intervention items[] = {
        {.hook = {ABL_HOOK_RESULT, 0}, .op = ABL_OP_SCALE, .factor = 1},
        {.hook = {ABL_HOOK_RESID_PRE, 1}, .op = ABL_OP_CLAMP, .low = -INFINITY, .high = INFINITY}};
    const abl_interventions list = {.items = items, .count = ABL_COUNT_OF(items)};
    for (size_t i = 0; i < ABL_COUNT_OF(all); i++) {
        bool ig = all[i].algorithm == ABL_PRUNE_EAP_IG;
        bool inputs = ig && all[i].detail != ABL_EAP_IG_ACTIVATIONS;
        if (inputs && ablation != ABL_ABLATION_RESAMPLE) {
            continue;
        }
        abl_prune_options options =
            options_of(s, all[i].algorithm, ablation, (abl_interventions){.count = 0});
        options.mask_value = 0.4F;
        options.integrated_grad_samples = all[i].detail;
        options.eap_ig.method = ig ? (abl_eap_ig_method)all[i].detail : ABL_EAP_IG_INPUTS;
        compare_prunes(s, all[i].name, options, list);
    }
    for (int type = ABL_PATCH_TREE; type <= ABL_PATCH_EDGE; type++) {
        size_t count = 0;
        float *want =
            sweep_of(s, (abl_patch_type)type, ablation, (abl_interventions){.count = 0}, &count);
        float *have = sweep_of(s, (abl_patch_type)type, ablation, list, &count);
        golden_compare_floats(s->title, type == 0 ? "nothing: tree sweep" : "nothing: edge sweep",
                              want, count, have, count, 1e-4 * (1 + largest_of(want, count)));
        abl_free(want);
        abl_free(have);
    }
}

/* ---- zero ------------------------------------------------------------------------------------ */

static void law_zero(const subject *s) {
    const abl_intervention item = {.hook = {ABL_HOOK_Z, 0}, .op = ABL_OP_ZERO, .heads = HEAD_0};
    const abl_interventions list = {.items = &item, .count = 1};
    const abl_interventions none = {.count = 0};
    const size_t count = (size_t)(PROMPTS * s->config->d_vocab_out);
    float *mask = abl_calloc((size_t)s->edges, sizeof *mask);
    int64_t out = 0;
    for (int64_t i = 0; i < s->edges; i++) {
        const abl_graph_src *src = abl_graph_src_at(s->graph, abl_graph_edge_at(s->graph, i).src);
        bool head = src->kind == ABL_NODE_HEAD && src->block == 0 && src->head == 0;
        mask[i] = head ? 1 : 0;
        out += head;
    }
    float *want = logits_of(s, mask, NULL, none);
    float *have = logits_of(s, NULL, NULL, list);
    golden_compare_floats(s->title, "zero: the head's edges ablated", want, count, have, count,
                          1e-5 * (1 + largest_of(want, count)));
    static const abl_prune_algorithm ALGORITHMS[] = {
        ABL_PRUNE_EAP, ABL_PRUNE_GROUND_TRUTH, ABL_PRUNE_EAP_IG, ABL_PRUNE_ACTIVATION_MAGNITUDE};
    for (size_t k = 0; k < ABL_COUNT_OF(ALGORITHMS); k++) {
        const abl_prune_options options = options_of(s, ALGORITHMS[k], ABL_ABLATION_RESAMPLE, list);
        float *scores = edges_scores(&options);
        const double largest = largest_of(scores, (size_t)s->edges);
        double of_head = 0;
        for (int64_t i = 0; i < s->edges; i++) {
            of_head = mask[i] == 1.0F ? fmax(of_head, fabs((double)scores[i])) : of_head;
        }
        char what[96];
        (void)snprintf(what, sizeof what, "zero: %s, none of the head's edges, others",
                       abl_prune_algorithm_name(ALGORITHMS[k]));
        golden_check(s->title, what, out > 0 && of_head <= 1e-5 + 1e-5 * largest && largest > 1e-4);
        abl_free(scores);
    }
    abl_free(want);
    abl_free(have);
    abl_free(mask);
}

/* ---- exact ----------------------------------------------------------------------------------- */

static double loss_of(const subject *s, const float *mask, const abl_sources *ablated,
                      abl_interventions list) {
    const abl_loss loss = {.answer_function = s->answer_function};
    float *logits = logits_of(s, mask, ablated, list);
    double value = abl_loss_value(loss, &s->batch, logits, s->config->d_vocab_out);
    abl_free(logits);
    return value;
}

/* Hooks that do something, where sources emit, in the stream, and inside a head. */
static void law_exact(const subject *s) {
    const int last = s->config->n_layers - 1;
    float steering[64];
    const int64_t width[] = {s->config->d_model};
    for (size_t i = 0; i < ABL_COUNT_OF(steering); i++) {
        steering[i] = (float)((i * 37) % 11) / 11.0F - 0.4F;
    }
    const abl_intervention items[] = {
        {.hook = {ABL_HOOK_RESULT, 0}, .op = ABL_OP_SCALE, .factor = 0.3, .heads = HEAD_0},
        {.hook = {ABL_HOOK_ATTN_OUT, 0}, .op = ABL_OP_MEAN, .over_positions = true},
        {.hook = {ABL_HOOK_RESID_PRE, last},
         .op = ABL_OP_ADD,
         .factor = 1,
         .values = steering,
         .value_shape = width,
         .value_rank = 1},
        {.hook = {ABL_HOOK_V, last}, .op = ABL_OP_SCALE, .factor = 2}};
    const abl_interventions list = {.items = items,
                                    .count = width[0] <= 64 ? ABL_COUNT_OF(items) : 2};
    const abl_patch_options run = {.model = s->model,
                                   .graph = s->graph,
                                   .tokens = s->batch.corrupt,
                                   .batch = PROMPTS,
                                   .seq = SEQ,
                                   .interventions = list};
    abl_sources *ablated = NULL;
    abl_status status;
    golden_must(abl_ablation_create(&run, ABL_ABLATION_RESAMPLE, &ablated, &status), &status);
    abl_prune_options options = options_of(s, ABL_PRUNE_GROUND_TRUTH, ABL_ABLATION_RESAMPLE, list);
    options.batches.batch_size = PROMPTS;
    float *scores = edges_scores(&options);
    float *mask = abl_calloc((size_t)s->edges, sizeof *mask);
    float *want = abl_calloc((size_t)s->edges, sizeof *want);
    float *have = abl_calloc((size_t)s->edges, sizeof *have);
    const double clean = loss_of(s, NULL, NULL, list);
    size_t count = 0;
    for (int64_t i = 0; i < s->edges; i += 1 + s->edges / 60) {
        mask[i] = 1;
        want[count] = (float)(loss_of(s, mask, ablated, list) - clean);
        have[count++] = scores[i];
        mask[i] = 0;
    }
    golden_compare_floats(s->title, "exact: under hooks", want, count, have, count,
                          2e-5 * (1 + largest_of(scores, (size_t)s->edges)));
    golden_check(s->title, "exact: hooks change the loss",
                 fabs(clean - loss_of(s, NULL, NULL, (abl_interventions){.count = 0})) > 1e-7);
    abl_free(have);
    abl_free(want);
    abl_free(mask);
    abl_free(scores);
    abl_sources_destroy(ablated);
}

/* ---- reference ------------------------------------------------------------------------------- */

/* The whole model as the circuit is what the sweep calls the unpatched model, hooks and all. */
static void law_reference(const subject *s) {
    const abl_intervention item = {.hook = {ABL_HOOK_Z, 0}, .op = ABL_OP_SCALE, .factor = -1};
    const abl_interventions list = {.items = &item, .count = 1};
    const size_t vocab = (size_t)s->config->d_vocab_out;
    size_t count = 0;
    float *all = sweep_of(s, ABL_PATCH_TREE, ABL_ABLATION_RESAMPLE, list, &count);
    const float *unpatched = all + count - 2 * vocab; /* of the last prompt: clean, then corrupt */
    const float *whole = unpatched - vocab;
    golden_compare_floats(s->title, "reference: the unpatched model has the hooks", whole, vocab,
                          unpatched, vocab, 0);
    float *plain = logits_of(s, NULL, NULL, (abl_interventions){.count = 0});
    golden_check(s->title, "reference: which change it",
                 memcmp(plain + (PROMPTS - 1) * vocab, unpatched, vocab * sizeof *plain) != 0);
    abl_free(plain);
    abl_free(all);
}

static void all_laws(subject *s, const char *family, const char *variant,
                     abl_graph_options options) {
    options.layer_count = s->config->n_layers;
    options.head_count = s->config->n_heads;
    options.kv_head_count = s->config->n_kv_heads;
    options.parallel_attn_mlp = s->config->parallel_attn_mlp;
    options.attn_only = s->config->attn_only;
    abl_status status;
    golden_must(abl_graph_create(&options, &s->graph, &status), &status);
    s->edges = abl_graph_edge_count(s->graph);
    (void)snprintf(s->title, sizeof s->title, "%s %s", family, variant);
    law_nothing(s, ABL_ABLATION_RESAMPLE);
    law_nothing(s, ABL_ABLATION_ZERO);
    law_nothing(s, ABL_ABLATION_TOKENWISE_MEAN_CORRUPT);
    law_zero(s);
    law_exact(s);
    law_reference(s);
    abl_graph_destroy(s->graph);
}

int main(void) {
    golden_init("hook_laws_golden");
    for (size_t i = 0; i < ABL_COUNT_OF(FAMILIES); i++) {
        char path[2048];
        (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/%s", FAMILIES[i]);
        const char *family = strrchr(path, '/') + 1;
        subject s = {.model = golden_open_model(path, abl_model_processing_hf())};
        s.config = abl_model_get_config(s.model);
        s.dataset = edges_made_up(s.config, PROMPTS, SEQ);
        const abl_batches batches = {.dataset = s.dataset, .count = PROMPTS, .batch_size = PROMPTS};
        s.batch = abl_batches_at(&batches, 0);
        s.answer_function = s.config->d_vocab_out > 1 ? ABL_ANSWER_AVG_DIFF : ABL_ANSWER_AVG_VAL;
        all_laws(&s, family, "qkv", (abl_graph_options){.seq_len = 0});
        all_laws(&s, family, "joined", (abl_graph_options){.joined_qkv = true});
        all_laws(&s, family, "qkv by position", (abl_graph_options){.seq_len = SEQ});
        all_laws(&s, family, "simple", (abl_graph_options){.simple = true});
        abl_dataset_destroy(s.dataset);
        abl_model_unref(s.model);
    }
    return golden_finish();
}
