/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_discover.c -- `ablate discover`: from a model and a dataset to the edges that matter, in one
 * command: load the model, make the graph, upload the dataset, and follow the job.
 *
 * Each step is skipped where its outcome is there already, so a second run starts at the job. A
 * graph with the wanted options is used again rather than made twice: a job does not look at the
 * graph's mask, so sharing one is harmless; but it runs with the graph's hooks, so one that has any
 * is passed over.
 */
#include "clients/cli/job_view.h"
#include "clients/cli/out_file.h"
#include "clients/cli/scores_file.h"
#include "core/base/limits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOP_DEFAULT 10
#define GRACE_MS 15000 /* how long a job waits for us after a lost connection */

static bool same_options(const Ablate__V1__GraphOptions *a, const Ablate__V1__GraphOptions *b) {
    return a != NULL && a->kind == b->kind && a->merge_qkv == b->merge_qkv &&
           a->seq_len == b->seq_len && a->expand_kv_heads == b->expand_kv_heads &&
           a->n_kv_cache_ids == 0;
}

typedef struct graph_search {
    const Ablate__V1__GraphOptions *options;
    char *graph_id;
} graph_search;

static bool on_graphs(const ProtobufCMessage *page, void *user_data) {
    graph_search *search = user_data;
    const Ablate__V1__ListGraphsResponse *list = (const Ablate__V1__ListGraphsResponse *)page;
    for (size_t i = 0; i < list->n_graphs && search->graph_id == NULL; i++) {
        if (list->graphs[i]->hook_count == 0 &&
            same_options(list->graphs[i]->options, search->options)) {
            search->graph_id = abl_strdup(list->graphs[i]->graph_id);
        }
    }
    return search->graph_id == NULL;
}

/* The id of a graph over the model with the wanted options; NULL: said already. */
static char *find_or_create_graph(abl_cli *cli, char *model_id, int *ret_exit) {
    static const abl_rpc_method list = ABL_RPC("GraphService", "ListGraphs", list_graphs);
    static const abl_rpc_method create = ABL_RPC("GraphService", "CreateGraph", create_graph);
    Ablate__V1__GraphOptions options = ABLATE__V1__GRAPH_OPTIONS__INIT;
    abl_cli_graph_options(cli, &options);
    Ablate__V1__ListGraphsRequest listing = ABLATE__V1__LIST_GRAPHS_REQUEST__INIT;
    listing.model_id = model_id;
    graph_search search = {.options = &options};
    abl_rpc_error error = {0};
    if (abl_rpc_pages(cli->rpc, &list, &listing.base, on_graphs, &search, &error) != ABL_CODE_OK) {
        *ret_exit = abl_cli_failed(cli, &error);
        return NULL;
    }
    if (search.graph_id != NULL) {
        return search.graph_id;
    }
    Ablate__V1__CreateGraphRequest request = ABLATE__V1__CREATE_GRAPH_REQUEST__INIT;
    request.model_id = model_id;
    request.options = &options;
    ABL_CLEANUP(abl_rpc_freep)
    ProtobufCMessage *response = abl_cli_call(cli, &create, &request.base, ret_exit);
    if (response == NULL) {
        return NULL;
    }
    return abl_strdup(((const Ablate__V1__CreateGraphResponse *)response)->graph->graph_id);
}

/* --model may be resident under some id, or a name to load. */
static Ablate__V1__GetModelResponse *resident_or_load(abl_cli *cli, int *ret_exit) {
    static const abl_rpc_method get = ABL_RPC("ModelService", "GetModel", get_model);
    const abl_args *args = cli->args;
    if (!args->given[ABL_OPTION_MODEL]) {
        return abl_cli_model(cli, ret_exit);
    }
    const char *name = args->text[ABL_OPTION_MODEL];
    bool particular = args->given[ABL_OPTION_MODE] || args->given[ABL_OPTION_DTYPE] ||
                      args->given[ABL_OPTION_DEVICE];
    if (!particular) {
        ABL_CLEANUP(abl_freep) char *id = abl_strdup(name);
        Ablate__V1__GetModelRequest request = ABLATE__V1__GET_MODEL_REQUEST__INIT;
        request.model_id = id;
        ProtobufCMessage *response = NULL;
        abl_rpc_error error = {0};
        if (abl_rpc_unary(cli->rpc, &get, &request.base, &response, &error) == ABL_CODE_OK) {
            return (Ablate__V1__GetModelResponse *)response;
        }
        if (error.code != ABL_CODE_NOT_FOUND) {
            *ret_exit = abl_cli_failed(cli, &error);
            return NULL;
        }
    }
    return abl_cli_load(cli, name, ret_exit);
}

