/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass asks at each hook point whether somebody wants the tensor: one look at a table. What is
 * kept is what was computed, not a copy; of chosen positions a copy, so that the rest can go. */
#include "core/model/capture.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/model/intervene.h"

#include <stdio.h>
#include <string.h>

#define GRADIENT_SUFFIX "_grad"

static bool *slot_of(const abl_captures *c, bool gradient, abl_hook_point point, int layer) {
    size_t rows = (size_t)abl_model_get_config(c->options->model)->n_layers + 1;
    size_t row = (gradient ? rows : 0) + (size_t)(layer + 1);
    return &c->wanted[row * ABL_HOOK_POINT_COUNT + (size_t)point];
}

bool abl_captures_want(const abl_captures *captures, abl_hook_point point, int layer) {
    return *slot_of(captures, false, point, layer);
}

bool abl_captures_want_gradient(const abl_captures *captures, abl_hook_point point, int layer) {
    return *slot_of(captures, true, point, layer);
}

/* ---- Planning ---------------------------------------------------------------------------- */

/* Whether a pass that stops before layer `stop` gets there. */
static bool reached(int stop, abl_hook hook) {
    return stop < 0 || (hook.layer >= 0 ? hook.layer < stop : hook.point < ABL_HOOK_RESID_PRE);
}

/* Points that TransformerLens computes only when its use_* flags ask. */
static bool needs_flags(abl_hook_point point) {
    return point == ABL_HOOK_ATTN_IN || point == ABL_HOOK_Q_INPUT || point == ABL_HOOK_K_INPUT ||
           point == ABL_HOOK_V_INPUT || point == ABL_HOOK_RESULT || point == ABL_HOOK_MLP_IN;
}

static void want(abl_captures *c, bool gradient, abl_hook hook) {
    bool *slot = slot_of(c, gradient, hook.point, hook.layer);
    c->wanted_count += *slot ? 0 : 1;
    c->gradients = c->gradients || gradient;
    *slot = true;
}

/* "blocks.0.hook_resid_pre_grad" to the name without, and true. */
static bool strip_suffix(const char *name, char *ret_stem, size_t stem_bytes) {
    size_t length = strlen(name);
    const size_t suffix = sizeof GRADIENT_SUFFIX - 1;
    if (length <= suffix || length - suffix >= stem_bytes ||
        strcmp(name + length - suffix, GRADIENT_SUFFIX) != 0) {
        return false;
    }
    memcpy(ret_stem, name, length - suffix);
    ret_stem[length - suffix] = '\0';
    return true;
}

bool abl_forward_wants_gradients(const abl_forward_options *options) {
    char stem[ABL_NAME_BYTES_MAX];
    bool wanted = options->scalar.kind == ABL_SCALAR_CALLBACK ||
                  (options->incl_bwd && (options->capture_all || options->hook_count > 0));
    for (size_t i = 0; i < options->hook_count && !wanted; i++) {
        wanted = strip_suffix(options->hooks[i], stem, sizeof stem);
    }
    return wanted;
}

static abl_code want_named(abl_captures *c, abl_status *ret_status) {
    const abl_forward_options *options = c->options;
    const abl_model_config *config = abl_model_get_config(options->model);
    for (size_t i = 0; i < options->hook_count; i++) {
        char stem[ABL_NAME_BYTES_MAX];
        bool only_gradient = strip_suffix(options->hooks[i], stem, sizeof stem);
        abl_hook hook;
        abl_code code =
            abl_hook_parse(config, only_gradient ? stem : options->hooks[i], &hook, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        if (!reached(options->stop_at_layer, hook)) {
            return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
                            "hook '%.80s' cannot fire: the pass stops before layer %d",
                            options->hooks[i], options->stop_at_layer);
        }
        if (!only_gradient) {
            want(c, false, hook);
        }
        if (only_gradient || options->incl_bwd) {
            want(c, true, hook);
        }
    }
    return ABL_CODE_OK;
}

static abl_pass_shape shape_of(const abl_forward_options *o) {
    bool own = abl_forward_patches_inputs(o->patch);
    const abl_model_config *config = abl_model_get_config(o->model);
    return (abl_pass_shape){.batch = o->batch,
                            .seq = o->seq,
                            .kv_heads = own ? o->patch->kv_heads : config->n_kv_heads,
                            .per_head_inputs = o->per_head_inputs || own};
}

