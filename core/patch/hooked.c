// SPDX-License-Identifier: Apache-2.0
/* core/model/hooked.c is the pass; here is what a mask puts between its stream and its readers:
 *
 *     x[j] = resid + sum over s of mask[j, s] * D[s]        D[s] = ablated[s] - current[s]
 *
 * Where nothing intervenes, rows are mixed as patcher.c does (mix.h), so that a full mask reads the
 * ablation's own residual. An intervention in the stream breaks what that rests on, that the stream
 * is the sum of its sources; and gradients have to say what flows through the stream and what
 * through the sources. Then the line above is computed as it stands, and its derivative is
 *
 *     at the stream: the sum over j of g[j]        at current[s]: minus the sum of mask[j, s] g[j]
 *
 * collected in a second arena, whose slot s is whole once the pass has come back to s.
 *
 * In a simple graph the readers are the stream's own nodes, so the same line is a step of the
 * stream itself, taken before the node's hook point fires, and the nodes are sources, too. */
#include "core/patch/hooked.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "core/patch/folded.h"
#include "core/patch/mask_function.h"
#include "core/patch/mix.h"
#include "core/patch/patcher.h"
#include "core/patch/simple.h"
#include "core/patch/sources.h"

#include <string.h>

typedef struct between {
    const abl_model *model;
    const abl_model_config *config;
    const abl_graph *graph;
    const abl_sources *ablated; /* NULL: zero */
    const float *values;        /* (mask_batch, edges); NULL: all 0 */
    abl_mix_shape shape;
    int32_t parts; /* inputs of a head: 3, or 1 in a joined graph */
    int32_t heads; /* rows of a layer's inputs */
    bool simple;
    bool as_it_stands;
    abl_scope *scope; /* of the arenas */
    abl_differences differences;
    abl_tensor
        *gradients;       /* (sources, batch, pos, d_model): at what they emitted; NULL: unwanted */
    float *mask_gradient; /* like values; NULL: unwanted */
    const abl_sources *current; /* another run's, for the differences; NULL: this pass's */
    abl_sources *keep;          /* what sources emit goes there; NULL: nowhere */
} between;

/* ---- The mask ---------------------------------------------------------------------------- */

static const abl_graph_module *module_of(const between *b, int layer, bool mlp) {
    int32_t modules = b->parts + (b->config->attn_only ? 0 : 1);
    return abl_graph_module_at(b->graph, layer * modules + (mlp ? b->parts : 0));
}

static const abl_graph_module *module_end(const between *b) {
    return abl_graph_module_at(b->graph, abl_graph_module_count(b->graph) - 1);
}

static abl_mask_rows rows_of(const between *b, const abl_graph_module *module, int32_t rows) {
    return (abl_mask_rows){.values = b->values + module->edge_offset,
                           .positions = b->shape.mask_batch * b->shape.positions,
                           .stride = abl_graph_edges_per_position(b->graph),
                           .row_count = rows,
                           .column_count = module->src_count};
}

/* The rows as they are: (planes, rows, sources). */
static abl_tensor *matrix_of(abl_scope *scope, const abl_mask_rows *rows) {
    const int64_t block = (int64_t)rows->row_count * rows->column_count;
    ABL_CLEANUP(abl_freep)
    float *host = abl_calloc((size_t)(rows->positions * block), sizeof *host);
    if (host == NULL) {
        abl_scope_fail_oom(scope);
        return NULL;
    }
    for (int64_t i = 0; i < rows->positions; i++) {
        memcpy(host + i * block, rows->values + i * rows->stride, (size_t)block * sizeof *host);
    }
    const int64_t shape[] = {rows->positions, rows->row_count, rows->column_count};
    return abl_tensor_from_host(scope, ABL_DTYPE_F32, 3, shape, host);
}

static abl_tensor *sources_below(abl_scope *scope, abl_tensor *arena, int64_t first,
                                 const abl_graph_module *module) {
    first += module->src_begin;
    return abl_tensor_slice(scope, arena, 0, first, first + module->src_count);
}

/* The inputs (rows, batch, pos, d_model) of a module's destinations, and of those behind it with as
 * many sources. */
