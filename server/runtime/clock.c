// SPDX-License-Identifier: Apache-2.0
/* Two clocks: dates that people read may jump, durations must not. */
#include "server/runtime/clock.h"

#include <time.h>

int64_t abl_time_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t abl_time_us(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
