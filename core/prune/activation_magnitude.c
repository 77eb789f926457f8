// SPDX-License-Identifier: Apache-2.0
/* The size of what a source emits, as the score of all its edges: |mean over rows, positions and
 * d_model of its output on the clean prompt|, averaged over batches. A baseline: it knows nothing
 * of the task. As AutoCircuit's, except that every edge gets its own source's value; AutoCircuit
 * takes the first n sources for every destination, which is the same in factorized graphs only.
 *
 * A head's output is z_h W_O,h, so its mean is <mean of z_h, mean over d_model of W_O,h>: no head's
 * output is ever written out. Weights that write to the stream are centred by some processing; the
 * mean over d_model is then zero, and the scores are rounding noise. */
#include "core/prune/algorithm.h"

#include "core/base/mem.h"
#include "core/patch/hooked.h"
#include "core/patch/sources.h"

#include <math.h>

static abl_code magnitude_open(abl_prune *prune, abl_status *ret_status) {
    prune->state = abl_calloc((size_t)abl_graph_src_count(prune->options.graph), sizeof(float));
    prune->progress.total = prune->batch_count;
    return prune->state == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
}

/* Mean over everything. */
static float mean_of(abl_scope *scope, const abl_tensor *x) {
    return (float)abl_tensor_item(scope, abl_tensor_mean(scope, x, NULL, 0, false));
}

/* The means of a block's heads, into as many floats. */
static void heads_mean(abl_scope *scope, const abl_model *model, int layer,
                       const abl_sources *sources, float *ret_means) {
    const abl_model_config *c = abl_model_get_config(model);
    const abl_tensor *z = sources->z[layer];
    const abl_tensor *change = sources->change[layer];
    const int64_t but_heads[] = {0, 1, 3};
    const int64_t over_rows[] = {0, 1};
    const int64_t over_width[] = {1};
    abl_tensor *z_mean = abl_tensor_mean(scope, z, over_rows, 2, false); /* (heads, d_head) */
    abl_tensor *w_o = abl_block_in_float32(scope, abl_model_get_block(model, layer)->w_o);
    abl_tensor *w_mean = abl_tensor_mean(scope, w_o, over_width, 1, false);
    w_mean = abl_tensor_view(scope, w_mean, 2, (const int64_t[]){c->n_heads, c->d_head});
    abl_tensor *means = abl_tensor_dot(scope, z_mean, w_mean);
    if (change != NULL) {
        means = abl_tensor_add(scope, means, abl_tensor_mean(scope, change, but_heads, 3, false));
    }
    abl_tensor_to_floats(scope, means, ret_means, (size_t)c->n_heads);
}

/* The stream after a block. */
static const abl_tensor *post_of(const abl_sources *sources, int32_t block) {
    return block + 1 == sources->layer_count ? sources->end : sources->pre[block + 1];
}

/* The mean of every source of the graph. */
static abl_code means_of(const abl_prune *prune, const abl_sources *sources, float *ret_means,
                         abl_status *ret_status) {
    const abl_model *model = prune->options.model;
    const abl_graph *graph = prune->options.graph;
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    if (scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int32_t i = 0; i < abl_graph_src_count(graph) && !abl_scope_failed(scope); i++) {
        const abl_graph_src *src = abl_graph_src_at(graph, i);
        switch (src->kind) {
        case ABL_NODE_RESID_START:
            ret_means[i] = mean_of(scope, sources->start);
            break;
        case ABL_NODE_HEAD:
            if (src->head == 0) { /* and those that follow */
                heads_mean(scope, model, src->block, sources, &ret_means[i]);
            }
            break;
        case ABL_NODE_MLP:
            ret_means[i] = mean_of(scope, sources->mlp_out[src->block]);
            break;
        case ABL_NODE_RESID_MID:
            ret_means[i] = mean_of(scope, sources->mid[src->block]);
            break;
        case ABL_NODE_RESID_POST:
            ret_means[i] = mean_of(scope, post_of(sources, src->block));
            break;
        case ABL_NODE_RESID_END: /* no source */
            break;
        }
    }
    abl_code code = abl_scope_status(scope, ret_status);
    abl_scope_destroy(scope);
    return code;
}

static abl_code magnitude_step(abl_prune *prune, abl_status *ret_status) {
    const abl_prune_options *o = &prune->options;
    float *means = prune->state;
    abl_batch batch = abl_batches_at(&o->batches, prune->progress.batch);
    abl_sources *sources = NULL;
    bool stream = abl_graph_options_of(o->graph)->simple; /* whose nodes are sources, there */
    const abl_patch_options pass = abl_prune_pass(o, &batch);
    abl_code code = abl_patch_hooked_sources(&pass, stream, &sources, ret_status);
    if (code == ABL_CODE_OK) {
        code = means_of(prune, sources, means, ret_status);
    }
    abl_sources_destroy(sources);
    if (code != ABL_CODE_OK) {
        return code;
    }
    for (int64_t i = 0; i < prune->edge_count; i++) {
        abl_edge edge = abl_graph_edge_at(o->graph, i);
        prune->scores[i] += fabsf(means[edge.src]) / (float)prune->batch_count;
    }
    prune->progress.done++;
    prune->progress.batch_finished = true;
    return ABL_CODE_OK;
}

static void magnitude_close(abl_prune *prune) {
    abl_free(prune->state);
    prune->state = NULL;
}

static int64_t magnitude_bytes_estimate(const abl_prune_options *options) {
    if (options->interventions.count > 0) {
        return abl_prune_hooked_bytes(options, false);
    }
    const abl_model_config *c = abl_model_get_config(options->model);
    int64_t tokens =
        (int64_t)options->batches.batch_size * abl_dataset_seq_len(options->batches.dataset);
    int64_t kept = c->n_layers * ((int64_t)c->n_heads * c->d_head + 3LL * c->d_model);
    int64_t block = 6LL * c->d_model + 4LL * c->d_mlp +
                    (int64_t)c->n_heads * abl_dataset_seq_len(options->batches.dataset);
    return 4 * (tokens * (kept + block) + abl_graph_edge_count(options->graph));
}

const abl_prune_vtable abl_prune_activation_magnitude = {.open = magnitude_open,
                                                         .step = magnitude_step,
                                                         .close = magnitude_close,
                                                         .bytes_estimate =
                                                             magnitude_bytes_estimate};
