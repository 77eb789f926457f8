/* forward.h -- the plain forward pass, run_with_cache, and passes that are intervened in.
 *
 * OWNERSHIP  abl_forward() fills *ret_result, ended with abl_forward_result_finish(). Its tensors
 *            are owners' tensors: keep those that should live longer. The model is borrowed for the
 *            call.
 * THREADS    On the executor of the model's device.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_CORE_MODEL_FORWARD_H
#define ABLATE_CORE_MODEL_FORWARD_H

#include "core/base/status.h"
#include "core/model/hooks.h"
#include "core/model/intervene.h"
#include "core/model/model.h"
#include "core/model/prefix.h"
#include "core/tensor/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* Which positions the logits are wanted at: AutoCircuit's slice_output. */
typedef enum abl_out_slice {
    ABL_OUT_SLICE_LAST = 0,  /* "last_seq": (batch, d_vocab_out) */
    ABL_OUT_SLICE_NOT_FIRST, /* "not_first_seq": (batch, pos - 1, d_vocab_out) */
    ABL_OUT_SLICE_ALL,       /* None: (batch, pos, d_vocab_out) */
} abl_out_slice;

/* Asked between layers; true stops the pass with CANCELLED (RUN_CANCELLED). */
typedef bool (*abl_cancelled_cb)(void *user_data);

/* The last position's logits (batch, d_vocab_out), on the device, to d loss / d logits of the same
 * shape, made in `scope`. A failure is put in the scope. */
typedef abl_tensor *(*abl_logits_loss_cb)(abl_scope *scope, const abl_tensor *logits,
                                          void *user_data);

/* What gradients are of: one number that is made of the logits. */
typedef enum abl_scalar_kind {
    ABL_SCALAR_LOSS = 0,  /* the mean over rows and positions of minus the log probability of the
                             next token: TransformerLens's return_type="loss" */
    ABL_SCALAR_LOGIT_SUM, /* the sum of weight * logit at the last position */
    ABL_SCALAR_CALLBACK,  /* what loss_cb says: then the pass goes back whatever is captured */
} abl_scalar_kind;

typedef struct abl_scalar {
    abl_scalar_kind kind;
    /* LOGIT_SUM: (batch, width) token ids and weights; unused ones have weight 0. */
    const int64_t *columns;
    const float *weights;
    int32_t width;
    abl_logits_loss_cb loss_cb; /* CALLBACK; with ABL_OUT_SLICE_LAST */
    void *loss_data;
} abl_scalar;

/* What a patched pass puts between the residual stream and those that read it; core/patch fills it
 * in. Tensors are of `scope`; inputs are (batch, pos, heads, d_model): the heads of q, then, unless
 * `joined`, those of k and of v. The backward half may be NULL: then there are no gradients. Where
 * the stream itself is patched, heads_input_cb and mlp_input_cb are NULL, and so are their
 * backwards: readers read the stream. */
typedef struct abl_forward_patch {
    void *user_data;
    bool joined;  /* a head's q, k and v read one input, hook_attn_in */
    int kv_heads; /* inputs of k, and of v: those of the weights, or one a query head */
    void (*start_cb)(void *user_data, abl_scope *scope, abl_tensor *start);
    abl_tensor *(*heads_input_cb)(void *user_data, abl_scope *scope, int layer, abl_tensor *resid);
    abl_tensor *(*mlp_input_cb)(void *user_data, abl_scope *scope, int layer, abl_tensor *resid);
    /* The stream behind a layer's attention (`mid`) or behind its block, before its hook point; and
     * what that emitted (may be NULL: no source). */
    abl_tensor *(*node_cb)(void *user_data, abl_scope *scope, int layer, bool mid,
                           abl_tensor *resid);
    void (*node_emitted_cb)(void *user_data, abl_scope *scope, int layer, bool mid,
                            abl_tensor *resid);
    /* What sources emitted. `change` is what interventions at hook_result added to the heads'
     * outputs, (batch, pos, heads, d_model); NULL: nothing. */
    void (*heads_cb)(void *user_data, abl_scope *scope, int layer, abl_tensor *z,
                     abl_tensor *change);
    void (*mlp_cb)(void *user_data, abl_scope *scope, int layer, abl_tensor *out);

    /* Gradients at inputs to those at the stream; and then those at what sources emitted: heads
     * (batch, pos, heads, d_model), others (batch, pos, d_model). */
    abl_tensor *(*heads_input_backward_cb)(void *user_data, abl_scope *scope, int layer,
                                           abl_tensor *grad);
    abl_tensor *(*mlp_input_backward_cb)(void *user_data, abl_scope *scope, int layer,
                                         abl_tensor *grad);
    abl_tensor *(*node_backward_cb)(void *user_data, abl_scope *scope, int layer, bool mid,
                                    abl_tensor *grad);
    /* May be NULL, and may return NULL: nothing. */
    abl_tensor *(*node_emitted_backward_cb)(void *user_data, abl_scope *scope, int layer, bool mid);
    abl_tensor *(*heads_backward_cb)(void *user_data, abl_scope *scope, int layer);
    abl_tensor *(*mlp_backward_cb)(void *user_data, abl_scope *scope, int layer);
    abl_tensor *(*start_backward_cb)(void *user_data, abl_scope *scope);
} abl_forward_patch;

