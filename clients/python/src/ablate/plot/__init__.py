# SPDX-License-Identifier: Apache-2.0
"""Pictures of circuits, scores, faithfulness and attention, by matplotlib or by plotly.

    >>> from ablate import plot
    >>> plot.circuit(graph, scores, edge_count=40)
    >>> plot.scores(graph, scores, backend="plotly")
    >>> plot.faithfulness({"EAP": graph.evaluate(eap), "EAP-IG": graph.evaluate(eap_ig)})
    >>> plot.attention(cache["pattern", 3], model.to_str_tokens(text))

``backend`` is ``"matplotlib"`` (which gives a ``matplotlib.figure.Figure`` that a notebook shows and
``savefig`` writes) or ``"plotly"`` (a ``plotly.graph_objects.Figure`` with hover texts); None takes
matplotlib where it is installed, else plotly. Neither is needed for anything else, and neither needs
graphviz: ``pip install 'ablate[plot]'`` has both.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Literal, Mapping, Sequence, Union

from ._attention import attention_maps
from ._curves import curves_of
from ._heat import heat_map
from ._layout import draw

if TYPE_CHECKING:
    from .._arrays import Array
    from .._graph import Graph
    from .._jobs import Job

Backend = Literal["matplotlib", "plotly", None]
ScoresLike = Union[Mapping[str, "Array"], "Job"]
"""Scores (or masks) by module, as :meth:`Graph.prune_scores` gives them; or the job that made them."""

__all__ = ["attention", "circuit", "faithfulness", "scores"]


def _backend(name: Backend) -> Any:
    """The module that draws. ImportError that says what to install; ValueError for another name."""
    if name is None:
        name = "matplotlib" if importlib.util.find_spec("matplotlib") else "plotly"
        if not importlib.util.find_spec(name):
            raise ImportError("pictures need matplotlib or plotly: pip install 'ablate[plot]'")
    if name not in ("matplotlib", "plotly"):
        raise ValueError(f"backend must be 'matplotlib' or 'plotly', not {name!r}")
    if not importlib.util.find_spec(name):
        raise ImportError(f"{name} is not installed: pip install {name}, or 'ablate[plot]' for both")
    return importlib.import_module(f"._{name}", __name__)


def _arrays(values: ScoresLike) -> Mapping[str, "Array"]:
    return values if isinstance(values, Mapping) else values.scores()


def circuit(
    graph: "Graph",
    scores: ScoresLike,
    edge_count: int | None = None,
    *,
    threshold: float | None = None,
    tokens: Sequence[str] | None = None,
    title: str | None = None,
    backend: Backend = None,
) -> Any:
    """A circuit, layer above layer: heads, MLPs, embedding and end, joined by its edges.

    It has the ``edge_count`` edges of largest |score| (40 without either), or those at or above
    ``threshold``; edges that score 0 are never drawn. Width and colour say the score: blue above
    0, orange below. Query, key and value edges of a head end at its left, middle and right. In a
    token-specific graph there is a column a position, named by ``tokens`` (with BOS, if the graph has
    one), and a dotted line from where a head reads keys and values to where it writes.

    Raises ValueError if nothing is left to draw, or more than 2000 edges.
    """
    drawing = draw(graph, _arrays(scores), edge_count, threshold, tokens)
    count = len(drawing.lines)
    text = title if title is not None else f"{graph.model.name}: {count} of {graph.edge_count} edges"
    return _backend(backend).circuit(drawing, text)


def scores(
    graph: "Graph",
    scores: ScoresLike,
    *,
    seq_idx: int | None = None,
    limit: float | None = None,
    title: str | None = None,
    backend: Backend = None,
) -> Any:
    """A heat map of scores: destinations upward, sources to the right, both in layer order.

    ``seq_idx``: the position, in a token-specific graph; None adds all positions up. ``limit``: the
    |score| at which colours end; None takes the 99.9th percentile, for a few edges dwarf the rest.
    """
    heat = heat_map(graph, _arrays(scores), seq_idx, limit)
    return _backend(backend).heat(heat, title if title is not None else f"{graph.model.name}: edge scores")


def faithfulness(
    evaluations: Any,
    metrics: str | Sequence[str] | None = None,
    *,
    title: str = "",
    backend: Backend = None,
) -> Any:
    """Metrics over circuit size, a panel a metric and a curve an evaluation.

    ``evaluations``: what :meth:`Graph.evaluate` returns, or a dict of these by name. ``metrics``:
    one, some, or None for all that they have. Raises ValueError for a metric that was not measured.
    """
    return _backend(backend).curves(curves_of(evaluations, metrics), title)


def attention(
    pattern: "Array",
    tokens: Sequence[str] | None = None,
    *,
    heads: Sequence[int] | None = None,
    row: int = 0,
    title: str = "",
    backend: Backend = None,
) -> Any:
    """Attention patterns, a panel a head: from the token of a row to the token of a column.

    ``pattern``: ``[head, q, k]``, or ``[batch, head, q, k]`` of which prompt ``row`` is drawn, as
    ``cache["pattern", layer]`` is. ``tokens``: the prompt's, ``model.to_str_tokens(text)``.

    Raises ValueError for another shape, or tokens of another number.
    """
    return _backend(backend).attention(attention_maps(pattern, tokens, heads, row), title)
