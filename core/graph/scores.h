/* scores.h -- what is done with one number per edge: ranks, thresholds, circuits, module tensors.
 *
 * Values are float[abl_graph_edge_count()] in the graph's canonical order, in the caller's memory.
 * The rank of an edge is by |value|, descending; ties go to the lower index, so every answer is
 * reproducible. A NaN ranks below everything.
 *
 * OWNERSHIP  Nothing is kept: arrays are the caller's.
 * THREADS    Any thread.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_GRAPH_SCORES_H
#define ABLATE_CORE_GRAPH_SCORES_H

#include "core/graph/graph.h"

ABL_BEGIN_DECLS

/* The shape of one module's tensor: [seq?, heads?, sources]. rank is 1 to 3. */
typedef struct abl_scores_shape {
    int32_t rank;
    int64_t dims[3];
    int64_t count; /* product of dims */
} abl_scores_shape;

abl_scores_shape abl_scores_module_shape(const abl_graph *graph, int32_t module);
/* Copies a module's tensor (row major, abl_scores_module_shape()) out of, or into, flat values. */
void abl_scores_read_module(const abl_graph *graph, const float *values, int32_t module,
                            float *ret_tensor);
void abl_scores_write_module(const abl_graph *graph, float *values, int32_t module,
                             const float *tensor);

/* The indices of the k values of highest |value|, best first; returns how many (k, or count when
 * that is smaller). Partial selection: O(count + k log k). `eligible` (NULL: all) has one byte an
 * edge: 0 leaves it out.
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_scores_top(const float *values, int64_t count, const uint8_t *eligible,
                                       int64_t k, int64_t *ret_indices, int64_t *ret_count,
                                       abl_status *ret_status);

/* AutoCircuit's thresholds: for each size the |value| of that rank; +infinity for size 0, so that
 * no edge is in. A circuit is every edge with |value| >= threshold: ties enlarge it.
 *   INVALID_ARGUMENT    CIRCUIT_SIZE_INVALID  negative, or more than count
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_scores_thresholds(const float *values, int64_t count,
                                              const int64_t *sizes, int32_t size_count,
                                              float *ret_thresholds, abl_status *ret_status);

/* in_circuit[i] = |values[i]| >= threshold; returns how many are. ret_in_circuit may be NULL. */
int64_t abl_scores_circuit(const float *values, int64_t count, float threshold,
                           uint8_t *ret_in_circuit);

/* Values that rank by |value| as `values` rank by themselves, the largest first (ties kept, a NaN
 * last): for circuits by signed scores. They are ranks in the clothes of floats, for nothing else.
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_scores_by_value(const float *values, int64_t count, float *ret_values,
                                            abl_status *ret_status);

/* Circuit sizes, as AutoCircuit's edge_counts_util() makes them. */
typedef enum abl_edge_counts_kind {
    ABL_EDGE_COUNTS_DEFAULT = 0, /* GROUPS when the values have few ties groups (fewer than 100, and
                                    than half of n); else ALL up to 200 edges, else LOGARITHMIC */
    ABL_EDGE_COUNTS_ALL,         /* 0, 1, ..., n */
    ABL_EDGE_COUNTS_LOGARITHMIC, /* 1..9, 10, 20, ..90, 100, ... */
    ABL_EDGE_COUNTS_GROUPS,      /* cumulative sizes of ties of |value|, descending */
    ABL_EDGE_COUNTS_LIST,        /* the caller's */
} abl_edge_counts_kind;

/* Whether an end of the range is in the list. */
typedef enum abl_edge_counts_end {
    ABL_EDGE_COUNTS_END_DEFAULT = 0, /* added when there are more than two sizes without it */
    ABL_EDGE_COUNTS_END_ADD,
    ABL_EDGE_COUNTS_END_REMOVE,
} abl_edge_counts_end;

typedef struct abl_edge_count {
    double value;
    bool is_fraction; /* of all edges, truncated */
} abl_edge_count;

typedef struct abl_edge_counts_options {
    abl_edge_counts_kind kind;
    const abl_edge_count *list; /* kind LIST */
    int32_t list_count;
    const float *values;      /* kinds GROUPS and DEFAULT; NULL: none */
    int64_t true_edge_count;  /* also this size; 0: none */
    abl_edge_counts_end zero; /* size 0 */
    abl_edge_counts_end all;  /* size n */
} abl_edge_counts_options;

/* Writes the sizes, ascending, into the caller's array of `capacity` (ABL_CIRCUIT_COUNT_MAX is the
 * most that a sweep takes).
 *   INVALID_ARGUMENT    CIRCUIT_SIZE_INVALID  a size outside 0..edge_count, GROUPS without values
 *   RESOURCE_EXHAUSTED  CIRCUIT_COUNT         more sizes than the capacity */
ABL_MUST_CHECK abl_code abl_edge_counts(const abl_edge_counts_options *options, int64_t edge_count,
                                        int64_t *ret_sizes, int32_t capacity, int32_t *ret_count,
                                        abl_status *ret_status);

/* Sums each group's K and V edges of an expanded graph's values into a native graph's. */
void abl_scores_group(const abl_graph *expanded, const float *expanded_values,
                      const abl_graph *native, float *ret_native_values);

ABL_END_DECLS
#endif
