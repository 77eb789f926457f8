/* SPDX-License-Identifier: Apache-2.0
 *
 * What a KV cache saves: the same work on whole prompts and on the tails behind the prefix that all
 * prompts of --tokens and --corrupt share, in turns.
 *
 *   prefix_forward  the plain pass, logits at the last position
 *   prefix_masked   a circuit of every other edge, its ablation's pass included
 *   prefix_eap      edge attribution patching
 *
 * All need --corrupt and --answers. The answer is {"op", "prefix", "seq", "whole_s", "min_s" (of
 * the tails), "difference" (largest, of the largest value)}. The prefix's own pass is not timed: it
 * is made once and kept. */
#include "tests/bench/bench.h"

#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/model/prefix.h"
#include "core/patch/circuits.h"
#include "core/prune/prune.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct side {
    abl_model *model;
    abl_graph *graph;
    abl_batches batches; /* one batch */
    int64_t *edges;      /* every other one of the graph's */
    abl_edge_set half;   /* they */
    float *result;       /* what was computed last */
    size_t count;
} side;

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

static void keep(side *s, const float *data, size_t count) {
    if (s->result == NULL) {
        s->result = need(abl_calloc(count, sizeof *s->result));
        s->count = count;
    }
    memcpy(s->result, data, count * sizeof *data);
}

/* ---- the work -------------------------------------------------------------------------------- */

static void forward_once(void *user_data) {
    side *s = user_data;
    abl_batch batch = abl_batches_at(&s->batches, 0);
    const abl_forward_options options = {.model = s->model,
                                         .prefix = batch.prefix,
                                         .tokens = batch.clean,
                                         .batch = batch.size,
                                         .seq = batch.seq_len,
                                         .out_slice = ABL_OUT_SLICE_LAST,
                                         .stop_at_layer = -1};
    abl_forward_result result;
    abl_status status;
    check(abl_forward(&options, &result, &status), &status);
    keep(s, abl_tensor_host_data(result.logits), (size_t)abl_tensor_count(result.logits));
    abl_forward_result_finish(&result);
}

static void masked_once(void *user_data) {
    side *s = user_data;
    const abl_circuits_options options = {.model = s->model,
                                          .graph = s->graph,
                                          .batches = s->batches,
                                          .sets = &s->half,
                                          .circuit_count = 1};
    abl_circuits *circuits = NULL;
    abl_circuits_result result;
    bool finished = false;
    abl_status status;
    check(abl_circuits_create(&options, &circuits, &status), &status);
    check(abl_circuits_step(circuits, &result, &finished, &status), &status);
    keep(s, result.logits, (size_t)result.logit_count);
    abl_circuits_destroy(circuits);
}

static void eap_once(void *user_data) {
    side *s = user_data;
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_EAP, .model = s->model, .graph = s->graph, .batches = s->batches};
    abl_prune *prune = NULL;
    abl_prune_progress progress = {0};
    abl_status status;
    check(abl_prune_create(&options, &prune, &status), &status);
    while (!progress.finished) {
        check(abl_prune_step(prune, &progress, &status), &status);
    }
    keep(s, abl_prune_scores(prune), (size_t)abl_graph_edge_count(s->graph));
    abl_prune_destroy(prune);
}

/* ---- the sides ------------------------------------------------------------------------------- */

static abl_dataset *make_dataset(const bench_args *args) {
    size_t batch = (size_t)args->batch;
    int32_t *answers = need(abl_calloc(2 * batch, sizeof *answers));
    int32_t *offsets = need(abl_calloc(batch + 1, sizeof *offsets));
    for (size_t i = 0; i < batch; i++) {
        answers[i] = args->answers[2 * i];
        answers[batch + i] = args->answers[2 * i + 1];
        offsets[i + 1] = (int32_t)(i + 1);
    }
    const abl_dataset_tokens tokens = {.clean = args->tokens,
                                       .corrupt = args->corrupt,
                                       .prompt_count = (int32_t)args->batch,
                                       .seq_len = (int32_t)args->seq,
                                       .answers = answers,
                                       .answer_offsets = offsets,
                                       .wrong_answers = answers + batch,
                                       .wrong_answer_offsets = offsets};
    abl_dataset *dataset = NULL;
    abl_status status;
    check(abl_dataset_create_tokens(&tokens, &dataset, &status), &status);
    abl_free(answers);
    abl_free(offsets);
    return dataset;
}

static void make_graph(side *s) {
    const abl_model_config *c = abl_model_get_config(s->model);
    const abl_graph_options options = {.layer_count = c->n_layers,
                                       .head_count = c->n_heads,
                                       .kv_head_count = c->n_kv_heads,
                                       .parallel_attn_mlp = c->parallel_attn_mlp};
    abl_status status;
    check(abl_graph_create(&options, &s->graph, &status), &status);
    s->half.count = abl_graph_edge_count(s->graph) / 2;
    s->edges = need(abl_calloc((size_t)s->half.count, sizeof *s->edges));
    for (int64_t i = 0; i < s->half.count; i++) {
        s->edges[i] = 2 * i;
    }
    s->half.edges = s->edges;
}

static double difference(const side *whole, const side *tail) {
    double largest = 0;
    double gap = 0;
    for (size_t i = 0; i < whole->count; i++) {
        largest = fmax(largest, fabs((double)whole->result[i]));
        gap = fmax(gap, fabs((double)whole->result[i] - (double)tail->result[i]));
    }
    return gap / largest;
}

void bench_prefix(const bench_args *args, const char *op) {
    if (args->corrupt == NULL || args->answers == NULL) {
        bench_die("this bench needs --corrupt and --answers");
    }
    void (*once)(void *user_data) = strcmp(op, "prefix_forward") == 0  ? forward_once
                                    : strcmp(op, "prefix_masked") == 0 ? masked_once
                                                                       : eap_once;
    abl_dataset *dataset = make_dataset(args);
    abl_dataset *tails = NULL;
    abl_prefix *prefix = NULL;
    abl_status status;
    int32_t batch = (int32_t)args->batch;
    side whole = {.model = bench_load_model(args),
                  .batches = {.dataset = dataset, .count = batch, .batch_size = batch}};
    make_graph(&whole);
    side tail = whole;
    int32_t length = abl_dataset_common_prefix(dataset, NULL);
    check(abl_dataset_create_tail(dataset, length, &tails, &status), &status);
    check(abl_prefix_create(whole.model, args->tokens, length, &prefix, &status), &status);
    tail.batches.dataset = tails;
    tail.batches.prefix = prefix;
    double whole_s = INFINITY;
    double tail_s = INFINITY;
    for (int i = 0; i < args->reps; i++) {
        whole_s = fmin(whole_s, bench_time(once, &whole, 1).min_s);
        tail_s = fmin(tail_s, bench_time(once, &tail, 2).min_s);
    }
    printf("{\"tool\": \"ablate\", \"op\": \"%s\", \"batch\": %d, \"seq\": %lld, \"prefix\": %d, "
           "\"whole_s\": %.6f, \"min_s\": %.6f, \"difference\": %.3g, \"threads\": %d}\n",
           op, batch, (long long)args->seq, length, whole_s, tail_s, difference(&whole, &tail),
           args->threads);
    abl_prefix_destroy(prefix);
    abl_dataset_destroy(tails);
    abl_dataset_destroy(dataset);
    abl_free(whole.result);
    abl_free(tail.result);
    abl_free(whole.edges);
    abl_graph_destroy(whole.graph);
    abl_model_unref(whole.model);
}
