# SPDX-License-Identifier: Apache-2.0
"""Masks that are trained: subnetwork probing and circuit probing, with their curves as events."""

import hashlib
import json
from pathlib import Path

import ablate
import numpy as np
import pytest
from daemon import goldens

CASE = goldens() / "cases" / "tiny-rand" / "d_subnetwork_probing_proc_fact_qkv.json"
KNOCKOUTS = Path(__file__).parents[1] / "golden" / "data" / "knockouts" / "tiny-rand.json"
# Runs of the recorded case that draw nothing at random, so that any seed repeats them.
RUNS = [
    "tree_sigmoid_kl",
    "edge_sigmoid_kl",
    "tree_none_kl",
    "tree_sigmoid_answer",
    "tree_sigmoid_wrong_answer",
    "tree_sigmoid_logit_diff_percent",
    "tree_sigmoid_mse",
    "tree_sigmoid_correct_percent",
    "edge_sigmoid_avoid",
]
SHORT = ablate.SubnetworkProbing(epochs=3, seed=7)


@pytest.fixture(scope="module")
def rand_graph(client):
    model = client.load_model("tiny-rand", mode="tl", progress=False)
    graph = model.graph()
    yield graph
    graph.delete()
    model.unload()


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_training_is_repeated(rand_graph, ioi, name):
    run = json.loads(CASE.read_text())["runs"][name]
    options = dict(run["config"])
    edges = rand_graph.edges
    options["avoid_edges"] = [edges[i].name for i in options.pop("avoid", ())]
    job = rand_graph.submit(
        ioi, ablate.SubnetworkProbing(epochs=5, **options), batch_size=4, prompt_count=8
    ).wait(progress=False)
    curve = job.training_curve()
    expected = run["curves"]
    assert [(point.epoch, point.batch) for point in curve] == [(e, b) for e in range(5) for b in range(2)]
    np.testing.assert_allclose([point.loss for point in curve], expected["Loss"], rtol=1e-4, atol=1e-5)
    regularization = [point.regularization for point in curve]
    np.testing.assert_allclose(regularization, expected["Regularization"], rtol=1e-4, atol=1e-5)
    scores = job.scores()
    assert (scores.flat() >= 0).all() and scores.flat().min() == 0


def test_every_epoch_is_an_event_with_the_edges_as_learned(graph, ioi):
    with graph.stream_prune_scores(ioi, SHORT, batch_size=4, prompt_count=8, top_k=5) as stream:
        events = [event for event in stream if event.training]
        scores = stream.scores
    # A slow run tells of parts of an epoch, too; the last that an epoch tells is the whole of it.
    ends = {event.training[-1].epoch: event for event in events}
    assert sorted(ends) == [0, 1, 2]
    assert all(len(event.top_edges) == 5 for event in ends.values())
    assert scores.top_edges[0].score == scores.flat().max()
    assert all(np.isfinite(point.loss) for event in events for point in event.training)
    assert all(point.validation is None for event in events for point in event.training)


@pytest.mark.parametrize("tree", [True, False])
def test_every_epoch_streams_the_masks_as_learned(graph, ioi, tree):
    algo = ablate.SubnetworkProbing(epochs=4, seed=3, tree_optimisation=tree)
    options = {"batch_size": 4, "prompt_count": 8}

    def masks(event):
        zero = event.training[-1].zero_mask_score
        return {name: zero - scores if tree else scores - zero for name, scores in event.scores.items()}

    with graph.stream_prune_scores(ioi, algo, with_scores=True, **options) as stream:
        learned = [masks(event) for event in stream if event.scores]
    assert len(learned) == 4 and list(learned[0]) == list(graph.modules)
    # Adam's first steps are of the learning rate, whatever the gradient; masks start at +-log(5).
    first = np.concatenate([array.ravel() for array in learned[0].values()])
    assert np.abs(np.abs(first) - np.log(5)).max() < 2.5 * algo.learning_rate
    shorter = ablate.SubnetworkProbing(epochs=2, seed=3, tree_optimisation=tree)
    with graph.stream_prune_scores(ioi, shorter, with_scores=True, **options) as stream:
        second = [masks(event) for event in stream if event.scores][-1]
    for name, array in learned[1].items():
        np.testing.assert_array_equal(array, second[name])
    again = list(stream.job.watch(with_scores=True))  # of a job that has ended: the final ones
    assert [event.scores is not None for event in again] == [False] * (len(again) - 1) + [True]
    for name, array in stream.scores.items():
        np.testing.assert_array_equal(array, again[-1].scores[name])


