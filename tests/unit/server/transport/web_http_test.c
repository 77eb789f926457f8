/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTP port on a thread of its own, and a client that writes requests by hand: what browsers
 * and libraries would hide (a hang-up, a half-sent body, a foreign Host) is the point here. */
#include "server/transport/web.h"

#include "core/base/mem.h"
#include "server/transport/web_frame.h"
#include "tests/support/echo_service.h"
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LIMIT 100000

typedef struct fixture {
    pthread_t thread;
    int port; /* atomic */
    uint64_t grace_ms;
    abl_loop *loop;
    abl_web_server *server;
    abl_service services[1];
    echo_service echo;
    abl_mail stop_mail;
} fixture;

static char *metrics(void *user_data, size_t *ret_bytes) {
    (void)user_data;
    char *text = abl_strdup("ablate_up 1\n");
    *ret_bytes = strlen(text);
    return text;
}

static abl_code guard(abl_call *call, void *user_data, abl_status *ret_status) {
    (void)user_data;
    const char *token = abl_call_metadata(call, "authorization");
    return token == NULL ? ABL_CODE_OK
                         : abl_fail(ret_status, ABL_CODE_UNAUTHENTICATED, "REFUSED", "%s", token);
}

static void on_stopped(void *user_data) {
    fixture *f = user_data;
    abl_web_server_destroy(f->server);
    abl_loop_stop(f->loop);
}

static void on_stop(abl_mail *mail) {
    fixture *f = (fixture *)(void *)((char *)mail - offsetof(fixture, stop_mail));
    abl_web_server_shutdown(f->server, f->grace_ms, on_stopped, f);
}

static void *server_main(void *argument) {
    static const abl_web_file files[] = {{.path = "/assets/app.js",
                                          .content_type = "text/javascript",
                                          .data = (const uint8_t *)"let x",
                                          .bytes = 5,
                                          .gzip = (const uint8_t *)"zip",
                                          .gzip_bytes = 3,
                                          .tag = "abc"},
                                         {.path = "/index.html",
                                          .content_type = "text/html",
                                          .data = (const uint8_t *)"<p>",
                                          .bytes = 3,
                                          .tag = "def"}};
    fixture *f = argument;
    f->services[0] = echo_service_table(&f->echo);
    abl_web_options options = {.services = f->services,
                               .service_count = 1,
                               .listen = "127.0.0.1:0",
                               .message_bytes_max = LIMIT,
                               .guard_cb = guard,
                               .files = files,
                               .file_count = 2,
                               .metrics_cb = metrics};
    if (abl_loop_create(&f->loop, NULL) != ABL_CODE_OK) {
        abort();
    }
    options.loop = f->loop;
    abl_status status = {0};
    if (abl_web_server_create(&options, &f->server, &status) != ABL_CODE_OK) {
        (void)fprintf(stderr, "%s\n", status.message);
        abort();
    }
    __atomic_store_n(&f->port, abl_web_server_port(f->server), __ATOMIC_SEQ_CST);
    abl_loop_run(f->loop);
    abl_loop_destroy(f->loop);
    return NULL;
}

static void pause_ms(int ms) {
    (void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static void wait_until(const int *counter, int value) {
    for (int i = 0; i < 2000; i++) {
        if (__atomic_load_n(counter, __ATOMIC_SEQ_CST) >= value) {
            return;
        }
        pause_ms(5);
    }
    fail_msg("waited 10 s for a counter to reach %d; it is %d", value, *counter);
}

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    f->grace_ms = 10000;
    (void)pthread_create(&f->thread, NULL, server_main, f);
    wait_until(&f->port, 1);
    *state = f;
    return 0;
}

static void ask_to_stop(fixture *f) {
    f->stop_mail.deliver_cb = on_stop;
    abl_loop_post(f->loop, &f->stop_mail);
}

static int tear_down(void **state) {
    fixture *f = *state;
    if (f->stop_mail.deliver_cb == NULL) {
        ask_to_stop(f);
    }
    (void)pthread_join(f->thread, NULL);
    free(f);
    return 0;
}

/* ---- a client by hand ---- */

static int dial(fixture *f) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)f->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    struct timeval limit = {.tv_sec = 10};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void write_all(int fd, const void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t written = send(fd, (const char *)data + done, bytes - done, MSG_NOSIGNAL);
        assert_true(written > 0);
        done += (size_t)written;
    }
}

