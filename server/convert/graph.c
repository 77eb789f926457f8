/* SPDX-License-Identifier: Apache-2.0
 *
 * Positions travel as a number that is 0 for "every position" and position + 1 otherwise; core
 * counts from 0 and says ABL_SEQ_EVERY. Names are core's, in both dialects. */
#include "server/convert/graph.h"

#include "core/graph/scores.h"

#include <string.h>

abl_code abl_convert_graph_options(const Ablate__V1__GraphOptions *message,
                                   const abl_model_config *config, abl_graph_options *ret_options,
                                   abl_out_slice *ret_out_slice, abl_status *ret_status) {
    static const Ablate__V1__GraphOptions defaults = ABLATE__V1__GRAPH_OPTIONS__INIT;
    if (message == NULL) {
        message = &defaults;
    }
    const bool simple = message->kind == ABLATE__V1__GRAPH_KIND__GRAPH_KIND_SIMPLE;
    if (message->kind != ABLATE__V1__GRAPH_KIND__GRAPH_KIND_UNSPECIFIED &&
        message->kind != ABLATE__V1__GRAPH_KIND__GRAPH_KIND_FACTORIZED && !simple) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRAPH_OPTIONS",
                        "options.kind is %d; it must be GRAPH_KIND_FACTORIZED (1), or "
                        "GRAPH_KIND_SIMPLE (2)",
                        (int)message->kind);
    }
    if (simple && (message->merge_qkv || message->expand_kv_heads)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRAPH_OPTIONS",
                        "options.%s is about the inputs of heads, which are no destinations in a "
                        "GRAPH_KIND_SIMPLE; leave it out, or make a GRAPH_KIND_FACTORIZED",
                        message->merge_qkv ? "merge_qkv" : "expand_kv_heads");
    }
    if (message->seq_len < 0 || message->seq_len > config->n_ctx ||
        message->seq_len > ABL_SEQ_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "GRAPH_OPTIONS",
                        "options.seq_len is %d; it must be 0 (edges cover all positions) to %d",
                        message->seq_len,
                        config->n_ctx < ABL_SEQ_MAX ? config->n_ctx : ABL_SEQ_MAX);
    }
    if (message->n_kv_cache_ids > ABL_GRAPH_KV_CACHE_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "GRAPH_OPTIONS",
                        "options.kv_cache_ids has %zu KV caches; a graph uses at most %d",
                        message->n_kv_cache_ids, ABL_GRAPH_KV_CACHE_MAX);
    }
    *ret_options = (abl_graph_options){
        .layer_count = config->n_layers,
        .head_count = config->n_heads,
        .kv_head_count = config->n_kv_heads,
        .parallel_attn_mlp = config->parallel_attn_mlp,
        .attn_only = config->attn_only,
        .simple = simple,
        .joined_qkv = message->merge_qkv != 0,
        .seq_len = message->seq_len,
        .gqa = message->expand_kv_heads ? ABL_GQA_EXPANDED : ABL_GQA_NATIVE,
    };
    *ret_out_slice = abl_convert_out_slice(message->out_slice, ABL_OUT_SLICE_LAST);
    return ABL_CODE_OK;
}

Ablate__V1__GraphOptions *abl_convert_graph_options_back(abl_arena *arena,
                                                         const abl_resident_graph *graph) {
    Ablate__V1__GraphOptions *message = abl_arena_alloc(arena, sizeof *message);
    if (message == NULL) {
        return NULL;
    }
    const abl_graph_options *options = abl_graph_options_of(graph->graph);
    ablate__v1__graph_options__init(message);
    message->kind = options->simple ? ABLATE__V1__GRAPH_KIND__GRAPH_KIND_SIMPLE
                                    : ABLATE__V1__GRAPH_KIND__GRAPH_KIND_FACTORIZED;
    message->merge_qkv = options->joined_qkv;
    message->seq_len = options->seq_len;
    message->expand_kv_heads = options->gqa == ABL_GQA_EXPANDED;
    message->out_slice = abl_convert_out_slice_back(graph->out_slice);
    message->kv_cache_ids = abl_arena_alloc(arena, ABL_GRAPH_KV_CACHE_MAX * sizeof(char *));
    if (message->kv_cache_ids == NULL) {
        return NULL;
    }
    for (size_t i = 0; abl_resident_graph_kv_cache(graph, i) != NULL; i++) {
        const abl_resident_kv_cache *cache = abl_resident_graph_kv_cache(graph, i);
        message->kv_cache_ids[message->n_kv_cache_ids++] =
            abl_convert_text(arena, cache->object.id);
    }
    return message;
}

