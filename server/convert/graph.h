/* graph.h -- graphs: options to core, nodes and edges to messages.
 *
 * OWNERSHIP  Messages are built in the arena; they borrow names from the graph.
 * THREADS    The loop thread.
 * ERRORS     Fallible calls return a code, fill *ret_status; NULL elsewhere: no memory.
 */
#ifndef ABLATE_SERVER_CONVERT_GRAPH_H
#define ABLATE_SERVER_CONVERT_GRAPH_H

#include "ablate/v1/graph.pb-c.h"
#include "server/convert/common.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

/* `message` may be NULL: all defaults.
 *   INVALID_ARGUMENT  GRAPH_OPTIONS  an unknown kind, a seq_len outside 0..n_ctx, options of heads'
 *                                    inputs for a simple graph */
ABL_MUST_CHECK abl_code abl_convert_graph_options(const Ablate__V1__GraphOptions *message,
                                                  const abl_model_config *config,
                                                  abl_graph_options *ret_options,
                                                  abl_out_slice *ret_out_slice,
                                                  abl_status *ret_status);
ABL_MUST_CHECK Ablate__V1__GraphOptions *
abl_convert_graph_options_back(abl_arena *arena, const abl_resident_graph *graph);

/*   INVALID_ARGUMENT  IDLE_TIMEOUT_INVALID  neither 0 nor a second to a day */
ABL_MUST_CHECK abl_code abl_convert_idle_timeout(int64_t idle_timeout_ms, abl_status *ret_status);

ABL_MUST_CHECK Ablate__V1__Graph *abl_convert_graph(abl_arena *arena,
                                                    const abl_resident_graph *graph);

/* AutoCircuit's wrappers; NULL: no memory. */
ABL_MUST_CHECK Ablate__V1__Wrapper **abl_convert_wrappers(abl_arena *arena, const abl_graph *graph,
                                                          size_t *ret_count);

abl_edge_dialect abl_convert_dialect(Ablate__V1__EdgeDialect dialect);

/* The text of an edge's name without a position, and its number for a message. */
ABL_MUST_CHECK char *abl_convert_edge_name(abl_arena *arena, const abl_graph *graph, abl_edge edge,
                                           abl_edge_dialect dialect);
int32_t abl_convert_seq_number(const abl_graph *graph, abl_edge edge);

/* An edge by name and seq_number (0: every position). The name may end in "[position]", too.
 * ret_edge->seq is ABL_SEQ_EVERY for every position, never in a graph without positions.
 *   INVALID_ARGUMENT  EDGE_NAME_MALFORMED, EDGE_NOT_IN_GRAPH, EDGE_POSITION_INVALID
 *   NOT_FOUND         NODE_UNKNOWN */
ABL_MUST_CHECK abl_code abl_convert_edge(const abl_graph *graph, const char *name,
                                         int32_t seq_number, abl_edge *ret_edge,
                                         abl_status *ret_status);

ABL_END_DECLS
#endif
