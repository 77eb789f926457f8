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
#define GOLDEN 0x9e3779b97f4a7c15ULL /* splitmix64's step */

/* Streams of draws from one seed. */
enum { STREAM_CONCRETE = 1, STREAM_DROPOUT };

static uint64_t hash(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

uint64_t abl_mask_seed(uint64_t seed, uint64_t step) {
    return hash(seed + (step + 1) * GOLDEN);
}

/* Of a seed that went through abl_mask_seed(). */
static float uniform_of(uint64_t stream, uint64_t counter) {
    uint64_t bits = hash(stream + counter * GOLDEN);
    return ((float)(bits >> 41) + 0.5F) * 0x1p-23F;
}

float abl_mask_uniform(uint64_t seed, uint64_t counter) {
    return uniform_of(abl_mask_seed(seed, 0), counter);
}

static bool draws_of(const abl_mask_sample_options *o) {
    return o->function == ABL_MASK_HARD_CONCRETE;
}

/* ---- a row's values and slopes --------------------------------------------------------------- */

/* A row of a sample: its mask (NULL: zeros), its first element's number, and where it goes. */
typedef struct row {
    const float *mask;
    int64_t first;
    int64_t edges;
    float *values;
    float *slopes;
} row;

static float mask_at(const row *r, int64_t i) {
    return r->mask == NULL ? 0.0F : r->mask[i];
}

static void row_none(const row *r) {
    for (int64_t i = 0; i < r->edges; i++) {
        r->values[i] = mask_at(r, i);
        r->slopes[i] = 1.0F;
    }
}

static void row_sigmoid(const row *r) {
    for (int64_t i = 0; i < r->edges; i++) {
        float s = 1.0F / (1.0F + expf(-mask_at(r, i)));
        r->values[i] = s;
        r->slopes[i] = s * (1.0F - s);
    }
}

/* With x = (1 - u) / u exp(-mask), s = sigmoid((log u - log(1 - u) + mask) / (2/3)) is 1 / (1 +
 * x^1.5): one root in the place of two logarithms and an exponential. `odds` are the exp(-mask). */
static void row_hard_concrete(const row *r, const float *odds, const float *draws, uint64_t seed) {
    for (int64_t i = 0; i < r->edges; i++) {
        float u = draws != NULL ? draws[i] : uniform_of(seed, (uint64_t)(r->first + i));
        u = u < DRAW_MIN ? DRAW_MIN : u > 1.0F - DRAW_MIN ? 1.0F - DRAW_MIN : u;
        float x = (1.0F - u) / u * odds[i];
        float s = 1.0F / (1.0F + x * sqrtf(x));
        float stretched = s * STRETCH + STRETCH_LOW;
        bool inside = stretched >= 0.0F && stretched <= 1.0F;
        r->values[i] = stretched < 0.0F ? 0.0F : stretched > 1.0F ? 1.0F : stretched;
        r->slopes[i] = inside ? STRETCH / TEMPERATURE * s * (1.0F - s) : 0.0F;
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

static abl_code rows_fill(const abl_mask_sample_options *o, abl_mask_sample *sample,
                          abl_status *ret_status) {
    ABL_CLEANUP(abl_freep) float *odds = NULL;
    if (draws_of(o)) {
        odds = abl_calloc((size_t)(o->mask_rows * o->edges), sizeof *odds);
        if (odds == NULL) {
            return abl_fail_oom(ret_status);
        }
        for (int64_t i = 0; i < o->mask_rows * o->edges; i++) {
            odds[i] = o->mask == NULL ? 1.0F : expf(-o->mask[i]);
        }
    }
    const uint64_t seed = abl_mask_seed(abl_mask_seed(o->seed, STREAM_CONCRETE), 0);
    for (int64_t i = 0; i < sample->rows; i++) {
        const int64_t first = i * o->edges;
        const int64_t shared = o->mask_rows == 1 ? 0 : first; /* where this row's mask begins */
        const row r = {.mask = o->mask == NULL ? NULL : o->mask + shared,
                       .first = first,
                       .edges = o->edges,
                       .values = sample->values + first,
                       .slopes = sample->slopes + first};
        switch (o->function) {
        case ABL_MASK_SIGMOID:
            row_sigmoid(&r);
            break;
        case ABL_MASK_HARD_CONCRETE:
            row_hard_concrete(&r, odds + shared, o->draws == NULL ? NULL : o->draws + first, seed);
            break;
        case ABL_MASK_NONE:
        case ABL_MASK_FUNCTION_COUNT:
            row_none(&r);
            break;
        }
    }
    return ABL_CODE_OK;
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
    abl_code code = rows_fill(o, &sample, ret_status);
    if (code != ABL_CODE_OK) {
        abl_mask_sample_finish(&sample);
        return code;
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
    for (int64_t i = o->mask_rows; i < sample->rows; i++) {
        for (int64_t edge = 0; edge < edges; edge++) {
            ret_gradient[edge] += values_gradient[i * edges + edge];
        }
    }
}