char *abl_cli_graph(abl_cli *cli, int *ret_exit) {
    static const abl_option of_new[] = {
        ABL_OPTION_MODE,      ABL_OPTION_DTYPE,     ABL_OPTION_DEVICE, ABL_OPTION_SIMPLE,
        ABL_OPTION_MERGE_QKV, ABL_OPTION_EXPAND_KV, ABL_OPTION_SEQ_LEN};
    if (cli->args->given[ABL_OPTION_GRAPH]) {
        for (size_t i = 0; i < ABL_COUNT_OF(of_new); i++) {
            if (cli->args->given[of_new[i]]) {
                *ret_exit =
                    abl_cli_usage(cli,
                                  "--%s is for a graph that is made anew, and --graph names "
                                  "one that is there: leave one of them out",
                                  abl_option_of((int)of_new[i]).name);
                return NULL;
            }
        }
        return abl_strdup(cli->args->text[ABL_OPTION_GRAPH]);
    }
    Ablate__V1__GetModelResponse *model = resident_or_load(cli, ret_exit);
    if (model == NULL) {
        return NULL;
    }
    char *graph_id = find_or_create_graph(cli, model->model->model_id, ret_exit);
    abl_rpc_free(&model->base);
    return graph_id;
}

/* --- The job ---------------------------------------------------------------------------------- */

/* The algorithms' options, which the spec points to. */
typedef struct algorithms {
    Ablate__V1__EdgeAttributionPatching eap;
    Ablate__V1__MaskGradient gradient;
    Ablate__V1__GroundTruth truth;
    Ablate__V1__RandomScores random;
    Ablate__V1__ActivationMagnitude magnitude;
    Ablate__V1__EapIg eap_ig;
    Ablate__V1__SubnetworkProbing training;
    Ablate__V1__CircuitProbing circuits;
    int64_t sizes[ABL_CIRCUIT_COUNT_MAX];
    Ablate__V1__Acdc acdc;
    double taus[ABL_TAU_COUNT_MAX];
    char **edges;
    size_t edge_count;
} algorithms;

static bool split_edges(algorithms *all, const char *list) {
    char item[600];
    while (abl_list_next(&list, item, sizeof item)) {
        char **larger = abl_realloc_array(all->edges, all->edge_count + 1, sizeof *larger);
        if (larger == NULL) {
            return false;
        }
        all->edges = larger;
        all->edges[all->edge_count] = abl_strdup(item);
        if (all->edges[all->edge_count] == NULL) {
            return false;
        }
        all->edge_count++;
    }
    return true;
}

static void algorithms_finish(algorithms *all) {
    for (size_t i = 0; i < all->edge_count; i++) {
        abl_free(all->edges[i]);
    }
    abl_free(all->edges);
}

static void set_gradient(const abl_args *args, Ablate__V1__MaskGradient *gradient) {
    gradient->ablation_type = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
    gradient->grad_function = (Ablate__V1__GradFunction)args->count[ABL_OPTION_GRAD];
    gradient->answer_function = (Ablate__V1__AnswerFunction)args->count[ABL_OPTION_ANSWER];
    if (args->given[ABL_OPTION_IG]) {
        gradient->at_case = ABLATE__V1__MASK_GRADIENT__AT_INTEGRATED_GRAD_SAMPLES;
        gradient->integrated_grad_samples = (int32_t)args->count[ABL_OPTION_IG];
    } else if (args->given[ABL_OPTION_MASK_VALUE]) {
        gradient->at_case = ABLATE__V1__MASK_GRADIENT__AT_MASK_VALUE;
        gradient->mask_value = (float)args->number[ABL_OPTION_MASK_VALUE];
    }
}

#define TARGET_TRAININGS 6 /* choices of --target from the first that trainings have */

