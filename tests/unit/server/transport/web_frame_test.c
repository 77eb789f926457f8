/* SPDX-License-Identifier: Apache-2.0 */
#include "server/transport/web_frame.h"

#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <stdio.h>
#include <string.h>

static void a_body_of_one_frame_is_its_message(void **state) {
    (void)state;
    const uint8_t body[] = {0, 0, 0, 0, 3, 'a', 'b', 'c'};
    const uint8_t *message = NULL;
    size_t bytes = 0;
    assert_int_equal(abl_web_frame_parse(body, sizeof body, &message, &bytes, NULL), ABL_CODE_OK);
    assert_int_equal(bytes, 3);
    assert_memory_equal(message, "abc", 3);
    const uint8_t empty[] = {0, 0, 0, 0, 0};
    assert_int_equal(abl_web_frame_parse(empty, sizeof empty, &message, &bytes, NULL), ABL_CODE_OK);
    assert_int_equal(bytes, 0);
}

static void every_other_body_is_refused(void **state) {
    (void)state;
    const struct {
        uint8_t body[8];
        size_t bytes;
        abl_code code;
    } cases[] = {
        {{0}, 0, ABL_CODE_INVALID_ARGUMENT},
        {{0, 0, 0, 0}, 4, ABL_CODE_INVALID_ARGUMENT},
        {{0, 0, 0, 0, 2, 'a'}, 6, ABL_CODE_INVALID_ARGUMENT},      /* short */
        {{0, 0, 0, 0, 1, 'a', 'b'}, 7, ABL_CODE_INVALID_ARGUMENT}, /* long */
        {{0, 0xff, 0xff, 0xff, 0xff, 'a'}, 6, ABL_CODE_INVALID_ARGUMENT},
        {{1, 0, 0, 0, 1, 'a'}, 6, ABL_CODE_UNIMPLEMENTED},       /* compressed */
        {{0x80, 0, 0, 0, 1, 'a'}, 6, ABL_CODE_INVALID_ARGUMENT}, /* trailers */
    };
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        const uint8_t *message = NULL;
        size_t bytes = 0;
        abl_status status = {0};
        assert_int_equal(
            abl_web_frame_parse(cases[i].body, cases[i].bytes, &message, &bytes, &status),
            cases[i].code);
        assert_null(message);
        assert_int_not_equal(status.message[0], '\0');
    }
}

static void trailers_are_header_lines_in_a_frame(void **state) {
    (void)state;
    size_t bytes = 0;
    uint8_t *ok = abl_web_trailers(NULL, &bytes);
    assert_int_equal(bytes, 5 + 15);
    assert_memory_equal(ok, "\x80\x00\x00\x00\x0fgrpc-status:0\r\n", bytes);
    abl_free(ok);
    abl_status status = {.code = ABL_CODE_NOT_FOUND, .reason = "X"};
    (void)snprintf(status.message, sizeof status.message, "no 'caf\xc3\xa9'\r\n100%%");
    uint8_t *frame = abl_web_trailers(&status, &bytes);
    assert_int_equal(frame[0], 0x80);
    assert_int_equal(frame[3] << 8 | frame[4], bytes - 5);
    const char start[] = "grpc-status:5\r\ngrpc-message:no 'caf%C3%A9'%0D%0A100%25\r\n"
                         "grpc-status-details-bin:";
    assert_memory_equal(frame + 5, start, sizeof start - 1);
    assert_memory_equal(frame + bytes - 2, "\r\n", 2);
    abl_free(frame);
}

static void the_longest_message_fits_its_trailers(void **state) {
    (void)state;
    abl_status status = {.code = ABL_CODE_INTERNAL, .reason = "A_REASON"};
    memset(status.message, '\n', sizeof status.message - 1); /* three characters each */
    size_t bytes = 0;
    uint8_t *frame = abl_web_trailers(&status, &bytes);
    assert_non_null(frame);
    assert_memory_equal(frame + bytes - 2, "\r\n", 2);
    assert_true(bytes > 3 * (sizeof status.message - 1));
    abl_free(frame);
}

static void trailers_without_memory_are_null(void **state) {
    (void)state;
    abl_status status = {0};
    (void)abl_fail(&status, ABL_CODE_NOT_FOUND, "X", "words");
    size_t bytes = 0;
    abl_mem_fail_after(2); /* the first is the details, which may be left out */
    assert_null(abl_web_trailers(&status, &bytes));
    abl_mem_fail_after(1);
    uint8_t *frame = abl_web_trailers(&status, &bytes);
    abl_mem_fail_after(0);
    assert_non_null(frame);
    abl_free(frame);
}

static void base64_comes_back_at_every_length(void **state) {
    (void)state;
    uint8_t data[200];
    uint8_t text[ABL_BASE64_BYTES(sizeof data)];
    for (size_t bytes = 0; bytes < sizeof data; bytes++) {
        for (size_t i = 0; i < bytes; i++) {
            data[i] = (uint8_t)(i * 37 + bytes);
        }
        abl_base64_encode(data, bytes, (char *)text);
        size_t decoded = 999;
        assert_true(abl_base64_decode(text, ABL_BASE64_BYTES(bytes), &decoded));
        assert_int_equal(decoded, bytes);
        assert_memory_equal(text, data, bytes);
    }
}

