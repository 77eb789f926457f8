/* SPDX-License-Identifier: Apache-2.0
 *
 * Scopes, handles, making, moving and viewing. A handle is a counted box around an at::Tensor, and
 * a scope is a list of boxes with a sticky status: C code writes one operation a line, and checks
 * once.
 *
 * Rejected: libtorch's own AOTInductor C shim (2.x only, a bare failure without words), and one
 * status an operation (five lines of checks for each line of mathematics). */
#include "core/tensor/tensor_internal.hpp"

#include "core/base/assert.h"

#include <cmath>
#include <cstring>

namespace abl {

void require(bool condition, const char *message) {
    TORCH_CHECK(condition, message);
}

at::ScalarType scalar_type(abl_dtype dtype) {
    switch (dtype) {
    case ABL_DTYPE_F32:
        return at::kFloat;
    case ABL_DTYPE_F16:
        return at::kHalf;
    case ABL_DTYPE_BF16:
        return at::kBFloat16;
    case ABL_DTYPE_F64:
        return at::kDouble;
    case ABL_DTYPE_I32:
        return at::kInt;
    case ABL_DTYPE_I64:
        return at::kLong;
    case ABL_DTYPE_BOOL:
        return at::kBool;
    }
    return at::kFloat;
}

abl_dtype dtype_of(at::ScalarType type) {
    static const abl_dtype all[] = {ABL_DTYPE_F32, ABL_DTYPE_F16, ABL_DTYPE_BF16, ABL_DTYPE_F64,
                                    ABL_DTYPE_I32, ABL_DTYPE_I64, ABL_DTYPE_BOOL};
    for (abl_dtype dtype : all) {
        if (scalar_type(dtype) == type) {
            return dtype;
        }
    }
    return ABL_DTYPE_F32; /* nothing here makes tensors of another type */
}

at::Device device_of(abl_device device) {
    if (device.type == ABL_DEVICE_CUDA) {
        return at::Device(accelerator.type, static_cast<c10::DeviceIndex>(device.index));
    }
    return at::Device(at::kCPU);
}

at::TensorOptions options_of(const abl_scope *scope, abl_dtype dtype) {
    return at::TensorOptions().dtype(scalar_type(dtype)).device(device_of(scope->device));
}

static bool says(const char *what, const char *words) {
    return std::strstr(what, words) != nullptr;
}

/* libtorch has no exception for it that all its parts throw: CUDA's allocator, the driver under a
 * kernel's launch, cuBLAS for its workspace, the CPU's allocator. */
static bool says_out_of_memory(const char *what) {
    return says(what, "out of memory") || says(what, "can't allocate memory") ||
           says(what, "not enough memory") || says(what, "STATUS_ALLOC_FAILED") ||
           says(what, "cudaErrorMemoryAllocation");
}

static void record(abl_scope *scope, const char *what) {
    if (!says_out_of_memory(what)) {
        (void)abl_fail(&scope->status, ABL_CODE_INTERNAL, "BACKEND_EXCEPTION", "%s", what);
    } else if (scope->device.type == ABL_DEVICE_CPU || says(what, "CPUAllocator")) {
        (void)abl_fail_oom(&scope->status);
    } else {
        (void)abl_fail(&scope->status, ABL_CODE_RESOURCE_EXHAUSTED, "OUT_OF_DEVICE_MEMORY",
                       "the device is out of memory; unload a model or retry with less: %s", what);
    }
}

void record_current_exception(abl_scope *scope) noexcept {
    scope->failed = true;
    try {
        throw;
    } catch (const std::bad_alloc &) {
        (void)abl_fail_oom(&scope->status);
    } catch (const null_operand &e) {
        (void)abl_fail(&scope->status, ABL_CODE_INTERNAL, "TENSOR_NULL", "%s", e.what());
    } catch (const c10::Error &e) {
        record(scope, e.what_without_backtrace());
    } catch (const std::exception &e) {
        record(scope, e.what());
    } catch (...) {
        (void)abl_fail(&scope->status, ABL_CODE_INTERNAL, "BACKEND_EXCEPTION",
                       "not a std::exception");
    }
}

} // namespace abl

using abl::act;
using abl::get;
using abl::ints;
using abl::make;

/* ---- Names ------------------------------------------------------------------------------- */

