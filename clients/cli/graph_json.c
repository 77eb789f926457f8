/* SPDX-License-Identifier: Apache-2.0 */
/* graph_json.c -- see graph_json.h. Scores are float32 and JSON's numbers are doubles, so they come
 * back bit for bit; JSON has no infinity, which such files do without. */
#include "clients/cli/graph_json.h"

#include "clients/cli/out_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

json_t *abl_graph_json_create(const Ablate__V1__ModelConfig *config) {
    return json_pack("{s:{s:i, s:i, s:b, s:i}, s:{s:{s:b}}, s:{}}", "cfg", "n_layers",
                     (int)config->n_layers, "n_heads", (int)config->n_heads, "parallel_attn_mlp",
                     (int)config->parallel_attn_mlp, "d_model", (int)config->d_model, "nodes",
                     "logits", "in_graph", 1, "edges");
}

static bool add_node(json_t *nodes, const char *name, size_t length) {
    char key[64];
    (void)snprintf(key, sizeof key, "%.*s", (int)length, name);
    return json_object_get(nodes, key) != NULL ||
           json_object_set_new(nodes, key, json_pack("{s:b}", "in_graph", 1)) == 0;
}

bool abl_graph_json_add(json_t *file, const char *edge, double score) {
    const char *arrow = strstr(edge, "->");
    json_t *nodes = json_object_get(file, "nodes");
    if (arrow == NULL || !isfinite(score)) {
        return false;
    }
    const char *reader = arrow + 2;
    json_t *entry = json_pack("{s:f, s:b}", "score", score, "in_graph", 1);
    return add_node(nodes, edge, (size_t)(arrow - edge)) &&
           add_node(nodes, reader, strcspn(reader, "<")) && entry != NULL &&
           json_object_set_new(json_object_get(file, "edges"), edge, entry) == 0;
}

bool abl_graph_json_save(const json_t *file, const char *path, char *problem, size_t problem_size) {
    abl_out_file out;
    errno = 0;
    return abl_out_open(&out, path, problem, problem_size) &&
           abl_out_close(&out,
                         json_dumpf(file, out.file, JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0,
                         problem, problem_size);
}

typedef struct report {
    char *text;
    size_t size;
    bool any;
} report;

static void differ(report *out, const char *name, const json_t *there, long long here) {
    char text[41] = "missing";
    size_t length = json_dumpb(there, text, sizeof text - 1, JSON_ENCODE_ANY | JSON_COMPACT);
    text[length == 0                ? strlen("missing")
         : length < sizeof text - 1 ? length
                                    : sizeof text - 1] = '\0';
    size_t at = strlen(out->text);
    (void)snprintf(out->text + at, out->size - at, "%s%s is %s there and %lld here",
                   out->any ? ", " : " ", name, text, here);
    out->any = true;
}

static void check_number(report *out, const json_t *cfg, const char *name, long long here) {
    const json_t *there = json_object_get(cfg, name);
    if (!json_is_integer(there) || json_integer_value(there) != here) {
        differ(out, name, there, here);
    }
}

static bool check_cfg(const json_t *cfg, const Ablate__V1__ModelConfig *config, const char *path,
                      char *problem, size_t problem_size) {
    (void)snprintf(problem, problem_size, "'%.200s' is of another model:", path);
    report out = {.text = problem, .size = problem_size};
    check_number(&out, cfg, "n_layers", config->n_layers);
    check_number(&out, cfg, "n_heads", config->n_heads);
    check_number(&out, cfg, "d_model", config->d_model);
    const json_t *parallel = json_object_get(cfg, "parallel_attn_mlp");
    if (!json_is_boolean(parallel) || json_is_true(parallel) != (config->parallel_attn_mlp != 0)) {
        differ(&out, "parallel_attn_mlp", parallel, config->parallel_attn_mlp != 0);
    }
    return !out.any;
}

bool abl_graph_json_load(const char *path, const Ablate__V1__ModelConfig *config, json_t **ret_file,
                         json_t **ret_edges, char *problem, size_t problem_size) {
    json_error_t error;
    json_t *file = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    json_t *edges = json_object_get(file, "edges");
    const json_t *cfg = json_object_get(file, "cfg");
    if (file == NULL) {
        (void)snprintf(problem, problem_size, "cannot read '%.200s': %s", path, error.text);
    } else if (!json_is_object(edges) || !json_is_object(cfg)) {
        (void)snprintf(problem, problem_size,
                       "'%.200s' is no graph file of EAP-IG: it needs cfg and edges", path);
    } else if (check_cfg(cfg, config, path, problem, problem_size)) {
        *ret_file = file;
        *ret_edges = edges;
        return true;
    }
    json_decref(file);
    return false;
}
