/* kernels.hpp -- loops over float32 rows in host memory, one table of them for each instruction set.
 *
 * kernels.cpp is compiled once for each set that the build knows; kernels() picks the best that the
 * machine has. Pointers never overlap unless they are equal. */
#ifndef ABLATE_CORE_TENSOR_KERNELS_HPP
#define ABLATE_CORE_TENSOR_KERNELS_HPP

#include "core/tensor/tensor.h"

#include <cstdint>

namespace abl {

/* A norm of `rows` rows of `width`. NULL: no gain, no bias, not wanted. */
struct norm_args {
    const float *x;
    const float *w;
    const float *b;
    float *y; /* may be xhat, without w */
    float *xhat;
    float *rstd;
    int64_t width;
    float eps;
    bool centre;
};

/* Attention of one query head (one row of a group) over one key head. Strides in floats. */
struct attention_args {
    const float *q; /* (queries, d_head) */
    const float *k; /* (keys, d_head) */
    const float *v;
    float *z;
    float *scores;  /* (queries, keys), contiguous; never NULL: also the work space */
    float *pattern; /* the same; never NULL, may be scores when those are not wanted */
    int64_t q_stride, k_stride, v_stride, z_stride;
    int64_t queries, keys, d_head;
    float scale;
    bool causal; /* else every query sees all keys */
};

struct kernel_table {
    const char *name;
    void (*add_row)(float *out, const float *x, int64_t n);
    void (*activate)(abl_tensor_act act, float *out, const float *x, int64_t n);
    /* out = grad * act'(x) */
    void (*activate_backward)(abl_tensor_act act, float *out, const float *grad, const float *x,
                              int64_t n);
    /* out = act(gate) * up */
    void (*gate)(abl_tensor_act act, float *out, const float *gate, const float *up, int64_t n);
    void (*norm)(const norm_args &args, int64_t row_begin, int64_t row_end);
    void (*norm_backward)(float *out, const float *grad, const float *xhat, const float *rstd,
                          int64_t width, bool centre, int64_t row_begin, int64_t row_end);
    void (*attention)(const attention_args &args);
    /* Rows of few: out (m, n) = a (m, k) b, b row major (k, n) or, transposed, (n, k); columns
     * [begin, end). m at most skinny_rows_max. */
    void (*skinny)(float *out, int64_t ldc, const float *a, int64_t lda, const float *b,
                   int64_t ldb, bool b_transposed, int64_t m, int64_t k, int64_t begin,
                   int64_t end);
    void (*rope)(float *out, const float *x, const float *cos, const float *sin, int64_t half,
                 float sign);
};

constexpr int64_t skinny_rows_max = 8;

const kernel_table &kernels();
bool kernels_are_wide(); /* AVX-512 */

} // namespace abl

#endif
