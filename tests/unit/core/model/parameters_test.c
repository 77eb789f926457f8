/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights by name: what each family lists, what processing takes away, grouped keys and values both
 * ways, and that the named tensors are the model's. */
#include "core/model/parameters.h"

#include "core/base/mem.h"
#include "core/model/block.h"
#include "core/model/dir.h"
#include "tests/unit/unit.h"

#include <string.h>

static abl_model *load(const char *folder, const char *name, abl_model_processing processing) {
    const char *paths[] = {folder};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32, .processing = processing};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&roots, name, &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    abl_model_dir_destroy(dir);
    return model;
}

#define DATA ABLATE_SOURCE_DIR "/tests/golden/data/"

static abl_parameter found(const abl_model *model, const char *name) {
    abl_parameter parameter;
    abl_status status = {.message = ""};
    if (abl_parameter_find(model, name, &parameter, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    return parameter;
}

static void missing(const abl_model *model, const char *name, const char *fragment) {
    abl_parameter parameter;
    abl_status status = {.message = ""};
    assert_int_equal(abl_parameter_find(model, name, &parameter, &status), ABL_CODE_NOT_FOUND);
    assert_string_equal(status.reason, "PARAMETER_UNKNOWN");
    assert_non_null(strstr(status.message, fragment));
}

static float *numbers(abl_scope *scope, const abl_model *model, const char *name,
                      size_t *ret_count) {
    abl_parameter parameter = found(model, name);
    abl_tensor *tensor = abl_parameter_tensor(scope, model, &parameter);
    assert_non_null(tensor);
    assert_int_equal(abl_tensor_rank(tensor), parameter.rank);
    for (int i = 0; i < parameter.rank; i++) {
        assert_int_equal(abl_tensor_size(tensor, i), parameter.shape[i]);
    }
    *ret_count = (size_t)abl_tensor_count(tensor);
    float *values = abl_calloc(*ret_count, sizeof *values);
    abl_tensor_to_floats(scope, tensor, values, *ret_count);
    return values;
}

static void every_listed_name_is_found_and_has_its_shape(void **state) {
    (void)state;
    static const char *const models[][2] = {{DATA "models", "tiny-rand"},
                                            {DATA "families", "llama"},
                                            {DATA "families", "gpt-neox"},
                                            {DATA "families", "tracr-reverse"},
                                            {DATA "families", "attn-only"}};
    static const size_t counts[] = {2 + 16 * 2 + 4, 1 + 15 * 2 + 3, 1 + 16 * 2 + 4, 2 + 12 * 4 + 2,
                                    2 + 10 * 2 + 4};
    for (size_t i = 0; i < ABL_COUNT_OF(models); i++) {
        abl_model *model = load(models[i][0], models[i][1], abl_model_processing_hf());
        abl_scope *scope = abl_scope_create(abl_model_device(model));
        abl_parameter list[128];
        size_t count = abl_parameter_list(model, list, ABL_COUNT_OF(list));
        assert_int_equal(count, counts[i]);
        assert_int_equal(abl_parameter_list(model, NULL, 0), count);
        for (size_t k = 0; k < count; k++) {
            size_t elements = 0;
            abl_free(numbers(scope, model, list[k].name, &elements));
        }
        assert_int_equal(abl_scope_status(scope, NULL), ABL_CODE_OK);
        abl_scope_destroy(scope);
        abl_model_unref(model);
    }
}

static void folding_takes_the_norms_away(void **state) {
    (void)state;
    abl_model *model = load(DATA "models", "tiny-rand", abl_model_processing_tl());
    missing(model, "blocks.0.ln1.w", "attn.W_Q");
    missing(model, "ln_final.b", "unembed.W_U");
    assert_false(found(model, "unembed.b_U").zeros); /* the final norm's bias went there */
    abl_model_unref(model);
    model = load(DATA "models", "tiny-rand", abl_model_processing_hf());
    assert_true(found(model, "unembed.b_U").zeros);
    assert_int_equal(found(model, "blocks.0.ln1.w").rank, 1);
    abl_model_unref(model);
}

static void grouped_heads_are_repeated_for_their_queries(void **state) {
    (void)state;
    abl_model *model = load(DATA "families", "llama", abl_model_processing_hf());
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    size_t few = 0;
    size_t all = 0;
    float *grouped = numbers(scope, model, "blocks.1.attn._W_V", &few);
    float *repeated = numbers(scope, model, "blocks.1.attn.W_V", &all);
    assert_int_equal(all, 2 * few);
    size_t head = few / 2; /* two key-value heads, each for two queries */
    for (size_t h = 0; h < 4; h++) {
        assert_memory_equal(repeated + h * head, grouped + h / 2 * head, head * sizeof(float));
    }
    assert_true(found(model, "blocks.1.attn.b_K").zeros);
    missing(model, "blocks.1.mlp.b_gate", "mlp.W_gate");
    abl_free(grouped);
    abl_free(repeated);
    abl_scope_destroy(scope);
    abl_model_unref(model);
}

static void gate_and_input_are_told_apart(void **state) {
    (void)state;
    abl_model *model = load(DATA "families", "llama", abl_model_processing_hf());
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    size_t count = 0;
    float *gate = numbers(scope, model, "blocks.0.mlp.W_gate", &count);
    float *in = numbers(scope, model, "blocks.0.mlp.W_in", &count);
    size_t both = (size_t)abl_tensor_count(abl_model_get_block(model, 0)->w_in);
    assert_int_equal(both, 2 * count);
    assert_memory_not_equal(gate, in, count * sizeof *gate);
    abl_free(gate);
    abl_free(in);
    abl_scope_destroy(scope);
    abl_model_unref(model);
}

static void names_that_are_none_say_what_there_is(void **state) {
    (void)state;
    abl_model *model = load(DATA "families", "attn-only", abl_model_processing_hf());
    missing(model, "blocks.0.mlp.W_in", "attn.W_Q");
    missing(model, "blocks.2.attn.W_Q", "layers 0 to 1");
    missing(model, "blocks.00.attn.W_Q", "embed.W_E");
    missing(model, "blocks.-1.attn.W_Q", "embed.W_E");
    missing(model, "blocks.0", "embed.W_E");
    missing(model, "attn.W_Q", "embed.W_E");
    missing(model, "blocks.0.embed.W_E", "ln1.w");
    missing(model, "", "embed.W_E");
    abl_model_unref(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_listed_name_is_found_and_has_its_shape),
        cmocka_unit_test(folding_takes_the_norms_away),
        cmocka_unit_test(grouped_heads_are_repeated_for_their_queries),
        cmocka_unit_test(gate_and_input_are_told_apart),
        cmocka_unit_test(names_that_are_none_say_what_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
