/* prefix.h -- a KV cache: tokens that many prompts begin with, computed once.
 *
 * A pass behind a prefix takes the rest of its prompts only, the tail: tail position 0 is position
 * abl_prefix_length() of the model, and every query also sees the prefix's keys and values. They
 * are of batch 1 and serve any batch. Wherever a prefix may be given, NULL means none. What a pass
 * gives or is told (logits, captures, masks, ablations, positions) is about the tail alone.
 *
 * OWNERSHIP  abl_prefix_create() hands the prefix to the caller; it borrows the model.
 * THREADS    Immutable after create. Creating, and passes, on the executor of the model's device.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone; those
 *            with a scope are sticky in it.
 */
#ifndef ABLATE_CORE_MODEL_PREFIX_H
#define ABLATE_CORE_MODEL_PREFIX_H

#include "core/base/status.h"
#include "core/model/block.h"
#include "core/model/model.h"
#include "core/tensor/tensor.h"

#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_prefix abl_prefix;

/* Runs the model over `length` tokens of one prompt.
 *   INVALID_ARGUMENT    SEQ_INVALID         empty, or no position of the context left for a tail
 *   INVALID_ARGUMENT    TOKEN_OUT_OF_RANGE
 *   FAILED_PRECONDITION MODEL_NOT_CAUSAL    positions see those behind them
 *   RESOURCE_EXHAUSTED  OUT_OF_DEVICE_MEMORY, OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_prefix_create(const abl_model *model, const int32_t *tokens,
                                          int64_t length, abl_prefix **ret_prefix,
                                          abl_status *ret_status);
void abl_prefix_destroy(abl_prefix *prefix); /* NULL is allowed */

int64_t abl_prefix_length(const abl_prefix *prefix); /* 0 for NULL, as for bytes */
const int32_t *abl_prefix_tokens(const abl_prefix *prefix);
int64_t abl_prefix_bytes(const abl_prefix *prefix); /* resident */
/* What it would be for so many tokens, known before the pass. */
int64_t abl_prefix_bytes_of(const abl_model *model, int64_t length);

/* Whether a tail of `seq` tokens may run on `model` behind it.
 *   FAILED_PRECONDITION  PREFIX_MODEL_MISMATCH  it was computed by another model, or the same one
 *                                               processed otherwise
 *   INVALID_ARGUMENT     SEQ_INVALID            together they are longer than the context */
ABL_MUST_CHECK abl_code abl_prefix_check(const abl_prefix *prefix, const abl_model *model,
                                         int64_t seq, abl_status *ret_status);
/* Whether whole prompts (rows, seq) begin with it and go on. `what` says whose: "prompts".
 *   INVALID_ARGUMENT  PREFIX_NOT_SHARED  names the first row and position that differ
 *   INVALID_ARGUMENT  TAIL_EMPTY         nothing is left of the prompts */
ABL_MUST_CHECK abl_code abl_prefix_check_prompts(const abl_prefix *prefix, const char *what,
                                                 const int32_t *tokens, int64_t rows, int64_t seq,
                                                 abl_status *ret_status);

/* What attention sees of a tail's own projections (abl_block_qkv, or heads repeated for each query
 * head): q and k rotated at their positions, where q may be of the last positions only; the
 * prefix's keys and values in front of k and v. */
abl_qkv abl_prefix_qkv(abl_scope *scope, const abl_model *model, const abl_prefix *prefix,
                       int layer, abl_qkv own);

/* Gradients at what attention saw, (batch, pos, heads, d_head) of the tail, back to gradients at
 * its projections: q and k rotated back in place. */
void abl_prefix_unrotate_(abl_scope *scope, const abl_model *model, const abl_prefix *prefix,
                          abl_qkv grads);

/* Floats that a layer's attention needs more behind a prefix: at most, for `kv_heads` heads. */
int64_t abl_prefix_pass_floats(const abl_prefix *prefix, const abl_model_config *config,
                               int64_t kv_heads, int64_t batch, int64_t seq);

ABL_END_DECLS
#endif
