/* kv_cache.h -- KV caches as messages, and what requests say about them.
 *
 * OWNERSHIP  Messages are built in the arena; tokens are borrowed from the cache.
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status; NULL elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_KV_CACHE_H
#define ABLATE_SERVER_CONVERT_KV_CACHE_H

#include "ablate/v1/cache.pb-c.h"
#include "server/convert/common.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

ABL_MUST_CHECK Ablate__V1__KvCache *abl_convert_kv_cache(abl_arena *arena,
                                                         const abl_registry *registry,
                                                         const abl_resident_kv_cache *cache);

/* The one prompt of a CreateKvCacheRequest.
 *   INVALID_ARGUMENT  KV_CACHE_PROMPTS  more than one; and those of abl_convert_prompts() */
ABL_MUST_CHECK abl_code abl_convert_kv_cache_prompt(const Ablate__V1__CreateKvCacheRequest *message,
                                                    abl_arena *arena, abl_prompts *ret_prompts,
                                                    abl_status *ret_status);

ABL_END_DECLS
#endif