/* The choices of --algorithm, in the order of options.h; eap where it was not given. */
enum {
    ALGORITHM_EAP = 1,
    ALGORITHM_MASK_GRADIENT,
    ALGORITHM_GROUND_TRUTH,
    ALGORITHM_RANDOM,
    ALGORITHM_MAGNITUDE,
    ALGORITHM_EAP_IG,
    ALGORITHM_SUBNETWORK_PROBING,
    ALGORITHM_CIRCUIT_PROBING,
    ALGORITHM_ACDC,
};

#define OF(name) (1U << ALGORITHM_##name)
#define OF_TRAININGS (OF(SUBNETWORK_PROBING) | OF(CIRCUIT_PROBING))

/* The options that are some algorithms' own. With others they would do nothing unseen. */
static const struct {
    abl_option option;
    unsigned of;
} owned_options[] = {
    {ABL_OPTION_METHOD, OF(EAP_IG)},
    {ABL_OPTION_STEPS, OF(EAP_IG)},
    {ABL_OPTION_IG, OF(MASK_GRADIENT)},
    {ABL_OPTION_MASK_VALUE, OF(MASK_GRADIENT)},
    {ABL_OPTION_GRAD, OF(MASK_GRADIENT) | OF(EAP_IG)},
    {ABL_OPTION_ANSWER, OF(MASK_GRADIENT) | OF(EAP_IG)},
    {ABL_OPTION_EDGES, OF(GROUND_TRUTH) | OF(ACDC)},
    {ABL_OPTION_TAU, OF(ACDC)},
    {ABL_OPTION_SEED, OF(RANDOM) | OF_TRAININGS},
    {ABL_OPTION_EPOCHS, OF_TRAININGS},
    {ABL_OPTION_LEARNING_RATE, OF_TRAININGS},
    {ABL_OPTION_LAMBDA, OF_TRAININGS},
    {ABL_OPTION_MASK_FN, OF_TRAININGS},
    {ABL_OPTION_TARGET, OF_TRAININGS | OF(ACDC)},
    {ABL_OPTION_TREE, OF_TRAININGS},
    {ABL_OPTION_AVOID, OF_TRAININGS},
    {ABL_OPTION_SIZES, OF_TRAININGS},
};

/* The names of a set of algorithms, "a, b, c". */
static void spell_algorithms(unsigned set, char *out, size_t size) {
    const char *names = abl_option_of(ABL_OPTION_ALGORITHM).argument;
    size_t length = 0;
    for (unsigned i = 1; *names != '\0'; i++) {
        int bytes = (int)strcspn(names, "|");
        if ((set >> i & 1U) != 0 && length < size) {
            length += (size_t)snprintf(out + length, size - length, "%s%.*s",
                                       length == 0 ? "" : ", ", bytes, names);
        }
        names += bytes + (names[bytes] == '|' ? 1 : 0);
    }
}

/* The choices of --method, --grad and --answer, from 1, are the protocol's numbers. */
static void set_eap_ig(const abl_args *args, Ablate__V1__EapIg *eap_ig) {
    eap_ig->method = (Ablate__V1__EapIgMethod)args->count[ABL_OPTION_METHOD];
    eap_ig->steps = (int32_t)args->count[ABL_OPTION_STEPS];
    eap_ig->ablation_type = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
    eap_ig->grad_function = (Ablate__V1__GradFunction)args->count[ABL_OPTION_GRAD];
    eap_ig->answer_function = (Ablate__V1__AnswerFunction)args->count[ABL_OPTION_ANSWER];
}

/* --sizes: those of circuit probing, or the one that subnetwork probing trains for. */
static bool set_sizes(const char *list, algorithms *all) {
    char item[24];
    while (abl_list_next(&list, item, sizeof item)) {
        char *end = NULL;
        int64_t size = strtoll(item, &end, 10);
        if (end == item || *end != '\0' || size < 1 ||
            all->circuits.n_circuit_sizes == ABL_CIRCUIT_COUNT_MAX) {
            return false;
        }
        all->sizes[all->circuits.n_circuit_sizes++] = size;
    }
    all->circuits.circuit_sizes = all->sizes;
    return true;
}

