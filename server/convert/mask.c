/* SPDX-License-Identifier: Apache-2.0
 *
 * Whatever the form of the request, the result is one flat array, and one last pass over it refuses
 * what is not finite and counts what is not 0. So the rule holds for every form alike, and the
 * message names an edge even where the request had a tensor. */
#include "server/convert/mask.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/graph/scores.h"
#include "server/convert/graph.h"
#include "server/convert/training.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

abl_code abl_convert_mask_check(const Ablate__V1__SetPatchMaskRequest *message,
                                abl_status *ret_status) {
    if (message->mask_case == ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK__NOT_SET) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_MISSING",
                        "none of edges, modules, circuit and all is given; give one");
    }
    if (message->mask_case != ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK_CIRCUIT) {
        return ABL_CODE_OK;
    }
    return abl_convert_circuit_check("circuit", message->circuit, ret_status);
}

abl_code abl_convert_circuit_check(const char *name, const Ablate__V1__CircuitMask *circuit,
                                   abl_status *ret_status) {
    if (circuit->size_case == ABLATE__V1__CIRCUIT_MASK__SIZE__NOT_SET) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                        "%s has no size; give edge_count or threshold", name);
    }
    if (circuit->size_case == ABLATE__V1__CIRCUIT_MASK__SIZE_THRESHOLD &&
        !(circuit->threshold >= 0)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "CIRCUIT_SIZE_INVALID",
                        "%s.threshold is %g; |score| is compared with it, so it must be 0 or more",
                        name, (double)circuit->threshold);
    }
    return ABL_CODE_OK;
}

/* A mask with rows for prompts has as many values for each edge. */
static int64_t row_count(const abl_values *values) {
    return values->batch == 0 ? 1 : values->batch;
}

abl_code abl_convert_edge_values(Ablate__V1__EdgeValue *const *entries, size_t count,
                                 const abl_graph *graph, abl_values *values,
                                 abl_status *ret_status) {
    const int64_t edges = abl_graph_edge_count(graph);
    int32_t positions = abl_graph_seq_count(graph);
    for (size_t i = 0; i < count; i++) {
        const Ablate__V1__EdgeValue *entry = entries[i];
        abl_edge edge;
        abl_code code = abl_convert_edge(graph, entry->edge, entry->seq_number, &edge, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        bool every = edge.seq == ABL_SEQ_EVERY;
        int32_t end = every ? positions : edge.seq + 1;
        for (edge.seq = every ? 0 : edge.seq; edge.seq < end; edge.seq++) {
            int64_t index = abl_graph_edge_index(graph, edge);
            for (int64_t row = 0; row < row_count(values); row++) {
                values->values[row * edges + index] = entry->value;
            }
        }
    }
    return ABL_CODE_OK;
}

/* Whether the tensor's shape is the module's, behind a leading dimension for rows if `leading`. */
static bool shape_is(const Ablate__V1__Tensor *tensor, const abl_scores_shape *shape,
                     size_t leading, int32_t batch) {
    bool same = tensor->n_shape == leading + (size_t)shape->rank;
    if (same && leading == 1) {
        same = tensor->shape[0] == batch;
    }
    for (int32_t i = 0; same && i < shape->rank; i++) {
        same = tensor->shape[leading + (size_t)i] == shape->dims[i];
    }
    return same;
}

/* *ret_by_row: it has a row for each of the mask's. */
static abl_code check_module_tensor(const Ablate__V1__Tensor *tensor, const char *name,
                                    const abl_scores_shape *shape, int32_t batch, bool *ret_by_row,
                                    abl_status *ret_status) {
    int64_t count = 0;
    if (tensor == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_SHAPE",
                        "module '%.100s' has no tensor", name);
    }
    abl_code code = abl_convert_tensor_check(name, tensor, &count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (tensor->dtype != ABLATE__V1__DTYPE__DTYPE_FLOAT32) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_DTYPE",
                        "%.100s.dtype is not float32; values of edges are", name);
    }
    *ret_by_row = batch != 0 && shape_is(tensor, shape, 1, batch);
    if (*ret_by_row || shape_is(tensor, shape, 0, 0)) {
        return ABL_CODE_OK;
    }
    char wanted[80];
    size_t at = 0;
    for (int32_t i = 0; i < shape->rank; i++) { /* three numbers of 19 digits at most */
        at += (size_t)snprintf(wanted + at, sizeof wanted - at, "%s%lld", i == 0 ? "" : ", ",
                               (long long)shape->dims[i]);
    }
    char rows[48] = "";
    if (batch != 0) {
        (void)snprintf(rows, sizeof rows, ", behind [%d] rows or without", batch);
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_SHAPE",
                    "%.100s.shape is another one than the module's, [%s]%s", name, wanted, rows);
}

