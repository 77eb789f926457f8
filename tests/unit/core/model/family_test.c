/* SPDX-License-Identifier: Apache-2.0
 *
 * Small models of both families are written as safetensors in memory, with the names and layouts of
 * transformers, whole and then broken in one place at a time. */
#include "core/model/family.h"

#include "core/base/mem.h"
#include "tests/unit/files.h"

typedef struct named_shape {
    const char *name; /* may hold %d for the layer */
    int64_t rows;
    int64_t columns; /* 0: a vector */
} named_shape;

enum { D = 8, HEADS = 2, MLP = 32, VOCAB = 11, CTX = 5, LAYERS = 2, KV = 4 };

static const abl_model_config gpt2 = {.family = ABL_FAMILY_GPT2,
                                      .n_layers = LAYERS,
                                      .n_heads = HEADS,
                                      .n_kv_heads = HEADS,
                                      .d_model = D,
                                      .d_head = D / HEADS,
                                      .d_mlp = MLP,
                                      .d_vocab = VOCAB,
                                      .d_vocab_out = VOCAB,
                                      .n_ctx = CTX,
                                      .norm = ABL_NORM_LAYER,
                                      .attn_bias = true,
                                      .mlp_bias = true,
                                      .tied_unembed = true,
                                      .positional = ABL_POSITIONAL_LEARNED};

static const named_shape gpt2_shapes[] = {
    {"wte.weight", VOCAB, D},
    {"wpe.weight", CTX, D},
    {"h.%d.ln_1.weight", D, 0},
    {"h.%d.ln_1.bias", D, 0},
    {"h.%d.attn.c_attn.weight", D, 3 * D},
    {"h.%d.attn.c_attn.bias", 3 * D, 0},
    {"h.%d.attn.c_proj.weight", D, D},
    {"h.%d.attn.c_proj.bias", D, 0},
    {"h.%d.ln_2.weight", D, 0},
    {"h.%d.ln_2.bias", D, 0},
    {"h.%d.mlp.c_fc.weight", D, MLP},
    {"h.%d.mlp.c_fc.bias", MLP, 0},
    {"h.%d.mlp.c_proj.weight", MLP, D},
    {"h.%d.mlp.c_proj.bias", D, 0},
    {"ln_f.weight", D, 0},
    {"ln_f.bias", D, 0},
};

static const abl_model_config llama = {.family = ABL_FAMILY_LLAMA,
                                       .n_layers = LAYERS,
                                       .n_heads = HEADS,
                                       .n_kv_heads = 1,
                                       .d_model = D,
                                       .d_head = KV,
                                       .d_mlp = MLP,
                                       .d_vocab = VOCAB,
                                       .d_vocab_out = VOCAB,
                                       .n_ctx = CTX,
                                       .norm = ABL_NORM_RMS,
                                       .gated = true,
                                       .positional = ABL_POSITIONAL_ROPE};

static const named_shape llama_shapes[] = {
    {"model.embed_tokens.weight", VOCAB, D},
    {"model.layers.%d.input_layernorm.weight", D, 0},
    {"model.layers.%d.self_attn.q_proj.weight", D, D},
    {"model.layers.%d.self_attn.k_proj.weight", KV, D},
    {"model.layers.%d.self_attn.v_proj.weight", KV, D},
    {"model.layers.%d.self_attn.o_proj.weight", D, D},
    {"model.layers.%d.post_attention_layernorm.weight", D, 0},
    {"model.layers.%d.mlp.gate_proj.weight", MLP, D},
    {"model.layers.%d.mlp.up_proj.weight", MLP, D},
    {"model.layers.%d.mlp.down_proj.weight", D, MLP},
    {"model.norm.weight", D, 0},
    {"lm_head.weight", VOCAB, D},
};

/* A file being written: header text and the data's size; all weights are F16 zeros. */
typedef struct writer {
    char header[16384];
    size_t used;
    size_t data_bytes;
    uint8_t *bytes;
} writer;

static void writer_add(writer *out, const char *name, int64_t rows, int64_t columns,
                       const char *dtype) {
    size_t bytes = (size_t)rows * (size_t)(columns == 0 ? 1 : columns) * 2;
    char shape[64];
    if (columns == 0) {
        (void)snprintf(shape, sizeof shape, "[%d]", (int)rows);
    } else {
        (void)snprintf(shape, sizeof shape, "[%d,%d]", (int)rows, (int)columns);
    }
    out->used += (size_t)snprintf(
        out->header + out->used, sizeof out->header - out->used,
        "%c\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
        (out->used == 0) ? '{' : ',', name, dtype, shape, out->data_bytes, out->data_bytes + bytes);
    out->data_bytes += bytes;
}

