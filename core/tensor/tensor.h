/* tensor.h -- arrays on a device: libtorch behind a C ABI.
 *
 * OWNERSHIP  An operation's result is borrowed: its scope owns it, until the scope is destroyed or
 *            rewound past it. abl_tensor_keep() makes the caller one more owner, ended with
 *            abl_tensor_release(). A tensor's memory lives until its last owner lets go, whatever
 *            views of it exist.
 * THREADS    A scope, and tensors made in it, belong to one thread at a time: the executor of their
 *            device. Kept tensors that nobody writes to may be read from any thread.
 * ERRORS     Sticky, as with ferror(): the first failure stays in the scope, every later operation
 *            in it returns NULL and does nothing, and a NULL operand is harmless then. Check once,
 *            at the end of a block, with abl_scope_status(). No exception passes through here.
 *              RESOURCE_EXHAUSTED  OUT_OF_DEVICE_MEMORY, OUT_OF_HOST_MEMORY
 *              INTERNAL            TENSOR_NULL        an operand is NULL though nothing failed
 *              INTERNAL            BACKEND_EXCEPTION  shapes, dtypes that do not fit, device fault
 * UNITS      Shapes outermost dimension first; negative dimensions count from the end.
 *
 * `_into` and `_` functions write to an existing tensor (also to a view: a slice of a stack made
 * beforehand), and return nothing. Reading and writing views of the same memory in one operation is
 * the caller's to avoid, except for elementwise operations on identical views.
 */
#ifndef ABLATE_CORE_TENSOR_TENSOR_H
#define ABLATE_CORE_TENSOR_TENSOR_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_tensor abl_tensor; /* opaque: tensor_internal.hpp */
typedef struct abl_scope abl_scope;   /* opaque: tensor_internal.hpp */

#define ABL_DIMENSION_COUNT_MAX 8

/* X(enum suffix, name, bytes of one element) */
#define ABL_DTYPE_MAP(X)                                                                           \
    X(F32, "float32", 4)                                                                           \
    X(F16, "float16", 2)                                                                           \
    X(BF16, "bfloat16", 2)                                                                         \
    X(F64, "float64", 8)                                                                           \
    X(I32, "int32", 4)                                                                             \
    X(I64, "int64", 8)                                                                             \
    X(BOOL, "bool", 1)

typedef enum abl_dtype {
#define X(name, text, bytes) ABL_DTYPE_##name,
    ABL_DTYPE_MAP(X)
#undef X
} abl_dtype;

typedef enum abl_device_type { ABL_DEVICE_CPU, ABL_DEVICE_CUDA } abl_device_type;

typedef struct abl_device {
    abl_device_type type;
    int index; /* 0 for the CPU */
} abl_device;

/* ---- The backend ------------------------------------------------------------------------- */

/* First thing in main(): OpenBLAS 0.3.21 gives AVX-512 machines that it does not know by name its
 * AVX2 kernels, 1.5 times slower, and reads the variable that says better (OPENBLAS_CORETYPE) only
 * while it is loaded. So this runs the program anew, once, with the variable set; it returns where
 * there is nothing to gain, or the variable is the user's. */
void abl_backend_choose_kernels(char **argv);
/* Call once, before any tensor: sets malloc's thresholds so that large temporaries are reused, not
 * given back to the system and faulted in anew (tens of per cent of a pass), and the thread count
 * (0: libtorch's default). */
void abl_backend_init(int threads);
int abl_backend_threads(void);
const char *abl_backend_version(void); /* "libtorch 1.13.1" */
/* The library that multiplies matrices, "OpenBLAS (/usr/lib/.../libopenblas.so.0)". */
const char *abl_backend_blas_name(void);
/* True for the reference BLAS, tens of times slower: the daemon warns at its start. */
bool abl_backend_blas_is_reference(void);

/* Whether this libtorch multiplies matrices of that type there: 1.13 has no float16 on the CPU. */
bool abl_backend_has(abl_device device, abl_dtype dtype);

const char *abl_dtype_name(abl_dtype dtype); /* "float32" */
size_t abl_dtype_bytes(abl_dtype dtype);

int abl_device_cuda_count(void);
bool abl_device_available(abl_device device);
/* Bytes that tensors could still take there; UINT64_MAX where the backend does not count (the CPU,
 * libtorch before 2.10, and a device that nothing was put on yet). */
uint64_t abl_device_bytes_free(abl_device device);

