// SPDX-License-Identifier: Apache-2.0
/* Trials as whole passes under a mask, several in one: each trial's mask for its batch of rows.
 * Nothing is kept between passes, so any graph that a masked pass takes will do, and the result is
 * the plain reading of ACDC that faster evaluators are compared with. */
#include "core/prune/acdc.h"

#include "core/base/mem.h"
#include "core/patch/sources.h"

#include <string.h>

#define TOKENS_PER_PASS 1024 /* about as many as make products efficient */

typedef struct acdc_masked {
    abl_acdc_evaluator base;
    const abl_prune *prune;
    abl_batch batch;
    int64_t edge_count;
    int32_t trials_max;
    abl_scope *scope; /* of the effect */
    abl_effect effect;
    const abl_sources *ablated; /* the batch's; NULL: ZERO */
    abl_sources *repeated;      /* the same for `repeats` trials */
    int32_t repeats;
    int32_t *tokens; /* trials_max times the batch's rows */
    float *removed;  /* the mask of what is removed for good */
    float *masks;    /* (trials_max * batch, edges) */
    float *logits;   /* (trials_max * batch, vocab) */
    int64_t tried[ABL_ACDC_TRIALS_MAX];
} acdc_masked;

static void masked_destroy(abl_acdc_evaluator *evaluator) {
    acdc_masked *self = (acdc_masked *)evaluator;
    if (self == NULL) {
        return;
    }
    abl_scope_destroy(self->scope);
    abl_sources_destroy(self->repeated);
    abl_free(self->tokens);
    abl_free(self->removed);
    abl_free(self->masks);
    abl_free(self->logits);
    abl_free(self);
}

static int32_t trials_max(const abl_prune_options *o, const abl_batch *batch) {
    int32_t most = TOKENS_PER_PASS / (batch->size * batch->seq_len);
    int64_t by_mask = (64LL << 20) / (4 * batch->size * abl_graph_edge_count(o->graph));
    most = by_mask < most ? (int32_t)by_mask : most;
    if (abl_interventions_by_row(o->interventions)) {
        return 1; /* rows of several trials would not be the batch's */
    }
    return most < 1 ? 1 : most > ABL_ACDC_TRIALS_MAX ? ABL_ACDC_TRIALS_MAX : most;
}

/* The ablation with its rows `count` times. */
static abl_code rows_repeat(const abl_model *model, const abl_sources *from, int32_t count,
                            abl_sources **ret_sources, abl_status *ret_status) {
    int32_t rows = from->batch == 1 ? 1 : from->batch * count;
    abl_sources *to = abl_sources_alloc_like(from, rows);
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    if (to == NULL || scope == NULL) {
        abl_sources_destroy(to);
        abl_scope_destroy(scope);
        return abl_fail_oom(ret_status);
    }
    for (int32_t i = 0; i < abl_sources_tensor_count(from); i++) {
        abl_tensor *x = abl_sources_tensor_at(from, i);
        if (x == NULL) {
            continue; /* no MLP */
        }
        const abl_tensor *parts[ABL_ACDC_TRIALS_MAX];
        for (int32_t k = 0; k < count; k++) {
            parts[k] = x;
        }
        *abl_sources_slot_at(to, i) =
            abl_tensor_keep(rows == 1 ? x : abl_tensor_cat(scope, parts, (size_t)count, 0));
    }
    abl_code code = abl_scope_status(scope, ret_status);
    abl_scope_destroy(scope);
    if (code != ABL_CODE_OK) {
        abl_sources_destroy(to);
        return code;
    }
    *ret_sources = to;
    return ABL_CODE_OK;
}

static abl_code buffers_alloc(acdc_masked *self, abl_status *ret_status) {
    const abl_batch *batch = &self->batch;
    size_t rows = (size_t)self->trials_max * (size_t)batch->size;
    size_t row = (size_t)batch->size * (size_t)batch->seq_len;
    size_t vocab = (size_t)abl_model_get_config(self->prune->options.model)->d_vocab_out;
    self->tokens = abl_calloc((size_t)self->trials_max * row, sizeof *self->tokens);
    self->removed = abl_calloc((size_t)self->edge_count, sizeof *self->removed);
    self->masks = abl_calloc(rows * (size_t)self->edge_count, sizeof *self->masks);
    self->logits = abl_calloc(rows * vocab, sizeof *self->logits);
    if (self->tokens == NULL || self->removed == NULL || self->masks == NULL ||
        self->logits == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int32_t k = 0; k < self->trials_max; k++) {
        memcpy(self->tokens + (size_t)k * row, batch->clean, row * sizeof *self->tokens);
    }
    return ABL_CODE_OK;
}

