/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pass hook point by hook point is asked for, and whether it can do it: which inputs the
 * heads of a layer have, and every hook that cannot fire as asked, before any work. */
#include "core/model/hooked_internal.h"

/* ---- What is asked for ------------------------------------------------------------------- */

bool abl_hooked_wants(const abl_hooked_pass *p, abl_hook_point point, int layer) {
    return abl_captures_want(p->captures, point, layer);
}

bool abl_hooked_touches(const abl_hooked_pass *p, abl_hook_point point, int layer) {
    return abl_interventions_touch(p->options->interventions, point, layer);
}

static bool wants_gradient(const abl_hooked_pass *p, abl_hook_point point, int layer) {
    return abl_captures_want_gradient(p->captures, point, layer);
}

bool abl_hooked_involves(const abl_hooked_pass *p, abl_hook_point point, int layer) {
    return abl_hooked_touches(p, point, layer) || wants_gradient(p, point, layer);
}

abl_hooked_inputs abl_hooked_inputs_of(const abl_hooked_pass *p, int layer) {
    if (abl_forward_patches_inputs(p->patch)) {
        return p->patch->joined ? ABL_INPUTS_JOINED : ABL_INPUTS_SPLIT;
    }
    if (p->options->per_head_inputs || abl_hooked_involves(p, ABL_HOOK_Q_INPUT, layer) ||
        abl_hooked_involves(p, ABL_HOOK_K_INPUT, layer) ||
        abl_hooked_involves(p, ABL_HOOK_V_INPUT, layer)) {
        return ABL_INPUTS_SPLIT;
    }
    return abl_hooked_involves(p, ABL_HOOK_ATTN_IN, layer) ? ABL_INPUTS_JOINED : ABL_INPUTS_SHARED;
}

bool abl_hooked_by_head(const abl_hooked_pass *p, int layer) {
    return abl_hooked_wants(p, ABL_HOOK_RESULT, layer) ||
           abl_hooked_involves(p, ABL_HOOK_RESULT, layer);
}

/* ---- What cannot be had ------------------------------------------------------------------ */

static abl_code cannot_fire(abl_hook_point point, int layer, const char *why,
                            abl_status *ret_status) {
    char name[ABL_NAME_BYTES_MAX];
    return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
                    "hook '%s' cannot fire as asked: %s",
                    abl_hook_name((abl_hook){.point = point, .layer = layer}, name, sizeof name),
                    why);
}

static abl_code check_joined(const abl_hooked_pass *p, int layer, abl_status *ret_status) {
    static const abl_hook_point split[] = {ABL_HOOK_Q_INPUT, ABL_HOOK_K_INPUT, ABL_HOOK_V_INPUT};
    for (size_t i = 0; i < ABL_COUNT_OF(split); i++) {
        if (abl_hooked_involves(p, split[i], layer) || abl_hooked_wants(p, split[i], layer)) {
            return cannot_fire(split[i], layer,
                               "q, k and v of a head read one input here, hook_attn_in",
                               ret_status);
        }
    }
    if (!abl_forward_patches_inputs(p->patch) && p->config->n_kv_heads != p->config->n_heads) {
        return cannot_fire(ABL_HOOK_ATTN_IN, layer,
                           "key and value heads are shared by several query heads, so they have "
                           "no one input; use hook_q_input, hook_k_input, hook_v_input",
                           ret_status);
    }
    return ABL_CODE_OK;
}

/* Whether a hook of the list keeps the gradient there. */
static bool captures_gradient(const abl_hooked_pass *p, abl_hook_point point, int layer) {
    const abl_interventions list = p->options->interventions;
    bool found = false;
    for (size_t i = 0; i < list.count; i++) {
        const abl_intervention *item = &list.items[i];
        found = found || (item->op == ABL_OP_CAPTURE_GRADIENT && item->hook.point == point &&
                          item->hook.layer == layer);
    }
    return found;
}

