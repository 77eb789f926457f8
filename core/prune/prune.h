/* prune.h -- scores for edges: how much each one matters. One bounded unit of work a step.
 *
 * A prune is created, stepped until finished (other work may run between steps), read at any time,
 * and destroyed. Scores are d loss / d mask in AutoCircuit's sense (ablating a positively scored
 * edge hurts), SUMMED over batches, each batch's loss being a mean over its rows: eap edge
 * attribution patching: the gradient at mask 0 mask_gradient  the gradient at a uniform mask value,
 * or summed over the n + 1 points k / n (integrated gradients, as AutoCircuit sums them)
 *   ground_truth   exact: the loss with that one edge ablated minus the clean loss
 *   random         uniform in [0, 1), seeded: the baseline
 *   activation_magnitude  |mean of the source's clean output|, no gradient, a mean over batches
 *   acdc           the smallest of its taus that removed the edge, inf where none did (acdc.c);
 *                  the first batch alone is used, as in AutoCircuit
 *   eap_ig         integrated gradients as EAP-IG 2.0 has them: a MEAN over prompts and points
 *   subnetwork_probing  how far a trained mask is from the least important one's
 *   circuit_probing     k for the edges of the smallest of k circuits found that way, 1 for those
 *                       of the largest, 0 for the rest
 *
 * OWNERSHIP  abl_prune_create() hands the prune to the caller; it borrows model, graph and dataset
 *            until abl_prune_destroy().
 * THREADS    The device's executor thread only.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_PRUNE_PRUNE_H
#define ABLATE_CORE_PRUNE_PRUNE_H

#include "core/metric/metric.h"
#include "core/patch/patch.h"

ABL_BEGIN_DECLS

typedef struct abl_prune abl_prune;

typedef enum abl_prune_algorithm {
    ABL_PRUNE_EAP = 0,
    ABL_PRUNE_MASK_GRADIENT,
    ABL_PRUNE_GROUND_TRUTH,
    ABL_PRUNE_RANDOM,
    ABL_PRUNE_ACTIVATION_MAGNITUDE,
    ABL_PRUNE_EAP_IG,
    ABL_PRUNE_SUBNETWORK_PROBING,
    ABL_PRUNE_CIRCUIT_PROBING,
    ABL_PRUNE_ACDC,
    ABL_PRUNE_ALGORITHM_COUNT,
} abl_prune_algorithm;

/* ground_truth, acdc: how an output is compared with the clean run's (effect.h). */
typedef enum abl_exact_metric {
    ABL_EXACT_LOSS = 0, /* by grad function and answer function: the loss minus the clean one */
    ABL_EXACT_KL_DIV,   /* KL(clean || patched), mean over the batch */
    ABL_EXACT_MSE,      /* squared difference of the logits, mean over batch and vocabulary */
} abl_exact_metric;

/* eap_ig: along which path gradients are averaged; eap_ig.c has the definitions. */
typedef enum abl_eap_ig_method {
    ABL_EAP_IG_INPUTS = 0,      /* the input embedding, from corrupt to clean */
    ABL_EAP_IG_ACTIVATIONS,     /* one layer's output at a time, from ablated to clean */
    ABL_EAP_IG_CLEAN_CORRUPTED, /* both ends of INPUTS and nothing between */
} abl_eap_ig_method;
#define ABL_EAP_IG_STEPS_MAX 1000
/* "inputs", "activations", "clean_corrupted"; NULL for none. */
const char *abl_eap_ig_method_name(abl_eap_ig_method method);
/* Subnetwork probing: what the trained circuit is to keep. faithfulness.c has the formulas. */
typedef enum abl_faithfulness {
    ABL_FAITHFULNESS_KL_DIV = 0,
    ABL_FAITHFULNESS_MSE,
    ABL_FAITHFULNESS_ANSWER,
    ABL_FAITHFULNESS_WRONG_ANSWER,
    ABL_FAITHFULNESS_CORRECT_PERCENT,
    ABL_FAITHFULNESS_LOGIT_DIFF_PERCENT,
    ABL_FAITHFULNESS_LOGIT_DIFF, /* knockouts alone: knockouts.c */
    ABL_FAITHFULNESS_COUNT,
} abl_faithfulness;

/* "kl_div", ...; NULL for none. */
const char *abl_faithfulness_name(abl_faithfulness target);

/* log(p / (1 - p)) with p = (0.9 + 0.1) / 1.2: the mask that hard_concrete starts from in Cao et
 * al. (2021). */
