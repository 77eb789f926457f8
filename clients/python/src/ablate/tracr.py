# SPDX-License-Identifier: Apache-2.0
"""Compiled Tracr models, uploaded: what `tracr.compiler` assembled becomes a resident model.

    >>> model = ablate.tracr.upload(client, assembled, name="reverse")
    >>> ids = assembled.input_encoder.encode(["BOS", 1, 2, 3])
    >>> model.forward([ids])            # columns are assembled.output_encoder's, where it has one

The network is the compiled one: attention that sees all positions (unless compiled causal), no
norms, ReLU MLPs, learned positions, and the unembedding that the compiled decoder applies. Values
stand for themselves in a vocabulary of the encoder, not in a tokenizer: encode and decode with
`assembled.input_encoder` and `assembled.output_encoder`. Needs `tracr-pypi` (jax, haiku) at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._client import Client
    from ._model import Model


def convert(assembled: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and the tensors of a `tracr` AssembledTransformerModel, in TransformerLens's names and
    shapes, float32.

    Raises ValueError for a model compiled with layer norms (Tracr itself compiles none).
    """
    shape = assembled.model_config
    if shape.layer_norm:
        raise ValueError("this Tracr model has layer norms; only models without are compiled exactly")
    params = assembled.params
    embed = _array(params["token_embed"]["embeddings"])
    positions = _array(params["pos_embed"]["embeddings"])
    unembed = _unembedding(assembled, embed.shape[1])
    config = {
        "model_type": "hooked_transformer",
        "n_layers": shape.num_layers,
        "n_heads": shape.num_heads,
        "d_model": embed.shape[1],
        "d_head": shape.key_size,
        "d_mlp": shape.mlp_hidden_size,
        "n_ctx": positions.shape[0],
        "d_vocab": embed.shape[0],
        "d_vocab_out": unembed.shape[1],
        "act_fn": "relu",
        "normalization_type": None,
        "attention_dir": "causal" if shape.causal else "bidirectional",
    }
    tensors = {
        "embed.W_E": embed,
        "pos_embed.W_pos": positions,
        "unembed.W_U": unembed,
        "unembed.b_U": np.zeros(unembed.shape[1], dtype=np.float32),
    }
    for layer in range(shape.num_layers):
        tensors.update(_block(params, layer, shape.num_heads, shape.key_size))
    return config, tensors


def upload(client: "Client", assembled: Any, name: str = "tracr", **options: Any) -> "Model":
    """Uploads the model and returns its handle; `options` as :meth:`Client.upload_model` takes."""
    return client.upload_model(convert(assembled), name=name, **options)


def _array(values: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(values), dtype=np.float32)


def _unembedding(assembled: Any, width: int) -> np.ndarray:
    """The compiled decoder's matrix: what it makes of each direction of the residual stream."""
    import haiku as hk

    def read(x: Any) -> Any:
        return assembled.get_compiled_model().unembed(x, use_unembed_argmax=False)

    apply = hk.without_apply_rng(hk.transform(read)).apply
    return _array(apply({}, np.eye(width, dtype=np.float32))).reshape(width, -1)


def _block(params: Any, layer: int, n_heads: int, d_head: int) -> dict[str, np.ndarray]:
    attn = f"transformer/layer_{layer}/attn"
    mlp = f"transformer/layer_{layer}/mlp"
    out: dict[str, np.ndarray] = {}
    for letter, part in (("Q", "query"), ("K", "key"), ("V", "value")):
        w = _array(params[f"{attn}/{part}"]["w"])
        out[f"attn.W_{letter}"] = w.reshape(w.shape[0], n_heads, d_head).transpose(1, 0, 2)
        out[f"attn.b_{letter}"] = _array(params[f"{attn}/{part}"]["b"]).reshape(n_heads, d_head)
    w = _array(params[f"{attn}/linear"]["w"])
    out["attn.W_O"] = w.reshape(n_heads, d_head, w.shape[1])
    out["attn.b_O"] = _array(params[f"{attn}/linear"]["b"])
    for side, part in (("in", "linear_1"), ("out", "linear_2")):
        out[f"mlp.W_{side}"] = _array(params[f"{mlp}/{part}"]["w"])
        out[f"mlp.b_{side}"] = _array(params[f"{mlp}/{part}"]["b"])
    return {f"blocks.{layer}.{name}": np.ascontiguousarray(w) for name, w in out.items()}
