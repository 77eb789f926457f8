# SPDX-License-Identifier: Apache-2.0
"""What the package's text promises: its types (mypy, strict) and its style (ruff), as pyproject.toml sets
them. Both tools are pinned there, in the extra ``lint``.
"""

from __future__ import annotations

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
