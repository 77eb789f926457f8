/* SPDX-License-Identifier: Apache-2.0
 *
 * A slice is long beside a message and the way to the loop and back, short beside a person's
 * patience. */
#include "server/service/progress.h"

#include "server/service/server.h"

#define SLICE_US 250000

abl_step abl_progress_step(abl_progress *progress, int64_t done, int64_t total) {
    uint64_t now_us = abl_time_us();
    progress->done = done;
    progress->total = total;
    progress->paused = false;
    if (progress->slice_start_us == 0) {
        progress->slice_start_us = now_us;
    }
    if (done == total) {
        return ABL_STEP_DONE;
    }
    if (now_us - progress->slice_start_us < SLICE_US) {
        return ABL_STEP_AGAIN;
    }
    progress->slice_start_us = 0;
    progress->due = true;
    progress->paused = true;
    return ABL_STEP_DONE;
}
