# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's ``auto_circuit.visualize``: circuits as plotly's Sankey diagrams."""

from __future__ import annotations

import os
import sys
from typing import Any, Collection, Dict, Iterable, List, Literal, Optional, Tuple

import numpy as np

from .._arrays import to_numpy
from ._missing import missing_from
from ._plotly import plotly
from .types import COLOR_PALETTE, Edge, PruneScores
from .utils.misc import repo_path_to_abs_path
from .utils.patchable_model import PatchableModel
from .utils.tensor_ops import prune_scores_threshold

_SIGNS = {1: "rgba(0,0,255,0.3)", -1: "rgba(255,0,0,0.3)", 0: "rgba(0,0,0,0.1)"}


def show(figure: Any) -> None:
    """Displays a figure in a notebook; elsewhere there is no place for it."""
    if getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)() is not None:
        figure.show()


def node_name(n: str, unembed: bool = False) -> str:
    """What a node is labelled with: a head without its Q, K or V, the stream's ends as embeddings."""
    if n in ("Resid Start", "Resid End"):
        return "Embed" if n == "Resid Start" else "Unembed" if unembed else ""
    return n[:-2] if n[-2:] in (".Q", ".K", ".V") else n


def circuit_of(prune_scores: PruneScores, edge_count: int) -> PruneScores:
    """1 for the ``edge_count`` edges of largest |score| and those tied with the last, 0 for others."""
    threshold = float(prune_scores_threshold(prune_scores, edge_count))
    return {name: (np.abs(to_numpy(s)) >= threshold).astype(np.float32) for name, s in prune_scores.items()}


def net_viz(
    model: PatchableModel,
    seq_edges: Collection[Edge],
    prune_scores: Optional[PruneScores],
    vert_interval: Tuple[float, float],
    seq_idx: Optional[int] = None,
    score_threshold: float = 1e-2,
    layer_spacing: bool = False,
    orientation: Literal["h", "v"] = "h",
) -> Tuple[Any, int]:
    """The diagram of one token position and how many layers are in it; :func:`draw_seq_graph` puts
    these together. Without ``prune_scores`` masks are drawn.
    """
    scores = _arrays(model, prune_scores)
    drawn = [(edge, float(edge.prune_score(scores))) for edge in seq_edges]
    drawn = [(edge, score) for edge, score in drawn if abs(score) >= score_threshold]
    unembed = orientation == "v"
    layers: Dict[str, int] = {}
    for edge, _ in drawn:
        for node in (edge.src, edge.dest):
            layers[node_name(node.name, unembed)] = node.layer
    index = {name: i for i, name in enumerate(layers)}
    nodes: Dict[str, Any] = {
        "label": list(layers),
        "color": [COLOR_PALETTE[i % len(COLOR_PALETTE)] for i in range(len(layers))],
        "line": {"width": 0},
    }
    last = max(dest.layer for dest in model.dests)
    if layer_spacing:
        nodes["x"], nodes["y"] = _places(layers, last)
    diagram = plotly("circuits")[0].Sankey(
        arrangement="perpendicular",
        orientation=orientation,
        domain={"y": vert_interval},
        node=nodes,
        link={
            "arrowlen": 25,
            "source": [index[node_name(edge.src.name, unembed)] for edge, _ in drawn],
            "target": [index[node_name(edge.dest.name, unembed)] for edge, _ in drawn],
            "value": [abs(score) or 0.01 for _, score in drawn],
            "label": [f"{edge.name}<br>{score:.2f}" for edge, score in drawn],
            "color": [_SIGNS[int(np.sign(score))] for _, score in drawn],
        },
    )
    return diagram, last + 1 if layer_spacing else len(set(layers.values()))


def _places(layers: Dict[str, int], last: int) -> Tuple[List[float], List[float]]:
    """Where nodes are: along by layer, ``last`` at the end, across in order."""
    members: Dict[int, List[str]] = {}
    for name, layer in layers.items():
        members.setdefault(layer, []).append(name)
    across = {
        name: (i + 0.5) / len(names) for names in members.values() for i, name in enumerate(sorted(names))
    }
    return [0.01 + 0.98 * layer / last for layer in layers.values()], [across[name] for name in layers]


