/* SPDX-License-Identifier: Apache-2.0
 *
 * The executor's thread is held at a gate (a task that waits) while the queue is filled, so the
 * order of what follows is the queue's alone, whatever the scheduler does. Every step writes its
 * task's letter into a log. */
#include "server/runtime/executor.h"

#include "tests/unit/unit.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

typedef struct fixture {
    abl_loop *loop;
    abl_executor *executor;
    char log[256];
    size_t log_length;
    int done;
    int ended;
    int expected; /* done_cbs after which the loop stops */
    pthread_mutex_t gate;
} fixture;

typedef struct job {
    abl_task task;
    fixture *fixture;
    char letter;
    int steps;
    bool done;
} job;

static void note_done(abl_task *task) {
    job *self = (job *)(void *)task;
    assert_true(abl_loop_is_this_thread());
    assert_false(self->done);
    self->done = true;
    if (++self->fixture->done == self->fixture->expected) {
        abl_loop_stop(self->fixture->loop);
    }
}

static void note_end(abl_task *task) {
    ((job *)(void *)task)->fixture->ended++;
}

static abl_step run_step(abl_task *task) {
    job *self = (job *)(void *)task;
    if (self->fixture->log_length < sizeof self->fixture->log - 1) {
        self->fixture->log[self->fixture->log_length++] = self->letter;
    }
    return --self->steps > 0 ? ABL_STEP_AGAIN : ABL_STEP_DONE;
}

static abl_step wait_at_gate(abl_task *task) {
    fixture *f = ((job *)(void *)task)->fixture;
    (void)pthread_mutex_lock(&f->gate);
    (void)pthread_mutex_unlock(&f->gate);
    return ABL_STEP_DONE;
}

static job make(fixture *f, char letter, const char *client, abl_task_class task_class, int steps) {
    return (job){.task = {.task_class = task_class,
                          .client = client,
                          .run_cb = run_step,
                          .end_cb = note_end,
                          .done_cb = note_done},
                 .fixture = f,
                 .letter = letter,
                 .steps = steps};
}

static void submit(fixture *f, job *submitted) {
    assert_int_equal(abl_executor_submit(f->executor, &submitted->task, NULL), ABL_CODE_OK);
    f->expected++;
}

static void wait_until_running(fixture *f) {
    while (!abl_executor_get_stats(f->executor).running) {
        (void)sched_yield();
    }
}

/* Closes the gate and waits until the executor stands at it. */
static void close_gate(fixture *f, job *gate_job) {
    (void)pthread_mutex_lock(&f->gate);
    *gate_job = make(f, '-', "gate", ABL_TASK_CLASS_INTERACTIVE, 1);
    gate_job->task.run_cb = wait_at_gate;
    submit(f, gate_job);
    wait_until_running(f);
}

static void open_gate_and_run(fixture *f) {
    (void)pthread_mutex_unlock(&f->gate);
    abl_loop_run(f->loop);
    assert_int_equal(f->done, f->expected);
    assert_int_equal(f->ended, f->expected);
}

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    (void)pthread_mutex_init(&f->gate, NULL);
    assert_int_equal(abl_loop_create(&f->loop, NULL), ABL_CODE_OK);
    abl_executor_options options = {.loop = f->loop, .name = "test", .queue_max = 8};
    assert_int_equal(abl_executor_create(&options, &f->executor, NULL), ABL_CODE_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    abl_executor_destroy(f->executor);
    abl_loop_destroy(f->loop);
    (void)pthread_mutex_destroy(&f->gate);
    free(f);
    return 0;
}

static void interactive_tasks_run_before_jobs(void **state) {
    fixture *f = *state;
    job gate;
    close_gate(f, &gate);
    job a = make(f, 'a', "x", ABL_TASK_CLASS_JOB, 2);
    job b = make(f, 'b', "y", ABL_TASK_CLASS_INTERACTIVE, 1);
    job c = make(f, 'c', "x", ABL_TASK_CLASS_INTERACTIVE, 2);
    submit(f, &a);
    submit(f, &b);
    submit(f, &c);
    open_gate_and_run(f);
    assert_string_equal(f->log, "bccaa");
}

typedef struct intruder {
    job job;
    job *interactive;
    int at_step;
    abl_mail mail;
} intruder;

static void submit_interactive(abl_mail *mail) {
    intruder *self = (intruder *)(void *)((char *)mail - offsetof(intruder, mail));
    submit(self->job.fixture, self->interactive);
    (void)pthread_mutex_unlock(&self->job.fixture->gate);
}

/* A job that, in the middle of a step, has an interactive task submitted. */
static abl_step step_with_intrusion(abl_task *task) {
    intruder *self = (intruder *)(void *)task;
    abl_step step = run_step(task);
    if (self->job.steps == self->at_step) {
        self->mail.deliver_cb = submit_interactive;
        abl_loop_post(self->job.fixture->loop, &self->mail);
        (void)wait_at_gate(task); /* until it has been submitted */
    }
    return step;
}

static void an_interactive_task_waits_for_one_step_of_a_job_at_most(void **state) {
    fixture *f = *state;
    job interactive = make(f, 'i', "y", ABL_TASK_CLASS_INTERACTIVE, 1);
    intruder long_job = {
        .job = make(f, 'j', "x", ABL_TASK_CLASS_JOB, 6), .interactive = &interactive, .at_step = 4};
    long_job.job.task.run_cb = step_with_intrusion;
    (void)pthread_mutex_lock(&f->gate); /* opened by the loop when the task is in */
    submit(f, &long_job.job);
    abl_loop_run(f->loop);
    assert_string_equal(f->log, "jjijjjj");
}

