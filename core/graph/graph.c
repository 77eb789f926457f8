// SPDX-License-Identifier: Apache-2.0
/* The graph of a transformer is so regular that nodes and edges are arithmetic, not tables of
 * pointers. With S = sources of a block (heads, then the MLP if there is one):
 *
 *     source   0 Resid Start | 1 + block * S + head ...  MLP | next block ...
 *     dest     per block: q of each head, k, v (or one qkv), MLP | ... | Resid End
 *
 * and a destination's sources are the first src_count of them: 1 + block * S for attention, plus
 * the block's heads for an MLP that follows it (not for one in parallel), all for Resid End. Edge
 * offsets are the running sum of src_count over destinations.
 *
 * Names are parsed by their grammar instead of looked up, so a graph needs no hash table: decimal
 * numbers are accepted only as they are printed (no sign, no leading zero), which makes parsing and
 * formatting each other's inverse in both dialects. Nodes are stored with their names because
 * listings borrow them; all of it lives in one arena, so destroy is one call.
 *
 * A simple (unfactorized) graph is a chain: its destinations are the stream's nodes in order, and
 * they cut the sources into one range each (src_begin is where the one before ended):
 *
 *     Resid Start A0.0 .. A0.n | Resid Mid 0  MLP 0 | Resid Post 0 A1.0 .. | ...
 *     -> Resid Mid 0             -> Resid Post 0       -> Resid Mid 1         ... -> Resid End
 *
 * so that it has as many edges as sources. */
#include "core/graph/graph.h"

#include "core/base/arena.h"
#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#define GRAPH_ARENA_BYTES_MAX ((size_t)1 << 30)

struct abl_graph {
    abl_graph_options options;
    abl_arena *arena;
    abl_graph_src *srcs;
    abl_graph_dest *dests;
    abl_graph_module *modules;
    int32_t src_count;
    int32_t dest_count;
    int32_t module_count;
    int32_t kv_dest_count;   /* K (or V) destinations of a block */
    int32_t block_src_count; /* heads and MLP */
    int32_t block_dest_count;
    int64_t edges_per_position;
};

static abl_code options_check(const abl_graph_options *options, abl_status *ret_status);
static void counts_fill(abl_graph *graph);
static bool srcs_fill(abl_graph *graph);
static bool dests_fill(abl_graph *graph);

abl_code abl_graph_create(const abl_graph_options *options, abl_graph **ret_graph,
                          abl_status *ret_status) {
    ABL_ASSERT(options != NULL && ret_graph != NULL);
    abl_code code = options_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_graph *graph = abl_calloc(1, sizeof *graph);
    if (graph == NULL) {
        return abl_fail_oom(ret_status);
    }
    graph->options = *options;
    counts_fill(graph);
    graph->arena = abl_arena_create(GRAPH_ARENA_BYTES_MAX);
    if (graph->arena == NULL || !srcs_fill(graph) || !dests_fill(graph)) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    if (graph->edges_per_position > ABL_EDGE_COUNT_MAX / abl_graph_seq_count(graph)) {
        code = abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "GRAPH_TOO_BIG",
                        "the graph has %lld edges a position and %d positions; the limit is %lld "
                        "edges in all",
                        (long long)graph->edges_per_position, abl_graph_seq_count(graph),
                        (long long)ABL_EDGE_COUNT_MAX);
        goto fail;
    }
    *ret_graph = graph;
    return ABL_CODE_OK;
fail:
    abl_graph_destroy(graph);
    return code;
}

void abl_graph_destroy(abl_graph *graph) {
    if (graph == NULL) {
        return;
    }
    abl_arena_destroy(graph->arena);
    abl_free(graph);
}

const abl_graph_options *abl_graph_options_of(const abl_graph *graph) {
    return &graph->options;
}

bool abl_graph_same_edges(const abl_graph *left, const abl_graph *right) {
    const abl_graph_options *a = abl_graph_options_of(left);
    const abl_graph_options *b = abl_graph_options_of(right);
    return a->layer_count == b->layer_count && a->head_count == b->head_count &&
           a->kv_head_count == b->kv_head_count && a->parallel_attn_mlp == b->parallel_attn_mlp &&
           a->attn_only == b->attn_only && a->simple == b->simple &&
           a->joined_qkv == b->joined_qkv && a->seq_len == b->seq_len && a->gqa == b->gqa;
}

