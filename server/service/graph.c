/* SPDX-License-Identifier: Apache-2.0
 *
 * A graph is made on the loop: it costs its nodes and the zero pages of its mask. Nodes and edges
 * are streamed from a cursor into the graph, a thousand a message, so that what a client has not
 * read yet takes no memory. */
#include "server/convert/graph.h"
#include "server/runtime/log.h"
#include "server/service/captures.h"
#include "server/service/listing.h"
#include "server/service/rpc.h"

#include "core/graph/scores.h"

#include <stdio.h>
#include <string.h>

#define MESSAGE_COUNT_MAX 1000 /* nodes or edges in one message */

/* ---- life --------------------------------------------------------------------------------- */

/* Whether the edge values of this graph fit: a mask now, scores later. */
static abl_code graph_admit(abl_rpc *rpc, const abl_graph *graph) {
    uint64_t bytes = (uint64_t)abl_graph_edge_count(graph) * sizeof(float);
    return abl_server_admit(rpc->server, ABL_HOST, bytes,
                            "make a graph with a smaller seq_len, or with merge_qkv", &rpc->status);
}

/* What a graph needs: its model, then its KV caches. Borrowed until the next return to the loop. */
typedef struct graph_needs {
    abl_object *objects[ABL_OBJECT_NEEDS_MAX];
    size_t count;
} graph_needs;

