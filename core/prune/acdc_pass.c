// SPDX-License-Identifier: Apache-2.0
/* Trials of ACDC through the model, as changes to the kept state (ALGORITHMS: delta propagation).
 *
 * All trials of a pass remove edges into one layer; above it they share one mask, so they are rows
 * of one batch (trial, batch row), and only what changes is computed, by plan:
 *
 *     x_k    = kept input + D[s_1] + ... + D[s_k]             the edges' own destinations
 *     change = new output - kept output                       of each source that changed
 *     x'     = kept input + sum of the changes of its kept sources, or
 *            = kept input + the stream's change - the sum of those of its removed ones
 *
 * A destination none of whose row's trials reached keeps its projection. Attention is computed for
 * units (a key/value head with its query heads) in which a projection changed, the others' z stay.
 *
 * The last block computes keys and values at all positions, all else at the last one. Positions
 * before run->from are never computed. What a pass finds for kept tensors is recorded, whole, so
 * that the state after any of its trials can be adopted without another pass. */
#include "core/prune/acdc_delta.h"

#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "core/prune/rows.h"

int64_t abl_acdc_positions(const abl_acdc_delta_run *run, int32_t block) {
    return block + 1 >= run->config->n_layers ? 1 : run->tail;
}

int64_t abl_acdc_rows(const abl_acdc_delta_run *run) {
    return run->trial_count * run->size;
}

/* The last `positions` of x along dimension 1. */
abl_tensor *abl_acdc_last(abl_acdc_delta_run *run, const abl_tensor *x, int64_t positions) {
    int64_t all = x == NULL ? positions : abl_tensor_size(x, 1);
    return abl_tensor_slice(run->trial_scope, x, 1, all - positions, all);
}

abl_tensor *abl_acdc_indices(abl_acdc_delta_run *run, const int64_t *values, int64_t count) {
    return abl_tensor_from_host(run->trial_scope, ABL_DTYPE_I64, 1, (const int64_t[]){count},
                                values);
}

static void record(abl_acdc_delta_run *run, abl_tensor *target, abl_tensor *heads,
                   abl_tensor *value) {
    run->records[run->record_count++] =
        (abl_acdc_record){.target = target, .heads = heads, .value = value};
}

/* new (rows, positions, d) - kept (batch, positions, d), trial by trial. */
static abl_tensor *change_of(abl_acdc_delta_run *run, const abl_tensor *changed,
                             const abl_tensor *kept) {
    abl_scope *scope = run->trial_scope;
    if (changed == NULL) {
        return NULL;
    }
    int64_t positions = abl_tensor_size(changed, 1);
    int64_t width = abl_tensor_size(changed, 2);
    const int64_t trials[] = {run->trial_count, run->size, positions, width};
    abl_tensor *d = abl_tensor_sub(scope, abl_tensor_view(scope, changed, 4, trials),
                                   abl_tensor_unsqueeze(scope, kept, 0));
    return abl_tensor_view(scope, d, 3, (const int64_t[]){abl_acdc_rows(run), positions, width});
}

/* ---- mixes ----------------------------------------------------------------------------------- */

/* The factors of slots 0..slots in some mixes: (positions, mixes, slots). */
static abl_tensor *factors(abl_acdc_delta_run *run, int32_t first, int32_t count, int32_t slots,
                           int64_t positions) {
    const abl_acdc_plan *plan = run->plan;
    bool by_position = plan->positions > 1;
    int64_t depth = by_position ? positions : 1;
    ABL_CLEANUP(abl_freep)
    float *matrix = abl_calloc((size_t)(depth * count * slots), sizeof *matrix);
    if (matrix == NULL) {
        abl_scope_fail_oom(run->trial_scope);
        return NULL;
    }
    for (int32_t src = 0; src < abl_graph_src_count(plan->graph); src++) {
        int32_t slot = plan->slot_of_src[src];
        if (slot < 0 || slot >= slots) {
            continue;
        }
        for (int64_t t = 0; t < depth; t++) {
            int32_t at = by_position ? (int32_t)(run->seq - positions + t) : 0;
            for (int32_t m = 0; m < count; m++) {
                matrix[(t * count + m) * slots + slot] =
                    abl_acdc_plan_factor(plan, &plan->mixes[first + m], src, at);
            }
        }
    }
    return abl_tensor_from_host(run->trial_scope, ABL_DTYPE_F32, 3,
                                (const int64_t[]){depth, count, slots}, matrix);
}

