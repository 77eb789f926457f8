/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of kernels.hpp, compiled once for each instruction set (ABL_KERNELS names the table).
 * Written for the compiler to vectorize: no branches in the inner loops, and sums kept in LANES
 * partial sums, which is also what keeps their rounding error small.
 *
 * exp() is a polynomial of degree 6 after 2^n e^r reduction, within 2 units in the last place; the
 * activations are built on it: gelu_new(x) = x / (1 + exp(-2u)), silu(x) = x / (1 + exp(-x)). */
#include "core/tensor/kernels.hpp"

#include <cmath>
#include <cstring>
#include <limits>

namespace abl {
extern const kernel_table ABL_KERNELS;
}

namespace {

constexpr int LANES = 16;

/* "No iteration reads what another wrote": true for in-place maps, too, which the compiler's own
 * overlap test would send down the scalar path. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

inline float bits_to_float(uint32_t bits) {
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float exp_f(float x) {
    x = x < -87.3F ? -87.3F : x;
    x = x > 88.0F ? 88.0F : x;
    const float magic = 12582912.0F; /* 1.5 * 2^23: adding it rounds to an integer */
    const float shifted = x * 1.44269504F + magic;
    uint32_t shifted_bits = 0;
    std::memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
    float p = 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    const float y = p * r * r + r + 1.0F;
    return y * bits_to_float((shifted_bits + 127U) << 23);
}

inline float sigmoid_f(float x) {
    return 1.0F / (1.0F + exp_f(-x));
}

constexpr float GELU_A = 1.5957691216057308F; /* 2 sqrt(2 / pi) */
constexpr float GELU_B = 0.044715F;

struct gelu_new_op {
    static float value(float x) {
        return x * sigmoid_f(GELU_A * (x + GELU_B * x * x * x));
    }
    static float slope(float x) {
        const float s = sigmoid_f(GELU_A * (x + GELU_B * x * x * x));
        return s + x * s * (1.0F - s) * GELU_A * (1.0F + 3.0F * GELU_B * x * x);
    }
};

struct silu_op {
    static float value(float x) {
        return x * sigmoid_f(x);
    }
    static float slope(float x) {
        const float s = sigmoid_f(x);
        return s * (1.0F + x * (1.0F - s));
    }
};

struct relu_op {
    static float value(float x) {
        return x > 0.0F ? x : 0.0F;
    }
    static float slope(float x) {
        return x > 0.0F ? 1.0F : 0.0F;
    }
};

struct gelu_op { /* by erf, which no compiler vectorizes: few models use it */
    static float value(float x) {
        return 0.5F * x * (1.0F + std::erf(x * 0.70710678F));
    }
    static float slope(float x) {
        return 0.5F * (1.0F + std::erf(x * 0.70710678F)) + x * 0.39894228F * exp_f(-0.5F * x * x);
    }
};

template <typename Op> void map(float *out, const float *x, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        out[i] = Op::value(x[i]);
    }
}

template <typename Op> void map_slope(float *out, const float *grad, const float *x, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        out[i] = grad[i] * Op::slope(x[i]);
    }
}

template <typename Op> void map_gate(float *out, const float *gate, const float *up, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        out[i] = Op::value(gate[i]) * up[i];
    }
}

void activate(abl_tensor_act act, float *out, const float *x, int64_t n) {
    switch (act) {
    case ABL_TENSOR_ACT_GELU:
        return map<gelu_op>(out, x, n);
    case ABL_TENSOR_ACT_GELU_NEW:
        return map<gelu_new_op>(out, x, n);
    case ABL_TENSOR_ACT_RELU:
        return map<relu_op>(out, x, n);
    case ABL_TENSOR_ACT_SILU:
        return map<silu_op>(out, x, n);
    }
}

