/* common.h -- what several message families share: names, tensors, prompts, pages, provenance.
 *
 * Every value that a client sent passes through server/convert before anything acts on it. What
 * the wire cannot say (wire.h checks that much) is checked here: presence, counts, shapes, ranges.
 *
 * OWNERSHIP  Results live in the arena given, or point into the message. Messages that are built
 *            borrow from their sources.
 * THREADS    Pure functions of their arguments, arenas apart.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone. A
 *            message names the field, what it was, and the limit.
 */
#ifndef ABLATE_SERVER_CONVERT_COMMON_H
#define ABLATE_SERVER_CONVERT_COMMON_H

#include "ablate/v1/common.pb-c.h"
#include "core/base/arena.h"
#include "core/data/dataset.h"
#include "core/model/forward.h"
#include "core/patch/patch.h"
#include "core/tensor/tensor.h"

ABL_BEGIN_DECLS

/* A name of 1 to bytes_max bytes without control characters.
 *   INVALID_ARGUMENT  NAME_INVALID */
ABL_MUST_CHECK abl_code abl_convert_name(const char *field, const char *text, size_t bytes_max,
                                         abl_status *ret_status);

/* page_size 0: 100, at most 1000; the token is the serial of the last object of the page before.
 *   INVALID_ARGUMENT  PAGE_SIZE_INVALID, PAGE_TOKEN_INVALID */
typedef struct abl_page {
    size_t size;
    uint64_t after;
} abl_page;
ABL_MUST_CHECK abl_code abl_convert_page(int32_t page_size, const char *page_token,
                                         abl_page *ret_page, abl_status *ret_status);

/* A tensor's header against its bytes.
 *   INVALID_ARGUMENT  TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_BYTES */
ABL_MUST_CHECK abl_code abl_convert_tensor_check(const char *field,
                                                 const Ablate__V1__Tensor *tensor,
                                                 int64_t *ret_count, abl_status *ret_status);
size_t abl_convert_dtype_bytes(Ablate__V1__DType dtype);
Ablate__V1__DType abl_convert_dtype(abl_dtype dtype);
/* Unspecified is float32. INVALID_ARGUMENT  TENSOR_DTYPE  for int32 */
ABL_MUST_CHECK abl_code abl_convert_weight_dtype(Ablate__V1__DType dtype, abl_dtype *ret_dtype,
                                                 abl_status *ret_status);

/* Prompts, checked as far as can be without a model; abl_prompts_tokens() (prompts.h) tokenizes. */
typedef struct abl_prompts {
    const int32_t *tokens; /* (batch, seq), or NULL: text */
    int64_t batch;
    int64_t seq; /* 0 for text */
    char *const *texts;
    Ablate__V1__BosPolicy bos;
} abl_prompts;
/*   INVALID_ARGUMENT    PROMPTS_MISSING, BATCH_INVALID, SEQ_INVALID, and those of a tensor
 *   RESOURCE_EXHAUSTED  BATCH_TOO_BIG, SEQ_TOO_LONG */
ABL_MUST_CHECK abl_code abl_convert_prompts(const char *field, const Ablate__V1__Prompts *message,
                                            abl_arena *arena, abl_prompts *ret_prompts,
                                            abl_status *ret_status);

/* `unspecified` is what OUT_SLICE_UNSPECIFIED means. */
abl_out_slice abl_convert_out_slice(Ablate__V1__OutSlice slice, abl_out_slice unspecified);
Ablate__V1__OutSlice abl_convert_out_slice_back(abl_out_slice slice);
abl_ablation abl_convert_ablation_type(Ablate__V1__AblationType type);
abl_patch_type abl_convert_patch_type(Ablate__V1__PatchType type);

/* A piece of a tensor, from offset_bytes on; the result's shape is borrowed. */
typedef struct abl_chunk_source {
    const char *name;
    Ablate__V1__DType dtype;
    const int64_t *shape;
    size_t rank;
    const void *data;
    size_t bytes;
} abl_chunk_source;
void abl_convert_chunk(const abl_chunk_source *tensor, size_t offset_bytes, void *shape_scratch,
                       Ablate__V1__TensorChunk *ret_chunk, size_t *ret_next_offset);

Ablate__V1__WeightProcessing abl_convert_processing(abl_model_processing processing);
abl_model_processing abl_convert_processing_back(const Ablate__V1__WeightProcessing *message);
/* "cpu", "cuda:1" */
void abl_convert_device(abl_device device, char *text, size_t text_bytes);

/* sha256 in lower-case hex. False: no memory. */
ABL_MUST_CHECK bool abl_convert_sha256(const void *data, size_t bytes,
                                       char ret_text[ABL_SHA256_TEXT_BYTES]);

/* Copies text into an arena; "" when there is no memory, which only costs a label. */
char *abl_convert_text(abl_arena *arena, const char *text);

ABL_END_DECLS
#endif
