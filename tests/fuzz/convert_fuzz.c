/* SPDX-License-Identifier: Apache-2.0
 *
 * A request from anyone, up to where a model is needed: the first byte picks its type, the others
 * are its bytes. Invariants beyond "no crash": a message that was taken stays inside its arena and
 * can be packed again; a refusal says why; what a conversion lets through is inside its limits.
 *
 * What belongs to models and algorithms is stood in for below, so that the target needs no libtorch
 * and every input is cheap. */
#include "ablate/v1/admin.pb-c.h"
#include "ablate/v1/dataset.pb-c.h"
#include "ablate/v1/evaluate.pb-c.h"
#include "ablate/v1/model.pb-c.h"
#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/convert/ablation.h"
#include "server/convert/graph.h"
#include "server/convert/hooks.h"
#include "server/convert/kv_cache.h"
#include "server/convert/mask.h"
#include "server/convert/prune.h"
#include "server/convert/run.h"
#include "server/convert/scores.h"
#include "server/convert/sweep.h"
#include "server/convert/wire.h"

#include <math.h>

const abl_model_config *abl_model_get_config(const abl_model *model) {
    (void)model;
    static const abl_model_config config = {
        .n_layers = 2, .n_heads = 2, .n_kv_heads = 2, .n_ctx = 16};
    return &config;
}

uint64_t abl_model_bytes(const abl_model *model) {
    (void)model;
    return 0;
}

void abl_model_unref(abl_model *model) {
    (void)model;
}

int64_t abl_prefix_length(const abl_prefix *prefix) {
    return prefix == NULL ? 0 : 1;
}

const int32_t *abl_prefix_tokens(const abl_prefix *prefix) {
    ABL_ASSERT(prefix != NULL);
    return NULL;
}

int64_t abl_prefix_bytes(const abl_prefix *prefix) {
    return prefix == NULL ? 0 : 1;
}

void abl_prefix_destroy(abl_prefix *prefix) {
    ABL_ASSERT(prefix == NULL);
}

int abl_tensor_rank(const abl_tensor *tensor) {
    (void)tensor;
    return 0;
}

int64_t abl_tensor_size(const abl_tensor *tensor, int dim) {
    (void)tensor;
    return dim;
}

/* The real one reads lists and values to their ends. */
abl_code abl_intervention_check(const abl_model_config *config, const abl_intervention *item,
                                const abl_pass_shape *shape, abl_status *ret_status) {
    int64_t count = item->values == NULL ? 0 : 1;
    double sum = 0;
    for (int i = 0; i < item->value_rank; i++) {
        count *= item->value_shape[i];
    }
    for (int64_t i = 0; i < count; i++) {
        sum += (double)item->values[i];
    }
    for (size_t i = 0; i < item->heads.count; i++) {
        sum += item->heads.indices[i];
    }
    (void)config;
    return isnan(sum) && shape->seq == 0
               ? abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_VALUE", "not a number")
               : ABL_CODE_OK;
}

void abl_graph_hooks_unref(abl_graph_hooks *hooks) {
    ABL_ASSERT(hooks == NULL);
}

int64_t abl_graph_hooks_bytes(const abl_graph_hooks *hooks) {
    ABL_ASSERT(hooks == NULL);
    return 0;
}

size_t abl_graph_hooks_count(const abl_graph_hooks *hooks) {
    ABL_ASSERT(hooks == NULL);
    return 0;
}

abl_model_processing abl_model_processing_hf(void) {
    return (abl_model_processing){.fold_norm = false};
}

int64_t abl_job_done(const abl_job *job) {
    return job->done;
}

const char *abl_faithfulness_name(abl_faithfulness target) {
    (void)target;
    return "target";
}

const char *abl_prune_algorithm_name(abl_prune_algorithm algorithm) {
    (void)algorithm;
    return "algorithm";
}

const char *abl_grad_function_name(abl_grad_function function) {
    (void)function;
    return "grad";
}

const char *abl_answer_function_name(abl_answer_function function) {
    (void)function;
    return "answer";
}

