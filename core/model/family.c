/* SPDX-License-Identifier: Apache-2.0
 *
 * A family is a table of rules, one a slot: the tensor's name with %d for the layer, its layout,
 * and which part of it is meant. The table is data, so that another family is another table; what a
 * slot's shape must be follows from the config alone and is computed in one place.
 *
 *   GPT-2   h.%d.attn.c_attn.weight   [d_model, 3 * d_model], input-major: columns q | k | v
 *   Llama   model.layers.%d.self_attn.q_proj.weight   [n_heads * d_head, d_model], output-major
 *   NeoX    layers.%d.attention.query_key_value.weight   [n_heads * 3 * d_head, d_model],
 *           output-major: rows of each head q | k | v
 *   TransformerLens   blocks.%d.attn.W_Q   [n_heads, d_model, d_head]
 *
 * GPT-2's names come with a `transformer.` prefix (saved by GPT2LMHeadModel) or without (the
 * original files, and GPT2Model); which it is, is decided once, by the embedding.
 *
 * Each tensor of the file must be used, or be on the family's short list of buffers that hold no
 * weights: a bias or a norm that is silently dropped gives plausible and wrong circuits. */
#include "core/model/family.h"

#include "core/base/assert.h"
#include "core/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Which third of a fused tensor: all of it, q, k or v; or heads laid out otherwise (family.h). */
typedef enum part {
    PART_ALL,
    PART_Q,
    PART_K,
    PART_V,
    PART_HEADS, /* all of it, heads on an axis */
    PART_MIXED_Q,
    PART_MIXED_K,
    PART_MIXED_V
} part;

typedef struct rule {
    const char *name; /* without prefix; NULL: the family has no such slot */
    part part;
} rule;

typedef struct family_rules {
    const char *prefixes[2]; /* of every tensor but lm_head; the first that fits counts */
    size_t prefix_count;
    bool input_major;          /* of matrices other than the embeddings */
    bool unembed_input_major;  /* of the unembedding */
    const char *unembed_alias; /* what it is called outside of files; may be NULL */
    rule rules[ABL_SLOT_COUNT];
    const char *ignored[4]; /* suffixes of buffers that hold no weights */
} family_rules;

