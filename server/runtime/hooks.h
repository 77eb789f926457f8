/* hooks.h -- interventions that stay: a graph's list, and activations that they patch from.
 *
 * A list is immutable and counted, like a mask: replaced and never written, so a pass that was
 * admitted under one keeps it. Hooks are counted, too, and shared by the lists that have them.
 *
 * OWNERSHIP  Each create call hands over one reference; a NULL list is an empty one.
 * THREADS    The loop thread, except: items of hooks are immutable, and may be read on executors
 *            while somebody holds the list.
 * ERRORS     NULL: no memory.
 */
#ifndef ABLATE_SERVER_RUNTIME_HOOKS_H
#define ABLATE_SERVER_RUNTIME_HOOKS_H

#include "core/model/forward.h"
#include "server/runtime/registry.h"

ABL_BEGIN_DECLS

/* Tensors of one pass. */
typedef struct abl_resident_activations {
    abl_object object; /* needs its model */
    abl_cache_entry *entries;
    size_t entry_count;
    int64_t created_ms;
} abl_resident_activations;

/* Takes the entries over on success: they are an abl_calloc block of kept tensors. */
ABL_MUST_CHECK abl_resident_activations *abl_resident_activations_create(abl_cache_entry *entries,
                                                                         size_t entry_count);
/* By TransformerLens's name; NULL when it is not among them. */
const abl_cache_entry *abl_resident_activations_find(const abl_resident_activations *activations,
                                                     const char *name);

typedef struct abl_resident_hook {
    uint32_t refs;
    uint32_t number; /* within its graph; ids are made of it. 0: a job's own, no graph's */
    abl_intervention item;
    abl_object *activations; /* that it patches from; NULL: none */
    char *source_name;       /* of which tensor there */
    abl_object *kept;        /* a capture's: the activations of the last run; NULL: none yet */
    int64_t bytes;
} abl_resident_hook;

typedef struct abl_graph_hooks {
    uint32_t refs;
    size_t count;
    abl_intervention *items; /* the hooks' own, side by side; what they point to is the hooks' */
    abl_resident_hook *hooks[];
} abl_graph_hooks;

/* A copy of the item and of all it points to; `activations` and `source_name` may be NULL. */
ABL_MUST_CHECK abl_resident_hook *abl_resident_hook_create(const abl_intervention *item,
                                                           abl_object *activations,
                                                           const char *source_name,
                                                           uint32_t number);
void abl_resident_hook_unref(abl_resident_hook *hook); /* NULL is allowed */

/* `list` and one more, whose reference it takes over on success. */
ABL_MUST_CHECK abl_graph_hooks *abl_graph_hooks_with(const abl_graph_hooks *list,
                                                     abl_resident_hook *hook);
/* `list` without its hook at that index; may be empty. */
ABL_MUST_CHECK abl_graph_hooks *abl_graph_hooks_without(const abl_graph_hooks *list, size_t index);
abl_graph_hooks *abl_graph_hooks_ref(abl_graph_hooks *list); /* NULL stays NULL */
void abl_graph_hooks_unref(abl_graph_hooks *list);
size_t abl_graph_hooks_count(const abl_graph_hooks *list);
/* What they do in a pass; for as long as somebody holds the list. */
abl_interventions abl_graph_hooks_interventions(const abl_graph_hooks *list);
int64_t abl_graph_hooks_bytes(const abl_graph_hooks *list);
/* Whether one of its hooks patches from them. */
bool abl_graph_hooks_uses(const abl_graph_hooks *list, const abl_object *activations);

ABL_END_DECLS
#endif
