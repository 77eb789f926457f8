/* SPDX-License-Identifier: Apache-2.0
 *
 * Both families as their authors write them, each key's absence, type and range, and the variants
 * that are refused because they would be computed wrongly. */
#include "core/model/config.h"

#include "core/base/mem.h"
#include "tests/unit/files.h"

#define GPT2_CORE                                                                                  \
    "\"model_type\":\"gpt2\",\"n_layer\":4,\"n_head\":8,\"n_embd\":128,\"n_positions\":64,"        \
    "\"vocab_size\":1000"
#define LLAMA_CORE                                                                                 \
    "\"model_type\":\"llama\",\"num_hidden_layers\":30,\"num_attention_heads\":9,"                 \
    "\"num_key_value_heads\":3,\"hidden_size\":576,\"intermediate_size\":1536,"                    \
    "\"vocab_size\":49152,\"max_position_embeddings\":8192"

static abl_model_config parsed(const char *text) {
    abl_model_config config;
    abl_status status = {.message = ""};
    abl_code code = abl_model_config_parse(text, strlen(text), "FILE", &config, &status);
    if (code != ABL_CODE_OK) {
        fail_msg("%s: %s", text, status.message);
    }
    return config;
}

static void refused(const char *text, abl_code code, const char *fragment) {
    abl_model_config config = {.n_layers = -7};
    abl_status status = {.message = ""};
    abl_code got = abl_model_config_parse(text, strlen(text), "FILE", &config, &status);
    if (got != code) {
        fail_msg("%s: got %s (%s)", text, abl_code_name(got), status.message);
    }
    assert_int_equal(config.n_layers, -7);
    assert_mentions(status.message, "FILE");
    assert_mentions(status.message, fragment);
}

static void gpt2_is_read_with_its_defaults(void **state) {
    (void)state;
    abl_model_config config = parsed("{" GPT2_CORE ",\"n_inner\":null,\"bos_token_id\":0}");
    assert_int_equal(config.family, ABL_FAMILY_GPT2);
    assert_int_equal(config.n_layers, 4);
    assert_int_equal(config.n_heads, 8);
    assert_int_equal(config.n_kv_heads, 8);
    assert_int_equal(config.d_head, 16);
    assert_int_equal(config.d_mlp, 512);
    assert_int_equal(config.n_ctx, 64);
    assert_int_equal(config.norm, ABL_NORM_LAYER);
    assert_true(config.norm_eps == 1e-5);
    assert_int_equal(config.activation, ABL_ACTIVATION_GELU_NEW);
    assert_int_equal(config.positional, ABL_POSITIONAL_LEARNED);
    assert_true(config.attn_bias && config.mlp_bias && config.tied_unembed && !config.gated);
    assert_int_equal(config.bos_id, 0);
    assert_int_equal(config.eos_count, 0); /* 50256, the family's default, is not in 1000 */
}

static void llama_is_read_with_grouped_queries_and_tied_embeddings(void **state) {
    (void)state;
    abl_model_config config =
        parsed("{" LLAMA_CORE ",\"rms_norm_eps\":9.999999747378752e-06,\"hidden_act\":\"silu\","
               "\"rope_theta\":100000,\"rope_scaling\":null,\"tie_word_embeddings\":true,"
               "\"eos_token_id\":[2,0]}");
    assert_int_equal(config.family, ABL_FAMILY_LLAMA);
    assert_int_equal(config.n_kv_heads, 3);
    assert_int_equal(config.d_head, 64);
    assert_true(config.norm_eps == 1e-5);
    assert_true(config.rope_theta == 100000.0);
    assert_true(config.gated && config.tied_unembed && !config.attn_bias && !config.mlp_bias);
    assert_int_equal(config.activation, ABL_ACTIVATION_SILU);
    assert_int_equal(config.bos_id, 1);
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos_ids[1], 0);
}

static void rope_may_be_told_the_old_way_or_the_new(void **state) {
    (void)state;
    assert_true(parsed("{" LLAMA_CORE "}").rope_theta == 10000.0);
    assert_true(parsed("{" LLAMA_CORE ",\"rope_parameters\":{\"rope_type\":\"default\","
                       "\"rope_theta\":5e5}}")
                    .rope_theta == 500000.0);
    assert_true(parsed("{" LLAMA_CORE ",\"rope_theta\":3,\"rope_scaling\":{\"type\":\"default\"}}")
                    .rope_theta == 3.0);
    refused("{" LLAMA_CORE ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}",
            ABL_CODE_UNIMPLEMENTED, "'llama3'");
    refused("{" LLAMA_CORE ",\"rope_scaling\":{\"factor\":8}}", ABL_CODE_UNIMPLEMENTED, "factor");
    refused("{" LLAMA_CORE ",\"rope_scaling\":7}", ABL_CODE_INVALID_ARGUMENT, "rope_scaling");
    refused("{" LLAMA_CORE ",\"rope_parameters\":{\"rope_theta\":-1}}", ABL_CODE_INVALID_ARGUMENT,
            "rope_theta");
    refused("{" LLAMA_CORE ",\"partial_rotary_factor\":0.5}", ABL_CODE_UNIMPLEMENTED,
            "partial_rotary_factor");
}

static void an_unknown_family_is_told_which_are_supported(void **state) {
    (void)state;
    refused("{\"model_type\":\"bert\"}", ABL_CODE_UNIMPLEMENTED, "'bert'");
    refused("{\"model_type\":\"bert\"}", ABL_CODE_UNIMPLEMENTED, "gpt2, llama");
    refused("{}", ABL_CODE_INVALID_ARGUMENT, "model_type");
    refused("{\"model_type\":1}", ABL_CODE_INVALID_ARGUMENT, "model_type");
}

