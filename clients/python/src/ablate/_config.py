# SPDX-License-Identifier: Apache-2.0
"""What a model is: its shape and its hook points."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from .v1 import common_pb2, model_pb2


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, in the names of TransformerLens's HookedTransformerConfig.

    ``n_key_value_heads`` is ``n_heads`` without grouped queries (TransformerLens: None), and
    ``normalization_type`` and ``act_fn`` are None where the model has none. What TransformerLens
    computes only when a flag is set can always be asked for here, so those flags are True. Fields about
    what no model here has (experts, caps, scaled rotary frequencies: a model with them is refused when
    it is loaded) or does (checkpoints, initial weights) have TransformerLens's defaults.
    """

    family: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    act_fn: str | None
    normalization_type: str | None
    eps: float
    positional_embedding_type: str
    rotary_base: float
    gated_mlp: bool
    parallel_attn_mlp: bool
    tied_embeddings: bool
    d_vocab_out: int
    attention_dir: str
    attn_only: bool
    is_transformer: bool
    rotary_dim: int
    n_params: int
    parameter_count: int
    attn_scale: float
    use_attn_scale: bool
    final_rms: bool
    model_name: str = ""
    device: str = ""
    dtype: str = "float32"
    default_prepend_bos: bool = False
    use_attn_result: bool = True
    use_split_qkv_input: bool = True
    use_hook_mlp_in: bool = True
    use_attn_in: bool = True
    use_hook_tokens: bool = False
    use_local_attn: bool = False
    ungroup_grouped_query_attention: bool = False
    scale_attn_by_inverse_layer_idx: bool = False
    rotary_adjacent_pairs: bool = False
    post_embedding_ln: bool = False
    use_normalization_before_and_after: bool = False
    num_experts: int | None = None
    experts_per_token: int | None = None
    window_size: int | None = None
    attn_types: list[str] | None = None
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0
    n_devices: int = 1
    tokenizer_prepends_bos: bool = False
    from_checkpoint: bool = False
    checkpoint_index: int | None = None
    checkpoint_label_type: str | None = None
    checkpoint_value: int | None = None
    init_mode: str = "gpt2"
    init_weights: bool = False
    initializer_range: float = -1.0
    seed: int | None = None
    trust_remote_code: bool = False
    load_in_4bit: bool = False
    relative_attention_max_distance: int | None = None
    relative_attention_num_buckets: int | None = None
    decoder_start_token_id: int | None = None
    use_NTK_by_parts_rope: bool = False
    NTK_by_parts_low_freq_factor: float = 1.0
    NTK_by_parts_high_freq_factor: float = 4.0
    NTK_by_parts_factor: float = 8.0
    NTK_original_ctx_len: int = 8192

    @classmethod
    def _from_proto(cls, proto: model_pb2.Model) -> "ModelConfig":
        known = proto.config.DESCRIPTOR.fields_by_name
        values = {
            field.name: getattr(proto.config, field.name)
            for field in fields(cls)
            if field.name in known
        }
        values["normalization_type"] = values["normalization_type"] or None
        values["act_fn"] = values["act_fn"] or None
        return cls(
            **values,
            model_name=proto.name,
            device=proto.device,
            dtype=dtype_name(proto.dtype),
            default_prepend_bos=proto.default_prepend_bos,
        )

    @property
    def original_architecture(self) -> str:
        """The family, which TransformerLens calls so."""
        return self.family

    @property
    def tokenizer_name(self) -> str:
        """The model's name: its tokenizer comes with it."""
        return self.model_name

    @property
    def tie_word_embeddings(self) -> bool:
        """TransformerLens's name of ``tied_embeddings``."""
        return self.tied_embeddings

    def to_dict(self) -> dict[str, Any]:
        """All of it, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def dtype_name(dtype: int) -> str:
    """``"float32"``."""
    return common_pb2.DType.Name(dtype).removeprefix("DTYPE_").lower()


@dataclass(frozen=True)
class HookPoint:
    """A place where an activation can be captured."""

    name: str
    """TransformerLens's name: ``"blocks.0.attn.hook_z"``."""
    bridge_name: str
    """The same place in TransformerLens 4's bridge; empty where it has none."""
    shape: tuple[str, ...]
    """Dimensions by name: ``("batch", "pos", "head", "d_head")``."""