typedef struct answer {
    int status;
    char *head; /* NUL-terminated */
    unsigned char *body;
    size_t bytes;
} answer;

static void answer_free(answer *got) {
    free(got->head);
    free(got->body);
}

/* Reads to the end of the connection (requests here say "Connection: close"). */
static answer read_answer(int fd) {
    size_t room = 1 << 16;
    size_t bytes = 0;
    char *all = malloc(room + 1);
    ssize_t got = 0;
    while ((got = recv(fd, all + bytes, room - bytes, 0)) > 0) {
        bytes += (size_t)got;
        if (bytes == room) {
            room *= 2;
            all = realloc(all, room + 1);
        }
    }
    (void)close(fd);
    all[bytes] = '\0';
    answer result = {0};
    char *end = strstr(all, "\r\n\r\n");
    if (end == NULL) {
        free(all);
        return result;
    }
    result.status = (int)strtol(all + 9, NULL, 10);
    result.head = strndup(all, (size_t)(end - all));
    const char *from = end + 4;
    size_t left = bytes - (size_t)(from - all);
    result.body = malloc(left + 1);
    if (strcasestr(result.head, "transfer-encoding: chunked") == NULL) {
        memcpy(result.body, from, left);
        result.bytes = left;
    } else {
        for (;;) {
            char *line_end = NULL;
            size_t size = strtoul(from, &line_end, 16);
            if (size == 0) {
                break;
            }
            memcpy(result.body + result.bytes, line_end + 2, size);
            result.bytes += size;
            from = line_end + 2 + size + 2;
        }
    }
    result.body[result.bytes] = '\0';
    free(all);
    return result;
}

static void send_head(int fd, const char *line, const char *headers, size_t body_bytes) {
    char head[1024];
    int length = snprintf(head, sizeof head,
                          "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                          "Content-Length: %zu\r\n%s\r\n",
                          line, body_bytes, headers);
    write_all(fd, head, (size_t)length);
}

static answer request(fixture *f, const char *line, const char *headers, const void *body,
                      size_t body_bytes) {
    int fd = dial(f);
    send_head(fd, line, headers, body_bytes);
    if (body_bytes > 0) {
        write_all(fd, body, body_bytes);
    }
    return read_answer(fd);
}

#define BINARY "Content-Type: application/grpc-web+proto\r\n"
#define TEXT "Content-Type: application/grpc-web-text\r\n"

static answer call(fixture *f, const char *method, const char *headers, const char *message,
                   size_t bytes) {
    char line[128];
    (void)snprintf(line, sizeof line, "POST /test.Echo/%s", method);
    uint8_t *body = malloc(5 + bytes);
    abl_web_frame_header(body, bytes);
    memcpy(body + 5, message, bytes);
    answer got = request(f, line, headers, body, 5 + bytes);
    free(body);
    return got;
}

static void assert_ends_with_trailers(const answer *got, size_t message_bytes, int status) {
    char line[32];
    int length = snprintf(line, sizeof line, "grpc-status:%d\r\n", status);
    assert_int_equal(got->status, 200);
    assert_true(got->bytes >= message_bytes + 5 + (size_t)length);
    assert_int_equal(got->body[message_bytes], 0x80);
    assert_memory_equal(got->body + message_bytes + 5, line, (size_t)length);
}

/* ---- tests ---- */

static void a_unary_call_is_answered_with_a_message_and_trailers(void **state) {
    fixture *f = *state;
    answer got = call(f, "Echo", BINARY, "hello", 5);
    assert_memory_equal(got.body, "\0\0\0\0\5hello", 10);
    assert_ends_with_trailers(&got, 10, 0);
    assert_non_null(strcasestr(got.head, "content-type: application/grpc-web+proto"));
    answer_free(&got);
    got = call(f, "Echo", BINARY, "", 0);
    assert_ends_with_trailers(&got, 5, 0);
    answer_free(&got);
}

