/* SPDX-License-Identifier: Apache-2.0
 *
 * One pass, layer by layer, with a question at each hook point: does anybody want this tensor? What
 * is captured is what was computed anyway, kept and not copied; inputs that TransformerLens repeats
 * for every head are views of one tensor here, expanded only when somebody reads them out.
 *
 * Two things are skipped when nobody can see them: at out_slice LAST the last block computes keys
 * and values for all positions but everything else for the last one only; and temporaries go at
 * the end of each layer, so a pass holds one layer's worth.
 *
 * A pass that is intervened in, patched, or wants gradients goes hook point by hook point instead:
 * hooked.c. */
#include "core/model/forward.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/model/block.h"
#include "core/model/capture.h"
#include "core/model/hooked.h"

typedef struct pass {
    const abl_forward_options *options;
    const abl_model *model;
    const abl_model_config *config;
    abl_scope *scope;
    abl_captures captures;
    abl_forward_result *result;
} pass;

/* ---- Checks ------------------------------------------------------------------------------ */

abl_code abl_tokens_check(const abl_model_config *config, const int32_t *tokens, int64_t batch,
                          int64_t seq, abl_status *ret_status) {
    if (batch < 1 || batch > ABL_BATCH_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_INVALID",
                        "tokens: a batch has 1 to %d rows, not %lld", ABL_BATCH_MAX,
                        (long long)batch);
    }
    int64_t seq_max = (config->n_ctx < ABL_SEQ_MAX) ? config->n_ctx : ABL_SEQ_MAX;
    if (seq < 1 || seq > seq_max) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID",
                        "tokens: this model takes 1 to %lld positions, not %lld",
                        (long long)seq_max, (long long)seq);
    }
    for (int64_t i = 0; i < batch * seq; i++) {
        if (tokens[i] < 0 || tokens[i] >= config->d_vocab) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE",
                            "tokens: row %lld, position %lld is %d; the vocabulary has ids 0 to %d",
                            (long long)(i / seq), (long long)(i % seq), tokens[i],
                            config->d_vocab - 1);
        }
    }
    return ABL_CODE_OK;
}

static abl_code check_stop(const abl_forward_options *options, const abl_model_config *config,
                           abl_status *ret_status) {
    int stop = options->stop_at_layer;
    if (stop < -1 || stop > config->n_layers) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "LAYER_OUT_OF_RANGE",
                        "stop_at_layer: %d is not in 0 to %d (or -1, to run to the end)", stop,
                        config->n_layers);
    }
    return ABL_CODE_OK;
}

/* ---- Capturing --------------------------------------------------------------------------- */

static bool wants(const pass *p, abl_hook_point point, int layer) {
    return abl_captures_want(&p->captures, point, layer);
}

static void capture(pass *p, abl_hook_point point, int layer, abl_tensor *tensor) {
    abl_captures_keep(&p->captures, p->scope, point, layer, tensor);
}

/* (batch, pos, d) seen as (batch, pos, heads, d): one memory for all heads. */
static abl_tensor *for_heads(pass *p, const abl_tensor *x, int64_t heads) {
    abl_tensor *one = abl_tensor_unsqueeze(p->scope, x, 2);
    return abl_tensor_expand(p->scope, one, 4, (const int64_t[]){-1, -1, heads, -1});
}

static void capture_for_heads(pass *p, abl_hook_point point, int layer, const abl_tensor *x,
                              int64_t heads) {
    if (wants(p, point, layer)) {
        capture(p, point, layer, for_heads(p, x, heads));
    }
}

/* 1 / rstd, which is TransformerLens's scale. */
static abl_tensor *scale_of(pass *p, const abl_tensor *rstd) {
    if (rstd == NULL) {
        return NULL;
    }
    const int64_t shape[] = {1};
    return abl_tensor_div(p->scope, abl_tensor_full(p->scope, ABL_DTYPE_F32, 1, shape, 1.0), rstd);
}

/* A norm and its two points. For RMS norms TransformerLens's hook_normalized is before the gain,
 * for layer norms after it. */
static abl_tensor *run_norm(pass *p, int layer, abl_block_norm which, const abl_tensor *x,
                            abl_hook_point scale_point, abl_hook_point normalized_point) {
    bool rms = p->config->norm == ABL_NORM_RMS;
    bool per_head = which == ABL_BLOCK_NORM_1 && p->options->per_head_inputs;
    int hook_layer = (which == ABL_BLOCK_NORM_FINAL) ? -1 : layer;
    bool want_scale = wants(p, scale_point, hook_layer);
    bool want_xhat = rms && wants(p, normalized_point, hook_layer);
    abl_tensor *xhat = NULL;
    abl_tensor *rstd = NULL;
    abl_tensor *y = abl_block_norm_forward(p->scope, p->model, layer, which, x,
                                           want_xhat ? &xhat : NULL, want_scale ? &rstd : NULL);
    abl_tensor *normalized = rms ? xhat : y;
    abl_tensor *scale = want_scale ? scale_of(p, rstd) : NULL;
    if (per_head) {
        capture_for_heads(p, scale_point, hook_layer, scale, p->config->n_kv_heads);
        capture_for_heads(p, normalized_point, hook_layer, normalized, p->config->n_kv_heads);
    } else {
        capture(p, scale_point, hook_layer, scale);
        capture(p, normalized_point, hook_layer, normalized);
    }
    return y;
}

