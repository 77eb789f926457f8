/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalization Form C (Unicode's annex 15) by utf8proc, with two things of our own. Hugging Face's
 * normalizer is of Unicode 9, and utf8proc's tables are newer: characters that came later are kept
 * apart, which is to say that they stay as they are and nothing is ordered or composed across them.
 * And runs of combining marks are ordered here, because utf8proc's sort takes quadratic time, and a
 * hostile run is as long as a text. */
#include "core/tokenizer/nfc.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/tokenizer/text.h"

#include <string.h>

#include <utf8proc.h>

/* A canonical decomposition has at most 4 codepoints. */
#define NFC_DECOMPOSED_MAX 4
/* Runs of marks up to this length are sorted by insertion. */
#define NFC_INSERTION_MAX 16

/* The gaps in Unicode 9 that now hold marks or compositions: all that can make a difference. The
 * vowel U+11A7 is with them: utf8proc 2.8 takes it for an empty final consonant of Hangul. */
static const struct {
    int32_t first, last;
} nfc_apart[] = {
    {0x07FB, 0x07FF},   {0x085F, 0x089F},   {0x08BE, 0x08D3},   {0x09FC, 0x0A00},
    {0x0C3A, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x11A7, 0x11A7},
    {0x1715, 0x171F},   {0x1ABF, 0x1AFF},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82F},
    {0x10D00, 0x10E5F}, {0x10E7F, 0x10FFF}, {0x11070, 0x1107E}, {0x1133A, 0x1133B},
    {0x11375, 0x113FF}, {0x1145E, 0x1147F}, {0x11740, 0x1189F}, {0x11900, 0x11ABF},
    {0x11CB7, 0x11FFF}, {0x14647, 0x167FF}, {0x16B90, 0x16EFF}, {0x16FE1, 0x16FFF},
    {0x1E02B, 0x1E7FF},
};

typedef struct nfc_buffer {
    int32_t *items; /* codepoints: composed up to `start`, decomposed from there */
    size_t count;
    size_t capacity;
    size_t start;
    abl_status *ret_status;
} nfc_buffer;

static bool is_apart(int32_t codepoint) {
    size_t i = 0;
    while (i < ABL_COUNT_OF(nfc_apart) && codepoint > nfc_apart[i].last) {
        i++;
    }
    return i < ABL_COUNT_OF(nfc_apart) && codepoint >= nfc_apart[i].first;
}

static int class_of(int32_t codepoint) {
    return utf8proc_get_property(codepoint)->combining_class;
}

/* Sorts a run of marks by class, stably; a long run by counting. */
static abl_code order_run(int32_t *run, size_t count, abl_status *ret_status) {
    if (count <= NFC_INSERTION_MAX) {
        for (size_t i = 1; i < count; i++) {
            int32_t mark = run[i];
            size_t at = i;
            for (; at > 0 && class_of(run[at - 1]) > class_of(mark); at--) {
                run[at] = run[at - 1];
            }
            run[at] = mark;
        }
        return ABL_CODE_OK;
    }
    size_t starts[257] = {0}; /* where the marks of each class begin */
    int32_t *sorted = abl_calloc(count, sizeof *sorted);
    if (sorted == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < count; i++) {
        starts[class_of(run[i]) + 1]++;
    }
    for (size_t i = 1; i < ABL_COUNT_OF(starts); i++) {
        starts[i] += starts[i - 1];
    }
    for (size_t i = 0; i < count; i++) {
        sorted[starts[class_of(run[i])]++] = run[i];
    }
    memcpy(run, sorted, count * sizeof *run);
    abl_free(sorted);
    return ABL_CODE_OK;
}

/* Orders and composes what is decomposed. */
static abl_code compose(nfc_buffer *buffer) {
    int32_t *items = buffer->items + buffer->start;
    size_t count = buffer->count - buffer->start;
    for (size_t i = 0; i < count; i++) {
        size_t first = i;
        while (i < count && class_of(items[i]) != 0) {
            i++;
        }
        abl_code code = order_run(items + first, i - first, buffer->ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    if (count > 0) {
        count = (size_t)utf8proc_normalize_utf32(items, (utf8proc_ssize_t)count,
                                                 UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    }
    buffer->start += count;
    buffer->count = buffer->start;
    return ABL_CODE_OK;
}

static abl_code put(nfc_buffer *buffer, int32_t codepoint) {
    void *items = buffer->items;
    abl_code code = abl_grow(&items, &buffer->capacity, buffer->count + NFC_DECOMPOSED_MAX,
                             sizeof *buffer->items, buffer->ret_status);
    buffer->items = items;
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (is_apart(codepoint)) {
        code = compose(buffer);
        buffer->items[buffer->count++] = codepoint;
        buffer->start = buffer->count;
        return code;
    }
    int unused = 0; /* of grapheme clusters, which are not asked for */
    utf8proc_ssize_t written =
        utf8proc_decompose_char(codepoint, buffer->items + buffer->count, NFC_DECOMPOSED_MAX,
                                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &unused);
    ABL_ASSERT(written > 0 && written <= NFC_DECOMPOSED_MAX);
    buffer->count += (size_t)written;
    return ABL_CODE_OK;
}

/* The codepoints as UTF-8. */
static abl_code encode(const nfc_buffer *buffer, char **ret_text, size_t *ret_size) {
    char *text = abl_calloc(buffer->count, 4);
    if (text == NULL) {
        return abl_fail_oom(buffer->ret_status);
    }
    size_t size = 0;
    for (size_t i = 0; i < buffer->count; i++) {
        size += abl_utf8_encode((uint32_t)buffer->items[i], text + size);
    }
    *ret_text = text;
    *ret_size = size;
    return ABL_CODE_OK;
}

static abl_code copy(const char *text, size_t size, char **ret_text, size_t *ret_size,
                     abl_status *ret_status) {
    char *same = abl_malloc(size);
    if (same == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (size > 0) {
        memcpy(same, text, size);
    }
    *ret_text = same;
    *ret_size = size;
    return ABL_CODE_OK;
}

abl_code abl_nfc(const char *text, size_t size, char **ret_text, size_t *ret_size,
                 abl_status *ret_status) {
    size_t plain = 0;
    while (plain < size && (unsigned char)text[plain] < 0xCC) { /* 0xCC leads U+0300 */
        plain++;
    }
    if (plain == size) {
        return copy(text, size, ret_text, ret_size, ret_status); /* it has no mark */
    }
    nfc_buffer buffer = {.ret_status = ret_status};
    abl_code code = ABL_CODE_OK;
    for (size_t at = 0; at < size && code == ABL_CODE_OK;) {
        size_t length = abl_utf8_length(text + at, size - at, NULL);
        code = put(&buffer, (int32_t)abl_utf8_decode(text + at, length));
        at += length;
    }
    code = code == ABL_CODE_OK ? compose(&buffer) : code;
    code = code == ABL_CODE_OK ? encode(&buffer, ret_text, ret_size) : code;
    abl_free(buffer.items);
    return code;
}
