/* hooks.h -- interventions of graphs and of single passes: RunService's AddHook and its siblings,
 * and what a pass is run with.
 *
 * OWNERSHIP  A set lives in its rpc's arena; abl_hook_set_end() gives back what it holds on to.
 * THREADS    The loop thread; what a set points to may be read on executors until it ends.
 * ERRORS     A failure is left in the rpc's status.
 */
#ifndef ABLATE_SERVER_SERVICE_HOOKS_H
#define ABLATE_SERVER_SERVICE_HOOKS_H

#include "ablate/v1/hooks.pb-c.h"
#include "server/runtime/resident.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

void abl_rpc_add_hook(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_list_hooks(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_remove_hook(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_reset_hooks(abl_rpc *rpc, const ProtobufCMessage *message);

/* The interventions of one pass: the graph's as they are now, then the request's own. */
typedef struct abl_hook_set {
    abl_interventions list;
    abl_graph_hooks *of_graph;
    abl_tensor **slots;       /* one of those: what it captured; captures.h takes it */
    abl_object **activations; /* that the request's own patch from */
    size_t activations_count;
} abl_hook_set;

/* `graph` may be NULL. False: the rpc's status says why not. */
ABL_MUST_CHECK bool abl_hook_set_init(abl_rpc *rpc, abl_hook_set *set,
                                      const abl_resident_model *model,
                                      const abl_resident_graph *graph,
                                      Ablate__V1__Intervention *const *own, size_t own_count);
void abl_hook_set_end(abl_hook_set *set); /* all zeros is allowed */

/* What many passes are run with: the graph's hooks as they are now, and behind them the request's
 * own. *ret_hooks is a reference of the caller's, and NULL where there are none. False: the rpc's
 * status says why not. */
ABL_MUST_CHECK bool abl_run_hooks(abl_rpc *rpc, const abl_resident_graph *graph,
                                  Ablate__V1__Intervention *const *own, size_t own_count,
                                  abl_graph_hooks **ret_hooks);

ABL_END_DECLS
#endif
