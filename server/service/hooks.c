/* SPDX-License-Identifier: Apache-2.0
 *
 * A graph's interventions are checked when they are added, against the graph and among themselves;
 * what only a pass can tell (positions, rows, shapes by them) is told by the pass. */
#include "server/service/hooks.h"

#include "ablate/v1/run.pb-c.h"
#include "core/base/mem.h"
#include "server/convert/hooks.h"
#include "server/runtime/log.h"
#include "server/service/captures.h"

#include <stdio.h>
#include <string.h>

/* What is known of passes before there is one: of a graph's, that they may be patched. */
static abl_pass_shape shape_of(const abl_resident_model *model, const abl_resident_graph *graph) {
    const abl_model_config *config = abl_model_get_config(model->model);
    const abl_graph_options *o = graph == NULL ? NULL : abl_graph_options_of(graph->graph);
    bool expanded = o != NULL && (o->joined_qkv || o->gqa == ABL_GQA_EXPANDED);
    return (abl_pass_shape){.kv_heads = expanded ? config->n_heads : config->n_kv_heads,
                            .per_head_inputs = true};
}

/* Finds what it patches from. *ret_activations stays NULL when it is no patch. */
static bool find_source(abl_rpc *rpc, const abl_resident_model *model, const char *field,
                        const abl_pass_shape *shape, abl_hook_request *request,
                        abl_object **ret_activations) {
    if (request->activations_id == NULL) {
        return true;
    }
    abl_object *object = NULL;
    abl_status inner = {0};
    abl_code code = abl_registry_find(rpc->server->registry, ABL_OBJECT_ACTIVATIONS,
                                      request->activations_id, &object, &rpc->status);
    if (code != ABL_CODE_OK) {
        return false;
    }
    if (object->needs[0] != &model->object) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "ACTIVATIONS_MODEL_MISMATCH",
                       "%s: %s are of %s, and this pass is of %s; activations fit the model that "
                       "computed them alone",
                       field, object->id, object->needs[0]->id, model->object.id);
        return false;
    }
    const abl_cache_entry *entry =
        abl_resident_activations_find((abl_resident_activations *)object, request->source_name);
    if (entry == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN",
                       "%s: %s has no '%s'; ListActivations says what was kept", field, object->id,
                       request->source_name);
        return false;
    }
    request->item.cached = entry->tensor;
    code =
        abl_intervention_check(abl_model_get_config(model->model), &request->item, shape, &inner);
    if (code != ABL_CODE_OK) {
        (void)abl_fail(&rpc->status, code, inner.reason, "%s: %.400s", field, inner.message);
        return false;
    }
    *ret_activations = object;
    return true;
}

/* ---- one pass ------------------------------------------------------------------------------- */

void abl_hook_set_end(abl_hook_set *set) {
    for (size_t i = 0; i < set->activations_count; i++) {
        abl_object_unref(set->activations[i]);
    }
    set->activations_count = 0;
    for (size_t i = 0; i < abl_graph_hooks_count(set->of_graph); i++) {
        abl_tensor_release(set->slots[i]);
        set->slots[i] = NULL;
    }
    abl_graph_hooks_unref(set->of_graph);
    set->of_graph = NULL;
}

/* Captures are a graph's: what else would hold on to the tensors? */
static bool check_own(abl_rpc *rpc, const char *field, const abl_intervention *item) {
    if (!abl_op_captures(item->op)) {
        return true;
    }
    (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "HOOK_OPERATION",
                   "%s is a capture, and those belong to graphs (AddHook); what one pass has is "
                   "captured by RunWithCache's names",
                   field);
    return false;
}

static bool add_own(abl_rpc *rpc, abl_hook_set *set, abl_intervention *items,
                    const abl_resident_model *model, const abl_pass_shape *shape,
                    Ablate__V1__Intervention *const *own, size_t own_count) {
    for (size_t i = 0; i < own_count; i++) {
        char field[48];
        abl_hook_request request;
        abl_object *activations = NULL;
        (void)snprintf(field, sizeof field, "interventions[%zu]", i);
        if (abl_convert_intervention(field, own[i], abl_model_get_config(model->model), shape,
                                     rpc->arena, &request, &rpc->status) != ABL_CODE_OK ||
            !check_own(rpc, field, &request.item) ||
            !find_source(rpc, model, field, shape, &request, &activations)) {
            return false;
        }
        if (activations != NULL) {
            set->activations[set->activations_count++] = abl_object_ref(activations);
        }
        items[set->list.count++] = request.item;
    }
    return true;
}

