# SPDX-License-Identifier: Apache-2.0
"""Pictures by matplotlib, without pyplot: a figure is shown once, where it is the cell's value."""

from __future__ import annotations

import io
from typing import Any, Sequence

from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from . import _palette as palette
from ._attention import Maps, grid
from ._curves import Panel, size_ticks
from ._heat import Heat, ticks
from ._layout import BOX_HEIGHT, BOX_WIDTH, Drawing

_DIVERGING = LinearSegmentedColormap.from_list(
    "ablate", [(place, palette.hexed(colour)) for place, colour in palette.DIVERGING], N=25
).with_extremes(bad="#e4e7eb")
_PATTERN = LinearSegmentedColormap.from_list("ablate_pattern", ["#f7fafc", "#78acdc", "#08306b"]).with_extremes(
    bad="white"
)


class Picture(Figure):
    """A figure that notebooks show without pyplot, in a palette: notebooks keep what they show."""

    def _repr_png_(self) -> bytes:
        drawn, small = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=100)
        colours = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        colours.save(small, format="png", optimize=True)
        return small.getvalue()


def _plain(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, colors=palette.FAINT, labelsize=8)


def circuit(drawing: Drawing, title: str) -> Picture:
    """:func:`ablate.plot.circuit`."""
    left = min(box.x for box in drawing.boxes) - 0.6
    right = max(box.x for box in drawing.boxes) + 0.6
    curves = [drawing.curve(line) for line in drawing.lines]
    left = min(left, min(float(curve[:, 0].min()) for curve in curves) - 0.1)
    right = max(right, max(float(curve[:, 0].max()) for curve in curves) + 0.1)
    top = max(y for y, _ in drawing.rows)
    scale = min(1.0, 18 / (right - left))
    height = min(0.72, max(0.45, 11 / (top + 1))) * scale
    size = (max((right - left) * 0.78 * scale + 1.2, 4.5), max(height * (top + 1) + 1.0, 2.5))
    figure = Picture(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    _plain(axes)
    font = 7.5 * scale
    for begin, end, token in drawing.columns:
        axes.axvspan(begin - 0.05, end + 0.05, color="#f5f7fa", zorder=0)
        axes.text((begin + end) / 2, -0.75, token, ha="center", va="top", fontsize=font + 1, color=palette.INK)
    for i, j in drawing.moves:
        arc = drawing.arc(i, j)
        axes.plot(arc[:, 0], arc[:, 1], ls=":", lw=1.1, color=palette.FAINT, zorder=1)
    order = sorted(range(len(curves)), key=lambda i: abs(drawing.lines[i].score))
    limit = drawing.limit
    axes.add_collection(
        LineCollection(
            [curves[i] for i in order],
            colors=[palette.of_score(drawing.lines[i].score, limit) for i in order],
            linewidths=[palette.width(drawing.lines[i].score, limit) * scale for i in order],
            alpha=0.85,
            capstyle="round",
            zorder=2,
        )
    )
    for box in drawing.boxes:
        axes.add_patch(
            FancyBboxPatch(
                (box.x - BOX_WIDTH / 2, box.y - BOX_HEIGHT / 2), BOX_WIDTH, BOX_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.1", zorder=3, linewidth=0.9,
                facecolor=palette.FILL[box.kind], edgecolor=palette.EDGE[box.kind],
            )  # fmt: skip
        )
        raised = 0.06 if box.ports else 0.0
        axes.text(box.x, box.y + raised, box.label.replace("Resid ", ""), ha="center", va="center",
                  fontsize=font, color=palette.INK, zorder=4)  # fmt: skip
        for port in box.ports:
            x = box.x + {"Q": -0.27, "K": 0.0, "V": 0.27}[port] * BOX_WIDTH
            axes.text(x, box.y - 0.15, port.lower(), ha="center", va="center",
                      fontsize=font * 0.72, color=palette.FAINT, zorder=4)  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(-1.15 if drawing.columns else -0.6, top + 0.6)
    axes.set_xticks([])
    axes.set_yticks([y for y, _ in drawing.rows], [label for _, label in drawing.rows])
    axes.set_title(title, fontsize=10, color=palette.INK, loc="left")
    handles = [
        Line2D([], [], color=palette.of_score(sign * limit, limit), lw=3, label=f"{label}, up to {extreme:.3g}")
        for sign, label, extreme in _extremes(drawing)
    ]
    figure.legend(handles=handles, loc="outside lower right", frameon=False, fontsize=8, ncols=2,
                  labelcolor=palette.FAINT)  # fmt: skip
    return figure


def _extremes(drawing: Drawing) -> list[tuple[int, str, float]]:
    """Of the signs that there are."""
    found = [line.score for line in drawing.lines]
    out = [(1, "score above 0", max(found))] if max(found) > 0 else []
    return out + ([(-1, "below 0", min(found))] if min(found) < 0 else [])


def heat(heat: Heat, title: str) -> Picture:
    """:func:`ablate.plot.scores`."""
    rows, columns = heat.values.shape
    cell = min(0.26, 9 / max(rows, columns))
    figure = Picture(figsize=(max(columns * cell + 2.2, 4.5), max(rows * cell + 1.4, 2.8)), layout="constrained")
    axes = figure.add_subplot()
    _plain(axes)
    image = axes.imshow(heat.shades, cmap=_DIVERGING, vmin=-1, vmax=1, origin="lower",
                        aspect="auto", interpolation="nearest")  # fmt: skip
    x, y = (ticks(names, 0.13 / cell) for names in (heat.sources, heat.destinations))
    axes.set_xticks([place for place, _ in x], [text for _, text in x], rotation=90)
    axes.set_yticks([place for place, _ in y], [text for _, text in y])
    axes.tick_params(labelsize=7)
    axes.set_xlabel("source", fontsize=9, color=palette.INK)
    axes.set_ylabel("destination", fontsize=9, color=palette.INK)
    axes.set_title(title, fontsize=10, color=palette.INK, loc="left")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, aspect=35)
    bar.set_ticks([shade for shade, _ in heat.legend()], labels=[text for _, text in heat.legend()])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=palette.FAINT, length=0)
    return figure