static void clients_take_turns_and_so_do_the_jobs_of_each(void **state) {
    fixture *f = *state;
    job gate;
    close_gate(f, &gate);
    job a1 = make(f, 'a', "x", ABL_TASK_CLASS_JOB, 3);
    job a2 = make(f, 'A', "x", ABL_TASK_CLASS_JOB, 2);
    job b1 = make(f, 'b', "y", ABL_TASK_CLASS_JOB, 2);
    job c1 = make(f, 'c', "z", ABL_TASK_CLASS_JOB, 1);
    submit(f, &a1);
    submit(f, &a2);
    submit(f, &b1);
    submit(f, &c1);
    open_gate_and_run(f);
    assert_string_equal(f->log, "abcAbaAa");
}

static void one_client_with_many_calls_does_not_starve_another(void **state) {
    fixture *f = *state;
    job gate;
    close_gate(f, &gate);
    job many[5];
    for (int i = 0; i < 5; i++) {
        many[i] = make(f, 'm', "greedy", ABL_TASK_CLASS_INTERACTIVE, 1);
        submit(f, &many[i]);
    }
    job one = make(f, 'o', "modest", ABL_TASK_CLASS_INTERACTIVE, 1);
    submit(f, &one);
    open_gate_and_run(f);
    assert_string_equal(f->log, "mommmm");
}

static void a_full_queue_refuses_and_recovers(void **state) {
    fixture *f = *state;
    job gate;
    close_gate(f, &gate);
    job jobs[8];
    for (int i = 0; i < 7; i++) { /* the gate is the eighth */
        jobs[i] = make(f, 'j', "x", ABL_TASK_CLASS_JOB, 1);
        submit(f, &jobs[i]);
    }
    jobs[7] = make(f, 'k', "y", ABL_TASK_CLASS_INTERACTIVE, 1);
    abl_status status = {0};
    assert_int_equal(abl_executor_submit(f->executor, &jobs[7].task, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "QUEUE_FULL");
    open_gate_and_run(f);
    assert_string_equal(f->log, "jjjjjjj");
    submit(f, &jobs[7]);
    abl_loop_run(f->loop);
    assert_string_equal(f->log, "jjjjjjjk");
}

static void a_cancelled_task_that_waits_ends_without_a_step(void **state) {
    fixture *f = *state;
    job gate;
    close_gate(f, &gate);
    job jobs[5]; /* first, middle and last of a lane, and a lane of its own */
    const char *const clients[] = {"x", "x", "x", "y", "z"};
    for (int i = 0; i < 5; i++) {
        jobs[i] = make(f, (char)('a' + i), clients[i], ABL_TASK_CLASS_JOB, 1);
        submit(f, &jobs[i]);
    }
    abl_executor_cancel(f->executor, &jobs[1].task);
    abl_executor_cancel(f->executor, &jobs[0].task);
    abl_executor_cancel(f->executor, &jobs[3].task);
    abl_executor_cancel(f->executor, &jobs[3].task); /* twice is once */
    assert_int_equal(abl_executor_get_stats(f->executor).waiting[ABL_TASK_CLASS_JOB], 2);
    open_gate_and_run(f);
    assert_string_equal(f->log, "ce");
}

static abl_step step_until_cancelled(abl_task *task) {
    while (!abl_task_cancelled(task)) {
    }
    return ABL_STEP_AGAIN;
}

static void a_running_task_sees_its_cancellation(void **state) {
    fixture *f = *state;
    job endless = make(f, 'e', "x", ABL_TASK_CLASS_JOB, 0);
    endless.task.run_cb = step_until_cancelled;
    submit(f, &endless);
    wait_until_running(f);
    abl_executor_cancel(f->executor, &endless.task);
    abl_loop_run(f->loop);
    assert_true(endless.done);
    assert_int_equal(f->ended, 1);
}

static void destroy_ends_every_task_and_a_drained_executor_takes_none(void **state) {
    fixture *f = *state;
    job gate;
    close_gate(f, &gate);
    job jobs[3];
    for (int i = 0; i < 3; i++) {
        jobs[i] = make(f, 'j', "x", ABL_TASK_CLASS_JOB, 1000000);
        submit(f, &jobs[i]);
    }
    abl_executor_drain(f->executor);
    job late = make(f, 'l', "y", ABL_TASK_CLASS_INTERACTIVE, 1);
    abl_status status = {0};
    assert_int_equal(abl_executor_submit(f->executor, &late.task, &status), ABL_CODE_UNAVAILABLE);
    assert_string_equal(status.reason, "DRAINING");
    (void)pthread_mutex_unlock(&f->gate);
    abl_executor_destroy(f->executor);
    f->executor = NULL;
    abl_loop_run(f->loop);
    assert_int_equal(f->done, 4);
    assert_int_equal(f->ended, 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(interactive_tasks_run_before_jobs),
        TEST(an_interactive_task_waits_for_one_step_of_a_job_at_most),
        TEST(clients_take_turns_and_so_do_the_jobs_of_each),
        TEST(one_client_with_many_calls_does_not_starve_another),
        TEST(a_full_queue_refuses_and_recovers),
        TEST(a_cancelled_task_that_waits_ends_without_a_step),
        TEST(a_running_task_sees_its_cancellation),
        TEST(destroy_ends_every_task_and_a_drained_executor_takes_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
