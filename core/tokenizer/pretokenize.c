/* SPDX-License-Identifier: Apache-2.0
 *
 * Pre-tokenizing: a piece of text becomes words, which BPE never joins. The splits of the file run
 * one after the other, each over every span that the one before left; ByteLevel comes last and
 * hands its words to BPE as it finds them:
 *
 *     piece    "in 1999"      spans  [in 1999]
 *     Digits   isolated              [in ][1][9][9][9]
 *     ByteLevel                      in| |1|9|9|9
 *
 * Each span is searched by itself: a lookahead sees the end of its span, not the text after it, as
 * in Hugging Face. What Hugging Face calls byte-level characters (U+0120 for a space) exists here
 * only inside tokenizer.json; words stay bytes. */
#include "core/tokenizer/internal.h"

#include "core/base/mem.h"

#include <string.h>

static abl_code span_add(abl_encoder *encoder, abl_span span, bool matched) {
    abl_span_list *list = &encoder->split;
    void *items = list->items;
    abl_code code = abl_grow(&items, &list->capacity, list->count + 1, sizeof *list->items,
                             encoder->ret_status);
    list->items = items;
    if (code == ABL_CODE_OK) {
        void *flags = encoder->matched;
        code =
            abl_grow(&flags, &encoder->matched_capacity, list->count + 1, 1, encoder->ret_status);
        encoder->matched = flags;
    }
    if (code == ABL_CODE_OK) {
        encoder->matched[list->count] = matched ? 1 : 0;
        list->items[list->count++] = span;
    }
    return code;
}

/* The next match of a split at or after *at, where *last_end is the end of the one before, or
 * SIZE_MAX. An empty match right after a match is stepped over, as Hugging Face's engine does. */
static abl_code split_find(abl_encoder *encoder, const abl_split *split, abl_text text, size_t *at,
                           size_t *last_end, bool *ret_found, abl_span *ret_span) {
    *ret_found = false;
    while (*at <= text.size) {
        bool found = false;
        abl_span span = {0};
        if (split->regex == NULL) {
            const char *place =
                memmem(text.data + *at, text.size - *at, split->literal, split->literal_size);
            found = place != NULL;
            span.start = found ? (size_t)(place - text.data) : 0;
            span.end = span.start + split->literal_size;
        } else {
            abl_code code = abl_regex_find(split->regex, &encoder->run, text, *at, &found,
                                           &span.start, &span.end, encoder->ret_status);
            if (code != ABL_CODE_OK) {
                return code;
            }
        }
        if (!found) {
            return ABL_CODE_OK;
        }
        if (span.start == span.end && span.end == *last_end) {
            *at += *at < text.size ? abl_utf8_length(text.data + *at, text.size - *at, NULL) : 1;
            continue;
        }
        *at = span.end;
        *last_end = span.end;
        *ret_found = true;
        *ret_span = span;
        return ABL_CODE_OK;
    }
    return ABL_CODE_OK;
}

