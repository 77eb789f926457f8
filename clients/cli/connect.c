/* SPDX-License-Identifier: Apache-2.0 */
/* connect.c -- the channel that --host, --token-file, --timeout and TLS's files describe, or the
 * environment. */
#include "clients/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_BYTES_MAX 4096
#define PEM_BYTES_MAX ((size_t)2 << 20) /* a system's whole bundle of authorities is smaller */

static void file_closep(FILE **file) {
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

/* The token of --token-file, ABLATE_TOKEN_FILE or ABLATE_TOKEN into `token`; "" for none. False:
 * the file at *ret_path cannot be read. */
static bool read_token(const abl_args *args, char *token, size_t size, const char **ret_path) {
    bool named = args->given[ABL_OPTION_TOKEN_FILE];
    const char *path = named ? args->text[ABL_OPTION_TOKEN_FILE] : getenv("ABLATE_TOKEN_FILE");
    const char *direct = getenv("ABLATE_TOKEN");
    token[0] = '\0';
    if (direct != NULL && direct[0] != '\0' && !named) {
        (void)snprintf(token, size, "%s", direct);
    } else if (path != NULL && path[0] != '\0') {
        *ret_path = path;
        ABL_CLEANUP(file_closep) FILE *file = fopen(path, "r");
        if (file == NULL || fgets(token, (int)size, file) == NULL) {
            return false;
        }
    }
    token[strcspn(token, "\r\n")] = '\0';
    return true;
}

/* The text of a PEM file that the option or, without it, the variable names; *ret_pem stays NULL
 * where neither does. */
static abl_code read_pem(const abl_args *args, abl_option option, const char *variable,
                         char **ret_pem, abl_rpc_error *ret_error) {
    const char *path = args->given[option] ? args->text[option] : getenv(variable);
    if (path == NULL || path[0] == '\0') {
        return ABL_CODE_OK;
    }
    ABL_CLEANUP(file_closep) FILE *file = fopen(path, "re");
    char *text = abl_calloc(1, PEM_BYTES_MAX);
    size_t bytes = file == NULL || text == NULL ? 0 : fread(text, 1, PEM_BYTES_MAX - 1, file);
    if (bytes == 0 || strstr(text, "-----BEGIN") == NULL) {
        abl_free(text);
        return abl_rpc_fail(ret_error, ABL_CODE_INVALID_ARGUMENT, "TLS_FILE", "--%s: %s '%s'%s%s",
                            abl_option_of((int)option).name,
                            bytes == 0 ? "cannot read" : "there is nothing in PEM in", path,
                            file == NULL ? ": " : "", file == NULL ? strerror(errno) : "");
    }
    *ret_pem = text;
    return ABL_CODE_OK;
}

abl_code abl_cli_connect(const abl_args *args, int64_t timeout_ms, abl_rpc **ret_rpc,
                         abl_rpc_error *ret_error) {
    char token[TOKEN_BYTES_MAX];
    const char *path = "";
    if (!read_token(args, token, sizeof token, &path)) {
        return abl_rpc_fail(ret_error, ABL_CODE_UNKNOWN, "", "cannot read a token from '%s'", path);
    }
    ABL_CLEANUP(abl_freep) char *authorities = NULL;
    ABL_CLEANUP(abl_freep) char *certificate = NULL;
    ABL_CLEANUP(abl_freep) char *key = NULL;
    abl_code code = read_pem(args, ABL_OPTION_TLS_CA, "ABLATE_TLS_CA", &authorities, ret_error);
    if (code == ABL_CODE_OK) {
        code =
            read_pem(args, ABL_OPTION_CLIENT_CERT, "ABLATE_CLIENT_CERT", &certificate, ret_error);
    }
    if (code == ABL_CODE_OK) {
        code = read_pem(args, ABL_OPTION_CLIENT_KEY, "ABLATE_CLIENT_KEY", &key, ret_error);
    }
    if (code == ABL_CODE_OK && (certificate == NULL) != (key == NULL)) {
        code = abl_rpc_fail(ret_error, ABL_CODE_INVALID_ARGUMENT, "TLS_FILE",
                            "--client-cert and --client-key go together");
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    const char *host =
        args->given[ABL_OPTION_HOST] ? args->text[ABL_OPTION_HOST] : getenv("ABLATE_HOST");
    abl_rpc_options options = {
        .host = host == NULL || host[0] == '\0' ? ABL_HOST_DEFAULT : host,
        .token = token[0] == '\0' ? NULL : token,
        .authorities = authorities,
        .client_certificate = certificate,
        .client_key = key,
        .timeout_ms = args->given[ABL_OPTION_TIMEOUT]
                          ? (int64_t)(args->number[ABL_OPTION_TIMEOUT] * 1000)
                          : timeout_ms,
    };
    return abl_rpc_create(&options, ret_rpc, ret_error);
}
