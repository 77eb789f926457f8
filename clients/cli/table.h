/* table.h -- rows and columns that fit the terminal.
 *
 * OWNERSHIP  The table copies its cells; the columns are borrowed for its life.
 * THREADS    One thread.
 * ERRORS     Sticky: an allocation that fails is remembered and told by abl_table_print().
 *
 * Where the terminal is too narrow, flexible columns are cut; where that is not enough, the last
 * columns are left out, which "…" behind the titles says. Columns that are not flexible, such as
 * ids, which people copy, and numbers, are whole or not there. Nothing ever exceeds the width.
 */
#ifndef ABLATE_CLI_TABLE_H
#define ABLATE_CLI_TABLE_H

#include "clients/cli/text.h"

ABL_BEGIN_DECLS

typedef struct abl_column {
    const char *title;
    bool right;    /* numbers align right */
    bool flexible; /* names and text may be cut to make room */
} abl_column;

typedef struct abl_table abl_table;

/* NULL: no memory; every function below takes NULL for a table that remembers just that. */
ABL_MUST_CHECK abl_table *abl_table_create(const abl_column *columns, size_t column_count);
void abl_table_destroy(abl_table *table);
void abl_table_destroyp(abl_table **table); /* for ABL_CLEANUP */

/* The next cell; cells fill row after row. Control characters are escaped. */
void abl_table_add(abl_table *table, const char *format, ...) ABL_PRINTF(2, 3);
size_t abl_table_row_count(const abl_table *table);
const char *abl_table_cell(const abl_table *table, size_t row, size_t column); /* borrowed */

/* A picture behind the last column, where the width is known and leaves room: a bar for each row,
 * `fractions` of [0, 1], which are borrowed until the table is printed, as is the title. */
void abl_table_bars(abl_table *table, const char *title, const double *fractions, size_t count);

/* What does not fit into the last column goes on in the next line, instead of being cut. */
void abl_table_wrap(abl_table *table);

/* False: there was no memory for some cell, and nothing is printed. */
ABL_MUST_CHECK bool abl_table_print(const abl_table *table, FILE *out, const abl_term *term);

ABL_END_DECLS
#endif
