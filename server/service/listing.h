/* listing.h -- a page of resident objects, as every List rpc of them gives one.
 *
 * OWNERSHIP  Everything is in the rpc's scratch.
 * THREADS    The loop's.
 * ERRORS     As the call says.
 */
#ifndef ABLATE_SERVER_SERVICE_LISTING_H
#define ABLATE_SERVER_SERVICE_LISTING_H

#include "server/service/rpc.h"

ABL_BEGIN_DECLS

/* The message of an object, in rpc->scratch; NULL: no memory. */
typedef ProtobufCMessage *(*abl_listing_convert_cb)(abl_rpc *rpc, const abl_object *object);

typedef struct abl_listing {
    abl_object_kind kind;
    const char *model_id; /* only what is of this model; "": all */
    bool newest_first;    /* else in order of creation */
    bool (*wanted_cb)(const abl_object *object, const void *user_data); /* NULL: all are */
    const void *user_data;
    abl_listing_convert_cb convert_cb;
    int32_t page_size; /* as the request has them */
    const char *page_token;
} abl_listing;

typedef struct abl_listing_page {
    void *items; /* pointers to messages: the response's array */
    size_t count;
    char *next_page_token; /* "": the last page */
} abl_listing_page;

/* Makes the page; of large messages it ends early, at what a reply may take.
 * False: the rpc has failed.
 *   NOT_FOUND           no model has the id, and it is not ""
 *   INVALID_ARGUMENT    PAGE_SIZE_INVALID, PAGE_TOKEN_INVALID
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK bool abl_rpc_list(abl_rpc *rpc, const abl_listing *listing,
                                 abl_listing_page *ret_page);

ABL_END_DECLS
#endif
