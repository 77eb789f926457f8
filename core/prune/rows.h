/* rows.h -- one batch seen many times over: a block of rows a candidate; internal to core/prune.
 *
 * OWNERSHIP  Results are borrowed from the scope.
 * THREADS    The device's executor thread only.
 * ERRORS     Sticky in the scope.
 */
#ifndef ABLATE_CORE_PRUNE_ROWS_H
#define ABLATE_CORE_PRUNE_ROWS_H

#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

/* x (batch, pos, heads, d_head) `count` times: (count * batch, pos, heads, d_head). */
abl_tensor *abl_rows_repeat(abl_scope *scope, const abl_tensor *x, int64_t count);
/* x (count * batch, pos, heads, d_head) with the same `prefix` (batch, from, heads, d_head) before
 * each batch of rows: (count * batch, from + pos, heads, d_head). x itself when from is 0. */
abl_tensor *abl_rows_behind(abl_scope *scope, const abl_tensor *prefix, abl_tensor *x);

ABL_END_DECLS
#endif
