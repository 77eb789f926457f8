/* mix.h -- products of a mask with stacks of activations, whatever shape the mask has; internal to
 * core/.
 *
 * A stack is (n, batch, seq, width), one activation a slot. A mask over it has planes: one for the
 * whole pass, one a batch row, one a position, or one a row and position, (mask_batch, positions)
 * of them, each a matrix (rows, n). Every product is one call of a batched GEMM where the planes
 * are whole rows, and one a batch row where they are positions.
 *
 * OWNERSHIP  Tensors are borrowed.
 * THREADS    The device's executor thread only.
 * ERRORS     Sticky in the scope.
 */
#ifndef ABLATE_CORE_PATCH_MIX_H
#define ABLATE_CORE_PATCH_MIX_H

#include "core/patch/mask_rows.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

typedef struct abl_mix_shape {
    int64_t batch; /* of the stacks, as the next two */
    int64_t seq;
    int64_t width;
    int64_t mask_batch; /* 1, or batch */
    int64_t positions;  /* 1, or seq */
} abl_mix_shape;

/* Mask rows as the matrix (planes, count, 2 + columns) that multiplies an arena of differences
 * (sources.h): a row is (0, 1, mask), or from the other end (1, 0, mask - 1), whichever adds less.
 * `chosen`: which rows, `count` of them; NULL: the first `count`. */
abl_tensor *abl_mix_matrix(abl_scope *scope, const abl_mask_rows *rows, const int32_t *chosen,
                           int32_t count);

/* out (rows, batch, seq, width) = beta * out + alpha * matrix (planes, rows, n) stack. */
void abl_mix_apply(abl_scope *scope, const abl_mix_shape *shape, abl_tensor *out,
                   const abl_tensor *matrix, const abl_tensor *stack, double beta, double alpha);
/* (planes, rows, n): <x[row], stack[slot]> over what a plane covers, for x (rows, batch, seq,
 * width): the gradient of abl_mix_apply() at its matrix. */
abl_tensor *abl_mix_products(abl_scope *scope, const abl_mix_shape *shape, const abl_tensor *x,
                             const abl_tensor *stack);
/* Such products to the host, plane after plane, `stride` floats apart. */
void abl_mix_products_write(abl_scope *scope, const abl_tensor *products, float *ret_values,
                            int64_t stride);

ABL_END_DECLS
#endif