def test_no_epoch_of_a_long_training_is_left_out(graph, ioi):
    algo = ablate.SubnetworkProbing(epochs=400)  # events of others thin out before
    with graph.stream_prune_scores(ioi, algo, with_scores=True, batch_size=2, prompt_count=2) as stream:
        epochs = [event.training[-1].epoch for event in stream if event.scores]
    assert epochs == list(range(400))


def test_sums_so_far_stream_with_their_events(graph, ioi, long_job):
    options = {"batch_size": 4, "prompt_count": 12}
    with graph.stream_prune_scores(ioi, "eap", with_scores=True, **options) as stream:
        partial = [event.scores for event in stream if event.scores]
    whole = stream.scores
    assert len(partial) == 3
    for name, array in whole.items():
        np.testing.assert_array_equal(partial[-1][name], array)
    assert any((partial[0][name] != array).any() for name, array in whole.items())
    watched = (event for event in long_job.watch(with_scores=True) if event.scores)
    assert {name: array.shape for name, array in next(watched).scores.items()} == dict(graph.modules)
    plain = next(long_job.watch(long_job.refresh().last_sequence))
    assert plain.scores is None


def test_the_same_seed_trains_the_same_masks(graph, ioi):
    def run(seed):
        algo = ablate.SubnetworkProbing(epochs=2, seed=seed, dropout_p=0.1)
        return graph.prune_scores(ioi, algo, batch_size=4, prompt_count=8, progress=False).flat()

    first, again, other = run(3), run(3), run(4)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_validation_prompts_follow_the_training_ones(graph, ioi):
    algo = ablate.SubnetworkProbing(epochs=2, validation_prompt_count=8, tree_optimisation=True)
    job = graph.submit(ioi, algo, batch_size=4, prompt_count=8).wait(progress=False)
    curve = job.training_curve()
    assert len(curve) == 4
    assert all(point.validation is not None and point.validation_std is not None for point in curve)
    # Half of the loss is faithfulness, half the circuit's size; both are told.
    for point in curve:
        assert point.loss == pytest.approx(point.faithfulness + point.regularization, rel=1e-5)


def test_circuit_probing_scores_nested_circuits(graph, ioi):
    algo = ablate.CircuitProbing(epochs=2, circuit_sizes=[200, 20], tree_optimisation=True, init_val=1.6)
    scores = graph.prune_scores(ioi, algo, batch_size=4, prompt_count=8, progress=False)
    values = scores.flat()
    assert set(np.unique(values)) <= {0.0, 1.0, 2.0}
    assert (values == 2).sum() >= 20 and (values >= 1).sum() >= 200
    sizes = [point.circuit_size for point in scores.job.training_curve()]
    assert sizes == [20] * 4 + [200] * 4, "ascending, whatever the order of the request"


@pytest.mark.parametrize("name", ["sigmoid_kl", "sigmoid_logit_diff"])
def test_a_recorded_training_of_knockouts_is_repeated(rand_graph, ioi_path, name):
    recorded = json.loads(KNOCKOUTS.read_text())
    run = recorded["runs"][name]

    def arrays(modules):
        return {m: np.array(modules[m], np.float32).reshape(shape) for m, shape in rand_graph.modules.items()}

    circuit = rand_graph.upload_scores(arrays(recorded["scores"]))
    prompts = json.loads(ioi_path.read_text())["prompts"][8:16]
    algo = ablate.Knockouts(
        circuit, recorded["circuit_size"], epochs=recorded["epochs"], learning_rate=recorded["learning_rate"], **run["config"]
    )
    with rand_graph.stream_prune_scores(json.dumps({"prompts": prompts}), algo, batch_size=4, top_k=60) as stream:
        *_, event = stream
        scores = stream.scores
    curve = scores.job.training_curve()
    np.testing.assert_allclose([point.loss for point in curve], run["curves"]["Loss"], rtol=2e-4, atol=1e-6)
    expected = np.concatenate([array.ravel() for array in arrays(run["masks"]).values()])
    actual = np.concatenate([np.asarray(array).ravel() for array in scores.values()])
    ranked = np.concatenate([np.abs(np.asarray(array)).ravel() for array in circuit.values()])
    inside = ranked >= np.sort(ranked)[-recorded["circuit_size"]]
    assert (actual[~inside] == -99).all() and (expected[~inside] == -99).all()
    assert (np.abs(actual - expected)[inside] < 1e-3).mean() >= 0.95
    assert len(event.top_edges) == recorded["circuit_size"], "edges outside the circuit are not ranked"


