/* SPDX-License-Identifier: Apache-2.0
 *
 * A safetensors file from anyone, as UploadModel hands it over. Invariants beyond "no crash": every
 * tensor of an accepted file lies inside it, can be found by its name, and together they fill the
 * data; whatever a weight map accepts lies inside its tensors. */
#include "core/base/assert.h"
#include "core/model/family.h"
#include "core/model/safetensors.h"

#include <stdbool.h>

static const abl_model_config CONFIG = {.family = ABL_FAMILY_LLAMA,
                                        .n_layers = 1,
                                        .n_heads = 1,
                                        .n_kv_heads = 1,
                                        .d_model = 2,
                                        .d_head = 2,
                                        .d_mlp = 2,
                                        .d_vocab = 2,
                                        .d_vocab_out = 2,
                                        .n_ctx = 2,
                                        .norm = ABL_NORM_RMS,
                                        .gated = true,
                                        .tied_unembed = true,
                                        .positional = ABL_POSITIONAL_ROPE};

static void check_tensor(const abl_safetensors *set, const abl_safetensors_tensor *tensor,
                         const uint8_t *file, size_t size) {
    const uint8_t *data = tensor->data;
    ABL_ASSERT(data >= file + 8 && data <= file + size);
    ABL_ASSERT(tensor->bytes <= (size_t)(file + size - data));
    ABL_ASSERT(tensor->bytes == tensor->elements * abl_safetensors_dtype_bytes(tensor->dtype));
    ABL_ASSERT(abl_safetensors_find(set, tensor->name) == tensor);
}

static void check_map(const abl_safetensors *set) {
    abl_weight_map *map = NULL;
    if (abl_weight_map_create(&CONFIG, set, &map, NULL) != ABL_CODE_OK) {
        return;
    }
    for (size_t i = 0; i < abl_weight_map_count(map); i++) {
        const abl_weight_view *view = abl_weight_map_at(map, i);
        ABL_ASSERT(view->narrow_offset >= 0 && view->narrow_count > 0);
        ABL_ASSERT(view->narrow_offset + view->narrow_count <=
                   view->tensor->shape[view->narrow_dim]);
    }
    abl_weight_map_destroy(map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    abl_code code = abl_safetensors_open_memory(data, size, "input", &set, &status);
    if (code != ABL_CODE_OK) {
        ABL_ASSERT(set == NULL && status.message[0] != '\0');
        return 0;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < abl_safetensors_count(set); i++) {
        check_tensor(set, abl_safetensors_at(set, i), data, size);
        bytes += abl_safetensors_at(set, i)->bytes;
    }
    ABL_ASSERT(bytes == abl_safetensors_bytes(set) && bytes <= size);
    check_map(set);
    abl_safetensors_close(set);
    return 0;
}
