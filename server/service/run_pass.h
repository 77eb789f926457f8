/* run_pass.h -- one forward pass of a call, plain or under a graph's mask: Forward and
 * RunWithCache.
 *
 * OWNERSHIP  The pass lives in its rpc's arena; abl_pass_end() gives back the rest, from end_cb.
 * THREADS    prepare, end: the loop thread. run: the executor's.
 * ERRORS     A failure is left in the rpc's status.
 */
#ifndef ABLATE_SERVER_SERVICE_RUN_PASS_H
#define ABLATE_SERVER_SERVICE_RUN_PASS_H

#include "server/convert/run.h"
#include "server/service/hooks.h"
#include "server/service/rpc.h"

ABL_BEGIN_DECLS

typedef struct abl_pass {
    abl_run_request request;
    abl_resident_model *model;
    abl_resident_graph *graph;       /* NULL: a plain pass of the model */
    abl_resident_ablation *ablation; /* NULL: none that is resident */
    abl_device_slot *slot;
    abl_values *mask; /* as it was when the call came, as are the next two */
    abl_mask_function mask_function;
    float mask_dropout;
    abl_out_slice out_slice;
    int stop_at_layer;
    abl_hook_set hooks;
    abl_scalar scalar;
    size_t logit_bytes_max; /* refuse more; 0: no limit */

    /* the KV cache that the prompts are run behind; NULL: none */
    abl_resident_kv_cache *kv_cache;
    void (*tokenized_cb)(abl_rpc *rpc); /* use_prefix_cache: what comes after the look-up */

    abl_token_batch batch; /* the tails, behind a cache */
    float *logits;         /* NULL with stop_at_layer */
    int64_t logit_shape[3];
    size_t logit_rank;
    int64_t logit_count;
    abl_forward_result result; /* captured activations */

    /* MaskBackward: from the one to the other, instead of logits */
    const Ablate__V1__Tensor *logits_gradient;
    abl_values *mask_gradient;

    double elapsed_ms;
} abl_pass;

/* Finds the objects and holds on to them. False: the rpc's status says why not. */
ABL_MUST_CHECK bool abl_pass_prepare(abl_rpc *rpc, abl_pass *pass);
/* Calls run_cb, which shall queue the pass; with use_prefix_cache after a cache was looked for.
 * rpc->state must begin with the pass. */
void abl_pass_start(abl_rpc *rpc, void (*run_cb)(abl_rpc *rpc));
/* Tokenizes, admits and runs. */
void abl_pass_run(abl_rpc *rpc, abl_pass *pass);
void abl_pass_end(abl_rpc *rpc, abl_pass *pass);

ABL_END_DECLS
#endif
