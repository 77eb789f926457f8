/* SPDX-License-Identifier: Apache-2.0
 *
 * The typed options of a spec become the core's options here, defaults and limits included; what
 * needs a model or a dataset is checked by those who have them. */
#include "server/convert/prune.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "server/convert/ablation.h"
#include "server/convert/acdc.h"
#include "server/convert/common.h"
#include "server/convert/graph.h"
#include "server/convert/training.h"
#include "server/convert/wire.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#define BATCH_SIZE_DEFAULT 8
#define TOP_K_DEFAULT 10
#define TOP_K_MAX 1000
#define GRAD_SAMPLES_MAX 1000
#define EAP_IG_STEPS_DEFAULT 5
#define EDGES_IN_JSON_MAX 1000

static abl_code convert_range(const char *field, int32_t value, int32_t initial, int32_t most,
                              const char *reason, int32_t *ret_value, abl_status *ret_status) {
    if (value < 0 || value > most) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                        "spec.%s is %d; it must be 0 (the default) to %d", field, value, most);
    }
    *ret_value = value == 0 ? initial : value;
    return ABL_CODE_OK;
}

/* The protocol's numbers are the core's plus one, and 0 is the first. */
static void convert_loss(int grad_function, int answer_function, abl_prune_options *options) {
    options->grad_function = (abl_grad_function)(grad_function == 0 ? 0 : grad_function - 1);
    options->answer_function =
        (abl_answer_function)(answer_function == 0 ? 0 : answer_function - 1);
}

static abl_code convert_mask_gradient(const Ablate__V1__MaskGradient *message,
                                      abl_prune_options *options, abl_status *ret_status) {
    options->algorithm = ABL_PRUNE_MASK_GRADIENT;
    options->ablation = abl_convert_ablation_type(message->ablation_type);
    convert_loss((int)message->grad_function, (int)message->answer_function, options);
    if (message->at_case == ABLATE__V1__MASK_GRADIENT__AT_MASK_VALUE) {
        if (!isfinite(message->mask_value)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                            "mask_gradient.mask_value must be finite");
        }
        options->mask_value = message->mask_value;
    } else if (message->at_case == ABLATE__V1__MASK_GRADIENT__AT_INTEGRATED_GRAD_SAMPLES) {
        int32_t samples = message->integrated_grad_samples;
        if (samples < 1 || samples > GRAD_SAMPLES_MAX) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                            "mask_gradient.integrated_grad_samples is %d; it must be 1 to %d",
                            samples, GRAD_SAMPLES_MAX);
        }
        options->integrated_grad_samples = samples;
    }
    return ABL_CODE_OK;
}

_Static_assert((int)ABLATE__V1__GRAD_FUNCTION__GRAD_FUNCTION_LOGIT_EXP == ABL_GRAD_LOGIT_EXP + 1,
               "the grad functions are in the same order");
_Static_assert((int)ABLATE__V1__ANSWER_FUNCTION__ANSWER_FUNCTION_MSE == ABL_ANSWER_MSE + 1,
               "the answer functions are in the same order");

static abl_code convert_eap_ig(const Ablate__V1__EapIg *message, abl_prune_options *options,
                               abl_status *ret_status) {
    int method = message->method == 0 ? 0 : (int)message->method - 1;
    bool stepped = method != ABL_EAP_IG_CLEAN_CORRUPTED;
    if (message->steps < 0 || message->steps > ABL_EAP_IG_STEPS_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "eap_ig.steps is %d; it must be 0 (then %d) to %d", message->steps,
                        EAP_IG_STEPS_DEFAULT, ABL_EAP_IG_STEPS_MAX);
    }
    if (!stepped && message->steps != 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "eap_ig.steps is %d, and the method CLEAN_CORRUPTED takes none",
                        message->steps);
    }
    options->algorithm = ABL_PRUNE_EAP_IG;
    options->ablation = abl_convert_ablation_type(message->ablation_type);
    if (method != ABL_EAP_IG_ACTIVATIONS && options->ablation != ABL_ABLATION_RESAMPLE) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "eap_ig.ablation_type must be RESAMPLE, for its path runs from the corrupt "
                        "prompt's input to the clean one's; only the method ACTIVATIONS takes "
                        "others");
    }
    options->eap_ig.method = (abl_eap_ig_method)method;
    options->eap_ig.steps = stepped && message->steps == 0 ? EAP_IG_STEPS_DEFAULT : message->steps;
    convert_loss((int)message->grad_function, (int)message->answer_function, options);
    return ABL_CODE_OK;
}