/* Adds the sources' changes to out (mixes, rows, positions, d). */
static void terms_add(abl_acdc_delta_run *run, int32_t first, int32_t count, abl_tensor *out) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const int64_t rows = abl_acdc_rows(run);
    const int64_t positions = abl_tensor_size(out, 2);
    const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, plan->mixes[first].dest);
    int32_t slots = abl_acdc_plan_slots_below(plan, dest->src_begin + dest->src_count);
    abl_tensor *matrix = factors(run, first, count, slots, positions);
    abl_tensor *changes = abl_tensor_slice(scope, run->changes, 0, 0, slots);
    changes = abl_tensor_slice(scope, changes, 2, run->tail - positions, run->tail);
    if (plan->positions == 1) {
        const int64_t inner = rows * positions * run->width;
        abl_tensor_gemm_into(scope, abl_tensor_view(scope, out, 2, (const int64_t[]){count, inner}),
                             abl_tensor_select(scope, matrix, 0, 0),
                             abl_tensor_reshape(scope, changes, 2, (const int64_t[]){slots, inner}),
                             1, 1);
        return;
    }
    const int64_t swap[] = {1, 0, 2};
    for (int64_t row = 0; row < rows; row++) {
        abl_tensor *from = abl_tensor_select(scope, changes, 1, row); /* (slots, pos, d) */
        abl_tensor *sum =
            abl_tensor_matmul(scope, matrix, abl_tensor_permute(scope, from, 3, swap));
        abl_tensor_add_(scope, abl_tensor_select(scope, out, 1, row),
                        abl_tensor_permute(scope, sum, 3, swap), 1);
    }
}

/* The inputs of some mixes, (mixes, rows, positions, d), recorded for kept[0..count). */
static abl_tensor *mixes(abl_acdc_delta_run *run, int32_t first, int32_t count,
                         abl_tensor *const *kept, int64_t positions) {
    abl_scope *scope = run->trial_scope;
    const int64_t shape[] = {count, abl_acdc_rows(run), positions, run->width};
    abl_tensor *out = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, shape);
    const int64_t trials[] = {run->trial_count, run->size, positions, run->width};
    bool terms = false;
    for (int32_t m = 0; m < count; m++) {
        const abl_acdc_mix *mix = &run->plan->mixes[first + m];
        abl_tensor *x = abl_tensor_select(scope, out, 0, m);
        abl_tensor *base = abl_acdc_last(run, kept[m], positions);
        abl_tensor_copy_into(scope, abl_tensor_view(scope, x, 4, trials), base);
        if (mix->from_stream) {
            abl_tensor_add_(scope, x, abl_acdc_last(run, run->stream, positions), 1);
        }
        record(run, base, NULL, x);
        terms = terms || mix->has_terms;
    }
    if (terms) {
        terms_add(run, first, count, out);
    }
    return out;
}

/* ---- what sources changed by ----------------------------------------------------------------- */

/* Whether a destination that sees `src` reads the stream's change. */
static bool stream_is_read(const abl_acdc_delta_run *run, int32_t src) {
    int32_t reader = run->plan->stream_dest;
    if (reader < 0) {
        return false;
    }
    const abl_graph_dest *dest = abl_graph_dest_at(run->plan->graph, reader);
    return src < dest->src_begin + dest->src_count;
}

static void stream_add(abl_acdc_delta_run *run, abl_tensor *change) {
    if (run->stream == NULL) {
        run->stream = change;
        return;
    }
    abl_tensor *before =
        abl_acdc_last(run, run->stream, change == NULL ? 1 : abl_tensor_size(change, 1));
    run->stream = abl_tensor_add(run->trial_scope, before, change);
}

/* Where a source's own change goes: (rows, positions, d); NULL: nowhere. */
static abl_tensor *slot_of(abl_acdc_delta_run *run, int32_t src, int64_t positions) {
    int32_t slot = run->plan->slot_of_src[src];
    return slot < 0 ? NULL
                    : abl_acdc_last(run, abl_tensor_select(run->trial_scope, run->changes, 0, slot),
                                    positions);
}

