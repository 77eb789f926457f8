# SPDX-License-Identifier: Apache-2.0
"""What a notebook needs besides the plain client: a daemon of its own, asyncio, and TransformerLens 4's
driver. The driver is tested by the shapes of its protocol, because the package brings all of torch and
transformers with it; remote_bridge.py runs it under the package, where that is installed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from daemon import BINARY, LONG_JOB, goldens
from test_tls import Certificates, openssl

import ablate

TOKENS = [[3, 41, 7, 19, 22], [8, 30, 5, 11, 49]]
OTHERS = [[3, 41, 9, 19, 22], [8, 30, 6, 11, 49]]


def gone(pid):
    """Whether a process ends; it may take a moment."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


# --- a private daemon -----------------------------------------------------------------------


def test_a_private_daemon_serves_and_ends_with_its_block():
    with ablate.local(daemon=BINARY, model_roots=[goldens() / "models"], arrays="numpy") as client:
        model = client.load_model("tiny-ioi", progress=False)
        assert model(TOKENS).shape == (2, 5, 1000)
        assert client.dashboard.startswith("http://127.0.0.1:") and str(client.pid) in repr(client)
        folder = client.log_path.parent
    assert gone(client.pid) and not folder.exists()


def test_a_private_daemon_takes_the_daemons_options_by_name(tmp_path):
    with ablate.local(
        daemon=BINARY, threads=1, kv_cache_mib=3, log_level="debug", insecure_bind_any=False, device=None, state_dir=tmp_path
    ) as client:
        command = Path(f"/proc/{client.pid}/cmdline").read_bytes().decode().split("\0")
    assert "--insecure-bind-any" not in command and "--device" not in command
    assert command[command.index("--threads") + 1] == "1" and str(tmp_path) in command
    assert command[command.index("--kv-cache-mib") + 1] == "3"
    with pytest.raises(ablate.UnavailableError, match="no-such-flag"):
        ablate.local(daemon=BINARY, no_such_flag=3)


def test_a_private_daemon_speaks_tls_when_it_has_a_certificate(tmp_path):
    certificates = Certificates(tmp_path)
    server = {"tls_cert": certificates["server.pem"], "tls_key": certificates["server.key"]}
    with ablate.local(daemon=BINARY, **server, tls_ca=certificates["ca.pem"]) as client:
        assert client.host.startswith("https://") and client.dashboard.startswith("https://")
        assert client.server_info().protocol == "ablate.v1"
    mutual = {**server, "tls_client_ca": certificates["ca.pem"], **certificates.client("client")}
    with ablate.local(daemon=BINARY, **mutual) as client:
        assert client.server_info().protocol == "ablate.v1"
    own, key = tmp_path / "own.pem", tmp_path / "own.key"  # signs itself, and is trusted for that
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=own",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", own)  # fmt: skip
    with ablate.local("--tls-cert", str(own), f"--tls-key={key}", daemon=BINARY) as client:
        assert client.server_info().protocol == "ablate.v1"


@pytest.mark.parametrize("end", ["exit", signal.SIGKILL])
def test_a_private_daemon_ends_with_its_process_however_that_ends(end):
    script = f"import ablate; c = ablate.local(daemon={str(BINARY)!r}); print(c.pid, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(process.stdout.readline())
    os.kill(pid, 0)
    if end == "exit":
        process.communicate("\n")
    else:
        process.send_signal(end)
        process.communicate()
    assert gone(pid)


def test_an_interrupt_of_the_kernel_does_not_reach_its_daemon():
    script = f"import ablate; c = ablate.local(daemon={str(BINARY)!r})\n"
    script += "import os, signal\ntry:\n os.killpg(0, signal.SIGINT); signal.pause()\nexcept KeyboardInterrupt:\n"
    script += " print(c.server_info().protocol)"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert process.stdout.strip() == "ablate.v1", process.stderr


def test_no_daemon_and_one_that_does_not_start_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("ABLATE_DAEMON", str(tmp_path / "none"))
    with pytest.raises(ablate.UnavailableError, match="none") as caught:
        ablate.local()
    assert caught.value.reason == "DAEMON_MISSING"
    monkeypatch.setenv("ABLATE_DAEMON", str(BINARY))
    with pytest.raises(ablate.UnavailableError, match="--no-such-flag") as caught:
        ablate.local("--no-such-flag")
    assert caught.value.reason == "DAEMON_ENDED"


# --- asyncio ----------------------------------------------------------------------------------


