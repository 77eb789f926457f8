/* scores_file.h -- the scores of all edges: from a stream of chunks into a safetensors file, and
 * from such a file into a message.
 *
 * OWNERSHIP  abl_scores_create() hands it to the caller, abl_scores_destroy() ends it.
 * THREADS    One thread.
 * ERRORS     Sticky; abl_scores_save() tells.
 */
#ifndef ABLATE_CLI_SCORES_FILE_H
#define ABLATE_CLI_SCORES_FILE_H

#include "ablate/v1/prune.pb-c.h"
#include "core/base/compiler.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

typedef struct abl_scores abl_scores;

ABL_MUST_CHECK abl_scores *abl_scores_create(void);
void abl_scores_destroy(abl_scores *scores);

/* The next chunk; the chunks of a tensor come in order, and one tensor after the other. */
void abl_scores_add(abl_scores *scores, const Ablate__V1__TensorChunk *chunk);

/* Writes the file, whole or not at all. On a failure `problem` says why. `job_id` goes into the
 * file's metadata. */
ABL_MUST_CHECK bool abl_scores_save(abl_scores *scores, const char *path, const char *job_id,
                                    char *problem, size_t problem_size);

/* Values of a tensor that was added, and its shape (an array of integers): both borrowed. NULL:
 * there is none of that name. */
const float *abl_scores_tensor(const abl_scores *scores, const char *name,
                               const json_t **ret_shape);

/* A file of float32 tensors; abl_scores_destroy() ends it. On a failure `problem` says why. */
ABL_MUST_CHECK bool abl_scores_load(const char *path, abl_scores **ret_scores, char *problem,
                                    size_t problem_size);
/* The tensors as a message, in the file's order; their data is borrowed from the scores.
 * abl_scores_free_message() ends it; NULL: no memory. */
ABL_MUST_CHECK Ablate__V1__ModuleScores *abl_scores_message(const abl_scores *scores);
void abl_scores_free_message(Ablate__V1__ModuleScores *message); /* NULL is allowed */

ABL_END_DECLS
#endif