/* The block's changed units' new z (rows, positions, heads of the units, d_head). */
static void heads_change(abl_acdc_delta_run *run, int32_t b, abl_tensor *z) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const abl_acdc_block *block = &plan->blocks[b];
    const int64_t positions = abl_acdc_positions(run, b);
    const int64_t d_head = run->folded->d_head;
    const int64_t count = (int64_t)block->unit_count * plan->unit_heads;
    ABL_CLEANUP(abl_freep) int64_t *heads = abl_calloc((size_t)count, sizeof *heads);
    if (heads == NULL) {
        abl_scope_fail_oom(scope);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        heads[i] =
            (int64_t)block->units[i / plan->unit_heads] * plan->unit_heads + i % plan->unit_heads;
    }
    abl_tensor *ids = abl_acdc_indices(run, heads, count);
    abl_tensor *kept = abl_acdc_last(run, run->kept[b].z, positions);
    record(run, kept, ids, z);
    kept = abl_tensor_reshape(scope, abl_tensor_index_select(scope, kept, 2, ids), 3,
                              (const int64_t[]){run->size, positions, count * d_head});
    abl_tensor *flat = abl_tensor_view(
        scope, z, 3, (const int64_t[]){abl_acdc_rows(run), positions, count * d_head});
    abl_tensor *dz = change_of(run, flat, kept);
    abl_tensor *w = abl_model_get_block(run->model, b)->w_o;
    w = abl_tensor_view(scope, w, 3, (const int64_t[]){-1, d_head, run->width});
    w = abl_tensor_index_select(scope, w, 0, ids); /* (heads, d_head, d_model) */
    for (int64_t i = 0; i < count; i++) {
        abl_tensor *slot = slot_of(run, block->head_src + (int32_t)heads[i], positions);
        if (slot != NULL) {
            abl_tensor *of = abl_tensor_slice(scope, dz, 2, i * d_head, (i + 1) * d_head);
            abl_tensor_copy_into(
                scope, slot, abl_tensor_linear(scope, of, abl_tensor_select(scope, w, 0, i), NULL));
        }
    }
    if (stream_is_read(run, block->head_src)) {
        w = abl_tensor_reshape(scope, w, 2, (const int64_t[]){count * d_head, run->width});
        stream_add(run, abl_tensor_linear(scope, dz, w, NULL));
    }
}

/* The MLP's new input x (rows, positions, d), recorded already. */
static void mlp_change(abl_acdc_delta_run *run, int32_t b, abl_tensor *x) {
    abl_scope *scope = run->trial_scope;
    const int64_t positions = abl_acdc_positions(run, b);
    abl_tensor *normed =
        abl_block_norm_forward(scope, run->model, b, ABL_BLOCK_NORM_2, x, NULL, NULL);
    abl_tensor *out = abl_block_mlp(scope, run->model, b, normed, NULL);
    abl_tensor *kept = abl_acdc_last(run, run->kept[b].mlp_out, positions);
    record(run, kept, NULL, out);
    abl_tensor *change = change_of(run, out, kept);
    abl_tensor *slot = slot_of(run, run->plan->blocks[b].mlp_src, positions);
    if (slot != NULL) {
        abl_tensor_copy_into(scope, slot, change);
    }
    if (stream_is_read(run, run->plan->blocks[b].mlp_src)) {
        stream_add(run, change);
    }
}

/* ---- projections ----------------------------------------------------------------------------- */

/* Heads begin..end of the graph's (q, then k, then v) from normed (rows, positions, d), rotated:
 * (rows, positions, heads, d_head). */
