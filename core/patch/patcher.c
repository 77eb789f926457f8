// SPDX-License-Identifier: Apache-2.0
/* The forward pass under any edge mask (ALGORITHMS: forward with any edge mask).
 *
 * With D[s] = ablated[s] - current[s], stacked in one arena
 *     slot 0: all ablated | slot 1: residual | slot 2 + s: D[s]       (batch, pos, d_model) each
 * the inputs of a layer's heads are one product of mask rows with the arena's first 2 + n slots, n
 * being the sources below the layer. A row is (0, 1, mask), or from the other end (1, 0, mask - 1):
 * whichever adds less, for where most edges are ablated the residual is large and nearly all of it
 * would be subtracted again, and a norm then amplifies what rounding left. Each distinct row is
 * mixed and normed once; rows that are all 0 read the residual itself, rows that are all 1 slot 0,
 * so that an empty mask is the plain pass and a full one the ablation's, bit for bit.
 *
 * Projection: destinations side by side that read the same input are one product with a slice of
 * the folded weights' columns; each writes its slice of (batch, pos, heads, d_head). Attention, the
 * attention's output and the MLP are then the plain ones. Differences of a layer's heads come from
 * z (sources.h).
 *
 * Most of a model is idle in a small circuit (idle.h): its heads and MLPs are not computed, and
 * count as their ablation everywhere, the stream included.
 *
 * A mask with positions, or one for each batch row, has several planes (mix.h); all else is the
 * same. Simple graphs are simple.c's: of a patcher they need nothing but the model. */
#include "core/patch/patcher.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/prefix.h"
#include "core/patch/hooked.h"
#include "core/patch/idle.h"
#include "core/patch/mask_rows.h"
#include "core/patch/mix.h"
#include "core/patch/simple.h"

#include <string.h>

struct abl_patcher {
    const abl_model *model;
    const abl_model_config *config;
    const abl_graph *graph;
    abl_folded *folded; /* NULL for a simple graph, as the rest */
    abl_scope *scope;   /* of the arena */
    abl_differences differences;
    uint8_t *zeroed; /* a source: its slot in the arena is zero, from a pass in which it was idle */
    int32_t *group;  /* a row of a layer: its mix, or ABL_MASK_ROW_... */
    int32_t *first;  /* a mix: its first row */
};

typedef struct pass {
    abl_patcher *patcher;
    const abl_patch_options *options;
    abl_scope *scope;
    int64_t batch;
    int64_t seq;
    int64_t width;       /* d_model */
    abl_mix_shape shape; /* of the mask's planes */
    abl_idle idle;       /* zeroed without a mask */
} pass;

#define ROW_IDLE (-3) /* beside ABL_MASK_ROW_...: nobody looks at what it would read */

