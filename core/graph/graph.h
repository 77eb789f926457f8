/* graph.h -- the edges of a model: who writes, who reads, and the one order that all of it has.
 *
 * A source is a tensor that some part of the model adds to the residual stream; a destination is
 * the private copy of the stream that some part reads. An edge joins a source to a destination
 * whose layer is above its own. In a simple (unfactorized) graph the nodes are the stream itself
 * between sublayers, and an edge joins neighbours only:
 *
 *     Resid Start or Resid Post i - 1, and the heads of block i  -> Resid Mid i
 *     Resid Mid i, and MLP i                                     -> Resid Post i; last: Resid End
 *
 * Blocks without an MLP, or with both halves in parallel, have no Resid Mid.
 *
 * Edge values (masks, scores) live in ONE flat array in canonical order: position, destination (by
 * layer; then q, k, v, mlp; then head), source. So
 *
 *     index = seq * edges_per_position + dest.edge_offset + (src - dest.src_begin)
 *
 * and the values of one module (AutoCircuit's name for a hook point with destinations) are a
 * block [heads, sources] inside each position: scores.h reads and writes them as such.
 *
 * OWNERSHIP  abl_graph_create() hands the graph to the caller; abl_graph_destroy() ends it and all
 *            names and nodes borrowed from it.
 * THREADS    Immutable after create: any thread may read.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_GRAPH_GRAPH_H
#define ABLATE_CORE_GRAPH_GRAPH_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_graph abl_graph;

typedef enum abl_gqa_mode {
    ABL_GQA_NATIVE = 0, /* one K and one V destination a key/value head */
    ABL_GQA_EXPANDED,   /* one a query head, as tools that ungroup the weights see it */
} abl_gqa_mode;

typedef struct abl_graph_options {
    int32_t layer_count;    /* blocks of the model */
    int32_t head_count;     /* query heads of a block */
    int32_t kv_head_count;  /* key/value heads; equal to head_count without grouping */
    bool parallel_attn_mlp; /* attention and MLP of a block share a layer */
    bool attn_only;         /* blocks without an MLP */
    bool simple;            /* node ablation (AutoCircuit's factorized=False) */
    bool joined_qkv;        /* AutoCircuit's separate_qkv=False: one destination a head */
    int32_t seq_len;        /* 0: one value for all positions; else one a position */
    abl_gqa_mode gqa;       /* no effect without grouping, or with joined_qkv (always expanded) */
} abl_graph_options;

typedef enum abl_node_kind {
    ABL_NODE_RESID_START = 0, /* source */
    ABL_NODE_HEAD,            /* source, and destination of role Q, K, V or QKV */
    ABL_NODE_MLP,             /* source and destination */
    ABL_NODE_RESID_END,       /* destination */
    ABL_NODE_RESID_MID,       /* source and destination, in simple graphs */
    ABL_NODE_RESID_POST,      /* likewise */
} abl_node_kind;

typedef enum abl_dest_role {
    ABL_DEST_Q = 0,
    ABL_DEST_K,
    ABL_DEST_V,
    ABL_DEST_QKV, /* joined_qkv */
    ABL_DEST_MLP,
    ABL_DEST_END,
    ABL_DEST_MID, /* in simple graphs */
    ABL_DEST_POST,
} abl_dest_role;

typedef enum abl_edge_dialect {
    ABL_DIALECT_AUTOCIRCUIT = 0, /* A9.9->A11.10.Q    Resid Start  MLP 3  Resid End */
    ABL_DIALECT_MIB, /* a9.h9->a11.h10<q> input        m3     logits    (EAP, EAP-IG, MIB) */
} abl_edge_dialect;

typedef struct abl_graph_src {
    const char *name;        /* "A9.9" */
    const char *mib_name;    /* "a9.h9"; NULL for Resid Mid and Resid Post, which have none */
    const char *module_name; /* "blocks.9.attn.hook_result" */
    abl_node_kind kind;
    int32_t index; /* AutoCircuit's src_idx */
    int32_t layer; /* AutoCircuit's layer: Resid Start 0, then attention and MLP count up */
    int32_t block; /* -1 for Resid Start */
    int32_t head;  /* -1 when the node has no heads */
} abl_graph_src;

typedef struct abl_graph_dest {
    const char *name;     /* "A11.10.Q" */
    const char *mib_name; /* "a11.h10<q>"; NULL for Resid Mid and Resid Post */
    abl_node_kind kind;
    abl_dest_role role;
    int32_t index;
    int32_t module; /* index for abl_graph_module_at() */
    int32_t layer;
    int32_t block;     /* of the reader, or of the stream's node; layer_count for Resid End */
    int32_t head;      /* of the reader: a key/value head for K and V of a native graph; -1: none */
    int32_t src_begin; /* AutoCircuit's min_src_idx; 0 in factorized graphs */
    int32_t src_count;
    int64_t edge_offset; /* of its first edge, within a position */
} abl_graph_dest;

typedef struct abl_graph_module {
    const char *name; /* "blocks.11.hook_q_input": the key of AutoCircuit's PruneScores */
    abl_dest_role role;
    int32_t index;
    int32_t block;
    int32_t dest_begin;
    int32_t dest_count;
    bool has_heads; /* shape [seq?, heads, sources], or [seq?, sources] */
    int32_t src_begin;
    int32_t src_count;
    int64_t edge_offset; /* of its first edge, within a position */
} abl_graph_module;

