/* SPDX-License-Identifier: Apache-2.0
 *
 * Names that lead to folders, names that must not, and the hub's layout with its links. */
#include "core/model/dir.h"

#include "core/base/mem.h"
#include "tests/unit/files.h"

static const char config_text[] = "{\"model_type\":\"gpt2\",\"n_layer\":4,\"n_head\":8,"
                                  "\"n_embd\":128,\"n_positions\":64,\"vocab_size\":1000}";

typedef struct fixture {
    test_folder base;
    const char *paths[2];
    char root_a[128];
    char root_b[128];
    char hub[128];
    abl_model_roots roots;
} fixture;

static void model_write(const fixture *f, const char *folder) {
    char name[256];
    (void)snprintf(name, sizeof name, "%s/config.json", folder);
    test_write_text(&f->base, name, config_text);
    (void)snprintf(name, sizeof name, "%s/model.safetensors", folder);
    test_write_text(&f->base, name, "12345678");
    (void)snprintf(name, sizeof name, "%s/tokenizer.json", folder);
    test_write_text(&f->base, name, "{}");
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    test_folder_create(&f->base);
    (void)snprintf(f->root_a, sizeof f->root_a, "%s/a", f->base.path);
    (void)snprintf(f->root_b, sizeof f->root_b, "%s/b", f->base.path);
    (void)snprintf(f->hub, sizeof f->hub, "%s/hub", f->base.path);
    f->paths[0] = f->root_a;
    f->paths[1] = f->root_b;
    f->roots = (abl_model_roots){.paths = f->paths, .count = 2, .hub_cache = f->hub};
    model_write(f, "a/tiny");
    model_write(f, "b/org/other");
    model_write(f, "outside/secret");
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    test_folder_destroy(&f->base);
    free(f);
    return 0;
}

static void found(const fixture *f, const char *name, const char *folder) {
    abl_model_dir *dir = NULL;
    abl_status status = {.message = ""};
    if (abl_model_dir_create(&f->roots, name, &dir, &status) != ABL_CODE_OK) {
        fail_msg("%s: %s", name, status.message);
    }
    assert_string_equal(dir->path, test_path(&f->base, folder));
    assert_non_null(dir->config);
    assert_non_null(dir->weights);
    assert_non_null(dir->tokenizer);
    abl_model_dir_destroy(dir);
}

static void refused(const fixture *f, const char *name, abl_code code, const char *fragment) {
    abl_model_dir *dir = NULL;
    abl_status status = {.message = ""};
    abl_code got = abl_model_dir_create(&f->roots, name, &dir, &status);
    if (got != code) {
        fail_msg("%s: got %s (%s)", name, abl_code_name(got), status.message);
    }
    assert_null(dir);
    assert_mentions(status.message, fragment);
}

static void a_path_below_any_root_is_found(void **state) {
    const fixture *f = *state;
    found(f, "tiny", "a/tiny");
    found(f, "tiny/", "a/tiny");
    found(f, "org/other", "b/org/other");
    found(f, test_path(&f->base, "b/org/other"), "b/org/other");
}

static void a_name_that_leaves_the_roots_is_refused(void **state) {
    const fixture *f = *state;
    refused(f, "../outside/secret", ABL_CODE_PERMISSION_DENIED, "'..'");
    refused(f, "tiny/../../outside/secret", ABL_CODE_PERMISSION_DENIED, "'..'");
    refused(f, "..", ABL_CODE_PERMISSION_DENIED, "'..'");
    refused(f, test_path(&f->base, "outside/secret"), ABL_CODE_PERMISSION_DENIED, "outside");
    refused(f, "/etc", ABL_CODE_PERMISSION_DENIED, "outside");
    refused(f, "/nowhere/at/all", ABL_CODE_PERMISSION_DENIED, "outside");
    refused(f, "", ABL_CODE_INVALID_ARGUMENT, "1 to");
    refused(f, "a\nb", ABL_CODE_INVALID_ARGUMENT, "control");
}

