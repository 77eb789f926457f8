/* SPDX-License-Identifier: Apache-2.0 */
#include "server/runtime/loop.h"

#include "tests/unit/unit.h"

#include <pthread.h>
#include <signal.h>

static abl_loop *loop;

static int set_up(void **state) {
    (void)state;
    return abl_loop_create(&loop, NULL) == ABL_CODE_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    abl_loop_destroy(loop);
    return 0;
}

static void stop_on_mail(abl_mail *mail) {
    (void)mail;
    assert_true(abl_loop_is_this_thread());
    abl_loop_stop(loop);
}

static abl_mail stop_mail = {.deliver_cb = stop_on_mail};

static void *post_from_elsewhere(void *argument) {
    (void)argument;
    if (!abl_loop_is_this_thread()) {
        abl_loop_post(loop, &stop_mail);
    }
    return NULL;
}

static void mail_from_another_thread_wakes_the_loop(void **state) {
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, post_from_elsewhere, NULL), 0);
    abl_loop_run(loop);
    (void)pthread_join(thread, NULL);
}

typedef struct ticker {
    abl_timer *timer;
    int ticks;
} ticker;

static void on_tick(void *user_data) {
    ticker *self = user_data;
    if (++self->ticks == 3) {
        abl_timer_destroy(self->timer); /* from its own callback */
        abl_loop_stop(loop);
    }
}

static void a_timer_repeats_and_may_end_itself(void **state) {
    (void)state;
    ticker self = {0};
    self.timer = abl_timer_create(loop, on_tick, &self);
    assert_non_null(self.timer);
    uint64_t start_ms = abl_loop_now_ms(loop);
    abl_timer_start(self.timer, 10, 5);
    abl_loop_run(loop);
    assert_int_equal(self.ticks, 3);
    assert_true(abl_loop_now_ms(loop) >= start_ms + 20);
}

static void on_signal(int signal_number, void *user_data) {
    *(int *)user_data = signal_number;
    abl_loop_stop(loop);
}

static void a_signal_arrives_on_the_loop(void **state) {
    (void)state;
    int seen = 0;
    abl_signal *watched = abl_signal_create(loop, SIGUSR1, on_signal, &seen);
    assert_non_null(watched);
    assert_int_equal(raise(SIGUSR1), 0);
    abl_loop_run(loop);
    assert_int_equal(seen, SIGUSR1);
    abl_signal_destroy(watched);
}

typedef struct errand {
    abl_work work;
    bool worked;
    bool elsewhere;
} errand;

static void do_work(abl_work *work) {
    errand *self = (errand *)(void *)work;
    self->worked = true;
    self->elsewhere = !abl_loop_is_this_thread();
}

static void work_done(abl_work *work) {
    assert_true(((errand *)(void *)work)->worked);
    assert_true(abl_loop_is_this_thread());
    abl_loop_stop(loop);
}

static void blocking_work_runs_elsewhere_and_returns_to_the_loop(void **state) {
    (void)state;
    errand self = {.work = {.work_cb = do_work, .done_cb = work_done}};
    assert_int_equal(abl_loop_work(loop, &self.work, NULL), ABL_CODE_OK);
    abl_loop_run(loop);
    assert_true(self.elsewhere);
}

static void set_flag(abl_mail *mail) {
    *(bool *)(void *)(mail + 1) = true;
}

static void mail_that_is_left_is_delivered_by_destroy(void **state) {
    (void)state;
    abl_loop *other = NULL;
    assert_int_equal(abl_loop_create(&other, NULL), ABL_CODE_OK);
    struct {
        abl_mail mail;
        bool flag;
    } last = {.mail.deliver_cb = set_flag};
    abl_loop_post(other, &last.mail);
    abl_loop_destroy(other);
    assert_true(last.flag);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mail_from_another_thread_wakes_the_loop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_timer_repeats_and_may_end_itself, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_signal_arrives_on_the_loop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(blocking_work_runs_elsewhere_and_returns_to_the_loop,
                                        set_up, tear_down),
        cmocka_unit_test(mail_that_is_left_is_delivered_by_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
