/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms, activations, gates, attention, rotation: forward and closed-form backward. There is no
 * autograd here; each backward is the formula of its forward, on what the forward saved.
 *
 * On the CPU in float32 the row-wise ones are loops of our own: a norm is one pass over its row in
 * cache, where libtorch would make five temporaries. Elsewhere they are libtorch operations. */
#include "core/tensor/gemm.hpp"
#include "core/tensor/kernels.hpp"
#include "core/tensor/tensor_internal.hpp"

#include <algorithm>
#include <limits>

using abl::act;
using abl::get;
using abl::make;

/* ---- Norms ------------------------------------------------------------------------------- */

namespace {

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
    abl::norm_args args{};
    args.x = x.data_ptr<float>();
    args.w = w.defined() ? w.data_ptr<float>() : nullptr;
    args.b = b.defined() ? b.data_ptr<float>() : nullptr;
    args.y = out.y.data_ptr<float>();
    args.xhat = want_xhat ? out.xhat.data_ptr<float>() : nullptr;
    args.rstd = want_rstd ? out.rstd.data_ptr<float>() : nullptr;
    args.width = x.size(-1);
    args.eps = static_cast<float>(eps);
    args.centre = centre;
    abl::for_each_range(x.numel() / args.width, 1 + 16384 / args.width,
                        [&](int64_t begin, int64_t end) { abl::kernels().norm(args, begin, end); });
    return out;
}

/* w and b in float32, as what is computed. */
normed norm_generic(const at::Tensor &input, const at::Tensor &w, const at::Tensor &b, double eps,
                    bool centre, bool want_xhat) {
    at::Tensor x = input.to(at::kFloat);
    normed out;
    if (centre) {
        x = x - x.mean(-1, true);
    }
    out.rstd = at::rsqrt(x.square().mean(-1, true) + eps);
    at::Tensor xhat = x * out.rstd;
    out.y = w.defined() ? xhat * w : xhat;
    if (b.defined()) {
        out.y = out.y + b;
    }
    out.y = out.y.to(input.scalar_type());
    if (want_xhat) {
        out.xhat = w.defined() ? xhat.to(input.scalar_type()) : out.y;
    }
    return out;
}

/* No norm: the numbers themselves, times w and plus b where there are such. */
normed norm_none(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
    normed out;
    out.rstd = at::ones(one_wide(x), x.options());
    out.xhat = x;
    out.y = w.defined() ? x * w : x;
    out.y = (b.defined() ? out.y + b : out.y).to(x.scalar_type());
    return out;
}

/* A gain or bias, in float32: norms are computed in it whatever comes in. */
at::Tensor optional_of(const abl_tensor *tensor) {
    return (tensor == nullptr) ? at::Tensor() : abl::as_type(tensor->at, at::kFloat);
}

