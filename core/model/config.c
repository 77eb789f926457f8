/* SPDX-License-Identifier: Apache-2.0
 *
 * One reader object goes over the keys and remembers the first failure, so a family reads as a list
 * of its keys with their defaults and ranges. A key that is absent or null takes its default, as in
 * transformers; one without a default is required. Keys that would change the computation in a way
 * that is not built (rope scaling, cross attention, quantization) are refused by name: a model that
 * loads is computed as its authors compute it. Keys that do not (dropout, initializers) are not
 * looked at.
 *
 * An epsilon that went through a 32-bit float (a GGUF file stores 1e-5 as 9.999999747378752e-06) is
 * put back to the short decimal that it came from. */
#include "core/model/config.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/json/json.h"
#include "core/model/path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INVALID "CONFIG_INVALID"
#define UNSUPPORTED "CONFIG_UNSUPPORTED"
#define NO_DEFAULT (-1)

typedef struct reader {
    const json_t *root;
    const char *source;
    abl_code code; /* of the first failure; later reads do nothing */
    abl_status *status;
} reader;

typedef struct family_entry {
    const char *name;
    void (*read)(reader *in, abl_model_config *config);
} family_entry;

static void read_gpt2(reader *in, abl_model_config *config);
static void read_llama(reader *in, abl_model_config *config);
static void read_gpt_neox(reader *in, abl_model_config *config);
static void read_hooked(reader *in, abl_model_config *config);
static void check_shapes(reader *in, const abl_model_config *config);
static void check_tokens(reader *in, const abl_model_config *config);

static const family_entry families[] = {
    [ABL_FAMILY_GPT2] = {"gpt2", read_gpt2},
    [ABL_FAMILY_LLAMA] = {"llama", read_llama},
    [ABL_FAMILY_GPT_NEOX] = {"gpt_neox", read_gpt_neox},
    [ABL_FAMILY_HOOKED] = {"hooked_transformer", read_hooked},
};

static const char *const activation_names[] = {
    [ABL_ACTIVATION_GELU] = "gelu",
    [ABL_ACTIVATION_GELU_NEW] = "gelu_new",
    [ABL_ACTIVATION_RELU] = "relu",
    [ABL_ACTIVATION_SILU] = "silu",
};

static abl_code find_family(const json_t *root, const char *source, abl_family *ret_family,
                            abl_status *ret_status) {
    const json_t *type = json_object_get(root, "model_type");
    if (!json_is_string(type)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: model_type must be a string, not %s", source,
                        abl_json_type_text(type));
    }
    for (size_t i = 0; i < ABL_COUNT_OF(families); i++) {
        if (strcmp(json_string_value(type), families[i].name) == 0) {
            *ret_family = (abl_family)i;
            return ABL_CODE_OK;
        }
    }
    char supported[128] = "";
    size_t used = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(families) && used < sizeof supported; i++) {
        int wrote = snprintf(supported + used, sizeof supported - used, "%s%s",
                             (i == 0) ? "" : ", ", families[i].name);
        used += (size_t)wrote;
    }
    return abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "FAMILY_UNSUPPORTED",
                    "%s: model_type '%.64s' is not supported; supported are %s", source,
                    json_string_value(type), supported);
}

