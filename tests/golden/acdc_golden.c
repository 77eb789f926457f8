/* SPDX-License-Identifier: Apache-2.0
 *
 * ACDC against AutoCircuit's: the order in which edges are tried, which are removed, the effect
 * after every trial, and the smallest decision margin; by the fast evaluator and by whole masked
 * passes. Where a recorded margin is rounding, effects are compared up to the decision that it is
 * of. */
#include "core/base/mem.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TOL_EFFECT 2e-6          /* of sums over 1000 logits */
#define TOL_EFFECT_RELATIVE 2e-5 /* of the largest effect of the run */
#define MARGIN_ROUNDING 1e-5     /* recorded decisions below it may go either way */

typedef struct acdc_case {
    edges_case recorded;
    abl_model *model;
    abl_graph *graph;
    const abl_dataset *dataset;
    bool whole_passes;
    int64_t edge_count;
} acdc_case;

/* All steps; ends with abl_prune_destroy(). */
static abl_prune *run(const acdc_case *c, const double *taus, int32_t tau_count, bool mse,
                      const int64_t *edges) {
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_ACDC,
        .model = c->model,
        .graph = c->graph,
        .batches = {.dataset = c->dataset, .count = 8, .batch_size = 4},
        .exact_metric = mse ? ABL_EXACT_MSE : ABL_EXACT_KL_DIV,
        .edges = edges,
        .edge_count = c->edge_count,
        .acdc = {.taus = taus, .tau_count = tau_count, .whole_passes = c->whole_passes}};
    return edges_run(&options);
}

static const char *title_of(const acdc_case *c, const char *key, const char *what) {
    static char text[128];
    (void)snprintf(text, sizeof text, "%s %s%s", key, what, c->whole_passes ? ", masked" : "");
    return text;
}

static void compare_scores(const acdc_case *c, const char *key, const float *scores) {
    float *expected = edges_flat(c->graph, c->recorded.set, key);
    golden_check(c->recorded.title, title_of(c, key, "has recorded scores"), expected != NULL);
    if (expected != NULL) {
        size_t count = (size_t)c->edge_count;
        golden_compare_floats(c->recorded.title, title_of(c, key, "scores"), expected, count,
                              scores, count, 0);
    }
    abl_free(expected);
}

/* Effects up to the first decision that rounding may have made the other way. */
static void compare_effects(const acdc_case *c, const char *key, const json_t *recorded,
                            const abl_acdc_report *report) {
    const json_t *list = json_object_get(recorded, "faith_per_step");
    double tau = report->taus[0].tau;
    size_t count = json_array_size(list);
    float *expected = abl_calloc(count, sizeof *expected);
    float *actual = abl_calloc(count, sizeof *actual);
    double before = 0;
    double largest = 0;
    size_t same = 0;
    for (; same < count; same++) {
        double value = json_number_value(json_array_get(list, same));
        expected[same] = (float)value;
        actual[same] = (float)report->effects[same];
        largest = fmax(largest, fabs(value));
        bool removed = value - before < tau;
        bool ours = report->effects[same] - before < tau;
        if (removed != ours && fabs(value - before - tau) < MARGIN_ROUNDING) {
            (void)printf("%s %s: trial %zu is rounding (%g); the rest is another run\n",
                         c->recorded.title, key, same, value - before - tau);
            break;
        }
        before = removed ? value : before;
    }
    golden_compare_floats(c->recorded.title, title_of(c, key, "effects"), expected, same, actual,
                          same, TOL_EFFECT + TOL_EFFECT_RELATIVE * largest);
    abl_free(expected);
    abl_free(actual);
}

static void compare_run(const acdc_case *c, const char *key, const json_t *recorded) {
    double tau = json_number_value(json_object_get(recorded, "tau"));
    abl_prune *prune = run(c, &tau, 1, strncmp(key, "mse", 3) == 0, NULL);
    abl_acdc_report report;
    golden_check(c->recorded.title, title_of(c, key, "reports"),
                 abl_prune_acdc_report(prune, &report) && report.taus[0].decided == c->edge_count);
    double margin = json_number_value(json_object_get(recorded, "min_decision_margin"));
    compare_effects(c, key, recorded, &report);
    if (margin > MARGIN_ROUNDING) {
        const float of = (float)margin;
        const float ours = (float)report.taus[0].margin_min;
        int64_t removed = json_integer_value(json_object_get(recorded, "n_removed"));
        compare_scores(c, key, abl_prune_scores(prune));
        golden_compare_floats(c->recorded.title, title_of(c, key, "margin"), &of, 1, &ours, 1,
                              TOL_EFFECT);
        golden_check(c->recorded.title, title_of(c, key, "count"),
                     report.taus[0].removed == removed);
    }
    abl_prune_destroy(prune);
}

/* Several taus in one call, given as AutoCircuit lists them; ours ascend. */
static void compare_taus(const acdc_case *c, const json_t *recorded) {
    const json_t *list = json_object_get(recorded, "taus_in_order");
    double taus[16] = {0};
    int32_t count = (int32_t)json_array_size(list);
    for (int32_t i = 0; i < count; i++) {
        double tau = json_number_value(json_array_get(list, (size_t)i));
        int32_t at = i;
        for (; at > 0 && taus[at - 1] > tau; at--) {
            taus[at] = taus[at - 1];
        }
        taus[at] = tau;
    }
    abl_prune *prune = run(c, taus, count, false, NULL);
    compare_scores(c, "multi_tau", abl_prune_scores(prune));
    abl_prune_destroy(prune);
}

