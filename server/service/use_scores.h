/* use_scores.h -- a job's scores, for calls that rank edges by them.
 *
 * OWNERSHIP  The job is held until the rpc ends; its scores are replaced, not written, while it
 *            runs on, so whoever keeps them takes a reference.
 * THREADS    The loop thread.
 * ERRORS     NULL: the rpc's status says why.
 */
#ifndef ABLATE_SERVER_SERVICE_USE_SCORES_H
#define ABLATE_SERVER_SERVICE_USE_SCORES_H

#include "server/runtime/job.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

/* A job with scores. With `like`, they must be over that graph's edges, and final.
 *   NOT_FOUND            JOB_UNKNOWN
 *   FAILED_PRECONDITION  SCORES_NOT_READY, GRAPH_MISMATCH */
ABL_MUST_CHECK abl_job *abl_use_scores(abl_rpc *rpc, const char *job_id, const abl_graph *like);

ABL_END_DECLS
#endif