/* All of the shapes, each per-layer one for every layer; `skip` is left out. */
static void writer_add_all(writer *out, const char *prefix, const named_shape *shapes, size_t count,
                           const char *skip) {
    for (size_t i = 0; i < count; i++) {
        const char *hole = strstr(shapes[i].name, "%d");
        for (int layer = 0; layer < (hole == NULL ? 1 : LAYERS); layer++) {
            char name[128];
            if (hole == NULL) {
                (void)snprintf(name, sizeof name, "%s%s", prefix, shapes[i].name);
            } else {
                (void)snprintf(name, sizeof name, "%s%.*s%d%s", prefix,
                               (int)(hole - shapes[i].name), shapes[i].name, layer, hole + 2);
            }
            if (skip == NULL || strcmp(name, skip) != 0) {
                writer_add(out, name, shapes[i].rows, shapes[i].columns, "F16");
            }
        }
    }
}

static abl_safetensors *writer_open(writer *out) {
    out->header[out->used++] = '}';
    size_t bytes_count = 8 + out->used + out->data_bytes;
    out->bytes = calloc(1, bytes_count);
    assert_non_null(out->bytes);
    for (size_t i = 0; i < 8; i++) {
        out->bytes[i] = (uint8_t)(out->used >> (8 * i));
    }
    memcpy(out->bytes + 8, out->header, out->used);
    abl_safetensors *set = NULL;
    abl_status status = {.message = ""};
    if (abl_safetensors_open_memory(out->bytes, bytes_count, "FILE", &set, &status) !=
        ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    return set;
}

static void refused(const abl_model_config *config, writer *out, abl_code code,
                    const char *fragment, const char *fragment2) {
    abl_safetensors *set = writer_open(out);
    abl_weight_map *map = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(abl_weight_map_create(config, set, &map, &status), code);
    assert_null(map);
    assert_mentions(status.message, "FILE");
    assert_mentions(status.message, fragment);
    assert_mentions(status.message, fragment2);
    abl_safetensors_close(set);
    free(out->bytes);
}

static void gpt2_splits_its_fused_attention(void **state) {
    (void)state;
    static const char *const prefixes[] = {"", "transformer."};
    for (size_t i = 0; i < ABL_COUNT_OF(prefixes); i++) {
        writer out = {.used = 0};
        writer_add_all(&out, prefixes[i], gpt2_shapes, ABL_COUNT_OF(gpt2_shapes), NULL);
        abl_safetensors *set = writer_open(&out);
        abl_weight_map *map = NULL;
        abl_status status = {.message = ""};
        assert_int_equal(abl_weight_map_create(&gpt2, set, &map, &status), ABL_CODE_OK);
        assert_int_equal(abl_weight_map_count(map), 2 + 16 * LAYERS + 3);
        const abl_weight_view *k = abl_weight_map_find(map, ABL_SLOT_K_W, 1);
        assert_non_null(k);
        assert_mentions(k->tensor->name, "h.1.attn.c_attn.weight");
        assert_true(k->input_major);
        assert_int_equal(k->shape[0], D);
        assert_int_equal(k->shape[1], D);
        assert_int_equal(k->narrow_dim, 1);
        assert_int_equal(k->narrow_offset, D);
        assert_int_equal(k->narrow_count, D);
        const abl_weight_view *v = abl_weight_map_find(map, ABL_SLOT_V_B, 0);
        assert_int_equal(v->rank, 1);
        assert_int_equal(v->narrow_dim, 0);
        assert_int_equal(v->narrow_offset, 2 * D);
        const abl_weight_view *unembed = abl_weight_map_find(map, ABL_SLOT_UNEMBED, -1);
        assert_ptr_equal(unembed->tensor, abl_weight_map_find(map, ABL_SLOT_EMBED, -1)->tensor);
        assert_false(unembed->input_major);
        assert_null(abl_weight_map_find(map, ABL_SLOT_MLP_GATE_W, 0));
        assert_null(abl_weight_map_find(map, ABL_SLOT_Q_W, LAYERS));
        abl_weight_map_destroy(map);
        abl_safetensors_close(set);
        free(out.bytes);
    }
}

static void llama_has_narrow_keys_a_gate_and_no_biases(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "", llama_shapes, ABL_COUNT_OF(llama_shapes), NULL);
    writer_add(&out, "model.layers.0.self_attn.rotary_emb.inv_freq", 2, 0, "F16");
    abl_safetensors *set = writer_open(&out);
    abl_weight_map *map = NULL;
    abl_status status = {.message = ""};
    assert_int_equal(abl_weight_map_create(&llama, set, &map, &status), ABL_CODE_OK);
    assert_int_equal(abl_weight_map_count(map), 1 + 9 * LAYERS + 2);
    const abl_weight_view *k = abl_weight_map_find(map, ABL_SLOT_K_W, 0);
    assert_int_equal(k->shape[0], KV);
    assert_int_equal(k->shape[1], D);
    assert_false(k->input_major);
    assert_mentions(abl_weight_map_find(map, ABL_SLOT_MLP_IN_W, 1)->tensor->name, "up_proj");
    assert_mentions(abl_weight_map_find(map, ABL_SLOT_UNEMBED, -1)->tensor->name, "lm_head");
    assert_null(abl_weight_map_find(map, ABL_SLOT_Q_B, 0));
    assert_null(abl_weight_map_find(map, ABL_SLOT_POS_EMBED, -1));
    for (size_t i = 0; i < abl_weight_map_count(map); i++) {
        const abl_weight_view *view = abl_weight_map_at(map, i);
        assert_int_equal(view->layer == -1, !abl_slot_in_layer(view->slot));
        assert_int_equal(view->narrow_count, view->tensor->shape[view->narrow_dim]);
    }
    abl_weight_map_destroy(map);
    abl_safetensors_close(set);
    free(out.bytes);
}

