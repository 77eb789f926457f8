/* options.h -- what the daemon was told: configuration file, then environment, then flags.
 *
 * OWNERSHIP  abl_options_init() fills the caller's struct; abl_options_finish() ends it.
 * THREADS    The main thread, before others start; constant afterwards.
 * ERRORS     INVALID_ARGUMENT  OPTION_UNKNOWN, OPTION_INVALID, CONFIG_MALFORMED
 *            NOT_FOUND         CONFIG_MISSING
 *
 * Every option is one row of the table in options.c: `--memory-budget-mib 4096` is the variable
 * ABLATE_MEMORY_BUDGET_MIB and the configuration key "memory-budget-mib". Secrets never are.
 */
#ifndef ABLATE_SERVER_OPTIONS_H
#define ABLATE_SERVER_OPTIONS_H

#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

ABL_BEGIN_DECLS

#define ABL_OPTION_LIST_MAX 16

typedef struct abl_option_list {
    char *items[ABL_OPTION_LIST_MAX];
    size_t count;
} abl_option_list;

typedef struct abl_options {
    char *listen;                /* gRPC: "127.0.0.1:50051"; port 0: any free one */
    char *http;                  /* gRPC-web, /metrics: "127.0.0.1:8080"; "off": no such port */
    abl_option_list model_roots; /* folders that hold model folders */
    char *web_root;              /* the built dashboard; "": the one beside the build */
    abl_option_list origins;     /* web pages of other origins that may call */
    char *device;                /* "cpu", "cuda", "cuda:1" */
    char *state_dir;             /* uploads are staged below it; "": a folder in TMPDIR */
    char *ready_file;            /* written once serving; "": none */
    char *log_level;
    char *tls_cert; /* PEM files, server/tls.h; "": none */
    char *tls_key;
    char *tls_client_ca;
    int64_t threads;           /* compute threads of the CPU; 0: libtorch's default */
    int64_t memory_budget_mib; /* working memory that one request may take; 0: what is free */
    int64_t kv_cache_mib;      /* of all KV caches together */
    int64_t jobs_max;          /* jobs that wait or run */
    int64_t drain_ms;          /* after SIGTERM, calls still running after this are cancelled */
    bool insecure_bind_any;    /* serve without authentication on an address that others reach */
} abl_options;

typedef enum abl_command {
    ABL_COMMAND_SERVE,
    ABL_COMMAND_CHECK_CONFIG,
    ABL_COMMAND_VERSION,
    ABL_COMMAND_HELP,
} abl_command;

/* Reads them all and checks each by itself. On failure there is nothing to finish. */
ABL_MUST_CHECK abl_code abl_options_init(int argc, char **argv, abl_options *ret_options,
                                         abl_command *ret_command, abl_status *ret_status);
void abl_options_finish(abl_options *options);

void abl_options_print_help(FILE *file);
/* The options in force, as JSON: what a configuration file would say. */
void abl_options_print(const abl_options *options, FILE *file);

/* Refuses addresses that other machines reach, unless clients need a certificate, or
 * insecure_bind_any says so.
 *   INVALID_ARGUMENT  BIND_NOT_LOOPBACK */
ABL_MUST_CHECK abl_code abl_options_check_bind(const abl_options *options, abl_status *ret_status);

ABL_END_DECLS
#endif
