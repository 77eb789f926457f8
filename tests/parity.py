#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make parity`: each case of the reference data, with the largest difference that our side has.

    tests/parity.py [--build build/dev]      runs the golden programs of that build
    tests/parity.py --log FILE               reads what they printed into a log

A case is a file cases/<model>/<case>.json, or a folder with recorded tensors. It is run when some
golden program compared a tensor or checked a fact under its name; a case that none did is MISSING,
and the exit status is then 1, as it is after a difference past its tolerance. Standard library only.
"""

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPARED = re.compile(r"^(\S+/\S+) (.+?) +(\S+)  tol  *(\S+)  (ok|FAIL)$")
CHECKED = re.compile(r"^(\S+/\S+) (.+?) +(ok|FAIL)$")
# Data that is read by other tests than the golden programs: the file, and which test that is.
ELSEWHERE = {
    "smollm2-135m/tokens": "tests/golden/test_tokenizer.py",
    "smollm2-135m/weights.sha256": "clients/python/tests: what fetch checks",
}


@dataclass
class Case:
    compared: int = 0
    checked: int = 0
    difference: float = 0.0
    tolerance: float = 0.0
    tensor: str = ""
    failures: int = 0

    def compare(self, tensor: str, difference: float, tolerance: float, ok: bool) -> None:
        """Keeps the tensor that comes nearest to its tolerance."""
        self.compared += 1
        self.failures += not ok
        share = difference / tolerance if tolerance > 0 else difference
        worst = self.difference / self.tolerance if self.tolerance > 0 else self.difference
        if not self.tensor or not share <= worst:
            self.tensor, self.difference, self.tolerance = tensor, difference, tolerance

    def check(self, ok: bool) -> None:
        self.checked += 1
        self.failures += not ok


def goldens() -> Path:
    """The full reference data where there is any, else the committed part."""
    named = os.environ.get("ABLATE_GOLDENS")
    beside = ROOT.parent / "shared" / "goldens"
    return Path(named) if named else beside if beside.is_dir() else ROOT / "tests" / "golden" / "data"


def cases_of(root: Path) -> list[str]:
    folder = root / "cases"
    files = {path.relative_to(folder).with_suffix("") for path in folder.glob("*/*.json")}
    folders = {path.parent.relative_to(folder) for path in folder.glob("*/*/golden.safetensors")}
    return sorted(map(str, files | folders))


def read(text: str) -> dict[str, Case]:
    """The lines of tests/golden/golden.h, by case."""
    found: dict[str, Case] = {}
    for line in text.splitlines():
        if match := COMPARED.match(line):
            case = found.setdefault(match[1], Case())
            case.compare(match[2].strip(), float(match[3]), float(match[4]), match[5] == "ok")
        elif match := CHECKED.match(line):
            found.setdefault(match[1], Case()).check(match[3] == "ok")
    return found


def listing(found: dict[str, Case], wanted: list[str]) -> tuple[str, list[str]]:
    """The table, and what is wrong with it."""
    names = sorted(set(wanted) | set(found))
    width = max(map(len, names), default=4)
    lines = [f"{'case':<{width}} tensors checks  largest difference  tolerance  where"]
    wrong = []
    for name in names:
        case = found.get(name)
        if case is None and name in ELSEWHERE:
            lines.append(f"{name:<{width}} {'':>35}          {ELSEWHERE[name]}")
        elif case is None:
            lines.append(f"{name:<{width}} MISSING: no golden program ran it")
            wrong.append(f"{name} is not run by any golden program")
        else:
            numbers = f"{case.difference:>19.3e} {case.tolerance:>10.1e}" if case.compared else " " * 30
            verdict = "" if not case.failures else f"  FAIL: {case.failures}"
            lines.append(f"{name:<{width}} {case.compared:>7} {case.checked:>6} {numbers}  {case.tensor}{verdict}")
            if case.failures:
                wrong.append(f"{name}: {case.failures} past tolerance")
    return "\n".join(lines), wrong


def run_programs(build: Path) -> str:
    programs = sorted(build.glob("bin/golden.*_golden"))
    if not programs:
        sys.exit(f"parity: there are no golden programs in {build}/bin; build the dev preset first")
    output = []
    for program in programs:
        print(f"parity: {program.name}", file=sys.stderr, flush=True)
        run = subprocess.run([program], capture_output=True, text=True, check=False,
                             env={**os.environ, "ABLATE_GOLDENS": str(goldens())})  # fmt: skip
        output.append(run.stdout)
        if run.returncode not in (0, 1):
            sys.exit(f"parity: {program.name} ended with {run.returncode}:\n{run.stderr[-2000:]}")
    return "".join(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "dev")
    parser.add_argument("--log", type=Path, help="what the programs printed, instead of running them")
    arguments = parser.parse_args()
    text = arguments.log.read_text() if arguments.log else run_programs(arguments.build)
    table, wrong = listing(read(text), cases_of(goldens()))
    print(table)
    print(f"\n{len(wrong)} wrong" if wrong else "\nevery case is run, and within its tolerance")
    for what in wrong:
        print(f"WRONG    {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
