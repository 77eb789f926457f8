/* scores_file.h -- the scores of all edges, from a stream of chunks into a safetensors file.
 *
 * OWNERSHIP  abl_scores_create() hands it to the caller, abl_scores_destroy() ends it.
 * THREADS    One thread.
 * ERRORS     Sticky; abl_scores_save() tells.
 */
#ifndef ABLATE_CLI_SCORES_FILE_H
#define ABLATE_CLI_SCORES_FILE_H

#include "ablate/v1/common.pb-c.h"
#include "core/base/compiler.h"

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

ABL_END_DECLS
#endif
