/* SPDX-License-Identifier: Apache-2.0 */
/* cli.c -- what commands share: saying what went wrong, printing, listings, and finding the model
 * that a command is about. See cli.h. */
#include "clients/cli/cli.h"
#include "clients/cli/watch.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* What a person can do about a reason. */
static const struct {
    const char *reason;
    const char *hint;
} hints[] = {
    {"MODEL_UNKNOWN", "`ablate models files` lists what can be loaded, `ablate models list` what "
                      "is resident"},
    {"MODEL_NOT_FOUND", "`ablate models files` lists what can be loaded"},
    {"GRAPH_UNKNOWN", "`ablate graph list` shows the graphs"},
    {"DATASET_UNKNOWN", "`ablate dataset list` shows the datasets"},
    {"JOB_UNKNOWN", "`ablate jobs list` shows the jobs"},
    {"NODE_UNKNOWN", "`ablate graph edges GRAPH` shows how nodes are named"},
    {"EDGE_NOT_IN_GRAPH", "`ablate graph edges GRAPH` lists the edges"},
    {"MODEL_NOT_RESIDENT", "`ablate models load NAME` makes it resident"},
    {"UNAUTHENTICATED", "give a token with --token-file, ABLATE_TOKEN_FILE or ABLATE_TOKEN"},
    {"TOKEN_INVALID", "give a token with --token-file, ABLATE_TOKEN_FILE or ABLATE_TOKEN"},
};

static const char *hint_for(const char *reason) {
    for (size_t i = 0; i < ABL_COUNT_OF(hints); i++) {
        if (strcmp(hints[i].reason, reason) == 0) {
            return hints[i].hint;
        }
    }
    return NULL;
}

static void put_error_json(const char *code, const char *reason, const char *message) {
    json_t *document = json_pack("{s:{s:s, s:s, s:s}}", "error", "code", code, "reason", reason,
                                 "message", message);
    if (document != NULL) {
        (void)json_dumpf(document, stderr, JSON_COMPACT);
        fputc('\n', stderr);
        json_decref(document);
    }
}

static void put_error(const abl_cli *cli, const char *code, const char *reason,
                      const char *message) {
    if (cli->json) {
        put_error_json(code, reason, message);
        return;
    }
    char line[2048];
    const char *hint = hint_for(reason);
    (void)snprintf(line, sizeof line, "error: %s%s%s%s", message, reason[0] != '\0' ? " [" : "",
                   reason, reason[0] != '\0' ? "]" : "");
    ABL_CLEANUP(abl_freep) char *printable = abl_text_printable(line);
    abl_term_style(&cli->err, stderr, "31");
    abl_text_wrap(stderr, &cli->err, 2, printable != NULL ? printable : "error: out of memory");
    abl_term_reset(&cli->err, stderr);
    if (hint != NULL) {
        abl_text_wrap(stderr, &cli->err, 2, hint);
    }
}

int abl_cli_failed(const abl_cli *cli, const abl_rpc_error *error) {
    if (abl_rpc_interrupted()) {
        put_error(cli, "CANCELLED", "", "interrupted");
        return ABL_EXIT_INTERRUPTED;
    }
    put_error(cli, abl_code_name(error->code), error->reason, error->message);
    return error->unreachable ? ABL_EXIT_UNREACHABLE : ABL_EXIT_ERROR;
}

int abl_cli_usage(const abl_cli *cli, const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    put_error(cli, "INVALID_ARGUMENT", cli->json ? "USAGE" : "", message);
    return ABL_EXIT_USAGE;
}

int abl_cli_read_interventions(const abl_cli *cli, abl_cli_interventions *ret_set) {
    char problem[256];
    *ret_set = (abl_cli_interventions){.count = 0};
    if (cli->args->given[ABL_OPTION_INTERVENE] &&
        !abl_interventions_read(cli->args->text[ABL_OPTION_INTERVENE], ret_set, problem,
                                sizeof problem)) {
        return abl_cli_usage(cli, "%s", problem);
    }
    return ABL_EXIT_OK;
}

int abl_cli_error(const abl_cli *cli, const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    put_error(cli, "UNKNOWN", cli->json ? "CLIENT" : "", message);
    return ABL_EXIT_ERROR;
}

