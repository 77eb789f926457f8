/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass takes a snapshot of its graph's mask when the call comes, by holding a reference, so a
 * mask that is set while the pass waits belongs to the next one. A graph without an ablation runs
 * the plain model, whose pass is the faster. */
#include "server/service/run_pass.h"

#include "core/base/mem.h"
#include "core/patch/backward.h"
#include "core/patch/hooked.h"
#include "core/patch/patch.h"
#include "server/convert/ablation.h"
#include "server/service/kv_cache.h"

#include <string.h>

/* ---- the prefix --------------------------------------------------------------------------- */

/* What the request says about a KV cache; which of a graph's is chosen when there are tokens. */
static bool prepare_prefix(abl_rpc *rpc, abl_pass *pass) {
    const abl_run_request *request = &pass->request;
    bool named = pass->graph != NULL && abl_resident_graph_kv_cache(pass->graph, 0) != NULL;
    if (request->use_prefix_cache && (named || pass->out_slice != ABL_OUT_SLICE_LAST)) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_CACHE_INVALID",
                       named ? "use_prefix_cache is given, and the graph names its KV caches; "
                               "leave it unset"
                             : "use_prefix_cache is for OUT_SLICE_LAST_SEQ: logits at other "
                               "positions would be the tail's only; name the cache with "
                               "kv_cache_id");
        return false;
    }
    if (request->kv_cache_id == NULL) {
        return true;
    }
    pass->kv_cache = abl_kv_cache_named(rpc, pass->model, request->kv_cache_id);
    if (pass->kv_cache == NULL) {
        return false;
    }
    if (named && !abl_object_needs(&pass->graph->object, &pass->kv_cache->object)) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_CACHE_INVALID",
                       "kv_cache_id is %s, and graph %s names other KV caches; leave it unset, or "
                       "use a graph without kv_cache_ids",
                       pass->kv_cache->object.id, pass->graph->object.id);
        return false;
    }
    return true;
}

/* The longest of the graph's caches that fits; if none does, the first, to be told why. */
static void choose_prefix(abl_pass *pass) {
    if (pass->kv_cache != NULL || pass->graph == NULL) {
        return;
    }
    const abl_token_batch *batch = &pass->batch;
    abl_status ignored;
    for (size_t i = 0; abl_resident_graph_kv_cache(pass->graph, i) != NULL; i++) {
        abl_resident_kv_cache *cache = abl_resident_graph_kv_cache(pass->graph, i);
        bool longer = pass->kv_cache == NULL ||
                      abl_prefix_length(cache->prefix) > abl_prefix_length(pass->kv_cache->prefix);
        if (longer && abl_prefix_check_prompts(cache->prefix, "prompts", batch->tokens,
                                               batch->batch, batch->seq, &ignored) == ABL_CODE_OK) {
            pass->kv_cache = cache;
        }
    }
    if (pass->kv_cache == NULL) {
        pass->kv_cache = abl_resident_graph_kv_cache(pass->graph, 0);
    }
}

static const abl_prefix *prefix_of(const abl_pass *pass) {
    return pass->kv_cache == NULL ? NULL : pass->kv_cache->prefix;
}

