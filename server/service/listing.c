/* SPDX-License-Identifier: Apache-2.0
 *
 * A page begins behind the serial number that its token names, so what is added or ended between
 * two pages moves no other entry. The object that others belong to is the first that they need. */
#include "server/service/listing.h"

#include "core/base/limits.h"
#include "server/convert/common.h"

#include <string.h>

#define PAGE_BYTES_MAX ((size_t)ABL_REPLY_BYTES_MAX / 2) /* then a page ends early */

static bool is_wanted(const abl_object *object, const char *model_id) {
    const abl_object *model = object->needs[0];
    return model_id[0] == '\0' || (model != NULL && strcmp(model->id, model_id) == 0);
}

/* False: no memory. */
static bool page_fill(abl_rpc *rpc, const abl_listing *listing, const abl_page *page,
                      abl_listing_page *filled) {
    ProtobufCMessage **items = abl_rpc_scratch(rpc, page->size * sizeof *items);
    size_t bytes = 0;
    uint64_t last = 0;
    filled->items = items;
    if (items == NULL) {
        return false;
    }
    for (const abl_object *object = abl_registry_first(rpc->server->registry, listing->kind);
         object != NULL; object = object->next) {
        if (object->serial <= page->after || !is_wanted(object, listing->model_id)) {
            continue;
        }
        if (filled->count == page->size || bytes > PAGE_BYTES_MAX) {
            filled->next_page_token =
                abl_arena_printf(rpc->scratch, "%llu", (unsigned long long)last);
            break;
        }
        ProtobufCMessage *item = listing->convert_cb(rpc, object);
        if (item == NULL) {
            return false;
        }
        bytes += protobuf_c_message_get_packed_size(item);
        items[filled->count++] = item;
        last = object->serial;
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
