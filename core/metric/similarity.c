// SPDX-License-Identifier: Apache-2.0
/* Comparing scores over the same edges. Everything starts from one order of the edges by |score|
 * (abl_scores_top() of all of them) and walks it in groups of ties, which are what thresholds can
 * tell apart. */
#include "core/metric/similarity.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"

#include <math.h>

/* ---- circuits of one size -------------------------------------------------------------------- */

static abl_overlap overlap_of(const float *a, const float *b, int64_t count, float a_threshold,
                              float b_threshold, int64_t size) {
    abl_overlap out = {.similarity = NAN, .jaccard = NAN};
    for (int64_t i = 0; i < count; i++) {
        bool in_a = fabsf(a[i]) >= a_threshold;
        bool in_b = fabsf(b[i]) >= b_threshold;
        out.a += in_a;
        out.b += in_b;
        out.common += in_a && in_b;
    }
    int64_t either = out.a + out.b - out.common;
    if (out.a == size && out.b == size && size > 0) {
        out.similarity = (double)out.common / (double)size;
    }
    if (either > 0) {
        out.jaccard = (double)out.common / (double)either;
    }
    return out;
}

abl_code abl_similarity_overlaps(const float *a, const float *b, int64_t count,
                                 const int64_t *sizes, int32_t size_count,
                                 abl_overlap *ret_overlaps, abl_status *ret_status) {
    ABL_CLEANUP(abl_freep)
    float *thresholds = abl_calloc(2 * (size_t)size_count + 1, sizeof *thresholds);
    if (thresholds == NULL) {
        return abl_fail_oom(ret_status);
    }
    float *b_thresholds = thresholds + size_count;
    abl_code code = abl_scores_thresholds(a, count, sizes, size_count, thresholds, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_scores_thresholds(b, count, sizes, size_count, b_thresholds, ret_status);
    }
    for (int32_t i = 0; code == ABL_CODE_OK && i < size_count; i++) {
        ret_overlaps[i] = overlap_of(a, b, count, thresholds[i], b_thresholds[i], sizes[i]);
    }
    return code;
}

/* ---- correlations ---------------------------------------------------------------------------- */

/* All edges, best first. */
static abl_code order_of(const float *scores, int64_t count, int64_t **ret_order,
                         abl_status *ret_status) {
    int64_t *order = abl_calloc((size_t)count + 1, sizeof *order);
    if (order == NULL) {
        return abl_fail_oom(ret_status);
    }
    int64_t written = 0;
    abl_code code = abl_scores_top(scores, count, NULL, count, order, &written, ret_status);
    if (code != ABL_CODE_OK) {
        abl_free(order);
        return code;
    }
    *ret_order = order;
    return ABL_CODE_OK;
}

/* The end of the group of ties that starts at order[begin]. */
static int64_t group_end(const float *scores, const int64_t *order, int64_t count, int64_t begin) {
    int64_t end = begin + 1;
    while (end < count && fabsf(scores[order[end]]) == fabsf(scores[order[begin]])) {
        end++;
    }
    return end;
}

/* Each edge's rank by |score|, ties at the mean of theirs. */
static abl_code ranks_of(const float *scores, int64_t count, double *ret_ranks,
                         abl_status *ret_status) {
    int64_t *order = NULL;
    abl_code code = order_of(scores, count, &order, ret_status);
    for (int64_t begin = 0; code == ABL_CODE_OK && begin < count;) {
        int64_t end = group_end(scores, order, count, begin);
        for (int64_t i = begin; i < end; i++) {
            ret_ranks[order[i]] = (double)(begin + end - 1) / 2;
        }
        begin = end;
    }
    abl_free(order);
    return code;
}

static double mean_of(const double *values, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return sum / (double)count;
}

