/* SPDX-License-Identifier: Apache-2.0
 *
 * The harness prints every comparison, passed or not: the largest difference of a tensor says how
 * close a tolerance is to being crossed long before it is. */
#include "tests/golden/golden.h"

#include "core/base/mem.h"
#include "core/model/dir.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_SLOTS 4

static char root[2048];
static bool root_is_full;
static int compared_count;
static int failed_count;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)fprintf(stderr, "golden: ");
    (void)vfprintf(stderr, format, arguments);
    (void)fprintf(stderr, "\n");
    va_end(arguments);
    exit(2);
}

static bool exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

void golden_init(const char *program) {
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    const char *given = getenv("ABLATE_GOLDENS");
    root_is_full = given != NULL && given[0] != '\0';
    (void)snprintf(root, sizeof root, "%s", root_is_full ? given : ABLATE_GOLDEN_DATA);
    if (!exists(root)) {
        die("%s: no reference data at '%s'", program, root);
    }
    abl_backend_init(2);
    printf("%s: data from %s, %s, %s\n", program, root, abl_backend_version(),
           abl_backend_blas_name());
}

const char *golden_root(void) {
    return root;
}

bool golden_is_full(void) {
    return root_is_full;
}

const char *golden_path(const char *format, ...) {
    static char slots[PATH_SLOTS][4096];
    static unsigned next;
    char *slot = slots[next++ % PATH_SLOTS];
    int used = snprintf(slot, sizeof slots[0], "%s/", root);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(slot + used, sizeof slots[0] - (size_t)used, format, arguments);
    va_end(arguments);
    return slot;
}

bool golden_has(const char *path) {
    bool there = exists(path);
    if (!there && root_is_full) {
        die("'%s' is missing", path);
    }
    return there;
}

void golden_must(abl_code code, const abl_status *status) {
    if (code != ABL_CODE_OK) {
        die("%s (%s): %s", abl_code_name(code), status->reason, status->message);
    }
}

abl_safetensors *golden_open_tensors(const char *path) {
    abl_safetensors *set = NULL;
    abl_status status;
    const abl_safetensors_options options = {.path = path};
    golden_must(abl_safetensors_open(&options, &set, &status), &status);
    return set;
}

json_t *golden_open_json(const char *path) {
    json_error_t error;
    json_t *value = json_load_file(path, 0, &error);
    if (value == NULL) {
        die("%s: line %d: %s", path, error.line, error.text);
    }
    return value;
}

abl_model *golden_open_model(const char *name, abl_model_processing processing) {
    char models[4096];
    (void)snprintf(models, sizeof models, "%s/models", root);
    const char *slash = strrchr(name, '/');
    if (slash != NULL) {
        (void)snprintf(models, sizeof models, "%.*s", (int)(slash - name), name);
    }
    const char *paths[] = {models};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    abl_status status;
    abl_model_dir *dir = NULL;
    golden_must(abl_model_dir_create(&roots, (slash == NULL) ? name : slash + 1, &dir, &status),
                &status);
    const abl_model_options options = {.processing = processing, .dtype = ABL_DTYPE_F32};
    abl_model *model = NULL;
    golden_must(abl_model_load(dir, &options, &model, &status), &status);
    abl_model_dir_destroy(dir);
    return model;
}

const char *golden_smollm2_dir(void) {
    const char *given = getenv("ABLATE_SMOLLM2");
    bool set = given != NULL && given[0] != '\0';
    const char *dir = set ? given : ABLATE_SMOLLM2_DEFAULT;
    static char resolved[4096];
    if (realpath(dir, resolved) == NULL) {
        if (set) {
            die("ABLATE_SMOLLM2: no folder at '%s'", given);
        }
        printf("smollm2-135m: skipped, no model at %s (set ABLATE_SMOLLM2)\n", dir);
        return NULL;
    }
    return resolved;
}

const abl_safetensors_tensor *golden_tensor(const abl_safetensors *set, const char *name) {
    const abl_safetensors_tensor *tensor = abl_safetensors_find(set, name);
    if (tensor == NULL) {
        die("%s has no tensor '%s'", abl_safetensors_source(set), name);
    }
    return tensor;
}

