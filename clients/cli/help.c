/* SPDX-License-Identifier: Apache-2.0 */
/* help.c -- see help.h. */
#include "clients/cli/help.h"

#include <ctype.h>
#include <string.h>

#define HEAD_WIDTH 28
#define WORD_MAX 16     /* bytes of a command's word */
#define WIDTH_NARROW 60 /* below, what a command does stands under its name, not beside it */

static void command_line(const abl_cli *cli, FILE *out, const abl_command *it) {
    const abl_term *term = out == stdout ? &cli->out : &cli->err;
    char line[256];
    char head[96];
    (void)snprintf(head, sizeof head, "%s%s%s", it->name, it->operands[0] == '\0' ? "" : " ",
                   it->operands);
    if (term->width != 0 && term->width < WIDTH_NARROW) {
        (void)snprintf(line, sizeof line, "  %s\n%s", head, it->summary);
        abl_text_wrap(out, term, 6, line);
        return;
    }
    (void)snprintf(line, sizeof line, "  %-*s%s", HEAD_WIDTH, head, it->summary);
    abl_text_wrap(out, term, HEAD_WIDTH + 2, line);
}

void abl_help_group(const abl_cli *cli, FILE *out, const char *group) {
    for (size_t i = 0; i < abl_command_count; i++) {
        if (group == NULL || abl_command_in_group(&abl_commands[i], group)) {
            command_line(cli, out, &abl_commands[i]);
        }
    }
}

void abl_help_print(const abl_cli *cli, FILE *out) {
    const abl_term *term = out == stdout ? &cli->out : &cli->err;
    abl_text_wrap(out, term, 7, "usage: ablate COMMAND [OPTION]...");
    abl_text_wrap(out, term, 0, "Finds the circuits of transformer models, on an ablated daemon.");
    fputc('\n', out);
    abl_help_group(cli, out, NULL);
    fputc('\n', out);
    abl_text_wrap(out, term, 0, "Every command that asks the daemon takes:");
    abl_options_help(out, term, ABL_TAKES_GLOBAL);
    fputc('\n', out);
    abl_text_wrap(out, term, 0,
                  "`ablate help COMMAND` has the rest. Exit codes: 0 done, 1 the server could "
                  "not, 2 wrong usage, 3 no server answers, 130 interrupted.");
}

void abl_help_command(const abl_cli *cli, const abl_command *it) {
    char line[256];
    (void)snprintf(line, sizeof line, "usage: ablate %s %s%s[OPTION]...", it->name, it->operands,
                   it->operands[0] == '\0' ? "" : " ");
    abl_text_wrap(stdout, &cli->out, 7, line);
    (void)snprintf(line, sizeof line, "\n%c%s.\n", toupper((unsigned char)it->summary[0]),
                   it->summary + 1);
    abl_text_wrap(stdout, &cli->out, 0, line);
    if (it->example[0] != '\0') {
        (void)snprintf(line, sizeof line, "Example: ablate %s %s", it->name, it->example);
        fputc('\n', stdout);
        abl_text_wrap(stdout, &cli->out, 9, line);
    }
    if ((it->takes & ~ABL_OFFLINE) != 0) {
        fputs("\nOptions:\n", stdout);
        abl_options_help(stdout, &cli->out, it->takes & ~ABL_OFFLINE);
    }
    fputs((it->takes & ABL_OFFLINE) != 0 ? "\nOptions:\n" : "\nOptions of every command:\n",
          stdout);
    abl_options_help(stdout, &cli->out, abl_command_takes(it) & ABL_TAKES_GLOBAL);
}

/* Letters to put in, take out or change to make one word of the other. */
static size_t distance(const char *left, const char *right) {
    size_t row[WORD_MAX + 1];
    size_t length = strlen(right);
    if (length > WORD_MAX) {
        return WORD_MAX;
    }
    for (size_t j = 0; j <= length; j++) {
        row[j] = j;
    }
    for (size_t i = 0; left[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < length; j++) {
            size_t change = diagonal + (left[i] != right[j]);
            diagonal = row[j + 1];
            size_t shorter = (diagonal < row[j] ? diagonal : row[j]) + 1;
            row[j + 1] = change < shorter ? change : shorter;
        }
    }
    return row[length];
}

/* The command's first word that is at most two letters away; NULL: none. */
static const char *nearest(const char *word, char *buffer, size_t size) {
    size_t best = 3;
    for (size_t i = 0; i < abl_command_count; i++) {
        char first[WORD_MAX + 1];
        (void)snprintf(first, sizeof first, "%.*s", (int)strcspn(abl_commands[i].name, " "),
                       abl_commands[i].name);
        size_t away = distance(word, first);
        if (away < best && away < strlen(first)) {
            best = away;
            (void)snprintf(buffer, size, "%s", first);
        }
    }
    return best < 3 ? buffer : NULL;
}

int abl_help_unknown(const abl_cli *cli, int count, char **words) {
    if (!abl_command_is_group(words[0])) {
        char buffer[WORD_MAX + 1];
        const char *meant = nearest(words[0], buffer, sizeof buffer);
        return meant == NULL
                   ? abl_cli_usage(cli, "there is no command '%s'; `ablate help` lists them",
                                   words[0])
                   : abl_cli_usage(cli,
                                   "there is no command '%s'; is '%s' meant? `ablate help` "
                                   "lists them all",
                                   words[0], meant);
    }
    int code = count > 1 ? abl_cli_usage(cli, "there is no command '%s %s'", words[0], words[1])
                         : abl_cli_usage(cli, "'%s' needs one more word", words[0]);
    abl_help_group(cli, stderr, words[0]);
    return code;
}

int abl_help_run(const abl_cli *cli, int count, char **words) {
    if (count == 0 || words[0][0] == '-') {
        abl_help_print(cli, stdout);
        return ABL_EXIT_OK;
    }
    if (count == 1 && abl_command_is_group(words[0])) {
        abl_help_group(cli, stdout, words[0]);
        return ABL_EXIT_OK;
    }
    int used = 0;
    const abl_command *command = abl_command_find(count, words, &used);
    if (command != NULL) {
        abl_help_command(cli, command);
        return ABL_EXIT_OK;
    }
    return abl_help_unknown(cli, count, words);
}
