/* cli.h -- what every command gets, and the helpers that commands share.
 *
 * A command returns an exit code. Results go to standard output, words about them (progress,
 * errors) to standard error.
 */
#ifndef ABLATE_CLI_CLI_H
#define ABLATE_CLI_CLI_H

#include "ablate/v1/admin.pb-c.h"
#include "ablate/v1/dataset.pb-c.h"
#include "ablate/v1/evaluate.pb-c.h"
#include "ablate/v1/graph.pb-c.h"
#include "ablate/v1/model.pb-c.h"
#include "ablate/v1/prune.pb-c.h"
#include "ablate/v1/run.pb-c.h"
#include "clients/cli/interventions.h"
#include "clients/cli/json.h"
#include "clients/cli/options.h"
#include "clients/cli/progress.h"
#include "clients/cli/rpc.h"
#include "clients/cli/table.h"
#include "core/base/mem.h"

#define ABL_HOST_DEFAULT "127.0.0.1:50051"

typedef enum abl_exit {
    ABL_EXIT_OK = 0,
    ABL_EXIT_ERROR = 1,       /* the server, or this machine, could not do it */
    ABL_EXIT_USAGE = 2,       /* the command line does not make sense */
    ABL_EXIT_UNREACHABLE = 3, /* no server answers */
    ABL_EXIT_INTERRUPTED = 130,
} abl_exit;

typedef struct abl_cli {
    const abl_args *args;
    abl_rpc *rpc;
    abl_term out; /* standard output */
    abl_term err; /* standard error */
    bool json;
} abl_cli;

/* Commands, by file. */
int abl_cmd_models_list(abl_cli *cli);
int abl_cmd_models_files(abl_cli *cli);
int abl_cmd_models_load(abl_cli *cli);
int abl_cmd_models_unload(abl_cli *cli);
int abl_cmd_models_show(abl_cli *cli);
int abl_cmd_tokens(abl_cli *cli);
int abl_cmd_forward(abl_cli *cli);
int abl_cmd_graph_create(abl_cli *cli);
int abl_cmd_graph_list(abl_cli *cli);
int abl_cmd_graph_show(abl_cli *cli);
int abl_cmd_graph_delete(abl_cli *cli);
int abl_cmd_graph_edges(abl_cli *cli);
int abl_cmd_dataset_upload(abl_cli *cli);
int abl_cmd_dataset_list(abl_cli *cli);
int abl_cmd_dataset_delete(abl_cli *cli);
int abl_cmd_caches_create(abl_cli *cli);
int abl_cmd_caches_list(abl_cli *cli);
int abl_cmd_caches_delete(abl_cli *cli);
int abl_cmd_ablations_list(abl_cli *cli);
int abl_cmd_ablations_create(abl_cli *cli);
int abl_cmd_ablations_delete(abl_cli *cli);
int abl_cmd_discover(abl_cli *cli);
int abl_cmd_eval(abl_cli *cli);
int abl_cmd_export(abl_cli *cli);
int abl_cmd_import(abl_cli *cli);
int abl_cmd_diff(abl_cli *cli);
int abl_cmd_jobs_list(abl_cli *cli);
int abl_cmd_jobs_show(abl_cli *cli);
int abl_cmd_jobs_watch(abl_cli *cli);
int abl_cmd_jobs_cancel(abl_cli *cli);
int abl_cmd_status(abl_cli *cli);
int abl_cmd_version(abl_cli *cli);
int abl_cmd_doctor(abl_cli *cli);
int abl_cmd_completion(abl_cli *cli);
int abl_cmd_man(abl_cli *cli);

/* The channel that the arguments and the environment describe; `timeout_ms` of each call where no
 * --timeout is given, 0: none. */
ABL_MUST_CHECK abl_code abl_cli_connect(const abl_args *args, int64_t timeout_ms, abl_rpc **ret_rpc,
                                        abl_rpc_error *ret_error);

/* Says what went wrong, and returns the exit code for it. */
int abl_cli_failed(const abl_cli *cli, const abl_rpc_error *error);
int abl_cli_usage(const abl_cli *cli, const char *format, ...) ABL_PRINTF(2, 3);
int abl_cli_error(const abl_cli *cli, const char *format, ...) ABL_PRINTF(2, 3);

