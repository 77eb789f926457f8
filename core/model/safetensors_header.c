/* SPDX-License-Identifier: Apache-2.0
 *
 * One file's header, checked completely:
 *
 *   {"__metadata__": {text: text}, NAME: {"dtype", "shape", "data_offsets": [begin, end]}, ...}
 *
 * Every number comes from outside, so each is bounded before it is used: a shape's product is
 * taken with overflow checks, offsets are compared with the data before a pointer is made of them,
 * and a tensor's span must be what its dtype and shape need. Last, with the tensors sorted by
 * offset, each must begin where the one before ended, and the last must end the file: bytes that
 * two tensors share, or that none has, are how files hide things (and how broken writers show). */
#include "core/model/safetensors_set.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/json/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INVALID ABL_SAFETENSORS_INVALID
#define TOO_BIG ABL_SAFETENSORS_TOO_BIG

typedef abl_safetensors_shard shard;
typedef abl_safetensors_entry tensor_entry;

static const char *const dtype_names[] = {
#define X(name, bytes) #name,
    ABL_SAFETENSORS_DTYPE_MAP(X)
#undef X
};
static const size_t dtype_bytes[] = {
#define X(name, bytes) bytes,
    ABL_SAFETENSORS_DTYPE_MAP(X)
#undef X
};

static abl_code header_find(const shard *file, size_t *ret_header_bytes, abl_status *ret_status);
static abl_code reserve(abl_safetensors *set, const shard *file, size_t more,
                        abl_status *ret_status);
static abl_code check_metadata(const shard *file, json_t *metadata, abl_status *ret_status);
static abl_code parse_tensor(abl_safetensors *set, const shard *file, const char *name,
                             const json_t *value, const uint8_t *data, uint64_t data_bytes,
                             tensor_entry *ret_entry, abl_status *ret_status);
static int by_offset(const void *left, const void *right);
static abl_code check_layout(const shard *file, const tensor_entry *entries, size_t count,
                             uint64_t data_bytes, abl_status *ret_status);

abl_code abl_safetensors_parse_shard(abl_safetensors *set, size_t shard_index,
                                     abl_status *ret_status) {
    const shard *file = &set->shards[shard_index];
    size_t header_bytes = 0;
    abl_code code = header_find(file, &header_bytes, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    ABL_CLEANUP(abl_json_decrefp) json_t *header = NULL;
    code = abl_json_parse((const char *)file->bytes + 8, header_bytes, file->path, INVALID, &header,
                          ret_status);
    if (code == ABL_CODE_OK) {
        code = reserve(set, file, json_object_size(header), ret_status);
    }
    const uint8_t *data = file->bytes + 8 + header_bytes;
    uint64_t data_bytes = file->bytes_count - 8 - header_bytes;
    tensor_entry *first = (set->entries == NULL) ? NULL : set->entries + set->entry_count;
    size_t count = 0;
    for (void *i = json_object_iter(header); code == ABL_CODE_OK && i != NULL;
         i = json_object_iter_next(header, i)) {
        const char *name = json_object_iter_key(i);
        json_t *value = json_object_iter_value(i);
        if (strcmp(name, "__metadata__") == 0) {
            code = check_metadata(file, value, ret_status);
        } else {
            code =
                parse_tensor(set, file, name, value, data, data_bytes, &first[count], ret_status);
            count += (code == ABL_CODE_OK);
        }
    }
    if (code == ABL_CODE_OK && count > 0) {
        qsort(first, count, sizeof *first, by_offset);
    }
    if (code == ABL_CODE_OK) {
        code = check_layout(file, first, count, data_bytes, ret_status);
    }
    if (code == ABL_CODE_OK) {
        set->entry_count += count;
        set->bytes += data_bytes;
    }
    return code;
}

const char *abl_safetensors_dtype_name(abl_safetensors_dtype dtype) {
    ABL_ASSERT((size_t)dtype < ABL_COUNT_OF(dtype_names));
    return dtype_names[dtype];
}

size_t abl_safetensors_dtype_bytes(abl_safetensors_dtype dtype) {
    ABL_ASSERT((size_t)dtype < ABL_COUNT_OF(dtype_bytes));
    return dtype_bytes[dtype];
}

const char *abl_safetensors_shape_text(const abl_safetensors_tensor *tensor, char *text,
                                       size_t text_bytes) {
    ABL_ASSERT(text_bytes > 0);
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i <= tensor->rank; i++) {
        int wrote = 0;
        if (i == tensor->rank) {
            wrote = snprintf(text + used, text_bytes - used, "%s]", (i == 0) ? "[" : "");
        } else {
            wrote = snprintf(text + used, text_bytes - used, "%s%lld", (i == 0) ? "[" : ", ",
                             (long long)tensor->shape[i]);
        }
        if (wrote < 0 || (size_t)wrote >= text_bytes - used) {
            break;
        }
        used += (size_t)wrote;
    }
    return text;
}

