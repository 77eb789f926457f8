/* model_rpcs.h -- handlers of ModelService that have files of their own: upload.c,
 * parameters.c, tokens.c.
 *
 * OWNERSHIP, THREADS, ERRORS  as in rpc.h. */
#ifndef ABLATE_SERVER_SERVICE_MODEL_RPCS_H
#define ABLATE_SERVER_SERVICE_MODEL_RPCS_H

#include "server/service/rpc.h"

ABL_BEGIN_DECLS

void abl_rpc_upload_model(abl_rpc *rpc, const ProtobufCMessage *none);
void abl_rpc_list_parameters(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_get_parameter(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_input_to_embed(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_to_tokens(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_to_str_tokens(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_rpc_to_string(abl_rpc *rpc, const ProtobufCMessage *message);

ABL_END_DECLS
#endif
