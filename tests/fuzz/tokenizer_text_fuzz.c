/* SPDX-License-Identifier: Apache-2.0
 *
 * The input is a text for a good tokenizer that has a part of every kind. A text that is encoded
 * decodes to itself: the vocabulary has every byte, and nothing removes or normalizes. */
#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/tokenizer/tokenizer.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define JSON_BYTES_MAX 16384

/* 256 bytes, some merges, added tokens, and Llama 3's pattern. */
static size_t json_write(char *json, size_t size) {
    size_t at = (size_t)snprintf(
        json, size,
        "{\"added_tokens\":[{\"id\":262,\"content\":\"<x>\",\"special\":true},"
        "{\"id\":263,\"content\":\"<x><\",\"single_word\":true}],"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Digits\",\"individual_digits\":false},"
        "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":{\"Regex\":"
        "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"
        " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]},"
        "\"model\":{\"merges\":[\"a b\",\"b c\",\"ab c\",\"\\u00c3 \\u00a9\",\"a a\",\"aa aa\"],"
        "\"vocab\":{\"ab\":256,\"bc\":257,\"abc\":258,\"\\u00c3\\u00a9\":259,\"aa\":260,"
        "\"aaaa\":261");
    for (unsigned byte = 0, other = 0x100; byte < 256; byte++) {
        int own = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
        at += (size_t)snprintf(json + at, size - at, ",\"\\u%04x\":%u", own ? byte : other, byte);
        other += own ? 0 : 1;
    }
    return at + (size_t)snprintf(json + at, size - at, "}}}");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static abl_tokenizer *tokenizer; /* made once, for the life of the process */
    if (tokenizer == NULL) {
        static char json[JSON_BYTES_MAX];
        const abl_tokenizer_options options = {.bytes = json,
                                               .byte_count = json_write(json, sizeof json)};
        abl_code code = abl_tokenizer_create(&options, &tokenizer, NULL);
        ABL_ASSERT(code == ABL_CODE_OK);
    }
    int32_t *ids = NULL;
    size_t count = 0;
    abl_status status = {0};
    if (abl_tokenizer_encode(tokenizer, (const char *)data, size, &ids, &count, &status) ==
        ABL_CODE_OK) {
        char *text = NULL;
        size_t bytes = 0;
        abl_code code = abl_tokenizer_decode(tokenizer, ids, count, NULL, &text, &bytes, &status);
        ABL_ASSERT(code == ABL_CODE_OK && bytes == size);
        ABL_ASSERT(size == 0 || memcmp(text, data, size) == 0);
        abl_free(text);
        abl_free(ids);
    }
    return 0;
}
