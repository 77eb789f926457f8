/* commands.h -- the one table of commands; parsing, help, the manual page and shell completion are
 * all made from it and from the table of options.
 *
 * THREADS    Any thread: nothing here changes.
 */
#ifndef ABLATE_CLI_COMMANDS_H
#define ABLATE_CLI_COMMANDS_H

#include "clients/cli/cli.h"

ABL_BEGIN_DECLS

/* Beside a command's options: it asks no daemon, so of ABL_TAKES_GLOBAL it takes only --help. */
#define ABL_OFFLINE ((abl_option_set)1 << 127)

typedef struct abl_command {
    const char *name;     /* one word, or two: a group's name and a verb */
    const char *operands; /* as the help shows them, and what completion goes by; "" for none */
    const char *summary;
    int operand_count;
    abl_option_set takes; /* beside ABL_TAKES_GLOBAL; or with ABL_OFFLINE */
    int (*run)(abl_cli *cli);
    const char *example; /* words behind the name, for the help and the manual; "" for none */
} abl_command;

extern const abl_command abl_commands[];
extern const size_t abl_command_count;

/* All options that a command takes. */
abl_option_set abl_command_takes(const abl_command *command);

/* The command that the first words name, and how many they are; NULL: none. A group with no verb
 * behind it is its `list`. */
const abl_command *abl_command_find(int count, char *const *words, int *ret_words);

/* "models load" is in the group "models". */
bool abl_command_in_group(const abl_command *command, const char *group);
bool abl_command_is_group(const char *word);

ABL_END_DECLS
#endif
