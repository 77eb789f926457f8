/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors arrive as bytes of any alignment; int32 token ids are copied into the arena rather than
 * read in place. Element counts are computed with overflow checks before they are compared with the
 * bytes that are really there, so a claimed shape of 2^62 costs a comparison and no memory. */
#include "server/convert/common.h"

#include "core/base/limits.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_SIZE_DEFAULT 100
#define PAGE_SIZE_MAX 1000

abl_code abl_convert_name(const char *field, const char *text, size_t bytes_max,
                          abl_status *ret_status) {
    size_t bytes = strlen(text);
    if (bytes == 0 || bytes > bytes_max) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "NAME_INVALID",
                        "%s has %zu bytes; it must have 1 to %zu", field, bytes, bytes_max);
    }
    for (const char *at = text; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "NAME_INVALID",
                            "%s has a control character at byte %zu", field, (size_t)(at - text));
        }
    }
    return ABL_CODE_OK;
}

abl_code abl_convert_page(int32_t page_size, const char *page_token, abl_page *ret_page,
                          abl_status *ret_status) {
    if (page_size < 0 || page_size > PAGE_SIZE_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PAGE_SIZE_INVALID",
                        "page_size is %d; it must be 0 (for %d) to %d", page_size,
                        PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX);
    }
    uint64_t after = 0;
    for (const char *at = page_token; *at != '\0'; at++) {
        if (*at < '0' || *at > '9' || at - page_token > 18) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PAGE_TOKEN_INVALID",
                            "page_token is not the next_page_token of an earlier answer");
        }
        after = after * 10 + (uint64_t)(*at - '0');
    }
    *ret_page = (abl_page){page_size == 0 ? PAGE_SIZE_DEFAULT : (size_t)page_size, after};
    return ABL_CODE_OK;
}

size_t abl_convert_dtype_bytes(Ablate__V1__DType dtype) {
    switch ((int)dtype) {
    case ABLATE__V1__DTYPE__DTYPE_FLOAT32:
    case ABLATE__V1__DTYPE__DTYPE_INT32:
        return 4;
    case ABLATE__V1__DTYPE__DTYPE_FLOAT16:
    case ABLATE__V1__DTYPE__DTYPE_BFLOAT16:
        return 2;
    default:
        return 0;
    }
}

Ablate__V1__DType abl_convert_dtype(abl_dtype dtype) {
    switch (dtype) {
    case ABL_DTYPE_F16:
        return ABLATE__V1__DTYPE__DTYPE_FLOAT16;
    case ABL_DTYPE_BF16:
        return ABLATE__V1__DTYPE__DTYPE_BFLOAT16;
    case ABL_DTYPE_I32:
        return ABLATE__V1__DTYPE__DTYPE_INT32;
    case ABL_DTYPE_F32:
    case ABL_DTYPE_F64:
    case ABL_DTYPE_I64:
    case ABL_DTYPE_BOOL:
    default:
        return ABLATE__V1__DTYPE__DTYPE_FLOAT32; /* the others never leave core */
    }
}

abl_code abl_convert_weight_dtype(Ablate__V1__DType dtype, abl_dtype *ret_dtype,
                                  abl_status *ret_status) {
    switch ((int)dtype) {
    case ABLATE__V1__DTYPE__DTYPE_UNSPECIFIED:
    case ABLATE__V1__DTYPE__DTYPE_FLOAT32:
        *ret_dtype = ABL_DTYPE_F32;
        return ABL_CODE_OK;
    case ABLATE__V1__DTYPE__DTYPE_FLOAT16:
        *ret_dtype = ABL_DTYPE_F16;
        return ABL_CODE_OK;
    case ABLATE__V1__DTYPE__DTYPE_BFLOAT16:
        *ret_dtype = ABL_DTYPE_BF16;
        return ABL_CODE_OK;
    default:
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_DTYPE",
                        "dtype is int32; weights are float32, float16 or bfloat16");
    }
}

