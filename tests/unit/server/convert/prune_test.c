/* SPDX-License-Identifier: Apache-2.0
 *
 * A spec that is right is changed in one place at a time; each refusal is read for its reason and
 * for the field and the limit that it names. */
#include "server/convert/prune.h"
#include "server/convert/training.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "tests/unit/files.h"

#include <math.h>

typedef struct fixture {
    Ablate__V1__PruneJobSpec spec;
    Ablate__V1__EdgeAttributionPatching eap;
    Ablate__V1__MaskGradient gradient;
    Ablate__V1__GroundTruth exact;
    Ablate__V1__RandomScores random;
    Ablate__V1__EapIg eap_ig;
    abl_job_request request;
    abl_status status;
    abl_arena *arena;
} fixture;

static char graph_id[] = "graph-00112233";
static char dataset_id[] = "dataset-00112233";

static int set_up(void **state) {
    static fixture f;
    f = (fixture){.arena = abl_arena_create(1 << 20)};
    assert_non_null(f.arena);
    ablate__v1__prune_job_spec__init(&f.spec);
    ablate__v1__edge_attribution_patching__init(&f.eap);
    ablate__v1__mask_gradient__init(&f.gradient);
    ablate__v1__ground_truth__init(&f.exact);
    ablate__v1__random_scores__init(&f.random);
    ablate__v1__eap_ig__init(&f.eap_ig);
    f.spec.graph_id = graph_id;
    f.spec.dataset_id = dataset_id;
    f.spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP;
    f.spec.eap = &f.eap;
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    abl_arena_destroy(((fixture *)*state)->arena);
    return 0;
}

static void use_gradient(fixture *f) {
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_MASK_GRADIENT;
    f->spec.mask_gradient = &f->gradient;
}

static void use_exact(fixture *f) {
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_GROUND_TRUTH;
    f->spec.ground_truth = &f->exact;
}

static void take(fixture *f) {
    f->request = (abl_job_request){0};
    if (abl_convert_job_spec(&f->spec, &f->request, &f->status) != ABL_CODE_OK) {
        fail_msg("%s: %s", f->status.reason, f->status.message);
    }
}

