# SPDX-License-Identifier: Apache-2.0
"""Networks on their way up: what `ablate.micro` and `ablate.tracr` make of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ablate import micro, tracr


def run(config, tensors, tokens):
    """Attention to oneself only, by definition."""
    x = tensors["embed.W_E"][tokens]
    for layer in range(config["n_layers"]):
        attn = {name: tensors[f"blocks.{layer}.attn.{name}"] for name in ("W_V", "W_O", "b_O")}
        x = x + np.einsum("bpm,hmd,hdn->bpn", x, attn["W_V"], attn["W_O"]) + attn["b_O"]
    return x @ tensors["unembed.W_U"]


def test_micro_heads_multiply_and_add():
    config, tensors = micro.convert([[[1, 2], [3, 4]]] * 2, [[1, 1], [2, -1]])
    assert config["attention_dir"] == "self" and config["attn_only"] and config["d_vocab_out"] == 2
    np.testing.assert_array_equal(run(config, tensors, [[0, 1]]), [[[25, 49], [50, -49]]])
    assert tensors["blocks.0.attn.W_Q"].shape == (2, 2, 2)
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())


@pytest.mark.parametrize(
    "weights, inputs", [([[1, 2]], [[1, 1]]), ([[[1, 2]]], [[1, 1, 1]]), ([[[1, 2]]], [1, 1])]
)
def test_micro_refuses_other_shapes(weights, inputs):
    with pytest.raises(ValueError, match=r"\[layers, heads, width\]"):
        micro.convert(weights, inputs)


def test_tracr_refuses_layer_norms():
    with pytest.raises(ValueError, match="layer norms"):
        tracr.convert(SimpleNamespace(model_config=SimpleNamespace(layer_norm=True)))


def test_a_compiled_program_keeps_its_function():
    """Needs tracr-pypi, which needs jax; tests/golden/data/families has two programs converted."""
    pytest.importorskip("tracr", reason="phase lens has tracr-pypi")
    from tracr.compiler import compiling
    from tracr.rasp import rasp

    program = rasp.Map(lambda x: x + 1, rasp.tokens)
    assembled = compiling.compile_rasp_to_model(program, vocab={1, 2}, max_seq_len=3, compiler_bos="BOS")
    config, tensors = tracr.convert(assembled)
    assert config["normalization_type"] is None and config["attention_dir"] == "bidirectional"
    ids = assembled.input_encoder.encode(["BOS", 1, 2, 2])
    final = np.asarray(assembled.apply(["BOS", 1, 2, 2]).transformer_output)[0]
    best = (final @ tensors["unembed.W_U"]).argmax(-1).tolist()
    assert assembled.output_encoder.decode(best)[1:] == [2, 3, 3]
    start = tensors["embed.W_E"][ids] + tensors["pos_embed.W_pos"][: len(ids)]
    embedded = np.asarray(assembled.apply(["BOS", 1, 2, 2]).input_embeddings)[0]
    np.testing.assert_allclose(start, embedded, atol=1e-6)
