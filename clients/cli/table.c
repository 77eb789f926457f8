/* SPDX-License-Identifier: Apache-2.0 */
/* table.c -- see table.h.
 *
 * Cells are kept as one growing array of strings, row major, because a column's width is only
 * known when the last row is. Layout is one pass for the natural widths, one that finds how many
 * columns fit at their narrowest, then a loop that takes a column at a time from the widest one
 * that may shrink, which keeps columns even.
 */
#include "clients/cli/table.h"

#include "clients/cli/progress.h"
#include "core/base/assert.h"
#include "core/base/mem.h"

#include <stdarg.h>
#include <string.h>

#define GAP 2               /* columns between columns */
#define FLEXIBLE_MIN 12     /* a name cut shorter than this says little */
#define COLUMN_COUNT_MAX 16 /* more is a mistake in this program */
#define CELL_BYTES_MAX 65536
#define MARK_MAX 2 /* columns of "…" or ".." */
#define BAR_MIN 6  /* a shorter bar tells nothing apart */
#define BAR_MAX 24

struct abl_table {
    const abl_column *columns;
    size_t column_count;
    char **cells; /* (row, column) */
    size_t cell_count;
    size_t cell_capacity;
    bool failed;
    bool wraps; /* the last column */
    const char *bar_title;
    const double *bars; /* (row); NULL: none */
    size_t bar_count;
};

abl_table *abl_table_create(const abl_column *columns, size_t column_count) {
    if (column_count == 0 || column_count > COLUMN_COUNT_MAX) {
        return NULL;
    }
    abl_table *table = abl_calloc(1, sizeof *table);
    if (table != NULL) {
        table->columns = columns;
        table->column_count = column_count;
    }
    return table;
}

void abl_table_destroy(abl_table *table) {
    if (table == NULL) {
        return;
    }
    for (size_t i = 0; i < table->cell_count; i++) {
        abl_free(table->cells[i]);
    }
    abl_free(table->cells);
    abl_free(table);
}

void abl_table_destroyp(abl_table **table) {
    abl_table_destroy(*table);
}

static bool table_reserve(abl_table *table) {
    if (table->cell_count < table->cell_capacity) {
        return true;
    }
    size_t capacity = table->cell_capacity == 0 ? 64 : table->cell_capacity * 2;
    char **cells = abl_realloc_array(table->cells, capacity, sizeof *cells);
    if (cells == NULL) {
        return false;
    }
    table->cells = cells;
    table->cell_capacity = capacity;
    return true;
}

void abl_table_add(abl_table *table, const char *format, ...) {
    if (table == NULL || table->failed) {
        return;
    }
    ABL_CLEANUP(abl_freep) char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    size_t size = length < 0 ? 1 : (size_t)length + 1;
    if (size > CELL_BYTES_MAX) {
        size = CELL_BYTES_MAX;
    }
    text = abl_malloc(size);
    char *cell = NULL;
    if (text != NULL) {
        va_start(arguments, format);
        (void)vsnprintf(text, size, format, arguments);
        va_end(arguments);
        cell = abl_text_printable(text);
    }
    if (cell == NULL || !table_reserve(table)) {
        abl_free(cell);
        table->failed = true;
        return;
    }
    table->cells[table->cell_count++] = cell;
}

size_t abl_table_row_count(const abl_table *table) {
    return table == NULL ? 0 : table->cell_count / table->column_count;
}

const char *abl_table_cell(const abl_table *table, size_t row, size_t column) {
    ABL_ASSERT(row < abl_table_row_count(table) && column < table->column_count);
    return table->cells[row * table->column_count + column];
}

void abl_table_bars(abl_table *table, const char *title, const double *fractions, size_t count) {
    if (table != NULL) {
        table->bar_title = title;
        table->bars = fractions;
        table->bar_count = count;
    }
}

void abl_table_wrap(abl_table *table) {
    if (table != NULL) {
        table->wraps = true;
    }
}

static int total_width(const int *widths, size_t count) {
    int total = count == 0 ? 0 : (int)(count - 1) * GAP;
    for (size_t i = 0; i < count; i++) {
        total += widths[i];
    }
    return total;
}

/* The widest column that may give one; -1: none. */
static int widest(const abl_table *table, const int *widths, size_t count) {
    int best = -1;
    for (size_t i = 0; i < count; i++) {
        if (table->columns[i].flexible && widths[i] > FLEXIBLE_MIN &&
            (best < 0 || widths[i] > widths[best])) {
            best = (int)i;
        }
    }
    return best;
}

