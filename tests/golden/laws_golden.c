/* SPDX-License-Identifier: Apache-2.0
 *
 * Laws that need no recording, on every family and every shape of graph:
 *
 *   ends       an empty mask is the clean run and a full one the corrupt run, bit for bit (the
 *              latter to rounding where a graph ungroups keys and values: its products are wider)
 *   means      every mean ablation serves every family: an empty mask is the clean run, and a full
 *              one of a linear network gives the mean of the corrupt logits
 *   repeat     the same request twice gives the same bits
 *   agree      EAP's closed form is the gradient at any mask, taken at mask 0
 *   ig         EAP-IG between both ends of its path is the mean of EAP's at either, the other end
 *              being EAP of the prompts the other way around; on a linear network it is EAP
 *   reader     scores into a reader sum to the reader's own score: the slope of the loss when all
 *              its edges are ablated together
 *   exact      exact scores are single-edge masks, one at a time
 *   acdc       what changes above an edge has the effect of a whole masked pass, trial by trial
 *   linear     on a linear network attribution is exact, and what flows into the end, or out of the
 *              start, sums to the loss's difference, or, in a simple graph, into any node, since
 *              all of the network goes through each; AutoCircuit's micro model, also by hand
 *
 * Slopes are central differences, so they are asked of smooth networks only: Tracr's ReLUs sit on
 * their kinks. tests/e2e/test_families.py has the readers of all families, by the gradient at their
 * hooks. */
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "tests/golden/laws.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *path;
    bool smooth;
    bool linear;
} FAMILIES[] = {
    {"models/tiny-rand", true, false},
    {"families/llama", true, false},
    {"families/gpt-neox", true, false},
    {"families/gpt-neox-seq", true, false},
    {"families/hooked-parallel", true, false},
    {"families/hooked-grouped", true, false},
    {"families/attn-only", true, false},
    {"families/tracr-reverse", false, false},
    {"families/tracr-xproportion", false, false},
    {"families/micro", true, true},
};

/* ---- the laws -------------------------------------------------------------------------------- */

static bool is_ungrouped(const laws_subject *s) {
    const abl_graph_options *o = abl_graph_options_of(s->graph);
    return o->kv_head_count != o->head_count && o->joined_qkv;
}

static void law_ends(const laws_subject *s) {
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const size_t count = LAWS_PROMPTS * (size_t)abl_model_get_config(s->model)->d_vocab_out;
    abl_sources *corrupt = laws_ablation(s, ABL_ABLATION_RESAMPLE);
    float *mask = abl_calloc(edges, sizeof *mask);
    float *plain = laws_logits(s, s->batch.clean, NULL, NULL);
    float *empty = laws_logits(s, s->batch.clean, mask, corrupt);
    golden_check(s->title, "ends: an empty mask is the clean run, bit for bit",
                 memcmp(plain, empty, count * sizeof *plain) == 0);
    for (size_t i = 0; i < edges; i++) {
        mask[i] = 1;
    }
    float *other = laws_logits(s, s->batch.corrupt, NULL, NULL);
    float *full = laws_logits(s, s->batch.clean, mask, corrupt);
    golden_compare_floats(s->title, "ends: a full mask is the corrupt run", other, count, full,
                          count, is_ungrouped(s) ? 1e-6 : 0);
    golden_check(s->title, "ends: the two runs differ",
                 memcmp(other, plain, count * sizeof *other) != 0);
    abl_forward_result result;
    abl_status status;
    const abl_forward_options options = {.model = s->model,
                                         .tokens = s->batch.clean,
                                         .batch = LAWS_PROMPTS,
                                         .seq = LAWS_SEQ,
                                         .out_slice = ABL_OUT_SLICE_LAST,
                                         .stop_at_layer = -1};
    golden_must(abl_forward(&options, &result, &status), &status);
    size_t forward_count = 0;
    float *forward = golden_floats_of(result.logits, &forward_count);
    golden_compare_floats(s->title, "ends: the plain pass", plain, count, forward, forward_count,
                          2e-6 * (1 + edges_max_abs(plain, (int64_t)count)));
    abl_forward_result_finish(&result);
    abl_free(forward);
    abl_free(full);
    abl_free(other);
    abl_free(empty);
    abl_free(plain);
    abl_free(mask);
    abl_sources_destroy(corrupt);
}

