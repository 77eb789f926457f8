# SPDX-License-Identifier: Apache-2.0
"""A model resident in bfloat16: whatever ablates edges or scores them computes as the same numbers do in float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
from daemon import goldens
from test_families import tensors

FOLDER = goldens() / "models" / "tiny-ioi"
ALGORITHMS = ["eap", "activation_magnitude", "eap_ig", "subnetwork_probing"]  # all: tests/golden/resident_golden.c


def rounded(x):
    """The nearest bfloat16 numbers, as float32."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.fixture(scope="module")
def models(client):
    """The rounded weights, resident in bfloat16 and in float32."""
    config = json.loads((FOLDER / "config.json").read_text())
    weights = {name: rounded(x) for name, x in tensors(FOLDER / "model.safetensors").items()}
    pair = [
        client.upload_model(
            (config, weights), f"rounded-{dtype}", tokenizer=FOLDER / "tokenizer.json", dtype=dtype, progress=False
        )
        for dtype in ("bfloat16", "float32")
    ]
    yield pair
    for model in pair:
        model.unload()


@pytest.fixture(scope="module")
def prompts(models):
    pairs = json.loads((goldens() / "prompts" / "ioi_late.json").read_text())["prompts"]
    return [models[0].to_tokens([pair[side] for pair in pairs], True) for side in ("clean", "corrupt")]


@pytest.fixture
def graphs(models):
    pair = [model.graph() for model in models]
    yield pair
    for graph in pair:
        graph.delete()


def test_its_weights_take_half_the_memory_and_a_plain_pass_is_bfloat16s(models, prompts):
    narrow, wide = models
    assert narrow.weight_bytes * 2 == wide.weight_bytes
    plain, exact = (model(prompts[0], slice_output="last_seq") for model in models)
    assert 1e-4 < np.max(np.abs(plain - exact)) < 0.1 * np.max(np.abs(exact))


@pytest.mark.parametrize("ablation", ["resample", "zero", "tokenwise_mean_corrupt"])
def test_patched_passes_are_float32s(graphs, prompts, ablation):
    out = []
    for graph in graphs:
        graph.set_patch_mask({"A0.0->MLP 1": 1.0, "MLP 0->A1.2.Q": 0.5, "A1.2->Resid End": 1.0})
        out.append(graph(prompts[0], ablation_input=None if ablation == "zero" else prompts[1], ablation=ablation))
    np.testing.assert_array_equal(*out)


def test_gradients_captures_and_caches_are_float32s(models, graphs, prompts):
    names = ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z"]
    for runner in (models, graphs):
        found = [one.run_with_cache(prompts[0], names, incl_bwd=True)[1] for one in runner]
        for name in found[0]:
            np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)
        assert f"{names[0]}_grad" in found[0]
    behind = []
    for model, graph in zip(models, graphs):
        cache = model.kv_cache(prompts[0][:1, :11])
        behind.append((cache.bytes, graph(prompts[0], ablation_input=prompts[1], kv_cache=cache)))
        whole = model(prompts[0], slice_output="last_seq")
        tail = model(prompts[0], slice_output="last_seq", kv_cache=cache)
        assert np.max(np.abs(whole - tail)) < 0.05 * np.max(np.abs(whole))
        cache.delete()
    assert behind[0][0] == behind[1][0]
    np.testing.assert_array_equal(behind[0][1], behind[1][1])


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_scores_are_float32s(graphs, ioi, algo):
    narrow, wide = (graph.prune_scores(ioi, algo, batch_size=4, progress=False).flat() for graph in graphs)
    np.testing.assert_array_equal(narrow, wide)
    assert np.any(narrow[np.isfinite(narrow)] != 0) or not np.all(np.isfinite(narrow))
