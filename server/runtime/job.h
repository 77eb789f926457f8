/* job.h -- a prune job: an algorithm that runs step by step while the daemon does other things.
 *
 * A job's life: abl_job_create() -> abl_job_start() lists and queues it -> steps on the executor,
 * each reported to the loop -> it ends, and stays listed with its scores and events until it has to
 * make room. Events are numbered from 1 without gaps and kept whole, so a watcher that comes back
 * continues where it was.
 *
 * OWNERSHIP  abl_job_create() hands over one reference (registry.h) and takes `prune` and `dataset`
 *            over, on failure too. Events are the job's. A watcher is embedded in whoever watches,
 *            between abl_job_watch() and abl_job_unwatch().
 * THREADS    The loop thread. Between start and end, `prune` is the executor's alone.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_RUNTIME_JOB_H
#define ABLATE_SERVER_RUNTIME_JOB_H

#include "core/data/dataset.h"
#include "core/prune/prune.h"
#include "server/runtime/executor.h"
#include "server/runtime/metrics.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

/* Numbers as in the protocol. */
typedef enum abl_job_state {
    ABL_JOB_QUEUED = 1,
    ABL_JOB_RUNNING,
    ABL_JOB_SUCCEEDED,
    ABL_JOB_FAILED,
    ABL_JOB_CANCELLED,
    ABL_JOB_STATE_COUNT,
} abl_job_state;

const char *abl_job_state_name(abl_job_state state); /* "queued" */

typedef struct abl_job_edge {
    int64_t edge; /* index in canonical order */
    float value;
} abl_job_edge;

/* What a job has found by some point. */
typedef struct abl_job_findings {
    int32_t top_count;
    abl_job_edge *top; /* descending by |value| */
    int32_t training_count;
    abl_training_point *training; /* steps since the findings before, the newest of them */
    int32_t acdc_count;
    abl_acdc_tau *acdc; /* those begun */
    int32_t decision_count;
    abl_acdc_decision *decisions; /* an ACDC's since the findings before, the newest of them */
} abl_job_findings;

#define ABL_JOB_TRAINING_MAX 1000 /* points in one event */

typedef struct abl_job_event {
    int64_t time_ms; /* since 1970, UTC */
    abl_job_state state;
    int64_t done;
    int64_t total;
    double eta_ms; /* -1: cannot be told */
    double elapsed_ms;
    abl_job_findings found;
    abl_values *scores; /* as of it; NULL: none new, nobody watches for them, or too long ago */
} abl_job_event;

typedef struct abl_job_watcher abl_job_watcher;
struct abl_job_watcher {
    void (*event_cb)(abl_job_watcher *watcher); /* there is a new event; may unwatch */
    bool with_scores; /* constant while it watches: events keep their scores meanwhile */
    abl_job_watcher *next;
};