static bool has_heads(const abl_forward_options *o, abl_hook_point point) {
    const abl_pass_shape shape = shape_of(o);
    return abl_hook_layout_of(abl_model_get_config(o->model), point, &shape).head_dim >= 0;
}

/* With nobody asking by name, points that this pass has no tensor for are left out in silence:
 * inputs that are not there when others are, and gradients of what fires three times. */
static bool hidden(const abl_forward_options *o, abl_hook_point point, bool gradient) {
    bool own = abl_forward_patches_inputs(o->patch);
    bool joined = own && o->patch->joined;
    bool split = !joined && (own || o->per_head_inputs);
    bool input =
        point == ABL_HOOK_Q_INPUT || point == ABL_HOOK_K_INPUT || point == ABL_HOOK_V_INPUT;
    bool norm1 = point == ABL_HOOK_LN1_SCALE || point == ABL_HOOK_LN1_NORMALIZED;
    return point == ABL_HOOK_UNEMBED || (needs_flags(point) && !o->per_head_inputs) ||
           (joined && input) || (o->heads.count > 0 && !has_heads(o, point)) ||
           (gradient && split && (norm1 || point == ABL_HOOK_ATTN_IN));
}

static abl_code want_all(abl_captures *c, abl_status *ret_status) {
    const abl_forward_options *options = c->options;
    const abl_model_config *config = abl_model_get_config(options->model);
    size_t count = abl_hook_list(config, NULL, 0);
    abl_hook *hooks = abl_calloc(count, sizeof *hooks);
    if (hooks == NULL) {
        return abl_fail_oom(ret_status);
    }
    (void)abl_hook_list(config, hooks, count);
    for (size_t i = 0; i < count; i++) {
        if (!reached(options->stop_at_layer, hooks[i])) {
            continue;
        }
        if (!hidden(options, hooks[i].point, false)) {
            want(c, false, hooks[i]);
        }
        if (options->incl_bwd && !hidden(options, hooks[i].point, true)) {
            want(c, true, hooks[i]);
        }
    }
    abl_free(hooks);
    return ABL_CODE_OK;
}

static abl_code check_list(const char *what, const char *reason, abl_index_list list, int64_t low,
                           int64_t end, abl_status *ret_status) {
    for (size_t i = 0; i < list.count; i++) {
        int64_t index = list.indices[i];
        if (index < low || index >= end) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                            "%s[%zu] is %lld; there are %lld of them here%s", what, i,
                            (long long)index, (long long)end,
                            low < 0 ? ", and negative ones count from the end" : "");
        }
    }
    return ABL_CODE_OK;
}

/* Where heads are chosen, what is wanted has those heads. */
static abl_code check_heads(const abl_captures *c, abl_status *ret_status) {
    const abl_forward_options *o = c->options;
    const abl_model_config *config = abl_model_get_config(o->model);
    const abl_pass_shape shape = shape_of(o);
    for (int i = 0; i < (config->n_layers + 1) * ABL_HOOK_POINT_COUNT && o->heads.count > 0; i++) {
        abl_hook hook = {.point = (abl_hook_point)(i % ABL_HOOK_POINT_COUNT),
                         .layer = i / ABL_HOOK_POINT_COUNT - 1};
        if (!abl_captures_want(c, hook.point, hook.layer) &&
            !abl_captures_want_gradient(c, hook.point, hook.layer)) {
            continue;
        }
        abl_hook_layout layout = abl_hook_layout_of(config, hook.point, &shape);
        char name[ABL_NAME_BYTES_MAX];
        (void)abl_hook_name(hook, name, sizeof name);
        if (layout.head_dim < 0) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_HEADS",
                            "heads are chosen, and '%s' has no head axis", name);
        }
        abl_code code = check_list("heads", "HOOK_HEADS", o->heads, 0,
                                   layout.sizes[layout.head_dim], ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    return ABL_CODE_OK;
}

static abl_code check_selection(const abl_captures *c, abl_status *ret_status) {
    const abl_forward_options *o = c->options;
    abl_code code =
        check_list("positions", "POSITIONS_INVALID", o->positions, -o->seq, o->seq, ret_status);
    if (code == ABL_CODE_OK) {
        code = check_list("rows", "HOOK_ROWS", o->rows, 0, o->batch, ret_status);
    }
    return code == ABL_CODE_OK ? check_heads(c, ret_status) : code;
}