static void text_mode_is_the_same_in_base64(void **state) {
    fixture *f = *state;
    char body[32];
    abl_base64_encode((const uint8_t *)"\0\0\0\0\5hello", 10, body);
    answer got = request(f, "POST /test.Echo/Echo", TEXT, body, ABL_BASE64_BYTES(10));
    assert_true(abl_base64_decode(got.body, got.bytes, &got.bytes));
    assert_memory_equal(got.body, "\0\0\0\0\5hello", 10);
    assert_ends_with_trailers(&got, 10, 0);
    answer_free(&got);
    got = request(f, "POST /test.Echo/Echo", TEXT, "!!!!", 4);
    assert_true(abl_base64_decode(got.body, got.bytes, &got.bytes));
    assert_ends_with_trailers(&got, 0, ABL_CODE_INVALID_ARGUMENT);
    answer_free(&got);
}

static void a_stream_arrives_whole_and_in_order(void **state) {
    fixture *f = *state;
    answer got = call(f, "Count", BINARY, "50 70000", 8);
    assert_ends_with_trailers(&got, (size_t)50 * 70005, 0);
    for (size_t i = 0; i < 50; i++) {
        const unsigned char *frame = got.body + i * 70005;
        assert_int_equal(frame[0], 0);
        assert_int_equal(frame[2] << 16 | frame[3] << 8 | frame[4], 70000);
        assert_int_equal(frame[5], i);
        assert_int_equal(frame[70004], i);
    }
    answer_free(&got);
    wait_until(&f->echo.released, 50);
}

static void failures_travel_in_the_trailers(void **state) {
    fixture *f = *state;
    const struct {
        const char *method;
        const char *headers;
        int status;
    } cases[] = {
        {"Fail", BINARY, ABL_CODE_FAILED_PRECONDITION},
        {"Nothing", BINARY, ABL_CODE_UNIMPLEMENTED},
        {"Sum", BINARY, ABL_CODE_UNIMPLEMENTED}, /* a client stream */
        {"Hang", BINARY "grpc-timeout: 50m\r\n", ABL_CODE_DEADLINE_EXCEEDED},
        {"Echo", BINARY "grpc-timeout: soon\r\n", ABL_CODE_INVALID_ARGUMENT},
        {"Echo", BINARY "Authorization: no\r\n", ABL_CODE_UNAUTHENTICATED},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        answer got = call(f, cases[i].method, cases[i].headers, "words", 5);
        assert_ends_with_trailers(&got, 0, cases[i].status);
        assert_non_null(strstr((char *)got.body + 5, "grpc-status-details-bin:"));
        answer_free(&got);
    }
    answer got = request(f, "POST /test.Echo/Echo", BINARY, "\0\0\0\0\7x", 6);
    assert_ends_with_trailers(&got, 0, ABL_CODE_INVALID_ARGUMENT);
    answer_free(&got);
    wait_until(&f->echo.cancelled, 1); /* the deadline told the service */
}

static void what_is_no_call_is_an_http_status(void **state) {
    fixture *f = *state;
    const struct {
        const char *line;
        const char *headers;
        size_t body_bytes;
        int status;
    } cases[] = {
        {"GET /", "", 0, 200},
        {"GET /metrics", "", 0, 200},
        {"GET /assets/app.js", "", 0, 200},
        {"HEAD /assets/app.js", "", 0, 200},
        {"GET /../../etc/passwd", "", 0, 404},
        {"GET /assets/", "", 0, 404},
        {"PUT /x", "", 4, 405},
        {"POST /test.Echo/Echo", "Content-Type: application/json\r\n", 4, 415},
        {"POST /test.Echo/Echo", "Content-Type: application/grpc-web+json\r\n", 4, 415},
        {"POST /test.Echo/Echo", "", 4, 415},
        {"POST /test.Echo/Echo", BINARY "Origin: http://evil.example\r\n", 4, 403},
        {"POST /test.Echo/Echo", BINARY "Origin: null\r\n", 4, 403},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        answer got = request(f, cases[i].line, cases[i].headers, "\0\0\0\0", cases[i].body_bytes);
        if (got.status != cases[i].status) {
            fail_msg("'%s' gave %d", cases[i].line, got.status);
        }
        answer_free(&got);
    }
    answer got = request(f, "GET /metrics", "", NULL, 0);
    assert_string_equal((char *)got.body, "ablate_up 1\n");
    answer_free(&got);
}