/* The recorded order is ours, and giving it changes nothing. */
static void compare_order(const acdc_case *c) {
    int64_t count = 0;
    int64_t *order = edges_list(json_object_get(c->recorded.json, "order"), &count);
    const double tau = 0.01;
    abl_prune *prune = run(c, &tau, 1, false, NULL);
    abl_prune *again = run(c, &tau, 1, false, order);
    abl_acdc_report report;
    bool same = abl_prune_acdc_report(prune, &report) && report.order_count == count &&
                memcmp(report.order, order, (size_t)count * sizeof *order) == 0;
    golden_check(c->recorded.title, title_of(c, "order", "is the recorded one"), same);
    golden_check(c->recorded.title, title_of(c, "order", "given gives the same bits"),
                 memcmp(abl_prune_scores(prune), abl_prune_scores(again),
                        (size_t)c->edge_count * sizeof(float)) == 0);
    abl_prune_destroy(prune);
    abl_prune_destroy(again);
    abl_free(order);
}

static void compare_case(const acdc_case *c) {
    const char *key = NULL;
    json_t *recorded = NULL;
    compare_order(c);
    json_object_foreach(json_object_get(c->recorded.json, "runs"), key, recorded) {
        compare_run(c, key, recorded);
    }
    if (json_object_get(c->recorded.json, "runs") == NULL) { /* scores alone, at 1e-2 */
        const double tau = 0.01;
        abl_prune *prune = run(c, &tau, 1, false, NULL);
        compare_scores(c, "kl_div/1e-2", abl_prune_scores(prune));
        abl_prune_destroy(prune);
    }
    recorded = json_object_get(c->recorded.json, "multi_tau");
    if (recorded != NULL) {
        compare_taus(c, recorded);
    }
}

/* Prompts that share their first tokens: what is never recomputed there changes no effect. */
static void compare_prefix(const char *model_name, abl_model *model) {
    abl_dataset *late = edges_prompts(golden_path("prompts/ioi_late.json"), model, ABL_BOS_PREPEND);
    golden_check(model_name, "the late prompts share 11 tokens",
                 abl_dataset_shared_prefix(late, 0, 4) == 11);
    for (size_t v = 0; v < EDGES_VARIANT_COUNT; v++) {
        const edges_variant *variant = &EDGES_VARIANTS[v];
        acdc_case c = {.model = model, .dataset = late};
        c.graph = edges_graph(model, variant, abl_dataset_seq_len(late));
        c.edge_count = abl_graph_edge_count(c.graph);
        (void)snprintf(c.recorded.title, sizeof c.recorded.title, "%s/%s late", model_name,
                       variant->name);
        if (!variant->raw && !abl_graph_options_of(c.graph)->simple && c.edge_count < 4000) {
            const double tau = 1e-4;
            abl_acdc_report fast;
            abl_acdc_report whole;
            abl_prune *a = run(&c, &tau, 1, false, NULL);
            c.whole_passes = true;
            abl_prune *b = run(&c, &tau, 1, false, NULL);
            bool both = abl_prune_acdc_report(a, &fast) && abl_prune_acdc_report(b, &whole);
            double largest = 0;
            for (int64_t i = 0; both && i < c.edge_count; i++) {
                largest = fmax(largest, fabs(fast.effects[i] - whole.effects[i]));
            }
            const float difference = (float)largest;
            const float none = 0;
            golden_compare_floats(c.recorded.title, "effects, masked", &none, 1, &difference, 1,
                                  TOL_EFFECT);
            golden_check(c.recorded.title, "the same edges go",
                         memcmp(abl_prune_scores(a), abl_prune_scores(b),
                                (size_t)c.edge_count * sizeof(float)) == 0);
            abl_prune_destroy(a);
            abl_prune_destroy(b);
        }
        abl_graph_destroy(c.graph);
    }
    abl_dataset_destroy(late);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        acdc_case c = {.dataset = edges_abba(EDGES_MODELS[i])};
        c.model = golden_open_model(EDGES_MODELS[i], abl_model_processing_tl());
        for (size_t v = 0; v < EDGES_VARIANT_COUNT; v++) {
            const edges_variant *variant = &EDGES_VARIANTS[v];
            const char *path =
                golden_path("cases/%s/d_acdc_%s.json", EDGES_MODELS[i], variant->name);
            if (access(path, R_OK) != 0 ||
                !edges_case_open(&c.recorded, EDGES_MODELS[i], "d_acdc_%s", variant->name)) {
                continue; /* not every variant was recorded */
            }
            c.graph = edges_graph(c.model, variant, abl_dataset_seq_len(c.dataset));
            c.edge_count = abl_graph_edge_count(c.graph);
            bool small = c.edge_count < 1000 || abl_graph_options_of(c.graph)->seq_len != 0;
            for (int masked = 0; masked < (small ? 2 : 1); masked++) {
                c.whole_passes = masked != 0;
                compare_case(&c);
            }
            abl_graph_destroy(c.graph);
            edges_case_close(&c.recorded);
        }
        compare_prefix(EDGES_MODELS[i], c.model);
        abl_model_unref(c.model);
        abl_dataset_destroy((abl_dataset *)(uintptr_t)c.dataset);
    }
    return golden_finish();
}
