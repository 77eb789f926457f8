/* SPDX-License-Identifier: Apache-2.0 */
/* options.c -- see options.h. A thin layer over getopt_long(): it builds the option list for one
 * command, and turns each argument into what its kind promises before a command sees it. */
#include "clients/cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { FLAG, TEXT, COUNT, NUMBER, CHOICE } kind;

typedef struct option_info {
    const char *name;
    char letter;
    kind kind;
    double ceiling;
    const char *argument;
    const char *help;
} option_info;

static const option_info options[] = {
#define X(id, name, letter, kind, ceiling, argument, help)                                         \
    {name, letter, kind, ceiling, argument, help},
    ABL_OPTION_MAP(X)
#undef X
};

_Static_assert(ABL_OPTION_COUNT <= 8 * sizeof(abl_option_set), "a set has a bit for each option");

#define VALUE_BASE 1000 /* getopt's value of option i is VALUE_BASE + i, so no letter collides */
#define HELP_INDENT 24
#define WIDTH_NARROW 60 /* below, the help stands under the option, not beside it */

static int find_letter(int letter) {
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        if (options[i].letter != 0 && options[i].letter == letter) {
            return i;
        }
    }
    return -1;
}

/* eap_ig is as good as eap-ig. */
static bool same_word(const char *choice, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (choice[i] != (text[i] == '_' ? '-' : text[i])) {
            return false;
        }
    }
    return true;
}

static bool parse_choice(abl_args *args, int i, const char *text) {
    const char *rest = options[i].argument;
    size_t length = strlen(text);
    for (int64_t place = 1; *rest != '\0'; place++) {
        size_t choice = strcspn(rest, "|");
        if (choice == length && same_word(rest, text, length)) {
            args->count[i] = place;
            return true;
        }
        rest += choice + (rest[choice] == '|' ? 1 : 0);
    }
    return false;
}

static bool parse_count(abl_args *args, int i, const char *text) {
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    args->count[i] = value;
    return end != text && *end == '\0' && errno == 0 && value >= 0 &&
           (double)value <= options[i].ceiling;
}

static bool parse_number(abl_args *args, int i, const char *text) {
    char *end = NULL;
    double value = strtod(text, &end);
    args->number[i] = value;
    return end != text && *end == '\0' && isfinite(value) && fabs(value) <= options[i].ceiling;
}

static bool parse_value(abl_args *args, int i, const char *text, char *problem, size_t size) {
    const option_info *option = &options[i];
    args->given[i] = true;
    args->text[i] = text;
    switch (option->kind) {
    case FLAG:
    case TEXT:
        return true;
    case COUNT:
        if (!parse_count(args, i, text)) {
            (void)snprintf(problem, size, "--%s takes a whole number from 0 to %.0f, not '%.64s'",
                           option->name, option->ceiling, text);
            return false;
        }
        return true;
    case NUMBER:
        if (!parse_number(args, i, text)) {
            (void)snprintf(problem, size, "--%s takes a number, not '%.64s'", option->name, text);
            return false;
        }
        return true;
    case CHOICE:
        if (!parse_choice(args, i, text)) {
            (void)snprintf(problem, size, "--%s takes %s, not '%.64s'", option->name,
                           option->argument, text);
            return false;
        }
        return true;
    }
    return false;
}

static void build(abl_option_set takes, struct option *list, char *letters) {
    size_t count = 0;
    *letters++ = ':';
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        if ((takes >> i & 1) == 0) {
            continue;
        }
        bool flag = options[i].kind == FLAG;
        list[count++] = (struct option){.name = options[i].name,
                                        .has_arg = flag ? no_argument : required_argument,
                                        .val = VALUE_BASE + i};
        if (options[i].letter != 0) {
            *letters++ = options[i].letter;
            if (!flag) {
                *letters++ = ':';
            }
        }
    }
    list[count] = (struct option){0};
    *letters = '\0';
}

