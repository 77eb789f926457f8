# SPDX-License-Identifier: Apache-2.0
"""Scores as a matrix of destinations and sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping

import numpy as np

from .._arrays import Array, to_numpy

if TYPE_CHECKING:
    from .._graph import Graph


@dataclass
class Heat:
    """A matrix of scores, NaN where there is no edge."""

    values: np.ndarray
    """``[destination, source]``"""
    destinations: list[str]
    sources: list[str]
    limit: float
    """The |score| at which colours end."""
    clipped: bool
    """Whether any |score| is beyond it."""

    @property
    def shades(self) -> np.ndarray:
        """From -1 to 1, shaped as the values: the signed square root of score / limit, for a few edges dwarf
        the rest."""
        share = np.clip(self.values / self.limit, -1, 1)
        return np.sign(share) * np.sqrt(np.abs(share))

    def legend(self) -> list[tuple[float, str]]:
        """Shades and the scores that they stand for."""
        shades = (-1.0, -0.7, -0.4, 0.0, 0.4, 0.7, 1.0)
        texts = [f"{np.sign(shade) * shade**2 * self.limit:+.2g}" if shade else "0" for shade in shades]
        if self.clipped:
            texts[0], texts[-1] = f"≤ {texts[0]}", f"≥ {texts[-1]}"
        return list(zip(shades, texts))


def heat_map(
    graph: "Graph", arrays: Mapping[str, Array], seq_idx: int | None, limit: float | None
) -> Heat:
    """The matrix of a graph's scores."""
    if seq_idx is not None and graph.seq_len is None:
        raise ValueError("seq_idx is for token-specific graphs; this graph's edges have no position")
    if seq_idx is not None and not 0 <= seq_idx < (graph.seq_len or 0):
        raise ValueError(f"seq_idx must be from 0 to {(graph.seq_len or 0) - 1}, not {seq_idx}")
    sources = [node.name for node in graph.nodes if node.is_source]
    names = {(node.module_name, node.head_idx): node.name for node in graph.nodes if not node.is_source}
    rows: list[np.ndarray] = []
    labels: list[str] = []
    for wrapper in graph.dest_wrappers:
        if wrapper.module_name not in arrays:
            continue
        values = to_numpy(arrays[wrapper.module_name]).astype(np.float64)
        if graph.seq_len is not None:
            values = values.sum(0) if seq_idx is None else values[seq_idx]
        first = wrapper.in_srcs.start if wrapper.in_srcs is not None else 0
        for head, row in enumerate(values.reshape(-1, values.shape[-1])):
            full = np.full(len(sources), np.nan)
            full[first : first + len(row)] = row
            rows.append(full)
            labels.append(names.get((wrapper.module_name, head)) or names[wrapper.module_name, None])
    if not rows:
        raise ValueError("the scores have none of this graph's modules")
    matrix = np.stack(rows)
    size = np.abs(matrix[np.isfinite(matrix)])
    if limit is None:
        limit = float(np.quantile(size, 0.999)) or float(size.max(initial=0.0)) or 1.0
    if limit <= 0:
        raise ValueError("limit must be above 0")
    return Heat(matrix, labels, sources, limit, bool(size.max(initial=0.0) > limit))


def ticks(names: list[str], apart: float) -> list[tuple[float, str]]:
    """Places and texts for an axis whose labels must be ``apart`` places from each other: every name
    while there is room, else heads by layer and input, else layers.
    """
    if apart <= 1:
        return [(float(place), name) for place, name in enumerate(names)]
    for pattern in (r"(A\d+)\.\d+(\.[QKV])?", r"(A\d+)\.\d+(?:\.[QKV])?"):
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            match = re.fullmatch(pattern, name)
            groups.setdefault("".join(part or "" for part in match.groups()) if match else name, []).append(place)
        heads = [(sum(p) / len(p), name) for name, p in groups.items() if len(p) > 1]
        if all(b[0] - a[0] >= apart for a, b in zip(heads, heads[1:])):
            break
    chosen = heads
    for name, places in sorted(groups.items(), key=lambda item: not item[0].startswith("Resid")):
        at = float(places[0])
        if len(places) == 1 and all(abs(at - other) >= apart for other, _ in chosen):
            chosen = [*chosen, (at, name)]
    return sorted(chosen)
