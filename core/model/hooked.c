/* SPDX-License-Identifier: Apache-2.0
 *
 * TransformerLens's forward pass, operation by operation: each hook point is a tensor of its own,
 * and `at` is where it is intervened in and captured, in that order. It is slower than forward.c's,
 * which fuses what nobody looks at, and runs only when somebody does more than look.
 *
 * Heads have inputs of their own (SPLIT, JOINED) in a patched pass, or where an intervention or a
 * gradient is about those inputs; the norm before them is then one a head. Such a layer's ln1
 * points are what TransformerLens's are under use_split_qkv_input, where the same hook fires for q,
 * k and v: an intervention acts on all three, a capture is v's, and a gradient is refused.
 *
 * With gradients nothing is let go between layers: hooked_backward.c reads it back. */
#include "core/model/hooked.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/hooked_internal.h"

#include <math.h>

bool abl_hooked_is_needed(const abl_captures *captures) {
    const abl_forward_options *o = captures->options;
    return o->interventions.count > 0 || o->patch != NULL || captures->gradients;
}

/* ---- Hook points ------------------------------------------------------------------------- */

/* `firing`: which of the times that the point fires in its layer. */
static abl_tensor *intervene(abl_hooked_pass *p, abl_hook_point point, int layer, int firing,
                             abl_tensor *x) {
    const size_t count = p->options->interventions.count;
    if (count == 0) {
        return x;
    }
    abl_hook_layout layout = abl_hook_layout_of(p->config, point, &p->shape);
    return abl_interventions_apply(p->scope, p->options->interventions,
                                   (abl_hook){.point = point, .layer = layer}, &layout, x,
                                   p->saved + (size_t)firing * count);
}

static abl_tensor *at(abl_hooked_pass *p, abl_hook_point point, int layer, abl_tensor *x) {
    x = intervene(p, point, layer, 0, x);
    abl_captures_keep(p->captures, p->scope, point, layer, x);
    return x;
}

/* ---- Norms ------------------------------------------------------------------------------- */

/* Where ln1 fires for q, k and v each, its captures are v's. */
static bool is_shown(const abl_hooked_pass *p, const abl_hooked_norm_place *place) {
    return place->which != ABL_BLOCK_NORM_1 || place->firing == 2 ||
           p->layers[place->layer].inputs != ABL_INPUTS_SPLIT;
}

static abl_tensor *norm_point(abl_hooked_pass *p, const abl_hooked_norm_place *place,
                              abl_hook_point point, abl_tensor *x) {
    x = intervene(p, point, place->layer, place->firing, x);
    if (is_shown(p, place)) {
        abl_captures_keep(p->captures, p->scope, point, place->layer, x);
    }
    return x;
}

/* x (batch, pos, heads?, d_model), computed in float32 as TransformerLens does. For RMS norms
 * hook_normalized is before the gain, for layer norms after it. */
static abl_tensor *run_norm(abl_hooked_pass *p, const abl_hooked_norm_place *place,
                            abl_hooked_norm *saved, abl_tensor *x) {
    abl_scope *scope = p->scope;
    bool rms = p->config->norm == ABL_NORM_RMS;
    const int64_t last[] = {-1};
    abl_tensor *bias = NULL;
    abl_tensor *gain = abl_hooked_gain(p, place, &bias);
    if (p->config->norm == ABL_NORM_NONE) {
        return x;
    }
    x = abl_tensor_to_dtype(scope, x, ABL_DTYPE_F32);
    saved->centred = rms ? x : abl_tensor_sub(scope, x, abl_tensor_mean(scope, x, last, 1, true));
    abl_tensor *square = abl_tensor_mul(scope, saved->centred, saved->centred);
    saved->raw_scale = abl_tensor_sqrt(
        scope, abl_tensor_add_scalar(scope, abl_tensor_mean(scope, square, last, 1, true),
                                     p->config->norm_eps));
    saved->scale = norm_point(p, place, place->scale, saved->raw_scale);
    saved->n = abl_tensor_div(scope, saved->centred, saved->scale);
    abl_tensor *y = rms ? norm_point(p, place, place->normalized, saved->n) : saved->n;
    y = gain == NULL ? y : abl_tensor_mul(scope, y, gain);
    y = bias == NULL ? y : abl_tensor_add(scope, y, bias);
    y = rms ? y : norm_point(p, place, place->normalized, y);
    return abl_tensor_to_dtype(scope, y, abl_forward_dtype(p->options));
}

