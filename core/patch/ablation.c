// SPDX-License-Identifier: Apache-2.0
/* Ablations of every kind, from prompts.
 *
 * Sources are kept as z, not as head outputs, and everything made of them here is linear: the mean
 * of z gives the mean of the heads' outputs, the mean residual is what a destination reads when all
 * its sources are ablated by their means. So a mean is taken tensor by tensor, whatever each is.
 *
 * A mean over a dataset is a running one: after a batch of n prompts, of N so far,
 *     mean += n / N (batch's mean - mean)
 * which is exact for batches of any sizes, needs one batch's memory, and does not grow. */
#include "core/patch/ablation.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/model/prefix.h"
#include "core/patch/hooked.h"
#include "core/patch/sources.h"

static const char *const NAMES[ABL_ABLATION_COUNT] = {
    [ABL_ABLATION_RESAMPLE] = "RESAMPLE",
    [ABL_ABLATION_ZERO] = "ZERO",
    [ABL_ABLATION_TOKENWISE_MEAN_CLEAN] = "TOKENWISE_MEAN_CLEAN",
    [ABL_ABLATION_TOKENWISE_MEAN_CORRUPT] = "TOKENWISE_MEAN_CORRUPT",
    [ABL_ABLATION_TOKENWISE_MEAN_CLEAN_AND_CORRUPT] = "TOKENWISE_MEAN_CLEAN_AND_CORRUPT",
    [ABL_ABLATION_BATCH_TOKENWISE_MEAN] = "BATCH_TOKENWISE_MEAN",
    [ABL_ABLATION_BATCH_ALL_TOK_MEAN] = "BATCH_ALL_TOK_MEAN",
};

const char *abl_ablation_name(abl_ablation ablation) {
    return (unsigned)ablation < ABL_ABLATION_COUNT ? NAMES[ablation] : NULL;
}

bool abl_ablation_is_over_dataset(abl_ablation ablation) {
    return ablation == ABL_ABLATION_TOKENWISE_MEAN_CLEAN ||
           ablation == ABL_ABLATION_TOKENWISE_MEAN_CORRUPT ||
           ablation == ABL_ABLATION_TOKENWISE_MEAN_CLEAN_AND_CORRUPT;
}

/* Which prompts of a pair the ablation is made of. */
static bool uses_clean(const abl_ablation_options *o) {
    return abl_ablation_is_over_dataset(o->ablation)
               ? o->ablation != ABL_ABLATION_TOKENWISE_MEAN_CORRUPT
               : o->clean;
}

static bool uses_corrupt(const abl_ablation_options *o) {
    return abl_ablation_is_over_dataset(o->ablation)
               ? o->ablation != ABL_ABLATION_TOKENWISE_MEAN_CLEAN
               : !o->clean;
}

/* ---- sources from sources -------------------------------------------------------------------- */

/* Makes one tensor of the result from the same tensor of `from`; `into` is the result's, or NULL
 * while there is none. */
typedef abl_tensor *tensor_cb(abl_scope *scope, abl_tensor *from, abl_tensor *into,
                              const void *user_data);

static tensor_cb rows_put;
static tensor_cb rows_get;

/* Applies the callback to all tensors: *ret_sources is made when it is NULL. */
static abl_code sources_map(const abl_model *model, const abl_sources *from, int32_t rows,
                            tensor_cb *cb, const void *user_data, abl_sources **ret_sources,
                            abl_status *ret_status) {
    abl_sources *out = *ret_sources;
    if (out == NULL) {
        out = abl_sources_alloc_like(from, rows);
    }
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    abl_code code = out == NULL || scope == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    for (int32_t i = 0; code == ABL_CODE_OK && i < abl_sources_tensor_count(from); i++) {
        abl_tensor *tensor = abl_sources_tensor_at(from, i);
        abl_tensor **into = abl_sources_slot_at(out, i);
        size_t mark = abl_scope_mark(scope);
        abl_tensor *made =
            tensor == NULL ? NULL : abl_tensor_keep(cb(scope, tensor, *into, user_data));
        abl_tensor_release(*into);
        *into = made;
        abl_scope_rewind(scope, mark, NULL, 0);
        code = abl_scope_status(scope, ret_status);
    }
    abl_scope_destroy(scope);
    if (code == ABL_CODE_OK) {
        bool each =
            cb == rows_put || cb == rows_get; /* each row is of one run; a mean is of none */
        out->run = each && from->run;
        out->prefix = from->prefix;
        *ret_sources = out;
    } else if (*ret_sources == NULL) {
        abl_sources_destroy(out);
    }
    return code;
}

typedef struct mean_args {
    bool positions; /* over positions too */
    double weight;  /* of this batch in the mean so far */
} mean_args;

/* (batch, pos, ...) -> (1, pos, ...), blended with the mean so far. A mean over positions is
 * expanded again, without memory. */
