/* config.h -- what config.json says about a model, in one family-independent structure.
 *
 * OWNERSHIP  A config is a value: no pointers, copy it freely.
 * THREADS    Pure functions.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone. Messages
 *            name the file, the key as the file spells it, its value and the limit.
 */
#ifndef ABLATE_CORE_MODEL_CONFIG_H
#define ABLATE_CORE_MODEL_CONFIG_H

#include "core/base/limits.h"
#include "core/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* X(enum suffix, model_type in config.json) */
#define ABL_FAMILY_MAP(X)                                                                          \
    X(GPT2, "gpt2")                                                                                \
    X(LLAMA, "llama")                                                                              \
    X(GPT_NEOX, "gpt_neox")                                                                        \
    X(HOOKED, "hooked_transformer")

typedef enum abl_family {
#define X(name, text) ABL_FAMILY_##name,
    ABL_FAMILY_MAP(X)
#undef X
} abl_family;

typedef enum abl_norm {
    ABL_NORM_LAYER, /* (x - mean) / sqrt(var + eps) * w + b */
    ABL_NORM_RMS,   /* x / sqrt(mean(x^2) + eps) * w */
    ABL_NORM_NONE,  /* x */
} abl_norm;

typedef enum abl_positional {
    ABL_POSITIONAL_LEARNED, /* a table of n_ctx rows, added to the embedding */
    ABL_POSITIONAL_ROPE,    /* rotary: a head's first rotary_dim numbers, halves paired */
} abl_positional;

typedef enum abl_attention {
    ABL_ATTENTION_CAUSAL,
    ABL_ATTENTION_BIDIRECTIONAL,
    ABL_ATTENTION_SELF, /* each position sees itself only: a head is the linear map W_V W_O */
} abl_attention;

typedef enum abl_activation {
    ABL_ACTIVATION_GELU,     /* exact, by erf */
    ABL_ACTIVATION_GELU_NEW, /* the tanh approximation */
    ABL_ACTIVATION_RELU,
    ABL_ACTIVATION_SILU,
} abl_activation;

#define ABL_EOS_COUNT_MAX 8

/* Shapes are as in TransformerLens: d_model is the residual stream, d_head one head. */
typedef struct abl_model_config {
    abl_family family;
    int n_layers;
    int n_heads;
    int n_kv_heads; /* divides n_heads; equal to it without grouped queries */
    int d_model;
    int d_head;
    int d_mlp;
    int d_vocab;
    int d_vocab_out; /* columns of the logits; d_vocab but for models that read other than write */
    int n_ctx;

    abl_norm norm;
    bool norm_plain; /* no gains and biases: they are folded in the file */
    double norm_eps;
    abl_activation activation;
    bool gated;             /* mlp_out(act(gate(x)) * in(x)), else mlp_out(act(in(x))) */
    bool parallel_attn_mlp; /* attention and MLP read the same residual */
    bool attn_only;         /* blocks have no MLP */
    abl_attention attention;
    double attn_divisor; /* of the attention scores; 0: sqrt(d_head) */
    bool attn_bias;      /* b_Q, b_K, b_V, b_O are in the file */
    bool mlp_bias;
    bool tied_unembed; /* the unembedding is the embedding, transposed */
    bool unembed_bias;

    abl_positional positional;
    double rope_theta; /* 0 unless positional is ROPE, as for the next */
    int rotary_dim;    /* numbers of a head that are rotated; even, at most d_head */

    int bos_id; /* -1 when absent */
    int eos_count;
    int eos_ids[ABL_EOS_COUNT_MAX];
} abl_model_config;

/* `source` is what messages call the text, usually its path.
 *   INVALID_ARGUMENT    CONFIG_INVALID      not JSON, a key missing, of the wrong type, out of its
 *                                           range, or at odds with another
 *   UNIMPLEMENTED       FAMILY_UNSUPPORTED  another model_type; the message lists those supported
 *   UNIMPLEMENTED       CONFIG_UNSUPPORTED  a variant of the family that is not computed here
 *   RESOURCE_EXHAUSTED  CONFIG_TOO_BIG      more than ABL_CONFIG_BYTES_MAX bytes */
ABL_MUST_CHECK abl_code abl_model_config_parse(const char *text, size_t text_bytes,
                                               const char *source, abl_model_config *ret_config,
                                               abl_status *ret_status);

/* Reads the file at `path`; blocks on disk. Also NOT_FOUND (FILE_MISSING) and PERMISSION_DENIED
 * (FILE_UNREADABLE). */
ABL_MUST_CHECK abl_code abl_model_config_read(const char *path, abl_model_config *ret_config,
                                              abl_status *ret_status);

const char *abl_family_name(abl_family family);             /* "gpt2" */
const char *abl_activation_name(abl_activation activation); /* "gelu_new" */
const char *abl_norm_name(abl_norm norm);                   /* "layer", "rms", "none" */
const char *abl_positional_name(abl_positional positional); /* "learned", "rope" */
const char *abl_attention_name(abl_attention attention);    /* "causal", "bidirectional", "self" */

/* Ids that prompts or answers may have: the larger of d_vocab and d_vocab_out. */
int abl_model_config_id_count(const abl_model_config *config);

ABL_END_DECLS
#endif
