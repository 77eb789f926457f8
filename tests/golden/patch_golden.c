/* SPDX-License-Identifier: Apache-2.0
 *
 * Masked passes against AutoCircuit (tiny models) and the float64 reference (SmolLM2): circuits of
 * named edge sets and of graded scores with ties, both patch types, fractional masks with and
 * without a mask function, out_slice. */
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "core/patch/circuits.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOL_LOGITS 1e-4
#define TOL_SMOLLM2_LOGITS 5e-4
#define TOL_SMOLLM2_ZERO_LOGITS 2e-3

/* All logits of a run, circuit after circuit, each (prompts, vocab). Ends with abl_free(). */
static float *run_circuits(const abl_circuits_options *options, int64_t *ret_edge_counts,
                           size_t *ret_per_circuit) {
    abl_circuits *circuits = NULL;
    abl_status status;
    golden_must(abl_circuits_create(options, &circuits, &status), &status);
    float *all = NULL;
    bool finished = false;
    int64_t step = 0;
    while (!finished) {
        abl_circuits_result result;
        golden_must(abl_circuits_step(circuits, &result, &finished, &status), &status);
        if (result.circuit < 0) {
            continue; /* for a mean over the dataset */
        }
        size_t row = (size_t)result.logit_count / (size_t)result.batch.size;
        size_t per_circuit = row * (size_t)options->batches.count;
        int64_t count = abl_circuits_count(circuits);
        if (all == NULL) {
            all = abl_calloc(per_circuit * (size_t)count, sizeof *all);
        }
        int64_t circuit = step % count;
        ret_edge_counts[circuit] = result.edge_count;
        memcpy(all + (size_t)circuit * per_circuit +
                   row * (size_t)(result.batch.first - options->batches.first),
               result.logits, (size_t)result.logit_count * sizeof *all);
        *ret_per_circuit = per_circuit;
        step++;
    }
    abl_circuits_destroy(circuits);
    return all;
}

/* ---- c_circuits ------------------------------------------------------------------------------ */

static abl_ablation ablation_of(const char *name, size_t length) {
    for (int i = 0; i < ABL_ABLATION_COUNT; i++) {
        const char *known = abl_ablation_name((abl_ablation)i);
        if (strlen(known) == length && memcmp(known, name, length) == 0) {
            return (abl_ablation)i;
        }
    }
    return ABL_ABLATION_COUNT;
}

static abl_circuits_options circuits_options(const edges_subject *s) {
    return (abl_circuits_options){.model = s->model,
                                  .graph = s->graph,
                                  .batches = {.dataset = s->dataset, .count = 8, .batch_size = 4},
                                  .circuit_count = 1};
}

/* "logits/TREE_PATCH/RESAMPLE/rand10pc", or with "reverse" in front. */
static void compare_set(const edges_case *c, const edges_subject *s,
                        const abl_safetensors_tensor *expected) {
    const char *const type = strchr(expected->name, '/') + 1;
    const char *const ablation = strchr(type, '/') + 1;
    const char *const name = strchr(ablation, '/') + 1;
    abl_circuits_options options = circuits_options(s);
    options.reverse_clean_corrupt = strncmp(expected->name, "reverse", 7) == 0;
    options.patch_type = strncmp(type, "TREE_PATCH", 10) == 0 ? ABL_PATCH_TREE : ABL_PATCH_EDGE;
    options.ablation = ablation_of(ablation, (size_t)(name - 1 - ablation));
    const json_t *list = json_object_get(json_object_get(c->json, "edge_sets"), name);
    if (options.ablation == ABL_ABLATION_COUNT || list == NULL) {
        golden_check(c->title, expected->name, false); /* recorded, and not understood here */
        return;
    }
    abl_edge_set set;
    int64_t *edges = edges_list(list, &set.count);
    set.edges = edges;
    options.sets = &set;
    int64_t edge_count = 0;
    size_t count = 0;
    float *logits = run_circuits(&options, &edge_count, &count);
    golden_compare(c->title, expected->name, expected, logits, count, TOL_LOGITS);
    abl_free(logits);
    abl_free(edges);
}

