/* executor.h -- the thread that owns a device, and the fair queue in front of it.
 *
 * OWNERSHIP  A task is embedded in its submitter's object. It is the executor's from an OK of
 *            abl_executor_submit() until done_cb is called, which may free it; on an error it
 *            never was.
 * THREADS    create, submit, cancel, stop: the loop thread. run_cb and end_cb: the executor's
 *            thread. done_cb: the loop thread.
 * ERRORS     RESOURCE_EXHAUSTED QUEUE_FULL, UNAVAILABLE DRAINING.
 *
 * Every accepted task sees: run_cb as often as it answers ABL_STEP_AGAIN, then end_cb once, then
 * done_cb once. A task cancelled sees no further run_cb; the other two it sees all the same.
 *
 * Fairness: an interactive task runs before any job; inside a class clients take turns, a step
 * each, and within a client its tasks do. So an interactive task waits for at most one step of
 * a job, however many jobs there are, and a step is the latency that a job may cost others: keep
 * it to one batch.
 */
#ifndef ABLATE_SERVER_RUNTIME_EXECUTOR_H
#define ABLATE_SERVER_RUNTIME_EXECUTOR_H

#include "core/base/status.h"
#include "server/runtime/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_executor abl_executor;

typedef enum abl_task_class {
    ABL_TASK_CLASS_INTERACTIVE = 0,
    ABL_TASK_CLASS_JOB,
    ABL_TASK_CLASS_COUNT,
} abl_task_class;

typedef enum abl_step {
    ABL_STEP_DONE = 0, /* no further step */
    ABL_STEP_AGAIN,    /* one step was made; queue me again */
} abl_step;

typedef struct abl_task abl_task;
struct abl_task {
    /* set before submit */
    abl_task_class task_class;
    const char *client;                 /* whose turn it takes; borrowed until done_cb */
    abl_step (*run_cb)(abl_task *task); /* one bounded step */
    void (*end_cb)(abl_task *task);  /* may be NULL: ends what belongs to the executor's thread */
    void (*done_cb)(abl_task *task); /* may be NULL */

    /* the executor's own */
    bool cancelled; /* atomic: read it with abl_task_cancelled() */
    abl_mail mail;
    abl_task *next;      /* behind me in my client's lane */
    abl_task *lane_next; /* the first of the next client's lane */
    abl_task *lane_last;
    bool queued;
};

typedef struct abl_executor_options {
    abl_loop *loop;
    const char *name; /* thread name, at most 15 bytes; borrowed for the call */
    size_t queue_max; /* tasks waiting or running; 0: ABL_EXECUTOR_QUEUE_MAX */
    void (*thread_init_cb)(void *user_data); /* first thing on the new thread; may be NULL */
    void *user_data;
} abl_executor_options;

typedef struct abl_executor_stats {
    size_t waiting[ABL_TASK_CLASS_COUNT]; /* queued, not running */
    bool running;
    uint64_t steps;   /* since the start */
    uint64_t busy_us; /* time inside run_cb since the start, without the step that runs now */
} abl_executor_stats;

ABL_MUST_CHECK abl_code abl_executor_create(const abl_executor_options *options,
                                            abl_executor **ret_executor, abl_status *ret_status);

/*   RESOURCE_EXHAUSTED  QUEUE_FULL  queue_max tasks are here already
 *   UNAVAILABLE         DRAINING    abl_executor_drain() was called */
ABL_MUST_CHECK abl_code abl_executor_submit(abl_executor *executor, abl_task *task,
                                            abl_status *ret_status);

/* The task, which must not have seen done_cb yet, makes no further step. If it waits it is taken
 * from the queue at once; if it runs it ends with the step, which may look at abl_task_cancelled().
 */
void abl_executor_cancel(abl_executor *executor, abl_task *task);

/* Any thread: a long step looks at it now and then, and returns early. */
bool abl_task_cancelled(const abl_task *task);

/* Accepts no further task; those accepted go on. */
void abl_executor_drain(abl_executor *executor);

/* Cancels all tasks, joins the thread and frees the executor. The done_cbs that are owed have been
 * posted to the loop, which must still run once. NULL is allowed. */
void abl_executor_destroy(abl_executor *executor);

abl_executor_stats abl_executor_get_stats(abl_executor *executor);

ABL_END_DECLS
#endif