extern "C" const char *abl_dtype_name(abl_dtype dtype) {
    switch (dtype) {
#define X(name, text, bytes)                                                                       \
    case ABL_DTYPE_##name:                                                                         \
        return text;
        ABL_DTYPE_MAP(X)
#undef X
    }
    return "unknown";
}

extern "C" size_t abl_dtype_bytes(abl_dtype dtype) {
    switch (dtype) {
#define X(name, text, bytes)                                                                       \
    case ABL_DTYPE_##name:                                                                         \
        return bytes;
        ABL_DTYPE_MAP(X)
#undef X
    }
    return 0;
}

/* ---- Scopes ------------------------------------------------------------------------------ */

abl_scope::~abl_scope() {
    for (abl_tensor *tensor : tensors) {
        abl_tensor_release(tensor);
    }
}

extern "C" abl_scope *abl_scope_create(abl_device device) {
    abl::set_up_backend();
    void *memory = abl_malloc(sizeof(abl_scope));
    return (memory == nullptr) ? nullptr : new (memory) abl_scope(device);
}

extern "C" void abl_scope_destroy(abl_scope *scope) {
    if (scope != nullptr) {
        scope->~abl_scope();
        abl_free(scope);
    }
}

extern "C" void abl_scope_destroyp(abl_scope **scope) {
    abl_scope_destroy(*scope);
}

extern "C" abl_code abl_scope_status(const abl_scope *scope, abl_status *ret_status) {
    if (!scope->failed) {
        return ABL_CODE_OK;
    }
    if (ret_status != nullptr) {
        *ret_status = scope->status;
    }
    return scope->status.code;
}

extern "C" bool abl_scope_failed(const abl_scope *scope) {
    return scope->failed;
}

extern "C" void abl_scope_fail(abl_scope *scope, const abl_status *status) {
    if (!scope->failed) {
        scope->failed = true;
        scope->status = *status;
    }
}

extern "C" void abl_scope_fail_oom(abl_scope *scope) {
    abl_status status;
    (void)abl_fail_oom(&status);
    abl_scope_fail(scope, &status);
}

extern "C" size_t abl_scope_mark(const abl_scope *scope) {
    return scope->tensors.size();
}

extern "C" void abl_scope_rewind(abl_scope *scope, size_t mark, abl_tensor *const *survivors,
                                 size_t survivor_count) {
    ABL_ASSERT(mark <= scope->tensors.size());
    size_t kept = mark;
    for (size_t i = mark; i < scope->tensors.size(); i++) {
        abl_tensor *tensor = scope->tensors[i];
        bool survives = false;
        for (size_t s = 0; s < survivor_count; s++) {
            survives = survives || survivors[s] == tensor;
        }
        if (survives) {
            scope->tensors[kept++] = tensor;
        } else {
            abl_tensor_release(tensor);
        }
    }
    scope->tensors.resize(kept); /* never grows, so never throws */
}

/* ---- Handles ----------------------------------------------------------------------------- */

extern "C" abl_tensor *abl_tensor_keep(abl_tensor *tensor) {
    if (tensor != nullptr) {
        tensor->owners.fetch_add(1, std::memory_order_relaxed);
    }
    return tensor;
}

extern "C" void abl_tensor_release(abl_tensor *tensor) {
    if (tensor != nullptr && tensor->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        delete tensor;
    }
}

extern "C" abl_tensor *abl_scope_borrow(abl_scope *scope, abl_tensor *tensor) {
    if (scope->failed || tensor == nullptr) {
        return nullptr;
    }
    try {
        scope->tensors.push_back(tensor);
    } catch (...) {
        abl::record_current_exception(scope);
        return nullptr;
    }
    return abl_tensor_keep(tensor);
}

extern "C" int abl_tensor_rank(const abl_tensor *tensor) {
    return (tensor == nullptr) ? 1 : static_cast<int>(tensor->at.dim());
}

static int wrap_dim(const abl_tensor *tensor, int dim) {
    int rank = abl_tensor_rank(tensor);
    int wrapped = (dim < 0) ? dim + rank : dim;
    ABL_ASSERT(wrapped >= 0 && wrapped < rank);
    return wrapped;
}

extern "C" int64_t abl_tensor_size(const abl_tensor *tensor, int dim) {
    return (tensor == nullptr) ? 1 : tensor->at.sizes()[static_cast<size_t>(wrap_dim(tensor, dim))];
}

