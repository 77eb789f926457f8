/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise operations, joining and picking, reductions, products: each one call of libtorch.
 *
 * The only decision here is how a linear layer meets the BLAS: leading dimensions collapse to rows,
 * the bias goes in as the product's C matrix, and weights keep the strides that their file had,
 * because BLAS takes a transposed operand at full speed. */
#include "core/tensor/gemm.hpp"
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
UNARY(abs, abs)
UNARY(sqrt, sqrt)
UNARY(neg, neg)
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

extern "C" abl_tensor *abl_tensor_dot(abl_scope *scope, const abl_tensor *a, const abl_tensor *b) {
    return make(scope, [&] { return at::mul(get(a), get(b)).sum(-1); });
}

extern "C" abl_tensor *abl_tensor_max(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return at::amax(get(x), dim); });
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

/* torch.matmul of at least rank 2 on both sides, as one mm or bmm. */
static at::Tensor matmul_of(const at::Tensor &left, const at::Tensor &right) {
    const at::Tensor a = abl::as_type(left, abl::product_type(left, right));
    const at::Tensor b = abl::as_type(right, abl::product_type(left, right));
    if (a.dim() < 2 || b.dim() < 2) {
        return at::matmul(a, b);
    }
    std::vector<int64_t> shape(a.sizes().begin(), a.sizes().end());
    if (b.dim() == 2) {
        shape.back() = b.size(1);
        return abl::mm(as_rows(a), b).view(shape);
    }
    std::vector<int64_t> leading =
        at::infer_size(a.sizes().slice(0, static_cast<size_t>(a.dim() - 2)),
                       b.sizes().slice(0, static_cast<size_t>(b.dim() - 2)));
    const auto batched = [&leading](const at::Tensor &x) {
        std::vector<int64_t> wide = leading;
        wide.push_back(x.size(-2));
        wide.push_back(x.size(-1));
        return x.expand(wide).reshape({-1, x.size(-2), x.size(-1)});
    };
    at::Tensor out = abl::bmm(batched(a), batched(b));
    leading.push_back(a.size(-2));
    leading.push_back(b.size(-1));
    return out.view(leading);
}

extern "C" abl_tensor *abl_tensor_matmul(abl_scope *scope, const abl_tensor *a,
                                         const abl_tensor *b) {
    return make(scope, [&] { return matmul_of(get(a), get(b)); });
}

/* target (rows, out) = x w + bias, in target's dtype, then `act`: its result in `activated`, or in
 * place. */
static void linear_to(at::Tensor &target, const at::Tensor &x, const at::Tensor &weights,
                      const abl_tensor *bias, const abl_tensor_act *act, at::Tensor *activated) {
    const at::Tensor rows = abl::as_type(x, target.scalar_type());
    const at::Tensor w = abl::as_type(weights, target.scalar_type());
    const at::Tensor b =
        (bias == nullptr) ? at::Tensor() : abl::as_type(get(bias), target.scalar_type());
    const bool host = abl::blas_is_ours() && abl::is_host_f32(rows) && abl::is_host_f32(w) &&
                      abl::is_host_f32(target) && target.stride(1) == 1;
    if (host && (bias == nullptr || b.is_contiguous())) {
        abl::epilogue after;
        after.bias = (bias == nullptr) ? nullptr : b.data_ptr<float>();
        after.act = act;
        if (activated != nullptr) {
            after.activated = activated->data_ptr<float>();
            after.activated_stride = activated->stride(0);
        }
        abl::host_gemm(target, rows, w, 0.0F, 1.0F, after);
        return;
    }
    if (bias == nullptr) {
        at::mm_out(target, rows, w);
    } else {
        at::addmm_out(target, b, rows, w);
    }
    if (act != nullptr) {
        abl::activate_to((activated == nullptr) ? target : *activated, *act, target);
    }
}

/* Where a linear layer's result goes: (rows, out). */
static at::Tensor empty_target(const at::Tensor &rows, const at::Tensor &w) {
    return at::empty({rows.size(0), w.size(1)}, rows.options().dtype(abl::product_type(rows, w)));
}

static std::vector<int64_t> shape_of_linear(const at::Tensor &x, const at::Tensor &w) {
    std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
    shape.back() = w.size(1);
    return shape;
}

extern "C" abl_tensor *abl_tensor_linear(abl_scope *scope, const abl_tensor *x, const abl_tensor *w,
                                         const abl_tensor *bias) {
    return make(scope, [&] {
        at::Tensor rows = as_rows(get(x));
        at::Tensor out = empty_target(rows, get(w));
        linear_to(out, rows, get(w), bias, nullptr, nullptr);
        return out.view(shape_of_linear(get(x), get(w)));
    });
}

extern "C" abl_tensor *abl_tensor_linear_activate(abl_scope *scope, abl_tensor_act kind,
                                                  const abl_tensor *x, const abl_tensor *w,
                                                  const abl_tensor *bias, abl_tensor **ret_pre) {
    return make(scope, [&] {
        at::Tensor rows = as_rows(get(x));
        std::vector<int64_t> shape = shape_of_linear(get(x), get(w));
        at::Tensor pre = empty_target(rows, get(w));
        if (ret_pre == nullptr) {
            linear_to(pre, rows, get(w), bias, &kind, nullptr);
            return pre.view(shape);
        }
        at::Tensor post = at::empty_like(pre);
        linear_to(pre, rows, get(w), bias, &kind, &post);
        *ret_pre = abl::adopt(scope, pre.view(shape));
        return post.view(shape);
    });
}

extern "C" void abl_tensor_linear_into(abl_scope *scope, abl_tensor *out, const abl_tensor *x,
                                       const abl_tensor *w, const abl_tensor *bias) {
    act(scope, [&] {
        at::Tensor rows = as_rows(get(x));
        at::Tensor target = get(out).view({rows.size(0), get(w).size(1)});
        linear_to(target, rows, get(w), bias, nullptr, nullptr);
    });
}

extern "C" void abl_tensor_gemm_into(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                                     const abl_tensor *b, double beta, double alpha) {
    act(scope, [&] { abl::gemm(get(out), get(a), get(b), beta, alpha); });
}
