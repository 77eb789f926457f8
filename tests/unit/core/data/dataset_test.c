// SPDX-License-Identifier: Apache-2.0
/* The tokenizer here is a stand-in with one token a byte (id: the byte's value; BOS: 300), so that
 * the tests say what they mean; the golden tests use the real one. */
#include "tests/unit/unit.h"

#include "core/base/compiler.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/data/dataset.h"
#include "core/tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

struct abl_tokenizer {
    int unused;
};

static const abl_tokenizer TOKENIZER = {0};

abl_code abl_tokenizer_encode(const abl_tokenizer *tokenizer, const char *text, size_t text_bytes,
                              int32_t **ret_ids, size_t *ret_count, abl_status *ret_status) {
    (void)tokenizer;
    int32_t *ids = abl_calloc(text_bytes + 1, sizeof *ids);
    if (ids == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < text_bytes; i++) {
        ids[i] = (unsigned char)text[i];
    }
    *ret_ids = ids;
    *ret_count = text_bytes;
    return ABL_CODE_OK;
}

int32_t abl_tokenizer_bos_id(const abl_tokenizer *tokenizer) {
    (void)tokenizer;
    return 300;
}

static abl_code create(const char *json, abl_bos_policy bos, abl_dataset **ret_dataset,
                       abl_status *ret_status) {
    abl_dataset_options options = {.tokenizer = &TOKENIZER, .bos = bos, .vocab_size = 400};
    return abl_dataset_create_json(json, strlen(json), &options, ret_dataset, ret_status);
}

static const char GOOD[] =
    "{\"seq_labels\": [\"x\", \"y\", \"z\"], \"word_idxs\": {\"IO\": 1, \"end\": 2}, \"note\": 7,"
    " \"prompts\": ["
    "{\"clean\": \"abc\", \"corrupt\": \"abd\", \"answers\": [\"x\"], \"wrong_answers\": []},"
    "{\"clean\": \"efg\", \"corrupt\": \"xyz\", \"answers\": [\"p\", \"q\"],"
    " \"wrong_answers\": [\"r\"]},"
    "{\"clean\": [5, 6, 7], \"corrupt\": \"xyz\", \"answers\": [8], \"wrong_answers\": [\"s\"]}]}";

static void prompts_are_tokenized_in_file_order(void **state) {
    (void)state;
    abl_dataset *dataset = NULL;
    abl_status status = {0};
    assert_int_equal(create(GOOD, ABL_BOS_NEVER, &dataset, &status), ABL_CODE_OK);
    assert_int_equal(abl_dataset_prompt_count(dataset), 3);
    assert_int_equal(abl_dataset_seq_len(dataset), 3);
    assert_false(abl_dataset_has_bos(dataset));
    abl_batches batches = {.dataset = dataset, .first = 1, .count = 2, .batch_size = 2};
    assert_int_equal(abl_batches_check(&batches, &status), ABL_CODE_OK);
    abl_batch batch = abl_batches_at(&batches, 0);
    const int32_t clean[] = {'e', 'f', 'g', 5, 6, 7};
    assert_int_equal(batch.size, 2);
    assert_memory_equal(batch.clean, clean, sizeof clean);
    assert_int_equal(batch.answer_offsets[1] - batch.answer_offsets[0], 2);
    assert_int_equal(batch.answers[batch.answer_offsets[0]], 'p');
    assert_int_equal(batch.answers[batch.answer_offsets[1]], 8);
    assert_int_equal(batch.wrong_answers[batch.wrong_answer_offsets[1]], 's');
    batches = (abl_batches){.dataset = dataset, .count = 3, .batch_size = 3};
    batch = abl_batches_at(&batches, 0);
    assert_int_equal(batch.wrong_answer_offsets[0], batch.wrong_answer_offsets[1]);
    assert_int_equal(abl_dataset_shared_prefix(dataset, 0, 1), 2);
    assert_int_equal(abl_dataset_shared_prefix(dataset, 0, 3), 0);
    abl_dataset_destroy(dataset);
}

