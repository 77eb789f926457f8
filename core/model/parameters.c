/* SPDX-License-Identifier: Apache-2.0
 *
 * One table of kinds: a name, its symbolic shape, and where it lies in the canonical weights. What
 * a model has follows from its config and from which canonical weights are there: processing folds
 * norms away, and then TransformerLens has no such names either. */
#include "core/model/parameters.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/model/block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* X(enum suffix, name after "blocks.N." or whole, once a layer?) */
#define KIND_MAP(X)                                                                                \
    X(EMBED, "embed.W_E", false)                                                                   \
    X(POS, "pos_embed.W_pos", false)                                                               \
    X(LN1_W, "ln1.w", true)                                                                        \
    X(LN1_B, "ln1.b", true)                                                                        \
    X(Q_W, "attn.W_Q", true)                                                                       \
    X(K_W, "attn.W_K", true)                                                                       \
    X(K_W_GROUPED, "attn._W_K", true)                                                              \
    X(V_W, "attn.W_V", true)                                                                       \
    X(V_W_GROUPED, "attn._W_V", true)                                                              \
    X(O_W, "attn.W_O", true)                                                                       \
    X(Q_B, "attn.b_Q", true)                                                                       \
    X(K_B, "attn.b_K", true)                                                                       \
    X(K_B_GROUPED, "attn._b_K", true)                                                              \
    X(V_B, "attn.b_V", true)                                                                       \
    X(V_B_GROUPED, "attn._b_V", true)                                                              \
    X(O_B, "attn.b_O", true)                                                                       \
    X(LN2_W, "ln2.w", true)                                                                        \
    X(LN2_B, "ln2.b", true)                                                                        \
    X(IN_W, "mlp.W_in", true)                                                                      \
    X(GATE_W, "mlp.W_gate", true)                                                                  \
    X(OUT_W, "mlp.W_out", true)                                                                    \
    X(IN_B, "mlp.b_in", true)                                                                      \
    X(GATE_B, "mlp.b_gate", true)                                                                  \
    X(OUT_B, "mlp.b_out", true)                                                                    \
    X(FINAL_W, "ln_final.w", false)                                                                \
    X(FINAL_B, "ln_final.b", false)                                                                \
    X(UNEMBED_W, "unembed.W_U", false)                                                             \
    X(UNEMBED_B, "unembed.b_U", false)

typedef enum kind {
#define X(name, text, per_layer) KIND_##name,
    KIND_MAP(X)
#undef X
        KIND_COUNT
} kind;

static const struct {
    const char *name;
    bool per_layer;
} kinds[KIND_COUNT] = {
#define X(name, text, per_layer) [KIND_##name] = {text, per_layer},
    KIND_MAP(X)
#undef X
};

/* The canonical weight that a kind is, or is a part of; NULL when the model has none. */
static abl_tensor *weight_of(const abl_model *model, kind which, int layer) {
    const abl_model_weights *w = abl_model_get_weights(model);
    const abl_block_weights *b = layer < 0 ? NULL : abl_model_get_block(model, layer);
    switch (which) {
    case KIND_EMBED:
        return w->embed;
    case KIND_POS:
        return w->pos_embed;
    case KIND_LN1_W:
        return b->ln1_w;
    case KIND_LN1_B:
        return b->ln1_b;
    case KIND_Q_W:
    case KIND_K_W:
    case KIND_K_W_GROUPED:
    case KIND_V_W:
    case KIND_V_W_GROUPED:
        return b->w_qkv;
    case KIND_Q_B:
    case KIND_K_B:
    case KIND_K_B_GROUPED:
    case KIND_V_B:
    case KIND_V_B_GROUPED:
        return b->b_qkv;
    case KIND_O_W:
        return b->w_o;
    case KIND_O_B:
        return b->b_o;
    case KIND_LN2_W:
        return b->ln2_w;
    case KIND_LN2_B:
        return b->ln2_b;
    case KIND_IN_W:
    case KIND_GATE_W:
        return b->w_in;
    case KIND_IN_B:
    case KIND_GATE_B:
        return b->b_in;
    case KIND_OUT_W:
        return b->w_out;
    case KIND_OUT_B:
        return b->b_out;
    case KIND_FINAL_W:
        return w->ln_final_w;
    case KIND_FINAL_B:
        return w->ln_final_b;
    case KIND_UNEMBED_W:
        return w->unembed;
    case KIND_UNEMBED_B:
        return w->b_unembed;
    case KIND_COUNT:
        break;
    }
    return NULL;
}

static bool is_grouped(kind which) {
    return which == KIND_K_W_GROUPED || which == KIND_V_W_GROUPED || which == KIND_K_B_GROUPED ||
           which == KIND_V_B_GROUPED;
}

/* Biases that TransformerLens always has. */
static bool is_always(const abl_model_config *config, kind which) {
    bool attention = which == KIND_Q_B || which == KIND_K_B || which == KIND_V_B ||
                     which == KIND_K_B_GROUPED || which == KIND_V_B_GROUPED || which == KIND_O_B;
    bool mlp = which == KIND_IN_B || which == KIND_OUT_B;
    return attention || (mlp && !config->attn_only) || which == KIND_UNEMBED_B;
}

