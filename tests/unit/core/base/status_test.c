/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/status.h"
#include "tests/unit/unit.h"

#include <string.h>

static void failing_fills_the_status_and_returns_the_code(void **state) {
    (void)state;
    abl_status status = {0};
    assert_int_equal(abl_fail(&status, ABL_CODE_NOT_FOUND, "MODEL_UNKNOWN", "no model '%s'", "x"),
                     ABL_CODE_NOT_FOUND);
    assert_int_equal(status.code, ABL_CODE_NOT_FOUND);
    assert_string_equal(status.reason, "MODEL_UNKNOWN");
    assert_string_equal(status.message, "no model 'x'");
    assert_string_equal(abl_code_name(status.code), "NOT_FOUND");
}

static void a_long_message_is_cut_and_terminated(void **state) {
    (void)state;
    abl_status status = {0};
    char text[2000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)abl_fail(&status, ABL_CODE_INTERNAL, "LONG", "%s", text);
    assert_int_equal(strlen(status.message), sizeof status.message - 1);
}

static void a_message_is_printable_utf8_whatever_it_quotes(void **state) {
    (void)state;
    abl_status status = {0};
    (void)abl_fail(&status, ABL_CODE_INTERNAL, "BYTES", "%s",
                   "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\n");
    assert_string_equal(status.message, "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\n");
    (void)abl_fail(&status, ABL_CODE_INTERNAL, "BYTES", "%s",
                   "a\x1b[0m \xff \xc0\x80 \xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x82");
    assert_string_equal(status.message, "a?[0m ? ?? ??? ???? ??");
    char text[2000];
    for (size_t i = 0; i + 2 < sizeof text; i += 2) {
        memcpy(text + i, "\xc3\xa9", 3);
    }
    (void)abl_fail(&status, ABL_CODE_INTERNAL, "LONG", "%s", text);
    assert_int_equal(status.message[sizeof status.message - 2], '?'); /* half of the last one */
}

static void a_caller_may_not_want_the_words(void **state) {
    (void)state;
    assert_int_equal(abl_fail_oom(NULL), ABL_CODE_RESOURCE_EXHAUSTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failing_fills_the_status_and_returns_the_code),
        cmocka_unit_test(a_long_message_is_cut_and_terminated),
        cmocka_unit_test(a_message_is_printable_utf8_whatever_it_quotes),
        cmocka_unit_test(a_caller_may_not_want_the_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
