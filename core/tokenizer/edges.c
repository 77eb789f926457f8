/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside an added token. Hugging Face decides single_word, lstrip and rstrip with
 * Rust's regex crate, not with Oniguruma. Its \s is White_Space. Its \w is Oniguruma's, less six
 * numbers of Latin-1, plus the two joiners and the letters and marks that are newer than Unicode
 * 14; those are a table here. Both were compared for each code point. */
#include "core/tokenizer/internal.h"

typedef struct edges_range {
    uint32_t first;
    uint32_t last;
} edges_range;

/* Word characters newer than Unicode 14, and the two joiners; sorted. */
static const edges_range new_word_characters[] = {
    {0x897, 0x897},     {0xCF3, 0xCF3},     {0xECE, 0xECE},     {0x1C89, 0x1C8A},
    {0x200C, 0x200D},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D40, 0x10D65}, {0x10D69, 0x10D6D}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4},
    {0x10EFC, 0x10EFF}, {0x1123F, 0x11241}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113C0}, {0x113C2, 0x113C2},
    {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D3}, {0x113E1, 0x113E2},
    {0x116D0, 0x116E3}, {0x11BC0, 0x11BE0}, {0x11BF0, 0x11BF9}, {0x11F00, 0x11F10},
    {0x11F12, 0x11F3A}, {0x11F3E, 0x11F42}, {0x11F50, 0x11F5A}, {0x1342F, 0x1342F},
    {0x13440, 0x13455}, {0x13460, 0x143FA}, {0x16100, 0x16139}, {0x16D40, 0x16D6C},
    {0x16D70, 0x16D79}, {0x18CFF, 0x18CFF}, {0x1B132, 0x1B132}, {0x1B155, 0x1B155},
    {0x1CCF0, 0x1CCF9}, {0x1DF25, 0x1DF2A}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F},
    {0x1E4D0, 0x1E4F9}, {0x1E5D0, 0x1E5FA}, {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D},
    {0x31350, 0x323AF}};

/* Word characters to Oniguruma only. */
static const edges_range lost_word_characters[] = {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}};

static bool is_in(const edges_range *ranges, size_t count, uint32_t codepoint) {
    for (size_t i = 0; i < count && ranges[i].first <= codepoint; i++) {
        if (codepoint <= ranges[i].last) {
            return true;
        }
    }
    return false;
}

static bool is_white_space(uint32_t codepoint) {
    static const edges_range ranges[] = {
        {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
    return is_in(ranges, ABL_COUNT_OF(ranges), codepoint);
}

/* The character that ends at an offset; its data is NULL at the beginning of the text. */
static abl_text character_before(abl_text text, size_t at) {
    size_t size = at > 0 ? 1 : 0;
    while (size < at && ((unsigned char)text.data[at - size] & 0xC0) == 0x80) {
        size++;
    }
    return (abl_text){.data = size > 0 ? text.data + at - size : NULL, .size = size};
}

/* The character that begins at an offset; its data is NULL at the end of the text. */
static abl_text character_after(abl_text text, size_t at) {
    if (at == text.size) {
        return (abl_text){0};
    }
    return (abl_text){.data = text.data + at,
                      .size = abl_utf8_length(text.data + at, text.size - at, NULL)};
}

static abl_code is_word(abl_encoder *encoder, abl_text character, bool *ret_word) {
    *ret_word = false;
    if (character.data == NULL) {
        return ABL_CODE_OK;
    }
    uint32_t codepoint = abl_utf8_decode(character.data, character.size);
    if (is_in(lost_word_characters, ABL_COUNT_OF(lost_word_characters), codepoint)) {
        return ABL_CODE_OK;
    }
    if (is_in(new_word_characters, ABL_COUNT_OF(new_word_characters), codepoint)) {
        *ret_word = true;
        return ABL_CODE_OK;
    }
    size_t start = 0;
    size_t end = 0;
    return abl_regex_find(encoder->tokenizer->word, &encoder->run, character, 0, ret_word, &start,
                          &end, encoder->ret_status);
}

abl_code abl_touches_word(abl_encoder *encoder, abl_text text, size_t start, size_t end,
                          bool *ret_touches) {
    abl_code code = is_word(encoder, character_before(text, start), ret_touches);
    if (code == ABL_CODE_OK && !*ret_touches) {
        code = is_word(encoder, character_after(text, end), ret_touches);
    }
    return code;
}

size_t abl_white_space_before(abl_text text, size_t at) {
    for (;;) {
        abl_text character = character_before(text, at);
        if (character.data == NULL ||
            !is_white_space(abl_utf8_decode(character.data, character.size))) {
            return at;
        }
        at -= character.size;
    }
}

size_t abl_white_space_after(abl_text text, size_t at) {
    for (;;) {
        abl_text character = character_after(text, at);
        if (character.data == NULL ||
            !is_white_space(abl_utf8_decode(character.data, character.size))) {
            return at;
        }
        at += character.size;
    }
}
