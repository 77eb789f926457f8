/* similarity.h -- how much two sets of scores agree, and how well one finds a reference circuit.
 *
 * Scores are float[count] over one graph's edges; an edge's rank is by |score|.
 *
 * OWNERSHIP  Nothing is kept.
 * THREADS    Any thread.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_METRIC_SIMILARITY_H
#define ABLATE_CORE_METRIC_SIMILARITY_H

#include "core/metric/area.h"

ABL_BEGIN_DECLS

/* The circuits of one size that two sets of scores make. */
typedef struct abl_overlap {
    int64_t a; /* edges in the first's circuit: more than the size, with ties */
    int64_t b;
    int64_t common;
    double similarity; /* AutoCircuit's prune_score_similarities: common / size; NAN when ties
                          make one of them larger, and for size 0 */
    double jaccard;    /* common / edges in either; NAN when both are empty */
} abl_overlap;

/*   INVALID_ARGUMENT    CIRCUIT_SIZE_INVALID  a size outside 0..count
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_similarity_overlaps(const float *a, const float *b, int64_t count,
                                                const int64_t *sizes, int32_t size_count,
                                                abl_overlap *ret_overlaps, abl_status *ret_status);

typedef struct abl_correlations {
    double spearman; /* of |score|, ties at the mean of their ranks; NAN when one is constant */
    double pearson;  /* of the scores, signs included; likewise */
} abl_correlations;

ABL_MUST_CHECK abl_code abl_similarity_correlations(const float *a, const float *b, int64_t count,
                                                    abl_correlations *ret_correlations,
                                                    abl_status *ret_status);

/* Receiver operating characteristic of "|score| is at least some threshold" as a test for
 * in_reference (one byte an edge). Points (false positive rate, true positive rate): (0, 0), one a
 * size, (1, 1), as AutoCircuit's measure_task_roc(): size_count + 2 of them. *ret_area is that of
 * the whole curve, through every threshold that there is, whatever the sizes; chance is 0.5.
 *   INVALID_ARGUMENT  CIRCUIT_SIZE_INVALID
 *   INVALID_ARGUMENT  REFERENCE_TRIVIAL  no edge is in the reference, or every edge is */
ABL_MUST_CHECK abl_code abl_similarity_roc(const float *scores, int64_t count,
                                           const uint8_t *in_reference, const int64_t *sizes,
                                           int32_t size_count, abl_point *ret_points,
                                           double *ret_area, abl_status *ret_status);

ABL_END_DECLS
#endif
