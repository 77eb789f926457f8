/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC core and GnuTLS would each refuse a bad file in their own words, or only once a client
 * comes. So OpenSSL reads them first, and what is wrong is said by option and path. */
#include "server/tls.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/model/path.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#define PEM_BYTES_MAX ((size_t)1 << 20)

static void bio_freep(BIO **bio) {
    (void)BIO_free(*bio);
}

static void x509_freep(X509 **certificate) {
    X509_free(*certificate);
}

static void key_freep(EVP_PKEY **key) {
    EVP_PKEY_free(*key);
}

/* Certificates are often links: to this month's, or into a mounted secret. */
static abl_code file_read(const char *option, const char *path, const char **ret_text,
                          abl_status *ret_status) {
    char resolved[ABL_PATH_BYTES_MAX];
    if (realpath(path, resolved) == NULL) {
        return abl_fail(ret_status,
                        errno == ENOENT ? ABL_CODE_NOT_FOUND : ABL_CODE_PERMISSION_DENIED,
                        "TLS_FILE", "%s: cannot read '%.150s': %s", option, path, strerror(errno));
    }
    char *text = NULL;
    size_t bytes = 0;
    abl_status why = {0};
    if (abl_file_read(resolved, PEM_BYTES_MAX, "TLS_FILE", &text, &bytes, &why) != ABL_CODE_OK) {
        return abl_fail(ret_status, why.code, "TLS_FILE", "%s: %.200s", option, why.message);
    }
    *ret_text = text;
    return ABL_CODE_OK;
}

/* For keys with a passphrase: there is nobody to ask. */
static int no_passphrase(char *buffer, int size, int writing, void *user_data) {
    (void)buffer;
    (void)size;
    (void)writing;
    (void)user_data;
    return 0;
}

static X509 *certificate_parse(const char *text) {
    ABL_CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(text, -1);
    return bio == NULL ? NULL : PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
}

static EVP_PKEY *key_parse(const char *text) {
    ABL_CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(text, -1);
    return bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
}

static abl_code check(const abl_options *files, const abl_tls_options *tls,
                      abl_status *ret_status) {
    ABL_CLEANUP(x509_freep) X509 *certificate = certificate_parse(tls->certificate);
    ABL_CLEANUP(key_freep) EVP_PKEY *key = key_parse(tls->key);
    ABL_CLEANUP(x509_freep)
    X509 *authority = tls->client_ca == NULL ? NULL : certificate_parse(tls->client_ca);
    if (certificate == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "tls-cert: '%.150s' holds no certificate in PEM", files->tls_cert);
    }
    if (key == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "tls-key: '%.100s' holds no private key in PEM, or one with a passphrase "
                        "(`openssl pkey -in KEY -out OPEN` takes it off)",
                        files->tls_key);
    }
    if (X509_check_private_key(certificate, key) != 1) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "tls-key: '%.80s' is not the key of the certificate in '%.80s'",
                        files->tls_key, files->tls_cert);
    }
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "tls-cert: the certificate in '%.120s' has expired; renew it",
                        files->tls_cert);
    }
    if (tls->client_ca != NULL && authority == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                        "tls-client-ca: '%.150s' holds no certificate in PEM",
                        files->tls_client_ca);
    }
    return ABL_CODE_OK;
}

abl_code abl_tls_open(const abl_options *options, abl_tls *ret_tls, abl_status *ret_status) {
    bool certificate = options->tls_cert[0] != '\0';
    bool key = options->tls_key[0] != '\0';
    bool client_ca = options->tls_client_ca[0] != '\0';
    abl_tls tls = {0};
    if (certificate != key || (client_ca && !certificate)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TLS_OPTIONS",
                        "%s goes with %s: TLS takes a certificate and its key",
                        client_ca && !certificate ? "tls-client-ca"
                        : certificate             ? "tls-cert"
                                                  : "tls-key",
                        client_ca && !certificate && !key ? "tls-cert and tls-key"
                        : certificate                     ? "tls-key"
                                                          : "tls-cert");
    }
    abl_code code = ABL_CODE_OK;
    if (certificate) {
        code = file_read("tls-cert", options->tls_cert, &tls.options.certificate, ret_status);
    }
    if (code == ABL_CODE_OK && certificate) {
        code = file_read("tls-key", options->tls_key, &tls.options.key, ret_status);
    }
    if (code == ABL_CODE_OK && client_ca) {
        code =
            file_read("tls-client-ca", options->tls_client_ca, &tls.options.client_ca, ret_status);
    }
    if (code == ABL_CODE_OK && certificate) {
        code = check(options, &tls.options, ret_status);
        ERR_clear_error();
    }
    if (code != ABL_CODE_OK) {
        abl_tls_close(&tls);
        return code;
    }
    *ret_tls = tls;
    return ABL_CODE_OK;
}

static void text_free(const char *text) {
    if (text != NULL) {
        char *own = (char *)(uintptr_t)text;
        OPENSSL_cleanse(own, strlen(own));
        abl_free(own);
    }
}

void abl_tls_close(abl_tls *tls) {
    text_free(tls->options.certificate);
    text_free(tls->options.key);
    text_free(tls->options.client_ca);
    *tls = (abl_tls){0};
}

static bool same(const char *a, const char *b) {
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

abl_code abl_tls_reopen(const abl_options *options, abl_tls *tls, bool *ret_changed,
                        abl_status *ret_status) {
    abl_tls newer = {0};
    abl_code code = abl_tls_open(options, &newer, ret_status);
    if (code == ABL_CODE_OK) {
        *ret_changed = !same(newer.options.certificate, tls->options.certificate) ||
                       !same(newer.options.key, tls->options.key) ||
                       !same(newer.options.client_ca, tls->options.client_ca);
        abl_tls_close(*ret_changed ? tls : &newer);
        *tls = *ret_changed ? newer : *tls;
    }
    return code;
}
