/* SPDX-License-Identifier: Apache-2.0
 *
 * A family reads as a list of its keys with their defaults and ranges. Keys that would change the
 * computation in a way that is not built (rope scaling, cross attention, quantization) are refused
 * by name: a model that loads is computed as its authors compute it. Keys that do not (dropout,
 * initializers) are not looked at. */
#include "core/model/config_families.h"

#include "core/json/json.h"

#include <string.h>

static void read_gpt2(abl_keys *in, abl_model_config *config);
static void read_llama(abl_keys *in, abl_model_config *config);
static void read_gpt_neox(abl_keys *in, abl_model_config *config);
static void read_hooked(abl_keys *in, abl_model_config *config);

void abl_config_read_family(abl_keys *in, abl_model_config *config) {
    switch (config->family) {
    case ABL_FAMILY_GPT2:
        read_gpt2(in, config);
        break;
    case ABL_FAMILY_LLAMA:
        read_llama(in, config);
        break;
    case ABL_FAMILY_GPT_NEOX:
        read_gpt_neox(in, config);
        break;
    case ABL_FAMILY_HOOKED:
        read_hooked(in, config);
        break;
    }
}

/* --- what families share -------------------------------------------------------------------- */

static abl_activation read_activation(abl_keys *in, const char *key, abl_activation absent) {
    static const char *const names[] = {
        "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish"};
    static const abl_activation activations[] = {ABL_ACTIVATION_GELU,     ABL_ACTIVATION_GELU_NEW,
                                                 ABL_ACTIVATION_GELU_NEW, ABL_ACTIVATION_GELU_NEW,
                                                 ABL_ACTIVATION_RELU,     ABL_ACTIVATION_SILU,
                                                 ABL_ACTIVATION_SILU};
    _Static_assert(ABL_COUNT_OF(names) == ABL_COUNT_OF(activations), "one a name");
    size_t chosen = abl_keys_read_choice(in, key, names, ABL_COUNT_OF(names), SIZE_MAX);
    return chosen == SIZE_MAX ? absent : activations[chosen];
}

/* Heads share d_model out between them. */
static void read_equal_heads(abl_keys *in, const char *width_key, const char *heads_key,
                             abl_model_config *config) {
    config->n_heads = abl_keys_read_count(in, heads_key, ABL_HEAD_COUNT_MAX, ABL_KEY_REQUIRED);
    config->n_kv_heads = config->n_heads;
    config->d_model = abl_keys_read_count(in, width_key, ABL_WIDTH_MAX, ABL_KEY_REQUIRED);
    if (in->code != ABL_CODE_OK) {
        return;
    }
    if (config->d_model % config->n_heads != 0) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %s, %d, must be a multiple of %s, %d", in->source, width_key,
                            config->d_model, heads_key, config->n_heads);
    }
    config->d_head = config->d_model / config->n_heads;
}

/* rope_parameters (transformers 5), or rope_theta with rope_scaling (before). Only the plain
 * rotation is computed. `key` names an object, or nothing. */
static void read_rope_object(abl_keys *in, const char *key, double *theta, double *part) {
    const json_t *rope = abl_keys_get(in, key);
    if (in->code != ABL_CODE_OK || rope == NULL) {
        return;
    }
    if (!json_is_object(rope)) {
        abl_keys_fail_type(in, key, "an object");
        return;
    }
    const json_t *type = json_object_get(rope, "rope_type");
    if (type == NULL) {
        type = json_object_get(rope, "type"); /* its name before transformers 4.43 */
    }
    if (type != NULL &&
        (!json_is_string(type) || strcmp(json_string_value(type), "default") != 0)) {
        in->code =
            abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                     "%s: %s of type '%.32s' is not supported; only 'default' is", in->source, key,
                     json_is_string(type) ? json_string_value(type) : abl_json_type_text(type));
        return;
    }
    if (type == NULL && json_object_get(rope, "factor") != NULL) {
        in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                            "%s: %s with a factor is not supported", in->source, key);
        return;
    }
    abl_keys inner = {.root = rope, .source = in->source, .status = in->status};
    *theta = abl_keys_read_positive(&inner, "rope_theta", 1e12, *theta);
    *part = abl_keys_read_positive(&inner, "partial_rotary_factor", 1.0, *part);
    in->code = inner.code;
}

