# SPDX-License-Identifier: Apache-2.0
"""Where a circuit's nodes and edges go: rows by layer, order by barycentres, no graphviz."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Mapping, Sequence

import numpy as np

from .._arrays import Array, to_numpy

if TYPE_CHECKING:
    from .._graph import Graph

EDGES_MAX = 2000
"""More lines than that are ink, not a picture."""
BOX_WIDTH, BOX_HEIGHT = 0.82, 0.46
_SWEEPS = 24
_COLUMN_GAP = 0.7
_PORTS = {"Q": -0.27, "K": 0.0, "V": 0.27}


@dataclass
class Box:
    """A node at a position."""

    label: str
    kind: str
    """``"head"``, ``"kv"`` (keys and values that several heads share), ``"mlp"`` or ``"residual"``."""
    order: float
    """What rows go by."""
    seq_idx: int | None
    x: float = 0.0
    y: float = 0.0
    ports: set[str] = field(default_factory=set)


@dataclass
class Line:
    """An edge."""

    name: str
    score: float
    source: int
    """Index of its box."""
    destination: int
    port: str


@dataclass
class Drawing:
    """A circuit with places; a unit is about an inch to the right and 0.8 upward."""

    boxes: list[Box]
    lines: list[Line]
    moves: list[tuple[int, int]]
    """From where heads read keys and values to where they write, as boxes."""
    rows: list[tuple[float, str]]
    columns: list[tuple[float, float, str]]
    """Of a token-specific graph: left, right, token."""

    @property
    def limit(self) -> float:
        """The largest |score|."""
        return max(abs(line.score) for line in self.lines)

    def curve(self, line: Line, points: int = 24) -> np.ndarray:
        """A line's way from the top of its source to the bottom of its destination: ``[points, 2]``."""
        a, b = self.boxes[line.source], self.boxes[line.destination]
        start = np.array([a.x, a.y + BOX_HEIGHT / 2])
        end = np.array([b.x + _PORTS.get(line.port, 0.0) * BOX_WIDTH, b.y - BOX_HEIGHT / 2])
        rise = max(end[1] - start[1], 0.2)
        # A long straight way leads through other boxes: it goes round them.
        bulge = 0.0
        if rise > 1 and abs(end[0] - start[0]) < 0.5:
            bulge = (0.55 + 0.04 * rise) * (1 if line.port in ("V", "") else -1)
        pull = min(0.5 * rise, 1.6)
        one, two = start + [bulge, pull], end + [bulge, -pull]
        t = np.linspace(0, 1, points)[:, None]
        way = (1 - t) ** 3 * start + 3 * t * (1 - t) ** 2 * one + 3 * t**2 * (1 - t) * two + t**3 * end
        return np.asarray(way)

    def arc(self, reader: int, writer: int, points: int = 16) -> np.ndarray:
        """A move's way, over what is between: ``[points, 2]``."""
        a, b = self.boxes[reader], self.boxes[writer]
        t = np.linspace(0, 1, points)[:, None]
        start, end = np.array([a.x, a.y]), np.array([b.x, b.y])
        over = np.array([0.0, 2.2 * BOX_HEIGHT if abs(a.x - b.x) > 0.9 * BOX_WIDTH and a.y == b.y else 0.0])
        return np.asarray((1 - t) * start + t * end + 2 * t * (1 - t) * over)


def ranked(
    arrays: Mapping[str, Array], edge_count: int | None, threshold: float | None
) -> list[tuple[str, tuple[int, ...], float]]:
    """(module, element, score) of the chosen edges, largest |score| first."""
    if edge_count is not None and threshold is not None:
        raise ValueError("give edge_count or threshold")
    if edge_count is None and threshold is None:
        edge_count = 40
    names = list(arrays)
    values = [to_numpy(arrays[name]).astype(np.float64) for name in names]
    flat = np.concatenate([value.reshape(-1) for value in values]) if values else np.zeros(0)
    starts = np.cumsum([0] + [value.size for value in values])
    size = np.nan_to_num(np.abs(flat), nan=0.0)
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    order = order[:edge_count] if threshold is None else order[size[order] >= threshold]
    if len(order) == 0:
        raise ValueError("no edge has such a score: there is nothing to draw")
    if len(order) > EDGES_MAX:
        raise ValueError(
            f"{len(order)} edges cannot be told apart in a picture; draw {EDGES_MAX} or fewer, "
            "or all of them as a heat map: plot.scores"
        )
    out = []
    for index in order:
        module = int(np.searchsorted(starts, index, side="right")) - 1
        where = np.unravel_index(index - starts[module], values[module].shape)
        out.append((names[module], tuple(int(i) for i in where), float(flat[index])))
    return out


