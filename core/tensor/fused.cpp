/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms, activations, gates, attention, rotation: forward and closed-form backward. There is no
 * autograd here; each backward is the formula of its forward, on what the forward saved.
 *
 * On the CPU in float32 the row-wise ones are loops of our own: a norm is one pass over its row in
 * cache, where libtorch would make five temporaries. Elsewhere they are libtorch operations. */
#include "core/tensor/tensor_internal.hpp"

#include <ATen/Parallel.h>

#include <cmath>
#include <limits>

using abl::act;
using abl::get;
using abl::make;

/* ---- Norms ------------------------------------------------------------------------------- */

namespace {

struct norm_rows {
    const float *x;
    const float *w; /* may be NULL, as for the next three */
    const float *b;
    float *y;
    float *xhat;
    float *rstd;
    int64_t width;
    double eps;
    bool centre;
};

/* Four partial sums: the compiler keeps them in vector registers, and the rounding error of a
 * row's sum shrinks with them. */
float row_sum(const float *x, int64_t n) {
    float total[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int lane = 0; lane < 16; lane++) {
            total[lane] += x[i + lane];
        }
    }
    double sum = 0;
    for (float lane : total) {
        sum += static_cast<double>(lane);
    }
    for (; i < n; i++) {
        sum += static_cast<double>(x[i]);
    }
    return static_cast<float>(sum);
}

double row_square_sum(const float *x, int64_t n, float mean) {
    float total[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int lane = 0; lane < 16; lane++) {
            float d = x[i + lane] - mean;
            total[lane] += d * d;
        }
    }
    double sum = 0;
    for (float lane : total) {
        sum += static_cast<double>(lane);
    }
    for (; i < n; i++) {
        double d = static_cast<double>(x[i] - mean);
        sum += d * d;
    }
    return sum;
}

double row_dot(const float *a, const float *b, int64_t n) {
    float total[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int lane = 0; lane < 16; lane++) {
            total[lane] += a[i + lane] * b[i + lane];
        }
    }
    double sum = 0;
    for (float lane : total) {
        sum += static_cast<double>(lane);
    }
    for (; i < n; i++) {
        sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return sum;
}

void norm_row(const norm_rows &p, int64_t row) {
    const int64_t n = p.width;
    const float *x = p.x + row * n;
    float mean = p.centre ? row_sum(x, n) / static_cast<float>(n) : 0.0F;
    double variance = row_square_sum(x, n, mean) / static_cast<double>(n);
    float rstd = static_cast<float>(1.0 / std::sqrt(variance + p.eps));
    if (p.rstd != nullptr) {
        p.rstd[row] = rstd;
    }
    float *xhat = (p.xhat != nullptr) ? p.xhat + row * n : p.y + row * n;
    for (int64_t i = 0; i < n; i++) {
        xhat[i] = (x[i] - mean) * rstd;
    }
    if (p.w != nullptr && p.b != nullptr) {
        float *y = p.y + row * n;
        for (int64_t i = 0; i < n; i++) {
            y[i] = xhat[i] * p.w[i] + p.b[i];
        }
    } else if (p.w != nullptr) {
        float *y = p.y + row * n;
        for (int64_t i = 0; i < n; i++) {
            y[i] = xhat[i] * p.w[i];
        }
    }
}

struct normed {
    at::Tensor y;
    at::Tensor xhat; /* undefined unless asked for */
    at::Tensor rstd;
};

std::vector<int64_t> one_wide(const at::Tensor &x) {
    std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
    shape.back() = 1;
    return shape;
}

normed norm_host(const at::Tensor &input, const at::Tensor &w, const at::Tensor &b, double eps,
                 bool centre, bool want_xhat, bool want_rstd) {
    at::Tensor x = input.contiguous();
    normed out;
    out.y = at::empty(x.sizes(), x.options());
    if (want_rstd) {
        out.rstd = at::empty(one_wide(x), x.options());
    }
    if (want_xhat) {
        out.xhat = w.defined() ? at::empty(x.sizes(), x.options()) : out.y;
    }
    const norm_rows rows = {x.data_ptr<float>(),
                            w.defined() ? w.data_ptr<float>() : nullptr,
                            b.defined() ? b.data_ptr<float>() : nullptr,
                            out.y.data_ptr<float>(),
                            want_xhat ? out.xhat.data_ptr<float>() : nullptr,
                            want_rstd ? out.rstd.data_ptr<float>() : nullptr,
                            x.size(-1),
                            eps,
                            centre};
    const int64_t count = x.numel() / x.size(-1);
    at::parallel_for(0, count, 1 + 32768 / x.size(-1), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            norm_row(rows, row);
        }
    });
    return out;
}

