/* hooks_json.h -- a graph's hooks as JSON, for provenance.
 *
 * OWNERSHIP  The text lives in the arena.
 * THREADS    The loop thread.
 * ERRORS     NULL: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_HOOKS_JSON_H
#define ABLATE_SERVER_CONVERT_HOOKS_JSON_H

#include "core/base/arena.h"
#include "server/runtime/hooks.h"

ABL_BEGIN_DECLS

/* Provenance.hooks_json: a list with an object a hook, in their order. */
ABL_MUST_CHECK char *abl_convert_hooks_json(abl_arena *arena, const abl_graph_hooks *hooks);

ABL_END_DECLS
#endif
