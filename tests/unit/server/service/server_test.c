/* SPDX-License-Identifier: Apache-2.0
 *
 * What may start, on a server with a CPU and an accelerator whose free memory the test says. */
#include "server/service/server.h"

#include "core/model/model.h"
#include "tests/golden/device.h"
#include "tests/unit/unit.h"

#include <string.h>

#define MIB ((uint64_t)1 << 20)

static const abl_device accelerator = {.type = ABL_DEVICE_CUDA};

static abl_server *open_server(abl_loop *loop, uint64_t memory_budget) {
    const abl_server_options options = {
        .loop = loop, .threads = 1, .memory_budget = memory_budget, .jobs_max = 1};
    abl_server *server = NULL;
    abl_status status = {.message = ""};
    if (abl_server_create(&options, &server, &status) != ABL_CODE_OK) {
        fail_msg("%s", status.message);
    }
    return server;
}

/* "" where such work may start; else what is said. */
static const char *refusal(const abl_server *server, abl_device device, uint64_t bytes) {
    static abl_status status;
    status = (abl_status){.message = ""};
    abl_code code = abl_server_admit(server, device, bytes, "use a smaller batch", &status);
    assert_int_equal(code, status.message[0] == '\0' ? ABL_CODE_OK : ABL_CODE_RESOURCE_EXHAUSTED);
    return status.message;
}

static void work_must_fit_the_memory_of_its_own_device(void **state) {
    (void)state;
    abl_loop *loop = NULL;
    assert_int_equal(abl_loop_create(&loop, NULL), ABL_CODE_OK);
    abl_server *server = open_server(loop, 0);
    golden_device_set_free(3 * MIB);
    assert_string_equal(refusal(server, accelerator, 3 * MIB), "");
    assert_string_equal(refusal(server, accelerator, 4 * MIB),
                        "this needs about 4.0 MiB of working memory, and 3.0 MiB are free on "
                        "cuda:0; use a smaller batch");
    assert_string_equal(refusal(server, ABL_HOST, 4 * MIB), "");
    assert_non_null(strstr(refusal(server, ABL_HOST, UINT64_MAX / 2), " MiB are free; "));
    golden_device_set_free(UINT64_MAX);
    assert_string_equal(refusal(server, accelerator, UINT64_MAX), "");
    abl_server_stop(server);
    abl_loop_destroy(loop);
    abl_server_free(server);
}

static void the_budget_holds_on_every_device(void **state) {
    (void)state;
    abl_loop *loop = NULL;
    assert_int_equal(abl_loop_create(&loop, NULL), ABL_CODE_OK);
    abl_server *server = open_server(loop, 2 * MIB);
    golden_device_set_free(3 * MIB);
    const char *allowed = "2.0 MiB are allowed (--memory-budget-mib)";
    assert_non_null(strstr(refusal(server, accelerator, 4 * MIB), allowed));
    assert_non_null(strstr(refusal(server, ABL_HOST, 4 * MIB), allowed));
    golden_device_set_free(MIB);
    assert_non_null(strstr(refusal(server, accelerator, 2 * MIB), "1.0 MiB are free on cuda:0"));
    assert_string_equal(refusal(server, ABL_HOST, 2 * MIB), "");
    golden_device_set_free(UINT64_MAX);
    abl_server_stop(server);
    abl_loop_destroy(loop);
    abl_server_free(server);
}

static void a_model_that_does_not_fit_is_not_begun(void **state) {
    (void)state;
    const char *paths[] = {ABLATE_SOURCE_DIR "/tests/golden/data/models"};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    const abl_model_options options = {.dtype = ABL_DTYPE_F32, .device = accelerator};
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_status status = {.reason = ""};
    assert_int_equal(abl_model_dir_create(&roots, "tiny-rand", &dir, &status), ABL_CODE_OK);
    golden_device_set_free(1000);
    assert_int_equal(abl_model_load(dir, &options, &model, &status), ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "MODEL_TOO_BIG");
    assert_int_equal(golden_device_used(), 0);
    golden_device_set_free(UINT64_MAX);
    assert_int_equal(abl_model_load(dir, &options, &model, &status), ABL_CODE_OK);
    assert_true(golden_device_used() >= abl_model_bytes(model));
    abl_model_unref(model);
    assert_int_equal(golden_device_used(), 0);
    abl_model_dir_destroy(dir);
}

int main(void) {
    golden_device_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_must_fit_the_memory_of_its_own_device),
        cmocka_unit_test(the_budget_holds_on_every_device),
        cmocka_unit_test(a_model_that_does_not_fit_is_not_begun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