/* Prompts become the tails behind the prefix. */
static abl_code cut_batch(abl_rpc *rpc, const abl_prefix *prefix, const char *field,
                          abl_token_batch *batch) {
    if (prefix == NULL) {
        return ABL_CODE_OK;
    }
    abl_code code = abl_prefix_check_prompts(prefix, field, batch->tokens, batch->batch, batch->seq,
                                             &rpc->status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const int64_t cut = abl_prefix_length(prefix);
    const int64_t left = batch->seq - cut;
    int32_t *tails = abl_arena_alloc(rpc->arena, (size_t)(batch->batch * left) * sizeof *tails);
    if (tails == NULL) {
        return abl_fail_oom(&rpc->status);
    }
    for (int64_t row = 0; row < batch->batch; row++) {
        memcpy(tails + row * left, batch->tokens + row * batch->seq + cut,
               (size_t)left * sizeof *tails);
    }
    *batch = (abl_token_batch){.tokens = tails, .batch = batch->batch, .seq = left};
    return ABL_CODE_OK;
}

static abl_code tokenize(abl_rpc *rpc, abl_pass *pass) {
    return abl_prompts_tokens("prompts", &pass->request.prompts, pass->model->model,
                              pass->model->bos_default, rpc->arena, &pass->batch, &rpc->status);
}

static abl_step tokenize_work(abl_rpc *rpc) {
    (void)!tokenize(rpc, rpc->state);
    return ABL_STEP_DONE;
}

/* The longest prefix that makes no difference to what the pass is intervened in with. */
static int64_t longest_unseen(const abl_pass *pass) {
    int64_t length = pass->batch.seq;
    for (size_t i = 0; i < pass->hooks.list.count; i++) {
        const abl_intervention *item = &pass->hooks.list.items[i];
        int64_t most = abl_intervention_prefix_max(abl_model_get_config(pass->model->model), item,
                                                   pass->batch.seq);
        bool all = abl_op_captures(item->op) && item->positions.count == 0;
        most = all ? 0 : most;
        length = most < length ? most : length;
    }
    return length;
}

static void tokenize_done(abl_rpc *rpc) {
    abl_pass *pass = rpc->state;
    pass->kv_cache = abl_kv_cache_longest(rpc->server, pass->model, pass->batch.tokens,
                                          pass->batch.batch, pass->batch.seq, longest_unseen(pass));
    if (pass->kv_cache != NULL) {
        abl_rpc_pin(rpc, &pass->kv_cache->object);
    }
    pass->tokenized_cb(rpc);
}

void abl_pass_start(abl_rpc *rpc, void (*run_cb)(abl_rpc *rpc)) {
    abl_pass *pass = rpc->state;
    if (!pass->request.use_prefix_cache) {
        run_cb(rpc);
        return;
    }
    pass->tokenized_cb = run_cb;
    abl_rpc_pool(rpc, tokenize_work, tokenize_done);
}

/* ---- the pass ----------------------------------------------------------------------------- */

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
        pass->mask_function = pass->graph->mask_function;
        pass->mask_dropout = pass->graph->mask_dropout;
        unspecified = pass->graph->out_slice;
    } else {
        abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_MODEL, request->model_id);
        if (object == NULL) {
            return false;
        }
        pass->model = (abl_resident_model *)object;
    }
    if (request->ablation_id != NULL) {
        pass->ablation =
            (abl_resident_ablation *)abl_rpc_use(rpc, ABL_OBJECT_ABLATION, request->ablation_id);
        if (pass->ablation == NULL || abl_convert_ablation_fits(pass->ablation, pass->model, NULL,
                                                                &rpc->status) != ABL_CODE_OK) {
            return false;
        }
    }
    pass->out_slice = abl_convert_out_slice(request->out_slice, unspecified);
    pass->slot = abl_server_slot(rpc->server, abl_model_device(pass->model->model));
    if (!prepare_prefix(rpc, pass) ||
        !abl_hook_set_init(rpc, &pass->hooks, pass->model, pass->graph, request->interventions,
                           request->intervention_count)) {
        return false;
    }
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

/* What is to be captured; whose pass it is, its caller fills in. */
static abl_forward_options hooks_of(abl_rpc *rpc, const abl_pass *pass) {
    return (abl_forward_options){
        .hooks = (const char *const *)pass->request.names,
        .hook_count = pass->request.name_count,
        .capture_all = pass->request.all_names,
        .per_head_inputs = pass->request.per_head_inputs,
        .stop_at_layer = pass->stop_at_layer,
        .positions = pass->request.positions,
        .heads = pass->request.heads,
        .rows = pass->request.rows,
        .incl_bwd = pass->request.incl_bwd,
        .scalar = pass->scalar,
        .interventions = pass->hooks.list, /* of a patched pass, those of its own options count */
        .cancelled_cb = pass_cancelled,
        .user_data = &rpc->task,
    };
}

