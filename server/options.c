/* SPDX-License-Identifier: Apache-2.0
 *
 * One table says each option once: its name, kind, field, bounds and help. The flag, the ABLATE_*
 * variable and the key of the configuration file all come from the row, so none can be forgotten.
 * Sources are applied weakest first (defaults, file, environment, flags), each through the same
 * setter; a list given by a stronger source replaces that of a weaker one. */
#include "server/options.h"

#include "core/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { KIND_TEXT, KIND_LIST, KIND_NUMBER, KIND_SWITCH } kind;

typedef struct row {
    const char *name;
    kind kind;
    size_t offset;
    const char *initial;
    int64_t low; /* numbers only */
    int64_t high;
    const char *value_name;
    const char *help;
} row;

#define FIELD(name) offsetof(abl_options, name)

static const row rows[] = {
    {"listen", KIND_TEXT, FIELD(listen), "127.0.0.1:50051", 0, 0, "HOST:PORT",
     "where gRPC listens; port 0 takes any free one"},
    {"http", KIND_TEXT, FIELD(http), "127.0.0.1:8080", 0, 0, "HOST:PORT",
     "where gRPC-web and /metrics listen; 'off': nowhere"},
    {"model-root", KIND_LIST, FIELD(model_roots), NULL, 0, 0, "DIR",
     "a folder that holds model folders; may be repeated"},
    {"origin", KIND_LIST, FIELD(origins), NULL, 0, 0, "URL",
     "a web page's origin that may call besides our own and localhost's; may be repeated"},
    {"web-root", KIND_TEXT, FIELD(web_root), "", 0, 0, "DIR",
     "the built dashboard, clients/web/dist; empty: the one of the daemon's own source tree"},
    {"device", KIND_TEXT, FIELD(device), "cpu", 0, 0, "NAME",
     "where models go unless a request says: cpu, cuda, cuda:1"},
    {"threads", KIND_NUMBER, FIELD(threads), "0", 0, 1024, "N",
     "compute threads on the CPU; 0: as many as cores"},
    {"memory-budget-mib", KIND_NUMBER, FIELD(memory_budget_mib), "0", 0, INT64_C(1) << 30, "MIB",
     "working memory that one request may take; 0: what is free on its device"},
    {"kv-cache-mib", KIND_NUMBER, FIELD(kv_cache_mib), "1024", 0, INT64_C(1) << 30, "MIB",
     "all KV caches together; those used longest ago make room"},
    {"jobs-max", KIND_NUMBER, FIELD(jobs_max), "256", 1, 4096, "N", "jobs that may wait or run"},
    {"drain-ms", KIND_NUMBER, FIELD(drain_ms), "10000", 0, 3600000, "MS",
     "after SIGTERM, calls that still run after this are cancelled"},
    {"state-dir", KIND_TEXT, FIELD(state_dir), "", 0, 0, "DIR",
     "where uploads are staged; empty: below TMPDIR"},
    {"ready-file", KIND_TEXT, FIELD(ready_file), "", 0, 0, "FILE",
     "written once the daemon serves: {\"grpc\": ADDRESS, \"http\": ADDRESS, \"pid\": N}"},
    {"log-level", KIND_TEXT, FIELD(log_level), "info", 0, 0, "LEVEL", "debug, info, warn, error"},
    {"tls-cert", KIND_TEXT, FIELD(tls_cert), "", 0, 0, "FILE",
     "serve both ports over TLS only, with this certificate (PEM, its chain behind it)"},
    {"tls-key", KIND_TEXT, FIELD(tls_key), "", 0, 0, "FILE", "the certificate's private key (PEM)"},
    {"tls-client-ca", KIND_TEXT, FIELD(tls_client_ca), "", 0, 0, "FILE",
     "clients need a certificate that one of these signed (PEM); then any address may be served"},
    {"insecure-bind-any", KIND_SWITCH, FIELD(insecure_bind_any), "false", 0, 0, NULL,
     "serve addresses that other machines reach, without authentication"},
};

#define ROW_COUNT (sizeof rows / sizeof rows[0])

static void *field(abl_options *options, const row *option) {
    return (char *)options + option->offset;
}

static const void *field_of(const abl_options *options, const row *option) {
    return (const char *)options + option->offset;
}

