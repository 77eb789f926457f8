/* SPDX-License-Identifier: Apache-2.0
 *
 * LoadModel is two steps: the folder is found on the pool (it is disk work), then the load is
 * joined or started (load.h). Progress is sent as fast as the client takes it, the latest first;
 * what is in between is dropped, which is what a progress bar wants. */
#include "server/convert/model.h"
#include "ablate/v1/model.pb-c.h"
#include "core/base/mem.h"
#include "server/runtime/log.h"
#include "server/service/kv_cache.h"
#include "server/service/listing.h"
#include "server/service/load.h"
#include "server/service/model_rpcs.h"
#include "server/service/rpc.h"

#include <string.h>

typedef struct load_state {
    abl_load_follower follower;
    abl_rpc *rpc;
    const char *name;
    abl_load_options options;
    abl_load_progress progress;
    bool fresh; /* progress that was not sent */
    abl_object *model;
    bool sent_last;
} load_state;

static void load_end(abl_rpc *rpc) {
    load_state *state = rpc->state;
    abl_load_leave(&state->follower);
    abl_model_dir_destroy(state->options.dir);
    abl_object_unref(state->model);
}

static void load_next(abl_rpc *rpc) {
    load_state *state = rpc->state;
    Ablate__V1__LoadModelResponse response = ABLATE__V1__LOAD_MODEL_RESPONSE__INIT;
    if (state->sent_last) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    if (state->model != NULL) {
        abl_resident_model *model = (abl_resident_model *)state->model;
        response.model = abl_convert_model(rpc->arena, rpc->server->registry, model);
        if (response.model == NULL) {
            (void)abl_fail_oom(&rpc->status);
            abl_rpc_fail_status(rpc);
            return;
        }
        response.loaded_bytes = response.model->weight_bytes;
        response.total_bytes = response.model->weight_bytes;
        response.stage = abl_convert_text(rpc->arena, "resident");
        state->sent_last = true;
        abl_rpc_send(rpc, &response.base);
        return;
    }
    if (state->fresh) {
        state->fresh = false;
        response.loaded_bytes = state->progress.loaded_bytes;
        response.total_bytes = state->progress.total_bytes;
        response.stage = state->progress.stage;
        abl_rpc_send(rpc, &response.base);
    }
}

static void load_progressed(abl_load_follower *follower, const abl_load_progress *progress) {
    load_state *state = (load_state *)follower;
    state->progress = *progress;
    state->fresh = true;
    abl_rpc_pump(state->rpc);
}

static void load_ready(abl_load_follower *follower, abl_resident_model *model,
                       const abl_status *status) {
    load_state *state = (load_state *)follower;
    if (model == NULL) {
        state->rpc->status = *status;
        abl_rpc_fail_status(state->rpc);
        return;
    }
    state->model = abl_object_ref(&model->object);
    abl_rpc_pump(state->rpc);
}

static abl_step load_resolve(abl_rpc *rpc) {
    load_state *state = rpc->state;
    (void)!abl_model_dir_create(&rpc->server->options.roots, state->name, &state->options.dir,
                                &rpc->status);
    return ABL_STEP_DONE;
}

