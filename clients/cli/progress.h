/* progress.h -- one line that says how far something is.
 *
 * On a terminal the line is redrawn in place; elsewhere it is a plain line, at most one a second,
 * so that a log stays readable. Always on standard error: standard output is for results.
 *
 * OWNERSHIP  The caller's memory; finish what was initialised.
 * THREADS    One thread.
 */
#ifndef ABLATE_CLI_PROGRESS_H
#define ABLATE_CLI_PROGRESS_H

#include "clients/cli/text.h"

ABL_BEGIN_DECLS

typedef struct abl_progress {
    FILE *out;
    abl_term term;
    bool drawn;        /* a line stands on the terminal and has to be erased */
    bool silent;       /* --json and --quiet */
    uint64_t plain_ms; /* when the last plain line was written */
} abl_progress;

void abl_progress_init(abl_progress *progress, FILE *out, bool silent);

/* `fraction` is clamped to [0, 1]; negative: not known, and no bar is drawn. `label` comes before
 * the bar, `tail` after it, cut where the line ends. `important`: no plain line is left out. */
void abl_progress_show(abl_progress *progress, double fraction, const char *label, const char *tail,
                       bool important);

/* Erases the line, so that the next output starts clean. */
void abl_progress_finish(abl_progress *progress);

/* A bar of `width` columns, into `buffer` (3 bytes a column and 3 more are enough). */
void abl_progress_bar(char *buffer, size_t size, bool unicode, int width, double fraction);

ABL_END_DECLS
#endif
