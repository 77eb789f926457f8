/* SPDX-License-Identifier: Apache-2.0
 *
 * Two threads, no locks. The executor steps the prune and, now and then, posts a report: progress,
 * the running top edges, and a copy of the scores after each finished batch. The loop turns reports
 * into numbered events. The last thing the executor does (end_cb) is to copy the final scores and
 * end its own objects; done_cb then closes the job on the loop, behind every report, because mail
 * is delivered in order.
 *
 * How many events there are is bounded without forgetting any: a report waits until a fraction of
 * the job's run time has passed since the last one, so their number grows with the logarithm of
 * the job's length. The first batches of a short job all report, and those of a long one do while
 * somebody watches for their scores: every epoch of a training, that is. */
#include "server/runtime/job.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "server/runtime/clock.h"
#include "server/runtime/log.h"
#include "server/runtime/loop.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define EAGER_REPORTS 256         /* this many finished batches report without waiting */
#define WATCHED_REPORTS_MAX 10000 /* this many where somebody watches for scores */
#define REPORT_US_MIN 100000      /* steps inside a batch report at most this often */
#define REPORT_FRACTION 256       /* later reports wait for this part of the run time */
#define EVENT_SCORES_BYTES_MAX (64 << 20)

/* What one report carries from the executor to the loop. */
typedef struct report {
    abl_mail mail;
    abl_job *job;
    int64_t done;
    int64_t total;
    double elapsed_ms;
    abl_values *scores; /* NULL: no batch has finished since the last report */
    abl_job_findings found;
} report;

const char *abl_job_state_name(abl_job_state state) {
    static const char *const names[ABL_JOB_STATE_COUNT] = {"unspecified", "queued", "running",
                                                           "succeeded",   "failed", "cancelled"};
    return (unsigned)state < ABL_JOB_STATE_COUNT ? names[state] : "unspecified";
}

bool abl_job_ended(const abl_job *job) {
    return job->state >= ABL_JOB_SUCCEEDED;
}

int64_t abl_job_done(const abl_job *job) {
    int64_t steps = __atomic_load_n(&job->steps_done, __ATOMIC_RELAXED);
    return steps > job->done && job->total > 0 ? steps : job->done;
}

/* ---- making ------------------------------------------------------------------------------- */

static void findings_finish(abl_job_findings *found) {
    abl_free(found->top);
    abl_free(found->training);
    abl_free(found->acdc);
    abl_free(found->decisions);
}

static void job_destroy(abl_object *object) {
    abl_job *job = (abl_job *)object;
    ABL_ASSERT(job->watchers == NULL);
    abl_prune_destroy(job->prune); /* a job that never started */
    abl_dataset_destroy(job->tokenized);
    for (int64_t i = 0; i < job->event_count; i++) {
        findings_finish(&job->events[i].found);
        abl_values_unref(job->events[i].scores);
    }
    abl_free(job->events);
    abl_free(job->spec);
    abl_free(job->provenance);
    abl_values_unref(job->scores);
    abl_values_unref(job->running_scores);
    abl_graph_hooks_unref(job->hooks);
    abl_object_unref(&job->graph->object);
    if (job->dataset != NULL) {
        abl_object_unref(&job->dataset->object);
    }
    abl_free(job);
}

static abl_job *job_alloc(abl_resident_graph *graph) {
    abl_job *job = abl_calloc(1, sizeof *job);
    if (job == NULL) {
        return NULL;
    }
    abl_object_init(&job->object, ABL_OBJECT_JOB, job->name, job_destroy);
    job->graph = (abl_resident_graph *)abl_object_ref(&graph->object);
    const abl_resident_model *model = abl_resident_graph_model(graph);
    (void)snprintf(job->model_name_text, sizeof job->model_name_text, "%s", model->name);
    (void)snprintf(job->model_id, sizeof job->model_id, "%s", model->object.id);
    job->model_name = job->model_name_text;
    job->created_ms = abl_time_ms();
    job->event_scores_bytes_max = EVENT_SCORES_BYTES_MAX;
    return job;
}

abl_job *abl_job_create(abl_resident_graph *graph, abl_resident_dataset *dataset, abl_prune *prune,
                        abl_dataset *tokenized) {
    abl_values *room = abl_values_create(abl_graph_edge_count(graph->graph));
    abl_job *job = room == NULL ? NULL : job_alloc(graph);
    if (job == NULL) {
        abl_values_unref(room);
        return NULL;
    }
    job->dataset = (abl_resident_dataset *)abl_object_ref(&dataset->object);
    job->running_scores = room;
    job->prune = prune;
    job->tokenized = tokenized;
    job->state = ABL_JOB_QUEUED;
    return job;
}

