# SPDX-License-Identifier: Apache-2.0
"""docs/guide.md, command by command, and the unit file that it names: what a newcomer types works as it stands."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from daemon import BINARY, ROOT, Daemon
from test_cli import CLI, environment, run

GUIDE = (ROOT / "docs" / "guide.md").read_text()
BLOCKS = re.findall(r"(?ms)^```sh\n(.*?)^```", GUIDE)


def test_every_command_of_the_guide_runs(grpcurl_path, tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    paths = {"JOB": "", "OTHER": ""}
    outputs = []
    with Daemon(roots=[ROOT / "tests" / "golden" / "data" / "models"]) as own:
        env = environment(own.grpc)
        env["PATH"] = f"{CLI.parent}:{Path(grpcurl_path).parent}:{env['PATH']}"
        for block in BLOCKS:
            script = block.replace("127.0.0.1:50051", own.grpc).replace("127.0.0.1:8080", own.http)
            if re.search(r"\bJOB\b", script):
                jobs = json.loads(run(own.grpc, "jobs", "list", "--json")[0])["jobs"]
                paths = dict(zip(("JOB", "OTHER"), (job["job_id"] for job in jobs[-2:]), strict=True))
            for name, job in paths.items():
                script = re.sub(rf"\b{name}\b", job, script)
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=env, capture_output=True,
                                  text=True, timeout=120, check=False)  # fmt: skip
            assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
            outputs.append(done.stdout)
    assert len(outputs) == 6
    for output, words in zip(
        outputs, ("tiny-ioi", "Mary", "succeeded", "ground-truth", "dashboard", "ablate_build_info"), strict=True
    ):
        assert words in output


def test_no_command_of_the_guide_is_outside_of_them():
    """The one other block builds and serves."""
    rest = re.sub(r"(?ms)^```sh\n.*?^```", "", GUIDE)
    others = re.findall(r"(?ms)^```.*?^```", rest)
    assert len(others) == 1 and "ablated --model-root" in others[0]
    assert not re.search(r"(?m)^(    \S|\$ )", rest.replace(others[0], ""))


def test_the_unit_file_starts_what_there_is(tmp_path):
    unit = (ROOT / "deploy" / "ablated.service").read_text()
    settings = dict(re.findall(r"(?m)^(\w+)=(.*)$", unit))
    example = re.search(r"echo '(\{.*\})' >/etc/ablate/ablated.json", unit)[1]
    config = tmp_path / "ablated.json"
    web = tmp_path / "web"
    web.mkdir()
    (web / "index.html").write_text("<!doctype html>")
    config.write_text(example.replace("/usr/local/share/ablate/web", str(web)).replace("/srv/models", str(tmp_path)))
    before = [str(config) if word.endswith(".json") else word for word in shlex.split(settings["ExecStartPre"])[1:]]
    done = subprocess.run([BINARY, *before], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["web-root"] == str(web)
    flags = [str(config) if word.endswith(".json") else word for word in shlex.split(settings["ExecStart"])[2:]]
    assert shlex.split(settings["ExecStart"])[1] == "serve"
    with Daemon(*flags, roots=[]) as own:
        info = json.loads(run(own.grpc, "status", "--json")[0])
        assert info["model_roots"] == [str(tmp_path)] and info["dashboard_built"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_knows_every_word_of_the_unit_file(tmp_path):
    unit = (ROOT / "deploy" / "ablated.service").read_text().replace("/usr/local/bin/ablated", "/bin/true")
    (tmp_path / "ablated.service").write_text(re.sub(r"(?m)^Documentation=.*$", "", unit))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "ablated.service"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert "ablated.service:" not in done.stderr, done.stderr
    assert "Unknown" not in done.stderr, done.stderr


def test_a_daemon_says_what_is_odd_about_its_options(tmp_path):
    with Daemon(roots=[tmp_path / "none"]) as own:
        assert re.search(r'event=model_root_unreadable path=".*/none" problem="No such file or directory"', own.log())
    done = subprocess.run([BINARY, "--listen", "50051"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "ablated: listen: '50051' is no HOST:PORT\n")
