/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_scores.c -- scores to and from files of other tools, and beside each other: `ablate export`,
 * `ablate import`, `ablate diff`.
 *
 * A file that ends in .json is a graph file of EAP-IG and MIB; any other is safetensors with
 * AutoCircuit's names. The daemon names the edges in EAP's dialect, so no name is made up here. */
#include "clients/cli/graph_json.h"
#include "clients/cli/job_view.h"
#include "clients/cli/out_file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static bool is_graph_json(const char *path) {
    size_t length = strlen(path);
    return length >= 5 && strcmp(path + length - 5, ".json") == 0;
}

/* The model that a graph is over; abl_rpc_free() ends it; NULL: said already. */
static Ablate__V1__GetModelResponse *model_of(abl_cli *cli, char *model_id, int *ret_exit) {
    static const abl_rpc_method method = ABL_RPC("ModelService", "GetModel", get_model);
    Ablate__V1__GetModelRequest request = ABLATE__V1__GET_MODEL_REQUEST__INIT;
    request.model_id = model_id;
    return (Ablate__V1__GetModelResponse *)abl_cli_call(cli, &method, &request.base, ret_exit);
}

static int done(const abl_cli *cli, const char *path) {
    if (cli->json && cli->args->operand_count > 0) { /* discover has its own documents */
        return abl_cli_put_json(cli, json_pack("{s:s}", "file", path), false);
    }
    abl_cli_say(cli, "scores of all edges: %s", path);
    return ABL_EXIT_OK;
}

/* --- export ----------------------------------------------------------------------------------- */

typedef struct exporting {
    const abl_scores *scores;
    json_t *file;
    const char *problem; /* NULL: none so far */
} exporting;

static bool on_edges(const ProtobufCMessage *message, void *user_data) {
    exporting *out = user_data;
    const Ablate__V1__ListEdgesResponse *list = (const Ablate__V1__ListEdgesResponse *)message;
    for (size_t i = 0; i < list->n_edges && out->problem == NULL; i++) {
        const Ablate__V1__Edge *edge = list->edges[i];
        const json_t *shape = NULL;
        const float *values = abl_scores_tensor(out->scores, edge->module_name, &shape);
        int64_t at = 0;
        for (size_t k = 0; k < edge->n_patch_idx; k++) {
            at = at * json_integer_value(json_array_get(shape, k)) + edge->patch_idx[k];
        }
        if (edge->seq_number != 0) {
            out->problem = "graph files of EAP-IG have no token positions, and this graph has";
        } else if (values == NULL ||
                   !abl_graph_json_add(out->file, edge->name, (double)values[at])) {
            out->problem = "a score is infinite or missing, and graph files of EAP-IG need numbers";
        }
    }
    return out->problem == NULL;
}

/* Graphs whose edges are not those of EAP-IG's files. */
static const char *refusal(const Ablate__V1__GraphOptions *options,
                           const Ablate__V1__ModelConfig *config) {
    if (options->merge_qkv) {
        return "graph files of EAP-IG tell q, k and v apart, and this graph merges them";
    }
    if (config->n_key_value_heads != config->n_heads && !options->expand_kv_heads) {
        return "graph files of EAP-IG have a key and value input for each query head: discover "
               "with --expand-kv, or save with a name that does not end in .json";
    }
    return NULL;
}