/* Reads element `index` of a list of non-negative integers. */
static bool list_get_u64(const json_t *list, size_t index, uint64_t *ret_value) {
    const json_t *item = json_array_get(list, index);
    if (!json_is_integer(item) || json_integer_value(item) < 0) {
        return false;
    }
    *ret_value = (uint64_t)json_integer_value(item);
    return true;
}

static bool dtype_parse(const char *text, abl_safetensors_dtype *ret_dtype) {
    for (size_t i = 0; i < ABL_COUNT_OF(dtype_names); i++) {
        if (strcmp(text, dtype_names[i]) == 0) {
            *ret_dtype = (abl_safetensors_dtype)i;
            return true;
        }
    }
    return false;
}

static abl_code parse_dtype(const json_t *value, abl_safetensors_tensor *tensor,
                            abl_status *ret_status) {
    const json_t *dtype = json_object_get(value, "dtype");
    if (!json_is_string(dtype)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': dtype must be a string, not %s", tensor->file,
                        tensor->name, abl_json_type_text(dtype));
    }
    if (!dtype_parse(json_string_value(dtype), &tensor->dtype)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': dtype '%.32s' is not supported; supported are F32, F16, "
                        "BF16, F64, I8 to I64, U8 and BOOL",
                        tensor->file, tensor->name, json_string_value(dtype));
    }
    return ABL_CODE_OK;
}

static abl_code parse_shape(const json_t *value, abl_safetensors_tensor *tensor,
                            abl_status *ret_status) {
    const json_t *shape = json_object_get(value, "shape");
    if (!json_is_array(shape)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': shape must be a list, not %s", tensor->file, tensor->name,
                        abl_json_type_text(shape));
    }
    size_t rank = json_array_size(shape);
    if (rank > ABL_TENSOR_RANK_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, TOO_BIG,
                        "%s: tensor '%s': shape has %zu dimensions; the limit is %d", tensor->file,
                        tensor->name, rank, ABL_TENSOR_RANK_MAX);
    }
    tensor->rank = (int)rank;
    tensor->elements = 1;
    bool overflow = false;
    bool empty = false; /* a zero makes the product 0 wherever it stands, overflow or not */
    for (size_t i = 0; i < rank; i++) {
        uint64_t size = 0;
        if (!list_get_u64(shape, i, &size)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: tensor '%s': shape[%zu] is not an integer of 0 or more",
                            tensor->file, tensor->name, i);
        }
        tensor->shape[i] = (int64_t)size;
        empty = empty || size == 0;
        overflow = __builtin_mul_overflow(tensor->elements, size, &tensor->elements) || overflow;
    }
    uint64_t bytes = 0;
    overflow =
        __builtin_mul_overflow(tensor->elements, dtype_bytes[tensor->dtype], &bytes) || overflow;
    if (overflow || bytes > INT64_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': the product of its shape%s overflows 63 bits",
                        tensor->file, tensor->name, empty ? " (with a zero in it)" : "");
    }
    tensor->bytes = (size_t)bytes;
    return ABL_CODE_OK;
}

/* Checks data_offsets against the data's size and the shape's; fills data and begin. */
static abl_code parse_offsets(const json_t *value, const uint8_t *data, uint64_t data_bytes,
                              tensor_entry *entry, abl_status *ret_status) {
    abl_safetensors_tensor *tensor = &entry->tensor;
    const json_t *offsets = json_object_get(value, "data_offsets");
    uint64_t begin = 0;
    uint64_t end = 0;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !list_get_u64(offsets, 0, &begin) || !list_get_u64(offsets, 1, &end)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': data_offsets must be two integers of 0 or more",
                        tensor->file, tensor->name);
    }
    if (begin > end || end > data_bytes) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': data_offsets [%llu, %llu] lie outside of the file's "
                        "%llu bytes of data; was it cut short?",
                        tensor->file, tensor->name, (unsigned long long)begin,
                        (unsigned long long)end, (unsigned long long)data_bytes);
    }
    if (end - begin != tensor->bytes) {
        char shape[128];
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s': %s %s needs %zu bytes; its data_offsets span %llu",
                        tensor->file, tensor->name, dtype_names[tensor->dtype],
                        abl_safetensors_shape_text(tensor, shape, sizeof shape), tensor->bytes,
                        (unsigned long long)(end - begin));
    }
    tensor->data = data + begin;
    entry->begin = begin;
    return ABL_CODE_OK;
}

