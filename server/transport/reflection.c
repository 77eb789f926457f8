/* SPDX-License-Identifier: Apache-2.0
 *
 * The descriptor set is generated from proto/ with all imports and embedded. It is indexed once,
 * with a hand-made subset of descriptor.proto: file names with their raw bytes, and every full name
 * of a service, method, message or enum with its file. Both arrays are sorted; questions are
 * answered by binary search and with the raw bytes of the file and of all that it imports.
 *
 * v1 and v1alpha differ in the package's name only, so one handler serves both paths. The stream is
 * lock-step: an answer is sent before the next question is asked for.
 *
 * The set is our own, but it is parsed with ceilings all the same. */
#include "server/transport/reflection.h"

#include "core/base/arena.h"
#include "core/base/mem.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "internal/descriptor_subset.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_BYTES_MAX ((size_t)16 << 20)
#define REQUEST_BYTES_MAX 4096
#define NESTING_MAX 16

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

typedef struct file {
    const char *name;
    ProtobufCBinaryData bytes;
    const char **imports;
    size_t import_count;
    size_t visited; /* the number of the question that reached it last */
} file;

typedef struct symbol {
    const char *name;
    size_t file;
} symbol;

struct abl_reflection {
    abl_arena *arena; /* every name below */
    file *files;
    size_t file_count;
    symbol *symbols;
    size_t symbol_count;
    size_t symbol_room;
    Grpc__Reflection__V1__ServiceResponse **services;
    size_t service_count;
    size_t question;
};

/* ---- the index ---- */

static bool add_symbol(abl_reflection *reflection, const char *name, size_t file_index) {
    if (reflection->symbol_count == reflection->symbol_room) {
        size_t room = reflection->symbol_room == 0 ? 256 : 2 * reflection->symbol_room;
        symbol *grown = abl_realloc_array(reflection->symbols, room, sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        reflection->symbols = grown;
        reflection->symbol_room = room;
    }
    reflection->symbols[reflection->symbol_count++] = (symbol){name, file_index};
    return name != NULL;
}

static const char *join(abl_reflection *reflection, const char *scope, const char *name) {
    return scope[0] == '\0' ? abl_arena_strndup(reflection->arena, name, strlen(name))
                            : abl_arena_printf(reflection->arena, "%s.%s", scope, name);
}

static bool add_named(abl_reflection *reflection, const char *scope,
                      Ablate__Internal__Named *const *entries, size_t count, size_t file_index) {
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        ok = add_symbol(reflection, join(reflection, scope, entries[i]->name), file_index);
    }
    return ok;
}

static bool add_message(abl_reflection *reflection, const char *scope,
                        const Ablate__Internal__Message *message, size_t file_index, int depth) {
    const char *name = join(reflection, scope, message->name);
    bool ok = depth < NESTING_MAX && add_symbol(reflection, name, file_index) &&
              add_named(reflection, name, message->enum_type, message->n_enum_type, file_index);
    for (size_t i = 0; i < message->n_nested_type && ok; i++) {
        Ablate__Internal__Message *nested = ablate__internal__message__unpack(
            NULL, message->nested_type[i].len, message->nested_type[i].data);
        ok = nested != NULL && add_message(reflection, name, nested, file_index, depth + 1);
        ablate__internal__message__free_unpacked(nested, NULL);
    }
    return ok;
}

static bool add_service(abl_reflection *reflection, const char *package,
                        const Ablate__Internal__Service *service, size_t file_index) {
    const char *name = join(reflection, package, service->name);
    size_t count = reflection->service_count;
    Grpc__Reflection__V1__ServiceResponse **grown =
        abl_realloc_array(reflection->services, count + 1, sizeof(void *));
    if (grown == NULL) {
        return false;
    }
    reflection->services = grown;
    Grpc__Reflection__V1__ServiceResponse *row = abl_arena_alloc(reflection->arena, sizeof *row);
    if (row == NULL || name == NULL) {
        return false;
    }
    grpc__reflection__v1__service_response__init(row);
    row->name = (char *)(uintptr_t)name; /* packing only reads it */
    grown[count] = row;
    reflection->service_count++;
    return add_symbol(reflection, name, file_index) &&
           add_named(reflection, name, service->method, service->n_method, file_index);
}

