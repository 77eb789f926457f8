/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/text.h"
#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

static const abl_term unicode_term = {.width = 10, .unicode = true};
static const abl_term ascii_term = {.width = 10};

static void widths_are_columns_not_bytes(void **state) {
    (void)state;
    assert_int_equal(abl_text_width(""), 0);
    assert_int_equal(abl_text_width("abc"), 3);
    assert_int_equal(abl_text_width("größe"), 5);
    assert_int_equal(abl_text_width("日本"), 4);
    assert_int_equal(abl_text_width("e\xCC\x81"), 1); /* e and a combining accent */
}

static void clipping_never_cuts_a_character(void **state) {
    (void)state;
    int width = -1;
    assert_int_equal(abl_text_clip("日本", 3, &width), 3);
    assert_int_equal(width, 2);
    assert_int_equal(abl_text_clip("é", 1, NULL), 2);
    assert_int_equal(abl_text_clip("abc", 0, NULL), 0);
}

static void check_printable(const char *text, const char *expected) {
    char *printable = abl_text_printable(text);
    assert_string_equal(printable, expected);
    abl_free(printable);
}

static void what_could_move_the_cursor_is_escaped(void **state) {
    (void)state;
    check_printable("a\nb\tc", "a\\nb\\tc");
    check_printable("\033[2J", "\\x1b[2J");
    check_printable("\xC2\x9B"
                    "2J",
                    "\xEF\xBF\xBD"
                    "2J"); /* the one-character CSI */
    check_printable("ok \xFF\xFE", "ok \xEF\xBF\xBD\xEF\xBF\xBD");
    check_printable(" größe", " größe");
    check_printable("\x7F", "\\x7f");
}

/* What a writer puts into a file, as a string; the caller frees it. */
static char *written(const abl_term *term, const char *text, int width, int *ret_width) {
    char *buffer = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&buffer, &size);
    assert_non_null(out);
    *ret_width = abl_text_write(out, term, text, width);
    assert_int_equal(fclose(out), 0);
    return buffer;
}

static void check_write(const abl_term *term, const char *text, int width, const char *expected) {
    int columns = 0;
    char *buffer = written(term, text, width, &columns);
    assert_string_equal(buffer, expected);
    assert_int_equal(columns, abl_text_width(expected));
    free(buffer);
}

static void a_cut_is_marked_where_there_is_room(void **state) {
    (void)state;
    check_write(&unicode_term, "abcdef", 0, "abcdef");
    check_write(&unicode_term, "abcdef", 6, "abcdef");
    check_write(&unicode_term, "abcdef", 4, "abc…");
    check_write(&ascii_term, "abcdef", 4, "ab..");
    check_write(&ascii_term, "abcdef", 2, "ab");
    check_write(&unicode_term, "日本語", 4, "日…");
}

static void check_wrap(int width, int indent, const char *text, const char *expected) {
    abl_term term = {.width = width};
    char *buffer = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&buffer, &size);
    assert_non_null(out);
    abl_text_wrap(out, &term, indent, text);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(buffer, expected);
    free(buffer);
}

static void wrapped_lines_keep_to_the_width(void **state) {
    (void)state;
    check_wrap(0, 2, "one two three", "one two three\n");
    check_wrap(8, 2, "one two three", "one two\n  three\n");
    check_wrap(5, 0, "abcdefghij", "abcde\nfghij\n");
    check_wrap(20, 2, "one\ntwo", "one\n  two\n");
    check_wrap(1, 0, "日", "日\n"); /* wider than the terminal: shown all the same */
    check_wrap(10, 2, "", "\n");
}

static void check_bytes(int64_t bytes, const char *expected) {
    char buffer[24];
    abl_text_bytes(buffer, sizeof buffer, bytes);
    assert_string_equal(buffer, expected);
}

static void check_duration(double ms, const char *expected) {
    char buffer[24];
    abl_text_duration(buffer, sizeof buffer, ms);
    assert_string_equal(buffer, expected);
}

static void sizes_and_durations_are_for_people(void **state) {
    (void)state;
    check_bytes(0, "0 B");
    check_bytes(999, "999 B");
    check_bytes(1000, "1.0 kB");
    check_bytes(538060672, "538.1 MB");
    check_bytes(999960000, "1.0 GB");
    check_duration(0, "0.0s");
    check_duration(1234, "1.2s");
    check_duration(59600, "1m 00s");
    check_duration(65000, "1m 05s");
    check_duration(3660000, "1h 01m");
    check_duration(-1, "?");
}

static void columns_overrides_the_terminal(void **state) {
    (void)state;
    assert_int_equal(setenv("COLUMNS", "57", 1), 0);
    assert_int_equal(abl_term_of(stdout).width, 57);
    assert_int_equal(setenv("COLUMNS", "wide", 1), 0);
    FILE *file = tmpfile();
    assert_non_null(file);
    abl_term term = abl_term_of(file);
    assert_int_equal(term.width, 0);
    assert_false(term.tty);
    assert_false(term.color);
    (void)fclose(file);
    (void)unsetenv("COLUMNS");
}

int main(void) {
    abl_text_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_are_columns_not_bytes),
        cmocka_unit_test(clipping_never_cuts_a_character),
        cmocka_unit_test(what_could_move_the_cursor_is_escaped),
        cmocka_unit_test(a_cut_is_marked_where_there_is_room),
        cmocka_unit_test(wrapped_lines_keep_to_the_width),
        cmocka_unit_test(sizes_and_durations_are_for_people),
        cmocka_unit_test(columns_overrides_the_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
