/* prompts.h -- prompts as a client sent them to token ids that a pass can take.
 *
 * OWNERSHIP  As each call says.
 * THREADS    Any thread: text is tokenized here, so not the loop's.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_CONVERT_PROMPTS_H
#define ABLATE_SERVER_CONVERT_PROMPTS_H

#include "core/data/dataset.h"
#include "core/tokenizer/tokenizer.h"
#include "server/convert/common.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

typedef struct abl_token_batch {
    const int32_t *tokens; /* (batch, seq) */
    int64_t batch;
    int64_t seq;
} abl_token_batch;

/* Whether BOS goes in front; `unspecified` is the model's default.
 *   FAILED_PRECONDITION  BOS_UNKNOWN  asked for, and the tokenizer has none */
ABL_MUST_CHECK abl_code abl_convert_bos(const abl_model *model, Ablate__V1__BosPolicy bos,
                                        bool unspecified, bool *ret_prepend,
                                        abl_status *ret_status);

/* The ids of one text, BOS first if asked for; an abl_malloc block.
 *   FAILED_PRECONDITION  TOKENIZER_MISSING */
ABL_MUST_CHECK abl_code abl_convert_encode(const abl_model *model, const char *text, bool prepend,
                                           int32_t **ret_ids, size_t *ret_count,
                                           abl_status *ret_status);

/* Ids in the arena, checked against the model, too.
 *   INVALID_ARGUMENT     PROMPT_LENGTHS, TOKEN_OUT_OF_RANGE, SEQ_INVALID
 *   FAILED_PRECONDITION  TOKENIZER_MISSING, BOS_UNKNOWN */
ABL_MUST_CHECK abl_code abl_prompts_tokens(const char *field, const abl_prompts *prompts,
                                           const abl_model *model, bool bos_default,
                                           abl_arena *arena, abl_token_batch *ret_batch,
                                           abl_status *ret_status);

/* A resident dataset in the model's tokens; as abl_dataset_create_json(). */
ABL_MUST_CHECK abl_code abl_prompts_of_dataset(const abl_resident_dataset *dataset,
                                               const abl_model *model, abl_bos_policy bos,
                                               abl_dataset **ret_dataset, abl_status *ret_status);

ABL_END_DECLS
#endif
