/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval.c -- `ablate eval JOB`: how faithful circuits of the job's best edges are, by size. */
#include "clients/cli/cli.h"
#include "core/base/limits.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define METRIC_COUNT_MAX 16 /* as many as there are */
#define METRIC_PREFIX "METRIC_"

static const struct {
    const char *name; /* of --metrics */
    const char *title;
    Ablate__V1__Metric metric;
} metrics[] = {
    {"kl-div", "KL divergence", ABLATE__V1__METRIC__METRIC_KL_DIV},
    {"answer-diff", "logit difference", ABLATE__V1__METRIC__METRIC_ANSWER_DIFF},
    {"answer-diff-percent", "difference kept", ABLATE__V1__METRIC__METRIC_ANSWER_DIFF_PERCENT},
    {"answer-value", "answer logit", ABLATE__V1__METRIC__METRIC_ANSWER_VALUE},
    {"correct-percent", "accuracy", ABLATE__V1__METRIC__METRIC_CORRECT_ANSWER_PERCENT},
};

/* The title of its column: the list above, or its own name. */
static const char *metric_title(Ablate__V1__Metric metric) {
    for (size_t i = 0; i < ABL_COUNT_OF(metrics); i++) {
        if (metrics[i].metric == metric) {
            return metrics[i].title;
        }
    }
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(&ablate__v1__metric__descriptor, (int)metric);
    return value == NULL ? "?" : value->name + strlen(METRIC_PREFIX);
}

/* By the short names above, or any metric's own, in lower case and with dashes. */
static bool metric_find(const char *name, Ablate__V1__Metric *ret_metric) {
    for (size_t i = 0; i < ABL_COUNT_OF(metrics); i++) {
        if (strcmp(metrics[i].name, name) == 0) {
            *ret_metric = metrics[i].metric;
            return true;
        }
    }
    char full[96];
    (void)snprintf(full, sizeof full, METRIC_PREFIX "%s", name);
    for (char *at = full; *at != '\0'; at++) {
        *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
    }
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value_by_name(&ablate__v1__metric__descriptor, full);
    if (value == NULL || value->value == 0) {
        return false;
    }
    *ret_metric = (Ablate__V1__Metric)value->value;
    return true;
}

typedef struct sweep {
    const abl_cli *cli;
    abl_progress progress;
    abl_table *table;
    abl_table *areas; /* filled by the last row */
    abl_column columns[METRIC_COUNT_MAX + 1];
    int64_t sizes[ABL_CIRCUIT_COUNT_MAX];
    double shares[ABL_CIRCUIT_COUNT_MAX];
    size_t share_count;
    Ablate__V1__EdgeCounts counts; /* a rule */
    Ablate__V1__Metric wanted[METRIC_COUNT_MAX];
    Ablate__V1__CircuitSweep message;
    Ablate__V1__EvaluateCircuitsRequest request;
    double firsts[ABL_CIRCUIT_COUNT_MAX]; /* (row) the first metric, which is drawn as bars */
    size_t row_count;
    int code;
} sweep;

static void add_cell(sweep *run, const Ablate__V1__MetricValue *value) {
    if (value->metric == ABLATE__V1__METRIC__METRIC_KL_DIV) {
        abl_table_add(run->table, "%.5g", value->value);
    } else if (value->metric == ABLATE__V1__METRIC__METRIC_ANSWER_DIFF_PERCENT ||
               value->metric == ABLATE__V1__METRIC__METRIC_CORRECT_ANSWER_PERCENT) {
        abl_table_add(run->table, "%.1f%%", value->value);
    } else {
        abl_table_add(run->table, "%.4f", value->value);
    }
}

static const abl_column area_columns[] = {{"area of", false, true}, {"AUC", true, false},
                                          {"linear", true, false},  {"plain", true, false},
                                          {"CPR", true, false},     {"CMD", true, false}};

static void add_areas(sweep *run, const Ablate__V1__EvaluateCircuitsResponse *row) {
    for (size_t i = 0; i < row->n_areas; i++) {
        const Ablate__V1__MetricArea *area = row->areas[i];
        abl_table_add(run->areas, "%s", metric_title(area->metric));
        abl_table_add(run->areas, "%.5g", area->auc);
        abl_table_add(run->areas, "%.5g", area->auc_linear);
        abl_table_add(run->areas, "%.5g", area->trapezoid);
        abl_table_add(run->areas, "%.4f", area->cpr);
        abl_table_add(run->areas, "%.4f", area->cmd);
    }
}

static void show_progress(sweep *run, const Ablate__V1__SweepProgress *at) {
    char tail[64];
    (void)snprintf(tail, sizeof tail, "%lld of %lld passes", (long long)at->done_count,
                   (long long)at->total_count);
    abl_progress_show(&run->progress,
                      at->total_count > 0 ? (double)at->done_count / (double)at->total_count : -1,
                      "evaluating", tail, false);
}