def draw(
    graph: "Graph",
    arrays: Mapping[str, Array],
    edge_count: int | None,
    threshold: float | None,
    tokens: Sequence[str] | None,
) -> Drawing:
    """A circuit's drawing."""
    if tokens is not None and graph.seq_len is not None and len(tokens) != graph.seq_len:
        raise ValueError(f"{len(tokens)} tokens for a graph of {graph.seq_len} positions")
    chosen = ranked(arrays, edge_count, threshold)
    naming = Naming(graph)
    places: dict[tuple[str, int | None], int] = {}
    boxes: list[Box] = []
    lines: list[Line] = []

    def box(node: str, seq_idx: int | None, is_source: bool) -> tuple[int, str]:
        label, port, kind, order = naming.box(node, is_source)
        if (label, seq_idx) not in places:
            places[label, seq_idx] = len(boxes)
            boxes.append(Box(label, kind, order, seq_idx))
        index = places[label, seq_idx]
        boxes[index].ports |= {port} - {""}
        return index, port

    for module, where, score in chosen:
        seq_idx, source, destination = naming.edge(module, where)
        begin, _ = box(source, seq_idx, True)
        end, port = box(destination, seq_idx, False)
        name = f"{source}->{destination}" if seq_idx is None else f"[{seq_idx}]{source}->{destination}"
        lines.append(Line(name, score, begin, end, port))
    rows = _rows(boxes)
    columns = _columns(boxes, lines, tokens)
    return Drawing(boxes, lines, _moves(boxes, lines, naming), rows, columns)


class Naming:
    """A graph's nodes by their places in score arrays, and the boxes that they are drawn as."""

    def __init__(self, graph: "Graph"):
        self._sources = [node for node in graph.nodes if node.is_source]
        self._destinations = {
            (node.module_name, node.head_idx): node for node in graph.nodes if not node.is_source
        }
        self._wrappers = {wrapper.module_name: wrapper for wrapper in graph.dest_wrappers}
        self._has_seq = graph.seq_len is not None
        self._layer = {(node.name, node.is_source): node.layer for node in graph.nodes}
        self._by_layer = not graph.is_factorized
        cfg = graph.model.cfg
        shares = cfg.n_key_value_heads and cfg.n_key_value_heads < cfg.n_heads
        self.heads_a_key = cfg.n_heads // cfg.n_key_value_heads if shares else 1
        self.shared_keys = bool(shares) and not graph.expand_kv_heads

    def edge(self, module: str, where: tuple[int, ...]) -> tuple[int | None, str, str]:
        """Position, source and destination of an element of a score array."""
        seq_idx = where[0] if self._has_seq else None
        head = where[-2] if len(where) - self._has_seq > 1 else None
        sources = self._wrappers[module].in_srcs
        first = sources.start if sources is not None else 0
        node = self._destinations.get((module, head)) or self._destinations[module, None]
        return seq_idx, self._sources[first + where[-1]].name, node.name

    def box(self, name: str, is_source: bool) -> tuple[str, str, str, float]:
        """Label, port, kind and order of a node."""
        if self._by_layer:
            kind = {"A": "head", "M": "mlp"}.get(name[0], "residual")
            return name, "", kind, self._layer[name, is_source] + (0.0 if is_source else -0.1)
        if match := re.fullmatch(r"A(\d+)\.(\d+)(?:\.([QKV]))?", name):
            layer, port = int(match[1]), match[3] or ""
            if port in ("K", "V") and self.shared_keys:
                return f"KV{layer}.{match[2]}", port, "kv", 4 * layer + 1
            return f"A{layer}.{match[2]}", port, "head", 4 * layer + 2
        if match := re.fullmatch(r"MLP (\d+)", name):
            return name, "", "mlp", 4 * int(match[1]) + 3
        return name, "", "residual", -1.0 if is_source else 1e9


