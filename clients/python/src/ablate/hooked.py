# SPDX-License-Identifier: Apache-2.0
"""A TransformerLens HookedTransformer, uploaded with the weights that it has now.

    >>> model = ablate.hooked.upload(client, hooked_transformer)

Whatever was done to it, folding or fine-tuning, goes along; what this project does not compute
(gated MLPs, experts, local attention, soft caps, shortformer positions) is refused by name, here or
by the daemon. Load those from their Hugging Face folders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._client import Client
    from ._model import Model

_KEYS = """n_layers n_heads n_key_value_heads d_model d_head d_mlp n_ctx d_vocab d_vocab_out act_fn eps
    normalization_type attn_only parallel_attn_mlp attention_dir use_attn_scale attn_scale use_local_attn
    use_qk_norm scale_attn_by_inverse_layer_idx attn_scores_soft_cap output_logits_soft_cap gated_mlp
    positional_embedding_type rotary_base rotary_dim rotary_adjacent_pairs use_NTK_by_parts_rope
    use_normalization_before_and_after num_experts""".split()
# Not weights: the causal mask, the value that it writes, and tables of the rotation.
_BUFFERS = (".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos")


def convert(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and tensors of a HookedTransformer.

    Raises ValueError for a final RMS norm behind layer norms.
    """
    cfg = model.cfg
    if getattr(cfg, "final_rms", False) and not str(cfg.normalization_type).startswith("RMS"):
        raise ValueError("final_rms with other norms in the blocks is not supported")
    config = {key: getattr(cfg, key) for key in _KEYS if hasattr(cfg, key)}
    config["model_type"] = "hooked_transformer"
    tensors = {
        name.replace(".attn._", ".attn."): tensor  # grouped keys and values
        for name, tensor in model.state_dict().items()
        if not name.endswith(_BUFFERS)
    }
    return config, tensors


def upload(client: "Client", model: Any, name: str | None = None, **options: Any) -> "Model":
    """Uploads the model and returns its handle; `options` as :meth:`Client.upload_model` takes.

    ``name``: TransformerLens's ``model_name`` if not given. A tokenizer goes along with
    ``tokenizer=path``.
    """
    name = name or getattr(model.cfg, "model_name", None) or "hooked_transformer"
    return client.upload_model(convert(model), name=name, **options)
