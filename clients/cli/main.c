/* SPDX-License-Identifier: Apache-2.0 */
/* main.c -- `ablate`, the command line: one table of commands, and what surrounds every command.
 *
 * Start to end: find the command in the table, parse the options that it takes, connect, run it,
 * disconnect. A command returns the exit code (see abl_exit in cli.h). */
#include "clients/cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define TOKEN_BYTES_MAX 4096

typedef struct command {
    const char *name;     /* one word, or two */
    const char *operands; /* as the help shows them; "" for none */
    const char *summary;
    int operand_count;
    uint64_t takes; /* beside ABL_TAKES_GLOBAL */
    int (*run)(abl_cli *cli);
} command;

#define LOAD_OPTIONS (ABL_TAKES(MODE) | ABL_TAKES(DTYPE) | ABL_TAKES(DEVICE))
#define GRAPH_OPTIONS                                                                              \
    (ABL_TAKES(SIMPLE) | ABL_TAKES(MERGE_QKV) | ABL_TAKES(EXPAND_KV) | ABL_TAKES(SEQ_LEN))
#define TRAINING_OPTIONS                                                                           \
    (ABL_TAKES(EPOCHS) | ABL_TAKES(LEARNING_RATE) | ABL_TAKES(LAMBDA) | ABL_TAKES(MASK_FN) |       \
     ABL_TAKES(TARGET) | ABL_TAKES(TREE) | ABL_TAKES(AVOID) | ABL_TAKES(SIZES))
#define BATCH_OPTIONS                                                                              \
    (ABL_TAKES(ABLATION) | ABL_TAKES(ABLATION_ID) | ABL_TAKES(BATCH_SIZE) | ABL_TAKES(PROMPTS) |   \
     ABL_TAKES(TAIL))

