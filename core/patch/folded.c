// SPDX-License-Identifier: Apache-2.0
/* Folded projections, kept for as long as a prune or a run of circuits lives: folding anew in every
 * pass would cost as much as a small model's attention. */
#include "core/patch/folded.h"

#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/model/prefix.h"

/* (rows, kv * d_head) to (rows, kv * group * d_head), each head `group` times. Rank 1 for a
 * bias. */
static abl_tensor *heads_repeat(abl_scope *scope, const abl_tensor *x, int64_t kv, int64_t group,
                                int64_t d_head) {
    if (x == NULL) {
        return NULL; /* the scope has failed */
    }
    bool bias = abl_tensor_rank(x) == 1;
    int64_t rows = bias ? 1 : abl_tensor_size(x, 0);
    abl_tensor *split = abl_tensor_reshape(scope, x, 4, (const int64_t[]){rows, kv, 1, d_head});
    split = abl_tensor_expand(scope, split, 4, (const int64_t[]){rows, kv, group, d_head});
    return bias ? abl_tensor_reshape(scope, split, 1, (const int64_t[]){kv * group * d_head})
                : abl_tensor_reshape(scope, split, 2, (const int64_t[]){rows, kv * group * d_head});
}

/* Q columns as they are, K's and V's repeated over their groups. */
static abl_tensor *expand(abl_scope *scope, const abl_model_config *c, const abl_tensor *x) {
    if (x == NULL) {
        return NULL;
    }
    int dim = abl_tensor_rank(x) - 1;
    int64_t q_end = (int64_t)c->n_heads * c->d_head;
    int64_t k_end = q_end + (int64_t)c->n_kv_heads * c->d_head;
    int64_t v_end = k_end + (int64_t)c->n_kv_heads * c->d_head;
    int64_t group = c->n_heads / c->n_kv_heads;
    const abl_tensor *parts[] = {abl_tensor_slice(scope, x, dim, 0, q_end),
                                 heads_repeat(scope, abl_tensor_slice(scope, x, dim, q_end, k_end),
                                              c->n_kv_heads, group, c->d_head),
                                 heads_repeat(scope, abl_tensor_slice(scope, x, dim, k_end, v_end),
                                              c->n_kv_heads, group, c->d_head)};
    return abl_tensor_cat(scope, parts, 3, dim);
}

static bool is_expanded(const abl_model_config *c, const abl_graph *graph) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    return c->n_kv_heads != c->n_heads && (o->joined_qkv || o->gqa == ABL_GQA_EXPANDED);
}

abl_code abl_folded_create(const abl_model *model, const abl_graph *graph, bool fold,
                           abl_folded **ret_folded, abl_status *ret_status) {
    const abl_model_config *c = abl_model_get_config(model);
    abl_folded *folded = abl_calloc(1, sizeof *folded);
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    abl_code code = ABL_CODE_OK;
    if (folded == NULL || scope == NULL) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    bool expanded = is_expanded(c, graph);
    folded->model = model;
    folded->fold = fold;
    folded->layer_count = c->n_layers;
    folded->q_heads = c->n_heads;
    folded->kv_heads = expanded ? c->n_heads : c->n_kv_heads;
    folded->heads = folded->q_heads + 2 * folded->kv_heads;
    folded->d_head = c->d_head;
    folded->layers = abl_calloc((size_t)c->n_layers, sizeof *folded->layers);
    if (folded->layers == NULL) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    for (int layer = 0; layer < c->n_layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        abl_tensor *w = NULL;
        abl_tensor *b = NULL;
        if (fold) {
            abl_block_fold_qkv(scope, model, layer, &w, &b);
        } else {
            w = abl_scope_borrow(scope, abl_model_get_block(model, layer)->w_qkv);
            b = abl_model_get_block(model, layer)->b_qkv;
        }
        folded->layers[layer].w = abl_tensor_keep(expanded ? expand(scope, c, w) : w);
        folded->layers[layer].b = abl_tensor_keep(expanded ? expand(scope, c, b) : b);
        abl_scope_rewind(scope, mark, NULL, 0);
    }
    code = abl_scope_status(scope, ret_status);
    if (code != ABL_CODE_OK) {
        goto fail;
    }
    abl_scope_destroy(scope);
    *ret_folded = folded;
    return ABL_CODE_OK;
fail:
    abl_scope_destroy(scope);
    abl_folded_destroy(folded);
    return code;
}

void abl_folded_destroy(abl_folded *folded) {
    if (folded == NULL) {
        return;
    }
    for (int32_t i = 0; folded->layers != NULL && i < folded->layer_count; i++) {
        abl_tensor_release(folded->layers[i].w);
        abl_tensor_release(folded->layers[i].b);
    }
    abl_free(folded->layers);
    abl_free(folded);
}

