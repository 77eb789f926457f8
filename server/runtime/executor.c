/* SPDX-License-Identifier: Apache-2.0
 *
 * The queue of one class is a ring of lanes, a lane for each client that has something to run:
 *
 *     class ─> lane A: a1 ─ a2 ─ a3       lanes are linked through the lane_next of their first
 *              lane B: b1                 task, tasks of a lane through `next`; the first task also
 *              lane C: c1 ─ c2            knows the last (lane_last)
 *
 * The thread takes the first task of the first lane and moves the rest of that lane to the end of
 * the ring: clients take turns. A task that answers ABL_STEP_AGAIN returns to the end of its
 * client's lane (made anew at the end of the ring if it was empty), so that a client's own tasks
 * take turns, too: a sweep that somebody waits for is not behind the same person's night-long job.
 * All links live in the tasks: queueing allocates nothing and cannot fail half way. Finding a
 * client's lane is linear in the clients that wait, which the queue's ceiling bounds.
 *
 * Cancelled tasks leave their lane for a list that is served before everything else: their end_cb
 * must run on this thread, but they do not wait for it behind work.
 *
 * One mutex guards the lanes and `cancelled`; it is never held while a callback runs. */
#include "server/runtime/executor.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/runtime/clock.h"

#include <pthread.h>
#include <string.h>

typedef struct lanes {
    abl_task *first; /* the first task of the first lane */
    abl_task *last;  /* the first task of the last lane */
    size_t count;    /* tasks in all lanes */
} lanes;

struct abl_executor {
    abl_loop *loop;
    pthread_t thread;
    void (*thread_init_cb)(void *user_data);
    void *user_data;
    size_t queue_max;

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t changed;
    lanes classes[ABL_TASK_CLASS_COUNT];
    abl_task *doomed; /* cancelled while waiting, through `next` */
    abl_task *running;
    size_t live; /* accepted, and done_cb not yet posted */
    bool draining;
    bool stopping;
    uint64_t steps;
    uint64_t busy_us;
};

/* ---- lanes; all under the mutex ---- */

/* The link that points to this client's lane, or the ring's end. */
static abl_task **lanes_find(lanes *ring, const char *client) {
    abl_task **link = &ring->first;
    while (*link != NULL && strcmp((*link)->client, client) != 0) {
        link = &(*link)->lane_next;
    }
    return link;
}

static void lanes_append(lanes *ring, abl_task *head) {
    head->lane_next = NULL;
    if (ring->last == NULL) {
        ring->first = head;
    } else {
        ring->last->lane_next = head;
    }
    ring->last = head;
}

/* Puts `head` where `old`, the lane at *link, was. */
static void lane_replace(lanes *ring, abl_task **link, abl_task *head) {
    abl_task *old = *link;
    head->lane_next = old->lane_next;
    *link = head;
    if (ring->last == old) {
        ring->last = head;
    }
}

static void lane_unlink(lanes *ring, abl_task **link) {
    abl_task *old = *link;
    *link = old->lane_next;
    if (ring->last == old) {
        ring->last = NULL;
        for (abl_task *head = ring->first; head != NULL; head = head->lane_next) {
            ring->last = head;
        }
    }
}

static void lanes_push(lanes *ring, abl_task *task) {
    abl_task **link = lanes_find(ring, task->client);
    abl_task *head = *link;
    task->next = NULL;
    task->queued = true;
    ring->count++;
    if (head == NULL) {
        task->lane_last = task;
        lanes_append(ring, task);
    } else {
        head->lane_last->next = task;
        head->lane_last = task;
    }
}

static abl_task *lanes_pop(lanes *ring) {
    abl_task *task = ring->first;
    if (task == NULL) {
        return NULL;
    }
    lane_unlink(ring, &ring->first);
    if (task->next != NULL) {
        task->next->lane_last = task->lane_last;
        lanes_append(ring, task->next);
    }
    task->queued = false;
    ring->count--;
    return task;
}

