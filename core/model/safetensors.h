/* safetensors.h -- tensors in safetensors files, mapped and never copied.
 *
 * OWNERSHIP  abl_safetensors_open*() hand the set to the caller; abl_safetensors_close() ends it,
 *            and with it every name and data pointer that came from it.
 * THREADS    Immutable after open: any thread may read. Opening blocks on disk.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone. Every
 *            message names the file, the tensor where there is one, and what was wrong.
 * UNITS      Sizes in bytes, shapes outermost dimension first, data row major and little endian.
 *
 * A file is: u64 header length, that many bytes of JSON, then the data. A set is one such file, or
 * the shards that an index (model.safetensors.index.json) names. A file that is truncated by
 * another process after it was opened raises SIGBUS on access, as with every mapping: replace
 * model files by rename, never in place.
 */
#ifndef ABLATE_CORE_MODEL_SAFETENSORS_H
#define ABLATE_CORE_MODEL_SAFETENSORS_H

#include "core/base/limits.h"
#include "core/base/status.h"

#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* X(enum suffix, name in the file, bytes of one element) */
#define ABL_SAFETENSORS_DTYPE_MAP(X)                                                               \
    X(BOOL, 1)                                                                                     \
    X(U8, 1)                                                                                       \
    X(I8, 1)                                                                                       \
    X(I16, 2)                                                                                      \
    X(I32, 4)                                                                                      \
    X(I64, 8)                                                                                      \
    X(F16, 2)                                                                                      \
    X(BF16, 2)                                                                                     \
    X(F32, 4)                                                                                      \
    X(F64, 8)

typedef enum abl_safetensors_dtype {
#define X(name, bytes) ABL_SAFETENSORS_DTYPE_##name,
    ABL_SAFETENSORS_DTYPE_MAP(X)
#undef X
} abl_safetensors_dtype;

typedef struct abl_safetensors_tensor {
    const char *name; /* UTF-8, no NUL inside, 1 to ABL_NAME_BYTES_MAX bytes */
    const char *file; /* the file it is in, for messages */
    abl_safetensors_dtype dtype;
    int rank;                           /* 0 (a scalar) to ABL_TENSOR_RANK_MAX */
    int64_t shape[ABL_TENSOR_RANK_MAX]; /* each >= 0; those past rank are 0 */
    uint64_t elements;                  /* product of the shape; 1 for a scalar */
    const void *data;                   /* maybe unaligned: files need not align; never NULL */
    size_t bytes;                       /* elements * bytes of one element */
} abl_safetensors_tensor;

typedef struct abl_safetensors abl_safetensors; /* opaque: the fields are in safetensors.c */

typedef struct abl_safetensors_options {
    const char *path; /* a .safetensors file, or an index ending in .json */
    /* Every file must lie inside this folder once links are resolved; NULL: anywhere. */
    const char *root;
} abl_safetensors_options;

/* Maps the file, or the index's shards, and checks all of it before any tensor is handed out.
 *   NOT_FOUND           FILE_MISSING        no such file, or a shard that the index names is
 * missing PERMISSION_DENIED   PATH_OUTSIDE_ROOT   a file resolves outside of root PERMISSION_DENIED
 * FILE_UNREADABLE     the system refuses to open it INVALID_ARGUMENT    SAFETENSORS_INVALID
 * malformed; the message says what and where RESOURCE_EXHAUSTED  SAFETENSORS_TOO_BIG header, rank,
 * name or shard count over its limit */
ABL_MUST_CHECK abl_code abl_safetensors_open(const abl_safetensors_options *options,
                                             abl_safetensors **ret_set, abl_status *ret_status);

/* The same for one file's bytes in memory, which are borrowed until close. `name` is what messages
 * call them. */
ABL_MUST_CHECK abl_code abl_safetensors_open_memory(const void *bytes, size_t bytes_count,
                                                    const char *name, abl_safetensors **ret_set,
                                                    abl_status *ret_status);

/* NULL is allowed. */
void abl_safetensors_close(abl_safetensors *set);

/* Tensors are ordered by name (bytewise). */
size_t abl_safetensors_count(const abl_safetensors *set);
const abl_safetensors_tensor *abl_safetensors_at(const abl_safetensors *set, size_t index);
/* NULL when the set has no tensor of that name. */
const abl_safetensors_tensor *abl_safetensors_find(const abl_safetensors *set, const char *name);

/* What messages should call the set: the path, or the name, that it was opened with. */
const char *abl_safetensors_source(const abl_safetensors *set);
/* Bytes of tensor data in all. */
uint64_t abl_safetensors_bytes(const abl_safetensors *set);

const char *abl_safetensors_dtype_name(abl_safetensors_dtype dtype); /* "F32" */
size_t abl_safetensors_dtype_bytes(abl_safetensors_dtype dtype);

/* "[2, 3]", cut to fit; returns `text`. */
const char *abl_safetensors_shape_text(const abl_safetensors_tensor *tensor, char *text,
                                       size_t text_bytes);

ABL_END_DECLS
#endif
