/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/progress.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

static void the_bar_fills_in_eighths(void **state) {
    (void)state;
    char bar[64];
    abl_progress_bar(bar, sizeof bar, false, 4, 0.0);
    assert_string_equal(bar, "....");
    abl_progress_bar(bar, sizeof bar, false, 4, 0.5);
    assert_string_equal(bar, "##..");
    abl_progress_bar(bar, sizeof bar, false, 4, 7.0);
    assert_string_equal(bar, "####");
    abl_progress_bar(bar, sizeof bar, true, 2, 0.75);
    assert_string_equal(bar, "█▌");
    abl_progress_bar(bar, sizeof bar, true, 3, -1);
    assert_string_equal(bar, "   ");
}

/* What one call writes. */
static char *shown(bool tty, int width, bool silent, double fraction) {
    char *buffer = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&buffer, &size);
    assert_non_null(out);
    abl_progress progress = {.out = out, .term = {.width = width, .tty = tty}, .silent = silent};
    abl_progress_show(&progress, fraction, "eap job-1", "3/8  A9.9->A11.10.Q +0.28", false);
    abl_progress_show(&progress, fraction, "eap job-1", "3/8  A9.9->A11.10.Q +0.28", false);
    assert_int_equal(fclose(out), 0);
    return buffer;
}

static void a_terminal_gets_one_line_redrawn(void **state) {
    (void)state;
    for (int width = 2; width <= 100; width++) {
        char *text = shown(true, width, false, 0.375);
        char *second = strrchr(text, '\r');
        assert_ptr_equal(text[0] == '\r' ? text : NULL, text);
        assert_null(strchr(text, '\n'));
        char *end = strstr(second, "\033[K");
        assert_non_null(end);
        *end = '\0';
        assert_true(abl_text_width(second + 1) < width);
        free(text);
    }
}

static void a_log_gets_few_plain_lines(void **state) {
    (void)state;
    char *text = shown(false, 0, false, 0.375);
    assert_string_equal(text, "eap job-1  37%  3/8  A9.9->A11.10.Q +0.28\n");
    free(text);
}

static void silence_is_silent(void **state) {
    (void)state;
    char *text = shown(true, 80, true, 0.5);
    assert_string_equal(text, "");
    free(text);
}

int main(void) {
    abl_text_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bar_fills_in_eighths),
        cmocka_unit_test(a_terminal_gets_one_line_redrawn),
        cmocka_unit_test(a_log_gets_few_plain_lines),
        cmocka_unit_test(silence_is_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
