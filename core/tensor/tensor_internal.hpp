/* tensor_internal.hpp -- what the shim's own files share: the handle, the scope, the guard.
 *
 * Every extern "C" function is `noexcept` and one call of a guard: unwrap operands, call libtorch,
 * hand the result to the scope. What is thrown in between becomes the scope's failure. */
#ifndef ABLATE_CORE_TENSOR_TENSOR_INTERNAL_HPP
#define ABLATE_CORE_TENSOR_TENSOR_INTERNAL_HPP

#include "core/base/mem.h"
#include "core/tensor/tensor.h"

#include <ATen/ATen.h>

#include <atomic>
#include <exception>
#include <memory>
#include <new>
#include <utility>
#include <vector>

struct abl_tensor {
    explicit abl_tensor(at::Tensor &&value) : at(std::move(value)) {
    }
    /* Handles come from the counted heap, so that tests can fail them. */
    static void *operator new(size_t bytes) {
        void *memory = abl_malloc(bytes);
        if (memory == nullptr) {
            throw std::bad_alloc();
        }
        return memory;
    }
    static void operator delete(void *memory) {
        abl_free(memory);
    }

    std::atomic<uint32_t> owners{1};
    at::Tensor at;
};

struct abl_scope {
    explicit abl_scope(abl_device where) : device(where) {
    }
    ~abl_scope();

    abl_device device;
    bool failed = false;
    abl_status status{};
    std::vector<abl_tensor *> tensors; /* each holds one owner's reference */
};

namespace abl {

struct null_operand : std::exception {
    const char *what() const noexcept override {
        return "an operand is NULL";
    }
};

/* Throws what libtorch would throw, for shapes that it would not check. */
void require(bool condition, const char *message);

/* What ABL_DEVICE_CUDA is, how many there are (-1: CUDA knows), and what is free on each (asked
 * only where `count` is not CUDA's). A test puts a device of its own in its place. */
struct accelerator_kind {
    at::DeviceType type;
    int count;
    uint64_t free_bytes;
};
extern accelerator_kind accelerator;

at::ScalarType scalar_type(abl_dtype dtype);
abl_dtype dtype_of(at::ScalarType type);
at::Device device_of(abl_device device);
at::TensorOptions options_of(const abl_scope *scope, abl_dtype dtype);

/* Once: malloc's thresholds, and who multiplies. Every scope asks for it. */
void set_up_backend();

/* out = act(x), elementwise; out may be x. */
void activate_to(at::Tensor &out, abl_tensor_act act, const at::Tensor &x);

/* Fills the scope's status from the exception being handled. */
void record_current_exception(abl_scope *scope) noexcept;

inline at::Tensor &get(abl_tensor *tensor) {
    if (tensor == nullptr) {
        throw null_operand();
    }
    return tensor->at;
}

inline const at::Tensor &get(const abl_tensor *tensor) {
    if (tensor == nullptr) {
        throw null_operand();
    }
    return tensor->at;
}

inline at::IntArrayRef ints(const int64_t *values, size_t count) {
    return at::IntArrayRef(values, count);
}

inline abl_tensor *adopt(abl_scope *scope, at::Tensor &&value) {
    std::unique_ptr<abl_tensor> handle(new abl_tensor(std::move(value)));
    scope->tensors.push_back(handle.get());
    return handle.release();
}

/* One new tensor in the scope; NULL once the scope has failed. */
template <typename Body> abl_tensor *make(abl_scope *scope, Body &&body) noexcept {
    if (scope->failed) {
        return nullptr;
    }
    try {
        c10::InferenceMode inference;
        return adopt(scope, body());
    } catch (...) {
        record_current_exception(scope);
        return nullptr;
    }
}

/* Effects only. */
template <typename Body> void act(abl_scope *scope, Body &&body) noexcept {
    if (scope->failed) {
        return;
    }
    try {
        c10::InferenceMode inference;
        body();
    } catch (...) {
        record_current_exception(scope);
    }
}

/* float32 on the CPU: our own loops apply. */
inline bool is_host_f32(const at::Tensor &x) {
    return x.device().is_cpu() && x.scalar_type() == at::kFloat;
}

} // namespace abl

#endif
