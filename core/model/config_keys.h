/* config_keys.h -- a JSON object's keys, read one by one, each with its type, range and default;
 * internal to the readers of config.json.
 *
 * The first failure is kept, and every later read gives its default or zero: who reads checks
 * `code` once, at the end, and before what a failed read would make undefined (a division).
 *
 * OWNERSHIP  abl_keys borrows all it points to.
 * THREADS    One thread at a time.
 * ERRORS     `code`, and *status with the words. A key of the wrong type or out of its range is
 *            INVALID_ARGUMENT (CONFIG_INVALID); a variant that is not computed here is
 *            UNIMPLEMENTED (CONFIG_UNSUPPORTED).
 */
#ifndef ABLATE_CORE_MODEL_CONFIG_KEYS_H
#define ABLATE_CORE_MODEL_CONFIG_KEYS_H

#include "core/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

#define ABL_CONFIG_INVALID "CONFIG_INVALID"
#define ABL_CONFIG_UNSUPPORTED "CONFIG_UNSUPPORTED"
#define ABL_KEY_REQUIRED (-1) /* the `absent` of a count that has no default */
#define ABL_KEYS_TEXT_BYTES 128

typedef struct abl_keys {
    const json_t *root; /* an object */
    const char *source; /* what messages call it */
    abl_code code;      /* of the first failure */
    abl_status *status;
} abl_keys;

/* NULL when the key is absent or null, and after a failure. */
const json_t *abl_keys_get(const abl_keys *in, const char *key);

/* Each gives `absent` when the key is absent or null. A count is in [1, max]; a positive number in
 * (0, max]. An epsilon that went through a 32-bit float is put back to the short decimal that it
 * came from: a GGUF file stores 1e-5 as 9.999999747378752e-06. */
int abl_keys_read_count(abl_keys *in, const char *key, int max, int absent);
bool abl_keys_read_bool(abl_keys *in, const char *key, bool absent);
double abl_keys_read_positive(abl_keys *in, const char *key, double max, double absent);
double abl_keys_read_epsilon(abl_keys *in, const char *key, double absent);
/* The index of the string's value among `names`. */
size_t abl_keys_read_choice(abl_keys *in, const char *key, const char *const *names, size_t count,
                            size_t absent);
/* A token id below d_vocab, or -1 when null. An absent key is `absent` where that is a token. */
int abl_keys_read_token(abl_keys *in, const char *key, int absent, int d_vocab);

/* Refuse a variant: unless the key is absent, null or `wanted`; unless it is absent or null; unless
 * it is absent, null or -1, which is how TransformerLens writes "no cap". */
void abl_keys_require_bool(abl_keys *in, const char *key, bool wanted);
void abl_keys_require_absent(abl_keys *in, const char *key);
void abl_keys_require_cap_off(abl_keys *in, const char *key);

/* "KEY must be WANTED, not TYPE". */
void abl_keys_fail_type(abl_keys *in, const char *key, const char *wanted);
/* "a, b, c" for messages, in `text`, which they must fit. */
const char *abl_keys_join(const char *const *names, size_t count, char text[ABL_KEYS_TEXT_BYTES]);

ABL_END_DECLS
#endif
