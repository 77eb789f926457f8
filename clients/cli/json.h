/* json.h -- any message of the protocol as JSON: field names as in the .proto files, enumerations
 * by name, bytes as base64, numbers that JSON does not have ("NaN", "Infinity") as strings.
 *
 * OWNERSHIP  The returned value is the caller's (json_decref); NULL: no memory.
 */
#ifndef ABLATE_CLI_JSON_H
#define ABLATE_CLI_JSON_H

#include "core/base/compiler.h"

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

ABL_BEGIN_DECLS

ABL_MUST_CHECK json_t *abl_json_of(const ProtobufCMessage *message);

ABL_END_DECLS
#endif