void abl_cli_say(const abl_cli *cli, const char *format, ...) {
    if (cli->json) {
        return;
    }
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ABL_CLEANUP(abl_freep) char *printable = abl_text_printable(text);
    if (printable != NULL) {
        abl_text_wrap(stdout, &cli->out, 2, printable);
    }
}

int abl_cli_put_json(const abl_cli *cli, json_t *value, bool line) {
    if (value == NULL) {
        return abl_cli_error(cli, "out of memory");
    }
    size_t flags = JSON_REAL_PRECISION(9) | (line ? JSON_COMPACT : JSON_INDENT(2));
    int result = json_dumpf(value, stdout, flags);
    json_decref(value);
    fputc('\n', stdout);
    return result == 0 && fflush(stdout) == 0 ? ABL_EXIT_OK
                                              : abl_cli_error(cli, "cannot write the output");
}

int abl_cli_print_json(const abl_cli *cli, const ProtobufCMessage *message) {
    return abl_cli_put_json(cli, abl_json_of(message), false);
}

int abl_cli_print_table(const abl_cli *cli, const abl_table *table) {
    return abl_table_print(table, stdout, &cli->out) ? ABL_EXIT_OK
                                                     : abl_cli_error(cli, "out of memory");
}

ProtobufCMessage *abl_cli_call(abl_cli *cli, const abl_rpc_method *method,
                               const ProtobufCMessage *request, int *ret_exit) {
    ProtobufCMessage *response = NULL;
    abl_rpc_error error = {0};
    if (abl_rpc_unary(cli->rpc, method, request, &response, &error) != ABL_CODE_OK) {
        *ret_exit = abl_cli_failed(cli, &error);
        return NULL;
    }
    return response;
}

/* --- Listings --------------------------------------------------------------------------------- */

typedef struct listing {
    const abl_cli *cli;
    abl_table *table;
    abl_rows_cb rows_cb;
    json_t *document; /* of the first page; later pages' arrays are added to it */
    bool failed;
} listing;

