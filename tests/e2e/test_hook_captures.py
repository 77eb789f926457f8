# SPDX-License-Identifier: Apache-2.0
"""Hooks that capture: what flows through a point in each pass of a graph, kept on the daemon."""

import ablate
import numpy as np
import pytest

TOKENS = np.array([[1, 7, 3, 9, 4], [2, 5, 8, 6, 1]])
OTHER = np.array([[3, 3, 3, 9, 4], [2, 9, 9, 9, 1]])
Z, POST = "blocks.0.attn.hook_z", "blocks.0.hook_resid_post"


def only(activations):
    """The one tensor of a handle."""
    (array,) = activations.fetch().values()
    return np.asarray(array)


def test_a_capture_keeps_the_last_pass(tiny, graph):
    _, cache = tiny.run_with_cache(TOKENS, [Z])
    hook = graph.add_hook(Z, "capture", heads=[1], pos=-1)
    assert hook.activations is None and graph.hooks()[0].op == "capture"
    logits = graph(TOKENS)
    first = hook.activations
    assert list(first) == [Z] and first.bytes > 0 and first.id in [kept.id for kept in tiny.activations()]
    np.testing.assert_allclose(only(first), np.asarray(cache[Z])[:, -1:, [1]], atol=1e-5)
    np.testing.assert_allclose(logits, tiny(TOKENS)[:, -1], atol=1e-4)
    graph(OTHER)
    second = hook.activations
    assert second.id != first.id and first.id not in [kept.id for kept in tiny.activations()]
    assert np.abs(only(second) - np.asarray(cache[Z])[:, -1:, [1]]).max() > 1e-3
    hook.remove()
    assert second.id not in [kept.id for kept in tiny.activations()]
    with pytest.raises(ablate.NotFoundError, match="HOOK_ID_UNKNOWN"):
        hook.activations  # noqa: B018


def test_captures_stand_in_the_order_of_the_hooks(graph):
    before = graph.add_hook(POST, "capture")
    graph.add_hook(POST, {"op": "scale", "factor": 2.0})
    after = graph.add_hook(POST, "capture")
    graph(TOKENS)
    np.testing.assert_array_equal(only(after.activations), 2 * only(before.activations))
    assert graph.reset_hooks() == 3


def test_a_captured_gradient_is_the_passs(graph):
    gradient = graph.add_hook(POST, "capture_gradient")
    value = graph.add_hook(POST, "capture")
    graph.set_patch_mask(0.3)
    options = {"ablation": "resample", "ablation_input": OTHER}
    graph(TOKENS, **options)
    assert gradient.activations is None and value.activations is not None, "nothing went back"
    _, cache = graph.run_with_cache(TOKENS, [POST], incl_bwd=True, gradient_of=[(5, 6), (7, 8)], **options)
    assert list(gradient.activations) == [POST + "_grad"]
    np.testing.assert_allclose(only(gradient.activations), cache[POST + "_grad"], atol=1e-6)
    weights = np.random.default_rng(0).normal(size=(2, graph.model.cfg.d_vocab)).astype(np.float32)
    graph.mask_backward(TOKENS, weights, **options)
    got = only(gradient.activations)
    direction = np.sign(got)
    steps = []
    for step in (1e-2, -1e-2):
        push = [(POST, {"op": "add", "value": direction, "factor": step})]  # of this pass, not of OTHER's
        logits = graph.run_with_hooks(TOKENS, push, **options)
        steps.append((np.asarray(logits, np.float64) * weights).sum())
    assert (steps[0] - steps[1]) / 2e-2 == pytest.approx(np.abs(got).sum(), rel=2e-2)


def test_what_was_captured_is_patched_from_and_goes_with_its_graph(tiny):
    graph, other = tiny.graph(), tiny.graph()
    hook = graph.add_hook(Z, "capture")
    graph(TOKENS)
    kept = hook.activations
    patch = other.add_hook(Z, {"op": "patch", "source": kept})
    want = tiny.run_with_hooks(OTHER, [(Z, {"op": "patch", "source": kept})], slice_output="last_seq")
    np.testing.assert_allclose(other(OTHER), want, atol=1e-4)
    hook.remove()
    assert kept.id in [each.id for each in tiny.activations()], "another graph patches from it"
    patch.remove()
    kept.delete()
    again = graph.add_hook(POST, "capture")
    graph(TOKENS)
    left = again.activations.id
    graph.delete()
    other.delete()
    assert left not in [each.id for each in tiny.activations()]


def test_captures_belong_to_graphs_and_to_single_passes(client, tiny, graph, ioi):
    hook = graph.add_hook(Z, "capture")
    plain = tiny.graph()
    small = {"batch_size": 4, "prompt_count": 4, "progress": False}
    scores, want = graph.prune_scores(ioi, "eap", **small), plain.prune_scores(ioi, "eap", **small)
    for module in want:
        np.testing.assert_array_equal(np.asarray(scores[module]), np.asarray(want[module]))
    assert hook.activations is None and scores.job.provenance.hooks_json == ""
    for call in (
        lambda: tiny.run_with_hooks(TOKENS, [(Z, "capture")]),
        lambda: graph.submit(ioi, "eap", fwd_hooks=[(Z, "capture_gradient")]),
    ):
        with pytest.raises(ablate.InvalidArgumentError, match="HOOK_OPERATION"):
            call()
    with pytest.raises(ablate.InvalidArgumentError, match="HOOK_HEADS"):
        graph.add_hook(POST, "capture", heads=[0])
    graph.add_hook("blocks.1.ln1.hook_scale", "capture_gradient")
    graph.set_patch_mask(0.5)
    with pytest.raises(ablate.FailedPreconditionError, match="HOOK_CANNOT_FIRE"):
        graph.mask_backward(TOKENS, np.zeros((2, tiny.cfg.d_vocab)), ablation="zero")
    plain.delete()
