/* model_internal.h -- the fields of abl_model, for the files that build and read it.
 *
 * OWNERSHIP  See model.h. Every tensor in `weights` holds one owner's reference.
 * THREADS    Written while loading, by one thread; immutable after.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_MODEL_MODEL_INTERNAL_H
#define ABLATE_CORE_MODEL_MODEL_INTERNAL_H

#include "core/model/block.h"
#include "core/model/family.h"
#include "core/model/model.h"

ABL_BEGIN_DECLS

#define ABL_MODEL_HASH_TEXT_BYTES 65

struct abl_model {
    uint32_t owners; /* by __atomic builtins */
    abl_model_config config;
    abl_model_processing processing;
    abl_dtype dtype;
    abl_device device;
    abl_safetensors *set; /* NULL once no weight lies in its mapping */
    abl_tokenizer *tokenizer;
    abl_model_weights weights;
    uint64_t bytes;
    uint64_t bytes_mapped;
    uint64_t parameter_count;
    char hash[ABL_MODEL_HASH_TEXT_BYTES];
};

/* Fills model->weights, bytes and bytes_mapped from model->set. On failure what was loaded stays in
 * the model, for abl_model_unref(). */
ABL_MUST_CHECK abl_code abl_model_load_weights(abl_model *model, const abl_model_options *options,
                                               abl_status *ret_status);
/* Releases every tensor of model->weights. */
void abl_model_release_weights(abl_model *model);

/* What TransformerLens calls processing, on weights in float32: one layer, and the rest. */
void abl_model_process_block(abl_scope *scope, const abl_model *model, abl_block_weights *block);
void abl_model_process_ends(abl_scope *scope, const abl_model *model, abl_model_weights *weights);

/* Folds a norm's gain and bias into the matrix [in, out] that reads it, and its bias; centres it
 * over `in` for layer norms. Sets the norm's pointers to NULL. */
void abl_model_fold_norm(abl_scope *scope, const abl_model *model, abl_tensor **norm_w,
                         abl_tensor **norm_b, abl_tensor **w, abl_tensor **bias);

/* sha256 in lower-case hex, into model->hash. */
ABL_MUST_CHECK abl_code abl_model_compute_hash(abl_model *model, abl_status *ret_status);

ABL_END_DECLS
#endif