abl_tensor *abl_acdc_project(abl_acdc_delta_run *run, int32_t b, abl_acdc_role role,
                             const abl_tensor *normed, int64_t begin, int64_t end) {
    abl_scope *scope = run->trial_scope;
    const abl_folded *f = run->folded;
    if (normed == NULL) {
        return NULL;
    }
    int64_t first = role == ABL_ACDC_Q   ? 0
                    : role == ABL_ACDC_K ? f->q_heads
                                         : f->q_heads + f->kv_heads;
    int64_t from = (first + begin) * f->d_head;
    int64_t to = (first + end) * f->d_head;
    abl_tensor *bias = f->layers[b].b;
    abl_tensor *x =
        abl_tensor_linear(scope, normed, abl_tensor_slice(scope, f->layers[b].w, 1, from, to),
                          bias == NULL ? NULL : abl_tensor_slice(scope, bias, 0, from, to));
    int64_t positions = abl_tensor_size(normed, 1);
    const int64_t shape[] = {abl_tensor_size(normed, 0), positions, end - begin, f->d_head};
    x = abl_tensor_view(scope, x, 4, shape);
    return role == ABL_ACDC_V
               ? x
               : abl_block_rotate(scope, run->model, x, run->front + run->seq - positions, false);
}

abl_tensor *abl_acdc_kept_role(const abl_acdc_delta_run *run, int32_t b, abl_acdc_role role) {
    const abl_acdc_kept *kept = &run->kept[b];
    return role == ABL_ACDC_Q ? kept->q : role == ABL_ACDC_K ? kept->k : kept->v;
}

/* The kept keys or values of heads begin..end before what is computed. */
abl_tensor *abl_acdc_before(abl_acdc_delta_run *run, const abl_tensor *kept, int64_t begin,
                            int64_t end) {
    abl_tensor *x = abl_tensor_slice(run->trial_scope, kept, 2, begin, end);
    return abl_tensor_slice(run->trial_scope, x, 1, 0, run->front + run->from);
}

/* ---- a block above the trials ---------------------------------------------------------------- */

/* One role's heads of all changed units, (rows, positions, heads, d_head): those whose input
 * changed are projected, the others kept; neighbours of a kind together. */
static abl_tensor *role_heads(abl_acdc_delta_run *run, int32_t b, abl_acdc_role role,
                              abl_tensor *const *normed, const int32_t *heads, int32_t count) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const abl_acdc_block *block = &plan->blocks[b];
    const int64_t positions = role == ABL_ACDC_Q ? abl_acdc_positions(run, b) : run->tail;
    abl_tensor *kept = abl_acdc_kept_role(run, b, role);
    ABL_CLEANUP(abl_freep) const abl_tensor **parts = abl_calloc((size_t)count, sizeof *parts);
    if (parts == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    size_t part_count = 0;
    for (int32_t i = 0; i < count && !abl_scope_failed(scope);) {
        int32_t mix = block->row_mix[abl_acdc_plan_row_at(plan, role, heads[i])];
        int32_t end = i + 1;
        while (end < count && heads[end] == heads[end - 1] + 1 &&
               block->row_mix[abl_acdc_plan_row_at(plan, role, heads[end])] == mix) {
            end++;
        }
        int64_t first = heads[i];
        int64_t last = heads[end - 1] + 1;
        abl_tensor *part = NULL;
        if (mix < 0) {
            part = abl_tensor_slice(scope, kept, 2, first, last);
            part = abl_rows_repeat(scope,
                                   role == ABL_ACDC_Q ? abl_acdc_last(run, part, positions) : part,
                                   run->trial_count);
        } else {
            abl_tensor *x = abl_acdc_last(run, normed[mix - block->mix_begin], positions);
            part = abl_acdc_project(run, b, role, x, first, last);
            abl_tensor *target = abl_tensor_slice(scope, kept, 2, first, last);
            record(run, abl_acdc_last(run, target, positions), NULL, part);
            if (role != ABL_ACDC_Q) {
                part = abl_rows_behind(scope, abl_acdc_before(run, kept, first, last), part);
            }
        }
        parts[part_count++] = part;
        i = end;
    }
    return part_count == 1 ? (abl_tensor *)(uintptr_t)parts[0]
                           : abl_tensor_cat(scope, parts, part_count, 2);
}

