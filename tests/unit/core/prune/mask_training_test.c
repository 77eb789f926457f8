/* SPDX-License-Identifier: Apache-2.0
 *
 * Adam against its formula in double precision. Trainings by what needs no recording: they repeat,
 * learn, begin anew, refuse, survive a heap that fails. (AutoCircuit's numbers: tests/golden.) */
#include "core/prune/mask_training.h"

#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/prune/adam.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

enum { PROMPTS = 6, SEQ = 5 };

/* ---- Adam ------------------------------------------------------------------------------------ */

static void adam_steps_as_its_formula_says(void **state) {
    (void)state;
    static const float gradients[3][3] = {{1, -2, 0}, {0.5F, 3, 0}, {-4, 1e-6F, 0}};
    abl_adam adam;
    assert_int_equal(abl_adam_init(&adam, 3, 0.1F, NULL), ABL_CODE_OK);
    float values[3] = {1, 2, 3};
    double expected[3] = {1, 2, 3};
    double mean[3] = {0};
    double variance[3] = {0};
    for (int t = 1; t <= 3; t++) {
        abl_adam_step(&adam, gradients[t - 1], values);
        for (int i = 0; i < 3; i++) {
            double g = (double)gradients[t - 1][i];
            mean[i] = 0.9 * mean[i] + 0.1 * g;
            variance[i] = 0.999 * variance[i] + 0.001 * g * g;
            expected[i] -= 0.1 * (mean[i] / (1 - pow(0.9, t))) /
                           (sqrt(variance[i] / (1 - pow(0.999, t))) + 1e-8);
            assert_true(fabs((double)values[i] - expected[i]) < 1e-5);
        }
    }
    assert_true(values[2] == 3); /* where nothing is learned nothing moves */
    abl_adam_finish(&adam);
}

/* ---- trainings ------------------------------------------------------------------------------- */

typedef struct subject {
    abl_model *model;
    abl_graph *graph;
    abl_dataset *dataset;
    int64_t edges;
} subject;

static subject subject_open(void) {
    static const char *const paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models"};
    static const int32_t answers[PROMPTS] = {4, 5, 6, 7, 8, 9};
    static const int32_t wrong[PROMPTS] = {14, 15, 16, 17, 18, 19};
    static const int32_t offsets[PROMPTS + 1] = {0, 1, 2, 3, 4, 5, 6};
    int32_t clean[PROMPTS * SEQ];
    int32_t corrupt[PROMPTS * SEQ];
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32};
    subject s = {0};
    abl_model_dir *dir = NULL;
    assert_int_equal(abl_model_dir_create(&roots, "tiny-rand", &dir, NULL), ABL_CODE_OK);
    assert_int_equal(abl_model_load(dir, &options, &s.model, NULL), ABL_CODE_OK);
    abl_model_dir_destroy(dir);
    const abl_model_config *c = abl_model_get_config(s.model);
    const abl_graph_options graph = {
        .layer_count = c->n_layers, .head_count = c->n_heads, .kv_head_count = c->n_kv_heads};
    assert_int_equal(abl_graph_create(&graph, &s.graph, NULL), ABL_CODE_OK);
    s.edges = abl_graph_edge_count(s.graph);
    for (int32_t i = 0; i < PROMPTS * SEQ; i++) {
        clean[i] = (i * 7 + 3) % c->d_vocab;
        corrupt[i] = (i * 5 + 1) % c->d_vocab;
    }
    const abl_dataset_tokens tokens = {.clean = clean,
                                       .corrupt = corrupt,
                                       .prompt_count = PROMPTS,
                                       .seq_len = SEQ,
                                       .answers = answers,
                                       .answer_offsets = offsets,
                                       .wrong_answers = wrong,
                                       .wrong_answer_offsets = offsets};
    assert_int_equal(abl_dataset_create_tokens(&tokens, &s.dataset, NULL), ABL_CODE_OK);
    return s;
}

static void subject_close(subject *s) {
    abl_dataset_destroy(s->dataset);
    abl_graph_destroy(s->graph);
    abl_model_unref(s->model);
}