static void law_means(const laws_subject *s) {
    const size_t edges = (size_t)abl_graph_edge_count(s->graph);
    const size_t width = (size_t)abl_model_get_config(s->model)->d_vocab_out;
    float *mask = abl_calloc(edges, sizeof *mask);
    float *plain = laws_logits(s, s->batch.clean, NULL, NULL);
    float *corrupt = laws_logits(s, s->batch.corrupt, NULL, NULL);
    for (int kind = ABL_ABLATION_TOKENWISE_MEAN_CLEAN; kind < ABL_ABLATION_COUNT; kind++) {
        abl_sources *mean = NULL;
        abl_status status;
        const abl_patch_options run = {
            .model = s->model, .tokens = s->batch.corrupt, .batch = LAWS_PROMPTS, .seq = LAWS_SEQ};
        golden_must(abl_ablation_create(&run, (abl_ablation)kind, &mean, &status), &status);
        char what[96];
        (void)snprintf(what, sizeof what, "means: an empty mask, %s",
                       abl_ablation_name((abl_ablation)kind));
        memset(mask, 0, edges * sizeof *mask);
        float *empty = laws_logits(s, s->batch.clean, mask, mean);
        golden_check(s->title, what,
                     memcmp(plain, empty, LAWS_PROMPTS * width * sizeof *plain) == 0);
        for (size_t i = 0; i < edges; i++) {
            mask[i] = 1;
        }
        float *full = laws_logits(s, s->batch.clean, mask, mean);
        float *expected = abl_calloc(width, sizeof *expected);
        for (size_t i = 0; i < LAWS_PROMPTS * width; i++) {
            expected[i % width] += corrupt[i] / (float)LAWS_PROMPTS;
        }
        if (s->linear && kind != ABL_ABLATION_BATCH_ALL_TOK_MEAN) {
            (void)snprintf(what, sizeof what, "means: a full mask, %s",
                           abl_ablation_name((abl_ablation)kind));
            golden_compare_floats(s->title, what, expected, width, full, LAWS_PROMPTS * width,
                                  1e-4);
        } else {
            /* To rounding: a BLAS may sum the last rows of a product in another order. */
            golden_compare_floats(s->title, "means: a full mask gives every row the same", full,
                                  width, full, LAWS_PROMPTS * width, 2e-6);
        }
        abl_free(expected);
        abl_free(full);
        abl_free(empty);
        abl_sources_destroy(mean);
    }
    abl_free(corrupt);
    abl_free(plain);
    abl_free(mask);
}

static float *mask_make(const laws_subject *s) {
    int64_t edges = abl_graph_edge_count(s->graph);
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    for (int64_t i = 0; i < edges; i++) {
        mask[i] = (float)(i * 37 % 11) / 10.0F;
    }
    return mask;
}

static void law_repeat(const laws_subject *s) {
    const size_t bytes = (size_t)abl_graph_edge_count(s->graph) * sizeof(float);
    const size_t count = LAWS_PROMPTS * (size_t)abl_model_get_config(s->model)->d_vocab_out;
    abl_sources *corrupt = laws_ablation(s, ABL_ABLATION_RESAMPLE);
    float *mask = mask_make(s);
    float *one = laws_logits(s, s->batch.clean, mask, corrupt);
    float *two = laws_logits(s, s->batch.clean, mask, corrupt);
    golden_check(s->title, "repeat: a masked pass, bit for bit",
                 memcmp(one, two, count * sizeof *one) == 0);
    abl_free(one);
    abl_free(two);
    for (int algorithm = ABL_PRUNE_EAP; algorithm <= ABL_PRUNE_GROUND_TRUTH; algorithm++) {
        one = laws_scores(s, (abl_prune_algorithm)algorithm, ABL_ABLATION_RESAMPLE);
        two = laws_scores(s, (abl_prune_algorithm)algorithm, ABL_ABLATION_RESAMPLE);
        char what[64];
        (void)snprintf(what, sizeof what, "repeat: %s, bit for bit",
                       abl_prune_algorithm_name((abl_prune_algorithm)algorithm));
        golden_check(s->title, what, memcmp(one, two, bytes) == 0);
        abl_free(one);
        abl_free(two);
    }
    abl_free(mask);
    abl_sources_destroy(corrupt);
}

static void law_exact(const laws_subject *s, abl_ablation ablation) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    const int64_t every = 1 + edges / 150;
    abl_sources *ablated = laws_ablation(s, ablation);
    float *scores = laws_scores(s, ABL_PRUNE_GROUND_TRUTH, ablation);
    float *mask = abl_calloc((size_t)edges, sizeof *mask);
    float *brute = abl_calloc((size_t)edges, sizeof *brute);
    float *picked = abl_calloc((size_t)edges, sizeof *picked);
    double clean = laws_loss(s, NULL, NULL);
    size_t count = 0;
    for (int64_t i = 0; i < edges; i += every) {
        mask[i] = 1;
        brute[count] = (float)(laws_loss(s, mask, ablated) - clean);
        picked[count++] = scores[i];
        mask[i] = 0;
    }
    char what[64];
    (void)snprintf(what, sizeof what, "exact: %s", abl_ablation_name(ablation));
    golden_compare_floats(s->title, what, brute, count, picked, count,
                          2e-5 * (1 + edges_max_abs(scores, edges)));
    abl_free(picked);
    abl_free(brute);
    abl_free(mask);
    abl_free(scores);
    abl_sources_destroy(ablated);
}

