/* SPDX-License-Identifier: Apache-2.0
 *
 * An unspecified target is KL, AutoCircuit's default; the core's first metric is the loss. */
#include "server/convert/acdc.h"

#include "core/base/limits.h"
#include "server/convert/common.h"
#include "server/convert/graph.h"

#define CANDIDATE_COUNT_MAX 128

static abl_exact_metric metric_of(Ablate__V1__AcdcTarget target) {
    return target == ABLATE__V1__ACDC_TARGET__ACDC_TARGET_MSE           ? ABL_EXACT_MSE
           : target == ABLATE__V1__ACDC_TARGET__ACDC_TARGET_ANSWER_DIFF ? ABL_EXACT_LOSS
                                                                        : ABL_EXACT_KL_DIV;
}

abl_code abl_convert_acdc(const Ablate__V1__Acdc *message, abl_prune_options *options,
                          abl_status *ret_status) {
    int32_t most = message->candidate_count_max;
    if (most < 0 || most > CANDIDATE_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "acdc.candidate_count_max is %d; it must be 0 (chosen by cost) to %d", most,
                        CANDIDATE_COUNT_MAX);
    }
    if (message->n_taus < 1 || message->n_taus > ABL_TAU_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAUS_INVALID",
                        "acdc.taus has %zu entries; it must have 1 to %d", message->n_taus,
                        ABL_TAU_COUNT_MAX);
    }
    options->algorithm = ABL_PRUNE_ACDC;
    options->ablation = abl_convert_ablation_type(message->ablation_type);
    options->exact_metric = metric_of(message->faithfulness_target);
    options->candidate_count_max = most;
    options->acdc.taus = message->taus;
    options->acdc.tau_count = (int32_t)message->n_taus;
    return ABL_CODE_OK;
}

void abl_convert_acdc_json(const abl_prune_options *options, json_t *root) {
    static const char *const names[] = {
        [ABL_EXACT_LOSS] = "answer_diff", [ABL_EXACT_KL_DIV] = "kl_div", [ABL_EXACT_MSE] = "mse"};
    json_t *taus = json_array();
    for (int32_t i = 0; i < options->acdc.tau_count; i++) {
        (void)json_array_append_new(taus, json_real(options->acdc.taus[i]));
    }
    (void)json_object_set_new(root, "taus", taus);
    (void)json_object_set_new(root, "faithfulness_target",
                              json_string(names[options->exact_metric]));
    if (options->edges != NULL) {
        (void)json_object_set_new(root, "edge_count", json_integer(options->edge_count));
    }
}

bool abl_convert_acdc_taus(abl_arena *arena, const abl_acdc_tau *taus, size_t count,
                           Ablate__V1__AcdcTau ***ret_taus) {
    Ablate__V1__AcdcTau *values = abl_arena_alloc(arena, count * sizeof *values);
    Ablate__V1__AcdcTau **list = abl_arena_alloc(arena, count * sizeof *list);
    if (values == NULL || list == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        ablate__v1__acdc_tau__init(&values[i]);
        values[i].tau = taus[i].tau;
        values[i].decided_edges = taus[i].decided;
        values[i].removed_edges = taus[i].removed;
        values[i].effect = taus[i].effect;
        values[i].min_margin = taus[i].margin_min;
        list[i] = &values[i];
    }
    *ret_taus = list;
    return true;
}

bool abl_convert_acdc_decisions(abl_arena *arena, const abl_graph *graph,
                                const abl_acdc_decision *decisions, size_t count,
                                Ablate__V1__AcdcDecision ***ret_decisions) {
    Ablate__V1__AcdcDecision *values = abl_arena_alloc(arena, count * sizeof *values);
    Ablate__V1__AcdcDecision **list = abl_arena_alloc(arena, count * sizeof *list);
    if (values == NULL || list == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        abl_edge edge = abl_graph_edge_at(graph, decisions[i].edge);
        ablate__v1__acdc_decision__init(&values[i]);
        values[i].edge = abl_convert_edge_name(arena, graph, edge, ABL_DIALECT_AUTOCIRCUIT);
        values[i].seq_number = abl_convert_seq_number(graph, edge);
        values[i].tau = decisions[i].tau;
        values[i].effect = decisions[i].effect;
        values[i].removed = decisions[i].removed;
        list[i] = &values[i];
        if (values[i].edge == NULL) {
            return false;
        }
    }
    *ret_decisions = list;
    return true;
}
