/* SPDX-License-Identifier: Apache-2.0
 *
 * The files of the dashboard, from folders written here. The source is included for its default
 * root, which is a definition of the build. */
#define ABLATE_WEB_ROOT "/nonexistent"
#include "server/page.c"

#include "tests/unit/unit.h"

#include <stdlib.h>
#include <unistd.h>

/* What gzip -9n makes of "hello\n". */
static const uint8_t HELLO_GZ[] = {0x1f, 0x8b, 8,    0,    0,    0,    0,    0,    2,
                                   3,    0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0xe7, 0x02, 0x00,
                                   0x20, 0x30, 0x3a, 0x36, 6,    0,    0,    0};

static char root[64];

static void write_file(const char *name, const void *data, size_t bytes) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state) {
    (void)state;
    (void)snprintf(root, sizeof root, "/tmp/ablate-page-XXXXXX");
    char assets[80];
    if (mkdtemp(root) == NULL) {
        return -1;
    }
    (void)snprintf(assets, sizeof assets, "%s/assets", root);
    return mkdir(assets, 0700);
}

static int tear_down(void **state) {
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command);
}

static void a_compressed_file_goes_with_its_own(void **state) {
    (void)state;
    write_file("index.html", "<p>", 3);
    write_file("assets/a.js", "hello\n", 6);
    write_file("assets/a.js.gz", HELLO_GZ, sizeof HELLO_GZ);
    abl_page page;
    assert_int_equal(abl_page_open(root, &page, NULL), ABL_CODE_OK);
    assert_int_equal(page.file_count, 2);
    const abl_web_file *script = file_find(&page, "/assets/a.js", 12);
    assert_non_null(script);
    assert_string_equal(script->content_type, "text/javascript; charset=utf-8");
    assert_int_equal(script->gzip_bytes, sizeof HELLO_GZ);
    assert_memory_equal(script->gzip, HELLO_GZ, sizeof HELLO_GZ);
    /* printf 'hello\n' | sha256sum */
    assert_string_equal(script->tag, "5891b5b522d5df086d0ff0b110fbd9d2");
    const abl_web_file *index = file_find(&page, "/index.html", 11);
    assert_non_null(index);
    assert_int_equal(index->gzip_bytes, 0);
    assert_string_not_equal(index->tag, script->tag);
    abl_page_close(&page);
}

static void a_compressed_file_of_another_build_is_dropped(void **state) {
    (void)state;
    write_file("index.html", "<p>", 3);
    write_file("assets/a.js", "hello!\n", 7); /* a byte longer than what was compressed */
    write_file("assets/a.js.gz", HELLO_GZ, sizeof HELLO_GZ);
    write_file("assets/b.js", "", 0);
    write_file("assets/b.js.gz", "short", 5);
    write_file("data.gz", HELLO_GZ, sizeof HELLO_GZ); /* goes by itself */
    abl_page page;
    assert_int_equal(abl_page_open(root, &page, NULL), ABL_CODE_OK);
    assert_int_equal(page.file_count, 4);
    assert_int_equal(file_find(&page, "/assets/a.js", 12)->gzip_bytes, 0);
    assert_int_equal(file_find(&page, "/assets/b.js", 12)->gzip_bytes, 0);
    assert_null(file_find(&page, "/assets/a.js.gz", 15));
    assert_non_null(file_find(&page, "/data.gz", 8));
    abl_page_close(&page);
}

static void a_folder_without_an_index_is_refused_if_it_was_asked_for(void **state) {
    (void)state;
    abl_page page;
    abl_status status;
    assert_int_equal(abl_page_open(root, &page, &status), ABL_CODE_NOT_FOUND);
    assert_string_equal(status.reason, "WEB_ROOT_MISSING");
    assert_int_equal(abl_page_open("", &page, &status), ABL_CODE_OK);
    assert_int_equal(page.file_count, 1);
    assert_non_null(strstr((const char *)page.files[0].data, "make dashboard"));
    assert_non_null(page.files[0].tag);
    abl_page_close(&page);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_compressed_file_goes_with_its_own),
        TEST(a_compressed_file_of_another_build_is_dropped),
        TEST(a_folder_without_an_index_is_refused_if_it_was_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
