/* SPDX-License-Identifier: Apache-2.0
 *
 * Resident ablations. Prompts are tokenized on the pool; then a pass a step on the device, in the
 * class of jobs and in slices, so that other calls go in between and the client sees how far it is.
 * Prompts given as such become a dataset without corrupt prompts, so that there is one way to make
 * an ablation. */
#include "server/service/ablation.h"

#include "ablate/v1/cache.pb-c.h"
#include "core/base/mem.h"
#include "core/patch/ablation.h"
#include "server/convert/ablation.h"
#include "server/convert/model.h"
#include "server/convert/prompts.h"
#include "server/runtime/log.h"
#include "server/service/kv_cache.h"
#include "server/service/listing.h"
#include "server/service/progress.h"

#include <stdio.h>
#include <string.h>

/* ---- create ------------------------------------------------------------------------------- */

typedef struct create_state {
    abl_ablation_request request;
    abl_resident_model *model;
    abl_resident_dataset *dataset; /* NULL: prompts */
    abl_device_slot *slot;
    abl_dataset *tokenized;
    char tokens_hash[ABL_SHA256_TEXT_BYTES]; /* of `tokenized` before a prefix is cut off */
    bool bos;
    abl_kv_use kv;
    abl_ablation_options options;
    abl_progress progress;
    abl_ablation_build *build; /* the executor's */
    abl_sources *sources;      /* what it made */
    bool sent;
} create_state;

static void build_drop(void *build) {
    abl_ablation_build_destroy(build);
}

static void create_end(abl_rpc *rpc) {
    create_state *state = rpc->state;
    abl_server_drop(state->slot, build_drop, state->build);
    abl_sources_destroy(state->sources);
    abl_dataset_destroy(state->tokenized);
    abl_kv_use_finish(&state->kv);
}

static void create_work_end(abl_rpc *rpc) {
    create_state *state = rpc->state;
    if (!state->progress.paused) {
        abl_ablation_build_destroy(state->build);
        state->build = NULL;
    }
}

