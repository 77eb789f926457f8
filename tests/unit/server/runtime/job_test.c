/* SPDX-License-Identifier: Apache-2.0
 *
 * Real prunes of the committed tiny-rand model, on a real loop and executor. Watchers copy what
 * they see, as a stream to a client does; the loop stops when the last watched job has ended. */
#include "server/runtime/job.h"

#include "core/base/mem.h"
#include "server/runtime/loop.h"
#include "tests/unit/files.h"

#include <math.h>

enum { SEQ = 6, JOBS = 4, EVENTS = 512 };

typedef struct fixture {
    abl_loop *loop;
    abl_executor *executor;
    abl_registry *registry;
    abl_metrics *metrics;
    abl_resident_model *model;
    abl_resident_graph *graph;
    abl_resident_dataset *dataset;
    size_t active_jobs;
    size_t jobs_max;
    size_t ended; /* watched jobs */
    size_t expected;
} fixture;

static abl_model *load_model(void) {
    const char *paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models"};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&roots, "tiny-rand", &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    abl_model_dir_destroy(dir);
    return model;
}

static void list(fixture *f, abl_object *object, abl_object *needed) {
    assert_int_equal(abl_registry_add(f->registry, object, &needed, needed == NULL ? 0 : 1, NULL),
                     ABL_CODE_OK);
}

static int set_up(void **state) {
    static fixture f;
    f = (fixture){.jobs_max = JOBS};
    assert_int_equal(abl_loop_create(&f.loop, NULL), ABL_CODE_OK);
    const abl_executor_options options = {.loop = f.loop, .name = "test"};
    assert_int_equal(abl_executor_create(&options, &f.executor, NULL), ABL_CODE_OK);
    f.registry = abl_registry_create();
    f.metrics = abl_metrics_create();
    f.model = abl_resident_model_create(load_model(), "tiny-rand", NULL);
    list(&f, &f.model->object, NULL);
    const abl_model_config *config = abl_model_get_config(f.model->model);
    const abl_graph_options graph_options = {.layer_count = config->n_layers,
                                             .head_count = config->n_heads,
                                             .kv_head_count = config->n_kv_heads};
    abl_graph *graph = NULL;
    assert_int_equal(abl_graph_create(&graph_options, &graph, NULL), ABL_CODE_OK);
    f.graph = abl_resident_graph_create(graph, ABL_OUT_SLICE_LAST);
    list(&f, &f.graph->object, &f.model->object);
    f.dataset = abl_resident_dataset_create(abl_strdup("{}"), 2, "test", "00");
    list(&f, &f.dataset->object, NULL);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    abl_executor_destroy(f->executor);
    abl_registry_destroy(f->registry);
    abl_loop_destroy(f->loop);
    abl_metrics_destroy(f->metrics);
    return 0;
}

/* Prompts of any ids, one answer and one wrong answer each. */
static abl_dataset *make_prompts(int32_t count) {
    int32_t *ids = abl_calloc((size_t)count, 2 * SEQ * sizeof *ids);
    int32_t *answers = abl_calloc((size_t)count, 2 * sizeof *answers);
    int32_t *offsets = abl_calloc((size_t)count + 1, sizeof *offsets);
    assert_true(ids != NULL && answers != NULL && offsets != NULL);
    for (int32_t i = 0; i < count * 2 * SEQ; i++) {
        ids[i] = i * 37 % 251;
    }
    for (int32_t i = 0; i < count; i++) {
        answers[2 * i] = i % 97;
        answers[2 * i + 1] = i % 89 + 100;
        offsets[i + 1] = i + 1;
    }
    const abl_dataset_tokens tokens = {.clean = ids,
                                       .corrupt = ids + (size_t)count * SEQ,
                                       .prompt_count = count,
                                       .seq_len = SEQ,
                                       .answers = answers,
                                       .answer_offsets = offsets,
                                       .wrong_answers = answers + count,
                                       .wrong_answer_offsets = offsets};
    abl_dataset *dataset = NULL;
    assert_int_equal(abl_dataset_create_tokens(&tokens, &dataset, NULL), ABL_CODE_OK);
    abl_free(ids);
    abl_free(answers);
    abl_free(offsets);
    return dataset;
}

