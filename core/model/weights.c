/* SPDX-License-Identifier: Apache-2.0
 *
 * From a file's tensors to canonical weights (block.h), copying as little as can be.
 *
 *   file             canonical                          copied?
 *   c_attn (D, 3D)   w_qkv: the tensor as it is         no, if dtype and device are the file's
 *   q_, k_, v_proj   w_qkv: one (out, D) buffer, its    once, into their rows
 *   (out, D) each    transpose is the logical matrix
 *   gate_, up_proj   w_in: likewise, gate's rows first  once
 *   everything else  a view, transposed where stored    no, if dtype and device are the file's
 *                    output-major
 *
 * One fused product a projection is what makes a forward fast on few tokens, and a copy of q, k and
 * v costs once what separate products would cost each pass. With processing, weights are made in
 * float32 layer by layer and converted last, as TransformerLens does. */
#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/model_internal.h"

#include <math.h>
#include <string.h>

typedef struct loader {
    abl_model *model;
    const abl_model_options *options;
    abl_weight_map *map;
    abl_scope *scope;
    abl_dtype dtype; /* to load in: float32 when there is processing to do */
    uint64_t bytes_done;
    uint64_t bytes_total;
    bool cancelled;
} loader;

static abl_dtype file_dtype(abl_safetensors_dtype dtype) {
    if (dtype == ABL_SAFETENSORS_DTYPE_F16) {
        return ABL_DTYPE_F16;
    }
    /* The weight map lets no other through. */
    return (dtype == ABL_SAFETENSORS_DTYPE_BF16) ? ABL_DTYPE_BF16 : ABL_DTYPE_F32;
}

static void report(loader *load, const abl_weight_view *view) {
    uint64_t bytes = (uint64_t)view->shape[0] * abl_safetensors_dtype_bytes(view->tensor->dtype);
    load->bytes_done += (view->rank == 2) ? bytes * (uint64_t)view->shape[1] : bytes;
    if (load->options->progress_cb != NULL && !load->cancelled) {
        load->cancelled = !load->options->progress_cb(load->bytes_done, load->bytes_total,
                                                      view->tensor->name, load->options->user_data);
    }
}

/* ---- One view ---------------------------------------------------------------------------- */

/* The file's tensor on the host, whole: mapped, or copied where the file did not align it. */
static abl_tensor *host_tensor(abl_scope *host, const abl_safetensors_tensor *tensor) {
    abl_dtype dtype = file_dtype(tensor->dtype);
    bool aligned = (uintptr_t)tensor->data % abl_dtype_bytes(dtype) == 0;
    return aligned ? abl_tensor_from_mapped(host, dtype, tensor->rank, tensor->shape, tensor->data)
                   : abl_tensor_from_host(host, dtype, tensor->rank, tensor->shape, tensor->data);
}

/* A tensor whose heads are laid out otherwise, in the view's shape: a copy unless it is o's. */
static abl_tensor *heads_flat(abl_scope *host, const abl_weight_view *view,
                              const abl_tensor *whole) {
    if (view->layout == ABL_HEADS_MIXED) {
        const int64_t split[] = {view->heads, 3, -1, view->rank == 1 ? 1 : view->shape[1]};
        whole = abl_tensor_select(host, abl_tensor_view(host, whole, 4, split), 1, view->which);
    } else if (view->rank == 2 && view->slot != ABL_SLOT_O_W) {
        whole = abl_tensor_permute(host, whole, 3, (const int64_t[]){1, 0, 2});
    }
    return abl_tensor_reshape(host, whole, view->rank, view->shape);
}

/* A view's numbers as the file has them: on the host, in its dtype, as stored. */
static abl_tensor *stored(loader *load, abl_scope *host, const abl_weight_view *view) {
    abl_tensor *whole = host_tensor(host, view->tensor);
    report(load, view);
    if (view->layout != ABL_HEADS_FLAT) {
        return heads_flat(host, view, whole);
    }
    if (view->narrow_count == view->tensor->shape[view->narrow_dim]) {
        return whole;
    }
    return abl_tensor_slice(host, whole, view->narrow_dim, view->narrow_offset,
                            view->narrow_offset + view->narrow_count);
}

/* Failures of the host's scope belong to the load, before anything meets a NULL that they left. */
static void pass_failure_on(loader *load, const abl_scope *host) {
    abl_status status;
    if (abl_scope_status(host, &status) != ABL_CODE_OK) {
        abl_scope_fail(load->scope, &status);
    }
}

