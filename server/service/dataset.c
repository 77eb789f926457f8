/* SPDX-License-Identifier: Apache-2.0
 *
 * A dataset is kept as the bytes that came: their sha256 is its identity, and what they mean in
 * tokens is the business of the job that pairs them with a model. Reading the JSON is work for the
 * pool; whether the bytes are here already is asked on the loop, after it, so that two uploads of
 * the same file at the same time give one dataset. */
#include "core/data/dataset.h"
#include "ablate/v1/dataset.pb-c.h"
#include "core/base/mem.h"
#include "server/convert/common.h"
#include "server/runtime/log.h"
#include "server/service/listing.h"
#include "server/service/rpc.h"

#include <string.h>

static Ablate__V1__Dataset *convert_dataset(abl_arena *arena, const abl_resident_dataset *dataset) {
    Ablate__V1__Dataset *message = abl_arena_alloc(arena, sizeof *message);
    char **labels = abl_arena_alloc(arena, (dataset->seq_label_count + 1) * sizeof *labels);
    if (message == NULL || labels == NULL) {
        return NULL;
    }
    ablate__v1__dataset__init(message);
    message->dataset_id = abl_convert_text(arena, dataset->object.id);
    message->name = abl_convert_text(arena, dataset->name);
    message->hash = abl_convert_text(arena, dataset->hash);
    message->prompt_count = dataset->prompt_count;
    message->json_bytes = (int64_t)dataset->json_bytes;
    for (size_t i = 0; i < dataset->seq_label_count; i++) {
        labels[i] = dataset->seq_labels[i]; /* borrowed */
    }
    message->seq_labels = labels;
    message->n_seq_labels = dataset->seq_label_count;
    return message;
}

/* ---- upload ------------------------------------------------------------------------------- */

typedef struct upload_state {
    const Ablate__V1__UploadDatasetRequest *request;
    abl_dataset_info info;
    char *json;
    char hash[ABL_SHA256_TEXT_BYTES];
} upload_state;

static void upload_end(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    abl_dataset_info_finish(&state->info);
    abl_free(state->json);
}

/* Core's reasons say which rule was broken; the protocol's say what to do about it. */
static abl_code upload_check(upload_state *state, abl_status *ret_status) {
    abl_status inner = {0};
    abl_code code = abl_dataset_check_json((const char *)state->request->json.data,
                                           state->request->json.len, &state->info, &inner);
    if (code == ABL_CODE_INVALID_ARGUMENT) {
        return abl_fail(ret_status, code, "DATASET_MALFORMED", "%s", inner.message);
    }
    if (code == ABL_CODE_RESOURCE_EXHAUSTED && strcmp(inner.reason, "OUT_OF_HOST_MEMORY") != 0) {
        return abl_fail(ret_status, code, "DATASET_TOO_BIG", "%s", inner.message);
    }
    if (code != ABL_CODE_OK) {
        *ret_status = inner;
    }
    return code;
}

static abl_step upload_work(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    const ProtobufCBinaryData *json = &state->request->json;
    if (upload_check(state, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    state->json = abl_malloc(json->len);
    if (state->json == NULL || !abl_convert_sha256(json->data, json->len, state->hash)) {
        (void)abl_fail_oom(&rpc->status);
        return ABL_STEP_DONE;
    }
    memcpy(state->json, json->data, json->len);
    return ABL_STEP_DONE;
}

static abl_resident_dataset *find_hash(abl_registry *registry, const char *hash) {
    for (abl_object *object = abl_registry_first(registry, ABL_OBJECT_DATASET); object != NULL;
         object = object->next) {
        abl_resident_dataset *dataset = (abl_resident_dataset *)object;
        if (strcmp(dataset->hash, hash) == 0) {
            return dataset;
        }
    }
    return NULL;
}

/* The upload as a listed object; NULL: the status says why. */
static abl_resident_dataset *upload_keep(abl_rpc *rpc, upload_state *state) {
    abl_resident_dataset *dataset = abl_resident_dataset_create(
        state->json, state->request->json.len, state->request->name, state->hash);
    if (dataset == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return NULL;
    }
    state->json = NULL; /* the dataset's now, as the labels */
    dataset->prompt_count = state->info.prompt_count;
    dataset->seq_labels = state->info.seq_labels;
    dataset->seq_label_count = (size_t)state->info.seq_label_count;
    state->info = (abl_dataset_info){0};
    if (abl_registry_add(rpc->server->registry, &dataset->object, NULL, 0, &rpc->status) !=
        ABL_CODE_OK) {
        abl_object_unref(&dataset->object);
        return NULL;
    }
    abl_log(ABL_LOG_INFO, "dataset_uploaded", "id=%s prompts=%d bytes=%zu hash=%s",
            dataset->object.id, dataset->prompt_count, dataset->json_bytes, dataset->hash);
    return dataset;
}

static void upload_done(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    Ablate__V1__UploadDatasetResponse response = ABLATE__V1__UPLOAD_DATASET_RESPONSE__INIT;
    abl_resident_dataset *dataset = find_hash(rpc->server->registry, state->hash);
    if (dataset == NULL) {
        dataset = upload_keep(rpc, state);
    }
    if (dataset == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    response.dataset = convert_dataset(rpc->arena, dataset);
    if (response.dataset == NULL) {
        (void)abl_fail_oom(&rpc->status); /* it stays: the same upload again finds it */
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

static void upload_dataset(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__UploadDatasetRequest *request =
        (const Ablate__V1__UploadDatasetRequest *)message;
    upload_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL ||
        abl_convert_name("name", request->name, ABL_NAME_BYTES_MAX, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (request->json.len == 0) {
        abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "DATASET_MALFORMED",
                     "json is empty; it must be an object with a list of prompts");
        return;
    }
    state->request = request;
    rpc->state = state;
    rpc->end_cb = upload_end;
    abl_rpc_pool(rpc, upload_work, upload_done);
}

/* ---- listing and ending ------------------------------------------------------------------- */

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__Dataset *item = convert_dataset(rpc->scratch, (const abl_resident_dataset *)object);
    return item == NULL ? NULL : &item->base;
}

static void list_datasets(abl_rpc *rpc, const ProtobufCMessage *request) {
    Ablate__V1__ListDatasetsResponse response = ABLATE__V1__LIST_DATASETS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_DATASET, .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, request, &response.base);
}

static void delete_dataset(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__DeleteDatasetRequest *request =
        (const Ablate__V1__DeleteDatasetRequest *)message;
    Ablate__V1__DeleteDatasetResponse response = ABLATE__V1__DELETE_DATASET_RESPONSE__INIT;
    abl_rpc_delete(rpc, ABL_OBJECT_DATASET, request->dataset_id, &response.base);
}

static const abl_method methods[] = {
    ABL_RPC_UNARY("/ablate.v1.DatasetService/UploadDataset", upload_dataset, upload_dataset),
    ABL_RPC_UNARY("/ablate.v1.DatasetService/ListDatasets", list_datasets, list_datasets),
    ABL_RPC_UNARY("/ablate.v1.DatasetService/DeleteDataset", delete_dataset, delete_dataset),
};

abl_service abl_dataset_service(abl_server *server) {
    return (abl_service){"ablate.v1.DatasetService", methods, ABL_COUNT_OF(methods), server};
}
