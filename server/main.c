/* SPDX-License-Identifier: Apache-2.0
 *
 * ablated: start, run, drain, stop.
 *
 * The order of the end is the reverse of the order of the start, with one turn: calls finish before
 * executors are joined, because a call may wait for a step, and completion queues are shut after
 * the last call, because its finish travels through them. A first SIGTERM or SIGINT drains; a
 * second one ends the process at once. Where there is TLS, its files are read again each minute and
 * at a SIGHUP. */
#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/tensor/tensor.h"
#include "server/options.h"
#include "server/page.h"
#include "server/runtime/log.h"
#include "server/runtime/loop.h"
#include "server/service/server.h"
#include "server/tls.h"
#include "server/transport/grpc_server.h"
#include "server/transport/health.h"
#include "server/transport/reflection.h"
#include "server/transport/web.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SERVICE_COUNT_MAX 16
#define TLS_RENEW_MS 60000

typedef struct ablated {
    const abl_options *options;
    abl_tls *tls; /* NULL: plain text */
    abl_loop *loop;
    abl_server *server;
    abl_health *health;
    abl_reflection *reflection;
    abl_service services[SERVICE_COUNT_MAX];
    size_t service_count;
    abl_grpc_server *grpc;
    abl_web_server *web; /* NULL: --http off */
    abl_page page;
    abl_signal *signals[3];
    abl_timer *tls_timer;
    int ends_awaited; /* transports that have not said that they are down */
    char *hub_cache;
    char state_dir[ABL_PATH_BYTES_MAX];
    bool state_dir_is_ours; /* made for this run: goes with it */
} ablated;

static abl_code daemon_start(ablated *self, abl_status *ret_status);
static void daemon_drain(ablated *self);
static void daemon_stop(ablated *self);

int main(int argc, char **argv) {
    abl_backend_choose_kernels(argv);
    abl_options options;
    abl_tls tls = {0};
    abl_command command = ABL_COMMAND_SERVE;
    abl_status status = {0};
    if (abl_options_init(argc, argv, &options, &command, &status) != ABL_CODE_OK) {
        (void)fprintf(stderr, "ablated: %s\n", status.message);
        return 2;
    }
    int exit_code = 0;
    if (command == ABL_COMMAND_HELP) {
        abl_options_print_help(stdout);
    } else if (command == ABL_COMMAND_VERSION) {
        (void)printf("ablated %s, %s\n", ABLATE_VERSION, abl_backend_version());
    } else if (abl_options_check_bind(&options, &status) != ABL_CODE_OK ||
               abl_tls_open(&options, &tls, &status) != ABL_CODE_OK) {
        (void)fprintf(stderr, "ablated: %s\n", status.message);
        exit_code = 2;
    } else if (command == ABL_COMMAND_CHECK_CONFIG) {
        abl_options_print(&options, stdout);
    } else {
        ablated self = {.options = &options, .tls = tls.options.certificate == NULL ? NULL : &tls};
        if (daemon_start(&self, &status) == ABL_CODE_OK) {
            abl_loop_run(self.loop); /* until daemon_drain() is through */
            abl_log(ABL_LOG_INFO, "stopped", "pid=%ld", (long)getpid());
        } else {
            (void)fprintf(stderr, "ablated: %s\n", status.message);
            exit_code = 1;
        }
        daemon_stop(&self);
    }
    abl_tls_close(&tls);
    abl_options_finish(&options);
    return exit_code;
}

/* ---- start -------------------------------------------------------------------------------- */

static abl_code start_state_dir(ablated *self, abl_status *ret_status) {
    const char *given = self->options->state_dir;
    if (given[0] == '\0') {
        const char *parent = getenv("TMPDIR");
        (void)snprintf(self->state_dir, sizeof self->state_dir, "%s/ablated-XXXXXX",
                       parent == NULL || parent[0] == '\0' ? "/tmp" : parent);
        self->state_dir_is_ours = mkdtemp(self->state_dir) != NULL;
    } else {
        (void)snprintf(self->state_dir, sizeof self->state_dir, "%s", given);
    }
    if ((given[0] == '\0' && !self->state_dir_is_ours) ||
        (given[0] != '\0' && mkdir(given, 0700) != 0 && errno != EEXIST)) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "STATE_DIR", "state-dir %s: %s",
                        self->state_dir, strerror(errno));
    }
    return ABL_CODE_OK;
}