def test_the_async_client_gives_what_the_plain_one_gives(daemon, tiny, ioi_path, graph):
    async def session():
        async with await ablate.aio.connect(daemon.grpc, arrays="numpy") as client:
            model = await client.load("tiny-ioi")
            assert model.id == tiny.id and model.cfg == tiny.cfg
            names = ["blocks.1.attn.hook_z", "blocks.2.hook_resid_post"]
            logits, (_, cache), last = await asyncio.gather(
                model.forward(TOKENS),
                model.run_with_cache(TOKENS, names),
                model.forward(TOKENS, slice_output="last_seq"),
            )
            made = await model.graph(idle_timeout=600)
            assert made.sync.idle_timeout == 600
            options = {"batch_size": 8, "top_k": 3, "with_scores": True}
            async with await made.stream_prune_scores(ioi_path, "eap", **options) as stream:
                events = [event async for event in stream]
                scores = await stream.scores()
            partial = [event.scores for event in events if event.scores]
            assert len(partial) == 4 and list(partial[0]) == list(scores)
            for name, array in scores.items():
                np.testing.assert_array_equal(partial[-1][name], array)
            rows = await client.evaluate(scores, [0, 20, made.edge_count], ["kl_div"])
            await made.delete()
            return logits, cache, last, events, scores, rows

    logits, cache, last, events, scores, rows = asyncio.run(session())
    plain, plain_cache = tiny.run_with_cache(TOKENS, list(cache))
    np.testing.assert_array_equal(logits, plain)
    np.testing.assert_allclose(last, plain[:, -1], atol=1e-5)
    for name in cache:
        np.testing.assert_array_equal(cache[name], plain_cache[name])
    expected = graph.prune_scores(ioi_path, "eap", batch_size=8, progress=False)
    np.testing.assert_array_equal(scores.flat(), expected.flat())
    assert [event.sequence for event in events] == list(range(1, len(events) + 1)) and len(events[-2].top_edges) <= 3
    assert rows == graph.client.evaluate(expected, [0, 20, graph.edge_count], ["kl_div"], progress=False)


def test_async_errors_are_the_plain_ones_and_leaving_cancels(daemon, client, tiny, ioi_path):
    async def session():
        with pytest.raises(ablate.UnavailableError):
            await ablate.aio.connect("127.0.0.1:1", timeout=5)
        async with await ablate.aio.connect(daemon.grpc, arrays="numpy") as connection:
            with pytest.raises(ablate.NotFoundError) as caught:
                await connection.load("no-such-model")
            assert "no-such-model" in caught.value.message and caught.value.reason.startswith("MODEL_")
            model = await connection.load("tiny-ioi")
            with pytest.raises(ablate.NotFoundError):
                await model.run_with_cache(TOKENS, "blocks.0.hook_nothing")
            graph = await model.graph()
            async with await graph.stream_prune_scores(ioi_path, **LONG_JOB) as stream:
                async for event in stream:
                    if event.done_units:
                        break
            return stream.job.id, graph.id

    job_id, graph_id = asyncio.run(session())
    for _ in client.job(job_id).watch():
        pass
    assert client.job(job_id).state == "cancelled"
    for left in tiny.graphs():
        if left.id == graph_id:
            left.delete()


def test_the_async_client_has_the_plain_ones_breadth(daemon, client, tiny, ioi_path, graph):
    """Each thing that it asks for is what the plain client is answered."""
    block, text = "blocks.0.hook_mlp_out", "Then, Alice and Bob"

    async def session():
        async with await ablate.aio.connect(daemon.grpc, arrays="numpy") as connection:
            model = await connection.model(tiny.id)
            assert [one.id for one in await connection.models()] == [one.id for one in client.models()]
            assert (await model.hook_points()) == tiny.hook_points()
            assert await model.to_str_tokens(text) == tiny.to_str_tokens(text)
            np.testing.assert_array_equal(await model.to_tokens(text), tiny.to_tokens(text))
            assert await connection.run(lambda: model.sync.embed.W_E.shape) == tiny.embed.W_E.shape

            everything, expected = (await model.run_with_cache(TOKENS))[1], tiny.run_with_cache(TOKENS)[1]
            assert sorted(everything.fetched) == sorted(expected)  # nothing is left to ask for
            np.testing.assert_array_equal(everything["mlp_out", 0], expected["mlp_out", 0])
            _, some = await model.run_with_cache(TOKENS, lambda name: name == block, pos_slice=slice(1, None))
            assert list(some) == [block]
            _, kept = await model.run_with_cache(TOKENS, block, keep_on_server=True)
            await connection.run(kept.delete)

            made = await model.graph()
            assert (await made.edges()) == graph.edges and (await made.nodes()) == graph.nodes
            assert [edge.name async for edge in made.iter_edges("MLP 0")] == [e.name for e in graph.iter_edges("MLP 0")]
            names = {str(graph.edges[0]): 1.0, str(graph.edges[5]): 0.5}
            passed = {"ablation": "resample", "ablation_input": OTHERS}
            async with made.patched(names) as patched:
                assert patched is made
                logits = await made.forward(TOKENS, **passed)
            with graph.patched(names):
                np.testing.assert_array_equal(logits, graph.forward(TOKENS, **passed))
            assert all((array == 0).all() for array in (await made.get_patch_mask()).values())
            hook = await made.add_hook(block, "zero")
            assert [one.id for one in await made.hooks()] == [hook.id] and await made.reset_hooks() == 1
            async with made.mask_fn_mode("sigmoid"):
                assert (await made.mask_fn())[0] == "sigmoid"
            assert (await made.mask_fn())[0] is None

            kept_ioi = await connection.upload_dataset(ioi_path)
            assert kept_ioi.id in [one.id for one in await connection.datasets()]
            job = await made.submit(kept_ioi, "eap", batch_size=8)
            watched = [event async for event in job.watch(with_scores=True)]
            states = [event.state for event in watched]
            assert list(watched[-1].scores) == list(graph.modules)
            assert states[-1] == "succeeded" and job.id in [one.id for one in await connection.jobs()]
            scores, again = await asyncio.gather(job.scores(), made.prune_scores(kept_ioi, "eap", batch_size=8))
            np.testing.assert_array_equal(scores.flat(), again.flat())
            await made.set_circuit(scores, edge_count=20)
            rows, comparison, roc, circuits = await asyncio.gather(
                made.evaluate(scores, [0, 20]), connection.compare(scores, again, [20]),
                connection.roc(scores, again, reference_edge_count=20), made.run_circuits(scores, [20]),
            )  # fmt: skip
            assert rows == client.evaluate(scores, [0, 20], progress=False)
            assert comparison == client.compare(scores, again, [20]) and roc.area == 1.0 and list(circuits) == [20]
            ablation = await model.create_ablation(kept_ioi, batch_size=8)
            assert ablation.id in [one.id for one in await connection.ablations()]
            await connection.run(ablation.delete)
            await made.delete()

    asyncio.run(session())


