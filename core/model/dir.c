/* SPDX-License-Identifier: Apache-2.0
 *
 * A name from a client becomes a folder in three tries: a path below a root, an alias, a hub id.
 *
 *   ROOT/NAME, ROOT/ORG/NAME                                   config.json, model.safetensors, ...
 *   HUB/models--ORG--NAME/refs/REVISION                        holds a commit
 *   HUB/models--ORG--NAME/snapshots/COMMIT/model.safetensors   -> ../../blobs/HASH
 *
 * Nothing is decided by looking at the text of a path alone: what realpath() makes of it must lie
 * in the root. For a hub snapshot the root is the whole hub folder, since its files are links into
 * blobs/. The text is looked at first all the same: `..` and absolute paths elsewhere are refused
 * without touching the disk, so that an answer says nothing about files outside of the roots. */
#include "core/model/dir.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/model/path.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const struct {
    const char *alias;
    const char *id;
} aliases[] = {
    {"gpt2", "openai-community/gpt2"},
    {"gpt2-small", "openai-community/gpt2"},
    {"gpt2-medium", "openai-community/gpt2-medium"},
    {"gpt2-large", "openai-community/gpt2-large"},
    {"gpt2-xl", "openai-community/gpt2-xl"},
    {"distillgpt2", "distilbert/distilgpt2"}, /* TransformerLens's spelling */
    {"distilgpt2", "distilbert/distilgpt2"},
    {"smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"},
    {"smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct"},
    {"tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"},
};

static abl_code check_name(const char *name, abl_status *ret_status);
static abl_code find_below_roots(const abl_model_roots *roots, const char *name, abl_model_dir *dir,
                                 abl_status *ret_status);
static abl_code find_in_hub(const char *hub, const char *id, abl_model_dir *dir,
                            abl_status *ret_status);
static abl_code find_files(abl_model_dir *dir, abl_status *ret_status);
static abl_code fail_not_found(const char *name, const char *id, abl_status *ret_status);

/* `id` is `name`, or what an alias stands for. OK with dir->path NULL: nothing of that name. */
static abl_code find_folder(const abl_model_roots *roots, const char *id, abl_model_dir *dir,
                            abl_status *ret_status) {
    abl_code code = find_below_roots(roots, id, dir, ret_status);
    if (code == ABL_CODE_OK && dir->path == NULL && roots->hub_cache != NULL && id[0] != '/') {
        code = find_in_hub(roots->hub_cache, id, dir, ret_status);
    }
    return code;
}

