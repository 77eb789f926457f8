/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether an intervention can be done, and says what it seems to: all of it that can be told where
 * it is told, so a list is checked when it is made (no batch yet, sizes of 0) and once more by the
 * pass, which knows its batch and the prefix that it stands behind. */
#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/model/intervene.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const bool OVERWRITES[ABL_OP_COUNT] = {
#define X(name, text, overwrites) [ABL_OP_##name] = overwrites,
    ABL_OP_MAP(X)
#undef X
};

typedef struct place {
    char name[ABL_NAME_BYTES_MAX];
    const abl_intervention *item;
    const char *op;
} place;

/* Indices as bits, so that lists are compared in one walk over each; negative ones, of a size that
 * is not known, first. */
typedef struct index_set {
    uint64_t bits[2 * ABL_SEQ_MAX / 64];
} index_set;

/* False: it was there already. */
static bool set_add(index_set *set, int32_t index) {
    int32_t at = index + ABL_SEQ_MAX;
    uint64_t bit = (uint64_t)1 << (at % 64);
    bool fresh = (set->bits[at / 64] & bit) == 0;
    set->bits[at / 64] |= bit;
    return fresh;
}

/* Each index in range, and none twice. Where the size is not known yet (0), as far as can be. */
static abl_code check_list(const place *at, const char *what, const char *reason,
                           abl_index_list list, int64_t first, int64_t size, bool from_end,
                           abl_status *ret_status) {
    _Static_assert(ABL_BATCH_MAX <= ABL_SEQ_MAX && ABL_HEAD_COUNT_MAX <= ABL_SEQ_MAX, "one set");
    int64_t end = size > 0 ? first + size : ABL_SEQ_MAX;
    index_set seen = {{0}};
    for (size_t i = 0; i < list.count; i++) {
        int32_t index = list.indices[i];
        if (index < (from_end ? -end : 0) || index >= end) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                            "%s at '%s': there is no %s %d; they are 0 to %lld%s", at->op, at->name,
                            what, index, (long long)end - 1,
                            from_end ? ", or negative from the end" : "");
        }
        if (!set_add(&seen, abl_index_at(index, first, size))) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                            "%s at '%s': %s %d is named twice", at->op, at->name, what, index);
        }
    }
    return ABL_CODE_OK;
}

static abl_code check_lists(const place *at, const abl_hook_layout *layout,
                            abl_status *ret_status) {
    const abl_intervention *item = at->item;
    if (item->heads.count > 0 && layout->head_dim < 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_HEADS",
                        "%s at '%s': heads are named, and this point has no head axis", at->op,
                        at->name);
    }
    int64_t heads = layout->head_dim < 0 ? 0 : layout->sizes[layout->head_dim];
    abl_code code = check_list(at, "head", "HOOK_HEADS", item->heads, 0, heads, false, ret_status);
    if (code == ABL_CODE_OK) {
        code = check_list(at, "position", "HOOK_POSITIONS", item->positions, layout->pos_first,
                          layout->sizes[layout->pos_dim], true, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code =
            check_list(at, "row", "HOOK_ROWS", item->rows, 0, layout->sizes[0], false, ret_status);
    }
    return code;
}

/* Whether what is done there at one position can change a key or a value at it, of any layer. */
static bool reaches_keys(const abl_model_config *config, abl_hook hook) {
    if (hook.layer != config->n_layers - 1) { /* -1: the embeddings, or the final norm and on */
        return hook.layer >= 0 || hook.point < ABL_HOOK_RESID_PRE;
    }
    switch ((int)hook.point) {
    case ABL_HOOK_Q_INPUT:
    case ABL_HOOK_Q:
    case ABL_HOOK_ROT_Q:
        return false;
    default:
        return hook.point <= ABL_HOOK_ROT_K;
    }
}