static const command commands[] = {
    {"models list", "", "list the resident models", 0, 0, abl_cmd_models_list},
    {"models files", "", "list the models that can be loaded", 0, 0, abl_cmd_models_files},
    {"models load", "NAME", "make a model resident", 1, LOAD_OPTIONS, abl_cmd_models_load},
    {"models unload", "MODEL", "give a model's memory back", 1, 0, abl_cmd_models_unload},
    {"models show", "MODEL", "describe a resident model", 1,
     ABL_TAKES(HOOKS) | ABL_TAKES(PARAMETERS), abl_cmd_models_show},
    {"tokens", "TEXT", "show how a model takes a text apart", 1, ABL_TAKES(MODEL) | ABL_TAKES(BOS),
     abl_cmd_tokens},
    {"forward", "PROMPT", "show the likeliest next tokens", 1,
     ABL_TAKES(MODEL) | ABL_TAKES(BOS) | ABL_TAKES(TOP) | ABL_TAKES(GRAPH) | ABL_TAKES(CORRUPT) |
         ABL_TAKES(ABLATION) | ABL_TAKES(ABLATION_ID) | ABL_TAKES(INTERVENE),
     abl_cmd_forward},
    {"graph create", "", "make a graph over a resident model", 0, ABL_TAKES(MODEL) | GRAPH_OPTIONS,
     abl_cmd_graph_create},
    {"graph list", "", "list the graphs", 0, ABL_TAKES(MODEL), abl_cmd_graph_list},
    {"graph show", "GRAPH", "describe a graph and its mask's tensors", 1, 0, abl_cmd_graph_show},
    {"graph delete", "GRAPH", "end a graph", 1, 0, abl_cmd_graph_delete},
    {"graph edges", "GRAPH", "list the edges of a graph", 1,
     ABL_TAKES(FROM) | ABL_TAKES(TO) | ABL_TAKES(POSITION) | ABL_TAKES(DIALECT) | ABL_TAKES(TOP),
     abl_cmd_graph_edges},
    {"dataset upload", "FILE", "keep a dataset on the server", 1, ABL_TAKES(NAME),
     abl_cmd_dataset_upload},
    {"dataset list", "", "list the datasets", 0, 0, abl_cmd_dataset_list},
    {"dataset delete", "DATASET", "end a dataset", 1, 0, abl_cmd_dataset_delete},
    {"caches create", "PREFIX", "keep the keys and values of what prompts begin with", 1,
     ABL_TAKES(MODEL) | ABL_TAKES(BOS), abl_cmd_caches_create},
    {"caches list", "", "list the KV caches", 0, ABL_TAKES(MODEL), abl_cmd_caches_list},
    {"caches delete", "CACHE", "end a KV cache", 1, 0, abl_cmd_caches_delete},
    {"ablations create", "", "make what ablated edges carry and keep it", 0,
     ABL_TAKES(MODEL) | ABL_TAKES(DATASET) | ABL_TAKES(NAME) | ABL_TAKES(ABLATION) |
         ABL_TAKES(CLEAN) | ABL_TAKES(BOS) | ABL_TAKES(BATCH_SIZE) | ABL_TAKES(PROMPTS) |
         ABL_TAKES(TAIL),
     abl_cmd_ablations_create},
    {"ablations list", "", "list the resident ablations", 0, 0, abl_cmd_ablations_list},
    {"ablations delete", "ABLATION", "end a resident ablation", 1, 0, abl_cmd_ablations_delete},
    {"discover", "", "find the edges that matter for a dataset", 0,
     ABL_TAKES(MODEL) | LOAD_OPTIONS | ABL_TAKES(GRAPH) | GRAPH_OPTIONS | ABL_TAKES(DATASET) |
         ABL_TAKES(NAME) | ABL_TAKES(BOS) | ABL_TAKES(ALGORITHM) | ABL_TAKES(METHOD) |
         ABL_TAKES(STEPS) | ABL_TAKES(IG) | ABL_TAKES(GRAD) | ABL_TAKES(ANSWER) |
         ABL_TAKES(MASK_VALUE) | ABL_TAKES(EDGES) | ABL_TAKES(TAU) | ABL_TAKES(SEED) |
         BATCH_OPTIONS | ABL_TAKES(CLEAN) | ABL_TAKES(TOP) | ABL_TAKES(OUT) | TRAINING_OPTIONS,
     abl_cmd_discover},
    {"eval", "JOB", "measure how faithful circuits of a job's edges are", 1,
     ABL_TAKES(SIZES) | ABL_TAKES(METRICS) | ABL_TAKES(AREAS) | ABL_TAKES(SIGNED) |
         ABL_TAKES(PATCH) | ABL_TAKES(DATASET) | BATCH_OPTIONS,
     abl_cmd_eval},
    {"export", "JOB", "save scores as safetensors, or as EAP-IG's graph JSON (.json)", 1,
     ABL_TAKES(OUT), abl_cmd_export},
    {"import", "FILE", "keep scores of another tool on the server, as a job", 1,
     ABL_TAKES(MODEL) | LOAD_OPTIONS | ABL_TAKES(GRAPH) | GRAPH_OPTIONS | ABL_TAKES(BOS),
     abl_cmd_import},
    {"diff", "JOB JOB", "compare two jobs' scores", 2, 0, abl_cmd_diff},
    {"jobs list", "", "list the jobs, newest first", 0, ABL_TAKES(STATE), abl_cmd_jobs_list},
    {"jobs show", "JOB", "describe a job", 1, 0, abl_cmd_jobs_show},
    {"jobs watch", "JOB", "follow a job to its end", 1, ABL_TAKES(AFTER), abl_cmd_jobs_watch},
    {"jobs cancel", "JOB", "stop a job; its scores so far are kept", 1, 0, abl_cmd_jobs_cancel},
    {"jobs scores", "JOB", "save a job's scores as safetensors", 1, ABL_TAKES(OUT), abl_cmd_export},
    {"status", "", "describe the daemon and what is resident", 0, 0, abl_cmd_status},
    {"version", "", "print the versions of client and daemon", 0, 0, abl_cmd_version},
};

