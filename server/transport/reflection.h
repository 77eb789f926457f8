/* reflection.h -- grpc.reflection v1 and v1alpha from a FileDescriptorSet.
 *
 * OWNERSHIP  create/destroy; destroy only after every server that serves it has shut down. The
 *            descriptor set is borrowed and must outlive it.
 * THREADS    The loop thread only.
 * ERRORS     create fails with INTERNAL on a descriptor set that does not parse.
 */
#ifndef ABLATE_SERVER_TRANSPORT_REFLECTION_H
#define ABLATE_SERVER_TRANSPORT_REFLECTION_H

#include "server/transport/call.h"

ABL_BEGIN_DECLS

typedef struct abl_reflection abl_reflection;

/* `descriptors`: the FileDescriptorSet with all imports; abl_proto_descriptors is the daemon's. */
ABL_MUST_CHECK abl_code abl_reflection_create(const uint8_t *descriptors, size_t bytes,
                                              abl_reflection **ret_reflection,
                                              abl_status *ret_status);
void abl_reflection_destroy(abl_reflection *reflection); /* NULL is allowed */

/* The rows for the method tables of the servers. */
abl_service abl_reflection_service_v1(abl_reflection *reflection);
abl_service abl_reflection_service_v1alpha(abl_reflection *reflection);

/* Generated from proto/: every public file and what it imports. */
extern const unsigned char abl_proto_descriptors[];
extern const size_t abl_proto_descriptors_bytes;

ABL_END_DECLS
#endif