/* Appends matches and what lies between them, as spans of the whole piece. */
static abl_code split_scan(abl_encoder *encoder, const abl_split *split, abl_text piece,
                           abl_span within) {
    abl_text text = {.data = piece.data + within.start, .size = within.end - within.start};
    size_t at = 0;
    size_t used = 0;
    size_t last_end = SIZE_MAX;
    bool found = true;
    while (found) {
        abl_span match = {0};
        abl_code code = split_find(encoder, split, text, &at, &last_end, &found, &match);
        if (!found) {
            match = (abl_span){.start = text.size, .end = text.size};
        }
        if (code == ABL_CODE_OK && match.start > used) {
            code = span_add(encoder, (abl_span){within.start + used, within.start + match.start},
                            split->invert);
        }
        if (code == ABL_CODE_OK && found) {
            code =
                span_add(encoder, (abl_span){within.start + match.start, within.start + match.end},
                         !split->invert);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
        used = match.end;
    }
    return ABL_CODE_OK;
}

/* Joins neighbours among split.items[from..], in place, as the behaviour says. */
static void split_join(abl_encoder *encoder, abl_split_behavior behavior, size_t from) {
    abl_span *items = encoder->split.items;
    const uint8_t *matched = encoder->matched;
    size_t end = encoder->split.count;
    size_t kept = from;
    uint8_t previous = 0;
    if (behavior == ABL_SPLIT_MERGED_WITH_NEXT) { /* from the end, as the mirror of the other */
        kept = end;
        for (size_t i = end; i > from; i--) {
            bool joins = matched[i - 1] != 0 && previous == 0 && kept < end;
            previous = matched[i - 1];
            if (joins) {
                items[kept].start = items[i - 1].start;
            } else {
                items[--kept] = items[i - 1];
            }
        }
        memmove(items + from, items + kept, (end - kept) * sizeof *items);
        encoder->split.count = from + (end - kept);
        return;
    }
    for (size_t i = from; i < end; i++) {
        bool joins = false;
        if (behavior == ABL_SPLIT_REMOVED && matched[i] != 0) {
            continue;
        }
        if (behavior == ABL_SPLIT_MERGED_WITH_PREVIOUS) {
            joins = matched[i] != 0 && previous == 0 && kept > from;
        } else if (behavior == ABL_SPLIT_CONTIGUOUS) {
            joins = matched[i] == previous && kept > from;
        }
        previous = matched[i];
        if (joins) {
            items[kept - 1].end = items[i].end;
        } else {
            items[kept++] = items[i];
        }
    }
    encoder->split.count = kept;
}

static abl_code split_apply(abl_encoder *encoder, const abl_split *split, abl_text piece) {
    encoder->split.count = 0;
    for (size_t i = 0; i < encoder->spans.count; i++) {
        if (encoder->spans.items[i].start == encoder->spans.items[i].end) {
            continue;
        }
        size_t from = encoder->split.count;
        abl_code code = split_scan(encoder, split, piece, encoder->spans.items[i]);
        if (code != ABL_CODE_OK) {
            return code;
        }
        split_join(encoder, split->behavior, from);
    }
    abl_span_list done = encoder->split;
    encoder->split = encoder->spans;
    encoder->spans = done;
    return ABL_CODE_OK;
}

/* ByteLevel's own split is "isolated", so its words need no list. */
static abl_code byte_level_words(abl_encoder *encoder, abl_text text) {
    const abl_split split = {.regex = encoder->tokenizer->byte_level};
    if (split.regex == NULL) {
        return abl_encode_word(encoder, text);
    }
    size_t at = 0;
    size_t used = 0;
    size_t last_end = SIZE_MAX;
    bool found = true;
    while (found) {
        abl_span match = {.start = text.size, .end = text.size};
        abl_code code = split_find(encoder, &split, text, &at, &last_end, &found, &match);
        if (code == ABL_CODE_OK && match.start > used) {
            code = abl_encode_word(encoder, (abl_text){text.data + used, match.start - used});
        }
        if (code == ABL_CODE_OK && match.end > match.start) {
            code = abl_encode_word(encoder,
                                   (abl_text){text.data + match.start, match.end - match.start});
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
        used = match.end;
    }
    return ABL_CODE_OK;
}

static abl_code byte_level_apply(abl_encoder *encoder, abl_text text) {
    if (text.size == 0) {
        return ABL_CODE_OK;
    }
    if (encoder->tokenizer->add_prefix_space && text.data[0] != ' ') {
        void *prefixed = encoder->prefixed;
        abl_code code =
            abl_grow(&prefixed, &encoder->prefixed_capacity, text.size + 1, 1, encoder->ret_status);
        encoder->prefixed = prefixed;
        if (code != ABL_CODE_OK) {
            return code;
        }
        encoder->prefixed[0] = ' ';
        memcpy(encoder->prefixed + 1, text.data, text.size);
        text = (abl_text){.data = encoder->prefixed, .size = text.size + 1};
    }
    return byte_level_words(encoder, text);
}

abl_code abl_encode_piece(abl_encoder *encoder, abl_text piece) {
    const abl_tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->split_count == 0) {
        return byte_level_apply(encoder, piece);
    }
    encoder->split.count = 0;
    abl_code code = span_add(encoder, (abl_span){.start = 0, .end = piece.size}, false);
    abl_span_list whole = encoder->split;
    encoder->split = encoder->spans;
    encoder->spans = whole;
    for (size_t i = 0; i < tokenizer->split_count && code == ABL_CODE_OK; i++) {
        code = split_apply(encoder, &tokenizer->splits[i], piece);
    }
    for (size_t i = 0; i < encoder->spans.count && code == ABL_CODE_OK; i++) {
        abl_span span = encoder->spans.items[i];
        code = byte_level_apply(
            encoder, (abl_text){.data = piece.data + span.start, .size = span.end - span.start});
    }
    return code;
}

void abl_encoder_finish(abl_encoder *encoder) {
    abl_free(encoder->ids.items);
    abl_bpe_scratch_finish(&encoder->bpe);
    abl_regex_run_finish(&encoder->run);
    abl_free(encoder->spans.items);
    abl_free(encoder->split.items);
    abl_free(encoder->matched);
    abl_free(encoder->prefixed);
    *encoder = (abl_encoder){0};
}
