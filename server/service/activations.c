/* SPDX-License-Identifier: Apache-2.0
 *
 * Kept activations are what a pass captured, as it captured it: nothing is copied, so views of one
 * memory stay that. They need their model, and graphs' hooks hold on to those they patch from. */
#include "server/service/activations.h"

#include "core/base/mem.h"
#include "server/convert/hooks.h"
#include "server/runtime/log.h"
#include "server/service/listing.h"
#include "server/service/tensor_stream.h"

#include <string.h>

abl_resident_activations *abl_activations_keep(abl_rpc *rpc, abl_resident_model *model,
                                               abl_forward_result *result) {
    abl_resident_activations *made =
        abl_resident_activations_create(result->entries, result->entry_count);
    if (made == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return NULL;
    }
    result->entries = NULL;
    result->entry_count = 0;
    made->created_ms = abl_time_ms();
    abl_object *needs[] = {&model->object};
    if (abl_registry_add(rpc->server->registry, &made->object, needs, ABL_COUNT_OF(needs),
                         &rpc->status) != ABL_CODE_OK) {
        abl_object_unref(&made->object);
        return NULL;
    }
    abl_log(ABL_LOG_INFO, "activations_kept", "id=%s model=%s tensors=%zu bytes=%lld",
            made->object.id, model->object.id, made->entry_count, (long long)made->object.bytes);
    return made;
}

/* ---- list ----------------------------------------------------------------------------------- */

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__Activations *item =
        abl_convert_activations(rpc->scratch, (abl_resident_activations *)(uintptr_t)object);
    return item == NULL ? NULL : &item->base;
}

void abl_rpc_list_activations(abl_rpc *rpc, const ProtobufCMessage *request) {
    Ablate__V1__ListActivationsResponse response = ABLATE__V1__LIST_ACTIVATIONS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_ACTIVATIONS, .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, request, &response.base);
}

/* ---- get ------------------------------------------------------------------------------------ */

typedef struct get_state {
    abl_resident_activations *activations;
    abl_device_slot *slot;
    abl_tensor_stream stream;
} get_state;

static void get_end(abl_rpc *rpc) {
    abl_tensor_stream_end(&((get_state *)rpc->state)->stream);
}

static abl_step get_fetch(abl_rpc *rpc) {
    get_state *state = rpc->state;
    abl_tensor_stream_fetch(&state->stream, state->slot->device, &rpc->status);
    return ABL_STEP_DONE;
}

static void get_next(abl_rpc *rpc) {
    get_state *state = rpc->state;
    Ablate__V1__GetActivationsResponse response = ABLATE__V1__GET_ACTIVATIONS_RESPONSE__INIT;
    Ablate__V1__TensorChunk chunk;
    if (abl_tensor_stream_next(&state->stream, &chunk)) {
        response.chunk = &chunk;
        abl_rpc_send(rpc, &response.base);
    } else if (abl_tensor_stream_more(&state->stream)) {
        abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_INTERACTIVE, get_fetch, abl_rpc_pump);
    } else {
        abl_rpc_finish_ok(rpc);
    }
}

/* The entry of that name, in either dialect, a gradient's included. */
static abl_cache_entry *find_entry(abl_rpc *rpc, const get_state *state, const char *name) {
    const abl_resident_activations *kept = state->activations;
    const abl_cache_entry *found = abl_resident_activations_find(kept, name);
    for (size_t i = 0; i < kept->entry_count && found == NULL; i++) {
        char bridge[ABL_NAME_BYTES_MAX];
        const abl_cache_entry *entry = &kept->entries[i];
        (void)abl_hook_bridge_name(entry->hook, bridge, sizeof bridge);
        size_t length = strlen(bridge);
        bool gradient =
            entry->name[strlen(entry->name) - 1] == 'd' && strstr(entry->name, "_grad") != NULL;
        bool same = length > 0 && strncmp(name, bridge, length) == 0 &&
                    strcmp(name + length, gradient ? "_grad" : "") == 0;
        found = same ? entry : NULL;
    }
    if (found == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN",
                       "names: %s has no '%.80s'; ListActivations says what was kept",
                       kept->object.id, name);
        return NULL;
    }
    return &kept->entries[found - kept->entries];
}

static bool choose_entries(abl_rpc *rpc, get_state *state,
                           const Ablate__V1__GetActivationsRequest *request) {
    const abl_resident_activations *kept = state->activations;
    size_t count = request->n_names > 0 ? request->n_names : kept->entry_count;
    if (count > kept->entry_count) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "NAMES_INVALID",
                       "names has %zu, and %zu tensors were kept; name each once", count,
                       kept->entry_count);
        return false;
    }
    abl_cache_entry **entries = abl_rpc_alloc(rpc, count * sizeof *entries);
    if (entries == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        entries[i] =
            request->n_names == 0 ? &kept->entries[i] : find_entry(rpc, state, request->names[i]);
        if (entries[i] == NULL) {
            return false;
        }
    }
    state->stream = (abl_tensor_stream){.entries = entries, .count = count};
    return true;
}

void abl_rpc_get_activations(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetActivationsRequest *request =
        (const Ablate__V1__GetActivationsRequest *)message;
    get_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_ACTIVATIONS, request->activations_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = get_end;
    state->activations = (abl_resident_activations *)object;
    const abl_resident_model *model = (const abl_resident_model *)object->needs[0];
    state->slot = abl_server_slot(rpc->server, abl_model_device(model->model));
    if (!choose_entries(rpc, state, request)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_stream(rpc, get_next);
}

/* ---- delete --------------------------------------------------------------------------------- */

const abl_object *abl_activations_user(abl_registry *registry, const abl_object *activations) {
    for (abl_object *object = abl_registry_first(registry, ABL_OBJECT_GRAPH); object != NULL;
         object = object->next) {
        if (abl_graph_hooks_uses(((abl_resident_graph *)object)->hooks, activations)) {
            return object;
        }
    }
    return NULL;
}

void abl_rpc_delete_activations(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__DeleteActivationsRequest *request =
        (const Ablate__V1__DeleteActivationsRequest *)message;
    Ablate__V1__DeleteActivationsResponse response = ABLATE__V1__DELETE_ACTIVATIONS_RESPONSE__INIT;
    abl_registry *registry = rpc->server->registry;
    abl_object *object = NULL;
    abl_status unknown; /* abl_rpc_delete() says so, too */
    abl_code code = abl_registry_find(registry, ABL_OBJECT_ACTIVATIONS, request->activations_id,
                                      &object, &unknown);
    const abl_object *user = code == ABL_CODE_OK ? abl_activations_user(registry, object) : NULL;
    if (user != NULL) {
        abl_rpc_fail(rpc, ABL_CODE_FAILED_PRECONDITION, "ACTIVATIONS_IN_USE",
                     "hooks of %s patch from %s; remove those first", user->id, object->id);
        return;
    }
    abl_rpc_delete(rpc, ABL_OBJECT_ACTIVATIONS, request->activations_id, &response.base);
}
