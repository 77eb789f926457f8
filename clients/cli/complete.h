/* complete.h -- what may stand at the end of a command line, for the shells.
 *
 * The shells' scripts are thin: each gives the words typed so far to `ablate __complete`, and shows
 * what it prints. So all of them know what this very program takes, and none can be out of date.
 *
 * THREADS    One thread.
 */
#ifndef ABLATE_CLI_COMPLETE_H
#define ABLATE_CLI_COMPLETE_H

#include "clients/cli/commands.h"

ABL_BEGIN_DECLS

#define ABL_COMPLETE_WORD "__complete"

/* `words` are those after `ablate`; the last is the one to complete, "" where it has not begun.
 * Prints a line for each word that may stand there, a tab and what it is behind it, and ":files"
 * where a file's name may. Ids are asked of the daemon, which gets a third of a second. Always
 * exits with 0: a completion that fails is one that offers nothing. */
int abl_complete(FILE *out, int count, char **words);

ABL_END_DECLS
#endif
