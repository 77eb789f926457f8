/* ablation.h -- resident ablations: what is to be made, what there is, and who may use it.
 *
 * OWNERSHIP  Results live in the arena, point into the message, or borrow from the object.
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status; NULL elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_ABLATION_H
#define ABLATE_SERVER_CONVERT_ABLATION_H

#include "ablate/v1/cache.pb-c.h"
#include "server/convert/common.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

typedef struct abl_ablation_request {
    const char *model_id;
    const char *dataset_id; /* NULL: prompts */
    abl_prompts prompts;
    abl_ablation ablation;
    bool from_clean;
    int32_t prompt_count; /* 0: all */
    int32_t batch_size;
    Ablate__V1__BosPolicy bos;
    bool tail_divergence;
    const char *kv_cache_id; /* NULL: none */
} abl_ablation_request;

/*   INVALID_ARGUMENT    ABLATION_ZERO, ABLATION_SOURCE, BATCH_INVALID, PROMPT_COUNT_INVALID,
 *                       TAIL_DIVERGENCE, and those of prompts */
ABL_MUST_CHECK abl_code
abl_convert_create_ablation(const Ablate__V1__CreateAblationRequest *message, abl_arena *arena,
                            abl_ablation_request *ret_request, abl_status *ret_status);

/* What the request came to. */
typedef struct abl_ablation_made_of {
    bool bos; /* of a dataset; prompts have their own */
    int32_t prompt_count;
    int64_t prefix_length;
    const char *tokens_hash; /* abl_dataset_hash(), prefix included */
} abl_ablation_made_of;

/* The type, side and prompts as JSON, for provenance. */
ABL_MUST_CHECK char *abl_convert_ablation_json(const abl_ablation_request *request,
                                               const abl_ablation_made_of *of, abl_arena *arena);

ABL_MUST_CHECK Ablate__V1__ResidentAblation *
abl_convert_ablation(abl_arena *arena, const abl_registry *registry,
                     const abl_resident_ablation *ablation);

/* Whether it may be used with this model, and for prompts of this dataset (its hash; NULL: of
 * none).
 *   INVALID_ARGUMENT  ABLATION_MODEL_MISMATCH, ABLATION_DATASET_MISMATCH */
ABL_MUST_CHECK abl_code abl_convert_ablation_fits(const abl_resident_ablation *ablation,
                                                  const abl_resident_model *model,
                                                  const char *dataset_hash, abl_status *ret_status);
/* `field`.ablation_id with a type beside it.
 *   INVALID_ARGUMENT  ABLATION_CONFLICT */
ABL_MUST_CHECK abl_code abl_convert_ablation_alone(const char *field, Ablate__V1__AblationType type,
                                                   abl_status *ret_status);

ABL_END_DECLS
#endif
