/* algorithm.h -- what a prune algorithm implements; for core/prune only.
 *
 * prune.c checks the options, owns the scores, and counts steps; an algorithm does one step's work.
 */
#ifndef ABLATE_CORE_PRUNE_ALGORITHM_H
#define ABLATE_CORE_PRUNE_ALGORITHM_H

#include "core/model/block.h"
#include "core/prune/prune.h"

ABL_BEGIN_DECLS

struct abl_prune {
    abl_prune_options options;
    const struct abl_prune_vtable *vtable;
    void *state;     /* the algorithm's */
    float *scores;   /* canonical order */
    uint8_t *scored; /* NULL: every edge has a score */
    int64_t edge_count;
    int32_t batch_count;
    abl_prune_progress progress;
};

typedef struct abl_prune_vtable {
    /* Sets prune->state and prune->progress.total; what is wrong with its own options. */
    abl_code (*open)(abl_prune *prune, abl_status *ret_status);
    /* Does one unit, adds to prune->scores, and moves prune->progress (done, batch,
     * batch_finished). */
    abl_code (*step)(abl_prune *prune, abl_status *ret_status);
    void (*close)(abl_prune *prune); /* state may be NULL or half-built */
    int64_t (*bytes_estimate)(const abl_prune_options *options);
} abl_prune_vtable;

extern const abl_prune_vtable abl_prune_eap;
extern const abl_prune_vtable abl_prune_mask_gradient;
extern const abl_prune_vtable abl_prune_ground_truth;
extern const abl_prune_vtable abl_prune_random;

ABL_END_DECLS
#endif