at::Tensor norm_backward_host(const at::Tensor &g_in, const at::Tensor &xhat_in,
                              const at::Tensor &rstd_in, bool centre) {
    at::Tensor g = g_in.contiguous();
    at::Tensor xhat = xhat_in.contiguous();
    at::Tensor rstd = rstd_in.contiguous();
    at::Tensor out = at::empty(g.sizes(), g.options());
    const int64_t n = g.size(-1);
    abl::for_each_range(g.numel() / n, 1 + 16384 / n, [&](int64_t begin, int64_t end) {
        abl::kernels().norm_backward(out.data_ptr<float>(), g.data_ptr<float>(),
                                     xhat.data_ptr<float>(), rstd.data_ptr<float>(), n, centre,
                                     begin, end);
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
        bool host = abl::is_host_f32(input);
        normed out;
        if (kind == ABL_TENSOR_NORM_NONE) {
            out = norm_none(input.contiguous(), gain, bias);
        } else if (host) {
            out =
                norm_host(input, gain, bias, eps, centre, ret_xhat != nullptr, ret_rstd != nullptr);
        } else {
            out = norm_generic(input, gain, bias, eps, centre, ret_xhat != nullptr);
        }
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
        if (kind == ABL_TENSOR_NORM_NONE) {
            return g;
        }
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

/* (rows, width) with contiguous rows: a view where the strides allow it. */
at::Tensor as_rows(const at::Tensor &x) {
    at::Tensor rows = (x.dim() == 2) ? x : x.reshape({-1, x.size(-1)});
    return (rows.stride(1) == 1 || rows.size(1) == 1) ? rows : rows.contiguous();
}

bool rows_viewable(const at::Tensor &x) {
    return x.dim() >= 1 && x.numel() > 0 && (x.stride(-1) == 1 || x.size(-1) == 1);
}

/* body(row) for all rows, in chunks worth a thread's while. */
template <typename Body> void for_each_row(int64_t rows, int64_t width, Body &&body) {
    abl::for_each_range(rows, 1 + 8192 / width, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            body(row);
        }
    });
}

at::Tensor activate_generic(abl_tensor_act kind, const at::Tensor &x) {
    switch (kind) {
    case ABL_TENSOR_ACT_GELU:
        return at::gelu(x, "none");
    case ABL_TENSOR_ACT_GELU_NEW:
        return at::gelu(x, "tanh");
    case ABL_TENSOR_ACT_RELU:
        return at::relu(x);
    case ABL_TENSOR_ACT_SILU:
        break;
    }
    return at::silu(x);
}

at::Tensor activate_backward_generic(abl_tensor_act kind, const at::Tensor &grad,
                                     const at::Tensor &x) {
    switch (kind) {
    case ABL_TENSOR_ACT_GELU:
        return at::gelu_backward(grad, x, "none");
    case ABL_TENSOR_ACT_GELU_NEW:
        return at::gelu_backward(grad, x, "tanh");
    case ABL_TENSOR_ACT_RELU:
        return at::threshold_backward(grad, x, 0);
    case ABL_TENSOR_ACT_SILU:
        break;
    }
    return at::silu_backward(grad, x);
}

at::Tensor activate(abl_tensor_act kind, const at::Tensor &x) {
    at::Tensor out = at::empty(x.sizes(), x.options());
    abl::activate_to(out, kind, x);
    return out;
}

at::Tensor activate_backward(abl_tensor_act kind, const at::Tensor &grad, const at::Tensor &x) {
    if (!abl::is_host_f32(grad) || !abl::is_host_f32(x) || !rows_viewable(x) ||
        grad.sizes() != x.sizes()) {
        return activate_backward_generic(kind, grad, x);
    }
    at::Tensor out = at::empty(x.sizes(), x.options());
    at::Tensor g = as_rows(grad);
    at::Tensor rows = as_rows(x);
    const int64_t width = rows.size(1);
    for_each_row(rows.size(0), width, [&](int64_t r) {
        abl::kernels().activate_backward(kind, out.data_ptr<float>() + r * width,
                                         g.data_ptr<float>() + r * g.stride(0),
                                         rows.data_ptr<float>() + r * rows.stride(0), width);
    });
    return out;
}

} // namespace

void abl::activate_to(at::Tensor &out, abl_tensor_act kind, const at::Tensor &x) {
    if (!is_host_f32(x) || !is_host_f32(out) || !rows_viewable(x) || !out.is_contiguous()) {
        out.copy_(activate_generic(kind, x));
        return;
    }
    at::Tensor rows = as_rows(x);
    const int64_t width = rows.size(1);
    for_each_row(rows.size(0), width, [&](int64_t r) {
        kernels().activate(kind, out.data_ptr<float>() + r * width,
                           rows.data_ptr<float>() + r * rows.stride(0), width);
    });
}

extern "C" abl_tensor *abl_tensor_activate(abl_scope *scope, abl_tensor_act kind,
                                           const abl_tensor *x) {
    return make(scope, [&] { return activate(kind, get(x)); });
}

extern "C" abl_tensor *abl_tensor_activate_backward(abl_scope *scope, abl_tensor_act kind,
                                                    const abl_tensor *grad, const abl_tensor *x) {
    return make(scope, [&] { return activate_backward(kind, get(grad), get(x)); });
}