static abl_code find_needs(abl_rpc *rpc, abl_resident_model *model,
                           const Ablate__V1__GraphOptions *options, graph_needs *ret_needs) {
    graph_needs needs = {.objects = {&model->object}, .count = 1};
    for (size_t i = 0; options != NULL && i < options->n_kv_cache_ids; i++) {
        abl_object *cache = NULL;
        abl_code code = abl_registry_find(rpc->server->registry, ABL_OBJECT_KV_CACHE,
                                          options->kv_cache_ids[i], &cache, &rpc->status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        if (!abl_object_needs(cache, &model->object)) {
            return abl_fail(
                &rpc->status, ABL_CODE_FAILED_PRECONDITION, "PREFIX_MODEL_MISMATCH",
                "options.kv_cache_ids[%zu]: %s is of %s, and the graph is over %s; a KV "
                "cache fits the model that computed it alone",
                i, cache->id, cache->needs[0]->id, model->object.id);
        }
        bool again = false;
        for (size_t j = 1; j < needs.count; j++) {
            again = again || needs.objects[j] == cache;
        }
        if (!again) {
            needs.objects[needs.count++] = cache;
        }
    }
    *ret_needs = needs;
    return ABL_CODE_OK;
}

/* The graph as a listed object; NULL: the status says why. */
static abl_resident_graph *graph_make(abl_rpc *rpc, const graph_needs *needs,
                                      const abl_graph_options *options, abl_out_slice out_slice) {
    abl_graph *graph = NULL;
    if (abl_graph_create(options, &graph, &rpc->status) != ABL_CODE_OK) {
        if (strcmp(rpc->status.reason, "GRAPH_OPTIONS_INVALID") == 0) {
            rpc->status.reason = "GRAPH_OPTIONS";
        }
        return NULL;
    }
    abl_resident_graph *resident = NULL;
    if (graph_admit(rpc, graph) == ABL_CODE_OK) {
        resident = abl_resident_graph_create(graph, out_slice);
        if (resident == NULL) {
            (void)abl_fail_oom(&rpc->status);
        }
    }
    if (resident == NULL) {
        abl_graph_destroy(graph);
        return NULL;
    }
    if (abl_registry_add(rpc->server->registry, &resident->object, needs->objects, needs->count,
                         &rpc->status) != ABL_CODE_OK) {
        abl_object_unref(&resident->object);
        return NULL;
    }
    return resident;
}

/* With it goes what its hooks captured. */
static abl_code graph_remove(abl_registry *registry, abl_object *object, abl_status *ret_status) {
    abl_graph_hooks *hooks = abl_graph_hooks_ref(((abl_resident_graph *)object)->hooks);
    abl_code code = abl_registry_remove(registry, object, ret_status);
    if (code == ABL_CODE_OK) {
        abl_captures_forget_all(registry, hooks);
    }
    abl_graph_hooks_unref(hooks);
    return code;
}

#define IDLE_LOOK_MS 1000 /* how often the server looks for idle graphs, once there can be one */

void abl_server_end_idle_graphs(void *user_data) {
    abl_server *server = user_data;
    uint64_t now_ms = abl_time_us() / 1000;
    abl_object *next = NULL;
    bool looking = false;
    for (abl_object *object = abl_registry_first(server->registry, ABL_OBJECT_GRAPH);
         object != NULL; object = next) {
        next = object->next;
        int64_t timeout_ms = ((abl_resident_graph *)object)->idle_timeout_ms;
        looking = looking || timeout_ms > 0;
        if (timeout_ms == 0 || object->call_count > 0 ||
            now_ms < object->last_use_ms + (uint64_t)timeout_ms) {
            continue;
        }
        char id[ABL_ID_BYTES];
        (void)snprintf(id, sizeof id, "%s", object->id);
        abl_status status;
        if (graph_remove(server->registry, object, &status) == ABL_CODE_OK) {
            abl_log(ABL_LOG_INFO, "graph_deleted", "id=%s idle_ms=%lld", id, (long long)timeout_ms);
        } else {
            object->last_use_ms = now_ms; /* a job runs on it */
        }
    }
    if (!looking) {
        abl_timer_stop(server->idle_timer);
    }
}

static void create_graph(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__CreateGraphRequest *request = (const Ablate__V1__CreateGraphRequest *)message;
    Ablate__V1__CreateGraphResponse response = ABLATE__V1__CREATE_GRAPH_RESPONSE__INIT;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_MODEL, request->model_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_resident_model *model = (abl_resident_model *)object;
    abl_graph_options options;
    abl_out_slice out_slice = ABL_OUT_SLICE_LAST;
    abl_resident_graph *graph = NULL;
    graph_needs needs;
    if (abl_convert_graph_options(request->options, abl_model_get_config(model->model), &options,
                                  &out_slice, &rpc->status) == ABL_CODE_OK &&
        abl_convert_idle_timeout(request->idle_timeout_ms, &rpc->status) == ABL_CODE_OK &&
        find_needs(rpc, model, request->options, &needs) == ABL_CODE_OK) {
        graph = graph_make(rpc, &needs, &options, out_slice);
    }
    if (graph == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    graph->object.last_use_ms = abl_time_us() / 1000;
    (void)snprintf(graph->owner, sizeof graph->owner, "%s", rpc->owner);
    graph->idle_timeout_ms = request->idle_timeout_ms;
    if (graph->idle_timeout_ms > 0) {
        abl_timer_start(rpc->server->idle_timer, IDLE_LOOK_MS, IDLE_LOOK_MS);
    }
    response.graph = abl_convert_graph(rpc->arena, graph);
    if (response.graph == NULL) {
        abl_status ignored;
        (void)!abl_registry_remove(rpc->server->registry, &graph->object, &ignored);
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    char owner[ABL_LOG_OWNER_BYTES];
    abl_log(ABL_LOG_INFO, "graph_created", "id=%s model=%s edges=%lld client=%s", graph->object.id,
            model->object.id, (long long)response.graph->edge_count,
            abl_log_quote(owner, sizeof owner, rpc->owner));
    abl_rpc_reply(rpc, &response.base);
}

static void get_graph(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetGraphRequest *request = (const Ablate__V1__GetGraphRequest *)message;
    Ablate__V1__GetGraphResponse response = ABLATE__V1__GET_GRAPH_RESPONSE__INIT;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object != NULL) {
        response.graph = abl_convert_graph(rpc->arena, (abl_resident_graph *)object);
        if (response.graph != NULL) {
            abl_rpc_reply(rpc, &response.base);
            return;
        }
        (void)abl_fail_oom(&rpc->status);
    }
    abl_rpc_fail_status(rpc);
}

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__Graph *item =
        abl_convert_graph(rpc->scratch, (abl_resident_graph *)(uintptr_t)object);
    return item == NULL ? NULL : &item->base;
}

static void list_graphs(abl_rpc *rpc, const ProtobufCMessage *request) {
    Ablate__V1__ListGraphsResponse response = ABLATE__V1__LIST_GRAPHS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_GRAPH, .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, request, &response.base);
}

