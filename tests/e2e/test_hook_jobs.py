# SPDX-License-Identifier: Apache-2.0
"""A graph's hooks in everything that is run on the graph: jobs, sweeps, gradients at masks."""

import json

import ablate
import numpy as np
import pytest

Z = "blocks.0.attn.hook_z"
HEAD = {"op": "zero", "heads": [1]}
SMALL = {"batch_size": 4, "prompt_count": 6, "progress": False}
ALGORITHMS = [
    "eap",
    ablate.MaskGradient(integrated_grad_samples=2),
    ablate.EAPIG(steps=2),
    ablate.EAPIG(method="activations", steps=1),
    "activation_magnitude",
    ablate.GroundTruth(edges=["A0.1->MLP 1", "MLP 0->MLP 1", "Resid Start->A0.1.Q"]),
]


def flat(scores):
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in scores.values()])


def of_head(graph, scores):
    """The scores of A0.1's edges."""
    return np.array([scores[edge.module_name][edge.patch_idx] for edge in graph.edges if edge.name.startswith("A0.1->")])


@pytest.mark.parametrize("algo", ALGORITHMS, ids=lambda algo: algo if isinstance(algo, str) else type(algo).__name__)
def test_a_job_runs_with_its_graphs_hooks_and_no_other_graphs(tiny, graph, ioi, algo):
    other = tiny.graph()
    plain = graph.prune_scores(ioi, algo, **SMALL)
    graph.add_hook(Z, HEAD)
    hooked = graph.prune_scores(ioi, algo, **SMALL)
    assert np.abs(flat(hooked) - flat(plain)).max() > 1e-5
    largest = np.abs(flat(hooked)).max()
    # Clean and corrupt alike, the head emits nothing: there is nothing to attribute to its edges.
    assert np.abs(of_head(graph, hooked)).max() <= 1e-6 * largest
    assert np.abs(of_head(graph, plain)).max() > 1e-6 * largest
    np.testing.assert_array_equal(flat(other.prune_scores(ioi, algo, **SMALL)), flat(plain))
    graph.reset_hooks()
    np.testing.assert_array_equal(flat(graph.prune_scores(ioi, algo, **SMALL)), flat(plain))
    other.delete()


def test_acdc_and_probing_see_the_hooked_model(graph, ioi):
    options = {"batch_size": 4, "prompt_count": 4, "progress": False}
    acdc = ablate.ACDC(taus=[1e-3])
    probing = ablate.SubnetworkProbing(epochs=2, mask_fn=None)
    plain = [graph.prune_scores(ioi, algo, **options) for algo in (acdc, probing)]
    graph.add_hook(Z, HEAD)
    hooked = [graph.prune_scores(ioi, algo, **options) for algo in (acdc, probing)]
    assert np.isfinite(of_head(graph, hooked[0])).all(), "edges that carry nothing are removed at the first tau"
    for before, after in zip(plain, hooked):
        assert not np.array_equal(flat(before), flat(after))


def test_sweeps_and_measures_run_with_the_hooks(client, graph, ioi):
    scores = graph.prune_scores(ioi, "eap", **SMALL)
    sizes = [0, 40, graph.edge_count]
    options = {"batch_size": 4, "prompt_count": 6}
    plain = client.evaluate(scores, sizes, ["kl_div", "answer_diff"], progress=False, **options)
    runs = client.run_circuits(scores, sizes, **options)
    graph.add_hook(Z, "zero")
    hooked = client.evaluate(scores, sizes, ["kl_div", "answer_diff"], progress=False, **options)
    assert hooked[-1]["kl_div"] == pytest.approx(0, abs=1e-6), "the whole circuit is the hooked model"
    assert abs(hooked[-1]["answer_diff"] - plain[-1]["answer_diff"]) > 1e-4
    whole = client.run_circuits(scores, [graph.edge_count], **options)
    assert np.abs(whole[graph.edge_count] - runs[graph.edge_count]).max() > 1e-4
    rows = client.completeness(scores, scores, [40], **options)
    assert len(rows) == 1
    graph.reset_hooks()
    again = client.run_circuits(scores, sizes, **options)
    for size, logits in runs.items():
        np.testing.assert_array_equal(again[size], logits)


def test_a_zeroed_head_is_its_edges_ablated(graph):
    tokens = np.array([[1, 7, 3, 9, 4], [2, 5, 8, 6, 1]])
    edges = {edge.name: 1.0 for edge in graph.edges if edge.name.startswith("A0.1->")}
    graph.set_patch_mask(edges)
    ablated = graph(tokens, ablation="zero")
    graph.set_patch_mask(0.0)
    graph.add_hook(Z, HEAD)
    np.testing.assert_allclose(graph(tokens, ablation="zero"), ablated, atol=1e-4)
    graph.set_patch_mask(edges)
    np.testing.assert_allclose(
        graph(tokens, ablation="resample", ablation_input=tokens[::-1].copy()), ablated, atol=1e-4
    )  # what ablates is emitted under the hook, too


