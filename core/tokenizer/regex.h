/* regex.h -- the regular expressions of tokenizer.json, with the meaning that Hugging Face's
 * engine (Oniguruma) gives them, run by PCRE2. Private to core/tokenizer.
 *
 * OWNERSHIP  _create() pairs with _destroy(). A run belongs to one call and ends with _finish().
 * THREADS    A regex is immutable: any thread. A run belongs to one thread.
 * ERRORS     UNIMPLEMENTED TOKENIZER_UNSUPPORTED for a construct whose meaning might differ,
 *            INVALID_ARGUMENT TOKENIZER_INVALID for a pattern that is none.
 */
#ifndef ABLATE_CORE_TOKENIZER_REGEX_H
#define ABLATE_CORE_TOKENIZER_REGEX_H

#include "core/tokenizer/text.h"

ABL_BEGIN_DECLS

typedef struct abl_regex abl_regex;

ABL_MUST_CHECK abl_code abl_regex_create(abl_text pattern, abl_regex **ret_regex,
                                         abl_status *ret_status);
void abl_regex_destroy(abl_regex *regex);
size_t abl_regex_bytes(const abl_regex *regex);

/* PCRE2's room for matching; zero it before the first find. */
typedef struct abl_regex_run {
    void *match_data;
    void *match_context;
    uint64_t find_count;
    uint64_t start_ms; /* processor time of the thread at the first find */
} abl_regex_run;

void abl_regex_run_finish(abl_regex_run *run);

/* The first match at or after `from` in valid UTF-8; *ret_found says whether there is one.
 *   RESOURCE_EXHAUSTED  REGEX_LIMIT  backtracks too long, in this find or in all of the run */
ABL_MUST_CHECK abl_code abl_regex_find(const abl_regex *regex, abl_regex_run *run, abl_text text,
                                       size_t from, bool *ret_found, size_t *ret_start,
                                       size_t *ret_end, abl_status *ret_status);

ABL_END_DECLS
#endif
