/* SPDX-License-Identifier: Apache-2.0
 *
 * libuv with three rules made hard to break: a handle's memory is freed only in its close callback;
 * only the loop thread touches the loop; other threads speak by mail. uv_async_send coalesces, so
 * the async callback drains the whole mailbox, and senders wake the loop only when the box was
 * empty, which makes a burst cost one wake-up.
 *
 * Deliveries may post again: those wait for the next turn, so that a chatty pair cannot keep the
 * loop from its descriptors. */
#include "server/runtime/loop.h"

#include "core/base/mem.h"

#include <dlfcn.h>
#include <uv.h>

struct abl_loop {
    uv_loop_t uv;
    uv_async_t wake;
    abl_mailbox mailbox;
};

struct abl_timer {
    uv_timer_t uv;
    abl_timer_cb timer_cb;
    void *user_data;
};

struct abl_signal {
    uv_signal_t uv;
    abl_signal_cb signal_cb;
    void *user_data;
};

static _Thread_local bool is_loop_thread;

bool abl_loop_is_this_thread(void) {
    return is_loop_thread;
}

static void on_wake(uv_async_t *wake) {
    abl_loop *loop = wake->data;
    (void)abl_mailbox_drain(&loop->mailbox);
}

/* The libtorch of pip carries a libuv of its own and exports it. Linked in the wrong order, the
 * program would call one copy with the structures of the other: all that we call must come from
 * one library, and that library must be the one whose header we were compiled with. */
static bool libuv_is_one(void) {
    static const char *const names[] = {"uv_loop_init", "uv_run",       "uv_async_send",
                                        "uv_close",     "uv_poll_init", "uv_timer_start"};
    Dl_info ours = {0};
    if (uv_version() != UV_VERSION_HEX || uv_loop_size() != sizeof(uv_loop_t) ||
        dladdr((const void *)(uintptr_t)uv_version, &ours) == 0) {
        return false;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(names); i++) {
        const void *symbol = dlsym(RTLD_DEFAULT, names[i]);
        Dl_info info = {0};
        /* NULL: linked statically, and hidden, so it cannot be taken for another. */
        if (symbol != NULL && (dladdr(symbol, &info) == 0 || info.dli_fbase != ours.dli_fbase)) {
            return false;
        }
    }
    return true;
}

abl_code abl_loop_create(abl_loop **ret_loop, abl_status *ret_status) {
    ABL_ASSERT(libuv_is_one());
    abl_loop *loop = abl_calloc(1, sizeof *loop);
    if (loop == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_mailbox_init(&loop->mailbox);
    int error = uv_loop_init(&loop->uv);
    if (error != 0) {
        abl_free(loop);
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "LOOP_FAILED", "no event loop: %s",
                        uv_strerror(error));
    }
    error = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (error != 0) {
        (void)uv_loop_close(&loop->uv);
        abl_free(loop);
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "LOOP_FAILED", "no event loop: %s",
                        uv_strerror(error));
    }
    loop->wake.data = loop;
    is_loop_thread = true;
    *ret_loop = loop;
    return ABL_CODE_OK;
}

void abl_loop_run(abl_loop *loop) {
    ABL_ASSERT_LOOP_THREAD();
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void abl_loop_stop(abl_loop *loop) {
    ABL_ASSERT_LOOP_THREAD();
    uv_stop(&loop->uv);
}

void abl_loop_destroy(abl_loop *loop) {
    if (loop == NULL) {
        return;
    }
    ABL_ASSERT_LOOP_THREAD();
    while (abl_mailbox_drain(&loop->mailbox) > 0) {
    }
    uv_close((uv_handle_t *)&loop->wake, NULL);
    while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0) { /* the close callbacks */
    }
    ABL_ASSERT(uv_loop_close(&loop->uv) == 0);
    abl_free(loop);
    is_loop_thread = false;
}

void abl_loop_post(abl_loop *loop, abl_mail *mail) {
    if (abl_mailbox_push(&loop->mailbox, mail)) {
        (void)uv_async_send(&loop->wake);
    }
}

