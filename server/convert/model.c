/* SPDX-License-Identifier: Apache-2.0
 *
 * Core speaks its own words ("layer", "rms"); clients hear TransformerLens's ("LN", "LNPre"), since
 * that is what they compare with. */
#include "server/convert/model.h"

#include "core/model/block.h"
#include "server/convert/graph.h"
#include "server/convert/hooks_json.h"

#include <string.h>

static char *borrow(const char *text) { /* packing reads only; the messages have no const */
    char *plain = NULL;
    memcpy(&plain, &text, sizeof plain);
    return plain;
}

static char *normalization_name(const abl_model *model) {
    static const char *const names[][2] = {
        [ABL_NORM_LAYER] = {"LN", "LNPre"},
        [ABL_NORM_RMS] = {"RMS", "RMSPre"},
        [ABL_NORM_NONE] = {"", ""},
    };
    const abl_model_config *config = abl_model_get_config(model);
    bool folded = abl_model_get_processing(model).fold_norm || config->norm_plain;
    return borrow(names[config->norm][folded ? 1 : 0]);
}

/* As HookedTransformerConfig counts. */
static int64_t n_params(const abl_model_config *c) {
    int64_t attention = 4LL * c->d_model * c->d_head * c->n_heads;
    int64_t mlp = (int64_t)c->d_model * c->d_mlp * (c->gated ? 3 : 2);
    return c->n_layers * (attention + (c->attn_only ? 0 : mlp));
}

static Ablate__V1__ModelConfig *convert_config(abl_arena *arena, const abl_model *model) {
    const abl_model_config *config = abl_model_get_config(model);
    Ablate__V1__ModelConfig *message = abl_arena_alloc(arena, sizeof *message);
    if (message == NULL) {
        return NULL;
    }
    ablate__v1__model_config__init(message);
    message->family = borrow(abl_family_name(config->family));
    message->n_layers = config->n_layers;
    message->n_heads = config->n_heads;
    message->n_key_value_heads = config->n_kv_heads;
    message->d_model = config->d_model;
    message->d_head = config->d_head;
    message->d_mlp = config->d_mlp;
    message->d_vocab = config->d_vocab;
    message->n_ctx = config->n_ctx;
    message->act_fn = borrow(config->attn_only ? "" : abl_activation_name(config->activation));
    message->normalization_type = normalization_name(model);
    message->eps = (float)config->norm_eps;
    bool rotary = config->positional == ABL_POSITIONAL_ROPE;
    message->positional_embedding_type = borrow(rotary ? "rotary" : "standard");
    message->rotary_base = (float)config->rope_theta;
    message->gated_mlp = config->gated;
    message->parallel_attn_mlp = config->parallel_attn_mlp;
    message->tied_embeddings = config->tied_unembed;
    message->d_vocab_out = config->d_vocab_out;
    message->attention_dir = borrow(abl_attention_name(config->attention));
    message->attn_only = config->attn_only;
    message->is_transformer = config->attention != ABL_ATTENTION_SELF;
    message->rotary_dim = config->rotary_dim;
    message->n_params = n_params(config);
    message->parameter_count = (int64_t)abl_model_parameter_count(model);
    message->attn_scale = (float)(1.0 / abl_model_attn_scale(model));
    message->use_attn_scale = abl_model_attn_scale(model) != 1.0;
    message->final_rms = config->norm == ABL_NORM_RMS;
    return message;
}

static Ablate__V1__WeightProcessing *processing_in(abl_arena *arena, const abl_model *model) {
    Ablate__V1__WeightProcessing *message = abl_arena_alloc(arena, sizeof *message);
    if (message != NULL) {
        *message = abl_convert_processing(abl_model_get_processing(model));
    }
    return message;
}

static char *device_in(abl_arena *arena, const abl_model *model) {
    char device[16];
    abl_convert_device(abl_model_device(model), device, sizeof device);
    return abl_convert_text(arena, device);
}

Ablate__V1__Model *abl_convert_model(abl_arena *arena, abl_registry *registry,
                                     const abl_resident_model *model) {
    Ablate__V1__Model *message = abl_arena_alloc(arena, sizeof *message);
    if (message == NULL) {
        return NULL;
    }
    ablate__v1__model__init(message);
    message->model_id = borrow(model->object.id);
    message->name = borrow(model->name);
    message->config = convert_config(arena, model->model);
    message->processing = processing_in(arena, model->model);
    message->dtype = abl_convert_dtype(abl_model_dtype(model->model));
    message->device = device_in(arena, model->model);
    message->weight_bytes = (int64_t)abl_model_bytes(model->model);
    message->hash = borrow(abl_model_hash(model->model));
    message->graph_count = 0;
    for (const abl_object *graph = abl_registry_first(registry, ABL_OBJECT_GRAPH); graph != NULL;
         graph = graph->next) {
        message->graph_count += graph->needs[0] == &model->object ? 1 : 0;
    }
    message->default_prepend_bos = model->bos_default;
    message->has_tokenizer = abl_model_tokenizer(model->model) != NULL;
    return message->config == NULL || message->processing == NULL ? NULL : message;
}

Ablate__V1__HookPoint *abl_convert_hook_point(abl_arena *arena, abl_hook hook) {
    Ablate__V1__HookPoint *message = abl_arena_alloc(arena, sizeof *message);
    char name[96];
    char *shape = abl_convert_text(arena, abl_hook_shape(hook.point, false));
    char **parts = abl_arena_alloc(arena, ABL_TENSOR_RANK_MAX * sizeof *parts);
    if (message == NULL || parts == NULL) {
        return NULL;
    }
    ablate__v1__hook_point__init(message);
    message->name = abl_convert_text(arena, abl_hook_name(hook, name, sizeof name));
    message->bridge_name = abl_convert_text(arena, abl_hook_bridge_name(hook, name, sizeof name));
    message->shape = parts;
    char *rest = shape;
    while (rest != NULL && *rest != '\0' && message->n_shape < ABL_TENSOR_RANK_MAX) {
        char *space = strchr(rest, ' ');
        if (space != NULL) {
            *space++ = '\0';
        }
        parts[message->n_shape++] = rest;
        rest = space;
    }
    return message;
}

Ablate__V1__Provenance *abl_convert_provenance(abl_arena *arena, const abl_resident_model *model,
                                               const abl_resident_graph *graph,
                                               const abl_graph_hooks *hooks) {
    Ablate__V1__Provenance *message = abl_arena_alloc(arena, sizeof *message);
    if (message == NULL) {
        return NULL;
    }
    ablate__v1__provenance__init(message);
    message->model = abl_convert_text(arena, model->name);
    message->model_hash = abl_convert_text(arena, abl_model_hash(model->model));
    message->processing = processing_in(arena, model->model);
    message->dtype = abl_convert_dtype(abl_model_dtype(model->model));
    message->device = device_in(arena, model->model);
    message->server_version = borrow(ABLATE_VERSION);
    if (graph != NULL) {
        message->graph = abl_convert_graph_options_back(arena, graph);
    }
    if (abl_graph_hooks_count(hooks) > 0) {
        message->hooks_json = abl_convert_hooks_json(arena, hooks);
    }
    bool ok = message->processing != NULL && message->hooks_json != NULL &&
              (graph == NULL || message->graph != NULL);
    return ok ? message : NULL;
}
