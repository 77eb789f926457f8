/* dir.h -- which folder a model's name means, and that nothing in it leaves the allowed roots.
 *
 * OWNERSHIP  abl_model_dir_create() and abl_model_list_create() hand over; _destroy() ends them.
 * THREADS    Any thread; every call blocks on disk.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 *
 * A name is, in the order tried: a path to a folder, absolute inside a root or relative to one; a
 * short alias (gpt2-small); a Hugging Face id org/name[@revision], looked up in the hub cache.
 * The daemon never downloads: what is missing is answered with how to fetch it.
 */
#ifndef ABLATE_CORE_MODEL_DIR_H
#define ABLATE_CORE_MODEL_DIR_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_model_roots {
    const char *const *paths; /* folders that hold model folders; those missing are skipped */
    size_t count;
    const char *hub_cache; /* the Hugging Face hub folder (models--ORG--NAME in it); NULL: none */
} abl_model_roots;

typedef struct abl_model_dir {
    char *name;      /* what to call the model: the path under its root, or the hub id */
    char *path;      /* the folder, absolute, links resolved */
    char *root;      /* every file of the model must resolve inside this one */
    char *config;    /* path of config.json, links resolved */
    char *weights;   /* path of model.safetensors or model.safetensors.index.json in `path`: its own
                      * link is not resolved, since an index names its shards beside itself; open
                      * it with `root` as the root */
    char *tokenizer; /* path of tokenizer.json, links resolved; NULL when the folder has none */
    char *revision;  /* hub snapshots: the commit; else NULL */
} abl_model_dir;

/* Finds the folder and its files; reads none of them.
 *   INVALID_ARGUMENT     MODEL_NAME_INVALID   empty, too long, control characters
 *   PERMISSION_DENIED    PATH_OUTSIDE_ROOT    '..', an absolute path, or a link leads out
 *   NOT_FOUND            MODEL_NOT_FOUND      nothing of that name; says how to fetch it
 *   NOT_FOUND            MODEL_FILE_MISSING   the folder lacks files; lists them
 *   FAILED_PRECONDITION  MODEL_PICKLE_ONLY    only pytorch_model.bin: convert to safetensors */
ABL_MUST_CHECK abl_code abl_model_dir_create(const abl_model_roots *roots, const char *name,
                                             abl_model_dir **ret_dir, abl_status *ret_status);
void abl_model_dir_destroy(abl_model_dir *dir); /* NULL is allowed */

/* "~/.cache/huggingface/hub" by HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME, in that order;
 * whether or not it exists. NULL when no variable says, or no memory. The caller frees it with
 * abl_free(). */
char *abl_model_hub_cache_default(void);

typedef struct abl_model_list_entry {
    char *name; /* what abl_model_dir_create() takes */
    char *path;
    char *family;   /* model_type of its config.json, supported or not; "" when unreadable */
    uint64_t bytes; /* of the safetensors files */
    char *problem;  /* why it cannot be loaded; NULL when nothing speaks against it */
    bool has_tokenizer;
} abl_model_list_entry;

typedef struct abl_model_list {
    abl_model_list_entry *entries; /* by name */
    size_t count;
    bool truncated; /* there were more than ABL_MODEL_LIST_MAX */
} abl_model_list;

/* Why nothing in a root can be listed: "does not exist"; static, "" where it can be read. */
const char *abl_model_root_problem(const char *path);

/* Every model folder below the roots, two levels deep (name, org/name), and in the hub cache. */
ABL_MUST_CHECK abl_code abl_model_list_create(const abl_model_roots *roots,
                                              abl_model_list **ret_list, abl_status *ret_status);
void abl_model_list_destroy(abl_model_list *list);

ABL_END_DECLS
#endif
