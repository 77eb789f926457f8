/* SPDX-License-Identifier: Apache-2.0
 *
 * Interventions and gradients by laws that need no recording, on the committed tiny-rand model:
 * what is refused, what changes nothing, what is the same twice, what order means, and that the
 * gradient is the slope. The numbers themselves are tests/golden/hooks_golden's. */
#include "core/model/intervene.h"

#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/model/forward.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

enum { BATCH = 2, SEQ = 5, WIDTH = 32 };
static const int32_t tokens[BATCH * SEQ] = {0, 5, 17, 99, 321, 0, 12, 500, 3, 999};
static const int64_t width_shape[] = {WIDTH};

static abl_model *load_from(const char *folder, const char *name) {
    const char *paths[] = {folder};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&roots, name, &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", name, status.message);
    }
    abl_model_dir_destroy(dir);
    return model;
}

static abl_model *load(void) {
    return load_from(ABLATE_SOURCE_DIR "/tests/golden/data/models", "tiny-rand");
}

static abl_forward_options pass_of(const abl_model *model, const abl_intervention *items,
                                   size_t count) {
    return (abl_forward_options){.model = model,
                                 .tokens = tokens,
                                 .batch = BATCH,
                                 .seq = SEQ,
                                 .out_slice = ABL_OUT_SLICE_ALL,
                                 .stop_at_layer = -1,
                                 .interventions = {.items = items, .count = count}};
}

