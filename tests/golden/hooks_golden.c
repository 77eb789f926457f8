/* SPDX-License-Identifier: Apache-2.0
 *
 * Interventions, gradients at hook points and hook points of patched passes, against
 * TransformerLens and AutoCircuit (record_hooks.py). Values and masks are formulas that both sides
 * compute. The data are always the committed ones. */
#include "core/base/mem.h"
#include "core/graph/graph.h"
#include "core/model/forward.h"
#include "core/patch/hooked.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DATA ABLATE_GOLDEN_DATA
#define TOL_LOGITS 2e-5
#define TOL_GRADIENTS 1e-5 /* of the largest */
#define INDEX_MAX 8
#define WIDTH_MAX 256

static double gradient_tolerance(const float *want, size_t count) {
    double largest = 0.1;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)want[i]));
    }
    return TOL_GRADIENTS * largest;
}

typedef struct world {
    const char *title;
    const abl_model *model;
    const abl_safetensors *set;
    int32_t *tokens;
    int32_t *other;
    int64_t batch;
    int64_t seq;
} world;

/* One recorded intervention, and what it points to. */
typedef struct one {
    abl_intervention item;
    int32_t heads[INDEX_MAX];
    int32_t positions[INDEX_MAX];
    int32_t rows[INDEX_MAX];
    float values[WIDTH_MAX];
    int64_t shape[1];
} one;

static int32_t *read_tokens(const json_t *list, int64_t *ret_batch, int64_t *ret_seq) {
    *ret_batch = (int64_t)json_array_size(list);
    *ret_seq = (int64_t)json_array_size(json_array_get(list, 0));
    int32_t *tokens = abl_calloc((size_t)(*ret_batch * *ret_seq), sizeof *tokens);
    for (int64_t i = 0; tokens != NULL && i < *ret_batch * *ret_seq; i++) {
        const json_t *row = json_array_get(list, (size_t)(i / *ret_seq));
        tokens[i] = (int32_t)json_integer_value(json_array_get(row, (size_t)(i % *ret_seq)));
    }
    return tokens;
}

static abl_index_list read_indices(const json_t *list, int32_t *indices) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        indices[i] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return (abl_index_list){.indices = indices, .count = json_array_size(list)};
}

static abl_op op_of(const char *name) {
    for (int op = 0; op < ABL_OP_COUNT; op++) {
        if (strcmp(abl_op_name((abl_op)op), name) == 0) {
            return (abl_op)op;
        }
    }
    return ABL_OP_COUNT;
}

static void read_case(const world *w, const json_t *json, abl_tensor *cached, one *to) {
    abl_status status;
    int64_t index = json_integer_value(json_object_get(json, "index"));
    memset(to, 0, sizeof *to);
    abl_intervention *item = &to->item;
    golden_must(abl_hook_parse(abl_model_get_config(w->model),
                               json_string_value(json_object_get(json, "name")), &item->hook,
                               &status),
                &status);
    item->op = op_of(json_string_value(json_object_get(json, "op")));
    item->heads = read_indices(json_object_get(json, "heads"), to->heads);
    item->positions = read_indices(json_object_get(json, "positions"), to->positions);
    item->rows = read_indices(json_object_get(json, "rows"), to->rows);
    const abl_pass_shape shape = {
        .batch = w->batch, .seq = w->seq, .kv_heads = abl_model_get_config(w->model)->n_kv_heads};
    abl_hook_layout layout =
        abl_hook_layout_of(abl_model_get_config(w->model), item->hook.point, &shape);
    to->shape[0] = layout.sizes[layout.rank - 1];
    bool scale = item->hook.point == ABL_HOOK_LN1_SCALE || item->hook.point == ABL_HOOK_LN2_SCALE ||
                 item->hook.point == ABL_HOOK_LN_FINAL_SCALE;
    for (int64_t i = 0; i < to->shape[0]; i++) {
        double wave = sin(0.7 * (double)i + 0.3 * (double)index);
        to->values[i] = (float)(scale ? 1.5 + 0.5 * wave : wave);
    }
    if (item->op == ABL_OP_SET || item->op == ABL_OP_ADD || item->op == ABL_OP_PROJECT_OUT) {
        item->values = to->values;
        item->value_shape = to->shape;
        item->value_rank = 1;
    }
    item->cached = item->op == ABL_OP_PATCH ? cached : NULL;
    item->factor = item->op == ABL_OP_ADD ? (double)0.8F : (double)1.7F;
    item->low = scale ? 0.5 : -0.2;
    item->high = scale ? 1.0 : 0.3;
    item->over_rows = index % 3 != 1;
    item->over_positions = index % 3 != 0;
}

