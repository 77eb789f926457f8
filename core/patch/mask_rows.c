// SPDX-License-Identifier: Apache-2.0
/* Rows are compared as values (-0 is 0), one with each mix so far: a layer has at most some hundred
 * rows, and unequal ones differ early. */
#include "core/patch/mask_rows.h"

#include <string.h>

static const float *row_at(const abl_mask_rows *rows, int64_t position, int32_t row) {
    return rows->values + position * rows->stride + (int64_t)row * rows->column_count;
}

static bool row_is(const abl_mask_rows *rows, int32_t row, float value) {
    for (int64_t t = 0; t < rows->positions; t++) {
        const float *values = row_at(rows, t, row);
        for (int32_t i = 0; i < rows->column_count; i++) {
            if (values[i] != value) {
                return false;
            }
        }
    }
    return true;
}

static bool rows_equal(const abl_mask_rows *rows, int32_t a, int32_t b) {
    for (int64_t t = 0; t < rows->positions; t++) {
        const float *x = row_at(rows, t, a);
        const float *y = row_at(rows, t, b);
        for (int32_t i = 0; i < rows->column_count; i++) {
            if (x[i] != y[i]) {
                return false;
            }
        }
    }
    return true;
}

int32_t abl_mask_rows_group(const abl_mask_rows *rows, int32_t *ret_group, int32_t *ret_first) {
    int32_t mixes = 0;
    for (int32_t row = 0; row < rows->row_count; row++) {
        if (row_is(rows, row, 0)) {
            ret_group[row] = ABL_MASK_ROW_ZERO;
            continue;
        }
        if (row_is(rows, row, 1)) {
            ret_group[row] = ABL_MASK_ROW_ONE;
            continue;
        }
        int32_t mix = 0;
        while (mix < mixes && !rows_equal(rows, ret_first[mix], row)) {
            mix++; /* unequal rows differ early: this is cheap beside one mix */
        }
        ret_group[row] = mix;
        if (mix == mixes) {
            ret_first[mixes++] = row;
        }
    }
    return mixes;
}
