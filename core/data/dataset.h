/* dataset.h -- clean and corrupt prompts with their answers, checked and tokenized, in file order.
 *
 * The file format is AutoCircuit's: {"prompts": [{"clean", "corrupt", "answers": [...],
 * "wrong_answers": [...]}, ...], "seq_labels"?: [...], "word_idxs"?: {...}}. All prompts, clean
 * and corrupt, have one token length; each answer is one token. Untrusted bytes: what is wrong is
 * said with the prompt's index and the field.
 *
 * OWNERSHIP  abl_dataset_create_*() hands the dataset to the caller; abl_dataset_destroy() ends it
 *            and every batch, label and name borrowed from it.
 * THREADS    Immutable after create: any thread may read.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_DATA_DATASET_H
#define ABLATE_CORE_DATA_DATASET_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_dataset abl_dataset;
struct abl_tokenizer;
struct abl_prefix;

typedef enum abl_bos_policy {
    ABL_BOS_NEVER = 0,
    ABL_BOS_PREPEND, /* AutoCircuit's prepend_bos=True: one, when the tokenizer has one */
} abl_bos_policy;

typedef struct abl_dataset_options {
    const struct abl_tokenizer *tokenizer; /* borrowed for the call */
    abl_bos_policy bos;
    int32_t vocab_size;  /* ids must be below it; 0: not checked */
    int32_t seq_len_max; /* 0: ABL_SEQ_MAX; a model's n_ctx */
} abl_dataset_options;

/* Reads the JSON text (the bytes may be freed after).
 *   INVALID_ARGUMENT    DATASET_NOT_JSON, DATASET_KEY_MISSING, DATASET_FIELD_INVALID,
 *                       DATASET_EMPTY, PROMPT_LENGTHS_DIFFER, ANSWER_NOT_ONE_TOKEN
 *   FAILED_PRECONDITION TOKENIZER_MISSING  text, and options->tokenizer is NULL
 *   RESOURCE_EXHAUSTED  DATASET_TOO_BIG, PROMPT_COUNT, ANSWER_COUNT, PROMPT_TOO_LONG */
ABL_MUST_CHECK abl_code abl_dataset_create_json(const char *json, size_t json_bytes,
                                                const abl_dataset_options *options,
                                                abl_dataset **ret_dataset, abl_status *ret_status);

/* What can be told of the JSON text without a tokenizer. End it with abl_dataset_info_finish(). */
typedef struct abl_dataset_info {
    int32_t prompt_count;
    char **seq_labels; /* of the file: no BOS */
    int32_t seq_label_count;
} abl_dataset_info;

/* Checks everything but lengths and vocabulary; the errors of create, less those about tokens. */
ABL_MUST_CHECK abl_code abl_dataset_check_json(const char *json, size_t json_bytes,
                                               abl_dataset_info *ret_info, abl_status *ret_status);
void abl_dataset_info_finish(abl_dataset_info *info);

/* A dataset from token ids, copied. Answers are ragged: those of prompt i are
 * answers[answer_offsets[i] .. answer_offsets[i + 1]); the offsets have prompt_count + 1 entries.
 */
typedef struct abl_dataset_tokens {
    const int32_t *clean;   /* (prompt_count, seq_len) */
    const int32_t *corrupt; /* (prompt_count, seq_len); NULL: the clean ones */
    int32_t prompt_count;
    int32_t seq_len;
    const int32_t *answers;
    const int32_t *answer_offsets;
    const int32_t *wrong_answers; /* both NULL: none */
    const int32_t *wrong_answer_offsets;
    int32_t vocab_size; /* 0: not checked */
} abl_dataset_tokens;

/*   INVALID_ARGUMENT  DATASET_EMPTY, TOKEN_OUT_OF_RANGE, DATASET_FIELD_INVALID */
ABL_MUST_CHECK abl_code abl_dataset_create_tokens(const abl_dataset_tokens *tokens,
                                                  abl_dataset **ret_dataset,
                                                  abl_status *ret_status);
void abl_dataset_destroy(abl_dataset *dataset); /* NULL is allowed */

