/* dataset_internal.h -- the fields of a dataset, for the files of core/data only.
 *
 * OWNERSHIP  Arrays are the dataset's; abl_dataset_destroy() ends it half built, too.
 * THREADS    One at a time, until it is sealed.
 * ERRORS     Fallible calls return a code and fill *ret_status.
 */
#ifndef ABLATE_CORE_DATA_DATASET_INTERNAL_H
#define ABLATE_CORE_DATA_DATASET_INTERNAL_H

#include "core/data/dataset.h"

ABL_BEGIN_DECLS

/* Ids of all prompts end to end; those of prompt i are ids[offsets[i] .. offsets[i + 1]). */
typedef struct abl_ragged {
    int32_t *ids;
    int32_t *offsets; /* prompt_count + 1 */
    int32_t capacity; /* of ids */
} abl_ragged;

struct abl_dataset {
    int32_t prompt_count;
    int32_t seq_len;
    int32_t id_max;
    int32_t answer_id_max;
    bool has_bos;
    int32_t *clean;   /* (prompt_count, seq_len) */
    int32_t *corrupt; /* (prompt_count, seq_len) */
    abl_ragged answers;
    abl_ragged wrong_answers;
    char hash[ABL_SHA256_TEXT_BYTES];
    char **labels; /* (label_count): seq_labels, for people */
    int32_t label_count;
    char **words;            /* (word_count): word_idxs' names */
    int32_t *word_positions; /* (word_count): where each is in a prompt */
    int32_t word_count;
};

/* Zeroed, with both offset arrays; NULL when there is no memory. */
abl_dataset *abl_dataset_alloc(int32_t prompt_count);
/* Appends one id to prompt `prompt`, which must be the last one appended to or the one after. */
ABL_MUST_CHECK abl_code abl_ragged_add(abl_ragged *ragged, int32_t prompt, int32_t id,
                                       abl_status *ret_status);
/* Fills the hash and the largest id from everything else; the last thing that a constructor does. */
ABL_MUST_CHECK abl_code abl_dataset_seal(abl_dataset *dataset, abl_status *ret_status);

ABL_END_DECLS
#endif
