/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise operations, joining and picking, reductions, products: each one call of libtorch.
 *
 * The only decision here is how a linear layer meets the BLAS: leading dimensions collapse to rows,
 * the bias goes in as the product's C matrix, and weights keep the strides that their file had,
 * because BLAS takes a transposed operand at full speed. */
#include "core/tensor/tensor_internal.hpp"

using abl::act;
using abl::get;
using abl::ints;
using abl::make;

/* ---- Elementwise ------------------------------------------------------------------------- */

#define UNARY(name, call)                                                                          \
    extern "C" abl_tensor *abl_tensor_##name(abl_scope *scope, const abl_tensor *x) {              \
        return make(scope, [&] { return at::call(get(x)); });                                      \
    }
UNARY(exp, exp)
UNARY(log, log)
UNARY(abs, abs)
UNARY(sqrt, sqrt)
UNARY(neg, neg)
UNARY(sigmoid, sigmoid)
#undef UNARY

#define BINARY(name, call)                                                                         \
    extern "C" abl_tensor *abl_tensor_##name(abl_scope *scope, const abl_tensor *a,                \
                                             const abl_tensor *b) {                                \
        return make(scope, [&] { return at::call(get(a), get(b)); });                              \
    }
BINARY(add, add)
BINARY(sub, sub)
BINARY(mul, mul)
BINARY(div, div)
BINARY(equal, eq)
BINARY(matmul, matmul)
#undef BINARY

extern "C" abl_tensor *abl_tensor_scale(abl_scope *scope, const abl_tensor *x, double factor) {
    return make(scope, [&] { return at::mul(get(x), factor); });
}

extern "C" abl_tensor *abl_tensor_add_scalar(abl_scope *scope, const abl_tensor *x, double value) {
    return make(scope, [&] { return at::add(get(x), value); });
}

extern "C" abl_tensor *abl_tensor_lerp(abl_scope *scope, const abl_tensor *a, const abl_tensor *b,
                                       double weight) {
    return make(scope, [&] { return at::lerp(get(a), get(b), weight); });
}

extern "C" abl_tensor *abl_tensor_clamp(abl_scope *scope, const abl_tensor *x, double low,
                                        double high) {
    return make(scope, [&] { return at::clamp(get(x), low, high); });
}

extern "C" void abl_tensor_copy_into(abl_scope *scope, abl_tensor *out, const abl_tensor *x) {
    act(scope, [&] { get(out).copy_(get(x)); });
}

extern "C" void abl_tensor_fill_(abl_scope *scope, abl_tensor *out, double value) {
    act(scope, [&] { get(out).fill_(value); });
}

extern "C" void abl_tensor_add_(abl_scope *scope, abl_tensor *out, const abl_tensor *x,
                                double factor) {
    act(scope, [&] { get(out).add_(get(x), factor); });
}

extern "C" void abl_tensor_mul_(abl_scope *scope, abl_tensor *out, const abl_tensor *x) {
    act(scope, [&] { get(out).mul_(get(x)); });
}

extern "C" void abl_tensor_scale_(abl_scope *scope, abl_tensor *out, double factor) {
    act(scope, [&] { get(out).mul_(factor); });
}

extern "C" void abl_tensor_addcmul_(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                                    const abl_tensor *b, double factor) {
    act(scope, [&] { get(out).addcmul_(get(a), get(b), factor); });
}

extern "C" void abl_tensor_sub_into(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                                    const abl_tensor *b) {
    act(scope, [&] { at::sub_out(get(out), get(a), get(b)); });
}

/* ---- Joining, picking -------------------------------------------------------------------- */

static std::vector<at::Tensor> gather_parts(const abl_tensor *const *parts, size_t count) {
    std::vector<at::Tensor> list;
    list.reserve(count);
    for (size_t i = 0; i < count; i++) {
        list.push_back(get(parts[i]));
    }
    return list;
}

extern "C" abl_tensor *abl_tensor_cat(abl_scope *scope, const abl_tensor *const *parts,
                                      size_t count, int dim) {
    return make(scope, [&] { return at::cat(gather_parts(parts, count), dim); });
}

extern "C" abl_tensor *abl_tensor_stack(abl_scope *scope, const abl_tensor *const *parts,
                                        size_t count, int dim) {
    return make(scope, [&] { return at::stack(gather_parts(parts, count), dim); });
}

extern "C" abl_tensor *abl_tensor_index_select(abl_scope *scope, const abl_tensor *x, int dim,
                                               const abl_tensor *indices) {
    return make(scope, [&] { return at::index_select(get(x), dim, get(indices)); });
}

extern "C" abl_tensor *abl_tensor_gather(abl_scope *scope, const abl_tensor *x, int dim,
                                         const abl_tensor *indices) {
    return make(scope, [&] { return at::gather(get(x), dim, get(indices)); });
}

extern "C" void abl_tensor_index_add_(abl_scope *scope, abl_tensor *out, int dim,
                                      const abl_tensor *indices, const abl_tensor *x) {
    act(scope, [&] { get(out).index_add_(dim, get(indices), get(x)); });
}

extern "C" void abl_tensor_index_copy_(abl_scope *scope, abl_tensor *out, int dim,
                                       const abl_tensor *indices, const abl_tensor *x) {
    act(scope, [&] { get(out).index_copy_(dim, get(indices), get(x)); });
}

