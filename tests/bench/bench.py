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
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inputs import (
    BATCH,
    EXACT_EDGES,
    ROOT,
    SEQ,
    WORK,
    smollm2,
    write_gpt2,
    write_ids,
    write_inputs,
    write_prefix_inputs,
    write_smollm2_inputs,
    write_tiny_inputs,
)
from sides import BUILD, Peer, Unable, ensure_venv, resolve, run_json, run_ours

ACDC_EDGES, ACDC_EDGES_PEER = 32, 6
PREFIXES = [(12, 16), (48, 64)]  # tokens shared, tokens in all
PREFIX_OPS = {
    "prefix_forward": "forward, last position",
    "prefix_masked": "a circuit and its ablation",
    "prefix_eap": "EAP",
}
AUTOGRAD_MB = 6800  # what autograd straight on SmolLM2's 70,651-entry mask needs, as measured once
TOLERANCE = 1e-4  # of the largest value; of the largest logit for exact effects


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
    failed: bool = False

    def measured(self, ours: float, peer: float, goal: float) -> None:
        self.ours, self.peer, self.ratio = ours, peer, peer / ours
        self.goal, self.met = f"{goal:.2g}x", self.ratio >= goal

    def differs(self, difference: float, tolerance: float = TOLERANCE, note: str = "NUMBERS DISAGREE") -> None:
        self.difference, self.failed = difference, difference > tolerance
        if self.failed:
            self.note = note


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
    units: int = 1  # our time is that of so many ...
    less: str | None = None  # ... and of this run, which is taken off
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
    Op("probing", "subnetwork probing, a step", "probing", PROMPTS, "probing", 7.0, 2, 2, units=3, less="probing_first",
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

    @contextlib.contextmanager
    def row(self, name: str, **more) -> Iterator[Row]:
        """A row to fill in, added at the end; one that a side cannot run says why."""
        row = Row(name, **more)
        try:
            yield row
        except Unable as error:
            row.note, row.failed = str(error), True
        self.add(row)

    def turns(self) -> range:
        return range(1 if self.settings.quick else self.settings.reps)

    def ours(self, op: str, model: Path, inputs: dict, names: list[str], reps: int) -> dict:
        return run_ours(op, model, inputs, names, reps, self.settings.threads)

    def compare(self, op: Op, model: Path, inputs: dict, peer: Peer, installed: Peer) -> None:
        quick = self.settings.quick
        more = resolve(inputs, op.peer_names or op.names) | op.more
        with self.row(op.title) as row:
            times = []
            for turn in self.turns():
                ours = self.ours(op.ours, model, inputs, op.names, 1 if quick else op.reps)
                theirs = peer.run(op.peer, inputs, reps=1 if quick else op.peer_reps,
                                  warm=int(turn == 0), **more)  # fmt: skip
                first = self.ours(op.less, model, inputs, op.names, 1 if quick else op.reps)["min_s"] if op.less else 0
                times.append(((ours["min_s"] - first) / op.units, theirs["min_s"]))
            row.measured(*(min(side) for side in zip(*times)), op.goal)
            peaks = (ours["peak_rss_mb"], theirs["peak_rss_mb"])
            if op.check is not None:
                ours = self.ours(op.check[0], model, inputs, op.check[1], 1)
            their_out = last_position(theirs["out"]) if op.key == "forward-last" else theirs["out"]
            row.differs(difference(ours["out"], their_out, theirs.get("scale")), op.tolerance)
            if not self.settings.no_installed:
                as_is = installed.run(op.peer, inputs, reps=1, warm=0, **more)
                row.installed = as_is["min_s"] / row.ours
        if op.key == "eap" and row.ratio is not None:
            with self.row("EAP, peak resident memory", unit="MB") as memory:
                memory.measured(*peaks, 3)

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
        with self.row("EAP-IG, 5 steps; peer: 6 x EAP") as row:
            times = [[self.ours(op, model, inputs, PROMPTS, 1)["min_s"] for op in ("eap_ig", "eap")]
                     for _ in self.turns()]  # fmt: skip
            ours, plain = (min(side) for side in zip(*times))
            row.measured(ours, 6 * plain, 1)

    def acdc(self) -> None:
        """An edge of ACDC, at five depths: the time of a run of some edges less that of one edge, of
        either side, weighted over all blocks; the peer's edges are the first of ours."""
        if not self.wanted("acdc"):
            return
        from layout import Shape, acdc_depths, over_all_blocks

        model, inputs, shape = write_gpt2(), write_inputs(), Shape()
        peer = Peer("einsum", model, self.settings.threads)
        with self.row("ACDC, an edge, over all blocks") as row:
            ours, theirs, unlike = {}, {}, 0.0
            for block, edges in acdc_depths(shape):
                seconds = {}
                for count in (1, ACDC_EDGES_PEER, ACDC_EDGES):
                    path = write_ids(WORK / f"acdc-{count}.ids", [[edge] for edge in edges[:count]])
                    sample = {**inputs, "edges": str(path)}
                    answer = self.ours("acdc", model, sample, [*PROMPTS, "edges"], 2)
                    seconds[count] = answer["min_s"]
                    if count == ACDC_EDGES_PEER:
                        same = peer.run("acdc", sample, reps=1, less_setup=True)
                        theirs[block] = same["min_s"] / count
                        unlike = max(unlike, difference(answer["out"], same["out"], 1))
                ours[block] = (seconds[ACDC_EDGES] - seconds[1]) / (ACDC_EDGES - 1)
            row.measured(over_all_blocks(shape, ours), over_all_blocks(shape, theirs), 12)
            row.differs(unlike, 0, "ANOTHER SET IS REMOVED")
        peer.stop()

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
        name = "SmolLM2 EAP, 70,651 edges, batch 8"
        if found is None:
            note = "skipped: the model or the reference is not here (ABLATE_SMOLLM2, ABLATE_GOLDENS)"
            self.add(Row(name, goal="1.5x", note=note))
            return
        model, reference = found
        inputs = write_smollm2_inputs(reference)
        peer = Peer("einsum", model, self.settings.threads)
        reps = 1 if self.settings.quick else 3
        more = {"reference": str(reference), "model": str(model), "reps": reps}
        with self.row(name) as row:
            times = []
            for _ in self.turns():
                ours = self.ours("eap", model, inputs, PROMPTS, reps)
                theirs = peer.run("reference_eap", inputs, **more)
                times.append((ours["min_s"], theirs["min_s"]))
            row.measured(*(min(side) for side in zip(*times)), 1.5)
            row.differs(difference(ours["out"], theirs["out"]))
        if row.ratio is not None:
            with self.row("SmolLM2 EAP, peak memory, of autograd's", unit="MB") as memory:
                memory.measured(ours["peak_rss_mb"], AUTOGRAD_MB, 3)
        peer.stop()

    def prefix(self) -> None:
        """Whole prompts against the tails behind a KV cache: at least 0.8 of the tokens' share of time."""
        if not self.wanted("prefix"):
            return
        model = write_gpt2()
        for length, seq in PREFIXES:
            inputs = write_prefix_inputs(length, seq)
            for op, title in PREFIX_OPS.items():
                with self.row(f"{title}, {length} of {seq} tokens cached", note="to our own whole prompts") as row:
                    answer = self.ours(op, model, inputs, PROMPTS, 1 if self.settings.quick else 5)
                    row.measured(answer["min_s"], answer["whole_s"], 1 / (1 - 0.8 * length / seq))
                    row.differs(answer["difference"])

    def rpc(self) -> None:
        """p50 of a unary call through the daemon's own transport, less that of the call in process."""
        if not self.wanted("rpc"):
            return
        with self.row("unary call over in-process, p50", unit="ms", goal="< 0.3 ms") as row:
            row.ours = run_json([BUILD / "bin" / "rpc_bench"])["overhead_p50_ms"]
            row.met = row.ours < 0.3


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
