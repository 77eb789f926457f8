/* SPDX-License-Identifier: Apache-2.0
 *
 * What ablated edges carry, of all kinds, against AutoCircuit's src_ablations: every source's own
 * output, expanded from the compact form. Then what needs no recording: a resident ablation is the
 * one that is made on the way, bit for bit, and a mean does not depend on how it is cut in
 * batches. */
#include "core/base/mem.h"
#include "core/patch/ablation.h"
#include "core/patch/sources.h"
#include "core/prune/prune.h"
#include "tests/golden/edges.h"

#include <stdio.h>
#include <string.h>

#define TOL_SOURCES 1e-5
#define TOL_SCORES_RELATIVE 2e-5

static void compare_sources(const char *title, const char *name,
                            const abl_safetensors_tensor *expected, const abl_model *model,
                            const abl_sources *sources) {
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    abl_tensor *all = abl_sources_expand(scope, model, sources, sources->batch);
    /* Recorded: (sources, pos, d_model) of a mean, (sources, d_model) of one over positions, too,
     * and the first row of RESAMPLE. */
    all = abl_tensor_slice(scope, all, 1, 0, 1);
    if (expected->rank == 2) {
        all = abl_tensor_slice(scope, all, 2, 0, 1);
    }
    golden_compare_tensor(title, name, expected, all, TOL_SOURCES);
    abl_status status;
    golden_must(abl_scope_status(scope, &status), &status);
    abl_scope_destroy(scope);
}

static abl_ablator *ablator_open(const abl_ablator_options *options) {
    abl_ablator *ablator = NULL;
    abl_status status;
    golden_must(abl_ablator_create(options, &ablator, &status), &status);
    while (abl_ablator_steps_left(ablator) > 0) {
        golden_must(abl_ablator_step(ablator, &status), &status);
    }
    return ablator;
}

static abl_sources *build(const abl_ablation_options *options) {
    abl_ablation_build *work = NULL;
    abl_status status;
    golden_must(abl_ablation_build_create(options, &work, &status), &status);
    for (int32_t i = 0; i < abl_ablation_build_step_count(work); i++) {
        golden_must(abl_ablation_build_step(work, &status), &status);
    }
    abl_sources *sources = abl_ablation_build_take(work);
    abl_ablation_build_destroy(work);
    return sources;
}

/* The first batch's ablation of every kind; the corrupt prompts are the other ones. */
static void case_sources(const char *model_name, abl_model *model, const abl_dataset *dataset) {
    edges_case c;
    if (!edges_case_open(&c, model_name, "c_src_ablations")) {
        return;
    }
    const abl_batches batches = {.dataset = dataset, .count = 8, .batch_size = 4};
    const abl_batch batch = abl_batches_at(&batches, 0);
    const char *name = NULL;
    json_t *shape = NULL;
    json_object_foreach(json_object_get(c.json, "shape"), name, shape) {
        abl_ablator_options options = {.of = {.model = model, .batches = batches}};
        while (strcmp(abl_ablation_name(options.of.ablation), name) != 0) {
            options.of.ablation++;
        }
        abl_ablator *ablator = ablator_open(&options);
        const abl_sources *sources = NULL;
        abl_status status;
        golden_must(abl_ablator_batch(ablator, &batch, &sources, &status), &status);
        if (options.of.ablation == ABL_ABLATION_ZERO) {
            golden_check(c.title, "ZERO: no sources at all", sources == NULL);
        } else {
            compare_sources(c.title, name, golden_tensor(c.set, name), model, sources);
        }
        abl_ablator_destroy(ablator);
    }
    edges_case_close(&c);
}

/* ---- what needs no recording ----------------------------------------------------------------- */

/* A resident ablation, made in batches of three, against the one that a job makes for itself. */
static void check_resident(const char *model_name, abl_model *model, const abl_dataset *dataset,
                           abl_ablation ablation) {
    abl_graph *graph = edges_graph(model, &EDGES_VARIANTS[0], 0);
    abl_prune_options options = {
        .algorithm = ABL_PRUNE_MASK_GRADIENT,
        .model = model,
        .graph = graph,
        .batches = {.dataset = dataset, .first = 2, .count = 8, .batch_size = 4},
        .ablation = ablation,
        .integrated_grad_samples = 2};
    float *expected = edges_scores(&options);
    const abl_ablation_options made = {
        .model = model,
        .ablation = ablation,
        .batches = {.dataset = dataset, .first = 2, .count = 8, .batch_size = 3},
        .residuals = true};
    abl_sources *resident = build(&made);
    options.ablation = ABL_ABLATION_ZERO; /* not looked at */
    options.resident = resident;
    options.resident_first = 2;
    float *actual = edges_scores(&options);
    size_t count = (size_t)abl_graph_edge_count(graph);
    char name[96];
    (void)snprintf(name, sizeof name, "resident %s", abl_ablation_name(ablation));
    golden_compare_floats(model_name, name, expected, count, actual, count,
                          TOL_SCORES_RELATIVE * edges_max_abs(expected, (int64_t)count));
    abl_sources_destroy(resident);
    abl_free(actual);
    abl_free(expected);
    abl_graph_destroy(graph);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    for (size_t i = 0; i < ABL_COUNT_OF(EDGES_MODELS); i++) {
        const char *name = EDGES_MODELS[i];
        abl_dataset *dataset = edges_abba(name);
        abl_model *model = golden_open_model(name, abl_model_processing_tl());
        case_sources(name, model, dataset);
        check_resident(name, model, dataset, ABL_ABLATION_RESAMPLE);
        check_resident(name, model, dataset, ABL_ABLATION_TOKENWISE_MEAN_CLEAN);
        check_resident(name, model, dataset, ABL_ABLATION_TOKENWISE_MEAN_CORRUPT);
        check_resident(name, model, dataset, ABL_ABLATION_TOKENWISE_MEAN_CLEAN_AND_CORRUPT);
        abl_model_unref(model);
        abl_dataset_destroy(dataset);
    }
    return golden_finish();
}
