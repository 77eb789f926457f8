/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests are written byte by byte where they must be wrong, and packed from structs where they
 * must be right. Every refusal is read for its code, its reason and the field that it names. */
#include "server/convert/wire.h"

#include "ablate/v1/mask.pb-c.h"
#include "ablate/v1/prune.pb-c.h"
#include "ablate/v1/run.pb-c.h"
#include "core/base/limits.h"
#include "core/base/mem.h"
#include "tests/unit/files.h"

#include <stdlib.h>

typedef struct bytes {
    uint8_t data[512];
    size_t count;
} bytes;

static void put(bytes *out, const void *data, size_t count) {
    assert_true(out->count + count <= sizeof out->data);
    memcpy(out->data + out->count, data, count);
    out->count += count;
}

static void put_byte(bytes *out, unsigned byte) {
    uint8_t one = (uint8_t)byte;
    put(out, &one, 1);
}

/* A length-delimited field of fewer than 16 and 128. */
static void put_field(bytes *out, unsigned number, const void *data, size_t count) {
    put_byte(out, number << 3 | 2);
    put_byte(out, (unsigned)count);
    put(out, data, count);
}

static const ProtobufCMessageDescriptor *const FORWARD = &ablate__v1__forward_request__descriptor;

/* ForwardRequest.prompts.text.prompts[0] = text */
static bytes prompt_of(const void *text, size_t count) {
    bytes inner = {.count = 0};
    bytes middle = {.count = 0};
    bytes outer = {.count = 0};
    put_field(&inner, 1, text, count);
    put_field(&middle, 2, inner.data, inner.count);
    put_field(&outer, 3, middle.data, middle.count);
    return outer;
}

static abl_code unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                       size_t count, abl_arena *arena, ProtobufCMessage **ret_message,
                       abl_status *ret_status) {
    uint8_t *exact = malloc(count == 0 ? 1 : count); /* so that a read past the end is found */
    assert_non_null(exact);
    memcpy(exact, data, count);
    abl_code code = abl_wire_unpack(descriptor, exact, count, arena, ret_message, ret_status);
    free(exact);
    return code;
}

/* Fails unless the bytes are refused so. */
static void assert_refused(const ProtobufCMessageDescriptor *descriptor, const bytes *request,
                           abl_code code, const char *reason, const char *mentioned) {
    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(request->count));
    ProtobufCMessage *message = NULL;
    abl_status status = {.reason = ""};
    assert_int_equal(unpack(descriptor, request->data, request->count, arena, &message, &status),
                     code);
    assert_string_equal(status.reason, reason);
    assert_mentions(status.message, mentioned);
    assert_null(message);
    abl_arena_destroy(arena);
}

static void assert_taken(const ProtobufCMessageDescriptor *descriptor, const bytes *request) {
    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(request->count));
    ProtobufCMessage *message = NULL;
    abl_status status = {.message = ""};
    if (unpack(descriptor, request->data, request->count, arena, &message, &status) !=
        ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
    assert_true(protobuf_c_message_check(message));
    abl_arena_destroy(arena);
}

static void no_bytes_are_a_message_of_defaults(void **state) {
    (void)state;
    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(0));
    ProtobufCMessage *message = NULL;
    assert_int_equal(abl_wire_unpack(FORWARD, NULL, 0, arena, &message, NULL), ABL_CODE_OK);
    const Ablate__V1__ForwardRequest *request = (const Ablate__V1__ForwardRequest *)message;
    assert_int_equal(request->target_case, ABLATE__V1__FORWARD_REQUEST__TARGET__NOT_SET);
    assert_null(request->prompts);
    assert_int_equal(request->top_k, 0);
    abl_arena_destroy(arena);
}

