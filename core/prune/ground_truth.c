// SPDX-License-Identifier: Apache-2.0
#include "core/prune/algorithm.h"
static abl_code gt_open(abl_prune *prune, abl_status *ret_status) {
    (void)prune;
    return abl_fail(ret_status, ABL_CODE_UNIMPLEMENTED, "ALGORITHM_UNKNOWN", "not yet");
}
static void gt_close(abl_prune *prune) {
    (void)prune;
}
static int64_t gt_bytes(const abl_prune_options *options) {
    return 4 * abl_graph_edge_count(options->graph);
}
const abl_prune_vtable abl_prune_ground_truth = {
    .open = gt_open, .step = gt_open, .close = gt_close, .bytes_estimate = gt_bytes};
