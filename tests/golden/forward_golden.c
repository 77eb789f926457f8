/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain forward pass against TransformerLens, Hugging Face and the float64 SmolLM2 reference:
 * logits of raw and processed weights, every activation that run_with_cache names, the weights
 * after processing, and what the out_slice options return. */
#include "core/base/mem.h"
#include "core/model/block.h"
#include "core/model/forward.h"
#include "tests/golden/golden.h"

#include <stdio.h>
#include <string.h>

#define TOL_LOGITS 1e-4
#define TOL_ACTIVATIONS 1e-4
#define TOL_WEIGHTS 1e-5
#define TOL_SMOLLM2_LOGITS 4e-4

static abl_forward_result forward(const abl_forward_options *options) {
    abl_forward_result result;
    abl_status status;
    golden_must(abl_forward(options, &result, &status), &status);
    return result;
}

/* ---- a_logits ---------------------------------------------------------------------------- */

static void compare_logits(const char *case_name, const abl_model *model,
                           const abl_safetensors *set, const char *prefix, const char *side,
                           bool last) {
    char name[128];
    (void)snprintf(name, sizeof name, "tokens_%s", side);
    const abl_safetensors_tensor *tokens = golden_tensor(set, name);
    (void)snprintf(name, sizeof name, "%s%s/%s", prefix, last ? "_last" : "", side);
    const abl_safetensors_tensor *expected = golden_tensor(set, name);
    int32_t *ids = golden_ints(tokens);
    const abl_forward_options options = {
        .model = model,
        .tokens = ids,
        .batch = expected->shape[0], /* the first rows, where not all were recorded */
        .seq = tokens->shape[1],
        .out_slice = last ? ABL_OUT_SLICE_LAST : ABL_OUT_SLICE_ALL,
        .stop_at_layer = -1,
    };
    abl_forward_result result = forward(&options);
    golden_compare_tensor(case_name, name, expected, result.logits, TOL_LOGITS);
    abl_forward_result_finish(&result);
    abl_free(ids);
}

static void case_logits(const char *model_name, const abl_model *raw, const abl_model *proc) {
    char case_name[64];
    (void)snprintf(case_name, sizeof case_name, "%s/a_logits", model_name);
    const char *path = golden_path("cases/%s/a_logits.safetensors", model_name);
    if (!golden_has(path)) {
        return;
    }
    abl_safetensors *set = golden_open_tensors(path);
    const char *sides[] = {"clean", "corrupt"};
    for (size_t i = 0; i < ABL_COUNT_OF(sides); i++) {
        compare_logits(case_name, raw, set, "raw", sides[i], false);
        compare_logits(case_name, raw, set, "raw", sides[i], true);
        compare_logits(case_name, raw, set, "hf", sides[i], true);
        compare_logits(case_name, proc, set, "proc", sides[i], false);
        compare_logits(case_name, proc, set, "proc", sides[i], true);
    }
    abl_safetensors_close(set);
}

/* ---- a_cache ----------------------------------------------------------------------------- */

static const abl_cache_entry *find_entry(const abl_forward_result *result, const char *name) {
    for (size_t i = 0; i < result->entry_count; i++) {
        if (strcmp(result->entries[i].name, name) == 0) {
            return &result->entries[i];
        }
    }
    return NULL;
}

static bool has_shape(const abl_tensor *tensor, const json_t *shape) {
    bool same = (size_t)abl_tensor_rank(tensor) == json_array_size(shape);
    for (size_t i = 0; same && i < json_array_size(shape); i++) {
        same = abl_tensor_size(tensor, (int)i) == json_integer_value(json_array_get(shape, i));
    }
    return same;
}

