/* SPDX-License-Identifier: Apache-2.0
 *
 * The scores are held by reference: a job that runs on meanwhile replaces its own, and this sweep
 * keeps those it found. The tokenized prompts hold no tensors, so the loop may end them. */
#include "server/service/sweep.h"

#include "core/graph/scores.h"
#include "server/convert/ablation.h"
#include "server/convert/prompts.h"
#include "server/service/hooks.h"
#include "server/service/use_scores.h"

static bool find_objects(abl_rpc *rpc, abl_sweep_run *run) {
    run->job = abl_use_scores(rpc, run->request.job_id, NULL);
    if (run->job == NULL) {
        return false;
    }
    run->graph = run->job->graph;
    run->model = abl_resident_graph_model(run->graph);
    if (run->model == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "MODEL_NOT_RESIDENT",
                       "the graph of job '%s' was deleted, so its model '%s' can no longer be run "
                       "with these scores; prune again on a graph that is resident",
                       run->job->object.id, run->job->model_name);
        return false;
    }
    abl_rpc_pin(rpc, &run->graph->object);
    abl_rpc_pin(rpc, &run->model->object);
    if (run->request.dataset_id == NULL && run->job->dataset == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "DATASET_MISSING",
                       "sweep.dataset_id is empty, and the scores of '%s' were uploaded: they have "
                       "no dataset of their own",
                       run->job->object.id);
        return false;
    }
    if (run->request.dataset_id == NULL) {
        run->dataset = run->job->dataset;
        abl_rpc_pin(rpc, &run->dataset->object);
        return true;
    }
    run->dataset =
        (abl_resident_dataset *)abl_rpc_use(rpc, ABL_OBJECT_DATASET, run->request.dataset_id);
    return run->dataset != NULL;
}

/* The job's scores, or ones that rank as its signed scores do. */
static bool take_scores(abl_rpc *rpc, abl_sweep_run *run) {
    abl_values *scores = run->job->scores;
    if (!run->request.signed_scores) {
        run->scores = abl_values_ref(scores);
        return true;
    }
    run->scores = abl_values_create(scores->count);
    if (run->scores == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return false;
    }
    return abl_scores_by_value(scores->values, scores->count, run->scores->values, &rpc->status) ==
           ABL_CODE_OK;
}

static bool find_ablation(abl_rpc *rpc, abl_sweep_run *run) {
    if (run->request.ablation_id == NULL) {
        return true;
    }
    run->ablation =
        (abl_resident_ablation *)abl_rpc_use(rpc, ABL_OBJECT_ABLATION, run->request.ablation_id);
    return run->ablation != NULL &&
           abl_convert_ablation_fits(run->ablation, run->model, run->dataset->hash, &rpc->status) ==
               ABL_CODE_OK;
}

bool abl_sweep_run_prepare(abl_rpc *rpc, abl_sweep_run *run,
                           const Ablate__V1__CircuitSweep *message) {
    if (abl_convert_sweep(message, &run->request, &rpc->status) != ABL_CODE_OK ||
        !find_objects(rpc, run) || !take_scores(rpc, run)) {
        return false;
    }
    int64_t *sizes = NULL;
    int32_t size_count = 0;
    if (abl_convert_sweep_sizes(&run->request, run->scores->values,
                                abl_graph_edge_count(run->graph->graph), rpc->arena, &sizes,
                                &size_count, &rpc->status) != ABL_CODE_OK ||
        !find_ablation(rpc, run)) {
        return false;
    }
    if (!abl_run_hooks(rpc, run->graph, message->interventions, message->n_interventions,
                       &run->hooks) ||
        abl_kv_use_init(&run->kv, run->model, run->graph, run->request.tail_divergence,
                        &rpc->status) != ABL_CODE_OK) {
        return false;
    }
    run->slot = abl_server_slot(rpc->server, abl_model_device(run->model->model));
    run->circuits = (abl_circuits_options){
        .model = run->model->model,
        .graph = run->graph->graph,
        .patch_type = run->request.patch_type,
        .ablation = run->ablation != NULL ? run->ablation->ablation : run->request.ablation,
        .resident = run->ablation != NULL ? run->ablation->sources : NULL,
        .reverse_clean_corrupt = run->request.reverse_clean_corrupt,
        .out_slice = ABL_OUT_SLICE_LAST,
        .interventions = abl_graph_hooks_interventions(run->hooks),
        .scores = run->scores->values,
        .sizes = sizes,
        .circuit_count = size_count,
    };
    return true;
}

