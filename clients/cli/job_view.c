/* SPDX-License-Identifier: Apache-2.0 */
/* job_view.c -- see job_view.h. `discover` and `jobs watch` show the same events; only where these
 * come from differs. */
#include "clients/cli/job_view.h"

#include <math.h>
#include <string.h>

#define TAIL_EDGES_MAX 4
#define LOSSES_MAX 5 /* tries to come back, over 6 seconds */

void abl_job_view_init(abl_job_view *view, const abl_cli *cli) {
    *view = (abl_job_view){.cli = cli};
    abl_progress_init(&view->progress, stderr, cli->json);
}

void abl_job_view_finish(abl_job_view *view) {
    abl_progress_finish(&view->progress);
    if (view->last != NULL) {
        abl_rpc_free(&view->last->base);
    }
}

const char *abl_job_algorithm(const Ablate__V1__PruneJobSpec *spec) {
    if (spec == NULL) {
        return "";
    }
    switch (spec->algorithm_case) {
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP:
        return "eap";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_MASK_GRADIENT:
        return "mask-gradient";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_GROUND_TRUTH:
        return "ground-truth";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_RANDOM:
        return "random";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACTIVATION_MAGNITUDE:
        return "activation-magnitude";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP_IG:
        return "eap-ig";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACDC:
        return "acdc";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING:
        return "subnetwork-probing";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_CIRCUIT_PROBING:
        return "circuit-probing";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_UPLOADED:
        return "uploaded";
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM__NOT_SET:
    case _ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM__CASE_IS_INT_SIZE:
        break;
    }
    return "";
}

void abl_job_view_job(abl_job_view *view, const Ablate__V1__Job *job) {
    (void)snprintf(view->job_id, sizeof view->job_id, "%s", job->job_id);
    (void)snprintf(view->label, sizeof view->label, "%s %.256s", abl_job_algorithm(job->spec),
                   job->job_id);
}

/* " (position 3)" for an edge of a token-specific graph. */
static void position_of(const Ablate__V1__EdgeValue *edge, char *buffer, size_t size) {
    buffer[0] = '\0';
    if (edge->seq_number > 0) {
        (void)snprintf(buffer, size, "@%d", edge->seq_number - 1);
    }
}

void abl_cli_edges_tail(char *buffer, size_t size, Ablate__V1__EdgeValue *const *edges,
                        size_t count) {
    buffer[0] = '\0';
    for (size_t i = 0; i < count && i < TAIL_EDGES_MAX; i++) {
        char position[24];
        position_of(edges[i], position, sizeof position);
        size_t length = strlen(buffer);
        (void)snprintf(buffer + length, size - length, "%s%.64s%s %+.3g", i == 0 ? "" : "  ",
                       edges[i]->edge, position, (double)edges[i]->value);
    }
}

int abl_cli_print_edges(const abl_cli *cli, Ablate__V1__EdgeValue *const *edges, size_t count) {
    static const abl_column columns[] = {
        {"rank", true, false}, {"edge", false, true}, {"score", true, false}, {"", false, false}};
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    float score_max = 0;
    for (size_t i = 0; i < count; i++) {
        float size = fabsf(edges[i]->value); /* inf: no tau of an ACDC removed it */
        score_max = isfinite(size) ? fmaxf(score_max, size) : score_max;
    }
    for (size_t i = 0; i < count; i++) {
        char position[24];
        char bar[64];
        position_of(edges[i], position, sizeof position);
        double share = isinf(edges[i]->value) ? 1
                       : score_max > 0        ? (double)(fabsf(edges[i]->value) / score_max)
                                              : 0;
        abl_progress_bar(bar, sizeof bar, cli->out.unicode, 16, share);
        bar[strcspn(bar, cli->out.unicode ? " " : ".")] = '\0';
        abl_table_add(table, "%zu", i + 1);
        abl_table_add(table, "%s%s", edges[i]->edge, position);
        abl_table_add(table, "%+.5g", (double)edges[i]->value);
        abl_table_add(table, "%s", bar);
    }
    return abl_cli_print_table(cli, table);
}

