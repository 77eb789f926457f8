/* SPDX-License-Identifier: Apache-2.0
 *
 * Simple graphs on every kind of block (sequential, parallel, attention only; with and without
 * norms), by laws that need no recording: the ends of the mask are the plain runs bit for bit, rows
 * have masks of their own, gradients are slopes, exact scores are passes with one edge ablated.
 * (AutoCircuit's numbers: tests/golden.) */
#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/model/model.h"
#include "core/patch/backward.h"
#include "core/patch/hooked.h"
#include "core/patch/patch.h"
#include "core/prune/prune.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BATCH = 3, SEQ = 5, VOCAB_MAX = 1000 };

static const struct {
    const char *folder;
    const char *name;
} MODELS[] = {
    {"models", "tiny-rand"}, {"families", "gpt-neox"},  {"families", "gpt-neox-seq"},
    {"families", "llama"},   {"families", "attn-only"}, {"families", "tracr-reverse"},
    {"families", "micro"},
};

/* A model with a simple graph over it, prompts of two kinds, and the corrupt ones' sources. */
typedef struct subject {
    abl_model *model;
    abl_graph *graph;
    size_t edges;
    size_t vocab;
    int32_t seq;
    int32_t clean[BATCH * SEQ];
    int32_t corrupt[BATCH * SEQ];
    abl_sources *ablated;
} subject;

static abl_model *load(size_t which, abl_model_processing processing) {
    char path[512];
    (void)snprintf(path, sizeof path, ABLATE_SOURCE_DIR "/tests/golden/data/%s",
                   MODELS[which].folder);
    const char *paths[] = {path};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32, .processing = processing};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&roots, MODELS[which].name, &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", MODELS[which].name, status.message);
    }
    abl_model_dir_destroy(dir);
    return model;
}

static abl_graph *graph_of(const abl_model *model, bool simple, int32_t seq_len) {
    const abl_model_config *c = abl_model_get_config(model);
    const abl_graph_options options = {.layer_count = c->n_layers,
                                       .head_count = c->n_heads,
                                       .kv_head_count = c->n_kv_heads,
                                       .parallel_attn_mlp = c->parallel_attn_mlp,
                                       .attn_only = c->attn_only,
                                       .simple = simple,
                                       .seq_len = seq_len};
    abl_graph *graph = NULL;
    assert_int_equal(abl_graph_create(&options, &graph, NULL), ABL_CODE_OK);
    return graph;
}

static subject subject_open(size_t which, bool by_position) {
    subject s = {.model = load(which, abl_model_processing_hf())};
    const abl_model_config *c = abl_model_get_config(s.model);
    s.seq = c->n_ctx < SEQ ? c->n_ctx : SEQ;
    s.graph = graph_of(s.model, true, by_position ? s.seq : 0);
    s.edges = (size_t)abl_graph_edge_count(s.graph);
    s.vocab = (size_t)c->d_vocab_out;
    for (int32_t i = 0; i < BATCH * SEQ; i++) {
        s.clean[i] = (i * 7 + 3) % c->d_vocab;
        s.corrupt[i] = (i * 5 + 1) % c->d_vocab;
    }
    assert_int_equal(abl_sources_create(s.model, NULL, s.corrupt, BATCH, s.seq, &s.ablated, NULL),
                     ABL_CODE_OK);
    return s;
}

static void subject_close(subject *s) {
    abl_sources_destroy(s->ablated);
    abl_graph_destroy(s->graph);
    abl_model_unref(s->model);
}

static abl_patch_options options_of(const subject *s, const float *mask) {
    return (abl_patch_options){.model = s->model,
                               .graph = s->graph,
                               .tokens = s->clean,
                               .batch = BATCH,
                               .seq = s->seq,
                               .mask = mask,
                               .ablated = s->ablated};
}

