/* SPDX-License-Identifier: Apache-2.0
 *
 * A model is immutable once loaded, so everything may share it and only the owner count changes.
 *
 * The hash is over the files' content, not over the processed weights: two processings of one model
 * are variants of the same network, and provenance names both the hash and the variant. It covers
 * the configuration's numbers too, for they change the function (a norm's eps, a rope's theta). */
#include "core/model/model.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/model/model_internal.h"
#include "core/tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

abl_model_processing abl_model_processing_hf(void) {
    return (abl_model_processing){.fold_norm = false};
}

abl_model_processing abl_model_processing_tl(void) {
    return (abl_model_processing){.fold_norm = true,
                                  .center_writing = true,
                                  .center_unembed = true,
                                  .fold_value_biases = true};
}

const char *abl_model_processing_text(abl_model_processing processing, char *text,
                                      size_t text_bytes) {
    const struct {
        bool on;
        const char *name;
    } parts[] = {{processing.fold_norm, "fold_norm"},
                 {processing.center_writing, "center_writing"},
                 {processing.center_unembed, "center_unembed"},
                 {processing.fold_value_biases, "fold_value_biases"}};
    size_t on_count = 0;
    size_t used = 0;
    for (size_t i = 0; i < ABL_COUNT_OF(parts); i++) {
        if (parts[i].on && used < text_bytes) {
            int wrote = snprintf(text + used, text_bytes - used, "%s%s", on_count > 0 ? "+" : "",
                                 parts[i].name);
            used += (wrote > 0) ? (size_t)wrote : 0;
            on_count++;
        }
    }
    if (on_count == 0) {
        return "hf";
    }
    return (on_count == ABL_COUNT_OF(parts)) ? "tl" : text;
}

/* ---- Loading ----------------------------------------------------------------------------- */

static abl_code read_tokenizer(const abl_model_dir *dir, const abl_model_config *config,
                               abl_tokenizer **ret_tokenizer, abl_status *ret_status) {
    if (dir->tokenizer == NULL) {
        *ret_tokenizer = NULL;
        return ABL_CODE_OK;
    }
    const abl_tokenizer_options options = {
        .path = dir->tokenizer, .bos_id_known = config->bos_id >= 0, .bos_id = config->bos_id};
    return abl_tokenizer_create(&options, ret_tokenizer, ret_status);
}

abl_code abl_model_load(const abl_model_dir *dir, const abl_model_options *options,
                        abl_model **ret_model, abl_status *ret_status) {
    abl_model_config config;
    abl_safetensors *set = NULL;
    abl_tokenizer *tokenizer = NULL;
    abl_code code = abl_model_config_read(dir->config, &config, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const abl_safetensors_options files = {.path = dir->weights, .root = dir->root};
    code = abl_safetensors_open(&files, &set, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    code = read_tokenizer(dir, &config, &tokenizer, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_model_create(&config, set, tokenizer, options, ret_model, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_tokenizer_destroy(tokenizer);
        abl_safetensors_close(set);
    }
    return code;
}

static uint64_t parameters_of(const abl_safetensors *set) {
    uint64_t total = 0;
    for (size_t i = 0; i < abl_safetensors_count(set); i++) {
        total += abl_safetensors_at(set, i)->elements;
    }
    return total;
}

static abl_code check_options(const abl_model_options *options, uint64_t parameter_count,
                              abl_status *ret_status) {
    if (options->dtype != ABL_DTYPE_F32 && options->dtype != ABL_DTYPE_F16 &&
        options->dtype != ABL_DTYPE_BF16) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "DTYPE_UNSUPPORTED",
                        "dtype: models run in float32, float16 or bfloat16, not %s",
                        abl_dtype_name(options->dtype));
    }
    if (!abl_device_available(options->device)) {
        return abl_fail(ret_status, ABL_CODE_UNAVAILABLE, "DEVICE_UNAVAILABLE",
                        "device: %s %d is not there; this machine has %d CUDA device(s)",
                        options->device.type == ABL_DEVICE_CUDA ? "cuda" : "cpu",
                        options->device.index, abl_device_cuda_count());
    }
    if (!abl_backend_has(options->device, options->dtype)) {
        return abl_fail(
            ret_status, ABL_CODE_UNIMPLEMENTED, "DTYPE_UNSUPPORTED",
            "dtype: %s cannot compute in %s on this device; load in float32 or bfloat16",
            abl_backend_version(), abl_dtype_name(options->dtype));
    }
    uint64_t bytes = parameter_count * abl_dtype_bytes(options->dtype);
    uint64_t left = abl_device_bytes_free(options->device);
    if (bytes > left) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "MODEL_TOO_BIG",
                        "the model needs %.1f MiB in %s, and %.1f MiB are free on the device; "
                        "unload another model, or load in a smaller dtype",
                        (double)bytes / (1 << 20), abl_dtype_name(options->dtype),
                        (double)left / (1 << 20));
    }
    return ABL_CODE_OK;
}

