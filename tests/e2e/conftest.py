# SPDX-License-Identifier: Apache-2.0
"""One daemon for all tests, with tiny-ioi resident, and a job that runs as long as a test wants."""

from __future__ import annotations

import os
import shutil
import signal

import ablate
import grpc
import pytest
from daemon import LONG_JOB, ROOT, Daemon, goldens

# A shell ignores interrupts for what it runs in the background, and processes inherit that: those that
# tests interrupt would sit it out.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_daemon():
    with Daemon() as running:
        yield running


@pytest.fixture
def daemon(shared_daemon):
    """The shared daemon; it must be alive after the test too."""
    assert shared_daemon.alive(), shared_daemon.log()[-8000:]
    yield shared_daemon
    assert shared_daemon.alive(), shared_daemon.log()[-8000:]


@pytest.fixture(scope="session")
def client(shared_daemon):
    with ablate.connect(shared_daemon.grpc, arrays="numpy") as connection:
        yield connection


@pytest.fixture
def channel(daemon):
    """A bare channel, for requests that the client would never send."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(daemon.grpc, options=options) as bare:
        yield bare


@pytest.fixture(scope="session")
def grpcurl_path():
    """Where grpcurl is."""
    candidates = (os.environ.get("GRPCURL"), ROOT / "build" / "tools" / "grpcurl", shutil.which("grpcurl"))
    binary = next((str(path) for path in candidates if path and os.access(path, os.X_OK)), None)
    if binary is None:
        pytest.skip("grpcurl is not here; `make deps` gets it")
    return binary


@pytest.fixture(scope="session")
def tiny(client):
    """tiny-ioi, raw weights."""
    return client.load_model("tiny-ioi", progress=False)


@pytest.fixture(scope="session")
def tiny_tl(client):
    """tiny-ioi with TransformerLens's transforms, as the goldens' `proc` cases."""
    return client.load_model("tiny-ioi", "tl", progress=False)


@pytest.fixture(scope="session")
def ioi_path():
    return goldens() / "prompts" / "ioi_abba.json"


@pytest.fixture(scope="session")
def ioi(client, ioi_path):
    return client.upload_dataset(ioi_path)


@pytest.fixture
def graph(daemon, tiny):
    made = tiny.graph()
    yield made
    made.delete()


@pytest.fixture
def long_job(graph, ioi):
    """A job that has begun and will not end by itself while a test runs."""
    job = graph.submit(ioi, **LONG_JOB)
    for event in job.watch():
        if event.done_units > 0:
            break
    yield job
    job.cancel()
    for _ in job.watch():
        pass
