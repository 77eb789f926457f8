/* SPDX-License-Identifier: Apache-2.0
 *
 * CreatePruneScores. Scores from elsewhere become a job that has ended, so everything that takes a
 * job's scores takes them, and listing, reading and making room need nothing new. The values are
 * put together on the pool; the graph's mask, should it be what is kept, is the one of the call's
 * beginning. */
#include "core/base/mem.h"
#include "server/convert/model.h"
#include "server/convert/prompts.h"
#include "server/convert/prune.h"
#include "server/convert/scores.h"
#include "server/service/prune_rpcs.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define BATCH_SIZE 8 /* of sweeps that do not say: as of jobs */

typedef struct create_state {
    const Ablate__V1__CreatePruneScoresRequest *request;
    abl_resident_graph *graph;
    abl_values *mask;
    abl_values *built; /* the job's, once there is one */
    bool bos;
} create_state;

static void create_end(abl_rpc *rpc) {
    create_state *state = rpc->state;
    abl_values_unref(state->mask);
    abl_values_unref(state->built);
}

static abl_step create_work(abl_rpc *rpc) {
    create_state *state = rpc->state;
    const abl_graph *graph = state->graph->graph;
    const int64_t count = abl_graph_edge_count(graph);
    if (abl_server_admit(rpc->server, ABL_HOST, (uint64_t)count * sizeof(float),
                         "unload a model, or use a graph without positions",
                         &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    state->built = abl_values_create(count);
    if (state->built == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return ABL_STEP_DONE;
    }
    (void)!abl_convert_new_scores(state->request, graph, state->mask, state->built, &rpc->status);
    return ABL_STEP_DONE;
}

/* The spec and the provenance that the job shows. */
static bool describe(abl_rpc *rpc, const create_state *state, abl_job *job) {
    Ablate__V1__UploadedScores uploaded = ABLATE__V1__UPLOADED_SCORES__INIT;
    Ablate__V1__PruneJobSpec spec = ABLATE__V1__PRUNE_JOB_SPEC__INIT;
    uploaded.origin = state->request->origin;
    spec.graph_id = state->request->graph_id;
    spec.bos = state->request->bos;
    spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_UPLOADED;
    spec.uploaded = &uploaded;
    Ablate__V1__Provenance *provenance = abl_convert_provenance(
        rpc->arena, abl_resident_graph_model(state->graph), state->graph, NULL);
    json_t *algorithm =
        json_pack("{s:s, s:s}", "algorithm", "uploaded", "origin", state->request->origin);
    char *text = json_dumps(algorithm, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(algorithm);
    bool ok = provenance != NULL && text != NULL;
    if (ok) {
        provenance->algorithm_json = abl_convert_text(rpc->arena, text);
        ok = abl_job_describe(job, &spec, provenance);
    }
    abl_free(text); /* jansson's block */
    return ok;
}

static void create_done(abl_rpc *rpc) {
    create_state *state = rpc->state;
    Ablate__V1__CreatePruneScoresResponse response = ABLATE__V1__CREATE_PRUNE_SCORES_RESPONSE__INIT;
    abl_job *job = abl_job_create_ended(state->graph, state->built);
    if (job != NULL) {
        state->built = NULL;
        job->bos = state->bos ? ABL_BOS_PREPEND : ABL_BOS_NEVER;
        job->batch_size = BATCH_SIZE;
        (void)snprintf(job->owner, sizeof job->owner, "%s", rpc->owner);
        if (!describe(rpc, state, job)) {
            (void)abl_fail_oom(&rpc->status);
        } else if (abl_job_keep(job, rpc->server->registry, &rpc->status) == ABL_CODE_OK) {
            response.job = abl_convert_job(rpc->arena, job);
        }
    }
    if (response.job == NULL) {
        if (rpc->status.code == ABL_CODE_OK) {
            (void)abl_fail_oom(&rpc->status);
        }
        if (job != NULL && !job->object.listed) {
            abl_object_unref(&job->object);
        }
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

void abl_prune_create_scores(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__CreatePruneScoresRequest *request =
        (const Ablate__V1__CreatePruneScoresRequest *)message;
    create_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_resident_graph *graph =
        state == NULL ? NULL
                      : (abl_resident_graph *)abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (graph == NULL || abl_convert_new_scores_check(request, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (request->scores_case == ABLATE__V1__CREATE_PRUNE_SCORES_REQUEST__SCORES_CURRENT_MASK &&
        graph->mask->batch != 0) {
        abl_rpc_fail(rpc, ABL_CODE_FAILED_PRECONDITION, "MASK_BATCH",
                     "the mask of graph %s has a row for each of %d prompts; scores have one value "
                     "an edge: SetMaskBatchSize 0 keeps the first row",
                     graph->object.id, graph->mask->batch);
        return;
    }
    const abl_resident_model *model = abl_resident_graph_model(graph);
    state->request = request;
    state->graph = graph;
    state->mask = abl_values_ref(graph->mask);
    rpc->state = state;
    rpc->end_cb = create_end;
    if (abl_model_tokenizer(model->model) != NULL &&
        abl_convert_bos(model->model, request->bos, model->bos_default, &state->bos,
                        &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_pool(rpc, create_work, create_done);
}
