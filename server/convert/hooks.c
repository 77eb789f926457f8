/* SPDX-License-Identifier: Apache-2.0
 *
 * An intervention's lists point into its message; values are copied, for they may lie unaligned. */
#include "server/convert/hooks.h"

#include "core/base/limits.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- From messages ----------------------------------------------------------------------- */

static abl_code convert_indices(const char *field, const char *what, const int32_t *indices,
                                size_t count, abl_index_list *ret_list, abl_status *ret_status) {
    if (count > ABL_HOOK_INDEX_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "HOOK_INDICES",
                        "%s.%s names %zu; at most %d are taken", field, what, count,
                        ABL_HOOK_INDEX_COUNT_MAX);
    }
    *ret_list = (abl_index_list){.indices = indices, .count = count};
    return ABL_CODE_OK;
}

static abl_code convert_value(const char *field, const Ablate__V1__Tensor *tensor, abl_arena *arena,
                              abl_intervention *item, abl_status *ret_status) {
    int64_t count = 0;
    if (tensor == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_VALUE", "%s has no value",
                        field);
    }
    abl_code code = abl_convert_tensor_check(field, tensor, &count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (tensor->dtype != ABLATE__V1__DTYPE__DTYPE_FLOAT32) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_DTYPE",
                        "%s: its value must be float32", field);
    }
    if (count == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_VALUE",
                        "%s: its value has no elements", field);
    }
    float *values = abl_arena_alloc(arena, tensor->data.len);
    if (values == NULL) {
        return abl_fail_oom(ret_status);
    }
    memcpy(values, tensor->data.data, tensor->data.len);
    item->values = values;
    item->value_shape = tensor->shape;
    item->value_rank = (int)tensor->n_shape;
    return ABL_CODE_OK;
}

static abl_code convert_patch(const char *field, const Ablate__V1__PatchOperation *patch,
                              const abl_model_config *config, abl_arena *arena,
                              abl_hook_request *request, abl_status *ret_status) {
    abl_hook source = request->item.hook;
    abl_status inner = {0};
    if (patch->source_name[0] != '\0') {
        abl_code code = abl_hook_parse(config, patch->source_name, &source, &inner);
        if (code != ABL_CODE_OK) {
            return abl_fail(ret_status, code, inner.reason, "%s.patch.source_name: %.400s", field,
                            inner.message);
        }
    }
    char name[ABL_NAME_BYTES_MAX];
    request->source_name = abl_arena_printf(arena, "%s", abl_hook_name(source, name, sizeof name));
    request->activations_id = patch->activations_id;
    return request->source_name == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
}

static abl_code convert_operation(const char *field, const Ablate__V1__Intervention *message,
                                  const abl_model_config *config, abl_arena *arena,
                                  abl_hook_request *request, abl_status *ret_status) {
    abl_intervention *item = &request->item;
    switch ((int)message->operation_case) {
    case ABLATE__V1__INTERVENTION__OPERATION_ZERO:
        item->op = ABL_OP_ZERO;
        return ABL_CODE_OK;
    case ABLATE__V1__INTERVENTION__OPERATION_MEAN:
        item->op = ABL_OP_MEAN;
        item->over_rows = message->mean->over_rows != 0;
        item->over_positions = message->mean->over_positions != 0;
        return ABL_CODE_OK;
    case ABLATE__V1__INTERVENTION__OPERATION_SET:
        item->op = ABL_OP_SET;
        return convert_value(field, message->set->value, arena, item, ret_status);
    case ABLATE__V1__INTERVENTION__OPERATION_ADD:
        item->op = ABL_OP_ADD;
        item->factor = message->add->factor == 0 ? 1.0 : (double)message->add->factor;
        return convert_value(field, message->add->value, arena, item, ret_status);
    case ABLATE__V1__INTERVENTION__OPERATION_SCALE:
        item->op = ABL_OP_SCALE;
        item->factor = (double)message->scale->factor;
        return ABL_CODE_OK;
    case ABLATE__V1__INTERVENTION__OPERATION_CLAMP:
        item->op = ABL_OP_CLAMP;
        item->low = (double)message->clamp->low;
        item->high = (double)message->clamp->high;
        return ABL_CODE_OK;
    case ABLATE__V1__INTERVENTION__OPERATION_PROJECT_OUT:
        item->op = ABL_OP_PROJECT_OUT;
        return convert_value(field, message->project_out->direction, arena, item, ret_status);
    case ABLATE__V1__INTERVENTION__OPERATION_CAPTURE:
        item->op = ABL_OP_CAPTURE;
        return ABL_CODE_OK;
    case ABLATE__V1__INTERVENTION__OPERATION_CAPTURE_GRADIENT:
        item->op = ABL_OP_CAPTURE_GRADIENT;
        return ABL_CODE_OK;
    case ABLATE__V1__INTERVENTION__OPERATION_PATCH:
        item->op = ABL_OP_PATCH;
        return convert_patch(field, message->patch, config, arena, request, ret_status);
    default:
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_OPERATION",
                        "%s has no operation; give one: zero, mean, set, add, scale, clamp, "
                        "project_out, patch, capture or capture_gradient",
                        field);
    }
}

