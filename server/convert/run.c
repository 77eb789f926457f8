/* SPDX-License-Identifier: Apache-2.0 */
#include "server/convert/run.h"

#include "core/base/limits.h"
#include "server/convert/ablation.h"

#include <math.h>
#include <string.h>

#define TOP_K_MAX 1000

/* Without a named cache nothing may be seen of whether one was used. */
static abl_code convert_prefix(const Ablate__V1__ForwardRequest *message, abl_run_request *request,
                               abl_status *ret_status) {
    request->kv_cache_id = message->kv_cache_id[0] == '\0' ? NULL : message->kv_cache_id;
    request->use_prefix_cache = message->use_prefix_cache != 0;
    if (request->use_prefix_cache && request->kv_cache_id != NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_CACHE_INVALID",
                        "kv_cache_id and use_prefix_cache are both given; name a cache, or let one "
                        "be found");
    }
    if (request->use_prefix_cache && request->patched) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_CACHE_INVALID",
                        "use_prefix_cache is given with an ablation, which would cover the tail "
                        "only, whichever cache is found; name the cache with kv_cache_id");
    }
    return ABL_CODE_OK;
}

static abl_code convert_ablation(const Ablate__V1__Ablation *message, abl_arena *arena,
                                 abl_run_request *request, abl_status *ret_status) {
    if (request->graph_id == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_NEEDS_GRAPH",
                        "ablation is given with model_id; edges are ablated under a graph's mask, "
                        "so give graph_id");
    }
    request->patched = true;
    request->ablation = abl_convert_ablation_type(message->type);
    if (message->ablation_id[0] != '\0') {
        request->ablation_id = message->ablation_id;
        if (message->prompts != NULL) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_CONFLICT",
                            "ablation.prompts is given with an ablation_id, which has its own; "
                            "give one or the other");
        }
        return abl_convert_ablation_alone("ablation.type", message->type, ret_status);
    }
    if (request->ablation != ABL_ABLATION_ZERO) {
        return abl_convert_prompts("ablation.prompts", message->prompts, arena, &request->ablated,
                                   ret_status);
    }
    return message->prompts == NULL
               ? ABL_CODE_OK
               : abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ABLATION_PROMPTS",
                          "ablation.prompts is given with ZERO, which uses none");
}

abl_code abl_convert_forward(const Ablate__V1__ForwardRequest *message, abl_arena *arena,
                             abl_run_request *ret_request, abl_status *ret_status) {
    abl_run_request request = {.out_slice = message->out_slice,
                               .top_k = message->top_k,
                               .seed = message->seed,
                               .interventions = message->interventions,
                               .intervention_count = message->n_interventions};
    if (message->target_case == ABLATE__V1__FORWARD_REQUEST__TARGET_MODEL_ID) {
        request.model_id = message->model_id;
    } else if (message->target_case == ABLATE__V1__FORWARD_REQUEST__TARGET_GRAPH_ID) {
        request.graph_id = message->graph_id;
    } else {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TARGET_MISSING",
                        "neither model_id nor graph_id is given; give one");
    }
    if (message->top_k < 0 || message->top_k > TOP_K_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOP_K_INVALID",
                        "top_k is %d; it must be 0 (all logits) to %d", message->top_k, TOP_K_MAX);
    }
    abl_code code =
        abl_convert_prompts("prompts", message->prompts, arena, &request.prompts, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (message->ablation != NULL) {
        code = convert_ablation(message->ablation, arena, &request, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = convert_prefix(message, &request, ret_status);
    }
    if (code == ABL_CODE_OK) {
        *ret_request = request;
    }
    return code;
}

abl_code abl_convert_run_with_cache(const Ablate__V1__RunWithCacheRequest *message,
                                    abl_arena *arena, abl_run_request *ret_request,
                                    abl_status *ret_status) {
    if (message->forward == NULL) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "FORWARD_MISSING",
                        "forward is missing: say what to run");
    }
    abl_run_request request;
    abl_code code = abl_convert_forward(message->forward, arena, &request, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    if (request.top_k != 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "TOP_K_INVALID",
                        "forward.top_k is %d; RunWithCache streams all logits, so it must be 0",
                        request.top_k);
    }
    if (message->n_names > ABL_HOOK_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_NAMES",
                        "names has %zu hook points; at most %d are taken", message->n_names,
                        ABL_HOOK_COUNT_MAX);
    }
    if (message->all_names && message->n_names > 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "NAMES_INVALID",
                        "all_names is set and names is not empty; give one or the other");
    }
    request.names = message->names;
    request.name_count = message->n_names;
    request.all_names = message->all_names != 0;
    request.per_head_inputs = message->per_head_inputs != 0;
    request.stop_at_layer = message->stop_at_layer;
    request.incl_bwd = message->incl_bwd != 0;
    request.keep_on_server = message->keep_on_server != 0;
    request.gradient_of = message->gradient_of;
    request.positions =
        (abl_index_list){.indices = message->positions, .count = message->n_positions};
    request.heads = (abl_index_list){.indices = message->heads, .count = message->n_heads};
    request.rows = (abl_index_list){.indices = message->rows, .count = message->n_rows};
    if (message->n_heads > ABL_HOOK_INDEX_COUNT_MAX || message->n_rows > ABL_HOOK_INDEX_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "HOOK_INDICES",
                        "heads names %zu and rows %zu; at most %d are taken", message->n_heads,
                        message->n_rows, ABL_HOOK_INDEX_COUNT_MAX);
    }
    if (message->n_positions > ABL_SEQ_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "POSITIONS_INVALID",
                        "positions names %zu; at most %d are taken", message->n_positions,
                        ABL_SEQ_MAX);
    }
    bool empty = request.name_count == 0 && !request.all_names;
    if (empty && (request.keep_on_server || request.incl_bwd || message->n_positions > 0)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "NAMES_INVALID",
                        "names is empty, so there is nothing for %s; name hook points or set "
                        "all_names",
                        request.keep_on_server ? "keep_on_server"
                        : request.incl_bwd     ? "incl_bwd"
                                               : "positions");
    }
    if (request.use_prefix_cache &&
        (request.all_names || request.name_count > 0 || request.stop_at_layer != 0)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PREFIX_CACHE_INVALID",
                        "forward.use_prefix_cache is given with names or stop_at_layer, whose "
                        "activations would be the tail's only; name the cache with kv_cache_id");
    }
    *ret_request = request;
    return ABL_CODE_OK;
}

