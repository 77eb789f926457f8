/* submit.h -- from a job's description to a job that is queued; internal to server/service.
 *
 * OWNERSHIP  The state is in the rpc's arena; abl_submit_end() gives back what it holds.
 * THREADS    The loop's, but for what abl_submit_start() does on the executor in between.
 * ERRORS     They end the rpc.
 */
#ifndef ABLATE_SERVER_SERVICE_SUBMIT_H
#define ABLATE_SERVER_SERVICE_SUBMIT_H

#include "ablate/v1/prune.pb-c.h"
#include "server/convert/prune.h"
#include "server/runtime/job.h"
#include "server/service/kv_cache.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

/* All zero before the start, but for started_cb; the first member of the rpc's state. */
typedef struct abl_submit {
    const Ablate__V1__PruneJobSpec *spec;
    abl_job_request request;
    abl_resident_graph *graph;
    abl_resident_dataset *dataset;
    abl_resident_model *model;
    abl_resident_ablation *ablation; /* NULL: none that is resident */
    abl_graph_hooks *hooks; /* the graph's when the call came; the job's once there is one */
    abl_device_slot *slot;
    abl_kv_use kv;
    const Ablate__V1__CircuitMask *knockouts_of; /* NULL: no knockouts are trained */
    abl_values *circuit_scores;                  /* of its job */
    uint8_t *in_circuit;
    void (*started_cb)(abl_rpc *rpc, abl_job *job);

    /* made on the executor, the job's once it has started */
    abl_prune *prune;
    abl_dataset *tokenized;
    bool bos;
    int32_t prompt_count;
    int64_t estimated_bytes;
} abl_submit;

/* Ends in started_cb, with a job that the registry holds, or ends the rpc. */
void abl_submit_start(abl_rpc *rpc, abl_submit *state, const Ablate__V1__PruneJobSpec *spec);
void abl_submit_end(abl_submit *state);

ABL_END_DECLS
#endif
