/* model.h -- resident models as messages, and who made a result.
 *
 * OWNERSHIP  Messages are built in the arena; they borrow text from the objects they describe.
 * THREADS    The loop thread: resident objects are read.
 * ERRORS     NULL: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_MODEL_H
#define ABLATE_SERVER_CONVERT_MODEL_H

#include "ablate/v1/model.pb-c.h"
#include "server/convert/common.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

ABL_MUST_CHECK Ablate__V1__Model *abl_convert_model(abl_arena *arena, abl_registry *registry,
                                                    const abl_resident_model *model);

ABL_MUST_CHECK Ablate__V1__HookPoint *abl_convert_hook_point(abl_arena *arena, abl_hook hook);

/* `graph` may be NULL; `hooks` are those that were in force. What is about a dataset and an
 * algorithm is the caller's to fill in. */
ABL_MUST_CHECK Ablate__V1__Provenance *abl_convert_provenance(abl_arena *arena,
                                                              const abl_resident_model *model,
                                                              const abl_resident_graph *graph,
                                                              const abl_graph_hooks *hooks);

ABL_END_DECLS
#endif
