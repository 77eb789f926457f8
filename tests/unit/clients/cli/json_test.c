/* SPDX-License-Identifier: Apache-2.0 */
#include "ablate/v1/common.pb-c.h"
#include "ablate/v1/prune.pb-c.h"
#include "clients/cli/json.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *dumped(const ProtobufCMessage *message) {
    json_t *value = abl_json_of(message);
    assert_non_null(value);
    char *text = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(value);
    return text;
}

static void fields_have_the_names_of_the_proto(void **state) {
    (void)state;
    char edge[] = "A0.1->MLP 2";
    Ablate__V1__EdgeValue value = ABLATE__V1__EDGE_VALUE__INIT;
    value.edge = edge;
    value.value = 0.1F;
    char *text = dumped(&value.base);
    assert_string_equal(text, "{\"edge\":\"A0.1->MLP 2\",\"seq_number\":0,\"value\":0.1}");
    free(text);
    value.value = NAN;
    text = dumped(&value.base);
    assert_non_null(strstr(text, "\"NaN\""));
    free(text);
}

static void bytes_are_base64_and_enumerations_names(void **state) {
    (void)state;
    int64_t shape[] = {2, 3};
    uint8_t data[] = {1, 2, 3, 255};
    Ablate__V1__Tensor tensor = ABLATE__V1__TENSOR__INIT;
    tensor.dtype = ABLATE__V1__DTYPE__DTYPE_INT32;
    tensor.shape = shape;
    tensor.n_shape = 2;
    tensor.data.data = data;
    tensor.data.len = sizeof data;
    char *text = dumped(&tensor.base);
    assert_string_equal(text, "{\"dtype\":\"DTYPE_INT32\",\"shape\":[2,3],\"data\":\"AQID/w==\"}");
    free(text);
}

static void only_the_given_member_of_a_oneof_appears(void **state) {
    (void)state;
    Ablate__V1__MaskGradient gradient = ABLATE__V1__MASK_GRADIENT__INIT;
    gradient.at_case = ABLATE__V1__MASK_GRADIENT__AT_INTEGRATED_GRAD_SAMPLES;
    gradient.integrated_grad_samples = 10;
    char *text = dumped(&gradient.base);
    assert_non_null(strstr(text, "\"integrated_grad_samples\":10"));
    assert_null(strstr(text, "mask_value"));
    free(text);
}

static void text_that_is_no_utf8_does_not_break_the_document(void **state) {
    (void)state;
    char edge[] = "\xFF\xFE";
    Ablate__V1__EdgeValue value = ABLATE__V1__EDGE_VALUE__INIT;
    value.edge = edge;
    char *text = dumped(&value.base);
    assert_non_null(strstr(text, "\xEF\xBF\xBD"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_have_the_names_of_the_proto),
        cmocka_unit_test(bytes_are_base64_and_enumerations_names),
        cmocka_unit_test(only_the_given_member_of_a_oneof_appears),
        cmocka_unit_test(text_that_is_no_utf8_does_not_break_the_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