/* Graded scores with ties: "tied_logits/<actual size>" of the sizes that were asked for. */
static void compare_tied(const edges_case *c, const edges_subject *s) {
    int64_t size_count = 0;
    int64_t expected_count = 0;
    int64_t *sizes = edges_list(json_object_get(c->json, "tied_requested"), &size_count);
    int64_t *expected =
        edges_list(json_object_get(c->json, "tied_actual_counts_in_order"), &expected_count);
    float *scores = edges_flat(s->graph, c->set, "tied_scores");
    abl_circuits_options options = circuits_options(s);
    options.scores = scores;
    options.sizes = sizes;
    options.circuit_count = (int32_t)size_count;
    int64_t *actual = abl_calloc((size_t)size_count, sizeof *actual);
    size_t count = 0;
    float *logits = run_circuits(&options, actual, &count);
    for (int64_t i = 0; i < expected_count; i++) {
        char key[48];
        (void)snprintf(key, sizeof key, "tied_logits/%lld", (long long)expected[i]);
        golden_check(c->title, "the size of a circuit with ties", actual[i] == expected[i]);
        golden_compare(c->title, key, golden_tensor(c->set, key), logits + (size_t)i * count, count,
                       TOL_LOGITS);
    }
    abl_free(logits);
    abl_free(actual);
    abl_free(scores);
    abl_free(expected);
    abl_free(sizes);
}

/* Every array of the case is run: what has no runner fails. */
static void case_circuits(const edges_subject *s, const char *variant) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "c_circuits_%s", variant)) {
        return;
    }
    bool tied = false;
    for (size_t i = 0; i < abl_safetensors_count(c.set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(c.set, i);
        if (strncmp(tensor->name, "logits/", 7) == 0 || strncmp(tensor->name, "reverse/", 8) == 0) {
            compare_set(&c, s, tensor);
        } else if (strncmp(tensor->name, "tied_", 5) == 0) {
            tied = true;
        } else {
            golden_check(c.title, tensor->name, false);
        }
    }
    if (tied) {
        compare_tied(&c, s);
    }
    edges_case_close(&c);
}

/* ---- c_fraction ------------------------------------------------------------------------------ */

/* "logits/u01/clean_ZERO/sigmoid": input clean, ablation ZERO from the corrupt prompts. */
static void compare_fraction(const edges_case *c, const edges_subject *s,
                             const abl_safetensors_tensor *expected) {
    const char *const kind = expected->name + strlen("logits/");
    const char *const input = strchr(kind, '/') + 1;
    const char *const ablation = strchr(input, '_') + 1;
    const char *const function = strchr(ablation, '/');
    const size_t length = function == NULL ? strlen(ablation) : (size_t)(function - ablation);
    bool clean = strncmp(input, "clean", 5) == 0;
    bool known = function == NULL || strcmp(function, "/sigmoid") == 0;
    const abl_batches batches = {.dataset = s->dataset, .count = 8, .batch_size = 4};
    const abl_ablator_options ablator_options = {.of = {.model = s->model,
                                                        .ablation = ablation_of(ablation, length),
                                                        .batches = batches,
                                                        .clean = !clean,
                                                        .residuals = true}};
    if (!known || ablator_options.of.ablation == ABL_ABLATION_COUNT) {
        golden_check(c->title, expected->name, false);
        return;
    }
    char key[32];
    (void)snprintf(key, sizeof key, "mask/%.*s", (int)(input - 1 - kind), kind);
    float *mask = edges_flat(s->graph, c->set, key);
    float *logits = abl_calloc(expected->elements, sizeof *logits);
    abl_status status;
    abl_ablator *ablator = NULL;
    golden_must(abl_ablator_create(&ablator_options, &ablator, &status), &status);
    while (abl_ablator_steps_left(ablator) > 0) {
        golden_must(abl_ablator_step(ablator, &status), &status);
    }
    for (int32_t i = 0; i < 2; i++) {
        abl_batch batch = abl_batches_at(&batches, i);
        abl_patch_options options = {.model = s->model,
                                     .graph = s->graph,
                                     .tokens = clean ? batch.clean : batch.corrupt,
                                     .batch = batch.size,
                                     .seq = batch.seq_len,
                                     .mask = mask,
                                     .mask_function =
                                         function == NULL ? ABL_MASK_NONE : ABL_MASK_SIGMOID};
        golden_must(abl_ablator_batch(ablator, &batch, &options.ablated, &status), &status);
        golden_must(
            abl_patch_forward(&options, logits + (size_t)i * expected->elements / 2, &status),
            &status);
    }
    golden_compare(c->title, expected->name, expected, logits, expected->elements, TOL_LOGITS);
    abl_ablator_destroy(ablator);
    abl_free(logits);
    abl_free(mask);
}

static void case_fraction(const edges_subject *s, const char *variant) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "c_fraction_%s", variant)) {
        return;
    }
    for (size_t i = 0; i < abl_safetensors_count(c.set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(c.set, i);
        if (strncmp(tensor->name, "logits/", 7) == 0) {
            compare_fraction(&c, s, tensor);
        } else if (strncmp(tensor->name, "mask/", 5) != 0) {
            golden_check(c.title, tensor->name, false);
        }
    }
    edges_case_close(&c);
}

