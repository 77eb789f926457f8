/* SPDX-License-Identifier: Apache-2.0
 *
 * A mean fits every dataset whose prompts are as long; rows fit the prompts they are of and no
 * others, so those are tied to their dataset by its hash: the same file uploaded again will do. */
#include "server/convert/ablation.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "server/convert/wire.h"

#include <jansson.h>
#include <string.h>

#define BATCH_SIZE_DEFAULT 8
#define JOB_LIST_MAX 100

static abl_code source_check(const Ablate__V1__CreateAblationRequest *message,
                             abl_status *ret_status) {
    if (message->source_case == ABLATE__V1__CREATE_ABLATION_REQUEST__SOURCE__NOT_SET) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SOURCE",
                        "neither dataset_id nor prompts is given; an ablation is made of one");
    }
    bool prompts = message->source_case == ABLATE__V1__CREATE_ABLATION_REQUEST__SOURCE_PROMPTS;
    if (prompts && (message->from_clean || message->prompt_count != 0 || message->bos != 0)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_SOURCE",
                        "from_clean, prompt_count and bos are about a dataset; with prompts leave "
                        "them unset");
    }
    return ABL_CODE_OK;
}

abl_code abl_convert_create_ablation(const Ablate__V1__CreateAblationRequest *message,
                                     abl_arena *arena, abl_ablation_request *ret_request,
                                     abl_status *ret_status) {
    abl_ablation_request request = {.model_id = message->model_id,
                                    .ablation = abl_convert_ablation_type(message->type),
                                    .from_clean = message->from_clean != 0,
                                    .prompt_count = message->prompt_count,
                                    .batch_size = message->batch_size,
                                    .bos = message->bos,
                                    .tail_divergence = message->tail_divergence != 0};
    if (request.ablation == ABL_ABLATION_ZERO) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_ZERO",
                        "type is ZERO, which needs nothing made; ask for it where it is used");
    }
    abl_code code = source_check(message, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    request.kv_cache_id = message->kv_cache_id[0] == '\0' ? NULL : message->kv_cache_id;
    if (request.tail_divergence && request.kv_cache_id != NULL) {
        return abl_fail(
            ret_status, ABL_CODE_INVALID_ARGUMENT, "TAIL_DIVERGENCE",
            "tail_divergence and kv_cache_id are both given; either the prompts say the "
            "prefix, or the cache does");
    }
    if (message->prompt_count < 0 || message->prompt_count > ABL_PROMPT_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_COUNT_INVALID",
                        "prompt_count is %d; it must be 0 (all) to %d", message->prompt_count,
                        ABL_PROMPT_COUNT_MAX);
    }
    if (message->batch_size < 0 || message->batch_size > ABL_BATCH_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "BATCH_INVALID",
                        "batch_size is %d; it must be 0 (the default) to %d", message->batch_size,
                        ABL_BATCH_MAX);
    }
    if (request.batch_size == 0) {
        request.batch_size = BATCH_SIZE_DEFAULT;
    }
    if (message->source_case == ABLATE__V1__CREATE_ABLATION_REQUEST__SOURCE_PROMPTS) {
        code =
            abl_convert_prompts("prompts", message->prompts, arena, &request.prompts, ret_status);
    } else {
        request.dataset_id = message->dataset_id;
    }
    if (code == ABL_CODE_OK) {
        *ret_request = request;
    }
    return code;
}