static bool set_training(const abl_args *args, algorithms *all, Ablate__V1__PruneJobSpec *spec) {
    Ablate__V1__SubnetworkProbing *training = &all->training;
    training->epochs = (int32_t)args->count[ABL_OPTION_EPOCHS];
    training->learning_rate = (float)args->number[ABL_OPTION_LEARNING_RATE];
    if (args->given[ABL_OPTION_LAMBDA]) {
        training->regularizer_case = ABLATE__V1__SUBNETWORK_PROBING__REGULARIZER_REGULARIZE_LAMBDA;
        training->regularize_lambda = (float)args->number[ABL_OPTION_LAMBDA];
    }
    training->mask_function = (Ablate__V1__MaskFunction)args->count[ABL_OPTION_MASK_FN];
    training->faithfulness_target = (Ablate__V1__FaithfulnessTarget)args->count[ABL_OPTION_TARGET];
    training->tree_optimisation = args->given[ABL_OPTION_TREE];
    training->ablation_type = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
    training->seed = (uint64_t)args->count[ABL_OPTION_SEED];
    if (args->given[ABL_OPTION_AVOID] && !split_edges(all, args->text[ABL_OPTION_AVOID])) {
        return false;
    }
    training->avoid_edges = all->edges;
    training->n_avoid_edges = all->edge_count;
    if (args->count[ABL_OPTION_ALGORITHM] == ALGORITHM_CIRCUIT_PROBING) {
        all->circuits.training = training;
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_CIRCUIT_PROBING;
        spec->circuit_probing = &all->circuits;
        return true;
    }
    training->circuit_size = all->circuits.n_circuit_sizes == 0 ? 0 : all->sizes[0];
    spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_SUBNETWORK_PROBING;
    spec->subnetwork_probing = training;
    return true;
}

/* --tau, or AutoCircuit's default. What they must be is the daemon's to say. */
static bool set_taus(const char *list, algorithms *all) {
    char item[40];
    all->acdc.taus = all->taus;
    for (int exponent = -5; list == NULL && exponent < -1; exponent++) {
        for (int base = 1; base < 10; base += 2) {
            all->taus[all->acdc.n_taus++] = base * pow(10, exponent);
        }
    }
    while (list != NULL && abl_list_next(&list, item, sizeof item)) {
        char *end = NULL;
        double tau = strtod(item, &end);
        if (end == item || *end != '\0' || all->acdc.n_taus == ABL_TAU_COUNT_MAX) {
            return false;
        }
        all->taus[all->acdc.n_taus++] = tau;
    }
    return true;
}

/* The choices of --target that acdc has, from 0; -1 for others. */
static int acdc_target(int64_t target) {
    static const int of_choice[] = {ABLATE__V1__ACDC_TARGET__ACDC_TARGET_UNSPECIFIED,
                                    ABLATE__V1__ACDC_TARGET__ACDC_TARGET_KL_DIV,
                                    ABLATE__V1__ACDC_TARGET__ACDC_TARGET_MSE,
                                    -1,
                                    -1,
                                    -1,
                                    -1,
                                    ABLATE__V1__ACDC_TARGET__ACDC_TARGET_ANSWER_DIFF};
    return of_choice[target];
}

static bool set_acdc(const abl_args *args, algorithms *all, Ablate__V1__PruneJobSpec *spec) {
    if (args->given[ABL_OPTION_EDGES] && !split_edges(all, args->text[ABL_OPTION_EDGES])) {
        return false;
    }
    all->acdc.faithfulness_target =
        (Ablate__V1__AcdcTarget)acdc_target(args->count[ABL_OPTION_TARGET]);
    all->acdc.ablation_type = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
    all->acdc.edges = all->edges;
    all->acdc.n_edges = all->edge_count;
    spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACDC;
    spec->acdc = &all->acdc;
    return true;
}