static bool add_file(abl_reflection *reflection, size_t file_index, ProtobufCBinaryData bytes) {
    Ablate__Internal__File *parsed = ablate__internal__file__unpack(NULL, bytes.len, bytes.data);
    if (parsed == NULL) {
        return false;
    }
    file *entry = &reflection->files[file_index];
    entry->bytes.len = bytes.len;
    entry->bytes.data = abl_arena_alloc(reflection->arena, bytes.len);
    entry->name = join(reflection, "", parsed->name);
    entry->import_count = parsed->n_dependency;
    entry->imports =
        abl_arena_alloc(reflection->arena, parsed->n_dependency * sizeof *entry->imports);
    bool ok = entry->bytes.data != NULL && entry->name != NULL && entry->imports != NULL;
    if (ok) {
        memcpy(entry->bytes.data, bytes.data, bytes.len);
    }
    for (size_t i = 0; i < parsed->n_dependency && ok; i++) {
        entry->imports[i] = join(reflection, "", parsed->dependency[i]);
        ok = entry->imports[i] != NULL;
    }
    for (size_t i = 0; i < parsed->n_message_type && ok; i++) {
        ok = add_message(reflection, parsed->package, parsed->message_type[i], file_index, 0);
    }
    for (size_t i = 0; i < parsed->n_service && ok; i++) {
        ok = add_service(reflection, parsed->package, parsed->service[i], file_index);
    }
    ok = ok &&
         add_named(reflection, parsed->package, parsed->enum_type, parsed->n_enum_type, file_index);
    ablate__internal__file__free_unpacked(parsed, NULL);
    return ok;
}

static int compare_symbols(const void *a, const void *b) {
    return strcmp(((const symbol *)a)->name, ((const symbol *)b)->name);
}

