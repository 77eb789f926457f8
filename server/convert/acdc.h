/* acdc.h -- ACDC: its options in a job's spec, and what it has decided as messages.
 *
 * OWNERSHIP  Options point into the message; messages live in the arena.
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status; false elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_ACDC_H
#define ABLATE_SERVER_CONVERT_ACDC_H

#include "ablate/v1/prune.pb-c.h"
#include "core/base/arena.h"
#include "core/prune/prune.h"

#include <jansson.h>

ABL_BEGIN_DECLS

/* What the taus must be is the core's to check.
 *   INVALID_ARGUMENT  ALGORITHM_OPTIONS  candidate_count_max out of range */
ABL_MUST_CHECK abl_code abl_convert_acdc(const Ablate__V1__Acdc *message,
                                         abl_prune_options *options, abl_status *ret_status);

/* For provenance. */
void abl_convert_acdc_json(const abl_prune_options *options, json_t *root);

ABL_MUST_CHECK bool abl_convert_acdc_taus(abl_arena *arena, const abl_acdc_tau *taus, size_t count,
                                          Ablate__V1__AcdcTau ***ret_taus);
ABL_MUST_CHECK bool abl_convert_acdc_decisions(abl_arena *arena, const abl_graph *graph,
                                               const abl_acdc_decision *decisions, size_t count,
                                               Ablate__V1__AcdcDecision ***ret_decisions);

ABL_END_DECLS
#endif