_Static_assert((int)ABLATE__V1__EAP_IG_METHOD__EAP_IG_METHOD_CLEAN_CORRUPTED ==
                   ABL_EAP_IG_CLEAN_CORRUPTED + 1,
               "the methods are in the same order");

static abl_code convert_algorithm(const Ablate__V1__PruneJobSpec *message, abl_job_request *request,
                                  abl_status *ret_status) {
    abl_prune_options *options = &request->options;
    switch (message->algorithm_case) {
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP:
        options->algorithm = ABL_PRUNE_EAP;
        options->ablation = abl_convert_ablation_type(message->eap->ablation_type);
        return ABL_CODE_OK;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_MASK_GRADIENT:
        return convert_mask_gradient(message->mask_gradient, options, ret_status);
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_GROUND_TRUTH:
        options->algorithm = ABL_PRUNE_GROUND_TRUTH;
        options->ablation = abl_convert_ablation_type(message->ground_truth->ablation_type);
        request->edge_names = message->ground_truth->edges;
        request->edge_name_count = message->ground_truth->n_edges;
        return ABL_CODE_OK;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_RANDOM:
        options->algorithm = ABL_PRUNE_RANDOM;
        options->seed = message->random->seed;
        return ABL_CODE_OK;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACTIVATION_MAGNITUDE:
        options->algorithm = ABL_PRUNE_ACTIVATION_MAGNITUDE;
        return ABL_CODE_OK;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP_IG:
        return convert_eap_ig(message->eap_ig, options, ret_status);
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACDC:
        request->edge_names = message->acdc->edges;
        request->edge_name_count = message->acdc->n_edges;
        return abl_convert_acdc(message->acdc, options, ret_status);
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING:
        request->edge_names = message->subnetwork_probing->avoid_edges;
        request->edge_name_count = message->subnetwork_probing->n_avoid_edges;
        return abl_convert_subnetwork_probing(message->subnetwork_probing, options, ret_status);
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_CIRCUIT_PROBING:
        if (message->circuit_probing->training != NULL) {
            request->edge_names = message->circuit_probing->training->avoid_edges;
            request->edge_name_count = message->circuit_probing->training->n_avoid_edges;
        }
        return abl_convert_circuit_probing(message->circuit_probing, options, ret_status);
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_UPLOADED:
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "uploaded is no algorithm; CreatePruneScores takes scores");
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM__NOT_SET:
    case _ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM__CASE_IS_INT_SIZE:
        break;
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_MISSING",
                    "spec needs an algorithm: eap, mask_gradient, ground_truth, random, "
                    "activation_magnitude, eap_ig, acdc, subnetwork_probing or circuit_probing");
}

/* The algorithm's ablation_type; NULL: it ablates nothing, or only its own way. */
static const Ablate__V1__AblationType *ablation_type_of(const Ablate__V1__PruneJobSpec *message) {
    switch ((int)message->algorithm_case) {
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP:
        return &message->eap->ablation_type;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_MASK_GRADIENT:
        return &message->mask_gradient->ablation_type;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_GROUND_TRUTH:
        return &message->ground_truth->ablation_type;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP_IG:
        return message->eap_ig->method == ABLATE__V1__EAP_IG_METHOD__EAP_IG_METHOD_ACTIVATIONS
                   ? &message->eap_ig->ablation_type
                   : NULL;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACDC:
        return &message->acdc->ablation_type;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING:
        return &message->subnetwork_probing->ablation_type;
    case ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_CIRCUIT_PROBING:
        return message->circuit_probing->training == NULL
                   ? NULL
                   : &message->circuit_probing->training->ablation_type;
    default:
        return NULL;
    }
}

