/* SPDX-License-Identifier: Apache-2.0
 *
 * Each family's forward pass against its authors' (families.py made the data): logits and the
 * residual stream behind each block, on the weights as they are and, up to a shift of all logits
 * alike, on processed ones. */
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "tests/golden/golden.h"

#include <stdio.h>
#include <string.h>

#define TOLERANCE 2e-5 /* float32 references; sums of up to 48 terms of size 1 */

static const char *const FAMILIES[] = {"gpt-neox",          "gpt-neox-seq",   "llama",
                                       "hooked-parallel",   "hooked-grouped", "tracr-reverse",
                                       "tracr-xproportion", "attn-only",      "micro"};

static abl_forward_result run(const abl_model *model, const abl_safetensors_tensor *tokens,
                              const char *const *hooks, size_t hook_count) {
    int32_t *ids = golden_ints(tokens);
    const abl_forward_options options = {.model = model,
                                         .tokens = ids,
                                         .batch = tokens->shape[0],
                                         .seq = tokens->shape[1],
                                         .hooks = hooks,
                                         .hook_count = hook_count,
                                         .out_slice = ABL_OUT_SLICE_ALL,
                                         .stop_at_layer = -1};
    abl_forward_result result;
    abl_status status;
    golden_must(abl_forward(&options, &result, &status), &status);
    abl_free(ids);
    return result;
}

static void compare_raw(const char *family, const abl_model *model, const abl_safetensors *set) {
    char names[8][64];
    const char *hooks[8];
    size_t count = 0;
    for (int layer = 0; layer < abl_model_get_config(model)->n_layers; layer++) {
        char key[32];
        (void)snprintf(key, sizeof key, "resid_post.%d", layer);
        if (abl_safetensors_find(set, key) != NULL) {
            (void)snprintf(names[count], sizeof names[count], "blocks.%d.hook_resid_post", layer);
            hooks[count] = names[count];
            count++;
        }
    }
    abl_forward_result result = run(model, golden_tensor(set, "tokens"), hooks, count);
    golden_compare_tensor(family, "logits", golden_tensor(set, "logits"), result.logits, TOLERANCE);
    for (size_t i = 0; i < result.entry_count; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "resid_post.%d", result.entries[i].hook.layer);
        golden_compare_tensor(family, key, golden_tensor(set, key), result.entries[i].tensor,
                              TOLERANCE);
    }
    abl_forward_result_finish(&result);
}

/* Processing changes weights, not the function, but for center_unembed's shift. */
static void compare_processed(const char *family, const abl_model *model,
                              const abl_safetensors *set) {
    abl_forward_result result = run(model, golden_tensor(set, "tokens"), NULL, 0);
    size_t count = 0;
    float *logits = golden_floats_of(result.logits, &count);
    const abl_safetensors_tensor *recorded = golden_tensor(set, "logits");
    float *expected = abl_calloc(count, sizeof *expected);
    memcpy(expected, recorded->data, count * sizeof *expected);
    size_t width = (size_t)abl_model_get_config(model)->d_vocab_out;
    for (size_t row = 0; row < count; row += width) {
        double mean = 0;
        for (size_t i = 0; i < width; i++) {
            mean += (double)expected[row + i] / (double)width;
        }
        for (size_t i = 0; i < width; i++) {
            expected[row + i] = (float)((double)expected[row + i] - mean);
        }
    }
    golden_compare_floats(family, "logits/processed", expected, count, logits, count, TOLERANCE);
    abl_free(expected);
    abl_free(logits);
    abl_forward_result_finish(&result);
}

int main(void) {
    golden_init("families_golden");
    for (size_t i = 0; i < ABL_COUNT_OF(FAMILIES); i++) {
        char path[2048];
        (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/families/%s/expected.safetensors",
                       FAMILIES[i]);
        abl_safetensors *set = golden_open_tensors(path);
        *strrchr(path, '/') = '\0';
        abl_model *model = golden_open_model(path, abl_model_processing_hf());
        char title[64];
        (void)snprintf(title, sizeof title, "families/%s", FAMILIES[i]);
        compare_raw(title, model, set);
        abl_model_unref(model);
        model = golden_open_model(path, abl_model_processing_tl());
        compare_processed(title, model, set);
        abl_model_unref(model);
        abl_safetensors_close(set);
    }
    return golden_finish();
}
