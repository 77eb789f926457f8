/* SPDX-License-Identifier: Apache-2.0
 *
 * An upload is staged in a folder of its own below the state directory, then loaded like any other
 * model folder, by the same checks. Pieces are written on the pool, one at a time: the next message
 * is asked for when the last one is on disk, so an upload holds one message in memory, however
 * large the model. The folder is removed as soon as the load ends; a mapped file lives on until the
 * model is unloaded. */
#include "ablate/v1/model.pb-c.h"
#include "core/base/mem.h"
#include "server/convert/model.h"
#include "server/convert/wire.h"
#include "server/service/load.h"
#include "server/service/model_rpcs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UPLOAD_BYTES_MAX ((uint64_t)64 << 30)

static const char *const file_names[] = {"config.json", "model.safetensors", "tokenizer.json",
                                         "tokenizer_config.json"};

typedef struct upload_state {
    abl_load_follower follower;
    abl_rpc *rpc;
    abl_load_options options;
    char name[ABL_NAME_BYTES_MAX + 1];
    char root[ABL_PATH_BYTES_MAX - 64];
    char folder[24]; /* inside root */
    bool has_options;
    int fd;
    size_t file; /* index of the open one */
    bool seen[ABL_COUNT_OF(file_names)];
    uint64_t bytes;
    uint8_t *piece; /* being written */
    size_t piece_bytes;
    abl_object *model;
} upload_state;

static void path_of(const upload_state *state, const char *file, char *text, size_t bytes) {
    (void)snprintf(text, bytes, "%s/%s%s%s", state->root, state->folder, file == NULL ? "" : "/",
                   file == NULL ? "" : file);
}

static void remove_folder(upload_state *state) {
    char path[ABL_PATH_BYTES_MAX];
    if (state->folder[0] == '\0') {
        return;
    }
    for (size_t i = 0; i < ABL_COUNT_OF(file_names); i++) {
        path_of(state, file_names[i], path, sizeof path);
        (void)unlink(path);
    }
    path_of(state, NULL, path, sizeof path);
    (void)rmdir(path);
    state->folder[0] = '\0';
}

static void upload_end(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    abl_load_leave(&state->follower);
    if (state->fd >= 0) {
        (void)close(state->fd);
    }
    remove_folder(state);
    abl_model_dir_destroy(state->options.dir);
    abl_free(state->piece);
    abl_object_unref(state->model);
}

static void disk_failed(abl_rpc *rpc, const char *what) {
    (void)abl_fail(&rpc->status, errno == ENOSPC ? ABL_CODE_RESOURCE_EXHAUSTED : ABL_CODE_INTERNAL,
                   errno == ENOSPC ? "DISK_FULL" : "UPLOAD_STAGING", "%s the upload failed: %s",
                   what, strerror(errno));
}

static abl_step write_piece(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    char path[ABL_PATH_BYTES_MAX];
    if (state->folder[0] == '\0') {
        (void)snprintf(state->folder, sizeof state->folder, "upload-XXXXXX");
        path_of(state, NULL, path, sizeof path);
        if (mkdtemp(path) == NULL) {
            state->folder[0] = '\0';
            disk_failed(rpc, "making a folder for");
            return ABL_STEP_DONE;
        }
        (void)snprintf(state->folder, sizeof state->folder, "%s", strrchr(path, '/') + 1);
    }
    if (state->fd < 0) {
        path_of(state, file_names[state->file], path, sizeof path);
        state->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (state->fd < 0) {
            disk_failed(rpc, "opening a file of");
            return ABL_STEP_DONE;
        }
    }
    for (size_t done = 0; done < state->piece_bytes;) {
        ssize_t written = write(state->fd, state->piece + done, state->piece_bytes - done);
        if (written < 0 && errno != EINTR) {
            disk_failed(rpc, "writing");
            return ABL_STEP_DONE;
        }
        done += written < 0 ? 0 : (size_t)written;
    }
    return ABL_STEP_DONE;
}

static void piece_written(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    abl_free(state->piece);
    state->piece = NULL;
    abl_call_recv(rpc->call);
}

/* The options of the first message. */
static bool take_options(abl_rpc *rpc, const Ablate__V1__UploadModelOptions *options) {
    upload_state *state = rpc->state;
    if (state->has_options) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "UPLOAD_ORDER",
                       "options came twice; only the first message has them");
        return false;
    }
    if (abl_convert_name("options.name", options->name, ABL_NAME_BYTES_MAX, &rpc->status) !=
            ABL_CODE_OK ||
        abl_convert_weight_dtype(options->dtype, &state->options.dtype, &rpc->status) !=
            ABL_CODE_OK ||
        abl_server_device(rpc->server, options->device, &state->options.slot, &rpc->status) !=
            ABL_CODE_OK) {
        return false;
    }
    (void)snprintf(state->name, sizeof state->name, "%s", options->name);
    state->options.processing = abl_convert_processing_back(options->processing);
    state->has_options = true;
    return true;
}

