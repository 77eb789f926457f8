// SPDX-License-Identifier: Apache-2.0
/* One masked pass: the checks of what came from outside, then patcher.c. */
#include "core/patch/patch.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/model/prefix.h"
#include "core/patch/hooked.h"
#include "core/patch/patcher.h"
#include "core/patch/simple.h"

#include <math.h>

static abl_code ablated_check(const abl_patch_options *o, abl_status *ret_status) {
    const abl_sources *ablated = o->ablated;
    if (ablated == NULL ||
        ((ablated->batch == 1 || ablated->batch == o->batch) && ablated->seq == o->seq &&
         ablated->prefix_length == abl_prefix_length(o->prefix))) {
        return ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_INVALID",
                    "the ablation is of %d prompts of %d tokens behind %d, the input of %d of %d "
                    "behind %lld; the ablation must be as long, and have as many prompts or one",
                    ablated->batch, ablated->seq, ablated->prefix_length, o->batch, o->seq,
                    (long long)abl_prefix_length(o->prefix));
}

abl_code abl_patch_check(const abl_patch_options *o, abl_status *ret_status) {
    ABL_ASSERT(o->model != NULL && o->graph != NULL && o->tokens != NULL);
    abl_code code = abl_graph_check_model(o->graph, o->model, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_tokens_check(abl_model_get_config(o->model), o->tokens, o->batch, o->seq,
                                ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_prefix_check(o->prefix, o->model, o->seq, ret_status);
    }
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
    if (o->out_slice == ABL_OUT_SLICE_NOT_FIRST && o->seq < 2) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID",
                        "out_slice not_first_seq of %d token leaves nothing", o->seq);
    }
    if (o->mask_batch < 0 || (o->mask_batch > 1 && o->mask_batch != o->batch)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_BATCH_MISMATCH",
                        "the mask is of %d rows, the input of %d prompts; a mask has one row for "
                        "all prompts or one for each",
                        o->mask_batch, o->batch);
    }
    if ((unsigned)o->mask_function >= ABL_MASK_FUNCTION_COUNT ||
        !(o->mask_dropout >= 0.0F && o->mask_dropout < 1.0F)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_FUNCTION_INVALID",
                        "mask function %d with dropout %g: there are %d functions, and dropout is "
                        "from 0 to below 1",
                        (int)o->mask_function, (double)o->mask_dropout, ABL_MASK_FUNCTION_COUNT);
    }
    int64_t edges = abl_graph_edge_count(o->graph);
    int64_t count = o->mask == NULL ? 0 : edges * (o->mask_batch > 1 ? o->mask_batch : 1);
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(o->mask[i])) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_NOT_FINITE",
                            "the mask of edge %lld is %g; masks must be finite",
                            (long long)(i % edges), (double)o->mask[i]);
        }
    }
    return ABL_CODE_OK;
}

abl_mask_sample_options abl_patch_mask_function(const abl_patch_options *o) {
    return (abl_mask_sample_options){.function = o->mask_function,
                                     .dropout = o->mask_dropout,
                                     .seed = o->seed,
                                     .draws = o->mask_draws,
                                     .mask = o->mask,
                                     .mask_rows = o->mask_batch > 1 ? o->mask_batch : 1,
                                     .edges = abl_graph_edge_count(o->graph),
                                     .rows = o->batch};
}

abl_code abl_patch_sample(const abl_patch_options *options, abl_patch_options *ret_plain,
                          abl_mask_sample *ret_sample, abl_status *ret_status) {
    abl_patch_options plain = *options;
    abl_mask_sample sample = {.values = NULL};
    bool drops = options->mask != NULL && options->mask_dropout != 0.0F;
    if (options->mask_function != ABL_MASK_NONE || drops) {
        const abl_mask_sample_options function = abl_patch_mask_function(options);
        abl_code code = abl_mask_sample_init(&function, &sample, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        plain.mask = sample.values;
        plain.mask_batch = (int32_t)sample.rows;
    }
    *ret_plain = plain;
    *ret_sample = sample;
    return ABL_CODE_OK;
}

abl_code abl_patcher_run_sampled(abl_patcher *patcher, const abl_patch_options *options,
                                 float *ret_logits, abl_status *ret_status) {
    abl_patch_options plain;
    abl_mask_sample sample;
    abl_code code = abl_patch_sample(options, &plain, &sample, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_patcher_run(patcher, &plain, ret_logits, ret_status);
        abl_mask_sample_finish(&sample);
    }
    return code;
}

abl_code abl_patch_forward(const abl_patch_options *options, float *ret_logits,
                           abl_status *ret_status) {
    abl_code code = abl_patch_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_patcher *patcher = NULL;
    if (options->interventions.count == 0) { /* else it is not looked at */
        code = abl_patcher_create(options->model, options->graph, &patcher, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_patcher_run_sampled(patcher, options, ret_logits, ret_status);
    }
    abl_patcher_destroy(patcher);
    return code;
}

int64_t abl_patch_logit_count(const abl_patch_options *options) {
    int64_t vocab = abl_model_get_config(options->model)->d_vocab_out;
    int64_t positions = options->out_slice == ABL_OUT_SLICE_LAST        ? 1
                        : options->out_slice == ABL_OUT_SLICE_NOT_FIRST ? options->seq - 1
                                                                        : options->seq;
    return options->batch * positions * vocab;
}

int64_t abl_patch_bytes_estimate(const abl_patch_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    const abl_graph_options *o = abl_graph_options_of(options->graph);
    if (options->interventions.count > 0) {
        return abl_patch_hooked_run_bytes(options, false);
    }
    if (o->simple) {
        return abl_simple_bytes(options, false) + abl_block_widened_bytes(options->model);
    }
    int64_t tokens = (int64_t)options->batch * options->seq;
    bool expanded = o->joined_qkv || o->gqa == ABL_GQA_EXPANDED;
    int64_t heads = c->n_heads + 2LL * (expanded ? c->n_heads : c->n_kv_heads);
    int64_t arena = (2LL + abl_graph_src_count(options->graph)) * c->d_model;
    int64_t layer = (2 * heads + 12) * c->d_model + 4 * heads * c->d_head + 4LL * c->d_mlp +
                    3LL * c->n_heads * options->seq;
    int64_t behind = abl_prefix_pass_floats(
        options->prefix, c, expanded ? c->n_heads : c->n_kv_heads, options->batch, options->seq);
    return 4 * (tokens * (arena + layer) + behind + 2 * abl_patch_logit_count(options) +
                abl_graph_edge_count(options->graph)) +
           abl_folded_bytes(options->model, options->graph, false) +
           abl_block_widened_bytes(options->model);
}
