// SPDX-License-Identifier: Apache-2.0
/* The fast evaluator of ACDC: what it keeps between trials, how many it tries at a time, and how a
 * trial's state is adopted; acdc_pass.c has the trials themselves, acdc_plan.c what they touch.
 *
 * Kept, under what is removed for good: each destination's input, q, k, v, z and each MLP's output,
 * for the blocks from the one in hand up. Edges are decided down the layers, so what lies below is
 * the clean run's, and a block's state is made, from the clean run, when its first edge comes.
 * Destinations of a block with equal masks share one input.
 *
 * Trials at a time: where few rows pass through large products, more trials make them better, and
 * where products are large already a wrong guess is all that more trials give. So their number is
 * bounded, beside by how far the last walks went (acdc.c), by about a hundred rows for each weight
 * that the planned trials read, and as much work again as starting a pass's operations takes. */
#include "core/prune/acdc_delta.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"

#include <string.h>

#define FLOPS_PER_WEIGHT_CPU 200
#define FLOPS_PER_PASS_CPU 5e7
#define FLOPS_PER_PASS_CUDA 4e11
#define BYTES_PER_PASS (512LL << 20)

/* ---- create ---------------------------------------------------------------------------------- */

static void delta_destroy(abl_acdc_evaluator *evaluator) {
    abl_acdc_delta_run *run = (abl_acdc_delta_run *)evaluator;
    if (run == NULL) {
        return;
    }
    for (int32_t b = 0; run->kept != NULL && b < run->config->n_layers; b++) {
        abl_free(run->kept[b].inputs);
    }
    abl_scope_destroy(run->trial_scope);
    abl_scope_destroy(run->kept_scope);
    abl_scope_destroy(run->scope);
    abl_sources_destroy(run->clean);
    abl_folded_destroy(run->folded);
    abl_acdc_plan_destroy(run->plan);
    abl_free(run->kept);
    abl_free(run->records);
    abl_free(run->silent);
    abl_free(run);
}

static abl_code arrays_alloc(abl_acdc_delta_run *run, abl_status *ret_status) {
    const abl_graph *graph = run->prune->options.graph;
    bool causal = abl_model_sees(run->model) != ABL_TENSOR_SEES_ALL;
    run->plan = abl_acdc_plan_create(graph, causal);
    if (run->plan == NULL) {
        return abl_fail_oom(ret_status);
    }
    size_t blocks = (size_t)run->config->n_layers;
    size_t rows = (size_t)run->plan->row_count;
    run->kept = abl_calloc(blocks, sizeof *run->kept);
    run->silent = abl_calloc((size_t)abl_graph_src_count(graph), (size_t)run->plan->positions);
    /* of a block: inputs and projections of its rows, z, an MLP's two; and of the end */
    run->records = abl_calloc(blocks * (4 * rows + 4) + 1, sizeof *run->records);
    bool ok = run->kept != NULL && run->silent != NULL && run->records != NULL;
    for (size_t b = 0; ok && b < blocks; b++) {
        run->kept[b].inputs = abl_calloc(rows + 1, sizeof *run->kept[b].inputs);
        ok = run->kept[b].inputs != NULL;
    }
    return ok ? ABL_CODE_OK : abl_fail_oom(ret_status);
}

/* D[s] = ablated - clean of all sources. */
static void differences_fill(abl_acdc_delta_run *run, const abl_sources *ablated) {
    const abl_acdc_plan *plan = run->plan;
    abl_scope *scope = run->scope;
    int64_t slots = ABL_SLOT_SOURCES + abl_graph_src_count(plan->graph);
    run->differences = (abl_differences){
        .scope = scope,
        .arena = abl_tensor_empty(scope, ABL_DTYPE_F32, 4,
                                  (const int64_t[]){slots, run->size, run->seq, run->width}),
        .batch = run->size,
        .seq = run->seq,
        .width = run->width};
    abl_differences_start(&run->differences, ablated, run->clean->start);
    for (int32_t b = 0; b < plan->block_count && !abl_scope_failed(scope); b++) {
        size_t mark = abl_scope_mark(scope);
        abl_differences_heads(scope, &run->differences, run->model, ablated, b,
                              ABL_SLOT_SOURCES + plan->blocks[b].head_src, run->clean->z[b]);
        if (plan->blocks[b].mlp_src >= 0) {
            abl_differences_mlp(scope, &run->differences, ablated, b,
                                ABL_SLOT_SOURCES + plan->blocks[b].mlp_src, run->clean->mlp_out[b]);
        }
        abl_scope_rewind(scope, mark, NULL, 0);
    }
}

