/* watch.h -- `--watch`: a table that is looked at again and again.
 *
 * A terminal gets the table redrawn in place; elsewhere there is a line for each row that came,
 * changed or went; with --json one document a line, whenever it differs from the last. A daemon
 * that stops answering is said to, and asked again; what stands there is not passed off as fresh.
 *
 * THREADS    One thread.
 */
#ifndef ABLATE_CLI_WATCH_H
#define ABLATE_CLI_WATCH_H

#include "clients/cli/cli.h"

ABL_BEGIN_DECLS

#define ABL_WATCH_TIMEOUT_MS 10000 /* of each call, where no --timeout says otherwise */

/* Fills the table or, with --json, gives a document to the caller. */
typedef abl_code (*abl_look_cb)(const abl_cli *cli, abl_table *table, json_t **ret_document,
                                void *user_data, abl_rpc_error *ret_error);

typedef struct abl_watch {
    const abl_column *columns; /* the first one's cell tells the rows apart */
    size_t column_count;
    unsigned restless; /* bits of columns whose change alone is none: how long a job has run */
    const char *restless_key; /* the same in documents; NULL: none */
    const char *none;         /* said where there are no rows */
    abl_look_cb look_cb;
    void *user_data;
} abl_watch;

/* Looks until Ctrl-C, which is INTERRUPTED; a first look that fails ends it as any call would. */
int abl_watch_run(abl_cli *cli, const abl_watch *watch);

/* A line for each row of `now` that `before` (NULL: nothing) lacks or has otherwise, and for each
 * that is gone; returns how many. `head` stands before each line. */
size_t abl_watch_changes(const abl_watch *watch, const abl_table *before, const abl_table *now,
                         FILE *out, const abl_term *term, const char *head);

ABL_END_DECLS
#endif
