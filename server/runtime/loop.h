/* loop.h -- the control plane: one libuv loop on one thread, woken from others by mail.
 *
 * OWNERSHIP  create/destroy in pairs. A timer or signal destroyed is freed in its close callback,
 *            so its memory outlives the call that ends it; its callback does not run again.
 * THREADS    abl_loop_post() may be called on any thread; everything else on the loop thread, the
 *            one that created the loop. Functions of that kind begin ABL_ASSERT_LOOP_THREAD().
 * ERRORS     create fails when libuv does (file descriptors, memory).
 * UNITS      Milliseconds on a monotonic clock.
 */
#ifndef ABLATE_SERVER_RUNTIME_LOOP_H
#define ABLATE_SERVER_RUNTIME_LOOP_H

#include "core/base/assert.h"
#include "core/base/status.h"
#include "server/runtime/mailbox.h"

#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_loop abl_loop;
typedef struct abl_timer abl_timer;
typedef struct abl_signal abl_signal;
struct uv_loop_s;

/* The calling thread becomes the loop thread. */
ABL_MUST_CHECK abl_code abl_loop_create(abl_loop **ret_loop, abl_status *ret_status);
/* Runs until abl_loop_stop(), then returns; may be called again. */
void abl_loop_run(abl_loop *loop);
/* Makes abl_loop_run() return once what is ready now has been handled. */
void abl_loop_stop(abl_loop *loop);
/* Delivers the mail that is left, runs the close callbacks and ends the loop. Everything of the
 * loop must have been destroyed before, and no thread may post any more. NULL is allowed. */
void abl_loop_destroy(abl_loop *loop);

/* Any thread: `mail` is delivered on the loop thread. */
void abl_loop_post(abl_loop *loop, abl_mail *mail);

/* The clock of timers and deadlines, as of the start of this turn of the loop. */
uint64_t abl_loop_now_ms(const abl_loop *loop);

/* For transports, which watch descriptors of their own. */
struct uv_loop_s *abl_loop_uv(abl_loop *loop);

bool abl_loop_is_this_thread(void);
#define ABL_ASSERT_LOOP_THREAD() ABL_ASSERT(abl_loop_is_this_thread())

typedef void (*abl_timer_cb)(void *user_data);

/* NULL when there is no memory. A new timer is stopped. */
ABL_MUST_CHECK abl_timer *abl_timer_create(abl_loop *loop, abl_timer_cb timer_cb, void *user_data);
/* Fires after delay_ms, then each repeat_ms (0: once). Starting a running timer restarts it. */
void abl_timer_start(abl_timer *timer, uint64_t delay_ms, uint64_t repeat_ms);
void abl_timer_stop(abl_timer *timer);
void abl_timer_destroy(abl_timer *timer); /* NULL is allowed; so is calling it from timer_cb */

typedef void (*abl_signal_cb)(int signal_number, void *user_data);

ABL_MUST_CHECK abl_signal *abl_signal_create(abl_loop *loop, int signal_number,
                                             abl_signal_cb signal_cb, void *user_data);
void abl_signal_destroy(abl_signal *signal); /* NULL is allowed */

/* Blocking work that touches no tensor (reading and writing files) on libuv's small pool. Embed
 * it; it is the pool's from abl_loop_work() until done_cb is called, which may free it. */
typedef struct abl_work abl_work;
struct abl_work {
    void (*work_cb)(abl_work *work); /* pool thread */
    void (*done_cb)(abl_work *work); /* loop thread, always */
};
ABL_MUST_CHECK abl_code abl_loop_work(abl_loop *loop, abl_work *work, abl_status *ret_status);

ABL_END_DECLS
#endif