static void a_packed_request_comes_back_as_it_was(void **state) {
    (void)state;
    char text[] = "na\xc3\xafve \xe2\x82\xac \xf0\x9f\x98\x80";
    char *prompts[] = {text, text};
    char graph_id[] = "graph-00112233";
    Ablate__V1__TextPrompts texts = ABLATE__V1__TEXT_PROMPTS__INIT;
    texts.prompts = prompts;
    texts.n_prompts = 2;
    Ablate__V1__Prompts source = ABLATE__V1__PROMPTS__INIT;
    source.input_case = ABLATE__V1__PROMPTS__INPUT_TEXT;
    source.text = &texts;
    Ablate__V1__ForwardRequest request = ABLATE__V1__FORWARD_REQUEST__INIT;
    request.target_case = ABLATE__V1__FORWARD_REQUEST__TARGET_GRAPH_ID;
    request.graph_id = graph_id;
    request.prompts = &source;
    request.top_k = 7;
    bytes packed = {.count = protobuf_c_message_get_packed_size(&request.base)};
    (void)protobuf_c_message_pack(&request.base, packed.data);

    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(packed.count));
    ProtobufCMessage *message = NULL;
    assert_int_equal(unpack(FORWARD, packed.data, packed.count, arena, &message, NULL),
                     ABL_CODE_OK);
    const Ablate__V1__ForwardRequest *back = (const Ablate__V1__ForwardRequest *)message;
    assert_string_equal(back->graph_id, graph_id);
    assert_int_equal(back->prompts->text->n_prompts, 2);
    assert_string_equal(back->prompts->text->prompts[1], text);
    assert_int_equal(back->top_k, 7);
    abl_arena_destroy(arena);
}

static void the_prefix_that_is_utf8_ends_where_it_breaks(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t prefix;
    } cases[] = {
        {"", 0},
        {"plain", 5},
        {"\xc2\x80", 2},                 /* the smallest of two bytes */
        {"\xdf\xbf\xe0\xa0\x80", 5},     /* the largest, and the smallest of three */
        {"\xed\x9f\xbf\xee\x80\x80", 6}, /* around the surrogates */
        {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 8},
        {"a\x80", 1},             /* a continuation alone */
        {"a\xc0\xaf", 1},         /* overlong */
        {"a\xc1\xbf", 1},         /* overlong */
        {"a\xe0\x9f\xbf", 1},     /* overlong */
        {"a\xf0\x8f\xbf\xbf", 1}, /* overlong */
        {"a\xed\xa0\x80", 1},     /* a surrogate */
        {"a\xf4\x90\x80\x80", 1}, /* above U+10FFFF */
        {"a\xf5\x80\x80\x80", 1},
        {"a\xff", 1},
        {"a\xc3", 1},         /* cut short */
        {"a\xe2\x82", 1},     /* cut short */
        {"a\xf0\x9f\x98", 1}, /* cut short */
        {"a\xe2\x28\xa1", 1}, /* a continuation that is none */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t length = strlen(cases[i].text);
        assert_int_equal(abl_wire_utf8_prefix((const uint8_t *)cases[i].text, length),
                         cases[i].prefix);
    }
}

static void text_that_is_not_utf8_is_refused_by_field_and_byte(void **state) {
    (void)state;
    bytes request = prompt_of("ab\xffz", 4);
    assert_refused(FORWARD, &request, ABL_CODE_INVALID_ARGUMENT, "TEXT_NOT_UTF8",
                   "prompts.text.prompts is not UTF-8 from byte 2");
    bytes id = {.count = 0};
    put_field(&id, 1, "\xc3", 1);
    assert_refused(FORWARD, &id, ABL_CODE_INVALID_ARGUMENT, "TEXT_NOT_UTF8", "model_id");
}

static void text_with_a_nul_is_refused_wherever_it_is(void **state) {
    (void)state;
    static const char *const texts[] = {"\0abc", "ab\0c", "abc\0"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        bytes request = prompt_of(texts[i], 4);
        assert_refused(FORWARD, &request, ABL_CODE_INVALID_ARGUMENT, "TEXT_HAS_NUL",
                       "prompts.text.prompts");
    }
}

static void text_longer_than_the_limit_is_refused_and_of_the_limit_taken(void **state) {
    (void)state;
    for (size_t over = 0; over < 2; over++) {
        size_t length = (size_t)ABL_TEXT_BYTES_MAX + over;
        uint8_t *request = malloc(length + 4);
        assert_non_null(request);
        const uint8_t head[] = {0x0a, (uint8_t)(0x80 | (length & 0x7f)),
                                (uint8_t)(0x80 | (length >> 7 & 0x7f)), (uint8_t)(length >> 14)};
        memcpy(request, head, sizeof head);
        memset(request + sizeof head, 'a', length);
        abl_status status = {.reason = ""};
        abl_code code = abl_wire_check(FORWARD, request, length + sizeof head, &status);
        free(request);
        assert_int_equal(code, over == 0 ? ABL_CODE_OK : ABL_CODE_RESOURCE_EXHAUSTED);
        if (over > 0) {
            assert_string_equal(status.reason, "TEXT_TOO_LONG");
            assert_mentions(status.message, "1048576");
        }
    }
}