int64_t abl_folded_bytes(const abl_model *model, const abl_graph *graph, bool fold) {
    const abl_model_config *c = abl_model_get_config(model);
    bool expanded = is_expanded(c, graph);
    bool folds = fold && !abl_model_get_processing(model).fold_norm; /* else as stored */
    if (!folds && !expanded) {
        return 0;
    }
    int64_t heads = c->n_heads + 2LL * (expanded ? c->n_heads : c->n_kv_heads);
    return (int64_t)c->n_layers * (c->d_model + 1) * heads * c->d_head *
           (int64_t)abl_dtype_bytes(folds ? ABL_DTYPE_F32 : abl_model_dtype(model));
}

abl_tensor *abl_folded_norm(abl_scope *scope, const abl_folded *folded, int layer,
                            const abl_tensor *x) {
    const abl_model *model = folded->model;
    if (!folded->fold) {
        return abl_block_norm_forward(scope, model, layer, ABL_BLOCK_NORM_1, x, NULL, NULL);
    }
    return abl_tensor_norm(scope, abl_model_norm_kind(model), x, NULL, NULL,
                           abl_model_get_config(model)->norm_eps, NULL, NULL);
}

abl_tensor *abl_folded_project(abl_scope *scope, const abl_folded *folded, int layer,
                               const abl_tensor *xhat) {
    if (xhat == NULL) {
        return NULL;
    }
    const abl_folded_layer *weights = &folded->layers[layer];
    abl_tensor *qkv = abl_tensor_linear(scope, xhat, weights->w, weights->b);
    return abl_tensor_view(scope, qkv, 4,
                           (const int64_t[]){abl_tensor_size(xhat, 0), abl_tensor_size(xhat, 1),
                                             folded->heads, folded->d_head});
}

abl_qkv abl_folded_views(abl_scope *scope, const abl_folded *folded, const abl_tensor *qkv) {
    int64_t q_end = folded->q_heads;
    int64_t k_end = q_end + folded->kv_heads;
    return (abl_qkv){.q = abl_tensor_slice(scope, qkv, 2, 0, q_end),
                     .k = abl_tensor_slice(scope, qkv, 2, q_end, k_end),
                     .v = abl_tensor_slice(scope, qkv, 2, k_end, folded->heads)};
}

abl_code abl_graph_check_model(const abl_graph *graph, const abl_model *model,
                               abl_status *ret_status) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    const abl_model_config *c = abl_model_get_config(model);
    if (o->layer_count != c->n_layers || o->head_count != c->n_heads ||
        o->kv_head_count != c->n_kv_heads || o->parallel_attn_mlp != c->parallel_attn_mlp ||
        o->attn_only != c->attn_only) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRAPH_MODEL_MISMATCH",
                        "the graph is of %d layers, %d heads, %d kv heads%s%s; the model has %d, "
                        "%d, %d%s%s",
                        o->layer_count, o->head_count, o->kv_head_count,
                        o->parallel_attn_mlp ? ", parallel" : "",
                        o->attn_only ? ", attention only" : "", c->n_layers, c->n_heads,
                        c->n_kv_heads, c->parallel_attn_mlp ? ", parallel" : "",
                        c->attn_only ? ", attention only" : "");
    }
    return ABL_CODE_OK;
}

abl_code abl_batches_check_model(const abl_batches *batches, const abl_graph *graph,
                                 const abl_model *model, abl_status *ret_status) {
    abl_code code = abl_batches_check(batches, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const abl_model_config *c = abl_model_get_config(model);
    int32_t id_max = abl_dataset_id_max(batches->dataset);
    if (id_max >= c->d_vocab) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE",
                        "the dataset has token id %d; this model has ids 0 to %d", id_max,
                        c->d_vocab - 1);
    }
    int32_t answer_max = abl_dataset_answer_id_max(batches->dataset);
    if (answer_max >= c->d_vocab_out) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE",
                        "the dataset has answer id %d; this model has logits of ids 0 to %d",
                        answer_max, c->d_vocab_out - 1);
    }
    int32_t positions = abl_graph_options_of(graph)->seq_len;
    int32_t seq = abl_dataset_seq_len(batches->dataset);
    if (positions != 0 && positions != seq) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_LEN_MISMATCH",
                        "the graph has %d positions, the prompts have %d tokens%s", positions, seq,
                        abl_dataset_has_bos(batches->dataset) ? " (BOS included)" : "");
    }
    abl_batch first = abl_batches_at(batches, 0);
    code = abl_prefix_check(batches->prefix, model, first.seq_len, ret_status);
    return code != ABL_CODE_OK
               ? code
               : abl_tokens_check(c, first.clean, first.size, first.seq_len, ret_status);
}
