/* SPDX-License-Identifier: Apache-2.0
 *
 * The benches of core_bench that need a graph:
 *
 *   masked  the forward pass under --mask FILE (float32, canonical order), ablations from
 *           --corrupt; the corrupt run is made once, outside the time, as the peer does
 *   sweep   run_circuits: the circuits by the scores in --mask FILE whose sizes are in --edges FILE
 *           (a line each), TREE_PATCH, resample; --out has their logits, in the order of the sizes
 *   eap     edge attribution patching of the one batch, both forward passes included
 *   ig      mask gradients at 0, 0.1, ..., 1, summed: eleven passes
 *   exact   exact effects of the edges in --edges FILE (an index a line); --out has them in that
 *           order; the cached clean and corrupt runs are part of the time
 *   eap_ig  EAP-IG's inputs method, five steps
 *   acdc    ACDC at --tau (0.01), KL, over the edges in --edges FILE, in that order; --out has a 1
 *           for each that was removed
 *   probing subnetwork probing, four steps of one batch, hard concrete masks; probing_first: one;
 *           probing_sigmoid: two steps, whose scores --out has
 *
 * All need --corrupt; those from eap on need --answers, "right wrong" a line. */
#include "tests/bench/bench.h"

#include "core/base/mem.h"
#include "core/data/dataset.h"
#include "core/graph/graph.h"
#include "core/patch/circuits.h"
#include "core/patch/patch.h"
#include "core/prune/prune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct setting {
    const bench_args *args;
    abl_model *model;
    abl_graph *graph;
    abl_dataset *dataset;
    int64_t edge_count; /* of the graph */
    int64_t *edges;     /* exact: those asked for */
    int64_t asked;
    float *scores; /* (edge_count), of the last repetition */
    float *mask;   /* masked: (edge_count) */
    float *logits;
    abl_sources *ablated;
} setting;

static void check(abl_code code, const abl_status *status) {
    if (code != ABL_CODE_OK) {
        bench_die("%s: %s", status->reason, status->message);
    }
}

static void *need(void *block) {
    if (block == NULL) {
        bench_die("no memory");
    }
    return block;
}

static void make_dataset(setting *s) {
    const bench_args *args = s->args;
    size_t batch = (size_t)args->batch;
    int32_t *answers = need(abl_calloc(2 * batch + 1, sizeof *answers));
    int32_t *offsets = need(abl_calloc(batch + 1, sizeof *offsets));
    for (size_t i = 0; i < batch; i++) {
        answers[i] = args->answers == NULL ? 0 : args->answers[2 * i];
        answers[batch + i] = args->answers == NULL ? 0 : args->answers[2 * i + 1];
        offsets[i + 1] = (int32_t)(i + 1);
    }
    abl_dataset_tokens tokens = {
        .clean = args->tokens,
        .corrupt = args->corrupt,
        .prompt_count = (int32_t)args->batch,
        .seq_len = (int32_t)args->seq,
        .answers = answers,
        .answer_offsets = offsets,
        .wrong_answers = answers + batch,
        .wrong_answer_offsets = offsets,
    };
    abl_status status;
    check(abl_dataset_create_tokens(&tokens, &s->dataset, &status), &status);
    abl_free(answers);
    abl_free(offsets);
}

static setting make_setting(const bench_args *args) {
    if (args->corrupt == NULL) {
        bench_die("this bench needs --corrupt");
    }
    setting s = {.args = args, .model = bench_load_model(args)};
    const abl_model_config *config = abl_model_get_config(s.model);
    abl_graph_options options = {
        .layer_count = config->n_layers,
        .head_count = config->n_heads,
        .kv_head_count = config->n_kv_heads,
        .parallel_attn_mlp = config->parallel_attn_mlp,
    };
    abl_status status;
    check(abl_graph_create(&options, &s.graph, &status), &status);
    s.edge_count = abl_graph_edge_count(s.graph);
    s.scores = need(abl_calloc((size_t)s.edge_count, sizeof *s.scores));
    make_dataset(&s);
    return s;
}

static void finish_setting(setting *s) {
    abl_sources_destroy(s->ablated);
    abl_dataset_destroy(s->dataset);
    abl_graph_destroy(s->graph);
    abl_model_unref(s->model);
    abl_free(s->edges);
    abl_free(s->scores);
    abl_free(s->mask);
    abl_free(s->logits);
}

