/* SPDX-License-Identifier: Apache-2.0 */
/* text.c -- see text.h.
 *
 * Everything is measured character by character with mbrtowc() and wcwidth(), so abl_text_init()
 * leaves LC_CTYPE at a UTF-8 locale whatever the environment says: what the server sends is UTF-8.
 * Whether the *terminal* understands UTF-8 is a separate question, answered from the environment's
 * own locale, and only decides which characters we draw ourselves.
 */
#include "clients/cli/text.h"

#include "core/base/mem.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#define WIDTH_MAX 10000 /* more is not a terminal but a mistake */

static bool terminal_is_utf8 = false;

void abl_text_init(void) {
    const char *locale = setlocale(LC_CTYPE, "");
    terminal_is_utf8 = locale != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    if (!terminal_is_utf8) {
        (void)setlocale(LC_CTYPE, "C.UTF-8");
    }
}

/* A number of the environment; 0: none that makes sense. */
static int size_of(const char *variable) {
    const char *text = getenv(variable);
    char *end = NULL;
    long number = text == NULL ? 0 : strtol(text, &end, 10);
    return text != NULL && end != text && *end == '\0' && number > 0 && number <= WIDTH_MAX
               ? (int)number
               : 0;
}

int abl_term_height(FILE *stream) {
    struct winsize size = {0};
    int lines = size_of("LINES");
    if (lines == 0 && ioctl(fileno(stream), TIOCGWINSZ, &size) == 0) {
        lines = size.ws_row;
    }
    return lines > 0 ? lines : 24;
}

