/* SPDX-License-Identifier: Apache-2.0
 *
 * A page begins behind the serial number that its token names (newest first: before it), so what
 * is added or ended between two pages moves no other entry. The object that others belong to is the
 * first that they need. */
#include "server/service/listing.h"

#include "core/base/limits.h"
#include "server/convert/common.h"

#include <string.h>

#define PAGE_BYTES_MAX ((size_t)ABL_REPLY_BYTES_MAX / 2) /* then a page ends early */

static bool is_wanted(const abl_object *object, const abl_listing *listing, const abl_page *page) {
    const abl_object *model = object->needs[0];
    bool of_model = listing->model_id[0] == '\0' ||
                    (model != NULL && strcmp(model->id, listing->model_id) == 0);
    bool behind = listing->newest_first ? page->after == 0 || object->serial < page->after
                                        : object->serial > page->after;
    return of_model && behind &&
           (listing->wanted_cb == NULL || listing->wanted_cb(object, listing->user_data));
}

/* False: no memory. */
static bool page_fill(abl_rpc *rpc, const abl_listing *listing, const abl_page *page,
                      abl_listing_page *filled) {
    size_t count = abl_registry_count(rpc->server->registry, listing->kind);
    const abl_object **wanted = abl_rpc_scratch(rpc, (count + 1) * sizeof *wanted);
    ProtobufCMessage **items = abl_rpc_scratch(rpc, page->size * sizeof *items);
    size_t bytes = 0;
    filled->items = items;
    if (wanted == NULL || items == NULL) {
        return false;
    }
    count = 0;
    for (const abl_object *object = abl_registry_first(rpc->server->registry, listing->kind);
         object != NULL; object = object->next) {
        if (is_wanted(object, listing, page)) {
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
        items[filled->count++] = item;
        if (i + 1 < count && (filled->count == page->size || bytes > PAGE_BYTES_MAX)) {
            filled->next_page_token =
                abl_arena_printf(rpc->scratch, "%llu", (unsigned long long)object->serial);
            break;
        }
    }
    return filled->next_page_token != NULL;
}

bool abl_rpc_list(abl_rpc *rpc, const abl_listing *listing, abl_listing_page *ret_page) {
    abl_page page;
    abl_listing_page filled = {.next_page_token = (char *)(uintptr_t)protobuf_c_empty_string};
    if (listing->model_id[0] != '\0' &&
        abl_rpc_use(rpc, ABL_OBJECT_MODEL, listing->model_id) == NULL) {
        abl_rpc_fail_status(rpc);
        return false;
    }
    if (abl_convert_page(listing->page_size, listing->page_token, &page, &rpc->status) !=
        ABL_CODE_OK) {
        abl_rpc_fail_status(rpc);
        return false;
    }
    if (!page_fill(rpc, listing, &page, &filled)) {
        (void)abl_fail_oom(&rpc->status);
        abl_rpc_fail_status(rpc);
        return false;
    }
    *ret_page = filled;
    return true;
}