bool abl_hook_set_init(abl_rpc *rpc, abl_hook_set *set, const abl_resident_model *model,
                       const abl_resident_graph *graph, Ablate__V1__Intervention *const *own,
                       size_t own_count) {
    size_t there = graph == NULL ? 0 : abl_graph_hooks_count(graph->hooks);
    if (there + own_count == 0) {
        return true;
    }
    if (there + own_count > ABL_INTERVENTION_COUNT_MAX) {
        (void)abl_fail(&rpc->status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_HOOKS",
                       "interventions has %zu, and the graph %zu; a pass takes %d together",
                       own_count, there, ABL_INTERVENTION_COUNT_MAX);
        return false;
    }
    abl_intervention *items = abl_rpc_alloc(rpc, (there + own_count) * sizeof *items);
    set->activations = abl_rpc_alloc(rpc, (own_count + 1) * sizeof(abl_object *));
    if (items == NULL || set->activations == NULL) {
        return false;
    }
    set->list.items = items;
    if (there > 0) {
        set->slots = abl_rpc_alloc(rpc, there * sizeof(abl_tensor *));
        if (set->slots == NULL) {
            return false;
        }
        set->of_graph = abl_graph_hooks_ref(graph->hooks);
    }
    for (size_t i = 0; i < there; i++) {
        abl_intervention *item = &items[set->list.count++];
        *item = graph->hooks->hooks[i]->item;
        item->kept = abl_op_captures(item->op) ? &set->slots[i] : NULL;
    }
    const abl_pass_shape shape = shape_of(model, graph);
    return add_own(rpc, set, items, model, &shape, own, own_count);
}

/* ---- a graph's ------------------------------------------------------------------------------ */

static abl_resident_graph *use_graph(abl_rpc *rpc, const char *id) {
    return (abl_resident_graph *)abl_rpc_use(rpc, ABL_OBJECT_GRAPH, id);
}

/* Whether it may stand behind those of the list. */
static bool check_behind(abl_rpc *rpc, const abl_resident_model *model, const abl_pass_shape *shape,
                         const abl_graph_hooks *list, const abl_intervention *item) {
    size_t there = abl_graph_hooks_count(list);
    if (there >= ABL_INTERVENTION_COUNT_MAX) {
        (void)abl_fail(&rpc->status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_HOOKS",
                       "the graph has %zu hooks already, which is the limit; remove one first",
                       there);
        return false;
    }
    abl_intervention *items = abl_rpc_alloc(rpc, (there + 1) * sizeof *items);
    if (items == NULL) {
        return false;
    }
    for (size_t i = 0; i < there; i++) {
        items[i] = list->hooks[i]->item;
    }
    items[there] = *item;
    return abl_interventions_check(abl_model_get_config(model->model),
                                   (abl_interventions){.items = items, .count = there + 1}, shape,
                                   &rpc->status) == ABL_CODE_OK;
}

/* `list` and behind it the message's intervention, the last of the new one; NULL: the rpc's status
 * says why not. */
static abl_graph_hooks *list_with(abl_rpc *rpc, const abl_resident_graph *graph,
                                  const abl_graph_hooks *list, const char *field,
                                  const Ablate__V1__Intervention *message, uint32_t number) {
    const abl_resident_model *model = abl_resident_graph_model(graph);
    const abl_pass_shape shape = shape_of(model, graph);
    abl_hook_request request;
    abl_object *activations = NULL;
    if (abl_convert_intervention(field, message, abl_model_get_config(model->model), &shape,
                                 rpc->arena, &request, &rpc->status) != ABL_CODE_OK ||
        (number == 0 && !check_own(rpc, field, &request.item)) ||
        !find_source(rpc, model, field, &shape, &request, &activations) ||
        !check_behind(rpc, model, &shape, list, &request.item)) {
        return NULL;
    }
    abl_resident_hook *hook =
        abl_resident_hook_create(&request.item, activations, request.source_name, number);
    abl_graph_hooks *more = hook == NULL ? NULL : abl_graph_hooks_with(list, hook);
    if (more == NULL) {
        abl_resident_hook_unref(hook);
        (void)abl_fail_oom(&rpc->status);
        return NULL;
    }
    if (abl_graph_hooks_bytes(more) > ABL_GRAPH_HOOK_BYTES_MAX) {
        abl_graph_hooks_unref(more);
        (void)abl_fail(&rpc->status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_HOOKS",
                       "the values of the graph's hooks would take more than %d MiB; remove some, "
                       "or give values with a pass",
                       ABL_GRAPH_HOOK_BYTES_MAX >> 20);
        return NULL;
    }
    return more;
}

