/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pass hook point by hook point and its backward share: norms and their points, weights a
 * head, and the layouts in which heads are multiplied. */
#include "core/model/hooked_internal.h"

/* ---- Norms ------------------------------------------------------------------------------- */

abl_hooked_norm_place abl_hooked_norm_at(abl_block_norm which, int layer, int firing) {
    abl_hooked_norm_place place = {.which = which, .layer = layer, .firing = firing};
    switch (which) {
    case ABL_BLOCK_NORM_1:
        place.scale = ABL_HOOK_LN1_SCALE;
        place.normalized = ABL_HOOK_LN1_NORMALIZED;
        break;
    case ABL_BLOCK_NORM_2:
        place.scale = ABL_HOOK_LN2_SCALE;
        place.normalized = ABL_HOOK_LN2_NORMALIZED;
        break;
    case ABL_BLOCK_NORM_FINAL:
        place.scale = ABL_HOOK_LN_FINAL_SCALE;
        place.normalized = ABL_HOOK_LN_FINAL_NORMALIZED;
        break;
    }
    return place;
}

abl_tensor *abl_hooked_gain(const abl_hooked_pass *p, const abl_hooked_norm_place *place,
                            abl_tensor **ret_bias) {
    if (place->which == ABL_BLOCK_NORM_FINAL) {
        const abl_model_weights *weights = abl_model_get_weights(p->model);
        *ret_bias = weights->ln_final_b;
        return weights->ln_final_w;
    }
    const abl_block_weights *block = abl_model_get_block(p->model, place->layer);
    bool first = place->which == ABL_BLOCK_NORM_1;
    *ret_bias = first ? block->ln1_b : block->ln2_b;
    return first ? block->ln1_w : block->ln2_w;
}

/* ---- Heads ------------------------------------------------------------------------------- */

abl_tensor *abl_hooked_head_weights(abl_hooked_pass *p, int layer, int which, int64_t heads,
                                    abl_tensor **ret_bias) {
    abl_scope *scope = p->scope;
    abl_tensor *bias = NULL;
    abl_tensor *w = abl_block_head_weights(scope, p->model, layer, which, &bias);
    int64_t there = which == 0 ? p->config->n_heads : p->config->n_kv_heads;
    if (heads != there) {
        const int64_t group = heads / there;
        const int64_t width = p->config->d_model;
        const int64_t d_head = p->config->d_head;
        w = abl_tensor_expand(scope, abl_tensor_unsqueeze(scope, w, 1), 4,
                              (const int64_t[]){-1, group, -1, -1});
        w = abl_tensor_reshape(scope, w, 3, (const int64_t[]){heads, width, d_head});
        if (bias != NULL) {
            bias = abl_tensor_expand(scope, abl_tensor_unsqueeze(scope, bias, 1), 3,
                                     (const int64_t[]){-1, group, -1});
            bias = abl_tensor_reshape(scope, bias, 2, (const int64_t[]){heads, d_head});
        }
    }
    if (ret_bias != NULL) {
        *ret_bias = bias;
    }
    return w;
}

abl_tensor *abl_hooked_head_products(abl_scope *scope, const abl_tensor *x, const abl_tensor *w) {
    if (x == NULL || w == NULL) {
        return NULL;
    }
    const int64_t swap[] = {1, 0, 2};
    const int64_t heads = abl_tensor_size(x, 2);
    const int64_t shape[] = {abl_tensor_size(x, 0), abl_tensor_size(x, 1), heads,
                             abl_tensor_size(w, 2)};
    abl_tensor *rows =
        abl_tensor_reshape(scope, x, 3, (const int64_t[]){-1, heads, abl_tensor_size(x, 3)});
    abl_tensor *y = abl_tensor_matmul(scope, abl_tensor_permute(scope, rows, 3, swap), w);
    return abl_tensor_reshape(scope, abl_tensor_permute(scope, y, 3, swap), 4, shape);
}

abl_tensor *abl_hooked_grouped(abl_hooked_pass *p, const abl_tensor *x) {
    const abl_model_config *c = p->config;
    const int64_t kv = p->shape.kv_heads;
    const int64_t shape[] = {p->options->batch, p->options->seq, kv, c->n_heads / kv, c->d_head};
    return abl_tensor_permute(p->scope, abl_tensor_reshape(p->scope, x, 5, shape), 5,
                              (const int64_t[]){0, 2, 3, 1, 4});
}

abl_tensor *abl_hooked_keys(abl_hooked_pass *p, const abl_tensor *x) {
    abl_tensor *by_head = abl_tensor_permute(p->scope, x, 4, (const int64_t[]){0, 2, 1, 3});
    return abl_tensor_unsqueeze(p->scope, by_head, 2);
}
