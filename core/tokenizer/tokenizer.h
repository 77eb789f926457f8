/* tokenizer.h -- text to token ids and back, as Hugging Face `tokenizers` does it.
 *
 * OWNERSHIP  abl_tokenizer_create() hands the tokenizer to the caller; abl_tokenizer_destroy() ends
 *            it and every text borrowed from it. Arrays that calls return end with abl_free().
 * THREADS    Immutable after create: any thread may call at any time. Create blocks on disk.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 * UNITS      Lengths in bytes of UTF-8. No length counts a terminating NUL.
 *
 * Reads tokenizer.json with a byte-level BPE model (GPT-2, GPT-NeoX, Llama 3, Qwen, SmolLM2). Ids
 * equal those of `tokenizers.Tokenizer.encode(text, add_special_tokens=False)`, for every string:
 * version 0.20.3, with PCRE2 10.42. Other versions differ at characters newer than Unicode 14.
 *
 * BOS POLICY Encoding adds nothing: no BOS, no EOS, no template of the post-processor. Special
 *            tokens written out in the text ("<|endoftext|>") become their ids, as in Hugging Face.
 *            AutoCircuit and TransformerLens put the BOS id before a prompt; a caller that wants
 *            that puts abl_tokenizer_bos_id() there itself.
 * IGNORED    `truncation`, `padding` and `post_processor` of the file: they change no text's ids,
 *            only what is put around them. A missing `decoder` is read as ByteLevel.
 * REFUSED    With UNIMPLEMENTED and the name of the part: models that are not BPE, BPE without a
 *            ByteLevel pre-tokenizer, normalizers but NFC, dropout, subword prefixes and suffixes;
 *            unk_token and byte_fallback where a byte is missing from the vocabulary.
 */
#ifndef ABLATE_CORE_TOKENIZER_TOKENIZER_H
#define ABLATE_CORE_TOKENIZER_TOKENIZER_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

#define ABL_TOKEN_NONE (-1)

typedef struct abl_tokenizer abl_tokenizer; /* opaque: the fields are in internal.h */

/* Where to read from, borrowed for the call: `path`, or with path NULL the `bytes`. */
typedef struct abl_tokenizer_options {
    const char *path; /* a tokenizer.json; UTF-8 */
    const char *bytes;
    size_t byte_count;
    const char *bos_token; /* tokenizer_config.json's "bos_token"; NULL: not known */
    bool bos_id_known;     /* config.json has "bos_token_id", and bos_id is it */
    int32_t bos_id;
} abl_tokenizer_options;

/* Reads and checks the whole file.
 *   NOT_FOUND           TOKENIZER_FILE_MISSING   no file at path
 *   RESOURCE_EXHAUSTED  TOKENIZER_TOO_BIG        the file, the vocabulary or an id is over a limit
 *   INVALID_ARGUMENT    TOKENIZER_INVALID        not JSON, a key missing or of a wrong type, an id
 *                                                given twice, a merge of tokens that do not exist
 *   UNIMPLEMENTED       TOKENIZER_UNSUPPORTED    see REFUSED above */
ABL_MUST_CHECK abl_code abl_tokenizer_create(const abl_tokenizer_options *options,
                                             abl_tokenizer **ret_tokenizer, abl_status *ret_status);
/* NULL is allowed. */
void abl_tokenizer_destroy(abl_tokenizer *tokenizer);

/* The ids of `text`; *ret_ids is never NULL on success, also when *ret_count is 0.
 *   INVALID_ARGUMENT    TEXT_NOT_UTF8   with the offset of the first bad byte
 *   INVALID_ARGUMENT    TEXT_TOO_LONG   more than ABL_TEXT_BYTES_MAX bytes
 *   RESOURCE_EXHAUSTED  REGEX_LIMIT     the file's pattern backtracks without end on this text */
ABL_MUST_CHECK abl_code abl_tokenizer_encode(const abl_tokenizer *tokenizer, const char *text,
                                             size_t text_bytes, int32_t **ret_ids,
                                             size_t *ret_count, abl_status *ret_status);

typedef struct abl_decode_options {
    bool skip_special; /* leave out the tokens that the file marks special */
    bool exact_bytes;  /* false: ill-formed UTF-8 becomes U+FFFD, as in Hugging Face */
} abl_decode_options;

/* The text of ids, with a NUL after it; it may hold NULs of its own. options NULL: all false.
 *   OUT_OF_RANGE        TOKEN_UNKNOWN   an id that no token has
 *   INVALID_ARGUMENT    TEXT_TOO_LONG   the text would be over ABL_TEXT_BYTES_MAX */
ABL_MUST_CHECK abl_code abl_tokenizer_decode(const abl_tokenizer *tokenizer, const int32_t *ids,
                                             size_t count, const abl_decode_options *options,
                                             char **ret_text, size_t *ret_bytes,
                                             abl_status *ret_status);

/* The exact bytes of one token, borrowed; they may be part of a character. NULL: no such id.
 * (TransformerLens's to_str_tokens is abl_tokenizer_decode() of each id by itself.) */
const char *abl_tokenizer_token_text(const abl_tokenizer *tokenizer, int32_t id, size_t *ret_bytes);

bool abl_tokenizer_token_is_special(const abl_tokenizer *tokenizer, int32_t id);

/* The id of the token whose exact bytes these are (an added token's first); ABL_TOKEN_NONE: none.
 * It does not encode: a text may be a token here and several after encoding. */
int32_t abl_tokenizer_find(const abl_tokenizer *tokenizer, const char *text, size_t text_bytes);

/* The beginning-of-sequence id, or ABL_TOKEN_NONE. The first of these that names a token of this
 * file: options.bos_token; options.bos_id; "<|endoftext|>"; "<|begin_of_text|>"; "<s>". */
int32_t abl_tokenizer_bos_id(const abl_tokenizer *tokenizer);

/* One more than the largest id; ids between may be unused. */
int32_t abl_tokenizer_id_end(const abl_tokenizer *tokenizer);

/* Bytes held, for the accounting of resident objects. */
size_t abl_tokenizer_bytes(const abl_tokenizer *tokenizer);

ABL_END_DECLS
#endif
