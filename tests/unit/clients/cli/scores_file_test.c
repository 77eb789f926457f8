/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/cli/scores_file.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/ablate_scores_test_XXXXXX";

static int make_path(void **state) {
    (void)state;
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static void add(abl_scores *scores, const char *name, const float *data, size_t count,
                int64_t offset_bytes, bool is_last) {
    char copy[32];
    int64_t shape[] = {2};
    (void)snprintf(copy, sizeof copy, "%s", name);
    Ablate__V1__TensorChunk chunk = ABLATE__V1__TENSOR_CHUNK__INIT;
    float values[8];
    memcpy(values, data, count * sizeof *data);
    chunk.name = copy;
    chunk.dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32;
    chunk.shape = shape;
    chunk.n_shape = 1;
    chunk.offset_bytes = offset_bytes;
    chunk.data.data = (uint8_t *)values;
    chunk.data.len = count * sizeof *values;
    chunk.is_last = is_last;
    abl_scores_add(scores, &chunk);
}

static void chunks_become_a_safetensors_file(void **state) {
    (void)state;
    const float values[] = {1, 2, 3, 4};
    char problem[256];
    abl_scores *scores = abl_scores_create();
    add(scores, "a", values, 1, 0, false);
    add(scores, "a", values + 1, 1, 4, true);
    add(scores, "b", values + 2, 2, 0, true);
    assert_true(abl_scores_save(scores, path, "job-1", problem, sizeof problem));
    abl_scores_destroy(scores);

    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint64_t length = 0;
    char header[1024] = "";
    float data[5];
    assert_int_equal(fread(&length, 1, 8, file), 8);
    assert_true(length < sizeof header);
    assert_int_equal(fread(header, 1, length, file), length);
    assert_int_equal(fread(data, sizeof *data, 5, file), 4);
    (void)fclose(file);
    assert_memory_equal(data, values, sizeof values);
    assert_non_null(
        strstr(header, "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}"));
    assert_non_null(strstr(header, "job-1"));
}

static void a_gap_in_the_chunks_is_an_error(void **state) {
    (void)state;
    const float values[] = {1, 2};
    char problem[256];
    abl_scores *scores = abl_scores_create();
    add(scores, "a", values, 1, 0, false);
    add(scores, "a", values, 1, 8, true);
    assert_false(abl_scores_save(scores, path, "job-1", problem, sizeof problem));
    assert_non_null(strstr(problem, "out of order"));
    abl_scores_destroy(scores);
}

static void a_place_that_cannot_be_written_is_named(void **state) {
    (void)state;
    char problem[256];
    abl_scores *scores = abl_scores_create();
    assert_false(abl_scores_save(scores, "/nonexistent/x", "job-1", problem, sizeof problem));
    assert_non_null(strstr(problem, "/nonexistent/x"));
    abl_scores_destroy(scores);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_become_a_safetensors_file),
        cmocka_unit_test(a_gap_in_the_chunks_is_an_error),
        cmocka_unit_test(a_place_that_cannot_be_written_is_named),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
