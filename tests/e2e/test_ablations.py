# SPDX-License-Identifier: Apache-2.0
"""Ablations of every kind, made on the way and kept: passes, jobs, sweeps."""

import json
import subprocess
from pathlib import Path

import ablate
import numpy as np
import pytest
from ablate import AblationType, EdgeCounts
from ablate.v1 import run_pb2
from daemon import CLI

MEANS = [kind for kind in AblationType if kind.name.startswith("TOKENWISE")]
KINDS = list(AblationType)


@pytest.fixture(scope="module")
def rand(client):
    """tiny-rand, for these tests only."""
    model = client.load_model("tiny-rand", progress=False)
    yield model
    for graph in model.graphs():
        graph.delete()
    model.unload()


@pytest.fixture
def kept(graph, ioi):
    """The ablations that a test makes; ended with it."""
    made = []

    def make(*arguments, **options):
        made.append(graph.create_ablation(*arguments, progress=False, **options))
        return made[-1]

    yield make
    for ablation in made:
        ablation.delete()


@pytest.mark.parametrize("kind", KINDS)
def test_src_ablations_have_autocircuits_shape(tiny, kind):
    tokens = np.arange(24).reshape(3, 8)
    array = tiny.src_ablations(tokens, kind)
    sources = 1 + tiny.cfg.n_layers * (tiny.cfg.n_heads + 1)
    assert array.shape == (sources, 3, 8, tiny.cfg.d_model)
    plain = tiny.src_ablations(tokens)
    if kind is AblationType.ZERO:
        assert not array.any()
    elif kind is AblationType.BATCH_ALL_TOK_MEAN:
        np.testing.assert_allclose(array[:, 1, 5], plain.mean((1, 2)), atol=1e-5)
    elif kind is not AblationType.RESAMPLE:
        np.testing.assert_allclose(array[:, 2], plain.mean(1), atol=1e-5)
    # Resid Start is the first source: what enters block 0.
    _, cache = tiny.run_with_cache(tokens, "blocks.0.hook_resid_pre")
    np.testing.assert_allclose(plain[0], cache["blocks.0.hook_resid_pre"], atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not AblationType.ZERO])
def test_a_kept_ablation_gives_the_pass_that_makes_its_own(tiny, graph, kept, kind):
    rng = np.random.default_rng(1)
    clean, corrupt = rng.integers(1, 900, (2, 4, 10))
    graph.set_patch_mask(0.5)
    own = graph(clean, ablation=kind, ablation_input=corrupt)
    resident = kept(corrupt, kind)
    assert resident.type is kind and resident.seq_len == 10 and resident.prompt_count == 4
    assert resident.row_count == (4 if kind is AblationType.RESAMPLE else 1)
    np.testing.assert_array_equal(own, graph(clean, ablation=resident))
    assert np.abs(own - graph(clean, ablation="zero")).max() > 1e-3


