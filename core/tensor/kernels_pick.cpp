/* SPDX-License-Identifier: Apache-2.0
 *
 * The best table of kernels.cpp that this machine runs. ABLATE_KERNELS=baseline (or avx2) asks for
 * a lesser one, to compare. */
#include "core/tensor/kernels.hpp"

#include <cstdlib>
#include <cstring>

namespace abl {

extern const kernel_table kernels_baseline;
#ifdef ABL_KERNELS_X86
extern const kernel_table kernels_avx2;
extern const kernel_table kernels_avx512;
#endif

static const kernel_table *pick() {
#ifdef ABL_KERNELS_X86
    const char *asked = std::getenv("ABLATE_KERNELS");
    const bool any = asked == nullptr;
    if ((any || std::strcmp(asked, "avx512") == 0) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
        return &kernels_avx512;
    }
    if ((any || std::strcmp(asked, "baseline") != 0) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma")) {
        return &kernels_avx2;
    }
#endif
    return &kernels_baseline;
}

const kernel_table &kernels() {
    static const kernel_table *table = pick();
    return *table;
}

bool kernels_are_wide() {
#ifdef ABL_KERNELS_X86
    return &kernels() == &kernels_avx512;
#else
    return false;
#endif
}

} // namespace abl
