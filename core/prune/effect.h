/* effect.h -- how far a changed run's output is from the clean run's, for many runs at a time.
 *
 *   LOSS    the loss (grad function, answer function) minus the clean run's
 *   KL_DIV  KL(clean || changed), mean over rows
 *   MSE     the squared difference of the logits from the clean run's, mean over rows and logits
 *
 * The output is the last position's. A loss that does not normalize over the vocabulary reads the
 * answers' columns of the unembedding only.
 *
 * OWNERSHIP  An effect borrows the scope that it was opened in, the model, and the batch.
 * THREADS    The device's executor thread only.
 * ERRORS     Sticky in the scopes.
 */
#ifndef ABLATE_CORE_PRUNE_EFFECT_H
#define ABLATE_CORE_PRUNE_EFFECT_H

#include "core/metric/loss.h"
#include "core/model/block.h"
#include "core/prune/prune.h"

ABL_BEGIN_DECLS

typedef struct abl_effect {
    const abl_model *model;
    abl_exact_metric metric;
    abl_loss loss; /* LOSS */
    abl_batch batch;
    abl_tensor *clean; /* (1, batch, vocab): KL_DIV log-probabilities, MSE logits */
    double clean_loss; /* LOSS */
} abl_effect;

/* Rows that the effect cannot be computed for: as abl_loss_check(). */
ABL_MUST_CHECK abl_code abl_effect_check(abl_exact_metric metric, abl_loss loss,
                                         const abl_batch *batch, abl_status *ret_status);
/* What the options ask for, to be opened. */
abl_effect abl_effect_make(const abl_prune_options *options, const abl_batch *batch);
/* The clean run ends in `end` (batch, seq, d_model), Resid End: its last position counts. */
void abl_effect_open(abl_scope *scope, abl_effect *effect, const abl_tensor *end);
/* The same from the clean run's logits (1, batch, vocab). */
void abl_effect_open_logits(abl_scope *scope, abl_effect *effect, abl_tensor *logits);
/* Of `count` runs that end in x (count, batch, d_model). */
void abl_effect_of(abl_scope *scope, const abl_effect *effect, const abl_tensor *x, int64_t count,
                   double *ret_effects);
/* Of runs whose logits (count, batch, vocab) are there already. */
void abl_effect_of_logits(abl_scope *scope, const abl_effect *effect, const abl_tensor *logits,
                          int64_t count, double *ret_effects);

ABL_END_DECLS
#endif
