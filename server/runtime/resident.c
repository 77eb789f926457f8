/* SPDX-License-Identifier: Apache-2.0
 *
 * Each kind is a core object with the book-keeping that the registry wants. A graph's mask is a
 * shared immutable array, replaced and never written: a pass that was admitted under the old mask
 * keeps it, and no pass sees half of a new one. */
#include "server/runtime/resident.h"

#include "core/base/mem.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>

abl_values *abl_values_create(int64_t count) {
    size_t bytes = 0;
    if (__builtin_mul_overflow((size_t)count, sizeof(float), &bytes) ||
        __builtin_add_overflow(bytes, sizeof(abl_values), &bytes)) {
        return NULL;
    }
    abl_values *values = abl_calloc(1, bytes);
    if (values != NULL) {
        values->refs = 1;
        values->count = count;
    }
    return values;
}

abl_values *abl_values_ref(abl_values *values) {
    values->refs++;
    return values;
}

void abl_values_unref(abl_values *values) {
    if (values != NULL && --values->refs == 0) {
        abl_free(values);
    }
}

static void model_destroy(abl_object *object) {
    abl_resident_model *model = (abl_resident_model *)object;
    abl_model_unref(model->model);
    abl_free(model->path);
    abl_free(model);
    (void)malloc_trim(0); /* the allocator would keep the pages for the next model */
}

abl_resident_model *abl_resident_model_create(abl_model *model, const char *name,
                                              const char *path) {
    abl_resident_model *resident = abl_calloc(1, sizeof *resident);
    char *own_path = path == NULL ? NULL : abl_strdup(path);
    if (resident == NULL || (path != NULL && own_path == NULL)) {
        abl_free(resident);
        abl_free(own_path);
        return NULL;
    }
    abl_object_init(&resident->object, ABL_OBJECT_MODEL, resident->name, model_destroy);
    (void)snprintf(resident->name, sizeof resident->name, "%s", name);
    resident->model = model;
    resident->path = own_path;
    resident->object.bytes = (int64_t)abl_model_bytes(model);
    /* TransformerLens and AutoCircuit put a BOS in front of GPT-2's prompts; the tokenizers of the
     * Llama family's small models put none, and their references were made without. */
    resident->bos_default = abl_model_get_config(model)->family == ABL_FAMILY_GPT2;
    return resident;
}

static void graph_destroy(abl_object *object) {
    abl_resident_graph *graph = (abl_resident_graph *)object;
    abl_graph_destroy(graph->graph);
    abl_values_unref(graph->mask);
    abl_graph_hooks_unref(graph->hooks);
    abl_free(graph);
}

static void graph_count_bytes(abl_resident_graph *graph) {
    abl_object_set_bytes(&graph->object, abl_graph_bytes(graph->graph) +
                                             graph->mask->count * (int64_t)sizeof(float) +
                                             abl_graph_hooks_bytes(graph->hooks));
}

abl_resident_graph *abl_resident_graph_create(abl_graph *graph, abl_out_slice out_slice) {
    abl_resident_graph *resident = abl_calloc(1, sizeof *resident);
    abl_values *mask = abl_values_create(abl_graph_edge_count(graph));
    if (resident == NULL || mask == NULL) {
        abl_free(resident);
        abl_values_unref(mask);
        return NULL;
    }
    abl_object_init(&resident->object, ABL_OBJECT_GRAPH, "", graph_destroy);
    resident->graph = graph;
    resident->out_slice = out_slice;
    resident->mask = mask;
    graph_count_bytes(resident);
    return resident;
}

abl_resident_model *abl_resident_graph_model(const abl_resident_graph *graph) {
    return (abl_resident_model *)graph->object.needs[0];
}

abl_resident_kv_cache *abl_resident_graph_kv_cache(const abl_resident_graph *graph, size_t index) {
    return index < ABL_GRAPH_KV_CACHE_MAX ? (abl_resident_kv_cache *)graph->object.needs[1 + index]
                                          : NULL;
}

void abl_resident_graph_set_mask(abl_resident_graph *graph, abl_values *mask) {
    abl_values_unref(graph->mask);
    graph->mask = mask;
    graph_count_bytes(graph); /* it may have other rows */
}

void abl_resident_graph_set_hooks(abl_resident_graph *graph, abl_graph_hooks *hooks) {
    abl_graph_hooks_unref(graph->hooks);
    graph->hooks = hooks;
    graph_count_bytes(graph);
}

static void kv_cache_destroy(abl_object *object) {
    abl_resident_kv_cache *cache = (abl_resident_kv_cache *)object;
    abl_prefix_destroy(cache->prefix);
    abl_free(cache);
}

abl_resident_kv_cache *abl_resident_kv_cache_create(abl_prefix *prefix) {
    abl_resident_kv_cache *cache = abl_calloc(1, sizeof *cache);
    if (cache == NULL) {
        return NULL;
    }
    abl_object_init(&cache->object, ABL_OBJECT_KV_CACHE, "", kv_cache_destroy);
    cache->prefix = prefix;
    cache->object.bytes = abl_prefix_bytes(prefix);
    return cache;
}

static void dataset_destroy(abl_object *object) {
    abl_resident_dataset *dataset = (abl_resident_dataset *)object;
    for (size_t i = 0; i < dataset->seq_label_count; i++) {
        abl_free(dataset->seq_labels[i]);
    }
    abl_free(dataset->seq_labels);
    abl_free(dataset->json);
    abl_free(dataset);
}

abl_resident_dataset *abl_resident_dataset_create(char *json, size_t json_bytes, const char *name,
                                                  const char *hash) {
    abl_resident_dataset *resident = abl_calloc(1, sizeof *resident);
    if (resident == NULL) {
        return NULL;
    }
    abl_object_init(&resident->object, ABL_OBJECT_DATASET, resident->name, dataset_destroy);
    (void)snprintf(resident->name, sizeof resident->name, "%s", name);
    (void)snprintf(resident->hash, sizeof resident->hash, "%s", hash);
    resident->json = json;
    resident->json_bytes = json_bytes;
    resident->object.bytes = (int64_t)json_bytes;
    return resident;
}

static void ablation_destroy(abl_object *object) {
    abl_resident_ablation *ablation = (abl_resident_ablation *)object;
    abl_sources_destroy(ablation->sources); /* kept tensors: from any thread, as a model's */
    abl_free(ablation->provenance);
    abl_free(ablation);
}

abl_resident_ablation *abl_resident_ablation_create(abl_sources *sources) {
    abl_resident_ablation *resident = abl_calloc(1, sizeof *resident);
    if (resident == NULL) {
        return NULL;
    }
    abl_object_init(&resident->object, ABL_OBJECT_ABLATION, "", ablation_destroy);
    resident->sources = sources;
    resident->object.bytes = abl_sources_bytes(sources);
    return resident;
}

abl_resident_model *abl_resident_ablation_model(const abl_resident_ablation *ablation) {
    return (abl_resident_model *)ablation->object.needs[0];
}