static void assert_has(const answer *got, const char *header) {
    if (strcasestr(got->head, header) == NULL) {
        fail_msg("'%s' is not in:\n%s", header, got->head);
    }
}

static void a_file_goes_compressed_to_those_who_take_it(void **state) {
    fixture *f = *state;
    const struct {
        const char *headers;
        bool gzip;
    } cases[] = {
        {"", false},
        {"Accept-Encoding: gzip, deflate, br, zstd\r\n", true},
        {"Accept-Encoding: br , GZIP;q=0.5\r\n", true},
        {"Accept-Encoding: *\r\n", true},
        {"Accept-Encoding: br\r\n", false},
        {"Accept-Encoding: gzip;q=0, *\r\n", false},
        {"Accept-Encoding: gzip; q=0.00\r\n", false},
        {"Accept-Encoding: *;q=0\r\n", false},
        {"Accept-Encoding: gzipped, xgzip\r\n", false},
        {"Accept-Encoding: ,;,\r\n", false},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        answer got = request(f, "GET /assets/app.js", cases[i].headers, NULL, 0);
        assert_int_equal(got.status, 200);
        assert_has(&got, "vary: accept-encoding");
        assert_has(&got, "cache-control: public, max-age=31536000, immutable");
        assert_has(&got, cases[i].gzip ? "etag: \"abc-gzip\"" : "etag: \"abc\"");
        assert_string_equal((char *)got.body, cases[i].gzip ? "zip" : "let x");
        if ((strcasestr(got.head, "content-encoding: gzip") != NULL) != cases[i].gzip) {
            fail_msg("'%s' gave:\n%s", cases[i].headers, got.head);
        }
        answer_free(&got);
    }
    answer got = request(f, "HEAD /assets/app.js", "Accept-Encoding: gzip\r\n", NULL, 0);
    assert_has(&got, "content-encoding: gzip");
    assert_has(&got, "content-length: 3");
    assert_int_equal(got.bytes, 0);
    answer_free(&got);
    got = request(f, "GET /", "Accept-Encoding: gzip\r\n", NULL, 0);
    assert_has(&got, "cache-control: no-cache");
    assert_has(&got, "etag: \"def\"");
    assert_null(strcasestr(got.head, "content-encoding"));
    answer_free(&got);
}

static void a_file_that_the_client_has_is_not_sent_again(void **state) {
    fixture *f = *state;
    const struct {
        const char *headers;
        int status;
    } cases[] = {
        {"If-None-Match: \"abc\"\r\n", 304},
        {"If-None-Match: \"old\", W/\"abc\"\r\n", 304},
        {"If-None-Match: *\r\n", 304},
        {"If-None-Match: \"abcd\"\r\n", 200},
        {"If-None-Match: \"abc-gzip\"\r\n", 200}, /* it has the other encoding */
        {"If-None-Match: \"abc-gzip\"\r\nAccept-Encoding: gzip\r\n", 304},
        {"If-None-Match: W/\r\n", 200},
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        answer got = request(f, "GET /assets/app.js", cases[i].headers, NULL, 0);
        if (got.status != cases[i].status) {
            fail_msg("'%s' gave %d", cases[i].headers, got.status);
        }
        assert_int_equal(got.bytes > 0, got.status == 200);
        assert_has(&got, "etag:");
        answer_free(&got);
    }
}

static void a_foreign_host_is_refused_on_loopback(void **state) {
    fixture *f = *state;
    int fd = dial(f);
    const char text[] = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    write_all(fd, text, sizeof text - 1);
    answer got = read_answer(fd);
    assert_int_equal(got.status, 421);
    answer_free(&got);
}

