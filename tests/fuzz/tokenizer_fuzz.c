/* SPDX-License-Identifier: Apache-2.0
 *
 * The input is a tokenizer.json, and when it is a good one it encodes a fixed text. */
#include "core/base/mem.h"
#include "core/tokenizer/tokenizer.h"

#include <stdint.h>
#include <string.h>

static const char TEXT[] = "ab cab<x> 12\xC2\xA0\xE2\x85\xA0 e\xCC\x81\n\n  don't \xF0\x9F\x91\x8D";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    abl_tokenizer *tokenizer = NULL;
    abl_status status = {0};
    const abl_tokenizer_options options = {.bytes = (const char *)data, .byte_count = size};
    if (abl_tokenizer_create(&options, &tokenizer, &status) != ABL_CODE_OK) {
        return 0;
    }
    int32_t *ids = NULL;
    size_t count = 0;
    if (abl_tokenizer_encode(tokenizer, TEXT, sizeof TEXT - 1, &ids, &count, &status) ==
        ABL_CODE_OK) {
        char *text = NULL;
        size_t bytes = 0;
        if (abl_tokenizer_decode(tokenizer, ids, count, NULL, &text, &bytes, &status) ==
            ABL_CODE_OK) {
            abl_free(text);
        }
        abl_free(ids);
    }
    abl_tokenizer_destroy(tokenizer);
    return 0;
}