static bool join_page(listing *list, const ProtobufCMessage *page) {
    json_t *next = abl_json_of(page);
    if (next == NULL) {
        return false;
    }
    (void)json_object_del(next, "next_page_token");
    if (list->document == NULL) {
        list->document = next;
        return true;
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(next, key, value) {
        json_t *all = json_object_get(list->document, key);
        if (json_is_array(all) && json_is_array(value)) {
            (void)json_array_extend(all, value);
        }
    }
    json_decref(next);
    return true;
}

static bool on_page(const ProtobufCMessage *page, void *user_data) {
    listing *list = user_data;
    if (!list->cli->json) {
        list->rows_cb(list->table, page);
        return true;
    }
    list->failed = list->failed || !join_page(list, page);
    return !list->failed;
}

/* A look at all pages of a listing; see watch.h. */
typedef struct listed {
    const abl_rpc_method *method;
    ProtobufCMessage *request;
    abl_rows_cb rows_cb;
} listed;

static abl_code look_at_list(const abl_cli *cli, abl_table *table, json_t **ret_document,
                             void *user_data, abl_rpc_error *ret_error) {
    const listed *what = user_data;
    listing list = {.cli = cli, .table = table, .rows_cb = what->rows_cb};
    abl_code code = abl_rpc_pages(cli->rpc, what->method, what->request, on_page, &list, ret_error);
    *ret_document = list.document;
    return code;
}

int abl_cli_list_watched(abl_cli *cli, const abl_rpc_method *method, ProtobufCMessage *request,
                         const abl_column *columns, size_t column_count, abl_rows_cb rows_cb,
                         const char *none, unsigned restless) {
    listed what = {.method = method, .request = request, .rows_cb = rows_cb};
    if (cli->args->given[ABL_OPTION_WATCH]) {
        const abl_watch watch = {.columns = columns,
                                 .column_count = column_count,
                                 .restless = restless,
                                 .none = none,
                                 .look_cb = look_at_list,
                                 .user_data = &what};
        return abl_watch_run(cli, &watch);
    }
    ABL_CLEANUP(abl_table_destroyp) abl_table *table = abl_table_create(columns, column_count);
    json_t *document = NULL;
    abl_rpc_error error = {0};
    if (look_at_list(cli, table, &document, &what, &error) != ABL_CODE_OK) {
        json_decref(document);
        return abl_cli_failed(cli, &error);
    }
    if (cli->json) {
        return abl_cli_put_json(cli, document, false);
    }
    if (abl_table_row_count(table) == 0) {
        abl_cli_say(cli, "%s", none);
        return ABL_EXIT_OK;
    }
    return abl_cli_print_table(cli, table);
}

int abl_cli_list(abl_cli *cli, const abl_rpc_method *method, ProtobufCMessage *request,
                 const abl_column *columns, size_t column_count, abl_rows_cb rows_cb,
                 const char *none) {
    return abl_cli_list_watched(cli, method, request, columns, column_count, rows_cb, none, 0);
}

/* --- Models ----------------------------------------------------------------------------------- */

static const abl_rpc_method get_model = ABL_RPC("ModelService", "GetModel", get_model);
static const abl_rpc_method list_models = ABL_RPC("ModelService", "ListModels", list_models);
static const abl_rpc_method load_model = ABL_RPC("ModelService", "LoadModel", load_model);

typedef struct name_search {
    const char *name;
    char *id; /* of the first model of that name; NULL: none */
    int count;
} name_search;

static bool on_models(const ProtobufCMessage *page, void *user_data) {
    name_search *search = user_data;
    const Ablate__V1__ListModelsResponse *list = (const Ablate__V1__ListModelsResponse *)page;
    for (size_t i = 0; i < list->n_models; i++) {
        if (strcmp(list->models[i]->name, search->name) == 0 && search->count++ == 0) {
            search->id = abl_strdup(list->models[i]->model_id);
        }
    }
    return true;
}

char *abl_cli_model_id(abl_cli *cli, const char *model, int *ret_exit) {
    name_search search = {.name = model};
    Ablate__V1__ListModelsRequest request = ABLATE__V1__LIST_MODELS_REQUEST__INIT;
    abl_rpc_error error = {0};
    if (abl_rpc_pages(cli->rpc, &list_models, &request.base, on_models, &search, &error) !=
        ABL_CODE_OK) {
        *ret_exit = abl_cli_failed(cli, &error);
    } else if (search.count > 1) {
        *ret_exit =
            abl_cli_usage(cli,
                          "%d resident models are called '%s': say which by its id; `ablate "
                          "models list` shows them",
                          search.count, model);
    } else {
        /* Not a name: an id, or unknown, which the daemon says. */
        return search.id != NULL ? search.id : abl_strdup(model);
    }
    abl_free(search.id);
    return NULL;
}

static Ablate__V1__GetModelResponse *model_by_id(abl_cli *cli, char *id, int *ret_exit) {
    Ablate__V1__GetModelRequest request = ABLATE__V1__GET_MODEL_REQUEST__INIT;
    request.model_id = id;
    return (Ablate__V1__GetModelResponse *)abl_cli_call(cli, &get_model, &request.base, ret_exit);
}

Ablate__V1__GetModelResponse *abl_cli_model(abl_cli *cli, int *ret_exit) {
    ABL_CLEANUP(abl_freep) char *id = NULL;
    if (cli->args->given[ABL_OPTION_MODEL]) {
        id = abl_cli_model_id(cli, cli->args->text[ABL_OPTION_MODEL], ret_exit);
        return id == NULL ? NULL : model_by_id(cli, id, ret_exit);
    }
    Ablate__V1__ListModelsRequest request = ABLATE__V1__LIST_MODELS_REQUEST__INIT;
    request.page_size = 2;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &list_models, &request.base, ret_exit);
    if (response == NULL) {
        return NULL;
    }
    const Ablate__V1__ListModelsResponse *list = (const Ablate__V1__ListModelsResponse *)response;
    if (list->n_models == 1) {
        id = abl_strdup(list->models[0]->model_id);
        return id == NULL ? NULL : model_by_id(cli, id, ret_exit);
    }
    *ret_exit = list->n_models == 0
                    ? abl_cli_error(cli, "no model is resident: load one with `ablate models load "
                                         "NAME`; `ablate models files` lists the names")
                    : abl_cli_usage(cli, "several models are resident: say which with --model; "
                                         "`ablate models list` shows them");
    return NULL;
}

