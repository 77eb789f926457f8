// SPDX-License-Identifier: Apache-2.0
/* Uniform scores in [0, 1), the baseline that every algorithm must beat. splitmix64 of the seed and
 * the edge's index: an edge's score does not depend on what else is scored, or on any device. */
#include "core/prune/algorithm.h"

static uint64_t splitmix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
}

static abl_code random_open(abl_prune *prune, abl_status *ret_status) {
    (void)ret_status;
    prune->progress.total = 1;
    prune->batch_count = 1; /* it looks at no prompt */
    return ABL_CODE_OK;
}

static abl_code random_step(abl_prune *prune, abl_status *ret_status) {
    (void)ret_status;
    uint64_t seed = splitmix64(prune->options.seed);
    for (int64_t i = 0; i < prune->edge_count; i++) {
        uint64_t bits = splitmix64(seed ^ splitmix64((uint64_t)i)) >> 40; /* 24 of them */
        prune->scores[i] = (float)bits * 0x1p-24F;
    }
    prune->progress.done = 1;
    prune->progress.batch_finished = true;
    return ABL_CODE_OK;
}

static void random_close(abl_prune *prune) {
    (void)prune;
}

static int64_t random_bytes_estimate(const abl_prune_options *options) {
    return 4 * abl_graph_edge_count(options->graph);
}

const abl_prune_vtable abl_prune_random = {.open = random_open,
                                           .step = random_step,
                                           .close = random_close,
                                           .bytes_estimate = random_bytes_estimate};
