/* completeness.h -- same under knockouts: does a circuit answer as the model does when both lose
 * the same edges? (Wang et al. 2022, arXiv:2211.00593; AutoCircuit's same_under_knockout.)
 *
 * OWNERSHIP  abl_completeness_create() hands it to the caller; it borrows model, graph, dataset and
 *            score arrays until abl_completeness_destroy().
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_METRIC_COMPLETENESS_H
#define ABLATE_CORE_METRIC_COMPLETENESS_H

#include "core/patch/circuits.h"

ABL_BEGIN_DECLS

typedef struct abl_completeness abl_completeness;

typedef struct abl_completeness_options {
    abl_circuits_options circuits; /* scores; sizes and sets are ignored, patch type is TREE, slice
                                      LAST_SEQ */
    int64_t circuit_size;          /* edges of largest |score|; ties enlarge the circuit */
    const float *knockouts;        /* (edges), scores too: one is knocked out when its score ... */
    float knockout_threshold;      /* ... (not its size) is at least this */
} abl_completeness_options;

typedef struct abl_completeness_result {
    int64_t circuit_size;   /* actual */
    int64_t knockout_count; /* edges of the circuit that are knocked out */
    double kl;              /* KL(model || circuit), nats, mean over prompts */
    double knockout_kl;     /* the same, with the knockouts in both */
} abl_completeness_result;

/* As abl_circuits_create(), and CIRCUIT_SIZE_INVALID, SCORES_NOT_FINITE (knockouts too). */
ABL_MUST_CHECK abl_code abl_completeness_create(const abl_completeness_options *options,
                                                abl_completeness **ret_completeness,
                                                abl_status *ret_status);
void abl_completeness_destroy(abl_completeness *completeness); /* NULL is allowed */
/* One forward pass. */
ABL_MUST_CHECK abl_code abl_completeness_step(abl_completeness *completeness, bool *ret_finished,
                                              abl_status *ret_status);
/* Complete when finished. */
abl_completeness_result abl_completeness_read(const abl_completeness *completeness);
int64_t abl_completeness_bytes_estimate(const abl_completeness_options *options);

ABL_END_DECLS
#endif