/* The last tau's effects, one a trial, and its smallest margin; end with abl_free(). */
static float *acdc_effects(const laws_subject *s, abl_ablation ablation, double tau, bool whole,
                           int32_t most, float *ret_scores, double *ret_margin) {
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_ACDC,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = LAWS_PROMPTS, .batch_size = LAWS_PROMPTS},
        .ablation = ablation,
        .exact_metric = ABL_EXACT_MSE,
        .candidate_count_max = most,
        .acdc = {.taus = &tau, .tau_count = 1, .whole_passes = whole}};
    abl_prune *prune = edges_run(&options);
    abl_acdc_report report = {.taus = NULL};
    size_t count = (size_t)abl_graph_edge_count(s->graph);
    float *effects = abl_calloc(count, sizeof *effects);
    if (!abl_prune_acdc_report(prune, &report)) {
        golden_check(s->title, "acdc reports", false);
    }
    for (size_t i = 0; i < count; i++) {
        effects[i] = (float)report.effects[i];
    }
    memcpy(ret_scores, abl_prune_scores(prune), count * sizeof *ret_scores);
    *ret_margin = report.taus[0].margin_min;
    abl_prune_destroy(prune);
    return effects;
}

/* At taus that remove all, most and few of the edges. */
static void law_acdc(const laws_subject *s, abl_ablation ablation) {
    const int64_t edges = abl_graph_edge_count(s->graph);
    float *one = abl_calloc((size_t)edges, sizeof *one);
    float *other = abl_calloc((size_t)edges, sizeof *other);
    double taus[] = {1e30, 0, 0};
    for (size_t i = 0; i < ABL_COUNT_OF(taus); i++) {
        double margin = 0;
        float *whole = acdc_effects(s, ablation, taus[i], true, 1, one, &margin);
        double scale = edges_max_abs(whole, edges);
        taus[1] = i == 0 ? 0.02 * scale : taus[1];
        taus[2] = i == 0 ? 1e-3 * scale : taus[2];
        for (int32_t most = 0; most < 4; most += 3) {
            float *fast = acdc_effects(s, ablation, taus[i], false, most, other, &margin);
            char what[96];
            (void)snprintf(what, sizeof what, "acdc: %s, tau %.3g, %d at a time",
                           abl_ablation_name(ablation), taus[i], most);
            golden_compare_floats(s->title, what, whole, (size_t)edges, fast, (size_t)edges,
                                  4e-5 * scale);
            golden_check(s->title, "acdc: the same edges",
                         memcmp(one, other, (size_t)edges * sizeof *one) == 0);
            abl_free(fast);
        }
        abl_free(whole);
    }
    abl_free(one);
    abl_free(other);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void all_laws(laws_subject *s, const char *variant, abl_graph_options options) {
    const abl_model_config *c = abl_model_get_config(s->model);
    options.layer_count = c->n_layers;
    options.head_count = c->n_heads;
    options.kv_head_count = c->n_kv_heads;
    options.parallel_attn_mlp = c->parallel_attn_mlp;
    options.attn_only = c->attn_only;
    abl_status status;
    golden_must(abl_graph_create(&options, &s->graph, &status), &status);
    (void)snprintf(s->title, sizeof s->title, "%s %s", s->family, variant);
    law_ends(s);
    law_means(s);
    law_repeat(s);
    for (int ablation = ABL_ABLATION_RESAMPLE; ablation <= ABL_ABLATION_ZERO; ablation++) {
        laws_agree(s, (abl_ablation)ablation);
        law_exact(s, (abl_ablation)ablation);
        law_acdc(s, (abl_ablation)ablation);
        if (s->smooth) {
            laws_reader(s, (abl_ablation)ablation);
        }
    }
    laws_ig(s);
    law_acdc(s, ABL_ABLATION_BATCH_TOKENWISE_MEAN); /* one row for all prompts */
    if (s->linear) {
        laws_linear(s);
    }
    abl_graph_destroy(s->graph);
}

int main(void) {
    golden_init("laws_golden");
    for (size_t i = 0; i < ABL_COUNT_OF(FAMILIES); i++) {
        char path[2048];
        (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/%s", FAMILIES[i].path);
        laws_subject s = {.family = strrchr(path, '/') + 1,
                          .smooth = FAMILIES[i].smooth,
                          .linear = FAMILIES[i].linear,
                          .model = golden_open_model(path, abl_model_processing_hf())};
        const abl_model_config *config = abl_model_get_config(s.model);
        s.dataset = edges_made_up(config, LAWS_PROMPTS, LAWS_SEQ);
        const abl_batches batches = {
            .dataset = s.dataset, .count = LAWS_PROMPTS, .batch_size = LAWS_PROMPTS};
        s.batch = abl_batches_at(&batches, 0);
        s.loss.answer_function = config->d_vocab_out > 1 ? ABL_ANSWER_AVG_DIFF : ABL_ANSWER_AVG_VAL;
        all_laws(&s, "qkv", (abl_graph_options){.seq_len = 0});
        all_laws(&s, "joined", (abl_graph_options){.joined_qkv = true});
        all_laws(&s, "qkv by position", (abl_graph_options){.seq_len = LAWS_SEQ});
        all_laws(&s, "simple", (abl_graph_options){.simple = true});
        all_laws(&s, "simple by position",
                 (abl_graph_options){.simple = true, .seq_len = LAWS_SEQ});
        if (s.linear) {
            laws_micro_by_hand(s.model);
        }
        abl_dataset_destroy(s.dataset);
        abl_model_unref(s.model);
    }
    return golden_finish();
}
