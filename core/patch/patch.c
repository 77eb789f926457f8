// SPDX-License-Identifier: Apache-2.0
/* One masked pass: the checks of what came from outside, then patcher.c. */
#include "core/patch/patch.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/patch/patcher.h"

#include <math.h>

static abl_code ablated_check(const abl_patch_options *o, abl_status *ret_status) {
    if (o->mask == NULL || o->ablation == ABL_ABLATION_ZERO) {
        return ABL_CODE_OK;
    }
    if (o->ablated == NULL || o->ablated->batch != o->batch || o->ablated->seq != o->seq) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_INVALID",
                        "the ablation is of %d prompts of %d tokens, the input of %d of %d; they "
                        "must have one shape",
                        o->ablated == NULL ? 0 : o->ablated->batch,
                        o->ablated == NULL ? 0 : o->ablated->seq, o->batch, o->seq);
    }
    return ABL_CODE_OK;
}

static abl_code options_check(const abl_patch_options *o, abl_status *ret_status) {
    abl_code code =
        abl_tokens_check(abl_model_get_config(o->model), o->tokens, o->batch, o->seq, ret_status);
    if (code == ABL_CODE_OK) {
        code = ablated_check(o, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    int32_t positions = abl_graph_options_of(o->graph)->seq_len;
    if (positions != 0 && positions != o->seq) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_LEN_MISMATCH",
                        "the graph has %d positions, the input has %d tokens", positions, o->seq);
    }
    if (o->slice == ABL_PATCH_NOT_FIRST_SEQ && o->seq < 2) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID",
                        "out_slice not_first_seq of %d token leaves nothing", o->seq);
    }
    int64_t count = o->mask == NULL ? 0 : abl_graph_edge_count(o->graph);
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(o->mask[i])) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_NOT_FINITE",
                            "the mask of edge %lld is %g; masks must be finite", (long long)i,
                            (double)o->mask[i]);
        }
    }
    return ABL_CODE_OK;
}

/* The mask through its function, as a copy; the mask itself where there is none. */
static float *mask_apply(const abl_patch_options *o) {
    int64_t count = abl_graph_edge_count(o->graph);
    float *mask = abl_calloc((size_t)count, sizeof *mask);
    for (int64_t i = 0; mask != NULL && i < count; i++) {
        float value = o->mask == NULL ? 0.0F : o->mask[i];
        mask[i] = 1.0F / (1.0F + expf(-value));
    }
    return mask;
}

abl_code abl_patch_forward(const abl_patch_options *options, float *ret_logits,
                           abl_status *ret_status) {
    ABL_ASSERT(options->model != NULL && options->graph != NULL && options->tokens != NULL);
    abl_code code = abl_graph_check_model(options->graph, options->model, ret_status);
    if (code == ABL_CODE_OK) {
        code = options_check(options, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_patch_options plain = *options;
    ABL_CLEANUP(abl_freep) float *mask = NULL;
    if (options->mask_function == ABL_MASK_SIGMOID) {
        mask = mask_apply(options);
        if (mask == NULL) {
            return abl_fail_oom(ret_status);
        }
        plain.mask = mask;
        code = ablated_check(&plain, ret_status); /* sigmoid(0) ablates: it needs an ablation */
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    abl_patcher *patcher = NULL;
    code = abl_patcher_create(options->model, options->graph, &patcher, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_patcher_run(patcher, &plain, ret_logits, ret_status);
    }
    abl_patcher_destroy(patcher);
    return code;
}

int64_t abl_patch_logit_count(const abl_patch_options *options) {
    int64_t vocab = abl_model_get_config(options->model)->d_vocab;
    int64_t positions = options->slice == ABL_PATCH_LAST_SEQ        ? 1
                        : options->slice == ABL_PATCH_NOT_FIRST_SEQ ? options->seq - 1
                                                                    : options->seq;
    return options->batch * positions * vocab;
}

int64_t abl_patch_bytes_estimate(const abl_patch_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    const abl_graph_options *o = abl_graph_options_of(options->graph);
    int64_t tokens = (int64_t)options->batch * options->seq;
    bool expanded = o->joined_qkv || o->gqa == ABL_GQA_EXPANDED;
    int64_t heads = c->n_heads + 2LL * (expanded ? c->n_heads : c->n_kv_heads);
    int64_t arena = (2LL + abl_graph_src_count(options->graph)) * c->d_model;
    int64_t layer = (2 * heads + 12) * c->d_model + 4 * heads * c->d_head + 4LL * c->d_mlp +
                    3LL * c->n_heads * options->seq;
    return 4 * (tokens * (arena + layer) + 2 * abl_patch_logit_count(options) +
                abl_graph_edge_count(options->graph)) +
           abl_folded_bytes(options->model, options->graph, false);
}
