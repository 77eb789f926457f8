#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Everything that CI runs, in phases; the last line is the sum: ``N passed, N failed``.

    tests/run.py [--only PHASE]... [--list]

A phase builds what it needs and runs it; its whole output is in build/test-logs. A phase fails when
a test fails, when its build fails, or when it finds no test at all. Standard library only: this has
to run before anything is installed. `make test` installs first.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import parity

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "test-logs"
JOBS = str(os.cpu_count() or 2)
PYTHON = ROOT / ".venv" / "bin" / "python"


@dataclass
class Result:
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)  # what, why

    def add(self, other: "Result") -> None:
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips

    @property
    def total(self) -> int:
        return self.passed + len(self.failures) + len(self.skips)


class Phase:
    """One line of the table: runs commands, keeps their output, counts their tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result = Result()
        self.log = LOGS / f"{name}.log"
        self.log.write_text("")

    def run(self, what: str, command: list[str], cwd: Path = ROOT, **env: str) -> int:
        """Runs a command with its output in the log; on failure shows the end of it."""
        with self.log.open("a") as log:
            log.write(f"\n$ {' '.join(map(str, command))}\n")
            log.flush()
            start = log.tell()
            code = subprocess.run(
                [str(part) for part in command], cwd=cwd, env={**os.environ, **env},
                stdout=log, stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        if code != 0:
            with self.log.open(errors="replace") as log:
                log.seek(start)
                lines = log.read().splitlines()
            print(f"--- {self.name}: {what} ended with {code}; the end of {self.log}:")
            print("\n".join(f"    {line}" for line in interesting(lines)), flush=True)
        return code

    def build(self, preset: str, targets: list[str] | None = None, **cache: str) -> bool:
        settings = [f"-D{key}={value}" for key, value in cache.items()]
        if preset != "torch2" and (ROOT / "build" / "torch-root").exists():
            settings.append("-DABLATE_TORCH_ROOT=" + (ROOT / "build/torch-root").read_text().strip())
        command = ["cmake", "--build", f"build/{preset}", "--parallel", JOBS]
        command += ["--target", *targets] if targets else []
        ok = (
            self.run("configuring", ["cmake", "--preset", preset, "-DABLATE_WERROR=ON", *settings]) == 0
            and self.run("building", command) == 0
        )
        if not ok:
            self.result.failures.append(f"the build of preset {preset}")
        return ok

    def ctest(self, preset: str, *selection: str, jobs: str = JOBS, **env: str) -> None:
        report = LOGS / f"{self.name}.ctest.xml"
        report.unlink(missing_ok=True)
        command = ["ctest", "--test-dir", f"build/{preset}", "-j", jobs, "--timeout", "900"]
        command += ["--output-on-failure", "--test-output-size-passed", "4000000"]
        command += ["--test-output-size-failed", "4000000", "--output-junit", str(report), *selection]
        code = self.run("ctest", command, **env)
        self.count(count_ctest(report) if report.exists() else Result(), code, "ctest")

    def pytest(self, *arguments: str, python: Path = PYTHON, **env: str) -> None:
        report = LOGS / f"{self.name}.pytest.xml"
        report.unlink(missing_ok=True)
        command = [python, "-m", "pytest", "-q", "-rs", f"--junitxml={report}", *arguments]
        code = self.run("pytest", command, **env)
        self.count(count_pytest(report) if report.exists() else Result(), code, "pytest")

    def node(self, folder: Path, **env: str) -> None:
        if self.run("generating", ["npm", "run", "--silent", "generate"], cwd=folder) != 0:
            self.result.failures.append("generating the web client's code")
            return
        tests = sorted(str(path.relative_to(folder)) for path in (folder / "test").glob("*.test.*js"))
        with self.log.open() as log:
            start = log.seek(0, os.SEEK_END)
        code = self.run("node", ["node", "--test", "--test-reporter=tap", *tests], cwd=folder, **env)
        with self.log.open(errors="replace") as log:
            log.seek(start)
            self.count(count_tap(log.read()), code, "node")

    def vitest(self, folder: Path) -> None:
        report = LOGS / f"{self.name}.vitest.xml"
        report.unlink(missing_ok=True)
        command = ["npx", "vitest", "run", "--reporter=default", "--reporter=junit"]
        code = self.run("vitest", [*command, f"--outputFile.junit={report}"], cwd=folder, CI="1")
        self.count(count_pytest(report) if report.exists() else Result(), code, "vitest")

    def playwright(self, folder: Path, **env: str) -> None:
        report = LOGS / f"{self.name}.playwright.xml"
        report.unlink(missing_ok=True)
        env |= {"ABLATE_JUNIT": str(report), "NO_COLOR": "1"}
        code = self.run("playwright", ["npm", "run", "--silent", "browser"], cwd=folder, **env)
        self.count(count_pytest(report) if report.exists() else Result(), code, "playwright")

    def count(self, result: Result, code: int, runner: str) -> None:
        if result.total == 0:
            result.failures.append(f"{runner} ran no test")
        elif code != 0 and not result.failures:
            result.failures.append(f"{runner} ended with {code}")
        self.result.add(result)


def interesting(lines: list[str], limit: int = 60) -> list[str]:
    """The end of a log, after the first error in it where one can be seen."""
    wanted = re.compile(r"error:|FAILED|ERROR|Failure|AssertionError|Sanitizer|^E  ")
    hits = [line for line in lines if wanted.search(line)][:20]
    return hits + ["..."] + lines[-limit:] if len(lines) > limit else lines


def count_ctest(report: Path) -> Result:
    """Each cmocka test counts; a program that is not cmocka's counts once."""
    result = Result()
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "?")
        output = case.findtext("system-out") or ""
        failed = case.get("status") not in ("run", "notrun") or case.find("failure") is not None
        if case.get("status") == "notrun" and not failed:
            result.skips.append((name, (case.find("skipped").get("message") or "not run")
                                 if case.find("skipped") is not None else "not run"))  # fmt: skip
            continue
        result.skips += [(f"{name}: {what}", why) for what, why in
                         re.findall(r"^(\S+): skipped, (.*)$", output, re.M)]  # fmt: skip
        passed = re.findall(r"^\[ +OK \] (.*)$", output, re.M)
        failures = sorted(set(re.findall(r"^\[  FAILED  \] (\w+)$", output, re.M)))
        skipped = sorted(set(re.findall(r"^\[  SKIPPED \] (\w+)$", output, re.M)))
        reasons = dict(re.findall(r"^SKIP (\w+): (.*)$", output, re.M))
        if not (passed or failures or skipped):
            passed = [] if failed else [name]
        if failed and not failures:
            failures = [case.get("name", "?")]
        result.passed += len(passed)
        result.failures += [f"{name}: {test}" if test != name else name for test in failures]
        result.skips += [(f"{name}: {test}", reasons.get(test, "see its log")) for test in skipped]
    return result


