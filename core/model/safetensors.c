/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything is checked at open, so that later reads need no checks: a tensor that can be found
 * has its bytes inside the mapping.
 *
 *   file     [u64 n][n bytes of JSON, first '{'][data: tensors back to back, no gap, no overlap]
 *   index    {"metadata": {...}, "weight_map": {NAME: SHARD}}
 *
 * A set is an array of tensors sorted by name, their strings in one arena, and the shards that
 * their data pointers point into. safetensors_header.c checks one file. An index must agree with
 * its shards in both directions: a tensor that is in a shard and not in the index, or the other way
 * round, means that two downloads were mixed.
 *
 * Rejected: reading into the heap (the weights would be resident twice while they are converted),
 * and a hash table for names (a set is opened once and asked some hundred times). */
#include "core/model/safetensors.h"

#include "core/base/assert.h"
#include "core/base/mem.h"
#include "core/json/json.h"
#include "core/model/path.h"
#include "core/model/safetensors_set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define INVALID ABL_SAFETENSORS_INVALID
#define TOO_BIG ABL_SAFETENSORS_TOO_BIG

typedef abl_safetensors_shard shard;
typedef abl_safetensors_entry tensor_entry;

static abl_code set_create(const char *source, abl_safetensors **ret_set, abl_status *ret_status);
static abl_code open_index(abl_safetensors *set, const char *path, const char *root,
                           abl_status *ret_status);
static abl_code shard_map(abl_safetensors *set, const char *resolved, const char *path,
                          const char *name, abl_status *ret_status);
static abl_code set_sort(abl_safetensors *set, abl_status *ret_status);
static tensor_entry *entry_find(const abl_safetensors *set, const char *name);

