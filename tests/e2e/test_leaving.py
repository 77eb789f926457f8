# SPDX-License-Identifier: Apache-2.0
"""Who leaves a sweep or cancels a job can delete at once what it ran on: what is only ending is in
nobody's way. Work that somebody still waits for keeps what it needs."""

import time

import ablate
import pytest
from ablate.v1 import evaluate_pb2, run_pb2
from daemon import LONG_JOB, Daemon


@pytest.fixture(scope="module")
def alone():
    with Daemon() as running:
        yield running


@pytest.fixture
def world(alone, ioi_path):
    """A client, a model and a dataset of their own; all must be gone after the test."""
    with ablate.connect(alone.grpc, arrays="numpy") as client:
        yield client, client.load_model("tiny-ioi", progress=False), client.upload_dataset(ioi_path)
        info = client.server_info()
        held = {field.name for field, value in info.resident_bytes.ListFields() if value}
        assert held <= {"jobs"}, info


def soon(call):
    """What a call gives once the daemon knows who left: of a stream that ends and a call that comes just behind it
    on the same connection, the daemon may see the call first. The work itself would go on for minutes."""
    end = time.monotonic() + 10
    while True:
        try:
            return call()
        except (AssertionError, ablate.FailedPreconditionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def in_use_by_one(graph):
    with pytest.raises(ablate.FailedPreconditionError, match="1 running call;"):
        graph.delete()


def long_sweep(client, scores, rpc):
    """A sweep that would run for minutes, after its first message."""
    sweep = run_pb2.CircuitSweep(job_id=scores.job.id, edge_counts=range(400), batch_size=1)
    request = {"RunCircuits": run_pb2.RunCircuitsRequest, "EvaluateCircuits": evaluate_pb2.EvaluateCircuitsRequest}
    stream = client._call(rpc, request[rpc](sweep=sweep))
    assert next(stream).HasField("progress")
    return stream


@pytest.mark.parametrize("rpc", ["RunCircuits", "EvaluateCircuits"])
def test_a_sweep_that_was_left_keeps_nothing(world, rpc):
    client, model, dataset = world
    for _ in range(3):
        graph = model.graph()
        scores = graph.prune_scores(dataset, "random", progress=False)
        stream = long_sweep(client, scores, rpc)
        in_use_by_one(graph)
        stream.cancel()
        soon(graph.delete)
        assert graph.id not in [one.id for one in model.graphs()]
    dataset.delete()
    model.unload()


def test_only_those_who_stay_are_named(world):
    client, model, dataset = world
    graph = model.graph()
    scores = graph.prune_scores(dataset, "random", progress=False)
    left, stays = (long_sweep(client, scores, "RunCircuits") for _ in range(2))
    left.cancel()
    soon(lambda: in_use_by_one(graph))
    assert next(stays).HasField("progress")  # it lost nothing
    stays.cancel()
    soon(graph.delete)
    dataset.delete()
    model.unload()


def test_a_cancelled_job_keeps_nothing(world):
    _, model, dataset = world
    for _ in range(3):
        graph = model.graph()
        ablation = model.create_ablation(dataset, "tokenwise_mean_clean", progress=False)
        job = graph.submit(dataset, ablate.MaskGradient(integrated_grad_samples=1000, ablation=ablation), batch_size=1)
        next(event for event in job.watch() if event.done_units > 0)
        for each in (graph, ablation):
            with pytest.raises(ablate.FailedPreconditionError, match=job.id):
                each.delete()
        job.cancel()
        graph.delete()
        ablation.delete()
    dataset.delete()
    model.unload()
    *_, last = job.watch()
    assert last.state == "cancelled" and last.done_units > 0
    assert last.top_edges and job.scores().flat().any()  # and what it found outlives them


def test_a_stream_of_scores_that_was_left_keeps_nothing(world):
    _, model, dataset = world
    for _ in range(3):
        graph = model.graph()
        stream = graph.stream_prune_scores(dataset, **LONG_JOB)
        next(event for event in stream if event.done_units > 0)
        stream.close()
        soon(graph.delete)
    dataset.delete()
    model.unload()
