/* SPDX-License-Identifier: Apache-2.0
 *
 * Timing is by the monotonic clock, minimum and median: the minimum is what the machine can do, the
 * median what it did, and on a shared machine only ratios of minima taken together mean
 * something. */
#include "tests/bench/bench.h"

#include "core/base/mem.h"
#include "core/model/dir.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REPS_MAX 1000

void bench_die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)fprintf(stderr, "core_bench: ");
    (void)vfprintf(stderr, format, arguments);
    (void)fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

/* Rows of ids, all of one length. */
static int32_t *read_ids(const char *path, int64_t *ret_rows, int64_t *ret_columns) {
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        bench_die("cannot read '%s'", path);
    }
    int32_t *ids = NULL;
    int64_t count = 0;
    int64_t rows = 0;
    char *line = NULL;
    size_t line_bytes = 0;
    while (getline(&line, &line_bytes, file) > 0) {
        char *next = line;
        for (char *end = NULL;; next = end) {
            long id = strtol(next, &end, 10);
            if (end == next) {
                break;
            }
            ids = abl_realloc_array(ids, (size_t)count + 1, sizeof *ids);
            if (ids == NULL) {
                bench_die("no memory");
            }
            ids[count++] = (int32_t)id;
        }
        rows++;
    }
    free(line); /* getline's own */
    (void)fclose(file);
    if (rows == 0 || count == 0 || count % rows != 0) {
        bench_die("'%s' has no rows of one length", path);
    }
    *ret_rows = rows;
    *ret_columns = count / rows;
    return ids;
}

static int number(const char *text, const char *name) {
    char *end = NULL;
    long value = strtol(text, &end, 10);
    if (*end != '\0' || value < 1 || value > REPS_MAX) {
        bench_die("--%s takes 1 to %d", name, REPS_MAX);
    }
    return (int)value;
}

static int32_t *read_like(const bench_args *args, const char *path, int64_t columns) {
    int64_t rows = 0;
    int64_t got = 0;
    if (path == NULL) {
        return NULL;
    }
    int32_t *ids = read_ids(path, &rows, &got);
    if (rows != args->batch || got != columns) {
        bench_die("'%s' must have %lld rows of %lld ids", path, (long long)args->batch,
                  (long long)columns);
    }
    return ids;
}

void bench_parse(int argc, char **argv, bench_args *ret_args) {
    static const struct option options[] = {{"model", required_argument, NULL, 'm'},
                                            {"tokens", required_argument, NULL, 't'},
                                            {"corrupt", required_argument, NULL, 'c'},
                                            {"answers", required_argument, NULL, 'a'},
                                            {"out", required_argument, NULL, 'o'},
                                            {"mask", required_argument, NULL, 'k'},
                                            {"edges", required_argument, NULL, 'e'},
                                            {"tau", required_argument, NULL, 'u'},
                                            {"mode", required_argument, NULL, 'M'},
                                            {"reps", required_argument, NULL, 'r'},
                                            {"threads", required_argument, NULL, 'T'},
                                            {"dtype", required_argument, NULL, 'd'},
                                            {NULL, 0, NULL, 0}};
    bench_args args = {.mode = "hf", .reps = 5, .threads = 2, .tau = 0.01};
    int option = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'm':
            args.model_path = optarg;
            break;
        case 't':
            args.tokens_path = optarg;
            break;
        case 'c':
            args.corrupt_path = optarg;
            break;
        case 'a':
            args.answers_path = optarg;
            break;
        case 'k':
            args.mask_path = optarg;
            break;
        case 'e':
            args.edges_path = optarg;
            break;
        case 'u':
            args.tau = strtod(optarg, NULL);
            break;
        case 'o':
            args.out_path = optarg;
            break;
        case 'M':
            args.mode = optarg;
            break;
        case 'd':
            args.bfloat16 = strcmp(optarg, "bfloat16") == 0;
            break;
        case 'r':
            args.reps = number(optarg, "reps");
            break;
        case 'T':
            args.threads = number(optarg, "threads");
            break;
        default:
            exit(1); /* getopt_long has said why */
        }
    }
    if (optind >= argc || args.model_path == NULL || args.tokens_path == NULL) {
        bench_die("usage: core_bench NAME --model DIR --tokens FILE [options]");
    }
    argv[1] = argv[optind]; /* getopt_long moves what is no option to the end */
    args.tokens = read_ids(args.tokens_path, &args.batch, &args.seq);
    args.corrupt = read_like(&args, args.corrupt_path, args.seq);
    args.answers = read_like(&args, args.answers_path, 2);
    abl_backend_init(args.threads);
    *ret_args = args;
}