static void remember(abl_job_view *view, const Ablate__V1__JobEvent *event) {
    view->sequence = event->sequence;
    view->state = event->state;
    view->elapsed_ms = event->elapsed_ms;
    if (event->error != NULL && event->error[0] != '\0') {
        (void)snprintf(view->error, sizeof view->error, "%s", event->error);
    }
    if (event->n_top_edges == 0) {
        return;
    }
    ProtobufCMessage *copy = abl_rpc_copy(&event->base);
    if (copy != NULL) {
        if (view->last != NULL) {
            abl_rpc_free(&view->last->base);
        }
        view->last = (Ablate__V1__JobEvent *)copy;
    }
}

int abl_cli_print_taus(const abl_cli *cli, Ablate__V1__AcdcTau *const *taus, size_t count) {
    static const abl_column columns[] = {{"tau", true, false},
                                         {"kept", true, false},
                                         {"removed", true, false},
                                         {"effect", true, false}};
    ABL_CLEANUP(abl_table_destroyp)
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    for (size_t i = 0; i < count; i++) {
        abl_table_add(table, "%g", taus[i]->tau);
        abl_table_add(table, "%lld", (long long)(taus[i]->decided_edges - taus[i]->removed_edges));
        abl_table_add(table, "%lld", (long long)taus[i]->removed_edges);
        abl_table_add(table, "%.4g", taus[i]->effect);
    }
    return abl_cli_print_table(cli, table);
}

/* "  tau 0.01: 41 removed, effect 0.0123  kept A1.0->MLP 1 at 0.53", the last edge decided. */
static void acdc_found(const Ablate__V1__JobEvent *event, char *buffer, size_t size) {
    const Ablate__V1__AcdcTau *tau = event->acdc[event->n_acdc - 1];
    char last[128] = "";
    if (event->n_acdc_decisions > 0) {
        const Ablate__V1__AcdcDecision *of = event->acdc_decisions[event->n_acdc_decisions - 1];
        (void)snprintf(last, sizeof last, "  %s %.64s at %.3g", of->removed ? "removed" : "kept",
                       of->edge, of->effect);
    }
    (void)snprintf(buffer, size, "  tau %.3g: %lld removed, effect %.3g%s", tau->tau,
                   (long long)tau->removed_edges, tau->effect, last);
}

void abl_job_view_event(abl_job_view *view, const Ablate__V1__JobEvent *event) {
    remember(view, event);
    char eta[24];
    char edges[512];
    char tail[832];
    abl_text_duration(eta, sizeof eta, event->eta_ms);
    abl_cli_edges_tail(edges, sizeof edges, event->top_edges, event->n_top_edges);
    bool queued = event->state == ABLATE__V1__JOB_STATE__JOB_STATE_QUEUED;
    bool running = event->state == ABLATE__V1__JOB_STATE__JOB_STATE_RUNNING;
    double fraction =
        event->total_units > 0 ? (double)event->done_units / (double)event->total_units : -1;
    char found[224] = "";
    if (event->n_training > 0) {
        (void)snprintf(found, sizeof found, "  loss %.4g",
                       (double)event->training[event->n_training - 1]->loss);
    } else if (event->n_acdc > 0) {
        acdc_found(event, found, sizeof found);
    }
    (void)snprintf(tail, sizeof tail, "%lld/%lld%s%s%s  %s", (long long)event->done_units,
                   (long long)event->total_units, running && event->eta_ms >= 0 ? "  ETA " : "",
                   running && event->eta_ms >= 0 ? eta : (queued ? "  queued" : ""), found, edges);
    abl_progress_show(&view->progress, fraction, view->label, tail, !running);
}

/* --- Watching --------------------------------------------------------------------------------- */

typedef struct watching {
    abl_job_view *view;
    int losses; /* since the last event */
    bool stuck; /* standard output does not take the events */
} watching;

static bool on_event(const ProtobufCMessage *message, void *user_data) {
    watching *it = user_data;
    it->losses = 0;
    abl_job_view_event(it->view, ((const Ablate__V1__WatchJobResponse *)message)->event);
    if (it->view->cli->json) {
        it->stuck = abl_cli_put_json(it->view->cli, abl_json_of(message), true) != ABL_EXIT_OK;
    }
    return !it->stuck;
}