def test_the_gradient_at_a_mask_goes_through_the_hooks(graph):
    tokens = np.array([[1, 7, 3, 9, 4], [2, 5, 8, 6, 1]])
    weights = np.random.default_rng(0).normal(size=(2, graph.model.cfg.d_vocab)).astype(np.float32)
    options = {"ablation": "resample", "ablation_input": tokens[::-1].copy()}
    graph.add_hook("blocks.1.attn.hook_q", {"op": "scale", "factor": 0.5})
    graph.add_hook("blocks.0.hook_mlp_out", {"op": "project_out", "direction": np.ones(graph.model.cfg.d_model)})
    graph.set_patch_mask(0.3)
    gradient = graph.mask_backward(tokens, weights, **options)
    module = max(gradient, key=lambda name: np.abs(gradient[name]).max())
    index = np.unravel_index(np.abs(gradient[module]).argmax(), gradient[module].shape)
    mask = {name: np.array(array) for name, array in graph.get_patch_mask().items()}
    losses, h = [], 1e-2
    for sign in (1, -1):
        moved = {name: array.copy() for name, array in mask.items()}
        moved[module][index] += sign * h
        graph.set_patch_mask(moved)
        losses.append((np.array(graph(tokens, **options), np.float64) * weights).sum())
    assert gradient[module][index] == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=2e-2)
    graph.add_hook("hook_embed", "zero")
    graph.add_hook("blocks.0.hook_resid_pre", "zero")
    dead = graph.mask_backward(tokens, weights, **options)
    start = [edge for edge in graph.edges if edge.name.startswith("Resid Start->")]
    slopes = [np.array(dead[edge.module_name])[edge.patch_idx] for edge in start]
    assert not any(slopes), "nothing to tell apart where both runs start from 0"


def test_a_job_keeps_the_hooks_it_was_submitted_with(graph, ioi):
    graph.add_hook(Z, HEAD)
    steering = graph.add_hook("blocks.1.hook_resid_pre", {"op": "add", "value": np.ones(graph.model.cfg.d_model)})
    want = graph.prune_scores(ioi, "eap", **SMALL)
    job = graph.submit(ioi, "eap", batch_size=4, prompt_count=6)
    graph.reset_hooks()
    graph.add_hook("blocks.0.hook_mlp_out", "zero")
    for _ in job.watch():
        pass
    np.testing.assert_array_equal(flat(job.scores()), flat(want))
    hooks = json.loads(job.provenance.hooks_json)
    assert [(hook["name"], hook["operation"]) for hook in hooks] == [(Z, "zero"), (steering.name, "add")]
    assert hooks[0]["heads"] == [1] and hooks[1]["shape"] == [graph.model.cfg.d_model] and hooks[1]["sha256"]
    graph.reset_hooks()
    assert graph.prune_scores(ioi, "random", **SMALL).job.provenance.hooks_json == ""


def test_hooks_that_a_job_cannot_have_are_refused_at_submit(graph, ioi):
    graph.add_hook(Z, {"op": "scale", "factor": 2.0, "rows": [3]})  # batches of 4, then of 2
    with pytest.raises(ablate.InvalidArgumentError, match="HOOK_ROWS") as error:
        graph.submit(ioi, "eap", batch_size=4, prompt_count=6)
    assert "eap, with the graph's hooks" in str(error.value) and "prompts 4 to 5" in str(error.value)
    scores = graph.prune_scores(ioi, "eap", batch_size=4, prompt_count=4, progress=False)
    with pytest.raises(ablate.InvalidArgumentError, match="HOOK_ROWS"):
        graph.client.evaluate(scores, [1], prompt_count=6, batch_size=4, progress=False)
    graph.reset_hooks()
    graph.add_hook(Z, {"op": "zero", "pos": [40]})
    with pytest.raises(ablate.InvalidArgumentError, match="HOOK_POSITIONS"):
        graph.submit(ioi, "ground_truth", prompt_count=2)
    joined = graph.model.graph(separate_qkv=False)
    joined.add_hook("blocks.1.hook_q_input", "zero")
    with pytest.raises(ablate.FailedPreconditionError, match="HOOK_CANNOT_FIRE"):
        joined.submit(ioi, "acdc", prompt_count=2)
    joined.delete()


def test_a_job_and_a_sweep_take_interventions_of_their_own(client, graph, ioi):
    hooks = [(Z, HEAD), ("blocks.1.hook_resid_pre", {"op": "clamp", "min": -2, "max": 2})]
    plain = graph.prune_scores(ioi, "eap", **SMALL)
    own = graph.prune_scores(ioi, "eap", fwd_hooks=hooks, **SMALL)
    listed = json.loads(own.job.provenance.hooks_json)
    assert [(hook["name"], hook.get("hook_id")) for hook in listed] == [(name, None) for name, _ in hooks]
    assert listed[1]["low"] == -2 and graph.hooks() == []
    options = {"batch_size": 4, "prompt_count": 6, "progress": False}
    swept = client.evaluate(plain, [40], ["answer_diff"], fwd_hooks=hooks, **options)
    for name, spec in hooks:
        graph.add_hook(name, spec)
    np.testing.assert_array_equal(flat(graph.prune_scores(ioi, "eap", **SMALL)), flat(own))
    assert client.evaluate(plain, [40], ["answer_diff"], **options)[0] == swept[0]
    with pytest.raises(ablate.InvalidArgumentError, match="HOOKS_OVERLAP"):
        graph.submit(ioi, "eap", fwd_hooks=[(Z, "zero")])
    with pytest.raises(ablate.InvalidArgumentError, match="HOOK_HEADS"):
        client.evaluate(plain, [40], fwd_hooks=[(Z, {"op": "scale", "factor": 2, "heads": [99]})], progress=False)