static abl_tensor *inputs(between *b, abl_scope *scope, const abl_graph_module *module,
                          int32_t rows, int layer, bool mid, abl_tensor *resid) {
    const int64_t sizes[] = {rows, b->shape.batch, b->shape.seq, b->shape.width};
    if (b->values == NULL || resid == NULL) {
        return resid == NULL
                   ? NULL
                   : abl_tensor_expand(scope, abl_tensor_unsqueeze(scope, resid, 0), 4, sizes);
    }
    abl_tensor *x = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, sizes);
    abl_mask_rows mask = rows_of(b, module, rows);
    abl_tensor *arena = b->differences.arena;
    if (b->as_it_stands) {
        abl_tensor_copy_into(scope, x, resid);
        abl_mix_apply(scope, &b->shape, x, matrix_of(scope, &mask),
                      sources_below(scope, arena, ABL_SLOT_SOURCES, module), 1, 1);
        return x;
    }
    abl_differences_fill(scope, &b->differences, b->model, b->ablated, layer, mid, resid);
    abl_tensor *stack = abl_tensor_slice(scope, arena, 0, 0, ABL_SLOT_SOURCES + module->src_count);
    abl_mix_apply(scope, &b->shape, x, abl_mix_matrix(scope, &mask, NULL, rows), stack, 0, 1);
    return x;
}

/* From the gradients g (rows, batch, pos, d_model) at such inputs to the one at the stream. */
static abl_tensor *inputs_backward(between *b, abl_scope *scope, const abl_graph_module *module,
                                   int32_t rows, abl_tensor *g) {
    const int64_t over_rows[] = {0};
    g = abl_tensor_contiguous(scope, g);
    if (b->values != NULL && g != NULL) {
        abl_mask_rows mask = rows_of(b, module, rows);
        abl_tensor *matrix = abl_tensor_transpose(scope, matrix_of(scope, &mask), 1, 2);
        if (b->mask_gradient != NULL) {
            abl_tensor *stack =
                sources_below(scope, b->differences.arena, ABL_SLOT_SOURCES, module);
            abl_mix_products_write(scope, abl_mix_products(scope, &b->shape, g, stack),
                                   b->mask_gradient + module->edge_offset, mask.stride);
        }
        abl_mix_apply(scope, &b->shape, sources_below(scope, b->gradients, 0, module), matrix, g, 1,
                      -1);
    }
    return abl_tensor_sum(scope, g, over_rows, 1, false);
}

/* ---- Callbacks: forward ------------------------------------------------------------------ */

static int64_t head_source(const between *b, int layer) {
    if (b->simple) {
        return abl_simple_block_at(b->graph, layer).heads;
    }
    return 1 + (int64_t)layer * (b->config->n_heads + (b->config->attn_only ? 0 : 1));
}

static int64_t mlp_source(const between *b, int layer) {
    return b->simple ? abl_simple_block_at(b->graph, layer).mlp
                     : head_source(b, layer) + b->config->n_heads;
}

static const int64_t heads_last[] = {1, 2, 0,
                                     3}; /* (rows, batch, pos, d) to (batch, pos, rows, d) */
static const int64_t heads_first[] = {2, 0, 1, 3}; /* and back */

static void start_cb(void *user_data, abl_scope *scope, abl_tensor *start) {
    between *b = user_data;
    b->differences.scope = scope;
    if (b->values != NULL) {
        abl_differences_start(&b->differences, b->ablated,
                              b->current == NULL ? start : b->current->start);
    }
    if (b->keep != NULL) {
        b->keep->start = abl_tensor_keep(start);
    }
}

static abl_tensor *heads_input_cb(void *user_data, abl_scope *scope, int layer, abl_tensor *resid) {
    between *b = user_data;
    abl_tensor *x = inputs(b, scope, module_of(b, layer, false), b->heads, layer, false, resid);
    return abl_tensor_permute(scope, x, 4, heads_last);
}

static abl_tensor *mlp_input_cb(void *user_data, abl_scope *scope, int layer, abl_tensor *resid) {
    between *b = user_data;
    bool mid = !b->config->parallel_attn_mlp;
    return abl_tensor_select(
        scope, inputs(b, scope, module_of(b, layer, true), 1, layer, mid, resid), 0, 0);
}