static bool set_algorithm(const abl_args *args, algorithms *all, Ablate__V1__PruneJobSpec *spec) {
    Ablate__V1__AblationType ablation = (Ablate__V1__AblationType)args->count[ABL_OPTION_ABLATION];
    switch (args->count[ABL_OPTION_ALGORITHM]) {
    case ALGORITHM_MASK_GRADIENT:
        set_gradient(args, &all->gradient);
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_MASK_GRADIENT;
        spec->mask_gradient = &all->gradient;
        return true;
    case ALGORITHM_GROUND_TRUTH:
        all->truth.ablation_type = ablation;
        if (args->given[ABL_OPTION_EDGES] && !split_edges(all, args->text[ABL_OPTION_EDGES])) {
            return false;
        }
        all->truth.edges = all->edges;
        all->truth.n_edges = all->edge_count;
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_GROUND_TRUTH;
        spec->ground_truth = &all->truth;
        return true;
    case ALGORITHM_RANDOM:
        all->random.seed = (uint64_t)args->count[ABL_OPTION_SEED];
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_RANDOM;
        spec->random = &all->random;
        return true;
    case ALGORITHM_MAGNITUDE:
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_ACTIVATION_MAGNITUDE;
        spec->activation_magnitude = &all->magnitude;
        return true;
    case ALGORITHM_EAP_IG:
        set_eap_ig(args, &all->eap_ig);
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP_IG;
        spec->eap_ig = &all->eap_ig;
        return true;
    case ALGORITHM_SUBNETWORK_PROBING:
    case ALGORITHM_CIRCUIT_PROBING:
        return set_training(args, all, spec);
    case ALGORITHM_ACDC:
        return set_acdc(args, all, spec);
    default:
        all->eap.ablation_type = ablation;
        spec->algorithm_case = ABLATE__V1__PRUNE_JOB_SPEC__ALGORITHM_EAP;
        spec->eap = &all->eap;
        return true;
    }
}

typedef struct follow {
    abl_cli *cli;
    abl_job_view view;
    abl_scores *scores; /* NULL: not wanted */
    int code;
} follow;

static bool on_part(const ProtobufCMessage *message, void *user_data) {
    follow *job = user_data;
    const Ablate__V1__StreamPruneScoresResponse *part =
        (const Ablate__V1__StreamPruneScoresResponse *)message;
    if (part->part_case == ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_SCORES) {
        abl_scores_add(job->scores, part->scores);
        return true;
    }
    if (part->part_case == ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_CREATED) {
        abl_job_view_job(&job->view, part->created);
    } else if (part->part_case == ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_EVENT) {
        abl_job_view_event(&job->view, part->event);
    } else if (part->part_case == ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_ENDED) {
        job->view.state = part->ended->state;
        job->view.elapsed_ms = part->ended->elapsed_ms;
    }
    if (job->cli->json) {
        job->code = abl_cli_put_json(job->cli, abl_json_of(message), true);
    }
    return job->code == ABL_EXIT_OK;
}

/* Leaving the stream does not cancel the job at once, as it may be a lost connection. */
static int cancelled(follow *job) {
    static const abl_rpc_method cancel = ABL_RPC("PruneService", "CancelJob", cancel_job);
    abl_progress_finish(&job->view.progress);
    if (job->view.job_id[0] == '\0') {
        (void)abl_cli_error(job->cli, "interrupted before the job started");
        return ABL_EXIT_INTERRUPTED;
    }
    abl_rpc_forget_interrupt();
    Ablate__V1__CancelJobRequest request = ABLATE__V1__CANCEL_JOB_REQUEST__INIT;
    request.job_id = job->view.job_id;
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
    abl_rpc_error error = {0};
    if (abl_rpc_unary(job->cli->rpc, &cancel, &request.base, &response, &error) == ABL_CODE_OK) {
        (void)abl_cli_error(job->cli, "interrupted: %s is cancelled on the server",
                            job->view.job_id);
    } else {
        (void)abl_cli_error(job->cli,
                            "interrupted, but the server did not confirm that %s is "
                            "cancelled: %s",
                            job->view.job_id, error.message);
    }
    return ABL_EXIT_INTERRUPTED;
}

