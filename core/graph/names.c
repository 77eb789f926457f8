// SPDX-License-Identifier: Apache-2.0
/* Node and edge names in two dialects, parsed by grammar:
 *
 *     AutoCircuit   Resid Start | A{block}.{head} | MLP {block} | Resid End
 *                   with .Q .K .V on a head that is a destination
 *                   Resid Mid {block} | Resid Post {block} in simple graphs
 *     EAP and MIB   input | a{block}.h{head} | m{block} | logits
 *                   with <q> <k> <v> on a head that is a destination
 *     edge          SOURCE->DESTINATION, then [position] where the graph has positions
 *
 * Parsing yields (kind, block, head, role) and asks the graph which index that is; the answer is
 * checked against the stored node, so the arithmetic here cannot drift from graph.c. */
#include "core/graph/graph.h"

#include "core/base/assert.h"
#include "core/base/limits.h"

#include <stdio.h>
#include <string.h>

#define NAME_SHOWN_MAX 80 /* of an unknown name in a message */

/* A piece of text being consumed from the front. */
typedef struct text {
    const char *at;
    size_t length;
} text;

typedef struct node_name {
    abl_node_kind kind;
    abl_dest_role role; /* ABL_DEST_QKV when no letter was given */
    int32_t block;
    int32_t head;
} node_name;

static bool node_parse(text whole, node_name *ret_node);
static int shown(size_t length);
static abl_code src_unknown(const abl_graph *graph, text name, abl_status *ret_status);
static abl_code dest_unknown(const abl_graph *graph, text name, abl_status *ret_status);

/* The index of a parsed source; -1: there is none. A simple graph's block starts with the stream
 * itself, which for the first is Resid Start. */
static int32_t src_index(const abl_graph *graph, const node_name *node) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    int32_t mid_count = o->simple && !o->attn_only && !o->parallel_attn_mlp ? 1 : 0;
    int32_t block_srcs = (o->simple ? 1 : 0) + o->head_count + mid_count + (o->attn_only ? 0 : 1);
    if (node->block >= o->layer_count) {
        return -1;
    }
    int32_t heads = 1 + node->block * block_srcs;
    switch (node->kind) {
    case ABL_NODE_RESID_START:
        return 0;
    case ABL_NODE_HEAD:
        return node->head < o->head_count && node->role == ABL_DEST_QKV ? heads + node->head : -1;
    case ABL_NODE_RESID_MID:
        return mid_count > 0 ? heads + o->head_count : -1;
    case ABL_NODE_MLP:
        return o->attn_only ? -1 : heads + o->head_count + mid_count;
    case ABL_NODE_RESID_POST:
        return o->simple && node->block + 1 < o->layer_count ? heads - 1 + block_srcs : -1;
    case ABL_NODE_RESID_END:
        break;
    }
    return -1;
}

abl_code abl_graph_find_src(const abl_graph *graph, const char *name, size_t length,
                            int32_t *ret_src, abl_status *ret_status) {
    text whole = {name, length};
    node_name node;
    int32_t index = node_parse(whole, &node) ? src_index(graph, &node) : -1;
    if (index < 0) {
        return src_unknown(graph, whole, ret_status);
    }
    const abl_graph_src *src = abl_graph_src_at(graph, index);
    ABL_ASSERT(src->kind == node.kind && (index == 0 || src->block == node.block));
    *ret_src = index;
    return ABL_CODE_OK;
}

/* The module of a parsed destination: at most four a block, so a short scan from the block's. */
static const abl_graph_module *module_of(const abl_graph *graph, const node_name *node) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    int32_t module_count = abl_graph_module_count(graph);
    int32_t block_modules = o->simple ? module_count / o->layer_count
                                      : (o->joined_qkv ? 1 : 3) + (o->attn_only ? 0 : 1);
    abl_dest_role role = node->role;
    int32_t begin = node->block * block_modules;
    switch (node->kind) {
    case ABL_NODE_RESID_END:
        return abl_graph_module_at(graph, module_count - 1);
    case ABL_NODE_MLP:
        role = ABL_DEST_MLP;
        break;
    case ABL_NODE_RESID_MID:
        role = ABL_DEST_MID;
        break;
    case ABL_NODE_RESID_POST:
        role = ABL_DEST_POST;
        break;
    case ABL_NODE_HEAD:
    case ABL_NODE_RESID_START:
        break;
    }
    for (int32_t i = begin; i < begin + block_modules && i < module_count; i++) {
        const abl_graph_module *module = abl_graph_module_at(graph, i);
        if (module->role == role) {
            return module;
        }
    }
    return NULL;
}