normed norm_generic(const at::Tensor &input, const at::Tensor &w, const at::Tensor &b, double eps,
                    bool centre, bool want_xhat) {
    at::Tensor x = input.to(at::kFloat);
    normed out;
    if (centre) {
        x = x - x.mean(-1, true);
    }
    out.rstd = at::rsqrt(x.square().mean(-1, true) + eps);
    at::Tensor xhat = x * out.rstd;
    out.y = w.defined() ? xhat * w.to(at::kFloat) : xhat;
    if (b.defined()) {
        out.y = out.y + b.to(at::kFloat);
    }
    out.y = out.y.to(input.scalar_type());
    if (want_xhat) {
        out.xhat = w.defined() ? xhat.to(input.scalar_type()) : out.y;
    }
    return out;
}

at::Tensor optional_of(const abl_tensor *tensor) {
    return (tensor == nullptr) ? at::Tensor() : tensor->at;
}

at::Tensor norm_backward_host(const at::Tensor &g_in, const at::Tensor &xhat_in,
                              const at::Tensor &rstd_in, bool centre) {
    at::Tensor g = g_in.contiguous();
    at::Tensor xhat = xhat_in.contiguous();
    at::Tensor rstd = rstd_in.contiguous();
    at::Tensor out = at::empty(g.sizes(), g.options());
    const float *gp = g.data_ptr<float>();
    const float *xp = xhat.data_ptr<float>();
    const float *rp = rstd.data_ptr<float>();
    float *op = out.data_ptr<float>();
    const int64_t n = g.size(-1);
    at::parallel_for(0, g.numel() / n, 1 + 32768 / n, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const float *gr = gp + row * n;
            const float *xr = xp + row * n;
            const float width = static_cast<float>(n);
            float mean = centre ? row_sum(gr, n) / width : 0.0F;
            float along = static_cast<float>(row_dot(gr, xr, n)) / width;
            float r = rp[row];
            for (int64_t i = 0; i < n; i++) {
                op[row * n + i] = r * (gr[i] - mean - xr[i] * along);
            }
        }
    });
    return out;
}

} // namespace

extern "C" abl_tensor *abl_tensor_norm(abl_scope *scope, abl_tensor_norm_kind kind,
                                       const abl_tensor *x, const abl_tensor *w,
                                       const abl_tensor *b, double eps, abl_tensor **ret_xhat,
                                       abl_tensor **ret_rstd) {
    return make(scope, [&] {
        const at::Tensor &input = get(x);
        at::Tensor gain = optional_of(w);
        at::Tensor bias = optional_of(b);
        bool centre = (kind == ABL_TENSOR_NORM_LAYER);
        bool host = abl::is_host_f32(input) && (!gain.defined() || abl::is_host_f32(gain));
        normed out = host ? norm_host(input, gain, bias, eps, centre, ret_xhat != nullptr,
                                      ret_rstd != nullptr)
                          : norm_generic(input, gain, bias, eps, centre, ret_xhat != nullptr);
        if (ret_xhat != nullptr) {
            *ret_xhat = abl::adopt(scope, std::move(out.xhat));
        }
        if (ret_rstd != nullptr) {
            *ret_rstd = abl::adopt(scope, std::move(out.rstd));
        }
        return out.y;
    });
}

extern "C" abl_tensor *abl_tensor_norm_backward(abl_scope *scope, abl_tensor_norm_kind kind,
                                                const abl_tensor *grad_xhat, const abl_tensor *xhat,
                                                const abl_tensor *rstd) {
    return make(scope, [&] {
        const at::Tensor &g = get(grad_xhat);
        const at::Tensor &h = get(xhat);
        bool centre = (kind == ABL_TENSOR_NORM_LAYER);
        if (abl::is_host_f32(g) && abl::is_host_f32(h) && g.sizes() == h.sizes()) {
            return norm_backward_host(g, h, get(rstd), centre);
        }
        at::Tensor inner = g - h * (g * h).mean(-1, true);
        if (centre) {
            inner = inner - g.mean(-1, true);
        }
        return inner * get(rstd);
    });
}

