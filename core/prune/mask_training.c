// SPDX-License-Identifier: Apache-2.0
/* A step: the mask through its function, a forward and a backward pass under it (backward.h), the
 * regularizer, Adam. As AutoCircuit's subnetwork_probing_prune_scores:
 *
 *     loss = faithfulness + lambda * regularizer             mask_regularizer.c
 *
 * AutoCircuit ablates by the mean of the corrupt prompts by position, whatever the input; that is
 * what those who ask have as a default. The clean run's logits are computed once a batch and kept:
 * they are what faithfulness compares with in every epoch. The masks, their gradient and Adam's
 * state are host arrays, one value an edge.
 *
 * Knockouts (options.knockouts_of) are AutoCircuit's train_same_under_knockout_prune_scores: the
 * masks are those of a circuit's edges, the input is clean, and a step has two passes with draws of
 * their own: the circuit's, where all other edges are ablated, and the model's, where none of them
 * is. The loss falls as the two come apart (knockouts.c); it is not linear in either, so the
 * model's logits come first, then the circuit's pass forth and back, then the model's. */
#include "core/prune/mask_training.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/patch/backward.h"
#include "core/patch/patcher.h"
#include "core/prune/adam.h"
#include "core/prune/faithfulness.h"
#include "core/prune/knockouts.h"
#include "core/prune/mask_regularizer.h"
#include "core/prune/training_prompts.h"

#include <math.h>
#include <string.h>

/* Draws of one step; knockouts' second pass draws as the validation, which they have not. */
enum { SEED_FORWARD, SEED_REGULARIZER, SEED_VALIDATION, SEED_COUNT, SEED_MODEL = SEED_VALIDATION };

/* Masks of edges that are not trained, through any function: ablated, and not. */
#define MASK_ABLATED 99.0F
#define MASK_KEPT (-99.0F)

struct abl_mask_training {
    const abl_prune_options *options;
    const abl_mask_training_options *own; /* of the same */
    int64_t *avoid_edges;
    uint8_t *knockouts_of; /* NULL: a circuit is trained */
    int64_t circuit_size;
    int64_t edge_count;
    int64_t step;       /* of this training */
    int64_t step_total; /* restarts included: what draws are seeded by */
    abl_training_prompts training;
    abl_training_prompts validation; /* batch_count 0: none */
    abl_backward *backward;
    abl_patcher *patcher;
    abl_adam adam;
    float *mask;
    float *gradient;
    float *circuit_mask;     /* knockouts: the mask of the circuit's pass */
    float *circuit_gradient; /* and its gradient */
    float *logits;           /* two of a batch: clean runs and validation, knockouts' two passes */
    abl_training_point *curve;
    int64_t curve_count;
    int64_t curve_capacity;
};

/* ---- create ---------------------------------------------------------------------------------- */

static abl_code number_check(const char *name, double value, double low, double high,
                             abl_status *ret_status) {
    if (!(value >= low && value <= high)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS_INVALID",
                        "%s is %g; it must be from %g to %g", name, value, low, high);
    }
    return ABL_CODE_OK;
}

