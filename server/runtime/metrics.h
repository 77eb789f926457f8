/* metrics.h -- counters of the daemon, and their text for Prometheus.
 *
 * OWNERSHIP  create/destroy. abl_metrics_text() hands an abl_malloc block to the caller.
 * THREADS    The loop thread, except abl_metrics_work(), which any thread may call.
 * ERRORS     A counter that does not fit its table is lost; nothing fails.
 * UNITS      Prometheus's base units: seconds and bytes.
 */
#ifndef ABLATE_SERVER_RUNTIME_METRICS_H
#define ABLATE_SERVER_RUNTIME_METRICS_H

#include "core/base/status.h"

#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

typedef struct abl_metrics abl_metrics;

ABL_MUST_CHECK abl_metrics *abl_metrics_create(void);
void abl_metrics_destroy(abl_metrics *metrics);

/* `rpc` is a constant: "ablate.v1.RunService/Forward". */
void abl_metrics_request_start(abl_metrics *metrics, const char *rpc);
void abl_metrics_request_end(abl_metrics *metrics, const char *rpc, abl_code code, double seconds);
/* Time that a task waited for its device. */
void abl_metrics_queue_wait(abl_metrics *metrics, double seconds);
/* Work done: forward passes, and edges that got a value from one. */
void abl_metrics_work(abl_metrics *metrics, uint64_t forward_passes, uint64_t edges);

/* A reading that is taken when it is asked for, not counted: "ablate_resident_bytes", the labels
 * as they are written, {kind="weights"}, or "". */
typedef struct abl_gauge {
    const char *name;
    const char *help;
    char labels[96];
    double value;
} abl_gauge;

/* NULL: no memory. Gauges of one name must stand together. */
ABL_MUST_CHECK char *abl_metrics_text(const abl_metrics *metrics, const abl_gauge *gauges,
                                      size_t gauge_count, size_t *ret_bytes);

ABL_END_DECLS
#endif
