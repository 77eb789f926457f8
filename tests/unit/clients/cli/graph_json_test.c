/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/graph_json.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/ablate_graph_test_XXXXXX";

static int make_path(void **state) {
    (void)state;
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static Ablate__V1__ModelConfig config_of(int32_t heads) {
    Ablate__V1__ModelConfig config = ABLATE__V1__MODEL_CONFIG__INIT;
    config.n_layers = 2;
    config.n_heads = heads;
    config.d_model = 32;
    return config;
}

static void scores_come_back_bit_for_bit(void **state) {
    (void)state;
    static const float scores[] = {0.1F, -1.17549435e-38F, 3.4028235e38F, 1e-45F};
    static const char *const edges[] = {"input->m0", "m0->a1.h3<q>", "a0.h0->logits",
                                        "input->logits"};
    char problem[256] = "";
    const Ablate__V1__ModelConfig config = config_of(4);
    json_t *file = abl_graph_json_create(&config);
    for (size_t i = 0; i < 4; i++) {
        assert_true(abl_graph_json_add(file, edges[i], (double)scores[i]));
    }
    assert_int_equal(json_object_size(json_object_get(file, "nodes")), 5);
    assert_non_null(json_object_get(json_object_get(file, "nodes"), "a1.h3"));
    assert_false(abl_graph_json_add(file, "input->m1", 1.0 / 0.0));
    assert_true(abl_graph_json_save(file, path, problem, sizeof problem));
    json_decref(file);
    json_t *read = NULL;
    assert_true(abl_graph_json_load(path, &config, &file, &read, problem, sizeof problem));
    for (size_t i = 0; i < 4; i++) {
        const json_t *entry = json_object_get(read, edges[i]);
        float score = (float)json_number_value(json_object_get(entry, "score"));
        assert_memory_equal(&score, &scores[i], sizeof score);
        assert_true(json_is_true(json_object_get(entry, "in_graph")));
    }
    json_decref(file);
}

static void another_models_file_is_refused_by_the_fields_that_differ(void **state) {
    (void)state;
    char problem[256] = "";
    const Ablate__V1__ModelConfig config = config_of(4);
    Ablate__V1__ModelConfig other = config_of(12);
    other.parallel_attn_mlp = true;
    json_t *file = abl_graph_json_create(&config);
    json_t *edges = NULL;
    assert_true(abl_graph_json_save(file, path, problem, sizeof problem));
    json_decref(file);
    file = NULL;
    assert_false(abl_graph_json_load(path, &other, &file, &edges, problem, sizeof problem));
    assert_null(file);
    assert_non_null(strstr(problem, "n_heads is 4 there and 12 here"));
    assert_non_null(strstr(problem, "parallel_attn_mlp is false there and 1 here"));
    assert_null(strstr(problem, "n_layers"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_come_back_bit_for_bit),
        cmocka_unit_test(another_models_file_is_refused_by_the_fields_that_differ),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