/* ---- One block --------------------------------------------------------------------------- */

/* resid (batch, pos, d_model) to the attention's output; at the last q_pos positions, 0: all. */
static abl_tensor *run_attention(pass *p, int layer, abl_tensor *resid, int64_t q_pos) {
    const abl_model_config *c = p->config;
    capture_for_heads(p, ABL_HOOK_ATTN_IN, layer, resid, c->n_heads);
    capture_for_heads(p, ABL_HOOK_Q_INPUT, layer, resid, c->n_heads);
    capture_for_heads(p, ABL_HOOK_K_INPUT, layer, resid, c->n_kv_heads);
    capture_for_heads(p, ABL_HOOK_V_INPUT, layer, resid, c->n_kv_heads);
    abl_tensor *normed =
        run_norm(p, layer, ABL_BLOCK_NORM_1, resid, ABL_HOOK_LN1_SCALE, ABL_HOOK_LN1_NORMALIZED);
    abl_qkv qkv = abl_block_qkv(p->scope, p->model, layer, normed, q_pos);
    capture(p, ABL_HOOK_Q, layer, qkv.q);
    capture(p, ABL_HOOK_K, layer, qkv.k);
    capture(p, ABL_HOOK_V, layer, qkv.v);
    abl_qkv seen = abl_prefix_qkv(p->scope, p->model, p->options->prefix, layer, qkv);
    capture(p, ABL_HOOK_ROT_Q, layer, seen.q);
    capture(p, ABL_HOOK_ROT_K, layer, seen.k); /* the prefix's too, as in TransformerLens */
    abl_tensor *scores = NULL;
    abl_tensor *pattern = NULL;
    abl_tensor *z = abl_block_attention(p->scope, p->model, seen.q, seen.k, seen.v,
                                        wants(p, ABL_HOOK_ATTN_SCORES, layer) ? &scores : NULL,
                                        wants(p, ABL_HOOK_PATTERN, layer) ? &pattern : NULL);
    capture(p, ABL_HOOK_ATTN_SCORES, layer, scores);
    capture(p, ABL_HOOK_PATTERN, layer, pattern);
    capture(p, ABL_HOOK_Z, layer, z);
    if (wants(p, ABL_HOOK_RESULT, layer)) {
        capture(p, ABL_HOOK_RESULT, layer,
                abl_block_head_results(p->scope, p->model, layer, z, NULL));
    }
    abl_tensor *out = abl_block_attn_out(p->scope, p->model, layer, z);
    capture(p, ABL_HOOK_ATTN_OUT, layer, out);
    return out;
}

static abl_tensor *run_mlp(pass *p, int layer, abl_tensor *resid) {
    capture(p, ABL_HOOK_MLP_IN, layer, resid);
    abl_tensor *normed =
        run_norm(p, layer, ABL_BLOCK_NORM_2, resid, ABL_HOOK_LN2_SCALE, ABL_HOOK_LN2_NORMALIZED);
    bool save = wants(p, ABL_HOOK_MLP_PRE, layer) || wants(p, ABL_HOOK_MLP_PRE_LINEAR, layer) ||
                wants(p, ABL_HOOK_MLP_POST, layer);
    abl_mlp_saved saved = {.pre = NULL};
    abl_tensor *out = abl_block_mlp(p->scope, p->model, layer, normed, save ? &saved : NULL);
    capture(p, ABL_HOOK_MLP_PRE, layer, saved.pre);
    capture(p, ABL_HOOK_MLP_PRE_LINEAR, layer, saved.up);
    capture(p, ABL_HOOK_MLP_POST, layer, saved.post);
    capture(p, ABL_HOOK_MLP_OUT, layer, out);
    return out;
}

static abl_tensor *last_positions(pass *p, abl_tensor *x, int64_t count) {
    if (x == NULL) {
        return NULL;
    }
    int64_t pos = abl_tensor_size(x, 1);
    return (count == pos) ? x : abl_tensor_slice(p->scope, x, 1, pos - count, pos);
}