abl_code abl_graph_find_dest(const abl_graph *graph, const char *name, size_t length,
                             int32_t *ret_dest, abl_status *ret_status) {
    text whole = {name, length};
    node_name node;
    const abl_graph_module *module = NULL;
    if (node_parse(whole, &node) && node.kind != ABL_NODE_RESID_START) {
        module = module_of(graph, &node);
    }
    if (module == NULL || node.head >= module->dest_count) {
        return dest_unknown(graph, whole, ret_status);
    }
    *ret_dest = module->dest_begin + (module->has_heads ? node.head : 0);
    return ABL_CODE_OK;
}

abl_code abl_graph_find_module(const abl_graph *graph, const char *name, size_t length,
                               int32_t *ret_module, abl_status *ret_status) {
    int32_t count = abl_graph_module_count(graph);
    for (int32_t i = 0; i < count; i++) {
        const char *known = abl_graph_module_at(graph, i)->name;
        if (strlen(known) == length && memcmp(known, name, length) == 0) {
            *ret_module = i;
            return ABL_CODE_OK;
        }
    }
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "MODULE_UNKNOWN",
                    "this graph has no module '%.*s'; it has %d, from '%s' to '%s'", shown(length),
                    name, count, abl_graph_module_at(graph, 0)->name,
                    abl_graph_module_at(graph, count - 1)->name);
}

abl_code abl_graph_check_edge(const abl_graph *graph, abl_edge edge, abl_status *ret_status) {
    const abl_graph_dest *dest = abl_graph_dest_at(graph, edge.dest);
    const abl_graph_src *src = abl_graph_src_at(graph, edge.src);
    if (edge.src < dest->src_begin || edge.src >= dest->src_begin + dest->src_count) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_NOT_IN_GRAPH",
                        "there is no edge '%s->%s': the source (layer %d) is not %s the "
                        "destination (layer %d)",
                        src->name, dest->name, src->layer,
                        abl_graph_options_of(graph)->simple ? "just below" : "below", dest->layer);
    }
    bool has_positions = abl_graph_options_of(graph)->seq_len != 0;
    bool every = edge.seq == ABL_SEQ_EVERY && has_positions;
    if (!every && (edge.seq < 0 || edge.seq >= abl_graph_seq_count(graph))) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_POSITION_INVALID",
                        has_positions
                            ? "edge '%s->%s' names position %d; this graph has positions 0 to %d"
                            : "edge '%s->%s' names position %d; this graph has one value for all "
                              "positions, number %d",
                        src->name, dest->name, edge.seq, abl_graph_seq_count(graph) - 1);
    }
    return ABL_CODE_OK;
}

bool abl_graph_has_dialect(const abl_graph *graph, abl_edge_dialect dialect) {
    return dialect == ABL_DIALECT_AUTOCIRCUIT || !abl_graph_options_of(graph)->simple;
}

size_t abl_graph_format_edge(const abl_graph *graph, abl_edge edge, abl_edge_dialect dialect,
                             char *buffer, size_t buffer_bytes) {
    const abl_graph_src *src = abl_graph_src_at(graph, edge.src);
    const abl_graph_dest *dest = abl_graph_dest_at(graph, edge.dest);
    bool mib = dialect == ABL_DIALECT_MIB && abl_graph_has_dialect(graph, dialect);
    char position[16] = "";
    if (abl_graph_options_of(graph)->seq_len != 0 && edge.seq != ABL_SEQ_EVERY) {
        (void)snprintf(position, sizeof position, "[%d]", edge.seq);
    }
    int length = snprintf(buffer, buffer_bytes, "%s->%s%s", mib ? src->mib_name : src->name,
                          mib ? dest->mib_name : dest->name, position);
    return length < 0 ? 0 : (size_t)length;
}