/* One row of columns and weights: answers, then wrong answers. */
static abl_code convert_answers(const Ablate__V1__AnswerIds *ids, size_t row, int64_t batch,
                                int vocab, int64_t *columns, float *weights,
                                abl_status *ret_status) {
    const struct {
        const int32_t *ids;
        size_t count;
        double sign;
    } halves[] = {{ids->answers, ids->n_answers, 1},
                  {ids->wrong_answers, ids->n_wrong_answers, -1}};
    size_t at = 0;
    for (size_t half = 0; half < ABL_COUNT_OF(halves); half++) {
        for (size_t i = 0; i < halves[half].count; i++) {
            int32_t id = halves[half].ids[i];
            if (id < 0 || id >= vocab) {
                return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWERS_INVALID",
                                "gradient_of.answer_diff.rows[%zu]: %d is no token; ids are 0 to "
                                "%d",
                                row, id, vocab - 1);
            }
            columns[at] = id;
            weights[at++] =
                (float)(halves[half].sign / ((double)halves[half].count * (double)batch));
        }
    }
    return ABL_CODE_OK;
}

static abl_code check_answers(const Ablate__V1__AnswerDiff *diff, int64_t batch, size_t *ret_width,
                              abl_status *ret_status) {
    if (diff->n_rows != 1 && (int64_t)diff->n_rows != batch) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWERS_INVALID",
                        "gradient_of.answer_diff has %zu rows for %lld prompts; give one for each, "
                        "or one for all",
                        diff->n_rows, (long long)batch);
    }
    size_t width = 0;
    for (size_t row = 0; row < diff->n_rows; row++) {
        const Ablate__V1__AnswerIds *ids = diff->rows[row];
        size_t count = ids->n_answers + ids->n_wrong_answers;
        if (ids->n_answers == 0 || ids->n_answers > ABL_ANSWER_COUNT_MAX ||
            ids->n_wrong_answers > ABL_ANSWER_COUNT_MAX) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "ANSWERS_INVALID",
                            "gradient_of.answer_diff.rows[%zu] has %zu answers and %zu wrong ones; "
                            "it takes 1 to %d, and at most %d",
                            row, ids->n_answers, ids->n_wrong_answers, ABL_ANSWER_COUNT_MAX,
                            ABL_ANSWER_COUNT_MAX);
        }
        width = count > width ? count : width;
    }
    *ret_width = width;
    return ABL_CODE_OK;
}