static abl_tensor *run_norm1(abl_hooked_pass *p, int layer, int which, abl_tensor *x) {
    const abl_hooked_norm_place place = abl_hooked_norm_at(ABL_BLOCK_NORM_1, layer, which);
    return run_norm(p, &place, &p->layers[layer].norm1[which], x);
}

/* ---- Attention --------------------------------------------------------------------------- */

/* Each head's own input (batch, pos, heads, d_model), normed, to (batch, pos, heads, d_head). */
static abl_tensor *project(abl_hooked_pass *p, int layer, int which, const abl_tensor *x) {
    if (x == NULL) {
        return NULL;
    }
    abl_tensor *bias = NULL;
    abl_tensor *w = abl_hooked_head_weights(p, layer, which, abl_tensor_size(x, 2), &bias);
    abl_tensor *y = abl_hooked_head_products(p->scope, x, w);
    return bias == NULL ? y : abl_tensor_add(p->scope, y, bias);
}

static abl_tensor *for_heads(abl_hooked_pass *p, const abl_tensor *x, int64_t heads) {
    return abl_tensor_expand(p->scope, abl_tensor_unsqueeze(p->scope, x, 2), 4,
                             (const int64_t[]){-1, -1, heads, -1});
}

static abl_qkv split_inputs(abl_hooked_pass *p, int layer, abl_tensor *resid) {
    const int64_t heads = p->config->n_heads;
    const int64_t kv = p->shape.kv_heads;
    if (abl_hooked_wants(p, ABL_HOOK_ATTN_IN, layer)) {
        (void)at(p, ABL_HOOK_ATTN_IN, layer, for_heads(p, resid, heads));
    }
    abl_qkv in = {.q = NULL};
    if (abl_forward_patches_inputs(p->patch)) {
        abl_tensor *all = p->patch->heads_input_cb(p->patch->user_data, p->scope, layer, resid);
        in.q = abl_tensor_slice(p->scope, all, 2, 0, heads);
        in.k = abl_tensor_slice(p->scope, all, 2, heads, heads + kv);
        in.v = abl_tensor_slice(p->scope, all, 2, heads + kv, heads + 2 * kv);
    } else {
        in = (abl_qkv){.q = for_heads(p, resid, heads),
                       .k = for_heads(p, resid, kv),
                       .v = for_heads(p, resid, kv)};
    }
    in.q = run_norm1(p, layer, 0, at(p, ABL_HOOK_Q_INPUT, layer, in.q));
    in.k = run_norm1(p, layer, 1, at(p, ABL_HOOK_K_INPUT, layer, in.k));
    in.v = run_norm1(p, layer, 2, at(p, ABL_HOOK_V_INPUT, layer, in.v));
    return in;
}

