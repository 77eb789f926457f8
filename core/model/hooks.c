/* SPDX-License-Identifier: Apache-2.0
 *
 * Hook names are parsed, not looked up in a list of thousands: an optional "blocks.N." and one of
 * thirty tails. A miss is answered with the names at the smallest edit distance, because the usual
 * mistake is a name from another library or another version. */
#include "core/model/hooks.h"

#include "core/base/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct point_info {
    const char *tail;
    bool per_layer;
    const char *shape;
} point_info;

static const point_info points[ABL_HOOK_POINT_COUNT] = {
#define X(name, text, per_layer, shape) [ABL_HOOK_##name] = {text, per_layer, shape},
    ABL_HOOK_MAP(X)
#undef X
};

/* The canonical names of TransformerLens 4's bridge, as its code has them. */
static const struct {
    const char *tail;
    abl_hook_point point;
} synonyms[] = {
    {"embed.hook_out", ABL_HOOK_EMBED},      {"pos_embed.hook_out", ABL_HOOK_POS_EMBED},
    {"hook_in", ABL_HOOK_RESID_PRE},         {"ln2.hook_in", ABL_HOOK_RESID_MID},
    {"hook_out", ABL_HOOK_RESID_POST},       {"attn.hook_out", ABL_HOOK_ATTN_OUT},
    {"mlp.hook_out", ABL_HOOK_MLP_OUT},      {"attn.hook_q_input", ABL_HOOK_Q_INPUT},
    {"attn.hook_k_input", ABL_HOOK_K_INPUT}, {"attn.hook_v_input", ABL_HOOK_V_INPUT},
    {"attn.q.hook_out", ABL_HOOK_Q},         {"attn.k.hook_out", ABL_HOOK_K},
    {"attn.v.hook_out", ABL_HOOK_V},         {"attn.o.hook_in", ABL_HOOK_Z},
};

#define TAIL_BYTES_MAX 64

const char *abl_hook_shape(abl_hook_point point, bool per_head_inputs) {
    if (per_head_inputs && point == ABL_HOOK_LN1_SCALE) {
        return "batch pos n_kv_heads 1";
    }
    if (per_head_inputs && point == ABL_HOOK_LN1_NORMALIZED) {
        return "batch pos n_kv_heads d_model";
    }
    return points[point].shape;
}

static const char *write_name(abl_hook hook, const char *tail, char *text, size_t text_bytes) {
    if (points[hook.point].per_layer) {
        (void)snprintf(text, text_bytes, "blocks.%d.%s", hook.layer, tail);
    } else {
        (void)snprintf(text, text_bytes, "%s", tail);
    }
    return text;
}

const char *abl_hook_name(abl_hook hook, char *text, size_t text_bytes) {
    return write_name(hook, points[hook.point].tail, text, text_bytes);
}

const char *abl_hook_bridge_name(abl_hook hook, char *text, size_t text_bytes) {
    for (size_t i = 0; i < ABL_COUNT_OF(synonyms); i++) {
        if (synonyms[i].point == hook.point) {
            return write_name(hook, synonyms[i].tail, text, text_bytes);
        }
    }
    (void)snprintf(text, text_bytes, "%s", "");
    return text;
}

static bool is_norm(abl_hook_point point) {
    return point == ABL_HOOK_LN1_SCALE || point == ABL_HOOK_LN1_NORMALIZED ||
           point == ABL_HOOK_LN2_SCALE || point == ABL_HOOK_LN2_NORMALIZED ||
           point == ABL_HOOK_LN_FINAL_SCALE || point == ABL_HOOK_LN_FINAL_NORMALIZED;
}

static bool is_mlp(abl_hook_point point) {
    return point >= ABL_HOOK_MLP_IN && point <= ABL_HOOK_MLP_OUT;
}

const char *abl_hook_why_not(const abl_model_config *config, abl_hook_point point) {
    bool rope = config->positional == ABL_POSITIONAL_ROPE;
    if (point == ABL_HOOK_POS_EMBED && rope) {
        return "the model's positions are rotary: it has no position embedding";
    }
    if ((point == ABL_HOOK_ROT_Q || point == ABL_HOOK_ROT_K) && !rope) {
        return "the model's positions are embedded: it rotates no queries and keys";
    }
    if (is_norm(point) && config->norm == ABL_NORM_NONE) {
        return "the model has no norms";
    }
    if (config->attn_only && (is_mlp(point) || point == ABL_HOOK_RESID_MID)) {
        return "the model has attention only: its blocks have no MLP";
    }
    if (point == ABL_HOOK_MLP_PRE_LINEAR && !config->gated) {
        return "the model's MLP is not gated: it has no linear branch";
    }
    if (point == ABL_HOOK_RESID_MID && config->parallel_attn_mlp) {
        return "attention and MLP run in parallel: there is no residual stream between them";
    }
    return NULL;
}