/* Ends with abl_free(). */
static float *logits_of(const abl_patch_options *options) {
    float *logits = abl_calloc((size_t)abl_patch_logit_count(options), sizeof *logits);
    abl_status status = {.message = ""};
    if (abl_patch_forward(options, logits, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    return logits;
}

/* Values that repeat, in [-0.5, 1.5): also outside of [0, 1]. */
static float *mask_of(size_t count, uint32_t seed) {
    float *mask = abl_calloc(count, sizeof *mask);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525U + 1013904223U;
        mask[i] = (float)(seed >> 8) / 8388608.0F - 0.5F;
    }
    return mask;
}

/* ---- the ends of the mask -------------------------------------------------------------------- */

static void ends_are_the_plain_runs(size_t which, bool by_position, abl_out_slice slice) {
    subject s = subject_open(which, by_position);
    abl_graph *factorized = graph_of(s.model, false, 0);
    float *mask = abl_calloc(s.edges, sizeof *mask);
    abl_patch_options options = options_of(&s, mask);
    options.out_slice = slice;
    abl_patch_options plain = {.model = s.model,
                               .graph = factorized,
                               .tokens = s.clean,
                               .batch = BATCH,
                               .seq = s.seq,
                               .out_slice = slice};
    size_t bytes = (size_t)abl_patch_logit_count(&options) * sizeof(float);
    float *expected = logits_of(&plain);
    float *actual = logits_of(&options);
    assert_memory_equal(actual, expected, bytes);
    abl_free(actual);
    options.mask = NULL;
    actual = logits_of(&options);
    assert_memory_equal(actual, expected, bytes);
    abl_free(actual);
    abl_free(expected);
    for (size_t i = 0; i < s.edges; i++) {
        mask[i] = 1;
    }
    options.mask = mask;
    plain.tokens = s.corrupt;
    expected = logits_of(&plain);
    actual = logits_of(&options);
    assert_memory_equal(actual, expected, bytes);
    abl_free(actual);
    abl_free(expected);
    abl_free(mask);
    abl_graph_destroy(factorized);
    subject_close(&s);
}

static void an_empty_mask_is_the_clean_run_and_a_full_one_the_corrupt_bit_for_bit(void **state) {
    (void)state;
    for (size_t which = 0; which < ABL_COUNT_OF(MODELS); which++) {
        for (int slice = 0; slice < 3; slice++) {
            ends_are_the_plain_runs(which, false, (abl_out_slice)slice);
            ends_are_the_plain_runs(which, true, (abl_out_slice)slice);
        }
    }
}

static void a_node_cut_from_the_end_hides_all_below_it(void **state) {
    (void)state;
    subject s = subject_open(0, false);
    float *mask = mask_of(s.edges, 7);
    mask[s.edges - 1] = mask[s.edges - 2] = 1; /* all that reaches Resid End */
    abl_patch_options options = options_of(&s, mask);
    float *actual = logits_of(&options);
    options.tokens = s.corrupt;
    options.mask = NULL;
    float *expected = logits_of(&options);
    assert_memory_equal(actual, expected, BATCH * s.vocab * sizeof(float));
    abl_free(expected);
    abl_free(actual);
    abl_free(mask);
    subject_close(&s);
}

/* ---- rows and positions ---------------------------------------------------------------------- */

static void rows_have_masks_of_their_own(size_t which, bool by_position) {
    subject s = subject_open(which, by_position);
    float *mask = mask_of(BATCH * s.edges, 11);
    abl_patch_options options = options_of(&s, mask);
    options.mask_batch = BATCH;
    float *together = logits_of(&options);
    options.mask_batch = 1;
    for (size_t row = 0; row < BATCH; row++) {
        options.mask = mask + row * s.edges;
        float *alone = logits_of(&options);
        for (size_t i = row * s.vocab; i < (row + 1) * s.vocab; i++) {
            assert_float_equal(together[i], alone[i], 1e-4);
        }
        abl_free(alone);
    }
    abl_free(together);
    abl_free(mask);
    subject_close(&s);
}

static void a_mask_a_row_is_that_row_under_its_mask(void **state) {
    (void)state;
    for (size_t which = 0; which < ABL_COUNT_OF(MODELS); which++) {
        rows_have_masks_of_their_own(which, false);
        rows_have_masks_of_their_own(which, true);
    }
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* loss = sum of w logit, w fixed: its gradient at the logits is w. */
static double weight_at(size_t i) {
    return (double)((i * 2654435761U) % 1000U) / 1000.0 - 0.5;
}

static abl_tensor *fixed_weights(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const subject *s = user_data;
    static float weights[BATCH * VOCAB_MAX];
    for (size_t i = 0; i < BATCH * s->vocab; i++) {
        weights[i] = (float)weight_at(i);
    }
    (void)logits;
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 2,
                                (const int64_t[]){BATCH, (int64_t)s->vocab}, weights);
}

static double loss_of(const subject *s, const abl_patch_options *options) {
    float *logits = logits_of(options);
    double loss = 0;
    for (size_t i = 0; i < BATCH * s->vocab; i++) {
        loss += weight_at(i) * (double)logits[i];
    }
    abl_free(logits);
    return loss;
}

static void gradients_are_slopes(size_t which, bool by_position, int32_t mask_batch, bool zero) {
    subject s = subject_open(which, by_position);
    size_t count = s.edges * (size_t)mask_batch;
    float *mask = mask_of(count, 3);
    float *gradient = abl_calloc(count, sizeof *gradient);
    abl_patch_options options = options_of(&s, mask);
    options.mask_batch = mask_batch;
    options.ablated = zero ? NULL : s.ablated;
    abl_status status = {.message = ""};
    if (abl_patch_backward(&options, fixed_weights, &s, NULL, gradient, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    double largest = 1e-3;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)gradient[i]));
    }
    size_t stride = count / 40 + 1;
    for (size_t i = 0; i < count; i += stride) {
        const float step = 4e-3F;
        const float at = mask[i];
        mask[i] = at + step;
        double slope = loss_of(&s, &options);
        mask[i] = at - step;
        slope = (slope - loss_of(&s, &options)) / (2 * (double)step);
        mask[i] = at;
        if (!(fabs(slope - (double)gradient[i]) < 1e-2 * largest)) {
            fail_msg("%s, edge %zu: gradient %g, slope %g, largest %g", MODELS[which].name, i,
                     (double)gradient[i], slope, largest);
        }
    }
    abl_free(gradient);
    abl_free(mask);
    subject_close(&s);
}