int64_t abl_intervention_prefix_max(const abl_model_config *config, const abl_intervention *item,
                                    int64_t seq) {
    if (item->hook.point == ABL_HOOK_ROT_K) {
        return 0; /* the prefix's keys are there, too, and shared */
    }
    int64_t first = seq;
    for (size_t i = 0; i < item->positions.count; i++) {
        int64_t position = abl_index_at(item->positions.indices[i], 0, seq);
        first = position < first ? position : first;
    }
    if (item->positions.count == 0 && item->op == ABL_OP_PATCH && item->cached != NULL) {
        const abl_hook_layout layout =
            abl_hook_layout_of(config, item->hook.point, &(abl_pass_shape){0});
        int64_t own = abl_tensor_size(item->cached, layout.pos_dim);
        if (own < seq) {
            return seq - own; /* a tail's tensor is about a tail */
        }
    }
    bool over = item->op == ABL_OP_MEAN && item->over_positions;
    bool reaches = !abl_op_captures(item->op) && (over || reaches_keys(config, item->hook));
    return item->positions.count == 0 && reaches ? 0 : first;
}

/* Whether it does behind a prefix what it does in whole prompts. */
static abl_code check_prefix(const abl_model_config *config, const place *at,
                             const abl_hook_layout *layout, abl_status *ret_status) {
    const abl_intervention *item = at->item;
    const int64_t first = layout->pos_first;
    if (first == 0) {
        return ABL_CODE_OK;
    }
    const int64_t most =
        abl_intervention_prefix_max(config, item, first + layout->sizes[layout->pos_dim]);
    if (first <= most) {
        return ABL_CODE_OK;
    }
    if (item->hook.point == ABL_HOOK_ROT_K) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
                        "'%s' cannot fire: behind a prefix its keys are the prefix's, too, which "
                        "are shared; intervene at attn.hook_k, or run without the KV cache",
                        at->name);
    }
    char what[64] = "it names no positions, so it is about all";
    if (item->positions.count > 0) {
        (void)snprintf(what, sizeof what, "it names position %lld", (long long)most);
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_IN_PREFIX",
                    "%s at '%s': %s, and the keys and values of the shared prefix, positions 0 to "
                    "%lld, were computed without it; name later positions, or run without the KV "
                    "cache (kv_cache_id, kv_cache_ids, tail_divergence)",
                    at->op, at->name, what, (long long)first - 1);
}

/* "[2, 18, 64]" */
static void shape_text(const int64_t *shape, int rank, char *text, size_t text_bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < rank && used + 24 < text_bytes; i++) {
        used += (size_t)snprintf(text + used, text_bytes - used, "%s%lld", i == 0 ? "[" : ", ",
                                 (long long)shape[i]);
    }
    (void)snprintf(text + used, text_bytes - used, "%s", rank == 0 ? "[]" : "]");
}

/* The shape of what is selected. */
static void selected_shape(const abl_intervention *item, const abl_hook_layout *layout,
                           int64_t *ret_shape) {
    memcpy(ret_shape, layout->sizes, sizeof layout->sizes);
    ret_shape[0] = item->rows.count > 0 ? (int64_t)item->rows.count : ret_shape[0];
    if (item->positions.count > 0) {
        ret_shape[layout->pos_dim] = (int64_t)item->positions.count;
    }
    if (item->heads.count > 0) {
        ret_shape[layout->head_dim] = (int64_t)item->heads.count;
    }
}

/* Sizes of 0 are not known yet, and fit. */
static abl_code check_value_shape(const place *at, const abl_hook_layout *layout,
                                  abl_status *ret_status) {
    const abl_intervention *item = at->item;
    int64_t want[4];
    selected_shape(item, layout, want);
    bool fits = item->value_rank <= layout->rank;
    for (int i = 1; fits && i <= item->value_rank; i++) {
        int64_t size = item->value_shape[item->value_rank - i];
        int64_t there = want[layout->rank - i];
        fits = size == 1 || there == 0 || size == there;
    }
    if (!fits) {
        char have_text[128];
        char want_text[128];
        shape_text(item->value_shape, item->value_rank, have_text, sizeof have_text);
        shape_text(want, layout->rank, want_text, sizeof want_text);
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_VALUE_SHAPE",
                        "%s at '%s': a value of shape %s does not broadcast to what is selected, "
                        "%s%s",
                        at->op, at->name, have_text, want_text,
                        layout->sizes[0] == 0 ? " (0: as the prompts)" : "");
    }
    return ABL_CODE_OK;
}

