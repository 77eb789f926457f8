/* SPDX-License-Identifier: Apache-2.0
 *
 * The keys and values are captures of a plain pass over one row, keys as they leave the rotation,
 * so nothing about them depends on what comes behind:
 *
 *     k[layer], v[layer]   (1, length, kv_heads, d_head), float32
 *
 * In a pass they are expanded to the batch (no memory) and joined with the tail's own into one
 * tensor a layer. The copy is 2 (length + seq) kv_heads d_head floats a row, about a thousandth of
 * the multiplications of the block around it; kernels that read two pieces would save that and
 * double themselves. */
#include "core/model/prefix.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/forward.h"

#include <string.h>

struct abl_prefix {
    const abl_model *model;
    int64_t length;
    int32_t *tokens;
    int32_t layer_count;
    abl_tensor **k; /* a layer: (1, length, kv_heads, d_head), rotated */
    abl_tensor **v;
};

/* ---- create ---------------------------------------------------------------------------------- */

static abl_prefix *prefix_alloc(const abl_model *model, const int32_t *tokens, int64_t length) {
    abl_prefix *prefix = abl_calloc(1, sizeof *prefix);
    if (prefix == NULL) {
        return NULL;
    }
    prefix->model = model;
    prefix->length = length;
    prefix->layer_count = abl_model_get_config(model)->n_layers;
    prefix->tokens = abl_calloc((size_t)length, sizeof *prefix->tokens);
    prefix->k = abl_calloc((size_t)prefix->layer_count, sizeof(abl_tensor *));
    prefix->v = abl_calloc((size_t)prefix->layer_count, sizeof(abl_tensor *));
    if (prefix->tokens == NULL || prefix->k == NULL || prefix->v == NULL) {
        abl_prefix_destroy(prefix);
        return NULL;
    }
    memcpy(prefix->tokens, tokens, (size_t)length * sizeof *tokens);
    return prefix;
}

/* The captures as tensors of their own: a capture is a view of a whole projection. */
static abl_code captures_keep(abl_prefix *prefix, const abl_forward_result *result,
                              abl_status *ret_status) {
    abl_scope *scope = abl_scope_create(abl_model_device(prefix->model));
    if (scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < result->entry_count; i++) {
        const abl_cache_entry *entry = &result->entries[i];
        abl_tensor **to = entry->hook.point == ABL_HOOK_V ? prefix->v : prefix->k;
        to[entry->hook.layer] = abl_tensor_keep(abl_tensor_clone(scope, entry->tensor));
    }
    abl_code code = abl_scope_status(scope, ret_status);
    abl_scope_destroy(scope);
    return code;
}

static abl_code prefix_fill(abl_prefix *prefix, abl_status *ret_status) {
    bool rope = abl_model_get_config(prefix->model)->positional == ABL_POSITIONAL_ROPE;
    size_t count = 2 * (size_t)prefix->layer_count;
    ABL_CLEANUP(abl_freep) char(*names)[64] = abl_calloc(count, sizeof *names);
    ABL_CLEANUP(abl_freep) const char **hooks = abl_calloc(count, sizeof *hooks);
    if (names == NULL || hooks == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < count; i++) {
        abl_hook_point point = i % 2 == 1 ? ABL_HOOK_V : rope ? ABL_HOOK_ROT_K : ABL_HOOK_K;
        abl_hook hook = {.point = point, .layer = (int)(i / 2)};
        (void)abl_hook_name(hook, names[i], sizeof names[i]);
        hooks[i] = names[i];
    }
    const abl_forward_options options = {.model = prefix->model,
                                         .tokens = prefix->tokens,
                                         .batch = 1,
                                         .seq = prefix->length,
                                         .out_slice = ABL_OUT_SLICE_LAST,
                                         .hooks = hooks,
                                         .hook_count = count,
                                         .in_float32 = true, /* what patched passes read */
                                         .stop_at_layer = prefix->layer_count};
    abl_forward_result result;
    abl_code code = abl_forward(&options, &result, ret_status);
    if (code == ABL_CODE_OK) {
        code = captures_keep(prefix, &result, ret_status);
        abl_forward_result_finish(&result);
    }
    return code;
}