/* Whether what reads the stream has inputs of its own; `patch` may be NULL. */
static inline bool abl_forward_patches_inputs(const abl_forward_patch *patch) {
    return patch != NULL && patch->heads_input_cb != NULL;
}

typedef struct abl_forward_options {
    const abl_model *model;
    const int32_t *tokens; /* (batch, pos), on the host; each checked against d_vocab */
    int64_t batch;
    int64_t seq;
    const abl_prefix *prefix; /* the tokens are the tail behind it; NULL: whole prompts */
    abl_out_slice out_slice;

    const char *const *hooks; /* names to capture; NULL and capture_all false: none. A name with
                                 "_grad" behind it is the gradient there */
    size_t hook_count;
    bool capture_all;     /* every hook that fires, those below with per_head_inputs only */
    bool per_head_inputs; /* TransformerLens's use_split_qkv_input and its three siblings: ln1's
                             points get a head axis; *_input, attn_in, mlp_in, result with
                             capture_all */
    int stop_at_layer;    /* -1: run to the end; l: stop before layer l, and give no logits */
    abl_index_list
        positions;        /* of what is captured (of scores and patterns: the queries'); negative
                                 from the end; count 0: all */
    abl_index_list heads; /* likewise; only of points that have a head axis. 0: all */
    abl_index_list rows;  /* likewise, of the batch */
    bool incl_bwd;        /* the gradient, too, of each captured point */
    abl_scalar scalar;    /* that gradients are of */
    abl_interventions interventions;
    const abl_forward_patch *patch; /* NULL: the plain model */
    /* Compute in float32 whatever the weights are stored in, as passes that are patched or have
     * gradients always do; false: in the model's dtype. */
    bool in_float32;

    abl_cancelled_cb cancelled_cb; /* may be NULL */
    void *user_data;
} abl_forward_options;

typedef struct abl_cache_entry {
    abl_hook hook;
    char name[64];      /* TransformerLens's; "..._grad" for a gradient */
    abl_tensor *tensor; /* possibly an expanded or strided view; owned by the result */
} abl_cache_entry;

typedef struct abl_forward_result {
    abl_tensor *logits;       /* float32, (batch, pos, d_vocab_out), of ABL_OUT_SLICE_LAST (batch,
                                 d_vocab_out); NULL with stop_at_layer */
    abl_tensor *residual;     /* with stop_at_layer: (batch, pos, d_model), else NULL */
    abl_cache_entry *entries; /* in firing order, each name once */
    size_t entry_count;
    double scalar; /* with gradients: what they are of; not told by a callback */
} abl_forward_result;

/*   INVALID_ARGUMENT  TOKEN_OUT_OF_RANGE  names the row, the position, the id and d_vocab
 *   INVALID_ARGUMENT  BATCH_INVALID, SEQ_INVALID  empty, or over n_ctx, ABL_BATCH_MAX, ABL_SEQ_MAX
 *   INVALID_ARGUMENT  LAYER_OUT_OF_RANGE  stop_at_layer
 *   INVALID_ARGUMENT  POSITIONS_INVALID, HOOK_HEADS, HOOK_ROWS  what is to be kept is not there
 *   INVALID_ARGUMENT  GRADIENT_NEEDS_LOGITS  gradients with stop_at_layer, or of the loss of one
 *                                            token
 *   FAILED_PRECONDITION  HOOK_CANNOT_FIRE    a point that the rest of the request leaves unread
 *   CANCELLED         RUN_CANCELLED
 * and those of abl_hook_parse(), abl_interventions_check(), abl_prefix_check() and tensor.h. With
 * stop_at_layer, a hook behind it is FAILED_PRECONDITION (HOOK_CANNOT_FIRE). */
ABL_MUST_CHECK abl_code abl_forward(const abl_forward_options *options,
                                    abl_forward_result *ret_result, abl_status *ret_status);
void abl_forward_result_finish(abl_forward_result *result);
/* That pass's hook points, captures and interventions, checked without it: not its tokens. */
ABL_MUST_CHECK abl_code abl_forward_check(const abl_forward_options *options,
                                          abl_status *ret_status);

/* The checks of abl_forward() on tokens alone, for others that take tokens. */
ABL_MUST_CHECK abl_code abl_tokens_check(const abl_model_config *config, const int32_t *tokens,
                                         int64_t batch, int64_t seq, abl_status *ret_status);

/* Before each layer of a pass, either way: whether it ends here. Where it is cancelled, the scope
 * fails with CANCELLED (RUN_CANCELLED). */
bool abl_forward_ends(const abl_forward_options *options, abl_scope *scope, int layer);
/* Whether gradients are asked for: by incl_bwd, by a name, or by a loss of the caller's. */
bool abl_forward_wants_gradients(const abl_forward_options *options);
/* What such a pass computes in. */
abl_dtype abl_forward_dtype(const abl_forward_options *options);
/* Bytes of temporaries and results that such a pass needs at most, for admission. */
uint64_t abl_forward_bytes(const abl_forward_options *options);

ABL_END_DECLS
#endif