/* The result's logits to the host, where there are any. */
static void take_logits(abl_rpc *rpc, abl_pass *pass) {
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

static void run_plain(abl_rpc *rpc, abl_pass *pass) {
    abl_forward_options options = hooks_of(rpc, pass);
    options.model = pass->model->model;
    options.prefix = prefix_of(pass);
    options.tokens = pass->batch.tokens;
    options.batch = pass->batch.batch;
    options.seq = pass->batch.seq;
    options.out_slice = pass->out_slice;
    if (abl_server_admit(rpc->server, pass->slot->device, abl_forward_bytes(&options),
                         "use a smaller batch or fewer hook points", &rpc->status) == ABL_CODE_OK &&
        abl_forward(&options, &pass->result, &rpc->status) == ABL_CODE_OK) {
        take_logits(rpc, pass);
    }
}

/* Whether more than logits is wanted of a patched pass. */
static bool is_hooked(const abl_pass *pass) {
    return pass->request.name_count > 0 || pass->request.all_names || pass->stop_at_layer >= 0 ||
           pass->hooks.list.count > 0;
}

static uint64_t patched_bytes(abl_rpc *rpc, const abl_pass *pass,
                              const abl_patch_options *options) {
    const abl_forward_options hooks = hooks_of(rpc, pass);
    if (pass->logits_gradient != NULL) {
        return (uint64_t)abl_patch_backward_bytes(options);
    }
    return is_hooked(pass) ? abl_patch_hooked_bytes(options, &hooks)
                           : (uint64_t)abl_patch_bytes_estimate(options);
}

static abl_tensor *given_gradient(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    const Ablate__V1__Tensor *gradient = user_data;
    (void)logits;
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 2, gradient->shape, gradient->data.data);
}

static void run_backward(abl_rpc *rpc, abl_pass *pass, const abl_patch_options *options) {
    Ablate__V1__Tensor gradient = *pass->logits_gradient;
    if (gradient.shape[0] != pass->logit_shape[0] || gradient.shape[1] != pass->logit_shape[1]) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "GRADIENT_SHAPE",
                       "logits_gradient is [%lld, %lld]; the logits at the last position are "
                       "[%lld, %lld]",
                       (long long)gradient.shape[0], (long long)gradient.shape[1],
                       (long long)pass->logit_shape[0], (long long)pass->logit_shape[1]);
        return;
    }
    pass->mask_gradient = abl_values_create(pass->mask->count);
    if (pass->mask_gradient == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return;
    }
    pass->mask_gradient->batch = pass->mask->batch;
    (void)!abl_patch_backward(options, given_gradient, &gradient, NULL, pass->mask_gradient->values,
                              &rpc->status);
}

static void run_patch(abl_rpc *rpc, abl_pass *pass, const abl_patch_options *options) {
    if (pass->logits_gradient != NULL) {
        run_backward(rpc, pass, options);
        return;
    }
    if (is_hooked(pass)) {
        const abl_forward_options hooks = hooks_of(rpc, pass);
        if (abl_patch_hooked(options, &hooks, &pass->result, &rpc->status) == ABL_CODE_OK) {
            take_logits(rpc, pass);
        }
        return;
    }
    pass->logits = abl_malloc((size_t)pass->logit_count * sizeof(float));
    if (pass->logits == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else if (abl_task_cancelled(&rpc->task)) {
        (void)abl_fail(&rpc->status, ABL_CODE_CANCELLED, "RUN_CANCELLED", "the client left");
    } else {
        (void)!abl_patch_forward(options, pass->logits, &rpc->status);
    }
}

/* A resident ablation must fit the pass; another is made of the request's prompts. */
static abl_code make_ablation(abl_rpc *rpc, abl_pass *pass, abl_sources **ret_sources) {
    const abl_run_request *request = &pass->request;
    const long long batch = (long long)pass->batch.batch;
    const long long seq = (long long)pass->batch.seq;
    if (pass->ablation != NULL) {
        int32_t rows = abl_sources_rows(pass->ablation->sources);
        int32_t positions = abl_sources_seq(pass->ablation->sources);
        int32_t behind = abl_sources_prefix_length(pass->ablation->sources);
        return (rows == 1 || rows == batch) && positions == seq &&
                       behind == abl_prefix_length(prefix_of(pass))
                   ? ABL_CODE_OK
                   : abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SHAPE",
                              "ablation.ablation_id: %s is of %d prompts of %d tokens behind %d, "
                              "and prompts is [%lld, %lld] behind %lld; it must be as long, and of "
                              "as many prompts or a mean",
                              pass->ablation->object.id, rows, positions, behind, batch, seq,
                              (long long)abl_prefix_length(prefix_of(pass)));
    }
    if (request->ablation == ABL_ABLATION_ZERO) {
        return ABL_CODE_OK;
    }
    abl_token_batch other;
    abl_code code = abl_prompts_tokens("ablation.prompts", &request->ablated, pass->model->model,
                                       pass->model->bos_default, rpc->arena, &other, &rpc->status);
    if (code == ABL_CODE_OK) {
        code = cut_batch(rpc, prefix_of(pass), "ablation.prompts", &other);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    bool rows_fit = request->ablation != ABL_ABLATION_RESAMPLE || other.batch == batch;
    if (!rows_fit || other.seq != seq) {
        return abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SHAPE",
                        "ablation.prompts is [%lld, %lld] tokens, prompts is [%lld, %lld]; they "
                        "must be as long, and for RESAMPLE as many",
                        (long long)other.batch, (long long)other.seq, batch, seq);
    }
    /* Under the graph's hooks, as all its runs; what the request adds is about its own pass. */
    const abl_patch_options run = {.model = pass->model->model,
                                   .graph = pass->graph->graph,
                                   .prefix = prefix_of(pass),
                                   .tokens = other.tokens,
                                   .batch = (int32_t)other.batch,
                                   .seq = (int32_t)other.seq,
                                   .interventions =
                                       abl_graph_hooks_interventions(pass->hooks.of_graph)};
    return abl_ablation_create(&run, request->ablation, ret_sources, &rpc->status);
}