static abl_step tokenize_work(abl_rpc *rpc) {
    abl_sweep_run *run = rpc->state;
    if (abl_prompts_of_dataset(run->dataset, run->model->model, run->job->bos, &run->tokenized,
                               &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    int32_t total = abl_dataset_prompt_count(run->tokenized);
    int32_t count = run->request.prompt_count == 0 ? total : run->request.prompt_count;
    if (count > total) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_COUNT_INVALID",
                       "sweep.prompt_count is %d; the dataset has %d prompts", count, total);
        return ABL_STEP_DONE;
    }
    int32_t size = run->request.batch_size == 0 ? run->job->batch_size : run->request.batch_size;
    run->circuits.batches = (abl_batches){
        .dataset = run->tokenized, .count = count, .batch_size = size < count ? size : count};
    if (abl_batches_check(&run->circuits.batches, &rpc->status) == ABL_CODE_OK) {
        (void)!abl_kv_use_choose(&run->kv, run->tokenized, &rpc->status);
    }
    return ABL_STEP_DONE;
}

/* The prefix in front, before any circuit is run. */
static abl_step prefix_work(abl_rpc *rpc) {
    abl_sweep_run *run = rpc->state;
    abl_batches *batches = &run->circuits.batches;
    (void)!abl_kv_use_apply(&run->kv, &run->tokenized, &batches->prefix, &rpc->status);
    batches->dataset = run->tokenized;
    return ABL_STEP_DONE;
}

static void go(abl_rpc *rpc) {
    abl_sweep_run *run = rpc->state;
    abl_rpc_run(rpc, run->slot, ABL_TASK_CLASS_JOB, run->step_cb, run->done_cb);
}

static void prefix_done(abl_rpc *rpc) {
    abl_sweep_run *run = rpc->state;
    if (abl_kv_use_keep(rpc, &run->kv) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    go(rpc);
}

static void tokenize_done(abl_rpc *rpc) {
    abl_sweep_run *run = rpc->state;
    if (abl_kv_use_find(rpc, &run->kv) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (run->kv.length > 0) {
        abl_rpc_run(rpc, run->slot, ABL_TASK_CLASS_JOB, prefix_work, prefix_done);
        return;
    }
    go(rpc);
}

void abl_sweep_run_start(abl_rpc *rpc, abl_step (*step_cb)(abl_rpc *rpc),
                         void (*done_cb)(abl_rpc *rpc)) {
    abl_sweep_run *run = rpc->state;
    run->step_cb = step_cb;
    run->done_cb = done_cb;
    abl_rpc_pool(rpc, tokenize_work, tokenize_done);
}

bool abl_sweep_run_admit(abl_rpc *rpc, const abl_sweep_run *run, uint64_t host_bytes) {
    const abl_device device = run->slot->device;
    const char *fewer =
        "ask for fewer circuits (sweep.edge_counts) or prompts (sweep.prompt_count) at once";
    uint64_t bytes = (uint64_t)abl_circuits_bytes_estimate(&run->circuits);
    const char *advice = host_bytes > bytes ? fewer : "use a smaller sweep.batch_size";
    if (device.type == ABL_DEVICE_CPU) {
        bytes += host_bytes;
    } else if (abl_server_admit(rpc->server, ABL_HOST, host_bytes, fewer, &rpc->status) !=
               ABL_CODE_OK) {
        return false;
    }
    return abl_server_admit(rpc->server, device, bytes, advice, &rpc->status) == ABL_CODE_OK;
}

bool abl_sweep_run_next(abl_rpc *rpc, bool all_sent, Ablate__V1__SweepProgress **progress,
                        const ProtobufCMessage *response) {
    abl_sweep_run *run = rpc->state;
    Ablate__V1__SweepProgress message = ABLATE__V1__SWEEP_PROGRESS__INIT;
    if (run->progress.due) {
        message.done_count = run->progress.done;
        message.total_count = run->progress.total;
        run->progress.due = false;
        *progress = &message;
        abl_rpc_send(rpc, response);
        *progress = NULL;
    } else if (run->progress.paused) {
        go(rpc);
    } else if (all_sent) {
        abl_rpc_finish_ok(rpc);
    } else {
        return true;
    }
    return false;
}

void abl_sweep_run_end(abl_sweep_run *run) {
    abl_dataset_destroy(run->tokenized);
    abl_kv_use_finish(&run->kv);
    abl_values_unref(run->scores);
    abl_graph_hooks_unref(run->hooks);
}