typedef struct abl_job {
    abl_object object;

    /* what it does: set by its maker, constant */
    abl_resident_graph *graph;       /* a reference; the graph itself may be unlisted later */
    abl_resident_dataset *dataset;   /* a reference; NULL: abl_job_create_ended() */
    abl_object *kv_cache;            /* set before start; NULL: none. Needed until the job ends */
    abl_resident_ablation *ablation; /* likewise */
    abl_graph_hooks *hooks; /* the graph's at submit, which the prune borrows; a reference */
    const char *model_name; /* the job's copy, as the next */
    char model_id[ABL_ID_BYTES];
    void *spec; /* the request's PruneJobSpec, packed; an abl_malloc block, as the next */
    size_t spec_bytes;
    void *provenance; /* Provenance, packed: the model may be gone when it is asked for */
    size_t provenance_bytes;
    abl_bos_policy bos;
    int32_t batch_size;
    int32_t prompt_count;
    int32_t top_k;
    int64_t estimated_bytes;
    char owner[ABL_OWNER_BYTES_MAX + 1]; /* who submitted it */

    /* where it stands */
    abl_job_state state;
    abl_status error; /* FAILED: why; CANCELLED: by whom */
    int64_t done;     /* as of the newest event, as is `total` */
    int64_t total;
    int64_t steps_done; /* atomic: as of the last step; abl_job_done() reads it */
    int64_t created_ms;
    double elapsed_ms;  /* inside steps */
    abl_values *scores; /* final, or after the last finished batch; NULL: none yet */
    abl_job_event *events;
    int64_t event_count; /* the newest event's number */

    /* job.c's own */
    int64_t event_capacity;
    abl_job_watcher *watchers;
    int32_t score_watcher_count; /* atomic: the loop writes it */
    int64_t event_scores_first;  /* index of the first event that may have scores */
    int64_t event_scores_count;  /* events that have */
    int64_t event_scores_bytes_max;
    struct abl_timer *grace; /* NULL: not orphaned, or ended; runs while nobody watches */
    uint64_t grace_ms;
    abl_task task;
    char client[96];
    abl_executor *executor;
    abl_metrics *metrics;
    size_t *active_jobs; /* the server's count */
    struct abl_loop *loop;
    abl_prune *prune;           /* the executor's */
    abl_dataset *tokenized;     /* the executor's */
    abl_status step_status;     /* the executor's, until done */
    abl_values *running_scores; /* the executor's: a place to copy scores to */
    abl_job_findings final;     /* the executor's, until done: for the closing event */
    int64_t training_reported;  /* the executor's: points of the curve in reports so far */
    int64_t training_count;     /* in events */
    int64_t acdc_count;         /* taus in events */
    int64_t decisions_reported; /* the executor's: decisions in reports so far, or passed over */
    int64_t decision_count;     /* in events */
    uint64_t run_us;            /* the executor's */
    uint64_t reported_us;       /* the executor's: run_us at its last report */
    int64_t report_count;       /* the executor's */
    bool started;
    char name[ABL_NAME_BYTES_MAX + 1];
    char model_name_text[ABL_NAME_BYTES_MAX + 1];
} abl_job;

/* `prune` and `tokenized` are made on the executor, before; the caller fills in the constant fields
 * it has (spec, provenance, bos, sizes, top_k, estimated_bytes) between create and start.
 * NULL: no memory; prune and tokenized are then still the caller's. */
ABL_MUST_CHECK abl_job *abl_job_create(abl_resident_graph *graph, abl_resident_dataset *dataset,
                                       abl_prune *prune, abl_dataset *tokenized);
/* A job that has succeeded with scores from elsewhere, whose reference it takes over: no dataset,
 * nothing to run. List it with abl_job_keep(). */
ABL_MUST_CHECK abl_job *abl_job_create_ended(abl_resident_graph *graph, abl_values *scores);
/* The registry takes the caller's reference over; on failure the caller still holds it.
 *   RESOURCE_EXHAUSTED  TOO_MANY_JOBS */
ABL_MUST_CHECK abl_code abl_job_keep(abl_job *job, abl_registry *registry, abl_status *ret_status);

typedef struct abl_job_place {
    abl_registry *registry;
    abl_executor *executor;
    struct abl_loop *loop;
    abl_metrics *metrics;
    size_t *active_jobs;
    size_t jobs_max;
    const char *client; /* whose turn it takes; copied */
} abl_job_place;

/* Lists it and queues it. The registry takes the caller's reference over; on failure the caller
 * still holds it.
 *   RESOURCE_EXHAUSTED  QUEUE_FULL, TOO_MANY_JOBS
 *   UNAVAILABLE         DRAINING */
ABL_MUST_CHECK abl_code abl_job_start(abl_job *job, const abl_job_place *place,
                                      abl_status *ret_status);

/* It stops after the step that runs, with the scores it has. No effect once it has ended. */
void abl_job_cancel(abl_job *job, const char *why);
/* The client that streamed it is gone: from now on it is cancelled once nobody has watched it for
 * grace_ms on end. 0: at once. To be called once; no effect on a job that has ended. */
void abl_job_orphan(abl_job *job, uint64_t grace_ms);
bool abl_job_ended(const abl_job *job);
/* Units of work done, ahead of the events while it runs. */
int64_t abl_job_done(const abl_job *job);

/* Calls event_cb from now on, from the loop and never inside this call. */
void abl_job_watch(abl_job *job, abl_job_watcher *watcher);
void abl_job_unwatch(abl_job *job, abl_job_watcher *watcher);

ABL_END_DECLS
#endif