bool abl_job_view_lost(const abl_rpc_error *error) {
    return !abl_rpc_interrupted() && (error->unreachable || error->code == ABL_CODE_UNAVAILABLE);
}

abl_code abl_job_view_watch(abl_job_view *view, bool lost, abl_rpc_error *ret_error) {
    static const abl_rpc_method method = ABL_RPC("PruneService", "WatchJob", watch_job);
    Ablate__V1__WatchJobRequest request = ABLATE__V1__WATCH_JOB_REQUEST__INIT;
    watching it = {.view = view, .losses = lost ? 1 : 0};
    bool ever = lost;
    for (;;) {
        if (it.losses > 0) {
            abl_progress_show(&view->progress, -1, view->label, "connection lost; trying again",
                              it.losses == 1);
            (void)abl_rpc_pause(0.1 * (double)(1 << it.losses));
        }
        request.job_id = view->job_id;
        request.after_sequence = view->sequence;
        abl_code code =
            abl_rpc_stream(view->cli->rpc, &method, &request.base, on_event, &it, ret_error);
        if (it.stuck) {
            return abl_rpc_fail(ret_error, ABL_CODE_UNKNOWN, "CLIENT", "cannot write the output");
        }
        if (code == ABL_CODE_NOT_FOUND && ever) {
            return abl_rpc_fail(ret_error, code, "JOB_UNKNOWN",
                                "ablated at %s was started anew while %s ran, so the job and its "
                                "scores are gone",
                                abl_rpc_host(view->cli->rpc), view->label);
        }
        if (code == ABL_CODE_OK || !abl_job_view_lost(ret_error) || it.losses == LOSSES_MAX) {
            return code;
        }
        it.losses++;
        ever = true;
    }
}

static bool on_scores(const ProtobufCMessage *message, void *user_data) {
    abl_scores_add(user_data, ((const Ablate__V1__GetPruneScoresResponse *)message)->chunk);
    return true;
}

abl_code abl_job_scores(const abl_cli *cli, char *job_id, abl_scores *scores,
                        abl_rpc_error *ret_error) {
    static const abl_rpc_method method =
        ABL_RPC("PruneService", "GetPruneScores", get_prune_scores);
    Ablate__V1__GetPruneScoresRequest request = ABLATE__V1__GET_PRUNE_SCORES_REQUEST__INIT;
    request.job_id = job_id;
    return abl_rpc_stream(cli->rpc, &method, &request.base, on_scores, scores, ret_error);
}

/* --- The end ---------------------------------------------------------------------------------- */

static int say_end(const abl_job_view *view) {
    const abl_cli *cli = view->cli;
    char elapsed[24];
    abl_text_duration(elapsed, sizeof elapsed, view->elapsed_ms);
    if (view->state == ABLATE__V1__JOB_STATE__JOB_STATE_SUCCEEDED) {
        abl_cli_say(cli, "%s done in %s", view->label, elapsed);
        return ABL_EXIT_OK;
    }
    if (view->state == ABLATE__V1__JOB_STATE__JOB_STATE_CANCELLED) {
        return abl_cli_error(cli, "%s was cancelled after %s; its scores so far are kept",
                             view->label, elapsed);
    }
    return abl_cli_error(cli, "%s failed: %s", view->label,
                         view->error[0] != '\0' ? view->error : "the server did not say why");
}

int abl_job_view_end(abl_job_view *view, size_t top) {
    abl_progress_finish(&view->progress);
    int code = ABL_EXIT_OK;
    if (view->last != NULL && !view->cli->json) {
        size_t count = view->last->n_top_edges < top ? view->last->n_top_edges : top;
        code = abl_cli_print_edges(view->cli, view->last->top_edges, count);
        fputc('\n', stdout);
        if (code == ABL_EXIT_OK && view->last->n_acdc > 0) {
            code = abl_cli_print_taus(view->cli, view->last->acdc, view->last->n_acdc);
            fputc('\n', stdout);
        }
    }
    int end = say_end(view);
    return end != ABL_EXIT_OK ? end : code;
}