static void assert_refused(fixture *f, const char *reason, const char *mentioned) {
    f->request = (abl_job_request){.top_k = -77};
    assert_int_equal(abl_convert_job_spec(&f->spec, &f->request, &f->status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(f->status.reason, reason);
    assert_mentions(f->status.message, mentioned);
    assert_int_equal(f->request.top_k, -77); /* left alone */
}

static void a_missing_spec_is_refused(void **state) {
    fixture *f = *state;
    assert_int_equal(abl_convert_job_spec(NULL, &f->request, &f->status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(f->status.reason, "SPEC_MISSING");
}

static void a_spec_needs_an_algorithm(void **state) {
    fixture *f = *state;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM__NOT_SET;
    assert_refused(f, "ALGORITHM_MISSING", "eap, mask_gradient, ground_truth");
}

static void what_is_not_said_has_the_documented_defaults(void **state) {
    fixture *f = *state;
    take(f);
    assert_string_equal(f->request.graph_id, graph_id);
    assert_string_equal(f->request.dataset_id, dataset_id);
    assert_int_equal(f->request.options.algorithm, ABL_PRUNE_EAP);
    assert_int_equal(f->request.options.ablation, ABL_ABLATION_RESAMPLE);
    assert_int_equal(f->request.options.grad_function, ABL_GRAD_LOGIT);
    assert_int_equal(f->request.options.answer_function, ABL_ANSWER_AVG_DIFF);
    assert_int_equal(f->request.batch_size, 8);
    assert_int_equal(f->request.prompt_count, 0);
    assert_int_equal(f->request.top_k, 10);
    assert_int_equal(f->request.bos, ABLATE__V1__BOS_POLICY__BOS_POLICY_UNSPECIFIED);
    assert_int_equal(f->request.edge_name_count, 0);
    use_gradient(f);
    take(f);
    assert_int_equal(f->request.options.algorithm, ABL_PRUNE_MASK_GRADIENT);
    assert_int_equal(f->request.options.grad_function, ABL_GRAD_LOGIT);
    assert_int_equal(f->request.options.answer_function, ABL_ANSWER_AVG_DIFF);
    assert_int_equal(f->request.options.integrated_grad_samples, 0);
    assert_true(f->request.options.mask_value == 0.0F);
}

static void every_function_of_the_protocol_is_the_core_function_of_its_name(void **state) {
    fixture *f = *state;
    use_gradient(f);
    static const char *const grads[] = {"logit", "logit", "prob", "logprob", "logit_exp"};
    for (int i = 0; i < 5; i++) {
        f->gradient.grad_function = (Ablate__V1__GradFunction)i;
        take(f);
        assert_string_equal(abl_grad_function_name(f->request.options.grad_function), grads[i]);
    }
    static const char *const answers[] = {"avg_diff", "avg_diff", "avg_val", "mse"};
    for (int i = 0; i < 4; i++) {
        f->gradient.answer_function = (Ablate__V1__AnswerFunction)i;
        take(f);
        assert_string_equal(abl_answer_function_name(f->request.options.answer_function),
                            answers[i]);
    }
    f->gradient.ablation_type = ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_ZERO;
    take(f);
    assert_int_equal(f->request.options.ablation, ABL_ABLATION_ZERO);
}

static void batch_prompt_and_edge_counts_are_taken_up_to_their_limits(void **state) {
    fixture *f = *state;
    f->spec.batch_size = ABL_BATCH_MAX;
    f->spec.prompt_count = ABL_PROMPT_COUNT_MAX;
    f->spec.top_k = 1000;
    take(f);
    assert_int_equal(f->request.batch_size, ABL_BATCH_MAX);
    assert_int_equal(f->request.prompt_count, ABL_PROMPT_COUNT_MAX);
    assert_int_equal(f->request.top_k, 1000);
}

static void counts_outside_their_limits_are_refused_by_name(void **state) {
    fixture *f = *state;
    static const int32_t batch_sizes[] = {-1, ABL_BATCH_MAX + 1, INT32_MIN, INT32_MAX};
    static const int32_t prompt_counts[] = {-1, ABL_PROMPT_COUNT_MAX + 1, INT32_MIN, INT32_MAX};
    static const int32_t top_ks[] = {-1, 1001, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        f->spec.batch_size = batch_sizes[i];
        assert_refused(f, "BATCH_INVALID", "spec.batch_size");
        f->spec.batch_size = 0;
        f->spec.prompt_count = prompt_counts[i];
        assert_refused(f, "PROMPT_COUNT_INVALID", "to 100000");
        f->spec.prompt_count = 0;
        f->spec.top_k = top_ks[i];
        assert_refused(f, "TOP_K_INVALID", "to 1000");
        f->spec.top_k = 0;
    }
}

static void a_mask_value_must_be_finite(void **state) {
    fixture *f = *state;
    use_gradient(f);
    f->gradient.at_case = ABLATE__V1__MASK_GRADIENT__AT_MASK_VALUE;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        f->gradient.mask_value = bad[i];
        assert_refused(f, "ALGORITHM_OPTIONS", "mask_gradient.mask_value");
    }
    f->gradient.mask_value = 0.25F;
    take(f);
    assert_true(f->request.options.mask_value == 0.25F);
}

static void integrated_gradients_take_1_to_1000_samples(void **state) {
    fixture *f = *state;
    use_gradient(f);
    f->gradient.at_case = ABLATE__V1__MASK_GRADIENT__AT_INTEGRATED_GRAD_SAMPLES;
    static const int32_t bad[] = {0, -1, 1001, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        f->gradient.integrated_grad_samples = bad[i];
        assert_refused(f, "ALGORITHM_OPTIONS", "it must be 1 to 1000");
    }
    static const int32_t good[] = {1, 1000};
    for (size_t i = 0; i < 2; i++) {
        f->gradient.integrated_grad_samples = good[i];
        take(f);
        assert_int_equal(f->request.options.integrated_grad_samples, good[i]);
    }
}

static void a_seed_of_64_bits_arrives_whole(void **state) {
    fixture *f = *state;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_RANDOM;
    f->spec.random = &f->random;
    f->random.seed = UINT64_MAX;
    take(f);
    assert_int_equal(f->request.options.algorithm, ABL_PRUNE_RANDOM);
    assert_true(f->request.options.seed == UINT64_MAX);
}

static void eap_ig_takes_5_steps_unless_told_and_resample_unless_activations(void **state) {
    fixture *f = *state;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP_IG;
    f->spec.eap_ig = &f->eap_ig;
    take(f);
    assert_int_equal(f->request.options.algorithm, ABL_PRUNE_EAP_IG);
    assert_int_equal(f->request.options.eap_ig.method, ABL_EAP_IG_INPUTS);
    assert_int_equal(f->request.options.eap_ig.steps, 5);
    f->eap_ig.steps = 1001;
    assert_refused(f, "ALGORITHM_OPTIONS", "eap_ig.steps is 1001");
    f->eap_ig.steps = 1;
    f->eap_ig.ablation_type = ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_ZERO;
    assert_refused(f, "ALGORITHM_OPTIONS", "eap_ig.ablation_type must be RESAMPLE");
    f->eap_ig.method = ABLATE__V1__EAP_IG_METHOD__EAP_IG_METHOD_ACTIVATIONS;
    f->eap_ig.grad_function = ABLATE__V1__GRAD_FUNCTION__GRAD_FUNCTION_LOGPROB;
    take(f);
    assert_int_equal(f->request.options.ablation, ABL_ABLATION_ZERO);
    assert_int_equal(f->request.options.grad_function, ABL_GRAD_LOGPROB);
    f->eap_ig.method = ABLATE__V1__EAP_IG_METHOD__EAP_IG_METHOD_CLEAN_CORRUPTED;
    f->eap_ig.ablation_type = 0;
    assert_refused(f, "ALGORITHM_OPTIONS", "takes none");
}

static void acdc_takes_kl_unless_told_and_its_taus_as_they_are(void **state) {
    fixture *f = *state;
    double taus[] = {0.001, 0.1};
    Ablate__V1__Acdc acdc = ABLATE__V1__ACDC__INIT;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACDC;
    f->spec.acdc = &acdc;
    assert_refused(f, "TAUS_INVALID", "acdc.taus has 0 entries");
    acdc.taus = taus;
    acdc.n_taus = 2;
    take(f);
    assert_int_equal(f->request.options.algorithm, ABL_PRUNE_ACDC);
    assert_int_equal(f->request.options.exact_metric, ABL_EXACT_KL_DIV);
    assert_int_equal(f->request.options.acdc.tau_count, 2);
    assert_true(f->request.options.acdc.taus[1] == 0.1);
    acdc.faithfulness_target = ABLATE__V1__ACDC_TARGET__ACDC_TARGET_ANSWER_DIFF;
    take(f);
    assert_int_equal(f->request.options.exact_metric, ABL_EXACT_LOSS);
    acdc.candidate_count_max = -1;
    assert_refused(f, "ALGORITHM_OPTIONS", "acdc.candidate_count_max is -1");
}

static abl_graph *make_graph(int32_t seq_len) {
    const abl_graph_options options = {
        .layer_count = 2, .head_count = 2, .kv_head_count = 2, .seq_len = seq_len};
    abl_graph *graph = NULL;
    assert_int_equal(abl_graph_create(&options, &graph, NULL), ABL_CODE_OK);
    return graph;
}

static void trainings_have_autocircuits_defaults(void **state) {
    fixture *f = *state;
    Ablate__V1__SubnetworkProbing training = ABLATE__V1__SUBNETWORK_PROBING__INIT;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING;
    f->spec.subnetwork_probing = &training;
    take(f);
    const abl_prune_options *o = &f->request.options;
    const abl_mask_training_options *t = &o->subnetwork_probing;
    assert_int_equal(o->algorithm, ABL_PRUNE_SUBNETWORK_PROBING);
    assert_int_equal(o->ablation, ABL_ABLATION_TOKENWISE_MEAN_CORRUPT);
    assert_true(t->learning_rate == 0.1F && t->epochs == 20 && t->regularize_lambda == 10);
    assert_int_equal(t->mask_function, ABL_MASK_HARD_CONCRETE);
    assert_true(t->dropout == 0 && t->avoid_lambda == 1 && t->circuit_size == 0);
    assert_true(fabs((double)t->init_value - log(5)) < 1e-6);
    assert_false(t->tree_optimisation);
    assert_int_equal(t->faithfulness_target, ABL_FAITHFULNESS_KL_DIV);
    assert_int_equal(t->validation_count, 0);

    /* Zeros that mean zero. */
    training.regularizer_case = ABLATE__V1__SUBNETWORK_PROBING__REGULARIZER_REGULARIZE_LAMBDA;
    training.init_case = ABLATE__V1__SUBNETWORK_PROBING__INIT_INIT_VAL;
    training.mask_function = ABLATE__V1__MASK_FUNCTION__MASK_FUNCTION_NONE;
    training.ablation_type = ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_ZERO;
    take(f);
    assert_true(t->regularize_lambda == 0 && t->init_value == 0);
    assert_int_equal(t->mask_function, ABL_MASK_NONE);
    assert_int_equal(o->ablation, ABL_ABLATION_ZERO);

    /* Knockouts are of the other prompt, and a fifth of the circuit is free. */
    Ablate__V1__CircuitMask circuit = ABLATE__V1__CIRCUIT_MASK__INIT;
    static const uint8_t in_circuit[] = {1, 0, 1};
    training.knockouts_of = &circuit;
    training.ablation_type = 0;
    assert_refused(f, "CIRCUIT_SIZE_INVALID", "knockouts_of");
    circuit.size_case = ABLATE__V1__CIRCUIT_MASK__SIZE_EDGE_COUNT;
    circuit.edge_count = 39;
    take(f);
    assert_int_equal(o->ablation, ABL_ABLATION_RESAMPLE);
    abl_convert_knockouts(&circuit, in_circuit, 41, &f->request.options);
    assert_true(t->knockouts_of == in_circuit && t->circuit_size == 7);
    take(f);
    circuit.size_case = ABLATE__V1__CIRCUIT_MASK__SIZE_THRESHOLD;
    abl_convert_knockouts(&circuit, in_circuit, 2, &f->request.options);
    assert_int_equal(t->circuit_size, 1);
    circuit.patch_type = ABLATE__V1__PATCH_TYPE__PATCH_TYPE_TREE_PATCH;
    assert_refused(f, "ALGORITHM_OPTIONS", "patch_type");
}

static void circuit_probing_starts_from_the_other_end(void **state) {
    fixture *f = *state;
    int64_t sizes[] = {5, 50};
    Ablate__V1__CircuitProbing probing = ABLATE__V1__CIRCUIT_PROBING__INIT;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_CIRCUIT_PROBING;
    f->spec.circuit_probing = &probing;
    assert_refused(f, "ALGORITHM_OPTIONS", "circuit_sizes");
    probing.circuit_sizes = sizes;
    probing.n_circuit_sizes = ABL_COUNT_OF(sizes);
    take(f);
    const abl_prune_options *o = &f->request.options;
    assert_true(fabs((double)o->subnetwork_probing.init_value + log(5)) < 1e-6);
    assert_int_equal(o->circuit_probing.size_count, 2);
    Ablate__V1__SubnetworkProbing training = ABLATE__V1__SUBNETWORK_PROBING__INIT;
    probing.training = &training;
    training.circuit_size = 7;
    assert_refused(f, "ALGORITHM_OPTIONS", "circuit_size");
}

static void numbers_of_a_training_below_zero_are_refused_by_name(void **state) {
    fixture *f = *state;
    Ablate__V1__SubnetworkProbing training = ABLATE__V1__SUBNETWORK_PROBING__INIT;
    f->spec.algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING;
    f->spec.subnetwork_probing = &training;
    training.epochs = -1;
    assert_refused(f, "ALGORITHM_OPTIONS", "subnetwork_probing.epochs");
    training.epochs = 0;
    training.learning_rate = NAN;
    assert_refused(f, "ALGORITHM_OPTIONS", "learning_rate");
    training.learning_rate = 0;
    training.validation_prompt_count = -5;
    assert_refused(f, "ALGORITHM_OPTIONS", "validation_prompt_count");
}

static void edge_names_become_indices_one_for_each_position(void **state) {
    fixture *f = *state;
    char whole[] = "A0.1->A1.0.K";
    char one[] = "MLP 0->Resid End[2]";
    char *names[] = {whole, one};
    use_exact(f);
    f->exact.edges = names;
    f->exact.n_edges = 2;
    take(f);
    abl_graph *graph = make_graph(3);
    int64_t *edges = NULL;
    int64_t count = 0;
    assert_int_equal(
        abl_convert_job_edges(&f->request, graph, f->arena, &edges, &count, &f->status),
        ABL_CODE_OK);
    assert_int_equal(count, 4);
    char text[64];
    for (int32_t i = 0; i < 3; i++) {
        abl_edge edge = abl_graph_edge_at(graph, edges[i]);
        assert_int_equal(edge.seq, i);
        edge.seq = ABL_SEQ_EVERY;
        (void)abl_graph_format_edge(graph, edge, ABL_DIALECT_AUTOCIRCUIT, text, sizeof text);
        assert_string_equal(text, whole);
    }
    (void)abl_graph_format_edge(graph, abl_graph_edge_at(graph, edges[3]), ABL_DIALECT_AUTOCIRCUIT,
                                text, sizeof text);
    assert_string_equal(text, one);
    abl_graph_destroy(graph);
}

static void edge_names_that_name_no_edge_are_refused(void **state) {
    fixture *f = *state;
    static const struct {
        const char *name;
        abl_code code;
        const char *reason;
    } cases[] = {
        {"", ABL_CODE_INVALID_ARGUMENT, "EDGE_NAME_MALFORMED"},
        {"A0.1", ABL_CODE_INVALID_ARGUMENT, "EDGE_NAME_MALFORMED"},
        {"A9.9->A1.0.K", ABL_CODE_NOT_FOUND, "NODE_UNKNOWN"},
        {"A0.1->A7.0.K", ABL_CODE_NOT_FOUND, "NODE_UNKNOWN"},
        {"A1.0->A0.0.Q", ABL_CODE_INVALID_ARGUMENT, "EDGE_NOT_IN_GRAPH"},
        {"A0.1->A1.0.K[3]", ABL_CODE_INVALID_ARGUMENT, "EDGE_POSITION_INVALID"},
    };
    abl_graph *graph = make_graph(3);
    use_exact(f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%s", cases[i].name);
        char *names[] = {name};
        f->exact.edges = names;
        f->exact.n_edges = 1;
        take(f);
        int64_t *edges = NULL;
        int64_t count = 0;
        assert_int_equal(
            abl_convert_job_edges(&f->request, graph, f->arena, &edges, &count, &f->status),
            cases[i].code);
        assert_string_equal(f->status.reason, cases[i].reason);
        assert_int_equal(abl_convert_job_edges(&f->request, graph, f->arena, &edges, &count, NULL),
                         cases[i].code);
        assert_null(edges);
    }
    abl_graph_destroy(graph);
}

static void more_edges_than_the_arena_takes_are_refused(void **state) {
    fixture *f = *state;
    char name[] = "A0.1->A1.0.K";
    char *names[] = {name, name};
    use_exact(f);
    f->exact.edges = names;
    f->exact.n_edges = 2;
    take(f);
    abl_graph *graph = make_graph(3);
    abl_arena *small = abl_arena_create(32);
    int64_t *edges = NULL;
    int64_t count = 0;
    assert_int_equal(abl_convert_job_edges(&f->request, graph, small, &edges, &count, &f->status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_null(edges);
    abl_arena_destroy(small);
    abl_graph_destroy(graph);
}

static void the_provenance_names_the_options_that_the_algorithm_has(void **state) {
    fixture *f = *state;
    use_gradient(f);
    f->gradient.at_case = ABLATE__V1__MASK_GRADIENT__AT_INTEGRATED_GRAD_SAMPLES;
    f->gradient.integrated_grad_samples = 5;
    take(f);
    const char *json = abl_convert_algorithm_json(&f->request, NULL, true, 16, f->arena);
    assert_non_null(json);
    assert_mentions(json, "\"algorithm\":\"mask_gradient\"");
    assert_mentions(json, "\"integrated_grad_samples\":5");
    assert_mentions(json, "\"prepend_bos\":true");
    assert_mentions(json, "\"prompt_count\":16");
    assert_null(strstr(json, "mask_value"));
    assert_null(strstr(json, "seed"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_missing_spec_is_refused),
        TEST(a_spec_needs_an_algorithm),
        TEST(what_is_not_said_has_the_documented_defaults),
        TEST(every_function_of_the_protocol_is_the_core_function_of_its_name),
        TEST(batch_prompt_and_edge_counts_are_taken_up_to_their_limits),
        TEST(counts_outside_their_limits_are_refused_by_name),
        TEST(a_mask_value_must_be_finite),
        TEST(integrated_gradients_take_1_to_1000_samples),
        TEST(a_seed_of_64_bits_arrives_whole),
        TEST(eap_ig_takes_5_steps_unless_told_and_resample_unless_activations),
        TEST(acdc_takes_kl_unless_told_and_its_taus_as_they_are),
        TEST(trainings_have_autocircuits_defaults),
        TEST(circuit_probing_starts_from_the_other_end),
        TEST(numbers_of_a_training_below_zero_are_refused_by_name),
        TEST(edge_names_become_indices_one_for_each_position),
        TEST(edge_names_that_name_no_edge_are_refused),
        TEST(more_edges_than_the_arena_takes_are_refused),
        TEST(the_provenance_names_the_options_that_the_algorithm_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
