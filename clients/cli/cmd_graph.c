/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_graph.c -- `ablate graph ...`: graphs over resident models, and their edges. */
#include "clients/cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *graph_traits(const Ablate__V1__GraphOptions *options, char *buffer,
                                size_t size) {
    buffer[0] = '\0';
    if (options == NULL) {
        return buffer;
    }
    (void)snprintf(buffer, size, "%s%s",
                   options->kind == ABLATE__V1__GRAPH_KIND__GRAPH_KIND_SIMPLE ? "simple"
                   : options->merge_qkv                                       ? "merged qkv"
                                                                              : "separate qkv",
                   options->expand_kv_heads ? ", expanded kv" : "");
    if (options->seq_len > 0) {
        size_t length = strlen(buffer);
        (void)snprintf(buffer + length, size - length, ", %d positions", options->seq_len);
    }
    return buffer;
}

static void graph_row(abl_table *table, const Ablate__V1__Graph *graph) {
    char traits[128];
    abl_table_add(table, "%s", graph->graph_id);
    abl_table_add(table, "%s", graph->model_id);
    abl_table_add(table, "%lld", (long long)graph->edge_count);
    abl_table_add(table, "%d", graph->source_count);
    abl_table_add(table, "%d", graph->destination_count);
    abl_table_add(table, "%s", graph_traits(graph->options, traits, sizeof traits));
    abl_table_add(table, "%s", graph->owner);
}

static const abl_column graph_columns[] = {
    {"id", false, false},   {"model", false, true},   {"edges", true, false}, {"srcs", true, false},
    {"dests", true, false}, {"options", false, true}, {"owner", false, true},
};

static void graph_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListGraphsResponse *list = (const Ablate__V1__ListGraphsResponse *)page;
    for (size_t i = 0; i < list->n_graphs; i++) {
        graph_row(table, list->graphs[i]);
    }
}

int abl_cmd_graph_list(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("GraphService", "ListGraphs", list_graphs);
    Ablate__V1__ListGraphsRequest request = ABLATE__V1__LIST_GRAPHS_REQUEST__INIT;
    ABL_CLEANUP(abl_freep) char *model = NULL;
    if (cli->args->given[ABL_OPTION_MODEL]) {
        int code = ABL_EXIT_OK;
        model = abl_cli_model_id(cli, cli->args->text[ABL_OPTION_MODEL], &code);
        if (model == NULL) {
            return code;
        }
        request.model_id = model;
    }
    return abl_cli_list(cli, &method, &request.base, graph_columns, ABL_COUNT_OF(graph_columns),
                        graph_rows, "no graphs; `ablate graph create` makes one");
}

int abl_cmd_graph_create(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("GraphService", "CreateGraph", create_graph);
    int code = ABL_EXIT_OK;
    Ablate__V1__GetModelResponse *model = abl_cli_model(cli, &code);
    if (model == NULL) {
        return code;
    }
    Ablate__V1__GraphOptions options = ABLATE__V1__GRAPH_OPTIONS__INIT;
    abl_cli_graph_options(cli, &options);
    Ablate__V1__CreateGraphRequest request = ABLATE__V1__CREATE_GRAPH_REQUEST__INIT;
    request.model_id = model->model->model_id;
    request.options = &options;
    request.idle_timeout_ms = (int64_t)llround(1000 * cli->args->number[ABL_OPTION_IDLE_TIMEOUT]);
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    abl_rpc_free(&model->base);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    const Ablate__V1__Graph *graph = ((const Ablate__V1__CreateGraphResponse *)response)->graph;
    abl_cli_say(cli, "%s over %s: %lld edges from %d sources to %d destinations", graph->graph_id,
                graph->model_id, (long long)graph->edge_count, graph->source_count,
                graph->destination_count);
    return ABL_EXIT_OK;
}