static abl_code start_loop(ablated *self, abl_status *ret_status) {
    return abl_loop_create(&self->loop, ret_status);
}

static abl_code parse_device(const char *name, abl_device *ret_device, abl_status *ret_status) {
    int index = 0;
    char rest = '\0';
    if (strcmp(name, "cpu") == 0) {
        *ret_device = (abl_device){ABL_DEVICE_CPU, 0};
    } else if (strcmp(name, "cuda") == 0) {
        *ret_device = (abl_device){ABL_DEVICE_CUDA, 0};
    } else if (sscanf(name, "cuda:%d%c", &index, &rest) == 1 && index >= 0) {
        *ret_device = (abl_device){ABL_DEVICE_CUDA, index};
    } else {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                        "device: '%.32s' is not cpu, cuda or cuda:N", name);
    }
    return ABL_CODE_OK;
}

static abl_code start_server(ablated *self, abl_status *ret_status) {
    abl_server_options server = {
        .loop = self->loop,
        .roots = {.paths = (const char *const *)self->options->model_roots.items,
                  .count = self->options->model_roots.count,
                  .hub_cache = self->hub_cache},
        .state_dir = self->state_dir,
        .threads = (int)self->options->threads,
        .memory_budget = (uint64_t)self->options->memory_budget_mib << 20,
        .kv_cache_bytes = self->options->kv_cache_mib << 20,
        .jobs_max = (size_t)self->options->jobs_max,
    };
    for (size_t i = 0; i < server.roots.count; i++) {
        char path[512]; /* the folder may come later, so this is no error */
        if (access(server.roots.paths[i], R_OK | X_OK) != 0) {
            const char *problem = strerror(errno);
            abl_log(ABL_LOG_WARN, "model_root_unreadable", "path=%s problem=\"%s\"",
                    abl_log_quote(path, sizeof path, server.roots.paths[i]), problem);
        }
    }
    abl_code code = parse_device(self->options->device, &server.default_device, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_server_create(&server, &self->server, ret_status);
    }
    return code;
}

/* The one list of what the daemon serves; both transports get it. */
static abl_code start_services(ablated *self, abl_status *ret_status) {
    abl_code code = abl_reflection_create(abl_proto_descriptors, abl_proto_descriptors_bytes,
                                          &self->reflection, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    abl_server *server = self->server;
    const abl_service services[] = {
        abl_admin_service(server),
        abl_model_service(server),
        abl_graph_service(server),
        abl_mask_service(server),
        abl_run_service(server),
        abl_dataset_service(server),
        abl_prune_service(server),
        abl_evaluate_service(server),
        abl_cache_service(server),
        abl_reflection_service_v1(self->reflection),
        abl_reflection_service_v1alpha(self->reflection),
    };
    _Static_assert(ABL_COUNT_OF(services) < SERVICE_COUNT_MAX, "room for health behind them");
    memcpy(self->services, services, sizeof services);
    self->service_count = ABL_COUNT_OF(services);
    self->health = abl_health_create(self->services, self->service_count);
    if (self->health == NULL) {
        return abl_fail_oom(ret_status);
    }
    self->services[self->service_count++] = abl_health_service(self->health);
    return ABL_CODE_OK;
}

static abl_code start_transports(ablated *self, abl_status *ret_status) {
    const abl_grpc_options grpc = {
        .loop = self->loop,
        .services = self->services,
        .service_count = self->service_count,
        .listen = self->options->listen,
        .guard_cb = abl_server_guard,
        .guard_user_data = self->server,
        .tls = self->tls == NULL ? NULL : &self->tls->options,
    };
    abl_code code = abl_grpc_server_create(&grpc, &self->grpc, ret_status);
    if (code != ABL_CODE_OK || strcmp(self->options->http, "off") == 0) {
        return code;
    }
    code = abl_page_open(self->options->web_root, &self->page, ret_status);
    if (code != ABL_CODE_OK) {
        return code;
    }
    const abl_web_options web = {
        .loop = self->loop,
        .services = self->services,
        .service_count = self->service_count,
        .listen = self->options->http,
        .guard_cb = abl_server_guard,
        .guard_user_data = self->server,
        .origins = (const char *const *)self->options->origins.items,
        .origin_count = self->options->origins.count,
        .files = self->page.files,
        .file_count = self->page.file_count,
        .metrics_cb = abl_server_metrics_text,
        .metrics_user_data = self->server,
        .tls = self->tls == NULL ? NULL : &self->tls->options,
    };
    return abl_web_server_create(&web, &self->web, ret_status);
}

/* "127.0.0.1:0" with the port that was taken. */
static void address_with_port(const char *listen, int port, char *buffer, size_t bytes) {
    const char *colon = strrchr(listen, ':');
    int host = colon == NULL ? (int)strlen(listen) : (int)(colon - listen);
    (void)snprintf(buffer, bytes, "%.*s:%d", host, listen, port);
}

/* Written beside and renamed over, so that whoever waits for the file never reads half of it. */
static abl_code write_ready_file(const char *path, const char *grpc, const char *http,
                                 abl_status *ret_status) {
    if (path[0] == '\0') {
        return ABL_CODE_OK;
    }
    char partial[ABL_PATH_BYTES_MAX];
    (void)snprintf(partial, sizeof partial, "%.4000s.partial", path);
    FILE *file = fopen(partial, "we");
    bool written =
        file != NULL && fprintf(file, "{\"grpc\": \"%s\", \"http\": \"%s\", \"pid\": %ld}\n", grpc,
                                http, (long)getpid()) > 0;
    written = file != NULL && fclose(file) == 0 && written;
    if (!written || rename(partial, path) != 0) {
        return abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "READY_FILE",
                        "ready-file %.300s: %s", path, strerror(errno));
    }
    return ABL_CODE_OK;
}

