/* files.h -- a temporary folder for a test, and files in it. */
#ifndef ABLATE_TESTS_UNIT_FILES_H
#define ABLATE_TESTS_UNIT_FILES_H

#include "tests/unit/unit.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct test_folder {
    char path[64]; /* absolute, without links */
} test_folder;

static inline void test_folder_create(test_folder *folder) {
    (void)snprintf(folder->path, sizeof folder->path, "/tmp/ablate_test_XXXXXX");
    assert_non_null(mkdtemp(folder->path));
}

static inline int test_folder_remove_one(const char *path, const struct stat *info, int type,
                                         struct FTW *walk) {
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline void test_folder_destroy(const test_folder *folder) {
    assert_int_equal(nftw(folder->path, test_folder_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* "folder/name" in a buffer of its own; eight results live at once. */
static inline const char *test_path(const test_folder *folder, const char *name) {
    static char paths[8][1024];
    static unsigned next;
    char *path = paths[next++ % 8];
    int wrote = snprintf(path, sizeof paths[0], "%s/%s", folder->path, name);
    assert_in_range(wrote, 1, sizeof paths[0] - 1);
    return path;
}

/* Creates the folders above, too. */
static inline void test_write(const test_folder *folder, const char *name, const void *bytes,
                              size_t count) {
    char path[1024];
    (void)snprintf(path, sizeof path, "%s", test_path(folder, name));
    for (char *slash = strchr(path + strlen(folder->path) + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static inline void test_write_text(const test_folder *folder, const char *name, const char *text) {
    test_write(folder, name, text, strlen(text));
}

static inline void test_link(const test_folder *folder, const char *target, const char *name) {
    assert_int_equal(symlink(target, test_path(folder, name)), 0);
}

/* Fails unless the message has the fragment. */
static inline void assert_mentions(const char *message, const char *fragment) {
    if (strstr(message, fragment) == NULL) {
        fail_msg("'%s' does not mention '%s'", message, fragment);
    }
}

#endif