/* ---- Scopes ------------------------------------------------------------------------------ */

/* NULL only when there is no host memory. Every tensor made in the scope is on `device`. */
ABL_MUST_CHECK abl_scope *abl_scope_create(abl_device device);
void abl_scope_destroy(abl_scope *scope);   /* NULL is allowed */
void abl_scope_destroyp(abl_scope **scope); /* for ABL_CLEANUP */

/* OK, or the first failure, copied to *ret_status. */
ABL_MUST_CHECK abl_code abl_scope_status(const abl_scope *scope, abl_status *ret_status);
bool abl_scope_failed(const abl_scope *scope);
/* Puts a failure of the caller's own in the scope, unless one is there. */
void abl_scope_fail(abl_scope *scope, const abl_status *status);
void abl_scope_fail_oom(abl_scope *scope); /* with abl_fail_oom() */

/* A loop marks before its body and rewinds after it, so that memory does not pile up. Everything
 * made since the mark goes, except `survivors`: they stay in the scope, under new marks. */
size_t abl_scope_mark(const abl_scope *scope);
void abl_scope_rewind(abl_scope *scope, size_t mark, abl_tensor *const *survivors,
                      size_t survivor_count);

/* ---- Handles ----------------------------------------------------------------------------- */

/* One more owner; NULL stays NULL. */
abl_tensor *abl_tensor_keep(abl_tensor *tensor);
void abl_tensor_release(abl_tensor *tensor); /* NULL is allowed */
/* The scope becomes one more owner, too: the tensor outlives any use of it in this scope. */
abl_tensor *abl_scope_borrow(abl_scope *scope, abl_tensor *tensor);

/* Of NULL, which a failed scope gives, rank, sizes and count are 1 and the dtype is F32: what is
 * made of them comes to nothing in that scope. */
int abl_tensor_rank(const abl_tensor *tensor);
int64_t abl_tensor_size(const abl_tensor *tensor, int dim);
int64_t abl_tensor_count(const abl_tensor *tensor);  /* elements */
uint64_t abl_tensor_bytes(const abl_tensor *tensor); /* elements times element size */
uint64_t
abl_tensor_storage_bytes(const abl_tensor *tensor); /* memory behind it: less, when expanded */
abl_dtype abl_tensor_dtype(const abl_tensor *tensor);
abl_device abl_tensor_device(const abl_tensor *tensor);
bool abl_tensor_is_contiguous(const abl_tensor *tensor);
/* Whether two tensors view the same memory, and which: an identity, never to be read through. */
bool abl_tensor_same_storage(const abl_tensor *a, const abl_tensor *b);
const void *abl_tensor_storage_address(const abl_tensor *tensor);
/* The memory itself, borrowed: NULL unless the tensor is on the CPU and contiguous. */
const void *abl_tensor_host_data(const abl_tensor *tensor);

/* ---- Making ------------------------------------------------------------------------------ */

abl_tensor *abl_tensor_empty(abl_scope *scope, abl_dtype dtype, int rank, const int64_t *shape);
abl_tensor *abl_tensor_zeros(abl_scope *scope, abl_dtype dtype, int rank, const int64_t *shape);
abl_tensor *abl_tensor_full(abl_scope *scope, abl_dtype dtype, int rank, const int64_t *shape,
                            double value);
/* Uniform in [0, 1), the same for the same seed on every device. */
abl_tensor *abl_tensor_uniform(abl_scope *scope, int rank, const int64_t *shape, uint64_t seed);
/* Copies host memory (row major, possibly unaligned) to the device. */
abl_tensor *abl_tensor_from_host(abl_scope *scope, abl_dtype dtype, int rank, const int64_t *shape,
                                 const void *data);
/* Borrows host memory without a copy; the caller keeps it alive and unchanged. CPU scopes only;
 * `data` must be aligned for the dtype. */
abl_tensor *abl_tensor_from_mapped(abl_scope *scope, abl_dtype dtype, int rank,
                                   const int64_t *shape, const void *data);
/* Copies to host memory of `bytes` bytes (must be abl_tensor_bytes()), row major; waits for it. */
void abl_tensor_to_host(abl_scope *scope, const abl_tensor *x, void *ret_data, size_t bytes);
/* The same, converted to float32; `count` elements. */
void abl_tensor_to_floats(abl_scope *scope, const abl_tensor *x, float *ret_data, size_t count);
double abl_tensor_item(abl_scope *scope, const abl_tensor *x); /* one element; NAN on failure */