static void write_floats(const char *path, const float *data, size_t count) {
    if (path == NULL) {
        return;
    }
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, sizeof *data, count, file) != count || fclose(file) != 0) {
        bench_die("cannot write '%s'", path);
    }
}

/* --- eap and exact ---------------------------------------------------------------------------- */

static void prune_once(setting *s, const abl_prune_options *options) {
    abl_prune *prune = NULL;
    abl_prune_progress progress = {0};
    abl_status status;
    check(abl_prune_create(options, &prune, &status), &status);
    while (!progress.finished) {
        check(abl_prune_step(prune, &progress, &status), &status);
    }
    memcpy(s->scores, abl_prune_scores(prune), (size_t)s->edge_count * sizeof *s->scores);
    abl_prune_destroy(prune);
}

static abl_prune_options prune_options(const setting *s, abl_prune_algorithm algorithm) {
    return (abl_prune_options){
        .algorithm = algorithm,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset,
                    .count = (int32_t)s->args->batch,
                    .batch_size = (int32_t)s->args->batch},
        .edges = s->edges,
        .edge_count = s->asked,
    };
}

static void eap_once(void *user_data) {
    setting *s = user_data;
    abl_prune_options options = prune_options(s, ABL_PRUNE_EAP);
    prune_once(s, &options);
}

static void ig_once(void *user_data) {
    setting *s = user_data;
    abl_prune_options options = prune_options(s, ABL_PRUNE_MASK_GRADIENT);
    options.integrated_grad_samples = 10;
    prune_once(s, &options);
}

static void exact_once(void *user_data) {
    setting *s = user_data;
    abl_prune_options options = prune_options(s, ABL_PRUNE_GROUND_TRUTH);
    prune_once(s, &options);
}

static void eap_ig_once(void *user_data) {
    setting *s = user_data;
    abl_prune_options options = prune_options(s, ABL_PRUNE_EAP_IG);
    options.eap_ig.method = ABL_EAP_IG_INPUTS;
    options.eap_ig.steps = 5;
    prune_once(s, &options);
}

/* AutoCircuit's defaults. */
static void probe(setting *s, int32_t epochs, abl_mask_function mask_function) {
    abl_prune_options options = prune_options(s, ABL_PRUNE_SUBNETWORK_PROBING);
    options.ablation = ABL_ABLATION_TOKENWISE_MEAN_CORRUPT;
    options.subnetwork_probing = (abl_mask_training_options){
        .learning_rate = 0.1F,
        .epochs = epochs,
        .regularize_lambda = 10,
        .mask_function = mask_function,
        .init_value = ABL_MASK_INIT_DEFAULT,
        .faithfulness_target = ABL_FAITHFULNESS_KL_DIV,
    };
    prune_once(s, &options);
}

static void probing_once(void *user_data) {
    probe(user_data, 4, ABL_MASK_HARD_CONCRETE);
}

static void probing_first_once(void *user_data) {
    probe(user_data, 1, ABL_MASK_HARD_CONCRETE);
}
static void probing_sigmoid_once(void *user_data) {
    probe(user_data, 2, ABL_MASK_SIGMOID);
}

void bench_attribution(const bench_args *args, const char *op) {
    static const struct {
        const char *op;
        void (*once)(void *user_data);
    } algorithms[] = {
        {"eap", eap_once},
        {"ig", ig_once},
        {"eap_ig", eap_ig_once},
        {"probing", probing_once},
        {"probing_first", probing_first_once},
        {"probing_sigmoid", probing_sigmoid_once},
    };
    void (*once)(void *user_data) = NULL;
    for (size_t i = 0; i < ABL_COUNT_OF(algorithms); i++) {
        once = strcmp(algorithms[i].op, op) == 0 ? algorithms[i].once : once;
    }
    setting s = make_setting(args);
    bench_timing timing = bench_time(once, &s, args->reps);
    bench_emit(abl_model_get_config(s.model), args, op, s.edge_count, &timing);
    write_floats(args->out_path, s.scores, (size_t)s.edge_count);
    finish_setting(&s);
}

static void read_edges(setting *s) {
    FILE *file = s->args->edges_path == NULL ? NULL : fopen(s->args->edges_path, "r");
    if (file == NULL) {
        bench_die("this bench needs --edges FILE");
    }
    s->edges = need(abl_calloc((size_t)s->edge_count, sizeof *s->edges));
    long long edge = 0;
    while (s->asked < s->edge_count && fscanf(file, "%lld", &edge) == 1) {
        s->edges[s->asked++] = edge;
    }
    (void)fclose(file);
}

