/* parameters.h -- a resident model's weights by TransformerLens's names and in its shapes.
 *
 * OWNERSHIP  Values only; tensors are borrowed from the scope (views of the weights where strides
 *            allow it).
 * THREADS    Names and shapes: any thread. Tensors: on the executor of the model's device.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone; tensors
 *            are sticky in the scope.
 *
 * Weights are those that the model computes with, after processing. Names are those of a
 * HookedTransformer's state_dict; biases that it keeps although the model has none are there, as
 * zeros. With grouped queries, attn._W_K, ._W_V, ._b_K and ._b_V have a key-value head a group, and
 * attn.W_K, .W_V, .b_K and .b_V, found but not listed, repeat each for its queries' heads.
 */
#ifndef ABLATE_CORE_MODEL_PARAMETERS_H
#define ABLATE_CORE_MODEL_PARAMETERS_H

#include "core/base/status.h"
#include "core/model/model.h"

ABL_BEGIN_DECLS

#define ABL_PARAMETER_NAME_BYTES 48

typedef struct abl_parameter {
    char name[ABL_PARAMETER_NAME_BYTES]; /* "blocks.3.attn.W_Q" */
    int layer;                           /* -1: outside the layers */
    int kind;                            /* parameters.c's own */
    int rank;                            /* 1 to 3 */
    int64_t shape[3];
    bool zeros; /* the model has none: TransformerLens keeps zeros there */
} abl_parameter;

/* In state_dict's order: writes up to `count_max` to ret_parameters (NULL to count only) and
 * returns how many there are. */
size_t abl_parameter_list(const abl_model *model, abl_parameter *ret_parameters, size_t count_max);

/*   NOT_FOUND  PARAMETER_UNKNOWN  the message says what this model has in that place */
ABL_MUST_CHECK abl_code abl_parameter_find(const abl_model *model, const char *name,
                                           abl_parameter *ret_parameter, abl_status *ret_status);

/* In the model's dtype, of the parameter's shape. */
abl_tensor *abl_parameter_tensor(abl_scope *scope, const abl_model *model,
                                 const abl_parameter *parameter);

ABL_END_DECLS
#endif
