// SPDX-License-Identifier: Apache-2.0
/* A plain pass that keeps what every source emitted, and differences between such passes.
 *
 *     difference of Resid Start  start' - start
 *     difference of a head       (z' - z)_h W_O,h          (all heads of a layer: one product)
 *     difference of an MLP       mlp_out' - mlp_out
 *
 * where the primed run is the ablation; under ZERO there is none and the difference is minus the
 * current value. b_O belongs to no source: it is in the residual and in no difference. */
#include "core/patch/sources.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/model/prefix.h"

/* ---- a run ----------------------------------------------------------------------------------- */

static void layers_release(abl_tensor **tensors, int32_t count) {
    for (int32_t i = 0; tensors != NULL && i < count; i++) {
        abl_tensor_release(tensors[i]);
    }
    abl_free(tensors);
}

void abl_sources_destroy(abl_sources *sources) {
    if (sources == NULL) {
        return;
    }
    abl_tensor_release(sources->start);
    abl_tensor_release(sources->end);
    layers_release(sources->z, sources->layer_count);
    layers_release(sources->change, sources->layer_count);
    layers_release(sources->mlp_out, sources->layer_count);
    layers_release(sources->pre, sources->layer_count);
    layers_release(sources->mid, sources->layer_count);
    abl_free(sources);
}

int32_t abl_sources_tensor_count(const abl_sources *sources) {
    return sources->pre == NULL ? 1 + 3 * sources->layer_count : 2 + 5 * sources->layer_count;
}

static abl_tensor **layer_slot(const abl_sources *sources, int32_t index) {
    const int32_t n = sources->layer_count;
    abl_tensor **const layers[] = {sources->z, sources->change, sources->mlp_out, sources->pre,
                                   sources->mid};
    return &layers[(index - 1) / n][(index - 1) % n];
}

abl_tensor *abl_sources_tensor_at(const abl_sources *sources, int32_t index) {
    return index == 0                              ? sources->start
           : index == 1 + 5 * sources->layer_count ? sources->end
                                                   : *layer_slot(sources, index);
}

abl_tensor **abl_sources_slot_at(abl_sources *sources, int32_t index) {
    return index == 0                              ? &sources->start
           : index == 1 + 5 * sources->layer_count ? &sources->end
                                                   : layer_slot(sources, index);
}

int64_t abl_sources_bytes(const abl_sources *sources) {
    int64_t bytes = 0;
    for (int32_t i = 0; i < abl_sources_tensor_count(sources); i++) {
        abl_tensor *tensor = abl_sources_tensor_at(sources, i);
        uint64_t all = tensor == NULL ? 0 : abl_tensor_bytes(tensor);
        uint64_t stored = tensor == NULL ? 0 : abl_tensor_storage_bytes(tensor);
        bytes += (int64_t)(stored < all ? stored : all); /* less, when expanded; more, for a view */
    }
    return bytes;
}

int32_t abl_sources_rows(const abl_sources *sources) {
    return sources->batch;
}

int32_t abl_sources_seq(const abl_sources *sources) {
    return sources->seq;
}

int32_t abl_sources_prefix_length(const abl_sources *sources) {
    return sources->prefix_length;
}

abl_sources *abl_sources_alloc(int32_t batch, int32_t seq, int32_t layer_count, bool residuals) {
    abl_sources *sources = abl_calloc(1, sizeof *sources);
    if (sources == NULL) {
        return NULL;
    }
    size_t n = (size_t)layer_count;
    sources->batch = batch;
    sources->seq = seq;
    sources->layer_count = layer_count;
    sources->z = abl_calloc(n, sizeof *sources->z);
    sources->change = abl_calloc(n, sizeof *sources->change);
    sources->mlp_out = abl_calloc(n, sizeof *sources->mlp_out);
    bool ok = sources->z != NULL && sources->change != NULL && sources->mlp_out != NULL;
    if (residuals) {
        sources->pre = abl_calloc(n, sizeof *sources->pre);
        sources->mid = abl_calloc(n, sizeof *sources->mid);
        ok = ok && sources->pre != NULL && sources->mid != NULL;
    }
    if (!ok) {
        abl_sources_destroy(sources);
        return NULL;
    }
    return sources;
}

abl_sources *abl_sources_alloc_like(const abl_sources *like, int32_t rows) {
    abl_sources *sources = abl_sources_alloc(rows, like->seq, like->layer_count, like->pre != NULL);
    if (sources != NULL) {
        sources->prefix_length = like->prefix_length;
    }
    return sources;
}