/* ablation_id and ablate_by_clean, which stand beside the algorithm. */
static abl_code convert_ablation(const Ablate__V1__PruneJobSpec *message, abl_job_request *request,
                                 abl_status *ret_status) {
    const Ablate__V1__AblationType *type = ablation_type_of(message);
    bool resident = message->ablation_id[0] != '\0';
    bool trains =
        message->algorithm_case == ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING ||
        message->algorithm_case == ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_CIRCUIT_PROBING;
    if (message->ablate_by_clean && trains) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_CONFLICT",
                        "spec.ablate_by_clean is given, and a training ablates by the prompts that "
                        "are not its input; leave it unset");
    }
    if ((resident || message->ablate_by_clean) && type == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_CONFLICT",
                        "spec.%s is given, and this algorithm has no ablation to choose",
                        resident ? "ablation_id" : "ablate_by_clean");
    }
    request->options.ablate_by_clean = message->ablate_by_clean != 0;
    if (!resident) {
        return ABL_CODE_OK;
    }
    request->ablation_id = message->ablation_id;
    if (message->ablate_by_clean) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_CONFLICT",
                        "spec.ablate_by_clean is given with an ablation_id, which was made of the "
                        "one or the other prompts; leave it unset");
    }
    return abl_convert_ablation_alone("the algorithm's ablation_type", *type, ret_status);
}