/* Sources without a difference, at a position or at all; and the first position that has one. */
static abl_code silence_find(abl_acdc_delta_run *run, abl_status *ret_status) {
    abl_scope *scope = run->scope;
    const int64_t positions = run->plan->positions;
    const int32_t sources = abl_graph_src_count(run->plan->graph);
    const size_t count = (size_t)(run->size * run->seq);
    ABL_CLEANUP(abl_freep) float *sizes = abl_calloc((size_t)sources * count, sizeof *sizes);
    if (sizes == NULL) {
        return abl_fail_oom(ret_status);
    }
    const size_t before = abl_scope_mark(scope);
    abl_tensor *all =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 3, (const int64_t[]){sources, run->size, run->seq});
    for (int32_t s = 0; s < sources; s++) {
        size_t mark = abl_scope_mark(scope);
        abl_tensor *d = abl_tensor_select(scope, run->differences.arena, 0, ABL_SLOT_SOURCES + s);
        abl_tensor_copy_into(scope, abl_tensor_select(scope, all, 0, s),
                             abl_tensor_max(scope, abl_tensor_abs(scope, d), 2));
        abl_scope_rewind(scope, mark, NULL, 0);
    }
    abl_tensor_to_floats(scope, all, sizes, (size_t)sources * count); /* one wait, not one each */
    abl_scope_rewind(scope, before, NULL, 0);
    memset(run->silent, 1, (size_t)abl_graph_src_count(run->plan->graph) * (size_t)positions);
    run->from = run->seq - 1;
    for (int32_t s = 0; s < sources; s++) {
        for (size_t i = 0; i < count; i++) {
            int64_t t = (int64_t)i % run->seq;
            if (sizes[(size_t)s * count + i] != 0.0F) {
                run->silent[s * positions + (positions > 1 ? t : 0)] = 0;
                run->from = t < run->from ? t : run->from;
            }
        }
    }
    if (!run->plan->causal) {
        run->from = 0; /* what changes later is seen there, too */
    }
    run->tail = run->seq - run->from;
    return ABL_CODE_OK;
}