static void delete_graph(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__DeleteGraphRequest *request = (const Ablate__V1__DeleteGraphRequest *)message;
    Ablate__V1__DeleteGraphResponse response = ABLATE__V1__DELETE_GRAPH_RESPONSE__INIT;
    abl_object *object = NULL;
    if (abl_registry_find(rpc->server->registry, ABL_OBJECT_GRAPH, request->graph_id, &object,
                          &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_resident_graph *graph = (abl_resident_graph *)object;
    if (graph_remove(rpc->server->registry, object, &rpc->status) != ABL_CODE_OK) {
        if (graph->idle_timeout_ms == 0) {
            abl_rpc_fail_status(rpc);
            return;
        }
        graph->idle_timeout_ms = 1; /* as soon as it is idle: whoever asks may be leaving */
        abl_rpc_reply(rpc, &response.base);
        return;
    }
    char id[ABL_NAME_BYTES_MAX];
    abl_log(ABL_LOG_INFO, "graph_deleted", "id=%s",
            abl_log_quote(id, sizeof id, request->graph_id));
    abl_rpc_reply(rpc, &response.base);
}

/* ---- nodes -------------------------------------------------------------------------------- */

typedef struct nodes_state {
    const abl_graph *graph;
    int32_t next; /* sources first, then destinations */
} nodes_state;

static void node_fill(abl_rpc *rpc, const abl_graph *graph, int32_t index, Ablate__V1__Node *node) {
    int32_t srcs = abl_graph_src_count(graph);
    ablate__v1__node__init(node);
    if (index < srcs) {
        const abl_graph_src *src = abl_graph_src_at(graph, index);
        node->name = abl_convert_text(rpc->scratch, src->name);
        node->eap_name = abl_convert_text(rpc->scratch, src->mib_name == NULL ? "" : src->mib_name);
        node->module_name = abl_convert_text(rpc->scratch, src->module_name);
        node->is_source = true;
        node->layer = src->layer;
        node->head_idx = src->head;
        node->src_idx = src->index;
        return;
    }
    const abl_graph_dest *dest = abl_graph_dest_at(graph, index - srcs);
    node->name = abl_convert_text(rpc->scratch, dest->name);
    node->eap_name = abl_convert_text(rpc->scratch, dest->mib_name == NULL ? "" : dest->mib_name);
    node->module_name =
        abl_convert_text(rpc->scratch, abl_graph_module_at(graph, dest->module)->name);
    node->layer = dest->layer;
    node->head_idx = dest->head;
    node->src_idx = -1;
}

static void nodes_next(abl_rpc *rpc) {
    nodes_state *state = rpc->state;
    int32_t total = abl_graph_src_count(state->graph) + abl_graph_dest_count(state->graph);
    if (state->next == total) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    int32_t left = total - state->next;
    size_t count = left < MESSAGE_COUNT_MAX ? (size_t)left : MESSAGE_COUNT_MAX;
    Ablate__V1__ListNodesResponse response = ABLATE__V1__LIST_NODES_RESPONSE__INIT;
    Ablate__V1__Node *nodes = abl_rpc_scratch(rpc, count * sizeof *nodes);
    response.nodes = abl_rpc_scratch(rpc, count * sizeof *response.nodes);
    if (nodes == NULL || response.nodes == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        node_fill(rpc, state->graph, state->next++, &nodes[i]);
        response.nodes[i] = &nodes[i];
    }
    response.n_nodes = count;
    abl_rpc_send(rpc, &response.base);
}

static void list_nodes(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListNodesRequest *request = (const Ablate__V1__ListNodesRequest *)message;
    nodes_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->graph = ((abl_resident_graph *)object)->graph;
    rpc->state = state;
    abl_rpc_stream(rpc, nodes_next);
}

static void list_wrappers(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListWrappersRequest *request =
        (const Ablate__V1__ListWrappersRequest *)message;
    Ablate__V1__ListWrappersResponse response = ABLATE__V1__LIST_WRAPPERS_RESPONSE__INIT;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object != NULL) {
        response.wrappers = abl_convert_wrappers(rpc->arena, ((abl_resident_graph *)object)->graph,
                                                 &response.n_wrappers);
        if (response.wrappers != NULL) {
            abl_rpc_reply(rpc, &response.base);
            return;
        }
        (void)abl_fail_oom(&rpc->status);
    }
    abl_rpc_fail_status(rpc);
}

/* ---- edges -------------------------------------------------------------------------------- */

typedef struct edges_state {
    const abl_graph *graph;
    abl_edge_dialect dialect;
    int32_t src; /* the only source asked for; -1: all */
    int32_t dest_begin;
    int32_t dest_end;
    int32_t seq_end;
    abl_edge at; /* the next to look at */
} edges_state;

/* The next edge asked for; false: there is none. */
static bool edges_take(edges_state *state, abl_edge *ret_edge) {
    abl_edge *at = &state->at;
    while (at->seq < state->seq_end) {
        if (at->dest == state->dest_end) {
            *at = (abl_edge){.seq = at->seq + 1, .dest = state->dest_begin, .src = -1};
            continue;
        }
        const abl_graph_dest *dest = abl_graph_dest_at(state->graph, at->dest);
        int32_t begin = dest->src_begin;
        int32_t end = begin + dest->src_count;
        if (state->src >= 0) { /* a range of one source, or none */
            bool inside = state->src >= begin && state->src < end;
            begin = inside ? state->src : end;
            end = inside ? begin + 1 : end;
        }
        at->src = at->src < begin ? begin : at->src;
        if (at->src < end) {
            *ret_edge = *at;
            at->src++;
            return true;
        }
        at->dest++;
        at->src = -1;
    }
    return false;
}

static bool edge_fill(abl_rpc *rpc, const edges_state *state, abl_edge edge,
                      Ablate__V1__Edge *message) {
    const abl_graph_dest *dest = abl_graph_dest_at(state->graph, edge.dest);
    const abl_graph_module *module = abl_graph_module_at(state->graph, dest->module);
    int64_t *indices = abl_rpc_scratch(rpc, 3 * sizeof *indices);
    char *name = abl_convert_edge_name(rpc->scratch, state->graph, edge, state->dialect);
    if (indices == NULL || name == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return false;
    }
    ablate__v1__edge__init(message);
    message->name = name;
    message->seq_number = abl_convert_seq_number(state->graph, edge);
    message->index = abl_graph_edge_index(state->graph, edge);
    message->module_name = abl_convert_text(rpc->scratch, module->name);
    message->patch_idx = indices;
    if (abl_graph_options_of(state->graph)->seq_len > 0) {
        indices[message->n_patch_idx++] = edge.seq;
    }
    if (module->has_heads) {
        indices[message->n_patch_idx++] = edge.dest - module->dest_begin;
    }
    indices[message->n_patch_idx++] = edge.src - module->src_begin;
    return true;
}

static void edges_next(abl_rpc *rpc) {
    edges_state *state = rpc->state;
    Ablate__V1__ListEdgesResponse response = ABLATE__V1__LIST_EDGES_RESPONSE__INIT;
    abl_edge edge;
    if (!edges_take(state, &edge)) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    Ablate__V1__Edge *edges = abl_rpc_scratch(rpc, MESSAGE_COUNT_MAX * sizeof *edges);
    response.edges = abl_rpc_scratch(rpc, MESSAGE_COUNT_MAX * sizeof *response.edges);
    bool whole = edges != NULL && response.edges != NULL;
    while (whole) {
        whole = edge_fill(rpc, state, edge, &edges[response.n_edges]);
        response.edges[response.n_edges] = &edges[response.n_edges];
        response.n_edges++;
        if (response.n_edges == MESSAGE_COUNT_MAX || !edges_take(state, &edge)) {
            break;
        }
    }
    if (!whole) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_send(rpc, &response.base);
}

/* The node filters: what core says about a name, under the one reason that the protocol has. */
static abl_code edges_filter(const Ablate__V1__ListEdgesRequest *request, edges_state *state,
                             abl_status *ret_status) {
    const abl_graph *graph = state->graph;
    if (!abl_graph_has_dialect(graph, state->dialect)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_DIALECT",
                        "edges of a GRAPH_KIND_SIMPLE have no names in that dialect, whose graphs "
                        "have no nodes of the residual stream; ask for EDGE_DIALECT_AUTO_CIRCUIT");
    }
    abl_status inner = {0};
    const char *field = "source";
    abl_code code = ABL_CODE_OK;
    if (request->source[0] != '\0') {
        code = abl_graph_find_src(graph, request->source, strlen(request->source), &state->src,
                                  &inner);
    }
    if (code == ABL_CODE_OK && request->destination[0] != '\0') {
        field = "destination";
        code = abl_graph_find_dest(graph, request->destination, strlen(request->destination),
                                   &state->dest_begin, &inner);
        state->dest_end = state->dest_begin + 1;
    }
    if (code != ABL_CODE_OK) {
        return abl_fail(ret_status, code, "NODE_UNKNOWN", "%s: %.400s", field, inner.message);
    }
    int32_t positions = abl_graph_options_of(graph)->seq_len;
    if (request->seq_number < 0 || request->seq_number > positions) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "EDGE_POSITION_INVALID",
                        "seq_number is %d; it must be 0 (every position) to %d, the graph's "
                        "seq_len",
                        request->seq_number, positions);
    }
    if (request->seq_number > 0) {
        state->at.seq = request->seq_number - 1;
        state->seq_end = request->seq_number;
    }
    return ABL_CODE_OK;
}

