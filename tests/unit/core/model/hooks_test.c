/* SPDX-License-Identifier: Apache-2.0
 *
 * Names go both ways, synonyms mean the same point, what cannot fire is refused with a reason. */
#include "core/model/hooks.h"

#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <string.h>

static const abl_model_config gpt2 = {.family = ABL_FAMILY_GPT2,
                                      .n_layers = 3,
                                      .n_heads = 4,
                                      .n_kv_heads = 4,
                                      .positional = ABL_POSITIONAL_LEARNED};
static const abl_model_config llama = {.family = ABL_FAMILY_LLAMA,
                                       .n_layers = 2,
                                       .n_heads = 4,
                                       .n_kv_heads = 2,
                                       .norm = ABL_NORM_RMS,
                                       .gated = true,
                                       .positional = ABL_POSITIONAL_ROPE};

static void check_round_trip(const abl_model_config *config) {
    size_t count = abl_hook_list(config, NULL, 0);
    abl_hook *hooks = abl_calloc(count, sizeof *hooks);
    assert_non_null(hooks);
    assert_int_equal(abl_hook_list(config, hooks, count), count);
    for (size_t i = 0; i < count; i++) {
        char name[64];
        abl_hook parsed;
        abl_status status;
        assert_int_equal(
            abl_hook_parse(config, abl_hook_name(hooks[i], name, sizeof name), &parsed, &status),
            ABL_CODE_OK);
        assert_int_equal(parsed.point, hooks[i].point);
        assert_int_equal(parsed.layer, hooks[i].layer);
    }
    abl_free(hooks);
}

static void every_listed_hook_is_parsed_back(void **state) {
    (void)state;
    check_round_trip(&gpt2);
    check_round_trip(&llama);
}

static void a_short_list_says_how_long_it_would_be(void **state) {
    (void)state;
    abl_hook hooks[2];
    assert_true(abl_hook_list(&gpt2, hooks, 2) > 2);
    assert_int_equal(hooks[0].point, ABL_HOOK_EMBED);
    assert_int_equal(hooks[1].point, ABL_HOOK_POS_EMBED);
}

static void bridge_names_are_synonyms(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"embed.hook_out", "hook_embed"},
        {"blocks.1.hook_in", "blocks.1.hook_resid_pre"},
        {"blocks.1.ln2.hook_in", "blocks.1.hook_resid_mid"},
        {"blocks.1.hook_out", "blocks.1.hook_resid_post"},
        {"blocks.1.attn.hook_out", "blocks.1.hook_attn_out"},
        {"blocks.1.mlp.hook_out", "blocks.1.hook_mlp_out"},
        {"blocks.1.attn.hook_q_input", "blocks.1.hook_q_input"},
        {"blocks.1.attn.v.hook_out", "blocks.1.attn.hook_v"},
        {"blocks.1.attn.o.hook_in", "blocks.1.attn.hook_z"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(pairs); i++) {
        abl_hook a;
        abl_hook b;
        abl_status status;
        assert_int_equal(abl_hook_parse(&gpt2, pairs[i][0], &a, &status), ABL_CODE_OK);
        assert_int_equal(abl_hook_parse(&gpt2, pairs[i][1], &b, &status), ABL_CODE_OK);
        assert_int_equal(a.point, b.point);
        assert_int_equal(a.layer, b.layer);
    }
}

static void expect(const abl_model_config *config, const char *name, abl_code code,
                   const char *reason, const char *words) {
    abl_hook hook = {.point = ABL_HOOK_Z, .layer = 77};
    abl_status status = {.code = ABL_CODE_OK};
    assert_int_equal(abl_hook_parse(config, name, &hook, &status), code);
    assert_string_equal(status.reason, reason);
    if (strstr(status.message, words) == NULL) {
        fail_msg("'%s' is not in '%s'", words, status.message);
    }
    assert_int_equal(hook.layer, 77); /* untouched */
}

static void an_unknown_name_is_answered_with_the_nearest_ones(void **state) {
    (void)state;
    expect(&gpt2, "blocks.0.attn.hook_zz", ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN",
           "blocks.0.attn.hook_z");
    expect(&gpt2, "blocks.2.hook_resid_prev", ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN",
           "blocks.2.hook_resid_pre");
    expect(&gpt2, "hook_embd", ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN", "hook_embed");
    expect(&gpt2, "", ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN", "near it are");
}

static void malformed_layers_are_unknown_names(void **state) {
    (void)state;
    static const char *const names[] = {"blocks.hook_z",
                                        "blocks..attn.hook_z",
                                        "blocks.-1.attn.hook_z",
                                        "blocks.01.attn.hook_z",
                                        "blocks.1",
                                        "blocks.99999999.attn.hook_z",
                                        "blocks.1.blocks.1.hook_z"};
    for (size_t i = 0; i < ABL_COUNT_OF(names); i++) {
        expect(&gpt2, names[i], ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN", "near it are");
    }
    char longest[2000];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    expect(&gpt2, longest, ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN", "near it are");
}

static void a_layer_behind_the_last_is_refused(void **state) {
    (void)state;
    expect(&gpt2, "blocks.3.attn.hook_z", ABL_CODE_NOT_FOUND, "HOOK_UNKNOWN", "layers 0 to 2");
}

static void what_cannot_fire_is_refused_with_the_reason(void **state) {
    (void)state;
    expect(&llama, "hook_pos_embed", ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE", "rotary");
    expect(&gpt2, "blocks.0.attn.hook_rot_q", ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
           "embedded");
    expect(&gpt2, "blocks.0.mlp.hook_pre_linear", ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
           "not gated");
    abl_model_config parallel = gpt2;
    parallel.parallel_attn_mlp = true;
    expect(&parallel, "blocks.0.hook_resid_mid", ABL_CODE_FAILED_PRECONDITION, "HOOK_CANNOT_FIRE",
           "parallel");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_listed_hook_is_parsed_back),
        cmocka_unit_test(a_short_list_says_how_long_it_would_be),
        cmocka_unit_test(bridge_names_are_synonyms),
        cmocka_unit_test(an_unknown_name_is_answered_with_the_nearest_ones),
        cmocka_unit_test(malformed_layers_are_unknown_names),
        cmocka_unit_test(a_layer_behind_the_last_is_refused),
        cmocka_unit_test(what_cannot_fire_is_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
