/* mailbox.h -- a lock-free queue with many writers and one reader, for handing things to the loop.
 *
 * OWNERSHIP  Mail is embedded in the sender's object; the mailbox holds it from push until
 *            deliver_cb is called, which may free it.
 * THREADS    push: any thread. drain: the owning thread only.
 * ERRORS     Nothing can fail, and nothing allocates.
 *
 * Mail of one sender is delivered in the order it was pushed.
 */
#ifndef ABLATE_SERVER_RUNTIME_MAILBOX_H
#define ABLATE_SERVER_RUNTIME_MAILBOX_H

#include "core/base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

typedef struct abl_mail abl_mail;
struct abl_mail {
    abl_mail *next;                     /* the mailbox's */
    void (*deliver_cb)(abl_mail *mail); /* runs on the reader's thread */
};

typedef struct abl_mailbox {
    abl_mail *newest; /* atomic: touched with the __atomic builtins, which C++ readers have too */
} abl_mailbox;

void abl_mailbox_init(abl_mailbox *mailbox);

/* True when the box was empty: the reader must be woken. */
bool abl_mailbox_push(abl_mailbox *mailbox, abl_mail *mail);

/* Delivers all that is there, oldest first, and what arrives meanwhile stays for the next drain.
 * Returns how many were delivered. */
size_t abl_mailbox_drain(abl_mailbox *mailbox);

ABL_END_DECLS
#endif