void activate_backward(abl_tensor_act act, float *out, const float *grad, const float *x,
                       int64_t n) {
    switch (act) {
    case ABL_TENSOR_ACT_GELU:
        return map_slope<gelu_op>(out, grad, x, n);
    case ABL_TENSOR_ACT_GELU_NEW:
        return map_slope<gelu_new_op>(out, grad, x, n);
    case ABL_TENSOR_ACT_RELU:
        return map_slope<relu_op>(out, grad, x, n);
    case ABL_TENSOR_ACT_SILU:
        return map_slope<silu_op>(out, grad, x, n);
    }
}

void gate(abl_tensor_act act, float *out, const float *g, const float *up, int64_t n) {
    switch (act) {
    case ABL_TENSOR_ACT_GELU:
        return map_gate<gelu_op>(out, g, up, n);
    case ABL_TENSOR_ACT_GELU_NEW:
        return map_gate<gelu_new_op>(out, g, up, n);
    case ABL_TENSOR_ACT_RELU:
        return map_gate<relu_op>(out, g, up, n);
    case ABL_TENSOR_ACT_SILU:
        return map_gate<silu_op>(out, g, up, n);
    }
}

void add_row(float *out, const float *x, int64_t n) {
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        out[i] += x[i];
    }
}

/* ---- Sums over a row --------------------------------------------------------------------- */

/* N floats in registers, at any address. */
template <int N> struct vector_of {
    typedef float type __attribute__((vector_size(N * sizeof(float)), aligned(4), may_alias));
};
typedef vector_of<4>::type vec4;
typedef vector_of<8>::type vec8;
typedef vector_of<16>::type vec16;

/* Pairwise: short error, and shuffles in registers. */
inline float lanes_sum(const vec4 &x) {
    return (x[0] + x[2]) + (x[1] + x[3]);
}

inline float lanes_sum(const vec8 &x) {
    return lanes_sum(__builtin_shufflevector(x, x, 0, 1, 2, 3) +
                     __builtin_shufflevector(x, x, 4, 5, 6, 7));
}

inline float lanes_sum(const vec16 &x) {
    return lanes_sum(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
}

inline float dot(const float *a, const float *b, int64_t n) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += a[i + lane] * b[i + lane];
        }
    }
    float sum = lanes_sum(*reinterpret_cast<const vec16 *>(lanes));
    for (; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* Sum of term(i) over [0, n). */
template <typename Term> inline double sum_over(int64_t n, Term &&term) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += term(i + lane);
        }
    }
    double sum = 0;
    for (float lane : lanes) {
        sum += static_cast<double>(lane);
    }
    for (; i < n; i++) {
        sum += static_cast<double>(term(i));
    }
    return sum;
}

void norm_row(const abl::norm_args &p, int64_t row) {
    const int64_t n = p.width;
    const float *x = p.x + row * n;
    const float mean = p.centre ? static_cast<float>(sum_over(n, [&](int64_t i) { return x[i]; }) /
                                                     static_cast<double>(n))
                                : 0.0F;
    const double variance = sum_over(n, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) /
                            static_cast<double>(n);
    const float rstd = static_cast<float>(1.0 / std::sqrt(variance + static_cast<double>(p.eps)));
    if (p.rstd != nullptr) {
        p.rstd[row] = rstd;
    }
    float *y = p.y + row * n;
    float *xhat = (p.xhat != nullptr) ? p.xhat + row * n : y;
    INDEPENDENT
    for (int64_t i = 0; i < n; i++) {
        xhat[i] = (x[i] - mean) * rstd;
    }
    if (p.w != nullptr && p.b != nullptr) {
        INDEPENDENT
        for (int64_t i = 0; i < n; i++) {
            y[i] = xhat[i] * p.w[i] + p.b[i];
        }
    } else if (p.w != nullptr) {
        INDEPENDENT
        for (int64_t i = 0; i < n; i++) {
            y[i] = xhat[i] * p.w[i];
        }
    }
}

void norm(const abl::norm_args &args, int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; row++) {
        norm_row(args, row);
    }
}

