// SPDX-License-Identifier: Apache-2.0
/* Stacks are cut so that a plane of the mask is one matrix of a batched product: (planes, n, what a
 * plane covers) as a strided view. With positions that is a view for each batch row. */
#include "core/patch/mix.h"

#include "core/base/mem.h"
#include "core/patch/sources.h"

#include <math.h>
#include <string.h>

/* One mask row (columns) as a row of the matrix (2 + columns). */
static void matrix_row_write(float *to, const float *mask, int32_t columns) {
    double from_residual = 0;
    double from_ablated = 0;
    for (int32_t i = 0; i < columns; i++) {
        from_residual += fabs((double)mask[i]);
        from_ablated += fabs(1.0 - (double)mask[i]);
    }
    bool ablated = from_ablated < from_residual;
    to[ABL_SLOT_ABLATED] = ablated ? 1 : 0;
    to[ABL_SLOT_RESIDUAL] = ablated ? 0 : 1;
    for (int32_t i = 0; i < columns; i++) {
        to[ABL_SLOT_SOURCES + i] = ablated ? mask[i] - 1.0F : mask[i];
    }
}

abl_tensor *abl_mix_matrix(abl_scope *scope, const abl_mask_rows *rows, const int32_t *chosen,
                           int32_t count) {
    const int64_t width = ABL_SLOT_SOURCES + rows->column_count;
    ABL_CLEANUP(abl_freep)
    float *matrix = abl_calloc((size_t)(rows->positions * count * width), sizeof *matrix);
    if (matrix == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (int64_t t = 0; t < rows->positions; t++) {
        for (int32_t i = 0; i < count; i++) {
            int64_t row = chosen == NULL ? i : chosen[i];
            matrix_row_write(matrix + (t * count + i) * width,
                             rows->values + t * rows->stride + row * rows->column_count,
                             rows->column_count);
        }
    }
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 3,
                                (const int64_t[]){rows->positions, count, width}, matrix);
}

/* ---- products -------------------------------------------------------------------------------- */

/* A mask without positions: (mask_batch, n, inner). */
static abl_tensor *by_row(abl_scope *scope, const abl_mix_shape *shape, const abl_tensor *stack) {
    const int64_t inner = shape->batch / shape->mask_batch * shape->seq * shape->width;
    abl_tensor *view =
        abl_tensor_view(scope, stack, 3, (const int64_t[]){-1, shape->mask_batch, inner});
    return abl_tensor_permute(scope, view, 3, (const int64_t[]){1, 0, 2});
}

/* One with positions: a batch row's (seq, n, width). */
static abl_tensor *by_position(abl_scope *scope, const abl_tensor *stack, int64_t row) {
    abl_tensor *view = abl_tensor_select(scope, stack, 1, row);
    return abl_tensor_permute(scope, view, 3, (const int64_t[]){1, 0, 2});
}

/* A batch row's planes (positions, rows, n) of (planes, rows, n). */
static abl_tensor *planes_of(abl_scope *scope, const abl_mix_shape *shape, const abl_tensor *matrix,
                             int64_t row) {
    int64_t first = shape->mask_batch == 1 ? 0 : row * shape->positions;
    return abl_tensor_slice(scope, matrix, 0, first, first + shape->positions);
}

void abl_mix_apply(abl_scope *scope, const abl_mix_shape *shape, abl_tensor *out,
                   const abl_tensor *matrix, const abl_tensor *stack, double beta, double alpha) {
    if (shape->positions == 1) {
        abl_tensor_gemm_into(scope, by_row(scope, shape, out), matrix, by_row(scope, shape, stack),
                             beta, alpha);
        return;
    }
    for (int64_t row = 0; row < shape->batch && !abl_scope_failed(scope); row++) {
        abl_tensor_gemm_into(scope, by_position(scope, out, row),
                             planes_of(scope, shape, matrix, row), by_position(scope, stack, row),
                             beta, alpha);
    }
}

abl_tensor *abl_mix_products(abl_scope *scope, const abl_mix_shape *shape, const abl_tensor *x,
                             const abl_tensor *stack) {
    if (abl_scope_failed(scope)) {
        return NULL;
    }
    const int64_t sizes[] = {shape->mask_batch * shape->positions, abl_tensor_size(x, 0),
                             abl_tensor_size(stack, 0)};
    abl_tensor *out = abl_tensor_empty(scope, ABL_DTYPE_F32, 3, sizes);
    if (shape->positions == 1) {
        abl_tensor *columns = abl_tensor_transpose(scope, by_row(scope, shape, stack), 1, 2);
        abl_tensor_gemm_into(scope, out, by_row(scope, shape, x), columns, 0, 1);
        return out;
    }
    for (int64_t row = 0; row < shape->batch && !abl_scope_failed(scope); row++) {
        abl_tensor *columns = abl_tensor_transpose(scope, by_position(scope, stack, row), 1, 2);
        double beta = shape->mask_batch == 1 && row > 0 ? 1 : 0;
        abl_tensor_gemm_into(scope, planes_of(scope, shape, out, row), by_position(scope, x, row),
                             columns, beta, 1);
    }
    return out;
}

void abl_mix_products_write(abl_scope *scope, const abl_tensor *products, float *ret_values,
                            int64_t stride) {
    if (abl_scope_failed(scope)) {
        return;
    }
    const int64_t planes = abl_tensor_size(products, 0);
    const int64_t block = abl_tensor_size(products, 1) * abl_tensor_size(products, 2);
    ABL_CLEANUP(abl_freep) float *values = abl_calloc((size_t)(planes * block), sizeof *values);
    if (values == NULL) {
        abl_scope_fail_oom(scope);
        return;
    }
    abl_tensor_to_floats(scope, products, values, (size_t)(planes * block));
    for (int64_t i = 0; i < planes; i++) {
        memcpy(ret_values + i * stride, values + i * block, (size_t)block * sizeof *values);
    }
}