static void list_clear(abl_option_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        abl_free(list->items[i]);
    }
    list->count = 0;
}

static abl_code list_add(abl_option_list *list, const row *option, const char *text, size_t length,
                         abl_status *ret_status) {
    if (list->count == ABL_OPTION_LIST_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                        "%s: at most %d of them", option->name, ABL_OPTION_LIST_MAX);
    }
    char *item = abl_strndup(text, length);
    if (item == NULL) {
        return abl_fail_oom(ret_status);
    }
    list->items[list->count++] = item;
    return ABL_CODE_OK;
}

/* One value, as text, whatever source it comes from. */
static abl_code set(abl_options *options, const row *option, const char *text,
                    abl_status *ret_status) {
    switch (option->kind) {
    case KIND_TEXT: {
        char *copy = abl_strdup(text);
        if (copy == NULL) {
            return abl_fail_oom(ret_status);
        }
        char **value = field(options, option);
        abl_free(*value);
        *value = copy;
        return ABL_CODE_OK;
    }
    case KIND_LIST:
        return list_add(field(options, option), option, text, strlen(text), ret_status);
    case KIND_NUMBER: {
        char *end = NULL;
        errno = 0;
        long long number = strtoll(text, &end, 10);
        if (errno != 0 || end == text || *end != '\0' || number < option->low ||
            number > option->high) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                            "%s: '%.64s' is not a whole number from %" PRId64 " to %" PRId64,
                            option->name, text, option->low, option->high);
        }
        *(int64_t *)field(options, option) = number;
        return ABL_CODE_OK;
    }
    case KIND_SWITCH:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                            "%s: '%.64s' is not true or false", option->name, text);
        }
        *(bool *)field(options, option) = strcmp(text, "true") == 0;
        return ABL_CODE_OK;
    }
    return ABL_CODE_OK;
}

static abl_code apply_defaults(abl_options *options, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (size_t i = 0; i < ROW_COUNT && code == ABL_CODE_OK; i++) {
        if (rows[i].initial != NULL) {
            code = set(options, &rows[i], rows[i].initial, ret_status);
        }
    }
    return code;
}

static const row *find_row(const char *name) {
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return &rows[i];
        }
    }
    return NULL;
}

static abl_code apply_json(abl_options *options, const row *option, json_t *value,
                           abl_status *ret_status) {
    char number[32];
    if (option->kind == KIND_LIST && json_is_array(value)) {
        list_clear(field(options, option));
        size_t i = 0;
        json_t *item = NULL;
        abl_code code = ABL_CODE_OK;
        json_array_foreach(value, i, item) {
            if (code == ABL_CODE_OK) {
                code = json_is_string(item)
                           ? set(options, option, json_string_value(item), ret_status)
                           : abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                                      "%s[%zu]: not a string", option->name, i);
            }
        }
        return code;
    }
    if (option->kind == KIND_TEXT && json_is_string(value)) {
        return set(options, option, json_string_value(value), ret_status);
    }
    if (option->kind == KIND_NUMBER && json_is_integer(value)) {
        (void)snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return set(options, option, number, ret_status);
    }
    if (option->kind == KIND_SWITCH && json_is_boolean(value)) {
        return set(options, option, json_is_true(value) ? "true" : "false", ret_status);
    }
    static const char *const wanted[] = {"a string", "a list of strings", "a whole number",
                                         "true or false"};
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID", "%s: must be %s",
                    option->name, wanted[option->kind]);
}

static abl_code apply_file(abl_options *options, const char *path, abl_status *ret_status) {
    json_error_t error;
    ABL_CLEANUP(json_decrefp) json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        bool missing = json_error_code(&error) == json_error_cannot_open_file;
        return abl_fail(ret_status, missing ? ABL_CODE_NOT_FOUND : ABL_CODE_INVALID_ARGUMENT,
                        missing ? "CONFIG_MISSING" : "CONFIG_MALFORMED", "%s:%d: %s", path,
                        error.line, error.text);
    }
    if (!json_is_object(root)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CONFIG_MALFORMED",
                        "%s: must be an object of option names and values", path);
    }
    abl_code code = ABL_CODE_OK;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(root, key, value) {
        const row *option = find_row(key);
        if (option == NULL) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_UNKNOWN",
                            "%s: there is no option '%.64s'; `ablated --help` lists them", path,
                            key);
        }
        code = apply_json(options, option, value, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    return code;
}

