/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_doctor.c -- `ablate doctor`: what is there, what is missing, and what to do about it.
 *
 * A finding is ok, warn (it works, but not well) or fail (it does not work). What the daemon does
 * not tell of its machine is looked at where that is this one, which its address tells. */
#include "clients/cli/cli.h"

#include <stdarg.h>
#include <string.h>

#define PROTOCOL "ablate.v1"
#define MEMORY_LOW_BYTES (INT64_C(1) << 30)

typedef enum level { OK, WARN, FAIL } level;

static const char *const level_names[] = {"ok", "warn", "fail"};
static const char *const level_styles[] = {"32", "33", "31"};

typedef struct doctor {
    abl_cli *cli;
    json_t *checks; /* with --json */
    level worst;
} doctor;

static void find(doctor *it, level found, const char *what, const char *format, ...)
    ABL_PRINTF(4, 5);

static void find(doctor *it, level found, const char *what, const char *format, ...) {
    char words[1024];
    char line[1200];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    it->worst = found > it->worst ? found : it->worst;
    if (it->cli->json) {
        (void)json_array_append_new(it->checks,
                                    json_pack("{s:s, s:s, s:s}", "state", level_names[found],
                                              "what", what, "words", words));
        return;
    }
    (void)snprintf(line, sizeof line, "%-5s %-10s %s", level_names[found], what, words);
    ABL_CLEANUP(abl_freep) char *printable = abl_text_printable(line);
    const abl_term *term = &it->cli->out;
    if (found != OK) {
        abl_term_style(term, stdout, level_styles[found]);
    }
    abl_text_wrap(stdout, term, term->width != 0 && term->width < 60 ? 6 : 17,
                  printable == NULL ? "fail  out of memory" : printable);
    if (found != OK) {
        abl_term_reset(term, stdout);
    }
}

/* --- The daemon ------------------------------------------------------------------------------- */

static void check_versions(doctor *it, const Ablate__V1__GetServerInfoResponse *info) {
    if (strcmp(info->protocol, PROTOCOL) != 0) {
        find(it, FAIL, "protocol",
             "the daemon speaks %s and this client " PROTOCOL
             ": install the client that belongs to ablated %s",
             info->protocol, info->version);
    } else if (strcmp(info->version, ABLATE_VERSION) != 0) {
        find(it, WARN, "protocol",
             "both speak " PROTOCOL ", but the versions differ: what only the newer one has does "
             "not work");
    } else {
        find(it, OK, "protocol", PROTOCOL ", on both sides");
    }
    if (info->draining) {
        find(it, WARN, "state", "draining: new calls are refused; start another daemon");
    }
}

static void check_compute(doctor *it, const Ablate__V1__GetServerInfoResponse *info) {
    find(it, OK, "backend", "%s", info->backend);
    if (strstr(info->blas, "reference") != NULL) {
        find(it, WARN, "BLAS",
             "%s: products run many times slower than they could; install libopenblas0-pthread "
             "and start the daemon again",
             info->blas);
    } else {
        find(it, OK, "BLAS", "%s", info->blas);
    }
    for (size_t i = 0; i < info->n_devices; i++) {
        const Ablate__V1__DeviceInfo *device = info->devices[i];
        if (device->thread_count > 0) {
            find(it, OK, "device", "%s, %d threads", device->name, device->thread_count);
        } else {
            find(it, OK, "device", "%s", device->name);
        }
    }
}

static void check_resident(doctor *it, const Ablate__V1__GetServerInfoResponse *info) {
    const Ablate__V1__ResidentBytes *bytes = info->resident_bytes;
    char text[24];
    abl_text_bytes(text, sizeof text,
                   bytes == NULL ? 0
                                 : bytes->weights + bytes->graphs + bytes->datasets + bytes->jobs +
                                       bytes->kv_caches + bytes->activations + bytes->ablations);
    find(it, OK, "resident", "%d models, %d graphs, %d datasets, %d active jobs: %s",
         info->model_count, info->graph_count, info->dataset_count, info->active_job_count, text);
    if (info->http_address == NULL || info->http_address[0] == '\0') {
        find(it, WARN, "dashboard",
             "nowhere: the daemon was started with --http off, so browsers cannot reach it");
    } else {
        find(it, info->dashboard_built ? OK : WARN, "dashboard", "%s%s", info->http_address,
             info->dashboard_built
                 ? ""
                 : " has none, as it is not built: run `make dashboard` beside the daemon's build, "
                   "or start it with --web-root, the folder of a built one");
    }
}

static void check_memory(doctor *it, const Ablate__V1__GetServerInfoResponse *info) {
    char available[24];
    char total[24];
    char budget[24] = "";
    abl_text_bytes(available, sizeof available, info->memory_available_bytes);
    abl_text_bytes(total, sizeof total, info->memory_total_bytes);
    if (info->limits != NULL && info->limits->memory_budget_bytes > 0) {
        abl_text_bytes(budget, sizeof budget, info->limits->memory_budget_bytes);
    }
    if (info->memory_total_bytes == 0) {
        find(it, WARN, "memory", "the daemon cannot tell: its machine has no /proc/meminfo");
    } else if (info->memory_available_bytes < MEMORY_LOW_BYTES) {
        find(it, WARN, "memory",
             "%s of %s are free: unload models (`ablate models unload`), or load them in bfloat16",
             available, total);
    } else {
        find(it, OK, "memory", "%s of %s are free%s%s", available, total,
             budget[0] == '\0' ? "" : "; one request may take ", budget);
    }
}

