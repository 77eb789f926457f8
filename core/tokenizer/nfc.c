/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalization Form C as Unicode's annex 15 defines it: decompose every character, sort each run
 * of combining marks by their class, then put back together what a starter and a mark compose to.
 *
 *     text      e U+0301 U+0323      decomposed  e(0) U+0301(230) U+0323(220)
 *     ordered   e(0) U+0323(220) U+0301(230)     composed  U+1EB9 U+0301
 *
 * A text below U+0300 is in the form already, which is the case of most prompts. The tables are
 * those of Hugging Face's normalizer, whose Unicode is older than PCRE2's; nfc_table.py makes them.
 * A library (ICU, utf8proc) was rejected for just that: its newer tables would give other ids. */
#include "core/tokenizer/nfc.h"

#include "core/base/mem.h"
#include "core/tokenizer/nfc_table.h"
#include "core/tokenizer/text.h"

#include <string.h>

enum {
    HANGUL_S = 0xAC00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11A7,
    HANGUL_L_COUNT = 19,
    HANGUL_V_COUNT = 21,
    HANGUL_T_COUNT = 28,
};

/* Steps that a decomposition takes at most, one within the other. */
#define NFC_DEPTH_MAX 4
/* Runs of marks up to this length are sorted by insertion. */
#define NFC_INSERTION_MAX 16

typedef struct nfc_mark {
    uint32_t codepoint;
    uint8_t combining;
} nfc_mark;

typedef struct nfc_buffer {
    nfc_mark *items;
    size_t count;
    size_t capacity;
    abl_status *ret_status;
} nfc_buffer;