static abl_forward_result run(const abl_forward_options *options) {
    abl_forward_result result;
    abl_status status = {.message = ""};
    if (abl_forward(options, &result, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    return result;
}

static void expect_failure(const abl_forward_options *options, abl_code code, const char *reason) {
    abl_forward_result result;
    abl_status status = {.reason = ""};
    assert_int_equal(abl_forward(options, &result, &status), code);
    assert_string_equal(status.reason, reason);
}

static float *floats(const abl_tensor *tensor) {
    size_t count = (size_t)abl_tensor_count(tensor);
    float *values = abl_calloc(count, sizeof *values);
    abl_scope *scope = abl_scope_create(abl_tensor_device(tensor));
    abl_tensor_to_floats(scope, tensor, values, count);
    abl_scope_destroy(scope);
    return values;
}

static double difference(const abl_tensor *a, const abl_tensor *b) {
    assert_int_equal(abl_tensor_count(a), abl_tensor_count(b));
    float *x = floats(a);
    float *y = floats(b);
    double largest = 0;
    for (int64_t i = 0; i < abl_tensor_count(a); i++) {
        largest = fmax(largest, fabs((double)x[i] - (double)y[i]));
    }
    abl_free(x);
    abl_free(y);
    return largest;
}

static abl_hook at(abl_hook_point point, int layer) {
    return (abl_hook){.point = point, .layer = layer};
}

/* The logits of two lists of interventions. */
static double logits_apart(const abl_model *model, const abl_intervention *a, size_t a_count,
                           const abl_intervention *b, size_t b_count) {
    abl_forward_options options = pass_of(model, a, a_count);
    abl_forward_result left = run(&options);
    options = pass_of(model, b, b_count);
    abl_forward_result right = run(&options);
    double largest = difference(left.logits, right.logits);
    abl_forward_result_finish(&left);
    abl_forward_result_finish(&right);
    return largest;
}

/* ---- Laws -------------------------------------------------------------------------------- */

/* Rotary and learned positions, parallel and gated and no MLPs, norms of all kinds and none, all
 * ways to attend. */
static const char *const families[] = {"attn-only", "gpt-neox",      "gpt-neox-seq",     "llama",
                                       "micro",     "tracr-reverse", "tracr-xproportion"};

static abl_model *load_family(size_t index) {
    return index == ABL_COUNT_OF(families)
               ? load()
               : load_from(ABLATE_SOURCE_DIR "/tests/golden/data/families", families[index]);
}

/* A pass that any of them takes: few ids, a short context. */
static abl_forward_options family_pass(const abl_model *model, const abl_intervention *items,
                                       size_t count) {
    static const int32_t few[] = {1, 2, 0, 0, 2, 1};
    abl_forward_options options = pass_of(model, items, count);
    options.tokens = few;
    options.seq = 3;
    return options;
}

static void what_does_nothing_at_any_point_leaves_the_plain_pass(void **state) {
    (void)state;
    for (size_t family = 0; family <= ABL_COUNT_OF(families); family++) {
        abl_model *model = load_family(family);
        abl_forward_options options = family_pass(model, NULL, 0);
        abl_forward_result plain = run(&options);
        size_t count = abl_hook_list(abl_model_get_config(model), NULL, 0);
        abl_hook *hooks = abl_calloc(count, sizeof *hooks);
        (void)abl_hook_list(abl_model_get_config(model), hooks, count);
        for (size_t i = 0; i < count; i++) {
            const abl_model_config *config = abl_model_get_config(model);
            if (hooks[i].point == ABL_HOOK_ATTN_IN && config->n_heads != config->n_kv_heads) {
                continue; /* grouped heads have no one input */
            }
            const abl_intervention once = {.hook = hooks[i], .op = ABL_OP_SCALE, .factor = 1};
            options = family_pass(model, &once, 1);
            abl_forward_result same = run(&options);
            double apart = difference(plain.logits, same.logits);
            if (!(apart < 1e-5)) {
                char name[64];
                fail_msg("family %zu, %s: %g", family, abl_hook_name(hooks[i], name, sizeof name),
                         apart);
            }
            abl_forward_result_finish(&same);
        }
        abl_free(hooks);
        abl_forward_result_finish(&plain);
        abl_model_unref(model);
    }
}

/* What a small move of x along its gradient does to the scalar, over the gradient's length. */
static void every_family_has_the_slope_for_gradient(void **state) {
    (void)state;
    static const char *const names[] = {"blocks.0.hook_resid_pre_grad"};
    static const int64_t columns[] = {0, 0};
    static const float weights[] = {1, 1};
    for (size_t family = 0; family <= ABL_COUNT_OF(families); family++) {
        if (family < ABL_COUNT_OF(families) && strncmp(families[family], "tracr", 5) == 0) {
            continue; /* a compiled model's ReLUs sit at their kinks: there is no slope */
        }
        abl_model *model = load_family(family);
        abl_forward_options options = family_pass(model, NULL, 0);
        options.hooks = names;
        options.hook_count = 1;
        options.scalar = (abl_scalar){
            .kind = ABL_SCALAR_LOGIT_SUM, .columns = columns, .weights = weights, .width = 1};
        abl_forward_result result = run(&options);
        size_t count = (size_t)abl_tensor_count(result.entries[0].tensor);
        const int64_t shape[] = {BATCH, 3, abl_model_get_config(model)->d_model};
        float *gradient = floats(result.entries[0].tensor);
        float *bump = abl_calloc(count, sizeof *bump);
        double square = 0;
        for (size_t i = 0; i < count; i++) {
            square += (double)gradient[i] * (double)gradient[i];
        }
        assert_true(square > 0);
        const double step = 2e-3 / sqrt(square);
        const abl_intervention move = {.hook = at(ABL_HOOK_RESID_PRE, 0),
                                       .op = ABL_OP_ADD,
                                       .values = bump,
                                       .value_shape = shape,
                                       .value_rank = 3,
                                       .factor = 1};
        options.interventions = (abl_interventions){.items = &move, .count = 1};
        double scalars[2];
        for (int sign = 0; sign < 2; sign++) {
            for (size_t i = 0; i < count; i++) {
                bump[i] = (float)((sign == 0 ? -step : step) * (double)gradient[i]);
            }
            abl_forward_result moved = run(&options);
            scalars[sign] = moved.scalar;
            abl_forward_result_finish(&moved);
        }
        double slope = (scalars[1] - scalars[0]) / (2 * step);
        if (!(fabs(slope - square) < 0.02 * square)) {
            fail_msg("family %zu: slope %g, gradient squared %g", family, slope, square);
        }
        abl_free(bump);
        abl_free(gradient);
        abl_forward_result_finish(&result);
        abl_model_unref(model);
    }
}

static void zeroing_twice_is_zeroing_once(void **state) {
    (void)state;
    abl_model *model = load();
    static const int32_t head[] = {2};
    const abl_intervention zero = {
        .hook = at(ABL_HOOK_Z, 0), .op = ABL_OP_ZERO, .heads = {.indices = head, .count = 1}};
    const abl_intervention both[] = {
        {.hook = zero.hook, .op = ABL_OP_SCALE, .heads = zero.heads, .factor = 0}, zero};
    assert_true(logits_apart(model, &zero, 1, both, 2) == 0);
    assert_true(logits_apart(model, &zero, 1, NULL, 0) > 1e-3);
    abl_model_unref(model);
}

static void order_at_a_point_is_the_order_of_the_list(void **state) {
    (void)state;
    abl_model *model = load();
    float vector[WIDTH]; /* not constant: a layer norm would take that away again */
    for (int i = 0; i < WIDTH; i++) {
        vector[i] = (float)(i % 7) * 0.2F;
    }
    const abl_intervention add = {.hook = at(ABL_HOOK_MLP_OUT, 0),
                                  .op = ABL_OP_ADD,
                                  .values = vector,
                                  .value_shape = width_shape,
                                  .value_rank = 1,
                                  .factor = 1};
    const abl_intervention twice = {.hook = add.hook, .op = ABL_OP_SCALE, .factor = 2};
    const abl_intervention add_first[] = {add, twice};
    const abl_intervention scale_first[] = {twice, add, add};
    assert_true(logits_apart(model, add_first, 2, scale_first, 3) < 1e-5);
    assert_true(logits_apart(model, add_first, 2, scale_first, 2) > 1e-4);
    abl_model_unref(model);
}

/* What a capture keeps is what a cache has, where no gradient is asked for no gradient is kept, and
 * the pass is the same, bit for bit. */
static void a_capture_keeps_what_is_there_and_changes_nothing(void **state) {
    (void)state;
    abl_model *model = load();
    static const int32_t one[] = {1};
    static const char *const names[] = {"blocks.0.attn.hook_z", "blocks.0.attn.hook_z_grad"};
    abl_tensor *kept[3] = {NULL};
    const abl_index_list row = {.indices = one, .count = 1};
    const abl_intervention half = {.hook = at(ABL_HOOK_Z, 0), .op = ABL_OP_SCALE, .factor = 0.5};
    const abl_intervention list[] = {
        {.hook = half.hook, .op = ABL_OP_CAPTURE, .kept = &kept[0]},
        half,
        {.hook = half.hook, .op = ABL_OP_CAPTURE, .rows = row, .kept = &kept[1]},
        {.hook = half.hook, .op = ABL_OP_CAPTURE_GRADIENT, .kept = &kept[2]},
    };
    assert_true(logits_apart(model, &half, 1, list, ABL_COUNT_OF(list)) == 0);
    assert_null(kept[2]);
    assert_int_equal(abl_tensor_size(kept[1], 0), 1);
    abl_forward_options options = pass_of(model, list, ABL_COUNT_OF(list));
    options.hooks = names;
    options.hook_count = 2;
    abl_forward_result result = run(&options); /* replaces what was kept */
    float *before = floats(kept[0]);
    float *after = floats(result.entries[0].tensor);
    for (int64_t i = 0; i < abl_tensor_size(kept[0], 1); i++) {
        assert_true(0.5F * before[i] == after[i]);
    }
    assert_true(difference(kept[2], result.entries[1].tensor) == 0);
    for (size_t i = 0; i < ABL_COUNT_OF(kept); i++) {
        abl_tensor_release(kept[i]);
    }
    abl_free(before);
    abl_free(after);
    abl_forward_result_finish(&result);
    abl_model_unref(model);
}

static void a_run_patched_with_its_own_activations_is_itself(void **state) {
    (void)state;
    abl_model *model = load();
    abl_forward_options options = pass_of(model, NULL, 0);
    options.capture_all = true;
    abl_forward_result cache = run(&options);
    for (size_t i = 0; i < cache.entry_count; i++) {
        const abl_intervention patch = {
            .hook = cache.entries[i].hook, .op = ABL_OP_PATCH, .cached = cache.entries[i].tensor};
        if (!(logits_apart(model, &patch, 1, NULL, 0) < 2e-5)) {
            fail_msg("%s", cache.entries[i].name);
        }
    }
    abl_forward_result_finish(&cache);
    abl_model_unref(model);
}

static void one_row_at_one_position_leaves_the_other_row_and_what_came_before(void **state) {
    (void)state;
    abl_model *model = load();
    static const int32_t row[] = {1};
    static const int32_t position[] = {-2};
    const abl_intervention zero = {.hook = at(ABL_HOOK_RESID_PRE, 1),
                                   .op = ABL_OP_ZERO,
                                   .positions = {.indices = position, .count = 1},
                                   .rows = {.indices = row, .count = 1}};
    abl_forward_options options = pass_of(model, &zero, 1);
    abl_forward_result changed = run(&options);
    const abl_intervention nothing = {.hook = zero.hook, .op = ABL_OP_SCALE, .factor = 1};
    options = pass_of(model, &nothing, 1);
    abl_forward_result same = run(&options);
    float *a = floats(changed.logits);
    float *b = floats(same.logits);
    const size_t vocab = (size_t)abl_model_get_config(model)->d_vocab;
    const size_t before = (SEQ + SEQ - 2) * vocab; /* all of row 0, and row 1 up to position -3 */
    assert_memory_equal(a, b, before * sizeof *a);
    assert_true(fabsf(a[before] - b[before]) > 1e-4F);
    abl_free(a);
    abl_free(b);
    abl_forward_result_finish(&changed);
    abl_forward_result_finish(&same);
    abl_model_unref(model);
}

static void what_is_projected_out_is_gone(void **state) {
    (void)state;
    abl_model *model = load();
    float direction[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        direction[i] = (float)(i % 5) - 1.5F;
    }
    const abl_intervention out = {.hook = at(ABL_HOOK_RESID_POST, 0),
                                  .op = ABL_OP_PROJECT_OUT,
                                  .values = direction,
                                  .value_shape = width_shape,
                                  .value_rank = 1};
    const char *names[] = {"blocks.0.hook_resid_post"};
    abl_forward_options options = pass_of(model, &out, 1);
    options.hooks = names;
    options.hook_count = 1;
    abl_forward_result result = run(&options);
    float *x = floats(result.entries[0].tensor);
    for (int token = 0; token < BATCH * SEQ; token++) {
        double along = 0;
        for (int i = 0; i < WIDTH; i++) {
            along += (double)x[token * WIDTH + i] * (double)direction[i];
        }
        assert_true(fabs(along) < 1e-4);
    }
    abl_free(x);
    abl_forward_result_finish(&result);
    abl_model_unref(model);
}

static void the_gradient_is_the_slope_through_interventions(void **state) {
    (void)state;
    abl_model *model = load();
    static const char *const names[] = {"hook_embed_grad"};
    static const int64_t shape[] = {BATCH, SEQ, WIDTH};
    float bump[BATCH * SEQ * WIDTH] = {0};
    const abl_intervention there[] = {
        {.hook = at(ABL_HOOK_EMBED, -1),
         .op = ABL_OP_ADD,
         .values = bump,
         .value_shape = shape,
         .value_rank = 3,
         .factor = 1},
        {.hook = at(ABL_HOOK_PATTERN, 0), .op = ABL_OP_SCALE, .factor = 0.5},
        {.hook = at(ABL_HOOK_MLP_POST, 1), .op = ABL_OP_CLAMP, .low = -0.05, .high = 0.2},
        {.hook = at(ABL_HOOK_RESID_MID, 0), .op = ABL_OP_MEAN, .over_rows = true},
    };
    abl_forward_options options = pass_of(model, there, ABL_COUNT_OF(there));
    options.hooks = names;
    options.hook_count = 1;
    abl_forward_result result = run(&options);
    float *gradient = floats(result.entries[0].tensor);
    double square = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(bump); i++) {
        square += (double)gradient[i] * (double)gradient[i];
    }
    const double step = 1e-3 / sqrt(square);
    double scalars[2];
    for (int sign = 0; sign < 2; sign++) {
        for (size_t i = 0; i < ABL_COUNT_OF(bump); i++) {
            bump[i] = (float)((sign == 0 ? -step : step) * (double)gradient[i]);
        }
        abl_forward_result moved = run(&options);
        scalars[sign] = moved.scalar;
        abl_forward_result_finish(&moved);
    }
    double slope = (scalars[1] - scalars[0]) / (2 * step);
    assert_true(fabs(slope - square) < 0.02 * square);
    abl_free(gradient);
    abl_forward_result_finish(&result);
    abl_model_unref(model);
}

enum { CUT = 2 };
static const int32_t whole_tokens[] = {0, 5, 17, 99, 321};

static void a_pass_behind_a_prefix_is_the_end_of_the_whole_one(void **state) {
    (void)state;
    abl_model *model = load();
    static const char *const names[] = {"blocks.1.hook_resid_pre", "blocks.1.attn.hook_z_grad"};
    static const int32_t last[] = {-1};
    static const int32_t first[] = {CUT};        /* the tail's, as the prompt counts */
    static const int32_t both[] = {CUT + 1, -1}; /* in this order */
    abl_forward_options options = pass_of(model, NULL, 0);
    options.tokens = whole_tokens;
    options.batch = 1;
    static const char *const patched[] = {"blocks.0.hook_resid_mid"};
    options.hooks = patched;
    options.hook_count = 1;
    static const int32_t swapped[] = {0, 7, 18, 98, 320};
    options.tokens = swapped;
    abl_forward_result other = run(&options); /* of the whole prompt */
    const abl_intervention items[] = {
        {.hook = at(ABL_HOOK_MLP_OUT, 0), .op = ABL_OP_ZERO, .positions = {last, 1}},
        {.hook = at(ABL_HOOK_K, 0), .op = ABL_OP_SCALE, .factor = 3, .positions = {first, 1}},
        {.hook = at(ABL_HOOK_RESID_MID, 0),
         .op = ABL_OP_PATCH,
         .cached = other.entries[0].tensor,
         .positions = {both, 2}},
        {.hook = at(ABL_HOOK_PATTERN, 1),
         .op = ABL_OP_MEAN,
         .over_positions = true,
         .positions = {both, 2}},
        {.hook = at(ABL_HOOK_Q, 1), .op = ABL_OP_SCALE, .factor = -2}, /* no key comes to know */
        {.hook = at(ABL_HOOK_MLP_POST, 1), .op = ABL_OP_CLAMP, .low = -1, .high = 0.1},
    };
    static const int64_t column[] = {7};
    static const float weight[] = {1};
    options.interventions = (abl_interventions){.items = items, .count = ABL_COUNT_OF(items)};
    options.tokens = whole_tokens;
    options.hooks = names;
    options.hook_count = 2;
    options.positions = (abl_index_list){last, 1};
    options.out_slice = ABL_OUT_SLICE_LAST;
    options.scalar = (abl_scalar){
        .kind = ABL_SCALAR_LOGIT_SUM, .columns = column, .weights = weight, .width = 1};
    abl_forward_result whole = run(&options);
    options.interventions.count--;
    abl_forward_result fewer = run(&options);
    assert_true(difference(whole.logits, fewer.logits) > 1e-3);
    options.interventions.count++;
    abl_prefix *prefix = NULL;
    assert_int_equal(abl_prefix_create(model, whole_tokens, CUT, &prefix, NULL), ABL_CODE_OK);
    options.prefix = prefix;
    options.tokens = whole_tokens + CUT;
    options.seq = SEQ - CUT;
    abl_forward_result tail = run(&options);
    assert_int_equal(tail.entry_count, 2);
    assert_true(difference(whole.logits, tail.logits) < 1e-5);
    for (size_t i = 0; i < 2; i++) {
        assert_true(difference(whole.entries[i].tensor, tail.entries[i].tensor) < 1e-5);
    }
    abl_forward_result_finish(&tail);
    abl_forward_result_finish(&fewer);
    abl_forward_result_finish(&whole);
    abl_forward_result_finish(&other);
    abl_prefix_destroy(prefix);
    abl_model_unref(model);
}

/* ---- Refusals ---------------------------------------------------------------------------- */

static void what_cannot_be_done_at_a_point_is_refused(void **state) {
    (void)state;
    abl_model *model = load();
    static const int32_t far[] = {9};
    static const int32_t twice[] = {0, -SEQ};
    static const float nothing[WIDTH] = {0};
    static const float nan_value[] = {NAN};
    static const int64_t one[] = {1};
    static const int64_t three[] = {3};
    const struct {
        abl_intervention item;
        abl_code code;
        const char *reason;
    } cases[] = {
        {{.hook = at(ABL_HOOK_Z, 0), .heads = {.indices = far, .count = 1}},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_HEADS"},
        {{.hook = at(ABL_HOOK_MLP_OUT, 0), .heads = {.indices = far, .count = 1}},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_HEADS"},
        {{.hook = at(ABL_HOOK_Z, 0), .positions = {.indices = far, .count = 1}},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_POSITIONS"},
        {{.hook = at(ABL_HOOK_Z, 0), .positions = {.indices = twice, .count = 2}},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_POSITIONS"},
        {{.hook = at(ABL_HOOK_Z, 0), .rows = {.indices = far, .count = 1}},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_ROWS"},
        {{.hook = at(ABL_HOOK_MLP_OUT, 0),
          .op = ABL_OP_SET,
          .values = nothing,
          .value_shape = three,
          .value_rank = 1},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_VALUE_SHAPE"},
        {{.hook = at(ABL_HOOK_MLP_OUT, 0),
          .op = ABL_OP_PROJECT_OUT,
          .values = nothing,
          .value_shape = width_shape,
          .value_rank = 1},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_VALUE"},
        {{.hook = at(ABL_HOOK_MLP_OUT, 0),
          .op = ABL_OP_SET,
          .values = nan_value,
          .value_shape = one,
          .value_rank = 1},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_VALUE"},
        {{.hook = at(ABL_HOOK_MLP_OUT, 0), .op = ABL_OP_MEAN},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_VALUE"},
        {{.hook = at(ABL_HOOK_MLP_OUT, 0), .op = ABL_OP_CLAMP, .low = 1, .high = 0},
         ABL_CODE_INVALID_ARGUMENT,
         "HOOK_VALUE"},
        {{.hook = at(ABL_HOOK_ATTN_SCORES, 0), .op = ABL_OP_SCALE, .factor = 0},
         ABL_CODE_FAILED_PRECONDITION,
         "HOOK_CANNOT_FIRE"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        abl_forward_options options = pass_of(model, &cases[i].item, 1);
        expect_failure(&options, cases[i].code, cases[i].reason);
    }
    abl_model_unref(model);
}

/* What would do less behind a prefix than in the whole prompt. */
static void what_is_about_the_prefix_is_refused_behind_it(void **state) {
    (void)state;
    static const int32_t inside[] = {-1, CUT - 1};
    static const int32_t from_end[] = {-SEQ};
    static const int32_t later[] = {CUT};
    static const struct {
        abl_intervention item;
        const char *reason; /* NULL: taken */
        int64_t prefix_max;
    } cases[] = {
        {{.hook = {.point = ABL_HOOK_MLP_OUT, .layer = 0}, .op = ABL_OP_ZERO}, "HOOK_IN_PREFIX", 0},
        {{.hook = {.point = ABL_HOOK_EMBED, .layer = -1}, .op = ABL_OP_ZERO}, "HOOK_IN_PREFIX", 0},
        {{.hook = {.point = ABL_HOOK_V, .layer = 1}, .op = ABL_OP_ZERO}, "HOOK_IN_PREFIX", 0},
        {{.hook = {.point = ABL_HOOK_LN1_SCALE, .layer = 1}, .op = ABL_OP_SCALE, .factor = 2},
         "HOOK_IN_PREFIX",
         0},
        {{.hook = {.point = ABL_HOOK_MLP_OUT, .layer = 1},
          .op = ABL_OP_MEAN,
          .over_positions = true},
         "HOOK_IN_PREFIX",
         0},
        {{.hook = {.point = ABL_HOOK_MLP_OUT, .layer = 1},
          .op = ABL_OP_ZERO,
          .positions = {inside, 2}},
         "HOOK_IN_PREFIX",
         CUT - 1},
        {{.hook = {.point = ABL_HOOK_Z, .layer = 0}, .op = ABL_OP_ZERO, .positions = {from_end, 1}},
         "HOOK_IN_PREFIX",
         0},
        {{.hook = {.point = ABL_HOOK_MLP_OUT, .layer = 0},
          .op = ABL_OP_CAPTURE,
          .positions = {inside, 2}},
         "HOOK_IN_PREFIX",
         CUT - 1},
        {{.hook = {.point = ABL_HOOK_Z, .layer = 0}, .op = ABL_OP_ZERO, .positions = {later, 1}},
         NULL,
         CUT},
        {{.hook = {.point = ABL_HOOK_MLP_OUT, .layer = 0}, .op = ABL_OP_CAPTURE}, NULL, SEQ},
        {{.hook = {.point = ABL_HOOK_Z, .layer = 1}, .op = ABL_OP_ZERO}, NULL, SEQ},
        {{.hook = {.point = ABL_HOOK_UNEMBED, .layer = -1}, .op = ABL_OP_ZERO}, NULL, SEQ},
    };
    abl_model *model = load();
    abl_prefix *prefix = NULL;
    assert_int_equal(abl_prefix_create(model, whole_tokens, CUT, &prefix, NULL), ABL_CODE_OK);
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        abl_intervention item = cases[i].item;
        abl_tensor *kept = NULL;
        item.kept = item.op == ABL_OP_CAPTURE ? &kept : NULL;
        assert_int_equal(abl_intervention_prefix_max(abl_model_get_config(model), &item, SEQ),
                         cases[i].prefix_max);
        abl_forward_options options = pass_of(model, &item, 1);
        options.tokens = whole_tokens + CUT;
        options.batch = 1;
        options.seq = SEQ - CUT;
        options.prefix = prefix;
        if (cases[i].reason != NULL) {
            expect_failure(&options, ABL_CODE_INVALID_ARGUMENT, cases[i].reason);
        } else {
            abl_forward_result result = run(&options);
            abl_forward_result_finish(&result);
        }
        options.tokens = whole_tokens;
        options.seq = SEQ;
        options.prefix = NULL;
        abl_forward_result result = run(&options);
        abl_forward_result_finish(&result);
        abl_tensor_release(kept);
    }
    abl_prefix_destroy(prefix);
    abl_model_unref(model);
}

static void what_two_would_overwrite_or_nothing_would_read_is_refused(void **state) {
    (void)state;
    abl_model *model = load();
    static const int32_t first[] = {0};
    static const int32_t last[] = {-1};
    abl_intervention pair[] = {
        {.hook = at(ABL_HOOK_Z, 0), .op = ABL_OP_ZERO},
        {.hook = at(ABL_HOOK_Z, 0), .op = ABL_OP_ZERO, .positions = {.indices = last, .count = 1}}};
    abl_forward_options options = pass_of(model, pair, 2);
    expect_failure(&options, ABL_CODE_INVALID_ARGUMENT, "HOOKS_OVERLAP");
    pair[0].positions = (abl_index_list){.indices = first, .count = 1};
    abl_forward_result apart = run(&options);
    abl_forward_result_finish(&apart);
    pair[0] = (abl_intervention){.hook = at(ABL_HOOK_ATTN_IN, 1), .op = ABL_OP_ZERO};
    pair[1] = (abl_intervention){.hook = at(ABL_HOOK_K_INPUT, 1), .op = ABL_OP_ZERO};
    expect_failure(&options, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE");
    options.interventions.count = 1;
    options.per_head_inputs = true;
    expect_failure(&options, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE");
    options.stop_at_layer = 1;
    options.per_head_inputs = false;
    expect_failure(&options, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE");
    abl_model_unref(model);
}

static void every_failing_allocation_is_reported(void **state) {
    (void)state;
    abl_model *model = load();
    static const int32_t head[] = {1};
    const abl_intervention zero = {
        .hook = at(ABL_HOOK_Z, 0), .op = ABL_OP_ZERO, .heads = {.indices = head, .count = 1}};
    abl_forward_options options = pass_of(model, &zero, 1);
    options.capture_all = true;
    options.incl_bwd = true;
    for (uint64_t n = 1;; n += (n < 20) ? 1 : 41) {
        abl_forward_result result;
        abl_status status = {.reason = ""};
        abl_mem_fail_after(n);
        abl_code code = abl_forward(&options, &result, &status);
        abl_mem_fail_after(0);
        if (code == ABL_CODE_OK) {
            assert_true(n > 20);
            abl_forward_result_finish(&result);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
    abl_model_unref(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_nothing_at_any_point_leaves_the_plain_pass),
        cmocka_unit_test(every_family_has_the_slope_for_gradient),
        cmocka_unit_test(zeroing_twice_is_zeroing_once),
        cmocka_unit_test(order_at_a_point_is_the_order_of_the_list),
        cmocka_unit_test(a_capture_keeps_what_is_there_and_changes_nothing),
        cmocka_unit_test(a_run_patched_with_its_own_activations_is_itself),
        cmocka_unit_test(one_row_at_one_position_leaves_the_other_row_and_what_came_before),
        cmocka_unit_test(what_is_projected_out_is_gone),
        cmocka_unit_test(the_gradient_is_the_slope_through_interventions),
        cmocka_unit_test(a_pass_behind_a_prefix_is_the_end_of_the_whole_one),
        cmocka_unit_test(what_cannot_be_done_at_a_point_is_refused),
        cmocka_unit_test(what_is_about_the_prefix_is_refused_behind_it),
        cmocka_unit_test(what_two_would_overwrite_or_nothing_would_read_is_refused),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