static double correlate(const double *a, const double *b, int64_t count) {
    double a_mean = mean_of(a, count);
    double b_mean = mean_of(b, count);
    double ab = 0;
    double aa = 0;
    double bb = 0;
    for (int64_t i = 0; i < count; i++) {
        ab += (a[i] - a_mean) * (b[i] - b_mean);
        aa += (a[i] - a_mean) * (a[i] - a_mean);
        bb += (b[i] - b_mean) * (b[i] - b_mean);
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

abl_code abl_similarity_correlations(const float *a, const float *b, int64_t count,
                                     abl_correlations *ret_correlations, abl_status *ret_status) {
    ABL_CLEANUP(abl_freep) double *values = abl_calloc(2 * (size_t)count + 1, sizeof *values);
    if (values == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)a[i];
        values[count + i] = (double)b[i];
    }
    abl_correlations out = {.pearson = correlate(values, values + count, count)};
    abl_code code = ranks_of(a, count, values, ret_status);
    if (code == ABL_CODE_OK) {
        code = ranks_of(b, count, values + count, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    out.spearman = correlate(values, values + count, count);
    *ret_correlations = out;
    return ABL_CODE_OK;
}

/* ---- against a reference --------------------------------------------------------------------- */

/* Walks the thresholds down: the area, and hits[i] = edges of the reference in the circuit of i
 * edges or, within a tie, of the tie's end; ends[i] is that end. */
typedef struct roc_walk {
    int64_t *hits; /* (count + 1) */
    int64_t *ends;
    double area;
} roc_walk;

static void walk(const float *scores, const int64_t *order, int64_t count,
                 const uint8_t *in_reference, int64_t positives, roc_walk *out) {
    int64_t hits = 0;
    int64_t area = 0; /* times 2 positives negatives: whole, and below 2^55 */
    out->hits[0] = out->ends[0] = 0;
    for (int64_t begin = 0; begin < count;) {
        int64_t end = group_end(scores, order, count, begin);
        int64_t before = hits;
        for (int64_t i = begin; i < end; i++) {
            hits += in_reference[order[i]] != 0;
        }
        for (int64_t i = begin + 1; i <= end; i++) {
            out->hits[i] = hits;
            out->ends[i] = end;
        }
        area += (end - begin - (hits - before)) * (before + hits);
        begin = end;
    }
    out->area = (double)area / (2 * (double)positives * (double)(count - positives));
}

static abl_code sizes_check(const int64_t *sizes, int32_t size_count, int64_t count,
                            abl_status *ret_status) {
    for (int32_t i = 0; i < size_count; i++) {
        if (sizes[i] < 0 || sizes[i] > count) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                            "size %lld is outside 0..%lld, the number of edges",
                            (long long)sizes[i], (long long)count);
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_similarity_roc(const float *scores, int64_t count, const uint8_t *in_reference,
                            const int64_t *sizes, int32_t size_count, abl_point *ret_points,
                            double *ret_area, abl_status *ret_status) {
    abl_code code = sizes_check(sizes, size_count, count, ret_status);
    int64_t positives = 0;
    for (int64_t i = 0; i < count; i++) {
        positives += in_reference[i] != 0;
    }
    if (code == ABL_CODE_OK && (positives == 0 || positives == count)) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "REFERENCE_TRIVIAL",
                        "the reference has %lld of %lld edges; a curve needs edges in it and "
                        "edges outside",
                        (long long)positives, (long long)count);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    int64_t *order = NULL;
    code = order_of(scores, count, &order, ret_status);
    roc_walk out = {.hits = abl_calloc((size_t)count + 1, sizeof *out.hits),
                    .ends = abl_calloc((size_t)count + 1, sizeof *out.ends)};
    if (code == ABL_CODE_OK && (out.hits == NULL || out.ends == NULL)) {
        code = abl_fail_oom(ret_status);
    }
    if (code == ABL_CODE_OK) {
        walk(scores, order, count, in_reference, positives, &out);
        ret_points[0] = (abl_point){0, 0};
        for (int32_t i = 0; i < size_count; i++) {
            int64_t hits = out.hits[sizes[i]];
            int64_t misses = out.ends[sizes[i]] - hits;
            ret_points[i + 1] = (abl_point){(double)misses / (double)(count - positives),
                                            (double)hits / (double)positives};
        }
        ret_points[size_count + 1] = (abl_point){1, 1};
        *ret_area = out.area;
    }
    abl_free(order);
    abl_free(out.hits);
    abl_free(out.ends);
    return code;
}
