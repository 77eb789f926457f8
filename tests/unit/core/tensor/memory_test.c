/* SPDX-License-Identifier: Apache-2.0
 *
 * What libtorch says where there is no memory, and what the shim makes of it: in the words of
 * CUDA's allocator, the driver, cuBLAS, cuDNN, and the CPU's allocator. */
#include "core/base/mem.h"
#include "core/tensor/tensor.h"
#include "tests/golden/device.h"
#include "tests/unit/unit.h"

#include <string.h>

static const abl_device accelerator = {.type = ABL_DEVICE_CUDA};
static const int64_t shape[] = {4};

/* The reason of a scope whose only tensor failed in these words. */
static const char *reason_of(const char *words, abl_code code) {
    abl_status status = {.reason = ""};
    abl_scope *scope = abl_scope_create(accelerator);
    assert_non_null(scope);
    golden_device_fail_at(1, words);
    assert_null(abl_tensor_zeros(scope, ABL_DTYPE_F32, 1, shape));
    golden_device_fail_at(0, "");
    assert_int_equal(abl_scope_status(scope, &status), code);
    abl_scope_destroy(scope);
    assert_non_null(strstr(status.message, code == ABL_CODE_INTERNAL ? words : "memory"));
    return status.reason;
}

static void a_device_that_is_full_is_no_fault_of_ours(void **state) {
    (void)state;
    static const char *const words[] = {
        "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 79.10 GiB total capacity)",
        "CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "parallel_for failed: cudaErrorMemoryAllocation",
    };
    for (size_t i = 0; i < ABL_COUNT_OF(words); i++) {
        assert_string_equal(reason_of(words[i], ABL_CODE_RESOURCE_EXHAUSTED),
                            "OUT_OF_DEVICE_MEMORY");
    }
}

static void a_host_that_is_full_is_not_called_the_device(void **state) {
    (void)state;
    assert_string_equal(reason_of("DefaultCPUAllocator: can't allocate memory: you tried to "
                                  "allocate 99 bytes. Error code 12",
                                  ABL_CODE_RESOURCE_EXHAUSTED),
                        "OUT_OF_HOST_MEMORY");
}

static void other_faults_keep_their_words(void **state) {
    (void)state;
    assert_string_equal(
        reason_of("CUDA error: an illegal memory access was encountered", ABL_CODE_INTERNAL),
        "BACKEND_EXCEPTION");
}

static void what_is_free_is_told_of_devices_alone(void **state) {
    (void)state;
    assert_true(abl_device_bytes_free((abl_device){.type = ABL_DEVICE_CPU}) == UINT64_MAX);
    golden_device_set_free(12345);
    assert_int_equal(abl_device_bytes_free(accelerator), 12345);
    golden_device_set_free(UINT64_MAX);
}

int main(void) {
    golden_device_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_that_is_full_is_no_fault_of_ours),
        cmocka_unit_test(a_host_that_is_full_is_not_called_the_device),
        cmocka_unit_test(other_faults_keep_their_words),
        cmocka_unit_test(what_is_free_is_told_of_devices_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