abl_code abl_convert_intervention(const char *field, const Ablate__V1__Intervention *message,
                                  const abl_model_config *config, const abl_pass_shape *shape,
                                  abl_arena *arena, abl_hook_request *ret_request,
                                  abl_status *ret_status) {
    abl_hook_request request = {.activations_id = NULL};
    abl_intervention *item = &request.item;
    abl_status inner = {0};
    if (message == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_MISSING", "%s is missing",
                        field);
    }
    abl_code code = abl_hook_parse(config, message->name, &item->hook, &inner);
    if (code != ABL_CODE_OK) {
        return abl_fail(ret_status, code, inner.reason, "%s: %.400s", field, inner.message);
    }
    const struct {
        const char *what;
        const int32_t *indices;
        size_t count;
        abl_index_list *to;
    } lists[] = {{"heads", message->heads, message->n_heads, &item->heads},
                 {"positions", message->positions, message->n_positions, &item->positions},
                 {"rows", message->rows, message->n_rows, &item->rows}};
    for (size_t i = 0; i < ABL_COUNT_OF(lists) && code == ABL_CODE_OK; i++) {
        code = convert_indices(field, lists[i].what, lists[i].indices, lists[i].count, lists[i].to,
                               ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = convert_operation(field, message, config, arena, &request, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    /* A patch's tensor is looked at when it is found. */
    code = item->op == ABL_OP_PATCH ? ABL_CODE_OK
                                    : abl_intervention_check(config, item, shape, &inner);
    if (code != ABL_CODE_OK) {
        return abl_fail(ret_status, code, inner.reason, "%s: %.400s", field, inner.message);
    }
    *ret_request = request;
    return ABL_CODE_OK;
}

/* ---- To messages ------------------------------------------------------------------------- */

void abl_convert_hook_id(const abl_resident_hook *hook, char *text, size_t text_bytes) {
    (void)snprintf(text, text_bytes, "hook-%u", hook->number);
}

/* A tensor's shape, without its data; NULL: no memory. */
static Ablate__V1__Tensor *describe_value(abl_arena *arena, const abl_intervention *item) {
    Ablate__V1__Tensor *tensor = abl_arena_alloc(arena, sizeof *tensor);
    if (tensor == NULL) {
        return NULL;
    }
    ablate__v1__tensor__init(tensor);
    tensor->dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32;
    tensor->n_shape = (size_t)item->value_rank;
    memcpy(&tensor->shape, &item->value_shape, sizeof item->value_shape); /* packing reads only */
    return tensor;
}

/* A message of the operation, made in the arena and hung into the union. */
#define MAKE(type, init, member, MEMBER)                                                           \
    Ablate__V1__##type *made = abl_arena_alloc(arena, sizeof *made);                               \
    if (made == NULL) {                                                                            \
        return false;                                                                              \
    }                                                                                              \
    init(made);                                                                                    \
    message->member = made;                                                                        \
    message->operation_case = ABLATE__V1__INTERVENTION__OPERATION_##MEMBER

static bool describe_mean(abl_arena *arena, const abl_intervention *item,
                          Ablate__V1__Intervention *message) {
    MAKE(MeanOperation, ablate__v1__mean_operation__init, mean, MEAN);
    made->over_rows = item->over_rows;
    made->over_positions = item->over_positions;
    return true;
}

static bool describe_set(abl_arena *arena, const abl_intervention *item,
                         Ablate__V1__Intervention *message) {
    MAKE(SetOperation, ablate__v1__set_operation__init, set, SET);
    made->value = describe_value(arena, item);
    return made->value != NULL;
}

static bool describe_add(abl_arena *arena, const abl_intervention *item,
                         Ablate__V1__Intervention *message) {
    MAKE(AddOperation, ablate__v1__add_operation__init, add, ADD);
    made->factor = (float)item->factor;
    made->value = describe_value(arena, item);
    return made->value != NULL;
}

static bool describe_scale(abl_arena *arena, const abl_intervention *item,
                           Ablate__V1__Intervention *message) {
    MAKE(ScaleOperation, ablate__v1__scale_operation__init, scale, SCALE);
    made->factor = (float)item->factor;
    return true;
}

static bool describe_clamp(abl_arena *arena, const abl_intervention *item,
                           Ablate__V1__Intervention *message) {
    MAKE(ClampOperation, ablate__v1__clamp_operation__init, clamp, CLAMP);
    made->low = (float)item->low;
    made->high = (float)item->high;
    return true;
}

static bool describe_project_out(abl_arena *arena, const abl_intervention *item,
                                 Ablate__V1__Intervention *message) {
    MAKE(ProjectOutOperation, ablate__v1__project_out_operation__init, project_out, PROJECT_OUT);
    made->direction = describe_value(arena, item);
    return made->direction != NULL;
}

static bool describe_zero(abl_arena *arena, Ablate__V1__Intervention *message) {
    MAKE(ZeroOperation, ablate__v1__zero_operation__init, zero, ZERO);
    return true;
}

static bool describe_capture(abl_arena *arena, Ablate__V1__Intervention *message) {
    MAKE(CaptureOperation, ablate__v1__capture_operation__init, capture, CAPTURE);
    return true;
}

static bool describe_capture_gradient(abl_arena *arena, Ablate__V1__Intervention *message) {
    MAKE(CaptureGradientOperation, ablate__v1__capture_gradient_operation__init, capture_gradient,
         CAPTURE_GRADIENT);
    return true;
}

static bool describe_patch(abl_arena *arena, const abl_resident_hook *hook,
                           Ablate__V1__Intervention *message) {
    MAKE(PatchOperation, ablate__v1__patch_operation__init, patch, PATCH);
    made->activations_id = abl_convert_text(arena, hook->activations->id);
    made->source_name = abl_convert_text(arena, hook->source_name);
    return true;
}

static bool describe_operation(abl_arena *arena, const abl_resident_hook *hook,
                               Ablate__V1__Intervention *message) {
    const abl_intervention *item = &hook->item;
    switch (item->op) {
    case ABL_OP_ZERO:
        return describe_zero(arena, message);
    case ABL_OP_MEAN:
        return describe_mean(arena, item, message);
    case ABL_OP_SET:
        return describe_set(arena, item, message);
    case ABL_OP_ADD:
        return describe_add(arena, item, message);
    case ABL_OP_SCALE:
        return describe_scale(arena, item, message);
    case ABL_OP_CLAMP:
        return describe_clamp(arena, item, message);
    case ABL_OP_PROJECT_OUT:
        return describe_project_out(arena, item, message);
    case ABL_OP_PATCH:
        return describe_patch(arena, hook, message);
    case ABL_OP_CAPTURE:
        return describe_capture(arena, message);
    case ABL_OP_CAPTURE_GRADIENT:
        return describe_capture_gradient(arena, message);
    case ABL_OP_COUNT:
        break;
    }
    return false;
}

/* Packing reads only. */
static void point_to(const abl_index_list *list, int32_t **ret_indices, size_t *ret_count) {
    memcpy(ret_indices, &list->indices, sizeof list->indices);
    *ret_count = list->count;
}

Ablate__V1__Hook *abl_convert_hook(abl_arena *arena, const abl_resident_hook *hook) {
    Ablate__V1__Hook *message = abl_arena_alloc(arena, sizeof *message);
    Ablate__V1__Intervention *inner = abl_arena_alloc(arena, sizeof *inner);
    if (message == NULL || inner == NULL) {
        return NULL;
    }
    char text[ABL_NAME_BYTES_MAX];
    ablate__v1__hook__init(message);
    ablate__v1__intervention__init(inner);
    inner->name = abl_convert_text(arena, abl_hook_name(hook->item.hook, text, sizeof text));
    message->bridge_name =
        abl_convert_text(arena, abl_hook_bridge_name(hook->item.hook, text, sizeof text));
    abl_convert_hook_id(hook, text, sizeof text);
    message->hook_id = abl_convert_text(arena, text);
    point_to(&hook->item.heads, &inner->heads, &inner->n_heads);
    point_to(&hook->item.positions, &inner->positions, &inner->n_positions);
    point_to(&hook->item.rows, &inner->rows, &inner->n_rows);
    message->intervention = inner;
    if (hook->kept != NULL) {
        message->activations_id = abl_convert_text(arena, hook->kept->id);
    }
    return describe_operation(arena, hook, inner) ? message : NULL;
}

Ablate__V1__Activations *abl_convert_activations(abl_arena *arena,
                                                 const abl_resident_activations *activations) {
    size_t count = activations->entry_count;
    Ablate__V1__Activations *message = abl_arena_alloc(arena, sizeof *message);
    Ablate__V1__CapturedTensor *tensors = abl_arena_alloc(arena, count * sizeof *tensors);
    Ablate__V1__CapturedTensor **list = abl_arena_alloc(arena, count * sizeof(void *));
    if (message == NULL || (count > 0 && (tensors == NULL || list == NULL))) {
        return NULL;
    }
    ablate__v1__activations__init(message);
    for (size_t i = 0; i < count; i++) {
        const abl_cache_entry *entry = &activations->entries[i];
        size_t rank = (size_t)abl_tensor_rank(entry->tensor);
        ablate__v1__captured_tensor__init(&tensors[i]);
        tensors[i].name = abl_convert_text(arena, entry->name);
        tensors[i].shape = abl_arena_alloc(arena, rank * sizeof *tensors[i].shape);
        for (size_t d = 0; tensors[i].shape != NULL && d < rank; d++) {
            tensors[i].shape[tensors[i].n_shape++] = abl_tensor_size(entry->tensor, (int)d);
        }
        list[i] = &tensors[i];
    }
    message->activations_id = abl_convert_text(arena, activations->object.id);
    message->model_id = abl_convert_text(arena, activations->object.needs[0]->id);
    message->tensors = list;
    message->n_tensors = count;
    message->bytes = activations->object.bytes;
    message->created_ms = activations->created_ms;
    return message;
}
