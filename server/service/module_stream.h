/* module_stream.h -- one value an edge, as a stream of AutoCircuit's module tensors.
 *
 * OWNERSHIP  init takes a reference on `values` and borrows the graph; finish ends both.
 * THREADS    The loop thread.
 */
#ifndef ABLATE_SERVER_SERVICE_MODULE_STREAM_H
#define ABLATE_SERVER_SERVICE_MODULE_STREAM_H

#include "server/convert/common.h"
#include "server/runtime/resident.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

typedef struct abl_module_stream {
    const abl_graph *graph;
    abl_values *values;
    int32_t module; /* the next one */
    float *tensor;  /* of the module that is being sent */
    int64_t shape[4];
    int64_t shape_scratch[ABL_TENSOR_RANK_MAX];
    abl_chunk_source view;
    size_t offset;
} abl_module_stream;

void abl_module_stream_init(abl_module_stream *stream, const abl_graph *graph, abl_values *values);
void abl_module_stream_finish(abl_module_stream *stream); /* also when all zero */

/* Sends the next piece, in the field `chunk` of `response`. True: it was sent, or the rpc failed
 * and is no more; false: there is none.
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK bool abl_module_stream_piece(abl_rpc *rpc, abl_module_stream *stream,
                                            Ablate__V1__TensorChunk **chunk,
                                            const ProtobufCMessage *response);
/* The same for a stream that sends nothing else: the rpc ends behind the last piece. */
void abl_module_stream_send(abl_rpc *rpc, abl_module_stream *stream,
                            Ablate__V1__TensorChunk **chunk, const ProtobufCMessage *response);

ABL_END_DECLS
#endif
