/* run.h -- forward passes: what a request asks for, and what came of it.
 *
 * OWNERSHIP  Results live in the arena or point into the message.
 * THREADS    Pure functions of their arguments, arenas apart.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_CONVERT_RUN_H
#define ABLATE_SERVER_CONVERT_RUN_H

#include "ablate/v1/run.pb-c.h"
#include "server/convert/prompts.h"

ABL_BEGIN_DECLS

typedef struct abl_run_request {
    const char *model_id; /* or NULL, and then ... */
    const char *graph_id;
    abl_prompts prompts;
    bool patched;
    abl_ablation ablation;
    abl_prompts ablated;     /* whose activations are used; not for ZERO */
    const char *ablation_id; /* a resident one instead; NULL: none */
    Ablate__V1__OutSlice out_slice;
    int32_t top_k;
    uint64_t seed;           /* of random masks */
    const char *kv_cache_id; /* NULL: none */
    bool use_prefix_cache;
    Ablate__V1__Intervention *const *interventions;
    size_t intervention_count;

    /* RunWithCache */
    char *const *names;
    size_t name_count;
    bool all_names;
    bool per_head_inputs;
    int32_t stop_at_layer; /* as in the message */
    abl_index_list positions;
    abl_index_list heads;
    abl_index_list rows;
    bool incl_bwd;
    bool keep_on_server;
    const Ablate__V1__GradientOf *gradient_of; /* NULL: the loss */
} abl_run_request;

/*   INVALID_ARGUMENT  TARGET_MISSING, TOP_K_INVALID, ABLATION_NEEDS_GRAPH, PROMPTS_MISSING,
 *                     PREFIX_CACHE_INVALID, ... */
ABL_MUST_CHECK abl_code abl_convert_forward(const Ablate__V1__ForwardRequest *message,
                                            abl_arena *arena, abl_run_request *ret_request,
                                            abl_status *ret_status);
/*   INVALID_ARGUMENT    FORWARD_MISSING, TOP_K_INVALID, NAMES_INVALID, POSITIONS_INVALID
 *   RESOURCE_EXHAUSTED  TOO_MANY_NAMES */
ABL_MUST_CHECK abl_code abl_convert_run_with_cache(const Ablate__V1__RunWithCacheRequest *message,
                                                   abl_arena *arena, abl_run_request *ret_request,
                                                   abl_status *ret_status);

/* What gradients are of, for prompts of that count; NULL is the loss.
 *   INVALID_ARGUMENT  ANSWERS_INVALID  none, too many, not a prompt's each, or no token's id */
ABL_MUST_CHECK abl_code abl_convert_scalar(const Ablate__V1__GradientOf *message, int64_t batch,
                                           const abl_model_config *config, abl_arena *arena,
                                           abl_scalar *ret_scalar, abl_status *ret_status);

/* The message's stop_at_layer as abl_forward_options has it.
 *   INVALID_ARGUMENT  LAYER_OUT_OF_RANGE */
ABL_MUST_CHECK abl_code abl_convert_stop_at_layer(int32_t stop_at_layer, int n_layers,
                                                  int *ret_stop, abl_status *ret_status);

/* The k largest of each row of logits (rows, vocab), with log probabilities; texts are left empty.
 * Row i is position i % pos_count + pos_first of prompt i / pos_count. NULL: no memory. */
typedef struct abl_top_request {
    const float *logits;
    int64_t rows;
    int64_t vocab;
    int32_t k;
    int64_t pos_count;
    int64_t pos_first;
} abl_top_request;
ABL_MUST_CHECK Ablate__V1__TopTokens **abl_convert_top(const abl_top_request *request,
                                                       abl_arena *arena);

ABL_END_DECLS
#endif
