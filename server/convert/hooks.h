/* hooks.h -- interventions and kept activations: messages to core structs, and back.
 *
 * OWNERSHIP  Results live in the arena or point into the message.
 * THREADS    The loop thread, for what is resident.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone; NULL
 *            elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_HOOKS_H
#define ABLATE_SERVER_CONVERT_HOOKS_H

#include "ablate/v1/cache.pb-c.h"
#include "ablate/v1/hooks.pb-c.h"
#include "server/convert/common.h"
#include "server/runtime/hooks.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

typedef struct abl_hook_request {
    abl_intervention item;      /* without a PATCH's tensor */
    const char *activations_id; /* NULL unless PATCH */
    const char *source_name;    /* as TransformerLens names it */
} abl_hook_request;

/* `field` names the intervention in messages. Everything that needs no pass and no look-up is
 * checked; `shape` says what is known of passes already.
 *   INVALID_ARGUMENT    HOOK_MISSING, HOOK_OPERATION, HOOK_INDICES, TENSOR_DTYPE, ...
 *   and those of abl_hook_parse() and abl_intervention_check() */
ABL_MUST_CHECK abl_code abl_convert_intervention(const char *field,
                                                 const Ablate__V1__Intervention *message,
                                                 const abl_model_config *config,
                                                 const abl_pass_shape *shape, abl_arena *arena,
                                                 abl_hook_request *ret_request,
                                                 abl_status *ret_status);

/* "hook-12" */
void abl_convert_hook_id(const abl_resident_hook *hook, char *text, size_t text_bytes);
ABL_MUST_CHECK Ablate__V1__Hook *abl_convert_hook(abl_arena *arena, const abl_resident_hook *hook);
ABL_MUST_CHECK Ablate__V1__Activations *
abl_convert_activations(abl_arena *arena, const abl_resident_activations *activations);

ABL_END_DECLS
#endif
