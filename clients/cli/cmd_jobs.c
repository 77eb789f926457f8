/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_jobs.c -- `ablate jobs ...`: list, show, watch, cancel, and fetch the scores of jobs. */
#include "clients/cli/job_view.h"

#include <jansson.h>
#include <string.h>
#include <time.h>

static const char *state_name(Ablate__V1__JobState state, char *buffer, size_t size) {
    return abl_cli_enum_name(&ablate__v1__job_state__descriptor, (int)state, "JOB_STATE_", buffer,
                             size);
}

static void when(int64_t ms, char *buffer, size_t size) {
    time_t seconds = (time_t)(ms / 1000);
    struct tm local = {0};
    buffer[0] = '\0';
    if (ms > 0 && localtime_r(&seconds, &local) != NULL) {
        (void)strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &local);
    }
}

/* The time of today, the day of another day. */
static void short_when(int64_t ms, char *buffer, size_t size) {
    enum { DAY = 10 }; /* bytes of 2026-11-24 */
    char today[32];
    char full[32];
    when((int64_t)time(NULL) * 1000, today, sizeof today);
    when(ms, full, sizeof full);
    if (strncmp(full, today, DAY) == 0 && full[0] != '\0') {
        (void)snprintf(buffer, size, "%s", full + DAY + 1);
    } else {
        (void)snprintf(buffer, size, "%.*s", DAY, full);
    }
}

static void job_rows(abl_table *table, const ProtobufCMessage *page) {
    const Ablate__V1__ListJobsResponse *list = (const Ablate__V1__ListJobsResponse *)page;
    for (size_t i = 0; i < list->n_jobs; i++) {
        const Ablate__V1__Job *job = list->jobs[i];
        char state[32];
        char elapsed[24];
        char created[32];
        abl_text_duration(elapsed, sizeof elapsed, job->elapsed_ms);
        short_when(job->created_ms, created, sizeof created);
        abl_table_add(table, "%s", job->job_id);
        abl_table_add(table, "%s", abl_job_algorithm(job->spec));
        abl_table_add(table, "%s", state_name(job->state, state, sizeof state));
        abl_table_add(table, "%lld/%lld", (long long)job->done_units, (long long)job->total_units);
        abl_table_add(table, "%s", elapsed);
        abl_table_add(table, "%s", created);
        abl_table_add(table, "%s", job->owner);
        abl_table_add(table, "%s", job->spec == NULL ? "" : job->spec->graph_id);
    }
}

int abl_cmd_jobs_list(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("PruneService", "ListJobs", list_jobs);
    enum { TIME = 4 };
    static const abl_column columns[] = {
        {"id", false, false},   {"algorithm", false, false}, {"state", false, false},
        {"done", true, false},  {"time", true, false},       {"submitted", false, false},
        {"owner", false, true}, {"graph", false, true},
    };
    Ablate__V1__ListJobsRequest request = ABLATE__V1__LIST_JOBS_REQUEST__INIT;
    request.state = (Ablate__V1__JobState)cli->args->count[ABL_OPTION_STATE];
    return abl_cli_list_watched(cli, &method, &request.base, columns, ABL_COUNT_OF(columns),
                                job_rows, "no jobs; `ablate discover` starts one", 1U << TIME);
}

/* "epochs 20, seed 0, ...", in a row of their own. */
static void option_row(abl_table *table, const Ablate__V1__Provenance *provenance) {
    json_t *options = provenance == NULL ? NULL : json_loads(provenance->algorithm_json, 0, NULL);
    char text[2048] = "";
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(options, name, value) {
        size_t length = strlen(text);
        size_t room = sizeof text - length;
        const char *gap = length == 0 ? "" : ", ";
        if (strcmp(name, "algorithm") == 0) {
            continue; /* has a row */
        }
        if (json_is_number(value)) {
            (void)snprintf(text + length, room, "%s%s %.9g", gap, name, json_number_value(value));
        } else if (json_is_string(value)) {
            (void)snprintf(text + length, room, "%s%s %s", gap, name, json_string_value(value));
        } else if (json_is_array(value)) {
            (void)snprintf(text + length, room, "%s%s: %zu", gap, name, json_array_size(value));
        } else if (json_is_true(value)) {
            (void)snprintf(text + length, room, "%s%s", gap, name);
        }
    }
    if (text[0] != '\0') {
        abl_table_add(table, "options");
        abl_table_add(table, "%s", text);
    }
    json_decref(options);
}

