/* SPDX-License-Identifier: Apache-2.0
 *
 * A key that is absent or null takes its default, as in transformers; one without a default is
 * required. abl_keys_get() finds nothing after a failure, so what has a default then gives it. */
#include "core/model/config_keys.h"

#include "core/base/assert.h"
#include "core/json/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const json_t *abl_keys_get(const abl_keys *in, const char *key) {
    const json_t *value = in->code == ABL_CODE_OK ? json_object_get(in->root, key) : NULL;
    return json_is_null(value) ? NULL : value;
}

int abl_keys_read_count(abl_keys *in, const char *key, int max, int absent) {
    if (in->code != ABL_CODE_OK) {
        return 0;
    }
    const json_t *value = abl_keys_get(in, key);
    if (value == NULL && absent != ABL_KEY_REQUIRED) {
        return absent;
    }
    if (!json_is_integer(value)) {
        abl_keys_fail_type(in, key, "an integer");
        return 0;
    }
    json_int_t number = json_integer_value(value);
    if (number < 1 || number > max) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %s is %lld; it must be from 1 to %d", in->source, key,
                            (long long)number, max);
        return 0;
    }
    return (int)number;
}

bool abl_keys_read_bool(abl_keys *in, const char *key, bool absent) {
    const json_t *value = abl_keys_get(in, key);
    if (value != NULL && !json_is_boolean(value)) {
        abl_keys_fail_type(in, key, "true or false");
        return absent;
    }
    return value == NULL ? absent : json_is_true(value);
}

double abl_keys_read_positive(abl_keys *in, const char *key, double max, double absent) {
    const json_t *value = abl_keys_get(in, key);
    if (value == NULL) {
        return absent;
    }
    if (!json_is_number(value)) {
        abl_keys_fail_type(in, key, "a number");
        return absent;
    }
    double number = json_number_value(value);
    if (!(number > 0.0 && number <= max)) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %s is %g; it must be above 0 and at most %g", in->source, key,
                            number, max);
    }
    return number;
}

double abl_keys_read_epsilon(abl_keys *in, const char *key, double absent) {
    double epsilon = abl_keys_read_positive(in, key, 1.0, absent);
    char text[32];
    (void)snprintf(text, sizeof text, "%.6g", epsilon);
    double rounded = strtod(text, NULL);
    return ((float)rounded == (float)epsilon) ? rounded : epsilon;
}

size_t abl_keys_read_choice(abl_keys *in, const char *key, const char *const *names, size_t count,
                            size_t absent) {
    const json_t *value = abl_keys_get(in, key);
    if (value == NULL) {
        return absent;
    }
    if (!json_is_string(value)) {
        abl_keys_fail_type(in, key, "a string");
        return absent;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(json_string_value(value), names[i]) == 0) {
            return i;
        }
    }
    char known[ABL_KEYS_TEXT_BYTES];
    in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                        "%s: %s '%.64s' is not supported; supported are %s", in->source, key,
                        json_string_value(value), abl_keys_join(names, count, known));
    return absent;
}

int abl_keys_read_token(abl_keys *in, const char *key, int absent, int d_vocab) {
    const json_t *value = abl_keys_get(in, key);
    if (value == NULL) {
        bool is_absent = in->code == ABL_CODE_OK && json_object_get(in->root, key) == NULL;
        return (is_absent && absent < d_vocab) ? absent : -1;
    }
    if (!json_is_integer(value)) {
        abl_keys_fail_type(in, key, "an integer");
        return -1;
    }
    json_int_t id = json_integer_value(value);
    if (id < 0 || id >= d_vocab) {
        in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                            "%s: %s is %lld; it must be below vocab_size, %d", in->source, key,
                            (long long)id, d_vocab);
        return -1;
    }
    return (int)id;
}

void abl_keys_require_bool(abl_keys *in, const char *key, bool wanted) {
    if (abl_keys_read_bool(in, key, wanted) != wanted) {
        in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                            "%s: %s is %s, which is not supported; only %s is", in->source, key,
                            wanted ? "false" : "true", wanted ? "true" : "false");
    }
}

void abl_keys_require_absent(abl_keys *in, const char *key) {
    if (abl_keys_get(in, key) != NULL) {
        in->code = abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                            "%s: %s is set, which is not supported", in->source, key);
    }
}

void abl_keys_require_cap_off(abl_keys *in, const char *key) {
    const json_t *value = abl_keys_get(in, key);
    if (value != NULL && json_number_value(value) != -1.0) {
        in->code =
            abl_fail(in->status, ABL_CODE_UNIMPLEMENTED, ABL_CONFIG_UNSUPPORTED,
                     "%s: %s is set, which is not supported; only -1 (off) is", in->source, key);
    }
}

void abl_keys_fail_type(abl_keys *in, const char *key, const char *wanted) {
    in->code = abl_fail(in->status, ABL_CODE_INVALID_ARGUMENT, ABL_CONFIG_INVALID,
                        "%s: %s must be %s, not %s", in->source, key, wanted,
                        abl_json_type_text(json_object_get(in->root, key)));
}

const char *abl_keys_join(const char *const *names, size_t count, char text[ABL_KEYS_TEXT_BYTES]) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        used += (size_t)snprintf(text + used, ABL_KEYS_TEXT_BYTES - used, "%s%s",
                                 (i == 0) ? "" : ", ", names[i]);
        ABL_ASSERT(used < ABL_KEYS_TEXT_BYTES);
    }
    return text;
}
