/* nfc.h -- Unicode Normalization Form C. Private to core/tokenizer.
 *
 * OWNERSHIP  The result ends with abl_free().
 * THREADS    Any thread.
 * ERRORS     RESOURCE_EXHAUSTED when there is no memory; nothing else fails.
 */
#ifndef ABLATE_CORE_TOKENIZER_NFC_H
#define ABLATE_CORE_TOKENIZER_NFC_H

#include "core/base/status.h"

#include <stddef.h>

ABL_BEGIN_DECLS

/* The composed form of valid UTF-8, as Hugging Face's normalizer makes it, which is of
 * Unicode 9. */
ABL_MUST_CHECK abl_code abl_nfc(const char *text, size_t size, char **ret_text, size_t *ret_size,
                                abl_status *ret_status);

ABL_END_DECLS
#endif