static void list_edges(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListEdgesRequest *request = (const Ablate__V1__ListEdgesRequest *)message;
    edges_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_GRAPH, request->graph_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    const abl_graph *graph = ((abl_resident_graph *)object)->graph;
    *state = (edges_state){.graph = graph,
                           .dialect = abl_convert_dialect(request->dialect),
                           .src = -1,
                           .dest_end = abl_graph_dest_count(graph),
                           .seq_end = abl_graph_seq_count(graph)};
    if (edges_filter(request, state, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->at.dest = state->dest_begin;
    state->at.src = -1;
    rpc->state = state;
    abl_rpc_stream(rpc, edges_next);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.GraphService/CreateGraph", create_graph, create_graph),
    ABL_RPC_UNARY("/ablate.v1.GraphService/GetGraph", get_graph, get_graph),
    ABL_RPC_UNARY("/ablate.v1.GraphService/ListGraphs", list_graphs, list_graphs),
    ABL_RPC_UNARY("/ablate.v1.GraphService/DeleteGraph", delete_graph, delete_graph),
    ABL_RPC_STREAM("/ablate.v1.GraphService/ListNodes", list_nodes, list_nodes),
    ABL_RPC_UNARY("/ablate.v1.GraphService/ListWrappers", list_wrappers, list_wrappers),
    ABL_RPC_STREAM("/ablate.v1.GraphService/ListEdges", list_edges, list_edges),
};

abl_service abl_graph_service(abl_server *server) {
    return (abl_service){"ablate.v1.GraphService", methods, ABL_COUNT_OF(methods), server};
}