static void a_link_that_leaves_the_roots_is_refused(void **state) {
    const fixture *f = *state;
    test_link(&f->base, "../outside/secret", "a/leak");
    refused(f, "leak", ABL_CODE_PERMISSION_DENIED, "leads out");
    test_write_text(&f->base, "a/half/config.json", config_text);
    test_link(&f->base, "../../outside/secret/model.safetensors", "a/half/model.safetensors");
    refused(f, "half", ABL_CODE_PERMISSION_DENIED, "leads out");
    test_link(&f->base, "tiny", "a/inner"); /* a link that stays inside is fine */
    found(f, "inner", "a/tiny");
}

static void a_root_whose_name_begins_like_another_folder_does_not_open_it(void **state) {
    const fixture *f = *state;
    model_write(f, "a-private/secret");
    refused(f, test_path(&f->base, "a-private/secret"), ABL_CODE_PERMISSION_DENIED, "outside");
}

static void an_unknown_name_is_told_how_to_fetch(void **state) {
    const fixture *f = *state;
    refused(f, "nothing", ABL_CODE_NOT_FOUND, "hf download ORG/NAME");
    refused(f, "some-org/some-model", ABL_CODE_NOT_FOUND, "hf download some-org/some-model");
    refused(f, "smollm2-135m", ABL_CODE_NOT_FOUND, "python -m ablate.models fetch smollm2-135m");
    refused(f, "gpt2-small", ABL_CODE_NOT_FOUND, "hf download openai-community/gpt2");
    refused(f, test_path(&f->base, "a/gone"), ABL_CODE_NOT_FOUND, "gone");
}

static void missing_files_are_listed_and_pickles_are_not_read(void **state) {
    const fixture *f = *state;
    test_write_text(&f->base, "a/bare/notes.txt", "");
    refused(f, "bare", ABL_CODE_NOT_FOUND, "config.json and model.safetensors");
    test_write_text(&f->base, "a/noweights/config.json", config_text);
    refused(f, "noweights", ABL_CODE_NOT_FOUND, "lacks model.safetensors");
    test_write_text(&f->base, "a/pickle/config.json", config_text);
    test_write_text(&f->base, "a/pickle/pytorch_model.bin", "x");
    refused(f, "pickle", ABL_CODE_FAILED_PRECONDITION, "convert them to safetensors");
}

static void a_tokenizer_may_be_absent_and_weights_may_be_sharded(void **state) {
    const fixture *f = *state;
    test_write_text(&f->base, "a/shards/config.json", config_text);
    test_write_text(&f->base, "a/shards/model.safetensors.index.json", "{}");
    abl_model_dir *dir = NULL;
    assert_int_equal(abl_model_dir_create(&f->roots, "shards", &dir, NULL), ABL_CODE_OK);
    assert_null(dir->tokenizer);
    assert_mentions(dir->weights, "a/shards/model.safetensors.index.json");
    abl_model_dir_destroy(dir);
}

/* models--openai-community--gpt2 as huggingface_hub lays it out. */
static void hub_write(const fixture *f) {
    static const char commit[] = "0123456789abcdef0123456789abcdef01234567";
    char name[256];
    test_write_text(&f->base, "hub/models--openai-community--gpt2/refs/main", commit);
    test_write_text(&f->base, "hub/models--openai-community--gpt2/refs/v1.0", "feed\n");
    test_write_text(&f->base, "hub/models--openai-community--gpt2/blobs/one", config_text);
    test_write_text(&f->base, "hub/models--openai-community--gpt2/blobs/two", "weights");
    test_write_text(&f->base, "hub/models--openai-community--gpt2/blobs/three", "{}");
    static const char *const snapshots[] = {commit, "feed"};
    for (size_t i = 0; i < ABL_COUNT_OF(snapshots); i++) {
        (void)snprintf(name, sizeof name, "hub/models--openai-community--gpt2/snapshots/%s/x",
                       snapshots[i]);
        test_write_text(&f->base, name, ""); /* makes the folders */
        name[strlen(name) - 2] = '\0';
        char file[512];
        (void)snprintf(file, sizeof file, "%s/config.json", name);
        test_link(&f->base, "../../blobs/one", file);
        (void)snprintf(file, sizeof file, "%s/model.safetensors", name);
        test_link(&f->base, "../../blobs/two", file);
        (void)snprintf(file, sizeof file, "%s/tokenizer.json", name);
        test_link(&f->base, "../../blobs/three", file);
    }
}

