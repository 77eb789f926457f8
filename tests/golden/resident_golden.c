/* SPDX-License-Identifier: Apache-2.0
 *
 * How and where weights are kept changes nothing of what is computed in float32. A family's weights
 * are rounded to a dtype and written to a file (in memory) that is loaded twice: in float32 on the
 * CPU, and as it is stored, there or on an accelerator (device.h). The two models are the same
 * numbers, and must give the same: patched passes, their gradients and captures, KV caches,
 * ablations, and the scores of every prune algorithm, over every shape of graph.
 *
 * On the accelerator that is also the proof that nothing reaches past libtorch into its memory,
 * that operands meet on one device, that nothing stays there, and that no room there is said. */
#include "core/base/mem.h"
#include "core/model/forward.h"
#include "core/patch/backward.h"
#include "core/patch/hooked.h"
#include "tests/golden/device.h"
#include "tests/golden/edges.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PROMPTS = 3, SEQ = 4, CUT = 2 };

static const char *const FAMILIES[] = {"models/tiny-rand",        "families/llama",
                                       "families/gpt-neox",       "families/gpt-neox-seq",
                                       "families/hooked-grouped", "families/attn-only",
                                       "families/tracr-reverse",  "families/micro"};

static const abl_device CPU = {.type = ABL_DEVICE_CPU};
static const abl_device ACCELERATOR = {.type = ABL_DEVICE_CUDA};

/* The rounded weights, as two models. */
typedef struct pair {
    uint8_t *file;
    abl_model *narrow; /* as they are stored, on some device */
    abl_model *wide;   /* float32, on the CPU */
    abl_dataset *dataset;
    abl_batch batch;
    char title[96];
} pair;

/* ---- the file -------------------------------------------------------------------------------- */

static const char *file_dtype(abl_dtype dtype) {
    return dtype == ABL_DTYPE_F32 ? "F32" : dtype == ABL_DTYPE_F16 ? "F16" : "BF16";
}

/* The set's tensors, all float32, rounded to `dtype`: a safetensors file; ends with abl_free(). */
static uint8_t *rounded_file(const abl_safetensors *set, abl_dtype dtype, size_t *ret_bytes) {
    json_t *header = json_object();
    size_t data_bytes = 0;
    for (size_t i = 0; i < abl_safetensors_count(set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(set, i);
        json_t *shape = json_array();
        for (int d = 0; d < tensor->rank; d++) {
            (void)json_array_append_new(shape, json_integer(tensor->shape[d]));
        }
        const size_t end = data_bytes + tensor->elements * abl_dtype_bytes(dtype);
        (void)json_object_set_new(header, tensor->name,
                                  json_pack("{s:s, s:o, s:[I, I]}", "dtype", file_dtype(dtype),
                                            "shape", shape, "data_offsets", (json_int_t)data_bytes,
                                            (json_int_t)end));
        data_bytes = end;
    }
    char *text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(header);
    const size_t text_bytes = strlen(text);
    const uint64_t header_bytes = (text_bytes + 7) / 8 * 8;
    uint8_t *file = abl_calloc(8 + header_bytes + data_bytes, 1);
    memcpy(file, &header_bytes, 8); /* little endian, as the machine */
    memset(file + 8, ' ', header_bytes);
    memcpy(file + 8, text, text_bytes);
    abl_free(text); /* jansson allocates through core/base/mem.h */
    uint8_t *to = file + 8 + header_bytes;
    abl_scope *scope = abl_scope_create((abl_device){.type = ABL_DEVICE_CPU});
    for (size_t i = 0; i < abl_safetensors_count(set); i++) {
        const abl_safetensors_tensor *tensor = abl_safetensors_at(set, i);
        abl_tensor *x =
            abl_tensor_from_host(scope, ABL_DTYPE_F32, tensor->rank, tensor->shape, tensor->data);
        const size_t bytes = tensor->elements * abl_dtype_bytes(dtype);
        abl_tensor_to_host(scope, abl_tensor_to_dtype(scope, x, dtype), to, bytes);
        to += bytes;
    }
    abl_status status;
    golden_must(abl_scope_status(scope, &status), &status);
    abl_scope_destroy(scope);
    *ret_bytes = 8 + header_bytes + data_bytes;
    return file;
}

static abl_model *model_of(const abl_model_config *config, const uint8_t *file, size_t bytes,
                           abl_dtype dtype, abl_device device) {
    const abl_model_options options = {.dtype = dtype, .device = device};
    abl_safetensors *set = NULL;
    abl_model *model = NULL;
    abl_status status;
    golden_must(abl_safetensors_open_memory(file, bytes, "rounded", &set, &status), &status);
    golden_must(abl_model_create(config, set, NULL, &options, &model, &status), &status);
    return model;
}

static pair pair_open(const char *family, abl_dtype dtype, abl_device device) {
    char path[2048];
    (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/%s", family);
    abl_model *model = golden_open_model(path, abl_model_processing_hf());
    const abl_model_config config = *abl_model_get_config(model);
    (void)snprintf(path, sizeof path, ABLATE_GOLDEN_DATA "/%s/model.safetensors", family);
    abl_safetensors *set = golden_open_tensors(path);
    size_t bytes = 0;
    pair p = {.file = rounded_file(set, dtype, &bytes)};
    p.narrow = model_of(&config, p.file, bytes, dtype, device);
    p.wide = model_of(&config, p.file, bytes, ABL_DTYPE_F32, CPU);
    p.dataset = edges_made_up(&config, PROMPTS, SEQ);
    const abl_batches batches = {.dataset = p.dataset, .count = PROMPTS, .batch_size = PROMPTS};
    p.batch = abl_batches_at(&batches, 0);
    abl_safetensors_close(set);
    abl_model_unref(model);
    return p;
}

static void pair_close(pair *p) {
    abl_dataset_destroy(p->dataset);
    abl_model_unref(p->wide);
    abl_model_unref(p->narrow);
    abl_free(p->file);
}

/* ---- what is compared ------------------------------------------------------------------------ */

static bool is_exact(const pair *p) {
    return strncmp(abl_backend_blas_name(), "OpenBLAS", 8) == 0 &&
           abl_model_device(p->narrow).type == ABL_DEVICE_CPU;
}

/* To the last bit by our own products; others sum otherwise, and so may another BLAS where a copy's
 * strides differ from the file's. Rounding to 16 bits anywhere would be a thousand times more. */
static void same(const pair *p, const char *what, const float *wide, const float *narrow,
                 size_t count) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) {
        largest = isfinite(wide[i]) ? fmax(largest, fabs((double)wide[i])) : largest;
    }
    golden_compare_floats(p->title, what, wide, count, narrow, count,
                          is_exact(p) ? 0 : 2e-5 * (1 + largest));
}

