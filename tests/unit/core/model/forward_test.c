/* SPDX-License-Identifier: Apache-2.0
 *
 * The pass on the committed tiny-rand model: what it refuses, and laws that need no recording. The
 * numbers themselves are tests/golden's. */
#include "core/model/forward.h"

#include "core/base/mem.h"
#include "core/model/dir.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

enum { BATCH = 2, SEQ = 6 };
static const int32_t tokens[BATCH * SEQ] = {0, 5, 17, 99, 321, 7, 0, 12, 500, 3, 999, 42};

static abl_model *load(abl_model_options options) {
    const char *paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models"};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&roots, "tiny-rand", &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    abl_model_dir_destroy(dir);
    return model;
}

static abl_model *load_plain(void) {
    return load((abl_model_options){.dtype = ABL_DTYPE_F32});
}

static abl_forward_options plain(const abl_model *model) {
    return (abl_forward_options){.model = model,
                                 .tokens = tokens,
                                 .batch = BATCH,
                                 .seq = SEQ,
                                 .out_slice = ABL_OUT_SLICE_ALL,
                                 .stop_at_layer = -1};
}

static abl_forward_result forward(const abl_forward_options *options) {
    abl_forward_result result;
    abl_status status = {.message = ""};
    if (abl_forward(options, &result, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    return result;
}

static double largest_difference(const abl_tensor *a, const abl_tensor *b) {
    abl_scope *scope = abl_scope_create(abl_tensor_device(a));
    abl_tensor *gap = abl_tensor_abs(scope, abl_tensor_sub(scope, a, b));
    gap = abl_tensor_reshape(scope, gap, 1, (const int64_t[]){-1});
    double value = abl_tensor_item(scope, abl_tensor_max(scope, gap, 0));
    abl_scope_destroy(scope);
    return value;
}

static void expect_failure(const abl_forward_options *options, abl_code code, const char *reason) {
    abl_forward_result result;
    abl_status status = {.reason = ""};
    assert_int_equal(abl_forward(options, &result, &status), code);
    assert_string_equal(status.reason, reason);
}

/* ---- Refusals ---------------------------------------------------------------------------- */

static void bad_tokens_are_refused_by_place(void **state) {
    (void)state;
    abl_model *model = load_plain();
    abl_forward_options options = plain(model);
    int32_t wrong[BATCH * SEQ];
    memcpy(wrong, tokens, sizeof wrong);
    options.tokens = wrong;
    wrong[SEQ + 2] = 1000;
    abl_forward_result result;
    abl_status status;
    assert_int_equal(abl_forward(&options, &result, &status), ABL_CODE_INVALID_ARGUMENT);
    assert_non_null(strstr(status.message, "row 1, position 2 is 1000"));
    wrong[SEQ + 2] = -1;
    expect_failure(&options, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE");
    options = plain(model);
    options.batch = 0;
    expect_failure(&options, ABL_CODE_INVALID_ARGUMENT, "BATCH_INVALID");
    options = plain(model);
    options.seq = 65; /* n_ctx is 64 */
    expect_failure(&options, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID");
    options = plain(model);
    options.stop_at_layer = 3;
    expect_failure(&options, ABL_CODE_INVALID_ARGUMENT, "LAYER_OUT_OF_RANGE");
    abl_model_unref(model);
}

static void a_hook_behind_the_stop_is_refused(void **state) {
    (void)state;
    abl_model *model = load_plain();
    const char *behind[] = {"blocks.1.attn.hook_z"};
    const char *final[] = {"ln_final.hook_scale"};
    abl_forward_options options = plain(model);
    options.hook_count = 1;
    options.stop_at_layer = 1;
    options.hooks = behind;
    expect_failure(&options, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE");
    options.hooks = final;
    expect_failure(&options, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE");
    abl_model_unref(model);
}

static bool cancel_third(void *user_data) {
    int *asked = user_data;
    return ++*asked == 2;
}

static void a_cancelled_pass_stops_between_layers(void **state) {
    (void)state;
    abl_model *model = load_plain();
    int asked = 0;
    abl_forward_options options = plain(model);
    options.cancelled_cb = cancel_third;
    options.user_data = &asked;
    expect_failure(&options, ABL_CODE_CANCELLED, "RUN_CANCELLED");
    assert_int_equal(asked, 2);
    abl_model_unref(model);
}

static void every_failing_allocation_of_a_pass_is_reported(void **state) {
    (void)state;
    abl_model *model = load_plain();
    abl_forward_options options = plain(model);
    options.capture_all = true;
    for (uint64_t n = 1;; n += (n < 20) ? 1 : 17) {
        abl_forward_result result;
        abl_mem_fail_after(n);
        abl_code code = abl_forward(&options, &result, NULL);
        abl_mem_fail_after(0);
        if (code == ABL_CODE_OK) {
            abl_forward_result_finish(&result);
            assert_true(n > 20);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
    abl_model_unref(model);
}

/* ---- Laws -------------------------------------------------------------------------------- */

static void the_last_position_alone_equals_the_last_of_all(void **state) {
    (void)state;
    abl_model *model = load_plain();
    abl_forward_options options = plain(model);
    abl_forward_result all = forward(&options);
    options.out_slice = ABL_OUT_SLICE_LAST;
    abl_forward_result last = forward(&options);
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    assert_true(largest_difference(abl_tensor_select(scope, all.logits, 1, SEQ - 1), last.logits) <
                1e-5);
    abl_scope_destroy(scope);
    abl_forward_result_finish(&all);
    abl_forward_result_finish(&last);
    abl_model_unref(model);
}

static void capturing_changes_no_bit_of_the_logits(void **state) {
    (void)state;
    abl_model *model = load_plain();
    abl_forward_options options = plain(model);
    abl_forward_result bare = forward(&options);
    options.capture_all = true;
    options.per_head_inputs = true;
    abl_forward_result full = forward(&options);
    assert_true(largest_difference(bare.logits, full.logits) == 0.0);
    abl_forward_result_finish(&bare);
    abl_forward_result_finish(&full);
    abl_model_unref(model);
}

static void stopping_at_a_layer_gives_the_residual_that_enters_it(void **state) {
    (void)state;
    abl_model *model = load_plain();
    const char *hooks[] = {"blocks.1.hook_in", "blocks.1.hook_resid_pre"};
    abl_forward_options options = plain(model);
    options.hooks = hooks;
    options.hook_count = 2;
    abl_forward_result whole = forward(&options);
    assert_int_equal(whole.entry_count, 1); /* both names are one hook */
    assert_string_equal(whole.entries[0].name, "blocks.1.hook_resid_pre");
    options.hook_count = 0;
    options.stop_at_layer = 1;
    abl_forward_result part = forward(&options);
    assert_null(part.logits);
    assert_true(largest_difference(whole.entries[0].tensor, part.residual) == 0.0);
    abl_forward_result_finish(&whole);
    abl_forward_result_finish(&part);
    abl_model_unref(model);
}

static void rows_of_a_batch_do_not_see_each_other(void **state) {
    (void)state;
    abl_model *model = load_plain();
    abl_forward_options options = plain(model);
    abl_forward_result both = forward(&options);
    options.tokens = tokens + SEQ;
    options.batch = 1;
    abl_forward_result second = forward(&options);
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    abl_tensor *row = abl_tensor_slice(scope, both.logits, 0, 1, 2);
    assert_true(largest_difference(row, second.logits) < 1e-5);
    abl_scope_destroy(scope);
    abl_forward_result_finish(&both);
    abl_forward_result_finish(&second);
    abl_model_unref(model);
}

static void inputs_repeated_for_heads_share_one_memory(void **state) {
    (void)state;
    abl_model *model = load_plain();
    const char *hooks[] = {"blocks.0.hook_q_input", "blocks.0.hook_k_input"};
    abl_forward_options options = plain(model);
    options.hooks = hooks;
    options.hook_count = 2;
    abl_forward_result result = forward(&options);
    assert_int_equal(abl_tensor_size(result.entries[0].tensor, 2), 4);
    assert_true(abl_tensor_same_storage(result.entries[0].tensor, result.entries[1].tensor));
    assert_true(abl_tensor_storage_bytes(result.entries[0].tensor) <
                abl_tensor_bytes(result.entries[0].tensor));
    abl_forward_result_finish(&result);
    abl_model_unref(model);
}

/* ---- The model --------------------------------------------------------------------------- */

static void plain_weights_are_the_mapped_file(void **state) {
    (void)state;
    abl_model *model = load_plain();
    assert_true(abl_model_bytes(model) > 0);
    assert_int_equal(abl_model_bytes_mapped(model), abl_model_bytes(model));
    assert_int_equal(abl_model_bytes(model), 4 * abl_model_parameter_count(model));
    assert_int_equal(strlen(abl_model_hash(model)), 64);
    assert_non_null(abl_model_tokenizer(model));
    abl_model_unref(model);
}

static void processing_changes_the_variant_and_not_the_hash(void **state) {
    (void)state;
    abl_model *raw = load_plain();
    abl_model *processed =
        load((abl_model_options){.dtype = ABL_DTYPE_F32, .processing = abl_model_processing_tl()});
    char text[96];
    assert_string_equal(abl_model_hash(raw), abl_model_hash(processed));
    assert_string_equal(abl_model_processing_text(abl_model_get_processing(raw), text, sizeof text),
                        "hf");
    assert_string_equal(
        abl_model_processing_text(abl_model_get_processing(processed), text, sizeof text), "tl");
    abl_model_processing one = {.fold_norm = true};
    one.center_unembed = true;
    assert_string_equal(abl_model_processing_text(one, text, sizeof text),
                        "fold_norm+center_unembed");
    abl_model_unref(raw);
    abl_model_unref(processed);
}

/* log-probabilities: centering the unembedding moves all logits of a row alike. */
static void no_processing_changes_the_function(void **state) {
    (void)state;
    abl_model *raw = load_plain();
    abl_forward_options options = plain(raw);
    abl_forward_result want = forward(&options);
    for (int bits = 1; bits < 16; bits++) {
        const abl_model_processing processing = {.fold_norm = (bits & 1) != 0,
                                                 .center_writing = (bits & 2) != 0,
                                                 .center_unembed = (bits & 4) != 0,
                                                 .fold_value_biases = (bits & 8) != 0};
        abl_model *other =
            load((abl_model_options){.dtype = ABL_DTYPE_F32, .processing = processing});
        options.model = other;
        abl_forward_result got = forward(&options);
        abl_scope *scope = abl_scope_create(abl_model_device(raw));
        abl_tensor *a = abl_tensor_log_softmax(scope, want.logits, -1);
        abl_tensor *b = abl_tensor_log_softmax(scope, got.logits, -1);
        assert_true(largest_difference(a, b) < 5e-5);
        abl_scope_destroy(scope);
        abl_forward_result_finish(&got);
        abl_model_unref(other);
    }
    abl_forward_result_finish(&want);
    abl_model_unref(raw);
}

static void bfloat16_stays_near_float32(void **state) {
    (void)state;
    abl_model *wide = load_plain();
    abl_model *narrow = load((abl_model_options){.dtype = ABL_DTYPE_BF16});
    assert_int_equal(abl_model_bytes(narrow), abl_model_bytes(wide) / 2);
    abl_forward_options options = plain(wide);
    abl_forward_result a = forward(&options);
    options.model = narrow;
    options.capture_all = true;
    abl_forward_result b = forward(&options);
    assert_true(largest_difference(a.logits, b.logits) < 0.5); /* logits reach 7 */
    abl_forward_result_finish(&a);
    abl_forward_result_finish(&b);
    abl_model_unref(wide);
    abl_model_unref(narrow);
}

static bool stop_loading(uint64_t done, uint64_t total, const char *name, void *user_data) {
    (void)name;
    int *calls = user_data;
    assert_true(done > 0 && done <= total);
    return ++*calls < 5;
}

static abl_code try_load(const abl_model_options *options, abl_status *ret_status) {
    const char *paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models"};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    abl_model_dir *dir = NULL;
    assert_int_equal(abl_model_dir_create(&roots, "tiny-rand", &dir, NULL), ABL_CODE_OK);
    abl_model *model = NULL;
    abl_code code = abl_model_load(dir, options, &model, ret_status);
    abl_model_unref(model);
    abl_model_dir_destroy(dir);
    return code;
}

static void a_load_stops_when_told_and_refuses_what_is_not_there(void **state) {
    (void)state;
    int calls = 0;
    abl_status status;
    abl_model_options options = {
        .dtype = ABL_DTYPE_F32, .progress_cb = stop_loading, .user_data = &calls};
    assert_int_equal(try_load(&options, &status), ABL_CODE_CANCELLED);
    assert_string_equal(status.reason, "LOAD_CANCELLED");
    assert_int_equal(calls, 5);
    options = (abl_model_options){.dtype = ABL_DTYPE_I32};
    assert_int_equal(try_load(&options, &status), ABL_CODE_INVALID_ARGUMENT);
    options = (abl_model_options){.dtype = ABL_DTYPE_F32,
                                  .device = {.type = ABL_DEVICE_CUDA, .index = 99}};
    assert_int_equal(try_load(&options, &status), ABL_CODE_UNAVAILABLE);
}

/* libtorch 1.13 has no float16 products on the CPU, 2.x has: a model loads just where it runs. */
static void float16_runs_or_is_refused_at_load(void **state) {
    (void)state;
    const abl_model_options options = {.dtype = ABL_DTYPE_F16};
    if (abl_backend_has(options.device, options.dtype)) {
        abl_model *narrow = load(options);
        abl_forward_options pass = plain(narrow);
        abl_forward_result result = forward(&pass);
        abl_forward_result_finish(&result);
        abl_model_unref(narrow);
        return;
    }
    abl_status status;
    assert_int_equal(try_load(&options, &status), ABL_CODE_UNIMPLEMENTED);
    assert_string_equal(status.reason, "DTYPE_UNSUPPORTED");
}

static void every_failing_allocation_of_a_load_is_reported(void **state) {
    (void)state;
    const abl_model_options options = {.dtype = ABL_DTYPE_F32,
                                       .processing = abl_model_processing_tl()};
    const char *paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models"};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    abl_model_dir *dir = NULL;
    assert_int_equal(abl_model_dir_create(&roots, "tiny-rand", &dir, NULL), ABL_CODE_OK);
    abl_free(dir->tokenizer); /* its allocations are another test's */
    dir->tokenizer = NULL;
    for (uint64_t n = 1;; n += (n < 30) ? 1 : 23) {
        abl_model *model = NULL;
        abl_mem_fail_after(n);
        abl_code code = abl_model_load(dir, &options, &model, NULL);
        abl_mem_fail_after(0);
        abl_model_unref(model);
        if (code == ABL_CODE_OK) {
            assert_true(n > 30);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
    abl_model_dir_destroy(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_tokens_are_refused_by_place),
        cmocka_unit_test(a_hook_behind_the_stop_is_refused),
        cmocka_unit_test(a_cancelled_pass_stops_between_layers),
        cmocka_unit_test(every_failing_allocation_of_a_pass_is_reported),
        cmocka_unit_test(the_last_position_alone_equals_the_last_of_all),
        cmocka_unit_test(capturing_changes_no_bit_of_the_logits),
        cmocka_unit_test(stopping_at_a_layer_gives_the_residual_that_enters_it),
        cmocka_unit_test(rows_of_a_batch_do_not_see_each_other),
        cmocka_unit_test(inputs_repeated_for_heads_share_one_memory),
        cmocka_unit_test(plain_weights_are_the_mapped_file),
        cmocka_unit_test(processing_changes_the_variant_and_not_the_hash),
        cmocka_unit_test(no_processing_changes_the_function),
        cmocka_unit_test(bfloat16_stays_near_float32),
        cmocka_unit_test(float16_runs_or_is_refused_at_load),
        cmocka_unit_test(a_load_stops_when_told_and_refuses_what_is_not_there),
        cmocka_unit_test(every_failing_allocation_of_a_load_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