static abl_tensor *block_attention(abl_acdc_delta_run *run, int32_t b) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const abl_acdc_block *block = &plan->blocks[b];
    int32_t count = block->mix_end - block->mix_begin;
    int32_t head_count = block->unit_count * plan->unit_heads;
    ABL_CLEANUP(abl_freep) abl_tensor **tensors = abl_calloc((size_t)count, sizeof(void *));
    ABL_CLEANUP(abl_freep) int32_t *heads = abl_calloc((size_t)head_count, sizeof *heads);
    if (tensors == NULL || heads == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (int32_t m = 0; m < count; m++) {
        tensors[m] = run->kept[b].inputs[plan->mixes[block->mix_begin + m].group];
    }
    for (int32_t i = 0; i < head_count; i++) {
        heads[i] = block->units[i / plan->unit_heads] * plan->unit_heads + i % plan->unit_heads;
    }
    abl_tensor *x = mixes(run, block->mix_begin, count, tensors, run->tail);
    x = abl_folded_norm(scope, run->folded, b, x);
    for (int32_t m = 0; m < count; m++) {
        tensors[m] = abl_tensor_select(scope, x, 0, m);
    }
    abl_tensor *q = role_heads(run, b, ABL_ACDC_Q, tensors, heads, head_count);
    const int32_t *kv = plan->unit_heads == 1 ? heads : block->units;
    abl_tensor *k = role_heads(run, b, ABL_ACDC_K, tensors, kv, block->unit_count);
    abl_tensor *v = role_heads(run, b, ABL_ACDC_V, tensors, kv, block->unit_count);
    return abl_tensor_attention(scope, abl_model_sees(run->model), q, k, v,
                                abl_model_attn_scale(run->model), NULL, NULL);
}

static void block_mlp(abl_acdc_delta_run *run, int32_t b) {
    int32_t mix = run->plan->blocks[b].mlp_mix;
    if (mix >= 0) {
        abl_tensor *kept[] = {run->kept[b].mlp_in};
        abl_tensor *x = mixes(run, mix, 1, kept, abl_acdc_positions(run, b));
        mlp_change(run, b, abl_tensor_select(run->trial_scope, x, 0, 0));
    }
}

/* Temporaries of a block go; what it recorded, and the stream's change, stay. */
static void block_rewind(abl_acdc_delta_run *run, size_t mark, int32_t first_record) {
    size_t count = 0;
    size_t most = 3 * (size_t)(run->record_count - first_record) + 1;
    ABL_CLEANUP(abl_freep) abl_tensor **survivors = abl_calloc(most, sizeof(void *));
    if (survivors == NULL) {
        return; /* they stay a little longer */
    }
    for (int32_t i = first_record; i < run->record_count; i++) {
        survivors[count++] = run->records[i].target;
        survivors[count++] = run->records[i].value;
        if (run->records[i].heads != NULL) {
            survivors[count++] = run->records[i].heads;
        }
    }
    if (run->stream != NULL) {
        survivors[count++] = run->stream;
    }
    abl_scope_rewind(run->trial_scope, mark, survivors, count);
}

static void block_pass(abl_acdc_delta_run *run, int32_t b) {
    size_t mark = abl_scope_mark(run->trial_scope);
    int32_t first_record = run->record_count;
    bool parallel = run->plan->parallel;
    abl_tensor *z = run->plan->blocks[b].unit_count > 0 ? block_attention(run, b) : NULL;
    if (parallel) { /* the MLP reads the stream as it was before the heads */
        block_mlp(run, b);
    }
    if (z != NULL) {
        heads_change(run, b, z);
    }
    if (!parallel) {
        block_mlp(run, b);
    }
    block_rewind(run, mark, first_record);
}

/* ---- the trials' own layer ------------------------------------------------------------------- */

/* Each trial's input: (trials, batch, positions, d). `base` of each is what is kept for its row. */
static abl_tensor *trial_inputs(abl_acdc_delta_run *run, abl_tensor *const *base,
                                int64_t positions) {
    abl_scope *scope = run->trial_scope;
    const int64_t shape[] = {run->trial_count, run->size, positions, run->width};
    abl_tensor *out = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, shape);
    for (int32_t k = 0; k < run->trial_count && !abl_scope_failed(scope); k++) {
        const abl_acdc_trial *trial = &run->trials[k];
        abl_tensor *x = abl_tensor_select(scope, out, 0, k);
        abl_tensor_copy_into(scope, x,
                             trial->before >= 0 ? abl_tensor_select(scope, out, 0, trial->before)
                                                : abl_acdc_last(run, base[k], positions));
        abl_tensor *d =
            abl_tensor_select(scope, run->differences.arena, 0, ABL_SLOT_SOURCES + trial->at.src);
        d = abl_acdc_last(run, d, positions);
        if (run->plan->positions > 1) {
            int64_t at = trial->at.seq - (run->seq - positions);
            x = abl_tensor_select(scope, x, 1, at);
            d = abl_tensor_select(scope, d, 1, at);
        }
        abl_tensor_add_(scope, x, d, 1);
    }
    return out;
}

