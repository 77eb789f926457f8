/* SPDX-License-Identifier: Apache-2.0
 *
 * Labels are bounded by construction: one row for each RPC that was ever called (there are some
 * fifty), a counter for each of gRPC's seventeen codes in it, and a histogram with fixed bounds. */
#include "server/runtime/metrics.h"

#include "core/base/mem.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define RPC_COUNT_MAX 96
#define CODE_COUNT 17

static const double bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                0.25,  0.5,    1,     2.5,  5,     10,   60};
#define BOUND_COUNT ABL_COUNT_OF(bounds)

typedef struct histogram {
    uint64_t buckets[BOUND_COUNT + 1]; /* not cumulative; the last has no upper bound */
    uint64_t count;
    double sum;
} histogram;

typedef struct rpc_row {
    const char *rpc;
    uint64_t codes[CODE_COUNT];
    histogram duration;
} rpc_row;

struct abl_metrics {
    rpc_row rows[RPC_COUNT_MAX];
    size_t row_count;
    uint64_t running;
    histogram queue_wait;
    uint64_t forward_passes; /* atomic */
    uint64_t edges;          /* atomic */
};

abl_metrics *abl_metrics_create(void) {
    return abl_calloc(1, sizeof(abl_metrics));
}

void abl_metrics_destroy(abl_metrics *metrics) {
    abl_free(metrics);
}

static rpc_row *row_of(abl_metrics *metrics, const char *rpc) {
    for (size_t i = 0; i < metrics->row_count; i++) {
        if (strcmp(metrics->rows[i].rpc, rpc) == 0) {
            return &metrics->rows[i];
        }
    }
    if (metrics->row_count == RPC_COUNT_MAX) {
        return NULL;
    }
    rpc_row *row = &metrics->rows[metrics->row_count++];
    row->rpc = rpc;
    return row;
}

static void observe(histogram *into, double value) {
    size_t bucket = 0;
    while (bucket < BOUND_COUNT && value > bounds[bucket]) {
        bucket++;
    }
    into->buckets[bucket]++;
    into->count++;
    into->sum += value;
}

void abl_metrics_request_start(abl_metrics *metrics, const char *rpc) {
    (void)row_of(metrics, rpc);
    metrics->running++;
}

void abl_metrics_request_end(abl_metrics *metrics, const char *rpc, abl_code code, double seconds) {
    metrics->running--;
    rpc_row *row = row_of(metrics, rpc);
    if (row != NULL && (size_t)code < CODE_COUNT) {
        row->codes[code]++;
        observe(&row->duration, seconds);
    }
}

void abl_metrics_queue_wait(abl_metrics *metrics, double seconds) {
    observe(&metrics->queue_wait, seconds);
}

void abl_metrics_work(abl_metrics *metrics, uint64_t forward_passes, uint64_t edges) {
    (void)__atomic_fetch_add(&metrics->forward_passes, forward_passes, __ATOMIC_RELAXED);
    (void)__atomic_fetch_add(&metrics->edges, edges, __ATOMIC_RELAXED);
}

typedef struct text {
    char *data;
    size_t used;
    size_t capacity;
    bool failed;
} text;

static void put(text *out, const char *format, ...) ABL_PRINTF(2, 3);
static void put(text *out, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (out->failed || wanted < 0 || (size_t)wanted >= sizeof line) {
        out->failed = true;
        return;
    }
    size_t length = (size_t)wanted;
    if (out->used + length + 1 > out->capacity) {
        size_t capacity = 2 * out->capacity + length + 4096;
        char *grown = abl_realloc_array(out->data, capacity, 1);
        if (grown == NULL) {
            out->failed = true;
            return;
        }
        out->data = grown;
        out->capacity = capacity;
    }
    memcpy(out->data + out->used, line, length + 1);
    out->used += length;
}

static void head(text *out, const char *name, const char *type, const char *help) {
    put(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_histogram(text *out, const char *name, const char *labels,
                          const histogram *values) {
    const char *comma = labels[0] == '\0' ? "" : ",";
    uint64_t sum = 0;
    for (size_t i = 0; i < BOUND_COUNT; i++) {
        sum += values->buckets[i];
        put(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, bounds[i],
            (unsigned long long)sum);
    }
    put(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma,
        (unsigned long long)values->count);
    put(out, "%s_sum{%s} %.9g\n", name, labels, values->sum);
    put(out, "%s_count{%s} %llu\n", name, labels, (unsigned long long)values->count);
}

static void put_requests(text *out, const abl_metrics *metrics) {
    head(out, "ablate_requests_total", "counter", "Calls that ended, by gRPC code.");
    for (size_t i = 0; i < metrics->row_count; i++) {
        for (int code = 0; code < CODE_COUNT; code++) {
            if (metrics->rows[i].codes[code] > 0) {
                put(out, "ablate_requests_total{rpc=\"%s\",code=\"%s\"} %llu\n",
                    metrics->rows[i].rpc, abl_code_name((abl_code)code),
                    (unsigned long long)metrics->rows[i].codes[code]);
            }
        }
    }
    head(out, "ablate_request_duration_seconds", "histogram", "From the call to its end.");
    for (size_t i = 0; i < metrics->row_count; i++) {
        char labels[160];
        (void)snprintf(labels, sizeof labels, "rpc=\"%s\"", metrics->rows[i].rpc);
        put_histogram(out, "ablate_request_duration_seconds", labels, &metrics->rows[i].duration);
    }
    head(out, "ablate_requests_running", "gauge", "Calls that have not ended.");
    put(out, "ablate_requests_running %llu\n", (unsigned long long)metrics->running);
}

char *abl_metrics_text(const abl_metrics *metrics, const abl_gauge *gauges, size_t gauge_count,
                       size_t *ret_bytes) {
    text out = {0};
    head(&out, "ablate_build_info", "gauge", "1, with the version as a label.");
    put(&out, "ablate_build_info{version=\"%s\"} 1\n", ABLATE_VERSION);
    put_requests(&out, metrics);
    head(&out, "ablate_queue_wait_seconds", "histogram", "Time that tasks waited for a device.");
    put_histogram(&out, "ablate_queue_wait_seconds", "", &metrics->queue_wait);
    head(&out, "ablate_forward_passes_total", "counter", "Forward passes that calls and jobs ran.");
    put(&out, "ablate_forward_passes_total %llu\n",
        (unsigned long long)__atomic_load_n(&metrics->forward_passes, __ATOMIC_RELAXED));
    head(&out, "ablate_edges_evaluated_total", "counter", "Edges that jobs gave a score.");
    put(&out, "ablate_edges_evaluated_total %llu\n",
        (unsigned long long)__atomic_load_n(&metrics->edges, __ATOMIC_RELAXED));
    for (size_t i = 0; i < gauge_count; i++) {
        if (i == 0 || strcmp(gauges[i].name, gauges[i - 1].name) != 0) {
            head(&out, gauges[i].name, "gauge", gauges[i].help);
        }
        put(&out, "%s%s %.17g\n", gauges[i].name, gauges[i].labels, gauges[i].value);
    }
    if (out.failed) {
        abl_free(out.data);
        return NULL;
    }
    *ret_bytes = out.used;
    return out.data;
}