#define ABL_SEQ_EVERY (-1) /* an edge named without a position, in a graph that has positions */

typedef struct abl_edge {
    int32_t seq; /* 0 in a graph without positions */
    int32_t dest;
    int32_t src;
} abl_edge;

/*   INVALID_ARGUMENT    GRAPH_OPTIONS_INVALID  a count below 1, heads not a multiple of kv heads
 *   RESOURCE_EXHAUSTED  GRAPH_TOO_BIG          more edges than ABL_EDGE_COUNT_MAX */
ABL_MUST_CHECK abl_code abl_graph_create(const abl_graph_options *options, abl_graph **ret_graph,
                                         abl_status *ret_status);
void abl_graph_destroy(abl_graph *graph); /* NULL is allowed */

const abl_graph_options *abl_graph_options_of(const abl_graph *graph);
/* Whether two graphs have the same edges, so that values over one are values over the other. */
bool abl_graph_same_edges(const abl_graph *a, const abl_graph *b);
int64_t abl_graph_bytes(const abl_graph *graph); /* resident, host */

int32_t abl_graph_src_count(const abl_graph *graph);
int32_t abl_graph_dest_count(const abl_graph *graph);
int32_t abl_graph_module_count(const abl_graph *graph);
int32_t abl_graph_seq_count(const abl_graph *graph); /* 1 without positions, else seq_len */
int64_t abl_graph_edges_per_position(const abl_graph *graph);
int64_t abl_graph_edge_count(const abl_graph *graph); /* seq_count * edges_per_position */

/* Borrowed; the index must be in range. */
const abl_graph_src *abl_graph_src_at(const abl_graph *graph, int32_t index);
const abl_graph_dest *abl_graph_dest_at(const abl_graph *graph, int32_t index);
const abl_graph_module *abl_graph_module_at(const abl_graph *graph, int32_t index);

/* The first source of a block: its head 0; its other heads and its MLP follow. */
int32_t abl_graph_block_src(const abl_graph *graph, int32_t block);
/* A block's q module (or joined qkv), or its MLP's; NULL for the MLP of a block without one. */
const abl_graph_module *abl_graph_block_module(const abl_graph *graph, int32_t block, bool mlp);

/* The edge of a flat index, which must be in range; and back (seq must not be ABL_SEQ_EVERY). */
abl_edge abl_graph_edge_at(const abl_graph *graph, int64_t index);
int64_t abl_graph_edge_index(const abl_graph *graph, abl_edge edge);

/* The index of the node with that name, in either dialect.
 *   NOT_FOUND  SOURCE_UNKNOWN, DESTINATION_UNKNOWN, MODULE_UNKNOWN  naming what exists */
ABL_MUST_CHECK abl_code abl_graph_find_src(const abl_graph *graph, const char *name, size_t length,
                                           int32_t *ret_src, abl_status *ret_status);
ABL_MUST_CHECK abl_code abl_graph_find_dest(const abl_graph *graph, const char *name, size_t length,
                                            int32_t *ret_dest, abl_status *ret_status);
ABL_MUST_CHECK abl_code abl_graph_find_module(const abl_graph *graph, const char *name,
                                              size_t length, int32_t *ret_module,
                                              abl_status *ret_status);

/* Checks that a source feeds a destination (indices in range) at that position.
 *   INVALID_ARGUMENT  EDGE_NOT_IN_GRAPH      the source is not below the destination
 *   INVALID_ARGUMENT  EDGE_POSITION_INVALID  seq outside the graph's positions */
ABL_MUST_CHECK abl_code abl_graph_check_edge(const abl_graph *graph, abl_edge edge,
                                             abl_status *ret_status);

/* Parses "SRC->DEST" in either dialect, optionally followed by "[position]". In a graph with
 * positions a name without one means every position: seq is ABL_SEQ_EVERY.
 *   INVALID_ARGUMENT  EDGE_NAME_MALFORMED, EDGE_NOT_IN_GRAPH, EDGE_POSITION_INVALID
 *   NOT_FOUND         SOURCE_UNKNOWN, DESTINATION_UNKNOWN */
ABL_MUST_CHECK abl_code abl_graph_parse_edge(const abl_graph *graph, const char *name,
                                             size_t length, abl_edge *ret_edge,
                                             abl_status *ret_status);

/* Whether the edges have names in that dialect: those of a simple graph are AutoCircuit's alone. */
bool abl_graph_has_dialect(const abl_graph *graph, abl_edge_dialect dialect);

/* Writes the edge's name, NUL terminated, "[position]" included in a graph with positions unless
 * seq is ABL_SEQ_EVERY; parse gives the same edge back. Edges of simple graphs have no name in the
 * MIB dialect (abl_graph_has_dialect()) and get AutoCircuit's. Truncates like snprintf() and
 * returns the length that it wanted. ABL_NAME_BYTES_MAX + 1 bytes always do. */
size_t abl_graph_format_edge(const abl_graph *graph, abl_edge edge, abl_edge_dialect dialect,
                             char *buffer, size_t buffer_bytes);

ABL_END_DECLS
#endif
