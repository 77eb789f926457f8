/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients at masks of factorized graphs, on every kind of block and of attention (grouped queries
 * as they are and expanded, joined q, k and v, parallel blocks), every shape of mask and every mask
 * function, and through every intervention: they are the slopes of the forward pass. (AutoCircuit's
 * numbers: tests/golden.) */
#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/model/model.h"
#include "core/patch/backward.h"
#include "core/patch/hooked.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BATCH = 3, SEQ = 5, PROBES = 30 };

static const struct {
    const char *folder;
    const char *name;
} MODELS[] = {{"models", "tiny-rand"},
              {"families", "llama"},
              {"families", "gpt-neox"},
              {"families", "gpt-neox-seq"},
              {"families", "attn-only"}};

typedef struct subject {
    const char *name;
    abl_model *model;
    abl_graph *graph;
    size_t edges;
    size_t vocab;
    int32_t clean[BATCH * SEQ];
    int32_t corrupt[BATCH * SEQ];
    abl_sources *ablated;
    float *weights; /* of the logits: loss = sum of weight * logit */
} subject;

static void must(abl_code code, const abl_status *status, const char *what) {
    if (code != ABL_CODE_OK) {
        fail_msg("%s: %s", what, status->message);
    }
}

static abl_model *load(size_t which) {
    char path[512];
    (void)snprintf(path, sizeof path, ABLATE_SOURCE_DIR "/tests/golden/data/%s",
                   MODELS[which].folder);
    const char *paths[] = {path};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    must(abl_model_dir_create(&roots, MODELS[which].name, &dir, &status), &status, path);
    must(abl_model_load(dir, &options, &model, &status), &status, path);
    abl_model_dir_destroy(dir);
    return model;
}

static double weight_at(size_t i) {
    return (double)((i * 2654435761U) % 1000U) / 1000.0 - 0.5;
}

static subject subject_open(size_t which, abl_gqa_mode gqa, bool joined, bool by_position) {
    subject s = {.name = MODELS[which].name, .model = load(which)};
    const abl_model_config *c = abl_model_get_config(s.model);
    const abl_graph_options options = {.layer_count = c->n_layers,
                                       .head_count = c->n_heads,
                                       .kv_head_count = c->n_kv_heads,
                                       .parallel_attn_mlp = c->parallel_attn_mlp,
                                       .attn_only = c->attn_only,
                                       .joined_qkv = joined,
                                       .gqa = gqa,
                                       .seq_len = by_position ? SEQ : 0};
    abl_status status = {.message = ""};
    must(abl_graph_create(&options, &s.graph, &status), &status, s.name);
    s.edges = (size_t)abl_graph_edge_count(s.graph);
    s.vocab = (size_t)c->d_vocab_out;
    s.weights = abl_calloc(BATCH * s.vocab, sizeof *s.weights);
    for (size_t i = 0; i < BATCH * s.vocab; i++) {
        s.weights[i] = (float)weight_at(i);
    }
    for (int32_t i = 0; i < BATCH * SEQ; i++) {
        s.clean[i] = (i * 7 + 3) % c->d_vocab;
        s.corrupt[i] = (i * 5 + 1) % c->d_vocab;
    }
    must(abl_sources_create(s.model, NULL, s.corrupt, BATCH, SEQ, &s.ablated, &status), &status,
         s.name);
    return s;
}

static void subject_close(subject *s) {
    abl_free(s->weights);
    abl_sources_destroy(s->ablated);
    abl_graph_destroy(s->graph);
    abl_model_unref(s->model);
}

static abl_tensor *given_weights(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const subject *s = user_data;
    (void)logits;
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 2,
                                (const int64_t[]){BATCH, (int64_t)s->vocab}, s->weights);
}

static double loss_of(const subject *s, const abl_patch_options *options) {
    float *logits = abl_calloc(BATCH * s->vocab, sizeof *logits);
    abl_status status = {.message = ""};
    must(abl_patch_forward(options, logits, &status), &status, s->name);
    double loss = 0;
    for (size_t i = 0; i < BATCH * s->vocab; i++) {
        loss += weight_at(i) * (double)logits[i];
    }
    abl_free(logits);
    return loss;
}