extern "C" int64_t abl_tensor_count(const abl_tensor *tensor) {
    return (tensor == nullptr) ? 1 : tensor->at.numel();
}

extern "C" uint64_t abl_tensor_bytes(const abl_tensor *tensor) {
    return static_cast<uint64_t>(tensor->at.numel()) *
           static_cast<uint64_t>(tensor->at.element_size());
}

extern "C" uint64_t abl_tensor_storage_bytes(const abl_tensor *tensor) {
    return tensor->at.storage().nbytes();
}

extern "C" abl_dtype abl_tensor_dtype(const abl_tensor *tensor) {
    return (tensor == nullptr) ? ABL_DTYPE_F32 : abl::dtype_of(tensor->at.scalar_type());
}

extern "C" abl_device abl_tensor_device(const abl_tensor *tensor) {
    at::Device device = tensor->at.device();
    return device.is_cpu() ? abl_device{ABL_DEVICE_CPU, 0}
                           : abl_device{ABL_DEVICE_CUDA, device.index()};
}

extern "C" bool abl_tensor_is_contiguous(const abl_tensor *tensor) {
    return tensor->at.is_contiguous();
}

extern "C" bool abl_tensor_same_storage(const abl_tensor *a, const abl_tensor *b) {
    return a != nullptr && b != nullptr && a->at.storage().data() == b->at.storage().data();
}

extern "C" const void *abl_tensor_storage_address(const abl_tensor *tensor) {
    return tensor->at.storage().data();
}

extern "C" const void *abl_tensor_host_data(const abl_tensor *tensor) {
    bool plain = tensor->at.device().is_cpu() && tensor->at.is_contiguous();
    return plain ? tensor->at.data_ptr() : nullptr;
}

/* ---- Making ------------------------------------------------------------------------------ */

extern "C" abl_tensor *abl_tensor_empty(abl_scope *scope, abl_dtype dtype, int rank,
                                        const int64_t *shape) {
    return make(scope, [&] {
        return at::empty(ints(shape, static_cast<size_t>(rank)), abl::options_of(scope, dtype));
    });
}

extern "C" abl_tensor *abl_tensor_zeros(abl_scope *scope, abl_dtype dtype, int rank,
                                        const int64_t *shape) {
    return make(scope, [&] {
        return at::zeros(ints(shape, static_cast<size_t>(rank)), abl::options_of(scope, dtype));
    });
}

extern "C" abl_tensor *abl_tensor_full(abl_scope *scope, abl_dtype dtype, int rank,
                                       const int64_t *shape, double value) {
    return make(scope, [&] {
        return at::full(ints(shape, static_cast<size_t>(rank)), value,
                        abl::options_of(scope, dtype));
    });
}

extern "C" abl_tensor *abl_tensor_uniform(abl_scope *scope, int rank, const int64_t *shape,
                                          uint64_t seed) {
    return make(scope, [&] {
        at::Generator generator = at::detail::createCPUGenerator(seed);
        at::Tensor host = at::rand(ints(shape, static_cast<size_t>(rank)), generator, at::kFloat);
        return host.to(abl::device_of(scope->device));
    });
}

/* Host memory as a tensor that does not own it. libtorch takes a pointer to mutable data only. */
static at::Tensor over_host(abl_dtype dtype, int rank, const int64_t *shape, const void *data) {
    return at::from_blob(const_cast<void *>(data), ints(shape, static_cast<size_t>(rank)),
                         at::TensorOptions().dtype(abl::scalar_type(dtype)));
}

extern "C" abl_tensor *abl_tensor_from_host(abl_scope *scope, abl_dtype dtype, int rank,
                                            const int64_t *shape, const void *data) {
    return make(scope, [&] {
        at::Tensor host = at::empty(ints(shape, static_cast<size_t>(rank)),
                                    at::TensorOptions().dtype(abl::scalar_type(dtype)));
        if (host.nbytes() > 0) {
            std::memcpy(host.data_ptr(), data, host.nbytes());
        }
        return host.to(abl::device_of(scope->device));
    });
}

extern "C" abl_tensor *abl_tensor_from_mapped(abl_scope *scope, abl_dtype dtype, int rank,
                                              const int64_t *shape, const void *data) {
    return make(scope, [&] {
        abl::require(scope->device.type == ABL_DEVICE_CPU, "mapped tensors are on the CPU");
        return over_host(dtype, rank, shape, data);
    });
}

