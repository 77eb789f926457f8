/* options.h -- every option of every command, in one table, and the arguments after parsing.
 *
 * OWNERSHIP  Texts in abl_args are borrowed from argv or the environment.
 * THREADS    One thread.
 *
 * A command names the options it takes as a set of bits; getopt_long(), the checks and the help are
 * all made from the table, so an option is written down once.
 */
#ifndef ABLATE_CLI_OPTIONS_H
#define ABLATE_CLI_OPTIONS_H

#include "clients/cli/text.h"

ABL_BEGIN_DECLS

/* X(NAME, "long", 'short' or 0, KIND, ceiling, "ARGUMENT" or choices, "help") */
#define ABL_OPTION_MAP(X)                                                                          \
    X(HOST, "host", 'H', TEXT, 0, "HOST:PORT",                                                     \
      "where ablated listens, https://HOST:PORT with TLS [ABLATE_HOST, 127.0.0.1:50051]")          \
    X(TLS_CA, "tls-ca", 0, TEXT, 0, "FILE",                                                        \
      "who signed ablated's certificate, in PEM [ABLATE_TLS_CA, the system's authorities]")        \
    X(CLIENT_CERT, "client-cert", 0, TEXT, 0, "FILE",                                              \
      "a certificate for an ablated that asks for one, in PEM [ABLATE_CLIENT_CERT]")               \
    X(CLIENT_KEY, "client-key", 0, TEXT, 0, "FILE", "its private key [ABLATE_CLIENT_KEY]")         \
    X(TOKEN_FILE, "token-file", 0, TEXT, 0, "FILE",                                                \
      "a file with the bearer token [ABLATE_TOKEN_FILE; ABLATE_TOKEN holds a token itself]")       \
    X(JSON, "json", 'j', FLAG, 0, "", "print JSON: one document, or one a line for streams")       \
    X(TIMEOUT, "timeout", 0, NUMBER, 1e6, "SECONDS", "how long a call may take [no limit]")        \
    X(HELP, "help", 'h', FLAG, 0, "", "show this help")                                            \
    X(MODEL, "model", 'm', TEXT, 0, "MODEL", "a model's name or id [the only resident one]")       \
    X(MODE, "mode", 0, CHOICE, 0, "hf|tl",                                                         \
      "weights as in the files, or processed as TransformerLens and AutoCircuit do [hf]")          \
    X(DTYPE, "dtype", 0, CHOICE, 0, "float32|float16|bfloat16",                                    \
      "element type of the weights [float32]")                                                     \
    X(DEVICE, "device", 0, TEXT, 0, "DEVICE", "cpu, cuda, cuda:N [the daemon's default]")          \
    X(HOOKS, "hooks", 0, FLAG, 0, "", "list the hook points instead")                              \
    X(PARAMETERS, "parameters", 0, FLAG, 0, "", "list the weights by name instead")                \
    X(BOS, "bos", 0, CHOICE, 0, "prepend|none", "whether BOS goes in front [the model's habit]")   \
    X(TOP, "top", 'n', COUNT, 1000, "N", "how many to show [10; graph edges: all]")                \
    X(GRAPH, "graph", 'g', TEXT, 0, "GRAPH", "a graph's id")                                       \
    X(CORRUPT, "corrupt", 0, TEXT, 0, "TEXT", "prompt whose activations replace ablated ones")     \
    X(INTERVENE, "intervene", 0, TEXT, 0, "SPEC",                                                  \
      "change what is at hook points: 'blocks.9.attn.hook_z zero heads=1,6; "                      \
      "blocks.3.hook_mlp_out "                                                                     \
      "scale 0.5 pos=-1' (zero, mean over=rows,pos, scale X, clamp LOW HIGH; heads, pos, rows)")   \
    X(MERGE_QKV, "merge-qkv", 0, FLAG, 0, "", "one destination a head, instead of its q, k and v") \
    X(SIMPLE, "simple", 0, FLAG, 0, "",                                                            \
      "the residual stream node by node (node ablation), instead of all edges")                    \
    X(EXPAND_KV, "expand-kv", 0, FLAG, 0, "",                                                      \
      "grouped queries: a key and value destination for each query head")                          \
    X(SEQ_LEN, "seq-len", 0, COUNT, 8192, "N", "separate edges for each of N token positions")     \
    X(IDLE_TIMEOUT, "idle-timeout", 0, NUMBER, 86400, "SECONDS",                                   \
      "the graph ends when nobody has used it for so long [it stays]")                             \
    X(FROM, "from", 0, TEXT, 0, "NODE", "only edges from this node")                               \
    X(TO, "to", 0, TEXT, 0, "NODE", "only edges into this node")                                   \
    X(POSITION, "position", 0, COUNT, 8191, "N", "only edges at this token position")              \
    X(DIALECT, "dialect", 0, CHOICE, 0, "autocircuit|eap", "how edges are written [autocircuit]")  \
    X(NAME, "name", 0, TEXT, 0, "NAME", "the name in listings [the dataset file's name]")          \
    X(DATASET, "dataset", 'd', TEXT, 0, "FILE|ID",                                                 \
      "a dataset file in AutoCircuit's JSON, or the id of an uploaded one")                        \
    X(ALGORITHM, "algorithm", 'a', CHOICE, 0,                                                      \
      "eap|mask-gradient|ground-truth|random|activation-magnitude|eap-ig|subnetwork-probing|"      \
      "circuit-probing|acdc",                                                                      \
      "how edges get their scores [eap]")                                                          \
    X(METHOD, "method", 0, CHOICE, 0, "inputs|activations|clean-corrupted",                        \
      "eap-ig: what goes from corrupt to clean [inputs]")                                          \
    X(STEPS, "steps", 0, COUNT, 1000, "N", "eap-ig: points on the way [5]")                        \
    X(IG, "ig", 0, COUNT, 1000, "N", "mask-gradient: integrated gradients over N steps [none]")    \
    X(GRAD, "grad", 0, CHOICE, 0, "logit|prob|logprob|logit-exp",                                  \
      "mask-gradient, eap-ig: what the answers are measured in [logit]")                           \
    X(ANSWER, "answer", 0, CHOICE, 0, "avg-diff|avg-val|mse",                                      \
      "mask-gradient, eap-ig: how the answers make a loss [avg-diff]")                             \
    X(MASK_VALUE, "mask-value", 0, NUMBER, 1e6, "X", "mask-gradient: value of every mask [0]")     \
    X(ABLATION, "ablation", 0, CHOICE, 0,                                                          \
      "resample|zero|tokenwise-mean-clean|tokenwise-mean-corrupt|"                                 \
      "tokenwise-mean-clean-and-corrupt|batch-tokenwise-mean|batch-all-tok-mean",                  \
      "what ablated edges carry [resample; ablations create: tokenwise-mean-corrupt]")             \
    X(ABLATION_ID, "ablation-id", 0, TEXT, 0, "ABLATION", "a resident ablation instead")           \
    X(CLEAN, "clean", 0, FLAG, 0, "", "the clean prompts ablate, not the corrupt ones")            \
    X(PATCH, "patch", 0, CHOICE, 0, "edge|tree", "ablate the circuit, or everything else [tree]")  \
    X(EDGES, "edges", 0, TEXT, 0, "A->B,...", "ground-truth, acdc: only these edges")              \
    X(TAU, "tau", 0, TEXT, 0, "X,X,...",                                                           \
      "acdc: what removing an edge may cost, ascending [20 values from 1e-5 to 0.09]")             \
    X(SEED, "seed", 0, COUNT, 9e18, "N", "random, probing: seed of the generator [0]")             \
    X(EPOCHS, "epochs", 0, COUNT, 10000, "N", "probing: passes over the prompts [20]")             \
    X(LEARNING_RATE, "learning-rate", 0, NUMBER, 100, "X", "probing: Adam's [0.1]")                \
    X(LAMBDA, "lambda", 0, NUMBER, 1e9, "X", "probing: what the circuit's size costs [10]")        \
    X(MASK_FN, "mask-fn", 0, CHOICE, 0, "none|sigmoid|hard-concrete",                              \
      "probing: what masks go through [hard-concrete]")                                            \
    X(TARGET, "target", 0, CHOICE, 0,                                                              \
      "kl-div|mse|answer|wrong-answer|correct-percent|logit-diff-percent|answer-diff",             \
      "probing, acdc (kl-div, mse, answer-diff): what the circuit is to keep [kl-div]")            \
    X(TREE, "tree", 0, FLAG, 0, "", "probing: run the clean prompt and ablate what can be")        \
    X(AVOID, "avoid", 0, TEXT, 0, "A->B,...", "probing: edges that cost more in a circuit")        \
    X(BATCH_SIZE, "batch-size", 'b', COUNT, 1024, "N", "prompts a batch [8]")                      \
    X(PROMPTS, "prompts", 'p', COUNT, 100000, "N", "only the first N prompts [all]")               \
    X(TAIL, "tail-divergence", 0, FLAG, 0, "",                                                     \
      "run the prefix that all prompts share once, and cover only the tails behind it")            \
    X(OUT, "out", 'o', TEXT, 0, "FILE", "save the scores of all edges in this file")               \
    X(SIZES, "sizes", 0, TEXT, 0, "N,N,...",                                                       \
      "circuit sizes: edges (100), shares of all (0.1), or all, logarithmic, groups "              \
      "[eval: 0, 1..10, 20..100, ..., all; subnetwork-probing, in edges: none]")                   \
    X(METRICS, "metrics", 0, TEXT, 0, "M,M,...",                                                   \
      "of kl-div, answer-diff, answer-diff-percent, answer-value, correct-percent, ...: see "      \
      "Metric in evaluate.proto [kl-div, answer-diff, correct-percent]")                           \
    X(AREAS, "areas", 0, FLAG, 0, "", "areas under the curves, too: AUC, MIB's CPR and CMD")       \
    X(SIGNED, "signed", 0, FLAG, 0, "", "rank edges by score, not by its size, as for MIB's CPR")  \
    X(STATE, "state", 0, CHOICE, 0, "queued|running|succeeded|failed|cancelled",                   \
      "only jobs in this state")                                                                   \
    X(ROC, "roc", 0, COUNT, 9e15, "N",                                                             \
      "also the ROC curve of the first job against the second's N best edges (0: all not 0)")      \
    X(WATCH, "watch", 'w', FLAG, 0, "", "look again and again, until Ctrl-C")                      \
    X(INTERVAL, "interval", 0, NUMBER, 86400, "SECONDS", "with --watch: how often to look [1]")    \
    X(AFTER, "after", 0, COUNT, 9e18, "SEQUENCE", "only events after this one")