/* Whether a model has it; expanded keys and values of grouped queries included. */
static bool is_there(const abl_model *model, kind which, int layer) {
    const abl_model_config *config = abl_model_get_config(model);
    bool gate = which == KIND_GATE_W || which == KIND_GATE_B;
    if ((gate && !config->gated) || (is_grouped(which) && config->n_kv_heads == config->n_heads)) {
        return false;
    }
    return weight_of(model, which, layer) != NULL || is_always(config, which);
}

/* Of the keys and values, what state_dict has: the grouped ones where there are groups. */
static bool is_listed(const abl_model *model, kind which, int layer) {
    const abl_model_config *config = abl_model_get_config(model);
    bool repeated =
        which == KIND_K_W || which == KIND_V_W || which == KIND_K_B || which == KIND_V_B;
    return is_there(model, which, layer) && !(repeated && config->n_kv_heads != config->n_heads);
}

static void shape_set(abl_parameter *p, int rank, int64_t first, int64_t second, int64_t third) {
    p->rank = rank;
    p->shape[0] = first;
    p->shape[1] = second;
    p->shape[2] = third;
}

static void shape_fill(const abl_model_config *c, kind which, abl_parameter *p) {
    const int64_t heads = is_grouped(which) ? c->n_kv_heads : c->n_heads;
    switch (which) {
    case KIND_EMBED:
        shape_set(p, 2, c->d_vocab, c->d_model, 0);
        return;
    case KIND_POS:
        shape_set(p, 2, c->n_ctx, c->d_model, 0);
        return;
    case KIND_Q_W:
    case KIND_K_W:
    case KIND_K_W_GROUPED:
    case KIND_V_W:
    case KIND_V_W_GROUPED:
        shape_set(p, 3, heads, c->d_model, c->d_head);
        return;
    case KIND_O_W:
        shape_set(p, 3, heads, c->d_head, c->d_model);
        return;
    case KIND_Q_B:
    case KIND_K_B:
    case KIND_K_B_GROUPED:
    case KIND_V_B:
    case KIND_V_B_GROUPED:
        shape_set(p, 2, heads, c->d_head, 0);
        return;
    case KIND_IN_W:
    case KIND_GATE_W:
        shape_set(p, 2, c->d_model, c->d_mlp, 0);
        return;
    case KIND_OUT_W:
        shape_set(p, 2, c->d_mlp, c->d_model, 0);
        return;
    case KIND_IN_B:
    case KIND_GATE_B:
        shape_set(p, 1, c->d_mlp, 0, 0);
        return;
    case KIND_UNEMBED_W:
        shape_set(p, 2, c->d_model, c->d_vocab_out, 0);
        return;
    case KIND_UNEMBED_B:
        shape_set(p, 1, c->d_vocab_out, 0, 0);
        return;
    case KIND_LN1_W:
    case KIND_LN1_B:
    case KIND_O_B:
    case KIND_LN2_W:
    case KIND_LN2_B:
    case KIND_OUT_B:
    case KIND_FINAL_W:
    case KIND_FINAL_B:
    case KIND_COUNT:
        break;
    }
    shape_set(p, 1, c->d_model, 0, 0);
}

static abl_parameter parameter_of(const abl_model *model, kind which, int layer) {
    abl_parameter p = {.layer = layer, .kind = (int)which};
    if (layer < 0) {
        (void)snprintf(p.name, sizeof p.name, "%s", kinds[which].name);
    } else {
        (void)snprintf(p.name, sizeof p.name, "blocks.%d.%s", layer, kinds[which].name);
    }
    p.zeros = weight_of(model, which, layer) == NULL;
    shape_fill(abl_model_get_config(model), which, &p);
    return p;
}

size_t abl_parameter_list(const abl_model *model, abl_parameter *ret_parameters, size_t count_max) {
    const int layers = abl_model_get_config(model)->n_layers;
    size_t count = 0;
    for (int layer = -1; layer <= layers; layer++) {
        for (int i = 0; i < KIND_COUNT; i++) {
            kind which = (kind)i;
            bool outside =
                (layer < 0 && which <= KIND_POS) || (layer == layers && which >= KIND_FINAL_W);
            bool here = kinds[i].per_layer ? layer >= 0 && layer < layers : outside;
            int own = kinds[i].per_layer ? layer : -1;
            if (!here || !is_listed(model, which, own)) {
                continue;
            }
            if (ret_parameters != NULL && count < count_max) {
                ret_parameters[count] = parameter_of(model, which, own);
            }
            count++;
        }
    }
    return count;
}

/* ---- by name ------------------------------------------------------------------------------ */

/* "blocks.12.tail" to 12 and the tail; -1 and the whole name without that prefix; -2: malformed. */
static int split(const char *name, const char **ret_tail) {
    static const char prefix[] = "blocks.";
    *ret_tail = name;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) {
        return -1;
    }
    const char *digits = name + sizeof prefix - 1;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 6 || digits[count] != '.' || (count > 1 && digits[0] == '0')) {
        return -2;
    }
    *ret_tail = digits + count + 1;
    return (int)strtol(digits, NULL, 10);
}

