# SPDX-License-Identifier: Apache-2.0
"""Jobs that last: watched, dropped, resumed, cancelled, overtaken, drained."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time

import ablate
import ablate.aio
import grpc
import numpy as np
import pytest
from ablate import _rpc
from ablate._algorithms import make_spec
from ablate.v1 import prune_pb2
from daemon import LONG_JOB, Daemon
from proxy import Proxy


def wait_for(job, state):
    """Watches a job until it says `state`; returns that event."""
    for event in job.watch():
        if event.state == state:
            return event
    raise AssertionError(f"the job ended without being {state}")


def test_a_watcher_resumes_after_any_event_and_misses_nothing(graph, ioi):
    job = graph.submit(ioi, "eap", batch_size=4)
    whole = list(job.watch())
    assert [event.sequence for event in whole] == list(range(1, len(whole) + 1))
    for after in range(len(whole) + 1):
        assert list(job.watch(after)) == whole[after:]


def test_a_dropped_watcher_leaves_the_job_running_and_resumes(daemon, long_job):
    with ablate.connect(daemon.grpc, arrays="numpy") as other:
        seen = []
        for event in other.job(long_job.id).watch():
            seen.append(event.sequence)
            if len(seen) == 5:
                break
    # That connection is gone; its job is not.
    assert long_job.refresh().state == "running"
    for event in long_job.watch(after=seen[-1]):
        seen.append(event.sequence)
        if len(seen) == 10:
            break
    assert seen == list(range(1, 11))


def test_two_watchers_see_the_same_events(daemon, long_job):
    def first_events(client, count=20):
        events = client.job(long_job.id).watch()
        return [next(events) for _ in range(count)]

    with ablate.connect(daemon.grpc) as one, ablate.connect(daemon.grpc) as two:
        assert first_events(one) == first_events(two)


def test_a_late_watcher_of_an_ended_job_gets_all_of_it(client, graph, ioi):
    scores = graph.prune_scores(ioi, "eap", batch_size=8, progress=False)
    events = list(client.job(scores.job.id).watch())
    assert events[0].sequence == 1 and events[-1].state == "succeeded"
    later = client.job(scores.job.id).scores()
    np.testing.assert_array_equal(later.flat(), scores.flat())


def test_cancel_takes_effect_within_one_batch_and_keeps_the_scores(long_job):
    long_job.cancel()
    done_at_cancel = long_job.done_units
    last = wait_for(long_job, "cancelled")
    assert last.done_units <= done_at_cancel + 1
    assert long_job.refresh().state == "cancelled"
    scores = long_job.scores()
    assert np.isfinite(scores.flat()).all() and scores.flat().any()
    assert long_job.cancel().state == "cancelled", "cancelling twice is no error"


def test_a_job_that_waits_is_cancelled_without_running(long_job, graph, ioi):
    waiting = [graph.submit(ioi, **LONG_JOB) for _ in range(3)]
    for job in waiting:
        job.cancel()
        wait_for(job, "cancelled")


def test_leaving_a_stream_cancels_its_job(client, graph, ioi):
    with graph.stream_prune_scores(ioi, **LONG_JOB) as stream:
        for event in stream:
            if event.done_units > 0:
                break
    wait_for(client.job(stream.job.id), "cancelled")


def test_a_client_killed_in_mid_stream_has_its_job_cancelled(client, daemon, graph, ioi):
    script = f"""