static abl_tensor *mean_tensor(abl_scope *scope, abl_tensor *from, abl_tensor *into,
                               const void *user_data) {
    const mean_args *args = user_data;
    const int64_t dims[] = {0, 1};
    abl_tensor *mean = abl_tensor_mean(scope, from, dims, args->positions ? 2 : 1, true);
    if (into != NULL) {
        into = args->positions ? abl_tensor_slice(scope, into, 1, 0, 1) : into;
        mean = abl_tensor_lerp(scope, into, mean, args->weight);
    }
    if (args->positions) {
        const int64_t shape[] = {1, abl_tensor_size(from, 1), -1, -1};
        mean = abl_tensor_expand(scope, mean, abl_tensor_rank(from), shape);
    }
    return mean;
}

typedef struct rows_args {
    int32_t first;
    int32_t count;
    int32_t total;
} rows_args;

/* Copies rows into their place among `total`. */
static abl_tensor *rows_put(abl_scope *scope, abl_tensor *from, abl_tensor *into,
                            const void *user_data) {
    const rows_args *args = user_data;
    if (into == NULL) {
        int64_t shape[4] = {args->total};
        for (int i = 1; i < abl_tensor_rank(from); i++) {
            shape[i] = abl_tensor_size(from, i);
        }
        into = abl_tensor_empty(scope, abl_tensor_dtype(from), abl_tensor_rank(from), shape);
    } else {
        into = abl_scope_borrow(scope, into);
    }
    abl_tensor_copy_into(
        scope, abl_tensor_slice(scope, into, 0, args->first, args->first + args->count), from);
    return into;
}

/* A view of some rows. */
static abl_tensor *rows_get(abl_scope *scope, abl_tensor *from, abl_tensor *into,
                            const void *user_data) {
    const rows_args *args = user_data;
    (void)into;
    return abl_tensor_slice(scope, from, 0, args->first, args->first + args->count);
}

/* The mean of a run's rows, or the run itself; takes it over. */
static abl_code run_reduce(const abl_model *model, abl_ablation ablation, abl_sources *run,
                           abl_sources **ret_sources, abl_status *ret_status) {
    if (ablation == ABL_ABLATION_RESAMPLE) {
        *ret_sources = run;
        return ABL_CODE_OK;
    }
    const mean_args args = {.positions = ablation == ABL_ABLATION_BATCH_ALL_TOK_MEAN};
    abl_sources *mean = NULL;
    abl_code code = sources_map(model, run, 1, mean_tensor, &args, &mean, ret_status);
    abl_sources_destroy(run);
    if (code == ABL_CODE_OK) {
        *ret_sources = mean;
    }
    return code;
}

abl_code abl_ablation_create(const abl_patch_options *run, abl_ablation ablation,
                             abl_sources **ret_sources, abl_status *ret_status) {
    ABL_ASSERT(ablation != ABL_ABLATION_ZERO);
    abl_sources *sources = NULL;
    abl_code code = abl_patch_hooked_sources(run, true, &sources, ret_status);
    return code == ABL_CODE_OK ? run_reduce(run->model, ablation, sources, ret_sources, ret_status)
                               : code;
}

/* ---- over a dataset -------------------------------------------------------------------------- */

struct abl_ablation_build {
    abl_ablation_options options;
    int32_t sides; /* passes a batch: 2 for CLEAN_AND_CORRUPT */
    int32_t step_count;
    int32_t steps_done;
    int64_t rows_done; /* prompts in the mean */
    abl_sources *sources;
};

/* That the model can take these prompts. */
static abl_code batches_check(const abl_ablation_options *o, abl_status *ret_status) {
    abl_code code = abl_batches_check(&o->batches, ret_status);
    for (int32_t i = 0; code == ABL_CODE_OK && i < abl_batches_count(&o->batches); i++) {
        abl_batch batch = abl_batches_at(&o->batches, i);
        const abl_model_config *config = abl_model_get_config(o->model);
        code = abl_tokens_check(config, batch.clean, batch.size, batch.seq_len, ret_status);
        if (code == ABL_CODE_OK) {
            code = abl_tokens_check(config, batch.corrupt, batch.size, batch.seq_len, ret_status);
        }
    }
    return code;
}

abl_code abl_ablation_build_create(const abl_ablation_options *options,
                                   abl_ablation_build **ret_build, abl_status *ret_status) {
    ABL_ASSERT(options->ablation != ABL_ABLATION_ZERO);
    abl_code code = batches_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_ablation_build *build = abl_calloc(1, sizeof *build);
    if (build == NULL) {
        return abl_fail_oom(ret_status);
    }
    build->options = *options;
    build->sides = uses_clean(options) && uses_corrupt(options) ? 2 : 1;
    build->step_count = build->sides * abl_batches_count(&options->batches);
    *ret_build = build;
    return ABL_CODE_OK;
}

