/* SPDX-License-Identifier: Apache-2.0
 *
 * A page begins behind the serial number that its token names (newest first: before it), so what
 * is added or ended between two pages moves no other entry. The object that others belong to is the
 * first that they need.
 *
 * All List messages have the same fields under the same names (AIP-158), so they are read and
 * filled here by their descriptors. */
#include "server/service/listing.h"

#include "core/base/assert.h"
#include "core/base/limits.h"
#include "server/convert/common.h"

#include <string.h>

#define PAGE_BYTES_MAX ((size_t)ABL_REPLY_BYTES_MAX / 2) /* then a page ends early */

typedef struct page {
    const abl_listing *listing;
    const char *model_id; /* "": of all */
    abl_page at;
    ProtobufCMessage **items;
    size_t count;
    char *next_page_token; /* "": the last page */
} page;

/* ---- the messages' fields ----------------------------------------------------------------- */

/* NULL: the request has no such field. */
static const void *request_field(const ProtobufCMessage *request, const char *name,
                                 ProtobufCType type) {
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(request->descriptor, name);
    ABL_ASSERT(field == NULL || (field->type == type && field->label == PROTOBUF_C_LABEL_NONE));
    return field == NULL ? NULL : (const char *)request + field->offset;
}

static void response_fill(ProtobufCMessage *response, const page *filled) {
    const ProtobufCMessageDescriptor *type = response->descriptor;
    ABL_ASSERT(type->n_fields == 2 && type->fields[0].label == PROTOBUF_C_LABEL_REPEATED &&
               type->fields[0].type == PROTOBUF_C_TYPE_MESSAGE &&
               type->fields[1].type == PROTOBUF_C_TYPE_STRING);
    char *to = (char *)response;
    memcpy(to + type->fields[0].quantifier_offset, &filled->count, sizeof filled->count);
    memcpy(to + type->fields[0].offset, &filled->items, sizeof filled->items);
    memcpy(to + type->fields[1].offset, &filled->next_page_token, sizeof filled->next_page_token);
}

/* ---- the page ----------------------------------------------------------------------------- */

static bool is_wanted(const abl_object *object, const page *of) {
    const abl_listing *listing = of->listing;
    const abl_object *model = object->needs[0];
    bool of_model =
        of->model_id[0] == '\0' || (model != NULL && strcmp(model->id, of->model_id) == 0);
    bool behind = listing->newest_first ? of->at.after == 0 || object->serial < of->at.after
                                        : object->serial > of->at.after;
    return of_model && behind &&
           (listing->wanted_cb == NULL || listing->wanted_cb(object, listing->user_data));
}

/* False: no memory. */
static bool page_fill(abl_rpc *rpc, page *filled) {
    const abl_listing *listing = filled->listing;
    size_t count = abl_registry_count(rpc->server->registry, listing->kind);
    const abl_object **wanted = abl_rpc_scratch(rpc, (count + 1) * sizeof *wanted);
    size_t bytes = 0;
    filled->items = abl_rpc_scratch(rpc, filled->at.size * sizeof *filled->items);
    if (wanted == NULL || filled->items == NULL) {
        return false;
    }
    count = 0;
    for (const abl_object *object = abl_registry_first(rpc->server->registry, listing->kind);
         object != NULL; object = object->next) {
        if (is_wanted(object, filled)) {
            wanted[count++] = object;
        }
    }
    for (size_t i = 0; i < count; i++) {
        const abl_object *object = wanted[listing->newest_first ? count - 1 - i : i];
        ProtobufCMessage *item = listing->convert_cb(rpc, object);
        if (item == NULL) {
            return false;
        }
        bytes += protobuf_c_message_get_packed_size(item);
        filled->items[filled->count++] = item;
        if (i + 1 < count && (filled->count == filled->at.size || bytes > PAGE_BYTES_MAX)) {
            filled->next_page_token =
                abl_arena_printf(rpc->scratch, "%llu", (unsigned long long)object->serial);
            break;
        }
    }
    return filled->next_page_token != NULL;
}

void abl_rpc_list(abl_rpc *rpc, const abl_listing *listing, const ProtobufCMessage *request,
                  ProtobufCMessage *response) {
    const int32_t *size = request_field(request, "page_size", PROTOBUF_C_TYPE_INT32);
    char *const *token = request_field(request, "page_token", PROTOBUF_C_TYPE_STRING);
    char *const *model_id = request_field(request, "model_id", PROTOBUF_C_TYPE_STRING);
    ABL_ASSERT(size != NULL && token != NULL);
    page filled = {.listing = listing,
                   .model_id = model_id == NULL ? "" : *model_id,
                   .next_page_token = (char *)(uintptr_t)protobuf_c_empty_string};
    if (filled.model_id[0] != '\0' && abl_rpc_use(rpc, ABL_OBJECT_MODEL, filled.model_id) == NULL) {
        abl_rpc_fail_status(rpc);
        return;
    }
    abl_code code = abl_convert_page(*size, *token, &filled.at, &rpc->status);
    if (code == ABL_CODE_OK && !page_fill(rpc, &filled)) {
        code = abl_fail_oom(&rpc->status);
    }
    if (code != ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return;
    }
    response_fill(response, &filled);
    abl_rpc_reply(rpc, response);
}
