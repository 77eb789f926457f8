/* SPDX-License-Identifier: Apache-2.0
 *
 * From the text to a checked config: the family, what its reader (config_families.c) found, and
 * what must fit together whatever the family. */
#include "core/model/config.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/json/json.h"
#include "core/model/config_families.h"
#include "core/model/path.h"

#include <string.h>

static const char *const family_names[] = {
#define X(name, text) [ABL_FAMILY_##name] = (text),
    ABL_FAMILY_MAP(X)
#undef X
};

static const char *const activation_names[] = {
    [ABL_ACTIVATION_GELU] = "gelu",
    [ABL_ACTIVATION_GELU_NEW] = "gelu_new",
    [ABL_ACTIVATION_RELU] = "relu",
    [ABL_ACTIVATION_SILU] = "silu",
};

static void check_shapes(abl_keys *in, const abl_model_config *config);
static void check_tokens(const abl_keys *in, const abl_model_config *config);

static void find_family(abl_keys *in, abl_family *ret_family) {
    const json_t *type = abl_keys_get(in, "model_type");
    if (!json_is_string(type)) {
        abl_keys_fail_type(in, "model_type", "a string");
        return;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(family_names); i++) {
        if (strcmp(json_string_value(type), family_names[i]) == 0) {
            *ret_family = (abl_family)i;
            return;
        }
    }
    char known[ABL_KEYS_TEXT_BYTES];
    in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, "FAMILY_UNSUPPORTED",
                        "%s: model_type '%.64s' is not supported; supported are %s", in->source,
                        json_string_value(type),
                        abl_keys_join(family_names, ABL_COUNT_OF(family_names), known));
}

abl_code abl_model_config_parse(const char *text, size_t text_bytes, const char *source,
                                abl_model_config *ret_config, abl_status *ret_status) {
    ABL_ASSERT(text != NULL && source != NULL && ret_config != NULL);
    if (text_bytes > ABL_CONFIG_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "CONFIG_TOO_BIG",
                        "%s: %zu bytes; the limit is %d", source, text_bytes, ABL_CONFIG_BYTES_MAX);
    }
    ABL_CLEANUP(abl_json_decrefp) json_t *root = NULL;
    abl_code code = abl_json_parse(text, text_bytes, source, ABL_CONFIG_INVALID, &root, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (!json_is_object(root)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                        "%s: must be a JSON object, not %s", source, abl_json_type_text(root));
    }
    abl_model_config config = {.bos_id = -1};
    abl_keys in = {.root = root, .source = source, .status = ret_status};
    find_family(&in, &config.family);
    abl_config_read_family(&in, &config);
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
    ABL_ASSERT((size_t)family < ABL_COUNT_OF(family_names));
    return family_names[family];
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

/* --- what must fit together ----------------------------------------------------------------- */

static void check_shapes(abl_keys *in, const abl_model_config *config) {
    if (in->code != ABL_CODE_OK) {
        return;
    }
    if (config->n_heads % config->n_kv_heads != 0) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: num_attention_heads, %d, must be a multiple of "
                            "num_key_value_heads, %d",
                            in->source, config->n_heads, config->n_kv_heads);
    } else if ((int64_t)config->n_heads * config->d_head > ABL_WIDTH_MAX) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %d heads of %d are wider than the limit, %d", in->source,
                            config->n_heads, config->d_head, ABL_WIDTH_MAX);
    } else if (config->positional == ABL_POSITIONAL_ROPE &&
               (config->rotary_dim < 2 || config->rotary_dim % 2 != 0 ||
                config->rotary_dim > config->d_head)) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %d of a head's %d numbers are rotated; it must be an even number, "
                            "from 2 to all",
                            in->source, config->rotary_dim, config->d_head);
    } else if (config->d_mlp > ABL_WIDTH_MAX) { /* GPT-2's default, four times n_embd */
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: an MLP of %d is wider than the limit, %d", in->source,
                            config->d_mlp, ABL_WIDTH_MAX);
    }
}

/* The readers have compared each id with the vocabulary; this is the promise to everyone else. */
static void check_tokens(const abl_keys *in, const abl_model_config *config) {
    if (in->code != ABL_CODE_OK) {
        return;
    }
    ABL_ASSERT(config->bos_id < config->d_vocab && config->eos_count <= ABL_EOS_COUNT_MAX);
    for (int i = 0; i < config->eos_count; i++) {
        ABL_ASSERT(config->eos_ids[i] >= 0 && config->eos_ids[i] < config->d_vocab);
    }
}
