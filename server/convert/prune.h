/* prune.h -- prune jobs: what a spec asks for, and jobs and their events as messages.
 *
 * OWNERSHIP  Results live in the arena, point into the message, or borrow from the job.
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status; NULL elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_PRUNE_H
#define ABLATE_SERVER_CONVERT_PRUNE_H

#include "ablate/v1/prune.pb-c.h"
#include "core/base/arena.h"
#include "server/runtime/job.h"

ABL_BEGIN_DECLS

typedef struct abl_job_request {
    const char *graph_id;
    const char *dataset_id;
    const char *ablation_id;   /* NULL: none that is resident */
    abl_prune_options options; /* of the algorithm; without model, graph and batches */
    char *const *edge_names;   /* ground truth: only these; trainings: those to avoid */
    size_t edge_name_count;
    Ablate__V1__BosPolicy bos;
    int32_t batch_size;
    int32_t prompt_count; /* 0: all */
    int32_t top_k;
    bool tail_divergence;
} abl_job_request;

/*   INVALID_ARGUMENT  SPEC_MISSING, ALGORITHM_MISSING, ALGORITHM_OPTIONS, ABLATION_CONFLICT,
 *                     BATCH_INVALID,
 *                     PROMPT_COUNT_INVALID, TOP_K_INVALID */
ABL_MUST_CHECK abl_code abl_convert_job_spec(const Ablate__V1__PruneJobSpec *message,
                                             abl_job_request *ret_request, abl_status *ret_status);

/* Whether the edges that a job names are those to score; else they are those to avoid. */
bool abl_convert_scores_edges(const abl_job_request *request);
/* The names to indices in canonical order; one without a position gives every position's.
 *   NOT_FOUND, INVALID_ARGUMENT  as abl_convert_edge() */
ABL_MUST_CHECK abl_code abl_convert_job_edges(const abl_job_request *request,
                                              const abl_graph *graph, abl_arena *arena,
                                              int64_t **ret_edges, int64_t *ret_count,
                                              abl_status *ret_status);

/* The algorithm and its options with defaults filled in, as JSON, for provenance; of the edges that
 * it names the first 1000. `ablation`: the resident one; NULL: none. */
ABL_MUST_CHECK char *abl_convert_algorithm_json(const abl_job_request *request,
                                                const abl_resident_ablation *ablation, bool bos,
                                                int32_t prompt_count, abl_arena *arena);

ABL_MUST_CHECK Ablate__V1__Job *abl_convert_job(abl_arena *arena, const abl_job *job);
/* Event `sequence`, which must exist. */
ABL_MUST_CHECK Ablate__V1__JobEvent *abl_convert_job_event(abl_arena *arena, const abl_job *job,
                                                           int64_t sequence);

ABL_END_DECLS
#endif