/* What the rest of the stream would have told: events, scores, the job as it ended. */
static abl_code resume(follow *job, abl_rpc_error *ret_error) {
    static const abl_rpc_method get = ABL_RPC("PruneService", "GetJob", get_job);
    abl_code code = abl_job_view_watch(&job->view, true, ret_error);
    if (code == ABL_CODE_OK && job->scores != NULL) {
        abl_scores_destroy(job->scores); /* it may have had a part of them */
        job->scores = abl_scores_create();
        code = abl_job_scores(job->cli, job->view.job_id, job->scores, ret_error);
    }
    Ablate__V1__GetJobRequest request = ABLATE__V1__GET_JOB_REQUEST__INIT;
    request.job_id = job->view.job_id;
    ABL_CLEANUP(abl_rpc_freep) ProtobufCMessage *response = NULL;
    if (code == ABL_CODE_OK) {
        code = abl_rpc_unary(job->cli->rpc, &get, &request.base, &response, ret_error);
    }
    if (code == ABL_CODE_OK) {
        Ablate__V1__StreamPruneScoresResponse ended =
            ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__INIT;
        ended.part_case = ABLATE__V1__STREAM_PRUNE_SCORES_RESPONSE__PART_ENDED;
        ended.ended = ((Ablate__V1__GetJobResponse *)response)->job;
        (void)on_part(&ended.base, job);
    }
    return code;
}

static int follow_job(abl_cli *cli, const Ablate__V1__PruneJobSpec *spec, size_t top) {
    static const abl_rpc_method stream =
        ABL_RPC("PruneService", "StreamPruneScores", stream_prune_scores);
    const char *out = cli->args->text[ABL_OPTION_OUT];
    Ablate__V1__StreamPruneScoresRequest request = ABLATE__V1__STREAM_PRUNE_SCORES_REQUEST__INIT;
    Ablate__V1__PruneJobSpec copy = *spec;
    request.spec = &copy;
    request.grace_ms = GRACE_MS;
    follow job = {.cli = cli};
    abl_job_view_init(&job.view, cli);
    job.scores = out == NULL ? NULL : abl_scores_create();
    abl_rpc_error error = {0};
    abl_code code = abl_rpc_stream(cli->rpc, &stream, &request.base, on_part, &job, &error);
    if (code != ABL_CODE_OK && job.view.job_id[0] != '\0' && abl_job_view_lost(&error)) {
        code = resume(&job, &error);
    }
    if (abl_rpc_interrupted()) {
        job.code = cancelled(&job);
    } else if (code != ABL_CODE_OK) {
        abl_progress_finish(&job.view.progress);
        job.code = abl_cli_failed(cli, &error);
        if (error.unreachable && job.view.job_id[0] != '\0') {
            abl_cli_say(cli, "if the daemon lives, so may the job: ablate jobs watch %s",
                        job.view.job_id);
        }
    } else if (job.code == ABL_EXIT_OK) {
        job.code = abl_job_view_end(&job.view, top);
        if (job.code == ABL_EXIT_OK && out != NULL) {
            job.code = abl_cli_save_scores(cli, job.view.job_id, job.scores, out);
        }
        abl_cli_say(cli, "next: ablate eval %s  # the faithfulness of its circuits",
                    job.view.job_id);
    }
    abl_scores_destroy(job.scores);
    abl_job_view_finish(&job.view);
    return job.code;
}

/* What can be seen to be wrong before anything is done. */
static int check_options(const abl_cli *cli, algorithms *all) {
    const abl_args *args = cli->args;
    if (!args->given[ABL_OPTION_DATASET]) {
        return abl_cli_usage(cli, "discover needs --dataset: a file in AutoCircuit's JSON, or the "
                                  "id of an uploaded one");
    }
    int64_t given = args->count[ABL_OPTION_ALGORITHM];
    unsigned chosen = 1U << (given == 0 ? ALGORITHM_EAP : given);
    for (size_t i = 0; i < ABL_COUNT_OF(owned_options); i++) {
        if (args->given[owned_options[i].option] && (owned_options[i].of & chosen) == 0) {
            char theirs[160] = "";
            char ours[64] = "";
            spell_algorithms(owned_options[i].of, theirs, sizeof theirs);
            spell_algorithms(chosen, ours, sizeof ours);
            return abl_cli_usage(cli, "--%s does nothing with --algorithm %s: it is for %s",
                                 abl_option_of((int)owned_options[i].option).name, ours, theirs);
        }
    }
    if (args->given[ABL_OPTION_IG] && args->given[ABL_OPTION_MASK_VALUE]) {
        return abl_cli_usage(cli, "--ig and --mask-value are two places to take the gradient at: "
                                  "give one of them");
    }
    if (!set_sizes(args->text[ABL_OPTION_SIZES], all)) {
        return abl_cli_usage(cli, "--sizes takes up to %d numbers of edges above 0",
                             ABL_CIRCUIT_COUNT_MAX);
    }
    if (!set_taus(args->text[ABL_OPTION_TAU], all)) {
        return abl_cli_usage(cli, "--tau takes up to %d numbers", ABL_TAU_COUNT_MAX);
    }
    int64_t target = args->count[ABL_OPTION_TARGET];
    if (given == ALGORITHM_ACDC ? acdc_target(target) < 0 : target > TARGET_TRAININGS) {
        return abl_cli_usage(cli, "--target: acdc takes kl-div, mse and answer-diff; probing takes "
                                  "all but answer-diff");
    }
    char problem[4352];
    return abl_out_possible(args->text[ABL_OPTION_OUT], problem, sizeof problem)
               ? ABL_EXIT_OK
               : abl_cli_error(cli, "%s", problem);
}