static void attention_trials(abl_acdc_delta_run *run, int32_t b) {
    abl_scope *scope = run->trial_scope;
    const int32_t *group_of = run->plan->group_of + (int64_t)b * run->plan->row_count;
    abl_tensor *base[ABL_ACDC_TRIALS_MAX];
    for (int32_t k = 0; k < run->trial_count; k++) {
        base[k] = run->kept[b].inputs[group_of[run->trials[k].row]];
    }
    run->inputs = trial_inputs(run, base, run->tail);
    abl_tensor *normed = abl_folded_norm(scope, run->folded, b, run->inputs);
    heads_change(run, b, abl_acdc_trials_z(run, b, normed));
}

static void mlp_trials(abl_acdc_delta_run *run, int32_t b) {
    const int64_t positions = abl_acdc_positions(run, b);
    abl_tensor *base[ABL_ACDC_TRIALS_MAX];
    for (int32_t k = 0; k < run->trial_count; k++) {
        base[k] = run->kept[b].mlp_in;
    }
    abl_tensor *x = trial_inputs(run, base, positions);
    x = abl_tensor_view(run->trial_scope, x, 3,
                        (const int64_t[]){abl_acdc_rows(run), positions, run->width});
    record(run, abl_acdc_last(run, run->kept[b].mlp_in, positions), NULL, x);
    mlp_change(run, b, x);
}

/* What the end reads: (trials, batch, d). */
static abl_tensor *end_of(abl_acdc_delta_run *run, bool own) {
    abl_scope *scope = run->trial_scope;
    const int64_t shape[] = {run->trial_count, run->size, run->width};
    abl_tensor *x = NULL;
    if (own) {
        abl_tensor *base[ABL_ACDC_TRIALS_MAX];
        for (int32_t k = 0; k < run->trial_count; k++) {
            base[k] = run->end;
        }
        x = trial_inputs(run, base, 1);
        x = abl_tensor_view(scope, x, 3, (const int64_t[]){abl_acdc_rows(run), 1, run->width});
        record(run, run->end, NULL, x);
    } else if (run->plan->end_mix >= 0) {
        abl_tensor *kept[] = {run->end};
        x = abl_tensor_select(scope, mixes(run, run->plan->end_mix, 1, kept, 1), 0, 0);
    } else {
        x = abl_tensor_expand(
            scope, abl_tensor_view(scope, run->end, 3, (const int64_t[]){1, run->size, run->width}),
            3, shape);
        x = abl_tensor_contiguous(scope, x);
    }
    return abl_tensor_view(scope, x, 3, shape);
}

void abl_acdc_pass(abl_acdc_delta_run *run, double *ret_effects) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, run->trials[0].at.dest);
    int32_t b = dest->block;
    bool end = dest->kind == ABL_NODE_RESID_END;
    run->stream = NULL;
    run->record_count = 0;
    if (plan->slot_count > 0) {
        const int64_t shape[] = {plan->slot_count, abl_acdc_rows(run), run->tail, run->width};
        run->changes = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, shape);
    }
    if (!end && dest->kind == ABL_NODE_MLP) {
        mlp_trials(run, b);
    } else if (!end) {
        attention_trials(run, b);
        if (!plan->parallel) {
            block_mlp(run, b);
        }
    }
    for (int32_t above = b + 1; !end && above < plan->block_count && !abl_scope_failed(scope);
         above++) {
        block_pass(run, above);
    }
    abl_effect_of(scope, &run->effect, end_of(run, end), run->trial_count, ret_effects);
}