static void a_bos_moves_labels_and_words_by_one(void **state) {
    (void)state;
    const char json[] = "{\"seq_labels\": [\"x\", \"y\"], \"word_idxs\": {\"IO\": 1},"
                        " \"prompts\": [{\"clean\": \"ab\", \"corrupt\": \"ac\","
                        " \"answers\": [\"x\"], \"wrong_answers\": [\"y\"]}]}";
    abl_dataset *dataset = NULL;
    abl_status status = {0};
    assert_int_equal(create(json, ABL_BOS_PREPEND, &dataset, &status), ABL_CODE_OK);
    assert_true(abl_dataset_has_bos(dataset));
    assert_int_equal(abl_dataset_seq_len(dataset), 3);
    abl_batches batches = {.dataset = dataset, .count = 1, .batch_size = 1};
    assert_int_equal(abl_batches_at(&batches, 0).clean[0], 300);
    assert_int_equal(abl_batches_at(&batches, 0).corrupt[2], 'c');
    assert_int_equal(abl_dataset_seq_label_count(dataset), 3);
    assert_string_equal(abl_dataset_seq_label(dataset, 0), "<|BOS|>");
    assert_string_equal(abl_dataset_seq_label(dataset, 2), "y");
    int32_t position = 0;
    assert_string_equal(abl_dataset_word(dataset, 0, &position), "IO");
    assert_int_equal(position, 2);
    abl_dataset_destroy(dataset);
}