abl_code abl_model_create(const abl_model_config *config, abl_safetensors *set,
                          abl_tokenizer *tokenizer, const abl_model_options *options,
                          abl_model **ret_model, abl_status *ret_status) {
    ABL_ASSERT(config != NULL && set != NULL && options != NULL);
    uint64_t parameter_count = parameters_of(set);
    abl_code code = check_options(options, parameter_count, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_model *model = abl_calloc(1, sizeof *model);
    if (model == NULL) {
        return abl_fail_oom(ret_status);
    }
    model->owners = 1;
    model->config = *config;
    model->processing = options->processing;
    model->dtype = options->dtype;
    model->device = options->device;
    model->parameter_count = parameter_count;
    model->set = set;
    code = abl_model_compute_hash(model, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_model_load_weights(model, options, ret_status);
    }
    if (code != ABL_CODE_OK) {
        model->set = NULL; /* still the caller's */
        abl_model_unref(model);
        return code;
    }
    model->tokenizer = tokenizer;
    if (model->bytes_mapped == 0) {
        abl_safetensors_close(set);
        model->set = NULL;
    }
    *ret_model = model;
    return ABL_CODE_OK;
}

abl_model *abl_model_ref(abl_model *model) {
    (void)__atomic_add_fetch(&model->owners, 1, __ATOMIC_RELAXED);
    return model;
}

void abl_model_unref(abl_model *model) {
    if (model == NULL || __atomic_sub_fetch(&model->owners, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    abl_model_release_weights(model); /* before the mapping that they may lie in */
    abl_safetensors_close(model->set);
    abl_tokenizer_destroy(model->tokenizer);
    abl_free(model);
}

/* ---- Reading ----------------------------------------------------------------------------- */

const abl_model_config *abl_model_get_config(const abl_model *model) {
    return &model->config;
}

const abl_tokenizer *abl_model_tokenizer(const abl_model *model) {
    return model->tokenizer;
}

abl_model_processing abl_model_get_processing(const abl_model *model) {
    return model->processing;
}

abl_dtype abl_model_dtype(const abl_model *model) {
    return model->dtype;
}

abl_device abl_model_device(const abl_model *model) {
    return model->device;
}

uint64_t abl_model_bytes(const abl_model *model) {
    return model->bytes;
}

uint64_t abl_model_bytes_mapped(const abl_model *model) {
    return model->bytes_mapped;
}

const char *abl_model_hash(const abl_model *model) {
    return model->hash;
}

uint64_t abl_model_parameter_count(const abl_model *model) {
    return model->parameter_count;
}

const abl_model_weights *abl_model_get_weights(const abl_model *model) {
    return &model->weights;
}

const abl_block_weights *abl_model_get_block(const abl_model *model, int layer) {
    ABL_ASSERT(layer >= 0 && layer < model->config.n_layers);
    return &model->weights.blocks[layer];
}

/* ---- The hash ---------------------------------------------------------------------------- */

static int hash_config(EVP_MD_CTX *digest, const abl_model_config *config) {
    char text[512];
    int length = snprintf(
        text, sizeof text,
        "%s layers %d heads %d kv %d d_model %d d_head %d d_mlp %d vocab %d ctx %d norm %s %.9g "
        "act %s gated %d parallel %d tied %d pos %s %.9g %d out %d plain %d attn_only %d sees %s "
        "%.9g\n",
        abl_family_name(config->family), config->n_layers, config->n_heads, config->n_kv_heads,
        config->d_model, config->d_head, config->d_mlp, config->d_vocab, config->n_ctx,
        abl_norm_name(config->norm), config->norm_eps, abl_activation_name(config->activation),
        config->gated, config->parallel_attn_mlp, config->tied_unembed,
        abl_positional_name(config->positional), config->rope_theta, config->rotary_dim,
        config->d_vocab_out, config->norm_plain, config->attn_only,
        abl_attention_name(config->attention), config->attn_divisor);
    return EVP_DigestUpdate(digest, text, (size_t)length);
}

static int hash_tensor(EVP_MD_CTX *digest, const abl_safetensors_tensor *tensor) {
    char shape[256];
    char text[1024];
    int length = snprintf(text, sizeof text, "%s %s %s\n", tensor->name,
                          abl_safetensors_dtype_name(tensor->dtype),
                          abl_safetensors_shape_text(tensor, shape, sizeof shape));
    return EVP_DigestUpdate(digest, text, (size_t)length) &&
           EVP_DigestUpdate(digest, tensor->data, tensor->bytes);
}

abl_code abl_model_compute_hash(abl_model *model, abl_status *ret_status) {
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int count = 0;
    int fine = digest != NULL && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) &&
               hash_config(digest, &model->config);
    for (size_t i = 0; fine && i < abl_safetensors_count(model->set); i++) {
        fine = hash_tensor(digest, abl_safetensors_at(model->set, i));
    }
    fine = fine && EVP_DigestFinal_ex(digest, bytes, &count);
    EVP_MD_CTX_free(digest);
    if (!fine) {
        return abl_fail_oom(ret_status);
    }
    for (unsigned int i = 0; i < count && 2 * i + 2 < sizeof model->hash; i++) {
        (void)snprintf(model->hash + (size_t)2 * i, 3, "%02x", bytes[i]);
    }
    return ABL_CODE_OK;
}