static const family_rules families[] =
    {
        [ABL_FAMILY_GPT2] =
            {
                .prefixes = {"transformer.", ""},
                .prefix_count = 2,
                .input_major = true,
                .rules =
                    {
                        [ABL_SLOT_EMBED] = {"wte.weight", PART_ALL},
                        [ABL_SLOT_POS_EMBED] = {"wpe.weight", PART_ALL},
                        [ABL_SLOT_LN1_W] = {"h.%d.ln_1.weight", PART_ALL},
                        [ABL_SLOT_LN1_B] = {"h.%d.ln_1.bias", PART_ALL},
                        [ABL_SLOT_Q_W] = {"h.%d.attn.c_attn.weight", PART_Q},
                        [ABL_SLOT_Q_B] = {"h.%d.attn.c_attn.bias", PART_Q},
                        [ABL_SLOT_K_W] = {"h.%d.attn.c_attn.weight", PART_K},
                        [ABL_SLOT_K_B] = {"h.%d.attn.c_attn.bias", PART_K},
                        [ABL_SLOT_V_W] = {"h.%d.attn.c_attn.weight", PART_V},
                        [ABL_SLOT_V_B] = {"h.%d.attn.c_attn.bias", PART_V},
                        [ABL_SLOT_O_W] = {"h.%d.attn.c_proj.weight", PART_ALL},
                        [ABL_SLOT_O_B] = {"h.%d.attn.c_proj.bias", PART_ALL},
                        [ABL_SLOT_LN2_W] = {"h.%d.ln_2.weight", PART_ALL},
                        [ABL_SLOT_LN2_B] = {"h.%d.ln_2.bias", PART_ALL},
                        [ABL_SLOT_MLP_IN_W] = {"h.%d.mlp.c_fc.weight", PART_ALL},
                        [ABL_SLOT_MLP_IN_B] = {"h.%d.mlp.c_fc.bias", PART_ALL},
                        [ABL_SLOT_MLP_OUT_W] = {"h.%d.mlp.c_proj.weight", PART_ALL},
                        [ABL_SLOT_MLP_OUT_B] = {"h.%d.mlp.c_proj.bias", PART_ALL},
                        [ABL_SLOT_LN_FINAL_W] = {"ln_f.weight", PART_ALL},
                        [ABL_SLOT_LN_FINAL_B] = {"ln_f.bias", PART_ALL},
                        [ABL_SLOT_UNEMBED] = {"lm_head.weight", PART_ALL},
                    },
                .ignored = {".attn.bias", ".attn.masked_bias"},
            },
        [ABL_FAMILY_LLAMA] =
            {
                .prefixes = {"model.", ""},
                .prefix_count = 2,
                .input_major = false,
                .rules =
                    {
                        [ABL_SLOT_EMBED] = {"embed_tokens.weight", PART_ALL},
                        [ABL_SLOT_LN1_W] = {"layers.%d.input_layernorm.weight", PART_ALL},
                        [ABL_SLOT_Q_W] = {"layers.%d.self_attn.q_proj.weight", PART_ALL},
                        [ABL_SLOT_Q_B] = {"layers.%d.self_attn.q_proj.bias", PART_ALL},
                        [ABL_SLOT_K_W] = {"layers.%d.self_attn.k_proj.weight", PART_ALL},
                        [ABL_SLOT_K_B] = {"layers.%d.self_attn.k_proj.bias", PART_ALL},
                        [ABL_SLOT_V_W] = {"layers.%d.self_attn.v_proj.weight", PART_ALL},
                        [ABL_SLOT_V_B] = {"layers.%d.self_attn.v_proj.bias", PART_ALL},
                        [ABL_SLOT_O_W] = {"layers.%d.self_attn.o_proj.weight", PART_ALL},
                        [ABL_SLOT_O_B] = {"layers.%d.self_attn.o_proj.bias", PART_ALL},
                        [ABL_SLOT_LN2_W] = {"layers.%d.post_attention_layernorm.weight", PART_ALL},
                        [ABL_SLOT_MLP_IN_W] = {"layers.%d.mlp.up_proj.weight", PART_ALL},
                        [ABL_SLOT_MLP_IN_B] = {"layers.%d.mlp.up_proj.bias", PART_ALL},
                        [ABL_SLOT_MLP_GATE_W] = {"layers.%d.mlp.gate_proj.weight", PART_ALL},
                        [ABL_SLOT_MLP_GATE_B] = {"layers.%d.mlp.gate_proj.bias", PART_ALL},
                        [ABL_SLOT_MLP_OUT_W] = {"layers.%d.mlp.down_proj.weight", PART_ALL},
                        [ABL_SLOT_MLP_OUT_B] = {"layers.%d.mlp.down_proj.bias", PART_ALL},
                        [ABL_SLOT_LN_FINAL_W] = {"norm.weight", PART_ALL},
                        [ABL_SLOT_UNEMBED] = {"lm_head.weight", PART_ALL},
                    },
                .ignored = {".rotary_emb.inv_freq"},
            },
        [ABL_FAMILY_GPT_NEOX] =
            {
                .prefixes = {"gpt_neox.", ""},
                .prefix_count = 2,
                .input_major = false,
                .unembed_alias = "lm_head.weight", /* transformers 5's state_dict() */
                .rules =
                    {
                        [ABL_SLOT_EMBED] = {"embed_in.weight", PART_ALL},
                        [ABL_SLOT_LN1_W] = {"layers.%d.input_layernorm.weight", PART_ALL},
                        [ABL_SLOT_LN1_B] = {"layers.%d.input_layernorm.bias", PART_ALL},
                        [ABL_SLOT_Q_W] = {"layers.%d.attention.query_key_value.weight",
                                          PART_MIXED_Q},
                        [ABL_SLOT_Q_B] = {"layers.%d.attention.query_key_value.bias", PART_MIXED_Q},
                        [ABL_SLOT_K_W] = {"layers.%d.attention.query_key_value.weight",
                                          PART_MIXED_K},
                        [ABL_SLOT_K_B] = {"layers.%d.attention.query_key_value.bias", PART_MIXED_K},
                        [ABL_SLOT_V_W] = {"layers.%d.attention.query_key_value.weight",
                                          PART_MIXED_V},
                        [ABL_SLOT_V_B] = {"layers.%d.attention.query_key_value.bias", PART_MIXED_V},
                        [ABL_SLOT_O_W] = {"layers.%d.attention.dense.weight", PART_ALL},
                        [ABL_SLOT_O_B] = {"layers.%d.attention.dense.bias", PART_ALL},
                        [ABL_SLOT_LN2_W] = {"layers.%d.post_attention_layernorm.weight", PART_ALL},
                        [ABL_SLOT_LN2_B] = {"layers.%d.post_attention_layernorm.bias", PART_ALL},
                        [ABL_SLOT_MLP_IN_W] = {"layers.%d.mlp.dense_h_to_4h.weight", PART_ALL},
                        [ABL_SLOT_MLP_IN_B] = {"layers.%d.mlp.dense_h_to_4h.bias", PART_ALL},
                        [ABL_SLOT_MLP_OUT_W] = {"layers.%d.mlp.dense_4h_to_h.weight", PART_ALL},
                        [ABL_SLOT_MLP_OUT_B] = {"layers.%d.mlp.dense_4h_to_h.bias", PART_ALL},
                        [ABL_SLOT_LN_FINAL_W] = {"final_layer_norm.weight", PART_ALL},
                        [ABL_SLOT_LN_FINAL_B] = {"final_layer_norm.bias", PART_ALL},
                        [ABL_SLOT_UNEMBED] = {"embed_out.weight", PART_ALL},
                    },
                .ignored = {".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"},
            },
        [ABL_FAMILY_HOOKED] =
            {
                .prefixes = {""},
                .prefix_count = 1,
                .input_major = true,
                .unembed_input_major = true,
                .rules =
                    {
                        [ABL_SLOT_EMBED] = {"embed.W_E", PART_ALL},
                        [ABL_SLOT_POS_EMBED] = {"pos_embed.W_pos", PART_ALL},
                        [ABL_SLOT_LN1_W] = {"blocks.%d.ln1.w", PART_ALL},
                        [ABL_SLOT_LN1_B] = {"blocks.%d.ln1.b", PART_ALL},
                        [ABL_SLOT_Q_W] = {"blocks.%d.attn.W_Q", PART_HEADS},
                        [ABL_SLOT_Q_B] = {"blocks.%d.attn.b_Q", PART_HEADS},
                        [ABL_SLOT_K_W] = {"blocks.%d.attn.W_K", PART_HEADS},
                        [ABL_SLOT_K_B] = {"blocks.%d.attn.b_K", PART_HEADS},
                        [ABL_SLOT_V_W] = {"blocks.%d.attn.W_V", PART_HEADS},
                        [ABL_SLOT_V_B] = {"blocks.%d.attn.b_V", PART_HEADS},
                        [ABL_SLOT_O_W] = {"blocks.%d.attn.W_O", PART_HEADS},
                        [ABL_SLOT_O_B] = {"blocks.%d.attn.b_O", PART_ALL},
                        [ABL_SLOT_LN2_W] = {"blocks.%d.ln2.w", PART_ALL},
                        [ABL_SLOT_LN2_B] = {"blocks.%d.ln2.b", PART_ALL},
                        [ABL_SLOT_MLP_IN_W] = {"blocks.%d.mlp.W_in", PART_ALL},
                        [ABL_SLOT_MLP_IN_B] = {"blocks.%d.mlp.b_in", PART_ALL},
                        [ABL_SLOT_MLP_OUT_W] = {"blocks.%d.mlp.W_out", PART_ALL},
                        [ABL_SLOT_MLP_OUT_B] = {"blocks.%d.mlp.b_out", PART_ALL},
                        [ABL_SLOT_LN_FINAL_W] = {"ln_final.w", PART_ALL},
                        [ABL_SLOT_LN_FINAL_B] = {"ln_final.b", PART_ALL},
                        [ABL_SLOT_UNEMBED] = {"unembed.W_U", PART_ALL},
                        [ABL_SLOT_UNEMBED_B] = {"unembed.b_U", PART_ALL},
                    },
                .ignored = {".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos"},
            },
};