static abl_prune_options options_of(const subject *s) {
    return (abl_prune_options){.algorithm = ABL_PRUNE_SUBNETWORK_PROBING,
                               .model = s->model,
                               .graph = s->graph,
                               .batches = {.dataset = s->dataset, .count = 4, .batch_size = 2},
                               .ablation = ABL_ABLATION_TOKENWISE_MEAN_CORRUPT,
                               .subnetwork_probing = {.learning_rate = 0.1F,
                                                      .epochs = 3,
                                                      .regularize_lambda = 0.5F,
                                                      .mask_function = ABL_MASK_HARD_CONCRETE,
                                                      .dropout = 0.1F,
                                                      .init_value = ABL_MASK_INIT_DEFAULT,
                                                      .tree_optimisation = true,
                                                      .avoid_lambda = 1,
                                                      .validation_count = 2,
                                                      .seed = 3}};
}

/* All steps; the scores, which end with abl_free(). */
static abl_code run(const abl_prune_options *options, float **ret_scores, abl_status *ret_status) {
    abl_prune *prune = NULL;
    abl_prune_progress progress = {0};
    abl_code code = abl_prune_create(options, &prune, ret_status);
    while (code == ABL_CODE_OK && !progress.finished) {
        code = abl_prune_step(prune, &progress, ret_status);
    }
    if (code == ABL_CODE_OK && ret_scores != NULL) {
        size_t bytes = (size_t)abl_graph_edge_count(options->graph) * sizeof(float);
        *ret_scores = abl_malloc(bytes);
        memcpy(*ret_scores, abl_prune_scores(prune), bytes);
    }
    abl_prune_destroy(prune);
    return code;
}

static void the_same_options_train_the_same_masks(void **state) {
    (void)state;
    subject s = subject_open();
    abl_prune_options options = options_of(&s);
    float *scores[3];
    for (int i = 0; i < 3; i++) {
        options.subnetwork_probing.seed = i == 2 ? 4 : 3;
        assert_int_equal(run(&options, &scores[i], NULL), ABL_CODE_OK);
    }
    size_t bytes = (size_t)s.edges * sizeof(float);
    assert_memory_equal(scores[0], scores[1], bytes);
    assert_true(memcmp(scores[0], scores[2], bytes) != 0);
    for (int i = 0; i < 3; i++) {
        abl_free(scores[i]);
    }
    subject_close(&s);
}

static void a_restart_forgets_the_masks_and_goes_on_with_the_curve(void **state) {
    (void)state;
    subject s = subject_open();
    abl_prune_options options = options_of(&s);
    options.subnetwork_probing.mask_function = ABL_MASK_SIGMOID; /* nothing is drawn ... */
    options.subnetwork_probing.dropout = 0;                      /* ... so runs are the same */
    abl_mask_training *training = NULL;
    struct abl_prune prune = {.options = options};
    assert_int_equal(abl_mask_training_create(&options, &training, NULL), ABL_CODE_OK);
    const int64_t steps = abl_mask_training_step_count(training);
    assert_int_equal(steps, 6);
    assert_int_equal(abl_mask_training_prepare_count(training), 3); /* a pass a batch */
    for (int round = 0; round < 2; round++) {
        while (!abl_mask_training_is_finished(training)) {
            assert_int_equal(abl_mask_training_step(training, &prune, NULL), ABL_CODE_OK);
        }
        assert_int_equal(prune.curve_count, (round + 1) * steps);
        assert_int_equal(abl_mask_training_restart(training, 0, NULL), ABL_CODE_OK);
        assert_true(abl_mask_training_masks(training)[0] == ABL_MASK_INIT_DEFAULT);
    }
    for (int64_t i = 0; i < steps; i++) {
        const abl_training_point *first = &prune.curve[i];
        const abl_training_point *again = &prune.curve[steps + i];
        assert_true(first->epoch == again->epoch && first->batch == again->batch);
        assert_true(first->loss == again->loss && first->validation == again->validation);
    }
    assert_true(prune.curve[steps - 1].regularization < prune.curve[0].regularization);
    abl_mask_training_destroy(training);
    subject_close(&s);
}

/* Only the regularizer trains: every edge goes, but for those that are avoided in vain. */
static void the_regularizer_alone_ablates_everything(void **state) {
    (void)state;
    subject s = subject_open();
    abl_prune_options options = options_of(&s);
    options.subnetwork_probing.faithfulness_target = ABL_FAITHFULNESS_CORRECT_PERCENT;
    options.subnetwork_probing.mask_function = ABL_MASK_NONE;
    options.subnetwork_probing.dropout = 0;
    options.subnetwork_probing.init_value = 0;
    abl_mask_training *training = NULL;
    struct abl_prune prune = {.options = options};
    assert_int_equal(abl_mask_training_create(&options, &training, NULL), ABL_CODE_OK);
    while (!abl_mask_training_is_finished(training)) {
        assert_int_equal(abl_mask_training_step(training, &prune, NULL), ABL_CODE_OK);
    }
    for (int64_t i = 0; i < s.edges; i++) { /* Adam's steps are of the learning rate each */
        assert_true(fabs((double)abl_mask_training_masks(training)[i] - 0.6) < 1e-4);
    }
    abl_mask_training_destroy(training);
    subject_close(&s);
}