static abl_code apply_environment(abl_options *options, abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    for (size_t i = 0; i < ROW_COUNT && code == ABL_CODE_OK; i++) {
        char name[64] = "ABLATE_";
        size_t length = strlen(name);
        for (const char *c = rows[i].name; *c != '\0'; c++) {
            name[length++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        }
        name[length] = '\0';
        const char *text = getenv(name);
        if (text == NULL) {
            continue;
        }
        if (rows[i].kind != KIND_LIST) {
            code = set(options, &rows[i], text, ret_status);
            continue;
        }
        abl_option_list *list = field(options, &rows[i]);
        list_clear(list); /* items are separated by commas: URLs and paths have colons */
        while (*text != '\0' && code == ABL_CODE_OK) {
            size_t item = strcspn(text, ",");
            code = list_add(list, &rows[i], text, item, ret_status);
            text += item + (text[item] == ',');
        }
    }
    return code;
}

/* getopt's table: ours, then --config, --help, --version; `val` is the index. */
enum { OPTION_CONFIG = 1000, OPTION_HELP, OPTION_VERSION };

static void getopt_table(struct option *table) {
    for (size_t i = 0; i < ROW_COUNT; i++) {
        int argument = rows[i].kind == KIND_SWITCH ? no_argument : required_argument;
        table[i] = (struct option){rows[i].name, argument, NULL, (int)i};
    }
    table[ROW_COUNT] = (struct option){"config", required_argument, NULL, OPTION_CONFIG};
    table[ROW_COUNT + 1] = (struct option){"help", no_argument, NULL, OPTION_HELP};
    table[ROW_COUNT + 2] = (struct option){"version", no_argument, NULL, OPTION_VERSION};
    table[ROW_COUNT + 3] = (struct option){0};
}

/* Walks the flags once to find --config and the commands (options NULL), once to apply them. */
static abl_code walk_flags(int argc, char **argv, abl_options *options, const char **ret_config,
                           abl_command *ret_command, abl_status *ret_status) {
    struct option table[ROW_COUNT + 4];
    getopt_table(table);
    bool list_seen[ROW_COUNT] = {false};
    abl_code code = ABL_CODE_OK;
    optind = 0; /* start anew */
    opterr = 0;
    for (int found = 0; code == ABL_CODE_OK;) {
        found = getopt_long(argc, argv, ":", table, NULL);
        if (found == -1) {
            return ABL_CODE_OK;
        }
        if (found == '?' || found == ':') {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_UNKNOWN",
                            "%.100s: %s; `ablated --help` lists the options", argv[optind - 1],
                            found == '?' ? "no such option" : "needs a value");
        }
        if (found == OPTION_CONFIG) {
            *ret_config = optarg;
        } else if (found == OPTION_HELP || found == OPTION_VERSION) {
            *ret_command = found == OPTION_HELP ? ABL_COMMAND_HELP : ABL_COMMAND_VERSION;
        } else if (options != NULL) {
            const row *option = &rows[found];
            if (option->kind == KIND_LIST && !list_seen[found]) {
                list_clear(field(options, option));
                list_seen[found] = true;
            }
            code = set(options, option, option->kind == KIND_SWITCH ? "true" : optarg, ret_status);
        }
    }
    return code;
}

static abl_code parse_command(int argc, char **argv, abl_command *ret_command,
                              abl_status *ret_status) {
    static const struct {
        const char *name;
        abl_command command;
    } commands[] = {{"serve", ABL_COMMAND_SERVE},
                    {"check-config", ABL_COMMAND_CHECK_CONFIG},
                    {"version", ABL_COMMAND_VERSION},
                    {"help", ABL_COMMAND_HELP}};
    if (optind >= argc) {
        return ABL_CODE_OK;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(commands) && optind + 1 == argc; i++) {
        if (strcmp(argv[optind], commands[i].name) == 0) {
            *ret_command = commands[i].command;
            return ABL_CODE_OK;
        }
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_UNKNOWN",
                    "%.100s: not a command; there are serve, check-config, version, help",
                    argv[optind]);
}

