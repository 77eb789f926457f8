# SPDX-License-Identifier: Apache-2.0
"""The two sides: ours, core_bench; and the peers, peer.py, in a virtual environment of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from inputs import HERE, ROOT, WORK

BUILD = Path(os.environ.get("ABLATE_BUILD", ROOT / "build" / "release"))
VENV = Path(os.environ.get("ABLATE_BENCH_VENV", ROOT / "build" / "bench-venv")).resolve()


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


class Unable(Exception):
    """A side cannot run an operation; the row says why."""


def resolve(inputs: dict, names: list[str]) -> dict[str, str]:
    """What an operation reads: "mask" is inputs["mask"], "mask=scores" is inputs["scores"]."""
    pairs = [name.partition("=") for name in names]
    return {name: inputs[key or name] for name, _, key in pairs}


def run_json(command: list, **more) -> dict:
    """The JSON object that a program prints last."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    except OSError as error:
        raise Unable(str(error)) from error
    if done.returncode != 0:
        raise Unable((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_ours(op: str, model: Path, inputs: dict, names: list[str], reps: int, threads: int) -> dict:
    command = [BUILD / "bin" / "core_bench", op, "--model", model, "--tokens", inputs["tokens"]]
    for name, path in resolve(inputs, names).items():
        command += [f"--{name}", path]
    out = WORK / f"{op}.ours"
    command += ["--reps", reps, "--threads", threads, "--out", out]
    # Each side chooses its kernels itself, as it would on a machine that sets nothing.
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    return run_json(command, env=environment) | {"out": out}


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