abl_code abl_model_dir_create(const abl_model_roots *roots, const char *name,
                              abl_model_dir **ret_dir, abl_status *ret_status) {
    ABL_ASSERT(roots != NULL && name != NULL && ret_dir != NULL);
    abl_code code = check_name(name, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_model_dir *dir = abl_calloc(1, sizeof *dir);
    if (dir == NULL) {
        return abl_fail_oom(ret_status);
    }
    code = find_folder(roots, name, dir, ret_status);
    const char *id = name;
    for (size_t i = 0; i < ABL_COUNT_OF(aliases); i++) {
        if (code == ABL_CODE_OK && dir->path == NULL && strcmp(name, aliases[i].alias) == 0) {
            id = aliases[i].id;
            code = find_folder(roots, id, dir, ret_status);
        }
    }
    if (code == ABL_CODE_OK && dir->path == NULL) {
        code = fail_not_found(name, id, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = find_files(dir, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_model_dir_destroy(dir);
        return code;
    }
    *ret_dir = dir;
    return ABL_CODE_OK;
}

void abl_model_dir_destroy(abl_model_dir *dir) {
    if (dir == NULL) {
        return;
    }
    abl_free(dir->name);
    abl_free(dir->path);
    abl_free(dir->root);
    abl_free(dir->config);
    abl_free(dir->weights);
    abl_free(dir->tokenizer);
    abl_free(dir->revision);
    abl_free(dir);
}

char *abl_model_hub_cache_default(void) {
    static const struct {
        const char *variable;
        const char *below;
    } places[] = {
        {"HF_HUB_CACHE", ""},
        {"HUGGINGFACE_HUB_CACHE", ""},
        {"HF_HOME", "/hub"},
        {"XDG_CACHE_HOME", "/huggingface/hub"},
        {"HOME", "/.cache/huggingface/hub"},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(places); i++) {
        const char *value = getenv(places[i].variable);
        if (value != NULL && value[0] != '\0') {
            size_t bytes = strlen(value) + strlen(places[i].below) + 1;
            char *path = abl_malloc(bytes);
            if (path != NULL) {
                (void)snprintf(path, bytes, "%s%s", value, places[i].below);
            }
            return path;
        }
    }
    return NULL;
}

/* --- names ---------------------------------------------------------------------------------- */

static bool has_parent_component(const char *path) {
    for (const char *part = path; part != NULL; part = strchr(part, '/')) {
        part += (*part == '/');
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0')) {
            return true;
        }
    }
    return false;
}

static abl_code check_name(const char *name, abl_status *ret_status) {
    size_t length = strlen(name);
    if (length == 0 || length >= ABL_PATH_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "MODEL_NAME_INVALID",
                        "a model's name must have 1 to %d bytes, not %zu", ABL_PATH_BYTES_MAX - 1,
                        length);
    }
    for (size_t i = 0; i < length; i++) {
        if (iscntrl((unsigned char)name[i])) {
            return abl_fail(
                ret_status, ABL_CODE_INVALID_ARGUMENT, "MODEL_NAME_INVALID",
                "a model's name must not contain control characters (byte %zu is 0x%02x)", i,
                (unsigned)(unsigned char)name[i]);
        }
    }
    if (has_parent_component(name)) {
        return abl_fail(ret_status, ABL_CODE_PERMISSION_DENIED, "PATH_OUTSIDE_ROOT",
                        "model '%s': '..' is not allowed in a model's name", name);
    }
    return ABL_CODE_OK;
}

static abl_code fail_not_found(const char *name, const char *id, abl_status *ret_status) {
    bool smollm = strcmp(id, "HuggingFaceTB/SmolLM2-135M-Instruct") == 0;
    if (smollm || strchr(id, '/') == NULL || id[0] == '/') {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "MODEL_NOT_FOUND",
                        "no model '%s' below the model roots or in the Hugging Face cache. The "
                        "daemon downloads nothing; fetch it first: %s",
                        name,
                        smollm ? "python -m ablate.models fetch smollm2-135m"
                               : "hf download ORG/NAME, and name it ORG/NAME here");
    }
    return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "MODEL_NOT_FOUND",
                    "no model '%s' below the model roots or in the Hugging Face cache. The daemon "
                    "downloads nothing; fetch it first: hf download %s",
                    name, id);
}

/* --- folders below a root ------------------------------------------------------------------- */

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Fills path, root and name when `path` is a folder that resolves inside `root`. */
static abl_code take_folder(const char *path, const char *root, const char *name,
                            abl_model_dir *dir, abl_status *ret_status) {
    abl_code code = abl_path_resolve(path, root, &dir->path, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_path_resolve(root, NULL, &dir->root, ret_status);
    }
    if (code == ABL_CODE_OK) {
        dir->name = abl_strdup(name);
        if (dir->name == NULL) {
            code = abl_fail_oom(ret_status);
        }
    }
    return code;
}

/* An absolute path must begin with a root, as configured or resolved. */
static abl_code find_absolute(const abl_model_roots *roots, const char *name, abl_model_dir *dir,
                              abl_status *ret_status) {
    for (size_t i = 0; i < roots->count; i++) {
        ABL_CLEANUP(abl_freep) char *resolved = NULL;
        abl_code code = abl_path_resolve(roots->paths[i], NULL, &resolved, ret_status);
        if (code == ABL_CODE_RESOURCE_EXHAUSTED) {
            return code;
        }
        if (code != ABL_CODE_OK ||
            (!abl_path_is_below(name, roots->paths[i]) && !abl_path_is_below(name, resolved))) {
            continue;
        }
        return is_folder(name) ? take_folder(name, roots->paths[i], name, dir, ret_status)
                               : ABL_CODE_OK;
    }
    return abl_fail(ret_status, ABL_CODE_PERMISSION_DENIED, "PATH_OUTSIDE_ROOT",
                    "model '%s' is outside of the folders that this daemon may read models from",
                    name);
}

