/* SPDX-License-Identifier: Apache-2.0
 *
 * Scores are masks without the rule that they be finite: ACDC's kept edges score infinity. A NaN
 * ranks nowhere, so it is refused by its edge's name. */
#include "server/convert/scores.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "server/convert/graph.h"
#include "server/convert/mask.h"

#include <math.h>
#include <string.h>

abl_code abl_convert_new_scores_check(const Ablate__V1__CreatePruneScoresRequest *message,
                                      abl_status *ret_status) {
    bool none =
        message->scores_case == ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES__NOT_SET ||
        (message->scores_case == ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_CURRENT_MASK &&
         !message->current_mask);
    if (none) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SCORES_MISSING",
                        "none of init_val, edges, modules and current_mask is given; give one");
    }
    if (message->origin[0] == '\0') {
        return ABL_CODE_OK;
    }
    return abl_convert_name("origin", message->origin, ABL_NAME_BYTES_MAX, ret_status);
}

static abl_code refuse_nan(const abl_graph *graph, const abl_values *values,
                           abl_status *ret_status) {
    for (int64_t i = 0; i < values->count; i++) {
        if (isnan(values->values[i])) {
            char name[ABL_NAME_BYTES_MAX + 1];
            (void)abl_graph_format_edge(graph, abl_graph_edge_at(graph, i), ABL_DIALECT_AUTOCIRCUIT,
                                        name, sizeof name);
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SCORES_NOT_FINITE",
                            "the score of edge '%s' is not a number", name);
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_convert_new_scores(const Ablate__V1__CreatePruneScoresRequest *message,
                                const abl_graph *graph, const abl_values *mask,
                                abl_values *ret_values, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    switch ((int)message->scores_case) {
    case ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_INIT_VAL:
        for (int64_t i = 0; i < ret_values->count; i++) {
            ret_values->values[i] = message->init_val;
        }
        break;
    case ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_EDGES:
        code = abl_convert_edge_values(message->edges->edges, message->edges->n_edges, graph,
                                       ret_values, ret_status);
        break;
    case ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_MODULES:
        for (size_t i = 0; code == ABL_CODE_OK && i < message->modules->n_tensors; i++) {
            code = abl_convert_module_values(message->modules->tensors[i], graph, ret_values,
                                             ret_status);
        }
        break;
    default:
        ABL_ASSERT(mask->count == ret_values->count);
        memcpy(ret_values->values, mask->values, (size_t)mask->count * sizeof(float));
        break;
    }
    return code == ABL_CODE_OK ? refuse_nan(graph, ret_values, ret_status) : code;
}

abl_code abl_convert_sizes(const int64_t *asked, size_t asked_count,
                           const abl_edge_counts_options *defaults, int64_t edge_count,
                           abl_arena *arena, int64_t **ret_sizes, int32_t *ret_count,
                           abl_status *ret_status) {
    if (asked_count > ABL_CIRCUIT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "CIRCUIT_COUNT",
                        "edge_counts has %zu sizes; at most %d are taken", asked_count,
                        ABL_CIRCUIT_COUNT_MAX);
    }
    int64_t *sizes = abl_arena_alloc(arena, ABL_CIRCUIT_COUNT_MAX * sizeof *sizes);
    if (sizes == NULL) {
        return abl_fail_oom(ret_status);
    }
    int32_t count = (int32_t)asked_count;
    for (int32_t i = 0; i < count; i++) {
        sizes[i] = asked[i];
        if (sizes[i] < 0 || sizes[i] > edge_count) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                            "edge_counts[%d] is %lld; it must be 0 to %lld, the edges of the job's "
                            "graph",
                            i, (long long)sizes[i], (long long)edge_count);
        }
    }
    if (count == 0) {
        abl_code code =
            abl_edge_counts(defaults, edge_count, sizes, ABL_CIRCUIT_COUNT_MAX, &count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    *ret_sizes = sizes;
    *ret_count = count;
    return ABL_CODE_OK;
}

/* The edges of the names, or of nonzero score, or the best `reference_edge_count`. */
static abl_code reference_values(const Ablate__V1__MeasureRocRequest *message,
                                 const abl_graph *graph, const abl_values *reference,
                                 uint8_t *ret_in_reference, abl_status *ret_status) {
    const int64_t count = abl_graph_edge_count(graph);
    if (reference != NULL) {
        float threshold = 0;
        int64_t size = message->reference_edge_count;
        if (size == 0) {
            for (int64_t i = 0; i < count; i++) {
                ret_in_reference[i] = reference->values[i] != 0.0F;
            }
            return ABL_CODE_OK;
        }
        abl_code code =
            abl_scores_thresholds(reference->values, count, &size, 1, &threshold, ret_status);
        if (code == ABL_CODE_OK) {
            (void)abl_scores_circuit(reference->values, count, threshold, ret_in_reference);
        }
        return code;
    }
    const int32_t positions = abl_graph_seq_count(graph);
    for (size_t i = 0; i < message->edges->n_names; i++) {
        abl_edge edge;
        abl_code code = abl_convert_edge(graph, message->edges->names[i], 0, &edge, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        bool every = edge.seq == ABL_SEQ_EVERY;
        int32_t end = every ? positions : edge.seq + 1;
        for (edge.seq = every ? 0 : edge.seq; edge.seq < end; edge.seq++) {
            ret_in_reference[abl_graph_edge_index(graph, edge)] = 1;
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_convert_reference(const Ablate__V1__MeasureRocRequest *message, const abl_graph *graph,
                               const abl_values *reference, uint8_t *ret_in_reference,
                               int64_t *ret_count, abl_status *ret_status) {
    abl_code code = reference_values(message, graph, reference, ret_in_reference, ret_status);
    int64_t found = 0;
    for (int64_t i = 0; code == ABL_CODE_OK && i < abl_graph_edge_count(graph); i++) {
        found += ret_in_reference[i] != 0;
    }
    if (code == ABL_CODE_OK) {
        *ret_count = found;
    }
    return code;
}
