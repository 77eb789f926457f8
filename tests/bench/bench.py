# SPDX-License-Identifier: Apache-2.0
"""`make bench`: Ablate beside the tools it is meant to be faster than, on the same weights.

Both sides run in turns within one run, because a shared machine drifts: only ratios of what was
measured together mean something. Of each, the fastest repetition counts. Both write down what they
computed, and numbers that do not agree fail the bench; a goal that is missed is reported as missed.

    make bench                       everything (several minutes)
    tests/bench/bench.py --only eap  one row; --quick: few repetitions; --json FILE: for machines

The peers get a virtual environment of their own, build/bench-venv, made on the first run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("ABLATE_BUILD", ROOT / "build" / "release"))
WORK = ROOT / "build" / "bench"
VENV = Path(os.environ.get("ABLATE_BENCH_VENV", ROOT / "build" / "bench-venv")).resolve()

BATCH, SEQ, SEED = 8, 16, 0
EXACT_EDGES, EXACT_EDGES_PEER = 192, 6
SWEEP_SIZES = 20
ACDC_EDGES, ACDC_EDGES_PEER = 32, 6
PREFIXES = [(12, 16), (48, 64)]  # tokens shared, tokens in all
PREFIX_OPS = {
    "prefix_forward": "forward, last position",
    "prefix_masked": "a circuit and its ablation",
    "prefix_eap": "EAP",
}
AUTOGRAD_MB = 6800  # what autograd straight on SmolLM2's 70,651-entry mask needs, as measured once
TOLERANCE = 1e-4  # of the largest value; of the largest logit for exact effects


def ensure_venv() -> None:
    """Makes the environment unless requirements.txt is the one it was made from; runs us in it."""
    pins = (HERE / "requirements.txt").read_bytes()
    stamp = VENV / "pins.sha256"
    want = hashlib.sha256(pins).hexdigest()
    made = stamp.exists() and stamp.read_text() == want
    if not made and "ABLATE_BENCH_VENV" not in os.environ:
        print("bench: installing the peers into", VENV.relative_to(ROOT), flush=True)
        venv.create(VENV, with_pip=True, clear=True)
        pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        stamp.write_text(want)
    if Path(sys.prefix).resolve() != VENV:
        python = str(VENV / "bin" / "python")
        os.execv(python, [python, *sys.argv])


# --- What both sides compute on -------------------------------------------------------------------


def write_ids(path: Path, rows) -> Path:
    path.write_text("".join(" ".join(str(int(i)) for i in row) + "\n" for row in rows))
    return path


def write_gpt2() -> Path:
    """A Hugging Face folder of GPT-2 small's shape with random weights, the same every time."""
    import numpy as np
    from layout import Shape
    from safetensors.numpy import save_file

    shape, folder = Shape(), WORK / "gpt2-random"
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    width, tensors = shape.d_model, {}

    def weight(name, *size, scale=0.02):
        tensors[name] = (scale * rng.standard_normal(size)).astype(np.float32)

    def norm(name):
        weight(f"{name}.weight", width, scale=0.1)
        tensors[f"{name}.weight"] += 1
        weight(f"{name}.bias", width)

    weight("wte.weight", shape.vocab, width)
    weight("wpe.weight", shape.n_ctx, width)
    norm("ln_f")
    for layer in range(shape.layers):
        norm(f"h.{layer}.ln_1")
        norm(f"h.{layer}.ln_2")
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            # Fan-in scaling, so that heads and MLPs matter beside the embedding.
            weight(f"h.{layer}.{name}.weight", inputs, outputs, scale=0.5 / inputs**0.5)
            weight(f"h.{layer}.{name}.bias", outputs)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": shape.layers,
        "n_head": shape.heads, "n_embd": width, "n_positions": shape.n_ctx, "n_ctx": shape.n_ctx,
        "vocab_size": shape.vocab, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
        "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def acdc_depths(shape) -> list[tuple[int, list[int]]]:
    """(block, its edges into heads) for five blocks: by source, a source's by the heads' names, which
    is the sample that AutoCircuit's cost was first measured on."""
    last = shape.layers - 1
    blocks = sorted({0, shape.layers // 4, shape.layers // 2, 3 * shape.layers // 4, last})
    edges, start = {}, 0
    for name, heads, sources in shape.modules():
        if "_input" in name:
            _, block, hook = name.split(".")
            of_block = edges.setdefault(int(block), [])
            for index in range(heads * sources):
                head, source = divmod(index, sources)
                of_block.append((source, f"A{block}.{head}.{hook[5].upper()}", start + index))
        start += heads * sources
    return [(block, [edge for _, _, edge in sorted(edges[block])]) for block in blocks]


def over_all_blocks(shape, seconds: dict[int, float]) -> float:
    """The mean of an edge's seconds over the model: depths are weighted by their blocks' edges, blocks
    between two depths by a straight line, as the figures of AutoCircuit's cost were made."""
    import numpy as np

    counts = {}
    for name, heads, sources in shape.modules():
        block = int(name.split(".")[1])
        counts[block] = counts.get(block, 0) + heads * sources
    blocks = sorted(counts)
    costs = np.interp(blocks, sorted(seconds), [seconds[block] for block in sorted(seconds)])
    return float(np.average(costs, weights=[counts[block] for block in blocks]))


def write_tiny_inputs(model: Path) -> dict[str, str]:
    """Four prompts of the recorded task, by the ids recorded with it; every edge."""
    from layout import Shape
    from safetensors.numpy import load_file

    recorded = load_file(model.parents[1] / "cases" / model.name / "a_logits.safetensors")
    rows = slice(0, 4)
    answers = [[a, w] for a, w in zip(recorded["answers"][rows, 0], recorded["wrong_answers"][rows, 0])]
    order = Shape.of(model).acdc_order()
    return {
        "tokens": str(write_ids(WORK / "tiny-clean.ids", recorded["tokens_clean"][rows])),
        "corrupt": str(write_ids(WORK / "tiny-corrupt.ids", recorded["tokens_corrupt"][rows])),
        "answers": str(write_ids(WORK / "tiny-answers.ids", answers)),
        "edges": str(write_ids(WORK / "tiny-edges.ids", [[edge] for edge in order])),
    }


def write_inputs() -> dict[str, str]:
    import numpy as np
    from layout import Shape

    shape, rng = Shape(), np.random.default_rng(SEED + 1)
    mask = (rng.random(shape.edge_count) < 0.5).astype("<f4")
    mask.tofile(WORK / "mask.f32")
    # Scores of a sweep, all different, and its sizes: few, then more and more edges.
    rng.permutation(shape.edge_count).astype("<f4").tofile(WORK / "scores.f32")
    sizes = [1 + int((shape.edge_count - 1) * (i / (SWEEP_SIZES - 1)) ** 3) for i in range(SWEEP_SIZES)]
    edges = np.sort(rng.choice(shape.edge_count, EXACT_EDGES, replace=False))
    edges_peer = np.sort(rng.choice(edges, EXACT_EDGES_PEER, replace=False))
    return {
        "tokens": str(write_ids(WORK / "clean.ids", rng.integers(0, shape.vocab, (BATCH, SEQ)))),
        "corrupt": str(write_ids(WORK / "corrupt.ids", rng.integers(0, shape.vocab, (BATCH, SEQ)))),
        "answers": str(write_ids(WORK / "answers.ids", rng.integers(0, shape.vocab, (BATCH, 2)))),
        "mask": str(WORK / "mask.f32"),
        "edges": str(write_ids(WORK / "edges.ids", edges[:, None])),
        "scores": str(WORK / "scores.f32"),
        "sizes": str(write_ids(WORK / "sizes.ids", [[size] for size in sizes])),
        "edges_peer": str(write_ids(WORK / "edges-peer.ids", edges_peer[:, None])),
    }


def write_prefix_inputs(length: int, seq: int) -> dict[str, str]:
    """Prompts that share their first tokens."""
    import numpy as np
    from layout import Shape

    shape, rng = Shape(), np.random.default_rng(SEED + 2)
    shared = rng.integers(0, shape.vocab, (1, length)).repeat(BATCH, 0)
    tails = [rng.integers(0, shape.vocab, (BATCH, seq - length)) for _ in range(2)]
    clean, corrupt = (np.concatenate([shared, tail], 1) for tail in tails)
    return {
        "tokens": str(write_ids(WORK / "prefix-clean.ids", clean)),
        "corrupt": str(write_ids(WORK / "prefix-corrupt.ids", corrupt)),
        "answers": str(write_ids(WORK / "prefix-answers.ids", rng.integers(0, shape.vocab, (BATCH, 2)))),
    }


def smollm2() -> tuple[Path, Path] | None:
    """(the model's folder, the reference's script), where both are there."""
    reference = Path(os.environ.get("ABLATE_GOLDENS", ROOT.parent / "shared" / "goldens"))
    reference = reference / "cases" / "smollm2-135m" / "reference.py"
    for folder in (
        os.environ.get("ABLATE_SMOLLM2"),
        ROOT / "build" / "models" / "smollm2-135m",
        ROOT / "models" / "smollm2-135m",
    ):
        if folder and Path(folder, "model.safetensors").is_file() and reference.is_file():
            return Path(folder), reference
    return None


def write_smollm2_inputs(reference: Path) -> dict[str, str]:
    case = reference.parent / "ioi_ABBA_template_0" / "inputs.json"
    ids = json.loads(case.read_text())["token_ids"]
    first = [[a[0], w[0]] for a, w in zip(ids["answers"], ids["wrong_answers"])]
    return {
        "tokens": str(write_ids(WORK / "smollm2-clean.ids", ids["clean"])),
        "corrupt": str(write_ids(WORK / "smollm2-corrupt.ids", ids["corrupt"])),
        "answers": str(write_ids(WORK / "smollm2-answers.ids", first)),
    }


# --- The two sides --------------------------------------------------------------------------------


class Unable(Exception):
    """A side cannot run an operation; the row says why."""


def resolve(inputs: dict, names: list[str]) -> dict[str, str]:
    """What an operation reads: "mask" is inputs["mask"], "mask=scores" is inputs["scores"]."""
    pairs = [name.partition("=") for name in names]
    return {name: inputs[key or name] for name, _, key in pairs}


def run_ours(op: str, model: Path, inputs: dict, names: list[str], reps: int, threads: int) -> dict:
    command = [BUILD / "bin" / "core_bench", op, "--model", model, "--tokens", inputs["tokens"]]
    for name, path in resolve(inputs, names).items():
        command += [f"--{name}", path]
    out = WORK / f"{op}.ours"
    command += ["--reps", reps, "--threads", threads, "--out", out]
    # Each side chooses its kernels itself, as it would on a machine that sets nothing.
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise Unable((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    answer["out"] = out
    return answer


class Peer:
    """peer.py, started when first asked."""

    def __init__(self, linears: str, model: Path, threads: int):
        self.command = [sys.executable, HERE / "peer.py", "--linears", linears, "--model", model]
        self.command += ["--threads", threads]
        self.linears = linears
        self.process: subprocess.Popen | None = None

    def run(self, op: str, inputs: dict, **more) -> dict:
        if self.process is None:
            log = (WORK / f"peer-{self.linears}.log").open("ab")
            self.process = subprocess.Popen(
                [str(c) for c in self.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, cwd=HERE,
            )
        out = str(WORK / f"{op}.{self.linears}")
        print(json.dumps({**inputs, "op": op, "out": out, **more}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.process = None
            raise Unable(f"peer.py ended with {code}; see {WORK / f'peer-{self.linears}.log'}")
        answer = json.loads(line)
        if "error" in answer:
            raise Unable(answer["error"])
        answer["out"] = out
        return answer

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


# --- Rows -----------------------------------------------------------------------------------------


@dataclass
class Row:
    name: str
    unit: str = "s"
    ours: float | None = None
    peer: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    installed: float | None = None  # the ratio to the peer as installed
    difference: float | None = None  # largest, of the largest value
    note: str = ""
    peaks: tuple[int, int] | None = None
    failed: bool = False


def difference(ours, peer, scale: float | None = None) -> float:
    import numpy as np

    a, b = np.fromfile(ours, dtype="<f4"), np.fromfile(peer, dtype="<f4")
    if a.shape != b.shape:
        raise Unable(f"{a.size} numbers of ours, {b.size} of the peer's")
    return float(np.abs(a - b).max() / (scale or np.abs(b).max()))


def last_position(path) -> Path:
    """[batch, seq, vocab] cut to what the peer's last position is."""
    import numpy as np
    from layout import Shape

    cut = Path(f"{path}.last")
    np.fromfile(path, dtype="<f4").reshape(BATCH, SEQ, Shape().vocab)[:, -1].tofile(cut)
    return cut


@dataclass
class Op:
    key: str
    title: str
    ours: str  # of core_bench
    names: list[str]  # inputs it takes: resolve()
    peer: str  # of peer.py
    goal: float
    reps: int = 5
    peer_reps: int = 5
    peer_names: list[str] | None = None  # where they are not ours
    more: dict = field(default_factory=dict)  # for the peer
    units: int = 1  # our time is that of so many
    check: tuple[str, list[str]] | None = None  # the run of ours whose numbers the peer's are like
    tolerance: float = TOLERANCE


PROMPTS = ["corrupt", "answers"]
OPS = [
    Op("forward", "forward, all logits", "forward", [], "forward", 1.5),
    Op("forward-last", "forward, last position", "forward_last", [], "forward", 2.0),
    Op("cache", "run_with_cache, all hooks", "cache", [], "cache", 1.5),
    Op("masked", "masked forward", "masked", ["corrupt", "mask"], "masked", 3.0, peer_reps=2),
    Op("eap", "EAP, a batch of 8 x 16", "eap", PROMPTS, "eap", 8.0, 3, 1),
    Op("ig", "mask gradient, 11 points", "ig", PROMPTS, "ig", 8.0, 1, 1),
    Op("exact", "exact single edge, an edge", "exact", [*PROMPTS, "edges"], "exact", 22.0, 1, 1,
       peer_names=[*PROMPTS, "edges=edges_peer"], units=EXACT_EDGES,
       check=("exact", [*PROMPTS, "edges=edges_peer"])),
    Op("sweep", "run_circuits, 20 sizes", "sweep", [*PROMPTS, "mask=scores", "edges=sizes"],
       "sweep", 3.0, 1, 1),
    Op("probing", "subnetwork probing, a step", "probing", PROMPTS, "probing", 7.0, 1, 1, units=4,
       check=("probing_sigmoid", PROMPTS), tolerance=1e-3),  # Adam makes steps of rounding
]  # fmt: skip
TINY_ACDC = Op("acdc-tiny", "ACDC on tiny-ioi, whole", "acdc", [*PROMPTS, "edges"], "acdc", 40.0, 3, 1)


class Bench:
    def __init__(self, settings):
        self.settings = settings
        self.rows: list[Row] = []
        WORK.mkdir(parents=True, exist_ok=True)

    def wanted(self, key: str) -> bool:
        return not self.settings.only or key in self.settings.only

    def add(self, row: Row) -> None:
        self.rows.append(row)
        told = f"{row.ours:.4g} {row.unit}" if row.ours is not None else "-"
        print(f"bench: {row.name}: {told} {row.note}", flush=True)

    def compare(self, op: Op, model: Path, inputs: dict, peer: Peer, installed: Peer | None) -> None:
        row = Row(op.title, goal=f"{op.goal:g}x")
        quick, threads = self.settings.quick, self.settings.threads
        ours_times, peer_times = [], []
        more = resolve(inputs, op.peer_names or op.names) | op.more
        try:
            for turn in range(1 if quick else self.settings.reps):
                ours = run_ours(op.ours, model, inputs, op.names, 1 if quick else op.reps, threads)
                theirs = peer.run(op.peer, inputs, reps=1 if quick else op.peer_reps,
                                  warm=int(turn == 0), **more)  # fmt: skip
                ours_times.append(ours["min_s"] / op.units)
                peer_times.append(theirs["min_s"])
            row.ours, row.peer = min(ours_times), min(peer_times)
            row.ratio = row.peer / row.ours
            row.met = row.ratio >= op.goal
            row.peaks = (ours["peak_rss_mb"], theirs["peak_rss_mb"])
            if op.check is not None:
                ours = run_ours(op.check[0], model, inputs, op.check[1], 1, threads)
            their_out = last_position(theirs["out"]) if op.key == "forward-last" else theirs["out"]
            row.difference = difference(ours["out"], their_out, theirs.get("scale"))
            row.failed = row.difference > op.tolerance
            row.note = "NUMBERS DISAGREE" if row.failed else ""
            if installed is not None and not self.settings.no_installed:
                as_is = installed.run(op.peer, inputs, reps=1, warm=0, **more)
                row.installed = as_is["min_s"] / row.ours
        except Unable as error:
            row.note, row.failed = str(error), True
        self.add(row)
        if op.key == "eap" and row.peaks is not None:
            mine, theirs_mb = row.peaks
            self.add(Row("EAP, peak resident memory", "MB", mine, theirs_mb, theirs_mb / mine, "3x",
                         theirs_mb / mine >= 3))

    def gpt2(self) -> None:
        wanted = [op for op in OPS if self.wanted(op.key)]
        if not wanted:
            return
        model, inputs = write_gpt2(), write_inputs()
        peer = Peer("einsum", model, self.settings.threads)
        installed = Peer("installed", model, self.settings.threads)
        for op in wanted:
            self.compare(op, model, inputs, peer, installed)
            installed.stop()  # it holds gigabytes
        peer.stop()

    def eap_ig(self) -> None:
        """EAP-IG with n steps costs at most n + 1 plain EAP passes: ours against ours."""
        if not self.wanted("eap-ig"):
            return
        model, inputs = write_gpt2(), write_inputs()
        row = Row("EAP-IG, 5 steps; peer: 6 x EAP", goal="1x")
        try:
            turns = [[run_ours(op, model, inputs, PROMPTS, 1, self.settings.threads)["min_s"]
                      for op in ("eap_ig", "eap")]
                     for _ in range(1 if self.settings.quick else self.settings.reps)]  # fmt: skip
            row.ours, plain = (min(side) for side in zip(*turns))
            row.peer = 6 * plain
            row.ratio = row.peer / row.ours
            row.met = row.ratio >= 1
        except Unable as error:
            row.note, row.failed = str(error), True
        self.add(row)

    def acdc(self) -> None:
        """An edge of ACDC, at five depths: the time of a run of some edges less that of one edge, of
        either side, weighted over all blocks; the peer's edges are the first of ours."""
        if not self.wanted("acdc"):
            return
        from layout import Shape

        model, inputs, shape = write_gpt2(), write_inputs(), Shape()
        peer = Peer("einsum", model, self.settings.threads)
        row = Row("ACDC, an edge, over all blocks", goal="12x", difference=0.0)
        ours, theirs = {}, {}
        try:
            for block, edges in acdc_depths(shape):
                seconds = {}
                for count in (1, ACDC_EDGES_PEER, ACDC_EDGES):
                    path = write_ids(WORK / f"acdc-{count}.ids", [[edge] for edge in edges[:count]])
                    sample = {**inputs, "edges": str(path)}
                    answer = run_ours("acdc", model, sample, [*PROMPTS, "edges"], 2,
                                      self.settings.threads)  # fmt: skip
                    seconds[count] = answer["min_s"]
                    if count == ACDC_EDGES_PEER:
                        same = peer.run("acdc", sample, reps=1, less_setup=True)
                        theirs[block] = same["min_s"] / count
                        row.difference = max(row.difference, difference(answer["out"], same["out"], 1))
                ours[block] = (seconds[ACDC_EDGES] - seconds[1]) / (ACDC_EDGES - 1)
            row.ours, row.peer = over_all_blocks(shape, ours), over_all_blocks(shape, theirs)
            row.ratio = row.peer / row.ours
            row.met = row.ratio >= 12
            row.failed = row.difference > 0
            row.note = "ANOTHER SET IS REMOVED" if row.failed else ""
        except Unable as error:
            row.note, row.failed = str(error), True
        peer.stop()
        self.add(row)

    def tiny_acdc(self) -> None:
        """A whole ACDC run on the trained model of four layers that the tests carry."""
        if not self.wanted(TINY_ACDC.key):
            return
        model = ROOT / "tests" / "golden" / "data" / "models" / "tiny-ioi"
        peer = Peer("einsum", model, self.settings.threads)
        installed = Peer("installed", model, self.settings.threads)
        self.compare(TINY_ACDC, model, write_tiny_inputs(model), peer, installed)
        peer.stop()
        installed.stop()

    def real_model(self) -> None:
        if not self.wanted("smollm2"):
            return
        found = smollm2()
        row = Row("SmolLM2 EAP, 70,651 edges, batch 8", goal="1.5x")
        if found is None:
            row.note = "skipped: the model or the reference is not here (ABLATE_SMOLLM2, ABLATE_GOLDENS)"
            self.add(row)
            return
        model, reference = found
        inputs = write_smollm2_inputs(reference)
        peer = Peer("einsum", model, self.settings.threads)
        more = {"reference": str(reference), "model": str(model)}
        reps = 1 if self.settings.quick else 3
        try:
            times = []
            for _ in range(1 if self.settings.quick else self.settings.reps):
                ours = run_ours("eap", model, inputs, ["corrupt", "answers"], reps,
                                self.settings.threads)
                theirs = peer.run("reference_eap", inputs, reps=reps, **more)
                times.append((ours["min_s"], theirs["min_s"]))
            row.ours, row.peer = (min(side) for side in zip(*times))
            row.ratio = row.peer / row.ours
            row.met = row.ratio >= 1.5
            row.difference = difference(ours["out"], theirs["out"])
            row.failed = row.difference > TOLERANCE
            row.note = "NUMBERS DISAGREE" if row.failed else ""
            mine = ours["peak_rss_mb"]
            self.add(row)
            self.add(Row("SmolLM2 EAP, peak memory, of autograd's", "MB", mine, AUTOGRAD_MB,
                         AUTOGRAD_MB / mine, "3x", AUTOGRAD_MB / mine >= 3))
        except Unable as error:
            row.note, row.failed = str(error), True
            self.add(row)
        peer.stop()

    def prefix(self) -> None:
        """Whole prompts against the tails behind a KV cache: at least 0.8 of the tokens' share of time."""
        if not self.wanted("prefix"):
            return
        model = write_gpt2()
        for length, seq in PREFIXES:
            inputs = write_prefix_inputs(length, seq)
            goal = 1 / (1 - 0.8 * length / seq)
            for op, title in PREFIX_OPS.items():
                row = Row(f"{title}, {length} of {seq} tokens cached", goal=f"{goal:.2g}x")
                try:
                    reps = 1 if self.settings.quick else 5
                    answer = run_ours(op, model, inputs, ["corrupt", "answers"], reps, self.settings.threads)
                    row.ours, row.peer = answer["min_s"], answer["whole_s"]
                    row.ratio = row.peer / row.ours
                    row.met = row.ratio >= goal
                    row.difference = answer["difference"]
                    row.failed = row.difference > TOLERANCE
                    row.note = "NUMBERS DISAGREE" if row.failed else "to our own whole prompts"
                except Unable as error:
                    row.note, row.failed = str(error), True
                self.add(row)

    def rpc(self) -> None:
        """p50 of a unary call through the daemon's own transport, less that of the call in process."""
        if not self.wanted("rpc"):
            return
        row = Row("unary call over in-process, p50", "ms", goal="< 0.3 ms")
        try:
            done = subprocess.run([BUILD / "bin" / "rpc_bench"], capture_output=True, text=True)
            if done.returncode != 0:
                raise Unable((done.stderr.strip() or "rpc_bench failed").splitlines()[-1])
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            row.ours = answer["overhead_p50_ms"]
            row.met = row.ours < 0.3
        except (Unable, OSError, ValueError, KeyError) as error:
            row.note, row.failed = f"{type(error).__name__}: {error}", True
        self.add(row)


def cell(value, pattern: str = "{:.4g}") -> str:
    return "-" if value is None else pattern.format(value)


def print_table(rows: list[Row]) -> None:
    head = ["operation", "ours", "peer", "ratio", "goal", "met", "as installed", "max diff", ""]
    body = [
        [
            row.name,
            cell(row.ours, "{:.4g} " + row.unit),
            cell(row.peer, "{:.4g} " + row.unit),
            cell(row.ratio, "{:.2f}x"),
            row.goal,
            {None: "-", True: "yes", False: "MISSED"}[row.met],
            cell(row.installed, "{:.1f}x"),
            cell(row.difference, "{:.1e}"),
            row.note,
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    print()
    for line in [head, *body]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    print(
        "\nratio: the peer's time (or memory) over ours; peer: TransformerLens and AutoCircuit with "
        "per-head\nlinears as contractions; as installed: the ratio to the same peer unpatched; "
        "max diff: of the largest value."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    keys = [*(op.key for op in OPS), "eap-ig", "acdc", TINY_ACDC.key, "smollm2", "prefix", "rpc"]
    parser.add_argument("--only", nargs="+", choices=keys, help="only these rows")
    parser.add_argument("--reps", type=int, default=3, help="turns of both sides [3]")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of either side [2]")
    parser.add_argument("--quick", action="store_true", help="one repetition of everything")
    parser.add_argument("--no-installed", action="store_true", help="leave out the unpatched peer")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    settings = parser.parse_args()
    ensure_venv()
    sys.path.insert(0, str(HERE))
    targets = ["core_bench"] + (["rpc_bench"] if not settings.only or "rpc" in settings.only else [])
    subprocess.run(["cmake", "--build", str(BUILD), "--target", *targets], check=True,
                   stdout=subprocess.DEVNULL)
    bench = Bench(settings)
    bench.gpt2()
    bench.eap_ig()
    bench.acdc()
    bench.tiny_acdc()
    bench.real_model()
    bench.prefix()
    bench.rpc()
    print_table(bench.rows)
    if settings.json:
        Path(settings.json).write_text(json.dumps([vars(row) for row in bench.rows], indent=2))
    return 1 if any(row.failed for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