def count_pytest(report: Path) -> Result:
    result = Result()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            result.failures.append(name)
        elif (skipped := case.find("skipped")) is not None:
            result.skips.append((name, skipped.get("message") or "?"))
        else:
            result.passed += 1
    return result


def count_tap(text: str) -> Result:
    """Leaf tests of node's TAP output: a line that closes subtests is not counted itself."""
    result = Result()
    depth_before = -1
    for line in text.splitlines():
        match = re.match(r"^( *)(not ok|ok) \d+ - (.*?)(?: # (SKIP|TODO)\s*(.*))?$", line)
        if match is None:
            continue
        depth = len(match[1])
        closes, depth_before = depth < depth_before, depth
        if closes and (match[2] == "ok" or result.failures):
            continue
        if match[4] == "SKIP":
            result.skips.append((match[3], match[5] or "?"))
        elif match[2] == "ok":
            result.passed += 1
        else:
            result.failures.append(match[3])
    return result


# --- the phases, in the order in which they run ------------------------------------------------


# gRPC, libuv and libtorch are not built with ThreadSanitizer, which sees their memory accesses
# through libc and not their locks: accesses from such modules are ignored. What crosses them between
# two threads of ours is ordered by server/transport/tsan.h.
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "second_deadlock_stack=1:ignore_noninstrumented_modules=1",
}