/* Rotary positions by a family's names for the base and for the rotated share of a head. */
static void read_rope(abl_keys *in, const char *base_key, const char *part_key, double part_absent,
                      abl_model_config *config) {
    config->positional = ABL_POSITIONAL_ROPE;
    config->rope_theta = abl_keys_read_positive(in, base_key, 1e12, 10000.0);
    double part = abl_keys_read_positive(in, part_key, 1.0, part_absent);
    read_rope_object(in, "rope_scaling", &config->rope_theta, &part);
    read_rope_object(in, "rope_parameters", &config->rope_theta, &part);
    config->rotary_dim = (int)(config->d_head * part); /* as transformers rounds it */
}

/* eos_token_id: one id or a list of them. */
static void read_eos(abl_keys *in, int absent, abl_model_config *config) {
    static const char key[] = "eos_token_id";
    const json_t *value = abl_keys_get(in, key);
    if (!json_is_array(value)) {
        int id = abl_keys_read_token(in, key, absent, config->d_vocab);
        config->eos_count = (id >= 0) ? 1 : 0;
        config->eos_ids[0] = id;
        return;
    }
    size_t count = json_array_size(value);
    if (in->code == ABL_CODE_OK && count > ABL_EOS_COUNT_MAX) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %s lists %zu ids; the limit is %d", in->source, key, count,
                            ABL_EOS_COUNT_MAX);
    }
    for (size_t i = 0; i < count && in->code == ABL_CODE_OK; i++) {
        const json_t *item = json_array_get(value, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= config->d_vocab) {
            in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                                "%s: %s[%zu] must be an integer below vocab_size, %d", in->source,
                                key, i, config->d_vocab);
            return;
        }
        config->eos_ids[i] = (int)id;
        config->eos_count = (int)i + 1;
    }
}

/* --- the families --------------------------------------------------------------------------- */

static void read_gpt2(abl_keys *in, abl_model_config *config) {
    config->n_layers = abl_keys_read_count(in, "n_layer", ABL_LAYER_COUNT_MAX, ABL_KEY_REQUIRED);
    read_equal_heads(in, "n_embd", "n_head", config);
    config->d_mlp = abl_keys_read_count(in, "n_inner", ABL_WIDTH_MAX, 4 * config->d_model);
    config->d_vocab = abl_keys_read_count(in, "vocab_size", ABL_VOCAB_MAX, ABL_KEY_REQUIRED);
    config->n_ctx = abl_keys_read_count(in, "n_positions", ABL_CONTEXT_MAX, ABL_KEY_REQUIRED);
    config->norm = ABL_NORM_LAYER;
    config->norm_eps = abl_keys_read_epsilon(in, "layer_norm_epsilon", 1e-5);
    config->activation = read_activation(in, "activation_function", ABL_ACTIVATION_GELU_NEW);
    config->attn_bias = true;
    config->mlp_bias = true;
    config->tied_unembed = abl_keys_read_bool(in, "tie_word_embeddings", true);
    config->positional = ABL_POSITIONAL_LEARNED;
    config->bos_id = abl_keys_read_token(in, "bos_token_id", 50256, config->d_vocab);
    read_eos(in, 50256, config);
    abl_keys_require_bool(in, "scale_attn_weights", true);
    abl_keys_require_bool(in, "scale_attn_by_inverse_layer_idx", false);
    abl_keys_require_bool(in, "add_cross_attention", false);
    abl_keys_require_absent(in, "quantization_config");
}

