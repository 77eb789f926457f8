/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS of the HTTP port. libmicrohttpd takes certificates when it starts and never again. But a
 * connection's GnuTLS session is there before its handshake is, and takes credentials of its own:
 * so each new connection is given the newest. A session must not outlive its credentials, and
 * libmicrohttpd does not say when it ends one; older credentials are kept for the server's life,
 * some kilobytes for each renewal. */
#include "core/base/mem.h"
#include "server/transport/web_internal.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>

struct web_credentials {
    struct web_credentials *older;
    gnutls_certificate_credentials_t gnutls;
};

static gnutls_session_t session_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info == NULL ? NULL : info->tls_session;
}

bool abl_web_client_is_known(const abl_web_server *server, struct MHD_Connection *connection) {
    if (!server->asks_clients) {
        return true;
    }
    const gnutls_session_t session = session_of(connection);
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                     .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT};
    unsigned problems = 1;
    return session != NULL &&
           gnutls_certificate_verify_peers(session, &purpose, 1, &problems) == GNUTLS_E_SUCCESS &&
           problems == 0;
}

void abl_web_on_connection(void *user_data, struct MHD_Connection *connection, void **context,
                           enum MHD_ConnectionNotificationCode what) {
    (void)context;
    const abl_web_server *server = user_data;
    if (what == MHD_CONNECTION_NOTIFY_STARTED && server->credentials != NULL) {
        const gnutls_session_t session = session_of(connection);
        if (session != NULL) {
            (void)gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE,
                                         server->credentials->gnutls);
        }
    }
}

static gnutls_datum_t text_of(const char *pem) {
    return (gnutls_datum_t){.data = (unsigned char *)(uintptr_t)pem, .size = (unsigned)strlen(pem)};
}

static int load(gnutls_certificate_credentials_t credentials, const abl_tls_options *tls) {
    const gnutls_datum_t certificate = text_of(tls->certificate);
    const gnutls_datum_t key = text_of(tls->key);
    int code =
        gnutls_certificate_set_x509_key_mem(credentials, &certificate, &key, GNUTLS_X509_FMT_PEM);
    if (code >= 0 && tls->client_ca != NULL) {
        const gnutls_datum_t authority = text_of(tls->client_ca);
        code = gnutls_certificate_set_x509_trust_mem(credentials, &authority, GNUTLS_X509_FMT_PEM);
    }
    return code;
}

abl_code abl_web_server_renew_tls(abl_web_server *server, const abl_tls_options *tls,
                                  abl_status *ret_status) {
    ABL_ASSERT_LOOP_THREAD();
    struct web_credentials *newest = abl_calloc(1, sizeof *newest);
    if (newest == NULL ||
        gnutls_certificate_allocate_credentials(&newest->gnutls) != GNUTLS_E_SUCCESS) {
        abl_free(newest);
        return abl_fail_oom(ret_status);
    }
    int code = load(newest->gnutls, tls);
    if (code < 0) {
        gnutls_certificate_free_credentials(newest->gnutls);
        abl_free(newest);
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "GnuTLS does not take the certificates: %s", gnutls_strerror(code));
    }
    newest->older = server->credentials;
    server->credentials = newest;
    return ABL_CODE_OK;
}

void abl_web_credentials_destroy(struct web_credentials *credentials) {
    while (credentials != NULL) {
        struct web_credentials *older = credentials->older;
        gnutls_certificate_free_credentials(credentials->gnutls);
        abl_free(credentials);
        credentials = older;
    }
}