/* The module that the stream is there; NULL: none. */
static const abl_graph_module *node_of(const between *b, int layer, bool mid) {
    bool last = !mid && layer + 1 == b->config->n_layers;
    int32_t index =
        abl_simple_block_at(b->graph, layer).mid < 0 ? layer : 2 * layer + (mid ? 0 : 1);
    return b->simple ? abl_graph_module_at(b->graph, index) : last ? module_end(b) : NULL;
}

static abl_tensor *node_cb(void *user_data, abl_scope *scope, int layer, bool mid,
                           abl_tensor *resid) {
    between *b = user_data;
    const abl_graph_module *module = node_of(b, layer, mid);
    if (module == NULL) {
        return resid;
    }
    return abl_tensor_select(
        scope, inputs(b, scope, module, 1, mid ? layer : layer + 1, mid, resid), 0, 0);
}

static void node_keep(abl_sources *keep, int layer, bool mid, abl_tensor *resid) {
    abl_tensor **slot = mid                             ? &keep->mid[layer]
                        : layer + 1 < keep->layer_count ? &keep->pre[layer + 1]
                                                        : &keep->end;
    *slot = abl_tensor_keep(resid);
}

/* In a simple graph, what the stream emits: its next reader is above the last block's. */
static void node_emitted_cb(void *user_data, abl_scope *scope, int layer, bool mid,
                            abl_tensor *resid) {
    between *b = user_data;
    bool last = !mid && layer + 1 == b->config->n_layers;
    if (b->keep != NULL && b->keep->pre != NULL) {
        node_keep(b->keep, layer, mid, resid);
    }
    if (!b->simple || b->values == NULL || last) {
        return;
    }
    int above = mid ? layer : layer + 1;
    abl_simple_block at = abl_simple_block_at(b->graph, above);
    if (b->current != NULL) {
        resid = mid ? b->current->mid[layer] : b->current->pre[above];
    }
    abl_differences_residual(scope, &b->differences, b->ablated, above, mid,
                             ABL_SLOT_SOURCES + (mid ? at.mid : at.stream), resid);
}

static void heads_cb(void *user_data, abl_scope *scope, int layer, abl_tensor *z,
                     abl_tensor *change) {
    between *b = user_data;
    int64_t slot = ABL_SLOT_SOURCES + head_source(b, layer);
    if (b->keep != NULL) {
        b->keep->z[layer] = abl_tensor_keep(z);
        b->keep->change[layer] = change == NULL ? NULL : abl_tensor_keep(change);
    }
    if (b->values == NULL) {
        return;
    }
    if (b->current != NULL) {
        z = b->current->z[layer];
        change = b->current->change[layer];
    }
    abl_differences_heads(scope, &b->differences, b->model, b->ablated, layer, slot, z);
    if (change != NULL) {
        abl_tensor *out =
            abl_tensor_slice(scope, b->differences.arena, 0, slot, slot + b->config->n_heads);
        abl_tensor_add_(scope, out, abl_tensor_permute(scope, change, 4, heads_first), -1);
    }
}

static void mlp_cb(void *user_data, abl_scope *scope, int layer, abl_tensor *out) {
    between *b = user_data;
    if (b->values != NULL) {
        abl_differences_mlp(scope, &b->differences, b->ablated, layer,
                            ABL_SLOT_SOURCES + mlp_source(b, layer),
                            b->current == NULL ? out : b->current->mlp_out[layer]);
    }
    if (b->keep != NULL) {
        b->keep->mlp_out[layer] = abl_tensor_keep(out);
    }
}

/* ---- Callbacks: backward ----------------------------------------------------------------- */

static abl_tensor *heads_input_backward_cb(void *user_data, abl_scope *scope, int layer,
                                           abl_tensor *grad) {
    between *b = user_data;
    return inputs_backward(b, scope, module_of(b, layer, false), b->heads,
                           abl_tensor_permute(scope, grad, 4, heads_first));
}