/* ---- the grammar ----------------------------------------------------------------------------- */

static bool take(text *rest, const char *literal) {
    size_t length = strlen(literal);
    if (rest->length < length || memcmp(rest->at, literal, length) != 0) {
        return false;
    }
    rest->at += length;
    rest->length -= length;
    return true;
}

/* A decimal number as printf writes it, below a bound no index reaches. */
static bool take_number(text *rest, int32_t *ret_number) {
    int32_t number = 0;
    size_t digits = 0;
    while (digits < rest->length && rest->at[digits] >= '0' && rest->at[digits] <= '9') {
        if (number > 10000000) {
            return false;
        }
        number = number * 10 + (rest->at[digits] - '0');
        digits++;
    }
    if (digits == 0 || (digits > 1 && rest->at[0] == '0')) {
        return false;
    }
    rest->at += digits;
    rest->length -= digits;
    *ret_number = number;
    return true;
}

static abl_dest_role take_role(text *rest, bool mib) {
    static const char *const LETTERS[2][3] = {{".Q", ".K", ".V"}, {"<q>", "<k>", "<v>"}};
    for (int role = 0; role < 3; role++) {
        if (take(rest, LETTERS[mib ? 1 : 0][role])) {
            return (abl_dest_role)role;
        }
    }
    return ABL_DEST_QKV;
}

static bool node_parse(text whole, node_name *ret_node) {
    text rest = whole;
    node_name node = {.role = ABL_DEST_QKV, .block = 0, .head = 0};
    bool ok = true;
    if (take(&rest, "Resid Start") || take(&rest, "input")) {
        node.kind = ABL_NODE_RESID_START;
    } else if (take(&rest, "Resid End") || take(&rest, "logits")) {
        node.kind = ABL_NODE_RESID_END;
    } else if (take(&rest, "Resid Mid ")) {
        node.kind = ABL_NODE_RESID_MID;
        ok = take_number(&rest, &node.block);
    } else if (take(&rest, "Resid Post ")) {
        node.kind = ABL_NODE_RESID_POST;
        ok = take_number(&rest, &node.block);
    } else if (take(&rest, "MLP ") || take(&rest, "m")) {
        node.kind = ABL_NODE_MLP;
        ok = take_number(&rest, &node.block);
    } else if (take(&rest, "A")) {
        node.kind = ABL_NODE_HEAD;
        ok = take_number(&rest, &node.block) && take(&rest, ".") && take_number(&rest, &node.head);
        node.role = take_role(&rest, false);
    } else if (take(&rest, "a")) {
        node.kind = ABL_NODE_HEAD;
        ok = take_number(&rest, &node.block) && take(&rest, ".h") && take_number(&rest, &node.head);
        node.role = take_role(&rest, true);
    } else {
        ok = false;
    }
    *ret_node = node;
    return ok && rest.length == 0;
}

abl_code abl_graph_parse_edge(const abl_graph *graph, const char *name, size_t length,
                              abl_edge *ret_edge, abl_status *ret_status) {
    const char *arrow = length < 2 ? NULL : memmem(name, length, "->", 2);
    size_t src_length = arrow == NULL ? 0 : (size_t)(arrow - name);
    text dest_name = {arrow == NULL ? name : arrow + 2,
                      arrow == NULL ? length : length - src_length - 2};
    int32_t seq = abl_graph_options_of(graph)->seq_len == 0 ? 0 : ABL_SEQ_EVERY;
    const char *bracket = memchr(dest_name.at, '[', dest_name.length);
    bool well_formed = arrow != NULL;
    if (well_formed && bracket != NULL) {
        text rest = {bracket + 1, dest_name.length - (size_t)(bracket + 1 - dest_name.at)};
        well_formed = take_number(&rest, &seq) && take(&rest, "]") && rest.length == 0;
        dest_name.length = (size_t)(bracket - dest_name.at);
    }
    if (!well_formed) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_NAME_MALFORMED",
                        "'%.*s' is not an edge name; write 'A9.9->A11.10.Q' or "
                        "'a9.h9->a11.h10<q>', with '[position]' at the end where the graph has "
                        "positions",
                        shown(length), name);
    }
    abl_edge edge = {.seq = seq};
    abl_code code = abl_graph_find_src(graph, name, src_length, &edge.src, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_graph_find_dest(graph, dest_name.at, dest_name.length, &edge.dest, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_graph_check_edge(graph, edge, ret_status);
    }
    if (code == ABL_CODE_OK) {
        *ret_edge = edge;
    }
    return code;
}

