# SPDX-License-Identifier: Apache-2.0
"""Pictures by plotly, with hover texts."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from . import _palette as palette
from ._attention import Maps, grid
from ._curves import Panel, size_ticks
from ._heat import Heat, ticks
from ._layout import BOX_HEIGHT, BOX_WIDTH, Drawing

_DIVERGING = [[place, palette.hexed(colour)] for place, colour in palette.DIVERGING]
_PATTERN = [[0, "#f7fafc"], [0.5, "#78acdc"], [1, "#08306b"]]
_BINS = 8


def _figure(figure: Any, title: str, width: float, height: float) -> Any:
    figure.update_layout(
        title={"text": title, "font": {"size": 14}, "x": 0.01},
        width=round(width),
        height=round(height),
        margin={"l": 60, "r": 20, "t": 50 if title else 30, "b": 40},
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"color": palette.INK, "size": 11},
        hoverlabel={"font": {"size": 12}},
        legend={"orientation": "h", "y": -0.02, "x": 1, "xanchor": "right", "yanchor": "top"},
    )
    return figure


def circuit(drawing: Drawing, title: str) -> Any:
    """:func:`ablate.plot.circuit`."""
    figure = go.Figure()
    limit = drawing.limit
    for begin, end, token in drawing.columns:
        figure.add_vrect(begin - 0.05, end + 0.05, fillcolor="#f5f7fa", line_width=0, layer="below")
        figure.add_annotation(x=(begin + end) / 2, y=-0.85, text=token, showarrow=False)
    for i, j in drawing.moves:
        arc = drawing.arc(i, j)
        figure.add_trace(
            go.Scatter(x=arc[:, 0], y=arc[:, 1], mode="lines", hoverinfo="skip", showlegend=False,
                       line={"color": palette.FAINT, "width": 1.2, "dash": "dot"})  # fmt: skip
        )
    # Lines of like width and colour are one trace, so that a thousand edges stay smooth.
    bins: dict[tuple[bool, int], list[Any]] = {}
    for line in drawing.lines:
        size = min(int(abs(line.score) / limit * _BINS), _BINS - 1)
        bins.setdefault((line.score >= 0, size), []).append(line)
    named: set[bool] = set()
    for (positive, size), lines in sorted(bins.items(), key=lambda item: (-item[0][1], item[0][0])):
        x: list[float | None] = []
        y: list[float | None] = []
        texts: list[str | None] = []
        for line in lines:
            curve = drawing.curve(line)
            x += [*curve[:, 0].tolist(), None]
            y += [*curve[:, 1].tolist(), None]
            texts += [f"{line.name}<br>score {line.score:+.5g}"] * len(curve) + [None]
        score = (size + 0.5) / _BINS * limit * (1 if positive else -1)
        figure.add_trace(
            go.Scatter(x=x, y=y, text=texts, mode="lines", hovertemplate="%{text}<extra></extra>",
                       name="score above 0" if positive else "below 0", showlegend=positive not in named,
                       legendgroup=str(positive), opacity=0.85,
                       line={"color": palette.of_score(score, limit),
                             "width": palette.width(score, limit)})  # fmt: skip
        )
        named.add(positive)
    joined: dict[int, list[Any]] = {}
    for line in drawing.lines:
        for index in (line.source, line.destination):
            joined.setdefault(index, []).append(line)
    # Shapes would lie above the names, so boxes are filled lines.
    for kind in sorted({box.kind for box in drawing.boxes}):
        corners: tuple[list[float | None], list[float | None]] = ([], [])
        for box in drawing.boxes:
            if box.kind == kind:
                for axis, signs in enumerate(((-1, 1, 1, -1, -1), (-1, -1, 1, 1, -1))):
                    middle, side = ((box.x, BOX_WIDTH), (box.y, BOX_HEIGHT))[axis]
                    corners[axis].extend([*(middle + sign * side / 2 for sign in signs), None])
        figure.add_trace(
            go.Scatter(x=corners[0], y=corners[1], mode="lines", fill="toself", hoverinfo="skip",
                       fillcolor=palette.FILL[kind], line={"color": palette.EDGE[kind], "width": 1},
                       showlegend=False)  # fmt: skip
        )
    figure.add_trace(
        go.Scatter(
            x=[box.x for box in drawing.boxes],
            y=[box.y for box in drawing.boxes],
            text=[box.label.replace("Resid ", "") for box in drawing.boxes],
            customdata=[_joined(box.label, box.seq_idx, joined.get(i, [])) for i, box in enumerate(drawing.boxes)],
            mode="markers+text",
            marker={"size": 26, "opacity": 0},
            textfont={"size": 10},
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    )
    rows = drawing.rows
    figure.update_xaxes(visible=False)
    figure.update_yaxes(tickvals=[y for y, _ in rows], ticktext=[label for _, label in rows], showgrid=False,
                        zeroline=False, range=[-1.2 if drawing.columns else -0.7, len(rows) - 0.3])  # fmt: skip
    xs = [box.x for box in drawing.boxes]
    wide = max(xs) - min(xs) + 1.6
    height = len(rows) * min(58, max(38, 900 / len(rows))) + 120
    return _figure(figure, title, max(wide * 62 + 140, 460), max(height, 300))


def _joined(label: str, seq_idx: int | None, lines: Sequence[Any]) -> str:
    """A node's hover text: its strongest edges."""
    strongest = sorted(lines, key=lambda line: -abs(line.score))[:8]
    head = label if seq_idx is None else f"{label} at position {seq_idx}"
    rest = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
    return "<br>".join([f"<b>{head}</b>", *(f"{line.name} {line.score:+.4g}" for line in strongest), *rest])


