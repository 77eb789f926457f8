# SPDX-License-Identifier: Apache-2.0
"""ActivationCache: TransformerLens's stacks against its own numbers, and what stays on the daemon."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from daemon import ROOT, Daemon

import ablate

TOKENS = [[3, 41, 7, 19, 22], [8, 30, 5, 11, 49]]
RECORDED = ROOT / "tests" / "golden" / "data" / "stacks.npz"


@pytest.fixture(scope="module")
def recorded():
    return np.load(RECORDED)


@pytest.fixture(scope="module")
def rand(client):
    model = client.load_model("tiny-rand", progress=False)
    yield model
    model.unload()


def calls():
    return [name for name in np.load(RECORDED).files if name != "tokens"]


@pytest.mark.parametrize("lazily", [True, False], ids=["lazy", "named"])
@pytest.mark.parametrize("call", calls())
def test_stacks_are_those_of_transformerlens(rand, recorded, call, lazily):
    names = None if lazily else [point.name for point in rand.hook_points()]
    _, cache = rand.run_with_cache(recorded["tokens"], names)
    made = eval(f"cache.{call}", {"cache": cache, "array": np.array})
    expected = recorded[call]
    if expected.dtype.kind == "U":
        assert made[1] == expected.tolist() and len(made[0]) == len(made[1])
    else:
        np.testing.assert_allclose(made, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("mode", ["hf", "tl"])
def test_components_sum_to_the_stream_and_their_attributions_to_the_logit(client, mode):
    model = client.load_model("tiny-ioi", mode, progress=False)
    logits, cache = model.run_with_cache(TOKENS)
    for layer in range(model.cfg.n_layers):
        np.testing.assert_allclose(cache.decompose_resid(layer).sum(0), cache["resid_pre", layer], atol=1e-4)
        mid = cache.decompose_resid(layer, mlp_input=True).sum(0)
        np.testing.assert_allclose(mid, cache["resid_mid", layer], atol=1e-4)
    heads = cache.stack_head_results(incl_remainder=True)
    np.testing.assert_allclose(heads.sum(0), cache["resid_post", -1], atol=1e-4)
    if mode == "tl":  # the norm's own weights are folded into the unembedding there
        attributed = cache.logit_attrs(cache.decompose_resid(), 7).sum(0)
        bias = model.unembed.b_U[7]
        np.testing.assert_allclose(attributed + bias, logits[..., 7], atol=1e-3)


def test_head_results_are_made_of_z_where_they_were_not_captured(rand):
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(rand.cfg.n_layers)]
    _, whole = rand.run_with_cache(TOKENS)
    _, few = rand.run_with_cache(TOKENS, names)
    np.testing.assert_allclose(few.stack_head_results(), whole.stack_head_results(), atol=1e-5)
    with pytest.raises(KeyError, match="hook_attn_out was not captured"):
        few.decompose_resid()


def test_a_lazy_cache_reads_what_it_is_asked_for(tiny):
    before = {kept.id for kept in tiny.activations()}
    logits, cache = tiny.run_with_cache(TOKENS)
    assert logits.shape[0] == 2 and cache.fetched == []
    last = cache["resid_post", -1]
    assert cache.fetched == ["blocks.3.hook_resid_post"] and cache["resid_post", 3] is last
    cache.decompose_resid()
    assert set(cache.fetched) == {
        "hook_embed", "hook_pos_embed", "blocks.3.hook_resid_post",
        *(f"blocks.{layer}.hook_{part}_out" for layer in range(4) for part in ("attn", "mlp")),
    }  # fmt: skip
    unread = set(tiny.parameters()._arrays)
    cache.logit_attrs(cache.decompose_resid(pos_slice=-1), 7, pos_slice=-1)
    assert set(tiny.parameters()._arrays) == unread, "W_U's column comes, not W_U"
    assert len({kept.id for kept in tiny.activations()} - before) == 1
    del cache
    gc.collect()
    assert {kept.id for kept in tiny.activations()} == before, "what is dropped here ends there"


def test_columns_of_a_weight(tiny):
    whole = tiny.state_dict()["unembed.W_U"]
    fresh = tiny.client.model(tiny.id).parameters()
    np.testing.assert_array_equal(fresh.columns("unembed.W_U", [5, 2, 5]), whole[:, [5, 2, 5]])
    assert "unembed.W_U" not in fresh._arrays
    np.testing.assert_array_equal(fresh.columns("blocks.0.attn.W_Q", [3])[..., 0], fresh["blocks.0.attn.W_Q"][..., 3])
    for wrong in (-1, whole.shape[1]):
        with pytest.raises(ablate.InvalidArgumentError) as caught:
            fresh.columns("unembed.W_U", [0, wrong])
        assert caught.value.reason == "PARAMETER_COLUMNS" and str(wrong) in str(caught.value)


def test_unloading_a_model_takes_what_its_lazy_caches_had_not_read():
    with Daemon() as daemon, ablate.connect(daemon.grpc, arrays="numpy") as client:
        model = client.load_model("tiny-rand", progress=False)
        _, cache = model.run_with_cache(TOKENS)
        read = cache["resid_post", 0]
        model.unload()
        assert cache["resid_post", 0] is read
        with pytest.raises(ablate.NotFoundError, match="run the pass again"):
            cache["resid_post", 1]


def test_closing_the_connection_ends_what_lazy_caches_keep(daemon, tiny):
    before = len(tiny.activations())
    with ablate.connect(daemon.grpc, arrays="numpy") as other:
        _, cache = other.model(tiny.id).run_with_cache(TOKENS)
        assert len(tiny.activations()) == before + 1
    assert len(tiny.activations()) == before
    assert len(cache) > 10


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda cache: cache.decompose_resid(mode="heads"), "mode must be"),
        (lambda cache: cache.decompose_resid(5), "layer must be from 0 to 4"),
        (lambda cache: cache.logit_attrs(cache.decompose_resid(), 1, [1, 2]), "one shape"),
        (lambda cache: cache.logit_attrs(cache.decompose_resid(), "two words"), "not one token"),
        (lambda cache: cache.stack_activation("resid_pre", 0), "nothing to stack"),
    ],
)
def test_wrong_questions_are_told(tiny, ask, message):
    _, cache = tiny.run_with_cache(TOKENS)
    with pytest.raises(ValueError, match=message):
        ask(cache)
