# SPDX-License-Identifier: Apache-2.0
"""Hook points: of patched passes, intervened in, with gradients."""

from pathlib import Path

import ablate
import numpy as np
import pytest
from daemon import Daemon

TOKENS = np.array([[1, 7, 3, 9, 4], [2, 5, 8, 6, 1]])
OTHER = np.array([[1, 9, 3, 2, 4], [2, 6, 8, 3, 1]])


def test_a_patched_pass_shows_its_hook_points(tiny, graph):
    names = ["hook_resid_post", "attn.hook_pattern", "hook_q_input", "hook_mlp_in", "hook_mlp_out"]
    names = [f"blocks.1.{name}" for name in names]
    _, plain = tiny.run_with_cache(TOKENS, names)
    logits, empty = graph.run_with_cache(TOKENS, names, ablation="zero", slice_output=None)
    for name in names:
        np.testing.assert_allclose(empty[name], plain[name], atol=1e-5)
    np.testing.assert_allclose(logits, tiny(TOKENS), atol=1e-4)
    graph.set_patch_mask(1.0)
    _, other = tiny.run_with_cache(OTHER, names)
    logits, full = graph.run_with_cache(
        TOKENS, names, ablation="resample", ablation_input=OTHER, slice_output=None
    )
    for name in names[1:]:
        np.testing.assert_allclose(full[name], other[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(logits, tiny(OTHER), atol=1e-4)
    graph.set_patch_mask({"A0.1->MLP 1": 1.0, "MLP 0->A1.2.Q": 0.5}, reset_others=True)
    logits, some = graph.run_with_cache(TOKENS, names, ablation="zero")
    np.testing.assert_allclose(logits, graph(TOKENS, ablation="zero"), atol=1e-5)
    reads = np.abs(some["blocks.1.hook_q_input"] - plain["blocks.1.hook_q_input"]).max((0, 1, 3))
    assert np.flatnonzero(reads > 1e-4).tolist() == [2], "only that head's input is patched"


def test_a_patched_pass_stops_at_a_layer(graph):
    graph.set_patch_mask(0.5)
    logits, cache = graph.run_with_cache(
        TOKENS, lambda name: name.endswith("hook_resid_pre") and ".0." in name, ablation="zero", stop_at_layer=1
    )
    assert logits is None and list(cache) == ["blocks.0.hook_resid_pre"]


Z = "blocks.0.attn.hook_z"
POST = "blocks.1.hook_resid_post"


def test_one_pass_is_intervened_in(tiny):
    plain, cache = tiny.run_with_cache(TOKENS, [Z, "blocks.0.hook_mlp_out"])
    zeroed = tiny.run_with_hooks(TOKENS, [(Z, {"op": "zero", "heads": [1]})])
    assert np.abs(zeroed - plain).max() > 1e-3
    _, seen = tiny.run_with_cache(TOKENS, [Z], fwd_hooks=[(Z, {"op": "suppress", "heads": 1})])
    assert (seen[Z][:, :, 1] == 0).all(), "a capture sees the change"
    np.testing.assert_allclose(seen[Z][:, :, 0], cache[Z][:, :, 0], atol=1e-6)
    vector = np.linspace(-1, 1, tiny.cfg.d_model)
    add = {"op": "add", "value": vector, "factor": 0.5, "pos": [-1], "rows": [1]}
    _, added = tiny.run_with_cache(TOKENS, ["blocks.0.hook_mlp_out"], fwd_hooks={"blocks.0.mlp.hook_out": add})
    want = cache["blocks.0.hook_mlp_out"].copy()
    want[1, -1] += 0.5 * vector
    np.testing.assert_allclose(added["blocks.0.hook_mlp_out"], want, atol=1e-5)
    order = [("blocks.1.hook_resid_pre", {"op": "scale", "factor": 2.0}),
             ("blocks.1.hook_resid_pre", {"op": "clamp", "min": -0.1, "max": 0.1})]  # fmt: skip
    _, clamped = tiny.run_with_cache(TOKENS, ["blocks.1.hook_resid_pre"], fwd_hooks=order)
    assert np.abs(clamped["blocks.1.hook_resid_pre"]).max() <= 0.1 + 1e-7
    np.testing.assert_array_equal(tiny(TOKENS), tiny.run_with_hooks(TOKENS))


def test_hooks_of_a_graph_stay_are_listed_and_removed(tiny, graph):
    other = tiny.graph(slice_output=None)
    plain = graph(TOKENS)
    first = graph.add_hook("blocks.0.attn.o.hook_in", "zero", heads=[0, 2])
    second = graph.add_hook(POST, {"op": "scale", "factor": 0.5}, pos=-1)
    assert [hook.id for hook in graph.hooks()] == [first.id, second.id]
    assert (first.name, first.bridge_name, first.op, first.heads) == (Z, "blocks.0.attn.o.hook_in", "zero", (0, 2))
    hooked = graph(TOKENS)
    assert np.abs(hooked - plain).max() > 1e-3
    assert other.hooks() == [] and np.abs(other(TOKENS)[:, -1] - plain).max() < 1e-5, "another user"
    np.testing.assert_allclose(graph(TOKENS, ablation="zero"), hooked, atol=1e-4)
    with graph.add_hook("blocks.0.hook_mlp_out", "project_out", direction=np.ones(tiny.cfg.d_model)) as third:
        assert len(graph.hooks()) == 3 and third.op == "project_out"
    first.remove()
    same = tiny.run_with_hooks(TOKENS, [(POST, {"op": "scale", "factor": 0.5, "pos": -1})], slice_output="last_seq")
    np.testing.assert_allclose(graph(TOKENS), same, atol=1e-5)
    assert graph.reset_hooks() == 1 and graph.hooks() == []
    np.testing.assert_array_equal(graph(TOKENS), plain)
    other.delete()


def test_hooks_that_overwrite_each_other_are_refused_when_they_are_added(graph):
    chosen = {"heads": [1], "pos": -1, "rows": [0]}
    graph.add_hook(Z, "zero", **chosen)
    for op, options in (("set", {"value": 1.0}), ("zero", {})):
        with pytest.raises(ablate.InvalidArgumentError, match="overwrite the same elements") as caught:
            graph.add_hook(Z, op, **chosen, **options)
        assert caught.value.reason == "HOOKS_OVERLAP"
    for apart in ({"heads": [2]}, {"pos": -2}, {"rows": [1]}):
        graph.add_hook(Z, "zero", **chosen | apart)
    with pytest.raises(ablate.InvalidArgumentError, match="position -1 is named twice"):
        graph.add_hook(Z, "zero", heads=[5], pos=[-1, -1])
    assert len(graph.hooks()) == 4 and graph(TOKENS).shape == (2, graph.model.cfg.d_vocab)


def test_gradients_are_those_of_finite_differences(tiny):
    names = ["blocks.1.hook_resid_pre", "blocks.0.attn.hook_pattern"]
    tokens = np.array([[1, 7, 3, 9, 4]])
    logits, cache = tiny.run_with_cache(tokens, names, incl_bwd=True)
    assert {name + "_grad" for name in names} < set(cache)
    np.testing.assert_array_equal(cache["pattern_grad", 0], cache["blocks.0.attn.hook_pattern_grad"])
    np.testing.assert_array_equal(cache["blocks.1.hook_in_grad"], cache["resid_pre_grad", 1])
    shifted = logits[0, :-1] - logits[0, :-1].max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    loss = -logprobs[np.arange(4), tokens[0, 1:]].mean()
    assert abs(cache.scalar - loss) < 1e-5
    _, asked = tiny.run_with_cache(tokens, "blocks.1.hook_resid_pre_grad", gradient_of=[(5, [6, 8])])
    assert list(asked) == ["blocks.1.hook_resid_pre_grad"]

    def diff(step):
        value = np.zeros((5, tiny.cfg.d_model))
        value[2] = step * direction
        last = tiny.run_with_hooks(tokens, {"blocks.1.hook_resid_pre": {"op": "add", "value": value}})[0, -1]
        return last[5] - (last[6] + last[8]) / 2

    gradient = asked["blocks.1.hook_resid_pre_grad"][0, 2]
    direction = gradient / np.linalg.norm(gradient)
    slope = (diff(0.01) - diff(-0.01)) / 0.02
    np.testing.assert_allclose(slope, np.linalg.norm(gradient), rtol=2e-2)


def test_positions_are_kept_with_their_axis(tiny):
    _, whole = tiny.run_with_cache(TOKENS, [Z, "blocks.0.attn.hook_pattern"])
    for pos_slice, index in ((-1, [4]), ([0, -2], [0, 3]), (slice(1, 3), [1, 2]), ((3, 5), [3, 4])):
        _, some = tiny.run_with_cache(TOKENS, [Z, "blocks.0.attn.hook_pattern"], pos_slice=pos_slice)
        np.testing.assert_array_equal(some[Z], whole[Z][:, index])
        np.testing.assert_array_equal(some["pattern", 0], whole["pattern", 0][:, :, index])
    _, few = tiny.run_with_cache(TOKENS, Z, pos_slice=-1, heads=[3, 1], rows=1, incl_bwd=True)
    _, all_of = tiny.run_with_cache(TOKENS, Z, incl_bwd=True)
    np.testing.assert_allclose(few[Z], all_of[Z][[1]][:, [-1]][:, :, [3, 1]], atol=1e-6)
    np.testing.assert_allclose(few[Z + "_grad"], all_of[Z + "_grad"][[1]][:, [-1]][:, :, [3, 1]], atol=1e-6)
    _, with_heads = tiny.run_with_cache(TOKENS, None, heads=0)
    assert {array.ndim for array in with_heads.values()} == {4}
    np.testing.assert_array_equal(with_heads["pattern", 0], whole["pattern", 0][:, [0]])
    _, texts = tiny.run_with_cache("When Mary went", Z, pos_slice=slice(-1, None))
    assert texts[Z].shape[1] == 1


def test_activations_stay_on_the_daemon_and_are_patched_from(client, tiny, graph):
    names = ["blocks.0.hook_mlp_out", Z]
    logits, kept = tiny.run_with_cache(OTHER, names, keep_on_server=True)
    _, here = tiny.run_with_cache(OTHER, names)
    assert dict(kept) == {name: here[name].shape for name in here}
    np.testing.assert_array_equal(kept.fetch(Z)[Z], here[Z])
    np.testing.assert_array_equal(kept.fetch("blocks.0.mlp.hook_out")["mlp_out", 0], here["mlp_out", 0])
    info = client.server_info()
    assert info.resident_bytes.activations >= kept.bytes > 0 and info.activations_count >= 1
    assert kept.id in [activations.id for activations in tiny.activations()]
    patch = {"op": "patch", "source": kept, "pos": [1, 3], "heads": 2}
    _, patched = tiny.run_with_cache(TOKENS, Z, fwd_hooks={Z: patch})
    _, plain = tiny.run_with_cache(TOKENS, Z)
    want = plain[Z].copy()
    want[:, [1, 3], 2] = here[Z][:, [1, 3], 2]
    np.testing.assert_allclose(patched[Z], want, atol=1e-6)
    hook = graph.add_hook("blocks.0.hook_mlp_out", "patch", source=kept)
    with pytest.raises(ablate.FailedPreconditionError, match=graph.id) as caught:
        kept.delete()
    assert caught.value.reason == "ACTIVATIONS_IN_USE"
    hook.remove()
    kept.delete()
    with pytest.raises(ablate.NotFoundError):
        kept.fetch()


def test_a_patched_pass_is_intervened_in_and_has_gradients(tiny, graph):
    graph.set_patch_mask({"MLP 0->A1.2.Q": 1.0, "A0.1->Resid End": 0.5}, reset_others=True)
    before = graph(TOKENS, ablation="zero")
    after = graph.run_with_hooks(TOKENS, [("blocks.0.attn.hook_result", {"op": "zero", "heads": 1})], ablation="zero")
    assert np.abs(after - before).max() > 1e-4
    _, cache = graph.run_with_cache(
        TOKENS, ["blocks.0.hook_mlp_out", "hook_embed"], ablation="zero", incl_bwd=True, gradient_of=[(5, ())]
    )
    assert cache["hook_embed_grad"].shape == cache["hook_embed"].shape
    np.testing.assert_allclose(cache.scalar, before[:, 5].mean(), atol=1e-4)


def test_what_is_no_hook_is_an_error_here(tiny, graph):
    for spec in (lambda x, hook: x, {"op": "zero", "head": 1}, {"op": "nothing"}, {"value": 1}, {"op": "add"},
                 {"op": "mean", "over": "heads"}, {"op": "zero", "pos": []}):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            tiny.run_with_hooks(TOKENS, [(Z, spec)])
    with pytest.raises(ValueError, match="batch"):
        tiny.run_with_cache(TOKENS, Z, remove_batch_dim=True)


def slope_gap(graph, tokens, name, ablation):
    """How far the gradient's length is from the slope along it, in parts of it."""
    options = {"ablation": "resample", "ablation_input": ablation}
    answers = [(5, [6, 8])]
    _, cache = graph.run_with_cache(tokens, name + "_grad", gradient_of=answers, **options)
    gradient = cache[name + "_grad"]
    length = np.linalg.norm(gradient)
    assert length > 0
    scalars = []
    for step in (-0.01, 0.01):
        spec = {"op": "add", "value": step * gradient / length}
        last = graph.run_with_hooks(tokens, [(name, spec)], slice_output="last_seq", **options)
        scalars.append((last[:, 5] - (last[:, 6] + last[:, 8]) / 2).mean())
    return abs((scalars[1] - scalars[0]) / 0.02 - length) / length


@pytest.mark.parametrize("options", [{}, {"separate_qkv": False}, {"seq_len": 5}, {"factorized": False}], ids=str)
def test_in_a_patched_pass_of_any_graph_gradients_are_slopes(tiny, options):
    graph = tiny.graph(**options)
    graph.set_patch_mask(0.4)
    for name in ("hook_embed", "blocks.0.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre"):
        assert slope_gap(graph, TOKENS, name, OTHER) < 0.02, name
    graph.delete()


@pytest.fixture(scope="module")
def grouped():
    """A small Llama: rotary positions, gated MLPs, two query heads to a key-value head."""
    root = Path(__file__).resolve().parents[1] / "golden" / "data" / "hooks"
    with Daemon(roots=[root]) as running, ablate.connect(running.grpc, arrays="numpy") as client:
        yield client.load_model("tiny-llama", progress=False)


@pytest.mark.parametrize("expand", [False, True])
def test_grouped_heads_are_intervened_in_as_the_graph_has_them(grouped, expand):
    graph = grouped.graph(expand_kv_heads=expand, slice_output=None)
    graph.set_patch_mask(0.3)
    options = {"ablation": "resample", "ablation_input": OTHER}
    names = ["blocks.0.attn.hook_k", "blocks.1.hook_v_input", "blocks.1.attn.hook_rot_k"]
    logits, cache = graph.run_with_cache(TOKENS, names, **options)
    np.testing.assert_allclose(logits, graph(TOKENS, **options), atol=1e-5)
    heads = 4 if expand else 2
    assert [cache[name].shape[2] for name in names] == [heads] * 3
    for name in ("blocks.0.attn.hook_k", "blocks.0.hook_v_input", "blocks.1.mlp.hook_pre_linear"):
        assert slope_gap(graph, TOKENS, name, OTHER) < 0.02, name
    with graph.add_hook("blocks.0.attn.hook_k", "zero", heads=heads - 1):
        _, zeroed = graph.run_with_cache(TOKENS, names, **options)
        assert (zeroed[names[0]][:, :, -1] == 0).all() and (zeroed[names[0]][:, :, 0] != 0).any()
    with pytest.raises(ablate.InvalidArgumentError) as caught:
        graph.add_hook("blocks.0.attn.hook_k", "zero", heads=heads)
    assert caught.value.reason == "HOOK_HEADS"
    graph.delete()


def test_hooks_act_behind_a_kv_cache(tiny):
    whole = [[1, 7, 3, 9, 4, 2]]
    cache = tiny.kv_cache([1, 7, 3])
    for pos in (-2, 3, [5, 4]):  # the prompt's positions, with a cache and without
        spec = {"op": "scale", "factor": 3.0, "pos": pos}
        want = tiny.run_with_hooks(whole, [(POST, spec)])
        tail = tiny.run_with_hooks(whole, [(POST, spec)], kv_cache=cache)
        np.testing.assert_allclose(tail, want[:, 3:], atol=1e-4)
    for spec in ({"op": "zero"}, {"op": "zero", "pos": [4, 2]}):
        with pytest.raises(ablate.InvalidArgumentError, match="kv_cache_id") as refused:
            tiny.run_with_hooks(whole, [(POST, spec)], kv_cache=cache)
        assert refused.value.reason == "HOOK_IN_PREFIX"
    _, grads = tiny.run_with_cache(whole, "blocks.1.attn.hook_z", incl_bwd=True, gradient_of=[(5, ())])
    _, behind = tiny.run_with_cache(
        whole, "blocks.1.attn.hook_z", incl_bwd=True, gradient_of=[(5, ())], kv_cache=cache, pos_slice=slice(1, None)
    )
    name = "blocks.1.attn.hook_z_grad"
    np.testing.assert_allclose(behind[name], grads[name][:, 4:], atol=1e-5)
    cache.delete()