static abl_qkv run_projection(abl_hooked_pass *p, int layer, abl_tensor *resid) {
    const int64_t heads = p->config->n_heads;
    switch (p->layers[layer].inputs) {
    case ABL_INPUTS_SPLIT: {
        abl_qkv in = split_inputs(p, layer, resid);
        return (abl_qkv){.q = project(p, layer, 0, in.q),
                         .k = project(p, layer, 1, in.k),
                         .v = project(p, layer, 2, in.v)};
    }
    case ABL_INPUTS_JOINED: {
        abl_tensor *in = abl_forward_patches_inputs(p->patch)
                             ? p->patch->heads_input_cb(p->patch->user_data, p->scope, layer, resid)
                             : for_heads(p, resid, heads);
        in = run_norm1(p, layer, 0, at(p, ABL_HOOK_ATTN_IN, layer, in));
        return (abl_qkv){.q = project(p, layer, 0, in),
                         .k = project(p, layer, 1, in),
                         .v = project(p, layer, 2, in)};
    }
    case ABL_INPUTS_SHARED:
        break;
    }
    const struct {
        abl_hook_point point;
        int64_t heads;
    } repeated[] = {{ABL_HOOK_ATTN_IN, heads},
                    {ABL_HOOK_Q_INPUT, heads},
                    {ABL_HOOK_K_INPUT, p->shape.kv_heads},
                    {ABL_HOOK_V_INPUT, p->shape.kv_heads}};
    for (size_t i = 0; i < ABL_COUNT_OF(repeated); i++) {
        if (abl_hooked_wants(p, repeated[i].point, layer)) {
            (void)at(p, repeated[i].point, layer, for_heads(p, resid, repeated[i].heads));
        }
    }
    return abl_block_qkv(p->scope, p->model, layer, run_norm1(p, layer, 0, resid), 0);
}

/* Whether a query does not see a key, both counted from the pass's first position. */
static bool is_hidden(abl_tensor_sees sees, int64_t query, int64_t key) {
    switch (sees) {
    case ABL_TENSOR_SEES_PAST:
        return key > query;
    case ABL_TENSOR_SEES_SELF:
        return key != query;
    case ABL_TENSOR_SEES_ALL:
        break;
    }
    return false;
}

static abl_tensor *attention_mask(abl_hooked_pass *p) {
    const abl_tensor_sees sees = abl_model_sees(p->model);
    const int64_t seq = p->options->seq;
    const int64_t keys = p->shape.prefix + seq;
    ABL_CLEANUP(abl_freep) float *host = abl_calloc((size_t)(seq * keys), sizeof *host);
    if (host == NULL) {
        abl_scope_fail_oom(p->scope);
        return NULL;
    }
    for (int64_t query = 0; query < seq; query++) {
        for (int64_t key = 0; key < keys; key++) {
            bool hidden = is_hidden(sees, query, key - p->shape.prefix);
            host[query * keys + key] = hidden ? -INFINITY : 0;
        }
    }
    abl_tensor *mask =
        abl_tensor_from_host(p->scope, ABL_DTYPE_F32, 2, (const int64_t[]){seq, keys}, host);
    return abl_tensor_to_dtype(p->scope, mask, abl_forward_dtype(p->options));
}

/* The layer's rotated q, k and its v to z (batch, pos, heads, d_head). */
static abl_tensor *mix_values(abl_hooked_pass *p, int layer) {
    abl_scope *scope = p->scope;
    const abl_model_config *c = p->config;
    abl_hooked_layer *saved = &p->layers[layer];
    const int64_t batch = p->options->batch;
    const int64_t seq = p->options->seq;
    const int64_t kv = p->shape.kv_heads;
    const int64_t keys = p->shape.prefix + seq;
    const int64_t by_head[] = {batch, c->n_heads, seq, keys};
    const int64_t by_group[] = {batch, kv, c->n_heads / kv, seq, keys};
    abl_tensor *k_t = abl_tensor_transpose(scope, abl_hooked_keys(p, saved->k), 3, 4);
    abl_tensor *scores = abl_tensor_matmul(scope, abl_hooked_grouped(p, saved->q), k_t);
    scores = abl_tensor_scale(scope, abl_tensor_reshape(scope, scores, 4, by_head),
                              abl_model_attn_scale(p->model));
    scores = at(p, ABL_HOOK_ATTN_SCORES, layer, abl_tensor_add(scope, scores, p->mask));
    saved->softmaxed = abl_tensor_softmax(scope, scores, -1);
    saved->pattern = at(p, ABL_HOOK_PATTERN, layer, saved->softmaxed);
    abl_tensor *grouped = abl_tensor_reshape(scope, saved->pattern, 5, by_group);
    abl_tensor *z = abl_tensor_matmul(scope, grouped, abl_hooked_keys(p, saved->v));
    z = abl_tensor_permute(scope, z, 5, (const int64_t[]){0, 3, 1, 2, 4});
    return abl_tensor_reshape(scope, z, 4, (const int64_t[]){batch, seq, c->n_heads, c->d_head});
}