/* One block of a plain pass; the residual after it. */
static abl_tensor *block_run(abl_scope *scope, const abl_model *model, const abl_prefix *prefix,
                             abl_sources *sources, int layer, abl_tensor *resid) {
    bool parallel = abl_model_get_config(model)->parallel_attn_mlp;
    abl_tensor *normed =
        abl_block_norm_forward(scope, model, layer, ABL_BLOCK_NORM_1, resid, NULL, NULL);
    abl_qkv qkv = abl_block_qkv(scope, model, layer, normed, 0);
    qkv = abl_prefix_qkv(scope, model, prefix, layer, qkv);
    abl_tensor *z = abl_block_attention(scope, model, qkv.q, qkv.k, qkv.v, NULL, NULL);
    abl_tensor *mid = abl_tensor_add(scope, resid, abl_block_attn_out(scope, model, layer, z));
    sources->z[layer] = abl_tensor_keep(z);
    if (sources->pre != NULL) {
        sources->pre[layer] = abl_tensor_keep(resid);
        sources->mid[layer] = abl_tensor_keep(mid);
    }
    if (abl_model_get_config(model)->attn_only) {
        return mid;
    }
    normed = abl_block_norm_forward(scope, model, layer, ABL_BLOCK_NORM_2, parallel ? resid : mid,
                                    NULL, NULL);
    abl_tensor *mlp_out = abl_block_mlp(scope, model, layer, normed, NULL);
    sources->mlp_out[layer] = abl_tensor_keep(mlp_out);
    return abl_tensor_add(scope, mid, mlp_out);
}