import ablate
from ablate import MaskGradient
ablate._graph.GRACE_MS = 300
client = ablate.connect({daemon.grpc!r}, arrays="numpy")
graph = client.model({graph.model.id!r}).graph()
for event in graph.stream_prune_scores(client.datasets()[0], MaskGradient(integrated_grad_samples=1000), batch_size=1):
    if event.done_units > 2:
        print(client.jobs("running")[0].id, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    job = client.job(process.stdout.readline().strip())
    process.kill()
    process.wait()
    assert ended(job) == "cancelled"
    for left in graph.model.graphs():
        if left.id != graph.id:
            left.delete()


def behind(proxy, graph):
    """The same graph, seen through the proxy: a client of its own, and the graph."""
    client = ablate.connect(proxy.address, arrays="numpy")
    return client, next(one for one in client.model(graph.model.id).graphs() if one.id == graph.id)


CUT_JOB = {"algo": ablate.MaskGradient(integrated_grad_samples=10), "batch_size": 1}


def test_a_stream_whose_connection_is_cut_goes_on_with_the_next_event(daemon, graph, ioi):
    events, cuts = [], 0
    with Proxy(daemon.grpc) as proxy:
        client, mine = behind(proxy, graph)
        with client, mine.stream_prune_scores(ioi, **CUT_JOB) as stream:
            for event in stream:
                events.append(event)
                if event.done_units and cuts < 2:
                    proxy.cut()
                    cuts += 1
            scores = stream.scores
    assert cuts == 2 and stream.job.state == "succeeded"
    assert [event.sequence for event in events] == list(range(1, stream.job.last_sequence + 1))
    expected = graph.prune_scores(ioi, **CUT_JOB, progress=False)
    np.testing.assert_array_equal(scores.flat(), expected.flat())
    assert scores.top_edges == expected.top_edges


def test_an_async_stream_whose_connection_is_cut_goes_on_with_the_next_event(daemon, graph, ioi, ioi_path):
    async def session(proxy):
        events, cuts = [], 0
        async with await ablate.aio.connect(proxy.address, arrays="numpy") as client:
            mine = await (await client.load("tiny-ioi")).graph()
            async with await mine.stream_prune_scores(ioi_path, **CUT_JOB) as stream:
                async for event in stream:
                    events.append(event)
                    if event.done_units and cuts < 2:
                        proxy.cut()
                        cuts += 1
                assert cuts == 2 and stream.job.state == "succeeded"
                scores = await stream.scores()
            await mine.delete()
        return events, stream.job, scores

    with Proxy(daemon.grpc) as proxy:
        events, job, scores = asyncio.run(session(proxy))
    assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))
    expected = graph.prune_scores(ioi, **CUT_JOB, progress=False)
    np.testing.assert_array_equal(scores.flat(), expected.flat())


def test_a_stream_whose_daemon_falls_silent_goes_on_over_another_connection(daemon, graph, ioi, monkeypatch):
    quick = {"grpc.keepalive_time_ms": 2000, "grpc.keepalive_timeout_ms": 1000, "grpc.http2.ping_timeout_ms": 1000}
    monkeypatch.setattr(_rpc, "_OPTIONS", [(name, quick.get(name, value)) for name, value in _rpc._OPTIONS])
    numbers, swallowed = [], False
    with Proxy(daemon.grpc) as proxy:
        client, mine = behind(proxy, graph)
        with client, mine.stream_prune_scores(ioi, ablate.MaskGradient(integrated_grad_samples=60), batch_size=1) as stream:
            for event in stream:
                numbers.append(event.sequence)
                if event.done_units and not swallowed:
                    proxy.swallow()
                    swallowed = True
    assert proxy.connection_count >= 2
    assert stream.job.state == "succeeded" and numbers == list(range(1, stream.job.last_sequence + 1))


def orphan(proxy, client, graph, ioi, grace_ms):
    """A long job whose stream was cut after its first events; it has `grace_ms` from now on."""
    spec = make_spec(graph.id, ioi.id, LONG_JOB["algo"], batch_size=1, prompt_count=None, prepend_bos=None, top_k=1)
    with grpc.insecure_channel(proxy.address) as channel:
        call = channel.unary_stream(
            "/ablate.v1.PruneService/StreamPruneScores",
            request_serializer=prune_pb2.StreamPruneScoresRequest.SerializeToString,
            response_deserializer=prune_pb2.StreamPruneScoresResponse.FromString,
        )(prune_pb2.StreamPruneScoresRequest(spec=spec, grace_ms=grace_ms))
        job = client.job(next(call).created.job_id)
        while not next(call).event.done_units:
            pass
        proxy.cut()
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return job


def ended(job, within=60.0):
    """The job's state once it has ended, without watching it: who watches keeps an orphan going."""
    deadline = time.monotonic() + within
    while job.refresh().state in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.05)
    return job.state


def test_a_lost_stream_that_nobody_resumes_has_its_job_cancelled(client, daemon, graph, ioi):
    with Proxy(daemon.grpc) as proxy:
        for grace_ms in (0, 300):
            job = orphan(proxy, client, graph, ioi, grace_ms)
            assert ended(job) == "cancelled"
            assert [event.error for event in job.watch()][-1] == "the client that streamed its scores left"


def test_an_orphaned_job_goes_on_while_it_is_watched_and_each_loss_grants_the_grace_anew(client, daemon, graph, ioi):
    with Proxy(daemon.grpc) as proxy:
        job = orphan(proxy, client, graph, ioi, 1500)
        for _ in range(2):
            began = time.monotonic()
            for event in job.watch():
                if time.monotonic() > began + 2.5:  # well over the grace
                    break
            assert job.refresh().state == "running"
        assert ended(job) == "cancelled"


def test_a_stream_left_through_a_cut_connection_is_cancelled_by_its_client(client, daemon, graph, ioi):
    with Proxy(daemon.grpc) as proxy:
        behind_proxy, mine = behind(proxy, graph)
        with behind_proxy, mine.stream_prune_scores(ioi, **LONG_JOB) as stream:
            cut = False
            for event in stream:
                if cut and event.done_units > 3:
                    break
                if event.done_units and not cut:
                    proxy.cut()
                    cut = True
        # Long before the grace of 15 s is over.
        assert ended(client.job(stream.job.id), within=5) == "cancelled"


