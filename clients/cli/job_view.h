/* job_view.h -- a job's events as a person sees them: the progress line, then the top edges.
 *
 * OWNERSHIP  The caller's memory; abl_job_view_finish() ends what it holds.
 * THREADS    One thread.
 */
#ifndef ABLATE_CLI_JOB_VIEW_H
#define ABLATE_CLI_JOB_VIEW_H

#include "clients/cli/cli.h"
#include "clients/cli/scores_file.h"

ABL_BEGIN_DECLS

typedef struct abl_job_view {
    const abl_cli *cli;
    abl_progress progress;
    char job_id[300];
    char label[340];            /* "eap job-3" */
    Ablate__V1__JobEvent *last; /* a copy of the newest event with edges */
    Ablate__V1__JobState state;
    char error[1024]; /* why it failed */
    double elapsed_ms;
    int64_t sequence; /* of the newest event */
} abl_job_view;

void abl_job_view_init(abl_job_view *view, const abl_cli *cli);
void abl_job_view_finish(abl_job_view *view);

/* What the job is called, from its description. */
void abl_job_view_job(abl_job_view *view, const Ablate__V1__Job *job);
/* Takes note of an event, and shows it. */
void abl_job_view_event(abl_job_view *view, const Ablate__V1__JobEvent *event);
/* Watches the job on from the event after view->sequence to its end; with --json prints each event.
 * A connection that is lost, or was (`lost`), is made again and again for some seconds, and missed
 * events come then.
 *   NOT_FOUND  JOB_UNKNOWN  after a loss: the server was started anew, and has forgotten the job */
ABL_MUST_CHECK abl_code abl_job_view_watch(abl_job_view *view, bool lost, abl_rpc_error *ret_error);
/* Whether the connection is what failed, so that coming back makes sense. */
bool abl_job_view_lost(const abl_rpc_error *error);
/* After the last event: erases the line, prints the top edges and how the job ended; the exit code
 * is OK only for a job that succeeded. `top`: at most this many edges. */
int abl_job_view_end(abl_job_view *view, size_t top);

/* What an ACDC has found at each of its taus. */
int abl_cli_print_taus(const abl_cli *cli, Ablate__V1__AcdcTau *const *taus, size_t count);

/* Adds a job's scores, final or so far. */
ABL_MUST_CHECK abl_code abl_job_scores(const abl_cli *cli, char *job_id, abl_scores *scores,
                                       abl_rpc_error *ret_error);
/* Saves them in a file: safetensors, or with a name that ends in .json a graph file of EAP-IG. */
int abl_cli_save_scores(abl_cli *cli, char *job_id, abl_scores *scores, const char *path);
/* "eap", "mask-gradient", ... of a spec. */
const char *abl_job_algorithm(const Ablate__V1__PruneJobSpec *spec);

ABL_END_DECLS
#endif
