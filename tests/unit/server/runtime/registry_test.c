/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects here are nothing but the registry's own part of one, and count how many of them ended. */
#include "server/runtime/registry.h"

#include "tests/unit/files.h"

#include <ctype.h>

enum { OBJECTS = 16 };

typedef struct fixture {
    abl_registry *registry;
    abl_object objects[OBJECTS];
    size_t made;
} fixture;

static int ended;

static void note_end(abl_object *object) {
    (void)object;
    ended++;
}

static int set_up(void **state) {
    static fixture f;
    f = (fixture){.registry = abl_registry_create()};
    ended = 0;
    *state = &f;
    return f.registry == NULL ? -1 : 0;
}

/* Whatever the test left listed ends with the registry. */
static int tear_down(void **state) {
    fixture *f = *state;
    abl_registry_destroy(f->registry);
    assert_int_equal(ended, f->made);
    return 0;
}

static abl_object *make(fixture *f, abl_object_kind kind, int64_t bytes) {
    assert_true(f->made < OBJECTS);
    abl_object *object = &f->objects[f->made++];
    abl_object_init(object, kind, "test", note_end);
    object->bytes = bytes;
    return object;
}

static abl_object *add(fixture *f, abl_object_kind kind, abl_object *needed) {
    abl_object *object = make(f, kind, 100);
    abl_status status = {.message = ""};
    if (abl_registry_add(f->registry, object, &needed, needed == NULL ? 0 : 1, &status) !=
        ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    return object;
}

static void remove_ok(fixture *f, abl_object *object) {
    abl_status status = {.message = ""};
    if (abl_registry_remove(f->registry, object, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
}

static abl_status remove_refused(fixture *f, abl_object *object, const char *reason) {
    abl_status status = {.reason = ""};
    assert_int_equal(abl_registry_remove(f->registry, object, &status),
                     ABL_CODE_FAILED_PRECONDITION);
    assert_string_equal(status.reason, reason);
    assert_true(object->listed);
    return status;
}

static void ids_are_the_kind_and_eight_hexadecimal_digits(void **state) {
    fixture *f = *state;
    static const char *const prefixes[ABL_OBJECT_KIND_COUNT] = {[ABL_OBJECT_MODEL] = "model-",
                                                                [ABL_OBJECT_GRAPH] = "graph-",
                                                                [ABL_OBJECT_DATASET] = "dataset-",
                                                                [ABL_OBJECT_KV_CACHE] = "kv_cache-",
                                                                [ABL_OBJECT_ABLATION] = "ablation-",
                                                                [ABL_OBJECT_ACTIVATIONS] =
                                                                    "activations-",
                                                                [ABL_OBJECT_JOB] = "job-"};
    for (int kind = 0; kind < ABL_OBJECT_KIND_COUNT; kind++) {
        const abl_object *object = add(f, (abl_object_kind)kind, NULL);
        size_t length = strlen(prefixes[kind]);
        assert_memory_equal(object->id, prefixes[kind], length);
        assert_int_equal(strlen(object->id), length + 8);
        for (size_t i = length; i < length + 8; i++) {
            assert_true(isxdigit((unsigned char)object->id[i]));
        }
        abl_object *found = NULL;
        assert_int_equal(
            abl_registry_find(f->registry, (abl_object_kind)kind, object->id, &found, NULL),
            ABL_CODE_OK);
        assert_ptr_equal(found, object);
    }
}

static void an_object_is_found_only_among_its_kind_and_only_until_it_is_removed(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    abl_object *found = NULL;
    abl_status status = {.reason = ""};
    assert_int_equal(abl_registry_find(f->registry, ABL_OBJECT_GRAPH, model->id, &found, &status),
                     ABL_CODE_NOT_FOUND);
    assert_string_equal(status.reason, "GRAPH_UNKNOWN");
    assert_mentions(status.message, model->id);
    assert_mentions(status.message, "ListGraphs");
    char id[ABL_ID_BYTES];
    (void)snprintf(id, sizeof id, "%s", model->id);
    remove_ok(f, model);
    assert_int_equal(abl_registry_find(f->registry, ABL_OBJECT_MODEL, id, &found, &status),
                     ABL_CODE_NOT_FOUND);
    assert_string_equal(status.reason, "MODEL_UNKNOWN");
    assert_int_equal(abl_registry_find(f->registry, ABL_OBJECT_JOB, "", &found, &status),
                     ABL_CODE_INVALID_ARGUMENT);
    assert_string_equal(status.reason, "ID_MISSING");
    assert_mentions(status.message, "job_id");
    assert_null(found);
}

static void a_long_id_that_is_unknown_is_cut_in_the_message(void **state) {
    fixture *f = *state;
    char id[2000];
    memset(id, 'x', sizeof id - 1);
    id[sizeof id - 1] = '\0';
    abl_object *found = NULL;
    abl_status status = {.reason = ""};
    assert_int_equal(abl_registry_find(f->registry, ABL_OBJECT_MODEL, id, &found, &status),
                     ABL_CODE_NOT_FOUND);
    assert_mentions(status.message, "ListModels");
}

static void what_others_need_is_kept_and_the_refusal_names_them(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    abl_object *first = add(f, ABL_OBJECT_GRAPH, model);
    abl_object *second = add(f, ABL_OBJECT_GRAPH, model);
    abl_object *job = add(f, ABL_OBJECT_JOB, first);
    assert_int_equal(abl_registry_user_count(f->registry, model), 2);
    abl_status status = remove_refused(f, model, "MODEL_IN_USE");
    assert_mentions(status.message, model->id);
    assert_mentions(status.message, first->id);
    assert_mentions(status.message, second->id);
    status = remove_refused(f, first, "GRAPH_IN_USE");
    assert_mentions(status.message, job->id);
    remove_ok(f, job);
    remove_ok(f, second);
    remove_ok(f, first);
    assert_int_equal(abl_registry_user_count(f->registry, model), 0);
    remove_ok(f, model);
    assert_int_equal(ended, 4);
}

static void of_many_users_eight_are_named_and_the_others_counted(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    for (int i = 0; i < 11; i++) {
        (void)add(f, ABL_OBJECT_GRAPH, model);
    }
    abl_status status = remove_refused(f, model, "MODEL_IN_USE");
    assert_mentions(status.message, "and 3 more");
    assert_mentions(status.message, "delete or cancel those first");
}

static void a_running_call_is_a_user_until_it_leaves(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    abl_hold first;
    abl_hold second;
    abl_hold_init(&first, model);
    assert_mentions(remove_refused(f, model, "MODEL_IN_USE").message, "1 running call;");
    abl_hold_init(&second, model);
    assert_mentions(remove_refused(f, model, "MODEL_IN_USE").message, "2 running calls");
    abl_hold_finish(&first);
    abl_hold_finish(&second);
    remove_ok(f, model);
    assert_int_equal(ended, 1);
}

/* What a call that nobody waits for runs on is unlisted under it, and so is what that needs; both
 * live until the call can stop. */
static void a_call_that_is_ending_stands_in_nobodys_way_and_loses_nothing(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    abl_object *graph = add(f, ABL_OBJECT_GRAPH, model);
    abl_hold left;
    abl_hold stays;
    abl_hold_init(&left, graph);
    abl_hold_init(&stays, graph);
    abl_hold_cancel(&left);
    abl_hold_cancel(&left); /* twice is once */
    assert_mentions(remove_refused(f, graph, "GRAPH_IN_USE").message, "1 running call;");
    abl_hold_finish(&stays);
    remove_ok(f, graph);
    remove_ok(f, model);
    assert_false(graph->listed || model->listed);
    assert_true(abl_object_needs(graph, model));
    assert_int_equal(ended, 0);
    abl_hold_finish(&left);
    assert_int_equal(ended, 2);
}

static void a_job_that_is_ending_stands_in_nobodys_way_and_loses_nothing(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    abl_object *graph = add(f, ABL_OBJECT_GRAPH, model);
    abl_object *job = add(f, ABL_OBJECT_JOB, graph);
    (void)abl_object_ref(graph); /* for its names */
    abl_object_end(job);
    assert_int_equal(abl_registry_user_count(f->registry, graph), 0);
    assert_false(abl_registry_in_use(f->registry, graph));
    remove_ok(f, graph);
    remove_ok(f, model);
    assert_true(abl_object_needs(job, graph) && abl_object_needs(graph, model));
    assert_int_equal(ended, 0);
    abl_object_release_needs(job); /* it has stopped: a reference for names keeps no model */
    assert_int_equal(ended, 1);
    assert_null(graph->needs[0]);
    abl_object_unref(graph);
    assert_int_equal(ended, 2);
}

static void an_object_that_released_its_needs_uses_nothing_and_stays_listed(void **state) {
    fixture *f = *state;
    abl_object *dataset = add(f, ABL_OBJECT_DATASET, NULL);
    abl_object *job = add(f, ABL_OBJECT_JOB, dataset);
    (void)remove_refused(f, dataset, "DATASET_IN_USE");
    abl_object_release_needs(job);
    abl_object_release_needs(job); /* twice is once */
    remove_ok(f, dataset);
    assert_int_equal(ended, 1);
    abl_object *found = NULL;
    assert_int_equal(abl_registry_find(f->registry, ABL_OBJECT_JOB, job->id, &found, NULL),
                     ABL_CODE_OK);
}

static void a_removed_object_lives_until_the_last_reference_ends(void **state) {
    fixture *f = *state;
    abl_object *graph = add(f, ABL_OBJECT_GRAPH, NULL);
    (void)abl_object_ref(graph);
    remove_ok(f, graph);
    assert_false(graph->listed);
    assert_int_equal(ended, 0);
    abl_object_unref(graph);
    assert_int_equal(ended, 1);
    abl_object_unref(NULL);
}

static void bytes_are_summed_by_kind_and_follow_changes(void **state) {
    fixture *f = *state;
    abl_object *first = make(f, ABL_OBJECT_JOB, 10);
    abl_object_set_bytes(first, 70); /* before it is listed */
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_JOB), 0);
    assert_int_equal(abl_registry_add(f->registry, first, NULL, 0, NULL), ABL_CODE_OK);
    abl_object *second = add(f, ABL_OBJECT_JOB, NULL);
    (void)add(f, ABL_OBJECT_MODEL, NULL);
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_JOB), 170);
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_MODEL), 100);
    abl_object_set_bytes(second, 5);
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_JOB), 75);
    remove_ok(f, first);
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_JOB), 5);
    assert_int_equal(abl_registry_count(f->registry, ABL_OBJECT_JOB), 1);
    remove_ok(f, second);
    assert_int_equal(abl_registry_bytes(f->registry, ABL_OBJECT_JOB), 0);
}