static abl_code options_check(const abl_prune_options *o, abl_status *ret_status) {
    const abl_mask_training_options *t = &o->subnetwork_probing;
    const int64_t edges = abl_graph_edge_count(o->graph);
    const struct {
        const char *name;
        double value, low, high;
    } numbers[] = {
        {"learning_rate", (double)t->learning_rate, 1e-9, 100},
        {"epochs", t->epochs, 1, ABL_EPOCH_COUNT_MAX},
        {"regularize_lambda", (double)t->regularize_lambda, 0, 1e9},
        {"dropout_p", (double)t->dropout, 0, 0.99},
        {"init_val", (double)t->init_value, -100, 100},
        {"circuit_size", (double)t->circuit_size, 0, (double)edges},
        {"avoid_lambda", (double)t->avoid_lambda, 0, 1e9},
        {"mask_fn", (double)t->mask_function, 0, ABL_MASK_FUNCTION_COUNT - 1},
        {"faithfulness_target", (double)t->faithfulness_target, 0, ABL_FAITHFULNESS_COUNT - 1},
        {"epochs times batches", (double)t->epochs * abl_batches_count(&o->batches), 1,
         ABL_TRAINING_STEP_COUNT_MAX}};
    for (size_t i = 0; i < ABL_COUNT_OF(numbers); i++) {
        abl_code code = number_check(numbers[i].name, numbers[i].value, numbers[i].low,
                                     numbers[i].high, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    for (int64_t i = 0; i < t->avoid_edge_count; i++) {
        if (t->avoid_edges[i] < 0 || t->avoid_edges[i] >= edges) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_INDEX_INVALID",
                            "avoid_edges names edge %lld; this graph has edges 0 to %lld",
                            (long long)t->avoid_edges[i], (long long)edges - 1);
        }
    }
    return abl_knockouts_check(t, ret_status);
}

static abl_batches validation_batches(const abl_prune_options *o) {
    abl_batches batches = o->batches;
    batches.first += batches.count;
    batches.count = o->subnetwork_probing.validation_count;
    return batches;
}

/* The validation curve is of answer differences, whatever the target. */
static abl_code validation_open(abl_mask_training *training, abl_status *ret_status) {
    const abl_prune_options *o = training->options;
    if (training->own->validation_count == 0) {
        return ABL_CODE_OK;
    }
    abl_batches batches = validation_batches(o);
    abl_code code = abl_training_prompts_open(&training->validation, o, &batches, ret_status);
    for (int32_t i = 0; code == ABL_CODE_OK && i < training->validation.batch_count; i++) {
        abl_batch batch = abl_batches_at(&batches, i);
        code = abl_faithfulness_check(ABL_FAITHFULNESS_LOGIT_DIFF_PERCENT, &batch, ret_status);
    }
    return code;
}