bool abl_args_parse(abl_args *args, abl_option_set takes, int argc, char **argv, char *problem,
                    size_t problem_size) {
    struct option list[ABL_OPTION_COUNT + 1];
    char letters[2 * ABL_OPTION_COUNT + 3];
    build(takes, list, letters);
    memset(args, 0, sizeof *args);
    optind = 0; /* GNU: start afresh, so that a test may parse twice */
    opterr = 0;
    int value = 0;
    while ((value = getopt_long(argc, argv, letters, list, NULL)) != -1) {
        const char *word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
        if (value == '?') {
            (void)snprintf(problem, problem_size, "this command has no option '%.64s'", word);
            return false;
        }
        if (value == ':') {
            (void)snprintf(problem, problem_size, "'%.64s' needs a value", word);
            return false;
        }
        int i = value >= VALUE_BASE ? value - VALUE_BASE : find_letter(value);
        if (!parse_value(args, i, optarg, problem, problem_size)) {
            return false;
        }
    }
    args->operands = argv + optind;
    args->operand_count = argc - optind;
    return true;
}

int abl_args_leading(abl_option_set takes, int argc, char **argv) {
    struct option list[ABL_OPTION_COUNT + 1];
    char letters[2 * ABL_OPTION_COUNT + 3] = "+"; /* stop at the first word that is no option */
    build(takes, list, letters + 1);
    optind = 0;
    opterr = 0;
    int value = 0;
    int leading = 0;
    while ((value = getopt_long(argc, argv, letters, list, NULL)) != -1 && value != '?' &&
           value != ':') {
        leading = optind - 1;
    }
    return leading;
}

/* "a|b|c" as "a, b, c" */
static void spell_choices(char *out, size_t size, const char *choices) {
    size_t length = 0;
    for (; *choices != '\0' && length + 3 < size; choices++) {
        out[length++] = *choices == '|' ? ',' : *choices;
        if (*choices == '|') {
            out[length++] = ' ';
        }
    }
    out[length] = '\0';
}

/* Choices that do not fit beside their option follow its help. */
void abl_options_help(FILE *out, const abl_term *term, abl_option_set takes) {
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        if ((takes >> i & 1) == 0) {
            continue;
        }
        const option_info *option = &options[i];
        char head[160];
        char line[512];
        char choices[192] = "";
        char letter[] = {'-', option->letter, ',', ' ', '\0'};
        const char *gap = option->argument[0] == '\0' ? "" : " ";
        int width = snprintf(head, sizeof head, "  %s--%s%s%s", letter[1] != '\0' ? letter : "    ",
                             option->name, gap, option->argument);
        if (option->kind == CHOICE && width >= HELP_INDENT) {
            spell_choices(choices, sizeof choices, option->argument);
            (void)snprintf(head, sizeof head, "  %s--%s NAME", letter[1] != '\0' ? letter : "    ",
                           option->name);
        }
        const bool narrow = term->width != 0 && term->width < WIDTH_NARROW;
        const bool beside = !narrow && strlen(head) < HELP_INDENT;
        (void)snprintf(line, sizeof line, "%-*s%s%s%s%s", beside ? HELP_INDENT : 0, head,
                       beside ? "" : "\n", option->help, choices[0] != '\0' ? ": " : "", choices);
        abl_text_wrap(out, term, narrow ? 8 : HELP_INDENT, line);
    }
}

abl_option_view abl_option_of(int option) {
    const option_info *it = &options[option];
    return (abl_option_view){.name = it->name,
                             .letter = it->letter,
                             .choice = it->kind == CHOICE,
                             .argument = it->argument,
                             .help = it->help};
}

bool abl_list_next(const char **list, char *item, size_t item_size) {
    if (*list == NULL || **list == '\0') {
        return false;
    }
    size_t length = strcspn(*list, ",");
    (void)snprintf(item, item_size, "%.*s", (int)length, *list);
    *list += length + ((*list)[length] == ',' ? 1 : 0);
    return true;
}