static abl_code check_cached(const place *at, const abl_hook_layout *layout,
                             abl_status *ret_status) {
    const abl_tensor *cached = at->item->cached;
    bool same = abl_tensor_rank(cached) == layout->rank;
    for (int i = 0; same && i < layout->rank; i++) {
        int64_t size = abl_tensor_size(cached, i);
        same = layout->sizes[i] == 0 || size == layout->sizes[i] || (i == 0 && size == 1) ||
               (i == layout->pos_dim && size == layout->pos_first + layout->sizes[i]);
    }
    if (!same) {
        int64_t shape[ABL_DIMENSION_COUNT_MAX];
        char have_text[128];
        char want_text[128];
        for (int i = 0; i < abl_tensor_rank(cached); i++) {
            shape[i] = abl_tensor_size(cached, i);
        }
        shape_text(shape, abl_tensor_rank(cached), have_text, sizeof have_text);
        shape_text(layout->sizes, layout->rank, want_text, sizeof want_text);
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_VALUE_SHAPE",
                        "patch at '%s': the cached run's tensor is %s, this pass's %s; they must "
                        "be equal (or the cached batch 1)",
                        at->name, have_text, want_text);
    }
    return ABL_CODE_OK;
}

static abl_code value_fail(const place *at, const char *what, abl_status *ret_status) {
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_VALUE", "%s at '%s': %s", at->op,
                    at->name, what);
}

static int64_t value_count(const abl_intervention *item) {
    int64_t count = 1;
    for (int i = 0; i < item->value_rank; i++) {
        count *= item->value_shape[i];
    }
    return count;
}

static abl_code check_values(const place *at, abl_status *ret_status) {
    const abl_intervention *item = at->item;
    int64_t count = value_count(item);
    if (item->values == NULL || count == 0) {
        return value_fail(at, "its value is missing", ret_status);
    }
    int64_t width = item->value_rank == 0 ? 1 : item->value_shape[item->value_rank - 1];
    double length = 0;
    for (int64_t i = 0; i < count; i++) {
        double value = (double)item->values[i];
        if (!isfinite(value)) {
            return value_fail(at, "its value has an element that is not finite", ret_status);
        }
        length += value * value;
        if (item->op == ABL_OP_PROJECT_OUT && (i + 1) % width == 0) {
            if (length == 0) {
                return value_fail(at, "a direction of length 0 says nothing", ret_status);
            }
            length = 0;
        }
    }
    return ABL_CODE_OK;
}

static abl_code check_operation(const place *at, abl_status *ret_status) {
    const abl_intervention *item = at->item;
    bool scores = item->hook.point == ABL_HOOK_ATTN_SCORES;
    bool infinite =
        (item->op == ABL_OP_SCALE && item->factor <= 0) || item->op == ABL_OP_PROJECT_OUT;
    if (scores && infinite) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
                        "%s at '%s' has no meaning: masked scores are minus infinity; use "
                        "attn.hook_pattern",
                        at->op, at->name);
    }
    switch (item->op) {
    case ABL_OP_ZERO:
    case ABL_OP_CAPTURE:
    case ABL_OP_CAPTURE_GRADIENT:
        return ABL_CODE_OK;
    case ABL_OP_MEAN:
        return item->over_rows || item->over_positions
                   ? ABL_CODE_OK
                   : value_fail(at, "say over what: rows, positions, or both", ret_status);
    case ABL_OP_PATCH:
        return item->cached != NULL ? ABL_CODE_OK
                                    : value_fail(at, "there is no cached run", ret_status);
    case ABL_OP_SCALE:
        return isfinite(item->factor) ? ABL_CODE_OK
                                      : value_fail(at, "the factor is not finite", ret_status);
    case ABL_OP_CLAMP:
        return !isnan(item->low) && !isnan(item->high) && item->low <= item->high
                   ? ABL_CODE_OK
                   : value_fail(at, "its low end must not be above its high end, nor NaN",
                                ret_status);
    case ABL_OP_ADD:
        if (!isfinite(item->factor)) {
            return value_fail(at, "the factor is not finite", ret_status);
        }
        return check_values(at, ret_status);
    case ABL_OP_SET:
    case ABL_OP_PROJECT_OUT:
        return check_values(at, ret_status);
    case ABL_OP_COUNT:
    default:
        return value_fail(at, "there is no such operation", ret_status);
    }
}