abl_code abl_captures_plan(const abl_forward_options *options, abl_forward_result *result,
                           abl_captures *ret_captures, abl_status *ret_status) {
    abl_captures c = {.options = options,
                      .gradients = options->scalar.kind == ABL_SCALAR_CALLBACK,
                      .seq = options->seq,
                      .result = result};
    size_t rows = (size_t)abl_model_get_config(options->model)->n_layers + 1;
    c.wanted = abl_calloc(2 * rows, ABL_HOOK_POINT_COUNT);
    if (c.wanted == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_code code = options->capture_all ? want_all(&c, ret_status) : want_named(&c, ret_status);
    if (code == ABL_CODE_OK) {
        code = check_selection(&c, ret_status);
    }
    if (code == ABL_CODE_OK) {
        result->entries = abl_calloc(c.wanted_count, sizeof *result->entries);
        code = result->entries == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    }
    if (code != ABL_CODE_OK) {
        abl_captures_finish(&c);
        return code;
    }
    *ret_captures = c;
    return ABL_CODE_OK;
}

void abl_captures_finish(abl_captures *captures) {
    abl_free(captures->wanted);
    captures->wanted = NULL;
}

/* ---- Keeping ----------------------------------------------------------------------------- */

/* The chosen indices of one dimension; those from `first` on are counted, `size` of them. */
static abl_tensor *chosen(abl_scope *scope, abl_tensor *tensor, const abl_index_list *list, int dim,
                          int64_t first, int64_t size) {
    if (list->count == 0 || tensor == NULL) {
        return tensor;
    }
    int64_t *indices = abl_calloc(list->count, sizeof *indices);
    if (indices == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (size_t i = 0; i < list->count; i++) {
        indices[i] = first + list->indices[i] + (list->indices[i] < 0 ? size : 0);
    }
    const int64_t count = (int64_t)list->count;
    abl_tensor *at = abl_tensor_from_host(scope, ABL_DTYPE_I64, 1, &count, indices);
    abl_tensor *out = abl_tensor_index_select(scope, tensor, dim, at);
    abl_free(indices);
    return out;
}

/* What is to be kept of a point's tensor. Logits have their own slice of positions. */
static abl_tensor *selected(const abl_captures *c, abl_scope *scope, abl_hook_point point,
                            abl_tensor *tensor) {
    const abl_forward_options *o = c->options;
    const abl_pass_shape shape = shape_of(o);
    abl_hook_layout layout = abl_hook_layout_of(abl_model_get_config(o->model), point, &shape);
    int64_t first = point == ABL_HOOK_ROT_K ? abl_prefix_length(o->prefix) : 0;
    tensor = chosen(scope, tensor, &o->rows, 0, 0, o->batch);
    if (point != ABL_HOOK_UNEMBED) {
        tensor = chosen(scope, tensor, &o->positions, layout.pos_dim, first, c->seq);
    }
    return layout.head_dim < 0 ? tensor
                               : chosen(scope, tensor, &o->heads, layout.head_dim, 0,
                                        layout.sizes[layout.head_dim]);
}

static void keep(abl_captures *c, abl_scope *scope, bool gradient, abl_hook hook,
                 abl_tensor *tensor) {
    if (tensor == NULL || !*slot_of(c, gradient, hook.point, hook.layer)) {
        return; /* NULL: the scope has failed, and says so at the end */
    }
    abl_tensor *kept = selected(c, scope, hook.point, tensor);
    if (kept == NULL) {
        return;
    }
    ABL_ASSERT(c->result->entry_count < c->wanted_count);
    abl_cache_entry *entry = &c->result->entries[c->result->entry_count++];
    entry->hook = hook;
    (void)abl_hook_name(entry->hook, entry->name, sizeof entry->name);
    if (gradient) {
        size_t length = strlen(entry->name);
        (void)snprintf(entry->name + length, sizeof entry->name - length, GRADIENT_SUFFIX);
    }
    entry->tensor = abl_tensor_keep(kept);
}

void abl_captures_keep(abl_captures *captures, abl_scope *scope, abl_hook_point point, int layer,
                       abl_tensor *tensor) {
    keep(captures, scope, false, (abl_hook){.point = point, .layer = layer}, tensor);
}

void abl_captures_keep_gradient(abl_captures *captures, abl_scope *scope, abl_hook_point point,
                                int layer, abl_tensor *tensor) {
    keep(captures, scope, true, (abl_hook){.point = point, .layer = layer}, tensor);
}