def test_a_client_whose_daemon_is_started_anew_is_told_that_its_job_is_gone(ioi_path):
    with Daemon() as old, Daemon() as new, Proxy(old.grpc) as proxy:
        with ablate.connect(proxy.address, arrays="numpy") as client:
            graph = client.load_model("tiny-ioi", progress=False).graph()
            stream = graph.stream_prune_scores(ioi_path, **LONG_JOB)
            with pytest.raises(ablate.NotFoundError, match="was started anew while .* start the job again") as caught:
                for event in stream:
                    if event.done_units:
                        proxy.target = new.grpc
                        proxy.cut()
            assert caught.value.reason == "JOB_UNKNOWN"
            assert client.models() == [], "the client goes on with the new daemon"


def test_a_client_whose_daemon_is_killed_is_told_soon(ioi_path):
    daemon = Daemon()
    try:
        with ablate.connect(daemon.grpc, arrays="numpy") as client:
            graph = client.load_model("tiny-ioi", progress=False).graph()
            with pytest.raises(ablate.UnavailableError, match="see whether `ablated` runs there") as caught:
                for event in graph.stream_prune_scores(ioi_path, **LONG_JOB):
                    if event.done_units and daemon.alive():
                        daemon.process.kill()
                        daemon.wait()
                        began = time.monotonic()
            assert caught.value.reason == "UNREACHABLE" and time.monotonic() - began < 30
            with pytest.raises(ablate.UnavailableError, match="see whether `ablated` runs there"):
                graph.edges()
    finally:
        daemon.folder.cleanup()


