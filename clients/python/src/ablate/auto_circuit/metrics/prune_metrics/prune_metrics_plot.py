# SPDX-License-Identifier: Apache-2.0
"""Pictures of a metric over circuit sizes."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ..._plotly import Legend, plotly
from ...prune_algos.prune_algos import PRUNE_ALGO_DICT
from ...types import AblationType, TaskMeasurements


def edge_patching_plot(
    data: List[Dict[str, Any]],
    task_measurements: TaskMeasurements,
    ablation_type: AblationType,
    metric_name: str,
    log_x: bool,
    log_y: bool,
    y_axes_match: bool,
    y_max: Optional[float],
    y_min: Optional[float],
) -> Any:
    """A plotly figure: a column a task, a line an algorithm. ``data``: dicts with ``Task``,
    ``Algorithm``, ``X`` (edges) and ``Y``; of ``task_measurements`` the curves of one point are drawn,
    as crosses with their names. Raises ModuleNotFoundError without plotly.
    """
    _, subplots = plotly("curves")
    titles = sorted({row["Task"] for row in data}) or sorted(task_measurements)
    algos = sorted({row["Algorithm"] for row in data})
    figure = subplots.make_subplots(
        rows=1, cols=max(len(titles), len(task_measurements), 1), subplot_titles=titles, shared_yaxes=y_axes_match
    )
    legend = Legend()
    for column, title in enumerate(titles, start=1):
        for algo in algos:
            points = sorted((row["X"], row["Y"]) for row in data if (row["Task"], row["Algorithm"]) == (title, algo))
            if points:
                figure.add_scatter(
                    x=[x for x, _ in points], y=[y for _, y in points], mode="lines+markers", row=1, col=column,
                    **legend.entry(algo),
                )  # fmt: skip
    for column, (_, by_algo) in enumerate(sorted(task_measurements.items()), start=1):
        for key, curve in by_algo.items():
            if len(curve) == 1:
                name = PRUNE_ALGO_DICT[key].short_name if key in PRUNE_ALGO_DICT else key
                figure.add_scatter(
                    x=[curve[0][0]], y=[curve[0][1]], text=name, mode="markers+text", **legend.entry(name),
                    textposition="middle right", marker_size=10, marker_symbol="x", row=1, col=column,
                )  # fmt: skip
    figure.update_xaxes(title="Circuit Edges", type="log" if log_x else "linear")
    figure.update_yaxes(type="log" if log_y else "linear")
    if y_max is not None and not log_y:
        figure.update_yaxes(range=[y_min, y_max * 0.8])
    figure.update_layout(
        yaxis_title=f"{metric_name} ({ablation_type})", width=max(365 * len(titles) - 10, 500), height=500
    )
    return figure
