/* SPDX-License-Identifier: Apache-2.0
 *
 * A static file as an HTTP response: which of its two encodings, and whether the client has it
 * already. A tag names the content, and each encoding has its own, so that a cache between us and
 * the browser never mixes them. Files in /assets/ have names that change with their content and are
 * kept for a year; the others are asked for again each time, and mostly answered by 304. */
#include "server/transport/web_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The next item of a header's list: between commas, without blanks around it. False: no more. */
static bool next_item(const char **cursor, const char **ret_item, size_t *ret_length) {
    const char *from = *cursor + strspn(*cursor, ", \t");
    if (*from == '\0') {
        return false;
    }
    size_t length = strcspn(from, ",");
    *cursor = from + length;
    while (length > 0 && (from[length - 1] == ' ' || from[length - 1] == '\t')) {
        length--;
    }
    *ret_item = from;
    *ret_length = length;
    return true;
}

/* Whether an item of Accept-Encoding has "q=0", "q=0.0", ... */
static bool is_refused(const char *item, size_t length) {
    const char *end = item + length;
    const char *at = memchr(item, ';', length);
    while (at != NULL && at < end && (*at == ';' || *at == ' ' || *at == '\t')) {
        at++;
    }
    if (at == NULL || end - at < 3 || strncasecmp(at, "q=", 2) != 0) {
        return false;
    }
    for (at += 2; at < end; at++) {
        if (*at != '0' && *at != '.') {
            return false;
        }
    }
    return true;
}

bool abl_web_accepts_gzip(const char *accept_encoding) {
    bool any = false;
    const char *item = NULL;
    size_t length = 0;
    while (accept_encoding != NULL && next_item(&accept_encoding, &item, &length)) {
        size_t name = strcspn(item, "; \t,");
        if (name == 4 && strncasecmp(item, "gzip", 4) == 0) {
            return !is_refused(item, length);
        }
        any = any || (name == 1 && *item == '*' && !is_refused(item, length));
    }
    return any;
}

/* If-None-Match compares weakly: "W/" in front, as proxies write, does not matter. */
bool abl_web_tag_matches(const char *if_none_match, const char *tag) {
    const char *item = NULL;
    size_t length = 0;
    while (if_none_match != NULL && next_item(&if_none_match, &item, &length)) {
        bool weak = length > 2 && strncmp(item, "W/", 2) == 0;
        item += weak ? 2 : 0;
        length -= weak ? 2 : 0;
        if ((length == strlen(tag) && strncmp(item, tag, length) == 0) ||
            (length == 1 && *item == '*')) {
            return true;
        }
    }
    return false;
}

struct MHD_Response *abl_web_file_response(const abl_web_file *file, const char *accept_encoding,
                                           const char *if_none_match, unsigned *ret_status) {
    bool gzip = file->gzip_bytes > 0 && abl_web_accepts_gzip(accept_encoding);
    char tag[80] = "";
    if (file->tag != NULL) {
        (void)snprintf(tag, sizeof tag, "\"%.64s%s\"", file->tag, gzip ? "-gzip" : "");
    }
    bool known = tag[0] != '\0' && abl_web_tag_matches(if_none_match, tag);
    /* Of a 304 and of HEAD the library sends the length alone. */
    struct MHD_Response *response = MHD_create_response_from_buffer(
        gzip ? file->gzip_bytes : file->bytes, (void *)(uintptr_t)(gzip ? file->gzip : file->data),
        MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        return NULL;
    }
    bool named_by_content = strncmp(file->path, "/assets/", 8) == 0;
    (void)MHD_add_response_header(response, "Cache-Control",
                                  named_by_content ? "public, max-age=31536000, immutable"
                                                   : "no-cache");
    if (file->gzip_bytes > 0) {
        (void)MHD_add_response_header(response, "Vary", "Accept-Encoding");
    }
    if (gzip) {
        (void)MHD_add_response_header(response, "Content-Encoding", "gzip");
    }
    if (tag[0] != '\0') {
        (void)MHD_add_response_header(response, "ETag", tag);
    }
    *ret_status = known ? MHD_HTTP_NOT_MODIFIED : MHD_HTTP_OK;
    return response;
}