/* ---- messages -------------------------------------------------------------------------------- */

static int shown(size_t length) {
    return length > NAME_SHOWN_MAX ? NAME_SHOWN_MAX : (int)length;
}

/* The nodes of a simple graph, for a message. */
static abl_code simple_unknown(const abl_graph *graph, bool is_src, text name,
                               abl_status *ret_status) {
    int32_t srcs = abl_graph_src_count(graph);
    int32_t dests = abl_graph_dest_count(graph);
    return abl_fail(
        ret_status, ABL_CODE_NOT_FOUND, is_src ? "SOURCE_UNKNOWN" : "DESTINATION_UNKNOWN",
        "this simple graph has no %s '%.*s'; it has %d, from '%s' to '%s', named as 'Resid Mid 0' "
        "and 'Resid Post 0'%s",
        is_src ? "source" : "destination", shown(name.length), name.at, is_src ? srcs : dests,
        is_src ? abl_graph_src_at(graph, 0)->name : abl_graph_dest_at(graph, 0)->name,
        is_src ? abl_graph_src_at(graph, srcs - 1)->name
               : abl_graph_dest_at(graph, dests - 1)->name,
        is_src ? ", 'A0.0', 'MLP 0'" : "");
}

/* ", 'MLP 0' to 'MLP 11'", or nothing. */
static const char *mlps_shown(const abl_graph_options *o, char to[64]) {
    to[0] = '\0';
    if (!o->attn_only) {
        (void)snprintf(to, 64, ", 'MLP 0' to 'MLP %d'", o->layer_count - 1);
    }
    return to;
}

static abl_code src_unknown(const abl_graph *graph, text name, abl_status *ret_status) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    if (o->simple) {
        return simple_unknown(graph, true, name, ret_status);
    }
    int last = o->layer_count - 1;
    char mlps[64];
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "SOURCE_UNKNOWN",
                    "this graph has no source '%.*s'; its sources are 'Resid Start', 'A0.0' to "
                    "'A%d.%d'%s (or 'input', 'a0.h0' to 'a%d.h%d', ...)",
                    shown(name.length), name.at, last, o->head_count - 1, mlps_shown(o, mlps), last,
                    o->head_count - 1);
}

static abl_code dest_unknown(const abl_graph *graph, text name, abl_status *ret_status) {
    const abl_graph_options *o = abl_graph_options_of(graph);
    if (o->simple) {
        return simple_unknown(graph, false, name, ret_status);
    }
    int last = o->layer_count - 1;
    char heads[160];
    if (o->joined_qkv) {
        (void)snprintf(heads, sizeof heads, "'A0.0' to 'A%d.%d' (q, k and v are one here)", last,
                       o->head_count - 1);
    } else {
        int32_t kv_last = (o->gqa == ABL_GQA_NATIVE ? o->kv_head_count : o->head_count) - 1;
        (void)snprintf(heads, sizeof heads, "'A0.0.Q' to 'A%d.%d.Q', .K and .V to 'A%d.%d.V'", last,
                       o->head_count - 1, last, kv_last);
    }
    char mlps[64];
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "DESTINATION_UNKNOWN",
                    "this graph has no destination '%.*s'; its destinations are %s%s and "
                    "'Resid End' (or 'a0.h0<q>', 'm0', 'logits')",
                    shown(name.length), name.at, heads, mlps_shown(o, mlps));
}