static const char *const slot_names[] = {
#define X(name, text) [ABL_SLOT_##name] = text,
    ABL_SLOT_MAP(X)
#undef X
};

struct abl_weight_map {
    size_t count;
    abl_weight_view views[]; /* by layer, then slot; the last two or three outside the layers */
};

typedef struct builder {
    const abl_model_config *config;
    const family_rules *family;
    const abl_safetensors *set;
    const char *prefix;
    bool *used; /* one a tensor of the set */
    abl_weight_map *map;
} builder;

static abl_code add_all(builder *in, abl_status *ret_status);
static abl_code check_unused(const builder *in, abl_status *ret_status);

bool abl_slot_in_layer(abl_slot slot) {
    return slot >= ABL_SLOT_LN1_W && slot <= ABL_SLOT_MLP_OUT_B;
}

abl_code abl_weight_map_create(const abl_model_config *config, const abl_safetensors *set,
                               abl_weight_map **ret_map, abl_status *ret_status) {
    ABL_ASSERT(config != NULL && set != NULL && ret_map != NULL);
    ABL_ASSERT((size_t)config->family < ABL_COUNT_OF(families));
    size_t capacity = (size_t)ABL_SLOT_COUNT * ((size_t)config->n_layers + 1);
    ABL_CLEANUP(abl_freep) bool *used = abl_calloc(abl_safetensors_count(set), sizeof *used);
    abl_weight_map *map = abl_calloc(1, sizeof *map + capacity * sizeof(abl_weight_view));
    if (used == NULL || map == NULL) {
        abl_free(map);
        return abl_fail_oom(ret_status);
    }
    builder in = {.config = config,
                  .family = &families[config->family],
                  .set = set,
                  .used = used,
                  .map = map};
    abl_code code = add_all(&in, ret_status);
    if (code == ABL_CODE_OK) {
        code = check_unused(&in, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_weight_map_destroy(map);
        return code;
    }
    *ret_map = map;
    return ABL_CODE_OK;
}

void abl_weight_map_destroy(abl_weight_map *map) {
    abl_free(map);
}

size_t abl_weight_map_count(const abl_weight_map *map) {
    return map->count;
}

const abl_weight_view *abl_weight_map_at(const abl_weight_map *map, size_t index) {
    ABL_ASSERT(index < map->count);
    return &map->views[index];
}

const abl_weight_view *abl_weight_map_find(const abl_weight_map *map, abl_slot slot, int layer) {
    for (size_t i = 0; i < map->count; i++) {
        if (map->views[i].slot == slot && map->views[i].layer == layer) {
            return &map->views[i];
        }
    }
    return NULL;
}

/* --- which weights, of which shape ---------------------------------------------------------- */

static bool is_mlp(abl_slot slot) {
    return slot >= ABL_SLOT_MLP_IN_W && slot <= ABL_SLOT_MLP_OUT_B;
}

/* Does the config ask for this weight? */
static bool slot_present(const abl_model_config *config, abl_slot slot) {
    if (config->attn_only && (is_mlp(slot) || slot == ABL_SLOT_LN2_W || slot == ABL_SLOT_LN2_B)) {
        return false;
    }
    switch (slot) {
    case ABL_SLOT_POS_EMBED:
        return config->positional == ABL_POSITIONAL_LEARNED;
    case ABL_SLOT_LN1_W:
    case ABL_SLOT_LN2_W:
    case ABL_SLOT_LN_FINAL_W:
        return !config->norm_plain;
    case ABL_SLOT_LN1_B:
    case ABL_SLOT_LN2_B:
    case ABL_SLOT_LN_FINAL_B:
        return config->norm == ABL_NORM_LAYER && !config->norm_plain;
    case ABL_SLOT_Q_B:
    case ABL_SLOT_K_B:
    case ABL_SLOT_V_B:
    case ABL_SLOT_O_B:
        return config->attn_bias;
    case ABL_SLOT_MLP_IN_B:
    case ABL_SLOT_MLP_OUT_B:
        return config->mlp_bias;
    case ABL_SLOT_MLP_GATE_W:
        return config->gated;
    case ABL_SLOT_MLP_GATE_B:
        return config->gated && config->mlp_bias;
    case ABL_SLOT_UNEMBED_B:
        return config->unembed_bias;
    case ABL_SLOT_EMBED:
    case ABL_SLOT_Q_W:
    case ABL_SLOT_K_W:
    case ABL_SLOT_V_W:
    case ABL_SLOT_O_W:
    case ABL_SLOT_MLP_IN_W:
    case ABL_SLOT_MLP_OUT_W:
    case ABL_SLOT_UNEMBED:
    case ABL_SLOT_COUNT:
        break;
    }
    return true;
}

/* in and out of a matrix; in is 0 for a vector. An embedding's input is the token or position. */
static void slot_shape(const abl_model_config *config, abl_slot slot, int64_t *ret_in,
                       int64_t *ret_out) {
    const int64_t d_model = config->d_model;
    const int64_t q = (int64_t)config->n_heads * config->d_head;
    const int64_t kv = (int64_t)config->n_kv_heads * config->d_head;
    const int64_t shapes[ABL_SLOT_COUNT][2] = {
        [ABL_SLOT_EMBED] = {config->d_vocab, d_model},
        [ABL_SLOT_POS_EMBED] = {config->n_ctx, d_model},
        [ABL_SLOT_LN1_W] = {0, d_model},
        [ABL_SLOT_LN1_B] = {0, d_model},
        [ABL_SLOT_Q_W] = {d_model, q},
        [ABL_SLOT_Q_B] = {0, q},
        [ABL_SLOT_K_W] = {d_model, kv},
        [ABL_SLOT_K_B] = {0, kv},
        [ABL_SLOT_V_W] = {d_model, kv},
        [ABL_SLOT_V_B] = {0, kv},
        [ABL_SLOT_O_W] = {q, d_model},
        [ABL_SLOT_O_B] = {0, d_model},
        [ABL_SLOT_LN2_W] = {0, d_model},
        [ABL_SLOT_LN2_B] = {0, d_model},
        [ABL_SLOT_MLP_IN_W] = {d_model, config->d_mlp},
        [ABL_SLOT_MLP_IN_B] = {0, config->d_mlp},
        [ABL_SLOT_MLP_GATE_W] = {d_model, config->d_mlp},
        [ABL_SLOT_MLP_GATE_B] = {0, config->d_mlp},
        [ABL_SLOT_MLP_OUT_W] = {config->d_mlp, d_model},
        [ABL_SLOT_MLP_OUT_B] = {0, d_model},
        [ABL_SLOT_LN_FINAL_W] = {0, d_model},
        [ABL_SLOT_LN_FINAL_B] = {0, d_model},
        [ABL_SLOT_UNEMBED] = {d_model, config->d_vocab_out},
        [ABL_SLOT_UNEMBED_B] = {0, config->d_vocab_out},
    };
    *ret_in = shapes[slot][0];
    *ret_out = shapes[slot][1];
}

/* --- finding them --------------------------------------------------------------------------- */

static size_t tensor_index(const builder *in, const abl_safetensors_tensor *tensor) {
    const abl_safetensors_tensor *found = NULL;
    size_t low = 0;
    size_t high = abl_safetensors_count(in->set);
    while (low < high) { /* the set is sorted by name, and the tensor is in it */
        size_t middle = low + (high - low) / 2;
        found = abl_safetensors_at(in->set, middle);
        int order = strcmp(tensor->name, found->name);
        if (order == 0) {
            return middle;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    ABL_ASSERT(false);
    return 0;
}

static void tensor_name(const builder *in, abl_slot slot, int layer, char *text, size_t bytes) {
    const char *prefix = (slot >= ABL_SLOT_UNEMBED) ? "" : in->prefix;
    const char *name = in->family->rules[slot].name;
    const char *hole = strstr(name, "%d");
    if (hole == NULL) {
        (void)snprintf(text, bytes, "%s%s", prefix, name);
    } else {
        (void)snprintf(text, bytes, "%s%.*s%d%s", prefix, (int)(hole - name), name, layer,
                       hole + 2);
    }
}

/* The tensor must have this rank and shape, and a dtype to compute with. */
static abl_code check_tensor(const abl_safetensors_tensor *tensor, abl_slot slot, int rank,
                             const int64_t *shape, abl_status *ret_status) {
    if (tensor->dtype != ABL_SAFETENSORS_DTYPE_F32 && tensor->dtype != ABL_SAFETENSORS_DTYPE_F16 &&
        tensor->dtype != ABL_SAFETENSORS_DTYPE_BF16) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "WEIGHT_DTYPE",
                        "%s: tensor '%s' is %s; weights must be F32, F16 or BF16", tensor->file,
                        tensor->name, abl_safetensors_dtype_name(tensor->dtype));
    }
    bool same = tensor->rank == rank;
    for (int i = 0; same && i < rank; i++) {
        same = tensor->shape[i] == shape[i];
    }
    if (same) {
        return ABL_CODE_OK;
    }
    abl_safetensors_tensor wanted = {.rank = rank};
    memcpy(wanted.shape, shape, (size_t)rank * sizeof *shape);
    char is_text[128];
    char wanted_text[128];
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "WEIGHT_SHAPE",
                    "%s: tensor '%s' (%s) has shape %s; config.json makes it %s", tensor->file,
                    tensor->name, slot_names[slot],
                    abl_safetensors_shape_text(tensor, is_text, sizeof is_text),
                    abl_safetensors_shape_text(&wanted, wanted_text, sizeof wanted_text));
}

