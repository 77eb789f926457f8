/* SPDX-License-Identifier: Apache-2.0
 *
 * The families as their authors write them, each key's absence, type and range, and the variants
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

#define NEOX_CORE                                                                                  \
    "\"model_type\":\"gpt_neox\",\"num_hidden_layers\":6,\"num_attention_heads\":8,"               \
    "\"hidden_size\":512,\"intermediate_size\":2048,\"vocab_size\":50304"
#define HOOKED_CORE                                                                                \
    "\"model_type\":\"hooked_transformer\",\"n_layers\":2,\"n_heads\":3,\"d_model\":10,"           \
    "\"d_head\":4,\"n_ctx\":6,\"d_vocab\":7"

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

static void neox_blocks_are_parallel_and_rotate_a_quarter(void **state) {
    (void)state;
    abl_model_config config = parsed("{" NEOX_CORE "}"); /* Pythia 70m */
    assert_int_equal(config.family, ABL_FAMILY_GPT_NEOX);
    assert_true(config.parallel_attn_mlp && config.attn_bias && config.mlp_bias);
    assert_false(config.tied_unembed);
    assert_int_equal(config.positional, ABL_POSITIONAL_ROPE);
    assert_int_equal(config.rotary_dim, 16);
    assert_int_equal(config.d_vocab_out, 50304);
    assert_int_equal(config.activation, ABL_ACTIVATION_GELU);
    config = parsed("{" NEOX_CORE ",\"use_parallel_residual\":false,\"rotary_pct\":1,"
                    "\"rotary_emb_base\":500}");
    assert_false(config.parallel_attn_mlp);
    assert_int_equal(config.rotary_dim, 64);
    assert_true(config.rope_theta == 500.0);
    assert_int_equal(parsed("{" NEOX_CORE ",\"rope_parameters\":{\"rope_type\":\"default\","
                            "\"rope_theta\":10000,\"partial_rotary_factor\":0.5}}")
                         .rotary_dim,
                     32);
    refused("{" NEOX_CORE ",\"rotary_pct\":0.01}", ABL_CODE_INVALID_ARGUMENT, "even number");
    refused("{" NEOX_CORE ",\"rotary_pct\":0.05}", ABL_CODE_INVALID_ARGUMENT, "3 of a head's 64");
    refused("{" NEOX_CORE ",\"rotary_pct\":1.5}", ABL_CODE_INVALID_ARGUMENT, "rotary_pct");
}

static void hooked_configs_are_transformer_lens_own(void **state) {
    (void)state;
    abl_model_config config = parsed("{" HOOKED_CORE ",\"normalization_type\":null}");
    assert_int_equal(config.norm, ABL_NORM_NONE);
    assert_int_equal(config.d_mlp, 40);
    assert_int_equal(config.d_vocab_out, 7);
    assert_int_equal(config.attention, ABL_ATTENTION_CAUSAL);
    assert_int_equal(config.positional, ABL_POSITIONAL_LEARNED);
    assert_true(config.attn_divisor == 0.0);
    config = parsed("{" HOOKED_CORE ",\"normalization_type\":\"RMSPre\",\"attn_only\":true,"
                    "\"attention_dir\":\"bidirectional\",\"attn_scale\":3,\"d_vocab_out\":2,"
                    "\"positional_embedding_type\":\"rotary\",\"rotary_dim\":2}");
    assert_int_equal(config.norm, ABL_NORM_RMS);
    assert_true(config.norm_plain && config.attn_only && config.attn_divisor == 3.0);
    assert_int_equal(config.attention, ABL_ATTENTION_BIDIRECTIONAL);
    assert_int_equal(config.d_mlp, 0);
    assert_int_equal(config.d_vocab_out, 2);
    assert_int_equal(config.rotary_dim, 2);
    assert_int_equal(parsed("{" HOOKED_CORE ",\"attention_dir\":\"self\"}").attention,
                     ABL_ATTENTION_SELF);
    assert_true(parsed("{" HOOKED_CORE ",\"attn_scale\":-1.0}").attn_divisor == 0.0);
    assert_true(parsed("{" HOOKED_CORE ",\"use_attn_scale\":false}").attn_divisor == 1.0);
    refused("{" HOOKED_CORE ",\"attn_scale\":-2}", ABL_CODE_INVALID_ARGUMENT, "attn_scale");
    refused("{" HOOKED_CORE ",\"attention_dir\":\"up\"}", ABL_CODE_UNIMPLEMENTED,
            "causal, bidirectional, self");
    refused("{" HOOKED_CORE ",\"attention_dir\":1}", ABL_CODE_INVALID_ARGUMENT, "attention_dir");
    refused("{" HOOKED_CORE ",\"normalization_type\":\"LNPost\"}", ABL_CODE_UNIMPLEMENTED,
            "LN, LNPre, RMS, RMSPre");
    refused("{" HOOKED_CORE ",\"positional_embedding_type\":\"shortformer\"}",
            ABL_CODE_UNIMPLEMENTED, "shortformer");
    refused("{" HOOKED_CORE ",\"output_logits_soft_cap\":30}", ABL_CODE_UNIMPLEMENTED, "soft_cap");
    refused("{" HOOKED_CORE ",\"gated_mlp\":true}", ABL_CODE_UNIMPLEMENTED, "gated_mlp");
    refused("{" HOOKED_CORE ",\"use_local_attn\":true}", ABL_CODE_UNIMPLEMENTED, "use_local_attn");
}

static void an_unknown_family_is_told_which_are_supported(void **state) {
    (void)state;
    refused("{\"model_type\":\"bert\"}", ABL_CODE_UNIMPLEMENTED, "'bert'");
    refused("{\"model_type\":\"bert\"}", ABL_CODE_UNIMPLEMENTED, "gpt2, llama, gpt_neox, hooked");
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
        cmocka_unit_test(neox_blocks_are_parallel_and_rotate_a_quarter),
        cmocka_unit_test(hooked_configs_are_transformer_lens_own),
        cmocka_unit_test(an_unknown_family_is_told_which_are_supported),
        cmocka_unit_test(each_bad_value_is_refused_by_name_and_limit),
        cmocka_unit_test(variants_that_are_not_computed_are_refused),
        cmocka_unit_test(a_file_is_read_up_to_the_limit),
        cmocka_unit_test(failing_any_allocation_leaks_nothing_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
