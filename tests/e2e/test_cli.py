# SPDX-License-Identifier: Apache-2.0
"""The command line against a real daemon: what it prints, what it returns, what it does on Ctrl-C."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import unicodedata

import numpy as np
import pytest
from daemon import BUILD, Daemon

CLI = BUILD / "bin" / "ablate"


def environment(host, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ABLATE_")}
    clean.pop("COLUMNS", None)
    return {**clean, "ABLATE_HOST": host, "LC_ALL": "C.UTF-8", **more}


def run(host, *words, code=0, **more):
    """Runs `ablate` with these words, insists on its exit code, returns (output, errors)."""
    done = subprocess.run(
        [CLI, *map(str, words)], capture_output=True, text=True, env=environment(host, **more),
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def ablate(daemon, tiny):
    """`ablate` with the daemon's address, and tiny-ioi resident."""
    return lambda *words, **more: run(daemon.grpc, *words, **more)


@pytest.fixture
def model(tiny):
    return tiny.id


def columns_of(line):
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in line
    )


def documents(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def discovered(ablate, model, ioi_path):
    """The events of one discovery, as JSON."""
    out, _ = ablate(
        "discover", "--model", model, "--dataset", ioi_path, "--prompts", 8, "--batch-size", 4,
        "--json",
    )
    return documents(out)


# --- Without a daemon -----------------------------------------------------------------------------


def test_help_lists_every_command_and_needs_no_daemon():
    out, _ = run("127.0.0.1:1", "help")
    for command in ("models load", "tokens", "forward", "graph edges", "discover", "eval",
                    "jobs watch", "status", "version"):
        assert command in out
    out, _ = run("127.0.0.1:1", "discover", "--help")
    assert "--algorithm" in out and "--dataset" in out


def test_no_daemon_is_exit_code_3_and_says_what_to_do():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = "127.0.0.1:%d" % unused.getsockname()[1]
        _, errors = run(host, "status", code=3)
        assert host in errors and "make run" in " ".join(errors.split())
        _, errors = run(host, "--json", "status", code=3)
        assert json.loads(errors)["error"]["code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "no command 'frobnicate'"),
        (["models", "lode"], "models load"),
        (["models", "load"], "exactly one NAME"),
        (["status", "extra"], "options only"),
        (["status", "--nonsense"], "no option '--nonsense'"),
        (["discover"], "--dataset"),
        (["discover", "--algorithm", "guess"], "eap|mask-gradient|ground-truth|random"),
        (["discover", "--batch-size", "many"], "whole number"),
        (["eval", "job", "--sizes", "1,two"], "two"),
        (["eval", "job", "--metrics", "taste"], "kl-div"),
        (["forward", "hi", "--corrupt", "ho"], "--graph"),
        (["discove"], "is 'discover' meant?"),
        (["model", "list"], "is 'models' meant?"),
        (["frobnicate"], "'frobnicate'; `ablate help` lists them"),
        (["diff", "job"], "exactly two: JOB JOB, not 1"),
        (["discover", "-d", "x", "--tau", "0.1"], "--tau does nothing with --algorithm eap: it is for acdc"),
        (["discover", "-d", "x", "-a", "random", "--seed", "1", "--steps", "3"], "is for eap-ig"),
        (["discover", "-d", "x", "-a", "mask-gradient", "--ig", "3", "--mask-value", "1"], "give one"),
        (["discover", "-d", "x", "--graph", "g", "--simple"], "--simple is for a graph that is made anew"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_fault(words, said):
    out, errors = run("127.0.0.1:1", *words, code=2)
    assert out == ""
    assert said in " ".join(errors.split())


@pytest.mark.parametrize(
    ("path", "said"),
    [("{}", "Is a directory"), ("{}/no/scores.safetensors", "No such file"), ("{}/" + "n" * 300, "too long")],
)
def test_a_file_that_cannot_be_written_is_said_before_the_work(tmp_path, path, said):
    place = path.format(tmp_path)
    _, errors = run("127.0.0.1:1", "discover", "-d", "x", "--out", place, code=1)
    assert said in " ".join(errors.split()) and "reach" not in errors
    _, errors = run("127.0.0.1:1", "export", "job", "--out", place, code=1)
    assert said in " ".join(errors.split())
    assert not list(tmp_path.iterdir())


# --- Models, tokens, forward ----------------------------------------------------------------------


def test_models_are_listed_loaded_shown_and_unloaded(ablate, model):
    out, _ = ablate("models", "files")
    assert "tiny-ioi" in out
    out, _ = ablate("models", "load", "tiny-ioi", "--mode", "tl", "--json")
    loaded = json.loads(out)["model"]
    assert loaded["processing"]["fold_ln"] is True
    out, _ = ablate("models", "show", loaded["model_id"])
    assert re.search(r"weights +tl", out) and loaded["hash"] in out
    out, _ = ablate("models", "show", model, "--hooks")
    assert "blocks.0.attn.hook_z" in out
    out, _ = ablate("models", "show", model, "--parameters")
    assert re.search(r"blocks\.0\.attn\.W_Q +\[\d+, \d+, \d+\]", out)
    out, _ = ablate("models", "show", model)
    assert re.search(r"attention +causal", out) and re.search(r"n_params +\d+", out)
    out, _ = ablate("models", "list", "--json")
    assert model in [m["model_id"] for m in json.loads(out)["models"]]


def test_the_shares_of_a_sweep_are_its_sizes_no_more_and_no_less(ablate, discovered, ioi_path):
    job = discovered[0]["created"]["job_id"]

    def sizes(asked, *options):
        out, _ = ablate("eval", job, "--sizes", asked, "--metrics", "answer-diff", "--json", *options)
        return [row["edge_count"] for row in documents(out) if "values" in row]

    assert sizes("0.1,1.0") == [151, 1519]
    assert sizes("0,10,1.0") == [0, 10, 1519]
    assert sizes("0.5", "--dataset", ioi_path, "--prompts", 2) == [759]
    _, errors = ablate("eval", job, "--sizes", "0,10,all", code=2)
    assert "'all' stands alone" in errors and "1.0" in errors


def test_a_mistake_leaves_nothing_behind(ablate, model, tmp_path):
    def graphs():
        return len(json.loads(ablate("graph", "list", "--json")[0])["graphs"])

    before = graphs()
    (tmp_path / "bad.json").write_text("# no dataset")
    of_new = ("--model", model, "--merge-qkv", "--seq-len", 5)
    _, errors = ablate("discover", "--dataset", tmp_path / "bad.json", *of_new, code=1)
    assert "DATASET_MALFORMED" in errors
    for file in ("bad.json", "no.json", "no.safetensors"):
        ablate("import", tmp_path / file.replace("bad.json", "bad.scores"), *of_new, code=1)
    assert graphs() == before


def test_edges_that_are_not_there_are_said(ablate, model, ioi_path):
    graph = json.loads(ablate("graph", "create", "--model", model, "--json")[0])["graph"]["graph_id"]
    out, errors = ablate("graph", "edges", graph, "--from", "A1.1", "--to", "MLP 0")
    assert "no edge" in out + errors
    assert "position" not in out
    ablate("graph", "delete", graph)


def test_a_model_goes_by_its_name_too():
    name = "tiny-rand"
    with Daemon() as own:
        def load(*options):
            return json.loads(run(own.grpc, "models", "load", name, "--json", *options)[0])["model"]["model_id"]

        first = load()
        for words in (["models", "show", name], ["graph", "list", "--model", name],
                      ["caches", "list", "--model", name]):
            by_id = [first if word == name else word for word in words]
            assert run(own.grpc, *words) == run(own.grpc, *by_id)
        second = load("--mode", "tl")
        _, errors = run(own.grpc, "models", "unload", name, code=2)
        assert "2 resident models are called 'tiny-rand'" in " ".join(errors.split())
        run(own.grpc, "models", "unload", second)
        run(own.grpc, "models", "unload", name)
        assert first not in run(own.grpc, "models", "list")[0]


def test_lists_say_whose_jobs_and_graphs_are(ablate, daemon, model, ioi_path):
    words = ["discover", "--model", model, "--dataset", ioi_path, "--prompts", 2, "--seq-len", 16, "--json"]
    events = documents(ablate(*words, ABLATE_USER="ada@lab")[0])
    job = events[0]["created"]
    assert job["owner"] == "ada@lab"
    row = next(line for line in ablate("jobs", "list")[0].splitlines() if line.startswith(job["job_id"]))
    assert "ada@lab" in row
    graph = json.loads(ablate("graph", "show", job["spec"]["graph_id"], "--json")[0])["graph"]
    assert graph["owner"] == "ada@lab"
    ablate("graph", "delete", graph["graph_id"])
    log = daemon.log()
    assert re.search(rf"event=job_submitted id={job['job_id']} algorithm=eap .*client=\"ada@lab\"", log)
    assert re.search(rf"event=job_ended id={job['job_id']} state=succeeded", log)


def test_an_unknown_model_is_exit_code_1_with_reason_and_hint(ablate):
    _, errors = ablate("models", "load", "no-such-model", code=1)
    assert "no-such-model" in errors and "MODEL_NOT_FOUND" in errors and "models files" in errors
    _, errors = ablate("models", "load", "no-such-model", "--json", code=1)
    assert json.loads(errors)["error"]["reason"] == "MODEL_NOT_FOUND"


def test_tokens_agree_with_the_client(ablate, tiny, model):
    text = "When John and Mary went"
    out, _ = ablate("tokens", text, "--model", model, "--json")
    assert json.loads(out)["ids"] == list(np.ravel(tiny.to_tokens(text)))
    out, _ = ablate("tokens", text, "--model", model, "--bos", "none")
    assert out.splitlines()[0].split() == ["position", "id", "token"]


def test_forward_shows_the_likeliest_tokens(ablate, tiny, model):
    text = "When John and Mary went to the store, John gave a drink to"
    out, _ = ablate("forward", text, "--model", model, "--top", 3, "--json")
    top = json.loads(out)["top"][0]["tokens"]
    logits = np.asarray(tiny.forward(text)).reshape(-1, tiny.cfg.d_vocab)[-1]
    assert [t["id"] for t in top] == list(np.argsort(-logits)[:3])
    np.testing.assert_allclose([t["logit"] for t in top], np.sort(logits)[::-1][:3], rtol=1e-5)
    out, _ = ablate("forward", text, "--model", model, "--top", 3)
    assert len(out.splitlines()) == 4 and "%" in out


def test_forward_is_intervened_in(ablate, tiny, model):
    text = "When John and Mary went to the store, John gave a drink to"
    words = "blocks.0.attn.hook_z zero heads=1,6; blocks.1.mlp.hook_out scale 0.5 pos=-1 ;ln_final.hook_scale clamp 0 9.5"
    hooks = [
        ("blocks.0.attn.hook_z", {"op": "zero", "heads": [1, 6]}),
        ("blocks.1.hook_mlp_out", {"op": "scale", "factor": 0.5, "pos": -1}),
        ("ln_final.hook_scale", {"op": "clamp", "min": 0, "max": 9.5}),
    ]
    out, _ = ablate("forward", text, "--model", model, "--top", 2, "--json", "--intervene", words)
    logits = np.asarray(tiny.run_with_hooks(text, hooks, slice_output="last_seq"))[0]
    top = json.loads(out)["top"][0]["tokens"]
    np.testing.assert_allclose([t["logit"] for t in top], np.sort(logits)[::-1][:2], rtol=1e-4)
    for wrong in ("blocks.0.attn.hook_z", "blocks.0.attn.hook_z set 1", "p scale", "p zero head=1", "p zero heads=a", ";"):
        _, err = ablate("forward", text, "--model", model, "--intervene", wrong, code=2)
        assert "--intervene" in err
    _, err = ablate("forward", text, "--model", model, "--intervene", "blocks.0.nothing zero", code=1)
    assert "interventions[0]" in err


def test_jobs_and_sweeps_are_intervened_in(ablate, client, tiny, model, ioi):
    z, words = "blocks.0.attn.hook_z", "blocks.0.attn.hook_z zero heads=1; blocks.1.hook_resid_pre scale 0.5"
    shared = tiny.graph()  # one that discover could share, but for its hook
    shared.add_hook(z, "zero")
    common = ("--model", model, "--dataset", ioi.id, "--batch-size", 4, "--prompts", 6, "--json")
    out, _ = ablate("discover", *common, "--intervene", words)
    created = documents(out)[0]["created"]
    job = client.job(created["job_id"])
    assert created["spec"]["graph_id"] != shared.id
    assert [hook["operation"] for hook in json.loads(job.provenance.hooks_json)] == ["zero", "scale"]
    options = ("--sizes", 40, "--metrics", "answer-diff", "--batch-size", 4, "--prompts", 6)
    out, _ = ablate("eval", job.id, *options, "--intervene", words, "--json")
    hooks = [(z, {"op": "zero", "heads": [1]}), ("blocks.1.hook_resid_pre", {"op": "scale", "factor": 0.5})]
    want = client.evaluate(
        job, [40], ["answer_diff"], fwd_hooks=hooks, batch_size=4, prompt_count=6, progress=False
    )
    assert documents(out)[-1]["values"][0]["value"] == pytest.approx(want[0]["answer_diff"], abs=1e-6)
    for command in (("discover", *common), ("eval", job.id)):
        _, err = ablate(*command, "--intervene", f"{z} nothing", code=2)
        assert "--intervene" in err
    shared.delete()


# --- Graphs, datasets -----------------------------------------------------------------------------


def test_a_graph_lives_and_its_edges_are_listed(ablate, model):
    out, _ = ablate("graph", "create", "--model", model, "--idle-timeout", "600", "--json")
    graph = json.loads(out)["graph"]
    assert int(graph["idle_timeout_ms"]) == 600_000
    out, _ = ablate("graph", "list")
    assert graph["graph_id"] in out
    out, _ = ablate("graph", "edges", graph["graph_id"], "--json")
    edges = documents(out)
    assert [edge["index"] for edge in edges] == list(range(int(graph["edge_count"])))
    out, _ = ablate("graph", "edges", graph["graph_id"], "--to", "Resid End", "--dialect", "eap")
    assert "input->logits" in out
    _, errors = ablate("graph", "edges", graph["graph_id"], "--from", "A99.0", code=1)
    assert "A99.0" in errors
    out, _ = ablate("graph", "show", graph["graph_id"])
    assert "blocks.0.hook_q_input" in out
    ablate("graph", "delete", graph["graph_id"])
    _, errors = ablate("graph", "show", graph["graph_id"], code=1)
    assert "GRAPH_UNKNOWN" in errors


def test_a_dataset_is_uploaded_listed_and_deleted(ablate, tmp_path):
    prompts = [{"clean": "a b", "corrupt": "a c", "answers": ["d"], "wrong_answers": ["e"]}]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"prompts": prompts}))
    out, _ = ablate("dataset", "upload", path, "--json")
    dataset = json.loads(out)["dataset"]
    assert dataset["name"] == "mine.json" and dataset["prompt_count"] == 1
    out, _ = ablate("dataset", "list")
    assert "mine.json" in out
    ablate("dataset", "delete", dataset["dataset_id"])
    path.write_text("not JSON")
    _, errors = ablate("dataset", "upload", path, code=1)
    assert "DATASET_MALFORMED" in errors
    _, errors = ablate("dataset", "upload", tmp_path / "absent.json", code=1)
    assert "absent.json" in errors