static bool on_circuit(const ProtobufCMessage *message, void *user_data) {
    sweep *run = user_data;
    const Ablate__V1__EvaluateCircuitsResponse *row =
        (const Ablate__V1__EvaluateCircuitsResponse *)message;
    if (run->cli->json) {
        run->code = abl_cli_put_json(run->cli, abl_json_of(message), true);
        return run->code == ABL_EXIT_OK;
    }
    if (row->progress != NULL) {
        show_progress(run, row->progress);
        return true;
    }
    add_areas(run, row);
    if (run->row_count < ABL_CIRCUIT_COUNT_MAX) {
        run->firsts[run->row_count++] = row->n_values > 0 ? row->values[0]->value : 0;
    }
    abl_table_add(run->table, "%lld", (long long)row->edge_count);
    for (size_t i = 0; i < run->request.n_metrics; i++) {
        if (i < row->n_values) {
            add_cell(run, row->values[i]);
        } else {
            abl_table_add(run->table, "-");
        }
    }
    return true;
}

/* "all", "logarithmic" or "groups": the rule's number; 0: none of them. */
static int rule_of(const char *name) {
    static const char *const rules[] = {"all", "logarithmic", "groups"};
    for (size_t i = 0; i < ABL_COUNT_OF(rules); i++) {
        if (strcmp(name, rules[i]) == 0) {
            return (int)i + 1;
        }
    }
    return 0;
}

/* One size: a number of edges, or, with a point in it, a share of all of them. */
static int parse_size(sweep *run, const char *item) {
    char *end = NULL;
    bool share = strchr(item, '.') != NULL;
    double value = share ? strtod(item, &end) : (double)strtoll(item, &end, 10);
    if (end == item || *end != '\0' || !(value >= 0) || (share && value > 1)) {
        return abl_cli_usage(run->cli,
                             rule_of(item) != 0
                                 ? "--sizes: '%s' stands alone; in a list the whole graph is 1.0"
                                 : "--sizes takes numbers of edges (100), shares of all edges "
                                   "(0.1), or one of all, logarithmic and groups, not '%s'",
                             item);
    }
    if (run->message.n_edge_counts + run->share_count == ABL_CIRCUIT_COUNT_MAX) {
        return abl_cli_usage(run->cli, "--sizes takes at most %d sizes", ABL_CIRCUIT_COUNT_MAX);
    }
    if (share) {
        run->shares[run->share_count++] = value;
    } else {
        run->sizes[run->message.n_edge_counts++] = (int64_t)value;
    }
    return ABL_EXIT_OK;
}

static int parse_sizes(sweep *run, const char *list) {
    char item[32];
    int rule = list == NULL ? 0 : rule_of(list);
    run->message.edge_counts = run->sizes;
    if (rule != 0) {
        run->counts.kind = (Ablate__V1__EdgeCountsKind)rule;
        run->message.sizes = &run->counts;
        return ABL_EXIT_OK;
    }
    while (abl_list_next(&list, item, sizeof item)) {
        int code = parse_size(run, item);
        if (code != ABL_EXIT_OK) {
            return code;
        }
    }
    return ABL_EXIT_OK;
}

/* Shares as numbers of edges of the job's graph. EdgeCounts.shares are AutoCircuit's, whose rules
 * leave 0 and all out of short lists and add them to long ones; here, what is asked for is run. */
static int resolve_shares(abl_cli *cli, sweep *run) {
    static const abl_rpc_method get_job = ABL_RPC("PruneService", "GetJob", get_job);
    static const abl_rpc_method get_graph = ABL_RPC("GraphService", "GetGraph", get_graph);
    int code = ABL_EXIT_OK;
    if (run->share_count == 0) {
        return code;
    }
    Ablate__V1__GetJobRequest job = ABLATE__V1__GET_JOB_REQUEST__INIT;
    job.job_id = run->message.job_id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *found = abl_cli_call(cli, &get_job, &job.base, &code);
    if (found == NULL) {
        return code;
    }
    Ablate__V1__GetGraphRequest graph = ABLATE__V1__GET_GRAPH_REQUEST__INIT;
    graph.graph_id = ((const Ablate__V1__GetJobResponse *)found)->job->spec->graph_id;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &get_graph, &graph.base, &code);
    if (response == NULL) {
        return code;
    }
    int64_t edge_count = ((const Ablate__V1__GetGraphResponse *)response)->graph->edge_count;
    for (size_t i = 0; i < run->share_count; i++) {
        run->sizes[run->message.n_edge_counts++] = (int64_t)(run->shares[i] * (double)edge_count);
    }
    return code;
}

static int parse_metrics(sweep *run, const char *list) {
    char item[64];
    while (abl_list_next(&list, item, sizeof item)) {
        if (run->request.n_metrics == METRIC_COUNT_MAX ||
            !metric_find(item, &run->wanted[run->request.n_metrics])) {
            return abl_cli_usage(run->cli,
                                 "--metrics takes a few of kl-div, answer-diff, "
                                 "answer-diff-percent, answer-value, correct-percent and the "
                                 "others of Metric in evaluate.proto, not '%s'",
                                 item);
        }
        run->request.n_metrics++;
    }
    run->request.metrics = run->wanted;
    return ABL_EXIT_OK;
}