const char *abl_ablation_name(abl_ablation ablation) {
    (void)ablation;
    return "ablation";
}

void abl_sources_destroy(abl_sources *sources) {
    (void)sources;
}

int64_t abl_sources_bytes(const abl_sources *sources) {
    (void)sources;
    return 0;
}

int32_t abl_sources_rows(const abl_sources *sources) {
    (void)sources;
    return 1;
}

int32_t abl_sources_seq(const abl_sources *sources) {
    (void)sources;
    return 1;
}

int32_t abl_sources_prefix_length(const abl_sources *sources) {
    (void)sources;
    return 0;
}

const char *abl_eap_ig_method_name(abl_eap_ig_method method) {
    (void)method;
    return "method";
}

/* New ones at the end: the corpus counts from the start. */
static const ProtobufCMessageDescriptor *const requests[] = {
    &ablate__v1__submit_job_request__descriptor,
    &ablate__v1__set_patch_mask_request__descriptor,
    &ablate__v1__forward_request__descriptor,
    &ablate__v1__run_with_cache_request__descriptor,
    &ablate__v1__run_circuits_request__descriptor,
    &ablate__v1__evaluate_circuits_request__descriptor,
    &ablate__v1__create_graph_request__descriptor,
    &ablate__v1__stream_prune_scores_request__descriptor,
    &ablate__v1__list_graphs_request__descriptor,
    &ablate__v1__list_jobs_request__descriptor,
    &ablate__v1__list_edges_request__descriptor,
    &ablate__v1__list_nodes_request__descriptor,
    &ablate__v1__get_graph_request__descriptor,
    &ablate__v1__delete_graph_request__descriptor,
    &ablate__v1__watch_job_request__descriptor,
    &ablate__v1__get_job_request__descriptor,
    &ablate__v1__cancel_job_request__descriptor,
    &ablate__v1__get_prune_scores_request__descriptor,
    &ablate__v1__get_patch_mask_request__descriptor,
    &ablate__v1__reset_patch_mask_request__descriptor,
    &ablate__v1__upload_dataset_request__descriptor,
    &ablate__v1__list_datasets_request__descriptor,
    &ablate__v1__delete_dataset_request__descriptor,
    &ablate__v1__list_model_files_request__descriptor,
    &ablate__v1__load_model_request__descriptor,
    &ablate__v1__upload_model_request__descriptor,
    &ablate__v1__unload_model_request__descriptor,
    &ablate__v1__get_model_request__descriptor,
    &ablate__v1__list_models_request__descriptor,
    &ablate__v1__list_hook_points_request__descriptor,
    &ablate__v1__to_tokens_request__descriptor,
    &ablate__v1__to_str_tokens_request__descriptor,
    &ablate__v1__to_string_request__descriptor,
    &ablate__v1__get_server_info_request__descriptor,
    &ablate__v1__create_ablation_request__descriptor,
    &ablate__v1__list_ablations_request__descriptor,
    &ablate__v1__get_ablation_request__descriptor,
    &ablate__v1__delete_ablation_request__descriptor,
    &ablate__v1__create_kv_cache_request__descriptor,
    &ablate__v1__list_kv_caches_request__descriptor,
    &ablate__v1__delete_kv_cache_request__descriptor,
    &ablate__v1__create_prune_scores_request__descriptor,
    &ablate__v1__measure_roc_request__descriptor,
    &ablate__v1__measure_completeness_request__descriptor,
    &ablate__v1__compare_scores_request__descriptor,
    &ablate__v1__list_parameters_request__descriptor,
    &ablate__v1__get_parameter_request__descriptor,
    &ablate__v1__input_to_embed_request__descriptor,
    &ablate__v1__list_wrappers_request__descriptor,
    &ablate__v1__mask_backward_request__descriptor,
    &ablate__v1__set_mask_function_request__descriptor,
    &ablate__v1__set_mask_batch_size_request__descriptor,
};

/* What a conversion may answer, and must say when it refuses. */
static bool taken(abl_code code, const abl_status *status) {
    if (code != ABL_CODE_OK) {
        ABL_ASSERT(status->code == code && code != ABL_CODE_INTERNAL);
        ABL_ASSERT(status->reason != NULL && status->message[0] != '\0');
    }
    return code == ABL_CODE_OK;
}