def test_a_mean_ablates_batches_of_any_size(graph, kept):
    resident = kept(np.arange(30).reshape(3, 10), "tokenwise_mean_corrupt")
    graph.set_patch_mask(0.5)
    two = graph(np.ones((2, 10), np.int32), ablation=resident)
    five = graph(np.ones((5, 10), np.int32), ablation=resident)
    np.testing.assert_allclose(two[0], five[4], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_and_sweeps_take_every_kind(graph, ioi, kind):
    scores = graph.prune_scores(
        ioi, ablate.MaskGradient(integrated_grad_samples=2, ablation=kind), batch_size=4, prompt_count=8,
        progress=False,
    )
    assert json.loads(scores.job.provenance.algorithm_json)["ablation_type"] == kind.name
    rows = graph.evaluate(scores, [0, 50, graph.edge_count], ablation=kind, progress=False)
    assert [row["edge_count"] for row in rows] == [0, 50, graph.edge_count]
    assert rows[-1]["kl_div"] < 1e-5, "nothing is ablated"
    assert rows[0]["kl_div"] > rows[-1]["kl_div"]


@pytest.mark.parametrize("kind", [AblationType.RESAMPLE, *MEANS])
def test_jobs_and_sweeps_share_a_kept_one(client, graph, ioi, kept, kind):
    options = {"batch_size": 4, "prompt_count": 8, "progress": False}
    resident = kept(ioi, kind, batch_size=3, prompt_count=8)
    assert resident.dataset_id == ioi.id and resident.id in [one.id for one in client.ablations()]
    own = graph.prune_scores(ioi, ablate.EdgeAttributionPatching(ablation=kind), **options)
    shared = graph.prune_scores(ioi, ablate.EdgeAttributionPatching(ablation=resident), **options)
    for name, array in own.items():
        np.testing.assert_allclose(shared[name], array, atol=1e-5 + 1e-5 * np.abs(array).max())
    made = json.loads(shared.job.provenance.algorithm_json)
    assert made["ablation"]["ablation_id"] == resident.id and made["ablation_type"] == kind.name
    own_rows = graph.evaluate(own, [10, 100], ablation=kind, prompt_count=8, progress=False)
    shared_rows = graph.evaluate(own, [10, 100], ablation=resident, prompt_count=8, progress=False)
    for a, b in zip(own_rows, shared_rows):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda ablation: ablate.GroundTruth(ablation, edges=["A0.0->MLP 1", "MLP 0->Resid End"]),
        lambda ablation: ablate.EAPIG("activations", ablation=ablation, steps=2),
        lambda ablation: ablate.ACDC(taus=[0.1], ablation=ablation),
        lambda ablation: ablate.SubnetworkProbing(epochs=2, ablation=ablation),
    ],
    ids=["ground_truth", "eap_ig", "acdc", "subnetwork_probing"],
)
def test_every_algorithm_that_ablates_takes_a_kept_one(graph, ioi, kept, algorithm):
    options = {"batch_size": 4, "prompt_count": 4, "progress": False}
    resident = kept(ioi, "tokenwise_mean_corrupt", prompt_count=4, batch_size=4)
    own = graph.prune_scores(ioi, algorithm("tokenwise_mean_corrupt"), **options)
    shared = graph.prune_scores(ioi, algorithm(resident), **options)
    for name, array in own.items():
        np.testing.assert_allclose(shared[name], array, atol=1e-6)


def test_the_clean_prompts_may_ablate(graph, ioi):
    options = {"batch_size": 4, "prompt_count": 8, "progress": False}
    scores = graph.prune_scores(ioi, ablate.MaskGradient(clean_corrupt="clean"), **options)
    # The clean run ablated by itself changes nothing.
    assert max(np.abs(array).max() for array in scores.values()) < 1e-5
    assert json.loads(scores.job.provenance.algorithm_json)["ablate_by_clean"] is True


def test_kept_ones_are_listed_counted_and_hold_their_model(client, tiny, graph, ioi, kept, long_job):
    before = client.server_info()
    resident = kept(ioi, "tokenwise_mean_clean")
    info = client.server_info()
    assert info.ablation_count == before.ablation_count + 1
    assert info.resident_bytes.ablations - before.resident_bytes.ablations == resident.bytes > 0
    assert resident.id in [one.id for one in client.ablations(tiny)]
    job = graph.submit(ioi, ablate.EdgeAttributionPatching(ablation=resident))
    assert job.id in [one for each in client.ablations() for one in each.job_ids]
    with pytest.raises(ablate.FailedPreconditionError, match=job.id) as caught:
        resident.delete()
    assert caught.value.reason == "ABLATION_IN_USE"
    job.cancel()
    for _ in job.watch():
        pass
    with pytest.raises(ablate.FailedPreconditionError, match="ablation-") as caught:
        tiny.unload()
    assert caught.value.reason == "MODEL_IN_USE"


def test_a_mean_over_a_dataset_is_the_mean_over_its_prompts(tiny, ioi, ioi_path, kept):
    prompts = json.loads(ioi_path.read_text())["prompts"]
    corrupt = tiny.to_tokens([p["corrupt"] for p in prompts], prepend_bos=True)
    resident = kept(ioi, "tokenwise_mean_corrupt", batch_size=5, prepend_bos=True)
    assert resident.prompt_count == len(prompts)
    expected = tiny.src_ablations(corrupt).mean(1)
    np.testing.assert_allclose(resident.tensor()[:, 0], expected, atol=1e-5)


