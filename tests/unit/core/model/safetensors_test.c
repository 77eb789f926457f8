/* SPDX-License-Identifier: Apache-2.0
 *
 * Good files read back as written; each way in which a file can be wrong is refused with its own
 * words; running out of memory at any point leaks nothing and says so. */
#include "core/model/safetensors.h"

#include "core/base/mem.h"
#include "tests/unit/files.h"

/* The bytes of a file with that header and `data_bytes` of data, counting up from 0. */
static uint8_t *file_make(const char *header, size_t data_bytes, size_t *ret_bytes) {
    size_t header_bytes = strlen(header);
    uint8_t *bytes = calloc(1, 8 + header_bytes + data_bytes);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(header_bytes >> (8 * i));
    }
    memcpy(bytes + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) {
        bytes[8 + header_bytes + i] = (uint8_t)i;
    }
    *ret_bytes = 8 + header_bytes + data_bytes;
    return bytes;
}

static void file_write(const test_folder *folder, const char *name, const char *header,
                       size_t data_bytes) {
    size_t bytes_count = 0;
    uint8_t *bytes = file_make(header, data_bytes, &bytes_count);
    test_write(folder, name, bytes, bytes_count);
    free(bytes);
}

/* Opening a file of that header must fail with that code and mention the fragment. */
static void refused(const char *header, size_t data_bytes, abl_code code, const char *fragment) {
    size_t bytes_count = 0;
    uint8_t *bytes = file_make(header, data_bytes, &bytes_count);
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    abl_code got = abl_safetensors_open_memory(bytes, bytes_count, "FILE", &set, &status);
    if (got != code) {
        fail_msg("%s: got %s (%s)", header, abl_code_name(got), status.message);
    }
    assert_null(set);
    assert_mentions(status.message, "FILE");
    assert_mentions(status.message, fragment);
    free(bytes);
}

static void refused_invalid(const char *header, size_t data_bytes, const char *fragment) {
    refused(header, data_bytes, ABL_CODE_INVALID_ARGUMENT, fragment);
}

static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
    "\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"empty\":{\"dtype\":\"BF16\",\"shape\":[0,7],\"data_offsets\":[8,8]}}  ";

static void a_good_file_reads_back_as_written(void **state) {
    (void)state;
    size_t bytes_count = 0;
    uint8_t *bytes = file_make(good_header, 32, &bytes_count);
    abl_safetensors *set = NULL;
    assert_int_equal(abl_safetensors_open_memory(bytes, bytes_count, "FILE", &set, NULL),
                     ABL_CODE_OK);
    assert_int_equal(abl_safetensors_count(set), 3);
    assert_string_equal(abl_safetensors_at(set, 0)->name, "a");
    assert_string_equal(abl_safetensors_at(set, 2)->name, "empty");
    assert_int_equal(abl_safetensors_bytes(set), 32);
    const abl_safetensors_tensor *b = abl_safetensors_find(set, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, ABL_SAFETENSORS_DTYPE_F32);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->elements, 6);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(((const uint8_t *)b->data)[0], 8);
    char text[32];
    assert_string_equal(abl_safetensors_shape_text(b, text, sizeof text), "[2, 3]");
    const abl_safetensors_tensor *a = abl_safetensors_find(set, "a");
    assert_int_equal(a->rank, 0);
    assert_int_equal(a->elements, 1);
    assert_string_equal(abl_safetensors_shape_text(a, text, sizeof text), "[]");
    assert_int_equal(abl_safetensors_find(set, "empty")->bytes, 0);
    assert_null(abl_safetensors_find(set, "c"));
    assert_null(abl_safetensors_find(set, "__metadata__"));
    abl_safetensors_close(set);
    free(bytes);
}

static void each_truncation_of_a_good_file_is_refused(void **state) {
    (void)state;
    size_t bytes_count = 0;
    uint8_t *bytes = file_make(good_header, 32, &bytes_count);
    for (size_t i = 0; i < bytes_count; i++) {
        uint8_t *part = malloc(i + 1); /* its own block, so that reading past it is seen */
        memcpy(part, bytes, i);
        abl_safetensors *set = NULL;
        assert_int_equal(abl_safetensors_open_memory(part, i, "FILE", &set, NULL),
                         ABL_CODE_INVALID_ARGUMENT);
        free(part);
    }
    free(bytes);
}