abl_code abl_sources_run(const abl_model *model, const abl_prefix *prefix, const int32_t *tokens,
                         int32_t batch, int32_t seq, bool residuals, abl_sources **ret_sources,
                         abl_status *ret_status) {
    const abl_model_config *config = abl_model_get_config(model);
    abl_code code = abl_tokens_check(config, tokens, batch, seq, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_prefix_check(prefix, model, seq, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_sources *sources = abl_sources_alloc(batch, seq, config->n_layers, residuals);
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    if (sources == NULL || scope == NULL) {
        abl_sources_destroy(sources);
        abl_scope_destroy(scope);
        return abl_fail_oom(ret_status);
    }
    sources->prefix_length = (int32_t)abl_prefix_length(prefix);
    abl_tensor *ids = abl_block_tokens(scope, tokens, batch, seq);
    abl_tensor *resid =
        abl_block_embed(scope, model, ABL_DTYPE_F32, ids, abl_prefix_length(prefix), NULL, NULL);
    sources->start = abl_tensor_keep(resid);
    for (int layer = 0; layer < config->n_layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        resid = block_run(scope, model, prefix, sources, layer, resid);
        abl_scope_rewind(scope, mark, &resid, 1);
    }
    if (residuals) {
        sources->end = abl_tensor_keep(resid);
    }
    code = abl_scope_status(scope, ret_status);
    abl_scope_destroy(scope);
    if (code != ABL_CODE_OK) {
        abl_sources_destroy(sources);
        return code;
    }
    sources->run = true;
    sources->prefix = prefix;
    *ret_sources = sources;
    return ABL_CODE_OK;
}

abl_code abl_sources_create(abl_model *model, const abl_prefix *prefix, const int32_t *tokens,
                            int32_t batch, int32_t seq, abl_sources **ret_sources,
                            abl_status *ret_status) {
    return abl_sources_run(model, prefix, tokens, batch, seq, true, ret_sources, ret_status);
}

abl_tensor *abl_sources_residual(abl_scope *scope, const abl_model *model,
                                 const abl_sources *sources, int layer, bool mid) {
    if (sources != NULL) {
        ABL_ASSERT(sources->pre != NULL);
        abl_tensor *residual = layer == sources->layer_count ? sources->end
                               : mid                         ? sources->mid[layer]
                                                             : sources->pre[layer];
        return abl_scope_borrow(scope, residual);
    }
    abl_tensor *sum = NULL;
    for (int i = 0; i < layer + (mid ? 1 : 0); i++) {
        abl_tensor *bias = abl_block_in_float32(scope, abl_model_get_block(model, i)->b_o);
        if (bias != NULL) {
            sum = sum == NULL ? bias : abl_tensor_add(scope, sum, bias);
        }
    }
    return sum;
}

/* Head results of all heads: (batch, pos, head, d_head) -> out (heads, batch, pos, d_model). */
static void heads_into(abl_scope *scope, const abl_model *model, int layer, const abl_tensor *z,
                       abl_tensor *out) {
    const abl_model_config *c = abl_model_get_config(model);
    z = abl_tensor_reshape(scope, z, 3, (const int64_t[]){-1, c->n_heads, c->d_head});
    out = abl_tensor_view(scope, out, 3, (const int64_t[]){c->n_heads, -1, c->d_model});
    out = abl_tensor_permute(scope, out, 3, (const int64_t[]){1, 0, 2});
    (void)abl_block_head_results(scope, model, layer, z, out);
}

/* out (heads, batch, pos, d_model) += factor * change, which may be NULL. */
static void change_add(abl_scope *scope, abl_tensor *out, const abl_tensor *change, double factor) {
    if (change != NULL) {
        const int64_t heads_first[] = {2, 0, 1, 3};
        abl_tensor_add_(scope, out, abl_tensor_permute(scope, change, 4, heads_first), factor);
    }
}

abl_tensor *abl_sources_expand(abl_scope *scope, const abl_model *model, const abl_sources *sources,
                               int32_t batch) {
    const abl_model_config *c = abl_model_get_config(model);
    const int64_t heads = c->n_heads;
    const int64_t per_layer = heads + (c->attn_only ? 0 : 1);
    const int64_t shape[] = {1 + c->n_layers * per_layer, sources->batch, sources->seq, c->d_model};
    abl_tensor *out = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, shape);
    abl_tensor_copy_into(scope, abl_tensor_select(scope, out, 0, 0), sources->start);
    for (int layer = 0; layer < c->n_layers; layer++) {
        const int64_t slot = 1 + layer * per_layer;
        abl_tensor *results = abl_tensor_slice(scope, out, 0, slot, slot + heads);
        heads_into(scope, model, layer, sources->z[layer], results);
        change_add(scope, results, sources->change[layer], 1);
        if (!c->attn_only) {
            abl_tensor_copy_into(scope, abl_tensor_select(scope, out, 0, slot + heads),
                                 sources->mlp_out[layer]);
        }
    }
    return abl_tensor_expand(scope, out, 4, (const int64_t[]){shape[0], batch, shape[2], shape[3]});
}

abl_code abl_sources_read(const abl_model *model, const abl_sources *sources, float *ret_values,
                          size_t count, abl_status *ret_status) {
    ABL_CLEANUP(abl_scope_destroyp) abl_scope *scope = abl_scope_create(abl_model_device(model));
    if (scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_tensor_to_floats(scope, abl_sources_expand(scope, model, sources, sources->batch),
                         ret_values, count);
    return abl_scope_status(scope, ret_status);
}

/* ---- differences ----------------------------------------------------------------------------- */

/* out = ablated - current; ablated NULL is zero. */
static void difference_into(abl_scope *scope, abl_tensor *out, const abl_tensor *ablated,
                            const abl_tensor *current) {
    if (ablated != NULL) {
        abl_tensor_sub_into(scope, out, ablated, current);
    } else {
        abl_tensor_copy_into(scope, out, current);
        abl_tensor_scale_(scope, out, -1);
    }
}

void abl_differences_start(abl_differences *differences, const abl_sources *ablated,
                           const abl_tensor *start) {
    abl_scope *scope = differences->scope;
    difference_into(scope, abl_tensor_select(scope, differences->arena, 0, ABL_SLOT_SOURCES),
                    ablated == NULL ? NULL : ablated->start, start);
}

void abl_differences_heads(abl_scope *scope, abl_differences *differences, const abl_model *model,
                           const abl_sources *ablated, int layer, int64_t slot,
                           const abl_tensor *z) {
    const abl_model_config *c = abl_model_get_config(model);
    abl_tensor *other = ablated == NULL ? NULL : ablated->z[layer];
    abl_tensor *dz = other == NULL ? abl_tensor_neg(scope, z) : abl_tensor_sub(scope, other, z);
    abl_tensor *out = abl_tensor_slice(scope, differences->arena, 0, slot, slot + c->n_heads);
    heads_into(scope, model, layer, dz, out);
    change_add(scope, out, ablated == NULL ? NULL : ablated->change[layer], 1);
}

void abl_differences_mlp(abl_scope *scope, abl_differences *differences, const abl_sources *ablated,
                         int layer, int64_t slot, const abl_tensor *mlp_out) {
    difference_into(scope, abl_tensor_select(scope, differences->arena, 0, slot),
                    ablated == NULL ? NULL : ablated->mlp_out[layer], mlp_out);
}

void abl_differences_residual(abl_scope *scope, abl_differences *differences,
                              const abl_sources *ablated, int layer, bool mid, int64_t slot,
                              const abl_tensor *resid) {
    abl_tensor *other = ablated == NULL ? NULL : mid ? ablated->mid[layer] : ablated->pre[layer];
    difference_into(scope, abl_tensor_select(scope, differences->arena, 0, slot), other, resid);
}

abl_tensor *abl_differences_ablated(abl_scope *scope, const abl_differences *differences,
                                    const abl_model *model, const abl_sources *ablated, int layer,
                                    bool mid) {
    const int64_t shape[] = {differences->batch, differences->seq, differences->width};
    abl_tensor *x = abl_sources_residual(scope, model, ablated, layer, mid);
    if (x == NULL) {
        return abl_tensor_zeros(scope, ABL_DTYPE_F32, 3, shape);
    }
    return abl_tensor_contiguous(scope, abl_tensor_expand(scope, x, 3, shape));
}

void abl_differences_fill(abl_scope *scope, abl_differences *differences, const abl_model *model,
                          const abl_sources *ablated, int layer, bool mid,
                          const abl_tensor *resid) {
    abl_tensor *arena = differences->arena;
    abl_tensor_copy_into(scope, abl_tensor_select(scope, arena, 0, ABL_SLOT_ABLATED),
                         abl_differences_ablated(scope, differences, model, ablated, layer, mid));
    abl_tensor_copy_into(scope, abl_tensor_select(scope, arena, 0, ABL_SLOT_RESIDUAL), resid);
}
