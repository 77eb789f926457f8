/* SPDX-License-Identifier: Apache-2.0
 *
 * One state for the daemon as a whole, since its services come and go together; the names are kept
 * only to tell a service from a typing error. A watch is told the state when it starts and when it
 * changes; changes while a send is under way are merged, so a slow watcher costs one message. */
#include "server/transport/health.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "grpc/health/v1/health.pb-c.h"

#include <string.h>

/* A request is one name; what is longer is not one, and unpacking it would only cost memory. */
#define REQUEST_BYTES_MAX 1024

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

typedef struct watch watch;
struct watch {
    watch *next;
    watch **link; /* what points to me */
    abl_health *health;
    abl_call *call;
    bool known;
    serving_status sent;
};

struct abl_health {
    const abl_service *services;
    size_t service_count;
    watch *watches;
    size_t watch_count;
    bool draining;
};

static bool is_known(const abl_health *health, const char *name) {
    bool known = name[0] == '\0' || strcmp(name, "grpc.health.v1.Health") == 0;
    for (size_t i = 0; i < health->service_count && !known; i++) {
        known = strcmp(health->services[i].name, name) == 0;
    }
    return known;
}

static serving_status state_of(const abl_health *health, bool known) {
    return !known              ? STATUS(SERVICE_UNKNOWN)
           : !health->draining ? STATUS(SERVING)
                               : STATUS(NOT_SERVING);
}

/* Whether the request's service is known; on a failure the call has been finished. */
static bool read_request(abl_call *call, const abl_health *health, bool *ret_known) {
    Grpc__Health__V1__HealthCheckRequest *request =
        call->request_bytes > REQUEST_BYTES_MAX ? NULL
                                                : grpc__health__v1__health_check_request__unpack(
                                                      NULL, call->request_bytes, call->request);
    if (request == NULL) {
        abl_call_fail(call, ABL_CODE_INVALID_ARGUMENT, "MALFORMED_MESSAGE",
                      "the request is not a HealthCheckRequest");
        return false;
    }
    *ret_known = is_known(health, request->service);
    grpc__health__v1__health_check_request__free_unpacked(request, NULL);
    return true;
}

/* The message of a state: two bytes, and none for the default. Static, so nothing to release. */
static abl_message pack(serving_status status) {
    static const uint8_t serving[] = {0x08, STATUS(SERVING)};
    static const uint8_t not_serving[] = {0x08, STATUS(NOT_SERVING)};
    static const uint8_t unknown[] = {0x08, STATUS(SERVICE_UNKNOWN)};
    const uint8_t *bytes = status == STATUS(SERVING)       ? serving
                           : status == STATUS(NOT_SERVING) ? not_serving
                                                           : unknown;
    return (abl_message){.data = bytes, .bytes = 2};
}

static void start_check(abl_call *call, void *user_data) {
    abl_health *health = user_data;
    bool known = false;
    if (!read_request(call, health, &known)) {
        return;
    }
    if (!known) {
        abl_call_fail(call, ABL_CODE_NOT_FOUND, "SERVICE_UNKNOWN", "no service of this name here");
        return;
    }
    abl_message answer = pack(state_of(health, true));
    abl_call_finish(call, &answer, NULL);
}

static void watch_end(watch *ended) {
    *ended->link = ended->next;
    if (ended->next != NULL) {
        ended->next->link = ended->link;
    }
    ended->health->watch_count--;
    abl_free(ended);
}

/* Sends what the watcher does not know yet, or ends the watch. */
static void watch_update(watch *watched) {
    abl_call *call = watched->call;
    serving_status now = state_of(watched->health, watched->known);
    if (call->send_pending) {
        return;
    }
    if (now != watched->sent) {
        watched->sent = now;
        abl_call_send(call, pack(now));
    } else if (watched->health->draining) {
        watch_end(watched);
        abl_call_fail(call, ABL_CODE_UNAVAILABLE, "DRAINING", "the daemon is shutting down");
    }
}

static void on_watch_sent(abl_call *call) {
    watch_update(call->user);
}

static void on_watch_cancel(abl_call *call) {
    watch_end(call->user);
    abl_call_fail(call, ABL_CODE_CANCELLED, "CANCELLED", "the watcher left");
}

static void start_watch(abl_call *call, void *user_data) {
    abl_health *health = user_data;
    bool known = false;
    if (!read_request(call, health, &known)) {
        return;
    }
    if (health->watch_count >= ABL_WATCH_COUNT_MAX) {
        abl_call_fail(call, ABL_CODE_RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES",
                      "%d health watches are open, which is the most", ABL_WATCH_COUNT_MAX);
        return;
    }
    watch *fresh = abl_calloc(1, sizeof *fresh);
    if (fresh == NULL) {
        abl_status status = {0};
        (void)abl_fail_oom(&status);
        abl_call_finish(call, NULL, &status);
        return;
    }
    *fresh = (watch){.next = health->watches,
                     .link = &health->watches,
                     .health = health,
                     .call = call,
                     .known = known,
                     .sent = STATUS(UNKNOWN)};
    if (fresh->next != NULL) {
        fresh->next->link = &fresh->next;
    }
    health->watches = fresh;
    health->watch_count++;
    call->user = fresh;
    call->on_sent_cb = on_watch_sent;
    call->on_cancel_cb = on_watch_cancel;
    watch_update(fresh);
}

static void update_all(abl_health *health) {
    for (watch *next = NULL, *each = health->watches; each != NULL; each = next) {
        next = each->next; /* an update may end the watch */
        watch_update(each);
    }
}

abl_health *abl_health_create(const abl_service *services, size_t service_count) {
    abl_health *health = abl_calloc(1, sizeof *health);
    if (health != NULL) {
        health->services = services;
        health->service_count = service_count;
    }
    return health;
}

void abl_health_destroy(abl_health *health) {
    if (health != NULL) {
        ABL_ASSERT(health->watches == NULL); /* the servers have shut down before */
        abl_free(health);
    }
}

void abl_health_drain(abl_health *health) {
    health->draining = true;
    update_all(health);
}

abl_service abl_health_service(abl_health *health) {
    static const abl_method methods[] = {
        {.path = "/grpc.health.v1.Health/Check", .while_draining = true, .start_cb = start_check},
        {.path = "/grpc.health.v1.Health/Watch", .server_stream = true, .start_cb = start_watch},
    };
    return (abl_service){.name = "grpc.health.v1.Health",
                         .methods = methods,
                         .method_count = ABL_COUNT_OF(methods),
                         .user_data = health};
}