int32_t abl_dataset_prompt_count(const abl_dataset *dataset);
int32_t abl_dataset_seq_len(const abl_dataset *dataset); /* BOS included */
/* The largest id in prompts: a model's vocabulary must be larger. */
int32_t abl_dataset_id_max(const abl_dataset *dataset);
/* The largest id in answers and wrong answers alone, -1 without any: a column of the logits. */
int32_t abl_dataset_answer_id_max(const abl_dataset *dataset);
bool abl_dataset_has_bos(const abl_dataset *dataset);
/* Tokens at the start that every clean prompt shares with its corrupt one: differences are 0
 * there. The smallest over a range of prompts. */
int32_t abl_dataset_shared_prefix(const abl_dataset *dataset, int32_t first, int32_t count);
/* Tokens at the start that all prompts share, clean and corrupt. *ret_prompt (may be NULL): the
 * first prompt that differs from prompt 0 there, -1 when all are the same to the end. */
int32_t abl_dataset_common_prefix(const abl_dataset *dataset, int32_t *ret_prompt);
/* The same dataset without each prompt's first `cut` tokens: labels and words cut and moved with
 * them, words inside the cut gone.
 *   INVALID_ARGUMENT  TAIL_EMPTY  nothing would be left */
ABL_MUST_CHECK abl_code abl_dataset_create_tail(const abl_dataset *dataset, int32_t cut,
                                                abl_dataset **ret_tail, abl_status *ret_status);
/* sha256 of the token ids and answers in hexadecimal, for provenance: the same prompts give the
 * same hash however they came in. */
#define ABL_SHA256_TEXT_BYTES 65 /* hexadecimal digits, and the NUL */
const char *abl_dataset_hash(const abl_dataset *dataset);

/* seq_labels of the file, "<|BOS|>" first when one was prepended: 0 when it has none. */
int32_t abl_dataset_seq_label_count(const abl_dataset *dataset);
const char *abl_dataset_seq_label(const abl_dataset *dataset, int32_t index);
/* word_idxs of the file in its order, moved by one when a BOS was prepended. */
int32_t abl_dataset_word_count(const abl_dataset *dataset);
const char *abl_dataset_word(const abl_dataset *dataset, int32_t index, int32_t *ret_position);

/* Rows of the dataset, all borrowed from it. */
typedef struct abl_batch {
    int32_t first; /* the first row's prompt index */
    int32_t size;
    int32_t seq_len;
    const int32_t *clean;          /* (size, seq_len) */
    const int32_t *corrupt;        /* (size, seq_len) */
    const int32_t *answers;        /* of row i: [answer_offsets[i], answer_offsets[i + 1]) */
    const int32_t *answer_offsets; /* size + 1 entries, not starting at 0 */
    const int32_t *wrong_answers;  /* likewise */
    const int32_t *wrong_answer_offsets;
    const struct abl_prefix *prefix; /* of abl_batches */
} abl_batch;

/* A range of prompts cut into batches in file order: AutoCircuit's loaders. Its training set is
 * the first n prompts and its test set the next m; its loaders drop an incomplete last batch. */
typedef struct abl_batches {
    const abl_dataset *dataset; /* borrowed */
    int32_t first;              /* prompt */
    int32_t count;              /* prompts */
    int32_t batch_size;
    bool drop_last;
    /* What every prompt stands behind (core/model/prefix.h), the dataset being the tails
     * (abl_dataset_create_tail); NULL: whole prompts. Passed on, never looked at here. */
    const struct abl_prefix *prefix;
} abl_batches;

/*   INVALID_ARGUMENT  BATCH_SIZE_INVALID  not 1..ABL_BATCH_MAX
 *   INVALID_ARGUMENT  SPLIT_INVALID       outside the dataset, or no batch at all */
ABL_MUST_CHECK abl_code abl_batches_check(const abl_batches *batches, abl_status *ret_status);
int32_t abl_batches_count(const abl_batches *batches);
int32_t abl_batches_rows_max(const abl_batches *batches); /* prompts of the largest batch */
abl_batch abl_batches_at(const abl_batches *batches, int32_t index);

ABL_END_DECLS
#endif
