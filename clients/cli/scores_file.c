/* SPDX-License-Identifier: Apache-2.0 */
/* scores_file.c -- see scores_file.h.
 *
 * safetensors: u64 little-endian length of the header, the header (JSON: name -> dtype, shape,
 * data_offsets), then the data in that order. Chunks come in exactly that order, so the data is one
 * growing block and the header is built beside it.
 */
#include "clients/cli/scores_file.h"

#include "clients/cli/out_file.h"
#include "core/base/mem.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define SCORES_BYTES_MAX ((size_t)1 << 32)
#define SCORES_HEADER_BYTES_MAX (16 << 20)
#define SCORES_RANK_MAX 3 /* [seq?, heads?, sources] */

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

const float *abl_scores_tensor(const abl_scores *scores, const char *name,
                               const json_t **ret_shape) {
    const json_t *entry = json_object_get(scores->header, name);
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (offsets == NULL) {
        return NULL;
    }
    *ret_shape = json_object_get(entry, "shape");
    size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    return (const float *)(const void *)(scores->data + begin);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether a header's entry is a float32 tensor whose bytes are in the data. */
static bool entry_check(const json_t *entry, size_t bytes) {
    json_int_t begin = 0;
    json_int_t end = 0;
    const char *dtype = NULL;
    json_t *shape = NULL;
    /* json_unpack() does not write through the const. */
    if (json_unpack((json_t *)(uintptr_t)entry, "{s:s, s:o, s:[I,I]}", "dtype", &dtype, "shape",
                    &shape, "data_offsets", &begin, &end) != 0 ||
        strcmp(dtype, "F32") != 0 || json_array_size(shape) > SCORES_RANK_MAX) {
        return false;
    }
    size_t elements = 1;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        json_int_t size = json_integer_value(json_array_get(shape, i));
        if (size < 0 || __builtin_mul_overflow(elements, (size_t)size, &elements)) {
            return false;
        }
    }
    return begin >= 0 && begin % 4 == 0 && end >= begin && (size_t)end <= bytes &&
           elements == (size_t)(end - begin) / 4 && (end - begin) % 4 == 0;
}

static const char *content_read(abl_scores *scores, FILE *file) {
    uint8_t prefix[8];
    uint64_t length = 0;
    if (fread(prefix, 1, sizeof prefix, file) != sizeof prefix) {
        return "it is no safetensors file";
    }
    for (size_t i = 0; i < sizeof prefix; i++) {
        length |= (uint64_t)prefix[i] << 8 * i;
    }
    if (length < 2 || length > SCORES_HEADER_BYTES_MAX) {
        return "it is no safetensors file";
    }
    ABL_CLEANUP(abl_freep) char *text = abl_malloc(length);
    if (text == NULL || fread(text, 1, length, file) != length) {
        return "it ends inside its header";
    }
    json_decref(scores->header);
    scores->header = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    (void)json_object_del(scores->header, "__metadata__");
    uint8_t block[65536];
    for (size_t got = 1; got > 0;) {
        got = fread(block, 1, sizeof block, file);
        if (!append(scores, block, got)) {
            return "it is too big, or memory ran out";
        }
    }
    const char *name = NULL;
    json_t *entry = NULL;
    json_object_foreach(scores->header, name, entry) {
        if (!entry_check(entry, scores->bytes)) {
            return "a tensor in it is not float32, or is not whole";
        }
    }
    return json_object_size(scores->header) == 0 ? "there is no tensor in it" : NULL;
}

bool abl_scores_load(const char *path, abl_scores **ret_scores, char *problem,
                     size_t problem_size) {
    abl_scores *scores = abl_scores_create();
    FILE *file = fopen(path, "rb");
    const char *why = file == NULL     ? strerror(errno)
                      : scores == NULL ? "out of memory"
                                       : content_read(scores, file);
    if (file != NULL) {
        (void)fclose(file);
    }
    if (why != NULL) {
        (void)snprintf(problem, problem_size, "cannot read scores from '%.200s': %s", path, why);
        abl_scores_destroy(scores);
        return false;
    }
    *ret_scores = scores;
    return true;
}

/* ---- as a message ---------------------------------------------------------------------------- */

typedef struct message_tensor {
    Ablate__V1__NamedTensor named;
    Ablate__V1__Tensor tensor;
    int64_t shape[SCORES_RANK_MAX];
} message_tensor;

typedef struct scores_message {
    Ablate__V1__ModuleScores message; /* first: what callers see */
    Ablate__V1__NamedTensor **list;
    message_tensor *tensors;
} scores_message;

void abl_scores_free_message(Ablate__V1__ModuleScores *message) {
    scores_message *all = (scores_message *)message;
    if (all != NULL) {
        abl_free(all->list);
        abl_free(all->tensors);
        abl_free(all);
    }
}

Ablate__V1__ModuleScores *abl_scores_message(const abl_scores *scores) {
    size_t count = json_object_size(scores->header);
    scores_message *all = abl_calloc(1, sizeof *all);
    if (all == NULL) {
        return NULL;
    }
    ablate__v1__module_scores__init(&all->message);
    all->list = abl_calloc(count, sizeof(Ablate__V1__NamedTensor *));
    all->tensors = abl_calloc(count, sizeof *all->tensors);
    if (all->list == NULL || all->tensors == NULL) {
        abl_scores_free_message(&all->message);
        return NULL;
    }
    const char *name = NULL;
    json_t *entry = NULL;
    json_object_foreach(scores->header, name, entry) {
        message_tensor *at = &all->tensors[all->message.n_tensors];
        const json_t *shape = json_object_get(entry, "shape");
        const json_t *offsets = json_object_get(entry, "data_offsets");
        size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        ablate__v1__named_tensor__init(&at->named);
        ablate__v1__tensor__init(&at->tensor);
        at->named.name = (char *)(uintptr_t)name; /* the header's; packing only reads it */
        at->named.tensor = &at->tensor;
        at->tensor.dtype = ABLATE__V1__DTYPE__DTYPE_FLOAT32;
        at->tensor.shape = at->shape;
        at->tensor.n_shape = json_array_size(shape);
        for (size_t i = 0; i < at->tensor.n_shape; i++) {
            at->shape[i] = json_integer_value(json_array_get(shape, i));
        }
        at->tensor.data.data = scores->data + begin;
        at->tensor.data.len = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
        all->list[all->message.n_tensors++] = &at->named;
    }
    all->message.tensors = all->list;
    return &all->message;
}

/* ---- writing --------------------------------------------------------------------------------- */

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
    abl_out_file out;
    if (scores == NULL || scores->problem != NULL) {
        (void)snprintf(problem, problem_size, "%s",
                       scores == NULL ? "out of memory" : scores->problem);
        return false;
    }
    json_t *metadata = json_pack("{s:s, s:s}", "format", "ablate.prune_scores", "job", job_id);
    (void)json_object_set_new(scores->header, "__metadata__", metadata);
    char *header = json_dumps(scores->header, JSON_COMPACT);
    errno = 0;
    bool opened = header != NULL && abl_out_open(&out, path, problem, problem_size);
    bool written =
        opened && abl_out_close(&out, write_file(scores, header, out.file), problem, problem_size);
    if (header == NULL) {
        (void)snprintf(problem, problem_size, "out of memory");
    }
    if (header != NULL) {
        json_free_t release = NULL;
        json_get_alloc_funcs(NULL, &release);
        release(header);
    }
    return written;
}