/* Exactly the recorded names, each with the recorded shape. */
static void check_names(const char *case_name, const char *which, const abl_forward_result *result,
                        const json_t *shapes) {
    size_t wrong_count = json_object_size(shapes) == result->entry_count ? 0 : 1;
    const char *name = NULL;
    const json_t *shape = NULL;
    void *position = json_object_iter((json_t *)(uintptr_t)shapes);
    while (position != NULL) {
        name = json_object_iter_key(position);
        shape = json_object_iter_value(position);
        const abl_cache_entry *entry = find_entry(result, name);
        if (entry == NULL || !has_shape(entry->tensor, shape)) {
            printf("%s: hook '%s' is %s\n", case_name, name,
                   entry == NULL ? "missing" : "of another shape");
            wrong_count++;
        }
        position = json_object_iter_next((json_t *)(uintptr_t)shapes, position);
    }
    golden_check(case_name, which, wrong_count == 0);
}

/* The repeated inputs are not recorded: each equals the residual that it repeats. */
static const char *repeats(abl_hook_point point) {
    switch ((int)point) {
    case ABL_HOOK_ATTN_IN:
    case ABL_HOOK_Q_INPUT:
    case ABL_HOOK_K_INPUT:
    case ABL_HOOK_V_INPUT:
        return "hook_resid_pre";
    case ABL_HOOK_MLP_IN:
        return "hook_resid_mid";
    default:
        return NULL;
    }
}

static void compare_repeated(const char *case_name, const abl_cache_entry *entry,
                             const abl_safetensors *set) {
    char name[64];
    (void)snprintf(name, sizeof name, "blocks.%d.%s", entry->hook.layer,
                   repeats(entry->hook.point));
    abl_scope *scope = abl_scope_create(abl_tensor_device(entry->tensor));
    int64_t heads = abl_tensor_rank(entry->tensor) == 4 ? abl_tensor_size(entry->tensor, 2) : 1;
    for (int64_t h = 0; h < heads; h += (heads > 1) ? heads - 1 : 1) {
        const abl_tensor *one =
            (heads == 1) ? entry->tensor : abl_tensor_select(scope, entry->tensor, 2, h);
        golden_compare_tensor(case_name, entry->name, golden_tensor(set, name), one,
                              TOL_ACTIVATIONS);
    }
    abl_scope_destroy(scope);
}

static void compare_entries(const char *case_name, const abl_forward_result *result,
                            const abl_safetensors *set) {
    for (size_t i = 0; i < result->entry_count; i++) {
        const abl_cache_entry *entry = &result->entries[i];
        if (repeats(entry->hook.point) != NULL) {
            compare_repeated(case_name, entry, set);
        } else {
            golden_compare_tensor(case_name, entry->name, golden_tensor(set, entry->name),
                                  entry->tensor, TOL_ACTIVATIONS);
        }
    }
}

/* TransformerLens keeps q, k and v as (heads, d_model, d_head). */
static void compare_weights(const char *case_name, const abl_model *model,
                            const abl_safetensors *set) {
    const abl_model_weights *w = abl_model_get_weights(model);
    const abl_block_weights *block = abl_model_get_block(model, 0);
    abl_scope *scope = abl_scope_create(abl_model_device(model));
    const char *heads[] = {"Q", "K", "V"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        abl_tensor *bias = NULL;
        abl_tensor *matrix = abl_block_head_weights(scope, model, 0, i, &bias);
        (void)snprintf(name, sizeof name, "weights/blocks.0.attn.W_%s", heads[i]);
        golden_compare_tensor(case_name, name, golden_tensor(set, name), matrix, TOL_WEIGHTS);
        (void)snprintf(name, sizeof name, "weights/blocks.0.attn.b_%s", heads[i]);
        golden_compare_tensor(case_name, name, golden_tensor(set, name), bias, TOL_WEIGHTS);
    }
    const struct {
        const char *name;
        const abl_tensor *tensor;
    } others[] = {{"weights/blocks.0.attn.W_O", block->w_o},
                  {"weights/blocks.0.attn.b_O", block->b_o},
                  {"weights/blocks.0.mlp.W_in", block->w_in},
                  {"weights/blocks.0.mlp.b_in", block->b_in},
                  {"weights/blocks.0.mlp.W_out", block->w_out},
                  {"weights/blocks.0.mlp.b_out", block->b_out},
                  {"weights/embed.W_E", w->embed},
                  {"weights/pos_embed.W_pos", w->pos_embed},
                  {"weights/unembed.W_U", w->unembed},
                  {"weights/unembed.b_U", w->b_unembed}};
    for (size_t i = 0; i < ABL_COUNT_OF(others); i++) {
        golden_compare_tensor(case_name, others[i].name, golden_tensor(set, others[i].name),
                              others[i].tensor, TOL_WEIGHTS);
    }
    abl_scope_destroy(scope);
}