abl_code abl_model_config_parse(const char *text, size_t text_bytes, const char *source,
                                abl_model_config *ret_config, abl_status *ret_status) {
    ABL_ASSERT(text != NULL && source != NULL && ret_config != NULL);
    if (text_bytes > ABL_CONFIG_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "CONFIG_TOO_BIG",
                        "%s: %zu bytes; the limit is %d", source, text_bytes, ABL_CONFIG_BYTES_MAX);
    }
    ABL_CLEANUP(abl_json_decrefp) json_t *root = NULL;
    abl_code code = abl_json_parse(text, text_bytes, source, INVALID, &root, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (!json_is_object(root)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: must be a JSON object, not %s", source, abl_json_type_text(root));
    }
    abl_model_config config = {.bos_id = -1};
    code = find_family(root, source, &config.family, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    reader in = {.root = root, .source = source, .status = ret_status};
    families[config.family].read(&in, &config);
    config.d_vocab_out = (config.d_vocab_out == 0) ? config.d_vocab : config.d_vocab_out;
    check_shapes(&in, &config);
    check_tokens(&in, &config);
    if (in.code == ABL_CODE_OK) {
        *ret_config = config;
    }
    return in.code;
}

abl_code abl_model_config_read(const char *path, abl_model_config *ret_config,
                               abl_status *ret_status) {
    ABL_ASSERT(path != NULL && ret_config != NULL);
    ABL_CLEANUP(abl_freep) char *resolved = NULL;
    ABL_CLEANUP(abl_freep) char *text = NULL;
    size_t text_bytes = 0;
    abl_code code = abl_path_resolve(path, NULL, &resolved, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_file_read(resolved, ABL_CONFIG_BYTES_MAX, "CONFIG_TOO_BIG", &text, &text_bytes,
                             ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_model_config_parse(text, text_bytes, path, ret_config, ret_status);
    }
    return code;
}

const char *abl_family_name(abl_family family) {
    ABL_ASSERT((size_t)family < ABL_COUNT_OF(families));
    return families[family].name;
}

const char *abl_activation_name(abl_activation activation) {
    ABL_ASSERT((size_t)activation < ABL_COUNT_OF(activation_names));
    return activation_names[activation];
}

const char *abl_norm_name(abl_norm norm) {
    static const char *const names[] = {"layer", "rms", "none"};
    return names[norm];
}

const char *abl_positional_name(abl_positional positional) {
    return (positional == ABL_POSITIONAL_LEARNED) ? "learned" : "rope";
}

const char *abl_attention_name(abl_attention attention) {
    static const char *const names[] = {"causal", "bidirectional", "self"};
    return names[attention];
}

int abl_model_config_id_count(const abl_model_config *config) {
    return (config->d_vocab > config->d_vocab_out) ? config->d_vocab : config->d_vocab_out;
}

/* --- one key -------------------------------------------------------------------------------- */

/* The value of the key; NULL when it is absent or null. */
static const json_t *get(const reader *in, const char *key) {
    const json_t *value = json_object_get(in->root, key);
    return json_is_null(value) ? NULL : value;
}

static void fail_type(reader *in, const char *key, const char *wanted) {
    in->code =
        abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID, "%s: %s must be %s, not %s",
                 in->source, key, wanted, abl_json_type_text(json_object_get(in->root, key)));
}

/* An integer in [1, max]. NO_DEFAULT: the key is required. */
static int read_count(reader *in, const char *key, int max, int absent) {
    if (in->code != ABL_CODE_OK) {
        return 0;
    }
    const json_t *value = get(in, key);
    if (value == NULL && absent != NO_DEFAULT) {
        return absent;
    }
    if (!json_is_integer(value)) {
        fail_type(in, key, "an integer");
        return 0;
    }
    json_int_t number = json_integer_value(value);
    if (number < 1 || number > max) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: %s is %lld; it must be from 1 to %d", in->source, key,
                            (long long)number, max);
        return 0;
    }
    return (int)number;
}

static bool read_bool(reader *in, const char *key, bool absent) {
    if (in->code != ABL_CODE_OK) {
        return absent;
    }
    const json_t *value = get(in, key);
    if (value == NULL) {
        return absent;
    }
    if (!json_is_boolean(value)) {
        fail_type(in, key, "true or false");
        return absent;
    }
    return json_is_true(value);
}

/* A number strictly above 0 and at most max. */
static double read_positive(reader *in, const char *key, double max, double absent) {
    if (in->code != ABL_CODE_OK) {
        return absent;
    }
    const json_t *value = get(in, key);
    if (value == NULL) {
        return absent;
    }
    if (!json_is_number(value)) {
        fail_type(in, key, "a number");
        return absent;
    }
    double number = json_number_value(value);
    if (!(number > 0.0 && number <= max)) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: %s is %g; it must be above 0 and at most %g", in->source, key,
                            number, max);
    }
    return number;
}

