# SPDX-License-Identifier: Apache-2.0
"""plotly, which figures need and nothing else does."""

from __future__ import annotations

from typing import Any, Dict

from .types import COLOR_PALETTE


def plotly(what: str) -> tuple[Any, Any]:
    """Its ``graph_objects`` and ``subplots``. Raises ModuleNotFoundError, which says ``what`` needs it."""
    try:
        from plotly import graph_objects, subplots
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{what} are drawn by plotly: pip install plotly") from None
    return graph_objects, subplots


class Legend:
    """One entry and one colour for each name, whichever subplots it is in."""

    def __init__(self) -> None:
        self._colours: Dict[str, str] = {}

    def entry(self, name: str) -> Dict[str, Any]:
        """What a trace of that name is told."""
        first = name not in self._colours
        colour = self._colours.setdefault(name, COLOR_PALETTE[len(self._colours) % len(COLOR_PALETTE)])
        return {"name": name, "legendgroup": name, "showlegend": first, "marker_color": colour, "line_color": colour}