extern "C" abl_tensor *abl_tensor_embed(abl_scope *scope, const abl_tensor *table,
                                        const abl_tensor *ids) {
    return make(scope, [&] { return at::embedding(get(table), get(ids)); });
}

/* ---- Reductions -------------------------------------------------------------------------- */

extern "C" abl_tensor *abl_tensor_sum(abl_scope *scope, const abl_tensor *x, const int64_t *dims,
                                      size_t dim_count, bool keep_dims) {
    return make(scope, [&] {
        return (dim_count == 0) ? at::sum(get(x))
                                : at::sum(get(x), ints(dims, dim_count), keep_dims);
    });
}

extern "C" abl_tensor *abl_tensor_mean(abl_scope *scope, const abl_tensor *x, const int64_t *dims,
                                       size_t dim_count, bool keep_dims) {
    return make(scope, [&] {
        return (dim_count == 0) ? at::mean(get(x))
                                : at::mean(get(x), ints(dims, dim_count), keep_dims);
    });
}

extern "C" void abl_tensor_sum_into(abl_scope *scope, abl_tensor *out, const abl_tensor *x,
                                    const int64_t *dims, size_t dim_count) {
    act(scope, [&] { at::sum_out(get(out), get(x), ints(dims, dim_count)); });
}

extern "C" abl_tensor *abl_tensor_dot(abl_scope *scope, const abl_tensor *a, const abl_tensor *b) {
    return make(scope, [&] { return at::mul(get(a), get(b)).sum(-1); });
}

extern "C" abl_tensor *abl_tensor_max(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return at::amax(get(x), dim); });
}

extern "C" abl_tensor *abl_tensor_argmax(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return at::argmax(get(x), dim); });
}

extern "C" abl_tensor *abl_tensor_logsumexp(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return at::logsumexp(get(x), dim); });
}

extern "C" abl_tensor *abl_tensor_softmax(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return at::softmax(get(x), dim); });
}

extern "C" abl_tensor *abl_tensor_log_softmax(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return at::log_softmax(get(x), dim); });
}

extern "C" abl_tensor *abl_tensor_softmax_backward(abl_scope *scope, const abl_tensor *grad,
                                                   const abl_tensor *y, int dim) {
    return make(scope, [&] {
        at::Tensor weighted = get(grad) * get(y);
        return weighted - get(y) * weighted.sum(dim, true);
    });
}

extern "C" void abl_tensor_topk(abl_scope *scope, const abl_tensor *x, int64_t k,
                                abl_tensor **ret_values, abl_tensor **ret_indices) {
    act(scope, [&] {
        std::tuple<at::Tensor, at::Tensor> top = at::topk(get(x), k);
        abl_tensor *values = abl::adopt(scope, std::move(std::get<0>(top)));
        *ret_indices = abl::adopt(scope, std::move(std::get<1>(top)));
        *ret_values = values;
    });
}

extern "C" abl_tensor *abl_tensor_kl(abl_scope *scope, const abl_tensor *logp,
                                     const abl_tensor *logits) {
    return make(scope, [&] {
        at::Tensor reference = get(logp).to(at::kFloat);
        at::Tensor other = at::log_softmax(get(logits).to(at::kFloat), -1);
        return (reference.exp() * (reference - other)).sum(-1);
    });
}

/* ---- Products ---------------------------------------------------------------------------- */

/* x's leading dimensions as rows. */
static at::Tensor as_rows(const at::Tensor &x) {
    return (x.dim() == 2) ? x : x.reshape({-1, x.size(-1)});
}

extern "C" abl_tensor *abl_tensor_linear(abl_scope *scope, const abl_tensor *x, const abl_tensor *w,
                                         const abl_tensor *bias) {
    return make(scope, [&] {
        const at::Tensor &input = get(x);
        at::Tensor rows = as_rows(input);
        at::Tensor out =
            (bias == nullptr) ? at::mm(rows, get(w)) : at::addmm(get(bias), rows, get(w));
        std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
        shape.back() = out.size(1);
        return out.view(shape);
    });
}

extern "C" void abl_tensor_linear_into(abl_scope *scope, abl_tensor *out, const abl_tensor *x,
                                       const abl_tensor *w, const abl_tensor *bias) {
    act(scope, [&] {
        at::Tensor rows = as_rows(get(x));
        at::Tensor target = get(out).view({rows.size(0), get(w).size(1)});
        if (bias == nullptr) {
            at::mm_out(target, rows, get(w));
        } else {
            at::addmm_out(target, get(bias), rows, get(w));
        }
    });
}

extern "C" void abl_tensor_gemm_into(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                                     const abl_tensor *b, double beta, double alpha) {
    act(scope, [&] {
        at::Tensor &target = get(out);
        if (target.dim() == 3 && beta == 0 && alpha == 1) {
            (void)at::bmm_out(target, get(a), get(b)); /* baddbmm_ reads small outputs: 0 * NaN */
        } else if (target.dim() == 3) {
            target.baddbmm_(get(a), get(b), beta, alpha);
        } else {
            target.addmm_(get(a), get(b), beta, alpha);
        }
    });
}
