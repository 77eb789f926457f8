# SPDX-License-Identifier: Apache-2.0
"""Every public name of AutoCircuit 1.0.1 is here, or a function in its place says why not and what to
use; docs/autocircuit.md has the same table. autocircuit_names.json is the released wheel's modules with
their functions, classes, types and constants.
"""

from __future__ import annotations

import json
import re
import types
from importlib import import_module
from pathlib import Path

import pytest

from ablate.auto_circuit import _missing

NAMES = json.loads(Path(__file__).with_name("autocircuit_names.json").read_text())
TABLE = Path(__file__).resolve().parents[3] / "docs" / "autocircuit.md"
BEGIN, END = "<!-- names -->\n", "<!-- end of names -->\n"


def rows() -> str:
    """The table: a module, what of it is offered, what is not and why."""
    lines = ["| `auto_circuit.` | offered | not, and why |\n", "|---|---|---|\n"]
    for module, names in NAMES.items():
        missing = _missing.NAMES.get(module, {})
        offered = ", ".join(f"`{name}`" for name in names if name not in missing) or "nothing"
        by_reason: dict[str, list[str]] = {}
        for name in names:
            if name in missing:
                by_reason.setdefault(missing[name], []).append(f"`{name}`")
        refused = "; ".join(f"{', '.join(which)}: {why}" for why, which in by_reason.items())
        lines.append(f"| `{module}` | {offered} | {refused} |\n")
    return "".join(lines)


@pytest.mark.parametrize("module", NAMES)
def test_each_name_is_here_or_says_why_not(module: str) -> None:
    ours = import_module(f"ablate.auto_circuit.{module}")
    missing = _missing.NAMES.get(module, {})
    assert set(missing) <= set(NAMES[module])
    for name in NAMES[module]:
        thing = getattr(ours, name)
        if name in missing:
            with pytest.raises(NotImplementedError, match=re.escape(f"{name} is not here: {missing[name]}")):
                thing("anything", more=1)
        else:
            assert not isinstance(thing, types.FunctionType) or thing.__name__ != "missing"
    with pytest.raises(AttributeError):
        ours.no_such_name  # noqa: B018


def test_the_documentation_has_the_table() -> None:
    """``python clients/python/tests/test_autocircuit_names.py`` writes it."""
    text = TABLE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == rows()


if __name__ == "__main__":
    text = TABLE.read_text()
    TABLE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + rows() + text[text.index(END) :])