static void what_is_wrong_is_said_with_prompt_and_field(void **state) {
    (void)state;
#define PROMPT(clean, corrupt, answers, wrong)                                                     \
    "{\"clean\": " clean ", \"corrupt\": " corrupt ", \"answers\": " answers                       \
    ", \"wrong_answers\": " wrong "}"
#define FINE PROMPT("\"abc\"", "\"abd\"", "[\"x\"]", "[\"y\"]")
    static const struct {
        const char *json;
        const char *reason;
        const char *says;
    } CASES[] = {
        {"{\"prompts\": [", "DATASET_NOT_JSON", "line 1"},
        {"", "DATASET_NOT_JSON", "line"},
        {"\xff\xfe", "DATASET_NOT_JSON", "line"},
        {"[]", "DATASET_NOT_JSON|DATASET_KEY_MISSING", ""},
        {"{}", "DATASET_KEY_MISSING", "'prompts'"},
        {"{\"prompts\": {}}", "DATASET_FIELD_INVALID", "not a list"},
        {"{\"prompts\": []}", "DATASET_EMPTY", "at least one"},
        {"{\"prompts\": [3]}", "DATASET_FIELD_INVALID", "prompts[0]"},
        {"{\"prompts\": [" FINE ", {\"clean\": \"abc\"}]}", "DATASET_KEY_MISSING",
         "prompts[1] has no 'corrupt'"},
        {"{\"prompts\": [" FINE ", " PROMPT("\"ab\"", "\"abd\"", "[\"x\"]", "[\"y\"]") "]}",
         "PROMPT_LENGTHS_DIFFER", "prompts[1].clean has 2 tokens"},
        {"{\"prompts\": [" PROMPT("\"abc\"", "\"abcd\"", "[\"x\"]", "[\"y\"]") "]}",
         "PROMPT_LENGTHS_DIFFER", "prompts[0].corrupt"},
        {"{\"prompts\": [" PROMPT("\"\"", "\"\"", "[\"x\"]", "[\"y\"]") "]}",
         "DATASET_FIELD_INVALID", "no tokens"},
        {"{\"prompts\": [" PROMPT("7", "\"\"", "[\"x\"]", "[\"y\"]") "]}", "DATASET_FIELD_INVALID",
         "prompts[0].clean"},
        {"{\"prompts\": [" PROMPT("\"abc\"", "\"abd\"", "[\"xy\"]", "[\"y\"]") "]}",
         "ANSWER_NOT_ONE_TOKEN", "prompts[0].answers: 'xy' is 2 tokens"},
        {"{\"prompts\": [" PROMPT("\"abc\"", "\"abd\"", "[\"x\"]", "[\"\"]") "]}",
         "ANSWER_NOT_ONE_TOKEN", "prompts[0].wrong_answers"},
        {"{\"prompts\": [" PROMPT("\"abc\"", "\"abd\"", "[]", "[\"y\"]") "]}",
         "DATASET_FIELD_INVALID", "prompts[0].answers is empty"},
        {"{\"prompts\": [" PROMPT("\"abc\"", "\"abd\"", "\"x\"", "[\"y\"]") "]}",
         "DATASET_FIELD_INVALID", "not a list"},
        {"{\"prompts\": [" PROMPT("[1, 2, 400]", "\"abd\"", "[\"x\"]", "[\"y\"]") "]}",
         "TOKEN_OUT_OF_RANGE", "prompts[0].clean has token id 400"},
        {"{\"prompts\": [" PROMPT("[1, -2]", "\"abd\"", "[\"x\"]", "[\"y\"]") "]}",
         "TOKEN_OUT_OF_RANGE", "-2"},
        {"{\"prompts\": [" PROMPT("[1, \"a\"]", "\"abd\"", "[\"x\"]", "[\"y\"]") "]}",
         "DATASET_FIELD_INVALID", "mixes"},
        {"{\"prompts\": [" FINE "], \"seq_labels\": [\"a\"]}", "DATASET_FIELD_INVALID",
         "seq_labels must be a list of 3"},
        {"{\"prompts\": [" FINE "], \"word_idxs\": {\"a\": 3}}", "DATASET_FIELD_INVALID",
         "word_idxs['a']"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(CASES); i++) {
        abl_dataset *dataset = NULL;
        abl_status status = {0};
        abl_code code = create(CASES[i].json, ABL_BOS_NEVER, &dataset, &status);
        assert_int_not_equal(code, ABL_CODE_OK);
        assert_null(dataset);
        if (strstr(CASES[i].reason, status.reason) == NULL ||
            strstr(status.message, CASES[i].says) == NULL) {
            fail_msg("%s: %s: '%s' is not %s '%s'", CASES[i].json, status.reason, status.message,
                     CASES[i].reason, CASES[i].says);
        }
    }
}

static void the_limits_hold(void **state) {
    (void)state;
    abl_dataset_options options = {.tokenizer = &TOKENIZER, .seq_len_max = 2};
    abl_dataset *dataset = NULL;
    abl_status status = {0};
    assert_int_equal(abl_dataset_create_json(GOOD, strlen(GOOD), &options, &dataset, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "PROMPT_TOO_LONG");
    assert_int_equal(
        abl_dataset_create_json(GOOD, ABL_DATASET_BYTES_MAX + 1, &options, &dataset, &status),
        ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "DATASET_TOO_BIG");
    options.tokenizer = NULL;
    assert_int_equal(abl_dataset_create_json(GOOD, strlen(GOOD), &options, &dataset, &status),
                     ABL_CODE_FAILED_PRECONDITION);
    assert_string_equal(status.reason, "TOKENIZER_MISSING");
}

static void the_same_prompts_hash_the_same_however_they_came_in(void **state) {
    (void)state;
    abl_dataset *text = NULL;
    abl_dataset *ids = NULL;
    abl_dataset *other = NULL;
    assert_int_equal(create(GOOD, ABL_BOS_NEVER, &text, NULL), ABL_CODE_OK);
    const int32_t clean[] = {'a', 'b', 'c', 'e', 'f', 'g', 5, 6, 7};
    const int32_t corrupt[] = {'a', 'b', 'd', 'x', 'y', 'z', 'x', 'y', 'z'};
    const int32_t answers[] = {'x', 'p', 'q', 8};
    const int32_t answer_offsets[] = {0, 1, 3, 4};
    int32_t wrong[] = {'r', 's'};
    const int32_t wrong_offsets[] = {0, 0, 1, 2};
    abl_dataset_tokens tokens = {.clean = clean,
                                 .corrupt = corrupt,
                                 .prompt_count = 3,
                                 .seq_len = 3,
                                 .answers = answers,
                                 .answer_offsets = answer_offsets,
                                 .wrong_answers = wrong,
                                 .wrong_answer_offsets = wrong_offsets,
                                 .vocab_size = 400};
    assert_int_equal(abl_dataset_create_tokens(&tokens, &ids, NULL), ABL_CODE_OK);
    assert_int_equal(strlen(abl_dataset_hash(ids)), 64);
    assert_string_equal(abl_dataset_hash(ids), abl_dataset_hash(text));
    wrong[1] = 't';
    assert_int_equal(abl_dataset_create_tokens(&tokens, &other, NULL), ABL_CODE_OK);
    assert_string_not_equal(abl_dataset_hash(ids), abl_dataset_hash(other));
    abl_dataset_destroy(text);
    abl_dataset_destroy(ids);
    abl_dataset_destroy(other);
    tokens.vocab_size = 100;
    abl_status status = {0};
    assert_int_equal(abl_dataset_create_tokens(&tokens, &other, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "TOKEN_OUT_OF_RANGE");
}

static void batches_cut_a_range_as_autocircuits_loaders_do(void **state) {
    (void)state;
    int32_t clean[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    abl_dataset_tokens tokens = {.clean = clean, .prompt_count = 10, .seq_len = 1};
    abl_dataset *dataset = NULL;
    abl_status status = {0};
    assert_int_equal(abl_dataset_create_tokens(&tokens, &dataset, NULL), ABL_CODE_OK);
    abl_batches batches = {.dataset = dataset, .first = 2, .count = 7, .batch_size = 3};
    assert_int_equal(abl_batches_check(&batches, &status), ABL_CODE_OK);
    assert_int_equal(abl_batches_count(&batches), 3);
    abl_batch last = abl_batches_at(&batches, 2);
    assert_int_equal(last.size, 1);
    assert_int_equal(last.first, 8);
    assert_int_equal(last.clean[0], 8);
    batches.drop_last = true;
    assert_int_equal(abl_batches_count(&batches), 2);
    abl_batches bad[] = {batches, batches, batches, batches, batches};
    bad[0].batch_size = 0;
    bad[1].batch_size = ABL_BATCH_MAX + 1;
    bad[2].first = 4;
    bad[3].count = 0;
    bad[4].batch_size = 8;
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        assert_int_equal(abl_batches_check(&bad[i], &status), ABL_CODE_INVALID_ARGUMENT);
    }
    abl_dataset_destroy(dataset);
}

static void a_failed_allocation_is_a_clean_failure(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        abl_dataset *dataset = NULL;
        abl_status status = {0};
        abl_mem_fail_after(n);
        abl_code code = create(GOOD, ABL_BOS_PREPEND, &dataset, &status);
        abl_mem_fail_after(0);
        if (code != ABL_CODE_RESOURCE_EXHAUSTED) {
            abl_dataset_destroy(dataset);
            assert_true(n > 1);
            return;
        }
        assert_null(dataset);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_tokenized_in_file_order),
        cmocka_unit_test(a_bos_moves_labels_and_words_by_one),
        cmocka_unit_test(what_is_wrong_is_said_with_prompt_and_field),
        cmocka_unit_test(the_limits_hold),
        cmocka_unit_test(the_same_prompts_hash_the_same_however_they_came_in),
        cmocka_unit_test(batches_cut_a_range_as_autocircuits_loaders_do),
        cmocka_unit_test(a_failed_allocation_is_a_clean_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
