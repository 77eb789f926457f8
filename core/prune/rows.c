// SPDX-License-Identifier: Apache-2.0
/* What candidates share with the run that they start from is repeated over their rows: tensors of
 * the size of keys and values, small beside the products that are saved. */
#include "core/prune/rows.h"

abl_tensor *abl_rows_repeat(abl_scope *scope, const abl_tensor *x, int64_t count) {
    if (x == NULL) {
        return NULL;
    }
    const int64_t shape[] = {count * abl_tensor_size(x, 0), abl_tensor_size(x, 1),
                             abl_tensor_size(x, 2), abl_tensor_size(x, 3)};
    x = abl_tensor_unsqueeze(scope, x, 0);
    x = abl_tensor_expand(scope, x, 5, (const int64_t[]){count, -1, -1, -1, -1});
    return abl_tensor_reshape(scope, x, 4, shape);
}

abl_tensor *abl_rows_behind(abl_scope *scope, const abl_tensor *prefix, abl_tensor *x) {
    if (x == NULL || prefix == NULL || abl_tensor_size(prefix, 1) == 0) {
        return x;
    }
    int64_t count = abl_tensor_size(x, 0) / abl_tensor_size(prefix, 0);
    const abl_tensor *const parts[] = {abl_rows_repeat(scope, prefix, count), x};
    return abl_tensor_cat(scope, parts, 2, 1);
}