static void gradients_are_the_slopes_of_the_forward_pass(void **state) {
    (void)state;
    for (size_t which = 0; which < ABL_COUNT_OF(MODELS); which++) {
        gradients_are_slopes(which, false, 1, false);
        gradients_are_slopes(which, true, 1, true);
        gradients_are_slopes(which, true, BATCH, false);
    }
}

/* ---- hook points ----------------------------------------------------------------------------- */

static const abl_tensor *entry_of(const abl_forward_result *result, const char *name) {
    for (size_t i = 0; i < result->entry_count; i++) {
        if (strcmp(result->entries[i].name, name) == 0) {
            return result->entries[i].tensor;
        }
    }
    fail_msg("nothing was captured at '%s'", name);
    return NULL;
}

static float *floats_of(const abl_tensor *tensor) {
    size_t count = (size_t)abl_tensor_count(tensor);
    float *values = abl_calloc(count, sizeof *values);
    abl_scope *scope = abl_scope_create(abl_tensor_device(tensor));
    abl_tensor_to_floats(scope, tensor, values, count);
    assert_int_equal(abl_scope_status(scope, NULL), ABL_CODE_OK);
    abl_scope_destroy(scope);
    return values;
}

/* The sum of (0 - what the source emitted) * gradient at its reader, over the width `heads` times:
 * under ZERO that is d loss / d mask. */
static double product_of(const abl_forward_result *result, const char *emitted, int head, int heads,
                         const char *reader) {
    char name[64];
    (void)snprintf(name, sizeof name, "%s_grad", reader);
    const abl_tensor *x = entry_of(result, emitted);
    const abl_tensor *g = entry_of(result, name);
    float *values = floats_of(x);
    float *gradient = floats_of(g);
    int64_t width = abl_tensor_size(g, -1);
    int64_t tokens = abl_tensor_count(g) / width;
    double sum = 0;
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = 0; i < width; i++) {
            sum -= (double)values[(t * heads + head) * width + i] * (double)gradient[t * width + i];
        }
    }
    abl_free(gradient);
    abl_free(values);
    return sum;
}

