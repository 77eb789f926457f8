/* SPDX-License-Identifier: Apache-2.0
 *
 * The one door to a job's scores. Values are over a list of edges, so what matters is that two
 * graphs have the same edges, not that they are one object. */
#include "server/service/use_scores.h"

abl_job *abl_use_scores(abl_rpc *rpc, const char *job_id, const abl_graph *like) {
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_JOB, job_id);
    if (object == NULL) {
        return NULL;
    }
    abl_job *job = (abl_job *)object;
    if (job->scores == NULL || (like != NULL && !abl_job_ended(job))) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "SCORES_NOT_READY",
                       "job '%s' is %s and has %s; wait until it has ended, or cancel it",
                       object->id, abl_job_state_name(job->state),
                       job->scores == NULL ? "no scores" : "scores that change");
        return NULL;
    }
    if (like != NULL && !abl_graph_same_edges(job->graph->graph, like)) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "GRAPH_MISMATCH",
                       "the scores of job '%s' are over a graph with other edges: another model's "
                       "shape, or other options",
                       object->id);
        return NULL;
    }
    return job;
}