/* What --intervene says; empty without it. ABL_EXIT_OK, and then ended with
 * abl_interventions_free(), or the exit code of the mistake that was told. */
int abl_cli_read_interventions(const abl_cli *cli, abl_cli_interventions *ret_set);

/* A sentence on standard output, wrapped; nothing with --json. */
void abl_cli_say(const abl_cli *cli, const char *format, ...) ABL_PRINTF(2, 3);

/* With --json prints the message as a document. Returns an exit code. */
int abl_cli_print_json(const abl_cli *cli, const ProtobufCMessage *message);
/* Prints a value, on one line if `line`, and gives it up; NULL stands for no memory. */
int abl_cli_put_json(const abl_cli *cli, json_t *value, bool line);
/* Prints the table, or says that there was no memory. */
int abl_cli_print_table(const abl_cli *cli, const abl_table *table);

/* A listing: as a table through `row_cb`, which is called once a page, or as one JSON document with
 * the pages' arrays joined. `none` is said when there is nothing to list. */
typedef void (*abl_rows_cb)(abl_table *table, const ProtobufCMessage *page);
int abl_cli_list(abl_cli *cli, const abl_rpc_method *method, ProtobufCMessage *request,
                 const abl_column *columns, size_t column_count, abl_rows_cb rows_cb,
                 const char *none);
/* The same for a listing that takes --watch; `restless` as in watch.h. */
int abl_cli_list_watched(abl_cli *cli, const abl_rpc_method *method, ProtobufCMessage *request,
                         const abl_column *columns, size_t column_count, abl_rows_cb rows_cb,
                         const char *none, unsigned restless);

/* A unary call whose failure is said already: NULL then, and *ret_exit is set. */
ProtobufCMessage *abl_cli_call(abl_cli *cli, const abl_rpc_method *method,
                               const ProtobufCMessage *request, int *ret_exit);

/* The id of the resident model that is called so, by id or by name; what is neither comes back as
 * it is, for the daemon to say so. abl_free() ends it; NULL: said already. */
char *abl_cli_model_id(abl_cli *cli, const char *model, int *ret_exit);

/* The resident model that --model names, or the only one. abl_rpc_free(&model->base) ends it;
 * NULL: said already. */
Ablate__V1__GetModelResponse *abl_cli_model(abl_cli *cli, int *ret_exit);

/* LoadModel with --mode, --dtype, --device and a progress line; as abl_cli_model(). */
Ablate__V1__GetModelResponse *abl_cli_load(abl_cli *cli, const char *name, int *ret_exit);

/* The graph that --graph names, or one over --model with the graph options given, which is made
 * where there is none; abl_free() ends it. NULL: said already. */
char *abl_cli_graph(abl_cli *cli, int *ret_exit);

/* Graph options from --merge-qkv, --expand-kv, --seq-len. */
void abl_cli_graph_options(const abl_cli *cli, Ablate__V1__GraphOptions *ret_options);

/* Uploads a dataset file; abl_rpc_free() ends the answer; NULL: said already. */
Ablate__V1__UploadDatasetResponse *abl_cli_upload(abl_cli *cli, const char *path, int *ret_exit);

/* The id of --dataset, uploaded if it is a file; abl_free() ends it; NULL: said already. */
char *abl_cli_dataset(abl_cli *cli, int *ret_exit);

/* "SUCCEEDED" of JOB_STATE_SUCCEEDED: an enumeration's name without its prefix, in lower case. */
const char *abl_cli_enum_name(const ProtobufCEnumDescriptor *descriptor, int value,
                              const char *prefix, char *buffer, size_t size);

/* One prompt as the wire wants it; --bos is `bos`. It points into itself and is not to be moved. */
typedef struct abl_cli_prompt {
    Ablate__V1__Prompts prompts;
    Ablate__V1__TextPrompts text;
    char *items[1];
} abl_cli_prompt;
void abl_cli_prompt_init(abl_cli_prompt *one, char *text, int64_t bos);

/* The running top edges as a table. */
int abl_cli_print_edges(const abl_cli *cli, Ablate__V1__EdgeValue *const *edges, size_t count);
/* "A9.9->A11.10.Q +0.812  MLP 0->..." for the progress line. */
void abl_cli_edges_tail(char *buffer, size_t size, Ablate__V1__EdgeValue *const *edges,
                        size_t count);

#endif