/* The loss of abl_scalar: fixed_weights() is of two logits of each row, which both can say. */
static abl_tensor *two_logits(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const subject *s = user_data;
    static float weights[BATCH * VOCAB_MAX];
    memset(weights, 0, sizeof weights);
    for (size_t row = 0; row < BATCH; row++) {
        weights[row * s->vocab] = 1;
        weights[row * s->vocab + 1] = -0.5F;
    }
    (void)logits;
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 2,
                                (const int64_t[]){BATCH, (int64_t)s->vocab}, weights);
}

/* Captures of a pass under a mask: its logits are the plain pass's, and with the gradients captured
 * at the stream's nodes, times what sources emitted, they make the mask's own gradient again. */
static void captures_make_the_masks_gradient(size_t which) {
    subject s = subject_open(which, false);
    float *mask = mask_of(s.edges, 13);
    float *gradient = abl_calloc(s.edges, sizeof *gradient);
    abl_patch_options options = options_of(&s, mask);
    options.ablated = NULL;
    float *expected = logits_of(&options);
    abl_status status = {.message = ""};
    assert_int_equal(abl_patch_backward(&options, two_logits, &s, NULL, gradient, &status),
                     ABL_CODE_OK);
    int64_t columns[2 * BATCH];
    float weights[2 * BATCH];
    for (int row = 0; row < BATCH; row++) {
        columns[2 * row] = 0;
        columns[2 * row + 1] = 1;
        weights[2 * row] = 1;
        weights[2 * row + 1] = -0.5F;
    }
    const abl_forward_options hooks = {
        .capture_all = true,
        .per_head_inputs = true,
        .stop_at_layer = -1,
        .incl_bwd = true,
        .scalar = {
            .kind = ABL_SCALAR_LOGIT_SUM, .columns = columns, .weights = weights, .width = 2}};
    abl_forward_result result;
    if (abl_patch_hooked(&options, &hooks, &result, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", MODELS[which].name, status.message);
    }
    float *actual = floats_of(result.logits);
    for (size_t i = 0; i < BATCH * s.vocab; i++) {
        assert_float_equal(actual[i], expected[i], 1e-4);
    }
    double largest = 1e-3;
    for (size_t i = 0; i < s.edges; i++) {
        largest = fmax(largest, fabs((double)gradient[i]));
    }
    for (size_t i = 0; i < s.edges; i++) {
        abl_edge edge = abl_graph_edge_at(s.graph, (int64_t)i);
        const abl_graph_src *src = abl_graph_src_at(s.graph, edge.src);
        const abl_graph_dest *dest = abl_graph_dest_at(s.graph, edge.dest);
        double product = product_of(&result, src->module_name, src->head < 0 ? 0 : src->head,
                                    src->head < 0 ? 1 : abl_model_get_config(s.model)->n_heads,
                                    abl_graph_module_at(s.graph, dest->module)->name);
        if (!(fabs(product - (double)gradient[i]) < 1e-4 * largest)) {
            fail_msg("%s, %s->%s: %g, the mask's gradient %g", MODELS[which].name, src->name,
                     dest->name, product, (double)gradient[i]);
        }
    }
    abl_forward_result_finish(&result);
    abl_free(actual);
    abl_free(expected);
    abl_free(gradient);
    abl_free(mask);
    subject_close(&s);
}

static void captures_and_their_gradients_are_those_of_the_masked_pass(void **state) {
    (void)state;
    for (size_t which = 0; which < ABL_COUNT_OF(MODELS); which++) {
        captures_make_the_masks_gradient(which);
    }
}

static void a_failing_allocation_is_reported(void **state) {
    (void)state;
    subject s = subject_open(0, false);
    float *mask = mask_of(s.edges, 5);
    float *gradient = abl_calloc(s.edges, sizeof *gradient);
    abl_patch_options options = options_of(&s, mask);
    for (uint64_t n = 1;; n++) {
        abl_status status = {.message = ""};
        abl_mem_fail_after(n);
        abl_code code = abl_patch_backward(&options, fixed_weights, &s, NULL, gradient, &status);
        abl_mem_fail_after(0);
        if (code == ABL_CODE_OK) {
            assert_true(n > 2);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
    abl_free(gradient);
    abl_free(mask);
    subject_close(&s);
}

/* ---- exact scores ---------------------------------------------------------------------------- */

static abl_dataset *dataset_of(const subject *s) {
    static const int32_t answers[] = {0, 1, 0};
    static const int32_t wrong[] = {1, 0, 1};
    static const int32_t offsets[] = {0, 1, 2, 3};
    const abl_dataset_tokens tokens = {.clean = s->clean,
                                       .corrupt = s->corrupt,
                                       .prompt_count = BATCH,
                                       .seq_len = s->seq,
                                       .answers = answers,
                                       .answer_offsets = offsets,
                                       .wrong_answers = wrong,
                                       .wrong_answer_offsets = offsets};
    abl_dataset *dataset = NULL;
    assert_int_equal(abl_dataset_create_tokens(&tokens, &dataset, NULL), ABL_CODE_OK);
    return dataset;
}

/* - mean (answer's logit - wrong answer's). */
static double answer_loss(const subject *s, const abl_patch_options *options) {
    float *logits = logits_of(options);
    double loss = 0;
    for (size_t row = 0; row < BATCH; row++) {
        const float *l = logits + row * s->vocab;
        loss -= ((double)l[row % 2] - (double)l[1 - row % 2]) / BATCH;
    }
    abl_free(logits);
    return loss;
}

static void exact_scores_are_one_hot_masks(size_t which, bool by_position, abl_ablation ablation) {
    subject s = subject_open(which, by_position);
    abl_dataset *dataset = dataset_of(&s);
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_GROUND_TRUTH,
        .model = s.model,
        .graph = s.graph,
        .ablation = ablation,
        .batches = {.dataset = dataset, .count = BATCH, .batch_size = BATCH}};
    abl_prune *prune = NULL;
    abl_status status = {.message = ""};
    if (abl_prune_create(&options, &prune, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    abl_prune_progress progress = {0};
    while (!progress.finished) {
        assert_int_equal(abl_prune_step(prune, &progress, &status), ABL_CODE_OK);
    }
    float *mask = abl_calloc(s.edges, sizeof *mask);
    abl_patch_options patch = options_of(&s, mask);
    patch.ablated = ablation == ABL_ABLATION_ZERO ? NULL : s.ablated;
    double clean = answer_loss(&s, &patch);
    for (size_t i = 0; i < s.edges; i++) {
        mask[i] = 1;
        double expected = answer_loss(&s, &patch) - clean;
        mask[i] = 0;
        if (!(fabs(expected - (double)abl_prune_scores(prune)[i]) < 2e-5 * (1 + fabs(expected)))) {
            fail_msg("%s, edge %zu: exact %g, one-hot %g", MODELS[which].name, i,
                     (double)abl_prune_scores(prune)[i], expected);
        }
    }
    abl_free(mask);
    abl_prune_destroy(prune);
    abl_dataset_destroy(dataset);
    subject_close(&s);
}

static void exact_scores_are_passes_with_one_edge_ablated(void **state) {
    (void)state;
    for (size_t which = 0; which < ABL_COUNT_OF(MODELS); which++) {
        exact_scores_are_one_hot_masks(which, false, ABL_ABLATION_RESAMPLE);
        exact_scores_are_one_hot_masks(which, true, ABL_ABLATION_RESAMPLE);
        exact_scores_are_one_hot_masks(which, false, ABL_ABLATION_ZERO);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_mask_is_the_clean_run_and_a_full_one_the_corrupt_bit_for_bit),
        cmocka_unit_test(a_node_cut_from_the_end_hides_all_below_it),
        cmocka_unit_test(a_mask_a_row_is_that_row_under_its_mask),
        cmocka_unit_test(gradients_are_the_slopes_of_the_forward_pass),
        cmocka_unit_test(captures_and_their_gradients_are_those_of_the_masked_pass),
        cmocka_unit_test(a_failing_allocation_is_reported),
        cmocka_unit_test(exact_scores_are_passes_with_one_edge_ablated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
