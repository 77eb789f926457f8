/* hooked_internal.h -- what hooked.c's forward leaves for hooked_backward.c.
 *
 * OWNERSHIP  Everything is borrowed from the pass's scope.
 * THREADS    On the executor of the model's device.
 * ERRORS     Sticky in the scope.
 */
#ifndef ABLATE_CORE_MODEL_HOOKED_INTERNAL_H
#define ABLATE_CORE_MODEL_HOOKED_INTERNAL_H

#include "core/model/block.h"
#include "core/model/hooked.h"

ABL_BEGIN_DECLS

/* What the heads of a layer read. */
typedef enum abl_hooked_inputs {
    ABL_INPUTS_SHARED, /* the stream, (batch, pos, d_model) */
    ABL_INPUTS_JOINED, /* hook_attn_in, (batch, pos, heads, d_model), for q, k and v */
    ABL_INPUTS_SPLIT,  /* hook_q_input, hook_k_input, hook_v_input */
} abl_hooked_inputs;

typedef struct abl_hooked_norm {
    abl_tensor *centred;   /* x, less its mean in a layer norm */
    abl_tensor *raw_scale; /* before interventions */
    abl_tensor *scale;     /* after them */
    abl_tensor *n;         /* centred / scale */
} abl_hooked_norm;

typedef struct abl_hooked_layer {
    abl_hooked_inputs inputs;
    abl_hooked_norm norm1[3]; /* q's, k's, v's; only the first unless SPLIT */
    abl_hooked_norm norm2;
    abl_tensor
        *q; /* as attention reads them: (batch, pos, heads, d_head), a prefix's k and v too */
    abl_tensor *k;
    abl_tensor *v;
    abl_tensor *softmaxed; /* (batch, heads, query, key), before interventions */
    abl_tensor *pattern;   /* after them */
    abl_tensor *mlp_pre;
    abl_tensor *mlp_up; /* NULL unless gated */
} abl_hooked_layer;

typedef struct abl_hooked_pass {
    abl_captures *captures;
    const abl_forward_options *options;
    const abl_model *model;
    const abl_model_config *config;
    const abl_forward_patch *patch; /* or NULL */
    abl_scope *scope;
    abl_pass_shape shape;
    abl_tensor *mask;   /* (query, key): 0, or minus infinity */
    abl_tensor **saved; /* (3, interventions): abl_interventions_apply()'s, at ln1's points one for
                           q, k and v each; elsewhere the first */
    abl_hooked_layer *layers;
    abl_hooked_norm norm_final;
    abl_tensor *all_logits; /* (batch, pos, vocab), with gradients */
} abl_hooked_pass;

/* w of norm `which`; NULL when folded. */
abl_tensor *abl_hooked_gain(const abl_hooked_pass *p, int layer, abl_block_norm which,
                            abl_tensor **ret_bias);
/* The weights of q, k or v for `heads` heads, copies of a group's where there are more of them than
 * in the model: (heads, d_model, d_head). */
abl_tensor *abl_hooked_head_weights(abl_hooked_pass *p, int layer, int which, int64_t heads,
                                    abl_tensor **ret_bias);
/* Whether the heads' outputs are looked at one by one. */
bool abl_hooked_by_head(const abl_hooked_pass *p, int layer);
/* (batch, pos, heads, d_head) as (batch, kv head, query head of it, pos, d_head). */
abl_tensor *abl_hooked_grouped(abl_hooked_pass *p, const abl_tensor *x);
/* k or v as (batch, kv head, 1, key, d_head). */
abl_tensor *abl_hooked_keys(abl_hooked_pass *p, const abl_tensor *x);

/* From the kept logits to the gradients that were asked for, and the scalar. */
void abl_hooked_backward(abl_hooked_pass *p);

ABL_END_DECLS
#endif
