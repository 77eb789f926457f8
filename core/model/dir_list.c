/* SPDX-License-Identifier: Apache-2.0
 *
 * Listing walks two levels below each root and one below the hub folder, and asks
 * abl_model_dir_create() about each candidate, so that what is listed is what loads, and what does
 * not load says why in the same words. The walk is bounded in folders and in entries: a root may be
 * someone's home. Links are followed only as far as loading would follow them. */
#include "core/model/dir.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "core/json/json.h"
#include "core/model/config.h"
#include "core/model/path.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct walk {
    const abl_model_roots *roots;
    abl_model_list *list;
    size_t folders_left;
} walk;

static abl_code walk_root(walk *in, const char *root, const char *below, abl_status *ret_status);
static abl_code walk_hub(walk *in, abl_status *ret_status);

static int by_name(const void *left, const void *right) {
    return strcmp(((const abl_model_list_entry *)left)->name,
                  ((const abl_model_list_entry *)right)->name);
}

abl_code abl_model_list_create(const abl_model_roots *roots, abl_model_list **ret_list,
                               abl_status *ret_status) {
    ABL_ASSERT(roots != NULL && ret_list != NULL);
    abl_model_list *list = abl_calloc(1, sizeof *list);
    if (list == NULL) {
        return abl_fail_oom(ret_status);
    }
    list->entries = abl_calloc(ABL_MODEL_LIST_MAX, sizeof *list->entries);
    abl_code code = (list->entries == NULL) ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    walk in = {.roots = roots, .list = list, .folders_left = ABL_MODEL_FOLDER_MAX};
    for (size_t i = 0; i < roots->count && code == ABL_CODE_OK; i++) {
        code = walk_root(&in, roots->paths[i], NULL, ret_status);
    }
    if (code == ABL_CODE_OK && roots->hub_cache != NULL) {
        code = walk_hub(&in, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_model_list_destroy(list);
        return code;
    }
    qsort(list->entries, list->count, sizeof *list->entries, by_name);
    *ret_list = list;
    return ABL_CODE_OK;
}

const char *abl_model_root_problem(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return errno == ENOENT ? "does not exist" : "cannot be reached";
    }
    if (!S_ISDIR(info.st_mode)) {
        return "is not a folder";
    }
    return access(path, R_OK | X_OK) == 0 ? "" : "must not be read by the daemon";
}

static void entry_finish(abl_model_list_entry *entry) {
    abl_free(entry->name);
    abl_free(entry->path);
    abl_free(entry->family);
    abl_free(entry->problem);
}

void abl_model_list_destroy(abl_model_list *list) {
    if (list == NULL) {
        return;
    }
    for (size_t i = 0; i < list->count; i++) {
        entry_finish(&list->entries[i]);
    }
    abl_free(list->entries);
    abl_free(list);
}

static void dir_closep(DIR **dir) {
    if (*dir != NULL) {
        (void)closedir(*dir);
    }
}

/* The next name that is not hidden; NULL at the end, or when the walk has seen enough. */
static const char *next_name(walk *in, DIR *dir) {
    for (const struct dirent *item = readdir(dir); item != NULL; item = readdir(dir)) {
        if (in->folders_left == 0) {
            in->list->truncated = true;
            return NULL;
        }
        in->folders_left--;
        if (item->d_name[0] != '.') {
            return item->d_name;
        }
    }
    return NULL;
}

static bool ends_with(const char *text, const char *suffix) {
    size_t length = strlen(text);
    size_t suffix_length = strlen(suffix);
    return length >= suffix_length && strcmp(text + length - suffix_length, suffix) == 0;
}

static uint64_t weight_bytes(walk *in, const char *path) {
    ABL_CLEANUP(dir_closep) DIR *dir = opendir(path);
    uint64_t bytes = 0;
    for (const char *name = (dir == NULL) ? NULL : next_name(in, dir); name != NULL;
         name = next_name(in, dir)) {
        struct stat info;
        if (ends_with(name, ".safetensors") && fstatat(dirfd(dir), name, &info, 0) == 0) {
            bytes += (uint64_t)info.st_size;
        }
    }
    return bytes;
}

/* model_type of the config, supported or not; "" when it cannot be read. NULL: no memory. */
static char *family_read(const char *path) {
    ABL_CLEANUP(abl_freep) char *text = NULL;
    ABL_CLEANUP(abl_json_decrefp) json_t *root = NULL;
    size_t bytes = 0;
    const char *type = NULL;
    if (path != NULL &&
        abl_file_read(path, ABL_CONFIG_BYTES_MAX, "CONFIG_TOO_BIG", &text, &bytes, NULL) ==
            ABL_CODE_OK &&
        abl_json_parse(text, bytes, path, "CONFIG_INVALID", &root, NULL) == ABL_CODE_OK) {
        type = json_string_value(json_object_get(root, "model_type"));
    }
    return abl_strndup((type == NULL) ? "" : type, ABL_NAME_BYTES_MAX);
}

