/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass takes a snapshot of its graph's mask when the call comes, by holding a reference, so a
 * mask that is set while the pass waits belongs to the next one. A graph without an ablation runs
 * the plain model, whose pass is the faster. */
#include "server/service/run_pass.h"

#include "core/base/mem.h"
#include "core/patch/patch.h"

bool abl_pass_prepare(abl_rpc *rpc, abl_pass *pass) {
    const abl_run_request *request = &pass->request;
    abl_out_slice unspecified = ABL_OUT_SLICE_LAST;
    if (request->graph_id != NULL) {
        abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
        if (object == NULL) {
            return false;
        }
        pass->graph = (abl_resident_graph *)object;
        pass->model = abl_resident_graph_model(pass->graph);
        abl_rpc_pin(rpc, &pass->model->object);
        pass->mask = abl_values_ref(pass->graph->mask);
        unspecified = pass->graph->out_slice;
    } else {
        abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_MODEL, request->model_id);
        if (object == NULL) {
            return false;
        }
        pass->model = (abl_resident_model *)object;
    }
    pass->out_slice = abl_convert_out_slice(request->out_slice, unspecified);
    pass->slot = abl_server_slot(rpc->server, abl_model_device(pass->model->model));
    return abl_convert_stop_at_layer(request->stop_at_layer,
                                     abl_model_get_config(pass->model->model)->n_layers,
                                     &pass->stop_at_layer, &rpc->status) == ABL_CODE_OK;
}

/* The shape of the logits, and whether they may be so large. */
static abl_code plan_logits(abl_rpc *rpc, abl_pass *pass) {
    int64_t vocab = abl_model_get_config(pass->model->model)->d_vocab_out;
    int64_t positions = pass->batch.seq;
    pass->logit_rank = 3;
    if (pass->out_slice == ABL_OUT_SLICE_LAST) {
        pass->logit_rank = 2;
        positions = 1;
    } else if (pass->out_slice == ABL_OUT_SLICE_NOT_FIRST) {
        positions = pass->batch.seq - 1;
    }
    pass->logit_shape[0] = pass->batch.batch;
    pass->logit_shape[1] = pass->logit_rank == 2 ? vocab : positions;
    pass->logit_shape[2] = vocab;
    /* batch, seq and vocab have limits whose product fits 64 bits */
    pass->logit_count = pass->batch.batch * positions * vocab;
    size_t bytes = (size_t)pass->logit_count * sizeof(float);
    if (pass->logit_bytes_max != 0 && bytes > pass->logit_bytes_max) {
        return abl_fail(&rpc->status, ABL_CODE_RESOURCE_EXHAUSTED, "MESSAGE_TOO_BIG",
                        "the logits have %zu bytes, and one message carries %zu: use RunWithCache "
                        "with no names, which streams them, or OUT_SLICE_LAST_SEQ, top_k, or a "
                        "smaller batch",
                        bytes, pass->logit_bytes_max);
    }
    return ABL_CODE_OK;
}

static bool pass_cancelled(void *user_data) {
    return abl_task_cancelled(user_data);
}