char *abl_convert_ablation_json(const abl_ablation_request *request, const abl_ablation_made_of *of,
                                abl_arena *arena) {
    json_t *root = json_pack("{s:s, s:b, s:i, s:i, s:s}", "ablation_type",
                             abl_ablation_name(request->ablation), "from_clean",
                             (int)request->from_clean, "batch_size", (int)request->batch_size,
                             "prompt_count", (int)of->prompt_count, "tokens_hash", of->tokens_hash);
    if (request->dataset_id != NULL) {
        (void)json_object_set_new(root, "prepend_bos", json_boolean(of->bos));
    }
    if (of->prefix_length > 0) {
        (void)json_object_set_new(root, "prefix_length", json_integer(of->prefix_length));
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    char *copy = text == NULL ? NULL : abl_arena_strndup(arena, text, strlen(text));
    abl_free(text); /* jansson's block */
    json_decref(root);
    return copy;
}

/* The jobs that run with it; false: no memory. */
static bool jobs_list(abl_arena *arena, const abl_registry *registry,
                      const abl_resident_ablation *ablation,
                      Ablate__V1__ResidentAblation *message) {
    message->job_ids = abl_arena_alloc(arena, JOB_LIST_MAX * sizeof *message->job_ids);
    for (const abl_object *job = abl_registry_first(registry, ABL_OBJECT_JOB);
         message->job_ids != NULL && job != NULL && message->n_job_ids < JOB_LIST_MAX;
         job = job->next) {
        if (abl_object_needs(job, &ablation->object)) {
            message->job_ids[message->n_job_ids++] = abl_convert_text(arena, job->id);
        }
    }
    return message->job_ids != NULL;
}

Ablate__V1__ResidentAblation *abl_convert_ablation(abl_arena *arena, const abl_registry *registry,
                                                   const abl_resident_ablation *ablation) {
    Ablate__V1__ResidentAblation *message = abl_arena_alloc(arena, sizeof *message);
    ProtobufCMessage *provenance = NULL;
    if (message == NULL ||
        abl_wire_unpack(&ablate__v1__provenance__descriptor, ablation->provenance,
                        ablation->provenance_bytes, arena, &provenance, NULL) != ABL_CODE_OK) {
        return NULL;
    }
    ablate__v1__resident_ablation__init(message);
    if (!jobs_list(arena, registry, ablation, message)) {
        return NULL;
    }
    message->ablation_id = abl_convert_text(arena, ablation->object.id);
    message->model_id = abl_convert_text(arena, abl_resident_ablation_model(ablation)->object.id);
    message->dataset_id = abl_convert_text(arena, ablation->dataset_id);
    message->type = (Ablate__V1__AblationType)(ablation->ablation + 1);
    message->from_clean = ablation->clean;
    message->prompt_count = ablation->prompt_count;
    message->seq_len = abl_sources_seq(ablation->sources);
    message->row_count = abl_sources_rows(ablation->sources);
    message->prefix_length = abl_sources_prefix_length(ablation->sources);
    message->bytes = ablation->object.bytes;
    message->call_count = (int32_t)ablation->object.call_count;
    message->created_ms = ablation->created_ms;
    message->provenance = (Ablate__V1__Provenance *)provenance;
    return message;
}

abl_code abl_convert_ablation_fits(const abl_resident_ablation *ablation,
                                   const abl_resident_model *model, const char *dataset_hash,
                                   abl_status *ret_status) {
    const abl_resident_model *own = abl_resident_ablation_model(ablation);
    if (own != model) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_MODEL_MISMATCH",
                        "ablation_id: %s is of model %s, and %s is what runs; an ablation is of "
                        "one model's sources",
                        ablation->object.id, own->object.id, model->object.id);
    }
    bool rows = abl_sources_rows(ablation->sources) != 1;
    if (dataset_hash != NULL && rows && strcmp(ablation->dataset_hash, dataset_hash) != 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_DATASET_MISMATCH",
                        "ablation_id: %s has a row for each prompt of another dataset (%s); make "
                        "one of this dataset, or a mean, which has no rows",
                        ablation->object.id,
                        ablation->from_dataset ? ablation->dataset_id : "prompts");
    }
    return ABL_CODE_OK;
}

abl_code abl_convert_ablation_alone(const char *field, Ablate__V1__AblationType type,
                                    abl_status *ret_status) {
    if (type == ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_UNSPECIFIED) {
        return ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_CONFLICT",
                    "%s is given with an ablation_id, which has its type; give one or the other",
                    field);
}

_Static_assert((int)ABLATE__V1__ABLATION_TYPE__ABLATION_TYPE_BATCH_ALL_TOK_MEAN ==
                   ABL_ABLATION_BATCH_ALL_TOK_MEAN + 1,
               "the protocol's numbers are the core's plus one");
