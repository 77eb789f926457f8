/* SPDX-License-Identifier: Apache-2.0
 *
 * What an HTTP client can make the gRPC-web framing parse: a body, in binary and in base64, and the
 * headers that carry a timeout, an origin and a host. Base64 must come back as it was encoded. */
#include "server/transport/web_frame.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_base64(const uint8_t *data, size_t bytes) {
    size_t length = ABL_BASE64_BYTES(bytes);
    uint8_t *text = malloc(length + 1);
    size_t decoded = 0;
    abl_base64_encode(data, bytes, (char *)text);
    if (!abl_base64_decode(text, length, &decoded) || decoded != bytes ||
        (bytes > 0 && memcmp(text, data, bytes) != 0)) {
        abort();
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const uint8_t *message = NULL;
    size_t message_bytes = 0;
    if (abl_web_frame_parse(data, bytes, &message, &message_bytes, NULL) == ABL_CODE_OK &&
        message_bytes + ABL_WEB_FRAME_HEADER_BYTES != bytes) {
        abort();
    }
    check_base64(data, bytes);
    char *text = malloc(bytes + 1);
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    uint64_t timeout_ms = 0;
    if (abl_web_timeout_parse(text, &timeout_ms) && strlen(text) > 9) {
        abort();
    }
    (void)abl_web_host_is_local(text);
    (void)abl_web_origin_allowed(text, "localhost:8080", NULL, 0);
    (void)abl_web_origin_allowed("http://localhost", text, NULL, 0);
    char *escaped = malloc(3 * bytes + 1);
    (void)abl_percent_encode(text, bytes, escaped, 3 * bytes + 1);
    free(escaped);
    size_t decoded = 0;
    if (abl_base64_decode((uint8_t *)text, bytes, &decoded) && decoded > bytes) {
        abort();
    }
    free(text);
    return 0;
}