static abl_graph *make_graph(size_t size) {
    const abl_graph_options options = {.layer_count = 2,
                                       .head_count = 2,
                                       .kv_head_count = 1 + (int32_t)(size % 2),
                                       .simple = size % 5 == 4,
                                       .seq_len = size % 3 == 0 ? 3 : 0};
    abl_graph *graph = NULL;
    ABL_ASSERT(abl_graph_create(&options, &graph, NULL) == ABL_CODE_OK);
    return graph;
}

static void convert_spec(const Ablate__V1__PruneJobSpec *message, const abl_graph *graph,
                         abl_arena *arena) {
    abl_job_request request;
    abl_status status = {0};
    if (!taken(abl_convert_job_spec(message, &request, &status), &status)) {
        return;
    }
    ABL_ASSERT(request.batch_size > 0 && request.batch_size <= ABL_BATCH_MAX);
    ABL_ASSERT(isfinite(request.options.mask_value) && request.top_k > 0);
    int64_t *edges = NULL;
    int64_t count = 0;
    if (taken(abl_convert_job_edges(&request, graph, arena, &edges, &count, &status), &status)) {
        for (int64_t i = 0; i < count; i++) {
            ABL_ASSERT(edges[i] >= 0 && edges[i] < abl_graph_edge_count(graph));
        }
    }
    (void)!abl_convert_algorithm_json(&request, NULL, true, request.prompt_count, arena);
}

/* A mask of `batch` rows, or without any. */
static void convert_mask(const Ablate__V1__SetPatchMaskRequest *message, const abl_graph *graph,
                         int32_t batch) {
    abl_status status = {0};
    if (!taken(abl_convert_mask_check(message, &status), &status)) {
        return;
    }
    int64_t edges = abl_graph_edge_count(graph);
    int64_t count = edges * (batch == 0 ? 1 : batch);
    abl_values *current = abl_values_create(count);
    abl_values *scores = abl_values_create(edges);
    abl_values *values = abl_values_create(count);
    ABL_ASSERT(current != NULL && scores != NULL && values != NULL);
    current->batch = values->batch = batch;
    for (int64_t i = 0; i < edges; i++) {
        scores->values[i] = (float)(i * 7 % 11 - 5);
    }
    if (taken(abl_convert_mask(message, graph, current, scores, values, &status), &status)) {
        int64_t nonzero_count = 0;
        for (int64_t i = 0; i < count; i++) {
            ABL_ASSERT(isfinite(values->values[i]));
            nonzero_count += values->values[i] != 0;
        }
        ABL_ASSERT(values->nonzero_count == nonzero_count);
    }
    abl_values_unref(current);
    abl_values_unref(scores);
    abl_values_unref(values);
}

static void convert_backward(const Ablate__V1__MaskBackwardRequest *message, abl_arena *arena) {
    abl_run_request request;
    abl_status status = {0};
    if (taken(abl_convert_mask_backward(message, arena, &request, &status), &status)) {
        const Ablate__V1__Tensor *gradient = message->logits_gradient;
        ABL_ASSERT(request.patched && gradient->n_shape == 2);
        ABL_ASSERT((size_t)(gradient->shape[0] * gradient->shape[1]) * sizeof(float) ==
                   gradient->data.len);
    }
}

static void convert_function(const Ablate__V1__SetMaskFunctionRequest *message) {
    abl_mask_function function = ABL_MASK_FUNCTION_COUNT;
    abl_status status = {0};
    if (taken(abl_convert_mask_function_checked(message, &function, &status), &status)) {
        ABL_ASSERT((unsigned)function < ABL_MASK_FUNCTION_COUNT && message->dropout_p < 1);
    }
}