typedef struct load {
    const abl_cli *cli;
    abl_progress progress;
    const char *name;
    char *model_id;
} load;

static bool on_load(const ProtobufCMessage *message, void *user_data) {
    load *loading = user_data;
    const Ablate__V1__LoadModelResponse *step = (const Ablate__V1__LoadModelResponse *)message;
    if (step->model != NULL) {
        abl_free(loading->model_id);
        loading->model_id = abl_strdup(step->model->model_id);
        return true;
    }
    char label[300];
    char done[24];
    char total[24];
    char tail[400];
    abl_text_bytes(done, sizeof done, step->loaded_bytes);
    abl_text_bytes(total, sizeof total, step->total_bytes);
    (void)snprintf(label, sizeof label, "loading %.256s", loading->name);
    (void)snprintf(tail, sizeof tail, "%s of %s  %.256s", done, total, step->stage);
    double fraction =
        step->total_bytes > 0 ? (double)step->loaded_bytes / (double)step->total_bytes : -1;
    abl_progress_show(&loading->progress, fraction, label, tail, false);
    return true;
}

Ablate__V1__GetModelResponse *abl_cli_load(abl_cli *cli, const char *name, int *ret_exit) {
    const abl_args *args = cli->args;
    ABL_CLEANUP(abl_freep) char *copy = abl_strdup(name);
    ABL_CLEANUP(abl_freep)
    char *device = abl_strdup(args->given[ABL_OPTION_DEVICE] ? args->text[ABL_OPTION_DEVICE] : "");
    Ablate__V1__LoadModelRequest request = ABLATE__V1__LOAD_MODEL_REQUEST__INIT;
    request.name = copy;
    request.device = device;
    request.dtype = (Ablate__V1__DType)args->count[ABL_OPTION_DTYPE];
    if (args->given[ABL_OPTION_MODE]) {
        request.weights_case = ABLATE__V1__LOAD_MODEL_REQUEST__WEIGHTS_MODE;
        request.mode = (Ablate__V1__WeightMode)args->count[ABL_OPTION_MODE];
    }
    load loading = {.cli = cli, .name = name};
    abl_progress_init(&loading.progress, stderr, cli->json);
    abl_rpc_error error = {0};
    abl_code code = abl_rpc_stream(cli->rpc, &load_model, &request.base, on_load, &loading, &error);
    abl_progress_finish(&loading.progress);
    ABL_CLEANUP(abl_freep) char *id = loading.model_id;
    if (code != ABL_CODE_OK) {
        *ret_exit = abl_cli_failed(cli, &error);
        return NULL;
    }
    if (id == NULL) {
        *ret_exit = abl_cli_error(cli, "the load ended without a model");
        return NULL;
    }
    return model_by_id(cli, id, ret_exit);
}

/* --- Names ------------------------------------------------------------------------------------ */

void abl_cli_graph_options(const abl_cli *cli, Ablate__V1__GraphOptions *ret_options) {
    ret_options->kind = cli->args->given[ABL_OPTION_SIMPLE]
                            ? ABLATE__V1__GRAPH_KIND__GRAPH_KIND_SIMPLE
                            : ABLATE__V1__GRAPH_KIND__GRAPH_KIND_FACTORIZED;
    ret_options->merge_qkv = cli->args->given[ABL_OPTION_MERGE_QKV];
    ret_options->expand_kv_heads = cli->args->given[ABL_OPTION_EXPAND_KV];
    ret_options->seq_len = (int32_t)cli->args->count[ABL_OPTION_SEQ_LEN];
}

const char *abl_cli_enum_name(const ProtobufCEnumDescriptor *descriptor, int value,
                              const char *prefix, char *buffer, size_t size) {
    const ProtobufCEnumValue *found = protobuf_c_enum_descriptor_get_value(descriptor, value);
    if (found == NULL) {
        (void)snprintf(buffer, size, "%d", value);
        return buffer;
    }
    const char *name = found->name;
    if (strncmp(name, prefix, strlen(prefix)) == 0) {
        name += strlen(prefix);
    }
    (void)snprintf(buffer, size, "%s", name);
    for (char *at = buffer; *at != '\0'; at++) {
        *at = (char)tolower((unsigned char)*at);
    }
    return buffer;
}
