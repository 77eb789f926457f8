/* scores.h -- scores that clients make, and what is asked about scores without running anything.
 *
 * OWNERSHIP  Texts point into the messages; sizes live in the arena.
 * THREADS    Pure functions of their arguments, arenas apart.
 * ERRORS     Fallible calls return a code, fill *ret_status; what they write into is then void.
 */
#ifndef ABLATE_SERVER_CONVERT_SCORES_H
#define ABLATE_SERVER_CONVERT_SCORES_H

#include "ablate/v1/evaluate.pb-c.h"
#include "ablate/v1/prune.pb-c.h"
#include "core/graph/scores.h"
#include "server/convert/common.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

/* What can be told without the graph.
 *   INVALID_ARGUMENT  SCORES_MISSING, NAME_INVALID */
ABL_MUST_CHECK abl_code abl_convert_new_scores_check(
    const Ablate__V1__CreatePruneScoresRequest *message, abl_status *ret_status);
/* Fills `ret_values` (all 0 before), one value an edge; `mask` is the graph's.
 *   INVALID_ARGUMENT  SCORES_NOT_FINITE  a NaN; and those of edges and tensors (mask.h) */
ABL_MUST_CHECK abl_code abl_convert_new_scores(const Ablate__V1__CreatePruneScoresRequest *message,
                                               const abl_graph *graph, const abl_values *mask,
                                               abl_values *ret_values, abl_status *ret_status);

/* Circuit sizes as asked, in their order; none: `defaults`.
 *   INVALID_ARGUMENT    CIRCUIT_SIZE_INVALID  outside 0..edge_count
 *   RESOURCE_EXHAUSTED  CIRCUIT_COUNT         more than ABL_CIRCUIT_COUNT_MAX */
ABL_MUST_CHECK abl_code abl_convert_sizes(const int64_t *asked, size_t asked_count,
                                          const abl_edge_counts_options *defaults,
                                          int64_t edge_count, abl_arena *arena, int64_t **ret_sizes,
                                          int32_t *ret_count, abl_status *ret_status);

/* The reference circuit, a byte an edge; `reference` are the scores of reference_job_id, or NULL.
 *   INVALID_ARGUMENT  CIRCUIT_SIZE_INVALID, and those of edges (mask.h) */
ABL_MUST_CHECK abl_code abl_convert_reference(const Ablate__V1__MeasureRocRequest *message,
                                              const abl_graph *graph, const abl_values *reference,
                                              uint8_t *ret_in_reference, int64_t *ret_count,
                                              abl_status *ret_status);

ABL_END_DECLS
#endif
