/* tls.h -- the files of --tls-cert, --tls-key and --tls-client-ca, read and checked before any port
 * listens, and again when they may be new.
 *
 * OWNERSHIP  abl_tls_open() hands the texts to the caller; abl_tls_close() wipes and ends them.
 * THREADS    The main thread.
 * ERRORS     INVALID_ARGUMENT  TLS_OPTIONS  a certificate without its key, and the like
 *            INVALID_ARGUMENT  TLS_INVALID  a file is not what its option says, or two do not match
 *            (the file's)      TLS_FILE     a file cannot be read
 */
#ifndef ABLATE_SERVER_TLS_H
#define ABLATE_SERVER_TLS_H

#include "server/options.h"
#include "server/transport/tls.h"

ABL_BEGIN_DECLS

typedef struct abl_tls {
    abl_tls_options options; /* certificate NULL: no TLS */
} abl_tls;

ABL_MUST_CHECK abl_code abl_tls_open(const abl_options *options, abl_tls *ret_tls,
                                     abl_status *ret_status);
void abl_tls_close(abl_tls *tls);

/* Reads the files again. *ret_changed: they are others, and *tls has them now; its old texts are
 * ended. On failure *tls is what it was. */
ABL_MUST_CHECK abl_code abl_tls_reopen(const abl_options *options, abl_tls *tls, bool *ret_changed,
                                       abl_status *ret_status);

ABL_END_DECLS
#endif
