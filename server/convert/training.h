/* training.h -- trainings of masks: their options in a job's spec, and their curves as messages.
 *
 * OWNERSHIP  Options point into the message; messages live in the arena.
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status; NULL elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_TRAINING_H
#define ABLATE_SERVER_CONVERT_TRAINING_H

#include "ablate/v1/prune.pb-c.h"
#include "core/base/arena.h"
#include "core/prune/prune.h"

#include <jansson.h>

ABL_BEGIN_DECLS

/* With defaults filled in. The numbers' ranges are the core's to check, as they depend on the graph
 * and the prompts.
 *   INVALID_ARGUMENT  ALGORITHM_OPTIONS, CIRCUIT_SIZE_INVALID (knockouts_of) */
ABL_MUST_CHECK abl_code abl_convert_subnetwork_probing(const Ablate__V1__SubnetworkProbing *message,
                                                       abl_prune_options *options,
                                                       abl_status *ret_status);
/* What knockouts_of adds, once its circuit is there: a byte an edge, borrowed. */
void abl_convert_knockouts(const Ablate__V1__CircuitMask *message, const uint8_t *in_circuit,
                           int64_t edge_count, abl_prune_options *options);
ABL_MUST_CHECK abl_code abl_convert_circuit_probing(const Ablate__V1__CircuitProbing *message,
                                                    abl_prune_options *options,
                                                    abl_status *ret_status);
/* Unspecified: `otherwise`. */
abl_mask_function abl_convert_mask_function(Ablate__V1__MaskFunction function,
                                            abl_mask_function otherwise);

/* A JSON number, or where JSON's readers would lose bits of it (over 2^53) its digits as text. */
json_t *abl_convert_seed_json(uint64_t seed);

/* For provenance. */
void abl_convert_training_json(const abl_prune_options *options, json_t *root);

/* `count` points; *ret_points NULL only without memory. */
ABL_MUST_CHECK bool abl_convert_training_points(abl_arena *arena, const abl_training_point *points,
                                                size_t count,
                                                Ablate__V1__TrainingPoint ***ret_points);

ABL_END_DECLS
#endif
