/* prune_rpcs.h -- the rpcs of PruneService that have a file of their own; internal to
 * server/service. */
#ifndef ABLATE_SERVER_SERVICE_PRUNE_RPCS_H
#define ABLATE_SERVER_SERVICE_PRUNE_RPCS_H

#include "ablate/v1/prune.pb-c.h"
#include "server/runtime/job.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

/* create_scores.c */
void abl_prune_create_scores(abl_rpc *rpc, const ProtobufCMessage *message);

/* submit.c: packs what a job shows of itself into blocks of the job's. False: no memory. */
ABL_MUST_CHECK bool abl_job_describe(abl_job *job, const Ablate__V1__PruneJobSpec *spec,
                                     const Ablate__V1__Provenance *provenance);

ABL_END_DECLS
#endif
