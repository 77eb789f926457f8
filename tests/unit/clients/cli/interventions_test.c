/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/interventions.h"

#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <string.h>

static abl_cli_interventions read(const char *text) {
    abl_cli_interventions set = {.count = 0};
    char problem[256] = "";
    if (!abl_interventions_read(text, &set, problem, sizeof problem)) {
        fail_msg("%s", problem);
    }
    return set;
}

static void points_operations_and_selections_are_read(void **state) {
    (void)state;
    abl_cli_interventions set =
        read("blocks.0.attn.hook_z zero heads=1,6;  ln_final.hook_scale   mean over=rows,pos;"
             "hook_embed clamp -1 2.5 pos=-1 rows=0,3 ;blocks.3.hook_mlp_out scale 0.5");
    assert_int_equal(set.count, 4);
    assert_string_equal(set.items[0]->name, "blocks.0.attn.hook_z");
    assert_int_equal(set.items[0]->operation_case, ABLATE__V1__INTERVENTION__OPERATION_ZERO);
    assert_int_equal(set.items[0]->n_heads, 2);
    assert_int_equal(set.items[0]->heads[1], 6);
    assert_true(set.items[1]->mean->over_rows && set.items[1]->mean->over_positions);
    assert_true(set.items[2]->clamp->low == -1 && set.items[2]->clamp->high == 2.5F);
    assert_int_equal(set.items[2]->positions[0], -1);
    assert_int_equal(set.items[2]->n_rows, 2);
    assert_true(set.items[3]->scale->factor == 0.5F);
    assert_int_equal(set.items[3]->n_heads + set.items[3]->n_positions + set.items[3]->n_rows, 0);
    abl_interventions_free(&set);
    assert_int_equal(set.count, 0);
}

static void what_is_not_understood_is_named(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *word;
    } cases[] = {
        {"", "hook point"},
        {" ; p zero", "hook point"},
        {"p zero;", "hook point"},
        {"p", "zero, mean, scale or clamp"},
        {"p set 1", "'set'"},
        {"p scale", "scale takes one number"},
        {"p scale 1 2", "scale takes one number"},
        {"p clamp 1", "clamp two"},
        {"p zero 1", "others none"},
        {"p clamp 1 2 3", "'3'"},
        {"p scale x", "'x'"},
        {"p zero head=1", "'head=1'"},
        {"p zero heads=", "'heads='"},
        {"p zero heads=1,", "'heads=1,'"},
        {"p zero heads=1;p zero pos=99999999999", "pos=99999999999"},
        {"p mean over=heads", "'over=heads'"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        abl_cli_interventions set = {.count = 0};
        char problem[256] = "";
        assert_false(abl_interventions_read(cases[i].text, &set, problem, sizeof problem));
        if (strstr(problem, cases[i].word) == NULL) {
            fail_msg("'%s' gave: %s", cases[i].text, problem);
        }
        assert_null(set.items);
    }
}

static void every_failing_allocation_is_reported(void **state) {
    (void)state;
    for (uint64_t n = 1; n <= 4; n++) {
        abl_cli_interventions set = {.count = 0};
        char problem[256] = "";
        abl_mem_fail_after(n);
        bool fine = abl_interventions_read("p zero; q scale 1", &set, problem, sizeof problem);
        abl_mem_fail_after(0);
        assert_true(fine == (n > 3));
        abl_interventions_free(&set);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_operations_and_selections_are_read),
        cmocka_unit_test(what_is_not_understood_is_named),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