static abl_code buffers_alloc(abl_mask_training *training, abl_status *ret_status) {
    const abl_prune_options *o = training->options;
    const size_t edges = (size_t)training->edge_count;
    const size_t avoided = (size_t)training->own->avoid_edge_count;
    abl_batch first = abl_batches_at(&o->batches, 0); /* none is larger */
    size_t logits = (size_t)first.size * (size_t)abl_model_get_config(o->model)->d_vocab_out;
    training->mask = abl_calloc(edges, sizeof *training->mask);
    training->gradient = abl_calloc(edges, sizeof *training->gradient);
    training->logits = abl_calloc(2 * logits, sizeof *training->logits);
    training->avoid_edges = abl_calloc(avoided + 1, sizeof *training->avoid_edges);
    if (training->mask == NULL || training->gradient == NULL || training->logits == NULL ||
        training->avoid_edges == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (training->own->knockouts_of != NULL) {
        training->circuit_mask = abl_calloc(edges, sizeof *training->circuit_mask);
        training->circuit_gradient = abl_calloc(edges, sizeof *training->circuit_gradient);
        training->knockouts_of = abl_malloc(edges);
        if (training->circuit_mask == NULL || training->circuit_gradient == NULL ||
            training->knockouts_of == NULL) {
            return abl_fail_oom(ret_status);
        }
        memcpy(training->knockouts_of, training->own->knockouts_of, edges);
    }
    if (avoided > 0) {
        memcpy(training->avoid_edges, training->own->avoid_edges,
               avoided * sizeof *training->avoid_edges);
    }
    return ABL_CODE_OK;
}

abl_code abl_mask_training_create(const abl_prune_options *options,
                                  abl_mask_training **ret_training, abl_status *ret_status) {
    abl_code code = options_check(options, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_mask_training *training = abl_calloc(1, sizeof *training);
    if (training == NULL) {
        return abl_fail_oom(ret_status);
    }
    training->options = options;
    training->own = &options->subnetwork_probing;
    training->edge_count = abl_graph_edge_count(options->graph);
    code = buffers_alloc(training, ret_status);
    if (code == ABL_CODE_OK) {
        code =
            abl_training_prompts_open(&training->training, options, &options->batches, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = validation_open(training, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_mask_training_restart(training, training->own->circuit_size, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_mask_training_destroy(training);
        return code;
    }
    *ret_training = training;
    return ABL_CODE_OK;
}

void abl_mask_training_destroy(abl_mask_training *training) {
    if (training == NULL) {
        return;
    }
    abl_training_prompts_close(&training->training);
    abl_training_prompts_close(&training->validation);
    abl_backward_destroy(training->backward);
    abl_patcher_destroy(training->patcher);
    abl_adam_finish(&training->adam);
    abl_free(training->avoid_edges);
    abl_free(training->knockouts_of);
    abl_free(training->mask);
    abl_free(training->gradient);
    abl_free(training->circuit_mask);
    abl_free(training->circuit_gradient);
    abl_free(training->logits);
    abl_free(training->curve);
    abl_free(training);
}

abl_code abl_mask_training_restart(abl_mask_training *training, int64_t circuit_size,
                                   abl_status *ret_status) {
    const abl_mask_training_options *own = training->own;
    abl_adam_finish(&training->adam);
    abl_code code =
        abl_adam_init(&training->adam, training->edge_count, own->learning_rate, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    training->circuit_size = circuit_size;
    training->step = 0;
    for (int64_t i = 0; i < training->edge_count; i++) {
        bool trained = training->knockouts_of == NULL || training->knockouts_of[i] != 0;
        float start = own->tree_optimisation ? own->init_value : -own->init_value;
        training->mask[i] = trained ? start : MASK_KEPT;
    }
    return ABL_CODE_OK;
}

int64_t abl_mask_training_prepare_count(const abl_mask_training *training) {
    int64_t count = abl_ablator_steps_left(training->training.ablator);
    return training->validation.ablator == NULL
               ? count
               : count + abl_ablator_steps_left(training->validation.ablator);
}

int64_t abl_mask_training_step_count(const abl_mask_training *training) {
    return (int64_t)training->own->epochs * training->training.batch_count;
}

bool abl_mask_training_is_finished(const abl_mask_training *training) {
    return training->step == abl_mask_training_step_count(training);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static abl_code prepare(abl_mask_training *training, abl_status *ret_status) {
    const abl_prune_options *o = training->options;
    abl_code code = ABL_CODE_OK;
    if (training->backward == NULL) {
        code = abl_backward_create(o->model, o->graph, &training->backward, ret_status);
    }
    if (code == ABL_CODE_OK && training->patcher == NULL) {
        code = abl_patcher_create(o->model, o->graph, &training->patcher, ret_status);
    }
    return code;
}

static abl_patch_options pass_options(const abl_mask_training *training, const abl_batch *batch,
                                      const abl_sources *ablated) {
    abl_patch_options pass = abl_prune_pass(training->options, batch);
    pass.tokens = abl_training_input_is_clean(training->own) ? batch->clean : batch->corrupt;
    pass.mask = training->mask;
    pass.mask_function = training->own->mask_function;
    pass.mask_dropout = training->own->dropout;
    pass.ablated = ablated;
    return pass;
}

static uint64_t seed_of(const abl_mask_training *training, int which) {
    return abl_mask_seed(training->own->seed,
                         (uint64_t)training->step_total * SEED_COUNT + (uint64_t)which);
}

static const float *draws_of(const abl_mask_training *training, int32_t batch, bool regularizer) {
    const abl_mask_training_options *own = training->own;
    return own->draws_cb == NULL
               ? NULL
               : own->draws_cb(own->draws_data, training->step, batch, regularizer);
}

/* The clean run's logits of a batch, made when they are first asked for. */
static abl_code clean_prepare(abl_mask_training *training, abl_training_prompts *set, int32_t index,
                              const abl_batch *batch, abl_status *ret_status) {
    if (set->clean[index] != NULL) {
        return ABL_CODE_OK;
    }
    abl_patch_options pass = pass_options(training, batch, NULL);
    pass.tokens = batch->clean;
    pass.mask = NULL;
    pass.mask_function = ABL_MASK_NONE;
    pass.mask_dropout = 0;
    abl_code code = abl_patcher_run(training->patcher, &pass, training->logits, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const int64_t vocab = abl_model_get_config(training->options->model)->d_vocab_out;
    abl_scope *scope = abl_scope_create(abl_model_device(training->options->model));
    if (scope == NULL) {
        return abl_fail_oom(ret_status);
    }
    set->clean[index] = abl_tensor_keep(abl_tensor_from_host(
        scope, ABL_DTYPE_F32, 2, (const int64_t[]){batch->size, vocab}, training->logits));
    code = abl_scope_status(scope, ret_status);
    abl_scope_destroy(scope);
    return code;
}

typedef struct loss_context {
    abl_faithfulness target;
    const abl_batch *batch;
    const abl_tensor *clean;
    double value;
} loss_context;

static abl_tensor *loss_backward(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    loss_context *context = user_data;
    return abl_faithfulness_backward(scope, context->target, context->batch, context->clean, logits,
                                     &context->value);
}

/* Faithfulness of this step's batch into the point, its gradient into training->gradient. */
static abl_code faithfulness_step(abl_mask_training *training, int32_t index,
                                  abl_training_point *point, abl_status *ret_status) {
    abl_training_prompts *set = &training->training;
    abl_batch batch = abl_batches_at(&set->batches, index);
    loss_context context = {.target = training->own->faithfulness_target, .batch = &batch};
    abl_code code = ABL_CODE_OK;
    if (abl_faithfulness_needs_clean(context.target)) {
        code = clean_prepare(training, set, index, &batch, ret_status);
        context.clean = set->clean[index];
    }
    const abl_sources *ablated = NULL;
    if (code == ABL_CODE_OK) {
        code = abl_ablator_batch(set->ablator, &batch, &ablated, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_patch_options pass = pass_options(training, &batch, ablated);
    pass.seed = seed_of(training, SEED_FORWARD);
    pass.mask_draws = draws_of(training, batch.size, false);
    code = abl_backward_run(training->backward, &pass, loss_backward, &context, NULL,
                            training->gradient, ret_status);
    point->faithfulness = (float)context.value;
    return code;
}

static abl_tensor *knockouts_backward(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    return abl_knockouts_backward(scope, logits, user_data);
}

/* How far apart circuit and model are without the knockouts, into the point; its gradient into
 * training->gradient. */
static abl_code knockouts_step(abl_mask_training *training, int32_t index,
                               abl_training_point *point, abl_status *ret_status) {
    abl_training_prompts *set = &training->training;
    abl_batch batch = abl_batches_at(&set->batches, index);
    const int64_t vocab = abl_model_get_config(training->options->model)->d_vocab_out;
    float *model_logits = training->logits;
    float *circuit_logits = training->logits + batch.size * vocab;
    const abl_sources *ablated = NULL;
    abl_code code = abl_ablator_batch(set->ablator, &batch, &ablated, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    for (int64_t i = 0; i < training->edge_count; i++) {
        training->circuit_mask[i] =
            training->knockouts_of[i] != 0 ? training->mask[i] : MASK_ABLATED;
    }
    abl_patch_options model = pass_options(training, &batch, ablated);
    model.seed = seed_of(training, SEED_MODEL);
    model.mask_draws = draws_of(training, batch.size, false);
    abl_patch_options circuit = model;
    circuit.mask = training->circuit_mask;
    circuit.seed = seed_of(training, SEED_FORWARD);
    abl_knockouts_loss loss = {.target = training->own->faithfulness_target, .batch = &batch};
    code = abl_patcher_run_sampled(training->patcher, &model, model_logits, ret_status);
    if (code == ABL_CODE_OK) {
        loss.other = model_logits;
        code = abl_backward_run(training->backward, &circuit, knockouts_backward, &loss,
                                circuit_logits, training->circuit_gradient, ret_status);
        point->faithfulness = (float)loss.value;
    }
    if (code == ABL_CODE_OK) {
        loss.other = circuit_logits;
        loss.of_model = true;
        code = abl_backward_run(training->backward, &model, knockouts_backward, &loss, NULL,
                                training->gradient, ret_status);
    }
    for (int64_t i = 0; code == ABL_CODE_OK && i < training->edge_count; i++) {
        training->gradient[i] += training->circuit_gradient[i];
    }
    return code;
}

/* After the step, on the batch of the same number, else the first, as AutoCircuit. */
static abl_code validate(abl_mask_training *training, int32_t index, abl_training_point *point,
                         abl_status *ret_status) {
    abl_training_prompts *set = &training->validation;
    index = index < set->batch_count ? index : 0;
    abl_batch batch = abl_batches_at(&set->batches, index);
    const int64_t vocab = abl_model_get_config(training->options->model)->d_vocab_out;
    const abl_sources *ablated = NULL;
    abl_code code = clean_prepare(training, set, index, &batch, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_ablator_batch(set->ablator, &batch, &ablated, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_patch_options pass = pass_options(training, &batch, ablated);
    pass.seed = seed_of(training, SEED_VALIDATION);
    pass.mask_draws = draws_of(training, batch.size, false);
    code = abl_patcher_run_sampled(training->patcher, &pass, training->logits, ret_status);
    abl_scope *scope = abl_scope_create(abl_model_device(training->options->model));
    if (code == ABL_CODE_OK && scope == NULL) {
        code = abl_fail_oom(ret_status);
    }
    if (code == ABL_CODE_OK) {
        float *clean = training->logits + batch.size * vocab;
        abl_tensor_to_floats(scope, set->clean[index], clean, (size_t)(batch.size * vocab));
        abl_faithfulness_percent(&batch, clean, training->logits, vocab, &point->validation,
                                 &point->validation_deviation);
        code = abl_scope_status(scope, ret_status);
    }
    abl_scope_destroy(scope);
    return code;
}

static abl_code regularize(abl_mask_training *training, abl_training_point *point,
                           abl_status *ret_status) {
    const abl_mask_regularizer regularizer = {.options = training->own,
                                              .avoid_edges = training->avoid_edges,
                                              .circuit_size = training->circuit_size,
                                              .edge_count = training->edge_count,
                                              .seed = seed_of(training, SEED_REGULARIZER),
                                              .draws = draws_of(training, 1, true)};
    return abl_mask_regularize(&regularizer, training->mask, training->gradient,
                               &point->regularization, ret_status);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static abl_code curve_add(abl_mask_training *training, abl_training_point point,
                          abl_status *ret_status) {
    if (training->curve_count == training->curve_capacity) {
        int64_t capacity = training->curve_capacity == 0 ? 256 : 2 * training->curve_capacity;
        abl_training_point *curve =
            abl_realloc_array(training->curve, (size_t)capacity, sizeof *curve);
        if (curve == NULL) {
            return abl_fail_oom(ret_status);
        }
        training->curve = curve;
        training->curve_capacity = capacity;
    }
    training->curve[training->curve_count++] = point;
    return ABL_CODE_OK;
}

static abl_code finite_check(const abl_mask_training *training, const abl_training_point *point,
                             abl_status *ret_status) {
    bool finite = isfinite(point->loss);
    for (int64_t i = 0; finite && i < training->edge_count; i++) {
        finite = isfinite(training->mask[i]);
    }
    if (!finite) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "TRAINING_DIVERGED",
                        "at step %lld of the training the loss is %g and some masks are not "
                        "finite; a lower learning_rate may help",
                        (long long)training->step, (double)point->loss);
    }
    return ABL_CODE_OK;
}

/* |the mask of the least important edge|, from which scores count; 0 for knockouts, whose scores
 * are their masks. */
static float mask_extreme(const abl_mask_training *training) {
    const bool tree = training->own->tree_optimisation;
    if (training->knockouts_of != NULL) {
        return 0;
    }
    float extreme = training->mask[0];
    for (int64_t i = 1; i < training->edge_count; i++) {
        extreme = tree ? fmaxf(extreme, training->mask[i]) : fminf(extreme, training->mask[i]);
    }
    return fabsf(extreme);
}

static abl_code optimizer_step(abl_mask_training *training, abl_status *ret_status) {
    const int32_t batches = training->training.batch_count;
    const int32_t index = (int32_t)(training->step % batches);
    abl_training_point point = {.epoch = (int32_t)(training->step / batches),
                                .batch = index,
                                .circuit_size = training->circuit_size,
                                .validation = NAN,
                                .validation_deviation = NAN};
    abl_code code = prepare(training, ret_status);
    if (code == ABL_CODE_OK) {
        code = training->knockouts_of != NULL
                   ? knockouts_step(training, index, &point, ret_status)
                   : faithfulness_step(training, index, &point, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = regularize(training, &point, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    point.loss = point.faithfulness + point.regularization;
    abl_adam_step(&training->adam, training->gradient, training->mask);
    point.zero_mask_score = mask_extreme(training);
    code = finite_check(training, &point, ret_status);
    if (code == ABL_CODE_OK && training->validation.batch_count > 0) {
        code = validate(training, index, &point, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = curve_add(training, point, ret_status);
    }
    training->step++;
    training->step_total++;
    return code;
}

abl_code abl_mask_training_step(abl_mask_training *training, abl_prune *prune,
                                abl_status *ret_status) {
    abl_code code = ABL_CODE_OK;
    bool last_batch = false;
    prune->progress.batch = 0;
    if (abl_ablator_steps_left(training->training.ablator) > 0) {
        code = abl_ablator_step(training->training.ablator, ret_status);
    } else if (training->validation.ablator != NULL &&
               abl_ablator_steps_left(training->validation.ablator) > 0) {
        code = abl_ablator_step(training->validation.ablator, ret_status);
    } else {
        prune->progress.batch = (int32_t)(training->step % training->training.batch_count);
        last_batch = prune->progress.batch == training->training.batch_count - 1;
        code = optimizer_step(training, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    prune->progress.done++;
    prune->progress.batch_finished = last_batch;
    prune->curve = training->curve;
    prune->curve_count = training->curve_count;
    return ABL_CODE_OK;
}

float *abl_mask_training_masks(abl_mask_training *training) {
    return training->mask;
}

const float *abl_mask_training_gradient(const abl_mask_training *training) {
    return training->gradient;
}

void abl_mask_training_scores(const abl_mask_training *training, float *ret_scores) {
    const bool tree = training->own->tree_optimisation;
    const float *mask = training->mask;
    const float extreme = mask_extreme(training);
    for (int64_t i = 0; i < training->edge_count; i++) {
        ret_scores[i] = tree ? extreme - mask[i] : extreme + mask[i];
    }
}

int64_t abl_mask_training_bytes_estimate(const abl_prune_options *o) {
    const abl_batches *batches = &o->batches;
    const abl_patch_options pass = {.model = o->model,
                                    .graph = o->graph,
                                    .prefix = batches->prefix,
                                    .batch = abl_batches_rows_max(batches),
                                    .seq = abl_dataset_seq_len(batches->dataset),
                                    .interventions = o->interventions};
    const abl_ablator_options ablator = abl_training_ablator(o, batches);
    int64_t vocab = abl_model_get_config(o->model)->d_vocab_out;
    int64_t prompts = (int64_t)batches->count + o->subnetwork_probing.validation_count;
    return abl_patch_backward_bytes(&pass) + abl_patch_bytes_estimate(&pass) +
           2 * abl_ablator_bytes_estimate(&ablator) + 4 * vocab * (prompts + 2LL * pass.batch) +
           33 * abl_graph_edge_count(o->graph);
}