static void convert_new_scores(const Ablate__V1__CreatePruneScoresRequest *message,
                               const abl_graph *graph) {
    abl_status status = {0};
    if (!taken(abl_convert_new_scores_check(message, &status), &status)) {
        return;
    }
    int64_t count = abl_graph_edge_count(graph);
    abl_values *mask = abl_values_create(count);
    abl_values *values = abl_values_create(count);
    ABL_ASSERT(mask != NULL && values != NULL);
    if (taken(abl_convert_new_scores(message, graph, mask, values, &status), &status)) {
        for (int64_t i = 0; i < count; i++) {
            ABL_ASSERT(!isnan(values->values[i]));
        }
    }
    abl_values_unref(mask);
    abl_values_unref(values);
}

static void convert_roc(const Ablate__V1__MeasureRocRequest *message, const abl_graph *graph,
                        abl_arena *arena) {
    const bool by_job =
        message->reference_case == ABLATE__V1__MEASURE_ROC_REQUEST__REFERENCE_REFERENCE_JOB_ID;
    if (message->reference_case == ABLATE__V1__MEASURE_ROC_REQUEST__REFERENCE__NOT_SET) {
        return; /* the service refuses it */
    }
    const abl_edge_counts_options defaults = {.kind = ABL_EDGE_COUNTS_LOGARITHMIC};
    int64_t edge_count = abl_graph_edge_count(graph);
    abl_values *scores = abl_values_create(edge_count);
    uint8_t *in_reference = abl_calloc((size_t)edge_count, 1);
    int64_t *sizes = NULL;
    int32_t size_count = 0;
    int64_t found = -1;
    abl_status status = {0};
    ABL_ASSERT(scores != NULL && in_reference != NULL);
    if (taken(abl_convert_sizes(message->edge_counts, message->n_edge_counts, &defaults, edge_count,
                                arena, &sizes, &size_count, &status),
              &status)) {
        ABL_ASSERT(size_count > 0 && size_count <= ABL_CIRCUIT_COUNT_MAX);
    }
    if (taken(abl_convert_reference(message, graph, by_job ? scores : NULL, in_reference, &found,
                                    &status),
              &status)) {
        ABL_ASSERT(found >= 0 && found <= edge_count);
    }
    abl_free(in_reference);
    abl_values_unref(scores);
}

static void convert_sweep(const Ablate__V1__CircuitSweep *message, abl_arena *arena) {
    abl_sweep_request request;
    abl_status status = {0};
    int64_t *sizes = NULL;
    int32_t count = 0;
    float scores[1000];
    for (int i = 0; i < 1000; i++) {
        scores[i] = (float)(i * 7 % 11 - 5);
    }
    if (taken(abl_convert_sweep(message, &request, &status), &status) &&
        taken(abl_convert_sweep_sizes(&request, scores, 1000, arena, &sizes, &count, &status),
              &status)) {
        ABL_ASSERT(count > 0 && count <= ABL_CIRCUIT_COUNT_MAX);
        for (int32_t i = 0; i < count; i++) {
            ABL_ASSERT(sizes[i] >= (i == 0 ? 0 : sizes[i - 1]) && sizes[i] <= 1000);
        }
    }
}

