# SPDX-License-Identifier: Apache-2.0
"""What surrounds the command line: completion in a shell, the manual page, help by name."""

import re
import shutil
import subprocess

import pytest
from test_cli import CLI, ablate, discovered, environment, model, run  # noqa: F401 (fixtures)

NOBODY = "127.0.0.1:1"


def completed(host, line, cwd):
    """The words that bash offers at the end of the line, by the script that `ablate` prints."""
    script = f"""
        source <('{CLI}' completion bash) || exit 9
        COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _ablate && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{CLI.parent}:/usr/bin:/bin"
    done = subprocess.run(["bash", "-c", script], env=environment(host, PATH=path), cwd=cwd,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split()


def test_bash_completes_verbs_options_choices_and_files(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    assert completed(NOBODY, "ablate dis", tmp_path) == ["discover"]
    assert set(completed(NOBODY, "ablate jobs ''", tmp_path)) >= {"list", "watch", "cancel"}
    assert completed(NOBODY, "ablate discover --alg", tmp_path) == ["--algorithm"]
    assert completed(NOBODY, "ablate discover --algorithm = eap-", tmp_path) == ["eap-ig"]
    assert completed(NOBODY, "ablate import sc", tmp_path) == ["scores.json"]


def test_bash_completes_ids_from_the_daemon(daemon, discovered, model, tmp_path):  # noqa: F811
    job = discovered[0]["created"]["job_id"]
    assert job in completed(daemon.grpc, "ablate jobs show ''", tmp_path)
    assert job in completed(daemon.grpc, "ablate diff x ''", tmp_path)
    assert model in completed(daemon.grpc, "ablate tokens --model ''", tmp_path)
    assert "tiny-ioi" in completed(daemon.grpc, "ablate models load ''", tmp_path)
    assert completed(NOBODY, f"ablate jobs show --host {daemon.grpc} {job}", tmp_path) == [job]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_the_shells_own_language(shell, tmp_path):
    script, _ = run(NOBODY, "completion", shell)
    assert "__complete" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine; its script is only printed")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_the_manual_page_is_written_by_the_build_and_has_every_command():
    page, _ = run(NOBODY, "man")
    assert (CLI.parent / "ablate.1").read_text() == page
    out, _ = run(NOBODY, "help", COLUMNS="1000")
    listed = out.split("\n\n")[1].splitlines()
    assert len(listed) > 30
    for line in listed:
        name = re.match(r"  ([a-z]+( [a-z]+)?)", line)[1]
        assert f"\\fBablate {name}\\fR" in page, line
    if shutil.which("man") is None:
        pytest.skip("man is not on this machine; the page is compared, but not formatted")
    shown = subprocess.run(["man", "--warnings", "-l", CLI.parent / "ablate.1"], capture_output=True,
                           text=True, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
                           check=True)  # fmt: skip
    assert shown.stderr == "" and "EXIT STATUS" in shown.stdout


def test_help_takes_a_command_or_a_group():
    assert run(NOBODY, "help", "discover")[0] == run(NOBODY, "discover", "--help")[0]
    assert run(NOBODY, "help", "jobs", "watch")[0] == run(NOBODY, "jobs", "watch", "--help")[0]
    out, _ = run(NOBODY, "help", "jobs")
    assert "jobs cancel" in out and "models" not in out
    _, errors = run(NOBODY, "help", "frobnicate", code=2)
    assert "no command 'frobnicate'" in errors
