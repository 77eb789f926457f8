// SPDX-License-Identifier: Apache-2.0
/* Values and slopes are made together: the slope needs what the value needs, and a backward pass is
 * then one product. A draw is a hash of the seed and the element's number (splitmix64's finalizer),
 * so samples depend on no order of evaluation and no state. */
#include "core/patch/mask_function.h"

#include "core/base/mem.h"

#include <math.h>
#include <string.h>

/* The constants of Louizos et al. (2018), as Cao et al. and AutoCircuit have them. */
#define TEMPERATURE (2.0F / 3.0F)
#define STRETCH_LOW (-0.1F)
#define STRETCH 1.2F
#define DRAW_MIN 1e-4F

/* Streams of draws from one seed. */
enum { STREAM_CONCRETE = 1, STREAM_DROPOUT };

static uint64_t hash(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

uint64_t abl_mask_seed(uint64_t seed, uint64_t step) {
    return hash(seed + (step + 1) * 0x9e3779b97f4a7c15ULL);
}

float abl_mask_uniform(uint64_t seed, uint64_t counter) {
    uint64_t bits = hash(abl_mask_seed(seed, 0) + counter * 0x9e3779b97f4a7c15ULL);
    return ((float)(bits >> 41) + 0.5F) * 0x1p-23F;
}

static bool draws_of(const abl_mask_sample_options *o) {
    return o->function == ABL_MASK_HARD_CONCRETE;
}

/* ---- one element ----------------------------------------------------------------------------- */

static void hard_concrete(float mask, float u, float *ret_value, float *ret_slope) {
    u = fminf(fmaxf(u, DRAW_MIN), 1.0F - DRAW_MIN);
    float s = 1.0F / (1.0F + expf(-(logf(u) - logf(1.0F - u) + mask) / TEMPERATURE));
    float stretched = s * STRETCH + STRETCH_LOW;
    bool inside = stretched >= 0.0F && stretched <= 1.0F;
    *ret_value = fminf(fmaxf(stretched, 0.0F), 1.0F);
    *ret_slope = inside ? STRETCH / TEMPERATURE * s * (1.0F - s) : 0.0F;
}

static void apply(const abl_mask_sample_options *o, float mask, int64_t index, float *ret_value,
                  float *ret_slope) {
    switch (o->function) {
    case ABL_MASK_SIGMOID: {
        float s = 1.0F / (1.0F + expf(-mask));
        *ret_value = s;
        *ret_slope = s * (1.0F - s);
        break;
    }
    case ABL_MASK_HARD_CONCRETE: {
        float u = o->draws != NULL
                      ? o->draws[index]
                      : abl_mask_uniform(abl_mask_seed(o->seed, STREAM_CONCRETE), (uint64_t)index);
        hard_concrete(mask, u, ret_value, ret_slope);
        break;
    }
    case ABL_MASK_NONE:
    case ABL_MASK_FUNCTION_COUNT:
        *ret_value = mask;
        *ret_slope = 1.0F;
        break;
    }
}

/* ---- a sample -------------------------------------------------------------------------------- */

static void dropout(const abl_mask_sample_options *o, abl_mask_sample *sample) {
    const uint64_t seed = abl_mask_seed(o->seed, STREAM_DROPOUT);
    const float scale = 1.0F / (1.0F - o->dropout);
    for (int64_t i = 0; i < sample->rows * o->edges; i++) {
        float factor = abl_mask_uniform(seed, (uint64_t)i) < o->dropout ? 0.0F : scale;
        sample->values[i] *= factor;
        sample->slopes[i] *= factor;
    }
}

abl_code abl_mask_sample_init(const abl_mask_sample_options *o, abl_mask_sample *ret_sample,
                              abl_status *ret_status) {
    abl_mask_sample sample = {.rows = draws_of(o) ? o->rows : o->mask_rows};
    size_t count = (size_t)(sample.rows * o->edges);
    sample.values = abl_calloc(count, sizeof *sample.values);
    sample.slopes = abl_calloc(count, sizeof *sample.slopes);
    if (sample.values == NULL || sample.slopes == NULL) {
        abl_mask_sample_finish(&sample);
        return abl_fail_oom(ret_status);
    }
    for (int64_t row = 0; row < sample.rows; row++) {
        const float *mask =
            o->mask == NULL ? NULL : o->mask + (o->mask_rows == 1 ? 0 : row * o->edges);
        for (int64_t i = 0; i < o->edges; i++) {
            int64_t index = row * o->edges + i;
            apply(o, mask == NULL ? 0.0F : mask[i], index, &sample.values[index],
                  &sample.slopes[index]);
        }
    }
    if (o->dropout > 0.0F) {
        dropout(o, &sample);
    }
    *ret_sample = sample;
    return ABL_CODE_OK;
}

void abl_mask_sample_finish(abl_mask_sample *sample) {
    abl_free(sample->values);
    abl_free(sample->slopes);
    *sample = (abl_mask_sample){0};
}

void abl_mask_sample_backward(const abl_mask_sample_options *o, const abl_mask_sample *sample,
                              float *values_gradient, float *ret_gradient) {
    const int64_t edges = o->edges;
    for (int64_t i = 0; i < sample->rows * edges; i++) {
        values_gradient[i] *= sample->slopes[i];
    }
    memcpy(ret_gradient, values_gradient, (size_t)(o->mask_rows * edges) * sizeof *ret_gradient);
    for (int64_t row = o->mask_rows; row < sample->rows; row++) {
        for (int64_t i = 0; i < edges; i++) {
            ret_gradient[i] += values_gradient[row * edges + i];
        }
    }
}