/* From the host's scope to the load's, in the load's dtype and on its device. */
static abl_tensor *take(loader *load, abl_scope *host, abl_tensor *tensor) {
    pass_failure_on(load, host);
    tensor = abl_scope_borrow(load->scope, tensor);
    tensor = abl_tensor_to_dtype(load->scope, tensor, load->dtype);
    return abl_tensor_to_device(load->scope, tensor, load->model->device);
}

static abl_scope *open_host(loader *load) {
    abl_scope *host = abl_scope_create((abl_device){.type = ABL_DEVICE_CPU});
    if (host == NULL) {
        abl_scope_fail_oom(load->scope);
    }
    return host;
}

/* A slot by itself, [in, out] or a vector, in the load's scope; NULL when the model has none. */
static abl_tensor *load_one(loader *load, abl_slot slot, int layer) {
    const abl_weight_view *view = abl_weight_map_find(load->map, slot, layer);
    abl_scope *host = (view == NULL) ? NULL : open_host(load);
    if (host == NULL) {
        return NULL;
    }
    abl_tensor *tensor = take(load, host, stored(load, host, view));
    if (view->rank == 2 && !view->input_major) {
        tensor = abl_tensor_transpose(load->scope, tensor, 0, 1);
    }
    abl_scope_destroy(host);
    return tensor;
}

/* ---- Several slots side by side ---------------------------------------------------------- */

/* True when the views are neighbouring columns of one input-major tensor, and all of it. */
static bool already_fused(const abl_weight_view *const *views, size_t count) {
    int64_t next = 0;
    for (size_t i = 0; i < count; i++) {
        int out_dim = views[i]->rank - 1;
        if (views[i]->layout != ABL_HEADS_FLAT || views[i]->tensor != views[0]->tensor ||
            views[i]->narrow_dim != out_dim || views[i]->narrow_offset != next ||
            (views[i]->rank == 2 && !views[i]->input_major)) {
            return false;
        }
        next += views[i]->narrow_count;
    }
    return next == views[0]->tensor->shape[views[0]->rank - 1];
}

static abl_tensor *load_whole(loader *load, const abl_weight_view *const *views, size_t count) {
    abl_scope *host = open_host(load);
    if (host == NULL) {
        return NULL;
    }
    abl_tensor *tensor = take(load, host, host_tensor(host, views[0]->tensor));
    for (size_t i = 0; i < count; i++) {
        report(load, views[i]);
    }
    abl_scope_destroy(host);
    return tensor;
}

/* Outputs of a view: its columns in the fused matrix. */
static int64_t outputs_of(const abl_weight_view *view) {
    return (view->rank == 2 && view->input_major) ? view->shape[1] : view->shape[0];
}

/* Slots whose outputs lie side by side in one logical matrix [in, sum of outs], or one vector. NULL
 * when the model has none of them; families have all or none. */
static abl_tensor *load_fused(loader *load, const abl_slot *slots, size_t count, int layer) {
    const abl_weight_view *views[3] = {NULL};
    int64_t outputs = 0;
    ABL_ASSERT(count <= ABL_COUNT_OF(views));
    for (size_t i = 0; i < count; i++) {
        views[i] = abl_weight_map_find(load->map, slots[i], layer);
        if (views[i] == NULL) {
            return NULL;
        }
        outputs += outputs_of(views[i]);
    }
    if (already_fused(views, count)) {
        return load_whole(load, views, count);
    }
    /* Output-major: parts are rows of the buffer, contiguous, and its transpose is the result. */
    int rank = views[0]->rank;
    bool by_rows = rank == 1 || !views[0]->input_major;
    int64_t inputs = (rank == 1) ? 1 : (by_rows ? views[0]->shape[1] : views[0]->shape[0]);
    const int64_t shape[2] = {by_rows ? outputs : inputs, by_rows ? inputs : outputs};
    abl_tensor *buffer = abl_tensor_empty(load->scope, load->dtype, rank, shape);
    int64_t next = 0;
    for (size_t i = 0; i < count; i++) {
        abl_scope *host = open_host(load);
        if (host == NULL) {
            return NULL;
        }
        int64_t width = outputs_of(views[i]);
        abl_tensor *part =
            abl_tensor_slice(load->scope, buffer, by_rows ? 0 : 1, next, next + width);
        abl_tensor *source = stored(load, host, views[i]);
        pass_failure_on(load, host);
        abl_tensor_copy_into(load->scope, part, source);
        next += width;
        abl_scope_destroy(host);
    }
    return (rank == 2 && by_rows) ? abl_tensor_transpose(load->scope, buffer, 0, 1) : buffer;
}

/* ---- Handing over to the model ----------------------------------------------------------- */