/* ---- Activations ------------------------------------------------------------------------- */

namespace {

at::Tensor activate(abl_tensor_act kind, const at::Tensor &x) {
    switch (kind) {
    case ABL_TENSOR_ACT_GELU:
        return at::gelu(x, "none");
    case ABL_TENSOR_ACT_GELU_NEW:
        return at::gelu(x, "tanh");
    case ABL_TENSOR_ACT_RELU:
        return at::relu(x);
    case ABL_TENSOR_ACT_SILU:
        return at::silu(x);
    }
    throw std::bad_alloc(); /* not reached: the switch is over all kinds */
}

at::Tensor activate_backward(abl_tensor_act kind, const at::Tensor &grad, const at::Tensor &x) {
    switch (kind) {
    case ABL_TENSOR_ACT_GELU:
        return at::gelu_backward(grad, x, "none");
    case ABL_TENSOR_ACT_GELU_NEW:
        return at::gelu_backward(grad, x, "tanh");
    case ABL_TENSOR_ACT_RELU:
        return at::threshold_backward(grad, x, 0);
    case ABL_TENSOR_ACT_SILU:
        return at::silu_backward(grad, x);
    }
    throw std::bad_alloc(); /* not reached */
}

void activate_in_place(abl_tensor_act kind, at::Tensor &x) {
    switch (kind) {
    case ABL_TENSOR_ACT_GELU:
        (void)at::gelu_(x, "none");
        return;
    case ABL_TENSOR_ACT_GELU_NEW:
        (void)at::gelu_(x, "tanh");
        return;
    case ABL_TENSOR_ACT_RELU:
        (void)at::relu_(x);
        return;
    case ABL_TENSOR_ACT_SILU:
        (void)at::silu_(x);
        return;
    }
}

} // namespace

extern "C" abl_tensor *abl_tensor_activate(abl_scope *scope, abl_tensor_act kind,
                                           const abl_tensor *x) {
    return make(scope, [&] { return activate(kind, get(x)); });
}

extern "C" void abl_tensor_activate_(abl_scope *scope, abl_tensor_act kind, abl_tensor *x) {
    act(scope, [&] { activate_in_place(kind, get(x)); });
}

extern "C" abl_tensor *abl_tensor_activate_backward(abl_scope *scope, abl_tensor_act kind,
                                                    const abl_tensor *grad, const abl_tensor *x) {
    return make(scope, [&] { return activate_backward(kind, get(grad), get(x)); });
}

extern "C" abl_tensor *abl_tensor_gate(abl_scope *scope, abl_tensor_act kind,
                                       const abl_tensor *gate, const abl_tensor *up) {
    return make(scope, [&] { return activate(kind, get(gate)).mul_(get(up)); });
}

extern "C" void abl_tensor_gate_backward(abl_scope *scope, abl_tensor_act kind,
                                         const abl_tensor *grad, const abl_tensor *gate,
                                         const abl_tensor *up, abl_tensor *out_gate_up) {
    act(scope, [&] {
        const at::Tensor &g = get(grad);
        const int64_t width = get(gate).size(-1);
        at::Tensor &out = get(out_gate_up);
        out.narrow(-1, 0, width).copy_(activate_backward(kind, g * get(up), get(gate)));
        at::Tensor up_grad = out.narrow(-1, width, width);
        up_grad.copy_(activate(kind, get(gate))).mul_(g);
    });
}

/* ---- Attention --------------------------------------------------------------------------- */

