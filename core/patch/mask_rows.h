/* mask_rows.h -- which rows of a layer's mask are the same, so that each input is made once.
 *
 * A layer's attention destinations are rows of one (heads, sources) block. Rows that are all 0 read
 * the residual itself; all 1, the ablation's residual; others need a mix, equal ones the same.
 *
 * OWNERSHIP  Arrays are the caller's.
 * THREADS    Any thread.
 * ERRORS     None.
 */
#ifndef ABLATE_CORE_PATCH_MASK_ROWS_H
#define ABLATE_CORE_PATCH_MASK_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/compiler.h"

ABL_BEGIN_DECLS

#define ABL_MASK_ROW_ZERO (-1) /* reads the residual */
#define ABL_MASK_ROW_ONE (-2)  /* reads what it would if all sources were ablated */

typedef struct abl_mask_rows {
    const float *values; /* (positions, rows, columns), positions `stride` apart */
    int64_t positions;   /* planes of the mask: batch rows, positions, or both */
    int64_t stride;
    int32_t row_count;
    int32_t column_count;
} abl_mask_rows;

/* Both arrays hold row_count: ret_group[row] is ABL_MASK_ROW_ZERO, _ONE, or the number of the row's
 * mix; ret_first[mix] is the first row that has it. Returns the number of mixes. */
int32_t abl_mask_rows_group(const abl_mask_rows *rows, int32_t *ret_group, int32_t *ret_first);

ABL_END_DECLS
#endif