abl_code abl_intervention_check(const abl_model_config *config, const abl_intervention *item,
                                const abl_pass_shape *shape, abl_status *ret_status) {
    place at = {.item = item, .op = abl_op_name(item->op)};
    (void)abl_hook_name(item->hook, at.name, sizeof at.name);
    abl_hook_layout layout = abl_hook_layout_of(config, item->hook.point, shape);
    abl_code code = check_operation(&at, ret_status);
    if (code == ABL_CODE_OK) {
        code = check_lists(&at, &layout, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = check_prefix(config, &at, &layout, ret_status);
    }
    if (code == ABL_CODE_OK && item->values != NULL) {
        code = check_value_shape(&at, &layout, ret_status);
    }
    if (code == ABL_CODE_OK && item->cached != NULL) {
        code = check_cached(&at, &layout, ret_status);
    }
    return code;
}

/* Whether they name a common index; one from the end and one from the start are told apart only
 * where the size is known. */
static bool lists_meet(abl_index_list a, abl_index_list b, int64_t first, int64_t size) {
    if (a.count == 0 || b.count == 0) {
        return true;
    }
    index_set seen = {{0}};
    for (size_t i = 0; i < a.count; i++) {
        (void)set_add(&seen, abl_index_at(a.indices[i], first, size));
    }
    for (size_t i = 0; i < b.count; i++) {
        if (!set_add(&seen, abl_index_at(b.indices[i], first, size))) {
            return true;
        }
    }
    return false;
}

static bool contradict(const abl_intervention *a, const abl_intervention *b,
                       const abl_hook_layout *layout) {
    return OVERWRITES[a->op] && OVERWRITES[b->op] && a->hook.point == b->hook.point &&
           a->hook.layer == b->hook.layer && lists_meet(a->rows, b->rows, 0, 0) &&
           lists_meet(a->positions, b->positions, layout->pos_first,
                      layout->sizes[layout->pos_dim]) &&
           lists_meet(a->heads, b->heads, 0, 0);
}

abl_code abl_interventions_check(const abl_model_config *config, abl_interventions list,
                                 const abl_pass_shape *shape, abl_status *ret_status) {
    for (size_t i = 0; i < list.count; i++) {
        const abl_intervention *item = &list.items[i];
        abl_status inner = {0};
        abl_code code = abl_intervention_check(config, item, shape, &inner);
        if (code != ABL_CODE_OK) {
            return abl_fail(ret_status, code, inner.reason, "hooks[%zu]: %.400s", i, inner.message);
        }
        abl_hook_layout layout = abl_hook_layout_of(config, item->hook.point, shape);
        for (size_t j = 0; j < i; j++) {
            if (contradict(&list.items[j], item, &layout)) {
                char name[ABL_NAME_BYTES_MAX];
                return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOKS_OVERLAP",
                                "hooks[%zu] (%s) and hooks[%zu] (%s) both overwrite the same "
                                "elements of '%s': the first would do nothing",
                                j, abl_op_name(list.items[j].op), i, abl_op_name(item->op),
                                abl_hook_name(item->hook, name, sizeof name));
            }
        }
    }
    return ABL_CODE_OK;
}