typedef struct files {
    doctor *doctor;
    size_t usable;
    size_t broken;
    bool roots_seen; /* they are on every page */
} files;

static void check_root(doctor *it, const Ablate__V1__ModelRoot *root) {
    const char *what = root->hub_cache ? "hub cache" : "model root";
    if (root->problem[0] == '\0') {
        find(it, OK, what, "%s", root->path);
    } else if (root->hub_cache) {
        find(it, OK, what, "%s %s, so it holds no models", root->path, root->problem);
    } else {
        find(it, WARN, what, "%s %s: put it right, or start ablated with another --model-root",
             root->path, root->problem);
    }
}

static bool on_files(const ProtobufCMessage *message, void *user_data) {
    files *found = user_data;
    const Ablate__V1__ListModelFilesResponse *list =
        (const Ablate__V1__ListModelFilesResponse *)message;
    for (size_t i = 0; !found->roots_seen && i < list->n_roots; i++) {
        check_root(found->doctor, list->roots[i]);
    }
    if (!found->roots_seen && (list->n_roots == 0 || list->roots[0]->hub_cache)) {
        find(found->doctor, WARN, "model root",
             "none: start ablated with --model-root, a folder that holds model folders");
    }
    found->roots_seen = true;
    for (size_t i = 0; i < list->n_models; i++) {
        bool usable = list->models[i]->problem[0] == '\0';
        found->usable += usable;
        found->broken += !usable;
        if (!usable && found->broken <= 5) {
            find(found->doctor, WARN, "model", "%s cannot be loaded: %s", list->models[i]->name,
                 list->models[i]->problem);
        }
    }
    return true;
}

static void check_models(doctor *it) {
    static const abl_rpc_method method =
        ABL_RPC("ModelService", "ListModelFiles", list_model_files);
    Ablate__V1__ListModelFilesRequest request = ABLATE__V1__LIST_MODEL_FILES_REQUEST__INIT;
    files found = {.doctor = it};
    abl_rpc_error error = {0};
    if (abl_rpc_pages(it->cli->rpc, &method, &request.base, on_files, &found, &error) !=
        ABL_CODE_OK) {
        find(it, FAIL, "models", "cannot be listed: %s", error.message);
    } else if (found.usable == 0) {
        find(it, WARN, "models",
             "none that can be loaded: `python3 -m ablate.models fetch smollm2-135m` gets one");
    } else {
        find(it, OK, "models", "%zu can be loaded%s", found.usable,
             found.broken == 0 ? "" : ", others not");
    }
}

/* --- The machine ------------------------------------------------------------------------------ */

static bool is_local(const char *host) {
    static const char *const starts[] = {"127.", "localhost", "[::1]", "unix:"};
    const char *scheme = strstr(host, "://");
    host = scheme == NULL ? host : scheme + 3;
    for (size_t i = 0; i < ABL_COUNT_OF(starts); i++) {
        if (strncmp(host, starts[i], strlen(starts[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* The first line of a file; false: there is none. */
static bool read_line(const char *path, char *line, int size) {
    FILE *file = fopen(path, "re");
    bool found = file != NULL && fgets(line, size, file) != NULL;
    if (file != NULL) {
        (void)fclose(file);
    }
    return found;
}

static void check_machine(doctor *it) {
    char line[256];
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line)) {
        if (strstr(line, "[never]") != NULL) {
            find(it, WARN, "huge pages",
                 "switched off, which makes large products slower: as root, `echo madvise > "
                 "/sys/kernel/mm/transparent_hugepage/enabled`");
        } else {
            find(it, OK, "huge pages", "%s",
                 strstr(line, "[always]") != NULL ? "always" : "where they are asked for");
        }
    }
}

/* --- The command ------------------------------------------------------------------------------ */

static int end(doctor *it, int code) {
    if (it->cli->json) {
        json_t *document =
            json_pack("{s:s, s:o}", "state", level_names[it->worst], "checks", it->checks);
        int put = abl_cli_put_json(it->cli, document, false);
        return put != ABL_EXIT_OK ? put : code;
    }
    return code;
}

int abl_cmd_doctor(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("AdminService", "GetServerInfo", get_server_info);
    doctor it = {.cli = cli, .checks = cli->json ? json_array() : NULL};
    Ablate__V1__GetServerInfoRequest request = ABLATE__V1__GET_SERVER_INFO_REQUEST__INIT;
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
    abl_rpc_error error = {0};
    find(&it, OK, "client", "ablate %s", ABLATE_VERSION);
    if (abl_rpc_unary(cli->rpc, &method, &request.base, &response, &error) != ABL_CODE_OK) {
        find(&it, FAIL, "daemon", "%s", error.message);
        int code = error.unreachable ? ABL_EXIT_UNREACHABLE : ABL_EXIT_ERROR;
        return end(&it, abl_rpc_interrupted() ? ABL_EXIT_INTERRUPTED : code);
    }
    const Ablate__V1__GetServerInfoResponse *info =
        (const Ablate__V1__GetServerInfoResponse *)response;
    find(&it, OK, "daemon", "ablated %s at %s", info->version, abl_rpc_host(cli->rpc));
    check_versions(&it, info);
    check_compute(&it, info);
    check_memory(&it, info);
    check_models(&it);
    check_resident(&it, info);
    if (is_local(abl_rpc_host(cli->rpc))) {
        check_machine(&it);
    }
    return end(&it, it.worst == FAIL ? ABL_EXIT_ERROR : ABL_EXIT_OK);
}