/* ---- c_out_slices ---------------------------------------------------------------------------- */

static void case_out_slices(const edges_subject *s) {
    edges_case c;
    if (!edges_case_open(&c, s->model_name, "c_out_slices")) {
        return;
    }
    static const char *const NAMES[] = {"logits/last_seq", "logits/not_first_seq", "logits/None"};
    abl_edge_set set;
    int64_t *edges = edges_list(json_object_get(c.json, "edges"), &set.count);
    set.edges = edges;
    for (int slice = 0; slice < 3; slice++) {
        const abl_circuits_options options = {
            .model = s->model,
            .graph = s->graph,
            .batches = {.dataset = s->dataset, .count = 2, .batch_size = 2},
            .out_slice = (abl_out_slice)slice,
            .sets = &set,
            .circuit_count = 1};
        int64_t edge_count = 0;
        size_t count = 0;
        float *logits = run_circuits(&options, &edge_count, &count);
        golden_compare(c.title, NAMES[slice], golden_tensor(c.set, NAMES[slice]), logits, count,
                       TOL_LOGITS);
        abl_free(logits);
    }
    abl_free(edges);
    edges_case_close(&c);
}

/* ---- SmolLM2 --------------------------------------------------------------------------------- */

#define SIZE_COUNT 7
static const int64_t SIZES[SIZE_COUNT] = {0, 100, 300, 1000, 3000, 10000, 70651};

/* Circuits of the recorded order's first n edges, over the dataset in one batch. */
static void smollm2_circuits(const edges_subject *s, const abl_safetensors *set, const char *kind) {
    char key[64];
    char title[96];
    (void)snprintf(title, sizeof title, "smollm2-135m/%s", s->model_name);
    (void)snprintf(key, sizeof key, "order.%s", kind);
    const abl_safetensors_tensor *order = abl_safetensors_find(set, key);
    if (order == NULL) {
        return;
    }
    bool zero = strcmp(kind, "zero") == 0;
    int32_t *ids = golden_ints(order);
    int64_t *edges = abl_calloc((size_t)SIZES[SIZE_COUNT - 1], sizeof *edges);
    abl_edge_set sets[SIZE_COUNT];
    for (int64_t i = 0; i < SIZES[SIZE_COUNT - 2]; i++) {
        edges[i] = ids[i];
    }
    int64_t *every = abl_calloc((size_t)SIZES[SIZE_COUNT - 1], sizeof *every);
    for (int64_t i = 0; i < SIZES[SIZE_COUNT - 1]; i++) {
        every[i] = i;
    }
    for (int i = 0; i < SIZE_COUNT; i++) {
        sets[i] = (abl_edge_set){.edges = i + 1 == SIZE_COUNT ? every : edges, .count = SIZES[i]};
    }
    int32_t prompts = abl_dataset_prompt_count(s->dataset);
    const abl_circuits_options options = {
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = prompts, .batch_size = prompts},
        .ablation = zero ? ABL_ABLATION_ZERO : ABL_ABLATION_RESAMPLE,
        .sets = sets,
        .circuit_count = SIZE_COUNT};
    int64_t edge_counts[SIZE_COUNT];
    size_t per_circuit = 0;
    float *logits = run_circuits(&options, edge_counts, &per_circuit);
    for (int i = 0; i < SIZE_COUNT; i++) {
        (void)snprintf(key, sizeof key, "circuit.%s.n%d.logits", kind, (int)SIZES[i]);
        const abl_safetensors_tensor *expected = golden_tensor(set, key);
        golden_compare(title, key, expected, logits + (size_t)i * per_circuit, expected->elements,
                       zero ? TOL_SMOLLM2_ZERO_LOGITS : TOL_SMOLLM2_LOGITS);
    }
    abl_free(logits);
    abl_free(every);
    abl_free(edges);
    abl_free(ids);
}

static void case_smollm2(const edges_subject *s, const abl_safetensors *set) {
    smollm2_circuits(s, set, "resample");
    smollm2_circuits(s, set, "zero");
}

static void check_variant(const edges_subject *s, const edges_variant *variant) {
    case_circuits(s, variant->name);
    case_fraction(s, variant->name);
    if (variant == &EDGES_VARIANTS[0]) {
        case_out_slices(s);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    edges_each_variant(check_variant);
    edges_each_smollm2(case_smollm2);
    return golden_finish();
}