static int width_of(FILE *stream, bool tty) {
    int columns = size_of("COLUMNS");
    if (columns > 0) {
        return columns;
    }
    struct winsize size = {0};
    if (tty && ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return tty ? 80 : 0;
}

abl_term abl_term_of(FILE *stream) {
    const char *no_color = getenv("NO_COLOR");
    const char *terminal = getenv("TERM");
    bool dumb = terminal == NULL || strcmp(terminal, "dumb") == 0;
    bool tty = isatty(fileno(stream)) == 1;
    return (abl_term){
        .width = width_of(stream, tty),
        .tty = tty && !dumb,
        .color = tty && !dumb && (no_color == NULL || no_color[0] == '\0'),
        .unicode = terminal_is_utf8,
    };
}

void abl_term_style(const abl_term *term, FILE *out, const char *style) {
    if (term->color) {
        fprintf(out, "\033[%sm", style);
    }
}

void abl_term_reset(const abl_term *term, FILE *out) {
    abl_term_style(term, out, "0");
}

/* The next character: its bytes (0: the end), its width, and whether it may be shown as it is. */
static size_t next_character(const char *text, int *ret_width, bool *ret_printable) {
    if (*text == '\0') {
        return 0;
    }
    wchar_t character = 0;
    mbstate_t state = {0};
    size_t bytes = mbrtowc(&character, text, strlen(text), &state);
    if (bytes == (size_t)-1 || bytes == (size_t)-2) {
        *ret_width = 1;
        *ret_printable = false;
        return 1;
    }
    int width = wcwidth(character);
    *ret_printable = width >= 0;
    *ret_width = width < 0 ? 1 : width;
    return bytes;
}

/* Writes what stands for a character that may not be shown; at most 4 bytes a source byte. */
static size_t escape(const char *text, size_t bytes, char *target) {
    static const char names[] = "abtnvfr"; /* from \a, 7, on */
    unsigned char byte = (unsigned char)text[0];
    if (bytes == 1 && byte >= '\a' && byte <= '\r') {
        target[0] = '\\';
        target[1] = names[byte - '\a'];
        return 2;
    }
    if (bytes == 1 && byte < 0x80) {
        static const char digits[] = "0123456789abcdef";
        char hex[] = {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
        memcpy(target, hex, sizeof hex);
        return sizeof hex;
    }
    memcpy(target, "\xEF\xBF\xBD", 3); /* U+FFFD; also for C1 controls and unassigned characters */
    return 3;
}

char *abl_text_printable(const char *text) {
    char *copy = abl_calloc(strlen(text) + 1, 4);
    if (copy == NULL) {
        return NULL;
    }
    size_t length = 0;
    int width = 0;
    bool printable = false;
    size_t bytes = 0;
    while ((bytes = next_character(text, &width, &printable)) > 0) {
        if (printable) {
            memcpy(copy + length, text, bytes);
            length += bytes;
        } else {
            length += escape(text, bytes, copy + length);
        }
        text += bytes;
    }
    copy[length] = '\0';
    return copy;
}

size_t abl_text_clip(const char *text, int width, int *ret_width) {
    size_t length = 0;
    int used = 0;
    int character_width = 0;
    bool printable = false;
    size_t bytes = 0;
    while ((bytes = next_character(text + length, &character_width, &printable)) > 0) {
        if (used + character_width > width) {
            break;
        }
        used += character_width;
        length += bytes;
    }
    if (ret_width != NULL) {
        *ret_width = used;
    }
    return length;
}

int abl_text_width(const char *text) {
    int width = 0;
    (void)abl_text_clip(text, INT32_MAX, &width);
    return width;
}

int abl_text_write(FILE *out, const abl_term *term, const char *text, int width) {
    int full = abl_text_width(text);
    if (width == 0 || full <= width) {
        fputs(text, out);
        return full;
    }
    const char *mark = term->unicode ? "…" : "..";
    int mark_width = term->unicode ? 1 : 2;
    if (width < mark_width + 1) {
        mark = "";
        mark_width = 0;
    }
    int used = 0;
    size_t bytes = abl_text_clip(text, width - mark_width, &used);
    fwrite(text, 1, bytes, out);
    fputs(mark, out);
    return used + mark_width;
}

/* Writes one line's worth of `text` and returns the rest of it. */
static const char *wrap_line(FILE *out, const char *text, int width) {
    size_t line = strcspn(text, "\n");
    size_t fits = width == 0 ? line : abl_text_clip(text, width, NULL);
    if (fits < line) {
        size_t cut = fits;
        while (cut > 0 && text[cut] != ' ') {
            cut--;
        }
        /* At least one character a line, or a narrow terminal would never get to the end. */
        int character_width = 0;
        bool printable = false;
        line = cut > 0 ? cut : fits;
        line = line > 0 ? line : next_character(text, &character_width, &printable);
    }
    fwrite(text, 1, line, out);
    text += line;
    if (*text == '\n') {
        return text + 1;
    }
    return text + strspn(text, " ");
}

void abl_text_wrap(FILE *out, const abl_term *term, int indent, const char *text) {
    int width = term->width;
    if (width > 0 && indent > width / 2) {
        indent = 0;
    }
    text = wrap_line(out, text, width);
    if (*text == '\0') {
        fputc('\n', out);
        return;
    }
    fprintf(out, "\n%*s", indent, "");
    abl_text_hang(out, term, indent, text);
}

void abl_text_hang(FILE *out, const abl_term *term, int indent, const char *text) {
    text = wrap_line(out, text, term->width == 0 ? 0 : term->width - indent);
    fputc('\n', out);
    while (*text != '\0') {
        fprintf(out, "%*s", indent, "");
        text = wrap_line(out, text, term->width == 0 ? 0 : term->width - indent);
        fputc('\n', out);
    }
}

void abl_text_bytes(char *buffer, size_t size, int64_t bytes) {
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB"};
    if (bytes < 1000) {
        (void)snprintf(buffer, size, "%lld B", (long long)bytes);
        return;
    }
    double value = (double)bytes / 1000;
    size_t unit = 0;
    while (value >= 999.95 && unit + 1 < ABL_COUNT_OF(units)) {
        value /= 1000;
        unit++;
    }
    (void)snprintf(buffer, size, "%.1f %s", value, units[unit]);
}

void abl_text_duration(char *buffer, size_t size, double ms) {
    if (!(ms >= 0) || ms > 1e14) {
        (void)snprintf(buffer, size, "?");
        return;
    }
    if (ms < 9950) {
        (void)snprintf(buffer, size, "%.1fs", ms / 1000);
        return;
    }
    long long seconds = (long long)(ms / 1000 + 0.5);
    if (seconds < 60) {
        (void)snprintf(buffer, size, "%llds", seconds);
    } else if (seconds < 3600) {
        (void)snprintf(buffer, size, "%lldm %02llds", seconds / 60, seconds % 60);
    } else {
        (void)snprintf(buffer, size, "%lldh %02lldm", seconds / 3600, seconds / 60 % 60);
    }
}
