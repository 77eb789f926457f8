/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a fuzz target over files, without libFuzzer: what every build does with the committed
 * corpora, so that an input that once broke something is a plain test ever after. Arguments are
 * files or folders; each input is handed over in a block of its exact size, for
 * AddressSanitizer. */
#include "core/base/mem.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long replay_count;

static int replay_file(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = abl_malloc(size);
    int ok = file != NULL && data != NULL && fread(data, 1, size, file) == size;
    if (ok) {
        (void)LLVMFuzzerTestOneInput(data, size);
        replay_count++;
    } else {
        (void)fprintf(stderr, "cannot read %s\n", path);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    abl_free(data);
    return ok ? 0 : 1;
}

static int replay(const char *path);

static int replay_folder(const char *path) {
    DIR *folder = opendir(path);
    if (folder == NULL) {
        (void)fprintf(stderr, "cannot open %s\n", path);
        return 1;
    }
    int failed = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        char child[4096];
        int length = snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && length > 0 && (size_t)length < sizeof child) {
            failed |= replay(child);
        }
    }
    (void)closedir(folder);
    return failed;
}

static int replay(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        (void)fprintf(stderr, "no %s\n", path);
        return 1;
    }
    return S_ISDIR(info.st_mode) ? replay_folder(path) : replay_file(path, (size_t)info.st_size);
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        failed |= replay(argv[i]);
    }
    (void)printf("%lu inputs\n", replay_count);
    return (failed != 0 || replay_count == 0) ? EXIT_FAILURE : EXIT_SUCCESS;
}
