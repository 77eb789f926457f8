/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_status.c -- `ablate status` and `ablate version`. */
#include "clients/cli/watch.h"

#include <string.h>

#define PROTOCOL "ablate.v1"

static const abl_rpc_method get_server_info =
    ABL_RPC("AdminService", "GetServerInfo", get_server_info);

static void bytes_row(abl_table *table, const char *key, int64_t bytes) {
    char text[24];
    abl_text_bytes(text, sizeof text, bytes);
    abl_table_add(table, "%s", key);
    abl_table_add(table, "%s", text);
}

static void text_row(abl_table *table, const char *key, const char *text) {
    abl_table_add(table, "%s", key);
    abl_table_add(table, "%s", text);
}

static void device_rows(abl_table *table, const Ablate__V1__GetServerInfoResponse *info) {
    for (size_t i = 0; i < info->n_devices; i++) {
        const Ablate__V1__DeviceInfo *device = info->devices[i];
        abl_table_add(table, "device %s", device->name);
        if (device->thread_count > 0) {
            abl_table_add(table, "%d threads, %d tasks wait", device->thread_count,
                          device->queue_length);
        } else {
            abl_table_add(table, "%d tasks wait", device->queue_length);
        }
    }
}

static void info_rows(const abl_cli *cli, abl_table *table,
                      const Ablate__V1__GetServerInfoResponse *info) {
    char uptime[24];
    abl_text_duration(uptime, sizeof uptime, (double)info->uptime_ms);
    text_row(table, "address", abl_rpc_host(cli->rpc));
    bool skew = strcmp(info->protocol, PROTOCOL) != 0;
    abl_table_add(table, "version");
    abl_table_add(table, "%s%s%s", info->version, skew ? ", which speaks another protocol: " : "",
                  skew ? info->protocol : "");
    text_row(table, "state", info->draining ? "draining: refuses new calls" : "serving");
    if (!cli->args->given[ABL_OPTION_WATCH] || cli->out.tty) {
        text_row(table, "up for", uptime); /* else it would be a change each second */
    }
    text_row(table, "instance", info->instance_id);
    text_row(table, "backend", info->backend);
    text_row(table, "BLAS", info->blas);
    device_rows(table, info);
    abl_table_add(table, "resident");
    abl_table_add(table, "%d models, %d graphs, %d datasets", info->model_count, info->graph_count,
                  info->dataset_count);
    abl_table_add(table, "active jobs");
    abl_table_add(table, "%d", info->active_job_count);
    if (info->resident_bytes != NULL) {
        bytes_row(table, "weights", info->resident_bytes->weights);
        bytes_row(table, "graphs", info->resident_bytes->graphs);
        bytes_row(table, "datasets", info->resident_bytes->datasets);
        bytes_row(table, "jobs", info->resident_bytes->jobs);
        bytes_row(table, "KV caches", info->resident_bytes->kv_caches);
    }
    if (info->memory_total_bytes > 0) {
        char available[24];
        char total[24];
        abl_text_bytes(available, sizeof available, info->memory_available_bytes);
        abl_text_bytes(total, sizeof total, info->memory_total_bytes);
        abl_table_add(table, "memory");
        if (!cli->args->given[ABL_OPTION_WATCH] || cli->out.tty) {
            abl_table_add(table, "%s of %s free", available, total);
        } else {
            abl_table_add(table, "%s", total); /* what is free changes each second */
        }
    }
    for (size_t i = 0; i < info->n_model_roots; i++) {
        abl_table_add(table, i == 0 ? "model root" : "model root %zu", i + 1);
        abl_table_add(table, "%s", info->model_roots[i]);
    }
    if (info->hub_cache != NULL && info->hub_cache[0] != '\0') {
        text_row(table, "hub cache", info->hub_cache);
    }
    if (info->http_address == NULL || info->http_address[0] == '\0') {
        text_row(table, "dashboard", "none: --http off");
    } else {
        abl_table_add(table, "dashboard");
        abl_table_add(table, "%s%s", info->http_address,
                      info->dashboard_built ? "" : " (not built: `make dashboard`)");
    }
}

static abl_code look(const abl_cli *cli, abl_table *table, json_t **ret_document, void *user_data,
                     abl_rpc_error *ret_error) {
    (void)user_data;
    Ablate__V1__GetServerInfoRequest request = ABLATE__V1__GET_SERVER_INFO_REQUEST__INIT;
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
    abl_code code = abl_rpc_unary(cli->rpc, &get_server_info, &request.base, &response, ret_error);
    if (code == ABL_CODE_OK && cli->json) {
        *ret_document = abl_json_of(response);
    } else if (code == ABL_CODE_OK) {
        info_rows(cli, table, (const Ablate__V1__GetServerInfoResponse *)response);
    }
    return code;
}

int abl_cmd_status(abl_cli *cli) {
    static const abl_column columns[] = {{"ablated", false, true}, {"", false, true}};
    if (cli->args->given[ABL_OPTION_WATCH]) {
        const abl_watch watch = {.columns = columns,
                                 .column_count = ABL_COUNT_OF(columns),
                                 .restless_key = "uptime_ms",
                                 .none = "",
                                 .look_cb = look};
        return abl_watch_run(cli, &watch);
    }
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    json_t *document = NULL;
    abl_rpc_error error = {0};
    if (look(cli, table, &document, NULL, &error) != ABL_CODE_OK) {
        return abl_cli_failed(cli, &error);
    }
    abl_table_wrap(table);
    return cli->json ? abl_cli_put_json(cli, document, false) : abl_cli_print_table(cli, table);
}

/* Works without a server too; then it only says its own version. */
int abl_cmd_version(abl_cli *cli) {
    Ablate__V1__GetServerInfoRequest request = ABLATE__V1__GET_SERVER_INFO_REQUEST__INIT;
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
    abl_rpc_error error = {0};
    abl_code code = abl_rpc_unary(cli->rpc, &get_server_info, &request.base, &response, &error);
    const Ablate__V1__GetServerInfoResponse *info =
        (const Ablate__V1__GetServerInfoResponse *)response;
    bool skew = code == ABL_CODE_OK && strcmp(info->protocol, PROTOCOL) != 0;
    if (cli->json) {
        json_t *document =
            json_pack("{s:s, s:s, s:s?, s:s?}", "client", ABLATE_VERSION, "protocol", "ablate.v1",
                      "server", code == ABL_CODE_OK ? info->version : NULL, "server_protocol",
                      code == ABL_CODE_OK ? info->protocol : NULL);
        int put = abl_cli_put_json(cli, document, false);
        return skew ? ABL_EXIT_ERROR : put;
    }
    abl_cli_say(cli, "ablate %s, protocol ablate.v1", ABLATE_VERSION);
    if (code != ABL_CODE_OK) {
        abl_cli_say(cli, "ablated: %s", error.message);
        return ABL_EXIT_OK;
    }
    abl_cli_say(cli, "ablated %s at %s, protocol %s", info->version, abl_rpc_host(cli->rpc),
                info->protocol);
    if (skew) {
        return abl_cli_error(cli,
                             "the daemon speaks %s and this client ablate.v1: install the "
                             "client that belongs to ablated %s",
                             info->protocol, info->version);
    }
    return ABL_EXIT_OK;
}