void norm_backward(float *out, const float *grad, const float *xhat, const float *rstd,
                   int64_t width, bool centre, int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; row++) {
        const float *g = grad + row * width;
        const float *h = xhat + row * width;
        float *o = out + row * width;
        const double n = static_cast<double>(width);
        const float mean =
            centre ? static_cast<float>(sum_over(width, [&](int64_t i) { return g[i]; }) / n)
                   : 0.0F;
        const float along =
            static_cast<float>(sum_over(width, [&](int64_t i) { return g[i] * h[i]; }) / n);
        const float r = rstd[row];
        INDEPENDENT
        for (int64_t i = 0; i < width; i++) {
            o[i] = r * (g[i] - mean - h[i] * along);
        }
    }
}

/* ---- Attention --------------------------------------------------------------------------- */

/* Softmax of scores[0 .. seen) into pattern, zero behind. */
void softmax_row(float *pattern, const float *scores, int64_t seen, int64_t keys) {
    float largest = scores[0];
    for (int64_t j = 1; j < seen; j++) {
        largest = scores[j] > largest ? scores[j] : largest;
    }
    float total = 0;
    for (int64_t j = 0; j < seen; j++) {
        pattern[j] = exp_f(scores[j] - largest);
        total += pattern[j];
    }
    const float factor = 1.0F / total;
    for (int64_t j = 0; j < seen; j++) {
        pattern[j] *= factor;
    }
    for (int64_t j = seen; j < keys; j++) {
        pattern[j] = 0.0F;
    }
}

void attention(const abl::attention_args &p) {
    const int64_t first_seen = p.keys - p.queries + 1; /* keys that the first query sees */
    for (int64_t i = 0; i < p.queries; i++) {
        const float *q = p.q + i * p.q_stride;
        float *scores = p.scores + i * p.keys;
        float *pattern = p.pattern + i * p.keys;
        float *z = p.z + i * p.z_stride;
        const int64_t seen = p.causal ? first_seen + i : p.keys;
        for (int64_t j = 0; j < seen; j++) {
            scores[j] = p.scale * dot(q, p.k + j * p.k_stride, p.d_head);
        }
        if (scores != pattern) {
            for (int64_t j = seen; j < p.keys; j++) {
                scores[j] = -std::numeric_limits<float>::infinity();
            }
        }
        softmax_row(pattern, scores, seen, p.keys);
        for (int64_t d = 0; d < p.d_head; d++) {
            z[d] = 0.0F;
        }
        for (int64_t j = 0; j < seen; j++) {
            const float weight = pattern[j];
            const float *v = p.v + j * p.v_stride;
            for (int64_t d = 0; d < p.d_head; d++) {
                z[d] += weight * v[d];
            }
        }
    }
}

/* ---- Few rows ---------------------------------------------------------------------------- */

typedef vector_of<ABL_KERNELS_WIDTH>::type vec;

/* M rows of a against N rows of b, summed in registers: each load serves several products. */
template <int M, int N>
void dots_tile(float *out, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
               int64_t k) {
    constexpr int WIDTH = ABL_KERNELS_WIDTH;
    vec sums[M][N] = {};
    int64_t i = 0;
    for (; i + WIDTH <= k; i += WIDTH) {
        for (int c = 0; c < N; c++) {
            __builtin_prefetch(b + (c + N) * ldb + i); /* of the next tile */
        }
        for (int r = 0; r < M; r++) {
            const vec x = *reinterpret_cast<const vec *>(a + r * lda + i);
            for (int c = 0; c < N; c++) {
                sums[r][c] += x * *reinterpret_cast<const vec *>(b + c * ldb + i);
            }
        }
    }
    for (int r = 0; r < M; r++) {
        for (int c = 0; c < N; c++) {
            out[r * ldc + c] = lanes_sum(sums[r][c]);
        }
    }
    for (; i < k; i++) {
        for (int r = 0; r < M; r++) {
            for (int c = 0; c < N; c++) {
                out[r * ldc + c] += a[r * lda + i] * b[c * ldb + i];
            }
        }
    }
}