#define SNAPSHOTS "hub/models--openai-community--gpt2/snapshots/"

static void a_hub_id_is_found_by_revision_commit_and_alias(void **state) {
    const fixture *f = *state;
    hub_write(f);
    found(f, "openai-community/gpt2", SNAPSHOTS "0123456789abcdef0123456789abcdef01234567");
    found(f, "openai-community/gpt2@main", SNAPSHOTS "0123456789abcdef0123456789abcdef01234567");
    found(f, "openai-community/gpt2@v1.0", SNAPSHOTS "feed");
    found(f, "openai-community/gpt2@feed", SNAPSHOTS "feed");
    found(f, "gpt2", SNAPSHOTS "0123456789abcdef0123456789abcdef01234567");
    found(f, "gpt2-small", SNAPSHOTS "0123456789abcdef0123456789abcdef01234567");
    refused(f, "openai-community/gpt2@v2", ABL_CODE_NOT_FOUND, "hf download");
    refused(f, "openai-community/gpt2@../../x", ABL_CODE_PERMISSION_DENIED, "'..'");
    abl_model_dir *dir = NULL;
    assert_int_equal(abl_model_dir_create(&f->roots, "gpt2", &dir, NULL), ABL_CODE_OK);
    assert_string_equal(dir->name, "openai-community/gpt2");
    assert_string_equal(dir->revision, "0123456789abcdef0123456789abcdef01234567");
    assert_string_equal(dir->root, f->hub);
    abl_model_dir_destroy(dir);
}

static void a_hub_file_that_leaves_the_hub_is_refused(void **state) {
    const fixture *f = *state;
    test_write_text(&f->base, "hub/models--o--m/refs/main", "c0ffee");
    test_write_text(&f->base, "hub/models--o--m/snapshots/c0ffee/config.json", config_text);
    test_link(&f->base, "../../../../outside/secret/model.safetensors",
              "hub/models--o--m/snapshots/c0ffee/model.safetensors");
    refused(f, "o/m", ABL_CODE_PERMISSION_DENIED, "leads out");
    test_write_text(&f->base, "hub/models--o--evil/refs/main", "../../../outside");
    refused(f, "o/evil", ABL_CODE_NOT_FOUND, "hf download");
}

static void the_list_has_every_model_once_with_what_is_wrong(void **state) {
    const fixture *f = *state;
    hub_write(f);
    model_write(f, "b/tiny"); /* hidden by the one in the first root */
    test_write_text(&f->base, "a/bert/config.json", "{\"model_type\":\"bert\"}");
    test_write_text(&f->base, "a/bert/model.safetensors", "12");
    test_write_text(&f->base, "a/.hidden/config.json", config_text);
    test_link(&f->base, "../outside/secret", "a/leak");
    abl_model_list *list = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(abl_model_list_create(&f->roots, &list, &status), ABL_CODE_OK);
    assert_false(list->truncated);
    assert_int_equal(list->count, 5);
    assert_string_equal(list->entries[0].name, "bert");
    assert_string_equal(list->entries[0].family, "bert");
    assert_mentions(list->entries[0].problem, "gpt2, llama");
    assert_string_equal(list->entries[1].name, "leak");
    assert_mentions(list->entries[1].problem, "leads out");
    assert_string_equal(list->entries[1].family, "");
    assert_string_equal(list->entries[2].name, "openai-community/gpt2");
    assert_null(list->entries[2].problem);
    assert_int_equal(list->entries[2].bytes, 7);
    assert_string_equal(list->entries[3].name, "org/other");
    assert_string_equal(list->entries[4].name, "tiny");
    assert_string_equal(list->entries[4].path, test_path(&f->base, "a/tiny"));
    assert_int_equal(list->entries[4].bytes, 8);
    assert_true(list->entries[4].has_tokenizer);
    abl_model_list_destroy(list);
}