int64_t abl_graph_bytes(const abl_graph *graph) {
    return (int64_t)(sizeof *graph + abl_arena_bytes(graph->arena));
}

int32_t abl_graph_src_count(const abl_graph *graph) {
    return graph->src_count;
}

int32_t abl_graph_dest_count(const abl_graph *graph) {
    return graph->dest_count;
}

int32_t abl_graph_module_count(const abl_graph *graph) {
    return graph->module_count;
}

int32_t abl_graph_seq_count(const abl_graph *graph) {
    return graph->options.seq_len == 0 ? 1 : graph->options.seq_len;
}

int64_t abl_graph_edges_per_position(const abl_graph *graph) {
    return graph->edges_per_position;
}

int64_t abl_graph_edge_count(const abl_graph *graph) {
    return graph->edges_per_position * abl_graph_seq_count(graph);
}

const abl_graph_src *abl_graph_src_at(const abl_graph *graph, int32_t index) {
    ABL_ASSERT(index >= 0 && index < graph->src_count);
    return &graph->srcs[index];
}

const abl_graph_dest *abl_graph_dest_at(const abl_graph *graph, int32_t index) {
    ABL_ASSERT(index >= 0 && index < graph->dest_count);
    return &graph->dests[index];
}

const abl_graph_module *abl_graph_module_at(const abl_graph *graph, int32_t index) {
    ABL_ASSERT(index >= 0 && index < graph->module_count);
    return &graph->modules[index];
}

int32_t abl_graph_block_src(const abl_graph *graph, int32_t block) {
    ABL_ASSERT(!graph->options.simple);
    return 1 + block * graph->block_src_count;
}

const abl_graph_module *abl_graph_block_module(const abl_graph *graph, int32_t block, bool mlp) {
    ABL_ASSERT(!graph->options.simple);
    int32_t attn_modules = graph->options.joined_qkv ? 1 : 3;
    if (mlp && graph->options.attn_only) {
        return NULL;
    }
    int32_t modules = attn_modules + (graph->options.attn_only ? 0 : 1);
    return abl_graph_module_at(graph, block * modules + (mlp ? attn_modules : 0));
}

abl_edge abl_graph_edge_at(const abl_graph *graph, int64_t index) {
    ABL_ASSERT(index >= 0 && index < abl_graph_edge_count(graph));
    int64_t rest = index % graph->edges_per_position;
    /* The last destination whose first edge is not after `rest`. */
    int32_t low = 0;
    int32_t high = graph->dest_count - 1;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (graph->dests[middle].edge_offset <= rest) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const abl_graph_dest *dest = &graph->dests[low];
    return (abl_edge){.seq = (int32_t)(index / graph->edges_per_position),
                      .dest = low,
                      .src = dest->src_begin + (int32_t)(rest - dest->edge_offset)};
}

int64_t abl_graph_edge_index(const abl_graph *graph, abl_edge edge) {
    ABL_ASSERT(edge.seq >= 0 && edge.seq < abl_graph_seq_count(graph));
    const abl_graph_dest *dest = abl_graph_dest_at(graph, edge.dest);
    ABL_ASSERT(edge.src >= dest->src_begin && edge.src < dest->src_begin + dest->src_count);
    return edge.seq * graph->edges_per_position + dest->edge_offset + (edge.src - dest->src_begin);
}

/* ---- building -------------------------------------------------------------------------------- */

static abl_code options_check(const abl_graph_options *options, abl_status *ret_status) {
    const char *reason = "GRAPH_OPTIONS_INVALID";
    if (options->layer_count < 1 || options->layer_count > ABL_LAYER_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                        "layer_count is %d; it must be 1 to %d", options->layer_count,
                        ABL_LAYER_COUNT_MAX);
    }
    if (options->head_count < 1 || options->head_count > ABL_HEAD_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                        "head_count is %d; it must be 1 to %d", options->head_count,
                        ABL_HEAD_COUNT_MAX);
    }
    if (options->kv_head_count < 1 || options->head_count % options->kv_head_count != 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                        "kv_head_count is %d; it must divide head_count, which is %d",
                        options->kv_head_count, options->head_count);
    }
    if (options->seq_len < 0 || options->seq_len > ABL_SEQ_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, reason,
                        "seq_len is %d; it must be 0 (one value for all positions) to %d",
                        options->seq_len, ABL_SEQ_MAX);
    }
    return ABL_CODE_OK;
}