static void read_llama(abl_keys *in, abl_model_config *config) {
    config->n_layers =
        abl_keys_read_count(in, "num_hidden_layers", ABL_LAYER_COUNT_MAX, ABL_KEY_REQUIRED);
    config->n_heads =
        abl_keys_read_count(in, "num_attention_heads", ABL_HEAD_COUNT_MAX, ABL_KEY_REQUIRED);
    config->n_kv_heads =
        abl_keys_read_count(in, "num_key_value_heads", ABL_HEAD_COUNT_MAX, config->n_heads);
    config->d_model = abl_keys_read_count(in, "hidden_size", ABL_WIDTH_MAX, ABL_KEY_REQUIRED);
    bool divides = config->n_heads > 0 && config->d_model % config->n_heads == 0;
    if (in->code == ABL_CODE_OK && !divides && abl_keys_get(in, "head_dim") == NULL) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: without head_dim, hidden_size, %d, must be a multiple of "
                            "num_attention_heads, %d",
                            in->source, config->d_model, config->n_heads);
    }
    config->d_head = abl_keys_read_count(in, "head_dim", ABL_WIDTH_MAX,
                                         divides ? config->d_model / config->n_heads : 1);
    config->d_mlp = abl_keys_read_count(in, "intermediate_size", ABL_WIDTH_MAX, ABL_KEY_REQUIRED);
    config->d_vocab = abl_keys_read_count(in, "vocab_size", ABL_VOCAB_MAX, ABL_KEY_REQUIRED);
    config->n_ctx = abl_keys_read_count(in, "max_position_embeddings", ABL_CONTEXT_MAX, 2048);
    config->norm = ABL_NORM_RMS;
    config->norm_eps = abl_keys_read_epsilon(in, "rms_norm_eps", 1e-6);
    config->activation = read_activation(in, "hidden_act", ABL_ACTIVATION_SILU);
    config->gated = true;
    config->attn_bias = abl_keys_read_bool(in, "attention_bias", false);
    config->mlp_bias = abl_keys_read_bool(in, "mlp_bias", false);
    config->tied_unembed = abl_keys_read_bool(in, "tie_word_embeddings", false);
    read_rope(in, "rope_theta", "partial_rotary_factor", 1.0, config);
    if (in->code == ABL_CODE_OK && config->rotary_dim != config->d_head) {
        in->code =
            abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                     "%s: partial_rotary_factor makes it %d of %d; llama rotates whole heads",
                     in->source, config->rotary_dim, config->d_head);
    }
    config->bos_id = abl_keys_read_token(in, "bos_token_id", 1, config->d_vocab);
    read_eos(in, 2, config);
    abl_keys_require_absent(in, "quantization_config");
}

static void read_gpt_neox(abl_keys *in, abl_model_config *config) {
    config->n_layers =
        abl_keys_read_count(in, "num_hidden_layers", ABL_LAYER_COUNT_MAX, ABL_KEY_REQUIRED);
    read_equal_heads(in, "hidden_size", "num_attention_heads", config);
    config->d_mlp = abl_keys_read_count(in, "intermediate_size", ABL_WIDTH_MAX, ABL_KEY_REQUIRED);
    config->d_vocab = abl_keys_read_count(in, "vocab_size", ABL_VOCAB_MAX, ABL_KEY_REQUIRED);
    config->n_ctx = abl_keys_read_count(in, "max_position_embeddings", ABL_CONTEXT_MAX, 2048);
    config->norm = ABL_NORM_LAYER;
    config->norm_eps = abl_keys_read_epsilon(in, "layer_norm_eps", 1e-5);
    config->activation = read_activation(in, "hidden_act", ABL_ACTIVATION_GELU);
    config->parallel_attn_mlp = abl_keys_read_bool(in, "use_parallel_residual", true);
    config->attn_bias = abl_keys_read_bool(in, "attention_bias", true);
    config->mlp_bias = true;
    config->tied_unembed = abl_keys_read_bool(in, "tie_word_embeddings", false);
    read_rope(in, "rotary_emb_base", "rotary_pct", 0.25, config);
    config->bos_id = abl_keys_read_token(in, "bos_token_id", 0, config->d_vocab);
    read_eos(in, 2, config);
    abl_keys_require_absent(in, "quantization_config");
}

/* TransformerLens's normalization_type: null, or one of these; "Pre" means folded. */
static void read_hooked_norm(abl_keys *in, abl_model_config *config) {
    static const char *const names[] = {"LN", "LNPre", "RMS", "RMSPre"};
    size_t chosen =
        abl_keys_read_choice(in, "normalization_type", names, ABL_COUNT_OF(names), SIZE_MAX);
    if (chosen == SIZE_MAX) {
        config->norm = ABL_NORM_NONE;
        config->norm_plain = true;
        return;
    }
    config->norm = (chosen < 2) ? ABL_NORM_LAYER : ABL_NORM_RMS;
    config->norm_plain = chosen % 2 == 1;
    config->norm_eps = abl_keys_read_epsilon(in, "eps", 1e-5);
}

