/* registry.h -- resident objects: what clients made and refer to by id.
 *
 *   model <- graph <- job -> dataset       an arrow says "needs"
 *   model <- kv_cache <- graph, job
 *   model <- ablation <- job
 *
 * An object is listed (clients can find it) until it is removed, and lives until nothing refers to
 * it any more. Removing one that others use is refused with the users' names: listed objects that
 * need it, and calls that run on it now. Users that are only ending (a cancelled job, a call whose
 * client is gone) stand in nobody's way: the object is unlisted under them, and it and what it
 * needs stay in memory until the last of them has let go. A job that has ended needs nothing any
 * more but keeps references, so its graph's names outlive the graph itself.
 *
 * OWNERSHIP  abl_registry_add() takes over the caller's reference on OK. Whoever keeps an object
 *            over a return to the loop takes a reference with abl_object_ref().
 * THREADS    The loop thread only, except what a kind's own header says is immutable.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_RUNTIME_REGISTRY_H
#define ABLATE_SERVER_RUNTIME_REGISTRY_H

#include "core/base/limits.h"
#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef enum abl_object_kind {
    ABL_OBJECT_MODEL = 0,
    ABL_OBJECT_GRAPH,
    ABL_OBJECT_DATASET,
    ABL_OBJECT_KV_CACHE,
    ABL_OBJECT_ACTIVATIONS,
    ABL_OBJECT_ABLATION,
    ABL_OBJECT_JOB,
    ABL_OBJECT_KIND_COUNT,
} abl_object_kind;

#define ABL_ID_BYTES 24 /* "dataset-0123456789abcdef" would not fit, "dataset-01234567" does */
#define ABL_OBJECT_NEEDS_MAX (1 + ABL_GRAPH_KV_CACHE_MAX) /* a graph's: its model, its caches */

/* Embedded as the first member of each kind's own struct. */
typedef struct abl_object abl_object;
struct abl_object {
    /* set by its maker, before it is added */
    abl_object_kind kind;
    const char *name;                       /* for people; owned by the maker's struct */
    int64_t bytes;                          /* resident; change it with abl_object_set_bytes() */
    void (*destroy_cb)(abl_object *object); /* ends the whole struct */

    /* the registry's */
    char id[ABL_ID_BYTES]; /* "model-3fa94c1e": to be copied into, never guessed */
    uint64_t serial;       /* grows in order of adding: pages are cut by it */
    uint32_t refs;
    uint32_t call_count;  /* calls that run on it now; not those that are ending */
    uint32_t hold_count;  /* all calls that run on it, and all objects that need it */
    uint64_t last_use_ms; /* when the last call began or ended; abl_time_us()'s clock */
    bool listed;
    bool ending; /* it was told to end, and keeps nothing that it needs from being removed */
    abl_object *needs[ABL_OBJECT_NEEDS_MAX];
    abl_object *next; /* of the same kind, in order of adding */
    struct abl_registry *registry;
};

typedef struct abl_registry abl_registry;

ABL_MUST_CHECK abl_registry *abl_registry_create(void);
/* Removes everything, used or not. References that others hold stay good. NULL is allowed. */
void abl_registry_destroy(abl_registry *registry);

/* Prepares the embedded struct: one reference, the caller's, and not listed. */
void abl_object_init(abl_object *object, abl_object_kind kind, const char *name,
                     void (*destroy_cb)(abl_object *object));
abl_object *abl_object_ref(abl_object *object);
void abl_object_unref(abl_object *object); /* NULL is allowed */

/* A call that runs on an object: a reference that counts as a user. */
typedef struct abl_hold {
    abl_object *object;
    bool ending;
} abl_hold;

void abl_hold_init(abl_hold *hold, abl_object *object);
/* The call's client is gone: it is no user any more, and runs on until it can stop. May be called
 * again. */
void abl_hold_cancel(abl_hold *hold);
void abl_hold_finish(abl_hold *hold);

/* Gives it an id and lists it. `needs` are referred to, and in use, until it is removed or
 * abl_object_release_needs() is called.
 *   RESOURCE_EXHAUSTED  TOO_MANY_MODELS, TOO_MANY_GRAPHS, TOO_MANY_DATASETS, TOO_MANY_KV_CACHES,
 *                       TOO_MANY_ABLATIONS, TOO_MANY_JOBS */
ABL_MUST_CHECK abl_code abl_registry_add(abl_registry *registry, abl_object *object,
                                         abl_object *const *needs, size_t need_count,
                                         abl_status *ret_status);
/* It will use nothing any more as soon as it can stop; it stays listed, and holds on until
 * abl_object_release_needs(). */
void abl_object_end(abl_object *object);
/* It uses nothing any more, though it stays listed. */
void abl_object_release_needs(abl_object *object);
void abl_object_set_bytes(abl_object *object, int64_t bytes);

/* Borrowed until the next return to the loop.
 *   NOT_FOUND  MODEL_UNKNOWN, GRAPH_UNKNOWN, DATASET_UNKNOWN, KV_CACHE_UNKNOWN, ABLATION_UNKNOWN,
 *              JOB_UNKNOWN */
ABL_MUST_CHECK abl_code abl_registry_find(abl_registry *registry, abl_object_kind kind,
                                          const char *id, abl_object **ret_object,
                                          abl_status *ret_status);

/* Unlists it and ends the registry's reference; what it needs is let go once nothing holds it.
 *   FAILED_PRECONDITION  MODEL_IN_USE, GRAPH_IN_USE, DATASET_IN_USE, KV_CACHE_IN_USE,
 *                        ABLATION_IN_USE, JOB_IN_USE  names the users */
ABL_MUST_CHECK abl_code abl_registry_remove(abl_registry *registry, abl_object *object,
                                            abl_status *ret_status);

size_t abl_registry_count(const abl_registry *registry, abl_object_kind kind);
int64_t abl_registry_bytes(const abl_registry *registry, abl_object_kind kind);
/* The first listed object of a kind; object->next leads on. */
abl_object *abl_registry_first(const abl_registry *registry, abl_object_kind kind);
/* How many listed objects need this one, those that are ending left out. */
size_t abl_registry_user_count(const abl_registry *registry, const abl_object *object);
/* Whether abl_registry_remove() would refuse. */
bool abl_registry_in_use(const abl_registry *registry, const abl_object *object);
/* Whether this one needs that one. */
bool abl_object_needs(const abl_object *object, const abl_object *other);

const char *abl_object_kind_name(abl_object_kind kind); /* "model" */

ABL_END_DECLS
#endif
