/* SPDX-License-Identifier: Apache-2.0 */
/* main.c -- `ablate`, the command line: what surrounds every command.
 *
 * Start to end: find the command in the table, parse the options that it takes, connect, run it,
 * disconnect. A command returns the exit code (see abl_exit in cli.h). */
#include "clients/cli/complete.h"
#include "clients/cli/help.h"
#include "clients/cli/watch.h"

#include <string.h>

static int connect_and_run(abl_cli *cli, const abl_command *it) {
    if (cli->args->given[ABL_OPTION_TIMEOUT] && cli->args->number[ABL_OPTION_TIMEOUT] < 0.001) {
        return abl_cli_usage(cli, "--timeout takes seconds, more than 0");
    }
    int64_t timeout_ms = cli->args->given[ABL_OPTION_WATCH] ? ABL_WATCH_TIMEOUT_MS : 0;
    abl_rpc_error error = {0};
    if (abl_cli_connect(cli->args, timeout_ms, &cli->rpc, &error) != ABL_CODE_OK) {
        return abl_cli_failed(cli, &error);
    }
    abl_rpc_catch_interrupt();
    int code = it->run(cli);
    abl_rpc_destroy(cli->rpc);
    return code;
}

static int run_command(abl_cli *cli, const abl_command *it, int argc, char **argv) {
    char problem[512];
    abl_args args;
    bool parsed = abl_args_parse(&args, abl_command_takes(it), argc, argv, problem, sizeof problem);
    cli->args = &args;
    cli->json = args.given[ABL_OPTION_JSON];
    if (!parsed) {
        return abl_cli_usage(cli, "%s; `ablate %s --help` shows what it takes", problem, it->name);
    }
    if (args.given[ABL_OPTION_HELP]) {
        abl_help_command(cli, it);
        return ABL_EXIT_OK;
    }
    if (args.operand_count != it->operand_count) {
        static const char *const counts[] = {"options only", "exactly one ", "exactly two: "};
        return abl_cli_usage(cli, "`ablate %s` takes %s%s, not %d", it->name,
                             counts[it->operand_count], it->operands, args.operand_count);
    }
    return (it->takes & ABL_OFFLINE) != 0 ? it->run(cli) : connect_and_run(cli, it);
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
        abl_help_print(&cli, stderr);
        return ABL_EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0) {
        return abl_help_run(&cli, argc - 2, argv + 2);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        return abl_help_run(&cli, 0, NULL);
    }
    if (strcmp(argv[1], "--version") == 0) {
        abl_cli_say(&cli, "ablate %s", ABLATE_VERSION);
        return ABL_EXIT_OK;
    }
    if (strcmp(argv[1], ABL_COMPLETE_WORD) == 0) {
        return abl_complete(stdout, argc - 2, argv + 2);
    }
    int leading = abl_args_leading(ABL_TAKES_GLOBAL, argc, argv);
    if (leading + 1 >= argc) {
        return abl_cli_usage(&cli, "there is no command; `ablate help` lists them");
    }
    int words = 0;
    const abl_command *it = abl_command_find(argc - leading - 1, argv + leading + 1, &words);
    if (it == NULL) {
        return abl_help_unknown(&cli, argc - leading - 1, argv + leading + 1);
    }
    move_options(leading, words, argv);
    return run_command(&cli, it, argc - words, argv + words);
}
