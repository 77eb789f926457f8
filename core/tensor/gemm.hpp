/* gemm.hpp -- products of float32 matrices in host memory, for the shim's own files. */
#ifndef ABLATE_CORE_TENSOR_GEMM_HPP
#define ABLATE_CORE_TENSOR_GEMM_HPP

#include "core/tensor/pool.hpp"
#include "core/tensor/tensor_internal.hpp"

namespace abl {

/* Done to a product's block while it is in cache. */
struct epilogue {
    const float *bias = nullptr;         /* a value a column; NULL: none */
    const abl_tensor_act *act = nullptr; /* NULL: none */
    float *activated = nullptr;          /* where act's result goes: NULL: in place */
    int64_t activated_stride = 0;        /* floats from row to row of it */
};

/* True once BLAS is single-threaded under our own threads; then host_gemm() may be used. */
bool blas_is_ours();
bool blas_has_dnnl(); /* and oneDNN multiplies part of it */
void set_up_blas();

/* out = beta * out + alpha * a b, then the epilogue (rank 2 only); all rank 2 or all rank 3, float32
 * on the host. Any strides. */
void host_gemm(at::Tensor &out, const at::Tensor &a, const at::Tensor &b, float beta, float alpha,
               const epilogue &after);

/* x in a product's dtype: itself, or a copy for as long as the product takes. Here 16-bit weights
 * meet float32 activations, and nowhere else. */
at::Tensor as_type(const at::Tensor &x, at::ScalarType type);
/* What a product of the two is computed in: the wider one's dtype. */
inline at::ScalarType product_type(const at::Tensor &a, const at::Tensor &b) {
    return at::promote_types(a.scalar_type(), b.scalar_type());
}

/* The same for every device and dtype (out's): by host_gemm() where that applies, else by
 * libtorch. */
void gemm(at::Tensor &out, const at::Tensor &a, const at::Tensor &b, double beta, double alpha);
/* New tensors of product_type(): torch.mm, torch.bmm. */
at::Tensor mm(const at::Tensor &a, const at::Tensor &b);
at::Tensor bmm(const at::Tensor &a, const at::Tensor &b);

} // namespace abl

#endif