abl_code abl_options_init(int argc, char **argv, abl_options *ret_options, abl_command *ret_command,
                          abl_status *ret_status) {
    abl_options options = {0};
    abl_command command = ABL_COMMAND_SERVE;
    const char *config = getenv("ABLATE_CONFIG");
    abl_code code = walk_flags(argc, argv, NULL, &config, &command, ret_status);
    if (code == ABL_CODE_OK) {
        code = parse_command(argc, argv, &command, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = apply_defaults(&options, ret_status);
    }
    if (code == ABL_CODE_OK && config != NULL && config[0] != '\0') {
        code = apply_file(&options, config, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = apply_environment(&options, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = walk_flags(argc, argv, &options, &config, &command, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_options_finish(&options);
        return code;
    }
    *ret_options = options;
    *ret_command = command;
    return ABL_CODE_OK;
}

void abl_options_finish(abl_options *options) {
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (rows[i].kind == KIND_TEXT) {
            abl_freep(field(options, &rows[i]));
        } else if (rows[i].kind == KIND_LIST) {
            list_clear(field(options, &rows[i]));
        }
    }
}

void abl_options_print_help(FILE *file) {
    (void)fputs(
        "Usage: ablated [serve|check-config|version] [--config FILE] [OPTION]...\n\n"
        "The Ablate daemon. Each option is also a variable (--model-root: ABLATE_MODEL_ROOT,\n"
        "lists separated by commas) and a key of the JSON configuration file; a flag wins\n"
        "over a variable, a variable over the file.\n\n",
        file);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char flag[64];
        (void)snprintf(flag, sizeof flag, "--%s%s%s", rows[i].name,
                       rows[i].value_name == NULL ? "" : " ",
                       rows[i].value_name == NULL ? "" : rows[i].value_name);
        (void)fprintf(file, "  %-26s %s", flag, rows[i].help);
        if (rows[i].value_name != NULL && rows[i].initial != NULL && rows[i].initial[0] != '\0') {
            (void)fprintf(file, " [%s]", rows[i].initial);
        }
        (void)fputc('\n', file);
    }
}

void abl_options_print(const abl_options *options, FILE *file) {
    ABL_CLEANUP(json_decrefp) json_t *root = json_object();
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const void *value = field_of(options, &rows[i]);
        json_t *json = NULL;
        if (rows[i].kind == KIND_TEXT) {
            json = json_string(*(char *const *)value);
        } else if (rows[i].kind == KIND_NUMBER) {
            json = json_integer(*(const int64_t *)value);
        } else if (rows[i].kind == KIND_SWITCH) {
            json = json_boolean(*(const bool *)value);
        } else {
            const abl_option_list *list = value;
            json = json_array();
            for (size_t k = 0; k < list->count; k++) {
                (void)json_array_append_new(json, json_string(list->items[k]));
            }
        }
        (void)json_object_set_new(root, rows[i].name, json);
    }
    (void)json_dumpf(root, file, JSON_INDENT(2));
    (void)fputc('\n', file);
}

static bool is_loopback(const char *address) {
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 ||
           strncmp(address, "localhost:", 10) == 0;
}

abl_code abl_options_check_bind(const abl_options *options, abl_status *ret_status) {
    const char *const addresses[] = {options->listen, options->http};
    for (size_t i = 0; i < ABL_COUNT_OF(addresses); i++) {
        bool off = i == 1 && strcmp(addresses[i], "off") == 0;
        bool asks = options->tls_cert[0] != '\0' && options->tls_client_ca[0] != '\0';
        if (!off && strchr(addresses[i], ':') == NULL) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                            "%s: '%.80s' is no HOST:PORT", i == 0 ? "listen" : "http",
                            addresses[i]);
        }
        if (!off && !is_loopback(addresses[i]) && !asks && !options->insecure_bind_any) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BIND_NOT_LOOPBACK",
                            "%s: others could reach %.80s, and nothing asks who they are; use "
                            "TLS with --tls-client-ca, a loopback address and a tunnel, or say "
                            "--insecure-bind-any",
                            i == 0 ? "listen" : "http", addresses[i]);
        }
    }
    return ABL_CODE_OK;
}
