/* algorithm.h -- what a prune algorithm implements; for core/prune only.
 *
 * prune.c checks the options, owns the scores, and counts steps; an algorithm does one step's work.
 *
 * OWNERSHIP  `state` is the algorithm's, which close() frees; the rest is prune.c's.
 * THREADS    The device's executor thread only; bytes_estimate() on any.
 * ERRORS     Fallible calls return a code and fill *ret_status; after a failure only close().
 */
#ifndef ABLATE_CORE_PRUNE_ALGORITHM_H
#define ABLATE_CORE_PRUNE_ALGORITHM_H

#include "core/metric/loss.h"
#include "core/model/block.h"
#include "core/prune/prune.h"

ABL_BEGIN_DECLS

struct abl_prune {
    abl_prune_options options;
    const struct abl_prune_vtable *vtable;
    void *state;     /* the algorithm's */
    float *scores;   /* (edges), canonical order */
    uint8_t *scored; /* (edges); NULL: every edge has a score */
    int64_t edge_count;
    int32_t batch_count;
    abl_prune_progress progress;
    abl_ablator *ablator; /* abl_prune_ablate() */
    /* of trainings; the algorithm's */
    const abl_training_point *curve;
    int64_t curve_count;
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

/* For open(): this algorithm ablates, as the options say; `residuals`: also destinations with all
 * their sources ablated. Passes for a mean over the dataset are prune.c's: they come before the
 * first step, and are added to the total. */
ABL_MUST_CHECK abl_code abl_prune_ablate(abl_prune *prune, bool residuals, abl_status *ret_status);
/* For step(): what ablates this batch; borrowed until the next call. NULL is ZERO. */
ABL_MUST_CHECK abl_code abl_prune_ablated(abl_prune *prune, const abl_batch *batch,
                                          const abl_sources **ret_ablated, abl_status *ret_status);
/* For bytes_estimate(). */
int64_t abl_prune_ablated_bytes(const abl_prune_options *options, bool residuals);

/* A pass over a batch's clean prompts with the options' interventions; what ablates, and the mask,
 * are the caller's to set. */
abl_patch_options abl_prune_pass(const abl_prune_options *options, const abl_batch *batch);
/* For bytes_estimate(): such a pass over the largest batch, and its gradient where asked for. */
int64_t abl_prune_hooked_bytes(const abl_prune_options *options, bool gradient);
/* For open(): that the interventions can be done in passes over these batches, and backwards where
 * the algorithm goes there. */
ABL_MUST_CHECK abl_code abl_prune_check_hooks(const abl_prune_options *options,
                                              const abl_batches *batches, abl_status *ret_status);

/* For open(): that every batch has the answers which the loss needs. */
ABL_MUST_CHECK abl_code abl_prune_check_answers(const abl_prune *prune, abl_status *ret_status);

/* The loss of the options' functions, and its gradient by the logits over one batch: an
 * abl_logits_loss_cb, whose user_data is an abl_prune_batch_loss. */
abl_loss abl_prune_loss(const abl_prune_options *options);
typedef struct abl_prune_batch_loss {
    abl_loss loss;
    const abl_batch *batch;
} abl_prune_batch_loss;
abl_tensor *abl_prune_loss_gradient(abl_scope *scope, const abl_tensor *logits, void *user_data);

extern const abl_prune_vtable abl_prune_eap;
extern const abl_prune_vtable abl_prune_mask_gradient;
extern const abl_prune_vtable abl_prune_ground_truth;
extern const abl_prune_vtable abl_prune_random;
extern const abl_prune_vtable abl_prune_acdc;
extern const abl_prune_vtable abl_prune_activation_magnitude;
extern const abl_prune_vtable abl_prune_eap_ig;
extern const abl_prune_vtable abl_prune_subnetwork_probing;
extern const abl_prune_vtable abl_prune_circuit_probing;

ABL_END_DECLS
#endif