# --- Discovery ------------------------------------------------------------------------------------


def test_discover_streams_created_events_and_ended(discovered):
    assert list(discovered[0]) == ["created"]
    assert list(discovered[-1]) == ["ended"]
    events = [part["event"] for part in discovered if "event" in part]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert discovered[-1]["ended"]["state"] == "JOB_STATE_SUCCEEDED"
    top = [event["top_edges"] for event in events if event["top_edges"]][-1]
    values = [abs(edge["value"]) for edge in top]
    assert len(top) == 10 and values == sorted(values, reverse=True)


def test_discover_by_acdc_keeps_infinite_scores(ablate, model, ioi_path, tmp_path):
    saved = tmp_path / "scores.safetensors"
    options = ["discover", "--model", model, "--dataset", ioi_path, "--prompts", 4, "--batch-size", 4,
               "--algorithm", "acdc", "--tau", "0.01,0.1", "--top", 5]
    out, errors = ablate(*options, "--out", saved)
    assert "+inf" in out.splitlines()[1] and "acdc" in errors
    job = re.search(r"job-\w+", errors)[0]
    taus = [line.split() for line in out[out.index("tau") :].splitlines()[1:3]]
    assert [tau for tau, *_ in taus] == ["0.01", "0.1"]
    assert all(int(kept) + int(removed) == 1519 for _, kept, removed, _ in taus)
    assert out[out.index(" tau") :].split("\n\n")[0] in ablate("jobs", "show", job)[0]
    rows = documents(ablate("eval", job, "--sizes", "groups", "--metrics", "kl-div", "--json")[0])
    assert {int(kept) for _, kept, *_ in taus} <= {row["edge_count"] for row in rows}, "the circuits of each tau"
    raw = saved.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    values = np.frombuffer(raw[8 + length :], "<f4")
    assert {float(v) for v in np.unique(values)} == {float(np.float32(0.01)), float(np.float32(0.1)), float("inf")}
    out, _ = ablate(*options, "--json")
    parts = documents(out)
    assert parts[-1]["ended"]["acdc"][1]["removed_edges"] > 0
    top = [part["event"]["top_edges"] for part in parts if part.get("event", {}).get("top_edges")][-1]
    assert top[0]["value"] == "Infinity"
    _, errors = ablate(*options, "--tau", "0.1,0.01", code=1)
    assert "TAUS_INVALID" in errors
    _, errors = ablate(*options, "--tau", "small", code=2)
    assert "--tau takes up to 256 numbers" in errors
    _, errors = ablate(*options, "--target", "answer", code=2)
    assert "answer-diff" in errors


