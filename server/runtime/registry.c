/* SPDX-License-Identifier: Apache-2.0
 *
 * One list a kind, in order of adding, which is also the order of pages. A look-up walks its list:
 * with the limits of limits.h that is tens of microseconds at worst, and there is no second
 * structure to keep in step. Who uses an object is not stored either but read off the others'
 * `needs`, so the answer to "why can I not unload this" cannot go stale.
 *
 * Ids end in random digits, not a counter: a notebook that outlived a restart of the daemon must
 * not find its old id on somebody else's graph. */
#include "server/runtime/registry.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "server/runtime/clock.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

typedef struct shelf {
    abl_object *first;
    abl_object *last;
    size_t count;
    int64_t bytes;
} shelf;

struct abl_registry {
    shelf shelves[ABL_OBJECT_KIND_COUNT];
    uint64_t serial;
};

typedef struct kind_words {
    const char *name;
    const char *unknown;
    const char *in_use;
    const char *too_many;
    size_t count_max;
    const char *how; /* where an id comes from */
} kind_words;

static const kind_words words[ABL_OBJECT_KIND_COUNT] = {
    {"model", "MODEL_UNKNOWN", "MODEL_IN_USE", "TOO_MANY_MODELS", ABL_MODEL_COUNT_MAX,
     "ListModels lists the resident ones, LoadModel makes one resident"},
    {"graph", "GRAPH_UNKNOWN", "GRAPH_IN_USE", "TOO_MANY_GRAPHS", ABL_GRAPH_COUNT_MAX,
     "ListGraphs lists them, CreateGraph makes one"},
    {"dataset", "DATASET_UNKNOWN", "DATASET_IN_USE", "TOO_MANY_DATASETS", ABL_DATASET_COUNT_MAX,
     "ListDatasets lists them, UploadDataset makes one"},
    {"kv_cache", "KV_CACHE_UNKNOWN", "KV_CACHE_IN_USE", "TOO_MANY_KV_CACHES",
     ABL_KV_CACHE_COUNT_MAX, "ListKvCaches lists them, CreateKvCache makes one"},
    {"activations", "ACTIVATIONS_UNKNOWN", "ACTIVATIONS_IN_USE", "TOO_MANY_ACTIVATIONS",
     ABL_ACTIVATIONS_COUNT_MAX, "ListActivations lists them, RunWithCache keeps them"},
    {"ablation", "ABLATION_UNKNOWN", "ABLATION_IN_USE", "TOO_MANY_ABLATIONS",
     ABL_ABLATION_COUNT_MAX, "ListAblations lists them, CreateAblation makes one"},
    {"job", "JOB_UNKNOWN", "JOB_IN_USE", "TOO_MANY_JOBS", ABL_JOB_COUNT_MAX, "ListJobs lists them"},
};

const char *abl_object_kind_name(abl_object_kind kind) {
    return words[kind].name;
}

abl_registry *abl_registry_create(void) {
    return abl_calloc(1, sizeof(abl_registry));
}

void abl_registry_destroy(abl_registry *registry) {
    if (registry == NULL) {
        return;
    }
    for (int kind = ABL_OBJECT_KIND_COUNT - 1; kind >= 0; kind--) { /* users before the used */
        while (registry->shelves[kind].first != NULL) {
            abl_object *object = registry->shelves[kind].first;
            registry->shelves[kind].first = object->next;
            object->next = NULL;
            object->listed = false;
            object->registry = NULL;
            abl_object_release_needs(object);
            abl_object_unref(object);
        }
    }
    abl_free(registry);
}

void abl_object_init(abl_object *object, abl_object_kind kind, const char *name,
                     void (*destroy_cb)(abl_object *object)) {
    *object = (abl_object){.kind = kind, .name = name, .destroy_cb = destroy_cb, .refs = 1};
}

abl_object *abl_object_ref(abl_object *object) {
    object->refs++;
    return object;
}

void abl_object_unref(abl_object *object) {
    if (object == NULL) {
        return;
    }
    ABL_ASSERT(object->refs > 0);
    if (--object->refs == 0) {
        ABL_ASSERT(!object->listed && object->call_count == 0);
        object->destroy_cb(object);
    }
}

static void hold(abl_object *object) {
    object->hold_count++;
    (void)abl_object_ref(object);
}

/* The last to let go of a removed object lets go of what that one needed. */
static void let_go(abl_object *object) {
    ABL_ASSERT(object->hold_count > 0);
    object->hold_count--;
    if (!object->listed && object->hold_count == 0) {
        abl_object_release_needs(object);
    }
    abl_object_unref(object);
}

void abl_hold_init(abl_hold *use, abl_object *object) {
    *use = (abl_hold){.object = object};
    object->call_count++;
    object->last_use_ms = abl_time_us() / 1000;
    hold(object);
}

void abl_hold_cancel(abl_hold *use) {
    if (!use->ending) {
        use->ending = true;
        use->object->call_count--;
    }
}

void abl_hold_finish(abl_hold *use) {
    abl_hold_cancel(use);
    use->object->last_use_ms = abl_time_us() / 1000;
    let_go(use->object);
}

static void make_id(abl_registry *registry, abl_object *object) {
    bool taken = true;
    while (taken) {
        uint32_t random = 0;
        if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
            random = (uint32_t)(registry->serial * 2654435761u); /* unique is what matters */
        }
        (void)snprintf(object->id, sizeof object->id, "%s-%08x", words[object->kind].name, random);
        taken = false;
        for (abl_object *other = registry->shelves[object->kind].first; other != NULL;
             other = other->next) {
            taken = taken || strcmp(other->id, object->id) == 0;
        }
        registry->serial++;
    }
}

