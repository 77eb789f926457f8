/* intervene.h -- what is done to a tensor at a hook point: declarative, never code.
 *
 * An intervention names a hook point, what of the tensor there it is about (heads, positions, rows
 * of the batch; all of them where none is named), and an operation. Those at one point apply in the
 * order of the list; what a capture there sees, and all that is computed from the tensor, is the
 * result. The same list has a derivative, so gradients pass through it.
 *
 * OWNERSHIP  Values only; tensors and arrays that they point to are borrowed.
 * THREADS    On the executor of the model's device; the checks are pure functions.
 * ERRORS     Checks return a code and fill *ret_status; tensor calls are sticky in the scope.
 */
#ifndef ABLATE_CORE_MODEL_INTERVENE_H
#define ABLATE_CORE_MODEL_INTERVENE_H

#include "core/model/hooks.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

/* X(enum suffix, name, does it overwrite whatever was there?) */
#define ABL_OP_MAP(X)                                                                              \
    X(ZERO, "zero", true)                                                                          \
    X(MEAN, "mean", false)                                                                         \
    X(SET, "set", true)                                                                            \
    X(PATCH, "patch", true)                                                                        \
    X(ADD, "add", false)                                                                           \
    X(SCALE, "scale", false)                                                                       \
    X(CLAMP, "clamp", false)                                                                       \
    X(PROJECT_OUT, "project_out", false)                                                           \
    X(CAPTURE, "capture", false)                                                                   \
    X(CAPTURE_GRADIENT, "capture_gradient", false)

typedef enum abl_op {
#define X(name, text, overwrites) ABL_OP_##name,
    ABL_OP_MAP(X)
#undef X
        ABL_OP_COUNT
} abl_op;

/* Indices of one dimension; count 0: all of it. */
typedef struct abl_index_list {
    const int32_t *indices;
    size_t count;
} abl_index_list;

typedef struct abl_intervention {
    abl_hook hook;
    abl_op op;
    abl_index_list heads;
    /* Of the whole prompt, also where a pass stands behind a prefix of it; negative: from the end.
     * Query positions of scores and patterns. */
    abl_index_list positions;
    abl_index_list rows; /* of the batch */

    /* SET, ADD: broadcast, from the right, to what is selected. PROJECT_OUT: directions, likewise;
     * they need not have length 1. */
    const float *values;
    const int64_t *value_shape;
    int value_rank;
    /* PATCH: the tensor of another run at this point, whole; what is selected of it is taken. A
     * batch of 1 serves every row. Behind a prefix it may be of the tail or of the whole prompt. */
    abl_tensor *cached;
    double factor;       /* SCALE; of the value, ADD */
    double low;          /* CLAMP */
    double high;         /* CLAMP */
    bool over_rows;      /* MEAN: of what is selected, over its rows, */
    bool over_positions; /* over its positions, or over both */
    /* CAPTURE, CAPTURE_GRADIENT, which change nothing: where what is selected goes, as it is at
     * this place of the list. What was there is released. NULL: nowhere. */
    abl_tensor **kept;
} abl_intervention;

typedef struct abl_interventions {
    const abl_intervention *items;
    size_t count;
} abl_interventions;

/* "zero", ...; NULL for none. */
const char *abl_op_name(abl_op op);
bool abl_op_captures(abl_op op);
/* What a list names, as an index into `size` of them that begin at `first`; below 0: in front. */
int32_t abl_index_at(int32_t named, int64_t first, int64_t size);

/* How a point's tensor is laid out in one pass. */
typedef struct abl_hook_layout {
    int rank;
    int64_t sizes[4]; /* sizes[0]: the batch */
    int pos_dim;
    int head_dim;      /* -1: it has no heads */
    int64_t pos_first; /* the prompt's position at index 0: what a prefix has in front */
} abl_hook_layout;

typedef struct abl_pass_shape {
    int64_t batch; /* 0: not known yet, and then seq is 0, too */
    int64_t seq;
    int64_t prefix;       /* keys in front of the pass's own, of a prefix */
    int64_t kv_heads;     /* of the pass: a patched one may give each query head its own */
    bool per_head_inputs; /* ln1's points have a head axis */
} abl_pass_shape;

abl_hook_layout abl_hook_layout_of(const abl_model_config *config, abl_hook_point point,
                                   const abl_pass_shape *shape);

/* The longest prefix of prompts of `seq` positions behind which it does what it does in whole ones:
 * 0 none, seq any. */
int64_t abl_intervention_prefix_max(const abl_model_config *config, const abl_intervention *item,
                                    int64_t seq);

/* What can be told of one without a pass, and, where shape->batch is known, all of it. Behind a
 * prefix it must do there what it does in whole prompts. The prefix's keys and values were computed
 * without it, so what it is about are positions of the tail, or it stands where no key or value can
 * come to know of it (behind those of the last layer), or it is a capture, which changes nothing.
 *   INVALID_ARGUMENT     HOOK_HEADS        a head that is not there, or is named twice
 *   INVALID_ARGUMENT     HOOK_POSITIONS    likewise
 *   INVALID_ARGUMENT     HOOK_ROWS         likewise
 *   INVALID_ARGUMENT     HOOK_VALUE_SHAPE  does not broadcast to what is selected
 *   INVALID_ARGUMENT     HOOK_VALUE        not finite, a direction of length 0, low above high
 *   INVALID_ARGUMENT     HOOK_IN_PREFIX    is about positions of the prefix, by name or as all are
 *   FAILED_PRECONDITION  HOOK_CANNOT_FIRE  the operation has no meaning at this point */
ABL_MUST_CHECK abl_code abl_intervention_check(const abl_model_config *config,
                                               const abl_intervention *item,
                                               const abl_pass_shape *shape, abl_status *ret_status);
/* Each of them, and that no two overwrite the same elements.
 *   INVALID_ARGUMENT  HOOKS_OVERLAP  names the two
 * and those of abl_intervention_check(); a message begins with which one it was, "hooks[2]: ". */
ABL_MUST_CHECK abl_code abl_interventions_check(const abl_model_config *config,
                                                abl_interventions list, const abl_pass_shape *shape,
                                                abl_status *ret_status);

bool abl_interventions_touch(abl_interventions list, abl_hook_point point, int layer);
/* Whether what is done to a row depends on which row of which batch it is. */
bool abl_interventions_by_row(abl_interventions list);

/* `x` after what is to be done at that point; x itself where that is nothing. x is not written.
 * `saved` has list.count slots: what the derivative will want, borrowed from the scope. */
abl_tensor *abl_interventions_apply(abl_scope *scope, abl_interventions list, abl_hook hook,
                                    const abl_hook_layout *layout, abl_tensor *x,
                                    abl_tensor **saved);
/* The gradient at the point's result to the gradient at what it was made from. */
abl_tensor *abl_interventions_backward(abl_scope *scope, abl_interventions list, abl_hook hook,
                                       const abl_hook_layout *layout, abl_tensor *grad,
                                       abl_tensor *const *saved);

ABL_END_DECLS
#endif