static abl_tensor *run_results(abl_hooked_pass *p, int layer, abl_tensor *z) {
    abl_scope *scope = p->scope;
    abl_tensor *change = NULL;
    abl_tensor *out = NULL;
    if (abl_hooked_by_head(p, layer)) {
        abl_tensor *plain = abl_block_head_results(scope, p->model, layer, z, NULL);
        abl_tensor *result = at(p, ABL_HOOK_RESULT, layer, plain);
        change = abl_hooked_touches(p, ABL_HOOK_RESULT, layer)
                     ? abl_tensor_sub(scope, result, plain)
                     : NULL;
        const int64_t heads[] = {2};
        abl_tensor *bias = abl_model_get_block(p->model, layer)->b_o;
        out = abl_tensor_sum(scope, result, heads, 1, false);
        out = bias == NULL ? out : abl_tensor_add(scope, out, bias);
    } else {
        out = abl_block_attn_out(scope, p->model, layer, z);
    }
    if (p->patch != NULL) {
        p->patch->heads_cb(p->patch->user_data, scope, layer, z, change);
    }
    return out;
}

static abl_tensor *run_attention(abl_hooked_pass *p, int layer, abl_tensor *resid) {
    abl_hooked_layer *saved = &p->layers[layer];
    bool rope = p->config->positional == ABL_POSITIONAL_ROPE;
    abl_qkv qkv = run_projection(p, layer, resid);
    qkv.q = at(p, ABL_HOOK_Q, layer, qkv.q);
    qkv.k = at(p, ABL_HOOK_K, layer, qkv.k);
    qkv.v = at(p, ABL_HOOK_V, layer, qkv.v);
    qkv = abl_prefix_qkv(p->scope, p->model, p->options->prefix, layer, qkv);
    saved->q = rope ? at(p, ABL_HOOK_ROT_Q, layer, qkv.q) : qkv.q;
    saved->k = rope ? at(p, ABL_HOOK_ROT_K, layer, qkv.k) : qkv.k;
    saved->v = qkv.v;
    abl_tensor *z = at(p, ABL_HOOK_Z, layer, mix_values(p, layer));
    return at(p, ABL_HOOK_ATTN_OUT, layer, run_results(p, layer, z));
}

/* ---- MLP and block ----------------------------------------------------------------------- */

static abl_tensor *run_mlp(abl_hooked_pass *p, int layer, abl_tensor *resid) {
    abl_scope *scope = p->scope;
    const abl_model_config *c = p->config;
    const abl_block_weights *block = abl_model_get_block(p->model, layer);
    abl_hooked_layer *saved = &p->layers[layer];
    const abl_hooked_norm_place place = abl_hooked_norm_at(ABL_BLOCK_NORM_2, layer, 0);
    abl_tensor *in = abl_forward_patches_inputs(p->patch)
                         ? p->patch->mlp_input_cb(p->patch->user_data, scope, layer, resid)
                         : resid;
    abl_tensor *normed = run_norm(p, &place, &saved->norm2, at(p, ABL_HOOK_MLP_IN, layer, in));
    abl_tensor *both = abl_tensor_linear(scope, normed, block->w_in, block->b_in);
    abl_tensor *post = NULL;
    if (c->gated) {
        saved->mlp_pre = abl_tensor_slice(scope, both, -1, 0, c->d_mlp);
        saved->mlp_up = abl_tensor_slice(scope, both, -1, c->d_mlp, 2LL * c->d_mlp);
        saved->mlp_pre = at(p, ABL_HOOK_MLP_PRE, layer, saved->mlp_pre);
        saved->mlp_up = at(p, ABL_HOOK_MLP_PRE_LINEAR, layer, saved->mlp_up);
        post = abl_tensor_gate(scope, abl_model_act(p->model), saved->mlp_pre, saved->mlp_up);
    } else {
        saved->mlp_pre = at(p, ABL_HOOK_MLP_PRE, layer, both);
        post = abl_tensor_activate(scope, abl_model_act(p->model), saved->mlp_pre);
    }
    post = at(p, ABL_HOOK_MLP_POST, layer, post);
    abl_tensor *out = abl_tensor_linear(scope, post, block->w_out, block->b_out);
    out = at(p, ABL_HOOK_MLP_OUT, layer, out);
    if (p->patch != NULL) {
        p->patch->mlp_cb(p->patch->user_data, scope, layer, out);
    }
    return out;
}