static void load_resolved(abl_rpc *rpc) {
    load_state *state = rpc->state;
    state->options.name = abl_convert_text(rpc->arena, state->options.dir->name);
    abl_resident_model *resident = abl_load_find(rpc->server, &state->options);
    if (resident != NULL) {
        state->model = abl_object_ref(&resident->object);
    } else if (abl_load_join(rpc->server, &state->options, &state->follower, &rpc->status) !=
               ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_stream(rpc, load_next);
}

static void load_model(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__LoadModelRequest *request = (const Ablate__V1__LoadModelRequest *)message;
    load_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->rpc = rpc;
    state->name = request->name;
    state->follower.progress_cb = load_progressed;
    state->follower.ready_cb = load_ready;
    rpc->state = state;
    rpc->end_cb = load_end;
    if (request->weights_case == ABLATE__V1__LOAD_MODEL_REQUEST__WEIGHTS_PROCESSING) {
        state->options.processing = abl_convert_processing_back(request->processing);
    } else if (request->weights_case == ABLATE__V1__LOAD_MODEL_REQUEST__WEIGHTS_MODE &&
               request->mode == ABLATE__V1__WEIGHT_MODE__WEIGHT_MODE_TL) {
        state->options.processing = abl_model_processing_tl();
    }
    if (abl_convert_name("name", request->name, ABL_PATH_BYTES_MAX - 1, &rpc->status) !=
            ABL_CODE_OK ||
        abl_convert_weight_dtype(request->dtype, &state->options.dtype, &rpc->status) !=
            ABL_CODE_OK ||
        abl_server_device(rpc->server, request->device, &state->options.slot, &rpc->status) !=
            ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_pool(rpc, load_resolve, load_resolved);
}

static void unload_model(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__UnloadModelRequest *request = (const Ablate__V1__UnloadModelRequest *)message;
    abl_object *object = NULL;
    Ablate__V1__UnloadModelResponse response = ABLATE__V1__UNLOAD_MODEL_RESPONSE__INIT;
    if (abl_registry_find(rpc->server->registry, ABL_OBJECT_MODEL, request->model_id, &object,
                          &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_kv_cache_drop(rpc->server, object);
    response.freed_bytes = object->bytes;
    if (abl_registry_remove(rpc->server->registry, object, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    char id[ABL_NAME_BYTES_MAX];
    abl_log(ABL_LOG_INFO, "model_unloaded", "id=%s bytes=%lld",
            abl_log_quote(id, sizeof id, request->model_id), (long long)response.freed_bytes);
    abl_rpc_reply(rpc, &response.base);
}

/* The model with that id, or the only one with that name. */
static abl_object *find_model(abl_rpc *rpc, const char *text) {
    abl_object *found = NULL;
    size_t count = 0;
    for (abl_object *object = abl_registry_first(rpc->server->registry, ABL_OBJECT_MODEL);
         object != NULL; object = object->next) {
        if (strcmp(object->id, text) == 0) {
            return object;
        }
        if (strcmp(object->name, text) == 0) {
            found = object;
            count++;
        }
    }
    if (count == 1) {
        return found;
    }
    if (count > 1) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "MODEL_AMBIGUOUS",
                       "%zu resident models are called '%.64s'; give the model_id of one", count,
                       text);
        return NULL;
    }
    abl_code code =
        abl_registry_find(rpc->server->registry, ABL_OBJECT_MODEL, text, &found, &rpc->status);
    return code == ABL_CODE_OK ? found : NULL;
}

static void get_model(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetModelRequest *request = (const Ablate__V1__GetModelRequest *)message;
    Ablate__V1__GetModelResponse response = ABLATE__V1__GET_MODEL_RESPONSE__INIT;
    abl_object *object = find_model(rpc, request->model_id);
    if (object != NULL) {
        response.model =
            abl_convert_model(rpc->arena, rpc->server->registry, (abl_resident_model *)object);
        if (response.model != NULL) {
            abl_rpc_reply(rpc, &response.base);
            return;
        }
        (void)abl_fail_oom(&rpc->status);
    }
    abl_rpc_fail_status(rpc);
}

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__Model *item = abl_convert_model(rpc->scratch, rpc->server->registry,
                                                (abl_resident_model *)(uintptr_t)object);
    return item == NULL ? NULL : &item->base;
}

static void list_models(abl_rpc *rpc, const ProtobufCMessage *request) {
    Ablate__V1__ListModelsResponse response = ABLATE__V1__LIST_MODELS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_MODEL, .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, request, &response.base);
}

static void list_hook_points(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListHookPointsRequest *request =
        (const Ablate__V1__ListHookPointsRequest *)message;
    Ablate__V1__ListHookPointsResponse response = ABLATE__V1__LIST_HOOK_POINTS_RESPONSE__INIT;
    abl_object *object = abl_rpc_use(rpc, ABL_OBJECT_MODEL, request->model_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    const abl_model_config *config = abl_model_get_config(((abl_resident_model *)object)->model);
    size_t count = abl_hook_list(config, NULL, 0);
    abl_hook *hooks = abl_rpc_alloc(rpc, count * sizeof *hooks);
    response.hook_points = abl_rpc_alloc(rpc, count * sizeof *response.hook_points);
    bool whole = hooks != NULL && response.hook_points != NULL;
    if (whole) {
        (void)abl_hook_list(config, hooks, count);
    }
    for (size_t i = 0; whole && i < count; i++) {
        response.hook_points[i] = abl_convert_hook_point(rpc->arena, hooks[i]);
        whole = response.hook_points[i] != NULL;
    }
    if (!whole) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    response.n_hook_points = count;
    abl_rpc_reply(rpc, &response.base);
}

typedef struct files_state {
    abl_page page;
    abl_model_list *list;
    const char **problems; /* of the roots, the hub cache behind them */
} files_state;

/* The roots, and the hub cache behind them; NULL: there are no more. */
static const char *files_root(const abl_rpc *rpc, size_t i) {
    const abl_model_roots *roots = &rpc->server->options.roots;
    return i < roots->count ? roots->paths[i] : i == roots->count ? roots->hub_cache : NULL;
}

static void files_end(abl_rpc *rpc) {
    abl_model_list_destroy(((files_state *)rpc->state)->list);
}

static abl_step files_read(abl_rpc *rpc) {
    files_state *state = rpc->state;
    for (size_t i = 0; files_root(rpc, i) != NULL; i++) {
        state->problems[i] = abl_model_root_problem(files_root(rpc, i));
    }
    (void)!abl_model_list_create(&rpc->server->options.roots, &state->list, &rpc->status);
    return ABL_STEP_DONE;
}

static bool files_put_roots(abl_rpc *rpc, Ablate__V1__ListModelFilesResponse *response) {
    const files_state *state = rpc->state;
    size_t count = rpc->server->options.roots.count + 1;
    Ablate__V1__ModelRoot *roots = abl_rpc_alloc(rpc, count * sizeof *roots);
    response->roots = abl_rpc_alloc(rpc, count * sizeof *response->roots);
    if (roots == NULL || response->roots == NULL) {
        return false;
    }
    for (size_t i = 0; files_root(rpc, i) != NULL; i++) {
        ablate__v1__model_root__init(&roots[i]);
        roots[i].path = abl_convert_text(rpc->arena, files_root(rpc, i));
        roots[i].problem = abl_convert_text(rpc->arena, state->problems[i]);
        roots[i].hub_cache = i == count - 1;
        response->roots[response->n_roots++] = &roots[i];
    }
    return true;
}

static void files_listed(abl_rpc *rpc) {
    files_state *state = rpc->state;
    Ablate__V1__ListModelFilesResponse response = ABLATE__V1__LIST_MODEL_FILES_RESPONSE__INIT;
    size_t from =
        state->page.after < state->list->count ? (size_t)state->page.after : state->list->count;
    size_t count = state->list->count - from;
    count = count < state->page.size ? count : state->page.size;
    Ablate__V1__ModelFile *files = abl_rpc_alloc(rpc, count * sizeof *files);
    response.models = abl_rpc_alloc(rpc, count * sizeof *response.models);
    if (from + count < state->list->count) {
        response.next_page_token = abl_arena_printf(rpc->arena, "%zu", from + count);
    }
    if (files == NULL || response.models == NULL || response.next_page_token == NULL ||
        !files_put_roots(rpc, &response)) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const abl_model_list_entry *entry = &state->list->entries[from + i];
        ablate__v1__model_file__init(&files[i]);
        files[i].name = entry->name;
        files[i].family = entry->family;
        files[i].file_bytes = (int64_t)entry->bytes;
        files[i].problem =
            abl_convert_text(rpc->arena, entry->problem == NULL ? "" : entry->problem);
        response.models[i] = &files[i];
    }
    response.n_models = count;
    abl_rpc_reply(rpc, &response.base);
}

static void list_model_files(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__ListModelFilesRequest *request =
        (const Ablate__V1__ListModelFilesRequest *)message;
    files_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL || abl_convert_page(request->page_size, request->page_token, &state->page,
                                          &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->problems =
        abl_rpc_alloc(rpc, (rpc->server->options.roots.count + 1) * sizeof *state->problems);
    if (state->problems == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    rpc->state = state;
    rpc->end_cb = files_end;
    abl_rpc_pool(rpc, files_read, files_listed);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.ModelService/ListModelFiles", list_model_files, list_model_files),
    ABL_RPC_STREAM("/ablate.v1.ModelService/LoadModel", load_model, load_model),
    ABL_RPC_CLIENT_STREAM("/ablate.v1.ModelService/UploadModel", abl_rpc_upload_model),
    ABL_RPC_UNARY("/ablate.v1.ModelService/UnloadModel", unload_model, unload_model),
    ABL_RPC_UNARY("/ablate.v1.ModelService/GetModel", get_model, get_model),
    ABL_RPC_UNARY("/ablate.v1.ModelService/ListModels", list_models, list_models),
    ABL_RPC_UNARY("/ablate.v1.ModelService/ListHookPoints", list_hook_points, list_hook_points),
    ABL_RPC_UNARY("/ablate.v1.ModelService/ListParameters", list_parameters,
                  abl_rpc_list_parameters),
    ABL_RPC_STREAM("/ablate.v1.ModelService/GetParameter", get_parameter, abl_rpc_get_parameter),
    ABL_RPC_STREAM("/ablate.v1.ModelService/InputToEmbed", input_to_embed, abl_rpc_input_to_embed),
    ABL_RPC_UNARY("/ablate.v1.ModelService/ToTokens", to_tokens, abl_rpc_to_tokens),
    ABL_RPC_UNARY("/ablate.v1.ModelService/ToStrTokens", to_str_tokens, abl_rpc_to_str_tokens),
    ABL_RPC_UNARY("/ablate.v1.ModelService/ToString", to_string, abl_rpc_to_string),
};

abl_service abl_model_service(abl_server *server) {
    return (abl_service){"ablate.v1.ModelService", methods, ABL_COUNT_OF(methods), server};
}