static abl_tensor *mlp_input_backward_cb(void *user_data, abl_scope *scope, int layer,
                                         abl_tensor *grad) {
    between *b = user_data;
    return inputs_backward(b, scope, module_of(b, layer, true), 1,
                           abl_tensor_unsqueeze(scope, grad, 0));
}

static abl_tensor *node_backward_cb(void *user_data, abl_scope *scope, int layer, bool mid,
                                    abl_tensor *grad) {
    between *b = user_data;
    const abl_graph_module *module = node_of(b, layer, mid);
    return module == NULL
               ? grad
               : inputs_backward(b, scope, module, 1, abl_tensor_unsqueeze(scope, grad, 0));
}

static abl_tensor *node_emitted_backward_cb(void *user_data, abl_scope *scope, int layer,
                                            bool mid) {
    between *b = user_data;
    if (!b->simple || (!mid && layer + 1 == b->config->n_layers)) {
        return NULL;
    }
    abl_simple_block at = abl_simple_block_at(b->graph, mid ? layer : layer + 1);
    return abl_tensor_select(scope, b->gradients, 0, mid ? at.mid : at.stream);
}

static abl_tensor *heads_backward_cb(void *user_data, abl_scope *scope, int layer) {
    between *b = user_data;
    int64_t first = head_source(b, layer);
    abl_tensor *g = abl_tensor_slice(scope, b->gradients, 0, first, first + b->config->n_heads);
    return abl_tensor_permute(scope, g, 4, heads_last);
}

static abl_tensor *mlp_backward_cb(void *user_data, abl_scope *scope, int layer) {
    between *b = user_data;
    return abl_tensor_select(scope, b->gradients, 0, mlp_source(b, layer));
}

static abl_tensor *start_backward_cb(void *user_data, abl_scope *scope) {
    return abl_tensor_select(scope, ((between *)user_data)->gradients, 0, 0);
}

/* ---- The whole --------------------------------------------------------------------------- */

static abl_forward_options forward_options(const abl_patch_options *options,
                                           const abl_forward_options *hooks) {
    abl_forward_options forward = *hooks;
    forward.model = options->model;
    forward.tokens = options->tokens;
    forward.batch = options->batch;
    forward.seq = options->seq;
    forward.prefix = options->prefix;
    forward.interventions = options->interventions;
    forward.out_slice = options->out_slice;
    return forward;
}

