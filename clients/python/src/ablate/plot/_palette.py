# SPDX-License-Identifier: Apache-2.0
"""Colours, one set for both backends; blue and orange are told apart by colour-blind readers."""

from __future__ import annotations

INK, FAINT, LINE = "#1f2933", "#7b8794", "#cbd2d9"
FILL = {"head": "#e3effb", "kv": "#e6f4ea", "mlp": "#fdf0db", "residual": "#edf0f2"}
EDGE = {"head": "#5b8db8", "kv": "#5aa06f", "mlp": "#c9974a", "residual": "#7b8794"}
POSITIVE = ((166, 203, 232), (8, 81, 156))
NEGATIVE = ((250, 200, 150), (179, 72, 3))
DIVERGING = [(0.0, (179, 72, 3)), (0.25, (241, 163, 91)), (0.5, (250, 250, 250)),
             (0.75, (120, 172, 220)), (1.0, (8, 81, 156))]  # fmt: skip
CURVES = ["#08519c", "#b34803", "#3b8a5a", "#7a4fa3", "#6b7280", "#c2185b", "#00838f", "#8d6e00"]


def hexed(colour: tuple[int, int, int]) -> str:
    """``#rrggbb``"""
    return "#%02x%02x%02x" % colour


def of_score(score: float, limit: float) -> str:
    """From pale to deep, by |score|."""
    pale, deep = POSITIVE if score >= 0 else NEGATIVE
    share = min(abs(score) / limit, 1.0) ** 0.6 if limit else 1.0
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(pale, deep))
    return hexed((red, green, blue))


def width(score: float, limit: float) -> float:
    """Points."""
    return 0.7 + 3.6 * (min(abs(score) / limit, 1.0) if limit else 0.0)