int32_t *golden_ints(const abl_safetensors_tensor *tensor) {
    int32_t *values = abl_calloc(tensor->elements, sizeof *values);
    if (values == NULL) {
        die("no memory");
    }
    for (uint64_t i = 0; i < tensor->elements; i++) {
        if (tensor->dtype == ABL_SAFETENSORS_DTYPE_I64) {
            int64_t wide = 0;
            memcpy(&wide, (const char *)tensor->data + i * sizeof wide, sizeof wide);
            values[i] = (int32_t)wide;
        } else if (tensor->dtype == ABL_SAFETENSORS_DTYPE_I32) {
            memcpy(&values[i], (const char *)tensor->data + i * sizeof values[i], sizeof values[i]);
        } else {
            die("tensor '%s' is not of integers", tensor->name);
        }
    }
    return values;
}

float *golden_floats_of(const abl_tensor *tensor, size_t *ret_count) {
    size_t count = (size_t)abl_tensor_count(tensor);
    float *values = abl_calloc(count, sizeof *values);
    abl_scope *scope = abl_scope_create(abl_tensor_device(tensor));
    if (values == NULL || scope == NULL) {
        die("no memory");
    }
    abl_status status;
    abl_tensor_to_floats(scope, tensor, values, count);
    golden_must(abl_scope_status(scope, &status), &status);
    abl_scope_destroy(scope);
    *ret_count = count;
    return values;
}

/* ---- Comparing --------------------------------------------------------------------------- */

static double difference(float expected, float actual) {
    if (isinf(expected) && isinf(actual) && signbit(expected) == signbit(actual)) {
        return 0;
    }
    double d = fabs((double)expected - (double)actual);
    return isnan(d) ? INFINITY : d;
}

void golden_compare_floats(const char *case_name, const char *tensor_name, const float *expected,
                           size_t expected_count, const float *actual, size_t count,
                           double tolerance) {
    bool same_size = expected_count > 0 && count > 0 && count % expected_count == 0;
    double largest = same_size ? 0 : INFINITY;
    for (size_t i = 0; same_size && i < count; i++) {
        double d = difference(expected[i % expected_count], actual[i]);
        largest = (d > largest) ? d : largest;
    }
    bool fine = largest <= tolerance;
    compared_count++;
    failed_count += fine ? 0 : 1;
    printf("%-28s %-44s %10.3e  tol %8.1e  %s", case_name, tensor_name, largest, tolerance,
           fine ? "ok" : "FAIL");
    if (!same_size) {
        printf(" (%zu values, expected %zu)", count, expected_count);
    }
    printf("\n");
}

void golden_compare(const char *case_name, const char *tensor_name,
                    const abl_safetensors_tensor *expected, const float *actual, size_t count,
                    double tolerance) {
    if (expected->dtype != ABL_SAFETENSORS_DTYPE_F32) {
        die("tensor '%s' is not of floats", expected->name);
    }
    float *copy = abl_malloc(expected->bytes); /* the file's data need not be aligned */
    if (copy == NULL) {
        die("no memory");
    }
    memcpy(copy, expected->data, expected->bytes);
    golden_compare_floats(case_name, tensor_name, copy, expected->elements, actual, count,
                          tolerance);
    abl_free(copy);
}

void golden_compare_tensor(const char *case_name, const char *tensor_name,
                           const abl_safetensors_tensor *expected, const abl_tensor *actual,
                           double tolerance) {
    size_t count = 0;
    float *values = golden_floats_of(actual, &count);
    golden_compare(case_name, tensor_name, expected, values, count, tolerance);
    abl_free(values);
}

void golden_check(const char *case_name, const char *what, bool fine) {
    compared_count++;
    failed_count += fine ? 0 : 1;
    printf("%-28s %-44s %s\n", case_name, what, fine ? "ok" : "FAIL");
}

int golden_finish(void) {
    printf("golden: %d compared, %d failed\n", compared_count, failed_count);
    return (failed_count > 0 || compared_count == 0) ? 1 : 0;
}
