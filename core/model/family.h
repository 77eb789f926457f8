/* family.h -- from a family's tensor names and layouts to the canonical weight slots.
 *
 * OWNERSHIP  abl_weight_map_create() hands the map to the caller; it borrows the safetensors set,
 *            which must outlive it.
 * THREADS    Immutable after create: any thread may read.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 *
 * A slot is one canonical matrix or vector of one layer. A view says where its numbers are: in
 * which tensor of the file, in which range of it (GPT-2 keeps q, k and v in one tensor), and
 * whether that is stored input-major (GPT-2's Conv1D, [in, out]) or output-major (torch's Linear,
 * [out, in]). Views never copy; who loads them narrows, reshapes, transposes and converts.
 */
#ifndef ABLATE_CORE_MODEL_FAMILY_H
#define ABLATE_CORE_MODEL_FAMILY_H

#include "core/base/status.h"
#include "core/model/config.h"
#include "core/model/safetensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

ABL_BEGIN_DECLS

/* X(enum suffix, name in messages). Those from LN1_W to MLP_OUT_B are once a layer. */
#define ABL_SLOT_MAP(X)                                                                            \
    X(EMBED, "embed")           /* (d_vocab, d_model) */                                           \
    X(POS_EMBED, "pos_embed")   /* (n_ctx, d_model); learned positions only */                     \
    X(LN1_W, "ln1.w")           /* (d_model) */                                                    \
    X(LN1_B, "ln1.b")           /* (d_model); layer norm only */                                   \
    X(Q_W, "attn.q.w")          /* in d_model, out n_heads * d_head */                             \
    X(Q_B, "attn.q.b")          /* (n_heads * d_head); attn_bias only, as for K, V, O */           \
    X(K_W, "attn.k.w")          /* in d_model, out n_kv_heads * d_head */                          \
    X(K_B, "attn.k.b")          /* (n_kv_heads * d_head) */                                        \
    X(V_W, "attn.v.w")          /* in d_model, out n_kv_heads * d_head */                          \
    X(V_B, "attn.v.b")          /* (n_kv_heads * d_head) */                                        \
    X(O_W, "attn.o.w")          /* in n_heads * d_head, out d_model */                             \
    X(O_B, "attn.o.b")          /* (d_model) */                                                    \
    X(LN2_W, "ln2.w")           /* (d_model) */                                                    \
    X(LN2_B, "ln2.b")           /* (d_model); layer norm only */                                   \
    X(MLP_IN_W, "mlp.in.w")     /* in d_model, out d_mlp */                                        \
    X(MLP_IN_B, "mlp.in.b")     /* (d_mlp); mlp_bias only, as for GATE, OUT */                     \
    X(MLP_GATE_W, "mlp.gate.w") /* in d_model, out d_mlp; gated only */                            \
    X(MLP_GATE_B, "mlp.gate.b") /* (d_mlp) */                                                      \
    X(MLP_OUT_W, "mlp.out.w")   /* in d_mlp, out d_model */                                        \
    X(MLP_OUT_B, "mlp.out.b")   /* (d_model) */                                                    \
    X(LN_FINAL_W, "ln_final.w") /* (d_model) */                                                    \
    X(LN_FINAL_B, "ln_final.b") /* (d_model); layer norm only */                                   \
    X(UNEMBED, "unembed")     /* in d_model, out d_vocab_out; the embedding's tensor when tied */  \
    X(UNEMBED_B, "unembed.b") /* (d_vocab_out); unembed_bias only */

typedef enum abl_slot {
#define X(name, text) ABL_SLOT_##name,
    ABL_SLOT_MAP(X)
#undef X
        ABL_SLOT_COUNT
} abl_slot;

/* How a tensor has the heads of q, k, v and o. */
typedef enum abl_head_layout {
    ABL_HEADS_FLAT,  /* inputs or outputs are heads * d_head numbers: as in the canonical slot */
    ABL_HEADS_AXIS,  /* TransformerLens: (heads, d_model, d_head), o (heads, d_head, d_model) */
    ABL_HEADS_MIXED, /* NeoX: outputs are heads * (q, k, v) * d_head numbers */
} abl_head_layout;

typedef struct abl_weight_view {
    abl_slot slot;
    int layer;                            /* -1 for the slots that are not in a layer */
    const abl_safetensors_tensor *tensor; /* F32, F16 or BF16 */
    int rank;                             /* 1 or 2 */
    int64_t shape[2];                     /* of the view, as stored: after narrowing */
    bool input_major;                     /* rank 2: true [in, out], false [out, in] */
    /* Unless FLAT, a loader brings the tensor into `shape` first; nothing is narrowed then. */
    abl_head_layout layout;
    int64_t heads; /* of the slot; MIXED: the third `which` of each, 0 q, 1 k, 2 v */
    int which;
    /* The view is tensor.narrow(dim, offset, count); all of it when count == tensor->shape[dim]. */
    int narrow_dim;
    int64_t narrow_offset;
    int64_t narrow_count;
} abl_weight_view;

typedef struct abl_weight_map abl_weight_map; /* opaque: the fields are in family.c */

/* Finds every tensor that the config asks for and checks its shape and dtype.
 *   NOT_FOUND         WEIGHT_MISSING   the message names the tensor and the file
 *   INVALID_ARGUMENT  WEIGHT_SHAPE     the message has both shapes
 *   INVALID_ARGUMENT  WEIGHT_DTYPE     not F32, F16 or BF16
 *   INVALID_ARGUMENT  WEIGHT_UNKNOWN   a tensor that this family has no place for, such as a layer
 *                                      beyond n_layers: computing without it would be wrong */
ABL_MUST_CHECK abl_code abl_weight_map_create(const abl_model_config *config,
                                              const abl_safetensors *set, abl_weight_map **ret_map,
                                              abl_status *ret_status);
void abl_weight_map_destroy(abl_weight_map *map);

/* All views, by layer then slot (embeddings first, the final norm and unembedding last). */
size_t abl_weight_map_count(const abl_weight_map *map);
const abl_weight_view *abl_weight_map_at(const abl_weight_map *map, size_t index);
/* NULL when the model has no such weight (say, a bias). layer is -1 for slots outside the layers.
 */
const abl_weight_view *abl_weight_map_find(const abl_weight_map *map, abl_slot slot, int layer);

bool abl_slot_in_layer(abl_slot slot);

ABL_END_DECLS
#endif