/* Fills the view of a slot of that many inputs (0: a vector) and outputs, and the shape that its
 * tensor must have; returns the tensor's rank. */
static int view_fill(const builder *in, abl_slot slot, abl_weight_view *view,
                     int64_t ret_whole[3]) {
    const abl_model_config *config = in->config;
    part which = in->family->rules[slot].part;
    int64_t inputs = 0;
    int64_t outputs = 0;
    slot_shape(config, slot, &inputs, &outputs);
    bool embedding = slot == ABL_SLOT_EMBED || slot == ABL_SLOT_POS_EMBED;
    view->input_major = embedding || (slot == ABL_SLOT_UNEMBED ? in->family->unembed_input_major
                                                               : in->family->input_major);
    view->rank = (inputs == 0) ? 1 : 2;
    view->narrow_dim = (view->rank == 2 && view->input_major) ? 1 : 0;
    view->narrow_count = outputs;
    view->shape[0] = (view->narrow_dim == 1) ? inputs : outputs;
    view->shape[1] = (view->rank == 1) ? 0 : (view->narrow_dim == 1) ? outputs : inputs;
    memcpy(ret_whole, view->shape, sizeof view->shape);
    bool kv = slot >= ABL_SLOT_K_W && slot <= ABL_SLOT_V_B;
    view->heads = kv ? config->n_kv_heads : config->n_heads;
    if (which == PART_HEADS) {
        const int64_t width = (slot == ABL_SLOT_O_W) ? config->d_model : config->d_head;
        view->layout = ABL_HEADS_AXIS;
        ret_whole[0] = view->heads;
        ret_whole[view->rank] = width;
        ret_whole[1] = (view->rank == 1)        ? width
                       : (slot == ABL_SLOT_O_W) ? config->d_head
                                                : config->d_model;
        return view->rank + 1;
    }
    if (which >= PART_MIXED_Q) {
        view->layout = ABL_HEADS_MIXED;
        view->which = (int)(which - PART_MIXED_Q);
        ret_whole[view->narrow_dim] *= 3;
    } else if (which != PART_ALL) {
        view->narrow_offset = (int64_t)(which - PART_Q) * outputs;
        ret_whole[view->narrow_dim] *= 3;
    }
    return view->rank;
}

