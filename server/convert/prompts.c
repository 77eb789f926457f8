/* SPDX-License-Identifier: Apache-2.0
 *
 * A batch is a rectangle: nothing is padded, because a pad token would be attended to and change
 * the answer silently. Texts of different token lengths are refused with both lengths. */
#include "server/convert/prompts.h"

#include "core/base/limits.h"
#include "core/base/mem.h"

#include <string.h>

abl_code abl_convert_bos(const abl_model *model, Ablate__V1__BosPolicy bos, bool unspecified,
                         bool *ret_prepend, abl_status *ret_status) {
    const abl_tokenizer *tokenizer = abl_model_tokenizer(model);
    bool known = tokenizer != NULL && abl_tokenizer_bos_id(tokenizer) != ABL_TOKEN_NONE;
    if (bos == ABLATE__V1__BOS_POLICY__BOS_POLICY_PREPEND && !known) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "BOS_UNKNOWN",
                        "BOS_POLICY_PREPEND is asked for, and this model's tokenizer has no BOS "
                        "token");
    }
    *ret_prepend = bos == ABLATE__V1__BOS_POLICY__BOS_POLICY_PREPEND ||
                   (bos == ABLATE__V1__BOS_POLICY__BOS_POLICY_UNSPECIFIED && unspecified && known);
    return ABL_CODE_OK;
}

abl_code abl_convert_encode(const abl_model *model, const char *text, bool prepend,
                            int32_t **ret_ids, size_t *ret_count, abl_status *ret_status) {
    const abl_tokenizer *tokenizer = abl_model_tokenizer(model);
    if (tokenizer == NULL) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "TOKENIZER_MISSING",
                        "this model has no tokenizer.json: send token ids instead of text");
    }
    int32_t *ids = NULL;
    size_t count = 0;
    abl_code code = abl_tokenizer_encode(tokenizer, text, strlen(text), &ids, &count, ret_status);
    if (code == ABL_CODE_OK && prepend) {
        int32_t *longer = abl_realloc_array(ids, count + 1, sizeof *ids);
        if (longer == NULL) {
            abl_free(ids);
            return abl_fail_oom(ret_status);
        }
        memmove(longer + 1, longer, count * sizeof *longer);
        longer[0] = abl_tokenizer_bos_id(tokenizer);
        ids = longer;
        count++;
    }
    if (code == ABL_CODE_OK) {
        *ret_ids = ids;
        *ret_count = count;
    }
    return code;
}

static abl_code encode_all(const char *field, const abl_prompts *prompts, const abl_model *model,
                           bool prepend, abl_arena *arena, abl_token_batch *ret_batch,
                           abl_status *ret_status) {
    int32_t *tokens = NULL;
    size_t seq = 0;
    for (int64_t i = 0; i < prompts->batch; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        abl_code code =
            abl_convert_encode(model, prompts->texts[i], prepend, &ids, &count, ret_status);
        if (code != ABL_CODE_OK) {
            return code;
        }
        if (i == 0) {
            seq = count;
            tokens = seq > ABL_SEQ_MAX
                         ? NULL
                         : abl_arena_alloc(arena, (size_t)prompts->batch * seq * sizeof *tokens);
        }
        if (count != seq) {
            code = abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PROMPT_LENGTHS",
                            "%s: prompt %lld has %zu tokens, prompt 0 has %zu; all must have the "
                            "same number (pad or group them)",
                            field, (long long)i, count, seq);
        } else if (seq > ABL_SEQ_MAX) {
            code = abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "SEQ_TOO_LONG",
                            "%s has %zu tokens a prompt; at most %d are taken", field, seq,
                            ABL_SEQ_MAX);
        } else if (tokens == NULL) {
            code = abl_fail_oom(ret_status);
        } else {
            memcpy(tokens + (size_t)i * seq, ids, seq * sizeof *ids);
        }
        abl_free(ids);
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    *ret_batch = (abl_token_batch){tokens, prompts->batch, (int64_t)seq};
    return ABL_CODE_OK;
}

abl_code abl_prompts_tokens(const char *field, const abl_prompts *prompts, const abl_model *model,
                            bool bos_default, abl_arena *arena, abl_token_batch *ret_batch,
                            abl_status *ret_status) {
    abl_token_batch batch = {prompts->tokens, prompts->batch, prompts->seq};
    if (prompts->tokens == NULL) {
        bool prepend = false;
        abl_code code = abl_convert_bos(model, prompts->bos, bos_default, &prepend, ret_status);
        if (code == ABL_CODE_OK) {
            code = encode_all(field, prompts, model, prepend, arena, &batch, ret_status);
        }
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    abl_code code = abl_tokens_check(abl_model_get_config(model), batch.tokens, batch.batch,
                                     batch.seq, ret_status);
    if (code == ABL_CODE_OK) {
        *ret_batch = batch;
    }
    return code;
}

abl_code abl_prompts_of_dataset(const abl_resident_dataset *dataset, const abl_model *model,
                                abl_bos_policy bos, abl_dataset **ret_dataset,
                                abl_status *ret_status) {
    const abl_model_config *config = abl_model_get_config(model);
    const abl_dataset_options options = {.tokenizer = abl_model_tokenizer(model),
                                         .bos = bos,
                                         .vocab_size = abl_model_config_id_count(config),
                                         .seq_len_max = config->n_ctx};
    return abl_dataset_create_json(dataset->json, dataset->json_bytes, &options, ret_dataset,
                                   ret_status);
}
