/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/options.h"
#include "core/base/compiler.h"
#include "tests/unit/unit.h"

#include <string.h>

static abl_args args;
static char problem[512];

static bool parse(abl_option_set takes, char **words) {
    int count = 0;
    while (words[count] != NULL) {
        count++;
    }
    return abl_args_parse(&args, takes, count, words, problem, sizeof problem);
}

#define WORDS(...)                                                                                 \
    (char *[]) {                                                                                   \
        (char[]){"ablate"}, __VA_ARGS__, NULL                                                      \
    }
#define W(text)                                                                                    \
    (char[]) {                                                                                     \
        text                                                                                       \
    }

static void options_and_operands_may_mix(void **state) {
    (void)state;
    char **words =
        WORDS(W("--top"), W("5"), W("the text"), W("-j"), W("--model=m"), W("--"), W("--top"));
    assert_true(parse(ABL_TAKES_GLOBAL | ABL_TAKES(TOP) | ABL_TAKES(MODEL), words));
    assert_int_equal(args.count[ABL_OPTION_TOP], 5);
    assert_true(args.given[ABL_OPTION_JSON]);
    assert_string_equal(args.text[ABL_OPTION_MODEL], "m");
    assert_int_equal(args.operand_count, 2);
    assert_string_equal(args.operands[0], "the text");
    assert_string_equal(args.operands[1], "--top");
}

static void a_choice_is_its_place_in_the_list(void **state) {
    (void)state;
    assert_true(parse(ABL_TAKES(ALGORITHM), WORDS(W("--algorithm"), W("ground-truth"))));
    assert_int_equal(args.count[ABL_OPTION_ALGORITHM], 3);
    assert_false(parse(ABL_TAKES(ALGORITHM), WORDS(W("--algorithm"), W("ground"))));
    assert_non_null(strstr(problem, "eap|mask-gradient|ground-truth|random"));
}

static void faults_name_the_option(void **state) {
    (void)state;
    assert_false(parse(ABL_TAKES(TOP), WORDS(W("--top"), W("5x"))));
    assert_non_null(strstr(problem, "--top takes a whole number from 0 to 1000"));
    assert_false(parse(ABL_TAKES(TOP), WORDS(W("--top"), W("-3"))));
    assert_false(parse(ABL_TAKES(TOP), WORDS(W("--top"), W("99999999999999999999"))));
    assert_false(parse(ABL_TAKES(TIMEOUT), WORDS(W("--timeout"), W("nan"))));
    assert_false(parse(ABL_TAKES(TOP), WORDS(W("--top"))));
    assert_non_null(strstr(problem, "'--top' needs a value"));
    assert_false(parse(ABL_TAKES(TOP), WORDS(W("--nonsense"))));
    assert_non_null(strstr(problem, "no option '--nonsense'"));
    assert_false(parse(ABL_TAKES(TOP), WORDS(W("--model"), W("m"))));
}

static void leading_options_are_counted_with_their_values(void **state) {
    (void)state;
    char **words = WORDS(W("--host"), W("h:1"), W("-j"), W("status"), W("--timeout"), W("3"));
    assert_int_equal(abl_args_leading(ABL_TAKES_GLOBAL, 7, words), 3);
    assert_int_equal(abl_args_leading(ABL_TAKES_GLOBAL, 2, WORDS(W("status"))), 0);
}

static void lists_are_split_at_commas(void **state) {
    (void)state;
    const char *list = "1,20,,x";
    char item[8];
    const char *const expected[] = {"1", "20", "", "x"};
    for (size_t i = 0; i < ABL_COUNT_OF(expected); i++) {
        assert_true(abl_list_next(&list, item, sizeof item));
        assert_string_equal(item, expected[i]);
    }
    assert_false(abl_list_next(&list, item, sizeof item));
    list = NULL;
    assert_false(abl_list_next(&list, item, sizeof item));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_operands_may_mix),
        cmocka_unit_test(a_choice_is_its_place_in_the_list),
        cmocka_unit_test(faults_name_the_option),
        cmocka_unit_test(leading_options_are_counted_with_their_values),
        cmocka_unit_test(lists_are_split_at_commas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
