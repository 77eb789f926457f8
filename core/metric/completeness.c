// SPDX-License-Identifier: Apache-2.0
/* Same under knockouts is four circuits run on every batch:
 *
 *     set                        keeps                          against
 *     0  the model               all edges
 *     1  the circuit             the circuit's                  0: kl
 *     2  the model, knocked out  all but those knocked out
 *     3  the circuit, likewise   the circuit's but those        2: knockout_kl
 *
 * where the edges knocked out are the circuit's with a knockout score at the threshold or above. So
 * it is a run of circuits.c over four edge sets, whose batches are the outer loop: the logits of
 * sets 0 and 2 are kept until the next pass, which is compared with them. */
#include "core/metric/completeness.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/metric/metric.h"
#include "core/model/model.h"

#include <math.h>
#include <string.h>

#define SET_COUNT 4

struct abl_completeness {
    abl_circuits *circuits;
    abl_edge_set sets[SET_COUNT];
    int64_t *edges; /* of all sets */
    float *kept;    /* the logits of set 0, or 2 */
    double *values;
    int64_t knockout_count;
    double sums[2];
    int64_t rows;
};

static abl_code check_finite(const float *values, int64_t count, const char *what,
                             abl_status *ret_status) {
    for (int64_t i = 0; i < count; i++) {
        if (isnan(values[i])) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SCORES_NOT_FINITE",
                            "the %s score of edge %lld is not a number", what, (long long)i);
        }
    }
    return ABL_CODE_OK;
}

static abl_code sets_make(abl_completeness *out, const abl_completeness_options *o,
                          abl_status *ret_status) {
    const int64_t count = abl_graph_edge_count(o->circuits.graph);
    const float *scores = o->circuits.scores;
    float threshold = 0;
    abl_code code = check_finite(scores, count, "circuit's", ret_status);
    if (code == ABL_CODE_OK) {
        code = check_finite(o->knockouts, count, "knockouts'", ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_scores_thresholds(scores, count, &o->circuit_size, 1, &threshold, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    out->edges = abl_calloc(SET_COUNT * (size_t)count + 1, sizeof *out->edges);
    if (out->edges == NULL) {
        return abl_fail_oom(ret_status);
    }
    int64_t sizes[SET_COUNT] = {0};
    for (int64_t i = 0; i < count; i++) {
        bool in_circuit = fabsf(scores[i]) >= threshold;
        bool knocked_out = in_circuit && o->knockouts[i] >= o->knockout_threshold;
        const bool in[SET_COUNT] = {true, in_circuit, !knocked_out, in_circuit && !knocked_out};
        for (int set = 0; set < SET_COUNT; set++) {
            if (in[set]) {
                out->edges[set * count + sizes[set]++] = i;
            }
        }
        out->knockout_count += knocked_out;
    }
    for (int set = 0; set < SET_COUNT; set++) {
        out->sets[set] = (abl_edge_set){out->edges + set * count, sizes[set]};
    }
    return ABL_CODE_OK;
}

static abl_circuits_options circuits_of(const abl_completeness_options *options,
                                        const abl_edge_set *sets) {
    abl_circuits_options out = options->circuits;
    out.patch_type = ABL_PATCH_TREE;
    out.out_slice = ABL_OUT_SLICE_LAST;
    out.scores = NULL;
    out.sizes = NULL;
    out.sets = sets;
    out.circuit_count = SET_COUNT;
    return out;
}

abl_code abl_completeness_create(const abl_completeness_options *options,
                                 abl_completeness **ret_completeness, abl_status *ret_status) {
    ABL_ASSERT(options->circuits.scores != NULL && options->knockouts != NULL);
    abl_completeness *out = abl_calloc(1, sizeof *out);
    if (out == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_code code = sets_make(out, options, ret_status);
    if (code == ABL_CODE_OK) {
        const abl_circuits_options circuits = circuits_of(options, out->sets);
        code = abl_circuits_create(&circuits, &out->circuits, ret_status);
    }
    if (code == ABL_CODE_OK) {
        size_t rows = (size_t)options->circuits.batches.batch_size;
        size_t vocab = (size_t)abl_model_get_config(options->circuits.model)->d_vocab_out;
        out->kept = abl_calloc(rows * vocab, sizeof *out->kept);
        out->values = abl_calloc(rows, sizeof *out->values);
        bool ok = out->kept != NULL && out->values != NULL;
        code = ok ? ABL_CODE_OK : abl_fail_oom(ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_completeness_destroy(out);
        return code;
    }
    *ret_completeness = out;
    return ABL_CODE_OK;
}

void abl_completeness_destroy(abl_completeness *completeness) {
    if (completeness == NULL) {
        return;
    }
    abl_circuits_destroy(completeness->circuits);
    abl_free(completeness->edges);
    abl_free(completeness->kept);
    abl_free(completeness->values);
    abl_free(completeness);
}

abl_code abl_completeness_step(abl_completeness *completeness, bool *ret_finished,
                               abl_status *ret_status) {
    abl_circuits_result result;
    abl_code code = abl_circuits_step(completeness->circuits, &result, ret_finished, ret_status);
    if (code != ABL_CODE_OK || result.circuit < 0) {
        return code;
    }
    if (result.circuit % 2 == 0) {
        memcpy(completeness->kept, result.logits, (size_t)result.logit_count * sizeof(float));
        return ABL_CODE_OK;
    }
    const abl_metric_input input = {.batch = &result.batch,
                                    .logits = result.logits,
                                    .clean = completeness->kept,
                                    .vocab_size = result.vocab_size};
    code = abl_metric_rows(ABL_METRIC_CLEAN_KL_DIV, &input, completeness->values, ret_status);
    for (int32_t i = 0; code == ABL_CODE_OK && i < result.batch.size; i++) {
        completeness->sums[result.circuit / 2] += completeness->values[i];
    }
    completeness->rows += result.circuit == 1 ? result.batch.size : 0;
    return code;
}

abl_completeness_result abl_completeness_read(const abl_completeness *completeness) {
    double rows = (double)completeness->rows;
    return (abl_completeness_result){.circuit_size = completeness->sets[1].count,
                                     .knockout_count = completeness->knockout_count,
                                     .kl = completeness->sums[0] / rows,
                                     .knockout_kl = completeness->sums[1] / rows};
}

int64_t abl_completeness_bytes_estimate(const abl_completeness_options *options) {
    const abl_circuits_options circuits = circuits_of(options, NULL);
    return abl_circuits_bytes_estimate(&circuits) +
           4LL * options->circuits.batches.batch_size *
               abl_model_get_config(options->circuits.model)->d_vocab_out +
           8 * SET_COUNT * abl_graph_edge_count(options->circuits.graph);
}
