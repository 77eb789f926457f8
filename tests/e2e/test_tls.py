# SPDX-License-Identifier: Apache-2.0
"""TLS on both ports, with a certificate of the daemon alone and with certificates on both sides, spoken
by every client: the command line, Python, grpcurl, curl. The certificates are made here, by openssl.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import ablate
import ablate.aio
import numpy as np
import pytest
from daemon import BINARY, LONG_JOB, Daemon, goldens
from test_cli import run

CALL = "/ablate.v1.AdminService/GetServerInfo"
# A start takes seconds with the sanitizers, so they see a part of the cases, of each kind one.
SLOW = 4 if os.environ.get("ABLATE_SANITIZED") else 1
EMPTY_FRAME = bytes(5)  # gRPC-web's frame of a message without fields


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


class Certificates:
    """A folder with an authority, the daemon's and a client's certificate, and those of a stranger."""

    def __init__(self, folder: Path):
        self.folder = folder
        for authority, names in (("ca", ("server", "client")), ("other-ca", ("stranger",))):
            self.make(authority)
            for name in names:
                self.make(name, authority)

    def make(self, name: str, authority: str | None = None, *more: object) -> Path:
        key, request, made = (self.folder / f"{name}.{ending}" for ending in ("key", "csr", "pem"))
        names = self.folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-subj",
               f"/CN={name}")  # fmt: skip
        if authority is None:
            openssl(*new, "-x509", "-days", 2, "-out", made)
        else:
            ca, ca_key = self[f"{authority}.pem"], self[f"{authority}.key"]
            openssl(*new, "-out", request)
            openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", names,
                    "-out", made, *(more or ("-days", 2)))  # fmt: skip
        return made

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def flags(self, *, mutual: bool = False) -> list[str]:
        """What ablated is told."""
        flags = ["--tls-cert", self["server.pem"], "--tls-key", self["server.key"]]
        return [*map(str, flags + (["--tls-client-ca", self["ca.pem"]] if mutual else []))]

    def client(self, name: str | None = None, ca: str = "ca") -> dict[str, Path]:
        """What ablate.connect() is told."""
        own = {"client_cert": self[f"{name}.pem"], "client_key": self[f"{name}.key"]} if name else {}
        return {"tls_ca": self[f"{ca}.pem"], **own}

    def environment(self, name: str | None = None) -> dict[str, str]:
        """The same, for a process."""
        return {f"ABLATE_{key.upper()}": str(path) for key, path in self.client(name).items()}

    def curl(self, url: str, name: str | None = None, *more: object) -> subprocess.CompletedProcess[bytes]:
        own = ["--cert", self[f"{name}.pem"], "--key", self[f"{name}.key"]] if name else []
        words = ["curl", "-sS", "-o-", "-w", "\n%{http_code}", "--cacert", self["ca.pem"], *own, *more, url]
        return subprocess.run([*map(str, words)], capture_output=True, timeout=60, check=False)

    def grpcurl(self, binary: str, address: str, name: str | None = None) -> subprocess.CompletedProcess[str]:
        own = ["-cert", self[f"{name}.pem"], "-key", self[f"{name}.key"]] if name else []
        words = [binary, "-connect-timeout", 5, "-cacert", self["ca.pem"], *own, address, CALL[1:]]
        return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def one_sided(certificates):
    with Daemon(*certificates.flags()) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(certificates):
    with Daemon(*certificates.flags(mutual=True)) as running:
        yield running


def post(certificates, daemon, name=None):
    """GetServerInfo over gRPC-web."""
    (certificates.folder / "frame").write_bytes(EMPTY_FRAME)
    more = ["-H", "content-type: application/grpc-web+proto", "--data-binary", f"@{certificates['frame']}"]
    return certificates.curl(f"https://{daemon.http}{CALL}", name, *more)


@pytest.fixture(params=["one-sided", "mutual"])
def speaks(request, one_sided, mutual):
    """A daemon that speaks TLS, and the name of the certificate to show it, if any."""
    return (one_sided, None) if request.param == "one-sided" else (mutual, "client")


def test_the_command_line_gets_through(certificates, speaks):
    daemon, name = speaks
    host = f"https://{daemon.grpc}"
    checks = json.loads(run(host, "doctor", "--json", **certificates.environment(name))[0])["checks"]
    words = {check["what"]: check["words"] for check in checks}
    assert words["daemon"].endswith(f" at {host}") and f"https://{daemon.http}" in words["dashboard"]
    flags = [f"--tls-ca={certificates['ca.pem']}"]
    if name:
        flags += [f"--client-cert={certificates['client.pem']}", f"--client-key={certificates['client.key']}"]
    assert "tiny-ioi" in run("127.0.0.1:1", "--host", host, *flags, "models", "files")[0]


def test_python_gets_through_and_streams_a_job(certificates, speaks, graph, ioi_path, monkeypatch):
    daemon, name = speaks
    host = f"https://{daemon.grpc}"
    with ablate.connect(host, arrays="numpy", **certificates.client(name)) as client:
        made = client.load_model("tiny-ioi", progress=False).graph()
        scores = made.prune_scores(ioi_path, "eap", batch_size=8, progress=False)
        made.delete()
    expected = graph.prune_scores(ioi_path, "eap", batch_size=8, progress=False)
    np.testing.assert_array_equal(scores.flat(), expected.flat())

    for key, path in certificates.environment(name).items():
        monkeypatch.setenv(key, path)
    with ablate.connect(host) as client:
        assert client.host == host

    async def session():
        async with await ablate.aio.connect(host) as client:
            return await client.server_info()

    assert asyncio.run(session()).http_address == f"https://{daemon.http}"


def test_grpcurl_gets_through(certificates, speaks, grpcurl_path):
    daemon, name = speaks
    done = certificates.grpcurl(grpcurl_path, daemon.grpc, name)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["protocol"] == "ablate.v1"


def test_curl_gets_files_metrics_and_grpc_web(certificates, speaks):
    daemon, name = speaks
    page = certificates.curl(f"https://{daemon.http}/", name)
    assert page.stdout.endswith(b"200") and b"Ablate" in page.stdout, page.stderr
    metrics = certificates.curl(f"https://{daemon.http}/metrics", name)
    assert metrics.stdout.endswith(b"200") and b"ablate_build_info" in metrics.stdout
    answer = post(certificates, daemon, name)
    assert answer.stdout.endswith(b"200") and b"grpc-status:0" in answer.stdout.lower().replace(b" ", b"")
    assert f"https://{daemon.http}".encode() in answer.stdout


def test_who_does_not_speak_tls_is_told_to(one_sided):
    with pytest.raises(ablate.UnavailableError, match=f"its address is https://{one_sided.grpc}"):
        ablate.connect(one_sided.grpc)
    _, errors = run(one_sided.grpc, "models", "list", code=3)
    assert f"https://{one_sided.grpc}" in " ".join(errors.split())


@pytest.mark.parametrize("authority", ["other-ca", None])
def test_a_daemon_that_is_not_trusted_is_not_talked_to(certificates, one_sided, authority):
    host = f"https://{one_sided.grpc}"
    files = certificates.client(ca=authority) if authority else {}
    with pytest.raises(ablate.UnavailableError, match="names who signed its certificate"):
        ablate.connect(host, **files)
    more = {"ABLATE_TLS_CA": str(files["tls_ca"])} if files else {}
    _, errors = run(host, "models", "list", code=3, **more)
    assert "no trust in ablated" in errors and "--tls-ca" in errors


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_client_without_a_certificate_of_the_authority_is_refused(certificates, mutual, grpcurl_path, name):
    host = f"https://{mutual.grpc}"
    with pytest.raises(ablate.UnavailableError):
        ablate.connect(host, **certificates.client(name))
    _, errors = run(host, "models", "list", code=3, **certificates.environment(name))
    assert "--client-cert and --client-key" in " ".join(errors.split())
    assert certificates.grpcurl(grpcurl_path, mutual.grpc, name).returncode != 0
    for answer in (certificates.curl(f"https://{mutual.http}/metrics", name), post(certificates, mutual, name)):
        refused = answer.stdout == b"this daemon asks for a client certificate of its authority\n\n403"
        assert refused or answer.returncode != 0, answer  # a stranger's may fail the handshake already
        assert b"ablate_build_info" not in answer.stdout and b"ablate.v1" not in answer.stdout


def hang_up(daemon, event):
    """SIGHUP, and the line that the log has of it."""
    before = daemon.log().count(event)
    daemon.process.send_signal(signal.SIGHUP)
    words = ["timeout", "60", "tail", "-n+1", "-f", daemon.log_path]
    with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True) as tail:
        lines = (line for line in tail.stdout if event in line)
        line = next(itertools.islice(lines, before, None), None)
        tail.kill()
    assert line is not None, f"no {event} within a minute:\n{daemon.log()}"
    return line


def test_renewed_certificates_hold_without_a_restart(certificates, tmp_path, graph, ioi_path):
    """Those of another authority, on both ports and both sides; a stream of before goes on."""
    renewed = Certificates(tmp_path)
    for name, origin in (("live.pem", "server.pem"), ("live.key", "server.key"), ("live-ca.pem", "ca.pem")):
        shutil.copy(certificates[origin], renewed[name])
    flags = ["--tls-cert", renewed["live.pem"], "--tls-key", renewed["live.key"]]
    with Daemon(*map(str, [*flags, "--tls-client-ca", renewed["live-ca.pem"]])) as daemon:
        host = f"https://{daemon.grpc}"
        with ablate.connect(host, arrays="numpy", **certificates.client("client")) as old:
            made = old.load_model("tiny-ioi", progress=False).graph()
            with made.stream_prune_scores(ioi_path, **LONG_JOB) as events:
                next(iter(events))
                shutil.copy(renewed["server.pem"], renewed["live.pem"])  # and not its key
                assert "is not the key of the certificate in" in hang_up(daemon, "tls_not_renewed")
                assert certificates.curl(f"https://{daemon.http}/metrics", "client").stdout.endswith(b"200")
                shutil.copy(renewed["server.key"], renewed["live.key"])
                shutil.copy(renewed["ca.pem"], renewed["live-ca.pem"])
                assert str(renewed["live.pem"]) in hang_up(daemon, "tls_renewed")
                next(iter(events))
                assert old.server_info().protocol == "ablate.v1"
            with ablate.connect(host, **renewed.client("client")) as new:
                assert new.server_info().http_address == f"https://{daemon.http}"
            assert renewed.curl(f"https://{daemon.http}/metrics", "client").stdout.endswith(b"200")
            with pytest.raises(ablate.UnavailableError):
                ablate.connect(host, **certificates.client("client"))
            assert certificates.curl(f"https://{daemon.http}/metrics", "client").returncode != 0
            with pytest.raises(ablate.UnavailableError):  # who trusts the daemon, and is not trusted
                ablate.connect(host, **{**certificates.client("client"), "tls_ca": renewed["ca.pem"]})


def test_files_that_are_not_there_or_not_pem_are_named_by_clients(tmp_path):
    none, nonsense = tmp_path / "none", tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    with pytest.raises(FileNotFoundError, match="none"):
        ablate.connect("https://127.0.0.1:1", tls_ca=none)
    with pytest.raises(ValueError, match="nothing in PEM in .*nonsense"):
        ablate.connect("https://127.0.0.1:1", tls_ca=nonsense)
    with pytest.raises(ValueError, match="go together"):
        ablate.connect("https://127.0.0.1:1", client_cert=nonsense)
    for flags, said in (
        (["--tls-ca", none], "--tls-ca: cannot read"),
        (["--tls-ca", nonsense], "--tls-ca: there is nothing in PEM"),
        (["--client-cert", goldens() / "prompts" / "ioi_abba.json"], "--client-cert: there is nothing in PEM"),
    ):
        _, errors = run("https://127.0.0.1:1", *flags, "models", "list", code=1)
        assert said in " ".join(errors.split())


# --- Starting ---------------------------------------------------------------------------------------


def check(*flags, code):
    """`ablated check-config` with these flags; what it says."""
    done = subprocess.run(
        [BINARY, "check-config", *map(str, flags)], capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_files_that_make_no_tls_are_told_at_the_start(certificates):
    cert, key, ca = certificates["server.pem"], certificates["server.key"], certificates["ca.pem"]
    nonsense, locked = certificates["nonsense"], certificates["locked.key"]
    nonsense.write_text("nonsense\n")
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
    expired = certificates.make("expired", "ca", "-days", -1)
    cases = (
        (["--tls-cert", cert], "tls-cert goes with tls-key"),
        (["--tls-key", key], "tls-key goes with tls-cert"),
        (["--tls-client-ca", ca], "tls-client-ca goes with tls-cert and tls-key"),
        (["--tls-cert", "/no/such", "--tls-key", key], "tls-cert: cannot read '/no/such': No such file"),
        (["--tls-cert", cert, "--tls-key", "/no/such"], "tls-key: cannot read '/no/such': No such file"),
        (["--tls-cert", nonsense, "--tls-key", key], f"tls-cert: '{nonsense}' holds no certificate in PEM"),
        (["--tls-cert", cert, "--tls-key", nonsense], f"tls-key: '{nonsense}' holds no private key in PEM"),
        (["--tls-cert", cert, "--tls-key", locked], "or one with a passphrase"),
        (["--tls-cert", cert, "--tls-key", certificates["client.key"]], "is not the key of the certificate in"),
        (["--tls-cert", expired, "--tls-key", certificates["expired.key"]], "has expired; renew it"),
        ([*certificates.flags(), "--tls-client-ca", nonsense], f"tls-client-ca: '{nonsense}' holds no certificate"),
        ([*certificates.flags(), "--tls-client-ca", certificates.folder], "tls-client-ca: "),
    )
    for flags, said in cases[::SLOW]:
        assert said in check(*flags, code=2), flags


def test_an_address_that_others_reach_wants_certificates_on_both_sides_or_plain_words(certificates):
    for port in ("--listen", "--http")[::SLOW]:
        assert "--tls-client-ca" in check(port, "0.0.0.0:0", code=2)
        assert "nothing asks who they are" in check(port, "0.0.0.0:0", *certificates.flags(), code=2)
        check(port, "0.0.0.0:0", *certificates.flags(mutual=True), code=0)
        check(port, "0.0.0.0:0", "--insecure-bind-any", code=0)


def test_the_key_is_never_printed(certificates):
    shown = check(*certificates.flags(mutual=True), code=0)
    assert json.loads(shown)["tls-key"] == str(certificates["server.key"])
    assert "PRIVATE" not in shown and certificates["server.key"].read_text().splitlines()[1] not in shown
