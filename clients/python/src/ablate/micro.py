# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's MicroModel, and networks like it: blocks of heads that multiply, no transformer.

A head of a block has one vector of weights and multiplies its input by it, element by element; a
block adds its heads' products to the residual stream. As a canonical model such a head is the linear
map `W_V W_O` with `W_V` diagonal and `W_O` the identity, in attention that sees its own position only
(`attention_dir` "self"), without norms, MLPs and positions. Inputs are vectors, not tokens: a table of
them is the embedding, and a token id is a row of it; the logits are the last residual itself.

    >>> model = ablate.micro.upload(client, weights=[[[1, 2], [3, 4]]] * 2, inputs=[[1, 0], [2, 3]])
    >>> graph = model.graph(separate_qkv=False)        # A0.0 is AutoCircuit's B0.0
    >>> graph.forward([[0, 1]])                         # positions hold inputs[0] and inputs[1]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._client import Client
    from ._model import Model


def convert(weights: Any, inputs: Any, n_ctx: int = 64) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and tensors. `weights` [layers, heads, width]; `inputs` [rows, width].

    Raises ValueError for arrays of other ranks or widths.
    """
    w = np.asarray(weights, dtype=np.float32)
    table = np.asarray(inputs, dtype=np.float32)
    if w.ndim != 3 or table.ndim != 2 or w.shape[2] != table.shape[1]:
        raise ValueError(
            f"weights must be [layers, heads, width] and inputs [rows, width], not {w.shape} and {table.shape}"
        )
    layers, heads, width = w.shape
    config = {
        "model_type": "hooked_transformer",
        "n_layers": layers,
        "n_heads": heads,
        "d_model": width,
        "d_head": width,
        "n_ctx": n_ctx,
        "d_vocab": table.shape[0],
        "d_vocab_out": width,
        "attn_only": True,
        "normalization_type": None,
        "attention_dir": "self",
    }
    eye = np.eye(width, dtype=np.float32)
    tensors = {
        "embed.W_E": table,
        "pos_embed.W_pos": np.zeros((n_ctx, width), np.float32),
        "unembed.W_U": eye,
        "unembed.b_U": np.zeros(width, np.float32),
    }
    for layer in range(layers):
        attn = {
            "W_Q": np.zeros((heads, width, width), np.float32),
            "W_K": np.zeros((heads, width, width), np.float32),
            "W_V": np.stack([np.diag(head) for head in w[layer]]),
            "W_O": np.stack([eye] * heads),
            "b_O": np.zeros(width, np.float32),
        }
        for letter in "QKV":
            attn[f"b_{letter}"] = np.zeros((heads, width), np.float32)
        tensors.update({f"blocks.{layer}.attn.{name}": tensor for name, tensor in attn.items()})
    return config, tensors


def upload(
    client: "Client", weights: Any, inputs: Any, name: str = "micro", **options: Any
) -> "Model":
    """Uploads the network and returns its handle; `options` as :meth:`Client.upload_model` takes.

    Pass `torch.stack([block.weights for block in micro_model.blocks])` for AutoCircuit's MicroModel.
    """
    if hasattr(weights, "detach"):
        weights = weights.detach().cpu().numpy()
    if hasattr(inputs, "detach"):
        inputs = inputs.detach().cpu().numpy()
    return client.upload_model(convert(weights, inputs), name=name, **options)
