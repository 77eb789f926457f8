/* evaluate_rpcs.h -- the rpcs of EvaluateService that have a file of their own; internal to
 * server/service. */
#ifndef ABLATE_SERVER_SERVICE_EVALUATE_RPCS_H
#define ABLATE_SERVER_SERVICE_EVALUATE_RPCS_H

#include "server/service/rpc.h"

ABL_BEGIN_DECLS

/* completeness.c */
void abl_evaluate_completeness(abl_rpc *rpc, const ProtobufCMessage *message);
/* compare.c */
void abl_evaluate_roc(abl_rpc *rpc, const ProtobufCMessage *message);
void abl_evaluate_compare(abl_rpc *rpc, const ProtobufCMessage *message);

ABL_END_DECLS
#endif