/* What effects compare with, from a clean run that is intervened in: its logits. */
static abl_code hooked_open(acdc_masked *self, abl_status *ret_status) {
    const abl_prune_options *o = &self->prune->options;
    const abl_patch_options pass = abl_prune_pass(o, &self->batch);
    abl_code code = abl_patch_forward(&pass, self->logits, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    self->scope = abl_scope_create(abl_model_device(o->model));
    if (self->scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    const int64_t shape[] = {1, self->batch.size, abl_model_get_config(o->model)->d_vocab_out};
    self->effect = abl_effect_make(o, &self->batch);
    abl_effect_open_logits(
        self->scope, &self->effect,
        abl_tensor_from_host(self->scope, ABL_DTYPE_F32, 3, shape, self->logits));
    return abl_scope_status(self->scope, ret_status);
}

/* The clean run, for what effects compare with. */
static abl_code clean_open(acdc_masked *self, abl_status *ret_status) {
    const abl_batch *batch = &self->batch;
    if (self->prune->options.interventions.count > 0) {
        return hooked_open(self, ret_status);
    }
    abl_sources *clean = NULL;
    abl_code code = abl_sources_run(self->prune->options.model, batch->prefix, batch->clean,
                                    batch->size, batch->seq_len, true, &clean, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    self->scope = abl_scope_create(abl_model_device(self->prune->options.model));
    if (self->scope == NULL) {
        abl_sources_destroy(clean);
        return abl_fail_oom(ret_status);
    }
    self->effect = abl_effect_make(&self->prune->options, batch);
    abl_effect_open(self->scope, &self->effect, clean->end);
    code = abl_scope_status(self->scope, ret_status);
    abl_sources_destroy(clean);
    return code;
}

static abl_code masked_create(abl_prune *prune, const abl_batch *batch, const abl_sources *ablated,
                              abl_acdc_evaluator **ret_evaluator, abl_status *ret_status) {
    acdc_masked *self = abl_calloc(1, sizeof *self);
    if (self == NULL) {
        return abl_fail_oom(ret_status);
    }
    self->base.vtable = &abl_acdc_masked;
    self->prune = prune;
    self->batch = *batch;
    self->ablated = ablated;
    self->edge_count = prune->edge_count;
    self->trials_max = trials_max(&prune->options, batch);
    abl_code code = buffers_alloc(self, ret_status);
    if (code == ABL_CODE_OK) {
        code = clean_open(self, ret_status);
    }
    if (code != ABL_CODE_OK) {
        masked_destroy(&self->base);
        return code;
    }
    *ret_evaluator = &self->base;
    return ABL_CODE_OK;
}

static abl_code masked_reset(abl_acdc_evaluator *evaluator, abl_status *ret_status) {
    acdc_masked *self = (acdc_masked *)evaluator;
    (void)ret_status;
    memset(self->removed, 0, (size_t)self->edge_count * sizeof *self->removed);
    return ABL_CODE_OK;
}

static bool masked_is_inert(abl_acdc_evaluator *evaluator, int64_t edge) {
    (void)evaluator;
    (void)edge;
    return false;
}

/* The masks of `count` trials, each one edge more than the last, or than what is removed for good,
 * for every row of its batch. */
static void masks_fill(acdc_masked *self, const int64_t *edges, int32_t count, bool each) {
    const int64_t batch = self->batch.size;
    const size_t row_bytes = (size_t)self->edge_count * sizeof(float);
    for (int32_t k = 0; k < count; k++) {
        float *first = self->masks + k * batch * self->edge_count;
        memcpy(first, k == 0 || each ? self->removed : first - batch * self->edge_count, row_bytes);
        first[edges[k]] = 1;
        for (int64_t row = 1; row < batch; row++) {
            memcpy(first + row * self->edge_count, first, row_bytes);
        }
    }
}

static abl_code ablation_repeat(acdc_masked *self, int32_t count, abl_status *ret_status) {
    if (self->ablated == NULL || self->repeats == count) {
        return ABL_CODE_OK;
    }
    abl_sources_destroy(self->repeated);
    self->repeated = NULL;
    self->repeats = count;
    return rows_repeat(self->prune->options.model, self->ablated, count, &self->repeated,
                       ret_status);
}

/* As many of the trials as one pass takes. */
static abl_code try_masks(acdc_masked *self, const int64_t *edges, int32_t count, bool each,
                          double *ret_effects, int32_t *ret_tried, abl_status *ret_status) {
    const abl_prune_options *o = &self->prune->options;
    count = count < self->trials_max ? count : self->trials_max;
    masks_fill(self, edges, count, each);
    abl_code code = ablation_repeat(self, count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_patch_options patch = abl_prune_pass(o, &self->batch);
    patch.tokens = self->tokens;
    patch.batch = patch.mask_batch = count * self->batch.size;
    patch.mask = self->masks;
    patch.ablated = self->repeated;
    code = abl_patch_forward(&patch, self->logits, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    size_t mark = abl_scope_mark(self->scope);
    const int64_t shape[] = {count, self->batch.size, abl_model_get_config(o->model)->d_vocab_out};
    abl_tensor *logits = abl_tensor_from_host(self->scope, ABL_DTYPE_F32, 3, shape, self->logits);
    abl_effect_of_logits(self->scope, &self->effect, logits, count, ret_effects);
    abl_scope_rewind(self->scope, mark, NULL, 0);
    *ret_tried = count;
    return abl_scope_status(self->scope, ret_status);
}

static abl_code masked_try(abl_acdc_evaluator *evaluator, const int64_t *edges, int32_t count,
                           double *ret_effects, int32_t *ret_tried, abl_status *ret_status) {
    acdc_masked *self = (acdc_masked *)evaluator;
    abl_code code = try_masks(self, edges, count, false, ret_effects, ret_tried, ret_status);
    if (code == ABL_CODE_OK) {
        memcpy(self->tried, edges, (size_t)*ret_tried * sizeof *edges);
    }
    return code;
}

abl_code abl_acdc_masked_each(abl_acdc_evaluator *evaluator, const int64_t *edges, int32_t count,
                              double *ret_effects, int32_t *ret_tried, abl_status *ret_status) {
    return try_masks((acdc_masked *)evaluator, edges, count, true, ret_effects, ret_tried,
                     ret_status);
}

static abl_code masked_commit(abl_acdc_evaluator *evaluator, int32_t count,
                              abl_status *ret_status) {
    acdc_masked *self = (acdc_masked *)evaluator;
    (void)ret_status;
    for (int32_t k = 0; k < count; k++) {
        self->removed[self->tried[k]] = 1;
    }
    return ABL_CODE_OK;
}

static void masked_remove(abl_acdc_evaluator *evaluator, int64_t edge) {
    ((acdc_masked *)evaluator)->removed[edge] = 1;
}

static int64_t masked_bytes(const abl_prune_options *o) {
    abl_batch batch = abl_batches_at(&o->batches, 0);
    abl_patch_options patch = abl_prune_pass(o, &batch);
    patch.batch = patch.mask_batch = trials_max(o, &batch) * batch.size;
    const abl_model_config *c = abl_model_get_config(o->model);
    int64_t row = (int64_t)c->n_layers * ((int64_t)c->n_heads * c->d_head + 3LL * c->d_model);
    return abl_patch_bytes_estimate(&patch) + 4LL * patch.batch * patch.seq * row +
           4LL * patch.batch * abl_graph_edge_count(o->graph) + 8 * abl_patch_logit_count(&patch);
}

const abl_acdc_vtable abl_acdc_masked = {.create = masked_create,
                                         .destroy = masked_destroy,
                                         .reset = masked_reset,
                                         .is_inert = masked_is_inert,
                                         .try_edges = masked_try,
                                         .commit = masked_commit,
                                         .remove = masked_remove,
                                         .bytes_estimate = masked_bytes};