/* Prompts in hand as a dataset; nobody asks for the answers. */
static abl_code prompts_dataset(abl_rpc *rpc, create_state *state) {
    abl_token_batch batch;
    abl_code code = abl_prompts_tokens("prompts", &state->request.prompts, state->model->model,
                                       state->model->bos_default, rpc->arena, &batch, &rpc->status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    int32_t *answers = abl_arena_alloc(rpc->arena, (size_t)batch.batch * sizeof *answers);
    int32_t *offsets = abl_arena_alloc(rpc->arena, (size_t)(batch.batch + 1) * sizeof *offsets);
    if (answers == NULL || offsets == NULL) {
        return abl_fail_oom(&rpc->status);
    }
    for (int32_t i = 0; i <= batch.batch; i++) {
        offsets[i] = i;
    }
    const abl_dataset_tokens tokens = {.clean = batch.tokens,
                                       .prompt_count = (int32_t)batch.batch,
                                       .seq_len = (int32_t)batch.seq,
                                       .answers = answers,
                                       .answer_offsets = offsets};
    return abl_dataset_create_tokens(&tokens, &state->tokenized, &rpc->status);
}

static abl_code dataset_tokenize(abl_rpc *rpc, create_state *state) {
    const abl_model *model = state->model->model;
    abl_code code = abl_convert_bos(model, state->request.bos, state->model->bos_default,
                                    &state->bos, &rpc->status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    return abl_prompts_of_dataset(state->dataset, model,
                                  state->bos ? ABL_BOS_PREPEND : ABL_BOS_NEVER, &state->tokenized,
                                  &rpc->status);
}

static abl_step tokenize_work(abl_rpc *rpc) {
    create_state *state = rpc->state;
    abl_code code =
        state->dataset == NULL ? prompts_dataset(rpc, state) : dataset_tokenize(rpc, state);
    if (code != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    (void)snprintf(state->tokens_hash, sizeof state->tokens_hash, "%s",
                   abl_dataset_hash(state->tokenized));
    int32_t there = abl_dataset_prompt_count(state->tokenized);
    int32_t count = state->request.prompt_count == 0 ? there : state->request.prompt_count;
    if (count > there) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_COUNT_INVALID",
                       "prompt_count is %d; the dataset has %d prompts", count, there);
        return ABL_STEP_DONE;
    }
    state->options = (abl_ablation_options){.model = state->model->model,
                                            .ablation = state->request.ablation,
                                            .batches = {.dataset = state->tokenized,
                                                        .count = count,
                                                        .batch_size = state->request.batch_size},
                                            .clean = state->request.from_clean,
                                            .residuals = true};
    (void)!abl_kv_use_choose(&state->kv, state->tokenized, &rpc->status);
    return ABL_STEP_DONE;
}

static abl_step create_work(abl_rpc *rpc) {
    create_state *state = rpc->state;
    if (state->build == NULL &&
        (abl_server_admit(rpc->server, state->slot->device,
                          (uint64_t)abl_ablation_build_bytes_estimate(&state->options),
                          "use fewer prompts (prompt_count), a smaller batch_size, or a mean",
                          &rpc->status) != ABL_CODE_OK ||
         abl_ablation_build_create(&state->options, &state->build, &rpc->status) != ABL_CODE_OK)) {
        return ABL_STEP_DONE;
    }
    state->progress.paused = false;
    if (abl_ablation_build_step(state->build, &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    abl_metrics_work(rpc->server->metrics, 1, 0);
    int32_t done = abl_ablation_build_steps_done(state->build);
    int32_t total = abl_ablation_build_step_count(state->build);
    if (done == total) {
        state->sources = abl_ablation_build_take(state->build);
    }
    return abl_progress_step(&state->progress, done, total);
}

/* What was made as a listed object; NULL: the status says why. */
static abl_resident_ablation *create_keep(abl_rpc *rpc, create_state *state) {
    const abl_ablation_request *request = &state->request;
    int32_t prompt_count = state->options.batches.count;
    Ablate__V1__Provenance *provenance =
        abl_convert_provenance(rpc->arena, state->model, NULL, NULL);
    const abl_ablation_made_of of = {.bos = state->bos,
                                     .prompt_count = prompt_count,
                                     .prefix_length =
                                         abl_prefix_length(state->options.batches.prefix),
                                     .tokens_hash = state->tokens_hash};
    char *json = abl_convert_ablation_json(request, &of, rpc->arena);
    abl_resident_ablation *ablation =
        provenance == NULL || json == NULL ? NULL : abl_resident_ablation_create(state->sources);
    if (ablation == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return NULL;
    }
    state->sources = NULL; /* the object's now */
    ablation->ablation = request->ablation;
    ablation->clean = request->from_clean;
    ablation->prompt_count = prompt_count;
    ablation->created_ms = abl_time_ms();
    provenance->algorithm_json = json;
    if (state->dataset != NULL) {
        ablation->from_dataset = true;
        (void)snprintf(ablation->dataset_id, sizeof ablation->dataset_id, "%s",
                       state->dataset->object.id);
        (void)snprintf(ablation->dataset_hash, sizeof ablation->dataset_hash, "%s",
                       state->dataset->hash);
        provenance->dataset_hash = ablation->dataset_hash;
    }
    ablation->provenance_bytes = protobuf_c_message_get_packed_size(&provenance->base);
    ablation->provenance = abl_malloc(ablation->provenance_bytes);
    abl_object *needs[] = {&state->model->object};
    if (ablation->provenance == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else {
        (void)protobuf_c_message_pack(&provenance->base, ablation->provenance);
    }
    if (rpc->status.code != ABL_CODE_OK ||
        abl_registry_add(rpc->server->registry, &ablation->object, needs, ABL_COUNT_OF(needs),
                         &rpc->status) != ABL_CODE_OK) {
        abl_object_unref(&ablation->object);
        return NULL;
    }
    abl_log(ABL_LOG_INFO, "ablation_created", "id=%s model=%s type=%s prompts=%d bytes=%lld",
            ablation->object.id, state->model->object.id, abl_ablation_name(ablation->ablation),
            prompt_count, (long long)ablation->object.bytes);
    return ablation;
}

static void create_done(abl_rpc *rpc);

static void create_next(abl_rpc *rpc) {
    create_state *state = rpc->state;
    if (state->sent) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    if (!state->progress.due && state->progress.paused) {
        abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_JOB, create_work, create_done);
        return;
    }
    Ablate__V1__CreateAblationResponse response = ABLATE__V1__CREATE_ABLATION_RESPONSE__INIT;
    response.done_count = (int32_t)state->progress.done;
    response.total_count = (int32_t)state->progress.total;
    if (!state->progress.due) {
        abl_resident_ablation *ablation = create_keep(rpc, state);
        response.ablation = ablation == NULL
                                ? NULL
                                : abl_convert_ablation(rpc->arena, rpc->server->registry, ablation);
        if (ablation != NULL && response.ablation == NULL) {
            (void)!abl_registry_remove(rpc->server->registry, &ablation->object, NULL);
            (void)abl_fail_oom(&rpc->status);
        }
        if (response.ablation == NULL) {
            abl_rpc_fail_status(rpc);
            return;
        }
        state->sent = true;
    }
    state->progress.due = false;
    abl_rpc_send(rpc, &response.base);
}

static void create_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, create_next);
}

static abl_step prefix_work(abl_rpc *rpc) {
    create_state *state = rpc->state;
    abl_batches *batches = &state->options.batches;
    (void)!abl_kv_use_apply(&state->kv, &state->tokenized, &batches->prefix, &rpc->status);
    batches->dataset = state->tokenized;
    return ABL_STEP_DONE;
}

static void prefix_done(abl_rpc *rpc) {
    create_state *state = rpc->state;
    if (abl_kv_use_keep(rpc, &state->kv) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_JOB, create_work, create_done);
}

static void tokenize_done(abl_rpc *rpc) {
    create_state *state = rpc->state;
    if (abl_kv_use_find(rpc, &state->kv) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    if (state->kv.length > 0) {
        abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_JOB, prefix_work, prefix_done);
        return;
    }
    abl_rpc_run(rpc, state->slot, ABL_TASK_CLASS_JOB, create_work, create_done);
}

void abl_rpc_create_ablation(abl_rpc *rpc, const ProtobufCMessage *message) {
    create_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (state == NULL ||
        abl_convert_create_ablation((const Ablate__V1__CreateAblationRequest *)message, rpc->arena,
                                    &state->request, &rpc->status) != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->model =
        (abl_resident_model *)abl_rpc_use(rpc, ABL_OBJECT_MODEL, state->request.model_id);
    bool found = state->model != NULL;
    if (found && state->request.dataset_id != NULL) {
        state->dataset =
            (abl_resident_dataset *)abl_rpc_use(rpc, ABL_OBJECT_DATASET, state->request.dataset_id);
        found = state->dataset != NULL;
    }
    if (found) {
        found = abl_kv_use_init(&state->kv, state->model, NULL, state->request.tail_divergence,
                                &rpc->status) == ABL_CODE_OK &&
                (state->request.kv_cache_id == NULL ||
                 abl_kv_use_name(rpc, &state->kv, state->request.kv_cache_id));
    }
    if (!found) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->slot = abl_server_slot(rpc->server, abl_model_device(state->model->model));
    rpc->state = state;
    rpc->end_cb = create_end;
    rpc->work_end_cb = create_work_end;
    abl_rpc_pool(rpc, tokenize_work, tokenize_done);
}

/* ---- the tensor --------------------------------------------------------------------------- */

typedef struct get_state {
    abl_resident_ablation *ablation;
    float *values;
    int64_t shape[4];
    size_t bytes;
    size_t offset;
} get_state;

static void get_end(abl_rpc *rpc) {
    abl_free(((get_state *)rpc->state)->values);
}

static abl_step get_work(abl_rpc *rpc) {
    get_state *state = rpc->state;
    const abl_sources *sources = state->ablation->sources;
    const abl_model *model = abl_resident_ablation_model(state->ablation)->model;
    const abl_model_config *config = abl_model_get_config(model);
    state->shape[0] = 1 + (int64_t)config->n_layers * (config->n_heads + 1);
    state->shape[1] = abl_sources_rows(sources);
    state->shape[2] = abl_sources_seq(sources);
    state->shape[3] = config->d_model;
    size_t count = 1;
    for (size_t i = 0; i < ABL_COUNT_OF(state->shape); i++) {
        count *= (size_t)state->shape[i];
    }
    state->bytes = count * sizeof(float);
    if (abl_server_admit(rpc->server, ABL_HOST, 2 * (uint64_t)state->bytes,
                         "make an ablation of fewer prompts", &rpc->status) != ABL_CODE_OK) {
        return ABL_STEP_DONE;
    }
    state->values = abl_malloc(state->bytes);
    if (state->values == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else {
        (void)!abl_sources_read(model, sources, state->values, count, &rpc->status);
    }
    return ABL_STEP_DONE;
}

static void get_next(abl_rpc *rpc) {
    get_state *state = rpc->state;
    if (state->offset == state->bytes) {
        abl_rpc_finish_ok(rpc);
        return;
    }
    const abl_chunk_source source = {.name = "src_ablations",
                                     .dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32,
                                     .shape = state->shape,
                                     .rank = ABL_COUNT_OF(state->shape),
                                     .data = state->values,
                                     .bytes = state->bytes};
    Ablate__V1__GetAblationResponse response = ABLATE__V1__GET_ABLATION_RESPONSE__INIT;
    Ablate__V1__TensorChunk chunk;
    int64_t shape[ABL_COUNT_OF(state->shape)];
    abl_convert_chunk(&source, state->offset, shape, &chunk, &state->offset);
    response.chunk = &chunk;
    abl_rpc_send(rpc, &response.base);
}

static void get_done(abl_rpc *rpc) {
    abl_rpc_stream(rpc, get_next);
}

void abl_rpc_get_ablation(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__GetAblationRequest *request = (const Ablate__V1__GetAblationRequest *)message;
    get_state *state = abl_rpc_alloc(rpc, sizeof *state);
    abl_object *object =
        state == NULL ? NULL : abl_rpc_use(rpc, ABL_OBJECT_ABLATION, request->ablation_id);
    if (object == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->ablation = (abl_resident_ablation *)object;
    abl_resident_model *model = abl_resident_ablation_model(state->ablation);
    rpc->state = state;
    rpc->end_cb = get_end;
    abl_rpc_run(rpc, abl_server_slot(rpc->server, abl_model_device(model->model)),
                ABL_TASK_CLASS_INTERACTIVE, get_work, get_done);
}

/* ---- listing and ending ------------------------------------------------------------------- */

static ProtobufCMessage *item_of(abl_rpc *rpc, const abl_object *object) {
    Ablate__V1__ResidentAblation *item = abl_convert_ablation(
        rpc->scratch, rpc->server->registry, (const abl_resident_ablation *)object);
    return item == NULL ? NULL : &item->base;
}

void abl_rpc_list_ablations(abl_rpc *rpc, const ProtobufCMessage *request) {
    Ablate__V1__ListAblationsResponse response = ABLATE__V1__LIST_ABLATIONS_RESPONSE__INIT;
    const abl_listing listing = {.kind = ABL_OBJECT_ABLATION, .convert_cb = item_of};
    abl_rpc_list(rpc, &listing, request, &response.base);
}

void abl_rpc_delete_ablation(abl_rpc *rpc, const ProtobufCMessage *message) {
    const Ablate__V1__DeleteAblationRequest *request =
        (const Ablate__V1__DeleteAblationRequest *)message;
    Ablate__V1__DeleteAblationResponse response = ABLATE__V1__DELETE_ABLATION_RESPONSE__INIT;
    abl_rpc_delete(rpc, ABL_OBJECT_ABLATION, request->ablation_id, &response.base);
}
