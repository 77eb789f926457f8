/* progress.h -- long work on a device that tells its client how far it is.
 *
 * The work runs in slices: steps on the executor for a quarter of a second, then back to the loop,
 * where a stream sends a message, and on again. So nothing is shared between the two threads.
 *
 *   work_cb      ... one step ...; return abl_progress_step(&progress, done, total);
 *   work_end_cb  if (!progress.paused) end what the work made
 *   done_cb      abl_rpc_stream(rpc, next_cb)
 *   next_cb      if (progress.due) { progress.due = false; send } else if (progress.paused)
 *                { abl_rpc_run(...) } else the results
 *   end_cb       what a pause left goes with abl_server_drop()
 *
 * OWNERSHIP  Embedded in the rpc's state; zeroed before use.
 * THREADS    step: the executor's. The fields: the thread's that has the rpc.
 */
#ifndef ABLATE_SERVER_SERVICE_PROGRESS_H
#define ABLATE_SERVER_SERVICE_PROGRESS_H

#include "server/runtime/executor.h"

ABL_BEGIN_DECLS

typedef struct abl_progress {
    int64_t done;
    int64_t total;
    uint64_t slice_start_us; /* 0: no slice */
    bool due;                /* there is something to tell */
    bool paused;             /* steps are left */
} abl_progress;

/* After a step: whether the slice goes on. The last step's is ABL_STEP_DONE, and nothing is due. */
abl_step abl_progress_step(abl_progress *progress, int64_t done, int64_t total);

ABL_END_DECLS
#endif