/* Whether the stream has a node between attention and MLP. */
static bool has_mid(const abl_graph_options *o) {
    return o->simple && !o->parallel_attn_mlp && !o->attn_only;
}

static void counts_fill(abl_graph *graph) {
    const abl_graph_options *o = &graph->options;
    int32_t mlp_count = o->attn_only ? 0 : 1;
    if (o->simple) {
        int32_t mid_count = has_mid(o) ? 1 : 0;
        graph->src_count = o->layer_count * (1 + o->head_count + mid_count + mlp_count);
        graph->dest_count = graph->module_count = o->layer_count * (1 + mid_count);
        return;
    }
    graph->kv_dest_count = o->gqa == ABL_GQA_NATIVE ? o->kv_head_count : o->head_count;
    graph->block_src_count = o->head_count + mlp_count;
    graph->block_dest_count =
        o->head_count + (o->joined_qkv ? 0 : 2 * graph->kv_dest_count) + mlp_count;
    graph->src_count = 1 + o->layer_count * graph->block_src_count;
    graph->dest_count = o->layer_count * graph->block_dest_count + 1;
    graph->module_count = o->layer_count * ((o->joined_qkv ? 1 : 3) + mlp_count) + 1;
}

/* Layers: Resid Start is 0; each block's attention and its MLP count up, sharing one in parallel.
 * In a simple graph Resid Start is on the first heads' layer. */
static int32_t attn_layer(const abl_graph *graph, int32_t block) {
    bool shared = graph->options.parallel_attn_mlp || graph->options.attn_only;
    return (graph->options.simple ? 0 : 1) + block * (shared ? 1 : 2);
}

static int32_t mlp_layer(const abl_graph *graph, int32_t block) {
    return attn_layer(graph, block) + (graph->options.parallel_attn_mlp ? 0 : 1);
}

/* Appends a source; its names follow from what it is. */
static bool src_append(abl_graph *graph, int32_t *count, abl_graph_src model) {
    abl_arena *arena = graph->arena;
    abl_graph_src *src = &graph->srcs[*count];
    const int32_t block = model.block;
    *src = model;
    src->index = (*count)++;
    switch (src->kind) {
    case ABL_NODE_RESID_START:
        src->name = "Resid Start";
        src->mib_name = "input";
        src->module_name = "blocks.0.hook_resid_pre";
        return true;
    case ABL_NODE_HEAD:
        src->name = abl_arena_printf(arena, "A%d.%d", block, src->head);
        src->mib_name = abl_arena_printf(arena, "a%d.h%d", block, src->head);
        src->module_name = src->head > 0
                               ? src[-1].module_name /* one module a block */
                               : abl_arena_printf(arena, "blocks.%d.attn.hook_result", block);
        break;
    case ABL_NODE_MLP:
        src->name = abl_arena_printf(arena, "MLP %d", block);
        src->mib_name = abl_arena_printf(arena, "m%d", block);
        src->module_name = abl_arena_printf(arena, "blocks.%d.hook_mlp_out", block);
        break;
    case ABL_NODE_RESID_MID:
        src->name = abl_arena_printf(arena, "Resid Mid %d", block);
        src->module_name = abl_arena_printf(arena, "blocks.%d.hook_resid_mid", block);
        return src->name != NULL && src->module_name != NULL;
    case ABL_NODE_RESID_POST:
    case ABL_NODE_RESID_END:
        src->name = abl_arena_printf(arena, "Resid Post %d", block);
        src->module_name = abl_arena_printf(arena, "blocks.%d.hook_resid_post", block);
        return src->name != NULL && src->module_name != NULL;
    }
    return src->name != NULL && src->mib_name != NULL && src->module_name != NULL;
}