void abl_ablation_build_destroy(abl_ablation_build *build) {
    if (build != NULL) {
        abl_sources_destroy(build->sources);
        abl_free(build);
    }
}

int32_t abl_ablation_build_step_count(const abl_ablation_build *build) {
    return build->step_count;
}

int32_t abl_ablation_build_steps_done(const abl_ablation_build *build) {
    return build->steps_done;
}

static int32_t batches_rows(const abl_batches *batches) {
    abl_batch last = abl_batches_at(batches, abl_batches_count(batches) - 1);
    return last.first + last.size - batches->first;
}

static abl_code build_add(abl_ablation_build *build, abl_sources *run, const abl_batch *batch,
                          abl_status *ret_status) {
    const abl_ablation_options *o = &build->options;
    if (o->ablation == ABL_ABLATION_RESAMPLE) {
        const rows_args args = {.first = batch->first - o->batches.first,
                                .count = batch->size,
                                .total = batches_rows(&o->batches)};
        return sources_map(o->model, run, args.total, rows_put, &args, &build->sources, ret_status);
    }
    build->rows_done += batch->size;
    const mean_args args = {.positions = o->ablation == ABL_ABLATION_BATCH_ALL_TOK_MEAN,
                            .weight = (double)batch->size / (double)build->rows_done};
    return sources_map(o->model, run, 1, mean_tensor, &args, &build->sources, ret_status);
}

/* A run of one side of a batch. */
static abl_code prompts_run(const abl_ablation_options *o, const abl_batch *batch, bool clean,
                            abl_sources **ret_sources, abl_status *ret_status) {
    const abl_patch_options run = {.model = o->model,
                                   .graph = o->graph,
                                   .prefix = batch->prefix,
                                   .tokens = clean ? batch->clean : batch->corrupt,
                                   .batch = batch->size,
                                   .seq = batch->seq_len,
                                   .interventions = o->interventions};
    return abl_patch_hooked_sources(&run, o->residuals, ret_sources, ret_status);
}

abl_code abl_ablation_build_step(abl_ablation_build *build, abl_status *ret_status) {
    const abl_ablation_options *o = &build->options;
    ABL_ASSERT(build->steps_done < build->step_count);
    abl_batch batch = abl_batches_at(&o->batches, build->steps_done / build->sides);
    bool clean = build->sides == 2 ? build->steps_done % 2 == 0 : uses_clean(o);
    abl_sources *run = NULL;
    abl_code code = prompts_run(o, &batch, clean, &run, ret_status);
    if (code == ABL_CODE_OK) {
        code = build_add(build, run, &batch, ret_status);
    }
    abl_sources_destroy(run);
    build->steps_done++;
    return code;
}

abl_sources *abl_ablation_build_take(abl_ablation_build *build) {
    ABL_ASSERT(build->steps_done == build->step_count && build->sources != NULL);
    abl_sources *sources = build->sources;
    build->sources = NULL;
    return sources;
}

/* Sources of so many prompts. */
static int64_t rows_bytes(const abl_ablation_options *o, int64_t rows) {
    const abl_model_config *c = abl_model_get_config(o->model);
    int64_t layer = (int64_t)c->n_heads * c->d_head + (o->residuals ? 3LL : 1LL) * c->d_model;
    return 4 * rows * abl_dataset_seq_len(o->batches.dataset) *
           (c->n_layers * layer + (o->residuals ? 2LL : 1LL) * c->d_model);
}

int64_t abl_ablation_build_bytes_estimate(const abl_ablation_options *options) {
    int64_t rows = options->ablation == ABL_ABLATION_RESAMPLE ? options->batches.count : 2;
    return rows_bytes(options, rows + abl_batches_rows_max(&options->batches)) +
           abl_block_widened_bytes(options->model);
}

/* ---- for batches ----------------------------------------------------------------------------- */

struct abl_ablator {
    abl_ablator_options options;
    abl_ablation_build *build; /* of a mean over the dataset */
    abl_sources *mean;         /* that mean */
    abl_sources *current;      /* the last batch's own */
    int32_t current_first;     /* that batch; -1: none */
};