namespace {

/* (batch, pos, head, d) -> (batch * kv_heads, group * pos, d): the query heads that share a key
 * head become rows of one product, so keys and values are never repeated. */
at::Tensor grouped(const at::Tensor &x, int64_t kv_heads) {
    at::Tensor by_head = x.permute({0, 2, 1, 3});
    return by_head.reshape({x.size(0) * kv_heads, (x.size(2) / kv_heads) * x.size(1), x.size(3)});
}

/* The inverse, as a view: (batch, pos, head, d). */
at::Tensor ungrouped(const at::Tensor &x, const at::Tensor &like) {
    return x.view({like.size(0), like.size(2), like.size(1), x.size(-1)}).permute({0, 2, 1, 3});
}

at::Tensor future_mask(int64_t queries, int64_t keys, const at::Device &device) {
    return at::ones({queries, keys}, at::TensorOptions().dtype(at::kBool).device(device))
        .triu_(keys - queries + 1);
}

} // namespace

extern "C" abl_tensor *abl_tensor_attention(abl_scope *scope, const abl_tensor *q,
                                            const abl_tensor *k, const abl_tensor *v, double scale,
                                            abl_tensor **ret_scores, abl_tensor **ret_pattern) {
    return make(scope, [&] {
        const at::Tensor &query = get(q);
        const int64_t kv_heads = get(k).size(2);
        const int64_t queries = query.size(1);
        const int64_t keys = get(k).size(1);
        at::Tensor key = grouped(get(k), kv_heads);
        at::Tensor scores = at::bmm(grouped(query, kv_heads), key.transpose(1, 2));
        scores = scores.view({query.size(0), query.size(2), queries, keys}).mul_(scale);
        scores.masked_fill_(future_mask(queries, keys, query.device()),
                            -std::numeric_limits<double>::infinity());
        at::Tensor pattern = at::softmax(scores, -1, at::kFloat).to(query.scalar_type());
        at::Tensor z = at::bmm(pattern.view({key.size(0), -1, keys}), grouped(get(v), kv_heads));
        if (ret_scores != nullptr) {
            *ret_scores = abl::adopt(scope, std::move(scores));
        }
        if (ret_pattern != nullptr) {
            *ret_pattern = abl::adopt(scope, std::move(pattern));
        }
        return ungrouped(z, query).contiguous();
    });
}

extern "C" void abl_tensor_attention_backward(abl_scope *scope, const abl_tensor *grad_z,
                                              const abl_tensor *q, const abl_tensor *k,
                                              const abl_tensor *v, const abl_tensor *pattern,
                                              double scale, const abl_attention_grads *out_grads) {
    act(scope, [&] {
        const int64_t kv_heads = get(k).size(2);
        const int64_t keys = get(k).size(1);
        at::Tensor gz = grouped(get(grad_z), kv_heads);
        at::Tensor p = get(pattern).reshape({gz.size(0), -1, keys});
        at::Tensor ds = at::bmm(gz, grouped(get(v), kv_heads).transpose(1, 2));
        ds.mul_(p);
        ds.sub_(p * ds.sum(-1, true)).mul_(scale);
        get(out_grads->q).copy_(ungrouped(at::bmm(ds, grouped(get(k), kv_heads)), get(q)));
        get(out_grads->k)
            .copy_(ungrouped(at::bmm(ds.transpose(1, 2), grouped(get(q), kv_heads)), get(k)));
        get(out_grads->v).copy_(ungrouped(at::bmm(p.transpose(1, 2), gz), get(v)));
    });
}

/* ---- Rotation ---------------------------------------------------------------------------- */

extern "C" abl_tensor *abl_tensor_rope(abl_scope *scope, const abl_tensor *x, const abl_tensor *cos,
                                       const abl_tensor *sin, bool inverse) {
    return make(scope, [&] {
        const at::Tensor &input = get(x);
        const int64_t half = input.size(-1) / 2;
        at::Tensor c = get(cos).unsqueeze(1); /* (pos, 1, half): over the heads */
        at::Tensor s = inverse ? get(sin).unsqueeze(1).neg() : get(sin).unsqueeze(1);
        at::Tensor wide = input.to(at::kFloat);
        at::Tensor first = wide.narrow(-1, 0, half);
        at::Tensor second = wide.narrow(-1, half, half);
        at::Tensor out = at::empty(input.sizes(), wide.options());
        at::Tensor out_first = out.narrow(-1, 0, half);
        at::Tensor out_second = out.narrow(-1, half, half);
        at::mul_out(out_first, first, c).addcmul_(second, s, -1);
        at::mul_out(out_second, second, c).addcmul_(first, s, 1);
        return out.to(input.scalar_type());
    });
}