static void same_tensors(const pair *p, const char *what, const abl_tensor *wide,
                         const abl_tensor *narrow) {
    size_t count = 0;
    size_t narrow_count = 0;
    float *a = golden_floats_of(wide, &count);
    float *b = golden_floats_of(narrow, &narrow_count);
    golden_check(p->title, what, count == narrow_count);
    same(p, what, a, b, count);
    abl_free(a);
    abl_free(b);
}

static void same_results(const pair *p, const char *what, abl_forward_result *wide,
                         abl_forward_result *narrow) {
    same_tensors(p, what, wide->logits, narrow->logits);
    golden_check(p->title, "as many captures", wide->entry_count == narrow->entry_count);
    for (size_t i = 0; i < wide->entry_count; i++) {
        same_tensors(p, wide->entries[i].name, wide->entries[i].tensor, narrow->entries[i].tensor);
    }
    abl_forward_result_finish(wide);
    abl_forward_result_finish(narrow);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static abl_forward_result forward(const abl_model *model, abl_forward_options options) {
    options.model = model;
    abl_forward_result result;
    abl_status status;
    golden_must(abl_forward(&options, &result, &status), &status);
    return result;
}

static abl_prefix *prefix_of(const pair *p, const abl_model *model) {
    abl_prefix *prefix = NULL;
    abl_status status;
    golden_must(abl_prefix_create(model, p->batch.clean, CUT, &prefix, &status), &status);
    return prefix;
}

static void plain_passes(const pair *p) {
    abl_forward_options options = {.tokens = p->batch.clean,
                                   .batch = PROMPTS,
                                   .seq = SEQ,
                                   .capture_all = true,
                                   .in_float32 = true,
                                   .out_slice = ABL_OUT_SLICE_ALL,
                                   .stop_at_layer = -1};
    abl_forward_result wide = forward(p->wide, options);
    abl_forward_result narrow = forward(p->narrow, options);
    same_results(p, "a pass in float32", &wide, &narrow);

    const int64_t columns[PROMPTS] = {0};
    const float weights[PROMPTS] = {1, -2, 3};
    options = (abl_forward_options){.tokens = p->batch.clean,
                                    .batch = PROMPTS,
                                    .seq = SEQ,
                                    .capture_all = true,
                                    .incl_bwd = true,
                                    .scalar = {.kind = ABL_SCALAR_LOGIT_SUM,
                                               .columns = columns,
                                               .weights = weights,
                                               .width = 1},
                                    .out_slice = ABL_OUT_SLICE_ALL,
                                    .stop_at_layer = -1};
    wide = forward(p->wide, options);
    narrow = forward(p->narrow, options);
    same_results(p, "gradients", &wide, &narrow);
}

/* A KV cache serves a pass in the model's own dtype, too, and one in float32 exactly. */
static void cached_passes(const pair *p) {
    if (abl_model_get_config(p->narrow)->attention != ABL_ATTENTION_CAUSAL) {
        return;
    }
    abl_prefix *wide_prefix = prefix_of(p, p->wide);
    abl_prefix *narrow_prefix = prefix_of(p, p->narrow);
    golden_check(p->title, "a KV cache is float32",
                 abl_prefix_bytes(wide_prefix) == abl_prefix_bytes(narrow_prefix));
    abl_forward_options options = {.tokens = p->batch.clean + CUT,
                                   .batch = 1,
                                   .seq = SEQ - CUT,
                                   .prefix = wide_prefix,
                                   .in_float32 = true,
                                   .out_slice = ABL_OUT_SLICE_ALL,
                                   .stop_at_layer = -1};
    abl_forward_result wide = forward(p->wide, options);
    options.prefix = narrow_prefix;
    abl_forward_result narrow = forward(p->narrow, options);
    same_tensors(p, "behind a KV cache", wide.logits, narrow.logits);
    abl_forward_result_finish(&narrow);
    options.in_float32 = false;
    narrow = forward(p->narrow, options);
    size_t count = 0;
    float *a = golden_floats_of(wide.logits, &count);
    float *b = golden_floats_of(narrow.logits, &count);
    golden_compare_floats(p->title, "behind a KV cache, in 16 bits", a, count, b, count,
                          0.05 * (1 + edges_max_abs(a, (int64_t)count)));
    abl_free(a);
    abl_free(b);
    abl_forward_result_finish(&wide);
    abl_forward_result_finish(&narrow);
    abl_prefix_destroy(wide_prefix);
    abl_prefix_destroy(narrow_prefix);
}

/* ---- patched passes -------------------------------------------------------------------------- */

typedef struct patched {
    abl_model *model;
    abl_sources *ablated;
    float *logits;
    float *gradient;
    abl_forward_result hooked;
} patched;

/* The sum of logits, weighted. */
static abl_tensor *loss_gradient(abl_scope *scope, const abl_tensor *logits, void *user_data) {
    (void)user_data;
    return abl_tensor_scale(scope, logits, 0.5);
}

static patched patch(const pair *p, abl_model *model, const abl_graph *graph, const float *mask,
                     abl_ablation ablation) {
    patched out = {.model = model};
    abl_status status;
    if (ablation != ABL_ABLATION_ZERO) {
        const abl_patch_options run = {
            .model = model, .tokens = p->batch.corrupt, .batch = PROMPTS, .seq = SEQ};
        golden_must(abl_ablation_create(&run, ablation, &out.ablated, &status), &status);
    }
    const abl_patch_options options = {.model = model,
                                       .graph = graph,
                                       .tokens = p->batch.clean,
                                       .batch = PROMPTS,
                                       .seq = SEQ,
                                       .mask = mask,
                                       .ablated = out.ablated};
    out.logits = abl_calloc((size_t)abl_patch_logit_count(&options), sizeof *out.logits);
    golden_must(abl_patch_forward(&options, out.logits, &status), &status);
    out.gradient = abl_calloc((size_t)abl_graph_edge_count(graph), sizeof *out.gradient);
    golden_must(abl_patch_backward(&options, loss_gradient, NULL, NULL, out.gradient, &status),
                &status);
    const char *const names[] = {"blocks.0.attn.hook_z", "blocks.0.attn.hook_z_grad"};
    const int64_t columns[PROMPTS] = {0};
    const float weights[PROMPTS] = {1, 1, 1};
    const abl_forward_options hooks = {.hooks = names,
                                       .hook_count = ABL_COUNT_OF(names),
                                       .scalar = {.kind = ABL_SCALAR_LOGIT_SUM,
                                                  .columns = columns,
                                                  .weights = weights,
                                                  .width = 1},
                                       .stop_at_layer = -1};
    golden_must(abl_patch_hooked(&options, &hooks, &out.hooked, &status), &status);
    return out;
}

static void patched_close(patched *x) {
    abl_free(x->logits);
    abl_free(x->gradient);
    abl_sources_destroy(x->ablated);
}

static void patched_passes(const pair *p, const abl_graph *graph, abl_ablation ablation) {
    const size_t edges = (size_t)abl_graph_edge_count(graph);
    float *mask = abl_calloc(edges, sizeof *mask);
    for (size_t i = 0; i < edges; i++) {
        mask[i] = (float)(i * 37 % 11) / 10.0F;
    }
    patched wide = patch(p, p->wide, graph, mask, ablation);
    patched narrow = patch(p, p->narrow, graph, mask, ablation);
    char what[96];
    (void)snprintf(what, sizeof what, "patched, %s", abl_ablation_name(ablation));
    same(p, what, wide.logits, narrow.logits,
         PROMPTS * (size_t)abl_model_get_config(p->wide)->d_vocab_out);
    (void)snprintf(what, sizeof what, "gradients, %s", abl_ablation_name(ablation));
    same(p, what, wide.gradient, narrow.gradient, edges);
    same_results(p, "patched, hook by hook", &wide.hooked, &narrow.hooked);
    patched_close(&wide);
    patched_close(&narrow);
    abl_free(mask);
}

/* What a GPU would wait for: a patched pass is read once, its logits, and is given its tokens and
 * its mask, a matrix a destination at most. */
static void traffic(const pair *p, const abl_graph *graph) {
    if (abl_model_device(p->narrow).type == ABL_DEVICE_CPU) {
        return;
    }
    const size_t edges = (size_t)abl_graph_edge_count(graph);
    float *mask = abl_calloc(edges, sizeof *mask);
    for (size_t i = 0; i < edges; i++) {
        mask[i] = (float)(i % 2);
    }
    const abl_patch_options options = {.model = p->narrow,
                                       .graph = graph,
                                       .tokens = p->batch.clean,
                                       .batch = PROMPTS,
                                       .seq = SEQ,
                                       .mask = mask};
    float *logits = abl_calloc((size_t)abl_patch_logit_count(&options), sizeof *logits);
    abl_status status;
    const int64_t reads = golden_device_reads();
    const int64_t writes = golden_device_writes();
    golden_must(abl_patch_forward(&options, logits, &status), &status);
    golden_check(p->title, "a patched pass reads the device once",
                 golden_device_reads() == reads + 1);
    golden_check(p->title, "and writes it once a destination at most",
                 golden_device_writes() - writes <= 2 + (int64_t)abl_graph_dest_count(graph));
    abl_free(logits);
    abl_free(mask);
}

/* ---- prunes ---------------------------------------------------------------------------------- */

static abl_prune_options options_of(const pair *p, abl_model *model, const abl_graph *graph,
                                    abl_prune_algorithm algorithm, int variant) {
    static const double taus[] = {1e-4, 1e-1};
    static const int64_t sizes[] = {2, 5};
    return (abl_prune_options){
        .algorithm = algorithm,
        .model = model,
        .graph = graph,
        .batches = {.dataset = p->dataset, .count = PROMPTS, .batch_size = 2},
        .ablation = variant == 0 ? ABL_ABLATION_RESAMPLE : ABL_ABLATION_ZERO,
        .answer_function =
            abl_model_get_config(model)->d_vocab_out > 1 ? ABL_ANSWER_AVG_DIFF : ABL_ANSWER_AVG_VAL,
        .grad_function = variant == 0 ? ABL_GRAD_LOGIT : ABL_GRAD_LOGPROB,
        .integrated_grad_samples = variant == 0 ? 0 : 2,
        .exact_metric = variant == 0 ? ABL_EXACT_LOSS : ABL_EXACT_KL_DIV,
        .acdc = {.taus = taus, .tau_count = ABL_COUNT_OF(taus)},
        .eap_ig = {.method = variant == 0 ? ABL_EAP_IG_INPUTS : ABL_EAP_IG_ACTIVATIONS, .steps = 2},
        .subnetwork_probing = {.learning_rate = 0.1F,
                               .epochs = 2,
                               .regularize_lambda = 1,
                               .mask_function = ABL_MASK_HARD_CONCRETE,
                               .init_value = ABL_MASK_INIT_DEFAULT,
                               .tree_optimisation = variant == 0,
                               .circuit_size = 4},
        .circuit_probing = {.sizes = sizes, .size_count = ABL_COUNT_OF(sizes)}};
}

static float *scores_of(const pair *p, abl_model *model, const abl_graph *graph,
                        abl_prune_algorithm algorithm, int variant) {
    const abl_prune_options options = options_of(p, model, graph, algorithm, variant);
    return edges_scores(&options);
}

static void prunes(const pair *p, const abl_graph *graph) {
    const size_t edges = (size_t)abl_graph_edge_count(graph);
    const bool simple = abl_graph_options_of(graph)->simple;
    for (int i = 0; i < ABL_PRUNE_ALGORITHM_COUNT; i++) {
        const abl_prune_algorithm algorithm = (abl_prune_algorithm)i;
        if (simple && algorithm == ABL_PRUNE_EAP_IG) {
            continue; /* of factorized graphs only */
        }
        const bool trains =
            algorithm == ABL_PRUNE_SUBNETWORK_PROBING || algorithm == ABL_PRUNE_CIRCUIT_PROBING;
        for (int variant = 0; variant < 2; variant++) {
            float *wide = scores_of(p, p->wide, graph, algorithm, variant);
            float *narrow = scores_of(p, p->narrow, graph, algorithm, variant);
            char what[64];
            (void)snprintf(what, sizeof what, "%s/%d", abl_prune_algorithm_name(algorithm),
                           variant);
            if (trains && !is_exact(p)) { /* Adam makes steps of roundings: no scores to compare */
                golden_check(p->title, what, isfinite(edges_max_abs(narrow, (int64_t)edges)));
            } else {
                same(p, what, wide, narrow, edges);
            }
            abl_free(wide);
            abl_free(narrow);
        }
    }
}

/* ---- out of memory --------------------------------------------------------------------------- */

static abl_code masked_try(const pair *p, const abl_graph *graph, abl_status *ret_status) {
    const size_t edges = (size_t)abl_graph_edge_count(graph);
    float *mask = abl_calloc(edges, sizeof *mask);
    float *gradient = abl_calloc(edges, sizeof *gradient);
    mask[0] = 0.5F;
    mask[edges - 1] = 1;
    const abl_patch_options options = {.model = p->narrow,
                                       .graph = graph,
                                       .tokens = p->batch.clean,
                                       .batch = PROMPTS,
                                       .seq = SEQ,
                                       .mask = mask};
    float *logits = abl_calloc((size_t)abl_patch_logit_count(&options), sizeof *logits);
    abl_code code = abl_patch_forward(&options, logits, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_patch_backward(&options, loss_gradient, NULL, NULL, gradient, ret_status);
    }
    const int64_t columns[PROMPTS] = {0};
    const float weights[PROMPTS] = {1, 1, 1};
    const abl_forward_options hooks = {.capture_all = true,
                                       .incl_bwd = true,
                                       .scalar = {.kind = ABL_SCALAR_LOGIT_SUM,
                                                  .columns = columns,
                                                  .weights = weights,
                                                  .width = 1},
                                       .stop_at_layer = -1};
    abl_forward_result result;
    if (code == ABL_CODE_OK) {
        code = abl_patch_hooked(&options, &hooks, &result, ret_status);
    }
    if (code == ABL_CODE_OK) {
        abl_forward_result_finish(&result);
    }
    abl_free(mask);
    abl_free(gradient);
    abl_free(logits);
    return code;
}

static abl_code prune_try(const pair *p, const abl_graph *graph, abl_prune_algorithm algorithm,
                          abl_status *ret_status) {
    const abl_prune_options options = options_of(p, p->narrow, graph, algorithm, 0);
    abl_prune *prune = NULL;
    abl_prune_progress progress = {.finished = false};
    abl_code code = abl_prune_create(&options, &prune, ret_status);
    while (code == ABL_CODE_OK && !progress.finished) {
        code = abl_prune_step(prune, &progress, ret_status);
    }
    abl_prune_destroy(prune);
    return code;
}

/* Whichever tensor finds no room on the device: the call says so, and lets go of what it had. */
static void failing(const pair *p, const abl_graph *graph) {
    if (abl_model_device(p->narrow).type == ABL_DEVICE_CPU) {
        return;
    }
    for (int what = -1; what < ABL_PRUNE_ALGORITHM_COUNT; what++) {
        abl_code code = ABL_CODE_RESOURCE_EXHAUSTED;
        const uint64_t before = golden_device_used();
        abl_status status = {.reason = ""};
        bool fine = true;
        for (int64_t n = 1; code != ABL_CODE_OK && fine; n += 1 + n / 4) {
            status = (abl_status){.reason = ""};
            golden_device_fail_at(n, "CUDA out of memory. Tried to allocate 20.00 MiB");
            code = what < 0 ? masked_try(p, graph, &status)
                            : prune_try(p, graph, (abl_prune_algorithm)what, &status);
            fine = golden_device_used() == before &&
                   (code == ABL_CODE_OK || (code == ABL_CODE_RESOURCE_EXHAUSTED &&
                                            strcmp(status.reason, "OUT_OF_DEVICE_MEMORY") == 0));
        }
        golden_device_fail_at(0, "");
        if (!fine) {
            printf("%s: %s\n", status.reason, status.message);
        }
        char title[64];
        (void)snprintf(title, sizeof title, "out of memory: %s",
                       what < 0 ? "passes" : abl_prune_algorithm_name((abl_prune_algorithm)what));
        golden_check(p->title, title, fine);
    }
}

static void over_graph(pair *p, const char *family, const char *name, abl_graph_options options) {
    const abl_model_config *c = abl_model_get_config(p->wide);
    options.layer_count = c->n_layers;
    options.head_count = c->n_heads;
    options.kv_head_count = c->n_kv_heads;
    options.parallel_attn_mlp = c->parallel_attn_mlp;
    options.attn_only = c->attn_only;
    abl_graph *graph = NULL;
    abl_status status;
    golden_must(abl_graph_create(&options, &graph, &status), &status);
    (void)snprintf(p->title, sizeof p->title, "%s/%s", family, name);
    patched_passes(p, graph, ABL_ABLATION_RESAMPLE);
    patched_passes(p, graph, ABL_ABLATION_ZERO);
    patched_passes(p, graph, ABL_ABLATION_BATCH_TOKENWISE_MEAN);
    prunes(p, graph);
    traffic(p, graph);
    if (strstr(family, "grouped") != NULL && options.gqa == ABL_GQA_EXPANDED) {
        failing(p, graph);
    }
    abl_graph_destroy(graph);
}

static void whole(const char *family, abl_dtype dtype, abl_device device) {
    pair p = pair_open(family, dtype, device);
    char name[64];
    (void)snprintf(name, sizeof name, "%s%s/%s", device.type == ABL_DEVICE_CPU ? "" : "device-",
                   abl_dtype_name(dtype), strchr(family, '/') + 1);
    (void)snprintf(p.title, sizeof p.title, "%s", name);
    golden_check(p.title, "takes its dtype's bytes",
                 abl_model_bytes(p.narrow) * sizeof(float) ==
                     abl_model_bytes(p.wide) * abl_dtype_bytes(dtype));
    plain_passes(&p);
    cached_passes(&p);
    over_graph(&p, name, "qkv", (abl_graph_options){.seq_len = 0});
    over_graph(&p, name, "joined", (abl_graph_options){.joined_qkv = true});
    over_graph(&p, name, "simple", (abl_graph_options){.simple = true});
    if (abl_model_get_config(p.wide)->n_kv_heads != abl_model_get_config(p.wide)->n_heads) {
        over_graph(&p, name, "expanded", (abl_graph_options){.gqa = ABL_GQA_EXPANDED});
    }
    pair_close(&p);
    golden_check(name, "nothing stays on the device", golden_device_used() == 0);
}

int main(void) {
    golden_init("resident_golden");
    golden_device_install();
    for (size_t i = 0; i < ABL_COUNT_OF(FAMILIES); i++) {
        whole(FAMILIES[i], ABL_DTYPE_BF16, CPU);
        if (abl_backend_has(CPU, ABL_DTYPE_F16)) {
            whole(FAMILIES[i], ABL_DTYPE_F16, CPU);
        }
        if (strstr(FAMILIES[i], "tracr") == NULL) { /* whose ReLUs sit on their kinks */
            whole(FAMILIES[i], i % 2 == 0 ? ABL_DTYPE_BF16 : ABL_DTYPE_F32, ACCELERATOR);
        }
    }
    return golden_finish();
}