def test_discover_trains_masks_and_streams_the_curve(ablate, model, ioi_path):
    options = ["discover", "--model", model, "--dataset", ioi_path, "--prompts", 8, "--batch-size", 4,
               "--epochs", 3, "--tree", "--lambda", "0.5", "--mask-fn", "sigmoid"]
    out, _ = ablate(*options, "--algorithm", "subnetwork-probing", "--json")
    parts = documents(out)
    spec = parts[0]["created"]["spec"]["subnetwork_probing"]
    assert spec["epochs"] == 3 and spec["tree_optimisation"] is True
    assert spec["mask_function"] == "MASK_FUNCTION_SIGMOID" and spec["regularize_lambda"] == 0.5
    curve = [point for part in parts for point in part.get("event", {}).get("training", [])]
    assert [point["epoch"] for point in curve] == [0, 0, 1, 1, 2, 2]
    assert curve[-1]["regularization"] < curve[0]["regularization"]
    out, errors = ablate(*options, "--algorithm", "circuit-probing", "--sizes", "50,10", "--top", 3)
    assert "+2" in out and "circuit-probing" in errors
    _, errors = ablate(*options, "--algorithm", "circuit-probing", "--sizes", "ten", code=2)
    assert "--sizes takes" in errors
    _, errors = ablate(*options, "--algorithm", "circuit-probing", code=1)
    assert "circuit_sizes" in errors


