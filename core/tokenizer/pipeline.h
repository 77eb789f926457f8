/* pipeline.h -- normalizer, pre-tokenizer and decoder of tokenizer.json. Private to
 * core/tokenizer.
 *
 * OWNERSHIP  What is made goes into the tokenizer; the JSON is borrowed.
 * THREADS    The one that loads.
 * ERRORS     INVALID_ARGUMENT TOKENIZER_INVALID, UNIMPLEMENTED TOKENIZER_UNSUPPORTED.
 */
#ifndef ABLATE_CORE_TOKENIZER_PIPELINE_H
#define ABLATE_CORE_TOKENIZER_PIPELINE_H

#include "core/tokenizer/internal.h"

#include <jansson.h>

ABL_BEGIN_DECLS

ABL_MUST_CHECK abl_code abl_pipeline_load(abl_tokenizer *tokenizer, const json_t *root,
                                          abl_status *ret_status);

/* Adds a token that is looked for after the normalizer, under its normalized text. */
ABL_MUST_CHECK abl_code abl_added_add_normalized(abl_tokenizer *tokenizer, abl_text text,
                                                 abl_added_token token, abl_status *ret_status);

ABL_END_DECLS
#endif
