// SPDX-License-Identifier: Apache-2.0
/* Attention under trials on several of a block's heads. A trial changes one destination, hence one
 * projection (or three, where q, k and v are joined). So each adds an entry to its role's table
 *
 *     (kept heads, then new projections)    (entries, batch, positions, d_head)
 *
 * and reads for every role the newest entry of its unit up to its own. The z that it computes is
 * its unit's; a trial's state has, for every unit that some trial is on, the newest z up to it. */
#include "core/prune/acdc_delta.h"

#include "core/base/mem.h"
#include "core/prune/rows.h"

/* A role's table: the kept heads, then the new projections of trials that have one, whose places
 * they are told. (entries, batch, positions, d_head). */
static void table_fill(abl_acdc_delta_run *run, int32_t b, abl_acdc_role role,
                       const abl_tensor *normed) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const int64_t positions = role == ABL_ACDC_Q ? abl_acdc_positions(run, b) : run->tail;
    abl_tensor *kept = abl_acdc_kept_role(run, b, role);
    kept = role == ABL_ACDC_Q ? abl_acdc_last(run, kept, positions) : kept;
    const int64_t heads_first[] = {2, 0, 1, 3};
    const abl_tensor *parts[ABL_ACDC_TRIALS_MAX + 1] = {
        abl_tensor_permute(scope, kept, 4, heads_first)};
    size_t part_count = 1;
    int32_t at = kept == NULL ? 0 : (int32_t)abl_tensor_size(kept, 2);
    for (int32_t k = 0; k < run->trial_count && !abl_scope_failed(scope);) {
        int32_t row = run->trials[k].row;
        int32_t end = k + 1;
        while (end < run->trial_count && run->trials[end].row == row) {
            end++;
        }
        const abl_graph_dest *dest = abl_graph_dest_at(plan->graph, plan->blocks[b].row_dest + row);
        if (abl_acdc_plan_row_at(plan, role, dest->head) == row) {
            abl_tensor *x = abl_tensor_slice(scope, normed, 0, k, end);
            x = abl_tensor_view(scope, x, 3,
                                (const int64_t[]){(end - k) * run->size, run->tail, run->width});
            x = abl_acdc_project(run, b, role, abl_acdc_last(run, x, positions), dest->head,
                                 dest->head + 1);
            if (role != ABL_ACDC_Q) {
                x = abl_rows_behind(scope, abl_acdc_before(run, kept, dest->head, dest->head + 1),
                                    x);
            }
            int64_t length = x == NULL ? 1 : abl_tensor_size(x, 1);
            parts[part_count++] = abl_tensor_reshape(
                scope, x, 4, (const int64_t[]){end - k, run->size, length, run->folded->d_head});
        }
        for (; k < end; k++) {
            bool changed = abl_acdc_plan_row_at(plan, role, dest->head) == row;
            run->trials[k].table[role] = changed ? at++ : -1;
        }
    }
    run->tables[role] = abl_tensor_cat(scope, parts, part_count, 0);
}

/* What trial k reads in a role: for each of its unit's heads the newest entry. */
static void newest_fill(const abl_acdc_delta_run *run, abl_acdc_role role, int64_t *ids) {
    const abl_acdc_plan *plan = run->plan;
    int32_t heads = role == ABL_ACDC_Q ? plan->unit_heads : 1;
    for (int32_t k = 0; k < run->trial_count; k++) {
        int32_t unit = abl_acdc_plan_unit(plan, run->trials[k].row);
        for (int32_t i = 0; i < heads; i++) {
            int32_t head = unit * heads + i;
            int32_t row = abl_acdc_plan_row_at(plan, role, head);
            int64_t id = head;
            for (int32_t earlier = 0; earlier <= k; earlier++) {
                if (run->trials[earlier].row == row) {
                    id = run->trials[earlier].table[role];
                }
            }
            ids[k * heads + i] = id;
        }
    }
}

