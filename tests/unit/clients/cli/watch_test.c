/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/watch.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

static const abl_column columns[] = {
    {"id", false, true}, {"state", false, false}, {"time", true, false}};
static const abl_watch watch = {.columns = columns, .column_count = 3, .restless = 1U << 2};

/* Three cells a row, up to NULL. */
static abl_table *table_of(const char *const *cells) {
    abl_table *table = abl_table_create(columns, ABL_COUNT_OF(columns));
    assert_non_null(table);
    for (; *cells != NULL; cells++) {
        abl_table_add(table, "%s", *cells);
    }
    return table;
}

static void assert_changes(const char *const *before, const char *const *now, int width,
                           const char *expected) {
    abl_table *was = before == NULL ? NULL : table_of(before);
    abl_table *is = table_of(now);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    const abl_term term = {.width = width};
    size_t count = abl_watch_changes(&watch, was, is, out, &term, "12:00:00");
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, expected);
    size_t lines = 0;
    for (const char *at = text; *at != '\0'; at++) {
        lines += *at == '\n';
    }
    assert_int_equal(count, lines);
    free(text);
    abl_table_destroy(was);
    abl_table_destroy(is);
}

#define ROWS(...)                                                                                  \
    (const char *const[]) {                                                                        \
        __VA_ARGS__, NULL                                                                          \
    }

static void all_rows_are_new_at_first(void **state) {
    (void)state;
    assert_changes(NULL, ROWS("a", "queued", "0 s", "b", "", "1 s"), 0,
                   "12:00:00  a  queued  0 s\n12:00:00  b  1 s\n");
}

static void only_rows_that_changed_get_a_line(void **state) {
    (void)state;
    assert_changes(ROWS("a", "queued", "0 s", "b", "done", "1 s"),
                   ROWS("c", "queued", "0 s", "a", "running", "1 s", "b", "done", "1 s"), 0,
                   "12:00:00  c  queued  0 s\n12:00:00  a  running  1 s\n");
}

static void time_that_passes_is_no_change(void **state) {
    (void)state;
    assert_changes(ROWS("a", "running", "1 s"), ROWS("a", "running", "2 s"), 0, "");
}

static void a_row_that_goes_is_told(void **state) {
    (void)state;
    assert_changes(ROWS("a", "running", "1 s", "b", "done", "1 s"), ROWS("b", "done", "1 s"), 0,
                   "12:00:00  a  gone\n");
}

static void lines_keep_the_width(void **state) {
    (void)state;
    assert_changes(NULL, ROWS("\u4f60\u597d\u4f60\u597d", "queued", "0 s"), 16,
                   "12:00:00  \u4f60\u597d..\n");
}

int main(void) {
    abl_text_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_rows_are_new_at_first),
        cmocka_unit_test(only_rows_that_changed_get_a_line),
        cmocka_unit_test(time_that_passes_is_no_change),
        cmocka_unit_test(a_row_that_goes_is_told),
        cmocka_unit_test(lines_keep_the_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
