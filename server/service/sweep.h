/* sweep.h -- circuits of a job's scores over a dataset: RunCircuits and EvaluateCircuits.
 *
 * Objects are found on the loop, prompts tokenized on the pool, circuits run on the device, one
 * pass a step and in the class of jobs, so that interactive calls go in between. The results are
 * complete only with the last step, because batches are the outer loop; until then messages tell
 * how far it is (progress.h).
 *
 * OWNERSHIP  An abl_sweep_run lives in its rpc's arena; abl_sweep_run_end() gives back the rest,
 *            from end_cb, after whatever was made of `circuits` on the device has ended.
 * THREADS    prepare, start, end: the loop thread. admit: the executor's.
 * ERRORS     A failure is left in the rpc's status.
 */
#ifndef ABLATE_SERVER_SERVICE_SWEEP_H
#define ABLATE_SERVER_SERVICE_SWEEP_H

#include "core/patch/circuits.h"
#include "server/convert/sweep.h"
#include "server/runtime/job.h"
#include "server/service/kv_cache.h"
#include "server/service/progress.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

typedef struct abl_sweep_run {
    abl_sweep_request request;
    abl_job *job;
    abl_resident_graph *graph;
    abl_resident_model *model;
    abl_resident_dataset *dataset;
    abl_resident_ablation *ablation; /* NULL: none that is resident */
    abl_device_slot *slot;
    abl_values *scores;     /* as they were when the call came */
    abl_graph_hooks *hooks; /* likewise, the graph's */
    abl_dataset *tokenized;
    abl_kv_use kv;
    abl_circuits_options circuits; /* complete when a step runs */
    abl_step (*step_cb)(abl_rpc *rpc);
    void (*done_cb)(abl_rpc *rpc);
    abl_progress progress; /* step_cb's answer is abl_progress_step()'s */
} abl_sweep_run;

/* Finds the objects and holds on to them. False: the rpc's status says why not.
 *   FAILED_PRECONDITION  SCORES_NOT_READY, MODEL_NOT_RESIDENT, TOKENIZER_MISSING
 *   and those of the conversions and the registry */
ABL_MUST_CHECK bool abl_sweep_run_prepare(abl_rpc *rpc, abl_sweep_run *run,
                                          const Ablate__V1__CircuitSweep *message);
/* rpc->state must begin with the abl_sweep_run, which is prepared. Tokenizes, then runs step_cb on
 * the device as often as it answers ABL_STEP_AGAIN (rpc->work_end_cb follows the last), then
 * done_cb. May end the rpc. */
void abl_sweep_run_start(abl_rpc *rpc, abl_step (*step_cb)(abl_rpc *rpc),
                         void (*done_cb)(abl_rpc *rpc));
/* What a stream does before each result: sends the progress that is due, in the field `progress` of
 * `response`; goes on where the passes paused; ends the rpc once `all_sent`. True: none of it, send
 * the next result. */
ABL_MUST_CHECK bool abl_sweep_run_next(abl_rpc *rpc, bool all_sent,
                                       Ablate__V1__SweepProgress **progress,
                                       const ProtobufCMessage *response);
/* Whether the passes' memory on their device, and host_bytes of results, may be taken. */
ABL_MUST_CHECK bool abl_sweep_run_admit(abl_rpc *rpc, const abl_sweep_run *run,
                                        uint64_t host_bytes);
void abl_sweep_run_end(abl_sweep_run *run);

ABL_END_DECLS
#endif