bool abl_run_hooks(abl_rpc *rpc, const abl_resident_graph *graph,
                   Ablate__V1__Intervention *const *own, size_t own_count,
                   abl_graph_hooks **ret_hooks) {
    abl_graph_hooks *list = abl_graph_hooks_ref(graph->hooks);
    for (size_t i = abl_graph_hooks_count(list); i > 0; i--) {
        if (abl_op_captures(list->items[i - 1].op)) { /* many passes have no one tensor to keep */
            abl_graph_hooks *less = abl_graph_hooks_without(list, i - 1);
            abl_graph_hooks_unref(list);
            if (less == NULL) {
                (void)abl_fail_oom(&rpc->status);
                return false;
            }
            list = less;
        }
    }
    for (size_t i = 0; i < own_count; i++) {
        char field[48];
        (void)snprintf(field, sizeof field, "interventions[%zu]", i);
        abl_graph_hooks *more = list_with(rpc, graph, list, field, own[i], 0);
        abl_graph_hooks_unref(list);
        if (more == NULL) {
            return false;
        }
        list = more;
    }
    *ret_hooks = list;
    return true;
}

/* The hook, added; NULL: the rpc's status says why not. */
static abl_resident_hook *add_hook(abl_rpc *rpc, abl_resident_graph *graph,
                                   const Ablate__V1__Intervention *message) {
    abl_graph_hooks *list =
        list_with(rpc, graph, graph->hooks, "intervention", message, graph->hook_numbers + 1);
    if (list == NULL) {
        return NULL;
    }
    graph->hook_numbers++;
    abl_resident_graph_set_hooks(graph, list);
    return list->hooks[list->count - 1];
}

void abl_rpc_add_hook(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__AddHookRequest *request = (const Ablate__V1__AddHookRequest *)message;
    Ablate__V1__AddHookResponse response = ABLATE__V1__ADD_HOOK_RESPONSE__INIT;
    abl_resident_graph *graph = use_graph(rpc, request->graph_id);
    abl_resident_hook *hook = graph == NULL ? NULL : add_hook(rpc, graph, request->intervention);
    if (hook == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    response.hook = abl_convert_hook(rpc->arena, hook);
    if (response.hook == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

void abl_rpc_list_hooks(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListHooksRequest *request = (const Ablate__V1__ListHooksRequest *)message;
    Ablate__V1__ListHooksResponse response = ABLATE__V1__LIST_HOOKS_RESPONSE__INIT;
    const abl_resident_graph *graph = use_graph(rpc, request->graph_id);
    if (graph == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    size_t count = abl_graph_hooks_count(graph->hooks);
    response.hooks = abl_rpc_alloc(rpc, (count + 1) * sizeof *response.hooks);
    bool whole = response.hooks != NULL;
    for (size_t i = 0; i < count && whole; i++) {
        response.hooks[i] = abl_convert_hook(rpc->arena, graph->hooks->hooks[i]);
        whole = response.hooks[i] != NULL;
        response.n_hooks++;
    }
    if (!whole) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

/* The index of the hook of that id; the count when there is none. */
static size_t find_hook(const abl_graph_hooks *list, const char *id) {
    size_t count = abl_graph_hooks_count(list);
    for (size_t i = 0; i < count; i++) {
        char text[ABL_NAME_BYTES_MAX];
        abl_convert_hook_id(list->hooks[i], text, sizeof text);
        if (strcmp(text, id) == 0) {
            return i;
        }
    }
    return count;
}

void abl_rpc_remove_hook(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__RemoveHookRequest *request = (const Ablate__V1__RemoveHookRequest *)message;
    Ablate__V1__RemoveHookResponse response = ABLATE__V1__REMOVE_HOOK_RESPONSE__INIT;
    abl_resident_graph *graph = use_graph(rpc, request->graph_id);
    if (graph == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    size_t index = find_hook(graph->hooks, request->hook_id);
    if (index == abl_graph_hooks_count(graph->hooks)) {
        abl_rpc_fail(rpc, ABL_CODE_NOT_FOUND, "HOOK_ID_UNKNOWN",
                     "%s has no hook '%.64s'; ListHooks lists its hooks", graph->object.id,
                     request->hook_id);
        return;
    }
    abl_graph_hooks *list = abl_graph_hooks_without(graph->hooks, index);
    if (list == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_captures_forget(rpc->server->registry, graph->hooks->hooks[index]);
    abl_resident_graph_set_hooks(graph, list);
    abl_rpc_reply(rpc, &response.base);
}

void abl_rpc_reset_hooks(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ResetHooksRequest *request = (const Ablate__V1__ResetHooksRequest *)message;
    Ablate__V1__ResetHooksResponse response = ABLATE__V1__RESET_HOOKS_RESPONSE__INIT;
    abl_resident_graph *graph = use_graph(rpc, request->graph_id);
    if (graph == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    response.removed_count = (int32_t)abl_graph_hooks_count(graph->hooks);
    abl_captures_forget_all(rpc->server->registry, graph->hooks);
    abl_resident_graph_set_hooks(graph, NULL);
    abl_rpc_reply(rpc, &response.base);
}