def test_discover_prints_the_top_edges_and_saves_all_scores(ablate, model, ioi_path, tmp_path):
    saved = tmp_path / "scores.safetensors"
    out, errors = ablate(
        "discover", "--model", model, "--dataset", ioi_path, "--prompts", 8, "--top", 5,
        "--algorithm", "mask-gradient", "--ig", 2, "--out", saved,
    )
    assert out.splitlines()[0].split() == ["rank", "edge", "score"]
    assert re.search(r"^ +5  \S.*->", out, re.MULTILINE)
    assert "ablate eval" in out and "mask-gradient" in errors
    raw = saved.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert "blocks.0.hook_q_input" in header
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert max(ends) == len(raw) - 8 - length


@pytest.mark.parametrize(
    "algorithm",
    ["eap", "mask-gradient", "ground-truth", "random", "activation-magnitude", "eap_ig"],
)
def test_every_algorithm_runs(ablate, model, ioi_path, algorithm):
    more = ["--edges", "MLP 0->Resid End,Resid Start->MLP 0"] if algorithm == "ground-truth" else []
    out, _ = ablate(
        "discover", "--model", model, "--dataset", ioi_path, "--prompts", 4, "--batch-size", 4,
        "--algorithm", algorithm, "--json", *more,
    )
    assert documents(out)[-1]["ended"]["state"] == "JOB_STATE_SUCCEEDED"


