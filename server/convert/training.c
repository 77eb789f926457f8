/* SPDX-License-Identifier: Apache-2.0
 *
 * Zero means default in the protocol, so the two options whose zero says something else travel in
 * oneofs. Defaults are AutoCircuit's. */
#include "server/convert/training.h"

#include "core/base/limits.h"
#include "server/convert/common.h"
#include "server/convert/mask.h"

#include <math.h>

#define LEARNING_RATE_DEFAULT 0.1F
#define EPOCHS_DEFAULT 20
#define LAMBDA_DEFAULT 10.0F
#define AVOID_LAMBDA_DEFAULT 1.0F
#define SEED_NUMBER_MAX (1ULL << 53) /* the integers that a double can be */
#define KNOCKOUT_SHARE 5             /* of the circuit's edges one in so many is free */

_Static_assert((int)ABLATE__V1__MASK_FUNCTION__MASK_FUNCTION_HARD_CONCRETE ==
                   ABL_MASK_HARD_CONCRETE + 1,
               "the mask functions are in the same order");
_Static_assert((int)ABLATE__V1__FAITHFULNESS_TARGET__FAITHFULNESS_TARGET_LOGIT_DIFF ==
                   ABL_FAITHFULNESS_LOGIT_DIFF + 1,
               "the faithfulness targets are in the same order");

abl_mask_function abl_convert_mask_function(Ablate__V1__MaskFunction function,
                                            abl_mask_function otherwise) {
    return function == 0 ? otherwise : (abl_mask_function)((int)function - 1);
}

/* `name`: the field that the message stands in. */
static abl_code convert_training(const Ablate__V1__SubnetworkProbing *message, const char *name,
                                 float init_default, abl_prune_options *options,
                                 abl_status *ret_status) {
    abl_mask_training_options *t = &options->subnetwork_probing;
    const struct {
        const char *field;
        double value;
    } numbers[] = {{"learning_rate", (double)message->learning_rate},
                   {"epochs", message->epochs},
                   {"dropout_p", (double)message->dropout_p},
                   {"circuit_size", (double)message->circuit_size},
                   {"avoid_lambda", (double)message->avoid_lambda},
                   {"validation_prompt_count", message->validation_prompt_count}};
    for (size_t i = 0; i < ABL_COUNT_OF(numbers); i++) {
        if (!(numbers[i].value >= 0 && numbers[i].value < INFINITY)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                            "%s.%s is %g; it must be 0 (the default) or more", name,
                            numbers[i].field, numbers[i].value);
        }
    }
    bool lambda =
        message->regularizer_case == ABLATE__V1__SUBNETWORK_PROBING__REGULARIZER_REGULARIZE_LAMBDA;
    bool init = message->init_case == ABLATE__V1__SUBNETWORK_PROBING__INIT_INIT_VAL;
    options->ablation = message->ablation_type == 0 && message->knockouts_of == NULL
                            ? ABL_ABLATION_TOKENWISE_MEAN_CORRUPT
                            : abl_convert_ablation_type(message->ablation_type);
    *t = (abl_mask_training_options){
        .learning_rate =
            message->learning_rate > 0 ? message->learning_rate : LEARNING_RATE_DEFAULT,
        .epochs = message->epochs > 0 ? message->epochs : EPOCHS_DEFAULT,
        .regularize_lambda = lambda ? message->regularize_lambda : LAMBDA_DEFAULT,
        .mask_function = abl_convert_mask_function(message->mask_function, ABL_MASK_HARD_CONCRETE),
        .dropout = message->dropout_p,
        .init_value = init ? message->init_val : init_default,
        .tree_optimisation = message->tree_optimisation != 0,
        .circuit_size = message->circuit_size,
        .faithfulness_target = message->faithfulness_target == 0
                                   ? ABL_FAITHFULNESS_KL_DIV
                                   : (abl_faithfulness)((int)message->faithfulness_target - 1),
        .avoid_lambda = message->avoid_lambda > 0 ? message->avoid_lambda : AVOID_LAMBDA_DEFAULT,
        .validation_count = message->validation_prompt_count,
        .seed = message->seed};
    return ABL_CODE_OK;
}

abl_code abl_convert_subnetwork_probing(const Ablate__V1__SubnetworkProbing *message,
                                        abl_prune_options *options, abl_status *ret_status) {
    options->algorithm = ABL_PRUNE_SUBNETWORK_PROBING;
    if (message->knockouts_of != NULL) {
        abl_code code = abl_convert_circuit_check("subnetwork_probing.knockouts_of",
                                                  message->knockouts_of, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        if (message->knockouts_of->patch_type != 0) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                            "subnetwork_probing.knockouts_of.patch_type is given; both the circuit "
                            "and the whole model are run, so leave it unset");
        }
    }
    return convert_training(message, "subnetwork_probing", ABL_MASK_INIT_DEFAULT, options,
                            ret_status);
}

void abl_convert_knockouts(const Ablate__V1__CircuitMask *message, const uint8_t *in_circuit,
                           int64_t edge_count, abl_prune_options *options) {
    abl_mask_training_options *t = &options->subnetwork_probing;
    bool by_size = message->size_case == ABLATE__V1__CIRCUIT_MASK__SIZE_EDGE_COUNT;
    int64_t size = by_size ? message->edge_count : edge_count;
    t->knockouts_of = in_circuit;
    if (t->circuit_size == 0) {
        t->circuit_size = size < 2 * KNOCKOUT_SHARE ? 1 : size / KNOCKOUT_SHARE;
    }
}

