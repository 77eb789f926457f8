/* golden.h -- comparing with recorded numbers: one line a tensor, and an exit status.
 *
 * OWNERSHIP  golden_open_*() hand over what the named _close(), _unref() or json_decref() ends.
 * THREADS    One: the harness counts in static storage.
 * ERRORS     A file that is missing or malformed ends the process with status 2: a golden test that
 *            cannot read its data must never look like one that passed.
 *
 * The data: $ABLATE_GOLDENS where it is set (then it must exist), else the compact set committed
 * under tests/golden/data. The compact set leaves cases out; golden_has() asks.
 */
#ifndef ABLATE_TESTS_GOLDEN_GOLDEN_H
#define ABLATE_TESTS_GOLDEN_GOLDEN_H

#include "core/model/model.h"
#include "core/model/safetensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* Call first. Two threads, as the recordings. */
void golden_init(const char *program);
/* The folder that holds models/, prompts/ and cases/. */
const char *golden_root(void);
/* True for the full set (ABLATE_GOLDENS): a case that is missing there is a failure. */
bool golden_is_full(void);

/* Path of a file below the root, in static storage of this call's slot (four of them in turn). */
const char *golden_path(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether that file is there. False in the full set ends the process. */
bool golden_has(const char *path);

abl_safetensors *golden_open_tensors(const char *path);
json_t *golden_open_json(const char *path);
/* models/<name> under the root, or a folder by its absolute path. */
abl_model *golden_open_model(const char *name, abl_model_processing processing);
/* The folder of SmolLM2-135M: $ABLATE_SMOLLM2, else build/models/smollm2-135m of this tree; NULL,
 * after saying so, when it is not there. Set but missing ends the process. */
const char *golden_smollm2_dir(void);

/* The named tensor; ends the process when it is missing. */
const abl_safetensors_tensor *golden_tensor(const abl_safetensors *set, const char *name);
/* I32 or I64 to int32, `elements` of them; ends with abl_free(). */
int32_t *golden_ints(const abl_safetensors_tensor *tensor);
/* Host floats of a tensor, `count` of them; ends with abl_free(). */
float *golden_floats_of(const abl_tensor *tensor, size_t *ret_count);

/* Prints "case tensor maxabs tolerance ok|FAIL" and counts. `actual` has `count` floats, `expected`
 * (F32) as many, or a number that divides it and is repeated (a leading dimension of 1). Equal
 * infinities are equal; anything else not finite fails. */
void golden_compare(const char *case_name, const char *tensor_name,
                    const abl_safetensors_tensor *expected, const float *actual, size_t count,
                    double tolerance);
/* The same for floats on both sides. */
void golden_compare_floats(const char *case_name, const char *tensor_name, const float *expected,
                           size_t expected_count, const float *actual, size_t count,
                           double tolerance);
/* The same for a tensor on the device. */
void golden_compare_tensor(const char *case_name, const char *tensor_name,
                           const abl_safetensors_tensor *expected, const abl_tensor *actual,
                           double tolerance);
/* A yes-or-no check, on a line of its own. */
void golden_check(const char *case_name, const char *what, bool fine);
/* Ends the process with the status's words when the code is not OK. */
void golden_must(abl_code code, const abl_status *status);

/* Prints the summary; 0, or 1 when anything failed or nothing was compared. Return it from main. */
int golden_finish(void);

#endif
