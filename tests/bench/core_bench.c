/* SPDX-License-Identifier: Apache-2.0
 *
 * core_bench: times libablate without the daemon, one JSON object a line on standard output.
 *
 *   core_bench OP --model DIR --tokens FILE
 *              [--mode hf|tl] [--dtype float32|bfloat16] [--reps N] [--threads N] [--out FILE]
 *              [what prune_bench.c says]
 *
 * OP is forward, forward_last, cache, or one that prune_bench.c or prefix_bench.c explains.
 * FILE holds one prompt a line, ids separated by spaces, all of one length. --out writes what was
 * computed last, float32, row major, so that the caller can compare it with a peer's numbers. Peak
 * memory is that of the timed repetitions: the counter is reset after the warm-up, weights stay. */
#include "core/base/mem.h"
#include "core/model/dir.h"
#include "core/model/forward.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    const bench_args *args;
    abl_model *model;
    abl_forward_options options;
    abl_forward_result last;
} run;

static void forward_once(void *user_data) {
    run *r = user_data;
    abl_forward_result_finish(&r->last);
    abl_status status;
    if (abl_forward(&r->options, &r->last, &status) != ABL_CODE_OK) {
        bench_die("%s: %s", status.reason, status.message);
    }
}

static void write_logits(const run *r) {
    size_t count = (size_t)abl_tensor_count(r->last.logits);
    const void *data = abl_tensor_host_data(r->last.logits);
    FILE *file = fopen(r->args->out_path, "wb");
    if (file == NULL || data == NULL || fwrite(data, sizeof(float), count, file) != count ||
        fclose(file) != 0) {
        bench_die("cannot write '%s'", r->args->out_path);
    }
}

static void bench_forward(const bench_args *args, const char *op) {
    run r = {.args = args, .model = bench_load_model(args)};
    r.options = (abl_forward_options){.model = r.model,
                                      .tokens = args->tokens,
                                      .batch = args->batch,
                                      .seq = args->seq,
                                      .stop_at_layer = -1};
    bool last = strcmp(op, "forward_last") == 0;
    r.options.out_slice = last ? ABL_OUT_SLICE_LAST : ABL_OUT_SLICE_ALL;
    r.options.capture_all = strcmp(op, "cache") == 0;
    bench_timing timing = bench_time(forward_once, &r, args->reps);
    bench_emit(abl_model_get_config(r.model), args, op, 0, &timing);
    if (args->out_path != NULL) {
        write_logits(&r);
    }
    abl_forward_result_finish(&r.last);
    abl_model_unref(r.model);
}

int main(int argc, char **argv) {
    abl_backend_choose_kernels(argv); /* as the daemon does */
    static const struct {
        const char *op;
        void (*run)(const bench_args *args, const char *op);
    } benches[] = {
        {"forward", bench_forward},
        {"forward_last", bench_forward},
        {"cache", bench_forward},
        {"masked", bench_masked},
        {"sweep", bench_sweep},
        {"eap", bench_attribution},
        {"ig", bench_attribution},
        {"eap_ig", bench_attribution},
        {"probing", bench_attribution},
        {"probing_first", bench_attribution},
        {"probing_sigmoid", bench_attribution},
        {"exact", bench_exact},
        {"acdc", bench_exact},
        {"prefix_forward", bench_prefix},
        {"prefix_masked", bench_prefix},
        {"prefix_eap", bench_prefix},
    };
    bench_args args;
    bench_parse(argc, argv, &args);
    for (size_t i = 0; i < ABL_COUNT_OF(benches); i++) {
        if (strcmp(argv[1], benches[i].op) == 0) {
            benches[i].run(&args, benches[i].op);
            bench_finish(&args);
            return 0;
        }
    }
    bench_die("no bench is called '%s'", argv[1]);
}
