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
 * Positions are the prompt's. Behind a prefix the tensor begins with the tail's first, so an index
 * is what is left of a position without the prefix's; nothing else here knows of prefixes.
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

const char *abl_op_name(abl_op op) {
    static const char *const NAMES[ABL_OP_COUNT] = {
#define X(name, text, overwrites) [ABL_OP_##name] = text,
        ABL_OP_MAP(X)
#undef X
    };
    return (unsigned)op < ABL_OP_COUNT ? NAMES[op] : NULL;
}

bool abl_op_captures(abl_op op) {
    return op == ABL_OP_CAPTURE || op == ABL_OP_CAPTURE_GRADIENT;
}

int32_t abl_index_at(int32_t named, int64_t first, int64_t size) {
    return (int32_t)(named < 0 ? named + size : named - first);
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
                                 .head_dim = 1,
                                 .pos_first = shape->prefix};
    }
    int64_t width = width_of(config, point);
    if (heads == 0) {
        return (abl_hook_layout){.rank = 3,
                                 .sizes = {batch, seq, width},
                                 .pos_dim = 1,
                                 .head_dim = -1,
                                 .pos_first = shape->prefix};
    }
    return (abl_hook_layout){.rank = 4,
                             .sizes = {batch, seq, heads, width},
                             .pos_dim = 1,
                             .head_dim = 2,
                             .pos_first = shape->prefix};
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

static abl_tensor *index_tensor(abl_scope *scope, abl_index_list list, int64_t first,
                                int64_t size) {
    int64_t few[64] = {0};
    int64_t *indices = few;
    if (list.count > ABL_COUNT_OF(few)) {
        indices = abl_calloc(list.count, sizeof *indices);
    }
    if (indices == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (size_t i = 0; i < list.count; i++) {
        indices[i] = abl_index_at(list.indices[i], first, size);
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
        int64_t first;
    } all[] = {{item->rows, 0, 0},
               {item->positions, layout->pos_dim, layout->pos_first},
               {item->heads, layout->head_dim, 0}};
    int count = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(all); i++) {
        if (all[i].list.count > 0) {
            levels[count++] = (level){.dim = all[i].dim,
                                      .indices = index_tensor(scope, all[i].list, all[i].first,
                                                              layout->sizes[all[i].dim])};
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
static abl_tensor *patched(abl_scope *scope, const abl_intervention *item,
                           const abl_hook_layout *layout, const level *levels, int level_count,
                           const abl_tensor *x) {
    const int64_t end = layout->pos_first + layout->sizes[layout->pos_dim];
    abl_tensor *other = abl_scope_borrow(scope, item->cached);
    if (layout->pos_first > 0 && abl_tensor_size(item->cached, layout->pos_dim) == end) {
        other = abl_tensor_slice(scope, other, layout->pos_dim, layout->pos_first, end);
    }
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
        return patched(scope, item, w->layout, w->levels, w->level_count, x);
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
        if (is_at(&list.items[i], hook) && abl_op_captures(list.items[i].op)) {
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
        if (is_at(&list.items[i - 1], hook) && abl_op_captures(list.items[i - 1].op)) {
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
