// SPDX-License-Identifier: Apache-2.0
/* Subnetwork probing (Cao et al. 2021, arXiv:2104.03514), as AutoCircuit has it for edges: one
 * training of masks; the scores are as of the last step at any time. */
#include "core/base/mem.h"
#include "core/prune/mask_training.h"

#include <string.h>

static abl_code open(abl_prune *prune, abl_status *ret_status) {
    abl_mask_training *training = NULL;
    abl_code code = abl_mask_training_create(&prune->options, &training, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    prune->state = training;
    if (prune->options.subnetwork_probing.knockouts_of != NULL) { /* the circuit's alone rank */
        prune->scored = abl_malloc((size_t)prune->edge_count);
        if (prune->scored == NULL) {
            return abl_fail_oom(ret_status);
        }
        memcpy(prune->scored, prune->options.subnetwork_probing.knockouts_of,
               (size_t)prune->edge_count);
    }
    prune->progress.total =
        abl_mask_training_prepare_count(training) + abl_mask_training_step_count(training);
    return ABL_CODE_OK;
}

static abl_code step(abl_prune *prune, abl_status *ret_status) {
    abl_code code = abl_mask_training_step(prune->state, prune, ret_status);
    if (code == ABL_CODE_OK) {
        abl_mask_training_scores(prune->state, prune->scores);
    }
    return code;
}

static void close(abl_prune *prune) {
    abl_mask_training_destroy(prune->state);
    prune->state = NULL;
}

const abl_prune_vtable abl_prune_subnetwork_probing = {
    .open = open, .step = step, .close = close, .bytes_estimate = abl_mask_training_bytes_estimate};