abl_code abl_safetensors_open(const abl_safetensors_options *options, abl_safetensors **ret_set,
                              abl_status *ret_status) {
    ABL_ASSERT(options != NULL && options->path != NULL && ret_set != NULL);
    ABL_CLEANUP(abl_freep) char *path = NULL;
    abl_code code = abl_path_resolve(options->path, options->root, &path, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_safetensors *set = NULL;
    code = set_create(options->path, &set, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    size_t length = strlen(options->path);
    if (length > 5 && strcmp(options->path + length - 5, ".json") == 0) {
        code = open_index(set, options->path, options->root, ret_status);
    } else {
        code = shard_map(set, path, options->path, "", ret_status);
        if (code == ABL_CODE_OK) {
            code = abl_safetensors_parse_shard(set, 0, ret_status);
        }
        if (code == ABL_CODE_OK) {
            code = set_sort(set, ret_status);
        }
    }
    if (code != ABL_CODE_OK) {
        abl_safetensors_close(set);
        return code;
    }
    *ret_set = set;
    return ABL_CODE_OK;
}

abl_code abl_safetensors_open_memory(const void *bytes, size_t bytes_count, const char *name,
                                     abl_safetensors **ret_set, abl_status *ret_status) {
    ABL_ASSERT((bytes != NULL || bytes_count == 0) && name != NULL && ret_set != NULL);
    abl_safetensors *set = NULL;
    abl_code code = set_create(name, &set, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    set->shards = abl_calloc(1, sizeof *set->shards);
    if (set->shards == NULL) {
        code = abl_fail_oom(ret_status);
        goto fail;
    }
    set->shards[0] = (shard){.path = set->source, .bytes = bytes, .bytes_count = bytes_count};
    set->shard_count = 1;
    code = abl_safetensors_parse_shard(set, 0, ret_status);
    if (code != ABL_CODE_OK) {
        goto fail;
    }
    code = set_sort(set, ret_status);
    if (code != ABL_CODE_OK) {
        goto fail;
    }
    *ret_set = set;
    return ABL_CODE_OK;
fail:
    abl_safetensors_close(set);
    return code;
}

void abl_safetensors_close(abl_safetensors *set) {
    if (set == NULL) {
        return;
    }
    for (size_t i = 0; i < set->shard_count; i++) {
        if (set->shards[i].mapped) {
            /* munmap takes what mmap gave; the mapping was read-only all along. */
            (void)munmap((void *)(uintptr_t)set->shards[i].bytes, set->shards[i].bytes_count);
        }
    }
    abl_free(set->shards);
    abl_free(set->entries);
    abl_arena_destroy(set->arena);
    abl_free(set);
}

size_t abl_safetensors_count(const abl_safetensors *set) {
    return set->entry_count;
}

const abl_safetensors_tensor *abl_safetensors_at(const abl_safetensors *set, size_t index) {
    ABL_ASSERT(index < set->entry_count);
    return &set->entries[index].tensor;
}

const abl_safetensors_tensor *abl_safetensors_find(const abl_safetensors *set, const char *name) {
    const tensor_entry *entry = entry_find(set, name);
    return (entry == NULL) ? NULL : &entry->tensor;
}

const char *abl_safetensors_source(const abl_safetensors *set) {
    return set->source;
}

uint64_t abl_safetensors_bytes(const abl_safetensors *set) {
    return set->bytes;
}

/* --- one file ------------------------------------------------------------------------------- */

static abl_code set_create(const char *source, abl_safetensors **ret_set, abl_status *ret_status) {
    abl_safetensors *set = abl_calloc(1, sizeof *set);
    if (set == NULL) {
        return abl_fail_oom(ret_status);
    }
    set->arena = abl_arena_create(ABL_SAFETENSORS_STRING_BYTES_MAX);
    if (set->arena != NULL) {
        set->source = abl_arena_strndup(set->arena, source, strlen(source));
    }
    if (set->source == NULL) {
        abl_safetensors_close(set);
        return abl_fail_oom(ret_status);
    }
    *ret_set = set;
    return ABL_CODE_OK;
}

/* Maps the file at `resolved`. Messages call it `path` (in a hub cache the resolved one is a hash),
 * the index calls it `name`. On success the set has one more shard, not yet parsed. */
static abl_code shard_map(abl_safetensors *set, const char *resolved, const char *path,
                          const char *name, abl_status *ret_status) {
    ABL_CLEANUP(abl_fd_closep) int fd = -1;
    size_t bytes = 0;
    abl_code code = abl_file_open(resolved, &fd, &bytes, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    shard *shards = abl_realloc_array(set->shards, set->shard_count + 1, sizeof *shards);
    if (shards == NULL) {
        return abl_fail_oom(ret_status);
    }
    set->shards = shards;
    shard added = {.name = abl_arena_strndup(set->arena, name, strlen(name)),
                   .path = abl_arena_strndup(set->arena, path, strlen(path)),
                   .bytes_count = bytes};
    if (added.name == NULL || added.path == NULL) {
        return abl_fail_oom(ret_status);
    }
    if (bytes > 0) { /* an empty file cannot be mapped; the parser says that it is truncated */
        void *map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            return abl_fail_oom(ret_status);
        }
        added.bytes = map;
        added.mapped = true;
    }
    set->shards[set->shard_count++] = added;
    return ABL_CODE_OK;
}

/* --- the set --------------------------------------------------------------------------------- */

static int by_name(const void *left, const void *right) {
    return strcmp(((const tensor_entry *)left)->tensor.name,
                  ((const tensor_entry *)right)->tensor.name);
}

static abl_code set_sort(abl_safetensors *set, abl_status *ret_status) {
    if (set->entry_count > 0) {
        qsort(set->entries, set->entry_count, sizeof *set->entries, by_name);
    }
    for (size_t i = 1; i < set->entry_count; i++) {
        const abl_safetensors_tensor *last = &set->entries[i - 1].tensor;
        const abl_safetensors_tensor *next = &set->entries[i].tensor;
        if (strcmp(last->name, next->name) == 0) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: tensor '%s' is in two shards, '%s' and '%s'", set->source,
                            next->name, last->file, next->file);
        }
    }
    return ABL_CODE_OK;
}

static tensor_entry *entry_find(const abl_safetensors *set, const char *name) {
    size_t low = 0;
    size_t high = set->entry_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, set->entries[middle].tensor.name);
        if (order == 0) {
            return &set->entries[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

/* A shard is a plain file name beside its index. */
static bool shard_name_ok(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length <= ABL_NAME_BYTES_MAX && strchr(name, '/') == NULL &&
           name[0] != '.';
}

static const shard *shard_find(const abl_safetensors *set, const char *name) {
    for (size_t i = 0; i < set->shard_count; i++) {
        if (strcmp(set->shards[i].name, name) == 0) {
            return &set->shards[i];
        }
    }
    return NULL;
}

/* Opens the shard unless it is open already. */
static abl_code index_shard(abl_safetensors *set, const char *index_path, const char *root,
                            const char *name, abl_status *ret_status) {
    if (shard_find(set, name) != NULL) {
        return ABL_CODE_OK;
    }
    if (set->shard_count == ABL_SHARD_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, TOO_BIG, "%s: more than %d shards",
                        index_path, ABL_SHARD_COUNT_MAX);
    }
    if (!shard_name_ok(name)) {
        return abl_fail(ret_status, ABL_CODE_PERMISSION_DENIED, "PATH_OUTSIDE_ROOT",
                        "%s: shard '%.80s' must be a file's name beside the index, without '/'",
                        index_path, name);
    }
    const char *slash = strrchr(index_path, '/');
    int folder_bytes = (slash == NULL) ? 0 : (int)(slash - index_path) + 1;
    char joined[ABL_PATH_BYTES_MAX];
    int wrote = snprintf(joined, sizeof joined, "%.*s%s", folder_bytes, index_path, name);
    if (wrote < 0 || (size_t)wrote >= sizeof joined) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "PATH_TOO_LONG",
                        "%s: the path of shard '%s' is too long", index_path, name);
    }
    ABL_CLEANUP(abl_freep) char *path = NULL;
    abl_code code = abl_path_resolve(joined, root, &path, ret_status);
    if (code == ABL_CODE_NOT_FOUND) {
        return abl_fail(ret_status, ABL_CODE_NOT_FOUND, "FILE_MISSING",
                        "%s names the shard '%s', which is not there", index_path, name);
    }
    if (code == ABL_CODE_OK) {
        code = shard_map(set, path, joined, name, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = abl_safetensors_parse_shard(set, set->shard_count - 1, ret_status);
    }
    return code;
}

/* Both directions: each name of the index is in its shard, each tensor of a shard in the index. */
static abl_code index_check(abl_safetensors *set, const char *index_path, json_t *weight_map,
                            abl_status *ret_status) {
    for (void *i = json_object_iter(weight_map); i != NULL;
         i = json_object_iter_next(weight_map, i)) {
        const char *name = json_object_iter_key(i);
        const char *file = json_string_value(json_object_iter_value(i));
        const shard *expected = shard_find(set, file);
        tensor_entry *entry = entry_find(set, name);
        if (entry == NULL || expected == NULL || entry->tensor.file != expected->path) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: tensor '%.128s' should be in shard '%s' but is not", index_path,
                            name, file);
        }
        entry->indexed = true;
    }
    for (size_t i = 0; i < set->entry_count; i++) {
        if (!set->entries[i].indexed) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: '%s' holds tensor '%s', which the index does not name", index_path,
                            set->entries[i].tensor.file, set->entries[i].tensor.name);
        }
    }
    return ABL_CODE_OK;
}

