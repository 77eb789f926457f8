/* web_internal.h -- what web_http.c and web_call.c share; nobody else includes it.
 *
 * OWNERSHIP  A call has two holders: HTTP, until libmicrohttpd says that the request is over, and
 *            the service, until it finishes. The second to leave frees it.
 * THREADS    The loop thread only.
 * ERRORS     None.
 */
#ifndef ABLATE_SERVER_TRANSPORT_WEB_INTERNAL_H
#define ABLATE_SERVER_TRANSPORT_WEB_INTERNAL_H

#include "core/base/arena.h"
#include "server/transport/web.h"

#include <microhttpd.h>

/* What waits to be written: a frame header, if it has one, and bytes. */
typedef struct web_chunk {
    uint8_t header[5];
    size_t header_bytes;
    abl_message message;
    size_t written; /* of header and message together */
} web_chunk;

#define WEB_CHUNK_MAX 3 /* a send under way, the last message, the trailers */

typedef struct web_call web_call;
struct web_call {
    abl_call base; /* first: an abl_call * is a web_call * */
    abl_web_server *server;
    web_call *next; /* in the server's list */
    web_call **link;
    struct MHD_Connection *connection; /* NULL: HTTP has let go */
    struct web_hangup *hangup;         /* watches a duplicate of the socket */
    abl_timer *deadline;
    abl_arena *texts; /* copies of the headers that were asked for */
    char peer[80];
    bool text; /* base64 mode */

    uint8_t *body;
    size_t body_bytes;
    size_t body_room;  /* counted in the server's body_bytes */
    bool body_too_big; /* over the limit of one message */
    bool body_refused; /* over the budget of all */

    web_chunk chunks[WEB_CHUNK_MAX];
    size_t chunk_count;
    bool started;   /* the service holds it, or has held it */
    bool suspended; /* libmicrohttpd waits to be told of more */
    bool ended;     /* the trailers are among the chunks, or written */
    bool aborted;   /* end the connection at once */
};

extern const abl_call_ops abl_web_call_ops;

/* A call whose body comes next; NULL: no memory. */
web_call *abl_web_call_create(abl_web_server *server, struct MHD_Connection *connection, bool text);
/* Takes more of the body. False: hang up. */
bool abl_web_call_take_body(web_call *call, const char *data, size_t bytes);
/* The body is complete: to the service, or to an error in trailers. */
void abl_web_call_begin(web_call *call, const char *path);
/* libmicrohttpd's reader of the response. */
ssize_t abl_web_call_read(void *user_data, uint64_t position, char *buffer, size_t room);
/* HTTP is done with the request, for better or worse. May free the call. */
void abl_web_call_http_done(web_call *call);
/* Cancels what runs and ends the connection. */
void abl_web_call_abort(web_call *call);
/* Writes bytes to libmicrohttpd again, if it waits. */
void abl_web_call_resume(web_call *call);

/* The fields are for web_http.c, but for the counts, which calls keep. */
struct abl_web_server {
    abl_web_options options; /* but for listen and tls, borrowed for the server's life */
    bool asks_clients;       /* for certificates */
    struct web_credentials *credentials; /* the newest first; NULL: those that it started with */
    size_t message_bytes_max;
    struct MHD_Daemon *daemon;
    int port;
    struct uv_poll_s *poll; /* libmicrohttpd's epoll descriptor */
    abl_timer *timer;       /* libmicrohttpd's timeouts */
    abl_timer *grace;
    web_call *calls;
    size_t call_count;
    size_t started_count; /* of them, those whose request came whole */
    size_t service_count; /* of these, those that a service holds */
    size_t body_bytes;
    bool kicked; /* a connection was resumed since the last MHD_run() */
    bool draining;
    bool forced; /* the grace is over */
    bool stopping;
    abl_mail stop_mail;
    void (*done_cb)(void *user_data);
    void *done_user_data;
};

/* Whether the client showed a certificate of the authority, where it has to. */
bool abl_web_client_is_known(const abl_web_server *server, struct MHD_Connection *connection);
/* libmicrohttpd's word of a connection; `user_data` is the server. */
void abl_web_on_connection(void *user_data, struct MHD_Connection *connection, void **context,
                           enum MHD_ConnectionNotificationCode what);
/* And those older. NULL is allowed. */
void abl_web_credentials_destroy(struct web_credentials *credentials);

/* Whether an Accept-Encoding header, or NULL, allows gzip. */
bool abl_web_accepts_gzip(const char *accept_encoding);
/* Whether an If-None-Match header, or NULL, names a tag (with its quotes). */
bool abl_web_tag_matches(const char *if_none_match, const char *tag);
/* A file, or that the client has it; the headers are those of the request, or NULL. NULL: no
 * memory. */
struct MHD_Response *abl_web_file_response(const abl_web_file *file, const char *accept_encoding,
                                           const char *if_none_match, unsigned *ret_status);

/* A connection was resumed, which libmicrohttpd does not notice by itself. */
void abl_web_server_kick(abl_web_server *server);
/* After a call was freed or finished: the server may have waited for it. */
void abl_web_server_call_ended(abl_web_server *server);

#endif
