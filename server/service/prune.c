/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs and what is asked of them. Watching is a stream over a job's events, and StreamPruneScores
 * is submitting (submit.c) and watching in one. */
#include "server/convert/prune.h"
#include "ablate/v1/prune.pb-c.h"
#include "core/base/limits.h"
#include "server/runtime/job.h"
#include "server/service/listing.h"
#include "server/service/module_stream.h"
#include "server/service/prune_rpcs.h"
#include "server/service/rpc.h"
#include "server/service/submit.h"

#include <stddef.h>

/* ---- submit ------------------------------------------------------------------------------- */

static void submit_rpc_end(abl_rpc *rpc) {
    abl_submit_end(rpc->state);
}

/* Answers with the job, in the field `field` of `response`. */
static void job_reply(abl_rpc *rpc, const abl_job *job, Ablate__V1__Job **field,
                      const ProtobufCMessage *response) {
    *field = abl_convert_job(rpc->arena, job);
    if (*field == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, response);
}

static void submit_reply(abl_rpc *rpc, abl_job *job) {
    Ablate__V1__SubmitJobResponse response = ABLATE__V1__SUBMIT_JOB_RESPONSE__INIT;
    job_reply(rpc, job, &response.job, &response.base);
}

static void submit_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    abl_submit *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = submit_rpc_end;
    state->started_cb = submit_reply;
    abl_submit_start(rpc, state, ((const Ablate__V1__SubmitJobRequest *)message)->spec);
}

/* ---- watch -------------------------------------------------------------------------------- */

/* What every stream about a job shares; the first member of their states. */
typedef struct watch {
    abl_submit submit; /* StreamPruneScores; all zero elsewhere */
    abl_job_watcher watcher;
    abl_rpc *rpc;
    abl_job *job;     /* NULL: not watching */
    int64_t sequence; /* the last event that was sent */
    int32_t grace_ms; /* StreamPruneScores: what its job has when the client is gone */
    enum { STREAM_CREATED, STREAM_EVENTS, STREAM_SCORES, STREAM_ENDED, STREAM_OVER } phase;
    bool event_scores; /* those of the event that was sent last are on their way */
    abl_module_stream scores;
} watch;

static void watch_event(abl_job_watcher *watcher) {
    watch *state = (watch *)(void *)((char *)watcher - offsetof(watch, watcher));
    abl_rpc_pump(state->rpc);
}

static void watch_start(abl_rpc *rpc, watch *state, abl_job *job) {
    state->rpc = rpc;
    state->job = job;
    state->watcher.event_cb = watch_event;
    abl_job_watch(job, &state->watcher);
}

static void watch_end(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->job != NULL) {
        abl_job_unwatch(state->job, &state->watcher);
    }
    abl_module_stream_finish(&state->scores);
    abl_submit_end(&state->submit);
}

/* The next event in the outgoing message's memory; NULL: none yet, or the rpc has failed. */
static Ablate__V1__JobEvent *watch_take(abl_rpc *rpc, watch *state) {
    if (rpc->scratch == NULL && abl_rpc_scratch(rpc, 1) == NULL) {
        abl_rpc_fail_status(rpc);
        return NULL;
    }
    Ablate__V1__JobEvent *event =
        abl_convert_job_event(rpc->scratch, state->job, state->sequence + 1);
    if (event == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return NULL;
    }
    abl_values *scores = state->job->events[state->sequence].scores;
    state->sequence++;
    /* StreamPruneScores sends the last event's as the final ones. */
    bool last = state->sequence == state->job->event_count && abl_job_ended(state->job);
    if (state->watcher.with_scores && scores != NULL && !(last && state->phase == STREAM_EVENTS)) {
        event->score_tensor_count = abl_graph_module_count(state->job->graph->graph);
        abl_module_stream_init(&state->scores, state->job->graph->graph, scores);
        state->event_scores = true;
    }
    return event;
}

/* The next piece of the scores of the event before, in the field `piece` of `response`. True: it
 * was sent, or the rpc has failed and is no more; false: there is none. */
static bool watch_send_scores(abl_rpc *rpc, watch *state, Ablate__V1__TensorChunk **piece,
                              const ProtobufCMessage *response) {
    if (!state->event_scores) {
        return false;
    }
    if (abl_module_stream_piece(rpc, &state->scores, piece, response)) {
        return true;
    }
    abl_module_stream_finish(&state->scores);
    state->event_scores = false;
    return false;
}