static abl_code delta_open(abl_acdc_delta_run *run, const abl_sources *ablated,
                           abl_status *ret_status) {
    const abl_graph *graph = run->prune->options.graph;
    abl_code code = arrays_alloc(run, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_folded_create(run->model, graph, false, &run->folded, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_sources_run(run->model, run->batch.prefix, run->batch.clean, run->batch.size,
                               run->batch.seq_len, true, &run->clean, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    run->scope = abl_scope_create(abl_model_device(run->model));
    if (run->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    differences_fill(run, ablated);
    run->effect = abl_effect_make(&run->prune->options, &run->batch);
    abl_effect_open(run->scope, &run->effect, run->clean->end);
    code = silence_find(run, ret_status);
    return code == ABL_CODE_OK ? abl_scope_status(run->scope, ret_status) : code;
}

static abl_code delta_create(abl_prune *prune, const abl_batch *batch, const abl_sources *ablated,
                             abl_acdc_evaluator **ret_evaluator, abl_status *ret_status) {
    abl_acdc_delta_run *run = abl_calloc(1, sizeof *run);
    if (run == NULL) {
        return abl_fail_oom(ret_status);
    }
    run->base.vtable = &abl_acdc_delta;
    run->prune = prune;
    run->model = prune->options.model;
    run->config = abl_model_get_config(run->model);
    run->batch = *batch;
    run->size = batch->size;
    run->seq = batch->seq_len;
    run->width = run->config->d_model;
    run->front = abl_prefix_length(batch->prefix);
    abl_code code = delta_open(run, ablated, ret_status);
    if (code != ABL_CODE_OK) {
        delta_destroy(&run->base);
        return code;
    }
    *ret_evaluator = &run->base;
    return ABL_CODE_OK;
}

/* ---- what is kept ---------------------------------------------------------------------------- */

static abl_code delta_reset(abl_acdc_evaluator *evaluator, abl_status *ret_status) {
    abl_acdc_delta_run *run = (abl_acdc_delta_run *)evaluator;
    abl_scope_destroy(run->trial_scope);
    abl_scope_destroy(run->kept_scope);
    run->trial_scope = NULL;
    run->kept_scope = abl_scope_create(abl_model_device(run->model));
    if (run->kept_scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_scope *scope = run->kept_scope;
    for (int32_t b = 0; b < run->config->n_layers; b++) {
        abl_tensor **inputs = run->kept[b].inputs;
        memset(inputs, 0, ((size_t)run->plan->row_count + 1) * sizeof(void *));
        run->kept[b] = (abl_acdc_kept){.inputs = inputs};
    }
    abl_tensor *end = abl_tensor_slice(scope, run->clean->end, 1, run->seq - 1, run->seq);
    run->end = abl_tensor_clone(scope, end);
    run->opened = run->config->n_layers;
    run->layer = -1;
    run->block = -1;
    abl_acdc_plan_reset(run->plan);
    return abl_scope_status(scope, ret_status);
}

static abl_tensor *tail_clone(abl_acdc_delta_run *run, const abl_tensor *x) {
    abl_scope *scope = run->kept_scope;
    x = abl_tensor_slice(scope, x, 1, run->from, run->seq);
    return x == NULL ? NULL : abl_tensor_clone(scope, x);
}

/* The clean run's state of one block. */
static void block_open(abl_acdc_delta_run *run, int32_t b) {
    abl_scope *scope = run->kept_scope;
    abl_acdc_kept *kept = &run->kept[b];
    const abl_sources *clean = run->clean;
    abl_tensor *normed = abl_folded_norm(scope, run->folded, b, clean->pre[b]);
    abl_tensor *qkv = abl_folded_project(scope, run->folded, b, normed);
    abl_qkv all = abl_prefix_qkv(scope, run->model, run->batch.prefix, b,
                                 abl_folded_views(scope, run->folded, qkv));
    kept->q = all.q;
    kept->k = all.k;
    kept->v = all.v;
    kept->z = abl_tensor_clone(scope, clean->z[b]);
    kept->inputs[0] = tail_clone(run, clean->pre[b]);
    if (run->plan->blocks[b].mlp_src >= 0) {
        kept->mlp_out = abl_tensor_clone(scope, clean->mlp_out[b]);
        kept->mlp_in = tail_clone(run, run->plan->parallel ? clean->pre[b] : clean->mid[b]);
    }
}

static void blocks_open(abl_acdc_delta_run *run, int32_t down_to) {
    while (run->opened > down_to && !abl_scope_failed(run->kept_scope)) {
        block_open(run, --run->opened);
    }
}

/* The input that is a row's own from now on. */
static abl_tensor *own_input(abl_acdc_delta_run *run, int32_t b, int32_t row) {
    int32_t *group = &run->plan->group_of[(int64_t)b * run->plan->row_count + row];
    abl_tensor **inputs = run->kept[b].inputs;
    if (*group == 0) {
        *group = row + 1;
        inputs[*group] = inputs[0] == NULL ? NULL : abl_tensor_clone(run->kept_scope, inputs[0]);
    }
    ABL_ASSERT(*group == row + 1); /* groups are joined behind their layer */
    return inputs[*group];
}

/* Edges into another layer come: the one before is closed. */
static void layer_enter(abl_acdc_delta_run *run, const abl_graph_dest *dest) {
    if (dest->layer == run->layer) {
        return;
    }
    if (run->block >= 0) {
        abl_acdc_plan_regroup(run->plan, run->block);
    }
    abl_acdc_plan_liveness(run->plan);
    run->layer = dest->layer;
    run->block = dest->kind == ABL_NODE_RESID_END ? -1 : dest->block;
}

static int64_t position_of(const abl_acdc_delta_run *run, abl_edge edge) {
    return run->plan->positions > 1 ? edge.seq : 0;
}

static bool delta_is_inert(abl_acdc_evaluator *evaluator, int64_t index) {
    abl_acdc_delta_run *run = (abl_acdc_delta_run *)evaluator;
    const abl_acdc_plan *plan = run->plan;
    abl_edge edge = abl_graph_edge_at(plan->graph, index);
    layer_enter(run, abl_graph_dest_at(plan->graph, edge.dest));
    int64_t at = position_of(run, edge);
    return plan->live_dest[(int64_t)edge.dest * plan->positions + at] == 0 ||
           run->silent[(int64_t)edge.src * plan->positions + at] != 0;
}

/* Rows that are live at any position get inputs of their own by any removal: inert or not, they do
 * not read any more what the source will emit when edges below it have gone. */
static void delta_remove(abl_acdc_evaluator *evaluator, int64_t index) {
    abl_acdc_delta_run *run = (abl_acdc_delta_run *)evaluator;
    abl_acdc_plan *plan = run->plan;
    abl_edge edge = abl_graph_edge_at(plan->graph, index);
    const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, edge.dest);
    plan->removed[index] = 1;
    if (dest->kind != ABL_NODE_HEAD || !abl_acdc_plan_is_live(plan, edge.dest)) {
        return;
    }
    abl_scope *scope = run->kept_scope;
    blocks_open(run, dest->block);
    abl_tensor *x = own_input(run, dest->block, abl_acdc_plan_row(plan, dest));
    int64_t at = position_of(run, edge);
    if (run->silent[(int64_t)edge.src * plan->positions + at] != 0) {
        return;
    }
    size_t mark = abl_scope_mark(scope); /* dead here; a row that joins the group may not be */
    abl_tensor *d =
        abl_tensor_select(scope, run->differences.arena, 0, ABL_SLOT_SOURCES + edge.src);
    abl_tensor_add_(scope, abl_tensor_select(scope, x, 1, at - run->from),
                    abl_tensor_select(scope, d, 1, at), 1);
    abl_scope_rewind(scope, mark, NULL, 0);
}

/* ---- trials ---------------------------------------------------------------------------------- */

/* The units that the first `count` trials are on, ascending, and the plan for them. */
static void trials_plan(abl_acdc_delta_run *run, int32_t count) {
    abl_acdc_plan *plan = run->plan;
    const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, run->trials[0].at.dest);
    run->trial_count = count;
    if (dest->kind == ABL_NODE_RESID_END) {
        abl_acdc_plan_end(plan);
        return;
    }
    if (dest->kind == ABL_NODE_MLP) {
        abl_acdc_plan_mlp(plan, dest->block);
        return;
    }
    int32_t units[ABL_ACDC_TRIALS_MAX];
    int32_t unit_count = 0;
    for (int32_t unit = 0; unit < plan->unit_count; unit++) {
        bool is_on = false;
        for (int32_t k = 0; k < count; k++) {
            is_on = is_on || abl_acdc_plan_unit(plan, run->trials[k].row) == unit;
        }
        if (is_on) {
            units[unit_count++] = unit;
        }
    }
    abl_acdc_plan_attention(plan, dest->block, units, unit_count);
}

typedef struct trial_cost {
    double flops;
    double weights; /* read, by however many trials */
    int64_t floats;
} trial_cost;

/* What one of the planned trials costs: products, and memory that stays to the pass's end. */
static trial_cost cost_of(const abl_acdc_delta_run *run) {
    const abl_acdc_plan *plan = run->plan;
    const abl_model_config *c = run->config;
    const int64_t tokens = run->size * run->tail;
    const int64_t head = (int64_t)c->d_head * run->width;
    const double unembed = (double)run->width * c->d_vocab_out;
    trial_cost cost = {.flops = 2 * (double)run->size * unembed,
                       .weights = unembed,
                       .floats = 2LL * run->size * c->d_vocab_out +
                                 (plan->slot_count + plan->mix_count + 4) * tokens * run->width};
    double slots = plan->slot_count;
    for (int32_t b = 0; b < plan->block_count; b++) {
        const abl_acdc_block *block = &plan->blocks[b];
        double mixes = block->mix_end - block->mix_begin + (block->mlp_mix >= 0);
        int64_t heads = (int64_t)block->unit_count * plan->unit_heads;
        int64_t out = run->size * abl_acdc_positions(run, b);
        cost.flops += 2 * mixes * slots * (double)(tokens * run->width);
        cost.flops += 6.0 * (double)(heads * tokens * head) + 2.0 * (double)(heads * out * head);
        cost.weights += 4.0 * (double)(heads * head);
        cost.floats += 5 * heads * tokens * c->d_head;
        if (block->mlp_mix >= 0) {
            double mlp = (c->gated ? 3.0 : 2.0) * (double)run->width * c->d_mlp;
            cost.flops += 2 * (double)out * mlp;
            cost.weights += mlp;
            cost.floats += out * run->width;
        }
    }
    return cost;
}

static int32_t trials_worth(const abl_acdc_delta_run *run, int32_t count) {
    trial_cost cost = cost_of(run);
    bool cuda = abl_model_device(run->model).type == ABL_DEVICE_CUDA;
    double enough =
        cuda ? FLOPS_PER_PASS_CUDA : FLOPS_PER_PASS_CPU + FLOPS_PER_WEIGHT_CPU * cost.weights;
    double by_flops = enough / cost.flops;
    double by_bytes = (double)BYTES_PER_PASS / (4.0 * (double)cost.floats);
    double most = by_flops < by_bytes ? by_flops : by_bytes;
    return most < 1 ? 1 : most < count ? (int32_t)most : count;
}

static int32_t trials_fill(abl_acdc_delta_run *run, const int64_t *edges, int32_t count) {
    const abl_acdc_plan *plan = run->plan;
    abl_node_kind kind = ABL_NODE_HEAD;
    for (int32_t k = 0; k < count; k++) {
        abl_acdc_trial *trial = &run->trials[k];
        *trial = (abl_acdc_trial){.edge = edges[k], .row = -1, .before = -1};
        trial->at = abl_graph_edge_at(plan->graph, edges[k]);
        const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, trial->at.dest);
        if (k > 0 && dest->kind != kind) {
            return k; /* in parallel blocks a layer has heads and an MLP */
        }
        kind = dest->kind;
        trial->row = kind == ABL_NODE_HEAD ? abl_acdc_plan_row(plan, dest) : -1;
        for (int32_t earlier = 0; earlier < k; earlier++) {
            trial->before = run->trials[earlier].row == trial->row ? earlier : trial->before;
        }
    }
    return count;
}

static abl_code delta_try(abl_acdc_evaluator *evaluator, const int64_t *edges, int32_t count,
                          double *ret_effects, int32_t *ret_tried, abl_status *ret_status) {
    abl_acdc_delta_run *run = (abl_acdc_delta_run *)evaluator;
    abl_edge first = abl_graph_edge_at(run->plan->graph, edges[0]);
    const abl_graph_dest *dest = abl_graph_dest_at(run->plan->graph, first.dest);
    layer_enter(run, dest);
    blocks_open(run, dest->block);
    abl_scope_destroy(run->trial_scope);
    run->trial_scope = abl_scope_create(abl_model_device(run->model));
    if (run->trial_scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    count = trials_fill(run, edges, count);
    trials_plan(run, count);
    int32_t worth = trials_worth(run, count);
    if (worth < count) {
        trials_plan(run, worth);
    }
    abl_acdc_pass(run, ret_effects);
    *ret_tried = run->trial_count;
    abl_code code = abl_scope_status(run->kept_scope, ret_status);
    return code == ABL_CODE_OK ? abl_scope_status(run->trial_scope, ret_status) : code;
}

/* ---- adopting a trial's state ---------------------------------------------------------------- */

/* The input and projections of one row, as trial k left them. */
static void row_adopt(abl_acdc_delta_run *run, int32_t b, int32_t k) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_trial *trial = &run->trials[k];
    const abl_graph_dest *dest = abl_graph_dest_at(run->plan->graph, trial->at.dest);
    abl_tensor_copy_into(scope, own_input(run, b, trial->row),
                         abl_tensor_select(scope, run->inputs, 0, k));
    abl_tensor *const kept[ABL_ACDC_ROLES] = {run->kept[b].q, run->kept[b].k, run->kept[b].v};
    for (int role = 0; role < ABL_ACDC_ROLES; role++) {
        if (trial->table[role] < 0) {
            continue;
        }
        abl_tensor *x = abl_tensor_select(scope, run->tables[role], 0, trial->table[role]);
        abl_tensor *to = abl_tensor_select(scope, kept[role], 2, dest->head);
        int64_t positions = x == NULL ? 0 : abl_tensor_size(x, 1);
        int64_t all = to == NULL ? 0 : abl_tensor_size(to, 1);
        abl_tensor_copy_into(scope, abl_tensor_slice(scope, to, 1, all - positions, all), x);
    }
}

static abl_code delta_commit(abl_acdc_evaluator *evaluator, int32_t count, abl_status *ret_status) {
    abl_acdc_delta_run *run = (abl_acdc_delta_run *)evaluator;
    abl_scope *scope = run->trial_scope;
    for (int32_t i = 0; i < run->record_count; i++) {
        const abl_acdc_record *r = &run->records[i];
        abl_tensor *x =
            abl_tensor_slice(scope, r->value, 0, (count - 1) * run->size, count * run->size);
        if (r->heads == NULL) {
            abl_tensor_copy_into(scope, r->target, x);
        } else {
            abl_tensor_index_copy_(scope, r->target, 2, r->heads, x);
        }
    }
    for (int32_t k = 0; k < count; k++) {
        const abl_acdc_trial *trial = &run->trials[k];
        run->plan->removed[trial->edge] = 1;
        bool newest = trial->row >= 0;
        for (int32_t later = k + 1; later < count; later++) {
            newest = newest && run->trials[later].row != trial->row;
        }
        if (newest) {
            row_adopt(run, run->block, k);
        }
    }
    abl_code code = abl_scope_status(run->kept_scope, ret_status);
    return code == ABL_CODE_OK ? abl_scope_status(scope, ret_status) : code;
}

/* A pass's trials at most: as many as BYTES_PER_PASS takes, but always one. */
static int64_t pass_bytes(const abl_prune_options *o, int64_t batch, int64_t tokens) {
    const abl_model_config *c = abl_model_get_config(o->model);
    int64_t wide = abl_graph_src_count(o->graph) + abl_graph_dest_count(o->graph) + 4;
    int64_t layer = 5LL * c->n_heads * c->d_head + c->d_model;
    int64_t trial =
        4 * (tokens * (wide * c->d_model + c->n_layers * layer) + 2 * batch * c->d_vocab_out);
    int64_t most = ABL_ACDC_TRIALS_MAX * trial;
    most = most < BYTES_PER_PASS ? most : BYTES_PER_PASS;
    return trial > most ? trial : most;
}

static int64_t delta_bytes(const abl_prune_options *o) {
    const abl_model_config *c = abl_model_get_config(o->model);
    abl_batch batch = abl_batches_at(&o->batches, 0);
    int64_t tokens = (int64_t)batch.size * batch.seq_len;
    int64_t qkv = 3LL * c->n_heads * c->d_head;
    int64_t arena = (ABL_SLOT_SOURCES + (int64_t)abl_graph_src_count(o->graph)) * c->d_model;
    int64_t clean = (int64_t)c->n_layers * ((int64_t)c->n_heads * c->d_head + 3LL * c->d_model);
    int64_t inputs = (int64_t)abl_graph_dest_count(o->graph) * c->d_model;
    int64_t kept = (int64_t)c->n_layers * (2 * qkv + 4LL * c->d_model) + inputs;
    int64_t layer = 8LL * c->d_model + 4LL * c->d_mlp + 4 * qkv;
    int64_t sources = abl_graph_src_count(o->graph);
    return 4 * tokens * (arena + clean + kept + layer) + 2 * pass_bytes(o, batch.size, tokens) +
           abl_graph_edge_count(o->graph) +
           (sources + abl_graph_dest_count(o->graph)) * abl_graph_seq_count(o->graph) +
           abl_folded_bytes(o->model, o->graph, false);
}

const abl_acdc_vtable abl_acdc_delta = {.create = delta_create,
                                        .destroy = delta_destroy,
                                        .reset = delta_reset,
                                        .is_inert = delta_is_inert,
                                        .try_edges = delta_try,
                                        .commit = delta_commit,
                                        .remove = delta_remove,
                                        .bytes_estimate = delta_bytes};
