/* SPDX-License-Identifier: Apache-2.0
 *
 * Two notebooks that ask for the same model at once must not hold its weights twice: a load that
 * runs is found by what would make its result different (folder, transforms, dtype, device), and
 * whoever asks again waits for it too. It is cancelled when the last of them has left.
 *
 * Progress comes from the executor's thread. There is one mail, which is in flight or not; while it
 * is, newer progress overwrites what it will say, so a slow loop sees the latest and no backlog. */
#include "server/service/load.h"

#include "core/base/mem.h"
#include "server/runtime/log.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct abl_load {
    abl_server *server;
    abl_load *next;
    abl_load_follower *followers;
    abl_load_options options;
    char name[ABL_NAME_BYTES_MAX + 1];
    char client[40];
    abl_task task;
    abl_model *model;
    abl_status status;
    uint64_t start_us;

    abl_mail mail;
    pthread_mutex_t lock; /* of the next two, which the executor writes */
    abl_load_progress progress;
    bool mail_out;
};

static bool same_processing(abl_model_processing a, abl_model_processing b) {
    return a.fold_norm == b.fold_norm && a.center_writing == b.center_writing &&
           a.center_unembed == b.center_unembed && a.fold_value_biases == b.fold_value_biases;
}

abl_resident_model *abl_load_find(abl_server *server, const abl_load_options *options) {
    if (options->uploaded) {
        return NULL;
    }
    for (abl_object *object = abl_registry_first(server->registry, ABL_OBJECT_MODEL);
         object != NULL; object = object->next) {
        abl_resident_model *resident = (abl_resident_model *)object;
        abl_device device = abl_model_device(resident->model);
        if (resident->path != NULL && strcmp(resident->path, options->dir->path) == 0 &&
            abl_model_dtype(resident->model) == options->dtype &&
            abl_server_slot(server, device) == options->slot &&
            same_processing(abl_model_get_processing(resident->model), options->processing)) {
            return resident;
        }
    }
    return NULL;
}

static abl_load *find_running(abl_server *server, const abl_load_options *options) {
    for (abl_load *load = server->loads; load != NULL; load = load->next) {
        if (!load->options.uploaded && !options->uploaded && load->followers != NULL &&
            strcmp(load->options.dir->path, options->dir->path) == 0 &&
            load->options.dtype == options->dtype && load->options.slot == options->slot &&
            same_processing(load->options.processing, options->processing)) {
            return load;
        }
    }
    return NULL;
}

static void load_free(abl_load *load) {
    abl_model_dir_destroy(load->options.dir);
    (void)pthread_mutex_destroy(&load->lock);
    abl_free(load);
}

static void deliver_progress(abl_mail *mail) {
    abl_load *load = (abl_load *)(void *)((char *)mail - offsetof(abl_load, mail));
    (void)pthread_mutex_lock(&load->lock);
    abl_load_progress progress = load->progress;
    load->mail_out = false;
    (void)pthread_mutex_unlock(&load->lock);
    abl_load_follower *next = NULL;
    for (abl_load_follower *follower = load->followers; follower != NULL; follower = next) {
        next = follower->next; /* the callback may leave */
        follower->progress_cb(follower, &progress);
    }
}

static bool on_progress(uint64_t done, uint64_t total, const char *tensor, void *user_data) {
    abl_load *load = user_data;
    (void)pthread_mutex_lock(&load->lock);
    load->progress.loaded_bytes = (int64_t)done;
    load->progress.total_bytes = (int64_t)total;
    (void)snprintf(load->progress.stage, sizeof load->progress.stage, "%s",
                   tensor == NULL ? "" : tensor);
    bool post = !load->mail_out;
    load->mail_out = true;
    (void)pthread_mutex_unlock(&load->lock);
    if (post) {
        abl_loop_post(load->server->loop, &load->mail);
    }
    return !abl_task_cancelled(&load->task);
}

static abl_step load_run(abl_task *task) {
    abl_load *load = (abl_load *)(void *)((char *)task - offsetof(abl_load, task));
    const abl_model_options options = {.processing = load->options.processing,
                                       .dtype = load->options.dtype,
                                       .device = load->options.slot->device,
                                       .progress_cb = on_progress,
                                       .user_data = load};
    (void)!abl_model_load(load->options.dir, &options, &load->model, &load->status);
    return ABL_STEP_DONE;
}