def _rows(boxes: list[Box]) -> list[tuple[float, str]]:
    """Gives each box its height; rows without boxes take no room."""
    orders = sorted({box.order for box in boxes})
    rows = []
    for y, order in enumerate(orders):
        members = [box for box in boxes if box.order == order]
        for box in members:
            box.y = float(y)
        number = re.search(r"\d+", members[0].label)
        kind = {"head": "attention", "kv": "keys, values", "mlp": "MLP"}.get(members[0].kind, "")
        rows.append((float(y), f"{kind} {number[0]}" if kind and number else ""))
    return rows


def _columns(
    boxes: list[Box], lines: list[Line], tokens: Sequence[str] | None
) -> list[tuple[float, float, str]]:
    """Gives each box its x: each position by itself, one to the right of the other."""
    columns, left = [], 0.0
    for seq_idx in sorted({box.seq_idx for box in boxes}, key=lambda value: -1 if value is None else value):
        members = [i for i, box in enumerate(boxes) if box.seq_idx == seq_idx]
        _order(boxes, [line for line in lines if line.source in set(members)], members)
        shift = left - min(boxes[i].x for i in members) + 0.5
        for i in members:
            boxes[i].x += shift
        right = max(boxes[i].x for i in members) + 0.5
        if seq_idx is not None:
            columns.append((left, right, tokens[seq_idx] if tokens is not None else f"position {seq_idx}"))
        left = right + _COLUMN_GAP
    return columns


def _order(boxes: list[Box], lines: list[Line], members: list[int]) -> None:
    """Sweeps up and down: each box wants to be where its neighbours are, a unit from its row's others."""
    neighbours: dict[int, list[tuple[int, float]]] = {i: [] for i in members}
    for line in lines:
        weight = abs(line.score) ** 0.5
        neighbours[line.source].append((line.destination, weight))
        neighbours[line.destination].append((line.source, weight))
    rows: dict[float, list[int]] = {}
    for i in members:
        rows.setdefault(boxes[i].y, []).append(i)
    for row in rows.values():
        row.sort(key=lambda i: [int(n) for n in re.findall(r"\d+", boxes[i].label)])
        for place, i in enumerate(row):
            boxes[i].x = place - (len(row) - 1) / 2
    heights = sorted(rows)
    for sweep in range(_SWEEPS):
        for y in heights if sweep % 2 == 0 else reversed(heights):
            wish = {}
            for i in rows[y]:
                total = sum(weight for _, weight in neighbours[i])
                mean = sum(boxes[j].x * weight for j, weight in neighbours[i]) / total if total else 0.0
                wish[i] = mean
            order = sorted(rows[y], key=lambda i: (wish[i], boxes[i].x))
            for i, x in zip(order, spread([wish[i] for i in order])):
                boxes[i].x = x


def spread(wishes: list[float]) -> list[float]:
    """The places nearest to ascending wishes that are a unit apart: pools of adjacent violators."""
    pools: list[list[float]] = []  # mean of wish - rank, members
    for rank, wish in enumerate(wishes):
        pools.append([wish - rank, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            before = pools[-1]
            before[0] = (before[0] * before[1] + mean * count) / (before[1] + count)
            before[1] += count
    means = [mean for mean, count in pools for _ in range(int(count))]
    return [mean + rank for rank, mean in enumerate(means)]


def _moves(boxes: list[Box], lines: list[Line], naming: Naming) -> list[tuple[int, int]]:
    """Where attention carries what was read as keys and values."""
    writes = {line.source for line in lines} | {
        line.destination for line in lines if line.port == "Q"
    }
    moves = []
    for i, reader in enumerate(boxes):
        if not reader.ports & {"K", "V"}:
            continue
        layer, head = reader.label.lstrip("AKV").split(".")
        for j, writer in enumerate(boxes):
            if writer.kind != "head" or j not in writes or i == j:
                continue
            other_layer, other = writer.label.lstrip("A").split(".")
            same = int(other) // naming.heads_a_key == int(head) if reader.kind == "kv" else other == head
            later = reader.seq_idx is None or (writer.seq_idx or 0) >= reader.seq_idx
            if layer == other_layer and same and later:
                moves.append((i, j))
    return moves