static abl_tensor *run_block(pass *p, int layer, abl_tensor *resid, int64_t q_pos) {
    capture(p, ABL_HOOK_RESID_PRE, layer, resid);
    abl_tensor *attn_out = run_attention(p, layer, resid, q_pos);
    if (q_pos > 0) {
        resid = last_positions(p, resid, q_pos);
    }
    abl_tensor *mid = abl_tensor_add(p->scope, resid, attn_out);
    if (p->config->parallel_attn_mlp || p->config->attn_only) {
        if (!p->config->attn_only) {
            mid = abl_tensor_add(p->scope, mid, run_mlp(p, layer, resid));
        }
        capture(p, ABL_HOOK_RESID_POST, layer, mid);
        return mid;
    }
    capture(p, ABL_HOOK_RESID_MID, layer, mid);
    abl_tensor *post = abl_tensor_add(p->scope, mid, run_mlp(p, layer, mid));
    capture(p, ABL_HOOK_RESID_POST, layer, post);
    return post;
}

/* ---- The pass ---------------------------------------------------------------------------- */

abl_dtype abl_forward_dtype(const abl_forward_options *options) {
    bool wide =
        options->in_float32 || options->patch != NULL || abl_forward_wants_gradients(options);
    return wide ? ABL_DTYPE_F32 : abl_model_dtype(options->model);
}

/* Nobody sees any position but the last one of what comes after the last block's keys and
 * values. */
static bool only_last_position(const pass *p) {
    if (p->options->out_slice != ABL_OUT_SLICE_LAST || p->options->stop_at_layer >= 0) {
        return false;
    }
    for (int point = ABL_HOOK_Q; point <= ABL_HOOK_RESID_POST; point++) {
        if (wants(p, (abl_hook_point)point, p->config->n_layers - 1)) {
            return false;
        }
    }
    return !wants(p, ABL_HOOK_LN_FINAL_SCALE, -1) && !wants(p, ABL_HOOK_LN_FINAL_NORMALIZED, -1);
}

static abl_tensor *run_unembed(pass *p, abl_tensor *resid) {
    const abl_model_weights *weights = abl_model_get_weights(p->model);
    bool last = p->options->out_slice == ABL_OUT_SLICE_LAST;
    int64_t wanted_pos = p->options->seq;
    if (p->options->out_slice != ABL_OUT_SLICE_ALL) {
        wanted_pos = last ? 1 : p->options->seq - 1;
    }
    bool captured =
        wants(p, ABL_HOOK_LN_FINAL_SCALE, -1) || wants(p, ABL_HOOK_LN_FINAL_NORMALIZED, -1);
    if (!captured) {
        resid = last_positions(p, resid, wanted_pos);
    }
    abl_tensor *normed = run_norm(p, 0, ABL_BLOCK_NORM_FINAL, resid, ABL_HOOK_LN_FINAL_SCALE,
                                  ABL_HOOK_LN_FINAL_NORMALIZED);
    normed = last_positions(p, normed, wanted_pos);
    abl_tensor *logits =
        abl_block_unembed_normed(p->scope, p->model, normed, weights->unembed, weights->b_unembed);
    if (last) {
        logits = abl_tensor_squeeze(p->scope, logits, 1);
    }
    capture(p, ABL_HOOK_UNEMBED, -1, logits);
    return logits;
}

static abl_tensor *run_embed(pass *p) {
    const abl_forward_options *o = p->options;
    abl_tensor *tokens = abl_block_tokens(p->scope, o->tokens, o->batch, o->seq);
    abl_tensor *embed = NULL;
    abl_tensor *positions = NULL;
    abl_tensor *resid = abl_block_embed(p->scope, p->model, abl_forward_dtype(o), tokens,
                                        abl_prefix_length(o->prefix), &embed, &positions);
    capture(p, ABL_HOOK_EMBED, -1, embed);
    if (wants(p, ABL_HOOK_POS_EMBED, -1)) {
        capture(p, ABL_HOOK_POS_EMBED, -1,
                abl_tensor_expand(p->scope, positions, 3, (const int64_t[]){o->batch, -1, -1}));
    }
    return resid;
}

bool abl_forward_ends(const abl_forward_options *options, abl_scope *scope, int layer) {
    if (options->cancelled_cb != NULL && options->cancelled_cb(options->user_data)) {
        abl_status status;
        (void)abl_fail(&status, ABL_CODE_CANCELLED, "RUN_CANCELLED",
                       "the pass was cancelled before layer %d", layer);
        abl_scope_fail(scope, &status);
    }
    return abl_scope_failed(scope);
}

