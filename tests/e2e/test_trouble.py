# SPDX-License-Identifier: Apache-2.0
"""Trouble, as a user of the command line and of Python meets it: each has one calm sentence that says what
to do, soon, and no traceback of ours. What Python does when a connection is cut is in test_jobs.py.
"""

import contextlib
import json
import re
import subprocess
import time
from concurrent import futures

import ablate
import grpc
import pytest
from ablate.v1 import admin_pb2
from daemon import Daemon
from proxy import Proxy
from test_cli import CLI, environment, run


class Stranger(grpc.GenericRpcHandler):
    """A gRPC server that is not this version's daemon: it knows GetServerInfo, or not even that."""

    def __init__(self, version, protocol):
        self.info = admin_pb2.GetServerInfoResponse(version=version, protocol=protocol) if version else None

    def service(self, details):
        if self.info is None or not details.method.endswith("/GetServerInfo"):
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.info,
            request_deserializer=admin_pb2.GetServerInfoRequest.FromString,
            response_serializer=admin_pb2.GetServerInfoResponse.SerializeToString,
        )


@pytest.fixture
def stranger(request):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Stranger(*request.param),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def said(host, *words, code):
    """What `ablate` says, with its lines joined."""
    out, errors = run(host, *words, code=code)
    assert len((out + errors).splitlines()) < 30
    return " ".join((out + errors).split())


@pytest.mark.parametrize("stranger", [("9.9.9", "ablate.v2")], indirect=True)
def test_a_daemon_of_another_protocol_is_told_from_one_that_fails(stranger):
    with pytest.raises(ablate.VersionSkewError, match="speaks ablate.v2: install .* daemon's version") as caught:
        ablate.connect(stranger)
    assert caught.value.reason == "VERSION_SKEW"
    assert "install the client that belongs to ablated 9.9.9" in said(stranger, "version", code=1)
    assert "install the client that belongs to ablated 9.9.9" in said(stranger, "doctor", code=1)
    assert "which speaks another protocol: ablate.v2" in said(stranger, "status", code=0)
    for words in (["models", "list"], ["discover", "--dataset", "x", "--model", "m"], ["jobs", "watch", "j1"]):
        assert "another version; compare them with `ablate version`" in said(stranger, *words, code=1)


@pytest.mark.parametrize("stranger", [("0.1.99", "ablate.v1")], indirect=True)
def test_a_daemon_of_another_version_that_speaks_the_same_is_talked_to(stranger):
    with ablate.connect(stranger) as client:
        assert client.server_version == "0.1.99"
    checks = json.loads(run(stranger, "doctor", "--json", code=1)[0])["checks"]
    protocol = next(check for check in checks if check["what"] == "protocol")
    assert protocol["state"] == "warn" and "versions differ" in protocol["words"]


@pytest.mark.parametrize("stranger", [(None, None)], indirect=True)
def test_a_server_that_is_no_daemon_is_told(stranger):
    with pytest.raises(ablate.VersionSkewError, match="not an Ablate daemon"):
        ablate.connect(stranger)
    for words, code in ((["models", "list"], 1), (["status"], 1), (["version"], 0)):
        assert "it is no ablated, or one of another version" in said(stranger, *words, code=code)


def test_the_port_for_browsers_is_told_from_the_one_for_grpc(daemon):
    with pytest.raises(ablate.UnavailableError, match="that is its HTTP port"):
        ablate.connect(daemon.http)
    assert "give its port for gRPC" in said(daemon.http, "models", "list", code=3)
    assert "give its port for gRPC" in said(f"http://{daemon.http}", "models", "list", code=3)


def test_nobody_there_is_told_at_once():
    with pytest.raises(ablate.UnavailableError, match="start one with `ablated`"):
        ablate.connect("127.0.0.1:1")
    for words in (["models", "list"], ["jobs", "watch", "j1"], ["discover", "--dataset", "x", "--model", "m"]):
        assert "start it with `make run`, or say where it is" in said("127.0.0.1:1", *words, code=3)