/* Values that repeat, in [-0.5, 1.5). */
static float *mask_of(size_t count) {
    float *mask = abl_calloc(count, sizeof *mask);
    uint32_t seed = 5;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525U + 1013904223U;
        mask[i] = (float)(seed >> 8) / 8388608.0F - 0.5F;
    }
    return mask;
}

static double largest_of(const float *values, size_t count) {
    double largest = 1e-3;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)values[i]));
    }
    return largest;
}

/* d loss / d *at, by central differences at two steps: what is of second order cancels. */
static double slope_at(const subject *s, const abl_patch_options *options, float *at) {
    const float middle = *at;
    double slopes[2];
    for (int i = 0; i < 2; i++) {
        const float step = i == 0 ? 4e-3F : 8e-3F;
        *at = middle + step;
        double loss = loss_of(s, options);
        *at = middle - step;
        slopes[i] = (loss - loss_of(s, options)) / (2 * (double)step);
    }
    *at = middle;
    return (4 * slopes[0] - slopes[1]) / 3;
}

static void compare_slopes(const subject *s, abl_patch_options options) {
    size_t count = s->edges * (size_t)(options.mask_batch > 1 ? options.mask_batch : 1);
    float *mask = mask_of(count);
    float *gradient = abl_calloc(count, sizeof *gradient);
    options.mask = mask;
    for (size_t i = 0; i < count && options.ablated == NULL; i++) {
        mask[i] *= 0.3F; /* with little left of an input, its norm bends too much for differences */
    }
    abl_status status = {.message = ""};
    must(abl_patch_backward(&options, given_weights, (void *)(uintptr_t)s, NULL, gradient, &status),
         &status, s->name);
    const double largest = largest_of(gradient, count);
    /* Interventions are many, and each has a few. */
    const size_t probes = options.interventions.count > 0 ? PROBES / 3 : PROBES;
    for (size_t i = 0; i < count; i += count / probes + 1) {
        const double slope = slope_at(s, &options, &mask[i]);
        if (!(fabs(slope - (double)gradient[i]) < 1e-2 * largest)) {
            const abl_interventions list = options.interventions;
            char at[ABL_NAME_BYTES_MAX] = "";
            fail_msg("%s, %s at '%s', mask function %d, rows %d, edge %zu: gradient %g, slope %g, "
                     "largest %g",
                     s->name, list.count == 0 ? "nothing" : abl_op_name(list.items[0].op),
                     list.count == 0 ? at : abl_hook_name(list.items[0].hook, at, sizeof at),
                     (int)options.mask_function, options.mask_batch, i, (double)gradient[i], slope,
                     largest);
        }
    }
    abl_free(gradient);
    abl_free(mask);
}

static void every_shape_of_mask(size_t which, abl_gqa_mode gqa, bool joined, bool by_position) {
    subject s = subject_open(which, gqa, joined, by_position);
    const abl_patch_options options = {.model = s.model,
                                       .graph = s.graph,
                                       .tokens = s.clean,
                                       .batch = BATCH,
                                       .seq = SEQ,
                                       .seed = 9};
    for (int32_t rows = 1; rows <= BATCH; rows += BATCH - 1) {
        abl_patch_options shaped = options;
        shaped.mask_batch = rows;
        compare_slopes(&s, shaped); /* ZERO */
        shaped.ablated = s.ablated;
        compare_slopes(&s, shaped);
        shaped.mask_function = ABL_MASK_SIGMOID;
        shaped.mask_dropout = 0.2F;
        compare_slopes(&s, shaped);
    }
    subject_close(&s);
}

static void gradients_are_the_slopes_of_the_forward_pass(void **state) {
    (void)state;
    for (size_t which = 0; which < ABL_COUNT_OF(MODELS); which++) {
        every_shape_of_mask(which, ABL_GQA_NATIVE, false, false);
        every_shape_of_mask(which, ABL_GQA_NATIVE, false, true);
        every_shape_of_mask(which, ABL_GQA_NATIVE, true, false);
    }
    every_shape_of_mask(1, ABL_GQA_EXPANDED, false, false);
    every_shape_of_mask(1, ABL_GQA_EXPANDED, true, true);
}

