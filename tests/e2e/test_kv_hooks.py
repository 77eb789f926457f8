# SPDX-License-Identifier: Apache-2.0
"""Interventions behind a shared prefix: what they do there is what they do in whole prompts, or they are refused."""

import json

import ablate
import numpy as np
import pytest
from daemon import goldens

LATE = goldens() / "prompts" / "ioi_late.json"
PREFIX = 11  # tokens that all of its prompts share, BOS included
OPTIONS = {"batch_size": 4, "progress": False}
# Of the prompt's positions, in the tail (11 to 15); the last where no key or value comes to know of it.
HOOKS = [
    ("blocks.0.hook_mlp_out", {"op": "scale", "factor": 1.5, "pos": [12, -1]}),
    ("blocks.1.attn.hook_z", {"op": "zero", "heads": [2], "pos": [11, 13]}),
    ("blocks.2.hook_resid_pre", {"op": "clamp", "min": -0.5, "max": 0.5, "pos": [14]}),
    ("blocks.3.hook_mlp_out", {"op": "mean", "over": "rows"}),
]
ALGORITHMS = [
    "eap",
    ablate.MaskGradient(integrated_grad_samples=2),
    ablate.EAPIG(steps=2),
    ablate.ACDC(taus=[1e-2]),
    ablate.SubnetworkProbing(epochs=1, mask_fn=None),
    ablate.GroundTruth(edges=["A0.1->MLP 1", "MLP 0->A2.1.V", "MLP 3->Resid End"]),
]


def named(algo):
    return algo if isinstance(algo, str) else type(algo).__name__


@pytest.fixture(scope="module")
def late(client):
    return client.upload_dataset(LATE)


@pytest.fixture(scope="module")
def prompts(tiny_tl):
    """Clean and corrupt prompts as ids, int64 [8, 16]."""
    pairs = json.loads(LATE.read_text())["prompts"]
    return [tiny_tl.to_tokens([pair[side] for pair in pairs], True) for side in ("clean", "corrupt")]


@pytest.fixture
def graph(tiny_tl):
    made = tiny_tl.graph()
    yield made
    made.delete()
    for cache in tiny_tl.kv_caches():
        cache.delete()


def close(got, want, tolerance):
    assert got.shape == want.shape and np.isfinite(want).any()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    finite = np.isfinite(want)
    assert np.abs(got[finite] - want[finite]).max() <= tolerance


@pytest.mark.parametrize("algo", ALGORITHMS, ids=named)
def test_a_job_behind_the_prefix_is_the_job_on_whole_prompts(graph, late, algo):
    plain = graph.prune_scores(late, algo, **OPTIONS).flat()
    for name, spec in HOOKS[:2]:
        graph.add_hook(name, spec)
    want = graph.prune_scores(late, algo, fwd_hooks=HOOKS[2:], **OPTIONS).flat()
    got = graph.prune_scores(late, algo, fwd_hooks=HOOKS[2:], tail_divergence=True, **OPTIONS).flat()
    largest = np.abs(want[np.isfinite(want)]).max()
    close(got, want, 2e-5 * largest)
    if not isinstance(algo, ablate.ACDC):  # whose scores are its taus
        finite = np.isfinite(plain) & np.isfinite(want)
        assert np.abs(plain - want)[finite].max() > 1e-3 * largest


def test_sweeps_behind_the_prefix(graph, late):
    scores = graph.prune_scores(late, "eap", **OPTIONS)
    sizes = [0, 100, graph.edge_count]
    plain = graph.run_circuits(scores, sizes)
    want = graph.run_circuits(scores, sizes, fwd_hooks=HOOKS)
    got = graph.run_circuits(scores, sizes, fwd_hooks=HOOKS, tail_divergence=True)
    for size in sizes:
        close(got[size], want[size], 1e-4)
        assert np.abs(want[size] - plain[size]).max() > 1e-2
    whole = graph.evaluate(scores, sizes, fwd_hooks=HOOKS, progress=False)
    tails = graph.evaluate(scores, sizes, fwd_hooks=HOOKS, tail_divergence=True, progress=False)
    for row, other in zip(tails, whole):
        assert row == pytest.approx(other, abs=1e-4)