extern "C" void abl_tensor_to_host(abl_scope *scope, const abl_tensor *x, void *ret_data,
                                   size_t bytes) {
    act(scope, [&] {
        at::Tensor host = get(x).to(at::kCPU).contiguous();
        abl::require(host.nbytes() == bytes, "the caller's memory has another size");
        if (bytes > 0) {
            std::memcpy(ret_data, host.data_ptr(), bytes);
        }
    });
}

extern "C" void abl_tensor_to_floats(abl_scope *scope, const abl_tensor *x, float *ret_data,
                                     size_t count) {
    act(scope, [&] {
        at::Tensor host = get(x).to(at::kCPU, at::kFloat).contiguous();
        abl::require(static_cast<size_t>(host.numel()) == count,
                     "the caller's memory has another size");
        if (count > 0) {
            std::memcpy(ret_data, host.data_ptr(), count * sizeof(float));
        }
    });
}

extern "C" double abl_tensor_item(abl_scope *scope, const abl_tensor *x) {
    double value = NAN;
    act(scope, [&] { value = get(x).to(at::kDouble).item<double>(); });
    return value;
}

extern "C" abl_tensor *abl_tensor_to_dtype(abl_scope *scope, abl_tensor *x, abl_dtype dtype) {
    if (x != nullptr && abl_tensor_dtype(x) == dtype) {
        return x;
    }
    return make(scope, [&] { return get(x).to(abl::scalar_type(dtype)); });
}

extern "C" abl_tensor *abl_tensor_to_device(abl_scope *scope, abl_tensor *x, abl_device device) {
    if (x != nullptr && x->at.device() == abl::device_of(device)) {
        return x;
    }
    return make(scope, [&] { return get(x).to(abl::device_of(device)); });
}

extern "C" abl_tensor *abl_tensor_contiguous(abl_scope *scope, abl_tensor *x) {
    if (x != nullptr && abl_tensor_is_contiguous(x)) {
        return x;
    }
    return make(scope, [&] { return get(x).contiguous(); });
}

extern "C" abl_tensor *abl_tensor_clone(abl_scope *scope, const abl_tensor *x) {
    return make(scope, [&] { return get(x).clone(at::MemoryFormat::Contiguous); });
}

/* ---- Views ------------------------------------------------------------------------------- */

extern "C" abl_tensor *abl_tensor_view(abl_scope *scope, const abl_tensor *x, int rank,
                                       const int64_t *shape) {
    return make(scope, [&] { return get(x).view(ints(shape, static_cast<size_t>(rank))); });
}

extern "C" abl_tensor *abl_tensor_reshape(abl_scope *scope, const abl_tensor *x, int rank,
                                          const int64_t *shape) {
    return make(scope, [&] { return get(x).reshape(ints(shape, static_cast<size_t>(rank))); });
}

extern "C" abl_tensor *abl_tensor_permute(abl_scope *scope, const abl_tensor *x, int rank,
                                          const int64_t *dims) {
    return make(scope, [&] { return get(x).permute(ints(dims, static_cast<size_t>(rank))); });
}

extern "C" abl_tensor *abl_tensor_transpose(abl_scope *scope, const abl_tensor *x, int dim0,
                                            int dim1) {
    return make(scope, [&] { return get(x).transpose(dim0, dim1); });
}

extern "C" abl_tensor *abl_tensor_slice(abl_scope *scope, const abl_tensor *x, int dim,
                                        int64_t start, int64_t end) {
    return make(scope, [&] { return get(x).narrow(dim, start, end - start); });
}

extern "C" abl_tensor *abl_tensor_select(abl_scope *scope, const abl_tensor *x, int dim,
                                         int64_t index) {
    return make(scope, [&] { return get(x).select(dim, index); });
}

extern "C" abl_tensor *abl_tensor_unsqueeze(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return get(x).unsqueeze(dim); });
}

extern "C" abl_tensor *abl_tensor_squeeze(abl_scope *scope, const abl_tensor *x, int dim) {
    return make(scope, [&] { return get(x).squeeze(dim); });
}

extern "C" abl_tensor *abl_tensor_expand(abl_scope *scope, const abl_tensor *x, int rank,
                                         const int64_t *shape) {
    return make(scope, [&] { return get(x).expand(ints(shape, static_cast<size_t>(rank))); });
}
