/* SPDX-License-Identifier: Apache-2.0
 *
 * A hook is one block of memory a part: itself, its three index lists in one array, its value. The
 * activations that it patches from are referred to for as long as it lives, so a pass that took a
 * list over from a graph is sure of the tensors, whatever is deleted meanwhile. */
#include "server/runtime/hooks.h"

#include "core/base/mem.h"

#include <string.h>

/* ---- Activations ------------------------------------------------------------------------- */

static void activations_destroy(abl_object *object) {
    abl_resident_activations *activations = (abl_resident_activations *)object;
    for (size_t i = 0; i < activations->entry_count; i++) {
        abl_tensor_release(activations->entries[i].tensor);
    }
    abl_free(activations->entries);
    abl_free(activations);
}

/* Neighbours are often views of one memory: it counts once. */
static int64_t entries_bytes(const abl_cache_entry *entries, size_t count) {
    int64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bool counted = false;
        for (size_t back = 1; back <= 8 && back <= i && !counted; back++) {
            counted = abl_tensor_same_storage(entries[i].tensor, entries[i - back].tensor);
        }
        bytes += counted ? 0 : (int64_t)abl_tensor_storage_bytes(entries[i].tensor);
    }
    return bytes;
}

abl_resident_activations *abl_resident_activations_create(abl_cache_entry *entries,
                                                          size_t entry_count) {
    abl_resident_activations *activations = abl_calloc(1, sizeof *activations);
    if (activations == NULL) {
        return NULL;
    }
    abl_object_init(&activations->object, ABL_OBJECT_ACTIVATIONS, "", activations_destroy);
    activations->entries = entries;
    activations->entry_count = entry_count;
    activations->object.bytes = entries_bytes(entries, entry_count);
    return activations;
}

const abl_cache_entry *abl_resident_activations_find(const abl_resident_activations *activations,
                                                     const char *name) {
    for (size_t i = 0; i < activations->entry_count; i++) {
        if (strcmp(activations->entries[i].name, name) == 0) {
            return &activations->entries[i];
        }
    }
    return NULL;
}

/* ---- Hooks ------------------------------------------------------------------------------- */

static void *copy_of(const void *from, size_t count, size_t bytes) {
    void *copy = abl_calloc(count == 0 ? 1 : count, bytes);
    if (copy != NULL && count > 0) {
        memcpy(copy, from, count * bytes);
    }
    return copy;
}

static size_t value_count(const abl_intervention *item) {
    size_t count = item->values == NULL ? 0 : 1;
    for (int i = 0; i < item->value_rank; i++) {
        count *= (size_t)item->value_shape[i];
    }
    return count;
}

/* Ends what the item points to; all of it is ours, const or not. */
static void item_finish(abl_intervention *item) {
    const void *parts[] = {item->heads.indices, item->positions.indices, item->rows.indices,
                           item->values, item->value_shape};
    for (size_t i = 0; i < ABL_COUNT_OF(parts); i++) {
        void *part = NULL;
        memcpy(&part, &parts[i], sizeof part);
        abl_free(part);
    }
}

void abl_resident_hook_unref(abl_resident_hook *hook) {
    if (hook == NULL || --hook->refs > 0) {
        return;
    }
    item_finish(&hook->item);
    abl_object_unref(hook->activations);
    abl_object_unref(hook->kept);
    abl_free(hook->source_name);
    abl_free(hook);
}

static bool copy_list(abl_index_list *list) {
    list->indices = copy_of(list->indices, list->count, sizeof *list->indices);
    return list->indices != NULL;
}