abl_code abl_prefix_create(const abl_model *model, const int32_t *tokens, int64_t length,
                           abl_prefix **ret_prefix, abl_status *ret_status) {
    const abl_model_config *config = abl_model_get_config(model);
    if (length < 1 || length >= config->n_ctx) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID",
                        "a prefix of %lld tokens; this model's context of %d takes 1 to %d, for at "
                        "least one must follow",
                        (long long)length, config->n_ctx, config->n_ctx - 1);
    }
    if (config->attention == ABL_ATTENTION_BIDIRECTIONAL) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "MODEL_NOT_CAUSAL",
                        "this model's positions see those behind them, so a prefix's keys and "
                        "values depend on the tail; only causal models have KV caches");
    }
    abl_prefix *prefix = prefix_alloc(model, tokens, length);
    abl_code code = prefix == NULL ? abl_fail_oom(ret_status) : prefix_fill(prefix, ret_status);
    if (code != ABL_CODE_OK) {
        abl_prefix_destroy(prefix);
        return code;
    }
    *ret_prefix = prefix;
    return ABL_CODE_OK;
}

void abl_prefix_destroy(abl_prefix *prefix) {
    if (prefix == NULL) {
        return;
    }
    for (int32_t i = 0; i < prefix->layer_count; i++) {
        if (prefix->k != NULL) {
            abl_tensor_release(prefix->k[i]);
        }
        if (prefix->v != NULL) {
            abl_tensor_release(prefix->v[i]);
        }
    }
    abl_free(prefix->k);
    abl_free(prefix->v);
    abl_free(prefix->tokens);
    abl_free(prefix);
}

/* ---- what it is ------------------------------------------------------------------------------ */

int64_t abl_prefix_length(const abl_prefix *prefix) {
    return prefix == NULL ? 0 : prefix->length;
}

const int32_t *abl_prefix_tokens(const abl_prefix *prefix) {
    return prefix->tokens;
}

int64_t abl_prefix_bytes_of(const abl_model *model, int64_t length) {
    const abl_model_config *c = abl_model_get_config(model);
    return 2LL * c->n_layers * length * c->n_kv_heads * c->d_head * (int64_t)sizeof(float) +
           length * (int64_t)sizeof(int32_t);
}

int64_t abl_prefix_bytes(const abl_prefix *prefix) {
    return prefix == NULL ? 0 : abl_prefix_bytes_of(prefix->model, prefix->length);
}

int64_t abl_prefix_pass_floats(const abl_prefix *prefix, const abl_model_config *config,
                               int64_t kv_heads, int64_t batch, int64_t seq) {
    int64_t length = abl_prefix_length(prefix);
    return length == 0 ? 0
                       : batch * (2 * kv_heads * config->d_head * (length + seq) +
                                  3LL * config->n_heads * seq * length);
}

/* ---- checks ---------------------------------------------------------------------------------- */

abl_code abl_prefix_check(const abl_prefix *prefix, const abl_model *model, int64_t seq,
                          abl_status *ret_status) {
    if (prefix == NULL) {
        return ABL_CODE_OK;
    }
    if (prefix->model != model) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "PREFIX_MODEL_MISMATCH",
                        "the KV cache was computed by another model, or by this one processed or "
                        "stored otherwise; make one over this model");
    }
    int64_t n_ctx = abl_model_get_config(model)->n_ctx;
    if (prefix->length + seq > n_ctx) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID",
                        "a prefix of %lld tokens and a tail of %lld are longer than this model's "
                        "context of %lld",
                        (long long)prefix->length, (long long)seq, (long long)n_ctx);
    }
    return ABL_CODE_OK;
}