#define ABL_MASK_INIT_DEFAULT 1.6094379124341003F

/* Masks trained by Adam on loss = faithfulness + regularize_lambda * (size of the circuit): one
 * optimizer step a batch. */
typedef struct abl_mask_training_options {
    float learning_rate;
    int32_t epochs;
    float regularize_lambda;
    abl_mask_function mask_function;
    float dropout;
    float init_value;       /* every mask's at the start; minus this unless tree_optimisation */
    bool tree_optimisation; /* input clean, as many edges as possible ablated; else input corrupt,
                             * as few as possible */
    int64_t circuit_size;   /* the regularizer spares circuits up to this size; 0: none */
    abl_faithfulness faithfulness_target;
    const int64_t *avoid_edges; /* borrowed for create; penalized when in the circuit */
    int64_t avoid_edge_count;
    float avoid_lambda;
    /* An edge, whether it is in the circuit whose knockouts are trained, the scores being their
     * masks and circuit_size how many are free (borrowed for create); NULL: a circuit is. */
    const uint8_t *knockouts_of;
    int32_t validation_count; /* prompts after those trained on, for the validation curve */
    uint64_t seed;
    /* Prescribed draws of hard_concrete instead of the seed's, to repeat somebody else's run: those
     * of the forward pass (batch, edges), or of the regularizer (edges), canonical order, borrowed
     * until the next call. NULL: by the seed. */
    const float *(*draws_cb)(void *user_data, int64_t step, int32_t batch, bool regularizer);
    void *draws_data;
} abl_mask_training_options;

/* One optimizer step of a training. */
typedef struct abl_training_point {
    int32_t epoch;
    int32_t batch;
    int64_t circuit_size; /* that it trains for; 0: none */
    float loss;           /* faithfulness + regularization */
    float faithfulness;
    float regularization;       /* regularize_lambda included */
    float validation;           /* mean over rows of 100 d(circuit) / d(clean), d being the answer
                                * difference; NAN without a validation set */
    float validation_deviation; /* its standard deviation over rows */
    float zero_mask_score;      /* after the step: the score of a mask of 0 (subnetwork probing) */
} abl_training_point;

/* "eap", "mask_gradient", ...: the values of the enum, in small letters; NULL for none. */
const char *abl_prune_algorithm_name(abl_prune_algorithm algorithm);

typedef struct abl_prune_options {
    abl_prune_algorithm algorithm;
    struct abl_model *model;
    const abl_graph *graph;
    abl_batches batches;
    abl_ablation ablation;       /* means are over `batches` */
    bool ablate_by_clean;        /* RESAMPLE and BATCH_*: by the clean prompts, not the corrupt */
    const abl_sources *resident; /* made before, and used instead: abl_ablator_options */
    int32_t resident_first;
    /* The graph's, in every run of the prune, borrowed until its end: scores are those of the model
     * with them. acdc and ground_truth then take whole masked passes. */
    abl_interventions interventions;
    abl_grad_function grad_function;     /* eap takes it too; the usual is LOGIT */
    abl_answer_function answer_function; /* the usual is AVG_DIFF */
    /* mask_gradient */
    float mask_value;                /* used when integrated_grad_samples is 0 */
    int32_t integrated_grad_samples; /* n: the n + 1 points 0, 1/n, ..., 1 */
    /* acdc; exact_metric, edges and candidate_count_max, too */
    struct {
        const double *taus; /* positive, ascending (borrowed for create) */
        int32_t tau_count;
        bool whole_passes; /* every trial by a whole masked pass: for comparison, slow */
    } acdc;
    /* ground_truth */
    abl_exact_metric exact_metric;
    const int64_t *edges; /* only these (borrowed for create), acdc: in this order, which must go
                             down the destinations' layers; NULL: all */
    int64_t edge_count;
    int32_t candidate_count_max; /* edges in one batched pass; 0: chosen by cost */
    /* random */
    uint64_t seed;
    struct {
        abl_eap_ig_method method;
        int32_t steps; /* 1 to ABL_EAP_IG_STEPS_MAX; the usual are 5 (MIB) and 30 (the repository);
                          CLEAN_CORRUPTED takes none */
    } eap_ig;          /* grad_function and answer_function apply, as does ablation */
    /* subnetwork_probing, and circuit_probing but for circuit_size */
    abl_mask_training_options subnetwork_probing;
    /* circuit_probing: a training for each size; borrowed for create */
    struct {
        const int64_t *sizes;
        int32_t size_count;
    } circuit_probing;
} abl_prune_options;

