/* SPDX-License-Identifier: Apache-2.0
 *
 * What a prefix refuses, and that nothing can be seen of it: whatever is computed behind it is what
 * whole prompts give at the same positions. (AutoCircuit's numbers: tests/golden/kv_golden.c.) */
#include "core/model/prefix.h"

#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/model/forward.h"
#include "core/prune/prune.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

enum { BATCH = 3, SEQ = 9, CUT = 5, TAIL = SEQ - CUT };
static const int32_t clean[BATCH * SEQ] = {
    0, 5, 17, 5, 39, 7, 12, 30, 3, 0, 5, 17, 5, 39, 12, 42, 6, 30, 0, 5, 17, 5, 39, 8, 13, 21, 34,
};
static const int32_t corrupt[BATCH * SEQ] = {
    0, 5, 17, 5, 39, 23, 12, 31, 3, 0, 5, 17, 5, 39, 12, 43, 6, 29, 0, 5, 17, 5, 39, 41, 13, 22, 34,
};

/* tiny-rand is a GPT-2; tiny-llama has rotary positions, RMS norms and grouped queries. */
static abl_model *load_named(const char *name, abl_model_processing processing) {
    const char *paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models",
                           ABLATE_SOURCE_DIR "/tests/golden/data/hooks"};
    const abl_model_roots roots = {.paths = paths, .count = ABL_COUNT_OF(paths)};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32, .processing = processing};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&roots, name, &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    abl_model_dir_destroy(dir);
    return model;
}

static abl_model *load(abl_model_processing processing) {
    return load_named("tiny-rand", processing);
}

