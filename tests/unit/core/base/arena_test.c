/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/arena.h"
#include "core/base/mem.h"
#include "tests/unit/unit.h"

static void memory_is_zeroed_and_aligned(void **state) {
    (void)state;
    abl_arena *arena = abl_arena_create(1 << 20);
    for (size_t bytes = 1; bytes < 300; bytes++) {
        unsigned char *memory = abl_arena_alloc(arena, bytes);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % _Alignof(max_align_t), 0);
        for (size_t i = 0; i < bytes; i++) {
            assert_int_equal(memory[i], 0);
            memory[i] = 0xff;
        }
    }
    abl_arena_destroy(arena);
}

static void the_ceiling_holds_and_the_arena_stays_usable(void **state) {
    (void)state;
    abl_arena *arena = abl_arena_create(1000);
    assert_null(abl_arena_alloc(arena, 2000));
    assert_null(abl_arena_alloc(arena, SIZE_MAX));
    assert_non_null(abl_arena_alloc(arena, 500));
    assert_true(abl_arena_bytes(arena) <= 1000);
    assert_null(abl_arena_alloc(arena, 600));
    abl_arena_reset(arena);
    assert_non_null(abl_arena_alloc(arena, 600));
    abl_arena_destroy(arena);
}

static void every_failed_allocation_is_a_null(void **state) {
    (void)state;
    abl_arena *arena = abl_arena_create(1 << 20);
    abl_mem_fail_after(1);
    assert_null(abl_arena_printf(arena, "%s", "text"));
    abl_mem_fail_after(0);
    assert_string_equal(abl_arena_printf(arena, "%d-%s", 7, "text"), "7-text");
    abl_arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_and_aligned),
        cmocka_unit_test(the_ceiling_holds_and_the_arena_stays_usable),
        cmocka_unit_test(every_failed_allocation_is_a_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
