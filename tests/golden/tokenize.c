/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenize TOKENIZER.json [ROUNDS]: the C side of test_tokenizer.py.
 *
 * Standard input is records: a length of 4 bytes, little endian, and so many bytes of text. For
 * each, standard output gets a line of three fields with tabs between: the ids; in hexadecimal the
 * text that they decode to; the same without special tokens. A refused text gives "! REASON".
 * With ROUNDS, encodes everything so often instead and prints tokens and seconds. */
#include "core/base/mem.h"
#include "core/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INPUT_BYTES_MAX (256 << 20)

typedef struct text_input {
    unsigned char *bytes;
    size_t size;
} text_input;

static int input_read(text_input *input) {
    size_t capacity = 0;
    for (;;) {
        if (input->size == capacity) {
            capacity = capacity == 0 ? 1 << 16 : capacity * 2;
            unsigned char *grown = abl_realloc_array(input->bytes, capacity, 1);
            if (grown == NULL || capacity > INPUT_BYTES_MAX) {
                abl_free(grown);
                return -1;
            }
            input->bytes = grown;
        }
        size_t count = fread(input->bytes + input->size, 1, capacity - input->size, stdin);
        input->size += count;
        if (count == 0) {
            return ferror(stdin) != 0 ? -1 : 0;
        }
    }
}

/* The next record; NULL at the end. */
static const char *input_next(const text_input *input, size_t *at, size_t *ret_size) {
    if (input->size - *at < 4) {
        return NULL;
    }
    const unsigned char *head = input->bytes + *at;
    size_t size = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    *at += 4;
    if (input->size - *at < size) {
        return NULL;
    }
    const char *text = (const char *)input->bytes + *at;
    *at += size;
    *ret_size = size;
    return text;
}

static int print_decoded(const abl_tokenizer *tokenizer, const int32_t *ids, size_t count,
                         bool skip_special) {
    const abl_decode_options options = {.skip_special = skip_special};
    char *text = NULL;
    size_t size = 0;
    if (abl_tokenizer_decode(tokenizer, ids, count, &options, &text, &size, NULL) != ABL_CODE_OK) {
        return -1;
    }
    (void)putchar('\t');
    for (size_t i = 0; i < size; i++) {
        (void)printf("%02x", (unsigned char)text[i]);
    }
    abl_free(text);
    return 0;
}

static int print_record(const abl_tokenizer *tokenizer, const char *text, size_t size) {
    int32_t *ids = NULL;
    size_t count = 0;
    abl_status status = {0};
    if (abl_tokenizer_encode(tokenizer, text, size, &ids, &count, &status) != ABL_CODE_OK) {
        (void)printf("! %s\n", status.reason);
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        (void)printf(i == 0 ? "%d" : " %d", ids[i]);
    }
    int failed = print_decoded(tokenizer, ids, count, false);
    failed |= print_decoded(tokenizer, ids, count, true);
    (void)putchar('\n');
    abl_free(ids);
    return failed;
}

static int time_records(const abl_tokenizer *tokenizer, const text_input *input, long rounds) {
    struct timespec start;
    struct timespec end;
    size_t tokens = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    for (long round = 0; round < rounds; round++) {
        size_t size = 0;
        size_t at = 0;
        for (const char *text = NULL; (text = input_next(input, &at, &size)) != NULL;) {
            int32_t *ids = NULL;
            size_t count = 0;
            if (abl_tokenizer_encode(tokenizer, text, size, &ids, &count, NULL) != ABL_CODE_OK) {
                return -1;
            }
            tokens += count;
            abl_free(ids);
        }
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    (void)printf("%zu %.6f\n", tokens,
                 (double)(end.tv_sec - start.tv_sec) +
                     1e-9 * (double)(end.tv_nsec - start.tv_nsec));
    return 0;
}

int main(int argc, char **argv) {
    abl_tokenizer *tokenizer = NULL;
    abl_status status = {0};
    text_input input = {0};
    if (argc < 2 || argc > 3) {
        (void)fprintf(stderr, "usage: tokenize TOKENIZER.json [ROUNDS] < records\n");
        return EXIT_FAILURE;
    }
    const abl_tokenizer_options options = {.path = argv[1]};
    if (abl_tokenizer_create(&options, &tokenizer, &status) != ABL_CODE_OK) {
        (void)fprintf(stderr, "%s %s: %s\n", abl_code_name(status.code), status.reason,
                      status.message);
        return EXIT_FAILURE;
    }
    int failed = input_read(&input);
    if (failed == 0 && argc == 3) {
        failed = time_records(tokenizer, &input, strtol(argv[2], NULL, 10));
    } else {
        size_t size = 0;
        size_t at = 0;
        for (const char *text = NULL;
             failed == 0 && (text = input_next(&input, &at, &size)) != NULL;) {
            failed = print_record(tokenizer, text, size);
        }
    }
    abl_free(input.bytes);
    abl_tokenizer_destroy(tokenizer);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
