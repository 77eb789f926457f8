# SPDX-License-Identifier: Apache-2.0
"""Metrics over circuit size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

LABELS = {
    "kl_div": "KL divergence from the model",
    "answer_diff": "answer logit difference",
    "answer_diff_percent": "logit difference, % of the model's",
    "answer_value": "answer logit",
    "correct_answer_percent": "answer is the top token, %",
    "correct_answer_greater_than_incorrect_percent": "answer above wrong answer, %",
    "mse": "mean squared error of the logits",
}


@dataclass
class Curve:
    """One evaluation's values of one metric."""

    label: str
    sizes: list[int]
    values: list[float]
    stds: list[float]
    """Over prompts; empty where they were not measured."""


@dataclass
class Panel:
    """A metric."""

    metric: str
    label: str
    curves: list[Curve]


def curves_of(evaluations: Any, metrics: str | Sequence[str] | None) -> list[Panel]:
    """A panel a metric."""
    if not isinstance(evaluations, Mapping):
        evaluations = {"": evaluations}
    if not evaluations or any(len(rows) == 0 for rows in evaluations.values()):
        raise ValueError("there is no circuit to draw: the evaluation is empty")
    known = [key for key in next(iter(evaluations.values()))[0] if key != "edge_count"]
    if metrics is None:
        metrics = known
    panels = []
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        curves = []
        for label, rows in evaluations.items():
            if metric not in rows[0]:
                raise ValueError(f"{metric!r} was not measured; there is {', '.join(known)}")
            stds = [row[metric] for row in getattr(rows, "stds", ()) if metric in row]
            curves.append(
                Curve(label, [int(row["edge_count"]) for row in rows], [row[metric] for row in rows], stds)
            )
        panels.append(Panel(metric, LABELS.get(metric, metric.replace("_", " ")), curves))
    return panels


def size_ticks(panels: Sequence[Panel]) -> list[int]:
    """0 and powers of ten up to the largest circuit."""
    largest = max(size for panel in panels for curve in panel.curves for size in curve.sizes)
    return [0] + [10**power for power in range(len(str(max(largest, 1))))]