/* The names that a model has in its blocks, or outside of them. */
static void names_there(const abl_model *model, int layer, char *text, size_t text_bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < KIND_COUNT && used < text_bytes; i++) {
        if (kinds[i].per_layer == (layer >= 0) && is_listed(model, (kind)i, layer)) {
            used += (size_t)snprintf(text + used, text_bytes - used, "%s%s", used == 0 ? "" : ", ",
                                     kinds[i].name);
        }
    }
}

abl_code abl_parameter_find(const abl_model *model, const char *name, abl_parameter *ret_parameter,
                            abl_status *ret_status) {
    const int layers = abl_model_get_config(model)->n_layers;
    const char *tail = NULL;
    int layer = split(name, &tail);
    if (layer >= layers) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "PARAMETER_UNKNOWN",
                        "parameter '%.60s': the model has layers 0 to %d", name, layers - 1);
    }
    for (int i = 0; layer >= -1 && i < KIND_COUNT; i++) {
        if (kinds[i].per_layer == (layer >= 0) && strcmp(kinds[i].name, tail) == 0 &&
            is_there(model, (kind)i, layer)) {
            *ret_parameter = parameter_of(model, (kind)i, layer);
            return ABL_CODE_OK;
        }
    }
    char there[200];
    names_there(model, layer < 0 ? -1 : layer, there, sizeof there);
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "PARAMETER_UNKNOWN",
                    "there is no parameter '%.40s'; %s: %s", name,
                    layer < 0 ? "outside the blocks are" : "a block of this model has", there);
}

/* ---- numbers ------------------------------------------------------------------------------ */

/* Heads of a (heads, ...) tensor, each `group` times. */
static abl_tensor *repeat(abl_scope *scope, abl_tensor *x, int64_t group) {
    if (x == NULL) {
        return NULL;
    }
    int64_t wide[ABL_DIMENSION_COUNT_MAX] = {-1, group};
    int64_t shape[ABL_DIMENSION_COUNT_MAX] = {abl_tensor_size(x, 0) * group};
    int rank = abl_tensor_rank(x);
    for (int i = 1; i < rank; i++) {
        wide[i + 1] = -1;
        shape[i] = abl_tensor_size(x, i);
    }
    x = abl_tensor_expand(scope, abl_tensor_unsqueeze(scope, x, 1), rank + 1, wide);
    return abl_tensor_reshape(scope, x, rank, shape);
}

static abl_tensor *projection(abl_scope *scope, const abl_model *model,
                              const abl_parameter *parameter) {
    const abl_model_config *c = abl_model_get_config(model);
    const kind which = (kind)parameter->kind;
    bool is_q = which == KIND_Q_W || which == KIND_Q_B;
    bool is_v = which == KIND_V_W || which == KIND_V_W_GROUPED || which == KIND_V_B ||
                which == KIND_V_B_GROUPED;
    abl_tensor *bias = NULL;
    abl_tensor *x = abl_block_head_weights(scope, model, parameter->layer,
                                           is_q   ? 0
                                           : is_v ? 2
                                                  : 1,
                                           &bias);
    x = parameter->rank == 2 ? bias : x;
    return is_q || is_grouped(which) || c->n_heads == c->n_kv_heads
               ? x
               : repeat(scope, x, c->n_heads / c->n_kv_heads);
}

/* The gate's columns of a gated MLP's input come first. */
static abl_tensor *mlp_input(abl_scope *scope, const abl_model *model, abl_tensor *weight,
                             bool gate) {
    const abl_model_config *c = abl_model_get_config(model);
    int64_t begin = c->gated && !gate ? c->d_mlp : 0;
    return c->gated ? abl_tensor_slice(scope, weight, -1, begin, begin + c->d_mlp) : weight;
}

abl_tensor *abl_parameter_tensor(abl_scope *scope, const abl_model *model,
                                 const abl_parameter *parameter) {
    const kind which = (kind)parameter->kind;
    ABL_ASSERT(parameter->kind >= 0 && parameter->kind < KIND_COUNT);
    abl_tensor *weight = weight_of(model, which, parameter->layer);
    if (weight == NULL) {
        return abl_tensor_zeros(scope, abl_model_dtype(model), parameter->rank, parameter->shape);
    }
    weight = abl_scope_borrow(scope, weight);
    if (which >= KIND_Q_W && which <= KIND_V_B_GROUPED && which != KIND_O_W) {
        return projection(scope, model, parameter);
    }
    if (which == KIND_IN_W || which == KIND_GATE_W || which == KIND_IN_B || which == KIND_GATE_B) {
        return mlp_input(scope, model, weight, which == KIND_GATE_W || which == KIND_GATE_B);
    }
    return which == KIND_O_W ? abl_tensor_view(scope, weight, 3, parameter->shape) : weight;
}
