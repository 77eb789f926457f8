// SPDX-License-Identifier: Apache-2.0
/* Ground truth: the loss with exactly one edge ablated, minus the clean loss (ALGORITHMS: exact
 * single-edge patch). A batch's clean run, with its residuals, and the differences of all sources
 * are made once; candidates.c takes candidates through the model, many in one pass.
 *
 * Tokens that clean and corrupt prompts share at their start are computed in the clean run only.
 *
 * A step is one chunk of candidates: at most candidate_count_max, by default as many as make about
 * TOKENS_PER_CHUNK tokens, where products are at their best and temporaries still small. */
#include "core/prune/algorithm.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "core/patch/simple.h"
#include "core/prune/acdc.h"
#include "core/prune/candidates.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS_PER_CHUNK 2048

/* ---- open, close ----------------------------------------------------------------------------- */

static int edge_compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static abl_code edges_copy(abl_prune *prune, abl_exact_run *state, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    if (o->edges == NULL) {
        state->edge_count = prune->edge_count;
        return ABL_CODE_OK;
    }
    if (o->edge_count < 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                        "the list of edges is empty; leave it out to score all of them");
    }
    state->edges = abl_calloc((size_t)o->edge_count, sizeof *state->edges);
    if (state->edges == NULL) {
        return abl_fail_oom(ret_status);
    }
    memcpy(state->edges, o->edges, (size_t)o->edge_count * sizeof *state->edges);
    qsort(state->edges, (size_t)o->edge_count, sizeof *state->edges, edge_compare);
    for (int64_t i = 0; i < o->edge_count; i++) {
        int64_t edge = state->edges[i];
        if (edge < 0 || edge >= prune->edge_count) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                            "edge %lld; this graph has edges 0 to %lld", (long long)edge,
                            (long long)prune->edge_count - 1);
        }
        if (state->edge_count == 0 || state->edges[state->edge_count - 1] != edge) {
            state->edges[state->edge_count++] = edge;
        }
    }
    return ABL_CODE_OK;
}

/* Then the residuals are sources, too. */
static bool is_simple(const abl_prune_options *options) {
    return abl_graph_options_of(options->graph)->simple;
}

/* Then a candidate is a whole pass under its mask: candidates.c knows no hook points. */
static bool is_hooked(const abl_prune_options *options) {
    return options->interventions.count > 0;
}