size_t abl_hook_list(const abl_model_config *config, abl_hook *ret_hooks, size_t count_max) {
    size_t count = 0;
    for (int layer = -1; layer <= config->n_layers; layer++) {
        for (int p = 0; p < ABL_HOOK_POINT_COUNT; p++) {
            abl_hook_point point = (abl_hook_point)p;
            bool in_layer = layer >= 0 && layer < config->n_layers;
            bool before = layer < 0 && point < ABL_HOOK_RESID_PRE;
            bool after = layer == config->n_layers && point > ABL_HOOK_RESID_POST;
            bool here = points[p].per_layer ? in_layer : (before || after);
            if (!here || abl_hook_why_not(config, point) != NULL) {
                continue;
            }
            if (ret_hooks != NULL && count < count_max) {
                ret_hooks[count] = (abl_hook){.point = point, .layer = in_layer ? layer : -1};
            }
            count++;
        }
    }
    return count;
}

/* ---- Parsing ----------------------------------------------------------------------------- */

/* Splits "blocks.12.tail"; layer -1 and the whole name without that prefix. False for a number that
 * is malformed. */
static bool split_layer(const char *name, long *ret_layer, const char **ret_tail) {
    static const char prefix[] = "blocks.";
    *ret_layer = -1;
    *ret_tail = name;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) {
        return true;
    }
    const char *digits = name + sizeof prefix - 1;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 6 || digits[count] != '.' || (count > 1 && digits[0] == '0')) {
        return false;
    }
    *ret_layer = strtol(digits, NULL, 10);
    *ret_tail = digits + count + 1;
    return true;
}

static bool find_point(const char *tail, bool per_layer, abl_hook_point *ret_point) {
    for (int p = 0; p < ABL_HOOK_POINT_COUNT; p++) {
        if (points[p].per_layer == per_layer && strcmp(points[p].tail, tail) == 0) {
            *ret_point = (abl_hook_point)p;
            return true;
        }
    }
    for (size_t i = 0; i < ABL_COUNT_OF(synonyms); i++) {
        if (points[synonyms[i].point].per_layer == per_layer &&
            strcmp(synonyms[i].tail, tail) == 0) {
            *ret_point = synonyms[i].point;
            return true;
        }
    }
    return false;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Levenshtein's distance of two short texts, one row of the table at a time. */
static size_t edit_distance(const char *a, const char *b) {
    size_t row[TAIL_BYTES_MAX + 1];
    size_t b_length = strnlen(b, TAIL_BYTES_MAX);
    for (size_t j = 0; j <= b_length; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < b_length; j++) {
            size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = smaller(replaced, smaller(row[j], row[j + 1]) + 1);
        }
    }
    return row[b_length];
}

/* Writes the three nearest names, "a, b, c". */
static void nearest_names(const char *tail, long layer, char *text, size_t text_bytes) {
    bool taken[ABL_HOOK_POINT_COUNT] = {false};
    size_t used = 0;
    for (int n = 0; n < 3; n++) {
        int best = -1;
        size_t best_distance = SIZE_MAX;
        for (int p = 0; p < ABL_HOOK_POINT_COUNT; p++) {
            size_t distance = edit_distance(points[p].tail, tail);
            /* Of equals, the one at home where the caller looked. */
            distance = 2 * distance + (points[p].per_layer == (layer >= 0) ? 0 : 1);
            if (!taken[p] && distance < best_distance) {
                best = p;
                best_distance = distance;
            }
        }
        taken[best] = true;
        char name[ABL_NAME_BYTES_MAX];
        abl_hook hook = {.point = (abl_hook_point)best, .layer = layer < 0 ? 0 : (int)layer};
        int wrote = snprintf(text + used, text_bytes - used, "%s%s", n > 0 ? ", " : "",
                             abl_hook_name(hook, name, sizeof name));
        used = smaller(used + (size_t)(wrote > 0 ? wrote : 0), text_bytes - 1);
    }
}

abl_code abl_hook_parse(const abl_model_config *config, const char *name, abl_hook *ret_hook,
                        abl_status *ret_status) {
    long layer = -1;
    const char *tail = name;
    abl_hook_point point = ABL_HOOK_EMBED;
    bool split = strnlen(name, ABL_NAME_BYTES_MAX + 1) <= ABL_NAME_BYTES_MAX &&
                 split_layer(name, &layer, &tail);
    if (!split || !find_point(tail, layer >= 0, &point)) {
        char near[256];
        nearest_names(tail, layer, near, sizeof near);
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN",
                        "there is no hook '%.80s'; near it are: %s", name, near);
    }
    if (layer >= config->n_layers) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN",
                        "hook '%.80s': the model has layers 0 to %d", name, config->n_layers - 1);
    }
    const char *why_not = abl_hook_why_not(config, point);
    if (why_not != NULL) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
                        "hook '%.80s' cannot fire: %s", name, why_not);
    }
    *ret_hook = (abl_hook){.point = point, .layer = (int)layer};
    return ABL_CODE_OK;
}