static void each_bad_value_is_refused_by_name_and_limit(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *fragment;
    } cases[] = {
        {"{\"model_type\":\"gpt2\"}", "n_layer"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":0}", "n_layer is 0; it must be from 1 to 512"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":\"4\"}", "n_layer must be an integer, not a string"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":4.0}", "a real number"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":9223372036854775807}", "n_layer"},
        {"{" GPT2_CORE ",\"n_inner\":-1}", "n_inner"},
        {"{" GPT2_CORE ",\"layer_norm_epsilon\":0}", "layer_norm_epsilon"},
        {"{" GPT2_CORE ",\"layer_norm_epsilon\":\"x\"}", "layer_norm_epsilon"},
        {"{" GPT2_CORE ",\"bos_token_id\":1000}", "bos_token_id"},
        {"{" GPT2_CORE ",\"eos_token_id\":-1}", "eos_token_id"},
        {"{" GPT2_CORE ",\"eos_token_id\":[1,1000]}", "eos_token_id[1]"},
        {"{" GPT2_CORE ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "lists 9"},
        {"{" GPT2_CORE ",\"tie_word_embeddings\":1}", "tie_word_embeddings"},
        {"{" GPT2_CORE ",\"activation_function\":1}", "activation_function"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_head\":3,\"n_embd\":128}", "multiple"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_head\":1,\"n_embd\":65536,\"vocab_size\":9,"
         "\"n_positions\":9}",
         "wider"},
        {"{" LLAMA_CORE ",\"head_dim\":63}", "even"},
        {"{" LLAMA_CORE ",\"head_dim\":65536}", "wider"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"num_attention_heads\":9,"
         "\"num_key_value_heads\":2,\"hidden_size\":576,\"intermediate_size\":4,\"vocab_size\":9}",
         "num_key_value_heads"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"num_attention_heads\":7,"
         "\"hidden_size\":576,\"intermediate_size\":4,\"vocab_size\":9}",
         "head_dim"},
        {"[]", "object"},
        {"", "JSON"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        refused(cases[i].text, ABL_CODE_INVALID_ARGUMENT, cases[i].fragment);
    }
}

static void variants_that_are_not_computed_are_refused(void **state) {
    (void)state;
    refused("{" GPT2_CORE ",\"scale_attn_weights\":false}", ABL_CODE_UNIMPLEMENTED,
            "scale_attn_weights");
    refused("{" GPT2_CORE ",\"scale_attn_by_inverse_layer_idx\":true}", ABL_CODE_UNIMPLEMENTED,
            "scale_attn_by_inverse_layer_idx");
    refused("{" GPT2_CORE ",\"add_cross_attention\":true}", ABL_CODE_UNIMPLEMENTED,
            "add_cross_attention");
    refused("{" GPT2_CORE ",\"quantization_config\":{}}", ABL_CODE_UNIMPLEMENTED,
            "quantization_config");
    refused("{" GPT2_CORE ",\"activation_function\":\"mish\"}", ABL_CODE_UNIMPLEMENTED, "'mish'");
}

static void a_file_is_read_up_to_the_limit(void **state) {
    (void)state;
    test_folder folder;
    test_folder_create(&folder);
    test_write_text(&folder, "config.json", "{" GPT2_CORE "}");
    abl_model_config config;
    abl_status status = {.message = ""};
    assert_int_equal(abl_model_config_read(test_path(&folder, "config.json"), &config, &status),
                     ABL_CODE_OK);
    assert_int_equal(abl_model_config_read(test_path(&folder, "gone.json"), &config, &status),
                     ABL_CODE_NOT_FOUND);
    char *big = calloc(1, ABL_CONFIG_BYTES_MAX + 1);
    test_write(&folder, "big.json", big, ABL_CONFIG_BYTES_MAX + 1);
    assert_int_equal(abl_model_config_read(test_path(&folder, "big.json"), &config, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "CONFIG_TOO_BIG");
    free(big);
    test_folder_destroy(&folder);
}

static void failing_any_allocation_leaks_nothing_and_says_so(void **state) {
    (void)state;
    static const char text[] = "{" LLAMA_CORE ",\"eos_token_id\":[1,2]}";
    abl_code code = ABL_CODE_RESOURCE_EXHAUSTED;
    uint64_t n = 1;
    for (; code != ABL_CODE_OK; n++) {
        abl_model_config config;
        abl_mem_fail_after(n);
        code = abl_model_config_parse(text, strlen(text), "FILE", &config, NULL);
        abl_mem_fail_after(0);
        assert_true(code == ABL_CODE_OK || code == ABL_CODE_RESOURCE_EXHAUSTED);
    }
    assert_true(n > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_is_read_with_its_defaults),
        cmocka_unit_test(llama_is_read_with_grouped_queries_and_tied_embeddings),
        cmocka_unit_test(rope_may_be_told_the_old_way_or_the_new),
        cmocka_unit_test(an_unknown_family_is_told_which_are_supported),
        cmocka_unit_test(each_bad_value_is_refused_by_name_and_limit),
        cmocka_unit_test(variants_that_are_not_computed_are_refused),
        cmocka_unit_test(a_file_is_read_up_to_the_limit),
        cmocka_unit_test(failing_any_allocation_leaks_nothing_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