static abl_code ground_truth_open(abl_prune *prune, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (int32_t i = 0; code == ABL_CODE_OK && i < prune->batch_count; i++) {
        abl_batch batch = abl_batches_at(&prune->options.batches, i);
        code = abl_effect_check(prune->options.exact_metric, abl_prune_loss(&prune->options),
                                &batch, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_exact_run *state = abl_calloc(1, sizeof *state);
    prune->scored = abl_calloc((size_t)prune->edge_count, 1);
    prune->state = state;
    if (state == NULL || prune->scored == NULL) {
        return abl_fail_oom(ret_status);
    }
    state->layer = -1;
    code = edges_copy(prune, state, ret_status);
    if (code == ABL_CODE_OK) {
        const bool residuals = is_simple(&prune->options) || is_hooked(&prune->options);
        code = abl_prune_ablate(prune, residuals, ret_status);
    }
    prune->options.edges = NULL; /* was borrowed for create */
    prune->progress.total = state->edge_count * prune->batch_count;
    return code;
}

static void batch_close(abl_exact_run *state) {
    abl_scope_destroy(state->layer_scope);
    abl_scope_destroy(state->batch_scope);
    abl_sources_destroy(state->clean);
    abl_acdc_masked.destroy(state->masked);
    abl_free(state->prefix);
    state->masked = NULL;
    state->prefix = NULL;
    state->layer_scope = NULL;
    state->batch_scope = NULL;
    state->clean = NULL;
    state->layer = -1;
}

static void ground_truth_close(abl_prune *prune) {
    abl_exact_run *state = prune->state;
    if (state == NULL) {
        return;
    }
    batch_close(state);
    abl_folded_destroy(state->folded);
    abl_free(state->edges);
    abl_free(state);
    prune->state = NULL;
}

/* ---- a batch --------------------------------------------------------------------------------- */

/* The clean run's keys and values at the positions that are never recomputed. */
static abl_code prefix_open(abl_candidates *c, abl_status *ret_status) {
    abl_exact_run *state = c->state;
    abl_scope *scope = state->batch_scope;
    int32_t layers = c->config->n_layers;
    state->prefix = abl_calloc((size_t)layers, sizeof *state->prefix);
    if (state->prefix == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int layer = 0; layer < layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        abl_tensor *x = abl_tensor_slice(scope, state->clean->pre[layer], 1, 0, state->from);
        x = abl_block_norm_forward(scope, c->model, layer, ABL_BLOCK_NORM_1, x, NULL, NULL);
        abl_qkv qkv = abl_block_qkv(scope, c->model, layer, x, 1);
        qkv = abl_prefix_qkv(scope, c->model, c->batch.prefix, layer, qkv);
        abl_tensor *const kept[] = {qkv.k, qkv.v};
        abl_scope_rewind(scope, mark, kept, ABL_COUNT_OF(kept));
        state->prefix[layer] = (abl_qkv){.k = qkv.k, .v = qkv.v};
    }
    return ABL_CODE_OK;
}

/* The differences of a simple graph's block: the stream too. */
static void simple_fill(abl_candidates *c, const abl_sources *ablated, int layer) {
    abl_exact_run *state = c->state;
    abl_scope *scope = state->batch_scope;
    abl_differences *d = &state->differences;
    const abl_sources *clean = state->clean;
    const abl_simple_block at = abl_simple_block_at(c->prune->options.graph, layer);
    abl_differences_residual(scope, d, ablated, layer, false, ABL_SLOT_SOURCES + at.stream,
                             clean->pre[layer]);
    abl_differences_heads(scope, d, c->model, ablated, layer, ABL_SLOT_SOURCES + at.heads,
                          clean->z[layer]);
    if (at.mid >= 0) {
        abl_differences_residual(scope, d, ablated, layer, true, ABL_SLOT_SOURCES + at.mid,
                                 clean->mid[layer]);
    }
    if (at.mlp >= 0) {
        abl_differences_mlp(scope, d, ablated, layer, ABL_SLOT_SOURCES + at.mlp,
                            clean->mlp_out[layer]);
    }
}

static void factorized_fill(abl_candidates *c, const abl_sources *ablated, int layer) {
    abl_exact_run *state = c->state;
    abl_scope *scope = state->batch_scope;
    int64_t slot = ABL_SLOT_SOURCES + abl_graph_block_src(c->prune->options.graph, layer);
    abl_differences_heads(scope, &state->differences, c->model, ablated, layer, slot,
                          state->clean->z[layer]);
    if (!c->config->attn_only) {
        abl_differences_mlp(scope, &state->differences, ablated, layer, slot + c->config->n_heads,
                            state->clean->mlp_out[layer]);
    }
}

static void differences_fill(abl_candidates *c, const abl_sources *ablated) {
    abl_exact_run *state = c->state;
    abl_scope *scope = state->batch_scope;
    const bool simple = is_simple(&c->prune->options);
    int64_t slots = ABL_SLOT_SOURCES + abl_graph_src_count(c->prune->options.graph);
    state->differences = (abl_differences){
        .scope = scope,
        .arena = abl_tensor_empty(scope, ABL_DTYPE_F32, 4,
                                  (const int64_t[]){slots, c->batch.size, c->seq, c->width}),
        .batch = c->batch.size,
        .seq = c->seq,
        .width = c->width};
    if (!simple) {
        abl_differences_start(&state->differences, ablated, state->clean->start);
    }
    for (int layer = 0; layer < c->config->n_layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        if (simple) {
            simple_fill(c, ablated, layer);
        } else {
            factorized_fill(c, ablated, layer);
        }
        abl_scope_rewind(scope, mark, NULL, 0);
    }
}

static void effect_open(abl_candidates *c) {
    abl_exact_run *state = c->state;
    state->effect = abl_effect_make(&c->prune->options, &c->batch);
    abl_effect_open(state->batch_scope, &state->effect, state->clean->end);
}

static abl_code batch_open(abl_candidates *c, abl_status *ret_status) {
    abl_exact_run *state = c->state;
    const abl_prune_options *o = &c->prune->options;
    abl_code code = ABL_CODE_OK;
    if (state->folded == NULL && !is_simple(o)) {
        code = abl_folded_create(c->model, o->graph, false, &state->folded, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_sources_run(c->model, c->batch.prefix, c->batch.clean, c->batch.size,
                               c->batch.seq_len, true, &state->clean, ret_status);
    }
    const abl_sources *ablated = NULL;
    if (code == ABL_CODE_OK) {
        code = abl_prune_ablated(c->prune, &c->batch, &ablated, ret_status);
    }
    state->from = 0;
    bool looks_back = c->config->attention != ABL_ATTENTION_BIDIRECTIONAL;
    if (looks_back && o->ablation == ABL_ABLATION_RESAMPLE && !o->ablate_by_clean &&
        o->resident == NULL) {
        int32_t shared =
            abl_dataset_shared_prefix(o->batches.dataset, c->batch.first, c->batch.size);
        state->from = shared < c->seq ? shared : c->seq - 1;
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    state->batch_scope = abl_scope_create(abl_model_device(c->model));
    if (state->batch_scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    c->scope = state->batch_scope;
    differences_fill(c, ablated);
    effect_open(c);
    code = state->from > 0 ? prefix_open(c, ret_status) : ABL_CODE_OK;
    return code == ABL_CODE_OK ? abl_scope_status(state->batch_scope, ret_status) : code;
}

/* ---- a step ---------------------------------------------------------------------------------- */

static int candidate_compare(const void *a, const void *b) {
    const abl_candidate *x = a;
    const abl_candidate *y = b;
    if (x->edge.dest != y->edge.dest) {
        return x->edge.dest < y->edge.dest ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

/* The next candidates, by destination, hence by layer. */
static void chunk_fill(abl_candidates *c) {
    const abl_prune_options *o = &c->prune->options;
    abl_exact_run *state = c->state;
    int64_t tokens = (int64_t)c->batch.size * (c->seq - state->from);
    int64_t most = o->candidate_count_max > 0 ? o->candidate_count_max : TOKENS_PER_CHUNK / tokens;
    most = most < 1 ? 1 : most > ABL_CANDIDATES_MAX ? ABL_CANDIDATES_MAX : most;
    bool by_position = abl_graph_options_of(o->graph)->seq_len != 0;
    while (c->all_count < most && state->at + c->taken < state->edge_count) {
        int64_t at = state->at + c->taken++;
        int64_t index = state->edges == NULL ? at : state->edges[at];
        abl_edge edge = abl_graph_edge_at(o->graph, index);
        if (by_position && edge.seq < state->from) {
            c->prune->scored[index] = 1; /* no difference there: the loss is the clean one */
            continue;
        }
        c->all[c->all_count++] = (abl_candidate){.edge = edge, .index = index};
    }
    qsort(c->all, (size_t)c->all_count, sizeof c->all[0], candidate_compare);
}

static abl_code chunk_run(abl_candidates *c, abl_status *ret_status) {
    double effects[ABL_CANDIDATES_MAX] = {0};
    c->scope = abl_scope_create(abl_model_device(c->model));
    if (c->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_tensor *end = abl_candidates_end(c);
    abl_effect_of(c->scope, &c->state->effect, end, c->all_count, effects);
    abl_code code = abl_scope_status(c->scope, ret_status);
    abl_scope_destroy(c->scope);
    for (int64_t i = 0; code == ABL_CODE_OK && i < c->all_count; i++) {
        c->prune->scores[c->all[i].index] += (float)effects[i];
        c->prune->scored[c->all[i].index] = 1;
    }
    return code;
}

static abl_code masked_open(abl_prune *prune, const abl_batch *batch, abl_status *ret_status) {
    abl_exact_run *state = prune->state;
    const abl_sources *ablated = NULL;
    abl_code code = abl_prune_ablated(prune, batch, &ablated, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_acdc_masked.create(prune, batch, ablated, &state->masked, ret_status);
    }
    return code == ABL_CODE_OK ? abl_acdc_masked.reset(state->masked, ret_status) : code;
}

/* The next edges, as many as one pass takes; *ret_taken of them. */
static abl_code masked_step(abl_prune *prune, int64_t *ret_taken, abl_status *ret_status) {
    abl_exact_run *state = prune->state;
    abl_batch batch = abl_batches_at(&prune->options.batches, prune->progress.batch);
    int64_t edges[ABL_ACDC_TRIALS_MAX];
    double effects[ABL_ACDC_TRIALS_MAX] = {0};
    int32_t count = 0;
    for (; count < ABL_ACDC_TRIALS_MAX && state->at + count < state->edge_count; count++) {
        edges[count] = state->edges == NULL ? state->at + count : state->edges[state->at + count];
    }
    abl_code code = state->masked == NULL ? masked_open(prune, &batch, ret_status) : ABL_CODE_OK;
    if (code == ABL_CODE_OK) {
        code = abl_acdc_masked_each(state->masked, edges, count, effects, &count, ret_status);
    }
    for (int32_t i = 0; code == ABL_CODE_OK && i < count; i++) {
        prune->scores[edges[i]] += (float)effects[i];
        prune->scored[edges[i]] = 1;
    }
    *ret_taken = count;
    return code;
}

static abl_code candidates_step(abl_prune *prune, int64_t *ret_taken, abl_status *ret_status) {
    abl_exact_run *state = prune->state;
    const abl_prune_options *o = &prune->options;
    abl_candidates c = {.prune = prune,
                        .state = state,
                        .model = o->model,
                        .config = abl_model_get_config(o->model),
                        .batch = abl_batches_at(&o->batches, prune->progress.batch)};
    c.seq = c.batch.seq_len;
    c.width = c.config->d_model;
    abl_code code = ABL_CODE_OK;
    if (state->batch_scope == NULL) {
        code = batch_open(&c, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    chunk_fill(&c);
    *ret_taken = c.taken;
    return c.all_count == 0 ? ABL_CODE_OK : chunk_run(&c, ret_status);
}

static abl_code ground_truth_step(abl_prune *prune, abl_status *ret_status) {
    abl_exact_run *state = prune->state;
    int64_t taken = 0;
    abl_code code = is_hooked(&prune->options) ? masked_step(prune, &taken, ret_status)
                                               : candidates_step(prune, &taken, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    state->at += taken;
    prune->progress.done += taken;
    if (state->at == state->edge_count) {
        state->at = 0;
        prune->progress.batch_finished = true;
        batch_close(state);
    }
    return ABL_CODE_OK;
}

static int64_t ground_truth_bytes(const abl_prune_options *options) {
    if (is_hooked(options)) {
        return abl_acdc_masked.bytes_estimate(options) + abl_prune_ablated_bytes(options, true);
    }
    const abl_model_config *c = abl_model_get_config(options->model);
    int64_t seq = abl_dataset_seq_len(options->batches.dataset);
    int64_t batch = abl_batches_rows_max(&options->batches);
    int64_t tokens = batch * seq;
    int64_t candidates = TOKENS_PER_CHUNK / tokens < 1 ? 1 : TOKENS_PER_CHUNK / tokens;
    int64_t arena = (ABL_SLOT_SOURCES + (int64_t)abl_graph_src_count(options->graph)) * c->d_model;
    int64_t run = (int64_t)c->n_layers * ((int64_t)c->n_heads * c->d_head + 3LL * c->d_model);
    int64_t pass =
        8LL * c->d_model + 4LL * c->d_mlp + 4LL * c->n_heads * c->d_head + 3LL * c->n_heads * seq;
    return 4 * (tokens * (arena + run) + candidates * tokens * pass +
                3 * candidates * batch * c->d_vocab_out +
                abl_prefix_pass_floats(options->batches.prefix, c, c->n_heads, candidates * batch,
                                       seq) +
                2 * abl_graph_edge_count(options->graph)) +
           abl_prune_ablated_bytes(options, is_simple(options)) +
           abl_folded_bytes(options->model, options->graph, false);
}

const abl_prune_vtable abl_prune_ground_truth = {.open = ground_truth_open,
                                                 .step = ground_truth_step,
                                                 .close = ground_truth_close,
                                                 .bytes_estimate = ground_truth_bytes};
