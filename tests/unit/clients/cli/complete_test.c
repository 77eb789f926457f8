/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of commands and options, and what a shell is offered from them. No daemon answers
 * here; that ids are offered is tested end to end. */
#include "clients/cli/complete.h"
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

#define WORD_COUNT_MAX 16

/* What is offered where `line` ends, its words told apart by spaces; free() it. */
static char *offered(const char *line) {
    char copy[256];
    char *words[WORD_COUNT_MAX];
    int count = 0;
    (void)snprintf(copy, sizeof copy, "%s", line);
    for (char *at = copy;; at++) {
        words[count++] = at;
        at += strcspn(at, " ");
        if (*at == '\0') {
            break;
        }
        *at = '\0';
    }
    char *buffer = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&buffer, &size);
    assert_non_null(out);
    assert_int_equal(abl_complete(out, count, words), 0);
    assert_int_equal(fclose(out), 0);
    return buffer;
}

static void assert_offered(const char *line, const char *expected) {
    char *text = offered(line);
    if (strcmp(text, expected) != 0) {
        fail_msg("'%s' offers:\n%s", line, text);
    }
    free(text);
}

static void assert_offers(const char *line, const char *word, bool yes) {
    char *text = offered(line);
    char row[128];
    (void)snprintf(row, sizeof row, "%s\t", word);
    bool found = strncmp(text, row, strlen(row)) == 0;
    (void)snprintf(row, sizeof row, "\n%s\t", word);
    if ((found || strstr(text, row) != NULL) != yes) {
        fail_msg("'%s' offers:\n%s", line, text);
    }
    free(text);
}

static void every_command_is_found_by_its_own_words(void **state) {
    (void)state;
    for (size_t i = 0; i < abl_command_count; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%s", abl_commands[i].name);
        char *words[2] = {name, NULL};
        char *space = strchr(name, ' ');
        int count = space == NULL ? 1 : 2;
        if (space != NULL) {
            *space = '\0';
            words[1] = space + 1;
        }
        int used = 0;
        assert_ptr_equal(abl_command_find(count, words, &used), &abl_commands[i]);
        assert_int_equal(used, count);
        assert_int_equal(abl_command_is_group(name), count == 2);
        assert_offers("", name, true);
    }
}

static void every_option_fits_the_set_and_some_command_takes_it(void **state) {
    (void)state;
    abl_option_set all = 0;
    for (size_t i = 0; i < abl_command_count; i++) {
        all |= abl_command_takes(&abl_commands[i]);
    }
    for (int i = 0; i < ABL_OPTION_COUNT; i++) {
        assert_true((all >> i & 1) != 0);
    }
    assert_true((all & ABL_OFFLINE) == 0);
}

static void verbs_follow_their_group(void **state) {
    (void)state;
    assert_offers("jo", "jobs", true);
    assert_offers("jo", "models", false);
    assert_offers("jobs ", "watch", true);
    assert_offers("jobs w", "cancel", false);
    assert_offers("help jobs ", "watch", true);
    assert_offers("--json jobs ", "watch", true);
    assert_offered("nonsense ", "");
    assert_offered("status ", "");
}

static void a_group_alone_is_its_list(void **state) {
    (void)state;
    char jobs[] = "jobs";
    char option[] = "--watch";
    char verb[] = "show";
    int used = 0;
    assert_string_equal(abl_command_find(1, (char *[]){jobs}, &used)->name, "jobs list");
    assert_int_equal(used, 1);
    assert_string_equal(abl_command_find(2, (char *[]){jobs, option}, &used)->name, "jobs list");
    assert_int_equal(used, 1);
    assert_string_equal(abl_command_find(2, (char *[]){jobs, verb}, &used)->name, "jobs show");
    assert_null(abl_command_find(2, (char *[]){jobs, jobs}, &used));
    assert_offers("jobs --wa", "--watch", true);
}

static void options_are_those_of_the_command_and_not_yet_given(void **state) {
    (void)state;
    assert_offers("discover --al", "--algorithm", true);
    assert_offers("status --al", "--algorithm", false);
    assert_offers("discover --algorithm eap --", "--algorithm", false);
    assert_offers("discover --algorithm eap --", "--dataset", true);
    assert_offers("--", "--host", true);
    assert_offers("man --", "--host", false);
}

static void choices_and_files_follow_their_option(void **state) {
    (void)state;
    assert_offered("discover --algorithm eap", "eap\t\neap-ig\t\n");
    assert_offered("discover -a acd", "acdc\t\n");
    assert_offered("discover --algorithm=acd", "--algorithm=acdc\t\n");
    assert_offered("discover --algorithm = acd", "acdc\t\n"); /* as bash has it */
    assert_offered("discover --patch =", "");                 /* discover has no such option */
    assert_offered("eval j --patch =", "edge\t\ntree\t\n");
    assert_offered("export job-1 --out ", ":files\n");
    assert_offered("dataset upload ", ":files\n");
    assert_offered("discover --top ", "");
    assert_offered("completion z", "zsh\t\n");
}

static void an_unreachable_daemon_offers_nothing(void **state) {
    (void)state;
    assert_offered("--host 127.0.0.1:1 jobs show ", "");
    assert_offered("jobs show --host 127.0.0.1:1 ", "");
}

int main(void) {
    abl_text_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_is_found_by_its_own_words),
        cmocka_unit_test(every_option_fits_the_set_and_some_command_takes_it),
        cmocka_unit_test(verbs_follow_their_group),
        cmocka_unit_test(a_group_alone_is_its_list),
        cmocka_unit_test(options_are_those_of_the_command_and_not_yet_given),
        cmocka_unit_test(choices_and_files_follow_their_option),
        cmocka_unit_test(an_unreachable_daemon_offers_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
