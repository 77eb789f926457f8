/* model.h -- a loaded network: configuration, canonical weights, tokenizer, provenance.
 *
 * OWNERSHIP  abl_model_load() and abl_model_create() hand the caller one reference;
 *            abl_model_ref() adds one, abl_model_unref() ends one, and the last ends the model and
 *            all that was borrowed from it.
 * THREADS    Immutable after load: any thread may read, ref and unref. Loading and everything that
 *            touches tensors runs on the device's executor; loading blocks on disk.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 * UNITS      Sizes in bytes.
 *
 * Weights are resident once, whatever reads them: graphs, runs and jobs hold references. Where the
 * file's dtype is the model's and the device is the CPU, tensors are the mapped file itself.
 */
#ifndef ABLATE_CORE_MODEL_MODEL_H
#define ABLATE_CORE_MODEL_MODEL_H

#include "core/base/status.h"
#include "core/model/config.h"
#include "core/model/dir.h"
#include "core/model/safetensors.h"
#include "core/tensor/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_model abl_model;         /* opaque: the fields are in model.c */
typedef struct abl_tokenizer abl_tokenizer; /* core/tokenizer/tokenizer.h */

/* As TransformerLens does it, each by itself. For RMS norms: fold_norm folds the gain only, and
 * center_writing is ignored, for there is no mean that the norm would remove. */
typedef struct abl_model_processing {
    bool fold_norm;         /* norm gains and biases into the matrices that read them */
    bool center_writing;    /* subtract each writer's mean over d_model */
    bool center_unembed;    /* subtract the unembedding's mean over the vocabulary */
    bool fold_value_biases; /* b_V times W_O into b_O */
} abl_model_processing;

abl_model_processing abl_model_processing_hf(void); /* none: the weights as they are */
abl_model_processing abl_model_processing_tl(void); /* all four */
/* "hf", "tl", or the options by name, "fold_norm+center_unembed"; in static or `text` storage. */
const char *abl_model_processing_text(abl_model_processing processing, char *text,
                                      size_t text_bytes);

/* False cancels the load: CANCELLED (LOAD_CANCELLED). */
typedef bool (*abl_model_progress_cb)(uint64_t bytes_done, uint64_t bytes_total,
                                      const char *tensor_name, void *user_data);

typedef struct abl_model_options {
    abl_model_processing processing;
    abl_dtype dtype; /* F32 (parity), F16 or BF16 */
    abl_device device;
    abl_model_progress_cb progress_cb; /* may be NULL */
    void *user_data;
} abl_model_options;

/* Reads config, safetensors and (where there is one) tokenizer of a resolved directory.
 *   RESOURCE_EXHAUSTED  MODEL_TOO_BIG      more than is free on the device
 *   UNAVAILABLE         DEVICE_UNAVAILABLE no such device
 *   CANCELLED           LOAD_CANCELLED     progress_cb said so
 * and all of config.h, safetensors.h, family.h, tokenizer.h. */
ABL_MUST_CHECK abl_code abl_model_load(const abl_model_dir *dir, const abl_model_options *options,
                                       abl_model **ret_model, abl_status *ret_status);

/* From parts, for uploads and tests. Takes `set` and `tokenizer` (may be NULL) over on success. */
ABL_MUST_CHECK abl_code abl_model_create(const abl_model_config *config, abl_safetensors *set,
                                         abl_tokenizer *tokenizer, const abl_model_options *options,
                                         abl_model **ret_model, abl_status *ret_status);

abl_model *abl_model_ref(abl_model *model);
void abl_model_unref(abl_model *model); /* NULL is allowed */

const abl_model_config *abl_model_get_config(const abl_model *model);
const abl_tokenizer *abl_model_tokenizer(const abl_model *model); /* NULL when there is none */
abl_model_processing abl_model_get_processing(const abl_model *model);
abl_dtype abl_model_dtype(const abl_model *model);
abl_device abl_model_device(const abl_model *model);

/* Bytes of weights that this model keeps resident on its device, mapped ones included. */
uint64_t abl_model_bytes(const abl_model *model);
/* Of which are pages of a mapped file. */
uint64_t abl_model_bytes_mapped(const abl_model *model);
/* Lower-case hex sha256 over the config's numbers and every tensor of the files (name, dtype,
 * shape, data), in name order: the same for a sharded copy, independent of processing. */
const char *abl_model_hash(const abl_model *model);
/* Parameters in the files; tied tensors once. */
uint64_t abl_model_parameter_count(const abl_model *model);

ABL_END_DECLS
#endif