static void a_number_that_an_enumeration_lacks_is_refused(void **state) {
    (void)state;
    bytes slice = {.data = {0x28, 4}, .count = 2}; /* out_slice = 4 */
    assert_refused(FORWARD, &slice, ABL_CODE_INVALID_ARGUMENT, "ENUM_UNKNOWN", "out_slice is 4");
    bytes negative = {.data = {0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
                      .count = 11};
    assert_refused(FORWARD, &negative, ABL_CODE_INVALID_ARGUMENT, "ENUM_UNKNOWN", "out_slice");
    /* 2^32 + 1, whose lower half is a number that it has */
    bytes wrapped = {.data = {0x28, 0x81, 0x80, 0x80, 0x80, 0x10}, .count = 6};
    assert_refused(FORWARD, &wrapped, ABL_CODE_INVALID_ARGUMENT, "ENUM_UNKNOWN", "out_slice");
    bytes known = {.data = {0x28, 3}, .count = 2};
    assert_taken(FORWARD, &known);
    /* inside: prompts.tokens.dtype = 9 */
    bytes inner = {.data = {0x1a, 4, 0x0a, 2, 0x08, 9}, .count = 6};
    assert_refused(FORWARD, &inner, ABL_CODE_INVALID_ARGUMENT, "ENUM_UNKNOWN",
                   "prompts.tokens.dtype is 9");
}

static void an_unknown_field_is_skipped(void **state) {
    (void)state;
    bytes request = {.data = {0x30, 5}, .count = 2}; /* top_k = 5, then field 15 in four forms */
    const uint8_t unknown[] = {0x78, 0x80, 0x01, 0x7a, 2, 0xff, 0x00, 0x7d, 1, 2, 3,
                               4,    0x79, 1,    2,    3, 4,    5,    6,    7, 8};
    put(&request, unknown, sizeof unknown);
    assert_taken(FORWARD, &request);
}

static void bytes_that_end_too_early_are_refused_wherever_they_are_cut(void **state) {
    (void)state;
    bytes request = prompt_of("a few words", 11);
    for (size_t count = 1; count < request.count; count++) {
        bytes cut = request;
        cut.count = count;
        assert_refused(FORWARD, &cut, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED",
                       "a length goes past the end at 'prompts'");
    }
    assert_taken(FORWARD, &request);
    bytes number = {.data = {0x30, 0x80}, .count = 2};
    assert_refused(FORWARD, &number, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED", "top_k");
    bytes fixed = {.data = {0x7d, 1, 2, 3}, .count = 4};
    assert_refused(FORWARD, &fixed, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED", "cut short");
}

static void what_is_no_message_at_all_is_malformed(void **state) {
    (void)state;
    bytes zero = {.data = {0x00, 0x00}, .count = 2}; /* field 0 */
    assert_refused(FORWARD, &zero, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED", "no field tag");
    bytes group = {.data = {0x0b, 0x0c}, .count = 2}; /* the old groups */
    assert_refused(FORWARD, &group, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED", "wire type");
    bytes endless = {.count = 12};
    memset(endless.data, 0xff, endless.count);
    assert_refused(FORWARD, &endless, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED", "tag");
}

/* protobuf-c finds this one, with little of the arena used: it must not say "too big". */
static void a_field_of_another_wire_type_is_malformed_and_not_too_big(void **state) {
    (void)state;
    bytes number = {.data = {0x18, 1}, .count = 2}; /* prompts as a number */
    assert_refused(FORWARD, &number, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED",
                   "ForwardRequest");
    bytes text = {.data = {0x08, 1}, .count = 2}; /* model_id as a number */
    assert_refused(FORWARD, &text, ABL_CODE_INVALID_ARGUMENT, "MESSAGE_MALFORMED",
                   "ForwardRequest");
}

/* Two bytes an entry, each of which unpacks to a struct of dozens: the worst that there is. */
static void a_small_message_that_unpacks_to_a_huge_one_is_refused(void **state) {
    (void)state;
    enum { ENTRIES = 1 << 18 };
    size_t inner = (size_t)ENTRIES * 2; /* edges.edges[i] = {} */
    size_t count = inner + 4;
    uint8_t *request = malloc(count);
    assert_non_null(request);
    const uint8_t head[] = {0x12, (uint8_t)(0x80 | (inner & 0x7f)),
                            (uint8_t)(0x80 | (inner >> 7 & 0x7f)), (uint8_t)(inner >> 14)};
    memcpy(request, head, sizeof head);
    for (size_t i = 0; i < ENTRIES; i++) {
        request[sizeof head + 2 * i] = 0x0a;
        request[sizeof head + 2 * i + 1] = 0;
    }
    size_t limit = abl_wire_arena_bytes(count);
    abl_arena *arena = abl_arena_create(limit);
    ProtobufCMessage *message = NULL;
    abl_status status = {.reason = ""};
    assert_int_equal(unpack(&ablate__v1__set_patch_mask_request__descriptor, request, count, arena,
                            &message, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "MESSAGE_TOO_BIG");
    assert_mentions(status.message, "send fewer or larger parts");
    assert_true(abl_arena_bytes(arena) <= limit);
    assert_null(message);
    abl_arena_destroy(arena);
    free(request);
}

/* A submessage given again and again is merged, field by field, and costs each time. */
static void a_field_given_many_times_stays_inside_the_arena(void **state) {
    (void)state;
    enum { TIMES = 4096 };
    static uint8_t request[TIMES * 6];
    for (size_t i = 0; i < TIMES; i++) { /* prompts.text.prompts[] = "" */
        const uint8_t one[] = {0x1a, 4, 0x12, 2, 0x0a, 0};
        memcpy(request + i * sizeof one, one, sizeof one);
    }
    abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(sizeof request));
    ProtobufCMessage *message = NULL;
    abl_code code = unpack(FORWARD, request, sizeof request, arena, &message, NULL);
    assert_true(code == ABL_CODE_OK || code == ABL_CODE_RESOURCE_EXHAUSTED);
    assert_true(abl_arena_bytes(arena) <= abl_wire_arena_bytes(sizeof request));
    abl_arena_destroy(arena);
}

static void every_failing_allocation_is_reported(void **state) {
    (void)state;
    bytes request = prompt_of("a few words", 11);
    for (uint64_t n = 1;; n++) {
        abl_arena *arena = abl_arena_create(abl_wire_arena_bytes(request.count));
        ProtobufCMessage *message = NULL;
        abl_status status = {.reason = ""};
        abl_mem_fail_after(n);
        abl_code code = unpack(FORWARD, request.data, request.count, arena, &message, &status);
        abl_mem_fail_after(0);
        abl_arena_destroy(arena);
        if (code == ABL_CODE_OK) {
            assert_true(n > 1);
            break;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
        assert_null(message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bytes_are_a_message_of_defaults),
        cmocka_unit_test(a_packed_request_comes_back_as_it_was),
        cmocka_unit_test(the_prefix_that_is_utf8_ends_where_it_breaks),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_by_field_and_byte),
        cmocka_unit_test(text_with_a_nul_is_refused_wherever_it_is),
        cmocka_unit_test(text_longer_than_the_limit_is_refused_and_of_the_limit_taken),
        cmocka_unit_test(a_number_that_an_enumeration_lacks_is_refused),
        cmocka_unit_test(an_unknown_field_is_skipped),
        cmocka_unit_test(bytes_that_end_too_early_are_refused_wherever_they_are_cut),
        cmocka_unit_test(what_is_no_message_at_all_is_malformed),
        cmocka_unit_test(a_field_of_another_wire_type_is_malformed_and_not_too_big),
        cmocka_unit_test(a_small_message_that_unpacks_to_a_huge_one_is_refused),
        cmocka_unit_test(a_field_given_many_times_stays_inside_the_arena),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