def draw_seq_graph(
    model: PatchableModel,
    prune_scores: Optional[PruneScores] = None,
    score_threshold: float = 1e-2,
    show_all_seq_pos: bool = False,
    seq_labels: Optional[List[str]] = None,
    layer_spacing: bool = False,
    orientation: Literal["h", "v"] = "h",
    display_ipython: bool = True,
    file_path: Optional[str] = None,
) -> Any:
    """A plotly figure of the edges whose |score| is at least ``score_threshold``, a diagram for each
    token position that has any (``show_all_seq_pos``: for all). Without ``prune_scores`` masks are drawn.

    Widths are |score|; blue is positive, red negative. ``layer_spacing``: nodes stand by their layers.
    ``display_ipython``: shown at once, in a notebook. ``file_path``: written there; ``.html`` needs
    nothing more, pictures need kaleido. Raises ModuleNotFoundError without plotly.
    """
    go = plotly("circuits")[0]
    scores = _arrays(model, prune_scores)
    heights = _heights(model, scores, score_threshold, show_all_seq_pos)
    diagrams, layer_count = [], 0
    intervals = _intervals(heights)
    for seq_idx, interval in intervals.items():
        diagram, layers = net_viz(
            model, model.edge_dict[seq_idx], scores, interval, seq_idx, score_threshold, layer_spacing, orientation
        )
        layer_count = max(layer_count, layers)
        diagrams.append(diagram)
    a_layer = 120 if layer_spacing else 50
    along, across = max(a_layer * layer_count, 600), max(250 * len(diagrams), 400)
    size = {"height": across, "width": along}
    if orientation == "v":
        size = {"height": along, "width": max(700 * len(diagrams), 800)}
    figure = go.Figure(data=diagrams, layout={**size, "font": {"size": 19}})
    if seq_labels is not None:
        figure.update_layout(margin={"l": 160})
        for seq_idx, (low, high) in intervals.items():
            text = "All tokens" if seq_idx is None else seq_labels[seq_idx]
            figure.add_annotation(
                text=f"<b>{text}</b>", x=0, xanchor="right", xshift=-20, y=(low + high) / 2,
                xref="paper", yref="paper", showarrow=False,
            )  # fmt: skip
    if display_ipython:
        show(figure)
    if file_path:
        path = str(repo_path_to_abs_path(file_path))
        figure.write_html(path) if os.path.splitext(path)[1] == ".html" else figure.write_image(path)
    return figure


def _arrays(model: PatchableModel, prune_scores: Optional[PruneScores]) -> Dict[str, np.ndarray]:
    source = model.graph.get_patch_mask() if prune_scores is None else prune_scores
    return {name: to_numpy(array) for name, array in source.items()}


def _heights(
    model: PatchableModel, scores: Dict[str, np.ndarray], threshold: float, show_all: bool
) -> Dict[Optional[int], float]:
    """Position -> how much is drawn there."""
    if model.seq_len is None:
        return {None: 1.0}
    by_position = np.zeros(model.seq_len)
    has_any = np.zeros(model.seq_len, bool)
    for array in scores.values():
        rows = np.abs(array.reshape(model.seq_len, -1))
        by_position += np.where(rows >= threshold, rows, 0).sum(axis=1)
        has_any |= (rows >= threshold).any(axis=1)
    least = max(by_position.sum(), 1e-2) / (2 * model.seq_len)
    chosen: Iterable[int] = range(model.seq_len) if show_all else np.flatnonzero(has_any).tolist()
    return {i: max(float(by_position[i]), least) for i in chosen}


def _intervals(heights: Dict[Optional[int], float]) -> Dict[Optional[int], Tuple[float, float]]:
    """Position -> its share of the figure, from the top down, with room between."""
    margin = sum(heights.values()) / (2 * max(len(heights), 1))
    total = sum(heights.values()) + margin * (len(heights) - 1)
    intervals, top = {}, total
    for position, height in heights.items():
        intervals[position] = (max((top - height) / total, 0.0), min(top / total, 1.0))
        top -= height + margin
    return intervals


__getattr__ = missing_from(__name__)