def test_cancelling_a_task_cancels_its_job(daemon, client, tiny, ioi_path):
    """A call that waits ends with its task, and the job behind it on the daemon, too."""

    async def session():
        async with await ablate.aio.connect(daemon.grpc, arrays="numpy") as connection:
            made = await (await connection.model(tiny.id)).graph()
            waiting = asyncio.create_task(made.prune_scores(ioi_path, **LONG_JOB))
            job = None
            while job is None or job.sync.done_units == 0:
                job = next((job for job in await connection.jobs("running")), None)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            states = [event.state async for event in job.watch()]
            assert states[-1] == "cancelled"

            submitted = await made.submit(ioi_path, **LONG_JOB)
            async for event in submitted.watch():  # leaving a watch leaves the job alone
                if event.done_units:
                    break
            assert (await submitted.refresh()).state == "running"
            await submitted.cancel()
            assert [event.state async for event in submitted.watch()][-1] == "cancelled"
            await made.delete()

    asyncio.run(session())


# --- TransformerLens 4's driver -----------------------------------------------------------------


class BridgeConfig:
    architecture = "GPT2LMHeadModel"


@pytest.fixture
def driver(tiny):
    return ablate.transformer_lens.AblateDriver(tiny, BridgeConfig())


def test_the_driver_has_what_the_protocol_asks_for(driver):
    import inspect

    asked = {"input_ids", "capture", "intervene", "max_new_tokens", "return_logits"}
    assert asked <= set(inspect.signature(driver.forward).parameters)
    assert driver.architecture == "GPT2LMHeadModel" and driver.provides_sequence_logits is True
    assert {type(driver.supported_hook_points), type(driver.non_fireable_hook_points)} == {frozenset}
    assert {"blocks.0.hook_in", "blocks.3.hook_out", "blocks.1.attn.hook_pattern"} <= driver.supported_hook_points
    assert not driver.supports("gradients") and driver.close() is None


def test_the_driver_captures_and_intervenes_by_the_bridges_names(driver, tiny):
    names = ("blocks.1.hook_out", "blocks.1.attn.hook_pattern")
    result = driver.forward(np.array(TOKENS), capture=names)
    logits, cache = tiny.run_with_cache(TOKENS, list(names))
    np.testing.assert_array_equal(result.logits, logits)
    assert tuple(result.captured) == names
    for name in names:
        np.testing.assert_array_equal(result.captured[name], cache[name])
    edited = driver.forward(
        TOKENS[0], capture=names[:1], intervene={names[0]: {"op": "suppress", "pos": [1, 3]}}, return_logits=False
    )
    assert edited.logits is None and edited.captured[names[0]].shape == (1, 5, 128)
    assert (edited.captured[names[0]][:, [1, 3]] == 0).all() and (edited.captured[names[0]][:, 2] != 0).any()
    steered = driver.forward(TOKENS, intervene={names[0]: {"op": "add", "value": np.arange(128) / 10}})
    assert steered.logits.shape == logits.shape and np.abs(steered.logits - logits).max() > 1e-3


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"input_ids": None}, ValueError),
        ({"max_new_tokens": 2}, NotImplementedError),
        ({"attention_mask": [[0, 1, 1, 1, 1]]}, NotImplementedError),
        ({"start_at_layer": 1}, NotImplementedError),
        ({"intervene": {"blocks.0.hook_out": lambda x: x}}, NotImplementedError),
        ({"intervene": {"blocks.0.hook_out": {"op": "rotate"}}}, ValueError),
        ({"capture": ("blocks.0.hook_nothing",)}, LookupError),
    ],
)
def test_what_the_driver_cannot_do_is_told(driver, arguments, error):
    with pytest.raises(error):
        driver.forward(**({"input_ids": TOKENS[:1]} | arguments))
