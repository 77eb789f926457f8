# SPDX-License-Identifier: Apache-2.0
"""What the package's text promises: its types (mypy, strict) and its style (ruff), as pyproject.toml sets
them. Both tools are pinned there, in the extra ``lint``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def check(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_are_strict() -> None:
    check("mypy")


def test_the_style_is_kept() -> None:
    check("ruff", "check", ".")


def test_what_is_wrong_would_be_found(tmp_path: Path) -> None:
    """Both read the settings that they are meant to read."""
    wrong = tmp_path / "wrong.py"
    lines = "import os", "import ablate", "def size(graph: ablate.Graph) -> str:", "    return graph.edge_count"
    wrong.write_text("\n".join(lines) + "\n")
    settings = str(ROOT / "pyproject.toml")
    types = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", settings, str(wrong)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert 'got "int", expected "str"' in types.stdout, types.stdout + types.stderr
    style = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", settings, str(wrong)], capture_output=True, text=True
    )
    assert "F401" in style.stdout, style.stdout + style.stderr


def imports(tree: ast.AST) -> list[tuple[int, str, str]]:
    """(dots, module, name) of all imports that run; those for types alone do not."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", alias.name) for alias in node.names]
        else:
            found += imports(node)
    return found


def arrows(package: Path) -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, at its top or later."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if path.name == "__init__.py" else parts)] = path
    out: dict[str, set[str]] = {}
    for name, path in files.items():
        here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        out[name] = set()
        for dots, module, what in imports(ast.parse(path.read_text())):
            if dots == 0:
                continue
            base = ".".join([*here[: len(here) - dots + 1], *([module] if module else [])])
            target = f"{base}.{what}" if f"{base}.{what}" in files else base
            out[name] |= {target} & set(files) - {name}
    return out


def ring(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_modules_import_one_another_in_no_ring() -> None:
    assert not ring(arrows(ROOT / "src" / "ablate"))
    assert ring({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_files_are_short() -> None:
    for path in (ROOT / "src" / "ablate").rglob("*.py"):
        assert path.stem.endswith("_pb2") or len(path.read_text().splitlines()) < 600, path