static abl_forward_options options_of(const world *w) {
    return (abl_forward_options){.model = w->model,
                                 .tokens = w->tokens,
                                 .batch = w->batch,
                                 .seq = w->seq,
                                 .out_slice = ABL_OUT_SLICE_LAST,
                                 .stop_at_layer = -1};
}

/* A gradient against the whole of a recorded tensor. */
static void compare_gradient(const char *title, const char *what,
                             const abl_safetensors_tensor *expected, const abl_tensor *actual) {
    float *want = abl_malloc(expected->bytes);
    memcpy(want, expected->data, expected->bytes);
    golden_compare_tensor(title, what, expected, actual,
                          gradient_tolerance(want, expected->elements));
    abl_free(want);
}

/* Row `at` of a recorded (cases, ...) tensor against a tensor cut to as many columns. */
static void compare_row(const char *title, const char *what, const abl_safetensors_tensor *expected,
                        size_t at, const abl_tensor *actual, bool gradient) {
    size_t count = (size_t)(expected->shape[1] * expected->shape[2]);
    float *want = abl_malloc(count * sizeof *want);
    memcpy(want, (const char *)expected->data + at * count * sizeof *want, count * sizeof *want);
    abl_scope *scope = abl_scope_create(abl_tensor_device(actual));
    abl_tensor *cut = abl_tensor_slice(scope, actual, 1, 0, expected->shape[2]);
    size_t have = 0;
    float *got = golden_floats_of(cut, &have);
    golden_compare_floats(title, what, want, count, got, have,
                          gradient ? gradient_tolerance(want, count) : TOL_LOGITS);
    abl_scope_destroy(scope);
    abl_free(got);
    abl_free(want);
}

/* The gradient at hook_embed, summed over positions. */
static void compare_embed(const char *title, const char *what,
                          const abl_safetensors_tensor *expected, size_t at,
                          const abl_tensor *gradient) {
    abl_scope *scope = abl_scope_create(abl_tensor_device(gradient));
    const int64_t positions[] = {1};
    abl_tensor *sum = abl_tensor_sum(scope, gradient, positions, 1, false);
    compare_row(title, what, expected, at, sum, true);
    abl_scope_destroy(scope);
}

/* ---- One intervention at a time ------------------------------------------------------------ */

static abl_tensor *cached_of(const world *w, const char *name, abl_forward_result *ret_result) {
    abl_forward_options options = options_of(w);
    abl_status status;
    options.tokens = w->other;
    options.hooks = &name;
    options.hook_count = 1;
    golden_must(abl_forward(&options, ret_result, &status), &status);
    return ret_result->entries[0].tensor;
}

static void run_cases(const world *w, const json_t *cases) {
    static const char *const at_embed[] = {"hook_embed_grad"};
    char name[64];
    (void)snprintf(name, sizeof name, "%s/logits", w->title);
    const abl_safetensors_tensor *logits = golden_tensor(w->set, name);
    (void)snprintf(name, sizeof name, "%s/grads", w->title);
    const abl_safetensors_tensor *grads = golden_tensor(w->set, name);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *json = json_array_get(cases, i);
        abl_forward_result other;
        one made;
        char what[128];
        abl_status status;
        abl_tensor *cached = cached_of(w, json_string_value(json_object_get(json, "name")), &other);
        read_case(w, json, cached, &made);
        abl_forward_options options = options_of(w);
        options.interventions = (abl_interventions){.items = &made.item, .count = 1};
        options.hooks = at_embed;
        options.hook_count = 1;
        abl_forward_result result;
        golden_must(abl_forward(&options, &result, &status), &status);
        (void)snprintf(what, sizeof what, "%s %s", json_string_value(json_object_get(json, "name")),
                       abl_op_name(made.item.op));
        compare_row(w->title, what, logits, i, result.logits, false);
        (void)snprintf(what, sizeof what, "%s %s, gradient",
                       json_string_value(json_object_get(json, "name")), abl_op_name(made.item.op));
        compare_embed(w->title, what, grads, i, result.entries[0].tensor);
        abl_forward_result_finish(&result);
        abl_forward_result_finish(&other);
    }
}

/* ---- Every gradient ------------------------------------------------------------------------ */

