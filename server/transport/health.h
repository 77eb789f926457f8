/* health.h -- grpc.health.v1.Health over a table of services.
 *
 * OWNERSHIP  create/destroy; destroy only after every server that serves it has shut down. The
 *            table watched must outlive it.
 * THREADS    The loop thread only.
 * ERRORS     Clients see NOT_FOUND SERVICE_UNKNOWN from Check; Watch answers SERVICE_UNKNOWN and
 *            stays open, as the standard asks.
 */
#ifndef ABLATE_SERVER_TRANSPORT_HEALTH_H
#define ABLATE_SERVER_TRANSPORT_HEALTH_H

#include "server/transport/call.h"

ABL_BEGIN_DECLS

typedef struct abl_health abl_health;

/* All services start as SERVING. NULL: no memory. The names of `services` are known, "" too. */
ABL_MUST_CHECK abl_health *abl_health_create(const abl_service *services, size_t service_count);
void abl_health_destroy(abl_health *health); /* NULL is allowed */

/* The row for the method tables of the servers. */
abl_service abl_health_service(abl_health *health);

/* From now on every service is NOT_SERVING: watches are told and end. Not to be undone. */
void abl_health_drain(abl_health *health);

ABL_END_DECLS
#endif