/* The stream at its own hook points, RESID_MID and RESID_POST. */
static abl_tensor *run_node(abl_hooked_pass *p, abl_hook_point point, int layer, abl_tensor *x) {
    const abl_forward_patch *patch = p->patch;
    bool mid = point == ABL_HOOK_RESID_MID;
    if (patch != NULL) {
        x = patch->node_cb(patch->user_data, p->scope, layer, mid, x);
    }
    x = at(p, point, layer, x);
    if (patch != NULL && patch->node_emitted_cb != NULL) {
        patch->node_emitted_cb(patch->user_data, p->scope, layer, mid, x);
    }
    return x;
}

static abl_tensor *run_block(abl_hooked_pass *p, int layer, abl_tensor *resid) {
    abl_scope *scope = p->scope;
    bool parallel = p->config->parallel_attn_mlp;
    p->layers[layer].inputs = abl_hooked_inputs_of(p, layer);
    resid = at(p, ABL_HOOK_RESID_PRE, layer, resid);
    if (p->patch != NULL && layer == 0) {
        p->patch->start_cb(p->patch->user_data, scope, resid);
    }
    abl_tensor *post = abl_tensor_add(scope, resid, run_attention(p, layer, resid));
    if (!p->config->attn_only) {
        abl_tensor *mid = parallel ? post : run_node(p, ABL_HOOK_RESID_MID, layer, post);
        post = abl_tensor_add(scope, mid, run_mlp(p, layer, parallel ? resid : mid));
    }
    return run_node(p, ABL_HOOK_RESID_POST, layer, post);
}

/* ---- The pass ---------------------------------------------------------------------------- */

static abl_tensor *run_embed(abl_hooked_pass *p) {
    const abl_forward_options *o = p->options;
    abl_tensor *tokens = abl_block_tokens(p->scope, o->tokens, o->batch, o->seq);
    abl_tensor *embed = NULL;
    abl_tensor *positions = NULL;
    (void)abl_block_embed(p->scope, p->model, abl_forward_dtype(o), tokens, p->shape.prefix, &embed,
                          &positions);
    embed = at(p, ABL_HOOK_EMBED, -1, embed);
    if (positions == NULL) {
        return embed;
    }
    positions = abl_tensor_expand(p->scope, positions, 3, (const int64_t[]){o->batch, -1, -1});
    positions = at(p, ABL_HOOK_POS_EMBED, -1, positions);
    return abl_tensor_add(p->scope, embed, positions);
}

static abl_tensor *sliced(abl_hooked_pass *p, abl_tensor *x) {
    const int64_t seq = p->options->seq;
    switch (p->options->out_slice) {
    case ABL_OUT_SLICE_LAST:
        return abl_tensor_slice(p->scope, x, 1, seq - 1, seq);
    case ABL_OUT_SLICE_NOT_FIRST:
        return abl_tensor_slice(p->scope, x, 1, 1, seq);
    case ABL_OUT_SLICE_ALL:
        break;
    }
    return x;
}