/* How many columns there is room for, at least one. */
static size_t columns_that_fit(const abl_table *table, const int *widths, int width) {
    int total = -GAP;
    for (size_t i = 0; i < table->column_count; i++) {
        bool cut = table->columns[i].flexible && widths[i] > FLEXIBLE_MIN;
        total += GAP + (cut ? FLEXIBLE_MIN : widths[i]);
        if (total > width) {
            return i == 0 ? 1 : i;
        }
    }
    return table->column_count;
}

/* Sets the widths and returns how many columns are shown. */
static size_t layout(const abl_table *table, int width, int *widths) {
    size_t count = table->column_count;
    for (size_t i = 0; i < count; i++) {
        widths[i] = abl_text_width(table->columns[i].title);
    }
    for (size_t i = 0; i < table->cell_count; i++) {
        int cell = abl_text_width(table->cells[i]);
        if (cell > widths[i % count]) {
            widths[i % count] = cell;
        }
    }
    if (width == 0) {
        return count;
    }
    count = columns_that_fit(table, widths, width);
    int room = width - (count < table->column_count ? GAP + MARK_MAX : 0);
    int column = 0;
    while (column >= 0 && total_width(widths, count) > room) {
        column = widest(table, widths, count);
        if (column >= 0) {
            widths[column]--;
        }
    }
    if (total_width(widths, count) > width) {
        widths[0] = width; /* not even one fits */
    }
    return count;
}

static void print_cell(const abl_column *column, const char *text, int width, bool last, FILE *out,
                       const abl_term *term) {
    int used = abl_text_width(text);
    int written = column->right && used < width ? width - used : 0;
    fprintf(out, "%*s", written, "");
    if (width > 0) {
        written += abl_text_write(out, term, text, width);
    }
    if (!last) {
        /* A cut cell may be a column short: a wide character did not fit. */
        fprintf(out, "%*s", (written < width ? width - written : 0) + GAP, "");
    }
}

/* Columns that the bars get, 0: there are none, or too little is left for one. */
static int bar_width(const abl_table *table, const int *widths, size_t shown, int width) {
    int room = width - total_width(widths, shown) - GAP;
    if (table->bars == NULL || width == 0 || shown < table->column_count || room < BAR_MIN) {
        return 0;
    }
    return room < BAR_MAX ? room : BAR_MAX;
}

static void print_bar(const abl_table *table, size_t row, int width, FILE *out,
                      const abl_term *term) {
    char bar[BAR_MAX * 3 + 4];
    double fraction = row < table->bar_count ? table->bars[row] : 0;
    abl_progress_bar(bar, sizeof bar, term->unicode, width, fraction);
    for (size_t end = strlen(bar); end > 0 && bar[end - 1] == ' '; end--) {
        bar[end - 1] = '\0'; /* nothing stands behind it */
    }
    abl_term_style(term, out, "36");
    fputs(bar, out);
    abl_term_reset(term, out);
}

bool abl_table_print(const abl_table *table, FILE *out, const abl_term *term) {
    if (table == NULL || table->failed) {
        return false;
    }
    int widths[COLUMN_COUNT_MAX] = {0};
    size_t shown = layout(table, term->width, widths);
    int bar = bar_width(table, widths, shown, term->width);
    int used = total_width(widths, shown);
    const char *mark = term->unicode ? "…" : "..";
    bool wraps = table->wraps && bar == 0 && shown == table->column_count;
    bool titled = bar > 0 && table->bar_title[0] != '\0';
    bool marked = shown < table->column_count && table->columns[shown].title[0] != '\0' &&
                  used + GAP + abl_text_width(mark) <= term->width;
    abl_term_style(term, out, "1");
    for (size_t i = 0; i < shown; i++) {
        print_cell(&table->columns[i], table->columns[i].title, widths[i],
                   i + 1 == shown && !titled && !marked, out, term);
    }
    if (titled) {
        (void)abl_text_write(out, term, table->bar_title, bar);
    } else if (marked) {
        fputs(mark, out);
    }
    abl_term_reset(term, out);
    fputc('\n', out);
    for (size_t row = 0; row < abl_table_row_count(table); row++) {
        for (size_t i = 0; i < shown; i++) {
            const char *text = table->cells[row * table->column_count + i];
            bool last = i + 1 == shown && bar == 0;
            if (last && wraps) {
                abl_text_hang(out, term, used - widths[i], text);
            } else {
                print_cell(&table->columns[i], text, widths[i], last, out, term);
            }
        }
        if (bar > 0) {
            print_bar(table, row, bar, out, term);
        }
        if (!wraps) {
            fputc('\n', out);
        }
    }
    return true;
}