static void convert_run(const ProtobufCMessage *message, abl_arena *arena) {
    abl_run_request request = {.gradient_of = NULL};
    abl_status status = {0};
    abl_code code;
    if (message->descriptor == &ablate__v1__forward_request__descriptor) {
        code = abl_convert_forward((const Ablate__V1__ForwardRequest *)message, arena, &request,
                                   &status);
    } else {
        code = abl_convert_run_with_cache((const Ablate__V1__RunWithCacheRequest *)message, arena,
                                          &request, &status);
    }
    if (!taken(code, &status)) {
        return;
    }
    ABL_ASSERT((request.model_id == NULL) != (request.graph_id == NULL));
    ABL_ASSERT(request.prompts.batch > 0 && request.prompts.batch <= ABL_BATCH_MAX);
    ABL_ASSERT(!request.use_prefix_cache || (request.kv_cache_id == NULL && !request.patched));
    int64_t sum = 0;
    for (int64_t i = 0;
         request.prompts.tokens != NULL && i < request.prompts.batch * request.prompts.seq; i++) {
        sum += request.prompts.tokens[i];
    }
    const abl_pass_shape shape = {.kv_heads = 2};
    for (size_t i = 0; i < request.intervention_count; i++) {
        abl_hook_request hook;
        if (taken(abl_convert_intervention("interventions", request.interventions[i],
                                           abl_model_get_config(NULL), &shape, arena, &hook,
                                           &status),
                  &status)) {
            ABL_ASSERT(hook.item.heads.count <= ABL_HOOK_INDEX_COUNT_MAX);
            ABL_ASSERT((hook.activations_id != NULL) == (hook.item.op == ABL_OP_PATCH));
        }
    }
    int stop = 0;
    abl_scalar scalar;
    if (taken(abl_convert_scalar(request.gradient_of, 2, abl_model_get_config(NULL), arena, &scalar,
                                 &status),
              &status)) {
        ABL_ASSERT(scalar.kind == ABL_SCALAR_LOSS || scalar.width > 0);
    }
    if (message->descriptor == &ablate__v1__run_with_cache_request__descriptor &&
        taken(abl_convert_stop_at_layer(request.stop_at_layer, 2, &stop, &status), &status)) {
        ABL_ASSERT(stop >= -1 && stop <= 2 && sum != INT64_MIN);
    }
}

static void convert_graph(const Ablate__V1__CreateGraphRequest *message) {
    abl_graph_options options;
    abl_out_slice slice = ABL_OUT_SLICE_LAST;
    abl_graph *graph = NULL;
    abl_status status = {0};
    if (taken(abl_convert_graph_options(message->options, abl_model_get_config(NULL), &options,
                                        &slice, &status),
              &status) &&
        taken(abl_graph_create(&options, &graph, &status), &status)) {
        ABL_ASSERT(abl_graph_edge_count(graph) > 0);
        abl_graph_destroy(graph);
    }
}

static void convert_ablation(const Ablate__V1__CreateAblationRequest *message, abl_arena *arena) {
    abl_ablation_request request;
    abl_status status = {0};
    if (!taken(abl_convert_create_ablation(message, arena, &request, &status), &status)) {
        return;
    }
    ABL_ASSERT(request.ablation != ABL_ABLATION_ZERO);
    ABL_ASSERT((unsigned)request.ablation < ABL_ABLATION_COUNT);
    ABL_ASSERT(request.batch_size > 0 && request.batch_size <= ABL_BATCH_MAX);
    ABL_ASSERT((request.dataset_id == NULL) == (request.prompts.batch > 0));
    const abl_ablation_made_of of = {
        .bos = true, .prompt_count = request.prompt_count, .tokens_hash = "00"};
    (void)!abl_convert_ablation_json(&request, &of, arena);
}

static void convert_kv_cache(const Ablate__V1__CreateKvCacheRequest *message, abl_arena *arena) {
    abl_prompts prompts;
    abl_status status = {0};
    if (taken(abl_convert_kv_cache_prompt(message, arena, &prompts, &status), &status)) {
        ABL_ASSERT(prompts.batch == 1);
    }
}

static void convert_page(int32_t page_size, const char *page_token) {
    abl_page page;
    abl_status status = {0};
    if (taken(abl_convert_page(page_size, page_token, &page, &status), &status)) {
        ABL_ASSERT(page.size > 0 && page.size <= 1000);
    }
}

static void convert_metrics(const Ablate__V1__EvaluateCircuitsRequest *message, abl_arena *arena) {
    convert_sweep(message->sweep, arena);
    abl_sweep_metrics metrics;
    abl_status status = {0};
    if (taken(abl_convert_metrics(message->metrics, message->n_metrics, &metrics, &status),
              &status)) {
        ABL_ASSERT(metrics.count > 0 && metrics.count <= ABL_METRIC_COUNT);
    }
}