static abl_code run(pass *p, abl_status *ret_status) {
    const abl_forward_options *o = p->options;
    int stop = (o->stop_at_layer < 0) ? p->config->n_layers : o->stop_at_layer;
    int64_t last_q_pos = only_last_position(p) ? 1 : 0;
    abl_tensor *resid = run_embed(p);
    for (int layer = 0; layer < stop && !abl_forward_ends(o, p->scope, layer); layer++) {
        size_t mark = abl_scope_mark(p->scope);
        resid = run_block(p, layer, resid, layer + 1 == p->config->n_layers ? last_q_pos : 0);
        abl_scope_rewind(p->scope, mark, &resid, 1);
    }
    if (o->stop_at_layer >= 0) {
        p->result->residual = abl_tensor_keep(resid);
    } else {
        p->result->logits = abl_tensor_keep(run_unembed(p, resid));
    }
    return abl_scope_status(p->scope, ret_status);
}

abl_code abl_forward(const abl_forward_options *options, abl_forward_result *ret_result,
                     abl_status *ret_status) {
    ABL_ASSERT(options->model != NULL && options->tokens != NULL);
    abl_forward_result result = {.logits = NULL};
    pass p = {.options = options,
              .model = options->model,
              .config = abl_model_get_config(options->model),
              .result = &result};
    abl_code code =
        abl_tokens_check(p.config, options->tokens, options->batch, options->seq, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_prefix_check(options->prefix, options->model, options->seq, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = check_stop(options, p.config, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_captures_plan(options, &result, &p.captures, ret_status);
    }
    if (code == ABL_CODE_OK && abl_hooked_is_needed(&p.captures)) {
        code = abl_hooked_run(&p.captures, ret_status);
    } else if (code == ABL_CODE_OK) {
        p.scope = abl_scope_create(abl_model_device(options->model));
        code = (p.scope == NULL) ? abl_fail_oom(ret_status) : run(&p, ret_status);
    }
    abl_scope_destroy(p.scope);
    abl_captures_finish(&p.captures);
    if (code != ABL_CODE_OK) {
        abl_forward_result_finish(&result);
        return code;
    }
    *ret_result = result;
    return ABL_CODE_OK;
}

abl_code abl_forward_check(const abl_forward_options *options, abl_status *ret_status) {
    abl_forward_result result = {.logits = NULL};
    abl_captures captures;
    abl_code code = abl_captures_plan(options, &result, &captures, ret_status);
    if (code != ABL_CODE_OK) {
        abl_forward_result_finish(&result);
        return code;
    }
    code = abl_hooked_is_needed(&captures) ? abl_hooked_check(&captures, ret_status) : code;
    abl_captures_finish(&captures);
    abl_forward_result_finish(&result);
    return code;
}

void abl_forward_result_finish(abl_forward_result *result) {
    for (size_t i = 0; i < result->entry_count; i++) {
        abl_tensor_release(result->entries[i].tensor);
    }
    abl_free(result->entries);
    abl_tensor_release(result->logits);
    abl_tensor_release(result->residual);
    *result = (abl_forward_result){.logits = NULL};
}

/* ---- Admission --------------------------------------------------------------------------- */

/* Floats a token of the widest layer: residuals, norms, q k v, z, MLP before and after. */
static uint64_t floats_per_token(const abl_model_config *c) {
    uint64_t heads = (uint64_t)c->n_heads + 2 * (uint64_t)c->n_kv_heads;
    return 8 * (uint64_t)c->d_model + 3 * heads * (uint64_t)c->d_head + 4 * (uint64_t)c->d_mlp;
}

uint64_t abl_forward_bytes(const abl_forward_options *options) {
    const abl_model_config *c = abl_model_get_config(options->model);
    uint64_t batch = (uint64_t)options->batch;
    uint64_t seq = (uint64_t)options->seq;
    uint64_t out_pos = (options->out_slice == ABL_OUT_SLICE_LAST) ? 1 : seq;
    uint64_t scores = 3 * batch * (uint64_t)c->n_heads * seq * seq;
    uint64_t layer = batch * seq * floats_per_token(c) + scores +
                     (uint64_t)abl_prefix_pass_floats(options->prefix, c, c->n_kv_heads,
                                                      options->batch, options->seq);
    uint64_t layers_held = 1;
    if (options->capture_all || options->hook_count > 0) {
        layers_held = (uint64_t)c->n_layers; /* an upper bound, whatever was asked for */
        if (options->per_head_inputs || !options->capture_all) {
            layer += batch * seq * (uint64_t)c->n_heads * (uint64_t)c->d_model; /* hook_result */
        }
    }
    if (abl_forward_wants_gradients(options)) {
        layers_held = 4 * (uint64_t)c->n_layers; /* every step of every layer, and its gradient */
        out_pos = 3 * seq;
    } else if (options->interventions.count > 0) {
        layers_held += 3;
        out_pos = seq;
    }
    uint64_t logits = 2 * batch * out_pos * (uint64_t)c->d_vocab_out;
    bool wide = abl_forward_dtype(options) == ABL_DTYPE_F32;
    return 4 * (layer * layers_held + logits) +
           (wide ? (uint64_t)abl_block_widened_bytes(options->model) : 0);
}
