/* SPDX-License-Identifier: Apache-2.0
 *
 * Compiled Tracr models, whose circuits are known: ROC AUC of every algorithm's edge scores against
 * the true edges, with the ablation that the truth is about. Truths are AutoCircuit's (resample)
 * and ACDC's (zero), as in auto_circuit's tracr circuits; with another's truth a method must look
 * bad, so that the test can fail. */
#include "core/base/mem.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PROMPTS_MAX = 81, SEQ_MAX = 6, EDGES_MAX = 128 };

typedef struct task {
    const char *name;
    int64_t edge_count;
    int32_t prompt_count;
    int32_t seq;
    abl_answer_function answer_function;
    abl_faithfulness faithfulness; /* of trained masks: what keeps the output as it is */
    int32_t clean[PROMPTS_MAX * SEQ_MAX];
    int32_t corrupt[PROMPTS_MAX * SEQ_MAX];
    int32_t answers[PROMPTS_MAX];
    int32_t wrong[PROMPTS_MAX];
    const char *truth[2][12]; /* by ablation: resample, zero */
} task;

/* Ids are the encoders' (config.json): reverse 1 2 3 BOS are 0 1 2 3, xproportion BOS w x y z are
 * 0 2 3 4 5. The last position gives reverse's first token, and the share of x in all. Reverse's
 * prompts, by reverse_fill(), are one token shorter than the longest: those would not do, for MLP 0
 * takes an ablated length for the longest. */
static task TASKS[] = {
    {
        .name = "families/tracr-reverse",
        .edge_count = 77,
        .prompt_count = 81,
        .seq = 5,
        .answer_function = ABL_ANSWER_AVG_DIFF,
        .faithfulness = ABL_FAITHFULNESS_KL_DIV,
        .truth = {{"Resid Start->A3.0.V", "A3.0->Resid End"},
                  {"A3.0->Resid End", "MLP 2->A3.0.Q", "Resid Start->A3.0.K", "Resid Start->A3.0.V",
                   "MLP 1->MLP 2", "MLP 0->MLP 1", "Resid Start->MLP 1", "A0.0->MLP 0",
                   "Resid Start->MLP 0", "Resid Start->A0.0.V"}},
    },
    {
        .name = "families/tracr-xproportion",
        .edge_count = 23,
        .prompt_count = 6,
        .seq = 6,
        .answer_function = ABL_ANSWER_AVG_VAL,
        .faithfulness = ABL_FAITHFULNESS_ANSWER,
        .clean = {0, 2, 3, 3, 4, 5, 0, 3, 3, 3, 2, 3, 0, 3, 5, 3, 3, 4,
                  0, 3, 3, 2, 4, 3, 0, 5, 3, 3, 3, 2, 0, 3, 4, 3, 3, 3},
        .corrupt = {0, 2, 4, 3, 4, 5, 0, 2, 5, 3, 2, 4, 0, 4, 5, 2, 3, 4,
                    0, 2, 3, 2, 4, 5, 0, 5, 4, 2, 3, 2, 0, 2, 4, 3, 5, 2},
        .truth = {{"Resid Start->MLP 0", "MLP 0->A1.0.V", "A1.0->Resid End"},
                  {"A1.0->Resid End", "Resid Start->A1.0.Q", "Resid Start->A1.0.K", "MLP 0->A1.0.V",
                   "Resid Start->MLP 0"}},
    },
};

/* All words of four tokens, BOS before them; in the corrupt prompt each token is the next one. */
static void reverse_fill(task *t) {
    for (int32_t row = 0; row < t->prompt_count; row++) {
        int32_t *clean = t->clean + (size_t)row * (size_t)t->seq;
        int32_t *corrupt = t->corrupt + (size_t)row * (size_t)t->seq;
        clean[0] = corrupt[0] = 3;
        for (int32_t i = 1, rest = row; i < t->seq; i++, rest /= 3) {
            clean[i] = rest % 3;
            corrupt[i] = (clean[i] + 1) % 3;
        }
        t->answers[row] = clean[1];
        t->wrong[row] = corrupt[1];
    }
}

typedef struct subject {
    const task *task;
    abl_model *model;
    abl_graph *graph;
    abl_dataset *dataset;
} subject;

static bool is_true(const subject *s, int ablation, int64_t index) {
    char name[ABL_NAME_BYTES_MAX + 1];
    (void)abl_graph_format_edge(s->graph, abl_graph_edge_at(s->graph, index),
                                ABL_DIALECT_AUTOCIRCUIT, name, sizeof name);
    for (size_t i = 0; i < ABL_COUNT_OF(s->task->truth[0]); i++) {
        const char *edge = s->task->truth[ablation][i];
        if (edge != NULL && strcmp(edge, name) == 0) {
            return true;
        }
    }
    return false;
}

/* The chance that a true edge's |score| is above another's; a tie counts half. */
static float auc_of(const subject *s, int ablation, const float *scores) {
    double wins = 0;
    double pairs = 0;
    for (int64_t i = 0; i < s->task->edge_count; i++) {
        for (int64_t j = 0; j < s->task->edge_count; j++) {
            if (is_true(s, ablation, i) && !is_true(s, ablation, j)) {
                double a = fabs((double)scores[i]);
                double b = fabs((double)scores[j]);
                wins += a > b ? 1 : a == b ? 0.5 : 0;
                pairs += 1;
            }
        }
    }
    return (float)(wins / pairs);
}

