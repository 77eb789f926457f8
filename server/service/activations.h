/* activations.h -- CacheService's calls about kept activations.
 *
 * OWNERSHIP, THREADS, ERRORS  As every handler of rpc.h.
 */
#ifndef ABLATE_SERVER_SERVICE_ACTIVATIONS_H
#define ABLATE_SERVER_SERVICE_ACTIVATIONS_H

#include "server/runtime/hooks.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

void abl_rpc_list_activations(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_get_activations(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_delete_activations(abl_rpc *rpc, const ProtobufCMessage *message);

/* A graph whose hooks patch from them; NULL: none. */
const abl_object *abl_activations_user(abl_registry *registry, const abl_object *activations);
/* Keeps a pass's entries under a handle, and takes them over; NULL: the rpc's status says why. */
ABL_MUST_CHECK abl_resident_activations *
abl_activations_keep(abl_rpc *rpc, abl_resident_model *model, abl_forward_result *result);

ABL_END_DECLS
#endif