int abl_cmd_graph_show(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("GraphService", "GetGraph", get_graph);
    static const abl_column columns[] = {{"module", false, true}, {"mask shape", false, true}};
    Ablate__V1__GetGraphRequest request = ABLATE__V1__GET_GRAPH_REQUEST__INIT;
    request.graph_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    const Ablate__V1__Graph *graph = ((const Ablate__V1__GetGraphResponse *)response)->graph;
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *head = abl_table_create(graph_columns, ABL_COUNT_OF(graph_columns));
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    graph_row(head, graph);
    for (size_t i = 0; i < graph->n_modules; i++) {
        char shape[128] = "";
        for (size_t k = 0; k < graph->modules[i]->n_shape; k++) {
            size_t length = strlen(shape);
            (void)snprintf(shape + length, sizeof shape - length, "%s%lld", k == 0 ? "" : ", ",
                           (long long)graph->modules[i]->shape[k]);
        }
        abl_table_add(table, "%s", graph->modules[i]->name);
        abl_table_add(table, "[%s]", shape);
    }
    code = abl_cli_print_table(cli, head);
    fputc('\n', stdout);
    return code != ABL_EXIT_OK ? code : abl_cli_print_table(cli, table);
}

int abl_cmd_graph_delete(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("GraphService", "DeleteGraph", delete_graph);
    Ablate__V1__DeleteGraphRequest request = ABLATE__V1__DELETE_GRAPH_REQUEST__INIT;
    request.graph_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    abl_cli_say(cli, "%s is deleted", request.graph_id);
    return ABL_EXIT_OK;
}

/* --- Edges ------------------------------------------------------------------------------------ */

typedef struct edges {
    const abl_cli *cli;
    abl_table *table;
    int64_t left; /* how many more to show; negative: all */
    int code;
} edges;

static bool on_edges(const ProtobufCMessage *message, void *user_data) {
    edges *shown = user_data;
    const Ablate__V1__ListEdgesResponse *part = (const Ablate__V1__ListEdgesResponse *)message;
    for (size_t i = 0; i < part->n_edges; i++) {
        const Ablate__V1__Edge *edge = part->edges[i];
        if (shown->left == 0) {
            return false;
        }
        shown->left -= shown->left > 0 ? 1 : 0;
        if (shown->cli->json) {
            shown->code = abl_cli_put_json(shown->cli, abl_json_of(&edge->base), true);
            if (shown->code != ABL_EXIT_OK) {
                return false;
            }
            continue;
        }
        abl_table_add(shown->table, "%lld", (long long)edge->index);
        abl_table_add(shown->table, "%s", edge->name);
        if (edge->seq_number > 0) {
            abl_table_add(shown->table, "%d", edge->seq_number - 1);
        } else {
            abl_table_add(shown->table, "all");
        }
        abl_table_add(shown->table, "%s", edge->module_name);
    }
    return true;
}

int abl_cmd_graph_edges(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("GraphService", "ListEdges", list_edges);
    static const abl_column columns[] = {{"index", true, false},
                                         {"edge", false, true},
                                         {"position", true, false},
                                         {"module", false, true}};
    const abl_args *args = cli->args;
    ABL_CLEANUP(abl_freep)
    char *from = abl_strdup(args->given[ABL_OPTION_FROM] ? args->text[ABL_OPTION_FROM] : "");
    ABL_CLEANUP(abl_freep)
    char *to = abl_strdup(args->given[ABL_OPTION_TO] ? args->text[ABL_OPTION_TO] : "");
    Ablate__V1__ListEdgesRequest request = ABLATE__V1__LIST_EDGES_REQUEST__INIT;
    request.graph_id = args->operands[0];
    request.source = from;
    request.destination = to;
    request.seq_number =
        args->given[ABL_OPTION_POSITION] ? (int32_t)args->count[ABL_OPTION_POSITION] + 1 : 0;
    request.dialect = (Ablate__V1__EdgeDialect)args->count[ABL_OPTION_DIALECT];
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    edges shown = {
        .cli = cli,
        .table = table,
        .left = args->given[ABL_OPTION_TOP] ? args->count[ABL_OPTION_TOP] : -1,
    };
    abl_rpc_error error = {0};
    if (abl_rpc_stream(cli->rpc, &method, &request.base, on_edges, &shown, &error) != ABL_CODE_OK) {
        return abl_cli_failed(cli, &error);
    }
    if (cli->json || shown.code != ABL_EXIT_OK) {
        return shown.code;
    }
    if (abl_table_row_count(table) == 0 && shown.left != 0) {
        abl_cli_say(cli, "no edge of this graph is like that");
        return ABL_EXIT_OK;
    }
    return abl_cli_print_table(cli, table);
}