static abl_code find_below_roots(const abl_model_roots *roots, const char *name, abl_model_dir *dir,
                                 abl_status *ret_status) {
    if (name[0] == '/') {
        return find_absolute(roots, name, dir, ret_status);
    }
    for (size_t i = 0; i < roots->count; i++) {
        ABL_CLEANUP(abl_freep) char *path = abl_path_join(roots->paths[i], name);
        if (path == NULL) {
            return abl_fail_oom(ret_status);
        }
        if (is_folder(path)) {
            return take_folder(path, roots->paths[i], name, dir, ret_status);
        }
    }
    return ABL_CODE_OK;
}

/* --- the hub cache -------------------------------------------------------------------------- */

/* [A-Za-z0-9._-]+, not beginning with a dot: safe as one component of a path. */
static bool component_ok(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!isalnum(c) && c != '.' && c != '_' && c != '-') {
            return false;
        }
    }
    return length > 0 && text[0] != '.';
}

/* Splits org/name@revision. False when it cannot be a hub id. */
static bool hub_parse(const char *id, char *folder, size_t folder_bytes, const char **ret_revision,
                      size_t *ret_id_length) {
    const char *at = strchr(id, '@');
    size_t length = (at == NULL) ? strlen(id) : (size_t)(at - id);
    const char *slash = memchr(id, '/', length);
    size_t org = (slash == NULL) ? 0 : (size_t)(slash - id);
    const char *base = (slash == NULL) ? id : slash + 1;
    size_t base_length = length - (size_t)(base - id);
    if ((slash != NULL && !component_ok(id, org)) || !component_ok(base, base_length) ||
        (at != NULL && at[1] == '\0')) {
        return false;
    }
    int wrote = snprintf(folder, folder_bytes, "models--%.*s%s%.*s", (int)org, id,
                         (slash == NULL) ? "" : "--", (int)base_length, base);
    *ret_revision = (at == NULL) ? "main" : at + 1;
    *ret_id_length = length;
    return wrote > 0 && (size_t)wrote < folder_bytes;
}

/* The commit that a revision means: what refs/REVISION holds, or the revision itself when there is
 * a snapshot of that name. "" when neither. */
static abl_code hub_commit(const char *hub, const char *folder, const char *revision, char *commit,
                           size_t commit_bytes, abl_status *ret_status) {
    commit[0] = '\0';
    char path[ABL_PATH_BYTES_MAX];
    int wrote = snprintf(path, sizeof path, "%s/%s/refs/%s", hub, folder, revision);
    if (wrote < 0 || (size_t)wrote >= sizeof path) {
        return ABL_CODE_OK;
    }
    ABL_CLEANUP(abl_freep) char *resolved = NULL;
    ABL_CLEANUP(abl_freep) char *text = NULL;
    size_t bytes = 0;
    abl_status unused;
    abl_code code = abl_path_resolve(path, hub, &resolved, &unused);
    if (code == ABL_CODE_OK) {
        code = abl_file_read(resolved, commit_bytes, "FILE_TOO_BIG", &text, &bytes, &unused);
    }
    if (code == ABL_CODE_OK) {
        size_t length = strcspn(text, " \r\n");
        if (component_ok(text, length) && length < commit_bytes) {
            (void)snprintf(commit, commit_bytes, "%.*s", (int)length, text);
        }
    } else if (code == ABL_CODE_RESOURCE_EXHAUSTED) {
        return abl_fail_oom(ret_status);
    } else if (component_ok(revision, strlen(revision)) && strlen(revision) < commit_bytes) {
        (void)snprintf(commit, commit_bytes, "%s", revision);
    }
    return ABL_CODE_OK;
}