/* Decides which file a piece belongs to, and takes its bytes. */
static bool take_chunk(abl_rpc *rpc, const Ablate__V1__FileChunk *chunk) {
    upload_state *state = rpc->state;
    size_t file = 0;
    while (file < ABL_COUNT_OF(file_names) && strcmp(chunk->file_name, file_names[file]) != 0) {
        file++;
    }
    if (file == ABL_COUNT_OF(file_names)) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "UPLOAD_FILE_NAME",
                       "file_name is '%.64s'; it must be config.json, model.safetensors, "
                       "tokenizer.json or tokenizer_config.json",
                       chunk->file_name);
        return false;
    }
    bool same = state->fd >= 0 && state->file == file;
    if (!state->has_options || (!same && state->seen[file])) {
        (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "UPLOAD_ORDER",
                       state->has_options ? "pieces of %s are apart; send files one after another"
                                          : "a piece of %s came before the options",
                       file_names[file]);
        return false;
    }
    state->bytes += chunk->data.len;
    if (state->bytes > UPLOAD_BYTES_MAX) {
        (void)abl_fail(&rpc->status, ABL_CODE_RESOURCE_EXHAUSTED, "UPLOAD_TOO_BIG",
                       "the upload has more than %llu bytes", (unsigned long long)UPLOAD_BYTES_MAX);
        return false;
    }
    if (!same) {
        if (state->fd >= 0) {
            (void)close(state->fd);
        }
        state->fd = -1;
        state->file = file;
        state->seen[file] = true;
    }
    state->piece = abl_malloc(chunk->data.len);
    if (state->piece == NULL) {
        (void)abl_fail_oom(&rpc->status);
        return false;
    }
    if (chunk->data.len > 0) {
        memcpy(state->piece, chunk->data.data, chunk->data.len);
    }
    state->piece_bytes = chunk->data.len;
    return true;
}

/* Fails the call. Loading names files by their paths here; who sent them knows them by name. */
static void fail_by_names(upload_state *state) {
    char *message = state->rpc->status.message;
    char path[ABL_PATH_BYTES_MAX];
    path_of(state, "", path, sizeof path); /* with the "/" before a name */
    const size_t length = strlen(path);
    for (char *at = strstr(message, path); at != NULL; at = strstr(at, path)) {
        memmove(at, at + length, strlen(at + length) + 1);
    }
    abl_rpc_fail_status(state->rpc);
}

static void upload_ready(abl_load_follower *follower, abl_resident_model *model,
                         const abl_status *status) {
    upload_state *state = (upload_state *)follower;
    abl_rpc *rpc = state->rpc;
    Ablate__V1__UploadModelResponse response = ABLATE__V1__UPLOAD_MODEL_RESPONSE__INIT;
    if (model == NULL) {
        rpc->status = *status;
        fail_by_names(state);
        return;
    }
    response.model = abl_convert_model(rpc->arena, rpc->server->registry, model);
    if (response.model == NULL) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_rpc_reply(rpc, &response.base);
}

static void upload_progressed(abl_load_follower *follower, const abl_load_progress *progress) {
    (void)follower; /* the call has one answer */
    (void)progress;
}

static abl_step upload_resolve(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    const char *paths[] = {state->root};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    (void)!abl_model_dir_create(&roots, state->folder, &state->options.dir, &rpc->status);
    return ABL_STEP_DONE;
}

static void upload_resolved(abl_rpc *rpc) {
    upload_state *state = rpc->state;
    state->options.name = state->name;
    state->options.uploaded = true;
    if (abl_load_join(rpc->server, &state->options, &state->follower, &rpc->status) !=
        ABL_CODE_OK) {
        fail_by_names(state);
    }
}

static void upload_message(abl_call *call, const uint8_t *data, size_t bytes) {
    abl_rpc *rpc = call->user;
    upload_state *state = rpc->state;
    if (data == NULL) { /* the client has sent all */
        if (!state->seen[0] || !state->seen[1]) {
            abl_rpc_fail(rpc, ABL_CODE_INVALID_ARGUMENT, "MODEL_FILE_MISSING",
                         "the upload ended without %s",
                         state->seen[0] ? "model.safetensors" : "config.json");
            return;
        }
        abl_rpc_pool(rpc, upload_resolve, upload_resolved);
        return;
    }
    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(bytes));
    ProtobufCMessage *unpacked = NULL;
    bool taken = false;
    bool has_piece = false;
    if (arena == NULL) {
        (void)abl_fail_oom(&rpc->status);
    } else if (abl_wire_unpack(&ablate__v1__upload_model_request__descriptor, data, bytes, arena,
                               &unpacked, &rpc->status) == ABL_CODE_OK) {
        const Ablate__V1__UploadModelRequest *request =
            (const Ablate__V1__UploadModelRequest *)unpacked;
        has_piece = request->part_case == ABLATE__V1__UPLOAD_MODEL_REQUEST__PART_CHUNK;
        if (has_piece) {
            taken = take_chunk(rpc, request->chunk);
        } else if (request->part_case == ABLATE__V1__UPLOAD_MODEL_REQUEST__PART_OPTIONS) {
            taken = take_options(rpc, request->options);
        } else {
            (void)abl_fail(&rpc->status, ABL_CODE_INVALID_ARGUMENT, "UPLOAD_ORDER",
                           "a message has neither options nor a chunk");
        }
    }
    abl_arena_destroy(arena);
    if (!taken) {
        abl_rpc_fail_status(rpc);
    } else if (has_piece) {
        abl_rpc_pool(rpc, write_piece, piece_written);
    } else {
        abl_call_recv(call);
    }
}

void abl_rpc_upload_model(abl_rpc *rpc, const ProtobufCMessage *none) {
    (void)none;
    const char *root = rpc->server->options.state_dir;
    upload_state *state = abl_rpc_alloc(rpc, sizeof *state);
    if (root == NULL) {
        (void)abl_fail(&rpc->status, ABL_CODE_FAILED_PRECONDITION, "UPLOADS_OFF",
                       "the daemon runs without --state-dir, where uploads would be staged");
    }
    if (state == NULL || root == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    state->rpc = rpc;
    state->fd = -1;
    (void)snprintf(state->root, sizeof state->root, "%s", root);
    state->follower.progress_cb = upload_progressed;
    state->follower.ready_cb = upload_ready;
    rpc->state = state;
    rpc->end_cb = upload_end;
    rpc->call->on_message_cb = upload_message;
    abl_call_recv(rpc->call);
}