static abl_code add_view(builder *in, abl_slot slot, int layer, abl_status *ret_status) {
    bool tied = slot == ABL_SLOT_UNEMBED && in->config->tied_unembed;
    abl_slot named = tied ? ABL_SLOT_EMBED : slot;
    char name[ABL_NAME_BYTES_MAX];
    tensor_name(in, named, layer, name, sizeof name);
    const abl_safetensors_tensor *tensor = abl_safetensors_find(in->set, name);
    if (tensor == NULL && named == ABL_SLOT_UNEMBED && in->family->unembed_alias != NULL) {
        tensor = abl_safetensors_find(in->set, in->family->unembed_alias);
    }
    if (tensor == NULL) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "WEIGHT_MISSING",
                        "%s: there is no tensor '%s' (%s), which a %s model needs",
                        abl_safetensors_source(in->set), name, slot_names[slot],
                        abl_family_name(in->config->family));
    }
    int64_t whole[3] = {0};
    abl_weight_view *view = &in->map->views[in->map->count];
    *view = (abl_weight_view){.slot = slot, .layer = layer, .tensor = tensor};
    int rank = view_fill(in, slot, view, whole);
    abl_code code = check_tensor(tensor, slot, rank, whole, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    in->map->count++;
    in->used[tensor_index(in, tensor)] = true;
    return ABL_CODE_OK;
}

