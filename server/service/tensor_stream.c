/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors stay on the device and come to the host one by one, so a slow client holds one tensor of
 * host memory and the loop never copies from a device. */
#include "server/service/tensor_stream.h"

#include "core/base/mem.h"

void abl_tensor_stream_end(abl_tensor_stream *stream) {
    abl_free(stream->host);
    stream->host = NULL;
    stream->view.data = NULL;
}

bool abl_tensor_stream_next(abl_tensor_stream *stream, Ablate__V1__TensorChunk *ret_chunk) {
    if (stream->host == NULL || (stream->offset > 0 && stream->offset == stream->view.bytes)) {
        abl_tensor_stream_end(stream);
        return false;
    }
    abl_convert_chunk(&stream->view, stream->offset, stream->scratch, ret_chunk, &stream->offset);
    return true;
}

bool abl_tensor_stream_more(const abl_tensor_stream *stream) {
    return stream->next < stream->count;
}

void abl_tensor_stream_fetch(abl_tensor_stream *stream, abl_device device, abl_status *ret_status) {
    abl_cache_entry *entry = stream->entries[stream->next++];
    uint64_t bytes = abl_tensor_bytes(entry->tensor);
    stream->host = abl_malloc((size_t)bytes);
    abl_scope *scope = abl_scope_create(device);
    if (stream->host == NULL || scope == NULL) {
        (void)abl_fail_oom(ret_status);
    } else {
        abl_tensor_to_host(scope, entry->tensor, stream->host, (size_t)bytes);
        (void)!abl_scope_status(scope, ret_status);
    }
    abl_scope_destroy(scope);
    stream->view = (abl_chunk_source){.name = entry->name,
                                      .dtype = abl_convert_dtype(abl_tensor_dtype(entry->tensor)),
                                      .shape = stream->shape,
                                      .rank = (size_t)abl_tensor_rank(entry->tensor),
                                      .data = stream->host,
                                      .bytes = (size_t)bytes};
    for (size_t i = 0; i < stream->view.rank; i++) {
        stream->shape[i] = abl_tensor_size(entry->tensor, (int)i);
    }
    stream->offset = 0;
    if (stream->release) {
        abl_tensor_release(entry->tensor);
        entry->tensor = NULL;
    }
}