static bool make_table(sweep *run) {
    run->columns[0] = (abl_column){"edges", true, false};
    for (size_t i = 0; i < run->request.n_metrics; i++) {
        run->columns[i + 1] = (abl_column){metric_title(run->wanted[i]), true, false};
    }
    run->table = abl_table_create(run->columns, run->request.n_metrics + 1);
    run->areas = abl_table_create(area_columns, ABL_COUNT_OF(area_columns));
    return run->table != NULL && run->areas != NULL;
}

static bool is_percent(Ablate__V1__Metric metric) {
    return strstr(metric_title(metric), "PERCENT") != NULL ||
           metric == ABLATE__V1__METRIC__METRIC_ANSWER_DIFF_PERCENT ||
           metric == ABLATE__V1__METRIC__METRIC_CORRECT_ANSWER_PERCENT;
}

/* The first metric as bars, to 100 percent or to its largest value. */
static void draw_bars(sweep *run) {
    double largest = is_percent(run->wanted[0]) ? 100 : 0;
    for (size_t i = 0; i < run->row_count; i++) {
        largest = run->firsts[i] > largest ? run->firsts[i] : largest;
    }
    for (size_t i = 0; i < run->row_count; i++) {
        run->firsts[i] = largest > 0 && run->firsts[i] > 0 ? run->firsts[i] / largest : 0;
    }
    abl_table_bars(run->table, metric_title(run->wanted[0]), run->firsts, run->row_count);
}

static int evaluate(abl_cli *cli, sweep *run) {
    static const abl_rpc_method method =
        ABL_RPC("EvaluateService", "EvaluateCircuits", evaluate_circuits);
    run->request.sweep = &run->message;
    abl_progress_init(&run->progress, stderr, cli->json);
    abl_rpc_error error = {0};
    abl_code code = abl_rpc_stream(cli->rpc, &method, &run->request.base, on_circuit, run, &error);
    abl_progress_finish(&run->progress);
    if (code != ABL_CODE_OK) {
        return abl_cli_failed(cli, &error);
    }
    if (cli->json || run->code != ABL_EXIT_OK) {
        return run->code;
    }
    draw_bars(run);
    int printed = abl_cli_print_table(cli, run->table);
    if (printed != ABL_EXIT_OK || !cli->args->given[ABL_OPTION_AREAS]) {
        return printed;
    }
    fputc('\n', stdout);
    return abl_cli_print_table(cli, run->areas);
}

int abl_cmd_eval(abl_cli *cli) {
    const abl_args *args = cli->args;
    sweep run = {
        .cli = cli,
        .message = ABLATE__V1__CIRCUIT_SWEEP__INIT,
        .request = ABLATE__V1__EVALUATE_CIRCUITS_REQUEST__INIT,
        .counts = ABLATE__V1__EDGE_COUNTS__INIT,
    };
    ABL_CLEANUP(abl_freep)
    char *ablation =
        abl_strdup(args->given[ABL_OPTION_ABLATION_ID] ? args->text[ABL_OPTION_ABLATION_ID] : "");
    run.message.job_id = args->operands[0];
    run.message.ablation_id = ablation;
    /* The choices of --patch, from 1, are PatchType's numbers. */
    run.message.patch_type = (Ablate__V1__PatchType)args->count[ABL_OPTION_PATCH];
    run.message.ablation_type = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
    run.message.signed_scores = args->given[ABL_OPTION_SIGNED];
    run.message.batch_size = (int32_t)args->count[ABL_OPTION_BATCH_SIZE];
    run.message.prompt_count = (int32_t)args->count[ABL_OPTION_PROMPTS];
    run.message.tail_divergence = args->given[ABL_OPTION_TAIL];
    int code = parse_sizes(&run, args->text[ABL_OPTION_SIZES]);
    if (code == ABL_EXIT_OK) {
        code = parse_metrics(&run, args->given[ABL_OPTION_METRICS]
                                       ? args->text[ABL_OPTION_METRICS]
                                       : "kl-div,answer-diff,correct-percent");
    }
    if (code != ABL_EXIT_OK) {
        return code;
    }
    abl_cli_interventions set = {.count = 0};
    code = abl_cli_read_interventions(cli, &set);
    if (code != ABL_EXIT_OK) {
        return code;
    }
    run.message.interventions = set.items;
    run.message.n_interventions = set.count;
    ABL_CLEANUP(abl_freep) char *dataset = NULL; /* NULL: the job's own */
    if (args->given[ABL_OPTION_DATASET]) {
        dataset = abl_cli_dataset(cli, &code);
        run.message.dataset_id = dataset;
    }
    if (code == ABL_EXIT_OK) {
        code = resolve_shares(cli, &run);
    }
    if (code == ABL_EXIT_OK) {
        code = make_table(&run) ? evaluate(cli, &run) : abl_cli_error(cli, "out of memory");
    }
    abl_interventions_free(&set);
    abl_table_destroy(run.table);
    abl_table_destroy(run.areas);
    return code;
}