static void objects_are_listed_in_order_of_adding_whichever_are_removed(void **state) {
    fixture *f = *state;
    abl_object *objects[5];
    for (int i = 0; i < 4; i++) {
        objects[i] = add(f, ABL_OBJECT_DATASET, NULL);
    }
    remove_ok(f, objects[1]);
    remove_ok(f, objects[3]); /* the last */
    objects[4] = add(f, ABL_OBJECT_DATASET, NULL);
    remove_ok(f, objects[0]); /* the first */
    const abl_object *at = abl_registry_first(f->registry, ABL_OBJECT_DATASET);
    assert_ptr_equal(at, objects[2]);
    assert_ptr_equal(at->next, objects[4]);
    assert_null(at->next->next);
    assert_true(objects[2]->serial < objects[4]->serial);
    assert_null(abl_registry_first(f->registry, ABL_OBJECT_JOB));
}

static void one_more_than_the_limit_is_refused_and_fits_when_another_went(void **state) {
    fixture *f = *state;
    static abl_object objects[ABL_MODEL_COUNT_MAX];
    for (size_t i = 0; i < ABL_MODEL_COUNT_MAX; i++) {
        abl_object_init(&objects[i], ABL_OBJECT_MODEL, "one of many", note_end);
        assert_int_equal(abl_registry_add(f->registry, &objects[i], NULL, 0, NULL), ABL_CODE_OK);
    }
    abl_object *late = make(f, ABL_OBJECT_MODEL, 0);
    abl_status status = {.reason = ""};
    assert_int_equal(abl_registry_add(f->registry, late, NULL, 0, &status),
                     ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "TOO_MANY_MODELS");
    assert_mentions(status.message, "64 models");
    assert_false(late->listed);
    assert_int_equal(late->refs, 1); /* still the caller's */
    remove_ok(f, &objects[17]);
    assert_int_equal(abl_registry_add(f->registry, late, NULL, 0, NULL), ABL_CODE_OK);
    assert_int_equal(abl_registry_count(f->registry, ABL_OBJECT_MODEL), ABL_MODEL_COUNT_MAX);
    f->made += ABL_MODEL_COUNT_MAX;
}