static void run_plain(abl_rpc *rpc, abl_pass *pass) {
    const abl_forward_options options = {
        .model = pass->model->model,
        .tokens = pass->batch.tokens,
        .batch = pass->batch.batch,
        .seq = pass->batch.seq,
        .out_slice = pass->out_slice,
        .hooks = (const char *const *)pass->request.names,
        .hook_count = pass->request.name_count,
        .capture_all = pass->request.all_names,
        .per_head_inputs = pass->request.per_head_inputs,
        .stop_at_layer = pass->stop_at_layer,
        .cancelled_cb = pass_cancelled,
        .user_data = &rpc->task,
    };
    if (abl_server_admit(rpc->server, abl_forward_bytes(&options),
                         "use a smaller batch or fewer hook points", &rpc->status) != ABL_CODE_OK ||
        abl_forward(&options, &pass->result, &rpc->status) != ABL_CODE_OK) {
        return;
    }
    if (pass->result.logits == NULL) {
        return;
    }
    pass->logits = abl_malloc((size_t)pass->logit_count * sizeof(float));
    abl_scope *scope = abl_scope_create(pass->slot->device);
    if (pass->logits == NULL || scope == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else {
        abl_tensor_to_floats(scope, pass->result.logits, pass->logits, (size_t)pass->logit_count);
        (void)!abl_scope_status(scope, &rpc->status);
    }
    abl_scope_destroy(scope);
}

static void run_patched(abl_rpc *rpc, abl_pass *pass) {
    abl_patch_options options = {
        .model = pass->model->model,
        .graph = pass->graph->graph,
        .tokens = pass->batch.tokens,
        .batch = (int32_t)pass->batch.batch,
        .seq = (int32_t)pass->batch.seq,
        .mask = pass->mask->values,
        .slice = abl_convert_patch_slice(pass->out_slice),
    };
    int32_t seq_len = abl_graph_options_of(pass->graph->graph)->seq_len;
    if (seq_len != 0 && seq_len != pass->batch.seq) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "SEQ_LEN_MISMATCH",
                       "the prompts have %lld tokens (BOS included), and this graph's edges are "
                       "for %d positions",
                       (long long)pass->batch.seq, seq_len);
        return;
    }
    if (abl_server_admit(rpc->server, (uint64_t)abl_patch_bytes_estimate(&options),
                         "use a smaller batch", &rpc->status) != ABL_CODE_OK) {
        return;
    }
    abl_sources *sources = NULL;
    if (pass->request.ablation != ABL_ABLATION_ZERO) {
        abl_token_batch other;
        if (abl_prompts_tokens("ablation.prompts", &pass->request.ablated, pass->model->model,
                               pass->model->bos_default, rpc->arena, &other,
                               &rpc->status) != ABL_CODE_OK) {
            return;
        }
        if (other.batch != pass->batch.batch || other.seq != pass->batch.seq) {
            (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SHAPE",
                           "ablation.prompts is [%lld, %lld] tokens, prompts is [%lld, %lld]; "
                           "they must be equal",
                           (long long)other.batch, (long long)other.seq,
                           (long long)pass->batch.batch, (long long)pass->batch.seq);
            return;
        }
        if (abl_sources_create(pass->model->model, NULL, other.tokens, (int32_t)other.batch,
                               (int32_t)other.seq, &sources, &rpc->status) != ABL_CODE_OK) {
            return;
        }
    }
    options.ablated = sources;
    pass->logits = abl_malloc((size_t)pass->logit_count * sizeof(float));
    if (pass->logits == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else if (abl_task_cancelled(&rpc->task)) {
        (void)abl_fail(&rpc->status, ABL_CODE_CANCELLED, "RUN_CANCELLED", "the client left");
    } else {
        (void)!abl_patch_forward(&options, pass->logits, &rpc->status);
    }
    abl_sources_destroy(sources);
}

void abl_pass_run(abl_rpc *rpc, abl_pass *pass) {
    if (abl_prompts_tokens("prompts", &pass->request.prompts, pass->model->model,
                           pass->model->bos_default, rpc->arena, &pass->batch,
                           &rpc->status) != ABL_CODE_OK ||
        plan_logits(rpc, pass) != ABL_CODE_OK) {
        return;
    }
    if (pass->request.patched) {
        run_patched(rpc, pass);
    } else {
        run_plain(rpc, pass);
    }
    abl_metrics_work(rpc->server->metrics, pass->request.patched ? 2 : 1, 0);
}

/* Tensors go on the thread of their device. */
typedef struct dropper {
    abl_task task;
    abl_forward_result result;
} dropper;

static abl_step drop_run(abl_task *task) {
    (void)task;
    return ABL_STEP_DONE;
}

static void drop_end(abl_task *task) {
    abl_forward_result_finish(&((dropper *)task)->result);
}

static void drop_done(abl_task *task) {
    abl_free(task);
}

void abl_pass_end(abl_rpc *rpc, abl_pass *pass) {
    abl_values_unref(pass->mask);
    abl_free(pass->logits);
    (void)rpc;
    if (pass->result.logits == NULL && pass->result.entries == NULL &&
        pass->result.residual == NULL) {
        return;
    }
    dropper *drop = abl_calloc(1, sizeof *drop);
    abl_status status;
    if (drop != NULL) {
        drop->result = pass->result;
        drop->task = (abl_task){.task_class = ABL_TASK_CLASS_INTERACTIVE,
                                .client = "(release)",
                                .run_cb = drop_run,
                                .end_cb = drop_end,
                                .done_cb = drop_done};
        if (abl_executor_submit(pass->slot->executor, &drop->task, &status) == ABL_CODE_OK) {
            return;
        }
    }
    abl_free(drop);
    abl_forward_result_finish(&pass->result); /* late, on the wrong thread, but not never */
}