static void case_cache(const char *model_name, const char *variant, const abl_model *model) {
    char case_name[64];
    (void)snprintf(case_name, sizeof case_name, "%s/a_cache_%s", model_name, variant);
    const char *path = golden_path("cases/%s/a_cache_%s.safetensors", model_name, variant);
    if (!golden_has(path)) {
        return;
    }
    abl_safetensors *set = golden_open_tensors(path);
    json_t *info = golden_open_json(golden_path("cases/%s/a_cache_%s.json", model_name, variant));
    abl_safetensors *inputs =
        golden_open_tensors(golden_path("cases/%s/a_logits.safetensors", model_name));
    const abl_safetensors_tensor *tokens = golden_tensor(inputs, "tokens_clean");
    int32_t *ids = golden_ints(tokens);
    abl_forward_options options = {.model = model,
                                   .tokens = ids,
                                   .batch = 2,
                                   .seq = tokens->shape[1],
                                   .capture_all = true,
                                   .per_head_inputs = true,
                                   .out_slice = ABL_OUT_SLICE_ALL,
                                   .stop_at_layer = -1};
    abl_forward_result result = forward(&options);
    check_names(case_name, "names and shapes, flags on", &result,
                json_object_get(info, "hooks_all_flags_on"));
    compare_entries(case_name, &result, set);
    abl_forward_result_finish(&result);
    options.per_head_inputs = false;
    result = forward(&options);
    check_names(case_name, "names and shapes, flags off", &result,
                json_object_get(info, "hooks_all_flags_off"));
    abl_forward_result_finish(&result);
    if (strcmp(variant, "proc") == 0) {
        compare_weights(case_name, model, set);
    }
    abl_free(ids);
    abl_safetensors_close(inputs);
    json_decref(info);
    abl_safetensors_close(set);
}

/* ---- out_slice --------------------------------------------------------------------------- */

/* The three slices are of one tensor, whatever the pass skipped to compute them. */
static void case_out_slices(const char *model_name, const abl_model *model) {
    char case_name[64];
    (void)snprintf(case_name, sizeof case_name, "%s/out_slice", model_name);
    const char *path = golden_path("cases/%s/a_logits.safetensors", model_name);
    if (!golden_has(path)) {
        return;
    }
    abl_safetensors *set = golden_open_tensors(path);
    const abl_safetensors_tensor *tokens = golden_tensor(set, "tokens_clean");
    const abl_safetensors_tensor *all = golden_tensor(set, "raw/clean"); /* (2, pos, vocab) */
    int32_t *ids = golden_ints(tokens);
    abl_forward_options options = {
        .model = model, .tokens = ids, .batch = 2, .seq = all->shape[1], .stop_at_layer = -1};
    const size_t pos = (size_t)all->shape[1];
    const size_t vocab = (size_t)all->shape[2];
    for (int slice = ABL_OUT_SLICE_LAST; slice <= ABL_OUT_SLICE_NOT_FIRST; slice++) {
        options.out_slice = (abl_out_slice)slice;
        size_t skipped = (slice == ABL_OUT_SLICE_LAST) ? pos - 1 : 1;
        abl_forward_result result = forward(&options);
        size_t count = 0;
        float *values = golden_floats_of(result.logits, &count);
        for (size_t row = 0; row < 2; row++) {
            char name[64];
            (void)snprintf(name, sizeof name, "%s row %zu",
                           slice == ABL_OUT_SLICE_LAST ? "last_seq" : "not_first_seq", row);
            const float *expected = (const float *)all->data + (row * pos + skipped) * vocab;
            size_t row_count = (pos - skipped) * vocab;
            golden_compare_floats(case_name, name, expected, row_count, values + row * row_count,
                                  count / 2, TOL_LOGITS);
        }
        abl_free(values);
        abl_forward_result_finish(&result);
    }
    abl_free(ids);
    abl_safetensors_close(set);
}