static double read_epsilon(reader *in, const char *key, double absent) {
    double epsilon = read_positive(in, key, 1.0, absent);
    char text[32];
    (void)snprintf(text, sizeof text, "%.6g", epsilon);
    double rounded = strtod(text, NULL);
    return ((float)rounded == (float)epsilon) ? rounded : epsilon;
}

/* Unless the key is absent, null or `wanted`: refuses, since the variant is not computed here. */
static void require_bool(reader *in, const char *key, bool wanted) {
    if (read_bool(in, key, wanted) != wanted && in->code == ABL_CODE_OK) {
        in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                            "%s: %s is %s, which is not supported; only %s is", in->source, key,
                            wanted ? "false" : "true", wanted ? "true" : "false");
    }
}

static void require_absent(reader *in, const char *key) {
    if (in->code == ABL_CODE_OK && get(in, key) != NULL) {
        in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                            "%s: %s is set, which is not supported", in->source, key);
    }
}

/* TransformerLens writes "no cap" as -1. */
static void require_cap_off(reader *in, const char *key) {
    const json_t *value = get(in, key);
    if (in->code == ABL_CODE_OK && value != NULL && json_number_value(value) != -1.0) {
        in->code =
            abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                     "%s: %s is set, which is not supported; only -1 (off) is", in->source, key);
    }
}

/* The index of the string's value among `names`; `absent` when the key is absent or null. */
static size_t read_choice(reader *in, const char *key, const char *const *names, size_t count,
                          size_t absent) {
    const json_t *value = get(in, key);
    if (in->code != ABL_CODE_OK || value == NULL) {
        return absent;
    }
    if (!json_is_string(value)) {
        fail_type(in, key, "a string");
        return absent;
    }
    char known[128] = "";
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(json_string_value(value), names[i]) == 0) {
            return i;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", (i == 0) ? "" : ", ",
                                 names[i]);
        ABL_ASSERT(used < sizeof known);
    }
    in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                        "%s: %s '%.64s' is not supported; supported are %s", in->source, key,
                        json_string_value(value), known);
    return absent;
}

static abl_activation read_activation(reader *in, const char *key, abl_activation absent) {
    static const struct {
        const char *name;
        abl_activation activation;
    } names[] = {
        {"gelu", ABL_ACTIVATION_GELU},
        {"gelu_new", ABL_ACTIVATION_GELU_NEW},
        {"gelu_pytorch_tanh", ABL_ACTIVATION_GELU_NEW},
        {"gelu_fast", ABL_ACTIVATION_GELU_NEW},
        {"relu", ABL_ACTIVATION_RELU},
        {"silu", ABL_ACTIVATION_SILU},
        {"swish", ABL_ACTIVATION_SILU},
    };
    const json_t *value = get(in, key);
    if (in->code != ABL_CODE_OK || value == NULL) {
        return absent;
    }
    if (!json_is_string(value)) {
        fail_type(in, key, "a string");
        return absent;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(names); i++) {
        if (strcmp(json_string_value(value), names[i].name) == 0) {
            return names[i].activation;
        }
    }
    in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                        "%s: %s '%.64s' is not supported; supported are gelu, gelu_new, "
                        "gelu_fast, gelu_pytorch_tanh, relu, silu and swish",
                        in->source, key, json_string_value(value));
    return absent;
}

/* A token id, or -1. transformers' default for the family counts when it is in the vocabulary. */
static int read_token(reader *in, const char *key, int absent, int d_vocab) {
    if (in->code != ABL_CODE_OK) {
        return -1;
    }
    const json_t *value = json_object_get(in->root, key);
    if (value == NULL) {
        return (absent < d_vocab) ? absent : -1;
    }
    if (json_is_null(value)) {
        return -1;
    }
    if (!json_is_integer(value)) {
        fail_type(in, key, "an integer");
        return -1;
    }
    json_int_t id = json_integer_value(value);
    if (id < 0 || id >= d_vocab) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: %s is %lld; it must be below vocab_size, %d", in->source, key,
                            (long long)id, d_vocab);
        return -1;
    }
    return (int)id;
}

