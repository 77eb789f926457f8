/* SPDX-License-Identifier: Apache-2.0
 *
 * libtorch keeps a device type for backends that it does not know, PrivateUse1. This one makes
 * tensors and views by itself, and sends every other operation to the CPU by at::native's fallback,
 * which copies operands to the host and results back: both through copy_from() below, the only
 * place where pages are unlocked.
 *
 * The fallback would take operands of several devices; a GPU does not (but for single numbers), so
 * they are refused here. */
#include "tests/golden/device.h"

#include "core/tensor/tensor_internal.hpp"

#include <ATen/TensorUtils.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/api/include/torch/version.h>
#include <torch/library.h>

#include <cstdint>
#include <sys/mman.h>

namespace {

#if TORCH_VERSION_MAJOR >= 2
template <typename T> using maybe = std::optional<T>;
#else
template <typename T> using maybe = c10::optional<T>;
#endif

constexpr at::DeviceType FAKE = at::DeviceType::PrivateUse1;

int64_t reads;
int64_t writes;
uint64_t used;
int64_t until_failure; /* tensors; 0: never */
const char *failure;
bool inside_operation;
std::string operation; /* the last one, for messages */

/* ---- Memory ------------------------------------------------------------------------------ */

size_t pages(size_t bytes) {
    return (bytes / 4096 + 1) * 4096;
}

struct block {
    void *address;
    size_t bytes;
};

void release(void *context) {
    block *own = static_cast<block *>(context);
    used -= own->bytes;
    (void)munmap(own->address, own->bytes);
    delete own;
}

at::DataPtr allocate(size_t bytes) {
    const size_t size = pages(bytes);
    if (until_failure > 0 && --until_failure == 0) {
        TORCH_CHECK(false, failure);
    }
    void *address = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(address != MAP_FAILED, "no memory for the device");
    used += size;
    return at::DataPtr(address, new block{address, size}, release, at::Device(FAKE, 0));
}

/* A tensor's memory for the host, as long as this lives. */
class unlocked {
  public:
    explicit unlocked(const at::Tensor &x)
        : storage_(x.storage()), mine_(x.device().type() == FAKE) {
        protect(PROT_READ | PROT_WRITE);
        auto *base = static_cast<char *>(storage_.data_ptr().get());
        host = at::from_blob(base + x.storage_offset() * static_cast<int64_t>(x.element_size()),
                             x.sizes(), x.strides(), at::TensorOptions().dtype(x.dtype()));
    }
    ~unlocked() {
        protect(PROT_NONE);
    }
    unlocked(const unlocked &) = delete;
    unlocked &operator=(const unlocked &) = delete;

    at::Tensor host;

  private:
    void protect(int how) {
        if (mine_) {
            (void)mprotect(storage_.data_ptr().get(), pages(storage_.nbytes()), how);
        }
    }