/* All positions are computed only where somebody sees them. */
static abl_tensor *run_unembed(abl_hooked_pass *p, abl_tensor *resid) {
    const abl_model_weights *weights = abl_model_get_weights(p->model);
    const abl_hooked_norm_place place = abl_hooked_norm_at(ABL_BLOCK_NORM_FINAL, -1, 0);
    bool all_logits = abl_hooked_touches(p, ABL_HOOK_UNEMBED, -1) || p->captures->gradients;
    bool all = all_logits || abl_hooked_touches(p, ABL_HOOK_LN_FINAL_SCALE, -1) ||
               abl_hooked_touches(p, ABL_HOOK_LN_FINAL_NORMALIZED, -1) ||
               abl_hooked_wants(p, ABL_HOOK_LN_FINAL_SCALE, -1) ||
               abl_hooked_wants(p, ABL_HOOK_LN_FINAL_NORMALIZED, -1);
    resid = all ? resid : sliced(p, resid);
    abl_tensor *normed = run_norm(p, &place, &p->norm_final, resid);
    normed = all && !all_logits ? sliced(p, normed) : normed;
    abl_tensor *logits =
        abl_block_unembed_normed(p->scope, p->model, normed, weights->unembed, weights->b_unembed);
    logits = intervene(p, ABL_HOOK_UNEMBED, -1, 0, logits);
    p->all_logits = logits;
    logits = all_logits ? sliced(p, logits) : logits;
    if (p->options->out_slice == ABL_OUT_SLICE_LAST) {
        logits = abl_tensor_squeeze(p->scope, logits, 1);
    }
    abl_captures_keep(p->captures, p->scope, ABL_HOOK_UNEMBED, -1, logits);
    return logits;
}

static abl_code run(abl_hooked_pass *p, abl_status *ret_status) {
    const abl_forward_options *o = p->options;
    int stop = (o->stop_at_layer < 0) ? p->config->n_layers : o->stop_at_layer;
    p->mask = attention_mask(p);
    abl_tensor *resid = run_embed(p);
    for (int layer = 0; layer < stop && !abl_forward_ends(o, p->scope, layer); layer++) {
        size_t mark = abl_scope_mark(p->scope);
        resid = run_block(p, layer, resid);
        if (!p->captures->gradients) {
            abl_scope_rewind(p->scope, mark, &resid, 1);
        }
    }
    if (o->stop_at_layer >= 0) {
        p->captures->result->residual = abl_tensor_keep(resid);
    } else {
        p->captures->result->logits = abl_tensor_keep(run_unembed(p, resid));
    }
    if (p->captures->gradients && !abl_scope_failed(p->scope)) {
        abl_hooked_backward(p);
    }
    return abl_scope_status(p->scope, ret_status);
}

static abl_hooked_pass pass_of(abl_captures *captures) {
    const abl_forward_options *o = captures->options;
    const bool own = abl_forward_patches_inputs(o->patch);
    abl_hooked_pass p = {.captures = captures,
                         .options = o,
                         .model = o->model,
                         .config = abl_model_get_config(o->model),
                         .patch = o->patch};
    p.shape = (abl_pass_shape){.batch = o->batch,
                               .seq = o->seq,
                               .prefix = abl_prefix_length(o->prefix),
                               .kv_heads = own ? o->patch->kv_heads : p.config->n_kv_heads,
                               .per_head_inputs = o->per_head_inputs || own};
    return p;
}

abl_code abl_hooked_check(abl_captures *captures, abl_status *ret_status) {
    const abl_hooked_pass p = pass_of(captures);
    return abl_hooked_pass_check(&p, ret_status);
}

abl_code abl_hooked_run(abl_captures *captures, abl_status *ret_status) {
    const size_t count = captures->options->interventions.count;
    abl_hooked_pass p = pass_of(captures);
    abl_code code = abl_hooked_pass_check(&p, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    p.saved = abl_calloc(3 * count + 1, sizeof *p.saved);
    p.layers = abl_calloc((size_t)p.config->n_layers, sizeof *p.layers);
    p.scope = abl_scope_create(abl_model_device(p.model));
    code = p.saved == NULL || p.layers == NULL || p.scope == NULL ? abl_fail_oom(ret_status)
                                                                  : run(&p, ret_status);
    abl_scope_destroy(p.scope);
    abl_free(p.layers);
    abl_free(p.saved);
    return code;
}