static int compare_services(const void *a, const void *b) {
    const Grpc__Reflection__V1__ServiceResponse *const *left = a;
    const Grpc__Reflection__V1__ServiceResponse *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

abl_code abl_reflection_create(const uint8_t *descriptors, size_t bytes,
                               abl_reflection **ret_reflection, abl_status *ret_status) {
    abl_reflection *reflection = abl_calloc(1, sizeof *reflection);
    Ablate__Internal__FileSet *set = ablate__internal__file_set__unpack(NULL, bytes, descriptors);
    bool ok = reflection != NULL && set != NULL;
    if (ok) {
        reflection->arena = abl_arena_create(INDEX_BYTES_MAX);
        reflection->files = abl_calloc(set->n_file, sizeof *reflection->files);
        reflection->file_count = set->n_file;
        ok = reflection->arena != NULL && reflection->files != NULL;
    }
    for (size_t i = 0; ok && i < set->n_file; i++) {
        ok = add_file(reflection, i, set->file[i]);
    }
    if (set != NULL) {
        ablate__internal__file_set__free_unpacked(set, NULL);
    }
    if (!ok) {
        abl_reflection_destroy(reflection);
        return abl_fail(ret_status, ABL_CODE_INTERNAL, "DESCRIPTORS_INVALID",
                        "the embedded descriptor set of %zu bytes cannot be indexed", bytes);
    }
    qsort(reflection->symbols, reflection->symbol_count, sizeof(symbol), compare_symbols);
    qsort(reflection->services, reflection->service_count, sizeof(void *), compare_services);
    *ret_reflection = reflection;
    return ABL_CODE_OK;
}

void abl_reflection_destroy(abl_reflection *reflection) {
    if (reflection != NULL) {
        abl_free(reflection->services);
        abl_free(reflection->symbols);
        abl_free(reflection->files);
        abl_arena_destroy(reflection->arena);
        abl_free(reflection);
    }
}

/* ---- answers ---- */

static file *find_file(abl_reflection *reflection, const char *name) {
    for (size_t i = 0; i < reflection->file_count; i++) {
        if (strcmp(reflection->files[i].name, name) == 0) {
            return &reflection->files[i];
        }
    }
    return NULL;
}

static file *find_symbol(abl_reflection *reflection, const char *name) {
    symbol key = {.name = name[0] == '.' ? name + 1 : name};
    const symbol *found = reflection->symbol_count == 0
                              ? NULL
                              : bsearch(&key, reflection->symbols, reflection->symbol_count,
                                        sizeof key, compare_symbols);
    return found == NULL ? NULL : &reflection->files[found->file];
}

/* Lists the file and all that it imports, each once. The files' imports form no cycle, and the
 * marks would stop at one. */
static void close_over(abl_reflection *reflection, file *reached, ProtobufCBinaryData *list,
                       size_t *count) {
    if (reached == NULL || reached->visited == reflection->question) {
        return;
    }
    reached->visited = reflection->question;
    list[(*count)++] = reached->bytes;
    for (size_t i = 0; i < reached->import_count; i++) {
        close_over(reflection, find_file(reflection, reached->imports[i]), list, count);
    }
}

/* Packs and sends; the call fails for want of memory only. */
static void send_response(abl_call *call, const reflection_response *response) {
    size_t bytes = grpc__reflection__v1__server_reflection_response__get_packed_size(response);
    uint8_t *packed = abl_malloc(bytes);
    if (packed == NULL) {
        abl_status status = {0};
        (void)abl_fail_oom(&status);
        abl_call_finish(call, NULL, &status);
        return;
    }
    (void)grpc__reflection__v1__server_reflection_response__pack(response, packed);
    abl_call_send(call, abl_message_own(packed, bytes));
}

static void answer_error(abl_call *call, reflection_response *response, abl_code code,
                         const char *asked) {
    char text[256];
    (void)snprintf(text, sizeof text, "nothing here is called '%.160s'", asked);
    Grpc__Reflection__V1__ErrorResponse error;
    grpc__reflection__v1__error_response__init(&error);
    error.error_code = (int32_t)code;
    error.error_message = text;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = &error;
    send_response(call, response);
}

static void answer_file(abl_call *call, abl_reflection *reflection, reflection_response *response,
                        file *found, const char *asked) {
    if (found == NULL) {
        answer_error(call, response, ABL_CODE_NOT_FOUND, asked);
        return;
    }
    ABL_CLEANUP(abl_freep)
    ProtobufCBinaryData *list = abl_calloc(reflection->file_count, sizeof *list);
    if (list == NULL) {
        answer_error(call, response, ABL_CODE_RESOURCE_EXHAUSTED, asked);
        return;
    }
    Grpc__Reflection__V1__FileDescriptorResponse files =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    reflection->question++;
    close_over(reflection, found, list, &files.n_file_descriptor_proto);
    files.file_descriptor_proto = list;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response->file_descriptor_response = &files;
    send_response(call, response);
}

static void answer_services(abl_call *call, abl_reflection *reflection,
                            reflection_response *response) {
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    list.n_service = reflection->service_count;
    list.service = reflection->services;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &list;
    send_response(call, response);
}

#define QUESTION(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name

static void answer(abl_call *call, abl_reflection *reflection, reflection_request *request) {
    reflection_response response;
    grpc__reflection__v1__server_reflection_response__init(&response);
    response.valid_host = request->host;
    response.original_request = request;
    switch ((int)request->message_request_case) {
    case QUESTION(FILE_BY_FILENAME):
        answer_file(call, reflection, &response, find_file(reflection, request->file_by_filename),
                    request->file_by_filename);
        return;
    case QUESTION(FILE_CONTAINING_SYMBOL):
        answer_file(call, reflection, &response,
                    find_symbol(reflection, request->file_containing_symbol),
                    request->file_containing_symbol);
        return;
    case QUESTION(LIST_SERVICES):
        answer_services(call, reflection, &response);
        return;
    case QUESTION(FILE_CONTAINING_EXTENSION): /* proto3 files of ours extend nothing */
    case QUESTION(ALL_EXTENSION_NUMBERS_OF_TYPE):
        answer_error(call, &response, ABL_CODE_NOT_FOUND, "an extension");
        return;
    case QUESTION(_NOT_SET):
    default:
        answer_error(call, &response, ABL_CODE_INVALID_ARGUMENT, "");
        return;
    }
}

/* ---- the stream ---- */

static void on_message(abl_call *call, const uint8_t *message, size_t bytes) {
    if (message == NULL) {
        abl_call_finish(call, NULL, NULL);
        return;
    }
    reflection_request *request =
        bytes > REQUEST_BYTES_MAX
            ? NULL
            : grpc__reflection__v1__server_reflection_request__unpack(NULL, bytes, message);
    if (request == NULL) {
        abl_call_fail(call, ABL_CODE_INVALID_ARGUMENT, "MALFORMED_MESSAGE",
                      "the request is not a ServerReflectionRequest");
        return;
    }
    answer(call, call->user, request);
    grpc__reflection__v1__server_reflection_request__free_unpacked(request, NULL);
}

static void on_cancel(abl_call *call) {
    abl_call_fail(call, ABL_CODE_CANCELLED, "CANCELLED", "the client left");
}

static void start(abl_call *call, void *user_data) {
    call->user = user_data;
    call->on_message_cb = on_message;
    call->on_sent_cb = abl_call_recv;
    call->on_cancel_cb = on_cancel;
    abl_call_recv(call);
}

static abl_service service_of(abl_reflection *reflection, const char *name,
                              const abl_method *method) {
    return (abl_service){
        .name = name, .methods = method, .method_count = 1, .user_data = reflection};
}

abl_service abl_reflection_service_v1(abl_reflection *reflection) {
    static const abl_method method = {
        .path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        .client_stream = true,
        .server_stream = true,
        .start_cb = start};
    return service_of(reflection, "grpc.reflection.v1.ServerReflection", &method);
}

abl_service abl_reflection_service_v1alpha(abl_reflection *reflection) {
    static const abl_method method = {
        .path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        .client_stream = true,
        .server_stream = true,
        .start_cb = start};
    return service_of(reflection, "grpc.reflection.v1alpha.ServerReflection", &method);
}