static abl_code parse_tensor(abl_safetensors *set, const shard *file, const char *name,
                             const json_t *value, const uint8_t *data, uint64_t data_bytes,
                             tensor_entry *ret_entry, abl_status *ret_status) {
    size_t length = strlen(name);
    if (length == 0 || length > ABL_NAME_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, TOO_BIG,
                        "%s: a tensor's name has %zu bytes; it must have 1 to %d: '%.80s'",
                        file->path, length, ABL_NAME_BYTES_MAX, name);
    }
    tensor_entry entry = {.tensor.file = file->path};
    entry.tensor.name = abl_arena_strndup(set->arena, name, length);
    if (entry.tensor.name == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (!json_is_object(value) || json_object_size(value) != 3) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: tensor '%s' must be an object of dtype, shape and data_offsets",
                        file->path, name);
    }
    abl_code code = parse_dtype(value, &entry.tensor, ret_status);
    if (code == ABL_CODE_OK) {
        code = parse_shape(value, &entry.tensor, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = parse_offsets(value, data, data_bytes, &entry, ret_status);
    }
    if (code == ABL_CODE_OK) {
        *ret_entry = entry;
    }
    return code;
}

static abl_code check_metadata(const shard *file, json_t *metadata, abl_status *ret_status) {
    if (!json_is_object(metadata)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: __metadata__ must be an object of strings, not %s", file->path,
                        abl_json_type_text(metadata));
    }
    for (void *i = json_object_iter(metadata); i != NULL; i = json_object_iter_next(metadata, i)) {
        if (!json_is_string(json_object_iter_value(i))) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: __metadata__ key '%.80s' must be a string, not %s", file->path,
                            json_object_iter_key(i), abl_json_type_text(json_object_iter_value(i)));
        }
    }
    return ABL_CODE_OK;
}

static int by_offset(const void *left, const void *right) {
    const tensor_entry *a = left;
    const tensor_entry *b = right;
    if (a->begin != b->begin) {
        return (a->begin < b->begin) ? -1 : 1;
    }
    return (a->tensor.bytes > b->tensor.bytes) - (a->tensor.bytes < b->tensor.bytes);
}

/* The file's tensors, sorted by offset, must fill its data exactly. */
static abl_code check_layout(const shard *file, const tensor_entry *entries, size_t count,
                             uint64_t data_bytes, abl_status *ret_status) {
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].begin != end) {
            bool overlap = entries[i].begin < end;
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: tensor '%s' begins at byte %llu of the data, but '%s' ends at "
                            "%llu: %s",
                            file->path, entries[i].tensor.name,
                            (unsigned long long)entries[i].begin,
                            (i == 0) ? "the header" : entries[i - 1].tensor.name,
                            (unsigned long long)end, overlap ? "they overlap" : "there is a gap");
        }
        end += entries[i].tensor.bytes;
    }
    if (end != data_bytes) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: the tensors end at byte %llu of the data, but the file has %llu",
                        file->path, (unsigned long long)end, (unsigned long long)data_bytes);
    }
    return ABL_CODE_OK;
}

static abl_code reserve(abl_safetensors *set, const shard *file, size_t more,
                        abl_status *ret_status) {
    if (more > ABL_TENSOR_COUNT_MAX - set->entry_count) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, TOO_BIG,
                        "%s: more than %d tensors in the model", file->path, ABL_TENSOR_COUNT_MAX);
    }
    size_t needed = set->entry_count + more;
    if (needed > set->entry_capacity) {
        tensor_entry *entries = abl_realloc_array(set->entries, needed, sizeof *entries);
        if (entries == NULL) {
            return abl_fail_oom(ret_status);
        }
        set->entries = entries;
        set->entry_capacity = needed;
    }
    return ABL_CODE_OK;
}

/* Where the header is: checks the length field against the file. */
static abl_code header_find(const shard *file, size_t *ret_header_bytes, abl_status *ret_status) {
    if (file->bytes_count < 8) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: truncated: %zu bytes, but the header's length alone takes 8",
                        file->path, file->bytes_count);
    }
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) {
        length = length << 8 | file->bytes[i];
    }
    if (length > file->bytes_count - 8) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: truncated: the header claims %llu bytes, but %zu follow its length",
                        file->path, (unsigned long long)length, file->bytes_count - 8);
    }
    if (length > ABL_SAFETENSORS_HEADER_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, TOO_BIG,
                        "%s: the header has %llu bytes; the limit is %d", file->path,
                        (unsigned long long)length, ABL_SAFETENSORS_HEADER_BYTES_MAX);
    }
    if (length == 0 || file->bytes[8] != '{') {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: not a safetensors file: the header must begin with '{'", file->path);
    }
    *ret_header_bytes = (size_t)length;
    return ABL_CODE_OK;
}