static void lanes_remove(lanes *ring, abl_task *task) {
    abl_task **link = lanes_find(ring, task->client);
    abl_task *head = *link;
    if (head == task) {
        if (task->next == NULL) {
            lane_unlink(ring, link);
        } else {
            task->next->lane_last = task->lane_last;
            lane_replace(ring, link, task->next);
        }
    } else {
        abl_task *before = head;
        while (before->next != task) {
            before = before->next;
        }
        before->next = task->next;
        if (head->lane_last == task) {
            head->lane_last = before;
        }
    }
    task->queued = false;
    ring->count--;
}

/* ---- the thread ---- */

static void on_task_done(abl_mail *mail) {
    abl_task *task = (abl_task *)(void *)((char *)mail - offsetof(abl_task, mail));
    if (task->done_cb != NULL) {
        task->done_cb(task);
    }
}

bool abl_task_cancelled(const abl_task *task) {
    return __atomic_load_n(&task->cancelled, __ATOMIC_RELAXED);
}

/* The next task to serve, or NULL when the executor stops and nothing is left. */
static abl_task *next_task(abl_executor *executor) {
    for (;;) {
        abl_task *task = executor->doomed;
        if (task != NULL) {
            executor->doomed = task->next;
            return task;
        }
        for (size_t i = 0; i < ABL_TASK_CLASS_COUNT; i++) {
            task = lanes_pop(&executor->classes[i]);
            if (task != NULL) {
                return task;
            }
        }
        if (executor->stopping) {
            return NULL;
        }
        (void)pthread_cond_wait(&executor->changed, &executor->mutex);
    }
}

/* Runs one step without the mutex. True: the task wants another. */
static bool run_step(abl_executor *executor, abl_task *task) {
    uint64_t start_us = abl_time_us();
    abl_step step = abl_task_cancelled(task) ? ABL_STEP_DONE : task->run_cb(task);
    uint64_t step_us = abl_time_us() - start_us;
    (void)pthread_mutex_lock(&executor->mutex);
    executor->steps++;
    executor->busy_us += step_us;
    bool again = step == ABL_STEP_AGAIN && !abl_task_cancelled(task);
    (void)pthread_mutex_unlock(&executor->mutex);
    return again;
}

static void *thread_main(void *argument) {
    abl_executor *executor = argument;
    if (executor->thread_init_cb != NULL) {
        executor->thread_init_cb(executor->user_data);
    }
    (void)pthread_mutex_lock(&executor->mutex);
    abl_task *task = NULL;
    while ((task = next_task(executor)) != NULL) {
        executor->running = task;
        (void)pthread_mutex_unlock(&executor->mutex);
        bool again = run_step(executor, task);
        if (!again && task->end_cb != NULL) {
            task->end_cb(task);
        }
        (void)pthread_mutex_lock(&executor->mutex);
        executor->running = NULL;
        if (again && !abl_task_cancelled(task)) {
            lanes_push(&executor->classes[task->task_class], task);
        } else if (again) { /* cancelled since; its end_cb comes next */
            task->next = executor->doomed;
            executor->doomed = task;
        } else {
            executor->live--;
            abl_loop_post(executor->loop, &task->mail); /* not ours from here on */
        }
    }
    (void)pthread_mutex_unlock(&executor->mutex);
    return NULL;
}

/* ---- the loop's side ---- */

abl_code abl_executor_create(const abl_executor_options *options, abl_executor **ret_executor,
                             abl_status *ret_status) {
    ABL_ASSERT_LOOP_THREAD();
    abl_executor *executor = abl_calloc(1, sizeof *executor);
    if (executor == NULL) {
        return abl_fail_oom(ret_status);
    }
    executor->loop = options->loop;
    executor->thread_init_cb = options->thread_init_cb;
    executor->user_data = options->user_data;
    executor->queue_max = options->queue_max == 0 ? ABL_EXECUTOR_QUEUE_MAX : options->queue_max;
    (void)pthread_mutex_init(&executor->mutex, NULL);
    (void)pthread_cond_init(&executor->changed, NULL);
    int error = pthread_create(&executor->thread, NULL, thread_main, executor);
    if (error != 0) {
        (void)pthread_cond_destroy(&executor->changed);
        (void)pthread_mutex_destroy(&executor->mutex);
        abl_free(executor);
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "THREAD_REFUSED",
                        "no executor thread: %s", strerror(error));
    }
    if (options->name != NULL) {
        (void)pthread_setname_np(executor->thread, options->name);
    }
    *ret_executor = executor;
    return ABL_CODE_OK;
}

