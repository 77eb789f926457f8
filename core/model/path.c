/* SPDX-License-Identifier: Apache-2.0
 *
 * A path from outside is trusted only after realpath(): `..` and links are gone, and a plain prefix
 * comparison with the resolved root decides. What is opened afterwards is the resolved path, with
 * O_NOFOLLOW. Who can write inside a root can still swap a folder on the way between the two
 * steps; such a person can also put the bytes there, so openat2(RESOLVE_BENEATH) would buy nothing
 * that matters and cost portability. */
#include "core/model/path.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *error_text(int error, char *text, size_t text_bytes) {
    return strerror_r(error, text, text_bytes); /* the GNU one: returns the text */
}

static abl_code fail_errno(const char *path, int error, abl_status *ret_status) {
    if (error == ENOENT || error == ENOTDIR) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "FILE_MISSING", "no such file: '%s'", path);
    }
    if (error == ENAMETOOLONG) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PATH_TOO_LONG",
                        "path is longer than %d bytes: '%.80s...'", ABL_PATH_BYTES_MAX, path);
    }
    if (error == ENOMEM) {
        return abl_fail_oom(ret_status);
    }
    char text[128];
    return abl_fail(ret_status, ABL_CODE_PERMISSION_DENIED, "FILE_UNREADABLE",
                    "cannot read '%s': %s", path, error_text(error, text, sizeof text));
}

bool abl_path_is_below(const char *path, const char *root) {
    size_t length = strlen(root);
    while (length > 0 && root[length - 1] == '/') {
        length--;
    }
    return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

char *abl_path_join(const char *folder, const char *name) {
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = abl_malloc(bytes);
    if (path != NULL) {
        (void)snprintf(path, bytes, "%s/%s", folder, name);
    }
    return path;
}

abl_code abl_path_resolve(const char *path, const char *root, char **ret_path,
                          abl_status *ret_status) {
    ABL_ASSERT(path != NULL && ret_path != NULL);
    char resolved[PATH_MAX];
    char resolved_root[PATH_MAX];
    if (realpath(path, resolved) == NULL) {
        return fail_errno(path, errno, ret_status);
    }
    if (root != NULL) {
        if (realpath(root, resolved_root) == NULL) {
            return fail_errno(root, errno, ret_status);
        }
        if (!abl_path_is_below(resolved, resolved_root)) {
            return abl_fail(ret_status, ABL_CODE_PERMISSION_DENIED, "PATH_OUTSIDE_ROOT",
                            "'%s' leads out of '%s'; put the file there that a link points to, or "
                            "give ablated a --model-root that holds both",
                            path, root);
        }
    }
    char *copy = abl_strdup(resolved);
    if (copy == NULL) {
        return abl_fail_oom(ret_status);
    }
    *ret_path = copy;
    return ABL_CODE_OK;
}

abl_code abl_file_open(const char *path, int *ret_fd, size_t *ret_bytes, abl_status *ret_status) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return fail_errno(path, errno, ret_status);
    }
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        (void)close(fd);
        return abl_fail(ret_status, ABL_CODE_PERMISSION_DENIED, "FILE_UNREADABLE",
                        "cannot read '%s': not a plain file", path);
    }
    *ret_fd = fd;
    *ret_bytes = (size_t)info.st_size;
    return ABL_CODE_OK;
}

static abl_code read_all(int fd, const char *path, char *text, size_t bytes,
                         abl_status *ret_status) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(fd, text + done, bytes - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_errno(path, errno, ret_status);
        }
        if (got == 0) {
            return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "FILE_CHANGED",
                            "'%s' was cut short while it was read; try again", path);
        }
        done += (size_t)got;
    }
    text[bytes] = '\0';
    return ABL_CODE_OK;
}

abl_code abl_file_read(const char *path, size_t bytes_max, const char *reason_too_big,
                       char **ret_text, size_t *ret_bytes, abl_status *ret_status) {
    ABL_ASSERT(path != NULL && ret_text != NULL && ret_bytes != NULL);
    ABL_CLEANUP(abl_fd_closep) int fd = -1;
    size_t bytes = 0;
    abl_code code = abl_file_open(path, &fd, &bytes, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (bytes > bytes_max) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, reason_too_big,
                        "'%s' has %zu bytes; the limit is %zu", path, bytes, bytes_max);
    }
    char *text = abl_malloc(bytes + 1);
    if (text == NULL) {
        return abl_fail_oom(ret_status);
    }
    code = read_all(fd, path, text, bytes, ret_status);
    if (code != ABL_CODE_OK) {
        abl_free(text);
        return code;
    }
    *ret_text = text;
    *ret_bytes = bytes;
    return ABL_CODE_OK;
}

void abl_fd_closep(const int *fd) {
    if (*fd >= 0) {
        (void)close(*fd);
    }
}
