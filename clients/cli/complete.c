/* SPDX-License-Identifier: Apache-2.0 */
/* complete.c -- see complete.h.
 *
 * What an option's argument or an operand is called in the tables says what may stand there: MODEL
 * is a resident model's id, FILE a file. Listings become JSON by their descriptors, so one function
 * takes the ids out of all of them. */
#include "clients/cli/complete.h"

#include "ablate/v1/cache.pb-c.h"

#include <string.h>

#define WORD_COUNT_MAX 256
#define DEADLINE_MS 300 /* a person waits for a key's effect */

typedef struct completion {
    FILE *out;
    const char *current; /* what is typed of the word */
    const char *prefix;  /* "--model=" where the shell sees one word; "" else */
    int prefix_length;
    const abl_args *args; /* of what stands before */
} completion;

static void offer(const completion *it, const char *word, size_t length, const char *what) {
    size_t typed = strlen(it->current);
    if (length == 0 || typed > length || strncmp(word, it->current, typed) != 0) {
        return;
    }
    ABL_CLEANUP(abl_freep) char *printable = abl_text_printable(what);
    fprintf(it->out, "%.*s%.*s\t%s\n", it->prefix_length, it->prefix, (int)length, word,
            printable == NULL ? "" : printable);
}

static void offer_choices(const completion *it, const char *choices) {
    while (*choices != '\0') {
        size_t length = strcspn(choices, "|");
        offer(it, choices, length, "");
        choices += length + (choices[length] == '|' ? 1 : 0);
    }
}

/* --- Ids -------------------------------------------------------------------------------------- */

#define LISTING(service, method, snake)                                                            \
    ABL_RPC(service, method, snake), &ablate__v1__##snake##_request__descriptor

static const struct {
    const char *kind; /* what the tables call it */
    abl_rpc_method method;
    const ProtobufCMessageDescriptor *request;
    const char *id;
    const char *what; /* the field that says more of it */
} listings[] = {
    {"MODEL", LISTING("ModelService", "ListModels", list_models), "model_id", "name"},
    {"NAME", LISTING("ModelService", "ListModelFiles", list_model_files), "name", "family"},
    {"GRAPH", LISTING("GraphService", "ListGraphs", list_graphs), "graph_id", "model_id"},
    {"DATASET", LISTING("DatasetService", "ListDatasets", list_datasets), "dataset_id", "name"},
    {"FILE|ID", LISTING("DatasetService", "ListDatasets", list_datasets), "dataset_id", "name"},
    {"JOB", LISTING("PruneService", "ListJobs", list_jobs), "job_id", "state"},
    {"CACHE", LISTING("CacheService", "ListKvCaches", list_kv_caches), "kv_cache_id", "model_id"},
    {"ABLATION", LISTING("CacheService", "ListAblations", list_ablations), "ablation_id", "name"},
};

static void offer_items(const completion *it, json_t *document, const char *id, const char *what) {
    const char *key = NULL;
    json_t *list = NULL;
    json_object_foreach(document, key, list) {
        size_t i = 0;
        json_t *item = NULL;
        json_array_foreach(list, i, item) {
            const char *word = json_string_value(json_object_get(item, id));
            const char *more = json_string_value(json_object_get(item, what));
            if (word != NULL) {
                offer(it, word, strlen(word), more == NULL ? "" : more);
            }
        }
    }
}

/* The first page is enough: nobody picks from more by completion. */
static void offer_ids(const completion *it, size_t listing) {
    abl_rpc *rpc = NULL;
    abl_rpc_error error = {0};
    ABL_CLEANUP(abl_freep) void *memory = abl_malloc(listings[listing].request->sizeof_message);
    if (memory == NULL || abl_cli_connect(it->args, DEADLINE_MS, &rpc, &error) != ABL_CODE_OK) {
        return;
    }
    protobuf_c_message_init(listings[listing].request, memory);
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
    if (abl_rpc_unary(rpc, &listings[listing].method, memory, &response, &error) == ABL_CODE_OK) {
        json_t *document = abl_json_of(response);
        if (document != NULL) {
            offer_items(it, document, listings[listing].id, listings[listing].what);
        }
        json_decref(document);
    }
    abl_rpc_destroy(rpc);
}

/* What may stand for an operand or an argument of this name. */
static void offer_kind(const completion *it, const char *kind, bool operand) {
    if (strcmp(kind, "SHELL") == 0) {
        offer_choices(it, "bash|zsh|fish");
    }
    if (strcmp(kind, "FILE") == 0 || strcmp(kind, "FILE|ID") == 0) {
        fputs(":files\n", it->out);
    }
    for (size_t i = 0; i < ABL_COUNT_OF(listings); i++) {
        /* The NAME that --name takes is one to be made up. */
        if (strcmp(listings[i].kind, kind) == 0 && (operand || strcmp(kind, "NAME") != 0)) {
            offer_ids(it, i);
            return;
        }
    }
}

/* --- Where the word stands -------------------------------------------------------------------- */

/* The option of a set that a word is, without its value; -1: none. */
static int option_of(abl_option_set takes, const char *word) {
    size_t length = strcspn(word, "=");
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        abl_option_view option = abl_option_of(i);
        bool is_name = length > 2 && strncmp(word, "--", 2) == 0 &&
                       strlen(option.name) == length - 2 &&
                       strncmp(option.name, word + 2, length - 2) == 0;
        bool is_letter =
            option.letter != 0 && word[0] == '-' && word[1] == option.letter && word[2] == '\0';
        if ((takes >> i & 1) != 0 && (is_name || is_letter)) {
            return i;
        }
    }
    return -1;
}

