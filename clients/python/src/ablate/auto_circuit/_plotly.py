# SPDX-License-Identifier: Apache-2.0
"""plotly, which figures need and nothing else does."""

from __future__ import annotations

from typing import Any


def plotly(what: str) -> tuple[Any, Any]:
    """Its ``graph_objects`` and ``subplots``. Raises ModuleNotFoundError, which says ``what`` needs it."""
    try:
        from plotly import graph_objects, subplots
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{what} are drawn by plotly: pip install plotly") from None
    return graph_objects, subplots