static bool srcs_fill(abl_graph *graph) {
    const abl_graph_options *o = &graph->options;
    graph->srcs = abl_arena_alloc(graph->arena, (size_t)graph->src_count * sizeof *graph->srcs);
    if (graph->srcs == NULL) {
        return false;
    }
    int32_t count = 0;
    bool ok = src_append(graph, &count,
                         (abl_graph_src){.kind = ABL_NODE_RESID_START, .block = -1, .head = -1});
    for (int32_t block = 0; ok && block < o->layer_count; block++) {
        abl_graph_src src = {.kind = ABL_NODE_RESID_POST,
                             .layer = attn_layer(graph, block),
                             .block = block - 1,
                             .head = -1};
        if (o->simple && block > 0) {
            ok = src_append(graph, &count, src);
        }
        src.kind = ABL_NODE_HEAD;
        src.block = block;
        for (src.head = 0; ok && src.head < o->head_count; src.head++) {
            ok = src_append(graph, &count, src);
        }
        src.head = -1;
        src.layer = mlp_layer(graph, block);
        src.kind = ABL_NODE_RESID_MID;
        if (ok && has_mid(o)) {
            ok = src_append(graph, &count, src);
        }
        src.kind = ABL_NODE_MLP;
        if (ok && !o->attn_only) {
            ok = src_append(graph, &count, src);
        }
    }
    ABL_ASSERT(!ok || count == graph->src_count);
    return ok;
}

/* What a module is called, and its destinations' letters in the two dialects. */
typedef struct role_names {
    const char *hook; /* the module is blocks.{block}.hook_{hook} */
    const char *name_suffix;
    const char *mib_suffix;
} role_names;

static const role_names ROLE_NAMES[] = {
    [ABL_DEST_Q] = {"q_input", ".Q", "<q>"}, [ABL_DEST_K] = {"k_input", ".K", "<k>"},
    [ABL_DEST_V] = {"v_input", ".V", "<v>"}, [ABL_DEST_QKV] = {"attn_in", "", ""},
    [ABL_DEST_MLP] = {"mlp_in", "", ""},     [ABL_DEST_END] = {"resid_post", "", ""},
    [ABL_DEST_MID] = {"resid_mid", "", ""},  [ABL_DEST_POST] = {"resid_post", "", ""},
};

static bool dest_names_fill(abl_arena *arena, abl_graph_dest *dest) {
    const role_names *names = &ROLE_NAMES[dest->role];
    switch (dest->kind) {
    case ABL_NODE_HEAD:
        dest->name =
            abl_arena_printf(arena, "A%d.%d%s", dest->block, dest->head, names->name_suffix);
        dest->mib_name =
            abl_arena_printf(arena, "a%d.h%d%s", dest->block, dest->head, names->mib_suffix);
        break;
    case ABL_NODE_MLP:
        dest->name = abl_arena_printf(arena, "MLP %d", dest->block);
        dest->mib_name = abl_arena_printf(arena, "m%d", dest->block);
        break;
    case ABL_NODE_RESID_MID:
        dest->name = abl_arena_printf(arena, "Resid Mid %d", dest->block);
        return dest->name != NULL;
    case ABL_NODE_RESID_POST:
        dest->name = abl_arena_printf(arena, "Resid Post %d", dest->block);
        return dest->name != NULL;
    case ABL_NODE_RESID_END:
    case ABL_NODE_RESID_START:
        dest->name = "Resid End";
        dest->mib_name = "logits";
        break;
    }
    return dest->name != NULL && dest->mib_name != NULL;
}

typedef struct dest_cursor {
    int32_t dest;
    int32_t module;
    int64_t edge;
} dest_cursor;

/* Appends one module with its destinations. `model` holds what is common to all of them. */
static bool module_append(abl_graph *graph, dest_cursor *cursor, const abl_graph_dest *model,
                          int32_t head_count) {
    abl_graph_module *module = &graph->modules[cursor->module];
    int32_t block = model->kind == ABL_NODE_RESID_END ? model->block - 1 : model->block;
    int32_t dest_count = head_count == 0 ? 1 : head_count;
    *module = (abl_graph_module){.name = abl_arena_printf(graph->arena, "blocks.%d.hook_%s", block,
                                                          ROLE_NAMES[model->role].hook),
                                 .role = model->role,
                                 .index = cursor->module,
                                 .block = model->block,
                                 .dest_begin = cursor->dest,
                                 .dest_count = dest_count,
                                 .has_heads = head_count != 0,
                                 .src_begin = model->src_begin,
                                 .src_count = model->src_count,
                                 .edge_offset = cursor->edge};
    if (module->name == NULL) {
        return false;
    }
    for (int32_t head = 0; head < dest_count; head++) {
        abl_graph_dest *dest = &graph->dests[cursor->dest];
        *dest = *model;
        dest->index = cursor->dest++;
        dest->module = cursor->module;
        dest->head = head_count == 0 ? -1 : head;
        dest->edge_offset = cursor->edge;
        cursor->edge += dest->src_count;
        if (!dest_names_fill(graph->arena, dest)) {
            return false;
        }
    }
    cursor->module++;
    return true;
}