/* eos_token_id: one id or a list of them. */
static void read_eos(reader *in, int absent, abl_model_config *config) {
    static const char key[] = "eos_token_id";
    const json_t *value = get(in, key);
    if (!json_is_array(value)) {
        int id = read_token(in, key, absent, config->d_vocab);
        config->eos_count = (id >= 0) ? 1 : 0;
        config->eos_ids[0] = id;
        return;
    }
    size_t count = json_array_size(value);
    if (in->code == ABL_CODE_OK && count > ABL_EOS_COUNT_MAX) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: %s lists %zu ids; the limit is %d", in->source, key, count,
                            ABL_EOS_COUNT_MAX);
    }
    for (size_t i = 0; i < count && in->code == ABL_CODE_OK; i++) {
        const json_t *item = json_array_get(value, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= config->d_vocab) {
            in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                                "%s: %s[%zu] must be an integer below vocab_size, %d", in->source,
                                key, i, config->d_vocab);
            return;
        }
        config->eos_ids[i] = (int)id;
        config->eos_count = (int)i + 1;
    }
}

/* --- the families --------------------------------------------------------------------------- */

static void read_gpt2(reader *in, abl_model_config *config) {
    config->n_layers = read_count(in, "n_layer", ABL_LAYER_COUNT_MAX, NO_DEFAULT);
    config->n_heads = read_count(in, "n_head", ABL_HEAD_COUNT_MAX, NO_DEFAULT);
    config->n_kv_heads = config->n_heads;
    config->d_model = read_count(in, "n_embd", ABL_WIDTH_MAX, NO_DEFAULT);
    if (in->code == ABL_CODE_OK && config->d_model % config->n_heads != 0) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: n_embd, %d, must be a multiple of n_head, %d", in->source,
                            config->d_model, config->n_heads);
    }
    config->d_head = (config->n_heads > 0) ? config->d_model / config->n_heads : 0;
    config->d_mlp = read_count(in, "n_inner", ABL_WIDTH_MAX, 4 * config->d_model);
    config->d_vocab = read_count(in, "vocab_size", ABL_VOCAB_MAX, NO_DEFAULT);
    config->n_ctx = read_count(in, "n_positions", ABL_CONTEXT_MAX, NO_DEFAULT);
    config->norm = ABL_NORM_LAYER;
    config->norm_eps = read_epsilon(in, "layer_norm_epsilon", 1e-5);
    config->activation = read_activation(in, "activation_function", ABL_ACTIVATION_GELU_NEW);
    config->attn_bias = true;
    config->mlp_bias = true;
    config->tied_unembed = read_bool(in, "tie_word_embeddings", true);
    config->positional = ABL_POSITIONAL_LEARNED;
    config->bos_id = read_token(in, "bos_token_id", 50256, config->d_vocab);
    read_eos(in, 50256, config);
    require_bool(in, "scale_attn_weights", true);
    require_bool(in, "scale_attn_by_inverse_layer_idx", false);
    require_bool(in, "add_cross_attention", false);
    require_absent(in, "quantization_config");
}

/* rope_parameters (transformers 5), or rope_theta with rope_scaling (before). Only the plain
 * rotation is computed. `key` names an object, or nothing. */