static void a_registry_ends_users_before_what_they_use(void **state) {
    fixture *f = *state;
    abl_object *model = add(f, ABL_OBJECT_MODEL, NULL);
    abl_object *graph = add(f, ABL_OBJECT_GRAPH, model);
    (void)add(f, ABL_OBJECT_JOB, graph);
    (void)abl_object_ref(graph); /* held by somebody else, past the registry's end */
    abl_registry_destroy(f->registry);
    f->registry = NULL;
    assert_int_equal(ended, 2);
    assert_false(graph->listed);
    abl_object_unref(graph);
    assert_int_equal(ended, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(ids_are_the_kind_and_eight_hexadecimal_digits),
        TEST(an_object_is_found_only_among_its_kind_and_only_until_it_is_removed),
        TEST(a_long_id_that_is_unknown_is_cut_in_the_message),
        TEST(what_others_need_is_kept_and_the_refusal_names_them),
        TEST(of_many_users_eight_are_named_and_the_others_counted),
        TEST(a_running_call_is_a_user_until_it_leaves),
        TEST(a_call_that_is_ending_stands_in_nobodys_way_and_loses_nothing),
        TEST(a_job_that_is_ending_stands_in_nobodys_way_and_loses_nothing),
        TEST(an_object_that_released_its_needs_uses_nothing_and_stays_listed),
        TEST(a_removed_object_lives_until_the_last_reference_ends),
        TEST(bytes_are_summed_by_kind_and_follow_changes),
        TEST(objects_are_listed_in_order_of_adding_whichever_are_removed),
        TEST(one_more_than_the_limit_is_refused_and_fits_when_another_went),
        TEST(a_registry_ends_users_before_what_they_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