static void file_closep(FILE **file) {
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

/* How many words of argv the command's name takes; 0: it is another one. */
static int matches(const command *it, int argc, char **argv) {
    const char *space = strchr(it->name, ' ');
    if (space == NULL) {
        return argc > 1 && strcmp(argv[1], it->name) == 0 ? 1 : 0;
    }
    size_t first = (size_t)(space - it->name);
    return argc > 2 && strlen(argv[1]) == first && strncmp(argv[1], it->name, first) == 0 &&
                   strcmp(argv[2], space + 1) == 0
               ? 2
               : 0;
}

static void print_command_line(const abl_cli *cli, FILE *out, const command *it, int width) {
    char line[256];
    char head[96];
    (void)snprintf(head, sizeof head, "%s %s", it->name, it->operands);
    (void)snprintf(line, sizeof line, "  %-*s%s", width, head, it->summary);
    abl_text_wrap(out, out == stdout ? &cli->out : &cli->err, width + 2, line);
}

/* All commands, or those of one group ("models"). */
static void print_commands(const abl_cli *cli, FILE *out, const char *group) {
    size_t length = group == NULL ? 0 : strlen(group);
    for (size_t i = 0; i < ABL_COUNT_OF(commands); i++) {
        bool in_group = length == 0 || (strncmp(commands[i].name, group, length) == 0 &&
                                        commands[i].name[length] == ' ');
        if (in_group) {
            print_command_line(cli, out, &commands[i], 26);
        }
    }
}

static void print_help(const abl_cli *cli, FILE *out) {
    const abl_term *term = out == stdout ? &cli->out : &cli->err;
    abl_text_wrap(out, term, 7, "usage: ablate COMMAND [OPTION]...");
    abl_text_wrap(out, term, 0, "Finds the circuits of transformer models, on an ablated daemon.");
    fputc('\n', out);
    print_commands(cli, out, NULL);
    fputc('\n', out);
    abl_text_wrap(out, term, 0, "Every command takes:");
    abl_options_help(out, term, ABL_TAKES_GLOBAL);
    fputc('\n', out);
    abl_text_wrap(out, term, 0,
                  "`ablate COMMAND --help` has the rest. Exit codes: 0 done, 1 the server could "
                  "not, 2 wrong usage, 3 no server answers, 130 interrupted.");
}

static int print_command_help(const abl_cli *cli, const command *it) {
    char line[256];
    (void)snprintf(line, sizeof line, "usage: ablate %s %s%s[OPTION]...", it->name, it->operands,
                   it->operands[0] == '\0' ? "" : " ");
    abl_text_wrap(stdout, &cli->out, 7, line);
    (void)snprintf(line, sizeof line, "\nTo %s.\n", it->summary);
    abl_text_wrap(stdout, &cli->out, 0, line);
    abl_options_help(stdout, &cli->out, it->takes);
    if (it->takes != 0) {
        fputc('\n', stdout);
    }
    abl_options_help(stdout, &cli->out, ABL_TAKES_GLOBAL);
    return ABL_EXIT_OK;
}

static int unknown_command(const abl_cli *cli, int argc, char **argv) {
    bool known_group = false;
    size_t length = strlen(argv[1]);
    for (size_t i = 0; i < ABL_COUNT_OF(commands); i++) {
        known_group = known_group || (strncmp(commands[i].name, argv[1], length) == 0 &&
                                      commands[i].name[length] == ' ');
    }
    if (!known_group) {
        return abl_cli_usage(cli, "there is no command '%s'; `ablate help` lists them", argv[1]);
    }
    int code = argc > 2 ? abl_cli_usage(cli, "there is no command '%s %s'", argv[1], argv[2])
                        : abl_cli_usage(cli, "'%s' needs one more word", argv[1]);
    print_commands(cli, stderr, argv[1]);
    return code;
}

/* The token of --token-file, ABLATE_TOKEN_FILE or ABLATE_TOKEN into `token`; "" for none. */
static bool read_token(const abl_cli *cli, char *token, size_t size) {
    const char *path = cli->args->given[ABL_OPTION_TOKEN_FILE]
                           ? cli->args->text[ABL_OPTION_TOKEN_FILE]
                           : getenv("ABLATE_TOKEN_FILE");
    const char *direct = getenv("ABLATE_TOKEN");
    token[0] = '\0';
    bool named = cli->args->given[ABL_OPTION_TOKEN_FILE];
    if (direct != NULL && direct[0] != '\0' && !named) {
        (void)snprintf(token, size, "%s", direct);
    } else if (path != NULL && path[0] != '\0') {
        ABL_CLEANUP(file_closep) FILE *file = fopen(path, "r");
        if (file == NULL || fgets(token, (int)size, file) == NULL) {
            (void)abl_cli_error(cli, "cannot read a token from '%s'", path);
            return false;
        }
    }
    token[strcspn(token, "\r\n")] = '\0';
    return true;
}

static int connect_and_run(abl_cli *cli, const command *it) {
    char token[TOKEN_BYTES_MAX];
    if (!read_token(cli, token, sizeof token)) {
        return ABL_EXIT_ERROR;
    }
    const char *host = getenv("ABLATE_HOST");
    if (cli->args->given[ABL_OPTION_HOST]) {
        host = cli->args->text[ABL_OPTION_HOST];
    }
    abl_rpc_options options = {
        .host = host == NULL || host[0] == '\0' ? ABL_HOST_DEFAULT : host,
        .token = token[0] == '\0' ? NULL : token,
        .timeout_ms = (int64_t)(cli->args->number[ABL_OPTION_TIMEOUT] * 1000),
    };
    if (cli->args->given[ABL_OPTION_TIMEOUT] && options.timeout_ms <= 0) {
        return abl_cli_usage(cli, "--timeout takes seconds, more than 0");
    }
    abl_rpc_error error = {0};
    if (abl_rpc_create(&options, &cli->rpc, &error) != ABL_CODE_OK) {
        return abl_cli_failed(cli, &error);
    }
    abl_rpc_catch_interrupt();
    int code = it->run(cli);
    abl_rpc_destroy(cli->rpc);
    return code;
}

static int run_command(abl_cli *cli, const command *it, int argc, char **argv) {
    char problem[512];
    abl_args args;
    bool parsed =
        abl_args_parse(&args, it->takes | ABL_TAKES_GLOBAL, argc, argv, problem, sizeof problem);
    cli->args = &args;
    cli->json = args.given[ABL_OPTION_JSON];
    if (!parsed) {
        return abl_cli_usage(cli, "%s; `ablate %s --help` shows what it takes", problem, it->name);
    }
    if (args.given[ABL_OPTION_HELP]) {
        return print_command_help(cli, it);
    }
    if (args.operand_count != it->operand_count) {
        return abl_cli_usage(cli, "`ablate %s` takes %s%s", it->name,
                             it->operand_count == 0 ? "options only" : "exactly one ",
                             it->operands);
    }
    return connect_and_run(cli, it);
}

/* `ablate --json status` is `ablate status --json`: options before the command go behind it. */
static void move_options(int count, int words, char **argv) {
    for (; count > 0; count--) {
        char *option = argv[count];
        memmove(argv + count, argv + count + 1, (size_t)words * sizeof *argv);
        argv[count + words] = option;
    }
}

int main(int argc, char **argv) {
    abl_text_init();
    abl_cli cli = {.out = abl_term_of(stdout), .err = abl_term_of(stderr)};
    if (argc < 2) {
        print_help(&cli, stderr);
        return ABL_EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0) {
        print_help(&cli, stdout);
        return ABL_EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        abl_cli_say(&cli, "ablate %s", ABLATE_VERSION);
        return ABL_EXIT_OK;
    }
    int leading = abl_args_leading(ABL_TAKES_GLOBAL, argc, argv);
    if (leading + 1 >= argc) {
        return abl_cli_usage(&cli, "there is no command; `ablate help` lists them");
    }
    for (size_t i = 0; i < ABL_COUNT_OF(commands); i++) {
        int words = matches(&commands[i], argc - leading, argv + leading);
        if (words > 0) {
            move_options(leading, words, argv);
            return run_command(&cli, &commands[i], argc - words, argv + words);
        }
    }
    return unknown_command(&cli, argc - leading, argv + leading);
}