static void pages_of_this_machine_get_cors_headers(void **state) {
    fixture *f = *state;
    const char origin[] =
        "Origin: http://localhost:5173\r\nAccess-Control-Request-Method: POST\r\n";
    answer got = request(f, "OPTIONS /test.Echo/Echo", origin, NULL, 0);
    assert_int_equal(got.status, 204);
    assert_non_null(strcasestr(got.head, "access-control-allow-origin: http://localhost:5173"));
    assert_non_null(strcasestr(got.head, "access-control-allow-headers: content-type,x-grpc-web"));
    answer_free(&got);
    got = call(f, "Echo", BINARY "Origin: http://localhost:5173\r\n", "x", 1);
    assert_ends_with_trailers(&got, 6, 0);
    assert_non_null(strcasestr(got.head, "access-control-expose-headers: grpc-status"));
    answer_free(&got);
}

static void a_body_over_the_limit_is_413_whatever_it_says_of_itself(void **state) {
    fixture *f = *state;
    char *big = calloc(3 * LIMIT, 1);
    answer got = call(f, "Echo", BINARY, big, LIMIT);
    assert_ends_with_trailers(&got, 5 + LIMIT, 0);
    answer_free(&got);
    int fd = dial(f);
    send_head(fd, "POST /test.Echo/Echo", BINARY, LIMIT + 6); /* refused before the body */
    got = read_answer(fd);
    assert_int_equal(got.status, 413);
    answer_free(&got);
    fd = dial(f);
    const char head[] = "POST /test.Echo/Echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                        "Transfer-Encoding: chunked\r\n" BINARY "\r\n";
    write_all(fd, head, sizeof head - 1);
    for (int i = 0; i < 3; i++) {
        char size[16];
        int length = snprintf(size, sizeof size, "%x\r\n", LIMIT / 2);
        write_all(fd, size, (size_t)length);
        write_all(fd, big, LIMIT / 2);
        write_all(fd, "\r\n", 2);
    }
    write_all(fd, "0\r\n\r\n", 5);
    got = read_answer(fd);
    assert_int_equal(got.status, 413);
    answer_free(&got);
    free(big);
}

static int open_call(fixture *f, const char *method, const char *message) {
    char line[128];
    (void)snprintf(line, sizeof line, "POST /test.Echo/%s", method);
    uint8_t header[5];
    abl_web_frame_header(header, strlen(message));
    int fd = dial(f);
    send_head(fd, line, BINARY, 5 + strlen(message));
    write_all(fd, header, 5);
    write_all(fd, message, strlen(message));
    return fd;
}

static void a_client_that_hangs_up_cancels_its_call(void **state) {
    fixture *f = *state;
    int fd = open_call(f, "Hang", "x");
    wait_until(&f->echo.started, 1);
    (void)close(fd);
    wait_until(&f->echo.cancelled, 1);
    answer got = call(f, "Echo", BINARY, "x", 1);
    assert_ends_with_trailers(&got, 6, 0);
    answer_free(&got);
}

static void a_stalled_reader_stalls_the_service_and_leaving_frees_it(void **state) {
    fixture *f = *state;
    int fd = open_call(f, "Count", "1000 1000000");
    wait_until(&f->echo.sent, 1);
    int before = -1;
    int now = 0;
    while (now != before) { /* until a tenth of a second brings no further message */
        before = now;
        pause_ms(100);
        now = __atomic_load_n(&f->echo.sent, __ATOMIC_SEQ_CST);
    }
    assert_in_range(now, 1, 100);
    (void)close(fd);
    wait_until(&f->echo.cancelled, 1);
    wait_until(&f->echo.released, now + 1);
}

static void half_a_request_and_noise_leave_the_server_alive(void **state) {
    fixture *f = *state;
    int half = dial(f);
    send_head(half, "POST /test.Echo/Echo", BINARY, 1000);
    write_all(half, "\0\0\0", 3);
    (void)close(half);
    unsigned seed = 1;
    for (int i = 0; i < 50; i++) {
        char noise[200];
        for (size_t j = 0; j < sizeof noise; j++) {
            noise[j] = (char)rand_r(&seed);
        }
        int fd = dial(f);
        write_all(fd, noise, sizeof noise);
        write_all(fd, "\r\n\r\n", 4);
        (void)close(fd);
        answer got = request(f, "POST /test.Echo/Echo", BINARY, noise, (size_t)(i * 4));
        assert_ends_with_trailers(&got, 0, ABL_CODE_INVALID_ARGUMENT);
        answer_free(&got);
    }
    answer got = call(f, "Echo", BINARY, "x", 1);
    assert_ends_with_trailers(&got, 6, 0);
    answer_free(&got);
}

