/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c -- see progress.h.
 *
 * The line is written as "\r", the text, "\033[K": no cursor arithmetic that a resized window could
 * spoil. It is one column shorter than the window, because terminals differ in what they do when
 * the last column is filled.
 */
#include "clients/cli/progress.h"

#include "core/base/mem.h"

#include <string.h>
#include <time.h>

#define BAR_WIDTH 16
#define BAR_WIDTH_MIN 6
#define PLAIN_INTERVAL_MS 1000

static uint64_t now_ms(void) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void abl_progress_init(abl_progress *progress, FILE *out, bool silent) {
    *progress = (abl_progress){.out = out, .term = abl_term_of(out), .silent = silent};
}

void abl_progress_bar(char *buffer, size_t size, bool unicode, int width, double fraction) {
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    fraction = fraction > 1 ? 1 : (fraction > 0 ? fraction : 0);
    int parts = (int)(fraction * width * 8);
    size_t length = 0;
    for (int i = 0; i < width; i++) {
        const char *cell = " ";
        if (parts >= (i + 1) * 8) {
            cell = unicode ? "█" : "#";
        } else if (parts > i * 8) {
            cell = unicode ? eighths[parts - i * 8] : "-";
        } else {
            cell = unicode ? " " : ".";
        }
        size_t bytes = strlen(cell);
        if (length + bytes + 1 > size) {
            break;
        }
        memcpy(buffer + length, cell, bytes);
        length += bytes;
    }
    buffer[length] = '\0';
}

/* `left` counts down the columns that are still free on the line. */
static void write_part(const abl_progress *progress, const char *text, int *left) {
    if (*left > 0) {
        *left -= abl_text_write(progress->out, &progress->term, text, *left);
    }
}

static void draw(abl_progress *progress, double fraction, const char *label, const char *tail) {
    int left = progress->term.width - 1;
    fputs("\r", progress->out);
    write_part(progress, label, &left);
    int bar_width = left / 3 < BAR_WIDTH ? left / 3 : BAR_WIDTH;
    if (fraction >= 0 && bar_width >= BAR_WIDTH_MIN) {
        char bar[BAR_WIDTH * 3 + 4];
        char percent[16];
        abl_progress_bar(bar, sizeof bar, progress->term.unicode, bar_width, fraction);
        (void)snprintf(percent, sizeof percent, "] %3d%%", (int)(fraction * 100));
        write_part(progress, " [", &left);
        abl_term_style(&progress->term, progress->out, "36");
        write_part(progress, bar, &left);
        abl_term_reset(&progress->term, progress->out);
        write_part(progress, percent, &left);
    }
    write_part(progress, "  ", &left);
    write_part(progress, tail, &left);
    fputs("\033[K", progress->out);
    (void)fflush(progress->out);
    progress->drawn = true;
}

static void write_plain(abl_progress *progress, double fraction, const char *label,
                        const char *tail) {
    int left = progress->term.width == 0 ? INT32_MAX : progress->term.width;
    write_part(progress, label, &left);
    if (fraction >= 0) {
        char percent[16];
        (void)snprintf(percent, sizeof percent, " %3d%%", (int)(fraction * 100));
        write_part(progress, percent, &left);
    }
    write_part(progress, "  ", &left);
    write_part(progress, tail, &left);
    fputc('\n', progress->out);
    (void)fflush(progress->out);
}

void abl_progress_show(abl_progress *progress, double fraction, const char *label, const char *tail,
                       bool important) {
    if (progress->silent) {
        return;
    }
    fraction = fraction > 1 ? 1 : fraction;
    ABL_CLEANUP(abl_freep) char *clean_label = abl_text_printable(label);
    ABL_CLEANUP(abl_freep) char *clean_tail = abl_text_printable(tail);
    if (clean_label == NULL || clean_tail == NULL) {
        return; /* a missing progress line is not worth an error */
    }
    for (size_t end = strlen(clean_tail); end > 0 && clean_tail[end - 1] == ' '; end--) {
        clean_tail[end - 1] = '\0';
    }
    if (progress->term.tty) {
        draw(progress, fraction, clean_label, clean_tail);
        return;
    }
    uint64_t now = now_ms();
    if (important || progress->plain_ms == 0 || now - progress->plain_ms >= PLAIN_INTERVAL_MS) {
        progress->plain_ms = now;
        write_plain(progress, fraction, clean_label, clean_tail);
    }
}

void abl_progress_finish(abl_progress *progress) {
    if (progress->drawn) {
        fputs("\r\033[K", progress->out);
        (void)fflush(progress->out);
        progress->drawn = false;
    }
}