typedef enum abl_option {
#define X(name, ...) ABL_OPTION_##name,
    ABL_OPTION_MAP(X)
#undef X
        ABL_OPTION_COUNT
} abl_option;

/* One bit an option; wider than any C11 type has to be, as every compiler we build with has it. */
__extension__ typedef unsigned __int128 abl_option_set;
#define ABL_TAKES(name) ((abl_option_set)1 << ABL_OPTION_##name)

/* Each command takes these. */
#define ABL_TAKES_GLOBAL                                                                           \
    (ABL_TAKES(HOST) | ABL_TAKES(TLS_CA) | ABL_TAKES(CLIENT_CERT) | ABL_TAKES(CLIENT_KEY) |        \
     ABL_TAKES(TOKEN_FILE) | ABL_TAKES(JSON) | ABL_TAKES(TIMEOUT) | ABL_TAKES(HELP))

/* What was given; zero where an option was not. */
typedef struct abl_args {
    bool given[ABL_OPTION_COUNT];
    const char *text[ABL_OPTION_COUNT];
    int64_t count[ABL_OPTION_COUNT]; /* COUNT; for CHOICE, the place among the choices from 1 */
    double number[ABL_OPTION_COUNT];
    char **operands; /* what is no option */
    int operand_count;
} abl_args;

/* Parses argv[1..]; options and operands may mix, "--" ends the options. On a fault writes the
 * sentence into `problem` and returns false. argv is permuted. */
ABL_MUST_CHECK bool abl_args_parse(abl_args *args, abl_option_set takes, int argc, char **argv,
                                   char *problem, size_t problem_size);

/* How many words from argv[1] on are options of the set and their values. */
int abl_args_leading(abl_option_set takes, int argc, char **argv);

/* The options of a set, one or more lines each. */
void abl_options_help(FILE *out, const abl_term *term, abl_option_set takes);

/* One option, as the manual page and completion see it. `argument` is "" for a flag; where `choice`
 * is set it holds the choices, "a|b|c". */
typedef struct abl_option_view {
    const char *name;
    char letter; /* 0: none */
    bool choice;
    const char *argument;
    const char *help;
} abl_option_view;
abl_option_view abl_option_of(int option);

/* Splits "1,2,3": the next item of *list into `item`, false at the end; moves *list on. */
bool abl_list_next(const char **list, char *item, size_t item_size);

ABL_END_DECLS
#endif
