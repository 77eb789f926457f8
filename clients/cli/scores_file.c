/* SPDX-License-Identifier: Apache-2.0 */
/* scores_file.c -- see scores_file.h.
 *
 * safetensors: u64 little-endian length of the header, the header (JSON: name -> dtype, shape,
 * data_offsets), then the data in that order. Chunks come in exactly that order, so the data is one
 * growing block and the header is built beside it. The file is written under another name and
 * renamed, so that a crash leaves no half of one.
 */
#include "clients/cli/scores_file.h"

#include "core/base/mem.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define SCORES_BYTES_MAX ((size_t)1 << 32)

struct abl_scores {
    json_t *header;
    uint8_t *data;
    size_t bytes;
    size_t capacity;
    size_t tensor_start; /* where the tensor in progress starts */
    const char *problem; /* static; NULL: none so far */
};

abl_scores *abl_scores_create(void) {
    abl_scores *scores = abl_calloc(1, sizeof *scores);
    if (scores != NULL) {
        scores->header = json_object();
        scores->problem = scores->header == NULL ? "out of memory" : NULL;
    }
    return scores;
}

void abl_scores_destroy(abl_scores *scores) {
    if (scores == NULL) {
        return;
    }
    json_decref(scores->header);
    abl_free(scores->data);
    abl_free(scores);
}

static bool append(abl_scores *scores, const void *data, size_t bytes) {
    if (bytes > SCORES_BYTES_MAX - scores->bytes) {
        return false;
    }
    if (scores->bytes + bytes > scores->capacity) {
        size_t capacity = scores->capacity * 2 + bytes;
        uint8_t *larger = abl_realloc_array(scores->data, capacity, 1);
        if (larger == NULL) {
            return false;
        }
        scores->data = larger;
        scores->capacity = capacity;
    }
    if (bytes > 0) {
        memcpy(scores->data + scores->bytes, data, bytes);
        scores->bytes += bytes;
    }
    return true;
}

static bool describe(abl_scores *scores, const Ablate__V1__TensorChunk *chunk) {
    json_t *shape = json_array();
    for (size_t i = 0; i < chunk->n_shape; i++) {
        (void)json_array_append_new(shape, json_integer(chunk->shape[i]));
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", "F32", "shape", shape, "data_offsets",
                              (json_int_t)scores->tensor_start, (json_int_t)scores->bytes);
    return entry != NULL && json_object_set_new(scores->header, chunk->name, entry) == 0;
}

void abl_scores_add(abl_scores *scores, const Ablate__V1__TensorChunk *chunk) {
    if (scores == NULL || scores->problem != NULL) {
        return;
    }
    if (chunk->dtype != ABLATE__V1__DTYPE__DTYPE_FLOAT32) {
        scores->problem = "the server sent scores that are not float32";
        return;
    }
    if (chunk->offset_bytes < 0 ||
        (size_t)chunk->offset_bytes != scores->bytes - scores->tensor_start) {
        scores->problem = "the server sent chunks out of order";
        return;
    }
    if (!append(scores, chunk->data.data, chunk->data.len)) {
        scores->problem = "out of memory";
        return;
    }
    if (chunk->is_last) {
        if (!describe(scores, chunk)) {
            scores->problem = "out of memory";
        }
        scores->tensor_start = scores->bytes;
    }
}

static bool write_file(const abl_scores *scores, const char *header, FILE *file) {
    uint64_t length = strlen(header);
    uint8_t prefix[8];
    for (size_t i = 0; i < sizeof prefix; i++) {
        prefix[i] = (uint8_t)(length >> 8 * i);
    }
    return fwrite(prefix, 1, sizeof prefix, file) == sizeof prefix &&
           fwrite(header, 1, length, file) == length &&
           fwrite(scores->data, 1, scores->bytes, file) == scores->bytes && fflush(file) == 0;
}

bool abl_scores_save(abl_scores *scores, const char *path, const char *job_id, char *problem,
                     size_t problem_size) {
    char temporary[4096];
    if (scores == NULL || scores->problem != NULL) {
        (void)snprintf(problem, problem_size, "%s",
                       scores == NULL ? "out of memory" : scores->problem);
        return false;
    }
    json_t *metadata = json_pack("{s:s, s:s}", "format", "ablate.prune_scores", "job", job_id);
    (void)json_object_set_new(scores->header, "__metadata__", metadata);
    char *header = json_dumps(scores->header, JSON_COMPACT);
    int length = snprintf(temporary, sizeof temporary, "%s.part", path);
    FILE *file = header == NULL || length >= (int)sizeof temporary ? NULL : fopen(temporary, "wb");
    bool written = file != NULL && write_file(scores, header, file);
    if (file != NULL) {
        written = fclose(file) == 0 && written;
    }
    written = written && rename(temporary, path) == 0;
    if (!written) {
        (void)snprintf(problem, problem_size, "cannot write '%s': %s", path, strerror(errno));
        if (file != NULL) {
            (void)remove(temporary);
        }
    }
    if (header != NULL) {
        json_free_t release = NULL;
        json_get_alloc_funcs(NULL, &release);
        release(header);
    }
    return written;
}