/* ---- SmolLM2 ----------------------------------------------------------------------------- */

/* inputs.json's token_ids.clean, [[id, ...], ...]. */
static int32_t *clean_tokens(const json_t *inputs, int64_t *ret_batch, int64_t *ret_seq) {
    const json_t *ids = json_object_get(inputs, "token_ids");
    const json_t *rows = json_is_object(ids) ? json_object_get(ids, "clean") : ids;
    *ret_batch = (int64_t)json_array_size(rows);
    const json_t *first = json_array_get(rows, 0);
    const json_t *cells = json_is_object(first) ? json_object_get(first, "clean") : first;
    *ret_seq = (int64_t)json_array_size(cells);
    int32_t *tokens = abl_calloc((size_t)(*ret_batch * *ret_seq), sizeof *tokens);
    for (int64_t r = 0; r < *ret_batch; r++) {
        const json_t *row = json_array_get(rows, (size_t)r);
        row = json_is_object(row) ? json_object_get(row, "clean") : row;
        for (int64_t c = 0; c < *ret_seq; c++) {
            tokens[r * *ret_seq + c] = (int32_t)json_integer_value(json_array_get(row, (size_t)c));
        }
    }
    return tokens;
}

static void case_smollm2(void) {
    static const char *const names[] = {"ioi_ABBA_template_0", "greaterthan_4", "capital_cities",
                                        "docstring"};
    const char *first = golden_path("cases/smollm2-135m/%s/golden.safetensors", names[0]);
    const char *dir = golden_has(first) ? golden_smollm2_dir() : NULL;
    if (dir == NULL) {
        return;
    }
    abl_model *model = golden_open_model(dir, abl_model_processing_hf());
    for (size_t i = 0; i < ABL_COUNT_OF(names); i++) {
        char case_name[64];
        (void)snprintf(case_name, sizeof case_name, "smollm2-135m/%s", names[i]);
        abl_safetensors *set =
            golden_open_tensors(golden_path("cases/smollm2-135m/%s/golden.safetensors", names[i]));
        json_t *inputs =
            golden_open_json(golden_path("cases/smollm2-135m/%s/inputs.json", names[i]));
        const abl_safetensors_tensor *expected = golden_tensor(set, "clean.logits");
        abl_forward_options options = {
            .model = model, .out_slice = ABL_OUT_SLICE_LAST, .stop_at_layer = -1};
        int64_t batch = 0;
        int32_t *tokens = clean_tokens(inputs, &batch, &options.seq);
        options.tokens = tokens;
        options.batch = expected->shape[0];
        abl_forward_result result = forward(&options);
        golden_compare_tensor(case_name, "clean.logits", expected, result.logits,
                              TOL_SMOLLM2_LOGITS);
        abl_forward_result_finish(&result);
        abl_free(tokens);
        json_decref(inputs);
        abl_safetensors_close(set);
    }
    abl_model_unref(model);
}

int main(int argc, char **argv) {
    (void)argc;
    golden_init(argv[0]);
    static const char *const names[] = {"tiny-ioi", "tiny-rand"};
    for (size_t i = 0; i < ABL_COUNT_OF(names); i++) {
        abl_model *raw = golden_open_model(names[i], abl_model_processing_hf());
        abl_model *proc = golden_open_model(names[i], abl_model_processing_tl());
        case_logits(names[i], raw, proc);
        case_cache(names[i], "raw", raw);
        case_cache(names[i], "proc", proc);
        case_out_slices(names[i], raw);
        abl_model_unref(proc);
        abl_model_unref(raw);
    }
    case_smollm2();
    return golden_finish();
}
