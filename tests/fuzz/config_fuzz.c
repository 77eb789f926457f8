/* SPDX-License-Identifier: Apache-2.0
 *
 * A config.json from anyone. Invariants beyond "no crash": what is accepted can be computed with,
 * since every number that sizes something is in its range and divides where it must. */
#include "core/base/assert.h"
#include "core/model/config.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    abl_model_config config;
    abl_status status = {.message = ""};
    abl_code code = abl_model_config_parse((const char *)data, size, "input", &config, &status);
    if (code != ABL_CODE_OK) {
        ABL_ASSERT(status.message[0] != '\0');
        return 0;
    }
    ABL_ASSERT(config.n_layers > 0 && config.n_layers <= ABL_LAYER_COUNT_MAX);
    ABL_ASSERT(config.n_heads > 0 && config.n_heads <= ABL_HEAD_COUNT_MAX);
    ABL_ASSERT(config.n_kv_heads > 0 && config.n_heads % config.n_kv_heads == 0);
    ABL_ASSERT(config.d_model > 0 && config.d_model <= ABL_WIDTH_MAX);
    ABL_ASSERT(config.d_head > 0 && config.n_heads * config.d_head <= ABL_WIDTH_MAX);
    ABL_ASSERT((config.d_mlp > 0) != config.attn_only && config.d_mlp <= ABL_WIDTH_MAX);
    ABL_ASSERT(config.d_vocab > 0 && config.d_vocab <= ABL_VOCAB_MAX);
    ABL_ASSERT(config.d_vocab_out > 0 && config.d_vocab_out <= ABL_VOCAB_MAX);
    ABL_ASSERT(config.n_ctx > 0 && config.n_ctx <= ABL_CONTEXT_MAX);
    ABL_ASSERT((config.norm_eps > 0) != (config.norm == ABL_NORM_NONE));
    ABL_ASSERT(isfinite(config.norm_eps) && isfinite(config.attn_divisor));
    ABL_ASSERT(config.bos_id >= -1 && config.bos_id < config.d_vocab);
    ABL_ASSERT(config.positional == ABL_POSITIONAL_LEARNED ||
               (config.rotary_dim % 2 == 0 && config.rotary_dim <= config.d_head &&
                config.rope_theta > 0));
    return 0;
}
