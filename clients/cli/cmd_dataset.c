/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_dataset.c -- `ablate dataset ...`: AutoCircuit's JSON files on the server. */
#include "clients/cli/cli.h"
#include "core/base/limits.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void file_closep(FILE **file) {
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

/* Reads the whole file; NULL: said already. */
static uint8_t *read_file(const abl_cli *cli, const char *path, size_t *ret_bytes, int *ret_exit) {
    ABL_CLEANUP(file_closep) FILE *file = fopen(path, "rb");
    if (file == NULL) {
        *ret_exit = abl_cli_error(cli, "cannot open '%s': %s", path, strerror(errno));
        return NULL;
    }
    size_t capacity = 1 << 16;
    size_t bytes = 0;
    uint8_t *data = abl_malloc(capacity);
    while (data != NULL) {
        bytes += fread(data + bytes, 1, capacity - bytes, file);
        if (bytes < capacity) {
            break;
        }
        capacity *= 2;
        uint8_t *larger =
            capacity > ABL_DATASET_BYTES_MAX ? NULL : abl_realloc_array(data, capacity, 1);
        if (larger == NULL) {
            abl_free(data);
        }
        data = larger;
    }
    if (data == NULL) {
        *ret_exit = abl_cli_error(cli, "'%s' is too big for a dataset: the limit is %d bytes", path,
                                  ABL_DATASET_BYTES_MAX);
    } else if (ferror(file) != 0) {
        *ret_exit = abl_cli_error(cli, "cannot read '%s': %s", path, strerror(errno));
        abl_free(data);
        data = NULL;
    }
    *ret_bytes = bytes;
    return data;
}

Ablate__V1__UploadDatasetResponse *abl_cli_upload(abl_cli *cli, const char *path, int *ret_exit) {
    static const abl_rpc_method method = ABL_RPC("DatasetService", "UploadDataset", upload_dataset);
    const char *slash = strrchr(path, '/');
    const char *base = slash == NULL ? path : slash + 1;
    if (cli->args->given[ABL_OPTION_NAME]) {
        base = cli->args->text[ABL_OPTION_NAME];
    }
    Ablate__V1__UploadDatasetRequest request = ABLATE__V1__UPLOAD_DATASET_REQUEST__INIT;
    ABL_CLEANUP(abl_freep) char *name = abl_strdup(base);
    ABL_CLEANUP(abl_freep)
    uint8_t *data = read_file(cli, path, &request.json.len, ret_exit);
    if (data == NULL) {
        return NULL;
    }
    request.name = name;
    request.json.data = data;
    return (Ablate__V1__UploadDatasetResponse *)abl_cli_call(cli, &method, &request.base, ret_exit);
}

/* A file here or an id there; a file wins. */
char *abl_cli_dataset(abl_cli *cli, int *ret_exit) {
    const char *dataset = cli->args->text[ABL_OPTION_DATASET];
    bool is_path = strchr(dataset, '/') != NULL || strstr(dataset, ".json") != NULL;
    if (!is_path && access(dataset, R_OK) != 0) {
        return abl_strdup(dataset);
    }
    Ablate__V1__UploadDatasetResponse *response = abl_cli_upload(cli, dataset, ret_exit);
    if (response == NULL) {
        return NULL;
    }
    char *id = abl_strdup(response->dataset->dataset_id);
    abl_rpc_free(&response->base);
    return id;
}

int abl_cmd_dataset_upload(abl_cli *cli) {
    int code = ABL_EXIT_OK;
    Ablate__V1__UploadDatasetResponse *response =
        abl_cli_upload(cli, cli->args->operands[0], &code);
    if (response == NULL) {
        return code;
    }
    if (cli->json) {
        code = abl_cli_print_json(cli, &response->base);
    } else {
        abl_cli_say(cli, "%s: %d prompt pairs as %s", response->dataset->name,
                    response->dataset->prompt_count, response->dataset->dataset_id);
    }
    abl_rpc_free(&response->base);
    return code;
}

static void dataset_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListDatasetsResponse *list = (const Ablate__V1__ListDatasetsResponse *)page;
    for (size_t i = 0; i < list->n_datasets; i++) {
        const Ablate__V1__Dataset *dataset = list->datasets[i];
        char bytes[24];
        abl_text_bytes(bytes, sizeof bytes, dataset->json_bytes);
        abl_table_add(table, "%s", dataset->dataset_id);
        abl_table_add(table, "%s", dataset->name);
        abl_table_add(table, "%d", dataset->prompt_count);
        abl_table_add(table, "%s", bytes);
        abl_table_add(table, "%.12s", dataset->hash);
    }
}

int abl_cmd_dataset_list(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("DatasetService", "ListDatasets", list_datasets);
    static const abl_column columns[] = {{"id", false, false},
                                         {"name", false, true},
                                         {"prompts", true, false},
                                         {"size", true, false},
                                         {"sha256", false, false}};
    Ablate__V1__ListDatasetsRequest request = ABLATE__V1__LIST_DATASETS_REQUEST__INIT;
    return abl_cli_list(cli, &method, &request.base, columns, ABL_COUNT_OF(columns), dataset_rows,
                        "no datasets; `ablate dataset upload FILE` keeps one");
}

int abl_cmd_dataset_delete(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("DatasetService", "DeleteDataset", delete_dataset);
    Ablate__V1__DeleteDatasetRequest request = ABLATE__V1__DELETE_DATASET_REQUEST__INIT;
    request.dataset_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    abl_cli_say(cli, "%s is deleted", request.dataset_id);
    return ABL_EXIT_OK;
}
