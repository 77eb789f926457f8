/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_man.c -- `ablate man`: the manual page, in man(7)'s macros, from the tables. The build writes
 * it to ablate.1. */
#include "clients/cli/commands.h"

#include <ctype.h>
#include <string.h>

/* Text in which troff sees no request and no escape; "-" is a minus, so that it can be copied. */
static void text(const char *words) {
    for (const char *at = words; *at != '\0'; at++) {
        if (*at == '\\') {
            fputs("\\e", stdout);
        } else if (*at == '-') {
            fputs("\\-", stdout);
        } else if (at == words && *at == '.') {
            fputs("\\&.", stdout);
        } else if (*at == '`' || *at == '\'') {
            fputs("\\(aq", stdout); /* one that a shell takes, not a typographer's */
        } else if (*at == '\n') {
            fputc(' ', stdout);
        } else {
            fputc(*at, stdout);
        }
    }
}

static void line(const char *words) {
    text(words);
    fputc('\n', stdout);
}

static void section(const char *title) {
    fprintf(stdout, ".SH %s\n", title);
}

static void print_option(int i) {
    abl_option_view option = abl_option_of(i);
    fputs(".TP\n", stdout);
    if (option.letter != 0) {
        fprintf(stdout, "\\fB\\-%c\\fR, ", option.letter);
    }
    fputs("\\fB\\-\\-", stdout);
    text(option.name);
    fputs("\\fR", stdout);
    if (option.argument[0] != '\0') {
        /* Choices may break where they are told apart. */
        fputs(" \\fI", stdout);
        for (const char *at = option.argument; *at != '\0'; at++) {
            char one[2] = {*at, '\0'};
            fputs(*at == '|' ? "|\\:" : "", stdout);
            if (*at != '|') {
                text(one);
            }
        }
        fputs("\\fR", stdout);
    }
    fputc('\n', stdout);
    line(option.help);
}

static void print_command(const abl_command *it) {
    fputs(".TP\n\\fBablate ", stdout);
    text(it->name);
    fputs("\\fR", stdout);
    if (it->operands[0] != '\0') {
        fprintf(stdout, " \\fI%s\\fR", it->operands);
    }
    fputc('\n', stdout);
    fputc(toupper((unsigned char)it->summary[0]), stdout);
    text(it->summary + 1);
    fputs(".\n", stdout);
    bool any = false;
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        if ((it->takes >> i & 1) != 0) {
            fputs(any ? ",\n\\-\\-" : "Takes\n\\-\\-", stdout);
            text(abl_option_of(i).name);
            any = true;
        }
    }
    fputs(any ? ".\n" : "", stdout);
}

static void environment(void) {
    static const char *const rows[][2] = {
        {"ABLATE_HOST",
         "Where the daemon listens, instead of 127.0.0.1:50051; https://HOST:PORT with TLS."},
        {"ABLATE_TLS_CA, ABLATE_CLIENT_CERT, ABLATE_CLIENT_KEY",
         "Files, as of --tls-ca, --client-cert and --client-key."},
        {"ABLATE_USER", "What lists of jobs and graphs call you, instead of USER@HOST."},
        {"ABLATE_TOKEN, ABLATE_TOKEN_FILE", "A bearer token, or a file with one."},
        {"COLUMNS", "The width of what is printed, instead of the terminal's."},
        {"NO_COLOR", "Not empty: no colours."},
    };
    section("ENVIRONMENT");
    for (size_t i = 0; i < ABL_COUNT_OF(rows); i++) {
        fprintf(stdout, ".TP\n\\fB%s\\fR\n", rows[i][0]);
        line(rows[i][1]);
    }
}

static void exit_codes(void) {
    static const char *const rows[][2] = {
        {"0", "Done."},
        {"1", "The server, or this machine, could not do it."},
        {"2", "The command line does not make sense."},
        {"3", "No server answers."},
        {"130", "Interrupted."},
    };
    section("EXIT STATUS");
    for (size_t i = 0; i < ABL_COUNT_OF(rows); i++) {
        fprintf(stdout, ".TP\n\\fB%s\\fR\n", rows[i][0]);
        line(rows[i][1]);
    }
}

int abl_cmd_man(abl_cli *cli) {
    fprintf(stdout, ".TH ABLATE 1 \"\" \"ablate %s\" \"Ablate\"\n.nh\n.ad l\n", ABLATE_VERSION);
    section("NAME");
    line("ablate - find the circuits of transformer models, on an ablated daemon");
    section("SYNOPSIS");
    fputs("\\fBablate\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]...\n", stdout);
    section("DESCRIPTION");
    line("A client of ablated, the daemon that keeps models resident and answers questions about "
         "their edges. Results go to standard output, words about them to standard error; with "
         "--json standard output holds one JSON document, or for streams one a line.");
    section("COMMANDS");
    for (size_t i = 0; i < abl_command_count; i++) {
        print_command(&abl_commands[i]);
    }
    section("OPTIONS");
    line("Every command that asks the daemon takes --host, --tls-ca, --client-cert, --client-key, "
         "--token-file, --json, --timeout and --help.");
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        print_option(i);
    }
    environment();
    exit_codes();
    section("EXAMPLES");
    fputs(".nf\n", stdout);
    for (size_t i = 0; i < abl_command_count; i++) {
        if (abl_commands[i].example[0] != '\0') {
            fputs("ablate ", stdout);
            text(abl_commands[i].name);
            fputc(' ', stdout);
            line(abl_commands[i].example);
        }
    }
    fputs(".fi\n", stdout);
    return fflush(stdout) == 0 ? ABL_EXIT_OK : abl_cli_error(cli, "cannot write the output");
}