static void watch_next(abl_rpc *rpc) {
    watch *state = rpc->state;
    Ablate__V1__WatchJobResponse response = ABLATE__V1__WATCH_JOB_RESPONSE__INIT;
    if (watch_send_scores(rpc, state, &response.scores, &response.base)) {
        return;
    }
    if (state->sequence < state->job->event_count) {
        response.event = watch_take(rpc, state);
        if (response.event != NULL) {
            abl_rpc_send(rpc, &response.base);
        }
    } else if (abl_job_ended(state->job)) {
        abl_rpc_finish_ok(rpc);
    }
}

static void watch_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__WatchJobRequest *request = (const Ablate__V1__WatchJobRequest *)message;
    watch *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_job *job =
        state == NULL ? NULL : (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (request->after_sequence < 0 || request->after_sequence > job->event_count) {
        abl_rpc_fail(rpc, ABL_CODE_OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE",
                     "after_sequence is %lld; job %s has events 1 to %lld",
                     (long long)request->after_sequence, job->object.id,
                     (long long)job->event_count);
        return;
    }
    rpc->state = state;
    rpc->end_cb = watch_end;
    state->sequence = request->after_sequence;
    state->watcher.with_scores = request->with_scores;
    watch_start(rpc, state, job);
    abl_rpc_stream(rpc, watch_next);
}

/* ---- StreamPruneScores: submit, watch, scores --------------------------------------------- */

static void stream_send_job(abl_rpc *rpc, watch *state, bool created) {
    Ablate__V1__StreamPruneScoresResponse response = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
    Ablate__V1__Job *job =
        abl_rpc_scratch(rpc, 1) == NULL ? NULL : abl_convert_job(rpc->scratch, state->job);
    if (job == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    response.part_case = created ? ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_CREATED
                                 : ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_ENDED;
    response.created = job; /* one member of a union of pointers to Job, as is `ended` */
    abl_rpc_send(rpc, &response.base);
}

/* True when a message went out, or the rpc ended. */
static bool stream_event(abl_rpc *rpc, watch *state) {
    Ablate__V1__StreamPruneScoresResponse response = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
    response.part_case = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_SCORES;
    if (watch_send_scores(rpc, state, &response.scores, &response.base)) {
        return true;
    }
    if (state->sequence < state->job->event_count) {
        response.part_case = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_EVENT;
        response.event = watch_take(rpc, state);
        if (response.event != NULL) {
            abl_rpc_send(rpc, &response.base);
        }
        return true;
    }
    if (!abl_job_ended(state->job)) {
        return true; /* wait for the next event */
    }
    state->phase = state->job->scores == NULL ? STREAM_ENDED : STREAM_SCORES;
    if (state->job->scores != NULL) {
        abl_module_stream_init(&state->scores, state->job->graph->graph, state->job->scores);
    }
    return false;
}

static bool stream_scores(abl_rpc *rpc, watch *state) {
    Ablate__V1__StreamPruneScoresResponse response = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
    response.part_case = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_SCORES;
    if (abl_module_stream_piece(rpc, &state->scores, &response.scores, &response.base)) {
        return true;
    }
    state->phase = STREAM_ENDED;
    return false;
}

static void stream_next(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->phase == STREAM_CREATED) {
        state->phase = STREAM_EVENTS;
        stream_send_job(rpc, state, true);
        return;
    }
    if (state->phase == STREAM_EVENTS && stream_event(rpc, state)) {
        return;
    }
    if (state->phase == STREAM_SCORES && stream_scores(rpc, state)) {
        return;
    }
    if (state->phase == STREAM_ENDED) {
        state->phase = STREAM_OVER;
        stream_send_job(rpc, state, false);
        return;
    }
    abl_rpc_finish_ok(rpc);
}

/* However the call ends, a job that has not ended is then nobody's: a client that was told of it
 * may come back. */
static void stream_end(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->job != NULL) {
        abl_job_orphan(state->job, state->phase == STREAM_CREATED ? 0 : (uint64_t)state->grace_ms);
    }
    watch_end(rpc);
}

static void stream_started(abl_rpc *rpc, abl_job *job) {
    abl_rpc_pin(rpc, &job->object);
    watch_start(rpc, rpc->state, job);
    abl_rpc_stream(rpc, stream_next);
}

