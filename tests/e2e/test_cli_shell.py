# SPDX-License-Identifier: Apache-2.0
"""What surrounds the command line: completion in a shell, the manual page, help by name."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
from daemon import ROOT, Daemon, goldens
from test_cli import CLI, ablate, columns_of, discovered, environment, model, run  # noqa: F401 (fixtures)

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


# --- doctor ---------------------------------------------------------------------------------------


def test_the_examples_of_the_help_are_commands(tmp_path):
    summary = run(NOBODY, "help")[0]
    names = re.findall(r"(?m)^  ([a-z]+(?: [a-z]+)?)(?: [A-Z ]+)?  ", summary)
    (tmp_path / "ioi.json").write_text("[]")
    examples = [re.search(r"(?m)^Example: (.*)$", run(NOBODY, "help", *name.split())[0]) for name in names]
    lines = [found[1] for found in examples if found]
    assert len(names) > 30 and len(lines) > 15
    page = run(NOBODY, "man")[0].replace("\\-", "-").replace("\\(aq", "'")
    for line in lines:
        assert line in page, "the manual has them, too"
        words = shlex.split(re.split(r" \| | >> ", line)[0])
        ended = subprocess.run([CLI, *words[1:]], env=environment(NOBODY), cwd=tmp_path, capture_output=True, text=True,
                               check=False)
        assert ended.returncode in (0, 1, 3), (line, ended.stderr)


def test_doctor_finds_a_healthy_daemon(daemon, ablate):  # noqa: F811
    checks = json.loads(ablate("doctor", "--json")[0])["checks"]
    found = {check["what"]: check for check in checks}
    assert set(found) >= {"client", "daemon", "protocol", "backend", "BLAS", "device", "model root", "hub cache",
                          "models", "resident", "dashboard", "memory"}  # fmt: skip
    assert not [check for check in checks if check["state"] == "fail"]
    assert found["protocol"]["state"] == found["models"]["state"] == "ok"
    assert found["model root"]["words"] == str(goldens() / "models")
    assert re.fullmatch(r"[\d.]+ [GTM]B of [\d.]+ [GTM]B are free.*", found["memory"]["words"])
    out, _ = ablate("doctor")
    assert len(out.splitlines()) == len(checks)


def diagnosis(*flags, **options):
    """What doctor finds of a daemon of its own, and the daemon's rows of `ablate status`."""
    with Daemon(*flags, **options) as bare:
        checks = json.loads(run(bare.grpc, "doctor", "--json")[0])["checks"]
        rows, _ = run(bare.grpc, "status")
    return [(check["what"], check["state"], check["words"]) for check in checks], rows


def test_doctor_names_what_is_missing_and_what_to_do(tmp_path):
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.mkdir()
    found, rows = diagnosis("--http", "off", "--memory-budget-mib", "64", roots=[here, gone])
    assert ("model root", "ok", str(here)) in found
    assert ("model root", "warn", f"{gone} does not exist: put it right, or start ablated with another "
            "--model-root") in found  # fmt: skip
    by_name = {what: (state, words) for what, state, words in found}
    assert by_name["models"][0] == "warn" and "fetch" in by_name["models"][1]
    assert by_name["dashboard"][0] == "warn" and "--http off" in by_name["dashboard"][1]
    assert by_name["memory"][1].endswith("one request may take 67.1 MB")
    assert by_name["hub cache"][0] == "ok", "it need not be there"
    assert re.search(rf"(?m)^model root +{here}$", rows) and re.search(r"(?m)^dashboard +none: --http off$", rows)


def test_doctor_knows_whether_the_dashboard_is_built(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>")
    found, rows = diagnosis("--web-root", str(tmp_path), roots=[])
    by_name = {what: (state, words) for what, state, words in found}
    assert by_name["dashboard"][0] == "ok" and by_name["dashboard"][1].startswith("http://127.0.0.1:")
    assert by_name["model root"][0] == "warn" and "--model-root" in by_name["model root"][1]
    assert re.search(r"(?m)^dashboard +http://[\d.:]+$", rows)
    if not (ROOT / "clients" / "web" / "dist" / "index.html").exists():
        found, rows = diagnosis(roots=[])
        assert [state for what, state, words in found if what == "dashboard" and "make dashboard" in words] == ["warn"]
        assert "(not built: `make dashboard`)" in " ".join(rows.split())


def test_doctor_without_a_daemon_fails_with_3():
    out, _ = run(NOBODY, "doctor", code=3)
    assert re.search(r"(?m)^fail +daemon .*make run", out)
    assert json.loads(run(NOBODY, "doctor", "--json", code=3)[0])["state"] == "fail"


# --- Widths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_command_exceeds_the_width(ablate, discovered, model, ioi_path, width, tmp_path):  # noqa: F811
    job = discovered[0]["created"]["job_id"]
    graph = discovered[0]["created"]["spec"]["graph_id"]
    wide = tmp_path / "\u4f60\u597d\u4e16\u754c-\u6570\u636e\u96c6-\u4f60\u597d\u4e16\u754c-\u6570\u636e\u96c6.json"
    wide.write_text(ioi_path.read_text())
    scores = tmp_path / "scores.json"
    commands = [
        ["models", "list"], ["models", "files"], ["models", "load", "tiny-ioi"], ["models", "show", model],
        ["models", "show", model, "--hooks"], ["models", "show", model, "--parameters"],
        ["tokens", "\u4f60\u597d, a text", "--model", model], ["forward", "a text", "--model", model],
        ["graph", "create", "--model", model, "--seq-len", "2"], ["graph", "list"], ["graph", "show", graph],
        ["graph", "edges", graph, "--top", "20"], ["dataset", "upload", wide], ["dataset", "list"],
        ["caches", "create", "a prefix", "--model", model], ["caches", "list"],
        ["ablations", "create", "--model", model, "--dataset", ioi_path, "--prompts", "4"], ["ablations", "list"],
        ["discover", "--model", model, "--dataset", ioi_path, "--prompts", "4"],
        ["eval", job, "--sizes", "0,10", "--areas"], ["export", job, "--out", scores],
        ["import", scores, "--model", model], ["diff", job, job, "--roc", "10"], ["jobs", "list"], ["jobs", "show", job],
        ["jobs", "watch", job], ["jobs", "cancel", job], ["jobs", "scores", job, "--out", tmp_path / "s"],
        ["status"], ["version"], ["doctor"], ["help"], ["help", "jobs"],
    ]  # fmt: skip
    helps = [["help", *name] for name in sorted({tuple(words[:2]) for words in commands if words[0] in GROUPS})]
    for words in [*commands, *helps, ["help", "discover"], ["help", "eval"]]:
        out, errors = ablate(*words, COLUMNS=str(width))
        for line in (out + errors).splitlines():
            assert columns_of(line) <= width, (words, line)
        assert out.strip() or errors.strip(), words


GROUPS = {"models", "graph", "dataset", "caches", "ablations", "jobs"}