/* Adds the model of that name, unless the list has it (an earlier root wins, as in loading). */
static abl_code add_model(walk *in, const char *name, abl_status *ret_status) {
    abl_model_list *list = in->list;
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->entries[i].name, name) == 0) {
            return ABL_CODE_OK;
        }
    }
    if (list->count == ABL_MODEL_LIST_MAX) {
        list->truncated = true;
        return ABL_CODE_OK;
    }
    abl_status problem = {.message = ""};
    abl_model_config config;
    abl_model_dir *dir = NULL;
    abl_code code = abl_model_dir_create(in->roots, name, &dir, &problem);
    if (code == ABL_CODE_OK) {
        code = abl_model_config_read(dir->config, &config, &problem);
    }
    abl_model_list_entry entry = {.name = abl_strdup(name),
                                  .path = abl_strdup((dir == NULL) ? "" : dir->path),
                                  .family = family_read((dir == NULL) ? NULL : dir->config)};
    bool complete = entry.name != NULL && entry.path != NULL && entry.family != NULL;
    if (code != ABL_CODE_OK) {
        entry.problem = abl_strdup(problem.message);
        complete = complete && entry.problem != NULL;
    }
    if (dir != NULL) {
        entry.bytes = weight_bytes(in, dir->path);
        entry.has_tokenizer = dir->tokenizer != NULL;
    }
    abl_model_dir_destroy(dir);
    if (!complete) {
        entry_finish(&entry);
        return abl_fail_oom(ret_status);
    }
    list->entries[list->count++] = entry;
    return ABL_CODE_OK;
}

static bool is_there(const char *folder, const char *file, bool wants_folder) {
    char path[ABL_PATH_BYTES_MAX + ABL_NAME_BYTES_MAX];
    struct stat info;
    int wrote = snprintf(path, sizeof path, "%s/%s", folder, file);
    return wrote > 0 && (size_t)wrote < sizeof path && stat(path, &info) == 0 &&
           (wants_folder ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode));
}

/* `below` is the first level's folder, or NULL at the root itself. */
static abl_code walk_root(walk *in, const char *root, const char *below, abl_status *ret_status) {
    char folder[ABL_PATH_BYTES_MAX];
    int wrote = snprintf(folder, sizeof folder, "%s%s%s", root, (below == NULL) ? "" : "/",
                         (below == NULL) ? "" : below);
    if (wrote < 0 || (size_t)wrote >= sizeof folder) {
        return ABL_CODE_OK;
    }
    ABL_CLEANUP(dir_closep) DIR *dir = opendir(folder);
    abl_code code = ABL_CODE_OK;
    for (const char *name = (dir == NULL) ? NULL : next_name(in, dir);
         name != NULL && code == ABL_CODE_OK; name = next_name(in, dir)) {
        char path[ABL_PATH_BYTES_MAX];
        wrote = snprintf(path, sizeof path, "%s/%s", folder, name);
        if (wrote < 0 || (size_t)wrote >= sizeof path || !is_there(folder, name, true)) {
            continue;
        }
        if (is_there(path, "config.json", false)) {
            char model[ABL_PATH_BYTES_MAX];
            (void)snprintf(model, sizeof model, "%s%s%s", (below == NULL) ? "" : below,
                           (below == NULL) ? "" : "/", name);
            code = add_model(in, model, ret_status);
        } else if (below == NULL && strncmp(name, "models--", 8) != 0) {
            code = walk_root(in, root, name, ret_status);
        }
    }
    return code;
}

/* models--ORG--NAME is ORG/NAME; only what has a main revision is listed. */
static abl_code walk_hub(walk *in, abl_status *ret_status) {
    ABL_CLEANUP(dir_closep) DIR *dir = opendir(in->roots->hub_cache);
    abl_code code = ABL_CODE_OK;
    for (const char *name = (dir == NULL) ? NULL : next_name(in, dir);
         name != NULL && code == ABL_CODE_OK; name = next_name(in, dir)) {
        char path[ABL_PATH_BYTES_MAX];
        char id[ABL_NAME_BYTES_MAX];
        int wrote = snprintf(path, sizeof path, "%s/%s", in->roots->hub_cache, name);
        if (strncmp(name, "models--", 8) != 0 || wrote < 0 || (size_t)wrote >= sizeof path ||
            !is_there(path, "refs/main", false)) {
            continue;
        }
        const char *rest = name + 8;
        const char *split = strstr(rest, "--");
        if (split == NULL) {
            (void)snprintf(id, sizeof id, "%s", rest);
        } else {
            (void)snprintf(id, sizeof id, "%.*s/%s", (int)(split - rest), rest, split + 2);
        }
        code = add_model(in, id, ret_status);
    }
    return code;
}
