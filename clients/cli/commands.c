/* SPDX-License-Identifier: Apache-2.0 */
/* commands.c -- see commands.h. */
#include "clients/cli/commands.h"

#include <string.h>

#define LOAD_OPTIONS (ABL_TAKES(MODE) | ABL_TAKES(DTYPE) | ABL_TAKES(DEVICE))
#define WATCH_OPTIONS (ABL_TAKES(WATCH) | ABL_TAKES(INTERVAL))
#define GRAPH_OPTIONS                                                                              \
    (ABL_TAKES(SIMPLE) | ABL_TAKES(MERGE_QKV) | ABL_TAKES(EXPAND_KV) | ABL_TAKES(SEQ_LEN))
#define TRAINING_OPTIONS                                                                           \
    (ABL_TAKES(EPOCHS) | ABL_TAKES(LEARNING_RATE) | ABL_TAKES(LAMBDA) | ABL_TAKES(MASK_FN) |       \
     ABL_TAKES(TARGET) | ABL_TAKES(TREE) | ABL_TAKES(AVOID) | ABL_TAKES(SIZES))
#define BATCH_OPTIONS                                                                              \
    (ABL_TAKES(ABLATION) | ABL_TAKES(ABLATION_ID) | ABL_TAKES(BATCH_SIZE) | ABL_TAKES(PROMPTS) |   \
     ABL_TAKES(TAIL))

const abl_command abl_commands[] = {
    {"models list", "", "list the resident models", 0, 0, abl_cmd_models_list, ""},
    {"models files", "", "list the models that can be loaded", 0, 0, abl_cmd_models_files, ""},
    {"models load", "NAME", "make a model resident", 1, LOAD_OPTIONS, abl_cmd_models_load,
     "smollm2-135m --mode tl"},
    {"models unload", "MODEL", "unload a model and free its memory", 1, 0, abl_cmd_models_unload,
     "smollm2-135m"},
    {"models show", "MODEL", "describe a resident model", 1,
     ABL_TAKES(HOOKS) | ABL_TAKES(PARAMETERS), abl_cmd_models_show, "smollm2-135m --hooks"},
    {"tokens", "TEXT", "show a text's tokens", 1, ABL_TAKES(MODEL) | ABL_TAKES(BOS), abl_cmd_tokens,
     "'When Mary and John' --model smollm2-135m"},
    {"forward", "PROMPT", "show the likeliest next tokens", 1,
     ABL_TAKES(MODEL) | ABL_TAKES(BOS) | ABL_TAKES(TOP) | ABL_TAKES(GRAPH) | ABL_TAKES(CORRUPT) |
         ABL_TAKES(ABLATION) | ABL_TAKES(ABLATION_ID) | ABL_TAKES(INTERVENE),
     abl_cmd_forward, "'The Eiffel Tower is in' --top 5"},
    {"graph create", "", "make a graph over a resident model", 0,
     ABL_TAKES(MODEL) | GRAPH_OPTIONS | ABL_TAKES(IDLE_TIMEOUT), abl_cmd_graph_create,
     "--model smollm2-135m --merge-qkv"},
    {"graph list", "", "list the graphs", 0, ABL_TAKES(MODEL), abl_cmd_graph_list, ""},
    {"graph show", "GRAPH", "describe a graph and its mask's tensors", 1, 0, abl_cmd_graph_show,
     ""},
    {"graph delete", "GRAPH", "delete a graph", 1, 0, abl_cmd_graph_delete, ""},
    {"graph edges", "GRAPH", "list the edges of a graph", 1,
     ABL_TAKES(FROM) | ABL_TAKES(TO) | ABL_TAKES(POSITION) | ABL_TAKES(DIALECT) | ABL_TAKES(TOP),
     abl_cmd_graph_edges, "GRAPH --from A9.1 --to 'MLP 12'"},
    {"dataset upload", "FILE", "keep a dataset on the server", 1, ABL_TAKES(NAME),
     abl_cmd_dataset_upload, "ioi.json --name ioi"},
    {"dataset list", "", "list the datasets", 0, 0, abl_cmd_dataset_list, ""},
    {"dataset delete", "DATASET", "delete a dataset", 1, 0, abl_cmd_dataset_delete, ""},
    {"caches create", "PREFIX", "keep a shared prefix's keys and values", 1,
     ABL_TAKES(MODEL) | ABL_TAKES(BOS), abl_cmd_caches_create, "'A prefix that prompts share'"},
    {"caches list", "", "list the KV caches", 0, ABL_TAKES(MODEL), abl_cmd_caches_list, ""},
    {"caches delete", "CACHE", "delete a KV cache", 1, 0, abl_cmd_caches_delete, ""},
    {"ablations create", "", "compute what ablated edges carry, and keep it", 0,
     ABL_TAKES(MODEL) | ABL_TAKES(DATASET) | ABL_TAKES(NAME) | ABL_TAKES(ABLATION) |
         ABL_TAKES(CLEAN) | ABL_TAKES(BOS) | ABL_TAKES(BATCH_SIZE) | ABL_TAKES(PROMPTS) |
         ABL_TAKES(TAIL),
     abl_cmd_ablations_create, "--dataset ioi.json"},
    {"ablations list", "", "list the resident ablations", 0, 0, abl_cmd_ablations_list, ""},
    {"ablations delete", "ABLATION", "delete a resident ablation", 1, 0, abl_cmd_ablations_delete,
     ""},
    {"discover", "", "find the edges that matter for a dataset", 0,
     ABL_TAKES(MODEL) | LOAD_OPTIONS | ABL_TAKES(GRAPH) | GRAPH_OPTIONS | ABL_TAKES(DATASET) |
         ABL_TAKES(NAME) | ABL_TAKES(BOS) | ABL_TAKES(ALGORITHM) | ABL_TAKES(METHOD) |
         ABL_TAKES(STEPS) | ABL_TAKES(IG) | ABL_TAKES(GRAD) | ABL_TAKES(ANSWER) |
         ABL_TAKES(MASK_VALUE) | ABL_TAKES(EDGES) | ABL_TAKES(TAU) | ABL_TAKES(SEED) |
         ABL_TAKES(INTERVENE) | BATCH_OPTIONS | ABL_TAKES(CLEAN) | ABL_TAKES(TOP) | ABL_TAKES(OUT) |
         TRAINING_OPTIONS,
     abl_cmd_discover, "--dataset ioi.json --algorithm eap-ig --out ioi.safetensors"},
    {"eval", "JOB", "measure how faithful a job's circuits are, by size", 1,
     ABL_TAKES(SIZES) | ABL_TAKES(METRICS) | ABL_TAKES(AREAS) | ABL_TAKES(SIGNED) |
         ABL_TAKES(PATCH) | ABL_TAKES(DATASET) | ABL_TAKES(INTERVENE) | BATCH_OPTIONS,
     abl_cmd_eval, "JOB --sizes 0,10,100,0.5,1.0 --areas"},
    {"export", "JOB", "save scores as safetensors, or as EAP-IG's graph JSON (.json)", 1,
     ABL_TAKES(OUT), abl_cmd_export, "JOB --out scores.safetensors"},
    {"import", "FILE", "turn a file of scores into a job on the server", 1,
     ABL_TAKES(MODEL) | LOAD_OPTIONS | ABL_TAKES(GRAPH) | GRAPH_OPTIONS | ABL_TAKES(BOS),
     abl_cmd_import, "scores.safetensors --model smollm2-135m"},
    {"diff", "JOB JOB", "compare two jobs' scores", 2, ABL_TAKES(ROC), abl_cmd_diff,
     "JOB JOB --roc 100"},
    {"jobs list", "", "list the jobs, newest first", 0, ABL_TAKES(STATE) | WATCH_OPTIONS,
     abl_cmd_jobs_list, "--state running --watch"},
    {"jobs show", "JOB", "describe a job", 1, 0, abl_cmd_jobs_show, ""},
    {"jobs watch", "JOB", "follow a job to its end", 1, ABL_TAKES(AFTER), abl_cmd_jobs_watch,
     "JOB"},
    {"jobs cancel", "JOB", "stop a job; its scores so far are kept", 1, 0, abl_cmd_jobs_cancel, ""},
    {"jobs scores", "JOB", "save a job's scores as safetensors", 1, ABL_TAKES(OUT), abl_cmd_export,
     "JOB --out scores.safetensors"},
    {"status", "", "describe the daemon and what is resident", 0, WATCH_OPTIONS, abl_cmd_status,
     ""},
    {"version", "", "print the versions of client and daemon", 0, 0, abl_cmd_version, ""},
    {"doctor", "", "check the set-up, and say what to do about what is wrong", 0, 0, abl_cmd_doctor,
     ""},
    {"completion", "SHELL", "print a completion script for bash, zsh or fish", 1, ABL_OFFLINE,
     abl_cmd_completion, "bash >> ~/.bashrc"},
    {"man", "", "print the manual page, for `man -l`", 0, ABL_OFFLINE, abl_cmd_man, "| man -l -"},
};