abl_code abl_convert_tensor_check(const char *field, const Ablate__V1__Tensor *tensor,
                                  int64_t *ret_count, abl_status *ret_status) {
    size_t element_bytes = abl_convert_dtype_bytes(tensor->dtype);
    if (element_bytes == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_DTYPE",
                        "%s.dtype is not set", field);
    }
    if (tensor->n_shape > ABL_TENSOR_RANK_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_SHAPE",
                        "%s.shape has %zu dimensions; at most %d are taken", field, tensor->n_shape,
                        ABL_TENSOR_RANK_MAX);
    }
    int64_t count = 1;
    for (size_t i = 0; i < tensor->n_shape; i++) {
        if (tensor->shape[i] < 0 || __builtin_mul_overflow(count, tensor->shape[i], &count)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_SHAPE",
                            "%s.shape[%zu] is %lld, which no tensor can have", field, i,
                            (long long)tensor->shape[i]);
        }
    }
    size_t bytes = 0;
    if (__builtin_mul_overflow((size_t)count, element_bytes, &bytes) || bytes != tensor->data.len) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_BYTES",
                        "%s.data has %zu bytes; its shape and dtype need %lld elements of %zu",
                        field, tensor->data.len, (long long)count, element_bytes);
    }
    *ret_count = count;
    return ABL_CODE_OK;
}

static abl_code check_batch(const char *field, int64_t batch, abl_status *ret_status) {
    if (batch == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_INVALID",
                        "%s is empty; give at least one prompt", field);
    }
    if (batch > ABL_BATCH_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "BATCH_TOO_BIG",
                        "%s has %lld prompts; a batch has at most %d", field, (long long)batch,
                        ABL_BATCH_MAX);
    }
    return ABL_CODE_OK;
}

static abl_code convert_tokens(const char *field, const Ablate__V1__Tensor *tensor,
                               abl_arena *arena, abl_prompts *ret_prompts, abl_status *ret_status) {
    int64_t count = 0;
    abl_code code = abl_convert_tensor_check(field, tensor, &count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (tensor->dtype != ABLATE__V1__DTYPE__DTYPE_INT32) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_DTYPE",
                        "%s.tokens must be int32", field);
    }
    if (tensor->n_shape != 2) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TENSOR_SHAPE",
                        "%s.tokens has %zu dimensions; it must have two, [batch, seq]", field,
                        tensor->n_shape);
    }
    code = check_batch(field, tensor->shape[0], ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (tensor->shape[1] == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "SEQ_INVALID",
                        "%s.tokens has no positions; give at least one token a prompt", field);
    }
    if (tensor->shape[1] > ABL_SEQ_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "SEQ_TOO_LONG",
                        "%s.tokens has %lld positions; at most %d are taken", field,
                        (long long)tensor->shape[1], ABL_SEQ_MAX);
    }
    int32_t *tokens = abl_arena_alloc(arena, tensor->data.len);
    if (tokens == NULL) {
        return abl_fail_oom(ret_status);
    }
    memcpy(tokens, tensor->data.data, tensor->data.len);
    *ret_prompts =
        (abl_prompts){.tokens = tokens, .batch = tensor->shape[0], .seq = tensor->shape[1]};
    return ABL_CODE_OK;
}

abl_code abl_convert_prompts(const char *field, const Ablate__V1__Prompts *message,
                             abl_arena *arena, abl_prompts *ret_prompts, abl_status *ret_status) {
    if (message != NULL && message->input_case == ABLATE__V1__PROMPTS__INPUT_TOKENS) {
        return convert_tokens(field, message->tokens, arena, ret_prompts, ret_status);
    }
    if (message != NULL && message->input_case == ABLATE__V1__PROMPTS__INPUT_TEXT) {
        abl_code code = check_batch(field, (int64_t)message->text->n_prompts, ret_status);
        if (code == ABL_CODE_OK) {
            *ret_prompts = (abl_prompts){.batch = (int64_t)message->text->n_prompts,
                                         .texts = message->text->prompts,
                                         .bos = message->text->bos};
        }
        return code;
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PROMPTS_MISSING",
                    "%s is missing; give tokens or text", field);
}

abl_out_slice abl_convert_out_slice(Ablate__V1__OutSlice slice, abl_out_slice unspecified) {
    switch ((int)slice) {
    case ABLATE__V1__OUT_SLICE__OUT_SLICE_ALL:
        return ABL_OUT_SLICE_ALL;
    case ABLATE__V1__OUT_SLICE__OUT_SLICE_LAST_SEQ:
        return ABL_OUT_SLICE_LAST;
    case ABLATE__V1__OUT_SLICE__OUT_SLICE_NOT_FIRST_SEQ:
        return ABL_OUT_SLICE_NOT_FIRST;
    default:
        return unspecified;
    }
}

