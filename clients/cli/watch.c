/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c -- see watch.h.
 *
 * A drawing is made in a file first, cut to the window's height, and written in one piece over the
 * last one: up as many lines as that had, each line erased behind its end, and what is left below
 * erased. Where the window was resized the old lines may have been wrapped, so the window is
 * cleared instead. */
#include "clients/cli/watch.h"

#include <string.h>
#include <time.h>

#define INTERVAL_S 1.0
#define INTERVAL_MIN_S 0.1
#define NOTE_BYTES 1200

typedef struct watching {
    abl_cli *cli;
    const abl_watch *watch;
    abl_table *table; /* as it was last seen */
    json_t *document;
    size_t line_count; /* that stand on the terminal */
    int width;         /* of the terminal when they were drawn */
    char since[16];    /* when the daemon stopped answering; "": it answers */
} watching;

static void clock_text(char *buffer, size_t size) {
    time_t now = time(NULL);
    struct tm local = {0};
    buffer[0] = '\0';
    if (localtime_r(&now, &local) != NULL) {
        (void)strftime(buffer, size, "%H:%M:%S", &local);
    }
}

/* --- A line a change -------------------------------------------------------------------------- */

static size_t row_of(const abl_table *table, const char *key) {
    size_t row = 0;
    while (row < abl_table_row_count(table) && strcmp(abl_table_cell(table, row, 0), key) != 0) {
        row++;
    }
    return row;
}

static bool same_row(const abl_watch *watch, const abl_table *before, size_t was,
                     const abl_table *now, size_t row) {
    for (size_t i = 0; i < watch->column_count; i++) {
        if ((watch->restless >> i & 1) == 0 &&
            strcmp(abl_table_cell(before, was, i), abl_table_cell(now, row, i)) != 0) {
            return false;
        }
    }
    return true;
}

static void put_line(FILE *out, const abl_term *term, const char *line) {
    (void)abl_text_write(out, term, line, term->width);
    fputc('\n', out);
}

static void put_row(const abl_watch *watch, const abl_table *table, size_t row, FILE *out,
                    const abl_term *term, const char *head) {
    char line[2048];
    size_t length = (size_t)snprintf(line, sizeof line, "%s", head);
    for (size_t i = 0; i < watch->column_count && length < sizeof line; i++) {
        const char *cell = abl_table_cell(table, row, i);
        if (cell[0] != '\0') {
            int written =
                snprintf(line + length, sizeof line - length, "%s%s", length > 0 ? "  " : "", cell);
            length += written > 0 ? (size_t)written : 0;
        }
    }
    put_line(out, term, line);
}

size_t abl_watch_changes(const abl_watch *watch, const abl_table *before, const abl_table *now,
                         FILE *out, const abl_term *term, const char *head) {
    size_t count = 0;
    for (size_t row = 0; row < abl_table_row_count(now); row++) {
        size_t was = row_of(before, abl_table_cell(now, row, 0));
        if (was == abl_table_row_count(before) || !same_row(watch, before, was, now, row)) {
            put_row(watch, now, row, out, term, head);
            count++;
        }
    }
    for (size_t row = 0; row < abl_table_row_count(before); row++) {
        const char *key = abl_table_cell(before, row, 0);
        if (row_of(now, key) == abl_table_row_count(now)) {
            char line[512];
            (void)snprintf(line, sizeof line, "%s%s%.256s  gone", head, head[0] == '\0' ? "" : "  ",
                           key);
            put_line(out, term, line);
            count++;
        }
    }
    return count;
}

/* --- Redrawing -------------------------------------------------------------------------------- */