extern "C" abl_tensor *abl_tensor_gate(abl_scope *scope, abl_tensor_act kind,
                                       const abl_tensor *gate, const abl_tensor *up) {
    return make(scope, [&] {
        const at::Tensor &g = get(gate);
        const at::Tensor &u = get(up);
        if (!abl::is_host_f32(g) || !abl::is_host_f32(u) || !rows_viewable(g) ||
            !rows_viewable(u) || g.sizes() != u.sizes()) {
            return activate_generic(kind, g).mul_(u);
        }
        at::Tensor out = at::empty(g.sizes(), g.options());
        at::Tensor gates = as_rows(g);
        at::Tensor ups = as_rows(u);
        const int64_t width = gates.size(1);
        for_each_row(gates.size(0), width, [&](int64_t r) {
            abl::kernels().gate(kind, out.data_ptr<float>() + r * width,
                                gates.data_ptr<float>() + r * gates.stride(0),
                                ups.data_ptr<float>() + r * ups.stride(0), width);
        });
        return out;
    });
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

struct attended {
    at::Tensor z, scores, pattern;
};

/* Each query its own position: z is v, a copy a query head of the group. */
attended attend_self(const at::Tensor &q, const at::Tensor &v) {
    attended out;
    const int64_t first = v.size(1) - q.size(1);
    out.z = v.narrow(1, first, q.size(1)).repeat_interleave(q.size(2) / v.size(2), 2).contiguous();
    at::Tensor eye = at::eye(v.size(1), q.options()).narrow(0, first, q.size(1));
    out.pattern = eye.expand({q.size(0), q.size(2), -1, -1});
    out.scores = out.pattern.log();
    return out;
}

/* By products: long contexts, other dtypes, other devices. */
attended attend_by_products(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                            double scale, bool causal) {
    const int64_t kv_heads = k.size(2);
    const int64_t keys = k.size(1);
    attended out;
    at::Tensor key = grouped(k, kv_heads);
    at::Tensor scores = abl::bmm(grouped(q, kv_heads), key.transpose(1, 2));
    out.scores = scores.view({q.size(0), q.size(2), q.size(1), keys}).mul_(scale);
    if (causal) {
        out.scores.masked_fill_(future_mask(q.size(1), keys, q.device()),
                                -std::numeric_limits<double>::infinity());
    }
    out.pattern = at::softmax(out.scores, -1, at::kFloat).to(q.scalar_type());
    at::Tensor z = abl::bmm(out.pattern.view({key.size(0), -1, keys}), grouped(v, kv_heads));
    out.z = ungrouped(z, q).contiguous();
    return out;
}

/* By loops, a head of a row a task: short contexts fit the first cache, and nothing is copied. */
attended attend_by_loops(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                         double scale, bool causal, bool want_scores) {
    const int64_t heads = q.size(2);
    const int64_t group = heads / k.size(2);
    const int64_t cells = q.size(1) * k.size(1);
    attended out;
    out.z = at::empty(q.sizes(), q.options());
    out.pattern = at::empty({q.size(0), heads, q.size(1), k.size(1)}, q.options());
    out.scores = want_scores ? at::empty_like(out.pattern) : out.pattern;
    abl::for_each_task(q.size(0) * heads, [&](int64_t task) {
        const int64_t b = task / heads;
        const int64_t h = task % heads;
        abl::attention_args args{};
        args.q = q.data_ptr<float>() + b * q.stride(0) + h * q.stride(2);
        args.k = k.data_ptr<float>() + b * k.stride(0) + (h / group) * k.stride(2);
        args.v = v.data_ptr<float>() + b * v.stride(0) + (h / group) * v.stride(2);
        args.z = out.z.data_ptr<float>() + b * out.z.stride(0) + h * out.z.stride(2);
        args.scores = out.scores.data_ptr<float>() + task * cells;
        args.pattern = out.pattern.data_ptr<float>() + task * cells;
        args.q_stride = q.stride(1);
        args.k_stride = k.stride(1);
        args.v_stride = v.stride(1);
        args.z_stride = out.z.stride(1);
        args.queries = q.size(1);
        args.keys = k.size(1);
        args.d_head = q.size(3);
        args.scale = static_cast<float>(scale);
        args.causal = causal;
        abl::kernels().attention(args);
    });
    return out;
}

constexpr int64_t LOOP_KEYS_MAX = 128;

bool loops_apply(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
    return abl::is_host_f32(q) && abl::is_host_f32(k) && abl::is_host_f32(v) &&
           k.size(1) <= LOOP_KEYS_MAX && q.stride(3) == 1 && k.stride(3) == 1 && v.stride(3) == 1;
}

} // namespace

static attended attend(abl_tensor_sees sees, const at::Tensor &q, const at::Tensor &k,
                       const at::Tensor &v, double scale, bool want_scores) {
    const bool causal = (sees == ABL_TENSOR_SEES_PAST);
    if (sees == ABL_TENSOR_SEES_SELF) {
        return attend_self(q, v);
    }
    return loops_apply(q, k, v) ? attend_by_loops(q, k, v, scale, causal, want_scores)
                                : attend_by_products(q, k, v, scale, causal);
}

extern "C" abl_tensor *abl_tensor_attention(abl_scope *scope, abl_tensor_sees sees,
                                            const abl_tensor *q, const abl_tensor *k,
                                            const abl_tensor *v, double scale,
                                            abl_tensor **ret_scores, abl_tensor **ret_pattern) {
    return make(scope, [&] {
        const at::Tensor &query = get(q);
        abl::require(query.dim() == 4 && get(k).dim() == 4 && get(k).sizes() == get(v).sizes() &&
                         query.size(1) <= get(k).size(1) && query.size(2) % get(k).size(2) == 0,
                     "attention: q, k and v do not fit each other");
        attended out = attend(sees, query, get(k), get(v), scale, ret_scores != nullptr);
        if (ret_scores != nullptr) {
            *ret_scores = abl::adopt(scope, std::move(out.scores));
        }
        if (ret_pattern != nullptr) {
            *ret_pattern = abl::adopt(scope, std::move(out.pattern));
        }
        return out.z;
    });
}