@pytest.mark.parametrize(
    "tokens, sentence",
    [
        ([[1, 999999]], r"row 0, position 1 is 999999; the vocabulary has ids 0 to 999"),
        ([[-1]], r"row 0, position 0 is -1; the vocabulary has ids"),
        ([[2**40]], r"must fit 32 bits"),
        ([], r"give at least one token"),
        ([[1, 2], [1]], r"one length; these have 1, 2 tokens"),
        ([[1, 2], "a text"], r"of texts or of token ids"),
        ([[0.5]], r"must be integers"),
        ([[0] * 100_000], r"at most 8192 are taken"),
    ],
)
def test_wrong_token_ids_are_named(tiny, graph, tokens, sentence):
    for call in (tiny.forward, graph.forward, lambda prompt: tiny.run_with_cache(prompt, ["hook_embed"])):
        with pytest.raises((ablate.AblateError, ValueError, TypeError), match=sentence):
            call(tokens)
    assert tiny.forward([[1, 2]]).shape[:2] == (1, 2), "the next one works"


# --- The command line, cut off in the middle of a job -------------------------------------------------

SHORT = ["--algorithm", "mask-gradient", "--ig", 10, "--batch-size", 1]
LONG = ["--algorithm", "mask-gradient", "--ig", 1000, "--batch-size", 1]


@contextlib.contextmanager
def running(host, *words):
    """`ablate` in the background; it is over when the block is."""
    process = subprocess.Popen(
        [CLI, *map(str, words)], env=environment(host), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def documents_until(process, wanted):
    """The documents that it prints, up to the first for which `wanted` is true."""
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if wanted(seen[-1]):
            return seen
    raise AssertionError(f"it ended: {process.stderr.read()}")


def begun(document):
    return document.get("event", {}).get("done_units", 0) > 0


def test_discover_goes_on_behind_a_cut_connection(daemon, graph, ioi_path, tmp_path):
    words = ["--graph", graph.id, "--dataset", ioi_path, *SHORT, "--top", 5]
    with Proxy(daemon.grpc) as proxy:
        with running(proxy.address, "discover", *words, "--out", tmp_path / "cut", "--json") as process:
            documents = documents_until(process, begun)
            proxy.cut()
            documents += [json.loads(line) for line in process.stdout]
            assert process.wait(60) == 0, process.stderr.read()
        events = [document["event"]["sequence"] for document in documents if "event" in document]
        ended = documents[-1]["ended"]
        assert events == list(range(1, int(ended["last_sequence"]) + 1)) and ended["state"] == "JOB_STATE_SUCCEEDED"
        with running(proxy.address, "jobs", "watch", ended["job_id"], "--json") as process:
            assert len(process.communicate(timeout=60)[0].splitlines()) == len(events)
    run(daemon.grpc, "discover", *words, "--out", tmp_path / "whole")
    cut, whole = (re.sub(rb"job-[0-9a-f]{8}", b"", (tmp_path / name).read_bytes()) for name in ("cut", "whole"))
    assert cut == whole


def test_a_watched_job_goes_on_behind_a_cut_connection(daemon, graph, long_job):
    with Proxy(daemon.grpc) as proxy, running(proxy.address, "jobs", "watch", long_job.id, "--json") as process:
        documents = documents_until(process, begun)
        proxy.cut()
        seen = len(documents)
        documents += documents_until(process, lambda document: document["event"]["sequence"] > seen + 3)
        assert [document["event"]["sequence"] for document in documents] == list(range(1, len(documents) + 1))


def test_discover_is_told_that_the_daemon_was_started_anew(ioi_path):
    with Daemon() as old, Daemon() as new, Proxy(old.grpc) as proxy:
        run(old.grpc, "models", "load", "tiny-ioi")
        with running(proxy.address, "discover", "--dataset", ioi_path, *LONG, "--json") as process:
            documents_until(process, begun)
            proxy.target = new.grpc
            proxy.cut()
            process.stdout.read()
            assert process.wait(60) == 1
            error = json.loads(process.stderr.read())["error"]
        assert error["reason"] == "JOB_UNKNOWN" and "was started anew while mask-gradient job-" in error["message"]


def test_discover_is_told_that_the_daemon_is_gone_and_soon(ioi_path):
    daemon = Daemon()
    try:
        run(daemon.grpc, "models", "load", "tiny-ioi")
        with running(daemon.grpc, "discover", "--dataset", ioi_path, *LONG) as process:
            assert "mask-gradient" in process.stderr.readline()
            daemon.process.kill()
            daemon.wait()
            began = time.monotonic()
            errors = " ".join(process.communicate(timeout=60)[1].split())
            assert process.returncode == 3 and time.monotonic() - began < 30
        assert "connection lost; trying again" in errors and f"cannot reach ablated at {daemon.grpc}" in errors
    finally:
        daemon.folder.cleanup()