const size_t abl_command_count = ABL_COUNT_OF(abl_commands);

_Static_assert(ABL_OPTION_COUNT < 127, "the last bit is ABL_OFFLINE");

abl_option_set abl_command_takes(const abl_command *command) {
    bool offline = (command->takes & ABL_OFFLINE) != 0;
    return (command->takes & ~ABL_OFFLINE) | (offline ? ABL_TAKES(HELP) : ABL_TAKES_GLOBAL);
}

static bool is_word(const char *text, size_t length, const char *word) {
    return strlen(word) == length && strncmp(text, word, length) == 0;
}

const abl_command *abl_command_find(int count, char *const *words, int *ret_words) {
    for (size_t i = 0; count > 0 && i < abl_command_count; i++) {
        const char *name = abl_commands[i].name;
        size_t first = strcspn(name, " ");
        if (!is_word(name, first, words[0])) {
            continue;
        }
        bool alone = count == 1 || words[1][0] == '-';
        if (name[first] == '\0' || (alone && strcmp(name + first, " list") == 0)) {
            *ret_words = 1;
            return &abl_commands[i];
        }
        if (count > 1 && strcmp(name + first + 1, words[1]) == 0) {
            *ret_words = 2;
            return &abl_commands[i];
        }
    }
    return NULL;
}

bool abl_command_in_group(const abl_command *command, const char *group) {
    size_t length = strlen(group);
    return strncmp(command->name, group, length) == 0 && command->name[length] == ' ';
}

bool abl_command_is_group(const char *word) {
    for (size_t i = 0; i < abl_command_count; i++) {
        if (abl_command_in_group(&abl_commands[i], word)) {
            return true;
        }
    }
    return false;
}