static void convert(const ProtobufCMessage *message, const abl_graph *graph, abl_arena *arena) {
    const ProtobufCMessageDescriptor *type = message->descriptor;
    if (type == &ablate__v1__submit_job_request__descriptor) {
        convert_spec(((const Ablate__V1__SubmitJobRequest *)message)->spec, graph, arena);
    } else if (type == &ablate__v1__stream_prune_scores_request__descriptor) {
        convert_spec(((const Ablate__V1__StreamPruneScoresRequest *)message)->spec, graph, arena);
    } else if (type == &ablate__v1__set_patch_mask_request__descriptor) {
        convert_mask((const Ablate__V1__SetPatchMaskRequest *)message, graph, 0);
        convert_mask((const Ablate__V1__SetPatchMaskRequest *)message, graph, 2);
    } else if (type == &ablate__v1__mask_backward_request__descriptor) {
        convert_backward((const Ablate__V1__MaskBackwardRequest *)message, arena);
    } else if (type == &ablate__v1__set_mask_function_request__descriptor) {
        convert_function((const Ablate__V1__SetMaskFunctionRequest *)message);
    } else if (type == &ablate__v1__forward_request__descriptor ||
               type == &ablate__v1__run_with_cache_request__descriptor) {
        convert_run(message, arena);
    } else if (type == &ablate__v1__run_circuits_request__descriptor) {
        convert_sweep(((const Ablate__V1__RunCircuitsRequest *)message)->sweep, arena);
    } else if (type == &ablate__v1__evaluate_circuits_request__descriptor) {
        convert_metrics((const Ablate__V1__EvaluateCircuitsRequest *)message, arena);
    } else if (type == &ablate__v1__create_graph_request__descriptor) {
        convert_graph((const Ablate__V1__CreateGraphRequest *)message);
    } else if (type == &ablate__v1__create_ablation_request__descriptor) {
        convert_ablation((const Ablate__V1__CreateAblationRequest *)message, arena);
    } else if (type == &ablate__v1__create_prune_scores_request__descriptor) {
        convert_new_scores((const Ablate__V1__CreatePruneScoresRequest *)message, graph);
    } else if (type == &ablate__v1__measure_roc_request__descriptor) {
        convert_roc((const Ablate__V1__MeasureRocRequest *)message, graph, arena);
    } else if (type == &ablate__v1__measure_completeness_request__descriptor) {
        convert_sweep(((const Ablate__V1__MeasureCompletenessRequest *)message)->sweep, arena);
    } else if (type == &ablate__v1__list_graphs_request__descriptor) {
        const Ablate__V1__ListGraphsRequest *list = (const Ablate__V1__ListGraphsRequest *)message;
        convert_page(list->page_size, list->page_token);
    } else if (type == &ablate__v1__list_jobs_request__descriptor) {
        const Ablate__V1__ListJobsRequest *list = (const Ablate__V1__ListJobsRequest *)message;
        convert_page(list->page_size, list->page_token);
    } else if (type == &ablate__v1__list_kv_caches_request__descriptor) {
        const Ablate__V1__ListKvCachesRequest *list =
            (const Ablate__V1__ListKvCachesRequest *)message;
        convert_page(list->page_size, list->page_token);
    } else if (type == &ablate__v1__create_kv_cache_request__descriptor) {
        convert_kv_cache((const Ablate__V1__CreateKvCacheRequest *)message, arena);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const ProtobufCMessageDescriptor *type = requests[data[0] % ABL_COUNT_OF(requests)];
    size_t arena_bytes = abl_wire_arena_bytes(size - 1);
    abl_arena *arena = abl_arena_create(arena_bytes);
    ABL_ASSERT(arena != NULL);
    ProtobufCMessage *message = NULL;
    abl_status status = {0};
    if (taken(abl_wire_unpack(type, data + 1, size - 1, arena, &message, &status), &status)) {
        ABL_ASSERT(message->descriptor == type && protobuf_c_message_check(message));
        ABL_ASSERT(protobuf_c_message_get_packed_size(message) < 16 * size);
        abl_graph *graph = make_graph(size);
        convert(message, graph, arena);
        abl_graph_destroy(graph);
    } else {
        ABL_ASSERT(message == NULL);
    }
    ABL_ASSERT(abl_arena_bytes(arena) <= arena_bytes);
    abl_arena_destroy(arena);
    return 0;
}
