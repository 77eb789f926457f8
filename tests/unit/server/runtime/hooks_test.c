/* SPDX-License-Identifier: Apache-2.0 */
#include "server/runtime/hooks.h"

#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <string.h>

static const int32_t heads[] = {1, 3};
static const float values[] = {1, 2, 3, 4, 5, 6};
static const int64_t shape[] = {2, 3};

static const abl_intervention set_two = {.hook = {.point = ABL_HOOK_Z, .layer = 2},
                                         .op = ABL_OP_SET,
                                         .heads = {.indices = heads, .count = 2},
                                         .values = values,
                                         .value_shape = shape,
                                         .value_rank = 2};

static abl_resident_hook *hook_of(const abl_intervention *item, uint32_t number) {
    abl_resident_hook *hook = abl_resident_hook_create(item, NULL, NULL, number);
    assert_non_null(hook);
    return hook;
}

static abl_graph_hooks *list_of(size_t count) {
    abl_graph_hooks *list = NULL;
    for (size_t i = 0; i < count; i++) {
        abl_graph_hooks *more = abl_graph_hooks_with(list, hook_of(&set_two, (uint32_t)i));
        abl_graph_hooks_unref(list);
        list = more;
    }
    return list;
}

static void a_hook_has_copies_of_all_it_was_made_of(void **state) {
    (void)state;
    float changing[6];
    memcpy(changing, values, sizeof changing);
    abl_intervention item = set_two;
    item.values = changing;
    abl_resident_hook *hook = hook_of(&item, 7);
    memset(changing, 0, sizeof changing);
    assert_memory_equal(hook->item.values, values, sizeof values);
    assert_memory_equal(hook->item.value_shape, shape, sizeof shape);
    assert_memory_equal(hook->item.heads.indices, heads, sizeof heads);
    assert_ptr_not_equal(hook->item.heads.indices, heads);
    assert_true(hook->bytes > (int64_t)sizeof values);
    abl_resident_hook_unref(hook);
}

static void lists_share_hooks_and_are_never_written(void **state) {
    (void)state;
    abl_graph_hooks *three = list_of(3);
    abl_graph_hooks *held = abl_graph_hooks_ref(three);
    abl_graph_hooks *two = abl_graph_hooks_without(three, 1);
    assert_int_equal(abl_graph_hooks_count(three), 3);
    assert_int_equal(abl_graph_hooks_count(two), 2);
    assert_ptr_equal(two->hooks[1], three->hooks[2]);
    int64_t bytes = abl_graph_hooks_bytes(three);
    assert_int_equal(abl_graph_hooks_bytes(two) * 3, bytes * 2);
    abl_graph_hooks_unref(three);
    assert_int_equal(held->hooks[2]->number, 2);
    abl_graph_hooks_unref(held);
    assert_int_equal(two->hooks[1]->refs, 1);
    abl_graph_hooks_unref(two);
    assert_int_equal(abl_graph_hooks_count(NULL), 0);
    abl_graph_hooks_unref(NULL);
}

static void a_hook_holds_on_to_what_it_patches_from(void **state) {
    (void)state;
    abl_cache_entry *entries = abl_calloc(1, sizeof *entries);
    abl_scope *scope = abl_scope_create((abl_device){.type = ABL_DEVICE_CPU});
    entries[0] = (abl_cache_entry){.name = "blocks.2.attn.hook_z"};
    entries[0].tensor = abl_tensor_keep(abl_tensor_zeros(scope, ABL_DTYPE_F32, 2, shape));
    abl_scope_destroy(scope);
    abl_resident_activations *kept = abl_resident_activations_create(entries, 1);
    assert_int_equal(kept->object.bytes, 24);
    assert_non_null(abl_resident_activations_find(kept, "blocks.2.attn.hook_z"));
    assert_null(abl_resident_activations_find(kept, "blocks.1.attn.hook_z"));
    const abl_intervention patch = {
        .hook = set_two.hook, .op = ABL_OP_PATCH, .cached = entries[0].tensor};
    abl_resident_hook *hook =
        abl_resident_hook_create(&patch, &kept->object, "blocks.2.attn.hook_z", 1);
    abl_graph_hooks *list = abl_graph_hooks_with(NULL, hook);
    abl_object_unref(&kept->object);
    assert_true(abl_graph_hooks_uses(list, &kept->object));
    assert_int_equal(abl_tensor_count(list->hooks[0]->item.cached), 6);
    abl_graph_hooks_unref(list); /* and with it the activations: a sanitizer would say */
}

static void every_failing_allocation_of_a_hook_leaves_nothing(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        abl_mem_fail_after(n);
        abl_resident_hook *hook = abl_resident_hook_create(&set_two, NULL, "name", 1);
        abl_mem_fail_after(0);
        if (hook != NULL) {
            assert_true(n > 5);
            abl_resident_hook_unref(hook);
            break;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hook_has_copies_of_all_it_was_made_of),
        cmocka_unit_test(lists_share_hooks_and_are_never_written),
        cmocka_unit_test(a_hook_holds_on_to_what_it_patches_from),
        cmocka_unit_test(every_failing_allocation_of_a_hook_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
