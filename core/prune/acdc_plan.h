/* acdc_plan.h -- which parts of the model a trial of ACDC changes; no tensors. Internal to
 * core/prune.
 *
 * A trial removes edges into one layer. Above it a destination changes when a kept edge joins it to
 * a source that changed, and matters when a kept path leads from it to the end: it is live. The
 * input of a changed destination is what it was plus the changes of its kept sources; a mix says
 * how that sum is made: of the kept sources one by one, or of the whole stream's change less those
 * of the removed ones, whichever are fewer.
 *
 * OWNERSHIP  abl_acdc_plan_create() hands the plan to the caller; it borrows the graph.
 * THREADS    One at a time.
 * ERRORS     create returns NULL without memory; nothing else fails.
 */
#ifndef ABLATE_CORE_PRUNE_ACDC_PLAN_H
#define ABLATE_CORE_PRUNE_ACDC_PLAN_H

#include "core/graph/graph.h"

ABL_BEGIN_DECLS

typedef enum abl_acdc_role { ABL_ACDC_Q, ABL_ACDC_K, ABL_ACDC_V, ABL_ACDC_ROLES } abl_acdc_role;

/* Where a block's nodes are. Rows are its attention destinations in graph order: q heads, key
 * heads, value heads, or joined ones. A unit is a key/value head with the query heads that read it.
 */
typedef struct abl_acdc_block {
    int32_t row_dest; /* of row 0; -1: no attention */
    int32_t head_src; /* of head 0 */
    int32_t mlp_dest; /* -1: no MLP, as for its source */
    int32_t mlp_src;

    /* of the trial planned last */
    int32_t *units; /* that change, ascending */
    int32_t unit_count;
    int32_t *row_mix;  /* a row: its mix, or -1: unchanged */
    int32_t mix_begin; /* of the rows' mixes */
    int32_t mix_end;
    int32_t mlp_mix; /* -1: unchanged */
} abl_acdc_block;

typedef struct abl_acdc_mix {
    int32_t dest;     /* one whose input it is */
    int32_t group;    /* of the rows whose input it is */
    int32_t row;      /* one of them; -1: not attention */
    bool from_stream; /* the stream's change less the removed sources', not the sum of the kept */
    bool has_terms;
} abl_acdc_mix;

typedef struct abl_acdc_plan {
    const abl_graph *graph;
    int32_t block_count;
    int32_t row_count;
    int32_t unit_count; /* of a block */
    int32_t unit_heads; /* query heads of a unit */
    int32_t positions;  /* of the graph */
    bool joined;
    bool parallel;
    bool causal;
    int32_t end_dest;
    abl_acdc_block *blocks;
    uint8_t *removed;   /* an edge: 1 when it is removed */
    uint8_t *live_src;  /* (sources, positions) */
    uint8_t *live_dest; /* (destinations, positions) */
    int32_t *group_of;  /* (blocks, rows): rows of one group have one input; 0: nothing removed */

    /* of the trial planned last */
    abl_acdc_mix *mixes;
    int32_t mix_count;
    int32_t end_mix;      /* -1: the end does not change */
    uint8_t *changed;     /* a source */
    int32_t *slot_of_src; /* sources whose own changes some mix needs, numbered upwards; -1 */
    int32_t slot_count;
    int32_t stream_dest; /* the last destination that reads the stream's change; -1: none */
} abl_acdc_plan;

/* Factorized graphs; `causal`: attention looks back only. NULL: no memory. */
abl_acdc_plan *abl_acdc_plan_create(const abl_graph *graph, bool causal);
void abl_acdc_plan_destroy(abl_acdc_plan *plan); /* NULL is allowed */

/* No edge is removed. */
void abl_acdc_plan_reset(abl_acdc_plan *plan);
/* What is live, as things stand. */
void abl_acdc_plan_liveness(abl_acdc_plan *plan);
/* Whether a destination is, at any position. */
bool abl_acdc_plan_is_live(const abl_acdc_plan *plan, int32_t dest);
/* Rows of the block whose groups are their own, not 0, and that have the same edges removed, become
 * one group: that of the first. */
void abl_acdc_plan_regroup(abl_acdc_plan *plan, int32_t block);

/* Plans trials on edges into these units (ascending) of a block's attention, or its MLP, or the
 * end: what changes at most. */
void abl_acdc_plan_attention(abl_acdc_plan *plan, int32_t block, const int32_t *units,
                             int32_t unit_count);
void abl_acdc_plan_mlp(abl_acdc_plan *plan, int32_t block);
void abl_acdc_plan_end(abl_acdc_plan *plan);

/* The row of an attention destination in its block, and the unit that it belongs to. */
int32_t abl_acdc_plan_row(const abl_acdc_plan *plan, const abl_graph_dest *dest);
int32_t abl_acdc_plan_unit(const abl_acdc_plan *plan, int32_t row);
/* The row that a head's projection is read from. */
int32_t abl_acdc_plan_row_at(const abl_acdc_plan *plan, abl_acdc_role role, int32_t head);
/* Sources of a mix below this one have slots below it. */
int32_t abl_acdc_plan_slots_below(const abl_acdc_plan *plan, int32_t src);
/* What the change of slot `slot`'s source counts in the mix at a position: -1, 0 or 1. */
float abl_acdc_plan_factor(const abl_acdc_plan *plan, const abl_acdc_mix *mix, int32_t src,
                           int32_t position);

ABL_END_DECLS
#endif