void bench_finish(bench_args *args) {
    abl_free(args->tokens);
    abl_free(args->corrupt);
    abl_free(args->answers);
}

abl_model *bench_load_model(const bench_args *args) {
    char *path = realpath(args->model_path, NULL);
    char *slash = (path == NULL) ? NULL : strrchr(path, '/');
    if (slash == NULL) {
        bench_die("no model at '%s'", args->model_path);
    }
    *slash = '\0';
    const char *paths[] = {path};
    const abl_model_roots roots = {.paths = paths, .count = 1};
    abl_status status;
    abl_model_dir *dir = NULL;
    abl_model *model = NULL;
    abl_model_options options = {.processing = abl_model_processing_hf(), .dtype = ABL_DTYPE_F32};
    if (args->bfloat16) {
        options.dtype = ABL_DTYPE_BF16;
    }
    if (strcmp(args->mode, "tl") == 0) {
        options.processing = abl_model_processing_tl();
    }
    if (abl_model_dir_create(&roots, slash + 1, &dir, &status) != ABL_CODE_OK ||
        abl_model_load(dir, &options, &model, &status) != ABL_CODE_OK) {
        bench_die("%s: %s", status.reason, status.message);
    }
    abl_model_dir_destroy(dir);
    free(path); /* realpath's own */
    return model;
}

static double now_s(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void reset_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file != NULL) {
        (void)fputs("5", file);
        (void)fclose(file);
    }
}

static long peak_mb(void) {
    char line[256];
    long kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kilobytes = strtol(line + 6, NULL, 10);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return kilobytes / 1024;
}

static int by_value(const void *a, const void *b) {
    double x = 0;
    double y = 0;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

bench_timing bench_time(void (*body)(void *user_data), void *user_data, int reps) {
    double seconds[REPS_MAX];
    body(user_data);
    reset_peak();
    for (int i = 0; i < reps; i++) {
        double start = now_s();
        body(user_data);
        seconds[i] = now_s() - start;
    }
    qsort(seconds, (size_t)reps, sizeof seconds[0], by_value);
    double upper = seconds[reps / 2];
    return (bench_timing){.min_s = seconds[0],
                          .median_s = (reps % 2 == 1) ? upper : (seconds[reps / 2 - 1] + upper) / 2,
                          .peak_rss_mb = peak_mb()};
}

void bench_emit(const abl_model_config *config, const bench_args *args, const char *op,
                int64_t edge_count, const bench_timing *timing) {
    printf("{\"tool\": \"ablate\", \"op\": \"%s\", \"batch\": %lld, \"seq\": %lld, \"layers\": %d, "
           "\"heads\": %d, \"d_model\": %d, \"n_edges\": %lld, \"min_s\": %.6f, "
           "\"median_s\": %.6f, \"peak_rss_mb\": %ld, \"threads\": %d, \"blas\": \"%s\"}\n",
           op, (long long)args->batch, (long long)args->seq, config->n_layers, config->n_heads,
           config->d_model, (long long)edge_count, timing->min_s, timing->median_s,
           timing->peak_rss_mb, args->threads, abl_backend_blas_name());
    (void)fflush(stdout);
}