/* Uploads, loads and makes what is missing, the cheap before the dear, and follows the job. */
static int run_job(abl_cli *cli, algorithms *all, const abl_cli_interventions *set) {
    const abl_args *args = cli->args;
    int code = ABL_EXIT_ERROR;
    ABL_CLEANUP(abl_freep) char *dataset_id = abl_cli_dataset(cli, &code);
    ABL_CLEANUP(abl_freep)
    char *graph_id = dataset_id == NULL ? NULL : abl_cli_graph(cli, &code);
    if (graph_id == NULL) {
        return code;
    }
    int64_t top = args->given[ABL_OPTION_TOP] ? args->count[ABL_OPTION_TOP] : TOP_DEFAULT;
    Ablate__V1__PruneJobSpec spec = ABLATE__V1__PRUNE_JOB_SPEC__INIT;
    spec.graph_id = graph_id;
    spec.dataset_id = dataset_id;
    spec.batch_size = (int32_t)args->count[ABL_OPTION_BATCH_SIZE];
    spec.prompt_count = (int32_t)args->count[ABL_OPTION_PROMPTS];
    spec.tail_divergence = args->given[ABL_OPTION_TAIL];
    spec.bos = (Ablate__V1__BosPolicy)args->count[ABL_OPTION_BOS];
    spec.top_k = (int32_t)top;
    ABL_CLEANUP(abl_freep) char *ablation_id = NULL;
    if (args->given[ABL_OPTION_ABLATION_ID]) {
        ablation_id = abl_strdup(args->text[ABL_OPTION_ABLATION_ID]);
        spec.ablation_id = ablation_id;
    }
    spec.ablate_by_clean = args->given[ABL_OPTION_CLEAN];
    spec.interventions = set->items;
    spec.n_interventions = set->count;
    return set_algorithm(args, all, &spec) ? follow_job(cli, &spec, (size_t)top)
                                           : abl_cli_error(cli, "out of memory");
}

int abl_cmd_discover(abl_cli *cli) {
    algorithms all = {
        .eap = ABLATE__V1__EDGE_ATTRIBUTION_PATCHING__INIT,
        .gradient = ABLATE__V1__MASK_GRADIENT__INIT,
        .truth = ABLATE__V1__GROUND_TRUTH__INIT,
        .random = ABLATE__V1__RANDOM_SCORES__INIT,
        .magnitude = ABLATE__V1__ACTIVATION_MAGNITUDE__INIT,
        .eap_ig = ABLATE__V1__EAP_IG__INIT,
        .training = ABLATE__V1__SUBNETWORK_PROBING__INIT,
        .circuits = ABLATE__V1__CIRCUIT_PROBING__INIT,
        .acdc = ABLATE__V1__ACDC__INIT,
    };
    abl_cli_interventions set = {.count = 0};
    int code = check_options(cli, &all);
    if (code == ABL_EXIT_OK) {
        code = abl_cli_read_interventions(cli, &set);
    }
    if (code == ABL_EXIT_OK) {
        code = run_job(cli, &all, &set);
        abl_interventions_free(&set);
    }
    algorithms_finish(&all);
    return code;
}