static void run_patched(abl_rpc *rpc, abl_pass *pass) {
    abl_patch_options options = {
        .model = pass->model->model,
        .graph = pass->graph->graph,
        .prefix = prefix_of(pass),
        .tokens = pass->batch.tokens,
        .batch = (int32_t)pass->batch.batch,
        .seq = (int32_t)pass->batch.seq,
        .mask = pass->mask->values,
        .mask_batch = pass->mask->batch,
        .mask_function = pass->mask_function,
        .mask_dropout = pass->mask_dropout,
        .seed = pass->request.seed,
        .interventions = pass->hooks.list,
        .out_slice = pass->out_slice,
    };
    if (pass->mask->batch != 0 && pass->mask->batch != pass->batch.batch) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "MASK_BATCH_MISMATCH",
                       "the graph's mask is for batches of %d prompts (SetMaskBatchSize), and this "
                       "pass has %lld",
                       pass->mask->batch, (long long)pass->batch.batch);
        return;
    }
    int32_t seq_len = abl_graph_options_of(pass->graph->graph)->seq_len;
    if (seq_len != 0 && seq_len != pass->batch.seq) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "SEQ_LEN_MISMATCH",
                       "the prompts have %lld tokens (BOS included, a KV cache's not), and this "
                       "graph's edges are for %d positions",
                       (long long)pass->batch.seq, seq_len);
        return;
    }
    if (abl_server_admit(rpc->server, pass->slot->device, patched_bytes(rpc, pass, &options),
                         "use a smaller batch", &rpc->status) != ABL_CODE_OK) {
        return;
    }
    abl_sources *sources = NULL;
    if (make_ablation(rpc, pass, &sources) != ABL_CODE_OK) {
        return;
    }
    options.ablated = pass->ablation != NULL ? pass->ablation->sources : sources;
    run_patch(rpc, pass, &options);
    abl_sources_destroy(sources);
}

void abl_pass_run(abl_rpc *rpc, abl_pass *pass) {
    if (pass->batch.tokens == NULL && tokenize(rpc, pass) != ABL_CODE_OK) {
        return;
    }
    choose_prefix(pass);
    if (cut_batch(rpc, prefix_of(pass), "prompts", &pass->batch) != ABL_CODE_OK ||
        plan_logits(rpc, pass) != ABL_CODE_OK ||
        abl_convert_scalar(pass->request.gradient_of, pass->batch.batch,
                           abl_model_get_config(pass->model->model), rpc->arena, &pass->scalar,
                           &rpc->status) != ABL_CODE_OK) {
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
    abl_values_unref(pass->mask_gradient);
    abl_hook_set_end(&pass->hooks);
    abl_free(pass->logits);
    if (pass->kv_cache != NULL && rpc->status.code == ABL_CODE_OK) {
        abl_kv_cache_hit(rpc->server, pass->kv_cache);
    }
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