static void offer_value(const completion *it, int option) {
    abl_option_view view = abl_option_of(option);
    if (view.choice) {
        offer_choices(it, view.argument);
    } else {
        offer_kind(it, view.argument, false);
    }
}

static void offer_options(const completion *it, abl_option_set takes) {
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        if ((takes >> i & 1) != 0 && !it->args->given[i]) {
            char word[64];
            abl_option_view option = abl_option_of(i);
            (void)snprintf(word, sizeof word, "--%s", option.name);
            offer(it, word, strlen(word), option.help);
        }
    }
}

/* The n-th word of "JOB JOB"; false: there are fewer. */
static bool operand_kind(const char *operands, int n, char *kind, size_t size) {
    for (; n > 0 && *operands != '\0'; n--) {
        operands += strcspn(operands, " ");
        operands += strspn(operands, " ");
    }
    (void)snprintf(kind, size, "%.*s", (int)strcspn(operands, " "), operands);
    return kind[0] != '\0';
}

static void offer_for_command(completion *it, const abl_command *command, const char *previous) {
    abl_option_set takes = abl_command_takes(command);
    int option = option_of(takes, previous);
    bool wants_value =
        option >= 0 && abl_option_of(option).argument[0] != '\0' && strchr(previous, '=') == NULL;
    const char *equals = strchr(it->current, '=');
    char kind[32];
    if (wants_value) {
        offer_value(it, option);
    } else if (strncmp(it->current, "--", 2) == 0 && equals != NULL) {
        option = option_of(takes, it->current);
        it->prefix = it->current;
        it->prefix_length = (int)(equals + 1 - it->current);
        it->current = equals + 1;
        if (option >= 0) {
            offer_value(it, option);
        }
    } else if (it->current[0] == '-') {
        offer_options(it, takes);
    } else if (operand_kind(command->operands, it->args->operand_count, kind, sizeof kind)) {
        offer_kind(it, kind, true);
    }
}

/* The first words of commands, each once, or the second ones of a group's. */
static void offer_commands(const completion *it, const char *group) {
    for (size_t i = 0; i < abl_command_count; i++) {
        const char *name = abl_commands[i].name;
        size_t first = strcspn(name, " ");
        if (group != NULL && abl_command_in_group(&abl_commands[i], group)) {
            offer(it, name + first + 1, strlen(name) - first - 1, abl_commands[i].summary);
        }
        bool again = i > 0 && strncmp(abl_commands[i - 1].name, name, first) == 0 &&
                     abl_commands[i - 1].name[first] == name[first];
        if (group == NULL && !again) {
            offer(it, name, first, name[first] == '\0' ? abl_commands[i].summary : "");
        }
    }
    if (group == NULL) {
        offer(it, "help", strlen("help"), "describe a command");
    }
}

/* bash takes "--model=x" apart at the "=": those words are "--model" "=" "x". */
static int drop_equals(int count, char **words) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
        bool equals = strcmp(words[i], "=") == 0 && i > 0 && words[i - 1][0] == '-';
        if (equals && i + 1 == count) {
            static char empty[1];
            words[kept++] = empty;
        } else if (!equals) {
            words[kept++] = words[i];
        }
    }
    return kept;
}

int abl_complete(FILE *out, int count, char **words) {
    if (count < 1 || count > WORD_COUNT_MAX) {
        return ABL_EXIT_OK;
    }
    count = drop_equals(count, words);
    static char name[] = "ablate";
    char *line[WORD_COUNT_MAX + 2] = {name}; /* as main() would see what stands before */
    int length = 1;
    for (int i = 0; i + 1 < count; i++) {
        line[length++] = words[i];
    }
    abl_args args = {0};
    char problem[512];
    completion it = {.out = out, .current = words[count - 1], .prefix = "", .args = &args};
    const char *previous = count > 1 ? words[count - 2] : "";
    int leading = abl_args_leading(ABL_TAKES_GLOBAL, length, line);
    int behind = length - 1 - leading;
    if (behind > 0 && strcmp(line[leading + 1], "help") == 0) {
        offer_commands(&it, behind > 1 ? line[leading + 2] : NULL);
        return ABL_EXIT_OK;
    }
    int used = 0;
    const abl_command *command = abl_command_find(behind, line + leading + 1, &used);
    if (behind == 1 && it.current[0] != '-' && abl_command_is_group(line[leading + 1])) {
        offer_commands(&it, line[leading + 1]);
    } else if (command != NULL) {
        memmove(line + leading + 1, line + leading + 1 + used,
                (size_t)(behind - used) * sizeof *line);
        if (!abl_args_parse(&args, abl_command_takes(command), length - used, line, problem,
                            sizeof problem)) {
            args.operand_count = 0; /* what is wrong there is told when the line is run */
        }
        offer_for_command(&it, command, previous);
    } else if (behind > 0) {
        offer_commands(&it, line[leading + 1]);
    } else if (it.current[0] == '-') {
        offer_options(&it, ABL_TAKES_GLOBAL);
    } else {
        offer_commands(&it, NULL);
    }
    return ABL_EXIT_OK;
}