def curves(panels: Sequence[Panel], title: str) -> Picture:
    """:func:`ablate.plot.faithfulness`."""
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Picture(figsize=(4.4 * across + 0.4, 3.1 * down + 0.3), layout="constrained")
    marks = size_ticks(panels)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, place + 1)
        for i, curve in enumerate(panel.curves):
            axes.plot(curve.sizes, curve.values, marker="o", ms=3.5, lw=1.6, label=curve.label,
                      color=palette.CURVES[i % len(palette.CURVES)])  # fmt: skip
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
        axes.minorticks_off()
        axes.set_xlabel("edges in the circuit", fontsize=9, color=palette.INK)
        axes.set_ylabel(panel.label, fontsize=9, color=palette.INK)
        axes.tick_params(labelsize=8, colors=palette.FAINT)
        axes.grid(color=palette.LINE, lw=0.5)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(palette.LINE)
        if place == 0 and any(curve.label for curve in panel.curves):
            axes.legend(frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10, color=palette.INK)
    return figure


def attention(maps: Maps, title: str) -> Picture:
    """:func:`ablate.plot.attention`."""
    down, across = grid(len(maps.heads))
    length = len(maps.tokens)
    side = min(max(0.16 * length, 1.6), 4.0)
    figure = Picture(figsize=(across * (side + 0.15) + 1.6, down * (side + 0.3) + 0.9), layout="constrained")
    names = list(enumerate(maps.tokens)) if length <= 40 else list(enumerate(maps.tokens))[:: length // 30 + 1]
    places, texts = [place for place, _ in names], [text for _, text in names]
    every = []
    for i, head in enumerate(maps.heads):
        axes = figure.add_subplot(down, across, i + 1)
        every.append(axes)
        _plain(axes)
        image = axes.imshow(maps.values[i], cmap=_PATTERN, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"head {head}", fontsize=8, color=palette.INK, pad=3)
        last = i + across >= len(maps.heads)
        axes.set_xticks(places, texts if last else [""] * len(places), rotation=90)
        axes.set_yticks(places if maps.values.shape[1] == length else [],
                        (texts if i % across == 0 else [""] * len(places))
                        if maps.values.shape[1] == length else [])  # fmt: skip
        axes.tick_params(labelsize=6.5)
    bar = figure.colorbar(image, ax=every, shrink=0.5, pad=0.015, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=palette.FAINT, length=0)
    figure.supylabel("from", fontsize=8, color=palette.FAINT)
    figure.supxlabel("to", fontsize=8, color=palette.FAINT)
    if title:
        figure.suptitle(title, fontsize=10, color=palette.INK)
    return figure