/* x itself when nothing changes. */
abl_tensor *abl_tensor_to_dtype(abl_scope *scope, abl_tensor *x, abl_dtype dtype);
abl_tensor *abl_tensor_to_device(abl_scope *scope, abl_tensor *x, abl_device device);
abl_tensor *abl_tensor_contiguous(abl_scope *scope, abl_tensor *x);
abl_tensor *abl_tensor_clone(abl_scope *scope, const abl_tensor *x);

/* ---- Views: no memory is copied ---------------------------------------------------------- */

/* One size may be -1. Fails where strides do not allow it; reshape copies then. */
abl_tensor *abl_tensor_view(abl_scope *scope, const abl_tensor *x, int rank, const int64_t *shape);
abl_tensor *abl_tensor_reshape(abl_scope *scope, const abl_tensor *x, int rank,
                               const int64_t *shape);
abl_tensor *abl_tensor_permute(abl_scope *scope, const abl_tensor *x, int rank,
                               const int64_t *dims);
abl_tensor *abl_tensor_transpose(abl_scope *scope, const abl_tensor *x, int dim0, int dim1);
abl_tensor *abl_tensor_slice(abl_scope *scope, const abl_tensor *x, int dim, int64_t start,
                             int64_t end);
abl_tensor *abl_tensor_select(abl_scope *scope, const abl_tensor *x, int dim, int64_t index);
abl_tensor *abl_tensor_unsqueeze(abl_scope *scope, const abl_tensor *x, int dim);
abl_tensor *abl_tensor_squeeze(abl_scope *scope, const abl_tensor *x, int dim);
/* Size -1 keeps a dimension; others must be 1 to grow. */
abl_tensor *abl_tensor_expand(abl_scope *scope, const abl_tensor *x, int rank,
                              const int64_t *shape);

/* ---- Elementwise, broadcasting ----------------------------------------------------------- */

abl_tensor *abl_tensor_add(abl_scope *scope, const abl_tensor *a, const abl_tensor *b);
abl_tensor *abl_tensor_sub(abl_scope *scope, const abl_tensor *a, const abl_tensor *b);
abl_tensor *abl_tensor_mul(abl_scope *scope, const abl_tensor *a, const abl_tensor *b);
abl_tensor *abl_tensor_div(abl_scope *scope, const abl_tensor *a, const abl_tensor *b);
abl_tensor *abl_tensor_scale(abl_scope *scope, const abl_tensor *x, double factor);
abl_tensor *abl_tensor_add_scalar(abl_scope *scope, const abl_tensor *x, double value);
/* a + weight * (b - a) */
abl_tensor *abl_tensor_lerp(abl_scope *scope, const abl_tensor *a, const abl_tensor *b,
                            double weight);
abl_tensor *abl_tensor_exp(abl_scope *scope, const abl_tensor *x);
abl_tensor *abl_tensor_abs(abl_scope *scope, const abl_tensor *x);
abl_tensor *abl_tensor_sqrt(abl_scope *scope, const abl_tensor *x);
abl_tensor *abl_tensor_neg(abl_scope *scope, const abl_tensor *x);
abl_tensor *abl_tensor_clamp(abl_scope *scope, const abl_tensor *x, double low, double high);
abl_tensor *abl_tensor_equal(abl_scope *scope, const abl_tensor *a, const abl_tensor *b); /* BOOL */

void abl_tensor_copy_into(abl_scope *scope, abl_tensor *out, const abl_tensor *x);
void abl_tensor_fill_(abl_scope *scope, abl_tensor *out, double value);
/* out += factor * x */
void abl_tensor_add_(abl_scope *scope, abl_tensor *out, const abl_tensor *x, double factor);
void abl_tensor_mul_(abl_scope *scope, abl_tensor *out, const abl_tensor *x);
void abl_tensor_scale_(abl_scope *scope, abl_tensor *out, double factor);
/* out += factor * a * b */
void abl_tensor_addcmul_(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                         const abl_tensor *b, double factor);
/* out = a - b, the way source differences are made in place: out may be a or b. */
void abl_tensor_sub_into(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                         const abl_tensor *b);

/* ---- Joining, picking -------------------------------------------------------------------- */

