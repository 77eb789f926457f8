# SPDX-License-Identifier: Apache-2.0
"""Small self-contained tables for notebooks; no scripts, so every viewer shows them."""

from __future__ import annotations

import html
from typing import Iterable, Sequence


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; everything is escaped."""
    lines = [f"<table><caption>{html.escape(caption)}</caption><tr>"]
    lines += [f"<th>{html.escape(name)}</th>" for name in header]
    lines.append("</tr>")
    for row in rows:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</table>")
    return "".join(lines)