/* Lists the model, or says in load->status why not. */
static abl_resident_model *list_model(abl_load *load) {
    if (load->model == NULL) {
        if (load->status.code == ABL_CODE_OK) {
            (void)abl_fail(&load->status, ABL_CODE_CANCELLED, "LOAD_CANCELLED",
                           "the load was cancelled");
        }
        return NULL;
    }
    abl_resident_model *resident = abl_resident_model_create(
        load->model, load->name, load->options.uploaded ? NULL : load->options.dir->path);
    if (resident == NULL) {
        abl_model_unref(load->model);
        (void)abl_fail_oom(&load->status);
        return NULL;
    }
    if (abl_registry_add(load->server->registry, &resident->object, NULL, 0, &load->status) !=
        ABL_CODE_OK) {
        abl_object_unref(&resident->object);
        return NULL;
    }
    char name[300];
    abl_log(ABL_LOG_INFO, "model_loaded", "id=%s name=%s device=%s bytes=%lld ms=%.1f",
            resident->object.id, abl_log_quote(name, sizeof name, load->name),
            load->options.slot->name, (long long)resident->object.bytes,
            (double)(abl_time_us() - load->start_us) / 1000.0);
    return resident;
}

static void load_done(abl_task *task) {
    abl_load *load = (abl_load *)(void *)((char *)task - offsetof(abl_load, task));
    abl_load **link = &load->server->loads;
    while (*link != load) {
        link = &(*link)->next;
    }
    *link = load->next;
    abl_resident_model *resident = list_model(load);
    while (load->followers != NULL) {
        abl_load_follower *follower = load->followers;
        load->followers = follower->next;
        follower->load = NULL;
        follower->ready_cb(follower, resident, &load->status);
    }
    load_free(load); /* its last progress came before: a sender's mail keeps its order */
}

static abl_code load_start(abl_server *server, abl_load_options *options, abl_load **ret_load,
                           abl_status *ret_status) {
    if (abl_registry_count(server->registry, ABL_OBJECT_MODEL) >= ABL_MODEL_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_MODELS",
                        "%d models are resident, which is the limit; unload one first",
                        ABL_MODEL_COUNT_MAX);
    }
    abl_load *load = abl_calloc(1, sizeof *load);
    if (load == NULL) {
        return abl_fail_oom(ret_status);
    }
    load->server = server;
    load->options = *options;
    load->start_us = abl_time_us();
    load->mail.deliver_cb = deliver_progress;
    (void)pthread_mutex_init(&load->lock, NULL);
    (void)snprintf(load->name, sizeof load->name, "%s", options->name);
    load->options.name = load->name;
    (void)snprintf(load->client, sizeof load->client, "load-%p", (void *)load);
    load->task = (abl_task){.task_class = ABL_TASK_CLASS_INTERACTIVE,
                            .client = load->client,
                            .run_cb = load_run,
                            .done_cb = load_done};
    abl_code code = abl_executor_submit(options->slot->executor, &load->task, ret_status);
    if (code != ABL_CODE_OK) {
        load->options.dir = NULL; /* the caller's still */
        load_free(load);
        return code;
    }
    options->dir = NULL;
    load->next = server->loads;
    server->loads = load;
    *ret_load = load;
    return ABL_CODE_OK;
}

abl_code abl_load_join(abl_server *server, abl_load_options *options, abl_load_follower *follower,
                       abl_status *ret_status) {
    abl_load *load = find_running(server, options);
    abl_code code = load != NULL ? ABL_CODE_OK : load_start(server, options, &load, ret_status);
    abl_model_dir_destroy(options->dir); /* NULL where a load took it */
    options->dir = NULL;
    if (code == ABL_CODE_OK) {
        follower->load = load;
        follower->next = load->followers;
        load->followers = follower;
    }
    return code;
}

void abl_load_leave(abl_load_follower *follower) {
    abl_load *load = follower->load;
    if (load == NULL) {
        return;
    }
    abl_load_follower **link = &load->followers;
    while (*link != follower) {
        link = &(*link)->next;
    }
    *link = follower->next;
    follower->load = NULL;
    if (load->followers == NULL) {
        abl_executor_cancel(load->options.slot->executor, &load->task);
    }
}
