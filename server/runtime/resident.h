/* resident.h -- the kinds of resident objects: models, graphs, datasets, KV caches, ablations.
 * (Jobs: job.h.)
 *
 * OWNERSHIP  Each create call hands over one reference (registry.h). What a struct points to is
 *            its own, unless it says otherwise.
 * THREADS    The loop thread, except: the core objects behind `model`, `graph`, `json` and `prefix`
 *            are immutable, and may be read on executors while somebody holds a reference; the
 *            same goes for the values of abl_values.
 * ERRORS     NULL: no memory.
 */
#ifndef ABLATE_SERVER_RUNTIME_RESIDENT_H
#define ABLATE_SERVER_RUNTIME_RESIDENT_H

#include "core/graph/graph.h"
#include "core/model/forward.h"
#include "core/model/model.h"
#include "core/model/prefix.h"
#include "core/patch/patch.h"
#include "server/runtime/hooks.h"
#include "server/runtime/registry.h"

ABL_BEGIN_DECLS

/* One float an edge, immutable once shared: a mask or a set of scores. Counted on the loop thread;
 * a pass that runs under a mask holds on to it, whatever the graph's mask becomes meanwhile. */
typedef struct abl_values {
    uint32_t refs;
    int32_t batch; /* rows of a mask, one a prompt; 0: one row, for all prompts */
    int64_t count; /* in all rows */
    int64_t nonzero_count;
    float values[];
} abl_values;

ABL_MUST_CHECK abl_values *abl_values_create(int64_t count); /* all 0 */
abl_values *abl_values_ref(abl_values *values);
void abl_values_unref(abl_values *values); /* NULL is allowed */

typedef struct abl_resident_model {
    abl_object object;
    abl_model *model;
    char *path;       /* where it was loaded from, links resolved; NULL: uploaded */
    bool bos_default; /* what BOS_POLICY_UNSPECIFIED means */
    char name[ABL_NAME_BYTES_MAX + 1];
} abl_resident_model;

/* Takes `model` over on success. `path` may be NULL. */
ABL_MUST_CHECK abl_resident_model *abl_resident_model_create(abl_model *model, const char *name,
                                                             const char *path);

typedef struct abl_resident_graph {
    abl_object object;
    abl_graph *graph;
    abl_out_slice out_slice;
    int64_t idle_timeout_ms; /* deleted after so long without a use; 0: it stays */
    abl_values *mask;
    abl_mask_function mask_function; /* what it goes through in a pass, then dropout */
    float mask_dropout;
    abl_graph_hooks *hooks;              /* NULL: none */
    uint32_t hook_numbers;               /* given out so far */
    char owner[ABL_OWNER_BYTES_MAX + 1]; /* who created it; set by its maker */
} abl_resident_graph;

/* Takes `graph` over on success. */
ABL_MUST_CHECK abl_resident_graph *abl_resident_graph_create(abl_graph *graph,
                                                             abl_out_slice out_slice);
/* The model it is over, which it needs; NULL once the graph was deleted. */
abl_resident_model *abl_resident_graph_model(const abl_resident_graph *graph);
/* The KV caches that its passes stand behind, which it needs: NULL from the last one on. */
struct abl_resident_kv_cache *abl_resident_graph_kv_cache(const abl_resident_graph *graph,
                                                          size_t index);
/* Replaces the mask; takes the reference over. */
void abl_resident_graph_set_mask(abl_resident_graph *graph, abl_values *mask);
/* Replaces the interventions, likewise. */
void abl_resident_graph_set_hooks(abl_resident_graph *graph, abl_graph_hooks *hooks);

/* A prefix of prompts, over the model that it needs. */
typedef struct abl_resident_kv_cache {
    abl_object object;
    abl_prefix *prefix;
    int64_t hits;        /* passes, jobs and sweeps that found it */
    int64_t created_ms;  /* since 1970, UTC */
    int64_t last_use_ms; /* likewise */
    uint64_t last_use;   /* grows from use to use: the least is evicted first */
} abl_resident_kv_cache;

/* Takes `prefix` over on success. */
ABL_MUST_CHECK abl_resident_kv_cache *abl_resident_kv_cache_create(abl_prefix *prefix);

typedef struct abl_resident_dataset {
    abl_object object;
    char *json;
    size_t json_bytes;
    int32_t prompt_count;
    char **seq_labels;
    size_t seq_label_count;
    char hash[ABL_SHA256_TEXT_BYTES]; /* sha256 of the bytes */
    char name[ABL_NAME_BYTES_MAX + 1];
} abl_resident_dataset;

/* Takes `json` (an abl_malloc block) over on success. */
ABL_MUST_CHECK abl_resident_dataset *
abl_resident_dataset_create(char *json, size_t json_bytes, const char *name, const char *hash);

/* Immutable once listed: passes on the model's executor read `sources`. */
typedef struct abl_resident_ablation {
    abl_object object; /* needs its model */
    abl_sources *sources;
    abl_ablation ablation;
    bool clean;           /* the clean prompts ablate */
    bool from_dataset;    /* rows are of the dataset with dataset_hash, from its first prompt on */
    int32_t prompt_count; /* prompts that went into it */
    int64_t created_ms;
    char dataset_id[ABL_ID_BYTES];
    char dataset_hash[ABL_SHA256_TEXT_BYTES];
    void *provenance; /* packed; an abl_malloc block */
    size_t provenance_bytes;
} abl_resident_ablation;

/* Takes `sources` over on success. */
ABL_MUST_CHECK abl_resident_ablation *abl_resident_ablation_create(abl_sources *sources);
abl_resident_model *abl_resident_ablation_model(const abl_resident_ablation *ablation);

ABL_END_DECLS
#endif