extern "C" void abl_tensor_attention_backward(abl_scope *scope, abl_tensor_sees sees,
                                              const abl_tensor *grad_z, const abl_tensor *q,
                                              const abl_tensor *k, const abl_tensor *v,
                                              const abl_tensor *pattern, double scale,
                                              const abl_attention_grads *out_grads) {
    act(scope, [&] {
        const int64_t kv_heads = get(k).size(2);
        const int64_t keys = get(k).size(1);
        const int64_t wanted = get(out_grads->k).size(1);
        const int64_t first = keys - wanted;
        if (sees == ABL_TENSOR_SEES_SELF) { /* z is v */
            const at::Tensor &g = get(grad_z);
            get(out_grads->q).zero_();
            get(out_grads->k).zero_();
            at::Tensor &out = get(out_grads->v);
            out.zero_()
                .narrow(1, out.size(1) - g.size(1), g.size(1))
                .copy_(g.reshape({g.size(0), g.size(1), kv_heads, -1, g.size(3)}).sum(3));
            return;
        }
        at::Tensor gz = grouped(get(grad_z), kv_heads);
        at::Tensor p = get(pattern).reshape({gz.size(0), -1, keys});
        at::Tensor ds = abl::bmm(gz, grouped(get(v), kv_heads).transpose(1, 2));
        ds.mul_(p);
        ds.sub_(p * ds.sum(-1, true)).mul_(scale);
        get(out_grads->q).copy_(ungrouped(abl::bmm(ds, grouped(get(k), kv_heads)), get(q)));
        ds = ds.narrow(-1, first, wanted).transpose(1, 2);
        p = p.narrow(-1, first, wanted).transpose(1, 2);
        get(out_grads->k)
            .copy_(ungrouped(abl::bmm(ds, grouped(get(q), kv_heads)), get(out_grads->k)));
        get(out_grads->v).copy_(ungrouped(abl::bmm(p, gz), get(out_grads->v)));
    });
}

/* ---- Rotation ---------------------------------------------------------------------------- */

static at::Tensor rope_host(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin,
                            bool inverse) {
    at::Tensor out = at::empty(x.sizes(), x.options());
    const int64_t half = cos.size(1);
    const int64_t positions = x.size(1);
    abl::require(cos.size(0) == positions && sin.sizes() == cos.sizes() && 2 * half <= x.size(3),
                 "rope: cos and sin are of other positions or wider heads");
    abl::for_each_range(x.size(0) * positions, 16, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t b = row / positions;
            const int64_t p = row % positions;
            for (int64_t h = 0; h < x.size(2); h++) {
                float *to = out.data_ptr<float>() + b * out.stride(0) + p * out.stride(1) +
                            h * out.stride(2);
                const float *from =
                    x.data_ptr<float>() + b * x.stride(0) + p * x.stride(1) + h * x.stride(2);
                abl::kernels().rope(to, from, cos.data_ptr<float>() + p * half,
                                    sin.data_ptr<float>() + p * half, half, inverse ? -1.0F : 1.0F);
                std::copy(from + 2 * half, from + x.size(3), to + 2 * half);
            }
        }
    });
    return out;
}

extern "C" abl_tensor *abl_tensor_rope(abl_scope *scope, const abl_tensor *x, const abl_tensor *cos,
                                       const abl_tensor *sin, bool inverse) {
    return make(scope, [&] {
        const at::Tensor &input = get(x);
        const int64_t half = get(cos).size(-1);
        const int64_t rest = input.size(-1) - 2 * half;
        if (abl::is_host_f32(input) && input.dim() == 4 && input.stride(3) == 1) {
            return rope_host(input, get(cos).contiguous(), get(sin).contiguous(), inverse);
        }
        at::Tensor c = get(cos).unsqueeze(1); /* (pos, 1, half): over the heads */
        at::Tensor s = inverse ? get(sin).unsqueeze(1).neg() : get(sin).unsqueeze(1);
        at::Tensor wide = input.to(at::kFloat);
        at::Tensor first = wide.narrow(-1, 0, half);
        at::Tensor second = wide.narrow(-1, half, half);
        at::Tensor out = at::empty(input.sizes(), wide.options());
        at::Tensor out_first = out.narrow(-1, 0, half);
        at::Tensor out_second = out.narrow(-1, half, half);
        out.narrow(-1, 2 * half, rest).copy_(wide.narrow(-1, 2 * half, rest));
        at::mul_out(out_first, first, c).addcmul_(second, s, -1);
        at::mul_out(out_second, second, c).addcmul_(first, s, 1);
        return out.to(input.scalar_type());
    });
}