/* The readers of a factorized graph: everything that has an input of its own, then the end. */
static bool factorized_fill(abl_graph *graph, dest_cursor *cursor) {
    const abl_graph_options *o = &graph->options;
    bool ok = true;
    for (int32_t block = 0; ok && block < o->layer_count; block++) {
        abl_graph_dest model = {.kind = ABL_NODE_HEAD,
                                .role = o->joined_qkv ? ABL_DEST_QKV : ABL_DEST_Q,
                                .layer = attn_layer(graph, block),
                                .block = block,
                                .src_count = 1 + block * graph->block_src_count};
        ok = module_append(graph, cursor, &model, o->head_count);
        for (int role = ABL_DEST_K; ok && !o->joined_qkv && role <= ABL_DEST_V; role++) {
            model.role = (abl_dest_role)role;
            ok = module_append(graph, cursor, &model, graph->kv_dest_count);
        }
        if (ok && !o->attn_only) {
            model.kind = ABL_NODE_MLP;
            model.role = ABL_DEST_MLP;
            model.layer = mlp_layer(graph, block);
            model.src_count += o->parallel_attn_mlp ? 0 : o->head_count;
            ok = module_append(graph, cursor, &model, 0);
        }
    }
    abl_graph_dest end = {.kind = ABL_NODE_RESID_END,
                          .role = ABL_DEST_END,
                          .layer = attn_layer(graph, o->layer_count),
                          .block = o->layer_count,
                          .src_count = graph->src_count};
    return ok && module_append(graph, cursor, &end, 0);
}

/* The stream's own nodes: sources are cut into one range a node. */
static bool simple_fill(abl_graph *graph, dest_cursor *cursor) {
    const abl_graph_options *o = &graph->options;
    int32_t src = 0;
    bool ok = true;
    for (int32_t block = 0; ok && block < o->layer_count; block++) {
        bool last = block + 1 == o->layer_count;
        abl_graph_dest dest = {.kind = ABL_NODE_RESID_MID,
                               .role = ABL_DEST_MID,
                               .layer = mlp_layer(graph, block),
                               .block = block,
                               .src_begin = src,
                               .src_count = 1 + o->head_count};
        if (has_mid(o)) {
            ok = module_append(graph, cursor, &dest, 0);
            src += dest.src_count;
            dest.src_count = 1;
        }
        dest.kind = last ? ABL_NODE_RESID_END : ABL_NODE_RESID_POST;
        dest.role = last ? ABL_DEST_END : ABL_DEST_POST;
        dest.layer = attn_layer(graph, block + 1);
        dest.block = last ? o->layer_count : block;
        dest.src_begin = src;
        dest.src_count += o->attn_only ? 0 : 1;
        ok = ok && module_append(graph, cursor, &dest, 0);
        src += dest.src_count;
    }
    ABL_ASSERT(!ok || src == graph->src_count);
    return ok;
}

static bool dests_fill(abl_graph *graph) {
    graph->dests = abl_arena_alloc(graph->arena, (size_t)graph->dest_count * sizeof *graph->dests);
    graph->modules =
        abl_arena_alloc(graph->arena, (size_t)graph->module_count * sizeof *graph->modules);
    if (graph->dests == NULL || graph->modules == NULL) {
        return false;
    }
    dest_cursor cursor = {0};
    bool ok = graph->options.simple ? simple_fill(graph, &cursor) : factorized_fill(graph, &cursor);
    graph->edges_per_position = cursor.edge;
    ABL_ASSERT(!ok || (cursor.dest == graph->dest_count && cursor.module == graph->module_count));
    return ok;
}
