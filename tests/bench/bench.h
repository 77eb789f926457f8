/* bench.h -- what the benches of core/ share: arguments, timing, peak memory, one JSON line.
 *
 * OWNERSHIP  bench_parse() fills what bench_finish() frees; models go by abl_model_unref().
 * THREADS    One.
 * ERRORS     bench_die(): a message on standard error, exit status 1.
 */
#ifndef ABLATE_TESTS_BENCH_BENCH_H
#define ABLATE_TESTS_BENCH_BENCH_H

#include "core/model/model.h"

#include <stdint.h>

typedef struct bench_args {
    const char *model_path;
    const char *tokens_path;
    const char *corrupt_path; /* NULL unless given, as for the next */
    const char *answers_path;
    const char *mask_path;
    const char *edges_path;
    const char *out_path;
    double tau;       /* acdc */
    const char *mode; /* "hf" or "tl" */
    bool bfloat16;    /* how weights are stored; else float32 */
    int reps;
    int threads;
    int32_t *tokens; /* (batch, seq) */
    int32_t *corrupt;
    int32_t *answers; /* (batch, 2): right, wrong */
    int64_t batch;
    int64_t seq;
} bench_args;

typedef struct bench_timing {
    double min_s;
    double median_s;
    long peak_rss_mb;
} bench_timing;

__attribute__((noreturn, format(printf, 1, 2))) void bench_die(const char *format, ...);
/* argv[1] is the bench's name, the rest are options. Sets the thread count. */
void bench_parse(int argc, char **argv, bench_args *ret_args);
void bench_finish(bench_args *args);
abl_model *bench_load_model(const bench_args *args);
/* Once to warm up, then `reps` times. */
bench_timing bench_time(void (*body)(void *user_data), void *user_data, int reps);
/* {"tool": "ablate", "op": ..., "min_s": ..., ...}: the keys that the peers' scripts print. */
void bench_emit(const abl_model_config *config, const bench_args *args, const char *op,
                int64_t edge_count, const bench_timing *timing);

/* prune_bench.c: the benches that need a graph. */
void bench_attribution(const bench_args *args, const char *op);
void bench_exact(const bench_args *args, const char *op);
void bench_masked(const bench_args *args, const char *op);
void bench_sweep(const bench_args *args, const char *op);

/* prefix_bench.c: whole prompts against tails behind a KV cache. */
void bench_prefix(const bench_args *args, const char *op);

#endif
