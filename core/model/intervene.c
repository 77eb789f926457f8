/* SPDX-License-Identifier: Apache-2.0
 *
 * An operation sees what is selected as one dense tensor. Selecting takes the named indices of one
 * dimension after the other (each a copy), and writing back goes the same way outwards:
 *
 *     x (b, p, h, d) --clone--> base0 --rows--> base1 --positions--> base2 --heads--> part
 *                               base0 <--------- base1 <------------- base2 <-------- op(part)
 *
 * so any combination of lists costs three copies at most and no operation knows of lists. Where
 * nothing is named the operation sees x itself. No operation writes to what it is given: x may be
 * the residual stream, or a weight's view.
 *
 * Derivatives: what is overwritten has none; a mean's is the mean of the gradient over the same
 * dimensions; a clamp lets the gradient through where it did nothing; projecting out is its own
 * transpose. */
#include "core/model/intervene.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    bool overwrites;
} ops[ABL_OP_COUNT] = {
#define X(name, text, overwrites) [ABL_OP_##name] = {text, overwrites},
    ABL_OP_MAP(X)
#undef X
};

const char *abl_op_name(abl_op op) {
    return (unsigned)op < ABL_OP_COUNT ? ops[op].name : NULL;
}

/* ---- Layouts ----------------------------------------------------------------------------- */

/* Heads of a point's tensor; 0: it has no head axis. */
static int64_t heads_of(const abl_model_config *c, abl_hook_point point,
                        const abl_pass_shape *shape) {
    switch ((int)point) {
    case ABL_HOOK_ATTN_IN:
    case ABL_HOOK_Q_INPUT:
    case ABL_HOOK_Q:
    case ABL_HOOK_ROT_Q:
    case ABL_HOOK_ATTN_SCORES:
    case ABL_HOOK_PATTERN:
    case ABL_HOOK_Z:
    case ABL_HOOK_RESULT:
        return c->n_heads;
    case ABL_HOOK_K_INPUT:
    case ABL_HOOK_V_INPUT:
    case ABL_HOOK_K:
    case ABL_HOOK_V:
    case ABL_HOOK_ROT_K:
        return shape->kv_heads;
    case ABL_HOOK_LN1_SCALE:
    case ABL_HOOK_LN1_NORMALIZED:
        return shape->per_head_inputs ? shape->kv_heads : 0;
    default:
        return 0;
    }
}

static int64_t width_of(const abl_model_config *c, abl_hook_point point) {
    switch ((int)point) {
    case ABL_HOOK_LN1_SCALE:
    case ABL_HOOK_LN2_SCALE:
    case ABL_HOOK_LN_FINAL_SCALE:
        return 1;
    case ABL_HOOK_Q:
    case ABL_HOOK_K:
    case ABL_HOOK_V:
    case ABL_HOOK_ROT_Q:
    case ABL_HOOK_ROT_K:
    case ABL_HOOK_Z:
        return c->d_head;
    case ABL_HOOK_MLP_PRE:
    case ABL_HOOK_MLP_PRE_LINEAR:
    case ABL_HOOK_MLP_POST:
        return c->d_mlp;
    case ABL_HOOK_UNEMBED:
        return c->d_vocab_out;
    default:
        return c->d_model;
    }
}

abl_hook_layout abl_hook_layout_of(const abl_model_config *config, abl_hook_point point,
                                   const abl_pass_shape *shape) {
    int64_t heads = heads_of(config, point, shape);
    int64_t batch = shape->batch;
    int64_t seq = shape->seq;
    if (point == ABL_HOOK_ATTN_SCORES || point == ABL_HOOK_PATTERN) {
        return (abl_hook_layout){.rank = 4,
                                 .sizes = {batch, heads, seq, seq == 0 ? 0 : shape->prefix + seq},
                                 .pos_dim = 2,
                                 .head_dim = 1};
    }
    int64_t width = width_of(config, point);
    if (heads == 0) {
        return (abl_hook_layout){
            .rank = 3, .sizes = {batch, seq, width}, .pos_dim = 1, .head_dim = -1};
    }
    return (abl_hook_layout){
        .rank = 4, .sizes = {batch, seq, heads, width}, .pos_dim = 1, .head_dim = 2};
}

/* ---- Checks ------------------------------------------------------------------------------ */

typedef struct place {
    char name[ABL_NAME_BYTES_MAX];
    const abl_intervention *item;
    const char *op;
} place;