abl_code abl_convert_idle_timeout(int64_t idle_timeout_ms, abl_status *ret_status) {
    if (idle_timeout_ms == 0 || (idle_timeout_ms >= ABL_IDLE_TIMEOUT_MS_MIN &&
                                 idle_timeout_ms <= ABL_IDLE_TIMEOUT_MS_MAX)) {
        return ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "IDLE_TIMEOUT_INVALID",
                    "idle_timeout_ms is %lld; it must be %d to %d, or 0 for a graph that stays",
                    (long long)idle_timeout_ms, ABL_IDLE_TIMEOUT_MS_MIN, ABL_IDLE_TIMEOUT_MS_MAX);
}

static Ablate__V1__GraphModule *convert_module(abl_arena *arena, const abl_graph *graph,
                                               int32_t index) {
    Ablate__V1__GraphModule *message = abl_arena_alloc(arena, sizeof *message);
    int64_t *shape = abl_arena_alloc(arena, 3 * sizeof *shape);
    if (message == NULL || shape == NULL) {
        return NULL;
    }
    abl_scores_shape form = abl_scores_module_shape(graph, index);
    ablate__v1__graph_module__init(message);
    message->name = abl_convert_text(arena, abl_graph_module_at(graph, index)->name);
    memcpy(shape, form.dims, sizeof form.dims);
    message->shape = shape;
    message->n_shape = (size_t)form.rank;
    return message;
}

Ablate__V1__Graph *abl_convert_graph(abl_arena *arena, const abl_resident_graph *graph) {
    Ablate__V1__Graph *message = abl_arena_alloc(arena, sizeof *message);
    size_t count = (size_t)abl_graph_module_count(graph->graph);
    Ablate__V1__GraphModule **modules = abl_arena_alloc(arena, count * sizeof *modules);
    if (message == NULL || modules == NULL) {
        return NULL;
    }
    ablate__v1__graph__init(message);
    message->graph_id = abl_convert_text(arena, graph->object.id);
    const abl_resident_model *model = abl_resident_graph_model(graph);
    message->model_id = abl_convert_text(arena, model == NULL ? "" : model->object.id);
    message->options = abl_convert_graph_options_back(arena, graph);
    message->edge_count = abl_graph_edge_count(graph->graph);
    message->source_count = abl_graph_src_count(graph->graph);
    message->destination_count = abl_graph_dest_count(graph->graph);
    for (size_t i = 0; i < count; i++) {
        modules[i] = convert_module(arena, graph->graph, (int32_t)i);
        if (modules[i] == NULL) {
            return NULL;
        }
    }
    message->mask_function = (Ablate__V1__MaskFunction)((int)graph->mask_function + 1);
    message->mask_dropout_p = graph->mask_dropout;
    message->mask_batch_size = graph->mask->batch;
    message->idle_timeout_ms = graph->idle_timeout_ms;
    message->hook_count = (int32_t)abl_graph_hooks_count(graph->hooks);
    message->owner = abl_convert_text(arena, graph->owner);
    message->modules = modules;
    message->n_modules = count;
    return message->options == NULL ? NULL : message;
}

/* The wrapper of a module name among those made so far; a new one when there is none. */
static Ablate__V1__Wrapper *wrapper_of(abl_arena *arena, Ablate__V1__Wrapper **wrappers,
                                       size_t *count, const char *module_name) {
    for (size_t i = *count; i > 0; i--) {
        if (strcmp(wrappers[i - 1]->module_name, module_name) == 0) {
            return wrappers[i - 1];
        }
    }
    Ablate__V1__Wrapper *wrapper = abl_arena_alloc(arena, sizeof *wrapper);
    if (wrapper != NULL) {
        ablate__v1__wrapper__init(wrapper);
        wrapper->module_name = abl_convert_text(arena, module_name);
        wrappers[(*count)++] = wrapper;
    }
    return wrapper == NULL || wrapper->module_name == NULL ? NULL : wrapper;
}

