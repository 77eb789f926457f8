/* path.h -- files that must stay below a root: resolved, opened, read.
 *
 * OWNERSHIP  Strings and bytes handed out are the caller's: abl_free().
 * THREADS    Any thread; every call blocks on disk.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 *              NOT_FOUND           FILE_MISSING       nothing at the path
 *              PERMISSION_DENIED   PATH_OUTSIDE_ROOT  links resolved, it is not below root
 *              PERMISSION_DENIED   FILE_UNREADABLE    the system refuses, or not a plain file
 *              INVALID_ARGUMENT    PATH_TOO_LONG      over ABL_PATH_BYTES_MAX
 */
#ifndef ABLATE_CORE_MODEL_PATH_H
#define ABLATE_CORE_MODEL_PATH_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

/* The absolute path with every link resolved. root: NULL, or a folder (links in it are resolved
 * too) that the result must lie in. */
ABL_MUST_CHECK abl_code abl_path_resolve(const char *path, const char *root, char **ret_path,
                                         abl_status *ret_status);

/* Both without links: is `path` the folder `root` or below it? */
bool abl_path_is_below(const char *path, const char *root);

/* "a/b". NULL when there is no memory. */
ABL_MUST_CHECK char *abl_path_join(const char *folder, const char *name);

/* Opens a plain file for reading; never blocks on a pipe, never follows a link at the last step
 * (resolve first). */
ABL_MUST_CHECK abl_code abl_file_open(const char *path, int *ret_fd, size_t *ret_bytes,
                                      abl_status *ret_status);

/* The whole file, with a NUL after it that *ret_bytes does not count. Over bytes_max:
 * RESOURCE_EXHAUSTED with reason_too_big (static storage). */
ABL_MUST_CHECK abl_code abl_file_read(const char *path, size_t bytes_max,
                                      const char *reason_too_big, char **ret_text,
                                      size_t *ret_bytes, abl_status *ret_status);

/* For ABL_CLEANUP: closes the descriptor unless it is negative. */
void abl_fd_closep(const int *fd);

ABL_END_DECLS
#endif
