/* SPDX-License-Identifier: Apache-2.0
 *
 * Products on the CPU. BLAS multiplies, but on our threads (pool.cpp says why): OpenBLAS is told to
 * use one, and a product is cut into column or row blocks that the pool's threads take one by one.
 * Many small products run side by side instead of each on all threads, and the bias and the
 * activation are applied to a block while it is in cache.
 *
 * oneDNN, which Debian's libtorch brings along, is the faster BLAS on AVX-512 where both operands
 * are stored row major: it reads weights in place, and OpenBLAS copies them into panels first.
 * Gflop/s on one core, where 250 are possible, with weights (768, 3072):
 *
 *     rows       8    16    32    64   128
 *     oneDNN   130   147   189   213   201
 *     OpenBLAS  47    65   114   146   183
 *
 * With an operand transposed it copies, too, and OpenBLAS has the better copy. Few rows against
 * transposed weights (the unembedding of tied embeddings) are for neither: loops of our own stream
 * the weights once (kernels.cpp), as they do for all few rows where oneDNN is not used.
 *
 * Where BLAS is another one (pip's libtorch has MKL), libtorch multiplies. */
#include "core/tensor/gemm.hpp"

#include "core/tensor/kernels.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <dlfcn.h>

namespace abl {

namespace {

/* Fortran's interface: column major, everything by address. */
using sgemm_fn = void (*)(const char *trans_a, const char *trans_b, const int *m, const int *n,
                          const int *k, const float *alpha, const float *a, const int *lda,
                          const float *b, const int *ldb, const float *beta, float *c,
                          const int *ldc);

sgemm_fn sgemm = nullptr;

/* oneDNN's: row major. Not 0: it could not. */
using dnnl_sgemm_fn = int (*)(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k,
                              float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                              float beta, float *c, int64_t ldc);

dnnl_sgemm_fn dnnl_sgemm = nullptr; /* NULL: not here, or no gain on this machine */

/* A matrix that BLAS can read: one of its strides is 1. */
struct operand {
    const float *data;
    int64_t batch_stride;
    int64_t ld;
    bool transposed; /* stored column major */
};

bool readable(int64_t row_stride, int64_t column_stride, int64_t rows, int64_t columns) {
    return (column_stride == 1 && row_stride >= std::max<int64_t>(1, columns)) ||
           (row_stride == 1 && column_stride >= std::max<int64_t>(1, rows));
}

at::Tensor as_readable(const at::Tensor &x) {
    const int64_t d = x.dim();
    return readable(x.stride(d - 2), x.stride(d - 1), x.size(d - 2), x.size(d - 1))
               ? x
               : x.contiguous();
}

operand operand_of(const at::Tensor &x) {
    const int64_t d = x.dim();
    const bool plain =
        x.stride(d - 1) == 1 && x.stride(d - 2) >= std::max<int64_t>(1, x.size(d - 1));
    operand o{};
    o.data = x.data_ptr<float>();
    o.batch_stride = (d == 3) ? x.stride(0) : 0;
    o.ld = plain ? x.stride(d - 2) : x.stride(d - 1);
    o.transposed = !plain;
    return o;
}

struct problem {
    operand a;
    operand b;
    float *out;
    int64_t out_batch_stride;
    int64_t ldc;
    int64_t m, n, k;
    float beta, alpha;
    const epilogue *after;
};

/* On this thread alone: oneDNN asks OpenMP how many to use, which libtorch has told every thread
 * that it has seen. */
bool multiply_by_dnnl(const problem &p, const float *a, const float *b, float *out, int64_t rows,
                      int64_t columns) {
    at::internal::lazy_init_num_threads();
    return dnnl_sgemm('N', 'N', rows, columns, p.k, p.alpha, a, p.a.ld, b, p.b.ld, p.beta, out,
                      p.ldc) == 0;
}

bool is_for_dnnl(const problem &p) {
    return dnnl_sgemm != nullptr && !p.a.transposed && !p.b.transposed;
}

/* Row-major out(m, n) = a b is column-major out'(n, m) = b' a'. */
void multiply(const problem &p, const float *a, const float *b, float *out, int64_t rows,
              int64_t columns) {
    if (is_for_dnnl(p) && multiply_by_dnnl(p, a, b, out, rows, columns)) {
        return;
    }
    const int m = static_cast<int>(columns);
    const int n = static_cast<int>(rows);
    const int k = static_cast<int>(p.k);
    const int lda = static_cast<int>(p.b.ld);
    const int ldb = static_cast<int>(p.a.ld);
    const int ldc = static_cast<int>(p.ldc);
    sgemm(p.b.transposed ? "T" : "N", p.a.transposed ? "T" : "N", &m, &n, &k, &p.alpha, b, &lda, a,
          &ldb, &p.beta, out, &ldc);
}

void run_epilogue(const problem &p, float *out, int64_t row, int64_t column, int64_t rows,
                  int64_t columns) {
    const epilogue &e = *p.after;
    for (int64_t r = 0; r < rows; r++) {
        float *line = out + r * p.ldc;
        if (e.bias != nullptr) {
            kernels().add_row(line, e.bias + column, columns);
        }
        if (e.act != nullptr) {
            float *to = (e.activated == nullptr)
                            ? line
                            : e.activated + (row + r) * e.activated_stride + column;
            kernels().activate(*e.act, to, line, columns);
        }
    }
}

/* Few rows: bound by reading b once, so OpenBLAS, which copies b into panels first, would read it
 * thrice. */
bool is_skinny(const problem &p) {
    return p.m <= skinny_rows_max && !p.a.transposed && p.beta == 0.0F && p.alpha == 1.0F &&
           !is_for_dnnl(p);
}

/* One block of one matrix of the batch. */
void run_block(const problem &p, int64_t batch, int64_t row, int64_t column, int64_t rows,
               int64_t columns) {
    const float *a = p.a.data + batch * p.a.batch_stride + row * (p.a.transposed ? 1 : p.a.ld);
    const float *b = p.b.data + batch * p.b.batch_stride + column * (p.b.transposed ? p.b.ld : 1);
    float *out = p.out + batch * p.out_batch_stride + row * p.ldc + column;
    if (is_skinny(p)) {
        kernels().skinny(out, p.ldc, a, p.a.ld, b, p.b.ld, p.b.transposed, rows, p.k, 0, columns);
    } else {
        multiply(p, a, b, out, rows, columns);
    }
    if (p.after->bias != nullptr || p.after->act != nullptr) {
        run_epilogue(p, out, row, column, rows, columns);
    }
}

/* Blocks a matrix is cut into: about 100 MFLOP each, a multiple of the threads (so that none idles
 * at the end), never narrower than a BLAS kernel is fast at. */
int64_t block_count(int64_t m, int64_t n, int64_t k, int64_t batch) {
    const double flops =
        2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    const int64_t threads = pool_threads();
    if (flops < 2e6 || (batch >= 4 * threads && flops < 2e8)) {
        return 1;
    }
    const int64_t wanted = std::max<int64_t>(1, static_cast<int64_t>(flops / 1e8));
    const int64_t even = (wanted + threads - 1) / threads * threads;
    const int64_t most = std::max(m, n) / 48;
    return std::max<int64_t>(1, even <= most ? even : most / threads * threads);
}

/* A small result of long rows, such as all scores of a layer: (36, 157) from 98,304 products each.
 * Cutting the result would leave threads idle or read the long operands often, so the sums are cut,
 * and the parts added in order. The cut depends on the shape alone. */
int64_t sum_part_count(const problem &p, int64_t batch) {
    if (batch != 1 || p.k < 16384 || p.m * p.n > (1 << 18)) {
        return 1;
    }
    const int64_t mflop = 2 * p.m * p.n * (p.k / 1000) / 1000;
    return std::clamp<int64_t>(mflop / 50, 4, p.k / 2048);
}

void run_by_sums(const problem &p, int64_t parts) {
    const int64_t step = ((p.k + parts - 1) / parts + 15) / 16 * 16;
    const int64_t count = (p.k + step - 1) / step;
    const int64_t cells = p.m * p.n;
    at::Tensor partial = at::empty({count, cells}, at::kFloat);
    float *sums = partial.data_ptr<float>();
    for_each_task(count, [&](int64_t part) {
        const int64_t start = part * step;
        problem piece = p;
        piece.k = std::min(step, p.k - start);
        piece.beta = 0.0F;
        piece.ldc = p.n;
        multiply(piece, p.a.data + start * (p.a.transposed ? p.a.ld : 1),
                 p.b.data + start * (p.b.transposed ? 1 : p.b.ld), sums + part * cells, p.m, p.n);
    });
    for (int64_t row = 0; row < p.m; row++) {
        float *line = p.out + row * p.ldc;
        for (int64_t part = 0; part < count; part++) {
            const float *from = sums + part * cells + row * p.n;
            const float keep = (part > 0) ? 1.0F : p.beta;
            for (int64_t i = 0; i < p.n; i++) {
                line[i] = (keep == 0.0F) ? from[i] : keep * line[i] + from[i];
            }
        }
    }
    if (p.after->bias != nullptr || p.after->act != nullptr) {
        run_epilogue(p, p.out, 0, 0, p.m, p.n);
    }
}

void run(const problem &p, int64_t batch) {
    const int64_t parts = sum_part_count(p, batch);
    if (parts > 1) {
        run_by_sums(p, parts);
        return;
    }
    const int64_t blocks = block_count(p.m, p.n, p.k, batch);
    const bool by_columns = p.n >= p.m || is_skinny(p);
    const int64_t length = by_columns ? p.n : p.m;
    /* A whole number of 16-float lines, so that no two threads write to one. */
    const int64_t step = ((length + blocks - 1) / blocks + 15) / 16 * 16;
    const int64_t steps = (length + step - 1) / step;
    for_each_task(batch * steps, [&](int64_t task) {
        const int64_t start = (task % steps) * step;
        const int64_t count = std::min(step, length - start);
        if (by_columns) {
            run_block(p, task / steps, 0, start, p.m, count);
        } else {
            run_block(p, task / steps, start, 0, count, p.n);
        }
    });
}

bool all_host_f32(const at::Tensor &out, const at::Tensor &a, const at::Tensor &b) {
    return blas_is_ours() && is_host_f32(out) && is_host_f32(a) && is_host_f32(b);
}

} // namespace

void set_up_blas() {
    void *symbol = dlsym(RTLD_DEFAULT, "sgemm_");
    void *setter = dlsym(RTLD_DEFAULT, "openblas_set_num_threads");
    if (at::hasMKL() || symbol == nullptr || setter == nullptr) {
        return;
    }
    reinterpret_cast<void (*)(int)>(setter)(1);
    sgemm = reinterpret_cast<sgemm_fn>(symbol);
    if (kernels_are_wide()) {
        dnnl_sgemm = reinterpret_cast<dnnl_sgemm_fn>(dlsym(RTLD_DEFAULT, "dnnl_sgemm"));
    }
}

bool blas_is_ours() {
    return sgemm != nullptr;
}

bool blas_has_dnnl() {
    return dnnl_sgemm != nullptr;
}

void host_gemm(at::Tensor &out, const at::Tensor &a, const at::Tensor &b, float beta, float alpha,
               const epilogue &after) {
    const int64_t d = out.dim();
    require(d == a.dim() && d == b.dim() && (d == 2 || d == 3),
            "products need equal ranks, 2 or 3");
    require(a.size(d - 1) == b.size(d - 2) && out.size(d - 2) == a.size(d - 2) &&
                out.size(d - 1) == b.size(d - 1) &&
                (d == 2 || (a.size(0) == b.size(0) && a.size(0) == out.size(0))),
            "the shapes of a product do not fit");
    if (out.numel() == 0) {
        return;
    }
    const bool writable = out.stride(d - 1) == 1 && out.stride(d - 2) >= out.size(d - 1);
    if (!writable || a.size(d - 1) == 0) {
        at::Tensor plain =
            (beta == 0.0F) ? at::zeros(out.sizes(), out.options()) : out.contiguous();
        if (a.size(d - 1) > 0) {
            host_gemm(plain, a, b, beta, alpha, after);
        }
        out.copy_(plain);
        return;
    }
    at::Tensor left = as_readable(a);
    at::Tensor right = as_readable(b);
    problem p{};
    p.a = operand_of(left);
    p.b = operand_of(right);
    p.out = out.data_ptr<float>();
    p.out_batch_stride = (d == 3) ? out.stride(0) : 0;
    p.ldc = out.stride(d - 2);
    p.m = out.size(d - 2);
    p.n = out.size(d - 1);
    p.k = left.size(d - 1);
    p.beta = beta;
    p.alpha = alpha;
    p.after = &after;
    run(p, d == 3 ? out.size(0) : 1);
}

at::Tensor as_type(const at::Tensor &x, at::ScalarType type) {
    return x.to(type); /* x itself where that is its dtype; strides stay as they are */
}

void gemm(at::Tensor &out, const at::Tensor &left, const at::Tensor &right, double beta,
          double alpha) {
    const at::Tensor a = as_type(left, out.scalar_type());
    const at::Tensor b = as_type(right, out.scalar_type());
    if (all_host_f32(out, a, b)) {
        host_gemm(out, a, b, static_cast<float>(beta), static_cast<float>(alpha), epilogue{});
    } else if (out.dim() == 3 && beta == 0 && alpha == 1) {
        (void)at::bmm_out(out, a, b); /* baddbmm_ reads small outputs: 0 * NaN */
    } else if (out.dim() == 3) {
        out.baddbmm_(a, b, beta, alpha);
    } else {
        out.addmm_(a, b, beta, alpha);
    }
}

at::Tensor mm(const at::Tensor &left, const at::Tensor &right) {
    const at::Tensor a = as_type(left, product_type(left, right));
    const at::Tensor b = as_type(right, product_type(left, right));
    if (!blas_is_ours() || !is_host_f32(a) || !is_host_f32(b)) {
        return at::mm(a, b);
    }
    at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
    host_gemm(out, a, b, 0.0F, 1.0F, epilogue{});
    return out;
}

at::Tensor bmm(const at::Tensor &left, const at::Tensor &right) {
    const at::Tensor a = as_type(left, product_type(left, right));
    const at::Tensor b = as_type(right, product_type(left, right));
    if (!blas_is_ours() || !is_host_f32(a) || !is_host_f32(b)) {
        return at::bmm(a, b);
    }
    at::Tensor out = at::empty({a.size(0), a.size(1), b.size(2)}, a.options());
    host_gemm(out, a, b, 0.0F, 1.0F, epilogue{});
    return out;
}

} // namespace abl