static int export_graph(abl_cli *cli, const abl_scores *scores, char *graph_id, const char *path) {
    static const abl_rpc_method get = ABL_RPC("GraphService", "GetGraph", get_graph);
    static const abl_rpc_method list = ABL_RPC("GraphService", "ListEdges", list_edges);
    int code = ABL_EXIT_OK;
    Ablate__V1__GetGraphRequest asked = ABLATE__V1__GET_GRAPH_REQUEST__INIT;
    asked.graph_id = graph_id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &get, &asked.base, &code);
    const Ablate__V1__Graph *graph =
        response == NULL ? NULL : ((const Ablate__V1__GetGraphResponse *)response)->graph;
    ABL_CLEANUP(abl_rpc_freep)
    Ablate__V1__GetModelResponse *model =
        graph == NULL ? NULL : model_of(cli, graph->model_id, &code);
    if (model == NULL) {
        return code;
    }
    const char *refused = refusal(graph->options, model->model->config);
    if (refused != NULL) {
        return abl_cli_error(cli, "%s", refused);
    }
    exporting out = {.scores = scores, .file = abl_graph_json_create(model->model->config)};
    Ablate__V1__ListEdgesRequest request = ABLATE__V1__LIST_EDGES_REQUEST__INIT;
    request.graph_id = graph_id;
    request.dialect = ABLATE__V1__EDGE_DIALECT__EDGE_DIALECT_EAP;
    abl_rpc_error error = {0};
    char problem[4352];
    if (abl_rpc_stream(cli->rpc, &list, &request.base, on_edges, &out, &error) != ABL_CODE_OK) {
        code = abl_cli_failed(cli, &error);
    } else if (out.problem != NULL) {
        code = abl_cli_error(cli, "%s", out.problem);
    } else if (!abl_graph_json_save(out.file, path, problem, sizeof problem)) {
        code = abl_cli_error(cli, "%s", problem);
    } else {
        code = done(cli, path);
    }
    json_decref(out.file);
    return code;
}

int abl_cli_save_scores(abl_cli *cli, char *job_id, abl_scores *scores, const char *path) {
    static const abl_rpc_method get = ABL_RPC("PruneService", "GetJob", get_job);
    char problem[4352];
    if (!is_graph_json(path)) {
        return abl_scores_save(scores, path, job_id, problem, sizeof problem)
                   ? done(cli, path)
                   : abl_cli_error(cli, "%s", problem);
    }
    int code = ABL_EXIT_OK;
    Ablate__V1__GetJobRequest request = ABLATE__V1__GET_JOB_REQUEST__INIT;
    request.job_id = job_id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &get, &request.base, &code);
    if (response == NULL) {
        return code;
    }
    const Ablate__V1__Job *job = ((const Ablate__V1__GetJobResponse *)response)->job;
    return export_graph(cli, scores, job->spec->graph_id, path);
}

int abl_cmd_export(abl_cli *cli) {
    const char *path = cli->args->text[ABL_OPTION_OUT];
    if (path == NULL) {
        return abl_cli_usage(cli, "give --out, the file to write: safetensors, or with a name that "
                                  "ends in .json a graph file of EAP-IG");
    }
    char problem[4352];
    if (!abl_out_possible(path, problem, sizeof problem)) {
        return abl_cli_error(cli, "%s", problem);
    }
    abl_scores *scores = abl_scores_create();
    abl_rpc_error error = {0};
    int code = abl_job_scores(cli, cli->args->operands[0], scores, &error) != ABL_CODE_OK
                   ? abl_cli_failed(cli, &error)
                   : abl_cli_save_scores(cli, cli->args->operands[0], scores, path);
    abl_scores_destroy(scores);
    return code;
}

/* --- import ----------------------------------------------------------------------------------- */

static int send(abl_cli *cli, Ablate__V1__CreatePruneScoresRequest *request) {
    static const abl_rpc_method method =
        ABL_RPC("PruneService", "CreatePruneScores", create_prune_scores);
    int code = ABL_EXIT_OK;
    const char *slash = strrchr(cli->args->operands[0], '/');
    request->origin = slash == NULL ? cli->args->operands[0] : (char *)(uintptr_t)(slash + 1);
    request->bos = (Ablate__V1__BosPolicy)cli->args->count[ABL_OPTION_BOS];
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request->base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    const Ablate__V1__Job *job = ((const Ablate__V1__CreatePruneScoresResponse *)response)->job;
    abl_cli_say(cli, "%s has these scores", job->job_id);
    abl_cli_say(cli, "next: ablate eval %s --dataset FILE  # the faithfulness of its circuits",
                job->job_id);
    return ABL_EXIT_OK;
}

