# SPDX-License-Identifier: Apache-2.0
"""ACDC through the daemon: the recorded runs, its events, and infinite scores all the way."""

import json
import math

import ablate
import numpy as np
import pytest
from daemon import goldens

CASES = goldens() / "cases" / "tiny-rand"
RUNS = ["kl_div/1e-3", "kl_div/1e-2", "kl_div/1e-1", "mse/1e-2", "mse/3e-1"]


@pytest.fixture(scope="module")
def rand_model(client):
    model = client.load_model("tiny-rand", mode="tl", progress=False)
    yield model
    model.unload()


@pytest.fixture(scope="module")
def rand_graph(rand_model):
    graph = rand_model.graph()
    yield graph
    graph.delete()


def recorded(variant):
    return json.loads((CASES / f"d_acdc_{variant}.json").read_text())


def kept(scores):
    """Places in canonical order of the edges that no tau removed; without positions."""
    return set(np.flatnonzero(np.isinf(scores.flat())).tolist())


def discover(graph, ioi, algo):
    return graph.submit(ioi, algo, batch_size=4, prompt_count=4).wait(progress=False)


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_is_repeated(rand_graph, ioi, name):
    run = recorded("proc_fact_qkv")["runs"][name]
    target = name.split("/")[0]
    job = discover(rand_graph, ioi, ablate.ACDC(taus=[run["tau"]], faithfulness_target=target))
    removed = set(run["removed_in_order"])
    assert kept(job.scores()) == set(range(rand_graph.edge_count)) - removed
    (tau,) = job.acdc
    assert (tau.decided_edges, tau.removed_edges) == (rand_graph.edge_count, len(removed))
    assert tau.effect == pytest.approx(run["final_faith"], abs=1e-5)
    assert tau.min_margin == pytest.approx(run["min_decision_margin"], abs=1e-5)


def test_several_taus_score_the_smallest_that_removed_an_edge(rand_graph, ioi):
    taus = sorted(recorded("proc_fact_qkv")["multi_tau"]["taus_in_order"])
    algo = ablate.ACDC(tao_exps=[-3, -2], tao_bases=[1, 5])
    together = discover(rand_graph, ioi, algo).scores().flat()
    one_by_one = [discover(rand_graph, ioi, ablate.ACDC(taus=[tau])).scores().flat() for tau in taus]
    np.testing.assert_array_equal(together, np.min(one_by_one, axis=0))


def test_the_default_taus_are_autocircuits(rand_graph, ioi):
    job = rand_graph.submit(ioi, "acdc", batch_size=4, prompt_count=4).wait(progress=False)
    expected = sorted(a * 10**b for a in (1, 3, 5, 7, 9) for b in range(-5, -1))
    assert [tau.tau for tau in job.acdc] == expected


def test_any_number_of_trials_decides_the_same(rand_graph, ioi):
    def run(most):
        algo = ablate.ACDC(taus=[1e-3, 1e-2], candidate_count_max=most)
        return discover(rand_graph, ioi, algo).scores().flat()

    one = run(1)
    for most in (2, 7, 128):
        np.testing.assert_array_equal(one, run(most))


def test_events_tell_what_is_removed_so_far(rand_graph, ioi):
    algo = ablate.ACDC(taus=[1e-3, 1e-2, 1e-1])
    with rand_graph.stream_prune_scores(ioi, algo, batch_size=4, prompt_count=4) as stream:
        events = [event for event in stream if event.acdc]
    counts = [sum(tau.decided_edges for tau in event.acdc) for event in events]
    assert counts == sorted(counts) and counts[-1] == 3 * rand_graph.edge_count
    assert [event.done_units for event in events] == counts
    assert len(events) >= 3  # at least each tau's end
    for event in events:
        for tau in event.acdc:
            assert 0 <= tau.removed_edges <= tau.decided_edges and tau.min_margin >= 0