static void on_signal(int signal_number, void *user_data) {
    ablated *self = user_data;
    if (self->server->draining) {
        abl_log(ABL_LOG_WARN, "killed", "signal=%d", signal_number);
        _exit(128 + signal_number);
    }
    abl_log(ABL_LOG_INFO, "draining", "signal=%d", signal_number);
    daemon_drain(self);
}

static void renew_tls(void *user_data) {
    ablated *self = user_data;
    bool changed = false;
    abl_status status;
    abl_code code = abl_tls_reopen(self->options, self->tls, &changed, &status);
    if (code == ABL_CODE_OK && changed) {
        abl_grpc_server_renew_tls(self->grpc, &self->tls->options);
        if (self->web != NULL) {
            code = abl_web_server_renew_tls(self->web, &self->tls->options, &status);
        }
    }
    char text[ABL_PATH_BYTES_MAX];
    if (code != ABL_CODE_OK) { /* as when one of two files is new: the next time has both */
        abl_log(ABL_LOG_WARN, "tls_not_renewed", "error=%s",
                abl_log_quote(text, sizeof text, status.message));
    } else if (changed) {
        abl_log(ABL_LOG_INFO, "tls_renewed", "certificate=%s",
                abl_log_quote(text, sizeof text, self->options->tls_cert));
    }
}

static void on_hangup(int signal_number, void *user_data) {
    const ablated *self = user_data;
    (void)signal_number;
    if (!self->server->draining) {
        renew_tls(user_data);
    }
}

static abl_code announce(ablated *self, abl_status *ret_status) {
    char grpc[128];
    char http[128] = "";
    address_with_port(self->options->listen, abl_grpc_server_port(self->grpc), grpc, sizeof grpc);
    if (self->web != NULL) {
        address_with_port(self->options->http, abl_web_server_port(self->web), http, sizeof http);
        (void)snprintf(self->server->http_address, sizeof self->server->http_address, "%s://%.70s",
                       self->tls == NULL ? "http" : "https", http);
        self->server->dashboard_built = self->page.built;
    }
    if (abl_backend_blas_is_reference()) {
        abl_log(ABL_LOG_WARN, "slow_blas",
                "blas=\"%s\" advice=\"install libopenblas0-pthread: tens of times faster\"",
                abl_backend_blas_name());
    }
    abl_log(ABL_LOG_INFO, "listening",
            "version=%s grpc=%s http=%s tls=%s device=%s threads=%d backend=\"%s\" blas=\"%s\"",
            ABLATE_VERSION, grpc, http,
            self->tls == NULL                      ? "off"
            : self->tls->options.client_ca == NULL ? "server"
                                                   : "mutual",
            self->options->device, abl_backend_threads(), abl_backend_version(),
            abl_backend_blas_name());
    return write_ready_file(self->options->ready_file, grpc, http, ret_status);
}

