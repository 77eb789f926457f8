/* SPDX-License-Identifier: Apache-2.0
 *
 * What the process runs on: version, BLAS, threads, devices. The only file with an #if, for what
 * differs between libtorch 1.13 and 2.x. */
#include "core/tensor/gemm.hpp"
#include "core/tensor/tensor_internal.hpp"

#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <torch/csrc/api/include/torch/version.h>

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 10)
#include <c10/core/CachingDeviceAllocator.h>
#define ABL_DEVICE_STATS
#endif

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <malloc.h>
#include <mutex>
#include <unistd.h>

abl::accelerator_kind abl::accelerator = {at::kCUDA, -1, UINT64_MAX};

void abl::set_up_backend() {
    static std::once_flag once;
    std::call_once(once, [] {
        /* Activations are a few MB each: below these thresholds glibc hands them out again instead
         * of returning them to the system, which would fault in every page of the next one. */
        (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);
        (void)mallopt(M_TRIM_THRESHOLD, 512 << 20);
        (void)mallopt(M_TOP_PAD, 16 << 20);
        set_up_blas();
        pool_set_threads(0);
    });
}

/* What SkylakeX kernels need, beside an OpenBLAS to hold them. */
static bool wide_kernels_would_run() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
           __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
#else
    return false;
#endif
}

extern "C" void abl_backend_choose_kernels(char **argv) {
    void *symbol = dlsym(RTLD_DEFAULT, "openblas_get_corename");
    if (symbol == nullptr || std::getenv("OPENBLAS_CORETYPE") != nullptr ||
        !wide_kernels_would_run()) {
        return;
    }
    const char *chosen = reinterpret_cast<const char *(*)()>(symbol)();
    if (std::strcmp(chosen, "Haswell") == 0 || std::strcmp(chosen, "Zen") == 0) {
        char path[PATH_MAX]; /* not /proc/self/exe itself: the process would be named so */
        const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
        if (length > 0) {
            path[length] = '\0';
            (void)setenv("OPENBLAS_CORETYPE", "SkylakeX", 1);
            (void)execv(path, argv); /* where it fails, the slower kernels are right, too */
        }
    }
}

extern "C" void abl_backend_init(int threads) {
    abl::set_up_backend();
    if (threads > 0) {
        abl::pool_set_threads(threads);
    }
}

extern "C" int abl_backend_threads(void) {
    return abl::pool_threads();
}

extern "C" const char *abl_backend_version(void) {
    return "libtorch " TORCH_VERSION;
}

/* Where the symbol sgemm_ that libtorch calls comes from; "" when it is inside libtorch. */
static const char *blas_path(void) {
    static char path[4096];
    if (path[0] != '\0') {
        return path;
    }
    void *symbol = dlsym(RTLD_DEFAULT, "sgemm_");
    Dl_info info;
    std::memset(&info, 0, sizeof info);
    if (symbol == nullptr || dladdr(symbol, &info) == 0 || info.dli_fname == nullptr) {
        return "";
    }
    char *resolved = realpath(info.dli_fname, nullptr);
    (void)std::snprintf(path, sizeof path, "%s", (resolved != nullptr) ? resolved : info.dli_fname);
    std::free(resolved);
    return path;
}

static const char *blas_kind(const char *path) {
    if (at::hasMKL()) {
        return "MKL";
    }
    static const struct {
        const char *part;
        const char *name;
    } known[] = {{"openblas", "OpenBLAS"},
                 {"blis", "BLIS"},
                 {"mkl", "MKL"},
                 {"atlas", "ATLAS"},
                 {"torch", "libtorch's"}};
    for (const auto &entry : known) {
        if (std::strstr(path, entry.part) != nullptr) {
            return entry.name;
        }
    }
    return (path[0] == '\0') ? "built in" : "reference BLAS";
}

extern "C" const char *abl_backend_blas_name(void) {
    static char name[4200];
    if (name[0] == '\0') {
        const char *path = at::hasMKL() ? "" : blas_path();
        (void)std::snprintf(name, sizeof name, path[0] == '\0' ? "%s%s" : "%s%s (%s)",
                            abl::blas_has_dnnl() ? "oneDNN and " : "", blas_kind(path), path);
    }
    return name;
}

extern "C" bool abl_backend_blas_is_reference(void) {
    return std::strcmp(blas_kind(blas_path()), "reference BLAS") == 0;
}

extern "C" bool abl_backend_has(abl_device device, abl_dtype dtype) {
    try {
        const at::Tensor one = at::ones(
            {2, 2}, at::TensorOptions(abl::device_of(device)).dtype(abl::scalar_type(dtype)));
        return at::matmul(one, one).defined();
    } catch (...) {
        return false;
    }
}

extern "C" int abl_device_cuda_count(void) {
    if (abl::accelerator.count >= 0) {
        return abl::accelerator.count;
    }
    try {
        return at::hasCUDA() ? static_cast<int>(at::getNumGPUs()) : 0;
    } catch (...) {
        return 0;
    }
}

extern "C" bool abl_device_available(abl_device device) {
    if (device.type == ABL_DEVICE_CPU) {
        return device.index == 0;
    }
    return device.index >= 0 && device.index < abl_device_cuda_count();
}

#ifdef ABL_DEVICE_STATS
/* CUDA's caching allocator; NULL until the device is used, which is before any work on it. */
static at::DeviceAllocator *device_allocator(abl_device device) {
    if (device.type != ABL_DEVICE_CUDA || !abl_device_available(device) ||
        abl::accelerator.type != at::kCUDA) {
        return nullptr;
    }
    at::DeviceAllocator *allocator = at::getDeviceAllocator(at::kCUDA);
    return allocator->initialized() ? allocator : nullptr;
}

/* What the driver has, and what the allocator keeps of it in no tensor: it gives that back before
 * it runs out. */
static uint64_t device_bytes_free(abl_device device) {
    try {
        const auto index = static_cast<c10::DeviceIndex>(device.index);
        at::DeviceAllocator *allocator = device_allocator(device);
        if (allocator == nullptr) {
            return UINT64_MAX;
        }
        const auto stats = allocator->getDeviceStats(index);
        const int64_t kept =
            stats.reserved_bytes.front().current - stats.allocated_bytes.front().current;
        return allocator->getMemoryInfo(index).first + static_cast<uint64_t>(kept);
    } catch (...) {
        return UINT64_MAX;
    }
}
#else
static uint64_t device_bytes_free(abl_device device) {
    (void)device;
    return UINT64_MAX;
}
#endif

extern "C" uint64_t abl_device_bytes_free(abl_device device) {
    if (device.type == ABL_DEVICE_CUDA && abl::accelerator.count >= 0) {
        return abl::accelerator.free_bytes;
    }
    return device_bytes_free(device);
}