static int import_tensors(abl_cli *cli, char *graph_id, const abl_scores *scores) {
    Ablate__V1__CreatePruneScoresRequest request = ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__INIT;
    request.graph_id = graph_id;
    request.scores_case = ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_MODULES;
    request.modules = abl_scores_message(scores);
    int code = request.modules == NULL ? abl_cli_error(cli, "out of memory") : send(cli, &request);
    abl_scores_free_message(request.modules);
    return code;
}

/* The edges of a graph file, by name, in one message. */
static int send_edges(abl_cli *cli, char *graph_id, json_t *edges) {
    size_t count = json_object_size(edges);
    ABL_CLEANUP(abl_freep)
    Ablate__V1__EdgeValue *values = abl_calloc(count + 1, sizeof *values);
    ABL_CLEANUP(abl_freep) void *block = abl_calloc(count + 1, sizeof(void *));
    Ablate__V1__EdgeValue **list = block;
    if (values == NULL || list == NULL) {
        return abl_cli_error(cli, "out of memory");
    }
    Ablate__V1__EdgeScores message = ABLATE__V1__EDGE_SCORES__INIT;
    const char *name = NULL;
    json_t *entry = NULL;
    json_object_foreach(edges, name, entry) {
        const json_t *score = json_object_get(entry, "score");
        if (!json_is_number(score)) {
            return abl_cli_error(cli, "the file's edge '%s' has no score", name);
        }
        Ablate__V1__EdgeValue *value = &values[message.n_edges];
        ablate__v1__edge_value__init(value);
        value->edge = (char *)(uintptr_t)name; /* the file's; packing only reads it */
        value->value = (float)json_number_value(score);
        list[message.n_edges++] = value;
    }
    message.edges = list;
    Ablate__V1__CreatePruneScoresRequest request = ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__INIT;
    request.graph_id = graph_id;
    request.scores_case = ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_EDGES;
    request.edges = &message;
    return send(cli, &request);
}

static int import_graph(abl_cli *cli, char *graph_id) {
    static const abl_rpc_method get = ABL_RPC("GraphService", "GetGraph", get_graph);
    int code = ABL_EXIT_OK;
    Ablate__V1__GetGraphRequest asked = ABLATE__V1__GET_GRAPH_REQUEST__INIT;
    asked.graph_id = graph_id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &get, &asked.base, &code);
    ABL_CLEANUP(abl_rpc_freep)
    Ablate__V1__GetModelResponse *model =
        response == NULL
            ? NULL
            : model_of(cli, ((const Ablate__V1__GetGraphResponse *)response)->graph->model_id,
                       &code);
    if (model == NULL) {
        return code;
    }
    char problem[4352];
    json_t *file = NULL;
    json_t *edges = NULL;
    if (!abl_graph_json_load(cli->args->operands[0], model->model->config, &file, &edges, problem,
                             sizeof problem)) {
        return abl_cli_error(cli, "%s", problem);
    }
    code = send_edges(cli, graph_id, edges);
    json_decref(file);
    return code;
}

int abl_cmd_import(abl_cli *cli) {
    const char *path = cli->args->operands[0];
    char problem[4352];
    abl_scores *scores = NULL;
    if (access(path, R_OK) != 0) {
        return abl_cli_error(cli, "cannot read '%s': %s", path, strerror(errno));
    }
    if (!is_graph_json(path) && !abl_scores_load(path, &scores, problem, sizeof problem)) {
        return abl_cli_error(cli, "%s", problem);
    }
    int code = ABL_EXIT_ERROR;
    ABL_CLEANUP(abl_freep) char *graph_id = abl_cli_graph(cli, &code);
    if (graph_id != NULL) {
        code = scores == NULL ? import_graph(cli, graph_id) : import_tensors(cli, graph_id, scores);
    }
    abl_scores_destroy(scores);
    return code;
}

/* --- diff ------------------------------------------------------------------------------------- */