static uint8_t class_of(uint32_t codepoint) {
    size_t low = 0;
    size_t high = ABL_COUNT_OF(nfc_classes);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (codepoint > nfc_classes[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool inside = low < ABL_COUNT_OF(nfc_classes) && codepoint >= nfc_classes[low].first;
    return inside ? nfc_classes[low].value : 0;
}

static abl_code put(nfc_buffer *buffer, uint32_t codepoint) {
    void *items = buffer->items;
    abl_code code = abl_grow(&items, &buffer->capacity, buffer->count + 1, sizeof *buffer->items,
                             buffer->ret_status);
    buffer->items = items;
    if (code == ABL_CODE_OK) {
        buffer->items[buffer->count++] =
            (nfc_mark){.codepoint = codepoint, .combining = class_of(codepoint)};
    }
    return code;
}

static abl_code decompose_hangul(nfc_buffer *buffer, uint32_t codepoint) {
    uint32_t index = codepoint - HANGUL_S;
    uint32_t tail = index % HANGUL_T_COUNT;
    abl_code code = put(buffer, HANGUL_L + index / (HANGUL_V_COUNT * HANGUL_T_COUNT));
    if (code == ABL_CODE_OK) {
        code = put(buffer, HANGUL_V + index / HANGUL_T_COUNT % HANGUL_V_COUNT);
    }
    return code == ABL_CODE_OK && tail != 0 ? put(buffer, HANGUL_T + tail) : code;
}

/* Only the first half of a pair decomposes further, so the second halves wait on a small stack. */
static abl_code decompose(nfc_buffer *buffer, uint32_t codepoint) {
    if (codepoint >= HANGUL_S &&
        codepoint < HANGUL_S + HANGUL_L_COUNT * HANGUL_V_COUNT * HANGUL_T_COUNT) {
        return decompose_hangul(buffer, codepoint);
    }
    uint32_t waiting[NFC_DEPTH_MAX];
    size_t depth = 0;
    while (depth < NFC_DEPTH_MAX) {
        size_t low = 0;
        size_t high = ABL_COUNT_OF(nfc_pairs);
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (codepoint > nfc_pairs[middle].codepoint) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if (low == ABL_COUNT_OF(nfc_pairs) || nfc_pairs[low].codepoint != codepoint) {
            break;
        }
        codepoint = nfc_pairs[low].first;
        waiting[depth++] = nfc_pairs[low].second;
    }
    abl_code code = put(buffer, codepoint);
    while (depth > 0 && code == ABL_CODE_OK) {
        uint32_t second = waiting[--depth];
        code = second == 0 ? ABL_CODE_OK : put(buffer, second);
    }
    return code;
}

/* Sorts a run of marks by class, stably. A hostile run is as long as the text: counting, then. */
static abl_code order_run(nfc_mark *run, size_t count, abl_status *ret_status) {
    if (count <= NFC_INSERTION_MAX) {
        for (size_t i = 1; i < count; i++) {
            nfc_mark mark = run[i];
            size_t at = i;
            for (; at > 0 && run[at - 1].combining > mark.combining; at--) {
                run[at] = run[at - 1];
            }
            run[at] = mark;
        }
        return ABL_CODE_OK;
    }
    size_t starts[257] = {0};
    nfc_mark *sorted = abl_calloc(count, sizeof *sorted);
    if (sorted == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < count; i++) {
        starts[run[i].combining + 1U]++;
    }
    for (size_t i = 1; i < ABL_COUNT_OF(starts); i++) {
        starts[i] += starts[i - 1];
    }
    for (size_t i = 0; i < count; i++) {
        sorted[starts[run[i].combining]++] = run[i];
    }
    memcpy(run, sorted, count * sizeof *run);
    abl_free(sorted);
    return ABL_CODE_OK;
}

static abl_code order(nfc_buffer *buffer) {
    for (size_t i = 0; i < buffer->count;) {
        size_t end = i;
        while (end < buffer->count && buffer->items[end].combining != 0) {
            end++;
        }
        abl_code code = order_run(buffer->items + i, end - i, buffer->ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        i = end + 1;
    }
    return ABL_CODE_OK;
}

/* What two characters compose to; 0: nothing. */
static uint32_t compose_pair(uint32_t first, uint32_t second) {
    uint32_t l = first - HANGUL_L;
    uint32_t v = second - HANGUL_V;
    if (l < HANGUL_L_COUNT && v < HANGUL_V_COUNT) {
        return HANGUL_S + (l * HANGUL_V_COUNT + v) * HANGUL_T_COUNT;
    }
    uint32_t s = first - HANGUL_S;
    uint32_t t = second - HANGUL_T;
    if (s < HANGUL_L_COUNT * HANGUL_V_COUNT * HANGUL_T_COUNT && s % HANGUL_T_COUNT == 0 && t > 0 &&
        t < HANGUL_T_COUNT) {
        return first + t;
    }
    size_t low = 0;
    size_t high = ABL_COUNT_OF(nfc_compositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        size_t pair = nfc_compositions[middle];
        if (first > nfc_pairs[pair].first ||
            (first == nfc_pairs[pair].first && second > nfc_pairs[pair].second)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == ABL_COUNT_OF(nfc_compositions)) {
        return 0;
    }
    size_t pair = nfc_compositions[low];
    bool same = nfc_pairs[pair].first == first && nfc_pairs[pair].second == second;
    return same ? nfc_pairs[pair].codepoint : 0;
}

/* In place. A mark composes with the last starter unless a mark of its class or above, or another
 * starter, stands between. */
static void compose(nfc_buffer *buffer) {
    nfc_mark *items = buffer->items;
    size_t kept = 0;
    size_t starter = SIZE_MAX;
    for (size_t i = 0; i < buffer->count; i++) {
        nfc_mark mark = items[i];
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        bool blocked = !adjacent && kept > 0 && items[kept - 1].combining >= mark.combining;
        uint32_t composed = starter == SIZE_MAX || blocked
                                ? 0
                                : compose_pair(items[starter].codepoint, mark.codepoint);
        if (composed != 0) {
            items[starter].codepoint = composed;
            continue;
        }
        if (mark.combining == 0) {
            starter = kept;
        }
        items[kept++] = mark;
    }
    buffer->count = kept;
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
        return copy(text, size, ret_text, ret_size, ret_status);
    }
    nfc_buffer buffer = {.ret_status = ret_status};
    abl_code code = ABL_CODE_OK;
    for (size_t at = 0; at < size && code == ABL_CODE_OK;) {
        size_t length = abl_utf8_length(text + at, size - at, NULL);
        code = decompose(&buffer, abl_utf8_decode(text + at, length));
        at += length;
    }
    code = code == ABL_CODE_OK ? order(&buffer) : code;
    char *out = NULL;
    if (code == ABL_CODE_OK) {
        compose(&buffer);
        out = abl_calloc(buffer.count, 4);
        code = out == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    }
    if (code == ABL_CODE_OK) {
        size_t written = 0;
        for (size_t i = 0; i < buffer.count; i++) {
            written += abl_utf8_encode(buffer.items[i].codepoint, out + written);
        }
        *ret_text = out;
        *ret_size = written;
    }
    abl_free(buffer.items);
    return code;
}