abl_code abl_registry_add(abl_registry *registry, abl_object *object, abl_object *const *needs,
                          size_t need_count, abl_status *ret_status) {
    ABL_ASSERT(!object->listed && need_count <= ABL_OBJECT_NEEDS_MAX);
    shelf *where = &registry->shelves[object->kind];
    const kind_words *say = &words[object->kind];
    if (where->count >= say->count_max) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, say->too_many,
                        "there are %zu %ss already, which is the limit; delete one first",
                        where->count, say->name);
    }
    make_id(registry, object);
    for (size_t i = 0; i < need_count; i++) {
        object->needs[i] = needs[i];
        hold(needs[i]);
    }
    object->serial = ++registry->serial;
    object->registry = registry;
    object->listed = true;
    object->next = NULL;
    if (where->last == NULL) {
        where->first = object;
    } else {
        where->last->next = object;
    }
    where->last = object;
    where->count++;
    where->bytes += object->bytes;
    return ABL_CODE_OK;
}

void abl_object_end(abl_object *object) {
    object->ending = true;
}

void abl_object_release_needs(abl_object *object) {
    for (size_t i = 0; i < ABL_OBJECT_NEEDS_MAX; i++) {
        abl_object *needed = object->needs[i];
        object->needs[i] = NULL;
        if (needed != NULL) {
            let_go(needed);
        }
    }
}

void abl_object_set_bytes(abl_object *object, int64_t bytes) {
    if (object->listed) {
        object->registry->shelves[object->kind].bytes += bytes - object->bytes;
    }
    object->bytes = bytes;
}

abl_code abl_registry_find(abl_registry *registry, abl_object_kind kind, const char *id,
                           abl_object **ret_object, abl_status *ret_status) {
    for (abl_object *object = registry->shelves[kind].first; object != NULL;
         object = object->next) {
        if (strcmp(object->id, id) == 0) {
            *ret_object = object;
            return ABL_CODE_OK;
        }
    }
    const kind_words *say = &words[kind];
    if (id[0] == '\0') {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ID_MISSING", "%s_id is empty; %s",
                        say->name, say->how);
    }
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, say->unknown, "no %s has the id '%.64s'; %s",
                    say->name, id, say->how);
}

bool abl_object_needs(const abl_object *object, const abl_object *other) {
    for (size_t i = 0; i < ABL_OBJECT_NEEDS_MAX; i++) {
        if (object->needs[i] == other) {
            return true;
        }
    }
    return false;
}

static bool is_user(const abl_object *user, const abl_object *object) {
    return !user->ending && abl_object_needs(user, object);
}

size_t abl_registry_user_count(const abl_registry *registry, const abl_object *object) {
    size_t count = 0;
    for (int kind = 0; kind < ABL_OBJECT_KIND_COUNT; kind++) {
        for (abl_object *user = registry->shelves[kind].first; user != NULL; user = user->next) {
            count += is_user(user, object) ? 1 : 0;
        }
    }
    return count;
}

bool abl_registry_in_use(const abl_registry *registry, const abl_object *object) {
    return object->call_count > 0 || abl_registry_user_count(registry, object) > 0;
}

/* "graph-0a1b2c3d, job-00112233 and 4 more, 2 running calls" */
static void name_users(const abl_registry *registry, const abl_object *object, char *text,
                       size_t text_bytes) {
    size_t length = 0;
    size_t named = 0;
    size_t count = abl_registry_user_count(registry, object);
    text[0] = '\0';
    for (int kind = 0; kind < ABL_OBJECT_KIND_COUNT; kind++) {
        for (abl_object *user = registry->shelves[kind].first; user != NULL && named < 8;
             user = user->next) {
            if (is_user(user, object)) {
                length += (size_t)snprintf(text + length, text_bytes - length, "%s%s",
                                           named == 0 ? "" : ", ", user->id);
                named++;
            }
        }
    }
    if (count > named) {
        length +=
            (size_t)snprintf(text + length, text_bytes - length, " and %zu more", count - named);
    }
    if (object->call_count > 0) {
        (void)snprintf(text + length, text_bytes - length, "%s%u running call%s",
                       count == 0 ? "" : ", ", object->call_count,
                       object->call_count == 1 ? "" : "s");
    }
}

abl_code abl_registry_remove(abl_registry *registry, abl_object *object, abl_status *ret_status) {
    ABL_ASSERT(object->listed);
    if (abl_registry_in_use(registry, object)) {
        char users[320];
        name_users(registry, object, users, sizeof users);
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, words[object->kind].in_use,
                        "%s is in use by %s; delete or cancel those first", object->id, users);
    }
    shelf *where = &registry->shelves[object->kind];
    abl_object *before = NULL;
    for (abl_object *at = where->first; at != object; at = at->next) {
        before = at;
    }
    if (before == NULL) {
        where->first = object->next;
    } else {
        before->next = object->next;
    }
    if (where->last == object) {
        where->last = before;
    }
    where->count--;
    where->bytes -= object->bytes;
    object->listed = false;
    object->next = NULL;
    if (object->hold_count == 0) {
        abl_object_release_needs(object);
    }
    abl_object_unref(object);
    return ABL_CODE_OK;
}

size_t abl_registry_count(const abl_registry *registry, abl_object_kind kind) {
    return registry->shelves[kind].count;
}

int64_t abl_registry_bytes(const abl_registry *registry, abl_object_kind kind) {
    return registry->shelves[kind].bytes;
}

abl_object *abl_registry_first(const abl_registry *registry, abl_object_kind kind) {
    return registry->shelves[kind].first;
}