def test_eval_prints_a_row_a_circuit(ablate, discovered):
    job = discovered[0]["created"]["job_id"]
    out, _ = ablate("eval", job, "--sizes", "0,10,100")
    lines = out.splitlines()
    assert len(lines) == 4 and "KL divergence" in lines[0] and "accuracy" in lines[0]
    out, _ = ablate("eval", job, "--sizes", "0,10", "--metrics", "kl-div", "--json")
    rows = documents(out)
    assert [row["done_count"] for row in rows] == [1, 2]
    assert [len(row["values"]) for row in rows] == [1, 1]


def test_jobs_are_listed_shown_watched_and_saved(ablate, discovered, tmp_path):
    job = discovered[0]["created"]["job_id"]
    out, _ = ablate("jobs", "list")
    assert job in out
    out, _ = ablate("jobs", "show", job)
    assert re.search(r"state +succeeded", out)
    out, _ = ablate("jobs", "watch", job, "--json")
    assert documents(out)[0]["event"]["sequence"] == 1
    out, _ = ablate("jobs", "watch", job, "--json", "--after", 1)
    assert documents(out)[0]["event"]["sequence"] == 2
    out, _ = ablate("jobs", "cancel", job)
    assert "has ended: succeeded" in out
    ablate("jobs", "scores", job, "--out", tmp_path / "again.safetensors")
    _, errors = ablate("jobs", "show", "job-that-is-not", code=1)
    assert "JOB_UNKNOWN" in errors


