# SPDX-License-Identifier: Apache-2.0
"""Hook points' names: TransformerLens's shorthand, and its fourth version's bridge."""

from __future__ import annotations

import re

_ATTENTION_ACTS = frozenset("k q v z rot_k rot_q result pattern attn_scores".split())
_MLP_ACTS = frozenset("pre mid post pre_linear".split())
_SHORT_NAMES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}


def get_act_name(name: str, layer: int | None = None, layer_type: str | None = None) -> str:
    """TransformerLens's shorthand for a hook point:
    ``get_act_name("resid_post", 3) == "blocks.3.hook_resid_post"``; with ``_grad`` behind it, too.
    """
    if name.endswith("_grad"):
        return get_act_name(name.removesuffix("_grad"), layer, layer_type) + "_grad"
    if "." in name or name.startswith("hook_") and layer is None:
        return name
    name = _SHORT_NAMES.get(name, name)
    if layer is None:
        if name in ("scale", "normalized"):
            return f"{layer_type or 'ln_final'}.hook_{name}"
        return f"hook_{name}"
    part = {"a": "attn", "m": "mlp", "b": "", "block": "", "blocks": "", "attention": "attn"}.get(
        layer_type or "", layer_type or ""
    )
    if name in _ATTENTION_ACTS:
        part = "attn"
    elif name in _MLP_ACTS:
        part = "mlp"
    return f"blocks.{layer}.{part + '.' if part else ''}hook_{name}"


# The bridge's names (TransformerLens 4) of hook points, below "blocks.N." or whole.
_BRIDGE_NAMES = {
    "hook_embed": "embed.hook_out",
    "hook_resid_pre": "hook_in",
    "hook_resid_mid": "ln2.hook_in",
    "hook_resid_post": "hook_out",
    "hook_attn_out": "attn.hook_out",
    "hook_mlp_out": "mlp.hook_out",
    "hook_q_input": "attn.hook_q_input",
    "hook_k_input": "attn.hook_k_input",
    "hook_v_input": "attn.hook_v_input",
    "attn.hook_q": "attn.q.hook_out",
    "attn.hook_k": "attn.k.hook_out",
    "attn.hook_v": "attn.v.hook_out",
    "attn.hook_z": "attn.o.hook_in",
}


def bridge_name(name: str) -> str:
    """The bridge's name of a hook point; empty where it has none."""
    match = re.fullmatch(r"(blocks\.\d+\.)?(.+)", name)
    assert match is not None
    bridge = _BRIDGE_NAMES.get(match[2])
    return (match[1] or "") + bridge if bridge else ""