    c10::Storage storage_;
    bool mine_;
};

at::Tensor copy_from(const at::Tensor &self, const at::Tensor &dst, bool non_blocking) {
    (void)non_blocking;
    if (!inside_operation) {
        reads += (dst.device().type() != FAKE) ? 1 : 0;
        writes += (self.device().type() != FAKE) ? 1 : 0;
    }
    unlocked from(self);
    unlocked to(dst);
    to.host.copy_(from.host);
    return dst;
}

/* ---- Tensors ----------------------------------------------------------------------------- */

at::Tensor make(c10::Storage &&storage, caffe2::TypeMeta type, at::IntArrayRef sizes,
                at::IntArrayRef strides, int64_t offset) {
    at::Tensor out = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
    out.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
    out.unsafeGetTensorImpl()->set_storage_offset(offset);
    return out;
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, maybe<at::ScalarType> dtype,
                         maybe<at::Layout> layout, maybe<at::Device> device,
                         maybe<bool> pin_memory) {
    (void)layout;
    (void)device;
    (void)pin_memory;
    const caffe2::TypeMeta type = at::scalarTypeToTypeMeta(dtype.value_or(at::kFloat));
    size_t cells = 1;
    for (size_t i = 0; i < size.size(); i++) {
        cells = (size[i] == 0 || cells == 0)
                    ? 0
                    : cells + static_cast<size_t>((size[i] - 1) * stride[i]);
    }
    const size_t bytes = cells * type.itemsize();
    return make(
        c10::Storage(c10::Storage::use_byte_size_t(), bytes, allocate(bytes), nullptr, false), type,
        size, stride, 0);
}

at::Tensor empty(at::IntArrayRef size, maybe<at::ScalarType> dtype, maybe<at::Layout> layout,
                 maybe<at::Device> device, maybe<bool> pin_memory, maybe<at::MemoryFormat> format) {
    (void)format;
    std::vector<int64_t> stride(size.size(), 1);
    for (size_t i = size.size(); i > 1; i--) {
        stride[i - 2] = stride[i - 1] * std::max<int64_t>(1, size[i - 1]);
    }
    return empty_strided(size, stride, dtype, layout, device, pin_memory);
}

/* Where an operation makes its result in an empty tensor. */
at::Tensor copy_from_and_resize(const at::Tensor &self, const at::Tensor &dst) {
    if (self.sizes() != dst.sizes()) {
        TORCH_CHECK(dst.numel() == 0, operation, " would resize a result to ", self.sizes());
        const size_t bytes = self.nbytes();
        dst.unsafeGetTensorImpl()->set_storage_keep_dtype(
            c10::Storage(c10::Storage::use_byte_size_t(), bytes, allocate(bytes), nullptr, false));
        dst.unsafeGetTensorImpl()->set_sizes_contiguous(self.sizes());
    }
    return copy_from(self, dst, false);
}

at::Tensor strided_view(const at::Tensor &self, at::IntArrayRef size, at::IntArrayRef stride,
                        maybe<int64_t> offset) {
    return make(c10::Storage(self.storage()), self.dtype(), size, stride,
                offset.value_or(self.storage_offset()));
}

at::Tensor reshape_alias(const at::Tensor &self, at::IntArrayRef size, at::IntArrayRef stride) {
    return strided_view(self, size, stride, self.storage_offset());
}

at::Tensor view(const at::Tensor &self, at::IntArrayRef size) {
    std::vector<int64_t> wanted(size.begin(), size.end());
    int64_t known = 1;
    int64_t *open = nullptr;
    for (int64_t &one : wanted) {
        if (one == -1) {
            open = &one;
        } else {
            known *= one;
        }
    }
    if (open != nullptr) {
        *open = self.numel() / known;
    }
    const auto stride = at::detail::computeStride(self.sizes(), self.strides(), wanted);
    TORCH_CHECK(stride.has_value(), "view: the strides do not allow it");
    return strided_view(self, wanted, *stride, self.storage_offset());
}

/* ---- Every other operation --------------------------------------------------------------- */

void check_device(const c10::OperatorHandle &op, const at::Tensor &x) {
    TORCH_CHECK(!x.defined() || x.device().type() == FAKE || x.dim() == 0,
                "operands on two devices: ", op.schema().operator_name());
}

void by_host(const c10::OperatorHandle &op, torch::jit::Stack *stack) {
    const size_t count = op.schema().arguments().size();
    for (size_t i = stack->size() - count; i < stack->size(); i++) {
        const c10::IValue &value = (*stack)[i];
        if (value.isTensor()) {
            check_device(op, value.toTensor());
        } else if (value.isTensorList()) {
            for (const at::Tensor &x : value.toTensorVector()) {
                check_device(op, x);
            }
        }
    }
    operation = op.schema().name();
    const bool outer = inside_operation;
    inside_operation = true;
    try {
        at::native::cpu_fallback(op, stack);
    } catch (...) {
        inside_operation = outer;
        throw;
    }
    inside_operation = outer;
}

/* One number, which waits for the device. */
at::Scalar local_scalar(const at::Tensor &self) {
    reads++;
    unlocked from(self);
    return from.host.item();
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<FAKE>)

} // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
    m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
    m.impl("empty.memory_format", empty);
    m.impl("empty_strided", empty_strided);
    m.impl("as_strided", strided_view);
    m.impl("_reshape_alias", reshape_alias);
    m.impl("view", view);
    m.impl("_copy_from", copy_from);
    m.impl("_copy_from_and_resize", copy_from_and_resize);
    m.impl("_local_scalar_dense", local_scalar);
}

extern "C" void golden_device_install(void) {
    abl::accelerator = {FAKE, 1, UINT64_MAX};
}

extern "C" int64_t golden_device_reads(void) {
    return reads;
}

extern "C" int64_t golden_device_writes(void) {
    return writes;
}

extern "C" void golden_device_fail_at(int64_t n, const char *words) {
    until_failure = n;
    failure = words;
}

extern "C" uint64_t golden_device_used(void) {
    return used;
}

extern "C" void golden_device_set_free(uint64_t bytes) {
    abl::accelerator.free_bytes = bytes;
}