/* b transposed: an output is a dot product of two contiguous rows. */
template <int M>
void skinny_dots(float *out, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
                 int64_t k, int64_t begin, int64_t end) {
    constexpr int HALF = (M + 1) / 2; /* 4 x 3 sums fit 16 registers */
    constexpr int TILE = 3;
    int64_t column = begin;
    for (; column + TILE <= end; column += TILE) {
        float *to = out + column;
        const float *w = b + column * ldb;
        dots_tile<HALF, TILE>(to, ldc, a, lda, w, ldb, k);
        if constexpr (M > HALF) {
            dots_tile<M - HALF, TILE>(to + HALF * ldc, ldc, a + HALF * lda, lda, w, ldb, k);
        }
    }
    for (; column < end; column++) {
        dots_tile<M, 1>(out + column, ldc, a, lda, b + column * ldb, ldb, k);
    }
}

/* b row major: sums of a strip of columns stay in the first cache while b's rows stream past, four
 * at a time so that each sum is loaded and stored once for four products. */
template <int M>
void skinny_strips(float *out, int64_t ldc, const float *a, int64_t lda, const float *b,
                   int64_t ldb, int64_t k, int64_t begin, int64_t end) {
    constexpr int64_t STRIP = 512;
    float sums[M][STRIP];
    for (int64_t column = begin; column < end; column += STRIP) {
        const int64_t width = (end - column < STRIP) ? end - column : STRIP;
        std::memset(sums, 0, sizeof sums);
        const float *w = b + column;
        int64_t i = 0;
        for (; i + 4 <= k; i += 4, w += 4 * ldb) {
            for (int r = 0; r < M; r++) {
                const float *x = a + r * lda + i;
                const float x0 = x[0];
                const float x1 = x[1];
                const float x2 = x[2];
                const float x3 = x[3];
                float *sum = sums[r];
                INDEPENDENT
                for (int64_t c = 0; c < width; c++) {
                    sum[c] +=
                        (x0 * w[c] + x1 * w[ldb + c]) + (x2 * w[2 * ldb + c] + x3 * w[3 * ldb + c]);
                }
            }
        }
        for (; i < k; i++, w += ldb) {
            for (int r = 0; r < M; r++) {
                for (int64_t c = 0; c < width; c++) {
                    sums[r][c] += a[r * lda + i] * w[c];
                }
            }
        }
        for (int r = 0; r < M; r++) {
            std::memcpy(out + r * ldc + column, sums[r],
                        static_cast<size_t>(width) * sizeof(float));
        }
    }
}

template <int M>
void skinny_rows(float *out, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
                 bool b_transposed, int64_t k, int64_t begin, int64_t end) {
    if (b_transposed) {
        skinny_dots<M>(out, ldc, a, lda, b, ldb, k, begin, end);
    } else {
        skinny_strips<M>(out, ldc, a, lda, b, ldb, k, begin, end);
    }
}

void skinny(float *out, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
            bool b_transposed, int64_t m, int64_t k, int64_t begin, int64_t end) {
    static constexpr decltype(&skinny_rows<1>) by_rows[abl::skinny_rows_max] = {
        skinny_rows<1>, skinny_rows<2>, skinny_rows<3>, skinny_rows<4>,
        skinny_rows<5>, skinny_rows<6>, skinny_rows<7>, skinny_rows<8>,
    };
    by_rows[m - 1](out, ldc, a, lda, b, ldb, b_transposed, k, begin, end);
}

/* ---- Rotation ---------------------------------------------------------------------------- */

void rope(float *out, const float *x, const float *cos, const float *sin, int64_t half,
          float sign) {
    INDEPENDENT
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i];
        const float second = x[half + i];
        out[i] = first * cos[i] - sign * second * sin[i];
        out[half + i] = second * cos[i] + sign * first * sin[i];
    }
}

#define TEXT_OF(name) #name
#define NAME_OF(name) TEXT_OF(name)

} // namespace

const abl::kernel_table abl::ABL_KERNELS = {
    NAME_OF(ABL_KERNELS),
    add_row,
    activate,
    activate_backward,
    gate,
    norm,
    norm_backward,
    attention,
    skinny,
    rope,
};