def test_trained_knockouts_are_what_completeness_takes(graph, ioi, client):
    circuit = graph.prune_scores(ioi, "eap", batch_size=8, prompt_count=16, progress=False)
    algo = ablate.Knockouts(circuit, 60, epochs=60, regularize_lambda=0.1, learning_rate=0.2, mask_fn="sigmoid", seed=5)
    knockouts = graph.prune_scores(ioi, algo, batch_size=8, prompt_count=16, progress=False)
    said = json.loads(knockouts.job.provenance.algorithm_json)
    assert said["circuit_size"] == 12 and said["ablation_type"] == "RESAMPLE"
    ranked = np.abs(circuit.flat())
    inside = (ranked >= np.sort(ranked)[-60]).astype(np.uint8)
    assert said["knockouts_of"] == {"edge_count": 60, "sha256": hashlib.sha256(inside.tobytes()).hexdigest()}
    sweep = {"dataset": ioi, "batch_size": 8, "prompt_count": 16}
    [trained] = client.completeness(circuit, knockouts, [60], **sweep)
    # Without the knockouts the circuit is twice as far from the model as with them.
    assert 0 < trained.knockout_count < 60 and trained.knockout_kl_div > 2 * trained.kl_div
    curve = knockouts.job.training_curve()
    assert curve[-1].faithfulness < 2 * curve[0].faithfulness < 0
    by_threshold = ablate.Knockouts(circuit, threshold=float(np.sort(ranked)[-60]), epochs=1)
    job = graph.submit(ioi, by_threshold, batch_size=8, prompt_count=8).wait(progress=False)
    assert json.loads(job.provenance.algorithm_json)["knockouts_of"] == said["knockouts_of"]
    with pytest.raises(ValueError, match="edge_count or threshold"):
        graph.submit(ioi, ablate.Knockouts(circuit))


def test_provenance_names_every_option(graph, ioi):
    job = graph.submit(ioi, SHORT, batch_size=4, prompt_count=4).wait(progress=False)
    said = json.loads(job.provenance.algorithm_json)
    assert said["algorithm"] == "subnetwork_probing" and said["epochs"] == 3 and said["seed"] == 7
    assert said["mask_fn"] == "hard_concrete" and said["regularize_lambda"] == 10
    assert said["learning_rate"] == pytest.approx(0.1)
    assert said["init_val"] == pytest.approx(np.log(5))


def test_a_training_can_be_cancelled_between_two_steps(graph, ioi):
    algo = ablate.SubnetworkProbing(epochs=10_000)
    with graph.stream_prune_scores(ioi, algo, batch_size=4, prompt_count=8) as stream:
        for event in stream:
            if event.training and event.training[-1].epoch > 0:
                break
        running = stream.job.scores()
        assert running.flat().any(), "the masks so far, while it runs"
        stream.job.cancel()
        last = [event for event in stream.job.watch()][-1]
    assert last.state == "cancelled"
    assert len(stream.job.scores()) == len(graph.modules)


@pytest.mark.parametrize("options", [
    {"factorized": False},
    {"separate_qkv": False},
    {"seq_len": 16},
    {"factorized": False, "seq_len": 16},
], ids=str)
def test_every_kind_of_graph_is_trained(tiny, ioi, options):
    made = tiny.graph(**options)
    algo = ablate.SubnetworkProbing(epochs=4, tree_optimisation=True, regularize_lambda=0.5, seed=1)
    scores = made.prune_scores(ioi, algo, batch_size=4, prompt_count=8, progress=False)
    assert {name: np.array(array).shape for name, array in scores.items()} == made.modules
    values = scores.flat()
    assert np.isfinite(values).all() and values.min() == 0 and values.max() > 0
    curve = scores.job.training_curve()
    assert len(curve) == 8 and curve[-1].regularization < curve[0].regularization
    made.delete()


def test_a_trained_circuit_is_set_as_a_mask(graph, ioi):
    scores = graph.prune_scores(ioi, SHORT, batch_size=4, prompt_count=8, progress=False)
    masked = graph.set_circuit(scores, edge_count=100)
    assert masked <= graph.edge_count - 100
    graph.reset_patch_mask()