static void draining_lets_calls_end_and_refuses_new_ones(void **state) {
    fixture *f = *state;
    int reader = open_call(f, "Count", "100 50000"); /* more than the sockets hold */
    int kept = dial(f);                              /* a connection from before the drain */
    const char keep[] = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    write_all(kept, keep, sizeof keep - 1);
    char answer_start[16];
    assert_true(recv(kept, answer_start, sizeof answer_start, 0) > 0);
    wait_until(&f->echo.started, 1);
    ask_to_stop(f);
    pause_ms(100); /* the drain has nothing that we could wait for */
    uint8_t body[] = {0, 0, 0, 0, 1, 'x'};
    send_head(kept, "POST /test.Echo/Echo", BINARY, sizeof body);
    write_all(kept, body, sizeof body);
    char rest[4096] = "";
    size_t length = 0;
    ssize_t got = 0;
    while ((got = recv(kept, rest + length, sizeof rest - 1 - length, 0)) > 0) {
        length += (size_t)got;
    }
    (void)close(kept);
    assert_non_null(memmem(rest, length, "grpc-status:14", 14));
    answer whole = read_answer(reader);
    assert_ends_with_trailers(&whole, (size_t)100 * 50005, 0);
    answer_free(&whole);
}

static void the_end_of_the_grace_cancels_what_still_runs(void **state) {
    fixture *f = *state;
    f->grace_ms = 100;
    int hanging = open_call(f, "Hang", "x");
    int stalled = open_call(f, "Count", "1000 1000000");
    wait_until(&f->echo.started, 2);
    ask_to_stop(f);
    wait_until(&f->echo.cancelled, 2);
    answer got = read_answer(hanging);
    answer_free(&got);
    (void)close(stalled);
}

static void an_address_that_is_none_or_taken_is_refused(void **state) {
    fixture *f = *state;
    abl_loop *loop = NULL;
    assert_int_equal(abl_loop_create(&loop, NULL), ABL_CODE_OK);
    char taken[32];
    (void)snprintf(taken, sizeof taken, "127.0.0.1:%d", f->port);
    const struct {
        const char *listen;
        const char *reason;
    } cases[] = {{"", "LISTEN_INVALID"},
                 {"8080", "LISTEN_INVALID"},
                 {"example:80", "LISTEN_INVALID"},
                 {"127.0.0.1:", "LISTEN_INVALID"},
                 {"127.0.0.1:65536", "LISTEN_INVALID"},
                 {"[::1:80", "LISTEN_INVALID"},
                 {taken, "LISTEN_FAILED"}};
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        abl_web_options options = {.loop = loop, .listen = cases[i].listen};
        abl_web_server *server = NULL;
        abl_status status = {0};
        assert_int_not_equal(abl_web_server_create(&options, &server, &status), ABL_CODE_OK);
        assert_string_equal(status.reason, cases[i].reason);
    }
    abl_loop_destroy(loop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_unary_call_is_answered_with_a_message_and_trailers),
        TEST(text_mode_is_the_same_in_base64),
        TEST(a_stream_arrives_whole_and_in_order),
        TEST(failures_travel_in_the_trailers),
        TEST(what_is_no_call_is_an_http_status),
        TEST(a_file_goes_compressed_to_those_who_take_it),
        TEST(a_file_that_the_client_has_is_not_sent_again),
        TEST(a_foreign_host_is_refused_on_loopback),
        TEST(pages_of_this_machine_get_cors_headers),
        TEST(a_body_over_the_limit_is_413_whatever_it_says_of_itself),
        TEST(a_client_that_hangs_up_cancels_its_call),
        TEST(a_stalled_reader_stalls_the_service_and_leaving_frees_it),
        TEST(half_a_request_and_noise_leave_the_server_alive),
        TEST(draining_lets_calls_end_and_refuses_new_ones),
        TEST(the_end_of_the_grace_cancels_what_still_runs),
        TEST(an_address_that_is_none_or_taken_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