static void roots_that_do_not_exist_are_skipped(void **state) {
    const fixture *f = *state;
    const char *paths[] = {"/nonexistent", f->root_a};
    abl_model_roots roots = {.paths = paths, .count = 2, .hub_cache = "/nonexistent/hub"};
    abl_model_dir *dir = NULL;
    assert_int_equal(abl_model_dir_create(&roots, "tiny", &dir, NULL), ABL_CODE_OK);
    abl_model_dir_destroy(dir);
    abl_model_list *list = NULL;
    assert_int_equal(abl_model_list_create(&roots, &list, NULL), ABL_CODE_OK);
    assert_int_equal(list->count, 1);
    abl_model_list_destroy(list);
}

static void the_hub_folder_follows_the_environment(void **state) {
    (void)state;
    assert_int_equal(setenv("HF_HOME", "/h", 1), 0);
    assert_int_equal(unsetenv("HF_HUB_CACHE"), 0);
    assert_int_equal(unsetenv("HUGGINGFACE_HUB_CACHE"), 0);
    char *path = abl_model_hub_cache_default();
    assert_string_equal(path, "/h/hub");
    abl_free(path);
    assert_int_equal(setenv("HF_HUB_CACHE", "/c", 1), 0);
    path = abl_model_hub_cache_default();
    assert_string_equal(path, "/c");
    abl_free(path);
}

static void failing_any_allocation_leaks_nothing_and_says_so(void **state) {
    const fixture *f = *state;
    hub_write(f);
    abl_model_dir *dir = NULL;
    for (uint64_t n = 1; dir == NULL; n++) {
        abl_mem_fail_after(n);
        abl_code code = abl_model_dir_create(&f->roots, "gpt2", &dir, NULL);
        abl_mem_fail_after(0);
        assert_int_equal(code, (dir == NULL) ? ABL_CODE_RESOURCE_EXHAUSTED : ABL_CODE_OK);
    }
    abl_model_dir_destroy(dir);
    abl_model_list *list = NULL;
    uint64_t before = abl_mem_count();
    assert_int_equal(abl_model_list_create(&f->roots, &list, NULL), ABL_CODE_OK);
    uint64_t count = abl_mem_count() - before;
    abl_model_list_destroy(list);
    for (uint64_t n = 1; n <= count; n++) { /* what one model lacks memory for is its problem */
        list = NULL;
        abl_mem_fail_after(n);
        abl_code code = abl_model_list_create(&f->roots, &list, NULL);
        abl_mem_fail_after(0);
        assert_int_equal(code, (list == NULL) ? ABL_CODE_RESOURCE_EXHAUSTED : ABL_CODE_OK);
        abl_model_list_destroy(list);
    }
}

#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_FILES(a_path_below_any_root_is_found),
        WITH_FILES(a_name_that_leaves_the_roots_is_refused),
        WITH_FILES(a_link_that_leaves_the_roots_is_refused),
        WITH_FILES(a_root_whose_name_begins_like_another_folder_does_not_open_it),
        WITH_FILES(an_unknown_name_is_told_how_to_fetch),
        WITH_FILES(missing_files_are_listed_and_pickles_are_not_read),
        WITH_FILES(a_tokenizer_may_be_absent_and_weights_may_be_sharded),
        WITH_FILES(a_hub_id_is_found_by_revision_commit_and_alias),
        WITH_FILES(a_hub_file_that_leaves_the_hub_is_refused),
        WITH_FILES(the_list_has_every_model_once_with_what_is_wrong),
        WITH_FILES(roots_that_do_not_exist_are_skipped),
        cmocka_unit_test(the_hub_folder_follows_the_environment),
        WITH_FILES(failing_any_allocation_leaks_nothing_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