Ablate__V1__OutSlice abl_convert_out_slice_back(abl_out_slice slice) {
    switch (slice) {
    case ABL_OUT_SLICE_ALL:
        return ABLATE__V1__OUT_SLICE__OUT_SLICE_ALL;
    case ABL_OUT_SLICE_NOT_FIRST:
        return ABLATE__V1__OUT_SLICE__OUT_SLICE_NOT_FIRST_SEQ;
    case ABL_OUT_SLICE_LAST:
    default:
        return ABLATE__V1__OUT_SLICE__OUT_SLICE_LAST_SEQ;
    }
}

abl_ablation abl_convert_ablation_type(Ablate__V1__AblationType type) {
    return type == ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_UNSPECIFIED
               ? ABL_ABLATION_RESAMPLE
               : (abl_ablation)(type - 1); /* in the order of the core's */
}

abl_patch_type abl_convert_patch_type(Ablate__V1__PatchType type) {
    return type == ABLATE__V1__PATCH_TYPE__PATCH_TYPE_EDGE_PATCH ? ABL_PATCH_EDGE : ABL_PATCH_TREE;
}

void abl_convert_chunk(const abl_chunk_source *tensor, size_t offset_bytes, void *shape_scratch,
                       Ablate__V1__TensorChunk *ret_chunk, size_t *ret_next_offset) {
    size_t room = tensor->bytes - offset_bytes;
    size_t bytes = room < ABL_CHUNK_BYTES ? room : ABL_CHUNK_BYTES;
    ablate__v1__tensor_chunk__init(ret_chunk);
    /* protobuf-c's messages have no const; packing reads them only */
    memcpy(&ret_chunk->name, &tensor->name, sizeof tensor->name);
    memcpy(shape_scratch, tensor->shape, tensor->rank * sizeof tensor->shape[0]);
    const void *data = (const char *)tensor->data + offset_bytes;
    memcpy(&ret_chunk->data.data, &data, sizeof data);
    ret_chunk->data.len = bytes;
    ret_chunk->dtype = tensor->dtype;
    ret_chunk->shape = shape_scratch;
    ret_chunk->n_shape = tensor->rank;
    ret_chunk->offset_bytes = (int64_t)offset_bytes;
    ret_chunk->is_last = offset_bytes + bytes == tensor->bytes;
    *ret_next_offset = offset_bytes + bytes;
}

Ablate__V1__WeightProcessing abl_convert_processing(abl_model_processing processing) {
    Ablate__V1__WeightProcessing message = ABLATE__V1__WEIGHT_PROCESSING__INIT;
    message.fold_ln = processing.fold_norm;
    message.center_writing_weights = processing.center_writing;
    message.center_unembed = processing.center_unembed;
    message.fold_value_biases = processing.fold_value_biases;
    return message;
}

abl_model_processing abl_convert_processing_back(const Ablate__V1__WeightProcessing *message) {
    if (message == NULL) {
        return abl_model_processing_hf();
    }
    return (abl_model_processing){.fold_norm = message->fold_ln != 0,
                                  .center_writing = message->center_writing_weights != 0,
                                  .center_unembed = message->center_unembed != 0,
                                  .fold_value_biases = message->fold_value_biases != 0};
}

void abl_convert_device(abl_device device, char *text, size_t text_bytes) {
    if (device.type == ABL_DEVICE_CUDA) {
        (void)snprintf(text, text_bytes, "cuda:%d", device.index);
    } else {
        (void)snprintf(text, text_bytes, "cpu");
    }
}

bool abl_convert_sha256(const void *data, size_t bytes, char ret_text[ABL_SHA256_TEXT_BYTES]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned count = 0;
    bool ok = EVP_Digest(data, bytes, digest, &count, EVP_sha256(), NULL) == 1;
    for (unsigned i = 0; ok && i < (ABL_SHA256_TEXT_BYTES - 1) / 2; i++) {
        (void)snprintf(ret_text + 2 * (size_t)i, 3, "%02x", digest[i]);
    }
    return ok;
}

char *abl_convert_text(abl_arena *arena, const char *text) {
    static char empty[1];
    char *copy = abl_arena_strndup(arena, text, strlen(text));
    return copy == NULL ? empty : copy;
}