/* True when the tensor's memory is a mapped file's. */
static bool is_mapped(const loader *load, const abl_tensor *tensor) {
    const void *address = abl_tensor_storage_address(tensor);
    for (size_t i = 0; i < abl_safetensors_count(load->model->set); i++) {
        if (abl_safetensors_at(load->model->set, i)->data == address) {
            return true;
        }
    }
    return false;
}

/* Converts to the model's dtype, and makes the model an owner. */
static void hand_over(loader *load, abl_tensor **slot) {
    abl_tensor *tensor = *slot;
    *slot = NULL;
    if (tensor == NULL || abl_scope_failed(load->scope)) {
        return;
    }
    tensor = abl_tensor_to_dtype(load->scope, tensor, load->model->dtype);
    *slot = abl_tensor_keep(tensor);
    if (*slot != NULL) {
        uint64_t bytes = abl_tensor_bytes(tensor);
        load->model->bytes += bytes;
        load->model->bytes_mapped += is_mapped(load, tensor) ? bytes : 0;
    }
}

static void each_block_tensor(abl_block_weights *block, abl_tensor **ret_slots[12]) {
    abl_tensor **slots[12] = {&block->ln1_w, &block->ln1_b, &block->w_qkv, &block->b_qkv,
                              &block->w_o,   &block->b_o,   &block->ln2_w, &block->ln2_b,
                              &block->w_in,  &block->b_in,  &block->w_out, &block->b_out};
    memcpy(ret_slots, slots, sizeof slots);
}

static void load_block(loader *load, int layer) {
    static const abl_slot qkv_w[] = {ABL_SLOT_Q_W, ABL_SLOT_K_W, ABL_SLOT_V_W};
    static const abl_slot qkv_b[] = {ABL_SLOT_Q_B, ABL_SLOT_K_B, ABL_SLOT_V_B};
    static const abl_slot in_w[] = {ABL_SLOT_MLP_GATE_W, ABL_SLOT_MLP_IN_W};
    static const abl_slot in_b[] = {ABL_SLOT_MLP_GATE_B, ABL_SLOT_MLP_IN_B};
    bool gated = load->model->config.gated;
    size_t mark = abl_scope_mark(load->scope);
    abl_block_weights block = {
        .ln1_w = load_one(load, ABL_SLOT_LN1_W, layer),
        .ln1_b = load_one(load, ABL_SLOT_LN1_B, layer),
        .w_qkv = load_fused(load, qkv_w, 3, layer),
        .b_qkv = load_fused(load, qkv_b, 3, layer),
        .w_o = load_one(load, ABL_SLOT_O_W, layer),
        .b_o = load_one(load, ABL_SLOT_O_B, layer),
        .ln2_w = load_one(load, ABL_SLOT_LN2_W, layer),
        .ln2_b = load_one(load, ABL_SLOT_LN2_B, layer),
        .w_in = gated ? load_fused(load, in_w, 2, layer) : load_one(load, ABL_SLOT_MLP_IN_W, layer),
        .b_in = gated ? load_fused(load, in_b, 2, layer) : load_one(load, ABL_SLOT_MLP_IN_B, layer),
        .w_out = load_one(load, ABL_SLOT_MLP_OUT_W, layer),
        .b_out = load_one(load, ABL_SLOT_MLP_OUT_B, layer),
    };
    abl_model_process_block(load->scope, load->model, &block);
    abl_tensor **slots[12];
    each_block_tensor(&block, slots);
    for (size_t i = 0; i < ABL_COUNT_OF(slots); i++) {
        hand_over(load, slots[i]);
    }
    load->model->weights.blocks[layer] = block;
    abl_scope_rewind(load->scope, mark, NULL, 0);
}

/* cos and sin of every position and pair, in float32 arithmetic from the inverse frequencies on, as
 * transformers computes them: another order of roundings moves logits by more than their noise. */
static void load_rope(loader *load) {
    const abl_model_config *config = &load->model->config;
    int64_t half = config->rotary_dim / 2;
    int64_t positions = (config->n_ctx < ABL_SEQ_MAX) ? config->n_ctx : ABL_SEQ_MAX;
    const int64_t shape[2] = {positions, half};
    float *cosines = abl_calloc((size_t)(positions * half), 2 * sizeof *cosines);
    if (cosines == NULL) {
        abl_scope_fail_oom(load->scope);
        return;
    }
    float *sines = cosines + positions * half;
    for (int64_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)config->rotary_dim;
        float frequency = 1.0F / powf((float)config->rope_theta, exponent);
        for (int64_t p = 0; p < positions; p++) {
            float angle = (float)p * frequency;
            cosines[p * half + i] = cosf(angle);
            sines[p * half + i] = sinf(angle);
        }
    }
    abl_model_weights *weights = &load->model->weights;
    weights->rope_cos =
        abl_tensor_keep(abl_tensor_from_host(load->scope, ABL_DTYPE_F32, 2, shape, cosines));
    weights->rope_sin =
        abl_tensor_keep(abl_tensor_from_host(load->scope, ABL_DTYPE_F32, 2, shape, sines));
    abl_free(cosines);
}

