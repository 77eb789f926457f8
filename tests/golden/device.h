/* device.h -- an accelerator for machines that have none.
 *
 * Once installed, ABL_DEVICE_CUDA 0 is a device whose memory the host cannot touch: its pages are
 * locked but while an operation of libtorch works on them, which it does by the CPU's kernels. So a
 * pass that reads or writes device memory past libtorch ends in a fault, and an operation whose
 * operands are on two devices in an error, as on a GPU; the numbers are the CPU's.
 *
 * OWNERSHIP  None: it lasts until the process ends.
 * THREADS    One: the golden programs'.
 */
#ifndef ABLATE_TESTS_GOLDEN_DEVICE_H
#define ABLATE_TESTS_GOLDEN_DEVICE_H

#include "core/base/status.h"

#include <stdint.h>

ABL_BEGIN_DECLS

/* Call before anything is put on it. */
void golden_device_install(void);
/* Copies from the device to the host so far: on a GPU each waits for all that was asked before. */
int64_t golden_device_reads(void);
/* Copies to it. */
int64_t golden_device_writes(void);
/* The n-th tensor from now on fails, in these words of libtorch's; 0: none. */
void golden_device_fail_at(int64_t n, const char *words);
uint64_t golden_device_used(void); /* bytes */
/* What abl_device_bytes_free() says of it; it takes no less for that. UINT64_MAX until then. */
void golden_device_set_free(uint64_t bytes);

ABL_END_DECLS
#endif