abl_code abl_convert_scalar(const Ablate__V1__GradientOf *message, int64_t batch,
                            const abl_model_config *config, abl_arena *arena,
                            abl_scalar *ret_scalar, abl_status *ret_status) {
    if (message == NULL || message->scalar_case != ABLATE__V1__GRADIENT_OF__SCALAR_ANSWER_DIFF) {
        *ret_scalar = (abl_scalar){.kind = ABL_SCALAR_LOSS};
        return ABL_CODE_OK;
    }
    const Ablate__V1__AnswerDiff *diff = message->answer_diff;
    size_t width = 0;
    abl_code code = check_answers(diff, batch, &width, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    int64_t *columns = abl_arena_alloc(arena, (size_t)batch * width * sizeof *columns);
    float *weights = abl_arena_alloc(arena, (size_t)batch * width * sizeof *weights);
    if (columns == NULL || weights == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t row = 0; row < (size_t)batch && code == ABL_CODE_OK; row++) {
        code = convert_answers(diff->rows[diff->n_rows == 1 ? 0 : row], row, batch,
                               config->d_vocab_out, columns + row * width, weights + row * width,
                               ret_status);
    }
    *ret_scalar = (abl_scalar){.kind = ABL_SCALAR_LOGIT_SUM,
                               .columns = columns,
                               .weights = weights,
                               .width = (int32_t)width};
    return code;
}

abl_code abl_convert_stop_at_layer(int32_t stop_at_layer, int n_layers, int *ret_stop,
                                   abl_status *ret_status) {
    int stop =
        stop_at_layer == 0 ? -1 : (stop_at_layer < 0 ? n_layers + stop_at_layer : stop_at_layer);
    if (stop_at_layer != 0 && (stop < 0 || stop > n_layers)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "LAYER_OUT_OF_RANGE",
                        "stop_at_layer is %d; it must be %d to %d, 0 for all layers", stop_at_layer,
                        -n_layers, n_layers);
    }
    *ret_stop = stop;
    return ABL_CODE_OK;
}

/* Keeps `kept` ids sorted by descending logit, equal ones by ascending id. */
static void insert(const float *row, int32_t *ids, int32_t *kept, int32_t k, int32_t id) {
    if (*kept == k && !(row[id] > row[ids[k - 1]])) {
        return;
    }
    int32_t at = *kept < k ? (*kept)++ : k - 1;
    while (at > 0 && row[id] > row[ids[at - 1]]) {
        ids[at] = ids[at - 1];
        at--;
    }
    ids[at] = id;
}

static double log_sum_exp(const float *row, int64_t count) {
    double high = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        high = row[i] > high ? row[i] : high;
    }
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += exp(row[i] - high);
    }
    return high + log(sum);
}

static Ablate__V1__TopTokens *top_row(const abl_top_request *request, int64_t index, int32_t *ids,
                                      abl_arena *arena) {
    const float *row = request->logits + index * request->vocab;
    int32_t kept = 0;
    for (int64_t id = 0; id < request->vocab; id++) {
        insert(row, ids, &kept, request->k, (int32_t)id);
    }
    Ablate__V1__TopTokens *top = abl_arena_alloc(arena, sizeof *top);
    Ablate__V1__TopToken *tokens = abl_arena_alloc(arena, (size_t)kept * sizeof *tokens);
    Ablate__V1__TopToken **list = abl_arena_alloc(arena, (size_t)kept * sizeof(void *));
    if (top == NULL || tokens == NULL || list == NULL) {
        return NULL;
    }
    double norm = log_sum_exp(row, request->vocab);
    ablate__v1__top_tokens__init(top);
    top->batch_idx = (int32_t)(index / request->pos_count);
    top->pos = (int32_t)(index % request->pos_count + request->pos_first);
    for (int32_t i = 0; i < kept; i++) {
        ablate__v1__top_token__init(&tokens[i]);
        tokens[i].id = ids[i];
        tokens[i].logit = row[ids[i]];
        tokens[i].logprob = (float)((double)row[ids[i]] - norm);
        list[i] = &tokens[i];
    }
    top->tokens = list;
    top->n_tokens = (size_t)kept;
    return top;
}

Ablate__V1__TopTokens **abl_convert_top(const abl_top_request *request, abl_arena *arena) {
    Ablate__V1__TopTokens **rows = abl_arena_alloc(arena, (size_t)request->rows * sizeof(void *));
    int32_t *ids = abl_arena_alloc(arena, (size_t)request->k * sizeof *ids);
    if (rows == NULL || ids == NULL) {
        return NULL;
    }
    for (int64_t i = 0; i < request->rows; i++) {
        rows[i] = top_row(request, i, ids, arena);
        if (rows[i] == NULL) {
            return NULL;
        }
    }
    return rows;
}
