/* hooks.h -- names of the places in a forward pass where a tensor can be captured.
 *
 * OWNERSHIP  Values only. abl_hook_name() writes to the caller's text.
 * THREADS    Pure functions.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 *
 * Names are TransformerLens's ("blocks.3.attn.hook_z"); the canonical names of its version 4 bridge
 * ("blocks.3.attn.o.hook_in") are accepted as exact synonyms. A name that cannot fire in this
 * model is refused with the reason, never ignored.
 */
#ifndef ABLATE_CORE_MODEL_HOOKS_H
#define ABLATE_CORE_MODEL_HOOKS_H

#include "core/base/status.h"
#include "core/model/config.h"

#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

/* X(enum suffix, name after "blocks.N." or whole, once a layer?, symbolic shape), in firing order
 */
#define ABL_HOOK_MAP(X)                                                                            \
    X(EMBED, "hook_embed", false, "batch pos d_model")                                             \
    X(POS_EMBED, "hook_pos_embed", false, "batch pos d_model")                                     \
    X(RESID_PRE, "hook_resid_pre", true, "batch pos d_model")                                      \
    X(ATTN_IN, "hook_attn_in", true, "batch pos n_heads d_model")                                  \
    X(Q_INPUT, "hook_q_input", true, "batch pos n_heads d_model")                                  \
    X(K_INPUT, "hook_k_input", true, "batch pos n_kv_heads d_model")                               \
    X(V_INPUT, "hook_v_input", true, "batch pos n_kv_heads d_model")                               \
    X(LN1_SCALE, "ln1.hook_scale", true, "batch pos 1")                                            \
    X(LN1_NORMALIZED, "ln1.hook_normalized", true, "batch pos d_model")                            \
    X(Q, "attn.hook_q", true, "batch pos n_heads d_head")                                          \
    X(K, "attn.hook_k", true, "batch pos n_kv_heads d_head")                                       \
    X(V, "attn.hook_v", true, "batch pos n_kv_heads d_head")                                       \
    X(ROT_Q, "attn.hook_rot_q", true, "batch pos n_heads d_head")                                  \
    X(ROT_K, "attn.hook_rot_k", true, "batch pos n_kv_heads d_head")                               \
    X(ATTN_SCORES, "attn.hook_attn_scores", true, "batch n_heads query_pos key_pos")               \
    X(PATTERN, "attn.hook_pattern", true, "batch n_heads query_pos key_pos")                       \
    X(Z, "attn.hook_z", true, "batch pos n_heads d_head")                                          \
    X(RESULT, "attn.hook_result", true, "batch pos n_heads d_model")                               \
    X(ATTN_OUT, "hook_attn_out", true, "batch pos d_model")                                        \
    X(RESID_MID, "hook_resid_mid", true, "batch pos d_model")                                      \
    X(MLP_IN, "hook_mlp_in", true, "batch pos d_model")                                            \
    X(LN2_SCALE, "ln2.hook_scale", true, "batch pos 1")                                            \
    X(LN2_NORMALIZED, "ln2.hook_normalized", true, "batch pos d_model")                            \
    X(MLP_PRE, "mlp.hook_pre", true, "batch pos d_mlp")                                            \
    X(MLP_PRE_LINEAR, "mlp.hook_pre_linear", true, "batch pos d_mlp")                              \
    X(MLP_POST, "mlp.hook_post", true, "batch pos d_mlp")                                          \
    X(MLP_OUT, "hook_mlp_out", true, "batch pos d_model")                                          \
    X(RESID_POST, "hook_resid_post", true, "batch pos d_model")                                    \
    X(LN_FINAL_SCALE, "ln_final.hook_scale", false, "batch pos 1")                                 \
    X(LN_FINAL_NORMALIZED, "ln_final.hook_normalized", false, "batch pos d_model")                 \
    X(UNEMBED, "unembed.hook_out", false, "batch pos d_vocab_out")

typedef enum abl_hook_point {
#define X(name, text, per_layer, shape) ABL_HOOK_##name,
    ABL_HOOK_MAP(X)
#undef X
        ABL_HOOK_POINT_COUNT
} abl_hook_point;

typedef struct abl_hook {
    abl_hook_point point;
    int layer; /* -1 for those outside the layers */
} abl_hook;

/*   NOT_FOUND            HOOK_UNKNOWN     no such name; the message has the nearest ones
 *   NOT_FOUND            HOOK_UNKNOWN     the name's layer is not in this model
 *   FAILED_PRECONDITION  HOOK_CANNOT_FIRE a real name that this model never reaches; says why */
ABL_MUST_CHECK abl_code abl_hook_parse(const abl_model_config *config, const char *name,
                                       abl_hook *ret_hook, abl_status *ret_status);

/* "blocks.3.attn.hook_z"; returns `text`. */
const char *abl_hook_name(abl_hook hook, char *text, size_t text_bytes);
/* "blocks.3.attn.o.hook_in"; "" for a point that the bridge has no other name for. */
const char *abl_hook_bridge_name(abl_hook hook, char *text, size_t text_bytes);
/* "batch pos n_heads d_head". With per_head_inputs, ln1's points have a head axis, too. */
const char *abl_hook_shape(abl_hook_point point, bool per_head_inputs);
/* NULL when the point fires in a model of this config, else the reason why not. */
const char *abl_hook_why_not(const abl_model_config *config, abl_hook_point point);

/* All hooks that fire in such a model, in firing order: writes up to `count_max` to ret_hooks (NULL
 * to count only) and returns how many there are. */
size_t abl_hook_list(const abl_model_config *config, abl_hook *ret_hooks, size_t count_max);

ABL_END_DECLS
#endif