abl_code abl_convert_job_spec(const Ablate__V1__PruneJobSpec *message, abl_job_request *ret_request,
                              abl_status *ret_status) {
    if (message == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SPEC_MISSING",
                        "spec is missing: it says which graph, dataset and algorithm");
    }
    abl_job_request request = {.graph_id = message->graph_id,
                               .dataset_id = message->dataset_id,
                               .bos = message->bos,
                               .tail_divergence = message->tail_divergence != 0};
    abl_code code = convert_algorithm(message, &request, ret_status);
    if (code == ABL_CODE_OK) {
        code = convert_ablation(message, &request, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = convert_range("batch_size", message->batch_size, BATCH_SIZE_DEFAULT, ABL_BATCH_MAX,
                             "BATCH_INVALID", &request.batch_size, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = convert_range("prompt_count", message->prompt_count, 0, ABL_PROMPT_COUNT_MAX,
                             "PROMPT_COUNT_INVALID", &request.prompt_count, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = convert_range("top_k", message->top_k, TOP_K_DEFAULT, TOP_K_MAX, "TOP_K_INVALID",
                             &request.top_k, ret_status);
    }
    if (code == ABL_CODE_OK) {
        *ret_request = request;
    }
    return code;
}

bool abl_convert_scores_edges(const abl_job_request *request) {
    const abl_prune_algorithm algorithm = request->options.algorithm;
    return algorithm == ABL_PRUNE_GROUND_TRUTH || algorithm == ABL_PRUNE_ACDC;
}

abl_code abl_convert_job_edges(const abl_job_request *request, const abl_graph *graph,
                               abl_arena *arena, int64_t **ret_edges, int64_t *ret_count,
                               abl_status *ret_status) {
    int32_t positions = abl_graph_seq_count(graph);
    size_t most = request->edge_name_count * (size_t)positions;
    int64_t *edges = abl_arena_alloc(arena, most * sizeof *edges);
    if (edges == NULL) {
        return abl_fail_oom(ret_status);
    }
    int64_t count = 0;
    for (size_t i = 0; i < request->edge_name_count; i++) {
        abl_edge edge;
        abl_code code = abl_convert_edge(graph, request->edge_names[i], 0, &edge, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        bool every = edge.seq == ABL_SEQ_EVERY;
        int32_t first = every ? 0 : edge.seq;
        int32_t end = every ? positions : edge.seq + 1;
        for (edge.seq = first; edge.seq < end; edge.seq++) {
            edges[count++] = abl_graph_edge_index(graph, edge);
        }
    }
    *ret_edges = edges;
    *ret_count = count;
    return ABL_CODE_OK;
}

/* By the names that came, in their order; PruneJobSpec has those behind the first 1000. */
static void put_edges(const abl_job_request *request, json_t *root) {
    if (request->edge_name_count == 0) {
        return;
    }
    json_t *names = json_array();
    for (size_t i = 0; i < request->edge_name_count && i < EDGES_IN_JSON_MAX; i++) {
        (void)json_array_append_new(names, json_string(request->edge_names[i]));
    }
    (void)json_object_set_new(root, abl_convert_scores_edges(request) ? "edges" : "avoid_edges",
                              names);
}

/* The provenance of a resident ablation, which may be gone when this is read. */
static json_t *resident_json(const abl_resident_ablation *ablation, abl_arena *arena) {
    ProtobufCMessage *message = NULL;
    if (abl_wire_unpack(&ablate__v1__provenance__descriptor, ablation->provenance,
                        ablation->provenance_bytes, arena, &message, NULL) != ABL_CODE_OK) {
        return NULL;
    }
    const Ablate__V1__Provenance *provenance = (const Ablate__V1__Provenance *)message;
    json_t *json = json_loads(provenance->algorithm_json, 0, NULL);
    (void)json_object_set_new(json, "ablation_id", json_string(ablation->object.id));
    if (ablation->from_dataset) {
        (void)json_object_set_new(json, "dataset_hash", json_string(ablation->dataset_hash));
    }
    return json;
}

static bool ablates(abl_prune_algorithm algorithm) {
    return algorithm != ABL_PRUNE_RANDOM && algorithm != ABL_PRUNE_ACTIVATION_MAGNITUDE;
}

char *abl_convert_algorithm_json(const abl_job_request *request,
                                 const abl_resident_ablation *ablation, bool bos,
                                 int32_t prompt_count, abl_arena *arena) {
    const abl_prune_options *options = &request->options;
    json_t *root =
        json_pack("{s:s, s:b, s:i, s:i}", "algorithm", abl_prune_algorithm_name(options->algorithm),
                  "prepend_bos", (int)bos, "batch_size", (int)request->batch_size, "prompt_count",
                  (int)prompt_count);
    if (ablates(options->algorithm)) {
        (void)json_object_set_new(root, "ablation_type",
                                  json_string(abl_ablation_name(options->ablation)));
    }
    put_edges(request, root);
    if (options->algorithm == ABL_PRUNE_EAP || options->algorithm == ABL_PRUNE_MASK_GRADIENT ||
        options->algorithm == ABL_PRUNE_EAP_IG) {
        (void)json_object_set_new(root, "grad_function",
                                  json_string(abl_grad_function_name(options->grad_function)));
        (void)json_object_set_new(root, "answer_function",
                                  json_string(abl_answer_function_name(options->answer_function)));
    }
    if (options->algorithm == ABL_PRUNE_MASK_GRADIENT && options->integrated_grad_samples > 0) {
        (void)json_object_set_new(root, "integrated_grad_samples",
                                  json_integer(options->integrated_grad_samples));
    } else if (options->algorithm == ABL_PRUNE_MASK_GRADIENT) {
        (void)json_object_set_new(root, "mask_value", json_real((double)options->mask_value));
    }
    if (options->algorithm == ABL_PRUNE_GROUND_TRUTH && options->edges != NULL) {
        (void)json_object_set_new(root, "edge_count", json_integer(options->edge_count));
    }
    if (options->algorithm == ABL_PRUNE_EAP_IG) {
        (void)json_object_set_new(root, "method",
                                  json_string(abl_eap_ig_method_name(options->eap_ig.method)));
        (void)json_object_set_new(root, "steps", json_integer(options->eap_ig.steps));
    }
    if (options->algorithm == ABL_PRUNE_ACDC) {
        abl_convert_acdc_json(options, root);
    }
    if (options->algorithm == ABL_PRUNE_SUBNETWORK_PROBING ||
        options->algorithm == ABL_PRUNE_CIRCUIT_PROBING) {
        abl_convert_training_json(options, root);
    }
    if (options->algorithm == ABL_PRUNE_RANDOM) {
        (void)json_object_set_new(root, "seed", abl_convert_seed_json(options->seed));
    }
    if (options->batches.prefix != NULL) {
        (void)json_object_set_new(root, "prefix_length",
                                  json_integer(abl_prefix_length(options->batches.prefix)));
    }
    if (options->ablate_by_clean || (ablation != NULL && ablation->clean)) {
        (void)json_object_set_new(root, "ablate_by_clean", json_true());
    }
    if (ablation != NULL) {
        (void)json_object_set_new(root, "ablation", resident_json(ablation, arena));
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    char *copy = text == NULL ? NULL : abl_arena_strndup(arena, text, strlen(text));
    abl_free(text); /* jansson's block */
    json_decref(root);
    return copy;
}

Ablate__V1__Job *abl_convert_job(abl_arena *arena, const abl_job *job) {
    Ablate__V1__Job *message = abl_arena_alloc(arena, sizeof *message);
    ProtobufCMessage *spec = NULL;
    ProtobufCMessage *provenance = NULL;
    if (message == NULL ||
        abl_wire_unpack(&ablate__v1__prune_job_spec__descriptor, job->spec, job->spec_bytes, arena,
                        &spec, NULL) != ABL_CODE_OK ||
        abl_wire_unpack(&ablate__v1__provenance__descriptor, job->provenance, job->provenance_bytes,
                        arena, &provenance, NULL) != ABL_CODE_OK) {
        return NULL;
    }
    ablate__v1__job__init(message);
    message->job_id = abl_convert_text(arena, job->object.id);
    message->spec = (Ablate__V1__PruneJobSpec *)spec;
    message->provenance = (Ablate__V1__Provenance *)provenance;
    message->state = (Ablate__V1__JobState)job->state;
    message->done_units = abl_job_done(job);
    message->total_units = job->total;
    message->last_sequence = job->event_count;
    message->created_ms = job->created_ms;
    message->elapsed_ms = job->elapsed_ms;
    message->estimated_bytes = job->estimated_bytes;
    message->model_id = abl_convert_text(arena, job->model_id);
    message->owner = abl_convert_text(arena, job->owner);
    const abl_job_findings *found =
        job->event_count == 0 ? NULL : &job->events[job->event_count - 1].found;
    message->n_acdc = found == NULL ? 0 : (size_t)found->acdc_count;
    if (found != NULL &&
        !abl_convert_acdc_taus(arena, found->acdc, message->n_acdc, &message->acdc)) {
        return NULL;
    }
    if (job->state == ABL_JOB_FAILED || job->state == ABL_JOB_CANCELLED) {
        message->error = abl_convert_text(arena, job->error.message);
        message->error_code = (int32_t)job->error.code;
    }
    return message;
}

Ablate__V1__JobEvent *abl_convert_job_event(abl_arena *arena, const abl_job *job,
                                            int64_t sequence) {
    const abl_job_event *event = &job->events[sequence - 1];
    const abl_graph *graph = job->graph->graph;
    size_t count = (size_t)event->found.top_count;
    Ablate__V1__JobEvent *message = abl_arena_alloc(arena, sizeof *message);
    Ablate__V1__EdgeValue *values = abl_arena_alloc(arena, count * sizeof *values);
    Ablate__V1__EdgeValue **top = abl_arena_alloc(arena, count * sizeof *top);
    if (message == NULL || values == NULL || top == NULL) {
        return NULL;
    }
    ablate__v1__job_event__init(message);
    for (size_t i = 0; i < count; i++) {
        abl_edge edge = abl_graph_edge_at(graph, event->found.top[i].edge);
        ablate__v1__edge_value__init(&values[i]);
        values[i].edge = abl_convert_edge_name(arena, graph, edge, ABL_DIALECT_AUTOCIRCUIT);
        values[i].seq_number = abl_convert_seq_number(graph, edge);
        values[i].value = event->found.top[i].value;
        top[i] = &values[i];
        if (values[i].edge == NULL) {
            return NULL;
        }
    }
    message->sequence = sequence;
    message->time_ms = event->time_ms;
    message->state = (Ablate__V1__JobState)event->state;
    message->done_units = event->done;
    message->total_units = event->total;
    message->eta_ms = event->eta_ms;
    message->elapsed_ms = event->elapsed_ms;
    message->top_edges = top;
    message->n_top_edges = count;
    message->n_acdc = (size_t)event->found.acdc_count;
    if (!abl_convert_acdc_taus(arena, event->found.acdc, message->n_acdc, &message->acdc)) {
        return NULL;
    }
    message->n_acdc_decisions = (size_t)event->found.decision_count;
    if (!abl_convert_acdc_decisions(arena, graph, event->found.decisions, message->n_acdc_decisions,
                                    &message->acdc_decisions)) {
        return NULL;
    }
    message->n_training = (size_t)event->found.training_count;
    if (!abl_convert_training_points(arena, event->found.training, message->n_training,
                                     &message->training)) {
        return NULL;
    }
    if (event->state == ABL_JOB_FAILED || event->state == ABL_JOB_CANCELLED) {
        message->error = abl_convert_text(arena, job->error.message);
    }
    return message;
}