def test_patched_passes_behind_a_cache(tiny_tl, graph, prompts):
    clean, corrupt = prompts
    cache = tiny_tl.kv_cache(clean[:1, :PREFIX])
    graph.set_patch_mask({"A0.0->MLP 1": 1.0, "MLP 0->A1.2.Q": 0.5, "A1.2->Resid End": 1.0})
    plain = graph(clean, ablation_input=corrupt)
    for name, spec in HOOKS:
        graph.add_hook(name, spec)
    names = ["blocks.2.hook_resid_post", "blocks.3.attn.hook_pattern"]
    want, acts = graph.run_with_cache(clean, names, ablation_input=corrupt)
    got, tail = graph.run_with_cache(clean, names, ablation_input=corrupt, kv_cache=cache)
    close(got, want, 1e-4)
    assert np.abs(want - plain).max() > 1e-2
    close(tail[names[0]], acts[names[0]][:, PREFIX:], 1e-4)
    close(tail[names[1]], acts[names[1]][:, :, PREFIX:], 1e-4)


def test_a_whole_run_is_patched_into_a_tail(tiny_tl, prompts):
    clean, corrupt = prompts
    cache = tiny_tl.kv_cache(clean[:1, :PREFIX])
    name = "blocks.1.hook_resid_post"
    _, kept = tiny_tl.run_with_cache(corrupt, [name], keep_on_server=True)
    _, tails = tiny_tl.run_with_cache(corrupt, [name], keep_on_server=True, kv_cache=cache)
    plain = tiny_tl(clean, slice_output="last_seq")
    for pos in ([12, 13], range(PREFIX, 16)):
        want = tiny_tl.run_with_hooks(
            clean, [(name, {"op": "patch", "source": kept, "pos": pos})], slice_output="last_seq"
        )
        for source in (kept, tails):
            spec = {"op": "patch", "source": source, "pos": pos}
            got = tiny_tl.run_with_hooks(clean, [(name, spec)], slice_output="last_seq", kv_cache=cache)
            close(got, want, 1e-4)
        assert np.abs(want - plain).max() > 1e-2
    all_of_it = [(name, {"op": "patch", "source": tails})]  # a tail's activations are about the tail
    close(tiny_tl.run_with_hooks(clean, all_of_it, slice_output="last_seq", kv_cache=cache), want, 1e-4)
    with pytest.raises(ablate.InvalidArgumentError) as refused:
        tiny_tl.run_with_hooks(clean, [(name, {"op": "patch", "source": kept})], kv_cache=cache)
    assert refused.value.reason == "HOOK_IN_PREFIX"
    kept.delete()
    tails.delete()
    cache.delete()


def test_what_is_about_the_prefix_is_refused_with_the_reason(graph, late):
    scores = graph.prune_scores(late, "eap", **OPTIONS)
    for spec, words in (("zero", "names no positions"), ({"op": "zero", "pos": [3, 12]}, "names position 3")):
        hooks = [("blocks.0.hook_mlp_out", spec)]
        calls = [
            lambda: graph.submit(late, "eap", tail_divergence=True, fwd_hooks=hooks),
            lambda: graph.submit(late, ablate.ACDC(taus=[1e-2]), tail_divergence=True, fwd_hooks=hooks),
            lambda: graph.run_circuits(scores, [5], tail_divergence=True, fwd_hooks=hooks),
            lambda: graph.evaluate(scores, [5], tail_divergence=True, fwd_hooks=hooks, progress=False),
        ]
        for call in calls:
            with pytest.raises(ablate.InvalidArgumentError) as refused:
                call()
            assert refused.value.reason == "HOOK_IN_PREFIX"
            assert words in str(refused.value) and "tail_divergence" in str(refused.value)
            assert "blocks.0.hook_mlp_out" in str(refused.value)


def test_the_longest_cache_that_ends_before_the_hooks_is_found(tiny_tl, prompts):
    clean, _ = prompts
    short, long = tiny_tl.kv_cache(clean[:1, :5]), tiny_tl.kv_cache(clean[:1, :PREFIX])
    name = "blocks.0.hook_mlp_out"
    for spec, used in (
        ({"op": "zero", "pos": [12]}, long),
        ({"op": "zero", "pos": [12, 7]}, short),
        ({"op": "zero", "pos": [2]}, None),
        ({"op": "zero"}, None),
    ):
        hits = [cache.refresh().hits for cache in (short, long)]
        want = tiny_tl.run_with_hooks(clean, [(name, spec)], slice_output="last_seq")
        got = tiny_tl.run_with_hooks(clean, [(name, spec)], slice_output="last_seq", use_prefix_cache=True)
        close(got, want, 1e-4)
        more = [cache.refresh().hits - before for cache, before in zip((short, long), hits)]
        assert more == [used is short, used is long]
    short.delete()
    long.delete()