def heat(heat: Heat, title: str) -> Any:
    """:func:`ablate.plot.scores`."""
    rows, columns = heat.values.shape
    cell = min(24.0, 800 / max(rows, columns))
    trace = go.Heatmap(
        z=[[None if np.isnan(shade) else round(float(shade), 4) for shade in row] for row in heat.shades],
        customdata=np.where(np.isnan(heat.values), 0.0, heat.values),
        x=heat.sources, y=heat.destinations,
        zmin=-1, zmax=1, colorscale=_DIVERGING, hoverongaps=False,
        hovertemplate="%{x}->%{y}<br>score %{customdata:+.5g}<extra></extra>",
        colorbar={"thickness": 12, "outlinewidth": 0, "tickvals": [shade for shade, _ in heat.legend()],
                  "ticktext": [text for _, text in heat.legend()]},
    )  # fmt: skip
    figure = go.Figure(trace)
    x, y = (ticks(names, 12 / cell) for names in (heat.sources, heat.destinations))
    figure.update_xaxes(title="source", tickvals=[p for p, _ in x], ticktext=[t for _, t in x], tickangle=-90,
                        showgrid=False, zeroline=False, tickfont={"size": 9})  # fmt: skip
    figure.update_yaxes(title="destination", tickvals=[p for p, _ in y], ticktext=[t for _, t in y],
                        showgrid=False, zeroline=False, tickfont={"size": 9})  # fmt: skip
    _figure(figure, title, max(columns * cell + 220, 460), max(rows * cell + 170, 320))
    return figure.update_layout(plot_bgcolor="#e4e7eb")


def curves(panels: Sequence[Panel], title: str) -> Any:
    """:func:`ablate.plot.faithfulness`."""
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = make_subplots(rows=down, cols=across, horizontal_spacing=0.3 / across / 1.3)
    # 0 has no logarithm: places are log10(1 + size), named by the sizes.
    marks = size_ticks(panels)
    for i, panel in enumerate(panels):
        row, column = i // across + 1, i % across + 1
        for j, curve in enumerate(panel.curves):
            spread = [f"<br>standard deviation over prompts {std:.4g}" for std in curve.stds]
            spread = spread or [""] * len(curve.sizes)
            texts = [f"{size:,} edges<br>{panel.label} {value:.5g}{more}"
                     for size, value, more in zip(curve.sizes, curve.values, spread)]  # fmt: skip
            figure.add_trace(
                go.Scatter(x=np.log10(1 + np.array(curve.sizes)), y=curve.values, text=texts,
                           name=curve.label, legendgroup=str(j), showlegend=i == 0 and bool(curve.label),
                           mode="lines+markers", line={"color": palette.CURVES[j % len(palette.CURVES)]},
                           hovertemplate="%{text}<extra>%{fullData.name}</extra>" if curve.label
                           else "%{text}<extra></extra>"),
                row=row, col=column,
            )  # fmt: skip
        figure.update_xaxes(title="edges in the circuit", tickvals=np.log10(1 + np.array(marks)),
                            ticktext=[f"{mark:,}" for mark in marks], row=row, col=column)  # fmt: skip
        figure.update_yaxes(title=panel.label, row=row, col=column)
    figure.update_xaxes(gridcolor=palette.LINE, zeroline=False, linecolor=palette.LINE)
    figure.update_yaxes(gridcolor=palette.LINE, zeroline=False, linecolor=palette.LINE)
    _figure(figure, title, 400 * across + 60, 320 * down + 60)
    return figure.update_layout(legend={"y": 1.02, "yanchor": "bottom"}, margin={"t": 70})


def attention(maps: Maps, title: str) -> Any:
    """:func:`ablate.plot.attention`."""
    down, across = grid(len(maps.heads))
    figure = make_subplots(rows=down, cols=across, subplot_titles=[f"head {head}" for head in maps.heads],
                           horizontal_spacing=0.05 / across, vertical_spacing=0.12 / down)  # fmt: skip
    first = len(maps.tokens) - maps.values.shape[1]
    texts = [[f"{query} → {key}" for key in maps.tokens] for query in maps.tokens[first:]]
    places = list(range(len(maps.tokens)))
    for i, head in enumerate(maps.heads):
        values = maps.values[i]
        figure.add_trace(
            go.Heatmap(z=np.where(np.isnan(values), None, values.astype(object)), customdata=texts, zmin=0,
                       zmax=1, colorscale=_PATTERN, showscale=i == 0, hoverongaps=False,
                       colorbar={"thickness": 12, "outlinewidth": 0, "len": 0.5},
                       hovertemplate=f"head {head}: %{{customdata}}<br>%{{z:.3f}}<extra></extra>"),
            row=i // across + 1, col=i % across + 1,
        )  # fmt: skip
    figure.update_xaxes(tickvals=places, ticktext=maps.tokens, showticklabels=False, showgrid=False)
    figure.update_yaxes(tickvals=places, ticktext=maps.tokens[first:], showticklabels=False, showgrid=False,
                        autorange="reversed")  # fmt: skip
    for i in range(len(maps.heads)):
        row, column = i // across + 1, i % across + 1
        if i + across >= len(maps.heads):
            figure.update_xaxes(showticklabels=True, tickangle=-90, tickfont={"size": 8}, row=row, col=column)
        if column == 1:
            figure.update_yaxes(showticklabels=True, tickfont={"size": 8}, row=row, col=column)
    side = min(max(15 * len(maps.tokens), 150), 380)
    return _figure(figure, title, across * (side + 14) + 160, down * (side + 30) + 130)