def interrupt(process):
    """Presses Ctrl-C, again if need be, and returns what the process printed.

    Python drops an interrupt that arrives while it runs a finalizer; a person presses once more.
    """
    try:
        for _ in range(6):
            process.send_signal(signal.SIGINT)
            try:
                return process.communicate(timeout=15)[0]
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("the process outlived six interrupts")
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_cancels_on_the_server_and_leaves_partial_scores(client, daemon, graph, ioi):
    others = {job.id for job in client.jobs()}
    script = f"""
import ablate, sys
client = ablate.connect({daemon.grpc!r}, arrays="numpy")
graph = client.model({graph.model.id!r}).graph()
try:
    graph.prune_scores(client.datasets()[0], ablate.MaskGradient(integrated_grad_samples=1000), batch_size=1)
except KeyboardInterrupt as interrupt:
    print(interrupt)
    job = next(job for job in client.jobs() if job.id in str(interrupt))
    for _ in job.watch(): pass
    print(job.refresh().state, job.scores().flat().any())
graph.delete()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    running = None
    while running is None:
        assert process.poll() is None
        mine = (job for job in client.jobs("running") if job.id not in others)
        running = next((job for job in mine if job.done_units > 0), None)
    output = interrupt(process)
    assert f"job {running.id} was cancelled" in output and "cancelled True" in output


def test_a_pass_is_not_stuck_behind_a_long_job(long_job, tiny):
    tokens = np.arange(8)[None]
    alone = tiny(tokens, slice_output="last_seq")
    before = long_job.refresh().done_units
    for _ in range(20):
        np.testing.assert_array_equal(tiny(tokens, slice_output="last_seq"), alone)
    long_job.refresh()
    # The passes went in between: the job has nearly all of its work before it, and is not starved.
    assert long_job.state == "running"
    assert 0 < long_job.done_units - before < long_job.total_units // 10


def test_two_jobs_take_turns(daemon, tiny, ioi, long_job):
    with ablate.connect(daemon.grpc, arrays="numpy") as other:
        graph = other.model(tiny.id).graph()
        scores = graph.prune_scores(other.datasets()[0], "eap", progress=False)
        assert scores.job.state == "succeeded"
        graph.delete()
    assert long_job.refresh().state == "running"


def test_what_a_job_uses_cannot_be_taken_away(long_job, graph, ioi, tiny):
    with pytest.raises(ablate.FailedPreconditionError, match=graph.id) as caught:
        tiny.unload()
    assert caught.value.reason == "MODEL_IN_USE"
    with pytest.raises(ablate.FailedPreconditionError, match=long_job.id) as caught:
        graph.delete()
    assert caught.value.reason == "GRAPH_IN_USE"
    with pytest.raises(ablate.FailedPreconditionError, match=long_job.id) as caught:
        ioi.delete()
    assert caught.value.reason == "DATASET_IN_USE"


def test_jobs_are_listed_newest_first_page_by_page(client, channel, graph, ioi):
    made = [graph.submit(ioi, "random") for _ in range(3)]
    for job in made:
        wait_for(job, "succeeded")
    assert [job.id for job in client.jobs()[:3]] == [job.id for job in reversed(made)]
    request, seen = prune_pb2.ListJobsRequest(page_size=2), []
    while True:
        response = client._call("ListJobs", request)
        assert len(response.jobs) <= 2
        seen += [job.job_id for job in response.jobs]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert seen == [job.id for job in client.jobs()] and len(set(seen)) == len(seen)


def test_sigterm_in_the_middle_of_a_job_drains_and_exits_0(ioi_path):
    daemon = Daemon()
    try:
        client = ablate.connect(daemon.grpc, arrays="numpy")
        graph = client.load_model("tiny-ioi", progress=False).graph()
        stream = graph.stream_prune_scores(ioi_path, **LONG_JOB)
        for event in stream:
            if event.done_units > 0:
                break
        watcher_ended = threading.Event()

        def watch():
            try:
                for _ in client.job(stream.job.id).watch(retries=0):
                    pass
            except ablate.AblateError:
                pass
            watcher_ended.set()

        thread = threading.Thread(target=watch)
        thread.start()
        daemon.terminate()
        began = time.monotonic()
        assert daemon.wait(timeout=30) == 0, daemon.log()
        print(f"drained in {time.monotonic() - began:.2f} s")
        assert watcher_ended.wait(10), "the watcher hangs"
        thread.join()
        with pytest.raises(ablate.UnavailableError):
            client.server_info()
    finally:
        daemon.stop()


def test_an_idle_daemon_with_open_watches_ends_at_once():
    with Daemon() as daemon, ablate.connect(daemon.grpc):
        assert daemon.alive()
    # Leaving the block sent SIGTERM and insisted on exit status 0.


def test_a_second_daemon_on_the_same_port_says_so(daemon):
    from daemon import BINARY

    done = subprocess.run(
        [BINARY, "--listen", daemon.grpc], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode not in (0, -signal.SIGABRT, -signal.SIGSEGV)
    assert daemon.grpc.rpartition(":")[2] in done.stderr + done.stdout


@pytest.mark.parametrize("timeout", [0.001, 0.05])
def test_a_deadline_ends_the_call_and_its_job(client, channel, tiny, ioi, timeout):
    graph = tiny.graph()
    spec = make_spec(graph.id, ioi.id, LONG_JOB["algo"], batch_size=1, prompt_count=None, prepend_bos=None, top_k=1)
    call = channel.unary_stream(
        "/ablate.v1.PruneService/StreamPruneScores",
        request_serializer=prune_pb2.StreamPruneScoresRequest.SerializeToString,
        response_deserializer=prune_pb2.StreamPruneScoresResponse.FromString,
    )(prune_pb2.StreamPruneScoresRequest(spec=spec), timeout=timeout)
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The client knows of its deadline first: for a moment the daemon still has the call, or its job, which would
    # keep the graph; then the job is ending, which keeps nothing.
    deadline = time.monotonic() + 60
    while True:
        try:
            graph.delete()
            break
        except ablate.FailedPreconditionError as error:
            assert error.reason == "GRAPH_IN_USE" and time.monotonic() < deadline, error
            time.sleep(0.02)
    while True:
        states = {job.state for job in client.jobs() if job._proto.spec.graph_id == graph.id}
        if states <= {"cancelled"}:
            break
        assert states <= {"queued", "running", "cancelled"} and time.monotonic() < deadline, states
        time.sleep(0.02)


def test_provenance_says_how_to_compute_it_again(graph, ioi, tiny):
    job = graph.prune_scores(ioi, ablate.MaskGradient(mask_val=0.5), progress=False).job
    provenance = job.provenance
    assert provenance.model_hash == tiny.hash and provenance.dataset_hash == ioi.hash
    assert provenance.device == "cpu" and provenance.server_version
    assert json.loads(provenance.algorithm_json)


def test_provenance_has_the_edges_that_the_algorithm_names(graph, ioi):
    edges = ["MLP 0->A1.2.Q", "m0->m1"]
    algorithms = {
        "edges": [ablate.GroundTruth(edges=edges), ablate.ACDC(taus=[0.1], edges=["m0->m1", "MLP 0->A1.2.Q"])],
        "avoid_edges": [
            ablate.SubnetworkProbing(epochs=1, avoid_edges=edges),
            ablate.CircuitProbing(epochs=1, avoid_edges=edges, circuit_sizes=[5]),
        ],
    }
    for key, named in algorithms.items():
        for algorithm in named:
            job = graph.prune_scores(ioi, algorithm, prompt_count=2, progress=False).job
            assert sorted(json.loads(job.provenance.algorithm_json)[key]) == sorted(edges)