static int show_overlaps(const abl_cli *cli, const Ablate__V1__CompareScoresResponse *out) {
    static const abl_column columns[] = {{"edges", true, false},
                                         {"in both", true, false},
                                         {"similarity", true, false},
                                         {"Jaccard", true, false}};
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    ABL_CLEANUP(abl_freep) double *bars = abl_calloc(out->n_overlaps + 1, sizeof *bars);
    for (size_t i = 0; i < out->n_overlaps; i++) {
        const Ablate__V1__CircuitOverlap *overlap = out->overlaps[i];
        abl_table_add(table, "%lld", (long long)overlap->edge_count);
        abl_table_add(table, "%lld", (long long)overlap->common_count);
        abl_table_add(table, "%.3f", overlap->similarity);
        abl_table_add(table, "%.3f", overlap->jaccard);
        if (bars != NULL) {
            bars[i] = overlap->jaccard;
        }
    }
    abl_table_bars(table, "", bars, out->n_overlaps);
    abl_cli_say(cli, "rank correlation of |score| %.4f, correlation of scores %.4f", out->spearman,
                out->pearson);
    return abl_cli_print_table(cli, table);
}

static int show_roc(const abl_cli *cli, const Ablate__V1__MeasureRocResponse *out) {
    static const abl_column columns[] = {{"false positives", true, false},
                                         {"true positives", true, false}};
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    ABL_CLEANUP(abl_freep) double *bars = abl_calloc(out->n_points + 1, sizeof *bars);
    for (size_t i = 0; i < out->n_points; i++) {
        abl_table_add(table, "%.4f", out->points[i]->false_positive_rate);
        abl_table_add(table, "%.4f", out->points[i]->true_positive_rate);
        if (bars != NULL) {
            bars[i] = out->points[i]->true_positive_rate;
        }
    }
    abl_table_bars(table, "", bars, out->n_points);
    fputc('\n', stdout);
    abl_cli_say(cli, "ROC against the second job's %lld edges: area %.4f, chance is 0.5",
                (long long)out->reference_edge_count, out->area);
    return abl_cli_print_table(cli, table);
}

/* NULL: said already. */
static ProtobufCMessage *measure_roc(abl_cli *cli, int *ret_exit) {
    static const abl_rpc_method method = ABL_RPC("EvaluateService", "MeasureRoc", measure_roc);
    Ablate__V1__MeasureRocRequest request = ABLATE__V1__MEASURE_ROC_REQUEST__INIT;
    request.job_id = cli->args->operands[0];
    request.reference_case = ABLATE__V1__MEASURE_ROC_REQUEST__REFERENCE_REFERENCE_JOB_ID;
    request.reference_job_id = cli->args->operands[1];
    request.reference_edge_count = cli->args->count[ABL_OPTION_ROC];
    return abl_cli_call(cli, &method, &request.base, ret_exit);
}

int abl_cmd_diff(abl_cli *cli) {
    static const abl_rpc_method method =
        ABL_RPC("EvaluateService", "CompareScores", compare_scores);
    Ablate__V1__CompareScoresRequest request = ABLATE__V1__COMPARE_SCORES_REQUEST__INIT;
    request.job_id = cli->args->operands[0];
    request.other_job_id = cli->args->operands[1];
    bool with_roc = cli->args->given[ABL_OPTION_ROC];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *overlaps = abl_cli_call(cli, &method, &request.base, &code);
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *roc = overlaps != NULL && with_roc ? measure_roc(cli, &code) : NULL;
    if (overlaps == NULL || (with_roc && roc == NULL)) {
        return code;
    }
    if (cli->json) {
        json_t *document = abl_json_of(overlaps);
        if (roc != NULL && document != NULL) {
            (void)json_object_set_new(document, "roc", abl_json_of(roc));
        }
        return abl_cli_put_json(cli, document, false);
    }
    code = show_overlaps(cli, (const Ablate__V1__CompareScoresResponse *)overlaps);
    return code != ABL_EXIT_OK || roc == NULL
               ? code
               : show_roc(cli, (const Ablate__V1__MeasureRocResponse *)roc);
}
