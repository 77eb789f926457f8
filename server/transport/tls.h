/* tls.h -- what both ports need to speak TLS.
 *
 * OWNERSHIP  The texts are the caller's, and must outlive the servers that were made with them.
 * THREADS    Constant.
 */
#ifndef ABLATE_SERVER_TRANSPORT_TLS_H
#define ABLATE_SERVER_TRANSPORT_TLS_H

/* PEM texts, NUL-terminated. */
typedef struct abl_tls_options {
    const char *certificate; /* the server's own first, then those between it and its authority */
    const char *key;
    const char *client_ca; /* who signed the clients' certificates; NULL: they need none */
} abl_tls_options;

#endif