abl_job *abl_job_create_ended(abl_resident_graph *graph, abl_values *scores) {
    abl_job *job = job_alloc(graph);
    if (job != NULL) {
        job->scores = scores;
        job->state = ABL_JOB_SUCCEEDED;
        job->done = job->total = job->steps_done = 1;
    }
    return job;
}

/* ---- events: the loop's ------------------------------------------------------------------- */

static void notify(abl_job *job) {
    abl_object *held = abl_object_ref(&job->object); /* a watcher may let go of the last one */
    for (abl_job_watcher *watcher = job->watchers; watcher != NULL;) {
        abl_job_watcher *next = watcher->next; /* it may unwatch itself */
        watcher->event_cb(watcher);
        watcher = next;
    }
    abl_object_unref(held);
}

static int64_t job_bytes(const abl_job *job) {
    int64_t values = job->running_scores == NULL ? 0 : job->running_scores->count;
    values += job->scores == NULL || job->scores == job->running_scores ? 0 : job->scores->count;
    if (job->event_scores_count > 1) { /* the newest event's are the job's own */
        values += (job->event_scores_count - 1) * job->scores->count;
    }
    return (int64_t)sizeof *job + values * (int64_t)sizeof(float) +
           job->event_capacity * (int64_t)sizeof(abl_job_event) +
           job->event_count * job->top_k * (int64_t)sizeof(abl_job_edge) +
           job->training_count * (int64_t)sizeof(abl_training_point) +
           job->acdc_count * (int64_t)sizeof(abl_acdc_tau) +
           job->decision_count * (int64_t)sizeof(abl_acdc_decision) + (int64_t)job->spec_bytes;
}

/* The oldest scores of events go until at most `most` events have some. */
static void event_scores_trim(abl_job *job, int64_t most) {
    while (job->event_scores_count > most) {
        abl_job_event *event = &job->events[job->event_scores_first++];
        job->event_scores_count -= event->scores != NULL;
        abl_values_unref(event->scores);
        event->scores = NULL;
    }
}

/* Its newest event has the scores as they are. */
static void event_scores_keep(abl_job *job) {
    int64_t bytes = job->scores->count * (int64_t)sizeof(float);
    int64_t most = job->event_scores_bytes_max / (bytes > 0 ? bytes : 1);
    job->events[job->event_count - 1].scores = abl_values_ref(job->scores);
    job->event_scores_count++;
    event_scores_trim(job, most > 1 ? most : 1);
}

/* Appends an event of the job as it stands, taking `found` over; `scored`: its scores are new.
 * Without memory the event is lost, not the job; the number is then not given. */
static void add_event(abl_job *job, abl_job_findings found, bool scored) {
    if (job->event_count == job->event_capacity) {
        int64_t capacity = job->event_capacity == 0 ? 16 : job->event_capacity * 2;
        abl_job_event *events =
            abl_realloc_array(job->events, (size_t)capacity, sizeof *job->events);
        if (events == NULL) {
            findings_finish(&found);
            notify(job); /* who waits for its end must not wait for more */
            return;
        }
        job->events = events;
        job->event_capacity = capacity;
    }
    double eta_ms = -1;
    if (abl_job_ended(job)) {
        eta_ms = 0;
    } else if (job->done > 0) {
        eta_ms = job->elapsed_ms / (double)job->done * (double)(job->total - job->done);
    }
    job->events[job->event_count++] = (abl_job_event){.time_ms = abl_time_ms(),
                                                      .state = job->state,
                                                      .done = job->done,
                                                      .total = job->total,
                                                      .eta_ms = eta_ms,
                                                      .elapsed_ms = job->elapsed_ms,
                                                      .found = found};
    job->training_count += found.training_count;
    job->acdc_count += found.acdc_count;
    job->decision_count += found.decision_count;
    if (scored && (job->score_watcher_count > 0 || abl_job_ended(job))) {
        event_scores_keep(job);
    }
    abl_object_set_bytes(&job->object, job_bytes(job));
    notify(job);
}

static void take_scores(abl_job *job, abl_values *scores) {
    if (scores != NULL) {
        abl_values_unref(job->scores);
        job->scores = scores;
    }
}