/* The trials' own units in a role: (trials * batch, positions, heads of one unit, d_head). */
static abl_tensor *role_of_trials(abl_acdc_delta_run *run, abl_acdc_role role) {
    abl_scope *scope = run->trial_scope;
    int64_t heads = role == ABL_ACDC_Q ? run->plan->unit_heads : 1;
    ABL_CLEANUP(abl_freep)
    int64_t *ids = abl_calloc((size_t)(run->trial_count * heads), sizeof *ids);
    if (ids == NULL || run->tables[role] == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    newest_fill(run, role, ids);
    abl_tensor *x = abl_tensor_index_select(scope, run->tables[role], 0,
                                            abl_acdc_indices(run, ids, run->trial_count * heads));
    int64_t length = abl_tensor_size(run->tables[role], 2);
    const int64_t split[] = {run->trial_count, heads, run->size, length, run->folded->d_head};
    const int64_t order[] = {0, 2, 3, 1, 4};
    x = abl_tensor_permute(scope, abl_tensor_view(scope, x, 5, split), 5, order);
    return abl_tensor_reshape(
        scope, x, 4, (const int64_t[]){abl_acdc_rows(run), length, heads, run->folded->d_head});
}

/* z of all units that trials change, as of each trial: own (rows, positions, heads of a unit,
 * d_head) are those of the trials' own units. */
static abl_tensor *units_of_trials(abl_acdc_delta_run *run, int32_t b, const abl_tensor *own) {
    abl_scope *scope = run->trial_scope;
    const abl_acdc_plan *plan = run->plan;
    const abl_acdc_block *block = &plan->blocks[b];
    const int64_t units = block->unit_count;
    const int64_t positions = abl_acdc_positions(run, b);
    const int64_t heads = plan->unit_heads;
    const int64_t d_head = run->folded->d_head;
    const abl_tensor *parts[ABL_ACDC_TRIALS_MAX + 1];
    abl_tensor *kept = abl_acdc_last(run, run->kept[b].z, positions);
    for (int64_t u = 0; u < units; u++) {
        abl_tensor *z = abl_tensor_slice(scope, kept, 2, block->units[u] * heads,
                                         (block->units[u] + 1) * heads);
        parts[u] = abl_tensor_unsqueeze(scope, z, 0);
    }
    const int64_t split[] = {run->trial_count, run->size, positions, heads, d_head};
    parts[units] = abl_tensor_view(scope, own, 5, split);
    abl_tensor *table = abl_tensor_cat(scope, parts, (size_t)units + 1, 0);
    ABL_CLEANUP(abl_freep)
    int64_t *ids = abl_calloc((size_t)(run->trial_count * units), sizeof *ids);
    if (ids == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (int32_t k = 0; k < run->trial_count; k++) {
        for (int64_t u = 0; u < units; u++) {
            bool is_own = abl_acdc_plan_unit(plan, run->trials[k].row) == block->units[u];
            ids[k * units + u] = is_own ? units + k : k > 0 ? ids[(k - 1) * units + u] : u;
        }
    }
    table = abl_tensor_index_select(scope, table, 0,
                                    abl_acdc_indices(run, ids, run->trial_count * units));
    const int64_t states[] = {run->trial_count, units, run->size, positions, heads, d_head};
    const int64_t order[] = {0, 2, 3, 1, 4, 5};
    table = abl_tensor_permute(scope, abl_tensor_view(scope, table, 6, states), 6, order);
    return abl_tensor_reshape(
        scope, table, 4, (const int64_t[]){abl_acdc_rows(run), positions, units * heads, d_head});
}

abl_tensor *abl_acdc_trials_z(abl_acdc_delta_run *run, int32_t b, const abl_tensor *normed) {
    for (int role = 0; role < ABL_ACDC_ROLES; role++) {
        table_fill(run, b, (abl_acdc_role)role, normed);
    }
    abl_tensor *q = role_of_trials(run, ABL_ACDC_Q);
    abl_tensor *k = role_of_trials(run, ABL_ACDC_K);
    abl_tensor *v = role_of_trials(run, ABL_ACDC_V);
    abl_tensor *z = abl_tensor_attention(run->trial_scope, abl_model_sees(run->model), q, k, v,
                                         abl_model_attn_scale(run->model), NULL, NULL);
    return units_of_trials(run, b, z);
}