typedef struct abl_prune_progress {
    int64_t done; /* in units: (batch, mask point) pairs, or (batch, edge) pairs; before them, one
                     a pass for an ablation that is a mean over the dataset */
    int64_t total;
    int32_t batch; /* the batch that this step worked on */
    int32_t batch_count;
    bool batch_finished; /* the scores now include that batch (acdc: that tau) whole */
    bool finished;
} abl_prune_progress;

/*   INVALID_ARGUMENT    ALGORITHM_OPTIONS_INVALID  a mask value or sample count out of range
 *   INVALID_ARGUMENT    GRAPH_MODEL_MISMATCH       the graph was made for another shape of model
 *   INVALID_ARGUMENT    TAUS_INVALID               acdc: none, not positive, not ascending
 *   INVALID_ARGUMENT    ORDER_INVALID              acdc: edges twice, or not down the layers
 *   INVALID_ARGUMENT    ABLATION_SHAPE             the resident ablation is of other prompts
 *   INVALID_ARGUMENT    SEQ_LEN_MISMATCH           prompts are not as long as the graph's positions
 *   INVALID_ARGUMENT    ANSWERS_MISSING            the loss needs answers that a row lacks
 *   INVALID_ARGUMENT    EDGE_INDEX_INVALID, BATCH_SIZE_INVALID, SPLIT_INVALID
 *   those of abl_interventions_check(), and HOOK_CANNOT_FIRE, the algorithm's name in front
 *   RESOURCE_EXHAUSTED  OUT_OF_HOST_MEMORY */
ABL_MUST_CHECK abl_code abl_prune_create(const abl_prune_options *options, abl_prune **ret_prune,
                                         abl_status *ret_status);
/* One unit of work: a batch at one mask value, or a bounded number of candidate edges. Not to be
 * called once finished; after a failure only destroy. */
ABL_MUST_CHECK abl_code abl_prune_step(abl_prune *prune, abl_prune_progress *ret_progress,
                                       abl_status *ret_status);
/* Running scores, canonical order, borrowed until the next step: sums over the work done so far. */
const float *abl_prune_scores(const abl_prune *prune);
/* One byte an edge: 1 once it has a score (from any batch). NULL: every edge has one. */
const uint8_t *abl_prune_scored(const abl_prune *prune);
/* The training curve so far, a point a step, borrowed until the next one. NULL (and 0): an
 * algorithm that trains nothing. */
const abl_training_point *abl_prune_curve(const abl_prune *prune, int64_t *ret_count);
void abl_prune_destroy(abl_prune *prune); /* NULL is allowed */

/* One tau of an ACDC, decided so far. */
typedef struct abl_acdc_tau {
    double tau;
    int64_t decided; /* edges */
    int64_t removed;
    double effect;     /* of what is removed */
    double margin_min; /* the smallest |growth of the effect - tau|; INFINITY before any */
} abl_acdc_tau;

/* One edge that an ACDC has decided. */
typedef struct abl_acdc_decision {
    int64_t edge;
    double tau;
    double effect; /* of it and all that was removed before, were it removed */
    bool removed;
} abl_acdc_decision;

#define ABL_ACDC_DECISIONS_KEPT 1000 /* the newest */

/* What an ACDC has decided, borrowed until the next step. Decisions whose margin is about 1e-6 or
 * less are rounding in any implementation. */
typedef struct abl_acdc_report {
    const abl_acdc_tau *taus;
    int32_t tau_count;
    int32_t tau;          /* in hand */
    const int64_t *order; /* edges, as they are decided */
    int64_t order_count;
    const double *effects;  /* of the tau in hand, after each edge decided, were it removed */
    int64_t trial_count;    /* evaluated, those thrown away included */
    int64_t pass_count;     /* in which they were */
    int64_t decision_count; /* at all taus */
} abl_acdc_report;

/* False unless the algorithm is acdc. */
bool abl_prune_acdc_report(const abl_prune *prune, abl_acdc_report *ret_report);
/* Copies `count` decisions from number `first` on (from 0), which must be among those kept. */
void abl_prune_acdc_decisions(const abl_prune *prune, int64_t first, int32_t count,
                              abl_acdc_decision *ret_decisions);

/* Working memory that the prune will take on the device beyond the model, at most. For admission:
 * needs model, graph, batches and the algorithm's fields. */
int64_t abl_prune_bytes_estimate(const abl_prune_options *options);

ABL_END_DECLS
#endif