/* An eap job over prompts in batches of `batch_size`; not started, the caller's reference. */
static abl_job *make_job(fixture *f, int32_t prompt_count, int32_t batch_size) {
    abl_dataset *prompts = make_prompts(prompt_count);
    const abl_prune_options options = {
        .algorithm = ABL_PRUNE_EAP,
        .model = f->model->model,
        .graph = f->graph->graph,
        .batches = {.dataset = prompts, .count = prompt_count, .batch_size = batch_size}};
    abl_prune *prune = NULL;
    abl_status status = {.message = ""};
    if (abl_prune_create(&options, &prune, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    abl_job *job = abl_job_create(f->graph, f->dataset, prune, prompts);
    assert_non_null(job);
    job->batch_size = batch_size;
    job->prompt_count = prompt_count;
    job->top_k = 5;
    return job;
}

static abl_code start(fixture *f, abl_job *job, abl_status *ret_status) {
    const abl_job_place place = {.registry = f->registry,
                                 .executor = f->executor,
                                 .loop = f->loop,
                                 .metrics = f->metrics,
                                 .active_jobs = &f->active_jobs,
                                 .jobs_max = f->jobs_max,
                                 .client = "somebody"};
    return abl_job_start(job, &place, ret_status);
}

static abl_job *start_ok(fixture *f, int32_t prompt_count, int32_t batch_size) {
    abl_job *job = make_job(f, prompt_count, batch_size);
    abl_status status = {.message = ""};
    if (start(f, job, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    return job;
}

typedef struct watching {
    abl_job_watcher watcher;
    fixture *fixture;
    abl_job *job;
    int64_t seen;
    abl_job_event events[EVENTS];
    int64_t act_at; /* this event's number makes act_cb be called, once */
    void (*act_cb)(struct watching *self);
    struct watching *late;
    uint64_t steps; /* of the executor, when act_cb was called */
} watching;

static void catch_up(watching *self) {
    while (self->seen < self->job->event_count) {
        assert_true(self->seen < EVENTS);
        self->events[self->seen] = self->job->events[self->seen];
        self->seen++;
    }
}

static void on_event(abl_job_watcher *watcher) {
    watching *self = (watching *)(void *)watcher;
    assert_true(abl_loop_is_this_thread());
    assert_int_equal(self->job->event_count, self->seen + 1); /* one call an event */
    catch_up(self);
    if (self->act_cb != NULL && self->seen == self->act_at) {
        self->act_cb(self);
    }
    if (abl_job_ended(self->job)) {
        abl_job_unwatch(self->job, &self->watcher);
        if (++self->fixture->ended == self->fixture->expected) {
            abl_loop_stop(self->fixture->loop);
        }
    }
}

static void watch(fixture *f, abl_job *job, watching *self) {
    self->fixture = f;
    self->job = job;
    self->watcher.event_cb = on_event;
    f->expected++;
    catch_up(self); /* as a stream does: what there is already, then what comes */
    abl_job_watch(job, &self->watcher);
}

static watching *watching_of(size_t index) {
    static watching all[3];
    all[index] = (watching){.seen = 0};
    return &all[index];
}

static void assert_consistent(const watching *seen, int64_t total) {
    assert_int_equal(seen->events[0].state, ABL_JOB_QUEUED);
    for (int64_t i = 1; i < seen->seen; i++) {
        const abl_job_event *event = &seen->events[i];
        const abl_job_event *before = &seen->events[i - 1];
        assert_true(event->done >= before->done && event->done <= total);
        assert_int_equal(event->total, total);
        assert_true(event->time_ms >= before->time_ms);
        assert_true(event->elapsed_ms >= before->elapsed_ms);
        assert_true(event->state >= before->state);
        for (int32_t k = 1; k < event->found.top_count; k++) {
            assert_true(fabsf(event->found.top[k].value) <= fabsf(event->found.top[k - 1].value));
        }
    }
}

static void every_batch_is_an_event_and_the_last_event_has_it_all(void **state) {
    fixture *f = *state;
    abl_job *job = start_ok(f, 12, 2);
    assert_memory_equal(job->object.id, "job-", 4);
    assert_int_equal(job->event_count, 1); /* queued */
    assert_int_equal(f->active_jobs, 1);
    watching *seen = watching_of(0);
    watch(f, job, seen);
    abl_loop_run(f->loop);
    assert_int_equal(job->state, ABL_JOB_SUCCEEDED);
    assert_int_equal(seen->seen, 1 + 6 + 1);
    assert_consistent(seen, 6);
    for (int64_t i = 1; i <= 6; i++) {
        assert_int_equal(seen->events[i].state, ABL_JOB_RUNNING);
        assert_int_equal(seen->events[i].done, i);
        assert_true(seen->events[i].eta_ms >= 0);
    }
    const abl_job_event *last = &seen->events[7];
    assert_int_equal(last->state, ABL_JOB_SUCCEEDED);
    assert_int_equal(last->done, last->total);
    assert_true(last->eta_ms == 0);
    assert_int_equal(last->found.top_count, 5);
    assert_int_equal(job->scores->count, abl_graph_edge_count(f->graph->graph));
    for (int32_t k = 0; k < last->found.top_count; k++) {
        assert_true(last->found.top[k].value != 0);
        assert_true(last->found.top[k].value == job->scores->values[last->found.top[k].edge]);
    }
    assert_int_equal(job->error.code, ABL_CODE_OK);
    assert_int_equal(f->active_jobs, 0);
}

static int64_t scored_events(const abl_job *job, int64_t first) {
    int64_t count = 0;
    for (int64_t i = first; i < job->event_count; i++) {
        count += job->events[i].scores != NULL;
    }
    return count;
}

static void expect_the_newest_scores(watching *self) {
    assert_int_equal(scored_events(self->job, 0), 2);
    assert_int_equal(scored_events(self->job, self->job->event_count - 2), 2);
    assert_ptr_equal(self->job->events[self->job->event_count - 1].scores, self->job->scores);
}

static void events_keep_their_scores_for_those_who_watch_for_them(void **state) {
    fixture *f = *state;
    abl_job *job = start_ok(f, 12, 2);
    watching *seen = watching_of(0);
    seen->watcher.with_scores = true;
    seen->act_at = 6;
    seen->act_cb = expect_the_newest_scores;
    job->event_scores_bytes_max =
        2 * abl_graph_edge_count(f->graph->graph) * (int64_t)sizeof(float);
    watch(f, job, seen);
    abl_loop_run(f->loop);
    assert_int_equal(seen->seen, 1 + 6 + 1);
    assert_int_equal(scored_events(job, 0), 1); /* nobody watches any more: the final ones alone */
    assert_ptr_equal(job->events[7].scores, job->scores);
    abl_job *unwatched = start_ok(f, 4, 2);
    watch(f, unwatched, watching_of(1));
    abl_loop_run(f->loop);
    assert_int_equal(scored_events(unwatched, 0), 1);
}

static void a_job_that_ended_needs_nothing_and_keeps_its_names(void **state) {
    fixture *f = *state;
    abl_job *job = start_ok(f, 4, 2);
    abl_status status = {.reason = ""};
    assert_int_equal(abl_registry_remove(f->registry, &f->graph->object, &status),
                     ABL_CODE_FAILED_PRECONDITION);
    assert_mentions(status.message, job->object.id);
    watch(f, job, watching_of(0));
    abl_loop_run(f->loop);
    assert_int_equal(abl_registry_remove(f->registry, &f->graph->object, NULL), ABL_CODE_OK);
    assert_int_equal(abl_registry_remove(f->registry, &f->dataset->object, NULL), ABL_CODE_OK);
    assert_int_equal(abl_registry_remove(f->registry, &f->model->object, NULL), ABL_CODE_OK);
    assert_string_equal(abl_graph_src_at(job->graph->graph, 0)->name, "Resid Start");
    assert_string_equal(job->model_name, "tiny-rand");
}

static void watch_late(watching *self) {
    watch(self->fixture, self->job, self->late);
    assert_int_equal(self->late->seen, self->act_at); /* all that was before */
}

static void a_watcher_that_comes_late_gets_everything(void **state) {
    fixture *f = *state;
    abl_job *job = start_ok(f, 10, 1);
    watching *first = watching_of(0);
    watching *second = watching_of(1);
    first->late = second;
    first->act_at = 5;
    first->act_cb = watch_late;
    watch(f, job, first);
    abl_loop_run(f->loop);
    assert_int_equal(first->seen, 12);
    assert_int_equal(second->seen, first->seen);
    assert_memory_equal(first->events, second->events,
                        (size_t)first->seen * sizeof first->events[0]);
    watching *third = watching_of(2); /* after the end */
    watch(f, job, third);
    abl_job_unwatch(job, &third->watcher);
    assert_int_equal(third->seen, first->seen);
}

static void cancel_now(watching *self) {
    abl_job_cancel(self->job, "the test had enough");
    self->steps = abl_executor_get_stats(self->fixture->executor).steps;
    abl_job_cancel(self->job, "twice is once");
}

static void a_cancelled_job_ends_within_a_step_and_keeps_its_scores(void **state) {
    fixture *f = *state;
    abl_job *job = start_ok(f, 20000, 2);
    watching *seen = watching_of(0);
    seen->act_at = 4;
    seen->act_cb = cancel_now;
    watch(f, job, seen);
    abl_loop_run(f->loop);
    assert_int_equal(job->state, ABL_JOB_CANCELLED);
    assert_int_equal(job->error.code, ABL_CODE_CANCELLED);
    assert_string_equal(job->error.message, "the test had enough");
    assert_true(abl_executor_get_stats(f->executor).steps <= seen->steps + 1);
    assert_consistent(seen, 10000);
    const abl_job_event *last = &seen->events[seen->seen - 1];
    assert_int_equal(last->state, ABL_JOB_CANCELLED);
    assert_in_range(last->done, 3, 9999);
    assert_int_equal(last->found.top_count, 5);
    assert_non_null(job->scores);
    assert_true(last->found.top[0].value != 0);
    assert_true(job->scores->values[last->found.top[0].edge] == last->found.top[0].value);
    assert_int_equal(f->active_jobs, 0);
    abl_job_cancel(job, "after the end: no effect");
    assert_string_equal(job->error.message, "the test had enough");
}

static void a_job_cancelled_while_it_waits_never_runs(void **state) {
    fixture *f = *state;
    watching *running = watching_of(0);
    watching *waiting = watching_of(1);
    watch(f, start_ok(f, 8, 1), running);
    abl_job *job = start_ok(f, 8, 1); /* of the same client: behind the first */
    watch(f, job, waiting);
    abl_job_cancel(job, "not needed");
    abl_loop_run(f->loop);
    assert_int_equal(running->job->state, ABL_JOB_SUCCEEDED);
    assert_int_equal(job->state, ABL_JOB_CANCELLED);
    assert_int_equal(waiting->seen, 2);
    assert_int_equal(waiting->events[1].found.top_count, 0);
    assert_true(job->elapsed_ms == 0);
    assert_null(job->scores);
}

static void more_jobs_than_may_wait_are_refused_and_leave_nothing(void **state) {
    fixture *f = *state;
    f->jobs_max = 1;
    watching *seen = watching_of(0);
    watch(f, start_ok(f, 4, 2), seen);
    abl_job *late = make_job(f, 4, 2);
    abl_status status = {.reason = ""};
    assert_int_equal(start(f, late, &status), ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "QUEUE_FULL");
    assert_mentions(status.message, "--jobs-max");
    assert_false(late->object.listed);
    assert_int_equal(abl_registry_count(f->registry, ABL_OBJECT_JOB), 1);
    abl_loop_run(f->loop);
    assert_int_equal(start(f, late, &status), ABL_CODE_OK); /* there is room again */
    watch(f, late, watching_of(1));
    abl_loop_run(f->loop);
    assert_int_equal(late->state, ABL_JOB_SUCCEEDED);
    assert_int_equal(f->active_jobs, 0);
}

static void a_job_that_a_drained_executor_refuses_leaves_nothing(void **state) {
    fixture *f = *state;
    abl_executor_drain(f->executor);
    abl_job *job = make_job(f, 4, 2);
    abl_status status = {.reason = ""};
    assert_int_equal(start(f, job, &status), ABL_CODE_UNAVAILABLE);
    assert_string_equal(status.reason, "DRAINING");
    assert_int_equal(abl_registry_count(f->registry, ABL_OBJECT_JOB), 0);
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_JOB), 0);
    assert_int_equal(abl_registry_user_count(f->registry, &f->graph->object), 0);
    assert_int_equal(f->active_jobs, 0);
    assert_int_equal(job->object.refs, 1); /* still the caller's */
    abl_object_unref(&job->object);
}

static void scores_from_elsewhere_are_a_job_that_needs_nothing(void **state) {
    fixture *f = *state;
    const int64_t count = abl_graph_edge_count(f->graph->graph);
    abl_values *scores = abl_values_create(count);
    abl_job *job = abl_job_create_ended(f->graph, scores);
    assert_non_null(job);
    assert_int_equal(abl_job_keep(job, f->registry, NULL), ABL_CODE_OK);
    assert_true(abl_job_ended(job) && job->scores == scores && job->dataset == NULL);
    assert_int_equal(job->event_count, 1);
    assert_int_equal(job->events[0].state, ABL_JOB_SUCCEEDED);
    assert_int_equal(job->events[0].eta_ms, 0);
    assert_true(job->object.bytes >= count * (int64_t)sizeof(float));
    assert_string_equal(job->name, job->object.id);
    assert_int_equal(abl_registry_user_count(f->registry, &f->graph->object), 0);
    abl_job_cancel(job, "for nothing"); /* no effect */
    assert_int_equal(job->state, ABL_JOB_SUCCEEDED);
    assert_int_equal(abl_registry_remove(f->registry, &job->object, NULL), ABL_CODE_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(every_batch_is_an_event_and_the_last_event_has_it_all),
        TEST(events_keep_their_scores_for_those_who_watch_for_them),
        TEST(a_job_that_ended_needs_nothing_and_keeps_its_names),
        TEST(a_watcher_that_comes_late_gets_everything),
        TEST(a_cancelled_job_ends_within_a_step_and_keeps_its_scores),
        TEST(a_job_cancelled_while_it_waits_never_runs),
        TEST(more_jobs_than_may_wait_are_refused_and_leave_nothing),
        TEST(a_job_that_a_drained_executor_refuses_leaves_nothing),
        TEST(scores_from_elsewhere_are_a_job_that_needs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
