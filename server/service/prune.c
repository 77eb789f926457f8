/* SPDX-License-Identifier: Apache-2.0
 *
 * Submitting a job has three stages. On the loop the request's objects are found and held; on the
 * executor, as an interactive step, the prompts are tokenized and the prune is made, so that every
 * mistake in a request is answered by the call that made it; on the loop again the job is listed
 * and queued. With tail_divergence the loop comes in between, too: only there can the KV cache of
 * the prompts' prefix be looked for. Watching is a stream over the job's events, and
 * StreamPruneScores is both in one. */
#include "server/convert/prune.h"
#include "ablate/v1/prune.pb-c.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/convert/ablation.h"
#include "server/convert/model.h"
#include "server/convert/prompts.h"
#include "server/runtime/job.h"
#include "server/service/hooks.h"
#include "server/service/kv_cache.h"
#include "server/service/listing.h"
#include "server/service/module_stream.h"
#include "server/service/prune_rpcs.h"
#include "server/service/rpc.h"

#include <stddef.h>
#include <string.h>

/* ---- submit ------------------------------------------------------------------------------- */

typedef struct submit {
    const Ablate__V1__PruneJobSpec *spec;
    abl_job_request request;
    abl_resident_graph *graph;
    abl_resident_dataset *dataset;
    abl_resident_model *model;
    abl_resident_ablation *ablation; /* NULL: none that is resident */
    abl_graph_hooks *hooks; /* the graph's when the call came; the job's once there is one */
    abl_device_slot *slot;
    abl_kv_use kv;
    void (*started_cb)(abl_rpc *rpc, abl_job *job);

    /* made on the executor, the job's once it has started */
    abl_prune *prune;
    abl_dataset *tokenized;
    bool bos;
    int32_t prompt_count;
    int64_t estimated_bytes;
} submit;

static void submit_end(submit *state) {
    abl_prune_destroy(state->prune);
    abl_dataset_destroy(state->tokenized);
    abl_kv_use_finish(&state->kv);
    abl_graph_hooks_unref(state->hooks);
    state->prune = NULL;
    state->tokenized = NULL;
    state->hooks = NULL;
}

static abl_code submit_tokenize(submit *state, abl_status *ret_status) {
    const abl_model *model = state->model->model;
    const abl_model_config *config = abl_model_get_config(model);
    abl_code code = abl_convert_bos(model, state->request.bos, state->model->bos_default,
                                    &state->bos, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const abl_dataset_options options = {.tokenizer = abl_model_tokenizer(model),
                                         .bos = state->bos ? ABL_BOS_PREPEND : ABL_BOS_NEVER,
                                         .vocab_size = abl_model_config_id_count(config),
                                         .seq_len_max = (int32_t)config->n_ctx};
    return abl_dataset_create_json(state->dataset->json, state->dataset->json_bytes, &options,
                                   &state->tokenized, ret_status);
}

/* The prompts, checked and counted. */
static abl_code submit_prompts(submit *state, abl_status *ret_status) {
    abl_code code = submit_tokenize(state, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    int32_t there = abl_dataset_prompt_count(state->tokenized);
    state->prompt_count = state->request.prompt_count == 0 ? there : state->request.prompt_count;
    if (state->prompt_count > there) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_COUNT_INVALID",
                        "spec.prompt_count is %d; dataset %s has %d prompts", state->prompt_count,
                        state->dataset->object.id, there);
    }
    return abl_kv_use_choose(&state->kv, state->tokenized, ret_status);
}

