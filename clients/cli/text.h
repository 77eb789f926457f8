/* text.h -- text on a terminal: columns instead of bytes, and no control character passes.
 *
 * OWNERSHIP  What returns `char *` is the caller's, ended with abl_free(); NULL: no memory.
 * THREADS    One thread; call abl_text_init() first.
 * UNITS      Widths in terminal columns, by wcwidth().
 */
#ifndef ABLATE_CLI_TEXT_H
#define ABLATE_CLI_TEXT_H

#include "core/base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

ABL_BEGIN_DECLS

/* What a stream can show. */
typedef struct abl_term {
    int width;    /* columns of a line; 0: no limit */
    bool tty;     /* a person watches, so a line may be redrawn */
    bool color;   /* a terminal, and neither NO_COLOR nor TERM=dumb says otherwise */
    bool unicode; /* the locale is UTF-8: blocks and ellipses may be drawn */
} abl_term;

/* Takes the character set from the environment and makes wcwidth() understand UTF-8. */
void abl_text_init(void);

/* The width is COLUMNS if that is a number, else the terminal's; neither: no limit. */
abl_term abl_term_of(FILE *stream);

/* Lines of the window: LINES if that is a number, else the terminal's; neither: 24. */
int abl_term_height(FILE *stream);

/* `style` is an SGR number, "1" or "31"; both are nothing where there are no colours. */
void abl_term_style(const abl_term *term, FILE *out, const char *style);
void abl_term_reset(const abl_term *term, FILE *out);

/* A copy fit for one line: control characters as \n, \t, \x1b, and what is not UTF-8 as U+FFFD. */
ABL_MUST_CHECK char *abl_text_printable(const char *text);

/* Columns of a printable text. */
int abl_text_width(const char *text);

/* Bytes of the longest prefix of at most `width` columns; *ret_width (may be NULL) is its width. */
size_t abl_text_clip(const char *text, int width, int *ret_width);

/* Writes at most `width` columns (0: all) of printable text; the cut is marked if there is room.
 * Returns the columns written. */
int abl_text_write(FILE *out, const abl_term *term, const char *text, int width);

/* Writes text in lines of at most the terminal's width, broken at spaces and, where a word is
 * longer than a line, inside it; all lines but the first start with `indent` spaces. Newlines in
 * the text are kept. Ends with a newline. */
void abl_text_wrap(FILE *out, const abl_term *term, int indent, const char *text);

/* The same where `indent` columns, fewer than the width, of the first line are written already. */
void abl_text_hang(FILE *out, const abl_term *term, int indent, const char *text);

/* "538.1 MB" (powers of 1000), "1m 05s": for people. `size` of 24 is enough. */
void abl_text_bytes(char *buffer, size_t size, int64_t bytes);
void abl_text_duration(char *buffer, size_t size, double ms);

ABL_END_DECLS
#endif
