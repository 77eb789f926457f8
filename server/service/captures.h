/* captures.h -- what the capturing hooks of a graph keep of its runs.
 *
 * Each has a handle of kept activations of its own, of one tensor: the last run's. It goes with the
 * hook.
 *
 * OWNERSHIP  The registry holds the handles, hooks refer to theirs.
 * THREADS    The loop thread.
 * ERRORS     A failure is left in the rpc's status.
 */
#ifndef ABLATE_SERVER_SERVICE_CAPTURES_H
#define ABLATE_SERVER_SERVICE_CAPTURES_H

#include "server/service/hooks.h"

ABL_BEGIN_DECLS

/* After a pass: what it captured takes the place of what its hooks had kept. */
ABL_MUST_CHECK abl_code abl_captures_publish(abl_rpc *rpc, abl_hook_set *set,
                                             abl_resident_graph *graph);
/* A hook goes: what it kept, too, unless a hook of some graph patches from it. */
void abl_captures_forget(abl_registry *registry, abl_resident_hook *hook);
/* Likewise all of a list, which may be NULL. */
void abl_captures_forget_all(abl_registry *registry, abl_graph_hooks *hooks);

ABL_END_DECLS
#endif