static void file_closep(FILE **file) {
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

/* The table, or that there is nothing, and the note below it. */
static void render(const watching *it, const char *note, FILE *out) {
    const abl_term *term = &it->cli->out;
    if (abl_table_row_count(it->table) == 0) {
        abl_text_wrap(out, term, 2, it->watch->none);
    } else if (!abl_table_print(it->table, out, term)) {
        put_line(out, term, "out of memory");
    }
    abl_term_style(term, out, "2");
    put_line(out, term, note);
    abl_term_reset(term, out);
}

static size_t lines_of(FILE *file) {
    size_t count = 0;
    rewind(file);
    for (int c = getc(file); c != EOF; c = getc(file)) {
        count += c == '\n';
    }
    rewind(file);
    return count;
}

/* Writes the lines; of too many the last before the note are left out. */
static void put_lines(watching *it, FILE *file, size_t height) {
    size_t count = lines_of(file);
    size_t shown = count < height ? count : height;
    size_t line = 0;
    for (int c = getc(file); c != EOF; c = getc(file)) {
        bool visible = line + 1 < shown || line + 1 >= count;
        if (visible && c == '\n') {
            fputs("\033[K", stdout);
        }
        if (visible) {
            fputc(c, stdout);
        }
        line += c == '\n';
    }
    it->line_count = shown;
}

static void draw(watching *it, const char *note) {
    it->cli->out = abl_term_of(stdout); /* it may have been resized */
    ABL_CLEANUP(file_closep) FILE *file = tmpfile();
    if (file == NULL) {
        return; /* the next drawing may find room */
    }
    render(it, note, file);
    if (it->line_count > 0 && it->width != it->cli->out.width) {
        fputs("\033[2J\033[H", stdout);
    } else if (it->line_count > 0) {
        fprintf(stdout, "\033[%zuA\r", it->line_count);
    }
    it->width = it->cli->out.width;
    int height = abl_term_height(stdout);
    put_lines(it, file, height > 3 ? (size_t)height - 1 : 2);
    fputs("\033[J", stdout);
    (void)fflush(stdout);
}

/* --- Looking ---------------------------------------------------------------------------------- */

static bool same_document(const watching *it, json_t *now) {
    json_t *before = json_copy(it->document);
    json_t *after = json_copy(now);
    if (it->watch->restless_key != NULL) {
        (void)json_object_del(before, it->watch->restless_key);
        (void)json_object_del(after, it->watch->restless_key);
    }
    bool same = it->document != NULL && json_equal(before, after) == 1;
    json_decref(before);
    json_decref(after);
    return same;
}

static int show_document(watching *it, json_t *now) {
    int code = ABL_EXIT_OK;
    if (!same_document(it, now)) {
        code = abl_cli_put_json(it->cli, json_incref(now), true);
    }
    json_decref(it->document);
    it->document = now;
    return code;
}

static void show_table(watching *it, abl_table *now) {
    char head[16];
    clock_text(head, sizeof head);
    if (!it->cli->out.tty) {
        bool none = abl_table_row_count(now) == 0 &&
                    (it->table == NULL || abl_table_row_count(it->table) > 0);
        (void)abl_watch_changes(it->watch, it->table, now, stdout, &it->cli->out, head);
        if (none) {
            abl_cli_say(it->cli, "%s  %s", head, it->watch->none);
        }
        (void)fflush(stdout);
    }
    abl_table_destroy(it->table);
    it->table = now;
    if (it->cli->out.tty) {
        char note[NOTE_BYTES];
        (void)snprintf(note, sizeof note, "%s  Ctrl-C ends the watch", head);
        draw(it, note);
    }
}

/* Says once that nobody answers; on a terminal, as long as that is so. */
static void show_trouble(watching *it, const abl_rpc_error *error) {
    bool first = it->since[0] == '\0';
    char note[NOTE_BYTES];
    if (first) {
        clock_text(it->since, sizeof it->since);
    }
    (void)snprintf(note, sizeof note, "no answer from %.256s since %s; trying on",
                   abl_rpc_host(it->cli->rpc), it->since);
    if (it->cli->out.tty && !it->cli->json) {
        draw(it, note);
    } else if (first) {
        if (it->cli->json) {
            (void)abl_cli_failed(it->cli, error);
        } else {
            abl_text_wrap(stderr, &it->cli->err, 2, note);
        }
    }
}

/* The daemon is away, ends, or is overloaded: worth another try. */
static bool passing(const abl_rpc_error *error) {
    return error->unreachable || error->code == ABL_CODE_UNAVAILABLE ||
           error->code == ABL_CODE_CANCELLED || error->code == ABL_CODE_DEADLINE_EXCEEDED;
}

static int look(watching *it, bool first) {
    const abl_watch *watch = it->watch;
    abl_rpc_error error = {0};
    json_t *document = NULL;
    abl_table *table = abl_table_create(watch->columns, watch->column_count);
    abl_code code = watch->look_cb(it->cli, table, &document, watch->user_data, &error);
    if (code != ABL_CODE_OK) {
        abl_table_destroy(table);
        json_decref(document);
        if (abl_rpc_interrupted()) {
            return ABL_EXIT_INTERRUPTED;
        }
        if (first || !passing(&error)) {
            return abl_cli_failed(it->cli, &error);
        }
        show_trouble(it, &error);
        return ABL_EXIT_OK;
    }
    it->since[0] = '\0';
    if (it->cli->json) {
        abl_table_destroy(table);
        return document == NULL ? abl_cli_error(it->cli, "out of memory")
                                : show_document(it, document);
    }
    show_table(it, table);
    return ABL_EXIT_OK;
}

int abl_watch_run(abl_cli *cli, const abl_watch *watch) {
    double interval =
        cli->args->given[ABL_OPTION_INTERVAL] ? cli->args->number[ABL_OPTION_INTERVAL] : INTERVAL_S;
    if (interval < INTERVAL_MIN_S) {
        return abl_cli_usage(cli, "--interval takes seconds, %.1f or more", INTERVAL_MIN_S);
    }
    watching it = {.cli = cli, .watch = watch};
    int code = look(&it, true);
    while (code == ABL_EXIT_OK) {
        code = abl_rpc_pause(interval) ? look(&it, false) : ABL_EXIT_INTERRUPTED;
    }
    abl_table_destroy(it.table);
    json_decref(it.document);
    return code;
}
