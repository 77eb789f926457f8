/* help.h -- what `ablate help` says, made from the tables of commands and options. */
#ifndef ABLATE_CLI_HELP_H
#define ABLATE_CLI_HELP_H

#include "clients/cli/commands.h"

ABL_BEGIN_DECLS

/* All commands, and the options that each of them takes. */
void abl_help_print(const abl_cli *cli, FILE *out);
/* One command and its options, on standard output. */
void abl_help_command(const abl_cli *cli, const abl_command *command);
/* A line for each command of a group ("models"). */
void abl_help_group(const abl_cli *cli, FILE *out, const char *group);
/* `ablate help [WORD]...`: the words may name a command or a group. Returns an exit code. */
int abl_help_run(const abl_cli *cli, int count, char **words);
/* Says that there is no such command, and what there is. Returns an exit code. */
int abl_help_unknown(const abl_cli *cli, int count, char **words);

ABL_END_DECLS
#endif
