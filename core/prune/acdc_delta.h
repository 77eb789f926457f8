/* acdc_delta.h -- what the fast evaluator of ACDC keeps, and its trials; internal to acdc_delta.c,
 * acdc_pass.c and acdc_tables.c.
 *
 * OWNERSHIP  The evaluator owns it all.
 * THREADS    The device's executor thread only.
 * ERRORS     Sticky in the trials' scope.
 */
#ifndef ABLATE_CORE_PRUNE_ACDC_DELTA_H
#define ABLATE_CORE_PRUNE_ACDC_DELTA_H

#include "core/patch/folded.h"
#include "core/patch/sources.h"
#include "core/prune/acdc.h"
#include "core/prune/acdc_plan.h"

ABL_BEGIN_DECLS

/* One block under what is removed for good. Tensors are the state's own, written in place. */
typedef struct abl_acdc_kept {
    abl_tensor *q; /* (batch, seq, heads, d_head), rotated; the graph's heads */
    abl_tensor *k; /* (batch, prefix + seq, heads, d_head) */
    abl_tensor *v;
    abl_tensor *z;       /* (batch, seq, heads, d_head) */
    abl_tensor **inputs; /* a group: (batch, seq - from, d_model); 0: the rows without removals; row
                            r's own is r + 1; NULL where there is none */
    abl_tensor *mlp_in;  /* (batch, seq - from, d_model) */
    abl_tensor *mlp_out; /* (batch, seq, d_model) */
} abl_acdc_kept;

/* What a trial computed for a kept tensor: adopted when its removals are for good. */
typedef struct abl_acdc_record {
    abl_tensor *target; /* (batch, ...) */
    abl_tensor *heads;  /* which of dimension 2, I64; NULL: all of the target */
    abl_tensor *value;  /* (trials * batch, ...) */
} abl_acdc_record;

/* One trial on an attention destination: where its new projections are in the roles' tables, and
 * which trial before it, if any, wrote the same row. */
typedef struct abl_acdc_trial {
    int64_t edge;
    abl_edge at;
    int32_t row; /* -1: not attention */
    int32_t before;
    int32_t table[ABL_ACDC_ROLES]; /* -1: that projection did not change */
} abl_acdc_trial;

typedef struct abl_acdc_delta_run {
    abl_acdc_evaluator base;
    const abl_prune *prune;
    const abl_model *model;
    const abl_model_config *config;
    abl_batch batch;
    int64_t size; /* of the batch */
    int64_t seq;
    int64_t width;
    int64_t front; /* tokens of the batch's prefix */
    int64_t from;  /* positions below it have no differences: they are the clean run's */
    int64_t tail;  /* seq - from */
    abl_folded *folded;
    abl_scope *scope; /* of the batch: clean run, differences, effect */
    abl_sources *clean;
    abl_differences differences;
    uint8_t *silent; /* (sources, positions of the graph): no difference there */
    abl_effect effect;
    abl_acdc_plan *plan;

    /* since the last reset */
    abl_scope *kept_scope;
    abl_acdc_kept *kept; /* a block; those below `opened` are clean, and not made */
    int32_t opened;
    abl_tensor *end; /* (batch, 1, d_model): what the end reads */
    int32_t layer;   /* of the destinations in hand; -1: none yet */
    int32_t block;   /* whose attention is in hand; -1 */

    /* of the last try */
    abl_scope *trial_scope;
    abl_acdc_trial trials[ABL_ACDC_TRIALS_MAX];
    int32_t trial_count;
    abl_tensor *inputs; /* (trials, batch, positions, d_model) of the destinations */
    abl_tensor
        *tables[ABL_ACDC_ROLES]; /* (entries, batch, positions, d_head): kept heads, then new */
    abl_acdc_record *records;
    int32_t record_count;
    abl_tensor *stream; /* (rows, positions, d_model): the stream's change; NULL: none, or unread */
    abl_tensor *changes; /* (slots, rows, tail, d_model): sources' own changes */
} abl_acdc_delta_run;

/* The effects of the planned trials, from their edges on. */
void abl_acdc_pass(abl_acdc_delta_run *run, double *ret_effects);
/* Positions that block's attention output and MLP are computed at: of the last block one. */
int64_t abl_acdc_positions(const abl_acdc_delta_run *run, int32_t block);

/* Attention trials' z of all units that they are on, as of each trial, from their destinations'
 * normed inputs (trials, batch, positions, d): (rows, positions, heads of the units, d_head). */
abl_tensor *abl_acdc_trials_z(abl_acdc_delta_run *run, int32_t block, const abl_tensor *normed);

/* trials * batch. */
int64_t abl_acdc_rows(const abl_acdc_delta_run *run);
/* The last `positions` of x along dimension 1. */
abl_tensor *abl_acdc_last(abl_acdc_delta_run *run, const abl_tensor *x, int64_t positions);
abl_tensor *abl_acdc_indices(abl_acdc_delta_run *run, const int64_t *values, int64_t count);
/* Heads begin..end of a role from normed (rows, positions, d), rotated: (rows, positions, heads,
 * d_head). */
abl_tensor *abl_acdc_project(abl_acdc_delta_run *run, int32_t block, abl_acdc_role role,
                             const abl_tensor *normed, int64_t begin, int64_t end);
abl_tensor *abl_acdc_kept_role(const abl_acdc_delta_run *run, int32_t block, abl_acdc_role role);
/* The kept keys or values of heads begin..end before the positions that are computed. */
abl_tensor *abl_acdc_before(abl_acdc_delta_run *run, const abl_tensor *kept, int64_t begin,
                            int64_t end);

ABL_END_DECLS
#endif
