/* SPDX-License-Identifier: Apache-2.0
 *
 * A graph's hooks as JSON, for provenance: what a result depends on. Tensors, which may be large,
 * are their shapes and hashes. */
#include "server/convert/hooks_json.h"

#include "core/base/mem.h"
#include "server/convert/common.h"
#include "server/convert/hooks.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

static void add_list(json_t *object, const char *key, abl_index_list list) {
    if (list.count == 0) {
        return;
    }
    json_t *array = json_array();
    for (size_t i = 0; i < list.count; i++) {
        (void)json_array_append_new(array, json_integer(list.indices[i]));
    }
    (void)json_object_set_new(object, key, array);
}

/* JSON has no infinity: the end of a range that has none is left out. */
static void add_number(json_t *object, const char *key, double value) {
    if (isfinite(value)) {
        (void)json_object_set_new(object, key, json_real(value));
    }
}

static void add_tensor(json_t *object, const abl_intervention *item) {
    json_t *shape = json_array();
    size_t count = 1;
    for (int i = 0; i < item->value_rank; i++) {
        count *= (size_t)item->value_shape[i];
        (void)json_array_append_new(shape, json_integer(item->value_shape[i]));
    }
    (void)json_object_set_new(object, "shape", shape);
    char text[ABL_SHA256_TEXT_BYTES];
    if (abl_convert_sha256(item->values, count * sizeof *item->values, text)) {
        (void)json_object_set_new(object, "sha256", json_string(text));
    }
}

static void add_operation(json_t *object, const abl_resident_hook *hook) {
    const abl_intervention *item = &hook->item;
    switch (item->op) {
    case ABL_OP_MEAN:
        (void)json_object_set_new(object, "over_rows", json_boolean(item->over_rows));
        (void)json_object_set_new(object, "over_positions", json_boolean(item->over_positions));
        break;
    case ABL_OP_PATCH:
        (void)json_object_set_new(object, "activations_id", json_string(hook->activations->id));
        (void)json_object_set_new(object, "source_name", json_string(hook->source_name));
        break;
    case ABL_OP_ADD:
        add_number(object, "factor", item->factor);
        add_tensor(object, item);
        break;
    case ABL_OP_SET:
    case ABL_OP_PROJECT_OUT:
        add_tensor(object, item);
        break;
    case ABL_OP_SCALE:
        add_number(object, "factor", item->factor);
        break;
    case ABL_OP_CLAMP:
        add_number(object, "low", item->low);
        add_number(object, "high", item->high);
        break;
    case ABL_OP_ZERO:
    case ABL_OP_CAPTURE:
    case ABL_OP_CAPTURE_GRADIENT:
    case ABL_OP_COUNT:
        break;
    }
}

static json_t *hook_json(const abl_resident_hook *hook) {
    const abl_intervention *item = &hook->item;
    char id[ABL_NAME_BYTES_MAX];
    char name[ABL_NAME_BYTES_MAX];
    abl_convert_hook_id(hook, id, sizeof id);
    json_t *object = json_pack("{s:s, s:s}", "name", abl_hook_name(item->hook, name, sizeof name),
                               "operation", abl_op_name(item->op));
    if (hook->number > 0) { /* else the request's own */
        (void)json_object_set_new(object, "hook_id", json_string(id));
    }
    add_operation(object, hook);
    add_list(object, "heads", item->heads);
    add_list(object, "positions", item->positions);
    add_list(object, "rows", item->rows);
    return object;
}

char *abl_convert_hooks_json(abl_arena *arena, const abl_graph_hooks *hooks) {
    json_t *root = json_array();
    for (size_t i = 0; i < abl_graph_hooks_count(hooks); i++) {
        (void)json_array_append_new(root, hook_json(hooks->hooks[i]));
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(root);
    char *copy = text == NULL ? NULL : abl_convert_text(arena, text);
    abl_free(text); /* jansson's block */
    return copy;
}