static void read_rope_object(reader *in, const char *key, double *theta, double *part) {
    const json_t *rope = get(in, key);
    if (in->code != ABL_CODE_OK || rope == NULL) {
        return;
    }
    if (!json_is_object(rope)) {
        fail_type(in, key, "an object");
        return;
    }
    const json_t *type = json_object_get(rope, "rope_type");
    if (type == NULL) {
        type = json_object_get(rope, "type"); /* its name before transformers 4.43 */
    }
    if (type != NULL &&
        (!json_is_string(type) || strcmp(json_string_value(type), "default") != 0)) {
        in->code =
            abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                     "%s: %s of type '%.32s' is not supported; only 'default' is", in->source, key,
                     json_is_string(type) ? json_string_value(type) : abl_json_type_text(type));
        return;
    }
    if (type == NULL && json_object_get(rope, "factor") != NULL) {
        in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                            "%s: %s with a factor is not supported", in->source, key);
        return;
    }
    reader inner = {.root = rope, .source = in->source, .status = in->status};
    *theta = read_positive(&inner, "rope_theta", 1e12, *theta);
    *part = read_positive(&inner, "partial_rotary_factor", 1.0, *part);
    in->code = inner.code;
}

/* Rotary positions by a family's names for the base and for the rotated share of a head. */
static void read_rope(reader *in, const char *base_key, const char *part_key, double part_absent,
                      abl_model_config *config) {
    config->positional = ABL_POSITIONAL_ROPE;
    config->rope_theta = read_positive(in, base_key, 1e12, 10000.0);
    double part = read_positive(in, part_key, 1.0, part_absent);
    read_rope_object(in, "rope_scaling", &config->rope_theta, &part);
    read_rope_object(in, "rope_parameters", &config->rope_theta, &part);
    config->rotary_dim = (int)(config->d_head * part); /* as transformers rounds it */
}

static void read_llama(reader *in, abl_model_config *config) {
    config->n_layers = read_count(in, "num_hidden_layers", ABL_LAYER_COUNT_MAX, NO_DEFAULT);
    config->n_heads = read_count(in, "num_attention_heads", ABL_HEAD_COUNT_MAX, NO_DEFAULT);
    config->n_kv_heads = read_count(in, "num_key_value_heads", ABL_HEAD_COUNT_MAX, config->n_heads);
    config->d_model = read_count(in, "hidden_size", ABL_WIDTH_MAX, NO_DEFAULT);
    bool divides = config->n_heads > 0 && config->d_model % config->n_heads == 0;
    if (in->code == ABL_CODE_OK && !divides && get(in, "head_dim") == NULL) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: without head_dim, hidden_size, %d, must be a multiple of "
                            "num_attention_heads, %d",
                            in->source, config->d_model, config->n_heads);
    }
    config->d_head =
        read_count(in, "head_dim", ABL_WIDTH_MAX, divides ? config->d_model / config->n_heads : 1);
    config->d_mlp = read_count(in, "intermediate_size", ABL_WIDTH_MAX, NO_DEFAULT);
    config->d_vocab = read_count(in, "vocab_size", ABL_VOCAB_MAX, NO_DEFAULT);
    config->n_ctx = read_count(in, "max_position_embeddings", ABL_CONTEXT_MAX, 2048);
    config->norm = ABL_NORM_RMS;
    config->norm_eps = read_epsilon(in, "rms_norm_eps", 1e-6);
    config->activation = read_activation(in, "hidden_act", ABL_ACTIVATION_SILU);
    config->gated = true;
    config->attn_bias = read_bool(in, "attention_bias", false);
    config->mlp_bias = read_bool(in, "mlp_bias", false);
    config->tied_unembed = read_bool(in, "tie_word_embeddings", false);
    read_rope(in, "rope_theta", "partial_rotary_factor", 1.0, config);
    if (in->code == ABL_CODE_OK && config->rotary_dim != config->d_head) {
        in->code =
            abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, UNSUPPORTED,
                     "%s: partial_rotary_factor makes it %d of %d; llama rotates whole heads",
                     in->source, config->rotary_dim, config->d_head);
    }
    config->bos_id = read_token(in, "bos_token_id", 1, config->d_vocab);
    read_eos(in, 2, config);
    require_absent(in, "quantization_config");
}