def phase_ctest(phase: Phase) -> None:
    """Units, goldens, fuzz corpora and lint, warnings as errors."""
    fetch_model(phase)
    if phase.build("dev"):
        phase.ctest("dev")
        check_parity(phase)


def check_parity(phase: Phase) -> None:
    """Each recorded case is run by a golden program; the listing is that of `make parity`."""
    report = ElementTree.parse(LOGS / f"{phase.name}.ctest.xml")
    printed = [case.findtext("system-out") or "" for case in report.iter("testcase")
               if case.get("name", "").startswith("golden.")]  # fmt: skip
    table, wrong = parity.listing(parity.read("\n".join(printed)), parity.cases_of(parity.goldens()))
    (LOGS / "parity.txt").write_text(table + "\n")
    phase.result.failures += [what for what in wrong if "is not run" in what]
    phase.result.passed += not wrong


def phase_python(phase: Phase) -> None:
    """The Python client, its types and style, and goldens that Python checks."""
    folders = [path for path in ("clients/python/tests", "tests/golden") if has_tests(path)]
    phase.pytest(*folders, ABLATE_BUILD=str(ROOT / "build/dev"))


def phase_e2e(phase: Phase) -> None:
    """The real daemon, driven by the command line, the Python client and grpcurl."""
    if phase.build("dev"):
        phase.pytest("tests/e2e", ABLATE_BUILD=str(ROOT / "build/dev"))


def phase_web(phase: Phase) -> None:
    """The real daemon, driven by connect-web in Node."""
    if phase.build("dev"):
        phase.node(ROOT / "tests" / "e2e" / "web", ABLATE_BUILD=str(ROOT / "build/dev"))


def phase_dashboard(phase: Phase) -> None:
    """The dashboard: types, build and size, unit tests."""
    folder = ROOT / "clients" / "web"
    if phase.run("building", ["npm", "run", "--silent", "build"], cwd=folder) != 0:
        phase.result.failures.append("building the dashboard")
    else:
        phase.vitest(folder)


def phase_browser(phase: Phase) -> None:
    """The dashboard in Chromium, against the real daemon; what failures leave is in build/browser."""
    dashboard = ["npm", "run", "--silent", "build"]
    if phase.run("building the dashboard", dashboard, cwd=ROOT / "clients" / "web") != 0:
        phase.result.failures.append("building the dashboard")
    elif phase.build("dev"):
        phase.playwright(ROOT / "tests" / "e2e" / "web", ABLATE_BUILD=str(ROOT / "build/dev"))


def phase_asan(phase: Phase) -> None:
    """Units, fuzz corpora and end-to-end tests with AddressSanitizer and UBSan."""
    if phase.build("asan"):
        phase.ctest("asan", "-L", "unit|fuzz", **SANITIZER_ENV)
        phase.pytest("tests/e2e", ABLATE_BUILD=str(ROOT / "build/asan"), ABLATE_SANITIZED="1",
                     **SANITIZER_ENV)  # fmt: skip


def phase_tsan(phase: Phase) -> None:
    """The server's units with ThreadSanitizer."""
    if phase.build("tsan"):
        phase.ctest("tsan", "-L", "unit", "-R", "server", **SANITIZER_ENV)


def phase_fuzz(phase: Phase) -> None:
    """Each fuzz target for some seconds, from its corpus."""
    targets = [path.stem for path in sorted((ROOT / "tests" / "fuzz").glob("*_fuzz.c"))]
    if phase.build("fuzz", targets):
        phase.ctest("fuzz", "-L", "fuzz", **SANITIZER_ENV)


