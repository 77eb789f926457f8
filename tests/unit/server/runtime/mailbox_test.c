/* SPDX-License-Identifier: Apache-2.0 */
#include "server/runtime/mailbox.h"

#include "core/base/compiler.h"
#include "tests/unit/unit.h"

#include <pthread.h>
#include <stdlib.h>

#define SENDER_COUNT 4
#define MAIL_COUNT 20000

typedef struct note {
    abl_mail mail;
    int sender;
    int number;
} note;

static int next_number[SENDER_COUNT];
static int out_of_order;

static void deliver(abl_mail *mail) {
    note *received = (note *)(void *)mail;
    if (received->number != next_number[received->sender]) {
        out_of_order++;
    }
    next_number[received->sender] = received->number + 1;
    free(received);
}

typedef struct sender {
    pthread_t thread;
    abl_mailbox *mailbox;
    int number;
    int wakes;
} sender;

static void *send_all(void *argument) {
    sender *self = argument;
    for (int i = 0; i < MAIL_COUNT; i++) {
        note *sent = malloc(sizeof *sent);
        *sent = (note){.mail.deliver_cb = deliver, .sender = self->number, .number = i};
        self->wakes += abl_mailbox_push(self->mailbox, &sent->mail);
    }
    return NULL;
}

static void mail_of_each_sender_arrives_once_and_in_order(void **state) {
    (void)state;
    abl_mailbox mailbox;
    abl_mailbox_init(&mailbox);
    sender senders[SENDER_COUNT] = {{0}};
    for (int i = 0; i < SENDER_COUNT; i++) {
        senders[i].mailbox = &mailbox;
        senders[i].number = i;
        assert_int_equal(pthread_create(&senders[i].thread, NULL, send_all, &senders[i]), 0);
    }
    size_t received = 0;
    int drains = 0;
    while (received < (size_t)SENDER_COUNT * MAIL_COUNT) {
        size_t count = abl_mailbox_drain(&mailbox);
        received += count;
        drains += count > 0;
    }
    int wakes = 0;
    for (int i = 0; i < SENDER_COUNT; i++) {
        (void)pthread_join(senders[i].thread, NULL);
        wakes += senders[i].wakes;
        assert_int_equal(next_number[i], MAIL_COUNT);
    }
    assert_int_equal(out_of_order, 0);
    assert_int_equal(wakes, drains); /* whoever finds the box empty wakes the reader, only he */
    assert_int_equal(abl_mailbox_drain(&mailbox), 0);
}

typedef struct again {
    abl_mail mail;
    abl_mailbox *mailbox;
    int count;
} again;

static void deliver_again(abl_mail *mail) {
    again *self = (again *)(void *)mail;
    self->count++;
    (void)abl_mailbox_push(self->mailbox, mail);
}

static void mail_pushed_while_delivering_waits_for_the_next_drain(void **state) {
    (void)state;
    abl_mailbox mailbox;
    abl_mailbox_init(&mailbox);
    again self = {.mail.deliver_cb = deliver_again, .mailbox = &mailbox};
    assert_true(abl_mailbox_push(&mailbox, &self.mail));
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(abl_mailbox_drain(&mailbox), 1);
        assert_int_equal(self.count, i);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mail_of_each_sender_arrives_once_and_in_order),
        cmocka_unit_test(mail_pushed_while_delivering_waits_for_the_next_drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