static int32_t resolved(int32_t index, int64_t size) {
    return index < 0 ? (int32_t)(index + size) : index;
}

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
                           abl_index_list list, int64_t size, bool from_end,
                           abl_status *ret_status) {
    _Static_assert(ABL_BATCH_MAX <= ABL_SEQ_MAX && ABL_HEAD_COUNT_MAX <= ABL_SEQ_MAX, "one set");
    int64_t end = size > 0 ? size : ABL_SEQ_MAX;
    index_set seen = {{0}};
    for (size_t i = 0; i < list.count; i++) {
        int32_t index = list.indices[i];
        if (index < (from_end ? -end : 0) || index >= end) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                            "%s at '%s': there is no %s %d; they are 0 to %lld%s", at->op, at->name,
                            what, index, (long long)end - 1,
                            from_end ? ", or negative from the end" : "");
        }
        if (!set_add(&seen, resolved(index, size))) {
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
    abl_code code = check_list(at, "head", "HOOK_HEADS", item->heads, heads, false, ret_status);
    if (code == ABL_CODE_OK) {
        code = check_list(at, "position", "HOOK_POSITIONS", item->positions,
                          layout->sizes[layout->pos_dim], true, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = check_list(at, "row", "HOOK_ROWS", item->rows, layout->sizes[0], false, ret_status);
    }
    return code;
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
        same = layout->sizes[i] == 0 || size == layout->sizes[i] || (i == 0 && size == 1);
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
static bool lists_meet(abl_index_list a, abl_index_list b, int64_t size) {
    if (a.count == 0 || b.count == 0) {
        return true;
    }
    index_set seen = {{0}};
    for (size_t i = 0; i < a.count; i++) {
        (void)set_add(&seen, resolved(a.indices[i], size));
    }
    for (size_t i = 0; i < b.count; i++) {
        if (!set_add(&seen, resolved(b.indices[i], size))) {
            return true;
        }
    }
    return false;
}

static bool contradict(const abl_intervention *a, const abl_intervention *b,
                       const abl_hook_layout *layout) {
    return ops[a->op].overwrites && ops[b->op].overwrites && a->hook.point == b->hook.point &&
           a->hook.layer == b->hook.layer && lists_meet(a->rows, b->rows, 0) &&
           lists_meet(a->positions, b->positions, layout->sizes[layout->pos_dim]) &&
           lists_meet(a->heads, b->heads, 0);
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

/* ---- Selecting --------------------------------------------------------------------------- */

bool abl_interventions_touch(abl_interventions list, abl_hook_point point, int layer) {
    for (size_t i = 0; i < list.count; i++) {
        if (list.items[i].hook.point == point && list.items[i].hook.layer == layer) {
            return true;
        }
    }
    return false;
}

bool abl_interventions_by_row(abl_interventions list) {
    for (size_t i = 0; i < list.count; i++) {
        const abl_intervention *item = &list.items[i];
        bool value = item->values != NULL && item->value_rank >= 3 && item->value_shape[0] != 1;
        bool cached = item->cached != NULL && abl_tensor_size(item->cached, 0) != 1;
        if (item->rows.count > 0 || item->over_rows || value || cached) {
            return true;
        }
    }
    return false;
}

static abl_tensor *index_tensor(abl_scope *scope, abl_index_list list, int64_t size) {
    int64_t few[64] = {0};
    int64_t *indices = few;
    if (list.count > ABL_COUNT_OF(few)) {
        indices = abl_calloc(list.count, sizeof *indices);
    }
    if (indices == NULL) {
        abl_status status;
        (void)abl_fail_oom(&status);
        abl_scope_fail(scope, &status);
        return NULL;
    }
    for (size_t i = 0; i < list.count; i++) {
        indices[i] = resolved(list.indices[i], size);
    }
    abl_tensor *tensor = abl_tensor_from_host(scope, ABL_DTYPE_I64, 1,
                                              (const int64_t[]){(int64_t)list.count}, indices);
    if (indices != few) {
        abl_free(indices);
    }
    return tensor;
}

typedef struct level {
    int dim;
    abl_tensor *indices;
    abl_tensor *base;
} level;

/* Fills `levels` (3) for the lists that there are. */
static int levels_of(abl_scope *scope, const abl_intervention *item, const abl_hook_layout *layout,
                     level *levels) {
    const struct {
        abl_index_list list;
        int dim;
    } all[] = {
        {item->rows, 0}, {item->positions, layout->pos_dim}, {item->heads, layout->head_dim}};
    int count = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(all); i++) {
        if (all[i].list.count > 0) {
            levels[count++] =
                (level){.dim = all[i].dim,
                        .indices = index_tensor(scope, all[i].list, layout->sizes[all[i].dim])};
        }
    }
    return count;
}

/* ---- Operations: what is selected to what takes its place ---------------------------------- */

static abl_tensor *zeros_like(abl_scope *scope, const abl_tensor *x) {
    int64_t shape[ABL_DIMENSION_COUNT_MAX];
    for (int i = 0; i < abl_tensor_rank(x); i++) {
        shape[i] = abl_tensor_size(x, i);
    }
    return abl_tensor_zeros(scope, abl_tensor_dtype(x), abl_tensor_rank(x), shape);
}

static abl_tensor *value_of(abl_scope *scope, const abl_intervention *item, abl_dtype dtype) {
    abl_tensor *value = abl_tensor_from_host(scope, ABL_DTYPE_F32, item->value_rank,
                                             item->value_shape, item->values);
    return abl_tensor_to_dtype(scope, value, dtype);
}

static abl_tensor *filled(abl_scope *scope, const abl_tensor *x, const abl_tensor *value) {
    abl_tensor *out = zeros_like(scope, x);
    abl_tensor_copy_into(scope, out, value);
    return out;
}

static abl_tensor *mean_of(abl_scope *scope, const abl_intervention *item,
                           const abl_hook_layout *layout, const abl_tensor *x) {
    int64_t dims[2];
    size_t count = 0;
    if (item->over_rows) {
        dims[count++] = 0;
    }
    if (item->over_positions) {
        dims[count++] = layout->pos_dim;
    }
    return filled(scope, x, abl_tensor_mean(scope, x, dims, count, true));
}

/* x - d <x, d> / <d, d>, which is its own transpose. */
static abl_tensor *projected(abl_scope *scope, const abl_intervention *item, const abl_tensor *x) {
    abl_tensor *d = value_of(scope, item, abl_tensor_dtype(x));
    const int64_t last[] = {-1};
    abl_tensor *along = abl_tensor_sum(scope, abl_tensor_mul(scope, x, d), last, 1, true);
    abl_tensor *square = abl_tensor_sum(scope, abl_tensor_mul(scope, d, d), last, 1, true);
    return abl_tensor_sub(scope, x, abl_tensor_mul(scope, d, abl_tensor_div(scope, along, square)));
}

/* The same selection of another run's tensor. */
static abl_tensor *patched(abl_scope *scope, const abl_intervention *item, const level *levels,
                           int level_count, const abl_tensor *x) {
    abl_tensor *other = abl_scope_borrow(scope, item->cached);
    for (int i = 0; i < level_count; i++) {
        if (levels[i].dim != 0 || abl_tensor_size(other, 0) != 1) {
            other = abl_tensor_index_select(scope, other, levels[i].dim, levels[i].indices);
        }
    }
    return filled(scope, x, other);
}

typedef struct work {
    const abl_intervention *item;
    const abl_hook_layout *layout;
    const level *levels;
    int level_count;
    abl_tensor **saved; /* of this intervention */
} work;

static abl_tensor *forward_one(abl_scope *scope, const work *w, abl_tensor *x) {
    const abl_intervention *item = w->item;
    switch (item->op) {
    case ABL_OP_ZERO:
        return zeros_like(scope, x);
    case ABL_OP_MEAN:
        return mean_of(scope, item, w->layout, x);
    case ABL_OP_SET:
        return filled(scope, x, value_of(scope, item, abl_tensor_dtype(x)));
    case ABL_OP_PATCH:
        return patched(scope, item, w->levels, w->level_count, x);
    case ABL_OP_ADD:
        return abl_tensor_add(
            scope, x,
            abl_tensor_scale(scope, value_of(scope, item, abl_tensor_dtype(x)), item->factor));
    case ABL_OP_SCALE:
        return abl_tensor_scale(scope, x, item->factor);
    case ABL_OP_CLAMP:
        *w->saved = x;
        return abl_tensor_clamp(scope, x, item->low, item->high);
    case ABL_OP_PROJECT_OUT:
        return projected(scope, item, x);
    case ABL_OP_CAPTURE:
    case ABL_OP_CAPTURE_GRADIENT:
    case ABL_OP_COUNT:
        break;
    }
    return x;
}

static abl_tensor *backward_one(abl_scope *scope, const work *w, abl_tensor *grad) {
    const abl_intervention *item = w->item;
    switch (item->op) {
    case ABL_OP_ZERO:
    case ABL_OP_SET:
    case ABL_OP_PATCH:
        return zeros_like(scope, grad);
    case ABL_OP_MEAN:
        return mean_of(scope, item, w->layout, grad);
    case ABL_OP_SCALE:
        return abl_tensor_scale(scope, grad, item->factor);
    case ABL_OP_CLAMP: {
        abl_tensor *kept = abl_tensor_clamp(scope, *w->saved, item->low, item->high);
        abl_tensor *same = abl_tensor_equal(scope, kept, *w->saved);
        return abl_tensor_mul(scope, grad,
                              abl_tensor_to_dtype(scope, same, abl_tensor_dtype(grad)));
    }
    case ABL_OP_PROJECT_OUT:
        return projected(scope, item, grad);
    case ABL_OP_ADD:
    case ABL_OP_CAPTURE:
    case ABL_OP_CAPTURE_GRADIENT:
    case ABL_OP_COUNT:
        break;
    }
    return grad;
}

typedef abl_tensor *(*one_fn)(abl_scope *scope, const work *w, abl_tensor *x);

static abl_tensor *through(abl_scope *scope, const abl_intervention *item,
                           const abl_hook_layout *layout, abl_tensor *x, abl_tensor **saved,
                           one_fn operate) {
    level levels[3] = {{0}};
    int count = levels_of(scope, item, layout, levels);
    abl_tensor *part = x;
    for (int i = 0; i < count; i++) {
        levels[i].base = i == 0 ? abl_tensor_clone(scope, x) : part;
        part = abl_tensor_index_select(scope, levels[i].base, levels[i].dim, levels[i].indices);
    }
    if (part == NULL) {
        return NULL; /* the scope says why */
    }
    const work w = {
        .item = item, .layout = layout, .levels = levels, .level_count = count, .saved = saved};
    part = operate(scope, &w, part);
    for (int i = count - 1; i >= 0; i--) {
        abl_tensor_index_copy_(scope, levels[i].base, levels[i].dim, levels[i].indices, part);
        part = levels[i].base;
    }
    return part;
}

static bool is_capture(const abl_intervention *item) {
    return item->op == ABL_OP_CAPTURE || item->op == ABL_OP_CAPTURE_GRADIENT;
}

/* What is selected of x to where a capture wants it; of all of x no copy. */
static void capture(abl_scope *scope, const abl_intervention *item, const abl_hook_layout *layout,
                    abl_tensor *x) {
    level levels[3] = {{0}};
    int count = item->kept == NULL ? 0 : levels_of(scope, item, layout, levels);
    for (int i = 0; i < count; i++) {
        x = abl_tensor_index_select(scope, x, levels[i].dim, levels[i].indices);
    }
    if (item->kept != NULL && x != NULL) {
        abl_tensor_release(*item->kept);
        *item->kept = abl_tensor_keep(x);
    }
}

static bool is_at(const abl_intervention *item, abl_hook hook) {
    return item->hook.point == hook.point && item->hook.layer == hook.layer;
}

abl_tensor *abl_interventions_apply(abl_scope *scope, abl_interventions list, abl_hook hook,
                                    const abl_hook_layout *layout, abl_tensor *x,
                                    abl_tensor **saved) {
    for (size_t i = 0; i < list.count && x != NULL; i++) {
        if (is_at(&list.items[i], hook) && is_capture(&list.items[i])) {
            if (list.items[i].op == ABL_OP_CAPTURE) {
                capture(scope, &list.items[i], layout, x);
            }
        } else if (is_at(&list.items[i], hook)) {
            x = through(scope, &list.items[i], layout, x, &saved[i], forward_one);
        }
    }
    return x;
}

abl_tensor *abl_interventions_backward(abl_scope *scope, abl_interventions list, abl_hook hook,
                                       const abl_hook_layout *layout, abl_tensor *grad,
                                       abl_tensor *const *saved) {
    for (size_t i = list.count; i > 0 && grad != NULL; i--) {
        if (is_at(&list.items[i - 1], hook) && is_capture(&list.items[i - 1])) {
            if (list.items[i - 1].op == ABL_OP_CAPTURE_GRADIENT) {
                capture(scope, &list.items[i - 1], layout, grad);
            }
        } else if (is_at(&list.items[i - 1], hook)) {
            abl_tensor *kept = saved[i - 1];
            grad = through(scope, &list.items[i - 1], layout, grad, &kept, backward_one);
        }
    }
    return grad;
}
