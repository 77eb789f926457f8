/* edges.h -- graphs, datasets and per-edge arrays of the recorded cases, for the golden tests that
 * are about edges. Built on golden.h: what cannot be read ends the process. */
#ifndef ABLATE_TESTS_GOLDEN_EDGES_H
#define ABLATE_TESTS_GOLDEN_EDGES_H

#include "core/data/dataset.h"
#include "core/graph/graph.h"
#include "core/prune/prune.h"
#include "tests/golden/golden.h"

/* How AutoCircuit's model was made: goldens/README.md, "Model variants". */
typedef struct edges_variant {
    const char *name; /* "proc_fact_qkv" */
    bool raw;
    bool joined_qkv;
    bool seq;
    bool simple;
} edges_variant;

/* Added to a tolerance for gradients of simple graphs at masks between 0 and 1: every node of the
 * stream below has been moved towards its ablation, so ablated - current is the small rest of two
 * values of order 1, and what rounding makes of those does not shrink with it. */
#define EDGES_TOL_REST 1e-6

extern const edges_variant EDGES_VARIANTS[];
extern const size_t EDGES_VARIANT_COUNT;

extern const char *const EDGES_MODELS[2];  /* tiny-ioi, tiny-rand */
extern const char *const EDGES_SMOLLM2[4]; /* the task folders */

/* What the checks of a case run on. */
typedef struct edges_subject {
    const char *model_name; /* of EDGES_MODELS; or a task of EDGES_SMOLLM2 */
    abl_model *model;
    const abl_graph *graph;
    const abl_dataset *dataset;
} edges_subject;

/* Each recorded model in each variant, over edges_abba(). */
void edges_each_variant(void (*visit_cb)(const edges_subject *s, const edges_variant *variant));
/* Each SmolLM2 task over all native edges, with the reference's arrays. Nothing where the compact
 * set leaves the model out. */
void edges_each_smollm2(void (*visit_cb)(const edges_subject *s, const abl_safetensors *set));

abl_graph *edges_graph(const abl_model *model, const edges_variant *variant, int seq_len);
/* Rows 0..7 of ioi_abba, then its rows 8..15, as recorded token ids (BOS included). */
abl_dataset *edges_abba(const char *model_name);
/* Prompts that any model takes: token ids without a pattern, a pair's first one shared. */
abl_dataset *edges_made_up(const abl_model_config *config, int32_t prompts, int32_t seq);
/* The first prompts the other way around: what was corrupt is clean. */
abl_dataset *edges_reversed(const abl_dataset *dataset, int32_t prompts);
/* A dataset file (golden_path()) through the model's own tokenizer. */
abl_dataset *edges_prompts(const char *path, const abl_model *model, abl_bos_policy bos);
abl_dataset *edges_prompts_of(const json_t *json, const abl_model *model, abl_bos_policy bos);
/* The eight prompts of a SmolLM2 task. */
abl_dataset *edges_smollm2(const char *task);

/* The recorded arrays "<prefix>/<module>" as one flat array; NULL when the set has none of them.
 * End with abl_free(). */
float *edges_flat(const abl_graph *graph, const abl_safetensors *set, const char *prefix);
float *edges_floats(const abl_safetensors_tensor *tensor);
double edges_max_abs(const float *values, int64_t count);
/* A prune after all its steps; ends with abl_prune_destroy(). */
abl_prune *edges_run(const abl_prune_options *options);
/* Its scores alone, which end with abl_free(). */
float *edges_scores(const abl_prune_options *options);
/* A JSON list of integers; ends with abl_free(). */
int64_t *edges_list(const json_t *list, int64_t *ret_count);

/* Case "<model>/<case>_<variant>" under cases/; NULL when the compact set leaves it out. */
typedef struct edges_case {
    char title[96];
    abl_safetensors *set; /* NULL: the case has no arrays */
    json_t *json;
} edges_case;

bool edges_case_open(edges_case *opened, const char *model_name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void edges_case_close(edges_case *opened);

#endif
