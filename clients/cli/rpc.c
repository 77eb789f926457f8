/* SPDX-License-Identifier: Apache-2.0 */
/* rpc.c -- see rpc.h. gRPC C core, without callbacks or threads of our own.
 *
 * A call is three batches on one completion queue:
 *
 *   START    send metadata + send message + half close + receive metadata
 *   STATUS   receive status; completes last, whatever happens
 *   MESSAGE  receive one message; started again after each, until one comes back empty
 *
 * The queue is polled in slices of POLL_MS, between which the interrupt flag is looked at: a signal
 * handler may set a flag but must not call into gRPC. After a cancel the same loop runs on until
 * STATUS is in, so every path leaves the queue empty.
 */
#include "clients/cli/rpc.h"

#include "core/base/limits.h"
#include "core/base/mem.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 50
#define PAGE_SIZE 1000
#define PAGE_COUNT_MAX 10000

struct abl_rpc {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    char *host;
    char *authorization; /* "Bearer ..."; NULL: none */
    char owner[65];      /* who we say we are: "ada@lab" */
    int64_t timeout_ms;
};

enum { TAG_START = 1, TAG_STATUS, TAG_MESSAGE };

/* All that one call needs while it runs. */
typedef struct exchange {
    abl_rpc *rpc;
    const char *path; /* of the method */
    grpc_call *call;
    const ProtobufCMessageDescriptor *response;
    abl_rpc_message_cb cb; /* NULL: the message is kept, for a unary call */
    void *user_data;
    ProtobufCMessage *kept;
    grpc_metadata metadata[2];
    grpc_metadata_array initial_metadata;
    grpc_metadata_array trailing_metadata;
    grpc_byte_buffer *request;
    grpc_byte_buffer *message;
    grpc_status_code status;
    grpc_slice details;
    const char *error_string; /* gRPC's own account of a failure below the protocol */
    int pending;              /* batches in flight */
    bool stopped;             /* the callback had enough */
    bool malformed;           /* a message could not be read */
    bool answered;            /* a message came, so there was a server */
} exchange;

static volatile sig_atomic_t interrupted = 0;

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

