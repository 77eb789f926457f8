/* internal.h -- what a tokenizer is made of. Private to core/tokenizer.
 *
 * OWNERSHIP  The tokenizer owns every member; load.c fills it, tokenizer.c ends it.
 * THREADS    Filled by one thread, then only read.
 * ERRORS     As tokenizer.h says.
 */
#ifndef ABLATE_CORE_TOKENIZER_INTERNAL_H
#define ABLATE_CORE_TOKENIZER_INTERNAL_H

#include "core/base/limits.h"
#include "core/tokenizer/added.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/regex.h"
#include "core/tokenizer/text.h"
#include "core/tokenizer/tokenizer.h"

ABL_BEGIN_DECLS

/* What becomes of the matches of a split, in the words of Hugging Face. */
typedef enum abl_split_behavior {
    ABL_SPLIT_REMOVED,
    ABL_SPLIT_ISOLATED,
    ABL_SPLIT_MERGED_WITH_PREVIOUS,
    ABL_SPLIT_MERGED_WITH_NEXT,
    ABL_SPLIT_CONTIGUOUS,
} abl_split_behavior;

/* One pre-tokenizer before ByteLevel: by a pattern, or with regex NULL by a literal text. */
typedef struct abl_split {
    abl_regex *regex;
    char *literal;
    size_t literal_size;
    abl_split_behavior behavior;
    bool invert;
} abl_split;

struct abl_tokenizer {
    abl_table texts; /* id -> exact bytes; those of the vocabulary are indexed */
    char *pool;      /* what the texts borrow */
    size_t pool_size;
    uint8_t *flags; /* a byte an id, of ABL_TOKEN_* below */
    abl_bpe bpe;
    bool ignore_merges;
    bool nfc;
    abl_added raw;        /* added tokens looked for in the text as given */
    abl_added normalized; /* and those looked for after the normalizer */
    abl_regex *word;      /* \w, for single_word; NULL when no token asks for it */
    abl_split splits[ABL_PRE_TOKENIZER_COUNT_MAX];
    size_t split_count;
    bool add_prefix_space;
    abl_regex *byte_level; /* NULL: use_regex is false */
    int32_t bos_id;
};

#define ABL_TOKEN_SPECIAL 1U
#define ABL_TOKEN_ADDED 4U /* in added_tokens */
#define ABL_TOKEN_WHOLE 2U /* encoding the token's bytes as a word gives the token */

/* Reads the JSON into a zeroed tokenizer; on failure the caller destroys what there is of it. */
ABL_MUST_CHECK abl_code abl_tokenizer_load(abl_tokenizer *tokenizer, const char *json, size_t size,
                                           abl_status *ret_status);

/* Room that the parts of one encode call share; zero it first. */
typedef struct abl_span {
    size_t start;
    size_t end;
} abl_span;

typedef struct abl_span_list {
    abl_span *items;
    size_t count;
    size_t capacity;
} abl_span_list;

typedef struct abl_encoder {
    const abl_tokenizer *tokenizer;
    abl_status *ret_status;
    abl_ids ids;
    abl_bpe_scratch bpe;
    abl_regex_run run;
    abl_span_list spans; /* what the splits so far left */
    abl_span_list split; /* what the present one makes of it */
    uint8_t *matched;    /* whether split.items[i] is a match */
    size_t matched_capacity;
    char *prefixed; /* a piece with the space that add_prefix_space puts before it */
    size_t prefixed_capacity;
} abl_encoder;

/* Pre-tokenizes a piece that holds no added token, and appends the ids of its words. */
ABL_MUST_CHECK abl_code abl_encode_piece(abl_encoder *encoder, abl_text piece);
/* Appends the ids of one word. */
ABL_MUST_CHECK abl_code abl_encode_word(abl_encoder *encoder, abl_text word);
/* Whether a word character stands right before `start` or right after `end`. */
ABL_MUST_CHECK abl_code abl_touches_word(abl_encoder *encoder, abl_text text, size_t start,
                                         size_t end, bool *ret_touches);
/* Where the white space before an offset begins, and where that after it ends. */
size_t abl_white_space_before(abl_text text, size_t at);
size_t abl_white_space_after(abl_text text, size_t at);
void abl_encoder_finish(abl_encoder *encoder);

ABL_END_DECLS
#endif
