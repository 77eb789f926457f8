/* SPDX-License-Identifier: Apache-2.0 */
/* out_file.c -- see out_file.h. */
#include "clients/cli/out_file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static bool failed(const char *path, char *problem, size_t problem_size) {
    (void)snprintf(problem, problem_size, "cannot write '%s': %s", path,
                   errno == 0 ? "out of memory" : strerror(errno));
    return false;
}

bool abl_out_open(abl_out_file *out, const char *path, char *problem, size_t problem_size) {
    struct stat there;
    memset(out, 0, sizeof *out);
    out->path = path;
    bool in_place = stat(path, &there) == 0 && !S_ISREG(there.st_mode);
    int length = in_place ? 0 : snprintf(out->temporary, sizeof out->temporary, "%s.part", path);
    if (length >= (int)sizeof out->temporary) {
        errno = ENAMETOOLONG;
        return failed(path, problem, problem_size);
    }
    out->file = fopen(in_place ? path : out->temporary, "wbe");
    return out->file != NULL || failed(path, problem, problem_size);
}

bool abl_out_close(abl_out_file *out, bool written, char *problem, size_t problem_size) {
    int why = errno;
    bool closed = fclose(out->file) == 0;
    why = written && !closed ? errno : why;
    bool done = written && closed;
    if (done && out->temporary[0] != '\0') {
        done = rename(out->temporary, out->path) == 0;
        why = errno;
    }
    if (!done) {
        if (out->temporary[0] != '\0') {
            (void)remove(out->temporary);
        }
        errno = why;
        return failed(out->path, problem, problem_size);
    }
    return true;
}

bool abl_out_possible(const char *path, char *problem, size_t problem_size) {
    struct stat there;
    if (path == NULL) {
        return true;
    }
    if (stat(path, &there) == 0 && S_ISDIR(there.st_mode)) {
        errno = EISDIR;
        return failed(path, problem, problem_size);
    }
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode)) {
        return true; /* opening a pipe would wait for its reader */
    }
    abl_out_file out;
    if (!abl_out_open(&out, path, problem, problem_size)) {
        return false;
    }
    (void)fclose(out.file);
    (void)remove(out.temporary);
    return true;
}