/* One sample of hard concrete masks at a time, as a training does: rows draw their own. */
static void gradients_go_through_drawn_masks(void **state) {
    (void)state;
    subject s = subject_open(1, ABL_GQA_NATIVE, false, false);
    abl_patch_options options = {.model = s.model,
                                 .graph = s.graph,
                                 .tokens = s.clean,
                                 .batch = BATCH,
                                 .seq = SEQ,
                                 .mask_function = ABL_MASK_HARD_CONCRETE,
                                 .ablated = s.ablated,
                                 .seed = 4};
    compare_slopes(&s, options);
    options.mask_batch = BATCH;
    compare_slopes(&s, options);
    subject_close(&s);
}

/* ---- interventions -------------------------------------------------------------------------- */

static const int32_t FIRST[] = {0};
static const int32_t SECOND[] = {1};
static const int32_t LAST_TWO[] = {-2, -1};

#define ONLY(list)                                                                                 \
    { list, ABL_COUNT_OF(list) }

/* Every operation: in the stream, at sources' outputs, at destinations' inputs and inside them, in
 * norms (which fire once a reader); on heads, positions and rows. */
static const abl_intervention OPERATIONS[] = {
    {.hook = {ABL_HOOK_Z, 0}, .op = ABL_OP_ZERO, .heads = ONLY(SECOND)},
    {.hook = {ABL_HOOK_RESULT, 0}, .op = ABL_OP_ZERO, .heads = ONLY(FIRST)},
    {.hook = {ABL_HOOK_RESULT, 1}, .op = ABL_OP_SCALE, .factor = 1.7},
    {.hook = {ABL_HOOK_ATTN_OUT, 0}, .op = ABL_OP_MEAN, .over_positions = true},
    {.hook = {ABL_HOOK_Q, 1}, .op = ABL_OP_SCALE, .factor = -0.5, .positions = ONLY(LAST_TWO)},
    {.hook = {ABL_HOOK_K, 1}, .op = ABL_OP_MEAN, .over_rows = true},
    {.hook = {ABL_HOOK_V, 0}, .op = ABL_OP_ADD, .factor = 2},
    {.hook = {ABL_HOOK_PATTERN, 1}, .op = ABL_OP_SCALE, .factor = 0.5, .rows = ONLY(SECOND)},
    {.hook = {ABL_HOOK_RESID_PRE, 1}, .op = ABL_OP_PROJECT_OUT},
    {.hook = {ABL_HOOK_RESID_PRE, 0}, .op = ABL_OP_ADD, .factor = 1},
    {.hook = {ABL_HOOK_RESID_POST, 0}, .op = ABL_OP_SET, .positions = ONLY(SECOND)},
    {.hook = {ABL_HOOK_LN1_SCALE, 1}, .op = ABL_OP_SCALE, .factor = 1.3},
    {.hook = {ABL_HOOK_LN1_NORMALIZED, 1},
     .op = ABL_OP_CLAMP,
     .low = -3,
     .high = 0.5,
     .positions = ONLY(SECOND),
     .rows = ONLY(FIRST)},
    {.hook = {ABL_HOOK_LN_FINAL_NORMALIZED, -1}, .op = ABL_OP_PROJECT_OUT},
    {.hook = {ABL_HOOK_UNEMBED, -1}, .op = ABL_OP_SCALE, .factor = 0.5},
    {.hook = {ABL_HOOK_EMBED, -1}, .op = ABL_OP_SCALE, .factor = 2},
    {.hook = {ABL_HOOK_Q_INPUT, 1}, .op = ABL_OP_ZERO, .heads = ONLY(FIRST)},
    {.hook = {ABL_HOOK_V_INPUT, 0}, .op = ABL_OP_PROJECT_OUT},
    /* of models with an MLP; a clamp of few elements, for differences do not see where it bends */
    {.hook = {ABL_HOOK_MLP_OUT, 1}, .op = ABL_OP_ZERO, .rows = ONLY(FIRST)},
    {.hook = {ABL_HOOK_MLP_OUT, 0},
     .op = ABL_OP_CLAMP,
     .low = -0.05,
     .high = 1,
     .positions = ONLY(SECOND),
     .rows = ONLY(FIRST)},
    {.hook = {ABL_HOOK_MLP_IN, 1}, .op = ABL_OP_ADD, .factor = -1},
    {.hook = {ABL_HOOK_MLP_POST, 0}, .op = ABL_OP_SCALE, .factor = 3},
};

