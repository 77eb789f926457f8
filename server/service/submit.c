/* SPDX-License-Identifier: Apache-2.0
 *
 * Submitting a job has three stages. On the loop the request's objects are found and held; on the
 * executor, as an interactive step, the prompts are tokenized and the prune is made, so that every
 * mistake in a request is answered by the call that made it; on the loop again the job is listed
 * and queued. With tail_divergence the loop comes in between, too: only there can the KV cache of
 * the prompts' prefix be looked for. */
#include "server/service/submit.h"

#include "core/base/mem.h"
#include "server/convert/ablation.h"
#include "server/convert/mask.h"
#include "server/convert/model.h"
#include "server/convert/prompts.h"
#include "server/convert/training.h"
#include "server/runtime/log.h"
#include "server/service/hooks.h"
#include "server/service/prune_rpcs.h"
#include "server/service/use_scores.h"

#include <stdio.h>
#include <string.h>

void abl_submit_end(abl_submit *state) {
    abl_prune_destroy(state->prune);
    abl_dataset_destroy(state->tokenized);
    abl_kv_use_finish(&state->kv);
    abl_graph_hooks_unref(state->hooks);
    abl_values_unref(state->circuit_scores);
    state->circuit_scores = NULL;
    state->prune = NULL;
    state->tokenized = NULL;
    state->hooks = NULL;
}

static abl_code submit_tokenize(abl_submit *state, abl_status *ret_status) {
    const abl_model *model = state->model->model;
    abl_code code = abl_convert_bos(model, state->request.bos, state->model->bos_default,
                                    &state->bos, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    return abl_prompts_of_dataset(state->dataset, model,
                                  state->bos ? ABL_BOS_PREPEND : ABL_BOS_NEVER, &state->tokenized,
                                  ret_status);
}

/* The prompts, checked and counted. */
static abl_code submit_prompts(abl_submit *state, abl_status *ret_status) {
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

static abl_code submit_prepare(abl_rpc *rpc, abl_submit *state, abl_status *ret_status) {
    const abl_prefix *prefix = NULL;
    abl_code code = abl_kv_use_apply(&state->kv, &state->tokenized, &prefix, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_prune_options *options = &state->request.options;
    if (state->knockouts_of != NULL) {
        int64_t count = 0;
        code = abl_convert_circuit(state->knockouts_of, state->circuit_scores, state->in_circuit,
                                   &count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        abl_convert_knockouts(state->knockouts_of, state->in_circuit, count, options);
    }
    options->model = state->model->model;
    options->graph = state->graph->graph;
    options->batches = (abl_batches){.dataset = state->tokenized,
                                     .count = state->prompt_count,
                                     .batch_size = state->request.batch_size,
                                     .prefix = prefix};
    state->estimated_bytes = abl_prune_bytes_estimate(options);
    code = abl_server_admit(rpc->server, abl_model_device(options->model),
                            (uint64_t)state->estimated_bytes,
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
    abl_submit *state = rpc->state;
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

static bool describe_job(abl_rpc *rpc, const abl_submit *state, abl_job *job) {
    Ablate__V1__Provenance *provenance =
        abl_convert_provenance(rpc->arena, state->model, state->graph, state->hooks);
    if (provenance == NULL) {
        return false;
    }
    provenance->dataset_hash = abl_convert_text(rpc->arena, state->dataset->hash);
    provenance->algorithm_json = abl_convert_algorithm_json(
        &state->request, state->ablation, state->bos, state->prompt_count, rpc->arena);
    job->bos = state->bos ? ABL_BOS_PREPEND : ABL_BOS_NEVER;
    job->batch_size = state->request.batch_size;
    job->prompt_count = state->prompt_count;
    job->top_k = state->request.top_k;
    job->estimated_bytes = state->estimated_bytes;
    (void)snprintf(job->owner, sizeof job->owner, "%s", rpc->owner);
    return provenance->algorithm_json != NULL && abl_job_describe(job, state->spec, provenance);
}

static void prepare_done(abl_rpc *rpc) {
    abl_submit *state = rpc->state;
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
    char owner[ABL_LOG_OWNER_BYTES];
    abl_log(ABL_LOG_INFO, "job_submitted",
            "id=%s algorithm=%s model=%s graph=%s dataset=%s prompts=%d client=%s", job->object.id,
            abl_prune_algorithm_name(state->request.options.algorithm), job->model_id,
            state->graph->object.id, state->dataset->object.id, job->prompt_count,
            abl_log_quote(owner, sizeof owner, rpc->owner));
    state->started_cb(rpc, job);
}

static void submit_done(abl_rpc *rpc) {
    abl_submit *state = rpc->state;
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
static abl_code submit_edges(abl_rpc *rpc, abl_submit *state) {
    abl_prune_options *options = &state->request.options;
    int64_t *edges = NULL;
    int64_t count = 0;
    abl_code code = abl_convert_job_edges(&state->request, state->graph->graph, rpc->arena, &edges,
                                          &count, &rpc->status);
    if (code == ABL_CODE_OK && abl_convert_scores_edges(&state->request)) {
        options->edges = edges;
        options->edge_count = count;
    } else if (code == ABL_CODE_OK) {
        options->subnetwork_probing.avoid_edges = edges;
        options->subnetwork_probing.avoid_edge_count = count;
    }
    return code;
}

/* The job of the circuit whose knockouts are trained, where the spec names one. */
static bool submit_knockouts(abl_rpc *rpc, abl_submit *state) {
    const Ablate__V1__CircuitMask *circuit =
        state->spec->algorithm_case == ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING
            ? state->spec->subnetwork_probing->knockouts_of
            : NULL;
    if (circuit == NULL) {
        return true;
    }
    const abl_job *job = abl_use_scores(rpc, circuit->job_id, state->graph->graph);
    if (job == NULL) {
        return false;
    }
    state->knockouts_of = circuit;
    state->circuit_scores = abl_values_ref(job->scores);
    state->in_circuit = abl_rpc_alloc(rpc, (size_t)job->scores->count + 1);
    return state->in_circuit != NULL;
}

/* Finds the resident ablation, where the spec names one. */
static bool submit_ablation(abl_rpc *rpc, abl_submit *state) {
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

void abl_submit_start(abl_rpc *rpc, abl_submit *state, const Ablate__V1__PruneJobSpec *spec) {
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
                        &rpc->status) != ABL_CODE_OK ||
        !submit_ablation(rpc, state) || !submit_knockouts(rpc, state)) {
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
