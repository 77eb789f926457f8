# SPDX-License-Identifier: Apache-2.0
"""What every gRPC and Prometheus tool expects: health, reflection, metrics. grpcurl has no proto files
here: all it knows it learns from the daemon.
"""

import json
import re
import subprocess
import threading
import urllib.error
import urllib.request

import grpc
import pytest
from daemon import Daemon

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
# HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1}
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
SERVICES = ["Admin", "Dataset", "Evaluate", "Graph", "Mask", "Model", "Prune", "Run"]


def named(service):
    return b"\x0a" + bytes([len(service)]) + service.encode() if service else b""


@pytest.mark.parametrize("service", ["", *(f"ablate.v1.{name}Service" for name in SERVICES)])
def test_health_check_says_serving(channel, service):
    assert channel.unary_unary(CHECK)(named(service), timeout=10) == SERVING


def test_health_of_an_unknown_service_is_not_found(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(CHECK)(named("no.Such"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_watch_of_an_unknown_service_says_so_and_stays_open(channel):
    watch = channel.unary_stream(WATCH)(named("no.Such"), timeout=30)
    assert next(watch) == SERVICE_UNKNOWN
    assert watch.is_active()
    watch.cancel()


def test_health_watch_hears_of_the_drain():
    daemon = Daemon()
    try:
        with grpc.insecure_channel(daemon.grpc) as channel:
            watch = channel.unary_stream(WATCH)(b"", timeout=60)
            assert next(watch) == SERVING
            heard = []

            def listen():
                try:
                    heard.extend(watch)
                except grpc.RpcError as error:
                    heard.append(error.code())

            thread = threading.Thread(target=listen)
            thread.start()
            daemon.terminate()
            assert daemon.wait(30) == 0, daemon.log()
            thread.join(30)
            assert heard[:1] == [NOT_SERVING], heard
    finally:
        daemon.stop()


@pytest.fixture(scope="session")
def grpcurl(shared_daemon, grpcurl_path):
    def run(*arguments, data=None):
        flags = ["-plaintext"] + (["-d", json.dumps(data)] if data is not None else [])
        return subprocess.run(
            [grpcurl_path, *flags, shared_daemon.grpc, *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_grpcurl_lists_every_service(grpcurl):
    listed = grpcurl("list").stdout.split()
    assert set(listed) >= {f"ablate.v1.{name}Service" for name in SERVICES} | {"grpc.health.v1.Health"}
    methods = grpcurl("list", "ablate.v1.PruneService").stdout.split()
    assert "ablate.v1.PruneService.StreamPruneScores" in methods


@pytest.mark.parametrize("name", SERVICES)
def test_grpcurl_describes_every_service_and_message(grpcurl, name):
    described = grpcurl("describe", f"ablate.v1.{name}Service")
    assert described.returncode == 0, described.stderr
    for message in set(re.findall(r"\.(ablate\.v1\.\w+)", described.stdout)):
        done = grpcurl("describe", message)
        assert done.returncode == 0 and f"message {message.rpartition('.')[2]}" in done.stdout, done.stderr


def test_grpcurl_calls_unary_and_streams_without_proto_files(grpcurl, tiny):
    info = json.loads(grpcurl("ablate.v1.AdminService/GetServerInfo", data={}).stdout)
    assert info["protocol"] == "ablate.v1"
    loaded = grpcurl("ablate.v1.ModelService/LoadModel", data={"name": "tiny-ioi"})
    assert '"modelId"' in loaded.stdout, loaded.stderr
    data = {"model_id": tiny.id, "prompts": {"text": {"prompts": ["Then, Alice and"]}}, "top_k": 2}
    forward = json.loads(grpcurl("ablate.v1.RunService/Forward", data=data).stdout)
    assert len(forward["top"][0]["tokens"]) == 2
    health = grpcurl("grpc.health.v1.Health/Check", data={})
    assert '"SERVING"' in health.stdout


def test_grpcurl_shows_errors_with_their_reason(grpcurl):
    done = grpcurl("ablate.v1.ModelService/GetModel", data={"model_id": "no-such-model"})
    assert done.returncode != 0
    assert "NotFound" in done.stderr and "MODEL_UNKNOWN" in done.stderr and "no-such-model" in done.stderr


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_in_both_versions(channel, version):
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    # list_services = 7; file_containing_symbol = 4, of something unknown
    replies = list(call(iter([b"\x3a\x00", b"\x22\x07no.Such"]), timeout=30))
    assert len(replies) == 2
    assert b"ablate.v1.PruneService" in replies[0]
    assert b"ablate.v1.PruneService" not in replies[1]


def fetch(daemon, path):
    return urllib.request.urlopen(f"http://{daemon.http}{path}", timeout=10)


def metrics(daemon):
    with fetch(daemon, "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = response.read().decode()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


def test_metrics_are_prometheus_text_with_help_and_type(daemon, client):
    client.server_info()  # requests are counted once there was one
    with fetch(daemon, "/metrics") as response:
        text = response.read().decode()
    names = {re.match(r"\w+", line).group() for line in text.splitlines() if line and line[0] != "#"}
    assert names and all(name.startswith("ablate_") for name in names), names
    typed = set(re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram|summary)$", text, re.M))
    for name in names:
        assert name in typed or re.sub(r"_(bucket|sum|count)$", "", name) in typed, name
    assert {"ablate_build_info", "ablate_requests_total", "ablate_resident_bytes"} <= {
        name.removesuffix("_bucket") for name in names
    }


def test_metrics_count_requests_by_rpc_and_code(daemon, client):
    def count(code):
        return sum(
            value
            for key, value in metrics(daemon).items()
            if key.startswith("ablate_requests_total") and "GetModel" in key and code in key
        )

    before = count("NOT_FOUND")
    for _ in range(3):
        with pytest.raises(LookupError):
            from ablate.v1 import model_pb2

            client._call("GetModel", model_pb2.GetModelRequest(model_id="no-such-model"))
    assert count("NOT_FOUND") == before + 3


def test_metrics_of_resident_bytes_are_those_of_server_info(daemon, client, tiny):
    weights = [v for k, v in metrics(daemon).items() if k.startswith("ablate_resident_bytes") and "weights" in k]
    assert weights == [client.server_info().resident_bytes.weights]


@pytest.mark.parametrize("path", ["/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/no/such/file", "//"])
def test_the_http_port_serves_nothing_else(daemon, path):
    try:
        with fetch(daemon, path) as response:
            assert b"root:" not in response.read()
    except urllib.error.HTTPError as error:
        assert 400 <= error.code < 500
