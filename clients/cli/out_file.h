/* out_file.h -- a file that a command writes: there whole, or not at all.
 *
 * A new or a plain file is written beside its place and then renamed, so that a crash or a full
 * disk leaves no half of one. What is no plain file (a device, a pipe) is written to as it is:
 * renaming would put a file in its place.
 *
 * OWNERSHIP  abl_out_open() hands the file to the caller; abl_out_close() ends it.
 * THREADS    One thread.
 * ERRORS     NULL or false, and a sentence in `problem`.
 */
#ifndef ABLATE_CLI_OUT_FILE_H
#define ABLATE_CLI_OUT_FILE_H

#include "core/base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

ABL_BEGIN_DECLS

typedef struct abl_out_file {
    FILE *file;
    const char *path;     /* borrowed */
    char temporary[4096]; /* "": written in place */
} abl_out_file;

ABL_MUST_CHECK bool abl_out_open(abl_out_file *out, const char *path, char *problem,
                                 size_t problem_size);
/* `written` false: the file is given up, and errno says why. */
ABL_MUST_CHECK bool abl_out_close(abl_out_file *out, bool written, char *problem,
                                  size_t problem_size);
/* Whether a file could be written there, for work whose result is to go into it: better said before
 * than after. NULL: none is wanted. */
ABL_MUST_CHECK bool abl_out_possible(const char *path, char *problem, size_t problem_size);

ABL_END_DECLS
#endif
