/* ablation.h -- the calls of CacheService that are about ablations. */
#ifndef ABLATE_SERVER_SERVICE_ABLATION_H
#define ABLATE_SERVER_SERVICE_ABLATION_H

#include "server/service/rpc.h"

ABL_BEGIN_DECLS

void abl_rpc_create_ablation(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_list_ablations(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_get_ablation(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_delete_ablation(abl_rpc *rpc, const ProtobufCMessage *message);

ABL_END_DECLS
#endif
