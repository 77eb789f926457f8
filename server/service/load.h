/* load.h -- making models resident: one load for all who ask for the same.
 *
 * OWNERSHIP  A load belongs to the server while it runs. A follower is embedded in whoever waits,
 *            from abl_load_join() until ready_cb is called or abl_load_leave().
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_SERVICE_LOAD_H
#define ABLATE_SERVER_SERVICE_LOAD_H

#include "core/model/dir.h"
#include "server/runtime/resident.h"
#include "server/service/server.h"

ABL_BEGIN_DECLS

typedef struct abl_load_progress {
    int64_t loaded_bytes;
    int64_t total_bytes;
    char stage[128];
} abl_load_progress;

typedef struct abl_load_follower abl_load_follower;
struct abl_load_follower {
    /* set by whoever waits */
    void (*progress_cb)(abl_load_follower *follower, const abl_load_progress *progress);
    /* The end: the model, or NULL and why. The follower is its owner's again. */
    void (*ready_cb)(abl_load_follower *follower, abl_resident_model *model,
                     const abl_status *status);

    /* the load's own */
    abl_load *load;
    abl_load_follower *next;
};

typedef struct abl_load_options {
    abl_model_dir *dir; /* taken over, on failure too */
    const char *name;   /* what the model will be called; copied */
    abl_model_processing processing;
    abl_dtype dtype;
    abl_device_slot *slot;
    bool uploaded; /* its folder goes away after the load, so nothing else can be the same */
} abl_load_options;

/* The resident model that these options would make again, or NULL. */
abl_resident_model *abl_load_find(abl_server *server, const abl_load_options *options);

/* Joins the load that runs with these options, or starts it. ready_cb never runs inside.
 *   RESOURCE_EXHAUSTED  TOO_MANY_MODELS, QUEUE_FULL, ESTIMATE_TOO_BIG */
ABL_MUST_CHECK abl_code abl_load_join(abl_server *server, abl_load_options *options,
                                      abl_load_follower *follower, abl_status *ret_status);
/* Waits no more; a load that nobody waits for is cancelled. */
void abl_load_leave(abl_load_follower *follower);

ABL_END_DECLS
#endif