static void choose_prefix(builder *in) {
    char name[ABL_NAME_BYTES_MAX];
    for (size_t i = 0; i < in->family->prefix_count; i++) {
        in->prefix = in->family->prefixes[i];
        tensor_name(in, ABL_SLOT_EMBED, -1, name, sizeof name);
        if (abl_safetensors_find(in->set, name) != NULL) {
            return;
        }
    }
    in->prefix = in->family->prefixes[0]; /* the name that the message will miss */
}

static abl_code add_all(builder *in, abl_status *ret_status) {
    choose_prefix(in);
    abl_code code = ABL_CODE_OK;
    for (int layer = -1; layer <= in->config->n_layers; layer++) {
        bool before = layer == -1;
        bool after = layer == in->config->n_layers;
        for (int i = 0; i < ABL_SLOT_COUNT && code == ABL_CODE_OK; i++) {
            abl_slot slot = (abl_slot)i;
            bool here = abl_slot_in_layer(slot)        ? !before && !after
                        : (slot <= ABL_SLOT_POS_EMBED) ? before
                                                       : after;
            if (here && slot_present(in->config, slot)) {
                code = add_view(in, slot, after ? -1 : layer, ret_status);
            }
        }
    }
    return code;
}

static bool ends_with(const char *text, const char *suffix) {
    size_t length = strlen(text);
    size_t suffix_length = strlen(suffix);
    return length >= suffix_length && strcmp(text + length - suffix_length, suffix) == 0;
}

static bool is_ignored(const builder *in, const char *name) {
    /* A tied head that was saved all the same: transformers, too, takes the embedding. */
    if (in->config->tied_unembed && strcmp(name, in->family->rules[ABL_SLOT_UNEMBED].name) == 0) {
        return true;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(in->family->ignored); i++) {
        if (in->family->ignored[i] != NULL && ends_with(name, in->family->ignored[i])) {
            return true;
        }
    }
    return false;
}

static abl_code check_unused(const builder *in, abl_status *ret_status) {
    for (size_t i = 0; i < abl_safetensors_count(in->set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(in->set, i);
        if (!in->used[i] && !is_ignored(in, tensor->name)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "WEIGHT_UNKNOWN",
                            "%s: tensor '%s' has no place in a %s model of %d layers; its results "
                            "would be wrong without it",
                            tensor->file, tensor->name, abl_family_name(in->config->family),
                            in->config->n_layers);
        }
    }
    return ABL_CODE_OK;
}
