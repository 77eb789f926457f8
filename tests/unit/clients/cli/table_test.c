/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/table.h"
#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

static const abl_column columns[] = {
    {"rank", true, false}, {"edge", false, true}, {"score", true, false}};

static abl_table *filled(void) {
    abl_table *table = abl_table_create(columns, 3);
    abl_table_add(table, "%d", 1);
    abl_table_add(table, "%s", "Resident Start->A11.10.Q");
    abl_table_add(table, "%+.2f", 0.25);
    abl_table_add(table, "%d", 12);
    abl_table_add(table, "%s", "日本語->MLP 3");
    abl_table_add(table, "%+.2f", -10.5);
    return table;
}

static char *printed(const abl_table *table, int width) {
    char *buffer = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&buffer, &size);
    assert_non_null(out);
    abl_term term = {.width = width, .unicode = true};
    assert_true(abl_table_print(table, out, &term));
    assert_int_equal(fclose(out), 0);
    return buffer;
}

static void columns_line_up(void **state) {
    (void)state;
    abl_table *table = filled();
    char *text = printed(table, 0);
    assert_string_equal(text, "rank  edge                       score\n"
                              "   1  Resident Start->A11.10.Q   +0.25\n"
                              "  12  日本語->MLP 3             -10.50\n");
    free(text);
    abl_table_destroy(table);
}

static void no_line_exceeds_any_width(void **state) {
    (void)state;
    abl_table *table = filled();
    for (int width = 1; width <= 60; width++) {
        char *text = printed(table, width);
        size_t lines = 0;
        for (char *line = text, *end = NULL; *line != '\0'; line = end + 1) {
            end = strchr(line, '\n');
            assert_non_null(end);
            *end = '\0';
            assert_true(abl_text_width(line) <= width);
            lines++;
        }
        assert_int_equal(lines, 3);
        free(text);
    }
    abl_table_destroy(table);
}

static void ids_are_whole_and_what_is_left_out_is_marked(void **state) {
    (void)state;
    static const abl_column of_jobs[] = {{"id", false, false},
                                         {"owner", false, true},
                                         {"done", true, false},
                                         {"submitted", false, false}};
    abl_table *table = abl_table_create(of_jobs, 4);
    abl_table_add(table, "job-0123456789");
    abl_table_add(table, "somebody@a-long-name.example");
    abl_table_add(table, "1/4");
    abl_table_add(table, "00:22:11");
    char *text = printed(table, 45);
    assert_string_equal(text, "id              owner         done  submitted\n"
                              "job-0123456789  somebody@a-…   1/4  00:22:11\n");
    free(text);
    text = printed(table, 44);
    assert_string_equal(text, "id              owner               done  …\n"
                              "job-0123456789  somebody@a-long-n…   1/4\n");
    free(text);
    text = printed(table, 20);
    assert_string_equal(text, "id              …\njob-0123456789\n");
    free(text);
    abl_table_destroy(table);
}

static void what_does_not_fit_the_last_column_goes_on_below(void **state) {
    (void)state;
    static const abl_column pair[] = {{"job", false, true}, {"", false, true}};
    abl_table *table = abl_table_create(pair, 2);
    abl_table_add(table, "options");
    abl_table_add(table, "epochs 20, learning_rate 0.1");
    abl_table_wrap(table);
    char *text = printed(table, 30);
    assert_string_equal(text, "job      \n"
                              "options  epochs 20,\n"
                              "         learning_rate 0.1\n");
    free(text);
    abl_table_destroy(table);
}

static void names_are_cut_before_numbers(void **state) {
    (void)state;
    abl_table *table = filled();
    char *text = printed(table, 30);
    assert_non_null(strstr(text, "Resident Start"));
    assert_non_null(strstr(text, "…"));
    assert_non_null(strstr(text, "-10.50"));
    free(text);
    abl_table_destroy(table);
}

static void control_characters_do_not_reach_the_terminal(void **state) {
    (void)state;
    abl_table *table = abl_table_create(columns, 3);
    abl_table_add(table, "1");
    abl_table_add(table, "%s", "\033[31mred\n");
    abl_table_add(table, "2");
    char *text = printed(table, 0);
    assert_null(strchr(text, '\033'));
    assert_non_null(strstr(text, "\\x1b[31mred\\n"));
    free(text);
    abl_table_destroy(table);
}

static void an_empty_table_has_its_titles(void **state) {
    (void)state;
    abl_table *table = abl_table_create(columns, 3);
    assert_int_equal(abl_table_row_count(table), 0);
    char *text = printed(table, 80);
    assert_string_equal(text, "rank  edge  score\n");
    free(text);
    abl_table_destroy(table);
}

static void bars_stand_behind_the_last_column_where_there_is_room(void **state) {
    (void)state;
    static const double fractions[] = {1, 0.5};
    abl_table *table = abl_table_create(columns, 3);
    for (int i = 0; i < 2; i++) {
        abl_table_add(table, "%d", i);
        abl_table_add(table, "a");
        abl_table_add(table, "2");
    }
    abl_table_bars(table, "share", fractions, 2);
    char *text = printed(table, 27);
    assert_string_equal(text, "rank  edge  score  share\n"
                              "   0  a         2  ████████\n"
                              "   1  a         2  ████\n");
    free(text);
    for (int width = 1; width < 25; width++) { /* six columns are the least a bar needs */
        text = printed(table, width);
        assert_null(strstr(text, "█"));
        free(text);
    }
    text = printed(table, 0); /* no terminal */
    assert_null(strstr(text, "█"));
    free(text);
    abl_table_destroy(table);
}

static void every_failed_allocation_is_told(void **state) {
    (void)state;
    abl_term term = {0};
    for (uint64_t n = 1; n < 100; n++) {
        uint64_t before = abl_mem_count();
        abl_mem_fail_after(n);
        abl_table *table = filled();
        bool reached = abl_mem_count() - before >= n;
        abl_mem_fail_after(0);
        FILE *out = tmpfile();
        assert_non_null(out);
        assert_int_equal(abl_table_print(table, out, &term), !reached);
        (void)fclose(out);
        abl_table_destroy(table);
        if (!reached) {
            return;
        }
    }
    fail_msg("the table never stopped allocating");
}

int main(void) {
    abl_text_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_line_up),
        cmocka_unit_test(no_line_exceeds_any_width),
        cmocka_unit_test(ids_are_whole_and_what_is_left_out_is_marked),
        cmocka_unit_test(what_does_not_fit_the_last_column_goes_on_below),
        cmocka_unit_test(names_are_cut_before_numbers),
        cmocka_unit_test(control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(an_empty_table_has_its_titles),
        cmocka_unit_test(bars_stand_behind_the_last_column_where_there_is_room),
        cmocka_unit_test(every_failed_allocation_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