void abl_rpc_catch_interrupt(void) {
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

bool abl_rpc_interrupted(void) {
    return interrupted != 0;
}

bool abl_rpc_pause(double seconds) {
    for (int64_t left = (int64_t)(seconds * 1000); left > 0 && interrupted == 0; left -= POLL_MS) {
        int64_t nap = left < POLL_MS ? left : POLL_MS;
        (void)nanosleep(&(struct timespec){.tv_nsec = (long)nap * 1000000}, NULL);
    }
    return interrupted == 0;
}

void abl_rpc_forget_interrupt(void) {
    interrupted = 0;
}

abl_code abl_rpc_fail(abl_rpc_error *ret_error, abl_code code, const char *reason,
                      const char *format, ...) {
    ret_error->code = code;
    ret_error->unreachable = false;
    (void)snprintf(ret_error->reason, sizeof ret_error->reason, "%s", reason);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(ret_error->message, sizeof ret_error->message, format, arguments);
    va_end(arguments);
    return code;
}

static abl_code fail_oom(abl_rpc_error *ret_error) {
    return abl_rpc_fail(ret_error, ABL_CODE_RESOURCE_EXHAUSTED, "OUT_OF_HOST_MEMORY",
                        "out of memory in the command line");
}

/* protobuf-c through the counted heap. */
static void *allocate(void *data, size_t bytes) {
    (void)data;
    return abl_malloc(bytes);
}

static void release(void *data, void *block) {
    (void)data;
    abl_free(block);
}

static ProtobufCAllocator allocator = {.alloc = allocate, .free = release};

void abl_rpc_free(ProtobufCMessage *message) {
    protobuf_c_message_free_unpacked(message, &allocator);
}

ProtobufCMessage *abl_rpc_copy(const ProtobufCMessage *message) {
    size_t bytes = protobuf_c_message_get_packed_size(message);
    ABL_CLEANUP(abl_freep) uint8_t *packed = abl_malloc(bytes + 1);
    if (packed == NULL) {
        return NULL;
    }
    (void)protobuf_c_message_pack(message, packed);
    return protobuf_c_message_unpack(message->descriptor, &allocator, bytes, packed);
}

void abl_rpc_freep(void *pointer_to_message) {
    abl_rpc_free(*(ProtobufCMessage **)pointer_to_message);
}

/* "ada@lab", or what ABLATE_USER says: for the lists of a daemon that several people share. */
static void owner_of(char *owner, size_t size) {
    const char *named = getenv("ABLATE_USER");
    const struct passwd *user = getpwuid(getuid());
    char host[65] = "";
    (void)gethostname(host, sizeof host - 1);
    if (named != NULL && named[0] != '\0') {
        (void)snprintf(owner, size, "%s", named);
    } else {
        (void)snprintf(owner, size, "%.31s@%s", user == NULL ? "somebody" : user->pw_name, host);
    }
    for (char *at = owner; *at != '\0'; at++) {
        *at = *at < 0x20 || *at > 0x7e ? '?' : *at; /* metadata is ASCII */
    }
}

static char *bearer(const char *token) {
    size_t size = strlen(token) + sizeof "Bearer ";
    char *value = abl_malloc(size);
    if (value != NULL) {
        (void)snprintf(value, size, "Bearer %s", token);
    }
    return value;
}

static bool is_secure(const char *host) {
    return strncmp(host, "https://", 8) == 0;
}

/* "lab.example:50051" of "https://lab.example:50051/". */
static char *target_of(const char *host) {
    const char *scheme = strstr(host, "://");
    const char *start = scheme == NULL ? host : scheme + 3;
    bool web = is_secure(host) || strncmp(host, "http://", 7) == 0;
    return web ? abl_strndup(start, strcspn(start, "/")) : abl_strdup(host);
}

static grpc_channel_credentials *credentials_create(const abl_rpc_options *options) {
    if (!is_secure(options->host)) {
        return grpc_insecure_credentials_create();
    }
    grpc_ssl_pem_key_cert_pair pair = {.private_key = options->client_key,
                                       .cert_chain = options->client_certificate};
    return grpc_ssl_credentials_create_ex(
        options->authorities, options->client_certificate == NULL ? NULL : &pair, NULL, NULL);
}

static grpc_channel *channel_create(const abl_rpc_options *options, const char *target) {
    char agent[] = "ablate-cli/" ABLATE_VERSION;
    char agent_key[] = GRPC_ARG_PRIMARY_USER_AGENT_STRING;
    char size_key[] = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH;
    char proxy_key[] =
        GRPC_ARG_ENABLE_HTTP_PROXY; /* the host is dialled, whatever http_proxy says */
    char alive_key[] = GRPC_ARG_KEEPALIVE_TIME_MS; /* a peer that vanished is noticed */
    char patience_key[] = GRPC_ARG_KEEPALIVE_TIMEOUT_MS;
    char pings_key[] = GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA;
    char backoff_key[] = GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS; /* one that is back is found soon */
    char backoff_max_key[] = GRPC_ARG_MAX_RECONNECT_BACKOFF_MS;
    grpc_arg args[] = {
        {.type = GRPC_ARG_STRING, .key = agent_key, .value.string = agent},
        {.type = GRPC_ARG_INTEGER, .key = size_key, .value.integer = ABL_MESSAGE_BYTES_MAX},
        {.type = GRPC_ARG_INTEGER, .key = proxy_key, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER, .key = alive_key, .value.integer = 20000},
        {.type = GRPC_ARG_INTEGER, .key = patience_key, .value.integer = 20000},
        {.type = GRPC_ARG_INTEGER, .key = pings_key, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER, .key = backoff_key, .value.integer = 100},
        {.type = GRPC_ARG_INTEGER, .key = backoff_max_key, .value.integer = 2000},
    };
    grpc_channel_args list = {.num_args = ABL_COUNT_OF(args), .args = args};
    grpc_channel_credentials *credentials = credentials_create(options);
    grpc_channel *channel =
        credentials == NULL ? NULL : grpc_channel_create(target, credentials, &list);
    grpc_channel_credentials_release(credentials);
    return channel;
}

abl_code abl_rpc_create(const abl_rpc_options *options, abl_rpc **ret_rpc,
                        abl_rpc_error *ret_error) {
    (void)setenv("GRPC_VERBOSITY", "NONE",
                 0); /* its log is not for people; errors are ours to say */
    grpc_init();
    abl_rpc *rpc = abl_calloc(1, sizeof *rpc);
    if (rpc == NULL) {
        grpc_shutdown();
        return fail_oom(ret_error);
    }
    rpc->timeout_ms = options->timeout_ms;
    owner_of(rpc->owner, sizeof rpc->owner);
    rpc->host = abl_strdup(options->host);
    rpc->authorization = options->token == NULL ? NULL : bearer(options->token);
    rpc->queue = grpc_completion_queue_create_for_next(NULL);
    ABL_CLEANUP(abl_freep) char *target = target_of(options->host);
    rpc->channel = target == NULL ? NULL : channel_create(options, target);
    if (rpc->host == NULL || (options->token != NULL && rpc->authorization == NULL) ||
        target == NULL) {
        abl_rpc_destroy(rpc);
        return fail_oom(ret_error);
    }
    if (rpc->channel == NULL) {
        abl_rpc_destroy(rpc);
        return abl_rpc_fail(ret_error, ABL_CODE_INVALID_ARGUMENT, "TLS_INVALID",
                            "--client-cert and --client-key do not make TLS credentials: they take "
                            "a certificate and its private key, both in PEM");
    }
    *ret_rpc = rpc;
    return ABL_CODE_OK;
}

void abl_rpc_destroy(abl_rpc *rpc) {
    if (rpc == NULL) {
        return;
    }
    if (rpc->channel != NULL) {
        grpc_channel_destroy(rpc->channel);
    }
    grpc_completion_queue_shutdown(rpc->queue);
    gpr_timespec forever = gpr_inf_future(GPR_CLOCK_REALTIME);
    while (grpc_completion_queue_next(rpc->queue, forever, NULL).type != GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(rpc->queue);
    abl_free(rpc->host);
    abl_free(rpc->authorization);
    abl_free(rpc);
    grpc_shutdown();
}

const char *abl_rpc_host(const abl_rpc *rpc) {
    return rpc->host;
}

static gpr_timespec in_ms(int64_t ms) {
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

static grpc_byte_buffer *pack(const ProtobufCMessage *request) {
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(request));
    (void)protobuf_c_message_pack(request, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static void *tag_of(int tag) {
    return (void *)(intptr_t)tag;
}

static void start_batch(exchange *ex, const grpc_op *ops, size_t count, int tag) {
    if (grpc_call_start_batch(ex->call, ops, count, tag_of(tag), NULL) == GRPC_CALL_OK) {
        ex->pending++;
    }
}

static void start_receive(exchange *ex) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &ex->message;
    start_batch(ex, &op, 1, TAG_MESSAGE);
}

static grpc_metadata metadata_of(const char *key, const char *value) {
    return (grpc_metadata){.key = grpc_slice_from_static_string(key),
                           .value = grpc_slice_from_static_string(value)};
}

static void start(exchange *ex) {
    grpc_op ops[4] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA},
    };
    size_t count = 0;
    ex->metadata[count++] = metadata_of("ablate-user", ex->rpc->owner);
    if (ex->rpc->authorization != NULL) {
        ex->metadata[count++] = metadata_of("authorization", ex->rpc->authorization);
    }
    ops[0].data.send_initial_metadata.count = count;
    ops[0].data.send_initial_metadata.metadata = ex->metadata;
    ops[1].data.send_message.send_message = ex->request;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &ex->initial_metadata;
    start_batch(ex, ops, 4, TAG_START);
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &ex->trailing_metadata;
    status.data.recv_status_on_client.status = &ex->status;
    status.data.recv_status_on_client.status_details = &ex->details;
    status.data.recv_status_on_client.error_string = &ex->error_string;
    start_batch(ex, &status, 1, TAG_STATUS);
    start_receive(ex);
}

/* Hands a received message on; true: there may be another. */
static bool deliver(exchange *ex) {
    if (ex->message == NULL) {
        return false;
    }
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *message = NULL;
    if (grpc_byte_buffer_reader_init(&reader, ex->message)) {
        grpc_slice bytes = grpc_byte_buffer_reader_readall(&reader);
        message = protobuf_c_message_unpack(ex->response, &allocator, GRPC_SLICE_LENGTH(bytes),
                                            GRPC_SLICE_START_PTR(bytes));
        grpc_slice_unref(bytes);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(ex->message);
    ex->message = NULL;
    ex->answered = true;
    if (message == NULL) {
        ex->malformed = true;
    } else if (ex->cb == NULL) {
        abl_rpc_free(ex->kept);
        ex->kept = message;
    } else {
        ex->stopped = !ex->cb(message, ex->user_data);
        abl_rpc_free(message);
    }
    if (ex->malformed || ex->stopped) {
        (void)grpc_call_cancel(ex->call, NULL);
        return false;
    }
    return true;
}

static void pump(exchange *ex) {
    bool cancelled = false;
    while (ex->pending > 0) {
        if (interrupted != 0 && !cancelled) {
            cancelled = true;
            (void)grpc_call_cancel(ex->call, NULL);
        }
        grpc_event event = grpc_completion_queue_next(ex->rpc->queue, in_ms(POLL_MS), NULL);
        if (event.type != GRPC_OP_COMPLETE) {
            continue;
        }
        ex->pending--;
        if (event.tag == tag_of(TAG_MESSAGE) && deliver(ex)) {
            start_receive(ex);
        }
    }
}

/* The ErrorInfo's reason in `grpc-status-details-bin`, if the server sent one. */
static void read_reason(const exchange *ex, abl_rpc_error *ret_error) {
    for (size_t i = 0; i < ex->trailing_metadata.count; i++) {
        const grpc_metadata *item = &ex->trailing_metadata.metadata[i];
        if (grpc_slice_str_cmp(item->key, "grpc-status-details-bin") != 0) {
            continue;
        }
        Google__Rpc__Status *status = google__rpc__status__unpack(
            &allocator, GRPC_SLICE_LENGTH(item->value), GRPC_SLICE_START_PTR(item->value));
        for (size_t k = 0; status != NULL && k < status->n_details; k++) {
            const Google__Protobuf__Any *detail = status->details[k];
            if (strstr(detail->type_url, "google.rpc.ErrorInfo") == NULL) {
                continue;
            }
            Google__Rpc__ErrorInfo *info =
                google__rpc__error_info__unpack(&allocator, detail->value.len, detail->value.data);
            if (info != NULL) {
                (void)snprintf(ret_error->reason, sizeof ret_error->reason, "%s", info->reason);
                google__rpc__error_info__free_unpacked(info, &allocator);
            }
        }
        if (status != NULL) {
            google__rpc__status__free_unpacked(status, &allocator);
        }
    }
}

/* What a person can do about it; gRPC's own words, in `message`, only tell the cases apart. */
static void say_unreachable(const exchange *ex, char *message, size_t size) {
    const char *host = ex->rpc->host;
    bool refused = strncmp(message, "failed to connect", strlen("failed to connect")) == 0;
    bool closed = refused && strstr(message, "Socket closed") != NULL;
    const char *cause = strstr(message, "andshake failed");
    if (ex->answered) {
        (void)snprintf(message, size, "the connection to ablated at %s was lost", host);
    } else if (refused && cause != NULL && strstr(message, "wrong version number") != NULL) {
        (void)snprintf(message, size,
                       "what listens at %s does not speak TLS: give its address without https://",
                       host);
    } else if (refused && cause != NULL) {
        char *words = abl_strdup(cause + strlen("andshake failed"));
        (void)snprintf(message, size,
                       "no trust in ablated at %s%.200s; --tls-ca or ABLATE_TLS_CA names who "
                       "signed its certificate, which must be for that host",
                       host, words == NULL ? "" : words);
        abl_free(words);
    } else if (strstr(message, "http1.x") != NULL) {
        (void)snprintf(
            message, size,
            "what listens at %s speaks HTTP/1, as ablated's port for browsers does: give "
            "its port for gRPC, which is 50051 unless it was told another",
            host);
    } else if (strstr(message, "DNS resolution") != NULL) {
        (void)snprintf(message, size,
                       "cannot find ablated: '%s' is no HOST:PORT, or nobody knows a host of that "
                       "name; say where it is with --host or ABLATE_HOST",
                       host);
    } else if (closed && is_secure(host)) {
        (void)snprintf(message, size,
                       "ablated at %s ended the TLS handshake: if it asks for a certificate, give "
                       "--client-cert and --client-key",
                       host);
    } else if (closed) {
        (void)snprintf(message, size,
                       "what listens at %s closed the connection: if it speaks TLS, give its "
                       "address as https://%s",
                       host, host);
    } else if (is_secure(host) && strncmp(message, "empty address", 13) == 0) {
        (void)snprintf(message, size,
                       "no TLS with these files: --client-key is not the key of --client-cert, or "
                       "--tls-ca holds no certificate");
    } else {
        (void)snprintf(message, size,
                       "cannot reach ablated at %s: start it with `make run`, or say where it is "
                       "with --host or ABLATE_HOST",
                       host);
    }
}

static abl_code outcome(const exchange *ex, abl_rpc_error *ret_error) {
    if (interrupted != 0) {
        return abl_rpc_fail(ret_error, ABL_CODE_CANCELLED, "INTERRUPTED", "interrupted");
    }
    if (ex->malformed) {
        return abl_rpc_fail(ret_error, ABL_CODE_INTERNAL, "RESPONSE_MALFORMED",
                            "%s sent a response that this client cannot read; compare the "
                            "versions with `ablate version`",
                            ex->rpc->host);
    }
    if (ex->stopped || ex->status == GRPC_STATUS_OK) {
        return ABL_CODE_OK;
    }
    (void)abl_rpc_fail(ret_error, (abl_code)ex->status, "", "%.*s",
                       (int)GRPC_SLICE_LENGTH(ex->details),
                       (const char *)GRPC_SLICE_START_PTR(ex->details));
    read_reason(ex, ret_error);
    /* The server always gives a reason; a status without one was made by gRPC on this side. */
    bool below = ret_error->reason[0] == '\0';
    ret_error->unreachable = below && ex->status == GRPC_STATUS_UNAVAILABLE;
    if (ret_error->unreachable) {
        say_unreachable(ex, ret_error->message, sizeof ret_error->message);
    }
    if (ex->status == GRPC_STATUS_UNIMPLEMENTED &&
        (below || strcmp(ret_error->reason, "METHOD_UNKNOWN") == 0)) {
        (void)snprintf(ret_error->message, sizeof ret_error->message,
                       "what listens at %s does not know %s: it is no ablated, or one of another "
                       "version; compare them with `ablate version`",
                       ex->rpc->host, ex->path);
    }
    if (below && ex->status == GRPC_STATUS_DEADLINE_EXCEEDED) {
        (void)snprintf(ret_error->message, sizeof ret_error->message,
                       "no answer within %.3g s; --timeout sets how long to wait",
                       (double)ex->rpc->timeout_ms / 1000);
    }
    return ret_error->code;
}

/* Runs one exchange from `ex->request` to its outcome, and tears it down. */
static abl_code converse(exchange *ex, const abl_rpc_method *method,
                         const ProtobufCMessage *request, abl_rpc_error *ret_error) {
    gpr_timespec deadline =
        ex->rpc->timeout_ms > 0 ? in_ms(ex->rpc->timeout_ms) : gpr_inf_future(GPR_CLOCK_MONOTONIC);
    ex->response = method->response;
    ex->path = method->path + 1;
    ex->status = GRPC_STATUS_UNKNOWN;
    ex->details = grpc_empty_slice();
    ex->call =
        grpc_channel_create_call(ex->rpc->channel, NULL, GRPC_PROPAGATE_DEFAULTS, ex->rpc->queue,
                                 grpc_slice_from_static_string(method->path), NULL, deadline, NULL);
    ex->request = pack(request);
    grpc_metadata_array_init(&ex->initial_metadata);
    grpc_metadata_array_init(&ex->trailing_metadata);
    start(ex);
    pump(ex);
    abl_code code = outcome(ex, ret_error);
    gpr_free((void *)(uintptr_t)ex->error_string);
    grpc_slice_unref(ex->details);
    grpc_metadata_array_destroy(&ex->initial_metadata);
    grpc_metadata_array_destroy(&ex->trailing_metadata);
    grpc_byte_buffer_destroy(ex->request);
    grpc_call_unref(ex->call);
    return code;
}

abl_code abl_rpc_stream(abl_rpc *rpc, const abl_rpc_method *method, const ProtobufCMessage *request,
                        abl_rpc_message_cb cb, void *user_data, abl_rpc_error *ret_error) {
    exchange ex = {.rpc = rpc, .cb = cb, .user_data = user_data};
    return converse(&ex, method, request, ret_error);
}

abl_code abl_rpc_unary(abl_rpc *rpc, const abl_rpc_method *method, const ProtobufCMessage *request,
                       ProtobufCMessage **ret_response, abl_rpc_error *ret_error) {
    exchange ex = {.rpc = rpc};
    abl_code code = converse(&ex, method, request, ret_error);
    if (code == ABL_CODE_OK && ex.kept == NULL) {
        code = abl_rpc_fail(ret_error, ABL_CODE_INTERNAL, "RESPONSE_MISSING",
                            "%s answered without a message", rpc->host);
    }
    if (code != ABL_CODE_OK) {
        abl_rpc_free(ex.kept);
        return code;
    }
    *ret_response = ex.kept;
    return ABL_CODE_OK;
}

static void *field_of(ProtobufCMessage *message, const char *name) {
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, name);
    return field == NULL ? NULL : (char *)message + field->offset;
}

abl_code abl_rpc_pages(abl_rpc *rpc, const abl_rpc_method *method, ProtobufCMessage *request,
                       abl_rpc_message_cb cb, void *user_data, abl_rpc_error *ret_error) {
    int32_t *page_size = field_of(request, "page_size");
    char **page_token = field_of(request, "page_token");
    if (page_size == NULL || page_token == NULL) {
        return abl_rpc_fail(ret_error, ABL_CODE_INTERNAL, "NOT_A_LISTING", "%s has no pages",
                            method->path);
    }
    *page_size = PAGE_SIZE;
    ABL_CLEANUP(abl_freep) char *token = NULL;
    for (int page = 0; page < PAGE_COUNT_MAX; page++) {
        ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
        abl_code code = abl_rpc_unary(rpc, method, request, &response, ret_error);
        if (code != ABL_CODE_OK) {
            return code;
        }
        if (!cb(response, user_data)) {
            break;
        }
        char **next = field_of(response, "next_page_token");
        if (next == NULL || *next == NULL || (*next)[0] == '\0') {
            break;
        }
        abl_free(token);
        token = abl_strdup(*next);
        if (token == NULL) {
            return fail_oom(ret_error);
        }
        *page_token = token;
    }
    return ABL_CODE_OK;
}