static void acdc_once(void *user_data) {
    setting *s = user_data;
    abl_prune_options options = prune_options(s, ABL_PRUNE_ACDC);
    options.exact_metric = ABL_EXACT_KL_DIV;
    options.acdc.taus = &s->args->tau;
    options.acdc.tau_count = 1;
    prune_once(s, &options);
}

void bench_exact(const bench_args *args, const char *op) {
    bool acdc = strcmp(op, "acdc") == 0;
    setting s = make_setting(args);
    read_edges(&s);
    bench_timing timing = bench_time(acdc ? acdc_once : exact_once, &s, args->reps);
    bench_emit(abl_model_get_config(s.model), args, op, s.asked, &timing);
    float *effects = need(abl_calloc((size_t)s.asked + 1, sizeof *effects));
    for (int64_t i = 0; i < s.asked; i++) {
        float score = s.scores[s.edges[i]];
        effects[i] = acdc ? (float)isfinite(score) : score;
    }
    write_floats(args->out_path, effects, (size_t)s.asked);
    abl_free(effects);
    finish_setting(&s);
}

/* --- masked ----------------------------------------------------------------------------------- */

static abl_patch_options patch_options(const setting *s) {
    return (abl_patch_options){
        .model = s->model,
        .graph = s->graph,
        .tokens = s->args->tokens,
        .batch = (int32_t)s->args->batch,
        .seq = (int32_t)s->args->seq,
        .mask = s->mask,
        .ablated = s->ablated,
    };
}

static void masked_once(void *user_data) {
    setting *s = user_data;
    abl_patch_options options = patch_options(s);
    abl_status status;
    check(abl_patch_forward(&options, s->logits, &status), &status);
}

static void read_mask(setting *s) {
    FILE *file = s->args->mask_path == NULL ? NULL : fopen(s->args->mask_path, "rb");
    s->mask = need(abl_calloc((size_t)s->edge_count, sizeof *s->mask));
    if (file == NULL ||
        fread(s->mask, sizeof *s->mask, (size_t)s->edge_count, file) != (size_t)s->edge_count) {
        bench_die("this bench needs --mask FILE, %lld float32", (long long)s->edge_count);
    }
    (void)fclose(file);
}

void bench_masked(const bench_args *args, const char *op) {
    setting s = make_setting(args);
    read_mask(&s);
    abl_status status;
    check(abl_sources_create(s.model, NULL, args->corrupt, (int32_t)args->batch, (int32_t)args->seq,
                             &s.ablated, &status),
          &status);
    abl_patch_options options = patch_options(&s);
    size_t count = (size_t)abl_patch_logit_count(&options);
    s.logits = need(abl_calloc(count, sizeof *s.logits));
    bench_timing timing = bench_time(masked_once, &s, args->reps);
    bench_emit(abl_model_get_config(s.model), args, op, s.edge_count, &timing);
    write_floats(args->out_path, s.logits, count);
    finish_setting(&s);
}

/* --- sweep ------------------------------------------------------------------------------------ */

static void sweep_once(void *user_data) {
    setting *s = user_data;
    const abl_circuits_options options = {
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset,
                    .count = (int32_t)s->args->batch,
                    .batch_size = (int32_t)s->args->batch},
        .patch_type = ABL_PATCH_TREE,
        .scores = s->mask,
        .sizes = s->edges,
        .circuit_count = (int32_t)s->asked,
    };
    abl_circuits *circuits = NULL;
    abl_circuits_result result = {0};
    abl_status status;
    check(abl_circuits_create(&options, &circuits, &status), &status);
    for (bool finished = false; !finished;) {
        check(abl_circuits_step(circuits, &result, &finished, &status), &status);
        if (result.circuit >= 0) {
            memcpy(s->logits + (int64_t)result.circuit * result.logit_count, result.logits,
                   (size_t)result.logit_count * sizeof *s->logits);
        }
    }
    abl_circuits_destroy(circuits);
}

void bench_sweep(const bench_args *args, const char *op) {
    setting s = make_setting(args);
    read_edges(&s);
    read_mask(&s);
    size_t count = (size_t)(s.asked * args->batch * abl_model_get_config(s.model)->d_vocab);
    s.logits = need(abl_calloc(count, sizeof *s.logits));
    bench_timing timing = bench_time(sweep_once, &s, args->reps);
    bench_emit(abl_model_get_config(s.model), args, op, s.edge_count, &timing);
    write_floats(args->out_path, s.logits, count);
    finish_setting(&s);
}