abl_tensor *abl_tensor_cat(abl_scope *scope, const abl_tensor *const *parts, size_t count, int dim);
/* Rows of `x` along dim, by an I64 or I32 vector. */
abl_tensor *abl_tensor_index_select(abl_scope *scope, const abl_tensor *x, int dim,
                                    const abl_tensor *indices);
/* out[i] = x[i, index[i, :]] and so on: torch.gather; `indices` I64. */
abl_tensor *abl_tensor_gather(abl_scope *scope, const abl_tensor *x, int dim,
                              const abl_tensor *indices);
/* out.index_add_(dim, indices, x) */
void abl_tensor_index_add_(abl_scope *scope, abl_tensor *out, int dim, const abl_tensor *indices,
                           const abl_tensor *x);
/* out.index_copy_(dim, indices, x) */
void abl_tensor_index_copy_(abl_scope *scope, abl_tensor *out, int dim, const abl_tensor *indices,
                            const abl_tensor *x);
/* table (n, d), ids of any shape (I32 or I64) -> ids' shape + (d). */
abl_tensor *abl_tensor_embed(abl_scope *scope, const abl_tensor *table, const abl_tensor *ids);

/* ---- Reductions -------------------------------------------------------------------------- */

abl_tensor *abl_tensor_sum(abl_scope *scope, const abl_tensor *x, const int64_t *dims,
                           size_t dim_count, bool keep_dims); /* no dims: over everything */
abl_tensor *abl_tensor_mean(abl_scope *scope, const abl_tensor *x, const int64_t *dims,
                            size_t dim_count, bool keep_dims);
/* Sum of a * b over the last dimension. */
abl_tensor *abl_tensor_dot(abl_scope *scope, const abl_tensor *a, const abl_tensor *b);
abl_tensor *abl_tensor_max(abl_scope *scope, const abl_tensor *x, int dim);
abl_tensor *abl_tensor_logsumexp(abl_scope *scope, const abl_tensor *x, int dim);
abl_tensor *abl_tensor_softmax(abl_scope *scope, const abl_tensor *x, int dim);
abl_tensor *abl_tensor_log_softmax(abl_scope *scope, const abl_tensor *x, int dim);
/* Gradient of softmax by its result y: y * (g - sum(g * y)). */
abl_tensor *abl_tensor_softmax_backward(abl_scope *scope, const abl_tensor *grad,
                                        const abl_tensor *y, int dim);
/* Per row, over the last dimension: sum exp(logp) * (logp - log_softmax(logits)). `logp` are the
 * reference's log-probabilities; result float32, one dimension less. */
abl_tensor *abl_tensor_kl(abl_scope *scope, const abl_tensor *logp, const abl_tensor *logits);

/* ---- Products ---------------------------------------------------------------------------- */

typedef enum abl_tensor_act {
    ABL_TENSOR_ACT_GELU,     /* by erf */
    ABL_TENSOR_ACT_GELU_NEW, /* by tanh */
    ABL_TENSOR_ACT_RELU,
    ABL_TENSOR_ACT_SILU,
} abl_tensor_act;

/* Operands of two dtypes are brought to the wider one for the time of the product, as elementwise
 * operations do: 16-bit weights take part in a float32 pass as the numbers they are, and at most
 * one matrix is there twice. Results are of the wider dtype; `_into` ones of out's. */

/* torch.matmul. */
abl_tensor *abl_tensor_matmul(abl_scope *scope, const abl_tensor *a, const abl_tensor *b);
/* x (..., in) times w (in, out; any strides) plus bias (out; may be NULL) -> (..., out). */
abl_tensor *abl_tensor_linear(abl_scope *scope, const abl_tensor *x, const abl_tensor *w,
                              const abl_tensor *bias);
/* act(x w + bias), the activation applied while a block is in cache. ret_pre (may be NULL): x w +
 * bias, kept beside it. */
abl_tensor *abl_tensor_linear_activate(abl_scope *scope, abl_tensor_act act, const abl_tensor *x,
                                       const abl_tensor *w, const abl_tensor *bias,
                                       abl_tensor **ret_pre);
void abl_tensor_linear_into(abl_scope *scope, abl_tensor *out, const abl_tensor *x,
                            const abl_tensor *w, const abl_tensor *bias);
/* out = beta * out + alpha * a b; all of rank 2, or all of rank 3 (batched). beta 0 never reads. */
void abl_tensor_gemm_into(abl_scope *scope, abl_tensor *out, const abl_tensor *a,
                          const abl_tensor *b, double beta, double alpha);