/* The operation with a value of the point's width where it takes one. */
static abl_intervention with_value(const abl_intervention *operation, const abl_model_config *c,
                                   const float *values, int64_t *shape) {
    abl_intervention item = *operation;
    const abl_pass_shape pass = {.kv_heads = c->n_kv_heads, .per_head_inputs = true};
    if (item.op == ABL_OP_ADD || item.op == ABL_OP_SET || item.op == ABL_OP_PROJECT_OUT) {
        const abl_hook_layout layout = abl_hook_layout_of(c, item.hook.point, &pass);
        *shape = layout.sizes[layout.rank - 1];
        item.values = values;
        item.value_shape = shape;
        item.value_rank = 1;
    }
    return item;
}

/* Those that some model has not: no MLP, other numbers of heads for q and k, or none that split. */
static bool is_refused(const subject *s, const abl_patch_options *options) {
    abl_status status = {.reason = ""};
    abl_code code = abl_patch_hooked_check(options, true, &status);
    if (code != ABL_CODE_OK && strcmp(status.reason, "HOOK_CANNOT_FIRE") != 0) {
        fail_msg("%s: %s", s->name, status.message);
    }
    return code != ABL_CODE_OK;
}

static size_t every_operation(size_t which, abl_gqa_mode gqa, bool joined, bool by_position) {
    subject s = subject_open(which, gqa, joined, by_position);
    const abl_model_config *c = abl_model_get_config(s.model);
    size_t refused = 0;
    float values[256];
    for (size_t i = 0; i < ABL_COUNT_OF(values); i++) {
        values[i] = (float)weight_at(i + 17);
    }
    for (size_t i = 0; i < ABL_COUNT_OF(OPERATIONS); i++) {
        int64_t width = 0;
        const abl_intervention item = with_value(&OPERATIONS[i], c, values, &width);
        const abl_patch_options options = {.model = s.model,
                                           .graph = s.graph,
                                           .tokens = s.clean,
                                           .batch = BATCH,
                                           .seq = SEQ,
                                           .mask_batch = i % 2 == 0 ? 1 : BATCH,
                                           .ablated = s.ablated,
                                           .interventions = {.items = &item, .count = 1}};
        bool mlp = item.hook.point >= ABL_HOOK_MLP_IN && item.hook.point <= ABL_HOOK_MLP_OUT;
        if ((mlp && c->attn_only) || is_refused(&s, &options)) {
            refused++;
            continue;
        }
        compare_slopes(&s, options);
    }
    subject_close(&s);
    return refused;
}

static void gradients_go_through_interventions(void **state) {
    (void)state;
    assert_int_equal(every_operation(0, ABL_GQA_NATIVE, false, false), 0);
    assert_int_equal(every_operation(0, ABL_GQA_NATIVE, true, true), 2); /* q_input and v_input */
    assert_int_equal(every_operation(1, ABL_GQA_EXPANDED, false, false), 0);
    assert_int_equal(every_operation(2, ABL_GQA_NATIVE, false, false), 0);
    assert_int_equal(every_operation(4, ABL_GQA_NATIVE, false, true), 4); /* no MLP */
}