static void scores_of(const subject *s, abl_prune_options options, float *ret_scores) {
    options.model = s->model;
    options.graph = s->graph;
    options.batches = (abl_batches){
        .dataset = s->dataset, .count = s->task->prompt_count, .batch_size = s->task->prompt_count};
    abl_prune *prune = edges_run(&options);
    memcpy(ret_scores, abl_prune_scores(prune), (size_t)s->task->edge_count * sizeof *ret_scores);
    abl_prune_destroy(prune);
}

/* Exact methods must recover the truth perfectly; of the others `at_least` may ask less. */
static void recover(const subject *s, const char *what, const abl_prune_options *options,
                    float at_least) {
    float scores[EDGES_MAX];
    char title[64];
    scores_of(s, *options, scores);
    float auc = auc_of(s, (int)options->ablation, scores);
    float missing = auc >= at_least ? 0 : at_least - auc;
    static const float NOTHING = 0;
    (void)snprintf(title, sizeof title, "%s, %s: AUC %.4f", what,
                   abl_ablation_name(options->ablation), (double)auc);
    golden_compare_floats(s->task->name, title, &NOTHING, 1, &missing, 1, 0);
}

/* Scores of one ablation against the other's truth: a test that cannot look bad proves nothing. */
static void mismatch(const subject *s) {
    float scores[EDGES_MAX];
    scores_of(s,
              (abl_prune_options){.algorithm = ABL_PRUNE_GROUND_TRUTH,
                                  .answer_function = s->task->answer_function},
              scores);
    golden_check(s->task->name, "resample's scores miss the zero ablation's truth",
                 auc_of(s, ABL_ABLATION_ZERO, scores) < 0.85F);
}

static void recover_all(const subject *s) {
    const double taus[] = {1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1};
    for (int ablation = ABL_ABLATION_RESAMPLE; ablation <= ABL_ABLATION_ZERO; ablation++) {
        abl_prune_options options = {.ablation = (abl_ablation)ablation,
                                     .grad_function = ABL_GRAD_LOGIT,
                                     .answer_function = s->task->answer_function};
        /* Zeros push reverse's steps of ReLUs into saturation, where a first order is 0 and
         * rounding ranks two of the edges. AutoCircuit's are no better: docs/autocircuit.md. */
        bool saturated = ablation == ABL_ABLATION_ZERO && s->task->edge_count == 77;
        const float first_order = saturated ? 0.83F : 1;
        options.algorithm = ABL_PRUNE_GROUND_TRUTH;
        recover(s, "exact", &options, 1);
        options.exact_metric = ABL_EXACT_MSE;
        recover(s, "exact by mse", &options, 1);
        options.algorithm = ABL_PRUNE_ACDC;
        options.acdc.taus = taus;
        options.acdc.tau_count = (int32_t)ABL_COUNT_OF(taus);
        recover(s, "acdc by mse", &options, 1);
        options.algorithm = ABL_PRUNE_EAP;
        recover(s, "eap", &options, first_order);
        options.algorithm = ABL_PRUNE_MASK_GRADIENT;
        options.integrated_grad_samples = 10;
        recover(s, "mask gradient ig 10", &options, first_order);
        options.algorithm = ABL_PRUNE_EAP_IG;
        options.eap_ig.steps = 10;
        options.eap_ig.method =
            ablation == ABL_ABLATION_RESAMPLE ? ABL_EAP_IG_INPUTS : ABL_EAP_IG_ACTIVATIONS;
        recover(s, "eap-ig 10", &options, first_order);
        options.algorithm = ABL_PRUNE_SUBNETWORK_PROBING;
        options.subnetwork_probing =
            (abl_mask_training_options){.learning_rate = 0.1F,
                                        .epochs = 500,
                                        .regularize_lambda = 1e-3F,
                                        .mask_function = ABL_MASK_HARD_CONCRETE,
                                        .init_value = -ABL_MASK_INIT_DEFAULT,
                                        .tree_optimisation = true,
                                        .faithfulness_target = s->task->faithfulness,
                                        .seed = 1};
        recover(s, "subnetwork probing", &options, 1);
    }
}

int main(void) {
    golden_init("tracr_golden");
    reverse_fill(&TASKS[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(TASKS); i++) {
        const task *t = &TASKS[i];
        char path[2048];
        (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/%s", t->name);
        subject s = {.task = t, .model = golden_open_model(path, abl_model_processing_hf())};
        const abl_model_config *c = abl_model_get_config(s.model);
        const abl_graph_options options = {
            .layer_count = c->n_layers, .head_count = c->n_heads, .kv_head_count = c->n_kv_heads};
        int32_t offsets[PROMPTS_MAX + 1];
        for (int32_t k = 0; k <= t->prompt_count; k++) {
            offsets[k] = k;
        }
        bool pairs = t->answer_function == ABL_ANSWER_AVG_DIFF;
        const abl_dataset_tokens tokens = {.clean = t->clean,
                                           .corrupt = t->corrupt,
                                           .prompt_count = t->prompt_count,
                                           .seq_len = t->seq,
                                           .answers = t->answers,
                                           .answer_offsets = offsets,
                                           .wrong_answers = pairs ? t->wrong : NULL,
                                           .wrong_answer_offsets = pairs ? offsets : NULL};
        abl_status status;
        golden_must(abl_graph_create(&options, &s.graph, &status), &status);
        golden_must(abl_dataset_create_tokens(&tokens, &s.dataset, &status), &status);
        golden_check(t->name, "edges, as PatchableModel counts them",
                     abl_graph_edge_count(s.graph) == t->edge_count);
        recover_all(&s);
        mismatch(&s);
        abl_dataset_destroy(s.dataset);
        abl_graph_destroy(s.graph);
        abl_model_unref(s.model);
    }
    return golden_finish();
}