static void what_cannot_be_trained_is_refused_by_name(void **state) {
    (void)state;
    subject s = subject_open();
    static const struct {
        const char *reason;
        const char *mentioned;
    } expected[] = {
        {"ALGORITHM_OPTIONS_INVALID", "learning_rate"},
        {"ALGORITHM_OPTIONS_INVALID", "epochs is 10001"},
        {"ALGORITHM_OPTIONS_INVALID", "dropout_p"},
        {"ALGORITHM_OPTIONS_INVALID", "init_val"},
        {"ALGORITHM_OPTIONS_INVALID", "circuit_size"},
        {"EDGE_INDEX_INVALID", "avoid_edges"},
        {"SPLIT_INVALID", ""},
        {"ALGORITHM_OPTIONS_INVALID", "circuit_sizes"},
    };
    const int64_t avoid[] = {0, s.edges};
    abl_prune_options bad[ABL_COUNT_OF(expected)];
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        bad[i] = options_of(&s);
    }
    bad[0].subnetwork_probing.learning_rate = NAN;
    bad[1].subnetwork_probing.epochs = 10001;
    bad[2].subnetwork_probing.dropout = 1;
    bad[3].subnetwork_probing.init_value = INFINITY;
    bad[4].subnetwork_probing.circuit_size = s.edges + 1;
    bad[5].subnetwork_probing.avoid_edges = avoid;
    bad[5].subnetwork_probing.avoid_edge_count = 2;
    bad[6].subnetwork_probing.validation_count = PROMPTS;
    bad[7].algorithm = ABL_PRUNE_CIRCUIT_PROBING;
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        abl_status status = {.reason = ""};
        assert_int_equal(run(&bad[i], NULL, &status), ABL_CODE_INVALID_ARGUMENT);
        assert_string_equal(status.reason, expected[i].reason);
        assert_non_null(strstr(status.message, expected[i].mentioned));
    }
    subject_close(&s);
}

/* ---- knockouts ------------------------------------------------------------------------------- */

enum { EVERY = 3 }; /* of the edges one in so many is in the circuit */

static uint8_t *circuit_of(const subject *s) {
    uint8_t *in_circuit = abl_calloc((size_t)s->edges, 1);
    for (int64_t i = 0; i < s->edges; i += EVERY) {
        in_circuit[i] = 1;
    }
    return in_circuit;
}

static abl_prune_options knockouts_of(const subject *s, const uint8_t *in_circuit) {
    abl_prune_options options = options_of(s);
    options.ablation = ABL_ABLATION_RESAMPLE;
    options.subnetwork_probing.knockouts_of = in_circuit;
    options.subnetwork_probing.tree_optimisation = false;
    options.subnetwork_probing.validation_count = 0;
    options.subnetwork_probing.circuit_size = 4;
    options.subnetwork_probing.epochs = 8;
    return options;
}

static void knockouts_tell_a_circuit_from_the_model(void **state) {
    (void)state;
    subject s = subject_open();
    uint8_t *in_circuit = circuit_of(&s);
    for (int i = 0; i < 2; i++) {
        abl_prune_options options = knockouts_of(&s, in_circuit);
        abl_prune *prune = NULL;
        abl_prune_progress progress = {0};
        options.subnetwork_probing.faithfulness_target =
            i == 0 ? ABL_FAITHFULNESS_KL_DIV : ABL_FAITHFULNESS_LOGIT_DIFF;
        options.subnetwork_probing.mask_function = ABL_MASK_SIGMOID; /* nothing is drawn */
        options.subnetwork_probing.dropout = 0;
        options.subnetwork_probing.regularize_lambda = 0;
        assert_int_equal(abl_prune_create(&options, &prune, NULL), ABL_CODE_OK);
        while (!progress.finished) {
            assert_int_equal(abl_prune_step(prune, &progress, NULL), ABL_CODE_OK);
        }
        int64_t count = 0;
        const abl_training_point *curve = abl_prune_curve(prune, &count);
        assert_int_equal(count, 16);
        assert_true(curve[count - 2].loss < curve[0].loss); /* of the same batch */
        assert_memory_equal(abl_prune_scored(prune), in_circuit, (size_t)s.edges);
        for (int64_t edge = 0; edge < s.edges; edge++) {
            assert_true((abl_prune_scores(prune)[edge] == -99) == (in_circuit[edge] == 0));
        }
        abl_prune_destroy(prune);
    }
    abl_free(in_circuit);
    subject_close(&s);
}