def phase_torch2(phase: Phase) -> None:
    """Units and goldens against the libtorch of `pip install torch`, on the CPU."""
    if phase.run("fetching libtorch", ["deploy/deps.sh", "torch2"]) != 0:
        phase.result.failures.append("fetching pip's libtorch")
        return
    root = (ROOT / "build" / "torch2-root").read_text().strip()
    if phase.build("torch2", ABLATE_TORCH_ROOT=root):
        # Its OpenMP threads spin while they wait; on two cores two programs would only see each other.
        phase.ctest("torch2", "-L", "unit|golden", OMP_WAIT_POLICY="PASSIVE")


def phase_lens(phase: Phase) -> None:
    """The Python client beside torch, TransformerLens 2 to 4 and tracr."""
    if phase.run("installing", ["deploy/deps.sh", "lens"]) != 0:
        phase.result.failures.append("installing torch and TransformerLens")
    elif phase.build("dev"):
        files = ["test_auto_circuit.py", "test_auto_circuit_more.py", "test_client.py"]
        files += ["test_local_async_bridge.py", "test_masks.py", "test_transformer_lens.py"]
        phase.pytest(
            "clients/python/tests", "--ignore=clients/python/tests/test_checks.py",
            *(f"tests/e2e/{name}" for name in files), python=ROOT / "build/lens-venv/bin/python",
            PYTHONPATH=str(ROOT / "clients/python/src"), ABLATE_BUILD=str(ROOT / "build/dev"),
        )  # fmt: skip


def fetch_model(phase: Phase) -> None:
    """The real model of the goldens; where it cannot be had, they say that they skip it."""
    models = ROOT / "build" / "models"
    phase.run("fetching", [PYTHON, "-m", "ablate.models", "fetch", "smollm2-135m", "--dir", models])


def has_tests(folder: str) -> bool:
    return any((ROOT / folder).rglob("test_*.py"))


PHASES = {
    "ctest": phase_ctest,
    "python": phase_python,
    "e2e": phase_e2e,
    "web": phase_web,
    "dashboard": phase_dashboard,
    "browser": phase_browser,
    "asan": phase_asan,
    "tsan": phase_tsan,
    "fuzz": phase_fuzz,
    "torch2": phase_torch2,
    "lens": phase_lens,
}


def print_table(rows: list[tuple[str, Result, float]]) -> None:
    print(f"\n{'phase':<9} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for name, result, seconds in rows:
        counts = f"{result.passed:>7} {len(result.failures):>7} {len(result.skips):>8}"
        print(f"{name:<9} {counts} {seconds:>8.0f}  {PHASES[name].__doc__}")
    for name, result, _ in rows:
        for what, why in result.skips:
            print(f"skipped  {name}: {what}: {' '.join(why.split())}")
    for name, result, _ in rows:
        for what in result.failures:
            print(f"FAILED   {name}: {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=PHASES, help="run this phase; repeatable")
    parser.add_argument("--list", action="store_true", help="say what the phases are")
    arguments = parser.parse_args()
    if arguments.list:
        for name, function in PHASES.items():
            print(f"{name:<9} {function.__doc__}")
        return 0
    shared = ROOT.parent / "shared" / "goldens"
    if "ABLATE_GOLDENS" not in os.environ and shared.is_dir():
        os.environ["ABLATE_GOLDENS"] = str(shared)
    os.environ["PATH"] = f"{ROOT / 'build' / 'tools'}{os.pathsep}{os.environ['PATH']}"
    LOGS.mkdir(parents=True, exist_ok=True)
    for name in ("cmake", "ctest", "ninja"):
        if shutil.which(name) is None:
            sys.exit(f"there is no {name}; run `make deps`")
    rows = []
    for name in arguments.only or PHASES:
        print(f"=== {name}: {PHASES[name].__doc__}", flush=True)
        start = time.monotonic()
        phase = Phase(name)
        PHASES[name](phase)
        if phase.result.total == 0:
            phase.result.failures.append("no test ran")
        rows.append((name, phase.result, time.monotonic() - start))
    print_table(rows)
    passed = sum(result.passed for _, result, _ in rows)
    failed = sum(len(result.failures) for _, result, _ in rows)
    skipped = sum(len(result.skips) for _, result, _ in rows)
    print(f"\n{skipped} skipped" + (", each with its reason above" if skipped else ""))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