def test_an_unequal_dataset_fails_with_the_servers_words(ablate, model, tmp_path):
    prompts = [
        {"clean": "one", "corrupt": "one two three", "answers": [" a"], "wrong_answers": [" b"]}
    ]
    path = tmp_path / "unequal.json"
    path.write_text(json.dumps({"prompts": prompts}))
    _, errors = ablate("discover", "--model", model, "--dataset", path, code=1)
    assert "[" in errors and "error: " in errors


# --- Ctrl-C ---------------------------------------------------------------------------------------


def start_long(daemon, model, ioi_path):
    """A discovery that lasts, and the id of its job, once it runs."""
    words = ["discover", "--model", model, "--dataset", ioi_path, "--algorithm", "mask-gradient",
             "--ig", "1000", "--batch-size", "1", "--json"]
    process = subprocess.Popen(
        [CLI, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(daemon.grpc),
    )
    job = json.loads(process.stdout.readline())["created"]["job_id"]
    while json.loads(process.stdout.readline())["event"]["done_units"] == 0:
        pass
    return process, job


def test_ctrl_c_cancels_the_job_on_the_server(ablate, daemon, model, ioi_path):
    process, job = start_long(daemon, model, ioi_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{job} is cancelled on the server" in json.loads(errors)["error"]["message"]
    out, _ = ablate("jobs", "watch", job, "--json", code=1)
    assert documents(out)[-1]["event"]["state"] == "JOB_STATE_CANCELLED"


def test_ctrl_c_while_watching_leaves_the_job_running(ablate, daemon, long_job):
    process = subprocess.Popen(
        [CLI, "jobs", "watch", long_job.id], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(daemon.grpc),
    )
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on" in out
    assert long_job.refresh().state == "running"


def test_a_timeout_ends_a_call_that_lasts(ablate, long_job):
    _, errors = ablate("jobs", "watch", long_job.id, "--timeout", "0.5", code=1)
    assert "--timeout" in errors


# --- The terminal ---------------------------------------------------------------------------------


def in_terminal(host, *words, width, **more):
    """Runs `ablate` on a pseudo-terminal; returns (exit code, all that it wrote)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(CLI, [str(CLI), *map(str, words)],
                  environment(host, COLUMNS=str(width), TERM="xterm", **more))
    written = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        written += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def lines_on_screen(written):
    """What stood on each line, escape sequences removed."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", written))


@pytest.mark.parametrize("width", [20, 40, 79])
def test_nothing_exceeds_the_terminals_width(daemon, model, ioi_path, width):
    for words in (
        ["help"],
        ["models", "show", model, "--hooks"],
        ["models", "show", model, "--parameters"],
        ["status"],
        ["jobs", "show", "no-such-job"],
        ["discover", "--model", model, "--dataset", ioi_path, "--prompts", "8", "--batch-size", "2"],
    ):
        _, written = in_terminal(daemon.grpc, *words, width=width)
        for line in lines_on_screen(written):
            assert columns_of(line) <= width, (words, line)


def test_a_terminal_gets_a_bar_and_colours_unless_no_color(daemon, model, ioi_path):
    words = ["discover", "--model", model, "--dataset", ioi_path, "--prompts", "8", "--batch-size", "2"]
    code, written = in_terminal(daemon.grpc, *words, width=100)
    assert code == 0 and "\x1b[K" in written and "█" in written and "\x1b[1m" in written
    code, written = in_terminal(daemon.grpc, *words, width=100, NO_COLOR="1")
    assert code == 0 and not re.search(r"\x1b\[[0-9;]*m", written)


def test_a_pipe_gets_plain_lines(ablate, model, ioi_path):
    out, errors = ablate("discover", "--model", model, "--dataset", ioi_path, "--prompts", 4)
    assert "\x1b" not in out + errors and "\r" not in out + errors