abl_code abl_convert_circuit_probing(const Ablate__V1__CircuitProbing *message,
                                     abl_prune_options *options, abl_status *ret_status) {
    static const Ablate__V1__SubnetworkProbing DEFAULTS = ABLATE__V1__SUBNETWORK_PROBING__INIT;
    const Ablate__V1__SubnetworkProbing *training =
        message->training == NULL ? &DEFAULTS : message->training;
    options->algorithm = ABL_PRUNE_CIRCUIT_PROBING;
    abl_code code = convert_training(training, "circuit_probing.training", -ABL_MASK_INIT_DEFAULT,
                                     options, ret_status);
    if (code == ABL_CODE_OK && training->knockouts_of != NULL) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "circuit_probing.training.knockouts_of is given; knockouts are trained by "
                        "subnetwork_probing alone");
    }
    if (code == ABL_CODE_OK && training->circuit_size != 0) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "circuit_probing.training.circuit_size is %lld; the sizes are those of "
                        "circuit_sizes, so it must be 0",
                        (long long)training->circuit_size);
    }
    if (code == ABL_CODE_OK &&
        (message->n_circuit_sizes < 1 || message->n_circuit_sizes > ABL_CIRCUIT_COUNT_MAX)) {
        code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ALGORITHM_OPTIONS",
                        "circuit_probing.circuit_sizes has %zu sizes; it must have 1 to %d",
                        message->n_circuit_sizes, ABL_CIRCUIT_COUNT_MAX);
    }
    options->circuit_probing.sizes = message->circuit_sizes;
    options->circuit_probing.size_count = (int32_t)message->n_circuit_sizes;
    return code;
}

json_t *abl_convert_seed_json(uint64_t seed) {
    return seed <= SEED_NUMBER_MAX ? json_integer((json_int_t)seed)
                                   : json_sprintf("%llu", (unsigned long long)seed);
}

void abl_convert_training_json(const abl_prune_options *options, json_t *root) {
    const abl_mask_training_options *t = &options->subnetwork_probing;
    static const char *const FUNCTIONS[] = {"none", "sigmoid", "hard_concrete"};
    json_t *own = json_pack("{s:f, s:i, s:f, s:s, s:f, s:f, s:b, s:I, s:s, s:I, s:f, s:i, s:o}",
                            "learning_rate", (double)t->learning_rate, "epochs", (int)t->epochs,
                            "regularize_lambda", (double)t->regularize_lambda, "mask_fn",
                            FUNCTIONS[t->mask_function], "dropout_p", (double)t->dropout,
                            "init_val", (double)t->init_value, "tree_optimisation",
                            (int)t->tree_optimisation, "circuit_size", (json_int_t)t->circuit_size,
                            "faithfulness_target", abl_faithfulness_name(t->faithfulness_target),
                            "avoid_edge_count", (json_int_t)t->avoid_edge_count, "avoid_lambda",
                            (double)t->avoid_lambda, "validation_prompt_count",
                            (int)t->validation_count, "seed", abl_convert_seed_json(t->seed));
    (void)json_object_update(root, own);
    json_decref(own);
    if (t->knockouts_of != NULL) {
        const int64_t edges = abl_graph_edge_count(options->graph);
        int64_t count = 0;
        for (int64_t i = 0; i < edges; i++) {
            count += t->knockouts_of[i] != 0;
        }
        char hash[ABL_SHA256_TEXT_BYTES] = "";
        (void)!abl_convert_sha256(t->knockouts_of, (size_t)edges, hash);
        (void)json_object_set_new(
            root, "knockouts_of",
            json_pack("{s:I, s:s}", "edge_count", (json_int_t)count, "sha256", hash));
    }
    if (options->algorithm == ABL_PRUNE_CIRCUIT_PROBING) {
        json_t *sizes = json_array();
        for (int32_t i = 0; i < options->circuit_probing.size_count; i++) {
            (void)json_array_append_new(sizes, json_integer(options->circuit_probing.sizes[i]));
        }
        (void)json_object_set_new(root, "circuit_sizes", sizes);
    }
}

bool abl_convert_training_points(abl_arena *arena, const abl_training_point *points, size_t count,
                                 Ablate__V1__TrainingPoint ***ret_points) {
    Ablate__V1__TrainingPoint *messages = abl_arena_alloc(arena, count * sizeof *messages);
    Ablate__V1__TrainingPoint **list = abl_arena_alloc(arena, count * sizeof *list);
    if (messages == NULL || list == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const abl_training_point *point = &points[i];
        ablate__v1__training_point__init(&messages[i]);
        messages[i].epoch = point->epoch;
        messages[i].batch = point->batch;
        messages[i].circuit_size = point->circuit_size;
        messages[i].loss = point->loss;
        messages[i].faithfulness = point->faithfulness;
        messages[i].regularization = point->regularization;
        messages[i].has_validation = !isnan(point->validation);
        messages[i].validation = messages[i].has_validation ? point->validation : 0;
        messages[i].validation_std =
            isnan(point->validation_deviation) ? 0 : point->validation_deviation;
        messages[i].zero_mask_score = point->zero_mask_score;
        list[i] = &messages[i];
    }
    *ret_points = list;
    return true;
}