static bool wrapper_add_dest(abl_arena *arena, const abl_graph *graph, int32_t index,
                             Ablate__V1__Wrapper *wrapper) {
    const abl_graph_module *module = abl_graph_module_at(graph, index);
    abl_scores_shape form = abl_scores_module_shape(graph, index);
    int64_t *shape = abl_arena_alloc(arena, 3 * sizeof *shape);
    if (shape == NULL) {
        return false;
    }
    memcpy(shape, form.dims, sizeof form.dims);
    wrapper->is_dest = true;
    wrapper->head_dim = module->has_heads ? 2 : wrapper->head_dim;
    wrapper->in_src_begin = module->src_begin;
    wrapper->in_src_count = module->src_count;
    wrapper->mask_shape = shape;
    wrapper->n_mask_shape = (size_t)form.rank;
    return true;
}

Ablate__V1__Wrapper **abl_convert_wrappers(abl_arena *arena, const abl_graph *graph,
                                           size_t *ret_count) {
    const int32_t srcs = abl_graph_src_count(graph);
    const int32_t modules = abl_graph_module_count(graph);
    size_t count = 0;
    Ablate__V1__Wrapper **wrappers =
        abl_arena_alloc(arena, (size_t)(srcs + modules) * sizeof(Ablate__V1__Wrapper *));
    if (wrappers == NULL) {
        return NULL;
    }
    for (int32_t i = 0; i < srcs; i++) {
        const abl_graph_src *src = abl_graph_src_at(graph, i);
        Ablate__V1__Wrapper *wrapper = wrapper_of(arena, wrappers, &count, src->module_name);
        if (wrapper == NULL) {
            return NULL;
        }
        wrapper->src_begin = wrapper->is_src ? wrapper->src_begin : i;
        wrapper->is_src = true;
        wrapper->src_count++;
        wrapper->head_dim = src->head >= 0 ? 2 : 0;
    }
    for (int32_t i = 0; i < modules; i++) {
        Ablate__V1__Wrapper *wrapper =
            wrapper_of(arena, wrappers, &count, abl_graph_module_at(graph, i)->name);
        if (wrapper == NULL || !wrapper_add_dest(arena, graph, i, wrapper)) {
            return NULL;
        }
    }
    for (size_t i = 0; i < count; i++) {
        wrappers[i]->seq_dim = abl_graph_options_of(graph)->seq_len > 0 ? 1 : 0;
    }
    *ret_count = count;
    return wrappers;
}

abl_edge_dialect abl_convert_dialect(Ablate__V1__EdgeDialect dialect) {
    return dialect == ABLATE__V1__EDGE_DIALECT__EDGE_DIALECT_EAP ? ABL_DIALECT_MIB
                                                                 : ABL_DIALECT_AUTOCIRCUIT;
}

char *abl_convert_edge_name(abl_arena *arena, const abl_graph *graph, abl_edge edge,
                            abl_edge_dialect dialect) {
    char name[ABL_NAME_BYTES_MAX + 1];
    edge.seq = abl_graph_options_of(graph)->seq_len > 0 ? ABL_SEQ_EVERY : edge.seq;
    size_t length = abl_graph_format_edge(graph, edge, dialect, name, sizeof name);
    return abl_arena_strndup(arena, name, length);
}

int32_t abl_convert_seq_number(const abl_graph *graph, abl_edge edge) {
    return abl_graph_options_of(graph)->seq_len > 0 ? edge.seq + 1 : 0;
}

abl_code abl_convert_edge(const abl_graph *graph, const char *name, int32_t seq_number,
                          abl_edge *ret_edge, abl_status *ret_status) {
    abl_edge edge;
    abl_code code = abl_graph_parse_edge(graph, name, strlen(name), &edge, ret_status);
    if (code != ABL_CODE_OK) {
        if (code == ABL_CODE_NOT_FOUND && ret_status != NULL) { /* core tells which end */
            ret_status->reason = "NODE_UNKNOWN";
        }
        return code;
    }
    int32_t positions = abl_graph_options_of(graph)->seq_len;
    if (seq_number != 0) {
        if (seq_number < 0 || seq_number > positions) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_POSITION_INVALID",
                            positions == 0
                                ? "seq_number of '%.80s' is %d; this graph's edges cover all "
                                  "positions, so it must be 0 (limit %d)"
                                : "seq_number of '%.80s' is %d; it must be 0 (every position) to "
                                  "%d",
                            name, seq_number, positions);
        }
        edge.seq = seq_number - 1;
    }
    *ret_edge = edge;
    return ABL_CODE_OK;
}