abl_code abl_prefix_check_prompts(const abl_prefix *prefix, const char *what, const int32_t *tokens,
                                  int64_t rows, int64_t seq, abl_status *ret_status) {
    for (int64_t row = 0; prefix != NULL && row < rows; row++) {
        const int32_t *prompt = tokens + row * seq;
        for (int64_t i = 0; i < prefix->length && i < seq; i++) {
            if (prompt[i] != prefix->tokens[i]) {
                return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_NOT_SHARED",
                                "%s: prompt %lld has token %d at position %lld, the KV cache %d; "
                                "every prompt must begin with the cache's %lld tokens",
                                what, (long long)row, prompt[i], (long long)i, prefix->tokens[i],
                                (long long)prefix->length);
            }
        }
    }
    if (prefix != NULL && seq <= prefix->length) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TAIL_EMPTY",
                        "%s: %lld tokens, of which the KV cache covers %lld: nothing is left to "
                        "run; use a shorter prefix",
                        what, (long long)seq, (long long)prefix->length);
    }
    return ABL_CODE_OK;
}

/* ---- in a pass ------------------------------------------------------------------------------- */

/* front (1, length, kv_heads, d_head) before own (batch, pos, heads, d_head), where heads may be a
 * multiple of kv_heads: each of them repeated for its group. In own's dtype. */
static abl_tensor *join(abl_scope *scope, abl_tensor *front, const abl_tensor *own) {
    if (own == NULL) {
        return NULL; /* the scope has failed */
    }
    front = abl_tensor_to_dtype(scope, front, abl_tensor_dtype(own));
    const int64_t heads = abl_tensor_size(own, 2);
    const int64_t kv_heads = (front == NULL) ? heads : abl_tensor_size(front, 2);
    if (heads != kv_heads) {
        const int64_t grouped[] = {-1, -1, -1, heads / kv_heads, -1};
        const int64_t shape[] = {1, abl_tensor_size(front, 1), heads, abl_tensor_size(front, 3)};
        abl_tensor *by_group = abl_tensor_unsqueeze(scope, front, 3);
        front = abl_tensor_reshape(scope, abl_tensor_expand(scope, by_group, 5, grouped), 4, shape);
    }
    const int64_t over_batch[] = {abl_tensor_size(own, 0), -1, -1, -1};
    const abl_tensor *const parts[] = {abl_tensor_expand(scope, front, 4, over_batch), own};
    return abl_tensor_cat(scope, parts, ABL_COUNT_OF(parts), 1);
}

abl_qkv abl_prefix_qkv(abl_scope *scope, const abl_model *model, const abl_prefix *prefix,
                       int layer, abl_qkv own) {
    if (own.q == NULL || own.k == NULL) {
        return own; /* the scope has failed */
    }
    const int64_t length = abl_prefix_length(prefix);
    const int64_t q_start = length + abl_tensor_size(own.k, 1) - abl_tensor_size(own.q, 1);
    abl_qkv seen = {.q = abl_block_rotate(scope, model, own.q, q_start, false),
                    .k = abl_block_rotate(scope, model, own.k, length, false),
                    .v = own.v};
    if (prefix != NULL) {
        ABL_ASSERT(prefix->model == model);
        seen.k = join(scope, prefix->k[layer], seen.k);
        seen.v = join(scope, prefix->v[layer], seen.v);
    }
    return seen;
}

void abl_prefix_unrotate_(abl_scope *scope, const abl_model *model, const abl_prefix *prefix,
                          abl_qkv grads) {
    if (abl_model_get_config(model)->positional != ABL_POSITIONAL_ROPE) {
        return;
    }
    const int64_t start = abl_prefix_length(prefix);
    abl_tensor_copy_into(scope, grads.q, abl_block_rotate(scope, model, grads.q, start, true));
    abl_tensor_copy_into(scope, grads.k, abl_block_rotate(scope, model, grads.k, start, true));
}