static void what_goes_with_no_knockouts_is_refused(void **state) {
    (void)state;
    subject s = subject_open();
    uint8_t *in_circuit = circuit_of(&s);
    static const int64_t avoid[] = {0};
    static const char *const mentioned[] = {"mask function", "kl_div and logit_diff",
                                            "circuit_size",  "tree_optimisation",
                                            "avoid_edges",   "validation",
                                            "only knockouts"};
    abl_prune_options bad[ABL_COUNT_OF(mentioned)];
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        bad[i] = knockouts_of(&s, in_circuit);
    }
    bad[0].subnetwork_probing.mask_function = ABL_MASK_NONE;
    bad[1].subnetwork_probing.faithfulness_target = ABL_FAITHFULNESS_ANSWER;
    bad[2].subnetwork_probing.circuit_size = 0;
    bad[3].subnetwork_probing.tree_optimisation = true;
    bad[4].subnetwork_probing.avoid_edges = avoid;
    bad[4].subnetwork_probing.avoid_edge_count = 1;
    bad[5].subnetwork_probing.validation_count = 1;
    bad[6].subnetwork_probing.knockouts_of = NULL;
    bad[6].subnetwork_probing.faithfulness_target = ABL_FAITHFULNESS_LOGIT_DIFF;
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        abl_status status = {.reason = ""};
        assert_int_equal(run(&bad[i], NULL, &status), ABL_CODE_INVALID_ARGUMENT);
        assert_string_equal(status.reason, "ALGORITHM_OPTIONS_INVALID");
        assert_non_null(strstr(status.message, mentioned[i]));
    }
    abl_free(in_circuit);
    subject_close(&s);
}

/* Each allocation of a run in turn fails, and the run says so. */
static void check_each_allocation(const abl_prune_options *options) {
    for (uint64_t n = 1;; n++) {
        abl_status status = {.message = ""};
        abl_mem_fail_after(n);
        abl_code code = run(options, NULL, &status);
        abl_mem_fail_after(0);
        if (code == ABL_CODE_OK) {
            assert_true(n > 20);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
}

static void knockouts_report_a_failing_allocation(void **state) {
    (void)state;
    subject s = subject_open();
    uint8_t *in_circuit = circuit_of(&s);
    for (int i = 0; i < 2; i++) {
        abl_prune_options options = knockouts_of(&s, in_circuit);
        options.subnetwork_probing.epochs = 1;
        options.subnetwork_probing.faithfulness_target =
            i == 0 ? ABL_FAITHFULNESS_KL_DIV : ABL_FAITHFULNESS_LOGIT_DIFF;
        options.batches.count = 2;
        check_each_allocation(&options);
    }
    abl_free(in_circuit);
    subject_close(&s);
}

static void a_failing_allocation_is_reported(void **state) {
    (void)state;
    subject s = subject_open();
    abl_prune_options options = options_of(&s);
    options.algorithm = ABL_PRUNE_CIRCUIT_PROBING;
    options.subnetwork_probing.epochs = 1;
    options.batches.count = 2;
    const int64_t sizes[] = {5, 2};
    options.circuit_probing.sizes = sizes;
    options.circuit_probing.size_count = 2;
    check_each_allocation(&options);
    subject_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adam_steps_as_its_formula_says),
        cmocka_unit_test(the_same_options_train_the_same_masks),
        cmocka_unit_test(a_restart_forgets_the_masks_and_goes_on_with_the_curve),
        cmocka_unit_test(the_regularizer_alone_ablates_everything),
        cmocka_unit_test(what_cannot_be_trained_is_refused_by_name),
        cmocka_unit_test(knockouts_tell_a_circuit_from_the_model),
        cmocka_unit_test(what_goes_with_no_knockouts_is_refused),
        cmocka_unit_test(knockouts_report_a_failing_allocation),
        cmocka_unit_test(a_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
