/* listing.h -- a page of resident objects, as every List rpc of them gives one.
 *
 * OWNERSHIP  What is sent is in the rpc's scratch.
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
    bool newest_first; /* else in order of creation */
    bool (*wanted_cb)(const abl_object *object, const void *user_data); /* NULL: all are */
    const void *user_data;
    abl_listing_convert_cb convert_cb;
} abl_listing;

/* Answers with a page, and ends the rpc. A page of large messages ends early, at what a reply may
 * take.
 *
 * `request` has page_size and page_token, and model_id where one model's objects can be asked for
 * ("" asks for all); `response`, all of its defaults, has one list and next_page_token.
 *   NOT_FOUND           no model has the id
 *   INVALID_ARGUMENT    PAGE_SIZE_INVALID, PAGE_TOKEN_INVALID
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
void abl_rpc_list(abl_rpc *rpc, const abl_listing *listing, const ProtobufCMessage *request,
                  ProtobufCMessage *response);

ABL_END_DECLS
#endif