static abl_code start_signals(ablated *self, abl_status *ret_status) {
    static const int numbers[] = {SIGTERM, SIGINT};
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ABL_COUNT_OF(numbers); i++) {
        self->signals[i] = abl_signal_create(self->loop, numbers[i], on_signal, self);
        if (self->signals[i] == NULL) {
            return abl_fail_oom(ret_status);
        }
    }
    if (self->tls == NULL) {
        return ABL_CODE_OK; /* a SIGHUP ends the daemon with its terminal */
    }
    self->signals[2] = abl_signal_create(self->loop, SIGHUP, on_hangup, self);
    self->tls_timer = abl_timer_create(self->loop, renew_tls, self);
    if (self->signals[2] == NULL || self->tls_timer == NULL) {
        return abl_fail_oom(ret_status);
    }
    abl_timer_start(self->tls_timer, TLS_RENEW_MS, TLS_RENEW_MS);
    return ABL_CODE_OK;
}

static abl_code daemon_start(ablated *self, abl_status *ret_status) {
    abl_log_level level = ABL_LOG_INFO;
    if (!abl_log_parse_level(self->options->log_level, &level)) {
        return abl_fail(ret_status, ABL_CODE_INVALID_ARGUMENT, "OPTION_INVALID",
                        "log-level: '%.32s' is not debug, info, warn or error",
                        self->options->log_level);
    }
    abl_log_set_level(level);
    abl_backend_init((int)self->options->threads);
    self->hub_cache = abl_model_hub_cache_default();

    static abl_code (*const steps[])(ablated *, abl_status *) = {
        start_state_dir,  start_loop,    start_server, start_services,
        start_transports, start_signals, announce,
    };
    abl_code code = ABL_CODE_OK;
    for (size_t i = 0; i < ABL_COUNT_OF(steps) && code == ABL_CODE_OK; i++) {
        code = steps[i](self, ret_status);
    }
    return code;
}

/* ---- drain and stop ----------------------------------------------------------------------- */

static void on_transport_down(void *user_data) {
    ablated *self = user_data;
    if (--self->ends_awaited == 0) {
        abl_loop_stop(self->loop);
    }
}

/* New calls are refused, jobs end after their step, watches end; when no call is left the loop
 * stops. */
static void daemon_drain(ablated *self) {
    uint64_t grace_ms = (uint64_t)self->options->drain_ms;
    abl_timer_destroy(self->tls_timer);
    self->tls_timer = NULL;
    abl_health_drain(self->health);
    abl_server_drain(self->server);
    self->ends_awaited = (self->grpc != NULL) + (self->web != NULL);
    if (self->grpc != NULL) {
        abl_grpc_server_shutdown(self->grpc, grace_ms, on_transport_down, self);
    }
    if (self->web != NULL) {
        abl_web_server_shutdown(self->web, grace_ms, on_transport_down, self);
    }
}

/* Also after a start that failed half way: what was not made is NULL. */
static void daemon_stop(ablated *self) {
    if (self->ends_awaited == 0 && self->grpc != NULL && !self->server->draining) {
        daemon_drain(self); /* the start failed after the transports were up */
        abl_loop_run(self->loop);
    }
    abl_grpc_server_destroy(self->grpc);
    abl_web_server_destroy(self->web);
    abl_page_close(&self->page);
    for (size_t i = 0; i < ABL_COUNT_OF(self->signals); i++) {
        abl_signal_destroy(self->signals[i]);
    }
    if (self->server != NULL) {
        abl_server_stop(self->server);
    }
    abl_health_destroy(self->health);
    abl_reflection_destroy(self->reflection);
    abl_loop_destroy(self->loop); /* delivers the executors' last mail */
    abl_server_free(self->server);
    if (self->options->ready_file[0] != '\0') {
        (void)unlink(self->options->ready_file);
    }
    if (self->state_dir_is_ours) {
        (void)rmdir(self->state_dir);
    }
    abl_free(self->hub_cache);
}