@pytest.mark.parametrize("name", RUNS)
def test_every_decision_is_told_with_its_effect(rand_graph, ioi, name):
    run = recorded("proc_fact_qkv")["runs"][name]
    algo = ablate.ACDC(taus=[run["tau"]], faithfulness_target=name.split("/")[0])
    with rand_graph.stream_prune_scores(ioi, algo, batch_size=4, prompt_count=4) as stream:
        told = [decision for event in stream for decision in event.acdc_decisions]
    names = [edge.name for edge in rand_graph.edges]
    order = recorded("proc_fact_qkv")["order"]
    assert [decision.edge for decision in told] == [names[i] for i in order]
    assert {decision.tau for decision in told} == {run["tau"]}
    np.testing.assert_allclose([decision.effect for decision in told], run["faith_per_step"], atol=1e-5)
    gone = [decision.edge for decision in told if decision.removed]
    assert gone == [names[i] for i in run["removed_in_order"]]


def test_only_the_edges_named_are_decided_in_their_order(rand_graph, ioi):
    edges = ["A1.0->Resid End", "MLP 0->A1.2.Q", "Resid Start->A1.2.Q", "Resid Start->A0.1.K"]
    algo = ablate.ACDC(taus=[100], edges=edges)
    job = discover(rand_graph, ioi, algo)
    assert job.acdc[0].decided_edges == len(edges)
    flat = job.scores().flat()
    assert np.isinf(flat).sum() == rand_graph.edge_count - len(edges)
    assert set(flat[np.isfinite(flat)]) == {100.0}


@pytest.mark.parametrize("options", [{"separate_qkv": False}, {"seq_len": 16}, {"factorized": False}])
def test_other_graphs(rand_model, ioi, options):
    graph = rand_model.graph(**options)
    variant = {"separate_qkv": "proc_fact_noqkv", "seq_len": "proc_fact_qkv_seq", "factorized": "proc_unfact"}
    case = recorded(variant[next(iter(options))])
    scores = discover(graph, ioi, ablate.ACDC(taus=[1e-2])).scores()
    if "runs" in case:
        run = case["runs"]["kl_div/1e-2"]
        assert kept(scores) == set(range(graph.edge_count)) - set(run["removed_in_order"])
    assert np.isinf(scores.flat()).any() and np.isfinite(scores.flat()).any()
    graph.delete()


def test_infinite_scores_go_on_as_masks_circuits_and_json(rand_graph, ioi):
    scores = discover(rand_graph, ioi, ablate.ACDC(taus=[1e-2])).scores()
    circuit = int(np.isinf(scores.flat()).sum())
    rows = rand_graph.evaluate(scores, [circuit], dataset=ioi, batch_size=4, prompt_count=4)
    assert rows is not None
    job = rand_graph.submit(ioi, ablate.ACDC(taus=[1e-2]), batch_size=4, prompt_count=4)
    assert job.scores_when_done(progress=False).top_edges[0].score == math.inf


def test_answer_differences_and_zero_ablation(rand_graph, ioi):
    algo = ablate.ACDC(taus=[0.05], faithfulness_target="answer_diff", ablation="zero")
    job = discover(rand_graph, ioi, algo)
    assert 0 < job.acdc[0].removed_edges < rand_graph.edge_count
    said = json.loads(job.provenance.algorithm_json)
    assert said["faithfulness_target"] == "answer_diff" and said["taus"] == [0.05]


def test_it_is_cancelled_between_two_passes_with_the_scores_so_far(graph, ioi):
    algo = ablate.ACDC(taus=[i * 1e-4 for i in range(1, 257)], candidate_count_max=1)
    with graph.stream_prune_scores(ioi, algo, batch_size=4, prompt_count=4) as stream:
        for event in stream:
            if event.acdc:
                break
        stream.job.cancel()
        last = [event for event in stream.job.watch()][-1]
    assert last.state == "cancelled" and 0 < last.done_units < last.total_units
    job = stream.job.refresh()
    assert [tau.decided_edges for tau in job.acdc][:-1] == [graph.edge_count] * (len(job.acdc) - 1)
    removed = int(np.isfinite(job.scores().flat()).sum())
    assert removed >= max(tau.removed_edges for tau in job.acdc)


def test_the_same_request_decides_the_same_twice(rand_graph, ioi):
    algo = ablate.ACDC(taus=[1e-3, 1e-2], faithfulness_target="mse")
    first, again = (discover(rand_graph, ioi, algo) for _ in range(2))
    np.testing.assert_array_equal(first.scores().flat(), again.scores().flat())
    assert first.acdc == again.acdc
