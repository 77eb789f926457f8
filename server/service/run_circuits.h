/* run_circuits.h -- RunService.RunCircuits, whose table is in run.c.
 *
 * OWNERSHIP  As rpc.h says.
 * THREADS    The loop thread.
 * ERRORS     As rpc.h says.
 */
#ifndef ABLATE_SERVER_SERVICE_RUN_CIRCUITS_H
#define ABLATE_SERVER_SERVICE_RUN_CIRCUITS_H

#include "server/service/rpc.h"

ABL_BEGIN_DECLS

void abl_rpc_run_circuits(abl_rpc *rpc, const ProtobufCMessage *message);

ABL_END_DECLS
#endif