static void read_hooked_attention(abl_keys *in, abl_model_config *config) {
    static const char *const names[] = {"causal", "bidirectional", "self"};
    config->attention = (abl_attention)abl_keys_read_choice(
        in, "attention_dir", names, ABL_COUNT_OF(names), ABL_ATTENTION_CAUSAL);
    bool scaled = abl_keys_read_bool(in, "use_attn_scale", true);
    const json_t *scale = abl_keys_get(in, "attn_scale");
    bool chosen = scaled && json_is_number(scale) && json_number_value(scale) != -1.0;
    config->attn_divisor = chosen   ? abl_keys_read_positive(in, "attn_scale", 1e6, 0.0)
                           : scaled ? 0.0
                                    : 1.0;
    abl_keys_require_bool(in, "use_local_attn", false);
    abl_keys_require_bool(in, "scale_attn_by_inverse_layer_idx", false);
    abl_keys_require_bool(in, "use_qk_norm", false);
    abl_keys_require_cap_off(in, "attn_scores_soft_cap");
}

static void read_hooked_positions(abl_keys *in, abl_model_config *config) {
    static const char *const names[] = {"standard", "rotary"};
    size_t chosen =
        abl_keys_read_choice(in, "positional_embedding_type", names, ABL_COUNT_OF(names), 0);
    config->positional = (chosen == 0) ? ABL_POSITIONAL_LEARNED : ABL_POSITIONAL_ROPE;
    if (config->positional == ABL_POSITIONAL_ROPE) {
        config->rope_theta = abl_keys_read_positive(in, "rotary_base", 1e12, 10000.0);
        config->rotary_dim = abl_keys_read_count(in, "rotary_dim", ABL_WIDTH_MAX, config->d_head);
    }
    abl_keys_require_bool(in, "rotary_adjacent_pairs", false);
    abl_keys_require_bool(in, "use_NTK_by_parts_rope", false);
}

/* HookedTransformerConfig's own keys. "self" is not one of TransformerLens's attention_dirs: it is
 * how networks whose heads do not mix positions are written here (README.md). */
static void read_hooked(abl_keys *in, abl_model_config *config) {
    config->n_layers = abl_keys_read_count(in, "n_layers", ABL_LAYER_COUNT_MAX, ABL_KEY_REQUIRED);
    config->d_model = abl_keys_read_count(in, "d_model", ABL_WIDTH_MAX, ABL_KEY_REQUIRED);
    config->n_heads = abl_keys_read_count(in, "n_heads", ABL_HEAD_COUNT_MAX, ABL_KEY_REQUIRED);
    config->n_kv_heads =
        abl_keys_read_count(in, "n_key_value_heads", ABL_HEAD_COUNT_MAX, config->n_heads);
    config->d_head = abl_keys_read_count(in, "d_head", ABL_WIDTH_MAX, ABL_KEY_REQUIRED);
    config->n_ctx = abl_keys_read_count(in, "n_ctx", ABL_CONTEXT_MAX, ABL_KEY_REQUIRED);
    config->d_vocab = abl_keys_read_count(in, "d_vocab", ABL_VOCAB_MAX, ABL_KEY_REQUIRED);
    config->d_vocab_out = abl_keys_read_count(in, "d_vocab_out", ABL_VOCAB_MAX, config->d_vocab);
    config->attn_only = abl_keys_read_bool(in, "attn_only", false);
    config->parallel_attn_mlp = abl_keys_read_bool(in, "parallel_attn_mlp", false);
    if (!config->attn_only) {
        config->d_mlp = abl_keys_read_count(in, "d_mlp", ABL_WIDTH_MAX, 4 * config->d_model);
        config->activation = read_activation(in, "act_fn", ABL_ACTIVATION_RELU);
    }
    config->attn_bias = true; /* TransformerLens keeps biases that are all zero, too */
    config->mlp_bias = true;
    config->unembed_bias = true;
    read_hooked_norm(in, config);
    read_hooked_attention(in, config);
    read_hooked_positions(in, config);
    config->bos_id = -1;
    abl_keys_require_bool(in, "gated_mlp", false);
    abl_keys_require_bool(in, "use_normalization_before_and_after", false);
    abl_keys_require_absent(in, "num_experts");
    abl_keys_require_cap_off(in, "output_logits_soft_cap");
}