static void load_ends(loader *load) {
    abl_model_weights *weights = &load->model->weights;
    abl_model_weights ends = {
        .embed = load_one(load, ABL_SLOT_EMBED, -1),
        .pos_embed = load_one(load, ABL_SLOT_POS_EMBED, -1),
        .ln_final_w = load_one(load, ABL_SLOT_LN_FINAL_W, -1),
        .ln_final_b = load_one(load, ABL_SLOT_LN_FINAL_B, -1),
    };
    bool tied = load->model->config.tied_unembed;
    ends.unembed = tied ? abl_tensor_transpose(load->scope, ends.embed, 0, 1)
                        : load_one(load, ABL_SLOT_UNEMBED, -1);
    ends.b_unembed = load_one(load, ABL_SLOT_UNEMBED_B, -1);
    abl_tensor *shared = tied ? ends.unembed : NULL;
    abl_model_process_ends(load->scope, load->model, &ends);
    /* Tied and not touched by processing: one memory, counted once. */
    bool still_shared = tied && ends.unembed == shared &&
                        abl_tensor_same_storage(ends.embed, ends.unembed) &&
                        load->dtype == load->model->dtype;
    hand_over(load, &ends.embed);
    hand_over(load, &ends.pos_embed);
    hand_over(load, &ends.ln_final_w);
    hand_over(load, &ends.ln_final_b);
    hand_over(load, &ends.b_unembed);
    if (still_shared) {
        ends.unembed = abl_tensor_keep(ends.unembed);
    } else {
        hand_over(load, &ends.unembed);
    }
    ends.blocks = weights->blocks;
    *weights = ends;
    if (load->model->config.positional == ABL_POSITIONAL_ROPE) {
        load_rope(load);
    }
}

static abl_code load_all(loader *load, abl_status *ret_status) {
    abl_model *model = load->model;
    model->weights.blocks =
        abl_calloc((size_t)model->config.n_layers, sizeof *model->weights.blocks);
    if (model->weights.blocks == NULL) {
        return abl_fail_oom(ret_status);
    }
    load_ends(load);
    for (int layer = 0; layer < model->config.n_layers && !load->cancelled; layer++) {
        load_block(load, layer);
    }
    if (load->cancelled) {
        return abl_fail(ret_status, ABL_CODE_CANCELLED, "LOAD_CANCELLED",
                        "the load was cancelled after %llu of %llu bytes",
                        (unsigned long long)load->bytes_done,
                        (unsigned long long)load->bytes_total);
    }
    return abl_scope_status(load->scope, ret_status);
}

abl_code abl_model_load_weights(abl_model *model, const abl_model_options *options,
                                abl_status *ret_status) {
    abl_model_processing p = model->processing;
    bool processed = p.fold_norm || p.center_writing || p.center_unembed || p.fold_value_biases;
    loader load = {.model = model,
                   .options = options,
                   .dtype = processed ? ABL_DTYPE_F32 : model->dtype,
                   .bytes_total = abl_safetensors_bytes(model->set)};
    abl_code code = abl_weight_map_create(&model->config, model->set, &load.map, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    load.scope = abl_scope_create(model->device);
    code = (load.scope == NULL) ? abl_fail_oom(ret_status) : load_all(&load, ret_status);
    abl_scope_destroy(load.scope);
    abl_weight_map_destroy(load.map);
    return code;
}

void abl_model_release_weights(abl_model *model) {
    abl_model_weights *weights = &model->weights;
    for (int layer = 0; weights->blocks != NULL && layer < model->config.n_layers; layer++) {
        abl_tensor **slots[12];
        each_block_tensor(&weights->blocks[layer], slots);
        for (size_t i = 0; i < ABL_COUNT_OF(slots); i++) {
            abl_tensor_release(*slots[i]);
        }
    }
    abl_free(weights->blocks);
    abl_tensor_release(weights->embed);
    abl_tensor_release(weights->pos_embed);
    abl_tensor_release(weights->ln_final_w);
    abl_tensor_release(weights->ln_final_b);
    abl_tensor_release(weights->unembed);
    abl_tensor_release(weights->b_unembed);
    abl_tensor_release(weights->rope_cos);
    abl_tensor_release(weights->rope_sin);
    *weights = (abl_model_weights){.embed = NULL};
}