def test_status_and_version_describe_the_daemon(ablate):
    out, _ = ablate("status")
    assert "serving" in out and "weights" in out and "BLAS" in out
    status = json.loads(ablate("status", "--json")[0])
    assert status["protocol"] == "ablate.v1"
    assert status["instance_id"] in out, out
    out, _ = ablate("version")
    assert "ablated" in out


def test_a_token_file_that_is_not_there_is_named(ablate, tmp_path):
    _, errors = ablate("status", "--token-file", tmp_path / "none", code=1)
    assert "none" in errors


def test_scores_go_to_files_of_other_tools_and_back(ablate, discovered, tmp_path, tiny, ioi_path):
    job = discovered[0]["created"]["job_id"]
    for name in ("scores.safetensors", "graph.json"):
        ablate("export", job, "--out", tmp_path / name)
        out, _ = ablate("import", tmp_path / name, "--model", tiny.id, "--json")
        imported = json.loads(out)["job"]
        assert imported["spec"]["uploaded"] == {"origin": name}
        assert imported["state"] == "JOB_STATE_SUCCEEDED"
        out, _ = ablate("diff", job, imported["job_id"], "--json")
        compared = json.loads(out)
        assert compared["pearson"] == pytest.approx(1) and compared["spearman"] == pytest.approx(1)
        assert all(overlap["jaccard"] == 1 for overlap in compared["overlaps"][1:])
        out, _ = ablate("eval", imported["job_id"], "--dataset", _id(ablate, ioi_path), "--sizes", "0,10",
                        "--prompts", 4)  # fmt: skip
        assert len(out.splitlines()) == 3
    out, _ = ablate("diff", job, job)
    assert "rank correlation" in out and "Jaccard" in out
    roc = json.loads(ablate("diff", job, job, "--roc", 50, "--json")[0])["roc"]
    assert roc["area"] == pytest.approx(1) and roc["reference_edge_count"] >= 50
    assert roc["points"][-1] == {"false_positive_rate": 1, "true_positive_rate": 1}
    out, _ = ablate("diff", job, job, "--roc", 50)
    assert "area 1.0000" in out and "true positives" in out
    graph = json.loads((tmp_path / "graph.json").read_text())
    assert graph["cfg"] == {"n_layers": 4, "n_heads": 8, "parallel_attn_mlp": False, "d_model": 128}
    assert len(graph["edges"]) == 1519 and set(graph["nodes"]) >= {"input", "m0", "a3.h7", "logits"}


def _id(ablate, path):
    return json.loads(ablate("dataset", "upload", path, "--json")[0])["dataset"]["dataset_id"]


def test_devices_are_written_to_not_replaced(ablate, discovered, tmp_path):
    job = discovered[0]["created"]["job_id"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        ablate("export", job, "--out", pipe)
        written, _ = reader.communicate(timeout=20)
    ablate("export", job, "--out", tmp_path / "plain")
    assert written == (tmp_path / "plain").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pipe", "plain"]
    _, errors = ablate("export", job, "--out", "/dev/full", code=1)
    assert "No space left" in errors


def test_files_that_do_not_fit_are_refused(ablate, discovered, tmp_path, tiny):
    job = discovered[0]["created"]["job_id"]
    ablate("export", job, "--out", tmp_path / "graph.json")
    graph = json.loads((tmp_path / "graph.json").read_text())
    other = {**graph, "cfg": {**graph["cfg"], "n_heads": 12, "d_model": 768}}
    strange = {**graph, "edges": {"a9.h9->logits": {"score": 1, "in_graph": True}}}
    files = {
        "other.json": (json.dumps(other), "n_heads is 12 there and 8 here, d_model is 768 there and 128 here"),
        "strange.json": (json.dumps(strange), "a9.h9"),
        "half.json": ("{", "cannot read"),
        "less.json": ('{"cfg": {}}', "no graph file of EAP-IG"),
        "text.safetensors": ("no tensors at all", "no safetensors file"),
        "empty.safetensors": ("", "no safetensors file"),
        "short.safetensors": ("\x40" + "\0" * 7 + "{}", "ends inside its header"),
    }
    for name, (text, words) in files.items():
        (tmp_path / name).write_text(text)
        _, errors = ablate("import", tmp_path / name, "--model", tiny.id, code=1, COLUMNS="1000")
        assert words in errors, errors
    ablate("import", tmp_path / "not-there.json", "--model", tiny.id, code=1)
    ablate("export", job, code=2)


def test_eval_has_every_metric_and_the_areas(ablate, discovered):
    job = discovered[0]["created"]["job_id"]
    out, _ = ablate("eval", job, "--sizes", "0,10,1519", "--metrics", "kl_div,answer-prob,mse", "--areas",
                    "--signed")  # fmt: skip
    table, areas = out.split("\n\n")
    assert len(table.splitlines()) == 4 and "ANSWER_PROB" in table
    assert areas.splitlines()[0].split() == ["area", "of", "AUC", "linear", "plain", "CPR", "CMD"]
    assert len(areas.splitlines()) == 4
    ablate("eval", job, "--metrics", "nonsense", code=2)
    out, _ = ablate("eval", job, "--sizes", "0,10,1519", "--metrics", "answer-diff", "--json")
    assert set(documents(out)[-1]["areas"][0]) >= {"metric", "auc", "cpr", "cmd"}


# --- --watch --------------------------------------------------------------------------------------


@contextlib.contextmanager
def watching(host, *words):
    command = [CLI, *words, "--watch", "--interval", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment(host))  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process):
    """Ctrl-C; what else it had written."""
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""
    return out


