/* SPDX-License-Identifier: Apache-2.0
 *
 * A stack of which the reader takes all at once: push is one compare-and-swap, drain one exchange,
 * and since nobody ever pops a single item there is no ABA problem. The reader turns the stack
 * over, which restores the order of each sender. Rejected: a mutex (the completion queue's thread
 * would wait for the loop) and Vyukov's linked queue (a sender held up half way hides the mail
 * behind it, and the reader would have to be woken for it later). */
#include "server/runtime/mailbox.h"

void abl_mailbox_init(abl_mailbox *mailbox) {
    __atomic_store_n(&mailbox->newest, NULL, __ATOMIC_RELAXED);
}

bool abl_mailbox_push(abl_mailbox *mailbox, abl_mail *mail) {
    abl_mail *newest = __atomic_load_n(&mailbox->newest, __ATOMIC_RELAXED);
    do {
        mail->next = newest;
    } while (!__atomic_compare_exchange_n(&mailbox->newest, &newest, mail, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    return newest == NULL;
}

size_t abl_mailbox_drain(abl_mailbox *mailbox) {
    abl_mail *newest = __atomic_exchange_n(&mailbox->newest, NULL, __ATOMIC_ACQUIRE);
    abl_mail *oldest = NULL;
    while (newest != NULL) {
        abl_mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    size_t count = 0;
    while (oldest != NULL) {
        abl_mail *next = oldest->next; /* deliver_cb may free the mail, or push it again */
        oldest->deliver_cb(oldest);
        oldest = next;
        count++;
    }
    return count;
}