static abl_code check_norm1(const abl_hooked_pass *p, int layer, bool split,
                            abl_status *ret_status) {
    static const abl_hook_point points[] = {ABL_HOOK_LN1_SCALE, ABL_HOOK_LN1_NORMALIZED};
    bool grouped = p->shape.kv_heads != p->config->n_heads;
    for (size_t i = 0; i < ABL_COUNT_OF(points); i++) {
        if (!p->shape.per_head_inputs &&
            (abl_hooked_involves(p, points[i], layer) || abl_hooked_wants(p, points[i], layer))) {
            return cannot_fire(points[i], layer,
                               "heads have inputs of their own in this layer, so it has a head "
                               "axis; set per_head_inputs",
                               ret_status);
        }
        if (split && (wants_gradient(p, points[i], layer) ||
                      (p->captures->gradients && captures_gradient(p, points[i], layer)))) {
            return cannot_fire(points[i], layer,
                               "it fires three times, for q, k and v: it has no one gradient",
                               ret_status);
        }
        if (split && grouped && abl_hooked_touches(p, points[i], layer)) {
            return cannot_fire(points[i], layer,
                               "it fires for q, k and v, whose numbers of heads differ",
                               ret_status);
        }
    }
    return ABL_CODE_OK;
}

static abl_code check_layer(const abl_hooked_pass *p, int layer, abl_status *ret_status) {
    abl_hooked_inputs inputs = abl_hooked_inputs_of(p, layer);
    if (inputs == ABL_INPUTS_SPLIT && abl_hooked_involves(p, ABL_HOOK_ATTN_IN, layer)) {
        return cannot_fire(ABL_HOOK_ATTN_IN, layer,
                           "q, k and v have inputs of their own here, and nothing reads it",
                           ret_status);
    }
    if (inputs == ABL_INPUTS_JOINED) {
        abl_code code = check_joined(p, layer, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    return inputs == ABL_INPUTS_SHARED
               ? ABL_CODE_OK
               : check_norm1(p, layer, inputs == ABL_INPUTS_SPLIT, ret_status);
}

abl_code abl_hooked_pass_check(const abl_hooked_pass *p, abl_status *ret_status) {
    const abl_forward_options *o = p->options;
    if (p->captures->gradients && o->stop_at_layer >= 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRADIENT_NEEDS_LOGITS",
                        "gradients are of the logits, and stop_at_layer %d leaves them out",
                        o->stop_at_layer);
    }
    if (p->captures->gradients && o->scalar.kind == ABL_SCALAR_LOSS && o->seq < 2) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRADIENT_NEEDS_LOGITS",
                        "the loss is of next tokens, and prompts of one token have none");
    }
    for (int64_t i = 0;
         p->captures->gradients && o->scalar.kind == ABL_SCALAR_LOSS && i < o->batch * o->seq;
         i++) {
        if (o->tokens[i] >= p->config->d_vocab_out) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRADIENT_NEEDS_LOGITS",
                            "the loss is of next tokens, and %d has no logit: there are %d",
                            o->tokens[i], p->config->d_vocab_out);
        }
    }
    if (p->captures->gradients && p->patch != NULL && p->patch->start_backward_cb == NULL) {
        return abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "PATCHED_GRADIENT",
                        "gradients at the hook points of this patched pass cannot be had");
    }
    abl_code code = abl_interventions_check(p->config, o->interventions, &p->shape, ret_status);
    for (size_t i = 0; i < o->interventions.count && code == ABL_CODE_OK; i++) {
        abl_hook hook = o->interventions.items[i].hook;
        bool behind =
            hook.layer >= 0 ? hook.layer >= o->stop_at_layer : hook.point > ABL_HOOK_RESID_POST;
        if (o->stop_at_layer >= 0 && behind) {
            code = cannot_fire(hook.point, hook.layer, "the pass stops before it", ret_status);
        }
    }
    for (int layer = 0; layer < p->config->n_layers && code == ABL_CODE_OK; layer++) {
        code = check_layer(p, layer, ret_status);
    }
    return code;
}