static abl_code resident_check(const abl_ablator_options *o, abl_status *ret_status) {
    const abl_batches *batches = &o->of.batches;
    const int32_t rows = o->resident->batch;
    const int32_t from = batches->first;
    const int32_t to = from + batches_rows(batches);
    ABL_ASSERT(!o->of.residuals || o->resident->pre != NULL);
    if (o->resident->seq != abl_dataset_seq_len(batches->dataset)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SHAPE",
                        "the ablation is of prompts of %d tokens; those of this dataset have %d",
                        o->resident->seq, abl_dataset_seq_len(batches->dataset));
    }
    if (o->resident->prefix_length != abl_prefix_length(batches->prefix)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SHAPE",
                        "the ablation was made behind a prefix of %d tokens, and the prompts are "
                        "run behind one of %lld",
                        o->resident->prefix_length, (long long)abl_prefix_length(batches->prefix));
    }
    if (rows != 1 && (from < o->resident_first || to > o->resident_first + rows)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SHAPE",
                        "the ablation has rows for prompts %d to %d; prompts %d to %d are run",
                        o->resident_first, o->resident_first + rows - 1, from, to - 1);
    }
    return ABL_CODE_OK;
}

abl_code abl_ablator_create(const abl_ablator_options *options, abl_ablator **ret_ablator,
                            abl_status *ret_status) {
    ABL_ASSERT((unsigned)options->of.ablation < ABL_ABLATION_COUNT);
    abl_code code = abl_batches_check(&options->of.batches, ret_status);
    if (code == ABL_CODE_OK && options->resident != NULL) {
        code = resident_check(options, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_ablator *ablator = abl_calloc(1, sizeof *ablator);
    if (ablator == NULL) {
        return abl_fail_oom(ret_status);
    }
    ablator->options = *options;
    ablator->current_first = -1;
    if (options->resident == NULL && abl_ablation_is_over_dataset(options->of.ablation)) {
        code = abl_ablation_build_create(&options->of, &ablator->build, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_ablator_destroy(ablator);
        return code;
    }
    *ret_ablator = ablator;
    return ABL_CODE_OK;
}

void abl_ablator_destroy(abl_ablator *ablator) {
    if (ablator != NULL) {
        abl_ablation_build_destroy(ablator->build);
        abl_sources_destroy(ablator->mean);
        abl_sources_destroy(ablator->current);
        abl_free(ablator);
    }
}

int32_t abl_ablator_steps_left(const abl_ablator *ablator) {
    const abl_ablation_build *build = ablator->build;
    return build == NULL ? 0 : build->step_count - build->steps_done;
}

abl_code abl_ablator_step(abl_ablator *ablator, abl_status *ret_status) {
    ABL_ASSERT(ablator->build != NULL);
    abl_code code = abl_ablation_build_step(ablator->build, ret_status);
    if (code == ABL_CODE_OK && abl_ablator_steps_left(ablator) == 0) {
        ablator->mean = abl_ablation_build_take(ablator->build);
        abl_ablation_build_destroy(ablator->build);
        ablator->build = NULL;
    }
    return code;
}

/* RESAMPLE and BATCH_*: a pass over the batch's other prompts. */
static abl_code batch_run(abl_ablator *ablator, const abl_batch *batch, abl_status *ret_status) {
    const abl_ablation_options *o = &ablator->options.of;
    abl_sources *run = NULL;
    abl_code code = prompts_run(o, batch, o->clean, &run, ret_status);
    return code == ABL_CODE_OK
               ? run_reduce(o->model, o->ablation, run, &ablator->current, ret_status)
               : code;
}

static abl_code resident_rows(abl_ablator *ablator, const abl_batch *batch,
                              abl_status *ret_status) {
    const abl_ablator_options *o = &ablator->options;
    const rows_args args = {.first = batch->first - o->resident_first, .count = batch->size};
    return sources_map(o->of.model, o->resident, batch->size, rows_get, &args, &ablator->current,
                       ret_status);
}

abl_code abl_ablator_batch(abl_ablator *ablator, const abl_batch *batch,
                           const abl_sources **ret_ablated, abl_status *ret_status) {
    const abl_ablator_options *o = &ablator->options;
    ABL_ASSERT(abl_ablator_steps_left(ablator) == 0);
    bool whole = o->resident != NULL && o->resident->batch == 1;
    if (whole || ablator->mean != NULL ||
        (o->resident == NULL && o->of.ablation == ABL_ABLATION_ZERO)) {
        *ret_ablated = whole ? o->resident : ablator->mean;
        return ABL_CODE_OK;
    }
    abl_code code = ABL_CODE_OK;
    if (ablator->current_first != batch->first) {
        abl_sources_destroy(ablator->current);
        ablator->current = NULL;
        ablator->current_first = -1;
        code = o->resident != NULL ? resident_rows(ablator, batch, ret_status)
                                   : batch_run(ablator, batch, ret_status);
    }
    if (code == ABL_CODE_OK) {
        ablator->current_first = batch->first;
        *ret_ablated = ablator->current;
    }
    return code;
}

int64_t abl_ablator_bytes_estimate(const abl_ablator_options *options) {
    if (options->resident != NULL || options->of.ablation == ABL_ABLATION_ZERO) {
        return 0;
    }
    return rows_bytes(&options->of, 2 + (int64_t)abl_batches_rows_max(&options->of.batches));
}
