/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass writes what it captures to slots of its own, on the executor; here, on the loop, the slots
 * become kept activations. A hook that was removed while its pass ran keeps nothing. */
#include "server/service/captures.h"

#include "core/base/mem.h"
#include "server/service/activations.h"

#include <string.h>

static bool is_hook_of(const abl_resident_graph *graph, const abl_resident_hook *hook) {
    for (size_t i = 0; i < abl_graph_hooks_count(graph->hooks); i++) {
        if (graph->hooks->hooks[i] == hook) {
            return true;
        }
    }
    return false;
}

/* Takes the slot's tensor over on success. */
static abl_code publish(abl_rpc *rpc, abl_resident_graph *graph, abl_resident_hook *hook,
                        abl_tensor **slot) {
    abl_forward_result result = {.entries = abl_calloc(1, sizeof *result.entries),
                                 .entry_count = 1};
    if (result.entries == NULL) {
        return abl_fail_oom(&rpc->status);
    }
    abl_cache_entry *entry = &result.entries[0];
    *entry = (abl_cache_entry){.hook = hook->item.hook, .tensor = *slot};
    (void)abl_hook_name(entry->hook, entry->name, sizeof entry->name);
    if (hook->item.op == ABL_OP_CAPTURE_GRADIENT) {
        strncat(entry->name, "_grad", sizeof entry->name - strlen(entry->name) - 1);
    }
    abl_resident_activations *made =
        abl_activations_keep(rpc, abl_resident_graph_model(graph), &result);
    if (made == NULL) {
        abl_code code = rpc->status.code;
        if (result.entries == NULL) {
            *slot = NULL; /* the handle had it already */
        }
        abl_free(result.entries);
        return code;
    }
    *slot = NULL;
    abl_captures_forget(rpc->server->registry, hook);
    hook->kept = abl_object_ref(&made->object);
    return ABL_CODE_OK;
}

abl_code abl_captures_publish(abl_rpc *rpc, abl_hook_set *set, abl_resident_graph *graph) {
    abl_code code = ABL_CODE_OK;
    for (size_t i = 0; i < abl_graph_hooks_count(set->of_graph) && code == ABL_CODE_OK; i++) {
        abl_resident_hook *hook = set->of_graph->hooks[i];
        if (set->slots[i] != NULL && is_hook_of(graph, hook)) {
            code = publish(rpc, graph, hook, &set->slots[i]);
        }
    }
    return code;
}

void abl_captures_forget(abl_registry *registry, abl_resident_hook *hook) {
    abl_object *kept = hook->kept;
    hook->kept = NULL;
    if (kept == NULL) {
        return;
    }
    abl_status ignored; /* while it is read it stays, as others do that a client keeps */
    if (kept->listed && abl_activations_user(registry, kept) == NULL) {
        (void)!abl_registry_remove(registry, kept, &ignored);
    }
    abl_object_unref(kept);
}

void abl_captures_forget_all(abl_registry *registry, abl_graph_hooks *hooks) {
    for (size_t i = 0; i < abl_graph_hooks_count(hooks); i++) {
        abl_captures_forget(registry, hooks->hooks[i]);
    }
}