abl_code abl_patcher_create(const abl_model *model, const abl_graph *graph,
                            abl_patcher **ret_patcher, abl_status *ret_status) {
    abl_code code = abl_graph_check_model(graph, model, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_patcher *patcher = abl_calloc(1, sizeof *patcher);
    if (patcher == NULL) {
        return abl_fail_oom(ret_status);
    }
    patcher->model = model;
    patcher->config = abl_model_get_config(model);
    patcher->graph = graph;
    bool simple = abl_graph_options_of(graph)->simple;
    code =
        simple ? ABL_CODE_OK : abl_folded_create(model, graph, false, &patcher->folded, ret_status);
    if (code == ABL_CODE_OK && !simple) {
        size_t rows = (size_t)patcher->folded->heads;
        patcher->group = abl_calloc(rows, sizeof *patcher->group);
        patcher->first = abl_calloc(rows, sizeof *patcher->first);
        patcher->zeroed = abl_calloc((size_t)abl_graph_src_count(graph), 1);
        if (patcher->group == NULL || patcher->first == NULL || patcher->zeroed == NULL) {
            code = abl_fail_oom(ret_status);
        }
    }
    if (code != ABL_CODE_OK) {
        abl_patcher_destroy(patcher);
        return code;
    }
    *ret_patcher = patcher;
    return ABL_CODE_OK;
}

void abl_patcher_destroy(abl_patcher *patcher) {
    if (patcher == NULL) {
        return;
    }
    abl_scope_destroy(patcher->scope);
    abl_folded_destroy(patcher->folded);
    abl_free(patcher->zeroed);
    abl_free(patcher->group);
    abl_free(patcher->first);
    abl_free(patcher);
}

/* An arena of this batch's shape; the last one when that fits. */
static abl_code arena_prepare(abl_patcher *patcher, int64_t batch, int64_t seq,
                              abl_status *ret_status) {
    abl_differences *d = &patcher->differences;
    if (patcher->scope != NULL && d->batch == batch && d->seq == seq) {
        return ABL_CODE_OK;
    }
    abl_scope_destroy(patcher->scope);
    memset(patcher->zeroed, 0, (size_t)abl_graph_src_count(patcher->graph));
    patcher->scope = abl_scope_create(abl_model_device(patcher->model));
    if (patcher->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    int64_t width = patcher->config->d_model;
    const int64_t shape[] = {ABL_SLOT_SOURCES + abl_graph_src_count(patcher->graph), batch, seq,
                             width};
    *d = (abl_differences){.arena = abl_tensor_empty(patcher->scope, ABL_DTYPE_F32, 4, shape),
                           .batch = batch,
                           .seq = seq,
                           .width = width};
    abl_code code = abl_scope_status(patcher->scope, ret_status);
    if (code != ABL_CODE_OK) {
        abl_scope_destroy(patcher->scope);
        patcher->scope = NULL;
    }
    return code;
}

/* ---- inputs of destinations ------------------------------------------------------------------ */

/* The mask of one module's destinations, and of `blocks` modules with as many sources behind it. */
static abl_mask_rows rows_of(const pass *p, const abl_graph_module *module, int32_t row_count) {
    return (abl_mask_rows){.values = p->idle.mask + module->edge_offset,
                           .positions = p->shape.mask_batch * p->shape.positions,
                           .stride = abl_graph_edges_per_position(p->patcher->graph),
                           .row_count = row_count,
                           .column_count = module->src_count};
}

/* What a destination whose sources are all ablated reads. */
static abl_tensor *all_ablated(pass *p, int layer, bool mid) {
    return abl_differences_ablated(p->scope, &p->patcher->differences, p->patcher->model,
                                   p->options->ablated, layer, mid);
}

static void slots_fill(pass *p, int layer, bool mid, const abl_tensor *resid) {
    abl_differences_fill(p->scope, &p->patcher->differences, p->patcher->model, p->options->ablated,
                         layer, mid, resid);
}

/* The mixes (mixes, batch, pos, d_model) of the chosen rows. Slots 0 and 1 are filled. */
static abl_tensor *mix(pass *p, const abl_mask_rows *rows, const int32_t *chosen, int32_t mixes) {
    abl_scope *scope = p->scope;
    const int64_t n = ABL_SLOT_SOURCES + rows->column_count;
    abl_tensor *matrix = abl_mix_matrix(scope, rows, chosen, mixes);
    abl_tensor *stack = abl_tensor_slice(scope, p->patcher->differences.arena, 0, 0, n);
    const int64_t shape[] = {mixes, p->batch, p->seq, p->width};
    abl_tensor *out = abl_tensor_empty(scope, ABL_DTYPE_F32, 4, shape);
    abl_mix_apply(scope, &p->shape, out, matrix, stack, 0, 1);
    return out;
}

/* The input of a module with one destination (an MLP). */
static abl_tensor *single_input(pass *p, const abl_graph_module *module, int layer, bool mid,
                                abl_tensor *resid) {
    if (p->options->mask == NULL) {
        return resid;
    }
    abl_mask_rows rows = rows_of(p, module, 1);
    int32_t group = 0;
    int32_t first = 0;
    (void)abl_mask_rows_group(&rows, &group, &first);
    if (group == ABL_MASK_ROW_ZERO) {
        return resid;
    }
    if (group == ABL_MASK_ROW_ONE) {
        return all_ablated(p, layer, mid);
    }
    slots_fill(p, layer, mid, resid);
    return abl_tensor_select(p->scope, mix(p, &rows, &first, 1), 0, 0);
}

/* ---- attention ------------------------------------------------------------------------------- */

static abl_tensor *normed_of(pass *p, int layer, const abl_tensor *x) {
    return abl_folded_norm(p->scope, p->patcher->folded, layer, x);
}

/* Heads begin..end of the projection of one input, into their slice of `qkv`. */
static void project_into(pass *p, int layer, const abl_tensor *xhat, int64_t begin, int64_t end,
                         abl_tensor *qkv) {
    abl_scope *scope = p->scope;
    const abl_folded *f = p->patcher->folded;
    const int64_t from = begin * f->d_head;
    const int64_t to = end * f->d_head;
    abl_tensor *bias = f->layers[layer].b;
    abl_tensor_linear_into(scope, abl_tensor_slice(scope, qkv, 1, from, to),
                           abl_tensor_view(scope, xhat, 2, (const int64_t[]){-1, p->width}),
                           abl_tensor_slice(scope, f->layers[layer].w, 1, from, to),
                           bias == NULL ? NULL : abl_tensor_slice(scope, bias, 0, from, to));
}

/* q, k, v of every head from its own input: (batch, pos, heads, d_head). */
static abl_tensor *project_rows(pass *p, int layer, const abl_mask_rows *rows, int32_t mixes,
                                abl_tensor *resid) {
    abl_scope *scope = p->scope;
    abl_patcher *patcher = p->patcher;
    const abl_folded *f = patcher->folded;
    abl_tensor *zero = NULL;
    abl_tensor *one = NULL;
    abl_tensor *mixed = NULL;
    if (mixes > 0) {
        slots_fill(p, layer, false, resid);
        mixed = normed_of(p, layer, mix(p, rows, patcher->first, mixes));
    }
    abl_tensor *qkv =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 2,
                         (const int64_t[]){p->batch * p->seq, (int64_t)f->heads * f->d_head});
    for (int32_t begin = 0; begin < f->heads && !abl_scope_failed(scope);) {
        int32_t group = patcher->group[begin];
        int32_t end = begin + 1;
        while (end < f->heads && patcher->group[end] == group) {
            end++;
        }
        abl_tensor *xhat = NULL;
        if (group == ROW_IDLE) {
            begin = end;
            continue;
        }
        if (group == ABL_MASK_ROW_ZERO) {
            xhat = zero = zero == NULL ? normed_of(p, layer, resid) : zero;
        } else if (group == ABL_MASK_ROW_ONE) {
            xhat = one = one == NULL ? normed_of(p, layer, all_ablated(p, layer, false)) : one;
        } else {
            xhat = abl_tensor_select(scope, mixed, 0, group);
        }
        project_into(p, layer, xhat, begin, end, qkv);
        begin = end;
    }
    return abl_tensor_view(scope, qkv, 4, (const int64_t[]){p->batch, p->seq, f->heads, f->d_head});
}

static const abl_graph_module *module_of(const pass *p, int layer, bool mlp) {
    return abl_graph_block_module(p->patcher->graph, layer, mlp);
}

static abl_tensor *project(pass *p, int layer, abl_tensor *resid) {
    abl_patcher *patcher = p->patcher;
    const abl_folded *f = patcher->folded;
    if (p->options->mask == NULL) {
        return abl_folded_project(p->scope, f, layer, normed_of(p, layer, resid));
    }
    bool joined = abl_graph_options_of(patcher->graph)->joined_qkv;
    abl_mask_rows rows = rows_of(p, module_of(p, layer, false), joined ? f->q_heads : f->heads);
    int32_t mixes = abl_mask_rows_group(&rows, patcher->group, patcher->first);
    const int32_t first = module_of(p, layer, false)->dest_begin;
    for (int32_t i = 0; i < rows.row_count; i++) {
        if (abl_idle_dest(&p->idle, abl_graph_dest_at(patcher->graph, first + i))) {
            patcher->group[i] = ROW_IDLE;
        }
    }
    for (int32_t i = rows.row_count; i < f->heads; i++) {
        patcher->group[i] = patcher->group[i - rows.row_count]; /* joined: k and v as q */
    }
    return project_rows(p, layer, &rows, mixes, resid);
}

static int64_t head_slot(const pass *p, int layer) {
    return ABL_SLOT_SOURCES + abl_graph_block_src(p->patcher->graph, layer);
}

/* How many of these sources are idle. */
static int32_t idle_count(const pass *p, int32_t src, int32_t count) {
    int32_t idle = 0;
    for (int32_t i = 0; p->options->mask != NULL && i < count; i++) {
        idle += p->idle.sources[src + i];
    }
    return idle;
}

/* Idle sources differ in nothing from their ablation. */
static void slots_zero(pass *p, int32_t src, int32_t count) {
    uint8_t *zeroed = p->patcher->zeroed + src;
    if (memchr(zeroed, 0, (size_t)count) != NULL) {
        abl_tensor_fill_(p->scope,
                         abl_tensor_slice(p->scope, p->patcher->differences.arena, 0,
                                          ABL_SLOT_SOURCES + src, ABL_SLOT_SOURCES + src + count),
                         0);
        memset(zeroed, 1, (size_t)count);
    }
}

/* Attention's output where all heads are idle: the ablation's; NULL is zeros. */
static abl_tensor *idle_attention(pass *p, int layer) {
    const abl_sources *ablated = p->options->ablated;
    slots_zero(p, abl_graph_block_src(p->patcher->graph, layer), p->patcher->config->n_heads);
    if (ablated != NULL) {
        return abl_tensor_sub(p->scope, ablated->mid[layer], ablated->pre[layer]);
    }
    return abl_block_in_float32(p->scope, abl_model_get_block(p->patcher->model, layer)->b_o);
}

/* Idle heads emit what ablates them. */
static void heads_ablate(pass *p, int layer, abl_tensor *z) {
    abl_scope *scope = p->scope;
    const abl_sources *ablated = p->options->ablated;
    const int32_t heads = p->patcher->config->n_heads;
    const uint8_t *idle = p->idle.sources + abl_graph_block_src(p->patcher->graph, layer);
    for (int32_t begin = 0; begin < heads;) {
        int32_t end = begin + 1;
        while (end < heads && idle[end] == idle[begin]) {
            end++;
        }
        abl_tensor *to = idle[begin] ? abl_tensor_slice(scope, z, 2, begin, end) : NULL;
        if (to != NULL && ablated != NULL) {
            abl_tensor_copy_into(scope, to,
                                 abl_tensor_slice(scope, ablated->z[layer], 2, begin, end));
        } else if (to != NULL) {
            abl_tensor_fill_(scope, to, 0);
        }
        begin = end;
    }
}

static abl_tensor *attention(pass *p, int layer, abl_tensor *resid) {
    abl_scope *scope = p->scope;
    const abl_model *model = p->patcher->model;
    const int32_t heads = p->patcher->config->n_heads;
    const int32_t src = abl_graph_block_src(p->patcher->graph, layer);
    const int32_t idle = idle_count(p, src, heads);
    if (idle == heads) {
        return idle_attention(p, layer);
    }
    abl_qkv qkv = abl_folded_views(scope, p->patcher->folded, project(p, layer, resid));
    qkv = abl_prefix_qkv(scope, model, p->options->prefix, layer, qkv);
    abl_tensor *z = abl_block_attention(scope, model, qkv.q, qkv.k, qkv.v, NULL, NULL);
    if (idle > 0) {
        heads_ablate(p, layer, z);
    }
    if (p->options->mask != NULL) {
        memset(p->patcher->zeroed + src, 0, (size_t)heads);
        abl_differences_heads(scope, &p->patcher->differences, model, p->options->ablated, layer,
                              head_slot(p, layer), z);
    }
    return abl_block_attn_out(scope, model, layer, z);
}

static abl_tensor *mlp(pass *p, int layer, bool mid, abl_tensor *resid) {
    const abl_model *model = p->patcher->model;
    const int32_t src = abl_graph_block_src(p->patcher->graph, layer) + p->patcher->config->n_heads;
    if (idle_count(p, src, 1) == 1) {
        const abl_sources *ablated = p->options->ablated;
        slots_zero(p, src, 1);
        return ablated == NULL ? NULL : abl_scope_borrow(p->scope, ablated->mlp_out[layer]);
    }
    abl_tensor *x = single_input(p, module_of(p, layer, true), layer, mid, resid);
    x = abl_block_norm_forward(p->scope, model, layer, ABL_BLOCK_NORM_2, x, NULL, NULL);
    abl_tensor *out = abl_block_mlp(p->scope, model, layer, x, NULL);
    if (p->options->mask != NULL) {
        p->patcher->zeroed[src] = 0;
        abl_differences_mlp(p->scope, &p->patcher->differences, p->options->ablated, layer,
                            head_slot(p, layer) + p->patcher->config->n_heads, out);
    }
    return out;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Resid End at the last position only: (batch, d_model). */
static abl_tensor *end_last(pass *p, abl_tensor *resid) {
    abl_scope *scope = p->scope;
    const abl_graph *graph = p->patcher->graph;
    abl_tensor *last = abl_tensor_select(scope, resid, 1, p->seq - 1);
    const abl_graph_module *module = abl_graph_module_at(graph, abl_graph_module_count(graph) - 1);
    if (p->options->mask == NULL) {
        return last;
    }
    abl_mask_rows rows = rows_of(p, module, 1);
    rows.values += (p->shape.positions - 1) * rows.stride; /* the last one's rows */
    rows.stride *= p->shape.positions;
    rows.positions = p->shape.mask_batch;
    int32_t group = 0;
    int32_t first = 0;
    (void)abl_mask_rows_group(&rows, &group, &first);
    if (group == ABL_MASK_ROW_ZERO) {
        return last;
    }
    if (group == ABL_MASK_ROW_ONE) {
        abl_tensor *x = all_ablated(p, p->patcher->config->n_layers, false);
        return abl_tensor_select(scope, x, 1, p->seq - 1);
    }
    slots_fill(p, p->patcher->config->n_layers, false, resid);
    abl_tensor *stack = abl_tensor_slice(scope, p->patcher->differences.arena, 0, 0,
                                         ABL_SLOT_SOURCES + module->src_count);
    stack = abl_tensor_contiguous(scope, abl_tensor_slice(scope, stack, 2, p->seq - 1, p->seq));
    abl_mix_shape one = p->shape;
    one.seq = one.positions = 1;
    abl_tensor *x =
        abl_tensor_empty(scope, ABL_DTYPE_F32, 4, (const int64_t[]){1, p->batch, 1, p->width});
    abl_mix_apply(scope, &one, x, abl_mix_matrix(scope, &rows, &first, 1), stack, 0, 1);
    return abl_tensor_view(scope, x, 2, (const int64_t[]){p->batch, p->width});
}

static abl_tensor *end_input(pass *p, abl_tensor *resid) {
    const abl_graph *graph = p->patcher->graph;
    if (p->options->out_slice == ABL_OUT_SLICE_LAST) {
        return end_last(p, resid);
    }
    const abl_graph_module *module = abl_graph_module_at(graph, abl_graph_module_count(graph) - 1);
    abl_tensor *x = single_input(p, module, p->patcher->config->n_layers, false, resid);
    return p->options->out_slice == ABL_OUT_SLICE_ALL ? x
                                                      : abl_tensor_slice(p->scope, x, 1, 1, p->seq);
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* The stream after a sublayer; NULL: it wrote nothing. */
static abl_tensor *plus(abl_scope *scope, abl_tensor *resid, const abl_tensor *out) {
    return out == NULL ? resid : abl_tensor_add(scope, resid, out);
}

static void run(pass *p, float *ret_logits) {
    abl_scope *scope = p->scope;
    const abl_patch_options *o = p->options;
    const abl_model *model = p->patcher->model;
    bool parallel = p->patcher->config->parallel_attn_mlp;
    abl_tensor *ids = abl_block_tokens(scope, o->tokens, p->batch, p->seq);
    abl_tensor *resid =
        abl_block_embed(scope, model, ABL_DTYPE_F32, ids, abl_prefix_length(o->prefix), NULL, NULL);
    p->patcher->differences.scope = scope;
    if (o->mask != NULL) {
        abl_differences_start(&p->patcher->differences, p->options->ablated, resid);
    }
    for (int layer = 0; layer < p->patcher->config->n_layers && !abl_scope_failed(scope); layer++) {
        size_t mark = abl_scope_mark(scope);
        abl_tensor *mid = plus(scope, resid, attention(p, layer, resid));
        resid = p->patcher->config->attn_only
                    ? mid
                    : plus(scope, mid, mlp(p, layer, !parallel, parallel ? resid : mid));
        abl_scope_rewind(scope, mark, &resid, 1);
    }
    abl_tensor *logits = abl_block_unembed(scope, model, end_input(p, resid), NULL, NULL);
    abl_tensor_to_floats(scope, logits, ret_logits, (size_t)abl_patch_logit_count(o));
}

abl_code abl_patcher_run(abl_patcher *patcher, const abl_patch_options *options, float *ret_logits,
                         abl_status *ret_status) {
    if (options->interventions.count > 0) {
        return abl_patch_hooked_logits(options, ret_logits, ret_status);
    }
    if (abl_graph_options_of(patcher->graph)->simple) {
        return abl_simple_forward(options, ret_logits, ret_status);
    }
    bool by_position = abl_graph_options_of(patcher->graph)->seq_len != 0;
    pass p = {.patcher = patcher,
              .options = options,
              .batch = options->batch,
              .seq = options->seq,
              .width = patcher->config->d_model,
              .shape = {.batch = options->batch,
                        .seq = options->seq,
                        .width = patcher->config->d_model,
                        .mask_batch = options->mask_batch > 1 ? options->mask_batch : 1,
                        .positions = by_position ? options->seq : 1}};
    ABL_ASSERT(!by_position || abl_graph_seq_count(patcher->graph) == options->seq);
    abl_code code = arena_prepare(patcher, p.batch, p.seq, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (options->mask != NULL) {
        const abl_sources *ablated = options->ablated;
        const abl_idle_options idle = {.graph = patcher->graph,
                                       .mask = options->mask,
                                       .planes = p.shape.mask_batch * p.shape.positions,
                                       .run = ablated != NULL && ablated->run &&
                                              ablated->prefix == options->prefix};
        code = abl_idle_init(&idle, &p.idle, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    p.scope = abl_scope_create(abl_model_device(patcher->model));
    if (p.scope == NULL) {
        abl_idle_finish(&p.idle);
        return abl_fail_oom(ret_status);
    }
    run(&p, ret_logits);
    code = abl_scope_status(p.scope, ret_status);
    abl_scope_destroy(p.scope);
    abl_idle_finish(&p.idle);
    return code;
}