static void a_missing_tensor_is_named(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "", llama_shapes, ABL_COUNT_OF(llama_shapes),
                   "model.layers.1.mlp.down_proj.weight");
    refused(&llama, &out, ABL_CODE_NOT_FOUND, "model.layers.1.mlp.down_proj.weight", "llama");
    out = (writer){.used = 0};
    writer_add_all(&out, "", llama_shapes, ABL_COUNT_OF(llama_shapes), "lm_head.weight");
    refused(&llama, &out, ABL_CODE_NOT_FOUND, "'lm_head.weight'", "unembed");
    out = (writer){.used = 0};
    writer_add(&out, "something", 1, 0, "F16");
    refused(&gpt2, &out, ABL_CODE_NOT_FOUND, "transformer.wte.weight", "gpt2");
}

static void a_wrong_shape_is_told_with_both(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "", gpt2_shapes, ABL_COUNT_OF(gpt2_shapes), "h.0.attn.c_attn.weight");
    writer_add(&out, "h.0.attn.c_attn.weight", 3 * D, D, "F16");
    refused(&gpt2, &out, ABL_CODE_INVALID_ARGUMENT, "[24, 8]", "[8, 24]");
    out = (writer){.used = 0};
    writer_add_all(&out, "", gpt2_shapes, ABL_COUNT_OF(gpt2_shapes), "ln_f.bias");
    writer_add(&out, "ln_f.bias", D, 1, "F16");
    refused(&gpt2, &out, ABL_CODE_INVALID_ARGUMENT, "[8, 1]", "[8]");
}

static void weights_must_be_floats(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "", gpt2_shapes, ABL_COUNT_OF(gpt2_shapes), "ln_f.bias");
    writer_add(&out, "ln_f.bias", D, 0, "I16");
    refused(&gpt2, &out, ABL_CODE_INVALID_ARGUMENT, "'ln_f.bias'", "I16");
}

static void a_tensor_without_a_place_is_refused(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "", llama_shapes, ABL_COUNT_OF(llama_shapes), NULL);
    writer_add(&out, "model.layers.0.self_attn.q_proj.bias", D, 0, "F16");
    refused(&llama, &out, ABL_CODE_INVALID_ARGUMENT, "q_proj.bias", "no place");
    out = (writer){.used = 0};
    writer_add_all(&out, "", gpt2_shapes, ABL_COUNT_OF(gpt2_shapes), NULL);
    writer_add(&out, "h.2.ln_1.weight", D, 0, "F16");
    refused(&gpt2, &out, ABL_CODE_INVALID_ARGUMENT, "h.2.ln_1.weight", "2 layers");
}

static void buffers_and_a_saved_tied_head_are_ignored(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "transformer.", gpt2_shapes, ABL_COUNT_OF(gpt2_shapes), NULL);
    writer_add(&out, "transformer.h.0.attn.bias", CTX, CTX, "F16");
    writer_add(&out, "transformer.h.0.attn.masked_bias", 1, 0, "F16");
    writer_add(&out, "lm_head.weight", VOCAB, D, "F16");
    abl_safetensors *set = writer_open(&out);
    abl_weight_map *map = NULL;
    assert_int_equal(abl_weight_map_create(&gpt2, set, &map, NULL), ABL_CODE_OK);
    assert_mentions(abl_weight_map_find(map, ABL_SLOT_UNEMBED, -1)->tensor->name, "wte");
    abl_weight_map_destroy(map);
    abl_safetensors_close(set);
    free(out.bytes);
}

static void failing_any_allocation_leaks_nothing_and_says_so(void **state) {
    (void)state;
    writer out = {.used = 0};
    writer_add_all(&out, "", llama_shapes, ABL_COUNT_OF(llama_shapes), NULL);
    abl_safetensors *set = writer_open(&out);
    abl_weight_map *map = NULL;
    for (uint64_t n = 1; map == NULL; n++) {
        abl_mem_fail_after(n);
        abl_code code = abl_weight_map_create(&llama, set, &map, NULL);
        abl_mem_fail_after(0);
        assert_int_equal(code, (map == NULL) ? ABL_CODE_RESOURCE_EXHAUSTED : ABL_CODE_OK);
    }
    abl_weight_map_destroy(map);
    abl_safetensors_close(set);
    free(out.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_splits_its_fused_attention),
        cmocka_unit_test(llama_has_narrow_keys_a_gate_and_no_biases),
        cmocka_unit_test(a_missing_tensor_is_named),
        cmocka_unit_test(a_wrong_shape_is_told_with_both),
        cmocka_unit_test(weights_must_be_floats),
        cmocka_unit_test(a_tensor_without_a_place_is_refused),
        cmocka_unit_test(buffers_and_a_saved_tied_head_are_ignored),
        cmocka_unit_test(failing_any_allocation_leaks_nothing_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