static void report_deliver(abl_mail *mail) {
    report *self = (report *)(void *)((char *)mail - offsetof(report, mail));
    abl_job *job = self->job;
    job->state = ABL_JOB_RUNNING;
    job->done = self->done;
    job->total = self->total;
    job->elapsed_ms = self->elapsed_ms;
    take_scores(job, self->scores);
    add_event(job, self->found, self->scores != NULL);
    abl_free(self);
}

/* The executor looks at it, too. */
static void score_watchers_add(abl_job *job, int32_t count) {
    (void)__atomic_add_fetch(&job->score_watcher_count, count, __ATOMIC_RELAXED);
}

void abl_job_watch(abl_job *job, abl_job_watcher *watcher) {
    watcher->next = job->watchers;
    job->watchers = watcher;
    score_watchers_add(job, watcher->with_scores);
    if (job->grace != NULL) {
        abl_timer_stop(job->grace);
    }
}

void abl_job_unwatch(abl_job *job, abl_job_watcher *watcher) {
    for (abl_job_watcher **at = &job->watchers; *at != NULL; at = &(*at)->next) {
        if (*at == watcher) {
            *at = watcher->next;
            score_watchers_add(job, -(int32_t)watcher->with_scores);
            break;
        }
    }
    if (job->score_watcher_count == 0) {
        event_scores_trim(job, abl_job_ended(job) ? 1 : 0);
        abl_object_set_bytes(&job->object, job_bytes(job));
    }
    if (job->grace != NULL && job->watchers == NULL) {
        abl_timer_start(job->grace, job->grace_ms, 0);
    }
}

/* ---- steps: the executor's ---------------------------------------------------------------- */

static abl_job *job_of_task(abl_task *task) {
    return (abl_job *)(void *)((char *)task - offsetof(abl_job, task));
}

static abl_values *copy_scores(const abl_job *job) {
    int64_t count = job->running_scores->count;
    abl_values *copy = abl_values_create(count);
    if (copy != NULL) {
        memcpy(copy->values, abl_prune_scores(job->prune), (size_t)count * sizeof(float));
    }
    return copy;
}

/* The running top edges, or none when there is no memory. */
static abl_job_edge *top_edges(const abl_job *job, int32_t *ret_count) {
    const float *scores = abl_prune_scores(job->prune);
    int64_t k = job->top_k;
    int64_t *indices = abl_calloc((size_t)k, sizeof *indices);
    abl_job_edge *top = abl_calloc((size_t)k, sizeof *top);
    int64_t count = 0;
    if (indices == NULL || top == NULL ||
        abl_scores_top(scores, job->running_scores->count, abl_prune_scored(job->prune), k, indices,
                       &count, NULL) != ABL_CODE_OK) {
        abl_free(indices);
        abl_free(top);
        *ret_count = 0;
        return NULL;
    }
    for (int64_t i = 0; i < count; i++) {
        top[i] = (abl_job_edge){indices[i], scores[indices[i]]};
    }
    abl_free(indices);
    *ret_count = (int32_t)count;
    return top;
}

/* The curve since the last report, or none when there is no memory. */
static abl_training_point *training_take(abl_job *job, int32_t *ret_count) {
    int64_t end = 0;
    const abl_training_point *curve = abl_prune_curve(job->prune, &end);
    int64_t begin = job->training_reported;
    begin = end - begin > ABL_JOB_TRAINING_MAX ? end - ABL_JOB_TRAINING_MAX : begin;
    job->training_reported = end;
    abl_training_point *points = NULL;
    if (end > begin) {
        points = abl_calloc((size_t)(end - begin), sizeof *points);
    }
    if (points != NULL) {
        memcpy(points, curve + begin, (size_t)(end - begin) * sizeof *points);
    }
    *ret_count = points == NULL ? 0 : (int32_t)(end - begin);
    return points;
}

/* An ACDC's taus so far, or none when there is no memory. */
static abl_acdc_tau *acdc_take(abl_job *job, int32_t *ret_count) {
    abl_acdc_report of;
    if (!abl_prune_acdc_report(job->prune, &of)) {
        return NULL;
    }
    int32_t count = of.tau + (of.taus[of.tau].decided > 0 ? 1 : 0);
    abl_acdc_tau *taus = abl_calloc((size_t)count, sizeof *taus);
    if (taus != NULL) {
        memcpy(taus, of.taus, (size_t)count * sizeof *taus);
        *ret_count = count;
    }
    return taus;
}

