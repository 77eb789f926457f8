# SPDX-License-Identifier: Apache-2.0
"""Trouble, as a user of the command line and of Python meets it: each has one calm sentence that says what
to do, soon, and no traceback of ours. Connections that are cut in the middle of a job are in test_jobs.py.
"""

import json
from concurrent import futures

import ablate
import grpc
import pytest
from ablate.v1 import admin_pb2
from test_cli import run


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
