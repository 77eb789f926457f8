/* SPDX-License-Identifier: Apache-2.0 */
/* connect.c -- the channel that --host, --token-file and --timeout describe, or the environment. */
#include "clients/cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define TOKEN_BYTES_MAX 4096

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

abl_code abl_cli_connect(const abl_args *args, int64_t timeout_ms, abl_rpc **ret_rpc,
                         abl_rpc_error *ret_error) {
    char token[TOKEN_BYTES_MAX];
    const char *path = "";
    if (!read_token(args, token, sizeof token, &path)) {
        return abl_rpc_fail(ret_error, ABL_CODE_UNKNOWN, "", "cannot read a token from '%s'", path);
    }
    const char *host =
        args->given[ABL_OPTION_HOST] ? args->text[ABL_OPTION_HOST] : getenv("ABLATE_HOST");
    abl_rpc_options options = {
        .host = host == NULL || host[0] == '\0' ? ABL_HOST_DEFAULT : host,
        .token = token[0] == '\0' ? NULL : token,
        .timeout_ms = args->given[ABL_OPTION_TIMEOUT]
                          ? (int64_t)(args->number[ABL_OPTION_TIMEOUT] * 1000)
                          : timeout_ms,
    };
    return abl_rpc_create(&options, ret_rpc, ret_error);
}