def peak_bytes(process):
    """The most memory that a process has had since it was asked last."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return int(peak.split()[1]) * 1024


def test_means_over_a_dataset_take_one_batchs_memory(client, daemon, tiny, graph, ioi_path):
    prompts = json.loads(ioi_path.read_text())["prompts"]
    few = client.upload_dataset({"prompts": prompts})
    many = client.upload_dataset({"prompts": prompts * 64})
    options = {"batch_size": 32, "progress": False}

    def run(dataset):
        tiny.create_ablation(dataset, "tokenwise_mean_clean_and_corrupt", **options).delete()
        graph.prune_scores(dataset, ablate.MaskGradient(ablation="tokenwise_mean_corrupt"), **options)

    run(few)
    before = peak_bytes(daemon.process)
    run(many)
    sources = 1 + tiny.cfg.n_layers * (tiny.cfg.n_heads + 1)
    whole = len(many) * 16 * sources * tiny.cfg.d_model * 4  # what every prompt's sources would take
    assert peak_bytes(daemon.process) - before < whole / 4, f"of {whole} bytes"
    for dataset in (few, many):
        dataset.delete()


def test_edge_counts_follow_autocircuits_rules(client, graph, ioi):
    scores = graph.prune_scores(ioi, "random", progress=False)
    options = {"prompt_count": 1, "progress": False}
    count = graph.edge_count

    def sizes(*arguments, **more):
        return [row["edge_count"] for row in graph.evaluate(scores, *arguments, **more, **options)]

    assert sizes([3, 20]) == [3, 20]
    assert sizes([0.1, 0.5]) == [int(0.1 * count), int(0.5 * count)]
    assert sizes([1, 2, 0.5]) == [0, 1, 2, int(0.5 * count), count]
    assert sizes([1, 2, 3], true_edge_count=17, zero_edges=False, all_edges=False) == [1, 2, 3, 17]
    with pytest.raises(ablate.InvalidArgumentError, match="unless sizes.zero and sizes.all say ADD"):
        sizes([1.0])
    assert sizes([1.0], zero_edges=True, all_edges=True) == [0, count]
    logarithmic = sizes(EdgeCounts.LOGARITHMIC)
    assert sizes("automatic") == logarithmic
    assert logarithmic[:12] == [*range(11), 20] and logarithmic[-1] == count
    tied = graph.prune_scores(
        ioi, ablate.GroundTruth(edges=["A0.0->MLP 1"]), progress=False, prompt_count=1, batch_size=1
    )
    assert [row["edge_count"] for row in graph.evaluate(tied, "groups", **options)] == [1]
    assert list(client.run_circuits(scores, [5, 0.01, 0.02], prompt_count=1)) == [0, 5, 15, 30, count]


@pytest.mark.parametrize("options", [{}, {"factorized": False}, {"seq_len": 16}], ids=str)
@pytest.mark.parametrize("patch_type", ["tree_patch", "edge_patch"])
def test_reversed_circuits_are_those_of_swapped_prompts(client, rand, ioi_path, patch_type, options):
    prompts = json.loads(ioi_path.read_text())["prompts"][:6]
    straight = client.upload_dataset({"prompts": prompts})
    swapped = client.upload_dataset(
        {"prompts": [one | {"clean": one["corrupt"], "corrupt": one["clean"]} for one in prompts]}
    )
    graph = rand.graph(**options)
    scores = graph.prune_scores(straight, "eap", progress=False)
    sizes = [0, 5, graph.edge_count]
    run = {"edge_counts": sizes, "patch_type": patch_type, "batch_size": 4}
    other = {"TOKENWISE_MEAN_CLEAN": "TOKENWISE_MEAN_CORRUPT", "TOKENWISE_MEAN_CORRUPT": "TOKENWISE_MEAN_CLEAN"}
    plain = client.run_circuits(scores, **run)
    for kind in KINDS:
        reverse = client.run_circuits(scores, ablation=kind, reverse_clean_corrupt=True, **run)
        # A mean over the dataset is of the prompts that its name says, whichever way the runs go.
        swap = AblationType[other.get(kind.name, kind.name)]
        want = client.run_circuits(scores, ablation=swap, dataset=swapped, **run)
        assert list(reverse) == list(want) == list(plain)
        for size, logits in reverse.items():
            np.testing.assert_allclose(logits, want[size], atol=1e-4, err_msg=f"{kind.name} {size}")
        assert np.abs(reverse[5] - plain[5]).max() > 1e-3
    graph.delete()
    for dataset in (straight, swapped):
        dataset.delete()


def test_a_small_graph_is_swept_edge_by_edge(rand, ioi):
    graph = rand.graph()
    scores = graph.prune_scores(ioi, "random", prompt_count=1, progress=False)
    for rule in (EdgeCounts.ALL, "automatic"):
        assert list(graph.run_circuits(scores, rule, prompt_count=1)) == list(range(graph.edge_count + 1))
    heads = {name: shape for name, shape in graph.modules.items() if len(shape) == 2}
    tied = graph.upload_scores({name: np.arange(4)[:, None] + np.zeros(shape) for name, shape in heads.items()})
    options = {"dataset": ioi, "prompt_count": 1, "progress": False}
    groups = [row["edge_count"] for row in graph.evaluate(tied, "automatic", **options)]
    assert groups[0] == 0 and groups[-1] == graph.edge_count and len(groups) == 5  # of 0, 1, 2 and 3
    graph.delete()


def test_a_sweep_tells_how_far_it_is(client, graph, ioi):
    scores = graph.prune_scores(ioi, "random", progress=False)
    sweep = run_pb2.CircuitSweep(job_id=scores.job.id, edge_counts=range(400), batch_size=1)
    stream = client._call("RunCircuits", run_pb2.RunCircuitsRequest(sweep=sweep))
    seen = []
    for message in stream:
        if not message.HasField("progress"):
            break
        seen.append(message.progress.done_count)
        assert message.progress.total_count == 400 * len(ioi)
    stream.cancel()
    assert seen == sorted(set(seen)) and seen
    assert graph([[1, 2, 3]]).shape[0] == 1  # the sweep's last slice has let the graph go


def test_leaving_a_sweep_between_two_slices_ends_it(client, daemon, graph, ioi):
    scores = graph.prune_scores(ioi, "random", progress=False)
    for _ in range(3):
        sweep = run_pb2.CircuitSweep(job_id=scores.job.id, edge_counts=range(400), batch_size=1)
        stream = client._call("RunCircuits", run_pb2.RunCircuitsRequest(sweep=sweep))
        next(stream)
        stream.cancel()
    assert graph([[1, 2, 3]]).shape[0] == 1  # the device is free again


def run(daemon, *words):
    done = subprocess.run([CLI, "--host", daemon.grpc, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_keeps_lists_uses_and_ends_them(daemon, tiny, tiny_tl, ioi_path):
    made = run(
        daemon, "ablations", "create", "--model", tiny.id, "--dataset", str(ioi_path), "--ablation",
        "tokenwise-mean-clean-and-corrupt", "--json",
    )  # fmt: skip
    last = json.loads(made.splitlines()[-1])["ablation"]
    assert last["type"] == "ABLATION_TYPE_TOKENWISE_MEAN_CLEAN_AND_CORRUPT"
    assert last["ablation_id"] in run(daemon, "ablations", "list")
    found = run(
        daemon, "discover", "--model", tiny.id, "--dataset", str(ioi_path), "--ablation-id",
        last["ablation_id"], "--json",
    )  # fmt: skip
    job = json.loads(found.splitlines()[0])["created"]["job_id"]
    rows = run(daemon, "eval", job, "--ablation-id", last["ablation_id"], "--sizes", "0.1,5", "--json")
    assert len([line for line in rows.splitlines() if json.loads(line).get("values")]) == 2
    rows = run(daemon, "eval", job, "--ablation", "batch-all-tok-mean", "--sizes", "7")
    assert "7" in rows
    run(daemon, "ablations", "delete", last["ablation_id"])
    assert last["ablation_id"] not in run(daemon, "ablations", "list")
