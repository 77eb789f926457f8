/* metric.h -- numbers that say how good a circuit's outputs are, and what attribution attributes.
 *
 * Metrics read logits at the sliced output, (rows, vocab), of one batch in host memory and give
 * one value a row; a sweep averages them over rows. `clean` and `corrupt` are the unpatched
 * model's logits on the batch's clean and corrupt prompts.
 *
 * OWNERSHIP  Nothing is kept.
 * THREADS    Any thread.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_METRIC_METRIC_H
#define ABLATE_CORE_METRIC_METRIC_H

#include "core/data/dataset.h"

ABL_BEGIN_DECLS

typedef enum abl_metric {
    ABL_METRIC_CLEAN_KL_DIV = 0,    /* KL(clean || circuit), nats */
    ABL_METRIC_CORRUPT_KL_DIV,      /* KL(corrupt || circuit), nats */
    ABL_METRIC_ANSWER_DIFF,         /* mean answer logit - mean wrong-answer logit */
    ABL_METRIC_ANSWER_DIFF_PERCENT, /* 100 * sum over rows of the above / that of the clean run */
    ABL_METRIC_ANSWER_VALUE,        /* mean answer logit */
    ABL_METRIC_WRONG_ANSWER_VALUE,  /* mean wrong-answer logit */
    ABL_METRIC_ANSWER_PROB,         /* mean answer probability */
    ABL_METRIC_ANSWER_LOGPROB,      /* mean answer log probability */
    ABL_METRIC_ANSWER_PROB_DIFF,    /* mean answer probability - mean wrong-answer probability */
    ABL_METRIC_ANSWER_LOGPROB_DIFF, /* likewise for log probabilities */
    ABL_METRIC_CORRECT_PERCENT,     /* rows whose best answer has the highest logit of all */
    ABL_METRIC_CORRECT_OVER_WRONG_PERCENT,  /* ... no wrong answer has a higher one */
    ABL_METRIC_MSE,                         /* mean over the vocabulary of (circuit - clean)^2 */
    ABL_METRIC_ANSWER_PROB_DIFF_PERCENT,    /* as ANSWER_DIFF_PERCENT, of probabilities */
    ABL_METRIC_ANSWER_LOGPROB_DIFF_PERCENT, /* ... of log probabilities */
    ABL_METRIC_ANSWER_DIFF_PERCENT_BY_ROW,  /* 100 * mean over rows of each row's own ratio */
    ABL_METRIC_COUNT,
} abl_metric;

/* "clean_kl_div", ...: stable, for requests, tables and provenance; NULL for no metric. */
const char *abl_metric_name(abl_metric metric);
/*   NOT_FOUND  METRIC_UNKNOWN  naming those that exist */
ABL_MUST_CHECK abl_code abl_metric_find(const char *name, size_t length, abl_metric *ret_metric,
                                        abl_status *ret_status);
bool abl_metric_needs_clean(abl_metric metric);
bool abl_metric_needs_corrupt(abl_metric metric);

/* Rows that the metric cannot be computed for.
 *   INVALID_ARGUMENT  METRIC_NEEDS_WRONG_ANSWERS  a row has none (or no answer) */
ABL_MUST_CHECK abl_code abl_metric_check(abl_metric metric, const abl_batch *batch,
                                         abl_status *ret_status);

typedef struct abl_metric_input {
    const abl_batch *batch;
    const float *logits;  /* (batch size, vocab_size): the circuit's */
    const float *clean;   /* likewise; needed by the KL, MSE and percent metrics */
    const float *corrupt; /* likewise; needed by ABL_METRIC_CORRUPT_KL_DIV */
    int32_t vocab_size;
} abl_metric_input;

/* The metric that this one is a ratio of: 100 * sum over rows of it / that of the clean run.
 * ABL_METRIC_COUNT: this one is a plain mean over rows. */
abl_metric abl_metric_ratio_of(abl_metric metric);

/* One value a row into ret_rows (batch size). The percent metrics' rows are the ratio of that row's
 * difference to the clean one, times 100; a sweep uses the ratio of the sums (diff of means).
 * Fails as abl_metric_check() does. */
ABL_MUST_CHECK abl_code abl_metric_rows(abl_metric metric, const abl_metric_input *input,
                                        double *ret_rows, abl_status *ret_status);

/* What of the last position's logits the loss sees. */
typedef enum abl_grad_function {
    ABL_GRAD_LOGIT = 0,
    ABL_GRAD_PROB,
    ABL_GRAD_LOGPROB,
    ABL_GRAD_LOGIT_EXP, /* exp(logit) over the sum of exp, whose gradient is stopped */
    ABL_GRAD_FUNCTION_COUNT,
} abl_grad_function;

/* loss = - (this), a mean over the batch. */
typedef enum abl_answer_function {
    ABL_ANSWER_AVG_DIFF = 0, /* mean over answers - mean over wrong answers */
    ABL_ANSWER_AVG_VAL,      /* mean over answers */
    ABL_ANSWER_MSE,          /* AutoCircuit's: the answer's token id is every entry's target */
    ABL_ANSWER_FUNCTION_COUNT,
} abl_answer_function;

/* Names as in requests: "logit", ...; "avg_diff", ...; NULL for none. */
const char *abl_grad_function_name(abl_grad_function function);
const char *abl_answer_function_name(abl_answer_function function);

ABL_END_DECLS
#endif