uint64_t abl_loop_now_ms(const abl_loop *loop) {
    return uv_now(&loop->uv);
}

struct uv_loop_s *abl_loop_uv(abl_loop *loop) {
    return &loop->uv;
}

/* ---- timers and signals ---- */

static void on_timer(uv_timer_t *uv) {
    abl_timer *timer = uv->data;
    timer->timer_cb(timer->user_data);
}

abl_timer *abl_timer_create(abl_loop *loop, abl_timer_cb timer_cb, void *user_data) {
    ABL_ASSERT_LOOP_THREAD();
    abl_timer *timer = abl_calloc(1, sizeof *timer);
    if (timer != NULL) {
        (void)uv_timer_init(&loop->uv, &timer->uv); /* cannot fail */
        timer->uv.data = timer;
        timer->timer_cb = timer_cb;
        timer->user_data = user_data;
    }
    return timer;
}

void abl_timer_start(abl_timer *timer, uint64_t delay_ms, uint64_t repeat_ms) {
    ABL_ASSERT_LOOP_THREAD();
    (void)uv_timer_start(&timer->uv, on_timer, delay_ms, repeat_ms);
}

void abl_timer_stop(abl_timer *timer) {
    ABL_ASSERT_LOOP_THREAD();
    (void)uv_timer_stop(&timer->uv);
}

static void free_data(uv_handle_t *handle) {
    abl_free(handle->data);
}

void abl_timer_destroy(abl_timer *timer) {
    if (timer != NULL) {
        ABL_ASSERT_LOOP_THREAD();
        uv_close((uv_handle_t *)&timer->uv, free_data);
    }
}

static void on_signal(uv_signal_t *uv, int signal_number) {
    abl_signal *watched = uv->data;
    watched->signal_cb(signal_number, watched->user_data);
}

abl_signal *abl_signal_create(abl_loop *loop, int signal_number, abl_signal_cb signal_cb,
                              void *user_data) {
    ABL_ASSERT_LOOP_THREAD();
    abl_signal *watched = abl_calloc(1, sizeof *watched);
    if (watched == NULL) {
        return NULL;
    }
    if (uv_signal_init(&loop->uv, &watched->uv) != 0) {
        abl_free(watched);
        return NULL;
    }
    watched->uv.data = watched;
    watched->signal_cb = signal_cb;
    watched->user_data = user_data;
    if (uv_signal_start(&watched->uv, on_signal, signal_number) != 0) {
        abl_signal_destroy(watched);
        return NULL;
    }
    uv_unref((uv_handle_t *)&watched->uv); /* waiting for a signal keeps no loop alive */
    return watched;
}

void abl_signal_destroy(abl_signal *watched) {
    if (watched != NULL) {
        ABL_ASSERT_LOOP_THREAD();
        uv_close((uv_handle_t *)&watched->uv, free_data);
    }
}

/* ---- blocking work ---- */

typedef struct work_request {
    uv_work_t uv;
    abl_work *work;
} work_request;

static void on_pool(uv_work_t *uv) {
    abl_work *work = ((work_request *)uv->data)->work;
    work->work_cb(work);
}

static void on_pool_done(uv_work_t *uv, int error) {
    (void)error; /* we never cancel */
    work_request *request = uv->data;
    abl_work *work = request->work;
    abl_free(request);
    work->done_cb(work);
}

abl_code abl_loop_work(abl_loop *loop, abl_work *work, abl_status *ret_status) {
    ABL_ASSERT_LOOP_THREAD();
    work_request *request = abl_calloc(1, sizeof *request);
    if (request == NULL) {
        return abl_fail_oom(ret_status);
    }
    request->uv.data = request;
    request->work = work;
    int error = uv_queue_work(&loop->uv, &request->uv, on_pool, on_pool_done);
    if (error != 0) {
        abl_free(request);
        return abl_fail(ret_status, ABL_CODE_INTERNAL, "WORK_REFUSED", "no worker thread: %s",
                        uv_strerror(error));
    }
    return ABL_CODE_OK;
}