abl_code abl_executor_submit(abl_executor *executor, abl_task *task, abl_status *ret_status) {
    ABL_ASSERT_LOOP_THREAD();
    ABL_ASSERT(task->client != NULL && task->run_cb != NULL);
    ABL_ASSERT(task->task_class < ABL_TASK_CLASS_COUNT);
    abl_code code = ABL_CODE_OK;
    (void)pthread_mutex_lock(&executor->mutex);
    if (executor->draining) {
        code = abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "DRAINING",
                        "the daemon is shutting down and takes no new work");
    } else if (executor->live >= executor->queue_max) {
        code = abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "QUEUE_FULL",
                        "%zu tasks wait or run already, which is the most; retry later",
                        executor->live);
    } else {
        task->mail.deliver_cb = on_task_done;
        __atomic_store_n(&task->cancelled, false, __ATOMIC_RELAXED);
        executor->live++;
        lanes_push(&executor->classes[task->task_class], task);
        (void)pthread_cond_signal(&executor->changed);
    }
    (void)pthread_mutex_unlock(&executor->mutex);
    return code;
}

static void doom(abl_executor *executor, abl_task *task) {
    __atomic_store_n(&task->cancelled, true, __ATOMIC_RELAXED);
    if (task->queued) {
        lanes_remove(&executor->classes[task->task_class], task);
        task->next = executor->doomed;
        executor->doomed = task;
        (void)pthread_cond_signal(&executor->changed);
    }
}

void abl_executor_cancel(abl_executor *executor, abl_task *task) {
    ABL_ASSERT_LOOP_THREAD();
    (void)pthread_mutex_lock(&executor->mutex);
    doom(executor, task);
    (void)pthread_mutex_unlock(&executor->mutex);
}

void abl_executor_drain(abl_executor *executor) {
    ABL_ASSERT_LOOP_THREAD();
    (void)pthread_mutex_lock(&executor->mutex);
    executor->draining = true;
    (void)pthread_mutex_unlock(&executor->mutex);
}

void abl_executor_destroy(abl_executor *executor) {
    if (executor == NULL) {
        return;
    }
    ABL_ASSERT_LOOP_THREAD();
    (void)pthread_mutex_lock(&executor->mutex);
    executor->draining = true;
    executor->stopping = true;
    for (size_t i = 0; i < ABL_TASK_CLASS_COUNT; i++) {
        while (executor->classes[i].first != NULL) {
            doom(executor, executor->classes[i].first);
        }
    }
    if (executor->running != NULL) {
        __atomic_store_n(&executor->running->cancelled, true, __ATOMIC_RELAXED);
    }
    (void)pthread_cond_signal(&executor->changed);
    (void)pthread_mutex_unlock(&executor->mutex);
    (void)pthread_join(executor->thread, NULL);
    (void)pthread_cond_destroy(&executor->changed);
    (void)pthread_mutex_destroy(&executor->mutex);
    abl_free(executor);
}

abl_executor_stats abl_executor_get_stats(abl_executor *executor) {
    ABL_ASSERT_LOOP_THREAD();
    (void)pthread_mutex_lock(&executor->mutex);
    abl_executor_stats stats = {
        .running = executor->running != NULL,
        .steps = executor->steps,
        .busy_us = executor->busy_us,
    };
    for (size_t i = 0; i < ABL_TASK_CLASS_COUNT; i++) {
        stats.waiting[i] = executor->classes[i].count;
    }
    (void)pthread_mutex_unlock(&executor->mutex);
    return stats;
}
