/* SPDX-License-Identifier: Apache-2.0
 *
 * The codes are gRPC's by number, which the compiler checks here, so mapping is a cast. Beside the
 * code and the message a failure carries google.rpc.ErrorInfo (AIP-193): programs match on its
 * reason. A message may quote what a client sent, cut at a ceiling in the middle of a character;
 * protobuf strings must be UTF-8, so the text is repaired before it is packed. */
#include "server/transport/status_map.h"

#include "core/base/mem.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

#include <grpc/status.h>
#include <stdbool.h>
#include <string.h>

#define X(name, number) _Static_assert((int)ABL_CODE_##name == (int)GRPC_STATUS_##name, #name);
ABL_CODE_MAP(X)
#undef X

/* Bytes of the well-formed character at `text` (length > 0), or 0. */
static size_t utf8_length(const unsigned char *text, size_t length) {
    unsigned char lead = text[0];
    size_t want = lead < 0x80   ? 1
                  : lead < 0xc2 ? 0
                  : lead < 0xe0 ? 2
                  : lead < 0xf0 ? 3
                  : lead < 0xf5 ? 4
                                : 0;
    if (want == 0 || want > length) {
        return 0;
    }
    for (size_t i = 1; i < want; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    bool too_high = (lead == 0xed && text[1] > 0x9f) || (lead == 0xf4 && text[1] > 0x8f);
    return overlong || too_high ? 0 : want;
}

/* Whether all that is left is the beginning of one character: the end of a truncated message. */
static bool is_cut_character(const unsigned char *text, size_t left) {
    size_t want = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4 || left >= want) {
        return false;
    }
    for (size_t i = 1; i < left; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return false;
        }
    }
    return true;
}

size_t abl_status_message_utf8(const abl_status *status, char *ret_text, size_t text_bytes_max) {
    const unsigned char *from = (const unsigned char *)status->message;
    size_t left = strnlen(status->message, sizeof status->message);
    size_t length = 0;
    while (left > 0) {
        size_t taken = utf8_length(from, left);
        if ((taken == 0 && is_cut_character(from, left)) ||
            length + (taken == 0 ? 1 : taken) >= text_bytes_max) {
            break;
        }
        if (taken == 0) {
            ret_text[length++] = '?';
            taken = 1;
        } else {
            memcpy(ret_text + length, from, taken);
            length += taken;
        }
        from += taken;
        left -= taken;
    }
    ret_text[length] = '\0';
    return length;
}

uint8_t *abl_status_pack_details(const abl_status *status, size_t *ret_bytes) {
    if (status->reason == NULL || status->reason[0] == '\0') {
        return NULL;
    }
    char message[sizeof status->message];
    (void)abl_status_message_utf8(status, message, sizeof message);
    char reason[128];
    char domain[] = ABL_ERROR_DOMAIN;
    char type_url[] = "type.googleapis.com/google.rpc.ErrorInfo";
    size_t reason_length = strnlen(status->reason, sizeof reason - 1);
    memcpy(reason, status->reason, reason_length);
    reason[reason_length] = '\0';

    Google__Rpc__ErrorInfo info;
    google__rpc__error_info__init(&info);
    info.reason = reason;
    info.domain = domain;
    uint8_t info_bytes[256];
    Google__Protobuf__Any any;
    google__protobuf__any__init(&any);
    any.type_url = type_url;
    any.value.len = google__rpc__error_info__pack(&info, info_bytes);
    any.value.data = info_bytes;
    Google__Protobuf__Any *details[] = {&any};
    Google__Rpc__Status packed;
    google__rpc__status__init(&packed);
    packed.code = (int32_t)status->code;
    packed.message = message;
    packed.n_details = 1;
    packed.details = details;
    uint8_t *bytes = abl_malloc(google__rpc__status__get_packed_size(&packed));
    if (bytes != NULL) {
        *ret_bytes = google__rpc__status__pack(&packed, bytes);
    }
    return bytes;
}