/* What changes nothing leaves the gradient as it is, and what is cut off has none. */
static void an_intervention_says_which_edges_matter(void **state) {
    (void)state;
    subject s = subject_open(0, ABL_GQA_NATIVE, false, false);
    float *mask = mask_of(s.edges);
    float *plain = abl_calloc(s.edges, sizeof *plain);
    float *have = abl_calloc(s.edges, sizeof *have);
    abl_patch_options options = {.model = s.model,
                                 .graph = s.graph,
                                 .tokens = s.clean,
                                 .batch = BATCH,
                                 .seq = SEQ,
                                 .mask = mask,
                                 .ablated = s.ablated};
    abl_status status = {.message = ""};
    must(abl_patch_backward(&options, given_weights, &s, NULL, plain, &status), &status, s.name);
    abl_intervention item = {.hook = {ABL_HOOK_RESID_PRE, 1}, .op = ABL_OP_SCALE, .factor = 1};
    options.interventions = (abl_interventions){.items = &item, .count = 1};
    must(abl_patch_backward(&options, given_weights, &s, NULL, have, &status), &status, s.name);
    const double largest = largest_of(plain, s.edges);
    for (size_t i = 0; i < s.edges; i++) {
        assert_true(fabs((double)(have[i] - plain[i])) < 1e-4 * largest);
    }
    item = (abl_intervention){.hook = {ABL_HOOK_Q, 1}, .op = ABL_OP_ZERO, .heads = ONLY(SECOND)};
    must(abl_patch_backward(&options, given_weights, &s, NULL, have, &status), &status, s.name);
    int64_t cut = 0;
    for (size_t i = 0; i < s.edges; i++) {
        const abl_edge edge = abl_graph_edge_at(s.graph, (int64_t)i);
        const abl_graph_dest *dest = abl_graph_dest_at(s.graph, edge.dest);
        if (dest->role == ABL_DEST_Q && dest->block == 1 && dest->head == 1) {
            assert_true(have[i] == 0.0F);
            cut++;
        }
    }
    assert_true(cut > 0);
    abl_free(have);
    abl_free(plain);
    abl_free(mask);
    subject_close(&s);
}

static void what_has_no_gradient_is_refused(void **state) {
    (void)state;
    subject s = subject_open(0, ABL_GQA_NATIVE, false, false);
    float *mask = mask_of(s.edges * BATCH);
    float *gradient = abl_calloc(s.edges * BATCH, sizeof *gradient);
    const abl_patch_options good = {.model = s.model,
                                    .graph = s.graph,
                                    .tokens = s.clean,
                                    .batch = BATCH,
                                    .seq = SEQ,
                                    .mask = mask,
                                    .ablated = s.ablated};
    abl_patch_options bad[6];
    static const char *const REASONS[] = {"MASK_MISSING",          "SLICE_INVALID",
                                          "MASK_BATCH_MISMATCH",   "MASK_FUNCTION_INVALID",
                                          "MASK_FUNCTION_INVALID", "MASK_NOT_FINITE"};
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        bad[i] = good;
    }
    bad[0].mask = NULL;
    bad[1].out_slice = ABL_OUT_SLICE_ALL;
    bad[2].mask_batch = BATCH - 1;
    bad[3].mask_dropout = 1;
    bad[4].mask_function = ABL_MASK_FUNCTION_COUNT;
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        abl_status status = {.reason = ""};
        if (i == 5) {
            mask[3] = INFINITY;
        }
        assert_int_equal(abl_patch_backward(&bad[i], given_weights, &s, NULL, gradient, &status),
                         ABL_CODE_INVALID_ARGUMENT);
        assert_string_equal(status.reason, REASONS[i]);
    }
    abl_free(gradient);
    abl_free(mask);
    subject_close(&s);
}

static void a_failing_allocation_is_reported(void **state) {
    (void)state;
    subject s = subject_open(0, ABL_GQA_NATIVE, false, false);
    float *mask = mask_of(s.edges);
    float *gradient = abl_calloc(s.edges, sizeof *gradient);
    const abl_patch_options options = {.model = s.model,
                                       .graph = s.graph,
                                       .tokens = s.clean,
                                       .batch = BATCH,
                                       .seq = SEQ,
                                       .mask = mask,
                                       .ablated = s.ablated};
    for (uint64_t n = 1;; n++) {
        abl_status status = {.message = ""};
        abl_mem_fail_after(n);
        abl_code code = abl_patch_backward(&options, given_weights, &s, NULL, gradient, &status);
        abl_mem_fail_after(0);
        if (code == ABL_CODE_OK) {
            assert_true(n > 5);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
    abl_free(gradient);
    abl_free(mask);
    subject_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_the_slopes_of_the_forward_pass),
        cmocka_unit_test(gradients_go_through_drawn_masks),
        cmocka_unit_test(gradients_go_through_interventions),
        cmocka_unit_test(an_intervention_says_which_edges_matter),
        cmocka_unit_test(what_has_no_gradient_is_refused),
        cmocka_unit_test(a_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