/* An ACDC's decisions since the last report, the newest of them; none without memory. */
static abl_acdc_decision *decisions_take(abl_job *job, int32_t *ret_count) {
    abl_acdc_report of;
    if (!abl_prune_acdc_report(job->prune, &of)) {
        return NULL;
    }
    int64_t begin = of.decision_count - ABL_ACDC_DECISIONS_KEPT;
    begin = begin > job->decisions_reported ? begin : job->decisions_reported;
    int32_t count = (int32_t)(of.decision_count - begin);
    job->decisions_reported = of.decision_count;
    abl_acdc_decision *decisions = NULL;
    if (count > 0) {
        decisions = abl_calloc((size_t)count, sizeof *decisions);
    }
    if (decisions != NULL) {
        abl_prune_acdc_decisions(job->prune, begin, count, decisions);
        *ret_count = count;
    }
    return decisions;
}

static abl_job_findings findings_take(abl_job *job) {
    abl_job_findings found = {0};
    found.top = top_edges(job, &found.top_count);
    found.training = training_take(job, &found.training_count);
    found.acdc = acdc_take(job, &found.acdc_count);
    found.decisions = decisions_take(job, &found.decision_count);
    return found;
}

static bool report_is_due(const abl_job *job, const abl_prune_progress *progress) {
    uint64_t since_us = job->run_us - job->reported_us;
    bool watched = __atomic_load_n(&job->score_watcher_count, __ATOMIC_RELAXED) > 0;
    int64_t eager = watched ? WATCHED_REPORTS_MAX : EAGER_REPORTS;
    if (progress->batch_finished && job->report_count < eager) {
        return true;
    }
    return since_us >= REPORT_US_MIN && since_us >= job->run_us / REPORT_FRACTION;
}

static void post_report(abl_job *job, const abl_prune_progress *progress) {
    report *self = abl_calloc(1, sizeof *self);
    if (self == NULL) {
        return;
    }
    self->mail.deliver_cb = report_deliver;
    self->job = job;
    self->done = progress->done;
    self->total = progress->total;
    self->elapsed_ms = (double)job->run_us / 1000;
    self->scores = progress->batch_finished ? copy_scores(job) : NULL;
    self->found = findings_take(job);
    job->reported_us = job->run_us;
    job->report_count++;
    abl_loop_post(job->loop, &self->mail);
}