/* ---- Fused, for the hot loops ------------------------------------------------------------ */

typedef enum abl_tensor_norm_kind {
    ABL_TENSOR_NORM_LAYER,
    ABL_TENSOR_NORM_RMS,
    ABL_TENSOR_NORM_NONE, /* xhat is x, and rstd 1 */
} abl_tensor_norm_kind;

/* xhat = (x - mean) * rstd (LAYER) or x * rstd (RMS) over the last dimension; the result is
 * xhat * w + b, each optional (NULL). ret_xhat and ret_rstd (last dimension 1) may be NULL; without
 * w and b the result is *ret_xhat itself. Computed in float32 for every dtype. */
abl_tensor *abl_tensor_norm(abl_scope *scope, abl_tensor_norm_kind kind, const abl_tensor *x,
                            const abl_tensor *w, const abl_tensor *b, double eps,
                            abl_tensor **ret_xhat, abl_tensor **ret_rstd);
/* From the gradient at xhat (multiply by w first where there is one) to the gradient at x:
 * rstd * (g - mean(g) - xhat * mean(g * xhat)), without the mean(g) for RMS; g for NONE. */
abl_tensor *abl_tensor_norm_backward(abl_scope *scope, abl_tensor_norm_kind kind,
                                     const abl_tensor *grad_xhat, const abl_tensor *xhat,
                                     const abl_tensor *rstd);

abl_tensor *abl_tensor_activate(abl_scope *scope, abl_tensor_act act, const abl_tensor *x);
abl_tensor *abl_tensor_activate_backward(abl_scope *scope, abl_tensor_act act,
                                         const abl_tensor *grad, const abl_tensor *x);
/* act(gate) * up */
abl_tensor *abl_tensor_gate(abl_scope *scope, abl_tensor_act act, const abl_tensor *gate,
                            const abl_tensor *up);
/* Writes the gradients at gate and up into ret_gate_up (..., 2 d): gate's first, then up's. */
void abl_tensor_gate_backward(abl_scope *scope, abl_tensor_act act, const abl_tensor *grad,
                              const abl_tensor *gate, const abl_tensor *up,
                              abl_tensor *out_gate_up);

/* Which keys a query sees. */
typedef enum abl_tensor_sees {
    ABL_TENSOR_SEES_PAST, /* its own position and those before: causal */
    ABL_TENSOR_SEES_ALL,
    ABL_TENSOR_SEES_SELF, /* its own position only: z is v, whatever q and k are */
} abl_tensor_sees;

/* Attention. q (batch, q_pos, head, d_head), k and v (batch, k_pos, kv_head, d_head), any strides;
 * query head h reads kv head h / (heads / kv_heads), nothing is expanded. The last query is at the
 * last key's position. ret_scores (masked: -inf) and ret_pattern, both (batch, head, q_pos, k_pos),
 * may be NULL. Returns z (batch, q_pos, head, d_head), contiguous. */
abl_tensor *abl_tensor_attention(abl_scope *scope, abl_tensor_sees sees, const abl_tensor *q,
                                 const abl_tensor *k, const abl_tensor *v, double scale,
                                 abl_tensor **ret_scores, abl_tensor **ret_pattern);
typedef struct abl_attention_grads {
    abl_tensor *q; /* shapes of q, k, v: written into, so they may be slices of one gradient */
    abl_tensor *k; /* k and v may have fewer positions: those of the last keys */
    abl_tensor *v;
} abl_attention_grads;
/* grad_z as z. The outputs must exist; they are overwritten. With SEES_SELF the pattern is not
 * read, and the gradients of q and k are 0. */
void abl_tensor_attention_backward(abl_scope *scope, abl_tensor_sees sees, const abl_tensor *grad_z,
                                   const abl_tensor *q, const abl_tensor *k, const abl_tensor *v,
                                   const abl_tensor *pattern, double scale,
                                   const abl_attention_grads *out_grads);

/* Rotates x (batch, pos, head, d_head) by cos and sin (pos, n), pairs (i, i + n) for i below n;
 * what is behind the first 2 n numbers of a head stays. `inverse` rotates back, which is also the
 * gradient. */
abl_tensor *abl_tensor_rope(abl_scope *scope, const abl_tensor *x, const abl_tensor *cos,
                            const abl_tensor *sin, bool inverse);

ABL_END_DECLS
#endif