static abl_code index_shards_open(abl_safetensors *set, const char *path, const char *root,
                                  json_t *weight_map, abl_status *ret_status) {
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                        "%s: weight_map must be an object of tensor names, not %s", path,
                        json_is_object(weight_map) ? "empty" : abl_json_type_text(weight_map));
    }
    abl_code code = ABL_CODE_OK;
    for (void *i = json_object_iter(weight_map); code == ABL_CODE_OK && i != NULL;
         i = json_object_iter_next(weight_map, i)) {
        const json_t *file = json_object_iter_value(i);
        if (!json_is_string(file)) {
            return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, INVALID,
                            "%s: the shard of tensor '%.128s' must be a string, not %s", path,
                            json_object_iter_key(i), abl_json_type_text(file));
        }
        code = index_shard(set, path, root, json_string_value(file), ret_status);
    }
    return code;
}

static abl_code open_index(abl_safetensors *set, const char *path, const char *root,
                           abl_status *ret_status) {
    ABL_CLEANUP(abl_freep) char *resolved = NULL;
    ABL_CLEANUP(abl_freep) char *text = NULL;
    size_t text_bytes = 0;
    abl_code code = abl_path_resolve(path, root, &resolved, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_file_read(resolved, ABL_SAFETENSORS_HEADER_BYTES_MAX, TOO_BIG, &text,
                             &text_bytes, ret_status);
    }
    ABL_CLEANUP(abl_json_decrefp) json_t *index = NULL;
    if (code == ABL_CODE_OK) {
        code = abl_json_parse(text, text_bytes, path, INVALID, &index, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    json_t *weight_map = json_object_get(index, "weight_map");
    code = index_shards_open(set, path, root, weight_map, ret_status);
    if (code == ABL_CODE_OK) {
        code = set_sort(set, ret_status);
    }
    if (code == ABL_CODE_OK) {
        code = index_check(set, path, weight_map, ret_status);
    }
    return code;
}