static void read_gpt_neox(reader *in, abl_model_config *config) {
    config->n_layers = read_count(in, "num_hidden_layers", ABL_LAYER_COUNT_MAX, NO_DEFAULT);
    config->n_heads = read_count(in, "num_attention_heads", ABL_HEAD_COUNT_MAX, NO_DEFAULT);
    config->n_kv_heads = config->n_heads;
    config->d_model = read_count(in, "hidden_size", ABL_WIDTH_MAX, NO_DEFAULT);
    if (in->code == ABL_CODE_OK && config->d_model % config->n_heads != 0) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: hidden_size, %d, must be a multiple of num_attention_heads, %d",
                            in->source, config->d_model, config->n_heads);
    }
    config->d_head = (config->n_heads > 0) ? config->d_model / config->n_heads : 0;
    config->d_mlp = read_count(in, "intermediate_size", ABL_WIDTH_MAX, NO_DEFAULT);
    config->d_vocab = read_count(in, "vocab_size", ABL_VOCAB_MAX, NO_DEFAULT);
    config->n_ctx = read_count(in, "max_position_embeddings", ABL_CONTEXT_MAX, 2048);
    config->norm = ABL_NORM_LAYER;
    config->norm_eps = read_epsilon(in, "layer_norm_eps", 1e-5);
    config->activation = read_activation(in, "hidden_act", ABL_ACTIVATION_GELU);
    config->parallel_attn_mlp = read_bool(in, "use_parallel_residual", true);
    config->attn_bias = read_bool(in, "attention_bias", true);
    config->mlp_bias = true;
    config->tied_unembed = read_bool(in, "tie_word_embeddings", false);
    read_rope(in, "rotary_emb_base", "rotary_pct", 0.25, config);
    config->bos_id = read_token(in, "bos_token_id", 0, config->d_vocab);
    read_eos(in, 2, config);
    require_absent(in, "quantization_config");
}

/* TransformerLens's normalization_type: null, or one of these; "Pre" means folded. */
static void read_hooked_norm(reader *in, abl_model_config *config) {
    static const char *const names[] = {"LN", "LNPre", "RMS", "RMSPre"};
    size_t chosen = read_choice(in, "normalization_type", names, ABL_COUNT_OF(names), SIZE_MAX);
    if (chosen == SIZE_MAX) {
        config->norm = ABL_NORM_NONE;
        config->norm_plain = true;
        return;
    }
    config->norm = (chosen < 2) ? ABL_NORM_LAYER : ABL_NORM_RMS;
    config->norm_plain = chosen % 2 == 1;
    config->norm_eps = read_epsilon(in, "eps", 1e-5);
}

static void read_hooked_attention(reader *in, abl_model_config *config) {
    static const char *const names[] = {"causal", "bidirectional", "self"};
    config->attention = (abl_attention)read_choice(in, "attention_dir", names, ABL_COUNT_OF(names),
                                                   ABL_ATTENTION_CAUSAL);
    bool scaled = read_bool(in, "use_attn_scale", true);
    const json_t *scale = get(in, "attn_scale");
    bool chosen = scaled && json_is_number(scale) && json_number_value(scale) != -1.0;
    config->attn_divisor = chosen ? read_positive(in, "attn_scale", 1e6, 0.0) : scaled ? 0.0 : 1.0;
    require_bool(in, "use_local_attn", false);
    require_bool(in, "scale_attn_by_inverse_layer_idx", false);
    require_bool(in, "use_qk_norm", false);
    require_cap_off(in, "attn_scores_soft_cap");
}

static void read_hooked_positions(reader *in, abl_model_config *config) {
    static const char *const names[] = {"standard", "rotary"};
    size_t chosen = read_choice(in, "positional_embedding_type", names, ABL_COUNT_OF(names), 0);
    config->positional = (chosen == 0) ? ABL_POSITIONAL_LEARNED : ABL_POSITIONAL_ROPE;
    if (config->positional == ABL_POSITIONAL_ROPE) {
        config->rope_theta = read_positive(in, "rotary_base", 1e12, 10000.0);
        config->rotary_dim = read_count(in, "rotary_dim", ABL_WIDTH_MAX, config->d_head);
    }
    require_bool(in, "rotary_adjacent_pairs", false);
    require_bool(in, "use_NTK_by_parts_rope", false);
}

