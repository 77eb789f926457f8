#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a script can check; exits 1 and names file and line where one is broken.

    tests/lint/lint.py [--root FOLDER] [--no-tools]

Who may include whom is the map of ARCHITECTURE.md: server -> core -> core/tensor -> core/base, never
an arrow back, and each big library in one place. --no-tools leaves out what runs other programs
(clang-format, the compiler). lint_test.py shows that each rule catches what it should.
"""

import argparse
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

C_ENDINGS = (".c", ".h", ".cpp")
SPDX_ENDINGS = (".c", ".cpp", ".py", ".sh", ".mjs", ".js", ".ts")
TEXT_ENDINGS = C_ENDINGS + SPDX_ENDINGS + (".proto", ".cmake", ".json", ".toml", ".yml", ".md")
SKIPPED_FOLDERS = {"build", "node_modules", "corpus", "data", "__pycache__", "dist"}
COLUMNS = 100

# Libraries that only some folders may include: the header's beginning, the folders, why.
LIBRARIES = [
    (r"(torch|ATen|c10)/", ("core/tensor/", "tests/golden/device.cpp"), "only core/tensor knows libtorch"),
    (r"(grpc|grpcpp)/", ("server/transport/", "clients/cli/", "tests/"),
     "only server/transport and clients/cli know gRPC"),
    (r"microhttpd\.h", ("server/transport/",), "only server/transport knows HTTP"),
    (r"uv\.h", ("server/", "tests/"), "core has no event loop"),
    (r"sqlite3\.h", ("server/runtime/", "tests/"), "only server/runtime knows SQLite"),
    (r"(protobuf-c/|.*\.pb-c\.h)",
     ("server/convert/", "server/service/", "server/transport/", "clients/cli/", "tests/"),
     "protobuf messages end at server/convert and server/service"),
    (r"pcre2\.h", ("core/tokenizer/",), "only core/tokenizer knows PCRE2"),
    (r"utf8proc\.h", ("core/tokenizer/",), "only core/tokenizer knows utf8proc"),
]  # fmt: skip

# Our own headers: the folder that includes, and what it may include from the tree.
LAYERS = [
    ("core/base/", ("core/base/",)),
    ("core/json/", ("core/json/", "core/base/")),
    ("core/tensor/", ("core/tensor/", "core/base/")),
    ("core/tokenizer/", ("core/tokenizer/", "core/json/", "core/base/")),
    ("core/", ("core/",)),
    ("server/", ("server/", "core/")),
    ("clients/", ("clients/", "core/base/")),
    ("tests/", ("tests/", "server/", "core/", "clients/")),
]

BANNED = {
    "strcpy": "snprintf or memcpy", "strcat": "snprintf", "sprintf": "snprintf",
    "vsprintf": "vsnprintf", "strtok": "strcspn", "atoi": "strtol", "atol": "strtol",
    "atof": "strtod", "gets": "fgets", "alloca": "an arena",
}  # fmt: skip
HEAP = ("malloc", "calloc", "realloc", "free", "strdup", "strndup", "reallocarray")
MACHINE_PATH = re.compile(r"(?<![\w.}$])/(work|root|home/\w+|tmp/tools|opt/wheels)/")


class Lint:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self.files = sorted(self.find(root))

    def find(self, folder: Path):
        for path in folder.iterdir():
            if path.is_dir():
                skip = path.name in SKIPPED_FOLDERS or path.name.startswith(".")
                if not skip and not path.name.endswith(".egg-info") and not path.is_symlink():
                    yield from self.find(path)
            elif path.suffix in TEXT_ENDINGS or path.name in ("Makefile", "CMakeLists.txt"):
                if not re.search(r"_pb2\.pyi?$|package-lock\.json$", path.name):
                    yield path

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def report(self, path: Path, line: int, text: str) -> None:
        self.problems.append(f"{self.name(path)}:{line}: {text}")

    def run(self, tools: bool) -> None:
        for path in self.files:
            lines = path.read_text(encoding="utf-8").split("\n")
            self.check_text(path, lines)
            if path.suffix in C_ENDINGS:
                self.check_includes(path, lines)
                self.check_calls(path, lines)
            if path.suffix == ".proto" and "google/" not in self.name(path):
                self.check_proto(path, lines)
        self.check_readmes()
        if tools:
            self.check_format()
            self.check_headers()

    def check_text(self, path: Path, lines: list[str]) -> None:
        name = self.name(path)
        if path.suffix in SPDX_ENDINGS and not any("SPDX-License-Identifier" in x for x in lines[:2]):
            self.report(path, 1, "the SPDX line is missing at the top")
        generated = any(re.search(r"[Gg]enerated by|do not edit", line) for line in lines[:3])
        wide = path.suffix not in (".md", ".json", ".yml") and not generated
        for number, line in enumerate(lines, 1):
            if "\t" in line and path.name != "Makefile":
                self.report(path, number, "a tab; use spaces")
            if line.rstrip() != line:
                self.report(path, number, "blanks at the end of the line")
            limit = COLUMNS if path.suffix in C_ENDINGS else COLUMNS + 32
            if wide and len(line) > limit:
                self.report(path, number, f"{len(line)} columns; the limit is {limit}")
            if MACHINE_PATH.search(line) and not name.startswith("tests/lint/"):
                self.report(path, number, "the path of one machine")
            if path.suffix == ".h" and "TODO" in line:
                self.report(path, number, "no TODO in a header")
        if lines[-1] != "":
            self.report(path, len(lines), "no newline at the end of the file")

    def check_includes(self, path: Path, lines: list[str]) -> None:
        name = self.name(path)
        allowed = next((folders for folder, folders in LAYERS if name.startswith(folder)), None)
        for number, line in enumerate(lines, 1):
            match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if match is None:
                continue
            header = match[2]
            for pattern, folders, why in LIBRARIES:
                if re.match(pattern, header) and not name.startswith(folders):
                    self.report(path, number, f"may not include {header}: {why}")
            ours = header.startswith(("core/", "server/", "clients/", "tests/"))
            if ours and allowed is not None and not header.startswith(allowed):
                self.report(path, number, f"may not include {header}: an arrow drawn back")
            if match[1] == '"' and not ours and not header.endswith(".pb-c.h"):
                self.report(path, number, f"include {header} by its path from the root")
            if header.startswith("core/tensor/") and not name.startswith(("core/", "tests/")):
                if header != "core/tensor/tensor.h":
                    self.report(path, number, f"{header} is core/tensor's own")

    def check_calls(self, path: Path, lines: list[str]) -> None:
        name = self.name(path)
        heap_allowed = name.startswith(("core/base/", "core/tensor/", "tests/"))
        for number, line in enumerate(strip_comments("\n".join(lines)).split("\n"), 1):
            for match in re.finditer(r"(?<![\w.>])(?:std::)?(\w+)\s*\(", line):
                call = match[1]
                if call in BANNED:
                    self.report(path, number, f"{call}() is banned; use {BANNED[call]}")
                if call in HEAP and not heap_allowed:
                    self.report(path, number, f"{call}(): the heap is core/base/mem.h")

    def check_proto(self, path: Path, lines: list[str]) -> None:
        """A field, rpc, message or enum value has a comment above it or on its line."""
        item = re.compile(
            r"\s*(rpc\s+\w+|message\s+\w+|service\s+\w+|enum\s+\w+|[A-Z][A-Z0-9_]+\s*=\s*\d+"
            r"|(?:repeated\s+|optional\s+)?[\w.]+\s+\w+\s*=\s*\d+)"
        )
        for number, line in enumerate(lines, 1):
            match = item.match(line)
            if match is None or line.lstrip().startswith(("option", "syntax", "//")):
                continue
            above = lines[number - 2].strip() if number > 1 else ""
            if "//" not in line and not above.startswith("//"):
                self.report(path, number, f"'{match[1].strip()}' has no comment")

    def check_readmes(self) -> None:
        """Folders with code, two levels deep; below that the parent's README may speak for them."""
        code = C_ENDINGS + (".py", ".sh", ".mjs", ".ts", ".proto")
        folders = set()
        for path in self.files:
            parts = path.relative_to(self.root).parts[:-1]
            if path.suffix in code and parts:
                folders.add(Path(*parts[:2]))
        for folder in sorted(folders):
            own = (self.root / folder / "README.md").exists()
            parent = folder.parts[0] in ("proto", "deploy") and (
                self.root / folder.parts[0] / "README.md").exists()  # fmt: skip
            if not own and not parent:
                self.report(self.root / folder / "README.md", 1, "this folder holds code: say what for")

    def check_format(self) -> None:
        tool = shutil.which("clang-format-16") or shutil.which("clang-format")
        if tool is None:
            print("SKIP clang_format: clang-format-16 is not installed (make deps installs it)")
            return
        version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
        if " 16." not in version:
            print(f"SKIP clang_format: {version.strip()} is not the pinned one, 16")
            return
        sources = [path for path in self.files if path.suffix in C_ENDINGS]

        def check(path: Path) -> str:
            run = subprocess.run([tool, "--dry-run", "-Werror", str(path)], capture_output=True,
                                 text=True, check=False)  # fmt: skip
            match = re.search(r":(\d+):\d+: error", run.stderr)
            return "" if run.returncode == 0 else match[1] if match else "1"

        with ThreadPoolExecutor() as pool:
            for path, line in zip(sources, pool.map(check, sources)):
                if line:
                    self.report(path, int(line), "run clang-format-16 -i on this file")

    def check_headers(self) -> None:
        """Each header of core compiles alone, as C and as C++."""
        headers = [path for path in self.files if path.suffix == ".h"]
        headers = [path for path in headers if self.name(path).startswith("core/")]
        jobs = []
        for compiler, language in ((["cc", "-std=c11"], "c"), (["c++", "-std=c++17"], "c++")):
            if shutil.which(compiler[0]) is None:
                print(f"SKIP headers_as_{language}: no {compiler[0]}")
                continue
            jobs += [(path, [*compiler, f"-x{language}"]) for path in headers]

        def check(job) -> str:
            path, command = job
            run = subprocess.run(
                [*command, "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I", str(self.root),
                 "-fsyntax-only", "-"],
                input=f'#include "{self.name(path)}"\n', capture_output=True, text=True, check=False,
            )  # fmt: skip
            return run.stderr if run.returncode != 0 else ""

        with ThreadPoolExecutor() as pool:
            for (path, command), errors in zip(jobs, pool.map(check, jobs)):
                if errors and "#error" not in errors and "core/tensor" not in self.name(path):
                    first = next((x for x in errors.splitlines() if "error" in x), errors[:200])
                    self.report(path, 1, f"does not compile alone with {command[0]}: {first}")


def strip_comments(text: str) -> str:
    """Blanks out comments, strings and characters; keeps the lines."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--no-tools", action="store_true", help="only what needs no other program")
    arguments = parser.parse_args()
    lint = Lint(arguments.root.resolve())
    lint.run(tools=not arguments.no_tools)
    for problem in lint.problems:
        print(problem)
    print(f"{len(lint.files)} files, {len(lint.problems)} problems")
    return 1 if lint.problems else 0


if __name__ == "__main__":
    sys.exit(main())