static void a_header_length_beyond_the_file_or_the_limit_is_refused(void **state) {
    (void)state;
    size_t bytes_count = 0;
    uint8_t *bytes = file_make("{}", 0, &bytes_count);
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(abl_safetensors_open_memory(bytes, bytes_count, "FILE", &set, &status),
                     ABL_CODE_OK);
    abl_safetensors_close(set);
    memset(bytes, 0xff, 8);
    assert_int_equal(abl_safetensors_open_memory(bytes, bytes_count, "FILE", &set, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_mentions(status.message, "18446744073709551615");
    memset(bytes, 0, 8);
    assert_int_equal(abl_safetensors_open_memory(bytes, bytes_count, "FILE", &set, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_mentions(status.message, "'{'");
    free(bytes);
    bytes_count = 8 + (size_t)ABL_SAFETENSORS_HEADER_BYTES_MAX + 1;
    bytes = calloc(1, bytes_count);
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)((bytes_count - 8) >> (8 * i));
    }
    assert_int_equal(abl_safetensors_open_memory(bytes, bytes_count, "FILE", &set, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_mentions(status.message, "limit");
    free(bytes);
}

static void a_malformed_header_is_refused_with_its_place(void **state) {
    (void)state;
    refused_invalid("[]", 0, "'{'");
    refused_invalid("{\"a\":", 0, "line 1");
    refused_invalid("{}x", 0, "JSON");
    refused_invalid("{\"a\":1}", 0, "'a'");
    refused_invalid("{\"a\xff\":1}", 0, "JSON");
    refused_invalid("{\"a\\u0000b\":{}}", 0, "JSON");
    refused_invalid("{\"__metadata__\":[]}", 0, "__metadata__");
    refused_invalid("{\"__metadata__\":{\"k\":1}}", 0, "'k'");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                    "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                    2, "duplicate");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1,
                    "'a'");
}

static void a_wrong_dtype_shape_or_rank_is_refused(void **state) {
    (void)state;
    refused_invalid("{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "'Q4'");
    refused_invalid("{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "shape");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
                    "shape[0]");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,1]}}", 1,
                    "shape[0]");
    refused_invalid("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                    "needs 4 bytes");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
            ABL_CODE_RESOURCE_EXHAUSTED, "9 dimensions");
    refused("{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
            ABL_CODE_RESOURCE_EXHAUSTED, "0 bytes");
}

static void sizes_near_the_integer_limits_are_refused(void **state) {
    (void)state;
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],"
                    "\"data_offsets\":[0,1]}}",
                    1, "JSON");
    refused_invalid("{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],"
                    "\"data_offsets\":[0,1]}}",
                    1, "overflows");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],"
                    "\"data_offsets\":[0,0]}}",
                    0, "overflows");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],"
                    "\"data_offsets\":[0,0]}}",
                    0, "overflows");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
                    "\"data_offsets\":[9223372036854775806,9223372036854775807]}}",
                    1, "outside");
}

static void offsets_that_overlap_leave_gaps_or_leave_the_file_are_refused(void **state) {
    (void)state;
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1,
                    "outside");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,0]}}", 2,
                    "outside");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0]}}", 2,
                    "two integers");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[-2,0]}}", 2,
                    "two integers");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                    "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
                    3, "overlap");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                    "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
                    5, "gap");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "gap");
    refused_invalid("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3,
                    "end at byte 2");
    refused_invalid("{}", 1, "end at byte 0");
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    static const char start[] = "{\"a\":";
    char *header = calloc(1, sizeof start + DEPTH);
    assert_non_null(header);
    memcpy(header, start, sizeof start - 1);
    memset(header + sizeof start - 1, '[', DEPTH);
    refused_invalid(header, 0, "depth");
    free(header);
}

/* --- files and shards ------------------------------------------------------------------------ */

static abl_code open_path(const test_folder *folder, const char *name, abl_safetensors **ret_set,
                          abl_status *ret_status) {
    return abl_safetensors_open(
        &(abl_safetensors_options){.path = test_path(folder, name), .root = folder->path}, ret_set,
        ret_status);
}

static void shards_write(const test_folder *folder, const char *index) {
    file_write(folder, "one.safetensors",
               "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    file_write(folder, "two.safetensors",
               "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
               "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
               4);
    test_write_text(folder, "model.safetensors.index.json", index);
}

static void an_index_opens_all_its_shards(void **state) {
    (void)state;
    test_folder folder;
    test_folder_create(&folder);
    shards_write(&folder, "{\"metadata\":{\"total_size\":6},\"weight_map\":{"
                          "\"a\":\"one.safetensors\",\"b\":\"two.safetensors\","
                          "\"c\":\"two.safetensors\"}}");
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(open_path(&folder, "model.safetensors.index.json", &set, &status),
                     ABL_CODE_OK);
    assert_int_equal(abl_safetensors_count(set), 3);
    assert_int_equal(abl_safetensors_bytes(set), 6);
    assert_int_equal(((const uint8_t *)abl_safetensors_find(set, "c")->data)[0], 3);
    assert_mentions(abl_safetensors_find(set, "c")->file, "two.safetensors");
    abl_safetensors_close(set);
    test_folder_destroy(&folder);
}