static void base64_takes_padded_runs_one_after_another(void **state) {
    (void)state;
    uint8_t text[] = "YQ==YWI=YWJjZA"; /* "a" "ab" "abcd", the last without padding */
    size_t bytes = 0;
    assert_true(abl_base64_decode(text, sizeof text - 1, &bytes));
    assert_int_equal(bytes, 7);
    assert_memory_equal(text, "aababcd", 7);
}

static void what_is_not_base64_is_refused(void **state) {
    (void)state;
    const char *const cases[] = {"Y", "YQ=a", "====", "Y===", "YQ=*", "YWJj\n", "=", "Y Q="};
    for (size_t i = 0; i < ABL_COUNT_OF(cases); i++) {
        uint8_t text[8];
        memcpy(text, cases[i], strlen(cases[i]));
        size_t bytes = 0;
        assert_false(abl_base64_decode(text, strlen(cases[i]), &bytes));
    }
}

static void timeouts_are_digits_and_a_unit(void **state) {
    (void)state;
    const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"1H", 3600000}, {"2M", 120000}, {"3S", 3000}, {"250m", 250},
                {"1u", 1},       {"1001u", 2},   {"0S", 0},    {"99999999H", 359999996400000}};
    for (size_t i = 0; i < ABL_COUNT_OF(good); i++) {
        uint64_t ms = 7;
        assert_true(abl_web_timeout_parse(good[i].text, &ms));
        assert_int_equal(ms, good[i].ms);
    }
    const char *const bad[] = {"", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1SS", " 1S"};
    for (size_t i = 0; i < ABL_COUNT_OF(bad); i++) {
        uint64_t ms = 7;
        assert_false(abl_web_timeout_parse(bad[i], &ms));
    }
}

static void pages_of_this_machine_and_of_the_same_origin_may_call(void **state) {
    (void)state;
    const char *const listed[] = {"https://lab.example:8443"};
    assert_true(abl_web_origin_allowed("http://localhost:5173", "127.0.0.1:8080", NULL, 0));
    assert_true(abl_web_origin_allowed("http://[::1]:1", "gpu:8080", NULL, 0));
    assert_true(abl_web_origin_allowed("http://gpu:8080", "gpu:8080", NULL, 0));
    assert_true(abl_web_origin_allowed("https://lab.example:8443", "gpu:8080", listed, 1));
    assert_false(abl_web_origin_allowed("https://lab.example", "gpu:8080", listed, 1));
    assert_false(abl_web_origin_allowed("http://gpu:8081", "gpu:8080", NULL, 0));
    assert_false(abl_web_origin_allowed("http://evil.example", "gpu:8080", listed, 1));
    assert_false(abl_web_origin_allowed("null", "gpu:8080", listed, 1));
    assert_false(abl_web_origin_allowed("", "", NULL, 0));
    const char *const all[] = {"*"};
    assert_true(abl_web_origin_allowed("http://evil.example", "gpu:8080", all, 1));
}

static void only_names_of_this_machine_are_local(void **state) {
    (void)state;
    const char *const local[] = {"localhost",  "LocalHost:80", "127.0.0.1:8080",    "127.1.2.3",
                                 "[::1]:8080", "[::1]",        "app.localhost:3000"};
    for (size_t i = 0; i < ABL_COUNT_OF(local); i++) {
        assert_true(abl_web_host_is_local(local[i]));
    }
    const char *const other[] = {"",
                                 "127.0.0.1.evil.example",
                                 "127.evil.example",
                                 "127.0.0.evil",
                                 "localhost.evil.example",
                                 "evil-localhost",
                                 ".localhost",
                                 "10.0.0.1",
                                 "[::2]",
                                 "[::1",
                                 "evil:80:localhost"};
    for (size_t i = 0; i < ABL_COUNT_OF(other); i++) {
        if (abl_web_host_is_local(other[i])) {
            fail_msg("'%s' is not this machine", other[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_of_one_frame_is_its_message),
        cmocka_unit_test(every_other_body_is_refused),
        cmocka_unit_test(trailers_are_header_lines_in_a_frame),
        cmocka_unit_test(the_longest_message_fits_its_trailers),
        cmocka_unit_test(trailers_without_memory_are_null),
        cmocka_unit_test(base64_comes_back_at_every_length),
        cmocka_unit_test(base64_takes_padded_runs_one_after_another),
        cmocka_unit_test(what_is_not_base64_is_refused),
        cmocka_unit_test(timeouts_are_digits_and_a_unit),
        cmocka_unit_test(pages_of_this_machine_and_of_the_same_origin_may_call),
        cmocka_unit_test(only_names_of_this_machine_are_local),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