static void run_gradients(const world *w, const json_t *info, const char *key) {
    const json_t *one_set = json_object_get(info, key);
    const json_t *names = json_object_get(one_set, "names");
    static const int64_t columns[] = {3, 7, 7, 3, 7, 7};
    static const float weights[] = {0.5F, -0.5F, -0.25F, 0.5F, -0.5F, 0}; /* a column twice */
    char texts[128][96];
    const char *asked[128];
    size_t count = json_array_size(names);
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%s_grad",
                       json_string_value(json_array_get(names, i)));
        asked[i] = texts[i];
    }
    abl_forward_options options = options_of(w);
    options.hooks = asked;
    options.hook_count = count;
    if (strcmp(key, "logit_sum") == 0) {
        options.scalar = (abl_scalar){
            .kind = ABL_SCALAR_LOGIT_SUM, .columns = columns, .weights = weights, .width = 3};
    }
    abl_forward_result result;
    abl_status status;
    golden_must(abl_forward(&options, &result, &status), &status);
    char title[64];
    (void)snprintf(title, sizeof title, "%s/%s", w->title, key);
    float want = (float)json_number_value(json_object_get(one_set, "value"));
    float have = (float)result.scalar;
    golden_compare_floats(title, "the scalar", &want, 1, &have, 1, TOL_LOGITS);
    golden_check(title, "as many gradients as asked", result.entry_count == count);
    for (size_t i = 0; i < result.entry_count; i++) {
        char name[160];
        size_t length = strlen(result.entries[i].name) - strlen("_grad");
        (void)snprintf(name, sizeof name, "%s/%.*s", title, (int)length, result.entries[i].name);
        compare_gradient(title, result.entries[i].name, golden_tensor(w->set, name),
                         result.entries[i].tensor);
    }
    abl_forward_result_finish(&result);
}

/* ---- Patched passes ------------------------------------------------------------------------ */

typedef struct patched {
    world w;
    abl_graph *graph;
    abl_sources *sources;
    float *mask;
    abl_patch_options options;
} patched;

static void patched_open(patched *p, const world *w) {
    abl_status status;
    const abl_model_config *c = abl_model_get_config(w->model);
    const abl_graph_options graph = {
        .layer_count = c->n_layers, .head_count = c->n_heads, .kv_head_count = c->n_kv_heads};
    p->w = *w;
    golden_must(abl_graph_create(&graph, &p->graph, &status), &status);
    golden_must(abl_sources_create((abl_model *)(uintptr_t)w->model, NULL, w->other,
                                   (int32_t)w->batch, (int32_t)w->seq, &p->sources, &status),
                &status);
    int64_t edges = abl_graph_edge_count(p->graph);
    p->mask = abl_calloc((size_t)edges, sizeof *p->mask);
    for (int64_t i = 0; i < edges; i++) {
        p->mask[i] = (float)(0.5 + 0.5 * sin(0.37 * (double)i));
    }
    p->options = (abl_patch_options){.model = (abl_model *)(uintptr_t)w->model,
                                     .graph = p->graph,
                                     .tokens = w->tokens,
                                     .batch = (int32_t)w->batch,
                                     .seq = (int32_t)w->seq,
                                     .mask = p->mask,
                                     .ablated = p->sources};
}

static void patched_close(patched *p) {
    abl_sources_destroy(p->sources);
    abl_graph_destroy(p->graph);
    abl_free(p->mask);
}

static void patched_captures(const patched *p, const json_t *info) {
    const char *asked[64];
    char texts[64][96];
    size_t count = 0;
    const json_t *captured = json_object_get(info, "captured");
    const json_t *gradients = json_object_get(info, "gradients");
    for (size_t i = 0; i < json_array_size(captured); i++) {
        asked[count++] = json_string_value(json_array_get(captured, i));
    }
    for (size_t i = 0; i < json_array_size(gradients); i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%s_grad",
                       json_string_value(json_array_get(gradients, i)));
        asked[count++] = texts[i];
    }
    /* With gradients edges are mixed as the formula stands, without as patch.h does. */
    for (int with = 0; with < 2; with++) {
        const char *title = with ? "patched, with gradients" : "patched";
        abl_forward_options hooks = {.hooks = asked,
                                     .hook_count = with ? count : json_array_size(captured),
                                     .stop_at_layer = -1};
        abl_forward_result result;
        abl_status status;
        golden_must(abl_patch_hooked(&p->options, &hooks, &result, &status), &status);
        golden_check(title, "as many tensors as asked", result.entry_count == hooks.hook_count);
        for (size_t i = 0; i < result.entry_count; i++) {
            char name[160];
            (void)snprintf(name, sizeof name, "patched/%s", result.entries[i].name);
            const abl_safetensors_tensor *want = golden_tensor(p->w.set, name);
            if (strstr(name, "_grad") != NULL) {
                compare_gradient(title, result.entries[i].name, want, result.entries[i].tensor);
            } else {
                golden_compare_tensor(title, result.entries[i].name, want, result.entries[i].tensor,
                                      TOL_LOGITS);
            }
        }
        size_t size = (size_t)abl_patch_logit_count(&p->options);
        float *plain = abl_calloc(size, sizeof *plain);
        size_t have = 0;
        float *logits = golden_floats_of(result.logits, &have);
        golden_must(abl_patch_forward(&p->options, plain, &status), &status);
        golden_compare_floats(title, "logits, against the pass without hooks", plain, size, logits,
                              have, TOL_LOGITS);
        abl_free(plain);
        abl_free(logits);
        abl_forward_result_finish(&result);
    }
}