static abl_step job_run(abl_task *task) {
    abl_job *job = job_of_task(task);
    uint64_t start_us = abl_time_us();
    abl_prune_progress progress = {0};
    abl_code code = abl_prune_step(job->prune, &progress, &job->step_status);
    job->run_us += abl_time_us() - start_us;
    if (code != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    abl_metrics_work(job->metrics, 1, 0);
    __atomic_store_n(&job->steps_done, progress.done, __ATOMIC_RELAXED);
    if (progress.finished || report_is_due(job, &progress)) {
        post_report(job, &progress);
    }
    return progress.finished ? ABL_STEP_DONE : ABL_STEP_AGAIN;
}

static void job_end(abl_task *task) {
    abl_job *job = job_of_task(task);
    memcpy(job->running_scores->values, abl_prune_scores(job->prune),
           (size_t)job->running_scores->count * sizeof(float));
    if (job->run_us > 0) {
        job->final = findings_take(job);
    }
    abl_prune_destroy(job->prune);
    abl_dataset_destroy(job->tokenized);
    job->prune = NULL;
    job->tokenized = NULL;
}

/* ---- start, cancel, end: the loop's ------------------------------------------------------- */

static void log_end(const abl_job *job) {
    char message[400];
    bool failed = job->state == ABL_JOB_FAILED;
    bool why = failed || job->state == ABL_JOB_CANCELLED;
    abl_log(failed ? ABL_LOG_WARN : ABL_LOG_INFO, "job_ended",
            "id=%s state=%s done=%lld total=%lld ms=%.1f%s%s%s%s", job->object.id,
            abl_job_state_name(job->state), (long long)job->done, (long long)job->total,
            job->elapsed_ms, why ? " reason=" : "", why ? job->error.reason : "",
            why ? " message=" : "",
            why ? abl_log_quote(message, sizeof message, job->error.message) : "");
}

static void job_done(abl_task *task) {
    abl_job *job = job_of_task(task);
    bool complete = job->done == job->total && job->total > 0;
    abl_timer_destroy(job->grace);
    job->grace = NULL;
    if (job->step_status.code != ABL_CODE_OK) {
        job->error = job->step_status;
        job->state = ABL_JOB_FAILED;
    } else if (abl_task_cancelled(task) && !complete) {
        job->state = ABL_JOB_CANCELLED;
    } else {
        job->state = ABL_JOB_SUCCEEDED;
        job->error = (abl_status){0};
    }
    job->elapsed_ms = (double)job->run_us / 1000;
    if (job->run_us > 0) { /* a job that never ran has no scores */
        take_scores(job, job->running_scores);
    } else {
        abl_values_unref(job->running_scores);
    }
    job->running_scores = NULL;
    if (job->state == ABL_JOB_SUCCEEDED) {
        abl_metrics_work(job->metrics, 0, (uint64_t)job->scores->count);
    }
    (*job->active_jobs)--;
    log_end(job);
    abl_object_release_needs(&job->object);
    add_event(job, job->final, job->scores != NULL);
    job->final = (abl_job_findings){0};
    abl_object_unref(&job->object); /* the run's own */
}

/* Jobs that have ended make room for new ones, oldest first. */
static void make_room(abl_registry *registry) {
    abl_object *object = abl_registry_first(registry, ABL_OBJECT_JOB);
    while (object != NULL && abl_registry_count(registry, ABL_OBJECT_JOB) >= ABL_JOB_COUNT_MAX) {
        abl_object *next = object->next;
        if (abl_job_ended((abl_job *)object)) {
            (void)!abl_registry_remove(registry, object, NULL); /* not while it is watched */
        }
        object = next;
    }
}

abl_code abl_job_start(abl_job *job, const abl_job_place *place, abl_status *ret_status) {
    if (*place->active_jobs >= place->jobs_max) {
        return abl_fail(
            ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "QUEUE_FULL",
            "%zu jobs wait or run already, and no more may (--jobs-max); cancel one, or "
            "try again later",
            *place->active_jobs);
    }
    make_room(place->registry);
    abl_object *needs[4] = {&job->graph->object, &job->dataset->object};
    size_t need_count = 2;
    if (job->kv_cache != NULL) {
        needs[need_count++] = job->kv_cache;
    }
    if (job->ablation != NULL) {
        needs[need_count++] = &job->ablation->object;
    }
    abl_code code = abl_registry_add(place->registry, &job->object, needs, need_count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    (void)snprintf(job->client, sizeof job->client, "%s", place->client);
    (void)snprintf(job->name, sizeof job->name, "%s", job->object.id);
    job->executor = place->executor;
    job->loop = place->loop;
    job->metrics = place->metrics;
    job->active_jobs = place->active_jobs;
    job->task = (abl_task){.task_class = ABL_TASK_CLASS_JOB,
                           .client = job->client,
                           .run_cb = job_run,
                           .end_cb = job_end,
                           .done_cb = job_done};
    code = abl_executor_submit(job->executor, &job->task, ret_status);
    if (code != ABL_CODE_OK) {
        (void)abl_object_ref(&job->object); /* removing it ends the registry's reference */
        abl_object_release_needs(&job->object);
        (void)!abl_registry_remove(place->registry, &job->object, NULL);
        return code;
    }
    job->started = true;
    (*job->active_jobs)++;
    (void)abl_object_ref(&job->object); /* the run's own */
    add_event(job, (abl_job_findings){0}, false);
    return ABL_CODE_OK;
}

abl_code abl_job_keep(abl_job *job, abl_registry *registry, abl_status *ret_status) {
    make_room(registry);
    abl_code code = abl_registry_add(registry, &job->object, NULL, 0, ret_status);
    if (code == ABL_CODE_OK) {
        (void)snprintf(job->name, sizeof job->name, "%s", job->object.id);
        add_event(job, (abl_job_findings){0}, false);
    }
    return code;
}

void abl_job_cancel(abl_job *job, const char *why) {
    if (!abl_job_ended(job) && job->started) {
        if (job->error.code == ABL_CODE_OK) {
            (void)abl_fail(&job->error, ABL_CODE_CANCELLED, "JOB_CANCELLED", "%s", why);
        }
        abl_object_end(&job->object);
        abl_executor_cancel(job->executor, &job->task);
    }
}

static void grace_over(void *user_data) {
    abl_job_cancel(user_data, "the client that streamed its scores left");
}

void abl_job_orphan(abl_job *job, uint64_t grace_ms) {
    if (abl_job_ended(job)) {
        return;
    }
    ABL_ASSERT(job->grace == NULL);
    job->grace = grace_ms == 0 ? NULL : abl_timer_create(job->loop, grace_over, job);
    if (job->grace == NULL) {
        grace_over(job);
        return;
    }
    job->grace_ms = grace_ms;
    if (job->watchers == NULL) {
        abl_timer_start(job->grace, grace_ms, 0);
    }
}
