/* SPDX-License-Identifier: Apache-2.0
 *
 * Masks and scores leave the daemon here. One module's tensor is copied out of the flat values at a
 * time, so a slow client holds one module, not another copy of everything. */
#include "server/service/module_stream.h"

#include "core/base/mem.h"
#include "core/graph/scores.h"

#include <string.h>

void abl_module_stream_init(abl_module_stream *stream, const abl_graph *graph, abl_values *values) {
    *stream = (abl_module_stream){.graph = graph, .values = abl_values_ref(values)};
}

void abl_module_stream_finish(abl_module_stream *stream) {
    abl_values_unref(stream->values);
    abl_free(stream->tensor);
    *stream = (abl_module_stream){0};
}

static abl_code take_module(abl_module_stream *stream, abl_status *ret_status) {
    const abl_graph_module *module = abl_graph_module_at(stream->graph, stream->module);
    abl_scores_shape shape = abl_scores_module_shape(stream->graph, stream->module);
    const abl_values *values = stream->values;
    const int64_t edges = abl_graph_edge_count(stream->graph);
    const int64_t rows = values->batch == 0 ? 1 : values->batch;
    const size_t leading = values->batch == 0 ? 0 : 1;
    abl_free(stream->tensor);
    stream->tensor = abl_calloc((size_t)(rows * shape.count), sizeof *stream->tensor);
    if (stream->tensor == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (int64_t row = 0; row < rows; row++) {
        abl_scores_read_module(stream->graph, values->values + row * edges, stream->module,
                               stream->tensor + row * shape.count);
    }
    stream->shape[0] = rows; /* overwritten where there is no leading dimension */
    memcpy(stream->shape + leading, shape.dims, sizeof shape.dims);
    stream->view = (abl_chunk_source){.name = module->name,
                                      .dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32,
                                      .shape = stream->shape,
                                      .rank = leading + (size_t)shape.rank,
                                      .data = stream->tensor,
                                      .bytes = (size_t)(rows * shape.count) * sizeof(float)};
    stream->module++;
    stream->offset = 0;
    return ABL_CODE_OK;
}

/* *ret_end: there is no piece any more. */
static abl_code next(abl_module_stream *stream, Ablate__V1__TensorChunk *ret_chunk, bool *ret_end,
                     abl_status *ret_status) {
    bool between = stream->view.data == NULL || stream->offset >= stream->view.bytes;
    if (between && stream->module == abl_graph_module_count(stream->graph)) {
        *ret_end = true;
        return ABL_CODE_OK;
    }
    if (between) {
        abl_code code = take_module(stream, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    *ret_end = false;
    abl_convert_chunk(&stream->view, stream->offset, stream->shape_scratch, ret_chunk,
                      &stream->offset);
    return ABL_CODE_OK;
}

bool abl_module_stream_piece(abl_rpc *rpc, abl_module_stream *stream,
                             Ablate__V1__TensorChunk **chunk, const ProtobufCMessage *response) {
    Ablate__V1__TensorChunk piece;
    bool end = false;
    if (next(stream, &piece, &end, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
    } else if (!end) {
        *chunk = &piece;
        abl_rpc_send(rpc, response);
        *chunk = NULL;
    }
    return !end;
}

void abl_module_stream_send(abl_rpc *rpc, abl_module_stream *stream,
                            Ablate__V1__TensorChunk **chunk, const ProtobufCMessage *response) {
    if (!abl_module_stream_piece(rpc, stream, chunk, response)) {
        abl_rpc_finish_ok(rpc);
    }
}
