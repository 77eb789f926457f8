/* tensor_stream.h -- captured tensors as chunks: one comes to the host at a time, when the one
 * before has been sent.
 *
 * OWNERSHIP  The stream lives with its rpc and borrows the entries; abl_tensor_stream_end() gives
 *            back the host's copy.
 * THREADS    The loop thread, except abl_tensor_stream_fetch(): the executor of the device.
 * ERRORS     A failure is left in the status given.
 */
#ifndef ABLATE_SERVER_SERVICE_TENSOR_STREAM_H
#define ABLATE_SERVER_SERVICE_TENSOR_STREAM_H

#include "core/model/forward.h"
#include "server/convert/common.h"

ABL_BEGIN_DECLS

typedef struct abl_tensor_stream {
    abl_cache_entry *const *entries; /* in the order in which they are sent */
    size_t count;
    bool release; /* each tensor ends when it has come to the host */
    size_t next;  /* to fetch */
    abl_chunk_source view;
    int64_t shape[ABL_TENSOR_RANK_MAX];
    int64_t scratch[ABL_TENSOR_RANK_MAX];
    size_t offset;
    uint8_t *host;
} abl_tensor_stream;

/* The next piece of what has come to the host; false: all of it was sent. The chunk's data are good
 * until the next call. */
bool abl_tensor_stream_next(abl_tensor_stream *stream, Ablate__V1__TensorChunk *ret_chunk);
/* Whether there is one more tensor to fetch. */
bool abl_tensor_stream_more(const abl_tensor_stream *stream);
/* Brings the next tensor to the host. */
void abl_tensor_stream_fetch(abl_tensor_stream *stream, abl_device device, abl_status *ret_status);
void abl_tensor_stream_end(abl_tensor_stream *stream);

ABL_END_DECLS
#endif