static abl_code arenas_open(between *b, bool gradients, abl_status *ret_status) {
    const int64_t sources = abl_graph_src_count(b->graph);
    const int64_t sizes[] = {ABL_SLOT_SOURCES + sources, b->shape.batch, b->shape.seq,
                             b->shape.width};
    b->scope = abl_scope_create(abl_model_device(b->model));
    if (b->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    b->differences = (abl_differences){.scope = b->scope,
                                       .arena = abl_tensor_empty(b->scope, ABL_DTYPE_F32, 4, sizes),
                                       .batch = b->shape.batch,
                                       .seq = b->shape.seq,
                                       .width = b->shape.width};
    if (gradients) {
        const int64_t at_sources[] = {sources, sizes[1], sizes[2], sizes[3]};
        b->gradients = abl_tensor_zeros(b->scope, ABL_DTYPE_F32, 4, at_sources);
    }
    return abl_scope_status(b->scope, ret_status);
}

/* Key and value heads as the graph has them: of their own for each query head, or shared. */
static int kv_heads_of(const abl_graph_options *graph, const abl_model_config *config) {
    bool expanded = graph->joined_qkv || graph->gqa == ABL_GQA_EXPANDED;
    return expanded ? config->n_heads : config->n_kv_heads;
}

/* The callbacks between the stream and its readers, and how the graph has them. */
static abl_forward_patch patch_of(between *b) {
    const abl_graph_options *graph = abl_graph_options_of(b->graph);
    return (abl_forward_patch){.user_data = b,
                               .joined = graph->joined_qkv,
                               .kv_heads = kv_heads_of(graph, b->config),
                               .start_cb = start_cb,
                               .heads_input_cb = graph->simple ? NULL : heads_input_cb,
                               .mlp_input_cb = graph->simple ? NULL : mlp_input_cb,
                               .node_cb = node_cb,
                               .node_emitted_cb = node_emitted_cb,
                               .heads_cb = heads_cb,
                               .mlp_cb = mlp_cb,
                               .heads_input_backward_cb = heads_input_backward_cb,
                               .mlp_input_backward_cb = mlp_input_backward_cb,
                               .node_backward_cb = node_backward_cb,
                               .node_emitted_backward_cb = node_emitted_backward_cb,
                               .heads_backward_cb = heads_backward_cb,
                               .mlp_backward_cb = mlp_backward_cb,
                               .start_backward_cb = start_backward_cb};
}

/* What else a pass is for; all NULL: its result. */
typedef struct wanted {
    float *mask_gradient;
    const abl_sources *current;
    abl_sources *keep;
} wanted;

static between between_of(const abl_patch_options *options, const abl_forward_options *hooks,
                          const wanted *want) {
    const abl_graph_options *graph = abl_graph_options_of(options->graph);
    const abl_model_config *config = abl_model_get_config(options->model);
    return (between){.model = options->model,
                     .config = config,
                     .graph = options->graph,
                     .ablated = options->ablated,
                     .values = options->mask,
                     .shape = {.batch = options->batch,
                               .seq = options->seq,
                               .width = config->d_model,
                               .mask_batch = options->mask_batch > 1 ? options->mask_batch : 1,
                               .positions = graph->seq_len != 0 ? options->seq : 1},
                     .parts = graph->joined_qkv ? 1 : 3,
                     .heads =
                         config->n_heads + (graph->joined_qkv ? 0 : 2 * kv_heads_of(graph, config)),
                     .simple = graph->simple,
                     .as_it_stands = graph->simple || abl_forward_wants_gradients(hooks) ||
                                     options->interventions.count > 0,
                     .mask_gradient = want->mask_gradient,
                     .current = want->current,
                     .keep = want->keep};
}

/* The mask is taken as it is. */
static abl_code run(const abl_patch_options *options, const abl_forward_options *hooks,
                    const wanted *want, abl_forward_result *ret_result, abl_status *ret_status) {
    between b = between_of(options, hooks, want);
    const abl_forward_patch patch = patch_of(&b);
    abl_forward_options forward = forward_options(options, hooks);
    forward.patch = &patch;
    abl_code code = arenas_open(&b, abl_forward_wants_gradients(hooks), ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_forward(&forward, ret_result, ret_status);
    }
    abl_scope_destroy(b.scope);
    return code;
}

abl_code abl_patch_hooked(const abl_patch_options *options, const abl_forward_options *hooks,
                          abl_forward_result *ret_result, abl_status *ret_status) {
    abl_patch_options plain;
    abl_mask_sample sample;
    abl_code code = abl_patch_check(options, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_patch_sample(options, &plain, &sample, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = run(&plain, hooks, &(wanted){.keep = NULL}, ret_result, ret_status);
        abl_mask_sample_finish(&sample);
    }
    return code;
}

uint64_t abl_patch_hooked_bytes(const abl_patch_options *options,
                                const abl_forward_options *hooks) {
    const abl_model_config *c = abl_model_get_config(options->model);
    const abl_forward_options forward = forward_options(options, hooks);
    uint64_t tokens = (uint64_t)options->batch * (uint64_t)options->seq;
    uint64_t inputs = 4 * tokens * (uint64_t)c->d_model * (uint64_t)c->n_heads;
    uint64_t slots = ABL_SLOT_SOURCES + (uint64_t)abl_graph_src_count(options->graph);
    abl_patch_options plain = *options;
    plain.interventions.count = 0;
    uint64_t arena = (uint64_t)abl_patch_bytes_estimate(&plain);
    if (abl_graph_options_of(options->graph)->simple) { /* whose plain passes have none */
        arena += 4 * tokens * (uint64_t)c->d_model * slots;
    }
    bool gradients = abl_forward_wants_gradients(hooks);
    /* Of each head's input: itself, its square, its norm, what is between; for q, k and v. */
    return (gradients ? 2 : 1) * arena + 15 * inputs * (gradients ? (uint64_t)c->n_layers : 1) +
           abl_forward_bytes(&forward);
}

/* ---- for those whose options may have interventions ------------------------------------------ */

static const abl_forward_options PLAIN = {.stop_at_layer = -1};

abl_code abl_patch_hooked_check(const abl_patch_options *options, bool gradient,
                                abl_status *ret_status) {
    abl_forward_options hooks = PLAIN;
    hooks.scalar.kind = gradient ? ABL_SCALAR_CALLBACK : ABL_SCALAR_LOSS;
    if (options->interventions.count == 0) {
        return ABL_CODE_OK;
    }
    between b = between_of(options, &hooks, &(wanted){.keep = NULL});
    const abl_forward_patch patch = patch_of(&b);
    abl_forward_options forward = forward_options(options, &hooks);
    forward.patch = &patch;
    return abl_forward_check(&forward, ret_status);
}

/* The result's logits to the host, and the result's end. */
static abl_code logits_take(const abl_patch_options *options, abl_forward_result *result,
                            float *ret_logits, abl_status *ret_status) {
    abl_scope *scope = abl_scope_create(abl_model_device(options->model));
    abl_code code = scope == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    if (code == ABL_CODE_OK && ret_logits != NULL) {
        abl_tensor_to_floats(scope, result->logits, ret_logits,
                             (size_t)abl_patch_logit_count(options));
        code = abl_scope_status(scope, ret_status);
    }
    abl_scope_destroy(scope);
    abl_forward_result_finish(result);
    return code;
}

abl_code abl_patch_hooked_logits(const abl_patch_options *options, float *ret_logits,
                                 abl_status *ret_status) {
    abl_forward_result result;
    abl_code code = run(options, &PLAIN, &(wanted){.keep = NULL}, &result, ret_status);
    return code == ABL_CODE_OK ? logits_take(options, &result, ret_logits, ret_status) : code;
}

abl_code abl_patch_hooked_gradient(const abl_patch_options *options,
                                   const abl_patch_hooked_loss *loss, float *ret_logits,
                                   float *ret_gradient, abl_status *ret_status) {
    abl_forward_options hooks = PLAIN;
    hooks.scalar = (abl_scalar){
        .kind = ABL_SCALAR_CALLBACK, .loss_cb = loss->loss_cb, .loss_data = loss->user_data};
    ABL_ASSERT(options->mask != NULL && options->out_slice == ABL_OUT_SLICE_LAST);
    const wanted want = {.mask_gradient = ret_gradient, .current = loss->current};
    abl_forward_result result;
    abl_code code = run(options, &hooks, &want, &result, ret_status);
    return code == ABL_CODE_OK ? logits_take(options, &result, ret_logits, ret_status) : code;
}

abl_code abl_patch_hooked_sources(const abl_patch_options *options, bool residuals,
                                  abl_sources **ret_sources, abl_status *ret_status) {
    if (options->interventions.count == 0) {
        return abl_sources_run(options->model, options->prefix, options->tokens, options->batch,
                               options->seq, residuals, ret_sources, ret_status);
    }
    const abl_model_config *config = abl_model_get_config(options->model);
    abl_sources *sources =
        abl_sources_alloc(options->batch, options->seq, config->n_layers, residuals);
    if (sources == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_patch_options plain = *options;
    plain.mask = NULL;
    plain.out_slice = ABL_OUT_SLICE_LAST;
    abl_forward_result result;
    abl_code code = run(&plain, &PLAIN, &(wanted){.keep = sources}, &result, ret_status);
    if (code != ABL_CODE_OK) {
        abl_sources_destroy(sources);
        return code;
    }
    abl_forward_result_finish(&result);
    if (residuals) {
        sources->pre[0] = abl_tensor_keep(sources->start);
    }
    sources->prefix_length = (int32_t)abl_prefix_length(options->prefix);
    sources->prefix = options->prefix;
    *ret_sources = sources;
    return ABL_CODE_OK;
}

int64_t abl_patch_hooked_run_bytes(const abl_patch_options *options, bool gradient) {
    abl_forward_options hooks = PLAIN;
    hooks.scalar.kind = gradient ? ABL_SCALAR_CALLBACK : ABL_SCALAR_LOSS;
    return (int64_t)abl_patch_hooked_bytes(options, &hooks);
}