static bool copy_parts(abl_resident_hook *hook, const char *source_name) {
    abl_intervention *item = &hook->item;
    size_t count = value_count(item);
    /* Every one of them, so that a failure leaves nothing of the caller's in the copy. */
    bool lists = copy_list(&item->heads);
    lists = copy_list(&item->positions) && lists;
    lists = copy_list(&item->rows) && lists;
    bool has_value = item->values != NULL;
    item->value_shape =
        has_value ? copy_of(item->value_shape, (size_t)item->value_rank, sizeof *item->value_shape)
                  : NULL;
    item->values = has_value ? copy_of(item->values, count, sizeof *item->values) : NULL;
    hook->source_name = abl_strdup(source_name == NULL ? "" : source_name);
    hook->bytes =
        (int64_t)(sizeof *hook + count * sizeof(float) +
                  (item->heads.count + item->positions.count + item->rows.count) * sizeof(int32_t));
    return lists && hook->source_name != NULL &&
           (!has_value || (item->values != NULL && item->value_shape != NULL));
}

abl_resident_hook *abl_resident_hook_create(const abl_intervention *item, abl_object *activations,
                                            const char *source_name, uint32_t number) {
    abl_resident_hook *hook = abl_calloc(1, sizeof *hook);
    if (hook == NULL) {
        return NULL;
    }
    *hook = (abl_resident_hook){.refs = 1, .number = number, .item = *item};
    hook->activations = activations == NULL ? NULL : abl_object_ref(activations);
    if (!copy_parts(hook, source_name)) {
        abl_resident_hook_unref(hook);
        return NULL;
    }
    return hook;
}

/* ---- Lists ------------------------------------------------------------------------------- */

size_t abl_graph_hooks_count(const abl_graph_hooks *list) {
    return list == NULL ? 0 : list->count;
}

abl_interventions abl_graph_hooks_interventions(const abl_graph_hooks *list) {
    return list == NULL ? (abl_interventions){.count = 0}
                        : (abl_interventions){.items = list->items, .count = list->count};
}

/* An empty list with room for so many. */
static abl_graph_hooks *list_alloc(size_t count) {
    abl_graph_hooks *list = abl_calloc(1, sizeof *list + count * sizeof(abl_resident_hook *));
    abl_intervention *items = abl_calloc(count + 1, sizeof *items);
    if (list == NULL || items == NULL) {
        abl_free(list);
        abl_free(items);
        return NULL;
    }
    list->refs = 1;
    list->items = items;
    return list;
}

/* Takes the reference over. */
static void list_append(abl_graph_hooks *list, abl_resident_hook *hook) {
    list->items[list->count] = hook->item;
    list->hooks[list->count++] = hook;
}

abl_graph_hooks *abl_graph_hooks_with(const abl_graph_hooks *list, abl_resident_hook *hook) {
    size_t count = abl_graph_hooks_count(list);
    abl_graph_hooks *more = list_alloc(count + 1);
    for (size_t i = 0; more != NULL && i < count; i++) {
        list->hooks[i]->refs++;
        list_append(more, list->hooks[i]);
    }
    if (more != NULL) {
        list_append(more, hook);
    }
    return more;
}

abl_graph_hooks *abl_graph_hooks_without(const abl_graph_hooks *list, size_t index) {
    abl_graph_hooks *less = list_alloc(list->count);
    for (size_t i = 0; less != NULL && i < list->count; i++) {
        if (i != index) {
            list->hooks[i]->refs++;
            list_append(less, list->hooks[i]);
        }
    }
    return less;
}

abl_graph_hooks *abl_graph_hooks_ref(abl_graph_hooks *list) {
    if (list != NULL) {
        list->refs++;
    }
    return list;
}

void abl_graph_hooks_unref(abl_graph_hooks *list) {
    if (list == NULL || --list->refs > 0) {
        return;
    }
    for (size_t i = 0; i < list->count; i++) {
        abl_resident_hook_unref(list->hooks[i]);
    }
    abl_free(list->items);
    abl_free(list);
}

int64_t abl_graph_hooks_bytes(const abl_graph_hooks *list) {
    int64_t bytes = 0;
    for (size_t i = 0; i < abl_graph_hooks_count(list); i++) {
        bytes += list->hooks[i]->bytes;
    }
    return bytes;
}

bool abl_graph_hooks_uses(const abl_graph_hooks *list, const abl_object *activations) {
    for (size_t i = 0; i < abl_graph_hooks_count(list); i++) {
        if (list->hooks[i]->activations == activations) {
            return true;
        }
    }
    return false;
}