static int show_job(const abl_cli *cli, const Ablate__V1__Job *job) {
    static const abl_column columns[] = {{"job", false, true}, {"", false, true}};
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    char text[64];
    const Ablate__V1__Provenance *provenance = job->provenance;
    abl_table_add(table, "id");
    abl_table_add(table, "%s", job->job_id);
    abl_table_add(table, "state");
    abl_table_add(table, "%s", state_name(job->state, text, sizeof text));
    abl_table_add(table, "algorithm");
    abl_table_add(table, "%s", abl_job_algorithm(job->spec));
    option_row(table, provenance);
    abl_table_add(table, "model");
    abl_table_add(table, "%s %s", job->model_id, provenance == NULL ? "" : provenance->model);
    abl_table_add(table, "graph");
    abl_table_add(table, "%s", job->spec == NULL ? "" : job->spec->graph_id);
    abl_table_add(table, "dataset");
    abl_table_add(table, "%s", job->spec == NULL ? "" : job->spec->dataset_id);
    abl_table_add(table, "done");
    abl_table_add(table, "%lld of %lld", (long long)job->done_units, (long long)job->total_units);
    abl_text_duration(text, sizeof text, job->elapsed_ms);
    abl_table_add(table, "time");
    abl_table_add(table, "%s", text);
    when(job->created_ms, text, sizeof text);
    abl_table_add(table, "submitted");
    abl_table_add(table, "%s", text);
    abl_table_add(table, "owner");
    abl_table_add(table, "%s", job->owner);
    abl_text_bytes(text, sizeof text, job->estimated_bytes);
    abl_table_add(table, "memory, at most");
    abl_table_add(table, "%s", text);
    if (job->error != NULL && job->error[0] != '\0') {
        abl_table_add(table, "error");
        abl_table_add(table, "%s", job->error);
    }
    abl_table_wrap(table);
    int code = abl_cli_print_table(cli, table);
    if (code == ABL_EXIT_OK && job->n_acdc > 0) {
        fputc('\n', stdout);
        code = abl_cli_print_taus(cli, job->acdc, job->n_acdc);
    }
    return code;
}

int abl_cmd_jobs_show(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("PruneService", "GetJob", get_job);
    Ablate__V1__GetJobRequest request = ABLATE__V1__GET_JOB_REQUEST__INIT;
    request.job_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    return show_job(cli, ((const Ablate__V1__GetJobResponse *)response)->job);
}

int abl_cmd_jobs_cancel(abl_cli *cli) {
    static const abl_rpc_method method = ABL_RPC("PruneService", "CancelJob", cancel_job);
    Ablate__V1__CancelJobRequest request = ABLATE__V1__CANCEL_JOB_REQUEST__INIT;
    request.job_id = cli->args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &method, &request.base, &code);
    if (response == NULL || cli->json) {
        return response == NULL ? code : abl_cli_print_json(cli, response);
    }
    const Ablate__V1__Job *job = ((const Ablate__V1__CancelJobResponse *)response)->job;
    char state[32];
    if (job->state == ABLATE__V1__JOB_STATE__JOB_STATE_QUEUED ||
        job->state == ABLATE__V1__JOB_STATE__JOB_STATE_RUNNING) {
        abl_cli_say(cli, "%s stops within one batch", job->job_id);
    } else {
        abl_cli_say(cli, "%s has ended: %s", job->job_id,
                    state_name(job->state, state, sizeof state));
    }
    return ABL_EXIT_OK;
}

/* --- Watching --------------------------------------------------------------------------------- */

int abl_cmd_jobs_watch(abl_cli *cli) {
    static const abl_rpc_method get = ABL_RPC("PruneService", "GetJob", get_job);
    const abl_args *args = cli->args;
    Ablate__V1__GetJobRequest asked = ABLATE__V1__GET_JOB_REQUEST__INIT;
    asked.job_id = args->operands[0];
    int code = ABL_EXIT_OK;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &get, &asked.base, &code);
    if (response == NULL) {
        return code;
    }
    const Ablate__V1__Job *job = ((const Ablate__V1__GetJobResponse *)response)->job;
    abl_job_view view;
    abl_job_view_init(&view, cli);
    abl_job_view_job(&view, job);
    view.state = job->state;
    view.elapsed_ms = job->elapsed_ms;
    view.sequence = args->count[ABL_OPTION_AFTER];
    abl_rpc_error error = {0};
    if (abl_job_view_watch(&view, false, &error) == ABL_CODE_OK) {
        code = abl_job_view_end(&view, 1000);
    } else {
        abl_progress_finish(&view.progress);
        code = abl_cli_failed(cli, &error);
        if (code == ABL_EXIT_INTERRUPTED) {
            abl_cli_say(cli, "%s goes on; `ablate jobs cancel %s` stops it", view.job_id,
                        view.job_id);
        }
    }
    abl_job_view_finish(&view);
    return code;
}