static void an_index_that_disagrees_with_its_shards_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *weight_map;
        abl_code code;
        const char *fragment;
    } cases[] = {
        {"{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}", ABL_CODE_INVALID_ARGUMENT, "'c'"},
        {"{\"a\":\"two.safetensors\",\"b\":\"two.safetensors\",\"c\":\"one.safetensors\"}",
         ABL_CODE_INVALID_ARGUMENT, "should be in shard"},
        {"{\"a\":\"one.safetensors\",\"x\":\"one.safetensors\"}", ABL_CODE_INVALID_ARGUMENT, "'x'"},
        {"{\"a\":\"gone.safetensors\"}", ABL_CODE_NOT_FOUND, "gone.safetensors"},
        {"{\"a\":\"../one.safetensors\"}", ABL_CODE_PERMISSION_DENIED, "../one"},
        {"{\"a\":\"/etc/passwd\"}", ABL_CODE_PERMISSION_DENIED, "/etc/passwd"},
        {"{\"a\":\"..\"}", ABL_CODE_PERMISSION_DENIED, "'..'"},
        {"{\"a\":\"out.safetensors\"}", ABL_CODE_PERMISSION_DENIED, "leads out"},
        {"{\"a\":1}", ABL_CODE_INVALID_ARGUMENT, "'a'"},
        {"{}", ABL_CODE_INVALID_ARGUMENT, "empty"},
        {"[]", ABL_CODE_INVALID_ARGUMENT, "weight_map"},
    };
    test_folder folder;
    test_folder outside;
    test_folder_create(&folder);
    test_folder_create(&outside);
    file_write(&outside, "real.safetensors",
               "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    test_link(&folder, test_path(&outside, "real.safetensors"), "out.safetensors");
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        char index[512];
        (void)snprintf(index, sizeof index, "{\"weight_map\":%s}", cases[i].weight_map);
        shards_write(&folder, index);
        abl_safetensors *set = NULL;
        abl_status status = {.message = ""};
        abl_code code = open_path(&folder, "model.safetensors.index.json", &set, &status);
        if (code != cases[i].code) {
            fail_msg("%s: %s: %s", index, abl_code_name(code), status.message);
        }
        assert_mentions(status.message, cases[i].fragment);
    }
    test_folder_destroy(&outside);
    test_folder_destroy(&folder);
}

static void the_same_tensor_in_two_shards_is_refused(void **state) {
    (void)state;
    test_folder folder;
    test_folder_create(&folder);
    shards_write(&folder,
                 "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"copy.safetensors\"}}");
    file_write(&folder, "copy.safetensors",
               "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(open_path(&folder, "model.safetensors.index.json", &set, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_mentions(status.message, "two shards");
    test_folder_destroy(&folder);
}

static void what_is_not_a_readable_file_below_the_root_is_refused(void **state) {
    (void)state;
    test_folder folder;
    test_folder_create(&folder);
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(open_path(&folder, "gone.safetensors", &set, &status), ABL_CODE_NOT_FOUND);
    assert_string_equal(status.reason, "FILE_MISSING");
    assert_int_equal(mkdir(test_path(&folder, "folder"), 0700), 0);
    assert_int_equal(open_path(&folder, "folder", &set, &status), ABL_CODE_PERMISSION_DENIED);
    assert_int_equal(mkfifo(test_path(&folder, "pipe"), 0600), 0);
    assert_int_equal(open_path(&folder, "pipe", &set, &status), ABL_CODE_PERMISSION_DENIED);
    test_link(&folder, "/etc/passwd", "link.safetensors");
    assert_int_equal(open_path(&folder, "link.safetensors", &set, &status),
                     ABL_CODE_PERMISSION_DENIED);
    assert_string_equal(status.reason, "PATH_OUTSIDE_ROOT");
    test_write_text(&folder, "empty.safetensors", "");
    assert_int_equal(open_path(&folder, "empty.safetensors", &set, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_mentions(status.message, "truncated");
    assert_null(set);
    test_folder_destroy(&folder);
}

static void failing_any_allocation_leaks_nothing_and_says_so(void **state) {
    (void)state;
    test_folder folder;
    test_folder_create(&folder);
    shards_write(&folder, "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\","
                          "\"c\":\"two.safetensors\"}}");
    abl_safetensors *set = NULL;
    abl_code code = ABL_CODE_RESOURCE_EXHAUSTED;
    uint64_t n = 1;
    for (; code != ABL_CODE_OK; n++) {
        abl_status status = {.message = ""};
        abl_mem_fail_after(n);
        code = open_path(&folder, "model.safetensors.index.json", &set, &status);
        abl_mem_fail_after(0);
        if (code != ABL_CODE_OK) {
            assert_null(set);
            if (code != ABL_CODE_RESOURCE_EXHAUSTED) {
                fail_msg("allocation %d: %s", (int)n, status.message);
            }
        }
    }
    assert_true(n > 20);
    abl_safetensors_close(set);
    test_folder_destroy(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_reads_back_as_written),
        cmocka_unit_test(each_truncation_of_a_good_file_is_refused),
        cmocka_unit_test(a_header_length_beyond_the_file_or_the_limit_is_refused),
        cmocka_unit_test(a_malformed_header_is_refused_with_its_place),
        cmocka_unit_test(a_wrong_dtype_shape_or_rank_is_refused),
        cmocka_unit_test(sizes_near_the_integer_limits_are_refused),
        cmocka_unit_test(offsets_that_overlap_leave_gaps_or_leave_the_file_are_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(an_index_opens_all_its_shards),
        cmocka_unit_test(an_index_that_disagrees_with_its_shards_is_refused),
        cmocka_unit_test(the_same_tensor_in_two_shards_is_refused),
        cmocka_unit_test(what_is_not_a_readable_file_below_the_root_is_refused),
        cmocka_unit_test(failing_any_allocation_leaks_nothing_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
