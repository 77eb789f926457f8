// SPDX-License-Identifier: Apache-2.0
/* The array is the mask of a graph, some ten thousand values: host memory and one loop. */
#include "core/prune/adam.h"

#include "core/base/mem.h"

#include <math.h>

#define BETA1 0.9
#define BETA2 0.999
#define EPSILON 1e-8

abl_code abl_adam_init(abl_adam *adam, int64_t count, float learning_rate, abl_status *ret_status) {
    *adam = (abl_adam){.count = count, .learning_rate = learning_rate};
    adam->mean = abl_calloc((size_t)count, sizeof *adam->mean);
    adam->variance = abl_calloc((size_t)count, sizeof *adam->variance);
    if (adam->mean == NULL || adam->variance == NULL) {
        abl_adam_finish(adam);
        return abl_fail_oom(ret_status);
    }
    return ABL_CODE_OK;
}

void abl_adam_finish(abl_adam *adam) {
    abl_free(adam->mean);
    abl_free(adam->variance);
    *adam = (abl_adam){0};
}

void abl_adam_step(abl_adam *adam, const float *gradient, float *values) {
    adam->step++;
    const float size = (float)((double)adam->learning_rate / (1 - pow(BETA1, (double)adam->step)));
    const float correction = (float)sqrt(1 - pow(BETA2, (double)adam->step));
    for (int64_t i = 0; i < adam->count; i++) {
        float g = gradient[i];
        adam->mean[i] += (float)(1 - BETA1) * (g - adam->mean[i]);
        adam->variance[i] = (float)BETA2 * adam->variance[i] + (float)(1 - BETA2) * g * g;
        values[i] -=
            size * adam->mean[i] / (sqrtf(adam->variance[i]) / correction + (float)EPSILON);
    }
}