static void patched_cases(const patched *p, const json_t *cases) {
    static const char *const at_embed[] = {"hook_embed_grad"};
    const abl_safetensors_tensor *logits = golden_tensor(p->w.set, "patched/cases/logits");
    const abl_safetensors_tensor *grads = golden_tensor(p->w.set, "patched/cases/grads");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *json = json_array_get(cases, i);
        one made;
        char what[128];
        abl_status status;
        abl_forward_result result;
        read_case(&p->w, json, NULL, &made);
        const abl_forward_options hooks = {.hooks = at_embed, .hook_count = 1, .stop_at_layer = -1};
        abl_patch_options options = p->options;
        options.interventions = (abl_interventions){.items = &made.item, .count = 1};
        golden_must(abl_patch_hooked(&options, &hooks, &result, &status), &status);
        (void)snprintf(what, sizeof what, "%s %s", json_string_value(json_object_get(json, "name")),
                       abl_op_name(made.item.op));
        compare_row("patched", what, logits, i, result.logits, false);
        compare_embed("patched gradient", what, grads, i, result.entries[0].tensor);
        abl_forward_result_finish(&result);
    }
}

/* A full mask's run is the ablation's, an empty one's the plain one, at every hook point. */
static void patched_ends(patched *p) {
    for (int full = 0; full < 2; full++) {
        for (int64_t i = 0; i < abl_graph_edge_count(p->graph); i++) {
            p->mask[i] = (float)full;
        }
        abl_forward_options plain = options_of(&p->w);
        plain.tokens = full ? p->w.other : p->w.tokens;
        plain.capture_all = true;
        plain.per_head_inputs = true;
        const abl_forward_options hooks = {
            .capture_all = true, .per_head_inputs = true, .stop_at_layer = -1};
        abl_status status;
        abl_forward_result want;
        abl_forward_result have;
        golden_must(abl_forward(&plain, &want, &status), &status);
        golden_must(abl_patch_hooked(&p->options, &hooks, &have, &status), &status);
        const char *title = full ? "patched, full mask" : "patched, empty mask";
        golden_check(title, "the same hook points", want.entry_count == have.entry_count);
        for (size_t i = 0; i < want.entry_count && i < have.entry_count; i++) {
            abl_hook_point point = have.entries[i].hook.point;
            /* With every edge ablated the stream still carries this run. */
            bool stream = point == ABL_HOOK_EMBED || point == ABL_HOOK_RESID_PRE ||
                          point == ABL_HOOK_RESID_MID || point == ABL_HOOK_ATTN_IN ||
                          (point == ABL_HOOK_RESID_POST && have.entries[i].hook.layer == 0);
            size_t want_count = 0;
            size_t have_count = 0;
            float *a = golden_floats_of(want.entries[i].tensor, &want_count);
            float *b = golden_floats_of(have.entries[i].tensor, &have_count);
            if (!(full && stream)) {
                golden_compare_floats(title, have.entries[i].name, a, want_count, b, have_count,
                                      TOL_LOGITS);
            }
            abl_free(a);
            abl_free(b);
        }
        abl_forward_result_finish(&want);
        abl_forward_result_finish(&have);
    }
}

int main(void) {
    golden_init("hooks_golden");
    abl_safetensors *set = golden_open_tensors(DATA "/hooks/cases.safetensors");
    json_t *info = golden_open_json(DATA "/hooks/cases.json");
    static const struct {
        const char *key;
        const char *folder;
    } models[] = {{"gpt2", DATA "/models/tiny-rand"}, {"llama", DATA "/hooks/tiny-llama"}};
    for (size_t i = 0; i < ABL_COUNT_OF(models); i++) {
        const json_t *part = json_object_get(info, models[i].key);
        abl_model *model = golden_open_model(models[i].folder, abl_model_processing_hf());
        world w = {.title = models[i].key, .model = model, .set = set};
        w.tokens = read_tokens(json_object_get(part, "tokens"), &w.batch, &w.seq);
        w.other = read_tokens(json_object_get(part, "other"), &w.batch, &w.seq);
        run_cases(&w, json_object_get(part, "cases"));
        const json_t *gradients = json_object_get(part, "gradients");
        run_gradients(&w, gradients, "loss");
        run_gradients(&w, gradients, "split");
        run_gradients(&w, gradients, "logit_sum");
        if (i == 0) {
            patched p;
            patched_open(&p, &w);
            patched_captures(&p, json_object_get(info, "patched"));
            patched_cases(&p, json_object_get(json_object_get(info, "patched"), "cases"));
            patched_ends(&p);
            patched_close(&p);
        }
        abl_free(w.tokens);
        abl_free(w.other);
        abl_model_unref(model);
    }
    json_decref(info);
    abl_safetensors_close(set);
    return golden_finish();
}