static abl_code find_in_hub(const char *hub, const char *id, abl_model_dir *dir,
                            abl_status *ret_status) {
    char folder[ABL_NAME_BYTES_MAX];
    char commit[ABL_NAME_BYTES_MAX];
    const char *revision = NULL;
    size_t id_length = 0;
    if (!hub_parse(id, folder, sizeof folder, &revision, &id_length)) {
        return ABL_CODE_OK;
    }
    abl_code code = hub_commit(hub, folder, revision, commit, sizeof commit, ret_status);
    if (code != ABL_CODE_OK || commit[0] == '\0') {
        return code;
    }
    char path[ABL_PATH_BYTES_MAX];
    int wrote = snprintf(path, sizeof path, "%s/%s/snapshots/%s", hub, folder, commit);
    if (wrote < 0 || (size_t)wrote >= sizeof path || !is_folder(path)) {
        return ABL_CODE_OK;
    }
    ABL_CLEANUP(abl_freep) char *name = abl_strndup(id, id_length);
    dir->revision = abl_strdup(commit);
    if (name == NULL || dir->revision == NULL) {
        return abl_fail_oom(ret_status);
    }
    return take_folder(path, hub, name, dir, ret_status);
}

/* --- files ---------------------------------------------------------------------------------- */

/* OK with *ret_path NULL when the folder has no such file. Resolved, unless keep_link. */
static abl_code find_file(const abl_model_dir *dir, const char *file, bool keep_link,
                          char **ret_path, abl_status *ret_status) {
    char *path = abl_path_join(dir->path, file);
    if (path == NULL) {
        return abl_fail_oom(ret_status);
    }
    char *resolved = NULL;
    abl_status probe = {0}; /* a file that may be missing must leave no trace in ret_status */
    abl_code code = abl_path_resolve(path, dir->root, &resolved, &probe);
    if (code == ABL_CODE_OK) {
        *ret_path = keep_link ? path : resolved;
        abl_free(keep_link ? resolved : path);
        return ABL_CODE_OK;
    }
    abl_free(path);
    *ret_path = NULL;
    if (code == ABL_CODE_NOT_FOUND) {
        return ABL_CODE_OK;
    }
    if (ret_status != NULL) {
        *ret_status = probe;
    }
    return code;
}

static bool has_any(const abl_model_dir *dir, const char *const *files, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char path[ABL_PATH_BYTES_MAX + ABL_NAME_BYTES_MAX];
        struct stat info;
        (void)snprintf(path, sizeof path, "%s/%s", dir->path, files[i]);
        if (stat(path, &info) == 0) {
            return true;
        }
    }
    return false;
}

static abl_code find_files(abl_model_dir *dir, abl_status *ret_status) {
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                          "model.pt", "model.pth", "consolidated.00.pth"};
    abl_code code = find_file(dir, "config.json", false, &dir->config, ret_status);
    if (code == ABL_CODE_OK) {
        code = find_file(dir, "model.safetensors", true, &dir->weights, ret_status);
    }
    if (code == ABL_CODE_OK && dir->weights == NULL) {
        code = find_file(dir, "model.safetensors.index.json", true, &dir->weights, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = find_file(dir, "tokenizer.json", false, &dir->tokenizer, ret_status);
    }
    if (code != ABL_CODE_OK || (dir->config != NULL && dir->weights != NULL)) {
        return code;
    }
    if (dir->weights == NULL && has_any(dir, pickles, ABL_COUNT_OF(pickles))) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "MODEL_PICKLE_ONLY",
                        "model '%s' has its weights only as pickle files, which can run code and "
                        "are never read; convert them to safetensors (save_pretrained of a current "
                        "transformers writes model.safetensors)",
                        dir->name);
    }
    return abl_fail(
        ret_status, ABL_CODE_NOT_FOUND, "MODEL_FILE_MISSING", "model '%s' lacks%s%s%s in '%s'",
        dir->name, (dir->config == NULL) ? " config.json" : "",
        (dir->config == NULL && dir->weights == NULL) ? " and" : "",
        (dir->weights == NULL) ? " model.safetensors (or model.safetensors.index.json)" : "",
        dir->path);
}
