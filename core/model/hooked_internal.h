/* hooked_internal.h -- the pass that hooked.c's files share, and what its forward leaves for its
 * backward; internal to them.
 *
 * OWNERSHIP  Everything is borrowed from the pass's scope.
 * THREADS    On the executor of the model's device.
 * ERRORS     Sticky in the scope; checks return a code and fill *ret_status.
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

/* Of x (batch, pos, d_model), or (batch, pos, heads, d_model). */
typedef struct abl_hooked_norm {
    abl_tensor *centred;   /* x, less its mean in a layer norm */
    abl_tensor *raw_scale; /* (..., 1), before interventions */
    abl_tensor *scale;     /* after them */
    abl_tensor *n;         /* centred / scale */
} abl_hooked_norm;

typedef struct abl_hooked_layer {
    abl_hooked_inputs inputs;
    abl_hooked_norm norm1[3]; /* q's, k's, v's; only the first unless SPLIT */
    abl_hooked_norm norm2;
    /* As attention reads them: (batch, pos, heads, d_head), k and v behind the prefix's. */
    abl_tensor *q;
    abl_tensor *k;
    abl_tensor *v;
    abl_tensor *softmaxed; /* (batch, heads, query, key), before interventions */
    abl_tensor *pattern;   /* after them */
    abl_tensor *mlp_pre;   /* (batch, pos, d_mlp) */
    abl_tensor *mlp_up;    /* likewise; NULL unless gated */
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

/* ---- hooked_check.c: what is asked for --------------------------------------------------- */

/* Whether the point's activation is captured; is intervened in; is intervened in or has its
 * gradient captured. Layer -1: outside the layers. */
bool abl_hooked_wants(const abl_hooked_pass *p, abl_hook_point point, int layer);
bool abl_hooked_touches(const abl_hooked_pass *p, abl_hook_point point, int layer);
bool abl_hooked_involves(const abl_hooked_pass *p, abl_hook_point point, int layer);
abl_hooked_inputs abl_hooked_inputs_of(const abl_hooked_pass *p, int layer);
/* Whether the heads' outputs are looked at one by one. */
bool abl_hooked_by_head(const abl_hooked_pass *p, int layer);
/* What the pass fails with before any work; needs no scope. */
ABL_MUST_CHECK abl_code abl_hooked_pass_check(const abl_hooked_pass *p, abl_status *ret_status);

/* ---- hooked_parts.c: what both directions share ------------------------------------------ */

/* A norm and its hook points. */
typedef struct abl_hooked_norm_place {
    abl_block_norm which;
    int layer;  /* -1: the final norm */
    int firing; /* ln1's under SPLIT: 0, 1 or 2, for q, k or v; elsewhere 0 */
    abl_hook_point scale;
    abl_hook_point normalized;
} abl_hooked_norm_place;

abl_hooked_norm_place abl_hooked_norm_at(abl_block_norm which, int layer, int firing);
/* The norm's w, and its b; NULL where there is none or it is folded. */
abl_tensor *abl_hooked_gain(const abl_hooked_pass *p, const abl_hooked_norm_place *place,
                            abl_tensor **ret_bias);
/* The weights of q, k or v (`which` 0, 1 or 2) for `heads` heads, copies of a group's where there
 * are more of them than in the model: (heads, d_model, d_head). ret_bias (heads, d_head) may be
 * NULL. */
abl_tensor *abl_hooked_head_weights(abl_hooked_pass *p, int layer, int which, int64_t heads,
                                    abl_tensor **ret_bias);
/* x (batch, pos, heads, rows) times w (heads, rows, columns), head by head: (batch, pos, heads,
 * columns). NULL of NULL: the scope says why. */
abl_tensor *abl_hooked_head_products(abl_scope *scope, const abl_tensor *x, const abl_tensor *w);
/* (batch, pos, heads, d_head) as (batch, kv head, query head of it, pos, d_head). */
abl_tensor *abl_hooked_grouped(abl_hooked_pass *p, const abl_tensor *x);
/* k or v as (batch, kv head, 1, key, d_head). */
abl_tensor *abl_hooked_keys(abl_hooked_pass *p, const abl_tensor *x);

/* ---- hooked_backward.c ------------------------------------------------------------------- */

/* From the kept logits to the gradients that were asked for, and the scalar. */
void abl_hooked_backward(abl_hooked_pass *p);

ABL_END_DECLS
#endif