/* HookedTransformerConfig's own keys. "self" is not one of TransformerLens's attention_dirs: it is
 * how networks whose heads do not mix positions are written here (README.md). */
static void read_hooked(reader *in, abl_model_config *config) {
    config->n_layers = read_count(in, "n_layers", ABL_LAYER_COUNT_MAX, NO_DEFAULT);
    config->d_model = read_count(in, "d_model", ABL_WIDTH_MAX, NO_DEFAULT);
    config->n_heads = read_count(in, "n_heads", ABL_HEAD_COUNT_MAX, NO_DEFAULT);
    config->n_kv_heads = read_count(in, "n_key_value_heads", ABL_HEAD_COUNT_MAX, config->n_heads);
    config->d_head = read_count(in, "d_head", ABL_WIDTH_MAX, NO_DEFAULT);
    config->n_ctx = read_count(in, "n_ctx", ABL_CONTEXT_MAX, NO_DEFAULT);
    config->d_vocab = read_count(in, "d_vocab", ABL_VOCAB_MAX, NO_DEFAULT);
    config->d_vocab_out = read_count(in, "d_vocab_out", ABL_VOCAB_MAX, config->d_vocab);
    config->attn_only = read_bool(in, "attn_only", false);
    config->parallel_attn_mlp = read_bool(in, "parallel_attn_mlp", false);
    if (!config->attn_only) {
        config->d_mlp = read_count(in, "d_mlp", ABL_WIDTH_MAX, 4 * config->d_model);
        config->activation = read_activation(in, "act_fn", ABL_ACTIVATION_RELU);
    }
    config->attn_bias = true; /* TransformerLens keeps biases that are all zero, too */
    config->mlp_bias = true;
    config->unembed_bias = true;
    read_hooked_norm(in, config);
    read_hooked_attention(in, config);
    read_hooked_positions(in, config);
    config->bos_id = -1;
    require_bool(in, "gated_mlp", false);
    require_bool(in, "use_normalization_before_and_after", false);
    require_absent(in, "num_experts");
    require_cap_off(in, "output_logits_soft_cap");
}

/* --- what must fit together ----------------------------------------------------------------- */

static void check_shapes(reader *in, const abl_model_config *config) {
    if (in->code != ABL_CODE_OK) {
        return;
    }
    if (config->n_heads % config->n_kv_heads != 0) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: num_attention_heads, %d, must be a multiple of "
                            "num_key_value_heads, %d",
                            in->source, config->n_heads, config->n_kv_heads);
    } else if ((int64_t)config->n_heads * config->d_head > ABL_WIDTH_MAX) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: %d heads of %d are wider than the limit, %d", in->source,
                            config->n_heads, config->d_head, ABL_WIDTH_MAX);
    } else if (config->positional == ABL_POSITIONAL_ROPE &&
               (config->rotary_dim < 2 || config->rotary_dim % 2 != 0 ||
                config->rotary_dim > config->d_head)) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: %d of a head's %d numbers are rotated; it must be an even number, "
                            "from 2 to all",
                            in->source, config->rotary_dim, config->d_head);
    } else if (config->d_mlp > ABL_WIDTH_MAX) { /* GPT-2's default, four times n_embd */
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: an MLP of %d is wider than the limit, %d", in->source,
                            config->d_mlp, ABL_WIDTH_MAX);
    }
}

/* The readers have compared each id with the vocabulary; this is the promise to everyone else. */
static void check_tokens(reader *in, const abl_model_config *config) {
    if (in->code != ABL_CODE_OK) {
        return;
    }
    ABL_ASSERT(config->bos_id < config->d_vocab && config->eos_count <= ABL_EOS_COUNT_MAX);
    for (int i = 0; i < config->eos_count; i++) {
        ABL_ASSERT(config->eos_ids[i] >= 0 && config->eos_ids[i] < config->d_vocab);
    }
}