static abl_code submit_prepare(abl_rpc *rpc, submit *state, abl_status *ret_status) {
    const abl_prefix *prefix = NULL;
    abl_code code = abl_kv_use_apply(&state->kv, &state->tokenized, &prefix, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_prune_options *options = &state->request.options;
    options->model = state->model->model;
    options->graph = state->graph->graph;
    options->batches = (abl_batches){.dataset = state->tokenized,
                                     .count = state->prompt_count,
                                     .batch_size = state->request.batch_size,
                                     .prefix = prefix};
    state->estimated_bytes = abl_prune_bytes_estimate(options);
    code = abl_server_admit(rpc->server, (uint64_t)state->estimated_bytes,
                            "lower spec.batch_size, or use shorter prompts", ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_prune_create(options, &state->prune, ret_status);
    }
    if (code != ABL_CODE_OK && strcmp(ret_status->reason, "ALGORITHM_OPTIONS_INVALID") == 0) {
        ret_status->reason = "ALGORITHM_OPTIONS"; /* one reason for what the core checks, too */
    }
    return code;
}

static abl_step prepare_work(abl_rpc *rpc) {
    (void)!submit_prepare(rpc, rpc->state, &rpc->status);
    return ABL_STEP_DONE;
}

/* Both in one, where the loop need not look for a KV cache in between. */
static abl_step submit_work(abl_rpc *rpc) {
    submit *state = rpc->state;
    if (submit_prompts(state, &rpc->status) == ABL_CODE_OK && !state->kv.tail_divergence) {
        (void)!submit_prepare(rpc, state, &rpc->status);
    }
    return ABL_STEP_DONE;
}

/* A message packed into a block of its own. */
static bool pack_block(const ProtobufCMessage *message, void **ret_block, size_t *ret_bytes) {
    *ret_bytes = protobuf_c_message_get_packed_size(message);
    *ret_block = abl_malloc(*ret_bytes);
    if (*ret_block != NULL) {
        (void)protobuf_c_message_pack(message, *ret_block);
    }
    return *ret_block != NULL;
}

bool abl_job_describe(abl_job *job, const Ablate__V1__PruneJobSpec *spec,
                      const Ablate__V1__Provenance *provenance) {
    return pack_block(&spec->base, &job->spec, &job->spec_bytes) &&
           pack_block(&provenance->base, &job->provenance, &job->provenance_bytes);
}

static bool describe_job(abl_rpc *rpc, const submit *state, abl_job *job) {
    Ablate__V1__Provenance *provenance =
        abl_convert_provenance(rpc->arena, state->model, state->graph, state->hooks);
    if (provenance == NULL) {
        return false;
    }
    provenance->dataset_hash = abl_convert_text(rpc->arena, state->dataset->hash);
    provenance->algorithm_json =
        abl_convert_algorithm_json(&state->request.options, state->ablation, state->bos,
                                   state->request.batch_size, state->prompt_count, rpc->arena);
    job->bos = state->bos ? ABL_BOS_PREPEND : ABL_BOS_NEVER;
    job->batch_size = state->request.batch_size;
    job->prompt_count = state->prompt_count;
    job->top_k = state->request.top_k;
    job->estimated_bytes = state->estimated_bytes;
    return provenance->algorithm_json != NULL && abl_job_describe(job, state->spec, provenance);
}

static void prepare_done(abl_rpc *rpc) {
    submit *state = rpc->state;
    if (abl_kv_use_keep(rpc, &state->kv) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_job *job = abl_job_create(state->graph, state->dataset, state->prune, state->tokenized);
    if (job == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    state->prune = NULL; /* the job's now */
    state->tokenized = NULL;
    job->ablation = state->ablation;
    job->kv_cache = state->kv.cache == NULL ? NULL : &state->kv.cache->object;
    const abl_job_place place = {.registry = rpc->server->registry,
                                 .executor = state->slot->executor,
                                 .loop = rpc->server->loop,
                                 .metrics = rpc->server->metrics,
                                 .active_jobs = &rpc->server->active_jobs,
                                 .jobs_max = rpc->server->options.jobs_max,
                                 .client = rpc->client};
    bool described = describe_job(rpc, state, job);
    job->hooks = state->hooks;
    state->hooks = NULL;
    abl_code code =
        described ? abl_job_start(job, &place, &rpc->status) : abl_fail_oom(&rpc->status);
    if (code != ABL_CODE_OK) {
        abl_object_unref(&job->object);
        abl_rpc_fail_status(rpc);
        return;
    }
    state->started_cb(rpc, job);
}

static void submit_done(abl_rpc *rpc) {
    submit *state = rpc->state;
    if (state->prune != NULL) {
        prepare_done(rpc);
        return;
    }
    if (abl_kv_use_find(rpc, &state->kv) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_INTERACTIVE, prepare_work, prepare_done);
}

/* The edges that the algorithm names: those to score, or those to avoid. */
static abl_code submit_edges(abl_rpc *rpc, submit *state) {
    abl_prune_options *options = &state->request.options;
    int64_t *edges = NULL;
    int64_t count = 0;
    abl_code code = abl_convert_job_edges(&state->request, state->graph->graph, rpc->arena, &edges,
                                          &count, &rpc->status);
    bool decided =
        options->algorithm == ABL_PRUNE_GROUND_TRUTH || options->algorithm == ABL_PRUNE_ACDC;
    if (code == ABL_CODE_OK && decided) {
        options->edges = edges;
        options->edge_count = count;
    } else if (code == ABL_CODE_OK) {
        options->subnetwork_probing.avoid_edges = edges;
        options->subnetwork_probing.avoid_edge_count = count;
    }
    return code;
}

/* Finds the resident ablation, where the spec names one. */
static bool submit_ablation(abl_rpc *rpc, submit *state) {
    if (state->request.ablation_id == NULL) {
        return true;
    }
    state->ablation =
        (abl_resident_ablation *)abl_rpc_use(rpc, ABL_OBJECT_ABLATION, state->request.ablation_id);
    if (state->ablation == NULL ||
        abl_convert_ablation_fits(state->ablation, state->model, state->dataset->hash,
                                  &rpc->status) != ABL_CODE_OK) {
        return false;
    }
    state->request.options.ablation = state->ablation->ablation; /* for provenance */
    state->request.options.resident = state->ablation->sources;
    return true;
}

/* Ends in started_cb, with a job that the registry holds, or ends the rpc. */
static void submit_start(abl_rpc *rpc, submit *state, const Ablate__V1__PruneJobSpec *spec) {
    state->spec = spec;
    if (abl_convert_job_spec(spec, &state->request, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->graph =
        (abl_resident_graph *)abl_rpc_use(rpc, ABL_OBJECT_GRAPH, state->request.graph_id);
    if (state->graph != NULL) {
        state->dataset =
            (abl_resident_dataset *)abl_rpc_use(rpc, ABL_OBJECT_DATASET, state->request.dataset_id);
    }
    if (state->graph == NULL || state->dataset == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->model = abl_resident_graph_model(state->graph);
    if (!abl_run_hooks(rpc, state->graph, spec->interventions, spec->n_interventions,
                       &state->hooks)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->request.options.interventions = abl_graph_hooks_interventions(state->hooks);
    state->slot = abl_server_slot(rpc->server, abl_model_device(state->model->model));
    if (abl_kv_use_init(&state->kv, state->model, state->graph, state->request.tail_divergence,
                        state->hooks, &rpc->status) != ABL_CODE_OK ||
        !submit_ablation(rpc, state)) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (state->request.edge_name_count > 0) {
        if (submit_edges(rpc, state) != ABL_CODE_OK) {
            abl_rpc_fail_status(rpc);
            return;
        }
    }
    abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_INTERACTIVE, submit_work, submit_done);
}

static void submit_rpc_end(abl_rpc *rpc) {
    submit_end(rpc->state);
}

static void submit_reply(abl_rpc *rpc, abl_job *job) {
    Ablate__V1__SubmitJobResponse response = ABLATE__V1__SUBMIT_JOB_RESPONSE__INIT;
    response.job = abl_convert_job(rpc->arena, job);
    if (response.job == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

static void submit_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    submit *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = submit_rpc_end;
    state->started_cb = submit_reply;
    submit_start(rpc, state, ((const Ablate__V1__SubmitJobRequest *)message)->spec);
}

/* ---- watch -------------------------------------------------------------------------------- */

/* What every stream about a job shares; the first member of their states. */
typedef struct watch {
    submit submit; /* StreamPruneScores; all zero elsewhere */
    abl_job_watcher watcher;
    abl_rpc *rpc;
    abl_job *job;     /* NULL: not watching */
    int64_t sequence; /* the last event that was sent */
    int32_t grace_ms; /* StreamPruneScores: what its job has when the client is gone */
    enum { STREAM_CREATED, STREAM_EVENTS, STREAM_SCORES, STREAM_ENDED, STREAM_OVER } phase;
    abl_module_stream scores;
} watch;

static void watch_event(abl_job_watcher *watcher) {
    watch *state = (watch *)(void *)((char *)watcher - offsetof(watch, watcher));
    abl_rpc_pump(state->rpc);
}

static void watch_start(abl_rpc *rpc, watch *state, abl_job *job) {
    state->rpc = rpc;
    state->job = job;
    state->watcher.event_cb = watch_event;
    abl_job_watch(job, &state->watcher);
}

static void watch_end(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->job != NULL) {
        abl_job_unwatch(state->job, &state->watcher);
    }
    abl_module_stream_finish(&state->scores);
    submit_end(&state->submit);
}

/* The next event in the outgoing message's memory; NULL: none yet, or the rpc has failed. */
static Ablate__V1__JobEvent *watch_take(abl_rpc *rpc, watch *state) {
    if (rpc->scratch == NULL && abl_rpc_scratch(rpc, 1) == NULL) {
        abl_rpc_fail_status(rpc);
        return NULL;
    }
    Ablate__V1__JobEvent *event =
        abl_convert_job_event(rpc->scratch, state->job, state->sequence + 1);
    if (event == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return NULL;
    }
    state->sequence++;
    return event;
}

static void watch_next(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->sequence < state->job->event_count) {
        Ablate__V1__WatchJobResponse response = ABLATE__V1__WATCH_JOB_RESPONSE__INIT;
        response.event = watch_take(rpc, state);
        if (response.event != NULL) {
            abl_rpc_send(rpc, &response.base);
        }
    } else if (abl_job_ended(state->job)) {
        abl_rpc_finish_ok(rpc);
    }
}

static void watch_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__WatchJobRequest *request = (const Ablate__V1__WatchJobRequest *)message;
    watch *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_job *job =
        state == NULL ? NULL : (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (request->after_sequence < 0 || request->after_sequence > job->event_count) {
        abl_rpc_fail(rpc, ABL_CODE_OUT_OF_RANGE, "SEQUENCE_OUT_OF_RANGE",
                     "after_sequence is %lld; job %s has events 1 to %lld",
                     (long long)request->after_sequence, job->object.id,
                     (long long)job->event_count);
        return;
    }
    rpc->state = state;
    rpc->end_cb = watch_end;
    state->sequence = request->after_sequence;
    watch_start(rpc, state, job);
    abl_rpc_stream(rpc, watch_next);
}

/* ---- StreamPruneScores: submit, watch, scores --------------------------------------------- */

static void stream_send_job(abl_rpc *rpc, watch *state, bool created) {
    Ablate__V1__StreamPruneScoresResponse response = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
    Ablate__V1__Job *job =
        abl_rpc_scratch(rpc, 1) == NULL ? NULL : abl_convert_job(rpc->scratch, state->job);
    if (job == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    response.part_case = created ? ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_CREATED
                                 : ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_ENDED;
    response.created = job; /* one member of a union of pointers to Job, as is `ended` */
    abl_rpc_send(rpc, &response.base);
}

/* True when a message went out, or the rpc ended. */
static bool stream_event(abl_rpc *rpc, watch *state) {
    if (state->sequence < state->job->event_count) {
        Ablate__V1__StreamPruneScoresResponse response =
            ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
        response.part_case = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_EVENT;
        response.event = watch_take(rpc, state);
        if (response.event != NULL) {
            abl_rpc_send(rpc, &response.base);
        }
        return true;
    }
    if (!abl_job_ended(state->job)) {
        return true; /* wait for the next event */
    }
    state->phase = state->job->scores == NULL ? STREAM_ENDED : STREAM_SCORES;
    if (state->job->scores != NULL) {
        abl_module_stream_init(&state->scores, state->job->graph->graph, state->job->scores);
    }
    return false;
}

static bool stream_scores(abl_rpc *rpc, watch *state) {
    Ablate__V1__StreamPruneScoresResponse response = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
    Ablate__V1__TensorChunk chunk;
    bool end = false;
    if (abl_module_stream_next(&state->scores, &chunk, &end, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return true;
    }
    if (end) {
        state->phase = STREAM_ENDED;
        return false;
    }
    response.part_case = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_SCORES;
    response.scores = &chunk;
    abl_rpc_send(rpc, &response.base);
    return true;
}

static void stream_next(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->phase == STREAM_CREATED) {
        state->phase = STREAM_EVENTS;
        stream_send_job(rpc, state, true);
        return;
    }
    if (state->phase == STREAM_EVENTS && stream_event(rpc, state)) {
        return;
    }
    if (state->phase == STREAM_SCORES && stream_scores(rpc, state)) {
        return;
    }
    if (state->phase == STREAM_ENDED) {
        state->phase = STREAM_OVER;
        stream_send_job(rpc, state, false);
        return;
    }
    abl_rpc_finish_ok(rpc);
}

/* However the call ends, a job that has not ended is then nobody's: a client that was told of it
 * may come back. */
static void stream_end(abl_rpc *rpc) {
    watch *state = rpc->state;
    if (state->job != NULL) {
        abl_job_orphan(state->job, state->phase == STREAM_CREATED ? 0 : (uint64_t)state->grace_ms);
    }
    watch_end(rpc);
}

static void stream_started(abl_rpc *rpc, abl_job *job) {
    abl_rpc_pin(rpc, &job->object);
    watch_start(rpc, rpc->state, job);
    abl_rpc_stream(rpc, stream_next);
}

static void stream_prune_scores(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__StreamPruneScoresRequest *request =
        (const Ablate__V1__StreamPruneScoresRequest *)message;
    watch *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = stream_end;
    state->submit.started_cb = stream_started;
    state->grace_ms = request->grace_ms;
    if (request->grace_ms < 0 || request->grace_ms > ABL_JOB_GRACE_MS_MAX) {
        abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "GRACE_OUT_OF_RANGE",
                     "grace_ms is %d; it goes from 0 to %d", request->grace_ms,
                     ABL_JOB_GRACE_MS_MAX);
        return;
    }
    submit_start(rpc, &state->submit, request->spec);
}

/* ---- one job, all jobs -------------------------------------------------------------------- */

static void get_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetJobRequest *request = (const Ablate__V1__GetJobRequest *)message;
    Ablate__V1__GetJobResponse response = ABLATE__V1__GET_JOB_RESPONSE__INIT;
    abl_job *job = (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    response.job = job == NULL ? NULL : abl_convert_job(rpc->arena, job);
    if (response.job == NULL) {
        if (job != NULL) {
            (void)abl_fail_oom(&rpc->status);
        }
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

static void cancel_job(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__CancelJobRequest *request = (const Ablate__V1__CancelJobRequest *)message;
    Ablate__V1__CancelJobResponse response = ABLATE__V1__CANCEL_JOB_RESPONSE__INIT;
    abl_job *job = (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job != NULL) {
        abl_job_cancel(job, "cancelled by CancelJob");
        response.job = abl_convert_job(rpc->arena, job);
    }
    if (response.job == NULL) {
        if (job != NULL) {
            (void)abl_fail_oom(&rpc->status);
        }
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

static bool is_in_state(const abl_object *object, const void *user_data) {
    const Ablate__V1__JobState *state = user_data;
    return *state == 0 || (int)*state == (int)((const abl_job *)object)->state;
}

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__Job *item = abl_convert_job(rpc->scratch, (const abl_job *)object);
    return item == NULL ? NULL : &item->base;
}

static void list_jobs(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListJobsRequest *request = (const Ablate__V1__ListJobsRequest *)message;
    Ablate__V1__ListJobsResponse response = ABLATE__V1__LIST_JOBS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_JOB,
                                 .model_id = "",
                                 .newest_first = true,
                                 .wanted_cb = is_in_state,
                                 .user_data = &request->state,
                                 .convert_cb = item_of,
                                 .page_size = request->page_size,
                                 .page_token = request->page_token};
    abl_listing_page page;
    if (!abl_rpc_list(rpc, &listing, &page)) {
        return;
    }
    response.jobs = page.items;
    response.n_jobs = page.count;
    response.next_page_token = page.next_page_token;
    abl_rpc_reply(rpc, &response.base);
}

static void scores_next(abl_rpc *rpc) {
    watch *state = rpc->state;
    Ablate__V1__GetPruneScoresResponse response = ABLATE__V1__GET_PRUNE_SCORES_RESPONSE__INIT;
    Ablate__V1__TensorChunk chunk;
    bool end = false;
    if (abl_module_stream_next(&state->scores, &chunk, &end, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
    } else if (end) {
        abl_rpc_finish_ok(rpc);
    } else {
        response.chunk = &chunk;
        abl_rpc_send(rpc, &response.base);
    }
}

static void get_prune_scores(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetPruneScoresRequest *request =
        (const Ablate__V1__GetPruneScoresRequest *)message;
    watch *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_job *job =
        state == NULL ? NULL : (abl_job *)abl_rpc_use(rpc, ABL_OBJECT_JOB, request->job_id);
    if (job == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (job->scores == NULL) {
        abl_rpc_fail(rpc, ABL_CODE_FAILED_PRECONDITION, "SCORES_NOT_READY",
                     "job %s is %s and has no scores yet; the first come with its first batch",
                     job->object.id, abl_job_state_name(job->state));
        return;
    }
    rpc->state = state;
    rpc->end_cb = watch_end;
    abl_module_stream_init(&state->scores, job->graph->graph, job->scores);
    abl_rpc_stream(rpc, scores_next);
}

static const abl_method methods[] = {
    {"/ablate.v1.PruneService/SubmitJob", false, false, false, abl_rpc_start},
    {"/ablate.v1.PruneService/WatchJob", false, true, false, abl_rpc_start},
    {"/ablate.v1.PruneService/StreamPruneScores", false, true, false, abl_rpc_start},
    {"/ablate.v1.PruneService/GetJob", false, false, false, abl_rpc_start},
    {"/ablate.v1.PruneService/ListJobs", false, false, false, abl_rpc_start},
    {"/ablate.v1.PruneService/CancelJob", false, false, false, abl_rpc_start},
    {"/ablate.v1.PruneService/GetPruneScores", false, true, false, abl_rpc_start},
    {"/ablate.v1.PruneService/CreatePruneScores", false, false, false, abl_rpc_start},
};
static const abl_rpc_handler handlers[] = {
    {&ablate__v1__submit_job_request__descriptor, submit_job},
    {&ablate__v1__watch_job_request__descriptor, watch_job},
    {&ablate__v1__stream_prune_scores_request__descriptor, stream_prune_scores},
    {&ablate__v1__get_job_request__descriptor, get_job},
    {&ablate__v1__list_jobs_request__descriptor, list_jobs},
    {&ablate__v1__cancel_job_request__descriptor, cancel_job},
    {&ablate__v1__get_prune_scores_request__descriptor, get_prune_scores},
    {&ablate__v1__create_prune_scores_request__descriptor, abl_prune_create_scores},
};

abl_service abl_prune_service(abl_server *server) {
    static abl_rpc_table table = {NULL, methods, handlers, ABL_COUNT_OF(methods)};
    table.server = server;
    return (abl_service){"ablate.v1.PruneService", methods, ABL_COUNT_OF(methods), &table};
}
