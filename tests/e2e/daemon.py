# SPDX-License-Identifier: Apache-2.0
"""The daemon under test, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import ablate

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("ABLATE_BUILD", "build/dev")
BINARY = BUILD / "bin" / "ablated"
CLI = BUILD / "bin" / "ablate"
# One mask point of one prompt a step: tens of thousands of short steps, far more than any test lasts.
LONG_JOB = {"algo": ablate.MaskGradient(integrated_grad_samples=1000), "batch_size": 1}


def goldens() -> Path:
    """Where the tiny models, their prompts and recorded numbers are."""
    return Path(os.environ.get("ABLATE_GOLDENS") or ROOT / "tests" / "golden" / "data")


def smollm2() -> Path | None:
    """The folder that holds smollm2-135m, if it was fetched."""
    for folder in (os.environ.get("ABLATE_SMOLLM2"), ROOT / "build" / "models" / "smollm2-135m"):
        if folder and Path(folder, "model.safetensors").is_file():
            return Path(folder)
    return None


class Daemon:
    """One `ablated` on free ports. Use as a context manager; leaving it sends SIGTERM."""

    def __init__(self, *flags: str, roots: list[Path] | None = None):
        self.folder = tempfile.TemporaryDirectory(prefix="ablate-e2e-")
        here = Path(self.folder.name)
        ready = here / "ready.json"
        self.log_path = here / "log"
        command = [str(BINARY), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        command += ["--ready-file", str(ready), "--state-dir", str(here / "state")]
        for root in roots if roots is not None else [goldens() / "models"]:
            command += ["--model-root", str(root)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ABLATE_")}
        # Only what the tests put there is found, whatever this machine has in its cache.
        environment["HF_HUB_CACHE"] = str(here / "hub")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags], stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        while not ready.exists():
            try:
                self.process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"ablated ended with {self.process.returncode}:\n{self.log()}")
        addresses = json.loads(ready.read_text())
        self.grpc: str = addresses["grpc"]
        self.http: str = addresses["http"]

    def log(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(errors="replace")

    def alive(self) -> bool:
        return self.process.poll() is None

    def terminate(self) -> None:
        """Sends SIGTERM; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 60) -> int:
        """Waits for the end; returns the exit status."""
        return self.process.wait(timeout=timeout)

    def stop(self) -> None:
        """Ends it and insists on a clean exit: sanitizers report through the exit status."""
        try:
            if self.alive():
                self.terminate()
                self.wait()
            assert self.process.returncode == 0, (
                f"ablated ended with {self.process.returncode}:\n{self.log()[-8000:]}"
            )
        finally:
            if self.alive():
                self.process.kill()
                self.process.wait()
            self.folder.cleanup()

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