static void stream_prune_scores(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__StreamPruneScoresRequest *request =
        (const Ablate__V1__StreamPruneScoresRequest *)message;
    watch *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = stream_end;
    state->submit.started_cb = stream_started;
    state->grace_ms = request->grace_ms;
    state->watcher.with_scores = request->with_scores;
    if (request->grace_ms < 0 || request->grace_ms > ABL_JOB_GRACE_MS_MAX) {
        abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "GRACE_OUT_OF_RANGE",
                     "grace_ms is %d; it goes from 0 to %d", request->grace_ms,
                     ABL_JOB_GRACE_MS_MAX);
        return;
    }
    abl_submit_start(rpc, &state->submit, request->spec);
}

/* ---- one job, all jobs -------------------------------------------------------------------- */

static void get_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetJobRequest *request = (const Ablate__V1__GetJobRequest *)message;
    Ablate__V1__GetJobResponse response = ABLATE__V1__GET_JOB_RESPONSE__INIT;
    abl_job *job = (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    job_reply(rpc, job, &response.job, &response.base);
}

static void cancel_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__CancelJobRequest *request = (const Ablate__V1__CancelJobRequest *)message;
    Ablate__V1__CancelJobResponse response = ABLATE__V1__CANCEL_JOB_RESPONSE__INIT;
    abl_job *job = (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_job_cancel(job, "cancelled by CancelJob");
    job_reply(rpc, job, &response.job, &response.base);
}

static bool is_in_state(const abl_object *object, const void *user_data) {
    const Ablate__V1__JobState *state = user_data;
    return *state == 0 || (int)*state == (int)((const abl_job *)object)->state;
}

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__Job *item = abl_convert_job(rpc->scratch, (const abl_job *)object);
    return item == NULL ? NULL : &item->base;
}

static void list_jobs(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListJobsRequest *request = (const Ablate__V1__ListJobsRequest *)message;
    Ablate__V1__ListJobsResponse response = ABLATE__V1__LIST_JOBS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_JOB,
                                 .newest_first = true,
                                 .wanted_cb = is_in_state,
                                 .user_data = &request->state,
                                 .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, message, &response.base);
}

static void scores_next(abl_rpc *rpc) {
    watch *state = rpc->state;
    Ablate__V1__GetPruneScoresResponse response = ABLATE__V1__GET_PRUNE_SCORES_RESPONSE__INIT;
    abl_module_stream_send(rpc, &state->scores, &response.chunk, &response.base);
}

static void get_prune_scores(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetPruneScoresRequest *request =
        (const Ablate__V1__GetPruneScoresRequest *)message;
    watch *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_job *job =
        state == NULL ? NULL : (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (job->scores == NULL) {
        abl_rpc_fail(rpc, ABL_CODE_FAILED_PRECONDITION, "SCORES_NOT_READY",
                     "job %s is %s and has no scores yet; the first come with its first batch",
                     job->object.id, abl_job_state_name(job->state));
        return;
    }
    rpc->state = state;
    rpc->end_cb = watch_end;
    abl_module_stream_init(&state->scores, job->graph->graph, job->scores);
    abl_rpc_stream(rpc, scores_next);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.PruneService/SubmitJob", submit_job, submit_job),
    ABL_RPC_STREAM("/ablate.v1.PruneService/WatchJob", watch_job, watch_job),
    ABL_RPC_STREAM("/ablate.v1.PruneService/StreamPruneScores", stream_prune_scores,
                   stream_prune_scores),
    ABL_RPC_UNARY("/ablate.v1.PruneService/GetJob", get_job, get_job),
    ABL_RPC_UNARY("/ablate.v1.PruneService/ListJobs", list_jobs, list_jobs),
    ABL_RPC_UNARY("/ablate.v1.PruneService/CancelJob", cancel_job, cancel_job),
    ABL_RPC_STREAM("/ablate.v1.PruneService/GetPruneScores", get_prune_scores, get_prune_scores),
    ABL_RPC_UNARY("/ablate.v1.PruneService/CreatePruneScores", create_prune_scores,
                  abl_prune_create_scores),
};

abl_service abl_prune_service(abl_server *server) {
    return (abl_service){"ablate.v1.PruneService", methods, ABL_COUNT_OF(methods), server};
}