static abl_prefix *prefix_of(const abl_model *model, int64_t length) {
    abl_prefix *prefix = NULL;
    abl_status status = {.message = ""};
    if (abl_prefix_create(model, clean, length, &prefix, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    return prefix;
}

static abl_dataset *whole_prompts(void) {
    static const int32_t answers[] = {1, 2, 3};
    static const int32_t wrong[] = {4, 5, 6};
    static const int32_t offsets[] = {0, 1, 2, 3};
    const abl_dataset_tokens tokens = {.clean = clean,
                                       .corrupt = corrupt,
                                       .prompt_count = BATCH,
                                       .seq_len = SEQ,
                                       .answers = answers,
                                       .answer_offsets = offsets,
                                       .wrong_answers = wrong,
                                       .wrong_answer_offsets = offsets};
    abl_dataset *dataset = NULL;
    assert_int_equal(abl_dataset_create_tokens(&tokens, &dataset, NULL), ABL_CODE_OK);
    return dataset;
}

/* ---- Refusals ---------------------------------------------------------------------------- */

static void a_prefix_must_leave_room_in_the_context(void **state) {
    (void)state;
    abl_model *model = load(abl_model_processing_hf());
    int32_t many[64] = {0};
    abl_prefix *prefix = NULL;
    abl_status status;
    assert_int_equal(abl_prefix_create(model, many, 0, &prefix, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "SEQ_INVALID");
    assert_int_equal(abl_prefix_create(model, many, 64, &prefix, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    many[3] = 1000;
    assert_int_equal(abl_prefix_create(model, many, 8, &prefix, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "TOKEN_OUT_OF_RANGE");
    assert_null(prefix);
    many[3] = 0;
    assert_int_equal(abl_prefix_create(model, many, 63, &prefix, &status), ABL_CODE_OK);
    assert_int_equal(abl_prefix_check(prefix, model, 1, &status), ABL_CODE_OK);
    assert_int_equal(abl_prefix_check(prefix, model, 2, &status), ABL_CODE_INVALID_ARGUMENT);
    assert_non_null(strstr(status.message, "63 tokens and a tail of 2"));
    abl_prefix_destroy(prefix);
    abl_model_unref(model);
}

static void another_variant_of_the_model_is_refused(void **state) {
    (void)state;
    abl_model *raw = load(abl_model_processing_hf());
    abl_model *processed = load(abl_model_processing_tl());
    abl_prefix *prefix = prefix_of(raw, CUT);
    abl_status status;
    assert_int_equal(abl_prefix_check(prefix, processed, TAIL, &status),
                     ABL_CODE_FAILED_PRECONDITION);
    assert_string_equal(status.reason, "PREFIX_MODEL_MISMATCH");
    const abl_forward_options options = {.model = processed,
                                         .prefix = prefix,
                                         .tokens = clean,
                                         .batch = 1,
                                         .seq = TAIL,
                                         .stop_at_layer = -1};
    abl_forward_result result;
    assert_int_equal(abl_forward(&options, &result, &status), ABL_CODE_FAILED_PRECONDITION);
    abl_prefix_destroy(prefix);
    abl_model_unref(processed);
    abl_model_unref(raw);
}

static void a_prompt_that_differs_is_named_with_its_position(void **state) {
    (void)state;
    abl_model *model = load(abl_model_processing_hf());
    abl_prefix *prefix = prefix_of(model, CUT);
    int32_t tokens[BATCH * SEQ];
    memcpy(tokens, clean, sizeof tokens);
    abl_status status;
    assert_int_equal(abl_prefix_check_prompts(prefix, "prompts", tokens, BATCH, SEQ, &status),
                     ABL_CODE_OK);
    tokens[SEQ + 2] = 18;
    assert_int_equal(abl_prefix_check_prompts(prefix, "prompts", tokens, BATCH, SEQ, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "PREFIX_NOT_SHARED");
    assert_non_null(strstr(status.message, "prompts: prompt 1 has token 18 at position 2"));
    assert_int_equal(abl_prefix_check_prompts(prefix, "prompts", clean, 1, CUT, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "TAIL_EMPTY");
    abl_prefix_destroy(prefix);
    abl_model_unref(model);
}

static void every_failing_allocation_of_a_prefix_is_reported(void **state) {
    (void)state;
    abl_model *model = load(abl_model_processing_hf());
    for (uint64_t n = 1;; n++) {
        abl_prefix *prefix = NULL;
        abl_mem_fail_after(n);
        abl_code code = abl_prefix_create(model, clean, CUT, &prefix, NULL);
        abl_mem_fail_after(0);
        abl_prefix_destroy(prefix);
        if (code == ABL_CODE_OK) {
            assert_true(n > 20);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
    abl_model_unref(model);
}

/* ---- Laws -------------------------------------------------------------------------------- */

/* The largest difference of `behind` and the positions of `whole` from `from` on, along `dim`. */
static double gap_of(const abl_tensor *whole, const abl_tensor *behind, int dim, int64_t from) {
    abl_scope *scope = abl_scope_create(abl_tensor_device(whole));
    abl_tensor *part = abl_tensor_slice(scope, whole, dim, from, abl_tensor_size(whole, dim));
    abl_tensor *gap = abl_tensor_abs(scope, abl_tensor_sub(scope, part, behind));
    gap = abl_tensor_reshape(scope, gap, 1, (const int64_t[]){-1});
    double value = abl_tensor_item(scope, abl_tensor_max(scope, gap, 0));
    abl_scope_destroy(scope);
    return value;
}

static abl_forward_result forward(const abl_forward_options *options) {
    abl_forward_result result;
    abl_status status = {.message = ""};
    if (abl_forward(options, &result, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    return result;
}

static void the_end_of_the_whole_pass(const char *model_name) {
    abl_model *model = load_named(model_name, abl_model_processing_hf());
    static const char *const hooks[] = {"hook_embed", "blocks.1.attn.hook_k",
                                        "blocks.1.attn.hook_z", "blocks.1.hook_resid_post",
                                        "blocks.1.attn.hook_pattern"};
    abl_forward_options options = {.model = model,
                                   .tokens = clean,
                                   .batch = BATCH,
                                   .seq = SEQ,
                                   .hooks = hooks,
                                   .hook_count = ABL_COUNT_OF(hooks),
                                   .out_slice = ABL_OUT_SLICE_ALL,
                                   .stop_at_layer = -1};
    abl_forward_result whole = forward(&options);
    int32_t tails[BATCH * TAIL];
    for (int i = 0; i < BATCH; i++) {
        memcpy(tails + (ptrdiff_t)i * TAIL, clean + (ptrdiff_t)i * SEQ + CUT, TAIL * sizeof *tails);
    }
    abl_prefix *prefix = prefix_of(model, CUT);
    options.prefix = prefix;
    options.tokens = tails;
    options.seq = TAIL;
    abl_forward_result behind = forward(&options);
    assert_true(gap_of(whole.logits, behind.logits, 1, CUT) < 1e-5);
    for (size_t i = 0; i < whole.entry_count; i++) {
        bool pattern = whole.entries[i].hook.point == ABL_HOOK_PATTERN;
        assert_true(gap_of(whole.entries[i].tensor, behind.entries[i].tensor, pattern ? 2 : 1,
                           CUT) < 1e-4); /* of values to 20 */
    }
    abl_forward_result_finish(&whole);
    abl_forward_result_finish(&behind);
    abl_prefix_destroy(prefix);
    abl_model_unref(model);
}

static void run_prune(const abl_prune_options *options, float *ret_scores) {
    abl_prune *prune = NULL;
    abl_status status = {.message = ""};
    abl_prune_progress progress = {0};
    if (abl_prune_create(options, &prune, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    while (!progress.finished) {
        assert_int_equal(abl_prune_step(prune, &progress, &status), ABL_CODE_OK);
    }
    memcpy(ret_scores, abl_prune_scores(prune),
           (size_t)abl_graph_edge_count(options->graph) * sizeof(float));
    abl_prune_destroy(prune);
}

static void a_pass_behind_a_prefix_is_the_end_of_the_whole_pass(void **state) {
    (void)state;
    the_end_of_the_whole_pass("tiny-rand");
    the_end_of_the_whole_pass("tiny-llama");
}

typedef enum shape_kind { SEPARATE, JOINED, EXPANDED, SIMPLE, SHAPE_COUNT } shape_kind;

static const double taus[] = {1e-3, 0.1};

/* Scores of every algorithm on whole prompts and on tails, whose first CUT - length tokens are
 * still shared: differences in the prefix are zero, so nothing may change. */
static void scores_do_not_change(const char *model_name, shape_kind kind,
                                 abl_prune_algorithm algorithm, int32_t length) {
    abl_model *model = load_named(model_name, abl_model_processing_tl());
    const abl_model_config *c = abl_model_get_config(model);
    const abl_graph_options shape = {.layer_count = c->n_layers,
                                     .head_count = c->n_heads,
                                     .kv_head_count = c->n_kv_heads,
                                     .joined_qkv = kind == JOINED,
                                     .gqa = kind == EXPANDED ? ABL_GQA_EXPANDED : ABL_GQA_NATIVE,
                                     .simple = kind == SIMPLE};
    abl_graph *graph = NULL;
    assert_int_equal(abl_graph_create(&shape, &graph, NULL), ABL_CODE_OK);
    size_t count = (size_t)abl_graph_edge_count(graph);
    float *whole = abl_calloc(count, sizeof *whole);
    float *behind = abl_calloc(count, sizeof *behind);
    abl_dataset *dataset = whole_prompts();
    abl_dataset *tail = NULL;
    abl_prune_options options = {.algorithm = algorithm,
                                 .model = model,
                                 .graph = graph,
                                 .mask_value = 0.5F,
                                 .acdc = {.taus = taus, .tau_count = ABL_COUNT_OF(taus)},
                                 .eap_ig = {.steps = 3},
                                 .batches = {.dataset = dataset, .count = BATCH, .batch_size = 2}};
    run_prune(&options, whole);
    assert_int_equal(abl_dataset_create_tail(dataset, length, &tail, NULL), ABL_CODE_OK);
    abl_prefix *prefix = prefix_of(model, length);
    options.batches.dataset = tail;
    options.batches.prefix = prefix;
    run_prune(&options, behind);
    double largest = 0;
    double gap = 0;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(whole[i]) || whole[i] != behind[i]) { /* ACDC's are infinite where kept */
            largest = fmax(largest, fabs((double)whole[i]));
            gap = fmax(gap, fabs((double)whole[i] - (double)behind[i]));
        }
    }
    assert_true(largest > 5e-4);
    assert_true(gap <= 2e-5 * largest);
    abl_prefix_destroy(prefix);
    abl_dataset_destroy(tail);
    abl_dataset_destroy(dataset);
    abl_free(whole);
    abl_free(behind);
    abl_graph_destroy(graph);
    abl_model_unref(model);
}

static void scores_behind_a_prefix_are_those_of_whole_prompts(void **state) {
    (void)state;
    static const abl_prune_algorithm algorithms[] = {ABL_PRUNE_EAP, ABL_PRUNE_MASK_GRADIENT,
                                                     ABL_PRUNE_GROUND_TRUTH, ABL_PRUNE_EAP_IG,
                                                     ABL_PRUNE_ACDC};
    for (size_t i = 0; i < ABL_COUNT_OF(algorithms); i++) {
        for (int kind = 0; kind < SHAPE_COUNT; kind++) {
            if (kind == SIMPLE && algorithms[i] == ABL_PRUNE_EAP_IG) {
                continue; /* is not defined there */
            }
            scores_do_not_change("tiny-rand", (shape_kind)kind, algorithms[i], CUT);
            scores_do_not_change("tiny-rand", (shape_kind)kind, algorithms[i], CUT - 2);
            scores_do_not_change("tiny-llama", (shape_kind)kind, algorithms[i], CUT - 1);
        }
    }
}

/* The losses of the first steps; later ones differ where Adam makes whole steps of rounding. */
static void train(const abl_prune_options *options, float ret_losses[2]) {
    abl_prune *prune = NULL;
    abl_status status = {.message = ""};
    abl_prune_progress progress = {0};
    if (abl_prune_create(options, &prune, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    int64_t count = 0;
    while (count < 2) {
        assert_int_equal(abl_prune_step(prune, &progress, &status), ABL_CODE_OK);
        (void)abl_prune_curve(prune, &count);
    }
    const abl_training_point *points = abl_prune_curve(prune, &count);
    ret_losses[0] = points[0].loss;
    ret_losses[1] = points[1].loss;
    abl_prune_destroy(prune);
}

static void masks_are_trained_behind_a_prefix_as_on_whole_prompts(void **state) {
    (void)state;
    abl_model *model = load(abl_model_processing_tl());
    const abl_model_config *c = abl_model_get_config(model);
    const abl_graph_options shape = {
        .layer_count = c->n_layers, .head_count = c->n_heads, .kv_head_count = c->n_kv_heads};
    abl_graph *graph = NULL;
    assert_int_equal(abl_graph_create(&shape, &graph, NULL), ABL_CODE_OK);
    abl_dataset *dataset = whole_prompts();
    abl_dataset *tail = NULL;
    abl_prune_options options = {.algorithm = ABL_PRUNE_SUBNETWORK_PROBING,
                                 .model = model,
                                 .graph = graph,
                                 .batches = {.dataset = dataset, .count = BATCH, .batch_size = 2},
                                 .subnetwork_probing = {.learning_rate = 0.01F,
                                                        .epochs = 2,
                                                        .regularize_lambda = 1,
                                                        .mask_function = ABL_MASK_HARD_CONCRETE,
                                                        .init_value = ABL_MASK_INIT_DEFAULT,
                                                        .tree_optimisation = true}};
    float whole[2];
    float behind[2];
    train(&options, whole);
    assert_int_equal(abl_dataset_create_tail(dataset, CUT, &tail, NULL), ABL_CODE_OK);
    abl_prefix *prefix = prefix_of(model, CUT);
    options.batches.dataset = tail;
    options.batches.prefix = prefix;
    train(&options, behind);
    assert_true(fabsf(whole[0] - behind[0]) <= 1e-4F * fabsf(whole[0]));
    assert_true(fabsf(whole[1] - behind[1]) <= 1e-2F * fabsf(whole[1]));
    abl_prefix_destroy(prefix);
    abl_dataset_destroy(tail);
    abl_dataset_destroy(dataset);
    abl_graph_destroy(graph);
    abl_model_unref(model);
}

/* ---- Datasets ---------------------------------------------------------------------------- */

static void a_tail_keeps_answers_and_cuts_prompts(void **state) {
    (void)state;
    abl_dataset *dataset = whole_prompts();
    int32_t prompt = 7;
    assert_int_equal(abl_dataset_common_prefix(dataset, &prompt), CUT);
    assert_int_equal(prompt, 0); /* its corrupt prompt is the first that differs there */
    abl_dataset *tail = NULL;
    abl_status status;
    assert_int_equal(abl_dataset_create_tail(dataset, SEQ, &tail, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "TAIL_EMPTY");
    assert_int_equal(abl_dataset_create_tail(dataset, CUT, &tail, &status), ABL_CODE_OK);
    assert_int_equal(abl_dataset_seq_len(tail), TAIL);
    const abl_batches batches = {.dataset = tail, .count = BATCH, .batch_size = BATCH};
    abl_batch batch = abl_batches_at(&batches, 0);
    for (int i = 0; i < BATCH; i++) {
        assert_memory_equal(batch.clean + (ptrdiff_t)i * TAIL, clean + (ptrdiff_t)i * SEQ + CUT,
                            TAIL * sizeof *clean);
        assert_memory_equal(batch.corrupt + (ptrdiff_t)i * TAIL, corrupt + (ptrdiff_t)i * SEQ + CUT,
                            TAIL * sizeof *corrupt);
        assert_int_equal(batch.answers[batch.answer_offsets[i]], i + 1);
        assert_int_equal(batch.wrong_answers[batch.wrong_answer_offsets[i]], i + 4);
    }
    assert_string_not_equal(abl_dataset_hash(tail), abl_dataset_hash(dataset));
    abl_dataset_destroy(tail);
    abl_dataset_destroy(dataset);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prefix_must_leave_room_in_the_context),
        cmocka_unit_test(another_variant_of_the_model_is_refused),
        cmocka_unit_test(a_prompt_that_differs_is_named_with_its_position),
        cmocka_unit_test(every_failing_allocation_of_a_prefix_is_reported),
        cmocka_unit_test(a_pass_behind_a_prefix_is_the_end_of_the_whole_pass),
        cmocka_unit_test(scores_behind_a_prefix_are_those_of_whole_prompts),
        cmocka_unit_test(masks_are_trained_behind_a_prefix_as_on_whole_prompts),
        cmocka_unit_test(a_tail_keeps_answers_and_cuts_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