def read_until(stream, pattern):
    """Lines up to and with the one that matches."""
    lines = []
    for line in stream:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"no line has {pattern}: {lines}")


def test_a_watch_in_a_pipe_prints_a_line_a_change(daemon, long_job):
    with watching(daemon.grpc, "jobs") as process:
        read_until(process.stdout, rf"^\d\d:\d\d:\d\d  {long_job.id} .*running")
        long_job.cancel()
        read_until(process.stdout, rf"{long_job.id} .*cancelled")
        assert "cancelled" not in end(process)


def test_a_watch_with_json_prints_a_document_a_change(daemon, graph, tiny):
    with watching(daemon.grpc, "status", "--json") as process:
        before = json.loads(process.stdout.readline())
        made = tiny.graph(seq_len=3)
        after = json.loads(process.stdout.readline())
        assert after["graph_count"] == before["graph_count"] + 1
        made.delete()
        assert json.loads(process.stdout.readline())["graph_count"] == before["graph_count"]
        assert end(process) == ""


def test_a_watch_outlives_the_daemon_and_says_so():
    with contextlib.ExitStack() as stack:
        with Daemon() as first:
            process = stack.enter_context(watching(first.grpc, "status"))
            read_until(process.stdout, "state  serving")
        read_until(process.stderr, f"no answer from {first.grpc} since")
        with Daemon("--listen", first.grpc):
            read_until(process.stdout, "dashboard")  # its HTTP port is another one
            assert end(process) == ""


def test_a_first_look_that_fails_is_an_error_as_any_other():
    run("127.0.0.1:1", "status", "--watch", code=3)
    run("127.0.0.1:1", "status", "--watch", "--interval", "0", code=2)


def test_a_watch_on_a_terminal_redraws_in_place(daemon, tiny):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(CLI, [str(CLI), "status", "-w", "--interval", "0.1"],
                  environment(daemon.grpc, COLUMNS="40", LINES="30", TERM="xterm"))  # fmt: skip
    written = b""
    while written.count(b"\x1b[J") < 3:
        written += os.read(terminal, 65536)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(terminal)
    drawings = written.decode().split("\x1b[J")
    lines = drawings[1].count("\n")
    assert drawings[1].lstrip("\r").startswith(f"\x1b[{lines}A") and "Ctrl-C ends" in drawings[1]
    for line in lines_on_screen(drawings[0] + drawings[1]):
        assert columns_of(line) <= 40, line
    assert "serving" in drawings[0] and "up for" in drawings[0]


def test_eval_draws_its_first_metric_where_the_width_is_known(ablate, discovered):
    job = discovered[0]["created"]["job_id"]
    words = ["eval", job, "--sizes", "0,1519", "--metrics", "correct-percent,kl-div"]
    title, *rows = ablate(*words, COLUMNS="70")[0].splitlines()
    assert title.endswith("accuracy") and title.count("accuracy") == 2
    shares = [float(row.split()[1].rstrip("%")) / 100 for row in rows]
    assert [row.count("█") for row in rows] == [int(share * 24) for share in shares]
    assert "█" not in ablate(*words)[0] and "█" not in ablate(*words, COLUMNS="30")[0]