abl_code abl_convert_module_values(const Ablate__V1__NamedTensor *message, const abl_graph *graph,
                                   abl_values *values, abl_status *ret_status) {
    int32_t module = 0;
    bool by_row = false;
    abl_code code =
        abl_graph_find_module(graph, message->name, strlen(message->name), &module, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_scores_shape shape = abl_scores_module_shape(graph, module);
    code = check_module_tensor(message->tensor, message->name, &shape, values->batch, &by_row,
                               ret_status);
    if (code != ABL_CODE_OK || message->tensor->data.len == 0) {
        return code;
    }
    float *aligned = abl_malloc(message->tensor->data.len);
    if (aligned == NULL) {
        return abl_fail_oom(ret_status);
    }
    memcpy(aligned, message->tensor->data.data, message->tensor->data.len);
    for (int64_t row = 0; row < row_count(values); row++) {
        abl_scores_write_module(graph, values->values + row * abl_graph_edge_count(graph), module,
                                aligned + (by_row ? row * shape.count : 0));
    }
    abl_free(aligned);
    return ABL_CODE_OK;
}

abl_code abl_convert_circuit(const Ablate__V1__CircuitMask *message, const abl_values *scores,
                             uint8_t *ret_in_circuit, int64_t *ret_count, abl_status *ret_status) {
    float threshold = message->threshold;
    if (message->size_case == ABLATE__V1__CIRCUIT_MASK__SIZE_EDGE_COUNT) {
        abl_code code = abl_scores_thresholds(scores->values, scores->count, &message->edge_count,
                                              1, &threshold, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    *ret_count = abl_scores_circuit(scores->values, scores->count, threshold, ret_in_circuit);
    return ABL_CODE_OK;
}

static abl_code set_circuit(const Ablate__V1__CircuitMask *message, const abl_values *scores,
                            abl_values *values, abl_status *ret_status) {
    int64_t count = 0;
    uint8_t *in_circuit = abl_malloc((size_t)scores->count + 1);
    abl_code code = in_circuit == NULL
                        ? abl_fail_oom(ret_status)
                        : abl_convert_circuit(message, scores, in_circuit, &count, ret_status);
    bool ablated = abl_convert_patch_type(message->patch_type) == ABL_PATCH_EDGE;
    for (int64_t i = 0; code == ABL_CODE_OK && i < values->count; i++) {
        values->values[i] = (in_circuit[i % scores->count] != 0) == ablated ? 1.0F : 0.0F;
    }
    abl_free(in_circuit);
    return code;
}

static abl_code check_finite(const abl_graph *graph, abl_values *values, abl_status *ret_status) {
    const int64_t edges = abl_graph_edge_count(graph);
    values->nonzero_count = 0;
    for (int64_t i = 0; i < values->count; i++) {
        float value = values->values[i];
        if (!isfinite(value)) {
            char name[ABL_NAME_BYTES_MAX + 1];
            (void)abl_graph_format_edge(graph, abl_graph_edge_at(graph, i % edges),
                                        ABL_DIALECT_AUTOCIRCUIT, name, sizeof name);
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_NOT_FINITE",
                            "the mask of edge '%s' is %g; it must be a finite number", name,
                            (double)value);
        }
        values->nonzero_count += value != 0.0F;
    }
    return ABL_CODE_OK;
}

abl_code abl_convert_mask(const Ablate__V1__SetPatchMaskRequest *message, const abl_graph *graph,
                          const abl_values *current, const abl_values *scores,
                          abl_values *ret_values, abl_status *ret_status) {
    ABL_ASSERT(current->count == ret_values->count && current->batch == ret_values->batch);
    size_t bytes = (size_t)current->count * sizeof(float);
    abl_code code = ABL_CODE_OK;
    switch ((int)message->mask_case) {
    case ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK_EDGES:
        if (message->edges->reset_others) {
            memset(ret_values->values, 0, bytes);
        } else {
            memcpy(ret_values->values, current->values, bytes);
        }
        code = abl_convert_edge_values(message->edges->edges, message->edges->n_edges, graph,
                                       ret_values, ret_status);
        break;
    case ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK_MODULES:
        memcpy(ret_values->values, current->values, bytes);
        for (size_t i = 0; code == ABL_CODE_OK && i < message->modules->n_tensors; i++) {
            code = abl_convert_module_values(message->modules->tensors[i], graph, ret_values,
                                             ret_status);
        }
        break;
    case ABLATE__V1__SET_PATCH_MASK_REQUEST__MASK_CIRCUIT:
        ABL_ASSERT(scores != NULL && scores->count * row_count(ret_values) == ret_values->count);
        code = set_circuit(message->circuit, scores, ret_values, ret_status);
        break;
    default:
        for (int64_t i = 0; i < ret_values->count; i++) {
            ret_values->values[i] = message->all;
        }
        break;
    }
    return code == ABL_CODE_OK ? check_finite(graph, ret_values, ret_status) : code;
}

abl_code abl_convert_mask_function_checked(const Ablate__V1__SetMaskFunctionRequest *message,
                                           abl_mask_function *ret_function,
                                           abl_status *ret_status) {
    if (!(message->dropout_p >= 0 && message->dropout_p <= 0.99F)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MASK_FUNCTION_INVALID",
                        "dropout_p is %g; it must be from 0 to 0.99", (double)message->dropout_p);
    }
    *ret_function = abl_convert_mask_function(message->function, ABL_MASK_NONE);
    return ABL_CODE_OK;
}

abl_code abl_convert_mask_backward(const Ablate__V1__MaskBackwardRequest *message, abl_arena *arena,
                                   abl_run_request *ret_request, abl_status *ret_status) {
    const Ablate__V1__Tensor *gradient = message->logits_gradient;
    int64_t count = 0;
    if (message->forward == NULL || gradient == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRADIENT_SHAPE", "%s is missing",
                        gradient == NULL ? "logits_gradient" : "forward");
    }
    abl_code code = abl_convert_tensor_check("logits_gradient", gradient, &count, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_convert_forward(message->forward, arena, ret_request, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (gradient->dtype != ABLATE__V1__DTYPE__DTYPE_FLOAT32 || gradient->n_shape != 2) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRADIENT_SHAPE",
                        "logits_gradient must be float32 [batch, d_vocab]");
    }
    if (!ret_request->patched) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_MISSING",
                        "forward has no ablation; a mask has a gradient in a patched pass only");
    }
    if (ret_request->top_k != 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOP_K_INVALID",
                        "forward.top_k is %d; no logits are returned, so it must be 0",
                        ret_request->top_k);
    }
    return ABL_CODE_OK;
}
