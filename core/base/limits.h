/* limits.h -- every ceiling in one place. A queue, loop over input, message, string or stream that
 * can grow without one of these is a bug. The daemon's configuration may lower some of them. */
#ifndef ABLATE_CORE_BASE_LIMITS_H
#define ABLATE_CORE_BASE_LIMITS_H

/* The comments are a column: */
/* clang-format off */

/* Names and text */
#define ABL_OWNER_BYTES_MAX 64         /* what a user calls itself, without the NUL */
#define ABL_NAME_BYTES_MAX 256         /* ids, node, edge and hook names, without the NUL */
#define ABL_PATH_BYTES_MAX 4096
#define ABL_TEXT_BYTES_MAX (1 << 20)   /* one prompt to tokenize */

/* Requests */
#define ABL_MESSAGE_BYTES_MAX (16 << 20)       /* one received message */
#define ABL_REPLY_BYTES_MAX (4190000)          /* one sent message: below clients' usual 4 MiB */
#define ABL_CHUNK_BYTES (512 << 10)            /* tensor bytes in one streamed chunk */
#define ABL_BATCH_MAX 1024
#define ABL_SEQ_MAX 8192
#define ABL_DATASET_BYTES_MAX (64 << 20)
#define ABL_PROMPT_COUNT_MAX 100000
#define ABL_ANSWER_COUNT_MAX 1024              /* answers, or wrong answers, of one prompt */
#define ABL_HOOK_COUNT_MAX 4096                /* names in one run_with_cache */
#define ABL_TAU_COUNT_MAX 256                  /* thresholds of one ACDC */
#define ABL_INTERVENTION_COUNT_MAX 256         /* in one pass: a graph's own and the request's */
#define ABL_GRAPH_HOOK_BYTES_MAX (64 << 20)    /* values of one graph's own */
#define ABL_PARAMETER_COLUMN_COUNT_MAX 65536   /* columns of a weight that one call names */
#define ABL_HOOK_INDEX_COUNT_MAX 1024          /* heads, positions or rows that one names */
#define ABL_CIRCUIT_COUNT_MAX 4096             /* circuits in one sweep */
#define ABL_EPOCH_COUNT_MAX 10000              /* of one training of masks */
#define ABL_TRAINING_STEP_COUNT_MAX 1000000    /* epochs times batches, and times circuit sizes */

/* Models */
#define ABL_CONFIG_BYTES_MAX (1 << 20)         /* config.json, index.json */
#define ABL_TOKENIZER_BYTES_MAX (64 << 20)     /* tokenizer.json */
#define ABL_TOKEN_ID_MAX ((1 << 22) - 1)       /* the largest token id */
#define ABL_ADDED_TOKEN_COUNT_MAX 65536        /* added tokens of one tokenizer */
#define ABL_ADDED_TOKEN_BYTES_MAX 4096         /* text of one of them */
#define ABL_REGEX_BYTES_MAX 4096               /* one pattern of a tokenizer.json */
#define ABL_REGEX_MS_MAX 2000                  /* processor time of patterns on one text */
#define ABL_PRE_TOKENIZER_COUNT_MAX 32         /* in one sequence */
#define ABL_SAFETENSORS_HEADER_BYTES_MAX (16 << 20)
#define ABL_SHARD_COUNT_MAX 1024
#define ABL_TENSOR_RANK_MAX 8
#define ABL_TENSOR_COUNT_MAX (1 << 17)          /* tensors in one model */
#define ABL_LAYER_COUNT_MAX 512
#define ABL_HEAD_COUNT_MAX 1024
#define ABL_WIDTH_MAX 65536                    /* d_model, d_mlp, heads times d_head */
#define ABL_VOCAB_MAX (1 << 21)
#define ABL_CONTEXT_MAX (1 << 24)              /* positions that a config may claim */
#define ABL_MODEL_LIST_MAX 1000                /* model folders in one listing */
#define ABL_EDGE_COUNT_MAX (1LL << 27)           /* of one graph, positions included */
#define ABL_MODEL_FOLDER_MAX 100000            /* directory entries that a listing looks at */

/* Resident objects */
#define ABL_MODEL_COUNT_MAX 64
#define ABL_GRAPH_COUNT_MAX 4096
#define ABL_DATASET_COUNT_MAX 1024
#define ABL_JOB_GRACE_MS_MAX 600000            /* of a streamed job whose client is gone */
#define ABL_KV_CACHE_COUNT_MAX 1024
#define ABL_ACTIVATIONS_COUNT_MAX 1024         /* passes whose activations are kept */
#define ABL_IDLE_TIMEOUT_MS_MIN 1000             /* of a graph that goes when nobody uses it */
#define ABL_IDLE_TIMEOUT_MS_MAX 86400000         /* a day */
#define ABL_GRAPH_KV_CACHE_MAX 4               /* KV caches that one graph uses */
#define ABL_JOB_COUNT_MAX 4096
#define ABL_ABLATION_COUNT_MAX 1024
#define ABL_EXECUTOR_QUEUE_MAX 1024

/* Transport */
#define ABL_CALL_COUNT_MAX 1024                /* calls that have started and not finished */
#define ABL_REQUEST_BYTES_TOTAL_MAX (512 << 20) /* requests of all of them, as received */
#define ABL_METADATA_BYTES_MAX (16 << 10)      /* headers of one call */
#define ABL_CONNECTION_COUNT_MAX 512           /* of the HTTP port */
#define ABL_WATCH_COUNT_MAX 256                /* health watches */

#endif
